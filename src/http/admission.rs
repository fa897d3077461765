//! How many chat requests run, how many wait, and what the others are told.
//!
//! At most `max_concurrency` requests hold a [`Place`]; at most `max_queue` more
//! wait for one, by priority, and of one priority first come first served; whoever
//! comes beyond that is refused at once, with a guess at when it is worth trying
//! again. A waiting request is a future: when its client leaves, it is dropped, and
//! its place in the queue is free.

use super::error::ApiError;
use crate::engine::Priority;
use crate::metrics::Metrics;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// The longest wait that a refusal names: OpenAI's Python client gives up on a
/// longer one.
const LONGEST_WAIT: u64 = 120;

/// Weight of the newest service time in the running mean, as a shift: 1/8.
const MEAN_SHIFT: u32 = 3;

/// Lets requests in.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Mutex<Queue>,
    max_concurrency: usize,
    max_queue: usize,
    /// Running mean of how long a place is held, in microseconds; 0 before the
    /// first was given back.
    mean: AtomicU64,
    metrics: Arc<Metrics>,
}

/// Who waits, and what there is to wait for.
#[derive(Debug)]
struct Queue {
    /// Places that nobody holds; none while anybody waits.
    free: usize,
    /// In the order in which they get a place.
    waiting: BTreeMap<Turn, oneshot::Sender<Place>>,
    arrivals: u64,
    closed: bool,
}

/// Priority, the highest first, and arrival.
type Turn = (u8, u64);

/// The right to run. Given back when the first of its clones is dropped: a run that is
/// over needs none, though its client may not have read a word of it yet.
#[derive(Debug, Clone)]
pub(super) struct Place(Arc<Mutex<Option<Held>>>);

#[derive(Debug)]
struct Held {
    gate: Gate,
    since: Instant,
}

