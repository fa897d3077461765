//! `lookahead`: what a candidate is worth where its own score is not enough.
//!
//! Its value is then that of the end of a rollout of up to `lookahead` further
//! steps at temperature 0 (Snell et al., arXiv 2408.03314, section 5). The rollout's
//! first step is one of the next level's candidates, paid for and scored already;
//! its tokens count like any others. Without a verifier a candidate is worth the
//! share of its completions that reach the answer which leads among all completed
//! trajectories; these completions vote.

use super::super::grove::{Growth, Index, State};
use super::{BeamSearch, Order, Role, Slot};
use crate::plan::Scoring;
use crate::search::Until;

impl BeamSearch {
    /// What a candidate is worth.
    pub(super) fn value(&self, slot: &Slot, leading: Option<&str>) -> (f64, f64) {
        let twig = self.grove.twig(slot.index);
        let value = match self.beam.scoring {
            Scoring::Verifier(_) => {
                let end = slot.ahead.last().copied().unwrap_or(slot.index);
                self.score(self.grove.twig(end))
            }
            Scoring::Rollouts(_) if twig.state == State::Complete => {
                f64::from(u8::from(leading.is_some() && twig.value.as_deref() == leading))
            }
            Scoring::Rollouts(_) => {
                let ended = || {
                    slot.completions.iter().filter(|index| self.grove.twig(**index).state == State::Complete)
                };
                let hits = ended().filter(|index| {
                    leading.is_some() && self.grove.twig(**index).value.as_deref() == leading
                });
                hits.count() as f64 / ended().count().max(1) as f64
            }
        };
        (value, twig.likelihood())
    }

    /// The answer that most complete trajectories give.
    pub(super) fn leading(&self) -> Option<String> {
        let chosen = self.grove.elect((true, 0.0), |_| 1.0)?;
        self.grove.twig(chosen).value.clone()
    }

    /// Orders what a candidate's value still needs; nothing for one that will be
    /// merged with its equal.
    pub(super) fn look_ahead(&mut self, place: usize) {
        let slot = &self.level[place];
        if self.level[..place].iter().any(|known| self.is_same(known, slot)) {
            return;
        }
        let held = |index: Index| {
            let twig = self.grove.twig(index);
            twig.state == State::Held && !twig.stuck
        };
        if let Scoring::Rollouts(count) = self.beam.scoring {
            if held(slot.index) {
                let growth = Growth { until: Until::End, greedy: false, score: false, most: u32::MAX };
                let order = Order {
                    parent: Some(slot.index),
                    growth,
                    role: Role::Completion(place),
                    rank: usize::MAX,
                };
                self.orders.extend(std::iter::repeat_n(order, count as usize));
            }
            return;
        }
        let end = slot.ahead.last().copied().unwrap_or(slot.index);
        if slot.ahead.len() < self.beam.lookahead as usize && held(end) {
            // As with candidates, the last step goes on to the end.
            let last = self.grove.twig(end).depth + 1 >= self.beam.steps.most;
            let step = Growth { greedy: true, ..self.step() };
            let growth = if last { Growth { until: Until::End, most: u32::MAX, ..step } } else { step };
            self.orders.push_back(Order {
                parent: Some(end),
                growth,
                role: Role::Ahead(place),
                rank: usize::MAX,
            });
        }
    }

    /// Takes the end of a rollout's step; whether the rollout may go on.
    pub(super) fn goes_on(&mut self, place: usize, index: Index) -> bool {
        let said = self.grove.twig(index).tokens > 0;
        if said {
            self.level[place].ahead.push(index);
        } else if self.grove.forks_left() > 0 {
            // Nothing came of it, and the same again would not either. Where no more
            // branches may be made, its own is all that the candidate can still be
            // completed on.
            self.silent.push(index);
        }
        said
    }

    /// Whether there are branches for what only values candidates. Without, it would
    /// go on on theirs, and so take the search's own from it. Completions lead
    /// nowhere, and leave a branch for each beam; the first step of a rollout is a
    /// candidate itself.
    pub(super) fn spares_branches(&self) -> bool {
        let needed = match self.beam.scoring {
            Scoring::Verifier(_) => 0,
            Scoring::Rollouts(_) => self.beam.width,
        };
        self.grove.forks_left() > needed
    }
}
