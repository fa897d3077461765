//! One step: which rows run, and what becomes of their logits.

use super::TreeEngine;
use super::branch::Job;
use super::model::Row;
use super::sample::{Drawn, draw};
use crate::engine::{End, EngineError, SegmentEvent, rng};
use std::sync::Arc;
use std::time::Instant;

/// A branch's share of a step: `rows` pending positions from `start` on.
#[derive(Debug, Clone, Copy)]
struct Share {
    branch: u64,
    start: usize,
    rows: usize,
}

impl TreeEngine {
    /// Runs one step over whatever is runnable.
    pub(super) fn run_step(&mut self) -> Result<(), EngineError> {
        self.serve_kept_logits();
        let shares = self.schedule();
        if shares.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let outcome = self.forward(&shares);
        let positions: usize = shares.iter().map(|share| share.rows).sum();
        self.metrics.engine_steps.inc();
        self.metrics.engine_step_seconds.observe(begun.elapsed().as_secs_f64());
        self.metrics.engine_step_positions.observe(positions as f64);
        self.metrics.engine_step_branches.observe(shares.len() as f64);
        match outcome {
            Ok(()) => {
                self.advance(&shares);
                Ok(())
            }
            Err(message) => {
                self.abandon(&shares, &EngineError::Forward(message.clone()));
                Err(EngineError::Forward(message))
            }
        }
    }

    /// Jobs that need no forward pass: the branch's last logits were kept.
    fn serve_kept_logits(&mut self) {
        let ready: Vec<u64> = self
            .queue
            .iter()
            .copied()
            .filter(|id| self.branches.get(id).is_some_and(|state| state.logits.is_some()))
            .collect();
        for id in ready {
            let Some(state) = self.branches.get_mut(&id) else { continue };
            let Some(logits) = state.logits.clone() else { continue };
            if let Some(Job::Settle(_)) = &state.job {
                if let Some(Job::Settle(reply)) = state.job.take() {
                    drop(reply.send(Ok(())));
                }
                self.queue.retain(|queued| *queued != id);
            } else {
                self.take_logits(id, &logits);
            }
        }
    }

    /// Chooses the step's rows and makes their slots writable: first every
    /// branch with one row, then chunks of the longer ones until the step is
    /// full. The queue turns, so that a full step starts elsewhere next time.
    fn schedule(&mut self) -> Vec<Share> {
        for id in &self.queue {
            if let Some(state) = self.branches.get_mut(id)
                && state.pending() == 0
            {
                // The last position's logits are needed again.
                let len = state.table.len() - 1;
                self.pool.truncate(&mut state.table, len);
                state.computed_before = state.computed_before.max(len + 1);
            }
        }
        let mut room = self.step_positions;
        let mut shares = Vec::new();
        for single in [true, false] {
            for &id in &self.queue {
                let Some(state) = self.branches.get_mut(&id) else { continue };
                let pending = state.pending();
                // The second round skips those that the first has served.
                if room == 0 || pending == 0 || (pending == 1) != single {
                    continue;
                }
                let rows = pending.min(room);
                let start = state.table.len();
                match self.pool.extend(&mut state.table, rows) {
                    Ok(copy) => {
                        if let Some(copy) = copy {
                            self.store.copy(copy);
                        }
                        room -= rows;
                        shares.push(Share { branch: id, start, rows });
                    }
                    Err(error) => {
                        // Admission reserves every block that a branch can
                        // need, so this is a defect; it costs one branch.
                        tracing::error!(%error, "a reserved block was missing");
                        if let Some(job) = state.job.take() {
                            job.fail(EngineError::Forward(error.to_string()));
                        }
                    }
                }
            }
        }
        if room == 0
            && let Some(first) = self.queue.pop_front()
        {
            self.queue.push_back(first);
        }
        let branches = &self.branches;
        self.queue.retain(|id| branches.get(id).is_some_and(|state| state.job.is_some()));
        shares
    }

    fn forward(&mut self, shares: &[Share]) -> Result<(), String> {
        let mut rows = Vec::with_capacity(shares.iter().map(|share| share.rows).sum());
        for share in shares {
            let Some(state) = self.branches.get(&share.branch) else { continue };
            for position in share.start..share.start + share.rows {
                let last = position + 1 == state.tokens.len();
                let logits = match &state.job {
                    Some(Job::Logits { positions, .. }) => positions.binary_search(&position).is_ok(),
                    Some(Job::Decode(_) | Job::Settle(_)) | None => last,
                };
                rows.push(Row {
                    token: state.tokens[position],
                    position,
                    blocks: state.table.blocks(),
                    logits,
                });
            }
        }
        let (model, store, scratch) = (&self.model, &mut self.store, &mut self.scratch);
        self.threads.install(|| model.forward(&rows, store, scratch))
    }

