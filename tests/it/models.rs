//! Checkpoints that cannot be served, each with a message of its own, and the
//! binary that refuses them before it opens its port.

use crate::binary::{Binary, Ended};
use crate::support::serve_model;
use espalier::app::load;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-gqa")
}

/// A copy of the small checkpoint, to be broken.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in FILES.iter().chain(&["generation_config.json"]) {
        fs::copy(fixture().join(file), folder.path().join(file)).expect("copied");
    }
    folder
}

/// What loading says; it must be one line for a person.
fn refusal(path: &Path) -> String {
    let error = load(path.to_str().expect("UTF-8")).expect_err("it cannot be served");
    error.to_string()
}

fn says(path: &Path, parts: &[&str]) {
    let message = refusal(path);
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// A copy with one file changed.
fn changed(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> TempDir {
    let folder = copy();
    let path = folder.path().join(file);
    let bytes = fs::read(&path).unwrap_or_default();
    fs::write(path, change(bytes)).expect("written");
    folder
}

/// A copy with one key of its configuration changed.
fn configured(key: &'static str, value: Value) -> TempDir {
    changed("config.json", |bytes| {
        let mut config: Value = serde_json::from_slice(&bytes).expect("JSON");
        config[key] = value;
        config.to_string().into_bytes()
    })
}

#[test]
fn paths_that_hold_no_checkpoint() {
    says(Path::new("/nonexistent"), &["no model at '/nonexistent'", "seedling", "a directory"]);
    let file = fixture().join("config.json");
    says(&file, &["config.json", "is a file", "directory"]);
    let empty = tempfile::tempdir().expect("a folder");
    says(empty.path(), &["holds nothing", "no config.json", "tokenizer_config.json"]);
}

#[test]
fn every_missing_file_is_named() {
    for file in FILES {
        let folder = copy();
        fs::remove_file(folder.path().join(file)).expect("removed");
        says(folder.path(), &[&format!("but no {file};"), "generation_config.json"]);
    }
    // The one file that may be missing.
    let folder = copy();
    fs::remove_file(folder.path().join("generation_config.json")).expect("removed");
    load(folder.path().to_str().expect("UTF-8")).expect("config.json names the end as well");
}

#[test]
fn weights_that_are_cut_off_or_no_weights() {
    for keep in [0, 4, 9, 100, 20_000] {
        let folder = changed("model.safetensors", |bytes| bytes[..keep].to_vec());
        says(folder.path(), &["cannot load", "weights:"]);
    }
    let folder = changed("model.safetensors", |mut bytes| {
        bytes.pop();
        bytes
    });
    says(folder.path(), &["cannot load", "weights:"]);
    let folder = changed("model.safetensors", |_| b"version https://git-lfs.github.com/spec/v1\n".repeat(3));
    says(folder.path(), &["cannot load", "weights:"]);
}

#[test]
fn weights_that_do_not_fit_the_configuration() {
    let renamed = changed("model.safetensors", |bytes| {
        let name = b"model.norm.weight";
        let at = bytes.windows(name.len()).position(|window| window == name).expect("it is there");
        let mut bytes = bytes;
        bytes[at..at + name.len()].copy_from_slice(b"model.norm.height");
        bytes
    });
    says(renamed.path(), &["weights:", "model.norm.weight"]);
    says(configured("intermediate_size", json!(128)).path(), &["weights:", "mlp", "shape"]);
    says(configured("num_hidden_layers", json!(4)).path(), &["weights:", "model.layers.3."]);
    let lists = configured("rope_parameters", json!({"rope_type": "dynamic", "rope_theta": 1e6}));
    says(lists.path(), &["rope_parameters.rope_type = dynamic", "default"]);
}

#[test]
fn configurations_that_are_broken_or_of_other_models() {
    for file in ["config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"] {
        let folder = changed(file, |_| b"{ not json".to_vec());
        let message = refusal(folder.path());
        assert!(message.contains(file) && message.contains("line 1"), "{file}: {message}");
    }
    let other = configured("architectures", json!(["GPT2LMHeadModel"]));
    says(other.path(), &["GPT2LMHeadModel", "supported", "LlamaForCausalLM"]);
    let none = configured("architectures", json!([]));
    says(none.path(), &["none named", "LlamaForCausalLM"]);
    let lacks = changed("config.json", |_| br#"{"architectures": ["LlamaForCausalLM"]}"#.to_vec());
    says(lacks.path(), &["config.json", "hidden_size"]);
    says(configured("vocab_size", json!(16)).path(), &["its tokenizer has", "and the model 16"]);
    let far = changed("tokenizer.json", |bytes| {
        let mut tokenizer: Value = serde_json::from_slice(&bytes).expect("JSON");
        tokenizer["model"]["vocab"]["far"] = json!(u32::MAX);
        tokenizer.to_string().into_bytes()
    });
    says(far.path(), &["tokenizer.json", "\"far\"", "the id 4294967295", "of a vocabulary of"]);
    let template = changed("tokenizer_config.json", |_| b"{}".to_vec());
    says(template.path(), &["cannot load", "chat_template"]);
    let own = template.path().join("chat_template.jinja");
    fs::write(&own, "{% if %}").expect("written");
    says(template.path(), &["cannot load", "chat_template.jinja", "chat template"]);
    fs::write(&own, "{{ messages[0].content }}</think>").expect("written");
    let loaded = load(template.path().to_str().expect("UTF-8")).expect("a template of its own is enough");
    assert_eq!(loaded.config.prompt.answer_marker.as_deref(), Some("</think>"));
}

#[test]
fn settings_that_are_wrong() {
    for (text, named) in [("nonsense", "line 1"), ("[prompt]\nhue = 3\n", "hue"), ("plan = 3", "plan")] {
        let folder = changed("espalier.toml", |_| text.as_bytes().to_vec());
        says(folder.path(), &["espalier.toml of", named]);
    }
}

#[tokio::test]
async fn a_directory_and_the_bundled_prm_are_served_like_the_default() {
    let folder = fixture();
    for (model, name, layers) in
        [(folder.to_str().expect("UTF-8"), "llama-gqa", 3), ("seedling-prm", "seedling-prm", 9)]
    {
        let loaded = load(model).expect("loads");
        assert_eq!((loaded.name.as_str(), loaded.model.config().layers), (name, layers));
        let server = serve_model(model).await;
        let models = server.get("/v1/models").await.json();
        assert_eq!(models["data"][0]["id"], name);
        let fields = json!({
            "model": name, "max_completion_tokens": 12, "reasoning_effort": "none",
            "messages": [{"role": "user", "content": "1 + 1"}],
        });
        let body = server.chat(fields).await;
        let tokens = body["usage"]["completion_tokens"].as_u64().expect("a number");
        assert!((1..=12).contains(&tokens), "{body}");
        assert_eq!(body["model"], name);
    }
}

#[test]
fn the_binary_refuses_what_it_cannot_serve_in_one_line_and_opens_no_port() {
    let free = TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("an address");
    let port = free.port().to_string();
    let broken = configured("architectures", json!(["GPT2LMHeadModel"]));
    let settings = changed("espalier.toml", |_| b"nonsense".to_vec());
    for (model, named) in [
        ("/nonexistent", "no model at '/nonexistent'"),
        (broken.path().to_str().expect("UTF-8"), "GPT2LMHeadModel"),
        (settings.path().to_str().expect("UTF-8"), "espalier.toml"),
    ] {
        let mut binary = Binary::serve(&["--model", model, "--port", &port]);
        let mut opened = false;
        while !binary.is_over() {
            opened |= TcpStream::connect(free).is_ok();
        }
        let Ended { code, out, err } = binary.end();
        assert_eq!(code, Some(1), "{err}");
        assert!(!opened, "the port was open before the model was refused");
        assert_eq!(out, "");
        assert!(err.starts_with("espalier: ") && err.contains(named), "{err}");
        assert!(model != "/nonexistent" || err.lines().count() == 1, "{err}");
        assert!(!err.contains("panicked"), "{err}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = taken.local_addr().expect("an address");
    let Ended { code, err, .. } = Binary::serve(&["--port", &address.port().to_string()]).end();
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains(&format!("cannot listen on {address}")) && err.contains("--port"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[cfg(unix)]
#[test]
fn a_signal_to_stop_ends_it_in_peace() {
    let mut binary = Binary::serve(&["--port", "0", "--kv-mib", "64"]);
    let address = binary.address();
    // One client has been answered and stays, another never asks for anything.
    let mut served = TcpStream::connect(&address).expect("connects");
    let _silent = TcpStream::connect(&address).expect("connects");
    served.write_all(format!("GET /health HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes()).expect("sent");
    let mut head = [0; 15];
    served.read_exact(&mut head).expect("answered");
    assert_eq!(&head, b"HTTP/1.1 200 OK");

    let started = Instant::now();
    binary.signal("TERM");
    assert_eq!(binary.end().code, Some(0), "a wanted end is no failure");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
