//! What handlers share: cheap handles, cloned per request.

use crate::metrics::Metrics;
use crate::plan::Planner;
use crate::prompt::Tokenizer;
use crate::search::run::Runner;
use std::sync::Arc;
use std::time::Duration;

/// Limits of the HTTP surface. Defaults are the composition root's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The longest request body that is read, in bytes.
    pub body_limit_bytes: usize,
    /// Silence on a stream after which a comment keeps proxies from closing it.
    pub keep_alive: Duration,
}

/// The served model, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// The name in requests.
    pub id: String,
    /// Other names that requests may give it.
    pub aliases: Vec<String>,
    /// When it was made, in Unix seconds.
    pub created: u64,
    /// Who made it.
    pub owned_by: String,
    /// The longest sequence, prompt included, in tokens.
    pub context: usize,
}

impl ModelCard {
    /// Whether a request that names `name` means this model.
    #[must_use]
    pub fn answers_to(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// Everything that a handler needs.
#[derive(Debug, Clone)]
pub struct AppState {
    /// Turns parameters into plans.
    pub planner: Arc<Planner>,
    /// Starts plans.
    pub runner: Runner,
    /// Spells out the tokens of log-probabilities.
    pub tokenizer: Arc<Tokenizer>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The served model.
    pub model: Arc<ModelCard>,
    /// Limits.
    pub config: Arc<Config>,
}
