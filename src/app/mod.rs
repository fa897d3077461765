//! The composition root: builds every part from the configuration, serves, and
//! takes it down again in order.

mod model;

use crate::config::{Bench, Cli, Command, EngineArgs, ServeArgs};
use crate::engine::tree::{self, BuildError, TreeEngine};
use crate::engine::{EngineThread, Handle};
use crate::http::{self, AppState, ModelCard};
use crate::metrics::Metrics;
use crate::plan::{Planner, PlannerParts};
use crate::prompt::{PromptError, Tokenizer};
use crate::search::run::Runner;
use crate::{bench, eval};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

pub use model::{BUNDLED_PRM, Loaded, ModelError, load};

/// Silence on a stream after which a comment is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long requests may go on after a signal to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Why a command failed. The text is what the person at the terminal reads.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The model cannot be served.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine cannot be built.
    #[error(transparent)]
    Engine(#[from] BuildError),
    /// The model's answer marker cannot be tokenised.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The metrics contradict each other.
    #[error("metrics: {0}")]
    Metrics(String),
    /// The port cannot be opened.
    #[error("cannot listen on {address}: {cause}; choose another with --host and --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// The operating system refused something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A suite could not be run.
    #[error(transparent)]
    Eval(#[from] eval::EvalError),
    /// Some requests of a suite failed.
    #[error("{0} requests failed")]
    FailedRequests(usize),
    /// A benchmark could not be run.
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
}

/// Runs a command to its end.
///
/// # Errors
/// With what the person at the terminal should read.
pub async fn run(cli: Cli) -> Result<(), AppError> {
    match cli.command {
        Command::Serve(args) => serve(args).await,
        Command::Eval(command) => {
            let mut out = std::io::stdout();
            let summary = if let Some(endpoint) = &command.eval.endpoint {
                eval::run(&command.eval, endpoint, &mut out).await?
            } else {
                let address = SocketAddr::from(([127, 0, 0, 1], 0));
                let server = Server::bind(&command.engine, address, 4 << 20).await?;
                let endpoint = server.url();
                let serving = tokio::spawn(server.serve(std::future::pending()));
                let summary = eval::run(&command.eval, &endpoint, &mut out).await?;
                serving.abort();
                summary
            };
            match summary.errors() {
                0 => Ok(()),
                n => Err(AppError::FailedRequests(n)),
            }
        }
        Command::Openapi => Ok(write!(std::io::stdout(), "{}", http::openapi::text())?),
        Command::Bench(command) => {
            let mut out = std::io::stdout();
            match command.what {
                Bench::Engine(args) => bench::engine::run(&args, &mut out).await?,
                Bench::Http { requests } => bench::http::run(requests.get(), &mut out).await?,
            }
            Ok(())
        }
    }
}

/// A model on its engine thread, with everything that plans and runs requests.
#[derive(Debug)]
pub struct Stack {
    /// What HTTP needs.
    pub state: AppState,
    /// Lines that say what was loaded.
    pub summary: String,
    /// Ends the engine when dropped.
    pub thread: EngineThread,
}

impl Stack {
    /// Loads a model and starts its engine.
    ///
    /// # Errors
    /// When the model or its engine cannot be had.
    pub fn build(args: &EngineArgs, body_limit: usize) -> Result<Self, AppError> {
        let loaded = load(&args.model)?;
        let metrics = Arc::new(Metrics::new().map_err(|error| AppError::Metrics(error.to_string()))?);
        let tokenizer = Arc::new(loaded.tokenizer);
        let config = tree_config(args);
        let shape = loaded.model.config().clone();
        let parameters = loaded.model.parameters();
        let engine =
            TreeEngine::new(loaded.model, loaded.eos, Arc::clone(&tokenizer), Arc::clone(&metrics), &config)?;
        let (thread, handle) = EngineThread::spawn(engine)?;
        let caps = handle.caps();
        let mut summary = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            summary,
            "model   {} ({}): LlamaForCausalLM, {} layers, {:.2} M parameters, context {}",
            loaded.name,
            loaded.origin,
            shape.layers,
            parameters as f64 / 1e6,
            shape.context
        );
        let _ = writeln!(
            summary,
            "engine  {} threads, KV for {} positions in {} MiB, {} positions a step",
            config.threads,
            caps.pool_blocks * caps.block,
            args.kv_mib,
            config.step_positions
        );
        let card = ModelCard {
            id: loaded.name,
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            owned_by: "espalier".to_owned(),
            context: shape.context,
        };
        let planner = Planner::new(PlannerParts {
            config: loaded.config.plan,
            prompt: loaded.config.prompt,
            template: loaded.template,
            tokenizer: Arc::clone(&tokenizer),
            caps: caps.clone(),
            defaults: loaded.sampling,
        })?;
        let state = assemble(handle, planner, tokenizer, metrics, (card, body_limit));
        Ok(Self { state, summary, thread })
    }
}

