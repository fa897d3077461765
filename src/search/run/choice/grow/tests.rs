//! Work that waits for a branch to be settled.

use super::super::judge::tests::choice;
use super::*;
use crate::engine::scripted::{Script, ScriptedEngine};
use crate::engine::{Caps, EngineThread, Open, Token, channel};
use crate::search::Outcome;

#[tokio::test]
async fn what_waits_to_fork_from_a_branch_that_is_given_back_is_called_off() {
    let caps = Caps { context: 4_096, vocab: 640, eos: vec![2], block: 16, pool_blocks: 64 };
    let (says, before_step) = (Box::new(|_| Vec::new()), Box::new(|_| Ok(())));
    let script = Script { caps, says, before_step, live: Arc::default() };
    let (_thread, engine) = EngineThread::spawn(ScriptedEngine::new(script)).expect("a thread");
    let root = engine.open(Open::new([3].into(), 90, 9)).await.expect("admitted");
    let (events, _inbox) = channel();
    let mut choice = choice().await;
    let (parent, child) = (NodeId(1), NodeId(2));
    choice.reserve(parent, NodeId::ROOT);
    let token = Token { id: 7, logprob: -0.5, top: Vec::new(), text: "so\n\n".to_owned() };
    choice.tree.node_mut(parent).push(token, true);
    choice.leases.insert(parent, Lease { branch: root.fork(1), settled: Settled::No });
    let extend = Extend {
        id: 5,
        node: child,
        fork: Some(parent),
        inject: Vec::new(),
        max_tokens: 9,
        until: Until::Step,
        greedy: false,
        score: false,
    };
    choice.extend(extend, &root, &events);
    assert_eq!((choice.alive, choice.flights.len(), choice.aside.len()), (2, 1, 1), "it is being settled");
    choice.release(parent);
    assert!(choice.flights.is_empty(), "the choice would wait for it for ever");
    let landing = choice.landed.remove(&(0, 5)).expect("it has landed");
    assert!(matches!(landing.end, Ok(End::Aborted)));
    assert!(matches!(choice.outcome(landing), Outcome::Abandoned));
    assert_eq!(choice.alive, 0);
    // Nobody is there any more to hear that it was settled.
    choice.settled(parent, &Ok(()), &root, &events);
    assert_eq!((choice.alive, choice.flights.len()), (0, 0));
}
