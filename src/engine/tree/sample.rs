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

/// What a draw depends on beside the logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    /// The parameters.
    pub sampling: &'a Sampling,
    /// The branch's tokens.
    pub tokens: &'a [TokenId],
    /// How many of them are the prompt.
    pub prompt: usize,
    /// The uniform number, in [0, 1).
    pub uniform: f64,
    /// Alternatives to report.
    pub top: usize,
}

/// Memory of a draw, reused from one to the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    adjusted: Vec<f32>,
    weights: Vec<f32>,
    counts: Vec<u32>,
    ranked: Vec<f32>,
}

/// Draws from `logits`, one per id. `None` when no logit is finite: the model
/// has failed.
#[must_use]
pub(super) fn draw(kernels: Kernels, logits: &[f32], ask: Ask<'_>, scratch: &mut Scratch) -> Option<Drawn> {
    let sampling = ask.sampling;
    let Scratch { adjusted, weights, counts, ranked } = scratch;
    let own = argmax(logits)?;
    let id = {
        // Neutral parameters cost nothing: the logits are not even copied.
        let (logits, (best, highest)) = if sampling.bias.is_empty() && !sampling.penalises() {
            (logits, own)
        } else {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            adjust(adjusted, ask, counts);
            (adjusted.as_slice(), argmax(adjusted)?)
        };
        if sampling.temperature <= 0.0 {
            best
        } else {
            let inverse = 1.0 / sampling.temperature;
            weights.clear();
            weights.extend(logits.iter().map(|l| (finite(*l) - highest) * inverse));
            kernels.exponentials(weights, 0.0);
            cut(weights, logits, sampling, ranked);
            pick(weights, sampling.top_p, ask.uniform, best)
        }
    };
    let (_, highest) = own;
    weights.clear();
    weights.extend(logits.iter().map(|l| finite(*l)));
    kernels.exponentials(weights, highest);
    let total = sum_of(weights, f64::from);
    let normaliser = highest + total.ln() as f32;
    let top =
        likeliest(logits, ask.top).into_iter().map(|id| (id, logits[id as usize] - normaliser)).collect();
    Some(Drawn { id, logprob: logits[id as usize] - normaliser, top })
}

/// Adds the bias and takes the penalties. The branch's tokens are counted anew
/// each time: that costs far less than the position's forward pass, and there
/// is nothing that a fork or a truncation would have to keep right.
fn adjust(logits: &mut [f32], ask: Ask<'_>, counts: &mut Vec<u32>) {
    /// Marks a token that occurs at all; the other bits count the generated ones.
    const SEEN: u32 = 1 << 31;
    let sampling = ask.sampling;
    for (id, bias) in sampling.bias.iter() {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit += bias;
        }
    }
    if !sampling.penalises() {
        return;
    }
    // All zero between draws: what is set below is taken back below.
    counts.resize(logits.len(), 0);
    for (position, token) in ask.tokens.iter().enumerate() {
        if let Some(count) = counts.get_mut(*token as usize) {
            *count = (*count | SEEN) + u32::from(position >= ask.prompt);
        }
    }
    for token in ask.tokens {
        let Some(count) = counts.get_mut(*token as usize).filter(|count| **count != 0) else { continue };
        let generated = std::mem::take(count) & !SEEN;
        let logit = &mut logits[*token as usize];
        *logit = if *logit > 0.0 {
            *logit / sampling.repetition_penalty
        } else {
            *logit * sampling.repetition_penalty
        };
        if generated > 0 {
            *logit -= sampling.frequency_penalty * generated as f32;
            *logit -= sampling.presence_penalty;
        }
    }
}

/// Sets the weights of tokens outside `min_p` and `top_k` to zero. Tokens as
/// likely as the k-th are all kept.
fn cut(weights: &mut [f32], logits: &[f32], sampling: &Sampling, ranked: &mut Vec<f32>) {
    if sampling.min_p > 0.0 {
        // The likeliest token's weight is 1.
        weights.iter_mut().filter(|w| **w < sampling.min_p).for_each(|w| *w = 0.0);
    }
    let k = sampling.top_k as usize;
    if k > 0 && k < logits.len() {
        ranked.clear();
        ranked.extend(logits.iter().copied().filter(|l| l.is_finite()));
        if k < ranked.len() {
            let (_, kth, _) = ranked.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            for (weight, logit) in weights.iter_mut().zip(logits) {
                if logit < kth {
                    *weight = 0.0;
                }
            }
        }
    }
}

