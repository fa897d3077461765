//! Whether the model works at all, asked without any request.
//!
//! A prompt that holds a token whose weights are no numbers fails however often it is
//! sent, and clients send it again by themselves. What tells it from a model that can
//! take nothing is a pass that no request has had a part in.

use super::TreeEngine;
use super::forward::Forward;
use super::model::Row;
use super::store::Store;
use crate::token::TokenId;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many tokens are tried, each alone, spread over the vocabulary: one may be of
/// those that the model cannot take.
const TOKENS: usize = 4;

impl<M: Forward> TreeEngine<M> {
    /// Whether the model has a finite logit to give behind one of a few tokens.
    pub(super) fn model_works(&mut self) -> bool {
        let shape = self.model.shape();
        let tokens = (0..TOKENS).map(|index| (2 * index + 1) * shape.vocab / (2 * TOKENS));
        let tokens: Vec<TokenId> = tokens.map(|token| token as TokenId).collect();
        // A block of its own: the pool may be full, and what is in it is somebody's.
        let Some(mut store) = Store::new(shape.layers, shape.kv_heads, shape.head_dim, 1) else {
            return false;
        };
        tokens.into_iter().any(|token| {
            let row = Row { token, position: 0, blocks: &[0], logits: true };
            // A panic leaves nothing behind but scratch memory, as in a step.
            let run = || self.model.run(&[row], &mut store, &self.threads);
            let ran = catch_unwind(AssertUnwindSafe(run));
            let mut logits = self.model.logits();
            matches!(ran, Ok(Ok(()))) && logits.any(|row| row.iter().any(|logit| logit.is_finite()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::BLOCK;
    use super::super::tests::{Fault, prompt, rig_with, said};
    use super::*;
    use crate::engine::{EngineError, EngineThread, Health, Open};
    use std::time::Duration;

    #[tokio::test]
    async fn prompts_that_the_model_cannot_take_end_themselves_and_never_the_engine() {
        for panics in [false, true] {
            let fault: Fault = Box::new(move |tokens| match tokens.contains(&1) {
                true if panics => panic!("as this test wants it"),
                true => Err("as this test wants it".to_owned()),
                false => Ok(()),
            });
            let mut rig = rig_with(64, 64, fault);
            rig.settled(1, Open::new([5; 9 * BLOCK].into(), 10 * BLOCK, 1));
            let (_thread, handle) = EngineThread::spawn(rig.engine).expect("a thread");
            for attempt in 0..7 {
                let root = handle.open(Open::new([1, 1, 2].into(), 10, 1)).await.expect("it goes on");
                let told = root.settle().await;
                assert!(matches!(told, Err(EngineError::Forward(_))), "{attempt}: {told:?}");
            }
            let root = handle.open(Open::new([2, 3].into(), 10, 1)).await.expect("it goes on");
            assert_eq!(root.settle().await, Ok(()));
            // The step that has settled it may not be over yet.
            while handle.health(Duration::from_secs(60)) != Health::Live {
                tokio::task::yield_now().await;
            }
        }
    }

    #[test]
    fn one_token_that_the_model_can_take_is_enough_and_none_is_not() {
        for (bad, works) in [(0..13, false), (0..8, true), (5..13, true), (0..0, true)] {
            let mut asked = Vec::new();
            let fault = {
                let bad = bad.clone();
                move |tokens: &[TokenId]| match tokens.iter().any(|token| bad.contains(token)) {
                    true => Err("as this test wants it".to_owned()),
                    false => Ok(()),
                }
            };
            let mut rig = rig_with(64, 64, Box::new(fault));
            assert_eq!(rig.engine.model_works(), works, "{bad:?}");
            asked.extend(rig.passes.lock().expect("not poisoned").iter().copied());
            assert_eq!(asked, vec![1; usize::from(works)], "each alone, and no more than it takes");
            rig.engine.model.spoilt = |_| true;
            assert!(!rig.engine.model_works(), "its logits are no numbers");
        }
    }

    /// A probe is nobody's step: what others say, and where they keep it, is the same.
    #[test]
    fn a_probe_leaves_no_trace_in_the_pool() {
        let mut rig = rig_with(64, 64, Box::new(|_| Ok(())));
        rig.settled(1, Open::new(prompt(1, 20), 60, 2));
        rig.fork(1, 10);
        rig.decode(10, 9);
        rig.step().expect("runs");
        assert!(rig.engine.model_works());
        while rig.step().expect("runs") {}
        assert_eq!(rig.heard[&10].0, said(&prompt(1, 20), 10, 9));
    }
}
