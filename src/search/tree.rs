//! The recorded tree of one choice: every branch with every token it was given.

use crate::engine::Token;
use crate::token::TokenId;

/// Names a node of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The prompt.
    pub const ROOT: NodeId = NodeId(0);
}

/// One branch's own part: what was generated after its fork.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// The node that it was forked from; the root is its own parent.
    pub parent: u32,
    /// Its tokens, with their log-probabilities.
    pub tokens: Vec<Token>,
    /// For each token, the length in bytes of the node's text after it.
    pub ends: Vec<usize>,
    /// Its text.
    pub text: String,
    /// Where a stop string begins in the trajectory's text, if one ended it.
    pub cut: Option<usize>,
    /// Whether it ended by EOS or a stop string.
    pub complete: bool,
    /// Sum of the log-probabilities of its sampled tokens, and their number.
    pub logprob: (f64, u32),
    /// What a verifier made of the trajectory's steps, up to the end of this one.
    pub scores: Vec<f64>,
}

/// A choice's tree; node 0 is the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    prompt: usize,
    nodes: Vec<Node>,
}

impl Tree {
    /// A tree over a prompt of `prompt` tokens.
    #[must_use]
    pub fn new(prompt: usize) -> Self {
        Self { prompt, nodes: vec![Node::default()] }
    }

    /// Adds a node under `parent`. Nodes are numbered by a strategy; gaps are
    /// filled with empty ones.
    pub fn add(&mut self, id: NodeId, parent: NodeId) {
        let index = id.0 as usize;
        if self.nodes.len() <= index {
            self.nodes.resize_with(index + 1, Node::default);
        }
        self.nodes[index].parent = parent.0;
    }

    /// A node that was added.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The same, to be changed.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// A whole trajectory as one node: everything from the prompt to the end of
    /// a branch.
    #[must_use]
    pub fn trajectory(&self, id: NodeId) -> Node {
        let path = self.path(id);
        let mut whole = Node::default();
        for &index in path.iter().rev() {
            let node = &self.nodes[index];
            let before = whole.text.len();
            whole.tokens.extend(node.tokens.iter().cloned());
            whole.ends.extend(node.ends.iter().map(|end| before + end));
            whole.text.push_str(&node.text);
            whole.logprob.0 += node.logprob.0;
            whole.logprob.1 += node.logprob.1;
        }
        if let Some(&last) = path.first() {
            let node = &self.nodes[last];
            (whole.cut, whole.complete, whole.parent) = (node.cut, node.complete, 0);
            whole.scores.clone_from(&node.scores);
        }
        whole
    }

    /// A trajectory's text up to its stop string.
    #[must_use]
    pub fn visible_text(&self, id: NodeId) -> String {
        let mut text: String =
            self.path(id).iter().rev().map(|&index| self.nodes[index].text.as_str()).collect();
        if let Some(cut) = self.node(id).cut.filter(|cut| text.is_char_boundary(*cut)) {
            text.truncate(cut);
        }
        text
    }

    /// The ids of a trajectory's tokens behind its first `known`.
    #[must_use]
    pub fn ids_behind(&self, id: NodeId, known: usize) -> Vec<TokenId> {
        let path = self.path(id);
        let tokens = path.iter().rev().flat_map(|&index| &self.nodes[index].tokens);
        tokens.skip(known).map(|token| token.id).collect()
    }

    /// Mean log-probability of a trajectory's sampled tokens; NaN without any.
    #[must_use]
    pub fn mean_logprob(&self, id: NodeId) -> f64 {
        let parts = self.path(id).into_iter().rev().map(|index| self.nodes[index].logprob);
        let (sum, count) = parts.fold((0.0, 0), |(sum, count), (own, sampled)| (sum + own, count + sampled));
        sum / f64::from(count)
    }

    /// A branch and those before it, itself first, the prompt left out.
    fn path(&self, id: NodeId) -> Vec<usize> {
        let mut path = Vec::new();
        let mut at = id.0 as usize;
        while at != 0 && at < self.nodes.len() && path.len() < self.nodes.len() {
            path.push(at);
            at = self.nodes[at].parent as usize;
        }
        path
    }

