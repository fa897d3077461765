//! The real engines, breaking in the middle: a panic at a command or in a step,
//! of the model's engine and of the verifier's, as a client sees it.

use crate::engine::path;
use crate::support::{
    PATIENCE, PROBLEM, Reply, Served, engine, eventually, frames, serve_engines, serve_model,
};
use candle_core::{DType, Device, Tensor, safetensors};
use espalier::app::{self, Hub, Scorer, tree_config};
use espalier::config::Environment;
use espalier::engine::tree::TreeEngine;
use espalier::engine::{BranchId, Caps, Command, Engine, EngineError, EngineThread, Handle, Progress};
use espalier::metrics::Metrics;
use espalier::verify::Verifier;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Whether a command is the one at which an engine breaks.
type Is = fn(&Command) -> bool;

/// Where an engine is to break next, once.
#[derive(Clone, Copy)]
enum Blow {
    /// At such a command on a request whose salt is `victim`.
    Command(Is),
    /// In a step while there is such a request.
    Step,
    /// In every step, that is for good.
    Steps,
}

/// Arms an engine that is on its thread already.
#[derive(Clone, Default)]
struct Switch(Arc<Mutex<Option<Blow>>>);

impl Switch {
    fn arm(&self, blow: Blow) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(blow);
    }

    /// The blow, if it is one of these; it is spent then.
    fn take(&self, is: impl Fn(Blow) -> bool) -> Option<Blow> {
        let mut armed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = armed.filter(|blow| is(*blow));
        if found.is_some() {
            *armed = None;
        }
        found
    }
}

/// An engine that breaks where its switch says.
struct Breaking {
    engine: TreeEngine,
    switch: Switch,
    /// Branches of the victims.
    own: HashSet<BranchId>,
    /// It breaks at whatever it does from now on.
    dying: bool,
}

impl Engine for Breaking {
    fn caps(&self) -> Caps {
        self.engine.caps()
    }

    fn apply(&mut self, command: Command) {
        let branch = command.branch();
        match &command {
            Command::Open { open, .. } if open.salt.as_deref() == Some("victim") => {
                // The one before it has ended.
                self.own.clear();
                self.own.insert(branch);
            }
            Command::Fork { child, .. } if self.own.contains(&branch) => {
                self.own.insert(*child);
            }
            _ => {}
        }
        let freed = matches!(command, Command::Free { .. });
        let hit = |blow| matches!(blow, Blow::Command(is) if is(&command));
        if self.own.contains(&branch) {
            assert!(self.switch.take(hit).is_none(), "the engine breaks, as this test wants it");
        }
        if freed {
            self.own.remove(&branch);
        }
        self.engine.apply(command);
    }

    fn step(&mut self) -> Result<Progress, EngineError> {
        let hit = |blow| matches!(blow, Blow::Step | Blow::Steps);
        // A root alone may still wait for its admission, and would not be hit.
        let struck = if self.own.len() > 1 { self.switch.take(hit) } else { None };
        self.dying |= matches!(struck, Some(Blow::Steps));
        assert!(struck.is_none() && !self.dying, "the engine breaks, as this test wants it");
        self.engine.step()
    }

    fn recover(&mut self, culprit: Option<BranchId>) -> bool {
        self.own.clear();
        self.engine.recover(culprit)
    }
}

fn spawn(engine: TreeEngine) -> (EngineThread, Handle, Switch) {
    let switch = Switch::default();
    let breaking = Breaking { engine, switch: switch.clone(), own: HashSet::new(), dying: false };
    let (thread, handle) = EngineThread::spawn(breaking).expect("a thread");
    (thread, handle, switch)
}

/// The bundled models behind engines that break when they are told to.
async fn serve() -> (Served, Switch, Switch) {
    let hub = Hub::new(&Environment::default());
    let found = app::find(&"seedling".into(), &hub).await.expect("bundled");
    let mut loaded = found.check().expect("good").load(&mut |_, _| {}).expect("loads");
    let metrics = Arc::new(Metrics::new().expect("unique names"));
    let config = tree_config(&engine("seedling"));
    let Some(Scorer::Here(prm)) = loaded.prm.take() else { panic!("the bundled model has a verifier") };
    let tokenizer = Arc::new(loaded.tokenizer);
    let policy = TreeEngine::new(
        loaded.model,
        loaded.eos,
        Arc::clone(&tokenizer),
        Arc::clone(&metrics.engine),
        &config,
    )
    .expect("an engine");
    let counters = Arc::clone(&metrics.verifier_engine);
    let scores = TreeEngine::new(prm.model, Vec::new(), prm.tokenizer, counters, &config).expect("an engine");
    let (thread, handle, switch) = spawn(policy);
    let (beside, scoring, scoring_switch) = spawn(scores);
    let verifier = Verifier::new(prm.name, scoring, prm.format).with_metrics(Arc::clone(&metrics));
    let parts = (loaded.config, loaded.template, tokenizer);
    let server = serve_engines((handle, Some(verifier)), parts, metrics, vec![thread, beside]).await;
    (server, switch, scoring_switch)
}

