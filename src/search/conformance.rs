//! What every strategy must do whatever it is told: one suite over all modes with
//! settings of all sorts, against an engine and a verifier that are slow,
//! forgetful, contradictory and hostile.
//!
//! Length: the settings of every mode, and one driver for all of them.
//!
//! The driver below keeps its own account of tokens and branches and compares
//! every piece of work with it.

use super::{Extend, Grown, NodeId, Outcome, Strategy, Until, Work, WorkId, build};
use crate::plan::{
    Auto, Beam, Best, Border, Budget, Enough, Final, Marker, Mcts, Measure, Mode, ModeName, Over, Rank,
    Scoring, Select, Steps, Variant, VoteStop, Voting, Weight,
};
use crate::token::TokenId;
use crate::verify::Aggregate;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use proptest::test_runner::TestCaseResult;
use std::collections::{BTreeMap, HashSet};

/// A mode of every kind, with settings of all sorts. The match makes that a new
/// mode cannot be forgotten here.
pub(super) fn modes() -> impl proptest::strategy::Strategy<Value = Vec<Mode>> {
    let kinds = ModeName::ALL.into_iter().filter_map(|name| match name {
        ModeName::Standard | ModeName::Pro => None,
        ModeName::Direct => Some(Just(Mode::Direct).boxed()),
        ModeName::Cot => Some(Just(Mode::ChainOfThought).boxed()),
        ModeName::SelfConsistency => Some(voting().boxed()),
        ModeName::BestOfN => Some(best().boxed()),
        ModeName::Beam => Some(beam(0..1).prop_map(Mode::Beam).boxed()),
        ModeName::Lookahead => Some(beam(1..4).prop_map(Mode::Beam).boxed()),
        ModeName::Mcts => Some(mcts().prop_map(Mode::Mcts).boxed()),
        ModeName::Auto => Some(auto().boxed()),
    });
    kinds.collect::<Vec<_>>()
}

fn aggregate() -> impl proptest::strategy::Strategy<Value = Aggregate> {
    prop::sample::select(&Aggregate::ALL[..])
}

fn voting() -> impl proptest::strategy::Strategy<Value = Mode> {
    let stop = prop_oneof![
        Just(VoteStop::Fixed),
        (0.5..=1.0).prop_map(VoteStop::Posterior),
        Just(VoteStop::Window),
    ];
    let over = prop::sample::select(&[Over::Mean, Over::Tail, Over::Bottom, Over::Lowest][..]);
    let weight = prop_oneof![
        Just(Weight::Count),
        aggregate().prop_map(Weight::Score),
        (over, 1u32..9).prop_map(|(over, window)| Weight::Confidence(Measure { over, window })),
    ];
    (prop_oneof![2u32..9, 2u32..70], prop_oneof![1u32..6, 1u32..80], stop, weight, likelihood()).prop_map(
        |(branches, wave, stop, weight, likelihood)| {
            Mode::SelfConsistency(Voting { branches, wave, stop, weight, likelihood })
        },
    )
}

fn best() -> impl proptest::strategy::Strategy<Value = Mode> {
    let by = prop_oneof![
        aggregate().prop_map(Rank::Score),
        aggregate().prop_map(Rank::Judge),
        Just(Rank::Likelihood),
    ];
    (2u32..40, by, any::<bool>(), likelihood()).prop_map(|(branches, by, weighted, likelihood)| {
        Mode::BestOfN(Best { branches, by, weighted, likelihood })
    })
}

fn likelihood() -> impl proptest::strategy::Strategy<Value = f64> {
    prop_oneof![Just(0.0), 0.0..=10.0]
}

fn scoring() -> impl proptest::strategy::Strategy<Value = Scoring> {
    prop_oneof![2 => aggregate().prop_map(Scoring::Verifier), 1 => (2u32..5).prop_map(Scoring::Rollouts)]
}

fn last_word() -> impl proptest::strategy::Strategy<Value = Final> {
    prop::sample::select(&[Final::Vote, Final::Best, Final::Visits, Final::Value][..])
}

