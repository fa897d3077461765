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

/// A header that tells SDKs whether and when to try again.
type Hint = (HeaderName, HeaderValue);

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

    fn unavailable() -> Self {
        let message = "The model is currently unavailable. Please try again later.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let parts = Self::refused(status, Some("server_is_overloaded"), message);
        let hint = (header::RETRY_AFTER, HeaderValue::from_static("5"));
        Self { kind: "service_unavailable_error", hint: Some(hint), ..parts }
    }

    fn context(tokens: usize, context: usize) -> Self {
        // LiteLLM and LangChain recognise an overflow by these very words.
        let message = format!(
            "This model's maximum context length is {context} tokens. However, your messages resulted in \
             {tokens} tokens. Please reduce the length of the messages."
        );
        Self::invalid("messages", "context_length_exceeded", message)
    }

    fn pool(needed: usize, blocks: usize) -> Self {
        let message = format!(
            "Your messages and one answer need {needed} blocks of KV memory, but this server has {blocks}. \
             Please reduce the length of the messages or max_completion_tokens."
        );
        Self::invalid("messages", "context_length_exceeded", message)
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
            Self::Unavailable => Parts::unavailable(),
            Self::Internal(cause) => Parts::internal(cause),
            Self::Plan(error) => match error {
                PlanError::ContextLength { tokens, context } => Parts::context(*tokens, *context),
                PlanError::BudgetBelowChoices { field, value, n } => Parts::invalid(
                    *field,
                    "integer_below_min_value",
                    format!(
                        "Invalid '{field}': integer below minimum value. Expected a value >= {n}, one for each \
                         of the n = {n} choices, but got {value} instead."
                    ),
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
                PlanError::Prompt(PromptError::Tokenizer(_) | PromptError::Template(_)) => {
                    Parts::internal(error.to_string())
                }
            },
            Self::Run(error) => match error {
                RunError::Engine(EngineError::Closed | EngineError::Busy { .. }) => Parts::unavailable(),
                RunError::Engine(EngineError::Context { needed, context }) => {
                    Parts::context(*needed, *context)
                }
                RunError::Engine(EngineError::Pool { needed, blocks }) => Parts::pool(*needed, *blocks),
                RunError::Engine(EngineError::Forward(_) | EngineError::Misuse(_)) => {
                    Parts::internal(error.to_string())
                }
                RunError::Deadline { seconds } => {
                    let message = format!("The deadline of {seconds} s passed before there was an answer.");
                    let status = StatusCode::GATEWAY_TIMEOUT;
                    // SDKs repeat a 504 by themselves, which would spend the same budget again.
                    let hint = (HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
                    let parts = Parts::refused(status, Some("deadline_exceeded"), message);
                    Parts { kind: "server_error", hint: Some(hint), ..parts }
                }
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
