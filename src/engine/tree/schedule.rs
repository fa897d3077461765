//! One step: which rows run, and what becomes of their logits.
//!
//! Length: a step is one matter from its claims to its outcome.

use super::branch::Job;
use super::costs::Cost;
use super::draws::{Dice, not_finite};
use super::fair::{self, Claim};
use super::forward::Forward;
use super::model::Row;
use super::prefix::Name;
use super::sample::Drawn;
use super::standing::Standing;
use super::store::Store;
use super::twins::Twins;
use super::{Forest, TreeEngine};
use crate::engine::{EngineError, RequestId};
use crate::token::TokenId;
use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Virtual time by which a request may be ahead of the level: two rows of the
/// lowest class, by as much as start-time fair queueing (Goyal, Vin and Cheng,
/// 1996) lets two flows be apart that both have work.
const MOST_AHEAD: u64 = fair::ticks(2, 1);

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
struct Limits {
    /// Rows that are computed.
    rows: usize,
    /// What a step costs.
    cost: Cost,
    /// Whether one row is computed for all branches that would compute the same.
    twins: bool,
}

/// What came of the branches that a step, or a part of one, has advanced.
#[derive(Debug, Clone, Copy, Default)]
struct Gain {
    branches: usize,
    /// Tokens that were to be drawn.
    draws: usize,
    /// Branches that got what shows that the model is well: a token or logits.
    given: usize,
    /// Branches none of whose logits is finite: they got an error in its place, or, where
    /// they asked for the logits themselves, rows that say so.
    lost: usize,
}

impl Gain {
    /// Whether the model has shown that it is well. That it has lost all is its own
    /// doing, and an error, of which the branches have been told.
    fn verdict(self) -> Result<bool, EngineError> {
        if self.lost > 0 && self.lost == self.branches { Err(not_finite()) } else { Ok(self.given > 0) }
    }
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

impl<M: Forward> TreeEngine<M> {
    /// Runs one step over whatever is runnable; says whether anybody was given
    /// anything by it. KV that was computed and nothing else shows that the pass ran,
    /// and not that what the model makes of it is of any use.
    pub(super) fn run_step(&mut self) -> Result<bool, EngineError> {
        let mut dice =
            Dice { kernels: self.model.kernels(), threads: &self.threads, scratch: &mut self.draws };
        // Drawing is part of what a step costs, from logits that were kept as well: of
        // a search's vocabulary-wide rows it is a good part.
        let begun = (self.clock)();
        let kept = self.forest.serve_kept_logits(&mut dice, &self.eos);
        let most = Limits { rows: self.step_positions, cost: self.costs.cost(), twins: self.twins };
        let shares = self.forest.schedule(most, &mut self.store);
        if shares.is_empty() {
            return kept.verdict();
        }
        let outcome = self.compute(&shares).map(|()| self.advance(&shares));
        let seconds = (self.clock)() - begun;
        let rows: usize = shares.iter().map(Share::computed).sum();
        let metrics = &self.forest.metrics;
        metrics.steps.inc();
        metrics.step_positions.observe(rows as f64);
        metrics.step_branches.observe(shares.len() as f64);
        let verdict = match outcome {
            Ok(gain) => {
                self.costs.observe(rows, kept.draws + gain.draws, seconds);
                gain.verdict()
            }
            Err(message) => {
                metrics.faults.inc();
                tracing::error!(message, rows, "a forward pass failed");
                self.retry(&shares, &message)
            }
        };
        verdict.map(|given| given || kept.given > 0)
    }

    /// After a pass that failed with `message`, runs each request's rows alone:
    /// one request that the model cannot take must not end the others. Says of those
    /// that it can take whether they were given anything.
    fn retry(&mut self, shares: &[Share], message: &str) -> Result<bool, EngineError> {
        let mut outcome = Err(EngineError::Forward(message.to_owned()));
        for alone in shares.chunk_by(|a, b| a.request == b.request) {
            let whole = alone.len() == shares.len();
            // A request that was alone in the step has failed alone already.
            match if whole { Err(message.to_owned()) } else { self.compute(alone) } {
                Ok(()) => {
                    let verdict = self.advance(alone).verdict();
                    outcome = match outcome {
                        Ok(given) => Ok(given || verdict == Ok(true)),
                        Err(_) => verdict,
                    };
                }
                Err(message) => self.forest.abandon(alone, &EngineError::Forward(message)),
            }
        }
        outcome
    }

