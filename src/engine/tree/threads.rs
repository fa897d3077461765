//! The threads of a step: the engine's own, and some that help it.
//!
//! The engine's thread takes the first part of whatever is shared out, so a step
//! of one part costs no switch of threads at all.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How often the engine's thread looks whether the others are done before it
/// goes to sleep: waking it takes longer than what they are usually late by.
const LOOKS: usize = 200;

/// A team of threads.
#[derive(Debug)]
pub struct Threads {
    /// The helpers, unless the engine's thread is alone.
    helpers: Option<rayon::ThreadPool>,
    count: usize,
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
            _ => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(count - 1);
                Some(pool.thread_name(|index| format!("espalier-worker-{index}")).build()?)
            }
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
        helpers.in_place_scope(|scope| {
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
