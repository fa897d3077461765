//! CPU kernels: matrix product and elementwise functions. Attention is in
//! [`super::kernel_attention`].
//!
//! Every number is computed in an order that depends only on its own row: a
//! product sums over its inner dimension from first to last, attention over
//! positions from first to last. So a row's result does not depend on what else
//! is in the batch (design, invariant 6). The library's product does not keep
//! that promise: with one row it takes another path than with two.
//!
//! Each kernel is one safe body, compiled for AVX-512, for AVX2 (with FMA and F16C)
//! and for the baseline; the only unsafe thing is the call of a body whose
//! instruction set was detected at run time.
//!
//! Length: the dispatch and the bodies that it compiles three times belong
//! together.

#![expect(unsafe_code, reason = "a body compiled for a detected instruction set can only be called so")]

#[cfg(target_arch = "x86_64")]
use super::kernel_lanes::{Avx2, Avx512};
use super::kernel_lanes::{Baseline, LANES, Lanes};
use super::kernel_tiles::matrix_body;
use rayon::prelude::*;
use std::ops::Range;

/// Output columns that one panel of a packed matrix holds.
pub(super) const PANEL: usize = 32;

/// Outputs that some panels of a matrix with `n` outputs hold.
pub(super) fn outputs(n: usize, panels: &Range<usize>) -> usize {
    n.min(panels.end * PANEL) - n.min(panels.start * PANEL)
}

/// The instruction set that the kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Baseline,
}

/// The kernels for this machine. A value of this type proves that its
/// instruction set was detected.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    // Private, so that nobody else makes such a value.
    isa: Isa,
}

/// A weight matrix `[n, k]`, packed into panels of 32 outputs:
/// `[n / 32][k][32]`, the last panel padded with zeros.
#[derive(Debug)]
pub struct Packed {
    n: usize,
    k: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// Packs a row-major `[n, k]` matrix.
    #[must_use]
    pub fn new(weight: &[f32], n: usize, k: usize) -> Self {
        assert_eq!(weight.len(), n * k, "the loader has checked the shape");
        let mut packed = Self::zeros(n, k);
        packed.set_rows(0, weight);
        packed
    }

    /// A matrix of zeros, to be filled by [`Packed::set_rows`].
    #[must_use]
    pub(super) fn zeros(n: usize, k: usize) -> Self {
        Self { n, k, panels: vec![0.0; n.div_ceil(PANEL) * PANEL * k] }
    }

    /// Packs whole rows from `first` on, which begins a panel.
    pub(super) fn set_rows(&mut self, first: usize, rows: &[f32]) {
        let k = self.k.max(1);
        assert!(first.is_multiple_of(PANEL) && rows.len().is_multiple_of(k), "whole rows from a panel on");
        let panels = self.panels[first * self.k..].par_chunks_mut(PANEL * k);
        panels.zip(rows.par_chunks(PANEL * k)).for_each(|(panel, rows)| {
            for (row, weights) in rows.chunks_exact(k).enumerate() {
                for (out, &w) in panel[row..].iter_mut().step_by(PANEL).zip(weights) {
                    *out = w;
                }
            }
        });
    }

    /// Appends row `row` of the matrix as it was before packing, `k` floats.
    pub(super) fn unpack(&self, row: usize, out: &mut Vec<f32>) {
        let panel = &self.panels[row / PANEL * PANEL * self.k..][..PANEL * self.k];
        out.extend(panel.chunks_exact(PANEL).map(|weights| weights[row % PANEL]));
    }

    /// Outputs.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    #[must_use]
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Panels.
    #[must_use]
    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }
}

/// Calls a body under the detected instruction set.
macro_rules! dispatch {
    ($isa:expr, $module:ident, $($arg:expr),*) => {
        match $isa {
            // SAFETY: `Kernels::detect` builds these values only where the CPU
            // reports the features that the callee is compiled for.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { $module::avx512($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { $module::avx2($($arg),*) },
            Isa::Baseline => $module::baseline($($arg),*),
        }
    };
}

