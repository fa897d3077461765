//! One safetensors file: its header, and reads of parts of it.
//!
//! The format is eight bytes with the header's length, little-endian, a JSON
//! object that gives each tensor its type, shape and place, and the tensors
//! themselves (huggingface/safetensors, README, "Format"). The header is parsed
//! here because the library wants the whole file in memory or mapped for that,
//! and says of a file that is cut off neither its name nor what is missing.

use super::super::config::LoadError;
use super::super::quant::QuantType;
use crate::engine::rng;
use candle_core::DType;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest header: the format's own limit, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// A file with tensors.
#[derive(Debug)]
pub(in super::super) struct Shard {
    name: String,
    source: Source,
    /// Where the tensors begin.
    data: u64,
    entries: Vec<(String, Entry)>,
}

#[derive(Debug)]
enum Source {
    Embedded(&'static [u8]),
    /// Locked while it is read: a file has one place where it is read from.
    File(Mutex<File>),
    /// Numbers of a type that are made up: ones up to this place, then noise.
    Noise(DType, u64),
}

/// One tensor, as a header describes it.
#[derive(Debug, Clone, Deserialize)]
pub(in super::super) struct Entry {
    /// The name of its type.
    #[serde(rename = "dtype")]
    pub kind: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its place behind the header, in bytes: from, to.
    data_offsets: (u64, u64),
    /// Floats of a head, where its two halves' rows alternate as in GGUF's Llama.
    #[serde(skip)]
    pub interleaved: Option<usize>,
    /// Its block format, where it is quantised.
    #[serde(skip)]
    pub quant: Option<QuantType>,
}

impl Entry {
    /// A tensor of a GGUF file, whose head was checked.
    pub(in super::super) fn of_gguf(
        kind: &str,
        shape: Vec<usize>,
        (data_offsets, interleaved): ((u64, u64), Option<usize>),
    ) -> Self {
        Self { kind: kind.to_owned(), shape, data_offsets, interleaved, quant: QuantType::parse(kind) }
    }

    /// Its size on disk.
    pub(in super::super) fn bytes(&self) -> u64 {
        self.data_offsets.1 - self.data_offsets.0
    }

    /// Its numbers, as its shape says.
    pub(super) fn numbers(&self) -> u64 {
        self.shape.iter().fold(1, |product, &side| product.saturating_mul(side as u64))
    }

    /// The type of its numbers, where it is one that weights may have.
    pub(super) fn dtype(&self) -> Option<DType> {
        match self.kind.as_str() {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::BF16),
            _ => None,
        }
    }

    /// Whether its place holds its shape, within `data` bytes.
    fn fits(&self, data: u64) -> bool {
        let (from, to) = self.data_offsets;
        let count = self.shape.iter().try_fold(1u64, |n, side| n.checked_mul(*side as u64));
        let bytes = match (count, self.dtype()) {
            (Some(count), Some(dtype)) => count.checked_mul(dtype.size_in_bytes() as u64),
            // A type that nothing here reads: its size is its own business.
            (Some(_), None) => to.checked_sub(from),
            (None, _) => None,
        };
        from <= to && to <= data && bytes == Some(to - from)
    }
}

impl Shard {
    /// A file that is part of the program.
    pub(super) fn embedded(bytes: &'static [u8]) -> Result<Self, LoadError> {
        Self::new("model.safetensors", Source::Embedded(bytes))
    }

    /// A file of a directory.
    pub(super) fn open(directory: &Path, name: &str) -> Result<Self, LoadError> {
        match File::open(directory.join(name)) {
            Ok(file) => Self::new(name, Source::File(Mutex::new(file))),
            Err(cause) => Err(LoadError::Weights(format!("{name} cannot be read: {cause}"))),
        }
    }

