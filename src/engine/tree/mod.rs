//! The tree engine: a batched decoder whose branches share their KV.
//!
//! One step takes the rows of every branch that has something to compute
//! (`schedule`), runs them in one ragged forward pass ([`model`]), and hands
//! each branch its logits (`advance`). Decode rows go first, prefill chunks fill
//! the rest, so lengths never matter.
//!
//! Invariants: a block is written only by the one branch that owns it ([`kv`]);
//! a request enters only when the blocks that it can ever need are free of other
//! reservations, so no admitted branch runs out; whatever leaves, its blocks are
//! free before the next step.
//!
//! Deliberately absent here: priorities, preemption and prefix reuse between
//! requests.

mod branch;
pub mod checkpoint;
pub mod config;
pub mod generation;
mod kernel;
mod kernel_lanes;
pub mod kv;
mod linear;
pub mod model;
pub mod rope;
mod sample;
mod schedule;
mod store;

use super::{Caps, Command, End, Engine, EngineError, Open, Reply, RequestCounts, RequestId, SegmentEvent};
use crate::metrics::Metrics;
use crate::prompt::Tokenizer;
use crate::token::TokenId;
use branch::{BranchState, Decode, Job};
use kv::Pool;
use model::{Model, Scratch};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use store::{BLOCK, Store};

/// Settings of the tree engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Memory for KV, in bytes; rounded down to whole blocks.
    pub kv_bytes: usize,
    /// Threads of the forward pass, at least 1.
    pub threads: usize,
    /// Positions in one step, at most; at least 1.
    pub step_positions: usize,
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
    /// The operating system refused threads.
    #[error("cannot start threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// The engine. Owned by one thread; see [`super::EngineThread`].
#[derive(Debug)]
pub struct TreeEngine {
    model: Model,
    eos: Vec<TokenId>,
    tokenizer: Arc<Tokenizer>,
    metrics: Arc<Metrics>,
    threads: rayon::ThreadPool,
    step_positions: usize,
    pool: Pool,
    blocks: usize,
    store: Store,
    scratch: Scratch,
    draws: sample::Scratch,
    branches: HashMap<u64, BranchState>,
    /// Branches with a job, in the order in which they are served.
    queue: VecDeque<u64>,
    requests: HashMap<RequestId, Request>,
    waiting: VecDeque<(RequestId, Open, Reply<()>)>,
    reserved: usize,
}

/// What the engine keeps of an admitted request.
#[derive(Debug)]
struct Request {
    reserved: usize,
    positions: usize,
    width: usize,
    live: usize,
    counts: RequestCounts,
}

impl TreeEngine {
    /// An engine over a loaded model. `eos` ids end a generation.
    ///
    /// # Errors
    /// When the pool holds no block or threads cannot be started.
    pub fn new(
        model: Model,
        eos: Vec<TokenId>,
        tokenizer: Arc<Tokenizer>,
        metrics: Arc<Metrics>,
        config: &Config,
    ) -> Result<Self, BuildError> {
        let shape = model.config();
        let block = Store::block_bytes(shape.layers, shape.kv_heads, shape.head_dim);
        let blocks = config.kv_bytes / block.max(1);
        if blocks == 0 {
            return Err(BuildError::Pool { given: config.kv_bytes, block });
        }
        let blocks = blocks.min(u32::MAX as usize);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(config.threads.max(1))
            .thread_name(|index| format!("espalier-worker-{index}"))
            .build()?;
        metrics.engine_blocks.set(blocks as i64);
        Ok(Self {
            store: Store::new(shape.layers, shape.kv_heads, shape.head_dim, blocks),
            pool: Pool::new(blocks as u32, BLOCK),
            blocks,
            model,
            eos,
            tokenizer,
            metrics,
            threads,
            step_positions: config.step_positions.max(1),
            scratch: Scratch::default(),
            draws: sample::Scratch::default(),
            branches: HashMap::new(),
            queue: VecDeque::new(),
            requests: HashMap::new(),
            waiting: VecDeque::new(),
            reserved: 0,
        })
    }

