//! What a step gives and what it costs, over the model of [`super::super::tests`].

use super::super::costs::Cost;
use super::super::tests::{prompt, rig, rig_with, said, segment};
use super::not_finite;
use crate::engine::events::tests::Sleeper;
use crate::engine::{
    Command, End, Engine, EngineError, EngineThread, Open, Reply, Report, Segment, SegmentEvent, channel,
};
use crate::token::TokenId;
use futures_util::FutureExt as _;
use futures_util::task::waker;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

#[test]
fn a_prompt_without_a_finite_logit_at_its_end_fails_its_settle_and_the_step() {
    let mut rig = rig(64);
    rig.engine.model.spoilt = |_| true;
    let mut opened = rig.open(1, Open::new(prompt(1, 20), 60, 2));
    rig.step().expect("there is nothing to run");
    assert_eq!(opened.try_recv(), Ok(Ok(())));
    let (reply, mut settled) = Reply::new();
    rig.engine.apply(Command::Settle { branch: 1, reply });
    assert!(matches!(rig.step(), Err(EngineError::Forward(_))));
    assert!(matches!(settled.try_recv(), Ok(Err(EngineError::Forward(_)))));
    // Nothing was kept that a fork could draw from: it computes, and loses, its own.
    rig.fork(1, 10);
    rig.decode(10, 9);
    assert!(matches!(rig.step(), Err(EngineError::Forward(_))));
    assert!(matches!(rig.heard[&10], (_, Some(Err(EngineError::Forward(_))))));
    assert_eq!(rig.metrics.faults.get(), 2);
    // A model that is well again is taken at its word.
    rig.engine.model.spoilt = |_| false;
    rig.fork(1, 11);
    rig.decode(11, 9);
    rig.run();
    assert_eq!(rig.heard[&11], (said(&prompt(1, 20), 11, 9), Some(Ok(End::Length))));
}

#[test]
fn a_step_in_which_one_is_lost_and_others_go_on_is_no_failed_one_and_proves_as_much_as_it_gives() {
    for scores in [true, false] {
        let mut rig = rig(64);
        rig.settled(1, Open::new(prompt(1, 20), 60, 1));
        rig.fork(1, 10);
        rig.decode(10, 9);
        rig.step().expect("draws from what was kept");
        let mut opened = rig.open(2, Open::new(prompt(2, 100), 120, 1));
        rig.step().expect("runs");
        assert_eq!(opened.try_recv(), Ok(Ok(())));
        // A long prompt of which a step computes a part, with or without logits.
        let (settling, _settled) = Reply::new();
        let (asking, _asked) = Reply::new();
        rig.engine.apply(match scores {
            true => Command::Logits { branch: 2, positions: vec![0, 99], ids: vec![1], reply: asking },
            false => Command::Settle { branch: 2, reply: settling },
        });
        // The second prompt begins with another token.
        rig.engine.model.spoilt = |prefix| prefix[0] == 1;
        let computed = rig.counts(2).computed;
        let progress = rig.engine.step().map(|progress| progress.ran);
        assert_eq!(progress, Ok(scores), "computing KV alone proves nothing");
        let computed = rig.counts(2).computed - computed;
        assert!((1..100).contains(&computed), "{computed}");
        // Heard now: the prompt ends in one of the next steps.
        drop(rig.step());
        assert!(matches!(rig.heard[&10].1, Some(Err(EngineError::Forward(_)))), "{:?}", rig.heard[&10]);
    }
}

#[test]
fn logits_that_are_asked_for_prove_the_model_well_only_where_some_are_finite() {
    for (spoilt, verdict, faults) in [
        // Of both rows, of the second and of neither one.
        ((|_: &[TokenId]| true) as fn(&[TokenId]) -> bool, Err(not_finite()), 1),
        (|prefix| prefix.len() == 20, Ok(true), 0),
        (|_| false, Ok(true), 0),
    ] {
        let mut rig = rig(64);
        let mut opened = rig.open(1, Open::new(prompt(1, 20), 60, 2));
        rig.step().expect("there is nothing to run");
        assert_eq!(opened.try_recv(), Ok(Ok(())));
        rig.engine.model.spoilt = spoilt;
        let (reply, mut asked) = Reply::new();
        rig.engine.apply(Command::Logits { branch: 1, positions: vec![0, 19], ids: vec![2, 3], reply });
        assert_eq!(rig.engine.step().map(|progress| progress.ran), verdict);
        assert_eq!(rig.metrics.faults.get(), faults);
        // Whoever asked sees for itself what can be read.
        let rows = asked.try_recv().expect("answered").expect("the rows as they are");
        for (row, end) in rows.iter().zip([1, 20]) {
            assert_eq!(row.len(), 2);
            assert_eq!(row.iter().all(|logit| logit.is_nan()), spoilt(&prompt(1, end)));
        }
    }
}

#[tokio::test]
async fn a_model_whose_logits_are_never_finite_is_given_up_whatever_prompts_it_computes() {
    // A step computes 64 positions: these prompts take one and two.
    for (length, scores) in [(20, false), (100, false), (20, true), (100, true)] {
        let mut rig = rig(64);
        rig.engine.model.spoilt = |_| true;
        let (_thread, handle) = EngineThread::spawn(rig.engine).expect("a thread");
        for first in 1..4 {
            let root = handle.open(Open::new(prompt(first, length), length + 20, 2)).await;
            let root = root.expect("it is not given up yet");
            if scores {
                let rows = root.logits(vec![length - 1], Vec::new()).await;
                assert!(rows.is_ok_and(|rows| rows[0].iter().all(|logit| logit.is_nan())), "{length}");
            } else {
                assert!(matches!(root.settle().await, Err(EngineError::Forward(_))), "{length}");
            }
        }
        let dead = tokio::time::timeout(Duration::from_secs(20), handle.dead()).await;
        assert_eq!(dead, Ok(()), "{length}");
    }
}

