//! Branches that hold the same tokens, and so would compute the same.
//!
//! Samples of one prompt agree until chance parts them, and a model that is sure
//! of itself lets many agree for long. A row's bits depend on its branch's tokens
//! alone, so of the rows of a step that are the same one is computed; its *twins*
//! get a copy of its KV and read its logits, from which each draws by its own
//! random numbers. What a branch says is not changed by that. Only branches of
//! one request are compared: the pace of a request tells nothing of another's.

use super::Forest;
use super::prefix::NodeId;
use super::schedule::Share;
use super::store::{BLOCK, Store};
use crate::engine::RequestId;
use crate::token::TokenId;
use std::collections::HashMap;

impl Forest {
    /// Finds the twins of a step: decode rows, and whatever else is one row that
    /// leads to logits, of branches of one request that hold the same tokens.
    pub(super) fn pair(&self, shares: &mut [Share]) {
        // A node of the prefix index stands for the tokens of all blocks up to it,
        // so that only those of the block under way are left to compare.
        let mut first: HashMap<(RequestId, NodeId, &[TokenId]), u64> = HashMap::new();
        for share in shares {
            let Some(state) = self.branches.get(&share.branch) else { continue };
            let last = share.start + 1 == state.tokens.len();
            if share.rows != 1 || !last || !state.wants_logits(share.start) {
                continue;
            }
            let behind = &state.tokens[state.listed * BLOCK..];
            share.twin = *first.entry((share.request, state.node, behind)).or_insert(share.branch);
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
