//! Flag over variable over file over default, with where each value came from.
//!
//! Of two settings that say the same thing in different ways, the one of the
//! stronger layer counts and the other one is as if nobody had set it.

use super::environment::{CONFIG_VARIABLE, Environment};
use super::error::ConfigError;
use super::file::File;
use super::flags::Given;
use super::settings::{Kind, SETTINGS, Setting};
use super::{EngineArgs, ServeArgs};
use crate::verify::ApiKey;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// An environment variable.
    Variable(String),
    /// The server's configuration file.
    File(String),
    /// The model's own `espalier.toml`.
    Model,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Variable(name) => write!(f, "env {name}"),
            Origin::File(label) => write!(f, "file {label}"),
            Origin::Model => f.write_str("model"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// Names the variable with the key of a process reward model elsewhere.
const PRM_KEY: &str = "prm-api-key-env";

/// Which log lines are written, and what every Rust program understands to say so. It
/// is set for all of them, so it comes after all that is said to this one, and one that
/// is meant for another stops nothing.
const LOG_LEVEL: &str = "log-level";
const RUST_LOG: &str = "RUST_LOG";

/// Two settings of which one takes the place of the other; the first has a default.
const EITHER: [&str; 2] = ["kv-mib", "kv-fraction"];

impl Origin {
    /// How a message names a setting that came from here.
    fn names(&self, flag: &str) -> String {
        match self {
            Origin::Flag => format!("--{flag}"),
            Origin::Variable(name) => format!("the environment variable {name}"),
            Origin::File(label) => format!("{} in {label}", flag.replace('-', "_")),
            Origin::Model | Origin::Default => flag.to_owned(),
        }
    }

    /// The layer; lower comes first.
    fn layer(&self) -> u8 {
        match self {
            Origin::Flag => 0,
            Origin::Variable(_) => 1,
            Origin::File(_) => 2,
            Origin::Model => 3,
            Origin::Default => 4,
        }
    }
}

/// All settings, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
    prm_api_key: Option<ApiKey>,
    /// What the server's file says about models.
    pub models: Table,
    /// How messages call that file; empty without one.
    pub file: String,
    /// What deserves a warning, in sentences.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Puts the layers over each other. The configuration file is the one that
    /// the flag names, else the one that `ESPALIER_CONFIG` names.
    ///
    /// # Errors
    /// When the file cannot be read, or a value or key of any layer is wrong.
    pub fn resolve(given: &Given, environment: &Environment) -> Result<Self, ConfigError> {
        let named = given.config.clone().or_else(|| environment.get(CONFIG_VARIABLE).map(PathBuf::from));
        let file = named.as_deref().map(read).transpose()?.unwrap_or_default();
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            if let Some(found) = one(setting, given, environment, &file)? {
                values.insert(setting.flag, found);
            }
        }
        if let [Some((_, first)), Some((_, second))] = EITHER.map(|flag| values.get(flag)) {
            let weaker = match first.layer().cmp(&second.layer()) {
                std::cmp::Ordering::Less => EITHER[1],
                std::cmp::Ordering::Greater => EITHER[0],
                std::cmp::Ordering::Equal => {
                    let (one, other) = (first.names(EITHER[0]), second.names(EITHER[1]));
                    return Err(ConfigError::Both { one, other, flag: *first == Origin::Flag });
                }
            };
            values.remove(weaker);
        }
        // It is of use where a server is asked, and is looked for there alone.
        let remote = values.get("prm").is_some_and(|(prm, _)| prm.as_str().is_some_and(is_address));
        let named = values.get(PRM_KEY).filter(|_| remote);
        let prm_api_key = named.map(|named| key(named, environment)).transpose()?;
        let mut warnings = environment.warnings();
        let level = values.get(LOG_LEVEL);
        if let Some(text) =
            environment.get(RUST_LOG).filter(|_| level.is_some_and(|(_, from)| *from == Origin::Default))
        {
            warnings.push(format!(
                "the environment variable {RUST_LOG} is {} and was ignored; it would have to be {}",
                shown(text),
                Kind::Filter.bound()
            ));
        }
        Ok(Self { values, prm_api_key, models: file.models, file: file.label, warnings })
    }

    /// A setting's value and where it came from; `None` where nobody set it and
    /// it has no default.
    #[must_use]
    pub fn value(&self, setting: &Setting) -> Option<&(Value, Origin)> {
        self.values.get(setting.flag)
    }

    /// Where the value of the setting with this flag came from.
    #[must_use]
    pub fn origin(&self, flag: &str) -> Option<&Origin> {
        self.values.get(flag).map(|(_, origin)| origin)
    }

    /// Everything that `espalier serve` needs.
    #[must_use]
    pub fn serve(&self) -> ServeArgs {
        let mut args: ServeArgs = self.typed();
        args.engine.model.sections = self.models.clone();
        args.engine.model.prm_api_key = self.prm_api_key.clone();
        args.engine.kv_chosen = EITHER.into_iter().any(|flag| self.chosen(flag));
        args.engine.prm_kv_chosen = self.chosen("prm-kv-mib");
        args
    }

    fn chosen(&self, flag: &str) -> bool {
        self.origin(flag).is_some_and(|origin| *origin != Origin::Default)
    }

    /// Everything that a command with an engine needs.
    #[must_use]
    pub fn engine(&self) -> EngineArgs {
        self.serve().engine
    }

    fn typed<T: for<'a> Deserialize<'a>>(&self) -> T {
        let fields = SETTINGS.iter().filter_map(|setting| {
            // One that another takes the place of has its default, which nobody reads.
            let unread = || setting.kind.read(&[setting.default?.to_owned()]);
            let value = self.values.get(setting.flag).map(|(value, _)| value.clone()).or_else(unread)?;
            Some((setting.field(), value))
        });
        Value::Table(fields.collect()).try_into().expect("each value was held against its kind")
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|cause| ConfigError::Read { file: path.to_owned(), cause })?;
    File::parse(&path.display().to_string(), &text)
}

