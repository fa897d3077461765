//! A model on its engine's thread, with everything that plans and runs requests.

use super::{AppError, Checked, Prm, Scorer};
use crate::config::{EngineArgs, ServeArgs};
use crate::engine::tree::{self, TreeEngine};
use crate::engine::{EngineThread, Handle};
use crate::http::{AppState, ModelCard, Progress, Served};
use crate::metrics::{EngineMetrics, Metrics};
use crate::plan::{Planner, PlannerParts, Verifiers};
use crate::prompt::Tokenizer;
use crate::search::run::Runner;
use crate::verify::{Judge, Verifier};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Requests that may wait for KV memory; those at the door are bounded by
/// `--max-concurrency` already.
const QUEUE: usize = 4096;

/// A model that is ready to be served.
#[derive(Debug)]
pub struct Stack {
    /// What HTTP needs.
    pub served: Served,
    /// Lines that say what was loaded.
    pub summary: String,
    /// End the engines when dropped: the model's, and its verifier's.
    pub threads: Vec<EngineThread>,
}

impl Stack {
    /// Reads a model's weights and starts its engine.
    ///
    /// # Errors
    /// When the weights or the engine cannot be had.
    pub fn build(
        checked: Checked,
        args: &EngineArgs,
        metrics: &Arc<Metrics>,
        progress: &Progress,
    ) -> Result<Self, AppError> {
        let loaded = checked.load(&mut |done, total| progress.set(done, total))?;
        let tokenizer = Arc::new(loaded.tokenizer);
        let config = tree_config(args);
        let shape = loaded.model.config().clone();
        let parameters = loaded.model.parameters();
        let formats = loaded.model.formats();
        let engine = TreeEngine::new(
            loaded.model,
            loaded.eos,
            Arc::clone(&tokenizer),
            Arc::clone(&metrics.engine),
            &config,
        )?;
        let prm = match loaded.prm {
            Some(Scorer::Here(prm)) => {
                Some(Scorer::Here(verifier(prm, args, (&engine, Arc::clone(&metrics.verifier_engine)))?))
            }
            Some(Scorer::Remote(remote)) => Some(Scorer::Remote(remote)),
            Some(Scorer::Judge) => Some(Scorer::Judge),
            None => None,
        };
        let (thread, handle) = EngineThread::spawn(engine)?;
        let mut threads = vec![thread];
        let caps = handle.caps();
        metrics.set_cache(caps.block, caps.pool_blocks);
        let mut summary = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            summary,
            "model   {} ({}): {} layers, {:.2} M parameters, context {}",
            loaded.name,
            loaded.origin,
            shape.layers,
            parameters as f64 / 1e6,
            shape.context
        );
        let _ = writeln!(summary, "weights {}", held(&formats));
        let _ = writeln!(
            summary,
            "engine  {} threads, KV for {} positions in {} MiB, {} positions a step",
            config.threads,
            caps.pool_blocks * caps.block,
            args.kv_mib,
            config.step_positions
        );
        if caps.longest(0) < shape.context {
            let _ = writeln!(
                summary,
                "        a sequence has at most {} tokens in it, fewer than the context: see --kv-mib",
                caps.longest(0)
            );
        }
        // Without a word for yes and one for no, a model is no judge.
        let (template, border) = (loaded.template.clone(), loaded.config.prompt.border());
        let judge = Judge::new(loaded.config.judge, Arc::clone(&tokenizer), template, border);
        let judge =
            judge.map(|judge| Verifier::judge(format!("{} as judge", loaded.name), handle.clone(), judge));
        let verifier = match prm {
            Some(Scorer::Here((verifier, thread, line))) => {
                threads.push(thread);
                summary.push_str(&line);
                Some(verifier)
            }
            Some(Scorer::Remote(remote)) => {
                let _ = writeln!(summary, "prm     {} at {}", remote.model(), remote.url());
                Some(Verifier::remote(remote.model().to_owned(), remote))
            }
            Some(Scorer::Judge) => {
                let _ = writeln!(summary, "prm     none; {} judges itself", loaded.name);
                Some(judge.clone()?)
            }
            None => None,
        };
        let counted = |verifier: Verifier| verifier.with_metrics(Arc::clone(metrics));
        let (verifier, judge) = (verifier.map(counted), judge.ok().map(counted));
        let model = ModelCard {
            id: loaded.name,
            aliases: loaded.aliases,
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            owned_by: "espalier".to_owned(),
            context: shape.context.min(caps.longest(0)),
        };
        let planner = Planner::new(PlannerParts {
            config: loaded.config.plan,
            prompt: loaded.config.prompt,
            template: loaded.template,
            tokenizer: Arc::clone(&tokenizer),
            caps: caps.clone(),
            defaults: loaded.sampling,
            verifiers: Verifiers {
                prm: verifier.as_ref().map(Verifier::aggregate),
                judge: judge.as_ref().map(Verifier::aggregate),
            },
        })?;
        let runner = Runner::new(handle, verifier, Arc::clone(metrics)).with_judge(judge);
        Ok(Self { served: Served { planner, runner, tokenizer, model }, summary, threads })
    }
}

/// How a model's matrices are held in memory, for people.
fn held(formats: &BTreeMap<&'static str, (usize, usize)>) -> String {
    let mib = |bytes: usize| bytes as f64 / f64::from(1u32 << 20);
    let part = |(kind, (count, bytes)): (&&str, &(usize, usize))| {
        format!("{count} matrices in {kind} ({:.1} MiB)", mib(*bytes))
    };
    formats.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// Puts a process reward model on an engine beside the policy's, whose threads
/// it shares; with a line that says what it is.
fn verifier(
    prm: Prm,
    args: &EngineArgs,
    (policy, metrics): (&TreeEngine, Arc<EngineMetrics>),
) -> Result<(Verifier, EngineThread, String), AppError> {
    let kv_bytes = args.prm_kv_mib.get().saturating_mul(1 << 20);
    let config = tree::Config { kv_bytes, ..tree_config(args) };
    let millions = prm.model.parameters() as f64 / 1e6;
    let engine = TreeEngine::new(prm.model, Vec::new(), prm.tokenizer, metrics, &config)?;
    let (thread, handle) = EngineThread::spawn(engine.on_threads_of(policy))?;
    let caps = handle.caps();
    let line = format!(
        "prm     {} ({}): {millions:.2} M parameters, context {}, KV for {} positions in {} MiB\n",
        prm.name,
        prm.origin,
        caps.context,
        caps.pool_blocks * caps.block,
        args.prm_kv_mib
    );
    Ok((Verifier::new(prm.name, handle, prm.format), thread, line))
}

/// What HTTP needs, around any engine, with the limits that are the default.
#[must_use]
pub fn assemble(
    engine: Handle,
    planner: Planner,
    tokenizer: Arc<Tokenizer>,
    metrics: Arc<Metrics>,
    (model, body_limit): (ModelCard, usize),
) -> AppState {
    let config = super::http_config(&ServeArgs { body_limit, ..ServeArgs::default() });
    let state = AppState::new(config, Arc::clone(&metrics));
    state.install(Served { planner, runner: Runner::new(engine, None, metrics), tokenizer, model });
    state
}

/// The engine's settings, with one thread per core where none are given.
#[must_use]
pub fn tree_config(args: &EngineArgs) -> tree::Config {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tree::Config {
        kv_bytes: args.kv_mib.get().saturating_mul(1 << 20),
        threads: args.threads.map_or(cores, std::num::NonZero::get),
        step_positions: args.step_positions.get(),
        queue: QUEUE,
        grouped: true,
        twins: true,
    }
}
