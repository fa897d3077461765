//! The product of rows with a packed matrix, in tiles whose sums stay in registers.
//!
//! A tile of every height, and every strip of columns, sums over the inner dimension
//! from first to last: how rows fall into tiles changes no bit.

#![expect(unsafe_code, reason = "an inner loop whose bounds are checked before it")]

use super::kernel::PANEL;
use super::kernel_lanes::{LANES, Lanes, Number, accumulate, vectors, vectors_mut};
use std::ops::Range;

/// `out = x · wᵀ` for `rows` rows of `k` in and of `n` out, `panels` being `w` in
/// panels.
#[inline(always)]
pub(super) fn matrix_body<V: Lanes, W: Number<V>, const ROWS: usize>(
    x: &[f32],
    (rows, k, n): (usize, usize, usize),
    panels: &[W],
    out: &mut [f32],
) {
    let done = match rows {
        1 if V::at_once(1) >= 4 => pairs_body::<V, W, 1>(x, (k, n), panels, out),
        2 if V::at_once(2) >= 4 => pairs_body::<V, W, 2>(x, (k, n), panels, out),
        3 if V::at_once(3) >= 4 => pairs_body::<V, W, 3>(x, (k, n), panels, out),
        4 if V::at_once(4) >= 4 => pairs_body::<V, W, 4>(x, (k, n), panels, out),
        _ => 0,
    };
    for (index, panel) in panels.chunks_exact((PANEL * k).max(1)).enumerate().skip(done) {
        let column = index * PANEL;
        let width = PANEL.min(n - column);
        let mut row = 0;
        while row < rows {
            let tile = share(rows - row, ROWS);
            let out = &mut out[row * n + column..];
            tile_body::<V, W, ROWS, false>(&x[row * k..], k, panel, out, (tile, n, width));
            row += tile;
        }
    }
}

/// The same for as many rows as keep the sums of two panels in registers, panels two by
/// two: with those of one alone, each product would wait for the one before it. Returns
/// how many panels that were; what is left is no whole pair.
#[inline(always)]
fn pairs_body<V: Lanes, W: Number<V>, const ROWS: usize>(
    x: &[f32],
    (k, n): (usize, usize),
    panels: &[W],
    out: &mut [f32],
) -> usize {
    assert_eq!(x.len(), ROWS * k, "rows that there are");
    let mut done = 0;
    for pair in panels.chunks_exact((2 * PANEL * k).max(1)) {
        let column = done * PANEL;
        if column + 2 * PANEL > n {
            break;
        }
        let mut sums = [[V::splat(0.0); 4]; ROWS];
        let strip = std::array::from_fn(|c| pair.as_ptr().wrapping_add(c / 2 * PANEL * k + c % 2 * LANES));
        // SAFETY: each of the `ROWS` rows has `k` floats, and each of the two panels has
        // `k` times two vectors: all that `accumulate` reads, `k` being its length.
        unsafe {
            accumulate::<V, W, ROWS, 4>(&mut sums, (k, PANEL), std::iter::once((x.as_ptr(), strip, k)));
        }
        for (r, sums) in sums.iter().enumerate() {
            for (sum, out) in sums.iter().zip(vectors_mut::<4>(&mut out[r * n + column..])) {
                sum.store(out);
            }
        }
        done += 2;
    }
    done
}

/// How many of `n` rows go together where at most `most` can: the first of
/// shares of about the same size.
#[inline(always)]
pub(super) fn share(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1))
}

/// Outputs of `tile` rows, at most `ROWS`: `out[r * n + j]` becomes the sum of
/// `x[r * apart + i] * weights[i][j]` over every `i` in order, `weights` being
/// `[i][32]` and `j` below `width`; where it goes `ON`, the sum begins with what
/// is there, for a whole panel. A tile of every height sums in the same order, so how rows fall into
/// tiles changes no bit.
#[inline(always)]
pub(super) fn tile_body<V: Lanes, W: Number<V>, const ROWS: usize, const ON: bool>(
    x: &[f32],
    apart: usize,
    weights: &[W],
    out: &mut [f32],
    (tile, n, width): (usize, usize, usize),
) {
    let shape = (n, width);
    match tile {
        1 => rows_body::<V, W, 1, ON>(x, apart, weights, out, shape),
        2 => rows_body::<V, W, 2, ON>(x, apart, weights, out, shape),
        3 => rows_body::<V, W, 3, ON>(x, apart, weights, out, shape),
        4 => rows_body::<V, W, 4, ON>(x, apart, weights, out, shape),
        5 => rows_body::<V, W, 5, ON>(x, apart, weights, out, shape),
        6 => rows_body::<V, W, 6, ON>(x, apart, weights, out, shape),
        7 => rows_body::<V, W, 7, ON>(x, apart, weights, out, shape),
        _ => rows_body::<V, W, ROWS, ON>(x, apart, weights, out, shape),
    }
}

/// The same for a number of rows that the compiler knows, in as many strips of
/// columns as the registers ask for.
#[inline(always)]
fn rows_body<V: Lanes, W: Number<V>, const ROWS: usize, const ON: bool>(
    x: &[f32],
    apart: usize,
    weights: &[W],
    out: &mut [f32],
    (n, width): (usize, usize),
) {
    if V::at_once(ROWS) >= 2 {
        strip_body::<V, W, ROWS, 2, ON>(x, apart, weights, out, (n, 0..width));
        return;
    }
    strip_body::<V, W, ROWS, 1, ON>(x, apart, weights, out, (n, 0..width.min(LANES)));
    if width > LANES {
        strip_body::<V, W, ROWS, 1, ON>(x, apart, weights, out, (n, LANES..width));
    }
}

#[inline(always)]
fn strip_body<V: Lanes, W: Number<V>, const ROWS: usize, const C: usize, const ON: bool>(
    x: &[f32],
    apart: usize,
    weights: &[W],
    out: &mut [f32],
    (n, columns): (usize, Range<usize>),
) {
    let (inner, first) = (weights.len() / PANEL, columns.start);
    assert!(x.len() >= (ROWS - 1) * apart + inner, "rows that there are");
    assert!(first + C * LANES <= PANEL, "columns of a panel");
    let mut sums = [[V::splat(0.0); C]; ROWS];
    assert!(!ON || columns.len() == C * LANES, "sums that go on are those of a whole panel");
    if ON {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (sum, out) in sums.iter_mut().zip(vectors::<C>(&out[r * n + first..])) {
                *sum = V::load(out);
            }
        }
    }
    let strip = std::array::from_fn(|c| weights.as_ptr().wrapping_add(first + c * LANES));
    // SAFETY: each of the `ROWS` rows has `inner` floats from its start on, and
    // each of the `inner` times `PANEL` weights has `C` vectors from `first` on;
    // both are checked above.
    unsafe {
        let whole = std::iter::once((x.as_ptr(), strip, inner));
        accumulate::<V, W, ROWS, C>(&mut sums, (apart, PANEL), whole);
    };
    // By reference: an array that is iterated by value is copied through memory first,
    // from places that were just written in other pieces, which takes as long as a third
    // of a short sum.
    for (r, sums) in sums.iter().enumerate() {
        let out = &mut out[r * n..][columns.clone()];
        if out.len() == C * LANES {
            for (sum, out) in sums.iter().zip(vectors_mut::<C>(out)) {
                sum.store(out);
            }
            continue;
        }
        let mut lanes = [[0.0; LANES]; C];
        for (sum, lanes) in sums.iter().zip(&mut lanes) {
            sum.store(lanes);
        }
        out.copy_from_slice(&lanes.as_flattened()[..out.len()]);
    }
}
