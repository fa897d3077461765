//! One trajectory on a verifier.
//!
//! On an engine that reads token streams, a lease holds a branch, so that
//! dropping it frees its KV, and a fork shares what was computed. Elsewhere it
//! holds the steps alone. It is told the whole text of its trajectory again and
//! again, and remembers how far it has read.

use super::format::Script;
use super::judge::Question;
use super::{Backend, Opening, Streams, Verifier, VerifyError, aside};
use crate::engine::Branch;
use crate::metrics::Metrics;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Mutex;

/// One trajectory on the verifier; dropping it frees its KV.
#[derive(Debug)]
pub struct Lease {
    verifier: Verifier,
    state: State,
    /// Bytes of the trajectory's text that were read.
    read: usize,
    scores: Vec<f64>,
    opening: u32,
}

/// What has been read.
#[derive(Debug)]
enum State {
    /// A stream on an engine.
    Stream { branch: Branch, script: Script },
    /// The steps, for a verifier that is told all of them every time.
    Transcript { transcript: Transcript, asking: Arc<Asking> },
}

/// How a run asks a judge.
#[derive(Debug)]
struct Asking {
    opening: Opening,
    /// Whose questions are on the judge's engine, where each is a request beside
    /// those of clients: of one run no more than one at a time, or a search of many
    /// trajectories would have the shares of as many clients.
    turn: Mutex<()>,
}

/// A solution as far as it was read, for a verifier that keeps no state.
#[derive(Debug, Clone)]
pub(super) struct Transcript {
    /// The problem.
    pub problem: Arc<str>,
    /// The steps, without their separators.
    pub steps: Vec<String>,
}

/// What is new in a trajectory and not scored yet.
#[derive(Debug)]
pub struct Reading {
    tokens: u32,
    steps: usize,
    /// Bytes of the text that will have been read.
    read: usize,
    work: Result<Work, VerifyError>,
}

#[derive(Debug)]
enum Work {
    /// Tokens from `from` on, and the positions at which scores are read.
    Stream { script: Script, from: usize, positions: Vec<usize> },
    /// All steps, for another server.
    Transcript(Transcript),
    /// All steps, and what a judge is asked about the new ones.
    Judge(Transcript, Vec<Question>),
}

/// What a verifier says of what was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// A score for every step.
    pub values: Vec<f64>,
    /// What they cost in tokens: [`Reading::tokens`], unless another server has
    /// counted itself.
    pub tokens: u32,
}

/// Scores to come, and their tokens where another server counts them.
type Coming = Pin<Box<dyn Future<Output = Result<(Vec<f64>, Option<u32>), VerifyError>> + Send + 'static>>;

/// Tokens that are counted when this is dropped: once it is known how many they
/// are, or once nobody waits any more.
struct Charge {
    metrics: Option<Arc<Metrics>>,
    tokens: u32,
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.verifier_tokens.inc_by(u64::from(self.tokens));
        }
    }
}

impl Reading {
    /// What scoring costs, in tokens that the verifier will read: exactly the
    /// new ones of a stream; of a judge all that it is asked, though some of it
    /// may be in its cache; an estimate where another server counts, which
    /// [`Scores::tokens`] corrects.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Steps that will be scored: none where they cannot even be asked about.
    #[must_use]
    pub fn steps(&self) -> usize {
        if self.work.is_ok() { self.steps } else { 0 }
    }
}

impl Lease {
    pub(super) fn of_stream(verifier: Verifier, branch: Branch, script: Script) -> Self {
        let opening = count(script.ids.len());
        Self { verifier, state: State::Stream { branch, script }, read: 0, scores: Vec::new(), opening }
    }

    pub(super) fn of_transcript(verifier: Verifier, problem: String, opening: Opening) -> Self {
        let transcript = Transcript { problem: problem.into(), steps: Vec::new() };
        let asking = Arc::new(Asking { opening, turn: Mutex::new(()) });
        let state = State::Transcript { transcript, asking };
        Self { verifier, state, read: 0, scores: Vec::new(), opening: 0 }
    }

