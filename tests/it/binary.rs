//! The real binary as a child process, with an environment that the test alone
//! decides and an end that comes with the test.

use crate::support::PATIENCE;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A process that runs until it is dropped.
pub(crate) struct Binary {
    child: Child,
    /// Standard output once it is read line by line; closed, it would fail the child.
    lines: Option<BufReader<ChildStdout>>,
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may be gone already, which is what most tests want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Binary {
    /// Starts `espalier` with these arguments and variables, and no others.
    pub(crate) fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_in(Path::new("."), arguments, variables)
    }

    /// The same in another directory.
    pub(crate) fn start_in(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_espalier"))
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        Self { child, lines: None }
    }

    /// Runs `espalier` to its end.
    pub(crate) fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
        Self::start(arguments, variables).end()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let out = self.child.stdout.take().expect("piped");
        let err = self.child.stderr.take().expect("piped");
        // Both are read while it runs, or it could wait for a reader for ever.
        let out = std::thread::spawn(move || whole(out));
        let err = std::thread::spawn(move || whole(err));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let join = |text: std::thread::JoinHandle<String>| text.join().expect("read");
        Ended { code: status.code(), out: join(out), err: join(err) }
    }

    /// Where it serves, once it says so, without the path.
    pub(crate) fn url(&mut self) -> String {
        let summary = self.summary();
        let url = summary.lines().find_map(|line| line.strip_prefix("url "));
        url.expect("the last line").trim().trim_end_matches("/v1").to_owned()
    }

    /// What it says when it begins, up to the line with its URL.
    pub(crate) fn summary(&mut self) -> String {
        let out: ChildStdout = self.child.stdout.take().expect("piped");
        let lines = self.lines.insert(BufReader::new(out));
        let mut seen = String::new();
        loop {
            let begun = seen.len();
            match lines.read_line(&mut seen).expect("text") {
                0 => break,
                _ if seen[begun..].starts_with("url ") => return seen,
                _ => {}
            }
        }
        let mut err = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
        panic!("it ended: {seen} {err}");
    }

    /// What it writes to standard error, up to the line with `word`.
    pub(crate) fn log_until(&mut self, word: &str) -> String {
        let mut lines = BufReader::new(self.child.stderr.take().expect("piped"));
        let mut seen = String::new();
        loop {
            let begun = seen.len();
            let n = lines.read_line(&mut seen).expect("text");
            assert!(n > 0, "it ended without {word:?}: {seen}");
            if seen[begun..].contains(word) {
                return seen;
            }
        }
    }

    /// Ends it by force; what it has written to standard error.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().expect("it runs");
        let mut err = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
        err
    }
}

fn whole(mut from: impl std::io::Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).expect("text");
    text
}
