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
use foldhash::{HashMap, HashMapExt as _};

/// The twins among the branches that are ready. One that has none is its own.
#[derive(Debug, Default)]
pub(super) struct Twins(HashMap<u64, u64>);

impl Twins {
    /// The one that stands for all that say what a branch says.
    pub(super) fn first(&self, branch: u64) -> u64 {
        self.0.get(&branch).copied().unwrap_or(branch)
    }

    /// Tells each share of a step which branch computes it: the first in the step
    /// of those that say the same.
    pub(super) fn pair(&self, shares: &mut [Share]) {
        let mut computes = HashMap::new();
        for share in shares {
            share.twin = *computes.entry(self.first(share.branch)).or_insert(share.branch);
        }
    }
}

impl Forest {
    /// Finds those that are one row away from their logits, to decode or to be
    /// read, and hold the same tokens as another branch of their request.
    pub(super) fn twins(&self) -> Twins {
        // A node of the prefix index stands for the tokens of all blocks up to it,
        // so that only those of the block under way are left to compare.
        let mut first: HashMap<(RequestId, NodeId, &[TokenId]), u64> = HashMap::new();
        let mut twins = HashMap::new();
        let several = self.requests.values().filter(|request| request.ready.len() > 1);
        for &id in several.flat_map(|request| &request.ready) {
            let Some(state) = self.branches.get(&id).filter(|state| state.pending() == 1) else { continue };
            if !state.wants_logits(state.tokens.len() - 1) {
                continue;
            }
            let behind = &state.tokens[state.listed * BLOCK..];
            let twin = *first.entry((state.request, state.node, behind)).or_insert(id);
            if twin != id {
                twins.insert(id, twin);
            }
        }
        Twins(twins)
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
