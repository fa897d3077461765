//! A process reward model behind vLLM's `POST /pooling`.
//!
//! The server is told the whole solution every time and answers with a row for
//! every step; its own prefix cache is what keeps that cheap. A row is a
//! probability, or those of the two labels: `[wrong, right]` of a model with a
//! head (`qwen_prm`), `[good, bad]` of two tokens in the formats of tag logits
//! (`math_shepherd`, `math_psa`, `versa_prm`). What a question costs is an estimate
//! by bytes until it is answered, and then what the server counts
//! (`usage.prompt_tokens`), what was in its cache included.
//!
//! Formats of tag logits need a server that pools logits, and is told the good
//! token first (`returned_token_ids: [648, 387]` for Math-Shepherd; VersaPRM's
//! authors write the bad one first). vLLM did so when it took them up
//! (vllm-project/vllm#9697); later it takes these ids for columns of the hidden
//! states (#13559, #16545), and gives softmaxed numbers that mean nothing. So the
//! model is shown solutions that are plainly right and wrong when the program
//! starts, or else before its first score, and is refused where it does not tell
//! them apart.
//!
//! Deliberately absent: models whose scores `/pooling` does not give by steps
//! (RLHFlow, Skywork), and ways to log in but a key.

use super::clean::Cleaner;
use super::config::Kind;
use super::lease::Transcript;
use super::{Aggregate, VerifyError, probability};
use probe::Verdict;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::OnceCell;

mod error;
mod probe;

pub use error::RemoteError;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// How long the program waits for a probe when it starts.
const START: Duration = Duration::from_secs(10);

/// Pauses before further tries, where another try may help.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// What the probabilities of two labels may be off 1: they are rounded to 16 bits.
const ROUNDED: f64 = 0.02;

/// Bytes of text to a token, about: to estimate what a solution will cost.
const BYTES_A_TOKEN: usize = 4;

/// Characters of a refusal that are shown.
const EXCERPT: usize = 200;

/// Where a model is served, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    /// The server, for example `http://host:8000/`.
    pub url: String,
    /// The model's name there; without it, the first that the server lists.
    pub model: Option<String>,
    /// How it is read; without it, what its name says.
    pub kind: Option<Kind>,
    /// What lets one in, where the server asks for it.
    pub key: Option<ApiKey>,
}

/// What a server asks for to let one in, as a header. Its `Debug` keeps the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// A key; `None` where it holds characters that no header can.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        let mut header = HeaderValue::from_str(&format!("Bearer {}", key.trim())).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }
}

/// A model on another server.
#[derive(Debug)]
pub struct Remote {
    http: reqwest::Client,
    /// With a slash at its end.
    base: String,
    model: String,
    kind: Kind,
    cleaner: Cleaner,
    /// What its probe said, once it was answered.
    probed: OnceCell<Verdict>,
}

