//! `tojson` as Hugging Face templates expect it: Python's `json.dumps` with
//! `ensure_ascii=False`, not the HTML-safe filter of Jinja.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write as _;

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none,
/// sort_keys=false)`, arguments in this order or by name.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<usize>,
    separators: Option<Vec<String>>,
    named: Kwargs,
) -> Result<Value, Error> {
    let ensure_ascii = ensure_ascii.or(named.get("ensure_ascii")?).unwrap_or(false);
    let indent = indent.or(named.get("indent")?);
    let separators = separators.or(named.get("separators")?);
    let sort_keys = named.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    named.assert_all_used()?;

    let mut separators = separators.into_iter().flatten();
    let between = if indent.is_some() { "," } else { ", " };
    let mut writer = Writer {
        item: separators.next().unwrap_or_else(|| between.to_owned()),
        key: separators.next().unwrap_or_else(|| ": ".to_owned()),
        indent,
        ensure_ascii,
        sort_keys,
        out: String::new(),
    };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

/// The layout of `json.dumps`.
struct Writer {
    /// Between two items.
    item: String,
    /// Between a key and its value.
    key: String,
    /// Spaces per level; `None` for one line.
    indent: Option<usize>,
    ensure_ascii: bool,
    sort_keys: bool,
    out: String,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.object(value, depth)?,
            kind => {
                let what = format!("a value of kind {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, what));
            }
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut any = false;
        for item in value.try_iter()? {
            self.next(any, depth + 1);
            self.value(&item, depth + 1)?;
            any = true;
        }
        self.close(']', any, depth);
        Ok(())
    }

    fn object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('{');
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        let any = !keys.is_empty();
        for (i, key) in keys.into_iter().enumerate() {
            self.next(i > 0, depth + 1);
            self.string(&key.to_string());
            self.out.push_str(&self.key);
            self.value(&value.get_item(&key)?, depth + 1)?;
        }
        self.close('}', any, depth);
        Ok(())
    }

    /// What stands before an item.
    fn next(&mut self, any: bool, depth: usize) {
        if any {
            self.out.push_str(&self.item);
        }
        self.line(depth);
    }

    fn close(&mut self, bracket: char, any: bool, depth: usize) {
        if any {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(spaces) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', spaces * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                ' '..='~' => self.out.push(c),
                _ if c < ' ' || self.ensure_ascii => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                _ => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;
    use minijinja::value::Value;

    fn render(filter: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        let value = r#"{"b": [1, "é<&'\n"], "a": {}, "c": [], "d": none}"#;
        environment.render_str(&format!("{{{{ {value}|{filter} }}}}"), Value::UNDEFINED).unwrap()
    }

    // The expected strings are what Python 3's json.dumps writes.
    #[test]
    fn it_writes_what_python_writes() {
        assert_eq!(render("tojson"), r#"{"b": [1, "é<&'\n"], "a": {}, "c": [], "d": null}"#);
        assert_eq!(
            render("tojson(ensure_ascii=true)"),
            r#"{"b": [1, "\u00e9<&'\n"], "a": {}, "c": [], "d": null}"#
        );
        assert_eq!(
            render("tojson(sort_keys=true, separators=[',', ':'])"),
            r#"{"a":{},"b":[1,"é<&'\n"],"c":[],"d":null}"#
        );
    }

    #[test]
    fn it_indents_as_python_does() {
        let expected =
            "{\n  \"b\": [\n    1,\n    \"é<&'\\n\"\n  ],\n  \"a\": {},\n  \"c\": [],\n  \"d\": null\n}";
        assert_eq!(render("tojson(indent=2)"), expected);
    }

    #[test]
    fn an_unknown_argument_is_an_error() {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        assert!(environment.render_str("{{ 1|tojson(indentation=2) }}", Value::UNDEFINED).is_err());
    }
}
