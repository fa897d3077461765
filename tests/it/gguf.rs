//! GGUF files and quantised weights: the same logits, tokens and answers as
//! from the checkpoints that they were made of, and broken files refused.
//!
//! The files of `tests/fixtures/gguf` come out of ggml-org's own package
//! (`make_gguf.py`); others are written here by candle.

use crate::engine::{Rig, logits, path, read, relative_error, rig_over};
use crate::families::reference;
use crate::support::{PROBLEM, engine, serve_model, serve_with};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor, safetensors};
use espalier::app::{Loaded, find_here, load};
use espalier::config::{EngineArgs, ModelArgs, ServeArgs};
use serde_json::json;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use tempfile::TempDir;

const FIXTURES: &str = "tests/fixtures/gguf";
const POLICY: &str = "models/seedling/policy";

fn fixture(name: &str) -> String {
    path(&format!("{FIXTURES}/{name}.gguf")).to_str().expect("UTF-8").to_owned()
}

fn loaded(model: &str) -> Loaded {
    load(model).unwrap_or_else(|error| panic!("{model}: {error}"))
}

fn quantized(model: &str, mix: &str) -> Loaded {
    let args = ModelArgs { quantize: mix.to_owned(), ..ModelArgs::from(model) };
    let checked = find_here(&args).expect("is there").check().expect("is good");
    checked.load(&mut |_, _| {}).expect("loads")
}

fn rig(loaded: Loaded, step_positions: usize) -> Rig {
    rig_over(loaded.model, loaded.tokenizer, (step_positions, 8 << 20))
}

async fn prefilled(loaded: Loaded, tokens: &[u32]) -> Vec<Vec<f32>> {
    let rig = rig(loaded, 512);
    let branch = rig.open(tokens, tokens.len(), 1).await;
    logits(&branch, 0..tokens.len()).await
}

#[tokio::test]
async fn files_of_every_architecture_agree_with_transformers() {
    for case in [
        "llama-plain",
        "llama-linear",
        "llama-llama3",
        "llama-yarn",
        "llama-bias",
        "qwen2-full",
        "qwen3-full",
    ] {
        let theirs = reference(case);
        let rows = prefilled(loaded(&fixture(case)), &theirs.tokens).await;
        let picked: Vec<Vec<f32>> = theirs.positions.iter().map(|&p| rows[p].clone()).collect();
        let error = relative_error(&picked, &theirs.logits);
        assert!(error <= 1e-4, "{case}: {error}");
    }
}

