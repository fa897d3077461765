//! `beam`, and what `lookahead` shares with it: search over steps, guided by the
//! values of prefixes.
//!
//! Each level samples `expansion` candidate steps per beam, merges equal ones by
//! their tokens, and keeps the best (Beeching et al., "Scaling test-time compute
//! with open models", 2024; Snell et al., arXiv 2408.03314). A complete
//! candidate among those kept is finished and narrows the beam, so the cost stays
//! that of `width * expansion` samples; complete ones that are not kept are paid
//! for and vote as well. With `repeats` set, a parent whose first candidates are
//! all the same gets no more. Variants: the best of each subtree (DVTS), and
//! candidates shared out by softmax of the values (REBASE, arXiv 2408.00724).
//!
//! What a candidate is worth is in `beam/lookahead.rs`, which of them go on in
//! `beam/select.rs`.
//!
//! Length: one state machine with its variants.

use super::event::Candidate;
use super::grove::{Grove, Growth, Index, State, Twig, best_of};
use super::{Answer, Outcome, Scarce, Strategy, Until, Work, WorkId};
use crate::plan::{Beam, Budget, Final, Marker, Scoring, Variant};
use std::collections::{HashMap, VecDeque};

mod lookahead;
mod select;

/// A beam search over steps.
#[derive(Debug)]
pub(super) struct BeamSearch {
    beam: Beam,
    grove: Grove,
    phase: Phase,
    /// Beams, or of balanced expansion candidates, that are not finished.
    left: u32,
    orders: VecDeque<Order>,
    /// What is to follow where the first candidates of a parent differ.
    later: Vec<Order>,
    roles: HashMap<Index, Role>,
    level: Vec<Slot>,
    /// The beams of the level before.
    beams: Vec<Index>,
    /// Rollouts of which nothing came: to be given up.
    silent: Vec<Index>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Searching,
    Finishing,
    Done,
}

/// Something to grow as soon as there is room.
#[derive(Debug, Clone, Copy)]
struct Order {
    parent: Option<Index>,
    growth: Growth,
    role: Role,
    /// Its place among those of its level, the best parents' first; what is
    /// ordered for a candidate's value comes after them.
    rank: usize,
}

/// Why a twig is grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A candidate of a subtree.
    Candidate(usize),
    /// A step of the rollout of the candidate in that slot.
    Ahead(usize),
    /// A completion of the candidate in that slot.
    Completion(usize),
}

/// A candidate of the level.
#[derive(Debug)]
struct Slot {
    index: Index,
    /// The subtree below the prompt that it belongs to.
    group: usize,
    /// Its rollout at temperature 0, step by step.
    ahead: Vec<Index>,
    completions: Vec<Index>,
}

impl BeamSearch {
    pub(super) fn new(beam: Beam, budget: Budget, marker: Option<Marker>) -> Self {
        Self {
            left: match beam.variant {
                Variant::Plain | Variant::Diverse => beam.width,
                Variant::Balanced(_) => beam.width * beam.expansion,
            },
            beam,
            grove: Grove::new(budget, marker),
            phase: Phase::Fresh,
            orders: VecDeque::new(),
            later: Vec::new(),
            roles: HashMap::new(),
            level: Vec::new(),
            beams: Vec::new(),
            silent: Vec::new(),
        }
    }

    fn step(&self) -> Growth {
        let score = matches!(self.beam.scoring, Scoring::Verifier(_));
        Growth { until: Until::Step, greedy: false, score, most: self.beam.steps.tokens }
    }