fn steps() -> impl proptest::strategy::Strategy<Value = Steps> {
    let (most, tokens) = (prop_oneof![1u32..5, 1u32..60], prop_oneof![1u32..20, 1u32..400]);
    (most, tokens, 0u32..4).prop_map(|(most, tokens, repeats)| Steps { most, tokens, repeats })
}

fn beam(lookahead: std::ops::Range<u32>) -> impl proptest::strategy::Strategy<Value = Beam> {
    let variant =
        prop_oneof![Just(Variant::Plain), Just(Variant::Diverse), (0.01..10.0).prop_map(Variant::Balanced),];
    let likelihood = (likelihood(), likelihood());
    (1u32..9, 1u32..6, variant, lookahead, scoring(), (last_word(), likelihood), steps()).prop_map(
        |(width, expansion, variant, lookahead, scoring, (choice, likelihood), steps)| Beam {
            likelihood,
            width,
            expansion,
            variant,
            lookahead,
            scoring,
            choice,
            steps,
        },
    )
}

pub(super) fn mcts() -> impl proptest::strategy::Strategy<Value = Mcts> {
    let select = prop_oneof![
        (0.0..3.0).prop_map(Select::Uct),
        (0.0..3.0, 1.0..30_000.0).prop_map(|(init, base)| Select::Puct { init, base }),
    ];
    let tokens = prop_oneof![Just(0u32), 1u32..400];
    let widening = (prop::option::of((0.01..1.0, 0.1..4.0)), tokens);
    let sizes = (prop_oneof![1u32..6, 1u32..80], 1u32..6, prop_oneof![1 => Just(1u32), 3 => 2u32..20]);
    let enough = (1u32..20, 0.1..=1.0, 0.0..=1.0);
    let enough = enough.prop_map(|(after, share, score)| Enough { after, share, score });
    let ends = (prop::option::of(enough), last_word(), likelihood());
    (sizes, select, widening, scoring(), any::<bool>(), ends, steps()).prop_map(
        |((simulations, width, in_flight), select, (widening, tokens), scoring, whole, ends, steps)| {
            let (enough, choice, likelihood) = ends;
            Mcts {
                likelihood,
                simulations,
                tokens,
                width,
                select,
                widening,
                scoring,
                whole,
                choice,
                in_flight,
                enough,
                steps,
            }
        },
    )
}

fn auto() -> impl proptest::strategy::Strategy<Value = Mode> {
    (1u32..9, 0.0..=1.0, mcts()).prop_map(|(probe, confidence, tree)| {
        Mode::Auto(Auto { probe, confidence, tree: Mcts { enough: None, ..tree } })
    })
}

fn marker() -> Marker {
    let ids = |n: TokenId| (500..500 + n).collect();
    Marker {
        border: Border { marker: "The answer is".to_owned(), shown: true, opening: None },
        inject: ids(4),
        inject_after_separator: ids(3),
        separator: "\n\n".to_owned(),
    }
}

/// What happens to one piece of work, and what is said besides.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    /// Which of the pieces in flight ends next.
    pick: usize,
    kind: u8,
    /// Share of the grant that is used, in 255ths.
    share: u8,
    text: usize,
    logprob: usize,
    /// What it says, so that siblings may say the same.
    word: TokenId,
    verdict: Verdict,
    /// An outcome with this id is told as well: unknown, or repeated.
    noise: Option<WorkId>,
}

/// What becomes of the scores that were asked for.
#[derive(Debug, Clone)]
enum Verdict {
    Given(Vec<f64>),
    /// Nobody says why they are not there.
    Lost,
    /// The verifier has no more to say.
    Mute,
}

const TEXTS: [&str; 9] = [
    "",
    "so\n\n",
    "so",
    "The answer is \\boxed{4}.",
    "The answer is \\boxed{5}.",
    "x\n\nThe answer is \\boxed{4.0}.",
    "\\boxed{",
    "The answer is",
    "héé\n\n",
];
const LOGPROBS: [f64; 6] = [f64::NAN, -0.5, -0.5, -2.0, f64::NEG_INFINITY, 0.0];

