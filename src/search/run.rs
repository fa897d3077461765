//! Drives strategies over leases on an engine: the only async file of `search`
//! and the only holder of leases.
//!
//! - *Exact budgets*: a piece of work is granted at most what the budget has
//!   left after everything in flight took all of its grant.
//! - *Logical time*: outcomes reach the strategy ordered by (tokens generated
//!   along the chain of work that led to them, work id). One is delivered once
//!   nothing in flight can still come before it, so what a strategy sees depends
//!   on seeds, never on load. A deadline or a fault is exempt: it ends what is
//!   in flight where it stands.
//! - *Cancellation*: dropping [`Running`] aborts its tasks, which drops their
//!   leases, which frees their branches before the engine's next step.

mod choice;
mod emit;

use super::event::{ChoiceEvent, Event};
use crate::engine::{Branch, EngineError, Handle, Open, RequestCounts};
use crate::metrics::Metrics;
use crate::plan::Plan;
use choice::Choice;
use std::sync::Arc;
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Starts runs.
#[derive(Debug, Clone)]
pub struct Runner {
    engine: Handle,
    metrics: Arc<Metrics>,
}

/// How a client gets its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As it is decoded, where the mode allows it.
    Live,
    /// The same, and how every branch grows on the way.
    Watched,
    /// Once it is selected.
    Whole,
}

/// Why a request could not be answered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The deadline passed before there was any text.
    #[error("the deadline of {seconds} s passed before there was an answer")]
    Deadline {
        /// The deadline.
        seconds: f64,
    },
}

/// A request under way. Dropping it cancels every branch.
#[derive(Debug)]
pub struct Running {
    events: mpsc::UnboundedReceiver<Result<ChoiceEvent, RunError>>,
    /// Choices that have not sent their `Done`.
    left: usize,
    root: Arc<Branch>,
    _tasks: JoinSet<()>,
}

impl Runner {
    /// A runner over an engine.
    #[must_use]
    pub fn new(engine: Handle, metrics: Arc<Metrics>) -> Self {
        Self { engine, metrics }
    }

    /// The engine, for its caps and health.
    #[must_use]
    pub fn engine(&self) -> &Handle {
        &self.engine
    }

    /// Admits a plan and starts its choices.
    ///
    /// # Errors
    /// When the engine refuses it, or the deadline passes before it is admitted.
    pub async fn start(&self, plan: Plan, delivery: Delivery) -> Result<Running, RunError> {
        let deadline = plan.deadline.map(|limit| Instant::now() + limit);
        let open = Open { prompt: Arc::clone(&plan.prompt), positions: plan.positions, width: plan.live };
        let root = match deadline {
            Some(at) => timeout_at(at, self.engine.open(open)).await.map_err(|_| expired(&plan))?,
            None => self.engine.open(open).await,
        };
        let root = Arc::new(root?);
        let (send, events) = mpsc::unbounded_channel();
        // Choices that cannot all be alive at once take turns.
        let room = (plan.live / plan.choices.len().max(1)).max(1);
        let turns = Arc::new(Semaphore::new((plan.live / room).max(1)));
        let prefill = Arc::new(OnceCell::new());
        let plan = Arc::new(plan);
        let mut tasks = JoinSet::new();
        for index in 0..plan.choices.len() {
            let choice = Choice::new(index, &plan, delivery, (&self.metrics, &send, room));
            let (root, turns, prefill) = (Arc::clone(&root), Arc::clone(&turns), Arc::clone(&prefill));
            let (plan, send, engine) = (Arc::clone(&plan), send.clone(), self.engine.clone());
            tasks.spawn(async move {
                let begin = async {
                    let turn = turns.acquire_owned().await;
                    prefill.get_or_init(|| root.settle()).await.clone().map(|()| turn)
                };
                let turn = timeout_at(deadline.unwrap_or_else(far_future), begin).await;
                let outcome = match turn {
                    Ok(Ok(_turn)) => choice.run(&engine, &root, deadline).await,
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(expired(&plan)),
                };
                if let Err(error) = outcome {
                    drop(send.send(Err(error)));
                }
            });
        }
        Ok(Running { events, left: plan.choices.len(), root, _tasks: tasks })
    }
}

fn expired(plan: &Plan) -> RunError {
    RunError::Deadline { seconds: plan.deadline.unwrap_or_default().as_secs_f64() }
}

impl Running {
    /// The next event of any choice; `None` after every choice's `Done`. After
    /// an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<ChoiceEvent, RunError>> {
        if self.left == 0 {
            return None;
        }
        let event = self.events.recv().await.unwrap_or(Err(RunError::Engine(EngineError::Closed)));
        match &event {
            Ok(ChoiceEvent { event: Event::Done(_), .. }) => self.left -= 1,
            Ok(_) => {}
            Err(_) => self.left = 0,
        }
        Some(event)
    }

    /// Prompt positions taken from another request's KV.
    #[must_use]
    pub fn cached_tokens(&self) -> u32 {
        // The engine has no cache across requests yet, so none ever are.
        0
    }

    /// The engine's own counters of this request.
    ///
    /// # Errors
    /// When the engine has ended.
    pub async fn counts(&self) -> Result<RequestCounts, EngineError> {
        self.root.counts().await
    }
}

fn far_future() -> Instant {
    Instant::now() + std::time::Duration::from_secs(86_400 * 365)
}

#[cfg(test)]
mod tests;
