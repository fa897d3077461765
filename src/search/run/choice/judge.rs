//! Scores: a lease on the verifier beside every branch that it scores, and the
//! verifier's part of the budget.
//!
//! Where that part is bounded, a trajectory is sent to the verifier only once
//! its outcome is the next to be told, so that which ones are scored depends on
//! logical time alone; else at once, while others are still decoded.

use super::super::flight::Scoring;
use super::{Aside, Choice};
use crate::engine::End;
use crate::search::{NodeId, WorkId};
use crate::verify::{Lease, VerifyError};
use std::collections::HashMap;
use std::sync::Arc;

/// What a choice holds of a verifier.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// Stands before the first step; none without a verifier.
    root: Option<Arc<Lease>>,
    leases: HashMap<NodeId, Lease>,
    /// Tokens put through the verifier.
    pub(super) tokens: u32,
    /// Steps that it scored.
    pub(super) steps: u32,
    /// Why there are scores missing.
    pub(super) missing: Option<Missing>,
}

/// Why a trajectory has no scores.
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

    pub(super) fn release(&mut self, node: NodeId) {
        drop(self.leases.remove(&node));
    }
}

impl Choice {
    /// Sends a landed trajectory to the verifier.
    pub(super) fn send_to_verifier(&mut self, key: (u64, WorkId)) {
        let Some(landing) = self.landed.get(&key) else { return };
        let (node, work) = (landing.node, key.1);
        // A step that was cut at its cap is scored as it stands.
        let ended = !matches!(landing.end, Ok(End::Step));
        let scoring = self.score(node, work, ended);
        if let Some(landing) = self.landed.get_mut(&key) {
            landing.scoring = scoring;
        }
    }

    fn score(&mut self, node: NodeId, work: WorkId, ended: bool) -> Scoring {
        if self.judge.missing.is_some() {
            return Scoring::Failed;
        }
        let text = self.tree.trajectory(node);
        if !self.judge.leases.contains_key(&node) {
            let nearest = self.tree.ancestors(node).find_map(|id| self.judge.leases.get(&id));
            let Some(lease) = nearest.or(self.judge.root.as_deref()).map(Lease::fork) else {
                return Scoring::Failed;
            };
            self.judge.leases.insert(node, lease);
        }
        let Some(lease) = self.judge.leases.get_mut(&node) else { return Scoring::Failed };
        let Some(reading) = lease.read(text.visible_text(), ended) else {
            self.tree.node_mut(node).scores = lease.scores().to_vec();
            return Scoring::Done;
        };
        let tokens = self.judge.tokens.saturating_add(reading.tokens());
        if self.budget.verifier_tokens.is_some_and(|most| tokens > most) {
            self.judge.missing = Some(Missing::Budget);
            return Scoring::Failed;
        }
        self.judge.tokens = tokens;
        self.judge.steps += u32::try_from(reading.steps()).unwrap_or(u32::MAX);
        let scores = lease.score(reading);
        self.aside.push(Box::pin(async move { Aside::Scored(work, scores.await) }));
        Scoring::Out
    }

    /// Takes what the verifier says of a landing.
    pub(super) fn scored(&mut self, work: WorkId, result: Result<Vec<f64>, VerifyError>) {
        let Some((_, landing)) = self.landed.iter_mut().find(|((_, id), _)| *id == work) else { return };
        let node = landing.node;
        landing.scoring = match (result, self.judge.leases.get_mut(&node)) {
            (Ok(scores), Some(lease)) => {
                lease.take(&scores);
                self.tree.node_mut(node).scores = lease.scores().to_vec();
                Scoring::Done
            }
            (Err(error), _) => {
                tracing::warn!(%error, "the verifier gave no score");
                self.judge.missing = Some(Missing::Fault(error));
                Scoring::Failed
            }
            (Ok(_), None) => Scoring::Failed,
        };
    }
}
