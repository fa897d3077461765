//! Which directories are adapters, where their bases are, and whose files count.

use super::super::find::find_here;
use super::*;
use crate::app::{Checked, Hub};
use crate::config::{Environment, ModelArgs};
use crate::engine::tree::checkpoint::ADAPTER;
use crate::prompt::Message;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn copy(from: &str, to: PathBuf) {
    fs::copy(fixture(from), to).expect("copied");
}

/// A folder with a checkpoint, `base`, and an adapter of it, `tuned`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().join("base");
    fs::create_dir(&base).expect("made");
    copy("families/weights/llama/model.safetensors", base.join(SINGLE));
    copy("families/llama-plain/config.json", base.join("config.json"));
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        copy(&format!("llama-gqa/{file}"), base.join(file));
    }
    adapter(&folder.path().join("tuned"), "../base");
    folder
}

/// Puts an adapter into a directory.
fn adapter(directory: &Path, base: &str) {
    fs::create_dir_all(directory).expect("made");
    copy("adapters/plain/adapter_model.safetensors", directory.join(ADAPTER));
    let config = fs::read(fixture("adapters/plain/adapter_config.json")).expect("a file of the repository");
    let mut config: Value = serde_json::from_slice(&config).expect("an object");
    config["base_model_name_or_path"] = json!(base);
    fs::write(directory.join(ADAPTER_CONFIG), config.to_string()).expect("written");
}

fn checked(directory: &Path) -> Result<Checked, String> {
    let found = find_here(&ModelArgs::from(directory.to_str().expect("UTF-8")));
    found.and_then(Found::check).map_err(|error| error.to_string())
}

fn refused(directory: &Path) -> String {
    checked(directory).map(|_| ()).expect_err("refused")
}

fn prompt(checked: &Checked) -> String {
    let said = Message { role: "user", content: "Hello".to_owned() };
    checked.template.render(&[said], None).expect("renders")
}

#[test]
fn an_adapter_is_its_base_under_its_own_name() {
    let folder = folder();
    let (base, tuned) = (folder.path().join("base"), folder.path().join("tuned"));
    let plain = checked(&base).expect("good");
    for name in ["../base", "../base/", base.to_str().expect("UTF-8")] {
        adapter(&tuned, name);
        let checked = checked(&tuned).expect("good");
        assert_eq!(checked.names, ["tuned"]);
        assert!(checked.origin.ends_with("; merged into base"), "{}", checked.origin);
        assert_eq!(checked.eos, plain.eos);
        assert_eq!(prompt(&checked), prompt(&plain));
        // All its matrices, of which what the adapter changes is in f32.
        let count = |checked: Checked| -> usize {
            let model = checked.load(&mut |_, _| {}).expect("loads").model;
            model.formats().values().map(|(count, _)| count).sum()
        };
        assert!(checked.resident() > plain.resident());
        assert_eq!(count(checked), count(self::checked(&base).expect("good")));
    }
    // A bundled model, and a directory below the working one: found, though of
    // other shapes.
    for name in ["seedling", "tests/fixtures/llama-gqa"] {
        adapter(&tuned, name);
        assert!(refused(&tuned).contains("and the base with adapter_config.json asks for"), "{name}");
    }
}

#[test]
fn the_files_of_an_adapter_rule_over_those_of_its_base() {
    let folder = folder();
    let (base, tuned) = (folder.path().join("base"), folder.path().join("tuned"));
    let write = |directory: &Path, file: &str, text: &str| {
        fs::write(directory.join(file), text).expect("written");
    };
    write(&base, TEMPLATE, "base {{ messages[0].content }}");
    write(&base, "generation_config.json", "{\"eos_token_id\": 7}");
    // A configuration without a tokenizer is none.
    let own = json!({"chat_template": "tuned {{ messages[0].content }}", "eos_token": "</s>"});
    write(&tuned, "tokenizer_config.json", &own.to_string());
    write(&tuned, "config.json", "{\"architectures\": [\"None\"]}");
    let before = checked(&tuned).expect("good");
    assert_eq!(prompt(&before), "base Hello");
    assert_eq!(before.eos[0], 7);
    copy("llama-gqa/tokenizer.json", tuned.join("tokenizer.json"));
    write(&tuned, "generation_config.json", "{\"eos_token_id\": 9}");
    let after = checked(&tuned).expect("good");
    assert_eq!(prompt(&after), "tuned Hello", "the base's template goes with the base's tokenizer");
    assert_eq!(after.eos[0], 9);
}

