//! Keys of real configurations, and refusals with the key and the value.

use super::*;
use crate::engine::tree::rope::Scaling;
use serde_json::{Value, json};

fn base(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5
    })
}

/// A configuration with some keys changed; the value `"(drop)"` takes one out.
fn read_as(architecture: &str, change: &Value) -> Result<ModelConfig, String> {
    let mut config = base(architecture);
    for (key, value) in change.as_object().expect("an object") {
        if value == "(drop)" {
            config.as_object_mut().expect("an object").remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    ModelConfig::from_json(config.to_string().as_bytes()).map_err(|error| error.to_string())
}

fn read(change: Value) -> Result<ModelConfig, String> {
    read_as("LlamaForCausalLM", &change)
}

fn refused(architecture: &str, change: &Value, said: &[&str]) {
    let error = read_as(architecture, change).expect_err("must be refused");
    for said in said {
        assert!(error.contains(said), "{change}: {error} lacks {said}");
    }
}

const LLAMA: &str = "LlamaForCausalLM";
const MISTRAL: &str = "MistralForCausalLM";
const QWEN2: &str = "Qwen2ForCausalLM";
const QWEN3: &str = "Qwen3ForCausalLM";

#[test]
fn both_spellings_of_the_rotary_base_are_read() {
    let theta = |change| read(change).expect("plain").rope.theta;
    assert_eq!(theta(json!({})), 10_000.0);
    assert_eq!(theta(json!({"rope_theta": 5e5})), 5e5);
    assert_eq!(theta(json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}})), 1e6);
    assert_eq!(theta(json!({"rope_theta": 5e5, "rope_scaling": null, "rope_parameters": {}})), 5e5);
    assert_eq!(theta(json!({"rope_theta": 5e5, "rope_scaling": {"type": "default"}})), 5e5);
}

