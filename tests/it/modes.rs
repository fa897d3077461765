//! Every mode and variant on the bundled models: its answer, its account and its
//! tree, whole and streamed, alone and among strangers; and parameters that are
//! out of bounds or of another mode.

use crate::support::{PROBLEM, PUZZLE, Served, branches, counter, joined, positions, serve};
use espalier::app::{self, Hub, Scorer};
use espalier::config::{Environment, ModelArgs};
use espalier::engine::tree::{self, TreeEngine};
use espalier::engine::{EngineThread, Priority};
use espalier::metrics::Metrics;
use espalier::plan::{
    BudgetParams, Kind, ModeName, PARAMETERS, Parameter, Params, Planner, PlannerParts, SamplingParams,
    Setting, Settings, Verifiers,
};
use espalier::prompt::Message;
use espalier::search::event::{Event, Finished};
use espalier::search::run::{Delivery, Runner};
use espalier::verify::{Judge, Verifier};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// A small search of every kind: (name, `reasoning`).
fn variants() -> Vec<(&'static str, Value)> {
    let small = |mut reasoning: Value| {
        reasoning["budget"] = json!({"tokens": 2_000});
        reasoning
    };
    [
        ("direct", json!({"mode": "direct"})),
        ("cot", json!({"mode": "cot"})),
        ("vote fixed", json!({"mode": "self_consistency", "branches": 6, "stop": "fixed", "vote": "count"})),
        ("vote posterior", json!({"mode": "self_consistency", "branches": 8, "stop": "posterior"})),
        ("vote window", json!({"mode": "self_consistency", "branches": 8, "wave": 3, "stop": "window"})),
        (
            "vote confidence",
            json!({"mode": "self_consistency", "branches": 5, "vote": "confidence", "confidence": "bottom",
                   "confidence_window": 8}),
        ),
        ("best", json!({"mode": "best_of_n", "branches": 5, "weighted": false, "aggregate": "min"})),
        ("best judged", json!({"mode": "best_of_n", "branches": 5, "rank": "judge"})),
        ("best likely", json!({"mode": "best_of_n", "branches": 5, "rank": "likelihood"})),
        ("beam", json!({"mode": "beam", "width": 3, "expansion": 3})),
        ("dvts", json!({"mode": "beam", "width": 2, "expansion": 3, "variant": "dvts", "final": "best"})),
        ("rebase", json!({"mode": "beam", "width": 3, "expansion": 3, "variant": "rebase"})),
        ("lookahead", json!({"mode": "lookahead", "width": 2, "expansion": 2, "lookahead": 2})),
        ("uct", json!({"mode": "mcts", "width": 3, "simulations": 20})),
        (
            "puct",
            json!({"mode": "mcts", "select": "puct", "value": "step", "widening": 0.5, "final": "visits",
                   "in_flight": 1, "simulations": 20}),
        ),
        ("rollouts", json!({"mode": "mcts", "value": "rollouts", "width": 2, "simulations": 8})),
        ("auto", json!({"mode": "auto", "probe": 3, "width": 3, "simulations": 20})),
    ]
    .into_iter()
    .map(|(name, reasoning)| (name, small(reasoning)))
    .collect()
}

