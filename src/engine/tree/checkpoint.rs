//! The weights of a checkpoint: found, checked, and only then read.
//!
//! [`Weights::open`] reads headers alone, so a truncated download or a missing
//! shard is told within milliseconds; [`Weights::check`] compares them with a
//! configuration; [`Weights::load`] then reads one piece of one tensor after the
//! other, adds what a LoRA adapter changes and packs it for the kernels, matrices
//! in the type that they have on disk or quantised (in f32 where an adapter has
//! changed them), so that beside the model itself only a few megabytes are held.
//! Files are read and not mapped: a file that shrinks under a mapping ends the
//! process, a failed read is an error, and the page cache serves both alike.
//!
//! Length: finding, checking and reading are one matter, whose parts that can stand
//! alone have files of their own.

mod adapter;
mod shard;

use super::config::{LoadError, ModelConfig};
use super::gguf::Gguf;
use super::halves::{Half, Halves};
use super::kernel::{PANEL, Packed};
use super::matrix::Matrix;
use super::model::Model;
use super::quant::mix::{Mix, quantise};
use super::quant::{QuantType, Quantised, Quantize};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

use adapter::Adapter;
pub use adapter::{ADAPTER, ADAPTER_CONFIG, AdapterConfig};
pub(super) use shard::{Entry, Shard};

/// The file of a checkpoint that is not sharded.
pub const SINGLE: &str = "model.safetensors";
/// The list of a sharded checkpoint's files.
pub const INDEX: &str = "model.safetensors.index.json";

/// The most bytes of one tensor that are converted at once, about.
const PIECE: usize = 8 << 20;

/// The weights of a checkpoint: headers in memory, tensors on disk.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Shard>,
    /// Which shard holds each tensor.
    tensors: HashMap<String, (usize, Entry)>,
    /// How matrices that are floats are quantised as they are read.
    quantize: Option<Quantize>,
    /// What is added to matrices as they are read.
    adapter: Option<Adapter>,
}

