//! Attention of a batch's rows over KV blocks, with shared prefixes read once.
//!
//! Rows come in tiles of neighbours that list the same leading blocks: branches
//! of one prompt, or the positions of one prefill. Up to eight queries (rows
//! times the heads that share a KV head) go over a block together, so that what
//! is loaded once is used eight times, as in Hydragen (Juravsky et al., arXiv
//! 2402.05099) and cascade inference. Behind the shared blocks each row goes on
//! alone.
//!
//! Every number of a row is summed in the order of the row's own dimensions and
//! positions, whatever the tile: grouping changes no bit.

#![expect(unsafe_code, reason = "a body compiled for a detected instruction set can only be called so")]

#[cfg(target_arch = "x86_64")]
use super::kernel::Isa;
use super::kernel::{Kernels, compile, dispatch, exponentials_body, multiply_add};
#[cfg(target_arch = "x86_64")]
use super::kernel_lanes::{Avx2, Avx512};
use super::kernel_lanes::{Baseline, LANES, Lanes};
use super::kv::BlockId;
use super::store::{BLOCK, LayerStore};
use std::ops::Range;

/// Queries that go over a block together, at most.
pub(super) const TILE: usize = 8;

/// One row's attention over its branch's blocks.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// Queries, `[head][head dim]`.
    pub query: &'a [f32],
    /// The branch's blocks.
    pub blocks: &'a [BlockId],
    /// The first position to attend to: 0, but in a layer with a sliding window.
    pub start: usize,
    /// The end of the positions to attend to, the row's own included.
    pub len: usize,
}

impl Attend<'_> {
    /// Blocks that hold the row's positions.
    fn span(&self) -> Range<usize> {
        self.start / BLOCK..self.len.div_ceil(BLOCK)
    }
}

/// What the rows of a tile have in common.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// The layer's KV.
    pub layer: &'a LayerStore,
    /// KV heads; heads share them in equal groups.
    pub kv_heads: usize,
    /// Floats per head.
    pub head_dim: usize,
    /// Leading blocks that are the same in all rows and full in all of them.
    pub shared: usize,
}

// Compiled once, with and without the softmax: a second instance would leave
// closures in the body with two callers, which the compiler then no longer
// inlines; each of their vector instructions would become a call.
compile!(attention, attend_body,
    (tile: Tile<'_>, rows: &[Attend<'_>], softmax: bool, scratch: &mut Vec<f32>, out: &mut [f32]),
    rows: 8, 2);

impl Kernels {
    /// Scaled dot-product attention of some rows; `out` is `[row][head][head
    /// dim]`, `scratch` is reused memory.
    pub fn attend(self, tile: Tile<'_>, rows: &[Attend<'_>], scratch: &mut Vec<f32>, out: &mut [f32]) {
        check(tile, rows, out);
        dispatch!(self.isa, attention, tile, rows, true, scratch, out);
    }

    /// The two products of [`Kernels::attend`] without the softmax between
    /// them: what attention would cost if that were free. `out` means nothing.
    pub(super) fn attend_products(
        self,
        tile: Tile<'_>,
        rows: &[Attend<'_>],
        scratch: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        check(tile, rows, out);
        dispatch!(self.isa, attention, tile, rows, false, scratch, out);
    }
}

fn check(tile: Tile<'_>, rows: &[Attend<'_>], out: &[f32]) {
    let width = rows.first().map_or(0, |row| row.query.len());
    assert!(out.len() == rows.len() * width && width.is_multiple_of(tile.kv_heads * tile.head_dim));
    for row in rows {
        assert!(row.start < row.len && row.len <= row.blocks.len() * BLOCK, "positions lie in the blocks");
        assert!(row.query.len() == width && tile.shared * BLOCK <= row.len, "equal rows share full blocks");
    }
}

#[inline(always)]
fn attend_body<V: Lanes, const MOST: usize, const FMA: bool>(
    tile: Tile<'_>,
    rows: &[Attend<'_>],
    softmax: bool,
    scratch: &mut Vec<f32>,
    out: &mut [f32],
) {
    let group = rows.first().map_or(0, |row| row.query.len()) / (tile.head_dim * tile.kv_heads);
    for kv_head in 0..tile.kv_heads {
        let mut first = 0;
        while first < rows.len() * group {
            let queries = Queries { tile, rows, softmax, kv_head, group, first };
            first += match rows.len() * group - first {
                1 => queries.run::<V, 1, FMA>(scratch, out),
                2 | 3 => queries.run::<V, 2, FMA>(scratch, out),
                _ if MOST == 2 => queries.run::<V, 2, FMA>(scratch, out),
                4..8 => queries.run::<V, 4, FMA>(scratch, out),
                _ => queries.run::<V, TILE, FMA>(scratch, out),
            };
        }
    }
}

/// Queries of one KV head, numbered by row and then by head: those from `first`
/// on are worked on.
#[derive(Clone, Copy)]
struct Queries<'a> {
    tile: Tile<'a>,
    rows: &'a [Attend<'a>],
    softmax: bool,
    kv_head: usize,
    group: usize,
    first: usize,
}

