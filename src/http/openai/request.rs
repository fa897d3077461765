//! Requests, as the OpenAPI document describes them.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};

/// The body of `POST /v1/chat/completions`. `null` means omitted.
#[derive(Debug, ToSchema)]
pub struct ChatRequest {
    /// The model's name, as `GET /v1/models` lists it.
    #[schema(examples("seedling"))]
    pub model: String,
    /// The conversation, oldest message first. A system message is kept; in every mode but `direct` the
    /// model's chain-of-thought instruction is added to it.
    #[schema(min_items = 1)]
    pub messages: Vec<MessageRequest>,
    /// How hard to think. Each value selects a row of the model's effort table: a mode, its size, a
    /// temperature and a budget. Absent means the table's default, which is shipped as `low`.
    #[schema(examples("medium"))]
    pub reasoning_effort: Option<String>,
    /// Mode, budget and visibility of the reasoning; our extension, which takes the keys of OpenAI's Responses
    /// API and of other servers as well.
    pub reasoning: Option<ReasoningRequest>,
    /// Tokens generated for one choice over all its branches, discarded ones included; never exceeded by one.
    /// A bound past the context is clamped. Absent means the effort's budget.
    #[schema(minimum = 1, examples(600))]
    pub max_completion_tokens: Option<u64>,
    /// Older name of `max_completion_tokens`, which wins over it.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// Choices to return, each a run of its own with a seed derived from the request's.
    #[schema(minimum = 1, maximum = 128, default = 1)]
    pub n: Option<u32>,
    /// Softmax temperature. Absent means the effort's, else the model's own. At 0 branches would be equal, so
    /// one is run.
    #[schema(minimum = 0, maximum = 2, examples(0.8))]
    pub temperature: Option<f64>,
    /// Nucleus mass: sampling is among the likeliest tokens that together have it. Absent means the model's own.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Only tokens as likely as the k-th are drawn; 0 and -1 keep all. The model's own default, if
    /// absent; our extension, as in vLLM.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Only tokens this many times as likely as the likeliest are drawn. The model's own default,
    /// if absent; our extension, as in vLLM.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// Equal requests with equal seeds give equal answers, unless a clock, a shutdown or a fault ended the
    /// search. Absent, or -1 as in vLLM, means that one is drawn, and reported as `search.seed`.
    #[schema(examples(1))]
    pub seed: Option<i64>,
    /// A string, or up to four, any of which ends the answer; an empty list means none.
    #[schema(schema_with = stop)]
    pub stop: Option<Value>,
    /// Whether to report the log-probabilities of the answer's tokens.
    #[schema(default = false)]
    pub logprobs: Option<bool>,
    /// Alternatives to report per token; more than 0 need `logprobs`.
    #[schema(minimum = 0, maximum = 20, default = 0)]
    pub top_logprobs: Option<u8>,
    /// Whether to answer as server-sent events. `direct` and `cot` stream as they are decoded; a search
    /// streams its progress, and its answer once it is selected.
    #[schema(default = false)]
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Taken from a token's logit for each time that it was generated.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Taken from a token's logit if it was generated.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// Logits of tokens of the prompt or the generated text are divided by this where they are
    /// positive and multiplied where not; 1 changes nothing. The model's own default, if absent;
    /// our extension, as in vLLM.
    #[schema(exclusive_minimum = 0, maximum = 10)]
    pub repetition_penalty: Option<f64>,
    /// Added to the logits of these token ids, -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Only `{"type": "text"}` is served.
    pub response_format: Option<ResponseFormat>,
    /// Only `["text"]` is served.
    pub modalities: Option<Vec<String>>,
    /// Not served.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Value>,
    /// Only `none` and `auto` are served.
    #[schema(value_type = Option<String>)]
    pub tool_choice: Option<Value>,
    /// Not served.
    #[schema(value_type = Option<Vec<Object>>)]
    pub functions: Option<Value>,
    /// Only `none` and `auto` are served.
    #[schema(value_type = Option<String>)]
    pub function_call: Option<Value>,
    /// Not served.
    #[schema(value_type = Option<Object>)]
    pub audio: Option<Value>,
    /// Not served.
    #[schema(value_type = Option<Object>)]
    pub web_search_options: Option<Value>,
    /// Not served.
    #[schema(value_type = Option<Object>)]
    pub moderation: Option<Value>,
    /// Accepted; no predicted tokens are used.
    #[schema(value_type = Option<Object>)]
    pub prediction: Option<Value>,
    /// Up to 16 pairs; accepted without effect.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Accepted without effect.
    pub store: Option<bool>,
    /// Accepted without effect.
    pub parallel_tool_calls: Option<bool>,
    /// Accepted without effect.
    pub user: Option<String>,
    /// Accepted without effect.
    pub safety_identifier: Option<String>,
    /// The request's share where requests compete: `flex` has half of it and waits for the others, `priority` and
    /// `fast` have twice and go first, in the queue for a place as well.
    pub service_tier: Option<String>,
    /// Keeps the request's prefixes in the KV cache apart from those of requests with another salt, or none, so
    /// that nobody learns from timing what others have asked; our extension, as in vLLM.
    #[schema(min_length = 1, max_length = 256)]
    pub cache_salt: Option<String>,
    /// `enable_thinking` or `thinking`: as `reasoning.enabled`, for clients of vLLM and SGLang. Other keys are
    /// ignored and listed.
    pub chat_template_kwargs: Option<ChatTemplateKwargs>,
    /// As `reasoning.enabled`, for clients of Qwen's API.
    pub enable_thinking: Option<bool>,
    /// For clients of DeepSeek's and Anthropic's APIs. Keys beside `type` are ignored and listed.
    pub thinking: Option<ThinkingRequest>,
    /// `false`: as `reasoning.exclude`, for clients of vLLM and OpenRouter, and an `exclude` of `false` beside it
    /// is refused; `true` changes nothing.
    pub include_reasoning: Option<bool>,
    /// `low`, `medium` or `high`; accepted without effect.
    pub verbosity: Option<String>,
    /// Accepted without effect.
    pub prompt_cache_key: Option<String>,
    /// Accepted without effect.
    #[schema(value_type = Option<Object>)]
    pub prompt_cache_options: Option<Value>,
    /// Accepted without effect.
    pub prompt_cache_retention: Option<String>,
}

