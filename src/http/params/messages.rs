//! `messages`: roles and contents.

use super::field::{Field, Object};
use crate::http::error::FieldError;
use crate::prompt::Message;

/// Roles of requests, and the names that templates know them by.
const ROLES: [(&str, &str); 6] = [
    ("developer", "system"),
    ("system", "system"),
    ("user", "user"),
    ("assistant", "assistant"),
    ("tool", "tool"),
    ("function", "tool"),
];

/// Types of parts that exist and that no text model can read.
const UNREADABLE: [&str; 5] = ["image_url", "input_audio", "file", "video_url", "audio_url"];

/// The conversation, at least one message.
pub(super) fn messages(body: &Object<'_>) -> Result<Vec<Message>, FieldError> {
    let items = body.required("messages")?.array(usize::MAX, "an array of objects")?;
    items.iter().map(message).collect()
}

fn message(field: &Field<'_>) -> Result<Message, FieldError> {
    let message = field.object()?;
    let name = message.required("role")?.choice(&ROLES.map(|(name, _)| name))?;
    let role = ROLES.iter().find(|(role, _)| *role == name).map_or("user", |(_, role)| role);
    if name == "assistant" {
        refuse_calls(&message)?;
    }
    // Without effect; their types hold all the same.
    for key in ["name", "tool_call_id"] {
        message.optional(key).map(|field| field.string()).transpose()?;
    }
    let content = match (message.optional("content"), name) {
        (Some(content), _) => text(&content, name == "assistant")?,
        // An assistant's refusal, sent back as it came, has no content.
        (None, "assistant") if message.optional("refusal").is_some() => {
            message.required("refusal")?.string()?.to_owned()
        }
        // The one role whose content is required and may be null.
        (None, "function") if message.map.contains_key("content") => String::new(),
        (None, _) => {
            return Err(message.required("content").err().unwrap_or_else(|| field.wrong_type("text")));
        }
    };
    Ok(Message { role, content })
}

/// Templates would drop calls, and the model would answer another conversation.
fn refuse_calls(message: &Object<'_>) -> Result<(), FieldError> {
    for key in ["tool_calls", "function_call", "audio"] {
        if let Some(calls) = message.optional(key)
            && calls.value.as_array().is_none_or(|calls| !calls.is_empty())
        {
            return Err(calls.unserved(""));
        }
    }
    Ok(())
}

/// A string, or the texts of parts. They are joined by line breaks, as vLLM and
/// llama.cpp join them.
fn text(content: &Field<'_>, assistant: bool) -> Result<String, FieldError> {
    if let Some(text) = content.value.as_str() {
        return Ok(text.to_owned());
    }
    let parts = content.array(usize::MAX, "a string or an array of objects")?;
    let texts: Result<Vec<&str>, FieldError> = parts.iter().map(|part| part_text(part, assistant)).collect();
    Ok(texts?.join("\n"))
}

fn part_text<'a>(part: &Field<'a>, assistant: bool) -> Result<&'a str, FieldError> {
    let part = part.object()?;
    let kind = part.required("type")?;
    match kind.string()? {
        "text" => part.required("text")?.string(),
        "refusal" if assistant => part.required("refusal")?.string(),
        other if UNREADABLE.contains(&other) => {
            let message = format!(
                "Unsupported value: '{}' does not support '{other}' with this model. Supported values are: 'text'.",
                kind.path
            );
            Err(kind.error("unsupported_value", message))
        }
        other if assistant => Err(kind.none_of(other, &["text", "refusal"])),
        other => Err(kind.none_of(other, &["text"])),
    }
}
