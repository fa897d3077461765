//! Requests: what is asked, many at once, and what comes back as records.
//!
//! A server without room (429, 503) is asked again when it says so; any other
//! failure is a record of its own, for the reader to see.

use super::args::EvalArgs;
use super::arm::{self, Arm};
use super::grade::{Response, is_right};
use super::record::{Record, Store, fingerprint};
use super::suite::{Placed, Problem};
use crate::client::{Client, ClientError, Completion};
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a request is sent, at most.
const ATTEMPTS: u32 = 10;

/// The first pause before asking again, where the server names none; each next is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Bits by which seeds lie apart, so that no two problems of a suite share one.
const SEED_SHIFT: u32 = 20;

/// One request to be made.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    arm: &'a Arm,
    problem: &'a Problem,
    seed: u32,
    body: Value,
    /// Of the server, the request and what its answer is graded by.
    pub(super) fingerprint: String,
}

/// All requests of one arm: seed by seed, problems in the suite's order.
pub(super) fn all<'a>(
    args: &EvalArgs,
    (server, model): (&str, Option<&str>),
    arm: &'a Arm,
    problems: &'a [Placed],
) -> Vec<Asking<'a>> {
    let one = |seed: u32, place: usize, problem: &'a Problem| {
        let body =
            body(args, model, arm, problem, (u64::from(seed) << SEED_SHIFT).wrapping_add(place as u64));
        let check = format!("{:?}", problem.check);
        let parts = [server, &body.to_string(), &problem.answer, &check, &problem.family];
        Asking { arm, problem, seed, fingerprint: fingerprint(&parts), body }
    };
    let of_seed = |&seed: &u32| problems.iter().map(move |(place, problem)| one(seed, *place, problem));
    args.seeds.iter().flat_map(of_seed).collect()
}

fn body(args: &EvalArgs, model: Option<&str>, arm: &Arm, problem: &Problem, seed: u64) -> Value {
    let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
    let messages = system.chain([json!({"role": "user", "content": problem.problem})]);
    let mut body = json!({"messages": messages.collect::<Vec<Value>>(), "seed": seed});
    let optional = [
        ("model", model.map(Value::from)),
        ("temperature", args.temperature.map(Value::from)),
        ("max_completion_tokens", args.max_completion_tokens.map(Value::from)),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            body[field] = value;
        }
    }
    arm::merge(&mut body, &arm.fields);
    body
}

/// Makes the requests of one arm that `store` has no answer to, `concurrency` at
/// once. All its records come back in the order of `asking`.
///
/// # Errors
/// When a record cannot be written.
pub(super) async fn put(
    client: &Client,
    asking: &[Asking<'_>],
    concurrency: usize,
    store: &mut Store,
) -> io::Result<Vec<Record>> {
    let (known, open) = store.split(asking);
    let label = asking.first().map_or("", |one| &one.arm.label);
    let mut progress = Progress::new(label, asking.len(), &known);
    let asked = futures_util::stream::iter(open.into_iter().map(|one| one.put(client)));
    let mut answers = asked.buffer_unordered(concurrency);
    while let Some(record) = answers.next().await {
        progress.note(&record);
        store.add(record)?;
    }
    progress.bar.finish_and_clear();
    Ok(store.split(asking).0)
}

/// How far an arm is, for a person who watches, and how much of it is right.
struct Progress {
    bar: ProgressBar,
    right: u64,
}

impl Progress {
    fn new(label: &str, requests: usize, known: &[Record]) -> Self {
        let bar = ProgressBar::new(requests as u64);
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        bar.set_position(known.len() as u64);
        bar.reset_eta();
        Self { bar, right: known.iter().filter(|record| record.right).count() as u64 }
    }

    fn note(&mut self, record: &Record) {
        self.bar.inc(1);
        self.right += u64::from(record.right);
        let percent = 100.0 * self.right as f64 / self.bar.position() as f64;
        self.bar.set_message(format!("{} {percent:.1} %", record.arm));
    }
}

impl Asking<'_> {
    /// What tells this request apart from the others of a run.
    pub(super) fn key(&self) -> (String, String, u32) {
        (self.arm.label.clone(), self.problem.id.clone(), self.seed)
    }

    /// The most tokens that its response may take, as the body that is sent has it.
    pub(super) fn bound(&self) -> Option<u64> {
        arm::bound(&self.body)
    }

    async fn put(&self, client: &Client) -> Record {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let clock = Instant::now();
            let answer = client.complete(&self.body).await;
            let seconds = clock.elapsed().as_secs_f64();
            if let Err(ClientError::Refused { status: 429 | 503, retry_after, .. }) = &answer
                && attempts < ATTEMPTS
            {
                let own = PAUSE.saturating_mul(1 << (attempts - 1));
                let pause = retry_after.unwrap_or(own).clamp(PAUSE, LONGEST_PAUSE);
                // Spread, or all that were refused would come back at the same moment.
                tokio::time::sleep(pause.mul_f64(1.0 + 0.25 * rand::random::<f64>())).await;
                continue;
            }
            let (arm, id, seed) = self.key();
            let asked = Record {
                arm,
                id,
                seed,
                family: self.problem.family.clone(),
                seconds,
                started: started.as_secs_f64(),
                attempts,
                fingerprint: self.fingerprint.clone(),
                ..Record::default()
            };
            return match answer {
                Ok(completion) => self.graded(&completion, asked),
                Err(error) => Record { error: Some(error.to_string()), ..asked },
            };
        }
    }

    fn graded(&self, completion: &Completion, asked: Record) -> Record {
        let body = &completion.body;
        let choice = &body["choices"][0];
        let ignored = completion.ignored.clone();
        if choice.is_null() {
            return Record { error: Some("the response has no choice".to_owned()), ignored, ..asked };
        }
        let message = &choice["message"];
        let text = whole_text(message);
        let response = Response { content: message["content"].as_str().unwrap_or_default(), whole: &text };
        let (usage, search) = (&body["usage"], &body["search"]);
        let finish_reason = choice["finish_reason"].as_str().unwrap_or_default().to_owned();
        Record {
            right: is_right(&self.problem.check, &self.problem.answer, response),
            answer: self.problem.check.given(response),
            tokens: usage["completion_tokens"].as_u64(),
            reasoning_tokens: usage["completion_tokens_details"]["reasoning_tokens"].as_u64(),
            verifier_tokens: search["spent"]["verifier_tokens"].as_u64().unwrap_or(0),
            branches: search["branches"]["made"].as_u64().unwrap_or(1),
            stop_reason: search["stop_reason"].as_str().unwrap_or(&finish_reason).to_owned(),
            finish_reason,
            ignored,
            text,
            ..asked
        }
    }
}

/// Thought and answer as the model wrote them; some servers call the first
/// `reasoning`.
fn whole_text(message: &Value) -> String {
    let thought = message["reasoning_content"].as_str().or_else(|| message["reasoning"].as_str());
    let content = message["content"].as_str();
    format!("{}{}", thought.unwrap_or_default(), content.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_what_was_known_and_what_comes() {
        let record = |right| Record { arm: "low".to_owned(), right, ..Record::default() };
        let mut progress = Progress::new("low", 9, &[record(true), record(false), record(false)]);
        let seen =
            |progress: &Progress| (progress.bar.length(), progress.bar.position(), progress.bar.message());
        assert_eq!(seen(&progress), (Some(9), 3, "low".to_owned()));
        progress.note(&record(true));
        assert_eq!(seen(&progress), (Some(9), 4, "low 50.0 %".to_owned()));
    }
}
