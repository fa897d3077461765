//! Long contexts: what prefill costs as the context grows, and what a branch
//! that decodes meanwhile feels of it.

use super::BenchError;
use super::measure::{Stage, Subject};
use super::spread::Spread;
use super::workload::{segment, tokens};
use crate::engine::tree::TreeEngine;
use crate::engine::{Branch, EngineError, Open, SegmentEvent, channel};
use serde::Serialize;
use std::io::{self, Write};
use std::time::Instant;

/// Lengths at which the clock is read.
pub(super) const LENGTHS: [usize; 3] = [512, 2048, 8192];

/// One more behind `--long`.
pub(super) const LONG: usize = 32_768;

/// The prompt that is computed beside a branch that decodes, at most.
const BESIDE: usize = 2048;

/// Tokens of the branch that decodes before the prompt comes.
const QUIET: usize = 16;

/// Tokens that it may decode at least, where the context has room for them.
const FEWEST: usize = 1_024;

/// Prompt of the branch that decodes.
const PROMPT: usize = 16;

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct Contexts {
    /// What was measured.
    pub model: String,
    /// Threads of the forward pass.
    pub threads: usize,
    /// Positions that a step holds at most.
    pub step_positions: usize,
    /// One per length.
    pub lengths: Vec<Length>,
    /// The prefill beside a branch that decodes.
    pub beside: Beside,
}

/// The prefill of one prompt up to some length.
#[derive(Debug, Serialize)]
pub(super) struct Length {
    /// Positions.
    pub positions: usize,
    /// Positions per second from the first one on.
    pub tokens_per_second: f64,
    /// Milliseconds by position since the length before.
    pub ms_per_position: f64,
    /// The same by that of the first length.
    pub growth: f64,
}

/// A prefill beside a branch of another request that decodes.
#[derive(Debug, Serialize)]
pub(super) struct Beside {
    /// Positions of the prefill.
    pub positions: usize,
    /// Its positions per second.
    pub tokens_per_second: f64,
    /// Milliseconds between the tokens of the branch before.
    pub gaps_before_ms: Spread,
    /// The same during the prefill.
    pub gaps_during_ms: Spread,
}

/// The lengths that a context holds. The prompt that would fill it leaves room for one
/// token, as every prompt must.
pub(super) fn held(lengths: &[usize], context: usize) -> Vec<usize> {
    let fitting = lengths.iter().filter(|&&length| length <= context);
    fitting.map(|&length| length.min(context.saturating_sub(1))).collect()
}

/// Measures prefills up to each of `lengths` that the model's context holds.
pub(super) async fn measure(subject: &Subject, lengths: &[usize]) -> Result<Contexts, BenchError> {
    let context = subject.model.config().context;
    let lengths = held(lengths, context);
    let Some(&longest) = lengths.last() else {
        let least = LENGTHS[0];
        return Err(BenchError::Broken(format!(
            "--contexts: the model's context of {context} holds no prompt of {least} tokens; give --shape"
        )));
    };
    // Both prompts, the branch's tokens and a block that is not full of each.
    let blocks = 2 * longest.div_ceil(TreeEngine::BLOCK) + 64;
    let stage = Stage::as_served(subject, blocks)?;
    let lengths = growing(&stage, &lengths).await?;
    let beside = beside(&stage, BESIDE.min(longest)).await?;
    Ok(Contexts {
        model: subject.name.clone(),
        threads: subject.config.threads,
        step_positions: subject.config.step_positions,
        lengths,
        beside,
    })
}

