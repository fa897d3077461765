//! The real binary as a child process, with an environment that the test alone
//! decides and an end that comes with the test.

use crate::support::PATIENCE;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
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
    /// Standard output and error, until they are read to their ends; closed
    /// earlier, they would fail the child.
    out: Option<BufReader<ChildStdout>>,
    err: Option<BufReader<ChildStderr>>,
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
        let mut child = Command::new(env!("CARGO_BIN_EXE_espalier"))
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (out, err) = (child.stdout.take().map(BufReader::new), child.stderr.take().map(BufReader::new));
        Self { child, out, err }
    }

    /// Starts `espalier serve`; it warns, unless `arguments` set another level.
    pub(crate) fn serve(arguments: &[&str]) -> Self {
        let levels: &[&str] = if arguments.contains(&"--log-level") { &[] } else { &["--log-level", "warn"] };
        Self::start(&[&["serve"], arguments, levels].concat(), &[])
    }

    /// On a port of its own, with little memory.
    pub(crate) fn small(arguments: &[&str]) -> Self {
        Self::serve(&[&["--port", "0", "--kv-mib", "128", "--threads", "2"], arguments].concat())
    }

    /// Runs `espalier` to its end.
    pub(crate) fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
        Self::start(arguments, variables).end()
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Sends it a signal, by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let told = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(told.expect("kill").success());
    }

    /// Waits for its end; what it has said since it was read last.
    pub(crate) fn end(mut self) -> Ended {
        let (out, err) = (self.out.take().expect("piped"), self.err.take().expect("piped"));
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

    /// The same as an address to connect to.
    pub(crate) fn address(&mut self) -> String {
        self.url().trim_start_matches("http://").to_owned()
    }

    /// What it says when it begins, up to the line with its URL.
    pub(crate) fn summary(&mut self) -> String {
        let lines = self.out.as_mut().expect("piped");
        let mut seen = String::new();
        loop {
            let begun = seen.len();
            match lines.read_line(&mut seen).expect("text") {
                0 => break,
                _ if seen[begun..].starts_with("url ") => return seen,
                _ => {}
            }
        }
        panic!("it ended: {seen} {}", whole(self.err.take().expect("piped")));
    }

    /// What it writes to standard error, up to the line with `word`.
    pub(crate) fn log_until(&mut self, word: &str) -> String {
        let lines = self.err.as_mut().expect("piped");
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
        whole(self.err.take().expect("piped"))
    }
}

fn whole(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).expect("text");
    text
}
