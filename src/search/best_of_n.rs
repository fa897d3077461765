//! `best_of_n`: independent chains of thought, and the best of them (Cobbe et al.,
//! arXiv 2110.14168; Lightman et al., arXiv 2305.20050).
//!
//! Chains are ranked by a verifier's or judge's scores, or by their own mean
//! log-probability. With `weighted`, chains that give the same answer add up (best
//! of n weighted, Li et al., arXiv 2206.02336) and the heaviest answer's best chain
//! speaks; then what is in flight is given up as soon as it cannot matter any more.
//! The best alone may always be the last to end, so nothing is given up for it.

use super::chains::{Chains, Turn};
use super::event::Candidate;
use super::grove::{Index, Twig};
use super::{Answer, Outcome, Scarce, Strategy, Work, WorkId};
use crate::plan::{Best, Budget, Marker, Rank};

/// The best of n independent chains.
#[derive(Debug)]
pub(super) struct BestOfN {
    chains: Chains,
    best: Best,
    /// Nothing that was still to come could have changed the answer.
    decided: bool,
}

impl BestOfN {
    pub(super) fn new(best: Best, budget: Budget, marker: Option<Marker>) -> Self {
        let score = matches!(best.by, Rank::Score(_) | Rank::Judge(_));
        let chains = Chains::new((best.branches, best.branches), score, budget, marker);
        Self { chains, best, decided: false }
    }

    fn weight(&self, twig: &Twig) -> f64 {
        self.chains.weight(twig, |twig| own_weight(self.best.by, twig))
    }

    fn chosen(&self) -> Option<Index> {
        let vote = (self.best.weighted, self.best.likelihood);
        self.chains.grove.elect(vote, |twig| self.weight(twig))
    }
}

/// What a chain weighs whatever the others do, from 0 to 1; `None` where it has no score.
fn own_weight(by: Rank, twig: &Twig) -> Option<f64> {
    match by {
        Rank::Score(aggregate) | Rank::Judge(aggregate) => twig.score(aggregate),
        Rank::Likelihood => Some(twig.mean_logprob.exp()),
    }
}

impl Strategy for BestOfN {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        loop {
            let works = match self.chains.turn(room) {
                Turn::Work(works) => return works,
                Turn::WaveOver => self.chains.finish(),
            };
            if !works.is_empty() {
                return works;
            }
        }
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        let landed = self.chains.grove.land(id, outcome).is_some();
        if landed && self.chains.is_growing() && self.best.weighted {
            let own = |twig: &Twig| own_weight(self.best.by, twig);
            if self.chains.unbeatable(self.best.likelihood, own).is_some() {
                self.decided = true;
                self.chains.end();
            }
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
        self.chains.grove.candidates(self.chosen(), |twig| Some(self.weight(twig)))
    }
}

#[cfg(test)]
mod tests;
