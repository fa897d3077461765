//! The composition root: builds every part from the configuration, serves, and
//! takes it down again in order.

mod adapter;
mod find;
mod gguf;
mod healthcheck;
mod hub;
pub mod logging;
mod manual;
mod memory;
mod model;
mod server;
mod stack;

use crate::config::{
    self, Bench, Cli, Command, ConfigError, EngineArgs, Environment, EvalCommand, Given, Origin, ServeArgs,
    Settings,
};
use crate::engine::tree::BuildError;
use crate::prompt::PromptError;
use crate::verify::{FormatError, Remote};
use crate::{bench, eval, http};
use std::io::Write as _;
use std::net::SocketAddr;

pub use find::{BUNDLED_PRM, Found, Scorer, find, find_here};
pub use healthcheck::HealthError;
pub use hub::{Hub, HubError};
pub use model::{Checked, CheckedPrm, Loaded, ModelError, Prm, load};
pub use server::{Server, http_config};
pub use stack::{Stack, assemble, tree_config};

/// Why a command failed. The text is what the person at the terminal reads.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A flag, a variable or the configuration file is wrong.
    #[error(transparent)]
    Config(Box<ConfigError>),
    /// The model cannot be served.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// The engine cannot be built.
    #[error(transparent)]
    Engine(#[from] BuildError),
    /// The model's answer marker cannot be tokenised.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The model cannot be asked to judge.
    #[error("--prm judge: its settings, [judge]: {0}")]
    Judge(#[from] FormatError),
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
    /// The log filter is none.
    #[error(
        "log-level = '{given}' is no filter ({cause}); give error, warn, info, debug or trace, or directives such as 'info,espalier::http=debug'"
    )]
    LogLevel {
        /// What was given.
        given: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The thread that loads the model is gone.
    #[error("loading the model failed by a fault of ours, which the log names")]
    Loader,
    /// Somebody could not wait.
    #[error("stopped at once by a second signal; requests in flight were cut")]
    SecondSignal,
    /// The server that was asked for its health has none.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// The operating system refused something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A suite could not be run.
    #[error(transparent)]
    Eval(#[from] eval::EvalError),
    /// The variable that holds the API key does not.
    #[error("--api-key-env {0}: there is no such variable, or it is empty; export the endpoint's key in it")]
    NoKey(String),
    /// Some requests of a suite failed.
    #[error("{0} requests failed")]
    FailedRequests(usize),
    /// A benchmark could not be run.
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
}

// Boxed, for they hold whole paths and messages, and every result would be as
// large as they are.
impl From<ConfigError> for AppError {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl From<ModelError> for AppError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}

impl AppError {
    /// The process's exit code: 2 where the command line is to blame, as clap
    /// has it, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error)
                if matches!(
                    **error,
                    ConfigError::Flag { .. }
                        | ConfigError::Both { flag: true, .. }
                        | ConfigError::Secret { flag: true, .. }
                ) =>
            {
                2
            }
            Self::Health(HealthError::Url(_)) => 2,
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
    let begin = |given: &Given| -> Result<ServeArgs, AppError> {
        let settings = settings(given)?;
        let mut args = settings.serve();
        logging::init(args.log_format, &args.log_level)?;
        args.engine = memory::settle(args.engine)?;
        settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(args)
    };
    match cli.command {
        Command::Serve(flags) => server::serve(begin(&flags.0)?, &hub, &mut out).await,
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
            let given = &command.engine.0;
            // A line per request would bury the results and tear the progress bar, so it must be asked for.
            let asked = settings(given)?.origin("log-level") != Some(&Origin::Default);
            let mut given = given.clone();
            if !asked {
                given.values.insert("log-level", vec!["warn".to_owned()]);
            }
            let engine = begin(&given)?.engine;
            let summary = evaluated(*command, (engine, environment), &hub, &mut out).await?;
            match summary.errors() {
                0 => Ok(()),
                n => Err(AppError::FailedRequests(n)),
            }
        }
        Command::Openapi => show(|page| page.write_all(http::openapi::text().as_bytes())),
        Command::Bench(command) => {
            match command.what {
                Bench::Engine { options, engine } => {
                    let engine = begin(&engine.0)?.engine;
                    bench::engine::run(&options, &engine, &hub, &mut out).await?;
                }
                Bench::Memory { options, engine } => {
                    let mut given = engine.0;
                    let settled = settings(&given)?;
                    // Small pools are full soon, and a line per request is no part of the output.
                    for (flag, value) in [("kv-mib", "16"), ("prm-kv-mib", "16"), ("log-level", "warn")] {
                        if settled.origin(flag) == Some(&Origin::Default) {
                            given.values.insert(flag, vec![value.to_owned()]);
                        }
                    }
                    let engine = begin(&given)?.engine;
                    bench::memory::run(&options, &engine, &hub, &mut out).await?;
                }
                Bench::Soak(options) => bench::soak::run(&options, &mut out).await?,
                Bench::Perplexity { options, engine } => {
                    let engine = begin(&engine.0)?.engine;
                    bench::perplexity::run(&options, &engine, &hub, &mut out).await?;
                }
                Bench::Http { requests } => bench::http::run(requests.get(), &mut out).await?,
            }
            Ok(())
        }
        Command::Completions { shell } => show(|page| manual::completions(shell, page)),
        Command::Man => show(manual::man),
    }
}

/// Measures the endpoint that is named, else a server that is started for it.
async fn evaluated(
    command: EvalCommand,
    (engine, environment): (EngineArgs, &Environment),
    hub: &Hub,
    out: &mut dyn std::io::Write,
) -> Result<eval::Summary, AppError> {
    let mut args = command.eval;
    let variable = args.api_key_env.clone();
    let unset = |name: &String| AppError::NoKey(name.clone());
    let key = variable.map(|name| environment.get(&name).map(str::to_owned).ok_or_else(|| unset(&name)));
    if let Some(endpoint) = args.endpoint.clone() {
        // No engine is started, so that `--model` can only mean the endpoint's.
        let named = command.engine.0.values.get("model").and_then(|names| names.first());
        args.request_model = args.request_model.or_else(|| named.cloned());
        let target = eval::Target { identity: endpoint.clone(), endpoint, key: key.transpose()? };
        return Ok(eval::run(&args, &target, out).await?);
    }
    let identity = format!("{:?}", engine.model);
    let served = ServeArgs { port: 0, engine, ..ServeArgs::default() };
    let server = Server::bind(&served, hub).await?;
    let target = eval::Target { endpoint: server.url(), key: None, identity };
    let serving = tokio::spawn(server.serve(std::future::pending()));
    let summary = eval::run(&args, &target, out).await;
    serving.abort();
    Ok(summary?)
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
/// weights are read. The arguments come back with the sizes of the KV pools that
/// there is memory for.
///
/// # Errors
/// When the model is not there, not supported, or too large.
pub async fn check(args: EngineArgs, hub: &Hub) -> Result<(Checked, EngineArgs), ModelError> {
    let mut found = find(&args.model, hub).await?;
    let remote = match found.prm.take_if(|prm| matches!(prm, Scorer::Remote(_))) {
        Some(Scorer::Remote(config)) => Some(Remote::find(config).await?),
        _ => None,
    };
    let mut checked = found.check()?;
    checked.prm = remote.map(Scorer::Remote).or(checked.prm);
    let args = checked.fits(args)?;
    Ok((checked, args))
}