#[test]
fn what_is_no_adapter_of_a_checkpoint_is_refused_with_the_reason() {
    let folder = folder();
    let tuned = folder.path().join("tuned");
    let gguf = fs::read_dir(fixture("gguf")).expect("there").flatten().map(|entry| entry.path());
    let gguf = gguf.filter(|path| path.extension().is_some_and(|end| end == "gguf")).min().expect("one");
    adapter(&tuned, gguf.to_str().expect("UTF-8"));
    let refusal = refused(&tuned);
    assert!(refusal.contains("cannot load 'tuned'") && refusal.contains("is a GGUF file, and"), "{refusal}");

    adapter(&tuned, "org/gone");
    let refusal = refused(&tuned);
    assert!(refusal.contains("'tuned' is an adapter of 'org/gone' (base_model_name_or_path"), "{refusal}");
    assert!(refusal.contains("no model at 'org/gone'"), "{refusal}");

    adapter(&folder.path().join("twice"), "../tuned");
    let refusal = refused(&folder.path().join("twice"));
    assert!(refusal.contains("'twice' is an adapter of '../tuned', which is an adapter itself"), "{refusal}");

    let runs = folder.path().join("runs");
    for step in ["checkpoint-1", "checkpoint-2"] {
        adapter(&runs.join(step), "../../base");
    }
    let refusal = refused(&runs);
    assert!(refusal.contains("several adapters (checkpoint-1, checkpoint-2); name one"), "{refusal}");
    fs::remove_dir_all(runs.join("checkpoint-1")).expect("removed");
    assert_eq!(checked(&runs).expect("one is left").names, ["runs"]);

    fs::write(tuned.join(ADAPTER_CONFIG), "{\"peft_type\": \"IA3\"}").expect("written");
    let refusal = refused(&tuned);
    assert!(refusal.contains("cannot load 'tuned': adapter_config.json: peft_type = IA3"), "{refusal}");
    // A checkpoint that an adapter lies beside is a checkpoint.
    fs::copy(tuned.join(ADAPTER_CONFIG), folder.path().join("base").join(ADAPTER_CONFIG)).expect("copied");
    checked(&folder.path().join("base")).expect("has weights of its own");

    adapter(&tuned, "../base");
    fs::remove_file(tuned.join(ADAPTER)).expect("removed");
    assert!(refused(&tuned).contains("adapter_model.safetensors is not there"));
    fs::remove_file(folder.path().join("base/tokenizer.json")).expect("removed");
    let refusal = refused(&tuned);
    assert!(refusal.contains("base' holds ") && refusal.contains("no tokenizer.json"), "{refusal}");
}

#[test]
fn a_path_of_another_machine_ends_in_the_name_of_a_model() {
    let folder = folder();
    let ids = |base: &str| {
        adapter(&folder.path().join("tuned"), base);
        let found = Found { source: Source::Directory(folder.path().join("tuned")), ..find("base", &folder) };
        let adapter = Adapter::of(&found).expect("reads").expect("an adapter");
        (adapter.id().map(str::to_owned), adapter.guess())
    };
    let named = |id: &str| (Some(id.to_owned()), None);
    let guessed = |id: &str| (None, Some(id.to_owned()));
    for id in ["org/name", "org/name/", "org/name//"] {
        assert_eq!(ids(id), named("org/name"), "{id}");
    }
    let machine = "../../models/Qwen/Qwen2.5-Math-7B-Instruct/";
    assert_eq!(ids(machine), guessed("Qwen/Qwen2.5-Math-7B-Instruct"));
    for path in [
        "/data/models/org/name",
        "./org/name",
        "/hub/models--org--name/snapshots/0123",
        "hub/models--org--name/",
        "models--org--name",
        "models--org--name/snapshots",
    ] {
        assert_eq!(ids(path), guessed("org/name"), "{path}");
    }
    let none = ["name", "../name", "../../name", "/name", "org/../name", "./org/na me", "/"];
    for path in none.into_iter().chain(["/hub/models--name/snapshots/0123", "models--"]) {
        assert_eq!(ids(path), (None, None), "{path}");
    }
}

