//! What a GGUF file says about its model: the configuration, and where each
//! tensor of the model lies.
//!
//! The keys are those of ggml's `docs/gguf.md` and of llama.cpp's
//! `convert_hf_to_gguf.py`, which writes them. What is refused is refused by its
//! own key; then the rest is put as `config.json` has it, so that there is one
//! reader of configurations. Biases, a tied head and norms of heads are told by
//! the tensors that are there; a tensor that the model has no use for means that
//! it would be computed wrongly, and is refused.

use super::super::checkpoint::{Entry, Shard};
use super::super::config::{Keys, LoadError, MOST_LAYERS, ModelConfig};
use super::super::model::Model;
use super::super::rope::Scaling;
use super::{Gguf, broken};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Where the factors of the rotation's periods lie, if they do.
const FACTORS: &str = "rope_freqs.weight";

const ARCHITECTURES: &str = "llama, qwen2 or qwen3";
const SCALINGS: &str = "none, linear or yarn";

/// The names of a layer's parts: GGUF's, and ours.
const PARTS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

impl Gguf {
    fn keys(&self) -> Keys<'_> {
        Keys::of_file("the file's metadata", &self.scalars)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.iter().any(|tensor| tensor.name == name)
    }

    /// Whether any layer has one of these tensors.
    fn any(&self, parts: &[&str]) -> bool {
        let part = |name: &str| Some(parts.contains(&name.strip_prefix("blk.")?.split_once('.')?.1));
        self.tensors.iter().any(|tensor| part(&tensor.name) == Some(true))
    }

    fn architecture(&self) -> Result<(&str, &'static str), LoadError> {
        let keys = self.keys();
        match keys.text("general.architecture", ARCHITECTURES)? {
            Some(name @ "llama") => Ok((name, "LlamaForCausalLM")),
            Some(name @ "qwen2") => Ok((name, "Qwen2ForCausalLM")),
            Some(name @ "qwen3") => Ok((name, "Qwen3ForCausalLM")),
            _ => Err(keys.unsupported("general.architecture", ARCHITECTURES)),
        }
    }

    /// The model's configuration.
    ///
    /// # Errors
    /// When a key is missing or asks for something that is not supported.
    pub fn shape(&self) -> Result<ModelConfig, LoadError> {
        let keys = self.keys();
        let (prefix, architecture) = self.architecture()?;
        let key = |name: &str| format!("{prefix}.{name}");
        let count = |name: &str| keys.needed(&key(name));
        let (hidden, layers) = (count("embedding_length")?, count("block_count")?);
        if layers > MOST_LAYERS {
            return Err(keys.unsupported(&key("block_count"), "at most 10000"));
        }
        let heads = count("attention.head_count")?;
        let kv_heads = keys.count(&key("attention.head_count_kv"), 1)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(
                keys.unsupported(&key("attention.head_count_kv"), "a divisor of attention.head_count")
            );
        }
        let width = "attention.key_length";
        let head_dim = keys.count(&key(width), 1)?.unwrap_or(hidden / heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(keys.unsupported(&key(width), "an even number above 0"));
        }
        for (name, supported) in [
            ("attention.value_length", "the same as attention.key_length"),
            ("rope.dimension_count", "all of a head"),
        ] {
            if keys.count(&key(name), 0)?.is_some_and(|width| width != head_dim) {
                return Err(keys.unsupported(&key(name), supported));
            }
        }
        for (name, supported) in
            [("expert_count", "0: no mixture of experts"), ("attention.sliding_window", "0: no window")]
        {
            if keys.count(&key(name), 0)?.is_some_and(|number| number > 0) {
                return Err(keys.unsupported(&key(name), supported));
            }
        }
        for name in ["attention.scale", "logit_scale", "embedding_scale", "residual_scale"] {
            if keys.get(&key(name)).is_some() {
                return Err(keys.unsupported(&key(name), "none"));
            }
        }
        if keys.flag(&key("attention.causal"))? == Some(false) {
            return Err(keys.unsupported(&key("attention.causal"), "true"));
        }
        let embedding = self.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
        let vocab = embedding.and_then(|tensor| tensor.shape.first()).copied();
        let vocab = vocab.filter(|vocab| u32::try_from(*vocab).is_ok());
        let vocab = vocab.ok_or_else(|| broken("has no tensor token_embd.weight"))?;
        let epsilon = "attention.layer_norm_rms_epsilon";
        let epsilon = keys
            .positive(&key(epsilon))?
            .ok_or_else(|| keys.unsupported(&key(epsilon), "a number above 0"))?;
        let theta = keys.positive(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        if theta <= 1.0 {
            return Err(keys.unsupported(&key("rope.freq_base"), "a number above 1"));
        }
        let config = json!({
            "architectures": [architecture],
            "hidden_size": hidden,
            "intermediate_size": count("feed_forward_length")?,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": vocab,
            "max_position_embeddings": count("context_length")?,
            "rms_norm_eps": epsilon,
            "rope_theta": theta,
            "rope_scaling": self.scaling(prefix)?,
            "tie_word_embeddings": !self.has("output.weight"),
        });
        let mut config = ModelConfig::from_json(config.to_string().as_bytes())?;
        // One of them anywhere asks for all of them, so that those are missed which are
        // not there.
        config.qkv_bias = self.any(&["attn_q.bias", "attn_k.bias", "attn_v.bias"]);
        config.output_bias = self.any(&["attn_output.bias"]);
        config.mlp_bias = self.any(&["ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"]);
        config.qk_norm |= self.any(&["attn_q_norm.weight", "attn_k_norm.weight"]);
        if let Some(factors) = self.factors(head_dim / 2)? {
            if config.rope.scaling != Scaling::Default {
                return Err(broken(&format!("has both {FACTORS} and a rope.scaling.type")));
            }
            config.rope.scaling = Scaling::Factors(factors);
        }
        Ok(config)
    }

    /// The scaling as `config.json` has it.
    fn scaling(&self, prefix: &str) -> Result<Value, LoadError> {
        let keys = self.keys();
        let key = |name: &str| format!("{prefix}.rope.scaling.{name}");
        let factor = match keys.positive(&key("factor"))? {
            Some(factor) => Some(factor),
            // The older spelling, which means linear.
            None => keys.positive(&format!("{prefix}.rope.scale_linear"))?,
        };
        let kind = keys.text(&key("type"), SCALINGS)?;
        let needed = || factor.ok_or_else(|| keys.unsupported(&key("factor"), "a number above 0"));
        Ok(match kind {
            None if factor.is_some_and(|factor| factor != 1.0) => {
                json!({"rope_type": "linear", "factor": factor})
            }
            None | Some("none") => Value::Null,
            Some("linear") => json!({"rope_type": "linear", "factor": needed()?}),
            Some("yarn") => {
                let factor = needed()?;
                let mut scaling = json!({"rope_type": "yarn", "factor": factor});
                let own = keys.count(&key("original_context_length"), 1)?;
                let fast = keys.positive(&key("yarn_beta_fast"))?;
                let slow = keys.positive(&key("yarn_beta_slow"))?;
                // llama.cpp multiplies with what YaRN's paper gives.
                let grown = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
                let attention = keys.positive(&key("attn_factor"))?.map(|by| by * grown);
                for (name, value) in [
                    ("original_max_position_embeddings", own.map(Value::from)),
                    ("beta_fast", fast.map(Value::from)),
                    ("beta_slow", slow.map(Value::from)),
                    ("attention_factor", attention.map(Value::from)),
                ] {
                    if let Some(value) = value {
                        scaling[name] = value;
                    }
                }
                scaling
            }
            Some(_) => return Err(keys.unsupported(&key("type"), SCALINGS)),
        })
    }

    /// What each pair's frequency is divided by, where the file has it: Llama
    /// 3.1's scaling, worked out.
    fn factors(&self, pairs: usize) -> Result<Option<Vec<f32>>, LoadError> {
        let Some(tensor) = self.tensors.iter().find(|tensor| tensor.name == FACTORS) else {
            return Ok(None);
        };
        if tensor.kind != "F32" || tensor.shape != [pairs] {
            return Err(broken(&format!(
                "has a {FACTORS} of {} {:?}, not F32 [{pairs}]",
                tensor.kind, tensor.shape
            )));
        }
        let entry = tensor.entry(None);
        let bytes = Shard::gguf(&self.path, self.data)?.read(&entry, 0..entry.bytes())?;
        let factors: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        match factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
            true => Ok(Some(factors)),
            false => Err(broken(&format!("has a {FACTORS} that is not above 0 throughout"))),
        }
    }

    /// The tensors by the names that the model gives them, and the file that
    /// holds them. One that the model does not use is refused.
    pub(in super::super) fn tensors(
        &self,
        shape: &ModelConfig,
    ) -> Result<(Shard, Vec<(String, Entry)>), LoadError> {
        let (architecture, _) = self.architecture()?;
        // llama.cpp turns neighbours in this architecture, and the converter
        // has put the rows of queries and keys into an order that suits that.
        let interleaved = (architecture == "llama").then_some(shape.head_dim);
        let used: HashSet<String> = Model::tensors(shape).map(|(name, _)| name).collect();
        let mut seen = HashSet::new();
        let mut entries = Vec::with_capacity(self.tensors.len());
        for tensor in self.tensors.iter().filter(|tensor| tensor.name != FACTORS) {
            let theirs = &tensor.name;
            let name = named(theirs).filter(|name| used.contains(name)).ok_or_else(|| {
                let layers = shape.layers;
                LoadError::Weights(format!(
                    "{theirs} is not part of the architecture {architecture} with {layers} blocks"
                ))
            })?;
            if !seen.insert(name.clone()) {
                return Err(LoadError::Weights(format!("{theirs} stands twice in the file")));
            }
            let turned = name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.");
            entries.push((name, tensor.entry(interleaved.filter(|_| turned))));
        }
        Ok((Shard::gguf(&self.path, self.data)?, entries))
    }
}

impl super::TensorInfo {
    fn entry(&self, interleaved: Option<usize>) -> Entry {
        Entry::of_gguf(self.kind, self.shape.clone(), (self.place, interleaved))
    }
}

/// Our name of a tensor.
fn named(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, end) = rest.rsplit_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (_, ours) = PARTS.iter().find(|(theirs, _)| *theirs == part)?;
    matches!(end, "weight" | "bias").then(|| format!("model.layers.{layer}.{ours}.{end}"))
}
