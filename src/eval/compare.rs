//! Comparisons of two arms, paired by problem and seed.
//!
//! What both arms answered under the same seed is compared, so that a hard
//! problem weighs on both alike. Tests of significance are deliberately absent:
//! the interval of the difference says more, and McNemar's counts say what it is
//! made of.

use super::Arm;
use super::record::Record;
use super::stats;
use super::suite::ALL;
use serde::Serialize;
use std::collections::HashMap;

/// Seeds below which a comparison says that it has few.
pub(super) const SEEDS: usize = 4;

/// Two labels: what is compared, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The arm that is the measure.
    pub from: String,
    /// The arm that is measured.
    pub to: String,
}

/// Reads `A,B`, the value of `--compare`.
///
/// # Errors
/// In a sentence that says what is wrong.
pub(super) fn parse(text: &str) -> Result<Pair, String> {
    match text.split(',').collect::<Vec<_>>()[..] {
        [from, to] if from != to => Ok(Pair { from: from.to_owned(), to: to.to_owned() }),
        _ => Err("give the labels of two different arms with a comma between them".to_owned()),
    }
}

/// The pairs to compare: those given, else each arm with the one before.
///
/// # Errors
/// When a label is no arm's.
pub(super) fn pairs(given: &[Pair], arms: &[Arm]) -> Result<Vec<Pair>, String> {
    let label = |arm: &Arm| arm.label.clone();
    for name in given.iter().flat_map(|pair| [&pair.from, &pair.to]) {
        if !arms.iter().any(|arm| arm.label == *name) {
            let labels: Vec<String> = arms.iter().map(label).collect();
            return Err(format!("--compare: no arm is called '{name}', only {}", labels.join(", ")));
        }
    }
    if given.is_empty() {
        return Ok(arms.windows(2).map(|two| Pair { from: label(&two[0]), to: label(&two[1]) }).collect());
    }
    Ok(given.to_vec())
}

/// How one arm does beside another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The arm that is the measure.
    pub from: String,
    /// The arm that is measured.
    pub to: String,
    /// Seeds that both have.
    pub seeds: usize,
    /// One per family, in the suite's order, then `all`.
    pub rows: Vec<Difference>,
}

/// A family's part of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The family, or `all`.
    pub family: String,
    /// Problems that both arms answered.
    pub problems: usize,
    /// Problems and seeds that both answered.
    pub pairs: usize,
    /// By how much the second arm is better, in percentage points.
    pub points: f64,
    /// Lower end of the 95 % interval of `points`.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Pairs that only the first has right (McNemar 1947).
    pub only_from: usize,
    /// Pairs that only the second has right.
    pub only_to: usize,
    /// The second's generated tokens over the first's, over the pairs of which both
    /// requests were answered and both servers counted; none where the first has none.
    pub token_share: Option<f64>,
    /// The same of generated and verifier tokens together.
    pub all_token_share: Option<f64>,
    /// The same of the mean time of a request, over the pairs of which both were answered.
    pub time_share: Option<f64>,
}

/// What the pairs of one problem add up to.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    pairs: usize,
    only_from: usize,
    only_to: usize,
    tokens: [u64; 2],
    all_tokens: [u64; 2],
    seconds: [f64; 2],
}

impl Comparison {
    /// Compares the responses of two arms; the order of `from` is the suite's.
    #[must_use]
    pub fn of(pair: &Pair, from: &[Record], to: &[Record]) -> Self {
        let other: HashMap<(&str, u32), &Record> = to.iter().map(|r| ((r.id.as_str(), r.seed), r)).collect();
        let mut problems: Vec<(&str, &str, Tally)> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut seeds: Vec<u32> = Vec::new();
        for a in from {
            let Some(b) = other.get(&(a.id.as_str(), a.seed)) else { continue };
            let place = *places.entry(&a.id).or_insert_with(|| {
                problems.push((&a.family, &a.id, Tally::default()));
                problems.len() - 1
            });
            problems[place].2.add(a, b);
            if !seeds.contains(&a.seed) {
                seeds.push(a.seed);
            }
        }
        let mut families: Vec<&str> = Vec::new();
        for (family, _, _) in &problems {
            if !families.contains(family) {
                families.push(family);
            }
        }
        let tallies = |wanted: &str| -> Vec<Tally> {
            let of = problems.iter().filter(|(family, _, _)| wanted == ALL || *family == wanted);
            of.map(|(_, _, tally)| *tally).collect()
        };
        let rows = families.into_iter().chain([ALL]).map(|f| Difference::of(f, &tallies(f))).collect();
        Self { from: pair.from.clone(), to: pair.to.clone(), seeds: seeds.len(), rows }
    }
}

