//! The confidence of tokens, from an engine's log-probabilities to the vote.

use super::*;
use crate::engine::{Bell, BranchId, Command, End, Engine, RequestCounts};
use crate::plan::{Measure, Over};
use std::collections::HashMap;

/// An engine that says a branch's whole text at once, and how sure it is of it.
#[derive(Default)]
struct Sure {
    keys: HashMap<BranchId, u64>,
    counts: RequestCounts,
}

/// An answer, and the confidence of each of its tokens, the EOS last.
type Chain = (&'static str, [f32; 5]);

const UNSURE: Chain = ("The answer is \\boxed{4}.", [0.5; 5]);
const SURE: Chain = ("The answer is \\boxed{5}.", [4.0, 2.0, 6.0, 8.0, 5.0]);

/// What the branch with this key says: the second one of seed 11 is the sure one.
fn chain(key: u64) -> Chain {
    if key == rng::derive(rng::derive(11, 0), 2) { SURE } else { UNSURE }
}

impl Engine for Sure {
    fn caps(&self) -> Caps {
        Caps { context: 4_096, vocab: 640, eos: vec![2], block: 16, pool_blocks: 4_096 }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Open { reply, .. } | Command::Settle { reply, .. } => reply.send(Ok(())),
            Command::Fork { child, key, .. } => drop(self.keys.insert(child, key)),
            Command::Decode { branch, segment, report } => {
                assert_eq!(segment.top_logprobs, 20, "as many as DeepConf asks for");
                let mut bell = Bell::default();
                let (text, confidences) = chain(self.keys[&branch]);
                let texts = words(text).into_iter().map(|text| (7, text)).chain([(2, String::new())]);
                for ((id, text), sure) in texts.zip(confidences) {
                    // Minus their mean is the confidence, to the bit.
                    let [likely, unlikely] = [0.25 - sure, -0.25 - sure];
                    let top = vec![(id, likely), (8, likely), (9, unlikely), (10, unlikely)];
                    report.token(Token { id, logprob: -0.5, top, text }, Some(&mut bell));
                    self.counts.sampled += 1;
                }
                report.end(End::Eos, String::new(), &mut bell);
            }
            Command::Counts { reply, .. } => reply.send(Ok(self.counts)),
            Command::Logits { reply, .. } => reply.send(Err(EngineError::Misuse("it does not score"))),
            Command::Append { .. }
            | Command::Truncate { .. }
            | Command::Abort { .. }
            | Command::Free { .. } => {}
        }
    }

    fn step(&mut self) -> Result<crate::engine::Progress, EngineError> {
        Ok(crate::engine::Progress::default())
    }
}

fn sure() -> Fixture {
    let (thread, handle) = EngineThread::spawn(Sure::default()).expect("a thread");
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let runner = Runner::new(handle, None, Arc::clone(&metrics));
    Fixture { runner, metrics, live: Arc::default(), _thread: thread }
}

/// A vote of two chains, each as heavy as it is confident.
fn vote(over: Over) -> Mode {
    Mode::SelfConsistency(Voting {
        branches: 2,
        wave: 2,
        stop: VoteStop::Fixed,
        weight: Weight::Confidence(Measure { over, window: 2 }),
        likelihood: 0.0,
    })
}

#[tokio::test]
async fn a_chain_is_as_confident_as_its_tokens_alternatives_are_unlikely() {
    // Groups of two of the sure chain: 3, 4, 7, 6.5.
    for (over, expected) in [(Over::Mean, 5.0), (Over::Tail, 6.5), (Over::Lowest, 3.0), (Over::Bottom, 3.0)] {
        let said = one(&sure(), plan(vote(over), 400, 1), Delivery::Whole).await;
        let candidates = &said.done().report.candidates;
        let scores: Vec<Option<f64>> = candidates.iter().map(|candidate| candidate.score).collect();
        assert_eq!(scores, [Some(0.5), Some(expected)], "{over:?}");
        assert_eq!(said.content, SURE.0, "{over:?}: the surer chain weighs more");
    }
}

#[tokio::test]
async fn of_the_alternatives_that_a_confidence_is_made_of_no_more_are_kept_than_were_asked_for() {
    for (logprobs, kept) in [(None, 0), (Some(0), 0), (Some(2), 2)] {
        let asked = Plan { logprobs, ..plan(vote(Over::Mean), 400, 1) };
        let said = one(&sure(), asked, Delivery::Whole).await;
        let done = said.done();
        let tokens: Vec<&Token> = done.tree.iter().flat_map(|(_, node)| &node.tokens).collect();
        assert_eq!(tokens.len(), 10, "all of both chains");
        for token in tokens.into_iter().chain(&said.tokens) {
            assert_eq!((token.top.len(), token.top.capacity()), (kept, kept), "{logprobs:?}");
        }
        assert_eq!(said.tokens.is_empty(), logprobs.is_none());
    }
}
