//! Every model family and every configuration key against transformers, on
//! small random checkpoints made by `tests/fixtures/make_families.py`, and
//! checkpoints in several files.

use crate::engine::{Rig, logits, model, path, read, relative_error, rig_over};
use crate::support::serve_model;
use candle_core::{Device, safetensors};
use espalier::engine::tree::checkpoint::Weights;
use espalier::engine::tree::config::ModelConfig;
use espalier::prompt::Tokenizer;
use std::fs;
use tempfile::TempDir;

/// Configurations, and the weights that each is for.
const CASES: [(&str, &str); 18] = [
    ("llama-plain", "llama"),
    ("llama-theta", "llama"),
    ("llama-linear", "llama"),
    ("llama-llama3", "llama"),
    ("llama-yarn", "llama"),
    ("llama-yarn-implicit", "llama"),
    ("llama-yarn-betas", "llama"),
    ("llama-yarn-mscale", "llama"),
    ("llama-bias", "llama-bias"),
    ("mistral-full", "mistral"),
    ("mistral-window-20", "mistral"),
    ("mistral-window-7", "mistral"),
    ("qwen2-full", "qwen2"),
    ("qwen2-window", "qwen2"),
    ("qwen2-yarn", "qwen2"),
    ("qwen3-full", "qwen3"),
    ("qwen3-layer-types", "qwen3"),
    ("qwen3-bias", "qwen3-bias"),
];

const FAMILIES: &str = "tests/fixtures/families";

/// The case under one of its spellings, in steps of so many rows.
fn rig((case, weights): (&str, &str), spelling: &str, step_positions: usize) -> Rig {
    let config = format!("{FAMILIES}/{case}/{spelling}");
    let model = model(&config, &format!("{FAMILIES}/weights/{weights}"));
    let tokenizer = Tokenizer::from_json(&read("tests/fixtures/llama-gqa/tokenizer.json")).expect("reads");
    rig_over(model, tokenizer, (step_positions, 8 << 20))
}

/// The reference: the tokens, the positions that were kept, and their logits.
pub(crate) struct Reference {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<usize>,
    pub(crate) logits: Vec<Vec<f32>>,
}

pub(crate) fn reference(case: &str) -> Reference {
    reference_in(&format!("{FAMILIES}/{case}"))
}

/// That of any directory.
pub(crate) fn reference_in(directory: &str) -> Reference {
    let file = path(&format!("{directory}/logits.safetensors"));
    let tensors = safetensors::load(file, &Device::Cpu).expect("the fixture reads");
    let ids = |name: &str| tensors[name].to_vec1::<i64>().expect("whole numbers");
    Reference {
        tokens: ids("tokens").into_iter().map(|id| id as u32).collect(),
        positions: ids("positions").into_iter().map(|position| position as usize).collect(),
        logits: tensors["logits"].to_vec2::<f32>().expect("rows"),
    }
}

#[test]
fn no_case_is_forgotten() {
    let mut found: Vec<String> = std::fs::read_dir(path(FAMILIES))
        .expect("the fixtures are there")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "weights")
        .collect();
    found.sort();
    let mut cases = CASES.map(|(case, _)| case);
    cases.sort_unstable();
    assert_eq!(found, cases);
}

#[tokio::test]
async fn every_family_and_key_agrees_with_transformers_whichever_way_it_is_computed() {
    for case in CASES {
        let name = case.0;
        let Reference { tokens, positions, logits: theirs } = reference(name);
        let n = tokens.len();
        let picked = |rows: &[Vec<f32>]| positions.iter().map(|&p| rows[p].clone()).collect::<Vec<_>>();

        let engine = rig(case, "config.json", 512);
        let branch = engine.open(&tokens, n, 1).await;
        let whole = logits(&branch, 0..n).await;
        let error = relative_error(&picked(&whole), &theirs);
        assert!(error <= 1e-4, "{name}: {error}");

        // The other modes give the very bits of the whole prefill, and with
        // them agree with the reference.
        let older = rig(case, "config-v4.json", 512);
        let branch = older.open(&tokens, n, 1).await;
        assert_eq!(logits(&branch, 0..n).await, whole, "{name}: the spelling of transformers 4");

        let chunked = rig(case, "config.json", 7);
        let branch = chunked.open(&tokens, n, 1).await;
        assert_eq!(logits(&branch, 0..n).await, whole, "{name}: in chunks of 7");

        let branch = engine.open(&tokens[..1], n, 1).await;
        let mut rows = logits(&branch, 0..1).await;
        for (i, &token) in tokens.iter().enumerate().skip(1) {
            branch.append(vec![token]);
            rows.extend(logits(&branch, i..i + 1).await);
        }
        assert_eq!(rows, whole, "{name}: token by token");

        // Forks at borders of blocks and windows and beside them, each with a
        // sibling that goes elsewhere.
        for engine in [&engine, &chunked] {
            for at in [7, 16, 20, 21, 33, n - 1] {
                let trunk = engine.open(&tokens[..at], n, 2).await;
                trunk.settle().await.expect("settles");
                let (fork, sibling) = (trunk.fork(1), trunk.fork(2));
                sibling.append(tokens[..n - at].to_vec());
                fork.append(tokens[at..].to_vec());
                let (forked, _) = tokio::join!(logits(&fork, at..n), logits(&sibling, at..n));
                assert_eq!(forked, whole[at..], "{name}: forked at {at}");
            }
        }
    }
}

