//! The keys and values themselves, in blocks.
//!
//! Layout per layer: keys `[block][kv head][head dim][position]`, so that the
//! scores of a block's positions are one vector; values
//! `[block][kv head][position][head dim]`, so that a weighted sum is one too.
//! The memory is zeroed lazily by the operating system: a pool costs what was
//! written, not what was reserved. It begins with a page, so that no vector of it
//! lies in two lines of a cache.

use super::kernel_zeros::zeros;
use super::kv::{BlockCopy, BlockId};
use std::ops::{Deref, DerefMut};

/// Positions in a block.
pub(super) const BLOCK: usize = 16;

/// KV of every layer for every block of a pool.
#[derive(Debug)]
pub struct Store {
    layers: Vec<LayerStore>,
    kv_heads: usize,
    head_dim: usize,
}

/// One layer's keys and values.
#[derive(Debug)]
pub struct LayerStore {
    /// Keys, `[block][kv head][head dim][BLOCK]`.
    pub keys: Paged,
    /// Values, `[block][kv head][BLOCK][head dim]`.
    pub values: Paged,
}

/// Floats that begin with a page of memory.
#[derive(Debug)]
pub struct Paged {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

/// Bytes of a page, at least.
const PAGE: usize = 4096;

impl Paged {
    fn zeros(len: usize) -> Option<Self> {
        let spare = PAGE / size_of::<f32>();
        let memory = zeros(len.checked_add(spare)?)?;
        // Where a page begins is not always found out; vectors are then read a little slower.
        let start = memory.as_ptr().align_offset(PAGE).min(spare);
        Some(Self { memory, start, len })
    }
}

impl Deref for Paged {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Paged {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl Store {
    /// Room for `blocks` blocks of a model's KV; `None` where the operating system
    /// refuses it.
    #[must_use]
    pub fn new(layers: usize, kv_heads: usize, head_dim: usize, blocks: usize) -> Option<Self> {
        let floats = blocks * BLOCK * kv_heads * head_dim;
        let layer = || Some(LayerStore { keys: Paged::zeros(floats)?, values: Paged::zeros(floats)? });
        let layers = (0..layers).map(|_| layer()).collect::<Option<_>>()?;
        Some(Self { layers, kv_heads, head_dim })
    }

    /// Bytes that one block takes over all layers.
    #[must_use]
    pub fn block_bytes(layers: usize, kv_heads: usize, head_dim: usize) -> usize {
        2 * layers * kv_heads * head_dim * BLOCK * size_of::<f32>()
    }

    /// KV heads, floats per head, and blocks.
    pub(super) fn shape(&self) -> (usize, usize, usize) {
        let block = (self.kv_heads * self.head_dim * BLOCK).max(1);
        let blocks = self.layers.first().map_or(0, |layer| layer.keys.len() / block);
        (self.kv_heads, self.head_dim, blocks)
    }

    /// All layers.
    pub(super) fn layers_mut(&mut self) -> &mut [LayerStore] {
        &mut self.layers
    }

    /// One layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &LayerStore {
        &self.layers[layer]
    }

    /// Writes one position of one layer: `key` and `value` are
    /// `[kv head][head dim]`.
    pub fn write(&mut self, layer: usize, block: BlockId, offset: usize, (key, value): (&[f32], &[f32])) {
        let (heads, dim) = (self.kv_heads, self.head_dim);
        let layer = &mut self.layers[layer];
        for head in 0..heads {
            let base = (block as usize * heads + head) * dim * BLOCK;
            let keys = &mut layer.keys[base..base + dim * BLOCK];
            for (i, &k) in key[head * dim..(head + 1) * dim].iter().enumerate() {
                keys[i * BLOCK + offset] = k;
            }
            let values = &mut layer.values[base + offset * dim..base + (offset + 1) * dim];
            values.copy_from_slice(&value[head * dim..(head + 1) * dim]);
        }
    }

