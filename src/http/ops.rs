//! What operators ask: liveness, readiness, metrics.

use super::error::ApiError;
use super::openai::ErrorBody;
use super::state::AppState;
use crate::engine::Health;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::future::{Ready, ready};

/// Whether the server should be left running: it is loading its model, or its
/// engines are alive and get on with their work, be it the last before it stops.
#[utoipa::path(
    get,
    path = "/health",
    tag = "operation",
    responses(
        (status = 200, description = "Alive"),
        (
            status = 503,
            description = "An engine has died, or has had work for too long without finishing any; the reward \
                           model's engine counts too",
            body = ErrorBody
        )
    )
)]
pub(super) fn health(State(state): State<AppState>) -> Ready<Result<StatusCode, ApiError>> {
    ready(match state.health() {
        None | Some(Health::Live | Health::Degraded) => Ok(StatusCode::OK),
        Some(Health::Stuck) => Err(ApiError::Stuck),
        Some(Health::Dead) => Err(ApiError::Unavailable),
    })
}

/// Whether requests should be sent here: the model is loaded, the engines' last
/// steps succeeded, and the server is not going down.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "operation",
    responses(
        (status = 200, description = "Ready"),
        (
            status = 503,
            description = "The model is loading, the server is stopping, an engine's last step failed, or \
                           `/health` is 503 too",
            body = ErrorBody
        )
    )
)]
pub(super) fn readiness(State(state): State<AppState>) -> Ready<Result<StatusCode, ApiError>> {
    let answer = || {
        state.accepting()?;
        state.served()?;
        match state.health() {
            Some(Health::Live) => Ok(StatusCode::OK),
            Some(Health::Stuck) => Err(ApiError::Stuck),
            None | Some(Health::Degraded | Health::Dead) => Err(ApiError::Unavailable),
        }
    };
    ready(answer())
}

/// Every series, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(super) fn metrics(State(state): State<AppState>) -> Ready<Response> {
    ready(match state.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => ApiError::Internal(error.to_string()).into_response(),
    })
}
