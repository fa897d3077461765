//! One choice of a request: its strategy, its tree and its leases, from the
//! first work to the last outcome.

mod close;
mod grow;
mod judge;
mod watch;

use super::emit::Emitter;
use super::flight::{Flight, Landing, Scoring};
use super::shared::{Shared, Told};
use super::{Delivery, RunError};
use crate::engine::{Branch, End, EngineError, Handle, Inbox, SegmentEvent, channel, rng};
use crate::plan::Budget;
use crate::search::event::{BranchState, ChoiceEvent, Event, StopReason};
use crate::search::tree::Tree;
use crate::search::{Grown, NodeId, Outcome, Strategy, WorkId, build};
use crate::verify::{Lease as Judgement, Scores, VerifyError};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use grow::Lease;
use judge::{Judge, Missing, Passage};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;
use watch::{Lines, Watch};

/// News from beside the segments.
enum Aside {
    /// A branch can be forked, or never will be.
    Settled(NodeId, Result<(), EngineError>),
    /// The verifier has done with a piece of work, for which so many tokens were
    /// charged, and with all that says the same.
    Scored(WorkId, Option<Passage>, u32, Result<Scores, VerifyError>),
}

type Asides = FuturesUnordered<Pin<Box<dyn Future<Output = Aside> + Send>>>;

/// One choice of a request.
pub(super) struct Choice {
    index: u32,
    shared: Arc<Shared>,
    budget: Budget,
    key: u64,
    strategy: Box<dyn Strategy>,
    tree: Tree,
    leases: HashMap<NodeId, Lease>,
    /// Branches alive, those that are about to be forked included.
    alive: usize,
    judge: Judge,
    aside: Asides,
    flights: HashMap<WorkId, Flight>,
    landed: BTreeMap<(u64, WorkId), Landing>,
    clock: u64,
    spent: u32,
    made: u32,
    /// Whether the branches made are counted by their fate.
    counted: bool,
    /// What cut each branch that is not complete, or was only within the reserve.
    cuts: BTreeMap<NodeId, StopReason>,
    fault: Option<EngineError>,
    /// What ended it from outside.
    ended: Option<StopReason>,
    /// The strategy is done, and what is still in flight is given up.
    closing: bool,
    /// Emits the one trajectory of a mode that has no selection to wait for.
    live: Option<Emitter>,
    /// Which branches have changed, where somebody watches them.
    watch: Option<Watch>,
    lines: Lines,
}

