//! SipHash-1-3 with 128 bits: a keyed hash. Without the key nobody can construct a collision.

/// The hash under one key.
#[derive(Clone, Copy)]
pub(super) struct SipHasher {
    state: State,
}

#[derive(Clone, Copy)]
struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipHasher {
    pub(super) fn new(key: &[u8; 16]) -> SipHasher {
        let key = u128::from_le_bytes(*key);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        let state = State {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            // The last byte selects the 128-bit variant.
            v1: k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        };
        SipHasher { state }
    }

    /// Returns both halves of the hash.
    #[inline]
    pub(super) fn hash(&self, bytes: &[u8]) -> [u64; 2] {
        let mut state = self.state;
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| state.absorb(u64::from_le_bytes(*word)));
        // The remaining bytes end where the last eight bytes do, so no loop over them is needed.
        let last = match bytes.last_chunk() {
            Some(word) => u64::from_le_bytes(*word).unbounded_shr(u64::BITS - 8 * rest.len() as u32),
            None => rest.iter().rev().fold(0, |last, &byte| last << 8 | u64::from(byte)),
        };
        state.absorb(last | (bytes.len() as u64) << 56);
        state.v2 ^= 0xee;
        let first = state.finish();
        state.v1 ^= 0xdd;
        [first, state.finish()]
    }
}

impl State {
    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn finish(&mut self) -> u64 {
        (0..3).for_each(|_| self.round());
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use siphasher::sip128::SipHasher13;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_hash_that_others_compute(key: [u8; 16], bytes in vec(any::<u8>(), 0..70)) {
            let theirs = SipHasher13::new_with_key(&key).hash(&bytes);
            prop_assert_eq!(SipHasher::new(&key).hash(&bytes), [theirs.h1, theirs.h2]);
        }
    }
}
