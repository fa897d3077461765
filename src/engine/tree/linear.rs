//! Linear layers over our own product.
//!
//! Libraries' products are not used: their result for a row depends on how many
//! rows there are (one row takes a different path), which would make a seeded
//! request depend on its neighbours. Quantised layers are deliberately absent;
//! the configuration refuses them by name.

use super::checkpoint::Reader;
use super::config::LoadError;
use super::kernel::{Kernels, Packed};

/// `y = x · wᵀ + b`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Packed,
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
        let weight = reader.packed(&format!("{name}.weight"), (n, k))?;
        let bias = if bias { Some(reader.floats(&format!("{name}.bias"))?) } else { None };
        Ok(Self { weight, bias })
    }

    /// The matrix.
    pub(super) fn weight(&self) -> &Packed {
        &self.weight
    }

    /// `out = x · wᵀ + b` for `rows` rows; `out` is resized to fit.
    pub(super) fn forward(&self, kernels: Kernels, x: &[f32], rows: usize, out: &mut Vec<f32>) {
        out.resize(rows * self.weight.n(), 0.0);
        kernels.product(x, rows, &self.weight, out);
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

    #[test]
    fn a_bias_is_added_to_every_row() {
        let (k, n, rows) = (3, 2, 4);
        let weight = Packed::new(&[1.0, 0.0, 2.0, 0.0, 1.0, -1.0], n, k);
        let linear = Linear { weight, bias: Some(vec![10.0, -20.0]) };
        let x: Vec<f32> = (0..rows * k).map(|i| i as f32).collect();
        let mut out = Vec::new();
        linear.forward(Kernels::detect(), &x, rows, &mut out);
        let expected = x.chunks_exact(k).flat_map(|x| [x[0] + 2.0 * x[2] + 10.0, x[1] - x[2] - 20.0]);
        assert_eq!(out, expected.collect::<Vec<f32>>());
    }
}
