//! Models of the Hugging Face hub: from the cache that its own tools share, or
//! downloaded into it.
//!
//! What is in the cache is used without asking the hub, so that a restart needs
//! no network. A snapshot counts only when it is complete; a download writes its
//! `refs/<revision>` last, pins the commit it began with, and goes on where an
//! interrupted one stopped. Only the files that serving needs are fetched: those
//! of a checkpoint, or, where there is none, those of an adapter.
//! Looking for newer commits of a cached branch is deliberately absent: delete
//! the reference, or name a commit.

mod error;
mod meter;

use super::adapter;
use crate::config::Environment;
use crate::engine::tree::checkpoint::{ADAPTER, ADAPTER_CONFIG};
use hf_hub::api::tokio::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use meter::Meter;
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use error::HubError;

pub(super) use crate::engine::tree::checkpoint::{INDEX, SINGLE};

/// What serving needs besides weights.
pub(super) const NEEDED: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];

/// What it uses where it is there.
const USED: [&str; 4] = ["generation_config.json", "chat_template.jinja", "espalier.toml", "prm.json"];

/// What an adapter may bring along.
const USED_OF_ADAPTERS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "espalier.toml",
    "prm.json",
];

/// Silence of the hub after which a download is given up.
const STALL: Duration = Duration::from_secs(60);

/// Tries for each file; each goes on where the one before stopped.
const TRIES: u32 = 4;

/// The hub, as the environment describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    cache: Option<PathBuf>,
    endpoint: String,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    /// Reads the variables that Hugging Face's own tools read: `HF_HUB_CACHE`,
    /// `HF_HOME`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_OFFLINE` and `TRANSFORMERS_OFFLINE` (huggingface_hub, "Environment
    /// variables").
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        let path = |name: &str| environment.get(name).map(PathBuf::from);
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(path("HOME").or_else(|| path("USERPROFILE"))?.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| Some(home.as_ref()?.join("hub")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
        let filed = || std::fs::read_to_string(token_file?).ok();
        let token = environment.get("HF_TOKEN").map(str::to_owned).or_else(filed);
        let on = |name: &str| {
            let value = environment.get(name).unwrap_or_default().to_lowercase();
            ["1", "on", "yes", "true"].contains(&value.as_str())
        };
        Self {
            cache: cache.map(|cache| std::path::absolute(&cache).unwrap_or(cache)),
            endpoint: environment
                .get("HF_ENDPOINT")
                .unwrap_or("https://huggingface.co")
                .trim_end_matches('/')
                .to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
        }
    }

    /// The same without the network.
    #[must_use]
    pub fn offline(self) -> Self {
        Self { offline: true, ..self }
    }

    /// The directory of a model, if it is in the cache.
    pub(super) fn cached(&self, id: &str, revision: &str) -> Option<PathBuf> {
        cached(self.cache.as_deref()?, id, revision)
    }

    /// The directory of a model: its snapshot in the cache, downloaded first
    /// where it is not there.
    ///
    /// # Errors
    /// When it is not there and cannot be downloaded.
    pub async fn get(&self, id: &str, revision: &str) -> Result<PathBuf, HubError> {
        let cache = self.cache.as_deref().ok_or(HubError::Homeless)?;
        if let Some(snapshot) = cached(cache, id, revision) {
            return Ok(snapshot);
        }
        if self.offline {
            let (id, revision) = (id.to_owned(), revision.to_owned());
            return Err(HubError::Offline { id, revision, cache: cache.to_owned() });
        }
        let download = Download {
            id: id.to_owned(),
            revision: revision.to_owned(),
            cache: cache.to_owned(),
            endpoint: self.endpoint.clone(),
            token: self.token.clone(),
            moved: Arc::new(AtomicU64::new(0)),
        };
        let network =
            |cause: String| HubError::Network { id: id.to_owned(), endpoint: self.endpoint.clone(), cause };
        // The library may panic on an answer that is no hub's; as a task of its
        // own that becomes an error.
        match tokio::spawn(download.run()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(network("its answers are not those of a Hugging Face hub".to_owned())),
        }
    }
}