/// A sharded checkpoint's index.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// The weights of one safetensors file that is part of the program.
    ///
    /// # Errors
    /// When it is none.
    pub fn embedded(bytes: &'static [u8]) -> Result<Self, LoadError> {
        Self::new(vec![Shard::embedded(bytes)?])
    }

    /// The weights of a directory: `model.safetensors`, or the files that
    /// `model.safetensors.index.json` lists. Reads their headers alone.
    ///
    /// # Errors
    /// Naming the file that is missing, unreadable, cut off or no safetensors
    /// file.
    pub fn open(directory: &Path) -> Result<Self, LoadError> {
        let single = directory.join(SINGLE);
        if single.exists() {
            return Self::new(vec![Shard::open(directory, SINGLE)?]);
        }
        let json = std::fs::read(directory.join(INDEX)).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => {
                LoadError::Weights(format!("neither {SINGLE} nor {INDEX} is there"))
            }
            _ => LoadError::Weights(format!("{INDEX} cannot be read: {cause}")),
        })?;
        let index: Index = serde_json::from_slice(&json)
            .map_err(|cause| LoadError::Json { file: INDEX.to_owned(), cause: cause.to_string() })?;
        let files: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        for file in &files {
            // A name, not a path: an index must not lead out of its directory.
            if Path::new(file).file_name() != Some(file.as_ref()) {
                return Err(LoadError::Weights(format!("{INDEX} names '{file}', which is no file name")));
            }
            if !directory.join(file).exists() {
                let (count, missing) = (files.len(), file);
                return Err(LoadError::Weights(format!(
                    "{missing} is missing, one of {count} files that {INDEX} lists; download the checkpoint again"
                )));
            }
        }
        let shards: Result<Vec<Shard>, LoadError> =
            files.iter().map(|file| Shard::open(directory, file)).collect();
        let weights = Self::new(shards?)?;
        for (tensor, file) in &index.weight_map {
            let found = weights.tensors.get(tensor);
            if found.is_none_or(|(shard, _)| weights.shards[*shard].name() != file) {
                return Err(LoadError::Weights(format!(
                    "{INDEX} puts {tensor} into {file}, where it is not"
                )));
            }
        }
        Ok(weights)
    }

    /// Random weights of a shape, made while they are read: for measurements
    /// alone. Norms are ones, the rest is small noise; in BF16, or else in F32.
    #[must_use]
    pub fn random(config: &ModelConfig, bf16: bool) -> Self {
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let mut shard = Shard::noise(dtype, Model::tensors(config));
        let tensors = shard.take_entries().into_iter().map(|(name, entry)| (name, (0, entry))).collect();
        Self { shards: vec![shard], tensors, quantize: None, adapter: None }
    }

    /// The tensors of a GGUF file.
    ///
    /// # Errors
    /// When it holds one twice or one that the model has no use for, or is gone.
    pub fn gguf(file: &Gguf, config: &ModelConfig) -> Result<Self, LoadError> {
        let (shard, tensors) = file.tensors(config)?;
        let tensors = tensors.into_iter().map(|(name, entry)| (name, (0, entry))).collect();
        Ok(Self { shards: vec![shard], tensors, quantize: None, adapter: None })
    }

    /// The same, with matrices that are floats quantised as they are read.
    #[must_use]
    pub fn quantized(self, quantize: Option<Quantize>) -> Self {
        Self { quantize, ..self }
    }

    /// The same, with the adapter of a directory merged into them as they are read.
    ///
    /// # Errors
    /// When its tensors cannot be merged, or the weights are those of a GGUF file.
    pub fn adapted(self, directory: &Path, config: &AdapterConfig) -> Result<Self, LoadError> {
        if let Some(file) = self.shards.iter().find(|shard| shard.is_gguf()) {
            let file = file.name();
            return Err(LoadError::Weights(format!(
                "{file} is a GGUF file, and an adapter is merged into a checkpoint in safetensors only"
            )));
        }
        Ok(Self { adapter: Some(Adapter::open(directory, config)?), ..self })
    }

    fn new(mut shards: Vec<Shard>) -> Result<Self, LoadError> {
        let mut tensors = HashMap::new();
        for (index, shard) in shards.iter_mut().enumerate() {
            for (name, entry) in shard.take_entries() {
                if tensors.contains_key(&name) {
                    let file = shard.name();
                    return Err(LoadError::Weights(format!("{name} stands in {file} and in another file")));
                }
                tensors.insert(name, (index, entry));
            }
        }
        Ok(Self { shards, tensors, quantize: None, adapter: None })
    }

    /// Bytes of all tensors, as they lie on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|(_, entry)| entry.bytes()).sum()
    }

    /// Bytes of all tensors of a model in memory, as the kernels take them.
    #[must_use]
    pub fn resident(&self, config: &ModelConfig) -> u64 {
        let mix = self.mix(config);
        let bytes = |(name, shape): (String, Vec<usize>)| match shape.as_slice() {
            [n, k] => self.held(&name, *k, mix).bytes(*n as u64, *k as u64),
            _ => shape.iter().fold(4, |bytes: u64, side| bytes.saturating_mul(*side as u64)),
        };
        Model::tensors(config).map(bytes).fold(0, u64::saturating_add)
    }

    fn mix(&self, config: &ModelConfig) -> Option<Mix> {
        self.quantize.map(|quantize| Mix { quantize, layers: config.layers, tied: config.tied })
    }

    /// What a matrix is held in: the blocks that it has or that the mix gives it,
    /// else its own floats; one that an adapter changes is none of these any more.
    fn held(&self, name: &str, k: usize, mix: Option<Mix>) -> Held {
        let entry = self.tensors.get(name).map(|(_, entry)| entry);
        let blocks = entry.and_then(|entry| entry.quant).or_else(|| mix?.kind(name, k));
        let merged = self.adapter.as_ref().is_some_and(|adapter| adapter.changes(name));
        match (blocks, entry.and_then(Entry::dtype)) {
            (Some(kind), _) => Held::Blocks(kind),
            (None, Some(DType::F16)) if !merged => Held::Halves(Half::F16),
            (None, Some(DType::BF16)) if !merged => Held::Halves(Half::Bf16),
            (None, _) => Held::Floats,
        }
    }

    /// Numbers in all tensors.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|(_, entry)| entry.numbers()).sum()
    }

    /// Whether there is a tensor of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Checks that every tensor that the model needs is there, in the right
    /// shape and in a type that can be read, and that an adapter fits them.
    ///
    /// # Errors
    /// Naming the first tensor that is not.
    pub fn check(&self, config: &ModelConfig) -> Result<(), LoadError> {
        for (name, shape) in Model::tensors(config) {
            let Some((shard, entry)) = self.tensors.get(&name) else {
                return Err(LoadError::Weights(format!("cannot find tensor {name}")));
            };
            let file = self.shards[*shard].name();
            if entry.shape != shape {
                let found = &entry.shape;
                return Err(LoadError::Weights(format!(
                    "{name} in {file} has the shape {found:?}, and the model's configuration asks for {shape:?}"
                )));
            }
            let matrix = shape.len() == 2;
            if entry.dtype().is_none() && (entry.quant.is_none() || !matrix) {
                let found = &entry.kind;
                let mut supported = String::from("F32, F16 and BF16");
                if matrix && self.shards[*shard].is_gguf() {
                    let blocks = QuantType::ALL.map(QuantType::name);
                    supported.push_str(", and blocks of ");
                    supported.push_str(&blocks.join(", "));
                }
                return Err(LoadError::Weights(format!(
                    "{name} in {file} is {found}; supported are {supported}"
                )));
            }
        }
        self.adapter.as_ref().map_or(Ok(()), |adapter| adapter.check(config))
    }

    /// Reads the weights into a model, telling `progress` how many bytes of how
    /// many are done.
    ///
    /// # Errors
    /// When they do not fit the configuration, or a file cannot be read.
    pub fn load(self, config: ModelConfig, progress: &mut dyn FnMut(u64, u64)) -> Result<Model, LoadError> {
        self.check(&config)?;
        let total = self.bytes();
        progress(0, total);
        let mix = self.mix(&config);
        let model = Model::load(config, &mut Reader { mix, ..Reader::new(self, progress) })?;
        progress(total, total);
        Ok(model)
    }

    fn find(&self, name: &str) -> Result<(&Shard, &Entry), LoadError> {
        match self.tensors.get(name) {
            Some((shard, entry)) => Ok((&self.shards[*shard], entry)),
            None => Err(LoadError::Weights(format!("cannot find tensor {name}"))),
        }
    }
}

