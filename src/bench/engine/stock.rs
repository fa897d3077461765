//! Workload C by stock mistral.rs, with the feature `mistralrs`.

use super::BenchError;
use super::measure::{PEER_RUNS, Plan, Subject};
use super::report::{Report, Stock as Figures};
use super::spread::Spread;
use super::workload::{Name, Workload, tokens_of};
use crate::engine::mistralrs::{Decoded, Stock, StockError};
use crate::token::TokenId;
use std::path::Path;

/// What is asked of it.
struct Job<'a> {
    /// A checkpoint's directory.
    directory: &'a Path,
    /// One for each branch.
    prompts: Vec<Vec<TokenId>>,
    /// Ids that must not end a branch.
    eos: Vec<TokenId>,
    /// Tokens that each branch decodes.
    new: usize,
    runs: usize,
}

/// Adds its rates to a report that has ours, with its prefix cache off and on.
///
/// # Errors
/// When workload C was not measured.
pub(super) async fn beside(
    report: Report,
    subject: &Subject,
    plan: &Plan,
    directory: &Path,
    eos: Vec<TokenId>,
) -> Result<Report, BenchError> {
    let missing = || BenchError::Broken("mistral.rs is measured beside workload C".to_owned());
    let workload = plan.workloads.iter().find(|workload| workload.name == Name::C).ok_or_else(missing)?;
    let row = report.workloads.iter().find(|row| row.name == Name::C).ok_or_else(missing)?;
    let ours = row.tokens_per_second.median;
    let prompts = prompts(workload, subject.model.config().vocab);
    let job = Job { directory, prompts, eos, new: plan.new, runs: plan.runs.min(PEER_RUNS) };
    let off = cell(&job, false).await;
    let on = cell(&job, true).await;
    let best = [&off, &on].into_iter().filter_map(|cell| cell.as_ref().ok());
    let best = best.map(|rate| rate.median).max_by(f64::total_cmp);
    let figures = Figures {
        ratio: best.map(|best| ours / best),
        off: off.map_err(|error| error.to_string()).into(),
        on: on.map_err(|error| error.to_string()).into(),
    };
    Ok(Report { mistralrs: Some(figures), ..report })
}

/// The prompts of a workload, whole: what its branches share, and their own.
fn prompts(workload: &Workload, vocab: usize) -> Vec<Vec<TokenId>> {
    let shared = tokens_of(vocab, 0, workload.shared);
    let own = |(i, own): (usize, usize)| [shared.clone(), tokens_of(vocab, 1 + i as u64, own)].concat();
    workload.owns().into_iter().enumerate().map(own).collect()
}

async fn cell(job: &Job<'_>, prefix_cache: bool) -> Result<Spread, BenchError> {
    let stock = Stock::load(job.directory, job.prompts.len(), prefix_cache).await?;
    // The first run is not counted, and what a run spends as a rule before each
    // branch's first token is taken off, as it is for ours.
    stock.decode(&job.prompts, 1, &job.eos).await?;
    let (mut firsts, mut runs) = (Vec::new(), Vec::new());
    for _ in 0..job.runs {
        firsts.push(stock.decode(&job.prompts, 1, &job.eos).await?.time.as_secs_f64());
        runs.push(stock.decode(&job.prompts, 1 + job.new, &job.eos).await?);
    }
    let first = Spread::of(firsts).median;
    let rates: Result<Vec<f64>, StockError> = runs.into_iter().map(|run| rate(job, first, run)).collect();
    Ok(Spread::of(rates?))
}

/// Tokens per second of a run behind its branches' first tokens, which took
/// `first` seconds.
fn rate(job: &Job<'_>, first: f64, run: Decoded) -> Result<f64, StockError> {
    let tokens = job.prompts.len() * job.new;
    let time = run.time.as_secs_f64() - first;
    match run.tokens == tokens + job.prompts.len() && time > 0.0 {
        true => Ok(tokens as f64 / time),
        false => Err(StockError::Request(format!("{} tokens, and {time} s behind the first", run.tokens))),
    }
}
