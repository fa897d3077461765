//! Blocks as GGML writes them, and where their codes go in a panel.
//!
//! The layouts are those of llama.cpp, `ggml-common.h` and `ggml-quants.c`
//! (`dequantize_row_*`).

use super::{Format, QuantType};
use crate::engine::tree::kernel::PANEL;

/// The most weights in a block.
const MOST: usize = 256;

/// A block, taken apart.
pub(super) struct Block {
    /// Halves: of the scale, and of the offset where there is one.
    scale: [u8; 2],
    offset: [u8; 2],
    scales: [u8; 16],
    offsets: [u8; 8],
    codes: [u8; MOST],
}

impl Block {
    /// Takes a block of so many bytes as the format has.
    pub(super) fn read(kind: QuantType, x: &[u8]) -> Self {
        let pair = |from: usize| [x[from], x[from + 1]];
        let mut block =
            Self { scale: pair(0), offset: pair(2), scales: [0; 16], offsets: [0; 8], codes: [0; MOST] };
        match kind {
            QuantType::Q4_0 => block.nibbles(&x[2..18], &[0; 4]),
            QuantType::Q4_1 => block.nibbles(&x[4..20], &[0; 4]),
            QuantType::Q5_0 => block.nibbles(&x[6..22], &x[2..6]),
            QuantType::Q5_1 => block.nibbles(&x[8..24], &x[4..8]),
            QuantType::Q8_0 => block.codes[..32].copy_from_slice(&x[2..34]),
            QuantType::Q4K => {
                block.six_bit_scales(&x[4..16]);
                block.four_bits(&x[16..144], &[0; 32]);
            }
            QuantType::Q5K => {
                block.six_bit_scales(&x[4..16]);
                block.four_bits(&x[48..176], &x[16..48]);
            }
            QuantType::Q6K => {
                block.scale = pair(208);
                block.scales.copy_from_slice(&x[192..208]);
                block.six_bits(&x[..128], &x[128..192]);
            }
        }
        block
    }

    /// 32 codes: low nibbles, then high ones, with a fifth bit each.
    fn nibbles(&mut self, low: &[u8], fifth: &[u8]) {
        for i in 0..32 {
            let fifth = fifth[i / 8] >> (i % 8) & 1;
            self.codes[i] = low[i % 16] >> (i / 16 * 4) & 15 | fifth << 4;
        }
    }

    /// Eight scales and eight offsets of 6 bits in 12 bytes.
    fn six_bit_scales(&mut self, x: &[u8]) {
        for i in 0..4 {
            (self.scales[i], self.offsets[i]) = (x[i] & 63, x[i + 4] & 63);
            self.scales[i + 4] = x[i + 8] & 15 | x[i] >> 6 << 4;
            self.offsets[i + 4] = x[i + 8] >> 4 | x[i + 4] >> 6 << 4;
        }
    }

    /// 256 codes: of each 32 bytes the low nibbles, then the high ones; the
    /// fifth bits lie across.
    fn four_bits(&mut self, low: &[u8], fifth: &[u8]) {
        for i in 0..MOST {
            let (group, within) = (i / 32, i % 32);
            let low = low[group / 2 * 32 + within] >> (group % 2 * 4) & 15;
            self.codes[i] = low | (fifth[within] >> group & 1) << 4;
        }
    }

    /// 256 codes: in each half four runs of 32, which share 64 bytes of nibbles
    /// and 32 bytes of pairs of bits.
    fn six_bits(&mut self, low: &[u8], high: &[u8]) {
        for i in 0..MOST {
            let (half, run, within) = (i / 128, i / 32 % 4, i % 32);
            let low = low[64 * half + run % 2 * 32 + within] >> (run / 2 * 4) & 15;
            self.codes[i] = low | (high[32 * half + within] >> (run * 2) & 3) << 4;
        }
    }

    /// Writes the block as row `lane` of a panel's block, which was zero.
    pub(super) fn place(&self, format: &Format, lane: usize, out: &mut [u8]) {
        let parts = format.parts();
        out[2 * lane..2 * lane + 2].copy_from_slice(&self.scale);
        if format.offset {
            out[parts.offset + 2 * lane..][..2].copy_from_slice(&self.offset);
        }
        for group in 0..format.groups() {
            out[parts.scales + group * PANEL + lane] = self.scales[group];
            if format.offset {
                out[parts.offsets + group * PANEL + lane] = self.offsets[group];
            }
        }
        for (i, code) in self.codes[..format.block].iter().enumerate() {
            match format.low {
                8 => out[parts.low + i * PANEL + lane] = *code,
                _ => out[parts.low + i / 2 * PANEL + lane] |= (code & 15) << (i % 2 * 4),
            }
            match format.high {
                0 => {}
                1 => out[parts.high + i / 8 * PANEL + lane] |= (code >> 4 & 1) << (i % 8),
                _ => out[parts.high + i / 4 * PANEL + lane] |= (code >> 4 & 3) << (i % 4 * 2),
            }
        }
    }
}
