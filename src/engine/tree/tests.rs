//! The engine over a model that checks what it reads: scheduling, sharing,
//! preemption and faults, without weights.
//!
//! The model writes every token into its KV and derives its logits from the
//! tokens that it reads back through the block table. So a block that was lost,
//! shared wrongly, or reused for another prefix changes what branches say, and
//! [`said`] knows what they must say.

use super::branch::BranchState;
use super::config::ModelConfig;
use super::forward::Forward;
use super::kernel::Kernels;
use super::model::Row;
use super::sample::{Ask, Scratch, draw};
use super::store::{BLOCK, Store};
use super::threads::Threads;
use super::{Config, Forest, TreeEngine};
use crate::engine::{
    Command, End, Engine, EngineError, Events, Inbox, Open, Priority, Reply, Report, RequestCounts, Sampling,
    Segment, SegmentEvent, channel, rng,
};
use crate::metrics::{EngineMetrics, Metrics};
use crate::prompt::StopRule;
use crate::prompt::fixtures::bundled;
use crate::token::TokenId;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

pub(super) const VOCAB: usize = 13;

/// What the model does to a pass, told by its rows' tokens.
pub(super) type Fault = Box<dyn FnMut(&[TokenId]) -> Result<(), String> + Send>;

/// The model.
pub(super) struct Echo {
    shape: ModelConfig,
    logits: Vec<Vec<f32>>,
    fault: Fault,
    /// How many rows each pass had.
    passes: Arc<Mutex<Vec<usize>>>,
    /// Whether its logits after a prefix are no numbers.
    pub(super) spoilt: fn(&[TokenId]) -> bool,
}

/// The logits after a prefix.
pub(super) fn echo(prefix: &[TokenId]) -> Vec<f32> {
    let hash = prefix.iter().fold(7, |hash, &token| rng::derive(hash, u64::from(token)));
    (0..VOCAB as u64).map(|id| (rng::derive(hash, id) % 1000) as f32 / 250.0).collect()
}

impl Forward for Echo {
    fn shape(&self) -> &ModelConfig {
        &self.shape
    }

    fn kernels(&self) -> Kernels {
        Kernels::detect()
    }

    fn run(&mut self, rows: &[Row<'_>], store: &mut Store, _: &Threads) -> Result<(), String> {
        for row in rows {
            let (block, offset) = (row.blocks[row.position / BLOCK], row.position % BLOCK);
            store.write(0, block, offset, (&[row.token as f32], &[row.position as f32]));
        }
        let tokens: Vec<TokenId> = rows.iter().map(|row| row.token).collect();
        (self.fault)(&tokens)?;
        self.passes.lock().expect("not poisoned").push(rows.len());
        let layer = store.layer(0);
        let read = |row: &Row<'_>| -> Vec<TokenId> {
            let slot = |p: usize| row.blocks[p / BLOCK] as usize * BLOCK + p % BLOCK;
            (0..=row.position)
                .map(|p| {
                    assert_eq!(layer.values[slot(p)] as usize, p, "a block of another place");
                    layer.keys[slot(p)] as TokenId
                })
                .collect()
        };
        let prefixes = rows.iter().filter(|row| row.logits).map(read);
        let logits = prefixes.map(|prefix| match (self.spoilt)(&prefix) {
            true => vec![f32::NAN; VOCAB],
            false => echo(&prefix),
        });
        self.logits = logits.collect();
        Ok(())
    }

    fn logits(&self) -> Box<dyn Iterator<Item = &[f32]> + '_> {
        Box::new(self.logits.iter().map(Vec::as_slice))
    }
}

fn shape() -> ModelConfig {
    let json = format!(
        r#"{{"architectures":["LlamaForCausalLM"],"hidden_size":1,"intermediate_size":1,"num_hidden_layers":1,
        "num_attention_heads":1,"num_key_value_heads":1,"head_dim":2,"vocab_size":{VOCAB},
        "max_position_embeddings":4096,"rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":true}}"#
    );
    let shape = ModelConfig::from_json(json.as_bytes()).expect("a configuration");
    ModelConfig { head_dim: 1, ..shape }
}

/// What a branch with `key` says after `prefix`.
pub(super) fn said(prefix: &[TokenId], key: u64, n: usize) -> Vec<TokenId> {
    let mut tokens = prefix.to_vec();
    for _ in 0..n {
        let logits = echo(&tokens);
        let ask = Ask {
            sampling: &Sampling::default(),
            tokens: &tokens,
            prompt: prefix.len(),
            uniform: rng::uniform(key, tokens.len() as u64),
            top: 0,
        };
        let drawn = draw(Kernels::detect(), &logits, ask, &mut Scratch::default());
        tokens.push(drawn.expect("finite").id);
    }
    tokens.split_off(prefix.len())
}

/// The branches of a forest, which knows nothing of one without a look at it.
#[derive(Debug, Default)]
pub(super) struct Branches {
    all: foldhash::HashMap<u64, BranchState>,
    pub(super) looks: Cell<usize>,
}

impl Deref for Branches {
    type Target = foldhash::HashMap<u64, BranchState>;

    fn deref(&self) -> &Self::Target {
        self.looks.set(self.looks.get() + 1);
        &self.all
    }
}

impl DerefMut for Branches {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.looks.set(self.looks.get() + 1);
        &mut self.all
    }
}

/// What a piece of work has said, and how it ended.
pub(super) type Heard = (Vec<TokenId>, Option<Result<End, EngineError>>);

