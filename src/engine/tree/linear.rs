//! Linear layers: multiplied by our own kernel where the weights are plain
//! floats, loaded and multiplied by `mistralrs-quant` where they are quantised.
//!
//! Our own product exists because the library's result for a row depends on how
//! many rows there are (one row takes a different path), which would make a
//! seeded request depend on its neighbours.

use super::checkpoint::Reader;
use super::config::LoadError;
use super::kernel::{Kernels, Packed};
use candle_core::{Device, Tensor};
use mistralrs_quant::{QuantMethod, QuantizedConfig};
use std::sync::Arc;

/// `y = x · wᵀ + b`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum Weight {
    Packed(Packed),
    /// A quantised layer, with its inputs and outputs. The library adds the bias.
    Library(Arc<dyn QuantMethod>, usize, usize),
}

impl Linear {
    /// Reads `weight` (and `bias`) under `name`, `[n, k]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub(super) fn load(
        name: &str,
        (k, n): (usize, usize),
        bias: bool,
        quantisation: &Option<QuantizedConfig>,
        reader: &mut Reader<'_>,
    ) -> Result<Self, LoadError> {
        if quantisation.is_some() {
            let layer = mistralrs_quant::linear_b(k, n, bias, quantisation, reader.library(name));
            return layer
                .and_then(|layer| Self::new(layer, (k, n)))
                .map_err(|cause| LoadError::Weights(format!("{name}: {cause}")));
        }
        let weight = Weight::Packed(reader.packed(&format!("{name}.weight"), (n, k))?);
        let bias = if bias { Some(reader.floats(&format!("{name}.bias"))?) } else { None };
        Ok(Self { weight, bias })
    }

    /// Wraps a layer of the library.
    ///
    /// # Errors
    /// When its weights cannot be read.
    pub(super) fn new(layer: Arc<dyn QuantMethod>, (k, n): (usize, usize)) -> candle_core::Result<Self> {
        let Some((weight, bias)) = layer.unquant_weight_bias() else {
            return Ok(Self { weight: Weight::Library(layer, k, n), bias: None });
        };
        let bias = bias.map(|bias| bias.to_vec1()).transpose()?;
        Ok(Self { weight: Weight::Packed(Packed::new(&weight.flatten_all()?.to_vec1()?, n, k)), bias })
    }

    /// `out = x · wᵀ + b` for `rows` rows; `out` is resized to fit.
    ///
    /// # Errors
    /// When the library's product fails.
    pub(super) fn forward(
        &self,
        kernels: Kernels,
        x: &[f32],
        rows: usize,
        out: &mut Vec<f32>,
    ) -> candle_core::Result<()> {
        match &self.weight {
            Weight::Packed(packed) => {
                out.resize(rows * packed.n(), 0.0);
                kernels.product(x, rows, packed, out);
            }
            Weight::Library(layer, k, n) => {
                let x = Tensor::from_slice(x, (1, rows, *k), &Device::Cpu)?;
                *out = layer.forward(&x)?.reshape(rows * n)?.to_vec1()?;
            }
        }
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mistralrs_quant::{IsqType, QuantMethodConfig, QuantizeOntoGuard, UnquantLinear};
    use std::sync::atomic::AtomicUsize;

    fn layer(k: usize, n: usize, bias: bool) -> Arc<dyn QuantMethod> {
        let tensor = |shape: &[usize], phase: f32| {
            let len = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..len).map(|i| ((i as f32) * 0.37 + phase).sin()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).expect("shape fits")
        };
        let linear = candle_nn::Linear::new(tensor(&[n, k], 0.0), bias.then(|| tensor(&[n], 1.0)));
        Arc::new(UnquantLinear::new(QuantMethodConfig::Unquantized(linear)).expect("plain layer"))
    }

    fn run(linear: &Linear, rows: usize, k: usize) -> Vec<f32> {
        let x: Vec<f32> = (0..rows * k).map(|i| ((i as f32) * 0.11).cos()).collect();
        let mut out = Vec::new();
        linear.forward(Kernels::detect(), &x, rows, &mut out).expect("forward");
        out
    }

    #[test]
    fn our_product_agrees_with_the_library_bias_included() {
        let (k, n, rows) = (96, 40, 5);
        let layer = layer(k, n, true);
        let ours = run(&Linear::new(Arc::clone(&layer), (k, n)).expect("plain"), rows, k);
        let library = run(&Linear { weight: Weight::Library(layer, k, n), bias: None }, rows, k);
        for (a, b) in ours.iter().zip(&library) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn a_quantised_layer_runs_through_the_library() {
        let (k, n, rows) = (256, 32, 3);
        let plain = layer(k, n, false);
        let exact = run(&Linear::new(Arc::clone(&plain), (k, n)).expect("plain"), rows, k);
        let quantised = plain
            .apply_isq(Some(IsqType::Q8_0), Device::Cpu, &AtomicUsize::new(0), None, QuantizeOntoGuard::new())
            .expect("quantises");
        let linear = Linear::new(quantised, (k, n)).expect("wraps");
        assert!(matches!(linear.weight, Weight::Library(..)));
        let largest = exact.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in run(&linear, rows, k).iter().zip(&exact) {
            assert!((a - b).abs() < 0.02 * largest, "{a} {b}");
        }
    }
}
