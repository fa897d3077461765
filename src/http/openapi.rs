//! The OpenAPI document, made from the handlers themselves.
//!
//! The derive describes shapes; [`complete`] adds what it cannot know. The text
//! is committed as `openapi/openapi.json`, and `espalier openapi` writes it.

mod complete;

use super::asset::Asset;
use super::openai::{ChatChunk, ContentPart, SearchReport, SearchReports};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::Value;
use std::future::{Ready, ready};
use std::sync::LazyLock;
use utoipa::OpenApi;

/// What no handler says.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Espalier",
        description = "An OpenAI-compatible inference server that runs each request as a tree of branches \
                       inside an exact budget. Errors have OpenAI's shape. Extensions to OpenAI's API: the \
                       request's `reasoning` object and `stream_options.include_search`; the response's \
                       `search` report, `reasoning_content` and `reasoning`; the header `x-ignored-params`. \
                       No authentication: put it behind a gateway."
    ),
    tags(
        (name = "chat", description = "Answers"),
        (name = "models", description = "What is served"),
        (name = "operation", description = "For operators")
    ),
    // These are named by hand-written schemas and texts only, which the derive does not see.
    components(schemas(ChatChunk, ContentPart, SearchReport, SearchReports))
)]
pub(super) struct Info;

/// Made once: it never changes while the server runs.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = super::routes().into_openapi();
    // A wildcard is axum's notation, a parameter that of OpenAPI.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    // Types with string keys only always become JSON.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    complete::complete(&mut document);
    document
});

static SERVED: LazyLock<Asset> = LazyLock::new(|| Asset::new("application/json", text().into_bytes()));

/// The document that `GET /openapi.json` serves.
#[must_use]
pub fn document() -> &'static Value {
    &DOCUMENT
}

/// Its text, indented, with a line break at its end.
#[must_use]
pub fn text() -> String {
    format!("{:#}\n", *DOCUMENT)
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operation",
    operation_id = "openapi",
    responses((
        status = 200,
        description = "The OpenAPI document",
        content((serde_json::Map<String, Value> = "application/json"))
    ))
)]
pub(super) fn serve(headers: HeaderMap) -> Ready<Response> {
    ready(SERVED.response(&headers))
}
