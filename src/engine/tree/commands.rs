//! What each command does to the engine's state; nothing here computes.
//!
//! A command that makes no sense at its moment fails its own reply or segment,
//! or marks the branch, whose next job then fails; it never touches others.

use super::branch::{BranchState, Decode, Job};
use super::forward::Forward;
use super::request::{Request, Waiting};
use super::standing::Standing;
use super::store::BLOCK;
use super::{Forest, TreeEngine};
use crate::engine::{End, Engine, EngineError, Open, Reply, RequestId};
use crate::token::TokenId;

impl<M: Forward> TreeEngine<M> {
    pub(super) fn open(&mut self, root: RequestId, open: Open, reply: Reply<()>) {
        let caps = self.caps();
        let refusal = if open.prompt.is_empty() {
            Some(EngineError::Misuse("a prompt needs at least one token"))
        } else if open.prompt.iter().any(|&id| id as usize >= caps.vocab) {
            Some(EngineError::Misuse("a token lies outside the vocabulary"))
        } else if open.positions > caps.context || open.prompt.len() > open.positions {
            let needed = open.positions.max(open.prompt.len());
            Some(EngineError::Context { needed, context: caps.context.min(open.positions) })
        } else if self.waiting.len() >= self.most_waiting {
            Some(EngineError::Busy { limit: self.most_waiting })
        } else {
            let blocks = self.forest.blocks;
            let needed = caps.blocks_for(open.prompt.len(), open.positions, open.minimum.max(1));
            (needed > blocks).then_some(EngineError::Pool { needed, blocks })
        };
        match refusal {
            Some(error) => reply.send(Err(error)),
            None => self.waiting.push(root, open, reply),
        }
    }

    /// Lets requests in, in order of rank, while their smallest set fits.
    pub(super) fn admit(&mut self) {
        // It takes as long as the first one's prompt and the pool are large to say no.
        if self.unfit {
            return;
        }
        let caps = self.caps();
        let forest = &mut self.forest;
        while let Some(((rank, root), open)) = self.waiting.first() {
            // The prompt, and room for each branch to begin, beside what those
            // that run are about to take. One that may not grow needs no room.
            let minimum = open.minimum.max(1);
            let whole = caps.blocks_for(open.prompt.len(), open.positions, minimum);
            let begin = whole.min(open.prompt.len().div_ceil(BLOCK) + minimum);
            let standing = Standing::newcomer(rank, root);
            let node = forest.index.enter(&open.salt);
            if !forest.make_room_for((node, &open.prompt), begin, standing) {
                forest.index.leave(&open.salt);
                self.unfit = true;
                break;
            }
            let Some((_, Waiting { open, reply })) = self.waiting.pop() else { break };
            let state = BranchState::root(root, &open.prompt, self.tokenizer.detokenizer(), node);
            forest.requests.insert(root, Request::new(rank, (root, &open), node));
            forest.branches.insert(root, state);
            forest.order.insert((rank, root));
            forest.metrics.looked_up.inc_by(open.prompt.len() as u64);
            // If the asker has gone by now, its lease's free is on its way.
            reply.send(Ok(()));
        }
        forest.metrics.waiting.set(self.waiting.len() as i64);
    }

    pub(super) fn fork(&mut self, parent: u64, child: u64, key: u64) {
        let forest = &mut self.forest;
        let Some(state) = forest.branches.get(&parent) else {
            if forest.lost.contains(&parent) {
                forest.lost.insert(child);
            }
            return;
        };
        let Some(request) = forest.requests.get_mut(&state.request) else { return };
        let child_state = if !state.settled() {
            state.misused_child(key, request.root, "only a settled branch can be forked")
        } else if request.members.len() > request.width {
            state.misused_child(key, request.root, "more branches than the request was admitted with")
        } else {
            state.child(key, forest.pool.fork(&state.table))
        };
        request.members.insert(child);
        if !child_state.table.is_empty() {
            request.later.insert(child);
        }
        request.counts.branches += 1;
        forest.branches.insert(child, child_state);
    }

    pub(super) fn free(&mut self, id: u64) {
        let forest = &mut self.forest;
        forest.lost.remove(&id);
        let Some(state) = forest.branches.remove(&id) else {
            // Who has a branch does not wait, and most who free one have it.
            drop(self.waiting.take(id));
            return;
        };
        forest.index.touch(state.node);
        forest.pool.release(state.table);
        if let Some(request) = forest.requests.get_mut(&state.request) {
            request.members.remove(&id);
            request.retire(id);
            if request.members.is_empty() {
                forest.index.leave(&request.salt);
                forest.order.remove(&(request.rank, state.request));
                forest.requests.remove(&state.request);
            }
        }
        forest.publish_sizes();
    }

