//! The run: engines over one model, and its products beside them.

use super::BenchError;
use super::llama::{self, Llama, Peer};
use super::report::{Grouping, Kernel, Product, Report, Roofline, Row, Sharing};
use super::spread::Spread;
use super::workload::{Name, Run, Workload, decode};
use super::{fairness, numpy};
use crate::engine::tree::model::Model;
use crate::engine::tree::model::alone::{Alone, Attention, Dealing, Matrices};
use crate::engine::tree::{Config, TreeEngine};
use crate::engine::{EngineThread, Handle};
use crate::metrics::{EngineMetrics, Metrics};
use crate::prompt::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is measured.
pub(super) struct Subject {
    /// What it is called.
    pub name: String,
    /// The weights.
    pub model: Arc<Model>,
    /// A tokenizer; ids that it does not know have no text.
    pub tokenizer: Arc<Tokenizer>,
    /// The engine's settings; KV is what they say or, where that is less than a
    /// workload needs, what it needs.
    pub config: Config,
}

/// How it is measured.
#[derive(Debug)]
pub(super) struct Plan {
    /// Runs of each workload, at least one.
    pub runs: usize,
    /// Tokens that each branch decodes.
    pub new: usize,
    /// Of how many steps one is taken for the roofline.
    pub stride: usize,
    /// The time over which a product or attention alone is repeated.
    pub enough: Duration,
    /// Whether NumPy is asked too.
    pub numpy: bool,
    /// Whether a chat is measured beside a search.
    pub fairness: bool,
    /// llama.cpp's program and model, where it is asked too.
    pub llama: Option<(PathBuf, PathBuf)>,
    /// The workloads.
    pub workloads: Vec<Workload>,
}

/// The most runs of others' engines: theirs take seconds.
pub(super) const PEER_RUNS: usize = 5;

/// Where a step's products take less than this, they are dealt in every way beside each
/// run: which way is the fastest is decided by how soon a thread wakes up.
const SHORT: Duration = Duration::from_millis(10);

/// The least runs of a product or of attention alone.
const REPEATS: usize = 3;

/// Measures everything.
pub(super) async fn measure(subject: &Subject, plan: &Plan) -> Result<Report, BenchError> {
    let load_before = load_average();
    let grouped = Stage::of_rows(subject, plan.blocks(), true)?;
    let mut rows = Vec::new();
    let mut kernels = Vec::new();
    let mut products: Vec<Product> = Vec::new();
    let mut grouping = None;
    for workload in &plan.workloads {
        let owns = workload.owns();
        let mut alone = Alone::new(
            Arc::clone(&subject.model),
            subject.config.threads,
            (workload.shared, &owns),
            plan.new,
        )?;
        let (dealing, time) = fastest(&mut alone, None, plan.enough);
        let dealings = if time < SHORT { &Dealing::ALL[..] } else { &[dealing] };
        if !products.iter().any(|product| product.rows == workload.branches) {
            products.extend(rates(&mut alone, workload.branches, plan.enough));
        }
        if workload.branches > 1 {
            kernels.push(kernel(&mut alone, workload, plan));
        }
        let mut laps = Vec::new();
        for seed in 0..plan.runs as u64 {
            let run = decode(&grouped.handle, &grouped.metrics, workload, (plan.new, seed)).await?;
            laps.push(Lap { run, alone: roofline(&mut alone, dealings, plan) });
        }
        if workload.name == Name::D {
            grouping = Some(compare(subject, plan, (workload, &laps)).await?);
        }
        rows.push(row(workload, plan, dealing, &laps));
    }
    // Its pool goes before another one comes.
    drop(grouped);
    let fairness = match plan.fairness {
        true => {
            let stage = Stage::as_served(subject, fairness::blocks(TreeEngine::BLOCK))?;
            Some(fairness::measure(&stage, plan.runs).await?)
        }
        false => None,
    };
    let numpy = match plan.numpy {
        true => Some(numpy::multiply(&mut products, subject.config.threads)?),
        false => None,
    };
    for row in &mut rows {
        row.judge(&products);
    }
    let rate = |name: Name| rows.iter().find(|row| row.name == name).map(|row| row.tokens_per_second.median);
    let c_over_b = rate(Name::C).zip(rate(Name::B)).map(|(c, b)| c / b);
    let llama = match &plan.llama {
        Some((program, model)) => {
            let llama =
                Llama { program, model, threads: subject.config.threads, runs: plan.runs.min(PEER_RUNS) };
            let each = plan.workloads.iter().zip(&rows);
            each.map(|(workload, row)| {
                llama::measure(llama, (workload, plan.new), row.tokens_per_second.median)
            })
            .collect::<Result<Vec<Peer>, BenchError>>()?
        }
        None => Vec::new(),
    };
    Ok(Report {
        model: subject.name.clone(),
        parameters: subject.model.parameters(),
        threads: subject.config.threads,
        instructions: subject.model.kernels().name(),
        runs: plan.runs,
        new_tokens: plan.new,
        load_average: [load_before, load_average()],
        workloads: rows,
        c_over_b,
        products,
        numpy,
        attention: kernels,
        grouping,
        fairness,
        llama,
        mistralrs: None,
    })
}

