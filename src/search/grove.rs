//! What every search over steps keeps: its tree of twigs, its account of the
//! budget, and how an answer is chosen among trajectories.
//!
//! A *twig* is one step on a branch of its own. The grove numbers branches and
//! work, grants tokens so that what is in flight can never exceed the budget,
//! keeps the answer reserve until it is asked to finish, and loses nothing: a
//! twig that was given up stays in the account. Which twig to grow is the
//! business of its owner.
//!
//! How an answer is chosen among its trajectories is in `vote`.
//!
//! Length: the account and the tree are one.

mod vote;

pub(super) use vote::best_of;
use vote::low;

use super::{Extend, NodeId, Outcome, Scarce, Until, Work, WorkId};
use crate::answer;
use crate::plan::{Border, Budget, Marker, Scoring};
use crate::token::TokenId;
use crate::verify::Aggregate;
use std::collections::HashMap;

/// A twig's place in its grove.
pub(super) type Index = usize;

/// What has become of a twig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Work on it is under way.
    Growing,
    /// Its branch is alive and idle.
    Held,
    /// It came to its end.
    Complete,
    /// Its branch is gone, or goes on under another twig.
    Gone,
}

/// One step on a branch.
#[derive(Debug, Clone)]
pub(super) struct Twig {
    pub(super) node: NodeId,
    pub(super) parent: Option<Index>,
    /// Steps from the prompt to its end.
    pub(super) depth: u32,
    /// Tokens of its own.
    pub(super) tokens: u32,
    /// Tokens from the prompt to its end.
    pub(super) path: u32,
    /// The trajectory's text up to its end, while it may have to be completed.
    text: String,
    /// Its own tokens.
    pub(super) ids: Vec<TokenId>,
    /// The verifier's scores of the trajectory's steps.
    pub(super) scores: Option<Vec<f64>>,
    /// Of the trajectory's sampled tokens; NaN without any.
    pub(super) mean_logprob: f64,
    /// Of its own.
    pub(super) step_logprob: f64,
    /// Its canonical answer, once it is complete.
    pub(super) value: Option<String>,
    pub(super) state: State,
    /// Its last work added nothing.
    pub(super) stuck: bool,
    /// Other branches begin where it ends. Its own must not grow then: what it
    /// said would be read into theirs.
    forked: bool,
}

impl Twig {
    /// Mean log-probability, below every number where there is none.
    pub(super) fn likelihood(&self) -> f64 {
        if self.mean_logprob.is_nan() { f64::NEG_INFINITY } else { self.mean_logprob }
    }

    /// The aggregate of its scores; `None` where it has none.
    pub(super) fn score(&self, aggregate: Aggregate) -> Option<f64> {
        self.scores.as_deref().and_then(|scores| aggregate.of(scores))
    }

    /// What it is worth by its scores: nothing where it has none, and all twigs
    /// the same without a verifier.
    pub(super) fn worth(&self, scoring: Scoring) -> f64 {
        match scoring {
            Scoring::Verifier(aggregate) => self.score(aggregate).unwrap_or(0.0),
            Scoring::Rollouts(_) => 1.0,
        }
    }

    /// Logarithm of the trajectory's probability; 0 where nothing was sampled.
    fn log_probability(&self) -> f64 {
        if self.mean_logprob.is_finite() { self.mean_logprob * f64::from(self.path) } else { 0.0 }
    }
}

/// How a twig grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) until: Until,
    pub(super) greedy: bool,
    pub(super) score: bool,
    /// The most tokens of it.
    pub(super) most: u32,
}

#[derive(Debug)]
struct Flight {
    twig: Index,
    granted: u32,
    until: Until,
}

/// A tree of twigs with its account.
#[derive(Debug)]
pub(super) struct Grove {
    budget: Budget,
    marker: Option<Marker>,
    twigs: Vec<Twig>,
    flights: HashMap<WorkId, Flight>,
    spent: u32,
    granted: u32,
    made: u32,
    /// Twigs whose branches take room.
    alive: usize,
    works: WorkId,
    /// The longest step so far, in tokens.
    longest: u32,
    /// What the reserve is spent on.
    completing: Option<Index>,
    /// A verifier that was asked has no more to say.
    mute: bool,
    /// For lack of what something was not grown.
    pub(super) starved: Option<Scarce>,
}

/// A step is taken to be this long before any has been seen, in tokens.
const FIRST_GUESS: u32 = 16;

/// Trajectories that go on and vote where a verifier has no more to say.
const VOTERS: u32 = 8;

