//! The generator of all benchmarks and comparisons: splitmix64, the same numbers for the same seed on every machine.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Appends so many characters of 6 bits each.
    pub fn text(&mut self, into: &mut Vec<u8>, len: usize) {
        let end = into.len() + len;
        while into.len() < end {
            let bits = self.next();
            into.extend((0..8).map(|at| ALPHABET[(bits >> (6 * at)) as usize & 63]));
        }
        into.truncate(end);
    }
}
