//! A configuration file: parsed, its keys known, its values within bounds, every
//! mistake with the line that it stands on.
//!
//! Two kinds of file share a schema: the server's (`--config`), with sections
//! for the settings and one per model below `models`, and a model's own
//! `espalier.toml`, which holds what `models."name"` does.

use super::error::ConfigError;
use super::model::{ModelConfig, general};
use super::nearest::nearest;
use super::settings::SETTINGS;
use crate::plan::{ModeName, PARAMETERS, TERM_KEYS};
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Keys of `models."name".prompt`.
pub(super) const PROMPT: &[&str] =
    &["chain_of_thought", "answer_marker", "answer_marker_shown", "thought_opening", "step_separator"];

/// Keys of `models."name".judge`.
pub(super) const JUDGE: &[&str] =
    &["prompt", "system", "verdict", "good", "bad", "after", "step_separator", "aggregate"];

/// Keys of `models."name".plan`.
pub(super) const PLAN: &[&str] = &["default_effort", "branch_tokens", "answer_reserve", "efforts", "modes"];

/// Keys of `models."name".plan.modes."mode"`.
fn terms() -> impl Iterator<Item = &'static str> {
    TERM_KEYS.into_iter().chain(PARAMETERS.iter().map(|spec| spec.name))
}

/// Keys of a row of `models."name".plan.efforts`.
pub(super) fn row() -> Vec<&'static str> {
    ["mode"].into_iter().chain(terms()).collect()
}

/// The section of the server's file that holds models' settings.
const MODELS: &str = "models";

/// What stands at a place of a file.
enum Level {
    /// A section with these keys.
    Keys(Vec<&'static str>),
    /// A section whose keys are names.
    Names,
    /// A value.
    Value,
}

fn level(path: &[&str]) -> Level {
    match path {
        [] => {
            let mut sections: Vec<&str> = SETTINGS.iter().map(|setting| setting.section).collect();
            sections.dedup();
            sections.push(MODELS);
            Level::Keys(sections)
        }
        [MODELS] => Level::Names,
        [MODELS, _] => Level::Keys(vec!["prompt", "plan", "judge"]),
        [MODELS, _, "prompt"] => Level::Keys(PROMPT.to_vec()),
        [MODELS, _, "judge"] => Level::Keys(JUDGE.to_vec()),
        [MODELS, _, "plan"] => Level::Keys(PLAN.to_vec()),
        [MODELS, _, "plan", "efforts"] => {
            Level::Keys(crate::plan::Effort::ALL.iter().map(|effort| effort.name()).collect())
        }
        [MODELS, _, "plan", "efforts", _] => Level::Keys(row()),
        [MODELS, _, "plan", "modes"] => {
            let own = ModeName::ALL.into_iter().filter(|mode| mode.is_own());
            Level::Keys(own.map(ModeName::name).collect())
        }
        [MODELS, _, "plan", "modes", _] => Level::Keys(terms().collect()),
        [section] => {
            let own = SETTINGS.iter().filter(|setting| setting.section == *section);
            Level::Keys(own.map(|setting| setting.key).collect())
        }
        _ => Level::Value,
    }
}

/// The keys that a section may have, in the order in which they are shown; none
/// where they are names.
pub(super) fn known_keys(path: &[&str]) -> Vec<&'static str> {
    match level(path) {
        Level::Keys(keys) => keys,
        Level::Names | Level::Value => Vec::new(),
    }
}

/// The server's file.
#[derive(Debug, Clone, Default)]
pub(super) struct File {
    /// How messages call it.
    pub(super) label: String,
    /// Settings that it makes, by their flags.
    pub(super) values: BTreeMap<&'static str, Value>,
    /// What it says about models: `models."name"`.
    pub(super) models: Table,
}

impl File {
    /// Parses and checks the server's file. `label` is what messages call it.
    ///
    /// # Errors
    /// With the line, when it is no TOML, has an unknown key, or a value out of
    /// bounds.
    pub(super) fn parse(label: &str, text: &str) -> Result<Self, ConfigError> {
        let (mut table, lines) = Lines::read(label, text, &[])?;
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let section = table.get_mut(setting.section).and_then(Value::as_table_mut);
            let Some(value) = section.and_then(|section| section.remove(setting.key)) else { continue };
            let key = format!("{}.{}", setting.section, setting.key);
            let given = value.to_string();
            let value = setting.kind.fits(value).ok_or_else(|| ConfigError::Value {
                place: format!("{}: {key}", lines.place(&key)),
                given,
                bound: setting.kind.bound(),
            })?;
            values.insert(setting.flag, value);
        }
        let models = match table.remove(MODELS) {
            Some(Value::Table(models)) => models,
            _ => Table::new(),
        };
        for (name, section) in &models {
            if let Value::Table(section) = section {
                lines.check(&[MODELS, name], section)?;
            }
        }
        Ok(Self { label: label.to_owned(), values, models })
    }
}