pub(super) struct Rig {
    pub(super) engine: TreeEngine<Echo>,
    pub(super) metrics: Arc<EngineMetrics>,
    pub(super) passes: Arc<Mutex<Vec<usize>>>,
    pub(super) events: Events,
    pub(super) inbox: Inbox,
    /// What each piece of work has said, and how it ended.
    pub(super) heard: BTreeMap<u64, Heard>,
}

pub(super) fn rig_with(blocks: usize, step_positions: usize, fault: Fault) -> Rig {
    rig_of(blocks * Store::block_bytes(1, 1, 1), step_positions, fault)
}

fn rig_of(kv_bytes: usize, step_positions: usize, fault: Fault) -> Rig {
    let metrics = Arc::clone(&Metrics::new().expect("unique names").engine);
    let passes = Arc::new(Mutex::new(Vec::new()));
    let model =
        Echo { shape: shape(), logits: Vec::new(), fault, passes: Arc::clone(&passes), spoilt: |_| false };
    let config = Config { kv_bytes, threads: 1, step_positions, queue: 100, grouped: true, twins: true };
    let mut engine =
        TreeEngine::over(model, Vec::new(), bundled(), Arc::clone(&metrics), &config).expect("builds");
    // A step takes as long as four rows, and so do those: how steps are cut must not
    // depend on the machine.
    let seen = Arc::clone(&passes);
    engine.clock =
        Box::new(move || seen.lock().expect("not poisoned").iter().map(|&rows| 4.0 + rows as f64).sum());
    let (events, inbox) = channel();
    Rig { engine, metrics, passes, events, inbox, heard: BTreeMap::new() }
}

pub(super) fn rig(blocks: usize) -> Rig {
    rig_with(blocks, 64, Box::new(|_| Ok(())))
}

pub(super) fn segment(max_tokens: u32) -> Segment {
    Segment {
        inject: Vec::new(),
        max_tokens,
        sampling: Sampling::default(),
        stop: Arc::new(StopRule::default()),
        top_logprobs: 0,
        step: None,
        live: true,
    }
}

pub(super) type Opened = oneshot::Receiver<Result<(), EngineError>>;

impl Rig {
    pub(super) fn open(&mut self, root: u64, open: Open) -> Opened {
        let (reply, opened) = Reply::new();
        self.engine.apply(Command::Open { root, open, reply });
        opened
    }

    /// Opens, admits and settles a request, and runs its prefill.
    pub(super) fn settled(&mut self, root: u64, open: Open) {
        let mut opened = self.open(root, open);
        let mut settled = None;
        for _ in 0..10_000 {
            self.step().expect("runs");
            if opened.try_recv().is_ok_and(|outcome| outcome.is_ok()) {
                let (reply, done) = Reply::new();
                self.engine.apply(Command::Settle { branch: root, reply });
                settled = Some(done);
            }
            if settled.as_mut().is_some_and(|done| done.try_recv().is_ok()) {
                return;
            }
        }
        panic!("request {root} was never settled");
    }

    pub(super) fn fork(&mut self, parent: u64, child: u64) {
        self.fork_with(parent, child, child);
    }

    /// A fork that draws like every other one with its key.
    pub(super) fn fork_with(&mut self, parent: u64, child: u64, key: u64) {
        self.engine.apply(Command::Fork { parent, child, key });
    }

    /// Work goes by the number of its branch.
    pub(super) fn decode(&mut self, branch: u64, n: u32) {
        self.heard.insert(branch, (Vec::new(), None));
        let report = Report::new(branch, self.events.clone());
        self.engine.apply(Command::Decode { branch, segment: segment(n), report });
    }

    pub(super) fn free(&mut self, branch: u64) {
        self.engine.apply(Command::Free { branch });
    }

    pub(super) fn step(&mut self) -> Result<bool, EngineError> {
        let outcome = self.engine.step().map(|progress| progress.more);
        while let Some((work, event)) = self.inbox.try_recv() {
            let heard = self.heard.get_mut(&work).expect("work that was started");
            assert_eq!(heard.1, None, "nothing comes after the end");
            match event {
                SegmentEvent::Token(token) => heard.0.push(token.id),
                SegmentEvent::End { end, .. } => heard.1 = Some(Ok(end)),
                SegmentEvent::Failed(error) => heard.1 = Some(Err(error)),
            }
        }
        outcome
    }

    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            if matches!(self.step(), Ok(false)) {
                return;
            }
        }
        panic!("the engine never comes to rest: {:?}", self.heard);
    }

    pub(super) fn counts(&mut self, request: u64) -> RequestCounts {
        let (reply, mut answer) = Reply::new();
        self.engine.apply(Command::Counts { request, reply });
        answer.try_recv().expect("answered at once").expect("admitted")
    }

    /// Checks that nothing is alive and every block can be had.
    pub(super) fn assert_empty(&self) {
        self.engine.forest.assert_empty();
    }
}

impl Forest {
    /// Checks that nothing is alive and every block can be had.
    pub(super) fn assert_empty(&self) {
        assert!(self.branches.is_empty() && self.requests.is_empty() && self.order.is_empty());
        assert!(self.lost.is_empty(), "leases of ended requests: {:?}", self.lost);
        assert_eq!(self.pool.used(), 0);
        self.assert_counts();
    }

    /// Checks the pool's counts against the tables and the index, and the sets of
    /// every request against its branches.
    fn assert_counts(&self) {
        for request in self.requests.values() {
            let those = |which: &dyn Fn(&BranchState) -> bool| -> BTreeSet<u64> {
                request.members.iter().copied().filter(|id| which(&self.branches[id])).collect()
            };
            let ready: BTreeSet<u64> = request.ready.iter().copied().collect();
            assert_eq!(ready.len(), request.ready.len(), "nobody has two turns");
            assert_eq!(ready, those(&|state| state.job.is_some() && !state.parked));
            assert_eq!(request.parked, those(&|state| state.job.is_some() && state.parked));
            assert_eq!(request.later, those(&|state| state.job.is_none() && !state.table.is_empty()));
        }
        self.pool.assert_counts(self.branches.values().map(|state| &state.table), self.index.blocks());
    }
}

