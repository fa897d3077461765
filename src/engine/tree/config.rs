//! `config.json` of the dense decoders, with what is supported checked.
//!
//! Every key that changes what a model computes is read here or in
//! [`super::rope`]; a value that is not supported is refused with its key, and
//! keys that change nothing are ignored. Where a key is absent, the default is
//! that of the family's configuration class in transformers 5.

mod keys;

use super::rope::Rope;
use super::score::ScoreHead;
use serde_json::{Map, Value};

pub(crate) use keys::Keys;

/// The architectures that the tree engine runs.
pub const SUPPORTED: &[&str] =
    &["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];

/// Far more layers than any model has; what is allocated per layer stays small.
pub(super) const MOST_LAYERS: usize = 10_000;

/// Why a checkpoint cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A JSON file is no JSON, or no object.
    #[error("{file}: {cause}")]
    Json {
        /// The file.
        file: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The architecture is another one.
    #[error("architecture {found} is not supported; supported: {}", SUPPORTED.join(", "))]
    Architecture {
        /// What `architectures` says.
        found: String,
    },
    /// A key has a value that is not supported.
    #[error("{file}: {key} = {found} is not supported; supported: {supported}")]
    Unsupported {
        /// Where the key stands.
        file: &'static str,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What would be.
        supported: &'static str,
    },
    /// A default of `generation_config.json` lies out of bounds.
    #[error("generation_config.json: {key} = {found} is out of bounds; it must be {bounds}")]
    Default {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        bounds: &'static str,
    },
    /// The weights are unreadable, incomplete or of other shapes.
    #[error("weights: {0}")]
    Weights(String),
    /// A GGUF file is none, is cut off, or holds what is not supported.
    #[error("the file {0}")]
    Gguf(String),
}

/// A family of architectures: what they do beyond the common decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

/// What the forward pass needs to know.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width between gate and down projection.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads; divides `heads`.
    pub kv_heads: usize,
    /// Floats per head.
    pub head_dim: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Epsilon of RMSNorm.
    pub epsilon: f32,
    /// The rotary embedding.
    pub rope: Rope,
    /// For each layer, how many positions a row sees, its own included; `None`
    /// for all.
    pub windows: Vec<Option<usize>>,
    /// Whether the head is the embedding matrix.
    pub tied: bool,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on o.
    pub output_bias: bool,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// Whether each head of q and k is normalised before it is turned.
    pub qk_norm: bool,
    /// What takes the place of the output head in a process reward model.
    pub score: Option<ScoreHead>,
}

impl ModelConfig {
    /// Numbers that the model gives for a position: logits, or a score head's.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.score.map_or(self.vocab, ScoreHead::outputs)
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// When it is unreadable or asks for something that is not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        let map: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|cause| LoadError::Json { file: "config.json".to_owned(), cause: cause.to_string() })?;
        let keys = Keys::new("", &map);
        // The architecture first: another one may lack the keys below, and the
        // useful message is then the architecture's name.
        let (family, score) = Family::of(&keys)?;
        if !matches!(keys.text("hidden_act", "silu")?, None | Some("silu" | "swish")) {
            return Err(keys.unsupported("hidden_act", "silu"));
        }
        if keys.flag("is_causal")? == Some(false) {
            return Err(keys.unsupported("is_causal", "true"));
        }
        let hidden = keys.needed("hidden_size")?;
        let heads = keys.needed("num_attention_heads")?;
        let layers = keys.needed("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(keys.unsupported("num_hidden_layers", "at most 10000"));
        }
        let kv_heads = match (keys.count("num_key_value_heads", 1)?, keys.has("num_key_value_heads")) {
            (Some(kv_heads), _) => kv_heads,
            (None, true) => heads,
            (None, false) => family.kv_heads(heads),
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.unsupported("num_key_value_heads", "a divisor of num_attention_heads"));
        }
        let head_dim = match (keys.count("head_dim", 1)?, family) {
            (Some(head_dim), _) => head_dim,
            (None, Family::Qwen3) if !keys.has("head_dim") => 128,
            (None, _) => hidden / heads,
        };
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(keys.unsupported("head_dim", "an even number above 0"));
        }
        let epsilon = keys.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32;
        let positions = keys.count("max_position_embeddings", 1)?.unwrap_or(family.context());
        let rope = Rope::read(&keys, positions)?;
        let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
        let mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
        if attention_bias && family == Family::Mistral {
            return Err(keys.unsupported("attention_bias", "false in this architecture"));
        }
        if mlp_bias && family != Family::Llama {
            return Err(keys.unsupported("mlp_bias", "false in this architecture"));
        }
        const PLAIN: &str = "none: weights in f32, f16 or bf16";
        match keys.get("quantization_config") {
            None => {}
            Some(Value::Object(map)) => {
                return Err(Keys::new("quantization_config.", map).unsupported("quant_method", PLAIN));
            }
            Some(_) => return Err(keys.unsupported("quantization_config", PLAIN)),
        }
        Ok(ModelConfig {
            hidden,
            intermediate: keys.needed("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab: keys.needed("vocab_size")?,
            context: rope.context(positions),
            epsilon,
            rope,
            windows: family.windows(&keys, layers)?,
            tied: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            // Qwen2 has these three always and the fourth never, whatever its
            // configuration says.
            qkv_bias: attention_bias || family == Family::Qwen2,
            output_bias: attention_bias && family != Family::Qwen2,
            mlp_bias,
            qk_norm: family == Family::Qwen3,
            score,
        })
    }
}