    /// Orders a level: so many candidates on each parent, the best parents
    /// first. No more than the budget has room for; where that is less, every
    /// parent gets one before any gets two.
    fn order(&mut self, parents: &[(Option<Index>, u32, usize)]) {
        let most = self.grove.affordable();
        let rounds = parents.iter().map(|(_, count, _)| *count).max().unwrap_or(0);
        let step = self.step();
        let mut orders = Vec::new();
        for round in 0..rounds {
            for &(parent, count, group) in parents {
                let depth = parent.map_or(0, |index| self.grove.twig(index).depth);
                // The last step goes on to the end, and a beam needs no two of it.
                let last = depth + 1 >= self.beam.steps.most;
                if round >= count || (last && round > 0) {
                    continue;
                }
                let growth = if last { Growth { until: Until::End, most: u32::MAX, ..step } } else { step };
                let rank = orders.len();
                orders.push(Order { parent, growth, role: Role::Candidate(group), rank });
            }
        }
        if orders.len() > most {
            self.grove.starved = Some(Scarce::Tokens);
        }
        orders.truncate(most);
        if self.beam.steps.repeats > 0 {
            let mut seen: HashMap<Option<Index>, u32> = HashMap::new();
            let mut first = |order: &Order| {
                let count = seen.entry(order.parent).or_insert(0);
                *count += 1;
                // Roots are samples of one parent too, but there is one of them.
                order.parent.is_none() || *count <= self.beam.steps.repeats + 1
            };
            (orders, self.later) = orders.into_iter().partition(|order| first(order));
        }
        // Siblings side by side: their common prefix is read once.
        orders.sort_by_key(|order| order.parent);
        self.orders = orders.into();
    }

    /// Once the last of a parent's first candidates is in, orders those that were
    /// put off, unless the first ones are all the same. Other parents are not
    /// waited for.
    fn order_later(&mut self, parent: Option<Index>) {
        let awaited = |index: &Index| self.grove.twig(*index).parent == parent;
        if self.roles.keys().any(awaited) || self.orders.iter().any(|order| order.parent == parent) {
            return;
        }
        let mut said = (self.level.iter())
            .map(|slot| self.grove.twig(slot.index))
            .filter(|twig| twig.parent == parent)
            .map(|twig| &twig.ids);
        let first = said.next();
        let differ = said.any(|ids| Some(ids) != first);
        let own = self.later.extract_if(.., |order| order.parent == parent);
        let own: Vec<Order> = own.collect();
        if differ && !self.grove.is_mute() {
            self.orders.extend(own);
        }
    }

    /// Among how many pieces of work the budget is shared: those ordered, and the
    /// completions that candidates will need.
    fn due(&self) -> u32 {
        let is_candidate = |role: &Role| matches!(role, Role::Candidate(_));
        let candidates = (self.orders.iter().map(|order| &order.role))
            .chain(self.roles.values())
            .filter(|role| is_candidate(role));
        let completions = match self.beam.scoring {
            Scoring::Rollouts(each) if self.spares_branches() => candidates.count() * each as usize,
            Scoring::Rollouts(_) | Scoring::Verifier(_) => 0,
        };
        u32::try_from(self.orders.len() + completions).unwrap_or(u32::MAX)
    }

    fn launch(&mut self, room: usize) -> Vec<Work> {
        let mut works = Vec::new();
        if self.orders.len() > room && self.grove.forks_left() > 0 {
            // Not all of them can begin: the best parents' do.
            self.orders.make_contiguous().sort_by_key(|order| order.rank);
        }
        while let Some(&order) = self.orders.front() {
            if !matches!(order.role, Role::Candidate(_)) && !self.spares_branches() {
                // The candidate is worth what is known of it without.
                self.grove.starved.get_or_insert(Scarce::Branches);
                self.orders.pop_front();
                continue;
            }
            // A twig that goes on on its parent's branch needs no room.
            if works.len() >= room && self.grove.forks_left() > 0 {
                break;
            }
            let share = match self.grove.spendable() / self.due() {
                // What is in flight may leave something.
                0 if self.grove.in_flight() > 0 => break,
                0 => self.grove.spendable() / u32::try_from(self.orders.len()).unwrap_or(u32::MAX),
                share => share,
            };
            self.orders.pop_front();
            if let Some((index, work)) = self.grove.grow(order.parent, order.growth, share) {
                self.roles.insert(index, order.role);
                works.push(work);
            }
        }
        works
    }

