//! The tree engine: a batched decoder whose branches share their KV.
//!
//! One `step` takes rows of every request that has something to compute
//! (`schedule`, shared out by `fair`), runs them in one ragged forward pass
//! ([`model`]), and hands each branch its logits. Decode rows and prefill chunks
//! are the same thing, so lengths never matter.
//!
//! Invariants: a block is written only by the one branch that owns it ([`kv`]);
//! a prefix that is resident is not computed again ([`prefix`]); blocks go to
//! the request that came first, and who loses its KV gets it back (`memory`), so
//! every admitted branch ends; whatever leaves, its blocks are free before the
//! next step. When what runs is decided by load or by clocks, what a branch says
//! is not: that depends on its tokens and its key.
//!
//! Deliberately absent here: modes, budgets, and text of answers.

mod branch;
pub mod checkpoint;
mod commands;
pub mod config;
mod costs;
mod draws;
mod fair;
pub mod forward;
pub mod generation;
pub mod gguf;
mod halves;
mod kept;
mod kernel;
mod kernel_attention;
mod kernel_codes;
mod kernel_halves;
mod kernel_kv;
mod kernel_lanes;
mod kernel_quant;
mod kernel_rows;
mod kernel_tiles;
mod kernel_zeros;
pub mod kv;
mod linear;
mod matrix;
mod memory;
pub mod model;
pub mod prefix;
mod probe;
pub mod quant;
mod recover;
mod request;
pub mod rope;
mod sample;
mod schedule;
mod score;
mod standing;
mod step;
mod store;
pub mod threads;
mod twins;

use super::{Bell, BranchId, Caps, Command, End, Engine, EngineError, Progress, RequestId};
use crate::metrics::EngineMetrics;
use crate::prompt::Tokenizer;
use crate::token::TokenId;
use branch::{Decode, Job, Look};
use costs::Costs;
use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use forward::{Cpu, Forward};
use kept::Kept;
use kv::Pool;
use model::Model;
use prefix::PrefixIndex;
use request::{Queue, Request};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use store::{BLOCK, Store};
use threads::Threads;

pub use score::ScoreHead;

/// Settings of the tree engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Memory for KV, in bytes; rounded down to whole blocks.
    pub kv_bytes: usize,
    /// Threads of the forward pass, at least 1.
    pub threads: usize,
    /// Positions in one step, at most; at least 1.
    pub step_positions: usize,
    /// Requests that may wait for memory; one more is refused.
    pub queue: usize,
    /// Whether rows that share blocks attend to them together; `false` only
    /// serves to compare. What branches say is the same.
    pub grouped: bool,
    /// Whether branches of a request that hold the same tokens are computed as
    /// one; `false` only serves to compare. What they say is the same.
    pub twins: bool,
}

/// Why an engine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The pool is smaller than one block.
    #[error("kv_bytes = {given} holds no KV block; one block of this model takes {block} bytes")]
    Pool {
        /// Bytes given.
        given: usize,
        /// Bytes of a block.
        block: usize,
    },
    /// The operating system refused the pool.
    #[error(
        "the system refuses {bytes} bytes of memory for KV; give the pools less (--kv-mib, --prm-kv-mib)"
    )]
    Memory {
        /// Bytes of the pool.
        bytes: usize,
    },
    /// The operating system refused threads.
    #[error("cannot start threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// The engine. Owned by one thread; see [`super::EngineThread`].
pub struct TreeEngine<M = Cpu> {
    model: M,
    eos: Vec<TokenId>,
    tokenizer: Arc<Tokenizer>,
    threads: Arc<Threads>,
    step_positions: usize,
    twins: bool,
    most_waiting: usize,
    costs: Costs,
    /// Seconds since some moment; what steps take is measured by it.
    clock: Box<dyn Fn() -> f64 + Send>,
    store: Store,
    /// Scratch of draws, one for each thread.
    draws: Vec<sample::Scratch>,
    waiting: Queue,
    /// Whether the first of those that wait was found not to fit, and nothing has
    /// happened since.
    unfit: bool,
    forest: Forest,
}

/// The branches that there are. Tests count how often they are looked at.
#[cfg(not(test))]
type Branches = HashMap<u64, branch::BranchState>;
#[cfg(test)]
use tests::Branches;

/// The trees of all requests, and the pool that they grow in.
struct Forest {
    pool: Pool,
    blocks: usize,
    index: PrefixIndex,
    branches: Branches,
    requests: HashMap<RequestId, Request>,
    /// Requests by rank.
    order: BTreeSet<(u64, RequestId)>,
    /// Virtual time: what the least served one has of those that were refused rows
    /// in the last step; where nobody was, what the most served one has.
    level: u64,
    /// Branches that a fault has ended and whose leases are still held.
    lost: HashSet<u64>,
    kept: Kept,
    /// Rings once for all that a step or a command has to say.
    bell: Bell,
    metrics: Arc<EngineMetrics>,
}

impl TreeEngine {
    /// Positions in one KV block.
    pub const BLOCK: usize = BLOCK;

    /// Bytes of one KV block of a model.
    #[must_use]
    pub fn block_bytes(model: &Model) -> usize {
        let shape = model.config();
        Store::block_bytes(shape.layers, shape.kv_heads, shape.head_dim)
    }

