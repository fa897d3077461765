//! What to do, decided before anything runs: `Params` (what the client asked)
//! become a [`Plan`] (nothing left open) by the model's effort table, the
//! budget rules and the engine's limits. All cross-field checks live here.
//!
//! The planner lowers the width of a search before it would truncate its
//! branches, and says so in the plan's notes.

mod budget;
mod effort;
mod mode;
mod parameter;
mod resolve;

use crate::engine::{Priority, Sampling};
pub use crate::prompt::Border;
use crate::prompt::{Message, PromptError, StopRule};
use crate::token::TokenId;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub use budget::{Budget, split};
pub use effort::{Config, Effort, ModeName, Row, TERM_KEYS, Terms};
pub use mode::{
    Asks, Auto, Beam, Best, Enough, Final, Mcts, Measure, Mode, Over, Rank, Scoring, Select, Steps, Variant,
    Verifiers, VoteStop, Voting, Weight,
};
pub use parameter::{Kind, PARAMETERS, Parameter, Setting, Settings, Spec};
pub use resolve::{Planner, PlannerParts};

/// A chat request after parsing: ranges checked, aliases folded, nothing
/// resolved yet. `None` means that the client left it to the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// The conversation, at least one message; `developer` is `system` here.
    pub messages: Vec<Message>,
    /// `reasoning_effort` or `reasoning.effort`.
    pub effort: Option<Effort>,
    /// `reasoning.mode`.
    pub mode: Option<ModeName>,
    /// Tokens generated for one choice over all its branches, at most.
    pub max_completion_tokens: Option<NonZeroU32>,
    /// Bounds on the whole request.
    pub budget: BudgetParams,
    /// Parameters of the mode.
    pub settings: Settings,
    /// Choices to return, 1 to 128.
    pub n: u32,
    /// 0 to 2.
    pub temperature: Option<f32>,
    /// 0 to 1.
    pub top_p: Option<f32>,
    /// The rest of how tokens are drawn.
    pub sampling: SamplingParams,
    /// Any 64-bit integer.
    pub seed: Option<i64>,
    /// Up to four stop strings, none empty.
    pub stop: Vec<String>,
    /// How much it matters beside other requests.
    pub priority: Priority,
    /// Keeps its prefixes in the cache apart from those of others.
    pub cache_salt: Option<Arc<str>>,
    /// `Some(k)` when `logprobs` is true, with `top_logprobs` = k (0 to 20).
    pub logprobs: Option<u8>,
}

/// How tokens are drawn, beyond temperature and nucleus.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingParams {
    /// 0 keeps all tokens.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// Above 0, at most 10.
    pub repetition_penalty: Option<f32>,
    /// -2 to 2.
    pub frequency_penalty: f32,
    /// -2 to 2.
    pub presence_penalty: f32,
    /// Ids, each once, with -100 to 100.
    pub logit_bias: Vec<(TokenId, f32)>,
}

/// `reasoning.budget`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BudgetParams {
    /// Tokens over all choices and branches.
    pub tokens: Option<NonZeroU32>,
    /// Whether `reasoning.max_tokens` said so, the other name of the field.
    pub by_max_tokens: bool,
    /// Wall-clock time, in seconds; positive and finite.
    pub seconds: Option<f64>,
    /// Branches made over all choices.
    pub branches: Option<NonZeroU32>,
    /// Tokens of the verifier over all choices.
    pub verifier_tokens: Option<u32>,
    /// Tokens of each choice that are kept for completing its answer.
    pub answer_reserve: Option<u32>,
}

/// Everything a run needs to know.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The tokenised conversation.
    pub prompt: Arc<[TokenId]>,
    /// The effort that chose the row.
    pub effort: Effort,
    /// The mode that will run.
    pub mode: Mode,
    /// What it runs with: [`Mode::settings`].
    pub settings: Settings,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Seed of the request; each choice derives its own from it.
    pub seed: u64,
    /// One budget per choice.
    pub choices: Vec<Budget>,
    /// Branches of the whole request alive at once, at least 1.
    pub live: usize,
    /// The longest that a branch may get, prompt included, in tokens.
    pub positions: usize,
    /// Stop strings, and where they begin to apply.
    pub stop: Arc<StopRule>,
    /// How the answer is told from the thought.
    pub marker: Option<Marker>,
    /// What ends a step.
    pub separator: Arc<str>,
    /// How much it matters beside other requests.
    pub priority: Priority,
    /// Keeps its prefixes in the cache apart from those of others.
    pub cache_salt: Option<Arc<str>>,
    /// Alternatives to report per visible token; `None` for no log-probabilities.
    pub logprobs: Option<u8>,
    /// Wall-clock limit.
    pub deadline: Option<Duration>,
    /// The conversation, for a verifier.
    pub messages: Arc<[Message]>,
    /// What was lowered, merged or degraded, and why: sentences for the report.
    pub notes: Vec<String>,
}

/// Where a thought ends and the answer begins, and how one is brought there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Where the answer begins in a text.
    pub border: Border,
    /// What is injected to make a thought come to its answer: the marker with
    /// the step separator before it, as tokens.
    pub inject: Vec<TokenId>,
    /// The same without the separator, for a thought that ends with one.
    pub inject_after_separator: Vec<TokenId>,
    /// The separator.
    pub separator: String,
}

/// Why a request cannot be planned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The prompt leaves no room to generate.
    #[error("the prompt has {tokens} tokens and the context is {context}")]
    ContextLength {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// The prompt is so long that it cannot fit, however it is cut into tokens.
    #[error("the prompt has {bytes} bytes, more than the context's {context} tokens can have")]
    Bytes {
        /// Bytes of the prompt.
        bytes: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// Fewer tokens or branches than choices.
    #[error("{field} is {value}, and n asks for {n} choices that need at least one each")]
    BudgetBelowChoices {
        /// The request's field.
        field: &'static str,
        /// Its value.
        value: u32,
        /// Choices asked for.
        n: u32,
    },
    /// A parameter that the mode does not have.
    #[error("{parameter} is no parameter of {mode}")]
    Parameter {
        /// The parameter.
        parameter: &'static str,
        /// The mode that the request names.
        mode: &'static str,
    },
    /// The sequence cannot fit the KV pool even with one branch.
    #[error("one branch needs {needed} KV blocks and the pool has {blocks}")]
    Pool {
        /// Blocks for the prompt and one branch.
        needed: usize,
        /// Blocks in the pool.
        blocks: usize,
    },
    /// `logit_bias` names an id that the model does not have.
    #[error("logit_bias names the token {id}, and the vocabulary has {vocab}")]
    Vocabulary {
        /// The id.
        id: TokenId,
        /// Tokens of the vocabulary.
        vocab: usize,
    },
    /// The conversation could not be turned into a prompt.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}