    /// Where branches take all the room, one makes way: a beam on which nothing
    /// more is to be grown, else one that belongs to no candidate (a rollout), else
    /// the worst of several beams with what was ordered on it.
    fn make_way(&mut self) -> Option<Work> {
        let ordered = |index: Index| self.orders.iter().any(|order| order.parent == Some(index));
        if let Some(place) = self.beams.iter().rposition(|index| !ordered(*index)) {
            return self.grove.retire(self.beams.remove(place));
        }
        let kept: Vec<Index> = (self.level.iter())
            .flat_map(|slot| slot.ahead.iter().chain([&slot.index]))
            .chain(&self.beams)
            .copied()
            .collect();
        let spare = self.grove.all(State::Held).filter(|index| !kept.contains(index));
        let unlikely = |index: Index| (-self.grove.twig(index).likelihood(), 0.0);
        if let Some(index) = best_of(spare, unlikely) {
            return self.grove.retire(index);
        }
        let worst = if self.beams.len() > 1 { self.beams.pop()? } else { return None };
        self.orders.retain(|order| order.parent != Some(worst));
        self.later.retain(|order| order.parent != Some(worst));
        self.grove.retire(worst)
    }

    /// What a twig is worth by its scores: nothing where it has none, and all
    /// twigs the same without a verifier.
    fn score(&self, twig: &Twig) -> f64 {
        twig.worth(self.beam.scoring)
    }

