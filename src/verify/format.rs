//! How one process reward model is spoken to: what its token stream looks like,
//! and which of its outputs are a step's score.
//!
//! Every format is append-only: the tokens of a solution begin with those of
//! each of its prefixes, and a step is scored at its own last token. So a step
//! costs its own tokens, and scores do not depend on what follows. That the
//! tokenizer keeps to it is checked whenever a step is encoded.
//!
//! A solution cannot forge a score: the model's special tokens and its marker
//! are cut out of a step before it is encoded, and the positions that are read
//! are known from how the steps were put together, never looked for.

use super::clean::Cleaner;
use super::config::{Kind, PrmConfig};
use super::{Aggregate, VerifyError};
use crate::prompt::{ChatTemplate, Message, PromptError, Tokenizer};
use crate::token::TokenId;
use std::sync::Arc;

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
    /// A marker that the format needs and nobody has named.
    #[error("{0} is missing: name the token")]
    Missing(&'static str),
    /// A text that is needed and empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A chat format without a template.
    #[error("its format needs a chat template, and it has none")]
    NoTemplate,
    /// A format that begins with a token that the tokenizer does not name.
    #[error("its format begins with BOS, and tokenizer_config.json names no bos_token")]
    NoBos,
    /// Two words that begin alike.
    #[error("good is {good:?} and bad is {bad:?}, which begin with the same token of its tokenizer")]
    Same {
        /// The word for a step.
        good: String,
        /// The word against it.
        bad: String,
    },
    /// The tokenizer or the template fails.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// What a format is bound to.
#[derive(Debug)]
pub struct FormatParts {
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// The text of its BOS token, if it has one.
    pub bos: Option<String>,
}

/// A format, bound to a model's tokenizer and template.
#[derive(Debug)]
pub struct Format {
    tokenizer: Arc<Tokenizer>,
    layout: Layout,
    readout: Readout,
    separator: String,
    aggregate: Aggregate,
    /// Cuts markers out of steps and problems.
    cleaner: Cleaner,
}

/// Where problem and steps go.
#[derive(Debug)]
enum Layout {
    /// The problem as the user's turn, the steps in the assistant's.
    Chat { template: ChatTemplate, system: Option<String>, after: String, tag: TokenId },
    /// A user turn for every step; the assistant approves of all before.
    Turns { template: ChatTemplate, approval: String },
    /// Plain text: what stands before the first step, before others, after each.
    Plain { first: &'static str, between: &'static str, after: String, tag: TokenId },
    /// Plain text whose lines are encoded one by one as they are, each with a last
    /// token. A blank line has that token too, and its score is no step's.
    Lines { bos: String, end: TokenId },
}

/// What a step's score is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readout {
    /// The softmax over the outputs of two ids: for and against.
    Pair([TokenId; 2]),
    /// The sigmoid of the first output.
    Single,
}

/// A token stream of the model, and what it was made of.
#[derive(Debug, Clone)]
pub(super) struct Script {
    text: String,
    turns: Vec<Message>,
    steps: usize,
    pub(super) ids: Vec<TokenId>,
}

