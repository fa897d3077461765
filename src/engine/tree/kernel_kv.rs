//! The KV during one pass, which several workers write and read at once.
//!
//! A [`Pass`] borrows the whole store. Every row of the pass has one slot, a
//! block and an offset in it, that its worker alone writes. The constructor
//! checks that no two rows have the same slot, and finds out whether a worker
//! ever reads a block that another one writes: only then do workers have to
//! wait for each other between a layer's keys and its attention.

#![expect(unsafe_code, reason = "disjoint slots of one allocation are written by several threads")]

use super::kv::BlockId;
use super::model::Row;
use super::store::{BLOCK, LayerStore, Store};
use std::marker::PhantomData;
use std::ops::Range;

/// One layer's keys and values, to be read by a kernel.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Keys, `[block][kv head][head dim][BLOCK]`.
    pub(super) keys: *const f32,
    /// Values, `[block][kv head][BLOCK][head dim]`.
    pub(super) values: *const f32,
    /// Floats of each.
    pub(super) len: usize,
    store: PhantomData<&'a f32>,
}

// SAFETY: a view is a shared borrow of floats; who writes beside it answers for
// that in `Pass`.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl LayerStore {
    /// The layer, to be read.
    #[must_use]
    pub(super) fn view(&self) -> View<'_> {
        let len = self.keys.len().min(self.values.len());
        View { keys: self.keys.as_ptr(), values: self.values.as_ptr(), len, store: PhantomData }
    }
}

/// The store during a pass.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    /// Keys, values and floats of each.
    layers: Vec<(*mut f32, *mut f32, usize)>,
    /// The slot of each row.
    slots: Vec<(BlockId, usize)>,
    kv_heads: usize,
    head_dim: usize,
    apart: bool,
    store: PhantomData<&'a mut Store>,
}

// SAFETY: the pointers stand for the exclusive borrow of the store; what they
// are used for at once is argued in `write`.
unsafe impl Send for Pass<'_> {}
// SAFETY: as above.
unsafe impl Sync for Pass<'_> {}

impl<'a> Pass<'a> {
    /// A pass over rows that are dealt to workers by `shares`.
    ///
    /// # Panics
    /// When two rows have the same slot, or a row's blocks do not reach its
    /// position or lie outside the store.
    pub(super) fn new(store: &'a mut Store, rows: &[Row<'_>], shares: &[Range<usize>]) -> Self {
        let (kv_heads, head_dim, blocks) = store.shape();
        let slots: Vec<(BlockId, usize)> =
            rows.iter().map(|row| (row.blocks[row.position / BLOCK], row.position % BLOCK)).collect();
        let mut sorted = slots.clone();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]), "every row has a slot of its own");
        assert!(sorted.last().is_none_or(|(block, _)| (*block as usize) < blocks), "slots lie in the store");
        let apart = shares.len() < 2 || apart(rows, &sorted, shares);
        let layers = store.layers_mut().iter_mut();
        let layers = layers.map(|layer| {
            (layer.keys.as_mut_ptr(), layer.values.as_mut_ptr(), layer.keys.len().min(layer.values.len()))
        });
        Self { layers: layers.collect(), slots, kv_heads, head_dim, apart, store: PhantomData }
    }

    /// Whether no worker reads a block that another one writes, so that each
    /// may run through all layers by itself.
    pub(super) fn apart(&self) -> bool {
        self.apart
    }

    /// One layer, to be read.
    pub(super) fn view(&self, layer: usize) -> View<'_> {
        let (keys, values, len) = self.layers[layer];
        View { keys, values, len, store: PhantomData }
    }

    /// Writes the key and the value, `[kv head][head dim]`, of the rows from
    /// `first` on. Their worker calls it, before any row attends to them:
    /// where workers are not [`Pass::apart`], all of them meet in between.
    pub(super) fn write(&self, layer: usize, first: usize, (keys, values): (&[f32], &[f32])) {
        let (heads, dim) = (self.kv_heads, self.head_dim);
        let (to_keys, to_values, len) = self.layers[layer];
        let pairs = keys.chunks_exact(heads * dim).zip(values.chunks_exact(heads * dim));
        for (&(block, offset), (key, value)) in self.slots[first..].iter().zip(pairs) {
            for head in 0..heads {
                let base = (block as usize * heads + head) * dim * BLOCK;
                assert!(base + dim * BLOCK <= len, "slots lie in the store");
                let (key, value) = (&key[head * dim..][..dim], &value[head * dim..][..dim]);
                // SAFETY: this pass borrows the store, the block lies in it, and
                // no other row has the slot, so no other thread writes these
                // floats; one that reads them has met this one before, or is it.
                unsafe {
                    for (i, &k) in key.iter().enumerate() {
                        *to_keys.add(base + i * BLOCK + offset) = k;
                    }
                    let to = to_values.add(base + offset * dim);
                    std::ptr::copy_nonoverlapping(value.as_ptr(), to, dim);
                }
            }
        }
    }
}

