//! What goes wrong, and how a client hears of it.
//!
//! [`ApiError`] is a closed enum, and one exhaustive match turns it into status,
//! type, param and code, so that a new failure cannot reach a client undecided.
//! Internal causes are logged and never sent.

use super::openai::{ErrorBody, ErrorObject};
use crate::engine::EngineError;
use crate::plan::PlanError;
use crate::prompt::PromptError;
use crate::search::run::RunError;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A field of the request that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, for example `messages[2].content[0].type`.
    pub param: String,
    /// OpenAI's machine-readable code.
    pub code: &'static str,
    /// A sentence that names field, bound and value.
    pub message: String,
}

/// Everything that a request can fail with.
#[derive(Debug, Clone, PartialEq)]
pub enum ApiError {
    /// A field is missing, of the wrong type, out of bounds or not served.
    Field(FieldError),
    /// No model of that name is served.
    Model(String),
    /// The body is not a JSON object; says where it went wrong.
    Json(String),
    /// The body is not declared as JSON.
    ContentType(Option<String>),
    /// The body is longer than the server reads.
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body broke off.
    BodyRead,
    /// There is nothing at this path.
    Route {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
    },
    /// The path exists, for other methods.
    Method {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
    },
    /// The request did not arrive within the time that it may take.
    ReadTimeout {
        /// That time.
        seconds: f64,
    },
    /// Too many requests run and wait.
    Overloaded {
        /// When it is worth trying again, in seconds from now.
        retry_after: u64,
    },
    /// The deadline passed while the request waited for its turn or was read.
    Waited {
        /// The deadline.
        seconds: f64,
    },
    /// The model is not there yet.
    Loading {
        /// Bytes loaded.
        done: u64,
        /// Bytes to load; 0 while that is not known.
        total: u64,
    },
    /// The server is going down.
    Draining,
    /// The engine has had work for too long without finishing any.
    Stuck,
    /// The engine cannot take requests at the moment.
    Unavailable,
    /// A fault of ours; the cause is for the log.
    Internal(String),
    /// The request cannot be planned.
    Plan(PlanError),
    /// The request could not be run.
    Run(RunError),
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

const UNAVAILABLE: &str = "The model is currently unavailable. Please try again later.";
const DRAINING: &str = "The server is shutting down. Please try again, which reaches another one.";
const STUCK: &str = "The engine has work and has not finished a step of it for too long.";

/// A header that tells SDKs whether and when to try again.
type Hint = (HeaderName, HeaderValue);

/// Keeps SDKs from trying again.
fn never() -> Hint {
    (HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"))
}

/// An error in OpenAI's terms.
struct Parts {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    hint: Option<Hint>,
    /// What the operator learns and the client does not.
    cause: Option<String>,
}

impl Parts {
    fn refused(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let kind = "invalid_request_error";
        Self { status, kind, message: message.into(), param: None, code, hint: None, cause: None }
    }

    fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        let parts = Self::refused(StatusCode::BAD_REQUEST, Some(code), message);
        Self { param: Some(param.into()), ..parts }
    }

    fn internal(cause: impl Into<String>) -> Self {
        let message = "The server had an error while processing your request. Sorry about that!";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let parts = Self::refused(status, Some("server_error"), message);
        Self { kind: "server_error", cause: Some(cause.into()), ..parts }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let parts = Self::refused(status, Some("server_is_overloaded"), message);
        let hint = (header::RETRY_AFTER, HeaderValue::from_static("5"));
        Self { kind: "service_unavailable_error", hint: Some(hint), ..parts }
    }

    fn overloaded(retry_after: u64) -> Self {
        let message = format!(
            "Rate limit reached: this server runs and queues as many requests as it may. Please try again in \
             {retry_after} s."
        );
        let parts = Self::refused(StatusCode::TOO_MANY_REQUESTS, Some("rate_limit_exceeded"), message);
        let hint = (header::RETRY_AFTER, HeaderValue::from(retry_after));
        Self { kind: "rate_limit_error", hint: Some(hint), ..parts }
    }

    fn loading(done: u64, total: u64) -> Self {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let progress = match done.saturating_mul(100).checked_div(total) {
            Some(percent) => format!("{percent} % ({:.1} of {:.1} MiB)", mib(done), mib(total)),
            None => "its size is not known yet".to_owned(),
        };
        Self::unavailable(format!("The model is still being loaded: {progress}. Please try again later."))
    }

    fn deadline(seconds: f64) -> Self {
        let message = format!("The deadline of {seconds} s passed before there was an answer.");
        // SDKs repeat a 504 by themselves, which would spend the same budget again.
        let hint = never();
        let parts = Self::refused(StatusCode::GATEWAY_TIMEOUT, Some("deadline_exceeded"), message);
        Self { kind: "server_error", hint: Some(hint), ..parts }
    }

    fn read_timeout(seconds: f64) -> Self {
        let message = format!("Your request did not arrive within {seconds} s.");
        let parts = Self::refused(StatusCode::REQUEST_TIMEOUT, Some("request_timeout"), message);
        Self { hint: Some((header::CONNECTION, HeaderValue::from_static("close"))), ..parts }
    }

    fn context(resulted: &str, context: usize) -> Self {
        // LiteLLM recognises an overflow by these very words.
        Self::overflow(&format!(
            "This model's maximum context length is {context} tokens. However, your messages resulted in \
             {resulted}. Please reduce the length of the messages."
        ))
    }

    fn pool(needed: usize, blocks: usize) -> Self {
        Self::overflow(&format!(
            "Your messages and one answer need {needed} blocks of KV memory, but this server has {blocks}. \
             Please reduce the length of the messages or max_completion_tokens."
        ))
    }

    fn overflow(message: &str) -> Self {
        // LangChain looks for the code in the text of openai-python's exception, in which
        // newer versions of that put the message alone.
        let code = "context_length_exceeded";
        Self::invalid("messages", code, format!("{message} ({code})"))
    }
}

impl ApiError {
    /// The one place where failures get their status, type, param and code.
    fn parts(&self) -> Parts {
        match self {
            Self::Field(FieldError { param, code, message }) => Parts::invalid(param, code, message),
            Self::Model(model) => Parts::refused(
                StatusCode::NOT_FOUND,
                Some("model_not_found"),
                format!("The model `{model}` does not exist or you do not have access to it."),
            ),
            Self::Json(detail) => Parts::refused(
                StatusCode::BAD_REQUEST,
                None,
                format!("We could not parse the JSON body of your request. ({detail})"),
            ),
            Self::ContentType(found) => Parts::refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Some("unsupported_content_type"),
                format!(
                    "Unsupported content type: expected 'application/json', but got {} instead.",
                    found.as_deref().map_or_else(|| "none".to_owned(), |found| format!("'{found}'"))
                ),
            ),
            Self::TooLarge { limit } => Parts::refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                Some("request_too_large"),
                format!("The body of your request is larger than the limit of {limit} bytes."),
            ),
            Self::BodyRead => Parts::refused(
                StatusCode::BAD_REQUEST,
                None,
                "We could not read the body of your request to its end.",
            ),
            Self::Route { method, path } => {
                Parts::refused(StatusCode::NOT_FOUND, None, format!("Invalid URL ({method} {path})"))
            }
            Self::Method { method, path } => Parts::refused(
                StatusCode::METHOD_NOT_ALLOWED,
                Some("method_not_supported"),
                format!("Not allowed to {method} on {path}."),
            ),
            Self::ReadTimeout { seconds } => Parts::read_timeout(*seconds),
            Self::Overloaded { retry_after } => Parts::overloaded(*retry_after),
            Self::Waited { seconds } => Parts::deadline(*seconds),
            Self::Loading { done, total } => Parts::loading(*done, *total),
            Self::Draining => Parts::unavailable(DRAINING),
            Self::Stuck => Parts::unavailable(STUCK),
            Self::Unavailable => Parts::unavailable(UNAVAILABLE),
            Self::Internal(cause) => Parts::internal(cause),
            Self::Plan(error) => match error {
                PlanError::ContextLength { tokens, context } => {
                    Parts::context(&format!("{tokens} tokens"), *context)
                }
                PlanError::Bytes { bytes, context } => {
                    Parts::context(&format!("{bytes} bytes, which are more tokens than that"), *context)
                }
                PlanError::BudgetBelowChoices { field, value, n } => Parts::invalid(
                    *field,
                    "integer_below_min_value",
                    format!(
                        "Invalid '{field}': integer below minimum value. Expected a value >= {n}, one for each \
                         of the n = {n} choices, but got {value} instead."
                    ),
                ),
                PlanError::Parameter { parameter, mode } => Parts::invalid(
                    format!("reasoning.{parameter}"),
                    "invalid_value",
                    format!("Invalid 'reasoning.{parameter}': the mode '{mode}' has no such parameter."),
                ),
                PlanError::Pool { needed, blocks } => Parts::pool(*needed, *blocks),
                PlanError::Vocabulary { id, vocab } => Parts::invalid(
                    "logit_bias",
                    "invalid_value",
                    format!(
                        "Invalid key in 'logit_bias': {id}. Expected a token id below {vocab}, the size of the \
                         vocabulary."
                    ),
                ),
                PlanError::Prompt(PromptError::Refused(why)) => Parts::invalid(
                    "messages",
                    "invalid_value",
                    format!("Invalid 'messages': the model's chat template refuses this conversation: {why}"),
                ),
                // Their texts may quote the conversation, which no log may hold.
                PlanError::Prompt(PromptError::Tokenizer(_)) => Parts::internal("the tokenizer failed"),
                PlanError::Prompt(PromptError::Template(_)) => Parts::internal("the chat template failed"),
            },
            Self::Run(error) => match error {
                RunError::Engine(EngineError::Closed) => Parts::unavailable(UNAVAILABLE),
                RunError::Engine(EngineError::Busy { .. }) => Parts::overloaded(1),
                RunError::Shutdown => Parts::unavailable(DRAINING),
                RunError::Engine(EngineError::Context { needed, context }) => {
                    Parts::context(&format!("{needed} tokens"), *context)
                }
                RunError::Engine(EngineError::Pool { needed, blocks }) => Parts::pool(*needed, *blocks),
                // What the model cannot take it cannot take the next time either.
                RunError::Engine(EngineError::Forward(_)) => {
                    Parts { hint: Some(never()), ..Parts::internal(error.to_string()) }
                }
                RunError::Engine(EngineError::Fault | EngineError::Misuse(_)) => {
                    Parts::internal(error.to_string())
                }
                RunError::Deadline { seconds } => Parts::deadline(*seconds),
            },
        }
    }

    /// The status under which it is answered before the response head is out.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.parts().status
    }

    /// The envelope; logs the cause where there is one that clients do not see.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        self.parts().into_body()
    }
}

impl Parts {
    fn into_body(self) -> ErrorBody {
        if let Some(cause) = self.cause {
            tracing::error!(cause, "request failed");
        }
        let code = self.code.map(str::to_owned);
        let kind = self.kind.to_owned();
        ErrorBody { error: ErrorObject { message: self.message, kind, param: self.param, code } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut parts = self.parts();
        let status = parts.status;
        let hint = parts.hint.take();
        let mut response = (status, axum::Json(parts.into_body())).into_response();
        if let Some((name, value)) = hint {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests;
