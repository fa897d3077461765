//! Sixteen numbers at once out of the bytes of weights in fewer bits than a
//! float's, for each instruction set.
//!
//! What is computed here is exact: whole numbers of a few bits, and 16-bit
//! floats. So all instruction sets give the same bits.

#![expect(unsafe_code, reason = "vector instructions can only be reached so")]

#[cfg(target_arch = "x86_64")]
use super::kernel_lanes::{Avx2, Avx512};
use super::kernel_lanes::{Baseline, LANES, Lanes, Number};

/// What makes a half's exponent a float's: two to the power of 127 - 15.
const REBIAS: f32 = f32::from_bits((127 + 112) << 23);

/// Vectors that can be read from bytes.
pub(super) trait Codes: Lanes {
    /// `(byte >> shift) & mask` of each byte.
    fn bits(x: &[u8; LANES], shift: u32, mask: u32) -> Self;
    /// Each byte as a number from -128 to 127.
    fn signed(x: &[u8; LANES]) -> Self;
    /// IEEE halves, little-endian.
    fn halves(x: &[u8; 2 * LANES]) -> Self;
    /// The upper halves of floats, little-endian.
    fn upper_halves(x: &[u8; 2 * LANES]) -> Self;
}

/// An IEEE half, little-endian.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F16([u8; 2]);

/// The upper half of a float, little-endian.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bf16([u8; 2]);

impl<V: Codes> Number<V> for F16 {
    #[inline(always)]
    // SAFETY: as the trait says.
    unsafe fn load(at: *const Self) -> V {
        // SAFETY: the caller's; sixteen of these are 32 bytes.
        V::halves(unsafe { &*at.cast::<[u8; 2 * LANES]>() })
    }
}

impl<V: Codes> Number<V> for Bf16 {
    #[inline(always)]
    // SAFETY: as the trait says.
    unsafe fn load(at: *const Self) -> V {
        // SAFETY: the caller's; sixteen of these are 32 bytes.
        V::upper_halves(unsafe { &*at.cast::<[u8; 2 * LANES]>() })
    }
}

/// One half as a float.
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let magnitude = match bits & 0x7FFF {
        0x7C00 => f32::INFINITY,
        // Not a number, and quiet, as the instruction makes it.
        bits @ 0x7C01.. => f32::from_bits(bits << 13 | 0x7FC0_0000),
        bits => f32::from_bits(bits << 13) * REBIAS,
    };
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

impl Codes for Baseline {
    #[inline(always)]
    fn bits(x: &[u8; LANES], shift: u32, mask: u32) -> Self {
        Self::load(&x.map(|byte| ((u32::from(byte) >> shift) & mask) as f32))
    }
    #[inline(always)]
    fn signed(x: &[u8; LANES]) -> Self {
        Self::load(&x.map(|byte| f32::from(byte.cast_signed())))
    }
    #[inline(always)]
    fn halves(x: &[u8; 2 * LANES]) -> Self {
        Self::load(&std::array::from_fn(|i| half([x[2 * i], x[2 * i + 1]])))
    }
    #[inline(always)]
    fn upper_halves(x: &[u8; 2 * LANES]) -> Self {
        Self::load(&std::array::from_fn(|i| f32::from_le_bytes([0, 0, x[2 * i], x[2 * i + 1]])))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Codes, LANES, Lanes};
    use std::arch::x86_64::{
        __m128i, __m256, __m512i, _mm_cvtsi32_si128, _mm_loadl_epi64, _mm_loadu_si128, _mm256_and_si256,
        _mm256_castsi256_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
        _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_slli_epi32,
        _mm256_srl_epi32, _mm256_storeu_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi8_epi32,
        _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_set1_epi32,
        _mm512_slli_epi32, _mm512_srl_epi32, _mm512_storeu_ps,
    };

    /// Whole numbers as floats.
    #[inline(always)]
    fn floats(x: __m512i) -> Avx512 {
        let mut lanes = [0.0; LANES];
        // SAFETY: called by methods of `Avx512` alone, a type that is named only
        // where AVX-512F was detected; the array holds the floats that are written.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), _mm512_cvtepi32_ps(x)) };
        Avx512::load(&lanes)
    }

