//! The modes with their settings: what [`super::Settings`] say, typed, and made
//! to fit what the server has. What has no part in a mode has one value in it, so
//! that modes which do the same are equal.
//!
//! Length: one type per mode, each with its documented fields, and the way from
//! settings to all of them.

use super::{ModeName, Parameter, Settings};
use crate::verify::Aggregate;

mod settings;
mod size;

pub(super) use size::Pool;

/// A decoding mode with its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// The model's own answer, no instruction added.
    Direct,
    /// One chain of thought (Kojima et al., arXiv 2205.11916).
    ChainOfThought,
    /// A vote over independent chains of thought (Wang et al., arXiv 2203.11171).
    SelfConsistency(Voting),
    /// The best of independent chains of thought.
    BestOfN(Best),
    /// Beam search over steps, with or without lookahead.
    Beam(Beam),
    /// Monte-Carlo tree search over steps.
    Mcts(Mcts),
    /// A probe, and a search where it is not enough.
    Auto(Auto),
}

/// A vote over independent chains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Voting {
    /// Chains, at least 2.
    pub branches: u32,
    /// Chains begun at once, at most `branches`; all of them where it is fixed.
    pub wave: u32,
    /// When it stops.
    pub stop: VoteStop,
    /// What a chain weighs.
    pub weight: Weight,
    /// Exponent of a trajectory's likelihood, which its score is multiplied by.
    pub likelihood: f64,
}

/// When a vote stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VoteStop {
    /// With its last chain, or when the rest cannot change it.
    Fixed,
    /// Once the leader is the true majority with this probability.
    Posterior(f64),
    /// Once a whole wave agrees.
    Window,
}

/// What a chain weighs in a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// 1.
    Count,
    /// Its aggregated score.
    Score(Aggregate),
    /// Its confidence.
    Confidence(Measure),
}

/// A confidence of a whole chain, by DeepConf's definitions (arXiv 2508.15260).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Which tokens count.
    pub over: Over,
    /// Tokens in a group, at least 1; 1 where there are no groups.
    pub window: u32,
}

/// Which tokens of a chain its confidence comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// All.
    Mean,
    /// The last group.
    Tail,
    /// The lowest tenth of the groups.
    Bottom,
    /// The lowest group.
    Lowest,
}

/// The best of some chains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// Chains, at least 2.
    pub branches: u32,
    /// By what they are ranked.
    pub by: Rank,
    /// Whether chains with equal answers add up.
    pub weighted: bool,
    /// Exponent of a trajectory's likelihood, which its score is multiplied by.
    pub likelihood: f64,
}

/// By what chains are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// The verifier's aggregated score.
    Score(Aggregate),
    /// A judge's.
    Judge(Aggregate),
    /// Their mean log-probability.
    Likelihood,
}

/// Where the value of a step comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// A verifier's scores, made one.
    Verifier(Aggregate),
    /// The share of so many completions that reach the leading answer.
    Rollouts(u32),
}

/// A beam search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beam {
    /// Beams kept.
    pub width: u32,
    /// Candidates of each.
    pub expansion: u32,
    /// How candidates become beams.
    pub variant: Variant,
    /// Steps of a candidate's rollout at temperature 0; 0 without, and 1 where
    /// completions take their place.
    pub lookahead: u32,
    /// What a candidate is worth.
    pub scoring: Scoring,
    /// How the answer is chosen.
    pub choice: Final,
    /// Exponents of a trajectory's likelihood, which its score is multiplied by:
    /// in the vote, and when candidates are ranked.
    pub likelihood: (f64, f64),
    /// Bounds of steps.
    pub steps: Steps,
}

/// How candidates become beams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variant {
    /// The best of all.
    Plain,
    /// The best of each subtree.
    Diverse,
    /// All, with candidates shared out by softmax of their values at this
    /// temperature.
    Balanced(f64),
}

/// How an answer is chosen among complete trajectories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Final {
    /// By a vote weighted with their values.
    Vote,
    /// The most valuable.
    Best,
    /// Following the most visited children.
    Visits,
    /// Following the children with the highest mean value.
    Value,
}

/// Bounds of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Steps of a trajectory.
    pub most: u32,
    /// Tokens of a step.
    pub tokens: u32,
    /// Equal samples in a row after which no more are drawn beside them; 0 for
    /// no such bound.
    pub repeats: u32,
}