/// Whether no share's rows list a block that has slots of another share.
fn apart(rows: &[Row<'_>], slots: &[(BlockId, usize)], shares: &[Range<usize>]) -> bool {
    let (Some(&(lowest, _)), Some(&(highest, _))) = (slots.first(), slots.last()) else { return true };
    // The share that writes each block, plus one.
    let mut owners = vec![0; (highest - lowest) as usize + 1];
    for (owner, share) in (1..).zip(shares) {
        for row in &rows[share.clone()] {
            let written = &mut owners[(row.blocks[row.position / BLOCK] - lowest) as usize];
            if *written != 0 && *written != owner {
                return false;
            }
            *written = owner;
        }
    }
    (1usize..).zip(shares).all(|(owner, share)| {
        rows[share.clone()].iter().all(|row| {
            row.blocks[..=row.position / BLOCK].iter().all(|block| {
                let written = block.checked_sub(lowest).and_then(|i| owners.get(i as usize));
                written.is_none_or(|&written| written == 0 || written == owner)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::every_isa;
    use super::super::kernel_attention::{Attend, Tile};
    use super::*;

    fn row(position: usize, blocks: &[BlockId]) -> Row<'_> {
        Row { token: 0, position, blocks, logits: false }
    }

    #[test]
    fn shares_are_apart_unless_one_reads_what_another_writes() {
        let (a, b, c) = ([0, 1, 2], [0, 1, 3], [0, 2, 4]);
        let mut store = Store::new(1, 1, 2, 5);
        let mut apart =
            |rows: &[Row<'_>], cut: usize| Pass::new(&mut store, rows, &[0..cut, cut..rows.len()]).apart();
        assert!(apart(&[row(33, &a), row(40, &b)], 1), "a shared prefix is only read");
        assert!(!apart(&[row(33, &a), row(34, &a), row(40, &b)], 1), "one block, two writers");
        assert!(apart(&[row(33, &a), row(34, &a), row(40, &b)], 2));
        assert!(!apart(&[row(33, &a), row(40, &c)], 1), "the second reads what the first writes");
        assert!(!apart(&[row(15, &a), row(16, &a)], 1), "a prefill cut at a block border");
    }

    #[test]
    fn what_is_written_in_shares_is_what_the_store_writes() {
        let (layers, heads, dim) = (2, 2, 3);
        let noise = |key| super::super::kernel::tests::noise(key, 3 * heads * dim);
        let (keys, values) = (noise(1), noise(2));
        let (a, b) = ([4, 1], [4, 0]);
        let rows = [row(17, &a), row(18, &a), row(31, &b)];
        let (mut store, mut expected) =
            (Store::new(layers, heads, dim, 5), Store::new(layers, heads, dim, 5));
        for (row, pair) in rows.iter().zip(keys.chunks(heads * dim).zip(values.chunks(heads * dim))) {
            expected.write(1, row.blocks[1], row.position % BLOCK, pair);
        }
        let pass = Pass::new(&mut store, &rows, &[0..2, 2..3]);
        let cut = 2 * heads * dim;
        pass.write(1, 2, (&keys[cut..], &values[cut..]));
        pass.write(1, 0, (&keys[..cut], &values[..cut]));
        for layer in 0..layers {
            assert_eq!(store.layer(layer).keys, expected.layer(layer).keys);
            assert_eq!(store.layer(layer).values, expected.layer(layer).values);
        }
    }

    /// What one worker does with its rows in one layer: it writes their keys and
    /// values, meets the others where it has to, and attends.
    fn work(pass: &Pass<'_>, rows: &[Row<'_>], share: Range<usize>, meet: impl Fn()) -> Vec<f32> {
        let width = pass.kv_heads * pass.head_dim;
        let numbers = |key, row: usize| super::super::kernel::tests::noise(key + row as u64, width);
        for layer in 0..2 {
            let all = |key| share.clone().flat_map(|row| numbers(key, row)).collect::<Vec<_>>();
            pass.write(layer, share.start, (&all(10), &all(50)));
            meet();
        }
        let mut outs = Vec::new();
        for row in share {
            let (query, Row { blocks, position, .. }) = (numbers(90, row), rows[row]);
            let mut out = vec![f32::NAN; width];
            for kernels in every_isa() {
                for layer in 0..2 {
                    let tile = Tile {
                        layer: pass.view(layer),
                        kv_heads: pass.kv_heads,
                        head_dim: pass.head_dim,
                        shared: 0,
                    };
                    let row = Attend { query: &query, blocks, start: 0, len: position + 1 };
                    kernels.attend(tile, &[row], &mut Vec::new(), &mut out);
                    outs.extend_from_slice(&out);
                }
            }
        }
        outs
    }

    // Under Miri and the thread sanitizer this is the test that finds races.
    #[test]
    fn workers_write_and_attend_at_once_and_get_what_one_alone_gets() {
        let (a, b) = ([0, 1, 3], [0, 2, 4]);
        let apart = [row(17, &a), row(18, &a), row(33, &b), row(34, &b)];
        // A prefill that is cut inside a block.
        let joined = [row(16, &a), row(17, &a), row(18, &a), row(19, &a)];
        for rows in [apart, joined] {
            let fresh = || {
                let mut store = Store::new(2, 2, 20, 5);
                store.fill(|i| (i % 17) as f32 * 0.1);
                store
            };
            let (mut store, mut other) = (fresh(), fresh());
            let alone = Pass::new(&mut other, &rows, &[0..4, 4..4]);
            let expected = work(&alone, &rows, 0..4, || {});
            let pass = Pass::new(&mut store, &rows, &[0..2, 2..4]);
            let barrier = std::sync::Barrier::new(2);
            let meet = || {
                if !pass.apart() {
                    barrier.wait();
                }
            };
            let (first, second) = std::thread::scope(|scope| {
                let helper = scope.spawn(|| work(&pass, &rows, 2..4, meet));
                (work(&pass, &rows, 0..2, meet), helper.join().expect("it does not panic"))
            });
            assert_eq!([first, second].concat(), expected, "apart: {}", pass.apart());
        }
    }

    #[test]
    #[should_panic(expected = "a slot of its own")]
    fn two_rows_of_one_slot_are_refused() {
        let (a, b) = ([0, 1], [2, 1]);
        drop(Pass::new(&mut Store::new(1, 1, 2, 3), &[row(17, &a), row(17, &b)], &[0..1, 1..2]));
    }
}
