//! Who gets rows, over the model of [`super::super::tests`].

use super::super::tests::{prompt, rig, rig_with, shares};
use super::fair;
use crate::engine::{Command, End, Engine, Open};

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
