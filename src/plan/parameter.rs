//! The parameters of the modes: one table, from which requests and
//! configuration files are read, modes are built, and reports and the API's
//! document are written. A parameter that is not here does not exist.
//!
//! Length: the table of all parameters, with their documentation.

use super::ModeName;
use ModeName::{Auto, Beam, BestOfN, Lookahead, Mcts, SelfConsistency};
use std::collections::BTreeMap;
use std::fmt;

/// Names a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parameter {
    /// Chains of a vote or of a best-of-n.
    Branches,
    /// Chains begun at once by an adaptive vote.
    Wave,
    /// When an adaptive vote stops.
    Stop,
    /// How sure the posterior must be.
    StopConfidence,
    /// What a member of a vote weighs.
    Vote,
    /// Which confidence of a trace counts.
    Confidence,
    /// Tokens in a group of the confidence.
    ConfidenceWindow,
    /// What the best of n is the best by.
    Rank,
    /// Whether equal answers add up.
    Weighted,
    /// How the scores of steps become one.
    Aggregate,
    /// How much a trajectory's likelihood counts in a vote.
    VoteLikelihood,
    /// How much it counts when candidates are ranked.
    RankLikelihood,
    /// Beams, or children of a node.
    Width,
    /// Candidates per beam.
    Expansion,
    /// Equal samples after which no more are drawn.
    Repeats,
    /// Which beam search.
    Variant,
    /// Softmax temperature of reward-balanced expansion.
    Balance,
    /// Steps of a rollout.
    Lookahead,
    /// Steps of a trajectory.
    MaxSteps,
    /// Tokens of a step.
    StepTokens,
    /// How the answer is chosen.
    Final,
    /// Simulations of a tree search.
    Simulations,
    /// Tokens after which it begins no more of them.
    SearchTokens,
    /// The rule of selection.
    Select,
    /// Weight of exploration.
    Exploration,
    /// Base of PUCT's growing exploration.
    ExplorationBase,
    /// Exponent of progressive widening.
    Widening,
    /// Factor of progressive widening.
    WideningFactor,
    /// What a leaf is worth.
    Value,
    /// Rollouts per value.
    Rollouts,
    /// Leaves evaluated at once.
    InFlight,
    /// How far ahead the leading answer ends a tree search.
    Enough,
    /// The score that it needs besides.
    EnoughScore,
    /// Simulations before that can be.
    EnoughAfter,
    /// Simulations of the probe.
    Probe,
    /// How sure the probe must be.
    ProbeConfidence,
}

/// What values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Whole numbers from one to the other.
    Count(u32, u32),
    /// Numbers from one to the other.
    Number(f64, f64),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// True or false.
    Flag,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Count(least, most) => write!(f, "a whole number from {least} to {most}"),
            Kind::Number(least, most) => write!(f, "a number from {least} to {most}"),
            Kind::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Flag => f.write_str("true or false"),
        }
    }
}

/// A value of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Setting {
    /// Of [`Kind::Count`].
    Count(u32),
    /// Of [`Kind::Number`].
    Number(f64),
    /// Of [`Kind::Choice`].
    Choice(&'static str),
    /// Of [`Kind::Flag`].
    Flag(bool),
}

/// What there is to know about a parameter.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Which it is.
    pub parameter: Parameter,
    /// Its key in `reasoning` and in the rows of the effort table.
    pub name: &'static str,
    /// Its values.
    pub kind: Kind,
    /// The modes that have it.
    pub modes: &'static [ModeName],
    /// Its value where nobody names one; `None` where it follows from others.
    pub default: Option<Setting>,
    /// What it does, with its source.
    pub doc: &'static str,
}

use Kind::{Choice, Count, Flag, Number};

const TREES: &[ModeName] = &[Beam, Lookahead, Mcts, Auto];
const BEAMS: &[ModeName] = &[Beam, Lookahead];
const SEARCHES: &[ModeName] = &[Mcts, Auto];
const SCORED: &[ModeName] = &[SelfConsistency, BestOfN, Beam, Lookahead, Mcts, Auto];

