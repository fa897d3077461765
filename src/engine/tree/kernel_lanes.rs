//! Sixteen floats at once, for each instruction set.
//!
//! The kernels are written once over [`Lanes`]; the compiler's own
//! vectorisation of the same loops is not dependable (one more tile height in a
//! function turned a ten times faster product into scalar code).

#![expect(unsafe_code, reason = "vector instructions can only be reached so")]

/// Lanes in a vector.
pub(super) const LANES: usize = 16;

/// A vector of sixteen floats. A type that stands for an instruction set may be
/// named only by code that is compiled for it and runs where it was detected.
pub(super) trait Lanes: Copy {
    /// How many vectors of sums (4, 2 or 1) each of `rows` rows keeps in
    /// registers, beside what they are added up from.
    fn at_once(rows: usize) -> usize;
    /// The same number in every lane.
    fn splat(x: f32) -> Self;
    /// From memory.
    fn load(x: &[f32; LANES]) -> Self;
    /// To memory.
    fn store(self, out: &mut [f32; LANES]);
    /// `self * b + c`, rounded once where the instruction set can.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self + b`.
    fn add(self, b: Self) -> Self;
    /// `self * b`.
    fn mul(self, b: Self) -> Self;
    /// `self` where it is larger than `b`, else `b`, NaN included.
    fn larger(self, b: Self) -> Self;
    /// `self` where it is smaller than `b`, else `b`, NaN included.
    fn smaller(self, b: Self) -> Self;
    /// The highest number of the lanes, none of which is NaN.
    fn highest(self) -> f32;
    /// Two to the power of the whole numbers whose floats have these bits less
    /// `bias`; within the exponents of normal floats.
    fn power_of_two(self, bias: u32) -> Self;
}

/// The first `C` vectors of some floats. Loops over so many, a number that the compiler
/// knows, go from register to memory and back; over a slice they go through a copy in
/// memory and a call that moves it.
#[inline(always)]
pub(super) fn vectors<const C: usize>(floats: &[f32]) -> &[[f32; LANES]; C] {
    floats.as_chunks().0.first_chunk().expect("the caller has as many floats")
}

/// The same, to be written.
#[inline(always)]
pub(super) fn vectors_mut<const C: usize>(floats: &mut [f32]) -> &mut [[f32; LANES]; C] {
    floats.as_chunks_mut().0.first_chunk_mut().expect("the caller has as many floats")
}

/// The baseline: what the compiler makes of an array.
#[derive(Clone, Copy)]
pub(super) struct Baseline([f32; LANES]);

