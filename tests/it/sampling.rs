//! The sampling fields of requests and of `generation_config.json`, from HTTP
//! down to the drawn token.

use crate::engine::{decode, ids, logits, path, read, rig, segment};
use crate::support::{Served, serve, serve_model};
use espalier::engine::Sampling;
use espalier::prompt::Tokenizer;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&read("models/seedling/policy/tokenizer.json")).expect("reads")
}

/// A request's content, with what every request here has in common.
async fn said(server: &Served, fields: Value) -> String {
    let mut all = json!({"reasoning_effort": "none", "max_completion_tokens": 24});
    all.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    let reply = server.chat(all).await;
    reply["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_smallest_sets_leave_the_likeliest_token() {
    let server = serve().await;
    let greedy = said(&server, json!({"temperature": 0})).await;
    let free = json!({"temperature": 2, "seed": 5});
    assert_ne!(said(&server, free.clone()).await, greedy);
    for (key, value) in [("top_k", json!(1)), ("min_p", json!(1)), ("top_p", json!(0))] {
        let mut fields = free.clone();
        fields[key] = value;
        assert_eq!(said(&server, fields).await, greedy, "{key}");
    }
    for off in [json!({"top_k": -1}), json!({"min_p": 0}), json!({"repetition_penalty": 1})] {
        let mut fields = free.clone();
        fields.as_object_mut().expect("an object").extend(off.as_object().expect("an object").clone());
        assert_eq!(said(&server, fields).await, said(&server, free.clone()).await, "{off}");
    }
}

#[tokio::test]
async fn biases_ban_and_force_tokens_and_repetition_counts_the_prompt() {
    let server = serve().await;
    let tokenizer = tokenizer();
    let id = |text: &str| match tokenizer.encode(text).expect("encodes").as_slice() {
        [id] => id.to_string(),
        more => panic!("{text} is {more:?}"),
    };
    // The example's problem says "Mina has 14 apples", and no question mark but one.
    let (seen, unseen, other) = (id("a"), id("="), id("("));
    let mut fields = json!({"temperature": 0, "max_completion_tokens": 4});
    fields["logit_bias"] = json!({seen.clone(): 100});
    assert_eq!(said(&server, fields.clone()).await, "aaaa");
    fields["logit_bias"] = json!({seen: 100, unseen: 90, other: 80});
    assert_eq!(said(&server, fields.clone()).await, "aaaa");
    fields["repetition_penalty"] = json!(10);
    fields["max_completion_tokens"] = json!(2);
    let message = json!([{"role": "user", "content": "a"}]);
    fields["messages"] = message;
    assert_eq!(said(&server, fields.clone()).await, "=(", "the prompt's token is penalised from the start");

    let greedy = said(&server, json!({"temperature": 0})).await;
    let first = tokenizer.encode(&greedy).expect("encodes")[0].to_string();
    let banned = said(&server, json!({"temperature": 0, "logit_bias": {first.clone(): -100}})).await;
    assert_ne!(tokenizer.encode(&banned).expect("encodes").first().map(u32::to_string), Some(first));
    let reply = server.post(json!({"logit_bias": {"640": 1}})).await;
    let error = reply.error();
    assert_eq!((reply.status, &error["param"]), (400, &json!("logit_bias")));
    assert!(
        error["message"].as_str().is_some_and(|m| m.contains("640. Expected a token id below 640")),
        "{error:?}"
    );
}

/// Each token of a greedy answer is the likeliest once the reported
/// log-probabilities are penalised by OpenAI's definition.
#[tokio::test]
async fn frequency_and_presence_penalties_follow_openais_definition() {
    let server = serve().await;
    let mut answers = Vec::new();
    for (frequency, presence) in [(0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (0.7, 1.3), (-1.5, 0.5)] {
        let fields = json!({
            "reasoning_effort": "none", "temperature": 0, "max_completion_tokens": 60, "logprobs": true,
            "top_logprobs": 20, "frequency_penalty": frequency, "presence_penalty": presence,
            // The answer never ends, so that there is much to repeat.
            "logit_bias": {"0": -100, "2": -100},
        });
        let reply = server.chat(fields).await;
        let tokens = reply["choices"][0]["logprobs"]["content"].as_array().expect("tokens").clone();
        let mut counts: HashMap<String, f64> = HashMap::new();
        for token in &tokens {
            let penalised = |entry: &Value| {
                let count = counts.get(&entry["bytes"].to_string()).copied().unwrap_or(0.0);
                let penalty = frequency * count + if count > 0.0 { presence } else { 0.0 };
                entry["logprob"].as_f64().expect("a number") - penalty
            };
            let ends = |entry: &&Value| {
                ["<|im_end|>", "<|endoftext|>"].contains(&entry["token"].as_str().unwrap_or(""))
            };
            let top = token["top_logprobs"].as_array().expect("alternatives");
            let best = top.iter().filter(|entry| !ends(entry)).map(penalised);
            let best = best.fold(f64::NEG_INFINITY, f64::max);
            assert!(penalised(token) >= best - 1e-4, "{frequency}, {presence}: {token}");
            *counts.entry(token["bytes"].to_string()).or_default() += 1.0;
        }
        assert_eq!(tokens.len(), 60);
        answers.push(reply["choices"][0]["message"]["content"].clone());
    }
    for (i, answer) in answers.iter().enumerate() {
        assert!(!answers[..i].contains(answer), "{answer}: no penalty without effect");
    }
}

/// The engine's greedy choices against the logits that another branch reports,
/// penalised one definition after the other; on a fork too, whose history is
/// its own and its parent's.
#[tokio::test]
async fn penalties_count_a_branchs_own_tokens_across_forks() {
    let rig = rig("models/seedling/policy");
    let prompt =
        tokenizer().encode("<|im_start|>user\nEvaluate (3 + 4) * 2.<|im_end|>\n<|im_start|>assistant\n");
    let prompt = prompt.expect("encodes");
    let sampling = Sampling {
        temperature: 0.0,
        repetition_penalty: 1.4,
        frequency_penalty: 0.6,
        presence_penalty: 0.9,
        // The first two end a text; this one goes on.
        bias: [(0, -100.0), (2, -100.0), (5, 1.5), (9, -2.0)].into(),
        ..Sampling::default()
    };
    let expected = |row: &[f32], tokens: &[u32]| {
        let adjusted = row.iter().enumerate().map(|(id, &logit)| {
            let mut logit =
                logit + sampling.bias.iter().find(|(b, _)| *b as usize == id).map_or(0.0, |b| b.1);
            let is = |token: &&u32| **token as usize == id;
            if tokens.iter().any(|token| is(&token)) {
                logit = if logit > 0.0 { logit / 1.4 } else { logit * 1.4 };
            }
            let count = tokens[prompt.len()..].iter().filter(is).count() as f32;
            logit - 0.6 * count - if count > 0.0 { 0.9 } else { 0.0 }
        });
        let best =
            adjusted.enumerate().fold((0, f32::NEG_INFINITY), |b, (id, l)| if l > b.1 { (id, l) } else { b });
        best.0 as u32
    };
    let root = rig.open(&prompt, 400, 4).await;
    root.settle().await.expect("settles");
    let mut piece = segment(20, 0.0);
    piece.sampling = sampling.clone();
    let parent = root.fork(1);
    let (grown, _) = decode(&parent, piece.clone()).await;
    parent.settle().await.expect("settles");
    let child = parent.fork(2);
    let (more, _) = decode(&child, piece).await;
    let mut whole = prompt.clone();
    whole.extend(ids(&grown).into_iter().chain(ids(&more)));
    assert_eq!((grown.len(), more.len()), (20, 20));

    let teller = rig.open(&whole, 400, 1).await;
    let rows = logits(&teller, 0..whole.len()).await;
    let mut plain = 0;
    for at in prompt.len()..whole.len() {
        assert_eq!(whole[at], expected(&rows[at - 1], &whole[..at]), "position {at}");
        let likeliest = rows[at - 1].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        plain += usize::from(rows[at - 1][whole[at] as usize] == likeliest);
    }
    assert!(plain < whole.len() - prompt.len(), "the penalties changed something");
}

/// The small checkpoint with another `generation_config.json`.
fn with_defaults(defaults: &Value) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(path("tests/fixtures/llama-gqa").join(file), folder.path().join(file)).expect("copied");
    }
    fs::write(folder.path().join("generation_config.json"), defaults.to_string()).expect("written");
    folder
}

