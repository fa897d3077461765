//! Parts of a decode step alone, on a clock: what the step is measured against.
//!
//! The same kernels run over the same layout with the same threads as in a
//! step, but nothing runs between them: no norms, no rotation, no writing of
//! KV, no scheduling, no sampling. Inputs are noise, and no result is read.

use super::super::BuildError;
use super::super::kernel::Kernels;
use super::super::kv::BlockId;
use super::super::matrix::Matrix;
use super::super::store::{BLOCK, Store};
use super::super::threads::Threads;
use super::{Kernel, Model, Row, Scratch};
use crate::engine::rng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a product is dealt to threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dealing {
    /// All of it to one thread.
    Single,
    /// By rows of the batch, as a step deals it.
    Rows,
    /// By outputs, so that every weight is read by one thread only.
    Outputs,
}

impl Dealing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Single, Self::Rows, Self::Outputs];
}

/// What attention is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Its two products.
    Products,
    /// All of it.
    Whole,
}

/// Matrices of one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrices {
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// How many a step multiplies with.
    pub count: usize,
}

impl Matrices {
    /// Floating-point operations of multiplying `rows` rows with all of them.
    #[must_use]
    pub fn flops(&self, rows: usize) -> f64 {
        2.0 * (rows * self.k * self.n * self.count) as f64
    }
}

/// A batch of decoding branches over noise.
#[derive(Debug)]
pub struct Alone {
    model: Arc<Model>,
    threads: Threads,
    store: Store,
    /// Blocks of each branch, for all steps.
    tables: Vec<Vec<BlockId>>,
    /// Positions of each branch before the first step.
    lens: Vec<usize>,
    scratch: Scratch,
    x: Vec<f32>,
    outs: Vec<Vec<f32>>,
}

impl Alone {
    /// Branches that share `shared` positions and have `own` more each, with
    /// room for `steps` steps.
    ///
    /// # Errors
    /// When memory or threads cannot be had.
    pub fn new(
        model: Arc<Model>,
        threads: usize,
        (shared, own): (usize, &[usize]),
        steps: usize,
    ) -> Result<Self, BuildError> {
        let c = model.config();
        let mut blocks = (shared / BLOCK) as BlockId;
        let prefix: Vec<BlockId> = (0..blocks).collect();
        let mut tables = Vec::with_capacity(own.len());
        for own in own {
            let private = (shared + own + steps).div_ceil(BLOCK) - prefix.len();
            let next = blocks + private as BlockId;
            tables.push(prefix.iter().copied().chain(blocks..next).collect());
            blocks = next;
        }
        let bytes = Store::block_bytes(c.layers, c.kv_heads, c.head_dim) * blocks as usize;
        let store = Store::new(c.layers, c.kv_heads, c.head_dim, blocks as usize);
        let mut store = store.ok_or(BuildError::Memory { bytes })?;
        store.fill(|i| noise(1, i));
        let widest = model.matrices().map(Matrix::k).max().unwrap_or(0);
        Ok(Self {
            threads: Threads::new(threads)?,
            store,
            tables,
            lens: own.iter().map(|own| shared + own).collect(),
            scratch: Scratch::new(true),
            x: (0..own.len() * widest).map(|i| noise(2, i)).collect(),
            outs: Vec::new(),
            model,
        })
    }

