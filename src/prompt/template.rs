//! Chat templates, as Hugging Face's `apply_chat_template` runs them.
//!
//! The dialect is Jinja with `trim_blocks`, `lstrip_blocks`, loop controls,
//! `raise_exception`, `strftime_now`, Python's string, list and dict methods and
//! a `tojson` that writes what Python's `json.dumps` writes (transformers,
//! `utils/chat_template_utils.py`). Tools and documents are deliberately absent:
//! templates see them as `none`. The one thing a template can read from outside
//! is the date.

mod json;

use super::{Message, PromptError};
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, State, context};
use std::fmt;

/// The name under which the one template is kept; without an extension, so that
/// nothing is escaped as HTML.
const NAME: &str = "chat";

/// Special tokens that templates refer to by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    /// `bos_token`.
    pub bos: Option<String>,
    /// `eos_token`.
    pub eos: Option<String>,
}

impl TemplateTokens {
    /// Reads them from a parsed `tokenizer_config.json`, in which a token is a
    /// string or an object with `content`.
    #[must_use]
    pub fn from_config(tokenizer_config: &serde_json::Value) -> Self {
        let token = |name: &str| {
            let value = tokenizer_config.get(name)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        };
        Self { bos: token("bos_token"), eos: token("eos_token") }
    }
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: TemplateTokens,
    takes_system: bool,
}

impl ChatTemplate {
    /// Compiles a template's source.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn new(source: &str, tokens: TemplateTokens) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        let mut syntax = environment.syntax().to_builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|e| unusable(&e))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", json::tojson);
        environment.add_template_owned(NAME, without_generation_blocks(source)).map_err(|e| unusable(&e))?;
        let mut template = Self { environment, tokens, takes_system: true };
        let said = |role| Message { role, content: "x".to_owned() };
        // What refuses a user alone as well says nothing of system messages.
        template.takes_system = template.render(&[said("system"), said("user")], None).is_ok()
            || template.render(&[said("user")], None).is_err();
        Ok(template)
    }

    /// Whether a conversation may begin with a system message.
    #[must_use]
    pub fn takes_system(&self) -> bool {
        self.takes_system
    }

    /// The source of a model's template: the text of `chat_template.jinja`
    /// where there is one, else `chat_template` of `tokenizer_config.json`, as a
    /// string or as the one called `default` in a list of named ones.
    ///
    /// # Errors
    /// When there is none.
    pub fn source(tokenizer_config: &serde_json::Value, file: Option<&str>) -> Result<String, PromptError> {
        if let Some(source) = file {
            return Ok(source.to_owned());
        }
        let entry = tokenizer_config.get("chat_template");
        let named_default = |list: &Vec<serde_json::Value>| {
            let default = list.iter().find(|t| t.get("name").and_then(|n| n.as_str()) == Some("default"))?;
            default.get("template")?.as_str().map(str::to_owned)
        };
        let source = entry.and_then(|t| match t {
            serde_json::Value::String(source) => Some(source.clone()),
            serde_json::Value::Array(list) => named_default(list),
            _ => None,
        });
        source.ok_or_else(|| {
            let why =
                "there is no chat_template.jinja, and tokenizer_config.json has no default chat_template";
            PromptError::Template(why.to_owned())
        })
    }

    /// Renders a conversation with the generation prompt at its end. `thinking` is
    /// what templates read as `enable_thinking`; `None` leaves it to them.
    ///
    /// # Errors
    /// When the template refuses it.
    pub fn render(&self, messages: &[Message], thinking: Option<bool>) -> Result<String, PromptError> {
        let template = self.environment.get_template(NAME).map_err(|e| unusable(&e))?;
        // A token that the model lacks is undefined to its template, not none.
        let token = |token: &Option<String>| token.as_deref().map_or(Value::UNDEFINED, Value::from);
        let context = context! {
            messages => messages.iter().map(seen).collect::<Vec<Value>>(),
            add_generation_prompt => true,
            bos_token => token(&self.tokens.bos),
            eos_token => token(&self.tokens.eos),
            enable_thinking => thinking.map_or(Value::UNDEFINED, Value::from),
            tools => (),
            documents => (),
        };
        template.render(context).map_err(|e| failed(&e))
    }
}

/// A message as templates see it.
fn seen(message: &Message) -> Value {
    context! { role => message.role, content => message.content.as_str() }
}

/// What `raise_exception` was given, carried through the template engine as the
/// source of its error.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Refusal(message)))
}

fn strftime_now(state: &State<'_, '_>, format: String) -> Result<String, minijinja::Error> {
    let format = Kwargs::from_iter([("format", Value::from(format))]);
    minijinja_contrib::filters::datetimeformat(state, minijinja_contrib::globals::now(), format)
}

fn unusable(error: &minijinja::Error) -> PromptError {
    PromptError::Template(error.to_string())
}

fn failed(error: &minijinja::Error) -> PromptError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Refusal(message)) = cause.downcast_ref() {
            return PromptError::Refused(message.clone());
        }
        source = cause.source();
    }
    unusable(error)
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which mark a
/// template's assistant text for training masks, by a condition that always
/// holds: their white-space control then works as everywhere.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open + 2);
        out.push_str(before);
        rest = tag;
        let inner = tag.find("%}").map_or("", |close| &tag[..close]);
        let word = inner.trim_matches(['-', '+']).trim();
        if let Some(replacement) = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        } {
            out.push_str(&inner.replacen(word, replacement, 1));
            rest = &tag[inner.len()..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
