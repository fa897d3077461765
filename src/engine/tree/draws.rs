//! Tokens out of a step's logits: drawn on all threads, then handed to their
//! branches one by one.
//!
//! A draw depends on nothing but its own branch and logits, so where it is made
//! changes nothing.

use super::Forest;
use super::branch::Job;
use super::kernel::Kernels;
use super::sample::{self, Ask, Drawn, draw};
use super::threads::Threads;
use crate::engine::{End, EngineError, rng};
use crate::token::TokenId;

/// What drawing tokens needs beside the branches.
pub(super) struct Dice<'a> {
    /// The kernels.
    pub kernels: Kernels,
    /// The threads to draw on.
    pub threads: &'a Threads,
    /// Scratch, one for each thread.
    pub scratch: &'a mut [sample::Scratch],
}

/// Logits below which drawing on another thread costs more than it saves.
const WORTH_A_THREAD: usize = 8_192;

/// A token that is about to be drawn, and then the token.
struct Draft<'a> {
    branch: u64,
    ask: Ask<'a>,
    logits: &'a [f32],
    drawn: Option<Drawn>,
}

/// Why a branch gets no token from logits out of which none can be drawn.
pub(super) fn not_finite() -> EngineError {
    EngineError::Forward("the model's logits are not finite".to_owned())
}

impl Forest {
    /// Draws the next token of each decoding branch from its logits, on as many
    /// threads as are worth it: a draw depends on nothing but its own branch.
    pub(super) fn draw<'a>(
        &self,
        logits: impl Iterator<Item = (u64, &'a [f32])>,
        dice: &mut Dice<'_>,
    ) -> Vec<(u64, Option<Drawn>)> {
        let mut drafts: Vec<Draft<'_>> = logits
            .filter_map(|(branch, logits)| {
                let state = self.branches.get(&branch)?;
                let Some(Job::Decode(decode)) = &state.job else { return None };
                let ask = Ask {
                    sampling: &decode.segment.sampling,
                    tokens: &state.tokens,
                    prompt: state.prompt,
                    uniform: rng::uniform(state.key, state.tokens.len() as u64),
                    top: usize::from(decode.segment.top_logprobs),
                };
                Some(Draft { branch, ask, logits, drawn: None })
            })
            .collect();
        let work: usize = drafts.iter().map(|draft| draft.logits.len()).sum();
        let threads = (work / WORTH_A_THREAD).clamp(1, dice.scratch.len());
        let share = drafts.len().div_ceil(threads).max(1);
        let mut parts: Vec<_> = drafts.chunks_mut(share).zip(&mut *dice.scratch).collect();
        let kernels = dice.kernels;
        dice.threads.each(&mut parts, |(drafts, scratch)| {
            for draft in &mut **drafts {
                draft.drawn = draw(kernels, draft.logits, draft.ask, scratch);
            }
        });
        drafts.into_iter().map(|draft| (draft.branch, draft.drawn)).collect()
    }

    /// Gives a decoding branch the token that was drawn for it.
    pub(super) fn take_drawn(&mut self, id: u64, drawn: Option<Drawn>, eos: &[TokenId]) {
        let Some(state) = self.branches.get_mut(&id) else { return };
        let Some(Drawn { id: token, logprob, top }) = drawn else {
            self.metrics.faults.inc();
            if let Some(job) = state.job.take() {
                job.fail(not_finite());
            }
            return self.retire(id);
        };
        self.metrics.sampled.inc();
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
        let eos = eos.contains(&token.id);
        decode.report.token(token, decode.segment.live.then_some(&mut self.bell));
        let cut = if eos { None } else { state.stopped(&decode.segment) };
        let full = decode.left == 0 || state.tokens.len() >= positions;
        let step = decode.segment.step.as_deref();
        let step = step.is_some_and(|separator| state.step_ended(&mut decode.look, separator));
        state.job = Some(Job::Decode(decode));
        if let Some(end) = End::of(eos, cut, step, full) {
            self.finish(id, end);
        }
    }
}
