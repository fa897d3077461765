//! Which prefixes are in the pool: a radix tree over full blocks, so that a
//! prompt that was computed once is not computed again while it is resident.
//!
//! A node is one full block after the blocks of its ancestors, so it stands for
//! the whole prefix up to its end. Equal prefixes have one node and one block:
//! a branch that has filled a block that is known already takes the known one,
//! whose bits are the same. Invariants, held by a property test:
//! - a table that lists a node's block lists its ancestors' blocks too, so an
//!   idle node has only idle descendants and every idle block can be given up;
//! - blocks are given up from the leaves, least recently used first, by a clock
//!   that counts uses and not time;
//! - prefixes of different salts never meet, so no tenant can find out by
//!   timing what another has asked.

use super::kv::{BlockId, Pool};
use super::store::BLOCK;
use crate::token::TokenId;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A prefix, up to a block border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

/// The tokens of one block.
type Run = [TokenId; BLOCK];

/// A prefix that is one block longer than a listed one, listed itself or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(NodeId, Run);

impl Name {
    /// What continues `node` with the first block of `tokens`, if they fill one.
    #[must_use]
    pub fn of(node: NodeId, tokens: &[TokenId]) -> Option<Self> {
        Some(Self(node, run(tokens)?))
    }
}

#[derive(Debug)]
struct Node {
    parent: Option<NodeId>,
    run: Run,
    /// `None` for a root.
    block: Option<BlockId>,
    /// Of a root, whose prefixes begin at it.
    salt: Option<Arc<str>>,
    children: u32,
    /// When it was last used, in uses of the index.
    used: u64,
}

/// Requests of one salt, and where their prefixes begin.
#[derive(Debug)]
struct Root {
    node: NodeId,
    requests: usize,
}

/// The index.
#[derive(Debug, Default)]
pub struct PrefixIndex {
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    edges: HashMap<Name, NodeId>,
    roots: HashMap<Option<Arc<str>>, Root>,
    /// Nodes without children that are no roots, least recently used first.
    leaves: BTreeSet<(u64, NodeId)>,
    clock: u64,
}

/// The first block of `tokens`, if they fill one.
fn run(tokens: &[TokenId]) -> Option<Run> {
    tokens.first_chunk().copied()
}

impl PrefixIndex {
    /// Where the prefixes of a request with this salt begin. Each call needs a
    /// [`PrefixIndex::leave`].
    pub fn enter(&mut self, salt: &Option<Arc<str>>) -> NodeId {
        if let Some(root) = self.roots.get_mut(salt) {
            root.requests += 1;
            return root.node;
        }
        let (run, salt_of) = ([0; BLOCK], salt.clone());
        let node = self.add(Node { parent: None, run, block: None, salt: salt_of, children: 0, used: 0 });
        self.roots.insert(salt.clone(), Root { node, requests: 1 });
        node
    }

    /// A request with this salt has ended.
    pub fn leave(&mut self, salt: &Option<Arc<str>>) {
        let Some(root) = self.roots.get_mut(salt) else { return };
        root.requests -= 1;
        self.prune(salt);
    }

    /// The prefix that continues `node` with the first block of `tokens`.
    #[must_use]
    pub fn find(&self, node: NodeId, tokens: &[TokenId]) -> Option<(NodeId, BlockId)> {
        let child = *self.edges.get(&Name::of(node, tokens)?)?;
        Some((child, self.node(child).block?))
    }

    /// Adds the prefix that continues `node` with the first block of `tokens`,
    /// stored in `block`; the caller has looked that it is not known.
    ///
    /// # Panics
    /// When `tokens` fill no block.
    pub fn insert(&mut self, node: NodeId, tokens: &[TokenId], block: BlockId) -> NodeId {
        let run = run(tokens).expect("only full blocks are listed");
        let (parent, block) = (Some(node), Some(block));
        let child = self.add(Node { parent, run, block, salt: None, children: 0, used: 0 });
        self.edges.insert(Name(node, run), child);
        let parent = self.node_mut(node);
        parent.children += 1;
        let was_leaf = (parent.used, node);
        self.leaves.remove(&was_leaf);
        self.leaves.insert((0, child));
        self.touch(child);
        child
    }

