//! Reads JSON values and says exactly what is wrong with them.
//!
//! A [`Field`] is a value with the path that led to it, an [`Object`] a map with
//! its path. Every reader returns either the value or the error that a client
//! gets, so that no caller formats paths or bounds by itself.

use crate::http::error::FieldError;
use serde_json::{Map, Number, Value};

/// The longest piece of a client's value that a message quotes, in characters.
const QUOTED: usize = 64;

/// 2^53. Past it some whole numbers share a double with others, so what was read
/// need not be what was written.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A value and the path that led to it.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    pub(super) value: &'a Value,
}

/// A map and the path that led to it; the path of the body itself is empty.
#[derive(Debug, Clone)]
pub(super) struct Object<'a> {
    pub(super) path: String,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The path of a key.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A field that may be missing; `null` means the same.
    pub(super) fn optional(&self, key: &str) -> Option<Field<'a>> {
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(Field { path: self.path_of(key), value })
    }

    /// A field that must be there.
    pub(super) fn required(&self, key: &str) -> Result<Field<'a>, FieldError> {
        self.optional(key).ok_or_else(|| {
            let param = self.path_of(key);
            let message = format!("Missing required parameter: '{param}'.");
            FieldError { param, code: "missing_required_parameter", message }
        })
    }

    /// An optional boolean.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, FieldError> {
        self.optional(key).map(|field| field.boolean()).transpose()
    }

    /// An optional integer within bounds, both included.
    pub(super) fn integer(&self, key: &str, min: i64, max: i64) -> Result<Option<i64>, FieldError> {
        self.optional(key).map(|field| field.integer(min, max)).transpose()
    }

    /// An optional count of at least `min`. What no `u32` holds is more than
    /// any context, so it is clamped and not refused.
    pub(super) fn count(&self, key: &str, min: i64) -> Result<Option<u32>, FieldError> {
        let count = self.integer(key, min, i64::MAX)?;
        Ok(count.map(|count| u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// An optional number within bounds, both included.
    pub(super) fn decimal(&self, key: &str, min: f64, max: f64) -> Result<Option<f64>, FieldError> {
        self.optional(key).map(|field| field.decimal(min, max)).transpose()
    }

    /// An optional string out of a closed list.
    pub(super) fn choice(
        &self,
        key: &str,
        names: &[&'static str],
    ) -> Result<Option<&'static str>, FieldError> {
        self.optional(key).map(|field| field.choice(names)).transpose()
    }

    /// Refuses every key that is not listed.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), FieldError> {
        match self.map.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let param = self.path_of(&quoted(key));
                let message = format!("Unknown parameter: '{param}'.");
                Err(FieldError { param, code: "unknown_parameter", message })
            }
        }
    }
}

impl<'a> Field<'a> {
    /// An error about this field.
    pub(super) fn error(&self, code: &'static str, message: String) -> FieldError {
        FieldError { param: self.path.clone(), code, message }
    }

    /// An error: the value has another type than `expected`.
    pub(super) fn wrong_type(&self, expected: &str) -> FieldError {
        let message = format!(
            "Invalid type for '{}': expected {expected}, but got {} instead.",
            self.path,
            kind(self.value)
        );
        self.error("invalid_type", message)
    }

    /// An error: the value breaks a rule; `why` completes the sentence.
    pub(super) fn invalid(&self, why: &str) -> FieldError {
        self.error("invalid_value", format!("Invalid value for '{}': {why}", self.path))
    }

    /// An error: the number is not above 0.
    pub(super) fn not_above_zero(&self) -> FieldError {
        let message = format!(
            "Invalid '{}': decimal below minimum value. Expected a value > 0, but got {} instead.",
            self.path, self.value
        );
        self.error("decimal_below_min_value", message)
    }

    /// An error: the field would change the answer and is not served yet.
    pub(super) fn unserved(&self, why: &str) -> FieldError {
        let message =
            format!("Unsupported parameter: '{}' is not supported with this model{why}.", self.path);
        self.error("unsupported_parameter", message)
    }

    /// An error: the value is none of the names.
    pub(super) fn none_of(&self, value: &str, names: &[&str]) -> FieldError {
        let value = quoted(value);
        self.invalid(&format!("'{value}'. Supported values are: {}.", listed(names)))
    }

