//! A choice's budget: plain numbers, split exactly.

/// What one choice may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Tokens generated over all branches of the choice, at most.
    pub tokens: u32,
    /// Part of `tokens`, and of `branch_tokens`, kept for completing an answer
    /// when the rest is spent; less than either.
    pub reserve: u32,
    /// Branches made, at most.
    pub branches: u32,
    /// Tokens generated on one branch, at most: what the context leaves.
    pub branch_tokens: u32,
    /// Tokens of a whole sample, as a rule: what several samples need so that none is
    /// cut for the sake of the others.
    pub sample: u32,
    /// Tokens of the verifier, at most; `None` without a bound.
    pub verifier_tokens: Option<u32>,
}

/// Splits `total` into `parts` whole numbers that differ by at most one, the
/// larger ones first; they add up to `total` exactly.
#[must_use]
pub fn split(total: u32, parts: u32) -> Vec<u32> {
    let parts = parts.max(1);
    (0..parts).map(|i| total / parts + u32::from(i < total % parts)).collect()
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn parts_add_up_and_differ_by_at_most_one() {
        for total in 0..70 {
            for parts in 1..9 {
                let split = split(total, parts);
                assert_eq!(split.iter().sum::<u32>(), total);
                assert!(split.iter().max().zip(split.iter().min()).is_some_and(|(a, b)| a - b <= 1));
            }
        }
    }
}