/// Whether a text may be a model's id: `org/name`, in the hub's alphabet.
pub(super) fn is_id(text: &str) -> bool {
    text.split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name))
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Whether a text may be a revision: one that stays inside the cache and means
/// itself in a URL.
pub(super) fn is_revision(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+@=".contains(c))
    };
    text.split('/').all(part)
}

/// A complete snapshot in the cache.
fn cached(cache: &Path, id: &str, revision: &str) -> Option<PathBuf> {
    let model = cache.join(format!("models--{}", id.replace('/', "--")));
    let commit = std::fs::read_to_string(model.join("refs").join(revision))
        .map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
    let snapshot = model.join("snapshots").join(commit);
    complete(&snapshot).then_some(snapshot)
}

/// Whether a directory holds all that serving needs of it: a checkpoint, or an
/// adapter.
fn complete(directory: &Path) -> bool {
    let has = |file: &str| directory.join(file).is_file();
    let adapter = adapter::places(directory).first().is_some_and(|place| place.join(ADAPTER).is_file());
    adapter
        || NEEDED.into_iter().all(has)
            && (has(SINGLE)
                || shards(&directory.join(INDEX)).is_some_and(|shards| shards.iter().all(|shard| has(shard))))
}

/// What to fetch of the files of a repository, weights last, so that what has
/// them has everything.
fn wanted(id: &str, there: &BTreeSet<&str>) -> Result<Vec<String>, HubError> {
    let whole = there.contains(SINGLE) || there.contains(INDEX);
    let folders = if whole { Vec::new() } else { adapters(there) };
    let (folder, needed, used, weights) = match folders.as_slice() {
        [] => ("", &NEEDED[..], &USED[..], if there.contains(SINGLE) { SINGLE } else { INDEX }),
        [folder] => (*folder, &[ADAPTER_CONFIG][..], &USED_OF_ADAPTERS[..], ADAPTER),
        several => {
            let folders: Vec<&str> = several.iter().map(|folder| folder.trim_end_matches('/')).collect();
            return Err(HubError::Several { id: id.to_owned(), folders: folders.join(", ") });
        }
    };
    let has = |file: &&&str| there.contains(format!("{folder}{file}").as_str());
    if let Some(missing) = needed.iter().chain([&weights]).find(|file| !has(file)) {
        let missing = if *missing == INDEX { "weights in safetensors" } else { missing };
        return Err(HubError::Lacks { id: id.to_owned(), missing });
    }
    let files = needed.iter().chain(used.iter().filter(has)).chain([&weights]);
    Ok(files.map(|file| format!("{folder}{file}")).collect())
}

/// Where a repository holds adapters, as [`adapter::places`] looks for them:
/// nothing, or the name of a folder with a slash.
fn adapters<'a>(there: &BTreeSet<&'a str>) -> Vec<&'a str> {
    if there.contains(ADAPTER_CONFIG) {
        return vec![""];
    }
    let folders = there.iter().filter_map(|file| file.strip_suffix(ADAPTER_CONFIG));
    folders.filter(|folder| folder.strip_suffix('/').is_some_and(is_word)).collect()
}

/// The files that an index names; `None` where it is not there or no index.
pub(super) fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    let map = index.get("weight_map")?.as_object()?;
    let files: BTreeSet<String> = map.values().filter_map(|file| file.as_str().map(str::to_owned)).collect();
    // A name with a path in it could lead out of the directory.
    files.iter().all(|file| !file.contains(['/', '\\'])).then_some(files).filter(|files| !files.is_empty())
}

/// One model on its way into the cache.
struct Download {
    id: String,
    revision: String,
    cache: PathBuf,
    endpoint: String,
    token: Option<String>,
    /// Grows with every byte.
    moved: Arc<AtomicU64>,
}

