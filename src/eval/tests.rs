//! Whole runs against a server that knows some of the answers.

use super::*;
use clap::Parser;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    eval: EvalArgs,
}

pub(super) fn args(words: &[&str]) -> EvalArgs {
    Cli::try_parse_from([&["eval"], words].concat()).unwrap().eval
}

/// In the place of a status: no answer, over a connection that stays open.
const SILENT: u16 = 0;

/// The bodies of the chat requests that a server has seen.
type Seen = Arc<Mutex<Vec<Value>>>;

/// A server of one connection per request that answers `\boxed{<seed>}`,
/// refuses where the seed is odd and the effort high, says nothing where it is odd
/// and the user `quiet`, and has no room for a request with the seed 2 before it
/// has seen it twice.
fn serve() -> (Target, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let request = read_request(&mut reader);
            let (status, body) = request.map_or_else(models, |body| chat(&body, &shared));
            if status == SILENT {
                silent.push(reader);
                continue;
            }
            let (body, length) = (body.to_string(), body.to_string().len());
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\nretry-after: 0\r\n\r\n"
            );
            reader.get_mut().write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
    });
    (Target { endpoint, key: None, identity: "test".to_owned() }, seen)
}

/// The JSON body of a request, `None` where it has none.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).ok()
}

fn models() -> (u16, Value) {
    (200, json!({"data": [{"id": "tiny"}]}))
}

fn chat(body: &Value, seen: &Seen) -> (u16, Value) {
    seen.lock().unwrap().push(body.clone());
    let before = seen.lock().unwrap().iter().filter(|other| *other == body).count();
    let seed = body["seed"].as_i64().unwrap();
    if seed % 2 == 1 && body["reasoning_effort"] == "high" {
        return (400, json!({"error": {"message": "odd", "code": null}}));
    }
    if seed % 2 == 1 && body["user"] == "quiet" {
        return (SILENT, Value::Null);
    }
    if seed == 2 && before < 2 {
        return (503, json!({"error": {"message": "no room", "code": null}}));
    }
    // As of a thinking model whose marker, the end of its thought, is hidden.
    let message =
        json!({"reasoning_content": "<think>\n1 + 1 = 2\n\n", "content": format!("\\boxed{{{seed}}}")});
    let choices = json!([{"message": message, "finish_reason": "stop"}]);
    (200, json!({"choices": choices, "usage": {"completion_tokens": 7}}))
}