impl Format {
    /// Binds a format to a model.
    ///
    /// # Errors
    /// When a marker is not one token, or something that the format needs is missing.
    pub fn new(config: &PrmConfig, parts: FormatParts) -> Result<Self, FormatError> {
        let FormatParts { tokenizer, template, bos } = parts;
        let kind = config.kind;
        let separator = config.step_separator.clone().unwrap_or_else(|| kind.separator().to_owned());
        if separator.is_empty() {
            return Err(FormatError::Empty("step_separator"));
        }
        let [own_tag, own_good, own_bad] = kind.markers();
        let marker = |field, given: &Option<String>, own: Option<&str>| {
            let text = given.as_deref().or(own).ok_or(FormatError::Missing(field))?;
            single(&tokenizer, field, text).map(|id| (text.to_owned(), id))
        };
        let tag = || marker("step_tag", &config.step_tag, own_tag);
        let mut banned = tokenizer.special_tokens();
        let mut word = None;
        let (readout, approval) = match kind {
            Kind::Skywork => (Readout::Single, String::new()),
            // The labels of the head: 0 is wrong and 1 is right.
            Kind::QwenPrm => (Readout::Pair([1, 0]), String::new()),
            _ => {
                let (good, good_id) = marker("good", &config.good, own_good)?;
                let (_, bad_id) = marker("bad", &config.bad, own_bad)?;
                (Readout::Pair([good_id, bad_id]), good)
            }
        };
        let template = || template.ok_or(FormatError::NoTemplate);
        let layout = match kind {
            Kind::TagLogits | Kind::QwenPrm => {
                let (text, tag) = tag()?;
                let before = if kind == Kind::TagLogits { separator.as_str() } else { "" };
                let system = config.system.clone().or_else(|| kind.system().map(str::to_owned));
                let after = format!("{before}{text}");
                banned.push(text);
                Layout::Chat { template: template()?, system, after, tag }
            }
            Kind::Rlhflow => Layout::Turns { template: template()?, approval },
            Kind::MathShepherd | Kind::MathPsa | Kind::VersaPrm => {
                let (text, tag) = tag()?;
                let [first, between, _] = kind.plain().unwrap_or_default();
                let blank = text.trim().is_empty();
                let after = if blank { text.clone() } else { format!(" {text}") };
                if blank {
                    banned.push(text);
                } else {
                    word = Some(text);
                }
                Layout::Plain { first, between, after, tag }
            }
            Kind::Skywork => {
                let end =
                    tokenizer.encode("\n")?.last().copied().ok_or(FormatError::Empty("step_separator"))?;
                Layout::Lines { bos: bos.ok_or(FormatError::NoBos)?, end }
            }
        };
        let aggregate = config.aggregate.unwrap_or(kind.aggregate());
        let cleaner = Cleaner::new(banned, word);
        Ok(Self { layout, readout, separator, aggregate, cleaner, tokenizer })
    }

    pub(super) fn aggregate(&self) -> Aggregate {
        self.aggregate
    }

    /// The text between steps.
    pub(super) fn separator(&self) -> &str {
        &self.separator
    }

    /// Whether steps are lines, of which the blank ones are read as well.
    pub(super) fn keeps_lines(&self) -> bool {
        matches!(self.layout, Layout::Lines { .. })
    }

    /// What is read at a step's last token.
    pub(super) fn readout(&self) -> Readout {
        self.readout
    }

    /// What is cut out of text.
    pub(super) fn cleaner(&self) -> &Cleaner {
        &self.cleaner
    }

    /// What comes before the first step of a solution to a problem.
    pub(super) fn begin(&self, content: String) -> Result<Script, VerifyError> {
        let mut turns = Vec::new();
        let (text, ids) = match &self.layout {
            Layout::Chat { template, system, .. } => {
                turns.extend(system.iter().map(|system| said("system", system.clone())));
                turns.push(said("user", content));
                let text = template.render(&turns, None)?;
                let ids = self.tokenizer.encode_prompt(&text)?;
                (text, ids)
            }
            // The first step stands in the problem's own turn.
            Layout::Turns { template, .. } => {
                let longer = template.render(&[said("user", format!("{content} x"))], None)?;
                turns.push(said("user", content));
                let ids = self.common(&template.render(&turns, None)?, &longer)?;
                (String::new(), ids)
            }
            Layout::Plain { first, .. } => {
                let ids = self.common(&content, &format!("{content}{first}x"))?;
                (content, ids)
            }
            Layout::Lines { bos, .. } => {
                let text = format!("{bos}{content}\n");
                let ids = self.tokenizer.encode(&text)?;
                (text, ids)
            }
        };
        Ok(Script { text, turns, steps: 0, ids })
    }