/// One message, by its role.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessageRequest {
    /// Of all roles but these two.
    Text(TextMessage),
    /// The model's own.
    Assistant(AssistantMessage),
    /// Older form of `tool`.
    Function(FunctionMessage),
}

/// What somebody else than the model said.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextMessage {
    /// Who speaks. `developer` is another name of `system`.
    pub role: String,
    /// A string, or parts of text.
    #[schema(schema_with = content)]
    pub content: Value,
    /// The participant's name; without effect.
    pub name: Option<String>,
    /// The call that a `tool` message answers; without effect.
    pub tool_call_id: Option<String>,
}

/// What the model said before. It needs a content or a refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssistantMessage {
    /// Who speaks.
    pub role: String,
    /// A string, or parts.
    #[schema(required = false, schema_with = content_or_null)]
    pub content: Value,
    /// Stands in for an absent content.
    pub refusal: Option<String>,
    /// The participant's name; without effect.
    pub name: Option<String>,
    /// Only an empty list is served.
    #[schema(value_type = Option<Vec<Object>>, max_items = 0)]
    pub tool_calls: Option<Value>,
}

/// What a function returned.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionMessage {
    /// Who speaks.
    pub role: String,
    /// A string, parts of text, or null.
    #[schema(schema_with = content_or_null)]
    pub content: Value,
    /// The function's name; without effect.
    pub name: Option<String>,
}

/// One part of a message's content.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ContentPart {
    /// A text.
    Text(TextPart),
    /// A refusal, in an assistant's message only.
    Refusal(RefusalPart),
}

/// A text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextPart {
    /// What it is.
    #[schema(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: String,
}

/// A refusal, in an assistant's message only.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefusalPart {
    /// What it is.
    #[schema(rename = "type")]
    pub kind: String,
    /// The text.
    pub refusal: String,
}

/// What a thinking model's template is told.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatTemplateKwargs {
    /// `false` means the effort `none`, and another effort beside it is refused; `true` changes nothing.
    pub enable_thinking: Option<bool>,
    /// As `enable_thinking`.
    pub thinking: Option<bool>,
}

/// Whether to think.
#[derive(Debug, Serialize, ToSchema)]
pub struct ThinkingRequest {
    /// `disabled` means the effort `none`, and another effort beside it is refused; the others change nothing.
    #[schema(rename = "type")]
    pub kind: Option<String>,
}

