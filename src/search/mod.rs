//! How to spend a budget: pure ask/tell strategies, and the one async file,
//! [`run`], that carries their work to an engine.
//!
//! A strategy has no model, no clock and no I/O; it cannot fail or wait. It is
//! asked for work, told outcomes, and can name its best answer at any moment,
//! so every stop reason leads to an answer. It keeps its own account of the
//! budget, and `run` holds it to that.

mod auto;
mod beam;
mod best_of_n;
mod chain;
mod chains;
mod confidence;
#[cfg(test)]
mod conformance;
mod direct;
pub mod event;
mod grove;
mod mcts;
mod posterior;
pub mod run;
mod self_consistency;
pub mod tree;

use crate::plan::{Budget, Marker, Mode};
use crate::token::TokenId;
use event::Candidate;
pub use tree::NodeId;

/// Numbers the pieces of work of one strategy, in the order of asking.
pub type WorkId = u64;

/// Something that a strategy wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Grow a branch.
    Extend(Extend),
    /// Give a branch up; it will not be extended again.
    Retire(NodeId),
}

/// Growth of one branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extend {
    /// Names this piece of work in [`Strategy::tell`].
    pub id: WorkId,
    /// The branch: a new one where `fork` is set, else one that was extended
    /// before and not retired.
    pub node: NodeId,
    /// The node to fork it from; [`NodeId::ROOT`] is the prompt.
    pub fork: Option<NodeId>,
    /// Tokens to put on it first.
    pub inject: Vec<TokenId>,
    /// Tokens that this may add, injected ones included: its part of the budget.
    pub max_tokens: u32,
    /// Where it ends at the latest.
    pub until: Until,
    /// Whether the likeliest token is taken each time.
    pub greedy: bool,
    /// Whether a verifier is to score the trajectory's steps before the outcome
    /// is told.
    pub score: bool,
}

/// Where a piece of work ends, if neither its tokens nor the text end first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// With the text.
    End,
    /// With the step.
    Step,
}

/// What came of a piece of work.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The branch grew.
    Grown(Grown),
    /// The work was given up by the engine; the branch is lost with it.
    Abandoned,
}

/// How a branch grew.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grown {
    /// Tokens added, injected ones included.
    pub tokens: u32,
    /// The same by their ids.
    pub ids: Vec<TokenId>,
    /// The trajectory's whole text, up to its stop string if it met one.
    pub text: String,
    /// Mean log-probability of the trajectory's sampled tokens; NaN without any.
    pub mean_logprob: f64,
    /// The same of the tokens that this work sampled.
    pub step_logprob: f64,
    /// The confidence of each token that this work sampled, where the mode reads
    /// it: minus the mean log-probability of the likeliest 20 there.
    pub confidences: Vec<f32>,
    /// The verifier's scores of all steps of the trajectory, in order, where
    /// they were asked for and there are any.
    pub scores: Option<Vec<f64>>,
    /// Scores were asked for, and the verifier failed or its budget is spent.
    pub unscored: bool,
    /// Whether the branch is a complete trajectory (EOS or stop string). A
    /// complete branch is given up without being retired.
    pub complete: bool,
    /// Whether it can be extended further: it is neither complete nor at the
    /// end of the context.
    pub extensible: bool,
}

/// A strategy's best answer so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The branch whose text it is.
    pub node: NodeId,
    /// Whether that text is complete.
    pub complete: bool,
}

/// What a strategy can run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Tokens to generate.
    Tokens,
    /// Branches to make.
    Branches,
}

/// A decoding mode as a pure state machine.
pub trait Strategy: Send {
    /// Work to start now, given that `room` more branches may be alive; empty
    /// when it waits for what is in flight, or is done. Called again after
    /// everything it returned has been started.
    fn ask(&mut self, room: usize) -> Vec<Work>;
    /// Takes an outcome. Unknown and repeated ids are ignored.
    fn tell(&mut self, id: WorkId, outcome: Outcome);
    /// The best answer so far; `None` before any text exists.
    fn answer(&self) -> Option<Answer>;
    /// Whether nothing is left to ask for.
    fn is_done(&self) -> bool;
    /// The trajectories so far, in the order of their branches.
    fn candidates(&self) -> Vec<Candidate>;
    /// Whether its answer was settled before all that it had begun was at its end,
    /// so that what was cut did not matter.
    fn is_decided(&self) -> bool {
        false
    }
    /// With more of what it would have done more.
    fn starved(&self) -> Option<Scarce> {
        None
    }
}

/// The strategy of a mode.
#[must_use]
pub fn build(mode: Mode, budget: Budget, marker: Option<&Marker>) -> Box<dyn Strategy> {
    let marker = marker.cloned();
    match mode {
        Mode::Direct => Box::new(direct::Direct::new(budget)),
        Mode::ChainOfThought => Box::new(chain::ChainOfThought::new(budget, marker)),
        Mode::SelfConsistency(vote) => Box::new(self_consistency::SelfConsistency::new(vote, budget, marker)),
        Mode::BestOfN(best) => Box::new(best_of_n::BestOfN::new(best, budget, marker)),
        Mode::Beam(beam) => Box::new(beam::BeamSearch::new(beam, budget, marker)),
        Mode::Mcts(mcts) => Box::new(mcts::TreeSearch::new(mcts, budget, marker)),
        Mode::Auto(auto) => Box::new(auto::search(auto, budget, marker)),
    }
}
