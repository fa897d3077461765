//! Fields that would change the answer if they were served: refused by name, never
//! ignored. At a value that changes nothing they are as if they were absent.

use super::field::{Field, Object};
use crate::http::error::FieldError;
use serde_json::Value;

/// Fields of vLLM's, and the value, in JSON, with which each of them changes nothing, as
/// `null` does.
pub(in crate::http) const NEUTRAL: [(&str, &str); 19] = [
    ("structured_outputs", "null"),
    ("guided_json", "null"),
    ("guided_regex", "null"),
    ("guided_choice", "null"),
    ("guided_grammar", "null"),
    ("min_tokens", "0"),
    ("ignore_eos", "false"),
    ("stop_token_ids", "[]"),
    ("bad_words", "[]"),
    ("allowed_token_ids", "[]"),
    ("chat_template", "null"),
    ("documents", "[]"),
    ("truncate_prompt_tokens", "null"),
    ("continue_final_message", "false"),
    ("add_generation_prompt", "true"),
    ("thinking_token_budget", "null"),
    ("echo", "false"),
    ("include_stop_str_in_output", "false"),
    ("use_beam_search", "false"),
];

/// Refuses them.
pub(super) fn refuse(body: &Object<'_>) -> Result<(), FieldError> {
    for key in ["tools", "functions", "audio", "web_search_options", "moderation"] {
        if let Some(field) = body.optional(key) {
            return Err(field.unserved(""));
        }
    }
    for key in ["tool_choice", "function_call"] {
        if let Some(field) = body.optional(key)
            && !matches!(field.value.as_str(), Some("none" | "auto"))
        {
            return Err(field.unserved(" but as 'none' or 'auto'"));
        }
    }
    for (key, neutral) in NEUTRAL {
        if let Some(field) = body.optional(key)
            && !is(field.value, neutral)
        {
            let why = if neutral == "null" { String::new() } else { format!(" but as {neutral}") };
            return Err(field.unserved(&why));
        }
    }
    if let Some(field) = body.optional("modalities") {
        let texts = field.array(usize::MAX, "an array of strings")?;
        let texts: Result<Vec<&str>, FieldError> = texts.iter().map(Field::string).collect();
        if texts?.iter().any(|modality| *modality != "text") {
            return Err(field.unserved(" but as ['text']"));
        }
    }
    response_format(body)
}

/// Whether a value is what that JSON says, numbers in any spelling.
fn is(value: &Value, json: &str) -> bool {
    let neutral: Value = json.parse().unwrap_or_default();
    *value == neutral || value.as_f64().is_some_and(|number| neutral.as_f64() == Some(number))
}

fn response_format(body: &Object<'_>) -> Result<(), FieldError> {
    let Some(field) = body.optional("response_format") else {
        return Ok(());
    };
    let kind = field.object()?.required("type")?;
    match kind.choice(&["text", "json_object", "json_schema"])? {
        "text" => Ok(()),
        _ => Err(field.unserved(" but as {'type': 'text'}")),
    }
}
