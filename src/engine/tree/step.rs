//! One step: its rows are computed, and every branch gets what its job asks for of
//! their logits.

use super::branch::Job;
use super::draws::{Dice, not_finite};
use super::forward::Forward;
use super::model::Row;
use super::sample::Drawn;
use super::schedule::{Limits, Share};
use super::{Forest, TreeEngine};
use crate::engine::EngineError;
use crate::token::TokenId;
use foldhash::{HashMap, HashMapExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What came of the branches that a step, or a part of one, has advanced.
#[derive(Debug, Clone, Copy, Default)]
struct Gain {
    branches: usize,
    /// Tokens that were to be drawn.
    draws: usize,
    /// Branches that got what shows that the model is well: a token or logits.
    given: usize,
    /// Branches none of whose logits is finite: they got an error in its place, or, where
    /// they asked for the logits themselves, rows that say so.
    lost: usize,
}

impl Gain {
    /// Whether the model has shown that it is well. That it has lost all is its own
    /// doing, and an error, of which the branches have been told.
    fn verdict(self) -> Result<bool, EngineError> {
        if self.lost > 0 && self.lost == self.branches { Err(not_finite()) } else { Ok(self.given > 0) }
    }
}

impl<M: Forward> TreeEngine<M> {
    /// Runs one step over whatever is runnable; says whether anybody was given
    /// anything by it. KV that was computed and nothing else shows that the pass ran,
    /// and not that what the model makes of it is of any use.
    pub(super) fn run_step(&mut self) -> Result<bool, EngineError> {
        let mut dice =
            Dice { kernels: self.model.kernels(), threads: &self.threads, scratch: &mut self.draws };
        // Drawing is part of what a step costs, from logits that were kept as well: of
        // a search's vocabulary-wide rows it is a good part.
        let begun = (self.clock)();
        let kept = self.forest.serve_kept_logits(&mut dice, &self.eos);
        // These tokens are there before the pass, which may take long: for many they are the
        // first ones.
        self.forest.bell.ring();
        let most = Limits { rows: self.step_positions, cost: self.costs.cost(), twins: self.twins };
        let shares = self.forest.schedule(most, &mut self.store);
        if shares.is_empty() {
            return kept.verdict();
        }
        let outcome = self.compute(&shares).map(|()| self.advance(&shares));
        let seconds = (self.clock)() - begun;
        let rows: usize = shares.iter().map(Share::computed).sum();
        let metrics = &self.forest.metrics;
        metrics.steps.inc();
        metrics.step_positions.observe(rows as f64);
        metrics.step_branches.observe(shares.len() as f64);
        let verdict = match outcome {
            Ok(gain) => {
                self.costs.observe(rows, kept.draws + gain.draws, seconds);
                gain.verdict()
            }
            Err(message) => {
                metrics.faults.inc();
                tracing::error!(message, rows, "a forward pass failed");
                self.retry(&shares, &message)
            }
        };
        verdict.map(|given| given || kept.given > 0)
    }

    /// After a pass that failed with `message`, runs each request's rows alone:
    /// one request that the model cannot take must not end the others. Says of those
    /// that it can take whether they were given anything.
    fn retry(&mut self, shares: &[Share], message: &str) -> Result<bool, EngineError> {
        let mut outcome = Err(EngineError::Forward(message.to_owned()));
        for alone in shares.chunk_by(|a, b| a.request == b.request) {
            let whole = alone.len() == shares.len();
            // A request that was alone in the step has failed alone already.
            match if whole { Err(message.to_owned()) } else { self.compute(alone) } {
                Ok(()) => {
                    let verdict = self.advance(alone).verdict();
                    outcome = match outcome {
                        Ok(given) => Ok(given || verdict == Ok(true)),
                        Err(_) => verdict,
                    };
                }
                Err(message) => self.forest.abandon(alone, &EngineError::Forward(message)),
            }
        }
        outcome
    }

    fn compute(&mut self, shares: &[Share]) -> Result<(), String> {
        let rows = self.forest.rows(shares);
        let (model, store) = (&mut self.model, &mut self.store);
        // What a panic leaves behind is the KV of these rows, which nobody reads
        // before it is written again, and scratch memory, which every pass
        // writes first.
        let threads = &self.threads;
        catch_unwind(AssertUnwindSafe(|| model.run(&rows, store, threads)))
            .unwrap_or_else(|_| Err("the forward pass panicked".to_owned()))?;
        self.forest.copy_to_twins(shares, &mut self.store);
        Ok(())
    }

    /// Counts a pass's positions and hands every branch its logits.
    fn advance(&mut self, shares: &[Share]) -> Gain {
        let mut dice =
            Dice { kernels: self.model.kernels(), threads: &self.threads, scratch: &mut self.draws };
        let logits: Vec<&[f32]> = self.model.logits().collect();
        // The logits of each share, in their order; a twin has those of the other.
        let mut rest = logits.as_slice();
        let mut known: HashMap<u64, &[&[f32]]> = HashMap::with_capacity(shares.len());
        let wanted: Vec<&[&[f32]]> = (shares.iter())
            .map(|share| {
                if let Some(twin) = known.get(&share.twin) {
                    return *twin;
                }
                let (own, others) = rest.split_at(self.forest.rows_wanted(share).min(rest.len()));
                rest = others;
                known.insert(share.branch, own);
                own
            })
            .collect();
        let decoding =
            shares.iter().zip(&wanted).filter_map(|(share, own)| Some((share.branch, *own.first()?)));
        let drawn = self.forest.draw(decoding, &mut dice);
        let mut gain = Gain { branches: shares.len(), ..Gain::default() };
        for (share, own) in shares.iter().zip(wanted) {
            self.forest.advance(share, own, &mut gain);
        }
        self.forest.take_all_drawn(drawn, &self.eos, &mut gain);
        gain
    }
}

impl Forest {
    /// Jobs that need no forward pass: the branch's last logits were kept.
    fn serve_kept_logits(&mut self, dice: &mut Dice<'_>, eos: &[TokenId]) -> Gain {
        let kept = |id: &u64| self.branches.get(id).is_some_and(|state| state.logits.is_some());
        let queues = self.requests.values().flat_map(|request| &request.ready);
        let ready: Vec<u64> = queues.copied().filter(kept).collect();
        let mut gain = Gain { branches: ready.len(), ..Gain::default() };
        let mut kept = Vec::new();
        for id in ready {
            let Some(state) = self.branches.get_mut(&id) else { continue };
            if let Some(Job::Settle(reply)) = state.job.take_if(|job| matches!(job, Job::Settle(_))) {
                reply.send(Ok(()));
                self.retire(id);
                gain.given += 1;
            } else {
                kept.extend(state.logits.clone().map(|logits| (id, logits)));
            }
        }
        let drawn = self.draw(kept.iter().map(|(id, logits)| (*id, &**logits)), dice);
        self.take_all_drawn(drawn, eos, &mut gain);
        gain
    }

    /// Hands branches the tokens that were drawn for them, and counts them.
    fn take_all_drawn(&mut self, drawn: Vec<(u64, Option<Drawn>)>, eos: &[TokenId], gain: &mut Gain) {
        for (branch, drawn) in drawn {
            gain.draws += 1;
            match drawn {
                Some(_) => gain.given += 1,
                None => gain.lost += 1,
            }
            self.take_drawn(branch, drawn, eos);
        }
    }

    fn rows(&self, shares: &[Share]) -> Vec<Row<'_>> {
        let mut rows = Vec::with_capacity(shares.iter().map(Share::computed).sum());
        for share in shares.iter().filter(|share| share.computed() > 0) {
            let Some(state) = self.branches.get(&share.branch) else { continue };
            for position in share.start..share.start + share.rows {
                rows.push(Row {
                    token: state.tokens[position],
                    position,
                    blocks: state.table.blocks(),
                    logits: state.wants_logits(position),
                });
            }
        }
        rows
    }

    /// How many rows of logits a share has asked for.
    fn rows_wanted(&self, share: &Share) -> usize {
        let Some(state) = self.branches.get(&share.branch) else { return 0 };
        (share.start..share.start + share.rows).filter(|position| state.wants_logits(*position)).count()
    }

    /// Counts a share's positions, lists what it has filled, and does with its
    /// logits what its job asks for, but for drawing.
    fn advance(&mut self, share: &Share, logits: &[&[f32]], gain: &mut Gain) {
        self.list(share.branch);
        let Some(state) = self.branches.get_mut(&share.branch) else { return };
        let end = share.start + share.rows;
        let again = state.computed_before.clamp(share.start, end) - share.start;
        state.computed_before = state.computed_before.max(end);
        let Some(request) = self.requests.get_mut(&state.request) else { return };
        let fresh = (share.rows - again) as u64;
        if share.computed() > 0 {
            request.counts.computed += fresh;
            request.counts.recomputed += again as u64;
            self.metrics.computed.inc_by(fresh);
            self.metrics.recomputed.inc_by(again as u64);
        } else {
            request.counts.copied += fresh;
            self.metrics.copied.inc_by(fresh);
        }
        let done = state.pending() == 0;
        let finite = |row: &&[f32]| row.iter().any(|logit| logit.is_finite());
        let lost = !logits.is_empty() && !logits.iter().any(finite);
        match &mut state.job {
            Some(Job::Logits { ids, rows, .. }) => {
                // Its rows are handed over as they are: they say of one text that it
                // cannot be read, and who asked goes on with others.
                if lost {
                    self.metrics.faults.inc();
                    gain.lost += 1;
                } else {
                    gain.given += usize::from(!logits.is_empty());
                }
                rows.extend(logits.iter().map(|row| match ids.as_slice() {
                    [] => row.to_vec(),
                    ids => ids.iter().map(|id| row[*id as usize]).collect(),
                }));
                if done {
                    if let Some(Job::Logits { rows, reply, .. }) = state.job.take() {
                        reply.send(Ok(rows));
                    }
                    self.retire(share.branch);
                }
            }
            Some(Job::Settle(_)) if done => {
                // No fork could draw from such a row, and what the model has done wrong
                // would only show after the step had passed for a good one.
                let result = if lost { Err(not_finite()) } else { Ok(()) };
                state.logits = logits.first().filter(|_| !lost).map(|row| Arc::from(*row));
                if let Some(Job::Settle(reply)) = state.job.take() {
                    reply.send(result);
                }
                self.retire(share.branch);
                if lost {
                    self.metrics.faults.inc();
                    gain.lost += 1;
                } else {
                    self.keep(share.branch);
                    gain.given += 1;
                }
            }
            Some(Job::Settle(_) | Job::Decode(_)) | None => {}
        }
    }

    /// A branch has no job any more, and the KV that it holds is kept for later.
    pub(super) fn retire(&mut self, id: u64) {
        let Some(state) = self.branches.get(&id) else { return };
        let Some(request) = self.requests.get_mut(&state.request) else { return };
        request.retire(id);
        if !state.table.is_empty() {
            request.later.insert(id);
        }
    }

    /// A failed pass: its branches fail, and their KV goes back to what it was.
    fn abandon(&mut self, shares: &[Share], error: &EngineError) {
        for share in shares {
            self.cut(share.branch, share.start);
            let Some(state) = self.branches.get_mut(&share.branch) else { continue };
            if let Some(job) = state.job.take() {
                job.fail(error.clone());
            }
            self.retire(share.branch);
        }
    }
}

#[cfg(test)]
mod tests;
