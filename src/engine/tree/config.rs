//! `config.json` of a LlamaForCausalLM, with what is supported checked.

use mistralrs_quant::QuantizedConfig;
use serde::Deserialize;

/// The architectures that the tree engine runs.
pub const SUPPORTED: &[&str] = &["LlamaForCausalLM"];

/// Why a checkpoint cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `config.json` is no JSON, or lacks a key.
    #[error("config.json: {0}")]
    Config(#[from] serde_json::Error),
    /// The architecture is another one.
    #[error("architecture {found} is not supported; supported: {}", SUPPORTED.join(", "))]
    Architecture {
        /// What `architectures` says.
        found: String,
    },
    /// A key has a value that is not supported.
    #[error("config.json: {key} = {found} is not supported; supported: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would be.
        supported: &'static str,
    },
    /// The weights are unreadable, incomplete or of other shapes.
    #[error("weights: {0}")]
    Weights(String),
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
    /// Longest sequence.
    pub context: usize,
    /// Epsilon of RMSNorm.
    pub epsilon: f32,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Whether the head is the embedding matrix.
    pub tied: bool,
    /// Biases on q, k, v and o.
    pub attention_bias: bool,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// How linear layers are quantised in the file, if they are.
    pub quantisation: Option<QuantizedConfig>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "silu")]
    hidden_act: String,
    quantization_config: Option<QuantizedConfig>,
}

fn silu() -> String {
    "silu".to_owned()
}

impl ModelConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When it is unreadable or asks for something that is not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        struct Architectures {
            #[serde(default)]
            architectures: Vec<String>,
        }
        // The architecture first: another one may lack the keys below, and the
        // useful message is then the architecture's name.
        let named: Architectures = serde_json::from_slice(json)?;
        if !named.architectures.iter().any(|name| SUPPORTED.contains(&name.as_str())) {
            let found = match named.architectures.as_slice() {
                [] => "(none named)".to_owned(),
                names => names.join(", "),
            };
            return Err(LoadError::Architecture { found });
        }
        serde_json::from_slice::<Raw>(json)?.check()
    }
}

impl Raw {
    fn check(self) -> Result<ModelConfig, LoadError> {
        debug_assert!(!self.architectures.is_empty(), "from_json has looked");
        let unsupported =
            |key, found: String, supported| Err(LoadError::Unsupported { key, found, supported });
        if self.hidden_act != "silu" {
            return unsupported("hidden_act", self.hidden_act, "silu");
        }
        for (key, rope) in [("rope_scaling", &self.rope_scaling), ("rope_parameters", &self.rope_parameters)]
        {
            let kind = rope.as_ref().and_then(|rope| rope.get("rope_type").or_else(|| rope.get("type")));
            if let Some(kind) = kind
                && kind != "default"
            {
                return unsupported(key, kind.to_string(), "rope_type default");
            }
        }
        let kv_heads = self.num_key_value_heads.unwrap_or(self.num_attention_heads);
        if kv_heads == 0 || !self.num_attention_heads.is_multiple_of(kv_heads) {
            let found = kv_heads.to_string();
            return unsupported("num_key_value_heads", found, "a divisor of num_attention_heads");
        }
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return unsupported("head_dim", head_dim.to_string(), "an even number above 0");
        }
        for (key, value) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 {
                return unsupported(key, value.to_string(), "a number above 0");
            }
        }
        let nested = self.rope_parameters.as_ref().and_then(|rope| rope.get("rope_theta")?.as_f64());
        Ok(ModelConfig {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads,
            head_dim,
            vocab: self.vocab_size,
            context: self.max_position_embeddings,
            epsilon: self.rms_norm_eps,
            rope_theta: self.rope_theta.or(nested).unwrap_or(10_000.0),
            tied: self.tie_word_embeddings,
            attention_bias: self.attention_bias,
            mlp_bias: self.mlp_bias,
            quantisation: self.quantization_config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn base() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5
        })
    }

    fn read(change: Value) -> Result<ModelConfig, String> {
        let mut config = base();
        for (key, value) in change.as_object().expect("an object") {
            config[key] = value.clone();
        }
        ModelConfig::from_json(config.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings_of_the_rotary_base_are_read() {
        assert_eq!(read(json!({})).expect("plain").rope_theta, 10_000.0);
        assert_eq!(read(json!({"rope_theta": 5e5})).expect("v4").rope_theta, 5e5);
        let v5 = json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}});
        assert_eq!(read(v5).expect("v5").rope_theta, 1e6);
        assert_eq!(read(json!({})).expect("plain").head_dim, 16);
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        let refused = |change: Value| read(change).expect_err("must be refused");
        let error = refused(json!({"architectures": ["GPT2LMHeadModel"]}));
        assert!(error.contains("GPT2LMHeadModel") && error.contains("LlamaForCausalLM"), "{error}");
        assert!(refused(json!({"hidden_act": "gelu"})).contains("hidden_act = gelu"));
        let error = refused(json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}));
        assert!(error.contains("rope_scaling") && error.contains("yarn"), "{error}");
        assert!(refused(json!({"num_key_value_heads": 3})).contains("num_key_value_heads = 3"));
        assert!(refused(json!({"vocab_size": 0})).contains("vocab_size"));
        assert!(refused(json!({"hidden_size": "x"})).contains("config.json"));
    }
}
