//! A LoRA adapter, merged into the matrices that it changes while they are read.
//!
//! The format is PEFT's: `adapter_config.json`, and `adapter_model.safetensors`
//! with two tensors for every module that was trained, called
//! `base_model.model.<module>` with `.lora_A.weight` (`[r, k]`) and
//! `.lora_B.weight` (`[n, r]`) behind it. The module's matrix becomes
//! W + s B A, where s is alpha / r (Hu et al., arXiv 2106.09685), or
//! alpha / sqrt(r) with `use_rslora` (Kalajdzievski, arXiv 2312.03732). That is
//! computed in f32, from the first to the last row of A, and before anything is
//! quantised.
//!
//! A key whose value would change the result otherwise is refused by its name,
//! and so is a tensor that is not used. Keys that tell how an adapter was trained
//! are ignored; so is `fan_in_fan_out`, which is about layers that no supported
//! architecture has, and which PEFT takes back for linear ones.
//!
//! Deliberately absent: several adapters at once, and adapters that requests
//! choose from.

use super::super::config::{Keys, LoadError, ModelConfig};
use super::super::model::Model;
use super::numbers;
use super::shard::{Entry, Shard};
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

/// The file that says what an adapter is.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The file with its tensors.
pub const ADAPTER: &str = "adapter_model.safetensors";

/// Keys of what goes beyond W + s B A, or applies it to some tokens only.
const BEYOND: [&str; 12] = [
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "use_qalora",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
];

/// Ways to begin that leave the base's weights alone; PEFT repeats the others on
/// the base when it loads the adapter.
const BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// `adapter_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// The model that it changes: an id of the hub, or a directory.
    pub base: String,
    /// The base's revision, where it names one.
    pub revision: Option<String>,
    rank: usize,
    alpha: f64,
    /// Whether the scale falls with the root of the rank.
    rooted: bool,
    /// Modules with a rank or an alpha of their own, the first that fits first.
    ranks: Vec<(String, usize)>,
    alphas: Vec<(String, f64)>,
}

impl AdapterConfig {
    /// Reads an `adapter_config.json`.
    ///
    /// # Errors
    /// When it is no JSON object, or asks for something that cannot be merged.
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        let map: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|cause| LoadError::Json { file: ADAPTER_CONFIG.to_owned(), cause: cause.to_string() })?;
        let keys = Keys::of_file(ADAPTER_CONFIG, &map);
        if keys.text("peft_type", "LORA")? != Some("LORA") {
            return Err(keys.unsupported("peft_type", "LORA"));
        }
        if let Some(key) = BEYOND.into_iter().find(|key| keys.get(key).is_some_and(|value| !says_no(value))) {
            return Err(keys.unsupported(key, "null, false or empty"));
        }
        if !matches!(keys.text("bias", "none")?, None | Some("none")) {
            return Err(keys.unsupported("bias", "none"));
        }
        match keys.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(begins)) if BEGINNINGS.contains(&begins.as_str()) => {}
            Some(_) => {
                return Err(keys.unsupported("init_lora_weights", "true, false, gaussian, eva, orthogonal"));
            }
        }
        const BASE: &str = "the id or the directory of the model that was trained on";
        let base = keys.text("base_model_name_or_path", BASE)?.filter(|base| !base.is_empty());
        let base = base.ok_or_else(|| keys.unsupported("base_model_name_or_path", BASE))?;
        let alpha = keys.positive("lora_alpha")?;
        Ok(Self {
            base: base.to_owned(),
            revision: keys.text("revision", "a branch, a tag or a commit")?.map(str::to_owned),
            rank: keys.needed("r")?,
            alpha: alpha.ok_or_else(|| keys.unsupported("lora_alpha", "a number above 0"))?,
            rooted: keys.flag("use_rslora")?.unwrap_or(false),
            ranks: pattern(&keys, "rank_pattern", |inner, module| inner.needed(module))?,
            alphas: pattern(&keys, "alpha_pattern", |inner, module| {
                let alpha = inner.positive(module)?;
                alpha.ok_or_else(|| inner.unsupported(module, "a number above 0"))
            })?,
        })
    }

    fn rank(&self, module: &str) -> usize {
        first(&self.ranks, module).unwrap_or(self.rank)
    }

    /// What B A is multiplied with.
    fn scale(&self, module: &str) -> f32 {
        let (rank, alpha) = (self.rank(module) as f64, first(&self.alphas, module).unwrap_or(self.alpha));
        (alpha / if self.rooted { rank.sqrt() } else { rank }) as f32
    }
}

/// Whether a value means that something is not in use.
fn says_no(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    }
}

/// The modules of a pattern with their values. PEFT takes keys for regular
/// expressions; served are those that are names, as they are written in practice.
fn pattern<T>(
    keys: &Keys<'_>,
    key: &'static str,
    read: impl Fn(&Keys<'_>, &str) -> Result<T, LoadError>,
) -> Result<Vec<(String, T)>, LoadError> {
    let map = match keys.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(keys.unsupported(key, "an object with modules as keys")),
    };
    let path = format!("{key}.");
    let inner = keys.inner(&path, map);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let entry = |module: &String| {
        if !module.strip_prefix('^').unwrap_or(module).chars().all(plain) {
            return Err(inner.unsupported(module, "keys that are names of modules or the ends of such"));
        }
        Ok((module.clone(), read(&inner, module)?))
    };
    map.keys().map(entry).collect()
}

