//! Memory that is free: whether a model fits in it, asked before it is read, and
//! how much of it a part is.

use super::model::ModelError;
use crate::config::EngineArgs;
use crate::engine::tree::checkpoint::Weights;
use crate::engine::tree::config::ModelConfig as Shape;
use std::num::NonZeroUsize;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// What a model needs, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// Weights as they are computed with.
    pub weights: u64,
    /// KV of the longest sequence.
    pub sequence: u64,
}

impl Need {
    /// What a checkpoint needs.
    pub(super) fn of(shape: &Shape, weights: &Weights) -> Self {
        let floats = (2 * shape.layers * shape.kv_heads * shape.head_dim) as u64;
        let sequence = floats.saturating_mul(4).saturating_mul(shape.context as u64);
        Self { weights: weights.resident(shape), sequence }
    }
}

/// A KV pool that is to be had; sizes are in bytes.
#[derive(Debug, Clone, Copy)]
struct Pool {
    flag: &'static str,
    size: u64,
    chosen: bool,
    /// What it is of no use without: one sequence's KV, or all of it where that is
    /// less.
    least: u64,
}

impl Pool {
    fn new(flag: &'static str, (mib, chosen): (NonZeroUsize, bool), need: Need) -> Self {
        let size = (mib.get() as u64).saturating_mul(MIB);
        Self { flag, size, chosen, least: need.sequence.min(size) }
    }

    /// What it takes at least: what was chosen is not made smaller.
    fn floor(self) -> u64 {
        if self.chosen { self.size } else { self.least }
    }
}

const MIB: u64 = 1 << 20;

/// The part of the free memory that pools of the default size leave to everything
/// else, such as what a step computes.
const REST: u64 = 8;

/// The arguments with the pool's size in MiB, where it was given as a part of the
/// memory that is free. It is settled once: what is free changes as weights are read.
pub(super) fn settle(args: EngineArgs) -> Result<EngineArgs, ModelError> {
    match args.kv_fraction {
        None => Ok(args),
        Some(fraction) => settle_in(args, fraction, free()),
    }
}

fn settle_in(args: EngineArgs, fraction: f64, free: u64) -> Result<EngineArgs, ModelError> {
    if free == u64::MAX {
        return Err(ModelError::UnknownMemory);
    }
    let mib = (free as f64 * fraction / MIB as f64) as usize;
    let kv_mib = NonZeroUsize::new(mib);
    let kv_mib = kv_mib.ok_or_else(|| ModelError::Fraction { fraction, free: gib(free) })?;
    Ok(EngineArgs { kv_mib, kv_fraction: None, ..args })
}

/// Refuses a model that needs more than is free, by itself or with pools whose size
/// was chosen. Pools of the default size are as small as what is free asks for: they
/// fill up sooner or later, and the system would then end the process.
pub(super) fn fit(
    model: &str,
    args: EngineArgs,
    needs: (Need, Option<Need>),
) -> Result<EngineArgs, ModelError> {
    fit_in(model, args, needs, free())
}

fn fit_in(
    model: &str,
    args: EngineArgs,
    (own, prm): (Need, Option<Need>),
    free: u64,
) -> Result<EngineArgs, ModelError> {
    let kv = Pool::new("--kv-mib (or --kv-fraction)", (args.kv_mib, args.kv_chosen), own);
    let prm_pool = |need| Pool::new("--prm-kv-mib", (args.prm_kv_mib, args.prm_kv_chosen), need);
    let pools: Vec<Pool> = [kv].into_iter().chain(prm.map(prm_pool)).collect();
    let weights = own.weights.saturating_add(prm.map_or(0, |need| need.weights));
    compare(model, weights, &pools, free)?;
    let floor = sum(&pools, |pool| pool.floor());
    let spare = (free - free / REST).saturating_sub(weights.saturating_add(floor));
    let wanted = sum(&pools, |pool| pool.size - pool.floor());
    if wanted <= spare {
        return Ok(args);
    }
    let fitted = |pool: &Pool| {
        // Of what is left everyone gets its part.
        let more = u128::from(pool.size - pool.floor()) * u128::from(spare) / u128::from(wanted);
        let mib = (pool.floor() + more as u64).div_ceil(MIB);
        NonZeroUsize::new(mib as usize).unwrap_or(NonZeroUsize::MIN)
    };
    let kv_mib = fitted(&pools[0]);
    let prm_kv_mib = pools.get(1).map_or(args.prm_kv_mib, fitted);
    tracing::warn!(
        kv_mib,
        prm_kv_mib,
        weights = gib(weights),
        free = gib(free),
        "the default KV pools are made smaller: with the weights they would take more than is free"
    );
    Ok(EngineArgs { kv_mib, prm_kv_mib, ..args })
}

fn sum(pools: &[Pool], bytes: impl Fn(Pool) -> u64) -> u64 {
    pools.iter().map(|pool| bytes(*pool)).fold(0, u64::saturating_add)
}

/// Bytes that this process may still take: of the machine, and of its cgroup
/// where that has a limit. A system that does not say counts as unlimited.
fn free() -> u64 {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = System::new_with_specifics(kind) else { return u64::MAX };
    let machine = system.available_memory();
    // Page cache is counted in a cgroup's use and given back on demand, so what
    // counts is resident memory.
    let group = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let free = group.map_or(machine, |group| group.min(machine));
    if free == 0 { u64::MAX } else { free }
}

