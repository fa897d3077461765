//! The end of a choice: why it stopped, its answer, its report.

use super::{Choice, Missing};
use crate::search::Scarce;
use crate::search::event::{ChoiceEvent, Event, Finish, Finished, Report, StopReason, Usage};
use crate::search::run::RunError;
use crate::search::run::shared::Told;
use crate::search::tree::Tree;

impl Choice {
    /// Why the search stopped, once it has.
    fn stop_reason(&self) -> StopReason {
        let cut = |reason: StopReason| self.cuts.values().any(|cut| *cut == reason);
        if let Some(reason) = self.ended {
            reason
        } else if self.fault.is_some() {
            StopReason::EngineFault
        } else if self.shared.plan.mode.branches().is_none() {
            match (&self.judge.missing, self.strategy.starved()) {
                (Some(Missing::Budget), _) => StopReason::VerifierTokens,
                (Some(Missing::Fault(_)), _) => StopReason::VerifierFault,
                (None, Some(Scarce::Tokens)) => StopReason::Tokens,
                (None, Some(Scarce::Branches)) => StopReason::Branches,
                (None, None) => self.cut_answer().unwrap_or(StopReason::Completed),
            }
        } else if self.strategy.is_decided() {
            StopReason::Completed
        // Chains go on to their ends without scores; a note says that there are none.
        } else if cut(StopReason::Tokens) || self.strategy.starved() == Some(Scarce::Tokens) {
            StopReason::Tokens
        } else if cut(StopReason::Context) {
            StopReason::Context
        } else {
            StopReason::Completed
        }
    }

    /// What cut the answer: anything where it is not complete, or the context on the
    /// way. (A step that is cut at its longest goes on as the next.)
    fn cut_answer(&self) -> Option<StopReason> {
        let answer = self.strategy.answer()?;
        let own = self.cuts.get(&answer.node).filter(|_| !answer.complete).copied();
        let mut path = [answer.node].into_iter().chain(self.tree.ancestors(answer.node));
        let mut context = || path.any(|node| self.cuts.get(&node) == Some(&StopReason::Context));
        own.or_else(|| context().then_some(StopReason::Context))
    }

    /// Emits the answer and the report.
    pub(super) fn finish(mut self) -> Result<(), RunError> {
        // After a fault only a complete answer is one: half a text that the
        // model would have gone on with must not look like success.
        let answer = match (self.strategy.answer(), self.fault.clone()) {
            (Some(answer), fault) if answer.complete || fault.is_none() => Some(answer),
            (_, Some(error)) => return Err(error.into()),
            (_, None) => None,
        };
        let spoken =
            answer.filter(|answer| answer.complete || !self.tree.visible_text(answer.node).is_empty());
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
        self.report_growth();
        let node = self.tree.trajectory(answer.node);
        let (emitter, events) = match self.live.take() {
            Some(mut live) => {
                let events = live.finish(&node);
                (live, events)
            }
            None => {
                let mut whole = self.emitter();
                let events = whole.whole_trajectory(&node);
                (whole, events)
            }
        };
        events.into_iter().for_each(|event| self.emit(event));
        let visible = emitter.visible_tokens(&node);
        let stopped = answer.complete || emitter.cut(&node).is_some();
        let finish = if stopped { Finish::Stop } else { Finish::Length };
        let done = self.done(finish, visible);
        self.emit(done);
        Ok(())
    }

    /// Ends a choice that has no text to show.
    pub(super) fn end_bare(&mut self, reason: StopReason) {
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
        self.counted = true;
        self.shared.counts.kept.inc_by(kept.into());
        self.shared.counts.pruned.inc_by(pruned.into());
        let mut notes = plan.notes.clone();
        notes.extend(self.judge.notes(plan.mode));
        let report = Report {
            effort: plan.effort,
            mode: plan.mode,
            settings: plan.settings.clone(),
            temperature: plan.sampling.temperature,
            budget: self.budget,
            spent_tokens: self.spent,
            verifier: self.shared.verifier.clone().filter(|_| plan.mode.asks().is_some()),
            verifier_tokens: self.judge.tokens,
            verifier_steps: self.judge.steps,
            branches_made: self.made,
            branches_kept: kept,
            branches_pruned: pruned,
            sharing_ratio: self.tree.sharing_ratio(),
            seed: plan.seed,
            stop_reason: stop,
            candidates,
            notes,
        };
        let reasoning_tokens = self.spent - u32::try_from(visible).unwrap_or(u32::MAX).min(self.spent);
        let usage = Usage { completion_tokens: self.spent, reasoning_tokens };
        let tree = std::mem::replace(&mut self.tree, Tree::new(0));
        Event::Done(Box::new(Finished { finish, usage, report, tree }))
    }
}
