//! A server behind an open port: opened first, loaded then, taken down in order.
//!
//! The port is open while the model loads, so that probes and clients get an
//! answer. The first signal drains, a second one ends the process at once.

use super::{AppError, Hub, Stack, check, memory};
use crate::config::{LogFormat, ServeArgs};
use crate::engine::EngineThread;
use crate::http::{self, AppState, Ended, Progress};
use crate::metrics::Metrics;
use std::future::pending;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// An open port and what answers behind it.
#[derive(Debug)]
pub struct Server {
    state: AppState,
    listener: TcpListener,
    address: SocketAddr,
    /// How long requests may go on after a signal to stop.
    shutdown: Duration,
    threads: Vec<EngineThread>,
}

impl Server {
    /// Opens the port. There is no model yet: [`Server::load_and_serve`].
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn open(
        address: SocketAddr,
        config: http::Config,
        shutdown: Duration,
    ) -> Result<Self, AppError> {
        let metrics = Metrics::new().map_err(|error| AppError::Metrics(error.to_string()))?;
        let listen = |cause| AppError::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr()?;
        let state = AppState::new(config, Arc::new(metrics));
        Ok(Self { state, listener, address, shutdown, threads: Vec::new() })
    }

    /// Opens the port and loads a model, for harnesses in the same process.
    ///
    /// # Errors
    /// When either fails.
    pub async fn bind(args: &ServeArgs, hub: &Hub) -> Result<Self, AppError> {
        let (checked, engine) = check(memory::settle(args.engine.clone())?, hub).await?;
        let address = SocketAddr::new(args.host, args.port);
        let mut server = Self::open(address, http_config(args), Duration::ZERO).await?;
        let stack = Stack::build(checked, &engine, &server.state.metrics, &server.state.progress)?;
        server.state.install(stack.served);
        server.threads = stack.threads;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The metrics that it exports.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.state.metrics)
    }

    /// Serves a model that is loaded until `stop` resolves, and then lets
    /// requests end for a while.
    ///
    /// # Errors
    /// None at present.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send) -> std::io::Result<()> {
        let ended = http::serve_until(self.listener, self.state, stop, self.shutdown).await;
        end(self.threads, ended == Ended::Cut);
        Ok(())
    }

    /// Serves, and loads the model at the same time on a thread of its own;
    /// `loaded` is called with the stack's summary once it answers. Ends with
    /// `signals`: the first to stop, the second to stop at once.
    ///
    /// # Errors
    /// When loading fails, or the second signal came.
    pub async fn load_and_serve(
        self,
        load: impl FnOnce(&Progress) -> Result<Stack, AppError> + Send + 'static,
        loaded: impl FnOnce(&str),
        (stop, cut): (impl Future<Output = ()>, impl Future<Output = ()>),
    ) -> Result<(), AppError> {
        let (tell, told) = oneshot::channel();
        let progress = Arc::clone(&self.state.progress);
        // Not one of the runtime's own threads: those are waited for at the end,
        // and nobody wants to wait for a model that will not be used.
        std::thread::Builder::new()
            .name("espalier-loader".to_owned())
            .spawn(move || drop(tell.send(load(&progress))))?;
        let mut serving = pin!(http::serve_until(self.listener, self.state.clone(), stop, self.shutdown));
        let (mut cut, mut told, mut loaded) = (pin!(cut), pin!(told), Some(loaded));
        let mut threads = Vec::new();
        let outcome = loop {
            tokio::select! {
                biased;
                () = &mut cut => break Err(AppError::SecondSignal),
                ended = &mut serving => break Ok(ended),
                stack = &mut told, if loaded.is_some() => match stack.unwrap_or(Err(AppError::Loader)) {
                    Ok(stack) => {
                        threads = stack.threads;
                        self.state.install(stack.served);
                        if let Some(loaded) = loaded.take() {
                            loaded(&stack.summary);
                        }
                    }
                    Err(error) => break Err(error),
                },
            }
        };
        let cut = !matches!(outcome, Ok(Ended::Finished | Ended::Hurried));
        end(threads, cut);
        outcome.map(|ended| {
            if ended == Ended::Cut {
                tracing::warn!("requests were still running and were cut");
            }
        })
    }
}

/// Ends the engines. What would not end in time is not waited for either.
fn end(threads: Vec<EngineThread>, cut: bool) {
    for thread in threads {
        if cut { thread.abandon() } else { drop(thread) }
    }
}

/// The limits of the HTTP surface.
#[must_use]
pub fn http_config(args: &ServeArgs) -> http::Config {
    let seconds = Duration::from_secs;
    http::Config {
        body_limit_bytes: args.body_limit,
        keep_alive: seconds(args.keep_alive),
        request_timeout: seconds(args.request_timeout),
        header_timeout: seconds(args.header_timeout),
        idle_timeout: seconds(args.idle_timeout),
        max_concurrency: args.max_concurrency,
        max_queue: args.max_queue,
        stuck_after: seconds(args.stuck_timeout),
        allow_origins: args.allow_origin.clone(),
    }
}

/// `espalier serve`.
///
/// # Errors
/// When the model is refused, the port cannot be had, or loading fails.
pub(super) async fn serve(args: ServeArgs, hub: &Hub, out: &mut impl Write) -> Result<(), AppError> {
    let signals = signals()?;
    let (checked, engine) = check(args.engine.clone(), hub).await?;
    let address = SocketAddr::new(args.host, args.port);
    let shutdown = Duration::from_secs(args.shutdown_timeout);
    let server = Server::open(address, http_config(&args), shutdown).await?;
    let (url, state, metrics) = (server.url(), server.state.clone(), server.metrics());
    tracing::info!(url, model = engine.model.name, "listening; loading the model");
    let loaded = |summary: &str| {
        // It has just been installed.
        let id = state.served().map_or("", |served| served.model.id.as_str());
        tracing::info!(url, model = id, "ready");
        if args.log_format == LogFormat::Json {
            return;
        }
        let example = format!(
            r#"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{{"model":"{id}","reasoning_effort":"medium","messages":[{{"role":"user","content":"Mina has 14 apples. Tom gives Mina 35. Then the number doubles. How many apples does Mina have now?"}}]}}'"#
        );
        let version = env!("CARGO_PKG_VERSION");
        let banner = format!("espalier {version}\n{summary}url     {url}/v1\n\ntry\n  {example}\n\n");
        // A server whose standard output nobody reads serves nevertheless.
        if let Err(error) = out.write_all(banner.as_bytes()).and_then(|()| out.flush()) {
            tracing::warn!(%error, "nobody reads the standard output");
        }
    };
    let load = move |progress: &Progress| Stack::build(checked, &engine, &metrics, progress);
    server.load_and_serve(load, loaded, signals).await
}

/// The first and the second signal to stop (Ctrl-C or SIGTERM). They are
/// listened for from now on.
fn signals() -> std::io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let (first, one) = oneshot::channel();
    let (second, two) = oneshot::channel();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::spawn(async move {
            for told in [first, second] {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                // Nobody listens any more only when the end has come already.
                let _ = told.send(());
            }
        });
    }
    #[cfg(not(unix))]
    tokio::spawn(async move {
        for told in [first, second] {
            if tokio::signal::ctrl_c().await.is_err() {
                return pending().await;
            }
            let _ = told.send(());
        }
    });
    let until = |told: oneshot::Receiver<()>| async move {
        if told.await.is_err() {
            pending::<()>().await;
        }
    };
    Ok((until(one), until(two)))
}