impl Plan {
    /// KV blocks that the largest workload takes.
    fn blocks(&self) -> usize {
        let workloads = self.workloads.iter().map(|w| w.blocks(self.new, TreeEngine::BLOCK));
        workloads.max().unwrap_or(0)
    }
}

/// Tokens per second of each workload, the median of its runs.
pub(super) async fn decoded(subject: &Subject, plan: &Plan) -> Result<Vec<f64>, BenchError> {
    let stage = Stage::of_rows(subject, plan.blocks(), true)?;
    let mut rates = Vec::new();
    for workload in &plan.workloads {
        let mut laps = Vec::new();
        for seed in 0..plan.runs as u64 {
            let run = decode(&stage.handle, &stage.metrics, workload, (plan.new, seed)).await?;
            laps.push((workload.branches * plan.new) as f64 / run.time.as_secs_f64());
        }
        rates.push(Spread::of(laps).median);
    }
    Ok(rates)
}

/// An engine that is running.
pub(super) struct Stage {
    /// Its handle.
    pub handle: Handle,
    /// Its metrics.
    pub metrics: Arc<EngineMetrics>,
    _thread: EngineThread,
}

impl Stage {
    /// The engine as it is served, its pool of at least `blocks`.
    pub(super) fn as_served(subject: &Subject, blocks: usize) -> Result<Self, BenchError> {
        Self::new(subject, blocks, subject.config.clone())
    }

    /// The same, but that every branch is computed, though some say the same: a
    /// workload is its rows, here and where it is run beside ours.
    pub(super) fn of_rows(subject: &Subject, blocks: usize, grouped: bool) -> Result<Self, BenchError> {
        Self::new(subject, blocks, Config { grouped, twins: false, ..subject.config.clone() })
    }

    fn new(subject: &Subject, blocks: usize, config: Config) -> Result<Self, BenchError> {
        let metrics = Metrics::new().map_err(|error| BenchError::Broken(error.to_string()))?.engine;
        let needed = blocks * TreeEngine::block_bytes(&subject.model);
        let config = Config { kv_bytes: config.kv_bytes.max(needed), ..config };
        let tokenizer = Arc::clone(&subject.tokenizer);
        // No token ends a branch, so that every run decodes the same number.
        let engine = TreeEngine::new(
            Arc::clone(&subject.model),
            Vec::new(),
            tokenizer,
            Arc::clone(&metrics),
            &config,
        )?;
        let (thread, handle) = EngineThread::spawn(engine)?;
        Ok(Self { handle, metrics, _thread: thread })
    }
}

/// One run and, right after it, the same steps' products alone.
struct Lap {
    run: Run,
    alone: Parts,
}

/// Times of products alone, for all steps of a run.
#[derive(Clone, Copy)]
struct Parts {
    products: Duration,
    attention: Duration,
}

fn roofline(alone: &mut Alone, dealings: &[Dealing], plan: &Plan) -> Parts {
    let mut parts = Parts { products: Duration::ZERO, attention: Duration::ZERO };
    // From the middle of each stretch of steps, which stands for all of it.
    let steps: Vec<usize> = (plan.stride / 2..plan.new).step_by(plan.stride.max(1)).collect();
    // One kind after the other, and a first time to wake the threads: between products the
    // preparation of attention is long enough for them to fall asleep.
    let of = |&dealing: &Dealing| {
        alone.products(None, dealing);
        steps.iter().map(|_| alone.products(None, dealing)).sum()
    };
    parts.products = dealings.iter().map(of).min().unwrap_or_default();
    for &step in &steps {
        parts.attention += alone.attention(step, true, Attention::Products);
    }
    let whole = plan.new as f64 / steps.len().max(1) as f64;
    Parts { products: parts.products.mul_f64(whole), attention: parts.attention.mul_f64(whole) }
}

