//! The threads of a step: the engine's own, and some that help it.
//!
//! The engine's thread takes the first part of whatever is shared out, so a step
//! of one part costs no switch of threads at all. A helper that has been asked once
//! stays awake for a while: between two parts of a step, and between two steps, there
//! is less time than the system takes to wake it. Meanwhile it gives way to whatever
//! else would run.

use rayon::Yield;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a helper stays awake after what it did last.
const PATIENCE: Duration = Duration::from_micros(200);

/// How often the engine's thread looks whether the others are done before it
/// goes to sleep: waking it takes longer than what they are usually late by.
const LOOKS: usize = 200;

/// A team of threads.
#[derive(Debug)]
pub struct Threads {
    /// The helpers, unless the engine's thread is alone.
    helpers: Option<Helpers>,
    count: usize,
}

#[derive(Debug)]
struct Helpers {
    pool: rayon::ThreadPool,
    /// Which of them stay awake.
    awake: Arc<[AtomicBool]>,
}

impl Helpers {
    fn new(count: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
        let pool = pool.thread_name(|index| format!("espalier-worker-{index}")).build()?;
        Ok(Self { pool, awake: (0..count).map(|_| AtomicBool::new(false)).collect() })
    }

    /// Has those that sleep wake up and stay awake.
    fn wake(&self) {
        if self.awake.iter().all(|awake| awake.load(Ordering::Relaxed)) {
            return;
        }
        let awake = Arc::clone(&self.awake);
        self.pool.spawn_broadcast(move |helper| {
            let awake = &awake[helper.index()];
            if !awake.swap(true, Ordering::Relaxed) {
                stay_awake();
                awake.store(false, Ordering::Relaxed);
            }
        });
    }
}

/// Does what the pool has to do until there has been nothing for a while.
fn stay_awake() {
    let mut last = Instant::now();
    while last.elapsed() < PATIENCE {
        match rayon::yield_now() {
            Some(Yield::Executed) => last = Instant::now(),
            Some(Yield::Idle) | None => std::thread::yield_now(),
        }
    }
}

impl Threads {
    /// `count` threads, at least 1, the caller's included.
    ///
    /// # Errors
    /// When the operating system refuses one.
    pub fn new(count: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let count = count.max(1);
        let helpers = match count {
            1 => None,
            _ => Some(Helpers::new(count - 1)?),
        };
        Ok(Self { helpers, count })
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Does `work` on all parts at once, on the first one in this thread. A
    /// panic goes on here when all parts are done.
    pub fn each<T: Send>(&self, parts: &mut [T], work: impl Fn(&mut T) + Send + Sync) {
        let (Some(helpers), [first, others @ ..]) = (&self.helpers, &mut *parts) else {
            return parts.iter_mut().for_each(work);
        };
        if others.is_empty() {
            return work(first);
        }
        let (work, left) = (&work, &AtomicUsize::new(others.len()));
        helpers.wake();
        helpers.pool.in_place_scope(|scope| {
            for part in others {
                scope.spawn(move |_| {
                    work(part);
                    left.fetch_sub(1, Ordering::Release);
                });
            }
            work(first);
            for _ in 0..LOOKS {
                if left.load(Ordering::Acquire) == 0 {
                    break;
                }
                std::thread::yield_now();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_however_many_threads_there_are() {
        for count in [0, 1, 2, 5] {
            let threads = Threads::new(count).expect("threads");
            assert_eq!(threads.count(), count.max(1));
            for parts in [0, 1, 2, 3, 11] {
                let mut done = vec![0; parts];
                threads.each(&mut done, |part| *part += 1);
                assert_eq!(done, vec![1; parts], "{count} threads");
            }
        }
    }

    #[test]
    fn a_helper_that_was_asked_stays_awake_for_a_while_and_then_sleeps() {
        let threads = Threads::new(3).expect("threads");
        let awake = &threads.helpers.as_ref().expect("two of them").awake;
        let until = |done: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !done() {
                assert!(begun.elapsed() < Duration::from_secs(60), "{awake:?}");
                std::thread::yield_now();
            }
        };
        let is_awake = |awake: &AtomicBool| awake.load(Ordering::Relaxed);
        // A part may be taken by one that has not heard of it yet.
        until(&|| {
            let mut parts = [false; 3];
            threads.each(&mut parts, |part| *part = awake.iter().any(is_awake));
            parts[1] && parts[2]
        });
        until(&|| !awake.iter().any(is_awake));
        let mut parts = [1, 2, 3];
        threads.each(&mut parts, |part| *part *= 2);
        assert_eq!(parts, [2, 4, 6], "and wakes up again");
    }

    #[test]
    fn a_panic_comes_through_and_the_threads_go_on() {
        let threads = Threads::new(2).expect("threads");
        for bad in [0, 1] {
            let mut parts = [0, 1];
            let run = std::panic::AssertUnwindSafe(|| {
                threads.each(&mut parts, |part| assert_ne!(*part, bad, "the part is bad"));
            });
            assert!(std::panic::catch_unwind(run).is_err());
        }
        let mut parts = [1, 2, 3];
        threads.each(&mut parts, |part| *part *= 2);
        assert_eq!(parts, [2, 4, 6]);
    }
}
