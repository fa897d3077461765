//! The router as a whole, over an engine that does nothing.

use super::render::tests::tokenizer;
use super::{AppState, Config, ModelCard, Served, layers, router, wrap};
use crate::engine::{Caps, Command, Engine, EngineError, EngineThread, Health, Open, Progress, Sampling};
use crate::metrics::Metrics;
use crate::plan::{Planner, PlannerParts, Verifiers};
use crate::prompt::{self, ChatTemplate, TemplateTokens};
use crate::search::run::Runner;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tower::ServiceExt;

/// Answers no command; dies of the first one if it is mortal.
struct Idle {
    mortal: bool,
    context: usize,
}

impl Engine for Idle {
    fn caps(&self) -> Caps {
        Caps { context: self.context, vocab: 3, eos: vec![0], block: 16, pool_blocks: self.context / 8 }
    }

    fn apply(&mut self, command: Command) {
        drop(command);
        assert!(!self.mortal, "as the test wants it");
    }

    fn step(&mut self) -> Result<Progress, EngineError> {
        Ok(Progress::default())
    }
}

/// The state comes first: the thread ends only when its handles are gone.
struct Fixture {
    state: AppState,
    _thread: EngineThread,
}

fn fixture(mortal: bool) -> Fixture {
    fixture_on(Idle { mortal, context: 64 })
}

fn fixture_on(engine: impl Engine) -> Fixture {
    let (thread, handle) = EngineThread::spawn(engine).expect("a thread");
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let row = json!({"mode": "direct", "budget": 16});
    let plan = json!({"default_effort": "low", "branch_tokens": 8, "efforts": {
        "none": row, "minimal": row, "low": row, "medium": row, "high": row, "xhigh": row, "max": row
    }});
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let planner = Planner::new(PlannerParts {
        config: serde_json::from_value(plan).expect("a table"),
        prompt: prompt::Config {
            chain_of_thought: "Think.".to_owned(),
            answer_marker: None,
            answer_marker_shown: true,
            thought_opening: None,
            step_separator: "\n\n".to_owned(),
        },
        template: ChatTemplate::new(template, TemplateTokens::default()).expect("a template"),
        tokenizer: tokenizer(),
        caps: handle.caps().clone(),
        defaults: Sampling::default(),
        verifiers: Verifiers::default(),
    })
    .expect("no marker to encode");
    let model = ModelCard {
        id: "org/m".to_owned(),
        aliases: Vec::new(),
        created: 7,
        owned_by: "us".to_owned(),
        context: 64,
    };
    let state = AppState::new(config(), Arc::clone(&metrics));
    state.install(Served {
        planner,
        runner: Runner::new(handle, None, metrics),
        tokenizer: tokenizer(),
        model,
    });
    Fixture { state, _thread: thread }
}

fn config() -> Config {
    Config {
        body_limit_bytes: 200,
        keep_alive: Duration::from_secs(10),
        request_timeout: Duration::from_secs(60),
        header_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        max_concurrency: 4,
        max_queue: 4,
        stuck_after: Duration::from_millis(50),
        allow_origins: Vec::new(),
    }
}

