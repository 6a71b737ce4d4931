//! What the benchmarks share: the records, a log in a directory of its own, and how a measurement is taken.

// Each benchmark is a program of its own and uses a part of this.
#![allow(dead_code)]

mod random;

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkGroup, Throughput, measurement::WallTime};
use stratalog::{Durability, Log, LogConfig, Partition, Record, RecordBatch, Timestamp, TopicConfig};
use tempfile::TempDir;

pub use random::Random;

/// Of so many different keys.
pub const KEYS: u64 = 100_000;
/// In a hundred records.
const TOMBSTONES: u64 = 5;
const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;

/// A key and its value; no value deletes the key.
pub struct Entry {
    pub key: [u8; 12],
    pub value: Option<Vec<u8>>,
    pub timestamp: Timestamp,
}

impl Entry {
    pub fn record(&self) -> Record<'_> {
        let record = match &self.value {
            Some(value) => Record::new(&self.key[..], &value[..]),
            None => Record::tombstone(&self.key[..]),
        };
        record.at(self.timestamp)
    }
}

/// Records that are the same each time: keys at random, one in twenty a tombstone.
pub fn entries(count: usize, keys: u64, value_size: usize) -> Vec<Entry> {
    let mut random = Random::new(42);
    let entry = |n| {
        let key = format!("key-{:08}", random.next() % keys).into_bytes().try_into().expect("12 bytes");
        let value = (random.next() % 100 >= TOMBSTONES).then(|| {
            let mut value = Vec::with_capacity(value_size + 8);
            random.text(&mut value, value_size);
            value
        });
        Entry { key, value, timestamp: Timestamp::from_millis(FIRST_TIMESTAMP + n as i64) }
    };
    (0..count).map(entry).collect()
}

/// The records in batches.
pub fn batches(entries: &[Entry], per_batch: usize) -> Vec<RecordBatch> {
    let batch = |entries: &[Entry]| {
        let mut builder = RecordBatch::builder();
        for entry in entries {
            builder.push(&entry.record(), entry.timestamp).expect("it fits");
        }
        builder.build().expect("it is sound")
    };
    entries.chunks(per_batch).map(batch).collect()
}

/// Bytes of keys and values.
pub fn payload(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| (entry.key.len() + entry.value.as_ref().map_or(0, Vec::len)) as u64).sum()
}

/// Acknowledged from the page cache; synced only where a segment is sealed.
pub fn buffered() -> TopicConfig {
    TopicConfig::new().durability(Durability::Buffered { interval: Duration::from_secs(3600), bytes: 8 << 30 })
}

/// Acknowledged after the sync.
pub fn synced() -> TopicConfig {
    TopicConfig::new().durability(Durability::Sync)
}

pub fn config() -> LogConfig {
    LogConfig::new().maintenance_interval(None).max_unsynced_bytes(8 << 30)
}

/// A log in a temporary directory of the target directory's file system, not of a memory file system.
pub struct Scratch {
    pub log: Log,
    pub dir: TempDir,
}

impl Scratch {
    pub fn new() -> Scratch {
        let dir = directory();
        let log = Log::open(dir.path(), config()).expect("a fresh directory opens");
        Scratch { log, dir }
    }

    pub fn partition(&self, config: TopicConfig) -> Partition {
        self.log.create_partition("bench", 0, config).expect("it is the first one")
    }

    /// Leaves the directory as a killed process would.
    pub fn kill(self) -> TempDir {
        let Scratch { log, dir } = self;
        drop(log);
        dir
    }
}

/// A directory for data, beside the build: `/tmp` is memory on many machines.
pub fn directory() -> TempDir {
    tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("the target directory can be written")
}

/// Measures `work` on a fresh partition each time; making it, and removing its files, is not measured.
pub fn on_fresh_partition(bencher: &mut Bencher<'_>, config: &TopicConfig, mut work: impl FnMut(&Partition)) {
    bencher.iter_custom(|iterations| {
        let mut took = Duration::ZERO;
        for _ in 0..iterations {
            let scratch = Scratch::new();
            let partition = scratch.partition(config.clone());
            let began = Instant::now();
            work(&partition);
            took += began.elapsed();
        }
        took
    });
}

/// How long a group may take: about three seconds for each benchmark, and half of one where `STRATALOG_BENCH` is
/// `quick`.
pub fn brief(group: &mut BenchmarkGroup<'_, WallTime>, records: usize) {
    let (warm_up, measured) = if is_quick() { (50, 200) } else { (500, 2000) };
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(warm_up))
        .measurement_time(Duration::from_millis(measured))
        .throughput(Throughput::Elements(records as u64));
}

/// Whether little is to be measured: `STRATALOG_BENCH=quick`.
pub fn is_quick() -> bool {
    std::env::var("STRATALOG_BENCH").is_ok_and(|mode| mode == "quick")
}

/// So many, or a tenth in quick mode.
pub fn scaled(count: usize) -> usize {
    if is_quick() { count / 10 } else { count }
}