#[tokio::test]
async fn blocks_of_every_format_give_the_bits_of_what_they_stand_for_however_they_are_computed() {
    let tokens = reference("llama-plain").tokens;
    let n = tokens.len();
    let plain = prefilled(loaded(&fixture("mixed-plain")), &tokens).await;
    let mixed = loaded(&fixture("mixed"));
    let kinds: Vec<&str> = mixed.model.formats().into_keys().collect();
    assert_eq!(kinds, ["F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]);
    let engine = rig(mixed, 512);
    let branch = engine.open(&tokens, n, 1).await;
    let whole = logits(&branch, 0..n).await;
    assert_eq!(whole, plain, "the very bits of the dequantised weights");
    // Quantising did something: the unquantised model's logits are others.
    let exact = prefilled(loaded(&fixture("llama-plain")), &tokens).await;
    let error = relative_error(&whole, &exact);
    assert!(error > 1e-3, "{error}");
    all_ways(&engine, &rig(loaded(&fixture("mixed")), 7), &tokens, &whole).await;
}

/// Chunked, token by token and forked gives the bits of the whole prefill.
async fn all_ways(engine: &Rig, chunked: &Rig, tokens: &[u32], whole: &[Vec<f32>]) {
    let n = tokens.len();
    let branch = chunked.open(tokens, n, 1).await;
    assert_eq!(logits(&branch, 0..n).await, whole, "in chunks of 7");
    let branch = engine.open(&tokens[..1], n, 1).await;
    let mut rows = logits(&branch, 0..1).await;
    for (i, &token) in tokens.iter().enumerate().skip(1) {
        branch.append(vec![token]);
        rows.extend(logits(&branch, i..i + 1).await);
    }
    assert_eq!(rows, whole, "token by token");
    for at in [16, 17, n - 1] {
        let trunk = engine.open(&tokens[..at], n, 2).await;
        trunk.settle().await.expect("settles");
        let (fork, sibling) = (trunk.fork(1), trunk.fork(2));
        sibling.append(tokens[..n - at].to_vec());
        fork.append(tokens[at..].to_vec());
        let (forked, _) = tokio::join!(logits(&fork, at..n), logits(&sibling, at..n));
        assert_eq!(forked, whole[at..], "forked at {at}");
    }
}

/// GGUF's name of a tensor.
fn named(name: &str) -> String {
    let parts = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    parts.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}

/// The bundled model's metadata, from its own files.
fn metadata() -> Vec<(&'static str, Value)> {
    let json = |file: &str| -> serde_json::Value {
        serde_json::from_slice(&read(&format!("{POLICY}/{file}"))).expect("JSON")
    };
    let (config, tokenizer, words) =
        (json("config.json"), json("tokenizer.json"), json("tokenizer_config.json"));
    let count = |key: &str| Value::U32(config[key].as_u64().expect("a count") as u32);
    let vocab = tokenizer["model"]["vocab"].as_object().expect("tokens");
    let mut tokens: Vec<String> = (0..640).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![5; 640];
    for (token, id) in vocab {
        let id = id.as_u64().expect("an id") as usize;
        (tokens[id], kinds[id]) = (token.clone(), 1);
    }
    for added in tokenizer["added_tokens"].as_array().expect("a list") {
        kinds[added["id"].as_u64().expect("an id") as usize] = 3;
    }
    let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    let merge = |pair: &serde_json::Value| {
        format!("{} {}", pair[0].as_str().expect("text"), pair[1].as_str().expect("text"))
    };
    let merges = tokenizer["model"]["merges"].as_array().expect("a list").iter().map(merge).collect();
    vec![
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.context_length", count("max_position_embeddings")),
        ("llama.embedding_length", count("hidden_size")),
        ("llama.feed_forward_length", count("intermediate_size")),
        ("llama.block_count", count("num_hidden_layers")),
        ("llama.attention.head_count", count("num_attention_heads")),
        ("llama.attention.head_count_kv", count("num_key_value_heads")),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(1e4)),
        ("llama.rope.dimension_count", count("head_dim")),
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("qwen2".to_owned())),
        ("tokenizer.ggml.tokens", texts(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(kinds.into_iter().map(Value::I32).collect())),
        ("tokenizer.ggml.merges", texts(merges)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        (
            "tokenizer.chat_template",
            Value::String(words["chat_template"].as_str().expect("a template").to_owned()),
        ),
    ]
}

/// The rows of queries and keys as llama.cpp's converter orders them.
fn interleaved(tensor: &Tensor, head: usize) -> Tensor {
    let (n, k) = tensor.dims2().expect("a matrix");
    let rows = tensor.reshape((n / head, 2, head / 2, k)).expect("whole heads");
    rows.transpose(1, 2).expect("turned").contiguous().expect("copied").reshape((n, k)).expect("whole")
}

fn written(path: &Path, metadata: &[(&str, Value)], tensors: &[(String, QTensor)]) {
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    gguf_file::write(&mut File::create(path).expect("made"), &metadata, &tensors).expect("written");
}

/// The bundled model as a GGUF file: matrices of a type, the rest in f32.
fn seedling(kind: GgmlDType) -> (TempDir, String) {
    seedling_with(kind, &metadata())
}

fn seedling_with(kind: GgmlDType, metadata: &[(&str, Value)]) -> (TempDir, String) {
    let tensors = safetensors::load(path(&format!("{POLICY}/model.safetensors")), &Device::Cpu);
    let quantised = |(name, tensor): (String, Tensor)| {
        let tensor = tensor.to_dtype(candle_core::DType::F32).expect("floats");
        let turned = name.contains("q_proj") || name.contains("k_proj");
        let tensor = if turned { interleaved(&tensor, 32) } else { tensor };
        let kind = if tensor.rank() == 2 { kind } else { GgmlDType::F32 };
        (named(&name), QTensor::quantize(&tensor, kind).expect("whole blocks"))
    };
    let tensors: Vec<(String, QTensor)> = tensors.expect("reads").into_iter().map(quantised).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("my-model.gguf");
    written(&file, metadata, &tensors);
    let file = file.to_str().expect("UTF-8").to_owned();
    (folder, file)
}

#[tokio::test]
async fn the_bundled_model_as_a_file_is_the_bundled_model() {
    let (_folder, file) = seedling(GgmlDType::F32);
    let (ours, bundled) = (loaded(&file), loaded("seedling"));
    assert_eq!((ours.name.as_str(), &ours.eos), ("my-model", &vec![2, 0]));
    assert_eq!(ours.model.config().context, bundled.model.config().context);
    // Tokens and prompts of real texts.
    let problems = String::from_utf8(read("models/seedling/eval/dev.jsonl")).expect("UTF-8");
    for line in problems.lines() {
        let problem: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = problem["problem"].as_str().expect("a text").to_owned();
        let messages = [espalier::prompt::Message { role: "user", content: text }];
        let prompt = bundled.template.render(&messages, None).expect("renders");
        assert_eq!(ours.template.render(&messages, None).expect("renders"), prompt);
        let tokens = bundled.tokenizer.encode_prompt(&prompt).expect("encodes");
        assert_eq!(ours.tokenizer.encode_prompt(&prompt).expect("encodes"), tokens, "{prompt}");
        assert_eq!(
            ours.tokenizer.decode(&tokens).expect("text"),
            bundled.tokenizer.decode(&tokens).expect("text")
        );
    }
    let tokens =
        bundled.tokenizer.encode("<|im_start|>user\nCompute (3 + 4) * 5.<|im_end|>\n").expect("encodes");
    let expected = prefilled(bundled, &tokens).await;
    assert_eq!(prefilled(ours, &tokens).await, expected, "the very bits");
}

#[tokio::test]
async fn a_file_is_served_over_http_like_the_checkpoint_that_it_was_made_of() {
    let (_folder, file) = seedling(GgmlDType::F32);
    let fields =
        || json!({"messages": [{"role": "user", "content": PROBLEM}], "seed": 7, "temperature": 0.7});
    let theirs = serve_model("seedling").await.chat(fields()).await;
    let served = serve_model(&file).await;
    let mut asked = fields();
    asked["model"] = json!("my-model");
    // Its settings are the general ones, without seedling's answer marker.
    asked["reasoning_effort"] = json!("none");
    let ours = served.chat(asked).await;
    let text =
        |body: &serde_json::Value| body["choices"][0]["message"]["content"].as_str().map(str::to_owned);
    assert!(text(&ours).is_some_and(|text| text.contains("The answer is")), "{ours}");
    assert_eq!(ours["choices"][0]["finish_reason"], "stop");
    assert!(theirs["usage"]["prompt_tokens"].as_u64() > ours["usage"]["prompt_tokens"].as_u64());
    let model = served.get("/v1/models").await.json();
    assert_eq!(model["data"][0]["max_model_len"], 2_048);
}

#[tokio::test]
async fn quantising_while_loading_is_the_quantised_file() {
    let (_folder, file) = seedling(GgmlDType::Q8_0);
    let tokens: Vec<u32> = (0..90).map(|i| 6 + i * 31 % 600).collect();
    let from_file = loaded(&file);
    let matrices = 6 * 7 + 1;
    assert_eq!(from_file.model.formats().into_keys().collect::<Vec<_>>(), ["Q8_0"]);
    let from_file = prefilled(from_file, &tokens).await;
    for mix in ["q8_0", "q4_k_m"] {
        // No row of this model is a multiple of 256 long.
        let here = quantized("seedling", mix);
        let formats = here.model.formats();
        assert_eq!(formats.keys().copied().collect::<Vec<_>>(), ["Q8_0"]);
        assert_eq!(formats["Q8_0"].0, matrices);
        assert_eq!(prefilled(here, &tokens).await, from_file, "{mix}");
    }
    let exact = prefilled(loaded("seedling"), &tokens).await;
    let error = relative_error(&from_file, &exact);
    assert!((1e-4..0.05).contains(&error), "{error}");
    all_ways(&rig(loaded(&file), 512), &rig(loaded(&file), 7), &tokens, &from_file).await;
}

/// A checkpoint with rows of 256 and 512: its directory, and its tensors.
fn wide() -> (TempDir, HashMap<String, Tensor>) {
    let folder = tempfile::tempdir().expect("a folder");
    let gqa = path("tests/fixtures/llama-gqa");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(gqa.join(file), folder.path().join(file)).expect("copied");
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 260,
        "tie_word_embeddings": true, "max_position_embeddings": 256, "eos_token_id": 2
    });
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let mut tensors = HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let seed = name.bytes().fold(7u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let number = |i: usize| {
            let x = (i as u32 ^ seed).wrapping_mul(0x9E37_79B1);
            let x = (x ^ x >> 15).wrapping_mul(0x85EB_CA77);
            (x >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        };
        let floats: Vec<f32> = match shape.len() {
            1 => vec![1.0; count],
            _ => (0..count).map(|i| number(i) * 0.2).collect(),
        };
        tensors.insert(name.to_owned(), Tensor::from_vec(floats, shape, &Device::Cpu).expect("fits"));
    };
    add("model.embed_tokens.weight", &[260, 256]);
    add("model.norm.weight", &[256]);
    for layer in 0..3 {
        let mut add =
            |part: &str, shape: &[usize]| add(&format!("model.layers.{layer}.{part}.weight"), shape);
        add("input_layernorm", &[256]);
        add("post_attention_layernorm", &[256]);
        add("self_attn.q_proj", &[256, 256]);
        add("self_attn.k_proj", &[128, 256]);
        add("self_attn.v_proj", &[128, 256]);
        add("self_attn.o_proj", &[256, 256]);
        add("mlp.gate_proj", &[512, 256]);
        add("mlp.up_proj", &[512, 256]);
        add("mlp.down_proj", &[256, 512]);
    }
    safetensors::save(&tensors, folder.path().join("model.safetensors")).expect("saved");
    (folder, tensors)
}

#[tokio::test]
async fn four_bits_are_the_bits_of_the_dequantised_weights() {
    let (folder, mut tensors) = wide();
    let directory = folder.path().to_str().expect("UTF-8");
    let tokens: Vec<u32> = (0..90).map(|i| i * 37 % 256).collect();
    let exact = prefilled(loaded(directory), &tokens).await;
    let here = quantized(directory, "q4_k_m");
    let formats = here.model.formats();
    // Of three layers, llama.cpp gives the last value and down projections more
    // bits, and the output.
    let counts: Vec<(&str, usize)> = formats.iter().map(|(kind, (count, _))| (*kind, *count)).collect();
    assert_eq!(counts, [("Q4_K", 19), ("Q6_K", 3)]);
    let whole = prefilled(here, &tokens).await;
    let ways = || quantized(directory, "q4_k_m");
    all_ways(&rig(ways(), 512), &rig(ways(), 7), &tokens, &whole).await;
    let error = relative_error(&whole, &exact);
    assert!((1e-3..0.3).contains(&error), "{error}");
    // The same weights, dequantised by the library, as an f32 checkpoint.
    for (name, tensor) in &mut tensors {
        let six = ["layers.2.self_attn.v_proj", "layers.2.mlp.down_proj", "embed_tokens"];
        let kind = if six.iter().any(|part| name.contains(part)) { GgmlDType::Q6K } else { GgmlDType::Q4K };
        if tensor.rank() == 2 {
            let quantised = QTensor::quantize(tensor, kind).expect("whole blocks");
            *tensor = quantised.dequantize(&Device::Cpu).expect("on the CPU");
        }
    }
    safetensors::save(&tensors, folder.path().join("model.safetensors")).expect("saved");
    assert_eq!(prefilled(loaded(directory), &tokens).await, whole, "the very bits");
}

#[tokio::test]
async fn a_quantised_model_says_at_the_start_what_it_is_held_in() {
    let model = ModelArgs { quantize: "q8_0".to_owned(), ..ModelArgs::from("seedling") };
    let args = EngineArgs { model, ..engine("seedling") };
    let served = serve_with(ServeArgs { engine: args, ..ServeArgs::default() }).await;
    let body = served.chat(json!({"messages": [{"role": "user", "content": PROBLEM}]})).await;
    assert_eq!(body["choices"][0]["finish_reason"], "stop", "{body}");
}

#[test]
fn a_sentencepiece_vocabulary_gives_the_tokens_of_sentencepiece() {
    let loaded = loaded(&fixture("pieces"));
    let texts: serde_json::Value =
        serde_json::from_slice(&read(&format!("{FIXTURES}/pieces.json"))).expect("JSON");
    let texts = texts.as_array().expect("a list");
    assert!(texts.len() > 5);
    for entry in texts {
        let text = entry["text"].as_str().expect("a text");
        let ids: Vec<u32> = serde_json::from_value(entry["ids"].clone()).expect("ids");
        assert_eq!(loaded.tokenizer.encode(text).expect("encodes"), ids, "{text:?}");
        assert_eq!(loaded.tokenizer.decode(&ids).expect("decodes"), text);
    }
    // BOS comes first where the file says nothing, and turns are whole tokens.
    let prompt = loaded.tokenizer.encode_prompt("<|im_start|>user\nhi<|im_end|>\n").expect("encodes");
    let named = |name: &str| loaded.tokenizer.token_id(name).expect("is there");
    assert_eq!(prompt[..2], [named("<s>"), named("<|im_start|>")]);
    assert!(prompt.contains(&named("<|im_end|>")));
    assert_eq!(loaded.eos, [named("</s>"), named("<|im_end|>")]);
}

/// The refusal of a file with changed metadata.
fn refusal(change: impl FnOnce(&mut Vec<(&'static str, Value)>)) -> String {
    let (folder, file) = seedling_of(change);
    let error = load(&file).expect_err("must be refused").to_string();
    drop(folder);
    assert!(!error.contains('\n'), "{error}");
    error
}

fn seedling_of(change: impl FnOnce(&mut Vec<(&'static str, Value)>)) -> (TempDir, String) {
    let mut metadata = metadata();
    change(&mut metadata);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("changed.gguf");
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).expect("zeros");
    let plain = |tensor: Tensor| QTensor::quantize(&tensor, GgmlDType::F32).expect("floats");
    let tensors = [("token_embd.weight", zeros(&[640, 128])), ("output_norm.weight", zeros(&[128]))];
    let tensors: Vec<(String, QTensor)> =
        tensors.into_iter().map(|(name, tensor)| (name.to_owned(), plain(tensor))).collect();
    written(&file, &metadata, &tensors);
    let file = file.to_str().expect("UTF-8").to_owned();
    (folder, file)
}

fn set(metadata: &mut Vec<(&'static str, Value)>, key: &'static str, value: Value) {
    metadata.retain(|(name, _)| *name != key);
    metadata.push((key, value));
}

#[test]
fn what_is_not_supported_is_refused_by_its_key() {
    let text = |text: &str| Value::String(text.to_owned());
    let cases: Vec<(&'static str, Value, &[&str])> = vec![
        ("general.architecture", text("phi3"), &["general.architecture = phi3", "llama, qwen2 or qwen3"]),
        ("llama.expert_count", Value::U32(8), &["llama.expert_count = 8", "no mixture"]),
        ("llama.attention.head_count_kv", Value::U32(3), &["head_count_kv = 3", "a divisor"]),
        ("llama.attention.key_length", Value::U32(33), &["key_length = 33", "even"]),
        ("llama.attention.value_length", Value::U32(16), &["value_length = 16"]),
        ("llama.rope.dimension_count", Value::U32(8), &["rope.dimension_count = 8"]),
        ("llama.rope.scaling.type", text("longrope"), &["rope.scaling.type = longrope", "yarn"]),
        ("llama.attention.sliding_window", Value::U32(99), &["sliding_window = 99"]),
        ("llama.embedding_length", text("wide"), &["llama.embedding_length = wide", "whole number"]),
        ("llama.block_count", Value::U32(20_000), &["llama.block_count = 20000", "10000"]),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), &["layer_norm_rms_epsilon"]),
        ("llama.attention.head_count", Value::Array(vec![Value::U32(4)]), &["head_count = (a list)"]),
        ("tokenizer.ggml.model", text("t5"), &["tokenizer.ggml.model = t5", "gpt2 or llama"]),
        ("tokenizer.ggml.pre", text("kimi-k2"), &["tokenizer.ggml.pre = kimi-k2", "llama-bpe", "qwen2"]),
        ("tokenizer.ggml.merges", Value::Array(vec![text("ab")]), &["tokenizer.ggml.merges"]),
        ("tokenizer.ggml.merges", Value::Array(vec![text("a zz")]), &["tokenizer"]),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1)]), &["equal length"]),
        ("general.alignment", Value::U32(3), &["general.alignment"]),
        ("split.count", Value::U16(3), &["one of 3 parts", "--merge"]),
    ];
    for (key, value, parts) in cases {
        let error = refusal(|metadata| set(metadata, key, value));
        for part in parts {
            assert!(error.contains(part), "{key}: {error}");
        }
    }
    let mut without = metadata();
    without.retain(|(key, _)| *key != "tokenizer.chat_template");
    let (_folder, file) = seedling_with(GgmlDType::F32, &without);
    let error = load(&file).expect_err("must be refused").to_string();
    assert!(error.contains("there is no tokenizer.chat_template"), "{error}");
    let error = refusal(|_| {});
    assert!(error.contains("model.layers.0"), "a tensor that is missing: {error}");
    let error = refusal(|metadata| metadata.retain(|(key, _)| *key != "llama.context_length"));
    assert!(error.contains("llama.context_length = (absent)"), "{error}");
}