/// How to think. Unknown keys are refused: beside our own, `enabled` (OpenRouter, SGLang) and those of OpenAI's
/// Responses API are known.
#[derive(Debug, ToSchema)]
pub struct ReasoningRequest {
    /// As `reasoning_effort`; a different one beside it is refused.
    pub effort: Option<String>,
    /// `false` means the effort `none`, and another effort beside it is refused, as is a mode other than
    /// `standard` and `direct`; `true` changes nothing.
    pub enabled: Option<bool>,
    /// `standard`: by effort. `pro`: the strongest row of the effort table. `direct`: the model's own answer.
    /// `cot`: one chain of thought. `self_consistency`: a vote over many, fixed or adaptive. `best_of_n`: the
    /// best of many. `beam`: beam search over steps. `lookahead`: the same with values from rollouts. `mcts`:
    /// Monte-Carlo tree search over steps. `auto`: a probe, and a search where it is not enough.
    pub mode: Option<String>,
    /// Bounds on the whole request.
    pub budget: Option<BudgetRequest>,
    /// Adds `tree` to the report: every branch with its text and scores.
    #[schema(default = false)]
    pub include_tree: Option<bool>,
    /// Keeps the reasoning out of the response; its tokens count all the same.
    #[schema(default = false)]
    pub exclude: Option<bool>,
    /// `auto`, `concise` or `detailed`; accepted without effect.
    pub summary: Option<String>,
    /// Older name of `summary`; accepted without effect.
    pub generate_summary: Option<String>,
    /// `auto`, `current_turn` or `all_turns`; accepted without effect.
    pub context: Option<String>,
    /// Another name of `budget.tokens`; a different one beside it is refused.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
}

/// Bounds on the whole request, over all choices and branches; `answer_reserve` is of each choice.
#[derive(Debug, ToSchema)]
pub struct BudgetRequest {
    /// Tokens generated, discarded ones included; never exceeded by one.
    #[schema(minimum = 1, examples(900))]
    pub tokens: Option<u64>,
    /// Wall-clock seconds. When they have passed, the best answer so far is given, and a 504 where there is
    /// none. Searches that a clock ends are not reproducible.
    #[schema(exclusive_minimum = 0, examples(2.5))]
    pub seconds: Option<f64>,
    /// Branches made.
    #[schema(minimum = 1)]
    pub branches: Option<u64>,
    /// Tokens put through the verifier, its own prompt included; never exceeded by one for a reward model of
    /// this server. Those of another server are estimated by bytes before it is asked, and are what it counts
    /// (`usage.prompt_tokens`) once it has answered, so that the last answer of each choice may exceed them.
    /// When they are spent, the search ends with the best that it has.
    #[schema(minimum = 0)]
    pub verifier_tokens: Option<u64>,
    /// Part of each choice's tokens that is kept for completing its answer when the rest is spent: less than
    /// the choice may spend by this request's bounds. The effort's budget and the context lower a larger one.
    /// Absent means a quarter of what the choice may spend, but no more than `answer_reserve` of the model's
    /// settings, 512 as shipped. Nothing is kept in `direct` and for models without an answer marker.
    #[schema(minimum = 0, examples(200))]
    pub answer_reserve: Option<u64>,
}

/// What a stream carries beside the answer.
#[derive(Debug, ToSchema)]
pub struct StreamOptions {
    /// A last chunk with `usage`.
    #[schema(default = false)]
    pub include_usage: Option<bool>,
    /// Accepted without effect.
    #[schema(default = false)]
    pub include_obfuscation: Option<bool>,
    /// Progress of the search for machines, branch by branch, as a `search` key on chunks whose delta is
    /// empty (`ProgressReport`); our extension.
    #[schema(default = false)]
    pub include_search: Option<bool>,
}

/// The form of the answer.
#[derive(Debug, ToSchema)]
pub struct ResponseFormat {
    /// `text`.
    #[schema(rename = "type")]
    pub kind: String,
}

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn contents() -> OneOfBuilder {
    let part = RefOr::<Schema>::Ref(Ref::from_schema_name("ContentPart"));
    let parts = ArrayBuilder::new().items(part).min_items(Some(1));
    OneOfBuilder::new()
        .description(Some("A string, or parts, which are joined by line breaks."))
        .item(string())
        .item(parts)
}

fn content() -> Schema {
    contents().into()
}

fn content_or_null() -> Schema {
    contents().item(ObjectBuilder::new().schema_type(Type::Null)).into()
}

fn stop() -> Schema {
    let strings = ArrayBuilder::new().items(string().min_length(Some(1)));
    let null = ObjectBuilder::new().schema_type(Type::Null);
    OneOfBuilder::new()
        .description(Some(
            "A string, or up to four, any of which ends the answer; not returned. They apply to the answer and \
             not to the thought before it. An empty list means none.",
        ))
        .item(string().min_length(Some(1)))
        .item(strings.max_items(Some(4)))
        .item(null)
        .into()
}
