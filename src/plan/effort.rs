//! Efforts, and the table that turns one into a mode.

use super::{Kind, Parameter, Setting, Settings, Spec};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// The seven official values of `reasoning_effort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// No reasoning at all.
    None,
    /// As `none` in the shipped table.
    Minimal,
    /// One chain of thought.
    Low,
    /// A small vote.
    Medium,
    /// A larger search.
    High,
    /// A search larger still.
    Xhigh,
    /// The strongest row.
    Max,
}

impl Effort {
    /// All of them, weakest first.
    pub const ALL: [Effort; 7] = [
        Effort::None,
        Effort::Minimal,
        Effort::Low,
        Effort::Medium,
        Effort::High,
        Effort::Xhigh,
        Effort::Max,
    ];

    /// The value in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Effort::None => "none",
            Effort::Minimal => "minimal",
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::Xhigh => "xhigh",
            Effort::Max => "max",
        }
    }

    /// The effort of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|effort| effort.name() == name)
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Values of `reasoning.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModeName {
    /// Whatever the effort's row says.
    Standard,
    /// The strongest row of the table.
    Pro,
    /// The model's own answer.
    Direct,
    /// One chain of thought.
    Cot,
    /// A vote over chains of thought.
    SelfConsistency,
    /// The best of several chains of thought.
    BestOfN,
    /// Beam search over steps.
    Beam,
    /// The same, with values from rollouts at temperature 0.
    Lookahead,
    /// Monte-Carlo tree search over steps.
    Mcts,
    /// As much as the problem needs.
    Auto,
}

impl ModeName {
    /// All of them, in the order in which errors list them.
    pub const ALL: [ModeName; 10] = [
        ModeName::Standard,
        ModeName::Pro,
        ModeName::Direct,
        ModeName::Cot,
        ModeName::SelfConsistency,
        ModeName::BestOfN,
        ModeName::Beam,
        ModeName::Lookahead,
        ModeName::Mcts,
        ModeName::Auto,
    ];

    /// The value in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ModeName::Standard => "standard",
            ModeName::Pro => "pro",
            ModeName::Direct => "direct",
            ModeName::Cot => "cot",
            ModeName::SelfConsistency => "self_consistency",
            ModeName::BestOfN => "best_of_n",
            ModeName::Beam => "beam",
            ModeName::Lookahead => "lookahead",
            ModeName::Mcts => "mcts",
            ModeName::Auto => "auto",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Whether it is a mode of its own, and not a way to choose a row.
    #[must_use]
    pub fn is_own(self) -> bool {
        !matches!(self, ModeName::Standard | ModeName::Pro)
    }
}

/// One row of the effort table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Row {
    /// A mode of its own: neither `standard` nor `pro`.
    pub mode: ModeName,
    /// What it runs with.
    pub terms: Terms,
}

/// What a mode runs with.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Terms {
    /// Temperature where the request names none; the model's own if absent.
    pub temperature: Option<f32>,
    /// Tokens per choice where the request sets no bound.
    pub budget: u32,
    /// Parameters; those that the mode does not have are not read.
    pub settings: Settings,
}

/// Keys of [`Terms`] that are no parameters of modes.
pub const TERM_KEYS: [&str; 2] = ["temperature", "budget"];

/// A row as a file holds it.
type Fields = BTreeMap<String, Plain>;

/// A value as a file holds it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Plain {
    Flag(bool),
    Count(i64),
    Number(f64),
    Word(String),
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plain::Flag(flag) => write!(f, "{flag}"),
            Plain::Count(count) => write!(f, "{count}"),
            Plain::Number(number) => write!(f, "{number}"),
            Plain::Word(word) => write!(f, "'{word}'"),
        }
    }
}

impl Plain {
    fn number(&self) -> Option<f64> {
        match self {
            Plain::Count(count) => Some(*count as f64),
            Plain::Number(number) => Some(*number),
            Plain::Flag(_) | Plain::Word(_) => None,
        }
    }

    fn setting(&self, spec: &Spec) -> Option<Setting> {
        match (spec.kind, self) {
            (Kind::Count(least, most), Plain::Count(count)) => {
                let count = u32::try_from(*count).ok().filter(|count| (least..=most).contains(count))?;
                Some(Setting::Count(count))
            }
            (Kind::Number(least, most), value) => {
                value.number().filter(|number| (least..=most).contains(number)).map(Setting::Number)
            }
            (Kind::Choice(words), Plain::Word(word)) => {
                words.iter().find(|known| *known == word).map(|word| Setting::Choice(word))
            }
            (Kind::Flag, Plain::Flag(flag)) => Some(Setting::Flag(*flag)),
            (Kind::Count(..) | Kind::Choice(_) | Kind::Flag, _) => None,
        }
    }
}

impl TryFrom<Fields> for Row {
    type Error = String;

    fn try_from(mut fields: Fields) -> Result<Self, String> {
        let mode = match fields.remove("mode") {
            Some(Plain::Word(word)) => {
                let own = ModeName::ALL.into_iter().filter(|mode| mode.is_own());
                ModeName::parse(&word).filter(|mode| mode.is_own()).ok_or_else(|| {
                    let names: Vec<&str> = own.map(ModeName::name).collect();
                    format!("mode is '{word}' and must be one of {}", names.join(", "))
                })?
            }
            Some(other) => return Err(format!("mode is {other} and must be the name of a mode")),
            None => return Err("it names no mode".to_owned()),
        };
        Ok(Row { mode, terms: Terms::try_from(fields)? })
    }
}

impl TryFrom<Fields> for Terms {
    type Error = String;

    fn try_from(mut fields: Fields) -> Result<Self, String> {
        let mut taken = |key: &str| fields.remove(key);
        let temperature = match taken("temperature") {
            None => None,
            Some(value) => Some(
                value
                    .number()
                    .filter(|t| (0.0..=2.0).contains(t))
                    .ok_or_else(|| format!("temperature is {value} and must lie in 0 to 2"))?
                    as f32,
            ),
        };
        let budget = match taken("budget") {
            Some(Plain::Count(tokens)) => u32::try_from(tokens).ok().filter(|tokens| *tokens > 0),
            _ => None,
        };
        let budget = budget.ok_or("budget must be a whole number of tokens, at least 1")?;
        let mut settings = Settings::default();
        for (key, value) in fields {
            let spec = Parameter::named(&key).ok_or_else(|| format!("{key} is no parameter"))?;
            let setting = value.setting(spec);
            settings.set(
                spec.parameter,
                setting.ok_or_else(|| format!("{key} is {value} and must be {}", spec.kind))?,
            );
        }
        Ok(Terms { temperature, budget, settings })
    }
}

/// The `[plan]` section of a model's configuration file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The row for requests that name no effort.
    pub default_effort: Effort,
    /// Tokens that a whole sample needs as a rule. The planner lowers the width
    /// of a search rather than grant a branch less than this.
    pub branch_tokens: u32,
    /// Tokens kept for completing an answer, at most, where the request names no
    /// number: a quarter of what a choice may spend, but no more than this.
    #[serde(default = "answer_reserve")]
    pub answer_reserve: u32,
    /// The table.
    pub efforts: Efforts,
    /// What a mode by name runs with where the effort's row has another mode.
    /// Without it, what its weakest row in the table says.
    #[serde(default)]
    pub modes: BTreeMap<ModeName, Terms>,
}

/// What [`Config::answer_reserve`] is where nobody says.
fn answer_reserve() -> u32 {
    512
}

/// A row for every effort.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efforts {
    none: Row,
    minimal: Row,
    low: Row,
    medium: Row,
    high: Row,
    xhigh: Row,
    max: Row,
}

impl Config {
    /// The row of an effort.
    #[must_use]
    pub fn row(&self, effort: Effort) -> &Row {
        let rows = &self.efforts;
        match effort {
            Effort::None => &rows.none,
            Effort::Minimal => &rows.minimal,
            Effort::Low => &rows.low,
            Effort::Medium => &rows.medium,
            Effort::High => &rows.high,
            Effort::Xhigh => &rows.xhigh,
            Effort::Max => &rows.max,
        }
    }

    /// Checks what holds beyond the rows, which check themselves.
    ///
    /// # Errors
    /// With a sentence that names the key, the bound and the value.
    pub fn check(&self) -> Result<(), String> {
        if self.branch_tokens == 0 {
            return Err("branch_tokens must be at least 1".to_owned());
        }
        // Terms of what only selects a row would never be read.
        if let Some(name) = self.modes.keys().find(|name| !name.is_own()) {
            let own = ModeName::ALL.into_iter().filter(|mode| mode.is_own()).map(ModeName::name);
            let (name, names) = (name.name(), own.collect::<Vec<_>>().join(", "));
            return Err(format!("modes.{name} chooses a row of the table and has no terms, unlike {names}"));
        }
        Ok(())
    }
}
