//! A weight matrix in the 16 bits that its checkpoint has it in: half the memory,
//! and half of what a step with few rows has to read.

use super::kernel::PANEL;
use super::kernel_codes::half;
use rayon::prelude::*;
use std::ops::Range;

/// A 16-bit float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// IEEE's binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl Half {
    /// Its name in checkpoints.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// One of them, little-endian, as a float.
    fn float(self, bytes: [u8; 2]) -> f32 {
        match self {
            Self::F16 => half(bytes),
            Self::Bf16 => f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16),
        }
    }
}

/// A place of the inner dimension in a panel: a weight of each of its outputs,
/// two bytes, little-endian.
pub(super) type Place = [u8; 2 * PANEL];

/// A matrix `[n, k]`, in panels of 32 outputs, the last one padded with zeros:
/// `[n / 32][k][32]`.
#[derive(Debug)]
pub(super) struct Halves {
    half: Half,
    n: usize,
    k: usize,
    places: Vec<Place>,
}

impl Halves {
    /// A matrix of zeros, to be filled by [`Halves::set_rows`].
    pub(super) fn zeros(half: Half, n: usize, k: usize) -> Self {
        Self { half, n, k, places: vec![[0; 2 * PANEL]; n.div_ceil(PANEL) * k] }
    }

    /// Takes whole rows, little-endian, from `first` on, which begins a panel.
    pub(super) fn set_rows(&mut self, first: usize, rows: &[u8]) {
        let (k, row) = (self.k.max(1), 2 * self.k.max(1));
        assert!(first.is_multiple_of(PANEL) && rows.len().is_multiple_of(row), "whole rows from a panel on");
        let panels = self.places[first / PANEL * self.k..].par_chunks_mut(k);
        panels.zip(rows.par_chunks(PANEL * row)).for_each(|(panel, rows)| {
            for (lane, row) in rows.chunks_exact(row).enumerate() {
                for (place, weight) in panel.iter_mut().zip(row.as_chunks::<2>().0) {
                    place[2 * lane..2 * lane + 2].copy_from_slice(weight);
                }
            }
        });
    }

    /// The type of its numbers.
    pub(super) fn half(&self) -> Half {
        self.half
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
        size_of_val(self.places.as_slice())
    }

    /// The places of some panels, panel by panel.
    pub(super) fn panels(&self, panels: Range<usize>) -> &[Place] {
        &self.places[panels.start * self.k..panels.end * self.k]
    }

    /// Appends row `row` of the matrix, `k` floats.
    pub(super) fn unpack(&self, row: usize, out: &mut Vec<f32>) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        let places = self.panels(panel..panel + 1);
        out.extend(places.iter().map(|place| self.half.float([place[2 * lane], place[2 * lane + 1]])));
    }
}