/// What HTTP needs, around any engine.
#[must_use]
pub fn assemble(
    engine: Handle,
    planner: Planner,
    tokenizer: Arc<Tokenizer>,
    metrics: Arc<Metrics>,
    (model, body_limit_bytes): (ModelCard, usize),
) -> AppState {
    AppState {
        planner: Arc::new(planner),
        runner: Runner::new(engine, Arc::clone(&metrics)),
        tokenizer,
        metrics,
        model: Arc::new(model),
        config: Arc::new(http::Config { body_limit_bytes, keep_alive: KEEP_ALIVE }),
    }
}

/// The engine's settings, with one thread per core where none are given.
#[must_use]
pub fn tree_config(args: &EngineArgs) -> tree::Config {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tree::Config {
        kv_bytes: args.kv_mib.get().saturating_mul(1 << 20),
        threads: args.threads.map_or(cores, std::num::NonZero::get),
        step_positions: args.step_positions.get(),
    }
}

/// A stack behind an open port.
#[derive(Debug)]
pub struct Server {
    stack: Stack,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Loads a model, and only then opens the port.
    ///
    /// # Errors
    /// When either fails.
    pub async fn bind(args: &EngineArgs, address: SocketAddr, body_limit: usize) -> Result<Self, AppError> {
        let stack = Stack::build(args, body_limit)?;
        let listen = |cause| AppError::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr()?;
        Ok(Self { stack, listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The metrics that it exports.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.stack.state.metrics)
    }

    /// Serves until `stop` resolves, then lets requests end for a while.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        let (told, stopping) = tokio::sync::oneshot::channel();
        let router = http::router(self.stack.state);
        let signal = async move {
            stop.await;
            // The receiver is gone only when serving has ended already.
            let _ = told.send(());
        };
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(signal);
        tokio::select! {
            outcome = serving.into_future() => outcome,
            () = async { if stopping.await.is_ok() { tokio::time::sleep(DRAIN).await } else { std::future::pending().await } } => {
                tracing::warn!(seconds = DRAIN.as_secs(), "requests were still running and were cut");
                Ok(())
            }
        }
    }
}

async fn serve(args: ServeArgs) -> Result<(), AppError> {
    let address = SocketAddr::new(args.host, args.port);
    let server = Server::bind(&args.engine, address, args.body_limit).await?;
    let (url, id) = (server.url(), &server.stack.state.model.id);
    let example = format!(
        r#"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{{"model":"{id}","reasoning_effort":"medium","messages":[{{"role":"user","content":"Mina has 14 apples. Tom gives Mina 35. Then the number doubles. How many apples does Mina have now?"}}]}}'"#
    );
    let version = env!("CARGO_PKG_VERSION");
    let summary = &server.stack.summary;
    writeln!(std::io::stdout(), "espalier {version}\n{summary}url     {url}/v1\n\ntry\n  {example}\n")?;
    server.serve(stop_signal()).await?;
    Ok(())
}

/// Resolves on Ctrl-C or SIGTERM.
async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! { _ = interrupt => {}, _ = terminate.recv() => {} }
            return;
        }
    }
    if interrupt.await.is_err() {
        std::future::pending::<()>().await;
    }
}