    /// The prefix one block shorter; a root's is itself.
    #[must_use]
    pub fn parent(&self, node: NodeId) -> NodeId {
        self.node(node).parent.unwrap_or(node)
    }

    /// Marks a prefix as used now.
    pub fn touch(&mut self, node: NodeId) {
        self.clock += 1;
        let clock = self.clock;
        let entry = self.node_mut(node);
        let before = (std::mem::replace(&mut entry.used, clock), node);
        if self.leaves.remove(&before) {
            self.leaves.insert((clock, node));
        }
    }

    /// Gives up the least recently used idle block; `false` when there is none.
    pub fn evict(&mut self, pool: &mut Pool) -> bool {
        let idle = |(_, node): &&(u64, NodeId)| self.node(*node).block.is_some_and(|b| pool.is_idle(b));
        let Some(&(used, id)) = self.leaves.iter().find(idle) else { return false };
        self.leaves.remove(&(used, id));
        let Some(node) = self.nodes[id.0 as usize].take() else { return false };
        self.vacant.push(id);
        if let Some(block) = node.block {
            pool.unlist(block);
        }
        let Some(parent) = node.parent else { return true };
        self.edges.remove(&Name(parent, node.run));
        let entry = self.node_mut(parent);
        entry.children -= 1;
        if entry.children == 0 {
            match entry.block {
                Some(_) => {
                    let leaf = (entry.used, parent);
                    self.leaves.insert(leaf);
                }
                None => {
                    let salt = entry.salt.clone();
                    self.prune(&salt);
                }
            }
        }
        true
    }

    /// Forgets a salt that nobody uses and nothing is kept for.
    fn prune(&mut self, salt: &Option<Arc<str>>) {
        if let Some(root) = self.roots.get(salt)
            && root.requests == 0
            && self.node(root.node).children == 0
        {
            let node = root.node;
            self.nodes[node.0 as usize] = None;
            self.vacant.push(node);
            self.roots.remove(salt);
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.vacant.pop() {
            self.nodes[id.0 as usize] = Some(node);
            return id;
        }
        self.nodes.push(Some(node));
        // There are at most as many nodes as blocks and requests.
        NodeId((self.nodes.len() - 1) as u32)
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize].as_ref().expect("ids are given up with their nodes")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize].as_mut().expect("ids are given up with their nodes")
    }
}

#[cfg(test)]
mod tests {
    use super::super::kv::Table;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const BLOCKS: u32 = 12;

    impl PrefixIndex {
        /// Every block that is listed.
        pub(in super::super) fn blocks(&self) -> impl Iterator<Item = BlockId> {
            self.nodes.iter().flatten().filter_map(|node| node.block)
        }
    }

    /// A branch as the engine keeps one: a table and how far it is listed.
    struct Held {
        salt: Option<Arc<str>>,
        node: NodeId,
        table: Table,
    }

    /// The index, the pool, and what each block holds: a salt and a prefix.
    struct Rig {
        index: PrefixIndex,
        pool: Pool,
        held: Vec<Held>,
        contents: BTreeMap<BlockId, (Option<Arc<str>>, Vec<TokenId>)>,
    }

    impl Rig {
        /// Takes what is known of a sequence, computes the rest; gives up idle
        /// blocks where needed. Returns the blocks that were known.
        fn open(&mut self, salt: Option<Arc<str>>, tokens: &[TokenId]) -> Option<usize> {
            let mut node = self.index.enter(&salt);
            let mut table = Table::default();
            let mut known = 0;
            while let Some((child, block)) = self.index.find(node, &tokens[table.len()..]) {
                self.pool.adopt(&mut table, block);
                self.index.touch(child);
                (node, known) = (child, known + 1);
                assert_eq!(self.contents[&block], (salt.clone(), tokens[..table.len()].to_vec()));
            }
            while tokens.len() >= table.len() + BLOCK {
                while self.pool.free() == 0 {
                    if !self.index.evict(&mut self.pool) {
                        self.pool.release(table);
                        self.index.leave(&salt);
                        return None;
                    }
                }
                let at = table.len();
                assert_eq!(self.pool.extend(&mut table, BLOCK), Ok(None));
                let block = table.blocks()[at / BLOCK];
                self.contents.insert(block, (salt.clone(), tokens[..at + BLOCK].to_vec()));
                self.pool.list(block);
                node = self.index.insert(node, &tokens[at..], block);
            }
            self.held.push(Held { salt, node, table });
            Some(known)
        }