async fn send(router: Router, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let response = router.oneshot(request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a body");
    (head.status, head.headers, String::from_utf8(bytes.to_vec()).expect("UTF-8"))
}

fn request(method: &str, path: &str, content_type: &str, body: &str) -> Request<Body> {
    let builder = Request::builder().method(method).uri(path).header("content-type", content_type);
    builder.body(Body::from(body.to_owned())).expect("a request")
}

/// Asserts an envelope with all of its keys, and the headers that every response has.
async fn refused(request: Request<Body>, status: u16, code: Value, said: &str) -> HeaderMap {
    let fixture = fixture(false);
    let (found, headers, body) = send(router(fixture.state.clone()), request).await;
    assert_eq!(found, status, "{body}");
    assert_eq!(headers["content-type"], "application/json");
    assert!(headers.contains_key("x-request-id") && headers.contains_key("openai-processing-ms"));
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let error = body["error"].as_object().expect("an envelope");
    assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    assert_eq!(error["code"], code);
    assert!(error["message"].as_str().is_some_and(|text| text.contains(said)), "{body}");
    headers
}

const CHAT: &str = "/v1/chat/completions";
const JSON: &str = "application/json";

#[tokio::test]
async fn unknown_urls() {
    let null = Value::Null;
    refused(request("POST", "/v1/x?key=secret", JSON, "{}"), 404, null, "Invalid URL (POST /v1/x)").await;
}

#[tokio::test]
async fn wrong_methods_learn_the_right_ones() {
    let code = json!("method_not_supported");
    let headers = refused(request("GET", CHAT, JSON, ""), 405, code.clone(), "GET").await;
    assert_eq!(headers["allow"], "POST");
    let headers = refused(request("POST", "/v1/models", JSON, "{}"), 405, code, "POST").await;
    assert_eq!(headers["allow"], "GET,HEAD");
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let parse = "We could not parse the JSON body of your request.";
    refused(request("POST", CHAT, JSON, "{"), 400, Value::Null, parse).await;
    refused(request("POST", CHAT, JSON, "[]"), 400, Value::Null, parse).await;
    let code = json!("unsupported_content_type");
    refused(request("POST", CHAT, "text/plain", "{}"), 415, code, "text/plain").await;
    let code = json!("request_too_large");
    refused(request("POST", CHAT, JSON, &" ".repeat(201)), 413, code, "200 bytes").await;
}

#[tokio::test]
async fn refused_requests() {
    let code = json!("missing_required_parameter");
    refused(request("POST", CHAT, JSON, r#"{"model": "org/m"}"#), 400, code, "'messages'").await;
    let body = r#"{"model": "x", "messages": [{"role": "user", "content": "hi"}]}"#;
    let said = "The model `x` does not exist or you do not have access to it.";
    refused(request("POST", CHAT, JSON, body), 404, json!("model_not_found"), said).await;
}

/// A request of some megabytes, and a server that reads so many.
fn long_request() -> (Fixture, Request<Body>) {
    let mut fixture = fixture_on(Idle { mortal: false, context: 1 << 22 });
    fixture.state.config = Arc::new(Config { body_limit_bytes: 8 << 20, ..config() });
    let body = json!({"model": "org/m", "messages": [{"role": "user", "content": "a ".repeat(1 << 20)}]});
    (fixture, request("POST", CHAT, JSON, &body.to_string()))
}

/// A request that has megabytes of values in a field which only its kind matters of.
fn large_request() -> (Fixture, Request<Body>) {
    let (fixture, _) = long_request();
    let values = "[{}],".repeat(80_000);
    let messages = r#"[{"role": "user", "content": "hi"}]"#;
    let body = format!(r#"{{"model": "org/m", "messages": {messages}, "prediction": {{"x": [{values}0]}}}}"#);
    (fixture, request("POST", CHAT, JSON, &body))
}

#[tokio::test]
async fn a_long_request_keeps_nobody_else_waiting() {
    type Turns = fn(&AppState) -> usize;
    let cases: [(_, Turns); 2] = [
        (large_request(), |state| state.large_bodies.available_permits()),
        (long_request(), |state| state.long_prompts.available_permits()),
    ];
    for ((fixture, chat), permits) in cases {
        let permits = || permits(&fixture.state);
        let all = permits();
        let health = async {
            while permits() == all {
                tokio::task::yield_now().await;
            }
            let (status, ..) = send(router(fixture.state.clone()), request("GET", "/health", JSON, "")).await;
            (status, permits())
        };
        let chat = send(router(fixture.state.clone()), chat);
        tokio::select! {
            health = health => assert_eq!(health, (StatusCode::OK, all - 1), "it is still being read"),
            (status, _, body) = chat => panic!("{status} first: {body}"),
        }
    }
}

#[tokio::test]
async fn a_large_body_does_not_wait_for_its_turn_beyond_the_deadline() {
    let (mut fixture, chat) = large_request();
    let config = Config { request_timeout: Duration::from_millis(1), ..(*fixture.state.config).clone() };
    fixture.state.config = Arc::new(config);
    let turns = Arc::clone(&fixture.state.large_bodies);
    let _held = turns.acquire_many(2).await.expect("open");
    let (status, _, body) = send(router(fixture.state.clone()), chat).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{body}");
    assert_eq!(fixture.state.metrics.requests_running.get(), 0);
}

#[tokio::test]
async fn a_long_conversation_is_not_waited_for_beyond_the_deadline() {
    let (mut fixture, chat) = long_request();
    let config = Config { request_timeout: Duration::from_millis(1), ..(*fixture.state.config).clone() };
    fixture.state.config = Arc::new(config);
    let (status, _, body) = send(router(fixture.state.clone()), chat).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{body}");
}

#[tokio::test]
async fn models() {
    let fixture = fixture(false);
    let get = |path: &str| send(router(fixture.state.clone()), request("GET", path, JSON, ""));
    let model =
        json!({"id": "org/m", "object": "model", "created": 7, "owned_by": "us", "max_model_len": 64});
    let (status, _, body) = get("/v1/models").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, body), (StatusCode::OK, json!({"object": "list", "data": [model]})));
    for path in ["/v1/models/org/m", "/v1/models/org%2Fm"] {
        let (status, _, body) = get(path).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, &body), (StatusCode::OK, &model), "{path}");
    }
    for path in ["/v1/models/gpt-9", "/v1/models/%ff"] {
        refused(request("GET", path, JSON, ""), 404, json!("model_not_found"), "does not exist").await;
    }
}