/// Whether a model is named by a server's address.
#[must_use]
pub fn is_address(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

/// The key in the variable that a setting names.
fn key((name, origin): &(Value, Origin), environment: &Environment) -> Result<ApiKey, ConfigError> {
    let variable = name.as_str().unwrap_or_default();
    let broken = |why| ConfigError::Secret {
        place: origin.names(PRM_KEY),
        variable: variable.to_owned(),
        why,
        flag: *origin == Origin::Flag,
    };
    let key = environment.get(variable).ok_or_else(|| broken("and there is no such variable"))?;
    ApiKey::new(key).ok_or_else(|| broken("which holds characters that no key has"))
}

fn one(
    setting: &Setting,
    given: &Given,
    environment: &Environment,
    file: &File,
) -> Result<Option<(Value, Origin)>, ConfigError> {
    let (kind, bound) = (setting.kind, setting.kind.bound());
    if let Some(texts) = given.values.get(setting.flag) {
        let value = kind.read(texts).ok_or_else(|| ConfigError::Flag {
            flag: format!("--{}", setting.flag),
            given: shown(&texts.join(" ")),
            bound: bound.clone(),
        })?;
        return Ok(Some((value, Origin::Flag)));
    }
    let name = setting.variable();
    if let Some(text) = environment.get(&name) {
        let value = kind.read(&[text.to_owned()]).ok_or_else(|| ConfigError::Value {
            place: format!("the environment variable {name}"),
            given: shown(text),
            bound,
        })?;
        return Ok(Some((value, Origin::Variable(name))));
    }
    if let Some(value) = file.values.get(setting.flag) {
        return Ok(Some((value.clone(), Origin::File(file.label.clone()))));
    }
    if setting.flag == LOG_LEVEL
        && let Some(value) = environment.get(RUST_LOG).and_then(|text| kind.read(&[text.to_owned()]))
    {
        return Ok(Some((value, Origin::Variable(RUST_LOG.to_owned()))));
    }
    let value = setting.default.and_then(|text| kind.read(&[text.to_owned()]));
    Ok(value.map(|value| (value, Origin::Default)))
}

/// A text as a message shows it.
fn shown(text: &str) -> String {
    if text.trim().is_empty() { "empty".to_owned() } else { format!("`{text}`") }
}
