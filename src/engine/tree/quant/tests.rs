//! Tests of quantised matrices, against the library's own dequantisation.

use super::mix::quantise;
use super::*;
use crate::engine::rng;
use crate::engine::tree::kernel::Packed;
use crate::engine::tree::kernel::tests::{every_isa, noise};
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;

fn dtype(kind: QuantType) -> GgmlDType {
    match kind {
        QuantType::Q4_0 => GgmlDType::Q4_0,
        QuantType::Q4_1 => GgmlDType::Q4_1,
        QuantType::Q5_0 => GgmlDType::Q5_0,
        QuantType::Q5_1 => GgmlDType::Q5_1,
        QuantType::Q8_0 => GgmlDType::Q8_0,
        QuantType::Q4K => GgmlDType::Q4K,
        QuantType::Q5K => GgmlDType::Q5K,
        QuantType::Q6K => GgmlDType::Q6K,
    }
}

/// What the library makes of blocks of `[n, k]` weights.
fn dequantised(kind: QuantType, blocks: &[u8], n: usize, k: usize) -> Vec<f32> {
    let tensor = qtensor_from_ggml(dtype(kind), blocks, vec![n, k], &Device::Cpu).expect("whole blocks");
    let floats = tensor.dequantize(&Device::Cpu).expect("on the CPU").flatten_all().expect("dense");
    floats.to_vec1().expect("floats")
}

/// Blocks in which every code and scale may occur; the halves are small numbers.
fn any_blocks(kind: QuantType, n: usize, k: usize) -> Vec<u8> {
    let size = kind.block_bytes();
    let count = n * k / kind.block() * size;
    let mut bytes: Vec<u8> =
        (0..count as u64).map(|i| (rng::uniform(kind.block_bytes() as u64, i) * 256.0) as u8).collect();
    let halves: &[usize] = match kind {
        QuantType::Q4_0 | QuantType::Q5_0 | QuantType::Q8_0 => &[1],
        QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4K | QuantType::Q5K => &[1, 3],
        QuantType::Q6K => &[209],
    };
    for block in bytes.chunks_exact_mut(size) {
        for place in halves {
            // A sign, and an exponent of 0 to 15 of 31: subnormal halves too.
            block[*place] &= 0xBF;
        }
    }
    bytes
}

fn matrix(kind: QuantType, blocks: &[u8], n: usize, k: usize) -> Quantised {
    let mut matrix = Quantised::zeros(kind, n, k);
    // In two pieces, as a large one is read.
    let (first, second) = blocks.split_at(PANEL * k / kind.block() * kind.block_bytes());
    matrix.set_rows(0, first);
    matrix.set_rows(PANEL, second);
    matrix
}

#[test]
fn weights_are_those_of_ggml_to_the_bit_whatever_the_blocks_hold() {
    for kind in QuantType::ALL {
        let (n, k) = (PANEL + 5, 512);
        let blocks = any_blocks(kind, n, k);
        let expected = dequantised(kind, &blocks, n, k);
        let matrix = matrix(kind, &blocks, n, k);
        let mut found = Vec::new();
        (0..n).for_each(|row| matrix.unpack(row, &mut found));
        assert!(expected.iter().any(|weight| *weight != 0.0));
        assert_eq!(found, expected, "{}", kind.name());
        assert_eq!(matrix.bytes() as u64, kind.bytes(n as u64, k as u64), "{}", kind.name());
    }
}

#[test]
fn a_product_is_that_of_the_dequantised_matrix_to_the_bit_for_any_number_of_rows() {
    for kind in QuantType::ALL {
        // A whole and a broken last piece of units, where the block allows it.
        let (n, k) = (2 * PANEL + 9, if kind.block() == 32 { 352 } else { 768 });
        let blocks = any_blocks(kind, n, k);
        let (floats, matrix) = (dequantised(kind, &blocks, n, k), matrix(kind, &blocks, n, k));
        let floats = Packed::new(&floats, n, k);
        for kernels in every_isa() {
            for rows in [1, 2, 7, 8, 19] {
                let x = noise(3, rows * k);
                let (mut expected, mut found) = (vec![0.0; rows * n], vec![f32::NAN; rows * n]);
                kernels.product(&x, rows, &floats, &mut expected);
                kernels.product_of_quantised(&x, rows, (&matrix, 0..3), &mut found);
                assert_eq!(found, expected, "{} {kernels:?} {rows} rows", kind.name());
                let mut last = vec![f32::NAN; rows * 9];
                kernels.product_of_quantised(&x, rows, (&matrix, 2..3), &mut last);
                let cut: Vec<f32> = expected.chunks_exact(n).flat_map(|row| row[n - 9..].to_vec()).collect();
                assert_eq!(last, cut, "{} {kernels:?} {rows} rows, the last panel", kind.name());
            }
        }
    }
}

#[test]
fn quantising_loses_as_little_as_the_format_promises() {
    let (n, k) = (PANEL + 2, 512);
    let weights = noise(5, n * k);
    let rms = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
    for (kind, bound) in [
        (QuantType::Q4_0, 0.10),
        (QuantType::Q4_1, 0.07),
        (QuantType::Q5_0, 0.05),
        (QuantType::Q5_1, 0.035),
        (QuantType::Q8_0, 0.006),
        (QuantType::Q4K, 0.07),
        (QuantType::Q5K, 0.035),
        (QuantType::Q6K, 0.025),
    ] {
        let blocks = quantise(kind, &weights, k).expect("whole blocks");
        let matrix = matrix(kind, &blocks, n, k);
        let mut found = Vec::new();
        (0..n).for_each(|row| matrix.unpack(row, &mut found));
        let lost: Vec<f32> = found.iter().zip(&weights).map(|(found, weight)| found - weight).collect();
        let share = rms(&lost) / rms(&weights);
        assert!(share < bound && share > bound / 20.0, "{} loses {share}", kind.name());
    }
}

#[test]
fn formats_have_the_names_and_sizes_of_ggml() {
    for kind in QuantType::ALL {
        assert_eq!(QuantType::parse(kind.name()), Some(kind));
        assert_eq!((kind.block(), kind.block_bytes()), (dtype(kind).block_size(), dtype(kind).type_size()));
        // Scales of 6 bits take a byte each; all else is as large as in GGML.
        let own = kind.bytes(PANEL as u64, kind.block() as u64) as usize;
        let extra = if matches!(kind, QuantType::Q4K | QuantType::Q5K) { 4 } else { 0 };
        assert_eq!(own, PANEL * (kind.block_bytes() + extra), "{}", kind.name());
    }
    assert_eq!(QuantType::parse("IQ2_XS"), None);
}
