//! Events as server-sent events, byte for byte.

use super::response;
use crate::engine::{EngineError, Token};
use crate::http::account::Account;
use crate::http::render::tests::{content, done, failing, progress, report, script, thought, view};
use crate::http::render::{Source, View};
use crate::metrics::Metrics;
use crate::search::event::{ChoiceEvent, Event, Finish};
use crate::search::run::RunError;
use axum::body::to_bytes;
use axum::response::Response;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

fn respond(source: impl Source, view: View, keep_alive: Duration) -> (Response, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let account = Account::open(Arc::clone(&metrics));
    (response(source, view, keep_alive, account), metrics)
}

/// The whole text of a stream whose client stays to the end.
async fn sse(source: impl Source, view: View) -> String {
    let (response, metrics) = respond(source, view, Duration::from_secs(60));
    let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    assert_eq!(metrics.disconnects.get(), 0, "the client stayed");
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The JSON of every frame but the terminator, which must be the last.
fn chunks(text: &str) -> Vec<Value> {
    let text = text.strip_suffix("data: [DONE]\n\n").expect("the terminator");
    frames(text)
}

fn frames(text: &str) -> Vec<Value> {
    let frames = text.strip_suffix("\n\n").expect("whole frames").split("\n\n");
    let data = frames.map(|frame| frame.strip_prefix("data: ").expect("data and nothing else"));
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

const HEAD: &str =
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","choices":"#;

#[tokio::test]
async fn golden() {
    let events = vec![(0, thought("2+2")), (0, content("4")), (0, done(Finish::Stop))];
    let text = sse(script(events), view(1)).await;
    // Keys in the report's own order, which the sorted `report` of the body's tests has not.
    let report = r#"{"type":"report","index":0,"effort":"medium","mode":"self_consistency","parameters":{"temperature":0.8,"branches":2},"budget":{"tokens":100,"answer_reserve":25,"branches":2,"verifier_tokens":30},"spent":{"tokens":20,"verifier_tokens":12,"verified_steps":3},"branches":{"made":2,"kept":1,"pruned":1},"verifier":"a prm","sharing_ratio":0.5,"seed":-1,"stop_reason":"budget_tokens","candidates":[{"branch":2,"answer":"42","mean_logprob":null,"score":0.25,"tokens":12,"complete":true,"selected":true}],"notes":["a note"]}"#;
    let expected = [
        r#"[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#
            .to_owned(),
        r#"[{"index":0,"delta":{"reasoning_content":"2+2","reasoning":"2+2"},"logprobs":null,"finish_reason":null}]}"#
            .to_owned(),
        r#"[{"index":0,"delta":{"content":"4"},"logprobs":null,"finish_reason":null}]}"#.to_owned(),
        format!(
            r#"[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"stop"}}],"search":{report}}}"#
        ),
    ];
    let expected: String = expected.iter().map(|rest| format!("{HEAD}{rest}\n\n")).collect();
    assert_eq!(text, expected + "data: [DONE]\n\n");
}

#[tokio::test]
async fn headers() {
    let (response, _) = respond(script(Vec::new()), view(1), Duration::from_secs(60));
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-cache");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
}

#[tokio::test]
async fn roles_come_first_and_in_order_and_every_choice_finishes() {
    let events =
        vec![(1, content("b")), (1, done(Finish::Length)), (0, content("a")), (0, done(Finish::Stop))];
    let chunks = chunks(&sse(script(events), view(2)).await);
    let seen: Vec<(u64, &Value, &Value)> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0])
        .map(|choice| {
            (choice["index"].as_u64().expect("an index"), &choice["delta"], &choice["finish_reason"])
        })
        .collect();
    let role = json!({"role": "assistant", "content": ""});
    let (null, length, stop) = (Value::Null, json!("length"), json!("stop"));
    let (a, b, none) = (json!({"content": "a"}), json!({"content": "b"}), json!({}));
    let expected = vec![
        (0, &role, &null),
        (1, &role, &null),
        (1, &b, &null),
        (1, &none, &length),
        (0, &a, &null),
        (0, &none, &stop),
    ];
    assert_eq!(seen, expected);
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "usage was not asked for");
    assert_eq!(chunks[3]["search"]["index"], 1);
}

#[tokio::test]
async fn usage_is_null_on_all_chunks_and_whole_on_a_last_one_without_choices() {
    let events = vec![(0, done(Finish::Stop)), (1, done(Finish::Stop))];
    let view = View { include_usage: true, ..view(2) };
    let mut chunks = chunks(&sse(script(events), view).await);
    let last = chunks.pop().expect("a last chunk");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["id"], "chatcmpl-1");
    assert_eq!(last["usage"]["prompt_tokens"], 10);
    assert_eq!(last["usage"]["completion_tokens"], 40);
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 3);
    assert_eq!(last["usage"]["completion_tokens_details"]["reasoning_tokens"], 30);
    assert_eq!(chunks.len(), 4);
    assert!(chunks.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)), "{chunks:?}");
}

