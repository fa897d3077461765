//! How one process reward model is spoken to: what its token stream looks like,
//! and which logits of it are a step's score.
//!
//! Every format is append-only: the tokens of a solution begin with those of
//! each of its prefixes, and a step is scored at its own last token. So a step
//! costs its own tokens, and scores do not depend on what follows. That the
//! tokenizer keeps to it is checked whenever a step is encoded.
//!
//! A solution cannot forge a score: the model's special tokens and its marker
//! are cut out of a step before it is encoded, and the positions that are read
//! are known from how the steps were put together, never looked for.

use super::{Aggregate, VerifyError};
use crate::prompt::{ChatTemplate, Message, PromptError, Tokenizer};
use crate::token::TokenId;
use serde::Deserialize;
use std::sync::Arc;

/// `prm.json`: how a process reward model is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrmConfig {
    /// The format.
    pub kind: Kind,
    /// What follows every step, and where its score is read: one token.
    pub step_tag: String,
    /// The token that speaks for a step.
    pub good: String,
    /// The token that speaks against it.
    pub bad: String,
    /// How the scores of steps become one, where nothing else is asked for.
    pub aggregate: Aggregate,
    /// What stands between steps, and before the tag of the last one too.
    #[serde(default = "separator")]
    pub step_separator: String,
    /// What the prompt looks like, for people.
    #[serde(default)]
    pub prompt: String,
}

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The problem as one user turn; every step is followed by the separator and
    /// a tag, at which the logits of two ids are compared.
    TagLogits,
}

fn separator() -> String {
    "\n\n".to_owned()
}

/// Why a process reward model cannot be read as its format asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A marker that is not one token.
    #[error("{field} is {text:?}, which is {tokens} tokens of its tokenizer and must be one")]
    Marker {
        /// The field.
        field: &'static str,
        /// Its value.
        text: String,
        /// What it is encoded as.
        tokens: usize,
    },
    /// A text that is needed and empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A chat format without a template.
    #[error("its format needs a chat template, and it has none")]
    NoTemplate,
    /// The tokenizer or the template fails.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// A format, bound to a model's tokenizer and template.
#[derive(Debug)]
pub struct Format {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// What follows a step.
    after: String,
    separator: String,
    aggregate: Aggregate,
    /// The ids for and against a step.
    verdicts: [TokenId; 2],
    /// What is cut out of steps and problems.
    banned: Vec<String>,
}

/// A token stream of the model, and the text that it encodes.
#[derive(Debug, Clone)]
pub(super) struct Script {
    text: String,
    pub(super) ids: Vec<TokenId>,
}

impl Format {
    /// Binds a format to a model.
    ///
    /// # Errors
    /// When a marker is not one token, or there is no template.
    pub fn new(
        config: &PrmConfig,
        tokenizer: Arc<Tokenizer>,
        template: Option<ChatTemplate>,
    ) -> Result<Self, FormatError> {
        if config.step_separator.is_empty() {
            return Err(FormatError::Empty("step_separator"));
        }
        single(&tokenizer, "step_tag", &config.step_tag)?;
        let good = single(&tokenizer, "good", &config.good)?;
        let bad = single(&tokenizer, "bad", &config.bad)?;
        let mut banned = tokenizer.special_tokens();
        banned.extend([&config.step_tag, &config.good, &config.bad].into_iter().cloned());
        Ok(Self {
            template: template.ok_or(FormatError::NoTemplate)?,
            after: format!("{}{}", config.step_separator, config.step_tag),
            separator: config.step_separator.clone(),
            aggregate: config.aggregate,
            verdicts: [good, bad],
            banned,
            tokenizer,
        })
    }

    pub(super) fn aggregate(&self) -> Aggregate {
        self.aggregate
    }

    /// The text between steps.
    pub(super) fn separator(&self) -> &str {
        &self.separator
    }

    /// The ids whose logits are compared: for a step, against it.
    pub(super) fn verdicts(&self) -> [TokenId; 2] {
        self.verdicts
    }

    /// What comes before the first step. The problem is the last user turn.
    pub(super) fn begin(&self, conversation: &[Message]) -> Result<Script, VerifyError> {
        let problem = conversation.iter().rev().find(|message| message.role == "user");
        let content = self.clean(&problem.ok_or(VerifyError::NoProblem)?.content);
        let text = self.template.render(&[Message { role: "user", content }])?;
        let ids = self.tokenizer.encode_prompt(&text)?;
        Ok(Script { text, ids })
    }

    /// Puts a step at the end of a stream; its score is read at the last token.
    pub(super) fn extend(&self, script: &mut Script, step: &str) -> Result<(), VerifyError> {
        script.text.push_str(step);
        script.text.push_str(&self.after);
        let ids = self.tokenizer.encode_prompt(&script.text)?;
        if ids.len() <= script.ids.len() || !ids.starts_with(&script.ids) {
            return Err(VerifyError::Joined);
        }
        script.ids = ids;
        Ok(())
    }

    /// Without anything that the model could take for a marker. What is left
    /// may be a marker again, so this is repeated.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        while let Some(banned) = self.banned.iter().find(|banned| text.contains(banned.as_str())) {
            text = text.replace(banned.as_str(), "");
        }
        text
    }
}

/// The score of a step: the softmax over the logits of the two ids alone.
pub(super) fn verdict(good: f32, bad: f32) -> f64 {
    1.0 / (1.0 + (f64::from(bad) - f64::from(good)).exp())
}

fn single(tokenizer: &Tokenizer, field: &'static str, text: &str) -> Result<TokenId, FormatError> {
    if text.is_empty() {
        return Err(FormatError::Empty(field));
    }
    match tokenizer.encode(text)?.as_slice() {
        &[id] => Ok(id),
        ids => Err(FormatError::Marker { field, text: text.to_owned(), tokens: ids.len() }),
    }
}
