//! Known answers of the vote, and exact numbers of the rounds.

use super::super::chain::tests::{complete, cut, extend, marker};
use super::super::{Grown, NodeId};
use super::*;
use crate::plan::Measure;
use crate::verify::Aggregate;

pub(in crate::search) fn budget(tokens: u32, reserve: u32, branches: u32) -> Budget {
    Budget { tokens, reserve, branches, branch_tokens: 2_000, sample: 1, verifier_tokens: None }
}

fn plain(branches: u32) -> Voting {
    Voting { branches, wave: branches, stop: VoteStop::Fixed, weight: Weight::Count, likelihood: 0.0 }
}

fn voters(branches: u32, tokens: u32, reserve: u32) -> SelfConsistency {
    SelfConsistency::new(plain(branches), budget(tokens, reserve, branches), Some(marker()))
}

fn boxed(answer: &str) -> String {
    format!("The answer is \\boxed{{{answer}}}.")
}

/// A vote among complete chains, given their answers and log-probabilities.
fn vote(chains: &[(&str, f64)]) -> u32 {
    let branches = chains.len() as u32;
    let mut strategy = voters(branches, branches * 10, 0);
    assert_eq!(strategy.ask(chains.len()).len(), chains.len());
    // Told in the opposite order: the vote must not depend on it.
    for (id, (answer, logprob)) in chains.iter().enumerate().rev() {
        let text = if answer.is_empty() { "no answer".to_owned() } else { boxed(answer) };
        strategy.tell(id as u64, complete(10, &text, *logprob));
    }
    assert!(strategy.ask(chains.len()).is_empty() && strategy.is_done());
    let answer = strategy.answer().expect("there is text");
    assert!(answer.complete);
    answer.node.0
}

fn grants(works: &[Work]) -> Vec<(u32, u32)> {
    works.iter().map(extend).map(|work| (work.node.0, work.max_tokens)).collect()
}

/// Else only those would vote that are shorter than most.
#[test]
fn where_tokens_are_short_chains_begin_with_what_others_leave_and_few_are_cut() {
    let budget = Budget { sample: 20, ..budget(120, 20, 8) };
    let mut strategy = SelfConsistency::new(plain(8), budget, Some(marker()));
    assert_eq!(grants(&strategy.ask(9)), [(1, 40), (2, 40)], "twice a sample each, of 100");
    assert!(strategy.ask(9).is_empty());
    strategy.tell(0, complete(10, &boxed("1"), -1.0));
    assert_eq!(grants(&strategy.ask(9)), [(3, 40)]);
    strategy.tell(1, cut(40, "long", -1.0));
    strategy.tell(2, complete(15, &boxed("1"), -1.0));
    // 35 are left: more than a sample, and nothing is in flight that could leave more.
    assert_eq!(grants(&strategy.ask(9)), [(4, 35)]);
    strategy.tell(3, complete(21, &boxed("2"), -1.0));
    // What is less than a sample goes to the one that was cut.
    assert_eq!(grants(&strategy.ask(9)), [(2, 14)]);
    strategy.tell(4, complete(5, &boxed("2"), -1.0));
    assert!(strategy.ask(9).iter().all(|work| matches!(work, Work::Retire(_))) && strategy.is_done());
    assert_eq!((strategy.candidates().len(), strategy.starved()), (4, Some(Scarce::Tokens)));
}

#[test]
fn the_majority_wins_and_its_likeliest_member_speaks() {
    assert_eq!(vote(&[("1", -0.1), ("2", -3.0), ("2", -2.0), ("3", -0.1)]), 3);
    assert_eq!(vote(&[("2", -2.0), ("1", -0.1), ("2", -3.0)]), 1);
    // Equal members: the first.
    assert_eq!(vote(&[("1", -0.1), ("2", -2.0), ("2", -2.0)]), 2);
    // No log-probability is below any.
    assert_eq!(vote(&[("2", f64::NAN), ("1", -0.1), ("2", -9.0)]), 3);
}

