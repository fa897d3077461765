//! An engine that only scores, for a judge: logits drawn from what a branch holds,
//! so that equal questions have equal verdicts.

use crate::engine::{BranchId, Caps, Command, Engine, EngineError, EngineThread, Handle, rng};
use crate::token::TokenId;
use std::collections::HashMap;

/// The tokens of its branches.
#[derive(Default)]
struct Grader {
    branches: HashMap<BranchId, Vec<TokenId>>,
}

/// Starts one.
pub(super) fn start() -> (EngineThread, Handle) {
    EngineThread::spawn(Grader::default()).expect("a thread")
}

/// A number from -4 to 4 for a token behind others.
fn logit(tokens: &[TokenId], id: TokenId) -> f32 {
    let key = tokens.iter().chain([&id]).fold(0, |key, &token| rng::derive(key, token.into()));
    (8.0 * rng::uniform(key, 0) - 4.0) as f32
}

impl Engine for Grader {
    fn caps(&self) -> Caps {
        Caps { context: 1 << 20, vocab: 640, eos: vec![2], block: 16, pool_blocks: 1 << 20 }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Open { root, open, reply } => {
                self.branches.insert(root, open.prompt.to_vec());
                reply.send(Ok(()));
            }
            Command::Fork { parent, child, .. } => {
                let tokens = self.branches.get(&parent).cloned().unwrap_or_default();
                self.branches.insert(child, tokens);
            }
            Command::Append { branch, tokens } => self.branches.entry(branch).or_default().extend(tokens),
            Command::Truncate { branch, len } => self.branches.entry(branch).or_default().truncate(len),
            Command::Settle { reply, .. } => reply.send(Ok(())),
            Command::Logits { branch, positions, ids, reply } => {
                let tokens = self.branches.get(&branch).map_or(&[][..], Vec::as_slice);
                let row = |at: usize| tokens.get(..=at).map(|t| ids.iter().map(|&id| logit(t, id)).collect());
                let rows: Option<Vec<Vec<f32>>> = positions.into_iter().map(row).collect();
                reply.send(rows.ok_or(EngineError::Misuse("a position behind the end")));
            }
            Command::Free { branch } => drop(self.branches.remove(&branch)),
            Command::Decode { report, .. } => report.fail(EngineError::Misuse("it only scores")),
            Command::Counts { reply, .. } => reply.send(Err(EngineError::Misuse("it counts nothing"))),
            Command::Abort { .. } => {}
        }
    }

    fn step(&mut self) -> Result<bool, EngineError> {
        Ok(false)
    }
}
