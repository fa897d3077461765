//! Branches that hold the same tokens, and so would compute the same.
//!
//! Samples of one prompt agree until chance parts them, and a model that is sure
//! of itself lets many agree for long. A row's bits depend on its branch's tokens
//! alone, so of the rows of a step that are the same one is computed; its *twins*
//! get a copy of its KV and read its logits, from which each draws by its own
//! random numbers. What a branch says is not changed by that. Only branches of
//! one request are compared: the pace of a request tells nothing of another's.

use super::Forest;
use super::schedule::Share;
use super::store::{BLOCK, Store};
use crate::engine::RequestId;
use crate::token::TokenId;
use std::collections::HashMap;
use std::ops::Deref;

/// The tokens of a branch, with a fingerprint by which those of others are told
/// apart without being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    fingerprint: u64,
    ids: Vec<TokenId>,
}

impl History {
    /// Adds a token.
    pub(super) fn push(&mut self, id: TokenId) {
        // The step of FxHash.
        self.fingerprint =
            (self.fingerprint.rotate_left(5) ^ u64::from(id)).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.ids.push(id);
    }

    /// Adds tokens.
    pub(super) fn extend(&mut self, ids: &[TokenId]) {
        ids.iter().for_each(|id| self.push(*id));
    }

    /// Keeps the first `len` tokens.
    pub(super) fn truncate(&mut self, len: usize) {
        *self = self.ids[..len.min(self.ids.len())].into();
    }
}

impl From<&[TokenId]> for History {
    fn from(ids: &[TokenId]) -> Self {
        let mut history = Self { fingerprint: 0, ids: Vec::with_capacity(ids.len()) };
        history.extend(ids);
        history
    }
}

impl Deref for History {
    type Target = [TokenId];

    fn deref(&self) -> &[TokenId] {
        &self.ids
    }
}

impl Forest {
    /// Finds the twins of a step: decode rows, and whatever else is one row that
    /// leads to logits, of branches of one request that hold the same tokens.
    pub(super) fn pair(&self, shares: &mut [Share]) {
        let mut first: HashMap<(RequestId, u64), u64> = HashMap::new();
        for share in shares {
            let Some(state) = self.branches.get(&share.branch) else { continue };
            let last = share.start + 1 == state.tokens.len();
            if share.rows != 1 || !last || !state.wants_logits(share.start) {
                continue;
            }
            let twin = *first.entry((share.request, state.tokens.fingerprint)).or_insert(share.branch);
            // A fingerprint is no proof.
            if self.branches.get(&twin).is_some_and(|other| other.tokens == state.tokens) {
                share.twin = twin;
            }
        }
    }

    /// Gives twins the KV that was computed for them elsewhere.
    pub(super) fn copy_to_twins(&self, shares: &[Share], store: &mut Store) {
        for share in shares.iter().filter(|share| share.computed() == 0) {
            let block = |branch: u64| {
                let blocks = self.branches.get(&branch)?.table.blocks();
                blocks.get(share.start / BLOCK).copied()
            };
            if let (Some(from), Some(to)) = (block(share.twin), block(share.branch)) {
                store.copy_position((from, share.start % BLOCK), (to, share.start % BLOCK));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tokens_have_equal_fingerprints_however_they_came() {
        let whole = History::from([3, 1, 4, 1, 5].as_slice());
        let mut grown = History::from([3, 1].as_slice());
        grown.push(9);
        grown.extend(&[9, 9]);
        grown.truncate(2);
        assert_eq!(grown, History::from([3, 1].as_slice()));
        grown.extend(&[4, 1]);
        grown.push(5);
        assert_eq!((grown.fingerprint, &*grown), (whole.fingerprint, &*whole));
        let other = History::from([1, 3, 4, 1, 5].as_slice());
        assert_ne!(whole.fingerprint, other.fingerprint, "order counts");
        grown.truncate(9);
        assert_eq!(grown.len(), 5);
    }
}