/// A suite of four problems: the answer to problem i is i, which the server
/// knows under seed 0, but for the last, which it does not.
fn suite(folder: &Path) -> String {
    let line = |i: i64, answer: i64| {
        let kind = if i % 2 == 0 { "answer" } else { "equiv" };
        json!({"id": format!("p{i}"), "family": "f", "problem": "?", "answer": answer.to_string(), "check": {"kind": kind}}).to_string()
    };
    let file = folder.join("suite.jsonl");
    std::fs::write(&file, [line(0, 0), line(1, 1), line(2, 2), line(3, 9)].join("\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

async fn printed(args: &EvalArgs, target: &Target) -> (Result<Summary, EvalError>, String) {
    let mut out = Vec::new();
    let summary = run(args, target, &mut out).await;
    (summary, String::from_utf8(out).unwrap())
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn records(folder: &Path) -> Vec<Record> {
    read(folder, "results.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_run_grades_counts_and_reports_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let (target, seen) = serve();
    let (suite, results) = (suite(folder.path()), folder.path().join("deep/out"));
    let words = ["--suite", &suite, "--effort", "low,high", "--out", results.to_str().unwrap()];
    let (summary, text) = printed(&args(&words), &target).await;

    let summary = summary.unwrap();
    let all = |arm: usize| summary.arms[arm].all();
    assert_eq!((all(0).right, all(0).total, all(0).tokens), (3, 4, 28));
    assert_eq!((all(1).right, all(1).total, all(1).tokens), (2, 4, 14));
    assert_eq!(summary.errors(), 2);
    assert!(text.contains("failed 2 times: 400: odd"), "{text}");
    let [comparison] = &summary.comparisons[..] else { panic!("{summary:?}") };
    assert_eq!((comparison.rows[1].points, comparison.rows[1].only_from), (-25.0, 1));
    assert!(text.contains("give --seeds 1,2,3,4"), "{text}");

    let records = records(&results);
    let order: Vec<String> = records.iter().map(|r| format!("{} {}", r.arm, r.id)).collect();
    let expected = ["low p0", "low p1", "low p2", "low p3", "high p0", "high p1", "high p2", "high p3"];
    assert_eq!(order, expected);
    assert_eq!(
        (records[1].text.as_str(), records[1].answer.as_deref()),
        ("<think>\n1 + 1 = 2\n\n\\boxed{1}", Some("1"))
    );
    assert_eq!(records[7].error.as_deref(), Some("400: odd"));
    // The server had no room for p2, which was asked again under each arm.
    assert_eq!((records[2].attempts, records[2].right, records[6].attempts), (2, true, 2));
    assert_eq!(seen.lock().unwrap().len(), 10);
    assert!(seen.lock().unwrap().iter().all(|body| body["model"] == "tiny"), "the first that is listed");
    let json: Value = serde_json::from_str(&read(&results, "summary.json")).unwrap();
    assert_eq!(json["arms"][1]["failures"]["400: odd"], 2);
    assert_eq!(json["arms"][0]["rows"][1]["percent"], 75.0);
    assert_eq!(json["arms"][0]["stop_reasons"], json!({"stop": 4}));
    assert_eq!(json["comparisons"][0]["rows"][0]["pairs"], 4);
    let page = read(&results, "summary.md");
    for told in
        ["| low | 75.0 | 75.0 |", "- high: failed 2 times: 400: odd", "| high - low | all | 4 | -25.0 |"]
    {
        assert!(page.contains(told), "{told} in {page}");
    }
    assert!(read(&results, "accuracy.svg").starts_with("<svg"));
}

#[tokio::test]
async fn a_request_that_is_never_answered_fails_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (target, seen) = serve();
    let (suite, results) = (suite(folder.path()), folder.path().join("out"));
    let words =
        ["--suite", &suite, "--arm", r#"quiet={"user":"quiet"}"#, "--effort", "low", "--timeout", "1"];
    let words = [&words[..], &["--out", results.to_str().unwrap()]].concat();
    let (summary, text) = printed(&args(&words), &target).await;
    let summary = summary.unwrap();
    assert_eq!(
        (summary.errors(), summary.arms[0].errors(), summary.arms[1].all().right),
        (2, 0, 2),
        "{text}"
    );
    let why = format!("{}/v1/chat/completions: no answer within 1 s", target.endpoint);
    let silent: Vec<Record> = records(&results).into_iter().filter(|record| record.error.is_some()).collect();
    assert_eq!(silent.len(), 2);
    for record in &silent {
        assert_eq!((record.error.as_deref(), record.attempts, record.right), (Some(&*why), 1, false));
        assert!(record.seconds >= 1.0 && record.arm == "quiet");
    }
    assert!(text.contains(&format!("failed 2 times: {why}")), "{text}");
    // Nobody asks twice what may still be computed.
    assert_eq!(seen.lock().unwrap().len(), 10);
    let json: Value = serde_json::from_str(&read(&results, "summary.json")).unwrap();
    assert!(json.to_string().contains(r#""timeout":1"#), "{json}");
}

#[tokio::test]
async fn responses_past_a_bound_that_all_arms_share_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (suite, target) = (suite(folder.path()), serve().0);
    for (bound, over) in [("6", 4), ("7", 0)] {
        let words = ["--suite", &suite, "--max-completion-tokens", bound];
        let (summary, text) = printed(&args(&words), &target).await;
        assert_eq!(summary.unwrap().arms[0].over_budget, over);
        let told = text.contains("4 responses have more tokens than the budget allows");
        assert_eq!(told, over > 0, "{text}");
    }
}

#[tokio::test]
async fn one_arm_under_one_seed_prints_its_table_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (_, text) = printed(&args(&["--suite", &suite(folder.path())]), &serve().0).await;
    let lines: Vec<&str> = text.lines().collect();
    let table = [
        "effort low",
        "family        right  total      %    tokens",
        "f                 3      4   75.0       7.0",
        "all               3      4   75.0       7.0",
        "95 % interval of all: 30.1 to 95.4",
    ];
    assert_eq!(lines[..5], table);
    assert!(lines[5].ends_with(" tokens/s, failed requests: 0"), "{text}");
    assert_eq!(lines[6..], [""]);
}

#[tokio::test]
async fn an_interrupted_run_asks_only_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (target, seen) = serve();
    let (suite, results) = (suite(folder.path()), folder.path().join("out"));
    let out = results.to_str().unwrap();
    let words = ["--suite", &suite, "--effort", "low,high", "--seeds", "1,2", "--out", out];
    let (whole, _) = printed(&args(&words), &target).await;
    let file = read(&results, "results.jsonl");
    let asked: Vec<Value> = seen.lock().unwrap().drain(..).collect();
    // Eight requests of each arm, all with seeds of their own within it.
    let mut seeds: HashMap<i64, usize> = HashMap::new();
    asked.iter().for_each(|body| *seeds.entry(body["seed"].as_i64().unwrap()).or_default() += 1);
    assert_eq!((asked.len(), seeds.len()), (16, 8));
    assert!(seeds.contains_key(&((2 << 20) + 3)), "{seeds:?}");

    // Cut in the middle of the sixth line.
    let ends: Vec<usize> = file.match_indices('\n').map(|(end, _)| end).collect();
    std::fs::write(results.join("results.jsonl"), &file[..ends[4] + 20]).unwrap();
    let (again, text) = printed(&args(&words), &target).await;
    assert!(text.starts_with("5 of 16 responses are there from an earlier run\n"), "{text}");
    assert_eq!(seen.lock().unwrap().drain(..).count(), 11);
    let (whole, again) = (whole.unwrap(), again.unwrap());
    let figures = |summary: &Summary| summary.arms.iter().map(|arm| arm.rows.clone()).collect::<Vec<_>>();
    assert_eq!(figures(&whole), figures(&again));
    assert_eq!(records(&results).len(), 16);

    // Failures are asked again, answers are not, and further arms join.
    let more = [&words[..], &["--arm", "x={}", "--compare", "low,x"]].concat();
    let (third, _) = printed(&args(&more), &target).await;
    let bodies: Vec<Value> = seen.lock().unwrap().drain(..).collect();
    assert_eq!(bodies.iter().filter(|body| body["reasoning_effort"] == "high").count(), 4);
    assert_eq!(bodies.iter().filter(|body| body.get("reasoning_effort").is_none()).count(), 8);
    assert_eq!(bodies.len(), 12);
    let comparisons = third.unwrap().comparisons;
    assert_eq!((comparisons.len(), comparisons[0].rows[1].points, comparisons[0].seeds), (1, 0.0, 2));

    // The same label with other fields is refused before anything is asked.
    let other = [&words[..], &["--temperature", "0.3"]].concat();
    let (error, _) = printed(&args(&other), &target).await;
    assert!(matches!(error, Err(EvalError::Changed { .. })), "{error:?}");
    assert_eq!(seen.lock().unwrap().len(), 0);
    assert_eq!(records(&results).len(), 24);
}

#[tokio::test]
async fn a_request_has_only_fields_of_openai_and_of_its_arm() {
    let folder = tempfile::tempdir().unwrap();
    let (target, seen) = serve();
    let suite = suite(folder.path());
    let arm = r#"wide={"temperature":0.9,"reasoning":{"branches":4}}"#;
    let words =
        ["--suite", &suite, "--limit", "1", "--arm", "plain={}", "--arm", arm, "--request-model", "m"];
    let words = [&words[..], &["--temperature", "0.7", "--system", "Box it."]].concat();
    printed(&args(&words), &target).await.0.unwrap();
    let messages = json!([{"role": "system", "content": "Box it."}, {"role": "user", "content": "?"}]);
    let plain = json!({"messages": messages, "seed": 0, "model": "m", "temperature": 0.7});
    let mut wide = plain.clone();
    wide["temperature"] = json!(0.9);
    wide["reasoning"] = json!({"branches": 4});
    assert_eq!(*seen.lock().unwrap(), [plain, wide]);
}

#[tokio::test]
async fn what_makes_no_run_is_refused_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let suite = suite(folder.path());
    let (target, seen) = serve();
    for (words, why) in [
        (&["--compare", "low,high"][..], "no arm is called 'high'"),
        (&["--seeds", "1,1"], "--seeds names a seed twice"),
        (&["--effort", "low,low"], "two arms are called 'low'"),
        (&["--families", "g"], "it has no family 'g', only f"),
        (&["--limit", "0"], "it has no problems"),
        (&["--out", &suite], "suite.jsonl"),
    ] {
        let (error, _) = printed(&args(&[&["--suite", &suite], words].concat()), &target).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(why), "{words:?}: {error}");
    }
    assert_eq!(seen.lock().unwrap().len(), 0);
}

#[test]
fn the_defaults_measure_low_effort_on_the_bundled_suite() {
    let args = args(&[]);
    assert_eq!((args.seeds.as_slice(), args.concurrency.get()), (&[0][..], 32));
    assert_eq!(args.timeout.get(), 900, "longer than the 600 s that a server gives a request");
    assert_eq!(arm::all(&args).unwrap()[0].fields, json!({"reasoning_effort": "low"}));
    assert!(args.suite.ends_with("dev.jsonl"));
}