    fn compute(&mut self, shares: &[Share]) -> Result<(), String> {
        let rows = self.forest.rows(shares);
        let (model, store) = (&mut self.model, &mut self.store);
        // What a panic leaves behind is the KV of these rows, which nobody reads
        // before it is written again, and scratch memory, which every pass
        // writes first.
        let threads = &self.threads;
        catch_unwind(AssertUnwindSafe(|| model.run(&rows, store, threads)))
            .unwrap_or_else(|_| Err("the forward pass panicked".to_owned()))?;
        self.forest.copy_to_twins(shares, &mut self.store);
        Ok(())
    }

    /// Counts a pass's positions and hands every branch its logits.
    fn advance(&mut self, shares: &[Share]) -> Gain {
        let mut dice =
            Dice { kernels: self.model.kernels(), threads: &self.threads, scratch: &mut self.draws };
        let logits: Vec<&[f32]> = self.model.logits().collect();
        // The logits of each share, in their order; a twin has those of the other.
        let mut rest = logits.as_slice();
        let mut known: HashMap<u64, &[&[f32]]> = HashMap::new();
        let wanted: Vec<&[&[f32]]> = (shares.iter())
            .map(|share| {
                if let Some(twin) = known.get(&share.twin) {
                    return *twin;
                }
                let (own, others) = rest.split_at(self.forest.rows_wanted(share).min(rest.len()));
                rest = others;
                known.insert(share.branch, own);
                own
            })
            .collect();
        let decoding =
            shares.iter().zip(&wanted).filter_map(|(share, own)| Some((share.branch, *own.first()?)));
        let drawn = self.forest.draw(decoding, &mut dice);
        let mut gain = Gain { branches: shares.len(), ..Gain::default() };
        for (share, own) in shares.iter().zip(wanted) {
            self.forest.advance(share, own, &mut gain);
        }
        self.forest.take_all_drawn(drawn, &self.eos, &mut gain);
        gain
    }
}

impl Forest {
    /// Jobs that need no forward pass: the branch's last logits were kept.
    fn serve_kept_logits(&mut self, dice: &mut Dice<'_>, eos: &[TokenId]) -> Gain {
        let kept = |id: &u64| self.branches.get(id).is_some_and(|state| state.logits.is_some());
        let queues = self.requests.values().flat_map(|request| &request.ready);
        let ready: Vec<u64> = queues.copied().filter(kept).collect();
        let mut gain = Gain { branches: ready.len(), ..Gain::default() };
        let mut kept = Vec::new();
        for id in ready {
            let Some(state) = self.branches.get_mut(&id) else { continue };
            if let Some(Job::Settle(reply)) = state.job.take_if(|job| matches!(job, Job::Settle(_))) {
                reply.send(Ok(()));
                self.retire(id);
                gain.given += 1;
            } else {
                kept.extend(state.logits.clone().map(|logits| (id, logits)));
            }
        }
        let drawn = self.draw(kept.iter().map(|(id, logits)| (*id, &**logits)), dice);
        self.take_all_drawn(drawn, eos, &mut gain);
        gain
    }

    /// Hands branches the tokens that were drawn for them, and counts them.
    fn take_all_drawn(&mut self, drawn: Vec<(u64, Option<Drawn>)>, eos: &[TokenId], gain: &mut Gain) {
        for (branch, drawn) in drawn {
            gain.draws += 1;
            match drawn {
                Some(_) => gain.given += 1,
                None => gain.lost += 1,
            }
            self.take_drawn(branch, drawn, eos);
        }
    }