#[tokio::test]
async fn the_models_defaults_hold_until_a_request_says_otherwise() {
    let folder = with_defaults(&json!({
        "eos_token_id": 2, "do_sample": false, "temperature": 1.5, "top_k": 1, "repetition_penalty": 1.0
    }));
    let server = serve_model(folder.path().to_str().expect("UTF-8")).await;
    let model = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
    let ask = |fields: Value| {
        let mut all =
            json!({"model": model, "logprobs": true, "messages": [{"role": "user", "content": "hi"}]});
        all.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        all
    };
    let greedy = said(&server, ask(json!({"temperature": 0}))).await;
    assert_eq!(said(&server, ask(json!({"seed": 1}))).await, greedy, "top_k 1 is the model's own");
    assert_eq!(said(&server, ask(json!({"seed": 2}))).await, greedy);
    let free: Vec<String> = [
        said(&server, ask(json!({"seed": 1, "top_k": 0}))).await,
        said(&server, ask(json!({"seed": 2, "top_k": 0}))).await,
    ]
    .into();
    assert!(free[0] != free[1] && !free.contains(&greedy), "do_sample is ignored: {free:?}");

    let folder = with_defaults(&json!({"eos_token_id": 2, "min_p": 2}));
    let error = espalier::app::load(folder.path().to_str().expect("UTF-8")).expect_err("out of bounds");
    let error = error.to_string();
    assert!(error.contains("generation_config.json: min_p = 2") && error.contains("0 to 1"), "{error}");
}

