//! Events to server-sent events.
//!
//! Frames are `data:` and comments only: after an `id:` or `retry:` line, or at
//! a named event, several clients of the field fail. The role chunks go out
//! before the first event is awaited, and index 0 comes first, because OpenAI's
//! own Python helper stumbles over any other order.

use super::account::{Account, Ending};
use super::error::ApiError;
use super::openai::{ChatChunk, ChunkChoice, ChunkSearch, Delta, ProgressReport};
use super::render::{Source, Total, View, finish_reason, unfinished};
use crate::search::event::{ChoiceEvent, Event, Finished, StopReason};
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

/// The response to a streamed request. It owns the run: when the client leaves,
/// the body is dropped, and every branch with it.
pub(super) fn response(source: impl Source, view: View, keep_alive: Duration, account: Account) -> Response {
    let keep_alive = KeepAlive::new().interval(keep_alive).text("keep-alive");
    let frames = frames(source, Chunks::new(view), account);
    let mut response = Sse::new(frames).keep_alive(keep_alive).into_response();
    // nginx holds streams back unless it is told not to.
    let name = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(name, HeaderValue::from_static("no"));
    response
}

/// The frames of a run, made one by one as they are asked for.
fn frames(
    source: impl Source,
    chunks: Chunks,
    account: Account,
) -> impl Stream<Item = Result<Frame, Infallible>> + Send {
    stream::unfold((source, chunks, account), |(mut source, mut chunks, mut account)| async move {
        loop {
            if let Some(data) = chunks.queue.pop_front() {
                if chunks.over && chunks.queue.is_empty() {
                    account.close(chunks.ending());
                }
                return Some((Ok(Frame::default().data(data)), (source, chunks, account)));
            }
            if chunks.over {
                return None;
            }
            match source.next().await {
                Some(Ok(event)) => chunks.event(event),
                Some(Err(error)) => chunks.fail(&error.into()),
                None => chunks.end(source.cached_tokens()),
            }
        }
    })
}

/// Turns events into the texts of frames.
#[derive(Debug)]
struct Chunks {
    view: View,
    queue: VecDeque<String>,
    done: u32,
    total: Total,
    /// Why the search stopped: of several choices, the first that did not
    /// simply come to its end.
    stopped: StopReason,
    failed: bool,
    over: bool,
}

impl Chunks {
    fn new(view: View) -> Self {
        let mut chunks = Self {
            view,
            queue: VecDeque::new(),
            done: 0,
            total: Total::default(),
            stopped: StopReason::Completed,
            failed: false,
            over: false,
        };
        for index in 0..chunks.view.n {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            chunks.push(ChunkChoice { index, delta, logprobs: None, finish_reason: None }, None);
        }
        chunks
    }

    fn event(&mut self, ChoiceEvent { index, event }: ChoiceEvent) {
        match event {
            Event::Thought(text) => self.reason(index, text),
            Event::Content { text, tokens } if text.is_empty() && tokens.is_empty() => {}
            Event::Content { text, tokens } => {
                let logprobs = self.view.logprobs(&tokens).filter(|_| !tokens.is_empty());
                let delta = Delta { content: Some(text), ..Delta::default() };
                self.push(ChunkChoice { index, delta, logprobs, finish_reason: None }, None);
            }
            Event::Progress(progress) => {
                if progress.outcome {
                    self.reason(index, progress.line());
                }
                // A report of growth alone is made only where it was asked for.
                if self.view.include_search {
                    let delta = Delta::default();
                    let search = ChunkSearch::Progress(ProgressReport::new(index, &progress));
                    self.push(
                        ChunkChoice { index, delta, logprobs: None, finish_reason: None },
                        Some(search),
                    );
                }
            }
            Event::Done(finished) => self.finish(index, &finished),
        }
    }

    /// Text for the reasoning channel, under both names that clients know.
    fn reason(&mut self, index: u32, text: String) {
        if text.is_empty() || self.view.exclude {
            return;
        }
        let delta =
            Delta { reasoning_content: Some(text.clone()), reasoning: Some(text), ..Delta::default() };
        self.push(ChunkChoice { index, delta, logprobs: None, finish_reason: None }, None);
    }

    fn finish(&mut self, index: u32, finished: &Finished) {
        self.done += 1;
        self.total.add(finished);
        if self.stopped == StopReason::Completed {
            self.stopped = finished.report.stop_reason;
        }
        let finish_reason = Some(finish_reason(finished.finish));
        let report = self.view.report(index, finished);
        let choice = ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason };
        self.push(choice, Some(ChunkSearch::Report(Box::new(report))));
    }

    /// The run is over: usage if asked for, and the terminator.
    fn end(&mut self, cached: u32) {
        if self.done < self.view.n {
            return self.fail(&unfinished());
        }
        if self.view.include_usage {
            let usage = self.view.usage(self.total, cached);
            let chunk = ChatChunk { choices: Vec::new(), usage: Some(Some(usage)), ..self.chunk() };
            self.queue.push_back(text(&chunk));
        }
        self.queue.push_back("[DONE]".to_owned());
        self.over = true;
    }

    /// The status is out already, so the error travels as a frame; SDKs raise it.
    fn fail(&mut self, error: &ApiError) {
        self.queue.push_back(text(&error.body()));
        self.failed = true;
        self.over = true;
    }

    /// What the account is closed with.
    fn ending(&self) -> Ending {
        let stop_reason = if self.failed { "error" } else { self.stopped.name() };
        Ending { status: 200, tokens: self.total.completion(), stop_reason }
    }

    fn push(&mut self, choice: ChunkChoice, search: Option<ChunkSearch>) {
        let chunk = ChatChunk { choices: vec![choice], search, ..self.chunk() };
        self.queue.push_back(text(&chunk));
    }

    fn chunk(&self) -> ChatChunk {
        ChatChunk {
            id: self.view.id.clone(),
            object: "chat.completion.chunk",
            created: self.view.created,
            model: self.view.model.clone(),
            choices: Vec::new(),
            usage: self.view.include_usage.then_some(None),
            search: None,
        }
    }
}

/// Our types have string keys only, so that serialising them cannot fail; if it
/// did, the client would get an error and no torn frame.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        tracing::error!(%error, "a chunk could not be serialised");
        r#"{"error":{"message":"internal error","type":"server_error","param":null,"code":"server_error"}}"#
            .to_owned()
    })
}

#[cfg(test)]
mod tests;
