//! The forward pass of a dense decoder over a ragged batch.
//!
//! A batch is one flat list of rows, each with its token, its position and its
//! branch's block table; decode rows and prefill chunks are the same thing. Rows
//! are dealt to workers in contiguous shares. Branches that decode read nothing
//! that another worker writes, so each worker runs through all layers by itself.
//! Only where a prefill is cut between workers do they meet in every layer,
//! between its keys and its attention. A few rows of a large model are one
//! share, and its matrices are split over the threads instead.

pub mod alone;
mod matrices;
mod tensors;
mod tiles;

use super::checkpoint::Reader;
use super::config::{LoadError, ModelConfig};
use super::kernel::Kernels;
use super::kernel_attention::Tile;
use super::kernel_kv::{Pass, Phase, Slots, View};
use super::kv::BlockId;
use super::linear::{Linear, Products};
use super::matrix::Matrix;
use super::score::Score;
use super::store::Store;
use super::threads::Threads;
use crate::token::TokenId;
use tiles::tiles;

/// One position to compute.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The token at the position.
    pub token: TokenId,
    /// The position, from 0.
    pub position: usize,
    /// Blocks of the row's branch, up to this position at least; its own slot
    /// is writable.
    pub blocks: &'a [BlockId],
    /// Whether its logits are wanted.
    pub logits: bool,
}

/// A dense decoder with its weights: matrices in f32, in 16-bit floats or
/// quantised, the rest in f32.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    kernels: Kernels,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None` where the head is the embedding matrix.
    head: Option<Linear>,
    /// What takes the head's place in a process reward model.
    score: Option<Score>,
    turns: Vec<f32>,
    parameters: usize,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Norms of each head of q and k, where the family has them.
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    o: Linear,
    mlp_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// One worker's rows and activations, reused from step to step.
#[derive(Debug, Default)]
struct Worker {
    first: usize,
    rows: usize,
    /// Rows that attend together, and the leading blocks that they share.
    tiles: Vec<(usize, usize)>,
    /// For every row the cosines of its position, and then the sines.
    turns: Vec<f32>,
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    scores: Vec<f32>,
    logits: Vec<f32>,
}

/// Scratch of a forward pass.
#[derive(Debug)]
pub struct Scratch {
    workers: Vec<Worker>,
    grouped: bool,
}

impl Scratch {
    /// Scratch for passes in which rows that share blocks read them together,
    /// or, to compare, each for itself. The bits are the same.
    #[must_use]
    pub fn new(grouped: bool) -> Self {
        Self { workers: Vec::new(), grouped }
    }

    /// The wanted logits of the last pass, `[row][outputs]` in the order of the
    /// rows that wanted them.
    pub fn logits(&self, outputs: usize) -> impl Iterator<Item = &[f32]> {
        self.workers.iter().flat_map(move |worker| worker.logits.chunks_exact(outputs))
    }
}

