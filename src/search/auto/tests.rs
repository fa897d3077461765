//! The ways in which a probe can end.

use super::super::chain::tests::extend;
use super::super::{Answer, Extend, Grown, NodeId, Outcome, Strategy, Work};
use super::*;
use crate::plan::{Final, Scoring, Select, Steps};
use crate::verify::Aggregate;

fn settings() -> Auto {
    let tree = Mcts {
        likelihood: 0.0,
        simulations: 64,
        tokens: 0,
        width: 8,
        select: Select::Uct(1.0),
        widening: None,
        scoring: Scoring::Verifier(Aggregate::Last),
        whole: true,
        choice: Final::Vote,
        in_flight: 3,
        // What is enough is the probe's to say.
        enough: None,
        steps: Steps { most: 8, tokens: 50, repeats: 0 },
    };
    Auto { probe: 3, confidence: 0.9, tree }
}

fn chain(word: u32, score: f64, answer: &str) -> Outcome {
    Outcome::Grown(Grown {
        tokens: 9,
        ids: vec![word],
        text: format!("The answer is \\boxed{{{answer}}}."),
        mean_logprob: -1.0,
        step_logprob: -9.0,
        scores: Some(vec![score]),
        complete: true,
        ..Grown::default()
    })
}

fn begun(search: &mut TreeSearch) -> Vec<Extend> {
    let mut begun = Vec::new();
    loop {
        let works = search.ask(100);
        begun.extend(works.iter().filter_map(|work| match work {
            Work::Extend(extend) => Some(extend.clone()),
            Work::Retire(_) => None,
        }));
        if works.is_empty() {
            return begun;
        }
    }
}

/// A search whose probe came to this, and what it begins then.
fn after(auto: Auto, probe: [Outcome; 3]) -> (TreeSearch, Vec<Extend>) {
    let budget = Budget {
        tokens: 9_000,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    let mut search = search(auto, budget, None);
    let works: Vec<Extend> = search.ask(100).iter().map(extend).collect();
    assert_eq!(works.iter().map(|work| work.fork).collect::<Vec<_>>(), [Some(NodeId::ROOT); 3]);
    for (work, outcome) in works.iter().zip(probe) {
        assert!(!search.is_done(), "not before the probe's end");
        search.tell(work.id, outcome);
    }
    let next = begun(&mut search);
    (search, next)
}

#[test]
fn a_probe_that_agrees_and_scores_well_is_enough() {
    let (search, next) = after(settings(), [chain(1, 0.95, "4"), chain(2, 0.91, "4"), chain(3, 0.08, "5")]);
    assert!(next.is_empty() && search.is_done() && search.starved().is_none());
    assert_eq!(search.answer(), Some(Answer { node: NodeId(1), complete: true }));
    assert_eq!(search.candidates().len(), 3);
}

#[test]
fn else_a_search_goes_on_in_the_probe_s_tree_until_it_is() {
    let doubtful = [
        // The leading answer has too small a share.
        [chain(1, 0.95, "4"), chain(2, 0.91, "4"), chain(3, 0.5, "5")],
        // Its score is too low.
        [chain(1, 0.8, "4"), chain(2, 0.7, "4"), chain(3, 0.8, "4")],
    ];
    for probe in doubtful {
        let (mut search, next) = after(settings(), probe);
        assert_eq!(next.len(), 3, "simulations at once");
        for (work, word) in next.iter().zip(10..) {
            assert!(!search.is_done());
            search.tell(work.id, chain(word, 0.97, "4"));
        }
        // 4.77 of 5.27 are as much as was asked for.
        assert!(begun(&mut search).is_empty() && search.is_done());
        assert_eq!(search.answer(), Some(Answer { node: next[0].node, complete: true }));
    }
}

#[test]
fn without_a_verifier_agreement_alone_decides() {
    let tree = Mcts { scoring: Scoring::Rollouts(2), whole: false, ..settings().tree };
    let auto = Auto { tree, ..settings() };
    let (search, next) = after(auto, [chain(1, 0.1, "4"), chain(2, 0.1, "4"), chain(3, 0.1, "4")]);
    assert!(next.is_empty() && search.is_done());
    assert!(search.candidates().iter().all(|candidate| candidate.score.is_none()), "nobody gave one");
    let (search, next) = after(auto, [chain(1, 0.1, "4"), chain(2, 0.1, "5"), chain(3, 0.1, "4")]);
    assert!(!next.is_empty() && !search.is_done());
}
