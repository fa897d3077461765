//! The two ways that a probe can end.

use super::super::chain::tests::extend;
use super::super::{Extend, Grown, NodeId};
use super::*;
use crate::plan::{Beam, Final, Steps, Variant};
use crate::verify::Aggregate;

fn settings() -> Auto {
    let beam = Beam {
        likelihood: (0.0, 0.0),
        width: 2,
        expansion: 2,
        variant: Variant::Plain,
        lookahead: 0,
        scoring: Scoring::Verifier(Aggregate::Last),
        choice: Final::Vote,
        steps: Steps { most: 8, tokens: 50, repeats: 0 },
    };
    Auto { probe: 3, confidence: 0.9, beam }
}

fn search(auto: Auto) -> AutoSearch {
    let budget = Budget {
        tokens: 600,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    AutoSearch::new(auto, budget, None)
}

fn chain(score: f64, answer: &str) -> Outcome {
    Outcome::Grown(Grown {
        tokens: 9,
        text: format!("The answer is \\boxed{{{answer}}}."),
        mean_logprob: -1.0,
        scores: Some(vec![score]),
        complete: true,
        ..Grown::default()
    })
}

fn cut() -> Outcome {
    Outcome::Grown(Grown { tokens: 9, text: "so".to_owned(), extensible: true, ..Grown::default() })
}

/// What follows a probe that came to this.
fn after(auto: Auto, probe: [Outcome; 3]) -> (AutoSearch, Vec<Extend>) {
    let mut search = search(auto);
    let works: Vec<Extend> = search.ask(100).iter().map(extend).collect();
    let asked: Vec<_> = works.iter().map(|work| (work.fork, work.max_tokens, work.until)).collect();
    // Half of the budget of 600, in equal shares.
    assert_eq!(
        asked,
        [
            (Some(NodeId::ROOT), 100, Until::End),
            (Some(NodeId::ROOT), 100, Until::End),
            (Some(NodeId::ROOT), 100, Until::End)
        ]
    );
    for (work, outcome) in works.iter().zip(probe) {
        search.tell(work.id, outcome);
    }
    let mut next = Vec::new();
    loop {
        let works = search.ask(100);
        next.extend(works.iter().filter_map(|work| match work {
            Work::Extend(extend) => Some(extend.clone()),
            Work::Retire(_) => None,
        }));
        if works.is_empty() {
            return (search, next);
        }
    }
}

#[test]
fn where_tokens_are_short_a_probe_s_chains_begin_with_what_others_leave() {
    let budget = Budget {
        tokens: 120,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 20,
        verifier_tokens: None,
    };
    let mut search = AutoSearch::new(settings(), budget, None);
    // Half is for a search; twice a sample each of the rest.
    for granted in [40, 40, 42] {
        let works: Vec<Extend> = search.ask(100).iter().map(extend).collect();
        assert_eq!(works.iter().map(|work| work.max_tokens).collect::<Vec<_>>(), [granted]);
        assert!(search.ask(100).is_empty(), "the next one waits");
        search.tell(works[0].id, chain(0.95, "4"));
    }
    assert!(search.ask(100).is_empty() && search.is_done());
}

#[test]
fn a_probe_that_agrees_and_scores_well_is_enough() {
    let (search, next) = after(settings(), [chain(0.95, "4"), chain(0.91, "4"), chain(0.08, "5")]);
    assert!(next.is_empty() && search.is_done());
    assert_eq!(search.answer(), Some(Answer { node: NodeId(1), complete: true }));
    assert_eq!(search.candidates().len(), 3);
}

#[test]
fn else_a_beam_goes_on_and_the_probe_votes_in_it() {
    let doubtful = [
        // The leading answer has too small a share.
        [chain(0.95, "4"), chain(0.91, "4"), chain(0.5, "5")],
        // Its score is too low.
        [chain(0.8, "4"), chain(0.7, "4"), chain(0.8, "4")],
        // A chain that came to no answer speaks against it.
        [chain(0.95, "4"), chain(0.95, "4"), cut()],
    ];
    for probe in doubtful {
        let (mut search, next) = after(settings(), probe);
        assert_eq!(next.len(), 4);
        assert!(next.iter().all(|work| work.until == Until::Step && work.fork == Some(NodeId::ROOT)));
        for work in &next {
            search.tell(work.id, chain(0.1, "6"));
        }
        while !search.ask(100).is_empty() {}
        assert!(search.is_done());
        assert_eq!(search.answer().map(|answer| answer.node), Some(NodeId(1)));
    }
}

#[test]
fn of_equal_chains_one_has_a_vote_beside_the_beams() {
    // What a probe says twice is as likely as it says; a search merges it too.
    let said = |ids: &[u32], score, answer| match chain(score, answer) {
        Outcome::Grown(grown) => Outcome::Grown(Grown { ids: ids.to_vec(), ..grown }),
        Outcome::Abandoned => Outcome::Abandoned,
    };
    for (other, chosen) in [([1, 2], 3), ([1, 3], 1)] {
        let probe = [said(&[1, 2], 0.4, "4"), said(&other, 0.4, "4"), said(&[5], 0.5, "5")];
        let (mut search, next) = after(settings(), probe);
        for work in &next {
            search.tell(work.id, said(&[9], 0.0, "6"));
        }
        while !search.ask(100).is_empty() {}
        assert_eq!(search.answer().map(|answer| answer.node), Some(NodeId(chosen)));
    }
}

#[test]
fn without_a_verifier_agreement_alone_decides() {
    let beam = Beam { scoring: Scoring::Rollouts(2), ..settings().beam };
    let auto = Auto { beam, ..settings() };
    let (search, next) = after(auto, [chain(0.1, "4"), chain(0.1, "4"), chain(0.1, "4")]);
    assert!(next.is_empty() && search.is_done());
    assert!(search.candidates().iter().all(|candidate| candidate.score.is_none()), "nobody gave one");
    let (search, next) = after(auto, [chain(0.1, "4"), chain(0.1, "5"), chain(0.1, "4")]);
    assert!(!next.is_empty() && !search.is_done());
}

#[test]
fn a_probe_s_answer_is_chosen_as_the_search_s_is() {
    let probe = || [chain(0.7, "4"), chain(0.6, "4"), chain(0.9, "5")];
    let node = |choice| {
        let auto = Auto { confidence: 0.3, beam: Beam { choice, ..settings().beam }, ..settings() };
        let (search, next) = after(auto, probe());
        assert!(next.is_empty() && search.is_done());
        search.answer().map(|answer| answer.node.0)
    };
    assert_eq!([node(Final::Vote), node(Final::Best)], [Some(1), Some(3)]);
}

#[test]
fn likelihood_says_which_answer_of_a_probe_to_give_and_not_whether_it_is_enough() {
    let likely = |mean_logprob, outcome| match outcome {
        Outcome::Grown(grown) => Outcome::Grown(Grown { mean_logprob, ..grown }),
        Outcome::Abandoned => Outcome::Abandoned,
    };
    let node = |likelihood, confidence| {
        let auto = Auto { confidence, beam: Beam { likelihood, ..settings().beam }, ..settings() };
        // Of nine tokens each: e^-9, e^-4.5, e^-9.
        let probe = [chain(0.7, "4"), likely(-0.5, chain(0.6, "5")), chain(0.1, "6")];
        let (search, next) = after(auto, probe);
        assert_eq!(next.is_empty(), search.is_done());
        search.answer().filter(|_| search.is_done()).map(|answer| answer.node.0)
    };
    // 0.7 against 0.6; 0.7 * e^-4.5 = 0.008 against 0.6.
    assert_eq!(
        [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)].map(|power| node(power, 0.3)),
        [Some(1), Some(2), Some(1)]
    );
    // 0.7 * e^-0.09 = 0.64 against 0.6, and 0.7 * e^-0.18 = 0.58.
    assert_eq!([(0.02, 0.0), (0.04, 0.0)].map(|power| node(power, 0.3)), [Some(1), Some(2)]);
    // Its share of the scores is 0.43, however likely it is.
    assert_eq!(node((1.0, 0.0), 0.45), None);
}

#[test]
fn whole_chains_say_nothing_about_how_long_a_step_is() {
    let budget =
        Budget { tokens: 600, reserve: 0, branches: 9, branch_tokens: 500, sample: 1, verifier_tokens: None };
    let mut grove = Grove::new(budget, None);
    let growth = Growth { until: Until::End, greedy: false, score: false, most: 100 };
    grove.grow(None, growth, u32::MAX);
    grove.land(0, Outcome::Grown(Grown { tokens: 100, complete: true, ..Grown::default() }));
    assert_eq!(grove.affordable(), 31, "500 at 16 each");
    grove.grow(None, Growth { until: Until::Step, ..growth }, u32::MAX);
    grove.land(1, Outcome::Grown(Grown { tokens: 50, extensible: true, ..Grown::default() }));
    assert_eq!(grove.affordable(), 9, "450 at 50 each");
}
