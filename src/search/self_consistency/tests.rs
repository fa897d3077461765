//! Known answers of the vote, and exact numbers of the rounds.

use super::super::chain::tests::{complete, cut, extend, marker};
use super::*;

fn voters(branches: u32, tokens: u32, reserve: u32) -> SelfConsistency {
    let budget = Budget { tokens, reserve, branches, branch_tokens: 2_000 };
    SelfConsistency::new(branches, budget, Some(marker()))
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
    assert_eq!(grants(&works), [(2, 17), (3, 16)]);
    assert!(works.iter().map(extend).all(|work| work.inject.is_empty() && work.fork.is_none()));
    strategy.tell(4, complete(2, &boxed("2"), -1.0));
    strategy.tell(5, cut(16, "cc", -1.0));
    // 15 are left for the one that is still cut.
    assert_eq!(grants(&strategy.ask(4)), [(3, 15)]);
    strategy.tell(6, cut(15, "ccc", -1.0));
    // Others are complete: it is given up, and the reserve is not touched.
    assert_eq!(strategy.ask(4), [Work::Retire(NodeId(3))]);
    assert!(strategy.is_done() && strategy.ask(4).is_empty());
    assert_eq!(
        strategy.answer().map(|answer| answer.node),
        Some(NodeId(2)),
        "the likeliest of class 2, first"
    );
}

#[test]
fn fewer_tokens_than_cut_chains_go_to_the_first_of_them() {
    let mut strategy = voters(3, 31, 1);
    strategy.ask(3);
    for id in 0..2 {
        strategy.tell(id, cut(10, "a", -1.0));
    }
    strategy.tell(2, cut(9, "a", -1.0));
    assert_eq!(grants(&strategy.ask(3)), [(1, 1)]);
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
    assert!(strategy.is_done());
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
    assert!(strategy.is_done());
}

#[test]
fn there_are_no_more_chains_than_tokens_or_branches() {
    assert_eq!(voters(8, 4, 1).ask(8).len(), 3);
    let budget = Budget { tokens: 90, reserve: 0, branches: 3, branch_tokens: 20 };
    assert_eq!(grants(&SelfConsistency::new(8, budget, None).ask(8)), [(1, 20), (2, 20), (3, 20)]);
}