    /// Gives a branch a job, if it is fit for one; else the job fails.
    pub(super) fn begin(&mut self, id: u64, job: Job) -> bool {
        let forest = &mut self.forest;
        let fault = match forest.branches.get_mut(&id) {
            None => forest.unknown(id),
            Some(BranchState { fault: Some(fault), .. }) => fault.clone(),
            Some(BranchState { job: Some(_), .. }) => EngineError::Misuse("the branch is busy"),
            Some(state) => match forest.requests.get_mut(&state.request) {
                None => EngineError::Misuse("the request is not admitted"),
                Some(request) => {
                    state.job = Some(job);
                    request.later.remove(&id);
                    if state.parked {
                        request.parked.insert(id);
                    } else {
                        request.ready.push_back(id);
                    }
                    return true;
                }
            },
        };
        job.fail(fault);
        false
    }

    pub(super) fn decode(&mut self, id: u64, decode: Decode) {
        let vocab = self.model.shape().vocab;
        if decode.segment.inject.iter().any(|&id| id as usize >= vocab) {
            let fault = EngineError::Misuse("a token lies outside the vocabulary");
            return decode.report.fail(fault);
        }
        if !self.begin(id, Job::Decode(decode)) {
            return;
        }
        let forest = &mut self.forest;
        let Some(state) = forest.branches.get_mut(&id) else { return };
        let Some(request) = forest.requests.get_mut(&state.request) else { return };
        let Some(Job::Decode(mut decode)) = state.job.take() else { return };
        let inject = std::mem::take(&mut decode.segment.inject);
        let room = request.positions.saturating_sub(state.tokens.len()).min(decode.left as usize);
        for &token in inject.iter().take(room) {
            let token = state.push(token, 0.0, Vec::new());
            decode.left -= 1;
            request.counts.injected += 1;
            forest.metrics.injected.inc();
            forest.metrics.looked_up.inc();
            decode.report.token(token, decode.segment.live.then_some(&mut forest.bell));
        }
        decode.look = state.look();
        let cut = state.stopped(&decode.segment);
        let full = decode.left == 0 || state.tokens.len() >= request.positions;
        state.job = Some(Job::Decode(decode));
        // Neither an end nor a step is the model's own that was put on its branch.
        if let Some(end) = End::of(false, cut, false, full) {
            forest.finish(id, end);
        }
    }

    fn idle(&mut self, id: u64) -> Option<&mut BranchState> {
        let state = self.forest.branches.get_mut(&id)?;
        if state.job.is_some() {
            state.fault = Some(EngineError::Misuse("the branch was changed while it was busy"));
            return None;
        }
        Some(state)
    }

    pub(super) fn append(&mut self, id: u64, tokens: &[TokenId]) {
        let vocab = self.model.shape().vocab;
        let forest = &self.forest;
        let positions = forest.branches.get(&id).and_then(|state| forest.requests.get(&state.request));
        let positions = positions.map_or(0, |request| request.positions);
        let Some(state) = self.idle(id) else { return };
        if state.tokens.len() + tokens.len() > positions {
            let needed = state.tokens.len() + tokens.len();
            state.fault = Some(EngineError::Context { needed, context: positions });
        } else if tokens.iter().any(|&token| token as usize >= vocab) {
            state.fault = Some(EngineError::Misuse("a token lies outside the vocabulary"));
        } else if !tokens.is_empty() {
            state.append(tokens);
            self.forest.metrics.looked_up.inc_by(tokens.len() as u64);
        }
    }

    pub(super) fn truncate(&mut self, id: u64, len: usize) {
        let detokenizer = self.tokenizer.detokenizer();
        let Some(state) = self.idle(id) else { return };
        let len = len.max(1);
        if len < state.tokens.len() {
            state.truncate(len, detokenizer);
            self.forest.cut(id, len);
        }
    }

    pub(super) fn logits(&mut self, id: u64, job: Job) {
        let pending = self.forest.branches.get(&id).map(|state| state.table.len()..state.tokens.len());
        if let (Some(pending), Job::Logits { positions, ids, .. }) = (pending, &job) {
            let ascending = positions.windows(2).all(|pair| pair[0] < pair[1]);
            let outputs = self.model.shape().outputs();
            if positions.is_empty() || !ascending || !positions.iter().all(|p| pending.contains(p)) {
                return job.fail(EngineError::Misuse("logits need ascending, pending positions"));
            }
            if ids.iter().any(|&id| id as usize >= outputs) {
                return job.fail(EngineError::Misuse("a token lies outside the vocabulary"));
            }
        }
        self.begin(id, job);
    }
}

impl Forest {
    /// Ends a branch's segment.
    pub(super) fn finish(&mut self, id: u64, end: End) {
        let Some(state) = self.branches.get_mut(&id) else { return };
        state.end(end, &mut self.bell);
        if state.job.is_none() {
            self.retire(id);
        }
    }

    pub(super) fn publish_sizes(&self) {
        self.metrics.branches.set(self.branches.len() as i64);
        self.metrics.blocks_used.set(self.pool.used() as i64);
        self.metrics.blocks_idle.set(self.pool.idle() as i64);
    }
}

#[cfg(test)]
mod tests;