#[tokio::test]
async fn health_follows_the_engine() {
    let alive = fixture(false);
    for path in ["/health", "/ready"] {
        let (status, ..) = send(router(alive.state.clone()), request("GET", path, JSON, "")).await;
        assert_eq!(status, 200, "{path}");
    }
    let dead = fixture(true);
    let open = Open::new(Arc::from([1]), 2, 1);
    let served = dead.state.served().expect("a model");
    served.runner.engine().open(open).await.expect_err("it dies of this");
    for path in ["/health", "/ready"] {
        let answer = async || send(router(dead.state.clone()), request("GET", path, JSON, "")).await;
        let mut status = answer().await.0;
        // The reply's channel closes a moment before the thread is gone.
        for _ in 0..500 {
            if status == 503 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            status = answer().await.0;
        }
        let (_, headers, body) = answer().await;
        assert_eq!(status, 503, "{path}");
        assert_eq!(headers["retry-after"], "5");
        assert!(body.contains("service_unavailable_error"), "{body}");
    }
}

#[tokio::test]
async fn before_the_model_is_there_requests_learn_how_far_it_is() {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let state = AppState::new(config(), metrics);
    let get = |path: &'static str| send(router(state.clone()), request("GET", path, JSON, ""));
    for (done, total, said) in [(0, 0, "not known yet"), (5 << 20, 20 << 20, "25 % (5.0 of 20.0 MiB)")] {
        state.progress.set(done, total);
        let chat = send(router(state.clone()), request("POST", CHAT, JSON, "{}"));
        for answer in [get("/ready").await, get("/v1/models").await, get("/v1/models/m").await, chat.await] {
            let (status, headers, body) = answer;
            assert_eq!(
                (status, &headers["retry-after"]),
                (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().expect("a value"))
            );
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(body["error"]["type"], "service_unavailable_error");
            assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains(said)), "{body}");
        }
    }
    assert_eq!(get("/health").await.0, 200, "it is alive");
    let (status, _, text) = get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("espalier_requests_rejected_total{reason=\"loading\"} 2"), "{text}");
}

