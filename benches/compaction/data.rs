//! The records that all comparisons use: splitmix64 from 42.

/// Draws records.
pub struct Data {
    state: u64,
    keys: u64,
    value_size: usize,
}

/// A key and a value; without one it is a tombstone.
pub type Drawn = (String, Option<Vec<u8>>);

impl Data {
    pub fn new(keys: u64, value_size: usize) -> Data {
        Data { state: 42, keys, value_size }
    }

    /// So many records, one in twenty a tombstone.
    pub fn batch(&mut self, records: usize) -> Vec<Drawn> {
        (0..records).map(|_| self.record()).collect()
    }

    /// A record of this key, with a value.
    pub fn record_of(&mut self, key: u64) -> (String, Vec<u8>) {
        (format!("key-{key:08}"), self.value())
    }

    fn record(&mut self) -> Drawn {
        let key = format!("key-{:08}", self.next() % self.keys);
        let is_tombstone = self.next() % 100 < 5;
        (key, (!is_tombstone).then(|| self.value()))
    }

    fn value(&mut self) -> Vec<u8> {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut value = Vec::with_capacity(self.value_size + 8);
        while value.len() < self.value_size {
            let mut bits = self.next();
            for _ in 0..8 {
                value.push(ALPHABET[(bits & 63) as usize]);
                bits >>= 6;
            }
        }
        value.truncate(self.value_size);
        value
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
