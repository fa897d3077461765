//! An engine that only scores, for a judge: logits drawn from what a branch holds,
//! so that equal questions have equal verdicts. A rule says which of them it gives
//! at once, which it keeps until it is told, and which it cannot give.

use crate::engine::{
    BranchId, Caps, Command, Engine, EngineError, EngineThread, Handle, Progress, Reply, rng,
};
use crate::token::TokenId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What becomes of a question.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Answered,
    /// Whatever it is about is good, as surely as can be.
    Praised,
    /// Its answer is kept until [`Grades::release`].
    Withheld,
    Failed,
    /// It is answered with what are no probabilities.
    Unclear,
}

/// Given a question's number, from 0, what becomes of it.
type Rule = Box<dyn FnMut(usize) -> Fate + Send>;

type Rows = Vec<Vec<f32>>;

/// Answers that are kept.
type Kept = Arc<Mutex<Vec<(Reply<Rows>, Result<Rows, EngineError>)>>>;

/// The tokens of its branches.
struct Grader {
    branches: HashMap<BranchId, Vec<TokenId>>,
    rule: Rule,
    asked: usize,
    kept: Kept,
    live: Arc<AtomicUsize>,
}

/// One that runs, and what it reveals.
pub(super) struct Grades {
    pub(super) handle: Handle,
    /// Branches alive.
    pub(super) live: Arc<AtomicUsize>,
    kept: Kept,
    _thread: EngineThread,
}

impl Grades {
    /// Answers that it has kept so far.
    pub(super) fn kept(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Gives the answers that it has kept.
    pub(super) fn release(&self) {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        kept.into_iter().for_each(|(reply, answer)| reply.send(answer));
    }
}

/// Starts one that follows a rule.
pub(super) fn ruled(rule: impl FnMut(usize) -> Fate + Send + 'static) -> Grades {
    let (kept, live) = (Kept::default(), Arc::default());
    let grader = Grader {
        branches: HashMap::new(),
        rule: Box::new(rule),
        asked: 0,
        kept: Arc::clone(&kept),
        live: Arc::clone(&live),
    };
    let (thread, handle) = EngineThread::spawn(grader).expect("a thread");
    Grades { handle, live, kept, _thread: thread }
}

/// Starts one that answers everything.
pub(super) fn start() -> Grades {
    ruled(|_| Fate::Answered)
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
                let rows: Option<Rows> = positions.into_iter().map(row).collect();
                let answer = rows.ok_or(EngineError::Misuse("a position behind the end"));
                let fate = (self.rule)(self.asked);
                self.asked += 1;
                match fate {
                    Fate::Answered => reply.send(answer),
                    // The word for a good step is asked for first.
                    Fate::Praised => reply.send(answer.map(|rows| {
                        let praise = |row: Vec<f32>| (0..row.len()).map(|id| -8.0 * id as f32).collect();
                        rows.into_iter().map(praise).collect()
                    })),
                    Fate::Withheld => {
                        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push((reply, answer));
                    }
                    Fate::Unclear => reply.send(
                        answer.map(|rows| rows.into_iter().map(|row| vec![f32::NAN; row.len()]).collect()),
                    ),
                    Fate::Failed => reply.send(Err(EngineError::Forward("as the test wants it".to_owned()))),
                }
            }
            Command::Free { branch } => drop(self.branches.remove(&branch)),
            Command::Decode { report, .. } => report.fail(EngineError::Misuse("it only scores")),
            Command::Counts { reply, .. } => reply.send(Err(EngineError::Misuse("it counts nothing"))),
            Command::Abort { .. } => {}
        }
        self.live.store(self.branches.len(), Ordering::SeqCst);
    }

    fn step(&mut self) -> Result<Progress, EngineError> {
        Ok(Progress::default())
    }
}
