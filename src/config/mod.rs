//! What a person can set, and the command line.
//!
//! A value comes from a flag, else from the environment (`ESPALIER_*`), else
//! from the configuration file (`--config`), else from the default; [`Settings`]
//! knows which. What is set is checked here once and handed to the modules as
//! plain values. A model's prompts and efforts ([`ModelConfig`]) come from its
//! own `espalier.toml` and from the server's file over it.
//!
//! Reading a model's files is deliberately absent: that is `app`'s business.

mod environment;
mod error;
mod file;
mod flags;
mod layers;
mod model;
mod nearest;
mod print;
mod settings;

use crate::bench::perplexity::PerplexityOptions;
use crate::bench::{engine::Options, memory, soak};
use crate::eval::EvalArgs;
use crate::verify::ApiKey;
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use toml::Table;

pub use environment::Environment;
pub use error::ConfigError;
pub use file::model_file;
pub use flags::{AddressFlags, EngineFlags, Given, ServeFlags};
pub use layers::{Origin, Settings, is_address};
pub use model::{Mistake, ModelConfig, general};
pub use nearest::nearest;
pub use print::{ModelLayers, print};
pub use settings::{Kind, SETTINGS, Setting, log_filter};

/// The name of the bundled policy.
pub const BUNDLED: &str = "seedling";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "espalier", version, about, max_term_width = 100)]
#[command(after_help = "Run `espalier serve` and then\n  \
    curl localhost:8080/v1/chat/completions -H 'content-type: application/json' \\\n    \
    -d '{\"model\":\"seedling\",\"messages\":[{\"role\":\"user\",\"content\":\"Compute (3 + 4) * 5.\"}]}'")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model over an OpenAI-compatible API.
    Serve(ServeFlags),
    /// Print the configuration that `serve` would use, and where each value comes from.
    ///
    /// Takes the flags of `serve`. The output is TOML and can be used as a configuration file.
    Config(ServeFlags),
    /// Ask a running server on this machine whether it is alive; exit code 0 if so.
    Healthcheck(HealthcheckCommand),
    /// Put a suite of problems to a server and count right answers and tokens.
    Eval(Box<EvalCommand>),
    /// Measure parts of the server on this machine.
    Bench(BenchCommand),
    /// Print the OpenAPI document of the server's API.
    Openapi,
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff.
    Man,
}

/// `espalier serve`, resolved.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ServeArgs {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Largest request body, in bytes.
    pub body_limit: usize,
    /// Chat requests in flight at once, at most.
    pub max_concurrency: usize,
    /// Chat requests that may wait beyond those in flight.
    pub max_queue: usize,
    /// Longest that a request may run, in seconds.
    pub request_timeout: u64,
    /// Longest that a request's head, and then its body, may take to arrive, and that
    /// a client may take nothing of its answer, in seconds.
    pub header_timeout: u64,
    /// How long a connection may rest between two requests, in seconds.
    pub idle_timeout: u64,
    /// Silence on a stream, in seconds, after which a comment keeps it open.
    pub keep_alive: u64,
    /// Origins whose pages may call from a browser, `*` for all; empty for none.
    #[serde(default)]
    pub allow_origin: Vec<String>,
    /// How long requests may go on after a signal to stop, in seconds.
    pub shutdown_timeout: u64,
    /// How long an engine may have work without finishing any, in seconds,
    /// before it counts as stuck.
    pub stuck_timeout: u64,
    /// Shape of log lines.
    pub log_format: LogFormat,
    /// Which log lines are written: a filter of `tracing`.
    pub log_level: String,
    /// What to run and with how much.
    #[serde(flatten)]
    pub engine: EngineArgs,
}

/// Shapes of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What to run and with how much; shared by the commands that run an engine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EngineArgs {
    /// The model.
    #[serde(flatten)]
    pub model: ModelArgs,
    /// Memory for KV, in MiB; taken as it is used.
    pub kv_mib: NonZeroUsize,
    /// The same as a part of the memory that is free, in the place of `kv_mib`.
    pub kv_fraction: Option<f64>,
    /// The same for the process reward model.
    pub prm_kv_mib: NonZeroUsize,
    /// Whether somebody chose the size of the pool, by one of the first two: what was
    /// chosen is refused where it cannot be had, and a default gets smaller.
    #[serde(skip)]
    pub kv_chosen: bool,
    /// The same for the process reward model's.
    #[serde(skip)]
    pub prm_kv_chosen: bool,
    /// Threads of the forward pass; without it, one per core.
    pub threads: Option<NonZeroUsize>,
    /// Positions computed in one step, at most.
    pub step_positions: NonZeroUsize,
}