pub(super) fn prompt(first: TokenId, n: usize) -> Arc<[TokenId]> {
    (0..n as TokenId).map(|i| (first + i * i) % VOCAB as TokenId).collect()
}

#[test]
fn a_pool_holds_as_many_whole_blocks_as_its_bytes_have_room_for() {
    let block = Store::block_bytes(1, 1, 1);
    for (kv_bytes, blocks) in [(3 * block, 3), (4 * block - 1, 3), (4 * block, 4)] {
        let rig = rig_of(kv_bytes, 64, Box::new(|_| Ok(())));
        assert_eq!(rig.engine.caps().pool_blocks, blocks);
        assert_eq!(rig.metrics.blocks.get(), blocks as i64);
    }
}

#[test]
fn a_pool_that_no_machine_has_is_refused_and_not_the_end_of_the_process() {
    let metrics = Arc::clone(&Metrics::new().expect("unique names").engine);
    let shape = ModelConfig { head_dim: 1 << 50, ..shape() };
    let fault: Fault = Box::new(|_| Ok(()));
    let model = Echo { shape, logits: Vec::new(), fault, passes: Arc::default(), spoilt: |_| false };
    let (kv_bytes, threads, step_positions, queue) = (usize::MAX, 1, 64, 100);
    let config = Config { kv_bytes, threads, step_positions, queue, grouped: true, twins: true };
    let built = TreeEngine::over(model, Vec::new(), bundled(), metrics, &config).map(|_| ());
    let error = built.expect_err("more than there are addresses").to_string();
    assert!(error.contains(&format!("{} bytes", 127usize << 57)) && error.contains("--kv-mib"), "{error}");
}

#[test]
fn logits_that_are_not_finite_are_a_fault_of_the_model_and_a_failed_step_where_all_are() {
    let mut rig = rig(64);
    rig.settled(1, Open::new(prompt(1, 20), 60, 2));
    rig.fork(1, 10);
    rig.fork(1, 11);
    rig.decode(10, 9);
    rig.decode(11, 9);
    rig.step().expect("runs");
    rig.engine.model.spoilt = |_| true;
    assert!(matches!(rig.step(), Err(EngineError::Forward(_))));
    for branch in [10, 11] {
        assert!(matches!(rig.heard[&branch].1, Some(Err(EngineError::Forward(_)))));
    }
    assert_eq!(rig.metrics.faults.get(), 2);
}

#[test]
fn a_pool_of_the_smallest_legal_size_finishes_every_request_whatever_its_width() {
    let (length, each) = (37, 20);
    let caps = rig(1).engine.caps();
    let blocks = caps.blocks_for(length, length + each, 1);
    let mut rig = rig(blocks);
    let prompts: Vec<_> = (1..4).map(|i| prompt(i, length)).collect();
    for (prompt, root) in prompts.iter().zip([100, 200, 300]) {
        rig.settled(root, Open::new(Arc::clone(prompt), length + each, 8));
        for child in root + 1..root + 9 {
            rig.fork(root, child);
            rig.decode(child, each as u32);
        }
    }
    rig.run();
    for (prompt, root) in prompts.iter().zip([100, 200, 300]) {
        for child in root + 1..root + 9 {
            let (tokens, end) = &rig.heard[&child];
            assert_eq!(*end, Some(Ok(End::Length)), "branch {child}");
            assert_eq!(*tokens, said(prompt, child, each), "branch {child} is what it is alone");
        }
    }
    assert!(rig.metrics.preempted.get() > 0, "there was not room for all at once");
    // Recomputation is counted apart: what was computed first is exact.
    for root in [100, 200, 300] {
        let counts = rig.counts(root);
        assert_eq!(counts.sampled, 8 * each as u64);
        assert!(counts.recomputed > 0);
        let known = counts.computed + counts.copied + counts.reused;
        assert_eq!(known, (length + 8 * (each - 1)) as u64);
        for id in root..root + 9 {
            rig.free(id);
        }
    }
    rig.run();
    rig.assert_empty();
    let one_less = Open::new(prompt(1, length), length + each + BLOCK, 1);
    let refused = rig.open(400, one_less).try_recv().expect("answered").expect_err("it can never fit");
    assert_eq!(refused, EngineError::Pool { needed: blocks + 1, blocks });
}

#[test]
fn known_prefixes_are_reused_across_requests_and_apart_by_salt() {
    let mut rig = rig(64);
    let shared = prompt(2, 50);
    rig.settled(1, Open::new(Arc::clone(&shared), 80, 1));
    assert_eq!((rig.counts(1).computed, rig.counts(1).reused), (50, 0));
    rig.settled(2, Open::new(Arc::clone(&shared), 80, 1));
    assert_eq!((rig.counts(2).computed, rig.counts(2).reused), (2, 48));
    // Still there when nobody holds it, up to where another prompt leaves it.
    rig.free(1);
    rig.free(2);
    let mut other = shared.to_vec();
    other[20] = (other[20] + 1) % VOCAB as TokenId;
    rig.settled(3, Open::new(other.into(), 80, 1));
    assert_eq!((rig.counts(3).computed, rig.counts(3).reused), (34, 16));
    let salted = |salt: &str| Open { salt: Some(salt.into()), ..Open::new(Arc::clone(&shared), 80, 1) };
    rig.settled(4, salted("a"));
    assert_eq!(rig.counts(4).reused, 0, "another tenant's prefix");
    rig.settled(5, salted("b"));
    assert_eq!(rig.counts(5).reused, 0);
    rig.settled(6, salted("a"));
    assert_eq!(rig.counts(6).reused, 48);
    // A prompt that is known whole needs the logits of its last position.
    rig.settled(7, Open::new(shared[..48].into(), 80, 1));
    let counts = rig.counts(7);
    assert_eq!((counts.computed, counts.reused, counts.recomputed), (0, 48, 1));
    for id in 3..8 {
        rig.free(id);
    }
    rig.run();
    rig.assert_empty();
    assert_eq!(rig.metrics.reused.get(), 48 + 16 + 48 + 48);
    assert_eq!(rig.metrics.looked_up.get(), 6 * 50 + 48);
}

