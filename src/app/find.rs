//! Finding a model: a bundled one, a directory, a GGUF file, or one of the
//! Hugging Face hub; and the base of one that is an adapter.
//!
//! What is on disk under a name wins over the hub. Nothing is read here but
//! directory entries, the head of a GGUF file and an adapter's configuration; what
//! is found is checked by [`Found::check`](super::model).

use super::adapter::{Adapted, Adapter};
use super::gguf::GgufFile;
use super::hub::{self, Hub};
use super::model::ModelError;
use crate::config::{BUNDLED, ModelArgs, is_address, nearest};
use crate::verify::{Kind, RemoteConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the bundled process reward model, which is a language model too.
pub const BUNDLED_PRM: &str = "seedling-prm";

/// A model that is there, not yet looked at.
#[derive(Debug)]
pub struct Found {
    /// Its own name: a bundled name, the directory's, or the hub's id.
    pub name: String,
    /// Where it came from, for people.
    pub origin: String,
    pub(super) source: Source,
    pub(super) args: ModelArgs,
    /// What scores steps for it.
    pub(super) prm: Option<Scorer<Box<Found>, RemoteConfig>>,
}

/// What scores steps for a model.
#[derive(Debug)]
pub enum Scorer<H, R> {
    /// A process reward model on this machine.
    Here(H),
    /// One on another server.
    Remote(R),
    /// The model itself.
    Judge,
}

/// Where a model's files are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Bundled(&'static Bundled),
    Directory(PathBuf),
    Gguf(Arc<GgufFile>),
    Adapter(Arc<Adapted>),
}

/// A checkpoint within the binary.
#[derive(Debug)]
pub(super) struct Bundled {
    name: &'static str,
    pub(super) files: &'static [(&'static str, &'static [u8])],
    pub(super) weights: &'static [u8],
}

macro_rules! bundled {
    ($name:expr, $directory:literal, [$($file:literal),*]) => {
        Bundled {
            name: $name,
            files: &[$(($file, include_bytes!(concat!("../../models/", $directory, "/", $file)))),*],
            weights: include_bytes!(concat!("../../models/", $directory, "/model.safetensors")),
        }
    };
}

static MODELS: [Bundled; 2] = [
    bundled!(
        BUNDLED,
        "seedling/policy",
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "espalier.toml"]
    ),
    bundled!(
        BUNDLED_PRM,
        "seedling/prm",
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "prm.json"]
    ),
];

/// Finds a model and the process reward model that goes with it; downloads what
/// is neither here nor in the cache.
///
/// # Errors
/// When one of them cannot be found.
pub async fn find(args: &ModelArgs, hub: &Hub) -> Result<Found, ModelError> {
    let mut found = locate(args, &args.name, &args.revision, hub).await?;
    let prm = match args.prm.as_deref() {
        None => (found.name == BUNDLED && matches!(found.source, Source::Bundled(_))).then_some(BUNDLED_PRM),
        Some(none) if none.eq_ignore_ascii_case("none") => None,
        named => named,
    };
    found.prm = match prm {
        None => None,
        Some("judge") => Some(Scorer::Judge),
        Some(url) if is_address(url) => {
            let kind = args.prm_format.as_deref().and_then(Kind::parse);
            let (url, model, key) = (url.to_owned(), args.prm_model.clone(), args.prm_api_key.clone());
            Some(Scorer::Remote(RemoteConfig { url, model, kind, key }))
        }
        Some(name) => {
            let prm = locate(args, name, "main", hub).await;
            Some(Scorer::Here(Box::new(prm.map_err(|cause| ModelError::Prm(Box::new(cause)))?)))
        }
    };
    Ok(found)
}

/// Finds a bundled model or a directory.
///
/// # Errors
/// When the name is neither, or an adapter's whose base is neither.
pub fn find_here(args: &ModelArgs) -> Result<Found, ModelError> {
    let found = here(args, &args.name)?.ok_or_else(|| missing(&args.name))?;
    let Some(adapter) = Adapter::of(&found)? else { return Ok(found) };
    match base_here(args, &adapter)? {
        Some(base) => adapter.onto(base, found),
        None => Err(adapter.baseless(missing(adapter.base()))),
    }
}

