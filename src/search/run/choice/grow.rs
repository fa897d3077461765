//! Starting work: leases, forks, and segments within the budget.
//!
//! A branch is settled before it is forked, so that its children share every
//! position; work that forks from one that is not waits for that.

use super::super::flight::{Flight, Growth, Landing, Scoring};
use super::{Aside, Choice};
use crate::engine::{Branch, End, EngineError, Events, Sampling, Segment, rng};
use crate::search::event::BranchState;
use crate::search::{Extend, NodeId, Until, Work, WorkId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// A branch of the engine.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) branch: Branch,
    settled: Settled,
}

/// Whether a branch can be forked.
#[derive(Debug)]
enum Settled {
    /// Its last token is not computed.
    No,
    /// It is being settled; this work forks from it afterwards.
    Soon(Vec<Extend>),
    Yes,
}

/// Log-probabilities that a token's confidence is made of (DeepConf).
const CONFIDENCE_TOP: u8 = 20;

impl Choice {
    /// Asks the strategy until it has nothing more, and starts what it wants.
    pub(super) fn start_work(&mut self, root: &Branch, events: &Events) {
        while self.ended.is_none() && !self.closing {
            let works = self.strategy.ask(self.shared.room.saturating_sub(self.alive));
            if works.is_empty() {
                return;
            }
            for work in works {
                match work {
                    Work::Retire(node) => {
                        self.release(node);
                        self.settle(node, BranchState::Pruned);
                    }
                    Work::Extend(extend) => self.extend(extend, root, events),
                }
            }
        }
    }

    /// Gives a branch back, the verifier's with it. What waits to fork from it never
    /// will, and nobody would say so later.
    pub(super) fn release(&mut self, node: NodeId) {
        self.judge.release(node);
        let Some(Lease { settled, .. }) = self.leases.remove(&node) else { return };
        self.alive -= 1;
        if let Settled::Soon(waiting) = settled {
            waiting.iter().for_each(|extend| self.call_off(extend));
        }
    }

    /// Takes note of a piece of work, and starts it as soon as it can be.
    fn extend(&mut self, extend: Extend, root: &Branch, events: &Events) {
        let in_flight: u32 = self.flights.values().map(|flight| flight.granted - flight.grown.tokens()).sum();
        let granted = extend.max_tokens.min(self.budget.tokens - self.spent - in_flight);
        let injected = u32::try_from(extend.inject.len()).unwrap_or(u32::MAX);
        let flight = Flight {
            node: extend.node,
            granted,
            begun: self.clock,
            injected,
            quiet: None,
            last: None,
            until: extend.until,
            score: extend.score,
            grown: Growth::default(),
        };
        self.flights.insert(extend.id, flight);
        let Some(parent) = extend.fork else { return self.decode(extend, events) };
        if self.alive >= self.shared.room || self.made >= self.budget.branches {
            // A strategy that asks for more than it may gets nothing for it.
            return self.lose(extend.id, EngineError::Misuse("work on a branch that does not exist"));
        }
        self.reserve(extend.node, parent);
        if parent == NodeId::ROOT {
            return self.fork(extend, root, events);
        }
        match self.leases.get_mut(&parent) {
            Some(Lease { settled: Settled::Soon(waiting), .. }) => waiting.push(extend),
            Some(lease @ Lease { settled: Settled::No, .. }) => {
                let settling = lease.branch.settling();
                self.aside.push(Box::pin(async move { Aside::Settled(parent, settling.await) }));
                lease.settled = Settled::Soon(vec![extend]);
            }
            Some(Lease { settled: Settled::Yes, .. }) | None => self.fork(extend, root, events),
        }
    }

    /// Counts a branch that is about to be made.
    fn reserve(&mut self, node: NodeId, parent: NodeId) {
        self.tree.add(node, parent);
        self.alive += 1;
        self.made += 1;
        self.shared.counts.branches.inc();
    }

