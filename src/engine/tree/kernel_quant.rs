//! The product with a quantised matrix.
//!
//! A piece of a panel is turned into floats, which stay in the nearest cache,
//! and all rows are multiplied with it; then comes the next piece. Each sum
//! runs over the inner dimension from first to last, exactly as in
//! [`super::kernel`]: the result is that of the dequantised matrix to the bit,
//! for any number of rows.

#![expect(unsafe_code, reason = "a body compiled for a detected instruction set can only be called so")]

use super::kernel::{Isa, Kernels, PANEL, compile, dispatch, outputs};
use super::kernel_codes::Codes;
#[cfg(target_arch = "x86_64")]
use super::kernel_lanes::{Avx2, Avx512};
use super::kernel_lanes::{Baseline, LANES};
use super::kernel_tiles::{share, tile_body};
use super::quant::{Format, QuantType, Quantised, UNIT};
use std::ops::Range;

/// Units that are floats at once: 16 KiB.
const UNITS: usize = 4;

/// Floats of a unit of a panel.
const FLOATS: usize = UNIT * PANEL;

compile!(multiply, multiply_body,
    (x: &[f32], rows: usize, w: &Quantised, panels: Range<usize>, out: &mut [f32]), rows: 8, 6, 2);

impl Kernels {
    /// The outputs of some panels of a quantised matrix: `x` is `[rows, k]`,
    /// `out` is `[rows, outputs of the panels]`.
    pub(super) fn product_of_quantised(
        self,
        x: &[f32],
        rows: usize,
        (w, panels): (&Quantised, Range<usize>),
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
    w: &Quantised,
    panels: Range<usize>,
    out: &mut [f32],
) {
    let (k, kind) = (w.k(), w.kind());
    let n = outputs(w.n(), &panels);
    let bytes = kind.format().bytes();
    let per_block = kind.block() / UNIT;
    let units = k / UNIT;
    let mut piece = [0.0; UNITS * FLOATS];
    let mut sums = vec![[0.0; PANEL]; rows];
    let blocks = w.panels(panels);
    for (index, panel) in blocks.chunks_exact((k / kind.block() * bytes).max(1)).enumerate() {
        sums.fill([0.0; PANEL]);
        let mut first = 0;
        while first < units {
            let count = UNITS.min(units - first);
            for (unit, floats) in (first..first + count).zip(piece.as_chunks_mut::<FLOATS>().0) {
                let block = &panel[unit / per_block * bytes..][..bytes];
                let unit = unit % per_block;
                match kind {
                    QuantType::Q4_0 => unit_body::<V, Q4_0>(block, unit, floats),
                    QuantType::Q4_1 => unit_body::<V, Q4_1>(block, unit, floats),
                    QuantType::Q5_0 => unit_body::<V, Q5_0>(block, unit, floats),
                    QuantType::Q5_1 => unit_body::<V, Q5_1>(block, unit, floats),
                    QuantType::Q8_0 => unit_body::<V, Q8_0>(block, unit, floats),
                    QuantType::Q4K => unit_body::<V, Q4K>(block, unit, floats),
                    QuantType::Q5K => unit_body::<V, Q5K>(block, unit, floats),
                    QuantType::Q6K => unit_body::<V, Q6K>(block, unit, floats),
                }
            }
            let piece = &piece[..count * FLOATS];
            let mut row = 0;
            while row < rows {
                let tile = share(rows - row, ROWS);
                let x = &x[row * k + first * UNIT..];
                let sums = sums[row..].as_flattened_mut();
                tile_body::<V, f32, ROWS, true>(x, k, piece, sums, (tile, PANEL, PANEL));
                row += tile;
            }
            first += count;
        }
        let column = index * PANEL;
        let width = PANEL.min(n - column);
        for (r, sums) in sums.iter().enumerate() {
            out[r * n + column..][..width].copy_from_slice(&sums[..width]);
        }
    }
}

/// A format that the compiler knows.
trait Known {
    const FORMAT: Format;
}

macro_rules! known {
    ($($name:ident),*) => {$(
        enum $name {}

        impl Known for $name {
            const FORMAT: Format = QuantType::$name.format();
        }
    )*};
}

known!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K);

