//! Engines that fail, and deadlines: every admitted request ends in exactly one
//! way, and the server goes on.

use crate::support::{Pace, Reply, Served, endless, eventually, frames, joined, serve_scripted, words};
use espalier::engine::EngineError;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

const THOUGHT_AND_ANSWER: &str = "Think a bit. \n\nThe answer is \\boxed{7}.";

/// A server whose engine fails before one step of its life.
async fn failing_at(step: u64, pace: &Pace) -> Served {
    let before_step = move |now| {
        if now == step { Err(EngineError::Forward("secret cause".to_owned())) } else { Ok(()) }
    };
    serve_scripted(pace.script(|_| words(THOUGHT_AND_ANSWER), before_step)).await
}

fn is_internal(reply: &Reply) {
    let error = reply.error();
    assert_eq!(reply.status, 500, "{}", reply.text);
    assert_eq!((&error["type"], &error["param"]), (&json!("server_error"), &Value::Null));
    assert_eq!(error["code"], "server_error");
    assert!(!reply.text.contains("secret"), "causes stay in the log: {}", reply.text);
}

#[tokio::test]
async fn a_fault_before_the_first_token_is_a_500_and_the_next_request_is_served() {
    // One branch: of several, some may be late enough for the failed step to miss them.
    for effort in ["none", "low"] {
        let pace = Pace::default();
        let server = failing_at(1, &pace).await;
        is_internal(&server.post(json!({"reasoning_effort": effort})).await);
        eventually("every branch is gone", || pace.live.load(Ordering::SeqCst) == 0).await;
        assert_eq!(server.get("/health").await.status, 200, "one fault is no death");
        let body = server.chat(json!({"reasoning_effort": effort})).await;
        assert!(body["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.contains("7")));
        assert_eq!(server.get("/ready").await.status, 200, "a good step makes it ready again");
        assert_eq!(server.metrics.disconnects.get(), 0, "our fault is not the client's leaving");
    }
}

#[tokio::test]
async fn an_engine_that_cannot_prove_itself_ends_at_the_third_failure() {
    let pace = Pace::default();
    let before_step = |_| Err(EngineError::Forward("secret cause".to_owned()));
    let server = serve_scripted(pace.script(|_| words(THOUGHT_AND_ANSWER), before_step)).await;
    for _ in 0..3 {
        let reply = server.post(json!({"reasoning_effort": "none"})).await;
        is_internal(&reply);
        assert_eq!(reply.header("x-should-retry"), Some("false"), "it would fail again");
    }
    while server.get("/health").await.status == 200 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(server.post(json!({"reasoning_effort": "none"})).await.status, 503);
}

#[tokio::test]
async fn a_fault_in_the_middle_of_a_stream_is_an_error_frame_and_the_end() {
    for (step, effort) in [(1, "none"), (4, "none"), (3, "low")] {
        let pace = Pace::default();
        let server = failing_at(step, &pace).await;
        let reply = server.post(json!({"reasoning_effort": effort, "stream": true})).await;
        let frames = frames(&reply);
        let (last, others) = frames.split_last().expect("frames");
        let error: Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(error["error"]["type"], "server_error", "{last}");
        let keys: Vec<&String> = error["error"].as_object().expect("an envelope").keys().collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(!last.contains("secret"), "{last}");
        let chunks: Vec<Value> =
            others.iter().map(|frame| serde_json::from_str(frame).expect("a chunk")).collect();
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let (content, thought) = joined(&chunks, 0);
        let said = format!("{thought}{content}");
        assert_eq!(said.is_empty(), step == 1, "{said:?}");
        assert!(THOUGHT_AND_ANSWER.starts_with(&said), "{said:?}");
        assert!(chunks.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
        eventually("every branch is gone", || pace.live.load(Ordering::SeqCst) == 0).await;
        assert_eq!(server.metrics.disconnects.get(), 0);
    }
}

/// A search that begins with all of its branches, and waits for all.
fn wide() -> Value {
    json!({"mode": "best_of_n", "branches": 64, "rank": "likelihood", "weighted": false, "include_tree": true})
}

#[tokio::test]
async fn a_search_that_a_fault_interrupts_answers_with_what_it_has() {
    // Half of the branches are done when the engine fails.
    let pace = Pace::default();
    let says = |key: u64| if key.is_multiple_of(2) { words(THOUGHT_AND_ANSWER) } else { endless() };
    let before_step =
        |now| if now == 40 { Err(EngineError::Forward("secret cause".to_owned())) } else { Ok(()) };
    let server = serve_scripted(pace.script(says, before_step)).await;
    let body = server.chat(json!({"reasoning": wide()})).await;
    assert_eq!(body["search"]["stop_reason"], "engine_fault");
    assert_eq!(body["choices"][0]["finish_reason"], "stop", "a complete answer is one");
    assert_eq!(body["choices"][0]["message"]["content"], "The answer is \\boxed{7}.");
}

#[tokio::test]
async fn a_dead_engine_is_a_503_everywhere_and_health_says_so() {
    let pace = Pace::default();
    let before_step = |now| {
        assert!(now < 3, "the engine dies, as this test wants it");
        Ok(())
    };
    let server = serve_scripted(pace.script(|_| endless(), before_step)).await;
    assert_eq!(server.get("/health").await.status, 200);
    let first = server.post(json!({"reasoning_effort": "medium"})).await;
    // At once, and never by waiting for a thread that is no more.
    let second = server.post(json!({"reasoning_effort": "none", "stream": true})).await;
    for reply in [&first, &second, &server.get("/health").await, &server.get("/ready").await] {
        let error = reply.error();
        assert_eq!(reply.status, 503, "{}", reply.text);
        assert_eq!(error["type"], "service_unavailable_error");
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    assert_eq!(server.get("/v1/models").await.status, 200, "what needs no engine goes on");
    assert_eq!(server.metrics.disconnects.get(), 0);
}

#[tokio::test]
async fn an_engine_that_dies_in_the_middle_of_a_stream_ends_it_with_an_error_frame() {
    let pace = Pace::default();
    let before_step = |now| {
        // Slow enough for what was said before to be on its way.
        std::thread::sleep(Duration::from_millis(20));
        assert!(now < 5, "the engine dies, as this test wants it");
        Ok(())
    };
    let server = serve_scripted(pace.script(|_| endless(), before_step)).await;
    let reply = server.post(json!({"reasoning_effort": "none", "stream": true})).await;
    let frames = frames(&reply);
    assert!(frames.last().is_some_and(|last| last.contains("service_unavailable_error")), "{frames:?}");
    assert!(frames.iter().any(|frame| frame.contains(r#""content":"and "#)), "{frames:?}");
}

/// A server with steps of five milliseconds.
async fn slow(says: impl Fn(u64) -> Vec<String> + Send + 'static) -> Served {
    let before_step = |_| {
        std::thread::sleep(Duration::from_millis(5));
        Ok(())
    };
    serve_scripted(Pace::default().script(says, before_step)).await
}

#[tokio::test]
async fn a_deadline_gives_the_best_that_there_is() {
    // One chain that never ends: its beginning.
    let server = slow(|_| endless()).await;
    let fields = json!({"reasoning": {"effort": "none", "budget": {"seconds": 0.3}}});
    let body = server.chat(fields.clone()).await;
    assert_eq!(body["search"]["stop_reason"], "deadline");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert!(body["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.starts_with("and ")));
    let chunks = server.stream(fields).await;
    let last = chunks.last().expect("chunks");
    assert_eq!(last["search"]["stop_reason"], "deadline", "{last}");
    assert!(joined(&chunks, 0).0.starts_with("and and "));

    // A vote in which some have spoken: their answer, and it is complete.
    let server = slow(|key| if key.is_multiple_of(2) { words(THOUGHT_AND_ANSWER) } else { endless() }).await;
    let mut reasoning = wide();
    reasoning["budget"] = json!({"seconds": 3.0});
    let body = server.chat(json!({"reasoning": reasoning})).await;
    assert_eq!(body["search"]["stop_reason"], "deadline");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["choices"][0]["message"]["content"], "The answer is \\boxed{7}.");
    let tree = body["search"]["tree"].as_array().expect("a tree");
    assert!(tree.iter().any(|branch| branch["complete"] == false));
    // What was cut is counted like what was not.
    let sum: u64 = tree.iter().filter_map(|branch| branch["tokens"].as_u64()).sum();
    assert_eq!(body["usage"]["completion_tokens"], sum);
}

#[tokio::test]
async fn a_deadline_before_any_text_is_a_504_that_is_not_to_be_retried() {
    let before_step = |_| {
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    };
    let pace = Pace::default();
    let server = serve_scripted(pace.script(|_| endless(), before_step)).await;
    // The engine is in the middle of another request's step for longer than that.
    let other = server.raw(&server.raw_chat(json!({"reasoning_effort": "none"}))).await;
    for stream in [false, true] {
        let steps = pace.steps.load(Ordering::SeqCst);
        eventually("a step has begun", || pace.steps.load(Ordering::SeqCst) > steps).await;
        let fields = json!({"reasoning": {"effort": "low", "budget": {"seconds": 0.02}}, "stream": stream});
        let reply = server.post(fields).await;
        let error = reply.error();
        assert_eq!(reply.status, 504, "{}", reply.text);
        assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("deadline_exceeded")));
        assert!(error["message"].as_str().is_some_and(|text| text.contains("0.02 s")), "{error:?}");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert_eq!(server.metrics.disconnects.get(), 0);
    }
    // The root and the branch of the other request are all that is left.
    eventually("nothing stays", || pace.live.load(Ordering::SeqCst) == 2).await;
    drop(other);
}