#[test]
fn answers_that_are_written_differently_are_one_class() {
    assert_eq!(vote(&[("1", -0.1), ("4", -2.0), ("\\text{ 4 }", -1.0)]), 3);
}

#[test]
fn among_equal_classes_the_one_seen_first_wins() {
    assert_eq!(vote(&[("1", -5.0), ("2", -0.1)]), 1);
    assert_eq!(vote(&[("3", -0.1), ("1", -5.0), ("2", -0.1), ("2", -0.3), ("1", -4.0)]), 5);
}

#[test]
fn a_chain_without_an_answer_has_no_vote() {
    assert_eq!(vote(&[("", -0.1), ("", -0.1), ("7", -8.0)]), 3);
    assert_eq!(vote(&[("", -2.0), ("", -1.0), ("", f64::NAN)]), 2);
}

/// Else two would be cut where one has room to end.
#[test]
fn where_tokens_are_short_a_first_chain_that_is_cut_goes_on_before_another_begins() {
    let budget = Budget { sample: 20, ..budget(80, 20, 3) };
    let mut strategy = SelfConsistency::new(plain(3), budget, Some(marker()));
    assert_eq!(grants(&strategy.ask(9)), [(1, 40)]);
    strategy.tell(0, cut(40, "long", -1.0));
    // 20 of 60 are left, which a chain that ends would leave for another.
    assert_eq!(grants(&strategy.ask(9)), [(1, 20)]);
    strategy.tell(1, complete(12, &boxed("1"), -1.0));
    assert!(strategy.ask(9).is_empty() && strategy.is_done());
    assert_eq!((strategy.candidates().len(), strategy.starved()), (1, Some(Scarce::Tokens)));
    // Where it ends early enough, another begins.
    let mut strategy = SelfConsistency::new(plain(3), Budget { tokens: 95, ..budget }, Some(marker()));
    assert_eq!(grants(&strategy.ask(9)), [(1, 40)]);
    strategy.tell(0, cut(40, "long", -1.0));
    assert_eq!(grants(&strategy.ask(9)), [(1, 35)]);
    strategy.tell(1, complete(10, &boxed("1"), -1.0));
    assert_eq!(grants(&strategy.ask(9)), [(2, 25)]);
    strategy.tell(2, complete(20, &boxed("1"), -1.0));
    assert!(strategy.ask(9).is_empty() && strategy.is_done());
    assert_eq!(strategy.candidates().len(), 2);
}

#[test]
fn a_cut_chain_has_no_vote_and_no_say_beside_a_complete_one() {
    let mut strategy = voters(3, 60, 12);
    strategy.ask(3);
    strategy.tell(0, cut(16, &boxed("9"), -0.1));
    strategy.tell(1, cut(16, &boxed("9"), -0.1));
    assert_eq!(strategy.answer(), Some(Answer { node: NodeId(1), complete: false }));
    strategy.tell(2, complete(16, "no answer", -7.0));
    assert_eq!(strategy.answer(), Some(Answer { node: NodeId(3), complete: true }));
}

#[test]
fn cut_chains_share_what_early_finishers_leave() {
    // 100 less 10 for the reserve: 23, 23, 22, 22.
    let mut strategy = voters(4, 100, 10);
    assert_eq!(grants(&strategy.ask(4)), [(1, 23), (2, 23), (3, 22), (4, 22)]);
    strategy.tell(0, complete(5, &boxed("1"), -1.0));
    strategy.tell(1, cut(23, "b", -1.0));
    strategy.tell(2, cut(22, "c", -1.0));
    assert!(strategy.ask(4).is_empty(), "the round is not over");
    strategy.tell(3, complete(7, &boxed("2"), -1.0));
    // Spent 57; 90 - 57 = 33 for two.
    let works = strategy.ask(4);
    assert_eq!(grants(&works), [(3, 17), (2, 16)], "the shortest first");
    assert!(works.iter().map(extend).all(|work| work.inject.is_empty() && work.fork.is_none()));
    strategy.tell(5, complete(2, &boxed("2"), -1.0));
    strategy.tell(4, cut(17, "cc", -1.0));
    // 14 are left for the one that is still cut.
    assert_eq!(grants(&strategy.ask(4)), [(3, 14)]);
    strategy.tell(6, cut(14, "ccc", -1.0));
    // Others are complete: it is given up, and the reserve is not touched.
    assert_eq!(strategy.ask(4), [Work::Retire(NodeId(3))]);
    assert!(strategy.ask(4).is_empty() && strategy.is_done());
    assert_eq!(
        strategy.answer().map(|answer| answer.node),
        Some(NodeId(2)),
        "the likeliest of class 2, first"
    );
}

