//! A fault at every command and at a step, as an error and as a panic: who is
//! hit hears it once, everybody else says what they would have said, and nothing
//! is left behind.

use super::super::tests::{Echo, Fault, Opened, Rig, VOCAB, echo, prompt, rig_with, said, segment};
use super::*;
use crate::engine::{
    Branch, Caps, Command, End, Engine, EngineThread, Handle, Health, Inbox, Open, Progress, Reply, Report,
    Segment, SegmentEvent, channel,
};
use crate::metrics::EngineMetrics;
use crate::token::TokenId;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// The command's number. A new command does not compile before it has one, and
/// then the tests below fail until they send it.
fn kind(command: &Command) -> usize {
    match command {
        Command::Open { .. } => 0,
        Command::Fork { .. } => 1,
        Command::Decode { .. } => 2,
        Command::Append { .. } => 3,
        Command::Truncate { .. } => 4,
        Command::Settle { .. } => 5,
        Command::Logits { .. } => 6,
        Command::Abort { .. } => 7,
        Command::Free { .. } => 8,
        Command::Counts { .. } => 9,
    }
}

const KINDS: usize = 10;
const FREE: usize = 8;
const COUNTS: usize = 9;

/// Where an engine breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// Before the first command of a kind on the victim is carried out.
    Before(usize),
    /// After it was.
    After(usize),
    /// Before so many steps are run, once the victim has forked.
    Steps(usize),
    /// After so many.
    StepsDone(usize),
}

/// The engine, which breaks once at the request whose salt is `victim`.
struct Faulty {
    engine: Option<TreeEngine<Echo>>,
    blow: Option<Blow>,
    /// Branches of the victim.
    own: HashSet<u64>,
    seen: BTreeSet<usize>,
    /// Gets the engine when the thread has ended.
    grave: std::sync::mpsc::Sender<(TreeEngine<Echo>, BTreeSet<usize>)>,
}

impl Faulty {
    fn engine(&mut self) -> &mut TreeEngine<Echo> {
        self.engine.as_mut().expect("taken by the drop alone")
    }
}

impl Engine for Faulty {
    fn caps(&self) -> Caps {
        self.engine.as_ref().expect("taken by the drop alone").caps()
    }

    fn apply(&mut self, command: Command) {
        let (number, branch) = (kind(&command), command.branch());
        match &command {
            Command::Open { open, .. } if open.salt.as_deref() == Some("victim") => {
                self.own.insert(branch);
            }
            Command::Fork { child, .. } if self.own.contains(&branch) => {
                self.own.insert(*child);
            }
            _ => {}
        }
        if self.own.contains(&branch) {
            self.seen.insert(number);
        }
        let hit = |blow: Blow| self.own.contains(&branch) && self.blow == Some(blow);
        if hit(Blow::Before(number)) {
            self.blow = None;
            panic!("before command {number}, as this test wants it");
        }
        let after = hit(Blow::After(number));
        self.engine().apply(command);
        if after {
            self.blow = None;
            panic!("after command {number}, as this test wants it");
        }
    }

    fn step(&mut self) -> Result<Progress, EngineError> {
        // The root alone may still wait for its admission, and is not hit then.
        let runs = self.own.len() > 1;
        let (left, done) = match self.blow {
            Some(Blow::Steps(left)) if runs && left > 0 => (Blow::Steps(left - 1), false),
            Some(Blow::StepsDone(left)) if runs && left > 0 => (Blow::StepsDone(left - 1), true),
            _ => return self.engine().step(),
        };
        self.blow = Some(left);
        if done {
            // Everything that it did is done, and nobody hears how it ended.
            let _ = self.engine().step();
        }
        panic!("at a step, as this test wants it");
    }

    fn recover(&mut self, culprit: Option<BranchId>) -> bool {
        self.engine().recover(culprit)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            let _ = self.grave.send((engine, std::mem::take(&mut self.seen)));
        }
    }
}

/// An engine that breaks, on its thread.
struct Stage {
    thread: EngineThread,
    handle: Handle,
    metrics: Arc<EngineMetrics>,
    grave: std::sync::mpsc::Receiver<(TreeEngine<Echo>, BTreeSet<usize>)>,
}