/// A Monte-Carlo tree search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mcts {
    /// Simulations.
    pub simulations: u32,
    /// Tokens after which no more simulations are begun; 0 leaves that to the budget.
    pub tokens: u32,
    /// Children of a node, at most.
    pub width: u32,
    /// The rule of selection.
    pub select: Select,
    /// Progressive widening: exponent and factor.
    pub widening: Option<(f64, f64)>,
    /// Where values come from.
    pub scoring: Scoring,
    /// Whether a simulation goes on to the end of a trajectory for its score; not
    /// where completions value it.
    pub whole: bool,
    /// How the answer is chosen.
    pub choice: Final,
    /// Exponent of a trajectory's likelihood in the vote.
    pub likelihood: f64,
    /// Simulations under way at once.
    pub in_flight: u32,
    /// What ends it before its time.
    pub enough: Option<Enough>,
    /// Bounds of steps.
    pub steps: Steps,
}

/// When a search has its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Enough {
    /// Simulations that have come home.
    pub after: u32,
    /// The leading answer's share of the vote's weight.
    pub share: f64,
    /// The score of the best trajectory that gives it.
    pub score: f64,
}

/// A rule of selection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Select {
    /// `Q + c * sqrt(ln N / n)`.
    Uct(f64),
    /// `Q + c(N) * P * sqrt(N) / (1 + n)`, `c(N) = ln((N + base + 1) / base) + init`.
    Puct {
        /// `c_init`.
        init: f64,
        /// `c_base`.
        base: f64,
    },
}

/// A tree search that begins with a probe, and is over where that is enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Auto {
    /// Simulations of the probe.
    pub probe: u32,
    /// The share of the vote's weight and the score that the leading answer needs.
    pub confidence: f64,
    /// The search, which has no [`Mcts::enough`] beside these.
    pub tree: Mcts,
}

/// Which verifier a mode asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// The server's own.
    Verifier,
    /// The judge.
    Judge,
}

/// What the server can verify with, as far as plans depend on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verifiers {
    /// The default aggregate of the process reward model.
    pub prm: Option<Aggregate>,
    /// The default aggregate of the judge.
    pub judge: Option<Aggregate>,
}

impl Mode {
    /// The mode of that name, with settings that fit the verifiers; what had to
    /// give way is noted. `standard` and `pro` are no modes of their own and
    /// count as one chain.
    #[must_use]
    pub fn new(name: ModeName, settings: &Settings, verifiers: Verifiers, notes: &mut Vec<String>) -> Self {
        let made = Maker { settings, verifiers };
        match name {
            ModeName::Direct => Mode::Direct,
            ModeName::Cot | ModeName::Standard | ModeName::Pro => Mode::ChainOfThought,
            ModeName::SelfConsistency => Mode::SelfConsistency(made.voting(notes)),
            ModeName::BestOfN => Mode::BestOfN(made.best(notes)),
            ModeName::Beam => Mode::Beam(made.beam(0, notes)),
            ModeName::Lookahead => Mode::Beam(made.beam(settings.count(Parameter::Lookahead), notes)),
            ModeName::Mcts => Mode::Mcts(made.mcts(notes)),
            ModeName::Auto => Mode::Auto(Auto {
                probe: settings.count(Parameter::Probe),
                confidence: settings.number(Parameter::ProbeConfidence),
                tree: Mcts { enough: None, ..made.mcts(notes) },
            }),
        }
    }

    /// A plain majority over so many chains, all begun at once.
    #[must_use]
    pub fn vote(branches: u32) -> Self {
        Mode::SelfConsistency(Voting {
            branches,
            wave: branches,
            stop: VoteStop::Fixed,
            weight: Weight::Count,
            likelihood: 0.0,
        })
    }

    /// Its name.
    #[must_use]
    pub fn kind(&self) -> ModeName {
        match self {
            Mode::Direct => ModeName::Direct,
            Mode::ChainOfThought => ModeName::Cot,
            Mode::SelfConsistency(_) => ModeName::SelfConsistency,
            Mode::BestOfN(_) => ModeName::BestOfN,
            Mode::Beam(Beam { lookahead: 0, .. }) => ModeName::Beam,
            Mode::Beam(_) => ModeName::Lookahead,
            Mode::Mcts(_) => ModeName::Mcts,
            Mode::Auto(_) => ModeName::Auto,
        }
    }