    /// A GGUF file whose tensors begin at `data`; its head was read elsewhere.
    pub(in super::super) fn gguf(path: &Path, data: u64) -> Result<Self, LoadError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match File::open(path) {
            Ok(file) => Ok(Self { name, source: Source::File(Mutex::new(file)), data, entries: Vec::new() }),
            Err(cause) => Err(LoadError::Weights(format!("{name} cannot be read: {cause}"))),
        }
    }

    fn new(name: &str, source: Source) -> Result<Self, LoadError> {
        let broken = |why: String| LoadError::Weights(format!("{name} {why}"));
        let length = source.length().map_err(|cause| broken(format!("cannot be read: {cause}")))?;
        let header =
            source.read(0..length.min(8)).map_err(|cause| broken(format!("cannot be read: {cause}")))?;
        let Ok(header) = <[u8; 8]>::try_from(header.as_ref()) else {
            return Err(broken(format!(
                "is cut off: it has {length} bytes and a header takes more; download it again"
            )));
        };
        let header = u64::from_le_bytes(header);
        if header > LONGEST_HEADER {
            return Err(broken(
                "is no safetensors file (a Git LFS pointer, or a page of a proxy?); download it again"
                    .to_owned(),
            ));
        }
        let data = 8 + header;
        if length < data {
            return Err(broken(format!(
                "is cut off: it has {length} bytes and its header alone takes {data}; download it again"
            )));
        }
        let json = source.read(8..data).map_err(|cause| broken(format!("cannot be read: {cause}")))?;
        let entries = entries(&json).map_err(|cause| broken(format!("has a broken header: {cause}")))?;
        let end = entries.iter().map(|(_, entry)| entry.data_offsets.1).max().unwrap_or(0);
        let needed = data.saturating_add(end);
        if length != needed {
            let what = if length < needed { "cut off" } else { "longer than it should be" };
            return Err(broken(format!(
                "is {what}: it has {length} bytes and its header asks for {needed}; download it again"
            )));
        }
        if let Some((tensor, _)) = entries.iter().find(|(_, entry)| !entry.fits(end)) {
            return Err(broken(format!("has a broken header: {tensor} does not fit its place")));
        }
        Ok(Self { name: name.to_owned(), source, data, entries })
    }

    /// A file of made-up numbers, in BF16 or F32, that holds the tensors of these
    /// names and shapes.
    pub(super) fn noise(dtype: DType, tensors: impl Iterator<Item = (String, Vec<usize>)>) -> Self {
        let kind = if dtype == DType::BF16 { "BF16" } else { "F32" };
        let (norms, others): (Vec<_>, Vec<_>) = tensors.partition(|(name, _)| name.ends_with("norm.weight"));
        let count = norms.len();
        let (mut entries, mut place, mut ones) = (Vec::new(), 0, 0);
        for (index, (name, shape)) in norms.into_iter().chain(others).enumerate() {
            let from = place;
            place += (shape.iter().product::<usize>() * dtype.size_in_bytes()) as u64;
            ones = if index < count { place } else { ones };
            entries.push((
                name,
                Entry {
                    kind: kind.to_owned(),
                    shape,
                    data_offsets: (from, place),
                    interleaved: None,
                    quant: None,
                },
            ));
        }
        Self { name: "random weights".to_owned(), source: Source::Noise(dtype, ones), data: 0, entries }
    }

    /// Whether it is a GGUF file.
    pub(super) fn is_gguf(&self) -> bool {
        self.name.to_ascii_lowercase().ends_with(".gguf")
    }

    /// The file's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The tensors, once.
    pub(super) fn take_entries(&mut self) -> Vec<(String, Entry)> {
        std::mem::take(&mut self.entries)
    }

    /// Some bytes of a tensor.
    pub(in super::super) fn read(
        &self,
        entry: &Entry,
        part: Range<u64>,
    ) -> Result<Cow<'static, [u8]>, LoadError> {
        let from = self.data + entry.data_offsets.0;
        self.source
            .read(from + part.start..from + part.end)
            .map_err(|cause| LoadError::Weights(format!("{} cannot be read: {cause}", self.name)))
    }
}

impl Source {
    fn length(&self) -> std::io::Result<u64> {
        match self {
            Source::Embedded(bytes) => Ok(bytes.len() as u64),
            Source::File(file) => Ok(lock(file).metadata()?.len()),
            Source::Noise(..) => Ok(u64::MAX),
        }
    }

    fn read(&self, range: Range<u64>) -> std::io::Result<Cow<'static, [u8]>> {
        let too_far = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        match self {
            Source::Embedded(bytes) => {
                let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                let part = range.and_then(|(from, to)| bytes.get(from..to)).ok_or_else(too_far)?;
                Ok(Cow::Borrowed(part))
            }
            Source::File(file) => {
                let length = usize::try_from(range.end - range.start).map_err(|_| too_far())?;
                let mut part = vec![0; length];
                let mut file = lock(file);
                file.seek(SeekFrom::Start(range.start))?;
                file.read_exact(&mut part)?;
                Ok(Cow::Owned(part))
            }
            Source::Noise(dtype, ones) => {
                let number = |place: u64| match place < *ones {
                    true => 1.0,
                    false => (rng::uniform(0, place) as f32 - 0.5) * 0.1,
                };
                let size = dtype.size_in_bytes();
                let numbers = range.step_by(size).map(|place| number(place).to_le_bytes());
                // The upper half of a float is one of BF16.
                Ok(Cow::Owned(numbers.flat_map(|bytes| bytes.into_iter().skip(bytes.len() - size)).collect()))
            }
        }
    }
}

/// The file. A reader that panicked has left nothing behind but the place, which
/// every reader sets anew.
fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

fn entries(json: &[u8]) -> Result<Vec<(String, Entry)>, serde_json::Error> {
    let map: Map<String, Value> = serde_json::from_slice(json)?;
    let tensors = map.into_iter().filter(|(name, _)| name != "__metadata__");
    tensors.map(|(name, entry)| Ok((name, serde_json::from_value(entry)?))).collect()
}