impl Tally {
    fn add(&mut self, a: &Record, b: &Record) {
        self.pairs += 1;
        self.only_from += usize::from(a.right && !b.right);
        self.only_to += usize::from(b.right && !a.right);
        // A failure is no answer for nothing: on one side of a ratio, it would make
        // the arm that fails more look the cheaper one.
        if [a, b].iter().any(|record| record.error.is_some()) {
            return;
        }
        let counted = a.tokens.zip(b.tokens).map(|(a, b)| [a, b]);
        for (i, record) in [a, b].into_iter().enumerate() {
            self.seconds[i] += record.seconds;
            if let Some(tokens) = counted {
                self.tokens[i] += tokens[i];
                self.all_tokens[i] += tokens[i] + record.verifier_tokens;
            }
        }
    }

    fn gain(&self) -> f64 {
        self.only_to as f64 - self.only_from as f64
    }
}

impl Difference {
    fn of(family: &str, problems: &[Tally]) -> Self {
        let count = |part: fn(&Tally) -> usize| problems.iter().map(part).sum::<usize>();
        let share = |part: fn(&Tally) -> [f64; 2]| {
            let [a, b] = problems.iter().map(part).fold([0.0, 0.0], |sum, p| [sum[0] + p[0], sum[1] + p[1]]);
            (a > 0.0).then_some(b / a)
        };
        let gains: Vec<(f64, f64)> = problems.iter().map(|t| (t.gain(), t.pairs as f64)).collect();
        let (low, high) = stats::bootstrap(&gains);
        let (pairs, gain) = (count(|t| t.pairs), gains.iter().map(|(gain, _)| gain).sum::<f64>());
        Self {
            family: family.to_owned(),
            problems: problems.len(),
            pairs,
            points: if pairs == 0 { 0.0 } else { 100.0 * gain / pairs as f64 },
            low: 100.0 * low,
            high: 100.0 * high,
            only_from: count(|t| t.only_from),
            only_to: count(|t| t.only_to),
            token_share: share(|t| t.tokens.map(|n| n as f64)),
            all_token_share: share(|t| t.all_tokens.map(|n| n as f64)),
            time_share: share(|t| t.seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u32, seed: u32, right: bool, tokens: u64) -> Record {
        Record {
            id: format!("p{id}"),
            family: ["even", "odd"][id as usize % 2].to_owned(),
            seed,
            right,
            tokens: Some(tokens),
            verifier_tokens: tokens * u64::from(seed),
            seconds: 0.5,
            ..Record::default()
        }
    }

    fn pair() -> Pair {
        parse("a,b").unwrap()
    }

    #[test]
    fn responses_are_paired_by_problem_and_seed_whatever_their_order() {
        let a =
            [record(0, 1, true, 10), record(1, 1, false, 10), record(0, 2, false, 10), record(9, 1, true, 1)];
        let b =
            [record(0, 2, false, 30), record(1, 1, true, 20), record(7, 1, true, 9), record(0, 1, true, 20)];
        let comparison = Comparison::of(&pair(), &a, &b);
        assert_eq!(comparison.seeds, 2);
        let [even, odd, all] = &comparison.rows[..] else { panic!("{comparison:?}") };
        assert_eq!((even.family.as_str(), even.problems, even.pairs, even.points), ("even", 1, 2, 0.0));
        assert_eq!((odd.points, odd.only_from, odd.only_to), (100.0, 0, 1));
        assert_eq!((all.problems, all.pairs, all.only_from, all.only_to), (2, 3, 0, 1));
        assert!((all.points - 100.0 / 3.0).abs() < 1e-9);
        assert_eq!(all.token_share, Some(70.0 / 30.0));
        // Seed 1: 20 + 20 against 40 + 40; seed 2: 30 against 90.
        assert_eq!(all.all_token_share, Some(170.0 / 70.0));
        assert_eq!(all.time_share, Some(1.0));
    }

    #[test]
    fn costs_are_compared_only_where_both_arms_have_one() {
        let failed = |id| Record {
            tokens: None,
            seconds: 60.0,
            error: Some("500: no".to_owned()),
            ..record(id, 1, false, 0)
        };
        let uncounted = |id| Record { tokens: None, seconds: 1.5, ..record(id, 1, true, 0) };
        let a = [record(0, 1, true, 10), record(2, 1, true, 10), failed(4), record(6, 1, true, 10)];
        let b = [record(0, 1, true, 30), failed(2), record(4, 1, true, 30), uncounted(6)];
        let all = Comparison::of(&pair(), &a, &b).rows.pop().unwrap();
        assert_eq!((all.token_share, all.all_token_share), (Some(3.0), Some(3.0)));
        assert_eq!(all.time_share, Some(2.0), "1 second against 2");
        assert_eq!((all.pairs, all.only_from, all.only_to), (4, 1, 1), "a failure is a wrong answer");
        let none = Comparison::of(&pair(), &[failed(0)], &[record(0, 1, true, 30)]).rows.pop().unwrap();
        assert_eq!((none.pairs, none.token_share, none.time_share), (1, None, None));
    }

    #[test]
    fn the_interval_of_a_difference_is_the_binomials() {
        // 200 problems, 100 of which only the second arm has right: Binomial(200, 1/2) / 200.
        let a: Vec<Record> = (0..200).map(|i| record(2 * i, 1, false, 1)).collect();
        let b: Vec<Record> = (0..200).map(|i| record(2 * i, 1, i % 2 == 0, 1)).collect();
        let all = Comparison::of(&pair(), &a, &b).rows.pop().unwrap();
        let rounded = |row: &Difference| [row.points, row.low, row.high].map(|n| (10.0 * n).round() / 10.0);
        assert_eq!(rounded(&all), [50.0, 43.0, 57.0]);
        let back = Comparison::of(&pair(), &b, &a).rows.pop().unwrap();
        assert_eq!(rounded(&back), [-50.0, -57.0, -43.0]);
        assert_eq!(Comparison::of(&pair(), &a, &a).rows[1].high, 0.0);
    }

    #[test]
    fn nothing_in_common_is_said_and_no_fault() {
        let comparison = Comparison::of(&pair(), &[record(1, 1, true, 5)], &[record(1, 2, true, 5)]);
        let [all] = &comparison.rows[..] else { panic!("{comparison:?}") };
        assert_eq!((all.pairs, all.points, all.token_share), (0, 0.0, None));
    }

    #[test]
    fn pairs_are_those_given_or_neighbours() {
        let arms: Vec<Arm> =
            ["x={}", "y={}", "z={}"].map(|arm| super::super::arm::parse(arm).unwrap()).to_vec();
        let labels =
            |pairs: Vec<Pair>| pairs.iter().map(|p| format!("{}{}", p.from, p.to)).collect::<Vec<_>>();
        assert_eq!(labels(pairs(&[], &arms).unwrap()), ["xy", "yz"]);
        assert_eq!(labels(pairs(&[parse("z,x").unwrap()], &arms).unwrap()), ["zx"]);
        assert!(pairs(&[pair()], &arms).unwrap_err().contains("no arm is called 'a', only x, y, z"));
        for text in ["a", "a,b,c", "a,a", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