#[test]
fn every_end_that_a_checkpoint_names_ends_a_text() {
    let ends = |defaults: Value| {
        let folder = with_defaults(&defaults);
        espalier::app::load(folder.path().to_str().expect("UTF-8")).expect("loads").eos
    };
    // The tokenizer's own end of a turn, which is 2 here, is always one.
    assert_eq!(ends(json!({"eos_token_id": [2, 0]})), [2, 0]);
    assert_eq!(ends(json!({"eos_token_id": [0, 3, 0]})), [0, 3, 2]);
    assert_eq!(ends(json!({"eos_token_id": 1})), [1, 2]);
    assert_eq!(ends(json!({})), [2], "config.json names it too");
}

#[tokio::test]
async fn seeds_and_positions_alone_decide_among_what_the_cuts_leave() {
    let rig = rig("models/seedling/policy");
    let prompt: Arc<[u32]> = tokenizer().encode("<|im_start|>user\nhi<|im_end|>\n").expect("encodes").into();
    let mut piece = segment(30, 1.5);
    piece.sampling =
        Sampling { top_k: 12, min_p: 0.01, top_p: 0.95, presence_penalty: 0.5, ..piece.sampling };
    let root = rig.open(&prompt, 200, 8).await;
    root.settle().await.expect("settles");
    let alone = decode(&root.fork(3), piece.clone()).await;
    let forks: Vec<_> = (1..8).map(|key| root.fork(key)).collect();
    let all = futures_util::future::join_all(forks.iter().map(|fork| decode(fork, piece.clone()))).await;
    assert_eq!(all[2], alone);
    assert!(all.iter().any(|other| other.0 != alone.0), "the key decides");
}