    /// The name under which it is requested and reported.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Whether it grows more than one trajectory, and so selects one in the end.
    #[must_use]
    pub fn selects(&self) -> bool {
        !matches!(self, Mode::Direct | Mode::ChainOfThought)
    }

    /// Branches that it makes when nothing stops it, where that is known.
    #[must_use]
    pub fn branches(&self) -> Option<u32> {
        match self {
            Mode::Direct | Mode::ChainOfThought => Some(1),
            Mode::SelfConsistency(Voting { branches, .. }) | Mode::BestOfN(Best { branches, .. }) => {
                Some(*branches)
            }
            Mode::Beam(_) | Mode::Mcts(_) | Mode::Auto(_) => None,
        }
    }

    /// The tree search that it is, where it is one; it can stop after any simulation.
    #[must_use]
    pub fn tree(&self) -> Option<&Mcts> {
        match self {
            Mode::Mcts(tree) | Mode::Auto(Auto { tree, .. }) => Some(tree),
            Mode::Direct | Mode::ChainOfThought | Mode::SelfConsistency(_) => None,
            Mode::BestOfN(_) | Mode::Beam(_) => None,
        }
    }

    /// Which verifier it asks.
    #[must_use]
    pub fn asks(&self) -> Option<Asks> {
        let of = |scoring: Scoring| matches!(scoring, Scoring::Verifier(_)).then_some(Asks::Verifier);
        match self {
            Mode::Direct | Mode::ChainOfThought => None,
            Mode::SelfConsistency(vote) => matches!(vote.weight, Weight::Score(_)).then_some(Asks::Verifier),
            Mode::BestOfN(best) => match best.by {
                Rank::Score(_) => Some(Asks::Verifier),
                Rank::Judge(_) => Some(Asks::Judge),
                Rank::Likelihood => None,
            },
            Mode::Beam(beam) => of(beam.scoring),
            Mode::Mcts(tree) | Mode::Auto(Auto { tree, .. }) => of(tree.scoring),
        }
    }

    /// Whether it reads the confidence of tokens.
    #[must_use]
    pub fn reads_confidence(&self) -> bool {
        matches!(self, Mode::SelfConsistency(Voting { weight: Weight::Confidence(_), .. }))
    }
}

/// Settings on their way to a mode.
struct Maker<'a> {
    settings: &'a Settings,
    verifiers: Verifiers,
}