#[test]
fn fewer_tokens_than_cut_chains_go_to_the_shortest_of_them() {
    let mut strategy = voters(3, 31, 1);
    strategy.ask(3);
    for id in 0..2 {
        strategy.tell(id, cut(10, "a", -1.0));
    }
    strategy.tell(2, cut(9, "a", -1.0));
    assert_eq!(grants(&strategy.ask(3)), [(3, 1)]);
}

#[test]
fn when_all_are_cut_the_likeliest_is_completed_within_the_reserve() {
    let mut strategy = voters(2, 40, 10);
    assert_eq!(grants(&strategy.ask(2)), [(1, 15), (2, 15)]);
    strategy.tell(0, cut(15, "a", -2.0));
    strategy.tell(1, cut(15, "b\n\n", -1.0));
    let works = strategy.ask(2);
    assert_eq!(works[0], Work::Retire(NodeId(1)));
    let last = extend(&works[1]);
    assert_eq!((last.node, last.max_tokens, last.inject), (NodeId(2), 10, vec![1, 2, 3]));
    strategy.tell(last.id, cut(10, "b\n\nThe answer is", -1.0));
    assert_eq!(strategy.ask(2), [Work::Retire(NodeId(2))]);
    assert!(strategy.ask(2).is_empty() && strategy.is_done());
    assert_eq!(strategy.answer(), Some(Answer { node: NodeId(2), complete: false }));
}

#[test]
fn with_all_room_taken_the_least_likely_cut_chain_makes_way() {
    let mut strategy = voters(4, 80, 8);
    assert_eq!(grants(&strategy.ask(2)), [(1, 18), (2, 18)]);
    strategy.tell(0, cut(18, "a", -1.0));
    assert!(strategy.ask(0).is_empty(), "one is in flight");
    strategy.tell(1, cut(18, "b", -2.0));
    assert_eq!(strategy.ask(0), [Work::Retire(NodeId(2))]);
    assert_eq!(grants(&strategy.ask(1)), [(3, 18)]);
}

#[test]
fn chains_that_add_nothing_are_given_up_and_make_room() {
    let mut strategy = voters(3, 60, 9);
    strategy.ask(1);
    strategy.tell(0, cut(0, "", f64::NAN));
    assert_eq!(strategy.ask(0), [Work::Retire(NodeId(1))]);
    assert_eq!(strategy.ask(1).len(), 1);
    strategy.tell(1, complete(3, &boxed("1"), -1.0));
    strategy.ask(1);
    strategy.tell(2, cut(0, "", f64::NAN));
    assert_eq!(strategy.ask(0), [Work::Retire(NodeId(3))]);
    assert!(strategy.ask(0).is_empty() && strategy.is_done());
}

#[test]
fn there_are_no_more_chains_than_tokens_or_branches() {
    let mut strategy = voters(8, 4, 1);
    let begun = |strategy: &mut SelfConsistency| {
        let works = strategy.ask(8);
        works.iter().map(extend).filter(|work| work.fork.is_some()).map(|work| work.id).collect::<Vec<_>>()
    };
    assert_eq!(begun(&mut strategy), [0], "a chain has two tokens rather than one");
    strategy.tell(0, complete(1, &boxed("1"), -1.0));
    assert_eq!(begun(&mut strategy), [1]);
    strategy.tell(1, complete(1, &boxed("2"), -1.0));
    assert_eq!(begun(&mut strategy), [2]);
    strategy.tell(2, complete(1, &boxed("2"), -1.0));
    assert!(strategy.ask(8).is_empty() && strategy.is_done());
    let budget = Budget { branch_tokens: 20, ..budget(90, 0, 3) };
    assert_eq!(grants(&SelfConsistency::new(plain(8), budget, None).ask(8)), [(1, 20), (2, 20), (3, 20)]);
}

