//! Who comes first where KV blocks are short.
//!
//! Branches with work are totally ordered by [`Standing`]; behind all of them stand
//! those that are kept for later. Where the pool is short most branches are parked,
//! and what is decided about blocks concerns those that hold some. So what is put in
//! order here are those, and of the parked ones no more than a smallest set.

use super::Forest;
use super::branch::BranchState;
use crate::engine::RequestId;

/// How well a branch is protected; the greater gives way to the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    need: Need,
    rank: u64,
    /// Ranks may be equal; of such requests the older comes first, with all its
    /// branches.
    request: RequestId,
    branch: u64,
}

/// Why a branch needs its KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// It has work, or was just admitted, and belongs to the smallest set of
    /// its request: it gives way to the cores of requests that come first, one by
    /// one, and to nobody's surplus.
    Core,
    /// It has work.
    Surplus,
}

impl Standing {
    /// Where a request stands that has no branch yet: where its root will.
    pub(super) fn newcomer(rank: u64, root: RequestId) -> Self {
        Self { need: Need::Core, rank, request: root, branch: root }
    }

    /// Whose it is.
    pub(super) fn branch(self) -> u64 {
        self.branch
    }
}

/// The branches of a request that have work, or were just admitted, oldest first.
#[derive(Debug)]
pub(super) struct Busy {
    rank: u64,
    /// The request.
    pub(super) request: RequestId,
    /// Its smallest set, parked or not.
    pub(super) core: Vec<u64>,
    /// Those of the others that are not parked.
    pub(super) surplus: Vec<u64>,
}

impl Busy {
    /// How well one of the smallest set is protected.
    pub(super) fn core(&self, branch: u64) -> Standing {
        Standing { need: Need::Core, rank: self.rank, request: self.request, branch }
    }

    fn surplus(&self, branch: u64) -> Standing {
        Standing { need: Need::Surplus, ..self.core(branch) }
    }
}

impl Forest {
    /// Who has work, request by request, as they come.
    pub(super) fn busy(&self) -> Vec<Busy> {
        let mut all = Vec::with_capacity(self.order.len());
        for &(rank, request) in &self.order {
            let Some(of) = self.requests.get(&request) else { continue };
            // A root that has computed nothing yet is about to: its request was
            // promised the blocks. One that was misused never will.
            let promised =
                |root: &&BranchState| root.job.is_none() && root.computed_before == 0 && root.fault.is_none();
            let root = self.branches.get(&request).filter(promised).map(|_| request);
            let mut surplus: Vec<u64> = of.ready.iter().copied().chain(root).collect();
            surplus.sort_unstable();
            let parked = of.parked.iter().take(of.minimum);
            let mut core: Vec<u64> = surplus.iter().take(of.minimum).chain(parked).copied().collect();
            core.sort_unstable();
            core.truncate(of.minimum);
            surplus.retain(|id| core.last().is_some_and(|last| last < id));
            all.push(Busy { rank, request, core, surplus });
        }
        all
    }

    /// Those of `busy` that are not parked, in order: they hold KV or may come to
    /// hold some.
    pub(super) fn line(&self, busy: &[Busy]) -> Vec<Standing> {
        let parked = |standing: &Standing| self.is_parked(standing.branch);
        let core = busy.iter().flat_map(|of| of.core.iter().map(|&branch| of.core(branch)));
        let surplus = busy.iter().flat_map(|of| of.surplus.iter().map(|&branch| of.surplus(branch)));
        core.filter(|standing| !parked(standing)).chain(surplus).collect()
    }

    /// Whether a branch has lost its KV, or is gone.
    pub(super) fn is_parked(&self, branch: u64) -> bool {
        self.branches.get(&branch).is_none_or(|state| state.parked)
    }
}
