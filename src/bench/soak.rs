//! `espalier bench soak`: the real engines under requests that do anything at
//! any moment, for as long as one likes.
//!
//! Clients open, fork, decode, cut, score, cancel and leave at random, in a pool
//! so small that preemption never stops. Each compares what it hears with a
//! naive account of its own ([`life`]); some of what was said is decoded again
//! afterwards, alone on a fresh engine ([`again`]), and must be the same. In the
//! end nothing may be left: no branch, no block, nobody who waits.

mod again;
mod dice;
mod life;
mod tally;

use super::BenchError;
use super::resident::{mib, resident};
use crate::app::{self, BUNDLED_PRM};
use crate::config::{BUNDLED, EngineArgs};
use crate::engine::tree::model::Model;
use crate::engine::tree::{Config, TreeEngine};
use crate::engine::{EngineError, EngineThread, Handle, Open};
use crate::metrics::{EngineMetrics, Metrics};
use crate::prompt::Tokenizer;
use dice::Dice;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tally::Tally;

/// The arguments of `espalier bench soak`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How long to go on, in minutes.
    #[arg(long, value_name = "MINUTES", default_value = "10")]
    pub minutes: NonZeroUsize,
    /// End after so many requests instead.
    #[arg(long, value_name = "N")]
    pub requests: Option<NonZeroUsize>,
    /// Seed of everything that is random.
    #[arg(long, value_name = "SEED", default_value = "1")]
    pub seed: u64,
    /// Requests at once.
    #[arg(long, value_name = "N", default_value = "32")]
    pub clients: NonZeroUsize,
}

/// KV blocks of each pool: room for one or two of the requests.
const BLOCKS: usize = 48;

/// Positions in a step, so few that prompts are cut into chunks.
const STEP: usize = 96;

/// Of so many clients one asks the process reward model.
const SCORERS: usize = 4;

/// Between two lines of progress.
const INTERVAL: Duration = Duration::from_secs(30);

/// Without any request ending for so long, something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine, and what it counts.
struct Stage {
    name: &'static str,
    handle: Handle,
    metrics: Arc<EngineMetrics>,
    _thread: EngineThread,
}

/// A model that an engine can be put over again.
struct Subject {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    eos: Vec<u32>,
}

impl Subject {
    fn stage(&self, name: &'static str, (blocks, clients): (usize, usize)) -> Result<Stage, BenchError> {
        let metrics = Metrics::new().map_err(|error| BenchError::Broken(error.to_string()))?.engine;
        let config = Config {
            kv_bytes: blocks * TreeEngine::block_bytes(&self.model),
            step_positions: STEP,
            queue: clients,
            ..app::tree_config(&EngineArgs::default())
        };
        let (model, tokenizer) = (Arc::clone(&self.model), Arc::clone(&self.tokenizer));
        let engine = TreeEngine::new(model, self.eos.clone(), tokenizer, Arc::clone(&metrics), &config)?;
        let (thread, handle) = EngineThread::spawn(engine)?;
        Ok(Stage { name, handle, metrics, _thread: thread })
    }
}

/// Runs and reports.
///
/// # Errors
/// When anything was wrong on the way or is left in the end; what it was has
/// been printed.
pub async fn run(options: &Options, out: &mut dyn Write) -> Result<(), BenchError> {
    let loaded = app::load(BUNDLED)?;
    let policy =
        Subject { model: Arc::new(loaded.model), tokenizer: Arc::new(loaded.tokenizer), eos: loaded.eos };
    let loaded = app::load(BUNDLED_PRM)?;
    let prm =
        Subject { model: Arc::new(loaded.model), tokenizer: Arc::new(loaded.tokenizer), eos: Vec::new() };
    let clients = options.clients.get();
    let stages = [policy.stage("policy", (BLOCKS, clients))?, prm.stage("prm", (BLOCKS, clients))?];
    writeln!(
        out,
        "soak: seed {}, {clients} clients, {BLOCKS} KV blocks a pool, {STEP} positions a step",
        options.seed
    )?;
    let tally = Arc::new(Tally::default());
    storm(options, &stages, &tally, out).await?;
    let mut wrong = tally.faults();
    for stage in &stages {
        wrong.extend(left(stage).await?);
    }
    let models = [&policy, &prm];
    for (kind, subject) in models.into_iter().enumerate() {
        let samples = tally.samples(kind);
        if samples.is_empty() {
            continue;
        }
        let alone = subject.stage("alone", (4 * BLOCKS, 1))?;
        let different = again::replay(&alone.handle, &samples).await?;
        writeln!(
            out,
            "{} of {} segments of the {} are the same again, alone",
            samples.len() - different.len(),
            samples.len(),
            stages[kind].name
        )?;
        wrong.extend(different);
    }
    tally.table(out)?;
    for stage in &stages {
        let metrics = &stage.metrics;
        writeln!(
            out,
            "{:<7} live branches {}, live blocks {}, waiting {}, preempted {}, evicted {}, reused {}, copied {}, faults {}",
            stage.name,
            metrics.branches.get(),
            metrics.blocks_used.get(),
            metrics.waiting.get(),
            metrics.preempted.get(),
            metrics.evicted.get(),
            metrics.reused.get(),
            metrics.copied.get(),
            metrics.faults.get()
        )?;
    }
    let blocks: i64 = stages.iter().map(|stage| stage.metrics.blocks_used.get()).sum();
    writeln!(out, "live blocks {blocks}")?;
    if wrong.is_empty() {
        writeln!(out, "nothing was wrong")?;
        return Ok(());
    }
    for fault in &wrong {
        writeln!(out, "wrong: {fault}")?;
    }
    Err(BenchError::Broken(format!("the soak found {} things wrong", wrong.len())))
}

