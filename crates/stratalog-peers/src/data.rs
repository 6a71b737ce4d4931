//! The records of all comparisons: splitmix64 from 42, key `key-%08d` at random, one record in twenty a tombstone.

#[path = "../../../benches/support/random.rs"]
mod random;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use stratalog::{Record, Timestamp};

pub use random::Random;

/// Of so many different keys, unless said otherwise.
pub const KEYS: u64 = 100_000;
const KEY_SIZE: usize = 12;
const TOMBSTONES: u64 = 5;
const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;

/// All records of a workload, one behind the other in memory: reading them costs each engine the same, and little.
pub struct Records {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// A record. What engines without keys store is the key with the value behind it.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub number: u64,
    pub payload: &'a [u8],
}

impl<'a> Entry<'a> {
    pub fn key(&self) -> &'a [u8] {
        &self.payload[..KEY_SIZE]
    }

    /// None deletes the key.
    pub fn value(&self) -> Option<&'a [u8]> {
        Some(&self.payload[KEY_SIZE..]).filter(|value| !value.is_empty())
    }

    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(FIRST_TIMESTAMP + self.number as i64)
    }

    pub fn record(&self) -> Record<'a> {
        Record { value: self.value(), ..Record::new(self.key(), "") }.at(self.timestamp())
    }
}

impl Records {
    pub fn generate(count: usize, keys: u64, value_size: usize) -> Records {
        let mut random = Random::new(42);
        let mut records = Records { bytes: Vec::new(), ends: Vec::with_capacity(count) };
        for _ in 0..count {
            records.bytes.extend_from_slice(format!("key-{:08}", random.next() % keys).as_bytes());
            if random.next() % 100 >= TOMBSTONES {
                random.text(&mut records.bytes, value_size);
            }
            records.ends.push(records.bytes.len());
        }
        records
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of keys and values.
    pub fn payload(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn get(&self, number: usize) -> Entry<'_> {
        let from = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        Entry { number: number as u64, payload: &self.bytes[from..self.ends[number]] }
    }

    pub fn all(&self) -> Run<'_> {
        Run { records: self, from: 0, to: self.len() }
    }

    /// How many keys have a value once all is applied.
    pub fn live_keys(&self) -> usize {
        let last: HashMap<&[u8], bool> = self.all().iter().map(|e| (e.key(), e.value().is_some())).collect();
        last.values().filter(|live| **live).count()
    }
}

/// Consecutive records.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    records: &'a Records,
    from: usize,
    to: usize,
}

impl<'a> Run<'a> {
    pub fn len(&self) -> usize {
        self.to - self.from
    }

    pub fn iter(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let records = self.records;
        (self.from..self.to).map(move |number| records.get(number))
    }

    /// In runs of at most so many.
    pub fn chunks(&self, size: usize) -> impl Iterator<Item = Run<'a>> + use<'a> {
        let Run { records, from, to } = *self;
        (from..to).step_by(size).map(move |at| Run { records, from: at, to: to.min(at + size) })
    }
}

/// When a workload that is bound by time ends.
#[derive(Clone, Copy)]
pub struct Stop(Option<Instant>);

impl Stop {
    /// With the last record.
    pub fn never() -> Stop {
        Stop(None)
    }

    pub fn after(time: Duration) -> Stop {
        Stop(Some(Instant::now() + time))
    }

    pub fn is_due(&self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
    }
}
