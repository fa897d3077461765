//! `cot`: one chain of thought (Kojima et al., arXiv 2205.11916), completed
//! within the answer reserve when the budget cuts it.

use super::event::Candidate;
use super::grove::{Grove, Growth, State};
use super::{Answer, Outcome, Strategy, Until, Work, WorkId};
use crate::plan::{Budget, Marker};

/// One chain with the whole budget.
#[derive(Debug)]
pub(super) struct ChainOfThought {
    grove: Grove,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh,
    Thinking,
    Completing,
    Done,
}

impl ChainOfThought {
    pub(super) fn new(budget: Budget, marker: Option<Marker>) -> Self {
        Self { grove: Grove::new(budget, marker), stage: Stage::Fresh }
    }
}

impl Strategy for ChainOfThought {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        if self.grove.in_flight() > 0 {
            return Vec::new();
        }
        let works: Vec<Work> = match self.stage {
            Stage::Fresh if room == 0 => return Vec::new(),
            Stage::Fresh => {
                self.stage = Stage::Thinking;
                let whole = Growth { until: Until::End, greedy: false, score: false, most: u32::MAX };
                self.grove.grow(None, whole, u32::MAX).map(|(_, work)| work).into_iter().collect()
            }
            Stage::Thinking => {
                self.stage = Stage::Completing;
                self.grove.finish(|_| 0.0)
            }
            Stage::Completing | Stage::Done => Vec::new(),
        };
        if self.grove.in_flight() == 0 {
            self.stage = Stage::Done;
        }
        works
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        let Some(index) = self.grove.land(id, outcome) else { return };
        if self.stage == Stage::Completing || self.grove.twig(index).state != State::Held {
            self.stage = Stage::Done;
        }
    }

    fn answer(&self) -> Option<Answer> {
        self.grove.answer(self.grove.elect((false, 0.0), |_| 1.0))
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.grove.candidates(self.grove.elect((false, 0.0), |_| 1.0), |_| None)
    }
}

#[cfg(test)]
pub(super) mod tests;
