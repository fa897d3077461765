//! Who gets KV blocks when there are not enough: preemption, and reuse of
//! prefixes.
//!
//! Nothing is reserved ahead. A request is admitted when its prompt and a block
//! for each branch of its smallest set fit beside what those ahead of it are about
//! to take; when blocks run out, idle prefixes are given up first and then
//! branches lose their KV, to be computed again later: those that are kept for
//! later, and then those behind in the order of [`Standing`], the last first. So
//! the first branch that has work can take the whole pool, which holds at least
//! one branch of any admitted request: something always advances, and since
//! ranks of waiting work only improve, everything ends.
//!
//! Who is parked costs nothing until there is room: what those ahead are about to
//! take is summed up once as one goes down the line, and ever more of it leaves ever
//! less, so that one can stop where nothing is left.

use super::Forest;
use super::branch::Job;
use super::kv::BlockId;
use super::prefix::{Name, NodeId, PrefixIndex};
use super::standing::Standing;
use super::store::BLOCK;
use crate::engine::RequestId;
use crate::token::TokenId;
use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use std::ops::Bound;

/// What those that come first hold and are about to take.
struct Claims {
    /// Blocks that they will write: for what they have pending, and one more where
    /// they decode.
    fresh: usize,
    /// Whether a block is theirs: they hold it, or will find it.
    theirs: Vec<bool>,
    /// Blocks that are not.
    others: usize,
    /// Resident blocks that they will find, which are idle perhaps.
    found: Vec<BlockId>,
}

impl Claims {
    /// None, on a pool of so many blocks.
    fn new(blocks: usize) -> Self {
        Self { fresh: 0, theirs: vec![false; blocks], others: blocks, found: Vec::new() }
    }

    /// A block is theirs; says whether it was not before.
    fn take(&mut self, block: BlockId) -> bool {
        let before = std::mem::replace(&mut self.theirs[block as usize], true);
        self.others -= usize::from(!before);
        !before
    }

    /// A block that was taken is not theirs after all.
    fn give_back(&mut self, block: BlockId) {
        self.theirs[block as usize] = false;
        self.others += 1;
    }
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
    /// Adds what a branch holds and is about to take, unless it is parked.
    fn claim(&self, id: u64, claims: &mut Claims) {
        let Some(state) = self.branches.get(&id).filter(|state| !state.parked) else { return };
        for &block in state.table.blocks() {
            claims.take(block);
        }
        let next = usize::from(matches!(state.job, Some(Job::Decode(_))));
        let mut fresh = self.pool.needed(&state.table, state.pending() + next);
        let (mut node, mut at) = (state.node, state.table.len());
        while at.is_multiple_of(BLOCK)
            && let Some((child, block)) = self.index.find(node, &state.tokens[at..])
        {
            if claims.take(block) {
                claims.found.push(block);
            }
            fresh = fresh.saturating_sub(1);
            (node, at) = (child, at + BLOCK);
        }
        claims.fresh += fresh;
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
        let known = resident(&mut self.index, root, tokens);
        let line = self.line(&self.busy());
        let (ahead, behind) = line.split_at(line.partition_point(|other| *other < standing));
        let mut claims = Claims::new(self.blocks);
        ahead.iter().for_each(|other| self.claim(other.branch(), &mut claims));
        let need = need.saturating_sub(known.len()) + claims.fresh;
        self.make_way(need, known, &mut claims, behind) && self.evict_for(need)
    }

    /// Frees blocks until `need` are free, by giving up idle prefixes and then
    /// the KV of branches that stand behind that of `id` in the `line`, the last
    /// first; the line is drawn up where it is needed. Takes nobody's KV where that
    /// would not be enough.
    pub(super) fn make_room(&mut self, need: usize, id: u64, line: &mut Option<Vec<Standing>>) -> bool {
        let spare = self.pool.free() + self.pool.idle();
        // Who asks matters only where prefixes that nobody uses are not enough.
        if spare < need {
            let mut drawn = line.take().unwrap_or_else(|| self.line(&self.busy()));
            self.shorten(&mut drawn);
            let at = drawn.iter().position(|other| other.branch() == id);
            let room = at.is_some_and(|at| self.displace(need, (spare, &[]), &drawn[at + 1..]));
            *line = Some(drawn);
            if !room {
                return false;
            }
        }
        self.evict_for(need)
    }

    /// Takes those off the end of a line that have lost their KV by now.
    fn shorten(&self, line: &mut Vec<Standing>) {
        while line.pop_if(|last| self.is_parked(last.branch())).is_some() {}
    }

    /// Makes `need` blocks to be had beside what is claimed and what is `known` to
    /// who asks, who claims that as well if they are. Nobody loses its KV but branches
    /// that are kept for later and those `behind`.
    fn make_way(
        &mut self,
        need: usize,
        mut known: Vec<BlockId>,
        claims: &mut Claims,
        behind: &[Standing],
    ) -> bool {
        known.retain(|block| claims.take(*block));
        // Blocks of parked branches may be idle, and even then they are none of
        // those that are needed.
        let idle = |block: &&BlockId| self.pool.is_idle(**block);
        let promised = claims.found.iter().chain(&known).filter(idle).count();
        let spare = self.pool.free() + self.pool.idle() - promised;
        if claims.others >= need && self.displace(need, (spare, &claims.theirs), behind) {
            claims.found.extend(known);
            return true;
        }
        known.into_iter().for_each(|block| claims.give_back(block));
        false
    }

