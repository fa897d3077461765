//! A whole run against a server that knows the answers to half of a suite.

use super::*;
use clap::Parser;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    eval: EvalArgs,
}

fn args(words: &[&str]) -> EvalArgs {
    Cli::try_parse_from([&["eval"], words].concat()).unwrap().eval
}

/// A server of one connection per request that answers `\boxed{<seed>}`, and
/// refuses where the seed is odd and the effort high.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let request = read_request(&mut reader);
            let (status, body) = request.map_or_else(models, |body| chat(&body));
            let (body, length) = (body.to_string(), body.to_string().len());
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            reader.get_mut().write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
    });
    format!("http://{address}")
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

fn chat(body: &Value) -> (u16, Value) {
    assert_eq!(body["model"], "tiny");
    let seed = body["seed"].as_i64().unwrap();
    if seed % 2 == 1 && body["reasoning_effort"] == "high" {
        return (400, json!({"error": {"message": "odd", "code": null}}));
    }
    let message = json!({"reasoning_content": "1 + 1 = 2\n\n", "content": format!("\\boxed{{{seed}}}")});
    let choices = json!([{"message": message, "finish_reason": "stop"}]);
    (200, json!({"choices": choices, "usage": {"completion_tokens": 7}}))
}

#[tokio::test]
async fn a_run_grades_counts_and_reports_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let suite = folder.path().join("suite.jsonl");
    // With base seed 10 the server's answer to problem i is 10 + i: right for the first three.
    let line = |i: i64, answer: i64| {
        json!({"id": format!("p{i}"), "family": "f", "problem": "?", "answer": answer.to_string(), "check": {"kind": "answer"}}).to_string()
    };
    let lines = [line(0, 10), line(1, 11), line(2, 12), line(3, 0)].join("\n");
    std::fs::write(&suite, lines).unwrap();
    let results = folder.path().join("out.json");
    let (suite, results) = (suite.to_str().unwrap(), results.to_str().unwrap());
    let args = args(&["--suite", suite, "--effort", "low,high", "--seed", "10", "--json", results]);

    let mut out = Vec::new();
    let summary = run(&args, &serve(), &mut out).await.unwrap();

    let all = |effort: usize| summary.efforts[effort].rows.last().unwrap();
    assert_eq!((all(0).right, all(0).total, all(0).tokens), (3, 4, 28));
    assert_eq!((all(1).right, all(1).total, all(1).tokens), (2, 4, 14));
    assert_eq!(summary.errors(), 2);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("failed 2 times: 400: odd"), "{text}");
    let record: Value = serde_json::from_slice(&std::fs::read(results).unwrap()).unwrap();
    assert_eq!(record["efforts"][0]["responses"][1]["text"], "1 + 1 = 2\n\n\\boxed{11}");
    assert_eq!(record["efforts"][1]["responses"][3]["error"], "400: odd");
}

#[test]
fn the_defaults_measure_low_effort_on_the_bundled_suite() {
    let args = args(&[]);
    assert_eq!((args.effort.as_slice(), args.concurrency.get(), args.seed), (&["low".to_owned()][..], 32, 0));
    assert!(args.suite.ends_with("dev.jsonl"));
}