    /// Ends the level: merges equal candidates, keeps the best, orders the next.
    fn select(&mut self) -> Vec<Work> {
        let candidates = std::mem::take(&mut self.level);
        let usable = |slot: &Slot| {
            let twig = self.grove.twig(slot.index);
            twig.state == State::Complete || (twig.state == State::Held && !twig.stuck)
        };
        // What the candidates were forked from has done its part; where nothing
        // came of it, the best of it is what can be completed.
        let done = if candidates.iter().any(usable) { std::mem::take(&mut self.beams) } else { Vec::new() };
        let mut works: Vec<Work> = done.into_iter().filter_map(|index| self.grove.retire(index)).collect();
        let mut level: Vec<Slot> = Vec::new();
        let mut merged = 0;
        for slot in candidates {
            let twig = self.grove.twig(slot.index);
            match twig.state {
                // One that says nothing would say nothing for ever.
                State::Held if twig.stuck => works.extend(self.drop_slot(&slot, false)),
                State::Held | State::Complete if !level.iter().any(|known| self.is_same(known, &slot)) => {
                    level.push(slot);
                }
                state @ (State::Held | State::Complete) => {
                    merged += usize::from(state == State::Complete);
                    works.extend(self.drop_slot(&slot, true));
                }
                State::Growing | State::Gone => {}
            }
        }
        let leading = self.leading();
        let among: Vec<Index> = level.iter().map(|slot| slot.index).collect();
        let mut ranked: Vec<(Slot, (f64, f64))> = level
            .into_iter()
            .map(|slot| {
                let (value, likelihood) = self.value(&slot, leading.as_deref());
                let odds = self.grove.odds(slot.index, &among, self.beam.likelihood.1);
                (slot, (value * odds, likelihood))
            })
            .collect();
        ranked.sort_by(|(_, a), (_, b)| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
        let (kept, rest) = match self.beam.variant {
            Variant::Plain => self.best_of_all(ranked),
            Variant::Diverse => self.best_of_groups(ranked),
            Variant::Balanced(temperature) => self.balanced(ranked, merged, temperature),
        };
        for slot in rest {
            works.extend(self.drop_slot(&slot, false));
        }
        if kept.is_empty() || self.grove.is_mute() {
            works.extend(self.finish());
            return works;
        }
        let mut parents = Vec::new();
        let mut ready = Vec::new();
        for (slot, mut count) in kept {
            let mut ahead = slot.ahead.into_iter();
            if let Some(first) = ahead.next() {
                // Already paid for, and scored.
                count = count.saturating_sub(1);
                let ahead = ahead.collect();
                ready.push(Slot { index: first, group: slot.group, ahead, completions: Vec::new() });
            }
            for index in slot.completions {
                works.extend(self.grove.retire(index));
            }
            parents.push((Some(slot.index), count, slot.group));
            self.beams.push(slot.index);
        }
        self.order(&parents);
        for slot in ready {
            self.level.push(slot);
            self.look_ahead(self.level.len() - 1);
        }
        if self.orders.is_empty() && self.level.is_empty() {
            works.extend(self.finish());
        }
        works
    }

    /// Gives up what a slot holds. Of two equal trajectories one has a vote.
    fn drop_slot(&mut self, slot: &Slot, duplicate: bool) -> Vec<Work> {
        let mut works: Vec<Work> = Vec::new();
        let own = [slot.index].into_iter().chain(slot.ahead.iter().copied());
        for index in own.chain(slot.completions.iter().copied()) {
            works.extend(self.grove.retire(index));
        }
        if duplicate {
            self.grove.merge(slot.index);
        }
        works
    }

    /// Whether two candidates of a parent say the same. Subtrees that are to
    /// differ begin at the same prompt, and one must not take another's place.
    fn is_same(&self, a: &Slot, b: &Slot) -> bool {
        let apart = self.beam.variant == Variant::Diverse && a.group != b.group;
        let (a, b) = (self.grove.twig(a.index), self.grove.twig(b.index));
        !apart && a.parent == b.parent && a.ids == b.ids
    }

    fn finish(&mut self) -> Vec<Work> {
        self.orders.clear();
        self.later.clear();
        self.phase = Phase::Finishing;
        let scoring = self.beam.scoring;
        self.grove.finish(|twig| twig.worth(scoring))
    }

    fn chosen(&self) -> Option<Index> {
        let vote = (self.beam.choice != Final::Best, self.beam.likelihood.0);
        self.grove.elect(vote, |twig| self.score(twig))
    }
}

impl Strategy for BeamSearch {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        loop {
            if self.phase == Phase::Done {
                return Vec::new();
            }
            let silent = std::mem::take(&mut self.silent);
            let works: Vec<Work> = silent.into_iter().filter_map(|index| self.grove.retire(index)).collect();
            if !works.is_empty() {
                return works;
            }
            let works = self.launch(room);
            if !works.is_empty() || self.grove.in_flight() > 0 {
                return works;
            }
            if room == 0
                && !self.orders.is_empty()
                && !self.grove.is_mute()
                && let Some(work) = self.make_way()
            {
                return vec![work];
            }
            // What could not be begun will not be: its room is taken for good.
            self.orders.clear();
            self.later.clear();
            let works = match self.phase {
                Phase::Fresh => {
                    self.phase = Phase::Searching;
                    let groups = 0..self.beam.width as usize;
                    let roots: Vec<_> = groups.map(|group| (None, self.beam.expansion, group)).collect();
                    self.order(&roots);
                    if self.orders.is_empty() || self.grove.is_mute() { self.finish() } else { Vec::new() }
                }
                Phase::Searching => self.select(),
                Phase::Finishing => {
                    // What was completed, and what that was forked from.
                    let works = self.grove.finish(|_| 0.0);
                    if works.is_empty() {
                        self.phase = Phase::Done;
                    }
                    works
                }
                Phase::Done => Vec::new(),
            };
            if !works.is_empty() {
                return works;
            }
        }
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        let Some(index) = self.grove.land(id, outcome) else { return };
        let place = match self.roles.remove(&index) {
            None => return,
            Some(Role::Candidate(group)) => {
                self.level.push(Slot { index, group, ahead: Vec::new(), completions: Vec::new() });
                self.order_later(self.grove.twig(index).parent);
                self.level.len() - 1
            }
            Some(Role::Ahead(place)) if self.goes_on(place, index) => place,
            Some(Role::Ahead(_)) => return,
            Some(Role::Completion(place)) => {
                self.level[place].completions.push(index);
                return;
            }
        };
        self.look_ahead(place);
    }

    fn answer(&self) -> Option<Answer> {
        self.grove.answer(self.chosen())
    }

    fn starved(&self) -> Option<Scarce> {
        self.grove.starved
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.grove.scored_candidates(self.chosen(), self.beam.scoring)
    }
}

#[cfg(test)]
mod tests;
