//! The hashes of the contract, and random numbers.

fn mix53(mut h: u64) -> f64 {
    h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ h >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((h ^ h >> 33) >> 11) as f64
}

/// Returns the 53-bit hash of a text: `id_hash` is the hash of a proxy's id, `host_hash` of a host
/// (in lower case, without the port), `region_hash` of a region (in lower case). The hash is FNV-1a
/// with the finalizer of MurmurHash3.
pub fn hash53(text: &str) -> f64 {
    mix53(text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3)))
}

/// Combines two hashes into one: `affinity_hash` is `pair53(id_hash, host_hash)`.
pub fn pair53(a: f64, b: f64) -> f64 {
    mix53((a as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b as u64))
}

/// Returns a random number in (0, 1], uniformly distributed. The same seed and `i` give the same
/// number: pass the request's seed and the candidate's index (SplitMix64).
pub fn uniform(seed: f64, i: usize) -> f64 {
    let mut z = seed.to_bits().wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (((z ^ z >> 31) >> 11) + 1) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_page() {
        assert_eq!(hash53("example.com"), 5262515118486170.0);
        assert_eq!(hash53("US-EAST"), 3407491858544490.0);
        assert_eq!(hash53("a"), 4596324399134681.0);
        assert_eq!(pair53(hash53("a"), hash53("example.com")), 1954661515094328.0);
    }

    #[test]
    fn uniform_is_uniform() {
        let n = 10_000;
        let sum: f64 = (0..n).map(|i| uniform(42.0, i)).sum();
        assert!((sum / n as f64 - 0.5).abs() < 0.01);
        assert!((0..n).all(|i| uniform(42.0, i) > 0.0 && uniform(42.0, i) <= 1.0));
        assert!(uniform(1.0, 0) != uniform(2.0, 0));
    }
}