    /// Fills everything with `number`, for measurements: memory that was never
    /// written would be read from one page of zeros.
    pub(super) fn fill(&mut self, number: impl Fn(usize) -> f32) {
        let some: Vec<f32> = (0..4099).map(number).collect();
        for layer in &mut self.layers {
            for floats in [&mut layer.keys, &mut layer.values] {
                floats.chunks_mut(some.len()).for_each(|part| part.copy_from_slice(&some[..part.len()]));
            }
        }
    }

    /// Copies one position, a block and an offset in it, to another, in every layer.
    pub(super) fn copy_position(&mut self, from: (BlockId, usize), to: (BlockId, usize)) {
        let (heads, dim) = (self.kv_heads, self.head_dim);
        for layer in &mut self.layers {
            for head in 0..heads {
                let base = |block: BlockId| (block as usize * heads + head) * dim * BLOCK;
                let (source, target) = (base(from.0), base(to.0));
                for i in 0..dim {
                    layer.keys[target + i * BLOCK + to.1] = layer.keys[source + i * BLOCK + from.1];
                }
                let values = source + from.1 * dim..source + (from.1 + 1) * dim;
                layer.values.copy_within(values, target + to.1 * dim);
            }
        }
    }

    /// Carries out a copy-on-write. The whole block is copied: attention masks what
    /// it reads of positions past the shared ones before they are written.
    pub fn copy(&mut self, copy: BlockCopy) {
        let floats = self.kv_heads * self.head_dim * BLOCK;
        let (from, to) = (copy.from as usize * floats, copy.to as usize * floats);
        for layer in &mut self.layers {
            layer.keys.copy_within(from..from + floats, to);
            layer.values.copy_within(from..from + floats, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Miri does not say where a page begins.
    #[cfg(not(miri))]
    #[test]
    fn keys_and_values_begin_with_a_page() {
        for blocks in [1, 3, 1000] {
            let store = Store::new(2, 1, 3, blocks).expect("little memory");
            for layer in &store.layers {
                for floats in [&layer.keys, &layer.values] {
                    assert!(floats.as_ptr().addr().is_multiple_of(PAGE));
                    assert_eq!(floats.len(), blocks * 3 * BLOCK);
                }
            }
        }
    }

    #[test]
    fn every_number_of_a_position_is_copied_and_no_other() {
        let (layers, heads, dim, blocks) = (2, 3, 4, 3);
        let mut store = Store::new(layers, heads, dim, blocks).expect("little memory");
        let mut next = 0.0;
        for layer in store.layers_mut() {
            for floats in [&mut layer.keys, &mut layer.values] {
                for float in floats.iter_mut() {
                    next += 1.0;
                    *float = next;
                }
            }
        }
        // Of a block from its inside, to the beginning and the end of others, and
        // within one.
        for (from, to) in [((1, 5), (2, 0)), ((0, BLOCK - 1), (1, 9)), ((2, 3), (2, 4))] {
            let before: Vec<(Vec<f32>, Vec<f32>)> =
                store.layers.iter().map(|layer| (layer.keys.to_vec(), layer.values.to_vec())).collect();
            store.copy_position(from, to);
            for (layer, (keys, values)) in store.layers.iter().zip(&before) {
                for block in 0..blocks {
                    for (head, offset, i) in (0..heads)
                        .flat_map(|head| (0..BLOCK).map(move |offset| (head, offset)))
                        .flat_map(|(head, offset)| (0..dim).map(move |i| (head, offset, i)))
                    {
                        // The layouts as the module's documentation has them.
                        let key = |block: usize, offset| ((block * heads + head) * dim + i) * BLOCK + offset;
                        let value =
                            |block: usize, offset| ((block * heads + head) * BLOCK + offset) * dim + i;
                        let here = (block as BlockId, offset);
                        let (b, o) = if here == to { (from.0 as usize, from.1) } else { (block, offset) };
                        let place = format!("block {block}, head {head}, position {offset}, number {i}");
                        assert_eq!(layer.keys[key(block, offset)], keys[key(b, o)], "key of {place}");
                        assert_eq!(
                            layer.values[value(block, offset)],
                            values[value(b, o)],
                            "value of {place}"
                        );
                    }
                }
            }
        }
    }
}
