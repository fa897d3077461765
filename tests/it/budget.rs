//! Token bounds are exact, and what was spent is counted three times over: in
//! the usage, over the recorded tree, and by the engine's own metrics.
//!
//! `ESPALIER_RANDOM_REQUESTS` is how many random requests are asked; 200 where it
//! is not set.

use crate::support::{
    PROBLEM, PUZZLE, Reply, Served, branches, engine, frames, positions, serve, serve_with,
};
use axum::Router;
use axum::routing::post;
use espalier::config::ServeArgs;
use espalier::engine::rng;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number below `end`, the `i`th of draw `key`.
fn draw(key: u64, i: u64, end: u64) -> u64 {
    rng::derive(rng::derive(0x00b0_d6e7, key), i) % end
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// What the server has counted so far: by the engine, and by the runs; and the
/// verifier's tokens likewise.
async fn counted(server: &Served) -> [u64; 4] {
    let text = server.get("/metrics").await.text;
    let [computed, copied, reused, recomputed, read] = [
        "espalier_verifier_engine_computed_positions_total",
        "espalier_verifier_engine_copied_positions_total",
        "espalier_verifier_engine_prefix_reused_positions_total",
        "espalier_verifier_engine_recomputed_positions_total",
        "espalier_verifier_tokens_total",
    ]
    .map(|name| crate::support::counter(&text, name));
    let [sampled, injected, completed] = [
        "espalier_engine_sampled_tokens_total",
        "espalier_engine_injected_tokens_total",
        "espalier_completion_tokens_total",
    ]
    .map(|name| crate::support::counter(&text, name));
    [sampled + injected, completed, computed + copied + reused - recomputed, read]
}

/// Positions that the model's engine has computed for the first time, copied or
/// found, and tokens injected.
async fn computed(server: &Served) -> [u64; 2] {
    let text = server.get("/metrics").await.text;
    let [computed, copied, reused, injected] = [
        "espalier_engine_computed_positions_total",
        "espalier_engine_copied_positions_total",
        "espalier_engine_prefix_reused_positions_total",
        "espalier_engine_injected_tokens_total",
    ]
    .map(|name| crate::support::counter(&text, name));
    [computed + copied + reused, injected]
}

/// What a response says of what was spent, streamed or not: its usage, and the reports
/// and finish reasons of all choices, in their order.
fn told(asked: &Value, reply: &Reply) -> (Value, Vec<Value>, Vec<Value>) {
    if asked["stream"] != true {
        let body = reply.json();
        let search = &body["search"];
        let reports = search["choices"].as_array().cloned().unwrap_or_else(|| vec![search.clone()]);
        let finishes = body["choices"].as_array().expect("choices").iter();
        return (body["usage"].clone(), reports, finishes.map(|c| c["finish_reason"].clone()).collect());
    }
    let mut frames = frames(reply);
    assert_eq!(frames.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = frames.iter().map(|frame| serde_json::from_str(frame).expect("JSON")).collect();
    let mut reports: Vec<Value> = chunks
        .iter()
        .map(|chunk| chunk["search"].clone())
        .filter(|search| search["type"] == "report")
        .collect();
    reports.sort_by_key(|report| number(&report["index"]));
    let mut finishes: Vec<Value> =
        chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("choices").clone()).collect();
    finishes.retain(|choice| choice["finish_reason"].is_string());
    finishes.sort_by_key(|choice| number(&choice["index"]));
    let finishes = finishes.iter().map(|choice| choice["finish_reason"].clone()).collect();
    (chunks.last().expect("chunks")["usage"].clone(), reports, finishes)
}

/// A request by chance. Efforts, bounds and widths of all sizes, so that some
/// budgets end in the thought, some in the answer and some not at all.
fn request(key: u64) -> Value {
    const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    let pick = |i, end| draw(key, i, end);
    let mut body = json!({
        "messages": [{"role": "user", "content": if pick(0, 3) == 0 { PROBLEM } else { PUZZLE }}],
        "reasoning": {"effort": (EFFORTS[pick(1, 7) as usize]), "budget": {}, "include_tree": true},
        "max_completion_tokens": 1 + if pick(2, 3) == 0 { pick(3, 40) } else { pick(3, 3_200) },
        "n": ([1, 1, 2, 3][pick(4, 4) as usize]),
        "seed": pick(5, 1000),
    });
    if pick(6, 3) > 0 {
        body["temperature"] = json!(([0.0, 0.7, 1.0, 1.3, 0.9, 1.1][pick(7, 6) as usize]));
    }
    if pick(8, 3) == 0 {
        body["reasoning"]["budget"]["tokens"] = json!(1 + pick(9, 2_400));
    }
    if pick(10, 3) == 0 {
        body["reasoning"]["budget"]["branches"] = json!(([1, 2, 3, 6, 9, 12][pick(11, 6) as usize]));
    }
    if pick(12, 4) == 0 {
        const MODES: [&str; 6] = ["self_consistency", "best_of_n", "beam", "lookahead", "auto", "mcts"];
        let mode = pick(14, 6) as usize;
        body["reasoning"]["mode"] = json!(MODES[mode]);
        if mode < 2 {
            body["reasoning"]["branches"] = json!(1 + pick(13, 12));
        }
        parameters(key, MODES[mode], &mut body["reasoning"]);
    }
    if pick(15, 3) == 0 {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true, "include_search": (pick(16, 2) == 0)});
    }
    if pick(17, 5) == 0 {
        // In most answers, in some, and in none.
        body["stop"] = json!((["boxed", "1", "zzz"][pick(18, 3) as usize]));
    }
    if pick(19, 5) == 0 {
        body["reasoning"]["budget"]["verifier_tokens"] = json!(pick(20, 900));
    }
    if pick(21, 6) == 0 {
        body["reasoning"]["budget"]["seconds"] = json!(500);
    }
    body
}

