//! Independent chains of thought under one budget, in waves: what a vote over
//! them and a choice of the best have in common.
//!
//! Every chain is granted an equal share of the budget less the answer reserve, and
//! never so little that it would be cut as a rule (else the short ones alone would
//! vote): where tokens are scarce, the next one begins with what those before it have
//! left. What is left in the end goes to the chains that were cut, round by round, the
//! shortest first; when no chain is complete then, the likeliest prefix is completed
//! within the reserve. What is said of the chains, and whether another wave is worth
//! its tokens, is for the strategy that holds them.

use super::grove::{Grove, Growth, Index, State, Twig};
use super::{Scarce, Until, Work};
use crate::plan::{Budget, Marker};

/// The chains of a request.
#[derive(Debug)]
pub(super) struct Chains {
    pub(super) grove: Grove,
    branches: u32,
    /// Tokens that every chain can begin with.
    share: u32,
    /// Tokens within which nearly every chain ends.
    whole: u32,
    wave: u32,
    score: bool,
    /// Chains of the wave under way, and the number of all that were begun.
    current: Vec<Index>,
    asked: u32,
    /// Of those counted as begun, how many wait for the first to come to its end.
    put_off: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Growing,
    /// The last prefix is being completed.
    Finishing,
    Over,
}

/// What the chains want next.
#[derive(Debug)]
pub(super) enum Turn {
    /// To do this, or to wait for what is in flight where it is nothing.
    Work(Vec<Work>),
    /// To hear whether there is to be another wave: all of this one are at their ends.
    WaveOver,
}

