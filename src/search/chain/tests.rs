//! One chain, by exact numbers; and what the tests of other strategies say.

use super::*;
use crate::plan::Border;
use crate::search::{Extend, Grown, NodeId};
use crate::token::TokenId;

pub(in crate::search) fn marker() -> Marker {
    Marker {
        border: Border { marker: "The answer is".to_owned(), shown: true, opening: None },
        inject: vec![9, 1, 2, 3],
        inject_after_separator: vec![1, 2, 3],
        separator: "\n\n".to_owned(),
    }
}

pub(in crate::search) fn extend(work: &Work) -> Extend {
    match work {
        Work::Extend(extend) => extend.clone(),
        Work::Retire(node) => panic!("{node:?} is retired"),
    }
}

pub(in crate::search) fn grown(tokens: u32, text: &str, mean_logprob: f64) -> Grown {
    Grown { tokens, text: text.to_owned(), mean_logprob, extensible: true, ..Grown::default() }
}

pub(in crate::search) fn complete(tokens: u32, text: &str, mean_logprob: f64) -> Outcome {
    Outcome::Grown(Grown { complete: true, extensible: false, ..grown(tokens, text, mean_logprob) })
}

pub(in crate::search) fn cut(tokens: u32, text: &str, mean_logprob: f64) -> Outcome {
    Outcome::Grown(grown(tokens, text, mean_logprob))
}

fn chain(tokens: u32, branch_tokens: u32, reserve: u32) -> ChainOfThought {
    ChainOfThought::new(
        Budget { tokens, reserve, branches: 1, branch_tokens, sample: 1, verifier_tokens: None },
        Some(marker()),
    )
}

fn injected(text: &str, reserve: u32) -> Vec<TokenId> {
    let mut strategy = chain(100, 100, reserve);
    strategy.ask(1);
    strategy.tell(0, cut(100 - reserve, text, -1.0));
    let work = extend(&strategy.ask(0)[0]);
    assert_eq!((work.id, work.node, work.fork, work.max_tokens), (1, NodeId(1), None, reserve));
    work.inject
}

#[test]
fn a_thought_gets_all_but_the_reserve_and_its_completion_the_rest() {
    let mut strategy = chain(100, 2_000, 25);
    assert!(strategy.ask(0).is_empty());
    let first = extend(&strategy.ask(1)[0]);
    assert_eq!((first.node, first.fork, first.max_tokens), (NodeId(1), Some(NodeId::ROOT), 75));
    assert!(first.inject.is_empty() && strategy.ask(1).is_empty());
    strategy.tell(0, cut(75, "so", -1.0));
    assert_eq!(strategy.answer(), Some(Answer { node: NodeId(1), complete: false }));
    let second = extend(&strategy.ask(0)[0]);
    assert_eq!((second.inject, second.max_tokens), (vec![9, 1, 2, 3], 25));
    strategy.tell(1, complete(12, "so\n\nThe answer is \\boxed{8}.", -1.0));
    assert!(strategy.is_done() && strategy.ask(1).is_empty());
    assert_eq!(strategy.answer(), Some(Answer { node: NodeId(1), complete: true }));
    let candidate = &strategy.candidates()[0];
    assert_eq!((candidate.tokens, candidate.answer.as_deref()), (87, Some("8")));
}

#[test]
fn the_context_bounds_a_chain_as_the_budget_does() {
    let mut strategy = chain(8_192, 60, 15);
    assert_eq!(extend(&strategy.ask(1)[0]).max_tokens, 45);
    strategy.tell(0, cut(45, "so", -1.0));
    assert_eq!(extend(&strategy.ask(0)[0]).max_tokens, 15);
}

#[test]
fn a_thought_that_ends_by_itself_is_not_completed() {
    let mut strategy = chain(100, 100, 25);
    strategy.ask(1);
    strategy.tell(0, complete(10, "done", -1.0));
    assert!(strategy.is_done() && strategy.ask(1).is_empty());
}

#[test]
fn the_marker_is_injected_where_it_is_missing_and_an_answer_fits_behind_it() {
    assert_eq!(injected("so", 25), [9, 1, 2, 3]);
    assert_eq!(injected("so\n\n", 25), [1, 2, 3]);
    assert_eq!(injected("", 25), [1, 2, 3]);
    assert!(injected("so\n\nThe answer is 4", 25).is_empty());
    assert_eq!(injected("so", 5), [9, 1, 2, 3]);
    assert!(injected("so", 4).is_empty());
    assert_eq!(injected("so\n\n", 4), [1, 2, 3]);
}

#[test]
fn no_marker_is_injected_into_a_text_that_has_no_thought() {
    let injected = |text: &str| {
        let mut thinking = marker();
        thinking.border.opening = Some("<t>".to_owned());
        let budget = Budget {
            tokens: 100,
            reserve: 25,
            branches: 1,
            branch_tokens: 100,
            sample: 1,
            verifier_tokens: None,
        };
        let mut strategy = ChainOfThought::new(budget, Some(thinking));
        strategy.ask(1);
        strategy.tell(0, cut(75, text, -1.0));
        extend(&strategy.ask(1)[0]).inject
    };
    assert_eq!(injected("\n<t>so"), [9, 1, 2, 3]);
    for text in ["so", "<t", ""] {
        assert!(injected(text).is_empty(), "{text}: it would be part of the answer");
    }
}

#[test]
fn work_that_added_nothing_is_not_repeated_for_ever() {
    let mut strategy = chain(100, 100, 25);
    strategy.ask(1);
    strategy.tell(0, cut(0, "", f64::NAN));
    assert_eq!(strategy.ask(1).len(), 1);
    strategy.tell(1, cut(0, "", f64::NAN));
    assert!(strategy.is_done() && strategy.ask(1).is_empty());
}

#[test]
fn a_lost_chain_leaves_no_answer() {
    let mut strategy = chain(100, 100, 25);
    strategy.ask(1);
    strategy.tell(0, Outcome::Abandoned);
    assert!(strategy.is_done() && strategy.answer().is_none() && strategy.candidates().is_empty());
}
