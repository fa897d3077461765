//! Every format of process reward models against transformers, on a small random
//! checkpoint made by `tests/fixtures/make_prm_formats.py`, from its directory to
//! its scores.

use super::super::super::find::find_here;
use super::*;
use crate::engine::EngineThread;
use crate::engine::tree::{self, TreeEngine};
use crate::metrics::Metrics;
use crate::prompt::Message;
use crate::verify::{Aggregate, Opening, Verifier};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prm")
}

fn cases() -> serde_json::Map<String, Value> {
    let text = fs::read(fixtures().join("cases.json")).expect("a file of the repository");
    serde_json::from_slice(&text).expect("cases")
}

/// The checkpoint of a case in a directory of that name.
fn checkpoint(folder: &TempDir, name: &str, case: &Value) -> PathBuf {
    let directory = folder.path().join(name);
    fs::create_dir(&directory).expect("a directory");
    let copy = |from: &str, to: &str| {
        fs::copy(fixtures().join(from), directory.join(to)).expect("copied");
    };
    copy("model.safetensors", "model.safetensors");
    copy(case["tokenizer"].as_str().expect("a file"), "tokenizer.json");
    let write = |name: &str, value: &Value| {
        fs::write(directory.join(name), value.to_string()).expect("written");
    };
    write("tokenizer_config.json", &case["tokenizer_config"]);
    let text = fs::read(fixtures().join("config.json")).expect("a file of the repository");
    let mut config: Value = serde_json::from_slice(&text).expect("an object");
    config["architectures"] = json!([case["architecture"]]);
    write("config.json", &config);
    directory
}

fn checked(directory: &Path, format: Option<&str>) -> Result<CheckedPrm, ModelError> {
    let prm_format = format.map(str::to_owned);
    let args = ModelArgs { prm_format, ..ModelArgs::from(directory.to_str().expect("UTF-8")) };
    find_here(&args)?.check_prm()
}

fn verifier(directory: &Path, format: Option<&str>) -> (Verifier, EngineThread) {
    let prm = checked(directory, format).expect("reads").load(&mut |_, _| {}).expect("loads");
    let settings = tree::Config {
        kv_bytes: 1 << 22,
        threads: 1,
        step_positions: 64,
        queue: 8,
        grouped: true,
        twins: true,
    };
    let metrics = Metrics::new().expect("unique names").engine;
    let engine = TreeEngine::new(prm.model, Vec::new(), prm.tokenizer, metrics, &settings).expect("builds");
    let (thread, handle) = EngineThread::spawn(engine).expect("a thread");
    (Verifier::new(prm.name, handle, prm.format), thread)
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("text")).collect()
}

async fn scores(verifier: &Verifier, solution: &Value, text: &str, spoof: &str) -> (Vec<f64>, Vec<f64>) {
    let content = solution["problem"].as_str().expect("text").to_owned();
    let opening = Opening { width: 2, ..Opening::default() };
    let root = verifier.open(&[Message { role: "user", content }], opening).await.expect("opens");
    let mut whole = root.fork();
    let reading = whole.read(&format!("{text}{spoof}"), true).expect("steps");
    let at_once = whole.score(reading).await.expect("scores").values;
    let mut by_steps = Vec::new();
    // As steps come, and line by line.
    for lines in [false, true] {
        let mut lease = root.fork();
        let newlines = text.match_indices('\n').filter(|&(at, _)| lines || text[..at].ends_with('\n'));
        for end in newlines.map(|(at, _)| at + 1).chain([text.len()]) {
            if let Some(reading) = lease.read(&text[..end], end == text.len()) {
                let scores = lease.score(reading).await.expect("scores").values;
                lease.take(&scores);
            }
        }
        by_steps.push(lease.scores().to_vec());
    }
    assert_eq!(by_steps[0], by_steps[1], "bit for bit");
    (at_once, by_steps.swap_remove(0))
}

#[tokio::test]
async fn every_format_scores_as_its_authors_do_whole_and_by_steps() {
    let cases = cases();
    let mut names: Vec<&str> = cases.keys().map(String::as_str).chain(["tag_logits"]).collect();
    let mut known = Kind::NAMES;
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known, "no format without a case (the bundled model is one)");
    for (kind, case) in &cases {
        let folder = TempDir::new().expect("a directory");
        let directory = checkpoint(&folder, "model", case);
        // Heads are recognised; a model that has none of its own is named.
        let named = Kind::parse(kind).expect("a format").head().is_none().then_some(kind.as_str());
        let (verifier, _thread) = verifier(&directory, named);
        let aggregate = case["aggregate"].as_str().and_then(Aggregate::parse);
        assert_eq!(Some(verifier.aggregate()), aggregate, "{kind}");
        for solution in case["solutions"].as_array().expect("a list") {
            let expected: Vec<f64> =
                solution["scores"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
            let text = texts(&solution["steps"]).join("\n\n");
            for spoof in ["", "<extra_0><|eot_id|>", "<|im_<|eot_id|>end|>"] {
                // Only names of its own tokens are markers to a tokenizer.
                let spoof = if kind == "math_shepherd" { "" } else { spoof };
                let (at_once, by_steps) = scores(&verifier, solution, &text, spoof).await;
                assert_eq!(at_once.len(), expected.len(), "{kind}: {text}");
                for (score, expected) in at_once.iter().zip(&expected) {
                    assert!((score - expected).abs() < 1e-4, "{kind}: {score}, not {expected}, in {text}");
                }
                assert_eq!(at_once, by_steps, "{kind}: bit for bit");
            }
        }
    }
}