/// Parameters of a mode by chance, each about every other time.
fn parameters(key: u64, mode: &str, reasoning: &mut Value) {
    let width = [json!(1), json!(2), json!(3), json!(5)];
    let all: [(&str, &[&str], &[Value]); 10] = [
        ("width", &["beam", "lookahead", "mcts", "auto"], &width),
        ("expansion", &["beam", "lookahead"], &width),
        ("variant", &["beam", "lookahead"], &["plain", "dvts", "rebase"].map(Value::from)),
        ("lookahead", &["lookahead"], &[1, 2, 3].map(Value::from)),
        ("max_steps", &["beam", "lookahead", "mcts", "auto"], &[1, 2, 5, 40].map(Value::from)),
        ("step_tokens", &["beam", "lookahead", "mcts", "auto"], &[3, 20, 256].map(Value::from)),
        ("simulations", &["mcts", "auto"], &[1, 3, 12, 40].map(Value::from)),
        ("in_flight", &["mcts", "auto"], &[1, 2, 8].map(Value::from)),
        ("value", &["mcts", "auto"], &["trajectory", "step", "rollouts"].map(Value::from)),
        ("rollouts", &["beam", "lookahead", "mcts", "auto"], &[2, 3].map(Value::from)),
    ];
    for (i, (name, _, values)) in (30..).zip(all.iter().filter(|(_, modes, _)| modes.contains(&mode))) {
        if draw(key, i, 2) == 0 {
            reasoning[*name] = values[draw(key, 50 + i, values.len() as u64) as usize].clone();
        }
    }
}

