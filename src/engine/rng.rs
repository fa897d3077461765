//! Counter-based random numbers: each draw is a pure function of a branch's key
//! and a position, so what a branch samples depends on nothing else in the
//! batch.
//!
//! The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
//! splittable pseudorandom number generators", OOPSLA 2014), applied once per
//! word of the key.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Derives a key from a parent key and the number of a child.
#[must_use]
pub fn derive(key: u64, child: u64) -> u64 {
    finalise(finalise(key.wrapping_add(GOLDEN)) ^ child.wrapping_add(1).wrapping_mul(GOLDEN))
}

/// A number in [0, 1) for a branch's key and a position, with 53 random bits.
#[must_use]
pub fn uniform(key: u64, position: u64) -> f64 {
    (derive(key, position) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_evenly_and_differ_between_keys_and_positions() {
        let mut buckets = [0u32; 16];
        for key in 0..64 {
            for position in 0..1024 {
                buckets[(uniform(key, position) * 16.0) as usize] += 1;
            }
        }
        // 4,096 expected in each; six standard deviations are about 370.
        assert!(buckets.iter().all(|n| n.abs_diff(4096) < 370), "{buckets:?}");
        assert_ne!(derive(1, 2), derive(2, 1));
        assert_eq!(uniform(3, 4), uniform(3, 4));
    }
}
