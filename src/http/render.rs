//! Events to one JSON body, and what bodies and streams have in common.

use super::error::ApiError;
use super::openai::{
    AnswerMessage, ChatChoice, ChatCompletion, CompletionDetails, LogprobToken, Logprobs, PromptDetails,
    SearchBody, SearchReport, TopLogprob, TreeNode, UsageBody,
};
use crate::engine::Token;
use crate::prompt::Tokenizer;
use crate::search::event::{ChoiceEvent, Event, Finish, Finished};
use crate::search::run::{RunError, Running};
use crate::token::TokenId;
use std::future::Future;
use std::sync::Arc;

/// Where events come from: a run, or a script in tests.
pub(super) trait Source: Send + 'static {
    /// As [`Running::next`].
    fn next(&mut self) -> impl Future<Output = Option<Result<ChoiceEvent, RunError>>> + Send;
    /// As [`Running::cached_tokens`].
    fn cached_tokens(&self) -> u32;
}

impl Source for Running {
    fn next(&mut self) -> impl Future<Output = Option<Result<ChoiceEvent, RunError>>> + Send {
        Running::next(self)
    }

    fn cached_tokens(&self) -> u32 {
        Running::cached_tokens(self)
    }
}

/// What a response needs to know besides its events.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Names the completion.
    pub(super) id: String,
    /// Unix seconds.
    pub(super) created: u64,
    /// The model's name.
    pub(super) model: String,
    /// Spells out tokens.
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Choices.
    pub(super) n: u32,
    /// Tokens of the prompt.
    pub(super) prompt_tokens: usize,
    /// Alternatives per token, where log-probabilities were asked for.
    pub(super) logprobs: Option<u8>,
    /// Whether reasoning stays out of the response.
    pub(super) exclude: bool,
    /// Whether a stream ends with a chunk for usage.
    pub(super) include_usage: bool,
    /// Whether a stream carries progress for machines.
    pub(super) include_search: bool,
    /// Whether the report holds every branch with its text.
    pub(super) include_tree: bool,
}

impl View {
    /// The visible tokens as OpenAI shows them; `None` unless asked for.
    pub(super) fn logprobs(&self, tokens: &[Token]) -> Option<Logprobs> {
        self.logprobs.map(|top| spell_out(tokens, top, |id| self.tokenizer.token_bytes(id)))
    }

    /// The report of a choice, with its tree where that was asked for.
    pub(super) fn report(&self, index: u32, finished: &Finished) -> SearchReport {
        let report = SearchReport::new(index, &finished.report);
        SearchReport { tree: self.include_tree.then(|| TreeNode::all(&finished.tree)), ..report }
    }

    /// The tokens of all choices; the prompt counts once.
    pub(super) fn usage(&self, total: Total, cached: u32) -> UsageBody {
        let prompt = u64::try_from(self.prompt_tokens).unwrap_or(u64::MAX);
        UsageBody {
            prompt_tokens: prompt,
            completion_tokens: total.completion,
            total_tokens: prompt.saturating_add(total.completion),
            prompt_tokens_details: PromptDetails { cached_tokens: cached.into(), audio_tokens: 0 },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: total.reasoning,
                accepted_prediction_tokens: 0,
                rejected_prediction_tokens: 0,
                audio_tokens: 0,
            },
        }
    }
}

/// Tokens with at most `top` alternatives each, spelled by `bytes`.
fn spell_out(tokens: &[Token], top: u8, bytes: impl Fn(TokenId) -> Vec<u8>) -> Logprobs {
    let alternative = |&(id, logprob): &(TokenId, f32)| {
        let bytes = bytes(id);
        let token = String::from_utf8_lossy(&bytes).into_owned();
        TopLogprob { token, logprob: presentable(logprob), bytes }
    };
    let one = |token: &Token| {
        let TopLogprob { token: text, logprob, bytes } = alternative(&(token.id, token.logprob));
        let top_logprobs = token.top.iter().take(top.into()).map(alternative).collect();
        LogprobToken { token: text, logprob, bytes, top_logprobs }
    };
    Logprobs { content: tokens.iter().map(one).collect(), refusal: None }
}

/// Tokens over choices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    completion: u64,
    reasoning: u64,
}

impl Total {
    /// Tokens generated.
    pub(super) fn completion(self) -> u64 {
        self.completion
    }

    pub(super) fn add(&mut self, finished: &Finished) {
        self.completion += u64::from(finished.usage.completion_tokens);
        self.reasoning += u64::from(finished.usage.reasoning_tokens);
    }
}

/// JSON has no infinity; OpenAI's sentinel for the impossible is -9999.
fn presentable(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

pub(super) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// One choice as far as it has come.
#[derive(Debug, Default)]
struct Draft {
    thought: String,
    content: String,
    tokens: Vec<Token>,
    finished: Option<Box<Finished>>,
}

/// Waits for every choice and renders the body.
///
/// # Errors
/// When the run fails, or ends with a choice unfinished.
pub(super) async fn collect(mut source: impl Source, view: &View) -> Result<ChatCompletion, ApiError> {
    let mut drafts: Vec<Draft> = (0..view.n).map(|_| Draft::default()).collect();
    while let Some(event) = source.next().await {
        let ChoiceEvent { index, event } = event?;
        let draft = usize::try_from(index).ok().and_then(|index| drafts.get_mut(index));
        let draft = draft.ok_or_else(|| stray(index))?;
        match event {
            Event::Thought(text) => draft.thought.push_str(&text),
            Event::Content { text, tokens } => {
                draft.content.push_str(&text);
                draft.tokens.extend(tokens);
            }
            Event::Progress(_) => {}
            Event::Done(finished) => draft.finished = Some(finished),
        }
    }
    let mut total = Total::default();
    let mut choices = Vec::with_capacity(drafts.len());
    let mut reports = Vec::with_capacity(drafts.len());
    for (index, draft) in (0..view.n).zip(drafts) {
        let finished = draft.finished.as_ref().ok_or_else(unfinished)?;
        total.add(finished);
        reports.push(view.report(index, finished));
        let finish_reason = finish_reason(finished.finish);
        let logprobs = view.logprobs(&draft.tokens);
        let thought = Some(draft.thought).filter(|text| !text.is_empty() && !view.exclude);
        let message = AnswerMessage {
            role: "assistant",
            content: draft.content,
            refusal: None,
            reasoning_content: thought.clone(),
            reasoning: thought,
        };
        choices.push(ChatChoice { index, message, logprobs, finish_reason });
    }
    Ok(ChatCompletion {
        id: view.id.clone(),
        object: "chat.completion",
        created: view.created,
        model: view.model.clone(),
        choices,
        usage: view.usage(total, source.cached_tokens()),
        search: SearchBody::of(reports).ok_or_else(unfinished)?,
    })
}

pub(super) fn unfinished() -> ApiError {
    ApiError::Internal("the run ended before every choice was done".to_owned())
}

fn stray(index: u32) -> ApiError {
    ApiError::Internal(format!("the run reported choice {index}, which was not asked for"))
}

#[cfg(test)]
pub(super) mod tests;
