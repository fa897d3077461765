//! What commands leave behind, over the model of [`super::super::tests`].

use super::super::sample::{Ask, Scratch, draw};
use super::super::tests::{Rig, echo, prompt, rig, segment};
use crate::engine::tree::kernel::Kernels;
use crate::engine::{Command, End, Engine, EngineError, Open, Report, Sampling, Segment, rng};
use crate::prompt::StopRule;
use crate::token::TokenId;
use std::sync::Arc;

/// Puts some tokens on a branch; says how that ended where a stop string applies.
fn inject(rig: &mut Rig, branch: u64, tokens: &[TokenId], stop: &str) -> End {
    let stop = Arc::new(StopRule { strings: vec![stop.to_owned()], border: None });
    decode(rig, branch, Segment { inject: tokens.to_vec(), stop, ..segment(tokens.len() as u32) });
    rig.heard[&branch].1.clone().expect("over").expect("nothing is wrong")
}

fn decode(rig: &mut Rig, branch: u64, segment: Segment) {
    rig.heard.insert(branch, (Vec::new(), None));
    let report = Report::new(branch, rig.events.clone());
    rig.engine.apply(Command::Decode { branch, segment, report });
    rig.run();
}

#[test]
fn what_was_cut_off_a_branch_is_not_in_its_text() {
    let mut rig = rig(20);
    rig.settled(1, Open::new(prompt(1, 20), 60, 2));
    rig.fork(1, 2);
    // The tokens from 6 on are one character each: ! " # $ % & '.
    assert_eq!(inject(&mut rig, 2, &[6, 7], "\""), End::Stop { cut: 1 });
    rig.engine.apply(Command::Truncate { branch: 2, len: 21 });
    assert_eq!(inject(&mut rig, 2, &[8], "\""), End::Length, "its stop string was cut off");
    rig.engine.apply(Command::Truncate { branch: 2, len: 21 });
    assert_eq!(inject(&mut rig, 2, &[9], "#$"), End::Length, "half of it was cut off");
    assert_eq!(inject(&mut rig, 2, &[8], "!$#"), End::Stop { cut: 0 });
    // What a segment did not put there is no text, whatever is cut.
    rig.engine.apply(Command::Truncate { branch: 2, len: 22 });
    rig.engine.apply(Command::Append { branch: 2, tokens: vec![10, 10, 10] });
    assert_eq!(inject(&mut rig, 2, &[11, 12], "?"), End::Length);
    rig.engine.apply(Command::Truncate { branch: 2, len: 26 });
    assert_eq!(inject(&mut rig, 2, &[6], "&!"), End::Stop { cut: 2 });
    rig.engine.apply(Command::Truncate { branch: 2, len: 23 });
    rig.engine.apply(Command::Append { branch: 2, tokens: vec![10] });
    assert_eq!(inject(&mut rig, 2, &[12], "$'"), End::Stop { cut: 1 });
}

#[test]
fn a_fork_that_should_not_be_holds_on_to_nothing_of_its_parent() {
    for cuts in [true, false] {
        let mut rig = rig(20);
        rig.settled(1, Open::new(prompt(1, 20), 60, 2));
        rig.decode(1, 30);
        for _ in 0..20 {
            rig.step().expect("runs");
        }
        assert_eq!(rig.engine.forest.branches[&1].listed, 2, "it has blocks that others find");
        rig.fork(1, 2);
        rig.free(1);
        let forest = &mut rig.engine.forest;
        while forest.index.evict(&mut forest.pool) {}
        if cuts {
            rig.engine.apply(Command::Truncate { branch: 2, len: 4 });
        }
        rig.decode(2, 3);
        assert!(matches!(rig.step(), Ok(false)));
        assert!(matches!(rig.heard[&2].1, Some(Err(EngineError::Misuse(_)))));
        rig.free(2);
        rig.run();
        rig.assert_empty();
    }
}

#[test]
fn a_fork_that_should_not_be_takes_no_room_from_others() {
    let mut rig = rig(5);
    let mut opened = rig.open(1, Open::new(prompt(1, 40), 60, 2));
    rig.step().expect("runs");
    assert_eq!(opened.try_recv(), Ok(Ok(())));
    // Nothing of its prompt is computed, nor ever will be.
    rig.fork(1, 2);
    rig.free(1);
    let mut opened = rig.open(3, Open::new(prompt(2, 50), 60, 1));
    rig.step().expect("runs");
    assert_eq!(opened.try_recv(), Ok(Ok(())));
}

#[test]
fn what_a_branch_says_in_the_place_of_its_prompt_is_no_prompt() {
    let sampling = Sampling { presence_penalty: 2.0, ..Sampling::default() };
    let mut rig = rig(20);
    rig.settled(1, Open::new(prompt(1, 20), 60, 2));
    rig.engine.apply(Command::Truncate { branch: 1, len: 8 });
    decode(&mut rig, 1, Segment { sampling: sampling.clone(), ..segment(12) });
    let mut tokens = prompt(1, 8).to_vec();
    for _ in 0..12 {
        let uniform = rng::uniform(0, tokens.len() as u64);
        let ask = Ask { sampling: &sampling, tokens: &tokens, prompt: 8, uniform, top: 0 };
        let drawn = draw(Kernels::detect(), &echo(&tokens), ask, &mut Scratch::default());
        tokens.push(drawn.expect("finite").id);
    }
    assert_eq!(rig.heard[&1].0, tokens[8..]);
}
