//! `self_consistency`: a vote over independent chains of thought (Wang et al.,
//! arXiv 2203.11171), fixed or in waves; and `best_of_n`, which differs in what
//! the chains are chosen by.
//!
//! Every chain is granted an equal share of the budget less the answer reserve.
//! What early finishers leave goes to the chains that were cut, round by round;
//! when no chain is complete in the end, the likeliest prefix is completed
//! within the reserve. The vote groups by canonical answer; a chain without an
//! answer has no vote; among equal classes the one seen first wins; the text
//! returned is the winning class's best member. Without any answer there is no
//! vote and the best complete chain is returned.
//!
//! An adaptive vote begins a wave of chains at a time and stops by the posterior
//! of the leader (Adaptive-Consistency, arXiv 2305.11860) or once a whole wave
//! agrees, whose answer it then gives (ESC, arXiv 2401.10480). What is in flight is
//! given up as soon as it cannot change a vote any more; of confidences, which have
//! no bound, that is never known.

use super::event::Candidate;
use super::grove::{Grove, Growth, Index, State, Twig};
use super::{Answer, NodeId, Outcome, Strategy, Until, Work, WorkId, confidence, posterior};
use crate::plan::{Best, Budget, Marker, Measure, Rank, VoteStop, Voting, Weight};
use crate::verify::Aggregate;
use std::collections::HashMap;

/// Independent chains, and a choice among them.
#[derive(Debug)]
pub(super) struct Chains {
    grove: Grove,
    branches: u32,
    /// Tokens that every chain can begin with.
    share: u32,
    wave: u32,
    stop: VoteStop,
    by: By,
    /// Whether equal answers add up, and how much a trajectory's likelihood counts.
    vote: (bool, f64),
    /// Chains of the wave under way, and of all waves.
    current: Vec<Index>,
    asked: u32,
    /// How sure every chain is, where that is read.
    traces: HashMap<NodeId, Trace>,
    over: Over,
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

/// What a chain weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Count,
    Score(Aggregate),
    Confidence(Measure),
    Likelihood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    /// The last prefix is being completed.
    Finishing,
    Yes,
}

impl Chains {
    pub(super) fn voting(vote: Voting, budget: Budget, marker: Option<Marker>) -> Self {
        let by = match vote.weight {
            Weight::Count => By::Count,
            Weight::Score(aggregate) => By::Score(aggregate),
            Weight::Confidence(measure) => By::Confidence(measure),
        };
        Self::new((vote.branches, vote.wave, vote.stop), (by, (true, vote.likelihood)), budget, marker)
    }

    pub(super) fn best(best: Best, budget: Budget, marker: Option<Marker>) -> Self {
        let by = match best.by {
            Rank::Score(aggregate) | Rank::Judge(aggregate) => By::Score(aggregate),
            Rank::Likelihood => By::Likelihood,
        };
        Self::new(
            (best.branches, best.branches, VoteStop::Fixed),
            (by, (best.weighted, best.likelihood)),
            budget,
            marker,
        )
    }

    fn new(
        (branches, wave, stop): (u32, u32, VoteStop),
        (by, vote): (By, (bool, f64)),
        budget: Budget,
        marker: Option<Marker>,
    ) -> Self {
        // A chain without a token has nothing to say.
        let thinkable = budget.tokens.saturating_sub(budget.reserve);
        let branches = branches.min(budget.branches).min(thinkable).max(1);
        Self {
            grove: Grove::new(budget, marker),
            branches,
            share: thinkable / branches,
            wave: wave.clamp(1, branches),
            stop,
            by,
            vote,
            current: Vec::new(),
            asked: 0,
            traces: HashMap::new(),
            over: Over::No,
            decided: false,
            agreed: None,
        }
    }

    fn growth(&self) -> Growth {
        let score = matches!(self.by, By::Score(_));
        Growth { until: Until::End, greedy: false, score, most: u32::MAX }
    }