impl Fate {
    fn outcome(&self, extend: &Extend) -> Outcome {
        let (granted, inject) = (extend.max_tokens, extend.inject.len() as u32);
        let used = (u64::from(granted) * u64::from(self.share) / 255) as u32;
        let (tokens, complete, extensible) = match self.kind {
            0 => return Outcome::Abandoned,
            1 => (0, false, true),
            2 | 3 => (used.max(inject), true, false),
            4 => (used.max(inject), false, false),
            5 => (0, true, false),
            6 | 7 => (used.max(inject), false, true),
            // A step is short as a rule.
            8 | 9 if extend.until == Until::Step => (granted.min(5).max(inject), false, true),
            _ => (granted, false, true),
        };
        let logprob = LOGPROBS[self.logprob];
        let (scores, unscored) = match &self.verdict {
            Verdict::Given(scores) if extend.score => (Some(scores.clone()), false),
            Verdict::Mute if extend.score => (None, true),
            Verdict::Given(_) | Verdict::Lost | Verdict::Mute => (None, false),
        };
        // The same tokens always come to the same end.
        let ids = vec![self.word * 4 + u32::from(complete) * 2 + u32::from(extensible); tokens as usize];
        Outcome::Grown(Grown {
            tokens,
            ids,
            text: TEXTS[self.text].to_owned(),
            mean_logprob: logprob,
            step_logprob: logprob,
            confidences: vec![self.share.into(); usize::from(self.share % 4)],
            scores,
            unscored,
            complete,
            extensible,
        })
    }
}

fn verdict() -> impl proptest::strategy::Strategy<Value = Verdict> {
    let score = prop_oneof![8 => 0.0..=1.0, 1 => Just(f64::NAN), 1 => Just(0.0), 1 => Just(1.0)];
    prop_oneof![
        20 => prop::collection::vec(score, 0..5).prop_map(Verdict::Given),
        2 => Just(Verdict::Lost),
        1 => Just(Verdict::Mute),
    ]
}

fn fate() -> impl proptest::strategy::Strategy<Value = Fate> {
    let said = (0..TEXTS.len(), 0..LOGPROBS.len(), 0u32..3, verdict());
    (any::<u16>(), 0u8..12, any::<u8>(), said, prop::option::of(0u64..12)).prop_map(
        |(pick, kind, share, (text, logprob, word, verdict), noise)| Fate {
            pick: pick.into(),
            kind,
            share,
            text,
            logprob,
            word,
            verdict,
            noise,
        },
    )
}

pub(super) fn fates() -> impl proptest::strategy::Strategy<Value = Vec<Fate>> {
    prop::collection::vec(fate(), 1..40)
}

/// Branches that may be alive at once.
pub(super) fn room() -> impl proptest::strategy::Strategy<Value = usize> {
    prop_oneof![1usize..5, 1usize..70]
}

pub(super) fn budget() -> impl proptest::strategy::Strategy<Value = Budget> {
    let tokens = prop_oneof![1u32..30, 1u32..2_000];
    let branch_tokens = prop_oneof![1u32..40, 1u32..3_000];
    let branches = prop_oneof![1u32..6, 1u32..80, Just(1 << 16)];
    let sample = prop_oneof![Just(1u32), 1u32..300];
    let all = (tokens, branch_tokens, any::<u32>(), branches, sample);
    all.prop_map(|(tokens, branch_tokens, reserve, branches, sample)| {
        let reserve = reserve % tokens.min(branch_tokens);
        Budget { tokens, branch_tokens, sample, reserve, branches, verifier_tokens: None }
    })
}

/// The other side of a strategy: what is alive, what is in flight, what it cost.
pub(super) struct Driver<S: Strategy + ?Sized> {
    pub(super) strategy: Box<S>,
    budget: Budget,
    room: usize,
    spent: u32,
    /// Live branches, and whether each is busy.
    alive: BTreeMap<NodeId, bool>,
    in_flight: Vec<Extend>,
    ids: HashSet<WorkId>,
    /// Every branch, with the tokens from the prompt to its end.
    nodes: BTreeMap<NodeId, u32>,
    /// Branches that others were forked from: more on them would be more on those.
    forked: HashSet<NodeId>,
    told: Vec<(WorkId, Outcome)>,
    /// Whether there is any text, and any outcome but a loss.
    text: bool,
    grown: bool,
    /// It was done when an outcome was told, and not when it was asked.
    decided: bool,
    log: Vec<String>,
}