/// Turns one unit of a panel's block into floats, `[UNIT][PANEL]`.
#[inline(always)]
fn unit_body<V: Codes, F: Known>(block: &[u8], unit: usize, out: &mut [f32; FLOATS]) {
    const SIDES: usize = PANEL / LANES;
    /// Codes that share a byte of every plane.
    const RUN: usize = 8;
    let format = const { F::FORMAT };
    let parts = const { F::FORMAT.parts() };
    let (low_size, high_size) =
        const { (UNIT * F::FORMAT.low / 8 * PANEL, UNIT * F::FORMAT.high / 8 * PANEL) };
    // Of lengths that the compiler knows, so that it checks bounds once.
    let (low, _) = block[parts.low + unit * low_size..][..low_size].as_chunks::<LANES>();
    let (high, _) = block[parts.high + unit * high_size..][..high_size].as_chunks::<LANES>();
    let (out, _) = out.as_chunks_mut::<LANES>();
    let entries = |from: usize, group: usize, side: usize| -> &[u8; LANES] {
        let from = from + group * PANEL + side * LANES;
        block[from..].first_chunk().expect("parts lie within a block of the format")
    };
    for side in 0..SIDES {
        let halves = |from: usize| -> V {
            let halves = block[from + 2 * side * LANES..].first_chunk();
            V::halves(halves.expect("parts lie within a block of the format"))
        };
        let whole = halves(0);
        let by = if format.offset { halves(parts.offset) } else { whole };
        for run in 0..UNIT / RUN {
            let group = (unit * UNIT + run * RUN) / format.group;
            let (scale, offset) = match (format.groups(), format.offset) {
                (0, _) => (whole, by),
                (_, true) => {
                    let number = |from| V::bits(entries(from, group, side), 0, 0xFF);
                    let offset = by.mul(number(parts.offsets)).mul(V::splat(-1.0));
                    (whole.mul(number(parts.scales)), offset)
                }
                (_, false) => (whole.mul(V::signed(entries(parts.scales, group, side))), by),
            };
            for i in 0..RUN {
                let place = run * RUN + i;
                let code = if format.signed {
                    V::signed(&low[place * SIDES + side])
                } else {
                    let low = V::bits(&low[place / 2 * SIDES + side], (i % 2 * 4) as u32, 15);
                    let sixteen = V::splat(16.0);
                    let code = match format.high {
                        0 => low,
                        1 => V::bits(&high[run * SIDES + side], i as u32, 1).mul_add(sixteen, low),
                        _ => {
                            let high = &high[place / 4 * SIDES + side];
                            V::bits(high, (i % 4 * 2) as u32, 3).mul_add(sixteen, low)
                        }
                    };
                    if format.zero == 0.0 { code } else { code.add(V::splat(format.zero)) }
                };
                let weight = code.mul(scale);
                let weight = if format.offset { weight.add(offset) } else { weight };
                weight.store(&mut out[place * SIDES + side]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::Packed;
    use super::super::kernel::tests::{every_isa, noise, size};
    use super::*;

    // What the weights are is tested against GGML's in `quant`; this test needs
    // no library, so that it runs under Miri.
    #[test]
    fn a_product_is_that_of_the_weights_as_they_are_unpacked() {
        for kind in QuantType::ALL {
            // A whole and a broken piece of units, where the block allows it.
            let (n, k) = (size(PANEL + 3, 3), kind.block().max((UNITS + 1) * UNIT));
            let bytes = n * k / kind.block() * kind.block_bytes();
            // No half with the highest exponent, so that all products are numbers.
            let finite = |byte: u8| if byte & 0x7C == 0x7C { byte ^ 0x40 } else { byte };
            let bytes: Vec<u8> = (0..bytes).map(|i| finite((i * 37 % 251) as u8)).collect();
            let mut matrix = Quantised::zeros(kind, n, k);
            matrix.set_rows(0, &bytes);
            let mut floats = Vec::new();
            (0..n).for_each(|row| matrix.unpack(row, &mut floats));
            let floats = Packed::new(&floats, n, k);
            for kernels in every_isa() {
                for rows in [size(1, 2), 8, 11].into_iter().take(size(3, 1)) {
                    let x = noise(3, rows * k);
                    let (mut expected, mut found) = (vec![0.0; rows * n], vec![f32::NAN; rows * n]);
                    kernels.product(&x, rows, &floats, &mut expected);
                    kernels.product_of_quantised(&x, rows, (&matrix, 0..n.div_ceil(PANEL)), &mut found);
                    assert_eq!(found, expected, "{} {kernels:?} {rows} rows", kind.name());
                }
            }
        }
    }
}
