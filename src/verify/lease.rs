//! One trajectory on a verifier.
//!
//! A lease holds a branch of the verifier's own engine, so that dropping it
//! frees its KV, and a fork shares what was computed. It is told the whole text
//! of its trajectory again and again, and remembers how far it has read.

use super::format::{Script, verdict};
use super::{Verifier, VerifyError};
use crate::engine::Branch;
use crate::token::TokenId;
use std::ops::Range;

/// One trajectory on the verifier; dropping it frees its KV.
#[derive(Debug)]
pub struct Lease {
    verifier: Verifier,
    branch: Branch,
    script: Script,
    /// Bytes of the trajectory's text that were read.
    read: usize,
    scores: Vec<f64>,
    opening: u32,
}

/// What is new in a trajectory and not scored yet.
#[derive(Debug)]
pub struct Reading {
    script: Script,
    /// Where the new tokens begin in the stream.
    from: usize,
    /// The positions at which the steps' scores are read.
    positions: Vec<usize>,
    /// Bytes of the text that will have been read.
    read: usize,
    fault: Option<VerifyError>,
}

impl Reading {
    /// What scoring costs: tokens of the verifier that will be computed.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        u32::try_from(self.script.ids.len() - self.from).unwrap_or(u32::MAX)
    }

    /// Steps that will be scored.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.positions.len()
    }
}

impl Lease {
    pub(super) fn new(verifier: Verifier, branch: Branch, script: Script) -> Self {
        let opening = u32::try_from(script.ids.len()).unwrap_or(u32::MAX);
        Self { verifier, branch, script, read: 0, scores: Vec::new(), opening }
    }

    /// A lease of its own on what was computed so far, which is shared. Only
    /// while nothing is being scored on this one.
    #[must_use]
    pub fn fork(&self) -> Lease {
        Lease {
            verifier: self.verifier.clone(),
            branch: self.branch.fork(0),
            script: self.script.clone(),
            read: self.read,
            scores: self.scores.clone(),
            opening: self.opening,
        }
    }

    /// What is new in `text`, the whole text of the trajectory so far: steps
    /// that ended and were not scored, and, where the trajectory has `ended`,
    /// what follows the last separator. `None` where there is nothing new.
    /// Steps of nothing but blanks are none.
    #[must_use]
    pub fn read(&self, text: &str, ended: bool) -> Option<Reading> {
        let new = text.get(self.read..)?;
        let mut script = self.script.clone();
        let (mut positions, mut fault) = (Vec::new(), None);
        let format = self.verifier.format();
        let (pieces, read) = pieces(new, format.separator(), ended);
        for piece in pieces {
            let step = format.clean(&new[piece]);
            let step = step.trim();
            if step.is_empty() || fault.is_some() {
                continue;
            }
            fault = format.extend(&mut script, step).err();
            positions.push(script.ids.len() - 1);
        }
        let from = self.script.ids.len();
        (!positions.is_empty()).then(|| Reading { script, from, positions, read: self.read + read, fault })
    }

    /// Starts scoring what was read on this lease. The commands are sent at
    /// once; the scores that come are put back with [`Lease::take`]. After an
    /// error, or where the future was dropped, the lease is of no further use.
    pub fn score(
        &mut self,
        reading: Reading,
    ) -> impl Future<Output = Result<Vec<f64>, VerifyError>> + Send + 'static + use<> {
        let [good, bad] = self.verifier.format().verdicts();
        let context = self.verifier.positions();
        let needed = reading.script.ids.len();
        let fault = reading.fault.or((needed > context).then_some(VerifyError::Context { needed, context }));
        let sent = match fault {
            Some(fault) => Err(fault),
            None => {
                let new: Vec<TokenId> = reading.script.ids[reading.from..].to_vec();
                self.branch.append(new);
                (self.script, self.read) = (reading.script, reading.read);
                Ok(self.branch.logits(reading.positions, vec![good, bad]))
            }
        };
        async move {
            let rows = sent?.await?;
            rows.iter()
                .map(|row| match row.as_slice() {
                    &[good, bad] => check(verdict(good, bad)),
                    other => Err(VerifyError::Shape { expected: 2, found: other.len() }),
                })
                .collect()
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
    pub(super) fn script(&self) -> &[TokenId] {
        &self.script.ids
    }

    #[cfg(test)]
    pub(super) fn branch(&self) -> &Branch {
        &self.branch
    }
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

/// A score is a probability.
fn check(score: f64) -> Result<f64, VerifyError> {
    if (0.0..=1.0).contains(&score) { Ok(score) } else { Err(VerifyError::Score(score.to_string())) }
}