impl<S: Strategy + ?Sized> Driver<S> {
    pub(super) fn new(strategy: Box<S>, budget: Budget, room: usize) -> Self {
        Self {
            strategy,
            budget,
            room,
            spent: 0,
            alive: BTreeMap::new(),
            in_flight: Vec::new(),
            ids: HashSet::new(),
            nodes: BTreeMap::new(),
            forked: HashSet::new(),
            told: Vec::new(),
            text: false,
            grown: false,
            decided: false,
            log: Vec::new(),
        }
    }

    /// Runs it to its end.
    pub(super) fn run(&mut self, fates: &[Fate]) -> TestCaseResult {
        self.look()?;
        self.ask()?;
        for turn in 0.. {
            if self.in_flight.is_empty() {
                break;
            }
            // Every branch may be cut once a round, and a round spends a token.
            prop_assert!(turn < 20_000, "it never ends");
            self.tell(&fates[turn % fates.len()])?;
            self.ask()?;
        }
        prop_assert!(self.strategy.is_done());
        prop_assert!(self.decided || self.alive.is_empty(), "{:?} are still held", self.alive);
        for (id, outcome) in self.told.clone() {
            self.unchanged(id, outcome)?;
        }
        self.ask()
    }

    /// Asks until there is no more, as `run` does.
    fn ask(&mut self) -> TestCaseResult {
        for round in 0.. {
            prop_assert!(round < 10_000, "it never stops asking");
            let done = self.strategy.is_done();
            let works = self.strategy.ask(self.room - self.alive.len());
            self.log.push(format!("{works:?}"));
            prop_assert!(!done || works.is_empty(), "asked for {works:?} after it was done");
            if works.is_empty() {
                break;
            }
            for work in works {
                match work {
                    Work::Retire(node) => {
                        prop_assert_eq!(self.alive.remove(&node), Some(false), "retired while not idle");
                    }
                    Work::Extend(extend) => self.extend(extend)?,
                }
            }
        }
        if self.strategy.is_done() {
            // What it does not wait for is given up.
            self.decided |= !self.in_flight.is_empty();
            self.in_flight.clear();
        }
        prop_assert!(self.strategy.is_done() || !self.in_flight.is_empty(), "it waits for nothing");
        self.look()
    }

    fn extend(&mut self, extend: Extend) -> TestCaseResult {
        prop_assert!(self.ids.insert(extend.id), "{} was used before", extend.id);
        match extend.fork {
            Some(parent) => {
                prop_assert!(!self.nodes.contains_key(&extend.node), "{:?} was used before", extend.node);
                let idle = parent == NodeId::ROOT || self.alive.get(&parent) == Some(&false);
                prop_assert!(idle, "forked from {parent:?}, which is not idle");
                prop_assert!(self.alive.len() < self.room, "more branches than room");
                let path = self.nodes.get(&parent).copied().unwrap_or(0);
                self.nodes.insert(extend.node, path);
                self.forked.insert(parent);
                prop_assert!(self.nodes.len() <= self.budget.branches as usize, "too many branches made");
            }
            None => {
                prop_assert_eq!(self.alive.get(&extend.node), Some(&false), "grown while not idle");
                prop_assert!(!self.forked.contains(&extend.node), "{:?} grows below others", extend.node);
            }
        }
        self.alive.insert(extend.node, true);
        prop_assert!(extend.max_tokens > 0, "work without tokens");
        prop_assert!(extend.inject.len() < extend.max_tokens as usize, "no room behind the marker");
        let path = self.nodes[&extend.node] + extend.max_tokens;
        prop_assert!(path <= self.budget.branch_tokens, "longer than the context");
        self.in_flight.push(extend);
        let granted: u32 = self.in_flight.iter().map(|extend| extend.max_tokens).sum();
        prop_assert!(self.spent + granted <= self.budget.tokens, "the budget is exceeded");
        Ok(())
    }

