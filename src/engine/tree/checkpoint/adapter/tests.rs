//! Adapters are merged as PEFT merges them, or refused by key or tensor.

use super::super::tests::file;
use super::super::{QuantType, Quantize, Reader, Weights};
use super::*;
use crate::engine::tree::matrix::Matrix;
use serde_json::json;
use std::fs;
use tempfile::TempDir;

/// Inputs and outputs of the one matrix: 40 outputs are no whole number of panels.
const K: usize = 256;
const N: usize = 40;
const MODULE: &str = "model.layers.0.self_attn.q_proj";

/// What a good configuration says, but for the keys in `over`.
fn config(over: &Value) -> Result<AdapterConfig, String> {
    let mut config = json!({
        "peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 2, "lora_alpha": 4, "bias": "none",
        "fan_in_fan_out": true, "lora_dropout": 0.1, "target_modules": ["q_proj"], "modules_to_save": null,
        "use_dora": false, "layer_replication": null, "init_lora_weights": true, "loftq_config": {},
    });
    for (key, value) in over.as_object().expect("an object") {
        config[key] = value.clone();
    }
    AdapterConfig::from_json(config.to_string().as_bytes()).map_err(|error| error.to_string())
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Small whole numbers, with which every order of computing gives the same.
fn numbers(count: usize, salt: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + salt) % 11) as f32 - 5.0).collect()
}

fn base(weights: &[f32]) -> Weights {
    let file = file(&[(&format!("{MODULE}.weight"), "F32", &[N, K], &bytes(weights))]);
    Weights::embedded(Vec::leak(file)).expect("good")
}

/// A tensor: the end of its name, type, shape.
type Part = (&'static str, &'static str, &'static [usize]);

/// A directory with an adapter of these tensors.
fn directory(tensors: &[Part]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let made: Vec<(String, Vec<u8>)> = tensors
        .iter()
        .map(|(name, _, shape)| {
            (format!("base_model.model.{name}"), bytes(&numbers(shape.iter().product(), 3)))
        })
        .collect();
    let parts: Vec<(&str, &str, &[usize], &[u8])> = made
        .iter()
        .zip(tensors)
        .map(|((name, bytes), (_, kind, shape))| {
            let bytes = if *kind == "F32" { &bytes[..] } else { &bytes[..bytes.len() / 2] };
            (name.as_str(), *kind, *shape, bytes)
        })
        .collect();
    fs::write(folder.path().join(ADAPTER), file(&parts)).expect("written");
    folder
}

fn pair() -> TempDir {
    directory(&[
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "F32", &[2, K]),
        ("model.layers.0.self_attn.q_proj.lora_B.weight", "F32", &[N, 2]),
    ])
}

fn read(weights: Weights) -> Matrix {
    Reader::new(weights, &mut |_, _| {}).matrix(&format!("{MODULE}.weight"), (N, K)).expect("reads")
}

#[test]
fn a_matrix_is_merged_before_it_is_quantised() {
    let (w, a, b) = (numbers(N * K, 1), numbers(2 * K, 3), numbers(N * 2, 3));
    // Four over two.
    let merged: Vec<f32> = (0..N * K)
        .map(|i| w[i] + 2.0 * (b[i / K * 2] * a[i % K] + b[i / K * 2 + 1] * a[K + i % K]))
        .collect();
    assert!(merged.iter().zip(&w).filter(|(merged, w)| merged != w).count() > N * K / 2);
    let folder = pair();
    let adapted = |weights: Weights| {
        let config = config(&json!({})).expect("good");
        weights.adapted(folder.path(), &config).expect("good")
    };
    let rows = |matrix: &Matrix| {
        let mut rows = Vec::new();
        (0..N).for_each(|row| matrix.unpack(row, &mut rows));
        rows
    };
    assert_eq!(rows(&read(adapted(base(&w)))), merged);
    let quantised = |weights: Weights| {
        let reader_mix = super::super::Mix { quantize: Quantize::Q8_0, layers: 1, tied: true };
        let mut progress = |_, _| {};
        let mut reader = Reader { mix: Some(reader_mix), ..Reader::new(weights, &mut progress) };
        reader.matrix(&format!("{MODULE}.weight"), (N, K)).expect("reads")
    };
    let (ours, theirs) = (quantised(adapted(base(&w))), quantised(base(&merged)));
    assert_eq!(ours.kind(), QuantType::Q8_0.name());
    assert_eq!(rows(&ours), rows(&theirs));
    assert_ne!(rows(&ours), rows(&quantised(base(&w))));
}

