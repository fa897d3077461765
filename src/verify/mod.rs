//! Scores for the steps of a solution, by a process reward model.
//!
//! A [`Verifier`] runs on an engine of its own. A request opens it once, which
//! computes the problem, and holds a [`Lease`] for every trajectory that it
//! scores; leases fork with the branches that they score, so a step costs its
//! own tokens only, whoever shares what came before. A verifier's token stream
//! is its own: the policy's text is encoded anew, as the model's [`Format`] asks.
//!
//! Deliberately absent: what becomes of scores. That is for strategies.

mod aggregate;
mod format;
mod lease;

use crate::engine::{EngineError, Handle, Open, Priority};
use crate::prompt::{Message, PromptError};
use std::sync::Arc;

pub use aggregate::Aggregate;
pub use format::{Format, FormatError, Kind, PrmConfig};
pub use lease::{Lease, Reading};

/// Scores steps. Clones are the same verifier.
#[derive(Debug, Clone)]
pub struct Verifier {
    source: Arc<Source>,
}

/// Where scores come from.
#[derive(Debug)]
struct Source {
    name: String,
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
    /// A conversation without a user's turn.
    #[error("there is no problem to verify: the conversation has no user message")]
    NoProblem,
    /// The problem or a step cannot be encoded.
    #[error("the verifier: {0}")]
    Prompt(#[from] PromptError),
    /// A step's tokens run into those of the step before.
    #[error("the verifier's tokenizer joins a step to the one before, so that it cannot be scored by steps")]
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
}

impl Verifier {
    /// A process reward model on an engine.
    #[must_use]
    pub fn new(name: String, engine: Handle, format: Format) -> Self {
        let caps = engine.caps();
        // A trajectory cannot share the last block of a problem that ends within one.
        let positions = caps.context.min(caps.pool_blocks.saturating_sub(1) * caps.block);
        Self { source: Arc::new(Source { name, engine, format, positions }) }
    }

    /// Its name, for reports.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.source.name
    }

    /// How the scores of steps become one, where nothing else is asked for.
    #[must_use]
    pub fn aggregate(&self) -> Aggregate {
        self.source.format.aggregate()
    }

    /// The engine that it runs on, for its health.
    #[must_use]
    pub fn engine(&self) -> &Handle {
        &self.source.engine
    }

    /// Opens a request: waits until it is admitted and the problem is computed.
    /// The lease stands before the first step; trajectories are forked from it.
    /// The problem is the last user turn.
    ///
    /// # Errors
    /// When the problem cannot be encoded or is too long, or the engine refuses it.
    pub async fn open(&self, conversation: &[Message], opening: Opening) -> Result<Lease, VerifyError> {
        let script = self.source.format.begin(conversation)?;
        let (needed, context) = (script.ids.len(), self.source.positions);
        if needed > context {
            return Err(VerifyError::Context { needed, context });
        }
        let open = Open {
            priority: opening.priority,
            salt: opening.salt,
            ..Open::new(script.ids.as_slice().into(), context, opening.width)
        };
        let root = self.source.engine.open(open).await?;
        root.settle().await?;
        Ok(Lease::new(self.clone(), root, script))
    }

    fn format(&self) -> &Format {
        &self.source.format
    }

    fn positions(&self) -> usize {
        self.source.positions
    }
}

#[cfg(test)]
mod tests;
