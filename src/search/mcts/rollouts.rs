//! Rollouts in the place of a verifier: a leaf is worth the share of its completions
//! that come to the answer which leads by now.
//!
//! A rollout is granted what nearly every trajectory needs from there to its end.
//! Where less is left it waits for what others leave, and where nothing is in flight it
//! is left out: a leaf is valued by fewer rollouts rather than by many that are cut.
//! While no trajectory is complete, one that was cut is kept, to be brought to its
//! answer should nothing else come to one.

use super::TreeSearch;
use super::node::Place;
use crate::plan::Scoring;
use crate::search::grove::{Growth, Index, State};
use crate::search::{Scarce, Until, Work};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What is known of a search's rollouts.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    /// The leaf of each that is under way.
    under_way: HashMap<Index, Place>,
    /// Visits that wait for a leaf's rollouts.
    valuing: BTreeMap<Place, u32>,
    /// Leaves, each with the number of its rollouts that are still to begin.
    rolls: VecDeque<(Place, u32)>,
    /// Those that were cut while nothing was complete.
    cut: Vec<Index>,
}

impl Rollouts {
    /// A simulation has reached a leaf, and waits for so many rollouts of it.
    pub(super) fn want(&mut self, place: Place, count: u32) {
        *self.valuing.entry(place).or_insert(0) += 1;
        self.rolls.push_back((place, count));
    }

    /// Whether a visit of a leaf waits for its rollouts.
    pub(super) fn awaits(&self, place: Place) -> bool {
        self.valuing.contains_key(&place)
    }

    /// Rollouts that are still to begin.
    pub(super) fn due(&self) -> u32 {
        self.rolls.iter().fold(0, |sum, (_, due)| sum.saturating_add(*due))
    }

    /// Leaves with rollouts that are still to begin.
    pub(super) fn leaves(&self) -> impl Iterator<Item = Place> {
        self.rolls.iter().map(|(place, _)| *place)
    }

    /// The leaf of a rollout that was under way.
    pub(super) fn landed(&mut self, index: Index) -> Option<Place> {
        self.under_way.remove(&index)
    }

    /// Nothing more is to begin; gives the visits that wait, by leaf.
    pub(super) fn abandon(&mut self) -> BTreeMap<Place, u32> {
        self.rolls.clear();
        std::mem::take(&mut self.valuing)
    }

    /// Those that were cut are of no more use.
    pub(super) fn give_up_cut(&mut self) -> Vec<Index> {
        std::mem::take(&mut self.cut)
    }
}

impl TreeSearch {
    /// Begins rollouts while there is room for them and tokens to end with.
    pub(super) fn roll(&mut self, room: usize) -> Vec<Work> {
        let mut works = Vec::new();
        let Scoring::Rollouts(count) = self.mcts.scoring else { return works };
        let growth = Growth { until: Until::End, greedy: false, score: false, most: u32::MAX };
        while works.len() < room
            && let Some((place, due)) = self.rollouts.rolls.pop_front()
        {
            let twig = self.nodes.get(place).twig;
            let (spendable, rest) = (self.grove.spendable(), self.grove.rest(twig));
            if spendable < rest && self.grove.in_flight() > 0 {
                self.rollouts.rolls.push_front((place, due));
                break;
            }
            // Steps under way will need rollouts too.
            let to_come = u32::try_from(self.under_way.len()).unwrap_or(u32::MAX).saturating_mul(count);
            let equal = spendable / due.saturating_add(self.rollouts.due()).saturating_add(to_come).max(1);
            let too_few = spendable == 0 || (spendable < rest / 2 && self.grove.any_complete());
            let begun = if too_few { None } else { self.grove.grow(twig, growth, equal.max(rest)) };
            match begun {
                Some((index, work)) => {
                    self.rollouts.under_way.insert(index, place);
                    self.nodes.get_mut(place).rolling += 1;
                    works.push(work);
                    if due > 1 {
                        self.rollouts.rolls.push_front((place, due - 1));
                    }
                }
                None if too_few => self.grove.starved = Some(Scarce::Tokens),
                // Nothing more can grow below it.
                None => {}
            }
            self.rolled(place);
        }
        works
    }

    /// A rollout has landed.
    pub(super) fn rolled_out(&mut self, index: Index, place: Place) {
        let twig = self.grove.twig(index);
        if twig.state == State::Complete {
            let value = twig.value.clone();
            self.nodes.get_mut(place).answers.push(value);
            self.duplicates.append(&mut self.rollouts.cut);
        } else if self.grove.any_complete() {
            // One that was cut says nothing, and keeps no room.
            self.duplicates.push(index);
        } else {
            self.rollouts.cut.push(index);
        }
        let node = self.nodes.get_mut(place);
        node.rolling = node.rolling.saturating_sub(1);
        self.rolled(place);
    }

    /// Brings the visits home for which a leaf's rollouts have all ended.
    fn rolled(&mut self, place: Place) {
        if self.nodes.get(place).rolling > 0 || self.rollouts.leaves().any(|leaf| leaf == place) {
            return;
        }
        for _ in 0..self.rollouts.valuing.remove(&place).unwrap_or(0) {
            self.backpropagate(place, 0.0);
        }
        self.revalue();
    }

    /// Recomputes every value from the rollouts' answers and the one that leads
    /// now.
    pub(super) fn revalue(&mut self) {
        let Some(leading) = self.grove.elect((true, 0.0), |_| 1.0) else { return };
        let leading = self.grove.twig(leading).value.clone();
        self.nodes.revalue(leading.as_deref());
    }
}