    fn tell(&mut self, fate: &Fate) -> TestCaseResult {
        let extend = self.in_flight.swap_remove(fate.pick % self.in_flight.len());
        let unknown = |id: &WorkId| *id != extend.id && !self.in_flight.iter().any(|other| other.id == *id);
        if let Some(id) = fate.noise.filter(unknown) {
            self.unchanged(id, fate.outcome(&extend))?;
        }
        let outcome = fate.outcome(&extend);
        let mut alive = false;
        if let Outcome::Grown(grown) = &outcome {
            self.spent += grown.tokens;
            *self.nodes.entry(extend.node).or_default() += grown.tokens;
            self.text |= grown.tokens > 0;
            self.grown = true;
            alive = grown.extensible;
        }
        if alive {
            self.alive.insert(extend.node, false);
        } else {
            self.alive.remove(&extend.node);
        }
        self.strategy.tell(extend.id, outcome.clone());
        self.decided |= self.strategy.is_done();
        self.look()?;
        self.unchanged(extend.id, outcome.clone())?;
        self.told.push((extend.id, outcome));
        let (id, outcome) = self.told[fate.pick % self.told.len()].clone();
        self.unchanged(id, outcome)
    }

    /// Tells what must be ignored.
    fn unchanged(&mut self, id: WorkId, outcome: Outcome) -> TestCaseResult {
        let look = |strategy: &S| {
            format!("{:?} {:?} {}", strategy.answer(), strategy.candidates(), strategy.is_done())
        };
        let before = look(&self.strategy);
        self.strategy.tell(id, outcome);
        prop_assert_eq!(before, look(&self.strategy), "an unknown or repeated outcome changed something");
        Ok(())
    }

    /// What holds at every moment.
    fn look(&mut self) -> TestCaseResult {
        let answer = self.strategy.answer();
        let candidates = self.strategy.candidates();
        self.log.push(format!("{answer:?} {candidates:?}"));
        let selected: Vec<_> = candidates.iter().filter(|candidate| candidate.selected).collect();
        prop_assert!(answer.is_some() || !self.text, "an answer whenever there is text");
        prop_assert!(answer.is_none() || self.grown, "an answer out of nothing");
        prop_assert_eq!(selected.len(), usize::from(answer.is_some()));
        if let Some(answer) = answer {
            prop_assert_eq!(answer.node, selected[0].branch);
            prop_assert_eq!(answer.complete, selected[0].complete);
            let complete = candidates.iter().any(|candidate| candidate.complete);
            prop_assert_eq!(answer.complete, complete, "a complete answer comes first");
        }
        for candidate in &candidates {
            prop_assert_eq!(Some(&candidate.tokens), self.nodes.get(&candidate.branch));
            prop_assert!(candidate.score.is_none_or(f64::is_finite));
        }
        Ok(())
    }
}

/// Runs a mode to its end; returns all that it said.
fn run(
    mode: Mode,
    (budget, marked, room): (Budget, bool, usize),
    fates: &[Fate],
) -> Result<Vec<String>, TestCaseError> {
    let marker = marker();
    let mut driver = Driver::new(build(mode, budget, marked.then_some(&marker)), budget, room);
    driver.run(fates)?;
    Ok(driver.log)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn strategies_conform(
        modes in modes(),
        budget in budget(),
        marked in any::<bool>(),
        room in room(),
        fates in fates(),
    ) {
        for mode in modes {
            let case = |error| match error {
                TestCaseError::Fail(why) => TestCaseError::fail(format!("{}: {why}\n{mode:?}", mode.name())),
                reject @ TestCaseError::Reject(_) => reject,
            };
            let said = run(mode, (budget, marked, room), &fates).map_err(case)?;
            let again = run(mode, (budget, marked, room), &fates).map_err(case)?;
            prop_assert_eq!(said, again, "not the same twice: {:?}", mode);
        }
    }
}
