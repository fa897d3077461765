//! A language model as the judge of steps.
//!
//! It is asked in its own chat format, and made to begin its verdict; the score
//! is the probability of one word against another as the next. Nothing is
//! decoded: a question is one prefill. A judge keeps no state of its own between
//! questions, but equal beginnings are found in the engine's prefix index.
//!
//! Where `after` is set, the verdicts on all steps follow each other in one
//! question, each as if those before had been good, and those on the new steps
//! are read. Else every new step is a question of its own about the solution up
//! to it; such questions are asked at once, as branches of one request, and what
//! they share is computed once.

use super::clean::Cleaner;
use super::lease::Transcript;
use super::{Aggregate, FormatError, Opening, VerifyError, against};
use crate::engine::{Branch, Handle, Open};
use crate::prompt::{Border, ChatTemplate, Message, Tokenizer, with_instruction};
use crate::token::TokenId;
use serde::Deserialize;
use std::sync::Arc;

/// How a model is asked to judge; the section `judge` of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeConfig {
    /// The user's turn: `{problem}` and `{solution}` stand for theirs.
    pub prompt: String,
    /// A system message before it; empty for none.
    #[serde(default)]
    pub system: String,
    /// How the assistant's verdict on a step begins; `{step}` is its number.
    #[serde(default)]
    pub verdict: String,
    /// The word for it.
    pub good: String,
    /// The word against it.
    pub bad: String,
    /// What stands between a good verdict and the next; empty where a question
    /// holds one verdict.
    #[serde(default)]
    pub after: String,
    /// What stands between steps.
    #[serde(default = "separator")]
    pub step_separator: String,
    /// How the scores of steps become one, where nothing else is asked for.
    pub aggregate: Aggregate,
}

fn separator() -> String {
    "\n\n".to_owned()
}

/// A judge, bound to a model's tokenizer and template.
#[derive(Debug)]
pub struct Judge {
    config: JudgeConfig,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// Closes the thoughts that the template opens.
    border: Option<Border>,
    words: [TokenId; 2],
    cleaner: Cleaner,
}

/// What a judge is asked at once.
#[derive(Debug)]
pub(super) struct Question {
    /// The whole prompt.
    pub ids: Vec<TokenId>,
    /// Where verdicts are read, ascending.
    pub positions: Vec<usize>,
}

impl Question {
    /// How much both begin with, up to the first verdict: verdicts are read at
    /// positions that a branch computes itself.
    fn shared(&self, other: &Self) -> usize {
        let most = self.positions.first().min(other.positions.first()).copied().unwrap_or(0);
        self.ids[..most].iter().zip(&other.ids).take_while(|(mine, others)| mine == others).count()
    }
}

impl Judge {
    /// Binds a judge to a model, whose answers begin behind `border`. Of a word of
    /// several tokens the first counts.
    ///
    /// # Errors
    /// When a text is empty, or the words begin with the same token.
    pub fn new(
        config: JudgeConfig,
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        border: Option<Border>,
    ) -> Result<Self, FormatError> {
        let texts = [("prompt", &config.prompt), ("step_separator", &config.step_separator)];
        if let Some((field, _)) = texts.into_iter().find(|(_, text)| text.is_empty()) {
            return Err(FormatError::Empty(field));
        }
        if !config.prompt.contains("{solution}") {
            return Err(FormatError::Missing("prompt: {solution}"));
        }
        let first =
            |field, text: &str| tokenizer.encode(text)?.first().copied().ok_or(FormatError::Empty(field));
        let words = [first("good", &config.good)?, first("bad", &config.bad)?];
        if words[0] == words[1] {
            return Err(FormatError::Same { good: config.good, bad: config.bad });
        }
        let cleaner = Cleaner::new(tokenizer.special_tokens(), None);
        Ok(Self { config, tokenizer, template, border, words, cleaner })
    }

    pub(super) fn aggregate(&self) -> Aggregate {
        self.config.aggregate
    }

    pub(super) fn separator(&self) -> &str {
        &self.config.step_separator
    }

    pub(super) fn cleaner(&self) -> &Cleaner {
        &self.cleaner
    }

