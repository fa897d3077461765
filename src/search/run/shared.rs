//! What the choices of one request have in common: where they report, what they
//! count, and what ends them from outside.

use super::{Delivery, RunError};
use crate::metrics::{Metrics, ModeMetrics};
use crate::plan::Plan;
use crate::search::event::{ChoiceEvent, StopReason};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// What the choices of one request share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) delivery: Delivery,
    /// Branches of one choice alive at once.
    pub(super) room: usize,
    pub(super) tell: mpsc::UnboundedSender<Told>,
    /// When the request came in.
    pub(super) arrived: Instant,
    /// Tokens generated so far, over all choices.
    pub(super) generated: Arc<AtomicU64>,
    /// Whether any choice has got a token yet.
    pub(super) spoke: AtomicBool,
    pub(super) limit: Limit,
    /// The name of the verifier that the mode asks.
    pub(super) verifier: Option<String>,
    pub(super) counts: ModeMetrics,
    pub(super) metrics: Arc<Metrics>,
    /// Dropped with the last of them.
    pub(super) _held: Box<dyn Any + Send + Sync>,
}

/// What a choice's task reports.
#[derive(Debug)]
pub(super) enum Told {
    /// Something to pass on.
    Event(ChoiceEvent),
    /// The end of a choice that was ended from outside before it had any text:
    /// an empty answer beside others, and an error where no choice has any.
    Bare(ChoiceEvent, RunError),
    /// The choice failed, and the request with it.
    Failed(RunError),
}

/// What ends a run from outside.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    pub(super) deadline: Option<Instant>,
    /// The deadline as the request knows it.
    pub(super) seconds: f64,
    pub(super) ending: watch::Receiver<bool>,
}

impl Limit {
    /// Waits until it is over, and says why.
    pub(super) async fn passed(mut self) -> StopReason {
        let deadline = self.deadline.unwrap_or_else(far_future);
        tokio::select! {
            () = sleep_until(deadline) => StopReason::Deadline,
            // A runner that is gone does not end what it started.
            () = async { if self.ending.wait_for(|ending| *ending).await.is_err() { std::future::pending().await } } => {
                StopReason::Shutdown
            }
        }
    }

    /// What a request without any text is told.
    pub(super) fn error(&self, reason: StopReason) -> RunError {
        match reason {
            StopReason::Shutdown => RunError::Shutdown,
            StopReason::Deadline
            | StopReason::Completed
            | StopReason::Tokens
            | StopReason::Branches
            | StopReason::Context
            | StopReason::VerifierTokens
            | StopReason::VerifierFault
            | StopReason::EngineFault => RunError::Deadline { seconds: self.seconds },
        }
    }
}

fn far_future() -> Instant {
    Instant::now() + std::time::Duration::from_secs(86_400 * 365)
}
