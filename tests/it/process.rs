//! The real binary as a child process, and bytes to and from it.

use crate::support::{CHAT, JSON, PATIENCE, body};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// `espalier serve`, ended with the test whatever comes.
pub(crate) struct Binary {
    pub(crate) child: Child,
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may be gone already, which is what most tests want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Binary {
    /// Starts it; it warns, unless `arguments` set another level.
    pub(crate) fn serve(arguments: &[&str]) -> Self {
        let levels: &[&str] = if arguments.contains(&"--log-level") { &[] } else { &["--log-level", "warn"] };
        let child = Command::new(env!("CARGO_BIN_EXE_espalier"))
            .arg("serve")
            .args(arguments)
            .args(levels)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        Self { child }
    }

    /// On a port of its own, with little memory.
    pub(crate) fn small(arguments: &[&str]) -> Self {
        Self::serve(&[&["--port", "0", "--kv-mib", "128", "--threads", "2"], arguments].concat())
    }

    /// Where it listens, once the model is there.
    pub(crate) fn address(&mut self) -> String {
        let mut lines = BufReader::new(self.child.stdout.take().expect("piped")).lines();
        loop {
            let line = lines.next().expect("it says where it listens").expect("text");
            if let Some(url) = line.strip_prefix("url ") {
                return url.trim().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let told = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(told.expect("kill").success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Everything it says, once it has ended: (standard output, standard error).
    pub(crate) fn said(&mut self) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_string(&mut out).expect("text");
        }
        self.child.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
        (out, err)
    }
}

/// A connection on which `request` was sent.
pub(crate) fn sent(address: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// The bytes of a chat request, with more header lines in it.
pub(crate) fn chat(headers: &str, fields: Value) -> String {
    let body = body(fields).to_string();
    let length = body.len();
    format!(
        "POST {CHAT} HTTP/1.1\r\nhost: here\r\ncontent-type: {JSON}\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// What comes until the server closes.
pub(crate) fn rest(mut stream: &TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the last byte is an end as well.
    drop(stream.read_to_end(&mut text));
    String::from_utf8(text).expect("UTF-8")
}

/// One exchange on a connection of its own.
pub(crate) fn exchange(address: &str, request: &str) -> String {
    let closing = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    rest(&sent(address, &closing))
}

/// `GET path` on a connection of its own.
pub(crate) fn get(address: &str, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n"))
}
