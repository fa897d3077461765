//! Whether a model fits in the memory that is free, asked before it is read.

use super::model::ModelError;
use crate::engine::tree::checkpoint::Weights;
use crate::engine::tree::config::ModelConfig as Shape;
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
        Self { weights: weights.parameters().saturating_mul(4), kv: sequence.min(kv_bytes) }
    }

    /// Both at once.
    pub(super) fn and(self, other: Self) -> Self {
        let weights = self.weights.saturating_add(other.weights);
        Self { weights, kv: self.kv.saturating_add(other.kv) }
    }
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
