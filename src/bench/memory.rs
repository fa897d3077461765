//! `espalier bench memory`: what the server holds over a thousand requests in a
//! row, beside what it should.
//!
//! The real server (sockets, JSON, plan, searches of all kinds, both engines)
//! and its client run in this process, and all of it is counted. Resident memory
//! must be what the weights, the KV pools and the largest step take, and little
//! more; and it must not grow with the requests. The pools are small here
//! (`--kv-mib`), so that they are full early: memory of theirs that was never
//! written is not resident, and could hide what else is held. A run that has not
//! filled them proves nothing, and fails.

use super::BenchError;
use super::resident::{Resident, mib, resident};
use crate::app::{self, Hub, Server};
use crate::client::Client;
use crate::config::{EngineArgs, ServeArgs};
use crate::engine::rng;
use crate::engine::tree::config::ModelConfig as Shape;
use crate::metrics::EngineMetrics;
use crate::plan::Effort;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;
use std::num::NonZeroUsize;

/// The arguments of `espalier bench memory`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Requests, one after the other.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub requests: NonZeroUsize,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What may be held beside the parts, in bytes: 50 MB.
const REST: u64 = 50_000_000;

/// What resident memory may differ by between two moments without having grown,
/// in bytes: the allocator gives pages back when it likes.
const NOISE: u64 = 2 << 20;

/// When memory is looked at, in thousandths of the requests.
const MARKS: [usize; 4] = [100, 250, 500, 1000];

/// All figures of a run; memory is in bytes.
#[derive(Debug, Clone, Serialize)]
struct Report {
    requests: usize,
    tokens: u64,
    /// Before anything was loaded: the program itself.
    start: u64,
    /// With both models loaded and no request so far.
    loaded: u64,
    weights: u64,
    pools: u64,
    /// Whether every block of every pool was written.
    pools_full: bool,
    step: u64,
    /// What is held beside these three, at the peak, and what may be.
    rest: i64,
    rest_allowed: u64,
    /// Resident after so many requests.
    marks: Vec<Mark>,
    peak: u64,
    growth: i64,
    within: bool,
    steady: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Mark {
    requests: usize,
    resident: u64,
}

/// What a server should hold, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    weights: u64,
    pools: u64,
    step: u64,
    /// Whether a reward model has a pool too.
    verifies: bool,
}

/// What a run has seen.
#[derive(Debug, Clone, Default)]
struct Seen {
    requests: usize,
    tokens: u64,
    start: u64,
    loaded: u64,
    pools_full: bool,
    marks: Vec<Mark>,
    peak: u64,
}

/// Measures and prints.
///
/// # Errors
/// When the server cannot be run, or holds more than it should.
pub async fn run(
    options: &Options,
    args: &EngineArgs,
    hub: &Hub,
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let report = measure(options.requests.get(), args, hub).await?;
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        report.table(out)?;
    }
    report.verdict()
}