    /// What is asked about the steps after the first `known`.
    pub(super) fn questions(
        &self,
        transcript: &Transcript,
        known: usize,
        context: usize,
    ) -> Result<Vec<Question>, VerifyError> {
        let steps = &transcript.steps;
        let questions: Result<Vec<Question>, VerifyError> = if self.config.after.is_empty() {
            (known..steps.len()).map(|last| self.question(transcript, last + 1, last)).collect()
        } else {
            self.question(transcript, steps.len(), known).map(|question| vec![question])
        };
        let questions = questions?;
        match questions.iter().map(|question| question.ids.len()).max() {
            Some(needed) if needed > context => Err(VerifyError::Context { needed, context }),
            _ => Ok(questions),
        }
    }

    /// The question about the first `until` steps, with verdicts from `known` on.
    fn question(&self, transcript: &Transcript, until: usize, known: usize) -> Result<Question, VerifyError> {
        let config = &self.config;
        let solution = transcript.steps[..until].join(&config.step_separator);
        // The solution last: it must not be searched for the problem's place.
        let (before, after) = config.prompt.split_once("{solution}").unwrap_or((&config.prompt, ""));
        let [before, after] = [before, after].map(|part| part.replace("{problem}", &transcript.problem));
        let mut messages = vec![Message { role: "user", content: format!("{before}{solution}{after}") }];
        if !config.system.is_empty() {
            messages = with_instruction(&messages, &config.system, self.template.takes_system());
        }
        // The verdict is asked for at once.
        let mut text = self.template.render(&messages, Some(false))?;
        if let Some(border) = &self.border {
            border.close(&mut text);
        }
        let first = if config.after.is_empty() { until - 1 } else { 0 };
        let mut ends = Vec::new();
        for step in first..until {
            if step > first {
                text.push_str(&config.good);
                text.push_str(&config.after);
            }
            text.push_str(&config.verdict.replace("{step}", &(step + 1).to_string()));
            if step >= known {
                ends.push(text.len());
            }
        }
        let (ids, last) = self.tokenizer.encode_prompt_to(&text, &ends)?;
        let positions = last.into_iter().collect::<Option<Vec<usize>>>().ok_or(VerifyError::Joined)?;
        if !positions.is_sorted_by(|a, b| a < b) {
            return Err(VerifyError::Joined);
        }
        Ok(Question { ids, positions })
    }

    /// Asks, and returns the verdicts in the order of the questions.
    pub(super) async fn score(
        &self,
        engine: &Handle,
        mut questions: Vec<Question>,
        opening: &Opening,
    ) -> Result<Vec<f64>, VerifyError> {
        let Some(last) = questions.pop() else { return Ok(Vec::new()) };
        let mut scores = Vec::new();
        // A branch keeps one token at least, so what begins otherwise is no branch.
        if questions.iter().any(|question| question.shared(&last) == 0) {
            for question in questions.drain(..) {
                scores.extend(self.verdicts(engine, Vec::new(), question, opening).await?);
            }
        }
        scores.extend(self.verdicts(engine, questions, last, opening).await?);
        Ok(scores)
    }

    /// Asks `last`, the one that reads the most of the solution, and the `others`
    /// as forks of it, each from where it parts.
    async fn verdicts(
        &self,
        engine: &Handle,
        others: Vec<Question>,
        last: Question,
        opening: &Opening,
    ) -> Result<Vec<f64>, VerifyError> {
        let shared: Vec<usize> = others.iter().map(|question| question.shared(&last)).collect();
        let trunk = shared.iter().copied().max().unwrap_or(last.ids.len());
        let longest = others.iter().map(|question| question.ids.len()).fold(last.ids.len(), usize::max);
        let (priority, salt) = (opening.priority, opening.salt.clone());
        let open = Open::new(last.ids[..trunk].into(), longest, others.len());
        let root = engine.open(Open { priority, salt, ..open }).await?;
        if !others.is_empty() {
            root.settle().await?;
        }
        let ask = |branch: &Branch, Question { ids, positions }: Question, from: usize| {
            branch.truncate(from);
            branch.append(ids[from..].to_vec());
            branch.logits(positions, self.words.to_vec())
        };
        let mut asked: Vec<_> = others
            .into_iter()
            .zip(shared)
            .map(|(question, from)| {
                let branch = root.fork(0);
                let rows = ask(&branch, question, from);
                (Some(branch), rows)
            })
            .collect();
        asked.push((None, ask(&root, last, trunk)));
        let mut scores = Vec::new();
        for (_branch, rows) in asked {
            for row in rows.await? {
                scores.push(match row.as_slice() {
                    &[good, bad] => against(good, bad)?,
                    other => return Err(VerifyError::Shape { expected: 2, found: other.len() }),
                });
            }
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests;
