//! What operators rely on, mostly on the real binary: loading, limits, drain,
//! logs and metrics.

use crate::binary::{Binary, Ended};
use crate::bytes::{chat, exchange, get, rest, sent};
use crate::support::{PATIENCE, PROBLEM, PUZZLE, counter, eventually, serve};
use espalier::app::{AppError, Server, Stack, find_here, http_config};
use espalier::config::{EngineArgs, ServeArgs};
use serde_json::{Value, json};
use std::future::pending;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Choices of a long request.
const CHOICES: usize = 128;

/// A request that runs for minutes where nothing stops it.
fn long(stream: bool) -> Value {
    json!({
        "reasoning_effort": "max", "n": CHOICES, "temperature": 1.5, "stream": stream,
        "messages": [{"role": "user", "content": PUZZLE}],
    })
}

/// Waits until a series has a value.
fn until(address: &str, name: &str, value: u64) {
    let started = Instant::now();
    loop {
        let text = get(address, "/metrics");
        if counter(&text, name) == value {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {name} {value}: {text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads until some of `needle` has come.
fn read_until(mut stream: &TcpStream, needle: &str) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4_096]);
    while !text.contains(needle) {
        let n = stream.read(&mut buffer).expect("more");
        assert!(n > 0, "it ended without {needle}: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    text
}

fn args() -> EngineArgs {
    let kv_mib = NonZeroUsize::new(64).expect("not zero");
    EngineArgs { kv_mib, threads: NonZeroUsize::new(2), ..EngineArgs::default() }
}

async fn opened() -> Server {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Server::open(any, http_config(&ServeArgs::default()), Duration::from_secs(1)).await.expect("a port")
}

async fn fetch(url: &str, path: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let response = client.get(format!("{url}{path}")).send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

#[tokio::test]
async fn the_port_answers_while_the_model_loads_and_serves_it_after_that() {
    let server = opened().await;
    let (url, metrics) = (server.url(), server.metrics());
    let (go_on, wait) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, loaded) = oneshot::channel();
    let serving = tokio::spawn(server.load_and_serve(
        move |progress| {
            progress.set(30, 120);
            wait.recv().expect("the test goes on");
            let checked = find_here(&args().model)?.check()?;
            Stack::build(checked, &args(), &metrics, progress)
        },
        move |summary| tell.send(summary.to_owned()).expect("the test waits"),
        (async { drop(stopped.await) }, pending()),
    ));
    // The progress is published by another thread.
    while !fetch(&url, "/ready").await.1.contains("25 %") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(fetch(&url, "/health").await.0, 200);
    assert_eq!(fetch(&url, "/ready").await.0, 503);
    let (status, text) = fetch(&url, "/v1/models").await;
    assert!(status == 503 && text.contains("still being loaded: 25 %"), "{text}");
    assert!(fetch(&url, "/metrics").await.1.contains("espalier_engine_kv_blocks 0"));
    go_on.send(()).expect("it waits");
    assert!(loaded.await.expect("loaded").contains("seedling"));
    assert_eq!(fetch(&url, "/ready").await.0, 200);
    assert!(fetch(&url, "/v1/models").await.1.contains("seedling"));
    stop.send(()).expect("it serves");
    serving.await.expect("no panic").expect("a good end");
}

#[tokio::test]
async fn a_model_that_does_not_load_ends_the_server_with_its_reason() {
    let refuse = |_: &_| Err(AppError::Metrics("as the test wants it".to_owned()));
    let ended = opened().await.load_and_serve(refuse, |_| (), (pending(), pending())).await;
    assert!(ended.expect_err("refused").to_string().contains("as the test wants it"));
    let ended = opened().await.load_and_serve(|_| panic!("on purpose"), |_| (), (pending(), pending())).await;
    assert!(matches!(ended, Err(AppError::Loader)), "{ended:?}");
}

#[tokio::test]
async fn a_signal_does_not_wait_for_the_model() {
    let (_hold, wait) = mpsc::channel::<()>();
    let load = move |_: &_| {
        // An error means that the test is over.
        let _ = wait.recv();
        Err(AppError::Loader)
    };
    let ended = opened().await.load_and_serve(load, |_| (), (async {}, pending())).await;
    ended.expect("a good end");
}

#[test]
fn a_drain_lets_streams_end_and_then_ends_them_well() {
    let mut binary = Binary::small(&["--shutdown-timeout", "6"]);
    let address = binary.address();
    let streams = [sent(&address, &chat("", long(true)))];
    let mut heads: Vec<String> =
        streams.iter().map(|stream| read_until(stream, "reasoning_content")).collect();
    // Each takes half of the pool; a third one would wait, and have nothing to show.
    let whole = sent(&address, &chat("", long(false)));
    until(&address, "espalier_request_queue_time_seconds_count", 2);
    until(&address, "espalier_requests_running", 2);
    // Some text must be there for an answer to be made of it.
    let tokens = counter(&get(&address, "/metrics"), "espalier_completion_tokens_total");
    let started = Instant::now();
    while counter(&get(&address, "/metrics"), "espalier_completion_tokens_total") < tokens + 2_000 {
        assert!(started.elapsed() < PATIENCE, "it makes no progress");
    }
    // It was served, so the server has surely accepted it before the signal.
    let idle = sent(&address, "GET /health HTTP/1.1\r\nhost: here\r\n\r\n");
    read_until(&idle, "\r\n\r\n");
    binary.signal("TERM");
    assert_eq!(rest(&idle), "", "idle connections are closed");

    // Whoever comes now is told so.
    let ready = get(&address, "/ready");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("shutting down"), "{ready}");
    let refused = rest(&sent(&address, &chat("", json!({}))));
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 5\r\n") && refused.contains("connection: close\r\n"), "{refused}");
    assert!(get(&address, "/health").starts_with("HTTP/1.1 200 "), "it is alive");

    for (stream, head) in streams.iter().zip(&mut heads) {
        head.push_str(&rest(stream));
        assert!(head.contains("data: [DONE]\n\n"), "{head}");
        assert_eq!(head.matches("\"finish_reason\":\"").count(), CHOICES, "every choice has its last chunk");
        assert!(head.contains("\"stop_reason\":\"shutdown\""), "{head}");
        assert!(!head.contains("\"error\""), "{head}");
    }
    let whole = rest(&whole);
    assert!(whole.starts_with("HTTP/1.1 200 ") && whole.contains("\"stop_reason\":\"shutdown\""), "{whole}");
    let Ended { code, err, .. } = binary.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("the time is up"), "{err}");
}

#[test]
fn a_drain_ends_as_soon_as_nothing_runs() {
    let mut binary = Binary::small(&["--shutdown-timeout", "600"]);
    let address = binary.address();
    let fields = json!({"reasoning_effort": "medium", "stream": true});
    let stream = sent(&address, &chat("", fields));
    let head = read_until(&stream, "assistant");
    binary.signal("INT");
    let text = head + &rest(&stream);
    assert!(text.contains("data: [DONE]") && text.contains("\"stop_reason\":\"completed\""), "{text}");
    assert_eq!(binary.end().code, Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once_and_not_in_peace() {
    let mut binary = Binary::small(&["--shutdown-timeout", "600"]);
    let address = binary.address();
    let stream = sent(&address, &chat("", long(true)));
    read_until(&stream, "assistant");
    binary.signal("TERM");
    let started = Instant::now();
    while !get(&address, "/ready").starts_with("HTTP/1.1 503 ") {
        assert!(started.elapsed() < PATIENCE, "it does not drain");
    }
    binary.signal("TERM");
    let Ended { code, err, .. } = binary.end();
    assert_eq!(code, Some(1));
    assert!(err.contains("espalier: stopped at once by a second signal"), "{err}");
    assert!(!rest(&stream).contains("[DONE]"));
}

#[test]
fn too_many_requests_are_told_when_to_come_back() {
    let mut binary = Binary::small(&["--max-concurrency", "1", "--max-queue", "1"]);
    let address = binary.address();
    let first = sent(&address, &chat("", long(true)));
    until(&address, "espalier_requests_running", 1);
    let second = sent(&address, &chat("", long(true)));
    until(&address, "espalier_requests_queued", 1);
    let third = exchange(&address, &chat("", json!({})));
    assert!(third.starts_with("HTTP/1.1 429 "), "{third}");
    let retry = third.split("retry-after: ").nth(1).and_then(|text| text.split("\r\n").next());
    assert!(retry.is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds >= 1)), "{third}");
    let body: Value = serde_json::from_str(third.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    let error = &body["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!("rate_limit_exceeded")));
    let text = get(&address, "/metrics");
    assert!(text.contains("espalier_requests_rejected_total{reason=\"queue_full\"} 1"), "{text}");
    // A mistake is one, however full the server is.
    assert!(exchange(&address, &chat("", json!({"n": 0}))).starts_with("HTTP/1.1 400 "));

    drop(second);
    until(&address, "espalier_requests_queued", 0);
    drop(first);
    until(&address, "espalier_requests_running", 0);
    let fields = json!({"reasoning_effort": "none"});
    assert!(exchange(&address, &chat("", fields)).starts_with("HTTP/1.1 200 "));
    until(&address, "espalier_requests_running", 0);
}

#[test]
fn the_servers_own_deadline_and_the_clients_give_the_best_so_far() {
    let mut binary = Binary::small(&["--request-timeout", "1"]);
    let address = binary.address();
    for fields in [long(true), long(false)] {
        let text = exchange(&address, &chat("", fields));
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("\"stop_reason\":\"deadline\""), "{text}");
    }
    let mut binary = Binary::small(&[]);
    let address = binary.address();
    let text = exchange(&address, &chat("x-stainless-read-timeout: 1\r\n", long(false)));
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("\"stop_reason\":\"deadline\""), "{text}");
}

#[test]
fn clients_that_do_not_come_to_the_point_are_cut() {
    let mut binary = Binary::small(&["--header-timeout", "2", "--idle-timeout", "6"]);
    let address = binary.address();
    let health = "GET /health HTTP/1.1\r\nhost: here\r\n\r\n";
    let mut idle = sent(&address, health);
    assert!(read_until(&idle, "\r\n\r\n").starts_with("HTTP/1.1 200 "));
    let late = |text: &str| {
        assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{text:?}");
        assert!(text.contains("connection: close\r\n") && text.contains("x-request-id: req_"), "{text}");
        let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
        assert_eq!(body["error"]["code"], "request_timeout");
        assert_eq!(body["error"].as_object().map(serde_json::Map::len), Some(4));
    };
    // A head that does not end, drop by drop.
    let mut slow = sent(&address, "POST /v1/chat/completions HTTP/1.1\r\nhost: he");
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        // It may be cut by now on a slow machine.
        drop(slow.write_all(b"r"));
    }
    late(&rest(&slow));
    // One that was served may rest for longer than a head may take.
    idle.write_all(health.as_bytes()).expect("sent");
    assert!(read_until(&idle, "\r\n\r\n").starts_with("HTTP/1.1 200 "));
    // A first line that does not even say which protocol this is.
    late(&rest(&sent(&address, "P")));
    // A body that does not come.
    let whole = chat("", json!({}));
    late(&rest(&sent(&address, &whole[..whole.len() - 10])));
    // A second request on a connection that was served.
    let mut twice = sent(&address, health);
    read_until(&twice, "\r\n\r\n");
    twice.write_all(b"GET /hea").expect("sent");
    late(&rest(&twice));
    assert_eq!(counter(&get(&address, "/metrics"), "espalier_request_read_timeouts_total"), 4);
    // Those that say nothing are closed in silence.
    assert_eq!(rest(&sent(&address, "")), "");
    assert!(!rest(&idle).contains("HTTP/1.1"));
    assert!(!get(&address, "/metrics").contains("espalier_request_read_timeouts_total 5"));
}

