//! The account of one chat request: what it holds, how it ended, and the one
//! line that the log has about it.
//!
//! It travels with the request, from the handler into the stream's body, and is
//! closed by whoever sends the last byte. An account that is dropped open is one
//! whose client left. It knows names and numbers only: no prompt, no answer, no
//! header of the client can reach the log through it.

use super::admission::Place;
use crate::metrics::Metrics;
use crate::plan::Plan;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tracing::Span;

/// The status that logs give to a request whose client left (nginx's).
const CLIENT_LEFT: u16 = 499;

/// What became of a request, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    /// HTTP status; 200 for a stream whose head was out, whatever came then.
    pub(super) status: u16,
    /// Tokens generated.
    pub(super) tokens: u64,
    /// Why the search stopped, or `error`.
    pub(super) stop_reason: &'static str,
}

/// What was planned.
#[derive(Debug, Clone, Copy)]
struct Planned {
    mode: &'static str,
    effort: &'static str,
    prompt_tokens: usize,
}

/// The account of one chat request.
#[derive(Debug)]
pub(super) struct Account {
    metrics: Arc<Metrics>,
    /// The request's, for lines that are written outside of it.
    span: Span,
    arrived: Instant,
    planned: Option<Planned>,
    place: Option<Place>,
    /// Tokens generated so far, once it runs.
    generated: Arc<AtomicU64>,
    closed: bool,
}

impl Account {
    /// Opens the account of a request that has just come in.
    pub(super) fn open(metrics: Arc<Metrics>) -> Self {
        let (span, arrived) = (Span::current(), Instant::now());
        Self { metrics, span, arrived, planned: None, place: None, generated: Arc::default(), closed: false }
    }

    /// When the request came in.
    pub(super) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Keeps a place until the account is closed, unless it is given back before.
    pub(super) fn hold(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Notes what will run.
    pub(super) fn planned(&mut self, plan: &Plan) {
        self.planned = Some(Planned {
            mode: plan.mode.name(),
            effort: plan.effort.name(),
            prompt_tokens: plan.prompt.len(),
        });
    }

    /// Notes where the run counts its tokens, for a request that does not come to its
    /// end.
    pub(super) fn follow(&mut self, generated: Arc<AtomicU64>) {
        self.generated = generated;
    }

    /// The request was refused, or failed before its head was out.
    pub(super) fn refuse(&mut self, status: u16) {
        self.close(Ending { status, tokens: 0, stop_reason: "error" });
    }

    /// The last byte is on its way. Only the first call counts.
    pub(super) fn close(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let took = self.arrived.elapsed();
        if let Some(Planned { mode, prompt_tokens, .. }) = self.planned
            && ending.stop_reason != "error"
        {
            let metrics = &self.metrics;
            metrics.request_seconds.with_label_values(&[mode]).observe(took.as_secs_f64());
            metrics.request_prompt_tokens.with_label_values(&[mode]).observe(prompt_tokens as f64);
            metrics.request_tokens.with_label_values(&[mode]).observe(ending.tokens as f64);
        }
        self.place = None;
        self.log(ending, took);
    }

    fn log(&self, ending: Ending, took: Duration) {
        let Ending { status, tokens, stop_reason } = ending;
        // Of a request that came to no end, what was generated for it all the same.
        let tokens = tokens.max(self.generated.load(Ordering::Relaxed));
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let planned = self.planned;
        tracing::info!(
            parent: &self.span,
            status,
            duration_ms,
            mode = planned.map(|planned| planned.mode),
            effort = planned.map(|planned| planned.effort),
            prompt_tokens = planned.map(|planned| planned.prompt_tokens),
            tokens,
            stop_reason,
            "chat request finished"
        );
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // A panic drops the future as well; that is our fault and not the client's leaving.
        if self.closed || std::thread::panicking() {
            return;
        }
        self.metrics.disconnects.inc();
        let ending = Ending { status: CLIENT_LEFT, tokens: 0, stop_reason: "error" };
        self.log(Ending { stop_reason: "client_left", ..ending }, self.arrived.elapsed());
    }
}
