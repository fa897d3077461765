//! What is decoded, and how long that takes.

use super::BenchError;
use crate::engine::{Branch, EngineError, Handle, Open, RequestCounts, Sampling, Segment, SegmentEvent, rng};
use crate::metrics::Metrics;
use crate::prompt::StopRule;
use crate::token::TokenId;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Branches of one request that decode side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Workload {
    /// Its name.
    pub name: Name,
    /// Branches.
    pub branches: usize,
    /// Tokens of the prefix that all share.
    pub shared: usize,
    /// Tokens of their own that branches have before the clock starts: branch
    /// `i` has `i` modulo this many.
    pub own: usize,
}

/// Names of workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Name {
    /// One branch after 120 tokens.
    A,
    /// 64 branches of a prompt of 120 tokens.
    B,
    /// 64 branches that share 120 tokens and have 0 to 39 of their own.
    C,
    /// 256 branches that share 1,500 tokens.
    D,
}

/// The workloads of the table.
pub(super) const ALL: [Workload; 4] = [
    Workload { name: Name::A, branches: 1, shared: 120, own: 1 },
    Workload { name: Name::B, branches: 64, shared: 120, own: 1 },
    Workload { name: Name::C, branches: 64, shared: 120, own: 40 },
    Workload { name: Name::D, branches: 256, shared: 1500, own: 1 },
];

impl Workload {
    /// Tokens of their own that the branches have.
    pub(super) fn owns(&self) -> Vec<usize> {
        (0..self.branches).map(|i| i % self.own.max(1)).collect()
    }

    /// The longest that a branch gets, in tokens, after `new` decode steps.
    pub(super) fn longest(&self, new: usize) -> usize {
        // The token that was drawn before the first step, too.
        self.shared + self.own.saturating_sub(1) + new + 1
    }

    /// KV blocks of `block` positions that the branches need at most, the
    /// copies of the prefix's last block included.
    pub(super) fn blocks(&self, new: usize, block: usize) -> usize {
        let whole = self.shared / block;
        let private = self.longest(new).div_ceil(block) - whole;
        whole + 1 + self.branches * private
    }
}

/// One run of a workload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// From the first command to the last token.
    pub time: Duration,
    /// Steps that the engine made.
    pub steps: u64,
    /// Different positions of the tree when the last token came.
    pub unique: u64,
    /// Positions that were computed more than once.
    pub recomputed: u64,
}

/// Decodes a workload: `new` tokens a branch on the clock.
pub(super) async fn decode(
    handle: &Handle,
    metrics: &Metrics,
    workload: &Workload,
    (new, seed): (usize, u64),
) -> Result<Run, BenchError> {
    let vocab = handle.caps().vocab as u64;
    let token = |key: u64, i: usize| (rng::uniform(key, i as u64) * vocab as f64) as TokenId;
    let prompt: Arc<[TokenId]> = (0..workload.shared).map(|i| token(0, i)).collect();
    let open = Open::new(prompt, workload.longest(new), workload.branches);
    let root = handle.open(open).await?;
    root.settle().await?;
    let mut branches: Vec<Branch> = Vec::with_capacity(workload.branches);
    for (i, own) in workload.owns().into_iter().enumerate() {
        let branch = root.fork(seed << 32 | i as u64);
        if own > 0 {
            branch.append((0..own).map(|at| token(1 + i as u64, at)).collect());
        }
        branches.push(branch);
    }
    for settled in futures_util::future::join_all(branches.iter().map(Branch::settle)).await {
        settled?;
    }
    let (events, mut inbox) = mpsc::unbounded_channel();
    let segment = Segment {
        inject: Vec::new(),
        // The first comes from the logits that are there already.
        max_tokens: new as u32 + 1,
        sampling: Sampling { temperature: 0.8, ..Sampling::default() },
        stop: Arc::new(StopRule::default()),
        top_logprobs: 0,
        step: None,
    };
    let steps = metrics.engine_steps.get();
    let begun = Instant::now();
    for (branch, work) in branches.iter().zip(0..) {
        branch.decode(segment.clone(), work, &events);
    }
    let mut running = branches.len();
    while running > 0 {
        match inbox.recv().await {
            Some((_, SegmentEvent::Token(_))) => {}
            Some((_, SegmentEvent::End { .. })) => running -= 1,
            Some((_, SegmentEvent::Failed(error))) => return Err(error.into()),
            None => return Err(EngineError::Closed.into()),
        }
    }
    let time = begun.elapsed();
    let RequestCounts { computed, reused, recomputed, .. } = root.counts().await?;
    Ok(Run { time, steps: metrics.engine_steps.get() - steps, unique: computed + reused, recomputed })
}