#[test]
fn what_scheduling_takes_is_part_of_a_step_s_duration() {
    let mut rig = rig(7);
    // Nothing takes time but to take somebody's KV.
    let metrics = Arc::clone(&rig.metrics);
    rig.engine.clock = Box::new(move || metrics.preempted.get() as f64);
    rig.settled(1, Open::new(prompt(1, 16), 96, 2));
    for child in [2, 3] {
        rig.fork(1, child);
        rig.decode(child, 70);
    }
    rig.run();
    assert!(rig.metrics.preempted.get() > 0, "there is not room for both");
    assert_eq!(rig.metrics.step_seconds.get_sample_sum(), rig.metrics.preempted.get() as f64);
    assert_eq!(rig.metrics.step_seconds.get_sample_count(), rig.metrics.steps.get());
}

#[test]
fn what_is_drawn_from_kept_logits_is_part_of_what_a_step_costs() {
    let mut rig = rig(1000);
    // Nobody draws from what a step computes; its duration is that of its rows, of
    // itself, and of draws from what was kept.
    let (passes, metrics) = (Arc::clone(&rig.passes), Arc::clone(&rig.metrics));
    rig.engine.clock = Box::new(move || {
        let passes = passes.lock().expect("not poisoned");
        passes.iter().map(|&rows| 4.0 + rows as f64).sum::<f64>() + 5.0 * metrics.sampled.get() as f64
    });
    rig.settled(1, Open::new(prompt(1, 20), 40, 100));
    for round in 0..20 {
        let root = 100 + round;
        let _opened = rig.open(root, Open::new(prompt(round as u32, 5 + 7 * round as usize % 50), 60, 1));
        rig.step().expect("admits");
        let (reply, _settled) = Reply::new();
        rig.engine.apply(Command::Settle { branch: root, reply });
        for child in 0..round % 4 {
            let child = 1000 + 10 * round + child;
            rig.fork(1, child);
            rig.decode(child, 1);
        }
        rig.run();
    }
    let Cost { step, row, draw } = rig.engine.costs.cost();
    let close = |found: f64, expected: f64| (found - expected).abs() < 0.01 * expected;
    assert!(close(step, 4.0) && close(row, 1.0) && close(draw, 5.0), "{step} {row} {draw}");
}

#[test]
fn a_token_out_of_kept_logits_is_heard_before_the_pass_that_follows() {
    let sleeper = Arc::new(Sleeper::default());
    let woken = Arc::clone(&sleeper);
    let at_passes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&at_passes);
    let note = move |_: &[TokenId]| {
        seen.lock().expect("not poisoned").push(woken.0.load(Ordering::SeqCst));
        Ok(())
    };
    let mut rig = rig_with(64, 64, Box::new(note));
    rig.settled(1, Open::new(prompt(1, 20), 60, 1));
    let (events, mut inbox) = channel();
    let waker = waker(Arc::clone(&sleeper));
    let mut waiting = Box::pin(inbox.recv());
    assert!(waiting.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    let report = Report::new(7, events);
    rig.engine.apply(Command::Decode { branch: 1, segment: segment(5), report });
    at_passes.lock().expect("not poisoned").clear();
    rig.step().expect("runs");
    assert_eq!(*at_passes.lock().expect("not poisoned"), [1], "woken once by then");
}

#[test]
fn who_does_not_read_tokens_as_they_come_is_woken_by_the_end_alone() {
    const TOKENS: u32 = 5;
    for live in [true, false] {
        let mut rig = rig(64);
        rig.settled(1, Open::new(prompt(1, 20), 60, 1));
        let (events, mut inbox) = channel();
        let report = Report::new(7, events);
        // One token is on the branch before there is a step.
        let asked = Segment { live, inject: vec![3], ..segment(TOKENS) };
        let sleeper = Arc::new(Sleeper::default());
        let waker = waker(Arc::clone(&sleeper));
        let mut waiting = Box::pin(inbox.recv());
        assert!(waiting.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        let woken = || sleeper.0.load(Ordering::SeqCst) > 0;
        rig.engine.apply(Command::Decode { branch: 1, segment: asked, report });
        assert_eq!(woken(), live, "of what was injected");
        let mut steps = 0;
        while rig.step().expect("runs") {
            steps += 1;
            assert_eq!(woken(), live, "of the {steps}th step");
        }
        assert!(woken(), "it is over");
        drop(waiting);
        let heard: Vec<SegmentEvent> =
            std::iter::from_fn(|| inbox.try_recv()).map(|(_, event)| event).collect();
        let (end, tokens) = heard.split_last().expect("an end");
        assert!(matches!(end, SegmentEvent::End { end: End::Length, .. }));
        assert!(tokens.iter().all(|event| matches!(event, SegmentEvent::Token(_))));
        assert_eq!(tokens.len(), TOKENS as usize, "and nothing is lost");
    }
}