pub(super) use dispatch;

/// Compiles one body three times, each with the number of rows that its
/// instruction set has the registers for.
macro_rules! compile {
    ($module:ident, $body:ident, ($($arg:ident: $type:ty),*), rows: $wide:literal, $narrow:literal, $few:literal) => {
        mod $module {
            use super::*;
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,fma")]
            pub(super) fn avx512($($arg: $type),*) {
                $body::<Avx512, $wide, true>($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn avx2($($arg: $type),*) {
                $body::<Avx2, $narrow, true>($($arg),*);
            }
            pub(super) fn baseline($($arg: $type),*) {
                $body::<Baseline, $few, false>($($arg),*);
            }
        }
    };
}

pub(super) use compile;

compile!(product, product_body,
    (x: &[f32], rows: usize, w: &Packed, panels: Range<usize>, out: &mut [f32]), rows: 8, 6, 2);
compile!(exponentials, exponentials_body, (x: &mut [f32], shift: f32), rows: 1, 1, 1);

/// Whether what goes by the name of AVX2 here is there: with FMA and F16C, as on
/// every CPU that has it.
#[cfg(target_arch = "x86_64")]
fn avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

impl Kernels {
    /// The fastest kernels that this CPU runs.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                return Self { isa: Isa::Avx512 };
            }
            if avx2() {
                return Self { isa: Isa::Avx2 };
            }
        }
        Self { isa: Isa::Baseline }
    }

    /// The instruction set that they use.
    pub(super) fn isa(self) -> Isa {
        self.isa
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "AVX2",
            Isa::Baseline => "baseline",
        }
    }

    /// `out = x · wᵀ`: `x` is `[rows, k]`, `out` is `[rows, n]`.
    pub fn product(self, x: &[f32], rows: usize, w: &Packed, out: &mut [f32]) {
        self.product_of_panels(x, rows, (w, 0..w.panels()), out);
    }

    /// The outputs of some panels alone: `out` is `[rows, outputs of the panels]`.
    pub(super) fn product_of_panels(
        self,
        x: &[f32],
        rows: usize,
        (w, panels): (&Packed, Range<usize>),
        out: &mut [f32],
    ) {
        let n = outputs(w.n, &panels);
        assert!(x.len() == rows * w.k && out.len() == rows * n, "rows of k in, rows of n out");
        dispatch!(self.isa, product, x, rows, w, panels, out);
    }

    /// `x = exp(x - shift)`, elementwise.
    pub fn exponentials(self, x: &mut [f32], shift: f32) {
        dispatch!(self.isa, exponentials, x, shift);
    }
}

#[inline(always)]
pub(super) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn product_body<V: Lanes, const ROWS: usize, const FMA: bool>(
    x: &[f32],
    rows: usize,
    w: &Packed,
    panels: Range<usize>,
    out: &mut [f32],
) {
    let shape = (rows, w.k, outputs(w.n, &panels));
    let panels = &w.panels[panels.start * PANEL * w.k..panels.end * PANEL * w.k];
    matrix_body::<V, f32, ROWS>(x, shape, panels, out);
}

#[inline(always)]
fn exponentials_body<V: Lanes, const ROWS: usize, const FMA: bool>(x: &mut [f32], shift: f32) {
    let (whole, rest) = x.as_chunks_mut::<LANES>();
    for x in whole {
        exponential_of(V::load(x).add(V::splat(-shift))).store(x);
    }
    for x in rest {
        *x = exponential::<FMA>(*x - shift);
    }
}

/// `exp(x)` to about one unit in the last place, without branches: `x` is split
/// into `n ln 2 + r`, `exp(r)` is Cephes' polynomial, and `n` becomes the
/// exponent through the bits of a float whose last place is one. NaN stays.
#[inline(always)]
pub(super) fn exponential<const FMA: bool>(x: f32) -> f32 {
    let x = x.clamp(LOWEST, HIGHEST);
    let shifted = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = multiply_add::<FMA>(-n, LN2_LOW, multiply_add::<FMA>(-n, LN2_HIGH, x));
    let mut p = POLYNOMIAL[0];
    for c in &POLYNOMIAL[1..] {
        p = multiply_add::<FMA>(p, r, *c);
    }
    let value = multiply_add::<FMA>(p, r * r, r + 1.0);
    value * f32::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23)
}

