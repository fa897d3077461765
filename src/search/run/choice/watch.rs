//! Progress, and which branches a watching client has yet to hear of.
//!
//! What becomes of a branch is reported at once, its mere growth at intervals,
//! so that what is sent is bounded by the branches and not by their tokens. Who only
//! reads along gets a line now and then. The clock is read here for display alone:
//! nothing of it reaches a strategy.

use super::Choice;
use crate::search::NodeId;
use crate::search::event::{BranchReport, BranchState, Candidate, Event, Progress};
use crate::search::run::Delivery;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Between two reports of mere growth.
const INTERVAL: Duration = Duration::from_millis(100);

/// Between two lines that tell of no new leader.
const PAUSE: Duration = Duration::from_secs(1);

/// What a client that does not watch was told last.
#[derive(Debug, Default)]
pub(super) struct Lines {
    told: Option<Instant>,
    leading: Option<String>,
}

impl Lines {
    /// Whether a line is due, whatever it says.
    fn is_due(&self, now: Instant) -> bool {
        self.told.is_none_or(|told| now >= told + PAUSE)
    }

    /// Whether a line is worth telling, which it then is.
    fn take(&mut self, leading: Option<&str>, now: Instant) -> bool {
        let worth = self.is_due(now) || self.leading.as_deref() != leading;
        if worth {
            *self = Self { told: Some(now), leading: leading.map(str::to_owned) };
        }
        worth
    }
}

/// Branches by what is known of them and by what is still to be told.
#[derive(Debug, Default)]
pub(super) struct Watch {
    states: BTreeMap<NodeId, BranchState>,
    settled: BTreeSet<NodeId>,
    grown: BTreeSet<NodeId>,
    /// When growth was last reported; growth at the very start waits for none.
    told: Option<Instant>,
}

impl Watch {
    /// A branch has got a token.
    pub(super) fn grew(&mut self, node: NodeId) {
        self.grown.insert(node);
    }

    /// Something has become of a branch.
    pub(super) fn settle(&mut self, node: NodeId, state: BranchState) {
        self.states.insert(node, state);
        self.settled.insert(node);
    }

    /// The strategy has taken a branch's outcome, which may hold an answer.
    pub(super) fn judged(&mut self, node: NodeId) {
        if self.states.contains_key(&node) {
            self.settled.insert(node);
        }
    }

    /// Whether there is something to be told by now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.settled.is_empty() || (!self.grown.is_empty() && self.growth_is_due(now))
    }

    fn growth_is_due(&self, now: Instant) -> bool {
        self.told.is_none_or(|told| now >= told + INTERVAL)
    }

    /// What there is to be told, and no longer afterwards.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(NodeId, BranchState)> {
        let mut nodes = std::mem::take(&mut self.settled);
        if !self.grown.is_empty() && self.growth_is_due(now) {
            nodes.append(&mut self.grown);
            self.told = Some(now);
        } else {
            self.grown.retain(|node| !nodes.contains(node));
        }
        let state = |node: NodeId| self.states.get(&node).map(|state| (node, *state));
        nodes.into_iter().filter_map(state).collect()
    }

    /// The search is over: one branch is the answer, and whatever has not come
    /// to its end by itself is given up.
    pub(super) fn close(&mut self, selected: NodeId) {
        for (node, state) in &mut self.states {
            let last = match *state {
                _ if *node == selected => BranchState::Selected,
                BranchState::Growing | BranchState::Cut => BranchState::Pruned,
                state @ (BranchState::Complete | BranchState::Pruned | BranchState::Selected) => state,
            };
            if last != *state {
                *state = last;
                self.settled.insert(*node);
            }
        }
        self.settled.append(&mut self.grown);
    }
}

impl Choice {
    /// Notes what has become of a branch, where somebody watches.
    pub(super) fn settle(&mut self, node: NodeId, state: BranchState) {
        if let Some(watch) = &mut self.watch {
            watch.settle(node, state);
        }
    }

    /// Emits progress after an outcome: to one who watches always, else where a line is
    /// worth it. Only a complete trajectory can give another answer the lead, so after most
    /// outcomes nothing is looked at.
    pub(super) fn report_outcome(&mut self, complete: bool) {
        match self.shared.delivery {
            Delivery::Whole => {}
            Delivery::Watched => {
                let changed = self.changed();
                self.emit(Event::Progress(self.progress(true, &changed)));
            }
            Delivery::Live => {
                let now = Instant::now();
                if !complete && !self.lines.is_due(now) {
                    return;
                }
                let progress = self.progress(true, &[]);
                let leading = progress.leading.as_ref().map(|(answer, _)| answer.as_str());
                if self.lines.take(leading, now) {
                    self.emit(Event::Progress(progress));
                }
            }
        }
    }

