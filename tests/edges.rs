//! Where one thing ends and the next begins: bounds, ages and reaches, each at its last value and at the first one beyond.
#![cfg(feature = "sim")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{append, quiet, read};
use stratalog::format::patch_offset;
use stratalog::sim::{Call, Calls, Fault, SimStorage};
use stratalog::{
    Budget, Cleanup, Durability, ErrorKind, FetchOptions, Log, LogConfig, ManualClock, Offset, Partition, Record,
    RecordBatch, Timestamp, TimestampType, TopicConfig,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    storage: SimStorage,
    clock: Arc<ManualClock>,
    log: Log,
    partition: Partition,
}

fn config(storage: &SimStorage, clock: &Arc<ManualClock>) -> LogConfig {
    let config = quiet().storage(Arc::new(storage.clone())).clock(clock.clone());
    config.sync_threads(0).open_threads(Some(1))
}

impl Fixture {
    fn of(topic: TopicConfig) -> Fixture {
        let (storage, clock) = (SimStorage::new(), Arc::new(ManualClock::new(NOW)));
        let log = Log::open("/log", config(&storage, &clock)).unwrap();
        let topic = topic.durability(Durability::Buffered { interval: HOUR, bytes: 1 << 30 });
        let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
        Fixture { storage, clock, log, partition }
    }

    fn reopened(self) -> Fixture {
        let Fixture { storage, clock, log, partition } = self;
        drop(partition);
        log.close().unwrap();
        let log = Log::open("/log", config(&storage, &clock)).unwrap();
        let partition = log.partition("t", 0).unwrap();
        Fixture { storage, clock, log, partition }
    }

    fn segments(&self) -> usize {
        self.partition.stats().segments
    }

    fn maintain(&self) {
        self.log.maintain(stratalog::Clock::now(&*self.clock), Budget { time: None }).unwrap();
    }
}

fn batch(at: u64, timestamp: Timestamp, delta: u64) -> Vec<u8> {
    let mut builder = RecordBatch::builder();
    builder.push(&Record::new("k", "v"), timestamp).unwrap();
    let mut bytes = builder.build().unwrap().as_bytes().to_vec();
    patch_offset(&mut bytes, Offset::new(at));
    if delta > 0 {
        // What a compaction leaves of a long batch: its last offset is kept.
        bytes[23..27].copy_from_slice(&u32::try_from(delta).unwrap().to_be_bytes());
        let sum = crc(&bytes[21..]);
        bytes[17..21].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[test]
fn timestamps_are_taken_up_to_their_bounds_and_no_further() {
    let (before, after) = (Duration::from_secs(10), Duration::from_secs(5));
    let bounds = TopicConfig::new().timestamp_before_max(Some(before)).timestamp_after_max(Some(after));
    let topics = [
        (bounds.clone(), true, true),
        (TopicConfig::new().timestamp_before_max(Some(before)), true, false),
        (TopicConfig::new().timestamp_after_max(Some(after)), false, true),
        (bounds.timestamp_type(TimestampType::LogAppendTime), false, false),
    ];
    for (topic, has_earliest, has_latest) in topics {
        let fixture = Fixture::of(topic);
        let append = |millis: i64| {
            let record = Record { timestamp: Some(NOW.plus_millis(millis)), ..Record::new("k", "v") };
            let built = fixture.partition.append_records([record]).map(|_| ());
            let mut ready = RecordBatch::builder();
            ready.push(&record, NOW).unwrap();
            let ready = fixture.partition.append(&ready.build().unwrap()).map(|_| ());
            assert_eq!(built.as_ref().err().map(|e| e.kind()), ready.as_ref().err().map(|e| e.kind()));
            match ready {
                Ok(()) => true,
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::TimestampOutOfBounds { .. }), "{error}");
                    false
                }
            }
        };
        assert_eq!((append(-10_000), append(0), append(5_000)), (true, true, true));
        assert_eq!((append(-10_001), append(5_001)), (!has_earliest, !has_latest));
    }
}

