//! `espalier eval`: a suite of problems put to a server over HTTP, graded and
//! counted.
//!
//! Any OpenAI-compatible endpoint can be measured: nothing but chat completions
//! is used, and the right answers never leave this module. With equal arguments
//! and a server that keeps its promises, a run is reproducible: each problem's
//! seed is the base seed plus its place in the suite. A failed request counts as
//! wrong. Starting a server is deliberately absent: the caller has one.

mod grade;
mod suite;
mod table;

use crate::client::{Client, ClientError};
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use grade::{Check, is_right};
pub use suite::Problem;
pub use table::{EffortSummary, Row};

/// How long a server may take until it lists its models.
const READY: Duration = Duration::from_secs(60);

/// The arguments of `espalier eval`.
#[derive(Debug, Clone, clap::Args)]
pub struct EvalArgs {
    /// The problems, one JSON object a line: id, family, problem, answer, check.
    #[arg(long, value_name = "FILE", default_value = "models/seedling/eval/dev.jsonl")]
    pub suite: PathBuf,
    /// Base URL of a running server; without it, one is started for the run.
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Model to name in requests; without it, the first that the server lists.
    #[arg(long, value_name = "NAME")]
    pub request_model: Option<String>,
    /// Values of reasoning_effort to measure, separated by commas.
    #[arg(long, value_name = "EFFORTS", value_delimiter = ',', default_value = "low")]
    pub effort: Vec<String>,
    /// Ask only the first N problems of each family.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Requests in flight at once.
    #[arg(long, value_name = "N", default_value = "32")]
    pub concurrency: NonZeroUsize,
    /// Sampling temperature; without it, the server's own.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Base of the seeds: a problem's seed is this plus its line in the suite, from 0.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: i64,
    /// max_completion_tokens of each request; without it, the server's own.
    #[arg(long, value_name = "N")]
    pub max_completion_tokens: Option<u32>,
    /// Write every response with its verdict to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What a run reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// One per effort, in the order asked for.
    pub efforts: Vec<EffortSummary>,
}

