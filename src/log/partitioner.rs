//! Choosing the partition of a record: Kafka's default partitioner.

use crate::sync::atomic::{AtomicU32, Ordering};

/// Returns the partition of a key, among `partitions`: `(murmur2(key) & 0x7fffffff) % partitions`.
///
/// ```
/// use stratalog::partition_for_key;
///
/// // The partitions that Kafka's clients choose for these keys.
/// assert_eq!(partition_for_key(b"ada", 4), 1);
/// assert_eq!(partition_for_key(b"bob", 4), 2);
/// ```
///
/// # Panics
/// If `partitions` is 0.
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// Kafka's variant of MurmurHash2: 32 bits, its own seed, blocks little-endian.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut hash = SEED ^ data.len() as u32;
    let mut blocks = data.chunks_exact(4);
    for block in &mut blocks {
        let mut k = block.iter().rev().fold(0, |k, &byte| (k << 8) | u32::from(byte));
        k = k.wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = blocks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |k, &byte| (k << 8) | u32::from(byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Hands out partitions in turn, for records without a key. The counter orders no other memory access.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin(AtomicU32);

impl RoundRobin {
    pub(crate) fn next(&self, partitions: u32) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed) % partitions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_kafkas() {
        // Values that Kafka's own tests state, as signed integers there.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_key_always_goes_to_the_same_partition() {
        assert!((0..100).all(|n| partition_for_key(&[n], 7) == partition_for_key(&[n], 7)));
        assert!((0..100).map(|n| partition_for_key(&[n], 7)).all(|partition| partition < 7));
    }
}
