//! Scores: a lease on the verifier beside every branch that it scores, and the
//! verifier's part of the budget.
//!
//! Where that part is bounded, a trajectory is sent to the verifier only once
//! its outcome is the next to be told, so that which ones are scored depends on
//! logical time alone; else at once, while others are still decoded. Trajectories
//! whose tokens are the same are scored once.
//!
//! A trajectory that the verifier cannot score (too long, joined tokens, a score
//! that is none) has none, and neither has what goes on from it; the others are
//! scored as before. Only a failing verifier or a spent budget ends the scoring.

use super::super::flight::{Landing, Scoring};
use super::{Aside, Choice};
use crate::engine::End;
use crate::plan::Mode;
use crate::search::{NodeId, WorkId};
use crate::token::TokenId;
use crate::verify::{Lease, Scores, VerifyError};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a choice holds of a verifier.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// Stands before the first step; none without a verifier.
    root: Option<Arc<Lease>>,
    leases: HashMap<NodeId, Lease>,
    /// What was sent to it.
    said: HashMap<Passage, Said>,
    /// Branches that cannot be scored, and why. They are kept when the branch is
    /// gone: what goes on from them would come to the same error.
    unscorable: HashMap<NodeId, VerifyError>,
    /// Those of them that the strategy was told of. Which of the others were found
    /// out depends on load.
    told: HashSet<NodeId>,
    /// Why the first that it was told of cannot.
    refusal: Option<VerifyError>,
    /// Tokens put through the verifier; of what another server has not answered
    /// yet an estimate.
    pub(super) tokens: u32,
    /// Steps that it scored.
    pub(super) steps: u32,
    /// Why no more scores come.
    pub(super) missing: Option<Missing>,
}

/// What a trajectory says behind what the verifier had read of it. Samples often
/// say the same, and what says the same is scored once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Passage {
    /// The branch up to whose end it was read.
    from: NodeId,
    /// Tokens since.
    ids: Vec<TokenId>,
    ended: bool,
}

/// What is known of a passage.
#[derive(Debug)]
enum Said {
    /// The verifier is at it; these wait for it too.
    Out(Vec<WorkId>),
    Known(Known),
}

/// What the verifier makes of a passage.
#[derive(Debug, Clone)]
enum Known {
    Scored {
        /// The branch that was scored.
        by: NodeId,
        /// Bytes of its text that were read.
        read: usize,
        /// Scores of all of its steps.
        scores: Vec<f64>,
    },
    /// It cannot be scored, whoever says it.
    Unscorable(VerifyError),
}

/// Why no more scores come.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Missing {
    /// The verifier's part of the budget is spent.
    Budget,
    /// The verifier failed.
    Fault(VerifyError),
}

impl Judge {
    /// Takes the request's lease, and pays for its prompt where `pays` says so.
    pub(super) fn open(&mut self, root: Result<Option<Arc<Lease>>, VerifyError>, pays: bool) {
        match root {
            Ok(None) => self.missing = Some(Missing::Budget),
            Ok(Some(root)) => {
                if pays {
                    self.tokens += root.opening_tokens();
                }
                self.root = Some(root);
            }
            Err(error) => self.missing = Some(Missing::Fault(error)),
        }
    }

    /// Puts a branch beside the one that was scored in its place, if it may go on
    /// and that one has not gone on since.
    fn follow(&mut self, node: NodeId, (by, read): (NodeId, usize), ended: bool) {
        if !ended
            && node != by
            && let Some(lease) = self.leases.get(&by).and_then(|lease| lease.fork_at(read))
        {
            self.leases.insert(node, lease);
        }
    }

    pub(super) fn release(&mut self, node: NodeId) {
        drop(self.leases.remove(&node));
    }

    /// The strategy is told of a branch; says whether that, or what it goes on from,
    /// was found to have no score, and takes note of it.
    pub(super) fn tells_of(&mut self, node: NodeId) -> bool {
        let Some(error) = self.unscorable.get(&node) else { return false };
        self.told.insert(node);
        self.refusal.get_or_insert_with(|| error.clone());
        true
    }

    /// What a client is told about scores that are missing, if any are.
    pub(super) fn notes(&self, mode: Mode) -> impl Iterator<Item = String> {
        // Chains go on without their scores; what is guided by them cannot.
        let votes = mode.branches().is_some();
        let so = if votes {
            "chains without a score weigh what the others do"
        } else {
            "the search ended with what it had"
        };
        let ended = self.missing.as_ref().map(|missing| match missing {
            Missing::Budget => format!("the verifier's part of the budget is spent, so {so}"),
            Missing::Fault(error) => format!("the verifier failed, so {so}: {error}"),
        });
        let weigh = if votes { "weigh what the others do" } else { "are worth nothing" };
        let refused = self.refusal.as_ref().map(|error| {
            let count = self.told.len();
            format!("branches that could not be scored ({count}) {weigh}; the first: {error}")
        });
        ended.into_iter().chain(refused)
    }
}

impl Choice {
    /// Sends a landed trajectory to the verifier.
    pub(super) fn send_to_verifier(&mut self, key: (u64, WorkId)) {
        let Some(landing) = self.landed.get(&key) else { return };
        let (node, work) = (landing.node, key.1);
        let scoring = match landing.end {
            Ok(End::Step) => self.score(node, work, (false, true)),
            // One that was cut may go on from here, so it is read on its own.
            Ok(End::Length) => self.score(node, work, (true, false)),
            _ => self.score(node, work, (true, true)),
        };
        if let Some(landing) = self.landed.get_mut(&key) {
            landing.scoring = scoring;
        }
    }