    /// Chooses the step's rows and makes their slots writable. What twins share is
    /// claimed, granted and charged as the one row that is computed.
    fn schedule(&mut self, limits: Limits, store: &mut Store) -> Vec<Share> {
        let order: Vec<RequestId> = self.order.iter().map(|&(_, id)| id).collect();
        let mut claims = Vec::new();
        let mut claimants = Vec::new();
        // Where everybody stands is the same throughout: nobody gets a job here, nor
        // loses one. While there is room, hardly anybody asks.
        let mut line = None;
        let waiting = self.prepare(&order, &mut line);
        let twins = if limits.twins { self.twins() } else { Twins::default() };
        for &id in &order {
            let Some(request) = self.requests.get_mut(&id) else { continue };
            let able = request.ready.iter().filter(|branch| !waiting.contains(branch));
            let (mut rows, mut draws) = (0, 0);
            for (branch, state) in able.filter_map(|branch| Some((branch, self.branches.get(branch)?))) {
                let pending = state.pending();
                rows += if twins.first(*branch) == *branch { pending } else { 0 };
                draws += usize::from(pending == 1);
            }
            if rows > 0 {
                // Nothing is owed for a time in which nobody was refused rows that
                // it asked for: who was idle, has just come, or got all that it
                // wanted starts level with those that were refused some. And
                // nothing is to be paid back for one in which it had what others
                // did not want, or what could not be split.
                request.served = request.served.clamp(self.level, self.level + MOST_AHEAD);
                claims.push(Claim { weight: request.weight, rows, draws, served: request.served });
                claimants.push(id);
            }
        }
        let room = fair::room(&claims, limits.cost, limits.rows);
        let granted = fair::allot(&claims, room);
        let mut shares = Vec::new();
        for (&id, &rows) in claimants.iter().zip(&granted) {
            self.share_out(id, rows, (&waiting, &twins), (store, &mut line, &mut shares));
        }
        // A branch that was scheduled may have been preempted for a later one; its
        // rows are not run, and so they are not charged.
        shares.retain(|share| self.branches.get(&share.branch).is_some_and(|state| !state.parked));
        twins.pair(&mut shares);
        let mut given: HashMap<RequestId, usize> = HashMap::new();
        for share in &shares {
            *given.entry(share.request).or_default() += share.computed();
        }
        let mut refused: Option<u64> = None;
        let mut most_served = self.level;
        for ((id, claim), granted) in claimants.iter().zip(&claims).zip(granted) {
            let Some(request) = self.requests.get_mut(id) else { continue };
            let given = given.get(id).copied().unwrap_or(0);
            request.served += fair::ticks(given, request.weight);
            most_served = most_served.max(request.served);
            // Who has no memory for the rows that it might have is refused none.
            if given == granted && given < claim.rows {
                refused = Some(refused.map_or(request.served, |least| least.min(request.served)));
            }
        }
        self.level = self.level.max(refused.unwrap_or(most_served));
        shares
    }

    /// Takes known prefixes and puts back positions whose logits are needed
    /// again. Returns the branches that wait for a block which another one is
    /// about to compute. One waits only for a branch that stands ahead of it:
    /// the first of all, which can have every block, waits for nobody.
    fn prepare(&mut self, order: &[RequestId], line: &mut Option<Vec<Standing>>) -> HashSet<u64> {
        let ready: Vec<u64> = order
            .iter()
            .filter_map(|id| self.requests.get(id))
            .flat_map(|r| r.ready.iter().copied())
            .collect();
        let mut prefills = Vec::new();
        for &id in &ready {
            if self.branches.get(&id).is_some_and(|state| state.pending() > 1) {
                self.reuse(id);
                prefills.extend(self.next_block(id).map(|(name, begun)| (id, name, begun)));
            }
            if let Some(state) = self.branches.get_mut(&id)
                && state.pending() == 0
            {
                // The last position's logits are needed again.
                let len = state.table.len() - 1;
                state.computed_before = state.computed_before.max(len + 1);
                self.cut(id, len);
            }
        }
        // One waits only for another.
        if prefills.len() < 2 {
            return HashSet::new();
        }
        let line = line.get_or_insert_with(|| self.line(&self.busy()));
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
        prefills.iter().filter(waits).map(|(id, ..)| *id).collect()
    }

