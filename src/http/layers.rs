//! What happens to every request, whatever its handler.

use super::body;
use super::error::ApiError;
use super::state::AppState;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::time::{Duration, Instant};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::Span;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROCESSING: HeaderName = HeaderName::from_static("openai-processing-ms");

/// The longest id that a client may choose, in bytes.
const LONGEST_ID: usize = 128;

/// What a page may read of a response, beside the few headers that browsers show it
/// anyway: all of ours that say something to a client.
const EXPOSED: [HeaderName; 5] = [
    REQUEST_ID,
    PROCESSING,
    RETRY_AFTER,
    HeaderName::from_static("x-ignored-params"),
    HeaderName::from_static("x-should-retry"),
];

/// How long a browser may remember that a page may call; it would otherwise ask
/// before nearly every request.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Lets pages of these origins call from a browser; `None` where there are none.
///
/// Whatever headers a page wants to send are allowed: the official SDKs send a dozen,
/// and none of them gives a page more than the call itself does. Credentials are not
/// allowed, as there is nothing that a browser could know of by itself; an
/// `authorization` header that the page sets is a header like any other.
pub(super) fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        // What fits into no header is no browser's origin either.
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]);
    Some(layer.allow_headers(AllowHeaders::mirror_request()).expose_headers(EXPOSED).max_age(REMEMBERED))
}

/// Gives the request an id and the response the same id and its duration. A
/// server that is going down keeps no connection.
pub(super) async fn identify(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let arrival = Instant::now();
    // HTTP/2 has no such header; its connections are told by a frame.
    let closable = request.version() < Version::HTTP_2;
    let id = request_id(request.headers());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response.headers_mut().insert(PROCESSING, HeaderValue::from(millis(arrival)));
    if closable && state.accepting().is_err() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The client's id where it is short and plain enough for logs; else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    let given = headers.get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        !bytes.is_empty() && bytes.len() <= LONGEST_ID && bytes.iter().all(plain)
    });
    match given {
        Some(id) => id.clone(),
        // Hexadecimal digits are always a valid header.
        None => HeaderValue::try_from(format!("req_{:032x}", rand::random::<u128>()))
            .unwrap_or(HeaderValue::from_static("req_0")),
    }
}

/// Counts responses. Paths of clients are no labels, they are without end.
pub(super) async fn count(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let arrival = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    state.metrics.http_responses.with_label_values(&[route, response.status().as_str()]).inc();
    state.metrics.http_seconds.with_label_values(&[route]).observe(arrival.elapsed().as_secs_f64());
    tracing::debug!(status = response.status().as_u16(), duration_ms = millis(arrival), "response head");
    response
}

/// What logs say about a request: never its prompt, its query or its keys.
pub(super) fn span<B>(request: &axum::http::Request<B>) -> Span {
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str);
    let request_id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    // At the highest level, so that no filter takes the id off the lines that it lets through.
    tracing::error_span!("request", method = %request.method(), route, request_id)
}

/// A handler that panics answers like one that fails. The panic hook has
/// already logged the message.
pub(super) fn panicked(_panic: Box<dyn Any + Send>) -> Response {
    ApiError::Internal("a handler panicked".to_owned()).into_response()
}

/// Nothing is at this path.
pub(super) async fn no_route(request: Request) -> ApiError {
    let (method, path) = target(&request);
    body::discard(request).await;
    ApiError::Route { method, path }
}

/// The path is there, for other methods, which axum lists in `Allow`.
pub(super) async fn no_method(request: Request) -> ApiError {
    let (method, path) = target(&request);
    body::discard(request).await;
    ApiError::Method { method, path }
}

/// What was asked for, as far as a message repeats it.
fn target(request: &Request) -> (String, String) {
    let short = |text: &str| text.chars().take(256).collect::<String>();
    (short(request.method().as_str()), short(request.uri().path()))
}

#[cfg(test)]
mod tests {
    use super::request_id;
    use axum::http::{HeaderMap, HeaderValue};

    fn with(id: &[u8]) -> HeaderMap {
        let value = HeaderValue::from_bytes(id).expect("a header value");
        HeaderMap::from_iter([(super::REQUEST_ID, value)])
    }

    #[test]
    fn plain_ids_are_kept_and_others_replaced() {
        assert_eq!(request_id(&with(b"job-7_a.b:c")), "job-7_a.b:c");
        let long = "a".repeat(128);
        assert_eq!(request_id(&with(long.as_bytes())), long);
        let longer = "a".repeat(129);
        for bad in [&b""[..], b"a b", b"a\xff", b"a\"b", longer.as_bytes()] {
            let id = request_id(&with(bad));
            let id = id.to_str().expect("ASCII");
            assert!(id.starts_with("req_") && id.len() == 36, "{id}");
        }
    }

    #[test]
    fn drawn_ids_differ() {
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
