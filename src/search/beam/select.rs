//! Which candidates of a level go on, by the variants of the search.

use super::super::grove::State;
use super::{BeamSearch, Slot};

/// A candidate with what it is worth, and its likelihood where that is equal.
type Ranked = (Slot, (f64, f64));

/// Those that go on, each with the number of its candidates, and those that are
/// given up. Complete ones are neither.
type Chosen = (Vec<(Slot, u32)>, Vec<Slot>);

impl BeamSearch {
    /// The best of all; those that are complete narrow the beam.
    pub(super) fn best_of_all(&mut self, ranked: Vec<Ranked>) -> Chosen {
        let (mut kept, mut rest) = (Vec::new(), Vec::new());
        let mut places = self.left;
        for (slot, _) in ranked {
            let complete = self.grove.twig(slot.index).state == State::Complete;
            match (places, complete) {
                (0, _) => rest.push(slot),
                (_, true) => {
                    places -= 1;
                    self.left -= 1;
                }
                (_, false) => {
                    places -= 1;
                    kept.push((slot, self.beam.expansion));
                }
            }
        }
        (kept, rest)
    }

    /// The best of each subtree, which ends with a complete one.
    pub(super) fn best_of_groups(&self, ranked: Vec<Ranked>) -> Chosen {
        let (mut kept, mut rest, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, _) in ranked {
            if seen.contains(&slot.group) {
                rest.push(slot);
                continue;
            }
            seen.push(slot.group);
            if self.grove.twig(slot.index).state == State::Held {
                kept.push((slot, self.beam.expansion));
            }
        }
        (kept, rest)
    }

    /// All, each with its part of what is not finished yet; `merged` complete ones that
    /// equal others are finished as well.
    pub(super) fn balanced(&mut self, ranked: Vec<Ranked>, merged: usize, temperature: f64) -> Chosen {
        let (done, open): (Vec<_>, Vec<_>) =
            ranked.into_iter().partition(|(slot, _)| self.grove.twig(slot.index).state == State::Complete);
        self.left = self.left.saturating_sub(u32::try_from(done.len() + merged).unwrap_or(u32::MAX));
        let values: Vec<f64> = open.iter().map(|(_, value)| value.0).collect();
        let counts = shares(&values, self.left, temperature);
        let (mut kept, mut rest) = (Vec::new(), Vec::new());
        for ((slot, _), count) in open.into_iter().zip(counts) {
            if count > 0 { kept.push((slot, count)) } else { rest.push(slot) }
        }
        (kept, rest)
    }
}

/// Shares `total` out by softmax of the values, which fall: each gets its share
/// rounded up of what is left, so that the last ones may get nothing (REBASE).
pub(super) fn shares(values: &[f64], total: u32, temperature: f64) -> Vec<u32> {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = values.iter().map(|value| ((value - top) / temperature).exp()).collect();
    let mut rest: f64 = weights.iter().sum();
    let mut left = total;
    weights
        .iter()
        .map(|weight| {
            let share = (f64::from(left) * weight / rest).ceil();
            let share = if share.is_finite() { (share.max(0.0) as u32).min(left) } else { 0 };
            left -= share;
            rest -= weight;
            share
        })
        .collect()
}