impl Drop for Choice {
    fn drop(&mut self) {
        // Of a choice that is dropped before its end, or fails, nothing is kept.
        if !self.counted {
            self.shared.counts.pruned.inc_by(self.made.into());
        }
    }
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
            alive: 0,
            judge: Judge::default(),
            aside: Asides::new(),
            flights: HashMap::new(),
            landed: BTreeMap::new(),
            clock: 0,
            spent: 0,
            made: 0,
            counted: false,
            cuts: BTreeMap::new(),
            fault: None,
            ended: None,
            closing: false,
            live: None,
            watch: (shared.delivery == Delivery::Watched).then(Watch::default),
            lines: Lines::default(),
            shared: Arc::clone(shared),
        };
        if shared.delivery != Delivery::Whole && !plan.mode.selects() {
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

    /// Takes the lease on the verifier that its request has opened.
    pub(super) fn judged_by(&mut self, root: Result<Option<Arc<Judgement>>, VerifyError>) {
        self.judge.open(root, self.index == 0);
    }

    /// Runs the choice to its `Done`, or until `limit` says why it must end.
    pub(super) async fn run(
        mut self,
        engine: &Handle,
        root: &Branch,
        mut limit: Pin<&mut impl Future<Output = StopReason>>,
    ) -> Result<(), RunError> {
        let (events, mut inbox) = channel();
        loop {
            self.start_work(root, &events);
            while self.deliver() {
                self.start_work(root, &events);
                self.close_early();
            }
            if self.flights.is_empty() && (self.landed.is_empty() || self.closing) {
                break;
            }
            self.report_growth();
            // The limit first, or an engine that always has news would outrun
            // it; the engine's end last, for what it said before that counts.
            tokio::select! {
                biased;
                reason = &mut limit, if self.ended.is_none() => {
                    self.ended = Some(reason);
                    self.abort();
                }
                Some(news) = self.aside.next() => match news {
                    Aside::Settled(node, result) => self.settled(node, &result, root, &events),
                    Aside::Scored(work, passage, cost, result) => self.scored((work, cost), passage, result),
                },
                event = inbox.recv() => {
                    if let Some((work, happened)) = event {
                        self.take(work, happened);
                    }
                    self.drain(&mut inbox);
                }
                () = engine.dead(), if !self.flights.is_empty() => {
                    self.drain(&mut inbox);
                    let lost: Vec<WorkId> = self.flights.keys().copied().collect();
                    lost.into_iter().for_each(|work| self.take(work, SegmentEvent::Failed(EngineError::Closed)));
                }
            }
        }
        self.finish()
    }

    /// Gives up what is in flight once the strategy wants nothing more of it.
    /// What still comes of it is counted, and not told; nor is what has landed
    /// already, which would be told or not as the load has it.
    fn close_early(&mut self) {
        if !self.closing && self.strategy.is_done() {
            self.closing = true;
            self.abort();
        }
    }

    /// Takes every event that waits.
    fn drain(&mut self, inbox: &mut Inbox) {
        while let Some((work, happened)) = inbox.try_recv() {
            self.take(work, happened);
        }
    }

    /// Takes one event of the engine.
    fn take(&mut self, work: WorkId, event: SegmentEvent) {
        let Some(flight) = self.flights.get_mut(&work) else { return };
        let node = flight.node;
        if !matches!(event, SegmentEvent::Token(_)) {
            let (pace, times) = flight.pace();
            (0..times).for_each(|_| self.shared.counts.inter_token.observe(pace));
        }
        let end = match event {
            SegmentEvent::Token(mut token) => {
                let sampled = flight.injected == 0;
                flight.injected = flight.injected.saturating_sub(1);
                flight.grown.ids.push(token.id);
                if sampled {
                    flight.grown.logprob.0 += f64::from(token.logprob);
                    flight.grown.logprob.1 += 1;
                    if self.shared.plan.mode.reads_confidence() && !token.top.is_empty() {
                        let sum: f32 = token.top.iter().map(|(_, logprob)| logprob).sum();
                        flight.grown.confidences.push(-sum / token.top.len() as f32);
                    }
                    if flight.quiet.is_none() {
                        let now = Instant::now();
                        if let Some(last) = flight.last.replace(now) {
                            self.shared.counts.inter_token.observe((now - last).as_secs_f64());
                        } else if !self.shared.spoke.swap(true, Ordering::Relaxed) {
                            let waited = now - self.shared.arrived;
                            self.shared.counts.first_token.observe(waited.as_secs_f64());
                        }
                    }
                }
                // A confidence takes more alternatives than the client asked for, and a
                // tree keeps every token of every branch.
                token.top.truncate(self.shared.plan.logprobs.unwrap_or(0).into());
                token.top.shrink_to_fit();
                self.spent += 1;
                self.shared.generated.fetch_add(1, Ordering::Relaxed);
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
                if !self.tree.has_node(id) {
                    return self.land(work, Ok(end));
                }
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
        self.land(work, end);
    }

    /// Tells the strategy the earliest outcome, if nothing in flight can still
    /// come before it and its scores are there.
    fn deliver(&mut self) -> bool {
        if self.closing {
            return false;
        }
        let Some((&(at, work), landing)) = self.landed.iter().next() else { return false };
        let scoring = landing.scoring;
        let earlier = |(id, flight): (&WorkId, &Flight)| {
            (flight.begun + u64::from(flight.grown.tokens()), *id) < (at, work)
        };
        if self.flights.iter().any(earlier) {
            return false;
        }
        // A clock waits for nobody.
        if self.ended.is_none() {
            match scoring {
                Scoring::Due => {
                    self.send_to_verifier((at, work));
                    return self
                        .landed
                        .get(&(at, work))
                        .is_some_and(|landing| landing.scoring != Scoring::Out)
                        && self.deliver();
                }
                Scoring::Out => return false,
                Scoring::Unasked | Scoring::Done | Scoring::Failed => {}
            }
        }
        let Some(landing) = self.landed.remove(&(at, work)) else { return false };
        let id = landing.node;
        self.clock = self.clock.max(at);
        let outcome = self.outcome(landing);
        let complete = matches!(&outcome, Outcome::Grown(grown) if grown.complete);
        self.strategy.tell(work, outcome);
        if let Some(watch) = &mut self.watch {
            watch.judged(id);
        }
        if self.shared.plan.mode.selects() {
            self.report_outcome(complete);
        }
        true
    }

    /// What the strategy is told of a landing. What a branch said before it was
    /// lost is kept in the account; a branch that never said anything is none.
    fn outcome(&mut self, landing: Landing) -> Outcome {
        let Landing { node: id, grown, end, scoring } = landing;
        let end = end.map_err(|error| self.fault = Some(error)).ok();
        let unscorable = scoring == Scoring::Failed && self.judge.tells_of(id);
        let cut = matches!(end, Some(End::Length | End::Step));
        if !self.tree.has_node(id) || (!self.tree.has_tokens(id) && !cut) {
            self.release(id);
            return Outcome::Abandoned;
        }
        let length = self.tree.length(id);
        let plan = &self.shared.plan;
        let full = plan.prompt.len() + length >= plan.positions;
        let extensible = cut && !full;
        let Budget { tokens: most, reserve, branch_tokens, .. } = self.budget;
        let used = u32::try_from(length).unwrap_or(u32::MAX);
        if end == Some(End::Length) {
            let context = branch_tokens < most && used.saturating_add(reserve) >= branch_tokens;
            self.cuts.insert(id, if context { StopReason::Context } else { StopReason::Tokens });
        } else if self.spent <= most - reserve && used <= branch_tokens.saturating_sub(reserve) {
            // It was cut, went on with what others left, and came to its end.
            self.cuts.remove(&id);
        }
        let scores = (scoring == Scoring::Done).then(|| self.tree.node(id).scores.clone());
        if !extensible {
            self.release(id);
        }
        Outcome::Grown(Grown {
            tokens: grown.tokens(),
            text: self.tree.visible_text(id),
            mean_logprob: self.tree.mean_logprob(id),
            step_logprob: grown.logprob.0 / f64::from(grown.logprob.1),
            ids: grown.ids,
            confidences: grown.confidences,
            scores,
            // One that cannot be scored says nothing about the verifier.
            unscored: scoring == Scoring::Failed && !unscorable,
            complete: self.tree.node(id).complete,
            extensible,
        })
    }

    fn emit(&self, event: Event) {
        // Nobody listens once the client has left, and then this task is about
        // to be aborted.
        drop(self.shared.tell.send(Told::Event(ChoiceEvent { index: self.index, event })));
    }
}