impl Remote {
    /// Makes out the model and how it is read; asks the server where the
    /// configuration does not name the model, and probes it where its format has tag
    /// logits. A server that cannot be probed yet is before its first score.
    ///
    /// # Errors
    /// When the address is none, the server does not list a model, its format is not
    /// known or not one that `/pooling` gives by steps, or its scores are none.
    pub async fn find(config: RemoteConfig) -> Result<Self, RemoteError> {
        let url = config.url;
        let address = |cause: String| RemoteError::Address { url: url.clone(), cause };
        let parsed = Url::parse(&url).map_err(|error| address(error.to_string()))?;
        let login = !parsed.username().is_empty() || parsed.password().is_some();
        if login || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(RemoteError::Login);
        }
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).timeout(ANSWER);
        if parsed.host_str().is_some_and(is_here) {
            // A proxy that the environment names would look for it elsewhere.
            builder = builder.no_proxy();
        }
        if let Some(ApiKey(header)) = config.key {
            builder = builder.default_headers([(AUTHORIZATION, header)].into_iter().collect());
        }
        let http = builder.build().map_err(|error| address(error.to_string()))?;
        let base = format!("{}/", url.trim_end_matches('/').trim_end_matches("/v1"));
        let model = match config.model {
            Some(model) => model,
            None => {
                let listed = answer(&base, || http.get(format!("{base}v1/models"))).await?;
                let first = listed["data"][0]["id"].as_str().map(str::to_owned);
                first.ok_or_else(|| RemoteError::NoModel(base.clone()))?
            }
        };
        let kind = config.kind.or_else(|| Kind::recognise(&model, None));
        let kind = kind.filter(|kind| *kind == Kind::QwenPrm || kind.plain().is_some());
        let kind = kind.ok_or_else(|| RemoteError::Format { url: base.clone(), model: model.clone() })?;
        let tag = kind.markers()[0].unwrap_or_default();
        let blank = tag.trim().is_empty() || kind == Kind::QwenPrm;
        let (anywhere, word) = if blank { (Some(tag), None) } else { (None, Some(tag.to_owned())) };
        let cleaner = Cleaner::new(anywhere.map(str::to_owned).into_iter().collect(), word).guessing();
        let remote = Self { http, base, model, kind, cleaner, probed: OnceCell::new() };
        match tokio::time::timeout(START, remote.proven()).await {
            Ok(Err(noise @ RemoteError::Noise { .. })) => return Err(noise),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the process reward model will be probed before its first score");
            }
            Err(_) => tracing::warn!("the process reward model will be probed before its first score"),
            Ok(Ok(())) => {}
        }
        Ok(remote)
    }

    /// The model's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The server's address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    pub(super) fn aggregate(&self) -> Aggregate {
        self.kind.aggregate()
    }

    pub(super) fn separator(&self) -> &'static str {
        self.kind.separator()
    }

    pub(super) fn cleaner(&self) -> &Cleaner {
        &self.cleaner
    }

    /// About how many tokens a solution is.
    pub(super) fn estimate(&self, transcript: &Transcript) -> usize {
        let steps = transcript.steps.iter().map(|step| step.len() + BYTES_A_TOKEN);
        (transcript.problem.len() + steps.sum::<usize>()).div_ceil(BYTES_A_TOKEN)
    }

    /// The scores of the last `new` steps, and how many tokens the server has read
    /// for them, where it says so.
    pub(super) async fn score(
        &self,
        transcript: &Transcript,
        new: usize,
    ) -> Result<(Vec<f64>, Option<u32>), VerifyError> {
        self.proven().await?;
        self.ask(transcript, new).await
    }

    /// Probes a model whose numbers may be none of its scores, once.
    async fn proven(&self) -> Result<(), RemoteError> {
        if self.kind.plain().is_none() {
            return Ok(());
        }
        self.probed.get_or_try_init(|| probe::probe(self)).await?.clone()
    }

    async fn ask(&self, transcript: &Transcript, new: usize) -> Result<(Vec<f64>, Option<u32>), VerifyError> {
        let url = format!("{}pooling", self.base);
        let body = self.body(transcript);
        let value = answer(&self.base, || self.http.post(&url).json(&body)).await?;
        let strange = |what: String| RemoteError::Answer { url: self.base.clone(), what };
        let rows = value["data"][0]["data"].as_array();
        let rows = rows.ok_or_else(|| strange("data[0].data is not a list of rows".to_owned()))?;
        let (expected, found) = (transcript.steps.len(), rows.len());
        if found != expected {
            return Err(VerifyError::Steps { expected, found });
        }
        let score = |row: &Value| {
            let labels: Option<Vec<f64>> = match row.as_array() {
                None => row.as_f64().map(|only| vec![only]),
                Some(labels) => labels.iter().map(Value::as_f64).collect(),
            };
            match labels.as_deref() {
                Some(&[only]) => probability(only),
                Some(&[first, second]) => {
                    // A head names what is wrong first, and the formats of two tokens the good one.
                    let score = probability(if self.kind == Kind::QwenPrm { second } else { first })?;
                    let whole = (first + second - 1.0).abs() <= ROUNDED;
                    let what = || strange(format!("a step's row is {row}, whose sum is not 1"));
                    whole.then_some(score).ok_or_else(|| what().into())
                }
                _ => Err(strange(format!("a step's row is {row}")).into()),
            }
        };
        let scores: Result<Vec<f64>, VerifyError> =
            rows[found - new.min(found)..].iter().map(score).collect();
        // No solution is of no tokens, so 0 says nothing.
        let tokens = value["usage"]["prompt_tokens"].as_u64().filter(|tokens| *tokens > 0);
        Ok((scores?, tokens.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX))))
    }

    fn body(&self, Transcript { problem, steps }: &Transcript) -> Value {
        let Some([first, between, after]) = self.kind.plain() else {
            let tag = self.kind.markers()[0].unwrap_or_default();
            let solution: String = steps.iter().map(|step| format!("{step}{tag}")).collect();
            let said = |role: &str, content: &str| json!({"role": role, "content": content});
            let system = self.kind.system().map(|text| said("system", text));
            let turns = [said("user", problem), said("assistant", &solution)];
            let messages: Vec<Value> = system.into_iter().chain(turns).collect();
            return json!({
                "model": self.model, "messages": messages, "add_generation_prompt": false,
                "encoding_format": "float",
            });
        };
        let mut text = problem.to_string();
        for (index, step) in steps.iter().enumerate() {
            text.push_str(if index == 0 { first } else { between });
            text.push_str(step);
            text.push_str(after);
        }
        json!({"model": self.model, "input": text, "encoding_format": "float"})
    }
}

/// Asks until there is an answer, or one more try would not help.
async fn answer(url: &str, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Value, RemoteError> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let (error, again) = match request().send().await {
            Err(error) => failed(url, &error),
            Ok(response) => {
                let status = response.status();
                match response.bytes().await {
                    Err(error) => failed(url, &error),
                    Ok(body) if status.is_success() => {
                        return serde_json::from_slice(&body)
                            .map_err(|e| RemoteError::Answer { url: url.to_owned(), what: e.to_string() });
                    }
                    Ok(body) => refused(url, status, &body),
                }
            }
        };
        match pauses.next() {
            Some(pause) if again => tokio::time::sleep(pause).await,
            _ => return Err(error),
        }
    }
}

/// A failure to get an answer, and whether another try may help.
fn failed(url: &str, error: &reqwest::Error) -> (RemoteError, bool) {
    let url = url.to_owned();
    if error.is_timeout() && !error.is_connect() {
        return (RemoteError::TimedOut { url, seconds: ANSWER.as_secs() }, false);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    (RemoteError::Unreachable { url, cause: cause.to_string() }, true)
}

/// A refusal, and whether another try may help.
fn refused(url: &str, status: StatusCode, body: &[u8]) -> (RemoteError, bool) {
    let text = String::from_utf8_lossy(body);
    // vLLM's envelope, old and new.
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let said = value["error"]["message"].as_str().or_else(|| value["message"].as_str());
    let message: String = said.unwrap_or(text.trim()).chars().take(EXCERPT).collect();
    let busy = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    (RemoteError::Refused { url: url.to_owned(), status: status.as_u16(), message }, busy)
}

/// Whether a host is this machine.
fn is_here(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