/// Which model to serve, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelArgs {
    /// A bundled name, a directory, a GGUF file, or a Hugging Face id.
    #[serde(rename = "model")]
    pub name: String,
    /// Branch, tag or commit of a Hugging Face model; that of the process
    /// reward model is `main`.
    pub revision: String,
    /// Names in requests, the reported one first; empty for the model's own.
    #[serde(default)]
    pub served_model_name: Vec<String>,
    /// Longest sequence, in tokens; the model's own without it.
    pub max_model_len: Option<NonZeroUsize>,
    /// The mix that its matrices are quantised to, or `none`.
    pub quantize: String,
    /// Process reward model, named like the model, or `none`.
    pub prm: Option<String>,
    /// How it is read, where neither its `prm.json` nor its name says so.
    pub prm_format: Option<String>,
    /// What a process reward model on another server is called there.
    pub prm_model: Option<String>,
    /// The variable that holds that server's API key.
    pub prm_api_key_env: Option<String>,
    /// The key that it holds.
    #[serde(skip)]
    pub prm_api_key: Option<ApiKey>,
    /// What the server's file says about models, by their names.
    #[serde(skip)]
    pub sections: Table,
}

impl Default for ServeArgs {
    fn default() -> Self {
        let none = (Given::default(), Environment::default());
        Settings::resolve(&none.0, &none.1).expect("the defaults are within bounds").serve()
    }
}

impl Default for EngineArgs {
    fn default() -> Self {
        ServeArgs::default().engine
    }
}

impl From<&str> for ModelArgs {
    /// A model with nothing else set.
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), ..EngineArgs::default().model }
    }
}

/// `espalier healthcheck`.
#[derive(Debug, Clone, Args)]
pub struct HealthcheckCommand {
    /// Base URL of the server; without it, the host and port that `serve` would use
    /// on this machine.
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "port"])]
    pub url: Option<String>,
    /// Where it listens.
    #[command(flatten)]
    pub address: AddressFlags,
}

/// `espalier eval`.
#[derive(Debug, Clone, Args)]
pub struct EvalCommand {
    /// What to measure.
    #[command(flatten)]
    pub eval: EvalArgs,
    /// The server to start where no endpoint is given.
    #[command(flatten)]
    pub engine: EngineFlags,
}

/// `espalier bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchCommand {
    /// What to measure.
    #[command(subcommand)]
    pub what: Bench,
}

/// The benchmarks.
#[derive(Debug, Clone, Subcommand)]
pub enum Bench {
    /// Tokens per second of branches that share a prompt, beside what the matrix
    /// products alone would allow.
    Engine {
        /// What to measure.
        #[command(flatten)]
        options: Options,
        /// What to run.
        #[command(flatten)]
        engine: EngineFlags,
    },
    /// Perplexity, size and speed of a model as it is and quantised.
    Perplexity {
        /// What to measure.
        #[command(flatten)]
        options: PerplexityOptions,
        /// What to run.
        #[command(flatten)]
        engine: EngineFlags,
    },
    /// Processor time that one request costs outside the model.
    Http {
        /// Requests to measure.
        #[arg(long, value_name = "N", default_value = "2000")]
        requests: NonZeroUsize,
    },
    /// Memory held over many requests in a row, beside what the weights, the KV
    /// pools and the largest step take.
    ///
    /// The pools are small here (--kv-mib 16, --prm-kv-mib 16), unless asked otherwise.
    Memory {
        /// What to measure.
        #[command(flatten)]
        options: memory::Options,
        /// What to run.
        #[command(flatten)]
        engine: EngineFlags,
    },
    /// Requests that do anything at any moment, in a pool too small for them; ends
    /// with exit code 1 if anything is left behind or was wrong.
    Soak(soak::Options),
}

#[cfg(test)]
mod tests;