/// The value of the first key that is the module's name or, unless it begins with
/// `^`, the last parts of it.
fn first<T: Copy>(pattern: &[(String, T)], module: &str) -> Option<T> {
    let fits = |key: &str| match key.strip_prefix('^') {
        Some(whole) => module == whole,
        None => module.strip_suffix(key).is_some_and(|front| front.is_empty() || front.ends_with('.')),
    };
    pattern.iter().find(|(key, _)| fits(key)).map(|(_, value)| *value)
}

/// The tensors of an adapter: headers in memory, numbers on disk.
#[derive(Debug)]
pub(super) struct Adapter {
    shard: Shard,
    /// By the tensor that they change.
    pairs: BTreeMap<String, Pair>,
}

/// What is added to one matrix.
#[derive(Debug)]
struct Pair {
    module: String,
    a: Entry,
    b: Entry,
    rank: usize,
    scale: f32,
}

impl Adapter {
    /// Reads the header of a directory's adapter.
    pub(super) fn open(directory: &Path, config: &AdapterConfig) -> Result<Self, LoadError> {
        if !directory.join(ADAPTER).exists() {
            return Err(LoadError::Weights(format!(
                "{ADAPTER} is not there; save the adapter as safetensors"
            )));
        }
        let mut shard = Shard::open(directory, ADAPTER)?;
        let (mut firsts, mut seconds) = (BTreeMap::new(), BTreeMap::new());
        for (name, entry) in shard.take_entries() {
            let module = name.strip_prefix("base_model.model.").unwrap_or_default();
            if let Some(module) = module.strip_suffix(".lora_A.weight") {
                firsts.insert(module.to_owned(), entry);
            } else if let Some(module) = module.strip_suffix(".lora_B.weight") {
                seconds.insert(module.to_owned(), entry);
            } else {
                return Err(LoadError::Weights(format!(
                    "{name} in {ADAPTER} cannot be merged; supported are base_model.model.<module>.lora_A.weight and .lora_B.weight"
                )));
            }
        }
        let mut pairs = BTreeMap::new();
        for (module, a) in firsts {
            let Some(b) = seconds.remove(&module) else { return Err(alone(&module, "A", "B")) };
            let (rank, scale) = (config.rank(&module), config.scale(&module));
            pairs.insert(format!("{module}.weight"), Pair { module, a, b, rank, scale });
        }
        match seconds.into_keys().next() {
            Some(module) => Err(alone(&module, "B", "A")),
            None if pairs.is_empty() => Err(LoadError::Weights(format!("{ADAPTER} holds no tensor"))),
            None => Ok(Self { shard, pairs }),
        }
    }

    /// Checks that every tensor of the adapter goes with one of the model's.
    pub(super) fn check(&self, config: &ModelConfig) -> Result<(), LoadError> {
        let base: HashMap<String, Vec<usize>> = Model::tensors(config).collect();
        for (name, pair) in &self.pairs {
            let said =
                |part: &str| format!("base_model.model.{}.lora_{part}.weight in {ADAPTER}", pair.module);
            let Some(&[n, k]) = base.get(name).map(Vec::as_slice) else {
                let said = said("A");
                return Err(LoadError::Weights(format!(
                    "{said} changes {name}, which the base does not have"
                )));
            };
            let r = pair.rank;
            for (part, entry, shape) in [("A", &pair.a, [r, k]), ("B", &pair.b, [n, r])] {
                let (said, found) = (said(part), &entry.shape);
                if *found != shape {
                    return Err(LoadError::Weights(format!(
                        "{said} has the shape {found:?}, and the base with {ADAPTER_CONFIG} asks for {shape:?}"
                    )));
                }
                if entry.dtype().is_none() {
                    let kind = &entry.kind;
                    return Err(LoadError::Weights(format!(
                        "{said} is {kind}; supported are F32, F16 and BF16"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Whether it changes a tensor.
    pub(super) fn changes(&self, name: &str) -> bool {
        self.pairs.contains_key(name)
    }

    /// Adds what belongs to some rows of a tensor, which are `weights`.
    pub(super) fn merge(&self, name: &str, rows: Range<usize>, weights: &mut [f32]) -> Result<(), LoadError> {
        let Some(pair) = self.pairs.get(name) else { return Ok(()) };
        let a = self.rows(&pair.a, 0..pair.rank)?;
        let b = self.rows(&pair.b, rows)?;
        let k = (a.len() / pair.rank.max(1)).max(1);
        // Rows are independent, so that how they fall to threads changes no bit.
        weights.par_chunks_mut(k).zip(b.par_chunks(pair.rank.max(1))).for_each(|(weights, b)| {
            let mut change = vec![0.0f32; k];
            for (a, b) in a.chunks_exact(k).zip(b) {
                change.iter_mut().zip(a).for_each(|(sum, a)| *sum += a * b);
            }
            weights.iter_mut().zip(change).for_each(|(weight, change)| *weight += pair.scale * change);
        });
        Ok(())
    }

    fn rows(&self, entry: &Entry, rows: Range<usize>) -> Result<Vec<f32>, LoadError> {
        let row = entry.bytes() / entry.shape.first().copied().unwrap_or(1).max(1) as u64;
        let bytes = self.shard.read(entry, rows.start as u64 * row..rows.end as u64 * row)?;
        numbers(ADAPTER, entry, &bytes)
    }
}

/// The refusal of a tensor that lacks its counterpart.
fn alone(module: &str, there: &str, missing: &str) -> LoadError {
    LoadError::Weights(format!(
        "{ADAPTER} holds base_model.model.{module}.lora_{there}.weight and no lora_{missing}.weight for it"
    ))
}

#[cfg(test)]
mod tests;
