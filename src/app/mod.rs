//! The composition root: builds every part from the configuration, serves, and
//! takes it down again in order.

pub mod logging;
mod model;
mod server;
mod stack;

use crate::config::{Bench, Cli, Command, LogFormat};
use crate::engine::tree::BuildError;
use crate::prompt::PromptError;
use crate::{bench, eval};
use std::net::SocketAddr;

pub use model::{BUNDLED_PRM, Loaded, ModelError, check, load};
pub use server::{Server, http_config};
pub use stack::{Stack, assemble, tree_config};

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
    match &cli.command {
        Command::Serve(args) => logging::init(args.log_format, &args.log_level)?,
        Command::Eval(_) | Command::Bench(_) => logging::init(LogFormat::Human, "info")?,
    }
    match cli.command {
        Command::Serve(args) => server::serve(args, &mut std::io::stdout()).await,
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