#[test]
fn both_spellings_of_a_scaling_are_read() {
    let linear = Scaling::Linear { factor: 4.0 };
    for change in [
        json!({"rope_scaling": {"type": "linear", "factor": 4.0}}),
        json!({"rope_scaling": {"rope_type": "linear", "factor": 4}}),
        json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
        // Some files carry both keys within the older spelling.
        json!({"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}}),
    ] {
        let read = read(change.clone()).expect("good");
        assert_eq!((read.rope.scaling, read.context), (linear.clone(), 512), "{change}");
    }
}

#[test]
fn yarn_defaults_are_the_papers() {
    // As Qwen2.5's README tells to write it.
    let yarn = json!({"rope_scaling": {
        "factor": 4.0, "original_max_position_embeddings": 64, "type": "yarn"
    }});
    let read = read_as(QWEN2, &yarn).expect("good");
    let attention = 0.1 * 4f64.ln() + 1.0;
    let expected =
        Scaling::Yarn { factor: 4.0, fast: 32.0, slow: 1.0, truncate: true, attention, original: 64.0 };
    assert_eq!(read.rope.scaling, expected);
    assert_eq!(read.context, 256);
    // A factor of null is the ratio of the contexts; a key at the top wins.
    let ratio = json!({
        "original_max_position_embeddings": 32,
        "rope_scaling": {"factor": null, "original_max_position_embeddings": 64, "type": "yarn"}
    });
    let Ok(ModelConfig { rope: Rope { scaling: Scaling::Yarn { factor, original, .. }, .. }, .. }) =
        read_as(QWEN2, &ratio)
    else {
        panic!("yarn is read");
    };
    assert_eq!((factor, original), (4.0, 32.0));
}

#[test]
fn absent_keys_have_the_defaults_of_the_family() {
    let dropped = json!({"num_key_value_heads": "(drop)", "max_position_embeddings": "(drop)",
        "rms_norm_eps": "(drop)", "num_attention_heads": 32});
    for (architecture, kv_heads, head_dim, context) in
        [(LLAMA, 32, 2, 2_048), (MISTRAL, 8, 2, 131_072), (QWEN2, 32, 2, 32_768), (QWEN3, 32, 128, 32_768)]
    {
        let read = read_as(architecture, &dropped).expect("good");
        assert_eq!((read.kv_heads, read.head_dim, read.context), (kv_heads, head_dim, context));
        assert_eq!((read.epsilon, read.tied), (1e-6, false));
    }
    let null = read(json!({"num_key_value_heads": null, "head_dim": null})).expect("good");
    assert_eq!((null.kv_heads, null.head_dim), (4, 16));
    assert!(read(json!({"tie_word_embeddings": true})).expect("good").tied);
}

#[test]
fn biases_and_norms_are_those_of_the_family() {
    let parts = |architecture, change| {
        let read = read_as(architecture, &change).expect("good");
        [read.qkv_bias, read.output_bias, read.mlp_bias, read.qk_norm]
    };
    assert_eq!(parts(LLAMA, json!({})), [false; 4]);
    assert_eq!(parts(LLAMA, json!({"attention_bias": true})), [true, true, false, false]);
    assert_eq!(parts(LLAMA, json!({"mlp_bias": true})), [false, false, true, false]);
    assert_eq!(parts(MISTRAL, json!({"attention_bias": false})), [false; 4]);
    for bias in [false, true] {
        assert_eq!(parts(QWEN2, json!({"attention_bias": bias})), [true, false, false, false]);
        assert_eq!(parts(QWEN3, json!({"attention_bias": bias})), [bias, bias, false, true]);
    }
}

#[test]
fn windows_are_those_of_the_family() {
    let windows = |architecture, change: Value| read_as(architecture, &change).expect("good").windows;
    let all = |window| vec![window; 4];
    // transformers ignores the key for Llama, which some files carry along.
    assert_eq!(windows(LLAMA, json!({"sliding_window": 32})), all(None));
    assert_eq!(windows(MISTRAL, json!({})), all(Some(4_096)));
    assert_eq!(windows(MISTRAL, json!({"sliding_window": null})), all(None));
    assert_eq!(windows(MISTRAL, json!({"sliding_window": 32})), all(Some(32)));
    for family in [QWEN2, QWEN3] {
        assert_eq!(windows(family, json!({"sliding_window": 32, "max_window_layers": 0})), all(None));
        let used = |more: Value| {
            let mut keys = json!({"use_sliding_window": true, "sliding_window": 32});
            keys.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
            windows(family, keys)
        };
        assert_eq!(used(json!({"max_window_layers": 3})), [None, None, None, Some(32)]);
        assert_eq!(used(json!({"max_window_layers": 0})), all(Some(32)));
        assert_eq!(used(json!({})), all(None), "28 layers before the first window by default");
        let types = json!(["sliding_attention", "full_attention", "full_attention", "sliding_attention"]);
        let listed = used(json!({"layer_types": types, "max_window_layers": 4}));
        assert_eq!(listed, [Some(32), None, None, Some(32)], "the list rules over the number");
    }
}

#[test]
fn keys_that_change_nothing_are_ignored() {
    let carried = read(json!({
        "torch_dtype": "bfloat16", "dtype": "float16", "use_cache": true, "pretraining_tp": 2,
        "attention_dropout": 0.1, "initializer_range": 0.02, "transformers_version": "5.0",
        "some_future_key": {"a": 1}, "eos_token_id": [1, 2], "partial_rotary_factor": 1.0,
        "hidden_act": "swish"
    }));
    // Every field of it is in its debug text.
    let shown = |config: Result<ModelConfig, String>| format!("{:?}", config.expect("runs"));
    assert_eq!(shown(carried), shown(read(json!({}))));
}

#[test]
fn what_cannot_be_run_is_refused_with_its_key_and_value() {
    let error = read(json!({"architectures": ["GPT2LMHeadModel"]})).expect_err("must be refused");
    for name in ["GPT2LMHeadModel", LLAMA, MISTRAL, QWEN2, QWEN3] {
        assert!(error.contains(name), "{error}");
    }
    let yarn = |key: &str, value: Value| {
        let mut rope = json!({"rope_type": "yarn", "factor": 4.0});
        rope[key] = value;
        json!({"rope_scaling": rope})
    };
    let llama3 = |key: &str, value: Value| {
        let mut rope = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        rope[key] = value;
        json!({"rope_parameters": rope})
    };
    let full = json!(["full_attention", "full_attention", "full_attention", "full_attention"]);
    let mut chunked = full.clone();
    chunked[1] = json!("chunked_attention");
    let mut sliding = full.clone();
    sliding[1] = json!("sliding_attention");
    for (architecture, change, said) in [
        (LLAMA, json!({"hidden_act": "gelu"}), ["hidden_act = gelu", "silu"]),
        (LLAMA, json!({"hidden_size": "x"}), ["hidden_size = x", "whole number"]),
        (LLAMA, json!({"hidden_size": "(drop)"}), ["hidden_size = (absent)", "whole number"]),
        (LLAMA, json!({"vocab_size": 0}), ["vocab_size = 0", "at least 1"]),
        (LLAMA, json!({"vocab_size": 1e12}), ["vocab_size", "32 bits"]),
        (LLAMA, json!({"num_hidden_layers": 20_000}), ["num_hidden_layers = 20000", "10000"]),
        (LLAMA, json!({"num_key_value_heads": 3}), ["num_key_value_heads = 3", "divisor"]),
        (LLAMA, json!({"head_dim": 15}), ["head_dim = 15", "even"]),
        (LLAMA, json!({"num_attention_heads": 128, "num_key_value_heads": 1}), ["head_dim", "even"]),
        (LLAMA, json!({"rms_norm_eps": -1}), ["rms_norm_eps = -1", "above 0"]),
        (LLAMA, json!({"tie_word_embeddings": "yes"}), ["tie_word_embeddings = yes", "true or false"]),
        (LLAMA, json!({"is_causal": false}), ["is_causal = false", "true"]),
        (LLAMA, json!({"partial_rotary_factor": 0.5}), ["partial_rotary_factor = 0.5", "1"]),
        (LLAMA, json!({"rope_theta": 1}), ["rope_theta = 1", "above 1"]),
        (LLAMA, json!({"rope_scaling": 4}), ["rope_scaling = 4", "object"]),
        (
            LLAMA,
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            ["rope_scaling.type = dynamic", "default, linear, llama3 or yarn"],
        ),
        (
            LLAMA,
            json!({"rope_parameters": {"rope_type": "longrope"}}),
            ["rope_parameters.rope_type = longrope", "default, linear, llama3 or yarn"],
        ),
        (
            LLAMA,
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            ["rope_parameters.full_attention", "all layers"],
        ),
        (LLAMA, json!({"rope_scaling": {"type": "linear"}}), ["rope_scaling.factor = (absent)", "above 0"]),
        (LLAMA, yarn("factor", json!(0)), ["rope_scaling.factor = 0", "above 0"]),
        (LLAMA, yarn("factor", json!(null)), ["rope_scaling.factor = null", "above 0"]),
        (LLAMA, yarn("attention_factor", json!(-1)), ["rope_scaling.attention_factor = -1", "above 0"]),
        (LLAMA, yarn("beta_fast", json!(0.5)), ["rope_scaling.beta_fast = 0.5", "beta_slow"]),
        (LLAMA, yarn("truncate", json!("no")), ["rope_scaling.truncate = no", "true or false"]),
        (
            LLAMA,
            yarn("original_max_position_embeddings", json!(-5)),
            ["rope_scaling.original_max_position_embeddings = -5", "at least 1"],
        ),
        (
            LLAMA,
            llama3("low_freq_factor", json!(null)),
            ["rope_parameters.low_freq_factor = null", "above 0"],
        ),
        (
            LLAMA,
            llama3("high_freq_factor", json!(1.0)),
            ["rope_parameters.high_freq_factor = 1.0", "above low_freq_factor"],
        ),
        (
            LLAMA,
            json!({"quantization_config": {"quant_method": "hqq"}}),
            ["quantization_config.quant_method = hqq", "f32, f16 or bf16"],
        ),
        (LLAMA, json!({"layer_types": sliding.clone()}), ["layer_types", "where a sliding window is in use"]),
        (MISTRAL, json!({"attention_bias": true}), ["attention_bias = true", "false"]),
        (MISTRAL, json!({"mlp_bias": true}), ["mlp_bias = true", "false"]),
        (MISTRAL, json!({"sliding_window": 0}), ["sliding_window = 0", "at least 1"]),
        (MISTRAL, json!({"layer_types": full}), ["layer_types", "sliding_attention alone"]),
        (QWEN2, json!({"mlp_bias": true}), ["mlp_bias = true", "false"]),
        (QWEN2, json!({"layer_types": chunked}), ["layer_types", "full_attention and sliding_attention"]),
        (QWEN3, json!({"layer_types": sliding}), ["layer_types", "where a sliding window is in use"]),
        (QWEN3, json!({"layer_types": ["full_attention"]}), ["layer_types", "one entry for each layer"]),
    ] {
        refused(architecture, &change, &said);
        refused(architecture, &change, &["config.json: "]);
    }
    assert!(ModelConfig::from_json(b"[]").expect_err("no object").to_string().contains("config.json"));
}
