//! `espalier config`: the resulting configuration as TOML, each value with its
//! origin behind it. The output is a configuration file itself.

use super::file::known_keys;
use super::layers::{Origin, Settings};
use super::model::overlay;
use super::settings::SETTINGS;
use std::io::{self, Write};
use toml::{Table, Value};

/// What is known about the model's own settings.
#[derive(Debug, Clone)]
pub struct ModelLayers {
    /// The name under which the server's file may speak of it.
    pub name: String,
    /// General settings.
    pub general: Table,
    /// Its own `espalier.toml`, if it brings one.
    pub own: Option<Table>,
    /// Sections of the server's file that apply, the strongest last.
    pub sections: Vec<Table>,
}

/// Writes the configuration. `model` is an error where the model could not be
/// looked at; its text becomes a comment.
///
/// # Errors
/// When nothing can be written.
pub fn print(
    settings: &Settings,
    model: &Result<ModelLayers, String>,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "# Flag over environment over file over the model's own espalier.toml over default.")?;
    for warning in &settings.warnings {
        writeln!(out, "# Warning: {warning}")?;
    }
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            writeln!(out, "\n[{section}]")?;
        }
        match settings.value(setting) {
            Some((value, origin)) => writeln!(out, "{} = {}  # {origin}", setting.key, spelt(value))?,
            None if setting.absent.is_empty() => {
                writeln!(out, "# {} =  # another setting is in its place", setting.key)?;
            }
            None => writeln!(out, "# {} =  # default: {}", setting.key, setting.absent)?,
        }
    }
    let mut others = settings.models.clone();
    match model {
        Ok(layers) => {
            let mut merged = Table::new();
            let all = [&layers.general].into_iter().chain(&layers.own).chain(&layers.sections);
            all.for_each(|layer| overlay(&mut merged, layer));
            let origin = |path: &[&str]| {
                if layers.sections.iter().any(|section| at(section, path).is_some()) {
                    Origin::File(settings.file.clone())
                } else if layers.own.as_ref().is_some_and(|own| at(own, path).is_some()) {
                    Origin::Model
                } else {
                    Origin::Default
                }
            };
            write_section(out, &["models", &layers.name], &merged, &|path| origin(&path[2..]))?;
            others.remove(&layers.name);
        }
        Err(reason) => writeln!(out, "\n# The model's own settings are not shown: {reason}")?,
    }
    for (name, section) in &others {
        if let Value::Table(section) = section {
            let origin = Origin::File(settings.file.clone());
            write_section(out, &["models", name], section, &|_| origin.clone())?;
        }
    }
    Ok(())
}

/// Values first, then the sections below, as TOML wants it.
fn write_section(
    out: &mut dyn Write,
    path: &[&str],
    table: &Table,
    origin: &dyn Fn(&[&str]) -> Origin,
) -> io::Result<()> {
    let known = known_keys(path);
    let mut entries: Vec<(&String, &Value)> = table.iter().collect();
    entries.sort_by_key(|(key, _)| known.iter().position(|known| known == key));
    let (sections, values): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(_, value)| value.is_table());
    if !values.is_empty() {
        let header: Vec<String> = path.iter().map(|part| bare_or_quoted(part)).collect();
        writeln!(out, "\n[{}]", header.join("."))?;
    }
    for (key, value) in values {
        let origin = origin(&[path, &[key]].concat());
        writeln!(out, "{} = {}  # {origin}", bare_or_quoted(key), spelt(value))?;
    }
    for (key, value) in sections {
        if let Value::Table(table) = value {
            write_section(out, &[path, &[key]].concat(), table, origin)?;
        }
    }
    Ok(())
}

/// A value on one line, so that its origin can stand behind it.
fn spelt(value: &Value) -> String {
    match value {
        // JSON's strings are TOML's basic strings, but for one character.
        Value::String(text) => {
            serde_json::Value::from(text.as_str()).to_string().replace('\u{7f}', "\\u007f")
        }
        value => value.to_string(),
    }
}

fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { key.to_owned() } else { spelt(&Value::from(key)) }
}

fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() { Some(value) } else { at(value.as_table()?, rest) }
}