    /// A lease of its own on what was computed so far, which is shared. Only
    /// while nothing is being scored on this one.
    #[must_use]
    pub fn fork(&self) -> Lease {
        let state = match &self.state {
            State::Stream { branch, script } => {
                State::Stream { branch: branch.fork(0), script: script.clone() }
            }
            State::Transcript { transcript, asking } => {
                State::Transcript { transcript: transcript.clone(), asking: Arc::clone(asking) }
            }
        };
        let (verifier, scores) = (self.verifier.clone(), self.scores.clone());
        Lease { verifier, state, read: self.read, scores, opening: self.opening }
    }

    /// The same, if this one still stands where it had read so many bytes, and not
    /// further on.
    #[must_use]
    pub fn fork_at(&self, read: usize) -> Option<Lease> {
        (self.read == read).then(|| self.fork())
    }

    /// Bytes of the trajectory's text that were read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.read
    }

    /// What is new in `text`, the whole text of the trajectory so far: steps
    /// that ended and were not scored, and, where the trajectory has `ended`,
    /// what follows the last separator. `None` where there is nothing new.
    /// Steps of nothing but blanks are none; a format that keeps blank lines reads
    /// those with the next step.
    #[must_use]
    pub fn read(&self, text: &str, ended: bool) -> Option<Reading> {
        aside(text.len(), || self.read_at_once(text, ended))
    }

    fn read_at_once(&self, text: &str, ended: bool) -> Option<Reading> {
        let new = text.get(self.read..)?;
        let (pieces, read) = pieces(new, self.verifier.separator(), ended);
        let lines = self.verifier.keeps_lines();
        let step = |piece: &Range<usize>| {
            let text = self.verifier.clean(&new[piece.clone()]);
            if lines { text.trim_end_matches('\r') } else { text.trim() }.to_owned()
        };
        let mut steps: Vec<String> = pieces.iter().map(step).collect();
        let written = |step: &String| !step.trim().is_empty();
        // Blank lines behind the last step wait for the next one, before which they stand.
        let last = steps.iter().rposition(written)?;
        let read = self.read + pieces.get(last + 1).map_or(read, |next| next.start);
        steps.truncate(last + 1);
        if !lines {
            steps.retain(written);
        }
        let count = steps.iter().filter(|step| written(step)).count();
        let (tokens, work) = match self.work(steps) {
            Ok((tokens, work)) => (tokens, Ok(work)),
            Err(fault) => (0, Err(fault)),
        };
        Some(Reading { tokens, steps: count, read, work })
    }

    /// What scoring these steps takes.
    fn work(&self, steps: Vec<String>) -> Result<(u32, Work), VerifyError> {
        match (&self.state, &self.verifier.source.backend) {
            (State::Stream { script, .. }, Backend::Engine(Streams { format, positions: context, .. })) => {
                let (mut script, from) = (script.clone(), script.ids.len());
                let positions = format.extend(&mut script, &steps)?;
                let (needed, context) = (script.ids.len(), *context);
                if needed > context {
                    return Err(VerifyError::Context { needed, context });
                }
                Ok((count(needed - from), Work::Stream { script, from, positions }))
            }
            (State::Transcript { transcript, .. }, Backend::Judge(engine, judge)) => {
                let mut transcript = transcript.clone();
                let known = transcript.steps.len();
                transcript.steps.extend(steps);
                let questions = judge.questions(&transcript, known, engine.caps().context)?;
                let tokens = questions.iter().map(|question| question.ids.len()).sum();
                Ok((count(tokens), Work::Judge(transcript, questions)))
            }
            (State::Transcript { transcript, .. }, Backend::Remote(remote)) => {
                let mut transcript = transcript.clone();
                transcript.steps.extend(steps);
                Ok((count(remote.estimate(&transcript)), Work::Transcript(transcript)))
            }
            // A lease is made by the verifier that it belongs to.
            (State::Stream { .. }, _) | (State::Transcript { .. }, Backend::Engine(_)) => {
                Err(VerifyError::Engine(crate::engine::EngineError::Misuse("a lease of another verifier")))
            }
        }
    }

    /// Starts scoring what was read on this lease. Where it runs on an engine of
    /// its own, the commands are sent at once; else the work begins with the
    /// first poll. The scores that come are put back with [`Lease::take`]. After
    /// an error, or where the future was dropped, the lease is of no further use.
    pub fn score(
        &mut self,
        reading: Reading,
    ) -> impl Future<Output = Result<Scores, VerifyError>> + Send + 'static + use<> {
        let Reading { tokens, steps, read, work } = reading;
        let mut charge = Some(Charge { metrics: self.verifier.metrics.clone(), tokens });
        if !matches!(self.verifier.source.backend, Backend::Remote(_)) {
            // What is begun is paid, whether or not anyone waits for it.
            drop(charge.take());
        }
        let coming = match work {
            Ok(work) => {
                self.read = read;
                self.begin(work, steps)
            }
            Err(fault) => Box::pin(std::future::ready(Err(fault))),
        };
        let (verifier, begun) = (self.verifier.clone(), Instant::now());
        async move {
            let scores = coming.await.and_then(|(values, counted)| match values.len() {
                found if found == steps => Ok(Scores { values, tokens: counted.unwrap_or(tokens) }),
                found => Err(VerifyError::Shape { expected: steps, found }),
            });
            if let (Some(charge), Ok(scores)) = (&mut charge, &scores) {
                charge.tokens = scores.tokens;
            }
            drop(charge);
            verifier.note(&scores);
            if let (Some(metrics), Ok(_)) = (&verifier.metrics, &scores) {
                metrics.verifier_steps.inc_by(steps as u64);
                metrics.verifier_seconds.observe(begun.elapsed().as_secs_f64());
            }
            scores
        }
    }

    fn begin(&mut self, work: Work, steps: usize) -> Coming {
        match (work, &mut self.state) {
            (Work::Stream { script: new, from, positions }, State::Stream { branch, script }) => {
                let Backend::Engine(streams) = &self.verifier.source.backend else {
                    return nothing();
                };
                let readout = streams.format.readout();
                branch.append(new.ids[from..].to_vec());
                let rows = branch.logits(positions, readout.ids());
                *script = new;
                Box::pin(async move {
                    let scores: Result<_, _> = rows.await?.iter().map(|row| readout.score(row)).collect();
                    Ok((scores?, None))
                })
            }
            (Work::Transcript(new), State::Transcript { transcript, .. }) => {
                *transcript = new.clone();
                let source = Arc::clone(&self.verifier.source);
                Box::pin(async move {
                    let Backend::Remote(remote) = &source.backend else { return Ok((Vec::new(), None)) };
                    remote.score(&new, steps).await
                })
            }
            (Work::Judge(new, questions), State::Transcript { transcript, asking }) => {
                *transcript = new;
                let (source, asking) = (Arc::clone(&self.verifier.source), Arc::clone(asking));
                Box::pin(async move {
                    let Backend::Judge(engine, judge) = &source.backend else {
                        return Ok((Vec::new(), None));
                    };
                    let _turn = asking.turn.lock().await;
                    Ok((judge.score(engine, questions, &asking.opening).await?, None))
                })
            }
            // A reading of another lease; that no scores come is told as such.
            (Work::Stream { .. }, _) | (Work::Transcript(_) | Work::Judge(..), _) => nothing(),
        }
    }

    /// Takes the scores of the steps that were read last.
    pub fn take(&mut self, scores: &[f64]) {
        self.scores.extend_from_slice(scores);
    }

    /// Scores of all steps so far, in order.
    #[must_use]
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// What opening the request cost: tokens of the verifier's own prompt.
    #[must_use]
    pub fn opening_tokens(&self) -> u32 {
        self.opening
    }

    #[cfg(test)]
    pub(super) fn stream(&self) -> (&Branch, &[crate::token::TokenId]) {
        match &self.state {
            State::Stream { branch, script } => (branch, &script.ids),
            State::Transcript { .. } => unreachable!("only streams are looked at"),
        }
    }
}

/// No score at all.
fn nothing() -> Coming {
    Box::pin(std::future::ready(Ok((Vec::new(), None))))
}

/// A number of tokens as reports have it.
fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// The pieces of `text` between separators, and how many bytes are done with:
/// what follows the last separator is a piece only of a text that has ended.
fn pieces(text: &str, separator: &str, ended: bool) -> (Vec<Range<usize>>, usize) {
    let (mut pieces, mut from) = (Vec::new(), 0);
    while let Some(at) = text[from..].find(separator) {
        pieces.push(from..from + at);
        from += at + separator.len();
    }
    if ended {
        pieces.push(from..text.len());
        from = text.len();
    }
    (pieces, from)
}
