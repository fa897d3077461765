//! Models of a known shape with random weights, made in memory.

use super::BenchError;
use crate::engine::tree::checkpoint::Weights;
use crate::engine::tree::config::ModelConfig;
use crate::engine::tree::model::Model;
use crate::engine::tree::quant::Quantize;
use serde_json::json;

/// The shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ShapeName {
    /// Qwen2.5-0.5B: 494 M parameters, in BF16 as published.
    #[value(name = "qwen2.5-0.5b")]
    Qwen25Half,
    /// The same in f32.
    #[value(name = "qwen2.5-0.5b-f32")]
    Qwen25HalfF32,
}

impl ShapeName {
    /// As it is typed.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Qwen25Half => "qwen2.5-0.5b",
            Self::Qwen25HalfF32 => "qwen2.5-0.5b-f32",
        }
    }

    /// The configuration: what `Qwen/Qwen2.5-0.5B` has in `config.json`.
    pub(super) fn config(self) -> Result<ModelConfig, BenchError> {
        let json = match self {
            Self::Qwen25Half | Self::Qwen25HalfF32 => json!({
                "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896,
                "intermediate_size": 4864, "max_position_embeddings": 32_768, "num_attention_heads": 14,
                "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
                "rope_theta": 1_000_000.0, "tie_word_embeddings": true, "vocab_size": 151_936
            }),
        };
        let broken = |error: &dyn std::fmt::Display| BenchError::Broken(error.to_string());
        ModelConfig::from_json(json.to_string().as_bytes()).map_err(|error| broken(&error))
    }

    fn weights(self, config: &ModelConfig) -> Weights {
        Weights::random(config, self == Self::Qwen25Half)
    }

    /// The model, quantised where a mix is given.
    pub(super) fn model(self, quantize: Option<Quantize>) -> Result<Model, BenchError> {
        let config = self.config()?;
        let weights = self.weights(&config).quantized(quantize);
        weights.load(config, &mut |_, _| {}).map_err(|error| BenchError::Broken(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_has_the_parameters_that_its_card_names() {
        for (shape, bytes) in [(ShapeName::Qwen25Half, 2), (ShapeName::Qwen25HalfF32, 4)] {
            let config = shape.config().expect("a good configuration");
            let weights = shape.weights(&config);
            assert_eq!((weights.parameters(), weights.bytes()), (494_032_768, 494_032_768 * bytes));
            assert_eq!((config.head_dim, config.context, config.qkv_bias), (64, 32_768, true));
        }
    }
}
