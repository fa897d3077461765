//! `/docs`: the OpenAPI document, rendered by Swagger UI.
//!
//! Its files are part of the executable and show this server's document alone:
//! the badge that would send the document to a validator elsewhere is off.

use super::asset::Asset;
use super::error::ApiError;
use axum::extract::Path;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::borrow::Cow;
use std::future::{Ready, ready};
use std::sync::{Arc, LazyLock};
use utoipa_swagger_ui::Config;

/// The files that the rendered page is made of, and their media types.
const FILES: [(&str, &str); 8] = [
    ("index.html", "text/html; charset=utf-8"),
    ("index.css", "text/css; charset=utf-8"),
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("swagger-ui-standalone-preset.js", "text/javascript; charset=utf-8"),
    ("swagger-initializer.js", "text/javascript; charset=utf-8"),
    ("favicon-32x32.png", "image/png"),
    ("favicon-16x16.png", "image/png"),
];

static ASSETS: LazyLock<Vec<(&str, Asset)>> = LazyLock::new(|| {
    // Relative, so that it is found behind a gateway that adds a prefix.
    let config = Config::new(["../openapi.json"])
        .validator_url("none")
        .doc_expansion("list")
        .use_base_layout()
        .deep_linking(true)
        .display_request_duration(true);
    let config = Arc::new(config);
    let load = |(name, kind)| match utoipa_swagger_ui::serve(name, Arc::clone(&config)) {
        Ok(Some(file)) => {
            let bytes: Cow<'static, [u8]> = Cow::Owned(file.bytes.into_owned());
            Some((name, Asset::new(kind, bytes).of_docs()))
        }
        Ok(None) | Err(_) => None,
    };
    FILES.into_iter().filter_map(load).collect()
});

/// `GET /docs`: its files lie beside it only below a slash.
pub(super) fn entry() -> Ready<Response> {
    ready((StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "docs/")]).into_response())
}

/// `GET /docs/`
pub(super) fn index(headers: HeaderMap) -> Ready<Response> {
    ready(serve("index.html", &Method::GET, &headers))
}

/// `GET /docs/{name}`
pub(super) fn file(Path(name): Path<String>, method: Method, headers: HeaderMap) -> Ready<Response> {
    ready(serve(&name, &method, &headers))
}

fn serve(name: &str, method: &Method, headers: &HeaderMap) -> Response {
    match ASSETS.iter().find(|(known, _)| *known == name) {
        Some((_, asset)) => asset.response(headers),
        None => ApiError::Route { method: method.to_string(), path: "/docs/...".to_owned() }.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_part_of_the_executable() {
        assert_eq!(ASSETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), FILES.map(|(name, _)| name));
    }
}
