//! What a good request gets: the answer, its reasoning, usage and report, whole
//! and streamed, on the bundled model.

use crate::support::{JSON, PUZZLE, Served, beside_cache, body, frames, joined, serve};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Efforts of the bundled model's table: (effort, mode, whether it searches).
const EFFORTS: [(&str, &str, bool); 7] = [
    ("none", "direct", false),
    ("minimal", "direct", false),
    ("low", "cot", false),
    ("medium", "self_consistency", true),
    ("high", "mcts", true),
    ("xhigh", "mcts", true),
    ("max", "mcts", true),
];

fn puzzle(fields: Value) -> Value {
    let mut fields = fields;
    fields["messages"] = json!([{"role": "user", "content": PUZZLE}]);
    fields
}

fn content(body: &Value, index: usize) -> &str {
    body["choices"][index]["message"]["content"].as_str().expect("content")
}

#[tokio::test]
async fn the_example_is_answered_with_reasoning_usage_and_report() {
    let server = serve().await;
    let reply = server.post(json!({"reasoning_effort": "medium"})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some(JSON));
    assert!(reply.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
    let body = reply.json();
    assert!(body["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("seedling")));
    assert!(body["created"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000));
    let [choice] = body["choices"].as_array().expect("choices").as_slice() else { panic!("{body}") };
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("stop")));
    assert_eq!(choice["logprobs"], Value::Null);
    let message = choice["message"].as_object().expect("a message");
    assert_eq!(
        message.keys().collect::<Vec<_>>(),
        ["role", "content", "refusal", "reasoning_content", "reasoning"]
    );
    assert_eq!((&message["role"], &message["refusal"]), (&json!("assistant"), &Value::Null));
    let said = message["content"].as_str().expect("text");
    assert!(said.starts_with("The answer is") && said.contains("98"), "{said}");
    let thought = message["reasoning"].as_str().expect("text");
    assert!(thought.contains("49") && !thought.contains("The answer is"), "{thought}");
    assert_eq!(message["reasoning_content"], thought);

    let usage = &body["usage"];
    let number = |value: &Value| value.as_u64().expect("a number");
    let (prompt, completion) = (number(&usage["prompt_tokens"]), number(&usage["completion_tokens"]));
    assert_eq!(number(&usage["total_tokens"]), prompt + completion);
    let reasoning = number(&usage["completion_tokens_details"]["reasoning_tokens"]);
    assert!(0 < reasoning && reasoning < completion, "{usage}");
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);

    let search = &body["search"];
    assert_eq!((&search["effort"], &search["seed"]), (&json!("medium"), &json!(1)));
    assert_eq!(
        (number(&search["spent"]["tokens"]), &search["stop_reason"]),
        (completion, &json!("completed"))
    );
    assert_eq!(search["budget"]["tokens"], 32_768);
    let temperature = search["parameters"]["temperature"].as_f64().expect("a number");
    assert!((temperature - 0.8).abs() < 1e-6, "{temperature}");
    let candidates = search["candidates"].as_array().expect("candidates");
    let votes = candidates.iter().filter(|candidate| candidate["answer"] == "98").count();
    assert!(votes * 2 > candidates.len(), "a majority says 98: {search}");
    let selected: Vec<&Value> = candidates.iter().filter(|c| c["selected"] == true).collect();
    assert!(matches!(selected.as_slice(), [one] if one["answer"] == "98"), "{search}");
    let ratio = search["sharing_ratio"].as_f64().expect("a ratio");
    assert!(0.0 < ratio && ratio < 1.0, "branches share their prompt: {ratio}");
}