async fn locate(args: &ModelArgs, name: &str, revision: &str, hub: &Hub) -> Result<Found, ModelError> {
    let found = locate_one(args, name, revision, hub).await?;
    let Some(adapter) = Adapter::of(&found)? else { return Ok(found) };
    let base = match (base_here(args, &adapter)?, adapter.id()) {
        (Some(base), _) => Ok(base),
        (None, Some(id)) => locate_one(args, id, adapter.revision(), hub).await,
        (None, None) => guessed(args, name, &adapter, hub),
    };
    let base = base.map_err(|cause| adapter.baseless(cause))?;
    adapter.onto(base, found)
}

/// The base of an adapter that names it by a path of another machine: the model
/// that the path may mean, if it is in the cache. A guess is not downloaded.
fn guessed(args: &ModelArgs, name: &str, adapter: &Adapter, hub: &Hub) -> Result<Found, ModelError> {
    let (guess, revision) = (adapter.guess(), adapter.revision());
    if !hub::is_revision(revision) {
        return Err(ModelError::Revision(revision.to_owned()));
    }
    let Some((id, directory)) = guess.as_deref().and_then(|id| Some((id, hub.cached(id, revision)?))) else {
        return Err(ModelError::Elsewhere { guess, revision: revision.to_owned() });
    };
    tracing::warn!(
        adapter = name,
        base = adapter.base(),
        id,
        revision,
        "the base is no directory here; the model in the cache that its path may mean is used"
    );
    Ok(of_hub(args, id, revision, directory))
}

/// The base of an adapter, if it is on this machine.
fn base_here(args: &ModelArgs, adapter: &Adapter) -> Result<Option<Found>, ModelError> {
    for name in adapter.names() {
        if let Some(base) = here(args, &name).map_err(|cause| adapter.baseless(cause))? {
            return Ok(Some(base));
        }
    }
    Ok(None)
}

async fn locate_one(args: &ModelArgs, name: &str, revision: &str, hub: &Hub) -> Result<Found, ModelError> {
    if let Some(found) = here(args, name)? {
        return Ok(found);
    }
    if !hub::is_id(name) {
        return Err(missing(name));
    }
    if !hub::is_revision(revision) {
        return Err(ModelError::Revision(revision.to_owned()));
    }
    let directory = hub.get(name, revision).await?;
    Ok(of_hub(args, name, revision, directory))
}

fn of_hub(args: &ModelArgs, id: &str, revision: &str, directory: PathBuf) -> Found {
    Found {
        name: id.to_owned(),
        origin: format!("Hugging Face, revision {revision}"),
        source: Source::Directory(directory),
        args: args.clone(),
        prm: None,
    }
}

fn here(args: &ModelArgs, name: &str) -> Result<Option<Found>, ModelError> {
    let found = |own: String, origin: &str, source| Found {
        name: own,
        origin: origin.to_owned(),
        source,
        args: args.clone(),
        prm: None,
    };
    if let Some(model) = MODELS.iter().find(|model| model.name == name) {
        return Ok(Some(found(name.to_owned(), "bundled", Source::Bundled(model))));
    }
    let path = Path::new(name);
    if !path.exists() {
        return Ok(None);
    }
    let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if gguf && let (false, Some(stem)) = (path.is_dir(), path.file_stem()) {
        let own = stem.to_string_lossy().into_owned();
        let file = GgufFile::open(path);
        let file = file.map_err(|cause| ModelError::Load { model: name.to_owned(), cause })?;
        return Ok(Some(found(own, name, Source::Gguf(Arc::new(file)))));
    }
    if !path.is_dir() {
        return Err(ModelError::File(path.to_owned()));
    }
    let whole = path.canonicalize().map_err(|cause| ModelError::Read { file: path.to_owned(), cause })?;
    let own = whole.file_name().map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(Some(found(own, name, Source::Directory(path.to_owned()))))
}

fn missing(name: &str) -> ModelError {
    let near = nearest(name, MODELS.iter().map(|model| model.name));
    let hint = near.map(|near| format!("did you mean '{near}'? or ")).unwrap_or_default();
    ModelError::Missing { name: name.to_owned(), hint }
}
