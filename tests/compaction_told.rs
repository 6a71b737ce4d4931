//! What a compaction goes by and leaves beside the records: counts, times, aborted transactions, files.

mod common;
#[path = "common/watched.rs"]
mod watched;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::clocked;
use stratalog::format::{Marker, end_marker};
use stratalog::{
    Cleanup, Clock, CompactMode, FetchOptions, Isolation, Log, LogConfig, ManualClock, Offset, Partition, Record,
    RecordBatch, Timestamp, TopicConfig,
};
use watched::{Call, Watched, name};

fn topic() -> TopicConfig {
    TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.5)
}

fn log_of(config: LogConfig, topic: TopicConfig) -> (tempfile::TempDir, Log, Partition) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config).unwrap();
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    (dir, log, partition)
}

/// Appends so many updates of as many keys, one record a batch, each a millisecond younger.
fn fill(partition: &Partition, clock: &ManualClock, rounds: u32, keys: u32) {
    for round in 0..rounds {
        for key in 0..keys {
            let (key, value) = (format!("key-{key:03}"), format!("{round:03}-{}", "v".repeat(100)));
            partition.append_records([Record::new(&key, &value)]).unwrap();
            clock.set(clock.now().plus_millis(1));
        }
    }
}

fn seal(partition: &Partition) {
    partition.roll().unwrap();
    partition.flush().unwrap();
}

/// A batch of a transaction, with as many records.
fn transactional(records: u32, now: Timestamp) -> RecordBatch {
    let mut builder = RecordBatch::builder().producer(7, 0, 0).transactional(true);
    for n in 0..records {
        let (key, value) = (format!("aborted-{n:03}"), "v".repeat(100));
        builder.push(&Record::new(&key, &value), now).unwrap();
    }
    builder.build().unwrap()
}

fn abort(partition: &Partition, now: Timestamp) {
    partition.append(&end_marker(Marker::Abort, 7, 0, 0, now).unwrap()).unwrap();
}

#[test]
fn records_that_were_superseded_in_their_own_segment_are_counted_as_dead() {
    let (config, clock) = clocked();
    // Two of three are dead, and that is not enough.
    let (_dir, _log, partition) = log_of(config, topic().min_cleanable_dirty_ratio(0.9));
    fill(&partition, &clock, 3, 20);
    seal(&partition);
    fill(&partition, &clock, 1, 5);
    seal(&partition);
    assert!(partition.compact(clock.now(), CompactMode::Due).unwrap().is_idle());
    let stats = partition.stats().compaction;
    assert_eq!(stats.dead_records, 45);
    let of_record = stats.dead_bytes / 45;
    assert!(stats.dead_bytes.is_multiple_of(45) && (110..130).contains(&of_record), "{stats:?}");
}

#[test]
fn a_tombstone_does_not_stay_longer_for_every_look_at_it() {
    let minutes = |n| Duration::from_secs(n * 60);
    let (config, clock) = clocked();
    let (_dir, _log, partition) = log_of(config, topic().delete_retention(minutes(60)));
    fill(&partition, &clock, 1, 20);
    partition.append_records([Record::tombstone("key-000")]).unwrap();
    seal(&partition);
    let began = clock.now();
    assert!(partition.compact(began, CompactMode::Due).unwrap().is_idle(), "its segment is left alone");
    let later = |n: u64| began.plus_millis(minutes(n).as_millis() as i64);
    clock.set(later(30));
    for n in 0..50 {
        partition.append_records([Record::new("other", &n.to_string())]).unwrap();
    }
    seal(&partition);
    let report = partition.compact(clock.now(), CompactMode::Due).unwrap();
    assert_eq!((report.segments_rewritten, report.tombstones_removed), (1, 0));
    assert_eq!(partition.compact(later(59), CompactMode::Due).unwrap().tombstones_removed, 0);
    // Horizons are rounded up.
    assert_eq!(partition.compact(later(70), CompactMode::Due).unwrap().tombstones_removed, 1);
}

#[test]
fn aborted_records_are_garbage_by_their_bytes() {
    let (config, clock) = clocked();
    let (_dir, _log, partition) = log_of(config, topic());
    partition.append(&transactional(60, clock.now())).unwrap();
    abort(&partition, clock.now());
    fill(&partition, &clock, 1, 20);
    seal(&partition);
    let before = partition.stats().bytes;
    let report = partition.compact(clock.now(), CompactMode::Due).unwrap();
    assert_eq!((report.digests_built, report.segments_rewritten), (1, 1));
    assert!(partition.stats().bytes < before / 2, "{before} and then {}", partition.stats().bytes);
}

