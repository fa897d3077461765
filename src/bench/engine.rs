//! `espalier bench engine`: decoding speed of branches that share a prompt,
//! sampling included.

use super::BenchError;
use crate::app::{self, Hub};
use crate::config::EngineArgs;
use crate::engine::tree::TreeEngine;
use crate::engine::{Branch, EngineError, EngineThread, Handle, Open, Sampling, Segment, SegmentEvent};
use crate::metrics::Metrics;
use crate::prompt::StopRule;
use crate::token::TokenId;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Tokens of the shared prompt.
const PROMPT: usize = 120;

/// Tokens that each branch decodes.
const NEW: u32 = 24;

/// Runs of each row; the median is printed, with the slowest and fastest.
const RUNS: usize = 15;

/// Measures and prints.
///
/// # Errors
/// When the model or the engine fails.
pub async fn run(args: &EngineArgs, hub: &Hub, out: &mut dyn Write) -> Result<(), BenchError> {
    let loaded = app::find(&args.model, hub).await?.check()?.load(&mut |_, _| {})?;
    let config = app::tree_config(args);
    let metrics = Arc::new(Metrics::new().map_err(|error| BenchError::Broken(error.to_string()))?);
    let vocab = loaded.model.config().vocab as TokenId;
    let tokenizer = Arc::new(loaded.tokenizer);
    // No token ends a branch, so that every run decodes the same number.
    let engine = TreeEngine::new(loaded.model, Vec::new(), tokenizer, metrics, &config)?;
    let (_thread, handle) = EngineThread::spawn(engine)?;
    let prompt: Arc<[TokenId]> = (0..PROMPT as TokenId).map(|i| 6 + i * 7 % (vocab - 6)).collect();
    writeln!(
        out,
        "{}: {PROMPT}-token prompt, {NEW} new tokens a branch, {} threads, median of {RUNS} runs",
        loaded.name, config.threads
    )?;
    writeln!(out, "{:>8}  {:>10}  {:>21}  {:>8}", "branches", "tokens/s", "slowest - fastest", "ms/step")?;
    for branches in [1, 64] {
        let mut times = Vec::with_capacity(RUNS);
        for seed in 0..RUNS as u64 {
            times.push(decode(&handle, &prompt, branches, seed).await?);
        }
        times.sort_unstable();
        let rate = |time: Duration| (branches as f64) * f64::from(NEW) / time.as_secs_f64();
        let (median, slowest, fastest) = (times[RUNS / 2], times[RUNS - 1], times[0]);
        writeln!(
            out,
            "{branches:>8}  {:>10.0}  {:>9.0} - {:>9.0}  {:>8.3}",
            rate(median),
            rate(slowest),
            rate(fastest),
            median.as_secs_f64() * 1e3 / f64::from(NEW)
        )?;
    }
    Ok(())
}

/// The time from the first segment's start to the last one's end; the prompt is
/// computed before.
async fn decode(
    handle: &Handle,
    prompt: &Arc<[TokenId]>,
    branches: usize,
    seed: u64,
) -> Result<Duration, EngineError> {
    let positions = PROMPT + NEW as usize;
    let root = handle.open(Open::new(Arc::clone(prompt), positions, branches)).await?;
    root.settle().await?;
    let forks: Vec<Branch> = (0..branches as u64).map(|i| root.fork(seed << 32 | i)).collect();
    let (events, mut inbox) = mpsc::unbounded_channel();
    let segment = Segment {
        inject: Vec::new(),
        max_tokens: NEW,
        sampling: Sampling { temperature: 0.8, ..Sampling::default() },
        stop: Arc::new(StopRule::default()),
        top_logprobs: 0,
    };
    let begun = Instant::now();
    for (fork, work) in forks.iter().zip(0..) {
        fork.decode(segment.clone(), work, &events);
    }
    let mut running = branches;
    while running > 0 {
        match inbox.recv().await {
            Some((_, SegmentEvent::Token(_))) => {}
            Some((_, SegmentEvent::End { .. })) => running -= 1,
            Some((_, SegmentEvent::Failed(error))) => return Err(error),
            None => return Err(EngineError::Closed),
        }
    }
    Ok(begun.elapsed())
}