fn asked(reasoning: &Value, seed: u64) -> Value {
    let messages = json!([{"role": "user", "content": PUZZLE}]);
    let mut reasoning = reasoning.clone();
    reasoning["include_tree"] = json!(true);
    json!({"messages": messages, "reasoning": reasoning, "seed": seed})
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// What the server has counted so far: tokens by the engine and by the runs, and
/// positions that the engine has computed for the first time, copied or found; and
/// the verifier's tokens.
async fn counted(server: &Served) -> [u64; 4] {
    let text = server.get("/metrics").await.text;
    let [sampled, injected, completed, computed, copied, reused, read] = [
        "espalier_engine_sampled_tokens_total",
        "espalier_engine_injected_tokens_total",
        "espalier_completion_tokens_total",
        "espalier_engine_computed_positions_total",
        "espalier_engine_copied_positions_total",
        "espalier_engine_prefix_reused_positions_total",
        "espalier_verifier_tokens_total",
    ]
    .map(|name| counter(&text, name));
    [sampled + injected, completed, computed + copied + reused, read]
}

/// What a body says apart from what depends on the pace of the engine: a vote
/// that is decided gives up what is in flight, wherever that stands.
fn lasting(body: &Value) -> Value {
    let search = &body["search"];
    json!([
        body["choices"],
        search["mode"],
        search["parameters"],
        search["candidates"],
        search["stop_reason"],
        search["seed"],
        search["notes"],
    ])
}

/// Asks, and checks every count of what that has cost against the others.
pub(crate) async fn accounted(server: &Served, (name, reasoning): (&str, &Value)) -> Value {
    let before = counted(server).await;
    let body = server.chat(asked(reasoning, 5)).await;
    // A prompt may be settling still for work that was called off.
    server.idle().await;
    let after = counted(server).await;
    let [sampled, completed, computed, read]: [u64; 4] = std::array::from_fn(|i| after[i] - before[i]);
    let search = &body["search"];
    assert_eq!(search["mode"], reasoning["mode"], "{name}: {search}");
    let spent = number(&body["usage"]["completion_tokens"]);
    assert_eq!([sampled, completed], [spent; 2], "{name}: engine, runs");
    assert_eq!(number(&search["spent"]["tokens"]), spent, "{name}");
    assert_eq!(number(&search["spent"]["verifier_tokens"]), read, "{name}: the verifier");
    assert!(0 < spent && spent <= 1_500, "{name}: {spent}");
    let tree = search["tree"].as_array().expect("a tree");
    assert_eq!(tree.iter().map(|node| number(&node["tokens"])).sum::<u64>(), spent, "{name}: the tree");
    // A judge reads on the same engine, all that it is asked.
    let judged = search["verifier"].as_str().is_some_and(|verifier| verifier.ends_with("as judge"));
    let beside = number(&body["usage"]["prompt_tokens"]) + if judged { read } else { 0 };
    let own = positions(&branches(&search["tree"]));
    if judged && name.starts_with("vote") {
        // A vote that is decided has paid for what it asked, and does not wait for it.
        assert!(computed <= own.end() + beside && computed >= own.start() + beside - read, "{name}");
    } else {
        assert!(
            (own.start() + beside..=own.end() + beside).contains(&computed),
            "{name}: {computed} positions, {own:?} in the tree, {beside} beside it"
        );
    }
    let made = &search["branches"];
    assert_eq!(tree.len() as u64, number(&made["made"]), "{name}");
    assert_eq!(number(&made["kept"]) + number(&made["pruned"]), number(&made["made"]), "{name}");
    // The answer is the text along the selected branch.
    let candidates = search["candidates"].as_array().expect("candidates");
    let selected: Vec<&Value> = candidates.iter().filter(|c| c["selected"] == true).collect();
    let [selected] = selected.as_slice() else { panic!("{name}: {candidates:?}") };
    let (mut text, mut at, mut tokens) = (String::new(), number(&selected["branch"]), 0);
    while at > 0 {
        let node = tree.iter().find(|node| node["id"] == at).expect("a branch");
        text.insert_str(0, node["text"].as_str().expect("text"));
        tokens += number(&node["tokens"]);
        at = number(&node["parent"]);
    }
    assert_eq!(tokens, number(&selected["tokens"]), "{name}");
    let message = &body["choices"][0]["message"];
    let said = [&message["reasoning"], &message["content"]].map(|part| part.as_str().unwrap_or_default());
    assert_eq!(text, said.concat(), "{name}");
    body
}

#[tokio::test]
async fn every_mode_accounts_for_every_token_and_position_of_its_tree() {
    let server = serve().await;
    for (name, reasoning) in variants() {
        let body = accounted(&server, (name, &reasoning)).await;
        let search = &body["search"];
        // Every parameter that was asked for is shown as it was used.
        for (key, value) in reasoning.as_object().expect("an object") {
            if Parameter::named(key).is_some() {
                assert_eq!(&search["parameters"][key], value, "{name}: {key}");
            }
        }
        // There is one right number, but for a tree search that has enough: what it
        // calls off may wait at a fork for which a branch is just computed.
        let own = positions(&branches(&search["tree"]));
        assert!(own.start() == own.end() || reasoning["mode"] == "mcts", "{name}: {own:?}");
        let scored = number(&search["spent"]["verified_steps"]) > 0;
        let silent = ["direct", "cot", "vote fixed", "vote confidence", "best likely", "rollouts"];
        assert_eq!(scored, !silent.contains(&name), "{name}: {search}");
        assert_eq!(search["verifier"].is_string(), scored, "{name}");
        let judged = search["verifier"] == "seedling as judge";
        assert_eq!(judged, name == "best judged", "{name}: {search}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_says_the_same_alone_streamed_and_among_strangers() {
    let server = serve().await;
    let variants = variants();
    let mut alone = Vec::new();
    for (name, reasoning) in &variants {
        let body = server.chat(asked(reasoning, 7)).await;
        let chunks = server.stream(asked(reasoning, 7)).await;
        let (content, thought) = joined(&chunks, 0);
        let message = &body["choices"][0]["message"];
        assert_eq!(content, message["content"].as_str().expect("text"), "{name}: streamed");
        assert!(thought.ends_with(message["reasoning"].as_str().unwrap_or_default()), "{name}");
        let report = &chunks.last().expect("chunks")["search"];
        for key in ["mode", "parameters", "candidates", "stop_reason", "notes"] {
            assert_eq!(report[key], body["search"][key], "{name}: {key}");
        }
        if !name.starts_with("vote") {
            for key in ["spent", "branches", "sharing_ratio", "tree"] {
                assert_eq!(report[key], body["search"][key], "{name}: {key}");
            }
        }
        alone.push(body);
    }
    let others = variants.iter().map(|(_, reasoning)| server.chat(asked(reasoning, 99)));
    let again = variants.iter().map(|(_, reasoning)| server.chat(asked(reasoning, 7)));
    let (_, together) = tokio::join!(join_all(others), join_all(again));
    for (((name, _), alone), together) in variants.iter().zip(&alone).zip(&together) {
        assert_eq!(lasting(alone), lasting(together), "{name}");
    }
    server.idle().await;
}

#[tokio::test]
async fn a_verifier_s_part_of_the_budget_is_never_exceeded() {
    let server = serve().await;
    let mut ended = 0;
    for (name, reasoning) in variants() {
        let free = server.chat(asked(&reasoning, 5)).await;
        let needed = number(&free["search"]["spent"]["verifier_tokens"]);
        for bound in [0, 1, needed / 4, needed / 2, needed.saturating_sub(1), needed] {
            let mut bounded = reasoning.clone();
            bounded["budget"]["verifier_tokens"] = json!(bound);
            let body = server.chat(asked(&bounded, 5)).await;
            let search = &body["search"];
            let spent = number(&search["spent"]["verifier_tokens"]);
            assert!(spent <= bound, "{name}: {spent} of {bound}");
            assert_eq!(search["budget"]["verifier_tokens"], bound, "{name}");
            let said = body["choices"][0]["message"]["content"].as_str().expect("text");
            assert!(!said.is_empty(), "{name}: an answer all the same");
            let notes = search["notes"].to_string();
            let chains = name.starts_with("vote") || name.starts_with("best");
            if notes.contains("the verifier's part of the budget is spent") {
                ended += 1;
                let so = if chains { "weigh what the others do" } else { "ended with what it had" };
                assert!(notes.contains(so), "{name}: {notes}");
                // Chains end by themselves, whatever is said of their scores.
                assert_eq!(search["stop_reason"] == "budget_verifier_tokens", !chains, "{name}: {search}");
            } else {
                assert!(needed == 0 || bound == needed || name.starts_with("vote"), "{name}: {search}");
                assert_ne!(search["stop_reason"], "budget_verifier_tokens", "{name}");
            }
        }
    }
    assert!(ended > 20, "{ended}");
    server.idle().await;
}

#[tokio::test]
async fn samples_that_say_the_same_are_scored_once() {
    let server = serve().await;
    for (name, reasoning) in [
        ("best", json!({"mode": "best_of_n", "branches": 12})),
        ("beam", json!({"mode": "beam", "width": 4, "expansion": 4})),
        ("mcts", json!({"mode": "mcts", "simulations": 24, "width": 4})),
    ] {
        let mut request = asked(&reasoning, 5);
        request["messages"][0]["content"] = json!(PROBLEM);
        let body = server.chat(request).await;
        let tree = body["search"]["tree"].as_array().expect("a tree");
        let scores = |id: u64| {
            let node = tree.iter().find(|node| node["id"] == id);
            node.and_then(|node| node["scores"].as_array()).cloned().unwrap_or_default()
        };
        let (mut said, mut steps, mut equal) = (HashMap::new(), 0, 0);
        for node in tree.iter().filter(|node| node["scores"].is_array()) {
            let (own, parent) = (scores(number(&node["id"])), number(&node["parent"]));
            match said.insert((parent, node["text"].to_string()), own.clone()) {
                None => steps += own.len() - scores(parent).len(),
                Some(others) => {
                    equal += 1;
                    assert_eq!(others, own, "{name}: {node}");
                }
            }
        }
        assert!(equal > 0, "{name}: all samples differ");
        assert_eq!(number(&body["search"]["spent"]["verified_steps"]), steps as u64, "{name}");
    }
    server.idle().await;
}

#[tokio::test]
async fn parameters_out_of_bounds_and_of_other_modes_are_refused_by_name() {
    let server = serve().await;
    for spec in &PARAMETERS {
        let mode = spec.modes[0].name();
        let refused = |value: Value| {
            let mut reasoning = json!({"mode": mode});
            reasoning[spec.name] = value;
            server.post(json!({"reasoning": reasoning}))
        };
        let (wrong, bounds): (Vec<Value>, Vec<String>) = match spec.kind {
            Kind::Count(least, most) => (
                vec![json!(i64::from(least) - 1), json!(i64::from(most) + 1)],
                vec![format!(">= {least}"), format!("<= {most}")],
            ),
            Kind::Number(least, most) => {
                (vec![json!(least - 0.125), json!(most * 2.0)], vec![format!("{least}"), format!("{most}")])
            }
            Kind::Choice(words) => (vec![json!("nonsense")], vec![words[0].to_owned()]),
            Kind::Flag => (vec![json!(1)], vec!["a boolean".to_owned()]),
        };
        for (value, bound) in wrong.into_iter().zip(bounds) {
            let reply = refused(value.clone()).await;
            let error = reply.error();
            let message = error["message"].as_str().expect("text");
            assert_eq!((reply.status, &error["param"]), (400, &json!(format!("reasoning.{}", spec.name))));
            assert!(message.contains(&bound), "{} = {value}: {message} lacks {bound}", spec.name);
        }
        // Of another mode: refused where the mode is named, else noted.
        let value = match (spec.default, spec.kind) {
            (Some(Setting::Count(count)), _) => json!(count),
            (Some(Setting::Number(number)), _) => json!(number),
            (Some(Setting::Choice(word)), _) => json!(word),
            (Some(Setting::Flag(flag)), _) => json!(flag),
            (None, Kind::Choice(words)) => json!(words[0]),
            (None, other) => panic!("{other:?}"),
        };
        let mut reasoning = json!({"mode": "cot"});
        reasoning[spec.name] = value;
        let reply = server.post(json!({"reasoning": reasoning})).await;
        let error = reply.error();
        assert_eq!((reply.status, &error["param"]), (400, &json!(format!("reasoning.{}", spec.name))));
        assert!(error["message"].as_str().expect("text").contains("'cot'"), "{error:?}");
        reasoning.as_object_mut().expect("an object").shift_remove("mode");
        reasoning["effort"] = json!("low");
        let notes = server.chat(json!({"reasoning": reasoning})).await["search"]["notes"].to_string();
        assert!(notes.contains(&format!("{} is no parameter of cot", spec.name)), "{notes}");
    }
}

/// The bundled models on engines whose counters these tests read.
pub(crate) struct Rig {
    planner: Planner,
    runner: Runner,
    /// The model as its own judge.
    pub(crate) judge: Verifier,
    metrics: Arc<Metrics>,
    _threads: Vec<EngineThread>,
}

/// With its process reward model as the verifier, or itself as the judge.
pub(crate) async fn rig(judged: bool) -> Rig {
    let hub = Hub::new(&Environment::default());
    let found = app::find(&ModelArgs::from("seedling"), &hub).await.expect("bundled");
    let loaded = found.check().expect("fits").load(&mut |_, _| {}).expect("loads");
    let tokenizer = Arc::new(loaded.tokenizer);
    let metrics = Arc::new(Metrics::new().expect("unique names"));
    let [policy, prm] = [&metrics.engine, &metrics.verifier_engine].map(Arc::clone);
    let settings = || tree::Config {
        kv_bytes: 64 << 20,
        threads: 1,
        step_positions: 256,
        // Of a judge every reading is a request.
        queue: 256,
        grouped: true,
        twins: true,
    };
    let engine = TreeEngine::new(loaded.model, loaded.eos, Arc::clone(&tokenizer), policy, &settings())
        .expect("builds");
    let (thread, handle) = EngineThread::spawn(engine).expect("a thread");
    let Some(Scorer::Here(scores)) = loaded.prm else { panic!("the bundled model comes with its verifier") };
    let engine =
        TreeEngine::new(scores.model, Vec::new(), scores.tokenizer, prm, &settings()).expect("builds");
    let (second, scoring) = EngineThread::spawn(engine).expect("a thread");
    let judge = Judge::new(
        loaded.config.judge,
        Arc::clone(&tokenizer),
        loaded.template.clone(),
        loaded.config.prompt.border(),
    );
    let judge = Verifier::judge("the judge".to_owned(), handle.clone(), judge.expect("a judge"));
    let verifier = if judged { judge.clone() } else { Verifier::new(scores.name, scoring, scores.format) };
    let planner = Planner::new(PlannerParts {
        config: loaded.config.plan,
        prompt: loaded.config.prompt,
        template: loaded.template,
        tokenizer,
        caps: handle.caps().clone(),
        defaults: loaded.sampling,
        verifiers: Verifiers { prm: Some(verifier.aggregate()), judge: Some(judge.aggregate()) },
    })
    .expect("the marker encodes");
    let runner = Runner::new(handle, Some(verifier), Arc::clone(&metrics)).with_judge(Some(judge.clone()));
    Rig { planner, runner, judge, metrics, _threads: vec![thread, second] }
}

pub(crate) async fn finished(rig: &Rig, mode: ModeName, settings: Settings, problem: &str) -> Finished {
    let params = Params {
        messages: vec![Message { role: "user", content: problem.to_owned() }],
        effort: None,
        mode: Some(mode),
        max_completion_tokens: NonZeroU32::new(1_500),
        budget: BudgetParams::default(),
        settings,
        n: 1,
        temperature: None,
        top_p: None,
        sampling: SamplingParams::default(),
        seed: Some(3),
        stop: Vec::new(),
        priority: Priority::Normal,
        cache_salt: None,
        logprobs: None,
    };
    let plan = rig.planner.plan(&params, 0).expect("a plan");
    let prompt = plan.prompt.len() as u64;
    let mut running = rig.runner.start(plan, Delivery::Whole).await.expect("admitted");
    let mut last = None;
    while let Some(event) = running.next().await {
        if let Event::Done(done) = event.expect("an answer").event {
            let counts = running.counts().await.expect("the request is open");
            assert_eq!(counts.sampled + counts.injected, u64::from(done.usage.completion_tokens));
            // What a judge reads belongs to requests of its own.
            let tree = done.tree.iter();
            let tree = tree.map(|(id, node)| (id.0.into(), node.parent.into(), node.tokens.len() as u64));
            let own = positions(&tree.collect::<Vec<_>>());
            let computed = counts.computed + counts.copied + counts.reused;
            assert!(
                (own.start() + prompt..=own.end() + prompt).contains(&computed),
                "{}: {counts:?}, {own:?} in the tree behind {prompt}",
                mode.name()
            );
            last = Some(*done);
        }
    }
    last.expect("it ends")
}

#[tokio::test]
async fn a_verifier_computes_the_tokens_that_are_reported_and_no_others() {
    let rig = rig(false).await;
    for name in [ModeName::BestOfN, ModeName::Beam, ModeName::Lookahead, ModeName::Mcts, ModeName::Auto] {
        let mut settings = Settings::default();
        settings.set(Parameter::Branches, Setting::Count(6));
        settings.set(Parameter::Weighted, Setting::Flag(false));
        settings.set(Parameter::Simulations, Setting::Count(12));
        let settings = settings.of_mode(name);
        for problem in [PROBLEM, PUZZLE] {
            // The problem may be known from before; what is not computed for
            // that is part of what was put through.
            let count = || {
                let computed =
                    rig.metrics.verifier_engine.computed.get() - rig.metrics.verifier_engine.recomputed.get();
                computed + rig.metrics.verifier_engine.copied.get() + rig.metrics.verifier_engine.reused.get()
            };
            let before = count();
            let done = finished(&rig, name, settings.clone(), problem).await;
            assert_eq!(count() - before, u64::from(done.report.verifier_tokens), "{}", name.name());
            assert!(done.report.verifier_tokens > 0 && done.report.verifier_steps > 0);
        }
    }
    assert!(rig.metrics.engine.sampled.get() > 0);
}
