//! Segments of the storm decoded once more, alone on a fresh engine with room
//! for everything: equal tokens, key and sampling must give equal tokens.

use super::super::BenchError;
use crate::engine::{End, EngineError, Handle, Open, Sampling, Segment, SegmentEvent, channel};
use crate::prompt::StopRule;
use crate::token::TokenId;
use std::sync::Arc;

/// A segment as it was decoded, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// The branch's tokens before it; the first `prompt` are the request's.
    pub before: Vec<TokenId>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// The longest that the request's branches may get.
    pub positions: usize,
    /// Key of the branch's random numbers.
    pub key: u64,
    /// What was asked.
    pub ask: Ask,
    /// The tokens that came.
    pub said: Vec<TokenId>,
    /// How it ended.
    pub end: End,
}

/// What is asked of a segment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ask {
    /// Tokens put before those that are sampled.
    pub inject: Vec<TokenId>,
    /// The most tokens.
    pub most: u32,
    /// How they are drawn.
    pub sampling: Sampling,
}

impl Ask {
    /// The segment for an engine.
    pub(super) fn segment(&self) -> Segment {
        Segment {
            inject: self.inject.clone(),
            max_tokens: self.most,
            sampling: self.sampling.clone(),
            stop: Arc::new(StopRule::default()),
            top_logprobs: 0,
            step: None,
            live: false,
        }
    }
}

/// Decodes all samples again; says which came out otherwise.
pub(super) async fn replay(handle: &Handle, samples: &[Sample]) -> Result<Vec<String>, BenchError> {
    let mut different = Vec::new();
    for sample in samples {
        let (said, end) = decode(handle, sample).await?;
        if said != sample.said || end != sample.end {
            different.push(format!(
                "a segment of key {} after {} tokens was {:?} ({:?}) and is {said:?} ({end:?}) alone",
                sample.key,
                sample.before.len(),
                sample.said,
                sample.end
            ));
        }
    }
    Ok(different)
}

async fn decode(handle: &Handle, sample: &Sample) -> Result<(Vec<TokenId>, End), BenchError> {
    let (prompt, rest) = sample.before.split_at(sample.prompt);
    // Nothing is taken from what another sample has left.
    let salt = Some(format!("{} {}", sample.key, sample.before.len()).into());
    let root = handle.open(Open { salt, ..Open::new(prompt.into(), sample.positions, 1) }).await?;
    root.settle().await?;
    let branch = root.fork(sample.key);
    branch.append(rest.to_vec());
    let (events, mut inbox) = channel();
    branch.decode(sample.ask.segment(), 0, &events);
    // Now only the engine holds the line: should it die, that shows.
    drop(events);
    let mut said = Vec::new();
    loop {
        match inbox.recv().await {
            Some((_, SegmentEvent::Token(token))) => said.push(token.id),
            Some((_, SegmentEvent::End { end, .. })) => return Ok((said, end)),
            Some((_, SegmentEvent::Failed(error))) => return Err(error.into()),
            None => return Err(EngineError::Closed.into()),
        }
    }
}
