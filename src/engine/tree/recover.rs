//! The engine after a panic in one of its commands or steps.
//!
//! What such a panic was about to do nobody knows, so nothing that it may have
//! left half done is trusted: the request that is to blame is ended, and the pool
//! and the prefix index are made anew. The branches of the others keep their
//! tokens and their jobs and lose their KV, as if they had been preempted; it is
//! computed again, and so they say what they would have said.

use super::forward::Forward;
use super::kv::{Pool, Table};
use super::prefix::PrefixIndex;
use super::store::BLOCK;
use super::{Forest, TreeEngine};
use crate::engine::{BranchId, EngineError, RequestId};

impl<M: Forward> TreeEngine<M> {
    /// After a panic in a command on `culprit`, or in a step.
    pub(super) fn put_in_order(&mut self, culprit: Option<BranchId>) {
        let forest = &mut self.forest;
        forest.metrics.faults.inc();
        let blamed: Vec<RequestId> = match culprit {
            Some(branch) => forest.request_of(branch).into_iter().collect(),
            None => forest.requests.keys().copied().collect(),
        };
        for request in blamed {
            forest.expel(request);
        }
        if let Some(waiting) = culprit.and_then(|root| self.waiting.take(root)) {
            waiting.reply.send(Err(EngineError::Fault));
        }
        forest.start_over();
        self.unfit = false;
        forest.bell.ring();
        forest.metrics.waiting.set(i64::try_from(self.waiting.len()).unwrap_or(i64::MAX));
        forest.publish_sizes();
    }
}

impl Forest {
    /// What is said of a branch or a request that is not here.
    pub(super) fn unknown(&self, id: u64) -> EngineError {
        match self.lost.contains(&id) {
            true => EngineError::Fault,
            false => EngineError::Misuse("the branch is not admitted"),
        }
    }

    /// The request of a branch, from whatever still knows of it.
    fn request_of(&self, branch: BranchId) -> Option<RequestId> {
        let of_state = self.branches.get(&branch).map(|state| state.request);
        let of_members = || {
            let mut requests = self.requests.iter();
            requests.find(|(_, request)| request.members.contains(&branch)).map(|(id, _)| *id)
        };
        of_state.or_else(of_members).or_else(|| self.requests.contains_key(&branch).then_some(branch))
    }

    /// Ends a request: whoever waits is told, and its branches are gone. Their
    /// blocks are not given back: the pool is about to be made anew.
    fn expel(&mut self, request: RequestId) {
        let own = self.branches.iter().filter(|(_, state)| state.request == request);
        let mut ids: Vec<u64> = own.map(|(id, _)| *id).collect();
        for id in &ids {
            if let Some(job) = self.branches.remove(id).and_then(|state| state.job) {
                job.fail(EngineError::Fault);
            }
        }
        // Its leases are still held, and what they ask will be answered.
        ids.extend(self.requests.remove(&request).into_iter().flat_map(|request| request.members));
        self.lost.extend(ids);
        self.order.retain(|(_, id)| *id != request);
    }

    /// Makes the pool and the index anew; every branch has to compute its KV again.
    fn start_over(&mut self) {
        self.pool = Pool::new(self.blocks as u32, BLOCK);
        self.index = PrefixIndex::default();
        for request in self.requests.values_mut() {
            request.root = self.index.enter(&request.salt);
            request.ready.clear();
            request.parked.clear();
            request.later.clear();
        }
        for (id, state) in self.branches.iter_mut() {
            let Some(request) = self.requests.get_mut(&state.request) else { continue };
            if !state.table.is_empty() {
                request.counts.preempted += 1;
                self.metrics.preempted.inc();
            }
            state.table = Table::default();
            state.logits = None;
            // One that has computed nothing has lost nothing either.
            (state.node, state.listed, state.parked) = (request.root, 0, state.computed_before > 0);
            match (&state.job, state.parked) {
                (None, _) => {}
                (Some(_), true) => drop(request.parked.insert(*id)),
                (Some(_), false) => request.ready.push_back(*id),
            }
        }
    }
}

#[cfg(test)]
mod tests;
