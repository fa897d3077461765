//! Matrices whose weights stay quantised in memory.
//!
//! The codes and scales are those of GGML's block formats (llama.cpp,
//! `ggml-common.h`), laid out anew: 32 rows of the matrix are a panel, as in
//! [`Packed`](super::kernel::Packed), so that a vector of codes belongs to
//! neighbouring outputs and becomes floats without a shuffle. What a code stands
//! for is the same number as in GGML, to the bit; the product is then that of
//! the floats ([`super::kernel_quant`]). Activations are deliberately not
//! quantised: a row's result is that of the dequantised matrix, whatever else is
//! in the batch.

mod blocks;
pub(super) mod mix;

use super::kernel::PANEL;
use super::kernel_codes::half;
use blocks::Block;
use rayon::prelude::*;
use std::ops::Range;

pub use mix::Quantize;

/// Weights in a row that are turned into floats together; divides every block.
pub(super) const UNIT: usize = 32;

/// A block format of GGML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuantType {
    /// 32 weights, one scale, 4 bits.
    Q4_0,
    /// The same with an offset.
    Q4_1,
    /// 32 weights, one scale, 5 bits.
    Q5_0,
    /// The same with an offset.
    Q5_1,
    /// 32 weights, one scale, 8 bits.
    Q8_0,
    /// 256 weights in eight groups with scales and offsets of 6 bits, 4 bits.
    Q4K,
    /// The same with 5 bits.
    Q5K,
    /// 256 weights in sixteen groups with scales of 8 bits, 6 bits.
    Q6K,
}

/// What a block of a format holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Format {
    /// Weights in a block.
    pub block: usize,
    /// Bits of a code in its first plane: 4 or 8.
    pub low: usize,
    /// Bits of a code in its second plane: 0, 1 or 2.
    pub high: usize,
    /// Weights that share a scale; all of the block where it has one scale.
    pub group: usize,
    /// What a code of zero stands for, times the scale.
    pub zero: f32,
    /// Whether an offset is added.
    pub offset: bool,
    /// Whether codes are signed.
    pub signed: bool,
}

impl QuantType {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// GGML's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// The format of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Weights in a block: a row is a whole number of blocks.
    #[must_use]
    pub fn block(self) -> usize {
        self.format().block
    }

    /// Bytes of a block in GGML.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of an `[n, k]` matrix in memory.
    #[must_use]
    pub fn bytes(self, n: u64, k: u64) -> u64 {
        let blocks = k / self.block() as u64;
        n.div_ceil(PANEL as u64).saturating_mul(blocks).saturating_mul(self.format().bytes() as u64)
    }

    pub(super) const fn format(self) -> Format {
        const PLAIN: Format =
            Format { block: 32, low: 4, high: 0, group: 32, zero: 0.0, offset: false, signed: false };
        const K: Format = Format { block: 256, offset: true, ..PLAIN };
        match self {
            Self::Q4_0 => Format { zero: -8.0, ..PLAIN },
            Self::Q4_1 => Format { offset: true, ..PLAIN },
            Self::Q5_0 => Format { high: 1, zero: -16.0, ..PLAIN },
            Self::Q5_1 => Format { high: 1, offset: true, ..PLAIN },
            Self::Q8_0 => Format { low: 8, signed: true, ..PLAIN },
            Self::Q4K => K,
            Self::Q5K => Format { high: 1, ..K },
            Self::Q6K => Format { high: 2, group: 16, zero: -32.0, offset: false, ..K },
        }
    }
}

/// Where the parts of a panel's block begin, in bytes. Each part has one entry
/// for each of the panel's 32 rows, side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    /// Halves that offsets are multiplied with.
    pub offset: usize,
    /// Scales of the groups, a byte each.
    pub scales: usize,
    /// Offsets of the groups, a byte each.
    pub offsets: usize,
    /// The codes' first plane.
    pub low: usize,
    /// The codes' second plane.
    pub high: usize,
}

impl Format {
    /// Groups with scales of their own.
    pub(super) const fn groups(&self) -> usize {
        if self.group == self.block { 0 } else { self.block / self.group }
    }

    /// Where everything is. The block begins with the halves of the scales.
    pub(super) const fn parts(&self) -> Parts {
        let offset = 2 * PANEL;
        let scales = if self.offset { offset + 2 * PANEL } else { offset };
        let offsets = scales + self.groups() * PANEL;
        let low = if self.offset { offsets + self.groups() * PANEL } else { offsets };
        Parts { offset, scales, offsets, low, high: low + self.block * self.low / 8 * PANEL }
    }

