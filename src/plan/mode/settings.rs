//! A mode back as settings, for the report. Every type is taken apart field by
//! field, so that a new one does not compile before it is shown.

use super::{
    Auto, Beam, Best, Enough, Final, Mcts, Measure, Mode, Over, Rank, Scoring, Select, Steps, Variant,
    VoteStop, Voting, Weight,
};
use crate::plan::{Parameter, Setting, Settings};
use Setting::{Choice, Count, Flag, Number};

impl Mode {
    /// Its settings as they run: with those that nobody named, and with what took
    /// the place of what was asked for. Parameters that have no part in it are
    /// left out. Asked for again, they make the same mode.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut shown = Settings::default();
        match *self {
            Mode::Direct | Mode::ChainOfThought => {}
            Mode::SelfConsistency(vote) => vote.show(&mut shown),
            Mode::BestOfN(best) => best.show(&mut shown),
            Mode::Beam(beam) => beam.show(&mut shown),
            Mode::Mcts(mcts) => {
                mcts.show(&mut shown);
                mcts.show_end(&mut shown);
            }
            Mode::Auto(Auto { probe, confidence, tree }) => {
                tree.show(&mut shown);
                shown.set(Parameter::Probe, Count(probe));
                shown.set(Parameter::ProbeConfidence, Number(confidence));
            }
        }
        shown
    }
}

impl Voting {
    fn show(self, shown: &mut Settings) {
        let Self { branches, wave, stop, weight, likelihood } = self;
        shown.set(Parameter::Branches, Count(branches));
        let word = match stop {
            VoteStop::Fixed => "fixed",
            VoteStop::Posterior(confidence) => {
                shown.set(Parameter::StopConfidence, Number(confidence));
                "posterior"
            }
            VoteStop::Window => "window",
        };
        shown.set(Parameter::Stop, Choice(word));
        // A fixed vote has no waves.
        if stop != VoteStop::Fixed {
            shown.set(Parameter::Wave, Count(wave));
        }
        let word = match weight {
            Weight::Count => "count",
            Weight::Score(aggregate) => {
                shown.set(Parameter::Aggregate, Choice(aggregate.name()));
                // Only scores are multiplied by it.
                shown.set(Parameter::VoteLikelihood, Number(likelihood));
                "verifier"
            }
            Weight::Confidence(measure) => {
                measure.show(shown);
                "confidence"
            }
        };
        shown.set(Parameter::Vote, Choice(word));
    }
}

impl Measure {
    fn show(self, shown: &mut Settings) {
        let Self { over, window } = self;
        let (word, grouped) = match over {
            Over::Mean => ("mean", false),
            Over::Tail => ("tail", true),
            Over::Bottom => ("bottom", true),
            Over::Lowest => ("lowest", true),
        };
        shown.set(Parameter::Confidence, Choice(word));
        if grouped {
            shown.set(Parameter::ConfidenceWindow, Count(window));
        }
    }
}

impl Best {
    fn show(self, shown: &mut Settings) {
        let Self { branches, by, weighted, likelihood } = self;
        shown.set(Parameter::Branches, Count(branches));
        let (word, aggregate) = match by {
            Rank::Score(aggregate) => ("verifier", Some(aggregate)),
            Rank::Judge(aggregate) => ("judge", Some(aggregate)),
            Rank::Likelihood => ("likelihood", None),
        };
        shown.set(Parameter::Rank, Choice(word));
        if let Some(aggregate) = aggregate {
            shown.set(Parameter::Aggregate, Choice(aggregate.name()));
        }
        shown.set(Parameter::Weighted, Flag(weighted));
        shown.set(Parameter::VoteLikelihood, Number(likelihood));
    }
}

impl Scoring {
    fn show(self, shown: &mut Settings) {
        match self {
            Scoring::Verifier(aggregate) => shown.set(Parameter::Aggregate, Choice(aggregate.name())),
            Scoring::Rollouts(completions) => shown.set(Parameter::Rollouts, Count(completions)),
        }
    }
}

impl Final {
    fn show(self, shown: &mut Settings) {
        let word = match self {
            Final::Vote => "vote",
            Final::Best => "best",
            Final::Visits => "visits",
            Final::Value => "value",
        };
        shown.set(Parameter::Final, Choice(word));
    }
}

impl Steps {
    fn show(self, shown: &mut Settings) {
        let Self { most, tokens, repeats } = self;
        shown.set(Parameter::MaxSteps, Count(most));
        shown.set(Parameter::StepTokens, Count(tokens));
        shown.set(Parameter::Repeats, Count(repeats));
    }
}

impl Beam {
    fn show(self, shown: &mut Settings) {
        let Self { width, expansion, variant, lookahead, scoring, choice, likelihood, steps } = self;
        shown.set(Parameter::Width, Count(width));
        shown.set(Parameter::Expansion, Count(expansion));
        let word = match variant {
            Variant::Plain => "plain",
            Variant::Diverse => "dvts",
            Variant::Balanced(temperature) => {
                shown.set(Parameter::Balance, Number(temperature));
                "rebase"
            }
        };
        shown.set(Parameter::Variant, Choice(word));
        // Completions go on to the end, so nothing looks so many steps ahead.
        if lookahead > 0 && matches!(scoring, Scoring::Verifier(_)) {
            shown.set(Parameter::Lookahead, Count(lookahead));
        }
        scoring.show(shown);
        choice.show(shown);
        let (vote, rank) = likelihood;
        shown.set(Parameter::VoteLikelihood, Number(vote));
        shown.set(Parameter::RankLikelihood, Number(rank));
        steps.show(shown);
    }
}

impl Mcts {
    fn show(self, shown: &mut Settings) {
        let Self {
            simulations,
            tokens,
            width,
            select,
            widening,
            scoring,
            whole,
            choice,
            likelihood,
            in_flight,
            enough: _,
            steps,
        } = self;
        shown.set(Parameter::Simulations, Count(simulations));
        shown.set(Parameter::SearchTokens, Count(tokens));
        shown.set(Parameter::Width, Count(width));
        let (word, exploration) = match select {
            Select::Uct(weight) => ("uct", weight),
            Select::Puct { init, base } => {
                shown.set(Parameter::ExplorationBase, Number(base));
                ("puct", init)
            }
        };
        shown.set(Parameter::Select, Choice(word));
        shown.set(Parameter::Exploration, Number(exploration));
        let exponent = widening.map(|(exponent, factor)| {
            shown.set(Parameter::WideningFactor, Number(factor));
            exponent
        });
        shown.set(Parameter::Widening, Number(exponent.unwrap_or(0.0)));
        let word = match (scoring, whole) {
            (Scoring::Verifier(_), true) => "trajectory",
            (Scoring::Verifier(_), false) => "step",
            (Scoring::Rollouts(_), _) => "rollouts",
        };
        shown.set(Parameter::Value, Choice(word));
        scoring.show(shown);
        choice.show(shown);
        shown.set(Parameter::VoteLikelihood, Number(likelihood));
        shown.set(Parameter::InFlight, Count(in_flight));
        steps.show(shown);
    }

    /// What ends it before its time.
    fn show_end(self, shown: &mut Settings) {
        let share = self.enough.map(|Enough { after, share, score }| {
            shown.set(Parameter::EnoughAfter, Count(after));
            shown.set(Parameter::EnoughScore, Number(score));
            share
        });
        shown.set(Parameter::Enough, Number(share.unwrap_or(0.0)));
    }
}
