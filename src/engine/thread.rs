//! The one OS thread that owns an engine.
//!
//! Loop: take every command that waits, run a step, repeat; sleep when there is
//! nothing to run. A step that fails as a whole turns health to `Degraded`
//! until the next one succeeds; a panic ends the thread, which closes every
//! channel, so that waiters see [`super::EngineError::Closed`] and health is `Dead`.

use super::handle::Message;
use super::{Engine, Handle};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, watch};

/// How the engine thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Running, and the last step succeeded.
    Live,
    /// Running, but the last step failed.
    Degraded,
    /// The thread has ended.
    Dead,
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

impl EngineThread {
    /// Starts the thread on `engine`.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn spawn(mut engine: impl Engine) -> std::io::Result<(Self, Handle)> {
        let (messages, mut inbox) = mpsc::unbounded_channel();
        let (publish, health) = watch::channel(Health::Live);
        let handle = Handle::new(messages.clone(), engine.caps(), health);
        let run = move || {
            let obituary = Obituary(publish);
            let mut busy = false;
            loop {
                let mut next = if busy { inbox.try_recv().ok() } else { inbox.blocking_recv() };
                while let Some(message) = next {
                    match message {
                        Message::Command(command) => engine.apply(command),
                        Message::Shutdown => return,
                    }
                    next = inbox.try_recv().ok();
                }
                let now = match engine.step() {
                    Ok(more) => {
                        busy = more;
                        Health::Live
                    }
                    Err(error) => {
                        tracing::error!(%error, "engine step failed");
                        busy = true;
                        Health::Degraded
                    }
                };
                obituary.0.send_if_modified(|health| std::mem::replace(health, now) != now);
            }
        };
        let thread = std::thread::Builder::new().name("espalier-engine".to_owned()).spawn(run)?;
        Ok((Self { thread: Some(thread), messages }, handle))
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
