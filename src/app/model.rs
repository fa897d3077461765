//! Finding a checkpoint: the bundled ones in the binary, or a directory; read
//! and checked whole before the server opens its port.

use crate::config::{BUNDLED, ModelConfig};
use crate::engine::Sampling;
use crate::engine::tree::checkpoint;
use crate::engine::tree::config::{LoadError, ModelConfig as Shape, SUPPORTED};
use crate::engine::tree::model::Model;
use crate::prompt::{ChatTemplate, PromptError, TemplateTokens, Tokenizer};
use crate::token::TokenId;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The name of the bundled process reward model, which is a language model too.
pub const BUNDLED_PRM: &str = "seedling-prm";

/// Why a model cannot be served. Each says what was found and what would do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Neither a bundled name nor a path.
    #[error("no model at '{0}': give '{BUNDLED}', '{BUNDLED_PRM}' or a directory with a checkpoint")]
    Missing(String),
    /// A file where a directory is needed.
    #[error("'{0}' is a file; give the directory that holds config.json and model.safetensors")]
    File(PathBuf),
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
    #[error("cannot load '{model}': {cause}; supported are {} in safetensors", SUPPORTED.join(", "))]
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
    /// Its `espalier.toml` is wrong.
    #[error("espalier.toml of '{model}': {cause}")]
    Settings {
        /// The model.
        model: String,
        /// Why.
        cause: String,
    },
    /// No file names an end of text.
    #[error("cannot load '{0}': neither generation_config.json nor config.json names an eos_token_id")]
    NoEnd(String),
    /// The tokenizer knows tokens that the model does not.
    #[error("cannot load '{model}': tokenizer.json has {tokens} tokens and the model {vocab}")]
    Vocabulary {
        /// The model.
        model: String,
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Tokens of the model.
        vocab: usize,
    },
}

/// A model, ready to be put on an engine.
#[derive(Debug)]
pub struct Loaded {
    /// The name that requests use.
    pub name: String,
    /// Where it came from, for people.
    pub origin: String,
    /// Its weights.
    pub model: Model,
    /// Ids that end a text.
    pub eos: Vec<TokenId>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template.
    pub template: ChatTemplate,
    /// Its own sampling defaults.
    pub sampling: Sampling,
    /// How it is prompted and what efforts mean.
    pub config: ModelConfig,
}

/// The bytes of a checkpoint.
struct Files {
    name: String,
    origin: String,
    config: Cow<'static, [u8]>,
    generation: Option<Cow<'static, [u8]>>,
    tokenizer: Cow<'static, [u8]>,
    tokenizer_config: Cow<'static, [u8]>,
    weights: Cow<'static, [u8]>,
    settings: Option<String>,
}

#[derive(Deserialize, Default)]
struct Generation {
    eos_token_id: Option<Value>,
    temperature: Option<f32>,
    top_p: Option<f32>,
}

macro_rules! bundled {
    ($name:expr, $directory:literal, $settings:expr) => {
        Files {
            name: $name.to_owned(),
            origin: "bundled".to_owned(),
            config: Cow::Borrowed(include_bytes!(concat!("../../models/", $directory, "/config.json"))),
            generation: Some(Cow::Borrowed(include_bytes!(concat!(
                "../../models/",
                $directory,
                "/generation_config.json"
            )))),
            tokenizer: Cow::Borrowed(include_bytes!(concat!("../../models/", $directory, "/tokenizer.json"))),
            tokenizer_config: Cow::Borrowed(include_bytes!(concat!(
                "../../models/",
                $directory,
                "/tokenizer_config.json"
            ))),
            weights: Cow::Borrowed(include_bytes!(concat!(
                "../../models/",
                $directory,
                "/model.safetensors"
            ))),
            settings: $settings,
        }
    };
}

/// Loads a bundled model by name, or a checkpoint from a directory.
///
/// # Errors
/// When there is none, or it is incomplete, truncated or not supported.
pub fn load(model: &str) -> Result<Loaded, ModelError> {
    match model {
        BUNDLED => {
            let settings = include_str!("../../models/seedling/policy/espalier.toml");
            bundled!(BUNDLED, "seedling/policy", Some(settings.to_owned())).load()
        }
        BUNDLED_PRM => bundled!(BUNDLED_PRM, "seedling/prm", None).load(),
        path => read(path)?.load(),
    }
}

/// Checks all but the weights of what [`load`] would load.
///
/// # Errors
/// When there is no such model, or its files cannot be served.
pub fn check(model: &str) -> Result<(), ModelError> {
    match model {
        // A test loads these.
        BUNDLED | BUNDLED_PRM => Ok(()),
        path => read(path)?.prepare().map(drop),
    }
}