    /// Bytes of a panel's block.
    pub(super) const fn bytes(&self) -> usize {
        self.parts().high + self.block * self.high / 8 * PANEL
    }
}

/// A quantised matrix `[n, k]`, in panels of 32 outputs, the last one padded.
pub(super) struct Quantised {
    kind: QuantType,
    n: usize,
    k: usize,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Quantised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, n, k, .. } = self;
        f.debug_struct("Quantised").field("kind", kind).field("n", n).field("k", k).finish_non_exhaustive()
    }
}

impl Quantised {
    /// A matrix of zeros, to be filled by [`Quantised::set_rows`]. `k` is a whole
    /// number of blocks.
    pub(super) fn zeros(kind: QuantType, n: usize, k: usize) -> Self {
        let format = kind.format();
        assert!(k.is_multiple_of(format.block), "the loader has checked the row's length");
        Self { kind, n, k, bytes: vec![0; n.div_ceil(PANEL) * (k / format.block) * format.bytes()] }
    }

    /// Takes whole rows in GGML's layout, from `first` on, which begins a panel.
    pub(super) fn set_rows(&mut self, first: usize, rows: &[u8]) {
        let (kind, format) = (self.kind, self.kind.format());
        let blocks = self.k / format.block;
        let row = (blocks * kind.block_bytes()).max(1);
        assert!(first.is_multiple_of(PANEL) && rows.len().is_multiple_of(row), "whole rows from a panel on");
        let panel = (blocks * format.bytes()).max(1);
        let panels = self.bytes[first / PANEL * panel..].par_chunks_mut(panel);
        panels.zip(rows.par_chunks(PANEL * row)).for_each(|(panel, rows)| {
            for (lane, row) in rows.chunks_exact(row).enumerate() {
                let taken = row.chunks_exact(kind.block_bytes());
                for (block, bytes) in panel.chunks_exact_mut(format.bytes()).zip(taken) {
                    Block::read(kind, bytes).place(&format, lane, block);
                }
            }
        });
    }

    /// The format.
    pub(super) fn kind(&self) -> QuantType {
        self.kind
    }

    /// Outputs.
    pub(super) fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The blocks of some panels, panel by panel.
    pub(super) fn panels(&self, panels: Range<usize>) -> &[u8] {
        let panel = self.k / self.kind.block() * self.kind.format().bytes();
        &self.bytes[panels.start * panel..panels.end * panel]
    }

    /// Appends row `row` of the matrix, `k` floats: the same numbers that the
    /// product multiplies with.
    pub(super) fn unpack(&self, row: usize, out: &mut Vec<f32>) {
        let (format, lane) = (self.kind.format(), row % PANEL);
        let panel = row / PANEL;
        for block in self.panels(panel..panel + 1).chunks_exact(format.bytes()) {
            let parts = format.parts();
            let halves = |from: usize| half([block[from + 2 * lane], block[from + 2 * lane + 1]]);
            let (scale, by) = (halves(0), if format.offset { halves(parts.offset) } else { 0.0 });
            for i in 0..format.block {
                let group = i / format.group * PANEL + lane;
                let (scale, offset) = match (format.groups(), format.offset) {
                    (0, _) => (scale, by),
                    (_, true) => {
                        let entry = |from: usize| f32::from(block[from + group]);
                        (scale * entry(parts.scales), -(by * entry(parts.offsets)))
                    }
                    (_, false) => (scale * f32::from(block[parts.scales + group].cast_signed()), 0.0),
                };
                let low = match format.low {
                    8 => block[parts.low + i * PANEL + lane],
                    _ => block[parts.low + i / 2 * PANEL + lane] >> (i % 2 * 4) & 15,
                };
                let high = match format.high {
                    0 => 0,
                    1 => block[parts.high + i / 8 * PANEL + lane] >> (i % 8) & 1,
                    _ => block[parts.high + i / 4 * PANEL + lane] >> (i % 4 * 2) & 3,
                };
                let code = match format.signed {
                    true => f32::from(low.cast_signed()),
                    false => f32::from(low | high << 4) + format.zero,
                };
                let weight = code * scale;
                out.push(if format.offset { weight + offset } else { weight });
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
