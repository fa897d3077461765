//! Text to tokens and back: chat templates, the tokenizer, incremental
//! detokenisation, stop strings and the answer marker. No I/O.

mod detokenize;
#[cfg(test)]
pub(crate) mod fixtures;
mod stop;
mod template;
mod tokenizer;
mod vocabulary;

use serde::Deserialize;

pub use detokenize::Detokenizer;
pub use stop::{Border, Part, Splitter, StopMatcher, StopRule};
pub use template::{ChatTemplate, TemplateTokens};
pub use tokenizer::Tokenizer;
pub use vocabulary::Vocabulary;

/// How one model is prompted and how its answers are recognised; a section of
/// the model's configuration file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Instruction that makes the model think step by step; added to the system
    /// message in every mode but `direct`.
    pub chain_of_thought: String,
    /// Text with which the final answer begins, if the model has one.
    #[serde(default)]
    pub answer_marker: Option<String>,
    /// Whether the marker itself belongs to the answer that the client sees.
    #[serde(default = "shown")]
    pub answer_marker_shown: bool,
    /// Text with which a thought begins, in the prompt or in what the model writes: what
    /// begins otherwise is all answer. `None` where a thought needs no beginning.
    #[serde(default)]
    pub thought_opening: Option<String>,
    /// Text between steps.
    #[serde(default = "separator")]
    pub step_separator: String,
}

impl Config {
    /// Where the answer begins in a text of the model's, if that is known.
    #[must_use]
    pub fn border(&self) -> Option<Border> {
        Some(Border {
            marker: self.answer_marker.clone()?,
            shown: self.answer_marker_shown,
            opening: self.thought_opening.clone(),
        })
    }
}

fn shown() -> bool {
    true
}

fn separator() -> String {
    "\n\n".to_owned()
}

/// One message of a conversation, as templates see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    /// Its text.
    pub content: String,
}

/// Why a prompt could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// `tokenizer.json` is unusable, or refused a text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template is unusable.
    #[error("chat template: {0}")]
    Template(String),
    /// The chat template refused the conversation (`raise_exception`).
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
}

/// Adds an instruction of ours to a conversation: a leading system message keeps
/// its text and gets the instruction after a blank line; otherwise the instruction
/// becomes the system message or, where the model's template takes none, begins the
/// first message of the user.
#[must_use]
pub fn with_instruction(messages: &[Message], instruction: &str, takes_system: bool) -> Vec<Message> {
    let mut messages = messages.to_vec();
    let user = messages.iter_mut().find(|message| message.role == "user");
    match user.filter(|_| !takes_system) {
        Some(user) => user.content = format!("{instruction}\n\n{}", user.content),
        None => match messages.first_mut() {
            Some(first) if first.role == "system" => {
                first.content = format!("{}\n\n{instruction}", first.content);
            }
            Some(_) | None => {
                messages.insert(0, Message { role: "system", content: instruction.to_owned() });
            }
        },
    }
    messages
}
