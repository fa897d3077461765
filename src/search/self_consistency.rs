//! `self_consistency`: a vote over independent chains of thought (Wang et al.,
//! arXiv 2203.11171), fixed or in waves.
//!
//! The vote groups by canonical answer; a chain without an answer has no vote;
//! among equal classes the one seen first wins; the text returned is the winning
//! class's best member. Without any answer there is no vote and the best complete
//! chain is returned.
//!
//! An adaptive vote begins a wave of chains at a time and stops by the posterior
//! of the leader (Adaptive-Consistency, arXiv 2305.11860) or once a whole wave
//! agrees, whose answer it then gives (ESC, arXiv 2401.10480). What is in flight is
//! given up as soon as it cannot change a vote any more; of confidences, which have
//! no bound, that is never known.

use super::chains::{Chains, Turn};
use super::event::Candidate;
use super::grove::{Index, State, Twig};
use super::{Answer, NodeId, Outcome, Scarce, Strategy, Work, WorkId, confidence, posterior};
use crate::plan::{Budget, Marker, VoteStop, Voting, Weight};
use std::collections::HashMap;

/// A vote over independent chains.
#[derive(Debug)]
pub(super) struct SelfConsistency {
    chains: Chains,
    vote: Voting,
    /// How sure every chain is, where that is read.
    traces: HashMap<NodeId, Trace>,
    /// Nothing that was still to come could have changed the answer, or needed to.
    decided: bool,
    /// The answer of the window that ended the vote.
    agreed: Option<String>,
}

/// The confidence of each of a chain's tokens, and of the whole.
#[derive(Debug, Default)]
struct Trace {
    tokens: Vec<f32>,
    confidence: Option<f64>,
}

impl SelfConsistency {
    pub(super) fn new(vote: Voting, budget: Budget, marker: Option<Marker>) -> Self {
        let score = matches!(vote.weight, Weight::Score(_));
        Self {
            chains: Chains::new((vote.branches, vote.wave), score, budget, marker),
            vote,
            traces: HashMap::new(),
            decided: false,
            agreed: None,
        }
    }

    /// What a chain weighs, at most 1 where it is a score.
    fn weight(&self, twig: &Twig) -> f64 {
        self.chains.weight(twig, |twig| self.own_weight(twig))
    }

    /// What a chain weighs whatever the others do; `None` where it has no score.
    fn own_weight(&self, twig: &Twig) -> Option<f64> {
        match self.vote.weight {
            Weight::Count => Some(1.0),
            Weight::Score(aggregate) => twig.score(aggregate),
            Weight::Confidence(_) => {
                Some(self.traces.get(&twig.node).and_then(|trace| trace.confidence).unwrap_or(0.0))
            }
        }
    }

    /// The weights of the answers in the vote that chooses, the heaviest first.
    fn weights(&self) -> Vec<f64> {
        let classes = self.chains.grove.classes(self.vote.likelihood, |twig| self.weight(twig));
        let mut weights: Vec<f64> = classes.into_iter().map(|class| class.weight).collect();
        weights.sort_by(|a, b| b.total_cmp(a));
        weights
    }

    /// What the heaviest complete chain weighs.
    fn heaviest(&self) -> f64 {
        let grove = &self.chains.grove;
        grove.all(State::Complete).map(|index| self.weight(grove.twig(index))).fold(0.0, f64::max)
    }

    /// Whether no chain that is still to end can change the answer. Confidences
    /// have no bound, so that is not known of them.
    fn is_certain(&self) -> bool {
        if matches!(self.vote.weight, Weight::Confidence(_)) {
            return false;
        }
        let leading = self.chains.unbeatable(self.vote.likelihood, |twig| self.own_weight(twig));
        leading.is_some_and(|answer| !self.may_be_overruled(&answer))
    }

