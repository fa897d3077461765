//! What is done to rows between products: norms, rotations, the gate and sums.
//!
//! Each is a plain loop over numbers that do not depend on each other, which the
//! compiler vectorises for every instruction set. Nothing here knows how many rows
//! there are.

#![expect(unsafe_code, reason = "a body compiled for a detected instruction set can only be called so")]

#[cfg(target_arch = "x86_64")]
use super::kernel::Isa;
use super::kernel::{Kernels, compile, dispatch, exponential};
#[cfg(target_arch = "x86_64")]
use super::kernel_lanes::{Avx2, Avx512};
use super::kernel_lanes::{Baseline, LANES, Lanes};

compile!(norm, norm_body, (x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]), rows: 1, 1, 1);
compile!(norm_heads, norm_heads_body, (heads: &mut [f32], weight: &[f32], epsilon: f32), rows: 1, 1, 1);
compile!(rotate, rotate_body, (heads: &mut [f32], dim: usize, turns: &[f32]), rows: 1, 1, 1);
compile!(gate, gate_body, (gate: &mut [f32], up: &[f32]), rows: 1, 1, 1);
compile!(add, add_body, (x: &mut [f32], y: &[f32]), rows: 1, 1, 1);

impl Kernels {
    /// `out = x / rms(x) * weight` for rows as long as `weight` (Zhang and Sennrich,
    /// arXiv 1910.07467).
    pub(super) fn rms_norm(self, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "as many rows out as in");
        dispatch!(self.isa(), norm, x, weight, epsilon, out);
    }

    /// The same for every head of some rows, in place: `weight` has one number per
    /// float of a head.
    pub(super) fn rms_norm_heads(self, heads: &mut [f32], weight: &[f32], epsilon: f32) {
        dispatch!(self.isa(), norm_heads, heads, weight, epsilon);
    }

    /// Rotates the heads of some rows in place; pairs lie half a head apart (RoPE as
    /// Hugging Face's Llama applies it). `turns` has `dim` numbers for every row, the
    /// cosines of the pairs and then their sines.
    pub(super) fn rotate(self, heads: &mut [f32], dim: usize, turns: &[f32]) {
        dispatch!(self.isa(), rotate, heads, dim, turns);
    }

    /// `gate = silu(gate) * up`, elementwise.
    pub fn silu_gate(self, gate: &mut [f32], up: &[f32]) {
        dispatch!(self.isa(), gate, gate, up);
    }

    /// `x = x + y`, elementwise.
    pub(super) fn add(self, x: &mut [f32], y: &[f32]) {
        dispatch!(self.isa(), add, x, y);
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], epsilon: f32) -> f32 {
    // Side by side: one after the other, each sum would wait for the one before it.
    let square = |v: f32| f64::from(v) * f64::from(v);
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += square(*v);
        }
    }
    let sum = lanes.iter().sum::<f64>() + rest.iter().map(|v| square(*v)).sum::<f64>();
    let square = sum / x.len().max(1) as f64;
    (1.0 / (square + f64::from(epsilon)).sqrt()) as f32
}