#[tokio::test]
async fn progress_is_a_line_for_people_and_on_request_a_chunk_for_machines() {
    let events = || script(vec![(0, progress()), (0, done(Finish::Stop))]);
    let quiet = chunks(&sse(events(), view(1)).await);
    let line = "2 of 4 branches ended, 50 of 100 tokens, leading answer 42 (2)\n";
    assert_eq!(quiet[1]["choices"][0]["delta"], json!({"reasoning_content": line, "reasoning": line}));
    assert_eq!(quiet.len(), 3);
    assert!(quiet[1].get("search").is_none());

    let asked = chunks(&sse(events(), View { include_search: true, ..view(1) }).await);
    assert_eq!(asked[2]["choices"][0]["delta"], json!({}));
    assert_eq!(asked[2]["choices"][0]["finish_reason"], Value::Null);
    let expected = json!({
        "type": "progress", "index": 0, "branches": {"made": 3, "ended": 2, "planned": 4},
        "tokens": 50, "budget": 100, "leading": {"answer": "42", "votes": 2},
        "changed": [
            {"id": 2, "parent": 0, "tokens": 12, "state": "complete", "answer": "42", "score": -0.5}
        ]
    });
    assert_eq!(asked[2]["search"], expected);

    let mut last = asked[3]["search"].clone();
    let kind = last.as_object_mut().and_then(|report| report.remove("type"));
    assert_eq!(kind, Some(json!("report")));
    assert_eq!(last, report(0));
}

#[tokio::test]
async fn excluded_reasoning_leaves_no_chunk() {
    let events = vec![(0, progress()), (0, thought("secret")), (0, content("4")), (0, done(Finish::Stop))];
    let text = sse(script(events), View { exclude: true, ..view(1) }).await;
    assert!(!text.contains("reasoning") && !text.contains("secret") && !text.contains("ended"), "{text}");
    assert_eq!(chunks(&text).len(), 3);
}

#[tokio::test]
async fn empty_texts_leave_no_chunk_unless_they_carry_tokens() {
    let token = Token { id: 1, logprob: -0.5, top: Vec::new(), text: String::new() };
    let silent = Event::Content { text: String::new(), tokens: vec![token] };
    let events =
        vec![(0, thought("")), (0, content("")), (0, silent), (0, content("x")), (0, done(Finish::Stop))];
    let chunks = chunks(&sse(script(events), View { logprobs: Some(0), ..view(1) }).await);
    assert_eq!(chunks.len(), 4);
    let choice = &chunks[1]["choices"][0];
    assert_eq!(choice["delta"], json!({"content": ""}));
    assert_eq!(choice["logprobs"]["content"][0]["logprob"], -0.5);
    assert_eq!(choice["logprobs"]["refusal"], Value::Null);
    assert_eq!(chunks[2]["choices"][0]["logprobs"], Value::Null, "no tokens, no key");
}

#[tokio::test]
async fn a_failure_in_mid_stream_is_an_error_frame_and_the_end() {
    let closed = RunError::Engine(EngineError::Closed);
    let text = sse(failing(vec![(0, content("4"))], closed), view(1)).await;
    let frames = frames(&text);
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[2]["error"]["type"], "service_unavailable_error");
    assert_eq!(frames[2]["error"]["code"], "server_is_overloaded");
    assert_eq!(frames[2]["error"].as_object().map(serde_json::Map::len), Some(4));
}

#[tokio::test]
async fn a_run_that_breaks_off_is_an_error_and_no_success() {
    let text = sse(script(vec![(0, done(Finish::Stop))]), view(2)).await;
    let frames = frames(&text);
    assert_eq!(frames.last().expect("a frame")["error"]["type"], "server_error");
}

/// A run that never says anything.
struct Silence;

impl Source for Silence {
    fn next(&mut self) -> impl Future<Output = Option<Result<ChoiceEvent, RunError>>> + Send {
        pending()
    }

    fn cached_tokens(&self) -> u32 {
        0
    }
}

#[tokio::test]
async fn silence_is_filled_with_comments_after_the_roles() {
    let (response, _) = respond(Silence, view(1), Duration::from_millis(5));
    let frames: Vec<_> = response.into_body().into_data_stream().take(3).collect().await;
    let frames: Vec<String> = frames
        .into_iter()
        .map(|frame| String::from_utf8(frame.expect("a frame").to_vec()).expect("UTF-8"))
        .collect();
    assert!(frames[0].contains(r#""role":"assistant""#), "{frames:?}");
    assert_eq!(frames[1..], [": keep-alive\n\n", ": keep-alive\n\n"]);
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_and_drops_the_run() {
    struct Probe(Arc<()>);
    impl Source for Probe {
        fn next(&mut self) -> impl Future<Output = Option<Result<ChoiceEvent, RunError>>> + Send {
            let _ = &self.0;
            pending()
        }

        fn cached_tokens(&self) -> u32 {
            0
        }
    }
    let alive = Arc::new(());
    let (response, metrics) = respond(Probe(Arc::clone(&alive)), view(1), Duration::from_secs(60));
    let mut body = response.into_body().into_data_stream();
    body.next().await.expect("the role chunk").expect("a frame");
    assert_eq!((metrics.disconnects.get(), Arc::strong_count(&alive)), (0, 2));
    drop(body);
    assert_eq!((metrics.disconnects.get(), Arc::strong_count(&alive)), (1, 1));
}

#[tokio::test]
async fn a_client_that_leaves_after_the_terminator_is_not_counted() {
    let (response, metrics) =
        respond(script(vec![(0, done(Finish::Stop))]), view(1), Duration::from_secs(60));
    let mut body = response.into_body().into_data_stream();
    for _ in 0..3 {
        body.next().await.expect("a chunk").expect("a frame");
    }
    drop(body);
    assert_eq!(metrics.disconnects.get(), 0);
}