#[tokio::test]
async fn a_server_that_goes_down_takes_nothing_new_and_keeps_no_connection() {
    let fixture = fixture(false);
    fixture.state.phase.send_replace(super::serve::Phase::Draining);
    let chat = r#"{"model": "org/m", "messages": [{"role": "user", "content": "hi"}]}"#;
    for asked in [request("POST", CHAT, JSON, chat), request("GET", "/ready", JSON, "")] {
        let (status, headers, body) = send(router(fixture.state.clone()), asked).await;
        assert_eq!(
            (status.as_u16(), &headers["connection"]),
            (503, &"close".parse().expect("a value")),
            "{body}"
        );
        assert!(headers.contains_key("retry-after") && body.contains("shutting down"), "{body}");
    }
    let (status, headers, _) = send(router(fixture.state.clone()), request("GET", "/health", JSON, "")).await;
    assert_eq!((status.as_u16(), &headers["connection"]), (200, &"close".parse().expect("a value")));
    assert_eq!(fixture.state.metrics.requests_rejected.with_label_values(&["draining"]).get(), 1);
}

#[tokio::test]
async fn whoever_is_refused_before_its_body_is_read_may_send_it_to_its_end() {
    let serving = fixture(false);
    let draining = fixture(false);
    draining.state.phase.send_replace(super::serve::Phase::Draining);
    let cases = [
        (&draining.state, "POST", CHAT, 503),
        (&open_to(&[]), "POST", CHAT, 503),
        (&serving.state, "POST", "/v1/completions", 404),
        (&serving.state, "PUT", CHAT, 405),
    ];
    for (state, method, path, refusal) in cases {
        for (expect, taken) in [(None, 3), (Some("100-continue"), 0)] {
            let sent = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&sent);
            let chunks = futures_util::stream::iter(0..3).map(move |_| {
                counter.fetch_add(1, Ordering::SeqCst);
                Ok::<_, std::io::Error>("{")
            });
            let mut builder = Request::builder().method(method).uri(path).header("content-type", JSON);
            if let Some(expect) = expect {
                builder = builder.header("expect", expect);
            }
            let request = builder.body(Body::from_stream(chunks)).expect("a request");
            let (status, _, body) = send(router(state.clone()), request).await;
            assert_eq!((status.as_u16(), sent.load(Ordering::SeqCst)), (refusal, taken), "{path}: {body}");
        }
    }
}

/// Takes its first command and never comes back from it.
struct Hanging(std::sync::mpsc::Receiver<()>);

impl Engine for Hanging {
    fn caps(&self) -> Caps {
        Caps { context: 64, vocab: 3, eos: vec![0], block: 16, pool_blocks: 8 }
    }

    fn apply(&mut self, command: Command) {
        drop(command);
        // An error means that the test is over.
        let _ = self.0.recv();
    }

    fn step(&mut self) -> Result<Progress, EngineError> {
        Ok(Progress::default())
    }
}

