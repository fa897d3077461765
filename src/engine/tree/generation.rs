//! `generation_config.json`: where a text ends, and how the model likes to be
//! sampled.
//!
//! As in vLLM, only keys that the file holds count (not transformers' class
//! defaults), `do_sample: false` is ignored (a request that wants the likeliest
//! token says `temperature: 0`), and so are parameters that have no field in
//! requests.

use super::config::LoadError;
use crate::engine::Sampling;
use crate::token::TokenId;
use serde_json::{Map, Value};

/// The bounds of `repetition_penalty`, in words.
pub const REPETITION_BOUNDS: &str = "a number above 0 and at most 10";

/// What a checkpoint says about generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generation {
    /// `eos_token_id`: none, one or several.
    pub eos: Vec<TokenId>,
    /// The sampling defaults.
    pub sampling: Sampling,
}

impl Generation {
    /// Reads a `generation_config.json`.
    ///
    /// # Errors
    /// When it is no JSON object, or a default that is used lies out of bounds.
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        let map: Map<String, Value> = serde_json::from_slice(json).map_err(|cause| LoadError::Json {
            file: "generation_config.json".to_owned(),
            cause: cause.to_string(),
        })?;
        let number = |key: &'static str, within: fn(f64) -> bool, bounds: &'static str| {
            let Some(value) = map.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
            match value.as_f64().filter(|number| within(*number)) {
                Some(number) => Ok(Some(number as f32)),
                None => Err(LoadError::Default { key, found: value.to_string(), bounds }),
            }
        };
        let neutral = Sampling::default();
        // -1 and 0 both mean that the parameter is off.
        let top_k = number(
            "top_k",
            |n| n.fract() == 0.0 && (-1.0..=f64::from(1 << 24)).contains(&n),
            "a whole number of at least -1",
        )?;
        Ok(Self {
            eos: map.get("eos_token_id").map(ids).unwrap_or_default(),
            sampling: Sampling {
                temperature: number("temperature", |n| (0.0..=2.0).contains(&n), "a number from 0 to 2")?
                    .unwrap_or(neutral.temperature),
                top_p: number("top_p", |n| (0.0..=1.0).contains(&n), "a number from 0 to 1")?
                    .map_or(neutral.top_p, |mass| mass.max(f32::MIN_POSITIVE)),
                top_k: top_k.map_or(neutral.top_k, |k| k.max(0.0) as u32),
                min_p: number("min_p", |n| (0.0..=1.0).contains(&n), "a number from 0 to 1")?
                    .unwrap_or(neutral.min_p),
                repetition_penalty: number(
                    "repetition_penalty",
                    |n| n > 0.0 && n <= 10.0,
                    REPETITION_BOUNDS,
                )?
                .unwrap_or(neutral.repetition_penalty),
                ..neutral
            },
        })
    }
}

/// An `eos_token_id`: one id or a list of them; what is neither names none.
#[must_use]
pub fn ids(value: &Value) -> Vec<TokenId> {
    let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
    match value {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        value => id(value).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: &Value) -> Result<Generation, String> {
        Generation::from_json(json.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_real_file_is_read_and_greedy_by_default_is_ignored() {
        // As of Qwen3.
        let read = read(&json!({
            "bos_token_id": 151_643, "do_sample": false, "eos_token_id": [151_645, 151_643],
            "pad_token_id": 151_643, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05,
            "repetition_penalty": 1.05, "transformers_version": "4.51.0", "typical_p": 0.9
        }))
        .expect("a good file");
        assert_eq!(read.eos, [151_645, 151_643]);
        let sampling = Sampling {
            temperature: 0.6,
            top_p: 0.95,
            top_k: 20,
            min_p: 0.05,
            repetition_penalty: 1.05,
            ..Sampling::default()
        };
        assert_eq!(read.sampling, sampling);
    }

    #[test]
    fn what_is_absent_or_null_is_neutral() {
        let nulls = json!({"temperature": null, "top_k": null, "top_p": null, "eos_token_id": null});
        for file in [json!({}), nulls, json!({"top_k": -1, "eos_token_id": []})] {
            assert_eq!(read(&file), Ok(Generation::default()), "{file}");
        }
        assert_eq!(read(&json!({"eos_token_id": 2})).expect("good").eos, [2]);
    }

    #[test]
    fn defaults_out_of_bounds_are_named() {
        for (key, value) in [
            ("temperature", json!(-1)),
            ("temperature", json!("hot")),
            ("top_p", json!(1.5)),
            ("top_k", json!(2.5)),
            ("top_k", json!(-2)),
            ("min_p", json!(-0.1)),
            ("repetition_penalty", json!(0)),
            ("repetition_penalty", json!(11)),
        ] {
            let error = read(&json!({key: value})).expect_err("out of bounds");
            assert!(error.contains(&format!("{key} = {value}")) && error.contains("must be"), "{error}");
        }
        assert!(read(&json!([])).expect_err("no object").contains("generation_config.json"));
    }
}
