//! `cot`: one chain of thought (Kojima et al., arXiv 2205.11916), completed
//! within the answer reserve when the budget cuts it.
//!
//! [`Chain`] is that one chain and its state.

use super::event::Candidate;
use super::grove::injection;
use super::{Answer, Extend, Grown, NodeId, Outcome, Strategy, Until, Work, WorkId};
use crate::answer;
use crate::plan::{Budget, Marker};
use crate::token::TokenId;

/// One chain of thought: a branch that was or will be grown.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) node: NodeId,
    /// Tokens on it.
    pub(super) tokens: u32,
    pub(super) grown: Option<Grown>,
    /// Its canonical answer, once it is complete.
    pub(super) value: Option<String>,
    /// Whether its branch is alive and idle.
    pub(super) held: bool,
    /// Its last work added nothing; the same again would add nothing again.
    pub(super) stuck: bool,
}

impl Chain {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, tokens: 0, grown: None, value: None, held: false, stuck: false }
    }

    pub(super) fn tell(&mut self, outcome: Outcome) {
        self.held = false;
        if let Outcome::Grown(grown) = outcome {
            self.tokens += grown.tokens;
            self.held = grown.extensible;
            self.stuck = grown.tokens == 0;
            if grown.complete {
                self.value = answer::extract(&grown.text).map(answer::canonical);
            }
            self.grown = Some(grown);
        }
    }

    pub(super) fn complete(&self) -> bool {
        self.grown.as_ref().is_some_and(|grown| grown.complete)
    }

    /// What to inject so that this chain comes to its answer within `max_tokens`:
    /// nothing where the marker is there already, or where it leaves no room
    /// for an answer.
    pub(super) fn inject(&self, marker: Option<&Marker>, max_tokens: u32) -> Vec<TokenId> {
        let text = self.grown.as_ref().map_or("", |grown| grown.text.as_str());
        injection(text, marker, max_tokens)
    }

    pub(super) fn candidate(&self, selected: bool) -> Candidate {
        Candidate {
            branch: self.node,
            answer: self.value.clone(),
            mean_logprob: self.grown.as_ref().map_or(f64::NAN, |grown| grown.mean_logprob),
            score: None,
            tokens: self.tokens,
            complete: self.complete(),
            selected,
        }
    }
}

/// One chain with the whole budget.
#[derive(Debug)]
pub(super) struct ChainOfThought {
    budget: Budget,
    marker: Option<Marker>,
    chain: Chain,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh,
    Thinking,
    /// The thought was cut; the reserve is next.
    Cut,
    Completing,
    Done,
}

impl ChainOfThought {
    pub(super) fn new(budget: Budget, marker: Option<Marker>) -> Self {
        Self { budget, marker, chain: Chain::new(NodeId(1)), stage: Stage::Fresh }
    }

    fn left(&self) -> u32 {
        self.budget.tokens.min(self.budget.branch_tokens).saturating_sub(self.chain.tokens)
    }
}

impl Strategy for ChainOfThought {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        let node = self.chain.node;
        match self.stage {
            Stage::Fresh if room > 0 => {
                self.stage = Stage::Thinking;
                let max_tokens = self.left() - self.budget.reserve;
                let fork = Some(NodeId::ROOT);
                vec![Work::Extend(Extend {
                    id: 0,
                    node,
                    fork,
                    inject: Vec::new(),
                    max_tokens,
                    until: Until::End,
                    greedy: false,
                    score: false,
                })]
            }
            Stage::Cut => {
                self.stage = Stage::Completing;
                let max_tokens = self.left();
                let inject = self.chain.inject(self.marker.as_ref(), max_tokens);
                vec![Work::Extend(Extend {
                    id: 1,
                    node,
                    fork: None,
                    inject,
                    max_tokens,
                    until: Until::End,
                    greedy: false,
                    score: false,
                })]
            }
            Stage::Fresh | Stage::Thinking | Stage::Completing | Stage::Done => Vec::new(),
        }
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        self.stage = match (self.stage, id) {
            (Stage::Thinking, 0) => {
                self.chain.tell(outcome);
                if self.chain.held && self.left() > 0 { Stage::Cut } else { Stage::Done }
            }
            (Stage::Completing, 1) => {
                self.chain.tell(outcome);
                Stage::Done
            }
            (stage, _) => stage,
        };
    }

    fn answer(&self) -> Option<Answer> {
        let grown = self.chain.grown.as_ref()?;
        Some(Answer { node: self.chain.node, complete: grown.complete })
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.chain.grown.iter().map(|_| self.chain.candidate(true)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests;