pub(in crate::search) fn scored(tokens: u32, answer: &str, mean_logprob: f64, scores: &[f64]) -> Outcome {
    match complete(tokens, &boxed(answer), mean_logprob) {
        Outcome::Grown(grown) => Outcome::Grown(Grown { scores: Some(scores.to_vec()), ..grown }),
        Outcome::Abandoned => Outcome::Abandoned,
    }
}

#[test]
fn a_vote_that_the_rest_cannot_change_is_over_at_once() {
    let mut strategy = voters(5, 100, 0);
    assert_eq!(strategy.ask(5).len(), 5);
    for id in 0..2 {
        strategy.tell(id, complete(5, &boxed("4"), -1.0));
        assert!(!strategy.is_done());
    }
    strategy.tell(2, complete(5, &boxed("4"), -1.0));
    assert!(strategy.is_done() && strategy.ask(5).is_empty(), "three of five");
    assert_eq!(strategy.answer(), Some(Answer { node: NodeId(1), complete: true }));
    // A tie is not decided.
    let mut strategy = voters(4, 100, 0);
    strategy.ask(4);
    for id in 0..2 {
        strategy.tell(id, complete(5, &boxed("4"), -1.0));
    }
    assert!(!strategy.is_done());
    // Weights are at most 1 each: 0.9 + 0.9 does not outweigh two to come.
    let weight = Weight::Score(Aggregate::Last);
    let mut strategy = SelfConsistency::new(Voting { weight, ..plain(4) }, budget(100, 0, 4), None);
    strategy.ask(4);
    for id in 0..2 {
        strategy.tell(id, scored(5, "4", -1.0, &[0.9]));
    }
    assert!(!strategy.is_done());
    strategy.tell(2, scored(5, "5", -1.0, &[0.1]));
    assert!(strategy.is_done(), "1.8 to 0.1 with one to come");
}

/// A vote by score in which likelihood counts to that power.
fn weighted(branches: u32, likelihood: f64, tokens: u32) -> SelfConsistency {
    let weight = Weight::Score(Aggregate::Last);
    let mut strategy = SelfConsistency::new(
        Voting { weight, likelihood, ..plain(branches) },
        budget(tokens, 0, branches),
        None,
    );
    assert_eq!(strategy.ask(branches as usize).len(), branches as usize);
    strategy
}

#[test]
fn a_vote_in_which_likelihood_counts_is_over_once_no_chain_can_be_likely_enough() {
    // Ten tokens at -0.05 to the power of 0.1: 0.9 * e^-0.05 = 0.856, twice.
    let mut strategy = weighted(3, 0.1, 100);
    strategy.tell(0, scored(10, "4", -0.05, &[0.9]));
    assert!(!strategy.is_done());
    strategy.tell(1, scored(10, "4", -0.05, &[0.9]));
    assert!(strategy.is_done() && strategy.is_decided(), "1.71 against 1 at most");
    // The rival's part is taken off: 1.71 - 0.76.
    let mut strategy = weighted(4, 0.1, 100);
    for (id, (answer, score)) in [("4", 0.9), ("4", 0.9), ("5", 0.8)].into_iter().enumerate() {
        strategy.tell(id as u64, scored(10, answer, -0.05, &[score]));
    }
    assert!(!strategy.is_done());
}