/// The largest of some numbers, sixteen at a time.
#[inline(always)]
fn highest_of(numbers: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, number);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// The sum of some numbers: sixteen partial sums by place, then these in order.
#[inline(always)]
fn sum_of(numbers: &[f32]) -> f32 {
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane += number;
        }
    }
    lanes.iter().chain(rest).sum()
}

impl<'a> Queries<'a> {
    /// The row of a query.
    #[inline(always)]
    fn row(&self, n: usize) -> &'a Attend<'a> {
        &self.rows[(self.first + n) / self.group]
    }

    /// Where a query's head begins in `out`.
    #[inline(always)]
    fn place(&self, n: usize) -> usize {
        let (row, head) = ((self.first + n) / self.group, (self.first + n) % self.group);
        row * self.rows[row].query.len() + (self.kv_head * self.group + head) * self.tile.head_dim
    }

    /// Where a block's keys and values of this KV head lie.
    #[inline(always)]
    fn block(&self, block: BlockId) -> Range<usize> {
        let size = self.tile.head_dim * BLOCK;
        let base = (block as usize * self.tile.kv_heads + self.kv_head) * size;
        base..base + size
    }

    /// Blocks that `N` queries go over together: the same in all their rows.
    #[inline(always)]
    fn shared<const N: usize>(&self) -> Range<usize> {
        let (one, other) = (self.row(0), self.row(N - 1));
        let span = one.span();
        if std::ptr::eq(one, other) {
            return span;
        }
        let rows = &self.rows[self.first / self.group..=(self.first + N - 1) / self.group];
        let alike = rows.iter().all(|row| row.span().start == span.start);
        span.start..if alike { self.tile.shared.max(span.start) } else { span.start }
    }

    /// Blocks that the first query goes over alone.
    #[inline(always)]
    fn rest(&self, shared: &Range<usize>) -> Range<usize> {
        let span = self.row(0).span();
        if shared.is_empty() { span } else { shared.end..span.end }
    }

    /// Works on `N` queries; says how many that were.
    #[inline(always)]
    fn run<V: Lanes, const N: usize, const FMA: bool>(
        self,
        scratch: &mut Vec<f32>,
        out: &mut [f32],
    ) -> usize {
        let dim = self.tile.head_dim;
        let shared = self.shared::<N>();
        let longest = (0..N).map(|n| self.row(n).span().len()).max().unwrap_or(0) * BLOCK;
        scratch.resize(N * (longest + 2 * dim), 0.0);
        let (scores, queries) = scratch.split_at_mut(N * longest);
        let (together, alone) = queries.split_at_mut(N * dim);
        for n in 0..N {
            let row = self.row(n);
            let head = self.place(n) % row.query.len();
            for (i, &q) in row.query[head..head + dim].iter().enumerate() {
                (together[i * N + n], alone[n * dim + i]) = (q, q);
            }
        }
        self.score::<V, N>(shared.clone(), together, (scores, longest));
        for n in 0..N {
            let one = Self { first: self.first + n, ..self };
            let rest = one.rest(&shared);
            let from = n * longest + shared.len() * BLOCK;
            one.score::<V, 1>(rest, &alone[n * dim..(n + 1) * dim], (&mut scores[from..], 0));
        }
        let mut totals = [1.0; N];
        if self.softmax {
            for (n, total) in totals.iter_mut().enumerate() {
                *total = self.softmax::<V, FMA>(n, &mut scores[n * longest..]);
            }
        }
        self.weigh::<V, N, FMA>(shared, (scores, longest), out);
        for (n, total) in totals.into_iter().enumerate() {
            for value in &mut out[self.place(n)..][..dim] {
                *value /= total;
            }
        }
        N
    }

    /// Scores of `N` queries, `[dim][N]`, at the positions of some blocks of
    /// their rows; each query's scores begin `stride` after the last one's.
    #[inline(always)]
    fn score<V: Lanes, const N: usize>(
        &self,
        blocks: Range<usize>,
        queries: &[f32],
        (scores, stride): (&mut [f32], usize),
    ) {
        let scale = 1.0 / (self.tile.head_dim as f32).sqrt();
        for (index, &block) in self.row(0).blocks[blocks].iter().enumerate() {
            let (keys, _) = self.tile.layer.keys[self.block(block)].as_chunks::<BLOCK>();
            let mut sums = [V::splat(0.0); N];
            for (keys, queries) in keys.iter().zip(queries.as_chunks::<N>().0) {
                let keys = V::load(keys);
                for (sum, &q) in sums.iter_mut().zip(queries) {
                    *sum = V::splat(q).mul_add(keys, *sum);
                }
            }
            for (n, sums) in sums.into_iter().enumerate() {
                let mut lanes = [0.0; BLOCK];
                sums.store(&mut lanes);
                let at = n * stride + index * BLOCK;
                for (score, sum) in scores[at..at + BLOCK].iter_mut().zip(lanes) {
                    *score = sum * scale;
                }
            }
        }
    }