/// One prompt, settled at each of the lengths.
async fn growing(stage: &Stage, lengths: &[usize]) -> Result<Vec<Length>, BenchError> {
    let handle = &stage.handle;
    let all = tokens(handle, 1, lengths.last().copied().unwrap_or(0));
    let mut root: Option<Branch> = None;
    let mut measured: Vec<Length> = Vec::new();
    let (mut before, mut seconds) = (0, 0.0);
    for &length in lengths {
        let part = all[before..length].to_vec();
        let begun = Instant::now();
        let branch = match root.take() {
            Some(branch) => {
                branch.append(part);
                branch
            }
            None => handle.open(Open::new(part.into(), all.len() + 1, 0)).await?,
        };
        branch.settle().await?;
        let took = begun.elapsed().as_secs_f64();
        root = Some(branch);
        seconds += took;
        let ms = took * 1e3 / (length - before) as f64;
        let first = measured.first().map_or(ms, |first| first.ms_per_position);
        measured.push(Length {
            positions: length,
            tokens_per_second: length as f64 / seconds,
            ms_per_position: ms,
            growth: ms / first,
        });
        before = length;
    }
    Ok(measured)
}

/// A prefill of `positions` while a branch of another request decodes.
async fn beside(stage: &Stage, positions: usize) -> Result<Beside, BenchError> {
    let handle = &stage.handle;
    let room = handle.caps().context - PROMPT - 2;
    let prompt = tokens(handle, 2, PROMPT);
    let chat = handle.open(Open::new(prompt.into(), PROMPT + room + 1, 0)).await?;
    let (events, mut inbox) = channel();
    // Not only as long as the prefill: this thread may be late to ask for that.
    chat.decode(segment(room.min(positions.max(FEWEST))), 0, &events);
    let mut last = None;
    let mut gaps = Vec::new();
    while gaps.len() < QUIET {
        gaps.extend(gap(inbox.recv().await, &mut last)?);
    }
    let before = Spread::of(gaps.drain(..));
    let long = tokens(handle, 3, positions);
    let begun = Instant::now();
    let root = handle.open(Open::new(long.into(), positions + 1, 0)).await?;
    let mut settled = std::pin::pin!(root.settle());
    loop {
        tokio::select! {
            done = &mut settled => break done?,
            event = inbox.recv() => gaps.extend(gap(event, &mut last)?),
        }
    }
    let took = begun.elapsed().as_secs_f64();
    Ok(Beside {
        positions,
        tokens_per_second: positions as f64 / took,
        gaps_before_ms: before,
        gaps_during_ms: Spread::of(gaps),
    })
}

/// Milliseconds since the token before, where there was one.
fn gap(event: Option<(u64, SegmentEvent)>, last: &mut Option<Instant>) -> Result<Option<f64>, BenchError> {
    match event {
        Some((_, SegmentEvent::Token(_))) => {
            let now = Instant::now();
            Ok(last.replace(now).map(|last| (now - last).as_secs_f64() * 1e3))
        }
        Some((_, SegmentEvent::End { .. })) => {
            Err(BenchError::Broken("the branch that decodes ended before the prefill".to_owned()))
        }
        Some((_, SegmentEvent::Failed(error))) => Err(error.into()),
        None => Err(EngineError::Closed.into()),
    }
}

impl Contexts {
    /// Prints the tables.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { model, threads, step_positions, lengths, beside } = self;
        writeln!(out, "{model}: prefill with {threads} threads, at most {step_positions} positions a step")?;
        writeln!(out, "\npositions   tokens/s from the first   ms/position since the last   growth")?;
        for Length { positions, tokens_per_second, ms_per_position, growth } in lengths {
            writeln!(
                out,
                "{positions:>9}  {tokens_per_second:>24.1}  {ms_per_position:>27.3}  {growth:>7.2}"
            )?;
        }
        let Beside { positions, tokens_per_second, gaps_before_ms, gaps_during_ms } = beside;
        writeln!(
            out,
            "\nbeside a branch that decodes: {tokens_per_second:.1} positions/s over {positions}; its tokens come \
             every {:.1} ms (at most {:.1}) before and every {:.1} ms (at most {:.1}) during the prefill: {:.2} times",
            gaps_before_ms.median,
            gaps_before_ms.highest,
            gaps_during_ms.median,
            gaps_during_ms.highest,
            gaps_during_ms.median / gaps_before_ms.median
        )
    }
}
