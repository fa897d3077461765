//! Rotary position embeddings: the rotation of each pair of a head, and the
//! scalings that stretch a model's context.
//!
//! Both spellings are read: `rope_theta` beside `rope_scaling {type | rope_type,
//! ...}` (transformers 4) and `rope_parameters {rope_type, rope_theta, ...}`
//! (transformers 5). Frequencies are computed in f32 and in the order of
//! transformers' `modeling_rope_utils.py`, so that long positions round alike.
//! Deliberately absent: `dynamic` and `longrope`, whose frequencies depend on
//! the length of the sequence and would make cached keys wrong.

use super::config::{Keys, LoadError};
use serde_json::Value;
use std::f64::consts::PI;

const SUPPORTED: &str = "default, linear, llama3 or yarn";

/// How positions turn the pairs of a head.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// What stretches them.
    pub scaling: Scaling,
}

/// A scaling of the frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// None.
    Default,
    /// Every frequency divided by a factor (position interpolation, Chen et
    /// al., arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided, high ones kept, those between
    /// interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Turns within the original context below which a frequency is low.
        low: f64,
        /// Turns within the original context above which it is high.
        high: f64,
        /// The context that the model was first trained for, in tokens.
        original: f64,
    },
    /// Every pair's frequency divided by a factor of its own.
    Factors(Vec<f32>),
    /// `YaRN` (Peng et al., arXiv 2309.00071).
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Turns within the original context above which a frequency is kept.
        fast: f64,
        /// Turns within the original context below which it is divided.
        slow: f64,
        /// Whether the borders between them are rounded to whole pairs.
        truncate: bool,
        /// What cosines and sines are multiplied with.
        attention: f64,
        /// The context that the model was first trained for, in tokens.
        original: f64,
    },
}

