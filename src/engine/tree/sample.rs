//! Drawing a token from logits.
//!
//! The draw is the inverse of the cumulative distribution at one uniform number
//! that depends only on the branch and the position, so equal logits and keys
//! give equal tokens whatever else runs.

use super::kernel::Kernels;
use crate::engine::Sampling;
use crate::token::TokenId;

/// A drawn token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawn {
    /// Its id.
    pub id: TokenId,
    /// Its log-probability under the model itself: no temperature, no top-p.
    pub logprob: f32,
    /// The likeliest ids with theirs, best first.
    pub top: Vec<(TokenId, f32)>,
}

/// Draws from `logits` (one per id) with `uniform` in [0, 1); `top` alternatives
/// are reported. `scratch` is reused between calls. `None` when no logit is
/// finite: the model has failed.
#[must_use]
pub(super) fn draw(
    kernels: Kernels,
    logits: &[f32],
    (sampling, uniform): (Sampling, f64),
    top: usize,
    scratch: &mut Vec<f32>,
) -> Option<Drawn> {
    let (best, highest) = argmax(logits)?;
    let id = if sampling.temperature <= 0.0 {
        best
    } else {
        let inverse = 1.0 / sampling.temperature;
        scratch.clear();
        scratch.extend(logits.iter().map(|l| (l - highest) * inverse));
        kernels.exponentials(scratch, 0.0);
        pick(scratch, sampling.top_p, uniform, best)
    };
    scratch.clear();
    scratch.extend_from_slice(logits);
    kernels.exponentials(scratch, highest);
    let total: f64 = scratch.iter().filter(|p| p.is_finite()).map(|p| f64::from(*p)).sum();
    let normaliser = highest + total.ln() as f32;
    let top = likeliest(logits, top).into_iter().map(|id| (id, logits[id as usize] - normaliser)).collect();
    Some(Drawn { id, logprob: logits[id as usize] - normaliser, top })
}

/// The lowest id with the highest finite logit.
fn argmax(logits: &[f32]) -> Option<(TokenId, f32)> {
    let mut best: Option<(TokenId, f32)> = None;
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_finite() && best.is_none_or(|(_, highest)| logit > highest) {
            best = Some((id, logit));
        }
    }
    best
}

/// Inverts the cumulative distribution of unnormalised `weights`, cut to the
/// smallest set of likeliest tokens that holds `top_p` of the mass (Holtzman et
/// al., arXiv 1904.09751).
fn pick(weights: &[f32], top_p: f32, uniform: f64, fallback: TokenId) -> TokenId {
    // The kernel's exponential never gets below exp(-87); what is that small
    // stands for zero.
    let mass = |w: &f32| if w.is_finite() && *w > 2e-38 { f64::from(*w) } else { 0.0 };
    let total: f64 = weights.iter().map(mass).sum();
    if top_p >= 1.0 {
        return invert((0..).zip(weights.iter().map(mass)), uniform * total).unwrap_or(fallback);
    }
    // Tokens below this weight hold less than 1 - top_p together, so the
    // nucleus lies among the others, and only those need sorting.
    let floor = (1.0 - f64::from(top_p)) * total / weights.len() as f64;
    let mut nucleus: Vec<(TokenId, f64)> =
        (0..).zip(weights.iter().map(mass)).filter(|(_, w)| *w >= floor).collect();
    nucleus.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let goal = f64::from(top_p) * total;
    let mut held = 0.0;
    let mut size = 0;
    while size < nucleus.len() && (size == 0 || held < goal) {
        held += nucleus[size].1;
        size += 1;
    }
    invert(nucleus[..size].iter().copied(), uniform * held).unwrap_or(fallback)
}

fn invert(weights: impl Iterator<Item = (TokenId, f64)>, goal: f64) -> Option<TokenId> {
    let mut sum = 0.0;
    let mut last = None;
    for (id, weight) in weights {
        if weight > 0.0 {
            sum += weight;
            last = Some(id);
            if sum > goal {
                break;
            }
        }
    }
    last
}

/// The `n` ids with the highest logits, best first, lower ids first among equals.
fn likeliest(logits: &[f32], n: usize) -> Vec<TokenId> {
    let mut best: Vec<TokenId> = Vec::with_capacity(n + 1);
    if n == 0 {
        return best;
    }
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() || (best.len() == n && best.last().is_some_and(|l| logits[*l as usize] >= logit)) {
            continue;
        }
        let at = best.partition_point(|b| logits[*b as usize] >= logit);
        best.insert(at, id);
        best.truncate(n);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rng::uniform;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_p: 1.0 };

    fn sample(logits: &[f32], sampling: Sampling, uniform: f64) -> Drawn {
        draw(Kernels::detect(), logits, (sampling, uniform), 2, &mut Vec::new()).expect("finite logits")
    }

    #[test]
    fn frequencies_follow_the_softmax_at_each_temperature() {
        let logits = [1.0f32, 0.0, -1.0, 2.0];
        for temperature in [0.5f32, 1.0, 2.0] {
            let mut counts = [0u32; 4];
            for position in 0..40_000 {
                let sampling = Sampling { temperature, ..PLAIN };
                counts[sample(&logits, sampling, uniform(9, position)).id as usize] += 1;
            }
            let total: f32 = logits.iter().map(|l| (l / temperature).exp()).sum();
            for (count, logit) in counts.iter().zip(logits) {
                let expected = (logit / temperature).exp() / total;
                assert!((*count as f32 / 40_000.0 - expected).abs() < 0.01, "T {temperature}: {counts:?}");
            }
        }
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_holds_top_p() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [0.25f32.ln(), 0.5f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
        for (top_p, allowed) in [(0.4, vec![1]), (0.6, vec![0, 1]), (0.8, vec![0, 1, 2])] {
            let mut seen: Vec<TokenId> =
                (0..4_000).map(|p| sample(&logits, Sampling { top_p, ..PLAIN }, uniform(1, p)).id).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, allowed, "top_p {top_p}");
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_model_whatever_the_temperature() {
        let logits = [0.0f32, 1.0, 2.0];
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        for temperature in [0.0, 0.3, 2.0] {
            let drawn = sample(&logits, Sampling { temperature, top_p: 0.9 }, 0.2);
            assert!((drawn.logprob - (logits[drawn.id as usize] - total.ln())).abs() < 1e-6);
            assert_eq!(drawn.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_broken_logits_are_refused() {
        assert_eq!(sample(&[1.0, 3.0, 3.0], Sampling { temperature: 0.0, top_p: 1.0 }, 0.9).id, 1);
        assert_eq!(sample(&[f32::NAN, 0.0, f32::NEG_INFINITY], PLAIN, 0.99).id, 1);
        assert_eq!(draw(Kernels::detect(), &[f32::NAN; 3], (PLAIN, 0.5), 0, &mut Vec::new()), None);
    }
}
