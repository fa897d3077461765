//! `POST /v1/chat/completions`.
//!
//! Validation, planning and admission happen before the response head, so that
//! their failures have real statuses. Nothing is detached: a client that leaves
//! drops the handler's future or the stream, and the run with it.

use super::body;
use super::error::ApiError;
use super::openai::{ChatCompletion, ChatRequest, ErrorBody};
use super::params::{self, Parsed};
use super::render::{View, collect};
use super::state::AppState;
use super::stream;
use crate::metrics::Metrics;
use crate::search::run::{Delivery, Running};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Counts a client that leaves early: when it is dropped while armed.
#[derive(Debug)]
pub(super) struct Disconnect {
    metrics: Arc<Metrics>,
    armed: bool,
}

impl Disconnect {
    pub(super) fn arm(metrics: Arc<Metrics>) -> Self {
        Self { metrics, armed: true }
    }

    /// The response is complete.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Disconnect {
    fn drop(&mut self) {
        // A panic drops the future as well; that is our fault and not the client's leaving.
        if self.armed && !std::thread::panicking() {
            self.metrics.disconnects.inc();
        }
    }
}

/// Answers a conversation.
///
/// `reasoning_effort` or `reasoning.mode` picks how: a direct answer, one chain of thought, or a search over
/// many branches within an exact budget. Unknown keys are ignored and listed in the header
/// `x-ignored-params`; fields that would change the answer and are not served are refused by name.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "chat",
    operation_id = "createChatCompletion",
    request_body = ChatRequest,
    responses(
        (status = 200, content(
            (ChatCompletion = "application/json"),
            (String = "text/event-stream")
        )),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
        (status = 504, body = ErrorBody)
    )
)]
pub(super) async fn completions(State(state): State<AppState>, request: Request) -> Response {
    let mut disconnect = Disconnect::arm(Arc::clone(&state.metrics));
    let Started { running, view, stream, ignored } = match start(&state, request).await {
        Ok(started) => started,
        Err(error) => {
            disconnect.disarm();
            return error.into_response();
        }
    };
    let mut response = if stream {
        stream::response(running, view, state.config.keep_alive, disconnect)
    } else {
        let body = collect(running, &view).await;
        disconnect.disarm();
        body.map(Json).into_response()
    };
    // The parser leaves only characters that a header may carry.
    if let Ok(value) = HeaderValue::try_from(ignored.join(", "))
        && !value.is_empty()
    {
        response.headers_mut().insert(HeaderName::from_static("x-ignored-params"), value);
    }
    response
}

/// A request under way, and how it is to be shown.
struct Started {
    running: Running,
    view: View,
    stream: bool,
    ignored: Vec<String>,
}

/// All that can be refused with a status of its own.
async fn start(state: &AppState, request: Request) -> Result<Started, ApiError> {
    let body = body::json(request, state.config.body_limit_bytes).await?;
    let parsed = params::parse(&body, &state.model.id)?;
    let Parsed { params, stream, include_usage, include_search, exclude, ignored } = parsed;
    let plan = state.planner.plan(&params, rand::random())?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let view = View {
        id: format!("chatcmpl-{:032x}", rand::random::<u128>()),
        created: since_epoch.as_secs(),
        model: state.model.id.clone(),
        tokenizer: Arc::clone(&state.tokenizer),
        n: params.n,
        prompt_tokens: plan.prompt.len(),
        logprobs: plan.logprobs,
        exclude,
        include_usage,
        include_search,
    };
    let delivery = match (stream, include_search) {
        (true, true) => Delivery::Watched,
        (true, false) => Delivery::Live,
        (false, _) => Delivery::Whole,
    };
    let running = state.runner.start(plan, delivery).await?;
    Ok(Started { running, view, stream, ignored })
}
