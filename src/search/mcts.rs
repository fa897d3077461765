//! `mcts`: Monte-Carlo tree search over steps, in the four phases of Browne et
//! al. (2012): selection by UCT (Kocsis and Szepesvari 2006) or PUCT (Silver et
//! al. 2017), expansion by one sampled step, simulation, backpropagation of a
//! value in \[0, 1\] by the mean.
//!
//! A simulation goes on from the new step to the end of a trajectory, each step
//! of it a node of the tree, and is worth the aggregated score of the whole; or
//! it is worth its first step's score, or what rollouts say. The first one is a
//! whole trajectory always, so that an answer exists early.
//!
//! Several simulations are under way at once. A visit in flight counts with the
//! value 0, and is taken back when it comes to nothing. A step that its siblings
//! have already is merged with its equal, from where its simulation goes on; it
//! counts against the node's width, so that a node whose steps are always the
//! same closes. A complete trajectory that is selected again costs no tokens. A
//! subtree in which nothing is left to expand is closed and not selected; the
//! search ends when the root is, after so many tokens, or as soon as one answer is
//! far enough ahead ([`Enough`](crate::plan::Enough)).
//!
//! Length: one state machine: its four phases share every table.

use super::event::Candidate;
use super::grove::{Grove, Growth, Index, State, Twig};
use super::{Answer, Outcome, Scarce, Strategy, Until, Work, WorkId};
use crate::plan::{Budget, Final, Marker, Mcts, Scoring, Select};
use std::collections::{HashMap, HashSet, VecDeque};

mod node;
mod rollouts;

use node::{Nodes, Place, ROOT};
use rollouts::Rollouts;

/// A tree search over steps.
#[derive(Debug)]
pub(super) struct TreeSearch {
    mcts: Mcts,
    grove: Grove,
    nodes: Nodes,
    /// Simulations under way, by the twig that they wait for.
    under_way: HashMap<Index, Simulation>,
    /// What values a leaf where no verifier does.
    rollouts: Rollouts,
    /// Simulations that stand on a node and go on from there.
    waiting: VecDeque<Simulation>,
    /// Steps that equal a sibling, or are empty, and rollouts that were cut: to be
    /// given up.
    duplicates: Vec<Index>,
    begun: u32,
    /// One answer was far enough ahead.
    decided: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Searching,
    Finishing,
    Done,
}

/// A simulation under way.
#[derive(Debug, Clone, Copy)]
struct Simulation {
    /// The node on which it stands.
    at: Place,
    /// Whether it goes on to the end whatever the mode says.
    first: bool,
}

impl TreeSearch {
    pub(super) fn new(mcts: Mcts, budget: Budget, marker: Option<Marker>) -> Self {
        Self {
            mcts,
            grove: Grove::new(budget, marker),
            nodes: Nodes::new(),
            under_way: HashMap::new(),
            rollouts: Rollouts::default(),
            waiting: VecDeque::new(),
            duplicates: Vec::new(),
            begun: 0,
            decided: false,
            phase: Phase::Searching,
        }
    }

    fn score(&self, twig: &Twig) -> f64 {
        twig.worth(self.mcts.scoring)
    }

    /// Whether a new step may be sampled below a node.
    fn widens(&self, place: Place) -> bool {
        let node = self.nodes.get(place);
        node.tried < self.breadth(f64::from(node.visits + node.pending)) && self.may_widen(place)
    }

    /// Whether it may be, with more visits.
    fn may_widen(&self, place: Place) -> bool {
        let node = self.nodes.get(place);
        let open = !node.closed && node.tried < self.mcts.width;
        open && !self.is_sure(place) && self.has_place(node.twig)
    }

    /// Whether the policy has said the same below a node often enough.
    fn is_sure(&self, place: Place) -> bool {
        let repeats = self.mcts.steps.repeats;
        repeats > 0 && self.nodes.get(place).repeated >= repeats
    }

