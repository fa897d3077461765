//! The `Engine` port: what grows branches, and the leases through which the
//! rest of the program holds them.
//!
//! An engine is a synchronous state machine that one OS thread owns
//! ([`thread`]); everything else reaches it through a [`Handle`], by messages of
//! the closed enum [`Command`]. A [`Branch`] is a RAII lease without `Clone`:
//! dropping it aborts what it decodes and frees its KV, sharing happens only
//! through [`Branch::fork`]. Modes, budgets of requests and text of answers are
//! deliberately unknown here.

mod events;
mod handle;
#[cfg(feature = "mistralrs")]
pub mod mistralrs;
mod reply;
pub mod rng;
mod sampling;
pub mod scripted;
mod thread;
pub mod tree;

use crate::prompt::StopRule;
use crate::token::TokenId;
use std::sync::Arc;

pub use events::{Bell, Event, Events, Inbox, channel};
pub use handle::{Branch, BranchId, Command, Handle, Open, Priority, RequestId};
pub use reply::{Reply, Report};
pub use sampling::Sampling;
pub use thread::{EngineThread, Health};

/// What an engine can do, fixed for its lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// The longest sequence, prompt included, in tokens.
    pub context: usize,
    /// Size of the vocabulary, in tokens.
    pub vocab: usize,
    /// Ids that end a generation.
    pub eos: Vec<TokenId>,
    /// Positions in one KV block.
    pub block: usize,
    /// Blocks in the KV pool.
    pub pool_blocks: usize,
}

impl Caps {
    /// KV blocks that `width` branches need, forked from one prompt of `prompt`
    /// tokens and each growing to at most `positions` positions: the prompt's
    /// own blocks, and for every branch those that it cannot share.
    #[must_use]
    pub fn blocks_for(&self, prompt: usize, positions: usize, width: usize) -> usize {
        let private = positions.div_ceil(self.block) - prompt / self.block;
        self.shared(prompt, positions) + width * private
    }

    /// Blocks of the prompt. Where branches grow, one more than it fills: a
    /// tail that another branch has part in is copied before it is written.
    fn shared(&self, prompt: usize, positions: usize) -> usize {
        if positions > prompt { prompt / self.block + 1 } else { prompt.div_ceil(self.block) }
    }

    /// Positions of the longest branch that the pool can hold beside that part of a
    /// prompt which it cannot share; fewer than the prompt's where it has no room for it.
    #[must_use]
    pub fn longest(&self, prompt: usize) -> usize {
        let shared = prompt / self.block + 1;
        let private = self.pool_blocks.saturating_sub(shared);
        if private == 0 { 0 } else { (prompt / self.block + private) * self.block }
    }

    /// The most branches that fit in the pool at once, given the same lengths.
    #[must_use]
    pub fn widest(&self, prompt: usize, positions: usize) -> usize {
        let private = positions.div_ceil(self.block) - prompt / self.block;
        self.pool_blocks.saturating_sub(self.shared(prompt, positions)) / private.max(1)
    }
}

/// One piece of decoding on a branch, until EOS, a stop string or the cap.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Tokens put on the branch before it samples; reported and counted like
    /// sampled ones.
    pub inject: Vec<TokenId>,
    /// The most tokens that this segment may add, injected ones included.
    pub max_tokens: u32,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Stop strings, and where in the branch's text they begin to apply.
    pub stop: Arc<StopRule>,
    /// How many alternatives to report beside each token's log-probability.
    pub top_logprobs: u8,
    /// The separator with which a step ends, and the segment with the step;
    /// `None` where steps do not matter.
    pub step: Option<Arc<str>>,
    /// Whether its tokens are heard of as they come. Else they are together with the
    /// segment's end, and nobody is woken for each.
    pub live: bool,
}

/// One token that a segment added.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Natural logarithm of its probability under the model, before
    /// temperature and top-p; 0 for an injected token.
    pub logprob: f32,
    /// The likeliest ids with their log-probabilities, best first.
    pub top: Vec<(TokenId, f32)>,
    /// The text that became complete with this token; often it, sometimes
    /// nothing (half a character), sometimes more than its own.
    pub text: String,
}

/// Why a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model ended the text.
    Eos,
    /// A stop string came up; the branch's text counts up to byte `cut`.
    Stop {
        /// Length in bytes of the branch's text before the stop string.
        cut: usize,
    },
    /// A step ended: the text that the segment sampled holds the separator
    /// behind something that is not white space. The separator stays, and with
    /// it what its last token says beyond it.
    Step,
    /// The cap of the segment or the context was reached.
    Length,
    /// [`Branch::abort`] was called.
    Aborted,
}

