//! Bytes that never change while the server runs: pages, scripts, documents.
//!
//! Each has a validator and must be revalidated: a browser asks again, and gets
//! the bytes again only from a server that has others. Nothing is compressed.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What the pages may load: their own server's files, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same for Swagger UI, which styles its elements one by one and draws with
/// images in its style sheet.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

/// Bytes with their headers.
#[derive(Debug)]
pub(super) struct Asset {
    kind: HeaderValue,
    validator: HeaderValue,
    policy: &'static str,
    bytes: Cow<'static, [u8]>,
}

impl Asset {
    /// Bytes of that media type.
    pub(super) fn new(kind: &'static str, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        let bytes = bytes.into();
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        // Hexadecimal digits between quotes are always a valid header.
        let validator = HeaderValue::try_from(format!("\"{:016x}\"", hasher.finish()));
        Self {
            kind: HeaderValue::from_static(kind),
            validator: validator.unwrap_or(HeaderValue::from_static("\"0\"")),
            policy: POLICY,
            bytes,
        }
    }

    /// The same under the policy that Swagger UI needs.
    pub(super) fn of_docs(self) -> Self {
        Self { policy: DOCS_POLICY, ..self }
    }

    /// The bytes, or that the client has them already.
    pub(super) fn response(&'static self, request: &HeaderMap) -> Response {
        let known = request.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
        let own = self.validator.to_str().unwrap_or_default();
        let same = |known: &str| known == "*" || known.strip_prefix("W/").unwrap_or(known) == own;
        let headers = [
            (header::ETAG, self.validator.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(self.policy)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ];
        if known.is_some_and(|known| known.split(',').map(str::trim).any(same)) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, [(header::CONTENT_TYPE, self.kind.clone())], &*self.bytes).into_response()
    }
}
