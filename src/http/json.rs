//! A body's JSON as values, of the fields alone that somebody reads.
//!
//! A value takes some hundred bytes, be its text two, so that a body becomes a
//! hundred times as large as it was if all of it is made into values. Fields that
//! nobody knows are therefore only checked, and the others have a bound that no
//! conversation comes near. What is no JSON is refused as [`Value`]'s own reader
//! refuses it, wherever it stands.

use super::error::ApiError;
use super::params::{IGNORED, is_known};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fmt;

/// Values of one body, at most; those of fields that nobody knows do not count.
/// A message has three.
const MOST: usize = 1 << 18;

/// The values of a body; `null` for fields that nobody knows, as many as can be
/// listed.
///
/// # Errors
/// When it is no JSON, or has too many values.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    let left = Cell::new(MOST);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let body = Keep::Known(&left).deserialize(&mut reader);
    let body = body.and_then(|body| reader.end().map(|()| body));
    body.map_err(|error| ApiError::Json(error.to_string()))
}

/// How much of a value is kept, and how many more may be.
#[derive(Clone, Copy)]
enum Keep<'a> {
    /// Of a map the known fields, of any other value its kind.
    Known(&'a Cell<usize>),
    All(&'a Cell<usize>),
    Nothing,
}

impl<'a> Keep<'a> {
    /// What is kept of an item.
    fn of_item(self) -> Keep<'a> {
        if let Keep::All(_) = self { self } else { Keep::Nothing }
    }

    /// What is kept of a field.
    fn of_field(self, key: &str) -> Keep<'a> {
        match self {
            Keep::Known(left) if is_known(key) => Keep::All(left),
            keep => keep.of_item(),
        }
    }

    fn value<E: Error>(self, value: impl Into<Value>) -> Result<Value, E> {
        let (Keep::Known(left) | Keep::All(left)) = self else { return Ok(Value::Null) };
        let Some(fewer) = left.get().checked_sub(1) else {
            return Err(E::custom(format_args!("more than {MOST} values")));
        };
        left.set(fewer);
        Ok(value.into())
    }
}

impl<'de> DeserializeSeed<'de> for Keep<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keep<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.value(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.value(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.value(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.value(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.value(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.value(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.of_item())? {
            if let Keep::All(_) = self {
                items.push(item);
            }
        }
        self.value(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        if let Keep::Nothing = self {
            while access.next_key_seed(self)?.is_some() {
                access.next_value_seed(self)?;
            }
            return Ok(Value::Null);
        }
        let (mut map, mut unknown) = (Map::new(), 0);
        while let Some(key) = access.next_key::<String>()? {
            let keep = self.of_field(&key);
            let value = access.next_value_seed(keep)?;
            if let Keep::Nothing = keep
                && !map.contains_key(&key)
            {
                unknown += 1;
                if unknown > IGNORED {
                    continue;
                }
            }
            // Of two fields of one name the last one counts.
            map.insert(key, value);
        }
        self.value(map)
    }
}

#[cfg(test)]
mod tests {
    use super::{ApiError, IGNORED, MOST, is_known, parse};
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    /// What is read of a body when all of it is made into values first.
    fn whole(text: &str) -> Result<Value, ApiError> {
        let body: Value =
            serde_json::from_slice(text.as_bytes()).map_err(|error| ApiError::Json(error.to_string()))?;
        let Value::Object(body) = body else {
            return Ok(if body.is_array() { json!([]) } else { body });
        };
        let known = |(key, value): (String, Value)| {
            let value = if is_known(&key) { value } else { Value::Null };
            (key, value)
        };
        Ok(Value::Object(body.into_iter().map(known).collect::<Map<_, _>>()))
    }

    #[test]
    fn what_is_no_json_is_refused_alike_wherever_it_stands() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let (least, most) = (deep(120), deep(200));
        let values = ["1e999", "\"\\ud800\"", "nul", "01", "{\"a\"}", "[1,]", "-", "\"\u{1}\"", &most];
        for key in ["stop", "x"] {
            let body = |value: &str| format!("{{\"model\": 1,\n \"{key}\": {value}}}");
            for value in values {
                assert!(parse(body(value).as_bytes()).is_err(), "{key} {value}");
                assert_eq!(parse(body(value).as_bytes()), whole(&body(value)), "{key} {value}");
            }
            assert!(parse(body(&least).as_bytes()).is_ok());
            let invalid = [format!("{{\"{key}\": \"").as_bytes(), &[0xff], b"\"}"].concat();
            let expected = serde_json::from_slice::<Value>(&invalid).expect_err("no UTF-8").to_string();
            assert_eq!(parse(&invalid), Err(ApiError::Json(expected)));
        }
    }

    #[test]
    fn what_is_around_an_object_or_in_its_place_is_seen() {
        for text in
            ["", " ", "{", "\u{feff}{}", "{} {}", "{}]", "[1, {\"a\": 2}", "[1}", "7", "\"a\"", " {} "]
        {
            assert_eq!(parse(text.as_bytes()), whole(text), "{text}");
        }
    }

    #[test]
    fn of_two_fields_of_one_name_the_last_one_counts() {
        for text in [r#"{"n": 1, "x": 1, "n": 2, "x": 2}"#, r#"{"stop": {"a": 1, "a": [2]}}"#] {
            assert_eq!(parse(text.as_bytes()), whole(text));
        }
    }

    #[test]
    fn nothing_is_made_of_unknown_fields_but_the_names_that_can_be_listed() {
        let items = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        let many = items(MOST + 1);
        let body = parse(format!("{{\"x\": {many}, \"y\": {{\"z\": {many}}}}}").as_bytes());
        assert_eq!(body, Ok(json!({"x": null, "y": null})));
        let names: Vec<String> = (0..5_000).map(|i| format!("\"x{i}\": {i}")).collect();
        let body = parse(format!("{{{}, \"n\": 3}}", names.join(",")).as_bytes()).expect("JSON");
        assert_eq!((body["n"].clone(), body.as_object().map(Map::len)), (json!(3), Some(IGNORED + 1)));
        assert_eq!(parse(many.as_bytes()), Ok(json!([])), "of what is no map only the kind is kept");

        // The list and the body are values as well.
        assert!(parse(format!("{{\"stop\": {}}}", items(MOST - 2)).as_bytes()).is_ok());
        let refused = parse(format!("{{\"stop\": {}}}", items(MOST - 1)).as_bytes());
        assert!(matches!(&refused, Err(ApiError::Json(why)) if why.contains("more than 262144 values")));
    }

    proptest! {
        #[test]
        fn known_fields_and_errors_are_as_if_all_had_been_read(
            text in r#"\{("(n|stop|x|y)":(1|-2\.5|null|true|"\\u00e9"|"a|\[\[\{\}|\{"b":\[3\]\}|\[)[\]},]?){0,6}\}?"#
        ) {
            prop_assert_eq!(parse(text.as_bytes()), whole(&text));
        }
    }
}