impl Chains {
    /// At most `branches` of them, `wave` at a time, scored by a verifier or not.
    pub(super) fn new(
        (branches, wave): (u32, u32),
        score: bool,
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
            whole: budget.sample.max(1).saturating_mul(2),
            wave: wave.clamp(1, branches),
            score,
            current: Vec::new(),
            asked: 0,
            put_off: 0,
            phase: Phase::Growing,
        }
    }

    fn growth(&self) -> Growth {
        Growth { until: Until::End, greedy: false, score: self.score, most: u32::MAX }
    }

    /// Chains of the wave under way that have begun.
    pub(super) fn current(&self) -> impl ExactSizeIterator<Item = &Twig> {
        self.current.iter().map(|index| self.grove.twig(*index))
    }

    /// How many chains a whole wave has; where the chains run out the last has fewer.
    pub(super) fn wave(&self) -> usize {
        self.wave as usize
    }

    /// How many chains have not begun.
    pub(super) fn to_come(&self) -> usize {
        (self.branches - self.asked) as usize
    }

    /// Whether the chains still grow, so that the answer may be settled early.
    pub(super) fn is_growing(&self) -> bool {
        self.phase == Phase::Growing
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Nothing more is wanted.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Over;
    }

    pub(super) fn next_wave(&mut self) {
        self.current.clear();
    }

    pub(super) fn turn(&mut self, room: usize) -> Turn {
        if self.phase == Phase::Over {
            return Turn::Work(Vec::new());
        }
        let works = self.begin(room);
        if !works.is_empty() || self.grove.in_flight() > 0 {
            return Turn::Work(works);
        }
        if self.phase == Phase::Finishing {
            let works = self.grove.finish(|_| 0.0);
            if works.is_empty() {
                self.phase = Phase::Over;
            }
            return Turn::Work(works);
        }
        let begun = self.current.len() as u32 == self.wave || self.asked == self.branches;
        if !begun {
            // Cut chains hold all the room: the least likely makes way.
            let worst = self.grove.all(State::Held).min_by(|a, b| {
                let (a, b) = (self.grove.twig(*a), self.grove.twig(*b));
                a.likelihood().total_cmp(&b.likelihood()).then(b.node.cmp(&a.node))
            });
            if let Some(work) = worst.and_then(|index| self.grove.retire(index)) {
                return Turn::Work(vec![work]);
            }
            self.asked = self.branches;
        }
        let works = self.resume();
        if !works.is_empty() {
            return Turn::Work(works);
        }
        if self.put_off > 0 && self.grove.any_complete() {
            self.asked -= std::mem::take(&mut self.put_off);
            return self.turn(room);
        }
        Turn::WaveOver
    }

    /// Chains of the wave that find room.
    fn begin(&mut self, room: usize) -> Vec<Work> {
        let mut works = Vec::new();
        let growth = self.growth();
        while self.phase == Phase::Growing
            && works.len() < room
            && self.asked < self.branches
            && (self.current.len() as u32) < self.wave
        {
            let waiting = self.branches - self.asked;
            let spendable = self.grove.spendable();
            if spendable < self.whole && self.grove.in_flight() > 0 {
                break;
            }
            // What is too little for a chain is best spent on one that was cut, and what
            // may be too little as well while no other has come to its end.
            let waits = || !self.grove.any_complete() && self.grove.all(State::Held).next().is_some();
            let too_few = spendable < self.whole / 2;
            if self.asked > 0 && (too_few || (spendable < self.whole && waits())) {
                self.grove.starved.get_or_insert(Scarce::Tokens);
                self.put_off = if too_few { 0 } else { waiting };
                self.asked = self.branches;
                break;
            }
            let share = spendable.div_ceil(waiting).max(self.whole);
            let Some((index, work)) = self.grove.grow(None, growth, share) else {
                self.asked = self.branches;
                break;
            };
            self.asked += 1;
            self.current.push(index);
            works.push(work);
        }
        works
    }

    /// Another round for the chains that were cut, with what is left beside the
    /// shares of those that have not begun.
    fn resume(&mut self) -> Vec<Work> {
        let kept = self.share.saturating_mul(self.branches - self.asked);
        let left = |grove: &Grove| grove.spendable().saturating_sub(kept);
        let mut held: Vec<Index> = self.grove.all(State::Held).collect();
        held.sort_by_key(|index| self.grove.twig(*index).path);
        held.truncate((left(&self.grove) / self.whole).max(1) as usize);
        let growth = self.growth();
        let mut works = Vec::new();
        for (place, &index) in held.iter().enumerate() {
            let waiting = u32::try_from(held.len() - place).unwrap_or(u32::MAX);
            let share = left(&self.grove).div_ceil(waiting);
            works.extend(self.grove.resume(index, growth, share));
        }
        works
    }

    /// Completes the last prefix where nothing is complete; nothing is begun after it.
    pub(super) fn finish(&mut self) -> Vec<Work> {
        self.phase = Phase::Finishing;
        self.grove.finish(|_| 0.0)
    }

    /// What a chain weighs: its own weight, or what the others weigh on average
    /// where it has none, because its verifier had none for it or no more to say.
    pub(super) fn weight(&self, twig: &Twig, own: impl Fn(&Twig) -> Option<f64>) -> f64 {
        own(twig).unwrap_or_else(|| {
            let complete = self.grove.all(State::Complete);
            let weights: Vec<f64> = complete.filter_map(|index| own(self.grove.twig(index))).collect();
            if weights.is_empty() { 1.0 } else { weights.iter().sum::<f64>() / weights.len() as f64 }
        })
    }

    /// The answer that no chain still to end can take the vote from; a chain to come
    /// weighs at most 1, however likely it is, and likelihoods count to `power`.
    pub(super) fn unbeatable(&self, power: f64, own: impl Fn(&Twig) -> Option<f64>) -> Option<String> {
        if !self.grove.any_complete() {
            return None;
        }
        // What a chain without a weight of its own weighs changes with those to come.
        let bound = |unscored: f64| self.grove.classes(power, |twig| own(twig).unwrap_or(unscored));
        let (least, most) = (bound(0.0), bound(1.0));
        let leader = least.iter().max_by(|a, b| a.weight.total_cmp(&b.weight))?;
        let rivals = most.iter().filter(|class| class.answer != leader.answer);
        let lead = leader.weight - rivals.map(|class| class.weight).fold(0.0, f64::max);
        let ended = self.grove.all(State::Complete).count() + self.grove.all(State::Gone).count();
        let open = self.branches as usize - ended.min(self.branches as usize);
        // Weights are in units of the likeliest chain so far, which a chain to come
        // may exceed: it weighs up to 1 over that. Of long chains this is infinite.
        let each = if open == 0 { 0.0 } else { (-power * self.grove.scale()).exp() };
        (lead > open as f64 * each).then(|| leader.answer.to_owned())
    }
}
