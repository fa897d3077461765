//! `GET /v1/models` and `GET /v1/models/{id}`.

use super::error::ApiError;
use super::openai::{ErrorBody, Model, ModelList};
use super::state::{AppState, ModelCard};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use std::future::{Ready, ready};

/// The model under one of its names.
fn named(card: &ModelCard, id: &str) -> Model {
    Model {
        id: id.to_owned(),
        object: "model",
        created: card.created,
        owned_by: card.owned_by.clone(),
        max_model_len: card.context,
    }
}

/// Lists the served model, once under each of its names.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    operation_id = "listModels",
    responses(
        (status = 200, body = ModelList),
        (status = 503, description = "The model is loading", body = ErrorBody)
    )
)]
pub(super) fn list(State(state): State<AppState>) -> Ready<Result<Json<ModelList>, ApiError>> {
    ready(state.served().map(|served| {
        let data = served.model.names().map(|name| named(&served.model, name)).collect();
        Json(ModelList { object: "list", data })
    }))
}

/// The served model under that name. The path is a wildcard because ids may contain slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{*id}",
    tag = "models",
    operation_id = "retrieveModel",
    params(("id" = String, Path, description = "The model's name")),
    responses(
        (status = 200, body = Model),
        (status = 404, body = ErrorBody),
        (status = 503, description = "The model is loading", body = ErrorBody)
    )
)]
pub(super) fn one(
    State(state): State<AppState>,
    id: Result<Path<String>, PathRejection>,
) -> Ready<Result<Json<Model>, ApiError>> {
    // A path that is not UTF-8 names no model either.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    ready(state.served().and_then(|served| match served.model.answers_to(&id) {
        true => Ok(Json(named(&served.model, &id))),
        false => Err(ApiError::Model(id.chars().take(256).collect())),
    }))
}
