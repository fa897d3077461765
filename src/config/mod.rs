//! What a person can set: the command line, and the configuration file that a
//! model may bring.
//!
//! Values are checked here once and handed to the modules as their own `Config`
//! types. Environment variables and a server-wide file are not read yet.

use crate::eval::EvalArgs;
use crate::{plan, prompt};
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use std::net::IpAddr;
use std::num::NonZeroUsize;

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
    Serve(ServeArgs),
    /// Put a suite of problems to a server and count right answers and tokens.
    Eval(EvalCommand),
    /// Measure parts of the server on this machine.
    Bench(BenchCommand),
    /// Print the OpenAPI document of the server's API.
    Openapi,
}

/// `espalier serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Largest request body, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    pub body_limit: usize,
    /// What to run and with how much.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// What to run and with how much; shared by the commands that run an engine.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    /// `seedling` (bundled), `seedling-prm` (bundled), or a directory with
    /// config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
    #[arg(long, value_name = "NAME|DIR", default_value = BUNDLED)]
    pub model: String,
    /// Memory for KV, in MiB; taken as it is used.
    #[arg(long, value_name = "MIB", default_value = "1024")]
    pub kv_mib: NonZeroUsize,
    /// Threads of the forward pass; without it, one per core.
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Positions computed in one step, at most.
    #[arg(long, value_name = "N", default_value = "512")]
    pub step_positions: NonZeroUsize,
}

impl Default for EngineArgs {
    fn default() -> Self {
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            engine: EngineArgs,
        }
        Defaults::parse_from(["espalier"]).engine
    }
}

/// `espalier eval`.
#[derive(Debug, Clone, Args)]
pub struct EvalCommand {
    /// What to measure.
    #[command(flatten)]
    pub eval: EvalArgs,
    /// The server to start where no endpoint is given.
    #[command(flatten)]
    pub engine: EngineArgs,
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
    /// Tokens per second of 1 and 64 branches of one prompt.
    Engine(EngineArgs),
    /// Processor time that one request costs outside the model.
    Http {
        /// Requests to measure.
        #[arg(long, value_name = "N", default_value = "2000")]
        requests: NonZeroUsize,
    },
}

/// A model's `espalier.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// How it is prompted.
    pub prompt: prompt::Config,
    /// What its efforts mean.
    pub plan: plan::Config,
}

impl ModelConfig {
    /// Reads an `espalier.toml`.
    ///
    /// # Errors
    /// With the place and the reason, when it is no TOML, has unknown keys or
    /// lacks some, or holds a value out of bounds.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.plan.check()?;
        Ok(config)
    }

    /// The settings of a model that brings none. A template that closes a
    /// `<think>` block belongs to a thinking model, whose answer begins there.
    ///
    /// # Errors
    /// Never in fact: a test reads the same text.
    pub fn general(chat_template: &str) -> Result<Self, String> {
        let mut config = Self::from_toml(include_str!("general.toml"))?;
        if chat_template.contains("</think>") {
            config.prompt.answer_marker = Some("</think>".to_owned());
            config.prompt.answer_marker_shown = false;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert_eq!(EngineArgs::default().model, "seedling");
    }

    #[test]
    fn shipped_settings_are_valid_and_mistakes_are_named() {
        let general = ModelConfig::general("").expect("valid");
        assert_eq!(general.prompt.answer_marker, None);
        let thinking = ModelConfig::general("x </think> y").expect("valid");
        assert_eq!(thinking.prompt.answer_marker.as_deref(), Some("</think>"));
        assert!(!thinking.prompt.answer_marker_shown);

        let text = include_str!("general.toml");
        for (from, to, named) in [
            ("branch_tokens", "branch_token", "branch_token"),
            ("mode = \"cot\"", "mode = \"beam\"", "beam"),
            ("temperature = 0.8", "temperature = 2.5", "2.5"),
            ("branches = 8", "branches = 0", "medium"),
            ("default_effort = \"low\"", "default_effort = \"huge\"", "huge"),
        ] {
            let error = ModelConfig::from_toml(&text.replacen(from, to, 1)).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
