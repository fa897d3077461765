//! Events as one JSON body.

use super::{ApiError, Source, View, collect, spell_out};
use crate::engine::Token;
use crate::plan::{Budget, Effort, Mode, Parameter, Setting, Settings};
use crate::prompt::Tokenizer;
use crate::search::NodeId;
use crate::search::event::{
    BranchReport, BranchState, Candidate, ChoiceEvent, Event, Finish, Finished, Progress, Report, StopReason,
    Usage,
};
use crate::search::run::RunError;
use crate::search::tree::Tree;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::future::{Future, ready};
use std::sync::Arc;

/// A source that plays a list.
pub(in crate::http) struct Script(VecDeque<Result<ChoiceEvent, RunError>>);

impl Source for Script {
    fn next(&mut self) -> impl Future<Output = Option<Result<ChoiceEvent, RunError>>> + Send {
        ready(self.0.pop_front())
    }

    fn cached_tokens(&self) -> u32 {
        3
    }
}

pub(in crate::http) fn script(events: Vec<(u32, Event)>) -> Script {
    Script(events.into_iter().map(|(index, event)| Ok(ChoiceEvent { index, event })).collect())
}

/// The same, with a failure after the last event.
pub(in crate::http) fn failing(events: Vec<(u32, Event)>, error: RunError) -> Script {
    let mut script = script(events);
    script.0.push_back(Err(error));
    script
}

/// The smallest vocabulary that a library accepts.
pub(in crate::http) fn tokenizer() -> Arc<Tokenizer> {
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 2}, "unk_token": "<unk>"}
    });
    Arc::new(Tokenizer::from_json(json.to_string().as_bytes()).expect("a valid tokenizer"))
}

pub(in crate::http) fn view(n: u32) -> View {
    View {
        id: "chatcmpl-1".to_owned(),
        created: 7,
        model: "m".to_owned(),
        tokenizer: tokenizer(),
        n,
        prompt_tokens: 10,
        logprobs: None,
        exclude: false,
        include_usage: false,
        include_search: false,
        include_tree: false,
    }
}

pub(in crate::http) fn content(text: &str) -> Event {
    Event::Content { text: text.to_owned(), tokens: Vec::new() }
}

pub(in crate::http) fn thought(text: &str) -> Event {
    Event::Thought(text.to_owned())
}

pub(in crate::http) fn progress() -> Event {
    Event::Progress(Progress {
        branches_made: 3,
        branches_ended: 2,
        branches_planned: Some(4),
        tokens: 50,
        budget: 100,
        leading: Some(("42".to_owned(), 2)),
        outcome: true,
        changed: vec![BranchReport {
            id: NodeId(2),
            parent: NodeId::ROOT,
            tokens: 12,
            state: BranchState::Complete,
            answer: Some("42".to_owned()),
            score: Some(-0.5),
        }],
    })
}

pub(in crate::http) fn done(finish: Finish) -> Event {
    let mut settings = Settings::default();
    settings.set(Parameter::Branches, Setting::Count(2));
    Event::Done(Box::new(Finished {
        finish,
        usage: Usage { completion_tokens: 20, reasoning_tokens: 15 },
        report: Report {
            effort: Effort::Medium,
            mode: Mode::vote(2),
            settings,
            temperature: 0.8,
            budget: Budget {
                tokens: 100,
                reserve: 25,
                branches: 2,
                branch_tokens: 100,
                sample: 1,
                verifier_tokens: Some(30),
            },
            spent_tokens: 20,
            verifier: Some("a prm".to_owned()),
            verifier_tokens: 12,
            verifier_steps: 3,
            branches_made: 2,
            branches_kept: 1,
            branches_pruned: 1,
            sharing_ratio: 0.5,
            seed: u64::MAX,
            stop_reason: StopReason::Tokens,
            candidates: vec![Candidate {
                branch: NodeId(2),
                answer: Some("42".to_owned()),
                mean_logprob: f64::NEG_INFINITY,
                score: Some(0.25),
                tokens: 12,
                complete: true,
                selected: true,
            }],
            notes: vec!["a note".to_owned()],
        },
        tree: Tree::new(0),
    }))
}

/// The report of [`done`], as clients read it.
pub(in crate::http) fn report(index: u32) -> Value {
    json!({
        "index": index, "effort": "medium", "mode": "self_consistency",
        "parameters": {"branches": 2, "temperature": 0.8},
        "budget": {"tokens": 100, "answer_reserve": 25, "branches": 2, "verifier_tokens": 30},
        "spent": {"tokens": 20, "verifier_tokens": 12, "verified_steps": 3}, "branches": {"made": 2, "kept": 1, "pruned": 1},
        "verifier": "a prm", "sharing_ratio": 0.5, "seed": -1, "stop_reason": "budget_tokens",
        "candidates": [
            {"branch": 2, "answer": "42", "mean_logprob": null, "score": 0.25, "tokens": 12, "complete": true,
             "selected": true}
        ],
        "notes": ["a note"]
    })
}

/// Through text, as on the wire: a float must not show the digits of a wider one.
async fn body(source: Script, view: &View) -> Value {
    let body = collect(source, view).await.expect("a body");
    serde_json::from_str(&serde_json::to_string(&body).expect("serialises")).expect("JSON")
}

