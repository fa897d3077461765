//! What a run tells its client: deltas, progress, and one `Done`.

use super::tree::{NodeId, Tree};
use crate::engine::Token;
use crate::plan::{Budget, Effort, Mode, Settings};

/// One event of one choice.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceEvent {
    /// Index of the choice.
    pub index: u32,
    /// What happened.
    pub event: Event,
}

/// What happened to a choice. After `Done` nothing follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the selected trajectory's thought.
    Thought(String),
    /// More of the answer; never retracted.
    Content {
        /// The text.
        text: String,
        /// Its tokens, where log-probabilities were asked for.
        tokens: Vec<Token>,
    },
    /// A search came further; nothing of the answer is known yet.
    Progress(Progress),
    /// The choice is complete.
    Done(Box<Finished>),
}

/// How far a search has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Branches made so far.
    pub branches_made: u32,
    /// Of those, ended.
    pub branches_ended: u32,
    /// Branches that the mode wants, where that is known.
    pub branches_planned: Option<u32>,
    /// Tokens generated so far.
    pub tokens: u32,
    /// The choice's budget, in tokens.
    pub budget: u32,
    /// The leading answer and how many branches gave it.
    pub leading: Option<(String, u32)>,
    /// Whether it is told after the outcome of a branch and so worth a line for
    /// people; else only growth is reported, to machines that asked for it.
    pub outcome: bool,
    /// Branches that have changed since the last report, in the order of their
    /// ids; empty unless the run is watched.
    pub changed: Vec<BranchReport>,
}

/// One branch, as far as it has grown.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchReport {
    /// Its name, in the order of making.
    pub id: NodeId,
    /// What it was forked from.
    pub parent: NodeId,
    /// Tokens on it, those before its fork left out.
    pub tokens: u32,
    /// What has become of it.
    pub state: BranchState,
    /// Its canonical final answer, if it has one.
    pub answer: Option<String>,
    /// The verifier's score of its last step, else the mean log-probability of
    /// its trajectory.
    pub score: Option<f64>,
}

/// What has become of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchState {
    /// It is being decoded.
    Growing,
    /// It came to its end by itself.
    Complete,
    /// It met a bound; it may yet grow on.
    Cut,
    /// It was given up.
    Pruned,
    /// Its text is the answer.
    Selected,
}

impl BranchState {
    /// All of them, for documents.
    pub const ALL: [BranchState; 5] = [
        BranchState::Growing,
        BranchState::Complete,
        BranchState::Cut,
        BranchState::Pruned,
        BranchState::Selected,
    ];

    /// The value in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BranchState::Growing => "growing",
            BranchState::Complete => "complete",
            BranchState::Cut => "cut",
            BranchState::Pruned => "pruned",
            BranchState::Selected => "selected",
        }
    }
}

impl Progress {
    /// One short line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let planned = self.branches_planned.unwrap_or(self.branches_made);
        let mut line = format!(
            "{} of {planned} branches ended, {} of {} tokens",
            self.branches_ended, self.tokens, self.budget
        );
        if let Some((answer, votes)) = &self.leading {
            line.push_str(&format!(", leading answer {answer} ({votes})"));
        }
        line.push('\n');
        line
    }
}

/// How a choice ended, in OpenAI's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The answer is complete.
    Stop,
    /// The answer was cut by a token bound.
    Length,
}

/// The end of a choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Whether the answer is complete.
    pub finish: Finish,
    /// Tokens of this choice.
    pub usage: Usage,
    /// What was done to get it.
    pub report: Report,
    /// Every branch with every token.
    pub tree: Tree,
}

/// Tokens of one choice. The prompt is counted once per request, not here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Every token generated: sampled or injected, on any branch.
    pub completion_tokens: u32,
    /// All of those but the tokens of the visible answer.
    pub reasoning_tokens: u32,
}

/// Why a choice's search stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The mode had done all that it does.
    Completed,
    /// The token budget was spent.
    Tokens,
    /// The branches of the budget were made.
    Branches,
    /// The deadline passed.
    Deadline,
    /// The context was full.
    Context,
    /// The engine failed on a branch; the answer comes from what was there.
    EngineFault,
    /// The server is going down; the answer comes from what was there.
    Shutdown,
    /// The verifier's part of the budget was spent.
    VerifierTokens,
    /// The verifier failed; the answer comes from what was there.
    VerifierFault,
}

impl StopReason {
    /// All of them, for metrics.
    pub const ALL: [StopReason; 9] = [
        StopReason::Completed,
        StopReason::Tokens,
        StopReason::Branches,
        StopReason::Deadline,
        StopReason::Context,
        StopReason::EngineFault,
        StopReason::Shutdown,
        StopReason::VerifierTokens,
        StopReason::VerifierFault,
    ];

    /// The value in reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StopReason::Completed => "completed",
            StopReason::Tokens => "budget_tokens",
            StopReason::Branches => "budget_branches",
            StopReason::Deadline => "deadline",
            StopReason::Context => "context",
            StopReason::EngineFault => "engine_fault",
            StopReason::Shutdown => "shutdown",
            StopReason::VerifierTokens => "budget_verifier_tokens",
            StopReason::VerifierFault => "verifier_fault",
        }
    }
}

/// What a choice's search did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The effort that chose the row of the table.
    pub effort: Effort,
    /// The mode that ran, with its settings.
    pub mode: Mode,
    /// The same as parameters, the default ones included.
    pub settings: Settings,
    /// Temperature that was used.
    pub temperature: f32,
    /// The choice's bounds.
    pub budget: Budget,
    /// Tokens generated.
    pub spent_tokens: u32,
    /// The verifier that took part.
    pub verifier: Option<String>,
    /// Tokens put through it.
    pub verifier_tokens: u32,
    /// Steps that it scored.
    pub verifier_steps: u32,
    /// Branches made.
    pub branches_made: u32,
    /// Branches that ended with a complete trajectory.
    pub branches_kept: u32,
    /// Branches given up.
    pub branches_pruned: u32,
    /// Unique positions in the choice's tree over the sum of its trajectories'
    /// lengths, prompt included; 1 when nothing was shared.
    pub sharing_ratio: f64,
    /// The request's seed: sent again, it gives the same answer.
    pub seed: u64,
    /// Why it stopped.
    pub stop_reason: StopReason,
    /// One per trajectory, in the order of their branches.
    pub candidates: Vec<Candidate>,
    /// What was lowered, merged or degraded.
    pub notes: Vec<String>,
}

/// One trajectory of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its branch.
    pub branch: NodeId,
    /// Its canonical final answer, if it has one.
    pub answer: Option<String>,
    /// Mean log-probability of its sampled tokens.
    pub mean_logprob: f64,
    /// What its mode ranks it by, where that is something else.
    pub score: Option<f64>,
    /// Tokens generated on it, from the prompt on.
    pub tokens: u32,
    /// Whether it came to its end by itself.
    pub complete: bool,
    /// Whether its text is the answer that was given.
    pub selected: bool,
}
