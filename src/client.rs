//! A small asynchronous client of OpenAI-compatible servers, for the harnesses.
//!
//! Requests and answers are plain JSON values: a harness sends fields that no
//! type of ours need know. Errors show what the server's envelope says. A key
//! is sent as a bearer token and never shown. Streaming and retries are
//! deliberately absent: who asks must see every failure, and a refusal says when
//! to ask again.

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// Pause between two looks at a server that is starting.
const POLL: Duration = Duration::from_millis(50);

/// Bytes of a body that is no envelope which an error shows.
const EXCERPT: usize = 200;

/// Names the top-level fields of a request that this project's server ignored.
const IGNORED: HeaderName = HeaderName::from_static("x-ignored-params");

/// A client of one server. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at its end, and without `/v1`.
    base: String,
    /// How long a request may take until its answer is whole.
    timeout: Option<Duration>,
}

/// Why a request gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server could not be reached, or the connection broke.
    #[error("{url}: {cause}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why, innermost reason last.
        cause: String,
    },
    /// The server was reached and has not answered in time.
    #[error("{url}: no answer within {} s", .within.as_secs_f32())]
    Silent {
        /// What was asked for.
        url: String,
        /// How long was waited.
        within: Duration,
    },
    /// The server refused; its envelope's message is shown.
    #[error("{status}: {message}")]
    Refused {
        /// The HTTP status code.
        status: u16,
        /// `error.message` of the body, or its beginning where it is no envelope.
        message: String,
        /// `error.code`, if the envelope has one.
        code: Option<String>,
        /// What `Retry-After` asks for, where it is a number of seconds.
        retry_after: Option<Duration>,
    },
    /// The endpoint is no base URL of a server.
    #[error("the endpoint `{given}` is no URL of a server: {cause}; it must look like http://127.0.0.1:8080")]
    Endpoint {
        /// What was given.
        given: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The key does not fit into a header.
    #[error("the API key has characters that no HTTP header can carry")]
    Key,
    /// The answer is not JSON.
    #[error("the answer of {url} is not JSON: {cause}")]
    NotJson {
        /// What was asked for.
        url: String,
        /// What the parser says.
        cause: String,
    },
    /// The server was not ready in time.
    #[error("the server was not ready within {} s: {last}", .within.as_secs_f32())]
    NotReady {
        /// How long was waited.
        within: Duration,
        /// The last failure.
        last: Box<ClientError>,
    },
}

/// A chat completion, and what the server said beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The body.
    pub body: Value,
    /// Top-level fields of the request that the server says it ignored.
    pub ignored: Option<String>,
}

