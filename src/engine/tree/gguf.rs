//! GGUF files: one file with a model's tensors and everything else about it.
//!
//! The format is ggml's (`docs/gguf.md`): a head with counts, metadata as typed
//! key-value pairs, the tensors' names, shapes, types and places, and the tensors
//! themselves behind the next multiple of the alignment. Versions 2 and 3 are
//! read. The head is parsed here because the library takes every count and length
//! in it at its word and would allocate what a broken file asks for. Split files
//! and big-endian ones are refused; lists that no tokenizer needs are skipped.

mod shape;

use super::config::LoadError;
use super::quant::QuantType;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// The longest text, in bytes: templates are the longest.
const LONGEST_TEXT: u64 = 1 << 24;
/// The longest list: merges are, with a few hundred thousand.
const LONGEST_LIST: u64 = 1 << 24;
/// The most key-value pairs.
const MOST_KEYS: u64 = 1 << 16;
/// The most tensors.
const MOST_TENSORS: u64 = 1 << 20;
/// The most dimensions of a tensor: the format's own limit.
const MOST_DIMENSIONS: u32 = 4;
/// Where tensors begin at multiples of, in bytes, where the file does not say.
const ALIGNMENT: u64 = 32;
/// Lists whose entries are kept begin with this.
const TOKENIZER: &str = "tokenizer.ggml.";

/// The head of a GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    /// Metadata but lists.
    scalars: Map<String, Value>,
    lists: HashMap<String, List>,
    tensors: Vec<TensorInfo>,
    /// Where the tensors begin.
    data: u64,
}

/// A list of metadata.
#[derive(Debug)]
pub enum List {
    /// Texts.
    Texts(Vec<String>),
    /// Whole numbers.
    Wholes(Vec<i64>),
    /// Other numbers.
    Reals(Vec<f32>),
}

/// A tensor as the head describes it.
#[derive(Debug)]
struct TensorInfo {
    name: String,
    /// The longest stride first, as everywhere else.
    shape: Vec<usize>,
    kind: &'static str,
    /// Its place behind the head, in bytes: from, to.
    place: (u64, u64),
}

impl Gguf {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// When it cannot be read, is no GGUF file, or is cut off.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let file = File::open(path).map_err(|cause| LoadError::Gguf(format!("cannot be read: {cause}")))?;
        let length = file.metadata().map_err(|cause| LoadError::Gguf(format!("cannot be read: {cause}")))?;
        let (input, length) = (BufReader::with_capacity(1 << 16, file), length.len());
        Input { inner: input, length, left: length }.head(path)
    }

    /// Metadata that are no lists.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.scalars.get(key)
    }

    /// A list of a tokenizer's metadata.
    #[must_use]
    pub fn list(&self, key: &str) -> Option<&List> {
        self.lists.get(key)
    }
}

/// Types of metadata.
mod kind {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const FLAG: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const LIST: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// The bytes of a head that have not been read.
struct Input<R> {
    inner: R,
    length: u64,
    left: u64,
}

impl<R: Read> Input<R> {
    fn head(mut self, path: &Path) -> Result<Gguf, LoadError> {
        if self.length < 4 || self.take::<4>()? != *b"GGUF" {
            return Err(broken(
                "is no GGUF file (a Git LFS pointer, or a page of a proxy?); download it again",
            ));
        }
        match self.u32()? {
            2 | 3 => {}
            1 => return Err(broken("is of version 1, which is not supported; convert it again")),
            version if version.swap_bytes() < 16 => {
                return Err(broken("is big-endian, which is not supported; convert it again"));
            }
            version => return Err(broken(&format!("is of version {version}; supported are 2 and 3"))),
        }
        let (tensors, keys) = (self.count("tensors", MOST_TENSORS)?, self.count("keys", MOST_KEYS)?);
        let (mut scalars, mut lists) = (Map::new(), HashMap::new());
        for _ in 0..keys {
            let key = self.text()?;
            match self.u32()? {
                kind::LIST => {
                    let list = self.list(&key)?;
                    let shown = match &list {
                        Some(list) => format!("(a list of {})", list.len()),
                        None => "(a list)".to_owned(),
                    };
                    lists.extend(list.map(|list| (key.clone(), list)));
                    scalars.insert(key, Value::from(shown));
                }
                kind => {
                    let value = self.scalar(&key, kind)?;
                    scalars.insert(key, value);
                }
            }
        }
        let mut infos = Vec::new();
        for _ in 0..tensors {
            infos.push(self.tensor()?);
        }
        let alignment = scalars.get("general.alignment").map_or(Some(ALIGNMENT), Value::as_u64);
        let alignment = alignment.filter(|bytes| bytes.is_power_of_two() && *bytes <= 1 << 20);
        let alignment = alignment.ok_or_else(|| broken("has a general.alignment that is no power of two"))?;
        let data = (self.length - self.left).next_multiple_of(alignment);
        let gguf = Gguf { path: path.to_owned(), scalars, lists, tensors: infos, data };
        gguf.whole(self.length)?;
        Ok(gguf)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut bytes = [0; N];
        self.left = self.left.checked_sub(N as u64).ok_or_else(|| self.cut_off())?;
        self.inner.read_exact(&mut bytes).map_err(|cause| unread(&cause))?;
        Ok(bytes)
    }

