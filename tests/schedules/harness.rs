//! What the scenarios share: how schedules are run, logs with threads, records that tell by whom they are, what was
//! acknowledged, and how a crash image is held against that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shuttle::thread::{self, JoinHandle};
use stratalog::schedules;
use stratalog::sim::{Crash, Order, SimStorage};
use stratalog::storage::Sizes;
use stratalog::{
    Cleanup, Durability, ErrorKind, Log, LogConfig, ManualClock, Offset, Partition, Record, RecordBatch, Timestamp,
    TopicConfig,
};

pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Long enough never to pass.
pub const LONG: Duration = Duration::from_secs(3600);
/// After this time the upkeep of a log has looked at everything.
pub const TICK: Duration = Duration::from_secs(11);
pub const NEVER: Durability = Durability::Buffered { interval: LONG, bytes: 1 << 30 };

/// Runs a case in as many schedules as the environment says.
pub fn schedules(case: impl Fn() + Send + Sync + Copy + 'static) {
    let count = std::env::var("STRATALOG_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    schedules::check(case, count);
    println!("{count} schedules, 0 bad");
}

/// A number below `count`, as the schedule has it.
pub fn draw(count: usize) -> usize {
    schedules::draw(count)
}

/// What it returns is of no interest: it has looked at that itself.
pub fn spawn<T>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || drop(run()))
}

pub fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Small enough for a few records to come to windows, to zeros, to spaces that are ordered ahead, and to mappings.
const SIZES: Sizes = Sizes {
    window_min: 512,
    window_max: 512,
    mapped_write_max: 600,
    zeroed_write_max: 2500,
    zeroed_piece: 256,
    ahead_write_max: 1200,
    windows_ahead: 2,
    writes_before_window: 1,
    map_growth_min: 300,
};

/// The configuration by default, over a storage.
pub fn config(storage: &SimStorage) -> LogConfig {
    storage.set_sizes(SIZES);
    let config = LogConfig::new().storage(Arc::new(storage.clone())).min_free_bytes(0).open_threads(Some(1));
    config.clock(Arc::new(ManualClock::new(NOW)))
}

/// The same without threads: to look at what is left.
pub fn quiet(storage: &SimStorage) -> LogConfig {
    config(storage).sync_threads(0).maintenance_interval(None)
}

/// Segments of two or three records; nothing is synced for its age or number.
pub fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(1024).index_interval_bytes(64).durability(NEVER)
}

pub fn compacted() -> TopicConfig {
    small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0)
}

/// A log with a topic `t` of so many partitions.
pub fn open_with(config: LogConfig, topic: TopicConfig, partitions: u32) -> (Log, Vec<Partition>) {
    let log = Log::open("/log", config).unwrap();
    if log.topic("t").is_none() {
        log.create_topic("t", partitions, topic).unwrap();
    }
    let partitions = log.topic("t").unwrap().partitions();
    (log, partitions)
}

/// A log with the threads of the default configuration, and one partition.
pub fn open(storage: &SimStorage, topic: TopicConfig) -> (Log, Partition) {
    let (log, mut partitions) = open_with(config(storage), topic, 1);
    (log, partitions.pop().unwrap())
}

/// What a kill or a power cut at this moment leaves, as the schedule has it.
pub fn image(storage: &SimStorage) -> SimStorage {
    if draw(2) == 0 {
        return storage.kill();
    }
    storage.crash(&Crash { order: Order::Strict, seed: draw(1 << 20) as u64 })
}

/// Values of about this size; two or three fit a segment.
pub fn value(name: &str) -> String {
    format!("{name} {}", "-".repeat(300))
}

pub fn append(partition: &Partition, key: &str, name: &str) -> u64 {
    partition.append_records([Record::new(key, &value(name))]).unwrap().base_offset.get()
}

/// One after the other, each with the next of the keys.
pub fn append_all(partition: &Partition, keys: &[&str], count: usize, name: &str) {
    for (number, key) in (0..count).zip(keys.iter().cycle()) {
        append(partition, key, &format!("{name}-{number}"));
    }
}

/// A batch of one record.
pub fn batch(key: &str, value: &str) -> RecordBatch {
    let mut builder = RecordBatch::builder();
    builder.push(&Record::new(key, value), NOW).unwrap();
    builder.build().unwrap()
}

