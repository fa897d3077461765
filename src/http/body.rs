//! Takes in a JSON body within limits of size and time.
//!
//! axum's own extractors answer in plain text when they refuse a body, which no
//! OpenAI client can read; so the body is read here, and refused in the envelope.

use super::error::ApiError;
use axum::body::{Body, BodyDataStream, HttpBody};
use axum::http::{HeaderMap, Request, header};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::timeout;

/// How much of a refused body is read on and thrown away, and for how long. A
/// client reads its answer once it is done with sending, and a connection that
/// is closed over unread bytes is reset, so that the refusal would be lost.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The bytes of a request that are said to be JSON.
///
/// # Errors
/// When they are not declared as JSON, are more than `limit`, take longer than
/// `within` to arrive or break off.
pub(super) async fn read(
    request: Request<Body>,
    limit: usize,
    within: Duration,
) -> Result<Vec<u8>, ApiError> {
    let refusal = check_content_type(request.headers()).err().or_else(|| {
        let declared = request.body().size_hint().lower();
        (declared > u64::try_from(limit).unwrap_or(u64::MAX)).then_some(ApiError::TooLarge { limit })
    });
    if let Some(refusal) = refusal {
        discard(request).await;
        return Err(refusal);
    }
    let mut chunks = request.into_body().into_data_stream();
    let mut bytes = Vec::new();
    let read = async {
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| ApiError::BodyRead)?;
            if bytes.len() + chunk.len() > limit {
                return Err(ApiError::TooLarge { limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    let read = timeout(within, read).await;
    match read.unwrap_or(Err(ApiError::ReadTimeout { seconds: within.as_secs_f64() })) {
        Ok(()) => {}
        Err(refusal @ ApiError::TooLarge { .. }) => {
            drain(chunks).await;
            return Err(refusal);
        }
        Err(refusal) => return Err(refusal),
    }
    Ok(bytes)
}

/// Reads on what a request that is refused has yet to send.
pub(super) async fn discard(request: Request<Body>) {
    // Such a client sends nothing before it is told to, which reading would do.
    if !request.headers().contains_key(header::EXPECT) {
        drain(request.into_body().into_data_stream()).await;
    }
}

/// Reads a refused body to its end, within limits.
async fn drain(mut chunks: BodyDataStream) {
    let to_the_end = async {
        let mut read = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            read += chunk.len();
            if read > DRAIN_BYTES {
                return;
            }
        }
    };
    // Either way there is nothing more to be done for this client.
    let _in_time = timeout(DRAIN_TIME, to_the_end).await;
}

/// `application/json` and its relatives (`application/problem+json`), with any
/// parameters after a semicolon.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::ContentType(None));
    };
    let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    if subtype == "json" || subtype.ends_with("+json") {
        return Ok(());
    }
    Err(ApiError::ContentType(Some(essence.chars().take(64).collect())))
}

#[cfg(test)]
mod tests {
    use super::ApiError;
    use axum::body::{Body, Bytes};
    use axum::http::Request;
    use futures_util::{StreamExt, stream};
    use std::io;
    use std::time::Duration;

    async fn read(request: Request<Body>, limit: usize) -> Result<Vec<u8>, ApiError> {
        super::read(request, limit, Duration::from_secs(60)).await
    }

    fn request(content_type: Option<&str>, body: Body) -> Request<Body> {
        let builder = Request::builder();
        let builder = match content_type {
            Some(value) => builder.header("content-type", value),
            None => builder,
        };
        builder.body(body).expect("a request")
    }

    /// A body of unknown length, as chunked uploads are.
    fn chunked(parts: Vec<Result<&'static str, io::Error>>) -> Body {
        Body::from_stream(stream::iter(parts.into_iter().map(|part| part.map(Bytes::from))))
    }

    #[tokio::test]
    async fn content_types() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"] {
            assert!(read(request(Some(good), Body::from("{}")), 10).await.is_ok(), "{good}");
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json"] {
            let error = read(request(Some(bad), Body::from("{}")), 10).await.expect_err(bad);
            assert_eq!(error, ApiError::ContentType(Some(bad.to_owned())));
        }
        let error = read(request(None, Body::from("{}")), 10).await.expect_err("no type");
        assert_eq!(error, ApiError::ContentType(None));
    }

    #[tokio::test]
    async fn limits_hold_for_declared_and_for_unknown_lengths() {
        let json_type = Some("application/json");
        assert!(read(request(json_type, Body::from("[1, 2, 3]")), 9).await.is_ok());
        assert!(read(request(json_type, chunked(vec![Ok("[1, 2"), Ok(", 3]")])), 9).await.is_ok());
        let declared = read(request(json_type, Body::from("[1, 2, 3]")), 8).await;
        assert_eq!(declared.expect_err("too long"), ApiError::TooLarge { limit: 8 });
        let unknown = read(request(json_type, chunked(vec![Ok("[1, 2"), Ok(", 3]")])), 8).await;
        assert_eq!(unknown.expect_err("too long"), ApiError::TooLarge { limit: 8 });
    }

    #[tokio::test]
    async fn a_body_that_breaks_off() {
        let json_type = Some("application/json");
        let torn = chunked(vec![Ok("{"), Err(io::Error::other("gone"))]);
        assert_eq!(read(request(json_type, torn), 99).await.expect_err("torn"), ApiError::BodyRead);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let slow =
            Body::from_stream(stream::once(async { Ok::<_, io::Error>("[1, ") }).chain(stream::pending()));
        let error = super::read(request(Some("application/json"), slow), 99, Duration::from_millis(20)).await;
        assert_eq!(error.expect_err("too slow"), ApiError::ReadTimeout { seconds: 0.02 });
    }
}
