//! Requests, as the OpenAPI document describes them.

use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};

/// The body of `POST /v1/chat/completions`. `null` means omitted.
#[derive(Debug, ToSchema)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// The conversation.
    #[schema(min_items = 1)]
    pub messages: Vec<MessageRequest>,
    /// How hard to think: `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
    pub reasoning_effort: Option<String>,
    /// Mode, budget and visibility of the reasoning; our extension.
    pub reasoning: Option<ReasoningRequest>,
    /// Tokens generated for one choice over all its branches, at most.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u64>,
    /// Older name of `max_completion_tokens`, which wins over it.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// Choices to return.
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<u32>,
    /// Softmax temperature.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Nucleus mass.
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
    /// Equal seeds give equal answers.
    pub seed: Option<i64>,
    /// Up to four strings that end the answer; not returned.
    #[schema(schema_with = stop)]
    pub stop: Option<Value>,
    /// Whether to report the log-probabilities of the answer's tokens.
    pub logprobs: Option<bool>,
    /// Alternatives to report per token; needs `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u8>,
    /// Whether to answer as server-sent events.
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
    /// `auto`, `default`, `flex`, `scale`, `priority` or `fast`; accepted without effect.
    pub service_tier: Option<String>,
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

/// One message.
#[derive(Debug, ToSchema)]
pub struct MessageRequest {
    /// `developer`, `system`, `user`, `assistant`, `tool` or `function`.
    pub role: String,
    /// A string, or text parts.
    #[schema(schema_with = content)]
    pub content: Value,
    /// The participant's name; without effect.
    pub name: Option<String>,
}

/// One part of a message's content.
#[derive(Debug, ToSchema)]
pub struct ContentPart {
    /// `text`, or `refusal` in an assistant's message.
    #[schema(rename = "type")]
    pub kind: String,
    /// The text of a `text` part.
    pub text: Option<String>,
    /// The text of a `refusal` part.
    pub refusal: Option<String>,
}

/// How to think. Unknown keys are refused.
#[derive(Debug, ToSchema)]
pub struct ReasoningRequest {
    /// As `reasoning_effort`.
    pub effort: Option<String>,
    /// `standard` (by effort), `pro` (the strongest row), `direct`, `cot` or `self_consistency`.
    pub mode: Option<String>,
    /// Bounds on the whole request.
    pub budget: Option<BudgetRequest>,
    /// Branches of `self_consistency`.
    #[schema(minimum = 1, maximum = 256)]
    pub branches: Option<u32>,
    /// Keeps the reasoning out of the response; its tokens count all the same.
    pub exclude: Option<bool>,
    /// `auto`, `concise` or `detailed`; accepted without effect.
    pub summary: Option<String>,
    /// Another name of `budget.tokens`.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
}

/// Bounds on the whole request, over all choices and branches.
#[derive(Debug, ToSchema)]
pub struct BudgetRequest {
    /// Tokens generated.
    #[schema(minimum = 1)]
    pub tokens: Option<u64>,
    /// Wall-clock seconds.
    #[schema(exclusive_minimum = 0)]
    pub seconds: Option<f64>,
    /// Branches made.
    #[schema(minimum = 1)]
    pub branches: Option<u64>,
    /// Tokens of verifiers; there is none yet, so that any bound holds.
    #[schema(minimum = 0)]
    pub verifier_tokens: Option<u64>,
}

/// What a stream carries beside the answer.
#[derive(Debug, ToSchema)]
pub struct StreamOptions {
    /// A last chunk with `usage`.
    pub include_usage: Option<bool>,
    /// Accepted without effect.
    pub include_obfuscation: Option<bool>,
    /// Progress of the search for machines, as a `search` key on chunks; our extension.
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

fn content() -> Schema {
    let part = RefOr::<Schema>::Ref(Ref::from_schema_name("ContentPart"));
    let parts = ArrayBuilder::new().items(part).min_items(Some(1));
    OneOfBuilder::new().item(string()).item(parts).into()
}

fn stop() -> Schema {
    let strings = ArrayBuilder::new().items(string().min_length(Some(1)));
    let null = ObjectBuilder::new().schema_type(Type::Null);
    OneOfBuilder::new()
        .item(string().min_length(Some(1)))
        .item(strings.min_items(Some(1)).max_items(Some(4)))
        .item(null)
        .into()
}