/// Every parameter.
pub const PARAMETERS: [Spec; 36] = [
    Spec {
        parameter: Parameter::Branches,
        name: "branches",
        kind: Count(1, 256),
        modes: &[SelfConsistency, BestOfN],
        default: Some(Setting::Count(16)),
        doc: "Chains of thought, at most (Wang et al., arXiv 2203.11171).",
    },
    Spec {
        parameter: Parameter::Wave,
        name: "wave",
        kind: Count(1, 256),
        modes: &[SelfConsistency],
        default: Some(Setting::Count(4)),
        doc: "Chains begun at once by an adaptive vote, the window of ESC (arXiv 2401.10480); with `stop: fixed` all \
              are.",
    },
    Spec {
        parameter: Parameter::Stop,
        name: "stop",
        kind: Choice(&["fixed", "posterior", "window"]),
        modes: &[SelfConsistency],
        default: Some(Setting::Choice("posterior")),
        doc: "When a vote stops: `fixed` with its last chain, or as soon as the rest cannot change it \
              (with `vote: confidence` never before its last chain, as confidences have no bound); \
              `posterior` once the leader is the true majority with probability `stop_confidence` \
              (Adaptive-Consistency, arXiv 2305.11860); `window` once a whole wave agrees, \
              whose answer it then gives (ESC, arXiv 2401.10480).",
    },
    Spec {
        parameter: Parameter::StopConfidence,
        name: "stop_confidence",
        kind: Number(0.5, 1.0),
        modes: &[SelfConsistency],
        default: Some(Setting::Number(0.95)),
        doc: "The probability at which `stop: posterior` stops (Adaptive-Consistency, arXiv 2305.11860).",
    },
    Spec {
        parameter: Parameter::Vote,
        name: "vote",
        kind: Choice(&["count", "verifier", "confidence"]),
        modes: &[SelfConsistency],
        default: Some(Setting::Choice("count")),
        doc: "What a chain weighs in the vote: 1 (Wang et al., arXiv 2203.11171), its aggregated score (Li et al., \
              arXiv 2206.02336), or its confidence (DeepConf, arXiv 2508.15260).",
    },
    Spec {
        parameter: Parameter::Confidence,
        name: "confidence",
        kind: Choice(&["mean", "tail", "bottom", "lowest"]),
        modes: &[SelfConsistency],
        default: Some(Setting::Choice("lowest")),
        doc: "The confidence of a chain for `vote: confidence`, from the 20 likeliest tokens of each position \
              (DeepConf, arXiv 2508.15260): of all tokens, of the last group, the mean of the lowest tenth of \
              the groups, or the lowest group.",
    },
    Spec {
        parameter: Parameter::ConfidenceWindow,
        name: "confidence_window",
        kind: Count(1, 4096),
        modes: &[SelfConsistency],
        default: Some(Setting::Count(2048)),
        doc: "Tokens in a group of `confidence` (DeepConf, arXiv 2508.15260); a shorter chain is one group.",
    },
    Spec {
        parameter: Parameter::Rank,
        name: "rank",
        kind: Choice(&["verifier", "judge", "likelihood"]),
        modes: &[BestOfN],
        default: Some(Setting::Choice("verifier")),
        doc: "What the best of n is the best by: the verifier's aggregated score (Cobbe et al., arXiv 2110.14168), \
              a judge's verdict (Zheng et al., arXiv 2306.05685), or the mean log-probability.",
    },
    Spec {
        parameter: Parameter::Weighted,
        name: "weighted",
        kind: Flag,
        modes: &[BestOfN],
        default: Some(Setting::Flag(true)),
        doc: "Whether the scores of chains with equal answers add up (Li et al., arXiv 2206.02336).",
    },
    Spec {
        parameter: Parameter::Aggregate,
        name: "aggregate",
        kind: Choice(&["last", "min", "prod", "mean"]),
        modes: SCORED,
        default: None,
        doc: "How the scores of a solution's steps become one (`prod`, `min`: Lightman et al., arXiv 2305.20050; `last`: \
              Snell et al., arXiv 2408.03314); the verifier's own default if absent.",
    },
    Spec {
        parameter: Parameter::VoteLikelihood,
        name: "vote_likelihood",
        kind: Number(0.0, 10.0),
        modes: SCORED,
        default: Some(Setting::Number(0.0)),
        doc: "Exponent of a trajectory's likelihood under the policy, by which its score is multiplied in a vote: \
              what merging equal trajectories hides (Espalier's own). For short trajectories; likelihoods fall with \
              length.",
    },
    Spec {
        parameter: Parameter::RankLikelihood,
        name: "rank_likelihood",
        kind: Number(0.0, 10.0),
        modes: BEAMS,
        default: Some(Setting::Number(0.0)),
        doc: "The same for the ranking of candidates (Espalier's own).",
    },
    Spec {
        parameter: Parameter::Width,
        name: "width",
        kind: Count(1, 64),
        modes: TREES,
        default: Some(Setting::Count(4)),
        doc: "Beams that are kept (Beeching et al. 2024), or the most children of a node in `mcts` and `auto`.",
    },
    Spec {
        parameter: Parameter::Expansion,
        name: "expansion",
        kind: Count(1, 32),
        modes: BEAMS,
        default: Some(Setting::Count(4)),
        doc: "Candidate steps sampled per beam (the M of Snell et al., arXiv 2408.03314).",
    },
    Spec {
        parameter: Parameter::Repeats,
        name: "repeats",
        kind: Count(0, 32),
        modes: TREES,
        default: Some(Setting::Count(0)),
        doc: "How often a step may be drawn again in a row before no more are sampled beside it, which saves the \
              tokens of steps that the policy is sure of (Espalier's own); 0 samples all.",
    },
    Spec {
        parameter: Parameter::Variant,
        name: "variant",
        kind: Choice(&["plain", "dvts", "rebase"]),
        modes: BEAMS,
        default: Some(Setting::Choice("plain")),
        doc: "`plain` keeps the best candidates of all; `dvts` the best of each subtree (diverse verifier tree \
              search, Beeching et al. 2024); `rebase` shares the candidates out by softmax of the scores \
              (arXiv 2408.00724).",
    },
    Spec {
        parameter: Parameter::Balance,
        name: "balance",
        kind: Number(0.01, 10.0),
        modes: BEAMS,
        default: Some(Setting::Number(0.2)),
        doc: "Softmax temperature of `variant: rebase` (arXiv 2408.00724).",
    },
    Spec {
        parameter: Parameter::Lookahead,
        name: "lookahead",
        kind: Count(1, 16),
        modes: &[Lookahead],
        default: Some(Setting::Count(1)),
        doc: "Further steps of the rollout at temperature 0 whose end is a candidate's value (Snell et al., \
              arXiv 2408.03314).",
    },
    Spec {
        parameter: Parameter::MaxSteps,
        name: "max_steps",
        kind: Count(1, 1024),
        modes: TREES,
        default: Some(Setting::Count(40)),
        doc: "Steps of a trajectory, at most (the 40 iterations of Beeching et al. 2024).",
    },
    Spec {
        parameter: Parameter::StepTokens,
        name: "step_tokens",
        kind: Count(1, 8192),
        modes: TREES,
        default: Some(Setting::Count(256)),
        doc: "Tokens of a step, at most; a longer one is scored and goes on as the next (Espalier's own).",
    },
    Spec {
        parameter: Parameter::Final,
        name: "final",
        kind: Choice(&["vote", "best", "visits", "value"]),
        modes: TREES,
        default: Some(Setting::Choice("vote")),
        doc: "How the answer is chosen among the complete trajectories: by a vote weighted with their aggregated \
              scores (Li et al., arXiv 2206.02336), the best of these, or, in `mcts` and `auto`, by following the \
              most visited or the most valuable children (Browne et al. 2012).",
    },
    Spec {
        parameter: Parameter::Simulations,
        name: "simulations",
        kind: Count(1, 4096),
        modes: SEARCHES,
        default: Some(Setting::Count(64)),
        doc: "Simulations, at most (Kocsis and Szepesvari 2006; Browne et al. 2012).",
    },
    Spec {
        parameter: Parameter::SearchTokens,
        name: "search_tokens",
        kind: Count(0, 1 << 24),
        modes: SEARCHES,
        default: Some(Setting::Count(0)),
        doc: "Tokens after which no more simulations are begun, however large the budget is; those under way go on \
              to their ends (Espalier's own). 0 leaves it to the budget.",
    },
    Spec {
        parameter: Parameter::Select,
        name: "select",
        kind: Choice(&["uct", "puct"]),
        modes: SEARCHES,
        default: Some(Setting::Choice("uct")),
        doc: "The rule of selection: UCT, or PUCT with the likelihood of steps as prior (Silver et al. 2017).",
    },
    Spec {
        parameter: Parameter::Exploration,
        name: "exploration",
        kind: Number(0.0, 100.0),
        modes: SEARCHES,
        default: Some(Setting::Number(1.0)),
        doc: "Weight of exploration: c of UCT (Kocsis and Szepesvari 2006), c_init of PUCT (Silver et al. 2018).",
    },
    Spec {
        parameter: Parameter::ExplorationBase,
        name: "exploration_base",
        kind: Number(1.0, 1e9),
        modes: SEARCHES,
        default: Some(Setting::Number(19_652.0)),
        doc: "c_base of PUCT, after which exploration grows (Silver et al. 2018).",
    },
    Spec {
        parameter: Parameter::Widening,
        name: "widening",
        kind: Number(0.0, 1.0),
        modes: SEARCHES,
        default: Some(Setting::Number(0.0)),
        doc: "Exponent a of progressive widening: a node visited N times has at most max(1, factor * N^a) children \
              (Couetoux et al. 2011); 0 turns it off.",
    },
    Spec {
        parameter: Parameter::WideningFactor,
        name: "widening_factor",
        kind: Number(0.1, 64.0),
        modes: SEARCHES,
        default: Some(Setting::Number(1.0)),
        doc: "Factor of progressive widening (Couetoux et al. 2011).",
    },
    Spec {
        parameter: Parameter::Value,
        name: "value",
        kind: Choice(&["trajectory", "step", "rollouts"]),
        modes: SEARCHES,
        default: Some(Setting::Choice("trajectory")),
        doc: "What a simulation is worth: the aggregated score of the whole trajectory to which it goes on, or of \
              the new step alone, or the share of its rollouts that reach the request's leading answer (after \
              Math-Shepherd, arXiv 2312.08935; the only one that needs no verifier).",
    },
    Spec {
        parameter: Parameter::Rollouts,
        name: "rollouts",
        kind: Count(2, 16),
        modes: TREES,
        default: Some(Setting::Count(2)),
        doc: "Completions per value where rollouts take the place of a verifier (after Math-Shepherd, arXiv \
              2312.08935).",
    },
    Spec {
        parameter: Parameter::InFlight,
        name: "in_flight",
        kind: Count(1, 256),
        modes: SEARCHES,
        default: Some(Setting::Count(8)),
        doc: "Simulations under way at once; an unfinished visit counts as value 0, a virtual loss (Chaslot et al. \
              2008).",
    },
    Spec {
        parameter: Parameter::Enough,
        name: "enough",
        kind: Number(0.0, 1.0),
        modes: &[Mcts],
        default: Some(Setting::Number(0.0)),
        doc: "The share of the vote's weight that the leading answer needs for the search to end before its time; \
              0 lets it go on (Espalier's own).",
    },
    Spec {
        parameter: Parameter::EnoughScore,
        name: "enough_score",
        kind: Number(0.0, 1.0),
        modes: &[Mcts],
        default: Some(Setting::Number(0.5)),
        doc: "The score that the best trajectory with that answer needs besides (Espalier's own).",
    },
    Spec {
        parameter: Parameter::EnoughAfter,
        name: "enough_after",
        kind: Count(1, 4096),
        modes: &[Mcts],
        default: Some(Setting::Count(8)),
        doc: "Simulations that must have come home before `enough` can end the search (Espalier's own).",
    },
    Spec {
        parameter: Parameter::Probe,
        name: "probe",
        kind: Count(1, 64),
        modes: &[Auto],
        default: Some(Setting::Count(4)),
        doc: "Simulations that come home before the search can be over, by which is seen how hard the problem is \
              (Espalier's own).",
    },
    Spec {
        parameter: Parameter::ProbeConfidence,
        name: "probe_confidence",
        kind: Number(0.0, 1.0),
        modes: &[Auto],
        default: Some(Setting::Number(0.9)),
        doc: "The share of the vote's weight that the leading answer needs, and the score of the best trajectory that \
              gives it, for the search to be over after the probe or any simulation behind it (Espalier's own).",
    },
];

