//! The `search` report and machine-readable progress; our extension.
//!
//! Length: one type per part of the report, each with its documented fields.

use crate::plan::{Setting, Settings};
use crate::search::event::{BranchReport, Candidate, Progress, Report, StopReason};
use crate::search::tree::Tree;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use utoipa::openapi::Ref;
use utoipa::openapi::schema::{OneOfBuilder, Schema};

/// The top-level `search` key of a body: a report, or one per choice.
#[derive(Debug, Clone)]
pub enum SearchBody {
    /// Of the only choice.
    One(Box<SearchReport>),
    /// Of several.
    Many(SearchReports),
}

impl Serialize for SearchBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(report) => report.serialize(serializer),
            Self::Many(reports) => reports.serialize(serializer),
        }
    }
}

/// Described by hand: the derive knows no enum whose variants carry no tag.
pub(super) fn body_schema() -> Schema {
    OneOfBuilder::new()
        .description(Some("What was done to get the answer, or one report per choice; our extension."))
        .item(Ref::from_schema_name("SearchReport"))
        .item(Ref::from_schema_name("SearchReports"))
        .into()
}

impl SearchBody {
    /// The reports of all choices, in their order. `None` where there is none.
    #[must_use]
    pub fn of(mut reports: Vec<SearchReport>) -> Option<Self> {
        if reports.len() == 1 {
            return reports.pop().map(|report| Self::One(Box::new(report)));
        }
        let first = reports.first()?;
        let (effort, mode, seed) = (first.effort, first.mode, first.seed);
        let spent = Spent {
            tokens: reports.iter().map(|report| report.spent.tokens).sum(),
            verifier_tokens: reports.iter().map(|report| report.spent.verifier_tokens).sum(),
            verified_steps: reports.iter().map(|report| report.spent.verified_steps).sum(),
        };
        let branches = Branches {
            made: reports.iter().map(|report| report.branches.made).sum(),
            kept: reports.iter().map(|report| report.branches.kept).sum(),
            pruned: reports.iter().map(|report| report.branches.pruned).sum(),
        };
        Some(Self::Many(SearchReports { effort, mode, seed, spent, branches, choices: reports }))
    }
}

impl SearchBody {
    /// Why the search stopped: of several choices, the first that did not
    /// simply come to its end.
    #[must_use]
    pub fn stop_reason(&self) -> &'static str {
        let completed = StopReason::Completed.name();
        match self {
            Self::One(report) => report.stop_reason,
            Self::Many(reports) => {
                let mut reasons = reports.choices.iter().map(|report| report.stop_reason);
                reasons.find(|reason| *reason != completed).unwrap_or(completed)
            }
        }
    }
}

/// Reports of several choices.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SearchReports {
    /// The effort that chose the mode.
    pub effort: &'static str,
    /// The mode that ran.
    pub mode: &'static str,
    /// The request's seed.
    pub seed: i64,
    /// Over all choices.
    pub spent: Spent,
    /// Over all choices.
    pub branches: Branches,
    /// One per choice.
    pub choices: Vec<SearchReport>,
}

/// What was done to get one choice.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SearchReport {
    /// Its number.
    pub index: u32,
    /// The effort that chose the mode.
    pub effort: &'static str,
    /// The mode that ran.
    pub mode: &'static str,
    /// The mode's settings.
    pub parameters: Parameters,
    /// The choice's bounds.
    pub budget: BudgetReport,
    /// What it took.
    pub spent: Spent,
    /// Branches by their fate.
    pub branches: Branches,
    /// The verifier; null where none took part.
    #[schema(required)]
    pub verifier: Option<String>,
    /// Unique positions of the choice's tree over the sum of its trajectories' lengths, prompt included; 1
    /// when nothing was shared.
    #[schema(required)]
    pub sharing_ratio: Option<f64>,
    /// The request's seed: sent again with the same request, it gives the same answer, unless a clock, a shutdown
    /// or a fault ended the search. An absent one was drawn from 53 bits, which every client's numbers hold.
    pub seed: i64,
    /// Why it stopped: `completed` (the mode had done all that it does), `budget_tokens`,
    /// `budget_branches`, `budget_verifier_tokens`, `deadline`, `context` (it was full), `shutdown`,
    /// `engine_fault` or `verifier_fault`.
    pub stop_reason: &'static str,
    /// One per trajectory.
    pub candidates: Vec<CandidateReport>,
    /// What was lowered, merged or degraded.
    pub notes: Vec<String>,
    /// Every branch with its text, where `reasoning.include_tree` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tree: Option<Vec<TreeNode>>,
}