    /// An engine over a loaded model. `eos` ids end a generation.
    ///
    /// # Errors
    /// When the pool holds no block or more than can be had, or threads cannot be
    /// started.
    pub fn new(
        model: impl Into<Arc<Model>>,
        eos: Vec<TokenId>,
        tokenizer: Arc<Tokenizer>,
        metrics: Arc<EngineMetrics>,
        config: &Config,
    ) -> Result<Self, BuildError> {
        Self::over(Cpu::new(model, config.grouped), eos, tokenizer, metrics, config)
    }
}

impl<M: Forward> TreeEngine<M> {
    /// An engine over anything that computes rows.
    ///
    /// # Errors
    /// When the pool holds no block or more than can be had, or threads cannot be
    /// started.
    pub fn over(
        model: M,
        eos: Vec<TokenId>,
        tokenizer: Arc<Tokenizer>,
        metrics: Arc<EngineMetrics>,
        config: &Config,
    ) -> Result<Self, BuildError> {
        let shape = model.shape();
        let vocab = shape.vocab;
        let block = Store::block_bytes(shape.layers, shape.kv_heads, shape.head_dim);
        let blocks = config.kv_bytes / block.max(1);
        if blocks == 0 {
            return Err(BuildError::Pool { given: config.kv_bytes, block });
        }
        let blocks = blocks.min(u32::MAX as usize);
        let store = Store::new(shape.layers, shape.kv_heads, shape.head_dim, blocks);
        let store = store.ok_or(BuildError::Memory { bytes: blocks * block })?;
        let threads = Arc::new(Threads::new(config.threads)?);
        metrics.blocks.set(blocks as i64);
        let start = Instant::now();
        Ok(Self {
            store,
            model,
            eos,
            tokenizer,
            draws: (0..threads.count()).map(|_| sample::Scratch::default()).collect(),
            threads,
            step_positions: config.step_positions.max(1),
            twins: config.twins,
            most_waiting: config.queue,
            costs: Costs::default(),
            clock: Box::new(move || start.elapsed().as_secs_f64()),
            waiting: Queue::default(),
            unfit: false,
            forest: Forest {
                pool: Pool::new(blocks as u32, BLOCK),
                blocks,
                index: PrefixIndex::default(),
                branches: Branches::default(),
                requests: HashMap::new(),
                order: BTreeSet::new(),
                level: 0,
                lost: HashSet::new(),
                kept: Kept::new(vocab),
                bell: Bell::default(),
                metrics,
            },
        })
    }

    /// The same engine on the threads of another one: two pools on the same
    /// cores would fight over them.
    #[must_use]
    pub fn on_threads_of<N>(mut self, other: &TreeEngine<N>) -> Self {
        self.threads = Arc::clone(&other.threads);
        self
    }
}

impl<M: Forward> Engine for TreeEngine<M> {
    fn caps(&self) -> Caps {
        let config = self.model.shape();
        Caps {
            context: config.context,
            vocab: config.vocab,
            eos: self.eos.clone(),
            block: BLOCK,
            pool_blocks: self.forest.blocks,
        }
    }

    fn apply(&mut self, command: Command) {
        self.unfit = false;
        match command {
            Command::Open { root, open, reply } => self.open(root, open, reply),
            Command::Fork { parent, child, key } => self.fork(parent, child, key),
            Command::Decode { branch, segment, report } => {
                let left = segment.max_tokens;
                self.decode(branch, Decode { segment, left, look: Look::default(), report });
            }
            Command::Append { branch, tokens } => self.append(branch, &tokens),
            Command::Truncate { branch, len } => self.truncate(branch, len),
            Command::Settle { branch, reply } => {
                self.begin(branch, Job::Settle(reply));
            }
            Command::Logits { branch, positions, ids, reply } => {
                self.logits(branch, Job::Logits { positions, ids, rows: Vec::new(), reply });
            }
            Command::Abort { branch } => self.forest.finish(branch, End::Aborted),
            Command::Free { branch } => self.free(branch),
            Command::Counts { request, reply } => {
                let counts = self.forest.requests.get(&request).map(|request| request.counts);
                reply.send(counts.ok_or_else(|| self.forest.unknown(request)));
            }
        }
        self.forest.bell.ring();
    }

    fn step(&mut self) -> Result<Progress, EngineError> {
        let (begun, passes) = ((self.clock)(), self.forest.metrics.steps.get());
        self.admit();
        self.unfit = false;
        self.forest.unpark();
        let outcome = self.run_step();
        self.forest.bell.ring();
        // Whoever waits may fit now that a branch is idle, and nobody else may
        // come to ask for another step.
        self.admit();
        self.forest.publish_sizes();
        if self.forest.metrics.steps.get() > passes {
            self.forest.metrics.step_seconds.observe((self.clock)() - begun);
        }
        let busy = |request: &Request| !request.ready.is_empty() || !request.parked.is_empty();
        outcome.map(|ran| Progress { ran, more: self.forest.requests.values().any(busy) })
    }

    fn recover(&mut self, culprit: Option<BranchId>) -> bool {
        self.put_in_order(culprit);
        true
    }

    fn probe(&mut self) -> bool {
        self.model_works()
    }
}

#[cfg(test)]
mod tests;
