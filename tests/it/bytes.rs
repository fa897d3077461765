//! Bytes to and from a server, as no client library would send them.

use crate::support::{CHAT, JSON, PATIENCE, body};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

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