/// What the mode ran with: its parameters and the temperature. Those that nobody named are included, and
/// what took the place of what was asked for; parameters that had no part are left out.
#[derive(Debug, Clone, ToSchema)]
pub struct Parameters {
    /// Softmax temperature.
    #[schema(required)]
    pub temperature: Option<f32>,
    /// The others, by name; described one by one in the finished document.
    #[schema(ignore)]
    pub settings: Settings,
}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("temperature", &self.temperature)?;
        for (parameter, setting) in self.settings.iter() {
            let name = parameter.spec().name;
            match setting {
                Setting::Count(count) => map.serialize_entry(name, &count)?,
                Setting::Number(number) => map.serialize_entry(name, &number)?,
                Setting::Choice(word) => map.serialize_entry(name, word)?,
                Setting::Flag(flag) => map.serialize_entry(name, &flag)?,
            }
        }
        map.end()
    }
}

/// A branch of the tree.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TreeNode {
    /// Its name within the choice, in the order of making.
    #[schema(minimum = 1)]
    pub id: u32,
    /// The branch at whose end it was forked; 0 is the prompt.
    pub parent: u32,
    /// Its own text, that of its parents left out.
    pub text: String,
    /// Its own tokens.
    pub tokens: u32,
    /// Whether it came to its end by itself.
    pub complete: bool,
    /// Mean log-probability of its own sampled tokens; null without any.
    #[schema(required)]
    pub mean_logprob: Option<f64>,
    /// The verifier's scores of the steps from the prompt to its end; empty where it was not scored.
    pub scores: Vec<f64>,
}

impl TreeNode {
    /// The branches of a tree, in the order of making.
    #[must_use]
    pub fn all(tree: &Tree) -> Vec<Self> {
        tree.iter()
            .map(|(id, node)| Self {
                id: id.0,
                parent: node.parent,
                text: node.text.clone(),
                tokens: u32::try_from(node.tokens.len()).unwrap_or(u32::MAX),
                complete: node.complete,
                mean_logprob: finite(node.mean_logprob()),
                scores: node.scores.clone(),
            })
            .collect()
    }
}

/// A choice's bounds.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct BudgetReport {
    /// Tokens generated, at most.
    pub tokens: u32,
    /// Part of `tokens` kept for completing an answer when the rest was spent.
    pub answer_reserve: u32,
    /// Branches made, at most.
    pub branches: u32,
    /// Tokens put through the verifier, at most; null without a bound.
    #[schema(required)]
    pub verifier_tokens: Option<u32>,
}

/// What a search took.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Spent {
    /// Tokens generated.
    pub tokens: u64,
    /// Tokens put through the verifier, its own prompt included.
    pub verifier_tokens: u64,
    /// Steps that it scored.
    pub verified_steps: u64,
}

/// Branches by their fate.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Branches {
    /// Made.
    pub made: u32,
    /// Ended with a complete trajectory.
    pub kept: u32,
    /// Given up.
    pub pruned: u32,
}

/// One trajectory.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CandidateReport {
    /// Its branch, as progress reports name it.
    pub branch: u32,
    /// Its final answer in canonical form; null where none can be extracted.
    #[schema(required)]
    pub answer: Option<String>,
    /// Mean log-probability of its tokens.
    #[schema(required)]
    pub mean_logprob: Option<f64>,
    /// What its mode ranks it by: an aggregated score of the verifier, a confidence; null where that is nothing
    /// else.
    #[schema(required)]
    pub score: Option<f64>,
    /// Tokens generated on it, from the prompt on.
    pub tokens: u32,
    /// Whether it came to its end by itself.
    pub complete: bool,
    /// Whether its text is the answer that was given.
    pub selected: bool,
}

/// The top-level `search` key of a chunk.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChunkSearch {
    /// How far a choice's search has come.
    Progress(ProgressReport),
    /// The end of a choice.
    Report(Box<SearchReport>),
}