#[test]
fn the_records_of_a_batch_are_looked_at_only_where_the_topic_needs_it() {
    let mut bytes = batch(0, NOW, 0);
    // A record's length that is none, under a checksum that fits.
    bytes[61] = 0xFF;
    let sum = crc(&bytes[21..]);
    bytes[17..21].copy_from_slice(&sum.to_be_bytes());
    let batch = RecordBatch::parse(bytes).unwrap();
    let plain = Fixture::of(TopicConfig::new());
    plain.partition.append(&batch).unwrap();
    let compacted = Fixture::of(TopicConfig::new().cleanup(Cleanup::Compact));
    assert!(compacted.partition.append(&batch).is_err(), "its keys have to be known");
}

#[test]
fn an_active_segment_is_sealed_at_its_age_also_after_it_was_opened_again() {
    let fixture = Fixture::of(TopicConfig::new().segment_age(HOUR * 2));
    append(&fixture.partition, 1);
    fixture.clock.advance(HOUR);
    let fixture = fixture.reopened();
    append(&fixture.partition, 1);
    fixture.clock.advance(HOUR - Duration::from_millis(1));
    fixture.maintain();
    assert_eq!(fixture.segments(), 1, "it is young by a millisecond");
    fixture.clock.advance(Duration::from_millis(1));
    fixture.maintain();
    assert_eq!(fixture.segments(), 2, "its age goes by its first append");
}

#[test]
fn an_active_segment_of_a_compacted_topic_is_sealed_in_time_for_the_lag() {
    let topic = TopicConfig::new().segment_age(HOUR * 24).max_compaction_lag(Some(HOUR));
    for (topic, sealed) in [(topic.clone().cleanup(Cleanup::Compact), 2), (topic, 1)] {
        let fixture = Fixture::of(topic);
        append(&fixture.partition, 1);
        fixture.clock.advance(HOUR - Duration::from_millis(1));
        fixture.maintain();
        assert_eq!(fixture.segments(), 1);
        fixture.clock.advance(Duration::from_millis(1));
        fixture.maintain();
        assert_eq!(fixture.segments(), sealed, "only what is compacted has a lag");
    }
}

#[test]
fn a_segment_takes_offsets_as_far_as_its_indexes_reach() {
    const REACH: u64 = i32::MAX as u64;
    for (beyond, segments) in [(0, 1), (1, 2)] {
        let fixture = Fixture::of(TopicConfig::new());
        append(&fixture.partition, 1);
        let last = REACH + beyond;
        // The batch begins close behind the first, and its last offset is as far as the case says.
        fixture.partition.append_at(&batch(1, NOW, last - 1)).unwrap();
        assert_eq!(fixture.partition.offsets().end, Offset::new(last + 1));
        assert_eq!(fixture.segments(), segments, "{beyond} beyond the reach");
        append(&fixture.partition, 1);
        let mut reader = fixture.partition.reader(Offset::new(last + 1)).unwrap();
        assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(last + 1));
    }
}

#[test]
fn a_write_that_cannot_be_taken_back_poisons_the_partition() {
    let fixture = Fixture::of(TopicConfig::new());
    append(&fixture.partition, 2);
    // Neither the write nor the cut behind it.
    let fault = Fault { call: None, after: 0, error: std::io::ErrorKind::Other, forever: true };
    fixture.storage.set_fault(Some(fault));
    let value = "x".repeat(100_000);
    let error = fixture.partition.append_records([Record::new("k", &value)]).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Poisoned, "{error}");
    fixture.storage.set_fault(None);
    let again = fixture.partition.append_records([Record::new("k", "v")]).unwrap_err();
    assert_eq!(*again.kind(), ErrorKind::Poisoned, "{again}");
    assert_eq!(read(&fixture.partition, 0).len(), 0, "nothing of it is durable");
}

#[test]
fn a_write_that_is_taken_back_leaves_the_partition_as_it_was() {
    let fixture = Fixture::of(TopicConfig::new());
    append(&fixture.partition, 2);
    let fault = Fault { call: Some(Call::Write), after: 0, error: std::io::ErrorKind::Other, forever: false };
    fixture.storage.set_fault(Some(fault));
    let value = "x".repeat(100_000);
    let error = fixture.partition.append_records([Record::new("k", &value)]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io(_)), "{error}");
    append(&fixture.partition, 1);
    assert_eq!(read(&fixture.partition, 0), common::expected(0..3));
}