    /// Makes a branch that was reserved, and starts on it.
    fn fork(&mut self, extend: Extend, root: &Branch, events: &Events) {
        let node = extend.node;
        let key = rng::derive(self.key, u64::from(node.0));
        let branch = match extend.fork {
            None | Some(NodeId::ROOT) => Some(root.fork(key)),
            Some(parent) => self.leases.get(&parent).map(|lease| lease.branch.fork(key)),
        };
        match branch {
            Some(branch) => {
                self.leases.insert(node, Lease { branch, settled: Settled::No });
                self.decode(extend, events);
            }
            None => {
                self.alive -= 1;
                self.lose(extend.id, EngineError::Misuse("work on a branch that does not exist"));
            }
        }
    }

    fn decode(&mut self, extend: Extend, events: &Events) {
        let Extend { id, node, inject, until, greedy, .. } = extend;
        // Somebody reads the tokens as they come, or they tell when the first one came.
        let watched = self.live.is_some() || self.watch.is_some();
        let live = watched || !self.shared.spoke.load(Ordering::Relaxed);
        let granted = self.flights.get_mut(&id).map_or(0, |flight| {
            flight.quiet = (!live).then(Instant::now);
            flight.granted
        });
        let Some(lease) = self.leases.get_mut(&node) else {
            return self.lose(id, EngineError::Misuse("work on a branch that does not exist"));
        };
        let plan = &self.shared.plan;
        let sampling = Sampling {
            temperature: if greedy { 0.0 } else { plan.sampling.temperature },
            ..plan.sampling.clone()
        };
        let top = plan.logprobs.unwrap_or(0);
        let segment = Segment {
            inject,
            max_tokens: granted,
            sampling,
            stop: Arc::clone(&plan.stop),
            top_logprobs: if plan.mode.reads_confidence() { top.max(CONFIDENCE_TOP) } else { top },
            step: (until == Until::Step).then(|| Arc::clone(&plan.separator)),
            live,
        };
        lease.settled = Settled::No;
        lease.branch.decode(segment, id, events);
        self.settle(node, BranchState::Growing);
    }

    /// A branch is settled, or could not be: what waits to fork from it begins,
    /// or is lost.
    pub(super) fn settled(
        &mut self,
        node: NodeId,
        result: &Result<(), EngineError>,
        root: &Branch,
        events: &Events,
    ) {
        let Some(lease) = self.leases.get_mut(&node) else { return };
        let now = if result.is_ok() { Settled::Yes } else { Settled::No };
        let Settled::Soon(waiting) = std::mem::replace(&mut lease.settled, now) else { return };
        for extend in waiting {
            match result {
                Ok(()) if self.ended.is_none() && !self.closing => self.fork(extend, root, events),
                Ok(()) => self.call_off(&extend),
                Err(error) => {
                    self.alive -= 1;
                    self.lose(extend.id, error.clone());
                }
            }
        }
    }

    /// Work that has not begun will not.
    fn call_off(&mut self, extend: &Extend) {
        self.alive -= 1;
        self.land(extend.id, Ok(End::Aborted));
    }

    /// Aborts everything in flight.
    pub(super) fn abort(&mut self) {
        let mut waiting = Vec::new();
        for lease in self.leases.values_mut() {
            lease.branch.abort();
            if let Settled::Soon(extends) = &mut lease.settled {
                waiting.append(extends);
            }
        }
        waiting.iter().for_each(|extend| self.call_off(extend));
    }

    fn lose(&mut self, work: WorkId, error: EngineError) {
        self.land(work, Err(error));
    }

    /// A piece of work is over, but for its scores.
    pub(super) fn land(&mut self, work: WorkId, end: Result<End, EngineError>) {
        let Some(flight) = self.flights.remove(&work) else { return };
        let at = flight.begun + u64::from(flight.grown.tokens());
        let whole = matches!(end, Ok(End::Eos | End::Stop { .. }));
        let step = flight.until == Until::Step && matches!(end, Ok(End::Step | End::Length));
        // Of what ends while the rest is given up nothing is told, so that its scores
        // would only be paid for.
        let told = self.ended.is_none() && !self.closing;
        let scoring = if flight.score && (whole || step) && told { Scoring::Due } else { Scoring::Unasked };
        self.landed.insert((at, work), Landing { node: flight.node, grown: flight.grown, end, scoring });
        if scoring == Scoring::Due && self.budget.verifier_tokens.is_none() {
            self.send_to_verifier((at, work));
        }
    }
}

#[cfg(test)]
mod tests;
