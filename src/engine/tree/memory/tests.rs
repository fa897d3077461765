//! Who gets blocks, over the model of [`super::super::tests`].

use super::super::store::BLOCK;
use super::super::tests::{prompt, rig, said};
use crate::engine::{Command, End, Engine, Open, Priority, Reply};

#[test]
fn a_wide_search_stays_wide_where_what_its_branches_share_is_most_of_the_pool() {
    let (shared, each) = (2000, 160);
    let mut rig = rig(150);
    let start = prompt(1, shared);
    rig.settled(100, Open::new(start.clone(), shared + each, 8));
    for child in 101..109 {
        rig.fork(100, child);
        rig.decode(child, each as u32);
    }
    let before = rig.passes.lock().expect("not poisoned").len();
    rig.run();
    let passes = rig.passes.lock().expect("not poisoned").len() - before;
    for child in 101..109 {
        assert_eq!(rig.heard[&child], (said(&start, child, each), Some(Ok(End::Length))));
    }
    let counts = rig.counts(100);
    assert!(counts.preempted > 0, "there is not room for all eight at once");
    // Beside the prompt there is room for two whole branches, and for more that
    // are young.
    assert!(passes <= 3 * each, "{passes} passes, {counts:?}");
}

#[test]
fn a_prompt_is_not_let_in_on_blocks_that_only_its_own_prefix_could_free() {
    let mut rig = rig(13);
    let start = prompt(1, 8 * BLOCK);
    rig.settled(1, Open::new(start.clone(), start.len(), 1));
    rig.settled(2, Open::new(prompt(2, 50), 64, 1));
    rig.decode(2, 10);
    // Eight blocks of eleven are known. Three are not to be had beside them while
    // the second request has work, whoever gives up what.
    let longer = [&start, prompt(3, 3 * BLOCK).as_ref()].concat();
    let limit = longer.len();
    let mut opened = rig.open(3, Open::new(longer.into(), limit, 1));
    rig.step().expect("runs");
    assert!(opened.try_recv().is_err(), "there is no room for three blocks more");
    assert_eq!(rig.counts(1).preempted, 0, "nothing would be won by it");
    rig.run();
    assert_eq!(opened.try_recv(), Ok(Ok(())), "the second request has no work any more");
    let (reply, mut settled) = Reply::new();
    rig.engine.apply(Command::Settle { branch: 3, reply });
    rig.run();
    assert_eq!(settled.try_recv(), Ok(Ok(())));
    assert_eq!((rig.counts(3).reused, rig.counts(3).computed), (start.len() as u64, 3 * BLOCK as u64));
    assert_eq!((rig.counts(1).preempted, rig.counts(2).preempted), (0, 1));
}

#[test]
fn of_equal_ranks_the_one_that_came_first_keeps_its_memory() {
    let mut rig = rig(8);
    let start = prompt(1, 40);
    rig.settled(1, Open::new(start.clone(), 112, 1));
    // As many come and go as a normal request may be overtaken by, less one; the
    // next of the high class has the same rank.
    let between = Priority::Normal.handicap() - Priority::High.handicap() - 1;
    for root in 2..2 + between {
        drop(rig.open(root, Open::new(prompt(1, 1), 1, 1)));
        rig.free(root);
    }
    let equal = Open { priority: Priority::High, ..Open::new(prompt(2, 90), 100, 1) };
    let mut opened = rig.open(500, equal);
    // The first one's branch is younger than the other's root.
    rig.fork(1, 600);
    rig.decode(600, 60);
    rig.run();
    assert_eq!(rig.heard[&600], (said(&start, 600, 60), Some(Ok(End::Length))));
    assert_eq!(rig.counts(1).recomputed, 0, "the second waits until the first has no work");
    assert_eq!(opened.try_recv(), Ok(Ok(())));
    let ranks: Vec<u64> = rig.engine.forest.order.iter().map(|&(rank, _)| rank).collect();
    assert_eq!(ranks[0], ranks[1], "they are of equal rank");
}
