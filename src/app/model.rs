//! A found model, checked and then loaded.
//!
//! Checking is cheap and tells almost everything that can be wrong: files,
//! architecture, tokenizer, template, settings, the weights' headers, memory. It
//! runs before the port opens; reading the weights comes after.

mod error;
mod prm;

use super::find::{Found, Scorer, Source, find_here};
use super::memory::{self, Need};
use crate::config::{EngineArgs, ModelArgs, ModelConfig, ModelLayers, general, model_file};
use crate::engine::Sampling;
use crate::engine::tree::checkpoint::{INDEX, SINGLE, Weights};
use crate::engine::tree::config::{LoadError, ModelConfig as Shape};
use crate::engine::tree::generation::{self, Generation};
use crate::engine::tree::model::Model;
use crate::engine::tree::quant::Quantize;
use crate::prompt::{ChatTemplate, PromptError, TemplateTokens, Tokenizer};
use crate::token::TokenId;
use crate::verify::Remote;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;
use toml::Table;

pub use error::ModelError;
pub use prm::{CheckedPrm, Prm};

/// A chat template in a file of its own.
pub(super) const TEMPLATE: &str = "chat_template.jinja";

/// The file with a model's own settings.
const SETTINGS: &str = "espalier.toml";

/// A model of which everything but the weights was read.
#[derive(Debug)]
pub struct Checked {
    /// The names that requests may give it, the reported one first; at least one.
    pub names: Vec<String>,
    /// Where it came from, for people.
    pub origin: String,
    /// Its dimensions; the context is the one that is served.
    pub shape: Shape,
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
    /// What scores steps for it, if there is such; none that is elsewhere until
    /// it was asked.
    pub prm: Option<Scorer<CheckedPrm, Remote>>,
    weights: Weights,
}

/// A model, ready to be put on an engine.
#[derive(Debug)]
pub struct Loaded {
    /// The name that requests use.
    pub name: String,
    /// Other names that they may use.
    pub aliases: Vec<String>,
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
    /// What scores steps for it, if there is such.
    pub prm: Option<Scorer<Prm, Remote>>,
}

/// Loads a bundled model by name, or a checkpoint from a directory; for callers
/// that need neither the hub nor progress.
///
/// # Errors
/// When there is none, or it is incomplete, truncated or not supported.
pub fn load(model: &str) -> Result<Loaded, ModelError> {
    find_here(&ModelArgs::from(model))?.check()?.load(&mut |_, _| {})
}

impl Found {
    /// Reads everything but the weights, whose headers are looked at.
    ///
    /// # Errors
    /// When anything is missing, broken, not supported, or contradicts the rest.
    pub fn check(self) -> Result<Checked, ModelError> {
        let (shape, weights) = self.body()?;
        let weights = weights.quantized(Quantize::parse(&self.args.quantize));
        let prm = match &self.prm {
            Some(Scorer::Here(found)) => Some(Scorer::Here(found.check_prm()?)),
            Some(Scorer::Judge) => Some(Scorer::Judge),
            Some(Scorer::Remote(_)) | None => None,
        };
        let prompt = |file| {
            let model = self.name.clone();
            move |cause| ModelError::Prompt { model, file, cause }
        };
        let config: Value = self.json("config.json")?;
        let generation = match self.optional("generation_config.json")? {
            Some(bytes) => Generation::from_json(&bytes)
                .map_err(|cause| ModelError::Load { model: self.name.clone(), cause })?,
            None => Generation::default(),
        };
        let tokenizer_config: Value = self.json("tokenizer_config.json")?;
        let mut tokenizer = self.tokenizer(&shape)?;
        tokenizer.configure(&tokenizer_config);
        if shape.score.is_some() {
            return Err(ModelError::Scores(self.name));
        }
        self.agree(&shape, &weights)?;
        let (source, file) = self.template(&tokenizer_config)?;
        let tokens = TemplateTokens::from_config(&tokenizer_config);
        // The model's own list, and the token that ends a turn of its template.
        let mut eos = generation.eos;
        if eos.is_empty() {
            eos = config.get("eos_token_id").map(generation::ids).unwrap_or_default();
        }
        eos.extend(tokens.eos.as_deref().and_then(|name| tokenizer.token_id(name)));
        let mut seen = HashSet::new();
        eos.retain(|id| seen.insert(*id));
        if eos.is_empty() {
            return Err(ModelError::NoEnd(self.name.clone()));
        }
        let template = ChatTemplate::new(&source, tokens).map_err(prompt(file))?;
        let layers = self.layers()?;
        let all: Vec<&Table> =
            [&layers.general].into_iter().chain(&layers.own).chain(&layers.sections).collect();
        let config = ModelConfig::layered(&all)
            .map_err(|cause| ModelError::Merged { model: self.name.clone(), cause })?;
        Ok(Checked {
            names: self.names(),
            origin: self.origin,
            shape,
            eos,
            tokenizer,
            template,
            sampling: generation.sampling,
            config,
            prm,
            weights,
        })
    }