    /// Counts the step's positions and hands every branch its logits.
    fn advance(&mut self, shares: &[Share]) {
        let scratch = std::mem::take(&mut self.scratch);
        let mut logits = scratch.logits(self.model.config().vocab);
        for share in shares {
            let Some(state) = self.branches.get_mut(&share.branch) else { continue };
            let end = share.start + share.rows;
            let again = state.computed_before.clamp(share.start, end) - share.start;
            state.computed_before = state.computed_before.max(end);
            if let Some(request) = self.requests.get_mut(&state.request) {
                request.counts.computed += (share.rows - again) as u64;
                request.counts.recomputed += again as u64;
            }
            self.metrics.engine_computed.inc_by((share.rows - again) as u64);
            self.metrics.engine_recomputed.inc_by(again as u64);
            let done = state.pending() == 0;
            match &mut state.job {
                Some(Job::Logits { positions, ids, rows, .. }) => {
                    let wanted = positions.iter().filter(|p| (share.start..end).contains(*p)).count();
                    rows.extend(logits.by_ref().take(wanted).map(|row| match ids.as_slice() {
                        [] => row.to_vec(),
                        ids => ids.iter().map(|id| row[*id as usize]).collect(),
                    }));
                    if done {
                        if let Some(Job::Logits { rows, reply, .. }) = state.job.take() {
                            drop(reply.send(Ok(rows)));
                        }
                        self.queue.retain(|queued| *queued != share.branch);
                    }
                }
                Some(Job::Settle(_)) if done => {
                    state.logits = logits.next().map(Arc::from);
                    if let Some(Job::Settle(reply)) = state.job.take() {
                        drop(reply.send(Ok(())));
                    }
                    self.queue.retain(|queued| *queued != share.branch);
                }
                Some(Job::Decode(_)) if done => {
                    if let Some(row) = logits.next() {
                        self.take_logits(share.branch, row);
                    }
                }
                Some(Job::Settle(_) | Job::Decode(_)) | None => {}
            }
        }
        drop(logits);
        self.scratch = scratch;
    }

    /// Draws a decoding branch's next token from its logits.
    fn take_logits(&mut self, id: u64, logits: &[f32]) {
        let Some(state) = self.branches.get_mut(&id) else { return };
        let Some(Job::Decode(decode)) = &state.job else { return };
        let sampling = decode.segment.sampling;
        let uniform = rng::uniform(state.key, state.tokens.len() as u64);
        let top = usize::from(decode.segment.top_logprobs);
        let drawn = draw(self.model.kernels(), logits, (sampling, uniform), top, &mut self.draws);
        let Some(Drawn { id: token, logprob, top }) = drawn else {
            if let Some(job) = state.job.take() {
                job.fail(EngineError::Forward("the model's logits are not finite".to_owned()));
            }
            self.queue.retain(|queued| *queued != id);
            return;
        };
        self.metrics.engine_sampled.inc();
        let positions = match self.requests.get_mut(&state.request) {
            Some(request) => {
                request.counts.sampled += 1;
                request.positions
            }
            None => 0,
        };
        let token = state.push(token, logprob, top);
        let Some(Job::Decode(mut decode)) = state.job.take() else { return };
        decode.left -= 1;
        let eos = self.eos.contains(&token.id);
        decode.report(SegmentEvent::Token(token));
        let cut = if eos { None } else { state.stopped(&decode.segment) };
        let full = decode.left == 0 || state.tokens.len() >= positions;
        state.job = Some(Job::Decode(decode));
        match (eos, cut, full) {
            (true, ..) => self.finish(id, End::Eos),
            (false, Some(cut), _) => self.finish(id, End::Stop { cut }),
            (false, None, true) => self.finish(id, End::Length),
            (false, None, false) => {}
        }
    }

    /// A failed pass: its branches fail, and their KV goes back to what it was.
    fn abandon(&mut self, shares: &[Share], error: &EngineError) {
        for share in shares {
            let Some(state) = self.branches.get_mut(&share.branch) else { continue };
            self.pool.truncate(&mut state.table, share.start);
            if let Some(job) = state.job.take() {
                job.fail(error.clone());
            }
            self.queue.retain(|queued| *queued != share.branch);
        }
    }
}