/// Numbers that are compared or added up side by side: one after the other, each
/// would wait for the one before it.
const SIDE_BY_SIDE: usize = 16;

/// A logit, or where it is none that of a token which is never drawn.
fn finite(logit: f32) -> f32 {
    if logit.is_finite() { logit } else { f32::NEG_INFINITY }
}

/// The lowest id with the highest finite logit.
fn argmax(logits: &[f32]) -> Option<(TokenId, f32)> {
    let mut lanes = [f32::NEG_INFINITY; SIDE_BY_SIDE];
    let (chunks, rest) = logits.as_chunks::<SIDE_BY_SIDE>();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            let logit = finite(*logit);
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let highest = lanes.iter().chain(rest).map(|logit| finite(*logit)).fold(f32::NEG_INFINITY, f32::max);
    let id = logits.iter().position(|logit| *logit == highest && logit.is_finite())?;
    Some((id as TokenId, highest))
}

/// The sum of what some weights count for.
fn sum_of(weights: &[f32], count: impl Fn(f32) -> f64) -> f64 {
    let mut lanes = [0.0; SIDE_BY_SIDE];
    let (chunks, rest) = weights.as_chunks::<SIDE_BY_SIDE>();
    for chunk in chunks {
        for (lane, weight) in lanes.iter_mut().zip(chunk) {
            *lane += count(*weight);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|weight| count(*weight)).sum::<f64>()
}

/// Inverts the cumulative distribution of unnormalised `weights`, cut to the
/// smallest set of likeliest tokens that holds `top_p` of the mass (Holtzman et
/// al., arXiv 1904.09751).
fn pick(weights: &[f32], top_p: f32, uniform: f64, fallback: TokenId) -> TokenId {
    // The kernel's exponential never gets below exp(-87); what is that small
    // stands for zero.
    let mass = |w: f32| if w > 2e-38 { f64::from(w) } else { 0.0 };
    // By stretches first, then inside the one where the goal is reached.
    let stretches = weights.chunks(4 * SIDE_BY_SIDE).map(|stretch| sum_of(stretch, mass));
    let total: f64 = stretches.clone().sum();
    if top_p >= 1.0 {
        let goal = uniform * total;
        let mut before = 0.0;
        for (stretch, sum) in (0..).step_by(4 * SIDE_BY_SIDE).zip(stretches) {
            if before + sum > goal {
                let inside = (stretch..).zip(weights[stretch as usize..].iter().map(|w| mass(*w)));
                return invert(inside, goal - before).unwrap_or(fallback);
            }
            before += sum;
        }
        // Rounding has left the goal behind the last of them.
        let last = weights.iter().rposition(|w| mass(*w) > 0.0);
        return last.map_or(fallback, |id| id as TokenId);
    }
    // Tokens below this weight hold less than 1 - top_p together, so the
    // nucleus lies among the others, and only those need sorting.
    let floor = (1.0 - f64::from(top_p)) * total / weights.len() as f64;
    let mut nucleus: Vec<(TokenId, f64)> =
        (0..).zip(weights.iter().map(|w| mass(*w))).filter(|(_, w)| *w >= floor).collect();
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

/// The `n` ids with the highest finite logits, best first, lower ids first among equals.
fn likeliest(logits: &[f32], n: usize) -> Vec<TokenId> {
    let mut best: Vec<TokenId> = Vec::with_capacity(n + 1);
    if n == 0 {
        return best;
    }
    for (id, &logit) in (0..).zip(logits) {
        if !logit.is_finite()
            || (best.len() == n && best.last().is_some_and(|l| logits[*l as usize] >= logit))
        {
            continue;
        }
        let at = best.partition_point(|b| logits[*b as usize] >= logit);
        best.insert(at, id);
        best.truncate(n);
    }
    best
}

#[cfg(test)]
mod tests;
