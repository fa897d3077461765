//! What every strategy must do whatever it is told: one suite over all modes,
//! against an engine that is slow, forgetful, contradictory and hostile.
//!
//! The driver below keeps its own account of tokens and branches and compares
//! every piece of work with it.

use super::{Extend, Grown, NodeId, Outcome, Strategy, Work, WorkId, build};
use crate::plan::{Budget, Marker, Mode};
use crate::token::TokenId;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use proptest::test_runner::TestCaseResult;
use std::collections::{BTreeMap, HashSet};

/// A mode with `branches` branches, and the one after it. The match makes that a
/// new mode cannot be forgotten here.
fn successor(mode: Mode, branches: u32) -> Option<Mode> {
    match mode {
        Mode::Direct => Some(Mode::ChainOfThought),
        Mode::ChainOfThought => Some(Mode::SelfConsistency { branches }),
        Mode::SelfConsistency { .. } => None,
    }
}

fn modes(branches: u32) -> Vec<Mode> {
    std::iter::successors(Some(Mode::Direct), |mode| successor(*mode, branches)).collect()
}

fn marker() -> Marker {
    let ids = |n: TokenId| (500..500 + n).collect();
    Marker {
        text: "The answer is".to_owned(),
        shown: true,
        inject: ids(4),
        inject_after_separator: ids(3),
        separator: "\n\n".to_owned(),
    }
}

/// What happens to one piece of work, and what is said besides.
#[derive(Debug, Clone)]
struct Fate {
    /// Which of the pieces in flight ends next.
    pick: usize,
    kind: u8,
    /// Share of the grant that is used, in 255ths.
    share: u8,
    text: usize,
    logprob: usize,
    /// An outcome with this id is told as well: unknown, or repeated.
    noise: Option<WorkId>,
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
    fn outcome(&self, granted: u32, inject: u32) -> Outcome {
        let used = (u64::from(granted) * u64::from(self.share) / 255) as u32;
        let (tokens, complete, extensible) = match self.kind {
            0 => return Outcome::Abandoned,
            1 => (0, false, true),
            2 | 3 => (used.max(inject), true, false),
            4 => (used.max(inject), false, false),
            5 => (0, true, false),
            6 => (used.max(inject), false, true),
            _ => (granted, false, true),
        };
        let (text, mean_logprob) = (TEXTS[self.text].to_owned(), LOGPROBS[self.logprob]);
        Outcome::Grown(Grown { tokens, text, mean_logprob, complete, extensible })
    }
}

fn fate() -> impl proptest::strategy::Strategy<Value = Fate> {
    (any::<u16>(), 0u8..10, any::<u8>(), 0..TEXTS.len(), 0..LOGPROBS.len(), prop::option::of(0u64..12))
        .prop_map(|(pick, kind, share, text, logprob, noise)| Fate {
            pick: pick.into(),
            kind,
            share,
            text,
            logprob,
            noise,
        })
}

fn budget() -> impl proptest::strategy::Strategy<Value = Budget> {
    let tokens = prop_oneof![1u32..30, 1u32..2_000];
    let branch_tokens = prop_oneof![1u32..40, 1u32..3_000];
    (tokens, branch_tokens, any::<u32>(), 1u32..80).prop_map(|(tokens, branch_tokens, reserve, branches)| {
        Budget { tokens, branch_tokens, reserve: reserve % tokens.min(branch_tokens), branches }
    })
}

/// The other side of a strategy: what is alive, what is in flight, what it cost.
struct Driver {
    strategy: Box<dyn Strategy>,
    budget: Budget,
    room: usize,
    spent: u32,
    /// Live branches, and whether each is busy.
    alive: BTreeMap<NodeId, bool>,
    in_flight: Vec<Extend>,
    ids: HashSet<WorkId>,
    nodes: HashSet<NodeId>,
    told: Vec<(WorkId, Outcome)>,
    text: bool,
    log: Vec<String>,
}

impl Driver {
    fn new(mode: Mode, budget: Budget, marked: bool, room: usize) -> Self {
        let marker = marker();
        Self {
            strategy: build(mode, budget, marked.then_some(&marker)),
            budget,
            room,
            spent: 0,
            alive: BTreeMap::new(),
            in_flight: Vec::new(),
            ids: HashSet::new(),
            nodes: HashSet::new(),
            told: Vec::new(),
            text: false,
            log: Vec::new(),
        }
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
        if self.in_flight.is_empty() {
            prop_assert!(self.strategy.is_done(), "it waits for nothing");
        }
        self.look()
    }