#[tokio::test]
async fn a_guessed_base_is_used_from_the_cache_and_never_downloaded() {
    let folder = folder();
    let (tuned, cache) = (folder.path().join("tuned"), folder.path().join("hub"));
    let model = cache.join("models--org--base");
    fs::create_dir_all(model.join("refs")).expect("made");
    fs::create_dir_all(model.join("snapshots")).expect("made");
    fs::rename(folder.path().join("base"), model.join("snapshots/0123")).expect("moved");
    fs::write(model.join("refs/main"), "0123").expect("written");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let variables = [("HF_HUB_CACHE", cache.to_str().expect("UTF-8")), ("HF_ENDPOINT", endpoint.as_str())];
    let hub = Hub::new(&Environment::from(variables));
    let args = ModelArgs::from(tuned.to_str().expect("UTF-8"));
    for base in ["org/base", "org/base/", "/gone/org/base", "../gone/models--org--base/snapshots/4567"] {
        adapter(&tuned, base);
        let checked = crate::app::find(&args, &hub).await.and_then(Found::check).expect(base);
        assert!(checked.origin.ends_with("; merged into org/base"), "{base}: {}", checked.origin);
    }
    let refused = async || crate::app::find(&args, &hub).await.expect_err("refused").to_string();
    let directory = "name its id or its directory in adapter_config.json";
    for (base, id) in [
        ("/data/models/base", "models/base"),
        ("../../models/other/base/", "other/base"),
        ("/gone/models--org--other/snapshots/0123", "org/other"),
    ] {
        adapter(&tuned, base);
        let cause = format!(
            "'tuned' is an adapter of '{base}' (base_model_name_or_path of its adapter_config.json), which \
             cannot be had: no such directory is here, and '{id}' (revision main), which the path may mean, \
             is not in the Hugging Face cache; put the base there, download '{id}' first, or {directory}"
        );
        assert_eq!(refused().await, cause);
    }
    adapter(&tuned, "../gone");
    let refusal = refused().await;
    let cause =
        "no such directory is here, and the path ends in no Hugging Face id such as org/name; put the";
    assert!(refusal.contains(cause) && refusal.ends_with(directory), "{refusal}");

    // The revision that the adapter names is the one that must be there.
    adapter(&tuned, "/gone/org/base");
    let revise = |revision: &str| {
        let file = tuned.join(ADAPTER_CONFIG);
        let mut config: Value = serde_json::from_slice(&fs::read(&file).expect("there")).expect("an object");
        config["revision"] = json!(revision);
        fs::write(file, config.to_string()).expect("written");
    };
    revise("v2");
    assert!(refused().await.contains("'org/base' (revision v2), which the path may mean, is not in the"));
    revise("../main");
    assert!(refused().await.contains("is '../main' and must be a branch, a tag or a commit"));
    let asked = listener.accept().map(|_| ()).map_err(|error| error.kind());
    assert_eq!(asked, Err(std::io::ErrorKind::WouldBlock), "a guess asks the hub for nothing");
}

fn find(name: &str, folder: &TempDir) -> Found {
    let directory = folder.path().join(name);
    find_here(&ModelArgs::from(directory.to_str().expect("UTF-8"))).expect("is there")
}
