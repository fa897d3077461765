//! Reproducible chance: a client draws what it does from a seed, not from the
//! moment. Only how far something got that was cut short depends on that.

use crate::engine::rng;

/// A sequence of throws.
#[derive(Debug)]
pub(super) struct Dice {
    key: u64,
    thrown: u64,
}

impl Dice {
    /// The throws of one client.
    pub(super) fn new(seed: u64, client: u64) -> Self {
        Self { key: rng::derive(seed, client), thrown: 0 }
    }

    /// Any number.
    pub(super) fn any(&mut self) -> u64 {
        self.thrown += 1;
        rng::derive(self.key, self.thrown)
    }

    /// A number below `n`, which is at least 1.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.any() % n.max(1) as u64) as usize
    }

    /// Whether something happens that happens once in `n` times.
    pub(super) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of some things, of which there is at least one.
    pub(super) fn one_of<T: Clone, const N: usize>(&mut self, things: [T; N]) -> T {
        let index = self.below(N);
        things[index].clone()
    }
}
