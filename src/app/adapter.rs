//! A LoRA adapter as a model: its weights are merged into those of its base, and
//! files of its directory rule over the base's.
//!
//! `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` are the
//! adapter's where it has the first two of them, and the base's template is not
//! looked at then; else all three are the base's, and the log names those of the
//! adapter that are ignored. `generation_config.json`, `espalier.toml` and
//! `prm.json` are the adapter's, each where it has it, else the base's.
//! `config.json` is always the base's.
//!
//! A directory or a snapshot of the hub is an adapter where it has an
//! `adapter_config.json` and no weights of its own; one that holds a single
//! subdirectory of that kind is it, too, as trainers leave their checkpoints
//! (openreasoner/Math-psa). The base is what `base_model_name_or_path` names: a
//! directory, from the adapter's own or the working directory, a bundled model,
//! or a model of the hub. Adapters name the machine that they were trained on
//! now and then (`../../models/Qwen/Qwen2.5-Math-7B-Instruct/`): where there is
//! no such directory, the path may mean a model of the hub, that of a folder
//! `models--org--name` in it, as the hub's cache has them, or else that of its
//! last two parts. Such a guess is used where it is in the cache, and the log says
//! so; it is never downloaded, since anybody may own that name on the hub.
//!
//! Deliberately absent: an adapter of an adapter, and one of a GGUF file.

use super::find::{Found, Source};
use super::hub::{self, INDEX, SINGLE};
use super::model::{ModelError, TEMPLATE, read};
use crate::engine::tree::checkpoint::{ADAPTER_CONFIG, AdapterConfig};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a model of the hub is called by in the cache, before `org--name`.
const CACHED: &str = "models--";

/// What turns text into tokens. Only together do they mean anything, so they
/// come from one place; the last one may be missing.
const TOKENIZER: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", TEMPLATE];

/// The directories below `directory`, or that itself, that hold an adapter.
pub(super) fn places(directory: &Path) -> Vec<PathBuf> {
    let holds = |directory: &Path, file: &str| directory.join(file).is_file();
    if [SINGLE, INDEX].iter().any(|weights| holds(directory, weights)) {
        return Vec::new();
    }
    if holds(directory, ADAPTER_CONFIG) {
        return vec![directory.to_owned()];
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut places: Vec<PathBuf> = entries.filter(|path| holds(path, ADAPTER_CONFIG)).collect();
    places.sort();
    places
}

/// An adapter whose base is not looked for yet.
#[derive(Debug)]
pub(super) struct Adapter {
    name: String,
    directory: PathBuf,
    config: AdapterConfig,
}

/// An adapter on its base.
#[derive(Debug)]
pub(super) struct Adapted {
    /// Where its files are.
    pub(super) directory: PathBuf,
    /// How it is merged.
    pub(super) config: AdapterConfig,
    /// What it is merged into.
    pub(super) base: Found,
    /// Whether it brings a tokenizer.
    tokenizer: bool,
}

impl Adapter {
    /// What was found, if it is an adapter.
    pub(super) fn of(found: &Found) -> Result<Option<Self>, ModelError> {
        let Source::Directory(directory) = &found.source else { return Ok(None) };
        let mut places = places(directory);
        if places.len() > 1 {
            let name = |place: &PathBuf| place.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let found = places.iter().map(name).collect::<Vec<_>>().join(", ");
            return Err(ModelError::Adapters { directory: directory.clone(), found });
        }
        let Some(directory) = places.pop() else { return Ok(None) };
        let file = directory.join(ADAPTER_CONFIG);
        let json = std::fs::read(&file).map_err(|cause| ModelError::Read { file, cause })?;
        let name = found.name.clone();
        let config = AdapterConfig::from_json(&json)
            .map_err(|cause| ModelError::Load { model: name.clone(), cause })?;
        Ok(Some(Self { name, directory, config }))
    }

    /// What it calls its base.
    pub(super) fn base(&self) -> &str {
        &self.config.base
    }

    /// What its base may be called on this machine, the likelier first.
    pub(super) fn names(&self) -> Vec<String> {
        let beside = self.directory.join(&self.config.base);
        let beside = beside.to_str().filter(|_| beside.is_dir()).map(str::to_owned);
        beside.into_iter().chain([self.config.base.clone()]).collect()
    }

    /// What its base is called on the hub, where it is named so.
    pub(super) fn id(&self) -> Option<&str> {
        let base = self.config.base.trim_end_matches('/');
        Some(base).filter(|base| hub::is_id(base) && cached(base).is_none())
    }

    /// What its base may be called on the hub, where it is named by a path.
    pub(super) fn guess(&self) -> Option<String> {
        let path = self.config.base.trim_end_matches('/');
        let id = match cached(path) {
            Some(folder) => folder.replacen("--", "/", 1),
            None => path[path.rmatch_indices('/').nth(1)?.0 + 1..].to_owned(),
        };
        Some(id).filter(|id| hub::is_id(id))
    }

    /// The revision of its base on the hub.
    pub(super) fn revision(&self) -> &str {
        self.config.revision.as_deref().unwrap_or("main")
    }

    /// Why there is no base.
    pub(super) fn baseless(&self, cause: ModelError) -> ModelError {
        let (adapter, base) = (self.name.clone(), self.config.base.clone());
        ModelError::Base { adapter, base, cause: Box::new(cause) }
    }

    /// What was found, on its base.
    pub(super) fn onto(self, base: Found, found: Found) -> Result<Found, ModelError> {
        let Self { name, directory, config } = self;
        if Self::of(&base)?.is_some() {
            return Err(ModelError::Stacked { adapter: name, base: config.base });
        }
        let has = |file: &&str| directory.join(file).is_file();
        let tokenizer = TOKENIZER[..2].iter().all(&has);
        let ignored: Vec<&str> = TOKENIZER.into_iter().filter(|file| !tokenizer && has(file)).collect();
        if !ignored.is_empty() {
            tracing::warn!(
                adapter = name,
                ignored = ignored.join(", "),
                "an adapter's tokenizer is tokenizer.json and tokenizer_config.json together; \
                 tokenizer and template of its base are used"
            );
        }
        let origin = format!("{}; merged into {}", found.origin, base.name);
        let source = Source::Adapter(Arc::new(Adapted { directory, config, base, tokenizer }));
        Ok(Found { origin, source, ..found })
    }
}

/// What follows `models--` in the last part of a path that begins with it.
fn cached(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(|part| part.strip_prefix(CACHED))
}

impl Adapted {
    /// A file of the model: the adapter's where it has one, else the base's. The
    /// shape is always the base's.
    pub(super) fn file(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, ModelError> {
        if TOKENIZER.contains(&name) {
            return if self.tokenizer { read(self.directory.join(name)) } else { self.base.optional(name) };
        }
        if name == "config.json" {
            return self.base.optional(name);
        }
        match read(self.directory.join(name))? {
            Some(own) => Ok(Some(own)),
            None => self.base.optional(name),
        }
    }
}

#[cfg(test)]
mod tests;