    /// Whether there is a place for a step below another.
    fn has_place(&self, twig: Option<Index>) -> bool {
        let short = twig.is_none_or(|index| self.grove.twig(index).depth < self.mcts.steps.most);
        short && self.grove.has_place(twig)
    }

    /// The children that a node may have by now.
    fn breadth(&self, visits: f64) -> u32 {
        match self.mcts.widening {
            None => self.mcts.width,
            Some((exponent, factor)) => {
                let most = (factor * visits.max(1.0).powf(exponent)).floor().max(1.0);
                self.mcts.width.min(most as u32)
            }
        }
    }

    /// Walks down from a node to one that can be expanded or, where `again`, is
    /// complete, the most promising child first. `None` where everything below
    /// waits.
    fn select(&self, place: Place, again: bool) -> Option<Place> {
        if self.is_complete(place) {
            return again.then_some(place);
        }
        if self.widens(place) {
            return Some(place);
        }
        let node = self.nodes.get(place);
        let open = |child: &Place| !self.nodes.get(*child).closed || self.is_complete(*child);
        let mut children: Vec<(Place, f64)> = node
            .children
            .iter()
            .copied()
            .filter(open)
            .map(|child| (child, self.promise(place, child)))
            .collect();
        // Below children that are all closed nothing comes to pass: what is not wide
        // enough yet for its visits will have no more of them.
        let awaited = || self.under_way.values().any(|simulation| simulation.at == place);
        if children.is_empty() && self.may_widen(place) && !awaited() {
            return Some(place);
        }
        children.sort_by(|a, b| b.1.total_cmp(&a.1));
        children.into_iter().find_map(|(child, _)| self.select(child, again))
    }

    /// The rule of selection.
    fn promise(&self, parent: Place, child: Place) -> f64 {
        let (node, child) = (self.nodes.get(parent), self.nodes.get(child));
        let all = f64::from(node.visits + node.pending).max(1.0);
        let own = f64::from(child.visits + child.pending);
        match self.mcts.select {
            Select::Uct(weight) => child.value() + weight * (all.ln() / own.max(1.0)).sqrt(),
            Select::Puct { init, base } => {
                let weight = ((all + base + 1.0) / base).ln() + init;
                let sum: f64 = node.children.iter().map(|sibling| self.nodes.get(*sibling).prior).sum();
                let prior = if sum > 0.0 { child.prior / sum } else { 0.0 };
                child.value() + weight * prior * all.sqrt() / (1.0 + own)
            }
        }
    }

    fn is_complete(&self, place: Place) -> bool {
        self.nodes.get(place).twig.is_some_and(|index| self.grove.twig(index).state == State::Complete)
    }

    fn growth(&self) -> Growth {
        let score = matches!(self.mcts.scoring, Scoring::Verifier(_));
        Growth { until: Until::Step, greedy: false, score, most: self.mcts.steps.tokens }
    }

    /// Whether there are tokens for another simulation beside those under way, each of
    /// which may need as many: of several that share too few none would come to its
    /// end. One alone has what there is, while nothing has. Both bounds count alike, the
    /// budget's and the mode's own.
    fn affords(&mut self) -> bool {
        let most = if self.mcts.tokens == 0 { u32::MAX } else { self.mcts.tokens };
        let left = most.saturating_sub(self.grove.committed());
        let pending = self.nodes.get(ROOT).pending;
        if pending == 0 && left == 0 && self.grove.any_complete() {
            return false;
        }
        let rollouts = if let Scoring::Rollouts(count) = self.mcts.scoring { count } else { 0 };
        if pending == 0 {
            let whole = self.grove.spendable() >= self.grove.rest(None) / 2;
            let able = self.grove.affords_a_step() && (rollouts == 0 || whole);
            let enough = able || !self.grove.any_complete();
            if !enough {
                self.grove.starved.get_or_insert(Scarce::Tokens);
            }
            return enough;
        }
        let each = self.grove.sample().saturating_mul(1 + rollouts);
        self.grove.spendable().min(left) / each.max(1) > pending
    }

