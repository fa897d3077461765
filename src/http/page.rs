//! The page at `/`, on which a person tries the server.
//!
//! Four small files without a build step. They speak the public API only, so
//! nothing is served for the page that any other client could not ask for.

use super::asset::Asset;
use super::error::ApiError;
use axum::extract::Path;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use std::future::{Ready, ready};
use std::sync::LazyLock;

static INDEX: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("text/html; charset=utf-8", include_bytes!("page/index.html").as_slice()));

/// What the page loads, by name below `/page/`.
static FILES: LazyLock<[(&str, Asset); 3]> = LazyLock::new(|| {
    [
        ("style.css", Asset::new("text/css; charset=utf-8", include_bytes!("page/style.css").as_slice())),
        (
            "script.js",
            Asset::new("text/javascript; charset=utf-8", include_bytes!("page/script.js").as_slice()),
        ),
        ("icon.svg", Asset::new("image/svg+xml", include_bytes!("page/icon.svg").as_slice())),
    ]
});

/// `GET /`
pub(super) fn index(headers: HeaderMap) -> Ready<Response> {
    ready(INDEX.response(&headers))
}

/// `GET /page/{name}`
pub(super) fn file(Path(name): Path<String>, method: Method, headers: HeaderMap) -> Ready<Response> {
    let found = FILES.iter().find(|(known, _)| *known == name);
    ready(match found {
        Some((_, asset)) => asset.response(&headers),
        None => ApiError::Route { method: method.to_string(), path: "/page/...".to_owned() }.into_response(),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_small_and_names_nothing_outside() {
        let texts = [
            include_str!("page/index.html"),
            include_str!("page/style.css"),
            include_str!("page/script.js"),
            include_str!("page/icon.svg"),
        ];
        let size: usize = texts.iter().map(|text| text.len()).sum();
        assert!(size < 40_000, "{size} bytes");
        for text in texts {
            // A namespace is a name and no address.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for outside in
                ["http://", "https://", "\"//", " url(", "@import", "innerHTML", "insertAdjacentHTML"]
            {
                assert!(!text.contains(outside), "{outside}");
            }
        }
    }
}
