//! One branch inside the engine: its tokens, its KV, its text, and the job it
//! is busy with.

use super::kv::Table;
use super::prefix::NodeId;
use crate::engine::{Bell, End, EngineError, Reply, Report, RequestId, Segment, Token};
use crate::prompt::{Detokenizer, StopMatcher};
use crate::token::TokenId;
use std::ops::Range;
use std::sync::Arc;

/// The engine's side of a [`crate::engine::Branch`].
#[derive(Debug)]
pub(super) struct BranchState {
    /// The request that it belongs to.
    pub request: RequestId,
    /// Key of its random numbers.
    pub key: u64,
    /// Every token, prompt included.
    pub tokens: Vec<TokenId>,
    /// How many of them are the prompt.
    pub prompt: usize,
    /// Blocks of the positions computed so far.
    pub table: Table,
    /// The prefix up to which the table's blocks are listed in the index.
    pub node: NodeId,
    /// Blocks of the table that are listed in the index.
    pub listed: usize,
    /// Whether its KV was taken for others; it is computed again once blocks
    /// are free.
    pub parked: bool,
    /// Logits of the last position, kept by a settle so that forks share them;
    /// computed again where they were given up.
    pub logits: Option<Arc<[f32]>>,
    /// What it is doing.
    pub job: Option<Job>,
    /// Set when the branch was misused; every job on it then fails with this.
    pub fault: Option<EngineError>,
    /// Positions below this one were computed before: their recomputation is
    /// counted apart.
    pub computed_before: usize,
    text: Text,
}

/// The generated text of a branch, as it grows.
#[derive(Debug, Clone)]
struct Text {
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    text: String,
    /// Where the branch's tokens were appended and not generated: they have no
    /// part in it.
    silent: Vec<Range<usize>>,
}

impl Text {
    /// The text of a branch that has generated nothing.
    fn new(detokenizer: Detokenizer) -> Self {
        Self { detokenizer, matcher: StopMatcher::default(), text: String::new(), silent: Vec::new() }
    }

    /// The text that became complete with this token.
    fn push(&mut self, id: TokenId) -> String {
        let text = self.detokenizer.push(id);
        self.text.push_str(&text);
        text
    }
}

/// What a branch is busy with.
#[derive(Debug)]
pub(super) enum Job {
    /// A segment.
    Decode(Decode),
    /// Compute what is pending and keep the last logits.
    Settle(Reply<()>),
    /// Compute what is pending and report logits.
    Logits {
        /// Positions wanted, ascending.
        positions: Vec<usize>,
        /// Ids wanted; empty for all.
        ids: Vec<TokenId>,
        /// What was gathered so far.
        rows: Vec<Vec<f32>>,
        /// Where the rows go.
        reply: Reply<Vec<Vec<f32>>>,
    },
}

/// A running segment.
#[derive(Debug)]
pub(super) struct Decode {
    /// What was asked.
    pub segment: Segment,
    /// Tokens that may still be added.
    pub left: u32,
    /// What was looked at of the text that the segment samples.
    pub look: Look,
    /// Where it reports.
    pub report: Report,
}

impl Job {
    /// Ends the job with an error.
    pub(super) fn fail(self, error: EngineError) {
        match self {
            Job::Decode(decode) => decode.report.fail(error),
            Job::Settle(reply) => reply.send(Err(error)),
            Job::Logits { reply, .. } => reply.send(Err(error)),
        }
    }
}

impl BranchState {
    /// A root branch over a prompt.
    #[must_use]
    pub(super) fn root(
        request: RequestId,
        prompt: &[TokenId],
        detokenizer: Detokenizer,
        node: NodeId,
    ) -> Self {
        Self {
            request,
            key: 0,
            tokens: prompt.to_vec(),
            prompt: prompt.len(),
            table: Table::default(),
            node,
            listed: 0,
            parked: false,
            logits: None,
            job: None,
            fault: None,
            computed_before: 0,
            text: Text::new(detokenizer),
        }
    }

    /// A branch that goes on from this one with KV of its own.
    #[must_use]
    pub(super) fn child(&self, key: u64, table: Table) -> Self {
        Self {
            request: self.request,
            key,
            tokens: self.tokens.clone(),
            prompt: self.prompt,
            table,
            node: self.node,
            listed: self.listed,
            parked: self.parked,
            logits: self.logits.clone(),
            job: None,
            fault: None,
            computed_before: self.computed_before,
            text: self.text.clone(),
        }
    }

    /// A branch in the place of one that cannot be, whose jobs fail. It holds no
    /// block, and so no more of the index than where its request's prefixes begin:
    /// what its parent has listed may be given up before it goes.
    #[must_use]
    pub(super) fn misused_child(&self, key: u64, root: NodeId, why: &'static str) -> Self {
        Self {
            node: root,
            listed: 0,
            parked: false,
            logits: None,
            fault: Some(EngineError::Misuse(why)),
            ..self.child(key, Table::default())
        }
    }

