//! The one OS thread that owns an engine.
//!
//! Loop: take every command that waits, run a step, repeat; sleep when there is
//! nothing to run. A step that fails as a whole turns health to `Degraded`
//! until the next one succeeds. So does a panic in a command or a step after
//! which the engine can put itself in order. What failed has ended by then, so
//! that the next step may well be one over nothing, which succeeds at once: an
//! engine that nobody asks could not show otherwise that it is well. Who wants to
//! know how often it was not looks at the counter of faults. Where the engine
//! cannot put itself in order, or has failed [`FAULTS`] times without a step
//! between that has given anybody a token or logits, the thread ends, which closes
//! every channel, so that waiters see [`super::EngineError::Closed`] and health is
//! `Dead`: who fails whatever it is asked is not well because it idles between, nor
//! because it reads what it is told. A failed step that would be the last is proven
//! first: it may be the same prompt again and again that the model cannot take, and an
//! engine whose [`Engine::probe`] succeeds goes on. A panic is not proven, for a pass
//! of the model says nothing of what has panicked around it.
//! A thread that hangs can say nothing, so it leaves a [`Pulse`] that others read.

use super::handle::Message;
use super::{BranchId, Command, Engine, Handle, Progress};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// So many failures with no good step or probe between them end the engine: one may be
/// a request's, and its retry's another.
const FAULTS: u32 = 3;

/// How the engine thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Running, and the last step succeeded, be it one over nothing.
    Live,
    /// Running, but the last step failed: for a moment only, where nothing else is
    /// to be run.
    Degraded,
    /// It has had work for too long without finishing a step or a command.
    Stuck,
    /// The thread has ended.
    Dead,
}

/// When the thread last finished something, and whether it has work: two
/// atomics that it writes and anyone reads.
#[derive(Debug)]
pub(super) struct Pulse {
    origin: Instant,
    /// Milliseconds after `origin`.
    beat: AtomicU64,
    working: AtomicBool,
}

impl Pulse {
    fn new() -> Self {
        Self { origin: Instant::now(), beat: AtomicU64::new(0), working: AtomicBool::new(false) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something was finished, and there is more.
    fn beat(&self) {
        // The time first: a reader that sees work must not see an old beat.
        self.beat.store(self.now(), Ordering::Release);
        self.working.store(true, Ordering::Release);
    }

    fn rest(&self) {
        self.working.store(false, Ordering::Release);
    }

    /// How long it has had work without finishing anything; zero while idle.
    pub(super) fn silence(&self) -> Duration {
        if !self.working.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        Duration::from_millis(self.now().saturating_sub(self.beat.load(Ordering::Acquire)))
    }
}

/// Owns the engine's thread. Dropping it ends the thread after the step in hand
/// and waits for that; handles that are left then see a closed engine.
#[derive(Debug)]
pub struct EngineThread {
    thread: Option<JoinHandle<()>>,
    messages: mpsc::UnboundedSender<Message>,
}

/// Publishes `Dead` however the thread ends.
struct Obituary(watch::Sender<Health>);

impl Drop for Obituary {
    fn drop(&mut self) {
        self.0.send_replace(Health::Dead);
    }
}

/// Has the engine put itself in order after a panic; `false` where it cannot. What
/// the command said of leases is said again, for they are made and given back
/// whatever became of it.
fn recovered(engine: &mut impl Engine, culprit: Option<BranchId>, leases: Option<Command>) -> bool {
    let repair = AssertUnwindSafe(|| {
        let whole = engine.recover(culprit);
        if let Some(again) = leases.filter(|_| whole) {
            engine.apply(again);
        }
        whole
    });
    let whole = catch_unwind(repair).unwrap_or(false);
    match whole {
        true => tracing::error!(?culprit, "the engine panicked and goes on without what was to blame"),
        false => tracing::error!(?culprit, "the engine panicked and cannot go on"),
    }
    whole
}

/// Whether the engine shows that it works, whatever has failed before.
fn proven(engine: &mut impl Engine) -> bool {
    let works = catch_unwind(AssertUnwindSafe(|| engine.probe())).unwrap_or(false);
    match works {
        true => tracing::error!("steps have failed and the model works: they could not take what was asked"),
        false => tracing::error!("the engine has failed {FAULTS} times and cannot go on"),
    }
    works
}

impl EngineThread {
    /// Starts the thread on `engine`.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn spawn(mut engine: impl Engine) -> std::io::Result<(Self, Handle)> {
        let (messages, mut inbox) = mpsc::unbounded_channel();
        let (publish, health) = watch::channel(Health::Live);
        let pulse = Arc::new(Pulse::new());
        let handle = Handle::new(messages.clone(), engine.caps(), (health, Arc::clone(&pulse)));
        let run = move || {
            let obituary = Obituary(publish);
            // Whether there is something to run, and how often the engine has failed
            // since a step that has given anybody anything.
            let (mut busy, mut faults) = (false, 0);
            loop {
                let mut next = if busy {
                    inbox.try_recv().ok()
                } else {
                    pulse.rest();
                    inbox.blocking_recv()
                };
                pulse.beat();
                while let Some(message) = next {
                    let Message::Command(command) = message else { return };
                    let culprit = command.branch();
                    let leases = command.of_leases();
                    if catch_unwind(AssertUnwindSafe(|| engine.apply(command))).is_err() {
                        faults += 1;
                        if faults >= FAULTS || !recovered(&mut engine, Some(culprit), leases) {
                            return;
                        }
                        obituary.0.send_replace(Health::Degraded);
                    }
                    pulse.beat();
                    next = inbox.try_recv().ok();
                }
                let now = match catch_unwind(AssertUnwindSafe(|| engine.step())) {
                    Ok(Ok(Progress { ran, more })) => {
                        busy = more;
                        faults = if ran { 0 } else { faults };
                        Health::Live
                    }
                    Ok(Err(error)) => {
                        tracing::error!(%error, "engine step failed");
                        (busy, faults) = (true, faults + 1);
                        if faults >= FAULTS {
                            pulse.beat();
                            if !proven(&mut engine) {
                                return;
                            }
                            faults = 0;
                        }
                        Health::Degraded
                    }
                    Err(_) => {
                        (busy, faults) = (true, faults + 1);
                        if faults >= FAULTS || !recovered(&mut engine, None, None) {
                            return;
                        }
                        Health::Degraded
                    }
                };
                obituary.0.send_if_modified(|health| std::mem::replace(health, now) != now);
            }
        };
        let thread = std::thread::Builder::new().name("espalier-engine".to_owned()).spawn(run)?;
        Ok((Self { thread: Some(thread), messages }, handle))
    }

    /// Tells the thread to end and does not wait: for a process that ends, and
    /// for a thread that is stuck.
    pub fn abandon(mut self) {
        drop(self.thread.take());
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        // The thread may have ended by itself, and then nobody receives this.
        drop(self.messages.send(Message::Shutdown));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
