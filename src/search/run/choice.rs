//! One choice of a request: its strategy, its tree and its leases, from the
//! first work to the report.

mod watch;

use super::emit::Emitter;
use super::flight::{Flight, Landing};
use super::shared::{Shared, Told};
use super::{Delivery, RunError};
use crate::engine::{Branch, End, EngineError, Events, Handle, Segment, SegmentEvent, rng};
use crate::plan::Budget;
use crate::search::event::{BranchState, ChoiceEvent, Event, Finish, Finished, Report, StopReason, Usage};
use crate::search::tree::Tree;
use crate::search::{Extend, Grown, NodeId, Outcome, Strategy, Work, WorkId, build};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::time::Instant;
use watch::Watch;

/// One choice of a request.
pub(super) struct Choice {
    index: u32,
    shared: Arc<Shared>,
    budget: Budget,
    key: u64,
    strategy: Box<dyn Strategy>,
    tree: Tree,
    leases: HashMap<NodeId, Branch>,
    flights: HashMap<WorkId, Flight>,
    landed: BTreeMap<(u64, WorkId), Landing>,
    clock: u64,
    spent: u32,
    made: u32,
    /// What cut each branch that is not complete, or was only within the reserve.
    cuts: BTreeMap<NodeId, StopReason>,
    fault: Option<EngineError>,
    /// What ended it from outside.
    ended: Option<StopReason>,
    /// Emits the one trajectory of a mode that has no selection to wait for.
    live: Option<Emitter>,
    /// Which branches have changed, where somebody watches them.
    watch: Option<Watch>,
}

impl Choice {
    pub(super) fn new(index: usize, shared: &Arc<Shared>) -> Self {
        let plan = &shared.plan;
        let budget = plan.choices[index];
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let mut choice = Self {
            index,
            budget,
            key: rng::derive(plan.seed, u64::from(index)),
            strategy: build(plan.mode, budget, plan.marker.as_ref()),
            tree: Tree::new(plan.prompt.len()),
            leases: HashMap::new(),
            flights: HashMap::new(),
            landed: BTreeMap::new(),
            clock: 0,
            spent: 0,
            made: 0,
            cuts: BTreeMap::new(),
            fault: None,
            ended: None,
            live: None,
            watch: (shared.delivery == Delivery::Watched).then(Watch::default),
            shared: Arc::clone(shared),
        };
        if shared.delivery != Delivery::Whole && plan.mode.branches() == 1 {
            choice.live = Some(choice.emitter());
        }
        choice
    }

    fn emitter(&self) -> Emitter {
        let plan = &self.shared.plan;
        Emitter::new(plan.marker.as_ref(), plan.stop.strings.clone(), plan.logprobs.is_some())
    }

    /// Ends a choice whose turn never came.
    pub(super) fn end_unbegun(mut self, reason: StopReason) {
        self.ended = Some(reason);
        self.end_bare(reason);
    }

    /// Runs the choice to its `Done`, or until `limit` says why it must end.
    pub(super) async fn run(
        mut self,
        engine: &Handle,
        root: &Branch,
        mut limit: Pin<&mut impl Future<Output = StopReason>>,
    ) -> Result<(), RunError> {
        let (events, mut inbox) = mpsc::unbounded_channel();
        loop {
            self.start_work(root, &events);
            while self.deliver() {
                self.start_work(root, &events);
            }
            if self.flights.is_empty() {
                break;
            }
            self.report(false);
            // The limit first, or an engine that always has news would outrun
            // it; the engine's end last, for what it said before that counts.
            tokio::select! {
                biased;
                reason = &mut limit, if self.ended.is_none() => {
                    self.ended = Some(reason);
                    self.leases.values().for_each(Branch::abort);
                }
                event = inbox.recv() => {
                    if let Some((work, happened)) = event {
                        self.take(work, happened);
                    }
                    self.drain(&mut inbox);
                }
                () = engine.dead() => {
                    self.drain(&mut inbox);
                    let lost: Vec<WorkId> = self.flights.keys().copied().collect();
                    lost.into_iter().for_each(|work| self.take(work, SegmentEvent::Failed(EngineError::Closed)));
                }
            }
        }
        self.finish()
    }

    /// Takes every event that waits.
    fn drain(&mut self, inbox: &mut mpsc::UnboundedReceiver<(WorkId, SegmentEvent)>) {
        while let Ok((work, happened)) = inbox.try_recv() {
            self.take(work, happened);
        }
    }

    /// Asks the strategy until it has nothing more, and starts what it wants.
    fn start_work(&mut self, root: &Branch, events: &Events) {
        while self.ended.is_none() {
            let works = self.strategy.ask(self.shared.room.saturating_sub(self.leases.len()));
            if works.is_empty() {
                return;
            }
            for work in works {
                match work {
                    Work::Retire(node) => {
                        drop(self.leases.remove(&node));
                        self.settle(node, BranchState::Pruned);
                    }
                    Work::Extend(extend) => self.extend(extend, root, events),
                }
            }
        }
    }