/// What must not be in any log.
const SECRETS: [&str; 5] = ["PROMPTSECRET", "KEYSECRET", "TITLESECRET", "QUERYSECRET", "The answer is"];

#[test]
fn logs_have_one_line_per_chat_request_and_no_secret_at_any_level() {
    for format in ["json", "human"] {
        let mut binary = Binary::small(&["--log-level", "trace", "--log-format", format]);
        let address = if format == "human" {
            binary.address()
        } else {
            // It prints no text for people; the log says where it listens.
            let line = binary.log_until("\"url\"");
            let line: Value = serde_json::from_str(&line).expect("JSON, and the first line");
            line["url"].as_str().expect("a URL").trim_start_matches("http://").to_owned()
        };
        let started = Instant::now();
        while !get(&address, "/ready").starts_with("HTTP/1.1 200 ") {
            assert!(started.elapsed() < PATIENCE, "it is never ready");
            // Every look is logged, into a pipe that nobody reads meanwhile.
            std::thread::sleep(Duration::from_millis(100));
        }
        let headers = "authorization: Bearer KEYSECRET\r\nx-api-key: KEYSECRET\r\nx-title: TITLESECRET\r\nx-request-id: mine-7\r\n";
        let messages = json!([{"role": "user", "content": format!("PROMPTSECRET {PROBLEM}")}]);
        for fields in [
            json!({"messages": messages, "reasoning_effort": "low"}),
            json!({"messages": messages, "reasoning_effort": "medium", "stream": true}),
            json!({"messages": messages, "reasoning_effort": "PROMPTSECRET"}),
            json!({"messages": messages, "stop": ["PROMPTSECRET"], "reasoning_effort": "none"}),
        ] {
            exchange(&address, &chat(headers, fields));
        }
        exchange(&address, &chat(headers, json!({})).replace("{\"model\"", "{PROMPTSECRET"));
        get(&address, "/v1/QUERYSECRET?key=QUERYSECRET");
        let leaving = sent(&address, &chat(headers, long(true)));
        read_until(&leaving, "assistant");
        let tokens = || counter(&get(&address, "/metrics"), "espalier_completion_tokens_total");
        let (before, started) = (tokens(), Instant::now());
        while tokens() < before + 100 {
            assert!(started.elapsed() < PATIENCE, "it makes no progress");
        }
        drop(leaving);
        until(&address, "espalier_client_disconnects_total", 1);
        binary.signal("TERM");
        let Ended { code, err: log, .. } = binary.end();
        assert_eq!(code, Some(0));
        for secret in SECRETS {
            assert!(!log.contains(secret), "{secret} is in the log: {log}");
        }
        let finished: Vec<&str> = log.lines().filter(|line| line.contains("chat request finished")).collect();
        assert_eq!(finished.len(), 6, "{log}");
        assert!(log.lines().any(|line| line.contains("response head")), "debug lines are there: {log}");
        assert!(finished.iter().all(|line| line.contains("mine-7")), "{log}");
        let mode_and_end =
            |mode: &str, end: &str| finished.iter().any(|line| line.contains(mode) && line.contains(end));
        for (mode, end) in [("cot", "completed"), ("self_consistency", "completed"), ("mcts", "client_left")]
        {
            assert!(mode_and_end(mode, end), "{mode} {end}: {finished:?}");
        }
        if format == "json" {
            let line: Value = serde_json::from_str(finished[0]).expect("JSON");
            assert_eq!((&line["status"], &line["effort"]), (&json!(200), &json!("low")));
            assert_eq!(line["span"]["route"], "/v1/chat/completions");
            assert_eq!(line["span"]["method"], "POST");
            assert!(line["tokens"].as_u64() > Some(0) && line["duration_ms"].is_u64(), "{line}");
            let left = finished.iter().find(|line| line.contains("client_left")).expect("it left");
            let left: Value = serde_json::from_str(left).expect("JSON");
            assert!(left["status"] == 499 && left["tokens"].as_u64() >= Some(100), "{left}");
            for line in log.lines() {
                assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
            }
        }
    }
}

