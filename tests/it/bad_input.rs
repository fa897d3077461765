//! Requests that must be refused: by hand with everything that the answer says,
//! and by chance with the promise that no request is the server's fault.

use crate::support::{CHAT, JSON, PROBLEM, Served, body, serve};
use espalier::engine::rng;
use serde_json::{Map, Value, json};

/// Sends fields over the example and checks the envelope.
async fn refused(server: &Served, fields: Value, param: &str, code: &str, said: &[&str]) {
    let reply = server.post(fields.clone()).await;
    let error = reply.error();
    let text = reply.text.as_str();
    assert_eq!(reply.status, 400, "{fields}: {text}");
    assert_eq!(error["type"], "invalid_request_error", "{fields}: {text}");
    assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{fields}: {text}");
    let message = error["message"].as_str().expect("text");
    for part in said {
        assert!(message.contains(part), "{fields}: {part:?} is not in: {message}");
    }
}

/// One row per code; which fields have which bounds is a matter of the parser,
/// whose tests have a row for each.
#[tokio::test]
async fn every_kind_of_refusal_names_the_field_what_is_wrong_and_what_came() {
    let server = serve().await;
    let invalid = "invalid_value";
    for (fields, param, code, said) in [
        (json!({"n": 0}), "n", "integer_below_min_value", [">= 1", "got 0"]),
        (json!({"n": 129}), "n", "integer_above_max_value", ["<= 128", "got 129"]),
        (json!({"temperature": -0.1}), "temperature", "decimal_below_min_value", [">= 0", "got -0.1"]),
        (json!({"temperature": 2.5}), "temperature", "decimal_above_max_value", ["<= 2", "got 2.5"]),
        (json!({"messages": "hi"}), "messages", "invalid_type", ["an array of objects", "a string"]),
        (json!({"messages": [7]}), "messages[0]", "invalid_type", ["an object", "an integer"]),
        (json!({"messages": null}), "messages", "missing_required_parameter", ["Missing", "'messages'"]),
        (json!({"messages": []}), "messages", "empty_array", ["minimum length 1", "empty array"]),
        (json!({"stop": ""}), "stop", "empty_string", ["minimum length 1", "empty string"]),
        (
            json!({"stop": ["a", "b", "c", "d", "e"]}),
            "stop",
            "array_above_max_length",
            ["maximum length 4", "length 5"],
        ),
        (
            json!({"metadata": {"a": "v".repeat(513)}}),
            "metadata.a",
            "string_above_max_length",
            ["512", "513"],
        ),
        (
            json!({"metadata": (0..17).map(|i| (i.to_string(), json!(""))).collect::<Map<_, _>>()}),
            "metadata",
            "object_above_max_properties",
            ["16", "17"],
        ),
        (
            json!({"reasoning_effort": "heroic"}),
            "reasoning_effort",
            invalid,
            ["'heroic'", "'xhigh', and 'max'"],
        ),
        (
            json!({"reasoning_effort": "low", "reasoning": {"effort": "high"}}),
            "reasoning.effort",
            invalid,
            ["'high'", "'low'"],
        ),
        (
            json!({"reasoning": {"hue": 1}}),
            "reasoning.hue",
            "unknown_parameter",
            ["Unknown", "reasoning.hue"],
        ),
        (json!({"tools": [{}]}), "tools", "unsupported_parameter", ["tools", "not supported"]),
        (json!({"min_tokens": 5}), "min_tokens", "unsupported_parameter", ["min_tokens", "but as 0"]),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
            "messages[0].content[0].type",
            "unsupported_value",
            ["input_audio", "text"],
        ),
    ] {
        refused(&server, fields, param, code, &said).await;
    }
    // A refusal of a stream is a status and no event.
    refused(&server, json!({"n": 0, "stream": true}), "n", "integer_below_min_value", &[]).await;

    let reply = server.post(json!({"model": "gpt-9"})).await;
    let error = reply.error();
    assert_eq!((reply.status, &error["code"]), (404, &json!("model_not_found")));
    assert_eq!(error["message"], "The model `gpt-9` does not exist or you do not have access to it.");
    assert_eq!(server.metrics.engine.steps.get(), 0, "a refused request costs the engine nothing");
}

#[tokio::test]
async fn a_prompt_past_the_context_says_both_lengths() {
    let server = serve().await;
    let long = PROBLEM.repeat(400);
    let reply = server.post(json!({"messages": [{"role": "user", "content": long}]})).await;
    let error = reply.error();
    assert_eq!(
        (reply.status, &error["code"], &error["param"]),
        (400, &json!("context_length_exceeded"), &json!("messages"))
    );
    let message = error["message"].as_str().expect("text");
    let tokens = message
        .strip_prefix(
            "This model's maximum context length is 2048 tokens. However, your messages resulted in ",
        )
        .and_then(|rest| rest.split_once(" tokens."))
        .and_then(|(tokens, _)| tokens.parse::<u32>().ok());
    assert!(tokens.is_some_and(|tokens| tokens > 2048), "{message}");
    // A bound past the context is no such thing: it is clamped.
    for bound in [100_000, 4_294_967_296, i64::MAX] {
        let fields = json!({"reasoning_effort": "none", "max_completion_tokens": bound});
        let reply = server.post(fields).await;
        assert_eq!(reply.status, 200, "{bound}: {}", reply.text);
    }
    let fields =
        json!({"reasoning": {"effort": "none", "budget": {"seconds": 1e300, "tokens": 4_000_000_000_u32}}});
    assert_eq!(server.post(fields).await.status, 200, "a deadline past all clocks is none");
}