    fn open(&mut self, root: RequestId, open: Open, reply: Reply<()>) {
        let caps = self.caps();
        let refusal = if open.prompt.is_empty() {
            Some(EngineError::Misuse("a prompt needs at least one token"))
        } else if open.prompt.iter().any(|&id| id as usize >= caps.vocab) {
            Some(EngineError::Misuse("a token lies outside the vocabulary"))
        } else if open.positions > caps.context || open.prompt.len() > open.positions {
            let needed = open.positions.max(open.prompt.len());
            Some(EngineError::Context { needed, context: caps.context.min(open.positions) })
        } else {
            let needed = caps.blocks_for(open.prompt.len(), open.positions, open.width);
            (needed > self.blocks).then_some(EngineError::Pool { needed, blocks: self.blocks })
        };
        match refusal {
            Some(error) => drop(reply.send(Err(error))),
            None => self.waiting.push_back((root, open, reply)),
        }
    }

    /// Lets requests in, first come first served, while their whole need fits.
    fn admit(&mut self) {
        while let Some((_, open, reply)) = self.waiting.front() {
            let need = self.caps().blocks_for(open.prompt.len(), open.positions, open.width);
            let gone = reply.is_closed();
            if !gone && self.reserved + need > self.blocks {
                break;
            }
            let Some((root, open, reply)) = self.waiting.pop_front() else { break };
            if gone {
                continue;
            }
            let detokenizer = self.tokenizer.detokenizer();
            self.branches.insert(root, BranchState::root(root, &open.prompt, detokenizer));
            let counts = RequestCounts::default();
            let (positions, width) = (open.positions, open.width);
            self.requests.insert(root, Request { reserved: need, positions, width, live: 1, counts });
            self.reserved += need;
            // If the asker has gone by now, its lease's free is on its way.
            drop(reply.send(Ok(())));
        }
        self.metrics.engine_waiting.set(self.waiting.len() as i64);
    }

    fn fork(&mut self, parent: u64, child: u64, key: u64) {
        let Some(state) = self.branches.get(&parent) else { return };
        let Some(request) = self.requests.get_mut(&state.request) else { return };
        let fault = if !state.settled() {
            Some(EngineError::Misuse("only a settled branch can be forked"))
        } else if request.live > request.width {
            Some(EngineError::Misuse("more branches than the request was admitted with"))
        } else {
            None
        };
        let table = if fault.is_none() { self.pool.fork(&state.table) } else { kv::Table::default() };
        request.live += 1;
        request.counts.branches += 1;
        let child_state = state.child(key, table, fault);
        self.branches.insert(child, child_state);
    }

    fn free(&mut self, id: u64) {
        self.waiting.retain(|(root, ..)| *root != id);
        let Some(state) = self.branches.remove(&id) else { return };
        self.pool.release(state.table);
        self.queue.retain(|queued| *queued != id);
        if let Some(request) = self.requests.get_mut(&state.request) {
            request.live -= 1;
            if request.live == 0 {
                self.reserved -= request.reserved;
                self.requests.remove(&state.request);
            }
        }
        self.publish_sizes();
    }

    fn publish_sizes(&self) {
        self.metrics.engine_branches.set(self.branches.len() as i64);
        self.metrics.engine_blocks_used.set(self.pool.used() as i64);
    }

    /// Gives a branch a job, if it is fit for one; else the job fails.
    fn begin(&mut self, id: u64, job: Job) -> bool {
        let fault = match self.branches.get_mut(&id) {
            None => EngineError::Misuse("the branch is not admitted"),
            Some(BranchState { fault: Some(fault), .. }) => fault.clone(),
            Some(BranchState { job: Some(_), .. }) => EngineError::Misuse("the branch is busy"),
            Some(state) => {
                state.job = Some(job);
                self.queue.push_back(id);
                return true;
            }
        };
        job.fail(fault);
        false
    }

    fn decode(&mut self, id: u64, decode: Decode) {
        let vocab = self.model.config().vocab;
        if decode.segment.inject.iter().any(|&id| id as usize >= vocab) {
            let fault = EngineError::Misuse("a token lies outside the vocabulary");
            return decode.report(SegmentEvent::Failed(fault));
        }
        if !self.begin(id, Job::Decode(decode)) {
            return;
        }
        let Some(state) = self.branches.get_mut(&id) else { return };
        let Some(request) = self.requests.get_mut(&state.request) else { return };
        let Some(Job::Decode(mut decode)) = state.job.take() else { return };
        let inject = std::mem::take(&mut decode.segment.inject);
        let room = request.positions.saturating_sub(state.tokens.len()).min(decode.left as usize);
        for &token in inject.iter().take(room) {
            let token = state.push(token, 0.0, Vec::new());
            decode.left -= 1;
            request.counts.injected += 1;
            self.metrics.engine_injected.inc();
            decode.report(SegmentEvent::Token(token));
        }
        let cut = state.stopped(&decode.segment);
        let full = decode.left == 0 || state.tokens.len() >= request.positions;
        state.job = Some(Job::Decode(decode));
        if let Some(cut) = cut {
            self.finish(id, End::Stop { cut });
        } else if full {
            self.finish(id, End::Length);
        }
    }