impl Maker<'_> {
    fn aggregate(&self, own: Aggregate) -> Aggregate {
        match self.settings.get(Parameter::Aggregate) {
            Some(super::Setting::Choice(name)) => Aggregate::parse(name).unwrap_or(own),
            _ => own,
        }
    }

    fn scoring(&self, notes: &mut Vec<String>) -> Scoring {
        match self.verifiers.prm {
            Some(own) => Scoring::Verifier(self.aggregate(own)),
            None => {
                let rollouts = self.settings.count(Parameter::Rollouts);
                notes.push(format!("no verifier is configured, so {rollouts} rollouts value each step"));
                Scoring::Rollouts(rollouts)
            }
        }
    }

    fn steps(&self) -> Steps {
        Steps {
            most: self.settings.count(Parameter::MaxSteps),
            tokens: self.settings.count(Parameter::StepTokens),
            repeats: self.settings.count(Parameter::Repeats),
        }
    }

    fn voting(&self, notes: &mut Vec<String>) -> Voting {
        let settings = self.settings;
        let branches = settings.count(Parameter::Branches);
        let stop = match settings.choice(Parameter::Stop) {
            "posterior" => VoteStop::Posterior(settings.number(Parameter::StopConfidence)),
            "window" => VoteStop::Window,
            _ => VoteStop::Fixed,
        };
        let wave = match (stop, settings.count(Parameter::Wave)) {
            (VoteStop::Fixed, _) => branches,
            (VoteStop::Window, 1) => {
                notes.push("one chain always agrees with itself, so each wave has 2".to_owned());
                2
            }
            (_, wave) => wave.min(branches),
        };
        let weight = match (settings.choice(Parameter::Vote), self.verifiers.prm) {
            ("verifier", Some(own)) => Weight::Score(self.aggregate(own)),
            ("verifier", None) => {
                notes.push("no verifier is configured, so every vote counts the same".to_owned());
                Weight::Count
            }
            ("confidence", _) => Weight::Confidence(self.measure()),
            _ => Weight::Count,
        };
        let likelihood = match weight {
            Weight::Score(_) => settings.number(Parameter::VoteLikelihood),
            // What is counted counts 1, and DeepConf weighs by confidence alone.
            Weight::Count | Weight::Confidence(_) => 0.0,
        };
        Voting { branches, wave, stop, weight, likelihood }
    }

    fn measure(&self) -> Measure {
        let over = match self.settings.choice(Parameter::Confidence) {
            "mean" => Over::Mean,
            "tail" => Over::Tail,
            "bottom" => Over::Bottom,
            _ => Over::Lowest,
        };
        // The mean of all tokens knows no groups.
        let window = if over == Over::Mean { 1 } else { self.settings.count(Parameter::ConfidenceWindow) };
        Measure { over, window }
    }

    fn best(&self, notes: &mut Vec<String>) -> Best {
        let by = match (self.settings.choice(Parameter::Rank), self.verifiers) {
            ("verifier", Verifiers { prm: Some(own), .. }) => Rank::Score(self.aggregate(own)),
            ("judge", Verifiers { judge: Some(own), .. }) => Rank::Judge(self.aggregate(own)),
            ("likelihood", _) => Rank::Likelihood,
            (rank, _) => {
                notes.push(format!("no {rank} is configured, so chains are ranked by their likelihood"));
                Rank::Likelihood
            }
        };
        Best {
            branches: self.settings.count(Parameter::Branches),
            by,
            weighted: self.settings.flag(Parameter::Weighted),
            likelihood: self.settings.number(Parameter::VoteLikelihood),
        }
    }

    fn choice(&self) -> Final {
        match self.settings.choice(Parameter::Final) {
            "best" => Final::Best,
            "visits" => Final::Visits,
            "value" => Final::Value,
            _ => Final::Vote,
        }
    }

    fn beam(&self, lookahead: u32, notes: &mut Vec<String>) -> Beam {
        let settings = self.settings;
        let choice = match self.choice() {
            choice @ (Final::Vote | Final::Best) => choice,
            Final::Visits | Final::Value => {
                notes.push("`final` by visits or value is for mcts, so a vote decides".to_owned());
                Final::Vote
            }
        };
        let scoring = self.scoring(notes);
        Beam {
            width: settings.count(Parameter::Width),
            expansion: settings.count(Parameter::Expansion),
            variant: match settings.choice(Parameter::Variant) {
                "dvts" => Variant::Diverse,
                "rebase" => Variant::Balanced(settings.number(Parameter::Balance)),
                _ => Variant::Plain,
            },
            lookahead: match scoring {
                Scoring::Verifier(_) => lookahead,
                // It keeps its name, but completions go on to the end.
                Scoring::Rollouts(_) => lookahead.min(1),
            },
            scoring,
            choice,
            likelihood: (
                settings.number(Parameter::VoteLikelihood),
                settings.number(Parameter::RankLikelihood),
            ),
            steps: self.steps(),
        }
    }

    fn mcts(&self, notes: &mut Vec<String>) -> Mcts {
        let settings = self.settings;
        let value = settings.choice(Parameter::Value);
        let scoring = match (value, self.verifiers.prm) {
            ("rollouts", _) => Scoring::Rollouts(settings.count(Parameter::Rollouts)),
            _ => self.scoring(notes),
        };
        let exponent = settings.number(Parameter::Widening);
        let exploration = settings.number(Parameter::Exploration);
        let enough = Enough {
            after: settings.count(Parameter::EnoughAfter),
            share: settings.number(Parameter::Enough),
            score: settings.number(Parameter::EnoughScore),
        };
        Mcts {
            simulations: settings.count(Parameter::Simulations),
            tokens: settings.count(Parameter::SearchTokens),
            width: settings.count(Parameter::Width),
            select: match settings.choice(Parameter::Select) {
                "puct" => {
                    Select::Puct { init: exploration, base: settings.number(Parameter::ExplorationBase) }
                }
                _ => Select::Uct(exploration),
            },
            widening: (exponent > 0.0).then(|| (exponent, settings.number(Parameter::WideningFactor))),
            scoring,
            whole: value == "trajectory" && matches!(scoring, Scoring::Verifier(_)),
            choice: self.choice(),
            likelihood: settings.number(Parameter::VoteLikelihood),
            in_flight: settings.count(Parameter::InFlight),
            enough: (enough.share > 0.0).then_some(enough),
            steps: self.steps(),
        }
    }
}

#[cfg(test)]
mod tests;