#[test]
fn ranks_and_scales_are_those_of_the_first_pattern_that_fits() {
    let config = config(&json!({
        "r": 8, "lora_alpha": 16,
        "rank_pattern": {"^model.layers.1.mlp.up_proj": 2, "up_proj": 4},
        "alpha_pattern": {"layers.0.mlp.up_proj": 1, "^mlp.up_proj": 7},
    }));
    let config = config.expect("good");
    let of = |module: &str| (config.rank(module), config.scale(module));
    assert_eq!(of("model.layers.0.mlp.up_proj"), (4, 0.25));
    assert_eq!(of("model.layers.1.mlp.up_proj"), (2, 8.0));
    assert_eq!(of("model.layers.10.mlp.up_proj"), (4, 4.0));
    assert_eq!(of("model.layers.0.mlp.gup_proj"), (8, 2.0), "the end of a part is no part");
    let rooted = self::config(&json!({"r": 4, "lora_alpha": 3, "use_rslora": true})).expect("good");
    assert_eq!(rooted.scale(MODULE), 1.5);
    assert_eq!((rooted.base.as_str(), rooted.revision), ("org/base", None));
    let pinned = self::config(&json!({"revision": "v2", "alpha_pattern": null})).expect("good");
    assert_eq!(pinned.revision.as_deref(), Some("v2"));
}

#[test]
fn keys_that_would_change_the_result_are_refused_with_their_values() {
    let cases = [
        (json!({"peft_type": "LOHA"}), "peft_type = LOHA"),
        (json!({"peft_type": null}), "peft_type = null"),
        (json!({"use_dora": true}), "use_dora = true"),
        (json!({"lora_bias": true}), "lora_bias = true"),
        (json!({"bias": "lora_only"}), "bias = lora_only"),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save = [\"lm_head\"]"),
        (json!({"trainable_token_indices": [7]}), "trainable_token_indices = [7]"),
        (json!({"target_parameters": ["x"]}), "target_parameters = [\"x\"]"),
        (json!({"layer_replication": [[0, 2]]}), "layer_replication = [[0,2]]"),
        (json!({"use_qalora": true}), "use_qalora = true"),
        (json!({"alora_invocation_tokens": [1, 2]}), "alora_invocation_tokens = [1,2]"),
        (json!({"use_bdlora": {"nblocks": 2}}), "use_bdlora = {\"nblocks\":2}"),
        (json!({"arrow_config": {"top_k": 3}}), "arrow_config = "),
        (json!({"kasa_config": {"beta": 1}}), "kasa_config = "),
        (json!({"monteclora_config": {"a": 1}}), "monteclora_config = "),
        (json!({"init_lora_weights": "pissa"}), "init_lora_weights = pissa"),
        (json!({"base_model_name_or_path": null}), "base_model_name_or_path = null"),
        (json!({"base_model_name_or_path": ""}), "base_model_name_or_path = "),
        (json!({"r": 0}), "r = 0"),
        (json!({"r": null}), "r = null"),
        (json!({"lora_alpha": -1}), "lora_alpha = -1"),
        (json!({"lora_alpha": null}), "lora_alpha = null"),
        (json!({"use_rslora": "yes"}), "use_rslora = yes"),
        (json!({"rank_pattern": []}), "rank_pattern = []"),
        (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern.q_proj = 0"),
        (json!({"rank_pattern": {".*q_proj": 4}}), "rank_pattern..*q_proj = 4"),
        (json!({"alpha_pattern": {"q_proj": "x"}}), "alpha_pattern.q_proj = x"),
        (json!({"alpha_pattern": {"q|k": 1}}), "alpha_pattern.q|k = 1"),
    ];
    for (over, said) in cases {
        let error = config(&over).expect_err("refused");
        assert!(error.starts_with(&format!("adapter_config.json: {said}")), "{error}, not {said}");
        assert!(error.contains("is not supported; supported: "), "{error}");
    }
    for json in ["[]", "{", ""] {
        let error = AdapterConfig::from_json(json.as_bytes()).expect_err("no object").to_string();
        assert!(error.starts_with("adapter_config.json: "), "{error}");
    }
    for begins in [json!(false), json!("gaussian"), json!("eva"), json!("orthogonal"), Value::Null] {
        config(&json!({"init_lora_weights": begins})).expect("leaves the base alone");
    }
}

/// A model whose first layer's queries are the matrix above.
fn shape(tied: bool) -> ModelConfig {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": K, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 8, "vocab_size": 16,
        "tie_word_embeddings": tied,
    });
    ModelConfig::from_json(config.to_string().as_bytes()).expect("good")
}

