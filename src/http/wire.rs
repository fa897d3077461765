//! A connection's socket, which has a last word for clients that are cut: hyper
//! closes in silence when a head does not come in time. And it is the socket that
//! gives up on a client which does not read: hyper would wait for ever to write.
//!
//! It is the socket as well that times a head from its first byte, and a connection's
//! first head from the beginning: hyper has one limit, which counts from the end of the
//! response before, so that it says how long a connection may rest.

use super::error::ApiError;
use super::layers::request_id;
use super::state::AppState;
use axum::http::HeaderMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

/// How long a client that was cut is listened to, so that it gets its answer.
const FAREWELL: Duration = Duration::from_secs(1);

/// What came from a client since it was last answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// The beginning of a request in HTTP/1.
    Something,
    /// It speaks HTTP/2, where a status line would be noise.
    Frames,
}

/// What a connection's requests tell its socket.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Heads that came to their end.
    pub(super) whole: AtomicU64,
    /// Those of them that have a response.
    pub(super) answered: AtomicU64,
    /// Set when the connection is given up because nothing came in time.
    pub(super) cut: AtomicBool,
}

/// A socket that says 408 when it is closed on a client in the middle of a head.
pub(super) struct Wire {
    /// `None` only once it is being dropped.
    stream: Option<TcpStream>,
    state: AppState,
    heads: Arc<Heads>,
    heard: Heard,
    /// Runs while a head is awaited: until there are more than so many.
    awaited: Option<(u64, Pin<Box<Sleep>>)>,
    /// Runs while the client takes nothing, so that a part of a response may be missing.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = self.socket()?.poll_read(context, buffer);
        if outcome.is_pending() {
            ready!(self.head_is_late(context));
            self.heads.cut.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let news = &buffer.filled()[before..];
        if self.heard == Heard::Nothing && !news.is_empty() {
            self.heard = if news.starts_with(b"PRI") { Heard::Frames } else { Heard::Something };
            // A body is timed by who reads it, and a first head from before its first byte.
            let whole = self.heads.whole.load(Ordering::Relaxed);
            if whole > 0 && self.heads.answered.load(Ordering::Relaxed) == whole {
                self.awaited = Some((whole, Box::pin(sleep(self.state.config.header_timeout))));
            }
        }
        outcome
    }
}

impl Wire {
    /// The socket of a connection that begins.
    pub(super) fn new(stream: TcpStream, state: AppState, heads: Arc<Heads>) -> Self {
        let first = (0, Box::pin(sleep(state.config.header_timeout)));
        Self {
            stream: Some(stream),
            state,
            heads,
            heard: Heard::Nothing,
            awaited: Some(first),
            blocked: None,
        }
    }

    /// Waits for the end of a head's time; for ever while none is awaited.
    fn head_is_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let whole = self.heads.whole.load(Ordering::Relaxed);
        match &mut self.awaited {
            Some((before, sleep)) if *before == whole => sleep.as_mut().poll(context),
            awaited => {
                *awaited = None;
                Poll::Pending
            }
        }
    }

    fn socket(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Notes how a write went. One that finds no room for too long fails; any byte that
    /// is taken, however slowly, is a new beginning.
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.heard == Heard::Something {
            self.heard = Heard::Nothing;
            // What came during a response waits for its end.
            self.awaited = None;
        }
        if outcome.is_ready() {
            self.blocked = None;
            return outcome;
        }
        let patience = self.state.config.header_timeout;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(blocked.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.socket()?.poll_write(context, bytes);
        self.wrote(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.socket()?.poll_write_vectored(context, bytes);
        self.wrote(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(TcpStream::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(context)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // One that sent nothing was idle, and idle connections are closed in silence.
        if !self.heads.cut.load(Ordering::Relaxed) || self.heard != Heard::Something || self.blocked.is_some()
        {
            return;
        }
        let error = ApiError::ReadTimeout { seconds: self.state.config.header_timeout.as_secs_f64() };
        self.state.note(&error);
        self.state.metrics.http_responses.with_label_values(&["other", "408"]).inc();
        let body = serde_json::to_string(&error.body()).unwrap_or_default();
        let id = request_id(&HeaderMap::new());
        let id = id.to_str().unwrap_or_default();
        let response = format!(
            "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             x-request-id: {id}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let Some(mut stream) = self.stream.take() else { return };
        // A client that goes on sending to a closed socket would lose the answer to a
        // reset, so what it sends is read for a moment. It may be gone at any point of this.
        let farewell = async move {
            stream.write_all(response.as_bytes()).await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        tokio::spawn(async move { drop(timeout(FAREWELL, farewell).await) });
    }
}