/// A place in the queue.
struct Waiting<'a>(&'a Inner, Turn);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.queue().waiting.remove(&self.1);
        self.0.metrics.requests_queued.dec();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.0.metrics.requests_running.dec();
        self.gate.0.learn(self.since.elapsed());
        self.gate.release();
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of how long a place was held.
    fn learn(&self, held: Duration) {
        let held = u64::try_from(held.as_micros()).unwrap_or(u64::MAX >> 1).max(1);
        // Two that end at once may lose one of the updates; it is a guess anyway.
        let mean = self.mean.load(Ordering::Relaxed);
        let next = if mean == 0 { held } else { mean - (mean >> MEAN_SHIFT) + (held >> MEAN_SHIFT) };
        self.mean.store(next.max(1), Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) fn new(max_concurrency: usize, max_queue: usize, metrics: Arc<Metrics>) -> Self {
        let max_concurrency = max_concurrency.max(1);
        let queue = Queue { free: max_concurrency, waiting: BTreeMap::new(), arrivals: 0, closed: false };
        Self(Arc::new(Inner {
            queue: Mutex::new(queue),
            max_concurrency,
            max_queue,
            mean: AtomicU64::new(0),
            metrics,
        }))
    }

    /// Waits for a place, until `deadline`, which lies `limit` after the
    /// request's arrival.
    ///
    /// # Errors
    /// When the queue is full, the deadline passes, or the server goes down.
    pub(super) async fn enter(
        &self,
        priority: Priority,
        deadline: Instant,
        limit: Duration,
    ) -> Result<Place, ApiError> {
        let inner = &self.0;
        let (place, waiting) = {
            let mut queue = inner.queue();
            if queue.closed {
                return Err(ApiError::Draining);
            }
            if queue.free > 0 {
                queue.free -= 1;
                return Ok(self.place());
            }
            let ahead = queue.waiting.len();
            if ahead >= inner.max_queue {
                return Err(ApiError::Overloaded { retry_after: self.retry_after(ahead) });
            }
            // They are declared from the highest on.
            let turn = (priority as u8, queue.arrivals);
            queue.arrivals += 1;
            let (give, place) = oneshot::channel();
            queue.waiting.insert(turn, give);
            inner.metrics.requests_queued.inc();
            (place, Waiting(inner, turn))
        };
        let place = timeout_at(deadline, place).await;
        drop(waiting);
        match place {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_closed)) => Err(ApiError::Draining),
            Err(_) => Err(ApiError::Waited { seconds: limit.as_secs_f64() }),
        }
    }

    /// Turns away whoever waits or comes later.
    pub(super) fn close(&self) {
        let mut queue = self.0.queue();
        queue.closed = true;
        queue.waiting.clear();
    }

    fn place(&self) -> Place {
        self.0.metrics.requests_running.inc();
        let held = Held { gate: self.clone(), since: Instant::now() };
        Place(Arc::new(Mutex::new(Some(held))))
    }

    /// Hands a place that was given back to whoever is next.
    fn release(&self) {
        let next = {
            let mut queue = self.0.queue();
            let next = queue.waiting.pop_first();
            if next.is_none() {
                queue.free += 1;
            }
            next
        };
        if let Some((_, give)) = next {
            // One that has left meanwhile leaves it in the channel or returns it, and as it
            // is dropped it comes here again.
            drop(give.send(self.place()));
        }
    }

    /// Seconds until a newcomer could have a place: those who wait and itself,
    /// at the mean time per place. At least 1.
    fn retry_after(&self, waiting: usize) -> u64 {
        let inner = &self.0;
        let ahead = u64::try_from(waiting).unwrap_or(u64::MAX).saturating_add(1);
        let places = u64::try_from(inner.max_concurrency).unwrap_or(u64::MAX);
        let micros = inner.mean.load(Ordering::Relaxed).saturating_mul(ahead) / places;
        micros.div_ceil(1_000_000).clamp(1, LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn gate(max_concurrency: usize, max_queue: usize) -> (Gate, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        (Gate::new(max_concurrency, max_queue, Arc::clone(&metrics)), metrics)
    }

    async fn enter(gate: &Gate) -> Result<Place, ApiError> {
        gate.enter(Priority::Normal, Instant::now() + LONG, LONG).await
    }

    /// Polls until it waits.
    async fn waits(gate: &Gate, queued: usize) {
        while gate.0.queue().waiting.len() != queued {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn places_then_a_queue_in_order_then_a_refusal() {
        let (gate, metrics) = gate(1, 2);
        let first = enter(&gate).await.expect("a place");
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for name in 0..2 {
            let (task, said) = (gate.clone(), said.clone());
            tokio::spawn(async move {
                let place = enter(&task).await.expect("a place in the end");
                said.send((name, place)).expect("heard");
            });
            waits(&gate, name + 1).await;
        }
        assert_eq!(enter(&gate).await.expect_err("full"), ApiError::Overloaded { retry_after: 1 });
        assert_eq!((metrics.requests_running.get(), metrics.requests_queued.get()), (1, 2));
        drop(first);
        let (name, second) = heard.recv().await.expect("the next");
        assert_eq!((name, metrics.requests_running.get(), metrics.requests_queued.get()), (0, 1, 1));
        drop(second);
        assert_eq!(heard.recv().await.expect("the last").0, 1);
        assert_eq!((metrics.requests_running.get(), metrics.requests_queued.get()), (0, 0));
    }

    #[tokio::test]
    async fn a_place_is_given_back_once_by_whoever_lets_go_of_it_first() {
        let (gate, metrics) = gate(1, 0);
        let place = enter(&gate).await.expect("a place");
        let shared = place.clone();
        assert!(enter(&gate).await.is_err());
        drop(place);
        let next = enter(&gate).await.expect("a place");
        drop(shared);
        assert_eq!(metrics.requests_running.get(), 1, "the other's is its own");
        drop(next);
        assert_eq!(metrics.requests_running.get(), 0);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_frees_its_place() {
        let (gate, metrics) = gate(1, 1);
        let _place = enter(&gate).await.expect("a place");
        let task = tokio::spawn({
            let gate = gate.clone();
            async move { enter(&gate).await.map(drop) }
        });
        waits(&gate, 1).await;
        task.abort();
        assert!(task.await.expect_err("aborted").is_cancelled());
        assert_eq!((gate.0.queue().waiting.len(), metrics.requests_queued.get()), (0, 0));
        let soon = Duration::from_millis(5);
        let late = gate.enter(Priority::High, Instant::now() + soon, soon).await;
        assert_eq!(late.expect_err("it may wait, but not for ever"), ApiError::Waited { seconds: 0.005 });
    }

    #[tokio::test]
    async fn whoever_waits_goes_by_priority_and_then_by_arrival() {
        use Priority::{High, Low, Normal};
        let (gate, metrics) = gate(1, 8);
        let place = enter(&gate).await.expect("a place");
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let waiters = [Low, Normal, High, Normal, High, Low];
        for (index, priority) in waiters.into_iter().enumerate() {
            let (task, said) = (gate.clone(), said.clone());
            tokio::spawn(async move {
                let place = task.enter(priority, Instant::now() + LONG, LONG).await;
                said.send((index, place.expect("a place in the end"))).expect("heard");
            });
            waits(&gate, index + 1).await;
        }
        drop(place);
        for expected in [2, 4, 1, 3, 0, 5] {
            let (index, _place) = heard.recv().await.expect("the next");
            assert_eq!((index, metrics.requests_running.get()), (expected, 1));
        }
        enter(&gate).await.expect("nobody holds it any more");
    }

    #[tokio::test]
    async fn a_place_given_to_one_that_has_just_left_goes_to_the_next() {
        let (gate, metrics) = gate(1, 4);
        let place = enter(&gate).await.expect("a place");
        let mut leaver = Box::pin(enter(&gate));
        assert!(futures_util::poll!(leaver.as_mut()).is_pending());
        let mut next = Box::pin(enter(&gate));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        drop(place);
        drop(leaver);
        let last = next.await.expect("it is handed on");
        drop(last);
        assert_eq!((metrics.requests_running.get(), metrics.requests_queued.get()), (0, 0));
        enter(&gate).await.expect("nobody holds it any more");
    }

    #[tokio::test]
    async fn a_closed_gate_turns_everyone_away() {
        let (gate, _) = gate(1, 4);
        let place = enter(&gate).await.expect("a place");
        let (waiter, ()) = tokio::join!(enter(&gate), async {
            waits(&gate, 1).await;
            gate.close();
        });
        assert_eq!(waiter.expect_err("closed"), ApiError::Draining);
        assert_eq!(enter(&gate).await.expect_err("closed"), ApiError::Draining);
        drop(place);
    }

    #[tokio::test]
    async fn the_wait_that_a_refusal_names_follows_from_how_long_requests_take() {
        let (gate, _) = gate(2, 0);
        let _both = (enter(&gate).await.expect("a place"), enter(&gate).await.expect("a place"));
        assert_eq!(gate.retry_after(0), 1, "nothing is known yet");
        for (each, expected) in [(0, 1), (30, 15), (4_000, 120), (5, 3)] {
            for _ in 0..128 {
                gate.0.learn(Duration::from_secs(each));
            }
            let error = enter(&gate).await.expect_err("full");
            assert_eq!(error, ApiError::Overloaded { retry_after: expected });
        }
    }
}