/// Parses and checks a model's own `espalier.toml`.
///
/// # Errors
/// As [`File::parse`].
pub fn model_file(label: &str, text: &str) -> Result<Table, ConfigError> {
    let base = [MODELS, "itself"];
    let (table, lines) = Lines::read(label, text, &base)?;
    lines.check(&base, &table)?;
    Ok(table)
}

/// Where the keys of a file stand.
struct Lines<'a> {
    label: &'a str,
    text: &'a str,
    /// The line of each key, by its path.
    lines: BTreeMap<Vec<String>, usize>,
}

impl<'a> Lines<'a> {
    /// The file as a table, once all its keys are known. `base` is the place of
    /// the schema at which the file begins.
    fn read(label: &'a str, text: &'a str, base: &[&str]) -> Result<(Table, Self), ConfigError> {
        let mut lines = Self { label, text, lines: BTreeMap::new() };
        let broken = |error: toml::de::Error| ConfigError::File {
            place: match error.span() {
                Some(span) => format!("{label}, line {}", line(text, span.start)),
                None => label.to_owned(),
            },
            message: error.message().replace('\n', ", "),
        };
        let places = DeTable::parse(text).map_err(broken)?;
        lines.walk(places.get_ref(), base)?;
        let table = toml::from_str(text).map_err(broken)?;
        Ok((table, lines))
    }

    fn walk(&mut self, table: &DeTable<'_>, path: &[&str]) -> Result<(), ConfigError> {
        let known = match level(path) {
            Level::Keys(keys) => Some(keys),
            Level::Names | Level::Value => None,
        };
        for (key, value) in table {
            let at = line(self.text, key.span().start);
            let place = || format!("{}, line {at}", self.label);
            let name: &str = key.get_ref();
            let path = [path, &[name]].concat();
            if let Some(known) = &known
                && !known.contains(&name)
            {
                return Err(ConfigError::Key { place: place(), key: spelt(&path), hint: hint(&path, known) });
            }
            match (level(&path), value.get_ref()) {
                (Level::Value, _) => {}
                (_, DeValue::Table(table)) => self.walk(table, &path)?,
                (_, _) => {
                    let message = format!("`{}` is a section, not a value", spelt(&path));
                    return Err(ConfigError::File { place: place(), message });
                }
            }
            self.lines.insert(path.iter().map(|part| (*part).to_owned()).collect(), at);
        }
        Ok(())
    }

    /// Checks a model's section as if it stood over the general settings.
    fn check(&self, base: &[&str], section: &Table) -> Result<(), ConfigError> {
        ModelConfig::layered(&[&general(""), section]).map(drop).map_err(|mistake| {
            let inner: Vec<&str> = mistake.path.split('.').filter(|part| !part.is_empty()).collect();
            let mut path: Vec<String> = [base, &inner].concat().into_iter().map(str::to_owned).collect();
            // A row names the key itself; a mistake in it as a whole has its line.
            let key = mistake.message.rsplit(": ").next().and_then(|said| said.split(' ').next());
            path.extend(key.map(str::to_owned));
            while !self.lines.contains_key(&path) && path.len() > base.len() {
                path.pop();
            }
            let place = match self.lines.get(&path) {
                Some(line) => format!("{}, line {line}", self.label),
                None => self.label.to_owned(),
            };
            let name = spelt(base);
            let message = if name.is_empty() { mistake.to_string() } else { format!("{name}.{mistake}") };
            ConfigError::File { place, message }
        })
    }

    fn place(&self, key: &str) -> String {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        match self.lines.get(&path) {
            Some(line) => format!("{}, line {line}", self.label),
            None => self.label.to_owned(),
        }
    }
}

/// The line of a byte, from 1.
fn line(text: &str, byte: usize) -> usize {
    1 + text.as_bytes().iter().take(byte).filter(|&&b| b == b'\n').count()
}

/// A path as a file would spell it, without the stand-in for a model's own name.
fn spelt(path: &[&str]) -> String {
    let path = if let [MODELS, "itself", rest @ ..] = path { rest } else { path };
    let bare = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let quoted = |part: &&str| if bare(part) { (*part).to_owned() } else { format!("\"{part}\"") };
    path.iter().map(quoted).collect::<Vec<_>>().join(".")
}

/// What was probably meant: a key of the same section, else the same key of
/// another section, else one of all keys here.
fn hint(path: &[&str], known: &[&'static str]) -> String {
    let name = path.last().copied().unwrap_or_default();
    if let Some(near) = nearest(name, known.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    let named = |setting: &&super::settings::Setting| {
        setting.key == name || setting.field() == name.replace('-', "_")
    };
    if let Some(setting) = SETTINGS.iter().find(named) {
        return format!("did you mean `{}` in [{}]?", setting.key, setting.section);
    }
    format!("known here: {}", known.join(", "))
}