/// The URL of an endpoint.
fn url(endpoint: &str) -> Result<Url, ClientError> {
    let refuse = |cause: String| ClientError::Endpoint { given: endpoint.to_owned(), cause };
    let url = Url::parse(endpoint).map_err(|error| refuse(error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(refuse(format!("its scheme is '{scheme}'"))),
    }
}

/// Whether an endpoint is on this machine.
fn is_here(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

impl Client {
    /// A client of the server at `endpoint`, for example
    /// `http://127.0.0.1:8000`; a trailing `/v1` is understood.
    ///
    /// # Errors
    /// When the endpoint is no URL, or the HTTP client cannot be set up.
    pub fn new(endpoint: &str) -> Result<Self, ClientError> {
        Self::with_key(endpoint, None)
    }

    /// The same with an API key, which every request carries as a bearer token.
    ///
    /// # Errors
    /// When the endpoint is no URL, the key fits into no header, or the HTTP client
    /// cannot be set up.
    pub fn with_key(endpoint: &str, key: Option<&str>) -> Result<Self, ClientError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let token = HeaderValue::try_from(format!("Bearer {}", key.trim()));
            let mut token = token.map_err(|_| ClientError::Key)?;
            // Or it would stand in whatever shows the client.
            token.set_sensitive(true);
            headers.insert(AUTHORIZATION, token);
        }
        let base = endpoint.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let url = url(&base)?;
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).default_headers(headers);
        if is_here(&url) {
            // A proxy that the environment names would look for it elsewhere.
            builder = builder.no_proxy();
        }
        let http = builder.build();
        let http = http.map_err(|e| unreachable_at(&base, &e))?;
        Ok(Self { http, base, timeout: None })
    }

    /// The same, giving up a request whose answer is not whole after so long.
    /// Without it there is no bound: a long search is silent to its end.
    #[must_use]
    pub fn giving_up_after(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Asks for a chat completion (`POST /v1/chat/completions`), not streamed.
    ///
    /// # Errors
    /// As [`Client::complete`].
    pub async fn chat(&self, body: &Value) -> Result<Value, ClientError> {
        self.complete(body).await.map(|completion| completion.body)
    }

    /// The same with what the server says beside the body.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, does not answer in time, or
    /// answers no JSON.
    pub async fn complete(&self, body: &Value) -> Result<Completion, ClientError> {
        let url = format!("{}/v1/chat/completions", self.base);
        self.send(&url, self.http.post(&url).json(body)).await
    }

    /// The ids of the models that the server offers (`GET /v1/models`).
    ///
    /// # Errors
    /// As [`Client::complete`].
    pub async fn models(&self) -> Result<Vec<String>, ClientError> {
        let url = format!("{}/v1/models", self.base);
        let body = self.send(&url, self.http.get(&url)).await?.body;
        let list = body["data"].as_array().into_iter().flatten();
        Ok(list.filter_map(|model| model["id"].as_str().map(str::to_owned)).collect())
    }

    /// Waits until the server lists its models, which it does once they are loaded.
    ///
    /// # Errors
    /// When it does not do so in time, or refuses for a reason that waiting does
    /// not mend: a status of the four hundreds other than 408 and 429.
    pub async fn wait_ready(&self, within: Duration) -> Result<(), ClientError> {
        let started = Instant::now();
        loop {
            let left = within.saturating_sub(started.elapsed());
            let last = match tokio::time::timeout(left.max(POLL), self.models()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(refused @ ClientError::Refused { status: 400..=407 | 409..=428 | 430..=499, .. })) => {
                    return Err(refused);
                }
                Ok(Err(last)) => last,
                Err(_) => ClientError::Unreachable { url: self.base.clone(), cause: "no answer".to_owned() },
            };
            if started.elapsed() >= within {
                return Err(ClientError::NotReady { within, last: Box::new(last) });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn send(&self, url: &str, request: reqwest::RequestBuilder) -> Result<Completion, ClientError> {
        let request = match self.timeout {
            Some(timeout) => request.timeout(timeout),
            None => request,
        };
        let failed = |error: reqwest::Error| match self.timeout {
            // A connection that does not come about has a bound of its own.
            Some(within) if error.is_timeout() && !error.is_connect() => {
                ClientError::Silent { url: url.to_owned(), within }
            }
            _ => unreachable_at(url, &error),
        };
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let header = |name| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (ignored, retry_after) = (header(IGNORED), header(RETRY_AFTER));
        let body = response.bytes().await.map_err(failed)?;
        if !status.is_success() {
            let seconds = retry_after.and_then(|text| text.trim().parse().ok());
            return Err(refusal(status.as_u16(), &body, seconds.map(Duration::from_secs)));
        }
        let body = serde_json::from_slice(&body)
            .map_err(|e| ClientError::NotJson { url: url.to_owned(), cause: e.to_string() })?;
        Ok(Completion { body, ignored })
    }
}

/// The envelope of OpenAI's errors.
#[derive(Deserialize)]
struct Envelope {
    error: Details,
}

#[derive(Deserialize)]
struct Details {
    message: String,
    code: Option<Value>,
}

fn refusal(status: u16, body: &[u8], retry_after: Option<Duration>) -> ClientError {
    let (message, code) = match serde_json::from_slice(body) {
        Ok(Envelope { error }) => {
            // Some servers write a number where OpenAI writes a string.
            let code = error.code.filter(|c| !c.is_null());
            (error.message, code.map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)))
        }
        Err(_) => {
            let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
            (text.trim().to_owned(), None)
        }
    };
    ClientError::Refused { status, message, code, retry_after }
}