    fn cut_off(&self) -> LoadError {
        broken(&format!("is cut off within its head: it has {} bytes; download it again", self.length))
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, LoadError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn count(&mut self, what: &str, most: u64) -> Result<u64, LoadError> {
        let count = self.u64()?;
        if count > most {
            return Err(broken(&format!("has a broken head: {count} {what}, and at most {most} are read")));
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<String, LoadError> {
        let length = self.count("bytes of text", LONGEST_TEXT)?;
        self.left = self.left.checked_sub(length).ok_or_else(|| self.cut_off())?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| self.cut_off())?];
        self.inner.read_exact(&mut bytes).map_err(|cause| unread(&cause))?;
        // Tokens of some vocabularies are cut within a character.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn scalar(&mut self, key: &str, kind: u32) -> Result<Value, LoadError> {
        Ok(match kind {
            kind::F32 => Value::from(f32::from_le_bytes(self.take()?)),
            kind::F64 => Value::from(f64::from_le_bytes(self.take()?)),
            kind::FLAG => Value::from(self.take::<1>()? != [0]),
            kind::TEXT => Value::from(self.text()?),
            kind::U64 => Value::from(self.u64()?),
            _ => Value::from(self.whole(key, kind)?),
        })
    }

    fn whole(&mut self, key: &str, kind: u32) -> Result<i64, LoadError> {
        Ok(match kind {
            kind::U8 => u8::from_le_bytes(self.take()?).into(),
            kind::I8 => i8::from_le_bytes(self.take()?).into(),
            kind::U16 => u16::from_le_bytes(self.take()?).into(),
            kind::I16 => i16::from_le_bytes(self.take()?).into(),
            kind::U32 => self.u32()?.into(),
            kind::I32 => i32::from_le_bytes(self.take()?).into(),
            kind::I64 => i64::from_le_bytes(self.take()?),
            kind::U64 => i64::try_from(self.u64()?).unwrap_or(i64::MAX),
            _ => {
                return Err(broken(&format!(
                    "has a broken head: {key} is of type {kind}, which there is not"
                )));
            }
        })
    }

    /// A list, which is kept where it is a tokenizer's.
    fn list(&mut self, key: &str) -> Result<Option<List>, LoadError> {
        let kind = self.u32()?;
        let count = self.count("entries of a list", LONGEST_LIST)?;
        if !key.starts_with(TOKENIZER) {
            for _ in 0..count {
                self.scalar(key, kind)?;
            }
            return Ok(None);
        }
        // What is kept grows with what was read, whatever the count says.
        Ok(match kind {
            kind::TEXT => Some(List::Texts((0..count).map(|_| self.text()).collect::<Result<_, _>>()?)),
            kind::F32 => {
                let numbers = (0..count).map(|_| Ok(f32::from_le_bytes(self.take()?)));
                Some(List::Reals(numbers.collect::<Result<_, LoadError>>()?))
            }
            kind::F64 | kind::FLAG => {
                for _ in 0..count {
                    self.scalar(key, kind)?;
                }
                None
            }
            _ => Some(List::Wholes((0..count).map(|_| self.whole(key, kind)).collect::<Result<_, _>>()?)),
        })
    }

    fn tensor(&mut self) -> Result<TensorInfo, LoadError> {
        let name = self.text()?;
        let wrong = |what: &str| broken(&format!("has a broken head: {name} {what}"));
        let dimensions = self.u32()?;
        if dimensions == 0 || dimensions > MOST_DIMENSIONS {
            return Err(wrong(&format!("has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let side = usize::try_from(self.u64()?).ok().filter(|side| *side > 0);
            shape.push(side.ok_or_else(|| wrong("has a side of no length"))?);
        }
        shape.reverse();
        let kind = type_name(self.u32()?).ok_or_else(|| wrong("is of a type that is not known"))?;
        let offset = self.u64()?;
        let numbers = shape.iter().try_fold(1u64, |n, side| n.checked_mul(*side as u64));
        let (block, bytes) = size(kind).unwrap_or((1, 0));
        let numbers = numbers.filter(|_| shape.last().is_some_and(|row| row.is_multiple_of(block)));
        let size = numbers.and_then(|numbers| (numbers / block as u64).checked_mul(bytes as u64));
        let end = size.and_then(|size| size.checked_add(offset));
        let end = end.ok_or_else(|| wrong(&format!("of {kind} cannot have the shape {shape:?}")))?;
        Ok(TensorInfo { name, shape, kind, place: (offset, end) })
    }
}

impl Gguf {
    /// Checks that the file holds all of its tensors, and all of the model's.
    fn whole(&self, length: u64) -> Result<(), LoadError> {
        if let Some(count) = self.get("split.count").and_then(Value::as_u64).filter(|count| *count > 1) {
            return Err(broken(&format!(
                "is one of {count} parts, which is not supported; join them with `llama-gguf-split --merge`"
            )));
        }
        let end = self.tensors.iter().map(|tensor| tensor.place.1).max();
        // Without tensors nothing needs to follow the head, not even its padding.
        let needed = end.map_or(0, |end| end.saturating_add(self.data));
        if length < needed {
            return Err(broken(&format!(
                "is cut off: it has {length} bytes and its head asks for {needed}; download it again"
            )));
        }
        Ok(())
    }
}

impl List {
    fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Wholes(numbers) => numbers.len(),
            Self::Reals(numbers) => numbers.len(),
        }
    }
}

fn broken(why: &str) -> LoadError {
    LoadError::Gguf(why.to_owned())
}

fn unread(cause: &std::io::Error) -> LoadError {
    LoadError::Gguf(format!("cannot be read: {cause}"))
}

/// GGML's name of a tensor's type.
fn type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        8 => "Q8_0",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        30 => "BF16",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

/// Numbers in a block of a type that is read, and its bytes.
fn size(kind: &str) -> Option<(usize, usize)> {
    match kind {
        "F32" => Some((1, 4)),
        "F16" | "BF16" => Some((1, 2)),
        _ => QuantType::parse(kind).map(|kind| (kind.block(), kind.block_bytes())),
    }
}

#[cfg(test)]
mod tests;