    /// Layers of the model.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.model.config().layers
    }

    /// The shapes of the matrices that a step multiplies with.
    #[must_use]
    pub fn shapes(&self) -> Vec<Matrices> {
        let mut counts = BTreeMap::new();
        for matrix in self.model.matrices() {
            *counts.entry((matrix.k(), matrix.n())).or_insert(0) += 1;
        }
        counts.into_iter().map(|((k, n), count)| Matrices { k, n, count }).collect()
    }

    /// The time of a step's products with all matrices, or with those of one
    /// shape.
    pub fn products(&mut self, shape: Option<Matrices>, dealing: Dealing) -> Duration {
        let chosen =
            |matrix: &&Matrix| shape.is_none_or(|shape| (shape.k, shape.n) == (matrix.k(), matrix.n()));
        let chosen: Vec<&Matrix> = self.model.matrices().filter(chosen).collect();
        let rows = self.lens.len();
        let threads = match dealing {
            Dealing::Single => 1,
            Dealing::Rows => self.threads.count().min(rows),
            Dealing::Outputs => self.threads.count(),
        };
        self.outs.resize_with(self.threads.count(), Vec::new);
        let share = |whole: usize, index: usize| whole * index / threads..whole * (index + 1) / threads;
        let part = |matrix: &Matrix, index: usize| -> (usize, Range<usize>) {
            match dealing {
                Dealing::Outputs => (rows, share(matrix.panels(), index)),
                Dealing::Single | Dealing::Rows => (share(rows, index).len(), 0..matrix.panels()),
            }
        };
        let (x, kernels) = (&self.x, self.model.kernels());
        let work = |(index, out): &mut (usize, &mut Vec<f32>)| {
            for matrix in &chosen {
                let (rows, panels) = part(matrix, *index);
                let size = rows * matrix.outputs(&panels);
                out.resize(out.len().max(size), 0.0);
                kernels.outputs_of_panels(&x[..rows * matrix.k()], rows, (matrix, panels), &mut out[..size]);
            }
        };
        let mut outs: Vec<(usize, &mut Vec<f32>)> = self.outs[..threads].iter_mut().enumerate().collect();
        let begun = Instant::now();
        self.threads.each(&mut outs, work);
        begun.elapsed()
    }

    /// The time of all layers' attention in a step.
    pub fn attention(&mut self, step: usize, grouped: bool, what: Attention) -> Duration {
        let rows: Vec<Row<'_>> = self
            .tables
            .iter()
            .zip(&self.lens)
            .map(|(blocks, len)| Row { token: 0, position: len + step, blocks, logits: false })
            .collect();
        let (model, store) = (&self.model, &self.store);
        let scratch = &mut self.scratch;
        let kernel: Kernel = match what {
            Attention::Products => Kernels::attend_products,
            Attention::Whole => Kernels::attend,
        };
        let width = model.config.heads * model.config.head_dim;
        model.deal(&rows, scratch, self.threads.count());
        for worker in &mut scratch.workers {
            model.begin(&rows, grouped, worker);
            let from = worker.first * width;
            worker.q.clear();
            worker.q.extend((from..from + worker.rows * width).map(|i| noise(3, i)));
        }
        let begun = Instant::now();
        self.threads.each(&mut scratch.workers, |worker| {
            let rows = &rows[worker.first..][..worker.rows];
            for layer in 0..model.config.layers {
                model.attend((layer, kernel), store.view(layer, rows), worker);
            }
        });
        begun.elapsed()
    }

    /// Floating-point operations of attention's products in a step.
    #[must_use]
    pub fn attention_flops(&self, step: usize) -> f64 {
        let c = self.model.config();
        let seen = |window: &Option<usize>| -> usize {
            self.lens.iter().map(|len| (len + step + 1).min(window.unwrap_or(usize::MAX))).sum()
        };
        4.0 * (c.windows.iter().map(seen).sum::<usize>() * c.heads * c.head_dim) as f64
    }
}

/// A number in [-1, 1).
fn noise(key: u64, index: usize) -> f32 {
    rng::uniform(key, index as u64) as f32 * 2.0 - 1.0
}

#[cfg(test)]
mod tests {
    use super::super::super::checkpoint::Weights;
    use super::super::super::config::ModelConfig;
    use super::*;
    use serde_json::json;

    fn tiny() -> Arc<Model> {
        let config = json!({
            "architectures": ["Qwen2ForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
            "tie_word_embeddings": true
        });
        let config = ModelConfig::from_json(config.to_string().as_bytes()).expect("a good configuration");
        Arc::new(Weights::random(&config, false).load(config, &mut |_, _| {}).expect("loads"))
    }

    #[test]
    fn shapes_hold_every_matrix_and_their_operations_are_those_of_the_parameters() {
        let alone = Alone::new(tiny(), 1, (20, &[0, 3]), 4).expect("builds");
        let shapes = alone.shapes();
        let of = |k, n, count| Matrices { k, n, count };
        let expected = [of(32, 16, 4), of(32, 32, 4), of(32, 48, 4), of(32, 100, 1), of(48, 32, 2)];
        assert_eq!(shapes, expected);
        let layer = 2 * 32 * 16 + 2 * 32 * 32 + 3 * 32 * 48;
        let flops: f64 = shapes.iter().map(|shape| shape.flops(2)).sum();
        assert_eq!(flops, (2 * 2 * (2 * layer + 32 * 100)) as f64);
        // Two layers, 32 floats of queries, 21 and 24 positions seen, two
        // products of two operations each.
        assert_eq!(alone.attention_flops(0), (4 * 2 * 32 * (21 + 24)) as f64);
    }

    #[test]
    fn every_part_runs_for_batches_of_any_size_however_it_is_dealt() {
        for own in [vec![0], vec![0, 7, 31], vec![1; 9]] {
            let mut alone = Alone::new(tiny(), 2, (33, &own), 3).expect("builds");
            for dealing in Dealing::ALL {
                assert!(alone.products(None, dealing) > Duration::ZERO);
                for shape in alone.shapes() {
                    assert!(alone.products(Some(shape), dealing) > Duration::ZERO);
                }
            }
            for (step, grouped) in [(0, true), (2, false)] {
                assert!(alone.attention(step, grouped, Attention::Products) > Duration::ZERO);
                assert!(alone.attention(step, grouped, Attention::Whole) > Duration::ZERO);
            }
        }
    }
}