/// A directory as a hub would hold it: weights in shards, one configuration,
/// the template in a file of its own.
fn sharded() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = path(&format!("{FAMILIES}/weights/mistral"));
    for entry in fs::read_dir(weights).expect("the fixture is there") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    let case = path(&format!("{FAMILIES}/mistral-window-20/config.json"));
    fs::copy(case, folder.path().join("config.json")).expect("copied");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(path("tests/fixtures/llama-gqa").join(file), folder.path().join(file)).expect("copied");
    }
    folder
}

const SHARDS: [&str; 3] = [
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
];

#[test]
fn shards_are_counted_and_their_reading_is_reported() {
    let folder = sharded();
    let weights = Weights::open(folder.path()).expect("opens");
    let config = ModelConfig::from_json(&fs::read(folder.path().join("config.json")).expect("reads"));
    let config = config.expect("a good configuration");
    weights.check(&config).expect("everything is there");
    let total = weights.bytes();
    let mut seen = Vec::new();
    let model = weights.load(config, &mut |done, of| seen.push((done, of))).expect("loads");
    // Two bytes each, and every tensor of the files is used.
    assert_eq!(total, 2 * model.parameters() as u64);
    assert_eq!((seen.first(), seen.last()), (Some(&(0, total)), Some(&(total, total))));
    assert!(seen.windows(2).all(|pair| pair[0].0 <= pair[1].0) && seen.len() > 20, "{seen:?}");
}

#[test]
fn broken_shards_are_told_by_name() {
    let refused = |folder: &TempDir, said: &[&str]| {
        let error = Weights::open(folder.path()).expect_err("refused").to_string();
        let loaded = espalier::app::load(folder.path().to_str().expect("UTF-8")).expect_err("refused");
        assert!(loaded.to_string().contains(&error), "{loaded} lacks {error}");
        for said in said {
            assert!(error.contains(said), "{error} lacks {said}");
        }
    };
    let shard = |folder: &TempDir| folder.path().join(SHARDS[1]);

    let missing = sharded();
    fs::remove_file(shard(&missing)).expect("removed");
    refused(&missing, &[SHARDS[1], "missing", "3 files", "download"]);

    for keep in [0, 5, 100, 20_000] {
        let cut = sharded();
        let bytes = fs::read(shard(&cut)).expect("reads");
        fs::write(shard(&cut), &bytes[..keep]).expect("written");
        refused(&cut, &[SHARDS[1], "cut off", &format!("{keep} bytes"), "download"]);
    }
    let pointer = sharded();
    fs::write(shard(&pointer), "version https://git-lfs.github.com/spec/v1\n").expect("written");
    refused(&pointer, &[SHARDS[1], "no safetensors file"]);

    let swapped = sharded();
    fs::copy(swapped.path().join(SHARDS[0]), shard(&swapped)).expect("copied");
    refused(&swapped, &["stands in", "another file"]);

    let index = |change: &dyn Fn(&mut serde_json::Value)| {
        let folder = sharded();
        let file = folder.path().join("model.safetensors.index.json");
        let mut index = serde_json::from_slice(&fs::read(&file).expect("reads")).expect("JSON");
        change(&mut index);
        fs::write(file, index.to_string()).expect("written");
        folder
    };
    let moved = index(&|index| index["weight_map"]["model.norm.weight"] = SHARDS[0].into());
    refused(&moved, &["model.norm.weight", SHARDS[0], "where it is not"]);
    let outside = index(&|index| index["weight_map"]["model.norm.weight"] = "../x.safetensors".into());
    refused(&outside, &["../x.safetensors", "no file name"]);
    let broken = index(&|index| *index = serde_json::json!({"metadata": {}}));
    refused(&broken, &["model.safetensors.index.json", "weight_map"]);

    let tensor = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let folder = sharded();
        for shard in SHARDS {
            let file = folder.path().join(shard);
            let bytes = fs::read(&file).expect("reads");
            if bytes.windows(name.len()).any(|window| window == name.as_bytes()) {
                fs::write(file, change(bytes)).expect("written");
            }
        }
        folder
    };
    let typed = tensor("model.norm.weight", &|bytes| {
        let text = b"\"dtype\":\"BF16\"";
        let at = bytes.windows(text.len()).position(|window| window == text).expect("a type");
        let mut bytes = bytes;
        bytes[at..at + text.len()].copy_from_slice(b"\"dtype\":\"I16\" ");
        bytes
    });
    let error = espalier::app::load(typed.path().to_str().expect("UTF-8")).expect_err("refused").to_string();
    assert!(error.contains("is I16; supported are F32, F16 and BF16"), "{error}");
}

#[tokio::test]
async fn a_sharded_checkpoint_with_a_template_file_is_served() {
    let folder = sharded();
    let name = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
    let fields = serde_json::json!({
        "model": name, "max_completion_tokens": 12, "reasoning_effort": "none",
        "messages": [{"role": "user", "content": "hi"}],
    });
    let mut prompts = Vec::new();
    // The key of tokenizer_config.json, then the file that rules over it.
    for template in [None, Some("{% for m in messages %}{{ m['content'] }}{% endfor %}")] {
        if let Some(template) = template {
            fs::write(folder.path().join("chat_template.jinja"), template).expect("written");
        }
        let server = serve_model(folder.path().to_str().expect("UTF-8")).await;
        let body = server.chat(fields.clone()).await;
        let tokens = body["usage"]["completion_tokens"].as_u64().expect("a number");
        assert!((1..=12).contains(&tokens), "{body}");
        prompts.push(body["usage"]["prompt_tokens"].as_u64().expect("a number"));
    }
    assert_eq!(prompts[1], 2, "the file's template writes the two letters alone: {prompts:?}");
    assert!(prompts[0] > 10, "{prompts:?}");
}