#[test]
fn tensors_that_cannot_be_merged_are_refused_by_name() {
    const A: &str = "model.layers.0.self_attn.q_proj.lora_A.weight";
    const B: &str = "model.layers.0.self_attn.q_proj.lora_B.weight";
    let (a, b): (Part, Part) = ((A, "F32", &[2, K]), (B, "F32", &[N, 2]));
    let config = config(&json!({})).expect("good");
    let refused = |tensors: &[Part], tied: bool| {
        let folder = directory(tensors);
        let adapter = Adapter::open(folder.path(), &config);
        adapter.and_then(|adapter| adapter.check(&shape(tied))).map_err(|error| error.to_string())
    };
    refused(&[a, b], true).expect("good");
    refused(&[("lm_head.lora_A.weight", "F32", &[2, K]), ("lm_head.lora_B.weight", "F32", &[16, 2])], false)
        .expect("a head of its own");
    let cases: [(&[Part], &str); 10] = [
        (&[], "adapter_model.safetensors holds no tensor"),
        (&[a], "q_proj.lora_A.weight and no lora_B.weight for it"),
        (&[b], "q_proj.lora_B.weight and no lora_A.weight for it"),
        (&[a, b, ("lm_head.weight", "F32", &[16, K])], "base_model.model.lm_head.weight in adapter_model"),
        (
            &[("model.embed_tokens.lora_embedding_A", "F32", &[2, 16]), a, b],
            "embed_tokens.lora_embedding_A in",
        ),
        (
            &[("lm_head.lora_A.weight", "F32", &[2, K]), ("lm_head.lora_B.weight", "F32", &[16, 2])],
            "lm_head.lora_A.weight in adapter_model.safetensors changes lm_head.weight, which the base does not have",
        ),
        (
            &[("layers.0.q.lora_A.weight", "F32", &[2, K]), ("layers.0.q.lora_B.weight", "F32", &[N, 2])],
            "changes layers.0.q.weight, which the base does not have",
        ),
        (
            &[(A, "F32", &[3, K]), (B, "F32", &[N, 3])],
            "lora_A.weight in adapter_model.safetensors has the shape [3, 256]",
        ),
        (
            &[a, (B, "F32", &[N + 1, 2])],
            "has the shape [41, 2], and the base with adapter_config.json asks for [40, 2]",
        ),
        (
            &[a, (B, "I16", &[N, 2])],
            "q_proj.lora_B.weight in adapter_model.safetensors is I16; supported are F32",
        ),
    ];
    for (tensors, said) in cases {
        let error = refused(tensors, true).expect_err("refused");
        assert!(error.contains(said), "{error}, not {said}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let error = Adapter::open(folder.path(), &config).expect_err("no file").to_string();
    assert!(
        error.contains("adapter_model.safetensors is not there; save the adapter as safetensors"),
        "{error}"
    );
    fs::write(folder.path().join(ADAPTER), b"version https://git-lfs").expect("written");
    let error = Adapter::open(folder.path(), &config).expect_err("no safetensors").to_string();
    assert!(error.contains("adapter_model.safetensors is no safetensors file"), "{error}");
    // An adapter is checked with the weights that it goes with.
    let folder = directory(&[(A, "F32", &[2, K]), (B, "F32", &[N, 3])]);
    let weights =
        Weights::random(&shape(true), false).adapted(folder.path(), &config).expect("headers are good");
    assert!(weights.check(&shape(true)).expect_err("refused").to_string().contains("[40, 3]"));
}