    /// Begins a simulation: `None` where nothing can be begun now, no work where
    /// it cost no tokens.
    fn simulate(&mut self) -> Option<Option<Work>> {
        let place = self.select(ROOT, true)?;
        if self.is_complete(place) {
            // It was chosen for its promise only where there was a choice: while all
            // else is in flight, visits that cost nothing would be all that is left.
            if self.grove.in_flight() > 0 && self.select(ROOT, false).is_none() {
                return None;
            }
            self.begun += 1;
            let value = self.nodes.get(place).worth;
            self.nodes.descend(None, place);
            self.backpropagate(place, value);
            return Some(None);
        }
        let work = self.step_below(Simulation { at: place, first: self.begun == 0 })?;
        self.begun += 1;
        self.nodes.descend(None, place);
        Some(Some(work))
    }

    /// Samples a step below the node on which a simulation stands.
    fn step_below(&mut self, simulation: Simulation) -> Option<Work> {
        let twig = self.nodes.get(simulation.at).twig;
        let depth = twig.map_or(0, |index| self.grove.twig(index).depth);
        let last = depth + 1 >= self.mcts.steps.most;
        let step = self.growth();
        let growth = if last { Growth { until: Until::End, most: u32::MAX, ..step } } else { step };
        // Where one goes on to its end the others are left as much.
        let equal = self.grove.spendable() / self.nodes.get(ROOT).pending.max(1);
        let (index, work) = self.grove.grow(twig, growth, equal.max(self.grove.rest(twig)))?;
        self.nodes.get_mut(simulation.at).tried += 1;
        self.under_way.insert(index, simulation);
        Some(work)
    }

    /// A visit that was in flight comes home with a value.
    fn backpropagate(&mut self, place: Place, value: f64) {
        self.nodes.arrive(place, value);
        self.close(place);
    }

    /// Closes a node below which nothing is left to do, and what that closes
    /// above it.
    fn close(&mut self, place: Place) {
        let mut at = Some(place);
        while let Some(place) = at {
            let node = self.nodes.get(place);
            let growing = node.pending > 0 || self.rollouts.awaits(place);
            let spent = node.tried >= self.mcts.width || self.is_sure(place) || !self.has_place(node.twig);
            let below = node.children.iter().all(|child| self.nodes.get(*child).closed);
            if growing || !spent || !below {
                return;
            }
            at = node.parent;
            self.nodes.get_mut(place).closed = true;
        }
    }

    /// A step of a simulation has landed.
    fn landed(&mut self, index: Index, Simulation { at, first }: Simulation) {
        let twig = self.grove.twig(index);
        if twig.tokens == 0 || twig.state == State::Gone {
            // Nothing came of it.
            self.duplicates.push(index);
            return self.give_up(at);
        }
        let equal = self.nodes.get(at).children.iter().copied().find(|child| {
            self.nodes.get(*child).twig.is_some_and(|other| self.grove.twig(other).ids == twig.ids)
        });
        let place = match equal {
            None => {
                let prior = twig.step_logprob.exp();
                self.nodes.get_mut(at).repeated = 0;
                self.nodes.add(at, index, prior)
            }
            Some(place) => {
                self.nodes.get_mut(at).repeated += 1;
                if twig.state == State::Complete {
                    self.grove.merge(index);
                } else {
                    self.duplicates.push(index);
                }
                place
            }
        };
        self.nodes.descend(Some(at), place);
        self.evaluate(place, first);
    }

    /// Values a node that a simulation has reached, or sends it on.
    fn evaluate(&mut self, place: Place, first: bool) {
        let Some(index) = self.nodes.get(place).twig else { return };
        let twig = self.grove.twig(index);
        let complete = twig.state == State::Complete;
        let value = self.score(twig).clamp(0.0, 1.0);
        match self.mcts.scoring {
            Scoring::Verifier(_) if complete || !(self.mcts.whole || first) => {
                self.nodes.get_mut(place).worth = value;
                self.backpropagate(place, value);
            }
            Scoring::Verifier(_) => self.waiting.push_back(Simulation { at: place, first }),
            Scoring::Rollouts(_) if complete => {
                let answer = twig.value.clone();
                self.nodes.get_mut(place).answers.push(answer);
                self.backpropagate(place, 0.0);
                self.revalue();
            }
            Scoring::Rollouts(count) => self.rollouts.want(place, count),
        }
    }

