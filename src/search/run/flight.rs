//! Work on its way through the engine.

use crate::engine::{End, EngineError};
use crate::search::NodeId;
use tokio::time::Instant;

/// A piece of work that the engine is busy with.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) node: NodeId,
    pub(super) granted: u32,
    /// Logical time at which it began.
    pub(super) begun: u64,
    /// Tokens so far.
    pub(super) got: u32,
    /// Injected tokens among those still to come.
    pub(super) injected: u32,
    /// When its last token came.
    pub(super) last: Option<Instant>,
}

/// What came of a flight, not yet told.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) node: NodeId,
    pub(super) tokens: u32,
    pub(super) end: Result<End, EngineError>,
}
