//! Kept logits, over the model of [`super::super::tests`].

use super::super::tests::{prompt, rig, said};
use crate::engine::{End, EngineError, Open};

#[test]
fn beyond_the_bound_those_settled_first_give_up_their_logits_and_their_forks_say_the_same() {
    let mut rig = rig(64);
    rig.engine.forest.kept.most = 2;
    for root in 1..5 {
        rig.settled(root, Open::new(prompt(root as u32, 20), 60, 2));
    }
    let keeps = |rig: &super::super::tests::Rig, id: u64| rig.engine.forest.branches[&id].logits.is_some();
    assert_eq!([1, 2, 3, 4].map(|id| keeps(&rig, id)), [false, false, true, true]);
    for root in 1..5 {
        rig.fork(root, root * 10);
        rig.fork(root, root * 10 + 1);
        rig.decode(root * 10, 12);
        rig.decode(root * 10 + 1, 12);
    }
    rig.run();
    for root in 1..5 {
        for child in [root * 10, root * 10 + 1] {
            let whole = (said(&prompt(root as u32, 20), child, 12), Some(Ok(End::Length)));
            assert_eq!(rig.heard[&child], whole, "branch {child}");
        }
        let counts = rig.counts(root);
        assert_eq!(counts.computed + counts.copied + counts.reused, 20 + 2 * 11, "request {root}");
        // Both forks want the logits of the same position, which is computed once.
        assert_eq!(counts.recomputed, u64::from(root < 3), "request {root}");
    }
}

#[test]
fn who_has_gone_or_gone_on_does_not_count_against_the_bound() {
    let mut rig = rig(64);
    rig.engine.forest.kept.most = 2;
    rig.settled(1, Open::new(prompt(1, 20), 60, 2));
    for root in 2..6 {
        rig.settled(root, Open::new(prompt(2, 20), 60, 2));
        rig.free(root);
    }
    assert!(rig.engine.forest.branches[&1].logits.is_some());
}

#[test]
fn a_branch_that_loses_its_kv_loses_its_logits_and_is_settled_still() {
    let mut rig = rig(64);
    rig.settled(1, Open::new(prompt(1, 20), 60, 3));
    rig.engine.forest.park(1);
    assert!(rig.engine.forest.branches[&1].logits.is_none());
    rig.fork(1, 10);
    rig.decode(10, 12);
    rig.run();
    assert_eq!(rig.heard[&10], (said(&prompt(1, 20), 10, 12), Some(Ok(End::Length))));
}

#[test]
fn a_branch_whose_last_token_was_never_computed_is_not_settled_though_its_kv_was_taken() {
    let mut rig = rig(64);
    rig.settled(1, Open::new(prompt(1, 20), 60, 3));
    rig.fork(1, 10);
    rig.decode(10, 5);
    rig.run();
    rig.engine.forest.park(10);
    rig.fork(10, 11);
    rig.decode(11, 5);
    rig.run();
    assert!(matches!(rig.heard[&11].1, Some(Err(EngineError::Misuse(_)))), "{:?}", rig.heard[&11]);
}
