//! What the hub or the cache refused, and what would do.

use super::{INDEX, NEEDED, SINGLE};
use crate::engine::tree::checkpoint::{ADAPTER, ADAPTER_CONFIG};
use std::path::PathBuf;

/// Why a model of the hub cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not in the cache, and the network may not be used.
    #[error(
        "'{id}' (revision {revision}) is not in the cache {} and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids a download; unset it, or give a directory",
        cache.display()
    )]
    Offline {
        /// The model.
        id: String,
        /// The revision.
        revision: String,
        /// The cache.
        cache: PathBuf,
    },
    /// 404.
    #[error(
        "{endpoint} has no model '{id}' with a revision '{revision}' (404); check --model and --revision"
    )]
    NotFound {
        /// The hub.
        endpoint: String,
        /// The model.
        id: String,
        /// The revision.
        revision: String,
    },
    /// 401 or 403.
    #[error(
        "{endpoint} refuses '{id}' ({status}): the model does not exist, or is private or gated; ask for access on its page and put a token of that account into HF_TOKEN ({token})"
    )]
    Refused {
        /// The hub.
        endpoint: String,
        /// The model.
        id: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        token: &'static str,
    },
    /// The hub cannot be reached, or broke off.
    #[error(
        "cannot download '{id}' from {endpoint}: {cause}; try again (what has arrived is kept), or give a directory"
    )]
    Network {
        /// The model.
        id: String,
        /// The hub.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// The model is in other formats.
    #[error("'{id}' holds no {missing}; served are checkpoints of {}, and {SINGLE} or {INDEX} with its shards, and adapters of {ADAPTER_CONFIG} and {ADAPTER}", NEEDED.join(", "))]
    Lacks {
        /// The model.
        id: String,
        /// What it lacks.
        missing: &'static str,
    },
    /// The repository holds more adapters than one.
    #[error("'{id}' holds several adapters ({folders}); download one and give its directory")]
    Several {
        /// The model.
        id: String,
        /// Their folders.
        folders: String,
    },
    /// The disk is full.
    #[error("no space is left for '{id}' in {}; make room, or set HF_HOME to a larger disk", cache.display())]
    Full {
        /// The model.
        id: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The cache cannot be written.
    #[error("cannot write '{id}' to the cache {}: {cause}; set HF_HOME to a directory that can be written", cache.display())]
    Cache {
        /// The model.
        id: String,
        /// The cache.
        cache: PathBuf,
        /// Why.
        cause: String,
    },
    /// Another process is downloading the same file.
    #[error("another process is downloading '{id}' into {}; wait for it and start again", cache.display())]
    Busy {
        /// The model.
        id: String,
        /// The cache.
        cache: PathBuf,
    },
    /// There is no home directory.
    #[error("there is no home directory for the model cache; set HF_HOME to a directory that can be written")]
    Homeless,
}
