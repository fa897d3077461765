//! Reads keys of a JSON object and says exactly which one is wrong.

use super::LoadError;
use serde_json::{Map, Value};

/// A JSON object with the path that led to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys<'a> {
    /// Where the object stands.
    file: &'static str,
    /// Empty, or the path with a dot behind it.
    path: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// The keys of an object. `path` is empty at the top, else it ends in a dot.
    pub(crate) fn new(path: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file: "config.json", path, map }
    }

    /// The keys of another file than `config.json`.
    pub(crate) fn of_file(file: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { file, path: "", map }
    }

    /// The keys of an object within this one; `path` ends in a dot.
    pub(crate) fn inner(&self, path: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file: self.file, path, map }
    }

    /// A value; `null` means absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is written down, be it as `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The refusal of a key's value.
    pub(crate) fn unsupported(&self, key: &str, supported: &'static str) -> LoadError {
        let found = match self.map.get(key) {
            None => "(absent)".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        LoadError::Unsupported { file: self.file, key: format!("{}{key}", self.path), found, supported }
    }

    /// A whole number of at least `least`.
    pub(crate) fn count(&self, key: &str, least: usize) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Whole numbers are written with a decimal point now and then.
        let whole = value.as_u64().or_else(|| {
            let float = value.as_f64()?;
            (float.fract() == 0.0 && (0.0..=9e15).contains(&float)).then_some(float as u64)
        });
        match whole.and_then(|n| usize::try_from(n).ok()) {
            // Sizes are multiplied with each other; no model comes near this.
            Some(n) if (least..=usize::try_from(u32::MAX).unwrap_or(usize::MAX)).contains(&n) => Ok(Some(n)),
            _ if least == 0 => Err(self.unsupported(key, "a whole number of at least 0, in 32 bits")),
            _ => Err(self.unsupported(key, "a whole number of at least 1, in 32 bits")),
        }
    }

    /// A count that must be there.
    pub(crate) fn needed(&self, key: &str) -> Result<usize, LoadError> {
        self.count(key, 1)?.ok_or_else(|| self.unsupported(key, "a whole number of at least 1, in 32 bits"))
    }

    /// A finite number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number < f64::from(f32::MAX) => Ok(Some(number)),
            _ => Err(self.unsupported(key, "a number above 0")),
        }
    }

    /// A boolean.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.unsupported(key, "true or false"))
    }

    /// A string.
    pub(crate) fn text(&self, key: &str, supported: &'static str) -> Result<Option<&'a str>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.unsupported(key, supported))
    }
}