#[tokio::test]
async fn one_choice() {
    let events = vec![
        (0, progress()),
        (0, thought("2 + ")),
        (0, thought("2")),
        (0, content("4")),
        (0, done(Finish::Stop)),
    ];
    let expected = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m",
        "choices": [{
            "index": 0,
            "message": {
                "role": "assistant", "content": "4", "refusal": null,
                "reasoning_content": "2 + 2", "reasoning": "2 + 2"
            },
            "logprobs": null, "finish_reason": "stop"
        }],
        "usage": {
            "prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30,
            "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 15, "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0, "audio_tokens": 0
            }
        },
        "search": report(0)
    });
    assert_eq!(body(script(events), &view(1)).await, expected);
}

#[tokio::test]
async fn several_choices_add_up_and_the_prompt_counts_once() {
    let events = vec![
        (1, content("b")),
        (0, content("a")),
        (1, done(Finish::Length)),
        (0, content("a")),
        (0, done(Finish::Stop)),
    ];
    let body = body(script(events), &view(2)).await;
    assert_eq!(body["choices"][0]["message"]["content"], "aa");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["choices"][1]["index"], 1);
    assert_eq!(body["choices"][1]["message"]["content"], "b");
    assert_eq!(body["choices"][1]["finish_reason"], "length");
    assert_eq!(body["usage"]["prompt_tokens"], 10);
    assert_eq!(body["usage"]["completion_tokens"], 40);
    assert_eq!(body["usage"]["total_tokens"], 50);
    assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 30);
    let expected = json!({
        "effort": "medium", "mode": "self_consistency", "seed": -1, "spent": {"tokens": 40, "verifier_tokens": 24, "verified_steps": 6},
        "branches": {"made": 4, "kept": 2, "pruned": 2}, "choices": [report(0), report(1)]
    });
    assert_eq!(body["search"], expected);
}

#[tokio::test]
async fn reasoning_without_text_or_excluded_has_no_keys() {
    let silent = body(script(vec![(0, content("4")), (0, done(Finish::Stop))]), &view(1)).await;
    let view = View { exclude: true, ..view(1) };
    let excluded =
        body(script(vec![(0, thought("secret")), (0, content("4")), (0, done(Finish::Stop))]), &view).await;
    for body in [silent, excluded] {
        let expected = json!({"role": "assistant", "content": "4", "refusal": null});
        assert_eq!(body["choices"][0]["message"], expected);
    }
}

#[tokio::test]
async fn a_run_that_fails_or_breaks_off_gives_its_error_and_no_body() {
    let late = RunError::Deadline { seconds: 2.0 };
    let error = collect(failing(vec![(0, content("4"))], late.clone()), &view(1)).await;
    assert_eq!(error.expect_err("failed"), ApiError::Run(late));
    let error = collect(script(vec![(0, done(Finish::Stop))]), &view(2)).await;
    assert_eq!(error.expect_err("unfinished").status(), 500);
    let error = collect(script(vec![(7, content("4"))]), &view(1)).await;
    assert_eq!(error.expect_err("stray").status(), 500);
}

fn token(id: u32, logprob: f32) -> Token {
    let top = vec![(2, -0.1), (3, f32::NEG_INFINITY)];
    Token { id, logprob, top, text: String::new() }
}

#[test]
fn logprobs_spell_bytes_and_replace_what_json_cannot_say() {
    // Token 2 is half of a character.
    let bytes = |id| if id == 2 { vec![0xc3] } else { b"a".to_vec() };
    let shown = spell_out(&[token(1, -0.5), token(2, f32::NAN)], 2, bytes);
    let top = json!([
        {"token": "\u{fffd}", "logprob": -0.1, "bytes": [0xc3]},
        {"token": "a", "logprob": -9999.0, "bytes": [97]}
    ]);
    let expected = json!({"refusal": null, "content": [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top},
        {"token": "\u{fffd}", "logprob": -9999.0, "bytes": [0xc3], "top_logprobs": top}
    ]});
    let text = serde_json::to_string(&shown).expect("serialises");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected);
}

#[test]
fn as_many_alternatives_are_shown_as_were_asked_for() {
    for (top, shown) in [(0, 0), (1, 1), (5, 2)] {
        let logprobs = spell_out(&[token(1, -0.5)], top, |_| Vec::new());
        assert_eq!(logprobs.content[0].top_logprobs.len(), shown);
    }
}

#[tokio::test]
async fn logprobs_cover_the_whole_answer_where_asked_for() {
    let piece = |id| Event::Content { text: "x".to_owned(), tokens: vec![token(id, -0.5)] };
    let events = || script(vec![(0, piece(1)), (0, piece(2)), (0, done(Finish::Stop))]);
    let asked = View { logprobs: Some(0), ..view(1) };
    let body_with = body(events(), &asked).await;
    let logprobs = &body_with["choices"][0]["logprobs"];
    assert_eq!(logprobs["content"].as_array().map(Vec::len), Some(2));
    assert_eq!(logprobs["content"][0]["top_logprobs"], json!([]));
    assert_eq!(logprobs["refusal"], Value::Null);
    assert_eq!(body(events(), &view(1)).await["choices"][0]["logprobs"], Value::Null);
}
