//! Connections: accepted, limited in time, and closed in order.
//!
//! axum's own `serve` waits without end for a request's head, so the
//! connections are driven here. A client that does not send its head in time is
//! cut, with a 408 where it has begun one and can still read; one that takes nothing
//! of its answer for as long is cut as well. Between two requests a connection may
//! rest longer.
//!
//! Going down has two phases. While *draining*, what runs goes on, connections
//! close after their response, and new ones are still accepted, so that whoever
//! comes is told to go elsewhere instead of being refused by the kernel. Once
//! nothing is left, or every run was ended and has said its last words, the
//! server is *closing*.

use super::state::AppState;
use super::wire::{Heads, Wire};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use futures_util::future::{BoxFuture, FutureExt};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How long runs that were ended may take for their last words: the engine's
/// step in hand and the client's reading.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long connections that only wait may take to close.
const CLOSING: Duration = Duration::from_millis(500);

/// Pause after the system had no more sockets to give.
const OUT_OF_SOCKETS: Duration = Duration::from_millis(500);

/// Streams of one HTTP/2 connection at once, and bytes of its headers.
const MAX_STREAMS: u32 = 256;
const MAX_HEADERS: u32 = 64 << 10;

/// How far the server is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Taking requests.
    Serving,
    /// Finishing those that it has.
    Draining,
    /// Done with all of them.
    Closing,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every request was answered to its end.
    Finished,
    /// The time was up, and runs were ended with the best that they had.
    Hurried,
    /// Some did not come to an end even then, and were cut.
    Cut,
}

/// Serves the surface on a listener until the task is dropped.
pub async fn serve(listener: TcpListener, state: AppState) {
    serve_until(listener, state, std::future::pending(), Duration::ZERO).await;
}

/// Serves until `stop` resolves; then takes no new requests, lets those that
/// run go on for `within`, and ends the rest with the best that they have.
pub async fn serve_until(
    listener: TcpListener,
    state: AppState,
    stop: impl Future<Output = ()>,
    within: Duration,
) -> Ended {
    let router = super::router(state.clone());
    let mut connections = JoinSet::new();
    let start = |stream| connection(stream, router.clone(), state.clone());
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            stream = accept(&listener) => drop(connections.spawn(start(stream))),
            Some(_) = connections.join_next() => {}
        }
    }
    state.phase.send_replace(Phase::Draining);
    tracing::info!(
        seconds = within.as_secs(),
        "shutting down: requests in flight may end, new ones are refused"
    );
    let mut ended = Ended::Finished;
    let mut until = Instant::now() + within;
    // Those of clients that come now: nobody waits for them.
    let mut late = JoinSet::new();
    loop {
        tokio::select! {
            done = connections.join_next() => if done.is_none() { break },
            stream = accept(&listener) => drop(late.spawn(start(stream))),
            Some(_) = late.join_next() => {}
            () = sleep_until(until) => {
                if ended == Ended::Hurried {
                    ended = Ended::Cut;
                    break;
                }
                ended = Ended::Hurried;
                until = Instant::now() + LAST_WORDS;
                tracing::warn!("the time is up: requests in flight end with the best that they have");
                state.end_all();
            }
        }
    }
    state.phase.send_replace(Phase::Closing);
    let closing = Instant::now() + CLOSING;
    while let Ok(Some(_)) = timeout_at(closing, late.join_next()).await {}
    ended
}

/// The next connection. Errors belong to single clients, or pass with time.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset => {}
                _ => {
                    tracing::error!(%error, "a connection could not be accepted");
                    sleep(OUT_OF_SOCKETS).await;
                }
            },
        }
    }
}

/// One connection, from its first byte to its last.
async fn connection(stream: TcpStream, router: Router, state: AppState) {
    // Chunks of a stream are small and must not wait for each other. A socket
    // that refuses this is gone already.
    drop(stream.set_nodelay(true));
    let patience = state.config.header_timeout;
    let mut phase = state.phase.subscribe();
    // One that comes in the middle of the end is told so, and closed after that.
    let last = if *phase.borrow_and_update() == Phase::Serving { Phase::Draining } else { Phase::Closing };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.max(state.config.idle_timeout))
        .keep_alive(last == Phase::Draining);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(patience)
        .keep_alive_timeout(patience);
    let heads = Arc::new(Heads::default());
    let wire = Wire::new(stream, state, Arc::clone(&heads));
    let surface = Surface { router, heads: Arc::clone(&heads) };
    let connection = builder.serve_connection(TokioIo::new(wire), surface);
    tokio::pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                let timeout = |error: &hyper::Error| error.is_timeout();
                if outcome.is_err_and(|error| error.downcast_ref().is_some_and(timeout)) {
                    heads.cut.store(true, Ordering::Relaxed);
                }
                return;
            }
            () = reached(&mut phase, last), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Waits for a phase; for ever where the server is gone.
async fn reached(phase: &mut watch::Receiver<Phase>, last: Phase) {
    if phase.wait_for(|phase| *phase >= last).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The router as hyper calls it.
struct Surface {
    router: Router,
    heads: Arc<Heads>,
}

impl hyper::service::Service<Request<Incoming>> for Surface {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.heads.whole.fetch_add(1, Ordering::Relaxed);
        let heads = Arc::clone(&self.heads);
        let response = tower::Service::call(&mut self.router.clone(), request.map(Body::new));
        let answered = move |_: &_| {
            heads.answered.fetch_add(1, Ordering::Relaxed);
        };
        response.inspect(answered).boxed()
    }
}