    /// The tokens with which `text` begins however it goes on, as `longer` does:
    /// those of both, but for one that may join what follows.
    fn common(&self, text: &str, longer: &str) -> Result<Vec<TokenId>, VerifyError> {
        let mut ids = self.tokenizer.encode_prompt(text)?;
        let longer = self.tokenizer.encode_prompt(longer)?;
        let common = ids.iter().zip(&longer).take_while(|(a, b)| a == b).count();
        // A branch needs a token. One that joins what follows after all is found out
        // when that is encoded.
        ids.truncate(common.saturating_sub(1).max(1).min(common));
        if ids.is_empty() {
            // An empty problem, and a tokenizer without BOS.
            return Err(VerifyError::NoProblem);
        }
        Ok(ids)
    }

    /// Puts steps at the end of a stream; returns the positions at which their scores
    /// are read, each its step's last token. The whole text is encoded once, however
    /// many steps there are.
    pub(super) fn extend(&self, script: &mut Script, steps: &[String]) -> Result<Vec<usize>, VerifyError> {
        if let Layout::Lines { end, .. } = &self.layout {
            let mut positions = Vec::with_capacity(steps.len());
            for step in steps {
                script.ids.extend(self.tokenizer.encode(step)?);
                if !step.trim().is_empty() {
                    positions.push(script.ids.len());
                }
                script.ids.push(*end);
            }
            return Ok(positions);
        }
        let mut ends = Vec::with_capacity(steps.len());
        let mut tagged = None;
        for step in steps {
            tagged = self.put(script, step)?;
            ends.push(script.text.len());
        }
        let (ids, last) = self.tokenizer.encode_prompt_to(&script.text, &ends)?;
        if !ids.starts_with(&script.ids) {
            return Err(VerifyError::Joined);
        }
        let mut positions = Vec::with_capacity(steps.len());
        let mut known = script.ids.len();
        for at in last {
            let own = |at: &usize| *at >= known && tagged.is_none_or(|tag| ids[*at] == tag);
            let at = at.filter(own).ok_or(VerifyError::Joined)?;
            positions.push(at);
            known = at + 1;
        }
        script.ids = ids;
        Ok(positions)
    }

    /// Puts a step at the end of a stream's text; returns the token that has to be its
    /// last one, where there is one.
    fn put(&self, script: &mut Script, step: &str) -> Result<Option<TokenId>, VerifyError> {
        let (before, after, tag) = match &self.layout {
            Layout::Chat { after, tag, .. } => ("", after, tag),
            Layout::Plain { first, between, after, tag } => {
                (if script.steps == 0 { *first } else { *between }, after, tag)
            }
            Layout::Turns { template, approval } => {
                match script.turns.last_mut() {
                    Some(problem) if script.steps == 0 => {
                        problem.content.push(' ');
                        problem.content.push_str(step);
                    }
                    _ => {
                        script.turns.push(said("assistant", approval.clone()));
                        script.turns.push(said("user", step.to_owned()));
                    }
                }
                script.steps += 1;
                let text = template.render(&script.turns, None)?;
                if !text.starts_with(&script.text) {
                    return Err(VerifyError::Joined);
                }
                script.text = text;
                return Ok(None);
            }
            // Lines are encoded one by one.
            Layout::Lines { .. } => return Ok(None),
        };
        script.steps += 1;
        script.text.push_str(before);
        script.text.push_str(step);
        script.text.push_str(after);
        Ok(Some(*tag))
    }
}

impl Readout {
    /// The ids whose outputs are asked for.
    pub(super) fn ids(self) -> Vec<TokenId> {
        match self {
            Self::Pair(pair) => pair.to_vec(),
            Self::Single => vec![0],
        }
    }

    /// The score that a step's outputs stand for: a probability.
    pub(super) fn score(self, outputs: &[f32]) -> Result<f64, VerifyError> {
        match (self, outputs) {
            (Self::Pair(_), &[good, bad]) => super::against(good, bad),
            (Self::Single, &[value]) => super::against(value, 0.0),
            (_, other) => Err(VerifyError::Shape { expected: self.ids().len(), found: other.len() }),
        }
    }
}

fn said(role: &'static str, content: String) -> Message {
    Message { role, content }
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