fn read(path: &str) -> Result<Files, ModelError> {
    let directory = Path::new(path);
    if !directory.exists() {
        return Err(ModelError::Missing(path.to_owned()));
    }
    if !directory.is_dir() {
        return Err(ModelError::File(directory.to_owned()));
    }
    let failed = |file: &Path, cause| ModelError::Read { file: file.to_owned(), cause };
    let mut found: Vec<String> = std::fs::read_dir(directory)
        .map_err(|cause| failed(directory, cause))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    found.sort();
    let optional = |name: &str| {
        let file = directory.join(name);
        match std::fs::read(&file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(failed(&file, cause)),
        }
    };
    let needed = |name: &'static str| match optional(name)? {
        Some(bytes) => Ok(Cow::Owned(bytes)),
        None => {
            let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
            Err(ModelError::Incomplete { directory: directory.to_owned(), found, missing: name })
        }
    };
    let name = directory.canonicalize().map_err(|cause| failed(directory, cause))?;
    let settings = optional("espalier.toml")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Files {
        name: name.file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned()),
        origin: path.to_owned(),
        config: needed("config.json")?,
        generation: optional("generation_config.json")?.map(Cow::Owned),
        tokenizer: needed("tokenizer.json")?,
        tokenizer_config: needed("tokenizer_config.json")?,
        weights: needed("model.safetensors")?,
        settings,
    })
}

/// A checkpoint without its weights.
struct Prepared {
    eos: Vec<TokenId>,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    config: ModelConfig,
}

impl Files {
    fn load(self) -> Result<Loaded, ModelError> {
        let Prepared { eos, tokenizer, template, sampling, config } = self.prepare()?;
        let model = checkpoint::load(&self.config, self.weights)
            .map_err(|cause| ModelError::Load { model: self.name.clone(), cause })?;
        Ok(Loaded { name: self.name, origin: self.origin, model, eos, tokenizer, template, sampling, config })
    }

    fn prepare(&self) -> Result<Prepared, ModelError> {
        let model = || self.name.clone();
        let load = |cause| ModelError::Load { model: self.name.clone(), cause };
        let prompt = |file| {
            let model = self.name.clone();
            move |cause| ModelError::Prompt { model, file, cause }
        };
        // The cheap checks come first: a wrong architecture is told at once.
        let shape = Shape::from_json(&self.config).map_err(load)?;
        let config: Value = json(&self.name, "config.json", &self.config)?;
        let generation: Generation = match &self.generation {
            Some(bytes) => json(&self.name, "generation_config.json", bytes)?,
            None => Generation::default(),
        };
        let tokenizer_config: Value = json(&self.name, "tokenizer_config.json", &self.tokenizer_config)?;
        let tokenizer = Tokenizer::from_json(&self.tokenizer).map_err(prompt("tokenizer.json"))?;
        let tokens = tokenizer.vocab_size();
        if tokens > shape.vocab {
            return Err(ModelError::Vocabulary { model: model(), tokens, vocab: shape.vocab });
        }
        let template =
            ChatTemplate::from_config(&tokenizer_config).map_err(prompt("tokenizer_config.json"))?;
        let eos = ends(generation.eos_token_id.as_ref())
            .or_else(|| ends(config.get("eos_token_id")))
            .or_else(|| Some(vec![tokenizer.token_id(&TemplateTokens::from_config(&tokenizer_config).eos?)?]))
            .ok_or_else(|| ModelError::NoEnd(model()))?;
        let source = tokenizer_config.get("chat_template").map(Value::to_string).unwrap_or_default();
        let settings = match &self.settings {
            Some(text) => ModelConfig::from_toml(text),
            None => ModelConfig::general(&source),
        };
        let settings = settings.map_err(|cause| ModelError::Settings { model: model(), cause })?;
        Ok(Prepared {
            eos,
            tokenizer,
            template,
            sampling: Sampling {
                temperature: generation.temperature.unwrap_or(1.0),
                top_p: generation.top_p.unwrap_or(1.0),
            },
            config: settings,
        })
    }
}

fn json<T: for<'a> Deserialize<'a>>(model: &str, file: &'static str, bytes: &[u8]) -> Result<T, ModelError> {
    serde_json::from_slice(bytes).map_err(|cause| ModelError::Json { model: model.to_owned(), file, cause })
}

/// `eos_token_id` as one id or a list of them.
fn ends(value: Option<&Value>) -> Option<Vec<TokenId>> {
    let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
    match value? {
        Value::Array(ids) => Some(ids.iter().filter_map(id).collect()),
        value => Some(vec![id(value)?]),
    }
}
