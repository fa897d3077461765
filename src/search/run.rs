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
//! - *Shutdown*: [`Runner::end_all`] ends every run the way a deadline does.
//! - *Cancellation*: dropping [`Running`] aborts its tasks, which drops their
//!   leases, which frees their branches before the engine's next step.
//! - *Holding*: all leases are the tasks', so that a run which is over holds nothing,
//!   whether or not anybody takes what it has said.

mod choice;
mod emit;
mod flight;
mod shared;

use super::event::{ChoiceEvent, Event, StopReason};
use crate::engine::{Branch, EngineError, Handle, Health, Open, RequestCounts};
use crate::metrics::Metrics;
use crate::plan::{Asks, Plan};
use crate::verify::{Lease, Opening, Verifier, VerifyError};
use choice::Choice;
use shared::{Limit, Shared, Told};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Starts runs. Clones share what they start: [`Runner::end_all`] ends it all.
#[derive(Debug, Clone)]
pub struct Runner {
    engine: Handle,
    verifier: Option<Verifier>,
    judge: Option<Verifier>,
    metrics: Arc<Metrics>,
    ending: Arc<watch::Sender<bool>>,
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
    /// The server stopped before there was any text.
    #[error("the server is shutting down, and there was no answer yet")]
    Shutdown,
}

/// A request under way. Dropping it cancels every branch.
#[derive(Debug)]
pub struct Running {
    told: mpsc::UnboundedReceiver<Told>,
    /// Choices that have not come to their end.
    left: usize,
    /// Ends without text, until it is known whether any choice has some.
    bare: VecDeque<(ChoiceEvent, RunError)>,
    answered: bool,
    /// The request on the engine, where it is kept open for its counters.
    root: Option<Arc<Branch>>,
    /// Prompt positions that were known already.
    cached: Arc<AtomicU32>,
    /// Tokens so far.
    generated: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Runner {
    /// A runner over an engine and what verifies its steps.
    #[must_use]
    pub fn new(engine: Handle, verifier: Option<Verifier>, metrics: Arc<Metrics>) -> Self {
        Self { engine, verifier, judge: None, metrics, ending: Arc::new(watch::Sender::new(false)) }
    }

    /// The same with a judge beside the verifier.
    #[must_use]
    pub fn with_judge(self, judge: Option<Verifier>) -> Self {
        Self { judge, ..self }
    }

    /// The engine, for its caps and health.
    #[must_use]
    pub fn engine(&self) -> &Handle {
        &self.engine
    }

    /// How the engines are: of the model's and the verifier's, the worse.
    #[must_use]
    pub fn health(&self, patience: Duration) -> Health {
        let engines = [Some(&self.engine), self.verifier.as_ref().and_then(Verifier::engine)];
        let states = engines.into_iter().flatten().map(|engine| engine.health(patience));
        states.max_by_key(|health| *health as u8).unwrap_or(Health::Dead)
    }

    /// What verifies steps, if there is something.
    #[must_use]
    pub fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_ref()
    }

    /// Ends every run with the best that it has, and whatever is started later
    /// as well.
    pub fn end_all(&self) {
        self.ending.send_replace(true);
    }

    /// Admits a plan and starts its choices. The request is open on the engine until
    /// the run is dropped, so that it can be asked for its counters to the end.
    ///
    /// # Errors
    /// As [`Runner::start_since`].
    pub async fn start(&self, plan: Plan, delivery: Delivery) -> Result<Running, RunError> {
        let (running, root) = self.begin(plan, delivery, Instant::now(), Box::new(())).await?;
        Ok(Running { root: Some(root), ..running })
    }

    /// Admits the plan of a request that came in at `arrived`, from where its deadline
    /// and its latencies count, and starts its choices. Nothing of it is left on the
    /// engine once they have ended; `held` is dropped then as well.
    ///
    /// # Errors
    /// When the engine refuses it, or the deadline passes before it is admitted.
    pub async fn start_since(
        &self,
        plan: Plan,
        delivery: Delivery,
        arrived: Instant,
        held: impl Any + Send + Sync,
    ) -> Result<Running, RunError> {
        self.begin(plan, delivery, arrived, Box::new(held)).await.map(|(running, _)| running)
    }

