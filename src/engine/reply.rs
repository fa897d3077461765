//! Where an engine answers: the reply to a command, and the report of a segment.
//!
//! Each is answered once. One that is lost in a panic says so by itself, so that
//! nobody waits for an answer that cannot come any more; one that is dropped at
//! any other time says nothing, for then its asker has gone, or the engine ends,
//! which closes the channel.

use super::{Bell, End, EngineError, Events, SegmentEvent, Token};
use tokio::sync::oneshot;

/// The answer to a command.
#[derive(Debug)]
pub struct Reply<T>(Option<oneshot::Sender<Result<T, EngineError>>>);

impl<T> Reply<T> {
    /// A reply, and where it is waited for.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<Result<T, EngineError>>) {
        let (sender, answer) = oneshot::channel();
        (Self(Some(sender)), answer)
    }

    /// Answers. An asker that has gone hears nothing.
    pub fn send(mut self, answer: Result<T, EngineError>) {
        if let Some(sender) = self.0.take() {
            drop(sender.send(answer));
        }
    }

    /// Whether nobody waits for it any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take()
            && std::thread::panicking()
        {
            drop(sender.send(Err(EngineError::Fault)));
        }
    }
}

/// The report of a segment: any number of tokens, then one end or failure.
#[derive(Debug)]
pub struct Report {
    work: u64,
    /// None once it is over.
    events: Option<Events>,
}

impl Report {
    /// A report to `events` under the number `work`.
    #[must_use]
    pub fn new(work: u64, events: Events) -> Self {
        Self { work, events: Some(events) }
    }

    /// A token was added, of which is heard when the bell rings, or without one with what
    /// is heard of next.
    pub fn token(&self, token: Token, bell: Option<&mut Bell>) {
        self.tell(SegmentEvent::Token(token), bell);
    }

    /// The segment is over; see [`SegmentEvent::End`]. It is heard of when the bell rings.
    pub fn end(mut self, end: End, tail: String, bell: &mut Bell) {
        self.tell(SegmentEvent::End { end, tail }, Some(bell));
        self.events = None;
    }

    /// The segment cannot go on, which is heard of at once.
    pub fn fail(mut self, error: EngineError) {
        self.tell(SegmentEvent::Failed(error), Some(&mut Bell::default()));
        self.events = None;
    }

    /// A receiver that has gone will free the branch soon.
    fn tell(&self, event: SegmentEvent, bell: Option<&mut Bell>) {
        if let Some(events) = &self.events {
            events.put((self.work, event), bell);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell(SegmentEvent::Failed(EngineError::Fault), Some(&mut Bell::default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel;
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn what_is_lost_in_a_panic_says_so_and_what_is_dropped_otherwise_does_not() {
        let (reply, mut answer) = Reply::<()>::new();
        let (events, mut inbox) = channel();
        let report = Report::new(7, events.clone());
        let lost = AssertUnwindSafe(|| {
            let _held = (reply, report);
            panic!("as this test wants it");
        });
        assert!(catch_unwind(lost).is_err());
        assert_eq!(answer.try_recv(), Ok(Err(EngineError::Fault)));
        assert_eq!(inbox.try_recv(), Some((7, SegmentEvent::Failed(EngineError::Fault))));

        let (reply, mut answer) = Reply::<()>::new();
        assert!(!reply.is_closed());
        drop((reply, Report::new(8, events.clone())));
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(inbox.try_recv().is_none());
    }

    #[test]
    fn what_was_answered_is_not_answered_again_by_a_panic() {
        let (reply, mut answer) = Reply::new();
        let (events, mut inbox) = channel();
        let report = Report::new(7, events);
        let answered = AssertUnwindSafe(|| {
            reply.send(Ok(3));
            report.end(End::Length, String::new(), &mut Bell::default());
            panic!("as this test wants it");
        });
        assert!(catch_unwind(answered).is_err());
        assert_eq!(answer.try_recv(), Ok(Ok(3)));
        assert!(matches!(inbox.try_recv(), Some((7, SegmentEvent::End { end: End::Length, .. }))));
        assert!(inbox.try_recv().is_none(), "one end");
        let (reply, answer) = Reply::<()>::new();
        drop(answer);
        assert!(reply.is_closed());
    }
}