fn stage(blow: Option<Blow>) -> Stage {
    let Rig { engine, metrics, .. } = rig_with(64, 64, Box::new(|_| Ok(())));
    let (tell, grave) = std::sync::mpsc::channel();
    let faulty =
        Faulty { engine: Some(engine), blow, own: HashSet::new(), seen: BTreeSet::new(), grave: tell };
    let (thread, handle) = EngineThread::spawn(faulty).expect("a thread");
    Stage { thread, handle, metrics, grave }
}

/// Hears a segment to its end; `most` tokens at most.
async fn hear(inbox: &mut Inbox, most: usize) -> Result<Vec<TokenId>, EngineError> {
    let mut tokens = Vec::new();
    while tokens.len() < most {
        match inbox.recv().await {
            Some((_, SegmentEvent::Token(token))) => tokens.push(token.id),
            Some((_, SegmentEvent::End { .. })) => return Ok(tokens),
            Some((_, SegmentEvent::Failed(error))) => {
                assert!(inbox.try_recv().is_none(), "one error and nothing after it");
                return Err(error);
            }
            None => return Err(EngineError::Closed),
        }
    }
    Ok(tokens)
}

fn decode(branch: &Branch, segment: Segment) -> Inbox {
    let (events, inbox) = channel();
    branch.decode(segment, 0, &events);
    inbox
}

const LENGTH: usize = 20;
const LIMIT: usize = 150;

async fn open(handle: &Handle, salt: &str) -> Result<Branch, EngineError> {
    let open = Open::new(prompt(1, LENGTH), LIMIT, 3);
    let root = handle.open(Open { salt: Some(salt.into()), ..open }).await?;
    root.settle().await?;
    Ok(root)
}

/// A request that sends every command; what it hears is checked on the way.
async fn life(handle: &Handle, salt: &str) -> Result<(), EngineError> {
    let root = open(handle, salt).await?;
    let short = root.fork(6);
    let tokens = hear(&mut decode(&short, segment(12)), 20).await?;
    assert_eq!(tokens, said(&prompt(1, LENGTH), 6, 12));
    short.append(vec![1, 2, 3]);
    short.truncate(LENGTH + 14);
    let row = short.logits(vec![LENGTH + 13], Vec::new()).await?;
    let whole = [&prompt(1, LENGTH)[..], &tokens, &[1, 2]].concat();
    assert_eq!(row, [echo(&whole)]);
    let long = root.fork(7);
    let mut inbox = decode(&long, segment(120));
    let mut heard = hear(&mut inbox, 1).await?;
    long.abort();
    heard.extend(hear(&mut inbox, usize::MAX).await?);
    assert_eq!(heard, said(&prompt(1, LENGTH), 7, heard.len()), "as far as it got");
    let counts = root.counts().await?;
    assert_eq!(counts.sampled, 12 + heard.len() as u64);
    Ok(())
}

/// Waits until the engine is well again.
async fn well(handle: &Handle) {
    while handle.health(Duration::from_secs(60)) != Health::Live {
        tokio::task::yield_now().await;
    }
}

/// Lets go of the engine, and checks that it is empty.
fn bury(stage: Stage) -> BTreeSet<usize> {
    let Stage { thread, handle, metrics, grave } = stage;
    drop(handle);
    drop(thread);
    let (mut engine, seen) = grave.recv().expect("the thread has ended");
    // It may have been told to end before it had taken note of who left.
    assert_eq!(engine.step(), Ok(Progress::default()));
    engine.forest.assert_empty();
    assert_eq!(engine.waiting.len(), 0);
    let gauges = [&metrics.branches, &metrics.blocks_used, &metrics.waiting];
    assert_eq!(gauges.map(|gauge| gauge.get()), [0; 3]);
    seen
}