    /// A simulation that stands on a node comes to nothing.
    fn give_up(&mut self, place: Place) {
        self.nodes.abandon(place);
        self.close(place);
    }

    /// What stands on a node, or waits for rollouts, comes to nothing.
    fn abandon_standing(&mut self) {
        while let Some(simulation) = self.waiting.pop_front() {
            self.give_up(simulation.at);
        }
        for (place, visits) in self.rollouts.abandon() {
            (0..visits).for_each(|_| self.give_up(place));
        }
    }

    /// Goes on with simulations that stand on a node, and with rollouts, while
    /// there is room.
    fn go_on(&mut self, room: usize) -> Vec<Work> {
        let mut works: Vec<Work> = Vec::new();
        // A step that is cut for want of tokens which others may leave says nothing.
        while works.len() < room
            && (self.grove.affords_a_step() || self.grove.in_flight() == 0)
            && let Some(Simulation { at, first }) = self.waiting.pop_front()
        {
            // A node that cannot have another child sends it down to one.
            let Some(target) = self.select(at, true) else {
                self.give_up(at);
                continue;
            };
            self.nodes.descend(Some(at), target);
            if self.is_complete(target) {
                let value = self.nodes.get(target).worth;
                self.backpropagate(target, value);
                continue;
            }
            match self.step_below(Simulation { at: target, first }) {
                Some(work) => works.push(work),
                None => self.give_up(target),
            }
        }
        let left = room - works.len();
        works.extend(self.roll(left));
        works
    }

    /// What to do when nothing is in flight and nothing can be begun.
    fn wind_up(&mut self) -> Vec<Work> {
        self.phase = Phase::Finishing;
        self.abandon_standing();
        let scoring = self.mcts.scoring;
        self.grove.finish(|twig| match scoring {
            Scoring::Verifier(_) => twig.worth(scoring),
            // What has come furthest has the least to go.
            Scoring::Rollouts(_) => f64::from(twig.path),
        })
    }

    /// Where branches take all the room, rollouts that were cut make way, else the
    /// least visited steps on which no simulation stands, and which wait for no
    /// rollouts; so many, or fewer.
    fn make_way(&mut self, wanted: usize) -> Vec<Work> {
        let cut = self.rollouts.give_up_cut();
        if !cut.is_empty() {
            return cut.into_iter().filter_map(|index| self.grove.retire(index)).collect();
        }
        let standing: HashSet<Place> =
            (self.waiting.iter().map(|simulation| simulation.at)).chain(self.rollouts.leaves()).collect();
        let idle = |place: Place| {
            let node = Some(self.nodes.get(place)).filter(|_| !standing.contains(&place))?;
            let twig = self.grove.twig(node.twig?);
            (twig.state == State::Held).then(|| (place, node.visits, self.score(twig)))
        };
        let mut idle: Vec<(Place, u32, f64)> = self.nodes.places().filter_map(idle).collect();
        idle.sort_by(|a, b| a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)));
        let mut works = Vec::new();
        for (place, ..) in idle.into_iter().take(wanted) {
            let twig = self.nodes.get(place).twig;
            works.extend(twig.and_then(|index| self.grove.retire(index)));
            self.close(place);
        }
        works
    }

    /// Whether one answer is so far ahead that the rest can be saved.
    fn has_enough(&self) -> bool {
        let Some(enough) = self.mcts.enough.filter(|enough| self.nodes.get(ROOT).visits >= enough.after)
        else {
            return false;
        };
        let lead = self.grove.lead(self.mcts.likelihood, |twig| self.score(twig));
        lead.is_some_and(|(share, score)| share >= enough.share && score >= enough.score)
    }

    fn chosen(&self) -> Option<Index> {
        let walk = |key: fn(&node::Node) -> f64| {
            let mut at = ROOT;
            while let Some(best) = self.nodes.best_child(at, key) {
                at = best;
            }
            self.nodes.get(at).twig.filter(|index| self.grove.twig(*index).state == State::Complete)
        };
        let walked = match self.mcts.choice {
            Final::Visits => walk(|node| f64::from(node.visits)),
            Final::Value => walk(node::Node::value),
            Final::Vote | Final::Best => None,
        };
        let vote = (self.mcts.choice != Final::Best, self.mcts.likelihood);
        walked.or_else(|| self.grove.elect(vote, |twig| self.score(twig)))
    }
}