    /// Takes the KV of branches that are kept for later and then of those `behind`,
    /// the last first, until `need` blocks can be had that are not `theirs`, where
    /// `spare` can be had already; nobody's where that would not be enough.
    fn displace(&mut self, need: usize, (spare, theirs): (usize, &[bool]), behind: &[Standing]) -> bool {
        let mut had = spare;
        let mut losers = Vec::new();
        // How many of a block's tables are the losers'.
        let mut lost: HashMap<BlockId, u32> = HashMap::new();
        let requests = self.order.iter().rev().filter_map(|(_, request)| self.requests.get(request));
        let later = requests.flat_map(|request| request.later.iter().rev().copied());
        for id in later.chain(behind.iter().rev().map(|other| other.branch())) {
            if had >= need {
                break;
            }
            let Some(state) = self.branches.get(&id).filter(|state| !state.table.is_empty()) else {
                continue;
            };
            for &block in state.table.blocks() {
                let tables = lost.entry(block).or_default();
                *tables += 1;
                let last = *tables == self.pool.tables(block);
                had += usize::from(last && !theirs.get(block as usize).is_some_and(|theirs| *theirs));
            }
            losers.push(id);
        }
        if had >= need {
            losers.into_iter().for_each(|id| self.park(id));
        }
        had >= need
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

    /// Gives preempted branches their turn again where blocks allow it: first those
    /// of smallest sets, and then the surplus. Of a request in which one has found no
    /// room, those behind it wait as well.
    pub(super) fn unpark(&mut self) {
        if self.requests.values().all(|request| request.parked.is_empty()) {
            return;
        }
        let busy = self.busy();
        let mut line = self.line(&busy);
        let mut claims = Claims::new(self.blocks);
        let mut shut = HashSet::new();
        for of in &busy {
            for &id in &of.core {
                // Those ahead only get more, and so nobody behind can have what they
                // want themselves.
                if claims.fresh > claims.others {
                    return;
                }
                if !self.is_parked(id) {
                    self.claim(id, &mut claims);
                } else if !shut.contains(&of.request) {
                    self.shorten(&mut line);
                    let behind = line.partition_point(|other| *other <= of.core(id));
                    if !self.come_back(id, &mut claims, Some(&line[behind..])) {
                        shut.insert(of.request);
                    }
                }
            }
        }
        // Surplus comes back only into what those that have work leave over, and
        // where they can go on for a while as well.
        for state in busy.iter().flat_map(|of| &of.surplus).filter_map(|id| self.branches.get(id)) {
            for &block in state.table.blocks() {
                claims.take(block);
            }
        }
        for of in &busy {
            let first = self.parked_after(of.request, of.core.last());
            let mut parked = first.filter(|_| !shut.contains(&of.request));
            for id in of.surplus.iter().copied().chain([u64::MAX]) {
                while let Some(older) = parked.filter(|parked| *parked < id) {
                    if 2 * claims.fresh > claims.others {
                        return;
                    }
                    let back = self.come_back(older, &mut claims, None);
                    parked = self.parked_after(of.request, Some(&older)).filter(|_| back);
                }
                self.claim(id, &mut claims);
            }
        }
    }

    /// The oldest parked branch of a request that is younger than another one.
    fn parked_after(&self, request: RequestId, other: Option<&u64>) -> Option<u64> {
        let younger = (other.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        self.requests.get(&request)?.parked.range(younger).next().copied()
    }

    /// Gives a preempted branch its turn again if blocks allow it, beside what is
    /// claimed by those ahead; it claims its own then. One of a smallest set takes
    /// blocks of those `behind` it, and surplus has none.
    fn come_back(&mut self, id: u64, claims: &mut Claims, behind: Option<&[Standing]>) -> bool {
        let Some(state) = self.branches.get(&id) else { return false };
        let Some(request) = self.requests.get(&state.request) else { return false };
        let next = usize::from(matches!(state.job, Some(Job::Decode(_))));
        // What is resident of it, which for a young branch is most, it need not find
        // again.
        let known = resident(&mut self.index, request.root, &state.tokens);
        let fresh = (state.tokens.len() + next).div_ceil(BLOCK).saturating_sub(known.len());
        let fits = match behind {
            Some(behind) => {
                let need = fresh + claims.fresh;
                self.make_way(need, known, claims, behind) && self.evict_for(need)
            }
            // With nobody losing its KV but branches that are kept for later: those
            // come back once they have work, so that this cannot go to and fro by
            // itself.
            None => self.make_way(fresh + 2 * claims.fresh, known, claims, &[]),
        };
        if !fits {
            return false;
        }
        if let Some(state) = self.branches.get_mut(&id) {
            state.parked = false;
            if let Some(request) = self.requests.get_mut(&state.request) {
                request.parked.remove(&id);
                request.ready.push_back(id);
            }
        }
        // At once, or else the next one to come back would have to leave room for all
        // of it.
        self.reuse(id);
        self.claim(id, claims);
        true
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