    /// What a chain weighs, at most 1 where it is a score. One that has none,
    /// because its verifier had none for it or no more to say, weighs what the others do.
    fn weight(&self, twig: &Twig) -> f64 {
        self.own_weight(twig).unwrap_or_else(|| {
            let complete = self.grove.all(State::Complete);
            let scores: Vec<f64> =
                complete.filter_map(|index| self.own_weight(self.grove.twig(index))).collect();
            if scores.is_empty() { 1.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
        })
    }

    /// What a chain weighs whatever the others do; `None` where it has no score.
    fn own_weight(&self, twig: &Twig) -> Option<f64> {
        match self.by {
            By::Count => Some(1.0),
            By::Likelihood => Some(twig.mean_logprob.exp()),
            By::Score(aggregate) => twig.score(aggregate),
            By::Confidence(_) => {
                Some(self.traces.get(&twig.node).and_then(|trace| trace.confidence).unwrap_or(0.0))
            }
        }
    }

    /// The weights of the answers in the vote that chooses, the heaviest first.
    fn weights(&self) -> Vec<f64> {
        let classes = self.grove.classes(self.vote.1, |twig| self.weight(twig));
        let mut weights: Vec<f64> = classes.into_iter().map(|class| class.weight).collect();
        weights.sort_by(|a, b| b.total_cmp(a));
        weights
    }

    /// What the heaviest complete chain weighs.
    fn heaviest(&self) -> f64 {
        let complete = self.grove.all(State::Complete);
        complete.map(|index| self.weight(self.grove.twig(index))).fold(0.0, f64::max)
    }

    /// Whether no chain that is still to end can change the answer. A chain to come
    /// weighs at most 1, however likely it is. Confidences have no such bound.
    fn is_certain(&self) -> bool {
        if !self.vote.0 || matches!(self.by, By::Confidence(_)) || !self.grove.any_complete() {
            return false;
        }
        let (_, power) = self.vote;
        // What a chain without a score weighs changes with the scores to come.
        let bound =
            |unscored: f64| self.grove.classes(power, |twig| self.own_weight(twig).unwrap_or(unscored));
        let (least, most) = (bound(0.0), bound(1.0));
        let Some(leader) = least.iter().max_by(|a, b| a.weight.total_cmp(&b.weight)) else { return false };
        let rivals = most.iter().filter(|class| class.answer != leader.answer);
        let lead = leader.weight - rivals.map(|class| class.weight).fold(0.0, f64::max);
        let ended = self.grove.all(State::Complete).count() + self.grove.all(State::Gone).count();
        let open = self.branches as usize - ended.min(self.branches as usize);
        // Weights are in units of the likeliest chain so far, which a chain to come
        // may exceed: it weighs up to 1 over that. Of long chains this is infinite.
        let each = if open == 0 { 0.0 } else { (-power * self.grove.scale()).exp() };
        lead > open as f64 * each && !self.may_be_overruled(leader.answer)
    }

    /// Whether a whole window may still agree on another answer than `leading`,
    /// whatever the vote says.
    fn may_be_overruled(&self, leading: &str) -> bool {
        if self.stop != VoteStop::Window {
            return false;
        }
        let begun = self.current.len() as u32;
        let to_come = self.branches - self.asked;
        let behind = to_come.saturating_sub(self.wave - begun);
        if behind >= self.wave {
            return true;
        }
        let twigs = || self.current.iter().map(|index| self.grove.twig(*index));
        let mut said = twigs()
            .filter(|twig| matches!(twig.state, State::Complete | State::Gone))
            .map(|twig| twig.value.as_deref());
        let first = said.next();
        let agree = first.is_none_or(|first| first.is_some_and(|answer| answer != leading))
            && said.all(|value| Some(value) == first);
        agree && begun + to_come >= self.wave
    }

    /// Whether the wave that has ended is enough.
    fn is_convinced(&mut self) -> bool {
        self.decided = match self.stop {
            VoteStop::Fixed => false,
            VoteStop::Posterior(confidence) => {
                let classes = self.weights();
                // Confidences have a scale of their own: the surest chain is one vote.
                let vote = match self.by {
                    By::Confidence(_) => self.heaviest(),
                    By::Count | By::Score(_) | By::Likelihood => 1.0,
                };
                let at = |place: usize| classes.get(place).copied().unwrap_or(0.0) / vote;
                at(0) > 0.0 && posterior::majority(at(0), at(1)) >= confidence
            }
            VoteStop::Window => {
                let mut values = self.current.iter().map(|index| self.grove.twig(*index).value.as_deref());
                let first = values.next().flatten();
                // What is left of a wave where the chains run out is no window.
                let agree = values.all(|value| value == first) && self.current.len() as u32 == self.wave;
                self.agreed = first.filter(|_| agree).map(str::to_owned);
                self.agreed.is_some()
            }
        };
        self.decided
    }

    /// Another round for the chains that were cut, with what is left beside the
    /// shares of those that have not begun.
    fn resume(&mut self) -> Vec<Work> {
        let kept = self.share.saturating_mul(self.branches - self.asked);
        let held: Vec<Index> = self.grove.all(State::Held).collect();
        let growth = self.growth();
        let mut works = Vec::new();
        for (place, &index) in held.iter().enumerate() {
            let waiting = u32::try_from(held.len() - place).unwrap_or(u32::MAX);
            let share = self.grove.spendable().saturating_sub(kept).div_ceil(waiting);
            works.extend(self.grove.resume(index, growth, share));
        }
        works
    }

    fn finish(&mut self) -> Vec<Work> {
        self.over = Over::Finishing;
        self.grove.finish(|_| 0.0)
    }

    fn chosen(&self) -> Option<Index> {
        // ESC gives the answer of its window, whatever the waves before it said.
        self.grove.elect(self.vote, |twig| match &self.agreed {
            None => self.weight(twig),
            agreed if twig.value == *agreed => self.weight(twig).max(f64::MIN_POSITIVE),
            Some(_) => 0.0,
        })
    }
}

impl Strategy for Chains {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        if self.over == Over::Yes {
            return Vec::new();
        }
        let mut works = Vec::new();
        let growth = self.growth();
        while self.over == Over::No
            && works.len() < room
            && self.asked < self.branches
            && (self.current.len() as u32) < self.wave
        {
            let waiting = self.branches - self.asked;
            let share = self.grove.spendable().div_ceil(waiting);
            let Some((index, work)) = self.grove.grow(None, growth, share) else {
                self.asked = self.branches;
                break;
            };
            self.asked += 1;
            self.current.push(index);
            works.push(work);
        }
        if !works.is_empty() || self.grove.in_flight() > 0 {
            return works;
        }
        if self.over == Over::Finishing {
            let works = self.grove.finish(|_| 0.0);
            if works.is_empty() {
                self.over = Over::Yes;
            }
            return works;
        }
        let begun = self.current.len() as u32 == self.wave || self.asked == self.branches;
        if !begun {
            // Cut chains hold all the room: the least likely makes way.
            let worst = self.grove.all(State::Held).min_by(|a, b| {
                let (a, b) = (self.grove.twig(*a), self.grove.twig(*b));
                a.likelihood().total_cmp(&b.likelihood()).then(b.node.cmp(&a.node))
            });
            if let Some(work) = worst.and_then(|index| self.grove.retire(index)) {
                return vec![work];
            }
            self.asked = self.branches;
        }
        let works = self.resume();
        if !works.is_empty() {
            return works;
        }
        let more = self.asked < self.branches;
        // The last window gives its answer too, though it saves nothing.
        let convinced = (more || self.stop == VoteStop::Window) && self.is_convinced();
        if more && !convinced {
            self.current.clear();
            return self.ask(room);
        }
        let works = self.finish();
        if works.is_empty() { self.ask(room) } else { works }
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        let confidences = match &outcome {
            Outcome::Grown(grown) => grown.confidences.clone(),
            Outcome::Abandoned => Vec::new(),
        };
        let Some(index) = self.grove.land(id, outcome) else { return };
        if let By::Confidence(measure) = self.by {
            let trace = self.traces.entry(self.grove.twig(index).node).or_default();
            trace.tokens.extend(confidences);
            trace.confidence = confidence::of_trace(&trace.tokens, measure);
        }
        if self.over == Over::No && self.is_certain() {
            self.decided = true;
            self.over = Over::Yes;
        }
    }

    fn answer(&self) -> Option<Answer> {
        self.grove.answer(self.chosen())
    }

    fn is_done(&self) -> bool {
        self.over == Over::Yes
    }

    fn is_decided(&self) -> bool {
        self.decided
    }

    fn candidates(&self) -> Vec<Candidate> {
        let plain = self.by == By::Count;
        self.grove.candidates(self.chosen(), |twig| (!plain).then(|| self.weight(twig)))
    }
}

#[cfg(test)]
mod tests;
