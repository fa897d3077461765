//! A small storm, and that it notices what it is there to notice.

use super::again::{Ask, Sample, replay};
use super::tally::Deed;
use super::*;
use crate::engine::{End, Sampling};

fn policy() -> Subject {
    let loaded = app::load(BUNDLED).expect("loads");
    Subject { model: Arc::new(loaded.model), tokenizer: Arc::new(loaded.tokenizer), eos: loaded.eos }
}

#[tokio::test]
async fn a_storm_of_requests_leaves_nothing_behind() {
    let number = |n| NonZeroUsize::new(n).expect("not zero");
    let options = Options { minutes: number(10), requests: Some(number(160)), seed: 7, clients: number(16) };
    let mut out = Vec::new();
    let outcome = run(&options, &mut out).await;
    let text = String::from_utf8(out).expect("text");
    assert!(outcome.is_ok(), "{outcome:?}\n{text}");
    for part in ["160 requests", "live blocks 0", "nothing was wrong", "of the policy are the same again"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // It did what it is there for.
    let count = |what: &str| -> u64 {
        let line = text.lines().find(|line| line.ends_with(what)).expect(what);
        line.split_whitespace().next().expect("a number").parse().expect("a number")
    };
    for what in ["forks", "segments aborted", "truncations", "scorings", "accounts equal to the engine's"] {
        assert!(count(what) > 0, "no {what} in\n{text}");
    }
    for engine in ["policy ", "prm "] {
        let line =
            text.lines().find(|line| line.starts_with(engine) && line.contains("preempted")).expect(engine);
        assert!(!line.contains("preempted 0,"), "the pool is small enough for preemption: {line}");
    }
}

#[tokio::test]
async fn what_is_not_the_same_again_is_named() {
    let stage = policy().stage("alone", (BLOCKS, 1)).expect("an engine");
    let ask = Ask { inject: vec![9], most: 6, sampling: Sampling::default() };
    let mut sample = Sample {
        before: vec![5, 6, 7, 8],
        prompt: 3,
        positions: 40,
        key: 11,
        ask,
        said: Vec::new(),
        end: End::Length,
    };
    let named = replay(&stage.handle, std::slice::from_ref(&sample)).await.expect("decodes");
    assert_eq!(named.len(), 1, "the token that is injected at least was not said");
    // What it says it says again, and no other key does.
    let said = named[0].rsplit_once("and is [").and_then(|(_, rest)| rest.split_once(']')).expect("tokens").0;
    sample.said = said.split(", ").map(|id| id.parse().expect("an id")).collect();
    if named[0].contains("(Eos) alone") {
        sample.end = End::Eos;
    }
    assert_eq!(replay(&stage.handle, std::slice::from_ref(&sample)).await.expect("decodes"), [""; 0]);
    sample.key = 12;
    assert_eq!(replay(&stage.handle, &[sample]).await.expect("decodes").len(), 1);
}

#[tokio::test]
async fn what_is_left_is_named() {
    let stage = policy().stage("policy", (BLOCKS, 4)).expect("an engine");
    assert_eq!(left(&stage).await.expect("asks"), [""; 0]);
    let held = stage.handle.open(Open::new(Arc::new([1, 2, 3]), 20, 1)).await.expect("admitted");
    held.settle().await.expect("computed");
    let named = left(&stage).await.expect("asks");
    assert!(named.iter().any(|line| line == "policy: 1 branches are left"), "{named:?}");
    drop(held);
}

#[test]
fn every_deed_has_a_place_of_its_own_in_the_tally() {
    let tally = Tally::default();
    for (index, deed) in Deed::ALL.into_iter().enumerate() {
        (0..=index).for_each(|_| tally.did(deed));
    }
    assert!(Deed::ALL.into_iter().enumerate().all(|(index, deed)| tally.done(deed) == index as u64 + 1));
    assert!(tally.begin(Some(1)) && !tally.begin(Some(1)) && tally.begin(None));
}