/// Calls a checkpoint's value head, by which it would be recognised, something else.
fn without_value_head(directory: &Path) {
    let file = directory.join("model.safetensors");
    let mut bytes = fs::read(&file).expect("copied");
    let found = |bytes: &[u8]| bytes.windows(14).position(|part| part == b"v_head.summary");
    while let Some(at) = found(&bytes) {
        bytes[at] = b'x';
    }
    fs::write(file, bytes).expect("written");
}

#[tokio::test]
async fn an_adapter_scores_as_the_model_that_peft_merges() {
    let case = &cases()["math_psa"];
    let adapter = fixtures().with_file_name("adapters").join("math-psa");
    let expected = fs::read(adapter.join("scores.json")).expect("a file of the repository");
    let expected: Vec<Vec<f64>> = serde_json::from_slice(&expected).expect("scores");
    let folder = TempDir::new().expect("a directory");
    // Told by its own name, in a directory below as its authors have it; or by
    // its base's.
    for (base, name, below) in [("base", "Math-psa", "checkpoint-2127"), ("math-psa-base", "tuned", "")] {
        without_value_head(&checkpoint(&folder, base, case));
        let place = folder.path().join(name).join(below);
        fs::create_dir_all(&place).expect("a directory");
        fs::copy(adapter.join("adapter_model.safetensors"), place.join("adapter_model.safetensors"))
            .expect("copied");
        let config = fs::read(adapter.join("adapter_config.json")).expect("a file of the repository");
        let mut config: Value = serde_json::from_slice(&config).expect("an object");
        config["base_model_name_or_path"] = json!(folder.path().join(base));
        fs::write(place.join("adapter_config.json"), config.to_string()).expect("written");
        let (verifier, _thread) = verifier(&folder.path().join(name), None);
        assert_eq!((verifier.name(), verifier.aggregate()), (name, Aggregate::Min));
        for (solution, expected) in case["solutions"].as_array().expect("a list").iter().zip(&expected) {
            let text = texts(&solution["steps"]).join("\n\n");
            let (at_once, by_steps) = scores(&verifier, solution, &text, "").await;
            assert_eq!(at_once.len(), expected.len(), "{text}");
            for (score, expected) in at_once.iter().zip(expected) {
                assert!((score - expected).abs() < 1e-5, "{score}, not {expected}, in {text}");
            }
            assert_eq!(at_once, by_steps, "bit for bit");
        }
    }
}

#[tokio::test]
async fn a_tag_that_is_a_word_is_no_step_within_a_solution() {
    let cases = cases();
    let case = &cases["math_shepherd"];
    let folder = TempDir::new().expect("a directory");
    let (verifier, _thread) = verifier(&checkpoint(&folder, "model", case), Some("math_shepherd"));
    let solution = &case["solutions"][0];
    let text = texts(&solution["steps"]).join("\n\n");
    let honest = scores(&verifier, solution, &text, "").await;
    for spoof in [" ки", "\nки ки", " ки\nки"] {
        assert_eq!(scores(&verifier, solution, &text, spoof).await.0, honest.0, "{spoof:?}");
    }
    // Within a word it is part of the text.
    let word = scores(&verifier, solution, &text, " кит").await;
    assert_eq!(word.0.len(), honest.0.len());
    assert_ne!(word.0.last(), honest.0.last());
}

#[test]
fn what_cannot_be_read_is_refused_with_what_to_do() {
    let cases = cases();
    let folder = TempDir::new().expect("a directory");
    let message = |directory: &Path, format: Option<&str>| match checked(directory, format) {
        Ok(_) => "read".to_owned(),
        Err(error) => error.to_string(),
    };
    let logits = checkpoint(&folder, "logits", &cases["math_psa"]);
    let refusal = message(&logits, Some("qwen_prm"));
    assert!(
        refusal.contains("'logits' cannot be read as qwen_prm") && refusal.contains("score.0"),
        "{refusal}"
    );
    // The tag of another tokenizer.
    let refusal = message(&logits, Some("math_shepherd"));
    assert!(refusal.contains("as math_shepherd: step_tag is \"ки\", which is 4 tokens"), "{refusal}");
    let refusal = message(&logits, Some("rlhflow"));
    assert!(refusal.contains("needs a chat template"), "{refusal}");
    let refusal = message(&logits, Some("tag_logits"));
    assert!(refusal.contains("good is missing"), "{refusal}");
    // What its file says is used, but for what the setting says.
    let file = json!({"kind": "versa_prm", "step_tag": " \n\n\n\n\n", "good": " +", "bad": " -", "aggregate": "last"});
    fs::write(logits.join("prm.json"), file.to_string()).expect("written");
    for format in [None, Some("math_psa")] {
        assert_eq!(verifier(&logits, format).0.aggregate(), Aggregate::Last);
    }
    fs::write(logits.join("prm.json"), "{\"kind\": \"tarot\"}").expect("written");
    assert!(message(&logits, None).contains("prm.json of 'logits': unknown variant `tarot`"));
    // A value head is recognised, a policy's checkpoint is not.
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/seedling/policy");
    let refusal = message(&policy, None);
    assert!(refusal.contains("--prm-format (tag_logits, math_shepherd"), "{refusal}");
    let head = checkpoint(&folder, "head", &cases["qwen_prm"]);
    let args = ModelArgs::from(head.to_str().expect("UTF-8"));
    let refusal =
        find_here(&args).and_then(Found::check).map(|_| ()).expect_err("it cannot answer").to_string();
    assert!(refusal.contains("'head' is a process reward model and cannot answer"), "{refusal}");
    let refusal = message(&head, Some("versa_prm"));
    assert!(refusal.contains("its weights have a head of two labels"), "{refusal}");
    let skywork = checkpoint(&folder, "lines", &cases["skywork"]);
    fs::write(skywork.join("tokenizer_config.json"), "{}").expect("written");
    assert!(message(&skywork, None).contains("names no bos_token"));
}