/// [`Kernels::attend`], or what is compared with it.
type Kernel = fn(Kernels, Tile<'_>, &[f32], &mut Vec<f32>, &mut [f32]);

/// Floating-point operations below which another thread costs more than it saves.
const WORTH_A_THREAD: usize = 4_000_000;

/// Up to so many rows reading the weights takes longer than multiplying with
/// them, where they are too many for a cache.
const FEW_ROWS: usize = 8;

/// Parameters that no cache holds.
const LARGE: usize = 16_000_000;

impl Model {
    /// Reads the weights.
    pub(super) fn load(config: ModelConfig, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        let c = &config;
        let (queries, kvs) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        // Packed, so that a tied head needs no second copy.
        let embedding = reader.matrix("model.embed_tokens.weight", (c.vocab, c.hidden))?;
        let mut layers = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let mut linear = |part, shape, bias| Linear::load(&name(part), shape, bias, reader);
            let q = linear("self_attn.q_proj", (c.hidden, queries), c.qkv_bias)?;
            let k = linear("self_attn.k_proj", (c.hidden, kvs), c.qkv_bias)?;
            let v = linear("self_attn.v_proj", (c.hidden, kvs), c.qkv_bias)?;
            let o = linear("self_attn.o_proj", (queries, c.hidden), c.output_bias)?;
            let gate = linear("mlp.gate_proj", (c.hidden, c.intermediate), c.mlp_bias)?;
            let up = linear("mlp.up_proj", (c.hidden, c.intermediate), c.mlp_bias)?;
            let down = linear("mlp.down_proj", (c.intermediate, c.hidden), c.mlp_bias)?;
            let mut norm = |part| reader.floats(&name(part));
            let head_norms = match c.qk_norm {
                true => Some((norm("self_attn.q_norm.weight")?, norm("self_attn.k_norm.weight")?)),
                false => None,
            };
            let attention_norm = norm("input_layernorm.weight")?;
            let mlp_norm = norm("post_attention_layernorm.weight")?;
            layers.push(Layer { attention_norm, q, k, v, head_norms, o, mlp_norm, gate, up, down });
        }
        let norm = reader.floats("model.norm.weight")?;
        let score = c.score.map(|score| Score::load(score, c.hidden, reader)).transpose()?;
        let head = match c.tied || score.is_some() {
            true => None,
            false => Some(Linear::load("lm_head", (c.hidden, c.vocab), false, reader)?),
        };
        let turns = c.rope.frequencies(c.head_dim);
        let parameters = Self::tensors(c).map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let kernels = Kernels::detect();
        Ok(Self { kernels, embedding, layers, norm, head, score, turns, parameters, config })
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The kernels it runs on.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Weights, counted once where they are tied.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Computes all rows, writes their KV into `store`, and leaves the wanted
    /// logits in `scratch`.
    ///
    /// # Errors
    /// None on the CPU; a device's pass can fail, and the scheduler copes.
    pub fn forward(
        &self,
        rows: &[Row<'_>],
        store: &mut Store,
        (scratch, threads): (&mut Scratch, &Threads),
    ) -> Result<(), String> {
        self.deal(rows, scratch, threads.count());
        let Scratch { workers, grouped } = scratch;
        let sizes: Vec<usize> = workers.iter().map(|worker| worker.rows).collect();
        let split = workers.len() == 1 && self.parameters >= LARGE;
        let products = Products { kernels: self.kernels, threads: split.then_some(threads) };
        Pass::new(store, rows, &sizes).run(threads, workers, |worker, phase| match phase {
            Phase::Begin => self.begin(rows, *grouped, worker),
            Phase::Write(layer, slots) => self.keys(layer, slots, products, worker),
            Phase::Read(layer, view) => self.after_keys(layer, view, products, worker),
            Phase::End => self.head(rows, products, worker),
        });
        Ok(())
    }

    /// Gives every worker an equal share of rows.
    fn deal(&self, rows: &[Row<'_>], scratch: &mut Scratch, threads: usize) {
        let work = 2 * self.parameters * rows.len();
        let n = match rows.len() <= FEW_ROWS && self.parameters >= LARGE {
            true => 1,
            false => (work / WORTH_A_THREAD).clamp(1, threads).min(rows.len().max(1)),
        };
        scratch.workers.resize_with(n, Worker::default);
        let mut first = 0;
        for (index, worker) in scratch.workers.iter_mut().enumerate() {
            let share = rows.len() / n + usize::from(index < rows.len() % n);
            (worker.first, worker.rows) = (first, share);
            first += share;
        }
    }

    /// The embeddings, the rotations and the tiles of a worker's rows.
    fn begin(&self, rows: &[Row<'_>], grouped: bool, worker: &mut Worker) {
        let rows = &rows[worker.first..][..worker.rows];
        worker.x.clear();
        worker.turns.clear();
        tiles(rows, grouped, &mut worker.tiles);
        let attention = self.config.rope.attention();
        for row in rows {
            self.embedding.unpack(row.token as usize, &mut worker.x);
            let begun = worker.turns.len();
            worker.turns.resize(begun + 2 * self.turns.len(), 0.0);
            let (cosines, sines) = worker.turns[begun..].split_at_mut(self.turns.len());
            for ((cosine, sine), turn) in cosines.iter_mut().zip(sines).zip(&self.turns) {
                let (sin, cos) = (row.position as f32 * turn).sin_cos();
                (*cosine, *sine) = (cos * attention, sin * attention);
            }
        }
    }

    /// Norm, queries, keys and values of one layer for a worker's rows.
    fn keys(&self, index: usize, slots: Slots<'_>, products: Products<'_>, worker: &mut Worker) {
        let layer = &self.layers[index];
        let Worker { rows, turns, x, normed, q, k, v, .. } = worker;
        self.norm_rows(x, &layer.attention_norm, normed);
        layer.q.forward(products, normed, *rows, q);
        layer.k.forward(products, normed, *rows, k);
        layer.v.forward(products, normed, *rows, v);
        if let Some((q_norm, k_norm)) = &layer.head_norms {
            self.kernels.rms_norm_heads(q, q_norm, self.config.epsilon);
            self.kernels.rms_norm_heads(k, k_norm, self.config.epsilon);
        }
        self.kernels.rotate(q, self.config.head_dim, turns);
        self.kernels.rotate(k, self.config.head_dim, turns);
        slots.write(k, v);
    }

    /// Attention and MLP of one layer for a worker's rows.
    fn after_keys(&self, index: usize, view: View<'_>, products: Products<'_>, worker: &mut Worker) {
        let layer = &self.layers[index];
        self.attend((index, Kernels::attend), view, worker);
        let Worker { rows: n, x, normed, attended, gate, up, .. } = worker;
        layer.o.forward(products, attended, *n, normed);
        self.kernels.add(x, normed);
        self.norm_rows(x, &layer.mlp_norm, normed);
        layer.gate.forward(products, normed, *n, gate);
        layer.up.forward(products, normed, *n, up);
        self.kernels.silu_gate(gate, up);
        layer.down.forward(products, gate, *n, normed);
        self.kernels.add(x, normed);
    }

    /// Attention of one layer for a worker's rows, for which `view` is.
    fn attend(&self, (index, kernel): (usize, Kernel), view: View<'_>, worker: &mut Worker) {
        let Worker { tiles, q, attended, scores, .. } = worker;
        attended.resize(q.len(), 0.0);
        let width = self.config.heads * self.config.head_dim;
        let window = self.config.windows[index];
        let mut done = 0;
        for &(size, shared) in tiles.iter() {
            let tile = Tile { layer: view, rows: (done, size), window, shared };
            let part = done * width..(done + size) * width;
            kernel(self.kernels, tile, &q[part.clone()], scores, &mut attended[part]);
            done += size;
        }
    }

    /// Logits of the rows that want them.
    fn head(&self, rows: &[Row<'_>], products: Products<'_>, worker: &mut Worker) {
        let hidden = self.config.hidden;
        let Worker { first, rows: n, x, normed, gate, logits, .. } = worker;
        let mut wanted = 0;
        normed.clear();
        gate.resize(hidden, 0.0);
        for (row, x) in rows[*first..][..*n].iter().zip(x.chunks_exact(hidden)) {
            if row.logits {
                self.kernels.rms_norm(x, &self.norm, self.config.epsilon, gate);
                normed.extend_from_slice(gate);
                wanted += 1;
            }
        }
        logits.clear();
        match (&self.head, &self.score) {
            _ if wanted == 0 => {}
            (_, Some(score)) => score.forward(products, wanted, normed, logits),
            (Some(head), None) => head.forward(products, normed, wanted, logits),
            (None, None) => {
                logits.resize(wanted * self.config.vocab, 0.0);
                products.product(normed, wanted, &self.embedding, logits);
            }
        }
    }

    fn norm_rows(&self, x: &[f32], weight: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        self.kernels.rms_norm(x, weight, self.config.epsilon, out);
    }
}

#[cfg(test)]
mod tests;
