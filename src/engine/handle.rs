//! The handle and the leases: how async code holds branches of an engine.
//!
//! Ids are drawn on this side, and a lease exists before its command is sent,
//! so a future that is dropped while it waits leaves nothing behind: the free
//! follows the open through the same queue. That queue is unbounded because
//! `Drop` must neither block nor fail; it is bounded in fact, since every entry
//! belongs to a lease and leases are bounded by the plans that are admitted.

use super::thread::Pulse;
use super::{Caps, EngineError, Events, Health, Reply, Report, RequestCounts, Segment};
use crate::token::TokenId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Names a branch for the lifetime of an engine.
pub type BranchId = u64;

/// Names a request (a root and all that was forked from it).
pub type RequestId = u64;

/// How much a request matters beside others. Its weight is its share of a step;
/// its handicap is by how many later requests of the highest class it may be
/// overtaken where memory is short, so that no class starves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Before others.
    High,
    /// As most are.
    #[default]
    Normal,
    /// What can wait.
    Low,
}

impl Priority {
    /// Shares of a step.
    #[must_use]
    pub fn weight(self) -> u32 {
        match self {
            Priority::High => 4,
            Priority::Normal => 2,
            Priority::Low => 1,
        }
    }

    /// Later requests of class `High` that may go before it.
    #[must_use]
    pub fn handicap(self) -> u64 {
        match self {
            Priority::High => 0,
            Priority::Normal => 64,
            Priority::Low => 1024,
        }
    }
}

/// What a request asks of the engine before it may start.
#[derive(Debug, Clone)]
pub struct Open {
    /// The tokens that every branch of the request begins with.
    pub prompt: Arc<[TokenId]>,
    /// The longest that any branch will get, prompt included, in tokens.
    pub positions: usize,
    /// The most branches alive at once beside the root.
    pub width: usize,
    /// Branches that must fit at once for the request to get anywhere; while it
    /// runs it is cut below them only for such branches of requests that come
    /// first. Every mode gets on with one: a search that asked for more would keep
    /// a chat out of a full pool until it ends, instead of making way branch by
    /// branch.
    pub minimum: usize,
    /// Its class.
    pub priority: Priority,
    /// Keeps its prefixes apart from those of requests with another salt.
    pub salt: Option<Arc<str>>,
}

impl Open {
    /// A request of normal priority that needs one branch at a time and shares
    /// prefixes with all others that name no salt.
    #[must_use]
    pub fn new(prompt: Arc<[TokenId]>, positions: usize, width: usize) -> Self {
        Self { prompt, positions, width, minimum: 1, priority: Priority::Normal, salt: None }
    }
}

/// Everything that can be asked of an engine.
#[derive(Debug)]
pub enum Command {
    /// Admit a request and create its root branch; answers once admitted.
    Open {
        /// The root's id, which names the request too.
        root: BranchId,
        /// What to admit.
        open: Open,
        /// Told when the request is admitted.
        reply: Reply<()>,
    },
    /// Create a branch that shares all of its parent's positions.
    Fork {
        /// A settled branch.
        parent: BranchId,
        /// The new branch's id.
        child: BranchId,
        /// Key of the new branch's random numbers.
        key: u64,
    },
    /// Decode on a branch.
    Decode {
        /// The branch.
        branch: BranchId,
        /// What to decode.
        segment: Segment,
        /// Where the segment reports.
        report: Report,
    },
    /// Put tokens at the end of an idle branch.
    Append {
        /// The branch.
        branch: BranchId,
        /// The tokens.
        tokens: Vec<TokenId>,
    },
    /// Shorten an idle branch to its first `len` tokens.
    Truncate {
        /// The branch.
        branch: BranchId,
        /// Tokens to keep.
        len: usize,
    },
    /// Compute what is pending and keep the last position's logits, so that
    /// forks need not compute them again.
    Settle {
        /// The branch.
        branch: BranchId,
        /// Told when done.
        reply: Reply<()>,
    },
    /// Compute what is pending and report logits on the way.
    Logits {
        /// The branch.
        branch: BranchId,
        /// Positions that are pending, ascending.
        positions: Vec<usize>,
        /// Ids to report; empty for the whole vocabulary.
        ids: Vec<TokenId>,
        /// One row per position.
        reply: Reply<Vec<Vec<f32>>>,
    },
    /// End a branch's segment within one step.
    Abort {
        /// The branch.
        branch: BranchId,
    },
    /// Forget a branch.
    Free {
        /// The branch.
        branch: BranchId,
    },
    /// Report a request's counters.
    Counts {
        /// The request.
        request: RequestId,
        /// Told the counters.
        reply: Reply<RequestCounts>,
    },
}

impl Command {
    /// The branch that it is about: what is to blame where it breaks the engine.
    #[must_use]
    pub fn branch(&self) -> BranchId {
        match self {
            Command::Open { root: branch, .. }
            | Command::Fork { parent: branch, .. }
            | Command::Decode { branch, .. }
            | Command::Append { branch, .. }
            | Command::Truncate { branch, .. }
            | Command::Settle { branch, .. }
            | Command::Logits { branch, .. }
            | Command::Abort { branch }
            | Command::Free { branch }
            | Command::Counts { request: branch, .. } => *branch,
        }
    }

    /// The command again, where it says which leases there are: that is so,
    /// whatever becomes of the command.
    pub(super) fn of_leases(&self) -> Option<Command> {
        match *self {
            Command::Fork { parent, child, key } => Some(Command::Fork { parent, child, key }),
            Command::Free { branch } => Some(Command::Free { branch }),
            Command::Open { .. }
            | Command::Decode { .. }
            | Command::Append { .. }
            | Command::Truncate { .. }
            | Command::Settle { .. }
            | Command::Logits { .. }
            | Command::Abort { .. }
            | Command::Counts { .. } => None,
        }
    }
}

