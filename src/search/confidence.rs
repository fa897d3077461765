//! The confidence of a trace, by DeepConf's definitions (Fu et al., arXiv
//! 2508.15260): a group's is the mean of its tokens', a token's is minus the
//! mean log-probability of the likeliest 20 there. Higher is surer.

use crate::plan::{Measure, Over};

/// The confidence of a trace of which each token's is given; `None` without any.
/// A trace that is shorter than the window is one group.
#[must_use]
pub(super) fn of_trace(tokens: &[f32], measure: Measure) -> Option<f64> {
    let window = (measure.window.max(1) as usize).min(tokens.len());
    let mean = |part: &[f32]| part.iter().map(|c| f64::from(*c)).sum::<f64>() / part.len() as f64;
    if tokens.is_empty() {
        return None;
    }
    Some(match measure.over {
        Over::Mean => mean(tokens),
        Over::Tail => mean(&tokens[tokens.len() - window..]),
        Over::Lowest => groups(tokens, window).fold(f64::INFINITY, f64::min),
        Over::Bottom => {
            let mut groups: Vec<f64> = groups(tokens, window).collect();
            groups.sort_by(f64::total_cmp);
            let lowest = (groups.len() / 10).max(1);
            groups[..lowest].iter().sum::<f64>() / lowest as f64
        }
    })
}

/// The means of all groups of `window` tokens, by a sum that slides.
fn groups(tokens: &[f32], window: usize) -> impl Iterator<Item = f64> {
    let first: f64 = tokens[..window].iter().map(|c| f64::from(*c)).sum();
    let slid = tokens[window..].iter().zip(tokens).scan(first, |sum, (new, old)| {
        *sum += f64::from(*new) - f64::from(*old);
        Some(*sum)
    });
    std::iter::once(first).chain(slid).map(move |sum| sum / window as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_is_what_the_paper_defines() {
        let tokens: Vec<f32> = vec![4.0, 2.0, 6.0, 8.0, 1.0, 3.0];
        let of = |over, window| of_trace(&tokens, Measure { over, window }).expect("a confidence");
        assert_eq!(of(Over::Mean, 2), 4.0);
        assert_eq!(of(Over::Tail, 2), 2.0);
        // Groups of two: 3, 4, 7, 4.5, 2.
        assert_eq!((of(Over::Lowest, 2), of(Over::Bottom, 2)), (2.0, 2.0));
        assert_eq!(of(Over::Lowest, 4), 4.25);
        // A window that is too long makes one group.
        assert_eq!(
            (of(Over::Lowest, 2_048), of(Over::Tail, 2_048), of(Over::Bottom, 2_048)),
            (4.0, 4.0, 4.0)
        );
        assert_eq!(of_trace(&[], Measure { over: Over::Mean, window: 2 }), None);
        // Nineteen groups of one: the lowest tenth is one, as in the authors' code; of
        // twenty it is two.
        let ramp: Vec<f32> = (0..19u8).rev().map(f32::from).collect();
        assert_eq!(of_trace(&ramp, Measure { over: Over::Bottom, window: 1 }), Some(0.0));
        let ramp: Vec<f32> = (0..20u8).rev().map(f32::from).collect();
        assert_eq!(of_trace(&ramp, Measure { over: Over::Bottom, window: 1 }), Some(0.5));
    }
}
