//! The series of one engine. A policy's and its reward model's engines have the
//! same ones under names of their own.

use super::{counter, gauge, histogram};
use prometheus::{Histogram, IntCounter, IntGauge, Registry};
use std::sync::{Mutex, PoisonError};

/// What an engine counts.
#[derive(Debug)]
pub struct EngineMetrics {
    /// Tokens sampled by the engine.
    pub sampled: IntCounter,
    /// Tokens injected into branches.
    pub injected: IntCounter,
    /// Positions whose KV was computed for the first time.
    pub computed: IntCounter,
    /// Positions computed once more because their logits were needed again or
    /// their branch had been preempted.
    pub recomputed: IntCounter,
    /// Positions copied from a branch that held the same tokens.
    pub copied: IntCounter,
    /// Positions looked up in the prefix index: all that was not sampled.
    pub looked_up: IntCounter,
    /// Positions whose KV was found in the prefix index.
    pub reused: IntCounter,
    /// Those looked up and not found: filled in when it is read, by one reader at a time.
    missed: Mutex<IntCounter>,
    /// KV blocks of prefixes that were given up for others.
    pub evicted: IntCounter,
    /// Branches that lost their KV to others for a while.
    pub preempted: IntCounter,
    /// Forward passes, commands and steps that failed or panicked.
    pub faults: IntCounter,
    /// Steps run.
    pub steps: IntCounter,
    /// Duration of a step with a forward pass, its scheduling included, seconds.
    pub step_seconds: Histogram,
    /// Positions in a step.
    pub step_positions: Histogram,
    /// Branches in a step.
    pub step_branches: Histogram,
    /// Branches alive.
    pub branches: IntGauge,
    /// KV blocks in use.
    pub blocks_used: IntGauge,
    /// KV blocks that no branch uses and that hold prefixes for later.
    pub blocks_idle: IntGauge,
    /// KV blocks in the pool.
    pub blocks: IntGauge,
    /// Requests that wait for admission.
    pub waiting: IntGauge,
}

impl EngineMetrics {
    /// Every series at zero, named `prefix_...`.
    ///
    /// # Errors
    /// Only when two series share a name, which a test rules out.
    pub(super) fn new(registry: &Registry, prefix: &str) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| counter(registry, &format!("{prefix}_{name}"), help);
        let gauge = |name: &str, help: &str| gauge(registry, &format!("{prefix}_{name}"), help);
        let histogram =
            |name: &str, help: &str, buckets| histogram(registry, &format!("{prefix}_{name}"), help, buckets);
        Ok(Self {
            sampled: counter("sampled_tokens_total", "Tokens sampled.")?,
            injected: counter(
                "injected_tokens_total",
                "Tokens injected into branches, for example to complete an answer.",
            )?,
            computed: counter(
                "computed_positions_total",
                "Positions whose KV was computed for the first time.",
            )?,
            recomputed: counter(
                "recomputed_positions_total",
                "Positions computed once more because their logits were needed again or their branch was preempted.",
            )?,
            copied: counter(
                "copied_positions_total",
                "Positions whose KV another branch of the request computed in the same step.",
            )?,
            looked_up: counter(
                "prefix_queried_positions_total",
                "Positions that were not sampled (of prompts, of what was appended or injected), looked up in the \
                 prefix index.",
            )?,
            reused: counter(
                "prefix_reused_positions_total",
                "Positions whose KV was found in the prefix index.",
            )?,
            missed: Mutex::new(counter(
                "prefix_missed_positions_total",
                "Positions looked up in the prefix index and not found there, or not yet.",
            )?),
            evicted: counter(
                "prefix_evicted_blocks_total",
                "KV blocks of prefixes that were given up for others.",
            )?,
            preempted: counter(
                "preempted_branches_total",
                "Branches that lost their KV to others for a while.",
            )?,
            faults: counter(
                "faults_total",
                "Forward passes, commands and steps of the engine that failed or panicked, and branches whose logits were \
                 not finite.",
            )?,
            steps: counter("steps_total", "Forward passes.")?,
            step_seconds: histogram(
                "step_seconds",
                "Duration of a step with a forward pass, from letting requests in to handing out its tokens.",
                prometheus::exponential_buckets(0.0001, 2.0, 16)?,
            )?,
            step_positions: histogram(
                "step_positions",
                "Positions computed in a step.",
                prometheus::exponential_buckets(1.0, 2.0, 12)?,
            )?,
            step_branches: histogram(
                "step_branches",
                "Branches that took part in a step.",
                prometheus::exponential_buckets(1.0, 2.0, 10)?,
            )?,
            branches: gauge("branches", "Branches alive.")?,
            blocks_used: gauge("kv_blocks_used", "KV blocks in use.")?,
            blocks_idle: gauge(
                "kv_blocks_idle",
                "KV blocks that no branch uses and that hold prefixes for later.",
            )?,
            blocks: gauge("kv_blocks", "KV blocks in the pool.")?,
            waiting: gauge("waiting_requests", "Requests that wait for KV blocks before they start.")?,
        })
    }

    /// Fills in what follows from other series. What waits to be looked up counts as
    /// missed until it is found, and a counter never falls: it rests until it is right.
    pub(super) fn derive(&self) {
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let (reused, looked_up) = (self.reused.get(), self.looked_up.get());
        missed.inc_by(looked_up.saturating_sub(reused).saturating_sub(missed.get()));
    }
}
