//! `espalier eval` through the real binary, against the bundled model.

use crate::binary::{Binary, Ended};
use crate::support::{self, PATIENCE};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/eval/dev.jsonl");

fn eval(arguments: &[&str]) -> Vec<String> {
    ["eval", "--suite", SUITE].iter().chain(arguments).map(|&word| word.to_owned()).collect()
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let words = eval(arguments);
    Binary::run(&words.iter().map(String::as_str).collect::<Vec<_>>(), variables)
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn records(folder: &Path) -> Vec<Value> {
    let parsed = |line: &str| serde_json::from_str(line).expect("a record");
    read(folder, "results.jsonl").lines().map(parsed).collect()
}

/// What does not depend on the clock.
fn timeless(folder: &Path) -> Vec<Value> {
    let mut records = records(folder);
    for record in &mut records {
        for clock in ["seconds", "started", "attempts"] {
            record.as_object_mut().expect("an object").shift_remove(clock).expect("a clock");
        }
    }
    records
}

#[test]
fn a_server_of_its_own_is_measured_and_everything_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().to_str().expect("text");
    let arm = r#"vote={"reasoning":{"mode":"self_consistency","branches":4},"temperature":0.8}"#;
    let limits = ["--limit", "2", "--seeds", "1,2,3,4", "--threads", "2", "--kv-mib", "128"];
    let words =
        [&["--efforts", "none", "--arm", arm, "--budget", "40,400", "--out", out][..], &limits].concat();
    let ended = run(&words, &[]);
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (Some(0), ""),
        "nothing but results, where no log is asked for"
    );

    let records = records(folder.path());
    assert_eq!(records.len(), 4 * 4 * 6);
    for record in &records {
        let (arm, tokens) =
            (record["arm"].as_str().expect("a label"), record["tokens"].as_u64().expect("counted"));
        let budget: u64 = arm.split('@').nth(1).expect("a budget").parse().expect("a number");
        assert!((1..=budget).contains(&tokens), "{record}");
        assert!(record["error"].is_null() && record["seconds"].as_f64() > Some(0.0), "{record}");
        assert!(record["reasoning_tokens"].as_u64().is_some_and(|thought| thought <= tokens), "{record}");
    }
    let of = |arm: &str| records.iter().filter(|r| r["arm"] == arm).cloned().collect::<Vec<Value>>();
    assert!(of("vote@400").iter().any(|r| r["branches"].as_u64() > Some(1)));
    assert!(of("vote@400").iter().any(|r| r["right"] == true));
    assert!(of("vote@40").iter().any(|r| r["stop_reason"] == "budget_tokens"));
    assert!(of("none@400").iter().all(|r| r["stop_reason"] == "completed"));

    let summary: Value = serde_json::from_str(&read(folder.path(), "summary.json")).expect("JSON");
    let labels: Vec<&str> =
        summary["arms"].as_array().into_iter().flatten().filter_map(|a| a["label"].as_str()).collect();
    assert_eq!(labels, ["none@40", "none@400", "vote@40", "vote@400"]);
    let last = &summary["comparisons"][2];
    assert_eq!((last["from"].as_str(), last["to"].as_str()), (Some("vote@40"), Some("vote@400")));
    assert_eq!((last["seeds"].as_u64(), last["rows"][3]["pairs"].as_u64()), (Some(4), Some(24)));
    let right = |arm: usize| summary["arms"][arm]["rows"][3]["right"].as_f64().expect("a count");
    let points = last["rows"][3]["points"].as_f64().expect("a number");
    assert!((points - 100.0 * (right(3) - right(2)) / 24.0).abs() < 1e-9, "{last}");
    assert!(read(folder.path(), "accuracy.svg").contains(">vote@400</text>"));
    assert!(ended.out.contains("vote@400 - vote@40"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_killed_goes_on_where_it_was() {
    let server = support::serve().await;
    let (cut, whole) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let words = |folder: &Path| {
        let out = folder.to_str().expect("text");
        let fixed = ["--endpoint", &server.url, "--effort", "low", "--limit", "15", "--concurrency", "2"];
        eval(&[&fixed[..], &["--seeds", "1,2", "--out", out]].concat())
    };
    let begun = |folder: &Path| {
        let words = words(folder);
        Binary::start(&words.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    };
    let running = begun(cut.path());
    let started = Instant::now();
    let lines =
        || std::fs::read_to_string(cut.path().join("results.jsonl")).map_or(0, |text| text.lines().count());
    while lines() < 5 {
        assert!(started.elapsed() < PATIENCE, "nothing is written");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.kill();
    let left = lines();
    assert!(left < 90, "it was killed too late to show anything");
    let before = server.counter("espalier_choices_total").await;
    let again = begun(cut.path()).end();
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.contains(" of 90 responses are there from an earlier run"), "{}", again.out);
    let asked = server.counter("espalier_choices_total").await - before;
    assert!(asked < 90, "all were asked again, with {left} there");

    assert_eq!(begun(whole.path()).end().code, Some(0));
    assert_eq!(timeless(cut.path()), timeless(whole.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoints_model_key_and_odd_fields_are_dealt_with() {
    let server = support::serve().await;
    let run = |words: &[&str], variables: &[(&str, &str)]| {
        run(&[&["--endpoint", &server.url, "--limit", "1", "--families", "story"], words].concat(), variables)
    };
    let ended = run(&["--arm", "plain={}", "--model", "nobody"], &[]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.out.contains("failed 1 times: 404: ") && ended.err.contains("1 requests failed"),
        "{ended:?}"
    );
    let ended = run(&["--arm", r#"typo={"reasonning":{"mode":"cot"}}"#, "--model", "seedling"], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("ignored by the server 1 times: reasonning"), "{}", ended.out);

    let ended = run(&["--api-key-env", "SOME_KEY"], &[("SOME_KEY", "")]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--api-key-env SOME_KEY: there is no such variable"), "{ended:?}");
    assert_eq!(run(&["--api-key-env", "SOME_KEY"], &[("SOME_KEY", "s3cret")]).code, Some(0));
    let odd = run(&["--arm", "beam", "--effort", "low"], &[]);
    assert_eq!(odd.code, Some(2));
    assert!(odd.err.contains("give a label and a JSON object of request fields"), "{odd:?}");
}