async fn measure(requests: usize, args: &EngineArgs, hub: &Hub) -> Result<Report, BenchError> {
    let start = now()?.now;
    let parts = parts(args, hub).await?;
    let served = ServeArgs { port: 0, engine: args.clone(), ..ServeArgs::default() };
    let broken = |error: app::AppError| BenchError::Broken(error.to_string());
    let server = Server::bind(&served, hub).await.map_err(broken)?;
    let (client, metrics) = (Client::new(&server.url())?, server.metrics());
    let loaded = now()?.now;
    let serving = tokio::spawn(server.serve(std::future::pending()));
    let model = client.models().await?.into_iter().next().unwrap_or_default();
    let mut marks = Vec::new();
    let mut tokens = 0;
    for index in 0..requests {
        let answer = client.chat(&body(&model, index as u64)).await?;
        tokens += answer["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        let done = index + 1;
        if MARKS.iter().any(|mark| (mark * requests).div_ceil(1000) == done) {
            marks.push(Mark { requests: done, resident: now()?.now });
        }
    }
    let peak = now()?.peak;
    serving.abort();
    let pools_full = full(&metrics.engine) && (!parts.verifies || full(&metrics.verifier_engine));
    Ok(Report::of(parts, Seen { requests, tokens, start, loaded, pools_full, marks, peak }))
}

/// Whether an engine has had to give blocks up, for which it must have used all.
fn full(engine: &EngineMetrics) -> bool {
    engine.evicted.get() > 0
}

fn now() -> Result<Resident, BenchError> {
    let unknown = || BenchError::Broken("this system does not say how much memory is resident".to_owned());
    resident().ok_or_else(unknown)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What the models and their pools take by arithmetic.
async fn parts(args: &EngineArgs, hub: &Hub) -> Result<Parts, BenchError> {
    let checked = app::find(&args.model, hub).await?.check()?;
    let config = app::tree_config(args);
    let mut parts = Parts::default();
    let mut add = |shape: &Shape, weights: u64, pool: u64| {
        parts.weights += weights;
        parts.pools += pool;
        parts.step += step(shape, config.step_positions) as u64;
    };
    add(&checked.shape, checked.resident(), config.kv_bytes as u64);
    if let Some(app::Scorer::Here(prm)) = &checked.prm {
        add(prm.shape(), prm.resident(), (args.prm_kv_mib.get() as u64) << 20);
        parts.verifies = true;
    }
    Ok(parts)
}

/// Activations and logits of a step of so many positions, in bytes.
fn step(shape: &Shape, positions: usize) -> usize {
    let (queries, kvs) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    // The residual stream, its norm, queries and what they attend to, keys and
    // values, the two halves of the gate, rotations, and the norm before the head.
    let floats = 3 * shape.hidden + 2 * queries + 2 * kvs + 2 * shape.intermediate + shape.head_dim;
    positions * (floats + shape.outputs()) * size_of::<f32>()
}

/// A request unlike those before it: all efforts in turn, with many problems.
fn body(model: &str, index: u64) -> Value {
    let number = |i: u64| 2 + rng::derive(index, i) % 60;
    let (a, b, c) = (number(0), number(1), number(2));
    let problem = match rng::derive(index, 3) % 3 {
        0 => format!("Compute ({a} + {b}) * {c}."),
        1 => format!(
            "Use each of the numbers {a}, {b}, {c} exactly once with +, -, * and / to make {}.",
            number(4)
        ),
        _ => format!(
            "Mina has {a} apples. Tom gives Mina {b}. Then the number doubles. How many apples does Mina have now?"
        ),
    };
    let effort = Effort::ALL[(index % Effort::ALL.len() as u64) as usize].name();
    json!({
        "model": model,
        "messages": [{"role": "user", "content": problem}],
        "reasoning_effort": effort,
        "max_completion_tokens": 600,
        "n": 1 + index % 2,
        "seed": index,
    })
}

impl Report {
    /// What was seen beside what should be.
    fn of(parts: Parts, seen: Seen) -> Self {
        let Seen { requests, tokens, start, loaded, pools_full, marks, peak } = seen;
        let growth = match (marks.first(), marks.last()) {
            (Some(first), Some(last)) => signed(last.resident) - signed(first.resident),
            _ => 0,
        };
        let rest = signed(peak) - signed(parts.weights + parts.pools + parts.step);
        Self {
            requests,
            tokens,
            start,
            loaded,
            weights: parts.weights,
            pools: parts.pools,
            pools_full,
            step: parts.step,
            rest,
            rest_allowed: REST,
            marks,
            peak,
            growth,
            within: rest <= signed(REST),
            steady: growth <= signed(NOISE),
        }
    }

    fn verdict(&self) -> Result<(), BenchError> {
        match (self.within && self.steady, self.pools_full) {
            (true, true) => Ok(()),
            (false, _) => Err(BenchError::Broken("the server holds more memory than it should".to_owned())),
            (true, false) => Err(BenchError::Broken(
                "not every block was written, so that memory may be hidden in the pools: make them smaller \
                 (--kv-mib, --prm-kv-mib) or ask more (--requests)"
                    .to_owned(),
            )),
        }
    }

    fn table(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let line = |bytes: u64, what: &str| format!("{:>9.1} MiB  {what}", mib(bytes));
        writeln!(out, "{} requests in a row, {} tokens generated\n", self.requests, self.tokens)?;
        writeln!(out, "{}", line(self.weights, "weights of both models"))?;
        let full = if self.pools_full { "full" } else { "not full, so that memory may be hidden in them" };
        writeln!(out, "{}", line(self.pools, &format!("KV pools; they were {full}")))?;
        writeln!(out, "{}", line(self.step, "logits and activations of the largest step"))?;
        let allowed = mib(self.rest_allowed);
        writeln!(
            out,
            "{:>9.1} MiB  the rest: program, tokenizers, HTTP, allocator; {allowed:.1} are allowed",
            self.rest as f64 / f64::from(1u32 << 20)
        )?;
        writeln!(out, "{}\n", line(self.peak, "peak (VmHWM), the sum of these"))?;
        writeln!(out, "{}", line(self.start, "resident before anything was loaded"))?;
        writeln!(out, "{}", line(self.loaded, "with both models"))?;
        for mark in &self.marks {
            writeln!(out, "{}", line(mark.resident, &format!("after {} requests", mark.requests)))?;
        }
        writeln!(
            out,
            "{:>9.1} MiB  growth between the first of these and the last\n",
            self.growth as f64 / f64::from(1u32 << 20)
        )?;
        let verdict = |good: bool| if good { "yes" } else { "NO" };
        writeln!(out, "the sum holds: {}; no growth: {}", verdict(self.within), verdict(self.steady))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, ModelArgs};

    fn report(requests: usize) -> Report {
        let small = |n| NonZeroUsize::new(n).expect("not zero");
        let args = EngineArgs {
            model: ModelArgs::from("seedling"),
            kv_mib: small(4),
            prm_kv_mib: small(4),
            threads: NonZeroUsize::new(2),
            step_positions: small(128),
            ..EngineArgs::default()
        };
        let hub = Hub::new(&Environment::default());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(measure(requests, &args, &hub)).expect("measures")
    }

    // How much this process holds depends on the other tests in it, so that the
    // verdict is not looked at here.
    #[test]
    fn a_run_is_told_by_its_parts() {
        let report = report(20);
        // Matrices in f16; norms of 128 floats, two to a layer and one behind them.
        let norms = 128 * (2 * (6 + 9) + 2);
        assert_eq!(report.weights, 2 * (1_263_232 + 1_853_824) + 2 * norms);
        assert_eq!(report.pools, 8 << 20);
        let steps = ["policy", "prm"].map(|model| {
            let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/seedling");
            let shape =
                std::fs::read(models.join(model).join("config.json")).expect("a file of the repository");
            step(&Shape::from_json(&shape).expect("a shape"), 128) as u64
        });
        assert_eq!(report.step, steps.iter().sum::<u64>());
        assert!(report.start > 0 && report.loaded >= report.weights, "{report:?}");
        assert!(
            report.marks.iter().all(|mark| report.weights <= mark.resident && mark.resident <= report.peak)
        );
        assert_eq!(report.marks.iter().map(|mark| mark.requests).collect::<Vec<_>>(), [2, 5, 10, 20]);
        assert!(report.tokens > 20 && report.loaded >= 1 << 20);
        let mut text = Vec::new();
        report.table(&mut text).expect("prints");
        let text = String::from_utf8(text).expect("text");
        for part in ["20 requests in a row", "after 5 requests", "peak (VmHWM)", "the sum holds:"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["marks"][3]["requests"], 20);
        assert!(json["within"].is_boolean() && json["steady"].is_boolean());
    }

    #[test]
    fn what_is_beside_the_parts_is_the_rest_and_more_of_it_than_may_be_is_refused() {
        let parts = Parts { weights: 6_000_000, pools: 8_000_000, step: 1_000_000, verifies: true };
        let report = |rest: u64, growth: u64, pools_full| {
            let (first, last) = (20_000_000, 20_000_000 + growth);
            let marks = [(100, first), (1_000, last)].map(|(requests, resident)| Mark { requests, resident });
            let seen = Seen { marks: marks.to_vec(), peak: 15_000_000 + rest, pools_full, ..Seen::default() };
            Report::of(parts, seen)
        };
        let most = report(50_000_000, 2 << 20, true);
        assert_eq!((most.rest, most.growth, most.verdict().is_ok()), (50_000_000, 2 << 20, true));
        for (report, told) in [
            (report(50_000_001, 0, true), "more memory than it should"),
            (report(0, (2 << 20) + 1, true), "more memory than it should"),
            (report(0, 0, false), "not every block was written"),
        ] {
            let error = report.verdict().expect_err("refused").to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn requests_are_of_all_efforts_and_of_several_choices() {
        let bodies: Vec<Value> = (0..14).map(|index| body("m", index)).collect();
        for effort in Effort::ALL {
            let own = bodies.iter().filter(|body| body["reasoning_effort"] == effort.name());
            assert_eq!(own.map(|body| body["n"].as_u64()).max(), Some(Some(2)), "{effort:?}");
        }
    }

    #[test]
    fn a_step_takes_what_its_rows_take() {
        let checked = app::find_here(&ModelArgs::from("seedling")).expect("bundled").check().expect("good");
        let floats = 3 * 128 + 2 * 128 + 2 * 64 + 2 * 384 + 32 + 640;
        assert_eq!(step(&checked.shape, 10), 10 * floats * 4);
    }
}
