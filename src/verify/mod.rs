//! Scores for the steps of a solution: by a process reward model, here or on
//! another server, or by a language model that judges.
//!
//! A request opens a [`Verifier`] once, which computes the problem where that can
//! be done apart, and holds a [`Lease`] for every trajectory that it scores;
//! leases fork with the branches that they score. A verifier's token stream is
//! its own: the policy's text is encoded anew, as the model's [`Format`] asks.
//! On an engine of its own a step costs its own tokens only, whoever shares what
//! came before.
//!
//! Deliberately absent: what becomes of scores. That is for strategies.

mod aggregate;
mod clean;
mod config;
mod format;
mod judge;
mod lease;
mod remote;

use crate::engine::{EngineError, Handle, Open, Priority};
use crate::metrics::Metrics;
use crate::prompt::{Message, PromptError};
use format::Script;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::runtime::RuntimeFlavor;

pub use aggregate::Aggregate;
pub use config::{Kind, PrmConfig};
pub use format::{Format, FormatError, FormatParts};
pub use judge::{Judge, JudgeConfig};
pub use lease::{Lease, Reading, Scores};
pub use remote::{ApiKey, Remote, RemoteConfig, RemoteError};

/// Scores steps. Clones are the same verifier.
#[derive(Debug, Clone)]
pub struct Verifier {
    source: Arc<Source>,
    metrics: Option<Arc<Metrics>>,
}

/// Where scores come from.
#[derive(Debug)]
struct Source {
    name: String,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    /// A process reward model on an engine of its own.
    Engine(Streams),
    /// A process reward model on another server.
    Remote(Remote),
    /// A language model on an engine, which may be the policy's.
    Judge(Handle, Judge),
}

/// An engine that reads token streams of a format.
#[derive(Debug)]
struct Streams {
    engine: Handle,
    format: Format,
    /// The longest stream, in tokens: the context, or what the pool holds.
    positions: usize,
}

/// What a request asks of a verifier.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    /// Leases alive at once, at most, beside the one that is opened.
    pub width: usize,
    /// The request's class.
    pub priority: Priority,
    /// Keeps its prefixes apart from those of requests with another salt.
    pub salt: Option<Arc<str>>,
}

