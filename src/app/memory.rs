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
    /// KV of the longest sequence, or the whole pool where that is less.
    pub kv: u64,
}

impl Need {
    /// What a checkpoint needs with a pool of so many bytes.
    pub(super) fn of(shape: &Shape, weights: &Weights, kv_bytes: u64) -> Self {
        let floats = (2 * shape.layers * shape.kv_heads * shape.head_dim) as u64;
        let sequence = floats.saturating_mul(4).saturating_mul(shape.context as u64);
        Self { weights: weights.resident(shape), kv: sequence.min(kv_bytes) }
    }

    /// Both at once.
    pub(super) fn and(self, other: Self) -> Self {
        let weights = self.weights.saturating_add(other.weights);
        Self { weights, kv: self.kv.saturating_add(other.kv) }
    }
}

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
    let mib = (free as f64 * fraction / f64::from(1u32 << 20)) as usize;
    let kv_mib = NonZeroUsize::new(mib);
    let kv_mib = kv_mib.ok_or_else(|| ModelError::Fraction { fraction, free: gib(free) })?;
    Ok(EngineArgs { kv_mib, kv_fraction: None, ..args })
}

/// Refuses a model that needs more than is free.
pub(super) fn check(model: &str, need: Need) -> Result<(), ModelError> {
    compare(model, need, free())
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

fn compare(model: &str, need: Need, free: u64) -> Result<(), ModelError> {
    let total = need.weights.saturating_add(need.kv);
    if total <= free {
        return Ok(());
    }
    Err(ModelError::Memory {
        model: model.to_owned(),
        total: gib(total),
        weights: gib(need.weights),
        kv: gib(need.kv),
        free: gib(free),
    })
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

    #[test]
    fn both_numbers_are_named_and_what_fits_is_let_through() {
        let need = Need { weights: 28 << 30, kv: 1 << 30 };
        assert!(compare("m", need, 29 << 30).is_ok());
        let error = compare("m", need, 16 << 30).expect_err("too little").to_string();
        for part in ["29.0 GiB", "28.0 GiB", "1.0 GiB", "16.0 GiB", "--kv-mib"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(free() > 1 << 20, "the machine that runs this has memory");
    }
}
