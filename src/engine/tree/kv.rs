//! Who holds which KV block: fixed blocks, reference counts, one table per
//! branch.
//!
//! Invariants, held by a property test against a naive model, and with the index
//! by those of [`super::prefix`] and of the engine, which recount everything:
//! - a block is free or referenced, never both, and none is lost;
//! - its count equals the number of tables that list it;
//! - a block is written only while its count is one: [`Pool::extend`] gives a
//!   shared tail a copy of its own first, so sharing is exact to the position;
//! - equal prefixes made by [`Pool::fork`] are stored once;
//! - a block that the prefix index ([`super::prefix`]) has listed counts one
//!   reference more; where that is the only one, the block is *idle*: its
//!   contents may be reused, and it is given up when blocks are needed.
//!
//! Only numbers live here. The KV itself is in [`super::store`], which carries
//! out the copies that this module asks for.

/// Index of a block in the pool.
pub type BlockId = u32;

/// The blocks of one branch, in order, and how many positions they hold. Not
/// `Clone`: sharing goes through [`Pool::fork`], giving up through
/// [`Pool::release`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    blocks: Vec<BlockId>,
    len: usize,
}

impl Table {
    /// The blocks, first position first.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Positions held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A copy to be made before the next write: all of block `from` into block `to`,
/// though the table holds only the first of its positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// The shared block.
    pub from: BlockId,
    /// The block that takes its place in one table.
    pub to: BlockId,
}

/// There are not enough free blocks; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{needed} KV blocks are needed and {free} are free")]
pub struct OutOfBlocks {
    /// Blocks needed.
    pub needed: usize,
    /// Blocks free.
    pub free: usize,
}

/// The pool of blocks.
#[derive(Debug)]
pub struct Pool {
    free: Vec<BlockId>,
    references: Vec<u32>,
    /// Whether the prefix index lists a block.
    listed: Vec<bool>,
    /// Listed blocks that no table lists.
    idle: usize,
    block: usize,
}

impl Pool {
    /// A pool of `blocks` free blocks of `block` positions each.
    #[must_use]
    pub fn new(blocks: u32, block: usize) -> Self {
        // Popped from the end, so low blocks are used first and stay warm.
        let n = blocks as usize;
        Self {
            free: (0..blocks).rev().collect(),
            references: vec![0; n],
            listed: vec![false; n],
            idle: 0,
            block,
        }
    }

    /// Blocks that nothing lists.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that only the prefix index lists.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// Blocks that some table lists.
    #[must_use]
    pub fn used(&self) -> usize {
        self.references.len() - self.free.len() - self.idle
    }

    /// Whether only the prefix index lists a block.
    #[must_use]
    pub fn is_idle(&self, block: BlockId) -> bool {
        self.listed[block as usize] && self.references[block as usize] == 1
    }

    /// How many tables list a block.
    #[must_use]
    pub fn tables(&self, block: BlockId) -> u32 {
        self.references[block as usize] - u32::from(self.listed[block as usize])
    }

    /// The prefix index lists a block that a table lists.
    pub fn list(&mut self, block: BlockId) {
        self.listed[block as usize] = true;
        self.references[block as usize] += 1;
    }

    /// The prefix index gives up an idle block, which becomes free.
    pub fn unlist(&mut self, block: BlockId) {
        self.listed[block as usize] = false;
        self.references[block as usize] = 0;
        self.idle -= 1;
        self.free.push(block);
    }

    /// Puts a listed, full block at the end of `table`, which ends at a border.
    pub fn adopt(&mut self, table: &mut Table, block: BlockId) {
        self.reference(block);
        table.blocks.push(block);
        table.len += self.block;
    }

    /// Lists `block` in the place of the `index`-th block of `table`; both hold
    /// the same positions of the same tokens.
    pub fn replace(&mut self, table: &mut Table, index: usize, block: BlockId) {
        self.reference(block);
        let old = std::mem::replace(&mut table.blocks[index], block);
        self.give_back(old);
    }

    /// Fresh blocks that the next `positions` positions of `table` take.
    #[must_use]
    pub fn needed(&self, table: &Table, positions: usize) -> usize {
        let fresh = (table.len + positions).div_ceil(self.block) - table.blocks.len();
        fresh + usize::from(self.shared_tail(table, positions).is_some())
    }

    /// The partial tail, where others list it as well and it is to be written.
    fn shared_tail(&self, table: &Table, positions: usize) -> Option<BlockId> {
        let partial = !table.len.is_multiple_of(self.block) && positions > 0;
        let tail = table.blocks.last().copied().filter(|_| partial);
        tail.filter(|&tail| self.references[tail as usize] > 1)
    }

    fn reference(&mut self, block: BlockId) {
        self.idle -= usize::from(self.is_idle(block));
        self.references[block as usize] += 1;
    }

    /// A table that shares every block of `table`, the partial tail included.
    #[must_use]
    pub fn fork(&mut self, table: &Table) -> Table {
        for &block in &table.blocks {
            self.reference(block);
        }
        Table { blocks: table.blocks.clone(), len: table.len }
    }