/// All records from the start on, by what comes before the first blank of their values: offsets grow, and nothing stops
/// the read.
pub fn read(partition: &Partition) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    // The start may move on meanwhile.
    let mut reader =
        (0..9).find_map(|_| partition.reader(partition.offsets().start).ok()).expect("it stands still now");
    loop {
        let next = match reader.next_record() {
            Ok(next) => next,
            // What it stood on was deleted or truncated meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. } | ErrorKind::Truncated) => break,
            Err(error) => panic!("{error}"),
        };
        let Some(record) = next else { break };
        let value = std::str::from_utf8(record.value.unwrap_or_default()).unwrap();
        let name = value.split(' ').next().unwrap_or_default().to_owned();
        assert!(found.last_key_value().is_none_or(|(last, _)| *last < record.offset.get()), "offsets grow");
        found.insert(record.offset.get(), name);
    }
    found
}

/// What was told of a partition whose records stay: a crash afterwards must leave it. There is no scheduling point in
/// here.
#[derive(Clone, Default)]
pub struct Told {
    inner: Arc<Mutex<Facts>>,
}

#[derive(Clone, Default)]
pub struct Facts {
    /// The names of records that somebody has begun to append.
    begun: BTreeSet<String>,
    /// The names of those that were appended, by their offsets.
    appended: BTreeMap<u64, String>,
    /// All below is durable.
    durable: u64,
}

impl Told {
    pub fn now(&self) -> Facts {
        self.inner.lock().unwrap().clone()
    }

    pub fn begin(&self, name: &str) {
        assert!(self.inner.lock().unwrap().begun.insert(name.to_owned()), "names are used once");
    }

    pub fn appended(&self, offset: u64, name: &str) {
        let before = self.inner.lock().unwrap().appended.insert(offset, name.to_owned());
        assert!(before.is_none_or(|before| before == name), "an offset is given once");
    }

    pub fn durable(&self, end: Offset) {
        let mut facts = self.inner.lock().unwrap();
        facts.durable = facts.durable.max(end.get());
    }

    /// Appends a record under a name that is used once, and takes note of it.
    pub fn append(&self, partition: &Partition, name: &str) -> u64 {
        self.begin(name);
        let offset = append(partition, "k", name);
        self.appended(offset, name);
        offset
    }

    pub fn append_all(&self, partition: &Partition, name: &str, count: usize) {
        for number in 0..count {
            self.append(partition, &format!("{name}-{number}"));
        }
    }

    /// Takes images of the storage, drawn ones, in a thread of its own, and holds each against what was told before.
    pub fn watch(&self, storage: &SimStorage, images: usize) -> JoinHandle<()> {
        let (told, storage) = (self.clone(), storage.clone());
        spawn(move || {
            for _ in 0..images {
                let before = told.now();
                match draw(4) {
                    0 => told.check(&storage.kill(), &before, true),
                    seed => {
                        let order = if draw(2) == 0 { Order::Strict } else { Order::Journaled };
                        let seed = [0, 1, draw(1 << 30) as u64][seed - 1];
                        told.check(&storage.crash(&Crash { order, seed }), &before, false);
                    }
                }
            }
        })
    }

    /// Opens an image and looks for all that was durable, or appended if the page cache was `kept`; and that nothing else
    /// is there, but what was begun.
    pub fn check(&self, image: &SimStorage, before: &Facts, kept: bool) {
        let (log, partitions) = open_with(quiet(image), small(), 1);
        let found = read(&partitions[0]);
        let Facts { begun, appended, .. } = self.now();
        let sure = if kept { u64::MAX } else { before.durable };
        for (offset, name) in before.appended.range(..sure) {
            assert_eq!(found.get(offset), Some(name), "what was told at {offset}; found {found:?}");
        }
        assert!(partitions[0].offsets().end.get() >= before.durable, "the log ends below what was durable");
        for (offset, name) in &found {
            assert!(begun.contains(name), "{name} at {offset} was never appended");
            assert!(appended.get(offset).is_none_or(|told| told == name), "{name} at {offset} is another's");
        }
        assert!(found.keys().copied().eq(0..found.len() as u64), "nothing is left out: {found:?}");
        drop(log);
    }
}

/// Waits until the upkeep has looked at everything once more; what it found to do may not be done yet.
pub fn tick() {
    schedules::sleep(TICK);
}

/// Waits until the threads of the log have brought this about.
pub fn until(mut is_done: impl FnMut() -> bool) {
    assert!((0..30).any(|_| {
        tick();
        is_done()
    }));
}
