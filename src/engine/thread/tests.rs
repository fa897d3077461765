//! When an engine that fails is given up.

use super::*;
use crate::engine::{Caps, EngineError, Open};
use std::sync::mpsc::{Sender, channel};

/// An engine that does what each request's salt says in the step after it, and
/// says that it is about to.
struct Failing {
    next: Option<Arc<str>>,
    tell: Sender<()>,
    /// What its probes come to; a panic where that is no more known.
    probes: Vec<bool>,
}

impl Engine for Failing {
    fn caps(&self) -> Caps {
        Caps { context: 64, vocab: 3, eos: vec![0], block: 16, pool_blocks: 8 }
    }

    fn apply(&mut self, command: Command) {
        if let Command::Open { open, reply, .. } = command {
            assert_ne!(open.salt.as_deref(), Some("command"), "as this test wants it");
            self.next = open.salt;
            reply.send(Ok(()));
        }
    }

    fn step(&mut self) -> Result<Progress, EngineError> {
        let next = self.next.take();
        if next.is_some() {
            self.tell.send(()).expect("the test listens");
        }
        match next.as_deref() {
            // What has no work left, as after every failure, advances nothing.
            None => Ok(Progress::default()),
            Some("error") => Err(EngineError::Forward("as this test wants it".to_owned())),
            Some("panic") => panic!("as this test wants it"),
            Some(_) => Ok(Progress { ran: true, more: false }),
        }
    }

    fn recover(&mut self, _: Option<BranchId>) -> bool {
        self.next = None;
        true
    }

    fn probe(&mut self) -> bool {
        self.probes.pop().expect("a probe, as this test wants it")
    }
}

/// Asks one thing after another; whether the engine has lived through it.
async fn survives(asked: &[&str], probes: &[bool]) -> bool {
    let (tell, told) = channel();
    let failing = Failing { next: None, tell, probes: probes.iter().rev().copied().collect() };
    let (_thread, handle) = EngineThread::spawn(failing).expect("a thread");
    for what in asked {
        let open = Open { salt: Some((*what).into()), ..Open::new([1].into(), 10, 1) };
        // Dropping the branch sends a command of its own, over which a step is empty.
        if handle.open(open).await.is_ok() {
            told.recv().expect("it does what it was asked");
        }
    }
    handle.open(Open::new([1].into(), 10, 1)).await.is_ok()
}

#[tokio::test]
async fn an_engine_that_fails_whatever_it_is_asked_ends_though_it_idles_between() {
    for failure in ["error", "panic", "command"] {
        assert!(survives(&[failure; FAULTS as usize - 1], &[]).await, "{failure}");
        assert!(!survives(&[failure; FAULTS as usize], &[false]).await, "{failure}");
    }
    assert!(!survives(&["error", "panic", "command"], &[]).await, "of whatever kind");
}

#[tokio::test]
async fn a_step_that_advances_something_makes_good_what_failed_before() {
    assert!(survives(&["error", "panic", "good", "error", "command"], &[]).await);
    assert!(!survives(&["error", "good", "error", "panic", "command"], &[]).await);
}

#[tokio::test]
async fn steps_that_fail_end_an_engine_only_where_its_probe_fails_too() {
    let often = ["error"; 3 * FAULTS as usize];
    assert!(survives(&often, &[true; 3]).await, "whoever asks for the impossible again and again");
    assert!(!survives(&often, &[true, false]).await);
    assert!(!survives(&often, &[true]).await, "a probe that panics proves nothing");
    assert!(survives(&["panic", "command", "error"], &[true]).await);
    assert!(survives(&["error", "error", "error", "panic", "panic"], &[true]).await, "counted anew");
    assert!(!survives(&["error", "error", "panic"], &[true]).await, "a panic is no matter of the model's");
}