/// What a matrix is held in.
#[derive(Debug, Clone, Copy)]
enum Held {
    Floats,
    Halves(Half),
    Blocks(QuantType),
}

impl Held {
    /// Bytes of an `[n, k]` matrix in memory.
    fn bytes(self, n: u64, k: u64) -> u64 {
        let floats = |size: usize| n.saturating_mul(k).saturating_mul(size as u64);
        match self {
            Self::Floats => floats(size_of::<f32>()),
            Self::Halves(_) => floats(size_of::<u16>()),
            Self::Blocks(kind) => kind.bytes(n, k),
        }
    }
}

/// Reads tensors for the model that is being built.
pub(super) struct Reader<'a> {
    weights: Weights,
    mix: Option<Mix>,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
}

impl<'a> Reader<'a> {
    fn new(weights: Weights, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        Self { weights, mix: None, progress, done: 0 }
    }

    /// The numbers of a small tensor.
    pub(super) fn floats(&mut self, name: &str) -> Result<Vec<f32>, LoadError> {
        let (_, entry) = self.weights.find(name)?;
        let rows = entry.shape.first().copied().unwrap_or(1);
        self.rows(name, 0..rows)
    }

    /// A matrix `[n, k]`, laid out for the kernels piece by piece.
    pub(super) fn matrix(&mut self, name: &str, (n, k): (usize, usize)) -> Result<Matrix, LoadError> {
        let (_, entry) = self.weights.find(name)?;
        let (own, interleaved) = (entry.quant, entry.interleaved);
        let held = self.weights.held(name, k, self.mix);
        // Pieces are whole panels, and whole heads where these are reordered.
        let whole = interleaved.map_or(PANEL, |head| head / gcd(head, PANEL) * PANEL);
        let step = (PIECE / (size_of::<f32>() * k.max(1)) / whole).max(1) * whole;
        let pieces = (0..n).step_by(step).map(|row| row..n.min(row + step));
        match held {
            Held::Floats => {
                let mut packed = Packed::zeros(n, k);
                for rows in pieces {
                    packed.set_rows(rows.start, &self.rows(name, rows)?);
                }
                Ok(Matrix::Floats(packed))
            }
            Held::Halves(half) => {
                let mut halves = Halves::zeros(half, n, k);
                for rows in pieces {
                    halves.set_rows(rows.start, &self.raw(name, rows)?);
                }
                Ok(Matrix::Halves(halves))
            }
            Held::Blocks(kind) => {
                let mut quantised = Quantised::zeros(kind, n, k);
                for rows in pieces {
                    let first = rows.start;
                    let bytes = match own {
                        Some(_) => self.raw(name, rows)?,
                        None => quantise(kind, &self.rows(name, rows)?, k)?.into(),
                    };
                    quantised.set_rows(first, &bytes);
                }
                Ok(Matrix::Quantised(quantised))
            }
        }
    }

