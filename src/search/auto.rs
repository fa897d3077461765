//! `auto`: a probe of a few scored chains decides how hard the problem is. Where
//! their leading answer has the weight and the score that were asked for, it is
//! given; else a beam search goes on with what the budget has left, and the
//! probe's trajectories vote in it. (Adaptive allocation in the sense of Snell et
//! al., arXiv 2408.03314, with the verifier's view of the first samples as the
//! estimate of difficulty.)

use super::beam::BeamSearch;
use super::event::Candidate;
use super::grove::{Grove, Growth, Index, State, Twig};
use super::{Answer, Outcome, Scarce, Strategy, Until, Work, WorkId};
use crate::plan::{Auto, Budget, Final, Marker, Scoring};

/// A probe, and a search where it is not enough.
#[derive(Debug)]
pub(super) struct AutoSearch {
    auto: Auto,
    /// Tokens that the probe leaves to a search: half of the budget.
    kept: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Probe {
        grove: Grove,
        asked: u32,
    },
    /// The probe was enough, and what it holds was given up.
    Enough(Grove),
    Search(Box<BeamSearch>),
}

impl AutoSearch {
    pub(super) fn new(auto: Auto, budget: Budget, marker: Option<Marker>) -> Self {
        let grove = Grove::new(budget, marker);
        Self { auto, kept: grove.spendable().div_ceil(2), stage: Stage::Probe { grove, asked: 0 } }
    }

    /// Whether the probe's leading answer can be given at once.
    fn enough(&self, grove: &Grove) -> bool {
        let beam = &self.auto.beam;
        let Some(chosen) = self.chosen(grove).map(|index| grove.twig(index)) else { return false };
        let worth = |twig: &Twig| twig.worth(beam.scoring);
        // How likely a text is says which to give, not how hard the problem is.
        let classes = grove.classes(0.0, worth);
        let Some(own) = classes.iter().find(|class| Some(class.answer) == chosen.value.as_deref()) else {
            return false;
        };
        let all: f64 = grove.all(State::Complete).map(|index| worth(grove.twig(index))).sum();
        // Chains that came to no answer speak against it.
        let silent = grove.len() - grove.all(State::Complete).count();
        let share = own.weight / (all + silent as f64);
        share >= self.auto.confidence && worth(chosen) >= self.auto.confidence
    }

    fn chosen(&self, grove: &Grove) -> Option<Index> {
        let beam = &self.auto.beam;
        grove.elect((beam.choice != Final::Best, beam.likelihood.0), |twig| twig.worth(beam.scoring))
    }
}

impl Strategy for AutoSearch {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        loop {
            match &mut self.stage {
                Stage::Search(search) => return search.ask(room),
                Stage::Enough(_) => return Vec::new(),
                Stage::Probe { grove, asked } => {
                    let score = matches!(self.auto.beam.scoring, Scoring::Verifier(_));
                    let growth = Growth { until: Until::End, greedy: false, score, most: u32::MAX };
                    let mut works = Vec::new();
                    while *asked < self.auto.probe && works.len() < room {
                        let waiting = self.auto.probe - *asked;
                        let left = grove.spendable().saturating_sub(self.kept);
                        // As in votes: a chain that is cut for the sake of others says nothing.
                        let whole = grove.sample().saturating_mul(2);
                        if left < whole && grove.in_flight() > 0 {
                            break;
                        }
                        if left < whole / 2 && *asked > 0 {
                            *asked = self.auto.probe;
                            break;
                        }
                        let share = (left / waiting).max(whole.min(left)).max(1);
                        match grove.grow(None, growth, share) {
                            Some((_, work)) => {
                                *asked += 1;
                                works.push(work);
                            }
                            None => *asked = self.auto.probe,
                        }
                    }
                    if !works.is_empty() || grove.in_flight() > 0 {
                        return works;
                    }
                }
            }
            // The probe has ended, or found no room to.
            let Stage::Probe { grove, .. } = &mut self.stage else { return Vec::new() };
            let mut grove = std::mem::replace(grove, Grove::new(NOTHING, None));
            let held: Vec<Index> = grove.all(State::Held).collect();
            if self.enough(&grove) {
                let works = held.into_iter().filter_map(|index| grove.retire(index)).collect();
                self.stage = Stage::Enough(grove);
                return works;
            }
            // Of equal trajectories one has a vote, as in the search.
            let complete: Vec<Index> = grove.all(State::Complete).collect();
            for (place, &index) in complete.iter().enumerate() {
                let ids = &grove.twig(index).ids;
                if complete[..place].iter().any(|&before| grove.twig(before).ids == *ids) {
                    grove.merge(index);
                }
            }
            // What was cut stays alive: the search may have to complete it.
            self.stage = Stage::Search(Box::new(BeamSearch::over(grove, self.auto.beam)));
        }
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        match &mut self.stage {
            Stage::Probe { grove, .. } | Stage::Enough(grove) => drop(grove.land(id, outcome)),
            Stage::Search(search) => search.tell(id, outcome),
        }
    }

    fn answer(&self) -> Option<Answer> {
        match &self.stage {
            Stage::Probe { grove, .. } | Stage::Enough(grove) => grove.answer(self.chosen(grove)),
            Stage::Search(search) => search.answer(),
        }
    }

    fn is_done(&self) -> bool {
        match &self.stage {
            Stage::Probe { .. } => false,
            Stage::Enough(_) => true,
            Stage::Search(search) => search.is_done(),
        }
    }

    fn starved(&self) -> Option<Scarce> {
        match &self.stage {
            Stage::Search(search) => search.starved(),
            Stage::Probe { .. } | Stage::Enough(_) => None,
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        match &self.stage {
            Stage::Probe { grove, .. } | Stage::Enough(grove) => {
                grove.scored_candidates(self.chosen(grove), self.auto.beam.scoring)
            }
            Stage::Search(search) => search.candidates(),
        }
    }
}

/// The budget of a grove that is only there to be replaced.
const NOTHING: Budget =
    Budget { tokens: 0, reserve: 0, branches: 0, branch_tokens: 0, sample: 1, verifier_tokens: None };

#[cfg(test)]
mod tests;
