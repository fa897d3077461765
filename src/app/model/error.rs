//! Why a model cannot be served, in one line each.

use crate::app::hub::HubError;
use crate::config::{BUNDLED, ConfigError, Mistake};
use crate::engine::tree::config::{LoadError, SUPPORTED};
use crate::prompt::PromptError;
use crate::verify::{FormatError, Kind, RemoteError};
use std::path::PathBuf;

/// Why a model cannot be served. Each says what was found and what would do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Neither a bundled name, nor a path, nor a hub's id.
    #[error(
        "no model at '{name}': {hint}give '{BUNDLED}', '{prm}' (both bundled), a directory with a checkpoint, a GGUF file, or a Hugging Face id such as org/name",
        prm = crate::app::BUNDLED_PRM
    )]
    Missing {
        /// What was asked for.
        name: String,
        /// What was probably meant.
        hint: String,
    },
    /// A file where a directory is needed.
    #[error(
        "'{0}' is a file; give a GGUF file, or the directory that holds config.json and model.safetensors"
    )]
    File(PathBuf),
    /// No revision can be called that.
    #[error("--revision is '{0}' and must be a branch, a tag or a commit")]
    Revision(String),
    /// The hub's model cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The process reward model cannot be had.
    #[error("--prm: {0}; `--prm none` goes without")]
    Prm(Box<ModelError>),
    /// The directory lacks files.
    #[error(
        "'{directory}' holds {found}, but no {missing}; a checkpoint is config.json, model.safetensors, tokenizer.json and tokenizer_config.json"
    )]
    Incomplete {
        /// The directory.
        directory: PathBuf,
        /// Its files.
        found: String,
        /// What is missing.
        missing: &'static str,
    },
    /// A directory with more adapters than one.
    #[error("'{directory}' holds several adapters ({found}); name one of them")]
    Adapters {
        /// The directory.
        directory: PathBuf,
        /// Their subdirectories.
        found: String,
    },
    /// The model that an adapter was trained on cannot be had.
    #[error(
        "'{adapter}' is an adapter of '{base}' (base_model_name_or_path of its adapter_config.json), which cannot be had: {cause}"
    )]
    Base {
        /// The adapter.
        adapter: String,
        /// What it calls its base.
        base: String,
        /// Why.
        cause: Box<ModelError>,
    },
    /// An adapter's base is named by a path that is not here.
    #[error(
        "no such directory is here, and {}or name its id or its directory in adapter_config.json",
        elsewhere(guess.as_deref(), revision)
    )]
    Elsewhere {
        /// The model of the hub that the path may mean.
        guess: Option<String>,
        /// Its revision.
        revision: String,
    },
    /// An adapter on an adapter.
    #[error("'{adapter}' is an adapter of '{base}', which is an adapter itself; merge that one first")]
    Stacked {
        /// The adapter.
        adapter: String,
        /// What it calls its base.
        base: String,
    },
    /// A file cannot be read.
    #[error("cannot read '{file}': {cause}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A JSON file is broken.
    #[error("{file} of '{model}': {cause}")]
    Json {
        /// The model.
        model: String,
        /// The file.
        file: &'static str,
        /// Why.
        cause: serde_json::Error,
    },
    /// The architecture, configuration or weights are not usable.
    #[error("cannot load '{model}': {cause}; supported are {} in safetensors or GGUF", SUPPORTED.join(", "))]
    Load {
        /// The model.
        model: String,
        /// Why.
        cause: LoadError,
    },
    /// The tokenizer or chat template is not usable.
    #[error("cannot load '{model}': {file}: {cause}")]
    Prompt {
        /// The model.
        model: String,
        /// The file.
        file: &'static str,
        /// Why.
        cause: PromptError,
    },
    /// A process reward model that its `prm.json` does not describe.
    #[error("cannot read scores of '{model}' as {format}: {cause}")]
    Format {
        /// The model.
        model: String,
        /// The format.
        format: &'static str,
        /// What is wrong.
        cause: FormatError,
    },
    /// A process reward model on another server.
    #[error("--prm: {0}; `--prm none` goes without")]
    Remote(#[from] RemoteError),
    /// A process reward model of which nobody says how it is read.
    #[error(
        "how to read scores of '{0}' is not known: give --prm-format ({formats}), or put a prm.json into its directory",
        formats = Kind::NAMES.join(", ")
    )]
    NoFormat(String),
    /// A format for another kind of checkpoint.
    #[error("'{model}' cannot be read as {format}: its weights have {found}, and the format reads {needed}")]
    Head {
        /// The model.
        model: String,
        /// The format.
        format: &'static str,
        /// What there is.
        found: &'static str,
        /// What there must be.
        needed: &'static str,
    },
    /// A process reward model where one that writes is needed.
    #[error("'{0}' is a process reward model and cannot answer; serve it with --prm beside a model that can")]
    Scores(String),
    /// Its `espalier.toml` is wrong.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// Its settings are wrong once they are put together.
    #[error("settings of '{model}': {cause}")]
    Merged {
        /// The model.
        model: String,
        /// Why.
        cause: Mistake,
    },
    /// No file names an end of text.
    #[error(
        "cannot load '{0}': neither generation_config.json nor config.json, nor a GGUF file's metadata, names an eos_token_id"
    )]
    NoEnd(String),
    /// The tokenizer knows tokens that the model does not.
    #[error("cannot load '{model}': its tokenizer has {tokens} tokens and the model {vocab}")]
    Vocabulary {
        /// The model.
        model: String,
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Tokens of the model.
        vocab: usize,
    },
    /// A context longer than the model's own.
    #[error("--max-model-len is {asked} and '{model}' has a context of {own} tokens; give at most that")]
    TooLong {
        /// The model.
        model: String,
        /// What was asked for.
        asked: usize,
        /// What it has.
        own: usize,
    },
    /// More memory than there is.
    #[error(
        "'{model}' needs {total} of memory ({weights} of weights, {kv} of KV) and {free} is free; serve a smaller model, --quantize it, lower --kv-mib or --max-model-len, or give it more memory"
    )]
    Memory {
        /// The model.
        model: String,
        /// Weights and KV.
        total: String,
        /// Weights alone.
        weights: String,
        /// KV alone.
        kv: String,
        /// What is free.
        free: String,
    },
    /// KV pools that were asked for and that there is no memory for.
    #[error(
        "'{model}' would take up to {total} of memory ({parts}) and {free} is free; ask for less KV, serve a smaller model, --quantize it, or give it more memory"
    )]
    Pools {
        /// The model.
        model: String,
        /// Weights and whole pools.
        total: String,
        /// The weights, and the flags of the pools with their sizes.
        parts: String,
        /// What is free.
        free: String,
    },
    /// A part of the free memory that holds no KV.
    #[error(
        "--kv-fraction = {fraction} of the {free} that is free is less than 1 MiB; give more, or a size with --kv-mib"
    )]
    Fraction {
        /// What was asked for.
        fraction: f64,
        /// What is free.
        free: String,
    },
    /// A part of memory that nobody knows.
    #[error("--kv-fraction: this system does not say how much memory is free; give a size with --kv-mib")]
    UnknownMemory,
}

/// What else an adapter's path says about its base, and what that leaves to do.
fn elsewhere(guess: Option<&str>, revision: &str) -> String {
    match guess {
        Some(id) => format!(
            "'{id}' (revision {revision}), which the path may mean, is not in the Hugging Face cache; put the base there, download '{id}' first, "
        ),
        None => "the path ends in no Hugging Face id such as org/name; put the base there, ".to_owned(),
    }
}