    /// Gives a request's rows to its branches: first to the one at the head of the
    /// queue, then one to each that is a single row away from its logits, then
    /// chunks to the others. The head leaves those single rows their room, but for
    /// one row: without it, a branch with more to compute would starve beside
    /// siblings that decode. Who says the same as one that has got its row goes
    /// along for nothing. The queue turns, so that who was left out comes first
    /// next time.
    fn share_out(
        &mut self,
        id: RequestId,
        rows: usize,
        (waiting, twins): (&HashSet<u64>, &Twins),
        (store, line, shares): (&mut Store, &mut Option<Vec<Standing>>, &mut Vec<Share>),
    ) {
        let Some(queue) = self.requests.get(&id).map(|request| request.ready.clone()) else { return };
        let pending = |forest: &Self, branch: u64| {
            let state = forest.branches.get(&branch).filter(|state| !state.parked)?;
            Some(state.pending()).filter(|rows| *rows > 0 && !waiting.contains(&branch))
        };
        let singles = queue.iter().filter(|branch| pending(self, **branch) == Some(1));
        let singles = singles.map(|branch| twins.first(*branch)).collect::<HashSet<_>>().len();
        let mut room = rows;
        let mut asked = HashSet::new();
        let mut paid = HashSet::new();
        for turn in [Turn::Head, Turn::Singles, Turn::Others] {
            for &branch in &queue {
                let first = twins.first(branch);
                let along = paid.contains(&first);
                if (room == 0 && !along) || asked.contains(&branch) {
                    continue;
                }
                // Asked anew each time: a branch may be parked for the one before it.
                let Some(pending) = pending(self, branch) else { continue };
                let most = match turn {
                    Turn::Head if asked.is_empty() => room.saturating_sub(singles).max(1),
                    Turn::Singles if pending == 1 => 1,
                    Turn::Others => room,
                    Turn::Head | Turn::Singles => continue,
                };
                // One that finds no block has had its turn as well, or the others
                // that have more to compute would wait behind it.
                asked.insert(branch);
                if let Some((start, rows)) = self.extend(branch, pending.min(most), (store, line)) {
                    if !along {
                        room -= rows;
                    }
                    paid.insert(first);
                    shares.push(Share { request: id, branch, start, rows, twin: branch });
                }
            }
        }
        if room == 0
            && let Some(request) = self.requests.get_mut(&id)
        {
            request.ready.make_contiguous().sort_by_key(|branch| asked.contains(branch));
        }
    }

