//! Work on its way through the engine and the verifier.

use crate::engine::{End, EngineError};
use crate::search::{NodeId, Until};
use crate::token::TokenId;
use tokio::time::Instant;

/// A piece of work that the engine is busy with.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) node: NodeId,
    pub(super) granted: u32,
    /// Logical time at which it began.
    pub(super) begun: u64,
    /// Injected tokens among those still to come.
    pub(super) injected: u32,
    /// When the engine was asked, where its tokens are heard of together with its end, and
    /// not as they come.
    pub(super) quiet: Option<Instant>,
    /// When its last token came, where they are heard of as they come.
    pub(super) last: Option<Instant>,
    pub(super) until: Until,
    /// Whether a verifier is to score what comes of it.
    pub(super) score: bool,
    pub(super) grown: Growth,
}

impl Flight {
    /// The mean time between tokens, in seconds, and how many such times there were, of a
    /// flight whose tokens were heard of together.
    pub(super) fn pace(&self) -> (f64, u32) {
        let Some(asked) = self.quiet else { return (0.0, 0) };
        let sampled = self.grown.logprob.1;
        (asked.elapsed().as_secs_f64() / f64::from(sampled.max(1)), sampled.saturating_sub(1))
    }
}

/// What a piece of work has added.
#[derive(Debug, Clone, Default)]
pub(super) struct Growth {
    pub(super) ids: Vec<TokenId>,
    /// Log-probabilities of the sampled ones: their sum and number.
    pub(super) logprob: (f64, u32),
    /// Their confidences, where the mode reads them.
    pub(super) confidences: Vec<f32>,
}

impl Growth {
    /// Tokens so far.
    pub(super) fn tokens(&self) -> u32 {
        u32::try_from(self.ids.len()).unwrap_or(u32::MAX)
    }
}

/// What came of a flight, not yet told.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) node: NodeId,
    pub(super) grown: Growth,
    pub(super) end: Result<End, EngineError>,
    pub(super) scoring: Scoring,
}

/// How far the scoring of a landing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scoring {
    /// There is nothing to score.
    Unasked,
    /// It has not been sent to the verifier.
    Due,
    /// The verifier is at it.
    Out,
    /// The node has its scores.
    Done,
    /// There will be none.
    Failed,
}