/// The same, sixteen at once, with the same bits.
#[inline(always)]
fn exponential_of<V: Lanes>(x: V) -> V {
    let x = V::splat(HIGHEST).smaller(V::splat(LOWEST).larger(x));
    let shifted = x.mul_add(V::splat(std::f32::consts::LOG2_E), V::splat(MAGIC));
    let n = shifted.add(V::splat(-MAGIC));
    let r = n.mul_add(V::splat(-LN2_LOW), n.mul_add(V::splat(-LN2_HIGH), x));
    let mut p = V::splat(POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        p = p.mul_add(r, V::splat(*c));
    }
    let value = p.mul_add(r.mul(r), r.add(V::splat(1.0)));
    value.mul(shifted.power_of_two(MAGIC.to_bits()))
}

/// `2^x` for `x` of at most 0, sixteen at once: Cephes' `exp2f` on the
/// fraction. What lies below the normal floats becomes the smallest of them;
/// NaN stays.
#[inline(always)]
pub(super) fn power_of<V: Lanes>(x: V) -> V {
    let x = V::splat(-126.0).larger(x);
    let shifted = x.add(V::splat(MAGIC));
    let r = V::splat(-1.0).mul_add(shifted.add(V::splat(-MAGIC)), x);
    let mut p = V::splat(FRACTION[0]);
    for c in &FRACTION[1..] {
        p = p.mul_add(r, V::splat(*c));
    }
    p.mul(shifted.power_of_two(MAGIC.to_bits()))
}

/// The same for one number, with the same bits.
#[inline(always)]
pub(super) fn power<const FMA: bool>(x: f32) -> f32 {
    let x = if x < -126.0 { -126.0 } else { x };
    let shifted = x + MAGIC;
    let r = x - (shifted - MAGIC);
    let mut p = FRACTION[0];
    for c in &FRACTION[1..] {
        p = multiply_add::<FMA>(p, r, *c);
    }
    p * f32::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23)
}

