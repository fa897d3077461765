//! `espalier bench perplexity`: what quantising costs, and what it gives.
//!
//! One run measures a model as it is, quantised by each mix, and any other
//! models beside it, over the same text: perplexity (the exponential of the mean
//! negative log-likelihood of each token after the ones before it), bytes of
//! matrices, and decode speed. A file is cut into windows of equal length, each
//! read from its start. Without a file the text is a suite's problems through
//! the chat template, each with the first model's own greedy answer, and only the
//! answers are predicted: text of the kind that the model writes, whatever it is.

use super::BenchError;
use super::engine::{self, Rates};
use crate::app::{self, Hub, Loaded};
use crate::config::{EngineArgs, ModelArgs};
use crate::engine::tree::model::Model;
use crate::engine::tree::quant::Quantize;
use crate::engine::tree::{self, TreeEngine};
use crate::engine::{EngineError, EngineThread, Handle, Open, Sampling, Segment, SegmentEvent, channel};
use crate::metrics::Metrics;
use crate::prompt::{ChatTemplate, Message, StopRule, Tokenizer};
use crate::token::TokenId;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens of a window, or the model's context where that is less.
const WINDOW: usize = 512;

/// Logits that are asked for at once, at most.
const LOGITS: usize = 1 << 22;

/// The longest greedy answer, in tokens.
const ANSWER: usize = 256;

/// The arguments of `espalier bench perplexity`.
#[derive(Debug, Clone, clap::Args)]
pub struct PerplexityOptions {
    /// The text to predict [default: the suite's problems with the model's own greedy answers].
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Problems, one JSON object a line, where no text is given.
    #[arg(long, value_name = "FILE", default_value = "models/seedling/eval/dev.jsonl")]
    pub suite: PathBuf,
    /// Windows of the text, or problems, at most.
    #[arg(long, value_name = "N", default_value = "200")]
    pub limit: NonZeroUsize,
    /// Mixes to quantise the model to, separated by commas.
    #[arg(long, value_name = "MIXES", value_delimiter = ',', default_value = "q8_0,q4_k_m")]
    pub mixes: Vec<String>,
    /// Another model to measure beside it, such as a GGUF file; may be repeated.
    #[arg(long, value_name = "MODEL")]
    pub against: Vec<String>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    text: String,
    threads: usize,
    models: Vec<Row>,
}

/// One model.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    formats: Vec<String>,
    matrix_bytes: usize,
    /// Tokens that were predicted.
    tokens: usize,
    perplexity: f64,
    /// Decode speed, where the context is long enough for its workloads.
    #[serde(flatten)]
    rates: Option<Rates>,
}

#[derive(Deserialize)]
struct Problem {
    problem: String,
}

/// Text of which a part is predicted.
#[derive(Debug)]
struct Text {
    /// What comes before, through the chat template; empty where nothing does.
    prompt: String,
    predicted: String,
}

/// Tokens, and the first of them that is predicted, at least 1.
type Sequence = (Vec<TokenId>, usize);

/// A model on its engine, ready to predict.
struct Subject {
    handle: Handle,
    tokenizer: Arc<Tokenizer>,
    _thread: EngineThread,
}

/// Measures and prints.
///
/// # Errors
/// When a model, the text or the engine fails.
pub async fn run(
    options: &PerplexityOptions,
    args: &EngineArgs,
    hub: &Hub,
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let own = Quantize::parse(&args.model.quantize).map_or("none", Quantize::name);
    let mut asked = vec![(args.model.name.clone(), own)];
    for mix in &options.mixes {
        let mix = Quantize::parse(mix).ok_or_else(|| {
            let names = Quantize::NAMES[1..].join(" or ");
            BenchError::Broken(format!("--mixes holds `{mix}` and must hold {names}"))
        })?;
        asked.push((args.model.name.clone(), mix.name()));
    }
    asked.extend(options.against.iter().map(|name| (name.clone(), "none")));
    let mut texts = match &options.text {
        Some(file) => {
            Some((file.display().to_string(), vec![Text { prompt: String::new(), predicted: read(file)? }]))
        }
        None => None,
    };
    let config = app::tree_config(args);
    let mut models = Vec::new();
    for (name, mix) in asked {
        let model = ModelArgs { name: name.clone(), quantize: mix.to_owned(), ..args.model.clone() };
        let loaded = app::find(&model, hub).await?.check()?.load(&mut |_, _| {})?;
        let Loaded { model, tokenizer, template, eos, .. } = loaded;
        let (model, tokenizer) = (Arc::new(model), Arc::new(tokenizer));
        let subject = Subject::new(&model, &tokenizer, &config)?;
        let (_, texts) = match &mut texts {
            Some(texts) => &*texts,
            absent => absent.insert(subject.answered(options, (&template, &eos), &name).await?),
        };
        let sequences = subject.sequences(texts, options.limit.get())?;
        let (tokens, loss) = subject.loss(&sequences).await?;
        drop(subject);
        models.push(Row {
            model: if mix == "none" { name } else { format!("{name}, {mix}") },
            formats: model.formats().iter().map(|(kind, (count, _))| format!("{count} {kind}")).collect(),
            matrix_bytes: model.formats().values().map(|(_, bytes)| bytes).sum(),
            tokens,
            perplexity: (loss / tokens.max(1) as f64).exp(),
            rates: engine::rates_of(Arc::clone(&model), tokenizer, &config).await?,
        });
    }
    let text = texts.map(|(what, _)| what).unwrap_or_default();
    let report = Report { text, threads: config.threads, models };
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    report.table(out)?;
    Ok(())
}