    fn extend(&mut self, extend: Extend, root: &Branch, events: &Events) {
        let Extend { id, node, fork, inject, max_tokens } = extend;
        if let Some(parent) = fork
            && self.leases.len() < self.shared.room
            && self.made < self.budget.branches
        {
            let parent_lease = if parent == NodeId::ROOT { Some(root) } else { self.leases.get(&parent) };
            if let Some(lease) =
                parent_lease.map(|lease| lease.fork(rng::derive(self.key, u64::from(node.0))))
            {
                self.leases.insert(node, lease);
                self.tree.add(node, parent);
                self.made += 1;
                self.shared.counts.branches.inc();
            }
        }
        let Some(lease) = self.leases.get(&node) else {
            // A strategy that asks for more than it may gets nothing for it.
            let end = Err(EngineError::Misuse("work on a branch that does not exist"));
            self.landed.insert((self.clock, id), Landing { node, tokens: 0, end });
            return;
        };
        let in_flight: u32 = self.flights.values().map(|flight| flight.granted - flight.got).sum();
        let granted = max_tokens.min(self.budget.tokens - self.spent - in_flight);
        let injected = u32::try_from(inject.len()).unwrap_or(u32::MAX);
        self.flights.insert(id, Flight { node, granted, begun: self.clock, got: 0, injected, last: None });
        let plan = &self.shared.plan;
        let segment = Segment {
            inject,
            max_tokens: granted,
            sampling: plan.sampling.clone(),
            stop: Arc::clone(&plan.stop),
            top_logprobs: plan.logprobs.unwrap_or(0),
        };
        lease.decode(segment, id, events);
        self.settle(node, BranchState::Growing);
    }

    /// Takes one event of the engine.
    fn take(&mut self, work: WorkId, event: SegmentEvent) {
        let Some(flight) = self.flights.get_mut(&work) else { return };
        let node = flight.node;
        let end = match event {
            SegmentEvent::Token(token) => {
                flight.got += 1;
                let sampled = flight.injected == 0;
                flight.injected = flight.injected.saturating_sub(1);
                if sampled {
                    let now = Instant::now();
                    if let Some(last) = flight.last.replace(now) {
                        self.shared.counts.inter_token.observe((now - last).as_secs_f64());
                    } else if !self.shared.spoke.swap(true, Ordering::Relaxed) {
                        let waited = now - self.shared.arrived;
                        self.shared.counts.first_token.observe(waited.as_secs_f64());
                    }
                }
                self.spent += 1;
                self.shared.counts.tokens.inc();
                self.tree.node_mut(node).push(token, sampled);
                if let Some(watch) = &mut self.watch {
                    watch.grew(node);
                }
                if let Some(mut live) = self.live.take() {
                    live.push(self.tree.node(node)).into_iter().for_each(|event| self.emit(event));
                    self.live = Some(live);
                }
                return;
            }
            SegmentEvent::End { end, tail } => {
                let id = node;
                let node = self.tree.node_mut(node);
                node.text.push_str(&tail);
                if let Some(end) = node.ends.last_mut() {
                    *end = node.text.len();
                }
                node.complete = matches!(end, End::Eos | End::Stop { .. });
                node.cut = if let End::Stop { cut } = end { Some(cut) } else { None };
                let state = if node.complete { BranchState::Complete } else { BranchState::Cut };
                self.settle(id, state);
                Ok(end)
            }
            SegmentEvent::Failed(error) => {
                self.settle(node, BranchState::Pruned);
                Err(error)
            }
        };
        if let Some(flight) = self.flights.remove(&work) {
            let at = flight.begun + u64::from(flight.got);
            self.landed.insert((at, work), Landing { node, tokens: flight.got, end });
        }
    }

    /// Tells the strategy the earliest outcome, if nothing in flight can still
    /// come before it.
    fn deliver(&mut self) -> bool {
        let Some(&(at, work)) = self.landed.keys().next() else { return false };
        let earlier =
            |(id, flight): (&WorkId, &Flight)| (flight.begun + u64::from(flight.got), *id) < (at, work);
        if self.flights.iter().any(earlier) {
            return false;
        }
        let Some(Landing { node: id, tokens, end }) = self.landed.remove(&(at, work)) else { return false };
        self.clock = self.clock.max(at);
        let outcome = self.outcome(id, tokens, end);
        self.strategy.tell(work, outcome);
        if let Some(watch) = &mut self.watch {
            watch.judged(id);
        }
        if self.shared.plan.mode.branches() > 1 {
            self.report(true);
        }
        true
    }

