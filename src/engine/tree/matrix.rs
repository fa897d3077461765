//! A weight matrix, as floats, as 16-bit floats or quantised, behind one product.

use super::halves::Halves;
use super::kernel::{Kernels, PANEL, Packed, outputs};
use super::quant::Quantised;
use std::ops::Range;

/// A weight matrix `[n, k]`.
#[derive(Debug)]
pub(super) enum Matrix {
    /// In f32.
    Floats(Packed),
    /// In 16-bit floats.
    Halves(Halves),
    /// In blocks of few bits.
    Quantised(Quantised),
}

impl Matrix {
    /// Outputs.
    pub(super) fn n(&self) -> usize {
        match self {
            Self::Floats(packed) => packed.n(),
            Self::Halves(halves) => halves.n(),
            Self::Quantised(quantised) => quantised.n(),
        }
    }

    /// Inputs.
    pub(super) fn k(&self) -> usize {
        match self {
            Self::Floats(packed) => packed.k(),
            Self::Halves(halves) => halves.k(),
            Self::Quantised(quantised) => quantised.k(),
        }
    }

    /// Panels of 32 outputs.
    pub(super) fn panels(&self) -> usize {
        self.n().div_ceil(PANEL)
    }

    /// Outputs that some panels hold.
    pub(super) fn outputs(&self, panels: &Range<usize>) -> usize {
        outputs(self.n(), panels)
    }

    /// Appends row `row`, `k` floats.
    pub(super) fn unpack(&self, row: usize, out: &mut Vec<f32>) {
        match self {
            Self::Floats(packed) => packed.unpack(row, out),
            Self::Halves(halves) => halves.unpack(row, out),
            Self::Quantised(quantised) => quantised.unpack(row, out),
        }
    }

    /// What its weights are held in.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Floats(_) => "F32",
            Self::Halves(halves) => halves.half().name(),
            Self::Quantised(quantised) => quantised.kind().name(),
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Floats(packed) => packed.panels() * PANEL * packed.k() * size_of::<f32>(),
            Self::Halves(halves) => halves.bytes(),
            Self::Quantised(quantised) => quantised.bytes(),
        }
    }
}

impl Kernels {
    /// The outputs of some panels alone: `x` is `[rows, k]`, `out` is
    /// `[rows, outputs of the panels]`. A row's bits do not depend on the others.
    pub(super) fn outputs_of_panels(
        self,
        x: &[f32],
        rows: usize,
        (w, panels): (&Matrix, Range<usize>),
        out: &mut [f32],
    ) {
        match w {
            Matrix::Floats(packed) => self.product_of_panels(x, rows, (packed, panels), out),
            Matrix::Halves(halves) => self.product_of_halves(x, rows, (halves, panels), out),
            Matrix::Quantised(quantised) => self.product_of_quantised(x, rows, (quantised, panels), out),
        }
    }
}