/// Lets the clients loose until the time is over, or they have done their number.
async fn storm(
    options: &Options,
    stages: &[Stage; 2],
    tally: &Arc<Tally>,
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let end = Arc::new(AtomicBool::new(false));
    let most = options.requests.map(|requests| requests.get() as u64);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..options.clients.get() {
        let kind = usize::from(client % SCORERS == SCORERS - 1);
        let (handle, tally, end) = (stages[kind].handle.clone(), Arc::clone(tally), Arc::clone(&end));
        let mut dice = Dice::new(options.seed, client as u64);
        clients.spawn(async move {
            while !end.load(Ordering::Relaxed) && tally.begin(most) {
                life::live(&handle, &mut dice, (kind, &tally)).await;
            }
        });
    }
    let begun = Instant::now();
    let until = most
        .is_none()
        .then(|| Duration::from_secs(60) * u32::try_from(options.minutes.get()).unwrap_or(u32::MAX));
    let (mut told, mut tokens) = (begun, 0);
    let (mut moved, mut ended) = (begun, 0);
    loop {
        let tick = tokio::time::timeout(Duration::from_millis(250), clients.join_next());
        match tick.await {
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) => tally.fault(format!("a client ended by itself: {error}")),
            Ok(Some(Ok(()))) | Err(_) => {}
        }
        let now = Instant::now();
        if until.is_some_and(|until| now - begun >= until) {
            end.store(true, Ordering::Relaxed);
        }
        if tally.ended() != ended {
            (moved, ended) = (now, tally.ended());
        } else if now - moved > PATIENCE {
            clients.abort_all();
            return Err(BenchError::Broken(format!("no request has ended for {} s", PATIENCE.as_secs())));
        }
        if now - told >= INTERVAL {
            let rate = (tally.tokens() - tokens) as f64 / (now - told).as_secs_f64();
            (told, tokens) = (now, tally.tokens());
            progress(stages, (now - begun, tally, rate), out)?;
        }
    }
}

fn progress(
    stages: &[Stage; 2],
    (time, tally, rate): (Duration, &Tally, f64),
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let sum = |figure: &dyn Fn(&EngineMetrics) -> i64| stages.iter().map(|s| figure(&s.metrics)).sum::<i64>();
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    writeln!(
        out,
        "{:>5} s  {:>7} requests  {rate:>6.0} tokens/s  live branches {:>3} blocks {:>2}  waiting {:>2}  preempted {:>7}  evicted {:>7}  RSS {}  wrong {}",
        time.as_secs(),
        tally.ended(),
        sum(&|m| m.branches.get()),
        sum(&|m| m.blocks_used.get()),
        sum(&|m| m.waiting.get()),
        sum(&|m| count(m.preempted.get())),
        sum(&|m| count(m.evicted.get())),
        resident().map_or("unknown".to_owned(), |memory| format!("{:.1} MiB", mib(memory.now))),
        tally.faults().len()
    )?;
    out.flush()?;
    Ok(())
}

/// What an engine still holds once everybody has left. That every block can be
/// had is proved by a request that takes them all.
async fn left(stage: &Stage) -> Result<Vec<String>, BenchError> {
    let caps = stage.handle.caps().clone();
    let whole = caps.pool_blocks * caps.block;
    let prompt: Arc<[u32]> = (0..whole as u32).map(|i| i % caps.vocab as u32).collect();
    let root = stage.handle.open(Open::new(prompt, whole, 1)).await?;
    root.settle().await?;
    // Asked after the step in which it was settled, and which publishes what it holds.
    root.counts().await?;
    let metrics = &stage.metrics;
    let mut wrong = Vec::new();
    let used = metrics.blocks_used.get();
    if used != caps.pool_blocks as i64 {
        wrong.push(format!(
            "{}: a request of the whole pool holds {used} of {} blocks",
            stage.name, caps.pool_blocks
        ));
    }
    drop(root);
    // Commands are carried out in order, so an answer to one that comes later
    // tells that the branch is gone; the step after it publishes the rest.
    for _ in 0..2 {
        let nothing = stage.handle.open(Open::new(Arc::new([]), 1, 1)).await;
        if !matches!(nothing, Err(EngineError::Misuse(_))) {
            wrong.push(format!("{}: an empty prompt was answered with {nothing:?}", stage.name));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let gauges = [
        ("branches", metrics.branches.get()),
        ("blocks", metrics.blocks_used.get()),
        ("waiting requests", metrics.waiting.get()),
        ("faults", i64::try_from(metrics.faults.get()).unwrap_or(i64::MAX)),
    ];
    let name = stage.name;
    wrong.extend(
        gauges.iter().filter(|(_, n)| *n != 0).map(|(what, n)| format!("{name}: {n} {what} are left")),
    );
    Ok(wrong)
}

#[cfg(test)]
mod tests;