    /// Makes the next `positions` positions of `table` writable: copies a
    /// shared tail, then takes fresh blocks. The caller carries out the copy
    /// before it writes.
    ///
    /// # Errors
    /// [`OutOfBlocks`], with nothing changed.
    pub fn extend(&mut self, table: &mut Table, positions: usize) -> Result<Option<BlockCopy>, OutOfBlocks> {
        let needed = self.needed(table, positions);
        if needed > self.free.len() {
            return Err(OutOfBlocks { needed, free: self.free.len() });
        }
        let shared = self.shared_tail(table, positions);
        let fresh = needed - usize::from(shared.is_some());
        let mut copy = None;
        if let Some(from) = shared {
            table.blocks.pop();
            self.give_back(from);
            let to = self.take(table);
            copy = Some(BlockCopy { from, to });
        }
        for _ in 0..fresh {
            self.take(table);
        }
        table.len += positions;
        Ok(copy)
    }

    /// Keeps the first `len` positions of `table` (all, if it has fewer).
    pub fn truncate(&mut self, table: &mut Table, len: usize) {
        table.len = table.len.min(len);
        for block in table.blocks.drain(table.len.div_ceil(self.block)..).rev() {
            self.give_back(block);
        }
    }

    /// Gives up a table.
    pub fn release(&mut self, mut table: Table) {
        self.truncate(&mut table, 0);
    }

    fn take(&mut self, table: &mut Table) -> BlockId {
        let block = self.free.pop().expect("extend has checked that enough blocks are free");
        self.references[block as usize] = 1;
        table.blocks.push(block);
        block
    }

