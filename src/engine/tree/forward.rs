//! What the engine asks of a model: rows in, KV written, logits out.

use super::config::ModelConfig;
use super::kernel::Kernels;
use super::model::{Model, Row, Scratch};
use super::store::Store;
use super::threads::Threads;
use std::sync::Arc;

/// A model with its scratch memory.
pub trait Forward: Send + 'static {
    /// Its shape.
    fn shape(&self) -> &ModelConfig;
    /// The kernels for what is done to its logits.
    fn kernels(&self) -> Kernels;
    /// Computes all rows and writes their KV into `store`. It may panic; the
    /// engine takes that for a failure.
    ///
    /// # Errors
    /// With the reason; the KV of these rows is then undefined.
    fn run(&mut self, rows: &[Row<'_>], store: &mut Store, threads: &Threads) -> Result<(), String>;
    /// The wanted logits of the last run, in the order of the rows.
    fn logits(&self) -> Box<dyn Iterator<Item = &[f32]> + '_>;
}

/// A loaded model on the CPU.
#[derive(Debug)]
pub struct Cpu {
    model: Arc<Model>,
    scratch: Scratch,
}

impl Cpu {
    /// A model whose rows attend in groups or, to compare, each for itself.
    #[must_use]
    pub fn new(model: impl Into<Arc<Model>>, grouped: bool) -> Self {
        Self { model: model.into(), scratch: Scratch::new(grouped) }
    }
}

impl Forward for Cpu {
    fn shape(&self) -> &ModelConfig {
        self.model.config()
    }

    fn kernels(&self) -> Kernels {
        self.model.kernels()
    }

    fn run(&mut self, rows: &[Row<'_>], store: &mut Store, threads: &Threads) -> Result<(), String> {
        self.model.forward(rows, store, (&mut self.scratch, threads))
    }

    fn logits(&self) -> Box<dyn Iterator<Item = &[f32]> + '_> {
        Box::new(self.scratch.logits(self.model.config().outputs()))
    }
}
