//! A found process reward model, checked and then loaded.
//!
//! It is checked as a policy is, but for what only answers need; beyond that,
//! how its scores are read must be known and fit its weights.

use super::super::find::{Found, Source};
use super::super::memory::Need;
use super::ModelError;
use crate::config::ModelArgs;
use crate::engine::tree::ScoreHead;
use crate::engine::tree::checkpoint::Weights;
use crate::engine::tree::config::ModelConfig as Shape;
use crate::engine::tree::model::Model;
use crate::prompt::{ChatTemplate, TemplateTokens, Tokenizer};
use crate::verify::{Format, FormatParts, Kind, PrmConfig};
use serde_json::Value;
use std::sync::Arc;

/// How a process reward model is read.
const FILE: &str = "prm.json";

/// A process reward model of which everything but the weights was read.
#[derive(Debug)]
pub struct CheckedPrm {
    name: String,
    origin: String,
    shape: Shape,
    tokenizer: Arc<Tokenizer>,
    format: Format,
    weights: Weights,
}

/// A process reward model, ready to be put on an engine.
#[derive(Debug)]
pub struct Prm {
    /// Its name.
    pub name: String,
    /// Where it came from, for people.
    pub origin: String,
    /// Its weights.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How it is read.
    pub format: Format,
}

impl Found {
    /// As a policy is checked. Its context is its own: what bounds the policy
    /// does not bound it.
    pub(super) fn check_prm(&self) -> Result<CheckedPrm, ModelError> {
        let unbounded = ModelArgs { max_model_len: None, ..self.args.clone() };
        let found = Found {
            name: self.name.clone(),
            origin: self.origin.clone(),
            source: self.source.clone(),
            args: unbounded,
            prm: None,
        };
        found.read_prm().map_err(|cause| ModelError::Prm(Box::new(cause)))
    }

    fn read_prm(&self) -> Result<CheckedPrm, ModelError> {
        let (mut shape, weights) = self.body()?;
        let described = self.described(&mut shape, &weights)?;
        let tokenizer_config: Value = self.json("tokenizer_config.json")?;
        let mut tokenizer = self.tokenizer(&shape)?;
        tokenizer.configure(&tokenizer_config);
        self.agree(&shape, &weights)?;
        let tokenizer = Arc::new(tokenizer);
        let tokens = TemplateTokens::from_config(&tokenizer_config);
        let bos = tokens.bos.clone();
        let template = match self.template(&tokenizer_config) {
            Ok((source, file)) => {
                let model = self.name.clone();
                let template = ChatTemplate::new(&source, tokens);
                Some(template.map_err(|cause| ModelError::Prompt { model, file, cause })?)
            }
            // Whether one is needed is for the format to say.
            Err(_) => None,
        };
        let parts = FormatParts { tokenizer: Arc::clone(&tokenizer), template, bos };
        let format = Format::new(&described, parts).map_err(|cause| {
            let (model, format) = (self.name.clone(), described.kind.name());
            ModelError::Format { model, format, cause }
        })?;
        let (name, origin) = (self.name.clone(), self.origin.clone());
        Ok(CheckedPrm { name, origin, shape, tokenizer, format, weights })
    }

    /// How its scores are read: as `--prm-format` says, else its `prm.json`, else
    /// by its head or name, or an adapter's base's name. A head is put into `shape`.
    fn described(&self, shape: &mut Shape, weights: &Weights) -> Result<PrmConfig, ModelError> {
        if shape.score.is_none() && weights.has(ScoreHead::VALUE) {
            shape.score = Some(ScoreHead::Value);
        }
        let file = match self.optional(FILE)? {
            Some(bytes) => Some(self.parse::<PrmConfig>(FILE, &bytes)?),
            None => None,
        };
        let asked = self.args.prm_format.as_deref().and_then(Kind::parse);
        let config = match (asked, file) {
            (Some(kind), Some(file)) => PrmConfig { kind, ..file },
            (Some(kind), None) => kind.into(),
            (None, Some(file)) => file,
            (None, None) => {
                let base = match &self.source {
                    Source::Adapter(adapted) => Some(adapted.base.name.as_str()),
                    Source::Bundled(_) | Source::Directory(_) | Source::Gguf(_) => None,
                };
                let mut names = [self.name.as_str()].into_iter().chain(base);
                let kind = names.find_map(|name| Kind::recognise(name, shape.score));
                kind.ok_or_else(|| ModelError::NoFormat(self.name.clone()))?.into()
            }
        };
        // A value head stands beside the other one, which may be meant.
        if config.kind.head().is_none() && shape.score == Some(ScoreHead::Value) {
            shape.score = None;
        }
        if config.kind.head() == shape.score {
            return Ok(config);
        }
        let name = |head: Option<ScoreHead>| head.map_or("an output head for tokens", ScoreHead::name);
        let (found, needed) = (name(shape.score), name(config.kind.head()));
        Err(ModelError::Head { model: self.name.clone(), format: config.kind.name(), found, needed })
    }
}

impl CheckedPrm {
    /// Its dimensions.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes of its weights in memory.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.weights.resident(&self.shape)
    }

    /// The memory that it takes.
    pub(super) fn need(&self) -> Need {
        Need::of(&self.shape, &self.weights)
    }

    /// Reads the weights.
    pub(super) fn load(self, progress: &mut dyn FnMut(u64, u64)) -> Result<Prm, ModelError> {
        let (name, origin) = (self.name, self.origin);
        let failed = |cause| ModelError::Prm(Box::new(ModelError::Load { model: name.clone(), cause }));
        let model = self.weights.load(self.shape, progress).map_err(failed)?;
        Ok(Prm { name, origin, model, tokenizer: self.tokenizer, format: self.format })
    }
}

#[cfg(test)]
mod tests;