    /// Has a trajectory scored. Where it has `ended`, what follows its last
    /// separator is a step too; `shared` says whether one that says the same may
    /// be scored in its place.
    fn score(&mut self, node: NodeId, work: WorkId, (ended, shared): (bool, bool)) -> Scoring {
        let why = |id| self.judge.unscorable.get(&id);
        let refusal = [node].into_iter().chain(self.tree.ancestors(node)).find_map(why).cloned();
        if let Some(error) = refusal {
            return self.know(node, &Known::Unscorable(error), ended);
        }
        if self.judge.missing.is_some() {
            return Scoring::Failed;
        }
        let mut passage = None;
        if !self.judge.leases.contains_key(&node) {
            let nearest = self.tree.ancestors(node).find(|id| self.judge.leases.contains_key(id));
            if shared {
                let from = nearest.unwrap_or(NodeId::ROOT);
                let known = if from == NodeId::ROOT { 0 } else { self.tree.length(from) };
                let said = Passage { from, ids: self.tree.ids_behind(node, known), ended };
                if let Some(scoring) = self.said_before(&said, node, work) {
                    return scoring;
                }
                passage = Some(said);
            }
            let lease = nearest.and_then(|id| self.judge.leases.get(&id));
            let Some(lease) = lease.or(self.judge.root.as_deref()).map(Lease::fork) else {
                return Scoring::Failed;
            };
            self.judge.leases.insert(node, lease);
        }
        let Some(lease) = self.judge.leases.get_mut(&node) else { return Scoring::Failed };
        let Some(reading) = lease.read(&self.tree.visible_text(node), ended) else {
            self.tree.node_mut(node).scores = lease.scores().to_vec();
            return Scoring::Done;
        };
        let cost = reading.tokens();
        let tokens = self.judge.tokens.saturating_add(cost);
        if self.budget.verifier_tokens.is_some_and(|most| tokens > most) {
            self.judge.missing = Some(Missing::Budget);
            return Scoring::Failed;
        }
        self.judge.tokens = tokens;
        let scores = lease.score(reading);
        if let Some(passage) = &passage {
            self.judge.said.insert(passage.clone(), Said::Out(Vec::new()));
        }
        self.aside.push(Box::pin(async move { Aside::Scored(work, passage, cost, scores.await) }));
        Scoring::Out
    }

    /// What becomes of a trajectory of which another has said the same before.
    fn said_before(&mut self, passage: &Passage, node: NodeId, work: WorkId) -> Option<Scoring> {
        let known = match self.judge.said.get_mut(passage)? {
            Said::Out(waiting) => {
                waiting.push(work);
                return Some(Scoring::Out);
            }
            Said::Known(known) => known.clone(),
        };
        Some(self.know(node, &known, passage.ended))
    }

    /// Takes what is known of what a branch says.
    fn know(&mut self, node: NodeId, known: &Known, ended: bool) -> Scoring {
        match known {
            Known::Scored { by, read, scores } => {
                self.tree.node_mut(node).scores.clone_from(scores);
                self.judge.follow(node, (*by, *read), ended);
                Scoring::Done
            }
            Known::Unscorable(error) => {
                // Those of its beginning are none of the whole.
                self.tree.node_mut(node).scores.clear();
                self.judge.release(node);
                self.judge.unscorable.insert(node, error.clone());
                Scoring::Failed
            }
        }
    }

    /// Takes what the verifier says of a landing, and of those that wait for it;
    /// `cost` was charged for it.
    pub(super) fn scored(
        &mut self,
        (work, cost): (WorkId, u32),
        passage: Option<Passage>,
        result: Result<Scores, VerifyError>,
    ) {
        if let Ok(scores) = &result {
            // What was charged before gives way to what it has cost.
            self.judge.tokens = self.judge.tokens.saturating_sub(cost).saturating_add(scores.tokens);
            self.judge.steps += u32::try_from(scores.values.len()).unwrap_or(u32::MAX);
        }
        let waiting = match passage.as_ref().and_then(|passage| self.judge.said.remove(passage)) {
            Some(Said::Out(waiting)) => waiting,
            Some(Said::Known(_)) | None => Vec::new(),
        };
        let known = match result {
            Ok(scores) => self.node_of(work).and_then(|by| {
                let lease = self.judge.leases.get_mut(&by)?;
                lease.take(&scores.values);
                let (read, scores) = (lease.position(), lease.scores().to_vec());
                Some(Known::Scored { by, read, scores })
            }),
            Err(error) => {
                if error.concerns_one_solution() {
                    Some(Known::Unscorable(error))
                } else {
                    self.judge.missing = Some(Missing::Fault(error));
                    None
                }
            }
        };
        let ended = passage.as_ref().is_none_or(|passage| passage.ended);
        for work in [work].into_iter().chain(waiting) {
            let Some(node) = self.node_of(work) else { continue };
            let scoring = known.as_ref().map_or(Scoring::Failed, |known| self.know(node, known, ended));
            if let Some(landing) = self.landing_of(work) {
                landing.scoring = scoring;
            }
        }
        if let (Some(passage), Some(known)) = (passage, known) {
            self.judge.said.insert(passage, Said::Known(known));
        }
    }

    fn landing_of(&mut self, work: WorkId) -> Option<&mut Landing> {
        self.landed.iter_mut().find(|((_, id), _)| *id == work).map(|(_, landing)| landing)
    }

    fn node_of(&mut self, work: WorkId) -> Option<NodeId> {
        self.landing_of(work).map(|landing| landing.node)
    }
}

#[cfg(test)]
pub(super) mod tests;