#[inline(always)]
fn norm_body<V: Lanes, const ROWS: usize, const FMA: bool>(
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    let hidden = weight.len().max(1);
    for (x, out) in x.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
        let scale = inverse_rms(x, epsilon);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

#[inline(always)]
fn norm_heads_body<V: Lanes, const ROWS: usize, const FMA: bool>(
    heads: &mut [f32],
    weight: &[f32],
    epsilon: f32,
) {
    for head in heads.chunks_exact_mut(weight.len().max(1)) {
        let scale = inverse_rms(head, epsilon);
        for (x, weight) in head.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
    }
}

#[inline(always)]
fn rotate_body<V: Lanes, const ROWS: usize, const FMA: bool>(heads: &mut [f32], dim: usize, turns: &[f32]) {
    let rows = turns.len() / dim.max(1);
    let width = heads.len() / rows.max(1);
    for (row, turns) in heads.chunks_exact_mut(width.max(1)).zip(turns.chunks_exact(dim.max(1))) {
        let (cosines, sines) = turns.split_at(dim / 2);
        for head in row.chunks_exact_mut(dim) {
            let (low, high) = head.split_at_mut(dim / 2);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(cosines.iter().zip(sines)) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[inline(always)]
fn gate_body<V: Lanes, const ROWS: usize, const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exponential::<FMA>(-*gate)) * up;
    }
}

#[inline(always)]
fn add_body<V: Lanes, const ROWS: usize, const FMA: bool>(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::{every_isa, noise};

    fn close(found: &[f32], expected: impl Iterator<Item = f64>, what: &str) {
        let mut count = 0;
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{what}: {found} {expected}"
            );
            count += 1;
        }
        assert_eq!(count, found.len());
    }

    #[test]
    fn norms_are_those_of_the_paper_for_every_row_and_head() {
        for kernels in every_isa() {
            // Whole vectors, and a width that is none.
            for (rows, hidden) in [(1, 16), (3, 37), (2, 128)] {
                let (x, weight) = (noise(1, rows * hidden), noise(2, hidden));
                let mut out = vec![f32::NAN; rows * hidden];
                kernels.rms_norm(&x, &weight, 1e-6, &mut out);
                let expected = x.chunks_exact(hidden).flat_map(|row| {
                    let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / hidden as f64;
                    let rms = (mean + 1e-6).sqrt();
                    row.iter().zip(&weight).map(move |(x, w)| f64::from(*x) / rms * f64::from(*w))
                });
                close(&out, expected, "norm");
                let mut heads = x.clone();
                kernels.rms_norm_heads(&mut heads, &weight, 1e-6);
                assert_eq!(heads, out, "{kernels:?}");
                let mut alone = vec![f32::NAN; hidden];
                kernels.rms_norm(&x[..hidden], &weight, 1e-6, &mut alone);
                assert_eq!(alone, out[..hidden], "a row does not depend on the others");
            }
        }
    }

    #[test]
    fn every_head_of_a_row_turns_by_the_angles_of_its_row() {
        for kernels in every_isa() {
            for (rows, heads, dim) in [(1, 1, 2), (2, 3, 10), (3, 2, 64)] {
                let x = noise(3, rows * heads * dim);
                let angle = |row: usize, pair: usize| (row * 7 + pair) as f64 * 0.3;
                let turns: Vec<f32> = (0..rows)
                    .flat_map(|row| {
                        let pairs =
                            move |f: fn(f64) -> f64| (0..dim / 2).map(move |pair| f(angle(row, pair)) as f32);
                        pairs(f64::cos).chain(pairs(f64::sin))
                    })
                    .collect();
                let mut found = x.clone();
                kernels.rotate(&mut found, dim, &turns);
                let expected = (0..x.len()).map(|i| {
                    let (row, at) = (i / (heads * dim), i % dim);
                    let pair = at % (dim / 2);
                    let (low, high) = (i - at + pair, i - at + pair + dim / 2);
                    let (a, b) = (f64::from(x[low]), f64::from(x[high]));
                    let (sin, cos) = angle(row, pair).sin_cos();
                    if at < dim / 2 { a * cos - b * sin } else { b * cos + a * sin }
                });
                close(&found, expected, "rotation");
            }
        }
    }

    #[test]
    fn the_gate_and_the_sum_are_those_of_each_number() {
        for kernels in every_isa() {
            let (x, y) = (noise(4, 37), noise(5, 37));
            let (mut gate, mut sum) = (x.clone(), x.clone());
            kernels.silu_gate(&mut gate, &y);
            kernels.add(&mut sum, &y);
            let pairs = || x.iter().zip(&y).map(|(x, y)| (f64::from(*x), f64::from(*y)));
            close(&gate, pairs().map(|(x, y)| x / (1.0 + (-x).exp()) * y), "gate");
            close(&sum, pairs().map(|(x, y)| x + y), "sum");
        }
    }
}