    /// Some rows of a tensor, in f32, with what the adapter adds to them.
    fn rows(&mut self, name: &str, rows: Range<usize>) -> Result<Vec<f32>, LoadError> {
        let bytes = self.raw(name, rows.clone())?;
        let (_, entry) = self.weights.find(name)?;
        let mut numbers = numbers(name, entry, &bytes)?;
        if let Some(adapter) = &self.weights.adapter {
            adapter.merge(name, rows, &mut numbers)?;
        }
        Ok(numbers)
    }

    /// The bytes of some rows of a tensor, in the order that the kernels expect.
    fn raw(&mut self, name: &str, rows: Range<usize>) -> Result<Cow<'static, [u8]>, LoadError> {
        let (shard, entry) = self.weights.find(name)?;
        let row = entry.bytes() / entry.shape.first().copied().unwrap_or(1).max(1) as u64;
        let bytes = shard.read(entry, rows.start as u64 * row..rows.end as u64 * row)?;
        let bytes = match entry.interleaved {
            Some(head) => Cow::Owned(in_halves(&bytes, bytes.len() / rows.len().max(1), head)),
            None => bytes,
        };
        self.done += bytes.len() as u64;
        (self.progress)(self.done, self.weights.bytes());
        Ok(bytes)
    }
}

/// The numbers that bytes of a tensor are.
fn numbers(name: &str, entry: &Entry, bytes: &[u8]) -> Result<Vec<f32>, LoadError> {
    let dtype =
        entry.dtype().ok_or_else(|| LoadError::Weights(format!("{name} is {}, not a float", entry.kind)))?;
    let count = bytes.len() / dtype.size_in_bytes();
    Tensor::from_raw_buffer(bytes, dtype, &[count], &Device::Cpu)
        .and_then(|tensor| tensor.to_dtype(DType::F32)?.to_vec1())
        .map_err(|cause| failed(&cause))
}

/// Rows of `row` bytes of whole heads in which the two halves' rows alternate,
/// with the halves one behind the other.
fn in_halves(bytes: &[u8], row: usize, head: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks((row * head).max(1)) {
        for side in 0..2 {
            head.chunks_exact(row.max(1)).skip(side).step_by(2).for_each(|row| out.extend_from_slice(row));
        }
    }
    out
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn failed(cause: &candle_core::Error) -> LoadError {
    LoadError::Weights(cause.to_string())
}

#[cfg(test)]
mod tests;