/// The error with its chain of causes: reqwest's own text names none of them.
fn unreachable_at(url: &str, error: &reqwest::Error) -> ClientError {
    let mut cause = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        cause = format!("{cause}: {inner}");
        source = inner.source();
    }
    ClientError::Unreachable { url: url.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// A server that gives one canned response per connection, in order.
    fn canned(responses: Vec<(&'static str, &'static str)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (status, body) in responses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4_096];
                let read = stream.read(&mut request).unwrap();
                let authorised = String::from_utf8_lossy(&request[..read]).contains("Bearer s3cret");
                let body = if body.is_empty() { authorised.to_string() } else { body.to_owned() };
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        });
        format!("http://{address}/v1/")
    }

    #[tokio::test]
    async fn an_answer_is_the_parsed_body() {
        let client = Client::new(&canned(vec![("200 OK", r#"{"id": "x"}"#)])).unwrap();
        assert_eq!(client.chat(&serde_json::json!({})).await.unwrap()["id"], "x");
    }

    #[tokio::test]
    async fn a_refusal_shows_the_message_of_the_envelope() {
        let body = r#"{"error": {"message": "no such model", "type": "x", "code": "model_not_found"}}"#;
        let client = Client::new(&canned(vec![("404 Not Found", body), ("502 Bad", "<html>")])).unwrap();
        let error = client.chat(&serde_json::json!({})).await.unwrap_err();
        assert_eq!(error.to_string(), "404: no such model");
        assert!(matches!(error, ClientError::Refused { code: Some(code), .. } if code == "model_not_found"));
        let error = client.chat(&serde_json::json!({})).await.unwrap_err();
        assert_eq!(error.to_string(), "502: <html>");
    }

    #[tokio::test]
    async fn a_refusal_says_when_to_ask_again_and_an_answer_what_was_ignored() {
        let busy = "429 Too Many\r\nretry-after: 7";
        let dated = "503 Busy\r\nretry-after: Fri, 31 Dec 1999 23:59:59 GMT";
        let answered = "200 OK\r\nx-ignored-params: reasonning";
        let client = Client::new(&canned(vec![(busy, "{}"), (dated, "{}"), (answered, "{}")])).unwrap();
        for expected in [Some(Duration::from_secs(7)), None] {
            let error = client.complete(&serde_json::json!({})).await.unwrap_err();
            let ClientError::Refused { retry_after, .. } = error else { panic!("{error}") };
            assert_eq!(retry_after, expected);
        }
        let completion = client.complete(&serde_json::json!({})).await.unwrap();
        assert_eq!(completion.ignored.as_deref(), Some("reasonning"));
    }

    #[tokio::test]
    async fn a_key_is_sent_and_not_shown() {
        let endpoint = canned(vec![("200 OK", ""), ("200 OK", "")]);
        let client = Client::with_key(&endpoint, Some(" s3cret\n")).unwrap();
        assert_eq!(client.chat(&Value::Null).await.unwrap(), Value::Bool(true));
        assert!(!format!("{client:?}").contains("s3cret"), "{client:?}");
        assert_eq!(Client::new(&endpoint).unwrap().chat(&Value::Null).await.unwrap(), Value::Bool(false));
        assert!(matches!(Client::with_key(&endpoint, Some("a\nb")), Err(ClientError::Key)));
    }

    #[tokio::test]
    async fn what_waiting_does_not_mend_is_not_waited_for() {
        let body = r#"{"error": {"message": "bad key"}}"#;
        let client = Client::new(&canned(vec![("401 Unauthorized", body)])).unwrap();
        let error = client.wait_ready(Duration::from_secs(3_600)).await.unwrap_err();
        assert_eq!(error.to_string(), "401: bad key");
    }

    #[tokio::test]
    async fn a_server_that_is_silent_is_given_up_before_and_within_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{"] {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4_096]).unwrap();
                stream.write_all(head.as_bytes()).unwrap();
                held.push(stream);
            }
            // Open to the end of the test.
            drop(listener.accept());
        });
        let client = Client::new(&endpoint).unwrap().giving_up_after(Duration::from_millis(250));
        for _ in 0..2 {
            let error = client.chat(&serde_json::json!({})).await.unwrap_err();
            assert!(matches!(error, ClientError::Silent { .. }), "{error}");
            assert_eq!(error.to_string(), format!("{endpoint}/v1/chat/completions: no answer within 0.25 s"));
        }
    }

    #[test]
    fn no_proxy_stands_between_a_client_and_its_own_machine() {
        let is_here = |endpoint| is_here(&url(endpoint).unwrap());
        for here in ["http://127.0.0.1:8000", "http://localhost", "http://[::1]:8080/v1", "https://127.9.9.9"]
        {
            assert!(is_here(here), "{here}");
        }
        for away in ["http://10.0.0.1", "http://localhost.example", "https://api.example/v1"] {
            assert!(!is_here(away), "{away}");
        }
    }

    #[test]
    fn an_endpoint_that_is_no_url_is_refused_before_anything_is_waited_for() {
        for (endpoint, why) in [
            ("foo", "relative URL"),
            ("", "relative URL"),
            ("localhost:8080", "its scheme is 'localhost'"),
            ("ftp://host/", "its scheme is 'ftp'"),
            ("http://", "empty host"),
            ("http://host:99999", "port"),
        ] {
            let error = Client::new(endpoint).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("http://127.0.0.1:8080"), "{endpoint}: {error}");
        }
    }

    #[tokio::test]
    async fn readiness_is_waited_for() {
        let responses =
            vec![("503 Busy", r#"{"error": {"message": "loading"}}"#), ("200 OK", r#"{"data": []}"#)];
        let client = Client::new(&canned(responses)).unwrap();
        client.wait_ready(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = Client::new(&endpoint).unwrap();
        let error = client.wait_ready(Duration::from_millis(60)).await.unwrap_err();
        assert!(error.to_string().contains(&endpoint), "{error}");
    }
}
