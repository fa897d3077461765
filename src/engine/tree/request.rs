//! What the engine keeps of a request, and in which order requests come.
//!
//! The order is by rank: the number of the request's arrival plus the handicap
//! of its class. So the same class is served first come, first served, and a
//! lower class is overtaken by a bounded number of higher ones only.

use super::prefix::NodeId;
use crate::engine::{Open, Reply, RequestCounts};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A request that holds branches.
#[derive(Debug)]
pub(super) struct Request {
    /// Its place in the order; lower comes first.
    pub rank: u64,
    /// Its share of a step against others.
    pub weight: u32,
    /// Virtual time: rows that it was given, by weight.
    pub served: u64,
    /// The longest that a branch may get.
    pub positions: usize,
    /// The most branches alive at once, beside the root.
    pub width: usize,
    /// Branches with work that are not preempted for the surplus of others.
    pub minimum: usize,
    /// Where its prefixes begin.
    pub root: NodeId,
    /// Its tenant.
    pub salt: Option<Arc<str>>,
    /// Its branches, oldest first.
    pub members: BTreeSet<u64>,
    /// Branches with a job and KV of their own, in the order of their turns.
    pub ready: VecDeque<u64>,
    /// Branches with a job that were preempted, oldest first.
    pub parked: BTreeSet<u64>,
    /// Branches without a job that hold KV, oldest first: they are kept for later.
    pub later: BTreeSet<u64>,
    /// What it has used so far.
    pub counts: RequestCounts,
}

impl Request {
    pub(super) fn new(rank: u64, (id, open): (u64, &Open), root: NodeId) -> Self {
        Self {
            rank,
            weight: open.priority.weight(),
            served: 0,
            positions: open.positions,
            width: open.width,
            minimum: open.minimum.max(1),
            root,
            salt: open.salt.clone(),
            members: BTreeSet::from([id]),
            ready: VecDeque::new(),
            parked: BTreeSet::new(),
            later: BTreeSet::new(),
            counts: RequestCounts::default(),
        }
    }

    /// Takes a branch out of the sets that its job and its KV have put it in.
    pub(super) fn retire(&mut self, branch: u64) {
        self.ready.retain(|id| *id != branch);
        self.parked.remove(&branch);
        self.later.remove(&branch);
    }
}

/// A request that waits to be admitted.
#[derive(Debug)]
pub(super) struct Waiting {
    pub open: Open,
    pub reply: Reply<()>,
}

/// Requests that wait, in order of rank.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<(u64, u64), Waiting>,
    arrivals: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, root: u64, open: Open, reply: Reply<()>) {
        self.arrivals += 1;
        let rank = self.arrivals + open.priority.handicap();
        self.waiting.insert((rank, root), Waiting { open, reply });
    }

    /// The request whose turn it is, by its rank and its root, leaving out those
    /// whose asker has gone.
    pub(super) fn first(&mut self) -> Option<((u64, u64), &Open)> {
        while let Some(entry) = self.waiting.first_entry()
            && entry.get().reply.is_closed()
        {
            entry.remove();
        }
        self.waiting.first_key_value().map(|(&key, waiting)| (key, &waiting.open))
    }

    /// Takes the first out.
    pub(super) fn pop(&mut self) -> Option<((u64, u64), Waiting)> {
        self.waiting.pop_first()
    }

    /// Takes a request out by its root.
    pub(super) fn take(&mut self, root: u64) -> Option<Waiting> {
        let key = self.waiting.keys().find(|(_, id)| *id == root).copied()?;
        self.waiting.remove(&key)
    }
}