fn victim(mut fields: Value) -> Value {
    fields["cache_salt"] = json!("victim");
    fields
}

fn is_internal(reply: &Reply) {
    let error = reply.error();
    assert_eq!(reply.status, 500, "{}", reply.text);
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("server_error")));
    assert!(error["param"].is_null() && !reply.text.contains("panic"), "causes stay in the log: {error:?}");
}

fn content(body: &Value) -> &str {
    body["choices"][0]["message"]["content"].as_str().expect("content")
}

/// The server is as it was before the first request.
async fn is_whole(server: &Served) {
    server.idle().await;
    // The good step that shows that it is well again may be still to come.
    let asked = Instant::now();
    for path in ["/health", "/ready"] {
        while server.get(path).await.status != 200 {
            assert!(asked.elapsed() < PATIENCE, "{path} stays red");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert_eq!(server.counter("espalier_engine_waiting_requests").await, 0);
    eventually("no request holds a place", || server.metrics.requests_running.get() == 0).await;
}

#[tokio::test]
async fn a_panic_at_a_command_is_a_500_for_its_request_and_nothing_to_the_others() {
    let (server, switch, _) = serve().await;
    let search = json!({"reasoning": {"mode": "best_of_n", "branches": 12}, "seed": 5});
    let alone = server.chat(search.clone()).await;
    let commands: [(&str, Is); 6] = [
        ("open", |command| matches!(command, Command::Open { .. })),
        ("settle", |command| matches!(command, Command::Settle { .. })),
        ("counts", |command| matches!(command, Command::Counts { .. })),
        ("fork", |command| matches!(command, Command::Fork { .. })),
        ("decode", |command| matches!(command, Command::Decode { .. })),
        ("free", |command| matches!(command, Command::Free { .. })),
    ];
    for (faults, (name, is)) in (1..).zip(commands) {
        switch.arm(Blow::Command(is));
        let hit = server.post(victim(json!({"reasoning_effort": "low"})));
        let (hit, beside) = tokio::join!(hit, server.chat(search.clone()));
        match name {
            // The answer was there before its branches were given back.
            "free" => assert_eq!(hit.status, 200, "{}", hit.text),
            _ => is_internal(&hit),
        }
        assert_eq!(content(&beside), content(&alone), "{name}");
        assert_eq!(beside["usage"]["completion_tokens"], alone["usage"]["completion_tokens"], "{name}");
        is_whole(&server).await;
        assert_eq!(server.counter("espalier_engine_faults_total").await, faults, "{name}");
        let again = server.post(victim(json!({"reasoning_effort": "low"}))).await;
        assert_eq!(again.status, 200, "{}", again.text);
        is_whole(&server).await;
    }
    assert_eq!(server.metrics.disconnects.get(), 0, "our fault is not the client's leaving");
}

#[tokio::test]
async fn a_panic_in_the_middle_of_a_stream_or_a_search_is_one_error_and_the_end() {
    let (server, switch, _) = serve().await;
    let decode: Is = |command| matches!(command, Command::Decode { .. });
    for blow in [Blow::Command(decode), Blow::Step] {
        switch.arm(blow);
        let fields = json!({"reasoning_effort": "low", "stream": true});
        let reply = server.post(victim(fields)).await;
        let frames = frames(&reply);
        let (last, others) = frames.split_last().expect("frames");
        let error: Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(error["error"]["type"], "server_error", "{last}");
        assert!(others.iter().all(|frame| !frame.contains("error")), "one error: {frames:?}");
        is_whole(&server).await;
        switch.arm(blow);
        is_internal(&server.post(victim(json!({"reasoning_effort": "medium"}))).await);
        is_whole(&server).await;
    }
    assert_eq!(server.counter("espalier_engine_faults_total").await, 4);
}

#[tokio::test]
async fn an_engine_that_breaks_for_good_turns_health_red() {
    let (server, switch, _) = serve().await;
    switch.arm(Blow::Steps);
    let reply = server.post(victim(json!({"reasoning_effort": "low"}))).await;
    assert!([500, 503].contains(&reply.status), "{}", reply.text);
    reply.error();
    // What it was told last it may still have to find out.
    while server.get("/health").await.status == 200 {
        let reply = server.post(victim(json!({"reasoning_effort": "low"}))).await;
        assert!([500, 503].contains(&reply.status), "{}", reply.text);
    }
    for reply in [server.get("/ready").await, server.post(json!({"reasoning_effort": "none"})).await] {
        assert_eq!(reply.status, 503, "{}", reply.text);
        assert_eq!(reply.error()["type"], "service_unavailable_error");
    }
}

/// The bundled model in which the embedding of this text's one token is no number.
fn spoilt(text: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = path("models/seedling/policy");
    for file in std::fs::read_dir(&policy).expect("the bundled model").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    let weights = folder.path().join("model.safetensors");
    let mut tensors = safetensors::load(&weights, &Device::Cpu).expect("reads");
    let embedding = tensors.get_mut("model.embed_tokens.weight").expect("is there");
    let [token] = app::load("seedling").expect("bundled").tokenizer.encode(text).expect("encodes")[..] else {
        panic!("{text} is one token")
    };
    let (shape, dtype) = (embedding.dims2().expect("a matrix"), embedding.dtype());
    let floats = embedding.to_dtype(DType::F32).and_then(|all| all.flatten_all()?.to_vec1::<f32>());
    let mut floats = floats.expect("numbers");
    floats[token as usize * shape.1..][..shape.1].fill(f32::NAN);
    *embedding =
        Tensor::from_vec(floats, shape, &Device::Cpu).and_then(|all| all.to_dtype(dtype)).expect("fits");
    safetensors::save(&tensors, &weights).expect("saved");
    folder
}

#[tokio::test]
async fn a_prompt_that_the_model_cannot_take_fails_however_often_it_comes_and_nobody_else_does() {
    let folder = spoilt("~");
    let server = serve_model(folder.path().to_str().expect("UTF-8")).await;
    let name = server.get("/v1/models").await.json()["data"][0]["id"].clone();
    let asked = |text: &str| json!({"model": name, "messages": [{"role": "user", "content": text}], "reasoning_effort": "none"});
    let clean = server.chat(asked(PROBLEM)).await;
    // More often than clients try by themselves, and no good step between them.
    for _ in 0..7 {
        let reply = server.post(asked("~")).await;
        is_internal(&reply);
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    assert_eq!(content(&server.chat(asked(PROBLEM)).await), content(&clean));
    is_whole(&server).await;
    assert_eq!(server.counter("espalier_engine_faults_total").await, 7);
}

#[tokio::test]
async fn a_search_whose_verifier_breaks_answers_with_what_it_has_and_says_so() {
    let (server, _, switch) = serve().await;
    let search =
        |stream| victim(json!({"reasoning_effort": "high", "max_completion_tokens": 900, "stream": stream}));
    let logits: Is = |command| matches!(command, Command::Logits { .. });
    let open: Is = |command| matches!(command, Command::Open { .. });
    for (faults, blow) in (1..).zip([Blow::Command(logits), Blow::Command(open), Blow::Step]) {
        switch.arm(blow);
        let body = server.chat(search(false)).await;
        let notes = body["search"]["notes"].to_string();
        assert!(notes.contains("the verifier failed, so the search ended with what it had"), "{body}");
        assert!(!content(&body).is_empty(), "{body}");
        assert!(server.counter("espalier_verifier_errors_total").await >= faults);
        is_whole(&server).await;
        // The verifier is well again.
        let body = server.chat(search(false)).await;
        assert!(!body["search"]["notes"].to_string().contains("failed"), "{body}");
        is_whole(&server).await;
    }
    // It dies: searches go on to end like that, and health is red.
    switch.arm(Blow::Steps);
    let body = server.chat(search(false)).await;
    assert!(body["search"]["notes"].to_string().contains("the verifier failed"), "{body}");
    server.idle().await;
    let body = server.chat(search(false)).await;
    assert!(body["search"]["notes"].to_string().contains("the verifier failed"), "{body}");
    assert_eq!(server.get("/health").await.status, 503);
    // What asks no verifier is served.
    assert_eq!(server.post(json!({"reasoning_effort": "low"})).await.status, 200);
}
