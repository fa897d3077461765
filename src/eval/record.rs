//! `results.jsonl`: one line per response, written as they come, read again when
//! a run is taken up after an interruption.
//!
//! A record knows what exactly was asked by a fingerprint. One that the same
//! label, problem and seed no longer lead to is refused, never mixed in. Locking
//! is deliberately absent: one run at a time writes to a folder.

use super::Asking;
use super::EvalError;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The file's name within the output folder.
const NAME: &str = "results.jsonl";

/// One problem's response with its verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The arm's label.
    pub arm: String,
    /// The problem.
    pub id: String,
    /// The problem's family.
    pub family: String,
    /// One of `--seeds`.
    pub seed: u32,
    /// Whether it is right; a failed request is not.
    pub right: bool,
    /// The final answer, where there is one.
    pub answer: Option<String>,
    /// `usage.completion_tokens`, where the server counts.
    pub tokens: Option<u64>,
    /// `usage.completion_tokens_details.reasoning_tokens`, where the server counts.
    pub reasoning_tokens: Option<u64>,
    /// `search.spent.verifier_tokens`; 0 of a server that reports none.
    pub verifier_tokens: u64,
    /// `search.branches.made`; 1 of a server that reports none.
    pub branches: u64,
    /// From sending to the whole response, of the attempt that got it, in seconds.
    pub seconds: f64,
    /// When that attempt was sent, in seconds since 1970.
    pub started: f64,
    /// How often it was sent, refusals for want of room included.
    pub attempts: u32,
    /// `finish_reason` of the choice.
    pub finish_reason: String,
    /// `search.stop_reason`, else the finish reason.
    pub stop_reason: String,
    /// Request fields that the server says it ignored.
    pub ignored: Option<String>,
    /// Thought and answer, in the order in which the model wrote them.
    pub text: String,
    /// Why the request failed.
    pub error: Option<String>,
    /// Of the request and of what it was graded by.
    pub fingerprint: String,
}

/// What tells records apart.
type Key = (String, String, u32);

impl Record {
    fn key(&self) -> Key {
        (self.arm.clone(), self.id.clone(), self.seed)
    }
}

/// A fingerprint of texts: FNV-1a, 64 bits, which is the same on every machine
/// and for every build. It guards against mistakes, not against malice.
pub(super) fn fingerprint(parts: &[&str]) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xFF]));
    format!("{:016x}", bytes.fold(0xCBF2_9CE4_8422_2325, step))
}

/// The results so far, and the file that they are written to, if any.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// In the file's order.
    known: Vec<Record>,
    file: Option<(PathBuf, File)>,
}

impl Store {
    /// Opens the results of a folder, which is made where there is none, for a
    /// run that will ask `asking`. A torn last line is dropped; so are failures
    /// that will be asked again. Without a folder nothing is read or written.
    ///
    /// # Errors
    /// When the folder cannot be used, another line is no record, or a record
    /// answers another request than the one that its names lead to now.
    pub(super) fn open(folder: Option<&Path>, asking: &[&Asking<'_>]) -> Result<Self, EvalError> {
        let Some(folder) = folder else { return Ok(Self::default()) };
        std::fs::create_dir_all(folder).map_err(|e| named(folder, e))?;
        let path = folder.join(NAME);
        let mut known = read(&path)?;
        let prints: HashMap<Key, &str> = asking.iter().map(|a| (a.key(), a.fingerprint.as_str())).collect();
        for record in &known {
            if prints.get(&record.key()).is_some_and(|print| *print != record.fingerprint) {
                let (file, arm) = (path.display().to_string(), record.arm.clone());
                return Err(EvalError::Changed { file, arm, id: record.id.clone(), seed: record.seed });
            }
        }
        known.retain(|record| record.error.is_none() || !prints.contains_key(&record.key()));
        replace(&path, &known)?;
        let file = File::options().append(true).open(&path).map_err(|e| named(&path, e))?;
        Ok(Self { known, file: Some((path, file)) })
    }

    /// The known responses to these, in their order, and those not asked yet.
    pub(super) fn split<'a, 'b>(&self, asking: &'a [Asking<'b>]) -> (Vec<Record>, Vec<&'a Asking<'b>>) {
        let known: HashMap<Key, &Record> = self.known.iter().map(|record| (record.key(), record)).collect();
        let (mut found, mut open) = (Vec::new(), Vec::new());
        for one in asking {
            match known.get(&one.key()) {
                Some(record) => found.push((*record).clone()),
                None => open.push(one),
            }
        }
        (found, open)
    }

    /// Adds a response, and has it written before it returns.
    pub(super) fn add(&mut self, record: Record) -> io::Result<()> {
        if let Some((path, file)) = &mut self.file {
            // One write of a whole line: what a crash tears is the last line at most.
            file.write_all(line(&record)?.as_bytes()).map_err(|e| named(path, e))?;
        }
        self.known.push(record);
        Ok(())
    }

    /// How many of these have a response already.
    pub(super) fn answered(&self, asking: &[&Asking<'_>]) -> usize {
        let known: HashSet<Key> = self.known.iter().map(Record::key).collect();
        asking.iter().filter(|one| known.contains(&one.key())).count()
    }

    /// Brings the file into the order of `asking`, after whatever else it has.
    pub(super) fn finish(mut self, asking: &[&Asking<'_>]) -> io::Result<()> {
        let place: HashMap<Key, usize> = asking.iter().enumerate().map(|(i, a)| (a.key(), i + 1)).collect();
        self.known.sort_by_key(|record| place.get(&record.key()).copied());
        match &self.file {
            Some((path, _)) => replace(path, &self.known),
            None => Ok(()),
        }
    }
}

fn line(record: &Record) -> io::Result<String> {
    Ok(serde_json::to_string(record)? + "\n")
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Writes a file as a whole or not at all.
fn replace(path: &Path, records: &[Record]) -> io::Result<()> {
    let text = records.iter().map(line).collect::<io::Result<String>>()?;
    write_whole(path, &text)
}

/// Writes a text beside its place and moves it there.
pub(super) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path)).map_err(|e| named(path, e))
}

fn read(path: &Path) -> Result<Vec<Record>, EvalError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(named(path, e).into()),
    };
    let mut records = Vec::new();
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            // A write that was cut off has no line break at its end.
            Err(_) if lines.peek().is_none() && !line.ends_with(b"\n") => {}
            Err(e) => {
                let (file, line) = (path.display().to_string(), number + 1);
                return Err(EvalError::Record { file, line, cause: e.to_string() });
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
