//! Linear layers over our own product.
//!
//! Libraries' products are not used: their result for a row depends on how many
//! rows there are (one row takes a different path), which would make a seeded
//! request depend on its neighbours. Matrices may be quantised; biases are not.

use super::checkpoint::Reader;
use super::config::LoadError;
use super::kernel::Kernels;
use super::matrix::Matrix;
use super::threads::Threads;
use std::ops::Range;

/// Weights from which on a matrix is worth being read by several threads.
const WORTH_SPLITTING: usize = 1 << 18;

/// How products are computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Products<'a> {
    /// The kernels.
    pub kernels: Kernels,
    /// The threads that large matrices are split over, by outputs, so that each
    /// weight is read once. A sum is never split: the bits are the same.
    pub threads: Option<&'a Threads>,
}

impl Products<'_> {
    /// `out = x · wᵀ`: `x` is `[rows, k]`, `out` is `[rows, n]`.
    pub(super) fn product(self, x: &[f32], rows: usize, w: &Matrix, out: &mut [f32]) {
        let threads = self.threads.filter(|_| w.k() * w.n() >= WORTH_SPLITTING);
        let Some(threads) = threads else {
            return self.kernels.outputs_of_panels(x, rows, (w, 0..w.panels()), out);
        };
        let count = threads.count();
        let mut parts: Vec<(Range<usize>, Vec<f32>)> = (0..count)
            .map(|i| w.panels() * i / count..w.panels() * (i + 1) / count)
            .map(|panels| (panels.clone(), vec![0.0; rows * w.outputs(&panels)]))
            .collect();
        threads.each(&mut parts, |(panels, out)| {
            self.kernels.outputs_of_panels(x, rows, (w, panels.clone()), out);
        });
        let mut column = 0;
        for (panels, part) in &parts {
            let width = w.outputs(panels);
            for (out, part) in out.chunks_exact_mut(w.n()).zip(part.chunks_exact(width.max(1))) {
                out[column..column + width].copy_from_slice(part);
            }
            column += width;
        }
    }
}

/// `y = x · wᵀ + b`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Reads `weight` (and `bias`) under `name`, `[n, k]`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn load(
        name: &str,
        (k, n): (usize, usize),
        bias: bool,
        reader: &mut Reader<'_>,
    ) -> Result<Self, LoadError> {
        let weight = reader.matrix(&format!("{name}.weight"), (n, k))?;
        let bias = if bias { Some(reader.floats(&format!("{name}.bias"))?) } else { None };
        Ok(Self { weight, bias })
    }

    /// The matrix.
    pub(super) fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// `out = x · wᵀ + b` for `rows` rows; `out` is resized to fit.
    pub(super) fn forward(&self, products: Products<'_>, x: &[f32], rows: usize, out: &mut Vec<f32>) {
        out.resize(rows * self.weight.n(), 0.0);
        products.product(x, rows, &self.weight, out);
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tree::kernel::Packed;
    use crate::engine::tree::kernel::tests::noise;

    #[test]
    fn a_product_that_is_split_over_threads_has_the_same_bits() {
        let (k, n) = (256, 1050);
        assert!(k * n >= WORTH_SPLITTING);
        let (floats, kernels) = (Packed::new(&noise(1, n * k), n, k), Kernels::detect());
        let weight = Matrix::Floats(Packed::new(&noise(1, n * k), n, k));
        for (rows, count) in [(1, 2), (1, 3), (5, 2), (9, 40)] {
            let x = noise(2, rows * k);
            let (mut whole, mut split) = (vec![0.0; rows * n], vec![f32::NAN; rows * n]);
            let threads = Threads::new(count).expect("threads");
            kernels.product(&x, rows, &floats, &mut whole);
            Products { kernels, threads: Some(&threads) }.product(&x, rows, &weight, &mut split);
            assert_eq!(whole, split, "{rows} rows on {count} threads");
        }
    }

    #[test]
    fn a_bias_is_added_to_every_row() {
        let (k, n, rows) = (3, 2, 4);
        let weight = Matrix::Floats(Packed::new(&[1.0, 0.0, 2.0, 0.0, 1.0, -1.0], n, k));
        let linear = Linear { weight, bias: Some(vec![10.0, -20.0]) };
        let x: Vec<f32> = (0..rows * k).map(|i| i as f32).collect();
        let mut out = Vec::new();
        let products = Products { kernels: Kernels::detect(), threads: None };
        linear.forward(products, &x, rows, &mut out);
        let expected = x.chunks_exact(k).flat_map(|x| [x[0] + 2.0 * x[2] + 10.0, x[1] - x[2] - 20.0]);
        assert_eq!(out, expected.collect::<Vec<f32>>());
    }
}
