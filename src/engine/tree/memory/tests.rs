//! Who gets blocks, over the model of [`super::super::tests`].

use super::super::store::BLOCK;
use super::super::tests::{prompt, rig, rig_with, said};
use crate::engine::{Command, End, Engine, EngineError, Open, Priority, Reply};
use proptest::prelude::*;

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
fn whether_the_first_that_waits_fits_is_asked_again_only_when_something_has_happened() {
    let mut rig = rig(8);
    rig.settled(1, Open::new(prompt(1, 40), 112, 1));
    rig.decode(1, 60);
    let mut opened = rig.open(2, Open::new(prompt(2, 90), 100, 1));
    rig.step().expect("runs");
    let mut looks = |command: bool| {
        if command {
            rig.engine.apply(Command::Abort { branch: 999 });
        }
        let before = rig.engine.forest.branches.looks.get();
        rig.step().expect("runs");
        rig.engine.forest.branches.looks.get() - before
    };
    let (quiet, asked, quiet_again) = (looks(false), looks(true), looks(false));
    assert!(quiet == quiet_again && quiet < asked, "{quiet}, {asked} and {quiet_again} looks");
    assert!(opened.try_recv().is_err());
    rig.run();
    assert_eq!(opened.try_recv(), Ok(Ok(())), "the first has no work any more");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn nobody_waits_who_would_be_let_in_if_it_were_asked(
        acts in proptest::collection::vec((0..6usize, 0..1000usize), 1..120)
    ) {
        let mut rig = rig(14);
        let (mut waiting, mut admitted, mut next) = (Vec::new(), Vec::new(), 1);
        for (kind, n) in acts {
            match kind {
                0 | 1 => {
                    let priority = [Priority::High, Priority::Normal, Priority::Low][n % 3];
                    let open = Open::new(prompt(n as u32 % 4, 1 + n % 90), 120, 1);
                    waiting.push((next, rig.open(next, Open { priority, ..open })));
                    next += 1;
                }
                2 if n % 4 == 0 && !waiting.is_empty() => {
                    let (root, _) = waiting.swap_remove(n % waiting.len());
                    rig.free(root);
                }
                3 if !admitted.is_empty() => rig.free(admitted.swap_remove(n % admitted.len())),
                _ => drop(rig.step()),
            }
            if rig.engine.unfit {
                let waits = rig.engine.waiting.len();
                rig.engine.unfit = false;
                rig.engine.admit();
                prop_assert!(rig.engine.unfit && rig.engine.waiting.len() == waits, "one was let in");
            }
            waiting.retain_mut(|(root, opened)| {
                let is_in = opened.try_recv().is_ok();
                if is_in {
                    rig.decode(*root, 1 + *root as u32 % 25);
                    admitted.push(*root);
                }
                !is_in
            });
        }
    }
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

#[test]
fn many_that_share_a_resident_prompt_enter_at_once_and_cost_nobody_its_prefix() {
    let mut rig = rig(60);
    let (shared, other) = (prompt(1, 20 * BLOCK), prompt(2, 20 * BLOCK));
    for (root, start) in [(1, &shared), (2, &other)] {
        rig.settled(root, Open::new(start.clone(), start.len(), 1));
        rig.free(root);
    }
    // Each needs the block behind the prompt, and all of them the prompt once.
    let mut opened: Vec<_> =
        (11..21).map(|root| rig.open(root, Open::new(shared.clone(), shared.len() + 8, 1))).collect();
    rig.step().expect("runs");
    assert!(opened.iter_mut().all(|opened| opened.try_recv() == Ok(Ok(()))), "they enter together");
    for root in 11..21 {
        rig.decode(root, 8);
    }
    rig.run();
    for root in 11..21 {
        assert_eq!(rig.heard[&root], (said(&shared, 0, 8), Some(Ok(End::Length))));
        assert_eq!(rig.counts(root).preempted, 0);
    }
    assert_eq!(rig.metrics.evicted.get(), 0, "twenty blocks were free, and ten were needed");
}

#[test]
fn prefixes_that_are_given_up_for_others_are_counted_block_by_block() {
    let mut rig = rig(20);
    for (root, blocks) in [(1, 10), (2, 8), (3, 10)] {
        let length = blocks * BLOCK;
        rig.settled(root, Open::new(prompt(root as u32, length), length, 1));
        rig.free(root);
    }
    assert_eq!(rig.metrics.evicted.get(), 8, "ten were needed, and two were free");
}

#[test]
fn what_is_idle_and_about_to_be_taken_up_is_not_promised_to_another() {
    let mut rig = rig(24);
    let known = prompt(1, 16 * BLOCK);
    rig.settled(1, Open::new(known.clone(), known.len(), 1));
    rig.free(1);
    // The first takes up what is idle, and the second has to wait for it.
    let mut first = rig.open(2, Open::new(known.clone(), known.len() + 8, 1));
    let mut second = rig.open(3, Open::new(prompt(2, 16 * BLOCK), 16 * BLOCK + 8, 1));
    rig.step().expect("runs");
    assert_eq!(first.try_recv(), Ok(Ok(())));
    assert!(second.try_recv().is_err(), "eight blocks are free beside those that the first finds");
    rig.decode(2, 8);
    rig.run();
    assert_eq!((rig.counts(2).reused, rig.counts(2).recomputed), (known.len() as u64, 1));
    assert_eq!(second.try_recv(), Ok(Ok(())));
}

#[test]
fn who_has_no_memory_claims_no_rows_of_those_that_have() {
    // Twelve chats of which the pool holds two, and steps of a row.
    let mut rig = rig_with(20, 1, Box::new(|_| Ok(())));
    let chats: Vec<u64> = (1..13).collect();
    for &chat in &chats {
        rig.settled(chat, Open::new(prompt(chat as u32, 120), 130, 1));
    }
    // Their logits were kept, and what they say is behind them.
    for &chat in &chats {
        rig.engine.apply(Command::Append { branch: chat, tokens: vec![1, 2] });
        rig.decode(chat, 5);
    }
    // Somebody takes the whole pool and goes.
    rig.settled(50, Open { priority: Priority::High, ..Open::new(prompt(0, 290), 300, 1) });
    rig.free(50);
    // Each position is computed once or nearly so.
    for _ in 0..12 * (122 + 10) {
        rig.step().expect("runs");
    }
    for &chat in &chats {
        let start = [&prompt(chat as u32, 120)[..], &[1, 2]].concat();
        assert_eq!(rig.heard[&chat], (said(&start, 0, 5), Some(Ok(End::Length))), "chat {chat}");
    }
}

#[test]
fn who_finds_no_block_to_go_on_lets_those_ahead_go_on() {
    // Twelve chats that fit, and come to the end of their block together.
    let mut rig = rig_with(14, 1, Box::new(|_| Ok(())));
    for chat in 1..13 {
        rig.settled(chat, Open::new(prompt(chat as u32, 12), 60, 1));
    }
    for chat in 1..13 {
        rig.decode(chat, 40);
    }
    for _ in 0..3000 {
        rig.step().expect("runs");
    }
    for chat in 1..13 {
        let all = said(&prompt(chat as u32, 12), 0, 40);
        assert_eq!(rig.heard[&chat], (all, Some(Ok(End::Length))), "chat {chat}");
    }
}

#[test]
fn a_request_that_needs_two_branches_waits_until_both_fit() {
    for minimum in [1, 2] {
        let mut rig = rig(12);
        rig.settled(1, Open::new(prompt(1, 96), 140, 1));
        rig.decode(1, 40);
        rig.step().expect("runs");
        // Seven blocks are taken: there is room for the prompt and for one more.
        let mut opened = rig.open(2, Open { minimum, ..Open::new(prompt(2, 64), 112, 2) });
        rig.step().expect("runs");
        assert_eq!(opened.try_recv().is_ok(), minimum == 1);
        rig.run();
        if minimum == 2 {
            assert_eq!(opened.try_recv(), Ok(Ok(())), "the first has no work any more");
        }
    }
    let whole = rig(1).engine.caps().blocks_for(64, 112, 2);
    let two = Open { minimum: 2, ..Open::new(prompt(2, 64), 112, 2) };
    let refused = rig(whole - 1).open(2, two).try_recv();
    assert_eq!(refused, Ok(Err(EngineError::Pool { needed: whole, blocks: whole - 1 })));
}

#[test]
fn the_branches_that_a_request_needs_are_not_taken_for_the_surplus_of_another() {
    for minimum in [1, 2] {
        let mut rig = rig(16);
        rig.settled(100, Open::new(prompt(1, 16), 80, 3));
        rig.settled(200, Open { minimum, ..Open::new(prompt(2, 16), 80, 2) });
        for (root, children) in [(100, 101..104), (200, 201..203)] {
            for child in children {
                rig.fork(root, child);
                rig.decode(child, 60);
            }
        }
        rig.run();
        for (root, children) in [(100, 101..104), (200, 201..203)] {
            for child in children {
                assert_eq!(rig.heard[&child].0, said(&prompt(root as u32 / 100, 16), child, 60));
            }
        }
        assert!(rig.counts(100).recomputed > 0, "there is no room for all five");
        assert_eq!(rig.counts(200).recomputed == 0, minimum == 2);
    }
}

#[test]
fn branches_that_are_kept_for_later_make_way_for_all_that_come_back() {
    let mut rig = rig(24);
    rig.settled(100, Open::new(prompt(1, BLOCK), 160, 9));
    let tokens = |child: u64| prompt(child as u32 % 13, 4 * BLOCK);
    for child in 101..106 {
        rig.fork(100, child);
        rig.engine.apply(Command::Append { branch: child, tokens: tokens(child).to_vec() });
        let (reply, mut settled) = Reply::new();
        rig.engine.apply(Command::Settle { branch: child, reply });
        rig.run();
        assert_eq!(settled.try_recv(), Ok(Ok(())));
    }
    assert_eq!(rig.counts(100).preempted, 0, "they all fit");
    // One loses its KV, and it is the one to go on from.
    rig.engine.forest.park(101);
    for child in 201..205 {
        rig.fork(101, child);
        rig.decode(child, 30);
    }
    let before = rig.passes.lock().expect("not poisoned").len();
    rig.run();
    let passes = rig.passes.lock().expect("not poisoned").len() - before;
    let start = [&prompt(1, BLOCK)[..], &tokens(101)].concat();
    for child in 201..205 {
        assert_eq!(rig.heard[&child], (said(&start, child, 30), Some(Ok(End::Length))));
    }
    // Alone each takes 30, and there is room for all beside those that have work.
    assert!(passes <= 40, "{passes} passes, {:?}", rig.counts(100));
}

#[test]
fn a_step_looks_at_no_more_branches_the_more_of_them_are_parked() {
    let (requests, steps) = (30, 60);
    let looks = |width: u64| {
        let mut rig = rig(150);
        for root in (1..=requests).map(|i| i * 1000) {
            rig.settled(root, Open::new(prompt(root as u32 % 13, 2 * BLOCK), 130, width as usize));
        }
        for root in (1..=requests).map(|i| i * 1000) {
            for child in root + 1..=root + width {
                rig.fork(root, child);
                rig.decode(child, 90);
            }
        }
        // Until those that have found no block are parked.
        for _ in 0..20 {
            rig.step().expect("runs");
        }
        let parked: usize = rig.engine.forest.requests.values().map(|of| of.parked.len()).sum();
        assert!(parked as u64 > requests * (width - 5), "{parked} are parked");
        let before = rig.engine.forest.branches.looks.get();
        for _ in 0..steps {
            rig.step().expect("runs");
        }
        (rig.engine.forest.branches.looks.get() - before) / steps
    };
    let (few, many) = (looks(10), looks(200));
    // There are 300 and 6,000, and 30 times as many looks if each request looks at all.
    assert!(many < 2 * few && many < 6000, "{few} and {many} looks a step");
}

#[test]
fn the_core_of_a_request_comes_back_before_the_surplus_of_one_that_came_first() {
    let mut rig = rig(8);
    rig.settled(100, Open::new(prompt(1, BLOCK), 110, 2));
    rig.settled(200, Open::new(prompt(2, BLOCK), 110, 1));
    for (root, child) in [(100, 101), (100, 102), (200, 201)] {
        rig.fork(root, child);
    }
    for child in [101, 102] {
        rig.decode(child, 60);
    }
    while rig.engine.forest.branches[&102].tokens.len() < 52 {
        rig.step().expect("runs");
    }
    // One block is free, and two are idle that the surplus would find again: with
    // one more it could go on, and the core needs all three.
    rig.engine.forest.park(102);
    rig.engine.forest.park(201);
    rig.engine.apply(Command::Append { branch: 201, tokens: prompt(3, 40).to_vec() });
    rig.decode(201, 9);
    rig.step().expect("runs");
    let parked = |branch: u64| rig.engine.forest.branches[&branch].parked;
    assert_eq!((parked(101), parked(102), parked(201)), (false, true, false));
    assert_eq!(rig.counts(100).preempted, 1, "it has not come back only to make way");
    rig.run();
    let start = [&prompt(2, BLOCK)[..], &prompt(3, 40)].concat();
    assert_eq!(rig.heard[&201], (said(&start, 201, 9), Some(Ok(End::Length))));
    assert_eq!(rig.heard[&102], (said(&prompt(1, BLOCK), 102, 60), Some(Ok(End::Length))));
}
