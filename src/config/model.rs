//! How a model is prompted and what its efforts mean, in three layers: general
//! settings, the model's own `espalier.toml` over them, and the server's file
//! over both, key by key. A row of the effort table that gets another mode keeps
//! of the row below what every mode has, and nothing of what the mode had.

use crate::plan::TERM_KEYS;
use crate::{plan, prompt, verify};
use serde::Deserialize;
use toml::{Table, Value};

/// What holds for every model that says nothing else.
const GENERAL: &str = include_str!("general.toml");

/// One model's settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// How it is prompted.
    pub prompt: prompt::Config,
    /// What its efforts mean.
    pub plan: plan::Config,
    /// How it is asked to judge, where it is.
    pub judge: verify::JudgeConfig,
}

/// A mistake in a model's settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    /// The key, with its sections; empty where none is to blame.
    pub path: String,
    /// What is wrong, with the key.
    pub message: String,
}

/// The general settings. A chat template that closes a `<think>` block belongs
/// to a thinking model, whose answer begins there.
#[must_use]
pub fn general(chat_template: &str) -> Table {
    let mut table: Table = toml::from_str(GENERAL).expect("the shipped settings are TOML: a test reads them");
    if chat_template.contains("</think>")
        && let Some(Value::Table(prompt)) = table.get_mut("prompt")
    {
        prompt.insert("answer_marker".to_owned(), Value::from("</think>"));
        prompt.insert("answer_marker_shown".to_owned(), Value::from(false));
        prompt.insert("thought_opening".to_owned(), Value::from("<think>"));
    }
    table
}

impl ModelConfig {
    /// Puts layers over each other, the later over the earlier, and checks the
    /// result. An empty `answer_marker` or `thought_opening` means that there is none.
    ///
    /// # Errors
    /// With the key and the reason, when one has the wrong type, is missing
    /// everywhere, or holds a value out of bounds.
    pub fn layered(layers: &[&Table]) -> Result<Self, Mistake> {
        let mut merged = Table::new();
        for layer in layers {
            overlay(&mut merged, layer);
        }
        if let Some(Value::Table(prompt)) = merged.get_mut("prompt") {
            prompt.retain(|key, value| {
                !(matches!(key, "answer_marker" | "thought_opening") && value.as_str() == Some(""))
            });
        }
        let config: Self = merged.try_into().map_err(|error: toml::de::Error| {
            // The library puts the path behind the message, on a line of its own.
            let text = error.to_string();
            let path = text.rsplit_once("in `").and_then(|(_, rest)| rest.split_once('`'));
            let message = error.message().replace('\n', ", ");
            match path {
                Some((path, _)) => Mistake { path: path.to_owned(), message: format!("{path}: {message}") },
                None => Mistake { path: String::new(), message },
            }
        })?;
        config.plan.check().map_err(|sentence| {
            let key = sentence.split([' ', ':']).next().unwrap_or_default();
            Mistake { path: format!("plan.{key}"), message: format!("plan.{sentence}") }
        })?;
        Ok(config)
    }
}

/// Puts `over` over `base`, key by key. Parameters mean something in their mode
/// alone: where a row gets another one, only what every mode has stays. Neither does
/// what a thought begins with outlive what it ends with.
pub(super) fn overlay(base: &mut Table, over: &Table) {
    if over.get("prompt").and_then(|prompt| prompt.get("answer_marker")).is_some()
        && let Some(Value::Table(prompt)) = base.get_mut("prompt")
    {
        prompt.remove("thought_opening");
    }
    for (effort, row) in rows(over) {
        let below = base.get_mut("plan").and_then(|plan| plan.get_mut("efforts")?.get_mut(effort));
        if let (Some(mode), Some(Value::Table(below))) = (row.get("mode"), below)
            && below.get("mode") != Some(mode)
        {
            below.retain(|key, _| TERM_KEYS.contains(&key));
        }
    }
    merge(base, over);
}

/// The rows of a layer's effort table.
fn rows(layer: &Table) -> impl Iterator<Item = (&str, &Value)> {
    let efforts = layer.get("plan").and_then(|plan| plan.get("efforts")?.as_table());
    efforts.into_iter().flatten().map(|(effort, row)| (effort.as_str(), row))
}

fn merge(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}
