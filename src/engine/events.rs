//! The channel through which a run hears of its segments.
//!
//! Unbounded, from many senders to one receiver, in the order in which events were put
//! in. Putting one in wakes nobody: what a step brings to all branches is put in first,
//! and a [`Bell`] wakes each receiver once for all of it. With a channel that wakes at
//! every send, a receiver on the engine's own core took its place at every token.
//! A bell rings when it is dropped, so nobody sleeps on an event that he is to be woken
//! for.

use super::SegmentEvent;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The work's number, and what happened to it.
pub type Event = (u64, SegmentEvent);

/// A channel: where segments report, and where that is heard. All segments of one run
/// share one, so that one wake-up drains a step.
#[must_use]
pub fn channel() -> (Events, Inbox) {
    let state = State { senders: 1, ..State::default() };
    let mailbox = Arc::new(Mailbox { state: Mutex::new(state), woken: Notify::new() });
    (Events(Arc::clone(&mailbox)), Inbox { mailbox, taken: VecDeque::new() })
}

#[derive(Debug)]
struct Mailbox {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    senders: usize,
    /// Whether a bell will ring for what is here.
    announced: bool,
    /// Whether the receiver has gone.
    deaf: bool,
}

impl Mailbox {
    /// A thread that panicked here has left the state whole: nothing in between calls
    /// anything else.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where segments report.
#[derive(Debug)]
pub struct Events(Arc<Mailbox>);

impl Events {
    /// Puts an event in, of which the receiver hears when the bell rings, or without one
    /// together with the next event that has one. For a receiver that has gone it is
    /// dropped.
    pub(super) fn put(&self, event: Event, bell: Option<&mut Bell>) {
        let mut state = self.0.state();
        if state.deaf {
            return;
        }
        state.events.push_back(event);
        let Some(bell) = bell else { return };
        let first = !std::mem::replace(&mut state.announced, true);
        drop(state);
        if first {
            bell.0.push(Arc::clone(&self.0));
        }
    }
}

impl Clone for Events {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        let last = state.senders == 0;
        drop(state);
        if last {
            self.0.woken.notify_one();
        }
    }
}

/// The receivers that have to be woken.
#[derive(Debug, Default)]
pub struct Bell(Vec<Arc<Mailbox>>);

impl Bell {
    /// Wakes them.
    pub fn ring(&mut self) {
        for mailbox in self.0.drain(..) {
            mailbox.state().announced = false;
            mailbox.woken.notify_one();
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

/// Where events are heard.
#[derive(Debug)]
pub struct Inbox {
    mailbox: Arc<Mailbox>,
    /// Taken out together, and not heard yet.
    taken: VecDeque<Event>,
}

impl Inbox {
    /// The next event; `None` once there is none and can be none any more. What is
    /// dropped while it waits has taken nothing.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            let event = self.try_recv();
            if event.is_some() || self.is_over() {
                return event;
            }
            self.mailbox.woken.notified().await;
        }
    }

    /// The next event that is here already.
    pub fn try_recv(&mut self) -> Option<Event> {
        if self.taken.is_empty() {
            std::mem::swap(&mut self.taken, &mut self.mailbox.state().events);
        }
        self.taken.pop_front()
    }

    /// Whether nothing is here, and nobody is left to put anything in.
    fn is_over(&self) -> bool {
        let state = self.mailbox.state();
        state.senders == 0 && state.events.is_empty() && self.taken.is_empty()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = self.mailbox.state();
        state.deaf = true;
        // What nobody hears may hold senders of its own: not under the lock.
        let unheard = std::mem::take(&mut state.events);
        drop(state);
        drop(unheard);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::End;
    use super::*;
    use futures_util::FutureExt as _;
    use futures_util::task::{ArcWake, waker};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    fn event(work: u64) -> Event {
        (work, SegmentEvent::End { end: End::Length, tail: String::new() })
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    pub(in crate::engine) struct Sleeper(pub AtomicUsize);

    impl ArcWake for Sleeper {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_receiver_is_woken_once_for_all_that_a_step_brings() {
        let (events, mut inbox) = channel();
        let (sleeper, mut bell) = (Arc::new(Sleeper::default()), Bell::default());
        let waker = waker(Arc::clone(&sleeper));
        let mut context = Context::from_waker(&waker);
        let mut heard = Box::pin(inbox.recv());
        assert!(heard.poll_unpin(&mut context).is_pending());
        for work in 0..64 {
            events.put(event(work), Some(&mut bell));
        }
        assert_eq!(sleeper.0.load(Ordering::SeqCst), 0, "the step is not over");
        bell.ring();
        assert_eq!(sleeper.0.load(Ordering::SeqCst), 1);
        assert_eq!(heard.poll_unpin(&mut context), Poll::Ready(Some(event(0))));
        drop(heard);
        let rest: Vec<u64> = std::iter::from_fn(|| inbox.try_recv()).map(|(work, _)| work).collect();
        assert_eq!(rest, (1..64).collect::<Vec<u64>>());
        // The next step wakes it again, and a bell that nobody rings rings when it goes;
        // what was to wake nobody has come before.
        let mut heard = Box::pin(inbox.recv());
        assert!(heard.poll_unpin(&mut context).is_pending());
        events.put(event(64), None);
        bell.ring();
        assert_eq!(sleeper.0.load(Ordering::SeqCst), 1);
        events.put(event(65), Some(&mut bell));
        drop(bell);
        assert_eq!(sleeper.0.load(Ordering::SeqCst), 2);
        assert_eq!(heard.poll_unpin(&mut context), Poll::Ready(Some(event(64))));
        drop(heard);
        assert_eq!(inbox.try_recv(), Some(event(65)));
    }

    #[tokio::test]
    async fn it_ends_when_everybody_has_gone_and_all_is_heard() {
        let (events, mut inbox) = channel();
        let other = events.clone();
        other.put(event(1), Some(&mut Bell::default()));
        drop((events, other));
        assert_eq!(inbox.recv().await, Some(event(1)));
        assert_eq!(inbox.recv().await, None);
        assert_eq!(inbox.recv().await, None);

        let (events, mut inbox) = channel();
        let ended = tokio::spawn(async move { inbox.recv().await });
        tokio::task::yield_now().await;
        drop(events);
        assert_eq!(ended.await.expect("no panic"), None, "one that waits is told");
    }

    #[test]
    fn nothing_is_kept_for_a_receiver_that_has_gone() {
        let (events, mut inbox) = channel();
        let mut bell = Bell::default();
        events.put(event(1), Some(&mut bell));
        events.put(event(2), Some(&mut bell));
        assert_eq!(inbox.try_recv(), Some(event(1)));
        drop(inbox);
        events.put(event(3), Some(&mut bell));
        assert!(events.0.state().events.is_empty());
    }

    #[tokio::test]
    async fn what_several_threads_put_in_comes_through_in_the_order_of_each() {
        const EACH: u64 = if cfg!(miri) { 20 } else { 2_000 };
        let (events, mut inbox) = channel();
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let events = events.clone();
                std::thread::spawn(move || {
                    (0..EACH).for_each(|i| events.put(event(sender * EACH + i), Some(&mut Bell::default())));
                })
            })
            .collect();
        drop(events);
        let mut next = [0; 4];
        while let Some((work, _)) = inbox.recv().await {
            let next = &mut next[(work / EACH) as usize];
            assert_eq!(work % EACH, *next);
            *next += 1;
        }
        assert_eq!(next, [EACH; 4]);
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
    }
}