    fn give_back(&mut self, block: BlockId) {
        let count = &mut self.references[block as usize];
        *count -= 1;
        match *count {
            0 => self.free.push(block),
            1 if self.listed[block as usize] => self.idle += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
    use std::collections::BTreeMap;

    const BLOCK: usize = 4;
    const BLOCKS: u32 = 24;

    impl Pool {
        /// Checks every count against the tables that there are and the blocks
        /// that the prefix index lists.
        pub(in super::super) fn assert_counts<'a>(
            &self,
            tables: impl Iterator<Item = &'a Table>,
            index: impl Iterator<Item = BlockId>,
        ) {
            let mut references = vec![0; self.references.len()];
            for table in tables {
                assert_eq!(table.blocks.len(), table.len.div_ceil(self.block), "a block more or less");
                table.blocks.iter().for_each(|&block| references[block as usize] += 1);
            }
            let (mut listed, mut idle) = (vec![false; references.len()], 0);
            for block in index.map(|block| block as usize) {
                assert!(!std::mem::replace(&mut listed[block], true), "block {block} is listed twice");
                idle += usize::from(references[block] == 0);
                references[block] += 1;
            }
            assert_eq!(references, self.references, "counts equal the tables and the index");
            assert_eq!((listed, idle), (self.listed.clone(), self.idle));
            let mut free = self.free.clone();
            free.sort_unstable();
            let unlisted: Vec<BlockId> =
                (0..).zip(&references).filter(|(_, n)| **n == 0).map(|(b, _)| b).collect();
            assert_eq!(free, unlisted, "every block is free or referenced, once");
        }
    }

    /// The naive model: every branch owns its whole sequence of written marks.
    #[derive(Debug, Clone, Default)]
    struct Sequences {
        branches: BTreeMap<u32, Vec<u32>>,
        next: u32,
        mark: u32,
    }

    #[derive(Debug, Clone)]
    enum Action {
        Open,
        Fork(u32),
        Extend { branch: u32, marks: Vec<u32> },
        Truncate { branch: u32, len: usize },
        Release(u32),
    }

    impl ReferenceStateMachine for Sequences {
        type State = Self;
        type Transition = Action;

        fn init_state() -> BoxedStrategy<Self> {
            Just(Self::default()).boxed()
        }

        fn transitions(state: &Self) -> BoxedStrategy<Action> {
            let Some(ids) = (!state.branches.is_empty()).then(|| state.branches.keys().copied().collect())
            else {
                return Just(Action::Open).boxed();
            };
            let ids: Vec<u32> = ids;
            let id = proptest::sample::select(ids);
            let mark = state.mark;
            prop_oneof![
                1 => Just(Action::Open),
                3 => id.clone().prop_map(Action::Fork),
                6 => (id.clone(), 1..7u32).prop_map(move |(branch, n)| Action::Extend {
                    branch,
                    marks: (mark..mark + n).collect()
                }),
                2 => (id.clone(), 0..20usize).prop_map(|(branch, len)| Action::Truncate { branch, len }),
                2 => id.prop_map(Action::Release),
            ]
            .boxed()
        }

        fn apply(mut state: Self, action: &Action) -> Self {
            match action {
                Action::Open => {
                    state.branches.insert(state.next, Vec::new());
                    state.next += 1;
                }
                Action::Fork(id) => {
                    let copy = state.branches[id].clone();
                    state.branches.insert(state.next, copy);
                    state.next += 1;
                }
                Action::Extend { branch, marks } => {
                    state.mark += marks.len() as u32;
                    if let Some(sequence) = state.branches.get_mut(branch) {
                        sequence.extend(marks);
                    }
                }
                Action::Truncate { branch, len } => {
                    if let Some(sequence) = state.branches.get_mut(branch) {
                        sequence.truncate(*len);
                    }
                }
                Action::Release(id) => {
                    state.branches.remove(id);
                }
            }
            state
        }

        fn preconditions(state: &Self, action: &Action) -> bool {
            match action {
                Action::Open => true,
                Action::Fork(id) | Action::Release(id) => state.branches.contains_key(id),
                Action::Extend { branch, .. } | Action::Truncate { branch, .. } => {
                    state.branches.contains_key(branch)
                }
            }
        }
    }

    /// The real pool with blocks that remember what was written in them.
    struct Real {
        pool: Pool,
        tables: BTreeMap<u32, Table>,
        contents: Vec<[u32; BLOCK]>,
        next: u32,
        /// Branches whose extension found no blocks: the model went on without
        /// them, so they are left out of the comparison.
        starved: Vec<u32>,
    }

    impl StateMachineTest for Real {
        type SystemUnderTest = Self;
        type Reference = Sequences;

        fn init_test(_: &Sequences) -> Self {
            Self {
                pool: Pool::new(BLOCKS, BLOCK),
                tables: BTreeMap::new(),
                contents: vec![[u32::MAX; BLOCK]; BLOCKS as usize],
                next: 0,
                starved: Vec::new(),
            }
        }

        fn apply(mut real: Self, _: &Sequences, action: Action) -> Self {
            match action {
                Action::Open => {
                    real.tables.insert(real.next, Table::default());
                    real.next += 1;
                }
                Action::Fork(id) => {
                    let used = real.pool.used();
                    let fork = real.pool.fork(&real.tables[&id]);
                    assert_eq!(real.pool.used(), used, "a fork takes no block");
                    real.tables.insert(real.next, fork);
                    if real.starved.contains(&id) {
                        real.starved.push(real.next);
                    }
                    real.next += 1;
                }
                Action::Extend { branch, marks } => {
                    let table = real.tables.get_mut(&branch).expect("the model knows the branch");
                    let before = table.len();
                    match real.pool.extend(table, marks.len()) {
                        Ok(copy) => {
                            if let Some(copy) = copy {
                                real.contents[copy.to as usize] = real.contents[copy.from as usize];
                            }
                            for (i, mark) in marks.into_iter().enumerate() {
                                let block = table.blocks()[(before + i) / BLOCK];
                                assert_eq!(real.pool.references[block as usize], 1, "written while shared");
                                real.contents[block as usize][(before + i) % BLOCK] = mark;
                            }
                        }
                        Err(error) => {
                            assert!(error.needed > error.free);
                            assert_eq!(table.len(), before, "a refusal changes nothing");
                            real.starved.push(branch);
                        }
                    }
                }
                Action::Truncate { branch, len } => {
                    let table = real.tables.get_mut(&branch).expect("the model knows the branch");
                    real.pool.truncate(table, len);
                }
                Action::Release(id) => {
                    let table = real.tables.remove(&id).expect("the model knows the branch");
                    real.pool.release(table);
                }
            }
            real
        }

        fn check_invariants(real: &Self, model: &Sequences) {
            real.pool.assert_counts(real.tables.values(), std::iter::empty());
            for (id, sequence) in &model.branches {
                if real.starved.contains(id) {
                    continue;
                }
                let table = &real.tables[id];
                let stored: Vec<u32> = (0..table.len())
                    .map(|i| real.contents[table.blocks()[i / BLOCK] as usize][i % BLOCK])
                    .collect();
                assert_eq!(&stored, sequence, "branch {id} reads what it wrote");
            }
        }
    }

    prop_state_machine! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
        #[test]
        fn the_pool_agrees_with_sequences_that_share_nothing(sequential 1..60 => Real);
    }

    #[test]
    fn forks_at_any_position_share_every_position() {
        for len in 1..3 * BLOCK {
            let mut pool = Pool::new(BLOCKS, BLOCK);
            let mut trunk = Table::default();
            assert_eq!(pool.extend(&mut trunk, len), Ok(None));
            let used = pool.used();
            let mut forks: Vec<Table> = (0..3).map(|_| pool.fork(&trunk)).collect();
            assert_eq!(pool.used(), used);
            // Three forks and the trunk write one position each: at a border
            // each needs a block; inside a block the last one may keep the
            // original.
            for fork in &mut forks {
                assert!(pool.extend(fork, 1).is_ok());
            }
            assert!(pool.extend(&mut trunk, 1).is_ok());
            let grown = if len % BLOCK == 0 { 4 } else { 3 };
            assert_eq!(pool.used(), used + grown);
        }
    }
}
