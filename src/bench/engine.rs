//! `espalier bench engine`: the speed of decode steps, beside the time that
//! their matrix products alone take.
//!
//! Every comparison is made side by side in one run, on the same weights and
//! threads: each repeat times a workload and then its products alone, so that
//! what else the machine does weighs on both. Prompts are computed before the
//! clock starts, and the token that is drawn from a prompt's last logits is not
//! counted: what is counted comes out of decode steps, sampling included.

mod measure;
mod numpy;
mod report;
mod shape;
mod spread;
mod workload;

use super::BenchError;
use crate::app::{self, Hub};
use crate::config::EngineArgs;
use crate::engine::tree::model::Model;
use crate::prompt::Tokenizer;
use measure::{Plan, Subject, measure};
use shape::ShapeName;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use workload::{ALL, Name};

/// Runs of each row of the table, where `--runs` gives none.
const RUNS: usize = 15;

/// The same for a model on which one run takes minutes.
const RUNS_OF_A_SHAPE: usize = 1;

/// Tokens that each branch decodes on the clock.
const NEW: usize = 24;

/// The arguments of `espalier bench engine`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Print one JSON document instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Multiply the same matrices with NumPy too, in a child process (`python3` on the PATH).
    #[arg(long)]
    pub numpy: bool,
    /// Measure random weights of this shape instead of a model's own.
    #[arg(long, value_name = "SHAPE")]
    pub shape: Option<ShapeName>,
    /// Runs of each row [default: 15, or 1 with --shape].
    #[arg(long, value_name = "N")]
    pub runs: Option<NonZeroUsize>,
    /// Workloads to measure, separated by commas [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub workloads: Vec<Name>,
}

/// Measures and prints.
///
/// # Errors
/// When the model or the engine fails.
pub async fn run(
    options: &Options,
    args: &EngineArgs,
    hub: &Hub,
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let loaded = app::find(&args.model, hub).await?.check()?.load(&mut |_, _| {})?;
    let (name, model): (String, Arc<Model>) = match options.shape {
        Some(shape) => (format!("{} (random weights)", shape.text()), Arc::new(shape.model()?)),
        None => (loaded.name, Arc::new(loaded.model)),
    };
    let runs = if options.shape.is_some() { RUNS_OF_A_SHAPE } else { RUNS };
    let plan = Plan {
        runs: options.runs.map_or(runs, NonZeroUsize::get),
        new: NEW,
        // On a large model one step in six stands for all: they differ by a few
        // positions of attention.
        stride: if options.shape.is_some() { 6 } else { 1 },
        enough: Duration::from_millis(100),
        numpy: options.numpy,
        workloads: ALL
            .into_iter()
            .filter(|w| options.workloads.is_empty() || options.workloads.contains(&w.name))
            .collect(),
    };
    let tokenizer: Arc<Tokenizer> = Arc::new(loaded.tokenizer);
    let subject = Subject { name, model, tokenizer, config: app::tree_config(args) };
    let report = measure(&subject, &plan).await?;
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        report.table(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
