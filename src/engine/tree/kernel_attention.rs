//! Attention of a batch's rows over KV blocks, with shared prefixes read once.
//!
//! Rows come in tiles of neighbours that list the same leading blocks: branches
//! of one prompt, or the positions of one prefill. Up to eight queries (rows
//! times the heads that share a KV head; as many as the registers hold) go over
//! shared blocks together, so that what is loaded once is used by all of them, as
//! in Hydragen (Juravsky et al., arXiv 2402.05099) and cascade inference; behind
//! the shared blocks each row goes on with its own heads. The softmax is taken
//! chunk by chunk, relative to the highest score so far (Milakov and Gimelshein,
//! arXiv 1805.02867), so that scores never leave the nearest cache.
//!
//! Every number of a row is summed in the order of the row's own dimensions and
//! positions, and chunks begin at fixed positions, whatever the tile: grouping
//! changes no bit.
//!
//! Length: the steps of one kernel, which is compiled three times, belong
//! together.

#![expect(unsafe_code, reason = "a body compiled for a detected instruction set can only be called so")]

#[cfg(target_arch = "x86_64")]
use super::kernel::Isa;
use super::kernel::{Kernels, compile, dispatch, multiply_add, power, power_of};
use super::kernel_kv::View;
#[cfg(target_arch = "x86_64")]
use super::kernel_lanes::{Avx2, Avx512};
use super::kernel_lanes::{Baseline, LANES, Lanes, accumulate, vectors, vectors_mut};
use super::kernel_tiles::share;
use super::kv::BlockId;
use super::store::BLOCK;
use std::ops::Range;

/// Rows of a tile, at most. A chunk comes from memory, or from a cache that is
/// far, once for all of them.
pub(super) const TILE: usize = 32;

/// Queries that go over a chunk together, at most: as many as have sums in
/// registers at once on any instruction set.
const QUERIES: usize = 8;

/// Positions that are scored and then weighed at a time: their keys, values and
/// scores stay in the nearest cache. Chunks begin at multiples of it, so that a
/// row's chunks do not depend on other rows.
const CHUNK: usize = 8 * BLOCK;

/// Neighbouring rows that attend together.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// The layer's KV, and the rows for which it may be read.
    pub layer: View<'a>,
    /// The first of the tile's rows, and how many there are.
    pub rows: (usize, usize),
    /// How many positions a row sees, its own included: all of them, but in a
    /// layer with a sliding window.
    pub window: Option<usize>,
    /// Leading blocks that are the same in all rows and full in all of them.
    pub shared: usize,
}

/// One row's attention over its branch's blocks.
#[derive(Debug, Clone, Copy)]
struct Attend<'a> {
    /// Queries, `[head][head dim]`.
    query: &'a [f32],
    /// The branch's blocks.
    blocks: &'a [BlockId],
    /// The first position to attend to.
    start: usize,
    /// The end of the positions to attend to, the row's own included.
    len: usize,
}

impl<'a> Tile<'a> {
    /// The tile's rows with their queries; behind them the array is filled up
    /// with the last one. Only blocks of the view's rows come to the kernel, up
    /// to the rows' positions: no others may be read.
    fn attends(&self, queries: &'a [f32]) -> [Attend<'a>; TILE] {
        let (first, size) = self.rows;
        assert!((1..=TILE).contains(&size), "a tile has at least a row, and no more than fit");
        let rows = &self.layer.rows()[first..first + size];
        let width = queries.len() / size;
        std::array::from_fn(|i| {
            let i = i.min(size - 1);
            let len = rows[i].position + 1;
            let start = self.window.map_or(0, |window| len.saturating_sub(window));
            Attend { query: &queries[i * width..(i + 1) * width], blocks: rows[i].blocks, start, len }
        })
    }
}

// Compiled once, with and without the softmax: a second instance would leave
// closures in the body with two callers, which the compiler then no longer
// inlines; each of their vector instructions would become a call.
compile!(attention, attend_body,
    (tile: Tile<'_>, rows: &[Attend<'_>], softmax: bool, scratch: &mut Vec<f32>, out: &mut [f32]),
    rows: 8, 6, 2);

impl Kernels {
    /// Scaled dot-product attention of a tile's rows; `queries` and `out` are
    /// `[row][head][head dim]`, `scratch` is reused memory.
    pub fn attend(self, tile: Tile<'_>, queries: &[f32], scratch: &mut Vec<f32>, out: &mut [f32]) {
        let rows = &tile.attends(queries)[..tile.rows.1];
        check(tile, rows, out);
        dispatch!(self.isa(), attention, tile, rows, true, scratch, out);
    }