#[tokio::test]
async fn no_request_spends_one_token_more_than_it_may_and_all_counts_agree() {
    let mut bare = ServeArgs { engine: engine("seedling"), ..ServeArgs::default() };
    bare.engine.model.prm = Some("none".to_owned());
    let (with, without) = (serve().await, serve_with(bare).await);
    let mut modes = std::collections::BTreeMap::<String, u32>::new();
    let mut reasons = std::collections::BTreeMap::<String, u32>::new();
    let (mut refused, mut exact) = (0, 0);
    let requests = std::env::var("ESPALIER_RANDOM_REQUESTS").map_or(200, |n| n.parse().expect("a number"));
    for key in 0..requests {
        let asked = request(key);
        // Every fourth is asked where there is no verifier.
        let server = if key % 4 == 3 { &without } else { &with };
        let n = number(&asked["n"]);
        let budget = &asked["reasoning"]["budget"];
        let before = counted(server).await;
        let positions_before = computed(server).await;
        let reply = server.post(asked.clone()).await;
        let too_small = |field: &str| budget[field].as_u64().is_some_and(|bound| bound < n);
        if too_small("tokens") || too_small("branches") {
            let field = if too_small("tokens") { "tokens" } else { "branches" };
            let error = reply.error();
            assert_eq!((reply.status, &error["param"]), (400, &json!(format!("reasoning.budget.{field}"))));
            assert_eq!(counted(server).await, before, "a refused request costs nothing");
            refused += 1;
            continue;
        }
        assert_eq!(reply.status, 200, "{asked}: {}", reply.text);
        let (usage, reports, finishes) = told(&asked, &reply);
        let spent = number(&usage["completion_tokens"]);
        let each = number(&asked["max_completion_tokens"]);
        assert!(0 < spent && spent <= n * each, "{asked}: {spent}");
        if let Some(whole) = budget["tokens"].as_u64() {
            assert!(spent <= whole, "{asked}: {spent}");
        }
        let reasoning = number(&usage["completion_tokens_details"]["reasoning_tokens"]);
        assert!(reasoning <= spent, "{asked}: {reasoning} of {spent}");

        assert_eq!((reports.len() as u64, finishes.len() as u64), (n, n), "{asked}");
        let (mut along, mut made, mut read, mut given_up) = (0, 0, 0, false);
        // The prompt is computed once for all choices.
        let prompt = number(&usage["prompt_tokens"]);
        let (mut least, mut most) = (prompt, prompt);
        for (index, report) in reports.iter().enumerate() {
            let tokens = number(&report["spent"]["tokens"]);
            assert!(tokens <= each.min(number(&report["budget"]["tokens"])), "{asked}: {report}");
            let candidates = report["candidates"].as_array().expect("candidates");
            let tree = report["tree"].as_array().expect("a tree");
            let sum: u64 = tree.iter().map(|branch| number(&branch["tokens"])).sum();
            assert_eq!(sum, tokens, "{asked}: {report}");
            assert_eq!(candidates.iter().filter(|candidate| candidate["selected"] == true).count(), 1);
            let complete = candidates.iter().any(|c| c["selected"] == true && c["complete"] == true);
            // A stop sequence may end what a budget has cut.
            let stopped = !complete && asked["stop"].is_string() && finishes[index] == "stop";
            let finish = if complete || stopped { "stop" } else { "length" };
            assert_eq!(finishes[index], finish, "{asked}: {report}");
            let own = positions(&branches(&report["tree"]));
            (least, most) = (least + own.start(), most + own.end());
            along += sum;
            read += number(&report["spent"]["verifier_tokens"]);
            let own = number(&report["branches"]["made"]);
            made += own;
            let ended = candidates.iter().filter(|candidate| candidate["complete"] == true).count() as u64;
            let votes = ["best_of_n", "self_consistency"].map(Value::from).contains(&report["mode"]);
            given_up |= votes && ended < own && report["stop_reason"] == "completed";
            *modes.entry(report["mode"].as_str().expect("a mode").to_owned()).or_default() += 1;
            *reasons.entry(report["stop_reason"].as_str().expect("a reason").to_owned()).or_default() += 1;
        }
        assert_eq!(along, spent, "{asked}");
        if let Some(bound) = budget["branches"].as_u64() {
            assert!(made <= bound, "{asked}: {made} branches");
        }
        if let Some(bound) = budget["verifier_tokens"].as_u64() {
            assert!(read <= bound, "{asked}: {read} of the verifier's tokens");
        }
        server.idle().await;
        let after = counted(server).await;
        let counted: [u64; 4] = std::array::from_fn(|i| after[i] - before[i]);
        // What a vote asks of the verifier is paid, and where the vote is decided before
        // the engine has come to it, it never does.
        let had = if given_up { counted[2].min(read) } else { read };
        let expected = [spent, spent, had, read];
        assert_eq!(counted, expected, "{asked}: engine, runs, verifier's engine, verifier");
        let after = computed(server).await;
        let [positions, injected]: [u64; 2] = std::array::from_fn(|i| after[i] - positions_before[i]);
        // What a small budget ends within the marker has not been computed: nothing
        // is drawn behind it.
        assert!(
            least.saturating_sub(injected) <= positions && positions <= most,
            "{asked}: {positions} positions, {least} to {most} in the tree, {injected} injected"
        );
        exact += u64::from(injected == 0 && least == most);
    }
    with.idle().await;
    // The grid is worth something only if it meets everything.
    assert!(refused > 3, "{refused}");
    assert!(exact > requests / 10, "only {exact} of {requests} requests have one number of positions");
    let all = ["auto", "beam", "best_of_n", "cot", "direct", "lookahead", "mcts", "self_consistency"]
        .map(str::to_owned);
    assert!(modes.keys().eq(all.iter()), "{modes:?}");
    for reason in ["completed", "budget_tokens", "budget_branches", "budget_verifier_tokens"] {
        assert!(reasons.contains_key(reason), "{reasons:?}");
    }
}

