//! The records that all comparisons use.

#[path = "../support/random.rs"]
mod random;

use random::Random;

/// Draws records.
pub struct Data {
    random: Random,
    keys: u64,
    value_size: usize,
}

/// A key and a value; without one it is a tombstone.
pub type Drawn = (String, Option<Vec<u8>>);

impl Data {
    pub fn new(keys: u64, value_size: usize) -> Data {
        Data { random: Random::new(42), keys, value_size }
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
        let mut value = Vec::with_capacity(self.value_size + 8);
        self.random.text(&mut value, self.value_size);
        value
    }

    pub fn next(&mut self) -> u64 {
        self.random.next()
    }
}
