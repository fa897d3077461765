//! How tokens are drawn, beyond temperature and nucleus: OpenAI's penalties and
//! `logit_bias`, and what vLLM's clients send beside them.

use super::field::{Field, Object, quoted};
use super::single;
use crate::http::error::FieldError;
use crate::plan::SamplingParams;

/// Reads the fields.
pub(super) fn sampling(body: &Object<'_>) -> Result<SamplingParams, FieldError> {
    let penalty = |key| Ok(body.decimal(key, -2.0, 2.0)?.map_or(0.0, single));
    Ok(SamplingParams {
        // -1 and 0 both switch it off, as in vLLM.
        top_k: body.integer("top_k", -1, i64::MAX)?.map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX)),
        min_p: body.decimal("min_p", 0.0, 1.0)?.map(single),
        repetition_penalty: body.optional("repetition_penalty").map(|f| repetition(&f)).transpose()?,
        frequency_penalty: penalty("frequency_penalty")?,
        presence_penalty: penalty("presence_penalty")?,
        logit_bias: body.optional("logit_bias").map(|f| logit_bias(&f)).transpose()?.unwrap_or_default(),
    })
}

/// A number above 0 and at most 10.
fn repetition(field: &Field<'_>) -> Result<f32, FieldError> {
    let value = single(field.decimal(f64::MIN, 10.0)?);
    if value > 0.0 {
        return Ok(value);
    }
    Err(field.not_above_zero())
}

/// A map from token ids to -100 to 100.
fn logit_bias(field: &Field<'_>) -> Result<Vec<(u32, f32)>, FieldError> {
    let mut biases = Vec::new();
    let map = field.object()?.map;
    for (key, value) in map {
        // One spelling for each id, so that none comes twice.
        let id = key.parse::<u32>().ok().filter(|id| id.to_string() == *key);
        let id = id.ok_or_else(|| {
            let why = format!("the key '{}' is no token id.", quoted(key));
            field.invalid(&why)
        })?;
        let bias = Field { path: format!("{}.{id}", field.path), value };
        biases.push((id, single(bias.decimal(-100.0, 100.0)?)));
    }
    Ok(biases)
}