#[tokio::test]
async fn a_bound_below_what_the_answer_needs_gives_its_beginning_or_uses_the_reserve() {
    let server = serve().await;
    // A puzzle whose thought is long enough that a quarter of less is room for an answer.
    let fields = |bound: Option<u64>| {
        let messages = json!([{"role": "user", "content": PUZZLE}]);
        json!({"reasoning_effort": "low", "max_completion_tokens": bound, "messages": messages})
    };
    let free = server.chat(fields(None)).await;
    let needed = number(&free["usage"]["completion_tokens"]);
    let (mut cut, mut completed) = (0, 0);
    for bound in (1..needed).step_by(5) {
        let injected = server.counter("espalier_engine_injected_tokens_total").await;
        let body = server.chat(fields(Some(bound))).await;
        let injected = server.counter("espalier_engine_injected_tokens_total").await - injected;
        assert!(number(&body["usage"]["completion_tokens"]) <= bound);
        assert_eq!(body["search"]["stop_reason"], "budget_tokens", "{bound}: {body}");
        let message = &body["choices"][0]["message"];
        let content = message["content"].as_str().expect("text");
        match body["choices"][0]["finish_reason"].as_str() {
            Some("length") => {
                cut += 1;
                let thought = message["reasoning"].as_str().unwrap_or_default();
                assert!(!content.is_empty() || !thought.is_empty(), "{bound}: partial text, never nothing");
                assert_eq!(body["search"]["candidates"][0]["complete"], false);
            }
            Some("stop") => {
                completed += 1;
                assert!(injected > 0, "{bound}: the answer was asked for");
                assert!(content.starts_with("The answer is") && content.contains("boxed"), "{content}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(cut > 0 && completed > 0, "{cut} cut, {completed} completed within the reserve");
}

#[tokio::test]
async fn choices_that_cannot_have_a_token_or_branch_each_are_refused() {
    let server = serve().await;
    for field in ["tokens", "branches"] {
        let mut budget = json!({});
        budget[field] = json!(4);
        let reply = server.post(json!({"n": 5, "reasoning": {"budget": budget}})).await;
        let error = reply.error();
        let message = error["message"].as_str().expect("text");
        assert_eq!((reply.status, &error["param"]), (400, &json!(format!("reasoning.budget.{field}"))));
        assert_eq!(error["code"], "integer_below_min_value");
        assert!(message.contains(">= 5") && message.contains("got 4"), "{message}");
    }
}

/// A reward model of Math-Shepherd's kind on another server: each of its answers
/// approves of the longer steps, but for the mistakes by which it is probed, and
/// counts every byte as a token. Where it is, and what it has counted so far.
async fn another() -> (String, Arc<AtomicU64>) {
    let read = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read);
    let pooling = move |body: String| {
        let asked: Value = serde_json::from_str(&body).expect("JSON");
        let text = asked["input"].as_str().expect("a text");
        let mistakes = ["1 + 1 = 5", "3 + 4 = 12", "5 * 6 = 11"];
        let good = |step: &str| match mistakes.iter().any(|mistake| step.contains(mistake)) {
            true => 0.1,
            false => 0.5 + 0.4 * (step.len() as f64 / 100.0).min(1.0),
        };
        let rows: Vec<Value> =
            text.split_terminator(" ки").map(|step| json!([good(step), 1.0 - good(step)])).collect();
        counted.fetch_add(text.len() as u64, Ordering::Relaxed);
        let answer = json!({"data": [{"data": rows}], "usage": {"prompt_tokens": text.len()}});
        std::future::ready(answer.to_string())
    };
    let app = Router::new().route("/pooling", post(pooling));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
    (url, read)
}

#[tokio::test]
async fn what_another_server_counts_is_what_is_charged() {
    let (url, read) = another().await;
    let mut args = ServeArgs { engine: engine("seedling"), ..ServeArgs::default() };
    args.engine.model.prm = Some(url);
    args.engine.model.prm_model = Some("played".to_owned());
    args.engine.model.prm_format = Some("math_shepherd".to_owned());
    let server = serve_with(args).await;
    let ask = async |bound: Option<u64>| {
        let mut asked = json!({
            "messages": [{"role": "user", "content": PROBLEM}], "seed": 3,
            "reasoning": {"mode": "beam", "width": 3, "expansion": 3, "budget": {"tokens": 1_500}},
        });
        if let Some(bound) = bound {
            asked["reasoning"]["budget"]["verifier_tokens"] = json!(bound);
        }
        let before = (read.load(Ordering::Relaxed), counted(&server).await[3]);
        let body = server.chat(asked).await;
        server.idle().await;
        let spent = number(&body["search"]["spent"]["verifier_tokens"]);
        let said = read.load(Ordering::Relaxed) - before.0;
        let counted = counted(&server).await[3] - before.1;
        assert_eq!((spent, counted), (said, said), "{bound:?}: {}", body["search"]);
        let ended =
            body["search"]["notes"].to_string().contains("the verifier's part of the budget is spent");
        (spent, ended)
    };
    let (needed, ended) = ask(None).await;
    assert!(needed > 0 && !ended);
    for bound in [needed / 4, needed / 2] {
        let (spent, ended) = ask(Some(bound)).await;
        // Whether it may be asked once more goes by a quarter of what that costs.
        assert!(ended && 0 < spent && spent < bound + bound / 2, "{spent} of {bound}");
        assert_eq!(ask(Some(bound)).await, (spent, ended), "the same again");
    }
}