#[tokio::test]
async fn an_engine_is_stuck_while_it_has_work_and_finishes_none_and_never_while_idle() {
    let (release, hold) = std::sync::mpsc::channel();
    let fixture = fixture_on(Hanging(hold));
    let handle = fixture.state.served().expect("a model").runner.engine().clone();
    let patience = fixture.state.config.stuck_after;
    tokio::time::sleep(patience * 3).await;
    assert_eq!(handle.health(patience), Health::Live, "idle");
    let open = Open::new(Arc::from([1]), 2, 1);
    let asked = tokio::spawn({
        let handle = handle.clone();
        async move { handle.open(open).await.map(drop) }
    });
    while handle.health(patience) != Health::Stuck {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(handle.health(Duration::from_secs(600)), Health::Live, "patience decides");
    let chat = r#"{"model": "org/m", "messages": [{"role": "user", "content": "hi"}]}"#;
    for (method, path, body) in [("GET", "/health", ""), ("GET", "/ready", ""), ("POST", CHAT, chat)] {
        let answer = send(router(fixture.state.clone()), request(method, path, JSON, body));
        let (status, _, text) = answer.await;
        assert!(status == 503 && text.contains("has not finished a step"), "{path}: {status} {text}");
    }
    release.send(()).expect("it waits");
    drop(release);
    assert!(asked.await.expect("no panic").is_err(), "the engine dropped the command");
    while handle.health(patience) != Health::Live {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn responses_are_counted_by_route_and_never_by_path() {
    let fixture = fixture(false);
    for path in ["/health", "/nowhere/1", "/nowhere/2", "/v1/models/x"] {
        send(router(fixture.state.clone()), request("GET", path, JSON, "")).await;
    }
    let (status, headers, text) =
        send(router(fixture.state.clone()), request("GET", "/metrics", JSON, "")).await;
    assert_eq!(
        (status, &headers["content-type"]),
        (StatusCode::OK, &"text/plain; version=0.0.4".parse().expect("a value"))
    );
    let name = "espalier_http_responses_total";
    for (route, status, count) in [("/health", 200, 1), ("other", 404, 2), ("/v1/models/{*id}", 404, 1)] {
        let line = format!("{name}{{route=\"{route}\",status=\"{status}\"}} {count}");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    assert!(!text.contains("nowhere"), "{text}");
    for (route, count) in [("/health", 1), ("other", 2)] {
        let line = format!("espalier_http_response_seconds_count{{route=\"{route}\"}} {count}");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn refusals_are_no_disconnects_and_lost_requests_are() {
    let fixture = fixture(false);
    send(router(fixture.state.clone()), request("POST", CHAT, JSON, "{")).await;
    assert_eq!(fixture.state.metrics.disconnects.get(), 0);
    // A body that never comes: the future is dropped, as when the client leaves.
    let body = Body::from_stream(futures_util::stream::pending::<Result<&'static str, std::io::Error>>());
    let request = Request::builder()
        .method("POST")
        .uri(CHAT)
        .header("content-type", JSON)
        .body(body)
        .expect("a request");
    let answer = router(fixture.state.clone()).oneshot(request);
    tokio::time::timeout(Duration::from_millis(20), answer).await.expect_err("it waits for the body");
    assert_eq!(fixture.state.metrics.disconnects.get(), 1);
}

/// A state without a model, for pages of these origins.
fn open_to(origins: &[&str]) -> AppState {
    let allow_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
    AppState::new(Config { allow_origins, ..config() }, Arc::new(Metrics::new().expect("metrics")))
}

/// What a browser asks before a page of that origin may post a chat.
fn preflight(origin: &str) -> Request<Body> {
    let headers = "authorization,content-type,x-stainless-lang";
    let builder = Request::builder().method("OPTIONS").uri(CHAT).header("origin", origin);
    let builder = builder.header("access-control-request-method", "POST");
    builder.header("access-control-request-headers", headers).body(Body::empty()).expect("a request")
}

/// A request by a page of that origin.
fn from_page(origin: &str, method: &str, path: &str) -> Request<Body> {
    let mut request = request(method, path, JSON, "{}");
    request.headers_mut().insert("origin", origin.parse().expect("a value"));
    request
}

#[tokio::test]
async fn pages_of_other_sites_may_not_call_unless_their_origin_is_named() {
    const ALLOWED: &str = "access-control-allow-origin";
    let (app, evil) = ("https://app.example", "https://evil.example");
    let closed = open_to(&[]);
    let (status, headers, _) = send(router(closed.clone()), preflight(app)).await;
    assert!(status == 405 && !headers.contains_key(ALLOWED), "{headers:?}");
    let (_, headers, _) = send(router(closed), from_page(app, "GET", "/health")).await;
    assert!(!headers.contains_key(ALLOWED) && !headers.contains_key("vary"), "{headers:?}");

    let open = open_to(&["http://localhost:3000", app]);
    let (status, headers, _) = send(router(open.clone()), preflight(app)).await;
    assert_eq!((status.as_u16(), &headers[ALLOWED]), (200, &app.parse().expect("a value")));
    assert_eq!(headers["access-control-allow-headers"], "authorization,content-type,x-stainless-lang");
    assert_eq!(headers["access-control-allow-methods"], "GET,POST");
    assert_eq!(headers["access-control-max-age"], "3600");
    assert!(
        headers.contains_key("x-request-id") && !headers.contains_key("access-control-allow-credentials")
    );
    for (origin, request) in [(evil, preflight(evil)), (evil, from_page(evil, "GET", "/health"))] {
        let (_, headers, _) = send(router(open.clone()), request).await;
        assert!(!headers.contains_key(ALLOWED), "{origin}: {headers:?}");
    }
    let counted = open.metrics.http_responses.with_label_values(&[CHAT, "200"]).get();
    assert_eq!(counted, 2, "what is asked before a call is counted like any other");

    let any = open_to(&[app, "*"]);
    for request in [preflight(evil), from_page(evil, "POST", CHAT)] {
        let (_, headers, _) = send(router(any.clone()), request).await;
        assert_eq!(headers[ALLOWED], "*");
    }
}

#[tokio::test]
async fn pages_may_read_refusals_and_the_headers_that_say_something() {
    let app = "https://app.example";
    let state = open_to(&[app]);
    // While it loads, at a path that is not there, with a method that is not.
    for (method, path, refusal) in [("POST", CHAT, 503), ("GET", "/nowhere", 404), ("PUT", CHAT, 405)] {
        let (status, headers, _) = send(router(state.clone()), from_page(app, method, path)).await;
        let allowed = &headers["access-control-allow-origin"];
        assert_eq!((status.as_u16(), allowed), (refusal, &app.parse().expect("a value")), "{path}");
        let shown = headers["access-control-expose-headers"].to_str().expect("text");
        let shown: Vec<&str> = shown.split(',').collect();
        for name in
            ["x-request-id", "openai-processing-ms", "x-ignored-params", "retry-after", "x-should-retry"]
        {
            assert!(shown.contains(&name), "{name} is not in {shown:?}");
        }
        let varies =
            headers.get_all("vary").iter().any(|value| value.to_str().is_ok_and(|v| v.contains("origin")));
        assert!(varies, "or a cache would give one site the answer for another: {headers:?}");
    }
}

#[tokio::test]
async fn request_ids_are_echoed() {
    let fixture = fixture(false);
    let mut request = request("GET", "/nowhere", JSON, "");
    request.headers_mut().insert("x-request-id", "mine-7".parse().expect("a value"));
    let (_, headers, _) = send(router(fixture.state.clone()), request).await;
    assert_eq!(headers["x-request-id"], "mine-7");
    assert!(headers["openai-processing-ms"].to_str().is_ok_and(|ms| ms.parse::<u64>().is_ok()));
}

#[tokio::test]
async fn a_panic_is_a_500_like_any_other() {
    async fn boom() -> StatusCode {
        tokio::task::yield_now().await;
        panic!("secret")
    }
    let fixture = fixture(false);
    let router = wrap(Router::new().route("/boom", get(boom)), fixture.state.clone());
    let (status, headers, body) = send(router, request("GET", "/boom", JSON, "")).await;
    assert_eq!(status, 500);
    assert!(headers.contains_key("x-request-id"));
    assert!(body.contains("server_error") && !body.contains("secret"), "{body}");
    let counted = fixture.state.metrics.http_responses.with_label_values(&["/boom", "500"]).get();
    assert_eq!(counted, 1);
}

#[test]
fn spans_name_route_and_id_only() {
    let request = request("GET", "/v1/x?api_key=secret", JSON, "prompt");
    // Without a subscriber a span is disabled and says nothing of itself.
    tracing::subscriber::with_default(tracing_subscriber::registry(), || {
        let span = layers::span(&request);
        let fields = span.metadata().expect("an enabled span").fields();
        assert_eq!(
            fields.iter().map(|field| field.name()).collect::<Vec<_>>(),
            ["method", "route", "request_id"]
        );
    });
}

#[tokio::test]
async fn the_document_lists_every_route_and_every_schema_that_it_names() {
    let fixture = fixture(false);
    let (status, _, text) =
        send(router(fixture.state.clone()), request("GET", "/openapi.json", JSON, "")).await;
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let mut paths: Vec<&str> =
        document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    paths.sort_unstable();
    let expected = [
        "/health",
        "/metrics",
        "/openapi.json",
        "/ready",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{id}",
        "/version",
    ];
    assert_eq!(paths, expected);
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    for named in text.split("#/components/schemas/").skip(1) {
        let name = named.split('"').next().expect("a name");
        assert!(schemas.contains_key(name), "{name} is named and not described");
    }
}