    fn extend(&mut self, extend: Extend) -> TestCaseResult {
        prop_assert!(self.ids.insert(extend.id), "{} was used before", extend.id);
        match extend.fork {
            Some(parent) => {
                prop_assert!(self.nodes.insert(extend.node), "{:?} was used before", extend.node);
                prop_assert!(parent == NodeId::ROOT || self.alive.contains_key(&parent));
                prop_assert!(self.alive.len() < self.room, "more branches than room");
                prop_assert!(self.nodes.len() <= self.budget.branches as usize, "too many branches made");
            }
            None => prop_assert_eq!(self.alive.get(&extend.node), Some(&false), "grown while not idle"),
        }
        self.alive.insert(extend.node, true);
        prop_assert!(extend.max_tokens > 0, "work without tokens");
        prop_assert!(extend.inject.len() < extend.max_tokens as usize, "no room behind the marker");
        self.in_flight.push(extend);
        let granted: u32 = self.in_flight.iter().map(|extend| extend.max_tokens).sum();
        prop_assert!(self.spent + granted <= self.budget.tokens, "the budget is exceeded");
        Ok(())
    }

    fn tell(&mut self, fate: &Fate) -> TestCaseResult {
        if let Some(id) = fate.noise.filter(|id| !self.in_flight.iter().any(|extend| extend.id == *id)) {
            self.unchanged(id, fate.outcome(3, 0))?;
        }
        let extend = self.in_flight.swap_remove(fate.pick % self.in_flight.len());
        let outcome = fate.outcome(extend.max_tokens, extend.inject.len() as u32);
        let mut alive = false;
        if let Outcome::Grown(grown) = &outcome {
            self.spent += grown.tokens;
            self.text = true;
            alive = grown.extensible;
        }
        if alive {
            self.alive.insert(extend.node, false);
        } else {
            self.alive.remove(&extend.node);
        }
        self.strategy.tell(extend.id, outcome.clone());
        self.look()?;
        self.unchanged(extend.id, outcome.clone())?;
        self.told.push((extend.id, outcome));
        let (id, outcome) = self.told[fate.pick % self.told.len()].clone();
        self.unchanged(id, outcome)
    }

    /// Tells what must be ignored.
    fn unchanged(&mut self, id: WorkId, outcome: Outcome) -> TestCaseResult {
        let look = |strategy: &dyn Strategy| {
            format!("{:?} {:?} {}", strategy.answer(), strategy.candidates(), strategy.is_done())
        };
        let before = look(&*self.strategy);
        self.strategy.tell(id, outcome);
        prop_assert_eq!(before, look(&*self.strategy), "an unknown or repeated outcome changed something");
        Ok(())
    }

    /// What holds at every moment.
    fn look(&mut self) -> TestCaseResult {
        let answer = self.strategy.answer();
        let candidates = self.strategy.candidates();
        self.log.push(format!("{answer:?} {candidates:?}"));
        let selected: Vec<_> = candidates.iter().filter(|candidate| candidate.selected).collect();
        prop_assert_eq!(answer.is_some(), self.text, "an answer exactly where there is text");
        prop_assert_eq!(selected.len(), usize::from(answer.is_some()));
        if let Some(answer) = answer {
            prop_assert!(self.nodes.contains(&answer.node));
            prop_assert_eq!(answer.complete, selected[0].complete);
            let complete = candidates.iter().any(|candidate| candidate.complete);
            prop_assert_eq!(answer.complete, complete, "a complete answer comes first");
        }
        let tokens: u32 = candidates.iter().map(|candidate| candidate.tokens).sum();
        prop_assert_eq!(tokens, self.spent);
        Ok(())
    }
}

/// Runs a strategy to its end; returns all that it said.
fn run(
    mode: Mode,
    (budget, marked, room): (Budget, bool, usize),
    fates: &[Fate],
) -> Result<Vec<String>, TestCaseError> {
    let mut driver = Driver::new(mode, budget, marked, room);
    driver.look()?;
    driver.ask()?;
    for turn in 0.. {
        if driver.in_flight.is_empty() {
            break;
        }
        // Every chain may be cut once a round, and a round spends a token.
        prop_assert!(turn < 20_000, "it never ends");
        driver.tell(&fates[turn % fates.len()])?;
        driver.ask()?;
    }
    prop_assert!(driver.strategy.is_done());
    for (id, outcome) in driver.told.clone() {
        driver.unchanged(id, outcome)?;
    }
    driver.ask()?;
    Ok(driver.log)
}

#[test]
fn the_suite_knows_every_mode() {
    let modes = modes(7);
    assert_eq!(modes.len(), 3);
    assert_eq!(modes.last().map(|mode| mode.branches()), Some(7));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn strategies_conform(
        budget in budget(),
        branches in 2u32..70,
        marked in any::<bool>(),
        room in prop_oneof![1usize..5, 1usize..70],
        fates in prop::collection::vec(fate(), 1..40),
    ) {
        for mode in modes(branches) {
            let said = run(mode, (budget, marked, room), &fates)?;
            prop_assert_eq!(said, run(mode, (budget, marked, room), &fates)?, "not the same twice");
        }
    }
}
