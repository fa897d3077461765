//! How large modes are, in parameters and in branches, and the same modes made
//! smaller.

use super::{Auto, Beam, Best, Mode, Scoring, VoteStop, Voting};
use crate::plan::Parameter;

impl Mode {
    /// Its sizes as parameters: what may differ from what was asked for, as
    /// [`Mode::within`] lowers them, and a wave of one chain is made one of two.
    #[must_use]
    pub fn sizes(&self) -> Vec<(Parameter, u32)> {
        let beam = |beam: &Beam| [(Parameter::Width, beam.width), (Parameter::Expansion, beam.expansion)];
        match self {
            Mode::Direct | Mode::ChainOfThought | Mode::Mcts(_) => Vec::new(),
            // In a fixed vote there are no waves, and that parameter says nothing.
            Mode::SelfConsistency(Voting { branches, wave, stop, .. }) if *stop != VoteStop::Fixed => {
                vec![(Parameter::Branches, *branches), (Parameter::Wave, *wave)]
            }
            Mode::SelfConsistency(Voting { branches, .. }) | Mode::BestOfN(Best { branches, .. }) => {
                vec![(Parameter::Branches, *branches)]
            }
            Mode::Beam(own) => beam(own).to_vec(),
            Mode::Auto(own) => {
                let mut sizes = beam(&own.beam).to_vec();
                sizes.push((Parameter::Probe, own.probe));
                sizes
            }
        }
    }

    /// Branches that it likes to have alive at once.
    #[must_use]
    pub fn alive(&self) -> u32 {
        let beam = |beam: &Beam| {
            let candidates = beam.width * beam.expansion;
            // The beams, their candidates, and a rollout beside each.
            beam.width + 2 * candidates + if beam.lookahead > 0 { candidates * beam.lookahead } else { 0 }
        };
        match self {
            Mode::Direct | Mode::ChainOfThought => 1,
            Mode::SelfConsistency(Voting { branches, .. }) | Mode::BestOfN(Best { branches, .. }) => {
                *branches
            }
            Mode::Beam(own) => beam(own),
            Mode::Mcts(own) => own.simulations.saturating_mul(own.steps.most.min(16)).min(4_096),
            Mode::Auto(own) => own.probe + beam(&own.beam),
        }
    }

    /// Branches that it needs alive at once to be what it is; with fewer, choices
    /// rather take turns.
    #[must_use]
    pub fn least_alive(&self) -> u32 {
        let beam = |beam: &Beam| beam.width * (1 + beam.expansion);
        match self {
            Mode::Direct | Mode::ChainOfThought | Mode::SelfConsistency(_) | Mode::BestOfN(_) => 1,
            Mode::Beam(own) => beam(own),
            Mode::Mcts(own) => own.width.saturating_mul(own.steps.most.min(16)),
            Mode::Auto(own) => own.probe.max(beam(&own.beam)),
        }
    }

    /// The same mode, no larger than what `samples` whole samples cost. More
    /// samples never make it smaller. `None` where not even two fit.
    #[must_use]
    pub fn within(self, samples: u32) -> Option<Self> {
        if samples < 2 && self.selects() {
            return None;
        }
        Some(match self {
            // A tree search can stop after any simulation.
            Mode::Direct | Mode::ChainOfThought | Mode::Mcts(_) => self,
            Mode::SelfConsistency(vote) => {
                Mode::SelfConsistency(Voting { branches: vote.branches.min(samples), ..vote })
            }
            Mode::BestOfN(best) => Mode::BestOfN(Best { branches: best.branches.min(samples), ..best }),
            Mode::Beam(beam) => Mode::Beam(beam.within(samples)?),
            Mode::Auto(auto) => {
                // The probe gets half at most, as in the search.
                let probe = auto.probe.min(samples / 2);
                Mode::Auto(Auto { probe, beam: auto.beam.within(samples - probe)?, ..auto })
            }
        })
    }

    /// The same mode, in need of no more than so many branches alive at once.
    /// `None` where it cannot do with so few.
    #[must_use]
    pub fn alive_within(self, live: u32) -> Option<Self> {
        Some(match self {
            // Chains and simulations make way for others.
            Mode::Mcts(_) if live < 2 => return None,
            Mode::Direct | Mode::ChainOfThought | Mode::Mcts(_) => self,
            Mode::SelfConsistency(_) | Mode::BestOfN(_) => self,
            Mode::Beam(beam) => Mode::Beam(beam.alive_within(live)?),
            Mode::Auto(auto) => {
                let probe = auto.probe.min(live);
                Mode::Auto(Auto { probe, beam: auto.beam.alive_within(live)?, ..auto })
            }
        })
    }
}

impl Beam {
    /// What a candidate costs: itself, and the rollouts that value it.
    fn cost(&self) -> u32 {
        match self.scoring {
            Scoring::Verifier(_) => 1 + self.lookahead,
            Scoring::Rollouts(completions) => 1 + completions,
        }
    }

    fn within(self, samples: u32) -> Option<Self> {
        let candidates = samples / self.cost();
        if candidates < 2.min(self.width * self.expansion) {
            return None;
        }
        let width = self.width.min((candidates / 2).max(1));
        let expansion = self.expansion.min((candidates / width).max(1));
        Some(Self { width, expansion, ..self })
    }

    fn alive_within(self, live: u32) -> Option<Self> {
        // A beam with two candidates to choose from, where it has more.
        let width = self.width.min(live / (1 + self.expansion.min(2)));
        let expansion = (live.checked_div(width)? - 1).min(self.expansion);
        Some(Self { width, expansion, ..self })
    }
}
