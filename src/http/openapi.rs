//! The OpenAPI document, made from the handlers themselves.

use super::openai::{ContentPart, SearchReport, SearchReports};
use axum::Json;
use std::future::{Ready, ready};
use std::sync::LazyLock;
use utoipa::OpenApi;

/// What no handler says.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Espalier",
        description = "An OpenAI-compatible inference server that runs each request as a tree of branches \
                       inside an exact budget."
    ),
    tags(
        (name = "chat", description = "Answers"),
        (name = "models", description = "What is served"),
        (name = "operation", description = "For operators")
    ),
    // These are named by hand-written schemas only, which the derive does not see.
    components(schemas(ContentPart, SearchReport, SearchReports))
)]
pub(super) struct Info;

/// Made once: it never changes while the server runs.
static DOCUMENT: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(|| {
    let mut document = super::routes().into_openapi();
    // A wildcard is axum's notation, a parameter that of OpenAPI.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
});

/// The document that `GET /openapi.json` serves.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    DOCUMENT.clone()
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operation",
    responses((status = 200, description = "The OpenAPI document", content_type = "application/json"))
)]
pub(super) fn serve() -> Ready<Json<&'static utoipa::openapi::OpenApi>> {
    ready(Json(&*DOCUMENT))
}
