//! The OpenAI-compatible surface: JSON in, JSON or server-sent events out.
//!
//! [`mod@serve`] holds the connections. A request is taken in within limits ([`body`]),
//! read ([`json`]), turned into parameters by [`params`], let in by [`admission`], planned
//! and started by [`chat`], and its events are rendered by [`render`] or [`stream`];
//! [`account`] says what became of it. Failures meet in [`error`]. No type of this module
//! is known below it, and nothing of search or engine is decided here.

mod account;
mod admission;
mod asset;
mod body;
mod chat;
mod docs;
pub mod error;
mod json;
mod layers;
mod models;
pub mod openai;
pub mod openapi;
mod ops;
mod page;
pub mod params;
mod render;
mod serve;
mod state;
mod stream;
mod version;
mod wire;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use openapi::document;
pub use serve::{Ended, serve, serve_until};
pub use state::{AppState, Config, ModelCard, Progress, Served};

/// Every handler, named once: the router and the OpenAPI document are made of
/// the same list.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::Info::openapi())
        .routes(routes!(chat::completions))
        .routes(routes!(models::list))
        .routes(routes!(models::one))
        .routes(routes!(ops::health))
        .routes(routes!(ops::readiness))
        .routes(routes!(ops::metrics))
        .routes(routes!(version::version))
        .routes(routes!(openapi::serve))
}

/// The whole surface over `state`.
pub fn router(state: AppState) -> Router {
    let (router, _document) = routes().split_for_parts();
    wrap(router.merge(pages()), state)
}

/// What people look at; no client is to rely on it, so it is not in the document.
fn pages() -> Router<AppState> {
    Router::new()
        .route("/", get(page::index))
        .route("/page/{name}", get(page::file))
        .route("/docs", get(docs::entry))
        .route("/docs/", get(docs::index))
        .route("/docs/{name}", get(docs::file))
}

/// Fallbacks and layers around routes. The body's limit is no layer: its answer
/// must be the envelope, so [`body`] enforces it where it reads.
fn wrap(router: Router<AppState>, state: AppState) -> Router {
    let router = router
        .fallback(layers::no_route)
        .method_not_allowed_fallback(layers::no_method)
        // Innermost, so that a panic's answer is counted, logged and named like any other.
        .layer(CatchPanicLayer::custom(layers::panicked));
    // Outside of all that answers, so that a page may read refusals as well; what it
    // answers itself is counted. Without origins there is none of it.
    let router = match layers::cors(&state.config.allow_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        // Inside the span, and outside of all that decides the status.
        .layer(from_fn_with_state(state.clone(), layers::count))
        // Every line that is logged for a request carries its id. The lines are
        // ours: this layer's own are of no use to operators.
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(layers::span)
                .on_request(())
                .on_response(())
                .on_body_chunk(())
                .on_eos(())
                .on_failure(()),
        )
        // Outermost: the span needs the id, and every response carries it.
        .layer(from_fn_with_state(state.clone(), layers::identify))
        .with_state(state)
}

#[cfg(test)]
mod tests;