impl Family {
    fn of(keys: &Keys<'_>) -> Result<(Self, Option<ScoreHead>), LoadError> {
        let named: Vec<&str> = match keys.get("architectures") {
            None => Vec::new(),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(_) => return Err(keys.unsupported("architectures", "a list of names")),
        };
        let known = named.iter().find_map(|name| match *name {
            "LlamaForCausalLM" => Some((Family::Llama, None)),
            "MistralForCausalLM" => Some((Family::Mistral, None)),
            "Qwen2ForCausalLM" => Some((Family::Qwen2, None)),
            "Qwen3ForCausalLM" => Some((Family::Qwen3, None)),
            "Qwen2ForProcessRewardModel" => Some((Family::Qwen2, Some(ScoreHead::Mlp))),
            "Qwen2ForPrmModel" => Some((Family::Qwen2, Some(ScoreHead::Value))),
            _ => None,
        });
        known.ok_or_else(|| LoadError::Architecture {
            found: if named.is_empty() { "(none named)".to_owned() } else { named.join(", ") },
        })
    }

    /// KV heads where the configuration says nothing about them.
    fn kv_heads(self, heads: usize) -> usize {
        match self {
            Family::Llama => heads,
            Family::Mistral => 8,
            Family::Qwen2 | Family::Qwen3 => 32,
        }
    }

    /// The context where the configuration says nothing about it.
    fn context(self) -> usize {
        match self {
            Family::Llama => 2_048,
            Family::Mistral => 131_072,
            Family::Qwen2 | Family::Qwen3 => 32_768,
        }
    }

    /// The sliding window of each layer.
    fn windows(self, keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>, LoadError> {
        let window = match self {
            // transformers ignores the key in this family.
            Family::Llama => None,
            Family::Mistral if !keys.has("sliding_window") => Some(4_096),
            Family::Mistral => keys.count("sliding_window", 1)?,
            Family::Qwen2 | Family::Qwen3 if keys.flag("use_sliding_window")?.unwrap_or(false) => {
                if keys.has("sliding_window") { keys.count("sliding_window", 1)? } else { Some(4_096) }
            }
            Family::Qwen2 | Family::Qwen3 => None,
        };
        let Some(types) = keys.get("layer_types") else {
            let first = match self {
                Family::Llama | Family::Mistral => 0,
                Family::Qwen2 | Family::Qwen3 => keys.count("max_window_layers", 0)?.unwrap_or(28),
            };
            return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
        };
        let types = types.as_array().filter(|types| types.len() == layers);
        let types = types.ok_or_else(|| keys.unsupported("layer_types", "one entry for each layer"))?;
        let mut windows = Vec::with_capacity(layers);
        for name in types {
            windows.push(match name.as_str() {
                Some("full_attention") => None,
                Some("sliding_attention") if window.is_some() => window,
                Some("sliding_attention") => {
                    return Err(keys.unsupported(
                        "layer_types",
                        "full_attention, and sliding_attention where a sliding window is in use",
                    ));
                }
                _ => return Err(keys.unsupported("layer_types", "full_attention and sliding_attention")),
            });
        }
        // This family has one kind of layer; transformers ignores the list.
        if self == Family::Mistral && windows.iter().any(|layer| *layer != window) {
            return Err(keys.unsupported("layer_types", "sliding_attention alone in this architecture"));
        }
        Ok(windows)
    }
}

#[cfg(test)]
mod tests;
