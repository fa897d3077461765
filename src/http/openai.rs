//! OpenAI's wire types and our extensions to them.
//!
//! Domain types are not `Serialize`: everything that leaves the server has a
//! twin here. Requests are validated by hand (`super::params`), because only
//! that gives an error message with the exact path; their types here describe
//! them to readers of the OpenAPI document, and a test keeps both lists of
//! fields equal.

mod request;
mod response;
mod search;

pub use request::{
    AssistantMessage, BudgetRequest, ChatRequest, ContentPart, FunctionMessage, MessageRequest,
    ReasoningRequest, RefusalPart, ResponseFormat, StreamOptions, TextMessage, TextPart,
};
pub use response::{
    AnswerMessage, ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, CompletionDetails, Delta, ErrorBody,
    ErrorObject, LogprobToken, Logprobs, Model, ModelList, PromptDetails, TopLogprob, UsageBody,
};
pub use search::{
    BranchProgress, Branches, BudgetReport, CandidateReport, ChunkSearch, Leading, Parameters,
    ProgressBranches, ProgressReport, SearchBody, SearchReport, SearchReports, Spent, TreeNode,
};