    /// Emits how branches have grown, where one who watches has something to hear.
    pub(super) fn report_growth(&mut self) {
        let changed = self.changed();
        if !changed.is_empty() {
            self.emit(Event::Progress(self.progress(false, &changed)));
        }
    }

    /// What one who watches has to hear by now.
    fn changed(&mut self) -> Vec<(NodeId, BranchState)> {
        // This is asked at every token, and most clients do not watch.
        let Some(watch) = &mut self.watch else { return Vec::new() };
        let now = Instant::now();
        if watch.is_due(now) { watch.take(now) } else { Vec::new() }
    }

    fn progress(&self, outcome: bool, changed: &[(NodeId, BranchState)]) -> Progress {
        let candidates = self.strategy.candidates();
        let changed = changed.iter().map(|(node, state)| self.branch(*node, *state, &candidates)).collect();
        let mut votes: Vec<(String, u32)> = Vec::new();
        for answer in candidates.into_iter().filter_map(|candidate| candidate.answer) {
            match votes.iter_mut().find(|(known, _)| *known == answer) {
                Some((_, count)) => *count += 1,
                None => votes.push((answer, 1)),
            }
        }
        Progress {
            branches_made: self.made,
            branches_ended: self.made.saturating_sub(u32::try_from(self.alive).unwrap_or(u32::MAX)),
            branches_planned: self.shared.plan.mode.branches(),
            tokens: self.spent,
            budget: self.budget.tokens,
            leading: votes.into_iter().rev().max_by_key(|(_, count)| *count),
            outcome,
            changed,
        }
    }

    fn branch(&self, id: NodeId, state: BranchState, candidates: &[Candidate]) -> BranchReport {
        let node = self.tree.node(id);
        let candidate = candidates.iter().find(|candidate| candidate.branch == id);
        BranchReport {
            id,
            parent: NodeId(node.parent),
            tokens: u32::try_from(node.tokens.len()).unwrap_or(u32::MAX),
            state,
            answer: candidate.and_then(|candidate| candidate.answer.clone()),
            score: node
                .scores
                .last()
                .copied()
                .or_else(|| candidate.map(|candidate| candidate.mean_logprob))
                .filter(|score| score.is_finite()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BranchState::{Complete, Cut, Growing, Pruned, Selected};

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    #[tokio::test]
    async fn fates_are_told_at_once_and_growth_at_intervals() {
        let start = Instant::now();
        let mut watch = Watch::default();
        assert!(!watch.is_due(start));
        watch.settle(A, Growing);
        watch.settle(B, Growing);
        assert_eq!(watch.take(start), [(A, Growing), (B, Growing)]);
        assert!(!watch.is_due(start));

        watch.grew(A);
        watch.grew(B);
        assert_eq!(watch.take(start), [(A, Growing), (B, Growing)]);
        watch.grew(A);
        watch.grew(B);
        assert!(!watch.is_due(start + INTERVAL / 2));
        watch.settle(A, Complete);
        assert!(watch.is_due(start + INTERVAL / 2));
        // B has only grown, so it waits.
        assert_eq!(watch.take(start + INTERVAL / 2), [(A, Complete)]);
        assert!(!watch.is_due(start + INTERVAL / 2));
        assert!(watch.is_due(start + INTERVAL));
        assert_eq!(watch.take(start + INTERVAL), [(B, Growing)]);
        assert!(!watch.is_due(start + INTERVAL * 9));
    }

    #[tokio::test]
    async fn a_line_is_told_of_a_new_leader_and_once_in_a_while() {
        let start = Instant::now();
        let mut lines = Lines::default();
        assert!(lines.is_due(start) && lines.take(None, start), "that it has begun");
        let soon = start + PAUSE / 2;
        assert!(!lines.is_due(soon) && !lines.take(None, soon));
        assert!(lines.take(Some("7"), soon) && !lines.take(Some("7"), soon));
        assert!(lines.take(Some("8"), soon));
        assert!(!lines.is_due(start + PAUSE), "since the last one");
        assert!(lines.is_due(soon + PAUSE) && lines.take(Some("8"), soon + PAUSE));
    }

    #[tokio::test]
    async fn in_the_end_every_branch_has_won_lost_or_been_given_up() {
        let start = Instant::now();
        let mut watch = Watch::default();
        for (node, state) in [(A, Complete), (B, Complete), (C, Cut)] {
            watch.settle(node, state);
        }
        watch.take(start);
        // Never begun here, so there is nothing to be told of it.
        watch.judged(NodeId(9));
        watch.close(B);
        assert_eq!(watch.take(start), [(B, Selected), (C, Pruned)]);
        assert!(!watch.is_due(start + INTERVAL));
    }
}