#[test]
fn a_likelier_chain_to_come_can_outweigh_two_unlikely_ones() {
    // 0.9 * e^-0.6 = 0.494, twice, is less than 1, though each is the likeliest so far.
    let mut strategy = weighted(3, 0.1, 100);
    for id in 0..2 {
        strategy.tell(id, scored(10, "4", -0.6, &[0.9]));
        assert!(!strategy.is_done());
    }
    strategy.tell(2, scored(10, "5", 0.0, &[1.0]));
    while !strategy.ask(3).is_empty() {}
    assert_eq!(strategy.answer().map(|answer| answer.node), Some(NodeId(3)));
}

#[test]
fn likelihoods_too_small_for_a_number_still_decide_a_vote_that_is_complete() {
    // e^-1000 is 0 as a number, and what a chain to come may weigh beside it infinite.
    let mut strategy = weighted(2, 0.1, 4_000);
    strategy.tell(0, scored(2_000, "4", -5.0, &[0.9]));
    assert!(!strategy.is_done());
    strategy.tell(1, scored(2_000, "4", -5.0, &[0.9]));
    assert!(strategy.is_done() && strategy.is_decided());
}

#[test]
fn a_vote_is_not_decided_by_what_chains_without_a_score_weigh_for_now() {
    let mut strategy = weighted(10, 0.0, 100);
    for id in 0..6 {
        strategy.tell(id, scored(10, "4", -1.0, &[0.4]));
    }
    // Three at the mean of 0.4 leave a lead of 1.2 with one to come.
    for id in 6..9 {
        strategy.tell(id, complete(10, &boxed("5"), -1.0));
        assert!(!strategy.is_done());
    }
    // That raises the mean: 3 * 0.486 + 1 against 2.4.
    strategy.tell(9, scored(10, "5", -1.0, &[1.0]));
    while !strategy.ask(10).is_empty() {}
    assert_eq!(strategy.answer().map(|answer| answer.node), Some(NodeId(10)));
}

#[test]
fn an_adaptive_vote_stops_by_the_posterior_after_a_wave() {
    let adaptive = Voting { wave: 4, stop: VoteStop::Posterior(0.95), ..plain(16) };
    let mut strategy = SelfConsistency::new(adaptive, budget(1_600, 0, 16), None);
    assert_eq!(grants(&strategy.ask(12)), [(1, 100), (2, 100), (3, 100), (4, 100)]);
    for (id, answer) in ["4", "4", "4", "5"].into_iter().enumerate() {
        assert!(strategy.ask(12).is_empty(), "the wave is not over");
        strategy.tell(id as u64, complete(10, &boxed(answer), -1.0));
    }
    // Three to one is not enough; six to one is (the published table).
    assert_eq!(strategy.ask(12).len(), 4);
    for (id, answer) in ["4", "4", "4", "6"].into_iter().enumerate() {
        strategy.tell(4 + id as u64, complete(10, &boxed(answer), -1.0));
    }
    assert!(strategy.ask(12).is_empty() && strategy.is_done());
    assert_eq!(strategy.candidates().len(), 8);
    let mut strategy = SelfConsistency::new(adaptive, budget(1_600, 0, 16), None);
    strategy.ask(12);
    (0..4).for_each(|id| strategy.tell(id, complete(10, &boxed("4"), -1.0)));
    assert!(strategy.ask(12).is_empty() && strategy.is_done(), "four to none");
}

#[test]
fn an_adaptive_vote_stops_by_the_vote_that_chooses() {
    // Six unlikely chains of one answer beside a likely one of another.
    let goes_on = |likelihood| {
        let stop = VoteStop::Posterior(0.95);
        let adaptive = Voting { wave: 7, stop, likelihood, ..plain(16) };
        let mut strategy = SelfConsistency::new(adaptive, budget(160, 0, 16), None);
        assert_eq!(strategy.ask(16).len(), 7);
        for id in 0..6 {
            strategy.tell(id, complete(10, &boxed("1"), -3.0));
        }
        strategy.tell(6, complete(10, &boxed("2"), -0.3));
        let goes_on = !strategy.ask(16).is_empty();
        (strategy.answer().map(|answer| answer.node), goes_on)
    };
    assert_eq!(goes_on(0.0), (Some(NodeId(1)), false));
    assert_eq!(goes_on(0.1), (Some(NodeId(7)), true), "what leads is not sure yet");
}

