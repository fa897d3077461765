//! `POST /v1/chat/completions`.
//!
//! Validation, planning and admission happen before the response head, so that
//! their failures have real statuses. Nothing is detached: a client that leaves
//! drops the handler's future or the stream, and the run with it. A client that stays
//! and does not read holds nothing once the run is over: neither a place nor memory of
//! the engine.

use super::account::{Account, Ending};
use super::body;
use super::error::ApiError;
use super::json;
use super::openai::{ChatCompletion, ChatRequest, ErrorBody};
use super::params::{self, Parsed};
use super::render::{View, collect};
use super::state::{AppState, Served};
use super::stream;
use crate::engine::Health;
use crate::plan::{Params, Plan};
use crate::search::run::{Delivery, Running};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

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
        (status = 408, body = ErrorBody),
        (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody),
        (status = 429, body = ErrorBody),
        (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody),
        (status = 504, body = ErrorBody)
    )
)]
pub(super) async fn completions(State(state): State<AppState>, request: Request) -> Response {
    let mut account = Account::open(Arc::clone(&state.metrics));
    let Started { running, view, stream, ignored } = match start(&state, request, &mut account).await {
        Ok(started) => started,
        Err(error) => {
            state.note(&error);
            account.refuse(error.status().as_u16());
            return error.into_response();
        }
    };
    let mut response = if stream {
        stream::response(running, view, state.config.keep_alive, account)
    } else {
        let body = collect(running, &view).await;
        match &body {
            Ok(body) => account.close(Ending {
                status: 200,
                tokens: body.usage.completion_tokens,
                stop_reason: body.search.stop_reason(),
            }),
            Err(error) => account.refuse(error.status().as_u16()),
        }
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
async fn start(state: &AppState, request: Request, account: &mut Account) -> Result<Started, ApiError> {
    let served = match open(state) {
        Ok(served) => served,
        Err(refusal) => {
            body::discard(request).await;
            return Err(refusal);
        }
    };
    let patience = patience(request.headers());
    let config = &state.config;
    let body = body::read(request, config.body_limit_bytes, config.header_timeout).await?;
    // Whoever waits for a place has no body any more.
    let parsed = parsed(state, body, account.arrived()).await?;
    let Parsed { params, stream, include_usage, include_search, exclude, include_tree, ignored } = parsed;
    // A client that does not stream gives up by itself, and then all was in vain.
    let patience = patience.filter(|_| !stream).unwrap_or(config.request_timeout);
    let limit = config.request_timeout.min(patience);
    let own = params.budget.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let limit = own.map_or(limit, |own| own.min(limit));
    // What a body needs is checked before anyone waits, and nothing else is done before that.
    let place = state.gate.enter(params.priority, account.arrived() + limit, limit).await?;
    account.hold(place.clone());
    let n = params.n;
    let plan = planned(state, params, (account.arrived(), limit)).await?;
    account.planned(&plan);
    let view = View {
        id: format!("chatcmpl-{:032x}", rand::random::<u128>()),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        model: served.model.id.clone(),
        tokenizer: Arc::clone(&served.tokenizer),
        n,
        prompt_tokens: plan.prompt.len(),
        logprobs: plan.logprobs,
        exclude,
        include_usage,
        include_search,
        include_tree,
    };
    let delivery = match (stream, include_search) {
        (true, true) => Delivery::Watched,
        (true, false) => Delivery::Live,
        (false, _) => Delivery::Whole,
    };
    let running = served.runner.start_since(plan, delivery, account.arrived(), place).await?;
    account.follow(running.generated());
    Ok(Started { running, view, stream, ignored })
}

/// The model, where any request may be taken on.
fn open(state: &AppState) -> Result<&Served, ApiError> {
    state.accepting()?;
    let served = state.served()?;
    if state.health() == Some(Health::Stuck) {
        return Err(ApiError::Stuck);
    }
    Ok(served)
}

/// Bytes of a body that is read, and of a conversation that is cut into tokens, at
/// once, which takes some milliseconds.
const SHORT: usize = 32 << 10;

/// Reads a body.
async fn parsed(state: &AppState, body: Vec<u8>, arrived: Instant) -> Result<Parsed, ApiError> {
    let read = |state: &AppState, body: &[u8]| {
        let model = &state.served()?.model;
        let body = json::parse(body)?;
        let asked = body.get("model").and_then(|name| name.as_str());
        let name = asked.filter(|name| model.answers_to(name)).unwrap_or(&model.id);
        params::parse(&body, name)
    };
    if body.len() <= SHORT {
        return read(state, &body);
    }
    // What the request itself allows is not known yet.
    let limit = state.config.request_timeout;
    let (turns, state) = (Arc::clone(&state.large_bodies), state.clone());
    aside(turns, (arrived, limit), move || read(&state, &body)).await
}

/// Plans a request.
async fn planned(
    state: &AppState,
    params: Params,
    (arrived, limit): (Instant, Duration),
) -> Result<Plan, ApiError> {
    // Of 53 bits, so that the report of a drawn seed survives a client to
    // which all numbers are doubles.
    let seed = rand::random::<u64>() >> 11;
    let mut plan = if params.messages.iter().map(|message| message.content.len()).sum::<usize>() <= SHORT {
        state.served()?.planner.plan(&params, seed)?
    } else {
        let (turns, state) = (Arc::clone(&state.long_prompts), state.clone());
        aside(turns, (arrived, limit), move || Ok(state.served()?.planner.plan(&params, seed)?)).await?
    };
    plan.deadline = Some(limit);
    Ok(plan)
}

/// Does what may take seconds, for which neither other requests nor probes wait: few
/// at a time, on threads of their own.
async fn aside<T: Send + 'static>(
    turns: Arc<Semaphore>,
    (arrived, limit): (Instant, Duration),
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let late = ApiError::Waited { seconds: limit.as_secs_f64() };
    let turn = timeout_at(arrived + limit, turns.acquire_owned());
    let permit = turn.await.map_err(|_| late.clone())?.map_err(|_closed| ApiError::Draining)?;
    let working = spawn_blocking(move || {
        // Also where nobody waits for it any more.
        let _permit = permit;
        work()
    });
    match timeout_at(arrived + limit, working).await {
        Ok(Ok(done)) => done,
        // Its text may quote the conversation, which no log may hold.
        Ok(Err(_panic)) => Err(ApiError::Internal("reading a request panicked".to_owned())),
        Err(_) => Err(late),
    }
}

/// Node's own client gives up on a response of which nothing came for 300 seconds,
/// whatever OpenAI's, which runs on it, was told to wait.
const NODE: Duration = Duration::from_secs(280);

/// How long the client waits for a whole answer, as OpenAI's clients say it,
/// less a twentieth for the way back.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let seconds = ["x-stainless-read-timeout", "x-stainless-timeout"]
        .iter()
        .find_map(|name| text(name)?.parse::<f64>().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * 0.95).ok())
        .filter(|patience| !patience.is_zero());
    let node = text("user-agent").is_some_and(|agent| agent.starts_with("OpenAI/JS"));
    if node { Some(seconds.map_or(NODE, |seconds| seconds.min(NODE))) } else { seconds }
}

