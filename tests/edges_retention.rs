//! Retention at its bounds, and what giving up records does where the disk does not go along.
#![cfg(feature = "sim")]

mod common;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::{append, quiet};
use stratalog::sim::{Call, Calls, Failure, Fault, Injection, SimStorage};
use stratalog::{
    Budget, Cleanup, Clock, Durability, ErrorKind, Log, LogConfig, ManualClock, Offset, Partition, Record, Timestamp,
    TopicConfig,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn config(storage: &SimStorage, clock: &Arc<ManualClock>) -> LogConfig {
    let config = quiet().storage(Arc::new(storage.clone())).clock(clock.clone());
    config.sync_threads(0).open_threads(Some(1))
}

fn open(topic: TopicConfig) -> (SimStorage, Arc<ManualClock>, Log, Partition) {
    let (storage, clock) = (SimStorage::new(), Arc::new(ManualClock::new(NOW)));
    let log = Log::open("/log", config(&storage, &clock)).unwrap();
    let topic = topic.segment_age(HOUR * 1000).durability(Durability::Buffered { interval: HOUR, bytes: 1 << 30 });
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    (storage, clock, log, partition)
}

fn at(millis: i64) -> Timestamp {
    NOW.plus_millis(millis)
}

fn append_at(partition: &Partition, millis: i64) {
    partition.append_records([Record { timestamp: Some(at(millis)), ..Record::new("k", "v") }]).unwrap();
}

/// When maintenance has something to do, and where the log begins after it.
fn maintain(log: &Log, clock: &ManualClock, partition: &Partition) -> (Option<Timestamp>, u64) {
    let report = log.maintain(clock.now(), Budget { time: None }).unwrap();
    (report.next_deadline, partition.offsets().start.get())
}

#[test]
fn the_next_deadline_is_when_the_oldest_segment_that_is_left_expires() {
    let (_storage, clock, log, partition) = open(TopicConfig::new().retention_age(Some(HOUR)));
    let hour = HOUR.as_millis() as i64;
    let due = |millis: i64| Some(at(hour + millis + 1));
    append_at(&partition, 0);
    partition.roll().unwrap();
    clock.advance(Duration::from_millis(500));
    append_at(&partition, 500);
    assert_eq!(maintain(&log, &clock, &partition), (due(0), 0), "the sealed one is older than the active one");
    clock.advance(HOUR - Duration::from_millis(500));
    assert_eq!(maintain(&log, &clock, &partition), (due(0), 0), "as old as may be");
    clock.advance(Duration::from_millis(1));
    assert_eq!(maintain(&log, &clock, &partition), (due(500), 1), "the active one is the next");
    clock.advance(Duration::from_millis(500));
    assert_eq!(maintain(&log, &clock, &partition), (due(500), 1), "it is sealed, and goes with the next pass");
    assert_eq!(partition.stats().segments, 2);
    assert_eq!(maintain(&log, &clock, &partition), (None, 2), "an empty segment does not expire");
    assert_eq!(partition.stats().segments, 1);
}

#[test]
fn the_size_is_kept_to_the_byte() {
    for spare in [0, 1] {
        let (_storage, clock, log, partition) = open(TopicConfig::new());
        for _ in 0..3 {
            append(&partition, 1);
            partition.roll().unwrap();
        }
        append(&partition, 1);
        // Each of the four segments has one record of the same size.
        let three = partition.stats().bytes / 4 * 3;
        log.topic("t").unwrap().set_config(TopicConfig::new().retention_bytes(Some(three + spare))).unwrap();
        let (_, start) = maintain(&log, &clock, &partition);
        assert_eq!(start, 1 - spare, "the first goes where this much is left without it");
    }
}

#[test]
fn a_segment_stays_while_it_is_not_replicated_to_its_end() {
    let topic = TopicConfig::new().retention_bytes(Some(0)).watermark(stratalog::WatermarkMode::Managed);
    let (_storage, clock, log, partition) = open(topic);
    for _ in 0..2 {
        append(&partition, 3);
        partition.roll().unwrap();
    }
    append(&partition, 3);
    for (mark, start) in [(2, 0), (3, 3), (5, 3), (6, 6)] {
        partition.set_high_watermark(Offset::new(mark)).unwrap();
        assert_eq!(maintain(&log, &clock, &partition).1, start, "replicated up to {mark}");
    }
}

/// A roll is open, with one record behind it.
fn rolled() -> (SimStorage, Log, Partition) {
    let (storage, _clock, log, partition) = open(TopicConfig::new().segment_bytes(1024));
    partition.set_leader_epoch(3).unwrap();
    while partition.stats().segments == 1 {
        append(&partition, 1);
    }
    // The sealed segment can be synced; the file of leader epochs is new.
    let (calls, failure) = (Calls::Only(Call::Create), Failure::NoSpace);
    storage.inject(Injection { calls, after: 0, failure, forever: true, seed: 1 });
    (storage, log, partition)
}

#[test]
fn records_are_given_up_though_what_is_stored_beside_them_finds_no_room() {
    let (storage, _log, partition) = rolled();
    partition.delete_before(Offset::new(2)).unwrap();
    assert_eq!(partition.offsets().start, Offset::new(2));
    assert_eq!(*partition.flush().unwrap_err().kind(), ErrorKind::DiskFull);
    storage.set_fault(None);
    append(&partition, 1);
    partition.flush().unwrap();
}

#[test]
fn records_are_not_given_up_where_what_is_behind_them_is_not_durable() {
    let (storage, _log, partition) = rolled();
    let end = partition.offsets().end;
    assert_eq!(*partition.delete_before(end).unwrap_err().kind(), ErrorKind::DiskFull);
    assert_eq!(partition.offsets().start, Offset::ZERO);
    storage.set_fault(None);
    partition.delete_before(end).unwrap();
    assert_eq!(partition.offsets().start, end);
}

#[test]
fn records_are_not_given_up_where_the_sync_below_them_fails() {
    let (storage, _clock, _log, partition) = open(TopicConfig::new());
    append(&partition, 3);
    let fault = Fault { call: Some(Call::Sync), after: 0, error: io::ErrorKind::Other, forever: true };
    storage.set_fault(Some(fault));
    let error = partition.delete_before(Offset::new(2)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io(_) | ErrorKind::Poisoned), "{error}");
    assert_eq!(partition.offsets().start, Offset::ZERO);
    storage.set_fault(None);
    assert_eq!(*partition.delete_before(Offset::new(2)).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(partition.offsets().start, Offset::ZERO);
}

#[test]
fn nothing_is_given_up_of_a_log_that_is_closed() {
    let (storage, _clock, log, partition) = open(TopicConfig::new());
    append(&partition, 3);
    log.close().unwrap();
    let before = storage.files();
    assert_eq!(*partition.delete_before(Offset::new(2)).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(storage.files(), before);
    let log = Log::open("/log", config(&storage, &Arc::new(ManualClock::new(NOW)))).unwrap();
    assert_eq!(log.partition("t", 0).unwrap().offsets().start, Offset::ZERO);
}

#[test]
fn a_compacted_topic_has_no_retention_unless_it_deletes_as_well() {
    for (cleanup, start) in [(Cleanup::Compact, 0), (Cleanup::CompactDelete, 2)] {
        let topic = TopicConfig::new().cleanup(cleanup).retention_age(Some(HOUR)).min_cleanable_dirty_ratio(1.0);
        let (_storage, clock, log, partition) = open(topic);
        append(&partition, 2);
        partition.roll().unwrap();
        clock.advance(HOUR * 2);
        assert_eq!(maintain(&log, &clock, &partition).1, start);
    }
}
