//! `auto`: as much as the problem needs. A probe of a few simulations of a tree search
//! tells how hard it is: where the leading answer has the share of the vote and the
//! score that were asked for, it is given; else the search goes on in the probe's tree,
//! and is over as soon as one has. (Adaptive allocation in the sense of Snell et al.,
//! arXiv 2408.03314, with the verifier's view of the first samples as the estimate of
//! difficulty.)
//!
//! Deliberately absent: a state machine of its own. All of it is in `mcts.rs`.

use super::mcts::TreeSearch;
use crate::plan::{Auto, Budget, Enough, Marker, Mcts};

/// The search of a mode that begins with a probe.
pub(super) fn search(auto: Auto, budget: Budget, marker: Option<Marker>) -> TreeSearch {
    let Auto { probe, confidence, tree } = auto;
    let enough = Enough { after: probe, share: confidence, score: confidence };
    TreeSearch::new(Mcts { enough: Some(enough), ..tree }, budget, marker)
}

#[cfg(test)]
mod tests;
