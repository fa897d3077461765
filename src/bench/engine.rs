//! `espalier bench engine`: the speed of decode steps, beside the time that
//! their matrix products alone take.
//!
//! Every comparison is made side by side in one run, on the same weights and
//! threads: each repeat times a workload and then its products alone, so that
//! what else the machine does weighs on both. Prompts are computed before the
//! clock starts, and the token that is drawn from a prompt's last logits is not
//! counted: what is counted comes out of decode steps, sampling included.

mod context;
mod fairness;
mod llama;
mod measure;
mod numpy;
mod report;
mod shape;
mod spread;
#[cfg(feature = "mistralrs")]
mod stock;
mod workload;

use super::BenchError;
use crate::app::{self, Hub};
use crate::config::EngineArgs;
use crate::engine::tree;
use crate::engine::tree::model::Model;
use crate::engine::tree::quant::Quantize;
use crate::prompt::Tokenizer;
use measure::{Plan, Subject, decoded, measure};
use shape::ShapeName;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
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
    /// Run the workloads on llama.cpp too, by this `llama-batched-bench`.
    #[arg(long, value_name = "PROGRAM", requires = "llama_model", conflicts_with_all = ["contexts", "shape"])]
    pub llama: Option<PathBuf>,
    /// The same weights as a GGUF file in f32, for --llama.
    #[arg(long, value_name = "FILE", requires = "llama")]
    pub llama_model: Option<PathBuf>,
    /// Run workload C on stock mistral.rs too, with the same weights as a
    /// checkpoint directory.
    #[cfg(feature = "mistralrs")]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["contexts", "shape"])]
    pub mistralrs: Option<PathBuf>,
    /// Measure prefills of 512, 2,048 and 8,192 tokens instead of workloads.
    #[arg(long, conflicts_with_all = ["numpy", "runs", "workloads"])]
    pub contexts: bool,
    /// A prefill of 32,768 tokens besides.
    #[arg(long, requires = "contexts")]
    pub long: bool,
    /// Workloads to measure, separated by commas [default: all, and a chat
    /// beside a search].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub workloads: Vec<Name>,
}

impl Options {
    /// Refuses what would fail only behind the whole measurement, and lose it.
    fn check(&self) -> Result<(), BenchError> {
        if let Some(program) = &self.llama {
            llama::try_start(program)?;
        }
        if let Some(model) = self.llama_model.as_ref().filter(|model| !model.is_file()) {
            return Err(BenchError::Broken(format!("--llama-model: there is no file {}", model.display())));
        }
        #[cfg(feature = "mistralrs")]
        if let Some(directory) = &self.mistralrs {
            if !self.workloads.is_empty() && !self.workloads.contains(&Name::C) {
                let why = "--mistralrs: it is measured beside workload C, which --workloads leaves out";
                return Err(BenchError::Broken(why.to_owned()));
            }
            if !directory.join("config.json").is_file() {
                let directory = directory.display();
                return Err(BenchError::Broken(format!("--mistralrs: there is no {directory}/config.json")));
            }
        }
        Ok(())
    }
}

/// Decode speed of a model, in tokens per second.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Rates {
    /// Of one branch (workload A).
    pub one: f64,
    /// Of 64 branches of one prompt (workload B).
    pub many: f64,
}

/// Decodes workloads A and B a few times, with nothing beside them; nothing where
/// the model's context is too short for them.
pub(super) async fn rates_of(
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    config: &tree::Config,
) -> Result<Option<Rates>, BenchError> {
    let subject = Subject { name: String::new(), model, tokenizer, config: config.clone() };
    let workloads: Vec<_> = ALL.into_iter().filter(|w| matches!(w.name, Name::A | Name::B)).collect();
    if workloads.iter().any(|workload| workload.longest(NEW) > subject.model.config().context) {
        return Ok(None);
    }
    let plan = Plan {
        runs: 3,
        new: NEW,
        stride: 1,
        enough: Duration::ZERO,
        numpy: false,
        fairness: false,
        llama: None,
        workloads,
    };
    match decoded(&subject, &plan).await?.as_slice() {
        [one, many] => Ok(Some(Rates { one: *one, many: *many })),
        _ => Err(BenchError::Broken("there is one rate for each workload".to_owned())),
    }
}

/// Measures and prints.
///
/// # Errors
/// When the model or the engine fails, or what is asked cannot be measured.
pub async fn run(
    options: &Options,
    args: &EngineArgs,
    hub: &Hub,
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    options.check()?;
    let loaded = app::find(&args.model, hub).await?.check()?.load(&mut |_, _| {})?;
    let (name, model): (String, Arc<Model>) = match options.shape {
        Some(shape) => (
            format!("{} (random weights)", shape.text()),
            Arc::new(shape.model(Quantize::parse(&args.model.quantize))?),
        ),
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
        fairness: options.workloads.is_empty() && options.shape.is_none(),
        llama: options.llama.clone().zip(options.llama_model.clone()),
        workloads: ALL
            .into_iter()
            .filter(|w| options.workloads.is_empty() || options.workloads.contains(&w.name))
            .collect(),
    };
    let tokenizer: Arc<Tokenizer> = Arc::new(loaded.tokenizer);
    let subject = Subject { name, model, tokenizer, config: app::tree_config(args) };
    if options.contexts {
        let long = options.long.then_some(context::LONG);
        let lengths: Vec<usize> = context::LENGTHS.into_iter().chain(long).collect();
        let contexts = context::measure(&subject, &lengths).await?;
        return match options.json {
            true => document(&contexts, out),
            false => Ok(contexts.table(out)?),
        };
    }
    let report = measure(&subject, &plan).await?;
    #[cfg(feature = "mistralrs")]
    let report = match &options.mistralrs {
        Some(directory) => stock::beside(report, &subject, &plan, directory, loaded.eos).await?,
        None => report,
    };
    match options.json {
        true => document(&report, out),
        false => Ok(report.table(out)?),
    }
}

fn document(figures: &impl serde::Serialize, out: &mut dyn Write) -> Result<(), BenchError> {
    serde_json::to_writer_pretty(&mut *out, figures).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests;