#[test]
fn records_stay_aborted_when_the_segment_of_their_marker_is_rewritten() {
    let (config, clock) = clocked();
    let (dir, log, partition) = log_of(config.clone(), topic());
    fill(&partition, &clock, 1, 50);
    partition.append(&transactional(3, clock.now())).unwrap();
    seal(&partition);
    abort(&partition, clock.now());
    // Of other keys, most of them dead.
    for n in 0..50 {
        partition.append_records([Record::new("other", &n.to_string())]).unwrap();
    }
    seal(&partition);
    let report = partition.compact(clock.now(), CompactMode::Due).unwrap();
    assert_eq!((report.segments_rewritten, report.segments_written), (1, 1), "the first one is left alone");
    let committed = |partition: &Partition| {
        let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
        let mut reader = partition.reader_with(Offset::ZERO, options).unwrap();
        let mut keys = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            keys.push(String::from_utf8(record.key.unwrap().to_vec()).unwrap());
        }
        keys
    };
    let shown = committed(&partition);
    assert_eq!((shown.len(), shown.iter().any(|key| key.starts_with("aborted"))), (51, false), "{shown:?}");
    drop(partition);
    log.close().unwrap();
    let log = Log::open(dir.path(), config).unwrap();
    assert_eq!(committed(&log.partition("t", 0).unwrap()), shown);
}

#[test]
fn what_was_rewritten_is_found_by_its_time_and_goes_by_it() {
    const DAY: i64 = 86_400_000;
    let (config, clock) = clocked();
    let topic = topic().cleanup(Cleanup::CompactDelete).retention_age(Some(Duration::from_millis(DAY as u64)));
    let (_dir, _log, partition) = log_of(config, topic);
    fill(&partition, &clock, 4, 20);
    let last = clock.now().plus_millis(-1);
    seal(&partition);
    assert_eq!(partition.compact(clock.now(), CompactMode::Due).unwrap().segments_rewritten, 1);
    assert_eq!(partition.offset_for(last).unwrap(), Some(Offset::new(79)));
    assert_eq!(partition.offset_for(last.plus_millis(1)).unwrap(), None);
    assert_eq!(partition.retain(last.plus_millis(DAY)).unwrap(), 0);
    assert_eq!(partition.retain(last.plus_millis(DAY + 1)).unwrap(), 1);
}

#[test]
fn the_report_tells_what_was_written_and_few_writes_do_it() {
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    let storage = Watched::new(move |call, path| {
        let output = name(path).contains(".log.") && name(path).ends_with(".cleaned");
        counted.fetch_add(usize::from(call == Call::Write && output), Ordering::Relaxed);
        Ok(())
    });
    let (config, clock) = clocked();
    let (_dir, _log, partition) = log_of(config.storage(storage), topic());
    fill(&partition, &clock, 3, 500);
    seal(&partition);
    let before = partition.stats().bytes;
    let report = partition.compact(clock.now(), CompactMode::Due).unwrap();
    let after = partition.stats().bytes;
    assert_eq!((report.bytes_written, report.bytes_freed), (after, before - after));
    assert!(after > 50 << 10, "{after}");
    assert_eq!(writes.load(Ordering::Relaxed), 1, "less than a mebibyte is written at once");
}

#[test]
fn a_compaction_that_makes_way_has_not_failed() {
    let (armed, reading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (watch, seen) = (Arc::clone(&armed), Arc::clone(&reading));
    let storage = Watched::new(move |call, path| {
        if watch.load(Ordering::SeqCst) && call == Call::Read && name(path).ends_with(".log") {
            seen.store(true, Ordering::SeqCst);
            // All segments take seconds.
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    let (config, clock) = clocked();
    let (_dir, _log, partition) = log_of(config.storage(storage), topic().segment_bytes(1024).mapped_reads(false));
    fill(&partition, &clock, 3, 200);
    seal(&partition);
    assert!(partition.stats().segments > 100);
    armed.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let compaction = scope.spawn(|| partition.compact(clock.now(), CompactMode::Due));
        while !reading.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        partition.truncate(Offset::new(600)).unwrap();
        let report = compaction.join().unwrap().unwrap();
        assert!(report.unfinished && report.is_idle(), "{report:?}");
    });
}