impl Download {
    async fn run(self) -> Result<PathBuf, HubError> {
        let cache = Cache::new(self.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_user_agent("espalier", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.explain(error))?;
        let named = Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone());
        let info = self.patiently(api.repo(named.clone()).info()).await?;
        if !is_revision(&info.sha) || info.sha.contains('/') {
            return Err(self.network("its answers are not those of a Hugging Face hub".to_owned()));
        }
        let there: BTreeSet<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let wanted = wanted(&self.id, &there)?;
        tracing::info!(model = self.id, revision = self.revision, commit = info.sha, "downloading");
        // One commit for all files, whatever happens to the branch meanwhile.
        let pinned = Repo::with_revision(self.id.clone(), RepoType::Model, info.sha.clone());
        for file in &wanted {
            self.file(&api, &pinned, file).await?;
        }
        let snapshot = self.cache.join(pinned.folder_name()).join("snapshots").join(&info.sha);
        if wanted.last().is_some_and(|weights| weights == INDEX) {
            let listed = shards(&snapshot.join(INDEX));
            let missing = "weights in safetensors";
            for shard in listed.ok_or_else(|| HubError::Lacks { id: self.id.clone(), missing })? {
                self.file(&api, &pinned, &shard).await?;
            }
        }
        if !complete(&snapshot) {
            return Err(self.network("the download is not complete".to_owned()));
        }
        cache.repo(named).create_ref(&info.sha).map_err(|error| self.explain(ApiError::IoError(error)))?;
        tracing::info!(model = self.id, directory = %snapshot.display(), "downloaded");
        Ok(snapshot)
    }

    /// Fetches one file, unless the pinned snapshot has it.
    async fn file(&self, api: &Api, pinned: &Repo, file: &str) -> Result<(), HubError> {
        let snapshot = self.cache.join(pinned.folder_name()).join("snapshots").join(pinned.revision());
        let mut tries = 0;
        while !snapshot.join(file).is_file() {
            let repo: ApiRepo = api.repo(pinned.clone());
            let progress = Meter::new(&self.id, Arc::clone(&self.moved));
            match self.patiently(repo.download_with_progress(file, progress)).await {
                Ok(_) => break,
                Err(error @ HubError::Network { .. }) => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(error);
                    }
                    tracing::warn!(file, tries, "the download broke off and goes on: {error}");
                    tokio::time::sleep(Duration::from_millis(250 << tries)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for the hub as long as it says anything.
    async fn patiently<T>(&self, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, HubError> {
        let mut work = std::pin::pin!(work);
        let mut before = self.moved.load(Ordering::Relaxed);
        loop {
            match tokio::time::timeout(STALL, &mut work).await {
                Ok(outcome) => return outcome.map_err(|error| self.explain(error)),
                Err(_) => {
                    let now = self.moved.load(Ordering::Relaxed);
                    if now == before {
                        return Err(self.network(format!("no answer for {} s", STALL.as_secs())));
                    }
                    before = now;
                }
            }
        }
    }

    fn network(&self, cause: String) -> HubError {
        HubError::Network { id: self.id.clone(), endpoint: self.endpoint.clone(), cause }
    }

    fn explain(&self, error: ApiError) -> HubError {
        let (id, endpoint, cache) = (self.id.clone(), self.endpoint.clone(), self.cache.clone());
        match error {
            ApiError::TooManyRetries(inner) => self.explain(*inner),
            ApiError::RequestError(error) => match error.status().map(|status| status.as_u16()) {
                Some(404) => HubError::NotFound { endpoint, id, revision: self.revision.clone() },
                Some(status @ (401 | 403)) => {
                    let token =
                        if self.token.is_some() { "the present one has no access" } else { "none was given" };
                    HubError::Refused { endpoint, id, status, token }
                }
                Some(status) => self.network(format!("it answers {status}")),
                None => self.network(innermost(&error)),
            },
            ApiError::IoError(cause) if cause.kind() == std::io::ErrorKind::StorageFull => {
                HubError::Full { id, cache }
            }
            ApiError::IoError(cause) => HubError::Cache { id, cache, cause: cause.to_string() },
            ApiError::LockAcquisition(_) => HubError::Busy { id, cache },
            ApiError::InvalidHeaderValue(_) => {
                self.network("HF_TOKEN holds characters that no token has".to_owned())
            }
            error @ (ApiError::MissingHeader(_)
            | ApiError::InvalidHeader(_)
            | ApiError::ToStr(_)
            | ApiError::ParseIntError(_)
            | ApiError::TryAcquireError(_)
            | ApiError::AcquireError(_)
            | ApiError::Join(_)) => self.network(format!("its answer is not a Hugging Face hub's ({error})")),
        }
    }
}

/// The cause behind an error's causes, which is the one that says something.
fn innermost(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