    async fn begin(
        &self,
        plan: Plan,
        delivery: Delivery,
        arrived: Instant,
        held: Box<dyn Any + Send + Sync>,
    ) -> Result<(Running, Arc<Branch>), RunError> {
        let limit = Limit {
            deadline: plan.deadline.map(|limit| arrived + limit),
            seconds: plan.deadline.unwrap_or_default().as_secs_f64(),
            ending: self.ending.subscribe(),
        };
        if limit.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            // Nothing is begun that could not be delivered.
            return Err(limit.error(StopReason::Deadline));
        }
        if *limit.ending.borrow() {
            return Err(limit.error(StopReason::Shutdown));
        }
        let open = Open {
            priority: plan.priority,
            salt: plan.cache_salt.clone(),
            ..Open::new(Arc::clone(&plan.prompt), plan.positions, plan.live)
        };
        let root = tokio::select! {
            biased;
            root = self.engine.open(open) => root?,
            reason = limit.clone().passed() => return Err(limit.error(reason)),
        };
        let root = Arc::new(root);
        let mode = plan.mode.name();
        self.metrics.queue_seconds.observe(arrived.elapsed().as_secs_f64());
        self.metrics.prompt_tokens.with_label_values(&[mode]).inc_by(plan.prompt.len() as u64);
        let (tell, told) = mpsc::unbounded_channel();
        // Choices that cannot all be alive at once take turns.
        let least = (plan.mode.least_alive() as usize).min(plan.live);
        let room = (plan.live / plan.choices.len().max(1)).max(least).max(1);
        let turns = Arc::new(Semaphore::new((plan.live / room).max(1)));
        let prefill = Arc::new(OnceCell::new());
        let judgement = Arc::new(OnceCell::new());
        let (cached, generated) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
        let choices = plan.choices.len();
        let verifier = match plan.mode.asks() {
            Some(Asks::Verifier) => self.verifier.clone(),
            Some(Asks::Judge) => self.judge.clone(),
            None => None,
        };
        let shared = Arc::new(Shared {
            verifier: verifier.as_ref().map(|verifier| verifier.name().to_owned()),
            delivery,
            room,
            tell,
            arrived,
            generated: Arc::clone(&generated),
            spoke: AtomicBool::new(false),
            limit,
            counts: self.metrics.mode(mode),
            metrics: Arc::clone(&self.metrics),
            plan,
            _held: held,
        });
        let mut tasks = JoinSet::new();
        for index in 0..choices {
            let mut choice = Choice::new(index, &shared);
            let (root, turns, prefill) = (Arc::clone(&root), Arc::clone(&turns), Arc::clone(&prefill));
            let (shared, engine) = (Arc::clone(&shared), self.engine.clone());
            let (cached, judgement) = (Arc::clone(&cached), Arc::clone(&judgement));
            let verifier = verifier.clone();
            tasks.spawn(async move {
                let begin = async {
                    let turn = turns.acquire_owned().await;
                    let settled = prefill.get_or_init(|| settle(&root, &shared, &cached));
                    // The verifier reads the problem while the policy does.
                    let judged = async {
                        let verifier = verifier.as_ref()?;
                        let opened = judgement.get_or_init(|| open_verifier(verifier, &shared.plan)).await;
                        Some(opened.clone())
                    };
                    let (settled, judged) = tokio::join!(settled, judged);
                    settled.clone().map(|()| (turn, judged))
                };
                let limit = shared.limit.clone().passed();
                tokio::pin!(limit);
                let turn = tokio::select! {
                    biased;
                    turn = begin => turn.map_err(RunError::from),
                    reason = &mut limit => return choice.end_unbegun(reason),
                };
                let outcome = match turn {
                    Ok((_turn, judged)) => {
                        if let Some(judged) = judged {
                            choice.judged_by(judged);
                        }
                        choice.run(&engine, &root, limit).await
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = outcome {
                    drop(shared.tell.send(Told::Failed(error)));
                }
            });
        }
        let bare = VecDeque::new();
        let running = Running {
            told,
            left: choices,
            bare,
            answered: false,
            root: None,
            cached,
            generated,
            _tasks: tasks,
        };
        Ok((running, root))
    }
}

/// Opens a request on a verifier; `None` where its first choice, which pays for
/// that, may not spend so much.
async fn open_verifier(verifier: &Verifier, plan: &Plan) -> Result<Option<Arc<Lease>>, VerifyError> {
    if let Some(most) = plan.choices.first().and_then(|budget| budget.verifier_tokens)
        && verifier.opening_tokens(&plan.messages)? > most
    {
        return Ok(None);
    }
    let opening = Opening {
        // One beside every branch, and as many that are being given back.
        width: 2 * plan.live + plan.choices.len(),
        priority: plan.priority,
        salt: plan.cache_salt.clone(),
    };
    verifier.open(&plan.messages, opening).await.map(Arc::new).map(Some)
}

/// Computes the prompt, and takes note of how much of it was known. At least
/// the last position is computed, for its logits.
async fn settle(root: &Branch, shared: &Shared, cached: &AtomicU32) -> Result<(), EngineError> {
    root.settle().await?;
    let most = u64::try_from(shared.plan.prompt.len() - 1).unwrap_or(u64::MAX);
    let known = root.counts().await?.reused.min(most);
    shared.metrics.cached_tokens.with_label_values(&[shared.plan.mode.name()]).inc_by(known);
    cached.store(u32::try_from(known).unwrap_or(u32::MAX), Ordering::Relaxed);
    Ok(())
}

impl Running {
    /// The next event of any choice; `None` after every choice's `Done`. After
    /// an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<ChoiceEvent, RunError>> {
        while self.left > 0 {
            match self.told.recv().await.unwrap_or(Told::Failed(EngineError::Closed.into())) {
                Told::Event(event) => {
                    if matches!(event.event, Event::Done(_)) {
                        self.left -= 1;
                        self.answered = true;
                    }
                    return Some(Ok(event));
                }
                Told::Bare(event, why) => {
                    self.left -= 1;
                    self.bare.push_back((event, why));
                }
                Told::Failed(error) => {
                    self.left = 0;
                    self.bare.clear();
                    return Some(Err(error));
                }
            }
        }
        let (event, why) = self.bare.pop_front()?;
        if self.answered {
            return Some(Ok(event));
        }
        self.bare.clear();
        Some(Err(why))
    }

    /// Prompt positions taken from another request's KV.
    #[must_use]
    pub fn cached_tokens(&self) -> u32 {
        self.cached.load(Ordering::Relaxed)
    }

    /// Tokens generated so far, over all choices: a counter that outlives the run.
    #[must_use]
    pub fn generated(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.generated)
    }

    /// The engine's own counters of this request, which [`Runner::start`] keeps open.
    ///
    /// # Errors
    /// When the engine has ended, or the request is not kept open.
    pub async fn counts(&self) -> Result<RequestCounts, EngineError> {
        self.root.as_ref().ok_or(EngineError::Closed)?.counts().await
    }
}

#[cfg(test)]
mod tests;
