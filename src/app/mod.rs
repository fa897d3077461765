//! The composition root: builds every part from the configuration, serves, and
//! takes it down again in order.

mod find;
mod healthcheck;
mod hub;
mod log;
mod manual;
mod memory;
mod model;
mod weights;

use crate::config::{
    self, Bench, Cli, Command, ConfigError, EngineArgs, Environment, Given, ServeArgs, Settings,
};
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

pub use find::{BUNDLED_PRM, Found, find, find_here};
pub use healthcheck::HealthError;
pub use hub::{Hub, HubError};
pub use model::{Checked, Loaded, ModelError, Prm, load};

/// Why a command failed. The text is what the person at the terminal reads.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A flag, a variable or the configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    /// The server that was asked for its health has none.
    #[error(transparent)]
    Health(#[from] HealthError),
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

impl AppError {
    /// The process's exit code: 2 where the command line is to blame, as clap
    /// has it, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(ConfigError::Flag { .. }) | Self::Health(HealthError::Url(_)) => 2,
            _ => 1,
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// With what the person at the terminal should read.
pub async fn run(cli: Cli, environment: &Environment) -> Result<(), AppError> {
    let mut out = std::io::stdout();
    let settings = |given: &Given| Settings::resolve(given, environment);
    let hub = Hub::new(environment);
    // Commands with an engine write log lines; the others only their output.
    let begin = |given: &Given| -> Result<ServeArgs, ConfigError> {
        let settings = settings(given)?;
        let args = settings.serve();
        log::begin(&args);
        settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(args)
    };
    match cli.command {
        Command::Serve(flags) => serve(begin(&flags.0)?, &hub).await,
        Command::Config(flags) => {
            let settings = settings(&flags.0)?;
            let offline = hub.offline();
            let layers = match find(&settings.engine().model, &offline).await {
                Ok(found) => Ok(found.layers()?),
                Err(error) => Err(error.to_string()),
            };
            show(|page| config::print(&settings, &layers, page))
        }
        Command::Healthcheck(command) => {
            let address = match &command.url {
                Some(url) => healthcheck::of_url(url)?,
                None => {
                    let args = settings(&command.address.0)?.serve();
                    healthcheck::local(args.host, args.port)
                }
            };
            Ok(healthcheck::ask(&address)?)
        }
        Command::Eval(command) => {
            let engine = begin(&command.engine.0)?.engine;
            let summary = if let Some(endpoint) = &command.eval.endpoint {
                eval::run(&command.eval, endpoint, &mut out).await?
            } else {
                let args = ServeArgs { port: 0, engine, ..ServeArgs::default() };
                let server = Server::bind(&args, &hub).await?;
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
        Command::Bench(command) => {
            match command.what {
                Bench::Engine(flags) => {
                    let engine = begin(&flags.0)?.engine;
                    bench::engine::run(&engine, &hub, &mut out).await?;
                }
                Bench::Http { requests } => bench::http::run(requests.get(), &mut out).await?,
            }
            Ok(())
        }
        Command::Completions { shell } => show(|page| manual::completions(shell, page)),
        Command::Man => show(manual::man),
    }
}

/// Writes a page to standard output. A reader that has seen enough is no fault.
fn show(page: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> Result<(), AppError> {
    let mut text = Vec::new();
    page(&mut text)?;
    match std::io::stdout().write_all(&text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Finds a model and refuses what cannot be served, before a port is opened or
/// weights are read.
///
/// # Errors
/// When the model is not there, not supported, or too large.
pub async fn check(args: &EngineArgs, hub: &Hub) -> Result<Checked, ModelError> {
    let checked = find(&args.model, hub).await?.check()?;
    checked.fits(tree_config(args).kv_bytes as u64)?;
    Ok(checked)
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
    /// When the weights or the engine cannot be had.
    pub fn build(checked: Checked, args: &ServeArgs) -> Result<Self, AppError> {
        let loaded = checked.load(&mut |_, _| {})?;
        let metrics = Arc::new(Metrics::new().map_err(|error| AppError::Metrics(error.to_string()))?);
        let tokenizer = Arc::new(loaded.tokenizer);
        let config = tree_config(&args.engine);
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
            args.engine.kv_mib,
            config.step_positions
        );
        if let Some(prm) = &loaded.prm {
            let millions = prm.parameters as f64 / 1e6;
            let _ = writeln!(
                summary,
                "prm     {} ({}): {millions:.2} M parameters, found and checked; no mode uses it yet",
                prm.name, prm.origin
            );
        }
        let card = ModelCard {
            id: loaded.name,
            aliases: loaded.aliases,
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
        let limits = http::Config {
            body_limit_bytes: args.body_limit,
            keep_alive: Duration::from_secs(args.keep_alive),
        };
        let state = assemble(handle, planner, tokenizer, metrics, (card, limits));
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
    (model, config): (ModelCard, http::Config),
) -> AppState {
    AppState {
        planner: Arc::new(planner),
        runner: Runner::new(engine, Arc::clone(&metrics)),
        tokenizer,
        metrics,
        model: Arc::new(model),
        config: Arc::new(config),
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
    drain: Duration,
}

impl Server {
    /// Checks a model, opens the port, and then loads the model.
    ///
    /// # Errors
    /// When one of these fails.
    pub async fn bind(args: &ServeArgs, hub: &Hub) -> Result<Self, AppError> {
        let checked = check(&args.engine, hub).await?;
        let address = SocketAddr::new(args.host, args.port);
        let listen = |cause| AppError::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr()?;
        let stack = Stack::build(checked, args)?;
        Ok(Self { stack, listener, address, drain: Duration::from_secs(args.shutdown_timeout) })
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
        let drain = self.drain;
        let signal = async move {
            stop.await;
            // The receiver is gone only when serving has ended already.
            let _ = told.send(());
        };
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(signal);
        tokio::select! {
            outcome = serving.into_future() => outcome,
            () = async { if stopping.await.is_ok() { tokio::time::sleep(drain).await } else { std::future::pending().await } } => {
                tracing::warn!(seconds = drain.as_secs(), "requests were still running and were cut");
                Ok(())
            }
        }
    }
}

async fn serve(args: ServeArgs, hub: &Hub) -> Result<(), AppError> {
    let server = Server::bind(&args, hub).await?;
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
