//! The forward pass of a dense decoder over a ragged batch.
//!
//! A batch is one flat list of rows, each with its token, its position and its
//! branch's block table; decode rows and prefill chunks are the same thing. Rows
//! are dealt to workers in contiguous shares. Within a layer a worker only
//! touches its own rows; between computing keys and values and attending to
//! them lies the one point where all workers meet, because a prefill row
//! attends to rows that other workers may hold.

use super::config::{LoadError, ModelConfig};
use super::kernel::{Attend, Kernels, Packed, rms_norm, rotate};
use super::kv::BlockId;
use super::linear::Linear;
use super::store::{BLOCK, Store};
use crate::token::TokenId;
use candle_core::{DType, Device, Tensor};
use candle_nn::var_builder::SimpleBackend;
use mistralrs_quant::{ShardedSafeTensors, ShardedVarBuilder};
use rayon::prelude::*;

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

/// A LlamaForCausalLM with its weights, in f32.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    kernels: Kernels,
    embedding: Packed,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None` where the head is the embedding matrix.
    head: Option<Linear>,
    turns: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
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
    turns: Vec<(f32, f32)>,
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
#[derive(Debug, Default)]
pub struct Scratch {
    workers: Vec<Worker>,
}

impl Scratch {
    /// The wanted logits of the last pass, `[row][vocab]` in the order of the
    /// rows that wanted them.
    pub fn logits(&self, vocab: usize) -> impl Iterator<Item = &[f32]> {
        self.workers.iter().flat_map(move |worker| worker.logits.chunks_exact(vocab))
    }
}

/// Floating-point operations below which another thread costs more than it saves.
const WORTH_A_THREAD: usize = 4_000_000;

impl Model {
    /// Loads weights from a safetensors backend.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the configuration
    /// says.
    pub fn load(config: ModelConfig, weights: Box<dyn SimpleBackend>) -> Result<Self, LoadError> {
        let builder = ShardedSafeTensors::wrap(weights, DType::F32, Device::Cpu);
        Self::build(config, builder).map_err(|error| LoadError::Weights(error.to_string()))
    }

    fn build(config: ModelConfig, builder: ShardedVarBuilder) -> candle_core::Result<Self> {
        let c = &config;
        let (queries, kvs) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let body = builder.pp("model");
        let embedding = floats(&body.pp("embed_tokens").get((c.vocab, c.hidden), "weight")?)?;
        // Packed, so that a tied head needs no second copy.
        let embedding = Packed::new(&embedding, c.vocab, c.hidden);
        let mut layers = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let layer = body.pp("layers").pp(index);
            let (attention, mlp) = (layer.pp("self_attn"), layer.pp("mlp"));
            let linear = |shape, bias, builder| Linear::load(shape, bias, &c.quantisation, builder);
            layers.push(Layer {
                attention_norm: floats(&layer.pp("input_layernorm").get(c.hidden, "weight")?)?,
                q: linear((c.hidden, queries), c.attention_bias, attention.pp("q_proj"))?,
                k: linear((c.hidden, kvs), c.attention_bias, attention.pp("k_proj"))?,
                v: linear((c.hidden, kvs), c.attention_bias, attention.pp("v_proj"))?,
                o: linear((queries, c.hidden), c.attention_bias, attention.pp("o_proj"))?,
                mlp_norm: floats(&layer.pp("post_attention_layernorm").get(c.hidden, "weight")?)?,
                gate: linear((c.hidden, c.intermediate), c.mlp_bias, mlp.pp("gate_proj"))?,
                up: linear((c.hidden, c.intermediate), c.mlp_bias, mlp.pp("up_proj"))?,
                down: linear((c.intermediate, c.hidden), c.mlp_bias, mlp.pp("down_proj"))?,
            });
        }
        let head = |builder: &ShardedVarBuilder| {
            Linear::load((c.hidden, c.vocab), false, &None, builder.pp("lm_head"))
        };
        let head = if c.tied { None } else { Some(head(&builder)?) };
        let norm = floats(&body.pp("norm").get(c.hidden, "weight")?)?;
        // In f32 like the reference, so that long positions round alike.
        let pairs = c.head_dim / 2;
        let turns = (0..pairs)
            .map(|i| 1.0 / (c.rope_theta as f32).powf((2 * i) as f32 / c.head_dim as f32))
            .collect();
        Ok(Self { kernels: Kernels::detect(), embedding, layers, norm, head, turns, config })
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
        let c = &self.config;
        let (queries, kvs) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let layer = 2 * c.hidden * (queries + kvs) + 3 * c.hidden * c.intermediate + 2 * c.hidden;
        c.layers * layer + c.hidden + c.vocab * c.hidden * if c.tied { 1 } else { 2 }
    }

    /// Computes all rows, writes their KV into `store`, and leaves the wanted
    /// logits in `scratch`. Runs on the current rayon pool.
    ///
    /// # Errors
    /// When a library product fails; the KV of these rows is then undefined.
    pub fn forward(&self, rows: &[Row<'_>], store: &mut Store, scratch: &mut Scratch) -> Result<(), String> {
        self.deal(rows, scratch);
        let workers = &mut scratch.workers;
        for index in 0..self.layers.len() {
            each(workers, |worker| {
                if index > 0 {
                    self.after_keys(index - 1, rows, store, worker)?;
                }
                self.keys(index, worker)
            })?;
            let kvs = self.config.kv_heads * self.config.head_dim;
            for worker in workers.iter() {
                let pairs = worker.k.chunks_exact(kvs).zip(worker.v.chunks_exact(kvs));
                for (row, pair) in rows[worker.first..][..worker.rows].iter().zip(pairs) {
                    store.write(index, row.blocks[row.position / BLOCK], row.position % BLOCK, pair);
                }
            }
        }
        each(workers, |worker| {
            if let Some(last) = self.layers.len().checked_sub(1) {
                self.after_keys(last, rows, store, worker)?;
            }
            self.head(rows, worker)
        })
    }

    /// Gives every worker an equal share of rows and their embeddings.
    fn deal(&self, rows: &[Row<'_>], scratch: &mut Scratch) {
        let work = 2 * self.parameters() * rows.len();
        let n = (work / WORTH_A_THREAD).clamp(1, rayon::current_num_threads()).min(rows.len().max(1));
        scratch.workers.resize_with(n, Worker::default);
        let mut first = 0;
        for (index, worker) in scratch.workers.iter_mut().enumerate() {
            let share = rows.len() / n + usize::from(index < rows.len() % n);
            (worker.first, worker.rows) = (first, share);
            worker.x.clear();
            worker.turns.clear();
            for row in &rows[first..first + share] {
                self.embedding.unpack(row.token as usize, &mut worker.x);
                worker.turns.extend(self.turns.iter().map(|turn| {
                    let (sin, cos) = (row.position as f32 * turn).sin_cos();
                    (cos, sin)
                }));
            }
            first += share;
        }
    }

    /// Norm, queries, keys and values of one layer for a worker's rows.
    fn keys(&self, index: usize, worker: &mut Worker) -> Result<(), String> {
        let layer = &self.layers[index];
        let dim = self.config.head_dim;
        let Worker { rows, turns, x, normed, q, k, v, .. } = worker;
        self.norm_rows(x, &layer.attention_norm, normed);
        self.apply(&layer.q, normed, *rows, q)?;
        self.apply(&layer.k, normed, *rows, k)?;
        self.apply(&layer.v, normed, *rows, v)?;
        for (row, turns) in turns.chunks_exact(dim / 2).enumerate() {
            let (queries, kvs) = (q.len() / *rows, k.len() / *rows);
            rotate(&mut q[row * queries..(row + 1) * queries], dim, turns);
            rotate(&mut k[row * kvs..(row + 1) * kvs], dim, turns);
        }
        Ok(())
    }

    /// Attention and MLP of one layer for a worker's rows.
    fn after_keys(
        &self,
        index: usize,
        rows: &[Row<'_>],
        store: &Store,
        worker: &mut Worker,
    ) -> Result<(), String> {
        let layer = &self.layers[index];
        let (kv_heads, head_dim) = (self.config.kv_heads, self.config.head_dim);
        let Worker { first, rows: n, x, normed, q, attended, gate, up, scores, .. } = worker;
        attended.resize(q.len(), 0.0);
        let width = self.config.heads * head_dim;
        for (i, row) in rows[*first..][..*n].iter().enumerate() {
            let attend = Attend {
                query: &q[i * width..(i + 1) * width],
                layer: store.layer(index),
                blocks: row.blocks,
                len: row.position + 1,
                kv_heads,
                head_dim,
            };
            self.kernels.attend(attend, scores, &mut attended[i * width..(i + 1) * width]);
        }
        self.apply(&layer.o, attended, *n, normed)?;
        add(x, normed);
        self.norm_rows(x, &layer.mlp_norm, normed);
        self.apply(&layer.gate, normed, *n, gate)?;
        self.apply(&layer.up, normed, *n, up)?;
        self.kernels.silu_gate(gate, up);
        self.apply(&layer.down, gate, *n, normed)?;
        add(x, normed);
        Ok(())
    }

    /// Logits of the rows that want them.
    fn head(&self, rows: &[Row<'_>], worker: &mut Worker) -> Result<(), String> {
        let hidden = self.config.hidden;
        let Worker { first, rows: n, x, normed, gate, logits, .. } = worker;
        let mut wanted = 0;
        normed.clear();
        gate.resize(hidden, 0.0);
        for (row, x) in rows[*first..][..*n].iter().zip(x.chunks_exact(hidden)) {
            if row.logits {
                rms_norm(x, &self.norm, self.config.epsilon, gate);
                normed.extend_from_slice(gate);
                wanted += 1;
            }
        }
        logits.clear();
        match &self.head {
            _ if wanted == 0 => {}
            Some(head) => self.apply(head, normed, wanted, logits)?,
            None => {
                logits.resize(wanted * self.config.vocab, 0.0);
                self.kernels.product(normed, wanted, &self.embedding, logits);
            }
        }
        Ok(())
    }

    fn norm_rows(&self, x: &[f32], weight: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        let hidden = self.config.hidden;
        for (x, out) in x.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
            rms_norm(x, weight, self.config.epsilon, out);
        }
    }

    fn apply(&self, linear: &Linear, x: &[f32], rows: usize, out: &mut Vec<f32>) -> Result<(), String> {
        linear.forward(self.kernels, x, rows, out).map_err(|error| error.to_string())
    }
}

/// Runs `work` on every worker, in parallel where there are several.
fn each(
    workers: &mut [Worker],
    work: impl Fn(&mut Worker) -> Result<(), String> + Send + Sync,
) -> Result<(), String> {
    match workers {
        [only] => work(only),
        workers => workers.par_iter_mut().try_for_each(work),
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

fn floats(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
