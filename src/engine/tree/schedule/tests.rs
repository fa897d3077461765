//! Who gets rows, over the model of [`super::super::tests`].

use super::super::tests::{Rig, prompt, rig, rig_with, said, shares};
use super::fair;
use crate::engine::{Command, End, Engine, Open, Priority, Reply};
use std::sync::Arc;

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

#[test]
fn a_chat_has_a_token_of_every_step_in_which_a_long_prompt_is_computed_beside_it() {
    let length = 2000;
    // What a step costs beside its rows, and how many rows it may then hold: one of the
    // chat and one of the prompt make it 6, and 1.6 times that is 4 and five of them.
    for (fixed, most) in [(4.0, 5), (1e3, 64)] {
        let mut rig = rig_with(400, 64, Box::new(|_| Ok(())));
        let passes = Arc::clone(&rig.passes);
        let rows = move || passes.lock().expect("not poisoned").clone();
        let clock = rows.clone();
        rig.engine.clock = Box::new(move || clock().iter().map(|&rows| fixed + rows as f64).sum());
        rig.settled(1, Open::new(prompt(1, 20), 3000, 1));
        rig.decode(1, 2900);
        let mut opened = rig.open(2, Open::new(prompt(2, length), length + 20, 1));
        rig.step().expect("admits");
        assert_eq!(opened.try_recv(), Ok(Ok(())));
        let (reply, mut settled) = Reply::new();
        rig.engine.apply(Command::Settle { branch: 2, reply });
        let (before, begun) = (rows().len(), rig.heard[&1].0.len());
        while settled.try_recv().is_err() {
            let said = rig.heard[&1].0.len();
            rig.step().expect("runs");
            assert_eq!(rig.heard[&1].0.len(), said + 1, "after {} steps of the prompt", said - begun);
        }
        let steps = rows().split_off(before);
        assert!(steps.iter().all(|&rows| rows <= most), "{steps:?}");
        // The rest of each step is the prompt's, once it is known what a row costs.
        let least = length.div_ceil(most - 1);
        assert!((least..=least + 2).contains(&steps.len()), "{} steps", steps.len());
    }
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
