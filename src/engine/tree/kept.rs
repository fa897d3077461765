//! Which branches keep the logits of their last position.
//!
//! A settled branch keeps a row of the whole vocabulary, so that its forks draw
//! from it at once. A search holds hundreds of settled branches, and of a large
//! vocabulary a row is larger than a block of KV, so the rows have a bound of
//! their own: beyond it the branches that were settled first give theirs up. Who
//! is forked from one of them computes its last position again, to the same bits,
//! which is counted as recomputed.
//!
//! The bound is on the branches that were settled. Forks share the row of theirs and
//! are not counted, so that one that was given up is there until its forks of before
//! have drawn from it or are gone.

use super::Forest;
use std::collections::VecDeque;

/// What the rows may take, in bytes.
const BYTES: usize = 16 << 20;

/// Branches that have kept their logits, in the order of their settling; some may
/// have lost them, or have gone, since.
#[derive(Debug)]
pub(super) struct Kept {
    branches: VecDeque<u64>,
    /// How many rows may be kept.
    pub(super) most: usize,
}

impl Kept {
    /// None yet, of rows of so many logits.
    pub(super) fn new(vocab: usize) -> Self {
        Self { branches: VecDeque::new(), most: (BYTES / (vocab.max(1) * size_of::<f32>())).max(1) }
    }
}

impl Forest {
    /// Takes note that a branch keeps its logits; others may have to give up theirs.
    pub(super) fn keep(&mut self, id: u64) {
        let kept = &mut self.kept;
        kept.branches.push_back(id);
        if kept.branches.len() <= kept.most {
            return;
        }
        let branches = &mut self.branches;
        kept.branches.retain(|id| branches.get(id).is_some_and(|state| state.logits.is_some()));
        // Some room at once, so that it is rare to look at all of them.
        let leave = kept.branches.len().saturating_sub(kept.most - kept.most / 4);
        for first in kept.branches.drain(..leave) {
            if let Some(state) = branches.get_mut(&first) {
                state.logits = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