impl Strategy for TreeSearch {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        loop {
            match self.phase {
                Phase::Done => return Vec::new(),
                Phase::Finishing if self.grove.in_flight() > 0 => return Vec::new(),
                Phase::Finishing => {
                    // What was completed, and what that was forked from.
                    let works = self.grove.finish(|_| 0.0);
                    if works.is_empty() {
                        self.phase = Phase::Done;
                    }
                    return works;
                }
                Phase::Searching => {}
            }
            let duplicates = std::mem::take(&mut self.duplicates);
            let mut works: Vec<Work> =
                duplicates.into_iter().filter_map(|index| self.grove.retire(index)).collect();
            if !works.is_empty() {
                return works;
            }
            // One branch at least is left on which no simulation stands, and can make
            // way for the others.
            let standing = (room + self.grove.alive()).saturating_sub(1).max(1);
            let in_flight = self.mcts.in_flight.min(u32::try_from(standing).unwrap_or(u32::MAX));
            // A step that goes on on its parent's branch needs no room.
            let room = if self.grove.forks_left() == 0 { room.max(1) } else { room };
            if !self.grove.is_mute() {
                works = self.go_on(room);
                while works.len() < room
                    && self.begun < self.mcts.simulations
                    && !self.nodes.get(ROOT).closed
                    && self.nodes.get(ROOT).pending < in_flight
                    && self.affords()
                {
                    match self.simulate() {
                        Some(work) => works.extend(work),
                        None => break,
                    }
                }
            }
            if !works.is_empty() || self.grove.in_flight() > 0 {
                return works;
            }
            let stands = !self.waiting.is_empty() || self.rollouts.due() > 0;
            let open = self.begun < self.mcts.simulations && !self.nodes.get(ROOT).closed;
            if room == 0 && !self.grove.is_mute() && (stands || open) {
                let works = self.make_way((self.waiting.len() + self.rollouts.due() as usize).max(1));
                if !works.is_empty() {
                    return works;
                }
            }
            let works = self.wind_up();
            if !works.is_empty() {
                return works;
            }
        }
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        let Some(index) = self.grove.land(id, outcome) else { return };
        let visits = self.nodes.get(ROOT).visits;
        if let Some(place) = self.rollouts.landed(index) {
            self.rolled_out(index, place);
        } else if let Some(simulation) = self.under_way.remove(&index) {
            self.landed(index, simulation);
        }
        // What is in flight comes to the end of its step, so that usage does not
        // depend on how fast siblings are.
        let home = self.nodes.get(ROOT).visits > visits;
        let enough = self.phase == Phase::Searching && home && self.has_enough();
        self.decided |= enough;
        if enough || self.phase == Phase::Finishing {
            self.phase = Phase::Finishing;
            self.abandon_standing();
        }
    }

    fn answer(&self) -> Option<Answer> {
        self.grove.answer(self.chosen())
    }

    fn starved(&self) -> Option<Scarce> {
        if self.decided || self.nodes.get(ROOT).visits == self.mcts.simulations {
            return None;
        }
        let short = self.grove.forks_left() == 0 && self.begun < self.mcts.simulations;
        self.grove.starved.or(short.then_some(Scarce::Branches))
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.grove.scored_candidates(self.chosen(), self.mcts.scoring)
    }
}

#[cfg(test)]
mod tests;
