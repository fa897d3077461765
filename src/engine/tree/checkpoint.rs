//! From the bytes of a checkpoint to a model.
//!
//! Reading files is the composition root's business; here are only bytes, so an
//! embedded checkpoint and one from a directory take the same path.

use super::config::{LoadError, ModelConfig};
use super::model::Model;
use candle_core::safetensors::{BufferedSafetensors, SliceSafetensors};
use candle_nn::var_builder::SimpleBackend;
use std::borrow::Cow;

/// Loads a model from the bytes of `config.json` and of one safetensors file.
///
/// # Errors
/// When the configuration is not supported, or the weights are truncated or do
/// not fit it.
pub fn load(config: &[u8], weights: Cow<'static, [u8]>) -> Result<Model, LoadError> {
    load_as(ModelConfig::from_json(config)?, weights)
}

/// Loads a model of a known shape from the bytes of one safetensors file.
///
/// # Errors
/// When the weights are truncated or do not fit the configuration.
pub fn load_as(config: ModelConfig, weights: Cow<'static, [u8]>) -> Result<Model, LoadError> {
    let unreadable = |error: candle_core::Error| LoadError::Weights(error.to_string());
    let backend: Box<dyn SimpleBackend> = match weights {
        Cow::Borrowed(bytes) => Box::new(SliceSafetensors::new(bytes).map_err(unreadable)?),
        Cow::Owned(bytes) => Box::new(BufferedSafetensors::new(bytes).map_err(unreadable)?),
    };
    Model::load(config, backend)
}
