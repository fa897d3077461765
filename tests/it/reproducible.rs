//! Equal seeds give equal bodies: alone or in company, whole or streamed.

use crate::support::{PUZZLE, Served, beside_cache, joined, serve};
use futures_util::future::join_all;
use serde_json::{Value, json};

fn request(fields: Value, seed: u64) -> Value {
    let mut body = fields;
    body["messages"] = json!([{"role": "user", "content": PUZZLE}]);
    body["temperature"] = json!(1);
    body["seed"] = json!(seed);
    body
}

/// A body without what names this one completion.
async fn ask(server: &Served, request: Value) -> Value {
    let mut body = server.chat(request).await;
    let map = body.as_object_mut().expect("an object");
    assert!(map.shift_remove("id").is_some() && map.shift_remove("created").is_some());
    map["usage"] = beside_cache(&map["usage"]);
    if map["search"]["mode"] == "self_consistency" {
        // A vote that is decided gives up what is in flight, wherever that stands.
        assert!(map.shift_remove("usage").is_some());
        let search = map["search"].as_object_mut().expect("a report");
        assert!(search.shift_remove("spent").is_some() && search.shift_remove("sharing_ratio").is_some());
    }
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_decides_all_of_a_body_alone_in_company_and_streamed() {
    let server = serve().await;
    let kinds = [
        json!({"reasoning_effort": "none"}),
        json!({"reasoning_effort": "low", "n": 2, "logprobs": true}),
        json!({"reasoning_effort": "medium"}),
        json!({"reasoning_effort": "high", "max_completion_tokens": 1200}),
    ];
    let mut alone = Vec::new();
    for kind in &kinds {
        let first = ask(&server, request(kind.clone(), 7)).await;
        assert_eq!(ask(&server, request(kind.clone(), 7)).await, first, "{kind}: alone, twice");
        let other = ask(&server, request(kind.clone(), 8)).await;
        // Without a thought there is little to say in two ways.
        let alike = other["choices"] == first["choices"];
        assert!(!alike || kind["reasoning_effort"] == "none", "{kind}: another seed says something else");
        alone.push(first);
    }
    for (kind, expected) in kinds.iter().zip(&alone) {
        // Fifteen strangers of all sizes, begun before and ended after.
        let strangers = (0..15).map(|i| ask(&server, request(kinds[i % 3].clone(), 100 + i as u64)));
        let streamed = server.stream(request(kind.clone(), 7));
        let (_, whole, chunks) =
            tokio::join!(join_all(strangers), ask(&server, request(kind.clone(), 7)), streamed);
        assert_eq!(&whole, expected, "{kind}: among strangers");
        for (index, choice) in expected["choices"].as_array().expect("choices").iter().enumerate() {
            let (content, thought) = joined(&chunks, index as u64);
            assert_eq!(content, choice["message"]["content"].as_str().expect("text"), "{kind}: streamed");
            assert!(thought.ends_with(choice["message"]["reasoning"].as_str().unwrap_or_default()));
        }
    }
    server.idle().await;
}

#[tokio::test]
async fn a_prompt_that_is_known_says_so_changes_nothing_and_is_known_to_its_own_tenant_only() {
    let server = serve().await;
    let asked = |salt: Option<&str>| {
        let mut fields = request(json!({"reasoning_effort": "medium"}), 7);
        if let Some(salt) = salt {
            fields["cache_salt"] = json!(salt);
        }
        fields
    };
    let cached =
        |body: &Value| body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    let cold = server.chat(asked(None)).await;
    assert_eq!(cached(&cold), 0);
    let prompt = cold["usage"]["prompt_tokens"].as_u64().expect("a number");
    for (salt, known) in [(None, true), (Some("a"), false), (Some("b"), false), (Some("a"), true)] {
        let body = server.chat(asked(salt)).await;
        // Whole blocks of sixteen are known, and the last position never.
        let expected = if known { (prompt / 16 * 16).min(prompt - 1) } else { 0 };
        assert_eq!(cached(&body), expected, "{salt:?}");
        assert_eq!(body["choices"], cold["choices"], "{salt:?}");
    }
    let reused = server.counter("espalier_engine_prefix_reused_positions_total").await;
    assert_eq!(reused, 2 * (prompt / 16 * 16));
    server.idle().await;
}
