//! Efforts, and the table that turns one into a mode.

use serde::Deserialize;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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
    /// Majority over chains of thought.
    SelfConsistency,
}

impl ModeName {
    /// All of them, in the order in which errors list them.
    pub const ALL: [ModeName; 5] =
        [ModeName::Standard, ModeName::Pro, ModeName::Direct, ModeName::Cot, ModeName::SelfConsistency];

    /// The value in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ModeName::Standard => "standard",
            ModeName::Pro => "pro",
            ModeName::Direct => "direct",
            ModeName::Cot => "cot",
            ModeName::SelfConsistency => "self_consistency",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// One row of the effort table.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `direct`, `cot` or `self_consistency`.
    pub mode: ModeName,
    /// Branches of a mode that has several.
    #[serde(default = "one")]
    pub branches: u32,
    /// Temperature where the request names none; the model's own if absent.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Tokens per choice where the request sets no bound.
    pub budget: u32,
}

fn one() -> u32 {
    1
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
    /// The table.
    pub efforts: Efforts,
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
    pub fn row(&self, effort: Effort) -> Row {
        let rows = &self.efforts;
        match effort {
            Effort::None => rows.none,
            Effort::Minimal => rows.minimal,
            Effort::Low => rows.low,
            Effort::Medium => rows.medium,
            Effort::High => rows.high,
            Effort::Xhigh => rows.xhigh,
            Effort::Max => rows.max,
        }
    }

    /// Checks that every row can be run.
    ///
    /// # Errors
    /// With a sentence that names the row, the bound and the value.
    pub fn check(&self) -> Result<(), String> {
        for effort in Effort::ALL {
            let row = self.row(effort);
            if matches!(row.mode, ModeName::Standard | ModeName::Pro) {
                let mode = row.mode.name();
                return Err(format!("efforts.{effort}.mode is {mode}, which is no mode of its own"));
            }
            if row.branches == 0 || row.budget == 0 {
                return Err(format!("efforts.{effort}: branches and budget must be at least 1"));
            }
            if let Some(t) = row.temperature
                && !(0.0..=2.0).contains(&t)
            {
                return Err(format!("efforts.{effort}.temperature is {t} and must lie in 0 to 2"));
            }
        }
        if self.branch_tokens == 0 {
            return Err("branch_tokens must be at least 1".to_owned());
        }
        Ok(())
    }
}
