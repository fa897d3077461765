//! JSON to [`Params`]: every client error about a field originates here.
//!
//! Three kinds of fields: those that are served, those that would change the
//! answer and are not served yet (refused, never ignored), and those that are
//! accepted because they change nothing. Keys that nobody knows are ignored and
//! listed, so that a client can learn of its typing error.

mod field;
mod messages;
mod reasoning;
mod sampling;
mod unserved;

use super::error::{ApiError, FieldError};
use crate::engine::Priority;
use crate::plan::Params;
use field::{Field, Object, kind, quoted};
pub(super) use reasoning::{CONTEXTS, SUMMARIES, THINKING};
use serde_json::Value;
use std::num::NonZeroU32;
use std::sync::Arc;
pub(super) use unserved::NEUTRAL;

/// A request, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What is asked of the planner.
    pub params: Params,
    /// Whether to answer as server-sent events.
    pub stream: bool,
    /// Whether the stream ends with a chunk for usage.
    pub include_usage: bool,
    /// Whether the stream carries progress for machines.
    pub include_search: bool,
    /// Whether the report holds every branch with its text.
    pub include_tree: bool,
    /// Whether reasoning stays out of the response.
    pub exclude: bool,
    /// Keys that were ignored, fit for a header.
    pub ignored: Vec<String>,
}

/// Top-level keys that mean something here, in the order of the contract, beside
/// those of [`NEUTRAL`].
const KNOWN: [&str; 46] = [
    "model",
    "messages",
    "reasoning_effort",
    "reasoning",
    "max_completion_tokens",
    "max_tokens",
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "response_format",
    "modalities",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "audio",
    "web_search_options",
    "moderation",
    "prediction",
    "metadata",
    "store",
    "parallel_tool_calls",
    "user",
    "safety_identifier",
    "service_tier",
    "cache_salt",
    "chat_template_kwargs",
    "enable_thinking",
    "thinking",
    "include_reasoning",
    "verbosity",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
];

/// OpenAI's tiers. `flex` may wait for others, `priority` and `fast` go first.
const SERVICE_TIERS: [&str; 6] = ["auto", "default", "flex", "scale", "priority", "fast"];

/// Ignored keys that are listed, and the longest of them: a header has limits.
pub(super) const IGNORED: usize = 32;
const IGNORED_LENGTH: usize = 64;

/// Reads a chat request for the model of that name.
///
/// # Errors
/// When a field is missing, malformed, out of bounds, contradictory or not
/// served, or the model is another one.
pub fn parse(body: &Value, model: &str) -> Result<Parsed, ApiError> {
    let Value::Object(map) = body else {
        return Err(ApiError::Json(format!("expected an object, but got {}", kind(body))));
    };
    let body = Object { path: String::new(), map };
    let asked = body.required("model")?.string()?;
    if asked != model {
        return Err(ApiError::Model(quoted(asked)));
    }
    unserved::refuse(&body)?;
    check_accepted(&body)?;
    let mut ignored: Vec<String> = unknown(&body, is_known);
    let messages = messages::messages(&body)?;
    let reasoning = reasoning::reasoning(&body)?;
    let stream = body.flag("stream")?.unwrap_or(false);
    let options = stream_options(&body, stream, &mut ignored)?;
    if let Some(field) = body.optional("chat_template_kwargs") {
        ignored.extend(unknown(&field.object()?, |key| reasoning::SWITCHES.contains(&key)));
    }
    if let Some(field) = body.optional("thinking") {
        ignored.extend(unknown(&field.object()?, |key| key == "type"));
    }
    ignored.truncate(IGNORED);
    // Both bounds are read, so that a wrong one is refused though the other wins.
    let newer = body.count("max_completion_tokens", 1)?;
    let older = body.count("max_tokens", 1)?;
    let params = Params {
        messages,
        effort: reasoning.effort,
        mode: reasoning.mode,
        max_completion_tokens: newer.or(older).and_then(NonZeroU32::new),
        budget: reasoning.budget,
        settings: reasoning.settings,
        n: body.integer("n", 1, 128)?.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        temperature: body.decimal("temperature", 0.0, 2.0)?.map(single),
        // No mass at all leaves the likeliest token, which the smallest mass leaves as well.
        top_p: body.decimal("top_p", 0.0, 1.0)?.map(|mass| single(mass).max(f32::MIN_POSITIVE)),
        sampling: sampling::sampling(&body)?,
        // vLLM's and its clients' way to say that there is none.
        seed: body.integer("seed", i64::MIN, i64::MAX)?.filter(|seed| *seed != -1),
        stop: stop(&body)?,
        priority: match body.choice("service_tier", &SERVICE_TIERS)? {
            Some("flex") => Priority::Low,
            Some("priority" | "fast") => Priority::High,
            _ => Priority::Normal,
        },
        cache_salt: body.optional("cache_salt").map(|salt| cache_salt(&salt)).transpose()?,
        logprobs: logprobs(&body)?,
    };
    reasoning::check_reserve(&body, &params)?;
    let [include_usage, include_search] = options;
    let (exclude, include_tree) = (reasoning.exclude, reasoning.include_tree);
    Ok(Parsed { params, stream, include_usage, include_search, exclude, include_tree, ignored })
}