    /// The layers of its settings, for `espalier config`.
    ///
    /// # Errors
    /// When its files cannot be read or its `espalier.toml` is wrong.
    pub fn layers(&self) -> Result<ModelLayers, ModelError> {
        let (source, _) = self.template(&self.json("tokenizer_config.json")?)?;
        let own = match self.optional(SETTINGS)? {
            Some(bytes) => {
                let label = format!("{SETTINGS} of '{}'", self.name);
                Some(model_file(&label, &String::from_utf8_lossy(&bytes))?)
            }
            None => None,
        };
        let names = self.names();
        let mut spoken: Vec<&str> = [self.name.as_str(), &self.args.name].into_iter().collect();
        spoken.extend(names.first().map(String::as_str));
        spoken.dedup();
        let section = |name: &&str| self.args.sections.get(*name)?.as_table().cloned();
        let sections: Vec<Table> = spoken.iter().filter_map(section).collect();
        Ok(ModelLayers { name: self.args.name.clone(), general: general(&source), own, sections })
    }

    /// Its chat template, and the file that it stands in.
    fn template(&self, tokenizer_config: &Value) -> Result<(String, &'static str), ModelError> {
        if matches!(self.source, Source::Gguf(_)) && tokenizer_config["chat_template"].is_null() {
            let cause = PromptError::Template("there is no tokenizer.chat_template".to_owned());
            return Err(ModelError::Prompt { model: self.name.clone(), file: "its metadata", cause });
        }
        let own = self.optional(TEMPLATE)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let file = if own.is_some() { TEMPLATE } else { "tokenizer_config.json" };
        let source = ChatTemplate::source(tokenizer_config, own.as_deref());
        let source = source.map_err(|cause| ModelError::Prompt { model: self.name.clone(), file, cause })?;
        Ok((source, file))
    }

    fn names(&self) -> Vec<String> {
        match self.args.served_model_name.as_slice() {
            [] => vec![self.name.clone()],
            names => names.to_vec(),
        }
    }

    /// What a policy and a process reward model have in common.
    fn body(&self) -> Result<(Shape, Weights), ModelError> {
        let (mut shape, weights) = self.headers()?;
        if let Some(asked) = self.args.max_model_len.map(std::num::NonZero::get) {
            if asked > shape.context {
                let (model, own) = (self.name.clone(), shape.context);
                return Err(ModelError::TooLong { model, asked, own });
            }
            shape.context = asked;
        }
        Ok((shape, weights))
    }

    /// Its own shape, and the headers of its weights.
    fn headers(&self) -> Result<(Shape, Weights), ModelError> {
        let load = |cause| ModelError::Load { model: self.name.clone(), cause };
        match &self.source {
            Source::Gguf(file) => file.body().map_err(load),
            Source::Bundled(_) | Source::Directory(_) => {
                let shape = Shape::from_json(&self.needed("config.json")?).map_err(load)?;
                for file in ["tokenizer.json", "tokenizer_config.json"] {
                    self.needed(file)?;
                }
                Ok((shape, self.safetensors()?.map_err(load)?))
            }
            Source::Adapter(adapted) => {
                let (shape, weights) = adapted.base.headers()?;
                Ok((shape, weights.adapted(&adapted.directory, &adapted.config).map_err(load)?))
            }
        }
    }

    /// The headers of its safetensors files.
    fn safetensors(&self) -> Result<Result<Weights, LoadError>, ModelError> {
        match &self.source {
            Source::Bundled(model) => Ok(Weights::embedded(model.weights)),
            Source::Directory(directory)
                if !directory.join(SINGLE).exists() && !directory.join(INDEX).exists() =>
            {
                Err(self.incomplete(SINGLE)?)
            }
            Source::Directory(directory) => Ok(Weights::open(directory)),
            // Their headers are read otherwise.
            Source::Gguf(_) | Source::Adapter(_) => Err(self.incomplete(SINGLE)?),
        }
    }

    /// Holds the headers of the weights against the configuration.
    fn agree(&self, shape: &Shape, weights: &Weights) -> Result<(), ModelError> {
        weights.check(shape).map_err(|cause| ModelError::Load { model: self.name.clone(), cause })
    }