/// Refuses what there is no memory for: weights and the least KV, and then the pools
/// whose sizes were chosen as well.
fn compare(model: &str, weights: u64, pools: &[Pool], free: u64) -> Result<(), ModelError> {
    let (model, least) = (model.to_owned(), sum(pools, |pool| pool.least));
    let total = weights.saturating_add(least);
    if total > free {
        let (total, weights) = (gib(total), gib(weights));
        return Err(ModelError::Memory { model, total, weights, kv: gib(least), free: gib(free) });
    }
    let total = weights.saturating_add(sum(pools, |pool| pool.floor()));
    if total <= free {
        return Ok(());
    }
    let chosen = pools.iter().filter(|pool| pool.chosen);
    let parts: Vec<String> = [format!("{} of weights", gib(weights))]
        .into_iter()
        .chain(chosen.map(|pool| format!("{} = {}", pool.flag, pool.size / MIB)))
        .collect();
    Err(ModelError::Pools { model, total: gib(total), parts: parts.join(", "), free: gib(free) })
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1u32 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_free_memory_becomes_whole_mebibytes_once() {
        let args = |fraction| EngineArgs { kv_fraction: Some(fraction), ..EngineArgs::default() };
        for (fraction, free, mib) in
            [(0.5, 3 << 30, 1536), (1.0, 7 << 20, 7), (0.3, 10 << 20, 3), (0.125, 20 << 30, 2560)]
        {
            let settled = settle_in(args(fraction), fraction, free).expect("enough");
            assert_eq!((settled.kv_mib.get(), settled.kv_fraction), (mib, None), "{fraction} of {free}");
        }
        let error = settle_in(args(0.1), 0.1, 9 << 20).expect_err("less than a MiB").to_string();
        assert!(error.contains("--kv-fraction = 0.1") && error.contains("--kv-mib"), "{error}");
        let error = settle_in(args(0.1), 0.1, u64::MAX).expect_err("unknown").to_string();
        assert!(error.contains("--kv-mib"), "{error}");
        let all = settle(args(1.0)).expect("the machine that runs this has memory");
        assert!(all.kv_mib.get() > 16 && all.kv_fraction.is_none());
        assert_eq!(settle(EngineArgs::default()).expect("nothing to do"), EngineArgs::default());
    }

    const GIB: u64 = 1 << 30;

    fn args(kv_mib: usize, prm_kv_mib: usize, chosen: [bool; 2]) -> EngineArgs {
        let size = |mib| NonZeroUsize::new(mib).expect("not zero");
        let [kv_chosen, prm_kv_chosen] = chosen;
        let (kv_mib, prm_kv_mib) = (size(kv_mib), size(prm_kv_mib));
        EngineArgs { kv_mib, prm_kv_mib, kv_chosen, prm_kv_chosen, ..EngineArgs::default() }
    }

    #[test]
    fn both_numbers_are_named_and_what_fits_is_let_through() {
        let need = Need { weights: 28 * GIB, sequence: GIB };
        let fits = |free| fit_in("m", args(1024, 512, [false; 2]), (need, None), free);
        assert!(fits(29 * GIB).is_ok());
        let error = fits(16 * GIB).expect_err("too little").to_string();
        for part in ["29.0 GiB", "28.0 GiB", "1.0 GiB", "16.0 GiB", "--kv-mib"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(free() > 1 << 20, "the machine that runs this has memory");
    }

    #[test]
    fn pools_that_were_chosen_are_had_as_a_whole_or_refused_by_their_flags() {
        let (own, prm) = (Need { weights: GIB, sequence: GIB }, Need { weights: GIB, sequence: GIB / 2 });
        let kept = args(2048, 1024, [true; 2]);
        // To the byte: who chooses leaves to the rest what it needs.
        assert_eq!(fit_in("m", kept.clone(), (own, Some(prm)), 5 * GIB).expect("fits"), kept);
        let error = fit_in("m", kept.clone(), (own, Some(prm)), 5 * GIB - 1).expect_err("a byte too little");
        for part in
            ["5.0 GiB", "2.0 GiB of weights", "--kv-mib (or --kv-fraction) = 2048", "--prm-kv-mib = 1024"]
        {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        // Of a pool that was not chosen one sequence's KV is enough, and it is not blamed.
        let error = fit_in("m", args(2048, 1024, [true, false]), (own, Some(prm)), 4 * GIB);
        let error = error.expect_err("half a GiB too much").to_string();
        assert!(error.contains("4.5 GiB") && !error.contains("--prm-kv-mib"), "{error}");
        let huge = args(usize::MAX, 1, [true, false]);
        let error = fit_in("m", huge, (own, None), u64::MAX - 1).expect_err("more than can be counted");
        assert!(error.to_string().contains("--kv-mib"), "{error}");
    }

    #[test]
    fn pools_of_the_default_size_shrink_to_what_is_free_beside_the_weights() {
        let need = Need { weights: 64 * MIB, sequence: 16 * MIB };
        let fitted = |args: EngineArgs, free| {
            let args = fit_in("m", args, (need, Some(need)), free).expect("fits");
            (args.kv_mib.get(), args.prm_kv_mib.get())
        };
        let defaults = || args(1024, 512, [false; 2]);
        assert_eq!(fitted(defaults(), 4 * GIB), (1024, 512));
        assert_eq!(fitted(defaults(), u64::MAX), (1024, 512), "nobody knows what is free");
        // 448 MiB but for the weights' 128: one sequence each, and the rest as 1,008 to 496.
        assert_eq!(fitted(defaults(), 512 * MIB), (16 + 194, 16 + 95));
        assert_eq!(fitted(defaults(), 160 * MIB), (16, 16), "as little as one sequence needs");
        assert_eq!(fitted(args(64, 512, [true, false]), 512 * MIB), (64, 448 - 128 - 64));
        // One that is not there takes nothing.
        let alone = fit_in("m", defaults(), (need, None), 512 * MIB).expect("fits");
        assert_eq!((alone.kv_mib.get(), alone.prm_kv_mib.get()), (384, 512));
    }
}