    impl Codes for Avx512 {
        #[inline(always)]
        fn bits(x: &[u8; LANES], shift: u32, mask: u32) -> Self {
            // SAFETY: this type is named only where AVX-512F was detected, and
            // the array holds the sixteen bytes that are read.
            floats(unsafe {
                let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
                let shifted = _mm512_srl_epi32(wide, _mm_cvtsi32_si128(shift.cast_signed()));
                _mm512_and_si512(shifted, _mm512_set1_epi32(mask.cast_signed()))
            })
        }
        #[inline(always)]
        fn signed(x: &[u8; LANES]) -> Self {
            // SAFETY: as above.
            floats(unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())) })
        }
        #[inline(always)]
        fn halves(x: &[u8; 2 * LANES]) -> Self {
            let mut lanes = [0.0; LANES];
            // SAFETY: as above, with 32 bytes that are read and sixteen floats
            // that are written.
            unsafe {
                let halves = _mm256_loadu_si256(x.as_ptr().cast());
                _mm512_storeu_ps(lanes.as_mut_ptr(), _mm512_cvtph_ps(halves));
            }
            Self::load(&lanes)
        }
        #[inline(always)]
        fn upper_halves(x: &[u8; 2 * LANES]) -> Self {
            let mut lanes = [0.0; LANES];
            // SAFETY: as above.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_storeu_ps(lanes.as_mut_ptr(), _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)));
            }
            Self::load(&lanes)
        }
    }

    /// Two registers as one vector.
    #[inline(always)]
    fn joined(low: __m256, high: __m256) -> Avx2 {
        let mut lanes = [0.0; LANES];
        // SAFETY: called by methods of `Avx2` alone, a type that is named only
        // where AVX2 was detected; eight floats are written at the array's start
        // and eight at its middle.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), low);
            _mm256_storeu_ps(lanes.as_mut_ptr().add(LANES / 2), high);
        }
        Avx2::load(&lanes)
    }

    // What follows are functions and not closures: one that is called twice is
    // not inlined, and then each of its instructions becomes a call.

    /// Eight bytes from the start or the middle of sixteen.
    #[inline(always)]
    fn eight(x: &[u8; LANES], from: usize) -> __m128i {
        // SAFETY: `from` is 0 or 8 in all calls, so that eight bytes are there;
        // the instruction is part of the baseline.
        unsafe { _mm_loadl_epi64(x[from..from + LANES / 2].as_ptr().cast()) }
    }

    /// Sixteen bytes from the start or the middle of 32.
    #[inline(always)]
    fn sixteen(x: &[u8; 2 * LANES], from: usize) -> __m128i {
        // SAFETY: the slice has the sixteen bytes that are read; the instruction
        // is part of the baseline.
        unsafe { _mm_loadu_si128(x[from..from + LANES].as_ptr().cast()) }
    }

    #[inline(always)]
    fn eight_bits(x: &[u8; LANES], from: usize, (shift, mask): (u32, u32)) -> __m256 {
        // SAFETY: called by methods of `Avx2` alone, as `joined`.
        unsafe {
            let wide = _mm256_cvtepu8_epi32(eight(x, from));
            let shifted = _mm256_srl_epi32(wide, _mm_cvtsi32_si128(shift.cast_signed()));
            _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(mask.cast_signed())))
        }
    }

    #[inline(always)]
    fn eight_signed(x: &[u8; LANES], from: usize) -> __m256 {
        // SAFETY: called by methods of `Avx2` alone, as `joined`.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(x, from))) }
    }

    #[inline(always)]
    fn eight_halves(x: &[u8; 2 * LANES], from: usize) -> __m256 {
        // SAFETY: called by methods of `Avx2` alone, as `joined`, and F16C was
        // detected with it.
        unsafe { _mm256_cvtph_ps(sixteen(x, from)) }
    }

    #[inline(always)]
    fn eight_upper_halves(x: &[u8; 2 * LANES], from: usize) -> __m256 {
        // SAFETY: called by methods of `Avx2` alone, as `joined`.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(sixteen(x, from)))) }
    }

    impl Codes for Avx2 {
        #[inline(always)]
        fn bits(x: &[u8; LANES], shift: u32, mask: u32) -> Self {
            joined(eight_bits(x, 0, (shift, mask)), eight_bits(x, LANES / 2, (shift, mask)))
        }
        #[inline(always)]
        fn signed(x: &[u8; LANES]) -> Self {
            joined(eight_signed(x, 0), eight_signed(x, LANES / 2))
        }
        #[inline(always)]
        fn halves(x: &[u8; 2 * LANES]) -> Self {
            joined(eight_halves(x, 0), eight_halves(x, LANES))
        }
        #[inline(always)]
        fn upper_halves(x: &[u8; 2 * LANES]) -> Self {
            joined(eight_upper_halves(x, 0), eight_upper_halves(x, LANES))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::every_isa;
    use super::super::kernel::{Isa, compile, dispatch};
    use super::*;

    compile!(read, read_body, (x: &[u8; 2 * LANES], out: &mut [[f32; LANES]; 5]), rows: 1, 1, 1);

    #[inline(always)]
    fn read_body<V: Codes, const ROWS: usize, const FMA: bool>(
        x: &[u8; 2 * LANES],
        out: &mut [[f32; LANES]; 5],
    ) {
        let low: &[u8; LANES] = x.first_chunk().expect("sixteen of 32");
        V::bits(low, 0, 0xFF).store(&mut out[0]);
        V::bits(low, 3, 0b101).store(&mut out[1]);
        V::signed(low).store(&mut out[2]);
        V::halves(x).store(&mut out[3]);
        V::upper_halves(x).store(&mut out[4]);
    }

    #[test]
    fn every_instruction_set_reads_the_same_numbers() {
        let mut seen = [false; 2];
        for (round, kernels) in (0..256).flat_map(|round| every_isa().into_iter().map(move |k| (round, k))) {
            let x: [u8; 2 * LANES] = std::array::from_fn(|i| (i * 37 + round * 11) as u8);
            let mut out = [[f32::NAN; LANES]; 5];
            dispatch!(kernels.isa(), read, &x, &mut out);
            for i in 0..LANES {
                assert_eq!(out[0][i], f32::from(x[i]));
                assert_eq!(out[1][i], f32::from((x[i] >> 3) & 0b101));
                assert_eq!(out[2][i], f32::from(x[i].cast_signed()));
                assert_eq!(out[3][i].to_bits(), half([x[2 * i], x[2 * i + 1]]).to_bits());
                let upper = f32::from_le_bytes([0, 0, x[2 * i], x[2 * i + 1]]);
                assert_eq!(out[4][i].to_bits(), upper.to_bits());
                seen[usize::from(x[2 * i + 1] >= 0x80)] = true;
            }
        }
        assert_eq!(seen, [true; 2], "both signs");
    }

    #[test]
    fn halves_are_those_of_ieee_754() {
        let of = |bits: u16| half(bits.to_le_bytes());
        assert_eq!(of(0x3C00), 1.0);
        assert_eq!(of(0xC000), -2.0);
        assert_eq!(of(0x7BFF), 65_504.0, "the largest");
        assert_eq!(of(0x0001), 1.0 / 16_777_216.0, "2^-24, the smallest, subnormal");
        assert_eq!(of(0x0400), 1.0 / 16_384.0, "2^-14, the smallest normal one");
        assert_eq!(of(0x3555), 0.333_251_95);
        assert_eq!((of(0x7C00), of(0xFC00)), (f32::INFINITY, f32::NEG_INFINITY));
        assert!(of(0x7C01).is_nan() && of(0xFFFF).is_nan());
        assert_eq!(of(0x8000).to_bits(), (-0.0f32).to_bits());
    }
}