fn read(file: &Path) -> Result<String, BenchError> {
    let text = std::fs::read_to_string(file);
    text.map_err(|cause| BenchError::Broken(format!("cannot read '{}': {cause}", file.display())))
}

impl Subject {
    fn new(
        model: &Arc<Model>,
        tokenizer: &Arc<Tokenizer>,
        config: &tree::Config,
    ) -> Result<Self, BenchError> {
        let metrics = Metrics::new().map_err(|error| BenchError::Broken(error.to_string()))?.engine;
        let engine = TreeEngine::new(Arc::clone(model), Vec::new(), Arc::clone(tokenizer), metrics, config)?;
        let (thread, handle) = EngineThread::spawn(engine)?;
        Ok(Self { handle, tokenizer: Arc::clone(tokenizer), _thread: thread })
    }

    /// Problems through the template with this model's greedy answers; and what
    /// they are, for people.
    async fn answered(
        &self,
        options: &PerplexityOptions,
        (template, eos): (&ChatTemplate, &[TokenId]),
        name: &str,
    ) -> Result<(String, Vec<Text>), BenchError> {
        let suite = options.suite.display();
        let mut texts = Vec::new();
        for (line, json) in read(&options.suite)?.lines().enumerate().take(options.limit.get()) {
            let Problem { problem } = serde_json::from_str(json)
                .map_err(|error| BenchError::Broken(format!("{suite}, line {}: {error}", line + 1)))?;
            let prompt = template.render(&[Message { role: "user", content: problem }], None)?;
            let answer = self.greedy(&self.tokenizer.encode_prompt(&prompt)?, eos).await?;
            let bytes: Vec<u8> = answer.iter().flat_map(|id| self.tokenizer.token_bytes(*id)).collect();
            texts.push(Text { prompt, predicted: String::from_utf8_lossy(&bytes).into_owned() });
        }
        Ok((format!("greedy answers of {name} to {} problems of {suite}", texts.len()), texts))
    }

    async fn greedy(&self, prompt: &[TokenId], eos: &[TokenId]) -> Result<Vec<TokenId>, BenchError> {
        let room = self.handle.caps().context.saturating_sub(prompt.len()).min(ANSWER);
        let root = self.handle.open(Open::new(prompt.into(), prompt.len() + room, 1)).await?;
        let (events, mut inbox) = channel();
        let segment = Segment {
            inject: Vec::new(),
            max_tokens: room as u32,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            stop: Arc::new(StopRule::default()),
            top_logprobs: 0,
            step: None,
            live: true,
        };
        root.decode(segment, 0, &events);
        let mut ids = Vec::new();
        loop {
            match inbox.recv().await {
                Some((_, SegmentEvent::Token(token))) => {
                    ids.push(token.id);
                    // The engine was given no end of text, so that all models
                    // go as far as this.
                    if eos.contains(&token.id) {
                        return Ok(ids);
                    }
                }
                Some((_, SegmentEvent::End { .. })) => return Ok(ids),
                Some((_, SegmentEvent::Failed(error))) => return Err(error.into()),
                None => return Err(EngineError::Closed.into()),
            }
        }
    }

    /// The tokens of each text, cut into windows.
    fn sequences(&self, texts: &[Text], limit: usize) -> Result<Vec<Sequence>, BenchError> {
        let window = self.handle.caps().context.min(WINDOW);
        let mut sequences = Vec::new();
        for Text { prompt, predicted } in texts {
            let before = self.tokenizer.encode_prompt(prompt)?;
            let tokens = self.tokenizer.encode(predicted)?;
            for part in tokens.chunks(window.saturating_sub(before.len()).max(1)) {
                let sequence: Vec<TokenId> = before.iter().chain(part).copied().take(window).collect();
                sequences.push((sequence, before.len().max(1)));
            }
        }
        sequences.truncate(limit);
        Ok(sequences)
    }