#[test]
fn a_filter_that_is_none_is_one_clear_line_of_every_command() {
    for command in ["serve", "config"] {
        let Ended { code, out, err } = Binary::run(&[command, "--log-level", "loud"], &[]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{command}: {err}");
        assert!(err.contains("--log-level is `loud`") && err.lines().count() == 1, "{command}: {err}");
    }
}

/// Every series that operators are told of, by its type.
const SERIES: &[(&str, &str)] = &[
    ("espalier_http_responses_total", "counter"),
    ("espalier_http_response_seconds", "histogram"),
    ("espalier_client_disconnects_total", "counter"),
    ("espalier_request_read_timeouts_total", "counter"),
    ("espalier_requests_running", "gauge"),
    ("espalier_requests_queued", "gauge"),
    ("espalier_requests_rejected_total", "counter"),
    ("espalier_request_queue_time_seconds", "histogram"),
    ("espalier_time_to_first_token_seconds", "histogram"),
    ("espalier_inter_token_latency_seconds", "histogram"),
    ("espalier_e2e_request_latency_seconds", "histogram"),
    ("espalier_request_prompt_tokens", "histogram"),
    ("espalier_request_generation_tokens", "histogram"),
    ("espalier_choices_total", "counter"),
    ("espalier_completion_tokens_total", "counter"),
    ("espalier_prompt_tokens_total", "counter"),
    ("espalier_cached_tokens_total", "counter"),
    ("espalier_branches_total", "counter"),
    ("espalier_branches_kept_total", "counter"),
    ("espalier_branches_pruned_total", "counter"),
    ("espalier_verifier_tokens_total", "counter"),
    ("espalier_verifier_scored_steps_total", "counter"),
    ("espalier_verifier_scoring_seconds", "histogram"),
    ("espalier_verifier_errors_total", "counter"),
    ("espalier_kv_cache_usage_ratio", "gauge"),
    ("vllm:num_requests_running", "gauge"),
    ("vllm:num_requests_waiting", "gauge"),
    ("vllm:kv_cache_usage_perc", "gauge"),
    ("vllm:cache_config_info", "gauge"),
];

/// What every engine counts, behind `espalier_engine_`, and of a reward model
/// behind `espalier_verifier_engine_`.
const ENGINE: &[(&str, &str)] = &[
    ("sampled_tokens_total", "counter"),
    ("injected_tokens_total", "counter"),
    ("computed_positions_total", "counter"),
    ("copied_positions_total", "counter"),
    ("recomputed_positions_total", "counter"),
    ("steps_total", "counter"),
    ("step_seconds", "histogram"),
    ("step_positions", "histogram"),
    ("step_branches", "histogram"),
    ("branches", "gauge"),
    ("kv_blocks_used", "gauge"),
    ("kv_blocks_idle", "gauge"),
    ("prefix_queried_positions_total", "counter"),
    ("prefix_reused_positions_total", "counter"),
    ("prefix_missed_positions_total", "counter"),
    ("prefix_evicted_blocks_total", "counter"),
    ("faults_total", "counter"),
    ("preempted_branches_total", "counter"),
    ("kv_blocks", "gauge"),
    ("waiting_requests", "gauge"),
];

#[tokio::test]
async fn every_documented_series_is_there_with_help_and_agrees_with_the_usage() {
    let server = serve().await;
    let mut expected = std::collections::BTreeMap::new();
    for (effort, mode) in [("none", "direct"), ("low", "cot"), ("medium", "self_consistency")] {
        let body = server.chat(json!({"reasoning_effort": effort})).await;
        let number = |path: &str| body.pointer(path).and_then(Value::as_u64).expect("a number");
        let cached = number("/usage/prompt_tokens_details/cached_tokens");
        let tokens = (number("/usage/prompt_tokens"), number("/usage/completion_tokens"), cached);
        let branches = ["made", "kept", "pruned"].map(|fate| number(&format!("/search/branches/{fate}")));
        expected.insert(mode, (tokens, branches));
    }
    let text = server.get("/metrics").await.text;
    let sample = |name: &str, mode: &str| {
        let head = format!("{name}{{mode=\"{mode}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&head));
        line.unwrap_or_else(|| panic!("no {head} in {text}")).parse::<f64>().expect("a number") as u64
    };
    for (mode, ((prompt, completion, cached), [made, kept, pruned])) in expected {
        for (name, value) in [
            ("espalier_prompt_tokens_total", prompt),
            ("espalier_completion_tokens_total", completion),
            ("espalier_cached_tokens_total", cached),
            ("espalier_branches_total", made),
            ("espalier_branches_kept_total", kept),
            ("espalier_branches_pruned_total", pruned),
            ("espalier_time_to_first_token_seconds_count", 1),
            ("espalier_e2e_request_latency_seconds_count", 1),
            ("espalier_request_prompt_tokens_sum", prompt),
            ("espalier_request_generation_tokens_sum", completion),
        ] {
            assert_eq!(sample(name, mode), value, "{name} {mode}");
        }
    }

    let mut families = std::collections::BTreeMap::new();
    let mut helped = "";
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a name and its help");
            assert!(help.ends_with('.') && help.len() > 10, "{line}");
            helped = name;
        } else if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("a name and its type");
            assert_eq!(name, helped, "help comes first");
            families.insert(name.to_owned(), kind);
        } else {
            let name = line.split(['{', ' ']).next().expect("a name");
            assert!(name.starts_with(helped), "a sample of no family: {line}");
        }
    }
    let of_engines = ["espalier_engine", "espalier_verifier_engine"]
        .into_iter()
        .flat_map(|engine| ENGINE.iter().map(move |(name, kind)| (format!("{engine}_{name}"), *kind)));
    let documented = SERIES.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).chain(of_engines);
    assert_eq!(families, documented.collect(), "what is documented is what is there");
    // Labels are ours alone.
    let labels = ["route", "status", "mode", "stop_reason", "reason", "le", "block_size", "num_gpu_blocks"];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, inside)) = line.split_once('{') else { continue };
        for label in inside.split("\",").filter_map(|pair| pair.split_once('=')) {
            assert!(labels.contains(&label.0), "{line}");
        }
    }
    eventually("everyone has left", || server.metrics.requests_running.get() == 0).await;
}