const FRACTION: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];
const LOWEST: f32 = -87.0;
const HIGHEST: f32 = 88.0;
const MAGIC: f32 = 12_582_912.0; // 1.5 · 2²³
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
const POLYNOMIAL: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::rng::uniform;

    pub(in super::super) fn noise(key: u64, n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| uniform(key, i) as f32 * 2.0 - 1.0).collect()
    }

    pub(in super::super) fn every_isa() -> Vec<Kernels> {
        let mut all = vec![Kernels { isa: Isa::Baseline }];
        #[cfg(target_arch = "x86_64")]
        {
            let best = Kernels::detect().isa;
            if best == Isa::Avx512 {
                all.push(Kernels { isa: Isa::Avx512 });
            }
            if best != Isa::Baseline && avx2() {
                all.push(Kernels { isa: Isa::Avx2 });
            }
        }
        all
    }

    /// A size, smaller where Miri interprets the kernels: places in memory are
    /// what it is there for, and those repeat.
    pub(in super::super) fn size(whole: usize, under_miri: usize) -> usize {
        if cfg!(miri) { under_miri } else { whole }
    }

    #[test]
    fn products_agree_with_double_precision_for_every_shape_and_instruction_set() {
        for kernels in every_isa() {
            let (wide, high) = (size(640, 96), size(17, 11));
            for (rows, k, n) in
                [(1, 1, 1), (3, 7, 33), (8, 64, 32), (9, size(128, 20), wide), (high, 48, 112)]
            {
                let (x, weight) = (noise(1, rows * k), noise(2, n * k));
                let mut out = vec![f32::NAN; rows * n];
                kernels.product(&x, rows, &Packed::new(&weight, n, k), &mut out);
                for r in 0..rows {
                    for c in 0..n {
                        let exact: f64 =
                            (0..k).map(|i| f64::from(x[r * k + i]) * f64::from(weight[c * k + i])).sum();
                        let error = (f64::from(out[r * n + c]) - exact).abs();
                        assert!(error < 1e-5 * (k as f64).sqrt(), "{kernels:?} {rows}x{k}x{n}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_gets_the_same_bits_alone_and_in_any_batch() {
        for kernels in every_isa() {
            let (k, n, rows) = (size(384, 9), size(150, 70), size(23, 10));
            let x = noise(3, rows * k);
            let weight = Packed::new(&noise(4, n * k), n, k);
            let mut whole = vec![0.0; rows * n];
            kernels.product(&x, rows, &weight, &mut whole);
            for size in 1..rows {
                let mut part = vec![0.0; size * n];
                kernels.product(&x[..size * k], size, &weight, &mut part);
                assert_eq!(part, whole[..size * n], "{kernels:?}, {size} rows");
            }
        }
    }

    #[test]
    fn the_panels_of_a_matrix_give_its_product_in_parts() {
        for kernels in every_isa() {
            let (k, n, rows) = (48, 112, 5);
            let (x, weight) = (noise(8, rows * k), Packed::new(&noise(9, n * k), n, k));
            let mut whole = vec![0.0; rows * n];
            kernels.product(&x, rows, &weight, &mut whole);
            for panels in [0..1, 1..3, 3..4, 2..2] {
                let (first, width) = (panels.start * PANEL, outputs(weight.n, &panels));
                let mut part = vec![f32::NAN; rows * width];
                kernels.product_of_panels(&x, rows, (&weight, panels.clone()), &mut part);
                let expected = whole.chunks_exact(n).flat_map(|row| &row[first..first + width]);
                assert!(part.iter().eq(expected), "{kernels:?}, panels {panels:?}");
            }
        }
    }

    #[test]
    fn exponentials_are_accurate_to_two_units_in_the_last_place() {
        for kernels in every_isa() {
            let steps = size(20_000, 133);
            let x: Vec<f32> = (0..steps).map(|i| -80.0 + i as f32 * (160.0 / steps as f32)).collect();
            let mut y = x.clone();
            kernels.exponentials(&mut y, 0.0);
            for (x, y) in x.iter().zip(&y) {
                let (x, y) = (*x, *y);
                let exact = f64::from(x).exp();
                assert!((f64::from(y) / exact - 1.0).abs() < 2.5e-7, "{kernels:?}: exp({x}) = {y}");
            }
            // The last few numbers of a slice are taken one by one.
            let mut alone = x.clone();
            alone.iter_mut().for_each(|x| kernels.exponentials(std::slice::from_mut(x), 0.0));
            assert_eq!(alone, y, "{kernels:?}");
            let mut odd = [f32::NAN; 17];
            kernels.exponentials(&mut odd, 0.0);
            assert!(odd.iter().all(|x| x.is_nan()), "{kernels:?}: what is not a number stays so");
        }
    }

    #[test]
    fn powers_of_two_are_accurate_and_the_same_one_by_one() {
        let steps = size(20_000, 50);
        for i in 0..steps {
            let x = i as f32 * (-126.0 / steps as f32);
            let mut lanes = [0.0; LANES];
            power_of(Baseline::splat(x)).store(&mut lanes);
            assert_eq!(lanes, [power::<false>(x); LANES]);
            for y in [power::<true>(x), power::<false>(x)] {
                assert!((f64::from(y) / f64::from(x).exp2() - 1.0).abs() < 2.5e-7, "2^{x} = {y}");
            }
        }
        assert_eq!([power::<true>(0.0), power::<false>(0.0)], [1.0; 2]);
        assert_eq!(power::<true>(f32::NEG_INFINITY), f32::MIN_POSITIVE);
        assert!(power::<true>(f32::NAN).is_nan());
    }
}
