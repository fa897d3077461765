//! Who gets KV blocks when there are not enough: preemption, and reuse of
//! prefixes.
//!
//! Nothing is reserved ahead. A request is admitted when its prompt and a block
//! for each branch of its smallest set fit beside what those ahead of it are about
//! to take; when blocks run out, idle prefixes are given up first and then
//! branches lose their KV, to be computed again later. Branches are totally
//! ordered by [`Standing`], and one takes blocks only from those behind it. So
//! the first branch that has work can take the whole pool, which holds at least
//! one branch of any admitted request: something always advances, and since
//! ranks of waiting work only improve, everything ends.

use super::Forest;
use super::branch::{BranchState, Job};
use super::kv::BlockId;
use super::prefix::{Name, NodeId, PrefixIndex};
use super::store::BLOCK;
use crate::engine::RequestId;
use crate::token::TokenId;

/// How well a branch is protected; the greater gives way to the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    need: Need,
    rank: u64,
    /// Ranks may be equal; of such requests the older comes first, with all its
    /// branches.
    request: RequestId,
    branch: u64,
}

/// Why a branch needs its KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// It has work, or was just admitted, and belongs to the smallest set of
    /// its request: it gives way to the cores of requests that come first, one by
    /// one, and to nobody's surplus.
    Core,
    /// It has work.
    Surplus,
    /// It is kept for later.
    Later,
}

impl Standing {
    /// Where a request stands that has no branch yet: where its root will.
    pub(super) fn newcomer(rank: u64, root: RequestId) -> Self {
        Self { need: Need::Core, rank, request: root, branch: root }
    }

    /// Whose it is.
    pub(super) fn branch(self) -> u64 {
        self.branch
    }

    /// Whether the branch belongs to its request's smallest set.
    pub(super) fn is_core(self) -> bool {
        self.need == Need::Core
    }
}

/// What branches are about to take.
struct Soon {
    /// Blocks that will be written.
    fresh: usize,
    /// Resident blocks that they will find, which are idle perhaps.
    known: Vec<BlockId>,
}

/// The blocks that are resident of a sequence that begins at `root`; they are used
/// now, so that others are given up before them.
fn resident(index: &mut PrefixIndex, root: NodeId, tokens: &[TokenId]) -> Vec<BlockId> {
    let mut known = Vec::new();
    let mut node = root;
    for run in tokens.chunks_exact(BLOCK) {
        let Some((next, block)) = index.find(node, run) else { break };
        index.touch(next);
        node = next;
        known.push(block);
    }
    known
}

impl Forest {
    /// How well a branch is protected; `None` when there is none.
    pub(super) fn standing(&self, id: u64) -> Option<Standing> {
        let request = self.branches.get(&id)?.request;
        self.standings(request).find(|standing| standing.branch == id)
    }

    /// How well each branch of a request is protected.
    pub(super) fn standings(&self, request: u64) -> impl Iterator<Item = Standing> {
        let state = self.requests.get(&request);
        let mut core = state.map_or(0, |state| state.minimum);
        state.into_iter().flat_map(move |of| {
            of.members.iter().map(move |&branch| {
                let state = self.branches.get(&branch);
                // A root that has computed nothing yet is about to: its request
                // was promised the blocks. One that was misused never will.
                let fresh = |state: &BranchState| state.computed_before == 0 && state.fault.is_none();
                let busy = state.is_some_and(|state| state.job.is_some() || fresh(state));
                let need = match (busy, core) {
                    (false, _) => Need::Later,
                    (true, 0) => Need::Surplus,
                    (true, _) => Need::Core,
                };
                core -= usize::from(need == Need::Core);
                Standing { need, rank: of.rank, request, branch }
            })
        })
    }

    /// Blocks that branches ahead of `standing` will take soon: for what they
    /// have pending, and one more where they decode.
    fn soon(&self, standing: Standing) -> Soon {
        let mut soon = Soon { fresh: 0, known: Vec::new() };
        let all = self.order.iter().flat_map(|&(_, request)| self.standings(request));
        for other in all.filter(|other| *other < standing) {
            let Some(state) = self.branches.get(&other.branch).filter(|state| !state.parked) else {
                continue;
            };
            let next = usize::from(matches!(state.job, Some(Job::Decode(_))));
            let mut fresh = self.pool.needed(&state.table, state.pending() + next);
            let (mut node, mut at) = (state.node, state.table.len());
            while at.is_multiple_of(BLOCK)
                && let Some((child, block)) = self.index.find(node, &state.tokens[at..])
            {
                soon.known.push(block);
                fresh = fresh.saturating_sub(1);
                (node, at) = (child, at + BLOCK);
            }
            soon.fresh += fresh;
        }
        soon
    }