/// Whether anybody reads a top-level key.
pub(super) fn is_known(key: &str) -> bool {
    known().any(|known| known == key)
}

/// Every top-level key that is not ignored.
fn known() -> impl Iterator<Item = &'static str> {
    KNOWN.into_iter().chain(NEUTRAL.map(|(key, _)| key))
}

#[expect(clippy::cast_possible_truncation, reason = "sampling is in single precision")]
fn single(value: f64) -> f32 {
    value as f32
}

/// `cache_salt`: text of one to 256 characters.
fn cache_salt(field: &Field<'_>) -> Result<Arc<str>, FieldError> {
    field.nonempty()?;
    field.short_string(256).map(Arc::from)
}

/// `stop`: a string or up to four, none of them empty. A list of none is vLLM's
/// default, which its clients send.
fn stop(body: &Object<'_>) -> Result<Vec<String>, FieldError> {
    let Some(stop) = body.optional("stop") else {
        return Ok(Vec::new());
    };
    if stop.value.is_string() {
        return Ok(vec![stop.nonempty()?.to_owned()]);
    }
    if stop.value.as_array().is_some_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let items = stop.array(4, "a string or an array of strings")?;
    items.iter().map(|item| item.nonempty().map(str::to_owned)).collect()
}

/// `logprobs` and `top_logprobs`, which needs it, but for 0: vLLM's default, which
/// its clients send.
fn logprobs(body: &Object<'_>) -> Result<Option<u8>, FieldError> {
    let wanted = body.flag("logprobs")?.unwrap_or(false);
    let top = body.integer("top_logprobs", 0, 20)?.and_then(|top| u8::try_from(top).ok());
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(top)) => {
            let why = format!("{top} needs 'logprobs' to be true.");
            Err(body.required("top_logprobs")?.invalid(&why))
        }
    }
}

/// `stream_options`: whether usage and whether progress are wanted.
fn stream_options(
    body: &Object<'_>,
    stream: bool,
    ignored: &mut Vec<String>,
) -> Result<[bool; 2], FieldError> {
    let Some(field) = body.optional("stream_options") else {
        return Ok([false, false]);
    };
    if !stream {
        return Err(field.invalid("it is only allowed when 'stream' is true."));
    }
    let options = field.object()?;
    options.flag("include_obfuscation")?;
    let known = ["include_usage", "include_obfuscation", "include_search"];
    ignored.extend(unknown(&options, |key| known.contains(&key)));
    let wanted = |key| Ok(options.flag(key)?.unwrap_or(false));
    Ok([wanted("include_usage")?, wanted("include_search")?])
}

/// Fields without effect: their types and bounds hold all the same.
fn check_accepted(body: &Object<'_>) -> Result<(), FieldError> {
    for key in ["user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"] {
        body.optional(key).map(|field| field.string()).transpose()?;
    }
    for key in ["store", "parallel_tool_calls"] {
        body.flag(key)?;
    }
    for key in ["prediction", "prompt_cache_options"] {
        body.optional(key).map(|field| field.object()).transpose()?;
    }
    body.choice("verbosity", &["low", "medium", "high"])?;
    body.optional("metadata").map_or(Ok(()), |field| metadata(&field))
}

fn metadata(field: &Field<'_>) -> Result<(), FieldError> {
    let object = field.object()?;
    let pairs = object.map.len();
    if pairs > 16 {
        let message = format!(
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an \
             object with {pairs} properties instead."
        );
        return Err(field.error("object_above_max_properties", message));
    }
    for (key, value) in object.map {
        let path = object.path_of(&quoted(key));
        let length = key.chars().count();
        if length > 64 {
            let message = format!(
                "Invalid key in 'metadata': string too long. Expected a string with maximum length 64, but got a \
                 string with length {length} instead."
            );
            return Err(FieldError { param: path, code: "string_above_max_length", message });
        }
        Field { path, value }.short_string(512)?;
    }
    Ok(())
}

/// Keys that are not known, in a form that a header can carry.
fn unknown(object: &Object<'_>, is_known: impl Fn(&str) -> bool) -> Vec<String> {
    let unknown = object.map.keys().filter(|key| !is_known(key));
    let safe = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
    let name = |key: &String| object.path_of(key).chars().take(IGNORED_LENGTH).map(safe).collect();
    unknown.take(IGNORED).map(name).collect()
}

#[cfg(test)]
mod tests;