impl Rope {
    /// Reads the keys of `config.json`. `context` is `max_position_embeddings`.
    ///
    /// # Errors
    /// When a key has a value that is not supported.
    pub(super) fn read(config: &Keys<'_>, context: usize) -> Result<Self, LoadError> {
        let (path, map) = match (config.get("rope_scaling"), config.get("rope_parameters")) {
            // transformers prefers the older spelling where a file holds both.
            (Some(Value::Object(map)), _) if !map.is_empty() => ("rope_scaling.", map),
            (None | Some(Value::Object(_)), Some(Value::Object(map))) => ("rope_parameters.", map),
            (None | Some(Value::Object(_)), None) => ("", &serde_json::Map::new()),
            (None | Some(Value::Object(_)), Some(_)) => {
                return Err(config.unsupported("rope_parameters", "an object"));
            }
            (Some(_), _) => return Err(config.unsupported("rope_scaling", "null or an object")),
        };
        let keys = Keys::new(path, map);
        for layers in ["full_attention", "sliding_attention"] {
            if keys.get(layers).is_some() {
                return Err(keys.unsupported(layers, "one set of parameters for all layers"));
            }
        }
        for place in [config, &keys] {
            if place.positive("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
                return Err(place.unsupported("partial_rotary_factor", "1"));
            }
        }
        let theta = match keys.positive("rope_theta")? {
            Some(theta) => theta,
            None => config.positive("rope_theta")?.unwrap_or(10_000.0),
        };
        if theta <= 1.0 {
            let place = if keys.get("rope_theta").is_some() { &keys } else { config };
            return Err(place.unsupported("rope_theta", "a number above 1"));
        }
        let name = if keys.get("rope_type").is_some() { "rope_type" } else { "type" };
        let kind = keys.text(name, SUPPORTED)?.unwrap_or("default");
        let factor = || {
            let factor = keys.positive("factor")?;
            factor.ok_or_else(|| keys.unsupported("factor", "a number above 0"))
        };
        let original = match config.count("original_max_position_embeddings", 1)? {
            Some(original) => Some(original),
            None => keys.count("original_max_position_embeddings", 1)?,
        };
        let scaling = match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: factor()? },
            "llama3" => {
                let bound = |key| {
                    let bound = keys.positive(key)?;
                    bound.ok_or_else(|| keys.unsupported(key, "a number above 0"))
                };
                let (low, high) = (bound("low_freq_factor")?, bound("high_freq_factor")?);
                if high <= low {
                    return Err(keys.unsupported("high_freq_factor", "a number above low_freq_factor"));
                }
                let original = original.unwrap_or(context) as f64;
                Scaling::Llama3 { factor: factor()?, low, high, original }
            }
            "yarn" => {
                let factor = match (keys.positive("factor")?, original) {
                    (Some(factor), _) => factor,
                    (None, Some(original)) => context as f64 / original as f64,
                    (None, None) => factor()?,
                };
                yarn(&keys, factor, original.unwrap_or(context) as f64)?
            }
            _ => return Err(keys.unsupported(name, SUPPORTED)),
        };
        Ok(Self { theta, scaling })
    }

    /// The longest sequence that the scaling is meant for, where
    /// `max_position_embeddings` is `context`. Like vLLM's, it counts a `linear`
    /// factor on top of `context` and a `yarn` factor on top of the original
    /// context.
    #[must_use]
    pub fn context(&self, context: usize) -> usize {
        let stretched = match self.scaling {
            Scaling::Default | Scaling::Llama3 { .. } | Scaling::Factors(_) => 0.0,
            Scaling::Linear { factor } => context as f64 * factor,
            Scaling::Yarn { factor, original, .. } => original * factor,
        };
        context.max(stretched.min(f64::from(u32::MAX)) as usize)
    }

    /// Radians by which each of `dim / 2` pairs turns per position.
    #[must_use]
    pub fn frequencies(&self, dim: usize) -> Vec<f32> {
        let plain = |i: usize| 1.0 / (self.theta as f32).powf((2 * i) as f32 / dim as f32);
        let pairs = 0..dim / 2;
        match self.scaling {
            Scaling::Default => pairs.map(plain).collect(),
            Scaling::Factors(ref factors) => {
                pairs.zip(factors).map(|(i, factor)| plain(i) / factor).collect()
            }
            Scaling::Linear { factor } => pairs.map(|i| plain(i) / factor as f32).collect(),
            Scaling::Llama3 { factor, low, high, original } => {
                let scaled = |i| {
                    let turn = plain(i);
                    let wavelength = (2.0 * PI) as f32 / turn;
                    if wavelength > (original / low) as f32 {
                        return turn / factor as f32;
                    }
                    if wavelength < (original / high) as f32 {
                        return turn;
                    }
                    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
                    (1.0 - smooth) * turn / factor as f32 + smooth * turn
                };
                pairs.map(scaled).collect()
            }
            Scaling::Yarn { factor, fast, slow, truncate, original, .. } => {
                // The pair that turns so often within the original context.
                let pair =
                    |turns: f64| dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (mut first, mut last) = (pair(fast), pair(slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                (first, last) = (first.max(0.0), last.min(dim as f64 - 1.0));
                if first == last {
                    last += 0.001;
                }
                let scaled = |i: usize| {
                    let period = (self.theta as f32).powf((2 * i) as f32 / dim as f32);
                    let ramp = ((i as f32 - first as f32) / (last - first) as f32).clamp(0.0, 1.0);
                    let kept = 1.0 - ramp;
                    1.0 / (factor as f32 * period) * (1.0 - kept) + 1.0 / period * kept
                };
                pairs.map(scaled).collect()
            }
        }
    }

    /// What cosines and sines are multiplied with.
    #[must_use]
    pub fn attention(&self) -> f32 {
        match self.scaling {
            Scaling::Default | Scaling::Linear { .. } | Scaling::Llama3 { .. } | Scaling::Factors(_) => 1.0,
            Scaling::Yarn { attention, .. } => attention as f32,
        }
    }
}

fn yarn(keys: &Keys<'_>, factor: f64, original: f64) -> Result<Scaling, LoadError> {
    // A zero means the default here, as in transformers.
    let number = |key: &str| match keys.get(key).and_then(Value::as_f64) {
        Some(0.0) => Ok(None),
        _ => keys.positive(key),
    };
    let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let attention = match keys.positive("attention_factor")? {
        Some(attention) => attention,
        None => match (number("mscale")?, number("mscale_all_dim")?) {
            (Some(scale), Some(all)) => grown(scale) / grown(all),
            _ => grown(1.0),
        },
    };
    let (fast, slow) = (number("beta_fast")?.unwrap_or(32.0), number("beta_slow")?.unwrap_or(1.0));
    if fast < slow {
        return Err(keys.unsupported("beta_fast", "a number of at least beta_slow"));
    }
    let truncate = keys.flag("truncate")?.unwrap_or(true);
    Ok(Scaling::Yarn { factor, fast, slow, truncate, attention, original })
}

#[cfg(test)]
mod tests;