    /// Makes room for `need` blocks that are to hold a sequence from its beginning,
    /// of which those that are resident are kept and not needed again, beside what
    /// branches ahead of `standing` are about to take.
    pub(super) fn make_room_for(
        &mut self,
        (root, tokens): (NodeId, &[TokenId]),
        need: usize,
        standing: Standing,
    ) -> bool {
        let mut known = resident(&mut self.index, root, tokens);
        let need = need.saturating_sub(known.len());
        let soon = self.soon(standing);
        known.extend(soon.known);
        self.free_up(need + soon.fresh, known, standing)
    }

    /// Frees blocks until `need` are free, by giving up idle prefixes and then
    /// the KV of branches that stand behind that of `id`, the last first. Takes
    /// nobody's KV where that would not be enough.
    pub(super) fn make_room(&mut self, need: usize, id: u64) -> bool {
        // Who asks matters only where prefixes that nobody uses are not enough.
        if self.spare(&[]) >= need {
            return self.evict_for(need);
        }
        self.standing(id).is_some_and(|standing| self.free_up(need, Vec::new(), standing))
    }

    /// The same where the blocks of `known`, of which some may be named twice, are
    /// not to be given up. Those of them that a branch holds may be idle once it is
    /// parked, and even then they are none of those that are needed.
    fn free_up(&mut self, need: usize, mut known: Vec<BlockId>, standing: Standing) -> bool {
        known.sort_unstable();
        known.dedup();
        self.displace(need, &known, |other| other > standing) && self.evict_for(need)
    }

    /// Whether `need` blocks can be had beside those of `known`, as above, with nobody
    /// losing its KV but branches that are kept for later. Those come back once they
    /// have work, so that this cannot go to and fro by itself.
    fn leave_over(&mut self, need: usize, mut known: Vec<BlockId>) -> bool {
        known.sort_unstable();
        known.dedup();
        self.displace(need, &known, |other| other.need == Need::Later)
    }

    /// Takes the KV of branches that give way, the last first, until `need` blocks
    /// can be had beside those of `known`; nobody's where that would not be enough.
    fn displace(&mut self, need: usize, known: &[BlockId], gives_way: impl Fn(Standing) -> bool) -> bool {
        if self.spare(known) >= need {
            return true;
        }
        let (mut behind, ahead): (Vec<Standing>, Vec<Standing>) = self
            .order
            .iter()
            .flat_map(|&(_, request)| self.standings(request))
            .filter(|other| !self.branches[&other.branch].table.is_empty())
            .partition(|other| gives_way(*other));
        let held = ahead.iter().flat_map(|s| self.branches[&s.branch].table.blocks());
        let mut kept = vec![false; self.blocks];
        held.chain(known).for_each(|block| kept[*block as usize] = true);
        if kept.iter().filter(|kept| !**kept).count() < need {
            return false;
        }
        behind.sort_unstable();
        while self.spare(known) < need
            && let Some(last) = behind.pop()
        {
            self.park(last.branch);
        }
        true
    }

    /// Gives up idle prefixes until `need` blocks are free.
    fn evict_for(&mut self, need: usize) -> bool {
        while self.pool.free() < need {
            if !self.index.evict(&mut self.pool) {
                return false;
            }
            self.metrics.evicted.inc();
        }
        true
    }

    /// Blocks that can be had without taking anybody's KV, beside those of `known`,
    /// which names none twice.
    fn spare(&self, known: &[BlockId]) -> usize {
        let idle = known.iter().filter(|block| self.pool.is_idle(**block)).count();
        self.pool.free() + self.pool.idle() - idle
    }

    /// Takes a branch's KV, if it has any. Its tokens stay, and its job waits
    /// until there is memory for it.
    pub(super) fn park(&mut self, id: u64) {
        let Some(state) = self.branches.get_mut(&id) else { return };
        let Some(request) = self.requests.get_mut(&state.request) else { return };
        if !state.table.is_empty() {
            request.counts.preempted += 1;
            self.metrics.preempted.inc();
        }
        // What was computed is counted already. The table may be longer: it has
        // room for rows of this very step, which now are not run.
        self.pool.truncate(&mut state.table, 0);
        (state.node, state.listed, state.parked) = (request.root, 0, true);
        state.logits = None;
        request.retire(id);
        if state.job.is_some() {
            request.parked.insert(id);
        }
    }