    fn finish(&mut self, id: u64, end: End) {
        let Some(state) = self.branches.get_mut(&id) else { return };
        state.end(end);
        if state.job.is_none() {
            self.queue.retain(|queued| *queued != id);
        }
    }

    fn idle(&mut self, id: u64) -> Option<&mut BranchState> {
        let state = self.branches.get_mut(&id)?;
        if state.job.is_some() {
            state.fault = Some(EngineError::Misuse("the branch was changed while it was busy"));
            return None;
        }
        Some(state)
    }

    fn append(&mut self, id: u64, tokens: &[TokenId]) {
        let vocab = self.model.config().vocab;
        let positions = self.branches.get(&id).and_then(|state| self.requests.get(&state.request));
        let positions = positions.map_or(0, |request| request.positions);
        let Some(state) = self.idle(id) else { return };
        if state.tokens.len() + tokens.len() > positions {
            let needed = state.tokens.len() + tokens.len();
            state.fault = Some(EngineError::Context { needed, context: positions });
        } else if tokens.iter().any(|&token| token as usize >= vocab) {
            state.fault = Some(EngineError::Misuse("a token lies outside the vocabulary"));
        } else if !tokens.is_empty() {
            state.tokens.extend_from_slice(tokens);
            state.logits = None;
        }
    }

    fn truncate(&mut self, id: u64, len: usize) {
        let Some(state) = self.idle(id) else { return };
        let len = len.max(1);
        if len < state.tokens.len() {
            state.tokens.truncate(len);
            state.logits = None;
            state.computed_before = state.computed_before.min(len);
            let mut table = std::mem::take(&mut state.table);
            self.pool.truncate(&mut table, len);
            if let Some(state) = self.branches.get_mut(&id) {
                state.table = table;
            }
        }
    }

    fn logits(&mut self, id: u64, job: Job) {
        let pending = self.branches.get(&id).map(|state| state.table.len()..state.tokens.len());
        if let (Some(pending), Job::Logits { positions, ids, .. }) = (pending, &job) {
            let ascending = positions.windows(2).all(|pair| pair[0] < pair[1]);
            let vocab = self.model.config().vocab;
            if positions.is_empty() || !ascending || !positions.iter().all(|p| pending.contains(p)) {
                return job.fail(EngineError::Misuse("logits need ascending, pending positions"));
            }
            if ids.iter().any(|&id| id as usize >= vocab) {
                return job.fail(EngineError::Misuse("a token lies outside the vocabulary"));
            }
        }
        self.begin(id, job);
    }
}

impl Engine for TreeEngine {
    fn caps(&self) -> Caps {
        let config = self.model.config();
        Caps {
            context: config.context,
            vocab: config.vocab,
            eos: self.eos.clone(),
            block: BLOCK,
            pool_blocks: self.blocks,
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Open { root, open, reply } => self.open(root, open, reply),
            Command::Fork { parent, child, key } => self.fork(parent, child, key),
            Command::Decode { branch, segment, work, events } => {
                let left = segment.max_tokens;
                self.decode(branch, Decode { segment, left, work, events });
            }
            Command::Append { branch, tokens } => self.append(branch, &tokens),
            Command::Truncate { branch, len } => self.truncate(branch, len),
            Command::Settle { branch, reply } => {
                self.begin(branch, Job::Settle(reply));
            }
            Command::Logits { branch, positions, ids, reply } => {
                self.logits(branch, Job::Logits { positions, ids, rows: Vec::new(), reply });
            }
            Command::Abort { branch } => self.finish(branch, End::Aborted),
            Command::Free { branch } => self.free(branch),
            Command::Counts { request, reply } => {
                let counts = self.requests.get(&request).map(|request| request.counts);
                drop(reply.send(counts.ok_or(EngineError::Misuse("the request is not admitted"))));
            }
        }
    }

    fn step(&mut self) -> Result<bool, EngineError> {
        self.admit();
        let outcome = self.run_step();
        self.publish_sizes();
        outcome.map(|()| !self.queue.is_empty())
    }
}