impl Summary {
    /// Requests that failed, over all efforts.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.efforts.iter().map(|effort| effort.errors).sum()
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
    /// The server is not there.
    #[error(transparent)]
    Server(#[from] ClientError),
    /// The results could not be written.
    #[error("results: {0}")]
    Output(#[from] io::Error),
}

/// One problem's response with its verdict.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
struct Response {
    id: String,
    family: String,
    right: bool,
    completion_tokens: u64,
    finish_reason: String,
    /// From sending to the whole response, in seconds.
    seconds: f64,
    /// Thought and answer, in the order in which the model wrote them.
    text: String,
    /// Why the request failed.
    error: Option<String>,
}

/// Measures the server at `endpoint` and writes a table per effort to `out`.
///
/// # Errors
/// When the suite is unusable, the server is not there, or the results cannot be
/// written; a failed request is none of these.
pub async fn run(args: &EvalArgs, endpoint: &str, out: &mut dyn Write) -> Result<Summary, EvalError> {
    let problems = suite::read(&args.suite, args.limit)?;
    let client = Client::new(endpoint)?;
    client.wait_ready(READY).await?;
    let model = match &args.request_model {
        Some(model) => Some(model.clone()),
        None => client.models().await?.into_iter().next(),
    };
    let mut efforts = Vec::new();
    let mut records = Vec::new();
    for effort in &args.effort {
        let started = Instant::now();
        let asked = Asked { args, client: &client, model: model.as_deref(), effort };
        let responses = asked.all(&problems).await;
        let summary = EffortSummary::of(effort, &responses, started.elapsed());
        summary.write(out)?;
        failures(&responses, out)?;
        writeln!(out)?;
        records.push(json!({
            "effort": effort,
            "wall_seconds": summary.wall.as_secs_f64(),
            "tokens_per_second": summary.tokens_per_second(),
            "responses": responses,
        }));
        efforts.push(summary);
    }
    if let Some(file) = &args.json {
        let run = json!({
            "endpoint": endpoint, "model": model, "suite": args.suite, "seed": args.seed,
            "temperature": args.temperature, "max_completion_tokens": args.max_completion_tokens,
            "efforts": records,
        });
        write_json(file, &run)?;
    }
    Ok(Summary { efforts })
}

/// What all requests of one effort have in common.
struct Asked<'a> {
    args: &'a EvalArgs,
    client: &'a Client,
    model: Option<&'a str>,
    effort: &'a str,
}

impl Asked<'_> {
    /// Puts all problems to the server; the responses come in the suite's order.
    async fn all(&self, problems: &[(usize, Problem)]) -> Vec<Response> {
        let bar = ProgressBar::new(problems.len() as u64).with_message(self.effort.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        let asked = problems.iter().enumerate().map(|(order, (place, problem))| {
            let bar = &bar;
            async move {
                let response = self.one(*place, problem).await;
                bar.inc(1);
                (order, response)
            }
        });
        let stream = futures_util::stream::iter(asked).buffer_unordered(self.args.concurrency.get());
        let mut responses: Vec<(usize, Response)> = stream.collect().await;
        bar.finish_and_clear();
        responses.sort_unstable_by_key(|(order, _)| *order);
        responses.into_iter().map(|(_, response)| response).collect()
    }

    async fn one(&self, place: usize, problem: &Problem) -> Response {
        let started = Instant::now();
        let answer = self.client.chat(&self.body(place, problem)).await;
        let seconds = started.elapsed().as_secs_f64();
        let named = Response {
            id: problem.id.clone(),
            family: problem.family.clone(),
            seconds,
            ..Response::default()
        };
        match answer {
            Err(error) => Response { error: Some(error.to_string()), ..named },
            Ok(body) => {
                let choice = &body["choices"][0];
                let text = whole_text(&choice["message"]);
                Response {
                    right: is_right(&problem.check, &problem.answer, &text),
                    completion_tokens: body["usage"]["completion_tokens"].as_u64().unwrap_or(0),
                    finish_reason: choice["finish_reason"].as_str().unwrap_or_default().to_owned(),
                    error: choice.is_null().then(|| "the response has no choice".to_owned()),
                    text,
                    ..named
                }
            }
        }
    }

    fn body(&self, place: usize, problem: &Problem) -> Value {
        let seed = self.args.seed.wrapping_add_unsigned(place as u64);
        let mut body = json!({
            "messages": [{"role": "user", "content": problem.problem}],
            "reasoning_effort": self.effort,
            "seed": seed,
        });
        let optional = [
            ("model", self.model.map(Value::from)),
            ("temperature", self.args.temperature.map(Value::from)),
            ("max_completion_tokens", self.args.max_completion_tokens.map(Value::from)),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                body[field] = value;
            }
        }
        body
    }
}

/// Thought and answer as the model wrote them; some servers call the first
/// `reasoning`.
fn whole_text(message: &Value) -> String {
    let thought = message["reasoning_content"].as_str().or_else(|| message["reasoning"].as_str());
    let content = message["content"].as_str();
    format!("{}{}", thought.unwrap_or_default(), content.unwrap_or_default())
}

/// Writes what went wrong, each message once with how often it came.
fn failures(responses: &[Response], out: &mut dyn Write) -> io::Result<()> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for message in responses.iter().filter_map(|r| r.error.as_deref()) {
        *counts.entry(message).or_default() += 1;
    }
    for (message, count) in counts {
        writeln!(out, "failed {count} times: {message}")?;
    }
    Ok(())
}

fn write_json(file: &Path, run: &Value) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", file.display()));
    let mut text = serde_json::to_string_pretty(run)?;
    text.push('\n');
    std::fs::write(file, text).map_err(named)
}

#[cfg(test)]
mod tests;
