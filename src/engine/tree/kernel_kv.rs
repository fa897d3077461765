//! The KV during one pass, which several workers write and read at once.
//!
//! A [`Pass`] borrows the whole store and leads its workers through the layers.
//! Every row has one slot, a block and an offset in it, that its worker alone
//! writes; the constructor checks that no two rows have the same one, and finds
//! out whether a worker ever reads a block that another one writes. Only then do
//! workers have to wait for each other between a layer's keys and its attention.
//!
//! What a worker may do in a phase is a value that lives no longer than the
//! phase: [`Slots`] that it writes, or a [`View`] through which the kernels read
//! the blocks of its own rows and no others. So nobody can race with these by
//! calling safe functions in another order.

#![expect(unsafe_code, reason = "disjoint slots of one allocation are written by several threads")]

use super::kv::BlockId;
use super::model::Row;
use super::store::{BLOCK, Store};
use super::threads::Threads;
use std::marker::PhantomData;

/// One layer's keys and values, to be read by a kernel for some rows. While it
/// lives, nobody writes a block that these rows list up to their positions.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    layer: Layer,
    shape: Shape,
    rows: &'a [Row<'a>],
}

// Not fields that others see: kernels read what these say, and they have to
// stay as they were made.
impl<'a> View<'a> {
    /// Keys, `[block][kv head][head dim][BLOCK]`.
    #[inline(always)]
    pub(super) fn keys(&self) -> *const f32 {
        self.layer.keys
    }

    /// Values, `[block][kv head][BLOCK][head dim]`.
    #[inline(always)]
    pub(super) fn values(&self) -> *const f32 {
        self.layer.values
    }

    /// Floats of each.
    #[inline(always)]
    pub(super) fn floats(&self) -> usize {
        self.layer.floats
    }

    /// KV heads; heads share them in equal groups.
    #[inline(always)]
    pub(super) fn kv_heads(&self) -> usize {
        self.shape.kv_heads
    }

    /// Floats per head.
    #[inline(always)]
    pub(super) fn head_dim(&self) -> usize {
        self.shape.head_dim
    }

    /// The rows whose blocks may be read.
    pub(super) fn rows(&self) -> &'a [Row<'a>] {
        self.rows
    }
}

impl Store {
    /// One layer, to be read for any rows: nobody writes a borrowed store.
    #[must_use]
    pub(super) fn view<'a>(&'a self, layer: usize, rows: &'a [Row<'a>]) -> View<'a> {
        let (kv_heads, head_dim, _) = self.shape();
        let layer = self.layer(layer);
        let floats = layer.keys.len().min(layer.values.len());
        let (keys, values) = (layer.keys.as_ptr().cast_mut(), layer.values.as_ptr().cast_mut());
        View { layer: Layer { keys, values, floats }, shape: Shape { kv_heads, head_dim }, rows }
    }
}

/// Where a layer's keys and values are, and how many floats of each. Only what
/// a [`Pass`] made is written through.
#[derive(Debug, Clone, Copy)]
struct Layer {
    keys: *mut f32,
    values: *mut f32,
    floats: usize,
}

// SAFETY: the pointers stand for a borrow of the store, and floats may be
// borrowed by several threads; what they do with them at once is argued where
// it is done, in `Slots::write` and for `View` in `Pass::run`.
unsafe impl Sync for Layer {}

#[derive(Debug, Clone, Copy)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
}

/// A block, and an offset in it.
type Slot = (BlockId, usize);

/// The slots of one worker's rows in one layer, which nobody else writes, nor
/// reads while this lives.
#[derive(Debug)]
pub(super) struct Slots<'a> {
    layer: &'a Layer,
    shape: Shape,
    slots: &'a [Slot],
}