impl End {
    /// Why a segment is over, if it is, when a token has come: it was the model's end,
    /// it has brought a stop string up at `cut`, or a step to its end, or the segment is
    /// full. What comes first here goes before the rest.
    fn of(eos: bool, cut: Option<usize>, step: bool, full: bool) -> Option<Self> {
        match cut {
            _ if eos => Some(Self::Eos),
            Some(cut) => Some(Self::Stop { cut }),
            None if step => Some(Self::Step),
            None if full => Some(Self::Length),
            None => None,
        }
    }
}

/// What a segment reports, in order: tokens, then exactly one `End` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum SegmentEvent {
    /// A token was added to the branch.
    Token(Token),
    /// The segment is over; `tail` is text that was held back as an incomplete
    /// character and will not be completed.
    End {
        /// Why it ended.
        end: End,
        /// Text flushed by the end.
        tail: String,
    },
    /// The engine could not go on with this branch.
    Failed(EngineError),
}

/// Counters of one request, as the engine keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Tokens sampled.
    pub sampled: u64,
    /// Tokens injected by segments.
    pub injected: u64,
    /// Positions whose KV was computed for the first time.
    pub computed: u64,
    /// Positions computed once more, because their logits were needed again or
    /// their branch had been preempted.
    pub recomputed: u64,
    /// Positions whose KV was copied from another branch of the request, which
    /// held the same tokens and computed it in the same step.
    pub copied: u64,
    /// Positions taken from the prefix index, where another request, or another
    /// branch of this one, had computed them.
    pub reused: u64,
    /// Branches forked.
    pub branches: u64,
    /// Branches that lost their KV to others and got it back later.
    pub preempted: u64,
}

/// Why the engine refused or lost something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine thread has ended.
    #[error("the engine is not running")]
    Closed,
    /// Something in the engine broke, and the request with it.
    #[error("a fault of the engine has ended the request")]
    Fault,
    /// A forward pass failed.
    #[error("the model failed: {0}")]
    Forward(String),
    /// The sequence does not fit the model's context.
    #[error("a sequence of {needed} tokens does not fit the context of {context}")]
    Context {
        /// Tokens wanted.
        needed: usize,
        /// Tokens that the model can hold.
        context: usize,
    },
    /// The request can never fit the KV pool.
    #[error("the request needs {needed} KV blocks and the pool has {blocks}")]
    Pool {
        /// Blocks that the smallest form of the request needs.
        needed: usize,
        /// Blocks in the pool.
        blocks: usize,
    },
    /// Too many requests wait already.
    #[error("{limit} requests wait for memory already; try again later")]
    Busy {
        /// How many may wait.
        limit: usize,
    },
    /// A command came at a moment at which it has no meaning.
    #[error("misused branch: {0}")]
    Misuse(&'static str),
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Whether a branch was given what shows that the model is well: a token, or
    /// logits. A step over nothing proves nothing, and one that computes KV alone
    /// only that passes run.
    pub ran: bool,
    /// Whether there is more to run.
    pub more: bool,
}

/// A synchronous engine: told what to do by commands, advanced in steps.
pub trait Engine: Send + 'static {
    /// What it can do.
    fn caps(&self) -> Caps;
    /// Takes note of a command. Failures go to the command's own reply.
    fn apply(&mut self, command: Command);
    /// Advances every runnable branch.
    ///
    /// # Errors
    /// When the forward pass fails as a whole; the affected segments have been
    /// told, and the engine can go on with others.
    fn step(&mut self) -> Result<Progress, EngineError>;
    /// A command on branch `culprit`, or where that is `None` a step, has
    /// panicked. Ends what is to blame, that branch's request or all that run,
    /// with [`EngineError::Fault`] for whoever waits, and puts the rest in order.
    /// `false` where it cannot: the engine then ends.
    fn recover(&mut self, culprit: Option<BranchId>) -> bool {
        let _ = culprit;
        false
    }
    /// Whether the engine can show, by a pass that no request has a part in, that its
    /// model works: the steps that have failed are then laid to what was asked of it.
    /// `false` where it cannot, or has no such pass.
    fn probe(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::End;

    #[test]
    fn of_all_that_could_end_a_segment_one_is_told() {
        let stop = Some(End::Stop { cut: 3 });
        for (eos, cut, step, full, end) in [
            (true, Some(3), true, true, Some(End::Eos)),
            (false, Some(3), true, true, stop),
            (false, None, true, true, Some(End::Step)),
            (false, None, false, true, Some(End::Length)),
            (false, None, false, false, None),
        ] {
            assert_eq!(End::of(eos, cut, step, full), end);
        }
    }
}
