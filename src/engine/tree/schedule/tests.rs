//! Who gets rows, over the model of [`super::super::tests`].

use super::super::costs::Cost;
use super::super::tests::{Rig, prompt, rig, rig_with, said, shares};
use super::{fair, not_finite};
use crate::engine::{Command, End, Engine, EngineError, EngineThread, Open, Priority, Reply};
use crate::token::TokenId;
use std::sync::Arc;
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
fn a_branch_with_much_to_compute_goes_on_beside_its_decoding_siblings() {
    let mut rig = rig_with(400, 4, Box::new(|_| Ok(())));
    rig.settled(100, Open::new(prompt(1, 20), 700, 8));
    for child in 101..109 {
        rig.fork(100, child);
    }
    // What comes to one of eight: a row of each step and every second one.
    let tokens = prompt(3, 100).to_vec();
    rig.engine.apply(Command::Append { branch: 104, tokens });
    for child in 101..109 {
        rig.decode(child, if child == 104 { 5 } else { 600 });
    }
    for _ in 0..300 {
        rig.step().expect("runs");
    }
    assert_eq!(rig.heard[&104].1, Some(Ok(End::Length)), "it has its turn as the others have");
    let said: Vec<usize> = rig.heard.values().map(|(tokens, _)| tokens.len()).filter(|n| *n != 5).collect();
    let (least, most) = (said.iter().min(), said.iter().max());
    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 2), "{said:?}");
}

#[test]
fn rows_that_are_taken_back_before_they_run_are_not_charged() {
    let mut rig = rig(8);
    rig.settled(1, Open::new(prompt(1, 16), 110, 2));
    rig.fork(1, 2);
    rig.fork(1, 3);
    rig.decode(3, 60);
    for _ in 0..20 {
        rig.step().expect("runs");
    }
    // The younger branch has a row in the step in which the second part of the
    // older one's prefill takes its blocks.
    let tokens = prompt(4, 90).to_vec();
    rig.engine.apply(Command::Append { branch: 2, tokens });
    rig.decode(2, 3);
    rig.run();
    assert!(rig.counts(1).preempted > 0);
    let request = &rig.engine.forest.requests[&1];
    let rows = shares(&rig, &[1])[0] as usize;
    assert_eq!(request.served, fair::ticks(rows, request.weight));
}

/// Lets as many chats come as a step has rows, and more, after some requests have
/// run beside each other for long; says how many rows each of them got in a
/// hundred steps from then on, and the chats.
fn after_a_crowd_has_come(rig: &mut Rig, requests: &[u64], chats: u64) -> Vec<u64> {
    for _ in 0..1000 {
        rig.step().expect("runs");
    }
    let all: Vec<u64> = requests.iter().copied().chain((1..=chats).map(|i| 90_000 + i)).collect();
    for &chat in &all[requests.len()..] {
        rig.settled(chat, Open::new(prompt(1, 20), 3000, 1));
        rig.decode(chat, 2900);
    }
    let before = shares(rig, &all);
    for _ in 0..100 {
        rig.step().expect("runs");
    }
    shares(rig, &all).iter().zip(&before).map(|(after, before)| after - before).collect()
}

/// A request with some branches that decode.
fn busy(rig: &mut Rig, root: u64, width: u64, priority: Priority) {
    rig.settled(root, Open { priority, ..Open::new(prompt(1, 20), 3500, width as usize) });
    for child in root + 1..=root + width {
        rig.fork(root, child);
        rig.decode(child, 3400);
    }
}

#[test]
fn nobody_pays_later_for_rows_that_nobody_else_wanted() {
    // A search beside a chat: all that it asks for, or less.
    for width in [7, 12] {
        let mut rig = rig_with(20_000, 8, Box::new(|_| Ok(())));
        busy(&mut rig, 1000, 1, Priority::Normal);
        busy(&mut rig, 2000, width, Priority::Normal);
        let got = after_a_crowd_has_come(&mut rig, &[1000, 2000], 8);
        assert!(got.iter().all(|&got| got as f64 >= 0.4 * 800.0 / 10.0), "{got:?}");
    }
}

#[test]
fn nobody_pays_later_for_rows_that_could_not_be_split() {
    // Three searches ask for different numbers of rows, so that what divisions
    // leave over falls to the same ones in each step.
    let mut rig = rig_with(20_000, 11, Box::new(|_| Ok(())));
    let searches = [(1000, 20), (2000, 25), (3000, 30)];
    for (root, width) in searches {
        busy(&mut rig, root, width, Priority::Normal);
    }
    let got = after_a_crowd_has_come(&mut rig, &[1000, 2000, 3000], 10);
    assert!(got.iter().all(|&got| got as f64 >= 0.4 * 1100.0 / 13.0), "{got:?}");
    // And a low one has more than its part where everybody has a row.
    let mut rig = rig_with(20_000, 3, Box::new(|_| Ok(())));
    busy(&mut rig, 1000, 8, Priority::High);
    busy(&mut rig, 2000, 8, Priority::Low);
    let got = after_a_crowd_has_come(&mut rig, &[1000, 2000], 4);
    let part = 300.0 / (4.0 + 1.0 + 4.0 * 2.0);
    assert!(got[1] as f64 >= 0.4 * part, "{got:?}");
    assert!(got[0] as f64 >= 0.4 * 4.0 * part, "{got:?}");
}

#[test]
fn who_comes_is_owed_nothing_and_in_no_debt() {
    // A search that is refused rows in every step, and a crowd.
    let mut rig = rig_with(20_000, 8, Box::new(|_| Ok(())));
    busy(&mut rig, 1000, 12, Priority::Normal);
    let got = after_a_crowd_has_come(&mut rig, &[1000], 15);
    let fair = 800 / 16;
    assert!(got.iter().all(|got| got.abs_diff(fair) <= 4), "{got:?}");
}

#[test]
fn branches_that_say_the_same_take_one_turn_together() {
    // Three rows for a chat and for a search of twenty branches that say three
    // different things, and so for one thing that it says too many.
    let mut rig = rig_with(4000, 3, Box::new(|_| Ok(())));
    let start = prompt(1, 20);
    rig.settled(1, Open::new(Arc::clone(&start), 200, 1));
    rig.settled(1000, Open::new(Arc::clone(&start), 200, 20));
    let keys = |child: u64| child % 3;
    for child in 1001..1021 {
        rig.fork_with(1000, child, keys(child));
        rig.decode(child, 90);
    }
    rig.decode(1, 90);
    for _ in 0..15 {
        rig.step().expect("runs");
    }
    let before = (shares(&rig, &[1, 1000]), rig.engine.forest.requests[&1000].served);
    let lengths = |rig: &Rig| (1001..1021).map(|id| rig.heard[&id].0.len()).collect::<Vec<_>>();
    let begun = lengths(&rig);
    for _ in 0..30 {
        rig.step().expect("runs");
    }
    let after = shares(&rig, &[1, 1000]);
    assert_eq!((after[0] - before.0[0], after[1] - before.0[1]), (30, 60), "a step has its three rows");
    let request = &rig.engine.forest.requests[&1000];
    assert_eq!(request.served - before.1, fair::ticks(60, request.weight), "what is computed is charged");
    // Two rows for three sayings: all branches of a saying have its turns.
    for (child, (begun, ended)) in (1001..).zip(begun.iter().zip(lengths(&rig))) {
        assert!((ended - begun).abs_diff(20) <= 1, "branch {child} has said {}", ended - begun);
    }
    rig.run();
    for child in 1001..1021 {
        assert_eq!(rig.heard[&child].0, said(&start, keys(child), 90), "branch {child}");
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