    /// Makes up to `rows` positions of a branch writable, as many as blocks can
    /// be had for; says from where and how many. One for which there is not even a
    /// block is preempted: as it stands it would claim rows in every step that it
    /// cannot use.
    fn extend(
        &mut self,
        id: u64,
        mut rows: usize,
        (store, line): (&mut Store, &mut Option<Vec<Standing>>),
    ) -> Option<(usize, usize)> {
        loop {
            let needed = self.pool.needed(&self.branches.get(&id)?.table, rows);
            if needed <= self.pool.free() || self.make_room(needed, id, line) {
                break;
            }
            if rows == 1 {
                self.park(id);
                return None;
            }
            rows /= 2;
        }
        let state = self.branches.get_mut(&id)?;
        let start = state.table.len();
        match self.pool.extend(&mut state.table, rows) {
            Ok(Some(copy)) => store.copy(copy),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "blocks that were free have gone");
                return None;
            }
        }
        Some((start, rows))
    }

    fn rows(&self, shares: &[Share]) -> Vec<Row<'_>> {
        let mut rows = Vec::with_capacity(shares.iter().map(Share::computed).sum());
        for share in shares.iter().filter(|share| share.computed() > 0) {
            let Some(state) = self.branches.get(&share.branch) else { continue };
            for position in share.start..share.start + share.rows {
                rows.push(Row {
                    token: state.tokens[position],
                    position,
                    blocks: state.table.blocks(),
                    logits: state.wants_logits(position),
                });
            }
        }
        rows
    }

    /// How many rows of logits a share has asked for.
    fn rows_wanted(&self, share: &Share) -> usize {
        let Some(state) = self.branches.get(&share.branch) else { return 0 };
        (share.start..share.start + share.rows).filter(|position| state.wants_logits(*position)).count()
    }

    /// Counts a share's positions, lists what it has filled, and does with its
    /// logits what its job asks for, but for drawing.
    fn advance(&mut self, share: &Share, logits: &[&[f32]], gain: &mut Gain) {
        self.list(share.branch);
        let Some(state) = self.branches.get_mut(&share.branch) else { return };
        let end = share.start + share.rows;
        let again = state.computed_before.clamp(share.start, end) - share.start;
        state.computed_before = state.computed_before.max(end);
        let Some(request) = self.requests.get_mut(&state.request) else { return };
        let fresh = (share.rows - again) as u64;
        if share.computed() > 0 {
            request.counts.computed += fresh;
            request.counts.recomputed += again as u64;
            self.metrics.computed.inc_by(fresh);
            self.metrics.recomputed.inc_by(again as u64);
        } else {
            request.counts.copied += fresh;
            self.metrics.copied.inc_by(fresh);
        }
        let done = state.pending() == 0;
        let finite = |row: &&[f32]| row.iter().any(|logit| logit.is_finite());
        let lost = !logits.is_empty() && !logits.iter().any(finite);
        match &mut state.job {
            Some(Job::Logits { ids, rows, .. }) => {
                // Its rows are handed over as they are: they say of one text that it
                // cannot be read, and who asked goes on with others.
                if lost {
                    self.metrics.faults.inc();
                    gain.lost += 1;
                } else {
                    gain.given += usize::from(!logits.is_empty());
                }
                rows.extend(logits.iter().map(|row| match ids.as_slice() {
                    [] => row.to_vec(),
                    ids => ids.iter().map(|id| row[*id as usize]).collect(),
                }));
                if done {
                    if let Some(Job::Logits { rows, reply, .. }) = state.job.take() {
                        reply.send(Ok(rows));
                    }
                    self.retire(share.branch);
                }
            }
            Some(Job::Settle(_)) if done => {
                // No fork could draw from such a row, and what the model has done wrong
                // would only show after the step had passed for a good one.
                let result = if lost { Err(not_finite()) } else { Ok(()) };
                state.logits = logits.first().filter(|_| !lost).map(|row| Arc::from(*row));
                if let Some(Job::Settle(reply)) = state.job.take() {
                    reply.send(result);
                }
                self.retire(share.branch);
                if lost {
                    self.metrics.faults.inc();
                    gain.lost += 1;
                } else {
                    self.keep(share.branch);
                    gain.given += 1;
                }
            }
            Some(Job::Settle(_) | Job::Decode(_)) | None => {}
        }
    }

    /// A branch has no job any more, and the KV that it holds is kept for later.
    pub(super) fn retire(&mut self, id: u64) {
        let Some(state) = self.branches.get(&id) else { return };
        let Some(request) = self.requests.get_mut(&state.request) else { return };
        request.retire(id);
        if !state.table.is_empty() {
            request.later.insert(id);
        }
    }

    /// A failed pass: its branches fail, and their KV goes back to what it was.
    fn abandon(&mut self, shares: &[Share], error: &EngineError) {
        for share in shares {
            self.cut(share.branch, share.start);
            let Some(state) = self.branches.get_mut(&share.branch) else { continue };
            if let Some(job) = state.job.take() {
                job.fail(error.clone());
            }
            self.retire(share.branch);
        }
    }
}

#[cfg(test)]
mod tests;