#[test]
fn a_window_stops_once_a_whole_wave_agrees() {
    let window = Voting { wave: 2, stop: VoteStop::Window, ..plain(12) };
    let mut strategy = SelfConsistency::new(window, budget(1_200, 0, 12), None);
    let mut wave = |answers: [&str; 2], first: u64| {
        assert_eq!(strategy.ask(12).len(), 2);
        for (id, answer) in answers.into_iter().enumerate() {
            let text = if answer.is_empty() { "who knows".to_owned() } else { boxed(answer) };
            strategy.tell(first + id as u64, complete(10, &text, -1.0));
        }
        strategy.is_done()
    };
    // Neither two answers nor the lack of one are agreement, nor is agreement
    // across waves.
    assert!(!wave(["4", "5"], 0) && !wave(["5", "4"], 2) && !wave(["", ""], 4) && !wave(["6", "6"], 6));
    assert!(strategy.ask(12).is_empty() && strategy.is_done() && strategy.is_decided());
    // Two said 4, and two 5; the window's answer is what it agreed on.
    assert_eq!(strategy.answer().map(|answer| answer.node), Some(NodeId(7)));
}

/// Tells answers, a letter each, as windows of four; whether the vote is over
/// after each of them, and which answer it gives then.
fn windows(branches: u32, answers: &str) -> (Vec<bool>, Option<String>) {
    let window = Voting { wave: 4, stop: VoteStop::Window, ..plain(branches) };
    let mut strategy = SelfConsistency::new(window, budget(1_600, 0, branches), None);
    let mut over = Vec::new();
    for (id, answer) in answers.chars().enumerate() {
        if id % 4 == 0 {
            assert!(!strategy.ask(16).is_empty(), "chain {id} is still to begin");
        }
        strategy.tell(id as u64, complete(10, &boxed(&answer.to_string()), -1.0));
        over.push(strategy.is_done());
    }
    while !strategy.ask(16).is_empty() {}
    let chosen = strategy.candidates().into_iter().find(|candidate| candidate.selected);
    (over, chosen.and_then(|candidate| candidate.answer))
}

#[test]
fn the_last_window_gives_its_answer_too_and_the_rest_of_one_does_not() {
    assert_eq!(windows(12, "AAABAAABBBBB").1.as_deref(), Some("B"), "six each, and a window of B");
    assert_eq!(windows(12, "AAABAAABAAAB").1.as_deref(), Some("A"), "no window, so the vote");
    assert_eq!(windows(10, "AAABAABBBB").1.as_deref(), Some("A"), "two are no window: five each");
}

#[test]
fn a_decided_vote_goes_on_while_a_window_may_agree_on_another_answer() {
    // Nine to two with five to come, of which a window is four.
    let (over, answer) = windows(16, "AAABAAABAAACBBBB");
    assert_eq!((over.iter().position(|over| *over), answer.as_deref()), (None, Some("B")));
    // Six to two with three to come: the last window says B until it says A.
    let (over, answer) = windows(12, "AAABAAACBBA");
    assert_eq!((over.iter().position(|over| *over), answer.as_deref()), (Some(10), Some("A")));
    // One that is spoilt another way cannot agree either.
    let (over, answer) = windows(12, "AAABAAACBD");
    assert_eq!((over.iter().position(|over| *over), answer.as_deref()), (Some(9), Some("A")));
}

#[test]
fn a_chain_that_was_cut_does_not_matter_to_a_vote_that_is_decided() {
    let mut strategy = SelfConsistency::new(plain(5), budget(500, 0, 5), None);
    assert_eq!(strategy.ask(5).len(), 5);
    strategy.tell(0, cut(100, "so", -1.0));
    strategy.tell(1, complete(10, &boxed("4"), -1.0));
    strategy.tell(2, complete(10, &boxed("4"), -1.0));
    assert!(!strategy.is_decided() && !strategy.is_done());
    strategy.tell(3, complete(10, &boxed("4"), -1.0));
    assert!(strategy.is_decided() && strategy.is_done());
}

