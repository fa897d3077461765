//! How large modes are, in branches, and the same modes made smaller.

use super::{Auto, Beam, Best, Mode, Scoring, VoteStop, Voting, Weight};

/// What a request has of the KV pool beside its prompt, in blocks, and what
/// branches take of it.
#[derive(Debug, Clone, Copy)]
pub(in crate::plan) struct Pool {
    /// All of it.
    pub(in crate::plan) blocks: u32,
    /// A branch that shares nothing but the prompt, as long as branches usually get.
    pub(in crate::plan) whole: u32,
    /// Positions of a block.
    pub(in crate::plan) block: u32,
    /// Tokens of a sample, as a rule.
    pub(in crate::plan) sample: u32,
}

impl Pool {
    /// Branches that share nothing but the prompt.
    pub(in crate::plan) fn branches(&self) -> u32 {
        self.blocks / self.whole.max(1)
    }

    /// A branch that has so many steps of its own, and shares all before them. A
    /// sample has several steps, so one is half of it at most; where some get
    /// longer, the engine preempts.
    fn steps(&self, count: u32, longest: u32) -> u32 {
        let tokens = count.saturating_mul(longest.min(self.sample.div_ceil(2)));
        // The block in which the last one ends is copied before it is written.
        (tokens.div_ceil(self.block.max(1)) + 1).min(self.whole).max(1)
    }
}

impl Mode {
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
            Mode::Mcts(own) | Mode::Auto(Auto { tree: own, .. }) => {
                own.simulations.saturating_mul(own.steps.most.min(16)).min(4_096)
            }
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
            Mode::Mcts(own) | Mode::Auto(Auto { tree: own, .. }) => {
                own.width.saturating_mul(own.steps.most.min(16))
            }
        }
    }

    /// The same mode, no larger than what `samples` whole samples cost, or a vote over
    /// them where beams are too few to search. More samples never make it smaller.
    /// `None` where not even two fit.
    #[must_use]
    pub fn within(self, samples: u32) -> Option<Self> {
        if samples < 2 && self.selects() {
            return None;
        }
        Some(match self {
            // A tree search can stop after any simulation.
            Mode::Direct | Mode::ChainOfThought | Mode::Mcts(_) | Mode::Auto(_) => self,
            Mode::SelfConsistency(vote) => {
                let branches = vote.branches.min(samples);
                Mode::SelfConsistency(Voting { branches, wave: vote.wave.min(branches), ..vote })
            }
            Mode::BestOfN(best) => Mode::BestOfN(Best { branches: best.branches.min(samples), ..best }),
            Mode::Beam(beam) => match beam.within(samples) {
                Some(fitting) => Mode::Beam(fitting),
                // No wider than the least beams, which more samples make of it.
                None => Mode::SelfConsistency(beam.vote(samples.min(beam.least()))),
            },
        })
    }

    /// The same mode, in need of no more branches alive at once than a pool has
    /// room for; where these are too few for beams, a vote over as many chains as they
    /// have candidates, which take turns. `None` where it cannot do with so few.
    pub(in crate::plan) fn alive_within(self, pool: Pool) -> Option<Self> {
        Some(match self {
            // Chains and simulations make way for others.
            Mode::Mcts(_) | Mode::Auto(_) if pool.branches() < 2 => return None,
            Mode::Direct | Mode::ChainOfThought | Mode::Mcts(_) | Mode::Auto(_) => self,
            Mode::SelfConsistency(_) | Mode::BestOfN(_) => self,
            Mode::Beam(beam) => match beam.alive_within(pool) {
                Some(fitting) => Mode::Beam(fitting),
                None => Mode::SelfConsistency(beam.vote(u32::MAX)),
            },
        })
    }

    /// How many branches of so many choices can be alive at once in a pool; at
    /// least one.
    pub(in crate::plan) fn alive_in(&self, pool: Pool, choices: u32) -> u32 {
        let beam = match self {
            Mode::Direct | Mode::ChainOfThought | Mode::SelfConsistency(_) => None,
            Mode::BestOfN(_) | Mode::Mcts(_) | Mode::Auto(_) => None,
            Mode::Beam(beam) => Some(beam),
        };
        let most = choices.saturating_mul(self.alive());
        let fits = match beam {
            None => pool.branches(),
            Some(beam) => {
                let at_once = (pool.blocks / beam.blocks(pool).max(1)).clamp(1, choices.max(1));
                let each = if at_once < choices {
                    // They take turns, each with what it needs.
                    self.least_alive()
                } else {
                    let rest = (pool.blocks / at_once).saturating_sub(beam.width.saturating_mul(pool.whole));
                    beam.width + rest / beam.candidate(pool)
                };
                // What begins at the prompt shares nothing but that.
                at_once.saturating_mul(each).max(pool.branches())
            }
        };
        fits.min(most).max(1)
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

    /// The fewest candidates that it searches with: two for each of two beams, if it
    /// has as many. Fewer choose among too little, and end too few of what they begin.
    fn least(&self) -> u32 {
        4.min(self.width * self.expansion)
    }

    /// `None` where too few candidates are left.
    fn within(self, samples: u32) -> Option<Self> {
        let candidates = samples / self.cost();
        if candidates < self.least() {
            return None;
        }
        let width = self.width.min((candidates / self.expansion.clamp(1, 2)).max(1));
        let expansion = self.expansion.min((candidates / width).max(1));
        Some(Self { width, expansion, ..self })
    }

    /// A vote over whole chains, with the weights that its own has.
    fn vote(self, samples: u32) -> Voting {
        let branches = samples.min(self.width * self.expansion).max(2);
        let (weight, likelihood) = match self.scoring {
            Scoring::Verifier(aggregate) => (Weight::Score(aggregate), self.likelihood.0),
            Scoring::Rollouts(_) => (Weight::Count, 0.0),
        };
        Voting { branches, wave: branches, stop: VoteStop::Fixed, weight, likelihood }
    }

    /// What a candidate takes of a pool: the steps by which it differs from what it
    /// was forked from, those of its rollout included. Completions are whole
    /// branches.
    fn candidate(&self, pool: Pool) -> u32 {
        match self.scoring {
            Scoring::Verifier(_) => pool.steps(1 + self.lookahead, self.steps.tokens),
            Scoring::Rollouts(_) => pool.whole.max(1),
        }
    }

    /// What it takes of a pool: its beams, which may have no more than the prompt in
    /// common, and their candidates, which share all of theirs.
    fn blocks(&self, pool: Pool) -> u32 {
        let candidates = self.expansion.saturating_mul(self.candidate(pool));
        self.width.saturating_mul(candidates.saturating_add(pool.whole))
    }

    /// `None` where too few beams or candidates are left.
    fn alive_within(self, pool: Pool) -> Option<Self> {
        let (whole, candidate) = (pool.whole.max(1), self.candidate(pool));
        // A beam with two candidates to choose from, where it has more.
        let width = self.width.min(pool.blocks / (whole + self.expansion.min(2) * candidate));
        let each = pool.blocks.checked_div(width)? - whole;
        let expansion = self.expansion.min(each / candidate);
        let searches = width >= self.width.min(2) && width * expansion >= self.least();
        searches.then_some(Self { width, expansion, ..self })
    }
}