        fn close(&mut self, which: usize) {
            let Held { salt, table, .. } = self.held.swap_remove(which);
            self.pool.release(table);
            self.index.leave(&salt);
        }
    }

    fn rig() -> Rig {
        let pool = Pool::new(BLOCKS, BLOCK);
        Rig { index: PrefixIndex::default(), pool, held: Vec::new(), contents: BTreeMap::new() }
    }

    /// A sequence of blocks, each filled with one of three tokens.
    fn sequence(marks: &[u32]) -> Vec<TokenId> {
        marks.iter().flat_map(|&mark| [mark; BLOCK]).collect()
    }

    proptest! {
        #[test]
        fn what_is_found_was_computed_for_the_same_salt_and_prefix(
            actions in proptest::collection::vec((0..3usize, 0..2u8, proptest::collection::vec(0..3u32, 1..5)), 1..80)
        ) {
            let mut rig = rig();
            for (kind, salt, marks) in actions {
                let salt: Option<Arc<str>> = (salt == 1).then(|| "tenant".into());
                match kind {
                    0 if !rig.held.is_empty() => rig.close(marks.len() % rig.held.len()),
                    _ => {
                        let held: usize = rig.held.iter().map(|h| h.table.blocks().len()).sum();
                        let opened = rig.open(salt, &sequence(&marks));
                        // Only what is held can be in the way.
                        prop_assert!(opened.is_some() || held + marks.len() > BLOCKS as usize);
                    }
                }
                // What a live branch holds is still there, under its own node.
                for held in &rig.held {
                    let mut node = held.node;
                    for &block in held.table.blocks().iter().rev() {
                        prop_assert_eq!(rig.index.node(node).block, Some(block));
                        node = rig.index.parent(node);
                    }
                }
                rig.pool.assert_counts(rig.held.iter().map(|held| &held.table), rig.index.blocks());
                prop_assert_eq!(rig.index.blocks().count() + rig.pool.free(), BLOCKS as usize);
            }
            while !rig.held.is_empty() {
                rig.close(0);
            }
            prop_assert_eq!(rig.pool.used(), 0);
            while rig.index.evict(&mut rig.pool) {}
            prop_assert_eq!(rig.pool.free(), BLOCKS as usize);
            prop_assert!(rig.index.roots.is_empty() && rig.index.edges.is_empty());
            prop_assert_eq!(rig.index.vacant.len(), rig.index.nodes.len());
        }
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first() {
        let mut rig = rig();
        for marks in [[1, 1], [1, 2], [2, 2]] {
            rig.open(None, &sequence(&marks)).expect("fits");
        }
        while !rig.held.is_empty() {
            rig.close(0);
        }
        // Used again, so [1, 2] goes before it, and [1] only after both.
        assert_eq!(rig.open(None, &sequence(&[1, 1])), Some(2));
        rig.close(0);
        let known = |rig: &Rig| {
            let mut known: Vec<Vec<u32>> = rig
                .index
                .blocks()
                .map(|b| rig.contents[&b].1.chunks(BLOCK).map(|c| c[0]).collect())
                .collect();
            known.sort();
            known
        };
        let all = [vec![1], vec![1, 1], vec![1, 2], vec![2], vec![2, 2]];
        assert_eq!(known(&rig), all);
        assert!(rig.index.evict(&mut rig.pool));
        assert_eq!(known(&rig), [vec![1], vec![1, 1], vec![2], vec![2, 2]]);
        assert!(rig.index.evict(&mut rig.pool) && rig.index.evict(&mut rig.pool));
        assert_eq!(known(&rig), [vec![1], vec![1, 1]]);
    }
}
