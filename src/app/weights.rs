//! The weights of a checkpoint: headers looked at first, bytes read later.
//!
//! A safetensors file begins with the length of its header and the header, from
//! which its own length follows; so a file that was cut off is found without
//! reading it.

use super::hub::{INDEX, SINGLE, shards};
use crate::engine::tree::checkpoint;
use crate::engine::tree::config::{LoadError, ModelConfig as Shape};
use crate::engine::tree::model::Model;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// The longest header that is believed, in bytes; the format's own bound.
const LONGEST_HEADER: u64 = 100_000_000;

/// Weights that are there and whole, as far as their headers say.
#[derive(Debug)]
pub(super) struct Weights {
    parts: Vec<Part>,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

#[derive(Debug)]
enum Part {
    Embedded(&'static [u8]),
    File(PathBuf),
}

#[derive(Deserialize)]
struct Tensor {
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Weights {
    /// Weights within the binary.
    pub(super) fn embedded(bytes: &'static [u8]) -> Result<Self, LoadError> {
        let length = bytes.len() as u64;
        let parameters = header(SINGLE, &mut Cursor::new(bytes), length)?;
        Ok(Self { parts: vec![Part::Embedded(bytes)], parameters, bytes: length })
    }

    /// Weights in a directory: one file, or the shards of an index.
    pub(super) fn open(directory: &Path) -> Result<Self, LoadError> {
        let files = if directory.join(SINGLE).is_file() {
            [SINGLE.to_owned()].into()
        } else {
            let index = directory.join(INDEX);
            shards(&index)
                .ok_or_else(|| LoadError::Weights(format!("{INDEX} names no files of this directory")))?
        };
        let mut weights = Self { parts: Vec::new(), parameters: 0, bytes: 0 };
        for name in files {
            let path = directory.join(&name);
            let unreadable = |error: std::io::Error| LoadError::Weights(format!("{name}: {error}"));
            let mut file = File::open(&path).map_err(unreadable)?;
            let length = file.metadata().map_err(unreadable)?.len();
            weights.parameters += header(&name, &mut file, length)?;
            weights.bytes += length;
            weights.parts.push(Part::File(path));
        }
        Ok(weights)
    }

    /// Reads them into a model; `progress` hears (bytes done, bytes in all).
    pub(super) fn load(self, shape: Shape, progress: &mut dyn FnMut(u64, u64)) -> Result<Model, LoadError> {
        progress(0, self.bytes);
        let bytes = match self.parts.as_slice() {
            [Part::Embedded(bytes)] => Cow::Borrowed(*bytes),
            [Part::File(path)] => {
                let unreadable = |error| LoadError::Weights(format!("{}: {error}", path.display()));
                Cow::Owned(std::fs::read(path).map_err(unreadable)?)
            }
            parts => {
                let found = parts.len();
                return Err(LoadError::Weights(format!("{found} shards; one file ({SINGLE}) is supported")));
            }
        };
        let model = checkpoint::load_as(shape, bytes)?;
        progress(self.bytes, self.bytes);
        Ok(model)
    }
}

/// Checks a file's header against its length; the numbers that it holds.
fn header(name: &str, file: &mut dyn Read, length: u64) -> Result<u64, LoadError> {
    let broken = |what: String| LoadError::Weights(format!("{name} {what}"));
    let cut = || broken(format!("is cut off: {length} bytes hold no header; fetch it again"));
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| cut())?;
    if &size == b"version " {
        return Err(broken("is a Git LFS pointer, not weights; run `git lfs pull`".to_owned()));
    }
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER {
        return Err(broken("is no safetensors file".to_owned()));
    }
    let mut json = Vec::new();
    file.take(size).read_to_end(&mut json).map_err(|error| broken(format!("cannot be read: {error}")))?;
    if (json.len() as u64) < size {
        return Err(cut());
    }
    let mut entries: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&json).map_err(|error| broken(format!("has a broken header: {error}")))?;
    entries.remove("__metadata__");
    let (mut end, mut parameters) = (0, 0u64);
    for (tensor, entry) in entries {
        let entry: Tensor = serde_json::from_value(entry)
            .map_err(|error| broken(format!("has a broken header: {tensor}: {error}")))?;
        end = end.max(entry.data_offsets[1]);
        let numbers = entry.shape.iter().fold(1u64, |product, side| product.saturating_mul(*side));
        parameters = parameters.saturating_add(numbers);
    }
    let wanted = end.saturating_add(8 + size);
    if wanted != length {
        return Err(broken(format!("has {length} bytes and its header says {wanted}; fetch it again")));
    }
    Ok(parameters)
}