#[test]
fn equal_prompts_that_arrive_together_are_computed_once() {
    for step_positions in [64, 7] {
        let mut rig = rig_with(64, step_positions, Box::new(|_| Ok(())));
        let shared = prompt(3, 90);
        let _opened: Vec<Opened> =
            (1..5).map(|root| rig.open(root, Open::new(Arc::clone(&shared), 120, 1))).collect();
        rig.step().expect("runs");
        let mut settled = Vec::new();
        for root in 1..5 {
            let (reply, done) = Reply::new();
            rig.engine.apply(Command::Settle { branch: root, reply });
            settled.push(done);
        }
        rig.run();
        assert!(settled.iter_mut().all(|done| done.try_recv() == Ok(Ok(()))));
        let computed: u64 = (1..5).map(|root| rig.counts(root).computed).sum();
        // The last block is not full, so each computes its own.
        assert_eq!(computed, 90 + 3 * 10, "in steps of {step_positions}");
    }
}

#[test]
fn who_came_first_gets_the_memory_and_a_higher_class_comes_first() {
    let mut rig = rig(14);
    // Fills the pool with surplus.
    rig.settled(10, Open::new(prompt(1, 16), 200, 8));
    for child in 11..19 {
        rig.fork(10, child);
        rig.decode(child, 100);
    }
    for _ in 0..20 {
        rig.step().expect("runs");
    }
    assert!(rig.metrics.preempted.get() > 0);
    // Newcomers take surplus, not the first branch of who came before; of two
    // that wait, the higher class enters first.
    let low = Open { priority: Priority::Low, ..Open::new(prompt(5, 60), 64, 1) };
    let high = Open { priority: Priority::High, ..Open::new(prompt(6, 100), 104, 1) };
    let (mut low, mut high) = (rig.open(20, low), rig.open(30, high));
    rig.step().expect("runs");
    assert_eq!(high.try_recv(), Ok(Ok(())));
    assert!(low.try_recv().is_err(), "there is room for one only");
    rig.decode(30, 4);
    let before = rig.heard[&11].0.len();
    for _ in 0..60 {
        rig.step().expect("runs");
    }
    assert_eq!(rig.heard[&30].1, Some(Ok(End::Length)));
    assert!(rig.heard[&11].0.len() > before, "the first branch of the search goes on");
    rig.free(30);
    rig.run();
    assert_eq!(low.try_recv(), Ok(Ok(())), "it was overtaken, not forgotten");
    assert!((11..19).all(|child| rig.heard[&child].0 == said(&prompt(1, 16), child, 100)));
}

#[test]
fn a_request_that_may_not_grow_enters_though_it_fills_the_whole_pool() {
    let mut rig = rig(4);
    // Not a position more than the pool has, nor one that it could decode. Whoever
    // comes after the first finds all of it in the pool.
    for root in 1..3 {
        rig.settled(root, Open::new(prompt(1, 4 * BLOCK), 4 * BLOCK, 1));
        assert_eq!(rig.engine.forest.pool.used(), 4);
        rig.free(root);
        rig.run();
        rig.assert_empty();
    }
}

#[test]
fn a_settled_branch_can_be_forked_though_its_kv_was_taken_and_its_turn_has_come_again() {
    let mut rig = rig(8);
    rig.settled(1, Open::new(prompt(1, 40), 60, 1));
    rig.settled(2, Open::new(prompt(2, 100), 110, 1));
    assert!(rig.counts(1).preempted > 0, "there is room for one of them");
    rig.free(2);
    // Its logits were kept, so that this takes no pass.
    let (reply, mut settled) = Reply::new();
    rig.engine.apply(Command::Settle { branch: 1, reply });
    rig.step().expect("runs");
    assert_eq!(settled.try_recv(), Ok(Ok(())));
    rig.fork(1, 3);
    rig.decode(3, 9);
    rig.run();
    assert_eq!(rig.heard[&3], (said(&prompt(1, 40), 3, 9), Some(Ok(End::Length))));
    assert_eq!(rig.counts(1).computed, 40 + 8);
    rig.free(1);
    rig.free(3);
    rig.run();
    rig.assert_empty();
}

#[test]
fn rows_that_are_taken_back_before_they_run_are_not_counted() {
    let mut rig = rig(7);
    rig.settled(1, Open::new(prompt(1, 16), 96, 2));
    rig.fork(1, 2);
    rig.fork(1, 3);
    rig.decode(3, 40);
    for _ in 0..20 {
        rig.step().expect("runs");
    }
    // The younger branch has a row in the step in which the older one's prefill
    // takes its blocks.
    let tokens = prompt(4, 60).to_vec();
    rig.engine.apply(Command::Append { branch: 2, tokens });
    rig.decode(2, 5);
    rig.run();
    let counts = rig.counts(1);
    assert!(counts.preempted > 0);
    assert_eq!(counts.computed + counts.copied + counts.reused, 16 + (40 - 1) + (60 + 5 - 1));
}

