//! Which rows a step computes: claimed by requests, granted by [`fair`], given to
//! branches, and charged.

use super::Forest;
use super::costs::Cost;
use super::fair::{self, Claim};
use super::prefix::Name;
use super::standing::Standing;
use super::store::Store;
use super::twins::Twins;
use crate::engine::RequestId;
use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

/// A branch's share of a step: `rows` pending positions from `start` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) request: RequestId,
    pub(super) branch: u64,
    pub(super) start: usize,
    pub(super) rows: usize,
    /// The branch that computes it, of the same request: this one, or a twin that
    /// comes before it in the step.
    pub(super) twin: u64,
}

impl Share {
    /// Rows that the forward pass computes for it.
    pub(super) fn computed(&self) -> usize {
        if self.twin == self.branch { self.rows } else { 0 }
    }
}

/// What a step may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Rows that are computed.
    pub(super) rows: usize,
    /// What a step costs.
    pub(super) cost: Cost,
    /// Whether one row is computed for all branches that would compute the same.
    pub(super) twins: bool,
}

/// Whose turn it is when a request's rows are given out.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// The first of the queue.
    Head,
    /// Those that are a single row away from their logits.
    Singles,
    /// Whoever is left.
    Others,
}

/// The rows of a step, as they are chosen.
struct Round<'a> {
    forest: &'a mut Forest,
    store: &'a mut Store,
    /// Where everybody stands, which is the same throughout: nobody gets a job here,
    /// nor loses one. It is drawn up once somebody asks, and while there is room hardly
    /// anybody does.
    line: Option<Vec<Standing>>,
    /// Branches that wait for a block which another one is about to compute.
    waiting: HashSet<u64>,
    twins: Twins,
    shares: Vec<Share>,
}

impl Forest {
    /// Chooses the step's rows and makes their slots writable. What twins share is
    /// claimed, granted and charged as the one row that is computed.
    pub(super) fn schedule(&mut self, limits: Limits, store: &mut Store) -> Vec<Share> {
        let order: Vec<RequestId> = self.order.iter().map(|&(_, id)| id).collect();
        let (waiting, twins) = (HashSet::new(), Twins::default());
        let mut round = Round { forest: self, store, line: None, waiting, twins, shares: Vec::new() };
        round.prepare(&order);
        if limits.twins {
            round.twins = round.forest.twins();
        }
        let claims = order.iter().filter_map(|&id| Some((id, round.claim(id)?)));
        let (claimants, claims): (Vec<RequestId>, Vec<Claim>) = claims.unzip();
        let granted = fair::allot(&claims, fair::room(&claims, limits.cost, limits.rows));
        for (&id, &rows) in claimants.iter().zip(&granted) {
            round.give(id, rows);
        }
        round.charge(&claimants, &claims, &granted);
        round.shares
    }
}

