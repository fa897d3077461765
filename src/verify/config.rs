//! `prm.json`, and what is known of models that come without one.
//!
//! Sources: the models' own cards and code on the Hugging Face hub
//! (peiyi9979/math-shepherd-mistral-7b-prm, RLHFlow/Llama3.1-8B-PRM-Deepseek-Data,
//! openreasoner/Math-psa, UW-Madison-Lee-Lab/VersaPRM, Qwen/Qwen2.5-Math-PRM-7B,
//! Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B).

use super::Aggregate;
use crate::engine::tree::ScoreHead;
use serde::Deserialize;

/// How a process reward model is read. What is absent is the format's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrmConfig {
    /// The format.
    pub kind: Kind,
    /// What follows every step, and where its score is read: one token.
    #[serde(default)]
    pub step_tag: Option<String>,
    /// The token that speaks for a step.
    #[serde(default)]
    pub good: Option<String>,
    /// The token that speaks against it.
    #[serde(default)]
    pub bad: Option<String>,
    /// How the scores of steps become one, where nothing else is asked for.
    #[serde(default)]
    pub aggregate: Option<Aggregate>,
    /// What stands between steps in a solution.
    #[serde(default)]
    pub step_separator: Option<String>,
    /// A system message before the problem, in chat formats.
    #[serde(default)]
    pub system: Option<String>,
    /// What the prompt looks like, for people.
    #[serde(default)]
    pub prompt: Option<String>,
}

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Chat: the problem is the user's turn; in the assistant's, every step is
    /// followed by the separator and a tag, at which two logits are compared.
    TagLogits,
    /// Math-Shepherd: plain text, ` ки` after every step, `+` against `-` there.
    MathShepherd,
    /// RLHFlow: a user turn for every step, and `+` against `-` where the
    /// assistant's answer to it would begin.
    Rlhflow,
    /// Math-psa (`OpenR`), its adapter merged: plain text, a space and five line
    /// breaks after every step, ` +` against ` -` there.
    MathPsa,
    /// VersaPRM and its relatives: plain text, a space and four line breaks
    /// after every step, `+` against `-` there.
    VersaPrm,
    /// Qwen2.5-Math-PRM: chat, `<extra_0>` after every step, a head of two
    /// labels there.
    QwenPrm,
    /// Skywork-o1-Open-PRM: plain text by lines, a head of one value at the end
    /// of each. Its authors' code scores blank lines too, which are no steps here:
    /// the model reads them, and their scores do not count.
    Skywork,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::TagLogits,
        Self::MathShepherd,
        Self::Rlhflow,
        Self::MathPsa,
        Self::VersaPrm,
        Self::QwenPrm,
        Self::Skywork,
    ];

    /// Their names, in the same order.
    pub const NAMES: [&str; 7] =
        ["tag_logits", "math_shepherd", "rlhflow", "math_psa", "versa_prm", "qwen_prm", "skywork"];

    /// Its name in `prm.json` and in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The format of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The format of a model that says nothing about it: by its head, else by
    /// its name.
    #[must_use]
    pub fn recognise(name: &str, head: Option<ScoreHead>) -> Option<Self> {
        match head {
            Some(ScoreHead::Mlp) => return Some(Self::QwenPrm),
            Some(ScoreHead::Value) => return Some(Self::Skywork),
            None => {}
        }
        let name = name.to_lowercase();
        let named = [
            ("math-shepherd", Self::MathShepherd),
            ("llama3.1-8b-prm", Self::Rlhflow),
            ("math-psa", Self::MathPsa),
            ("versaprm", Self::VersaPrm),
            ("llama-prm800k", Self::VersaPrm),
            ("qwen-prm800k", Self::VersaPrm),
            ("qwen2.5-math-prm", Self::QwenPrm),
            ("qwen2.5-math-7b-prm800k", Self::QwenPrm),
        ];
        named.into_iter().find(|(part, _)| name.contains(part)).map(|(_, kind)| kind)
    }

    /// The head that its scores come from; `None` for logits.
    #[must_use]
    pub fn head(self) -> Option<ScoreHead> {
        match self {
            Self::QwenPrm => Some(ScoreHead::Mlp),
            Self::Skywork => Some(ScoreHead::Value),
            Self::TagLogits | Self::MathShepherd | Self::Rlhflow | Self::MathPsa | Self::VersaPrm => None,
        }
    }

    /// The aggregate that the model's authors use, where they name one.
    pub(super) fn aggregate(self) -> Aggregate {
        match self {
            Self::MathShepherd | Self::MathPsa | Self::VersaPrm => Aggregate::Min,
            Self::Rlhflow | Self::Skywork => Aggregate::Mean,
            Self::TagLogits | Self::QwenPrm => Aggregate::Prod,
        }
    }

    /// Its markers: the tag, for, against. `None` where it has no such.
    pub(super) fn markers(self) -> [Option<&'static str>; 3] {
        match self {
            Self::TagLogits | Self::Skywork => [None; 3],
            Self::MathShepherd => [Some("ки"), Some("+"), Some("-")],
            Self::Rlhflow => [None, Some("+"), Some("-")],
            Self::MathPsa => [Some(" \n\n\n\n\n"), Some(" +"), Some(" -")],
            Self::VersaPrm => [Some(" \n\n\n\n"), Some("+"), Some("-")],
            Self::QwenPrm => [Some("<extra_0>"), None, None],
        }
    }

    /// In formats of plain text, what stands before the first step, before the
    /// others, and after each.
    pub(super) fn plain(self) -> Option<[&'static str; 3]> {
        match self {
            Self::MathShepherd => Some([" ", "\n", " ки"]),
            Self::MathPsa => Some([" ", " ", " \n\n\n\n\n"]),
            Self::VersaPrm => Some([" \n\n", "", " \n\n\n\n"]),
            Self::TagLogits | Self::Rlhflow | Self::QwenPrm | Self::Skywork => None,
        }
    }

    /// The system message that its models were trained with.
    pub(super) fn system(self) -> Option<&'static str> {
        (self == Self::QwenPrm)
            .then_some("Please reason step by step, and put your final answer within \\boxed{}.")
    }

    /// What stands between steps.
    pub(super) fn separator(self) -> &'static str {
        if self == Self::Skywork { "\n" } else { "\n\n" }
    }
}

impl From<Kind> for PrmConfig {
    /// The format as its authors have it.
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            step_tag: None,
            good: None,
            bad: None,
            aggregate: None,
            step_separator: None,
            system: None,
            prompt: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognised_by_head_and_by_name() {
        let of = |name: &str| Kind::recognise(name, None);
        assert_eq!(of("peiyi9979/math-shepherd-mistral-7b-prm"), Some(Kind::MathShepherd));
        assert_eq!(of("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data"), Some(Kind::Rlhflow));
        assert_eq!(of("openreasoner/Math-psa"), Some(Kind::MathPsa));
        assert_eq!(of("UW-Madison-Lee-Lab/VersaPRM"), Some(Kind::VersaPrm));
        assert_eq!(of("UW-Madison-Lee-Lab/Llama-PRM800K"), Some(Kind::VersaPrm));
        assert_eq!(of("somebody/else"), None);
        assert_eq!(Kind::recognise("x", Some(ScoreHead::Mlp)), Some(Kind::QwenPrm));
        assert_eq!(Kind::recognise("versaprm", Some(ScoreHead::Value)), Some(Kind::Skywork));
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.name()), Some(kind));
            let json = serde_json::json!({"kind": kind.name()});
            assert_eq!(serde_json::from_value::<PrmConfig>(json).expect("reads"), PrmConfig::from(kind));
        }
    }
}