    fn tokenizer(&self, shape: &Shape) -> Result<Tokenizer, ModelError> {
        let file = "tokenizer.json";
        let model = || self.name.clone();
        let tokenizer = Tokenizer::from_json(&self.needed(file)?).map_err(|cause| ModelError::Prompt {
            model: model(),
            file,
            cause,
        })?;
        match tokenizer.vocab_size() {
            tokens if tokens > shape.vocab => {
                Err(ModelError::Vocabulary { model: model(), tokens, vocab: shape.vocab })
            }
            _ => Ok(tokenizer),
        }
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, ModelError> {
        match &self.source {
            Source::Bundled(model) => {
                let file = model.files.iter().find(|(file, _)| *file == name);
                Ok(file.map(|(_, bytes)| Cow::Borrowed(*bytes)))
            }
            Source::Gguf(file) => {
                let document = file.document(name).map_err(|cause| ModelError::Prompt {
                    model: self.name.clone(),
                    file: "its metadata",
                    cause,
                })?;
                Ok(document.map(Cow::Owned))
            }
            Source::Directory(directory) => read(directory.join(name)),
            Source::Adapter(adapted) => adapted.file(name),
        }
    }

    fn needed(&self, name: &'static str) -> Result<Cow<'static, [u8]>, ModelError> {
        match self.optional(name)? {
            Some(bytes) => Ok(bytes),
            None => Err(self.incomplete(name)?),
        }
    }

    fn incomplete(&self, missing: &'static str) -> Result<ModelError, ModelError> {
        let directory = match &self.source {
            Source::Directory(directory) => directory,
            // An adapter lacks what its base lacks.
            Source::Adapter(adapted) => return adapted.base.incomplete(missing),
            Source::Bundled(_) | Source::Gguf(_) => {
                return Ok(ModelError::Missing { name: self.name.clone(), hint: String::new() });
            }
        };
        let entries = std::fs::read_dir(directory)
            .map_err(|cause| ModelError::Read { file: directory.clone(), cause })?;
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            Some(entry.ok()?.file_name().to_string_lossy().into_owned())
        };
        let mut found: Vec<String> = entries.filter_map(name).collect();
        found.sort();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        Ok(ModelError::Incomplete { directory: directory.clone(), found, missing })
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, file: &'static str) -> Result<T, ModelError> {
        self.parse(file, &self.needed(file)?)
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self, file: &'static str, bytes: &[u8]) -> Result<T, ModelError> {
        serde_json::from_slice(bytes).map_err(|cause| ModelError::Json {
            model: self.name.clone(),
            file,
            cause,
        })
    }
}

/// A file, if it is there.
pub(super) fn read(file: PathBuf) -> Result<Option<Cow<'static, [u8]>>, ModelError> {
    match std::fs::read(&file) {
        Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(ModelError::Read { file, cause }),
    }
}

impl Checked {
    /// Bytes of its weights in memory.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.weights.resident(&self.shape)
    }

    /// Refuses a model for which there is not enough memory: its weights, and KV
    /// of one sequence of the served context, or of the whole pool where that is
    /// smaller or its size was chosen; the same for the process reward model that
    /// goes with it. Pools of the default size shrink to what is left.
    ///
    /// # Errors
    /// With what they need and what is free.
    pub fn fits(&self, args: EngineArgs) -> Result<EngineArgs, ModelError> {
        let own = Need::of(&self.shape, &self.weights);
        let prm = match &self.prm {
            Some(Scorer::Here(prm)) => Some(prm.need()),
            Some(Scorer::Remote(_) | Scorer::Judge) | None => None,
        };
        memory::fit(&self.names[0], args, (own, prm))
    }

    /// Reads the weights; `progress` hears (bytes done, bytes in all).
    ///
    /// # Errors
    /// When they do not fit the configuration, or cannot be read.
    pub fn load(self, progress: &mut dyn FnMut(u64, u64)) -> Result<Loaded, ModelError> {
        let mut names = self.names.into_iter();
        let name = names.next().unwrap_or_default();
        let model = self.weights.load(self.shape, progress);
        let model = model.map_err(|cause| ModelError::Load { model: name.clone(), cause })?;
        Ok(Loaded {
            aliases: names.collect(),
            name,
            origin: self.origin,
            model,
            eos: self.eos,
            tokenizer: self.tokenizer,
            template: self.template,
            sampling: self.sampling,
            config: self.config,
            prm: match self.prm {
                Some(Scorer::Here(prm)) => Some(Scorer::Here(prm.load(progress)?)),
                Some(Scorer::Remote(remote)) => Some(Scorer::Remote(remote)),
                Some(Scorer::Judge) => Some(Scorer::Judge),
                None => None,
            },
        })
    }
}
