//! Quantising a checkpoint while it is loaded: which matrix gets which format.
//!
//! The mixes are llama.cpp's (`llama-quant.cpp`, `llama_tensor_get_type`). A row
//! that is no whole number of blocks falls back to Q8_0, and where that does
//! not fit either, the matrix stays in f32. Norms and biases are never touched.
//! Importance matrices are deliberately absent.

use super::QuantType;
use crate::engine::tree::config::LoadError;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// A mix of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantize {
    /// Everything in Q8_0.
    Q8_0,
    /// Q4_K; Q6_K for the output and half of the value and down projections.
    Q4KM,
}

impl Quantize {
    /// The names of all mixes, and of doing without.
    pub const NAMES: [&'static str; 3] = ["none", "q8_0", "q4_k_m"];

    /// The mix of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "q8_0" => Some(Self::Q8_0),
            "q4_k_m" => Some(Self::Q4KM),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4KM => "q4_k_m",
        }
    }
}

/// A mix for a model of so many layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    /// The mix.
    pub quantize: Quantize,
    /// Decoder layers.
    pub layers: usize,
    /// Whether the embedding is the output head as well.
    pub tied: bool,
}

impl Mix {
    /// The format of a matrix whose rows have `k` weights; none where it stays
    /// as it is.
    pub(crate) fn kind(self, name: &str, k: usize) -> Option<QuantType> {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| {
            let (layer, part) = rest.split_once('.')?;
            Some((layer.parse::<usize>().ok()?, part))
        });
        let wanted = match (self.quantize, name, layer) {
            (_, "lm_head.weight" | "model.embed_tokens.weight", _) | (_, _, Some(_)) => match self.quantize {
                Quantize::Q8_0 => QuantType::Q8_0,
                Quantize::Q4KM => self.of_four_bits(name, layer),
            },
            // A score head is small, and what it says is compared with bounds.
            _ => return None,
        };
        [wanted, QuantType::Q8_0].into_iter().find(|kind| k.is_multiple_of(kind.block()))
    }

    fn of_four_bits(self, name: &str, layer: Option<(usize, &str)>) -> QuantType {
        let more = match layer {
            Some((layer, "self_attn.v_proj.weight" | "mlp.down_proj.weight")) => self.more_bits(layer),
            Some(_) => false,
            None => self.tied || name == "lm_head.weight",
        };
        if more { QuantType::Q6K } else { QuantType::Q4K }
    }

    /// llama.cpp's `use_more_bits`: the first and the last eighth of the layers,
    /// and every third one between.
    fn more_bits(self, layer: usize) -> bool {
        let (eighth, layers) = (self.layers / 8, self.layers);
        layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
    }
}

/// Rows of `k` weights in a format's blocks, as GGML lays them out.
pub(crate) fn quantise(kind: QuantType, rows: &[f32], k: usize) -> Result<Vec<u8>, LoadError> {
    let dtype = match kind {
        QuantType::Q4_0 => GgmlDType::Q4_0,
        QuantType::Q4_1 => GgmlDType::Q4_1,
        QuantType::Q5_0 => GgmlDType::Q5_0,
        QuantType::Q5_1 => GgmlDType::Q5_1,
        QuantType::Q8_0 => GgmlDType::Q8_0,
        QuantType::Q4K => GgmlDType::Q4K,
        QuantType::Q5K => GgmlDType::Q5K,
        QuantType::Q6K => GgmlDType::Q6K,
    };
    let quantised: Result<Vec<Vec<u8>>, candle_core::Error> = rows
        .par_chunks(k.max(1) * 32)
        .map(|rows| {
            let tensor = Tensor::from_slice(rows, (rows.len() / k.max(1), k), &Device::Cpu)?;
            Ok(QTensor::quantize(&tensor, dtype)?.data()?.into_owned())
        })
        .collect();
    let quantised = quantised.map_err(|cause| LoadError::Weights(cause.to_string()))?;
    Ok(quantised.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(quantize: Quantize, layers: usize, tied: bool) -> Mix {
        Mix { quantize, layers, tied }
    }

    #[test]
    fn four_bits_are_mixed_as_in_llama_cpp() {
        let of = |layers, name: &str| mix(Quantize::Q4KM, layers, false).kind(name, 256);
        let layer = |index: usize, part: &str| format!("model.layers.{index}.{part}.weight");
        // Of 32 layers: 0-3, then every third from 6 on, then 28-31.
        let six: Vec<usize> =
            (0..32).filter(|l| of(32, &layer(*l, "mlp.down_proj")) == Some(QuantType::Q6K)).collect();
        assert_eq!(six, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert!(six.iter().all(|l| of(32, &layer(*l, "self_attn.v_proj")) == Some(QuantType::Q6K)));
        for part in
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"]
        {
            assert_eq!(of(32, &layer(0, part)), Some(QuantType::Q4K), "{part}");
        }
        assert_eq!(of(32, "lm_head.weight"), Some(QuantType::Q6K));
        assert_eq!(of(32, "model.embed_tokens.weight"), Some(QuantType::Q4K));
        assert_eq!(
            mix(Quantize::Q4KM, 32, true).kind("model.embed_tokens.weight", 256),
            Some(QuantType::Q6K)
        );
    }

    #[test]
    fn rows_that_are_no_whole_blocks_fall_back_and_heads_of_scores_stay() {
        for quantize in [Quantize::Q8_0, Quantize::Q4KM] {
            let of = |name, k| mix(quantize, 2, true).kind(name, k);
            assert_eq!(of("model.layers.0.mlp.up_proj.weight", 384), Some(QuantType::Q8_0));
            assert_eq!(of("model.layers.0.mlp.up_proj.weight", 40), None);
            assert_eq!(of("score.0.weight", 256), None);
            assert_eq!(Quantize::parse(quantize.name()), Some(quantize));
        }
        assert_eq!(
            Quantize::NAMES.map(|name| Quantize::parse(name).map(Quantize::name)),
            [None, Some("q8_0"), Some("q4_k_m")]
        );
        assert_eq!(Quantize::parse("q3_k"), None);
    }
}
