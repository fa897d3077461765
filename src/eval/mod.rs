//! `espalier eval`: a suite of problems put to a server over HTTP in several
//! ways, graded, counted and compared.
//!
//! Any OpenAI-compatible endpoint can be measured: nothing but chat completions
//! is used, fields that are not OpenAI's are sent only where an arm names them,
//! and the right answers never leave this module. With equal arguments and a
//! server that keeps its promises, a run is reproducible: a request's seed is
//! made of the run's seed and the problem's place in the suite. A failed request
//! counts as wrong and is listed. Starting a server is deliberately absent: the
//! caller has one.

mod args;
mod arm;
mod ask;
mod compare;
mod grade;
mod grid;
mod plot;
mod record;
mod report;
mod stats;
mod suite;
mod table;

use crate::client::{Client, ClientError};
use ask::Asking;
use record::Store;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

pub use args::EvalArgs;
pub use arm::Arm;
pub use compare::{Comparison, Difference, Pair};
pub use grade::{Check, Response, is_right};
pub use record::Record;
pub use suite::Problem;
pub use table::{ArmSummary, Row, Spread};

/// How long a server may take until it lists its models.
const READY: Duration = Duration::from_secs(60);

/// The server that is asked.
pub struct Target {
    /// Its base URL.
    pub endpoint: String,
    /// Its API key, if it wants one.
    pub key: Option<String>,
    /// What it is, in words: results of another are not taken for its own. A URL
    /// does where the server stays; one that is started for a run has a new one
    /// each time.
    pub identity: String,
}

/// What a run reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// One per arm, in the order asked for.
    pub arms: Vec<ArmSummary>,
    /// One per pair of arms compared.
    pub comparisons: Vec<Comparison>,
}

impl Summary {
    /// Requests that failed, over all arms.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.arms.iter().map(ArmSummary::errors).sum()
    }
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The suite is unusable.
    #[error("suite {file}: {problem}")]
    Suite {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The arms, their comparisons or the seeds make no run.
    #[error("{0}")]
    Arms(String),
    /// The server is not there.
    #[error(transparent)]
    Server(#[from] ClientError),
    /// Results of an earlier run answer something else.
    #[error(
        "{file}: the response of arm '{arm}' to {id} with seed {seed} answers another request than this run's: \
         the arm's fields, the server, the model or the problem has changed; give the arm another label or \
         the run another --out"
    )]
    Changed {
        /// The file.
        file: String,
        /// The arm's label.
        arm: String,
        /// The problem.
        id: String,
        /// One of the seeds.
        seed: u32,
    },
    /// Results of an earlier run cannot be read.
    #[error("{file}: line {line} is no result ({cause}); mend it or give another --out")]
    Record {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// The results could not be written.
    #[error("results: {0}")]
    Output(#[from] io::Error),
}

/// Measures a server and writes a table per arm to `out`, and tables of costs and
/// differences where there are several arms or seeds; all of it and more to the
/// folder of `--out`.
///
/// # Errors
/// When the suite or the arms are unusable, the server is not there, or results
/// cannot be read or written; a failed request is none of these.
pub async fn run(args: &EvalArgs, target: &Target, out: &mut dyn Write) -> Result<Summary, EvalError> {
    let arms = arm::all(args).map_err(EvalError::Arms)?;
    let pairs = compare::pairs(&args.compare, &arms).map_err(EvalError::Arms)?;
    if args.seeds.iter().collect::<BTreeSet<_>>().len() != args.seeds.len() {
        return Err(EvalError::Arms("--seeds names a seed twice; each is asked once".to_owned()));
    }
    let problems = suite::read(&args.suite, args.limit, &args.families)?;
    let client = Client::with_key(&target.endpoint, target.key.as_deref())?;
    // Or one request that is never answered would keep the whole run from its end.
    let client = client.giving_up_after(Duration::from_secs(args.timeout.get()));
    let model = model(args, &client).await?;

    let asked = |arm| ask::all(args, (&target.identity, model.as_deref()), arm, &problems);
    let asking: Vec<Vec<Asking<'_>>> = arms.iter().map(asked).collect();
    let every: Vec<&Asking<'_>> = asking.iter().flatten().collect();
    let mut store = Store::open(args.out.as_deref(), &every)?;
    let kept = store.answered(&every);
    if kept > 0 {
        writeln!(out, "{kept} of {} responses are there from an earlier run\n", every.len())?;
    }
    let mut records = Vec::new();
    let mut summaries: Vec<ArmSummary> = Vec::new();
    for (arm, asking) in arms.iter().zip(&asking) {
        let of_arm = ask::put(&client, asking, args.concurrency.get(), &mut store).await?;
        // Alike for all of an arm's requests.
        let bound = asking.first().and_then(Asking::bound);
        let summary = ArmSummary::of(arm, bound, &of_arm);
        summary.write(out)?;
        summaries.push(summary);
        records.push(of_arm);
    }
    store.finish(&every)?;

    let place = |label: &str| arms.iter().position(|arm| arm.label == label);
    let compared = pairs.iter().filter_map(|pair| {
        let (from, to) = (place(&pair.from)?, place(&pair.to)?);
        Some(Comparison::of(pair, &records[from], &records[to]))
    });
    let summary = Summary { comparisons: compared.collect(), arms: summaries };
    if arms.len() > 1 || args.seeds.len() > 1 {
        writeln!(out, "{}", report::plain(&summary))?;
    }
    if let Some(folder) = &args.out {
        let setup = json!({
            "suite": args.suite, "problems": problems.len(), "families": args.families, "limit": args.limit,
            "endpoint": args.endpoint, "model": model, "seeds": args.seeds, "system": args.system,
            "temperature": args.temperature, "max_completion_tokens": args.max_completion_tokens,
            "concurrency": args.concurrency, "timeout": args.timeout,
        });
        report::write(folder, &summary, &setup)?;
    }
    Ok(summary)
}

/// The model to name in requests, once the server is there: the one given, else
/// the first that the server lists.
async fn model(args: &EvalArgs, client: &Client) -> Result<Option<String>, EvalError> {
    match (client.wait_ready(READY).await, &args.request_model) {
        (Ok(()), None) => Ok(client.models().await?.into_iter().next()),
        // Not every server lists its models; what is asked of it will show whether it is one.
        (Ok(()) | Err(ClientError::Refused { status: 404 | 405 | 501, .. }), Some(model)) => {
            Ok(Some(model.clone()))
        }
        (Err(error), _) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