#[tokio::test]
async fn a_panic_at_any_command_ends_the_request_that_it_hit_and_no_other() {
    for number in 0..KINDS {
        for blow in [Blow::Before(number), Blow::After(number)] {
            let stage = stage(Some(blow));
            let handle = &stage.handle;
            // Others: one that waits for its turn, and one in the middle of decoding.
            let other = open(handle, "other").await.expect("opened");
            let (idle, busy) = (other.fork(8), other.fork(9));
            let before = hear(&mut decode(&idle, segment(10)), 20).await.expect("decoded");
            let mut running = decode(&busy, segment(100));

            // What was answered before the blow was answered: that request lives on
            // unharmed as far as its owner can see.
            let unheard = number == FREE || blow == Blow::After(COUNTS);
            let hit = life(handle, "victim").await;
            assert_eq!(hit, if unheard { Ok(()) } else { Err(EngineError::Fault) }, "{blow:?}");

            let all = hear(&mut running, usize::MAX).await.expect("it was not hit");
            assert_eq!(all, said(&prompt(1, LENGTH), 9, 100), "{blow:?}");
            let after = hear(&mut decode(&idle, segment(10)), 20).await.expect("it was not hit");
            assert_eq!([before, after].concat(), said(&prompt(1, LENGTH), 8, 20), "{blow:?}");
            assert!(other.counts().await.expect("alive").preempted > 0, "it went through the repair");
            well(handle).await;
            life(handle, "later").await.expect("the engine is as good as new");
            assert_eq!(stage.metrics.faults.get(), 1);
            drop((other, idle, busy));
            bury(stage);
        }
    }
}

#[tokio::test]
async fn a_life_sends_every_command() {
    let stage = stage(None);
    life(&stage.handle, "victim").await.expect("nothing is wrong");
    assert_eq!(stage.metrics.faults.get(), 0);
    assert_eq!(bury(stage), (0..KINDS).collect());
}

#[tokio::test]
async fn a_lease_on_a_request_that_a_fault_has_ended_says_so_and_nothing_else() {
    let stage = stage(Some(Blow::After(3)));
    let root = open(&stage.handle, "victim").await.expect("opened");
    let child = root.fork(1);
    child.append(vec![1]);
    // All of it is gone, whatever is asked, and forks of it are as well.
    assert_eq!(root.settle().await, Err(EngineError::Fault));
    assert_eq!(child.logits(vec![LENGTH], Vec::new()).await, Err(EngineError::Fault));
    assert_eq!(root.counts().await, Err(EngineError::Fault));
    let late = child.fork(2);
    late.truncate(3);
    late.abort();
    assert_eq!(hear(&mut decode(&late, segment(4)), 9).await, Err(EngineError::Fault));
    drop((root, child, late));
    bury(stage);
}

#[tokio::test]
async fn a_panic_in_a_step_ends_what_runs_and_the_engine_goes_on() {
    for blow in [Blow::Steps(1), Blow::StepsDone(1)] {
        let stage = stage(Some(blow));
        let other = open(&stage.handle, "other").await.expect("opened");
        let busy = other.fork(3);
        let mut running = decode(&busy, segment(100));
        assert_eq!(life(&stage.handle, "victim").await, Err(EngineError::Fault), "{blow:?}");
        // Nobody can tell which of them was to blame. It may have ended before.
        match hear(&mut running, usize::MAX).await {
            Ok(tokens) => assert_eq!(tokens, said(&prompt(1, LENGTH), 3, 100)),
            Err(error) => assert_eq!(error, EngineError::Fault),
        }
        assert_eq!(other.settle().await, Err(EngineError::Fault));
        well(&stage.handle).await;
        life(&stage.handle, "later").await.expect("the engine is as good as new");
        drop((other, busy));
        bury(stage);
    }
}

#[tokio::test]
async fn an_engine_that_panics_again_and_again_ends_and_everybody_is_told() {
    let stage = stage(Some(Blow::Steps(usize::MAX)));
    let other = open(&stage.handle, "other").await.expect("opened");
    let told = life(&stage.handle, "victim").await.expect_err("the engine breaks");
    assert!(matches!(told, EngineError::Fault | EngineError::Closed), "{told:?}");
    stage.handle.dead().await;
    assert_eq!(stage.handle.health(Duration::from_secs(60)), Health::Dead);
    assert_eq!(other.settle().await, Err(EngineError::Closed));
    assert_eq!(life(&stage.handle, "later").await, Err(EngineError::Closed));
}