/// Why there is no score.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VerifyError {
    /// The verifier's engine refused or failed.
    #[error("the verifier: {0}")]
    Engine(#[from] EngineError),
    /// The solution is longer than the verifier can read.
    #[error("the verifier reads at most {context} tokens, and the solution is {needed} to it")]
    Context {
        /// Tokens of the solution, with the problem.
        needed: usize,
        /// Tokens that the verifier can hold.
        context: usize,
    },
    /// A conversation without a user's turn, or with an empty one.
    #[error("there is no problem to verify: the conversation has no user message")]
    NoProblem,
    /// The problem or a step cannot be encoded.
    #[error("the verifier: {0}")]
    Prompt(#[from] PromptError),
    /// A step's tokens run into those of its neighbours, or into its tag.
    #[error("the verifier's tokenizer joins a step to its neighbours, so that it cannot be scored by steps")]
    Joined,
    /// A score that is no probability.
    #[error("the verifier gave the score {0}, which does not lie from 0 to 1")]
    Score(String),
    /// Numbers that do not fit the question.
    #[error("the verifier gave {found} numbers where {expected} were asked for")]
    Shape {
        /// How many were asked for.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// Another server takes a solution to be of another number of steps.
    #[error("the verifier scored {found} steps where {expected} were asked about")]
    Steps {
        /// How many were asked about.
        expected: usize,
        /// How many it scored.
        found: usize,
    },
    /// Another server did not score. Where that is, and what it says, is for logs.
    #[error("the verifier {}", .0.to_a_client())]
    Remote(#[from] RemoteError),
}

impl VerifyError {
    /// Whether it concerns the solution that was read and no other, so that the
    /// verifier can go on with those. It comes again with all that begins like it.
    #[must_use]
    pub fn concerns_one_solution(&self) -> bool {
        match self {
            Self::Context { .. }
            | Self::Prompt(_)
            | Self::Joined
            | Self::Score(_)
            | Self::Steps { .. }
            // What was asked cannot be read: too long to its model, above all.
            | Self::Remote(RemoteError::Refused { status: 400 | 413 | 422, .. }) => true,
            // A judge's question is a request of its own, and this one is too long.
            Self::Engine(error) => {
                matches!(error, EngineError::Context { .. } | EngineError::Pool { .. })
            }
            Self::NoProblem | Self::Shape { .. } | Self::Remote(_) => false,
        }
    }
}

impl Verifier {
    /// A process reward model on an engine.
    #[must_use]
    pub fn new(name: String, engine: Handle, format: Format) -> Self {
        let caps = engine.caps();
        // A trajectory cannot share the last block of a problem that ends within one.
        let positions = caps.context.min(caps.pool_blocks.saturating_sub(1) * caps.block);
        Self::over(name, Backend::Engine(Streams { engine, format, positions }))
    }

    /// A process reward model on another server.
    #[must_use]
    pub fn remote(name: String, remote: Remote) -> Self {
        Self::over(name, Backend::Remote(remote))
    }

    /// A language model that judges, on the engine that it runs on.
    #[must_use]
    pub fn judge(name: String, engine: Handle, judge: Judge) -> Self {
        Self::over(name, Backend::Judge(engine, judge))
    }

    fn over(name: String, backend: Backend) -> Self {
        Self { source: Arc::new(Source { name, backend }), metrics: None }
    }

    /// The same verifier, which counts what it does.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Its name, for reports.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.source.name
    }

    /// How the scores of steps become one, where nothing else is asked for.
    #[must_use]
    pub fn aggregate(&self) -> Aggregate {
        match &self.source.backend {
            Backend::Engine(streams) => streams.format.aggregate(),
            Backend::Remote(remote) => remote.aggregate(),
            Backend::Judge(_, judge) => judge.aggregate(),
        }
    }

    /// The engine that it runs on, for its health; none where it is elsewhere.
    #[must_use]
    pub fn engine(&self) -> Option<&Handle> {
        match &self.source.backend {
            Backend::Engine(Streams { engine, .. }) | Backend::Judge(engine, _) => Some(engine),
            Backend::Remote(_) => None,
        }
    }

    /// Opens a request: on an engine of its own, waits until it is admitted and
    /// the problem is computed. The lease stands before the first step;
    /// trajectories are forked from it. The problem is the last user turn.
    ///
    /// # Errors
    /// When the problem cannot be encoded or is too long, or the engine refuses it.
    pub async fn open(&self, conversation: &[Message], opening: Opening) -> Result<Lease, VerifyError> {
        let opened = self.begin(conversation, opening).await;
        if let Ok(lease) = &opened
            && let Some(metrics) = &self.metrics
        {
            metrics.verifier_tokens.inc_by(u64::from(lease.opening_tokens()));
        }
        self.note(&opened);
        opened
    }

    async fn begin(&self, conversation: &[Message], opening: Opening) -> Result<Lease, VerifyError> {
        let problem = problem(conversation)?;
        let Backend::Engine(Streams { engine, format, positions }) = &self.source.backend else {
            let problem = aside(problem.len(), || self.clean(problem).into_owned());
            return Ok(Lease::of_transcript(self.clone(), problem, opening));
        };
        let script = self.script(format, problem)?;
        let (needed, context) = (script.ids.len(), *positions);
        if needed > context {
            return Err(VerifyError::Context { needed, context });
        }
        let Opening { width, priority, salt } = opening;
        let open = Open { priority, salt, ..Open::new(script.ids.as_slice().into(), context, width) };
        let root = engine.open(open).await?;
        root.settle().await?;
        Ok(Lease::of_stream(self.clone(), root, script))
    }

    /// What opening a request on that conversation costs, in tokens.
    ///
    /// # Errors
    /// When the problem cannot be encoded.
    pub fn opening_tokens(&self, conversation: &[Message]) -> Result<u32, VerifyError> {
        let Backend::Engine(Streams { format, .. }) = &self.source.backend else { return Ok(0) };
        let script = self.script(format, problem(conversation)?)?;
        Ok(u32::try_from(script.ids.len()).unwrap_or(u32::MAX))
    }

    /// The stream before the first step of a solution.
    fn script(&self, format: &Format, problem: &str) -> Result<Script, VerifyError> {
        aside(problem.len(), || format.begin(self.clean(problem).into_owned()))
    }

    /// The text between steps.
    fn separator(&self) -> &str {
        match &self.source.backend {
            Backend::Engine(streams) => streams.format.separator(),
            Backend::Remote(remote) => remote.separator(),
            Backend::Judge(_, judge) => judge.separator(),
        }
    }

    /// Whether it reads lines as they are, blank ones too.
    fn keeps_lines(&self) -> bool {
        matches!(&self.source.backend, Backend::Engine(streams) if streams.format.keeps_lines())
    }

    /// A text without what the verifier could take for a marker.
    fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.source.backend {
            Backend::Engine(streams) => streams.format.cleaner().clean(text),
            Backend::Remote(remote) => remote.cleaner().clean(text),
            Backend::Judge(_, judge) => judge.cleaner().clean(text),
        }
    }

    /// Logs and counts what failed.
    fn note<T>(&self, outcome: &Result<T, VerifyError>) {
        let Err(error) = outcome else { return };
        match error {
            VerifyError::Remote(error) => tracing::warn!(%error, "the verifier gave no score"),
            _ => tracing::warn!(%error, "the verifier gave no score"),
        }
        if let Some(metrics) = &self.metrics {
            metrics.verifier_errors.inc();
        }
    }
}

/// The problem of a conversation: its last user turn.
fn problem(conversation: &[Message]) -> Result<&str, VerifyError> {
    let problem = conversation.iter().rev().find(|message| message.role == "user");
    Ok(&problem.ok_or(VerifyError::NoProblem)?.content)
}

/// Bytes of a text that is read at once, which takes some milliseconds.
const SHORT: usize = 32 << 10;

/// Reads a text of so many bytes. Nobody else on the runtime waits while that is a
/// long one, where there are other threads to go on with them.
fn aside<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    let runtime = || tokio::runtime::Handle::try_current();
    if bytes > SHORT && runtime().is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::MultiThread) {
        tokio::task::block_in_place(read)
    } else {
        read()
    }
}

/// A score, if it is a probability.
fn probability(score: f64) -> Result<f64, VerifyError> {
    if (0.0..=1.0).contains(&score) { Ok(score) } else { Err(VerifyError::Score(score.to_string())) }
}

/// The softmax of two logits, at the first: its probability against the other.
fn against(good: f32, bad: f32) -> Result<f64, VerifyError> {
    probability(1.0 / (1.0 + (f64::from(bad) - f64::from(good)).exp()))
}

#[cfg(test)]
mod tests;
