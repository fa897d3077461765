//! `direct`: the model's own answer, one branch, no instruction.

use super::event::Candidate;
use super::{Answer, Extend, Grown, NodeId, Outcome, Strategy, Until, Work, WorkId};
use crate::answer;
use crate::plan::Budget;

/// One branch with the whole budget.
#[derive(Debug)]
pub(super) struct Direct {
    budget: Budget,
    asked: bool,
    done: bool,
    grown: Option<Grown>,
}

const BRANCH: NodeId = NodeId(1);

impl Direct {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, asked: false, done: false, grown: None }
    }
}

impl Strategy for Direct {
    fn ask(&mut self, room: usize) -> Vec<Work> {
        if self.asked || room == 0 {
            return Vec::new();
        }
        self.asked = true;
        let max_tokens = self.budget.tokens.min(self.budget.branch_tokens);
        vec![Work::Extend(Extend {
            id: 0,
            node: BRANCH,
            fork: Some(NodeId::ROOT),
            inject: Vec::new(),
            max_tokens,
            until: Until::End,
            greedy: false,
            score: false,
        })]
    }

    fn tell(&mut self, id: WorkId, outcome: Outcome) {
        if id != 0 || !self.asked || self.done {
            return;
        }
        self.done = true;
        if let Outcome::Grown(grown) = outcome {
            self.grown = Some(grown);
        }
    }

    fn answer(&self) -> Option<Answer> {
        self.grown.as_ref().map(|grown| Answer { node: BRANCH, complete: grown.complete })
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.grown
            .iter()
            .map(|grown| Candidate {
                branch: BRANCH,
                answer: answer::extract(&grown.text).map(answer::canonical),
                mean_logprob: grown.mean_logprob,
                score: None,
                tokens: grown.tokens,
                complete: grown.complete,
                selected: true,
            })
            .collect()
    }
}