fn row(workload: &Workload, plan: &Plan, dealing: Dealing, laps: &[Lap]) -> Row {
    let tokens = (workload.branches * plan.new) as f64;
    let step = |time: Duration| time.as_secs_f64() * 1e3 / plan.new as f64;
    let of = |figure: &dyn Fn(&Lap) -> f64| Spread::of(laps.iter().map(figure));
    let leaves: usize = workload.owns().iter().map(|own| workload.shared + own + plan.new).sum();
    let (unique, recomputed) = laps.last().map_or((0, 0), |lap| (lap.run.unique, lap.run.recomputed));
    Row {
        name: workload.name,
        branches: workload.branches,
        shared: workload.shared,
        own: [0, workload.own.saturating_sub(1)],
        tokens_per_second: of(&|lap| tokens / lap.run.time.as_secs_f64()),
        step_ms: of(&|lap| step(lap.run.time)),
        steps: of(&|lap| lap.run.steps as f64),
        roofline: Roofline {
            dealing,
            products_ms: of(&|lap| step(lap.alone.products)),
            attention_ms: of(&|lap| step(lap.alone.attention)),
        },
        share: of(&|lap| {
            (lap.alone.products + lap.alone.attention).as_secs_f64() / lap.run.time.as_secs_f64()
        }),
        share_of_fastest: None,
        sharing: Sharing {
            unique,
            expected: (workload.shared + workload.owns().iter().sum::<usize>() + workload.branches * plan.new)
                as u64,
            leaves: leaves as u64,
            recomputed,
            ratio: unique as f64 / leaves as f64,
        },
    }
}

/// The same workload on an engine whose rows attend each for itself.
async fn compare(
    subject: &Subject,
    plan: &Plan,
    (workload, laps): (&Workload, &[Lap]),
) -> Result<Grouping, BenchError> {
    let stage = Stage::of_rows(subject, plan.blocks(), false)?;
    let mut times = Vec::new();
    for seed in 0..plan.runs as u64 {
        times.push(decode(&stage.handle, &stage.metrics, workload, (plan.new, seed)).await?.time);
    }
    let tokens = (workload.branches * plan.new) as f64;
    let rate = |time: &Duration| tokens / time.as_secs_f64();
    let on = Spread::of(laps.iter().map(|lap| rate(&lap.run.time)));
    let off = Spread::of(times.iter().map(rate));
    Ok(Grouping { on, off, ratio: on.median / off.median })
}

/// Attention alone at one step of a workload.
fn kernel(alone: &mut Alone, workload: &Workload, plan: &Plan) -> Kernel {
    let step = plan.new / 2;
    let layers = alone.layers().max(1);
    let per = (workload.branches * layers) as f64;
    let mut time = |grouped, what| repeat(plan.enough, || alone.attention(step, grouped, what));
    let whole = |time: Duration| time.as_secs_f64() * 1e9 / per;
    let (on, products) = (time(true, Attention::Whole), time(true, Attention::Products));
    let off = time(false, Attention::Whole);
    let seen: usize = workload.owns().iter().map(|own| workload.shared + own + step + 1).sum();
    let position = |time: Duration| time.as_secs_f64() * 1e9 / (seen * layers) as f64;
    Kernel {
        name: workload.name,
        grouped_ns_per_row: whole(on),
        ungrouped_ns_per_row: whole(off),
        ratio: off.as_secs_f64() / on.as_secs_f64(),
        grouped_ns_per_position: position(on),
        ungrouped_ns_per_position: position(off),
        products_gflops: alone.attention_flops(step) / products.as_secs_f64() / 1e9,
    }
}

/// The rates of all shapes at a batch's rows.
fn rates(alone: &mut Alone, rows: usize, enough: Duration) -> Vec<Product> {
    let mut products = Vec::new();
    for shape in alone.shapes() {
        let (_, time) = fastest(alone, Some(shape), enough);
        let Matrices { k, n, count } = shape;
        let gflops = shape.flops(rows) / time.as_secs_f64() / 1e9;
        products.push(Product { rows, k, n, count, gflops, openblas_gflops: None });
    }
    products
}

/// The fastest way to deal a product to the threads, and its time.
fn fastest(alone: &mut Alone, shape: Option<Matrices>, enough: Duration) -> (Dealing, Duration) {
    let timed = Dealing::ALL.map(|dealing| (dealing, repeat(enough, || alone.products(shape, dealing))));
    timed.into_iter().min_by_key(|(_, time)| *time).unwrap_or((Dealing::Rows, Duration::ZERO))
}

/// The median of some repeats after one that warms up.
fn repeat(enough: Duration, mut timed: impl FnMut() -> Duration) -> Duration {
    timed();
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < REPEATS || begun.elapsed() < enough {
        times.push(timed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// Processes that ran or waited to, over the last minute, where the system says.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
