//! The command line of `espalier eval`.

use super::arm::{self, Arm};
use super::compare::{self, Pair};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

/// The arguments of `espalier eval`.
#[derive(Debug, Clone, clap::Args)]
pub struct EvalArgs {
    /// The problems, one JSON object a line: id, family, problem, answer, check.
    #[arg(long, value_name = "FILE", default_value = "models/seedling/eval/dev.jsonl")]
    pub suite: PathBuf,
    /// Base URL of a running server; without it, one is started for the run.
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Variable of the environment that holds the endpoint's API key.
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    pub api_key_env: Option<String>,
    /// Model to name in requests; without it, with --endpoint that of --model, else the first that the
    /// server lists.
    #[arg(long, value_name = "NAME")]
    pub request_model: Option<String>,
    /// Values of reasoning_effort, each an arm [default: low, where no arm is given].
    #[arg(long, alias = "effort", value_name = "EFFORTS", value_delimiter = ',')]
    pub efforts: Vec<String>,
    /// Values of reasoning.mode, each an arm.
    #[arg(long, value_name = "MODES", value_delimiter = ',')]
    pub modes: Vec<String>,
    /// An arm of any request fields, as in 'b8={"reasoning":{"mode":"beam","width":8}}'; repeatable.
    #[arg(long = "arm", value_name = "LABEL=JSON", value_parser = arm::parse)]
    pub arms: Vec<Arm>,
    /// Values of reasoning.budget.tokens; each makes an arm LABEL@N of every other arm.
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    pub budget: Vec<NonZeroU32>,
    /// Sampling temperature of arms that set none; without it, the server's own.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// max_completion_tokens of arms that set none; without it, the server's own.
    #[arg(long, value_name = "N")]
    pub max_completion_tokens: Option<u32>,
    /// A system message before each problem, for endpoints that do not ask for a chain of thought and a
    /// boxed answer by themselves.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Ask only the first N problems of each family.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Ask only problems of these families.
    #[arg(long, value_name = "FAMILIES", value_delimiter = ',')]
    pub families: Vec<String>,
    /// Ask every problem once with each of these seeds; comparisons want four. A request's seed is this
    /// times 2^20 plus the problem's line in the suite, from 0.
    #[arg(long, alias = "seed", value_name = "SEEDS", value_delimiter = ',', default_value = "0")]
    pub seeds: Vec<u32>,
    /// Requests in flight at once.
    #[arg(long, value_name = "N", default_value = "32")]
    pub concurrency: NonZeroUsize,
    /// Seconds after which a request without a whole answer has failed; above the server's own
    /// --request-timeout, whose requests end with the best answer so far.
    #[arg(long, value_name = "SECONDS", default_value = "900")]
    pub timeout: NonZeroU64,
    /// Two arms to compare, B minus A; repeatable. Without it, each arm is compared with the one before.
    #[arg(long, value_name = "A,B", value_parser = compare::parse)]
    pub compare: Vec<Pair>,
    /// Folder for results.jsonl, summary.json, summary.md and accuracy.svg. What results.jsonl has already
    /// is not asked again.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