#[tokio::test]
async fn every_effort_runs_its_mode_and_a_stream_says_what_the_body_says() {
    let server = serve().await;
    for (effort, mode, searches) in EFFORTS {
        let fields = json!({
            "reasoning_effort": effort, "seed": 5, "stream_options": null, "max_completion_tokens": 4000,
        });
        let whole = server.chat(fields.clone()).await;
        let search = &whole["search"];
        assert_eq!((&search["effort"], &search["mode"]), (&json!(effort), &json!(mode)));
        let made = search["branches"]["made"].as_u64().expect("a number");
        assert_eq!(made > 1, searches, "{effort}: {search}");
        let parameters = search["parameters"].as_object().expect("an object").len();
        assert_eq!(parameters > 1, searches, "{effort}: temperature, and those of a search");
        let candidates = search["candidates"].as_array().expect("candidates").len() as u64;
        assert!((1..=made).contains(&candidates), "{effort}: {search}");

        let mut streamed = fields;
        streamed["stream_options"] = json!({"include_usage": true});
        let chunks = server.stream(streamed).await;
        let (said, thought) = joined(&chunks, 0);
        assert_eq!(said, content(&whole, 0), "{effort}");
        // A search tells of its progress first, on the same channel.
        let message = &whole["choices"][0]["message"];
        let whole_thought = message["reasoning"].as_str().unwrap_or_default();
        assert!(thought.ends_with(whole_thought), "{effort}: {thought:?} and {whole_thought:?}");
        assert_eq!(thought.len() > whole_thought.len(), searches, "{effort} tells of progress");
        let last = chunks.last().expect("chunks");
        assert_eq!(last["choices"], json!([]), "{effort}");
        // A vote that is decided gives up what is in flight, wherever that stands.
        let exact = mode != "self_consistency";
        if exact {
            assert_eq!(beside_cache(&last["usage"]), beside_cache(&whole["usage"]), "{effort}");
        }
        let mut report = chunks[chunks.len() - 2]["search"].clone();
        assert_eq!(report["type"], "report");
        report.as_object_mut().expect("a report").shift_remove("type");
        for (key, value) in search.as_object().expect("a report") {
            if exact || !["spent", "sharing_ratio"].contains(&key.as_str()) {
                assert_eq!(&report[key], value, "{effort}: both give the same report");
            }
        }

        if mode == "direct" {
            // `none` promises no reasoning: not a token, not even the keys.
            let keys: Vec<&String> = message.as_object().expect("a message").keys().collect();
            assert_eq!(keys, ["role", "content", "refusal"]);
            assert_eq!(whole["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
            assert!(chunks.iter().all(|chunk| !chunk.to_string().contains("reasoning\"")), "{chunks:?}");
        }
    }
    server.idle().await;
}

#[tokio::test]
async fn the_frames_of_a_stream_byte_by_byte() {
    let server = serve().await;
    let reply = server.post(json!({"reasoning_effort": "low", "stream": true})).await;
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
    let frames = frames(&reply);
    let first: Value = serde_json::from_str(&frames[0]).expect("JSON");
    let head = format!(
        r#"{{"id":{},"object":"chat.completion.chunk","created":{},"model":"seedling","choices":[{{"index":0,"delta":"#,
        first["id"], first["created"]
    );
    let open = r#","logprobs":null,"finish_reason":null}]}"#;
    assert_eq!(frames[0], format!(r#"{head}{{"role":"assistant","content":""}}{open}"#));
    let [between @ .., finish, done] = &frames[1..] else { panic!("{frames:?}") };
    // Thought, then content, and never back; a delta holds nothing else.
    let mut answering = false;
    for frame in between {
        let delta = frame.strip_prefix(&head).and_then(|rest| rest.strip_suffix(open));
        let delta = delta.unwrap_or_else(|| panic!("{frame}"));
        let texts: Value = serde_json::from_str(delta).expect("JSON");
        let thought = &texts["reasoning_content"];
        let expected = if thought.is_null() {
            answering = true;
            format!(r#"{{"content":{}}}"#, texts["content"])
        } else {
            assert!(!answering, "thought after content: {frame}");
            format!(r#"{{"reasoning_content":{thought},"reasoning":{thought}}}"#)
        };
        assert_eq!(delta, expected);
    }
    assert!(answering);
    let end = r#"{},"logprobs":null,"finish_reason":"stop"}],"search":{"type":"report","index":0,"#;
    assert!(finish.starts_with(&format!("{head}{end}")), "{finish}");
    assert_eq!(done, "[DONE]");
    // `low` is streamed as it is decoded, so it came in pieces.
    assert!(between.len() > 10, "{}", between.len());
}

#[tokio::test]
async fn usage_is_streamed_only_where_it_was_asked_for() {
    let server = serve().await;
    for asked in [false, true] {
        let fields = json!({"reasoning_effort": "none", "stream_options": {"include_usage": asked}});
        let chunks = server.stream(fields).await;
        let (last, others) = chunks.split_last().expect("chunks");
        assert!(others.iter().all(|chunk| chunk.get("usage").is_some() == asked), "{chunks:?}");
        assert!(others.iter().all(|chunk| chunk["usage"].is_null()), "{chunks:?}");
        assert_eq!(last["choices"] == json!([]), asked, "{last}");
        assert_eq!(last["usage"]["completion_tokens"].is_u64(), asked, "{last}");
    }
}

/// Progress reports of a streamed request, once the branches in them were checked: ids rise within
/// a report, tokens of a branch never fall, and every report says something.
fn progress(chunks: &[Value]) -> (Vec<&Value>, BTreeMap<u64, Value>) {
    let reports: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["search"]).filter(|search| search["type"] == "progress").collect();
    let mut branches: BTreeMap<u64, Value> = BTreeMap::new();
    for report in &reports {
        let mut before = 0;
        for branch in report["changed"].as_array().expect("a list") {
            let id = branch["id"].as_u64().expect("a number");
            assert!(id > before, "ids rise: {report}");
            before = id;
            let known = branches.insert(id, branch.clone());
            let tokens = |branch: &Value| branch["tokens"].as_u64().expect("a count");
            assert!(known.is_none_or(|known| tokens(&known) <= tokens(branch)), "{report}");
        }
    }
    (reports, branches)
}

#[tokio::test]
async fn progress_for_machines_comes_only_where_it_was_asked_for_and_changes_nothing_else() {
    let server = serve().await;
    let mut texts = Vec::new();
    for asked in [false, true] {
        let fields = json!({"reasoning_effort": "medium", "stream_options": {"include_search": asked}});
        let chunks = server.stream(fields).await;
        let (reports, branches) = progress(&chunks);
        texts.push(joined(&chunks, 0));
        if !asked {
            assert!(reports.is_empty());
            continue;
        }
        for chunk in chunks.iter().filter(|chunk| chunk["search"]["type"] == "progress") {
            assert_eq!(chunk["choices"][0]["delta"], json!({}));
            assert_eq!(chunk["search"]["branches"]["planned"], 8);
        }
        let report = &chunks.last().expect("chunks")["search"];
        assert_eq!(report["branches"]["made"], branches.len());
        for candidate in report["candidates"].as_array().expect("candidates") {
            let branch = &branches[&candidate["branch"].as_u64().expect("a number")];
            let state = if candidate["selected"] == true { "selected" } else { "complete" };
            assert_eq!(branch["state"], state, "{candidate} {branch}");
            assert_eq!((&branch["tokens"], &branch["answer"]), (&candidate["tokens"], &candidate["answer"]));
            let score = branch["score"].as_f64().expect("the last step's");
            assert!((0.0..=1.0).contains(&score) && branch["parent"] == 0, "{branch}");
        }
        let last = reports.last().expect("reports");
        assert_eq!(last["tokens"], report["spent"]["tokens"]);
        assert_eq!(last["leading"]["answer"], "98");
    }
    let people = |text: &str| text.lines().filter(|line| line.contains("branches ended")).count();
    let [read_along, watched] = [&texts[0].1, &texts[1].1].map(|text| people(text));
    assert!(watched >= 4, "a line for each outcome, of a wave at least");
    assert!((1..=watched).contains(&read_along), "{read_along} of {watched}");
    assert_eq!(texts[0].0, texts[1].0);
}

#[tokio::test]
async fn a_single_branch_is_watched_as_well() {
    let server = serve().await;
    let fields = json!({"reasoning_effort": "low", "stream_options": {"include_search": true}});
    let chunks = server.stream(fields).await;
    let (reports, branches) = progress(&chunks);
    assert_eq!(reports[0]["changed"], json!([{"id": 1, "parent": 0, "tokens": 0, "state": "growing"}]));
    assert_eq!(branches.len(), 1);
    assert_eq!((&branches[&1]["state"], &branches[&1]["answer"]), (&json!("selected"), &json!("98")));
    let (_, reasoning) = joined(&chunks, 0);
    assert!(!reasoning.contains("branches ended"), "{reasoning}");
}

#[tokio::test]
async fn what_a_budget_cuts_is_pruned_in_the_end() {
    let server = serve().await;
    // Without a token that ends them, chains are cut by what they are granted.
    let fields = puzzle(json!({
        "reasoning": {"mode": "self_consistency", "branches": 4, "budget": {"tokens": 640}},
        "temperature": 1,
        "logit_bias": {"0": -100, "2": -100},
        "stream_options": {"include_search": true},
    }));
    let chunks = server.stream(fields).await;
    let (reports, branches) = progress(&chunks);
    let ever_cut = reports.iter().flat_map(|report| report["changed"].as_array().expect("a list"));
    assert!(ever_cut.clone().any(|branch| branch["state"] == "cut"));
    let report = &chunks.last().expect("chunks")["search"];
    let of = |state: &str| branches.values().filter(|branch| branch["state"] == state).count();
    assert_eq!(of("selected"), 1);
    assert_eq!(of("growing") + of("cut"), 0, "{branches:?}");
    assert_eq!(report["branches"]["made"], branches.len());
    // Nothing came to an end, so that all but the answer is given up, and the report,
    // which counts what ended, counts that as well.
    assert!(branches.len() > 1);
    assert_eq!(of("pruned"), branches.len() - 1, "{branches:?}");
    assert_eq!(
        (&report["branches"]["kept"], &report["branches"]["pruned"]),
        (&json!(0), &json!(branches.len()))
    );
}

#[tokio::test]
async fn several_choices_are_runs_of_their_own() {
    let server = serve().await;
    let fields = puzzle(json!({"reasoning_effort": "low", "temperature": 1, "seed": 3}));
    let mut three = fields.clone();
    three["n"] = json!(3);
    let one = server.chat(fields).await;
    let whole = server.chat(three.clone()).await;
    let texts: Vec<String> = (0..3).map(|i| whole["choices"][i]["message"].to_string()).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{texts:?}");
    assert_eq!(one["choices"][0], whole["choices"][0], "the first choice is the one of n = 1");
    let search = &whole["search"];
    assert_eq!((&search["seed"], search["choices"].as_array().map(Vec::len)), (&json!(3), Some(3)));
    assert_eq!(search["spent"]["tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(whole["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"], "counted once");

    let chunks = server.stream(three).await;
    let roles: Vec<&Value> = chunks.iter().take(3).map(|chunk| &chunk["choices"][0]["index"]).collect();
    assert_eq!(roles, [&json!(0), &json!(1), &json!(2)], "role chunks first, in order");
    assert!(chunks[..3].iter().all(|chunk| chunk["choices"][0]["delta"]["role"] == "assistant"));
    for index in 0..3 {
        let (said, thought) = joined(&chunks, index);
        let message = &whole["choices"][usize::try_from(index).expect("small")]["message"];
        assert_eq!((json!(said), json!(thought)), (message["content"].clone(), message["reasoning"].clone()));
    }
}

fn spelled(logprobs: &Value) -> Vec<u8> {
    let bytes = |token: &Value| {
        let bytes = token["bytes"].as_array().expect("bytes").iter();
        bytes.map(|byte| u8::try_from(byte.as_u64().expect("a number")).expect("a byte")).collect::<Vec<_>>()
    };
    logprobs["content"].as_array().expect("tokens").iter().flat_map(bytes).collect()
}

#[tokio::test]
async fn log_probabilities_spell_the_answer() {
    let server = serve().await;
    for effort in ["none", "low", "medium"] {
        let fields = json!({"reasoning_effort": effort, "logprobs": true, "top_logprobs": 4});
        let whole = server.chat(fields.clone()).await;
        let logprobs = &whole["choices"][0]["logprobs"];
        assert_eq!(logprobs["refusal"], Value::Null);
        assert_eq!(String::from_utf8(spelled(logprobs)).expect("UTF-8"), content(&whole, 0), "{effort}");
        for token in logprobs["content"].as_array().expect("tokens") {
            let value = |entry: &Value| entry["logprob"].as_f64().expect("a number");
            let top = token["top_logprobs"].as_array().expect("alternatives");
            assert_eq!(top.len(), 4);
            assert!(top.windows(2).all(|pair| value(&pair[0]) >= value(&pair[1])), "best first: {token}");
            assert!(value(token) <= value(&top[0]) && value(&top[0]) <= 0.0, "{token}");
            let mass: f64 = top.iter().map(|entry| value(entry).exp()).sum();
            assert!(mass <= 1.0 + 1e-4, "{mass}");
        }
        let chunks = server.stream(fields).await;
        let streamed: Vec<u8> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0]["logprobs"])
            .filter(|logprobs| !logprobs.is_null())
            .flat_map(spelled)
            .collect();
        assert_eq!(String::from_utf8(streamed).expect("UTF-8"), content(&whole, 0), "{effort}");
    }
}

#[tokio::test]
async fn stop_strings_end_the_answer_and_leave_the_thought_alone() {
    let server = serve().await;
    for (effort, stop, met) in [
        ("none", json!("boxed"), "boxed"),
        ("none", json!(["never said", "answer is"]), "answer is"),
        ("low", json!("boxed"), "boxed"),
        ("low", json!(["never said", "98"]), "98"),
        ("medium", json!("}"), "}"),
    ] {
        let free = server.chat(json!({"reasoning_effort": effort})).await;
        let (before, _) = content(&free, 0).split_once(met).expect("it is said");
        let fields = json!({"reasoning_effort": effort, "stop": stop});
        let stopped = server.chat(fields.clone()).await;
        assert_eq!(content(&stopped, 0), before, "{effort}");
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
        let thought = |body: &Value| body["choices"][0]["message"]["reasoning"].clone();
        assert_eq!(thought(&stopped), thought(&free), "{effort}");
        let tokens = |body: &Value| {
            let candidates = body["search"]["candidates"].as_array().expect("candidates");
            let selected = candidates.iter().find(|candidate| candidate["selected"] == true);
            selected.and_then(|candidate| candidate["tokens"].as_u64()).expect("a count")
        };
        assert!(tokens(&stopped) < tokens(&free), "{effort}");
        let (streamed, _) = joined(&server.stream(fields).await, 0);
        assert_eq!(streamed, before, "{effort}");
    }
    let free = server.chat(json!({"reasoning_effort": "low"})).await;
    // "=" is all over the thought and nowhere in the answer.
    let stopped = server.chat(json!({"reasoning_effort": "low", "stop": "="})).await;
    assert!(free["choices"][0]["message"]["reasoning"].as_str().is_some_and(|text| text.contains('=')));
    assert_eq!(stopped["choices"], free["choices"]);
}

#[tokio::test]
async fn ignored_keys_are_listed_and_others_are_not() {
    let server = serve().await;
    let fields = json!({
        "reasoning_effort": "none", "frobnicate": 1, "user": "u",
        "stream": true, "stream_options": {"hue": 2, "include_usage": true},
    });
    let reply = server.post(fields).await;
    assert_eq!(reply.header("x-ignored-params"), Some("frobnicate, stream_options.hue"));
    let reply = server.post(json!({"reasoning_effort": "none"})).await;
    assert_eq!(reply.header("x-ignored-params"), None);
}

#[tokio::test]
async fn reasoning_can_be_kept_out_and_is_counted_all_the_same() {
    let server = serve().await;
    let open = server.chat(json!({"reasoning_effort": "low"})).await;
    let hidden = server.chat(json!({"reasoning": {"effort": "low", "exclude": true}})).await;
    assert!(hidden["choices"][0]["message"].get("reasoning").is_none(), "{hidden}");
    assert!(hidden["choices"][0]["message"].get("reasoning_content").is_none(), "{hidden}");
    assert_eq!(content(&hidden, 0), content(&open, 0));
    assert_eq!(beside_cache(&hidden["usage"]), beside_cache(&open["usage"]));
    let fields = json!({"reasoning": {"effort": "medium", "exclude": true}});
    let (_, thought) = joined(&server.stream(fields).await, 0);
    assert_eq!(thought, "");
}

#[tokio::test]
async fn temperature_zero_runs_one_branch_and_says_so() {
    let server = serve().await;
    let fields = json!({"reasoning_effort": "high", "temperature": 0});
    let first = server.chat(fields.clone()).await;
    assert_eq!((&first["search"]["mode"], &first["search"]["branches"]["made"]), (&json!("cot"), &json!(1)));
    assert!(first["search"]["notes"][0].as_str().is_some_and(|note| note.contains("temperature 0")));
    let other = server.chat(json!({"reasoning_effort": "high", "temperature": 0, "seed": 99})).await;
    assert_eq!(first["choices"], other["choices"], "no seed matters");
}

#[tokio::test]
async fn a_drawn_seed_is_reported_and_gives_the_same_answer_again() {
    let server = serve().await;
    let fields = puzzle(json!({"reasoning_effort": "low", "temperature": 1, "seed": null}));
    let drawn = server.chat(fields.clone()).await;
    let mut again = fields;
    again["seed"] = drawn["search"]["seed"].clone();
    // A client to which every number is a double repeats it exactly.
    assert!(again["seed"].as_u64().is_some_and(|seed| seed < 1 << 53), "{}", again["seed"]);
    assert_eq!(server.chat(again).await["choices"], drawn["choices"]);
}

#[tokio::test]
async fn methods_paths_and_bodies_that_do_not_fit() {
    let server = serve().await;
    let good = body(json!({"reasoning_effort": "none"})).to_string();
    let kind = |reply: &crate::support::Reply| {
        let error = reply.error();
        (reply.status, error["code"].clone(), error["param"].clone(), error["type"].clone())
    };
    let ours = json!("invalid_request_error");

    let reply = server.send("HEAD", "/v1/models", None, "").await;
    assert_eq!((reply.status, reply.text.as_str()), (200, ""));
    let reply = server.send("HEAD", "/v1/chat/completions", None, "").await;
    assert_eq!((reply.status, reply.text.as_str(), reply.header("allow")), (405, "", Some("POST")));
    for method in ["GET", "DELETE", "PUT"] {
        let reply = server.send(method, "/v1/chat/completions", None, "").await;
        assert_eq!(kind(&reply), (405, json!("method_not_supported"), Value::Null, ours.clone()));
        assert_eq!(reply.header("allow"), Some("POST"));
    }
    let reply = server.send("POST", "/v1/chat/completion", Some(JSON), good.clone()).await;
    assert_eq!(kind(&reply), (404, Value::Null, Value::Null, ours.clone()));
    for content_type in [None, Some("text/plain")] {
        let reply = server.send("POST", "/v1/chat/completions", content_type, good.clone()).await;
        assert_eq!(kind(&reply), (415, json!("unsupported_content_type"), Value::Null, ours.clone()));
    }
    let reply =
        server.send("POST", "/v1/chat/completions", Some("application/json; charset=utf-8"), good).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    too_large(&server).await;
}

/// A client that sends more than is read must see the refusal, not a reset: it
/// reads the answer only when it is done with sending.
async fn too_large(server: &Served) {
    for size in [crate::support::BODY_LIMIT + 1, 12 << 20] {
        let reply = server.send("POST", "/v1/chat/completions", Some(JSON), " ".repeat(size)).await;
        let error = reply.error();
        assert_eq!((reply.status, &error["code"]), (413, &json!("request_too_large")));
        assert!(error["message"].as_str().is_some_and(|text| text.contains("1048576")), "{error:?}");
    }
    let pieces = futures_util::stream::iter((0..192).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 16])));
    let body = reqwest::Body::wrap_stream(pieces);
    let reply = server.send("POST", "/v1/chat/completions", Some(JSON), body).await;
    assert_eq!(reply.status, 413, "{}", reply.text);
}
