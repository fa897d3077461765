//! The product with a matrix of 16-bit floats, which are widened on their way
//! into a register. That is exact, so the result is that of the matrix of floats
//! to the bit; and it is faster for any number of rows, because half as much has
//! to come from the caches or from memory.

#![expect(unsafe_code, reason = "bodies for a detected instruction set, and bytes read as numbers")]

use super::halves::{Half, Halves};
use super::kernel::{Isa, Kernels, compile, dispatch, outputs};
use super::kernel_codes::{Bf16, Codes, F16};
use super::kernel_lanes::Baseline;
#[cfg(target_arch = "x86_64")]
use super::kernel_lanes::{Avx2, Avx512};
use super::kernel_tiles::matrix_body;
use std::ops::Range;

compile!(multiply, multiply_body,
    (x: &[f32], rows: usize, w: &Halves, panels: Range<usize>, out: &mut [f32]), rows: 8, 6, 2);

impl Kernels {
    /// The outputs of some panels: `x` is `[rows, k]`, `out` is
    /// `[rows, outputs of the panels]`.
    pub(super) fn product_of_halves(
        self,
        x: &[f32],
        rows: usize,
        (w, panels): (&Halves, Range<usize>),
        out: &mut [f32],
    ) {
        let n = outputs(w.n(), &panels);
        assert!(x.len() == rows * w.k() && out.len() == rows * n, "rows of k in, rows of n out");
        dispatch!(self.isa(), multiply, x, rows, w, panels, out);
    }
}

#[inline(always)]
fn multiply_body<V: Codes, const ROWS: usize, const FMA: bool>(
    x: &[f32],
    rows: usize,
    w: &Halves,
    panels: Range<usize>,
    out: &mut [f32],
) {
    let shape = (rows, w.k(), outputs(w.n(), &panels));
    let bytes = w.panels(panels).as_flattened();
    // SAFETY: both types are two bytes of any value, and need no alignment: the
    // bytes are a whole number of them.
    unsafe {
        match w.half() {
            Half::F16 => matrix_body::<V, F16, ROWS>(x, shape, bytes.align_to().1, out),
            Half::Bf16 => matrix_body::<V, Bf16, ROWS>(x, shape, bytes.align_to().1, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::{every_isa, noise, size};
    use super::super::kernel::{PANEL, Packed};
    use super::*;

    #[test]
    fn a_product_is_that_of_the_widened_weights() {
        for half in [Half::F16, Half::Bf16] {
            // A pair of panels, a whole and a broken one.
            let (n, k) = (size(3 * PANEL + 3, 3), size(133, 9));
            let bytes: Vec<u8> = (noise(1, n * k).iter())
                .flat_map(|x| match half {
                    Half::Bf16 => ((x.to_bits() >> 16) as u16).to_le_bytes(),
                    // Bits of any half whose exponent is not the highest.
                    Half::F16 => (((x.to_bits() >> 8) as u16) & 0xBBFF).to_le_bytes(),
                })
                .collect();
            let mut matrix = Halves::zeros(half, n, k);
            matrix.set_rows(0, &bytes);
            let mut floats = Vec::new();
            (0..n).for_each(|row| matrix.unpack(row, &mut floats));
            assert!(floats.iter().any(|x| *x > 0.0) && floats.iter().any(|x| *x < 0.0), "{half:?}");
            let floats = Packed::new(&floats, n, k);
            for kernels in every_isa() {
                for rows in [1, 2, 8, 11].into_iter().take(size(4, 2)) {
                    let x = noise(3, rows * k);
                    let (mut expected, mut found) = (vec![0.0; rows * n], vec![f32::NAN; rows * n]);
                    kernels.product(&x, rows, &floats, &mut expected);
                    kernels.product_of_halves(&x, rows, (&matrix, 0..n.div_ceil(PANEL)), &mut found);
                    assert_eq!(found, expected, "{half:?} {kernels:?} {rows} rows");
                }
            }
        }
    }
}