    /// Turns a query's scores into weights and returns their sum. What a window
    /// leaves of its first block gets the weight 0.
    #[inline(always)]
    fn softmax<V: Lanes, const FMA: bool>(&self, n: usize, scores: &mut [f32]) -> f32 {
        let row = self.row(n);
        let before = row.span().start * BLOCK;
        let (outside, seen) = scores[..row.len - before].split_at_mut(row.start - before);
        outside.fill(0.0);
        let highest = highest_of(seen);
        exponentials_body::<V, 1, FMA>(seen, highest);
        sum_of(seen)
    }

    /// Weighted sums of values, over positions in order, in strips of columns
    /// that stay in registers; what is left of the columns one by one.
    #[inline(always)]
    fn weigh<V: Lanes, const N: usize, const FMA: bool>(
        &self,
        shared: Range<usize>,
        (weights, stride): (&[f32], usize),
        out: &mut [f32],
    ) {
        let dim = self.tile.head_dim;
        let strips = dim / (2 * LANES) * 2 * LANES;
        for column in (0..strips).step_by(2 * LANES) {
            let mut sums = [[V::splat(0.0); 2]; N];
            let weights_of =
                |n: usize| &weights[n * stride..][..self.row(n).len - self.row(n).span().start * BLOCK];
            let all: [&[f32]; N] = std::array::from_fn(weights_of);
            self.strip::<V, N>(shared.clone(), all, column, &mut sums);
            for n in 0..N {
                let one = Self { first: self.first + n, ..*self };
                let rest = one.rest(&shared);
                let done = (shared.len() * BLOCK).min(all[n].len());
                one.strip::<V, 1>(rest, [&all[n][done..]], column, std::array::from_mut(&mut sums[n]));
            }
            for (n, [low, high]) in sums.into_iter().enumerate() {
                let (out, _) = out[self.place(n) + column..][..2 * LANES].as_chunks_mut::<LANES>();
                low.store(&mut out[0]);
                high.store(&mut out[1]);
            }
        }
        for n in 0..N * usize::from(strips < dim) {
            let row = self.row(n);
            let out = &mut out[self.place(n)..][strips..dim];
            out.fill(0.0);
            let weights = &weights[n * stride..][..row.len - row.span().start * BLOCK];
            for (weights, &block) in weights.chunks(BLOCK).zip(&row.blocks[row.span()]) {
                let values = &self.tile.layer.values[self.block(block)];
                for (&weight, values) in weights.iter().zip(values.chunks_exact(dim)) {
                    for (out, &value) in out.iter_mut().zip(&values[strips..]) {
                        *out = multiply_add::<FMA>(weight, value, *out);
                    }
                }
            }
        }
    }

