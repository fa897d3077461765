//! Scripted beams, level by level.

use super::super::chain::tests::marker;
use super::super::{Extend, Grown, NodeId};
use super::select::shares;
use super::*;
use crate::plan::Steps;
use crate::verify::Aggregate;

fn settings() -> Beam {
    Beam {
        likelihood: (0.0, 0.0),
        width: 2,
        expansion: 2,
        variant: Variant::Plain,
        lookahead: 0,
        scoring: Scoring::Verifier(Aggregate::Last),
        choice: Final::Vote,
        steps: Steps { most: 8, tokens: 50, repeats: 0 },
    }
}

fn search(beam: Beam) -> BeamSearch {
    let budget = Budget {
        tokens: 2_000,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    BeamSearch::new(beam, budget, None)
}

/// A step of two tokens that ends with `word`, and its score.
fn step(word: u32, score: f64) -> Grown {
    Grown {
        tokens: 2,
        ids: vec![1, word],
        text: "so\n\n".to_owned(),
        mean_logprob: -1.0,
        step_logprob: -1.0,
        scores: Some(vec![score]),
        extensible: true,
        ..Grown::default()
    }
}

/// The same, at the end of a trajectory with this answer.
fn end(word: u32, score: f64, answer: &str) -> Grown {
    Grown {
        text: format!("The answer is \\boxed{{{answer}}}."),
        complete: true,
        extensible: false,
        ..step(word, score)
    }
}

/// Asks until there is no more: what is grown, and what is given up.
fn asked(search: &mut BeamSearch) -> (Vec<Extend>, Vec<u32>) {
    let (mut grown, mut retired) = (Vec::new(), Vec::new());
    loop {
        let works = search.ask(100);
        if works.is_empty() {
            retired.sort_unstable();
            return (grown, retired);
        }
        for work in works {
            match work {
                Work::Extend(extend) => grown.push(extend),
                Work::Retire(node) => retired.push(node.0),
            }
        }
    }
}

/// Tells one outcome for each piece of work, in order; says what comes next, as
/// (branch, what it was forked from), and what is given up.
fn level(search: &mut BeamSearch, works: &[Extend], outcomes: &[Grown]) -> (Vec<Extend>, Vec<u32>) {
    assert_eq!(works.len(), outcomes.len());
    for (work, grown) in works.iter().zip(outcomes) {
        search.tell(work.id, Outcome::Grown(grown.clone()));
    }
    asked(search)
}

fn forks(works: &[Extend]) -> Vec<(u32, u32)> {
    works.iter().map(|work| (work.node.0, work.fork.map_or(u32::MAX, |node| node.0))).collect()
}

#[test]
fn the_best_of_all_candidates_are_the_next_level_s_beams() {
    let mut search = search(settings());
    let (works, _) = asked(&mut search);
    assert_eq!(forks(&works), [(1, 0), (2, 0), (3, 0), (4, 0)]);
    assert!(works.iter().all(|work| work.score && !work.greedy && work.until == Until::Step));
    let (works, retired) =
        level(&mut search, &works, &[step(1, 0.3), step(2, 0.9), step(3, 0.2), step(4, 0.8)]);
    assert_eq!(retired, [1, 3]);
    assert_eq!(forks(&works), [(5, 2), (6, 2), (7, 4), (8, 4)]);
    // What they were forked from has done its part.
    let (works, retired) =
        level(&mut search, &works, &[step(1, 0.5), step(2, 0.1), step(3, 0.6), step(4, 0.2)]);
    assert_eq!(retired, [2, 4, 6, 8]);
    assert_eq!(forks(&works), [(9, 5), (10, 5), (11, 7), (12, 7)]);
}

#[test]
fn a_finished_beam_narrows_the_search_and_all_that_is_complete_votes() {
    let mut search = search(settings());
    let (works, _) = asked(&mut search);
    let told = [end(1, 0.5, "1"), step(2, 0.4), end(3, 0.3, "2"), step(4, 0.2)];
    let (works, retired) = level(&mut search, &works, &told);
    assert_eq!((forks(&works), retired), (vec![(5, 2), (6, 2)], vec![4]), "one beam is left");
    let (works, _) = level(&mut search, &works, &[end(5, 0.4, "2"), step(6, 0.1)]);
    assert!(works.is_empty() && search.is_done());
    // 0.5 for 1; 0.3, which was not kept, and 0.4 for 2.
    assert_eq!(search.answer(), Some(Answer { node: NodeId(5), complete: true }));
    assert_eq!(search.candidates().len(), 3);
    search.beam.choice = Final::Best;
    assert_eq!(search.answer().map(|answer| answer.node), Some(NodeId(1)));
}

#[test]
fn equal_candidates_of_a_parent_are_one() {
    let mut search = search(settings());
    let (works, _) = asked(&mut search);
    let told = [step(1, 0.9), step(1, 0.9), step(2, 0.1), step(1, 0.9)];
    let (works, retired) = level(&mut search, &works, &told);
    assert_eq!((forks(&works), retired), (vec![(5, 1), (6, 1), (7, 3), (8, 3)], vec![2, 4]));
    // The same step on another parent is another trajectory; equal complete
    // ones have one vote.
    let told = [end(1, 0.4, "1"), end(1, 0.4, "1"), end(1, 0.5, "2"), step(2, 0.1)];
    level(&mut search, &works, &told);
    assert_eq!(search.answer().map(|answer| answer.node), Some(NodeId(7)));
}

#[test]
fn diverse_subtrees_keep_the_best_of_each() {
    let next = |variant| {
        let mut search = search(Beam { variant, ..settings() });
        let (works, _) = asked(&mut search);
        let told = [step(1, 0.9), step(2, 0.3), step(3, 0.8), step(4, 0.2)];
        let (works, _) = level(&mut search, &works, &told);
        forks(&works).into_iter().map(|(_, from)| from).collect::<Vec<_>>()
    };
    assert_eq!(next(Variant::Plain), [1, 1, 3, 3]);
    // 1 and 3 are of the first subtree, 2 and 4 of the second.
    assert_eq!(next(Variant::Diverse), [1, 1, 2, 2]);
}

#[test]
fn a_complete_trajectory_ends_its_subtree() {
    let mut search = search(Beam { variant: Variant::Diverse, ..settings() });
    let (works, _) = asked(&mut search);
    let told = [end(1, 0.9, "1"), step(2, 0.3), step(3, 0.8), step(4, 0.2)];
    let (works, _) = level(&mut search, &works, &told);
    assert_eq!(forks(&works), [(5, 2), (6, 2)]);
}

#[test]
fn balanced_expansion_shares_candidates_out_by_softmax() {
    // e^0 : e^-1 : e^-2 of 8, each share rounded up out of what is left.
    assert_eq!(shares(&[1.0, 0.5, 0.0], 8, 0.5), [6, 2, 0]);
    assert_eq!(shares(&[0.7, 0.7, 0.7], 4, 0.2), [2, 1, 1]);
    assert_eq!(shares(&[0.2], 5, 0.2), [5]);
    assert!(shares(&[], 5, 0.2).is_empty());
    assert_eq!(shares(&[0.9, 0.1], 0, 0.2), [0, 0]);
    let mut search = search(Beam { variant: Variant::Balanced(0.5), ..settings() });
    let (works, _) = asked(&mut search);
    assert_eq!(works.len(), 4);
    // One is finished: three are shared out, 2.2 and 0.8.
    let told = [end(1, 0.9, "1"), step(2, 1.0), step(3, 0.5), step(4, 0.0)];
    let (works, retired) = level(&mut search, &works, &told);
    assert_eq!((forks(&works), retired), (vec![(5, 2), (6, 2), (7, 3)], vec![4]));
}

#[test]
fn complete_candidates_that_say_the_same_are_finished_each() {
    let mut search = search(Beam { variant: Variant::Balanced(0.5), ..settings() });
    let (works, _) = asked(&mut search);
    let told = [end(1, 0.9, "1"), end(1, 0.9, "1"), end(1, 0.9, "1"), step(4, 0.5)];
    let (works, _) = level(&mut search, &works, &told);
    assert_eq!(forks(&works), [(5, 4)], "one of four is not finished");
}

#[test]
fn with_lookahead_a_candidate_is_worth_the_end_of_its_rollout_and_the_first_step_is_paid_for() {
    let mut search = search(Beam { width: 1, lookahead: 2, ..settings() });
    let (works, _) = asked(&mut search);
    assert_eq!(forks(&works), [(1, 0), (2, 0)]);
    let (works, _) = level(&mut search, &works, &[step(1, 0.9), step(2, 0.5)]);
    assert_eq!(forks(&works), [(3, 1), (4, 2)]);
    assert!(works.iter().all(|work| work.greedy && work.score && work.until == Until::Step));
    let (works, _) = level(&mut search, &works, &[step(3, 0.2), step(4, 0.7)]);
    assert_eq!(forks(&works), [(5, 3), (6, 4)]);
    let (works, retired) = level(&mut search, &works, &[step(5, 0.1), step(6, 0.95)]);
    // 2 wins by 0.95. Of its next candidates 4 is there already, with 6 as the
    // first step of its own rollout.
    assert_eq!(retired, [1, 3, 5]);
    let greedy: Vec<_> = works.iter().map(|work| (work.fork.map(|node| node.0), work.greedy)).collect();
    assert_eq!(greedy, [(Some(2), false), (Some(6), true)]);
}

#[test]
fn a_rollout_that_ends_early_is_worth_its_end() {
    let mut search = search(Beam { width: 1, lookahead: 3, ..settings() });
    let (works, _) = asked(&mut search);
    let (works, _) = level(&mut search, &works, &[step(1, 0.9), step(2, 0.5)]);
    let (works, _) = level(&mut search, &works, &[end(3, 0.1, "3"), end(4, 0.6, "4")]);
    // 2 is kept, and its rollout is a complete candidate: no more lookahead on it.
    assert_eq!(forks(&works), [(5, 2)]);
    let (works, _) = level(&mut search, &works, &[step(5, 0.2)]);
    assert_eq!(forks(&works), [(6, 5)]);
    assert_eq!(search.answer().map(|answer| answer.node), Some(NodeId(4)));
}

#[test]
fn without_a_verifier_a_candidate_is_worth_the_share_of_its_completions_that_agree() {
    let mut search = search(Beam { width: 1, scoring: Scoring::Rollouts(2), ..settings() });
    let (works, _) = asked(&mut search);
    assert!(works.iter().all(|work| !work.score));
    let (works, _) = level(&mut search, &works, &[step(1, f64::NAN), step(2, f64::NAN)]);
    assert_eq!(forks(&works), [(3, 1), (4, 1), (5, 2), (6, 2)]);
    assert!(works.iter().all(|work| work.until == Until::End));
    let told = [end(3, 0.0, "4"), end(4, 0.0, "5"), end(5, 0.0, "5"), end(6, 0.0, "5")];
    let (works, retired) = level(&mut search, &works, &told);
    assert_eq!((forks(&works), retired), (vec![(7, 2), (8, 2)], vec![1]), "all of 2's say 5");
}

#[test]
fn at_the_last_step_a_beam_is_brought_to_its_end_at_once() {
    let mut search = search(Beam { steps: Steps { most: 2, tokens: 50, repeats: 0 }, ..settings() });
    let (works, _) = asked(&mut search);
    let (works, _) = level(&mut search, &works, &[step(1, 0.9), step(2, 0.8), step(3, 0.1), step(4, 0.1)]);
    assert_eq!(forks(&works), [(5, 1), (6, 2)], "one of each");
    assert!(works.iter().all(|work| work.until == Until::End));
}

#[test]
fn trajectories_of_one_step_are_whole_chains() {
    let mut search = search(Beam { steps: Steps { most: 1, tokens: 50, repeats: 0 }, ..settings() });
    let (works, _) = asked(&mut search);
    assert_eq!(forks(&works), [(1, 0), (2, 0)], "one for each beam");
    assert!(works.iter().all(|work| work.until == Until::End && work.max_tokens > 50));
}

#[test]
fn a_search_that_is_stopped_answers_with_a_beam_and_not_with_what_it_gave_up() {
    let mut search = search(settings());
    let (works, _) = asked(&mut search);
    let (works, retired) =
        level(&mut search, &works, &[step(1, 0.9), step(2, 0.8), step(3, 0.7), step(4, 0.7)]);
    assert_eq!(retired, [3, 4]);
    assert_eq!(search.answer().map(|answer| answer.node), Some(NodeId(1)));
    // What is worth the less the longer it gets is still nearer to its end.
    search.tell(works[2].id, Outcome::Grown(step(5, 0.3)));
    search.tell(works[3].id, Outcome::Grown(step(6, 0.4)));
    assert_eq!(search.answer(), Some(Answer { node: works[3].node, complete: false }));
}

#[test]
fn what_the_reserve_was_spent_on_is_the_answer_though_it_was_cut_again() {
    let budget = Budget {
        tokens: 30,
        reserve: 10,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    let mut search = BeamSearch::new(settings(), budget, Some(marker()));
    let mut works = asked(&mut search).0;
    // The last level's steps are the better ones, but there is nothing left for more.
    while works.iter().all(|work| work.inject.is_empty()) {
        let told: Vec<Grown> = (0..).zip(&works).map(|(word, _)| step(word, 0.5)).collect();
        works = level(&mut search, &works, &told).0;
        assert!(!works.is_empty(), "the reserve is for an answer");
    }
    let completed = works[0].node;
    let worst = Grown { tokens: works[0].max_tokens, scores: None, mean_logprob: -9.0, ..step(9, 0.0) };
    assert!(level(&mut search, &works, &[worst]).0.is_empty() && search.is_done());
    assert_eq!(search.answer(), Some(Answer { node: completed, complete: false }));
}

#[test]
fn a_parent_whose_first_candidates_differ_gets_the_others_without_waiting_for_its_siblings() {
    let steps = Steps { repeats: 1, ..settings().steps };
    let mut search = search(Beam { expansion: 4, steps, ..settings() });
    let (works, _) = asked(&mut search);
    assert_eq!(works.len(), 8, "the prompt is asked for all at once");
    let poor = || step(9, 0.1);
    let first = [step(1, 0.9), step(2, 0.8), poor(), poor(), poor(), poor(), poor(), poor()];
    let (works, _) = level(&mut search, &works, &first);
    assert_eq!(forks(&works), [(9, 1), (10, 1), (11, 2), (12, 2)], "two of each");
    search.tell(works[0].id, Outcome::Grown(step(3, 0.7)));
    assert!(asked(&mut search).0.is_empty(), "one says nothing yet");
    search.tell(works[1].id, Outcome::Grown(step(4, 0.7)));
    let (more, _) = asked(&mut search);
    assert_eq!(forks(&more), [(13, 1), (14, 1)], "while its sibling's are under way");
    search.tell(works[2].id, Outcome::Grown(step(5, 0.6)));
    search.tell(works[3].id, Outcome::Grown(step(5, 0.6)));
    assert!(asked(&mut search).0.is_empty(), "equal ones get no more");
    let (works, retired) = level(&mut search, &more, &[step(3, 0.7), step(6, 0.5)]);
    assert_eq!(retired, [1, 2, 11, 12, 13, 14], "all but the two best of the level");
    assert_eq!(forks(&works), [(15, 9), (16, 9), (17, 10), (18, 10)]);
}

#[test]
fn a_budget_that_ends_the_search_completes_the_best_prefix_within_the_reserve() {
    let budget = Budget {
        tokens: 60,
        reserve: 20,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    let mut search = BeamSearch::new(settings(), budget, Some(marker()));
    // 40 tokens are room for two steps of sixteen.
    let (works, _) = asked(&mut search);
    assert_eq!(works.iter().map(|work| work.max_tokens).collect::<Vec<_>>(), [20, 20]);
    let long = |word, score| Grown { tokens: 20, ids: vec![word; 20], ..step(word, score) };
    let (works, retired) = level(&mut search, &works, &[long(1, 0.4), long(2, 0.6)]);
    assert_eq!(retired, [1]);
    let last = works[0].clone();
    assert_eq!((last.node, last.fork, last.max_tokens, last.inject), (NodeId(2), None, 20, vec![1, 2, 3]));
    assert_eq!(search.starved(), Some(Scarce::Tokens));
    let (works, _) = level(&mut search, &works, &[end(3, 0.0, "4")]);
    assert!(works.is_empty() && search.is_done());
    assert_eq!(search.answer(), Some(Answer { node: NodeId(2), complete: true }));
}

#[test]
fn where_a_verifier_falls_silent_the_best_go_on_to_their_ends_and_vote() {
    let budget = Budget {
        tokens: 120,
        reserve: 20,
        branches: 100,
        branch_tokens: 500,
        sample: 16,
        verifier_tokens: None,
    };
    let mut search = BeamSearch::new(Beam { width: 3, ..settings() }, budget, Some(marker()));
    let (works, _) = asked(&mut search);
    let mute = Grown { scores: None, unscored: true, ..step(2, 0.0) };
    let rest = [step(3, 0.6), step(4, 0.1), step(5, 0.5), step(6, 0.0)];
    let told: Vec<Grown> = [step(1, 0.3), mute].into_iter().chain(rest).collect();
    let (works, retired) = level(&mut search, &works, &told);
    // 88 tokens are left for thoughts: two chains of twice 16, of three that were kept.
    assert_eq!((forks(&works), retired), (vec![(3, u32::MAX), (5, u32::MAX)], vec![1, 2, 4, 6]));
    let each = |work: &Extend| (work.until, work.inject.len(), work.score, work.max_tokens);
    assert!(works.iter().all(|work| each(work) == (Until::End, 0, false, 44)), "{works:?}");
    let unscored = |grown| Grown { scores: None, ..grown };
    let (more, _) = level(&mut search, &works, &[unscored(end(7, 0.0, "1")), unscored(end(8, 0.0, "2"))]);
    assert!(more.is_empty() && search.is_done());
    assert_eq!(search.answer(), Some(Answer { node: NodeId(3), complete: true }), "equal votes");
    // No score is told that nobody gave.
    assert!(search.candidates().iter().all(|candidate| candidate.score.is_none()));
}

#[test]
fn what_goes_on_without_scores_is_brought_to_its_answer_where_it_is_cut() {
    let budget = Budget {
        tokens: 100,
        reserve: 20,
        branches: 100,
        branch_tokens: 500,
        sample: 1_000,
        verifier_tokens: None,
    };
    let mut search = BeamSearch::new(settings(), budget, Some(marker()));
    let (works, _) = asked(&mut search);
    let mute = |word| Grown { scores: None, unscored: true, ..step(word, 0.0) };
    let (works, _) = level(&mut search, &works, &[mute(1), mute(2), mute(3), mute(4)]);
    assert_eq!((forks(&works), works[0].max_tokens), (vec![(1, u32::MAX)], 72));
    let long = Grown { tokens: 72, scores: None, ..step(5, 0.0) };
    let (works, _) = level(&mut search, &works, &[long]);
    assert_eq!((works[0].inject.clone(), works[0].max_tokens), (vec![1, 2, 3], 20), "the reserve");
    let (works, _) = level(&mut search, &works, &[Grown { scores: None, ..end(6, 0.0, "4") }]);
    assert!(works.is_empty() && search.is_done());
}

#[test]
fn a_trajectory_without_a_score_is_worth_nothing_and_the_search_goes_on() {
    let mut search = search(Beam { width: 1, expansion: 3, ..settings() });
    let none = |word| Grown { scores: None, ..step(word, 0.0) };
    let (works, _) = asked(&mut search);
    let (works, _) = level(&mut search, &works, &[none(1), step(2, 0.9), step(3, 0.1)]);
    assert_eq!(forks(&works), [(4, 2), (5, 2), (6, 2)]);
    // Not what its parent was worth, which is more than its siblings are.
    let (works, retired) = level(&mut search, &works, &[none(1), step(2, 0.2), step(3, 0.1)]);
    assert_eq!((forks(&works), retired), (vec![(7, 5), (8, 5), (9, 5)], vec![2, 4, 6]));
    // Where none has a score, the likeliest goes on.
    let likely = Grown { mean_logprob: -0.5, ..none(2) };
    let (works, _) = level(&mut search, &works, &[none(1), likely, none(3)]);
    assert_eq!(forks(&works), [(10, 8), (11, 8), (12, 8)]);
}

#[test]
fn scores_of_its_beginning_are_no_scores_of_a_trajectory() {
    // Asked for and not there, for whatever reason: the verifier had none, or no more.
    for unscored in [false, true] {
        for aggregate in [Aggregate::Prod, Aggregate::Min] {
            let scoring = Scoring::Verifier(aggregate);
            let mut search = search(Beam { width: 1, scoring, ..settings() });
            let (works, _) = asked(&mut search);
            let (works, _) = level(&mut search, &works, &[step(1, 0.95), step(2, 0.1)]);
            let x = Grown { scores: Some(vec![0.95, 0.3]), ..end(1, 0.0, "x") };
            let y = Grown { scores: None, unscored, ..end(2, 0.0, "y") };
            level(&mut search, &works, &[x, y]);
            let scores: Vec<Option<f64>> =
                search.candidates().iter().map(|candidate| candidate.score).collect();
            assert_eq!(scores, [aggregate.of(&[0.95, 0.3]), None], "{aggregate:?} {unscored}");
            assert_eq!(search.answer().map(|answer| answer.node), Some(works[0].node));
        }
    }
}

#[test]
fn likelihood_counts_in_the_vote_by_one_exponent_and_in_the_ranking_by_the_other() {
    let outcome = |vote, rank| {
        let mut search = search(Beam { likelihood: (vote, rank), ..settings() });
        let (works, _) = asked(&mut search);
        let likely = |mean_logprob, grown| Grown { mean_logprob, ..grown };
        // Of two tokens each: e^-2, e^-0.2, e^-4, e^-0.4.
        let told = [
            likely(-1.0, end(1, 0.6, "1")),
            likely(-0.1, end(2, 0.5, "2")),
            likely(-2.0, step(3, 0.9)),
            likely(-0.2, step(4, 0.4)),
        ];
        let (works, _) = level(&mut search, &works, &told);
        (forks(&works)[0].1, search.answer().map_or(0, |answer| answer.node.0))
    };
    assert_eq!(outcome(0.0, 0.0), (3, 1));
    // 0.6 * e^-1.8 = 0.10 against 0.5.
    assert_eq!(outcome(1.0, 0.0), (3, 2));
    // 0.9 * e^-3.8 = 0.02 against 0.5 and 0.4 * e^-0.2 = 0.33.
    assert_eq!(outcome(0.0, 1.0), (4, 1));
    assert_eq!(outcome(1.0, 1.0), (4, 2));
    // 0.6 * e^-0.18 = 0.501 against 0.5, and 0.6 * e^-0.36 = 0.42.
    assert_eq!([outcome(0.1, 0.0), outcome(0.2, 0.0)], [(3, 1), (3, 2)]);
    // 0.9 * e^-0.38 = 0.62 is the best, and 0.9 * e^-1.9 = 0.13 the worst.
    assert_eq!([outcome(0.0, 0.1), outcome(0.0, 0.5)], [(3, 1), (4, 1)]);
}

#[test]
fn where_the_beams_take_all_the_room_the_worst_make_way_and_the_best_go_on() {
    for variant in [Variant::Plain, Variant::Diverse, Variant::Balanced(10.0)] {
        let mut search = search(Beam { variant, ..settings() });
        let (works, _) = asked(&mut search);
        for (work, score) in works.iter().zip([0.2, 0.9, 0.1, 0.3]) {
            search.tell(work.id, Outcome::Grown(step(work.node.0, score)));
        }
        // Room for two branches, and the kept ones are two at least.
        let mut alive: Vec<u32> = (1..5).collect();
        let mut forked = Vec::new();
        while forked.is_empty() {
            for work in search.ask(2usize.saturating_sub(alive.len())) {
                match work {
                    Work::Retire(node) => alive.retain(|id| *id != node.0),
                    Work::Extend(extend) => forked.push(extend.fork),
                }
            }
        }
        assert_eq!((alive, forked), (vec![2], vec![Some(NodeId(2))]), "{variant:?}");
    }
}

#[test]
fn in_a_short_room_the_best_parents_candidates_come_first() {
    let mut search = search(settings());
    let (works, _) = asked(&mut search);
    for (work, score) in works.iter().zip([0.8, 0.1, 0.2, 0.9]) {
        search.tell(work.id, Outcome::Grown(step(work.node.0, score)));
    }
    // 1 and 4 are kept, in a room of four: each gets a candidate, and one then
    // has all that it was to have.
    assert_eq!(search.ask(0).len(), 2, "those that are not kept are given up");
    let works: Vec<Extend> = search.ask(2).iter().map(super::super::chain::tests::extend).collect();
    assert_eq!(forks(&works), [(5, 4), (6, 1)]);
    for work in &works {
        search.tell(work.id, Outcome::Grown(step(work.node.0, 0.5)));
    }
    // The best one's other candidate takes the place of the worse beam.
    assert_eq!(search.ask(0), [Work::Retire(NodeId(1))]);
    let works: Vec<Extend> = search.ask(1).iter().map(super::super::chain::tests::extend).collect();
    assert_eq!(forks(&works), [(7, 4)]);
}

#[test]
fn where_nothing_comes_of_a_level_the_best_beam_is_completed() {
    let mut search = search(settings());
    let (works, _) = asked(&mut search);
    let told = [step(1, 0.3), step(2, 0.9), step(3, 0.2), step(4, 0.8)];
    let (works, _) = level(&mut search, &works, &told);
    for work in &works {
        search.tell(work.id, Outcome::Abandoned);
    }
    let (works, retired) = asked(&mut search);
    assert_eq!((works[0].until, works[0].score), (Until::End, false));
    assert_eq!((forks(&works), retired), (vec![(9, 2)], vec![4]), "2 is the better one");
}

#[test]
fn a_rollout_of_which_nothing_comes_is_not_begun_again() {
    let mut search = search(Beam { width: 1, expansion: 1, lookahead: 2, ..settings() });
    let (works, _) = asked(&mut search);
    let (works, _) = level(&mut search, &works, &[step(1, 0.9)]);
    assert_eq!((forks(&works), works[0].greedy), (vec![(2, 1)], true));
    let silent = Grown { tokens: 0, ids: Vec::new(), ..step(2, 0.9) };
    search.tell(works[0].id, Outcome::Grown(silent));
    assert_eq!(search.ask(100), [Work::Retire(NodeId(2))], "it keeps no room, whether that is short or not");
    let (works, _) = asked(&mut search);
    assert_eq!((forks(&works), works[0].greedy), (vec![(3, 1)], false), "the next level's candidate");
}

/// A search that may make so many branches, with a marker to inject.
fn bounded(beam: Beam, branches: u32) -> BeamSearch {
    let budget =
        Budget { tokens: 2_000, reserve: 20, branches, branch_tokens: 500, sample: 1, verifier_tokens: None };
    BeamSearch::new(beam, budget, Some(marker()))
}

/// Goes on for three more levels from there, each branch on its own, and has them end.
fn goes_on_to_its_end(search: &mut BeamSearch, mut works: Vec<Extend>) {
    for depth in 0..4 {
        assert!(!works.is_empty(), "at level {depth}");
        assert!(works.iter().all(|work| work.until == Until::Step && !work.greedy), "{works:?}");
        let outcomes: Vec<Grown> = (0..)
            .zip(&works)
            .map(|(word, _)| if depth == 3 { end(word, 0.5, "4") } else { step(word, 0.5) })
            .collect();
        (works, _) = level(search, &works, &outcomes);
        assert!(works.iter().all(|work| work.fork.is_none() && work.inject.is_empty()), "{works:?}");
    }
    assert!(works.is_empty() && search.is_done());
    assert!(search.answer().is_some_and(|answer| answer.complete));
    assert_eq!(search.starved(), Some(Scarce::Branches));
}

#[test]
fn rollouts_do_not_take_the_branches_of_their_candidates() {
    let mut search = bounded(Beam { lookahead: 1, ..settings() }, 6);
    let (works, _) = asked(&mut search);
    let told = [step(1, 0.9), step(2, 0.8), step(3, 0.3), step(4, 0.2)];
    let (works, _) = level(&mut search, &works, &told);
    assert_eq!(forks(&works), [(5, 1), (6, 2)], "the last two branches; 3 and 4 are worth their own scores");
    let (works, retired) = level(&mut search, &works, &[step(5, 0.7), step(6, 0.6)]);
    // The rollouts were the next level's candidates, and go on themselves.
    assert_eq!((forks(&works), retired), (vec![(5, u32::MAX), (6, u32::MAX)], vec![1, 2, 3, 4]));
    goes_on_to_its_end(&mut search, works);
}

#[test]
fn a_rollout_that_is_the_only_candidate_of_the_next_level_is_gone_on_with() {
    let mut search = bounded(Beam { expansion: 1, lookahead: 1, ..settings() }, 4);
    let (works, _) = asked(&mut search);
    let (works, _) = level(&mut search, &works, &[step(1, 0.9), step(2, 0.8)]);
    assert_eq!(forks(&works), [(3, 1), (4, 2)]);
    let (works, _) = level(&mut search, &works, &[step(3, 0.7), step(4, 0.6)]);
    assert_eq!(forks(&works), [(3, u32::MAX), (4, u32::MAX)]);
    goes_on_to_its_end(&mut search, works);
}

#[test]
fn completions_leave_a_branch_for_each_beam_and_without_them_the_likeliest_go_on() {
    let mut search = bounded(Beam { scoring: Scoring::Rollouts(2), ..settings() }, 6);
    let (works, _) = asked(&mut search);
    let likely = |word, mean_logprob| Grown { mean_logprob, ..step(word, f64::NAN) };
    let told = [likely(1, -3.0), likely(2, -1.0), likely(3, -4.0), likely(4, -2.0)];
    let (works, retired) = level(&mut search, &works, &told);
    assert_eq!((forks(&works), retired), (vec![(5, 2), (6, 2), (4, u32::MAX)], vec![1, 3]));
    goes_on_to_its_end(&mut search, works);
    // One branch more is one completion's.
    let mut search = bounded(Beam { scoring: Scoring::Rollouts(2), ..settings() }, 7);
    let (works, _) = asked(&mut search);
    let (works, _) = level(&mut search, &works, &told);
    assert_eq!((forks(&works), works[0].until), (vec![(5, 1)], Until::End));
    let (works, _) = level(&mut search, &works, &[end(5, 0.0, "4")]);
    assert_eq!(forks(&works), [(6, 1), (7, 1), (2, u32::MAX)], "1 agrees with the leading answer");
}

#[test]
fn a_candidate_that_says_nothing_has_no_rollouts() {
    let silent = Grown { tokens: 0, ids: Vec::new(), ..step(1, 0.9) };
    for beam in [Beam { lookahead: 1, ..settings() }, Beam { scoring: Scoring::Rollouts(2), ..settings() }] {
        let mut search = search(Beam { width: 1, expansion: 2, ..beam });
        let (works, _) = asked(&mut search);
        let (works, _) = level(&mut search, &works, &[silent.clone(), step(2, 0.5)]);
        assert!(!works.is_empty() && works.iter().all(|work| work.fork == Some(NodeId(2))), "{works:?}");
    }
}

#[test]
fn every_candidate_gets_its_completions_however_early_the_others_landed() {
    let budget = Budget {
        tokens: 60,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    let beam = Beam { width: 1, scoring: Scoring::Rollouts(2), ..settings() };
    let mut search = BeamSearch::new(Beam { steps: Steps { tokens: 5, ..beam.steps }, ..beam }, budget, None);
    let (works, _) = asked(&mut search);
    search.tell(works[0].id, Outcome::Grown(step(1, f64::NAN)));
    // 53 tokens are left for its two completions and for two of the other's.
    let (first, _) = asked(&mut search);
    assert_eq!(first.iter().map(|work| work.max_tokens).collect::<Vec<_>>(), [13, 13]);
    search.tell(works[1].id, Outcome::Grown(step(2, f64::NAN)));
    let (second, _) = asked(&mut search);
    assert_eq!(second.iter().map(|work| work.max_tokens).collect::<Vec<_>>(), [15, 15]);
}

#[test]
fn orders_wait_for_what_is_in_flight_where_it_was_granted_everything() {
    let budget = Budget {
        tokens: 32,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    let steps = Steps { tokens: 16, ..settings().steps };
    let mut search = BeamSearch::new(Beam { width: 1, lookahead: 1, steps, ..settings() }, budget, None);
    let (works, _) = asked(&mut search);
    assert_eq!(works.iter().map(|work| work.max_tokens).collect::<Vec<_>>(), [16, 16]);
    search.tell(works[0].id, Outcome::Grown(Grown { tokens: 16, ids: vec![7; 16], ..step(7, 0.9) }));
    assert!(asked(&mut search).0.is_empty(), "nothing is left for its rollout yet");
    search.tell(works[1].id, Outcome::Grown(step(2, 0.5)));
    let (works, _) = asked(&mut search);
    assert_eq!(forks(&works), [(3, 1), (4, 2)]);
    assert_eq!(works.iter().map(|work| work.max_tokens).collect::<Vec<_>>(), [7, 7]);
}

#[test]
fn equal_steps_of_different_subtrees_are_two() {
    let mut search = search(Beam { variant: Variant::Diverse, ..settings() });
    let (works, _) = asked(&mut search);
    let told = [step(1, 0.9), step(1, 0.9), step(1, 0.9), step(2, 0.1)];
    let (works, retired) = level(&mut search, &works, &told);
    // 1 and 3 are of the first subtree, 2 and 4 of the second.
    assert_eq!((forks(&works), retired), (vec![(5, 1), (6, 1), (7, 2), (8, 2)], vec![3, 4]));
}

#[test]
fn a_candidate_that_will_be_merged_has_no_rollouts_of_its_own() {
    for beam in [Beam { lookahead: 1, ..settings() }, Beam { scoring: Scoring::Rollouts(2), ..settings() }] {
        let mut search = search(Beam { width: 1, expansion: 3, ..beam });
        let (works, _) = asked(&mut search);
        let (works, _) = level(&mut search, &works, &[step(1, 0.9), step(1, 0.9), step(2, 0.5)]);
        assert!(works.iter().all(|work| work.fork != Some(NodeId(2))), "{works:?}");
        assert!(works.iter().any(|work| work.fork == Some(NodeId(3))));
    }
}

#[test]
fn a_rollout_at_the_depth_limit_is_brought_to_its_end() {
    let steps = Steps { most: 3, ..settings().steps };
    let mut search = search(Beam { width: 1, expansion: 1, lookahead: 3, steps, ..settings() });
    let (works, _) = asked(&mut search);
    let (works, _) = level(&mut search, &works, &[step(1, 0.9)]);
    assert_eq!(works[0].until, Until::Step);
    let (works, _) = level(&mut search, &works, &[step(2, 0.9)]);
    assert_eq!((works[0].until, works[0].greedy), (Until::End, true));
}