    /// Tokens whose KV is not computed.
    #[must_use]
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.table.len()
    }

    /// Whether every position was computed, though a preemption may have taken
    /// some since, and nobody works on it.
    #[must_use]
    pub(super) fn settled(&self) -> bool {
        self.computed_before >= self.tokens.len() && self.job.is_none() && self.fault.is_none()
    }

    /// Whether its job has asked for the logits at a position and not got them.
    #[must_use]
    pub(super) fn wants_logits(&self, position: usize) -> bool {
        match &self.job {
            Some(Job::Logits { positions, rows, .. }) => {
                positions[rows.len()..].binary_search(&position).is_ok()
            }
            Some(Job::Decode(_) | Job::Settle(_)) | None => position + 1 == self.tokens.len(),
        }
    }

    /// Adds a token to the branch and to its text.
    pub(super) fn push(&mut self, id: TokenId, logprob: f32, top: Vec<(TokenId, f32)>) -> Token {
        self.tokens.push(id);
        self.logits = None;
        Token { id, logprob, top, text: self.text.push(id) }
    }

    /// Adds tokens to the branch that are no text of its own.
    pub(super) fn append(&mut self, tokens: &[TokenId]) {
        let end = self.tokens.len() + tokens.len();
        self.text.silent.push(self.tokens.len()..end);
        self.tokens.extend(tokens);
        self.logits = None;
    }

    /// Keeps the first `len` tokens, and of the text what was generated in them,
    /// which `detokenizer` reads anew: where half a character was cut off, the
    /// old one's state would be of no use, nor a stop string that was found.
    pub(super) fn truncate(&mut self, len: usize, detokenizer: Detokenizer) {
        self.tokens.truncate(len);
        self.prompt = self.prompt.min(len);
        self.logits = None;
        self.computed_before = self.computed_before.min(len);
        let silent = std::mem::take(&mut self.text.silent);
        self.text = Text::new(detokenizer);
        self.text.silent = silent.into_iter().filter(|range| range.start < len).collect();
        let mut at = self.prompt;
        for range in self.text.silent.clone().into_iter().chain(std::iter::once(len..len)) {
            for &id in self.tokens.get(at..range.start).unwrap_or_default() {
                self.text.push(id);
            }
            at = range.end;
        }
        if let Some(last) = self.text.silent.last_mut() {
            last.end = last.end.min(len);
        }
    }

    /// Where the earliest stop string begins in the branch's text, if one came.
    pub(super) fn stopped(&mut self, segment: &Segment) -> Option<usize> {
        self.text.matcher.find(&segment.stop, &self.text.text)
    }

    /// Whether the text from where `look` began holds a whole step.
    pub(super) fn step_ended(&self, look: &mut Look, separator: &str) -> bool {
        look.step_ended(&self.text.text, separator)
    }

    /// A look at what will come behind its text so far.
    pub(super) fn look(&self) -> Look {
        Look { at: self.text.text.len(), spoken: false }
    }

    /// Ends the running segment and reports it.
    pub(super) fn end(&mut self, end: End, bell: &mut Bell) {
        if let Some(Job::Decode(decode)) = self.job.take_if(|job| matches!(job, Job::Decode(_))) {
            // Only the model's own end finishes the text: after any other the
            // branch may go on, and with it a half character.
            let tail = if end == End::Eos { self.text.detokenizer.finish() } else { String::new() };
            self.text.text.push_str(&tail);
            decode.report.end(end, tail, bell);
        }
    }
}

/// How far a growing text was searched for the end of a step, so that each token
/// costs what it adds and not all that was said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// Bytes in which no separator begins.
    at: usize,
    /// Whether something else than white space stands before `at`.
    spoken: bool,
}

impl Look {
    /// Whether a text that has only grown holds a separator behind something
    /// else than white space.
    fn step_ended(&mut self, text: &str, separator: &str) -> bool {
        let Some(new) = text.get(self.at..).filter(|_| !separator.is_empty()) else { return false };
        if !self.spoken {
            // The first character that is no white space may be the beginning of a
            // separator, and a step is more than that.
            let mut begun = new.trim_start().chars();
            self.spoken = begun.next().is_some();
            self.at = text.len() - begun.as_str().len();
        }
        let ended = self.spoken && text[self.at..].contains(separator);
        if self.spoken && !ended {
            // The separator's beginning may stand at the end already.
            self.at = self.at.max(text.floor_char_boundary((text.len() + 1).saturating_sub(separator.len())));
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::Look;

    #[test]
    fn a_step_is_a_separator_behind_something_however_the_text_grows() {
        let step_ended = |text: &str, separator: &str| {
            let whole = Look::default().step_ended(text, separator);
            let mut look = Look::default();
            let mut ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
            let grown = ends.any(|end| look.step_ended(&text[..end], separator));
            assert_eq!(whole, grown, "{text:?}");
            whole
        };
        for (text, ended) in [
            ("", false),
            ("\n\n", false),
            ("\n\n \n\n", false),
            ("a\n", false),
            ("a\n\n", true),
            ("\n\na\n\nb", true),
            ("a\n\n1", true),
            ("\n\n\u{e9}\n\u{e9}", false),
            (" \u{20ac}\n \n\u{20ac}\n\n", true),
        ] {
            assert_eq!(step_ended(text, "\n\n"), ended, "{text:?}");
        }
        assert!(!step_ended("a", ""));
        // One that is no white space may stand at the beginning of a step.
        for (text, separator, ended) in [
            ("|a|", "|", true),
            (" |a", "|", false),
            ("### Step 1: ", "###", false),
            ("\n### Step 1: a\n### Step 2: ", "###", true),
        ] {
            assert_eq!(step_ended(text, separator), ended, "{text:?}");
        }
    }
}