    /// Tokens that were predicted, and the sum of their negative
    /// log-likelihoods.
    async fn loss(&self, sequences: &[Sequence]) -> Result<(usize, f64), BenchError> {
        let chunk = (LOGITS / self.handle.caps().vocab.max(1)).clamp(1, WINDOW);
        let (mut tokens, mut loss) = (0, 0.0);
        for (sequence, from) in sequences.iter().filter(|(sequence, from)| sequence.len() > *from) {
            let given = &sequence[..sequence.len() - 1];
            let mut chunks = given.chunks(chunk);
            let first = chunks.next().unwrap_or_default();
            let branch = self.handle.open(Open::new(first.into(), given.len(), 1)).await?;
            let mut at = 0;
            let mut size = first.len();
            loop {
                let rows = branch.logits((at..at + size).collect(), Vec::new()).await?;
                for (row, next) in rows.iter().zip(at + 1..).filter(|(_, next)| next >= from) {
                    loss += surprise(row, sequence[next]);
                    tokens += 1;
                }
                at += size;
                let Some(next) = chunks.next() else { break };
                branch.append(next.to_vec());
                size = next.len();
            }
        }
        Ok((tokens, loss))
    }
}

/// The negative log-likelihood of a token under logits.
fn surprise(logits: &[f32], token: TokenId) -> f64 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let own = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(own - largest)
}

impl Report {
    fn table(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "text     {}", self.text)?;
        writeln!(out, "threads  {}\n", self.threads)?;
        let width = self.models.iter().map(|row| row.model.chars().count()).max().unwrap_or(0).max(5);
        writeln!(
            out,
            "{:width$}  {:>9}  {:>8}  {:>10}  {:>8}  {:>12}  {:>12}  matrices",
            "model", "MiB", "tokens", "perplexity", "change", "1 branch", "64 branches"
        )?;
        let first = self.models.first().map_or(1.0, |row| row.perplexity);
        for row in &self.models {
            let rate = |of: fn(Rates) -> f64| {
                row.rates.map_or_else(|| "-".to_owned(), |rates| format!("{:.0} tok/s", of(rates)))
            };
            writeln!(
                out,
                "{:width$}  {:>9.1}  {:>8}  {:>10.4}  {:>+7.2}%  {:>12}  {:>12}  {}",
                row.model,
                row.matrix_bytes as f64 / f64::from(1u32 << 20),
                row.tokens,
                row.perplexity,
                (row.perplexity / first - 1.0) * 100.0,
                rate(|rates| rates.one),
                rate(|rates| rates.many),
                row.formats.join(", ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surprise_of_a_token_is_that_of_the_softmax() {
        let logits = [1.0, 2.0, 3.0];
        let sum: f64 = [1f64, 2.0, 3.0].iter().map(|x| x.exp()).sum();
        for (token, logit) in [(0, 1f64), (2, 3.0)] {
            assert!((surprise(&logits, token) - (sum.ln() - logit)).abs() < 1e-6);
        }
        assert!((surprise(&[1e4, -1e4], 0)).abs() < 1e-9, "without overflow");
        assert_eq!(surprise(&[0.0], 7), f64::INFINITY);
    }

    #[tokio::test]
    async fn a_model_and_its_mixes_are_measured_over_the_same_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("text.txt");
        std::fs::write(&file, "Compute (3 + 4) * 5. The answer is 35. ".repeat(30)).expect("written");
        let suite = folder.path().join("suite.jsonl");
        std::fs::write(&suite, "{\"problem\": \"Compute (3 + 4) * 5.\"}\n".repeat(3)).expect("written");
        for text in [Some(file), None] {
            let options = PerplexityOptions {
                text,
                suite: suite.clone(),
                limit: NonZeroUsize::new(2).expect("two"),
                mixes: vec!["q8_0".to_owned()],
                against: vec!["seedling-prm".to_owned()],
                json: true,
            };
            let mut out = Vec::new();
            let environment = crate::config::Environment::default();
            let hub = Hub::new(&environment);
            run(&options, &EngineArgs::default(), &hub, &mut out).await.expect("measures");
            let report: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            let models = report["models"].as_array().expect("a list");
            let names: Vec<&str> = models.iter().filter_map(|row| row["model"].as_str()).collect();
            assert_eq!(names, ["seedling", "seedling, q8_0", "seedling-prm"]);
            let number = |i: usize, key: &str| models[i][key].as_f64().expect("a number");
            assert_eq!(
                (number(0, "tokens"), number(1, "tokens")),
                (number(2, "tokens"), number(0, "tokens"))
            );
            assert!(number(0, "tokens") > 10.0);
            // Quantising to 8 bits changes something, but little; another model
            // is another matter.
            let (base, eight) = (number(0, "perplexity"), number(1, "perplexity"));
            assert!(base > 1.0 && base != eight && (eight / base - 1.0).abs() < 0.02, "{base} {eight}");
            // Eight bits and a scale for 32 weights, in the place of sixteen.
            assert!(number(1, "matrix_bytes") < 0.54 * number(0, "matrix_bytes"));
            assert!((0..3).all(|i| number(i, "one") > 0.0 && number(i, "many") > 0.0));
        }
    }
}