    /// Takes the blocks that are known already for what a branch has pending,
    /// as far as no logits are wanted inside them.
    pub(super) fn reuse(&mut self, id: u64) {
        let Some(state) = self.branches.get_mut(&id) else { return };
        let mut taken = 0;
        while state.table.len() == state.listed * BLOCK
            && let Some((node, block)) = self.index.find(state.node, &state.tokens[state.table.len()..])
        {
            let range = state.table.len()..state.table.len() + BLOCK;
            let inside = range.clone().any(|p| state.wants_logits(p) && p + 1 < state.tokens.len());
            // A block that is taken whole gets a copy where its last position is
            // computed again, and for that a branch that may not grow need not have
            // room: it computes the block.
            let alone = self.requests.get(&state.request).is_some_and(|of| range.end == of.positions);
            let again = alone || matches!(state.job, Some(Job::Logits { .. }));
            let last = again && range.end == state.tokens.len();
            if inside || last {
                break;
            }
            self.pool.adopt(&mut state.table, block);
            self.index.touch(node);
            (state.node, state.listed) = (node, state.listed + 1);
            taken += range.end.saturating_sub(range.start.max(state.computed_before));
            state.computed_before = state.computed_before.max(range.end);
        }
        self.metrics.reused.inc_by(taken as u64);
        if let Some(request) = self.requests.get_mut(&state.request) {
            request.counts.reused += taken as u64;
        }
    }

    /// Lists the blocks that a branch has filled. Where an equal prefix is
    /// listed already, the branch takes that one's block.
    pub(super) fn list(&mut self, id: u64) {
        let Some(state) = self.branches.get_mut(&id) else { return };
        while (state.listed + 1) * BLOCK <= state.table.len() {
            let tokens = &state.tokens[state.listed * BLOCK..];
            let block = state.table.blocks()[state.listed];
            state.node = match self.index.find(state.node, tokens) {
                Some((node, known)) => {
                    if known != block {
                        self.pool.replace(&mut state.table, state.listed, known);
                    }
                    node
                }
                None => {
                    self.pool.list(block);
                    self.index.insert(state.node, tokens, block)
                }
            };
            state.listed += 1;
        }
    }

    /// Keeps the first `len` positions of a branch.
    pub(super) fn cut(&mut self, id: u64, len: usize) {
        let Some(state) = self.branches.get_mut(&id) else { return };
        self.pool.truncate(&mut state.table, len);
        while state.listed > state.table.len() / BLOCK {
            state.node = self.index.parent(state.node);
            state.listed -= 1;
        }
    }

    /// Gives preempted branches their turn again where blocks allow it.
    pub(super) fn unpark(&mut self) {
        if self.requests.values().all(|request| request.parked.is_empty()) {
            return;
        }
        let order: Vec<u64> = self.order.iter().map(|&(_, id)| id).collect();
        for request in order {
            let parked = self.requests.get(&request).map(|request| request.parked.clone());
            for id in parked.into_iter().flatten() {
                let (Some(state), Some(standing)) = (self.branches.get(&id), self.standing(id)) else {
                    continue;
                };
                let Some(root) = self.requests.get(&request).map(|request| request.root) else { continue };
                let next = usize::from(matches!(state.job, Some(Job::Decode(_))));
                let need = (state.tokens.len() + next).div_ceil(BLOCK);
                let mut known = resident(&mut self.index, root, &state.tokens);
                let fresh = need.saturating_sub(known.len());
                // What those ahead are about to take is not there for this one, or
                // all would come back to the same blocks.
                let soon = self.soon(standing);
                known.extend(soon.known);
                // Surplus comes back only into what those that have work leave over, and
                // where they can go on for a while as well. What is resident of it,
                // which for a young branch is most, it need not find again.
                let fits = if standing.is_core() {
                    self.free_up(fresh + soon.fresh, known, standing)
                } else {
                    self.leave_over(fresh + 2 * soon.fresh, known)
                };
                if !fits {
                    break;
                }
                if let Some(state) = self.branches.get_mut(&id) {
                    state.parked = false;
                }
                if let Some(request) = self.requests.get_mut(&request) {
                    request.parked.remove(&id);
                    request.ready.push_back(id);
                }
                // At once, or else the next one to come back would have to leave
                // room for all of it.
                self.reuse(id);
            }
        }
    }

    /// The block that a branch with a prefill has to fill next, where its tokens
    /// fill one, and whether it has computed part of it already.
    pub(super) fn next_block(&self, id: u64) -> Option<(Name, bool)> {
        let state = self.branches.get(&id).filter(|state| state.pending() > 1)?;
        let at = state.listed * BLOCK;
        Some((Name::of(state.node, &state.tokens[at..])?, state.table.len() > at))
    }
}

#[cfg(test)]
mod tests;