/// How far a search has come.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProgressReport {
    /// The choice's number.
    pub index: u32,
    /// Branches so far.
    pub branches: ProgressBranches,
    /// Tokens generated so far.
    pub tokens: u32,
    /// The choice's budget, in tokens.
    pub budget: u32,
    /// The leading answer; null before there is one, and in modes of one branch.
    #[schema(required)]
    pub leading: Option<Leading>,
    /// Branches that have changed since the last report of this choice, by
    /// rising id. A branch that is made, resumed, ended or selected is reported
    /// at once, mere growth at most ten times a second.
    pub changed: Vec<BranchProgress>,
}

/// One branch, as far as it has grown.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BranchProgress {
    /// Its name within the choice, in the order of making.
    #[schema(minimum = 1)]
    pub id: u32,
    /// The branch at whose end it was forked; 0 is the prompt.
    pub parent: u32,
    /// Tokens on it, those of its parents left out.
    pub tokens: u32,
    /// `growing`: being decoded. `complete`: came to its end by itself. `cut`:
    /// met a bound, and may grow on. `pruned`: given up. `selected`: its text is
    /// the answer.
    pub state: &'static str,
    /// Its final answer, once it is complete and has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub answer: Option<String>,
    /// What it is worth, once it is known: the verifier's score of its last step, else the mean log-probability
    /// of its trajectory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub score: Option<f64>,
}

/// Branches so far.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct ProgressBranches {
    /// Made.
    pub made: u32,
    /// Ended.
    pub ended: u32,
    /// Wanted by the mode; null where that depends on what it finds.
    #[schema(required)]
    pub planned: Option<u32>,
}

/// The answer that leads a vote.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Leading {
    /// The answer.
    pub answer: String,
    /// Branches that gave it.
    pub votes: u32,
}

impl SearchReport {
    /// The report of the choice with that number.
    #[must_use]
    pub fn new(index: u32, report: &Report) -> Self {
        Self {
            index,
            effort: report.effort.name(),
            mode: report.mode.name(),
            parameters: Parameters {
                temperature: Some(report.temperature).filter(|value| value.is_finite()),
                settings: report.settings.clone(),
            },
            budget: BudgetReport {
                tokens: report.budget.tokens,
                answer_reserve: report.budget.reserve,
                branches: report.budget.branches,
                verifier_tokens: report.budget.verifier_tokens,
            },
            spent: Spent {
                tokens: report.spent_tokens.into(),
                verifier_tokens: report.verifier_tokens.into(),
                verified_steps: report.verifier_steps.into(),
            },
            branches: Branches {
                made: report.branches_made,
                kept: report.branches_kept,
                pruned: report.branches_pruned,
            },
            verifier: report.verifier.clone(),
            sharing_ratio: finite(report.sharing_ratio),
            // The client's seed is an i64: it must read the number that it sent.
            seed: report.seed.cast_signed(),
            stop_reason: report.stop_reason.name(),
            candidates: report.candidates.iter().map(CandidateReport::from).collect(),
            notes: report.notes.clone(),
            tree: None,
        }
    }
}

impl From<&Candidate> for CandidateReport {
    fn from(candidate: &Candidate) -> Self {
        Self {
            branch: candidate.branch.0,
            answer: candidate.answer.clone(),
            mean_logprob: finite(candidate.mean_logprob),
            score: candidate.score.and_then(finite),
            tokens: candidate.tokens,
            complete: candidate.complete,
            selected: candidate.selected,
        }
    }
}

impl ProgressReport {
    /// The progress of the choice with that number.
    #[must_use]
    pub fn new(index: u32, progress: &Progress) -> Self {
        Self {
            index,
            branches: ProgressBranches {
                made: progress.branches_made,
                ended: progress.branches_ended,
                planned: progress.branches_planned,
            },
            tokens: progress.tokens,
            budget: progress.budget,
            leading: progress
                .leading
                .as_ref()
                .map(|(answer, votes)| Leading { answer: answer.clone(), votes: *votes }),
            changed: progress.changed.iter().map(BranchProgress::from).collect(),
        }
    }
}

impl From<&BranchReport> for BranchProgress {
    fn from(branch: &BranchReport) -> Self {
        Self {
            id: branch.id.0,
            parent: branch.parent.0,
            tokens: branch.tokens,
            state: branch.state.name(),
            answer: branch.answer.clone(),
            score: branch.score.and_then(finite),
        }
    }
}

/// JSON knows neither NaN nor infinity.
fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}