#[test]
fn one_more_than_may_wait_is_refused() {
    let mut rig = rig(5);
    rig.engine.most_waiting = 2;
    rig.settled(1, Open::new(prompt(1, 40), 60, 1));
    rig.decode(1, 20);
    let mut waiting: Vec<Opened> = (2..5).map(|id| rig.open(id, Open::new(prompt(1, 40), 60, 1))).collect();
    let refused = waiting.pop().expect("three").try_recv();
    assert_eq!(refused, Ok(Err(EngineError::Busy { limit: 2 })));
    rig.step().expect("runs");
    // One that gives up makes place for another.
    drop(waiting.remove(0));
    rig.free(2);
    let _place = rig.open(5, Open::new(prompt(1, 40), 60, 1));
    assert_eq!(rig.engine.waiting.len(), 2);
}

#[test]
fn of_branches_that_hold_the_same_tokens_one_is_computed() {
    let mut rig = rig(200);
    let start = prompt(3, 20);
    rig.settled(1, Open::new(Arc::clone(&start), 200, 8));
    for (child, key) in [(2, 7), (3, 7), (4, 7), (5, 8)] {
        rig.fork_with(1, child, key);
        rig.decode(child, 30);
    }
    // Another tenant's pace is its own affair.
    rig.settled(10, Open { salt: Some("other".into()), ..Open::new(Arc::clone(&start), 200, 2) });
    rig.fork_with(10, 11, 7);
    rig.decode(11, 30);
    rig.run();
    for (child, key) in [(2, 7), (3, 7), (4, 7), (5, 8), (11, 7)] {
        assert_eq!(rig.heard[&child].0, said(&start, key, 30), "branch {child}");
    }
    // The branch with key 8 goes along as far as it says the same.
    let (seven, eight) = (said(&start, 7, 30), said(&start, 8, 30));
    let along = seven.iter().zip(&eight).take_while(|(a, b)| a == b).count() as u64;
    let counts = rig.counts(1);
    assert_eq!((counts.computed, counts.copied), (20 + 29 + 29 - along, 2 * 29 + along));
    assert_eq!(rig.counts(10).copied, 0);
    assert_eq!(rig.metrics.copied.get(), 2 * 29 + along);
    // One that was cut back and says something else is no twin any more.
    rig.engine.apply(Command::Truncate { branch: 3, len: 30 });
    rig.engine.apply(Command::Append { branch: 3, tokens: vec![(seven[10] + 1) % VOCAB as TokenId] });
    for child in [2, 3] {
        rig.decode(child, 5);
    }
    rig.run();
    let mut other = [&start, &seven[..10]].concat();
    other.push((seven[10] + 1) % VOCAB as TokenId);
    assert_eq!(rig.heard[&3].0, said(&other, 7, 5));
    assert_eq!(rig.heard[&2].0, said(&[&start, seven.as_slice()].concat(), 7, 5));
}

/// Rows that were computed for each of some requests so far.
pub(super) fn shares(rig: &Rig, requests: &[u64]) -> Vec<u64> {
    let counts = |id: &u64| {
        let counts = rig.engine.forest.requests[id].counts;
        counts.computed + counts.recomputed
    };
    requests.iter().map(counts).collect()
}

