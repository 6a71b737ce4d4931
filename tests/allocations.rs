//! In steady state nothing is allocated for each record: not to append, to read, to recover, or to compact. The same
//! work is done with few records and with many times as many, in as many calls, and allocates as often.

#[path = "../benches/counting/allocator.rs"]
mod allocator;

use std::path::Path;
use std::time::Duration;

use allocator::allocations;
use stratalog::{
    Cleanup, Clock, CompactMode, Durability, FetchOptions, Log, LogConfig, Offset, Partition, Record, RecordBatch,
    SystemClock, TopicConfig,
};

const FEW: usize = 2;
const MANY: usize = 200;
const BATCHES: usize = 200;

fn config() -> LogConfig {
    LogConfig::new().maintenance_interval(None).max_unsynced_bytes(1 << 30).sync_threads(0).open_threads(Some(1))
}

fn topic() -> TopicConfig {
    let never = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
    TopicConfig::new().durability(never).min_cleanable_dirty_ratio(0.0)
}

fn open(dir: &Path, topic: TopicConfig) -> (Log, Partition) {
    let log = Log::open(dir, config()).expect("it opens");
    let partition = log.partition("t", 0);
    let partition = partition.unwrap_or_else(|| log.create_partition("t", 0, topic).expect("it is the first one"));
    (log, partition)
}

fn keys(records: usize) -> Vec<String> {
    (0..records).map(|number| format!("key-{number:08}")).collect()
}

fn batch_of(keys: &[String]) -> RecordBatch {
    let mut builder = RecordBatch::builder();
    let now = SystemClock.now();
    keys.iter().for_each(|key| builder.push(&Record::new(key, "a value"), now).expect("it fits"));
    builder.build().expect("it is sound")
}

/// A log with so many records in each of its batches.
fn filled(dir: &Path, per_batch: usize, topic: TopicConfig) -> (Log, Partition) {
    let (log, partition) = open(dir, topic);
    let batch = batch_of(&keys(per_batch));
    (0..BATCHES).for_each(|_| {
        partition.append(&batch).expect("there is room");
    });
    (log, partition)
}

/// What a piece of work allocates on the second time.
fn steady(mut work: impl FnMut()) -> u64 {
    work();
    let before = allocations();
    work();
    allocations() - before
}

/// That the work allocates as often with many records in each batch as with few: at most `more` times as well.
fn assert_alike(more: u64, count: impl Fn(usize) -> u64) {
    // The first time pays for what is made once.
    count(FEW);
    let (few, many) = (count(FEW), count(MANY));
    assert!(many <= few + more, "{few} for {FEW} records a batch, {many} for {MANY}");
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room")
}

#[test]
fn appending_more_records_a_call_allocates_as_often() {
    // A large batch goes another way than a small one, which allocates once a call.
    assert_alike(BATCHES as u64 + 10, |per_batch| {
        let dir = temporary();
        let (_log, partition) = open(dir.path(), topic());
        let keys = keys(per_batch);
        steady(|| {
            for _ in 0..BATCHES {
                let records = keys.iter().map(|key| Record::new(key, "a value"));
                partition.append_records(records).expect("there is room");
            }
        })
    });
}

#[test]
fn appending_one_record_a_call_allocates_less_than_once_in_ten_calls() {
    const CALLS: u64 = 10_000;
    let dir = temporary();
    let (_log, partition) = open(dir.path(), topic());
    let count = steady(|| {
        for _ in 0..CALLS {
            partition.append_records([Record::new("key-00000001", "a value")]).expect("there is room");
        }
    });
    assert!(count <= CALLS / 10, "{count} allocations for {CALLS} records");
}

#[test]
fn a_ready_batch_of_more_records_allocates_as_often() {
    assert_alike(BATCHES as u64 + 10, |per_batch| {
        let dir = temporary();
        let (_log, partition) = open(dir.path(), topic());
        let batch = batch_of(&keys(per_batch));
        steady(|| {
            for _ in 0..BATCHES {
                partition.append(&batch).expect("there is room");
            }
        })
    });
}

#[test]
fn reading_more_records_allocates_as_often() {
    for is_sealed in [false, true] {
        // A hundred times the bytes take more fetches, not more for each record.
        assert_alike(40, |per_batch| {
            let dir = temporary();
            let (_log, partition) = filled(dir.path(), per_batch, topic());
            if is_sealed {
                partition.roll().expect("it can be sealed");
            }
            steady(|| {
                let mut reader = partition.reader(Offset::ZERO).expect("it is open");
                let mut records = 0;
                while reader.next_record().expect("it is sound").is_some() {
                    records += 1;
                }
                assert_eq!(records, per_batch * BATCHES);
            })
        });
    }
}

#[test]
fn fetching_allocates_as_often_whatever_the_batches_hold() {
    assert_alike(10, |per_batch| {
        let dir = temporary();
        let (_log, partition) = filled(dir.path(), per_batch, topic());
        partition.roll().expect("it can be sealed");
        steady(|| {
            // As many calls in both cases: one for each batch.
            for batch in 0..BATCHES {
                let from = Offset::new((batch * per_batch) as u64);
                let options = FetchOptions { max_bytes: 1, check_crc: true, ..FetchOptions::default() };
                assert_eq!(partition.fetch(from, options).expect("it is sound").batches().count(), 1);
            }
        })
    });
}

#[test]
fn recovering_more_records_allocates_as_often() {
    assert_alike(100, |per_batch| {
        let dir = temporary();
        // Dropping them leaves what the end of the process would: all is scanned.
        drop(filled(dir.path(), per_batch, topic()));
        let before = allocations();
        let log = Log::open(dir.path(), config()).expect("it recovers");
        let count = allocations() - before;
        let end = log.partition("t", 0).expect("it was made").offsets().end;
        assert_eq!(end, Offset::new((per_batch * BATCHES) as u64));
        count
    });
}

#[test]
fn compacting_more_records_allocates_as_often() {
    assert_alike(200, |per_batch| {
        let dir = temporary();
        let compacted = topic().cleanup(Cleanup::Compact);
        let (_log, partition) = filled(dir.path(), per_batch, compacted);
        partition.roll().expect("it can be sealed");
        let before = allocations();
        let report = partition.compact(SystemClock.now(), CompactMode::Due).expect("it is sound");
        let count = allocations() - before;
        assert!(!report.is_idle() && report.damaged.is_empty(), "{report:?}");
        count
    });
}