    pub(super) fn string(&self) -> Result<&'a str, FieldError> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// A string of at least one character.
    pub(super) fn nonempty(&self) -> Result<&'a str, FieldError> {
        let text = self.string()?;
        if !text.is_empty() {
            return Ok(text);
        }
        let message = format!(
            "Invalid '{}': empty string. Expected a string with minimum length 1, but got an empty string \
             instead.",
            self.path
        );
        Err(self.error("empty_string", message))
    }

    /// A string of at most `max` characters.
    pub(super) fn short_string(&self, max: usize) -> Result<&'a str, FieldError> {
        let text = self.string()?;
        let length = text.chars().count();
        if length <= max {
            return Ok(text);
        }
        let message = format!(
            "Invalid '{}': string too long. Expected a string with maximum length {max}, but got a string with \
             length {length} instead.",
            self.path
        );
        Err(self.error("string_above_max_length", message))
    }

    pub(super) fn boolean(&self) -> Result<bool, FieldError> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("a boolean"))
    }

    /// A whole number within bounds, both included.
    pub(super) fn integer(&self, min: i64, max: i64) -> Result<i64, FieldError> {
        let Value::Number(number) = self.value else {
            return Err(self.wrong_type("an integer"));
        };
        let value = whole(number).ok_or_else(|| self.wrong_type("an integer"))?;
        let (code, side, sign, bound) = if value < i128::from(min) {
            ("integer_below_min_value", "below minimum", ">=", min)
        } else if value > i128::from(max) {
            ("integer_above_max_value", "above maximum", "<=", max)
        } else {
            return i64::try_from(value).map_err(|_| self.wrong_type("an integer"));
        };
        let message = format!(
            "Invalid '{}': integer {side} value. Expected a value {sign} {bound}, but got {number} instead.",
            self.path
        );
        Err(self.error(code, message))
    }

    /// A number within bounds, both included.
    pub(super) fn decimal(&self, min: f64, max: f64) -> Result<f64, FieldError> {
        let Some(value) = self.value.as_f64() else {
            return Err(self.wrong_type("a decimal number"));
        };
        let (code, side, sign, bound) = if value < min {
            ("decimal_below_min_value", "below minimum", ">=", min)
        } else if value > max {
            ("decimal_above_max_value", "above maximum", "<=", max)
        } else {
            return Ok(value);
        };
        let message = format!(
            "Invalid '{}': decimal {side} value. Expected a value {sign} {bound}, but got {} instead.",
            self.path, self.value
        );
        Err(self.error(code, message))
    }

    /// A string out of a closed list.
    pub(super) fn choice(&self, names: &[&'static str]) -> Result<&'static str, FieldError> {
        let text = self.string()?;
        names.iter().find(|name| **name == text).copied().ok_or_else(|| self.none_of(text, names))
    }

    /// A map.
    pub(super) fn object(&self) -> Result<Object<'a>, FieldError> {
        let map = self.value.as_object().ok_or_else(|| self.wrong_type("an object"))?;
        Ok(Object { path: self.path.clone(), map })
    }

    /// An array of 1 to `max` elements; `expected` is said of values that are no arrays.
    pub(super) fn array(&self, max: usize, expected: &str) -> Result<Vec<Field<'a>>, FieldError> {
        let Value::Array(items) = self.value else {
            return Err(self.wrong_type(expected));
        };
        let (path, length) = (&self.path, items.len());
        if length == 0 {
            let message = format!(
                "Invalid '{path}': empty array. Expected an array with minimum length 1, but got an empty array \
                 instead."
            );
            return Err(self.error("empty_array", message));
        }
        if length > max {
            let message = format!(
                "Invalid '{path}': array too long. Expected an array with maximum length {max}, but got an array \
                 with length {length} instead."
            );
            return Err(self.error("array_above_max_length", message));
        }
        let field = |(i, value)| Field { path: format!("{path}[{i}]"), value };
        Ok(items.iter().enumerate().map(field).collect())
    }
}

/// A number without a fraction, however it is spelt: to JSON Schema `100.0` is an
/// integer, and some clients' numbers are all doubles.
#[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is below 2^53")]
fn whole(number: &Number) -> Option<i128> {
    let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    if integer.is_some() {
        return integer;
    }
    let value = number.as_f64().filter(|value| value.fract() == 0.0)?;
    // Those past 64 bits arrive as floating point: too large, not of the wrong type.
    match value.abs() {
        ..=EXACT => Some(value as i128),
        9.2e18.. if value > 0.0 => Some(i128::MAX),
        9.2e18.. => Some(i128::MIN),
        _ => None,
    }
}

/// A JSON type with its article.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Text of the client's as far as a message repeats it.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// `'a', 'b', and 'c'`.
fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, [first])) => format!("{first} and {last}"),
        Some((last, rest)) => format!("{}, and {last}", rest.join(", ")),
    }
}