/// What goes through the queue to the engine's thread.
#[derive(Debug)]
pub(super) enum Message {
    /// For the engine.
    Command(Command),
    /// For the thread: end now, whoever still holds a handle.
    Shutdown,
}

#[derive(Debug)]
struct Link {
    commands: mpsc::UnboundedSender<Message>,
    next: AtomicU64,
}

impl Link {
    fn draw(&self) -> BranchId {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A send fails only when the engine has ended; whoever waits for a reply
    /// then sees its channel closed.
    fn send(&self, command: Command) {
        drop(self.commands.send(Message::Command(command)));
    }

    /// Sends at once; the answer is waited for apart from the lease.
    fn ask<T, F>(&self, command: F) -> impl Future<Output = Result<T, EngineError>> + use<T, F>
    where
        F: FnOnce(Reply<T>) -> Command,
    {
        let (reply, answer) = Reply::new();
        self.send(command(reply));
        async { answer.await.unwrap_or(Err(EngineError::Closed)) }
    }
}

/// A cloneable way to reach an engine.
#[derive(Debug, Clone)]
pub struct Handle {
    link: Arc<Link>,
    caps: Arc<Caps>,
    health: watch::Receiver<Health>,
    pulse: Arc<Pulse>,
}

impl Handle {
    pub(super) fn new(
        commands: mpsc::UnboundedSender<Message>,
        caps: Caps,
        (health, pulse): (watch::Receiver<Health>, Arc<Pulse>),
    ) -> Self {
        let link = Arc::new(Link { commands, next: AtomicU64::new(1) });
        Self { link, caps: Arc::new(caps), health, pulse }
    }

    /// What the engine can do.
    #[must_use]
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Whether the engine thread is alive and its last step went well. It is
    /// stuck once it has had work for longer than `patience` without finishing anything.
    #[must_use]
    pub fn health(&self, patience: Duration) -> Health {
        match *self.health.borrow() {
            Health::Live | Health::Degraded if self.pulse.silence() > patience => Health::Stuck,
            health => health,
        }
    }

    /// Waits until the engine thread has ended. What it still had in hand will
    /// not be reported any more.
    pub async fn dead(&self) {
        // An error means that the publisher is gone, which is the same news.
        drop(self.health.clone().wait_for(|health| *health == Health::Dead).await);
    }

    /// Admits a request: waits until there is memory for it to begin and returns the
    /// root branch, whose prompt is not computed yet ([`Branch::settle`] does that).
    ///
    /// # Errors
    /// When the request can never fit, or the engine has ended.
    pub async fn open(&self, open: Open) -> Result<Branch, EngineError> {
        let id = self.link.draw();
        let root = Branch { id, request: id, link: Arc::clone(&self.link) };
        self.link.ask(|reply| Command::Open { root: id, open, reply }).await?;
        Ok(root)
    }
}

/// One growing token sequence on an engine, held as a lease.
#[derive(Debug)]
pub struct Branch {
    id: BranchId,
    request: RequestId,
    link: Arc<Link>,
}

impl Branch {
    /// A new branch that shares every position of this one, copying no KV.
    /// `key` seeds its random numbers. This branch must be settled: idle, with
    /// nothing pending; else the first segment on the fork fails.
    #[must_use]
    pub fn fork(&self, key: u64) -> Branch {
        let child = self.link.draw();
        let lease = Branch { id: child, request: self.request, link: Arc::clone(&self.link) };
        self.link.send(Command::Fork { parent: self.id, child, key });
        lease
    }

    /// Starts a segment, which reports to `events` under the number `work`.
    pub fn decode(&self, segment: Segment, work: u64, events: &Events) {
        let report = Report::new(work, events.clone());
        self.link.send(Command::Decode { branch: self.id, segment, report });
    }

    /// Puts tokens at the end of the branch, to be computed when needed.
    pub fn append(&self, tokens: Vec<TokenId>) {
        self.link.send(Command::Append { branch: self.id, tokens });
    }

    /// Shortens the branch to its first `len` tokens, at least one.
    pub fn truncate(&self, len: usize) {
        self.link.send(Command::Truncate { branch: self.id, len });
    }

    /// Ends the running segment within one step.
    pub fn abort(&self) {
        self.link.send(Command::Abort { branch: self.id });
    }

    /// Computes what is pending and keeps the last logits for forks.
    ///
    /// # Errors
    /// When the engine failed or has ended.
    pub async fn settle(&self) -> Result<(), EngineError> {
        self.settling().await
    }

    /// The same, begun at once, for one who does other things meanwhile.
    pub fn settling(&self) -> impl Future<Output = Result<(), EngineError>> + Send + use<> {
        let branch = self.id;
        self.link.ask(move |reply| Command::Settle { branch, reply })
    }

    /// Computes what is pending and returns the logits at `positions`, which
    /// must be ascending and pending: one row per position, one number per id
    /// of `ids` (empty: the whole vocabulary). The work begins at once, and the
    /// future only waits for it: an error when a position is not pending, or the
    /// engine failed or has ended.
    pub fn logits(
        &self,
        positions: Vec<usize>,
        ids: Vec<TokenId>,
    ) -> impl Future<Output = Result<Vec<Vec<f32>>, EngineError>> + Send + 'static + use<> {
        let branch = self.id;
        self.link.ask(move |reply| Command::Logits { branch, positions, ids, reply })
    }

    /// The engine's own counters of this branch's request.
    ///
    /// # Errors
    /// When the engine has ended.
    pub async fn counts(&self) -> Result<RequestCounts, EngineError> {
        self.link.ask(|reply| Command::Counts { request: self.request, reply }).await
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        self.link.send(Command::Free { branch: self.id });
    }
}