#[test]
fn a_chat_keeps_its_pace_beside_a_search() {
    // Seconds of a step: a fixed cost, a cost per row, and one per token drawn.
    for (fixed, row, draw) in [
        (90e-6, 45e-6, 0.0),
        (1e-3, 1e-6, 0.0),
        (0.0, 1e-3, 0.0),
        (0.1, 0.01, 0.0),
        (50e-6, 25e-6, 30e-6),
        (100e-6, 1e-6, 100e-6),
    ] {
        let pace = |branches: u64| {
            let mut rig = rig_with(4000, 512, Box::new(|_| Ok(())));
            let (passes, metrics) = (Arc::clone(&rig.passes), Arc::clone(&rig.metrics));
            rig.engine.clock = Box::new(move || {
                let passes = passes.lock().expect("not poisoned");
                let rows: f64 = passes.iter().map(|&rows| fixed + row * rows as f64).sum();
                rows + draw * metrics.sampled.get() as f64
            });
            rig.settled(1000, Open::new(prompt(1, 120), 2000, branches as usize));
            for child in 1001..1001 + branches {
                rig.fork(1000, child);
                rig.decode(child, 1800);
            }
            let run = |rig: &mut Rig, steps: usize| {
                for _ in 0..steps {
                    rig.step().expect("runs");
                }
                (rig.engine.clock)()
            };
            run(&mut rig, 20);
            let mut opened = rig.open(1, Open::new(prompt(2, 30), 1000, 1));
            run(&mut rig, 1);
            assert_eq!(opened.try_recv(), Ok(Ok(())));
            rig.decode(1, 900);
            // Beside a search, which asks for much, the whole prompt fits in a
            // step; beside a chat it takes as long as the chat, in chunks. The
            // first token comes with the last row.
            let mut steps = 0;
            while rig.heard[&1].0.is_empty() {
                assert!(shares(&rig, &[1])[0] < 30, "the prefill is over and there is no token");
                run(&mut rig, 1);
                steps += 1;
            }
            assert!(steps <= if branches > 1 { 2 } else { 30 }, "{steps} steps until the first token");
            let (begun, tokens) = (run(&mut rig, 0), rig.heard[&1].0.len());
            let before = shares(&rig, &[1, 1000]);
            let ended = run(&mut rig, 100);
            let after = shares(&rig, &[1, 1000]);
            let (chat, search) = (after[0] - before[0], after[1] - before[1]);
            assert_eq!(chat, 100, "it is in every step");
            assert!(search as f64 >= 0.2 * (chat + search) as f64);
            (rig.heard[&1].0.len() - tokens) as f64 / (ended - begun)
        };
        let (beside_chat, beside_search) = (pace(1), pace(256));
        let share = beside_search / beside_chat;
        assert!(share >= 0.4, "fixed {fixed}, row {row}, draw {draw}: {share:.2} of its pace");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn over_any_hundred_steps_everybody_gets_a_fair_part(
        widths in proptest::collection::vec(1..40u64, 2..7),
        step_positions in 8..64usize
    ) {
        let mut rig = rig_with(20_000, step_positions, Box::new(|_| Ok(())));
        let requests: Vec<u64> = (1..=widths.len() as u64).map(|i| i * 1000).collect();
        for (&root, &width) in requests.iter().zip(&widths) {
            rig.settled(root, Open::new(prompt(root as TokenId % 13, 20), 4000, width as usize));
            for child in root + 1..=root + width {
                rig.fork(root, child);
                rig.decode(child, 3000);
            }
        }
        // Until they say different things they ask for less.
        for _ in 0..20 {
            rig.step().expect("runs");
        }
        let mut history = vec![shares(&rig, &requests)];
        for _ in 0..220 {
            rig.step().expect("runs");
            history.push(shares(&rig, &requests));
        }
        for window in history.windows(101) {
            let got: Vec<u64> = window[100].iter().zip(&window[0]).map(|(b, a)| b - a).collect();
            let all: u64 = got.iter().sum();
            for (&got, &width) in got.iter().zip(&widths) {
                let part = 0.4 * all as f64 / requests.len() as f64;
                // All that it asks for is a row of each branch in every step.
                prop_assert!(got as f64 >= part.min(width as f64 * 100.0), "{got} of {all}, {widths:?}");
            }
        }
    }
}

#[test]
fn whoever_was_idle_is_owed_nothing_for_that_time() {
    let mut rig = rig_with(4000, 8, Box::new(|_| Ok(())));
    let requests: Vec<u64> = (1..=10).map(|i| i * 1000).collect();
    for &root in &requests[..9] {
        rig.settled(root, Open::new(prompt(1, 20), 3000, 1));
    }
    rig.decode(1000, 2900);
    for _ in 0..1000 {
        rig.step().expect("runs");
    }
    // Eight others wake, and one comes: more than a step has rows.
    rig.settled(10_000, Open::new(prompt(1, 20), 3000, 1));
    for &root in &requests[1..] {
        rig.decode(root, 2900);
    }
    let before = shares(&rig, &requests);
    for _ in 0..100 {
        rig.step().expect("runs");
    }
    let after = shares(&rig, &requests);
    let got: Vec<u64> = after.iter().zip(&before).map(|(b, a)| b - a).collect();
    assert!(got.iter().all(|&got| got as f64 >= 0.4 * 800.0 / 10.0), "{got:?}");
}

#[test]
fn who_waits_is_let_in_when_the_last_that_runs_comes_to_its_end() {
    let mut rig = rig(5);
    rig.settled(1, Open::new(prompt(1, 40), 60, 1));
    rig.decode(1, 20);
    let mut waiting = rig.open(2, Open::new(prompt(2, 40), 60, 1));
    rig.step().expect("runs");
    assert!(waiting.try_recv().is_err(), "there is room for one");
    // As the engine's thread does: it sleeps once there is nothing to run.
    rig.run();
    assert_eq!(waiting.try_recv(), Ok(Ok(())));
}

#[test]
fn a_pool_of_the_smallest_legal_size_has_room_for_the_copy_of_a_shared_tail() {
    let (length, limit) = (16, 64);
    let needed = rig(1).engine.caps().blocks_for(length, limit, 1);
    let open = Open::new(prompt(1, length), limit, 3);
    let mut small = rig(needed - 1);
    let refused = small.open(1, open.clone()).try_recv();
    assert_eq!(refused, Ok(Err(EngineError::Pool { needed, blocks: needed - 1 })));
    let mut rig = rig(needed);
    rig.settled(1, open);
    rig.fork(1, 2);
    rig.decode(2, 34);
    rig.run();
    // Both list all blocks, the last one half full.
    let (reply, _settled) = Reply::new();
    rig.engine.apply(Command::Settle { branch: 2, reply });
    rig.run();
    rig.fork(2, 3);
    rig.decode(3, 5);
    rig.run();
    assert_eq!(rig.heard[&3].1, Some(Ok(End::Length)));
}

#[test]
fn a_branch_that_may_not_grow_comes_back_into_a_pool_that_it_fills() {
    let mut rig = rig_with(4, 16, Box::new(|_| Ok(())));
    let _opened = rig.open(1, Open::new(prompt(1, 64), 64, 1));
    rig.step().expect("admits");
    let (reply, mut settled) = Reply::new();
    rig.engine.apply(Command::Settle { branch: 1, reply });
    rig.step().expect("runs");
    // Someone of a higher class takes its blocks, and goes.
    let open = Open { priority: Priority::High, ..Open::new(prompt(2, 30), 40, 1) };
    let _first = rig.open(2, open);
    rig.step().expect("runs");
    rig.decode(2, 4);
    rig.run();
    rig.free(2);
    rig.run();
    assert!(rig.counts(1).preempted > 0, "its blocks were taken");
    assert_eq!(settled.try_recv(), Ok(Ok(())));
}

#[test]
fn a_branch_waits_for_another_s_prefill_only_where_that_one_stands_ahead() {
    let mut rig = rig_with(12, 8, Box::new(|_| Ok(())));
    rig.settled(100, Open::new(prompt(1, 144), 160, 2));
    rig.fork(100, 101);
    rig.fork(100, 102);
    // Another request takes the whole pool and goes.
    rig.settled(300, Open::new(prompt(2, 192), 192, 1));
    rig.free(300);
    // Two branches compute the same prompt again, the younger one first, beside a
    // request with which they fill the pool.
    let _opened = rig.open(200, Open::new(prompt(2, 112), 150, 1));
    rig.decode(102, 10);
    rig.step().expect("runs");
    rig.decode(200, 30);
    rig.decode(101, 10);
    rig.run();
    for branch in [101, 102, 200] {
        assert_eq!(rig.heard[&branch].1, Some(Ok(End::Length)), "branch {branch}");
    }
}

#[test]
fn who_comes_back_finds_its_prefix_though_others_were_used_later() {
    let mut rig = rig(20);
    for (root, first, length) in [(1, 1, 160), (2, 2, 128)] {
        rig.settled(root, Open::new(prompt(first, length), length, 1));
        rig.free(root);
    }
    let longer = [&prompt(1, 160), prompt(3, 16).as_ref()].concat();
    rig.settled(3, Open::new(longer.into(), 180, 1));
    assert_eq!((rig.counts(3).reused, rig.counts(3).computed), (160, 16));
    assert_eq!(rig.metrics.evicted.get(), 0, "two blocks were free, and two are enough");
}

#[test]
fn weights_follow_the_class() {
    let mut rig = rig_with(4000, 30, Box::new(|_| Ok(())));
    let classes = [(1000, Priority::High), (2000, Priority::Normal), (3000, Priority::Low)];
    for (root, priority) in classes {
        rig.settled(root, Open { priority, ..Open::new(prompt(1, 20), 2000, 60) });
        for child in root + 1..root + 61 {
            rig.fork(root, child);
            rig.decode(child, 1000);
        }
    }
    // Until they say different things they ask for less.
    for _ in 0..20 {
        rig.step().expect("runs");
    }
    let before = shares(&rig, &[1000, 2000, 3000]);
    for _ in 0..100 {
        rig.step().expect("runs");
    }
    let after = shares(&rig, &[1000, 2000, 3000]);
    let got: Vec<u64> = after.iter().zip(&before).map(|(b, a)| b - a).collect();
    let parts = got.iter().map(|g| *g as f64 / got.iter().sum::<u64>() as f64);
    for (part, expected) in parts.zip([4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]) {
        assert!((part - expected).abs() < 0.05, "{got:?}");
    }
}

#[test]
fn a_request_that_the_model_cannot_take_fails_alone() {
    // Token 11 is poison: an error at first, then a panic.
    for panics in [false, true] {
        let fault: Fault = Box::new(move |tokens| match tokens.contains(&11) {
            true if panics => panic!("the model broke"),
            true => Err("the model broke".to_owned()),
            false => Ok(()),
        });
        let mut rig = rig_with(64, 64, fault);
        let healthy: Arc<[TokenId]> = [1, 2, 3].into();
        let poisoned: Arc<[TokenId]> = [4, 11].into();
        let _opened =
            (rig.open(1, Open::new(healthy.clone(), 40, 1)), rig.open(2, Open::new(poisoned, 40, 1)));
        rig.step().expect("admits");
        // What is sampled may be poison too, so one token.
        rig.decode(1, 1);
        rig.decode(2, 1);
        rig.run();
        assert_eq!(rig.heard[&1], (said(&healthy, 0, 1), Some(Ok(End::Length))));
        // Beside others and alone the request hears the model's own message.
        let message = if panics { "the forward pass panicked" } else { "the model broke" };
        let broke = EngineError::Forward(message.to_owned());
        assert_eq!(rig.heard[&2].1, Some(Err(broke.clone())));
        rig.decode(2, 1);
        let red = rig.step().expect_err("nobody else is there to go on");
        assert_eq!(red, broke);
        assert_eq!(rig.heard[&2].1, Some(Err(broke)));
        rig.free(1);
        rig.free(2);
        rig.run();
        rig.assert_empty();
    }
}

/// A random life of the engine, step by step.
#[derive(Debug, Clone)]
enum Act {
    Open { prompt: usize, width: usize, priority: usize },
    Fork(usize),
    Decode(usize, u32),
    Append(usize, usize),
    Truncate(usize, usize),
    Abort(usize),
    Free(usize),
    Logits(usize),
    Steps(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let any = 0..1000usize;
    prop_oneof![
        2 => (1..70usize, 1..6usize, 0..3usize).prop_map(|(prompt, width, priority)| Act::Open { prompt, width, priority }),
        4 => any.clone().prop_map(Act::Fork),
        6 => (any.clone(), 1..40u32).prop_map(|(b, n)| Act::Decode(b, n)),
        2 => (any.clone(), 1..40usize).prop_map(|(b, n)| Act::Append(b, n)),
        2 => (any.clone(), 1..60usize).prop_map(|(b, n)| Act::Truncate(b, n)),
        1 => any.clone().prop_map(Act::Abort),
        3 => any.clone().prop_map(Act::Free),
        1 => any.prop_map(Act::Logits),
        6 => (1..20usize).prop_map(Act::Steps),
    ]
}

/// A branch as the naive model knows it: its tokens and nothing else.
#[derive(Clone)]
struct Naive {
    request: u64,
    key: u64,
    tokens: Vec<TokenId>,
    busy: bool,
    settled: bool,
}

/// Takes what was heard over into the naive model, and checks it.
fn compare(rig: &mut Rig, naive: &mut HashMap<u64, Naive>, limit: usize) {
    for (branch, (tokens, end)) in &mut rig.heard {
        let Some(model) = naive.get_mut(branch) else { continue };
        if tokens.is_empty() && end.is_none() {
            continue;
        }
        assert_eq!(*tokens, said(&model.tokens, model.key, tokens.len()), "branch {branch}");
        model.tokens.append(tokens);
        assert!(model.tokens.len() <= limit);
        if let Some(end) = end.take() {
            assert!(end.is_ok(), "branch {branch}: {end:?}");
            model.busy = false;
            model.settled = false;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_branches_say_what_they_would_say_alone(
        acts in proptest::collection::vec(act(), 1..80),
        blocks in 12..40usize,
        step_positions in prop_oneof![Just(64usize), Just(5)]
    ) {
        let mut rig = rig_with(blocks, step_positions, Box::new(|_| Ok(())));
        let limit = 90;
        let mut naive: HashMap<u64, Naive> = HashMap::new();
        let mut next = 1;
        for act in acts {
            let mut ids: Vec<u64> = naive.keys().copied().collect();
            ids.sort_unstable();
            let pick = |n: usize| (!ids.is_empty()).then(|| ids[n % ids.len()]);
            match act {
                Act::Open { prompt: n, width, priority } => {
                    let tokens = prompt((next % 3) as TokenId, n);
                    let priority = [Priority::High, Priority::Normal, Priority::Low][priority];
                    let open = Open { priority, ..Open::new(Arc::clone(&tokens), limit, width) };
                    rig.settled(next, open);
                    let root = Naive { request: next, key: 0, tokens: tokens.to_vec(), busy: false, settled: true };
                    naive.insert(next, root);
                    next += 1;
                }
                Act::Fork(n) => {
                    let Some(parent) = pick(n) else { continue };
                    let model = naive[&parent].clone();
                    let request = &rig.engine.forest.requests[&model.request];
                    if model.settled && !model.busy && request.members.len() <= request.width {
                        // Of few keys, so that some say the same for a while.
                        let key = next % 3;
                        rig.fork_with(parent, next, key);
                        naive.insert(next, Naive { key, ..model });
                        next += 1;
                    }
                }
                Act::Decode(n, tokens) => {
                    let Some(id) = pick(n).filter(|id| !naive[id].busy && naive[id].tokens.len() < limit) else { continue };
                    rig.decode(id, tokens);
                    naive.get_mut(&id).expect("picked").busy = true;
                }
                Act::Append(n, more) => {
                    let fits = |id: &u64| !naive[id].busy && naive[id].tokens.len() + more <= limit;
                    let Some(id) = pick(n).filter(fits) else { continue };
                    let tokens = prompt(5, more).to_vec();
                    let model = naive.get_mut(&id).expect("picked");
                    model.tokens.extend(&tokens);
                    model.settled = false;
                    rig.engine.apply(Command::Append { branch: id, tokens });
                }
                Act::Truncate(n, len) => {
                    let Some(id) = pick(n).filter(|id| !naive[id].busy) else { continue };
                    let model = naive.get_mut(&id).expect("picked");
                    if len < model.tokens.len() {
                        model.tokens.truncate(len);
                        model.settled = false;
                    }
                    rig.engine.apply(Command::Truncate { branch: id, len });
                }
                Act::Abort(n) => {
                    let Some(id) = pick(n) else { continue };
                    rig.engine.apply(Command::Abort { branch: id });
                    rig.step().expect("runs");
                    compare(&mut rig, &mut naive, limit);
                    prop_assert!(!naive[&id].busy, "an abort ends within a step");
                }
                Act::Free(n) => {
                    let Some(id) = pick(n) else { continue };
                    rig.free(id);
                    naive.remove(&id);
                    rig.heard.remove(&id);
                    // Events of a branch that is gone are for nobody.
                    rig.heard.insert(id, (Vec::new(), None));
                }
                Act::Logits(n) => {
                    let Some(id) = pick(n).filter(|id| !naive[id].busy) else { continue };
                    let state = &rig.engine.forest.branches[&id];
                    let (from, to) = (state.table.len(), state.tokens.len());
                    if from == to {
                        continue;
                    }
                    let (reply, mut rows) = Reply::new();
                    let positions: Vec<usize> = (from..to).step_by(3).collect();
                    rig.engine.apply(Command::Logits { branch: id, positions: positions.clone(), ids: vec![], reply });
                    rig.run();
                    compare(&mut rig, &mut naive, limit);
                    let rows = rows.try_recv().expect("answered").expect("scored");
                    let model = &naive[&id];
                    let expected: Vec<Vec<f32>> = positions.iter().map(|p| echo(&model.tokens[..=*p])).collect();
                    prop_assert_eq!(rows, expected);
                    // Everything is computed now, as after a settle.
                    naive.get_mut(&id).expect("picked").settled = true;
                }
                Act::Steps(n) => {
                    for _ in 0..n {
                        rig.step().expect("runs");
                    }
                }
            }
            compare(&mut rig, &mut naive, limit);
            rig.engine.forest.assert_counts();
            prop_assert!(rig.passes.lock().expect("not poisoned").iter().all(|rows| *rows <= step_positions));
        }
        rig.run();
        compare(&mut rig, &mut naive, limit);
        prop_assert!(naive.values().all(|model| !model.busy), "every segment ends");
        for id in naive.keys().copied().collect::<Vec<_>>() {
            rig.free(id);
        }
        rig.run();
        rig.assert_empty();
        while rig.engine.forest.index.evict(&mut rig.engine.forest.pool) {}
        prop_assert_eq!(rig.engine.forest.pool.free(), blocks, "no block is lost");
    }
}