    /// The two products of [`Kernels::attend`] without the softmax between
    /// them: what attention would cost if that were free. `out` means nothing.
    pub(super) fn attend_products(
        self,
        tile: Tile<'_>,
        queries: &[f32],
        scratch: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let rows = &tile.attends(queries)[..tile.rows.1];
        check(tile, rows, out);
        dispatch!(self.isa(), attention, tile, rows, false, scratch, out);
    }
}

fn check(tile: Tile<'_>, rows: &[Attend<'_>], out: &[f32]) {
    let width = rows.first().map_or(0, |row| row.query.len());
    let (kv_heads, dim) = (tile.layer.kv_heads(), tile.layer.head_dim());
    assert!(out.len() == rows.len() * width && width.is_multiple_of(kv_heads * dim));
    for row in rows {
        assert!(row.start < row.len && row.len <= row.blocks.len() * BLOCK, "positions lie in the blocks");
        assert!(tile.shared * BLOCK <= row.len, "shared blocks are full");
    }
}

/// Calls a method for a number of queries that the compiler knows.
macro_rules! of_height {
    ($queries:expr, $head:ident.$method:ident($part:expr)) => {
        match $queries {
            1 => $head.$method::<V, 1>($part),
            2 => $head.$method::<V, 2>($part),
            3 => $head.$method::<V, 3>($part),
            4 => $head.$method::<V, 4>($part),
            5 => $head.$method::<V, 5>($part),
            6 => $head.$method::<V, 6>($part),
            7 => $head.$method::<V, 7>($part),
            _ => $head.$method::<V, MOST>($part),
        }
    };
}

#[inline(always)]
fn attend_body<V: Lanes, const MOST: usize, const FMA: bool>(
    tile: Tile<'_>,
    rows: &[Attend<'_>],
    softmax: bool,
    scratch: &mut Vec<f32>,
    out: &mut [f32],
) {
    let width = rows.first().map_or(0, |row| row.query.len());
    let (dim, kv_heads) = (tile.layer.head_dim(), tile.layer.kv_heads());
    let group = width / (dim * kv_heads);
    let queries = rows.len() * group;
    let numbers = QUERIES * CHUNK + queries * (2 * dim + LANES + 2);
    scratch.resize(numbers + LANES, 0.0);
    // Where it can be found out, no vector of it lies in two lines of a cache.
    let line = scratch.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
    let (scores, rest) = scratch[line..][..numbers].split_at_mut(QUERIES * CHUNK);
    let (scaled, rest) = rest.split_at_mut(queries * dim);
    let (values, rest) = rest.split_at_mut(queries * dim);
    let (sums, rest) = rest.split_at_mut(queries * LANES);
    let (highest, factors) = rest.split_at_mut(queries);
    let (scores, sums) = (scores.as_chunks_mut().0, sums.as_chunks_mut().0);
    // The first part is what all rows go over together, the others are a row's own.
    let mut parts = [Part::default(); 1 + QUERIES];
    for kv_head in 0..kv_heads {
        let mut head = Head { tile, rows, kv_head, group, scores, scaled, values, sums, highest, factors };
        head.begin();
        for chunk in chunks(rows) {
            let together = together(tile, rows, chunk);
            let begun = usize::from(together.is_empty());
            if begun == 0 {
                head.blocks(&mut parts[0], 0, (chunk, together.clone()));
            }
            let mut first = 0;
            while first < queries {
                let n = share(queries - first, MOST);
                let all = together.len() == CHUNK / BLOCK;
                (parts[0].first, parts[0].queries) = (first, n);
                let count = if all { 1 } else { head.cut((first, n), chunk, &together, &mut parts) };
                for part in &parts[begun..count] {
                    of_height!(part.queries, head.scores(part));
                }
                let mut seen = (0, CHUNK);
                for n in 0..n {
                    if !all {
                        seen = head.seen(first + n, chunk);
                    }
                    head.soften::<V, FMA>((first + n, n), seen, softmax);
                }
                for part in &parts[begun..count] {
                    of_height!(part.queries, head.values(part));
                    if !dim.is_multiple_of(LANES) {
                        head.last_columns::<FMA>(part);
                    }
                }
                first += n;
            }
        }
        head.end(out);
    }
}

/// The chunks that the rows of a tile see something of.
#[inline(always)]
fn chunks(rows: &[Attend<'_>]) -> Range<usize> {
    let from = rows.iter().map(|row| row.start / CHUNK).min().unwrap_or(0);
    let to = rows.iter().map(|row| row.len.div_ceil(CHUNK)).max().unwrap_or(0);
    from..to
}

/// The leading blocks of a chunk that all rows of a tile see whole and list.
#[inline(always)]
fn together(tile: Tile<'_>, rows: &[Attend<'_>], chunk: usize) -> Range<usize> {
    let from = chunk * (CHUNK / BLOCK);
    let whole = rows.len() > 1 && rows.iter().all(|row| row.start <= chunk * CHUNK);
    let to = if whole { tile.shared.min(from + CHUNK / BLOCK) } else { from };
    from..to.max(from)
}

/// Blocks of a chunk that some queries go over together.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// The first of the queries.
    first: usize,
    /// How many.
    queries: usize,
    /// The first query's scores.
    scores: usize,
    /// The first block, counted from the chunk's.
    at: usize,
    /// Blocks.
    blocks: usize,
    /// Where each of them begins in the layer's keys and in its values; all of
    /// it lies within them.
    starts: [usize; CHUNK / BLOCK],
    /// The positions that the queries see, counted from the first block's.
    seen: (usize, usize),
    /// Whether the queries have been over blocks of this chunk before.
    again: bool,
}