impl Lanes for Baseline {
    #[inline(always)]
    fn at_once(rows: usize) -> usize {
        if rows == 1 { 2 } else { 1 }
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        Self(*x)
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        *out = self.0;
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }
    #[inline(always)]
    fn larger(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > b.0[i] { self.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn smaller(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] < b.0[i] { self.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn highest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    fn power_of_two(self, bias: u32) -> Self {
        let bits = |x: f32| x.to_bits().wrapping_sub(bias).wrapping_add(127) << 23;
        Self(self.0.map(|x| f32::from_bits(bits(x))))
    }
}

/// What vectors are read from.
pub(super) trait Number<V>: Copy {
    /// Sixteen numbers from a place on.
    ///
    /// # Safety
    /// All of them must be readable.
    // SAFETY: what is read is what the caller vouches for.
    unsafe fn load(at: *const Self) -> V;
}

impl<V: Lanes> Number<V> for f32 {
    #[inline(always)]
    // SAFETY: as the trait says.
    unsafe fn load(at: *const Self) -> V {
        // SAFETY: the caller's; an array of floats is aligned like a float.
        V::load(unsafe { &*at.cast::<[f32; LANES]>() })
    }
}

/// `sums[n][c] += a[n * apart + i] * b[c][i * row..][..16]`, for every `i` below
/// `len` in order, and that for one `(a, b, len)` after the other: the inner loop of
/// every product.
///
/// # Safety
/// All of these numbers must be readable.
#[inline(always)]
// SAFETY: every place that is read is one that the caller vouches for.
pub(super) unsafe fn accumulate<V: Lanes, W: Number<V>, const N: usize, const C: usize>(
    sums: &mut [[V; C]; N],
    (apart, row): (usize, usize),
    stretches: impl Iterator<Item = (*const f32, [*const W; C], usize)>,
) {
    // A copy that nothing points to stays in registers, over all stretches.
    let mut kept = *sums;
    for (a, b, len) in stretches {
        for i in 0..len {
            let mut vectors = [V::splat(0.0); C];
            for (vector, b) in vectors.iter_mut().zip(&b) {
                // SAFETY: the caller's.
                *vector = unsafe { W::load(b.add(i * row)) };
            }
            for (n, kept) in kept.iter_mut().enumerate() {
                // SAFETY: the caller's.
                let factor = V::splat(unsafe { *a.add(n * apart + i) });
                for (kept, vector) in kept.iter_mut().zip(&vectors) {
                    *kept = factor.mul_add(*vector, *kept);
                }
            }
        }
    }
    *sums = kept;
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Lanes};
    use std::arch::x86_64::{
        __m256, __m512, _mm_cvtss_f32, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps,
        _mm256_add_epi32, _mm256_add_ps, _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_ps,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
        _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm512_add_epi32,
        _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_reduce_max_ps, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_slli_epi32, _mm512_storeu_ps,
    };

    /// One register of AVX-512.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    /// Two registers of AVX2, with FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256, __m256);

    impl Lanes for Avx512 {
        // 32 registers, one to a vector.
        #[inline(always)]
        fn at_once(rows: usize) -> usize {
            if rows <= 4 { 4 } else { 2 }
        }
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: this type is named only where AVX-512F was detected.
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        fn load(x: &[f32; LANES]) -> Self {
            // SAFETY: as above; the array holds the sixteen floats that are read.
            Self(unsafe { _mm512_loadu_ps(x.as_ptr()) })
        }
        #[inline(always)]
        fn store(self, out: &mut [f32; LANES]) {
            // SAFETY: as above; the array holds the sixteen floats that are written.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: this type is named only where AVX-512F was detected.
            Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_add_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_mul_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn larger(self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_max_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn smaller(self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_min_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn highest(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_max_ps(self.0) }
        }
        #[inline(always)]
        fn power_of_two(self, bias: u32) -> Self {
            let shift = 127u32.wrapping_sub(bias).cast_signed();
            // SAFETY: as above.
            Self(unsafe {
                let bits = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(shift));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(bits))
            })
        }
    }

    impl Lanes for Avx2 {
        // 16 registers, two to a vector.
        #[inline(always)]
        fn at_once(rows: usize) -> usize {
            match rows {
                1 => 4,
                2 => 2,
                _ => 1,
            }
        }
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: this type is named only where AVX2 and FMA were detected.
            let half = unsafe { _mm256_set1_ps(x) };
            Self(half, half)
        }
        #[inline(always)]
        fn load(x: &[f32; LANES]) -> Self {
            // SAFETY: as above; eight floats are read from the array's start
            // and eight from its middle.
            unsafe { Self(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(LANES / 2))) }
        }
        #[inline(always)]
        fn store(self, out: &mut [f32; LANES]) {
            // SAFETY: as above; eight floats are written at the array's start
            // and eight at its middle.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), self.0);
                _mm256_storeu_ps(out.as_mut_ptr().add(LANES / 2), self.1);
            }
        }
        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: this type is named only where AVX2 and FMA were detected.
            unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn larger(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn smaller(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_min_ps(self.0, b.0), _mm256_min_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn highest(self) -> f32 {
            // SAFETY: as above.
            unsafe {
                let eight = _mm256_max_ps(self.0, self.1);
                let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        fn power_of_two(self, bias: u32) -> Self {
            let shift = 127u32.wrapping_sub(bias).cast_signed();
            // SAFETY: as above.
            unsafe {
                let shift = _mm256_set1_epi32(shift);
                let low = _mm256_add_epi32(_mm256_castps_si256(self.0), shift);
                let high = _mm256_add_epi32(_mm256_castps_si256(self.1), shift);
                Self(
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
                )
            }
        }
    }
}
