//! `GET /version`.

use axum::Json;
use serde::Serialize;
use std::future::{Ready, ready};
use utoipa::ToSchema;

/// Which program answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct VersionBody {
    /// The server's version.
    #[schema(examples("0.1.0"))]
    pub version: &'static str,
    /// The commit that it was built from, where `ESPALIER_GIT` named it to the compiler.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub git: Option<&'static str>,
}

/// The server's version.
#[utoipa::path(
    get,
    path = "/version",
    tag = "operation",
    responses((status = 200, description = "The version", body = VersionBody))
)]
pub(super) fn version() -> Ready<Json<VersionBody>> {
    ready(Json(VersionBody { version: env!("CARGO_PKG_VERSION"), git: commit(option_env!("ESPALIER_GIT")) }))
}

/// A variable that is there and empty, as where an image is built without its
/// argument, names nothing.
fn commit(named: Option<&'static str>) -> Option<&'static str> {
    named.filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_is_no_commit() {
        assert_eq!([None, Some(""), Some("1f2e")].map(commit), [None, None, Some("1f2e")]);
    }
}