/// The queries of a tile's rows that share one KV head, numbered by row and
/// then by head, and what is known of their attention so far.
struct Head<'a> {
    tile: Tile<'a>,
    rows: &'a [Attend<'a>],
    kv_head: usize,
    group: usize,
    /// Scores, then weights, of the queries that are worked on.
    scores: &'a mut [[f32; CHUNK]],
    /// The queries times the scale of scores, which are logarithms of weights
    /// to base 2, `[query][head dim]`.
    scaled: &'a mut [f32],
    /// Weighted sums of values, `[query][head dim]`.
    values: &'a mut [f32],
    /// Sums of weights, by position modulo [`LANES`].
    sums: &'a mut [[f32; LANES]],
    /// Highest scores.
    highest: &'a mut [f32],
    /// What the sums of values so far must be multiplied by.
    factors: &'a mut [f32],
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn begin(&mut self) {
        let dim = self.tile.layer.head_dim();
        let scale = std::f32::consts::LOG2_E / (dim as f32).sqrt();
        let part = self.group * dim;
        for (row, scaled) in self.rows.iter().zip(self.scaled.chunks_exact_mut(part)) {
            for (scaled, q) in scaled.iter_mut().zip(&row.query[self.kv_head * part..]) {
                *scaled = q * scale;
            }
        }
        self.values.fill(0.0);
        self.sums.fill([0.0; LANES]);
        self.highest.fill(f32::NEG_INFINITY);
    }

    #[inline(always)]
    fn end(&self, out: &mut [f32]) {
        let dim = self.tile.layer.head_dim();
        let part = self.group * dim;
        let rows = self.values.chunks_exact(part).zip(self.sums.chunks_exact(self.group));
        let width = out.len() / self.rows.len();
        for ((values, sums), out) in rows.zip(out.chunks_exact_mut(width)) {
            let out = out[self.kv_head * part..][..part].chunks_exact_mut(dim);
            for ((values, sums), out) in values.chunks_exact(dim).zip(sums).zip(out) {
                let total: f32 = sums.iter().sum();
                for (out, value) in out.iter_mut().zip(values) {
                    *out = value / total;
                }
            }
        }
    }

    /// The positions of a chunk that a query sees, counted from the chunk's first.
    #[inline(always)]
    fn seen(&self, query: usize, chunk: usize) -> (usize, usize) {
        let row = &self.rows[query / self.group];
        let begin = chunk * CHUNK;
        (row.start.max(begin) - begin, row.len.min(begin + CHUNK).max(begin) - begin)
    }

    /// Cuts what the rows of `n` queries from `first` on see of a chunk, but for the
    /// blocks that they go over together, into parts behind the first one: one for each
    /// row, so no more than there are queries. Returns how many these are with it.
    #[inline(always)]
    fn cut(
        &self,
        (first, n): (usize, usize),
        chunk: usize,
        together: &Range<usize>,
        parts: &mut [Part; 1 + QUERIES],
    ) -> usize {
        let mut count = 1;
        let (mut row, mut from) = (first / self.group, first);
        while from < first + n {
            let to = ((row + 1) * self.group).min(first + n);
            let seen = &self.rows[row];
            let start = (seen.start / BLOCK).max(together.end);
            let end = seen.len.div_ceil(BLOCK).min((chunk + 1) * (CHUNK / BLOCK));
            if start < end {
                let part = &mut parts[count];
                self.blocks(part, row, (chunk, start..end));
                (part.first, part.queries, part.scores) = (from, to - from, from - first);
                part.again = !together.is_empty();
                count += 1;
            }
            (row, from) = (row + 1, to);
        }
        count
    }

    /// Blocks of a chunk for queries all of which see them as a row does.
    #[inline(always)]
    fn blocks(&self, part: &mut Part, row: usize, (chunk, blocks): (usize, Range<usize>)) {
        let row = &self.rows[row];
        let begin = blocks.start * BLOCK;
        part.at = blocks.start - chunk * (CHUNK / BLOCK);
        part.blocks = blocks.len();
        assert!(part.at + part.blocks <= CHUNK / BLOCK, "blocks of the chunk");
        part.seen = (row.start.max(begin) - begin, row.len.min(blocks.end * BLOCK).max(begin) - begin);
        let size = self.tile.layer.head_dim() * BLOCK;
        for (start, &block) in part.starts.iter_mut().zip(&row.blocks[blocks]) {
            *start = (block as usize * self.tile.layer.kv_heads() + self.kv_head) * size;
            assert!(*start + size <= self.tile.layer.floats(), "blocks lie in the store");
        }
    }

    /// Scores of `N` queries.
    #[inline(always)]
    fn scores<V: Lanes, const N: usize>(&mut self, part: &Part) {
        let mut done = 0;
        while done < part.blocks {
            done += match share(part.blocks - done, V::at_once(N)) {
                4 => self.score::<V, N, 4>(part, done),
                3 => self.score::<V, N, 3>(part, done),
                2 => self.score::<V, N, 2>(part, done),
                _ => self.score::<V, N, 1>(part, done),
            };
        }
    }

    #[inline(always)]
    fn score<V: Lanes, const N: usize, const B: usize>(&mut self, part: &Part, at: usize) -> usize {
        let dim = self.tile.layer.head_dim();
        let starts = &part.starts[at..at + B];
        let queries = &self.scaled[part.first * dim..][..N * dim];
        let mut sums = [[V::splat(0.0); B]; N];
        // SAFETY: each of the `N` queries has `dim` floats, and each block has
        // `dim` times `BLOCK` keys from its start on, all of them checked above
        // and in `blocks`. The block is one of the row's, up to its position: the
        // view promises that nobody writes it.
        unsafe {
            let keys = std::array::from_fn(|b| self.tile.layer.keys().add(starts[b]));
            let whole = std::iter::once((queries.as_ptr(), keys, dim));
            accumulate::<V, f32, N, B>(&mut sums, (dim, BLOCK), whole);
        }
        for (n, sums) in sums.iter().enumerate() {
            let scores = &mut self.scores[part.scores + n][(part.at + at) * BLOCK..];
            for (sum, scores) in sums.iter().zip(vectors_mut::<B>(scores)) {
                sum.store(scores);
            }
        }
        B
    }

    /// Turns a query's scores of a chunk, the `n`-th ones, of which it sees some, into
    /// weights relative to the highest score so far and adds them up.
    #[inline(always)]
    fn soften<V: Lanes, const FMA: bool>(
        &mut self,
        (query, n): (usize, usize),
        (from, to): (usize, usize),
        softmax: bool,
    ) {
        if from >= to {
            return;
        }
        let before = self.highest[query];
        if !softmax {
            self.factors[query] = 1.0;
            return;
        }
        let (floor, ceiling) = (from / BLOCK * BLOCK, to.next_multiple_of(BLOCK));
        let scores = &mut self.scores[n];
        // What is outside becomes a weight too small to count.
        scores[floor..from].fill(f32::NEG_INFINITY);
        scores[to..ceiling].fill(f32::NEG_INFINITY);
        let scores = &mut scores[floor..ceiling];
        let blocks = scores.as_chunks_mut().0;
        let mut most = V::splat(before);
        for scores in &*blocks {
            most = V::load(scores).larger(most);
        }
        let highest = most.highest();
        // What is nothing yet may be multiplied by anything.
        let first = before == f32::NEG_INFINITY;
        let factor = if before == highest || first { 1.0 } else { power::<FMA>(before - highest) };
        let mut sum = V::load(&self.sums[query]).mul(V::splat(factor));
        for scores in blocks {
            let weights = power_of(V::load(scores).add(V::splat(-highest)));
            weights.store(scores);
            sum = sum.add(weights);
        }
        sum.store(&mut self.sums[query]);
        (self.highest[query], self.factors[query]) = (highest, factor);
    }

    /// Adds weighted values, over positions in order, to the sums of `N`
    /// queries, in strips of columns that stay in registers.
    #[inline(always)]
    fn values<V: Lanes, const N: usize>(&mut self, part: &Part) {
        let vectors = self.tile.layer.head_dim() / LANES;
        let mut done = 0;
        while done < vectors {
            done += match vectors - done {
                4.. if V::at_once(N) >= 4 => self.weigh::<V, N, 4>(part, done * LANES),
                2.. if V::at_once(N) >= 2 => self.weigh::<V, N, 2>(part, done * LANES),
                _ => self.weigh::<V, N, 1>(part, done * LANES),
            };
        }
    }

    #[inline(always)]
    fn weigh<V: Lanes, const N: usize, const C: usize>(&mut self, part: &Part, column: usize) -> usize {
        let dim = self.tile.layer.head_dim();
        let mut sums = [[V::splat(0.0); C]; N];
        for (n, sums) in sums.iter_mut().enumerate() {
            let factor = V::splat(if part.again { 1.0 } else { self.factors[part.first + n] });
            let before = &self.values[(part.first + n) * dim + column..];
            for (sum, before) in sums.iter_mut().zip(vectors::<C>(before)) {
                *sum = V::load(before).mul(factor);
            }
        }
        let scores = &self.scores[part.scores..][..N];
        assert!(column + C * LANES <= dim, "columns that there are");
        let blocks = part.starts[..part.blocks].iter().enumerate().map(|(b, &start)| {
            let from = part.seen.0.saturating_sub(b * BLOCK);
            let to = (part.seen.1 - b * BLOCK).min(BLOCK);
            // SAFETY: a query's scores hold a chunk, and block `at + b` is in it; a block
            // has `BLOCK` times `dim` values from its start on (both checked in `blocks`).
            let (weights, values) = unsafe {
                (
                    scores.as_ptr().cast::<f32>().add((part.at + b) * BLOCK + from),
                    self.tile.layer.values().add(start + from * dim + column),
                )
            };
            let columns = std::array::from_fn(|c| values.wrapping_add(c * LANES));
            (weights, columns, to.saturating_sub(from))
        });
        // SAFETY: positions end with the block, `to` being at most `BLOCK`, and columns
        // with the head. As for the keys, nobody writes the block.
        unsafe { accumulate::<V, f32, N, C>(&mut sums, (CHUNK, dim), blocks) };
        for (n, sums) in sums.iter().enumerate() {
            let after = &mut self.values[(part.first + n) * dim + column..];
            for (sum, after) in sums.iter().zip(vectors_mut::<C>(after)) {
                sum.store(after);
            }
        }
        C
    }

    /// The same for the columns that fill no vector.
    #[inline(always)]
    fn last_columns<const FMA: bool>(&mut self, part: &Part) {
        let dim = self.tile.layer.head_dim();
        let column = dim / LANES * LANES;
        let sums = self.values[part.first * dim..].chunks_exact_mut(dim).take(part.queries);
        for (n, sums) in sums.enumerate() {
            let factor = if part.again { 1.0 } else { self.factors[part.first + n] };
            let weights = &self.scores[part.scores + n][part.at * BLOCK..];
            let sums = &mut sums[column..];
            sums.iter_mut().for_each(|sum| *sum *= factor);
            let seen = weights.iter().enumerate().take(part.seen.1).skip(part.seen.0);
            for (p, &weight) in seen {
                let at = part.starts[p / BLOCK] + p % BLOCK * dim + column;
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the place lies in the block, and the block in the
                    // values (checked in `blocks`), where nobody writes it.
                    let value = unsafe { *self.tile.layer.values().add(at + i) };
                    *sum = multiply_add::<FMA>(weight, value, *sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::{every_isa, noise, size};
    use super::super::model::Row;
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
                // More than one chunk, and every width of a tile of queries.
                (size(32, 16), size(2, 1), 2, (0, size(300, 150))),
                (size(64, 16), 1, 7, (size(0, 110), size(257, 129))),
                (16, 1, 9, (size(130, 250), size(290, 257))),
                (size(96, 20), 1, 5, (size(100, 240), 256)),
            ]
            .into_iter()
            .step_by(size(1, 4))
            {
                let blocks: Vec<BlockId> = (0..len.div_ceil(BLOCK) as u32).map(|i| 18 - i).collect();
                let mut store = Store::new(1, kv_heads, dim, 19).expect("little memory");
                let (keys, values) = (noise(5, len * kv_heads * dim), noise(6, len * kv_heads * dim));
                let at = |p: usize| p * kv_heads * dim..(p + 1) * kv_heads * dim;
                for p in 0..len {
                    store.write(0, blocks[p / BLOCK], p % BLOCK, (&keys[at(p)], &values[at(p)]));
                }
                let query = noise(7, kv_heads * group * dim);
                let mut out = vec![f32::NAN; query.len()];
                let rows = [Row { token: 0, position: len - 1, blocks: &blocks, logits: false }];
                let window = (start > 0).then_some(len - start);
                let tile = Tile { layer: store.view(0, &rows), rows: (0, 1), window, shared: 0 };
                kernels.attend(tile, &query, &mut Vec::new(), &mut out);
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
        /// Blocks of a branch's own.
        const OWN: usize = 10;
        for kernels in every_isa() {
            let wide = size(64, 16);
            for (dim, kv_heads, group, window) in [
                (size(32, 16), 2usize, 1usize, None),
                (wide, 1, 7, None),
                (40, 2, 2, None),
                (32, 1, 2, Some(190)),
            ]
            .into_iter()
            .skip(size(0, 2))
            {
                // More rows than a tile has, over two chunks and a block that are
                // shared, each with some blocks of its own; the last ones are a
                // prefill of the first's branch.
                let common = size(2, 1) * CHUNK / BLOCK + 1;
                let prefill = 12..size(12 + TILE, 17);
                // One of them reaches into a chunk that the others do not see.
                let lens: Vec<usize> = [1, 2, 16, 22, 0, 147].into_iter().chain(prefill).collect();
                let lens: Vec<usize> = lens.iter().map(|own| common * BLOCK + own).collect();
                let all = common + 6 * OWN;
                let mut store = Store::new(1, kv_heads, dim, all).expect("little memory");
                let width = kv_heads * dim;
                let (keys, values) = (noise(5, all * BLOCK * width), noise(6, all * BLOCK * width));
                for p in 0..all * BLOCK {
                    let at = p * width..(p + 1) * width;
                    store.write(0, (p / BLOCK) as u32, p % BLOCK, (&keys[at.clone()], &values[at]));
                }
                let blocks: Vec<Vec<BlockId>> = (lens.iter().enumerate())
                    .map(|(row, len)| {
                        let own = (common + if row < 6 { row * OWN } else { 0 }) as u32;
                        let all = (0..common as u32).chain(own..own + OWN as u32);
                        all.take(len.div_ceil(BLOCK)).collect()
                    })
                    .collect();
                let queries = noise(7, lens.len() * width * group);
                let rows: Vec<Row<'_>> = (lens.iter().zip(&blocks))
                    .map(|(len, blocks)| Row { token: 0, position: len - 1, blocks, logits: false })
                    .collect();
                let layer = store.view(0, &rows);
                // Tiles of `size` rows, the last one of what is left.
                let attended = |size: usize, shared: usize| {
                    let mut out = vec![f32::NAN; queries.len()];
                    let parts = queries.chunks(size * width * group);
                    for (i, (queries, out)) in parts.zip(out.chunks_mut(size * width * group)).enumerate() {
                        let tile = (i * size, queries.len() / (width * group));
                        let tile = Tile { layer, rows: tile, window, shared };
                        kernels.attend(tile, queries, &mut Vec::new(), out);
                    }
                    out
                };
                let alone = attended(1, 0);
                for size in [1, 2, 3, 5, 8, TILE - 1, TILE].into_iter().step_by(size(1, 3)) {
                    for shared in [0, 3, CHUNK / BLOCK, common - 1, common] {
                        let out = attended(size, shared);
                        assert_eq!(out, alone, "{kernels:?}, tiles of {size}, {shared} blocks shared");
                    }
                }
            }
        }
    }
}