impl Parameter {
    /// What there is to know about it.
    #[must_use]
    pub fn spec(self) -> &'static Spec {
        // The table is in the order of the enum, which a test checks.
        &PARAMETERS[self as usize]
    }

    /// The parameter of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Spec> {
        PARAMETERS.iter().find(|spec| spec.name == name)
    }
}

/// Parameters that somebody has set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings(BTreeMap<Parameter, Setting>);

impl Settings {
    /// Sets a parameter.
    pub fn set(&mut self, parameter: Parameter, setting: Setting) {
        self.0.insert(parameter, setting);
    }

    /// What is set.
    #[must_use]
    pub fn get(&self, parameter: Parameter) -> Option<Setting> {
        self.0.get(&parameter).copied()
    }

    /// Those of `over`, and these where it says nothing.
    #[must_use]
    pub fn overlaid(&self, over: &Settings) -> Settings {
        let mut all = self.0.clone();
        all.extend(&over.0);
        Settings(all)
    }

    /// Every setting with its parameter, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (Parameter, Setting)> {
        self.0.iter().map(|(parameter, setting)| (*parameter, *setting))
    }

    /// These with the defaults of `mode`, and without what it does not have.
    #[must_use]
    pub fn of_mode(&self, mode: ModeName) -> Settings {
        let mut all = BTreeMap::new();
        for spec in PARAMETERS.iter().filter(|spec| spec.modes.contains(&mode)) {
            if let Some(setting) = self.get(spec.parameter).or(spec.default) {
                all.insert(spec.parameter, setting);
            }
        }
        Settings(all)
    }

    /// A whole number; its default where none is set.
    #[must_use]
    pub fn count(&self, parameter: Parameter) -> u32 {
        match self.get(parameter).or(parameter.spec().default) {
            Some(Setting::Count(count)) => count,
            Some(Setting::Number(_) | Setting::Choice(_) | Setting::Flag(_)) | None => 1,
        }
    }

    /// A number; its default where none is set.
    #[must_use]
    pub fn number(&self, parameter: Parameter) -> f64 {
        match self.get(parameter).or(parameter.spec().default) {
            Some(Setting::Number(number)) => number,
            Some(Setting::Count(_) | Setting::Choice(_) | Setting::Flag(_)) | None => 0.0,
        }
    }

    /// A word; its default where none is set.
    #[must_use]
    pub fn choice(&self, parameter: Parameter) -> &'static str {
        match self.get(parameter).or(parameter.spec().default) {
            Some(Setting::Choice(word)) => word,
            Some(Setting::Count(_) | Setting::Number(_) | Setting::Flag(_)) | None => "",
        }
    }

    /// Whether a flag is set, by itself or by default.
    #[must_use]
    pub fn flag(&self, parameter: Parameter) -> bool {
        matches!(self.get(parameter).or(parameter.spec().default), Some(Setting::Flag(true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_its_defaults_are_within_bounds() {
        for (index, spec) in PARAMETERS.iter().enumerate() {
            assert_eq!(spec.parameter as usize, index, "{}", spec.name);
            assert_eq!(Parameter::named(spec.name).map(|spec| spec.parameter), Some(spec.parameter));
            let fits = match (spec.kind, spec.default) {
                (_, None) => true,
                (Count(least, most), Some(Setting::Count(n))) => (least..=most).contains(&n),
                (Number(least, most), Some(Setting::Number(n))) => (least..=most).contains(&n),
                (Choice(words), Some(Setting::Choice(word))) => words.contains(&word),
                (Flag, Some(Setting::Flag(_))) => true,
                _ => false,
            };
            assert!(fits && !spec.modes.is_empty() && spec.doc.ends_with('.'), "{}", spec.name);
        }
    }

    #[test]
    fn settings_overlay_and_a_mode_sees_its_own_alone() {
        let mut row = Settings::default();
        row.set(Parameter::Width, Setting::Count(8));
        row.set(Parameter::Expansion, Setting::Count(2));
        let mut asked = Settings::default();
        asked.set(Parameter::Width, Setting::Count(3));
        let both = row.overlaid(&asked);
        assert_eq!((both.count(Parameter::Width), both.count(Parameter::Expansion)), (3, 2));
        assert_eq!(both.choice(Parameter::Variant), "plain");
        let names: Vec<_> = both.of_mode(Mcts).iter().map(|(parameter, _)| parameter.spec().name).collect();
        assert!(names.contains(&"width") && names.contains(&"simulations") && !names.contains(&"expansion"));
    }
}