#[tokio::test]
async fn bodies_that_are_no_json_objects() {
    let server = serve().await;
    let good = body(json!({"reasoning_effort": "none"})).to_string();
    let mut broken: Vec<Vec<u8>> =
        ["", " ", "null", "7", "[]", "\"x\"", "{", "{\"model\":}", "\u{feff}{}", "nope"]
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect();
    broken.push(good.as_bytes()[..good.len() - 1].to_vec());
    broken.push(format!("{good}{good}").into_bytes());
    broken.push(b"{\"model\": \"\xff\"}".to_vec());
    broken.push("[".repeat(100_000).into_bytes());
    broken.push("{\"a\":".repeat(100_000).into_bytes());
    for bytes in broken {
        let reply = server.send("POST", CHAT, Some(JSON), bytes.clone()).await;
        let error = reply.error();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(
            (reply.status, &error["param"], &error["code"]),
            (400, &Value::Null, &Value::Null),
            "{shown}"
        );
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().expect("text");
        assert!(
            message.starts_with("We could not parse the JSON body of your request."),
            "{shown}: {message}"
        );
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_do_no_harm() {
    let server = serve().await;
    for bytes in ["\r\n\r\n", "GET\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n", "POST / HTTP/9.9\r\n\r\n"] {
        drop(server.raw(bytes).await);
    }
    // A body that is shorter than declared, and then nobody.
    let request = server.raw_chat(json!({}));
    drop(server.raw(&request[..request.len() - 5]).await);
    assert_eq!(server.get("/health").await.status, 200);
}

/// A source of chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 += 1;
        usize::try_from(rng::derive(0xbad, self.0) % end as u64).expect("small")
    }

    fn value(&mut self) -> Value {
        let values = [
            json!(null),
            json!(true),
            json!(0),
            json!(-1),
            json!(1),
            json!(2.5),
            json!(1e308),
            json!(-1e308),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(""),
            json!("none"),
            json!("\u{0}\u{ffff}é\\"),
            json!("\u{1f9ea}"),
            json!([]),
            json!({}),
            json!([[]]),
            json!([null]),
            json!({"type": "text", "text": "x"}),
            json!({"tokens": 1, "seconds": 1e9}),
            json!("<|im_end|>"),
            json!(["a", "b"]),
        ];
        values[self.below(values.len())].clone()
    }

    /// Changes one place of a tree.
    fn mutate(&mut self, value: &mut Value, top: bool) {
        // The body itself is nearly always kept, or there would be little to read.
        let deeper = self.below(if top { 40 } else { 3 }) > 0;
        match value {
            Value::Object(map) if deeper && !map.is_empty() => {
                let at = self.below(map.len());
                let key = map.keys().nth(at).expect("in range").clone();
                match self.below(6) {
                    0 => drop(map.shift_remove(&key)),
                    1 => drop(map.insert(format!("{key}{at}"), self.value())),
                    _ => self.mutate(&mut map[&key], false),
                }
            }
            Value::Array(items) if deeper && !items.is_empty() => {
                let at = self.below(items.len());
                match self.below(4) {
                    0 => items.push(self.value()),
                    _ => self.mutate(&mut items[at], false),
                }
            }
            other => *other = self.value(),
        }
    }
}

/// Every field that is read, in a request that is cheap where it is good.
fn full() -> Value {
    json!({
        "model": "seedling",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Compute 1 + 1."}]},
        ],
        "reasoning": {
            "effort": "medium", "mode": "standard", "branches": 2, "exclude": false, "summary": "auto",
            "enabled": true, "generate_summary": "auto", "context": "auto",
            "budget": {"tokens": 6, "seconds": 9.5, "branches": 3, "verifier_tokens": 1},
        },
        "max_completion_tokens": 4, "n": 1, "temperature": 0.5, "top_p": 0.9, "seed": 1,
        "stop": ["zzz"], "logprobs": true, "top_logprobs": 1, "stream": false,
        "frequency_penalty": 0, "logit_bias": {}, "response_format": {"type": "text"}, "modalities": ["text"],
        "metadata": {"a": "b"}, "user": "u", "store": false, "verbosity": "low", "service_tier": "auto",
    })
}

#[tokio::test]
async fn no_body_by_chance_is_the_servers_fault() {
    let server = serve().await;
    assert_eq!(
        server.send("POST", CHAT, Some(JSON), full().to_string()).await.status,
        200,
        "the seed is good"
    );
    let mut dice = Dice(0);
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    for round in 0..300 {
        let mut body = full();
        for _ in 0..=dice.below(2) {
            dice.mutate(&mut body, true);
        }
        let mut bytes = body.to_string().into_bytes();
        // A third of them is hurt as text, too.
        if round % 3 == 0 {
            let at = dice.below(bytes.len());
            match dice.below(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] = u8::try_from(dice.below(256)).expect("a byte"),
                _ => drop(bytes.splice(at..at, b"\"}]".iter().copied())),
            }
        }
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let reply = server.send("POST", CHAT, Some(JSON), bytes).await;
        *statuses.entry(reply.status).or_default() += 1;
        match reply.status {
            200 if shown.contains("\"stream\":true") => {}
            200 => assert!(reply.json()["choices"].is_array(), "{shown}: {}", reply.text),
            400 | 404 => {
                let error: Map<String, Value> = reply.error();
                assert_eq!(error["type"], "invalid_request_error", "{shown}");
            }
            other => panic!("{other} for {shown}: {}", reply.text),
        }
    }
    let count = |status| statuses.get(&status).copied().unwrap_or(0);
    assert!(count(200) > 30 && count(400) > 100, "both kinds in numbers: {statuses:?}");
    server.idle().await;
}