#[test]
fn what_is_durable_is_not_synced_once_more() {
    let fixture = Fixture::of(TopicConfig::new());
    append(&fixture.partition, 3);
    fixture.partition.flush().unwrap();
    let syncs = fixture.partition.stats().syncs;
    fixture.partition.flush().unwrap();
    fixture.partition.delete_before(Offset::new(3)).unwrap();
    assert_eq!(fixture.partition.stats().syncs, syncs);
    append(&fixture.partition, 1);
    fixture.partition.flush().unwrap();
    assert_eq!(fixture.partition.stats().syncs, syncs + 1);
}

#[test]
fn a_checkpoint_is_stored_by_the_sync_that_reaches_it() {
    let (storage, clock) = (SimStorage::new(), Arc::new(ManualClock::new(NOW)));
    let log = Log::open("/log", config(&storage, &clock).checkpoint_bytes(4096)).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    // Half of the distance is enough for a point, and the sync ends at it.
    let value = "x".repeat(3000);
    partition.append_records([Record::new("k", &value)]).unwrap();
    partition.flush().unwrap();
    let killed = storage.kill();
    let log = Log::open("/log", config(&killed, &clock)).unwrap();
    assert_eq!(log.recovery_report().partitions[0].scanned_bytes, 0);
}

#[test]
fn a_reader_that_is_sent_back_or_ahead_goes_on_there() {
    let fixture = Fixture::of(TopicConfig::new());
    append(&fixture.partition, 10);
    let mut reader = fixture.partition.reader(Offset::ZERO).unwrap();
    // It has fetched more than it has told when it is sent elsewhere.
    for to in [0, 1, 2, 0, 7, 1, 9, 3] {
        if reader.offset() != Offset::new(to) {
            reader.seek(Offset::new(to));
        }
        assert_eq!(reader.offset(), Offset::new(to));
        let found = reader.next_record().unwrap().map(|record| record.offset.get());
        assert_eq!(found, Some(to));
    }
    reader.seek(Offset::new(10));
    assert!(reader.next_record().unwrap().is_none());
}

#[test]
fn a_fetch_is_filled_to_the_byte() {
    let fixture = Fixture::of(TopicConfig::new());
    append(&fixture.partition, 4);
    let fetch = |max_bytes: usize| {
        let fetch = fixture.partition.fetch(Offset::ZERO, FetchOptions { max_bytes, ..FetchOptions::default() });
        fetch.unwrap().batches().map(|batch| batch.unwrap().as_bytes().len()).collect::<Vec<_>>()
    };
    let all = fetch(1 << 20);
    assert_eq!(all.len(), 4);
    for count in 1..=4 {
        let exact: usize = all[..count].iter().sum();
        assert_eq!(fetch(exact).len(), count);
        assert_eq!(fetch(exact - 1).len(), (count - 1).max(1), "one comes in any case");
    }
}

#[test]
fn what_is_mapped_is_read_in_once_and_an_error_is_told() {
    let fixture = Fixture::of(TopicConfig::new());
    append(&fixture.partition, 4);
    fixture.partition.roll().unwrap();
    fixture.partition.flush().unwrap();
    let fetch = || fixture.partition.fetch(Offset::ZERO, FetchOptions::default());
    let fault = Fault { call: Some(Call::Read), after: 0, error: std::io::ErrorKind::Other, forever: true };
    fixture.storage.set_fault(Some(fault));
    // Else whoever touches the page gets a signal.
    assert!(matches!(fetch().unwrap_err().kind(), ErrorKind::Io(_)));
    fixture.storage.set_fault(None);
    assert_eq!(fetch().unwrap().batches().count(), 4);
    assert!(fixture.storage.calls(Calls::Only(Call::Read)) > 0);
    fixture.storage.set_fault(None);
    assert_eq!(fetch().unwrap().batches().count(), 4);
    assert_eq!(fixture.storage.calls(Calls::Only(Call::Read)), 0, "it is there");
}