impl Slots<'_> {
    /// Writes the key and the value, `[kv head][head dim]`, of every row.
    pub(super) fn write(self, keys: &[f32], values: &[f32]) {
        let Shape { kv_heads: heads, head_dim: dim } = self.shape;
        let Layer { keys: to_keys, values: to_values, floats } = *self.layer;
        let all = self.slots.len() * heads * dim;
        assert!(keys.len() == all && values.len() == all, "a key and a value for every row");
        let pairs = keys.chunks_exact(heads * dim).zip(values.chunks_exact(heads * dim));
        for (&(block, offset), (key, value)) in self.slots.iter().zip(pairs) {
            for head in 0..heads {
                let base = (block as usize * heads + head) * dim * BLOCK;
                assert!(base + dim * BLOCK <= floats, "slots lie in the store");
                let (key, value) = (&key[head * dim..][..dim], &value[head * dim..][..dim]);
                // SAFETY: the pass borrows the store, the block lies in it, and
                // the offset is below `BLOCK`. These floats are the slot's, and
                // `Pass::run` gives it to one worker at a time and a view of it
                // to nobody meanwhile.
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

/// What a worker is to do next.
#[derive(Debug)]
pub(super) enum Phase<'a> {
    /// Get ready.
    Begin,
    /// Write the keys and values of its rows in a layer.
    Write(usize, Slots<'a>),
    /// Attend with its rows in a layer, whose keys and values are all written.
    Read(usize, View<'a>),
    /// Finish: the layers are done.
    End,
}

/// The store during a pass.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    layers: Vec<Layer>,
    shape: Shape,
    /// The rows of each worker.
    shares: Vec<&'a [Row<'a>]>,
    /// The slot of each row.
    slots: Vec<Slot>,
    /// Whether no worker reads a block that another one writes, so that each
    /// may run through all layers by itself.
    apart: bool,
    store: PhantomData<&'a mut Store>,
}

impl<'a> Pass<'a> {
    /// A pass over rows that are dealt to workers in shares of these sizes.
    ///
    /// # Panics
    /// When two rows have the same slot, a row's blocks do not reach its
    /// position or its slot lies outside the store, or the sizes do not add up.
    pub(super) fn new(store: &'a mut Store, rows: &'a [Row<'a>], sizes: &[usize]) -> Self {
        let (kv_heads, head_dim, blocks) = store.shape();
        let slots: Vec<Slot> =
            rows.iter().map(|row| (row.blocks[row.position / BLOCK], row.position % BLOCK)).collect();
        let mut sorted = slots.clone();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]), "every row has a slot of its own");
        assert!(sorted.last().is_none_or(|(block, _)| (*block as usize) < blocks), "slots lie in the store");
        assert_eq!(sizes.iter().sum::<usize>(), rows.len(), "every row is in a share");
        let mut rest = rows;
        let mut share = |&size| {
            let (share, others) = rest.split_at(size);
            rest = others;
            share
        };
        let shares: Vec<_> = sizes.iter().map(&mut share).collect();
        let apart = shares.len() < 2 || apart(&shares, &sorted);
        let layers = store.layers_mut().iter_mut().map(|layer| {
            let floats = layer.keys.len().min(layer.values.len());
            Layer { keys: layer.keys.as_mut_ptr(), values: layer.values.as_mut_ptr(), floats }
        });
        let (layers, shape) = (layers.collect(), Shape { kv_heads, head_dim });
        Self { layers, shape, shares, slots, apart, store: PhantomData }
    }

    /// Leads the workers, one for each share, through all layers: each of them
    /// begins, writes and reads layer after layer, and ends.
    pub(super) fn run<W: Send>(
        self,
        threads: &Threads,
        workers: &mut [W],
        work: impl Fn(&mut W, Phase<'_>) + Send + Sync,
    ) {
        let Self { layers, shape, shares, slots, apart, .. } = self;
        assert_eq!(workers.len(), shares.len(), "a worker for each share");
        let mut rest = &slots[..];
        let part = |(worker, rows): (_, &'a [Row<'a>])| {
            let (slots, others) = rest.split_at(rows.len());
            rest = others;
            (worker, rows, slots)
        };
        let mut parts: Vec<(&mut W, &[Row<'_>], &[Slot])> =
            workers.iter_mut().zip(shares).map(part).collect();
        // A stage is all that a worker does until others have to have written:
        // it reads the layer before and writes the next one, which are different
        // memory. So a layer's slots are written in one stage, each by its own
        // worker, and views of that layer are made in the next one. Where workers
        // do not wait for each other in between, no one's rows list a block that
        // another one writes, and a view is only of its worker's rows. Neither
        // value outlives its phase, for `work` takes any lifetime.
        let stage = |index: usize, (worker, rows, slots): &mut (&mut W, &[Row<'_>], &[Slot])| {
            match index.checked_sub(1) {
                Some(before) => {
                    work(worker, Phase::Read(before, View { layer: layers[before], shape, rows }))
                }
                None => work(worker, Phase::Begin),
            }
            match layers.get(index) {
                Some(layer) => work(worker, Phase::Write(index, Slots { layer, shape, slots })),
                None => work(worker, Phase::End),
            }
        };
        if apart {
            threads.each(&mut parts, |part| (0..=layers.len()).for_each(|index| stage(index, part)));
        } else {
            (0..=layers.len()).for_each(|index| threads.each(&mut parts, |part| stage(index, part)));
        }
    }
}

/// Whether no share's rows list a block that has slots of another share.
fn apart(shares: &[&[Row<'_>]], slots: &[Slot]) -> bool {
    let (Some(&(lowest, _)), Some(&(highest, _))) = (slots.first(), slots.last()) else { return true };
    // The share that writes each block, plus one.
    let mut owners = vec![0; (highest - lowest) as usize + 1];
    for (owner, share) in (1..).zip(shares) {
        for row in *share {
            let written = &mut owners[(row.blocks[row.position / BLOCK] - lowest) as usize];
            if *written != 0 && *written != owner {
                return false;
            }
            *written = owner;
        }
    }
    (1usize..).zip(shares).all(|(owner, share)| {
        share.iter().all(|row| {
            row.blocks[..=row.position / BLOCK].iter().all(|block| {
                let written = block.checked_sub(lowest).and_then(|i| owners.get(i as usize));
                written.is_none_or(|&written| written == 0 || written == owner)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::{every_isa, noise};
    use super::super::kernel_attention::Tile;
    use super::*;
    use std::ops::Range;

    fn row(position: usize, blocks: &[BlockId]) -> Row<'_> {
        Row { token: 0, position, blocks, logits: false }
    }

    #[test]
    fn shares_are_apart_unless_one_reads_what_another_writes() {
        let (a, b, c) = ([0, 1, 2], [0, 1, 3], [0, 2, 4]);
        let mut store = Store::new(1, 1, 2, 5).expect("little memory");
        let mut apart =
            |rows: &[Row<'_>], cut: usize| Pass::new(&mut store, rows, &[cut, rows.len() - cut]).apart;
        assert!(apart(&[row(33, &a), row(40, &b)], 1), "a shared prefix is only read");
        assert!(!apart(&[row(33, &a), row(34, &a), row(40, &b)], 1), "one block, two writers");
        assert!(apart(&[row(33, &a), row(34, &a), row(40, &b)], 2));
        assert!(!apart(&[row(33, &a), row(40, &c)], 1), "the second reads what the first writes");
        assert!(!apart(&[row(15, &a), row(16, &a)], 1), "a prefill cut at a block border");
    }

    /// The numbers of some rows.
    fn numbers(key: u64, rows: Range<usize>, width: usize) -> Vec<f32> {
        rows.flat_map(|row| noise(key + row as u64, width)).collect()
    }

    #[test]
    fn what_is_written_in_shares_is_what_the_store_writes() {
        let (layers, heads, dim) = (2, 2, 3);
        let width = heads * dim;
        let (a, b) = ([4, 1], [4, 0]);
        let rows = [row(17, &a), row(18, &a), row(31, &b)];
        let (mut store, mut expected) = (
            Store::new(layers, heads, dim, 5).expect("little memory"),
            Store::new(layers, heads, dim, 5).expect("little memory"),
        );
        for (i, row) in rows.iter().enumerate() {
            for layer in 0..layers {
                let pair = (&*numbers(10, i..i + 1, width), &*numbers(50, i..i + 1, width));
                expected.write(layer, row.blocks[1], row.position % BLOCK, pair);
            }
        }
        let threads = Threads::new(2).expect("threads");
        Pass::new(&mut store, &rows, &[2, 1]).run(&threads, &mut [0..2, 2..3], |share, phase| {
            if let Phase::Write(_, slots) = phase {
                slots.write(&numbers(10, share.clone(), width), &numbers(50, share.clone(), width));
            }
        });
        for layer in 0..layers {
            assert_eq!(*store.layer(layer).keys, *expected.layer(layer).keys);
            assert_eq!(*store.layer(layer).values, *expected.layer(layer).values);
        }
    }

    #[test]
    fn a_worker_goes_through_its_phases_in_order() {
        let blocks = [0];
        // Apart, and a prefill that is cut inside a block.
        for (rows, sizes) in
            [(vec![row(3, &blocks)], vec![1]), (vec![row(3, &blocks), row(4, &blocks)], vec![1, 1])]
        {
            let mut store = Store::new(2, 1, 2, 1).expect("little memory");
            let mut names = vec![Vec::new(); sizes.len()];
            let threads = Threads::new(2).expect("threads");
            Pass::new(&mut store, &rows, &sizes).run(&threads, &mut names, |names, phase| {
                names.push(match phase {
                    Phase::Begin => "begin".to_owned(),
                    Phase::Write(layer, _) => format!("write {layer}"),
                    Phase::Read(layer, view) => format!("read {layer} for {}", view.rows().len()),
                    Phase::End => "end".to_owned(),
                });
            });
            let all = ["begin", "write 0", "read 0 for 1", "write 1", "read 1 for 1", "end"];
            names.iter().for_each(|names| assert_eq!(names, &all));
        }
    }

    /// What workers attend to in every layer with shares of rows that they write
    /// in every layer.
    fn attended(rows: &[Row<'_>], sizes: &[usize], apart: bool) -> Vec<f32> {
        let (heads, dim) = (2, 20);
        let width = heads * dim;
        let mut store = Store::new(2, heads, dim, 5).expect("little memory");
        store.fill(|i| (i % 17) as f32 * 0.1);
        let mut first = 0;
        let share = |&size| {
            first += size;
            (first - size..first, Vec::new())
        };
        let mut workers: Vec<_> = sizes.iter().map(share).collect();
        let pass = Pass::new(&mut store, rows, sizes);
        assert_eq!(pass.apart, apart);
        let threads = Threads::new(sizes.len()).expect("threads");
        pass.run(&threads, &mut workers, |(share, outs), phase| match phase {
            Phase::Begin | Phase::End => {}
            Phase::Write(layer, slots) => {
                let of = |key| numbers(key + layer as u64, share.clone(), width);
                slots.write(&of(10), &of(50));
            }
            Phase::Read(_, layer) => {
                for (i, row) in share.clone().enumerate() {
                    for kernels in every_isa() {
                        let mut out = vec![f32::NAN; width];
                        let tile = Tile { layer, rows: (i, 1), window: None, shared: 0 };
                        let query = numbers(90, row..row + 1, width);
                        kernels.attend(tile, &query, &mut Vec::new(), &mut out);
                        outs.push((row, out));
                    }
                }
            }
        });
        let mut outs: Vec<_> = workers.into_iter().flat_map(|(_, outs)| outs).collect();
        outs.sort_by_key(|(row, _)| *row);
        outs.into_iter().flat_map(|(_, out)| out).collect()
    }

    // Under Miri and the thread sanitizer this is the test that finds races.
    #[test]
    fn workers_write_and_attend_at_once_and_get_what_one_alone_gets() {
        let (a, b) = ([0, 1, 3], [0, 2, 4]);
        let apart = [row(17, &a), row(18, &a), row(33, &b), row(34, &b)];
        // A prefill that is cut inside a block.
        let joined = [row(16, &a), row(17, &a), row(18, &a), row(19, &a)];
        for (rows, is_apart) in [(apart, true), (joined, false)] {
            assert_eq!(attended(&rows, &[2, 2], is_apart), attended(&rows, &[4], true), "apart: {is_apart}");
        }
    }

    #[test]
    #[should_panic(expected = "a slot of its own")]
    fn two_rows_of_one_slot_are_refused() {
        let (a, b) = ([0, 1], [2, 1]);
        drop(Pass::new(
            &mut Store::new(1, 1, 2, 3).expect("little memory"),
            &[row(17, &a), row(17, &b)],
            &[1, 1],
        ));
    }

    #[test]
    #[should_panic(expected = "a worker for each share")]
    fn workers_that_are_no_shares_are_refused() {
        let threads = Threads::new(1).expect("threads");
        let mut store = Store::new(1, 1, 2, 1).expect("little memory");
        Pass::new(&mut store, &[row(0, &[0])], &[1]).run(&threads, &mut [(), ()], |(), _| {});
    }
}