#[cfg(test)]
mod tests {
    use super::{Duration, HeaderMap, NODE, patience};

    #[test]
    fn a_clients_own_timeout_is_read_where_it_makes_sense() {
        let of = |name: &'static str, value: &'static str| {
            patience(&HeaderMap::from_iter([(
                name.parse().expect("a name"),
                value.parse().expect("a value"),
            )]))
        };
        assert_eq!(of("x-stainless-read-timeout", "600"), Some(Duration::from_secs(570)));
        assert_eq!(of("x-stainless-timeout", "2.0"), Some(Duration::from_millis(1_900)));
        for nonsense in ["", "None", "-1", "0", "NaN", "inf", "1e40"] {
            assert_eq!(of("x-stainless-read-timeout", nonsense), None, "{nonsense}");
        }
        assert_eq!(patience(&HeaderMap::new()), None);
        let node = |timeout: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert("user-agent", "OpenAI/JS 5.20.0".parse().expect("a value"));
            if let Some(timeout) = timeout {
                headers.insert("x-stainless-timeout", timeout.parse().expect("a value"));
            }
            patience(&headers)
        };
        assert_eq!([node(None), node(Some("600"))], [Some(NODE), Some(NODE)]);
        assert_eq!(node(Some("20")), Some(Duration::from_secs(19)));
    }
}
