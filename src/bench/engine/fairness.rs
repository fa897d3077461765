//! A chat beside a search, on the wall clock.
//!
//! The same chat of one branch decodes beside another chat and beside a request
//! of 256 branches. The scheduler owes it 0.4 of the first pace in the second
//! case, and its first token within two steps. The engine is the one that is
//! served: of branches that say the same one is computed.

use super::BenchError;
use super::measure::Stage;
use super::spread::Spread;
use super::workload::{Grown, Name, Workload, grow, segment};
use crate::engine::{EngineError, Inbox, SegmentEvent, channel};
use serde::Serialize;
use std::time::Instant;

/// Tokens of the chat's prompt and of the other request's.
const PROMPT: usize = 120;

/// Tokens that the chat decodes on the clock.
const TOKENS: usize = 48;

/// Tokens that the other request may decode, so that it outlasts the chat.
const OTHERS: usize = 8 * TOKENS;

/// Branches of the other request.
const BRANCHES: [usize; 2] = [1, 256];

/// What the chat got.
#[derive(Debug, Serialize)]
pub(super) struct Fairness {
    /// Its tokens per second beside another chat.
    pub beside_one: Spread,
    /// The same beside a request of 256 branches.
    pub beside_many: Spread,
    /// The second by the first.
    pub ratio: f64,
    /// Tokens per second of the 256 branches meanwhile.
    pub many: Spread,
    /// Steps from its last prompt position to the moment at which its first
    /// token was seen, beside the 256 branches.
    pub first_token_steps: Spread,
}

/// One run of the chat.
struct Lap {
    rate: f64,
    others: f64,
    steps: u64,
}

/// KV blocks that both requests take at most, of `block` positions.
pub(super) fn blocks(block: usize) -> usize {
    BRANCHES.iter().map(|&branches| other(branches).blocks(OTHERS, block)).sum()
}

fn other(branches: usize) -> Workload {
    Workload { name: Name::B, branches, shared: PROMPT, own: 1 }
}

/// Measures the chat `runs` times beside each.
pub(super) async fn measure(stage: &Stage, runs: usize) -> Result<Fairness, BenchError> {
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for seed in 0..runs as u64 {
        one.push(beside(stage, BRANCHES[0], seed).await?);
        many.push(beside(stage, BRANCHES[1], seed).await?);
    }
    let rate = |laps: &[Lap]| Spread::of(laps.iter().map(|lap| lap.rate));
    let (beside_one, beside_many) = (rate(&one), rate(&many));
    Ok(Fairness {
        beside_one,
        beside_many,
        ratio: beside_many.median / beside_one.median,
        many: Spread::of(many.iter().map(|lap| lap.others)),
        first_token_steps: Spread::of(many.iter().map(|lap| lap.steps as f64)),
    })
}

/// The chat beside a request of so many branches.
async fn beside(stage: &Stage, branches: usize, seed: u64) -> Result<Lap, BenchError> {
    let (handle, metrics) = (&stage.handle, &stage.metrics);
    let background = grow(handle, &other(branches), (OTHERS, seed)).await?;
    let (noise, mut heard) = channel();
    for (branch, work) in background.branches.iter().zip(0..) {
        branch.decode(segment(OTHERS), work, &noise);
    }
    let Grown { root, branches } = grow(handle, &other(1), (TOKENS, seed + 1)).await?;
    let (events, mut inbox) = channel();
    let asked = metrics.steps.get();
    for branch in &branches {
        branch.decode(segment(TOKENS), 0, &events);
    }
    let mut first: Option<(Instant, u64)> = None;
    let mut count = 0usize;
    let rate = loop {
        match inbox.recv().await {
            Some((_, SegmentEvent::Token(_))) if first.is_none() => {
                first = Some((Instant::now(), metrics.steps.get()));
                drain(&mut heard)?;
            }
            Some((_, SegmentEvent::Token(_))) => count += 1,
            Some((_, SegmentEvent::End { .. })) => {
                break first.map_or(0.0, |(begun, _)| count as f64 / begun.elapsed().as_secs_f64());
            }
            Some((_, SegmentEvent::Failed(error))) => return Err(error.into()),
            None => return Err(EngineError::Closed.into()),
        }
    };
    let others = drain(&mut heard)?;
    drop((root, background));
    let steps = first.map_or(0, |(_, steps)| steps - asked);
    Ok(Lap { rate, others: others as f64 * rate / count.max(1) as f64, steps })
}

/// How many tokens of the other request have come meanwhile.
fn drain(heard: &mut Inbox) -> Result<usize, BenchError> {
    let mut tokens = 0;
    while let Some((_, event)) = heard.try_recv() {
        match event {
            SegmentEvent::Token(_) => tokens += 1,
            // Else the chat would have been alone for a while.
            SegmentEvent::End { .. } => {
                return Err(BenchError::Broken("the other request ended before the chat".to_owned()));
            }
            SegmentEvent::Failed(error) => return Err(error.into()),
        }
    }
    Ok(tokens)
}
