//! What all clients together have done, and what was wrong.

use super::again::Sample;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Samples kept of each model, at most.
const SAMPLES: usize = 200;

/// Faults kept, at most: the first ones tell most.
const FAULTS: usize = 50;

/// The counts of all clients.
#[derive(Debug, Default)]
pub(super) struct Tally {
    begun: AtomicU64,
    ended: AtomicU64,
    tokens: AtomicU64,
    deeds: [AtomicU64; Deed::ALL.len()],
    faults: Mutex<Vec<String>>,
    samples: Mutex<[Vec<Sample>; 2]>,
}

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// A branch was forked.
    Fork,
    /// A segment was decoded to its end.
    Segment,
    /// A segment was aborted.
    Abort,
    /// A branch was dropped while it decoded.
    Cancel,
    /// A branch was cut short.
    Truncation,
    /// Tokens were put at the end of a branch.
    Append,
    /// Logits were asked for.
    Scoring,
    /// A whole request was dropped in the middle.
    Departure,
    /// A deadline passed, wherever the request was.
    Deadline,
    /// A request's account was compared with the engine's.
    Account,
}

impl Deed {
    pub(super) const ALL: [Deed; 10] = [
        Deed::Fork,
        Deed::Segment,
        Deed::Abort,
        Deed::Cancel,
        Deed::Truncation,
        Deed::Append,
        Deed::Scoring,
        Deed::Departure,
        Deed::Deadline,
        Deed::Account,
    ];

    fn text(self) -> &'static str {
        match self {
            Deed::Fork => "forks",
            Deed::Segment => "segments to their end",
            Deed::Abort => "segments aborted",
            Deed::Cancel => "branches dropped while they decoded",
            Deed::Truncation => "truncations",
            Deed::Append => "appends",
            Deed::Scoring => "scorings",
            Deed::Departure => "requests dropped in the middle",
            Deed::Deadline => "requests cut by a deadline",
            Deed::Account => "accounts equal to the engine's",
        }
    }
}

impl Tally {
    /// Takes the right to one more request; `false` where there were `most`.
    pub(super) fn begin(&self, most: Option<u64>) -> bool {
        most.is_none_or(|most| self.begun.fetch_add(1, Relaxed) < most)
    }

    /// A request is over.
    pub(super) fn end(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// Requests that are over.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// A token was heard.
    pub(super) fn token(&self) {
        self.tokens.fetch_add(1, Relaxed);
    }

    /// Tokens heard.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens.load(Relaxed)
    }

    /// Something was done.
    pub(super) fn did(&self, deed: Deed) {
        self.deeds[deed as usize].fetch_add(1, Relaxed);
    }

    /// How often something was done.
    pub(super) fn done(&self, deed: Deed) -> u64 {
        self.deeds[deed as usize].load(Relaxed)
    }

    /// Something is wrong.
    pub(super) fn fault(&self, what: String) {
        let mut faults = self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if faults.len() < FAULTS {
            faults.push(what);
        }
    }

    /// What was wrong so far.
    pub(super) fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Keeps a segment to be decoded again, in the place of an older one where
    /// there are enough.
    pub(super) fn keep(&self, kind: usize, sample: Sample, any: u64) {
        let mut samples = self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let kept = &mut samples[kind];
        match kept.len() {
            n if n < SAMPLES => kept.push(sample),
            n => kept[(any % n as u64) as usize] = sample,
        }
    }

    /// The segments that were kept of a model.
    pub(super) fn samples(&self, kind: usize) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[kind].clone()
    }

    /// Prints the counts.
    pub(super) fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:>9} requests\n{:>9} tokens", self.ended(), self.tokens())?;
        Deed::ALL.iter().try_for_each(|&deed| writeln!(out, "{:>9} {}", self.done(deed), deed.text()))
    }
}