impl Grove {
    pub(super) fn new(budget: Budget, marker: Option<Marker>) -> Self {
        Self {
            budget,
            marker,
            twigs: Vec::new(),
            flights: HashMap::new(),
            spent: 0,
            granted: 0,
            made: 0,
            alive: 0,
            works: 0,
            longest: 0,
            completing: None,
            mute: false,
            starved: None,
        }
    }

    pub(super) fn twig(&self, index: Index) -> &Twig {
        &self.twigs[index]
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether the search cannot go on as it was meant to: the verifier that it
    /// relies on has nothing more to say.
    pub(super) fn is_mute(&self) -> bool {
        self.mute
    }

    /// Tokens that are spent, or may be by what is in flight.
    pub(super) fn committed(&self) -> u32 {
        self.spent + self.granted
    }

    /// Tokens that may still be granted to thoughts.
    pub(super) fn spendable(&self) -> u32 {
        (self.budget.tokens - self.budget.reserve).saturating_sub(self.committed())
    }

    /// Tokens that a trajectory of this length may still grow by.
    fn headroom(&self, path: u32) -> u32 {
        self.budget.branch_tokens.saturating_sub(self.budget.reserve).saturating_sub(path)
    }

    /// How many steps the budget has room for now, at the length of the longest
    /// one so far; at least one while there is any.
    pub(super) fn affordable(&self) -> usize {
        let each = if self.longest == 0 { FIRST_GUESS } else { self.longest };
        let spendable = self.spendable();
        (spendable / each.max(1)).max(u32::from(spendable > 0)) as usize
    }

    /// Whether what is left is enough for a step as long as any so far.
    pub(super) fn affords_a_step(&self) -> bool {
        self.spendable() >= self.longest.max(1)
    }

    /// Tokens within which nearly every trajectory comes to its end from a twig on;
    /// from the prompt where that is none.
    pub(super) fn rest(&self, twig: Option<Index>) -> u32 {
        let path = twig.map_or(0, |index| self.twigs[index].path);
        self.sample().saturating_mul(2).saturating_sub(path).max(self.sample().div_ceil(2))
    }

    /// Tokens of a whole sample, as a rule; at least 1.
    pub(super) fn sample(&self) -> u32 {
        self.budget.sample.max(1)
    }

    /// Branches that take room.
    pub(super) fn alive(&self) -> usize {
        self.alive
    }

    /// Sets what has become of a twig, and counts it.
    fn turn(&mut self, index: Index, state: State) {
        let takes_room = |state| usize::from(matches!(state, State::Held | State::Growing));
        let before = std::mem::replace(&mut self.twigs[index].state, state);
        self.alive = self.alive + takes_room(state) - takes_room(before);
        if takes_room(state) == 0 {
            self.twigs[index].text = String::new();
        }
    }

    /// Branches that may still be made.
    pub(super) fn forks_left(&self) -> u32 {
        self.budget.branches.saturating_sub(self.made)
    }

    /// A new twig on `parent`; on the prompt where that is none. Where no more
    /// branches may be made it goes on on its parent's. `None` where there is
    /// no room, no budget or no branch for it. `share` bounds its grant beside
    /// [`Growth::most`], so that others get something too.
    pub(super) fn grow(
        &mut self,
        parent: Option<Index>,
        growth: Growth,
        share: u32,
    ) -> Option<(Index, Work)> {
        let path = parent.map_or(0, |index| self.twigs[index].path);
        let max_tokens = growth.most.min(share).min(self.spendable()).min(self.headroom(path));
        // A twig that says nothing would say nothing for ever.
        let barren = |index: Index| self.twigs[index].state != State::Held || self.twigs[index].stuck;
        if max_tokens == 0 || parent.is_some_and(barren) {
            self.refused();
            return None;
        }
        let (node, fork) = if self.forks_left() > 0 {
            self.made += 1;
            let from = parent.map_or(NodeId::ROOT, |index| self.twigs[index].node);
            (NodeId(self.made), Some(from))
        } else {
            let Some(index) = parent.filter(|index| !self.twigs[*index].forked) else {
                self.refused();
                return None;
            };
            self.turn(index, State::Gone);
            (self.twigs[index].node, None)
        };
        let index = self.sprout(parent, node);
        Some((index, self.launch(index, (fork, Vec::new()), growth, max_tokens)))
    }

    /// Takes note of why a twig was not grown.
    fn refused(&mut self) {
        if self.spendable() == 0 {
            // What is in flight may leave something.
            if self.flights.is_empty() {
                self.starved = Some(Scarce::Tokens);
            }
        } else if self.forks_left() == 0 && self.starved.is_none() {
            self.starved = Some(Scarce::Branches);
        }
    }

    /// Whether another twig has a place below one, as far as branches and the
    /// context go; below the prompt where that is none. Once it has not, it
    /// never will.
    pub(super) fn has_place(&self, parent: Option<Index>) -> bool {
        let Some(index) = parent else { return self.forks_left() > 0 && self.headroom(0) > 0 };
        let twig = &self.twigs[index];
        let alive = twig.state == State::Held && !twig.stuck;
        alive && self.headroom(twig.path) > 0 && (self.forks_left() > 0 || !twig.forked)
    }

    /// Adds a twig on a branch.
    fn sprout(&mut self, parent: Option<Index>, node: NodeId) -> Index {
        let (path, depth) = parent.map_or((0, 0), |index| (self.twigs[index].path, self.twigs[index].depth));
        let index = self.twigs.len();
        if let Some(parent) = parent {
            self.twigs[parent].forked |= self.twigs[parent].node != node;
        }
        self.twigs.push(Twig {
            node,
            parent,
            depth: depth + 1,
            tokens: 0,
            path,
            text: String::new(),
            ids: Vec::new(),
            scores: None,
            mean_logprob: f64::NAN,
            step_logprob: f64::NAN,
            value: None,
            state: State::Growing,
            stuck: false,
            forked: false,
        });
        self.alive += 1;
        index
    }

    /// More on a twig that is held, within the same budget.
    pub(super) fn resume(&mut self, index: Index, growth: Growth, share: u32) -> Option<Work> {
        let twig = &self.twigs[index];
        let max_tokens = growth.most.min(share).min(self.spendable()).min(self.headroom(twig.path));
        if max_tokens == 0 || twig.state != State::Held || twig.stuck {
            return None;
        }
        Some(self.launch(index, (None, Vec::new()), growth, max_tokens))
    }

    fn launch(
        &mut self,
        index: Index,
        (fork, inject): (Option<NodeId>, Vec<TokenId>),
        growth: Growth,
        max_tokens: u32,
    ) -> Work {
        let id = self.works;
        self.works += 1;
        self.granted += max_tokens;
        self.flights.insert(id, Flight { twig: index, granted: max_tokens, until: growth.until });
        self.turn(index, State::Growing);
        Work::Extend(Extend {
            id,
            node: self.twigs[index].node,
            fork,
            inject,
            max_tokens,
            until: growth.until,
            greedy: growth.greedy,
            score: growth.score,
        })
    }

    /// Takes an outcome; says whose it is, if it is known and new.
    pub(super) fn land(&mut self, id: WorkId, outcome: Outcome) -> Option<Index> {
        let Flight { twig: index, granted, until } = self.flights.remove(&id)?;
        self.granted -= granted;
        let twig = &mut self.twigs[index];
        match outcome {
            Outcome::Abandoned => self.turn(index, State::Gone),
            Outcome::Grown(grown) => {
                let tokens = grown.tokens.min(granted);
                self.spent += tokens;
                twig.tokens += tokens;
                twig.path += tokens;
                twig.stuck = tokens == 0;
                twig.text = grown.text;
                twig.ids.extend(grown.ids);
                twig.mean_logprob = grown.mean_logprob;
                twig.step_logprob = grown.step_logprob;
                // Whole trajectories say nothing about how long a step is.
                if until == Until::Step {
                    self.longest = self.longest.max(tokens);
                }
                self.mute |= grown.unscored && grown.scores.is_none();
                // The scores of what it grew from are none of the whole: its steps
                // that were not scored would count as perfect ones.
                twig.scores = grown.scores;
                if grown.complete {
                    twig.value = answer::extract(&twig.text).map(answer::canonical);
                }
                let state = match (grown.complete, grown.extensible) {
                    (true, _) => State::Complete,
                    (false, true) => State::Held,
                    (false, false) => State::Gone,
                };
                self.turn(index, state);
            }
        }
        Some(index)
    }

    /// Gives a held twig up.
    pub(super) fn retire(&mut self, index: Index) -> Option<Work> {
        if self.twigs[index].state != State::Held {
            return None;
        }
        self.turn(index, State::Gone);
        Some(Work::Retire(self.twigs[index].node))
    }

    /// A complete trajectory that equals another has no vote of its own.
    pub(super) fn merge(&mut self, index: Index) {
        self.turn(index, State::Gone);
    }

    /// Twigs in a state, in the order of making.
    pub(super) fn all(&self, state: State) -> impl Iterator<Item = Index> {
        (0..self.twigs.len()).filter(move |&index| self.twigs[index].state == state)
    }

    /// Whether a trajectory is complete.
    pub(super) fn any_complete(&self) -> bool {
        self.all(State::Complete).next().is_some()
    }

    /// The end of a search: every held twig is given up, but where no trajectory
    /// is complete, the best one is brought to its answer: by itself while there are
    /// tokens for thoughts (a search may end for lack of scores or branches as well),
    /// then with all that is left. Called again once that has landed, it gives up what
    /// is held still.
    pub(super) fn finish(&mut self, rank: impl Fn(&Twig) -> f64) -> Vec<Work> {
        let left = self.budget.tokens.saturating_sub(self.committed());
        let over = self.any_complete() || self.completing.is_some() || left == 0;
        let ranked = if over { Vec::new() } else { self.unfinished(rank) };
        let on = self.carried_on(&ranked);
        let kept = if on.is_empty() { ranked.get(..1).unwrap_or_default() } else { &on };
        let held: Vec<Index> = self.all(State::Held).filter(|index| !kept.contains(index)).collect();
        let mut works: Vec<Work> = held.into_iter().filter_map(|index| self.retire(index)).collect();
        let alone = Growth { until: Until::End, greedy: false, score: false, most: u32::MAX };
        for (place, &index) in on.iter().enumerate() {
            let waiting = u32::try_from(on.len() - place).unwrap_or(u32::MAX);
            let share = self.spendable() / waiting;
            works.extend(self.resume(index, alone, share));
        }
        if let (true, Some(&index)) = (on.is_empty(), ranked.first()) {
            let twig = &self.twigs[index];
            let max_tokens = left.min(self.budget.branch_tokens.saturating_sub(twig.path));
            let inject = injection(&twig.text, self.marker.as_ref(), max_tokens);
            let (index, fork) = if twig.forked {
                self.made += 1;
                (self.sprout(Some(index), NodeId(self.made)), Some(self.twigs[index].node))
            } else {
                (index, None)
            };
            self.completing = Some(index);
            works.push(self.launch(index, (fork, inject), alone, max_tokens));
        }
        works
    }

    /// Held twigs that can be brought to an answer, the best first.
    fn unfinished(&self, rank: impl Fn(&Twig) -> f64) -> Vec<Index> {
        let fits = |index: &Index| {
            self.twigs[*index].path < self.budget.branch_tokens
                && (self.forks_left() > 0 || !self.twigs[*index].forked)
        };
        let key = |index: &Index| (low(rank(&self.twigs[*index])), self.twigs[*index].likelihood());
        let mut held: Vec<(Index, (f64, f64))> =
            self.all(State::Held).filter(fits).map(|index| (index, key(&index))).collect();
        held.sort_by(|(_, a), (_, b)| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
        held.into_iter().map(|(index, _)| index).collect()
    }

    /// Which of them go on to their ends by themselves: none where the tokens for
    /// thoughts are not enough for a step; one, or where no scores tell which is the
    /// best, as many as have tokens to end, to vote.
    fn carried_on(&self, ranked: &[Index]) -> Vec<Index> {
        let spendable = self.spendable();
        if spendable < self.longest.max(FIRST_GUESS) {
            return Vec::new();
        }
        // What others were forked from would go on in another fork, and where that comes
        // to nothing in yet another.
        let able = |index: &&Index| {
            let twig = &self.twigs[**index];
            !twig.forked && !twig.stuck && self.headroom(twig.path) > 0
        };
        let whole = spendable / self.sample().saturating_mul(2);
        let most = if self.mute { whole.clamp(1, VOTERS) } else { 1 };
        ranked.iter().filter(able).copied().take(most as usize).collect()
    }
}

/// What to inject so that a thought comes to its answer within `max_tokens`:
/// nothing where the marker is there already, where it leaves no room for an
/// answer, or where the text is no thought but the answer itself.
fn injection(text: &str, marker: Option<&Marker>, max_tokens: u32) -> Vec<TokenId> {
    let thinks = |border: &Border| border.has_thought(text) == Some(true) && !text.contains(&border.marker);
    let Some(marker) = marker.filter(|marker| thinks(&marker.border)) else { return Vec::new() };
    let bare = text.is_empty() || text.ends_with(&marker.separator);
    let inject = if bare { &marker.inject_after_separator } else { &marker.inject };
    if inject.len() < max_tokens as usize { inject.clone() } else { Vec::new() }
}