    /// Whether a whole window may still agree on another answer than `leading`,
    /// whatever the vote says.
    fn may_be_overruled(&self, leading: &str) -> bool {
        if self.vote.stop != VoteStop::Window {
            return false;
        }
        let (wave, to_come) = (self.chains.wave(), self.chains.to_come());
        let begun = self.chains.current().len();
        if to_come.saturating_sub(wave - begun) >= wave {
            return true;
        }
        let mut said = (self.chains.current())
            .filter(|twig| matches!(twig.state, State::Complete | State::Gone))
            .map(|twig| twig.value.as_deref());
        let first = said.next();
        let agree = first.is_none_or(|first| first.is_some_and(|answer| answer != leading))
            && said.all(|value| Some(value) == first);
        agree && begun + to_come >= wave
    }

    /// Whether the wave that has ended is enough.
    fn is_convinced(&mut self) -> bool {
        self.decided = match self.vote.stop {
            VoteStop::Fixed => false,
            VoteStop::Posterior(confidence) => {
                let classes = self.weights();
                // Confidences have a scale of their own: the surest chain is one vote.
                let vote = match self.vote.weight {
                    Weight::Confidence(_) => self.heaviest(),
                    Weight::Count | Weight::Score(_) => 1.0,
                };
                let at = |place: usize| classes.get(place).copied().unwrap_or(0.0) / vote;
                at(0) > 0.0 && posterior::majority(at(0), at(1)) >= confidence
            }
            VoteStop::Window => {
                let whole = self.chains.current().len() == self.chains.wave();
                let mut values = self.chains.current().map(|twig| twig.value.as_deref());
                let first = values.next().flatten();
                let agree = values.all(|value| value == first) && whole;
                self.agreed = first.filter(|_| agree).map(str::to_owned);
                self.agreed.is_some()
            }
        };
        self.decided
    }

    fn chosen(&self) -> Option<Index> {
        // ESC gives the answer of its window, whatever the waves before it said.
        self.chains.grove.elect((true, self.vote.likelihood), |twig| match &self.agreed {
            None => self.weight(twig),
            agreed if twig.value == *agreed => self.weight(twig).max(f64::MIN_POSITIVE),
            Some(_) => 0.0,
        })
    }
}

impl Strategy for SelfConsistency {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        loop {
            match self.chains.turn(room) {
                Turn::Work(works) => return works,
                Turn::WaveOver => {}
            }
            let more = self.chains.to_come() > 0;
            // The last window gives its answer too, though it saves nothing.
            let convinced = (more || self.vote.stop == VoteStop::Window) && self.is_convinced();
            if more && !convinced {
                self.chains.next_wave();
                continue;
            }
            let works = self.chains.finish();
            if !works.is_empty() {
                return works;
            }
        }
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        let confidences = match &outcome {
            Outcome::Grown(grown) => grown.confidences.clone(),
            Outcome::Abandoned => Vec::new(),
        };
        let Some(index) = self.chains.grove.land(id, outcome) else { return };
        if let Weight::Confidence(measure) = self.vote.weight {
            let trace = self.traces.entry(self.chains.grove.twig(index).node).or_default();
            trace.tokens.extend(confidences);
            trace.confidence = confidence::of_trace(&trace.tokens, measure);
        }
        if self.chains.is_growing() && self.is_certain() {
            self.decided = true;
            self.chains.end();
        }
    }

    fn answer(&self) -> Option<Answer> {
        self.chains.grove.answer(self.chosen())
    }

    fn is_done(&self) -> bool {
        self.chains.is_over()
    }

    fn is_decided(&self) -> bool {
        self.decided
    }

    fn starved(&self) -> Option<Scarce> {
        self.chains.grove.starved
    }

    fn candidates(&self) -> Vec<Candidate> {
        let plain = self.vote.weight == Weight::Count;
        self.chains.grove.candidates(self.chosen(), |twig| (!plain).then(|| self.weight(twig)))
    }
}

#[cfg(test)]
pub(super) mod tests;
