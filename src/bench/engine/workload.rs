//! What is decoded, and how long that takes.

use super::BenchError;
use crate::engine::{
    Branch, EngineError, Handle, Open, RequestCounts, Sampling, Segment, SegmentEvent, channel, rng,
};
use crate::metrics::EngineMetrics;
use crate::prompt::StopRule;
use crate::token::TokenId;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// A request whose branches are ready to decode.
#[derive(Debug)]
pub(super) struct Grown {
    /// The prompt.
    pub root: Branch,
    /// What was forked from it.
    pub branches: Vec<Branch>,
}

/// `len` tokens by chance, the same for equal keys.
pub(super) fn tokens(handle: &Handle, key: u64, len: usize) -> Vec<TokenId> {
    tokens_of(handle.caps().vocab, key, len)
}

/// The same for a vocabulary of so many.
pub(super) fn tokens_of(vocab: usize, key: u64, len: usize) -> Vec<TokenId> {
    (0..len).map(|i| (rng::uniform(key, i as u64) * vocab as f64) as TokenId).collect()
}

/// Computes a workload's prompt and its branches' own tokens, with room for
/// `new` more on each.
pub(super) async fn grow(
    handle: &Handle,
    workload: &Workload,
    (new, seed): (usize, u64),
) -> Result<Grown, BenchError> {
    let prompt: Arc<[TokenId]> = tokens(handle, 0, workload.shared).into();
    let open = Open::new(prompt, workload.longest(new), workload.branches);
    let root = handle.open(open).await?;
    root.settle().await?;
    let mut branches: Vec<Branch> = Vec::with_capacity(workload.branches);
    for (i, own) in workload.owns().into_iter().enumerate() {
        let branch = root.fork(seed << 32 | i as u64);
        if own > 0 {
            branch.append(tokens(handle, 1 + i as u64, own));
        }
        branches.push(branch);
    }
    for settled in futures_util::future::join_all(branches.iter().map(Branch::settle)).await {
        settled?;
    }
    Ok(Grown { root, branches })
}

/// A segment of `new` tokens from decode steps, and one from logits that are
/// there already.
pub(super) fn segment(new: usize) -> Segment {
    Segment {
        inject: Vec::new(),
        max_tokens: new as u32 + 1,
        sampling: Sampling { temperature: 0.8, ..Sampling::default() },
        stop: Arc::new(StopRule::default()),
        top_logprobs: 0,
        step: None,
        live: true,
    }
}

/// Decodes a workload: `new` tokens a branch on the clock.
pub(super) async fn decode(
    handle: &Handle,
    metrics: &EngineMetrics,
    workload: &Workload,
    (new, seed): (usize, u64),
) -> Result<Run, BenchError> {
    let Grown { root, branches } = grow(handle, workload, (new, seed)).await?;
    let (events, mut inbox) = channel();
    let segment = segment(new);
    let steps = metrics.steps.get();
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
    Ok(Run { time, steps: metrics.steps.get() - steps, unique: computed + reused, recomputed })
}