#[test]
fn a_vote_by_confidence_weighs_the_trace() {
    let measure = Measure { over: crate::plan::Over::Mean, window: 2 };
    let vote = Voting { weight: Weight::Confidence(measure), ..plain(3) };
    let mut strategy = SelfConsistency::new(vote, budget(100, 0, 3), None);
    strategy.ask(3);
    for (id, (answer, confidence)) in [("1", 9.0), ("2", 4.0), ("2", 4.5)].into_iter().enumerate() {
        let Outcome::Grown(grown) = complete(9, &boxed(answer), -1.0) else { panic!("it has grown") };
        let confidences = vec![confidence; 4];
        strategy.tell(id as u64, Outcome::Grown(Grown { confidences, ..grown }));
    }
    while !strategy.ask(3).is_empty() {}
    assert_eq!(strategy.answer().map(|answer| answer.node), Some(NodeId(1)), "9 against 8.5");
    assert_eq!(strategy.candidates()[2].score, Some(4.5));
}

#[test]
fn a_chain_without_a_score_weighs_what_the_others_do() {
    let vote = Voting { weight: Weight::Score(Aggregate::Last), ..plain(3) };
    let mut strategy = SelfConsistency::new(vote, budget(100, 0, 3), None);
    strategy.ask(3);
    strategy.tell(0, scored(9, "1", -1.0, &[0.9]));
    strategy.tell(1, scored(9, "2", -1.0, &[0.5]));
    let Outcome::Grown(grown) = complete(9, &boxed("2"), -1.0) else { panic!("it has grown") };
    strategy.tell(2, Outcome::Grown(Grown { unscored: true, ..grown }));
    while !strategy.ask(3).is_empty() {}
    // 0.9 against 0.5 and the mean of both.
    assert_eq!(strategy.answer().map(|answer| answer.node), Some(NodeId(3)));
    assert!((strategy.candidates()[2].score.unwrap_or(0.0) - 0.7).abs() < 1e-12);
}

#[test]
fn confidences_are_no_votes_of_their_own_to_the_posterior() {
    let measure = Measure { over: crate::plan::Over::Mean, window: 2 };
    let weight = Weight::Confidence(measure);
    let adaptive = Voting { wave: 2, stop: VoteStop::Posterior(0.95), weight, ..plain(8) };
    let mut strategy = SelfConsistency::new(adaptive, budget(800, 0, 8), None);
    for wave in [0, 2] {
        assert_eq!(strategy.ask(8).len(), 2, "two agree, which is not enough");
        for id in wave..wave + 2 {
            let Outcome::Grown(grown) = complete(9, &boxed("4"), -1.0) else { panic!("it has grown") };
            strategy.tell(id, Outcome::Grown(Grown { confidences: vec![15.0; 4], ..grown }));
        }
    }
    assert!(strategy.ask(8).is_empty() && strategy.is_done(), "four do, which is");
}

#[test]
fn a_cut_chain_leaves_their_shares_to_those_that_have_not_begun() {
    let adaptive = Voting { wave: 2, stop: VoteStop::Posterior(0.95), ..plain(4) };
    let mut strategy = SelfConsistency::new(adaptive, budget(100, 0, 4), None);
    assert_eq!(grants(&strategy.ask(4)), [(1, 25), (2, 25)]);
    strategy.tell(0, complete(5, &boxed("4"), -1.0));
    strategy.tell(1, cut(25, "so", -1.0));
    assert_eq!(grants(&strategy.ask(3)), [(2, 20)], "what the first left");
    strategy.tell(2, cut(20, "so", -1.0));
    assert_eq!(grants(&strategy.ask(3)), [(3, 25), (4, 25)]);
    strategy.tell(3, complete(5, &boxed("5"), -1.0));
    strategy.tell(4, complete(5, &boxed("6"), -1.0));
    assert_eq!(grants(&strategy.ask(3)), [(2, 40)], "all have begun");
}
