//! Responses: bodies, chunks, models and the error envelope.

use super::search::{ChunkSearch, SearchBody, body_schema};
use serde::Serialize;
use utoipa::ToSchema;

/// A chat completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// Names the completion.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// Tokens, over all choices.
    pub usage: UsageBody,
    /// What was done to get the answers; our extension.
    #[schema(schema_with = body_schema)]
    pub search: SearchBody,
}

/// One answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its number.
    pub index: u32,
    /// Its text.
    pub message: AnswerMessage,
    /// Log-probabilities of the visible tokens, where asked for; else null.
    #[schema(required)]
    pub logprobs: Option<Logprobs>,
    /// `stop`: the answer is complete, whatever stopped the search. `length`: a bound on tokens, a
    /// deadline or a shutdown cut it.
    pub finish_reason: &'static str,
}

/// The text of an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AnswerMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The answer.
    pub content: String,
    /// Always null.
    #[schema(required)]
    pub refusal: Option<String>,
    /// The selected trajectory's thought: its text before the model's answer marker. Absent where there is
    /// none, and with `reasoning.exclude`. Our extension, as vLLM and DeepSeek name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reasoning_content: Option<String>,
    /// The same: clients read one name or the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reasoning: Option<String>,
}

/// Log-probabilities of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Logprobs {
    /// One per token.
    pub content: Vec<LogprobToken>,
    /// Always null.
    #[schema(required)]
    pub refusal: Option<Vec<LogprobToken>>,
}

/// One token with its log-probability. A token that the server puts in by itself (the answer marker, where a
/// text ran out of tokens without it) was not drawn: its log-probability is 0.0, and it has no alternatives.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LogprobToken {
    /// Its text; incomplete characters are replaced.
    pub token: String,
    /// Natural logarithm; -9999.0 for the impossible.
    pub logprob: f32,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at its place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// An alternative.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopLogprob {
    /// Its text; incomplete characters are replaced.
    pub token: String,
    /// Natural logarithm; -9999.0 for the impossible.
    pub logprob: f32,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct UsageBody {
    /// Tokens of the prompt, counted once.
    pub prompt_tokens: u64,
    /// Every token generated, on any branch of any choice.
    pub completion_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// Of the prompt.
    pub prompt_tokens_details: PromptDetails,
    /// Of the completion.
    pub completion_tokens_details: CompletionDetails,
}

/// Parts of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Taken from another request's cache.
    pub cached_tokens: u64,
    /// Always 0.
    pub audio_tokens: u64,
}

/// Parts of the completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct CompletionDetails {
    /// All but the tokens of the visible answers.
    pub reasoning_tokens: u64,
    /// Always 0.
    pub accepted_prediction_tokens: u64,
    /// Always 0; pruned branches are no predicted outputs.
    pub rejected_prediction_tokens: u64,
    /// Always 0.
    pub audio_tokens: u64,
}

/// One chunk of a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatChunk {
    /// Names the completion; the same on every chunk.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Unix seconds; the same on every chunk.
    pub created: u64,
    /// The model's name; the same on every chunk.
    pub model: String,
    /// One choice, or none on the chunk with `usage`.
    pub choices: Vec<ChunkChoice>,
    /// Absent unless asked for; then null on all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UsageBody>)]
    pub usage: Option<Option<UsageBody>>,
    /// The report, on the chunk with `finish_reason`, or progress where asked for; our extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub search: Option<ChunkSearch>,
}

/// More of one choice.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// Its number.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Log-probabilities of the new tokens, where asked for; else null.
    #[schema(required)]
    pub logprobs: Option<Logprobs>,
    /// As on a whole answer, on the choice's last chunk; else null.
    #[schema(required)]
    pub finish_reason: Option<&'static str>,
}

/// New text of one choice. Keys without text are left out: a null beside a
/// text makes some clients lose the text.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Delta {
    /// `assistant`, on the choice's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub role: Option<&'static str>,
    /// More of the answer; never retracted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub content: Option<String>,
    /// More of the thought; before it, in a search, short lines of progress: at the first outcome of a branch,
    /// where the leading answer changes, and else once a second at most. With `include_search` there is one for
    /// every outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reasoning_content: Option<String>,
    /// The same: clients read one name or the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reasoning: Option<String>,
}

/// A served model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Model {
    /// The name in requests.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// Who made it.
    pub owned_by: String,
    /// The longest sequence, in tokens; our extension, named as vLLM names it.
    pub max_model_len: usize,
}

/// The served model, under each of its names.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// One per name; responses report the first.
    pub data: Vec<Model>,
}

/// The envelope of every error. All four keys are always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// An error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorObject {
    /// For people: names the field, the bound and the value.
    pub message: String,
    /// Its class: `invalid_request_error` where the request has to change, else whose fault it is.
    #[schema(examples("invalid_request_error"))]
    #[serde(rename = "type")]
    pub kind: String,
    /// Path of the offending field, for example `messages[2].content`; null where no single field is.
    #[schema(required, examples("temperature"))]
    pub param: Option<String>,
    /// For programs: the reason, for example `missing_required_parameter`.
    #[schema(required, examples("decimal_above_max_value"))]
    pub code: Option<String>,
}