    /// Adds the weighted values of some blocks to sums of 32 columns.
    #[inline(always)]
    fn strip<V: Lanes, const N: usize>(
        &self,
        blocks: Range<usize>,
        weights: [&[f32]; N],
        column: usize,
        sums: &mut [[V; 2]; N],
    ) {
        let dim = self.tile.head_dim;
        // A copy that nothing points to stays in registers.
        let mut kept = *sums;
        for (index, &block) in self.row(0).blocks[blocks].iter().enumerate() {
            let values = &self.tile.layer.values[self.block(block)];
            let at = index * BLOCK;
            let positions = (weights[0].len() - at).min(BLOCK);
            let mut of_block = [[0.0; BLOCK]; N];
            for (of_block, weights) in of_block.iter_mut().zip(weights) {
                of_block[..positions].copy_from_slice(&weights[at..at + positions]);
            }
            for (p, values) in values.chunks_exact(dim).enumerate().take(positions) {
                let (values, _) = values[column..column + 2 * LANES].as_chunks::<LANES>();
                let (low, high) = (V::load(&values[0]), V::load(&values[1]));
                for (kept, of_block) in kept.iter_mut().zip(&of_block) {
                    let weight = V::splat(of_block[p]);
                    *kept = [weight.mul_add(low, kept[0]), weight.mul_add(high, kept[1])];
                }
            }
        }
        *sums = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::{every_isa, noise};
    use super::super::store::Store;
    use super::*;

    #[test]
    fn attention_agrees_with_the_textbook_over_scattered_blocks() {
        for kernels in every_isa() {
            for (dim, kv_heads, group, (start, len)) in [
                (32usize, 2usize, 2usize, (0usize, 37usize)),
                (16, 1, 3, (0, 16)),
                (40, 2, 1, (0, 5)),
                (128, 1, 4, (0, 50)),
                // Windows that begin with a block, beside one and inside one,
                // and one that is the row's own position alone.
                (32, 2, 2, (16, 37)),
                (32, 1, 2, (17, 60)),
                (16, 2, 1, (31, 50)),
                (40, 1, 3, (47, 48)),
            ] {
                let blocks: Vec<BlockId> = (0..len.div_ceil(BLOCK) as u32).map(|i| 7 - i).collect();
                let mut store = Store::new(1, kv_heads, dim, 8);
                let (keys, values) = (noise(5, len * kv_heads * dim), noise(6, len * kv_heads * dim));
                let at = |p: usize| p * kv_heads * dim..(p + 1) * kv_heads * dim;
                for p in 0..len {
                    store.write(0, blocks[p / BLOCK], p % BLOCK, (&keys[at(p)], &values[at(p)]));
                }
                let query = noise(7, kv_heads * group * dim);
                let mut out = vec![f32::NAN; query.len()];
                let row = Attend { query: &query, blocks: &blocks, start, len };
                let tile = Tile { layer: store.layer(0), kv_heads, head_dim: dim, shared: 0 };
                kernels.attend(tile, &[row], &mut Vec::new(), &mut out);
                for head in 0..kv_heads * group {
                    let kv = head / group * dim;
                    let score = |p: usize| -> f64 {
                        (0..dim)
                            .map(|i| f64::from(query[head * dim + i]) * f64::from(keys[at(p)][kv + i]))
                            .sum::<f64>()
                            / (dim as f64).sqrt()
                    };
                    let total: f64 = (start..len).map(|p| score(p).exp()).sum();
                    for i in 0..dim {
                        let exact: f64 = (start..len)
                            .map(|p| score(p).exp() / total * f64::from(values[at(p)][kv + i]))
                            .sum();
                        assert!(
                            (f64::from(out[head * dim + i]) - exact).abs() < 1e-5,
                            "{kernels:?} dim {dim}"
                        );
                    }
                }
            }
        }
    }
    #[test]
    fn rows_get_the_same_bits_alone_and_in_every_tile() {
        for kernels in every_isa() {
            for (dim, kv_heads, group, window) in
                [(32usize, 2usize, 1usize, None), (64, 1, 3, None), (40, 2, 2, None), (32, 1, 2, Some(50))]
            {
                // Eleven rows over three shared blocks, each with some of its
                // own; the last ones are a prefill of the first's branch.
                let lens: [usize; 11] = [49, 50, 64, 70, 48, 95, 60, 61, 62, 63, 64];
                let mut store = Store::new(1, kv_heads, dim, 40);
                let width = kv_heads * dim;
                let (keys, values) = (noise(5, 40 * BLOCK * width), noise(6, 40 * BLOCK * width));
                for p in 0..40 * BLOCK {
                    let at = p * width..(p + 1) * width;
                    store.write(0, (p / BLOCK) as u32, p % BLOCK, (&keys[at.clone()], &values[at]));
                }
                let blocks: Vec<Vec<BlockId>> = (0..lens.len() as u32)
                    .map(|row| {
                        let own = if row < 6 { 3 + row * 3 } else { 3 };
                        (0..3).chain(own..own + 3).collect()
                    })
                    .collect();
                let queries = noise(7, lens.len() * width * group);
                let rows: Vec<Attend<'_>> = (lens.iter().zip(&blocks).zip(queries.chunks(width * group)))
                    .map(|((&len, blocks), query)| {
                        let start = window.map_or(0, |window: usize| len.saturating_sub(window));
                        Attend { query, blocks, start, len }
                    })
                    .collect();
                let tile = Tile { layer: store.layer(0), kv_heads, head_dim: dim, shared: 0 };
                let mut alone = vec![f32::NAN; queries.len()];
                for (row, out) in rows.iter().zip(alone.chunks_mut(width * group)) {
                    kernels.attend(tile, std::slice::from_ref(row), &mut Vec::new(), out);
                }
                for size in 1..=rows.len() {
                    for shared in 0..=3 {
                        let mut out = vec![f32::NAN; queries.len()];
                        let tile = Tile { shared, ..tile };
                        for (rows, out) in rows.chunks(size).zip(out.chunks_mut(size * width * group)) {
                            kernels.attend(tile, rows, &mut Vec::new(), out);
                        }
                        assert_eq!(out, alone, "{kernels:?}, tiles of {size}, {shared} blocks shared");
                    }
                }
            }
        }
    }
}
