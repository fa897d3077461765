//! What handlers share: cheap handles, cloned per request.
//!
//! The port is open before the model is there, so everything that needs the
//! model is in [`Served`], behind a cell that is filled once: a request reads it
//! without a lock, and is refused with the progress while it is empty.

use super::admission::Gate;
use super::error::ApiError;
use super::serve::Phase;
use crate::engine::Health;
use crate::metrics::{Metrics, Rejection};
use crate::plan::Planner;
use crate::prompt::Tokenizer;
use crate::search::run::Runner;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Long conversations that are cut into tokens at once.
const LONG_PROMPTS: usize = 2;

/// Large bodies that are read at once, each of which takes many times its size for a
/// moment.
const LARGE_BODIES: usize = 2;

/// Limits of the HTTP surface. Defaults are the composition root's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The longest request body that is read, in bytes.
    pub body_limit_bytes: usize,
    /// Silence on a stream after which a comment keeps proxies from closing it.
    pub keep_alive: Duration,
    /// The longest that a chat request may take from its arrival; then it is
    /// answered with the best that there is.
    pub request_timeout: Duration,
    /// How long a request's head, and then its body, may take to arrive, and how long
    /// a client may take nothing of what it is sent.
    pub header_timeout: Duration,
    /// How long a connection may rest between two requests; no less than a head may take.
    pub idle_timeout: Duration,
    /// Chat requests in flight, at most; at least 1.
    pub max_concurrency: usize,
    /// Chat requests that may wait beyond those.
    pub max_queue: usize,
    /// How long the engine may have work without finishing any before it
    /// counts as stuck.
    pub stuck_after: Duration,
    /// Origins whose pages may call from a browser, `*` for all; empty for none.
    pub allow_origins: Vec<String>,
}

/// The served model, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// The name in requests.
    pub id: String,
    /// Other names that requests may give it.
    pub aliases: Vec<String>,
    /// When it was made, in Unix seconds.
    pub created: u64,
    /// Who made it.
    pub owned_by: String,
    /// The longest sequence, prompt included, in tokens.
    pub context: usize,
}

impl ModelCard {
    /// Whether a request that names `name` means this model.
    #[must_use]
    pub fn answers_to(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// Its names, the reported one first.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        [&self.id].into_iter().chain(&self.aliases).map(String::as_str)
    }
}

/// A model that is ready to answer.
#[derive(Debug)]
pub struct Served {
    /// Turns parameters into plans.
    pub planner: Planner,
    /// Starts plans.
    pub runner: Runner,
    /// Spells out the tokens of log-probabilities.
    pub tokenizer: Arc<Tokenizer>,
    /// How clients see it.
    pub model: ModelCard,
}

/// How far loading has come, in bytes. Written by whoever loads.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Notes that `done` of `total` bytes are there; a total of 0 is unknown.
    pub fn set(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done.min(total), Ordering::Relaxed);
    }

    /// Bytes loaded, and bytes to load.
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        let total = self.total.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed).min(total), total)
    }
}

/// Everything that a handler needs.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The model, once it is loaded.
    served: Arc<OnceLock<Served>>,
    /// How far loading has come.
    pub progress: Arc<Progress>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Limits.
    pub config: Arc<Config>,
    /// Who may run.
    pub(super) gate: Gate,
    /// Who may read a large body.
    pub(super) large_bodies: Arc<Semaphore>,
    /// Who may cut a long conversation into tokens.
    pub(super) long_prompts: Arc<Semaphore>,
    /// Whether the server is going down.
    pub(super) phase: Arc<watch::Sender<Phase>>,
}

impl AppState {
    /// The state of a server that has no model yet.
    #[must_use]
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        Self {
            served: Arc::default(),
            progress: Arc::default(),
            gate: Gate::new(config.max_concurrency, config.max_queue, Arc::clone(&metrics)),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
            long_prompts: Arc::new(Semaphore::new(LONG_PROMPTS)),
            metrics,
            config: Arc::new(config),
            phase: Arc::new(watch::Sender::new(Phase::Serving)),
        }
    }

    /// Gives it its model, from where requests are answered. A second one is
    /// ignored.
    pub fn install(&self, served: Served) {
        if self.served.set(served).is_err() {
            tracing::error!("a second model was loaded and is not served");
        }
    }

    /// The model.
    ///
    /// # Errors
    /// While it is not loaded, with the progress.
    pub fn served(&self) -> Result<&Served, ApiError> {
        self.served.get().ok_or_else(|| {
            let (done, total) = self.progress.get();
            ApiError::Loading { done, total }
        })
    }

    /// How the engine is doing; `None` before there is one.
    pub(super) fn health(&self) -> Option<Health> {
        Some(self.served.get()?.runner.health(self.config.stuck_after))
    }

    /// Whether new work may be taken on.
    ///
    /// # Errors
    /// Once the server is going down.
    pub(super) fn accepting(&self) -> Result<(), ApiError> {
        match *self.phase.borrow() {
            Phase::Serving => Ok(()),
            Phase::Draining | Phase::Closing => Err(ApiError::Draining),
        }
    }

    /// Ends every run with the best that it has, and turns away those that wait.
    pub(super) fn end_all(&self) {
        self.gate.close();
        if let Some(served) = self.served.get() {
            served.runner.end_all();
        }
    }

    /// Counts a refusal, where it is one of those that have a series.
    pub(super) fn note(&self, error: &ApiError) {
        let reason = match error {
            ApiError::Loading { .. } => Rejection::Loading,
            ApiError::Draining => Rejection::Draining,
            ApiError::Overloaded { .. } => Rejection::QueueFull,
            ApiError::Waited { .. } => Rejection::Waited,
            ApiError::ReadTimeout { .. } => return self.metrics.request_timeouts.inc(),
            _ => return,
        };
        self.metrics.reject(reason);
    }
}