    /// What the strategy is told of a landing. What a branch said before it was
    /// lost is kept in the account; a branch that never said anything is none.
    fn outcome(&mut self, id: NodeId, tokens: u32, end: Result<End, EngineError>) -> Outcome {
        let end = end.map_err(|error| self.fault = Some(error)).ok();
        if !self.tree.has_tokens(id) && !matches!(end, Some(End::Length)) {
            self.leases.remove(&id);
            return Outcome::Abandoned;
        }
        let node = self.tree.node(id);
        let plan = &self.shared.plan;
        let full = plan.prompt.len() + node.tokens.len() >= plan.positions;
        let extensible = end == Some(End::Length) && !full;
        let Budget { tokens: most, reserve, branch_tokens, .. } = self.budget;
        let used = u32::try_from(node.tokens.len()).unwrap_or(u32::MAX);
        if end == Some(End::Length) {
            let context = branch_tokens < most && used.saturating_add(reserve) >= branch_tokens;
            self.cuts.insert(id, if context { StopReason::Context } else { StopReason::Tokens });
        } else if self.spent <= most - reserve && used <= branch_tokens.saturating_sub(reserve) {
            // It was cut, went on with what others left, and came to its end.
            self.cuts.remove(&id);
        }
        if !extensible {
            self.leases.remove(&id);
        }
        let (text, mean_logprob) = (node.visible_text().to_owned(), node.mean_logprob());
        Outcome::Grown(Grown { tokens, text, mean_logprob, complete: node.complete, extensible })
    }

    /// Why the search stopped, once it has.
    fn stop_reason(&self) -> StopReason {
        let cut = |reason: StopReason| self.cuts.values().any(|cut| *cut == reason);
        if let Some(reason) = self.ended {
            reason
        } else if self.fault.is_some() {
            StopReason::EngineFault
        } else if cut(StopReason::Tokens) {
            StopReason::Tokens
        } else if cut(StopReason::Context) {
            StopReason::Context
        } else {
            StopReason::Completed
        }
    }

    fn emit(&self, event: Event) {
        // Nobody listens once the client has left, and then this task is about
        // to be aborted.
        drop(self.shared.tell.send(Told::Event(ChoiceEvent { index: self.index, event })));
    }

    /// Emits the answer and the report.
    fn finish(mut self) -> Result<(), RunError> {
        // After a fault only a complete answer is one: half a text that the
        // model would have gone on with must not look like success.
        let answer = match (self.strategy.answer(), self.fault.clone()) {
            (Some(answer), fault) if answer.complete || fault.is_none() => Some(answer),
            (_, Some(error)) => return Err(error.into()),
            (_, None) => None,
        };
        let spoken =
            answer.filter(|answer| answer.complete || !self.tree.node(answer.node).visible_text().is_empty());
        let reason = self.ended.unwrap_or(StopReason::Completed);
        let answer = match (spoken, self.ended, answer) {
            (Some(answer), ..) | (None, None, Some(answer)) => answer,
            (None, Some(_), _) | (None, None, None) => {
                self.end_bare(reason);
                return Ok(());
            }
        };
        if let Some(watch) = &mut self.watch {
            watch.close(answer.node);
        }
        self.report(false);
        let node = self.tree.node(answer.node);
        let (events, visible) = match self.live.take() {
            Some(mut live) => (live.finish(node), live.visible_tokens(node)),
            None => self.emitter().whole_trajectory(node),
        };
        events.into_iter().for_each(|event| self.emit(event));
        let finish = if answer.complete { Finish::Stop } else { Finish::Length };
        let done = self.done(finish, visible);
        self.emit(done);
        Ok(())
    }

    /// Ends a choice that has no text to show.
    fn end_bare(&mut self, reason: StopReason) {
        let event = ChoiceEvent { index: self.index, event: self.done(Finish::Length, 0) };
        // As with events: nobody listens once the client has left.
        drop(self.shared.tell.send(Told::Bare(event, self.shared.limit.error(reason))));
    }

    /// The end with its report, and its mark on the metrics.
    fn done(&mut self, finish: Finish, visible: usize) -> Event {
        let stop = self.stop_reason();
        let plan = &self.shared.plan;
        let candidates = self.strategy.candidates();
        let kept = candidates.iter().filter(|candidate| candidate.complete).count();
        let kept = u32::try_from(kept).unwrap_or(u32::MAX);
        let pruned = self.made.saturating_sub(kept);
        self.shared.metrics.choices.with_label_values(&[plan.mode.name(), stop.name()]).inc();
        self.shared.counts.kept.inc_by(kept.into());
        self.shared.counts.pruned.inc_by(pruned.into());
        let report = Report {
            effort: plan.effort,
            mode: plan.mode,
            temperature: plan.sampling.temperature,
            budget: self.budget,
            spent_tokens: self.spent,
            branches_made: self.made,
            branches_kept: kept,
            branches_pruned: pruned,
            sharing_ratio: self.tree.sharing_ratio(),
            seed: plan.seed,
            stop_reason: stop,
            candidates,
            notes: plan.notes.clone(),
        };
        let reasoning_tokens = self.spent - u32::try_from(visible).unwrap_or(u32::MAX).min(self.spent);
        let usage = Usage { completion_tokens: self.spent, reasoning_tokens };
        let tree = std::mem::replace(&mut self.tree, Tree::new(0));
        Event::Done(Box::new(Finished { finish, usage, report, tree }))
    }
}