impl Round<'_> {
    /// Takes known prefixes and puts back positions whose logits are needed again,
    /// and finds those that wait. One waits only for a branch that stands ahead of
    /// it: the first of all, which can have every block, waits for nobody.
    fn prepare(&mut self, order: &[RequestId]) {
        let forest = &mut *self.forest;
        let ready: Vec<u64> = order
            .iter()
            .filter_map(|id| forest.requests.get(id))
            .flat_map(|r| r.ready.iter().copied())
            .collect();
        let mut prefills = Vec::new();
        for &id in &ready {
            if forest.branches.get(&id).is_some_and(|state| state.pending() > 1) {
                forest.reuse(id);
                prefills.extend(forest.next_block(id).map(|(name, begun)| (id, name, begun)));
            }
            if let Some(state) = forest.branches.get_mut(&id)
                && state.pending() == 0
            {
                // The last position's logits are needed again.
                let len = state.table.len() - 1;
                state.computed_before = state.computed_before.max(len + 1);
                forest.cut(id, len);
            }
        }
        // One waits only for another.
        if prefills.len() < 2 {
            return;
        }
        let line = self.line.get_or_insert_with(|| forest.line(&forest.busy()));
        let standings: HashMap<u64, usize> =
            line.iter().enumerate().map(|(place, standing)| (standing.branch(), place)).collect();
        let mut first = HashMap::new();
        for (id, name, _) in &prefills {
            let standing = standings.get(id);
            let best = first.entry(*name).or_insert(standing);
            *best = (*best).min(standing);
        }
        // Those inside a block go on with it.
        let waits = |(id, name, begun): &&(u64, Name, bool)| {
            !begun && first.get(name).is_some_and(|best| *best < standings.get(id))
        };
        self.waiting = prefills.iter().filter(waits).map(|(id, ..)| *id).collect();
    }

    /// What a request could compute, if anything.
    fn claim(&mut self, id: RequestId) -> Option<Claim> {
        let request = self.forest.requests.get_mut(&id)?;
        let able = request.ready.iter().filter(|branch| !self.waiting.contains(branch));
        let (mut rows, mut draws) = (0, 0);
        for (branch, state) in able.filter_map(|branch| Some((branch, self.forest.branches.get(branch)?))) {
            let pending = state.pending();
            rows += if self.twins.first(*branch) == *branch { pending } else { 0 };
            draws += usize::from(pending == 1);
        }
        if rows == 0 {
            return None;
        }
        request.served = fair::enter(request.served, self.forest.level);
        Some(Claim { weight: request.weight, rows, draws, served: request.served })
    }

    /// Rows that a branch could compute in this step.
    fn pending(&self, branch: u64) -> Option<usize> {
        let state = self.forest.branches.get(&branch).filter(|state| !state.parked)?;
        Some(state.pending()).filter(|rows| *rows > 0 && !self.waiting.contains(&branch))
    }

    /// Gives a request's rows to its branches: first to the one at the head of the
    /// queue, then one to each that is a single row away from its logits, then
    /// chunks to the others. The head leaves those single rows their room, but for
    /// one row: without it, a branch with more to compute would starve beside
    /// siblings that decode. Who says the same as one that has got its row goes
    /// along for nothing. The queue turns, so that who was left out comes first
    /// next time.
    fn give(&mut self, id: RequestId, rows: usize) {
        let Some(queue) = self.forest.requests.get(&id).map(|request| request.ready.clone()) else { return };
        let singles = queue.iter().filter(|branch| self.pending(**branch) == Some(1));
        let singles = singles.map(|branch| self.twins.first(*branch)).collect::<HashSet<_>>().len();
        let mut room = rows;
        let mut asked = HashSet::new();
        let mut paid = HashSet::new();
        for turn in [Turn::Head, Turn::Singles, Turn::Others] {
            for &branch in &queue {
                let first = self.twins.first(branch);
                let along = paid.contains(&first);
                if (room == 0 && !along) || asked.contains(&branch) {
                    continue;
                }
                // Asked anew each time: a branch may be parked for the one before it.
                let Some(pending) = self.pending(branch) else { continue };
                let most = match turn {
                    Turn::Head if asked.is_empty() => room.saturating_sub(singles).max(1),
                    Turn::Singles if pending == 1 => 1,
                    Turn::Others => room,
                    Turn::Head | Turn::Singles => continue,
                };
                // One that finds no block has had its turn as well, or the others
                // that have more to compute would wait behind it.
                asked.insert(branch);
                if let Some((start, rows)) = self.extend(branch, pending.min(most)) {
                    if !along {
                        room -= rows;
                    }
                    paid.insert(first);
                    self.shares.push(Share { request: id, branch, start, rows, twin: branch });
                }
            }
        }
        if room == 0
            && let Some(request) = self.forest.requests.get_mut(&id)
        {
            request.ready.make_contiguous().sort_by_key(|branch| asked.contains(branch));
        }
    }

    /// Makes up to `rows` positions of a branch writable, as many as blocks can
    /// be had for; says from where and how many. One for which there is not even a
    /// block is preempted: as it stands it would claim rows in every step that it
    /// cannot use.
    fn extend(&mut self, id: u64, mut rows: usize) -> Option<(usize, usize)> {
        let forest = &mut *self.forest;
        loop {
            let needed = forest.pool.needed(&forest.branches.get(&id)?.table, rows);
            if needed <= forest.pool.free() || forest.make_room(needed, id, &mut self.line) {
                break;
            }
            if rows == 1 {
                forest.park(id);
                return None;
            }
            rows /= 2;
        }
        let state = forest.branches.get_mut(&id)?;
        let start = state.table.len();
        match forest.pool.extend(&mut state.table, rows) {
            Ok(Some(copy)) => self.store.copy(copy),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "blocks that were free have gone");
                return None;
            }
        }
        Some((start, rows))
    }

    /// Charges those that made `claims` for the rows that will run.
    fn charge(&mut self, claimants: &[RequestId], claims: &[Claim], granted: &[usize]) {
        let forest = &mut *self.forest;
        // A branch that was scheduled may have been preempted for a later one; its
        // rows are not run, and so they are not charged.
        self.shares.retain(|share| !forest.is_parked(share.branch));
        self.twins.pair(&mut self.shares);
        let mut computed: HashMap<RequestId, usize> = HashMap::new();
        for share in &self.shares {
            *computed.entry(share.request).or_default() += share.computed();
        }
        let given = claimants.iter().map(|id| computed.get(id).copied().unwrap_or(0));
        let (served, level) = fair::charge(claims, granted, &given.collect::<Vec<_>>(), forest.level);
        forest.level = level;
        for (id, served) in claimants.iter().zip(served) {
            if let Some(request) = forest.requests.get_mut(id) {
                request.served = served;
            }
        }
    }
}

#[cfg(test)]
mod tests;