/// A fixture with these tensors of ones beside its own.
fn with_tensors(fixture_name: &str, added: &[(&str, &[usize])]) -> (TempDir, String) {
    let mut input = File::open(fixture(fixture_name)).expect("is there");
    let content = gguf_file::Content::read(&mut input).expect("a head");
    let mut tensors: Vec<(String, QTensor)> = content
        .tensor_infos
        .keys()
        .map(|name| (name.clone(), content.tensor(&mut input, name, &Device::Cpu).expect("a tensor")))
        .collect();
    for (name, shape) in added {
        let ones = Tensor::ones(*shape, candle_core::DType::F32, &Device::Cpu).expect("ones");
        tensors.push(((*name).to_owned(), QTensor::quantize(&ones, GgmlDType::F32).expect("floats")));
    }
    let metadata: Vec<(&str, Value)> =
        content.metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("more.gguf");
    written(&file, &metadata, &tensors);
    let file = file.to_str().expect("UTF-8").to_owned();
    (folder, file)
}

#[tokio::test]
async fn tensors_that_the_model_has_no_use_for_are_refused_and_half_of_a_set_is_missed() {
    type Case = (&'static [(&'static str, &'static [usize])], &'static [&'static str]);
    const MISSING: &str = "cannot find tensor model.layers.";
    let cases: [Case; 9] = [
        (&[("blk.0.attn_norm.bias", &[32])], &["blk.0.attn_norm.bias is not part", "llama"]),
        (&[("output_norm.bias", &[32])], &["output_norm.bias is not part"]),
        (&[("blk.7.attn_q.weight", &[64, 32])], &["blk.7.attn_q.weight is not part", "2 blocks"]),
        (&[("blk.2.ffn_down.bias", &[32])], &["blk.2.ffn_down.bias is not part", "2 blocks"]),
        (&[("blk.00.attn_q.weight", &[64, 32])], &["attn_q.weight stands twice"]),
        (&[("blk.0.ffn_gate.bias", &[64]), ("blk.0.ffn_up.bias", &[64])], &[MISSING, "mlp.down_proj.bias"]),
        (
            &[("blk.1.attn_q.bias", &[64]), ("blk.1.attn_k.bias", &[32]), ("blk.1.attn_v.bias", &[32])],
            &[MISSING, "0.self_attn.q_proj.bias"],
        ),
        (&[("blk.1.attn_output.bias", &[32])], &[MISSING, "0.self_attn.o_proj.bias"]),
        (&[("blk.0.attn_k_norm.weight", &[16])], &[MISSING, "0.self_attn.q_norm.weight"]),
    ];
    for (added, parts) in cases {
        let (_folder, file) = with_tensors("llama-plain", added);
        let error = load(&file).expect_err("must be refused").to_string();
        for part in parts {
            assert!(error.contains(part), "{added:?}: {error}");
        }
    }
    // The file itself is good, and stays so with all of a set.
    let tokens = reference("llama-plain").tokens;
    let (_folder, same) = with_tensors("llama-plain", &[]);
    let plain = prefilled(loaded(&same), &tokens).await;
    assert_eq!(plain, prefilled(loaded(&fixture("llama-plain")), &tokens).await);
    let biases: [(&str, &[usize]); 2] =
        [("blk.0.attn_output.bias", &[32]), ("blk.1.attn_output.bias", &[32])];
    let (_folder, biased) = with_tensors("llama-plain", &biases);
    assert_ne!(prefilled(loaded(&biased), &tokens).await, plain);
}

#[test]
fn damaged_files_are_refused_and_nothing_panics() {
    let bytes = read(&format!("{FIXTURES}/llama-bias.gguf"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.gguf");
    let model = file.to_str().expect("UTF-8");
    for keep in [0, 3, 4, 8, 23, 24, 100, 3_000, 9_000, bytes.len() / 2, bytes.len() - 40] {
        fs::write(&file, &bytes[..keep]).expect("written");
        let error = load(model).expect_err("must be refused").to_string();
        assert!(error.contains("cut off") || error.contains("is no GGUF file"), "{keep}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    // Every byte of the head, turned over: refused, or still a model.
    let mut outcomes = [0, 0];
    for at in (0..bytes.len().min(12_000)).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xFF;
        fs::write(&file, damaged).expect("written");
        outcomes[usize::from(load(model).is_ok())] += 1;
    }
    assert!(outcomes[0] > 50, "{outcomes:?}");
}