    /// Tokens of a trajectory.
    #[must_use]
    pub fn length(&self, id: NodeId) -> usize {
        self.path(id).iter().map(|index| self.nodes[*index].tokens.len()).sum()
    }

    /// What stands before a branch, the nearest first: what it was forked from,
    /// and so on; the prompt left out.
    pub fn ancestors(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.path(id).into_iter().skip(1).map(|index| NodeId(index as u32))
    }

    /// Every branch with its id, the prompt left out.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().skip(1).map(|(index, node)| (NodeId(index as u32), node))
    }

    /// Whether a branch was added.
    #[must_use]
    pub fn has_node(&self, id: NodeId) -> bool {
        id != NodeId::ROOT && (id.0 as usize) < self.nodes.len()
    }

    /// Whether a branch has any tokens of its own; not if it was never added.
    #[must_use]
    pub fn has_tokens(&self, id: NodeId) -> bool {
        self.nodes.get(id.0 as usize).is_some_and(|node| !node.tokens.is_empty())
    }

    /// Every branch, the prompt left out.
    pub fn branches(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().skip(1)
    }

    /// Tokens generated over the whole tree: each counted where it was made.
    #[must_use]
    pub fn generated(&self) -> u64 {
        self.branches().map(|node| node.tokens.len() as u64).sum()
    }

    /// Unique positions over the sum of the trajectories' lengths, prompt
    /// included in each; 1 when nothing is shared.
    #[must_use]
    pub fn sharing_ratio(&self) -> f64 {
        let mut is_parent = vec![false; self.nodes.len()];
        for node in self.branches() {
            is_parent[node.parent as usize] = true;
        }
        let mut leaves = 0u64;
        for (index, _) in self.nodes.iter().enumerate().skip(1).filter(|(index, _)| !is_parent[*index]) {
            let mut at = index;
            while at != 0 {
                leaves += self.nodes[at].tokens.len() as u64;
                at = self.nodes[at].parent as usize;
            }
            leaves += self.prompt as u64;
        }
        if leaves == 0 {
            return 1.0;
        }
        (self.prompt as u64 + self.generated()) as f64 / leaves as f64
    }
}

impl Node {
    /// Adds a token.
    pub fn push(&mut self, token: Token, sampled: bool) {
        self.text.push_str(&token.text);
        self.ends.push(self.text.len());
        if sampled {
            self.logprob.0 += f64::from(token.logprob);
            self.logprob.1 += 1;
        }
        self.tokens.push(token);
    }

    /// The text up to the stop string; of a whole trajectory.
    #[must_use]
    pub fn visible_text(&self) -> &str {
        self.text.get(..self.cut.unwrap_or(self.text.len())).unwrap_or(&self.text)
    }

    /// Mean log-probability of the sampled tokens; NaN without any.
    #[must_use]
    pub fn mean_logprob(&self) -> f64 {
        self.logprob.0 / f64::from(self.logprob.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token { id: 7, logprob: -0.5, top: Vec::new(), text: text.to_owned() }
    }

    #[test]
    fn the_sharing_ratio_counts_the_prompt_once_and_every_trajectory_whole() {
        let mut tree = Tree::new(10);
        for id in 1..=2 {
            tree.add(NodeId(id), NodeId::ROOT);
            for _ in 0..5 {
                tree.node_mut(NodeId(id)).push(token("x"), true);
            }
        }
        assert_eq!(tree.generated(), 10);
        assert!((tree.sharing_ratio() - 20.0 / 30.0).abs() < 1e-12);
        tree.add(NodeId(3), NodeId(1));
        tree.node_mut(NodeId(3)).push(token("y"), false);
        // Leaves are 2 (15) and 3 (10 + 5 + 1); unique are 10 + 5 + 5 + 1.
        assert!((tree.sharing_ratio() - 21.0 / 31.0).abs() < 1e-12);
        assert_eq!(tree.node(NodeId(1)).mean_logprob(), -0.5);
        assert!(tree.node(NodeId(3)).mean_logprob().is_nan());
    }
}