#[test]
fn a_pass_that_fails_once_costs_nobody_a_token() {
    for panics in [false, true] {
        let mut passes = 0;
        let fault: Fault = Box::new(move |_| {
            passes += 1;
            match passes {
                4 if panics => panic!("as this test wants it"),
                4 => Err("as this test wants it".to_owned()),
                _ => Ok(()),
            }
        });
        let mut rig = rig_with(64, 64, fault);
        for root in [100, 200] {
            rig.settled(root, Open::new(prompt(root as TokenId % 7, 20), 90, 2));
            rig.fork(root, root + 1);
            rig.decode(root + 1, 30);
        }
        rig.run();
        for root in [100, 200] {
            let expected = said(&prompt(root as TokenId % 7, 20), root + 1, 30);
            assert_eq!(rig.heard[&(root + 1)], (expected, Some(Ok(End::Length))), "{root}");
            rig.free(root);
            rig.free(root + 1);
        }
        assert_eq!(rig.metrics.faults.get(), 1);
        rig.run();
        rig.assert_empty();
    }
}

/// The error that a reply has brought.
fn refused<T: std::fmt::Debug>(answer: Result<Result<T, EngineError>, impl std::fmt::Debug>) -> EngineError {
    answer.expect("answered at once").expect_err("refused")
}

#[test]
fn a_command_that_makes_no_sense_hurts_nobody_else() {
    let misuse = |error: &EngineError| matches!(error, EngineError::Misuse(_) | EngineError::Context { .. });
    for number in 0..KINDS {
        let mut rig = rig_with(64, 64, Box::new(|_| Ok(())));
        rig.settled(100, Open::new(prompt(1, LENGTH), 90, 2));
        rig.settled(200, Open::new(prompt(2, LENGTH), 90, 3));
        for branch in [101, 201] {
            rig.fork(branch / 100 * 100, branch);
            rig.decode(branch, 30);
        }
        rig.step().expect("runs");
        // 201 is busy, 200 is idle and has nothing pending, and there is no 999.
        let (events, mut inbox) = channel();
        let mut failed = |rig: &mut Rig, branch| {
            let report = Report::new(1, events.clone());
            rig.engine.apply(Command::Decode { branch, segment: segment(3), report });
            match inbox.try_recv() {
                Some((1, SegmentEvent::Failed(error))) => error,
                other => panic!("{other:?}"),
            }
        };
        let (reply, mut answer) = Reply::new();
        let error = match number {
            0 => {
                let mut opened: Opened = rig.open(300, Open::new(Arc::new([]), 9, 1));
                refused(opened.try_recv())
            }
            1 => {
                rig.fork(201, 202);
                let error = failed(&mut rig, 202);
                rig.free(202);
                error
            }
            2 => failed(&mut rig, 201),
            3 => {
                rig.engine.apply(Command::Append { branch: 200, tokens: vec![VOCAB as TokenId] });
                failed(&mut rig, 200)
            }
            4 => {
                rig.engine.apply(Command::Truncate { branch: 201, len: 3 });
                rig.engine.apply(Command::Abort { branch: 201 });
                let error = failed(&mut rig, 201);
                rig.heard.insert(201, (Vec::new(), None));
                error
            }
            5 => {
                let (reply, mut answer) = Reply::new();
                rig.engine.apply(Command::Settle { branch: 999, reply });
                refused(answer.try_recv())
            }
            6 => {
                let (reply, mut answer) = Reply::new();
                let (positions, ids) = (vec![3], Vec::new());
                rig.engine.apply(Command::Logits { branch: 200, positions, ids, reply });
                refused(answer.try_recv())
            }
            7 | 8 => {
                // Nobody waits for an answer to these, and nothing comes of them.
                rig.engine.apply(Command::Abort { branch: 200 });
                rig.engine.apply(Command::Abort { branch: 999 });
                rig.free(999);
                failed(&mut rig, 999)
            }
            _ => {
                rig.engine.apply(Command::Counts { request: 999, reply });
                refused(answer.try_recv())
            }
        };
        assert!(misuse(&error), "command {number}: {error:?}");
        rig.run();
        assert_eq!(rig.heard[&101], (said(&prompt(1, LENGTH), 101, 30), Some(Ok(End::Length))));
        assert_eq!(rig.metrics.faults.get(), 0, "that is no fault of the engine");
        for id in [100, 101, 200, 201] {
            rig.free(id);
        }
        rig.run();
        rig.assert_empty();
    }
}
