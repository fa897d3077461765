//! `self_consistency`: a majority over independent chains of thought (Wang et
//! al., arXiv 2203.11171), with a fixed number of chains.
//!
//! Every chain is granted an equal share of the budget less the answer reserve.
//! What early finishers leave goes to the chains that were cut, round by round;
//! when no chain is complete in the end, the likeliest prefix is completed
//! within the reserve. The vote groups by canonical answer; a chain without an
//! answer has no vote; among equal classes the one seen first wins; the text
//! returned is the winning class's likeliest member. Without any answer there is
//! no vote and the likeliest complete chain is returned.

use super::chain::Chain;
use super::event::Candidate;
use super::{Answer, Extend, NodeId, Outcome, Strategy, Work, WorkId};
use crate::plan::{Budget, Marker, split};
use std::collections::HashMap;

/// A fixed number of chains and their vote.
#[derive(Debug)]
pub(super) struct SelfConsistency {
    budget: Budget,
    marker: Option<Marker>,
    chains: Vec<Chain>,
    grants: Vec<u32>,
    /// Chains asked for so far.
    asked: usize,
    in_flight: HashMap<WorkId, usize>,
    next: WorkId,
    /// The last work was to complete a prefix within the reserve.
    completing: bool,
}

impl SelfConsistency {
    pub(super) fn new(branches: u32, budget: Budget, marker: Option<Marker>) -> Self {
        // A chain without a token has nothing to say.
        let thinkable = budget.tokens.saturating_sub(budget.reserve);
        let branches = branches.min(budget.branches).min(thinkable).max(1);
        let most = budget.branch_tokens.saturating_sub(budget.reserve);
        let grants = split(thinkable, branches);
        Self {
            marker,
            chains: (1..=branches).map(|id| Chain::new(NodeId(id))).collect(),
            grants: grants.into_iter().map(|grant| grant.min(most)).collect(),
            asked: 0,
            in_flight: HashMap::new(),
            next: 0,
            completing: false,
            budget,
        }
    }

    fn extend(&mut self, index: usize, fork: Option<NodeId>, max_tokens: u32, complete: bool) -> Work {
        let chain = &self.chains[index];
        let inject = if complete { chain.inject(self.marker.as_ref(), max_tokens) } else { Vec::new() };
        let id = self.next;
        self.next += 1;
        self.in_flight.insert(id, index);
        let node = chain.node;
        self.chains[index].held = false;
        Work::Extend(Extend { id, node, fork, inject, max_tokens })
    }

    fn spent(&self) -> u32 {
        self.chains.iter().map(|chain| chain.tokens).sum()
    }

    fn held(&self) -> Vec<usize> {
        (0..self.chains.len()).filter(|&index| self.chains[index].held).collect()
    }

    /// The likeliest of some chains, the first among equals.
    fn likeliest(&self, indices: impl Iterator<Item = usize>) -> Option<usize> {
        let mut best: Option<usize> = None;
        for index in indices {
            if best.is_none_or(|b| self.chains[index].score() > self.chains[b].score()) {
                best = Some(index);
            }
        }
        best
    }

    /// What to do once every chain has had its grant: another round for the
    /// cut ones, else the reserve, else nothing.
    fn next_round(&mut self) -> Vec<Work> {
        let held = self.held();
        let spendable = (self.budget.tokens - self.budget.reserve).saturating_sub(self.spent());
        let most = self.budget.branch_tokens.saturating_sub(self.budget.reserve);
        let room = |chain: &Chain| most.saturating_sub(chain.tokens);
        let grows = |chain: &Chain| !chain.stuck && room(chain) > 0;
        let growing: Vec<usize> = held.iter().copied().filter(|&i| grows(&self.chains[i])).collect();
        if spendable > 0 && !growing.is_empty() {
            let parts = u32::try_from(growing.len()).unwrap_or(u32::MAX);
            let grants = split(spendable, parts);
            let mut works = Vec::new();
            for (index, grant) in growing.into_iter().zip(grants) {
                let grant = grant.min(room(&self.chains[index]));
                if grant > 0 {
                    works.push(self.extend(index, None, grant, false));
                }
            }
            return works;
        }
        let complete = self.chains.iter().any(Chain::complete);
        let left = self.budget.tokens.saturating_sub(self.spent());
        let best = if complete || self.completing || left == 0 {
            None
        } else {
            let fits = |index: &usize| self.chains[*index].tokens < self.budget.branch_tokens;
            self.likeliest(held.iter().copied().filter(fits))
        };
        let mut works: Vec<Work> = Vec::new();
        for index in held {
            if Some(index) != best {
                self.chains[index].held = false;
                works.push(Work::Retire(self.chains[index].node));
            }
        }
        if let Some(index) = best {
            self.completing = true;
            let max_tokens = left.min(self.budget.branch_tokens.saturating_sub(self.chains[index].tokens));
            works.push(self.extend(index, None, max_tokens, true));
        }
        works
    }

    fn winner(&self) -> Option<usize> {
        let mut classes: Vec<(&str, Vec<usize>)> = Vec::new();
        for (index, chain) in self.chains.iter().enumerate() {
            let Some(value) = &chain.value else { continue };
            match classes.iter_mut().find(|(class, _)| class == value) {
                Some((_, members)) => members.push(index),
                None => classes.push((value, vec![index])),
            }
        }
        let mut best: Option<&(&str, Vec<usize>)> = None;
        for class in &classes {
            if best.is_none_or(|best| class.1.len() > best.1.len()) {
                best = Some(class);
            }
        }
        let some = |index: &usize| self.chains[*index].grown.is_some();
        match best {
            Some((_, members)) => self.likeliest(members.iter().copied()),
            None => {
                let all = || (0..self.chains.len()).filter(some);
                self.likeliest(all().filter(|&index| self.chains[index].complete()))
                    .or_else(|| self.likeliest(all()))
            }
        }
    }
}

impl Strategy for SelfConsistency {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        let mut works = Vec::new();
        while self.asked < self.chains.len() && works.len() < room {
            let index = self.asked;
            self.asked += 1;
            works.push(self.extend(index, Some(NodeId::ROOT), self.grants[index], false));
        }
        if works.is_empty() && self.in_flight.is_empty() {
            if self.asked == self.chains.len() {
                return self.next_round();
            }
            // Cut chains hold all the room: the least likely makes way.
            let worst = self
                .held()
                .into_iter()
                .min_by(|a, b| self.chains[*a].score().total_cmp(&self.chains[*b].score()).then(b.cmp(a)));
            if let Some(index) = worst {
                self.chains[index].held = false;
                works.push(Work::Retire(self.chains[index].node));
            }
        }
        works
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        if let Some(index) = self.in_flight.remove(&id) {
            self.chains[index].tell(outcome);
        }
    }

    fn answer(&self) -> Option<Answer> {
        let chain = &self.chains[self.winner()?];
        Some(Answer { node: chain.node, complete: chain.complete() })
    }

    fn is_done(&self) -> bool {
        self.asked == self.chains.len() && self.in_flight.is_empty() && self.held().is_empty()
    }

    fn candidates(&self) -> Vec<Candidate> {
        let winner = self.winner();
        let grown = self.chains.iter().enumerate().filter(|(_, chain)| chain.grown.is_some());
        grown.map(|(index, chain)| chain.candidate(winner == Some(index))).collect()
    }
}

#[cfg(test)]
mod tests;
