//! Topics, partitions, configurations, watermarks, epochs, transactions, read-only opens.

mod common;

use common::{append, expected, quiet, read, small};
use stratalog::format::{Marker, end_marker};
use stratalog::{
    Cleanup, Durability, ErrorKind, FetchOptions, Isolation, Log, Offset, Record, RecordBatch, Timestamp, TopicConfig,
    WatermarkMode,
};

#[test]
fn topics_partitions_and_configurations_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let topic = log.create_topic("orders", 3, small()).unwrap();
    log.create_partition("events", 7, TopicConfig::new()).unwrap();
    assert_eq!(*log.create_topic("orders", 1, small()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    topic.set_config(small().cleanup(Cleanup::Compact)).unwrap();
    topic.add_partitions(5).unwrap();
    assert_eq!(log.partition("orders", 4).unwrap().config().cleanup, Cleanup::Compact);
    drop((topic, log));

    let log = Log::open(dir.path(), quiet()).unwrap();
    let names: Vec<String> = log.topics().iter().map(|topic| topic.name().to_owned()).collect();
    assert_eq!(names, ["events", "orders"]);
    assert_eq!(log.topic("orders").unwrap().partitions().len(), 5);
    assert_eq!(log.topic("orders").unwrap().config().unwrap(), small().cleanup(Cleanup::Compact));
    assert!(log.partition("events", 7).is_some() && log.partition("events", 0).is_none());
    let partition = log.partition("orders", 0).unwrap();
    let keyless = partition.append_records([Record::keyless("value")]).unwrap_err();
    assert_eq!(*keyless.kind(), ErrorKind::MissingKey);
}

#[test]
fn a_deleted_topic_is_gone_and_its_name_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 2, small()).unwrap();
    let old = log.partition("t", 1).unwrap();
    append(&old, 100);
    log.delete_topic("t").unwrap();
    assert!(log.topic("t").is_none());
    assert_eq!(*old.append_records([Record::new("k", "v")]).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(*old.fetch(Offset::ZERO, FetchOptions::default()).unwrap_err().kind(), ErrorKind::Closed);
    log.create_topic("t", 1, small()).unwrap();
    append(&log.partition("t", 0).unwrap(), 10);
    drop((old, log));
    let log = Log::open(dir.path(), quiet()).unwrap();
    assert_eq!(read(&log.partition("t", 0).unwrap(), 0), expected(0..10));
    assert!(log.partition("t", 1).is_none());
}

#[test]
fn a_deleted_partition_is_gone_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let topic = log.create_topic("t", 3, small()).unwrap();
    for (id, count) in [(0, 10), (1, 100), (2, 30)] {
        append(&topic.partition(id).unwrap(), count);
    }
    let old = topic.partition(1).unwrap();
    log.delete_partition("t", 1).unwrap();
    assert_eq!(*old.append_records([Record::new("k", "v")]).unwrap_err().kind(), ErrorKind::Closed);
    for missing in [log.delete_partition("t", 1), log.delete_partition("t", 7), log.delete_partition("u", 0)] {
        assert_eq!(*missing.unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(!dir.path().join("t-1").exists());
    drop((old, topic, log));

    let log = Log::open(dir.path(), quiet()).unwrap();
    let topic = log.topic("t").unwrap();
    assert_eq!(topic.partition_count(), Some(3), "keys go where they went");
    assert_eq!(topic.partitions().iter().map(|partition| partition.id()).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(read(&topic.partition(2).unwrap(), 0), expected(0..30));
    append(&log.create_partition("t", 1, small()).unwrap(), 5);
    for id in [0, 1] {
        log.delete_partition("t", id).unwrap();
    }
    log.delete_partition("t", 2).unwrap();
    assert!(log.topic("t").is_none(), "the last one takes the topic along");
    log.close().unwrap();
    assert!(Log::open(dir.path(), quiet()).unwrap().topics().is_empty());
}

#[test]
fn keys_go_where_kafka_sends_them_and_others_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let topic = log.create_topic("t", 4, small()).unwrap();
    for n in 0..100 {
        let key = format!("key-{n}");
        let (partition, _) = topic.append(Record::new(&key, "v")).unwrap();
        assert_eq!(partition, stratalog::partition_for_key(key.as_bytes(), 4));
    }
    let turns: Vec<u32> = (0..8).map(|_| topic.append(Record::keyless("v")).unwrap().0).collect();
    assert_eq!(turns, [0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn a_managed_high_watermark_starts_at_the_one_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 1, small().watermark(WatermarkMode::Managed)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 100);
    let replicated = FetchOptions { isolation: Isolation::HighWatermark, ..FetchOptions::default() };
    assert!(partition.fetch(Offset::ZERO, replicated).unwrap().is_empty());
    partition.set_high_watermark(Offset::new(60)).unwrap();
    let mut reader = partition.reader_with(Offset::ZERO, replicated).unwrap();
    let mut count = 0;
    while reader.next_record().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 60);
    assert!(partition.set_high_watermark(Offset::new(101)).is_err());
    drop(reader);
    log.close().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    assert_eq!(log.partition("t", 0).unwrap().offsets().high_watermark, Offset::new(60));
}

#[test]
fn leader_epochs_tell_where_each_ends() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    partition.set_leader_epoch(3).unwrap();
    append(&partition, 40);
    partition.set_leader_epoch(5).unwrap();
    append(&partition, 40);
    assert!(partition.set_leader_epoch(4).is_err());
    let check = |partition: &stratalog::Partition| {
        assert_eq!(partition.end_offset_for_epoch(3), Some((3, Offset::new(40))));
        assert_eq!(partition.end_offset_for_epoch(4), Some((3, Offset::new(40))));
        assert_eq!(partition.end_offset_for_epoch(5), Some((5, Offset::new(80))));
        assert_eq!(partition.end_offset_for_epoch(6), None);
    };
    check(&partition);
    drop((partition, log));
    let log = Log::open(dir.path(), quiet()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    check(&partition);
    partition.truncate(Offset::new(20)).unwrap();
    assert_eq!(partition.end_offset_for_epoch(3), Some((3, Offset::new(20))));
    log.close().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    assert_eq!(log.partition("t", 0).unwrap().end_offset_for_epoch(5), None);
}

fn transactional(id: i64, sequence: i32, value: &str) -> RecordBatch {
    let mut builder = RecordBatch::builder().producer(id, 0, sequence).transactional(true);
    builder.push(&Record::new("key", value), Timestamp::from_millis(1_700_000_000_000)).unwrap();
    builder.build().unwrap()
}

#[test]
fn readers_of_committed_records_see_neither_open_nor_aborted_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let now = Timestamp::from_millis(1_700_000_000_000);
    partition.append_records([Record::new("key", "plain")]).unwrap();
    for sequence in 0..30 {
        partition.append(&transactional(1, sequence, "committed")).unwrap();
        partition.append(&transactional(2, sequence, "aborted")).unwrap();
    }
    assert_eq!(partition.offsets().last_stable, Offset::new(1));
    partition.append(&end_marker(Marker::Commit, 1, 0, 0, now).unwrap()).unwrap();
    partition.append(&end_marker(Marker::Abort, 2, 0, 0, now).unwrap()).unwrap();
    partition.append(&transactional(1, 30, "open")).unwrap();
    let check = |partition: &stratalog::Partition| {
        assert_eq!(partition.offsets().last_stable, Offset::new(63));
        let committed = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
        let fetched = partition.fetch(Offset::ZERO, committed).unwrap();
        assert_eq!(fetched.aborted.len(), 1);
        let mut reader = partition.reader_with(Offset::ZERO, committed).unwrap();
        let mut values = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            values.push(record.value.unwrap().to_vec());
        }
        assert_eq!(values.len(), 31);
        assert!(values.iter().all(|value| value != b"aborted" && value != b"open"));
    };
    check(&partition);
    drop((partition, log));
    let log = Log::open(dir.path(), quiet()).unwrap();
    check(&log.partition("t", 0).unwrap());
    log.close().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    check(&partition);
    partition.truncate(Offset::new(62)).unwrap();
    assert_eq!(partition.offsets().last_stable, Offset::new(2), "the abort is gone: its transaction is open again");
}

#[test]
fn a_read_only_open_works_beside_the_owner_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 100);
    let listing = || {
        let mut files: Vec<_> = std::fs::read_dir(dir.path().join("t-0"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                (entry.file_name(), metadata.len(), metadata.modified().unwrap())
            })
            .collect();
        files.sort();
        files
    };
    partition.flush().unwrap();
    let before = listing();
    let reader = Log::open_read_only(dir.path()).unwrap();
    let seen = reader.partition("t", 0).unwrap();
    assert_eq!(read(&seen, 0), expected(0..100));
    assert_eq!(*seen.append_records([Record::new("k", "v")]).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(*reader.create_topic("u", 1, small()).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(listing(), before);
    append(&partition, 1);
}

#[test]
fn synced_appends_are_durable_when_they_return() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 1, small().durability(Durability::Sync)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    for n in 1..=50 {
        append(&partition, 1);
        assert_eq!(partition.offsets().durable, Offset::new(n));
    }
    log.close().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    assert_eq!(read(&log.partition("t", 0).unwrap(), 0), expected(0..50));
}

#[cfg(feature = "sim")]
#[test]
fn a_topic_whose_files_could_not_be_removed_stays_deleted() {
    use std::io;
    use std::sync::Arc;

    use stratalog::sim::{Call, Fault, SimStorage};

    let storage = Arc::new(SimStorage::new());
    let config = quiet().storage(storage.clone());
    let log = Log::open("/log", config.clone()).unwrap();
    log.create_topic("gone", 2, small()).unwrap();
    append(&log.partition("gone", 1).unwrap(), 9);
    storage.set_fault(Some(Fault { call: Some(Call::Dir), after: 0, error: io::ErrorKind::Other, forever: true }));
    assert!(log.delete_topic("gone").is_err());
    storage.set_fault(None);
    // Stores the topics anew.
    log.create_topic("other", 1, small()).unwrap();
    assert!(log.topic("gone").is_none());
    assert_eq!(*log.create_topic("gone", 1, small()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    log.close().unwrap();

    let log = Log::open("/log", config).unwrap();
    let names: Vec<String> = log.topics().iter().map(|topic| topic.name().to_owned()).collect();
    assert_eq!(names, ["other"]);
    log.create_topic("gone", 1, small()).unwrap();
}

#[test]
fn more_partitions_than_a_topic_can_have_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let topic = log.create_topic("one", 1, small()).unwrap();
    for error in [
        log.create_topic("t", u32::MAX, small()).map(drop).unwrap_err(),
        log.create_topic("t", i32::MAX as u32, small()).map(drop).unwrap_err(),
        log.create_topic("t", 0, small()).map(drop).unwrap_err(),
        topic.add_partitions(u32::MAX).unwrap_err(),
        log.create_partition("t", u32::MAX, small()).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig(_)), "{error}");
    }
    assert_eq!(log.topics().len(), 1);
}

#[test]
fn an_epoch_that_was_cut_off_is_noted_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 2);
    partition.set_leader_epoch(5).unwrap();
    append(&partition, 2);
    assert_eq!(partition.end_offset_for_epoch(5), Some((5, Offset::new(4))));
    partition.truncate(Offset::new(1)).unwrap();
    assert_eq!(partition.end_offset_for_epoch(5), None);
    append(&partition, 2);
    assert_eq!(partition.end_offset_for_epoch(5), Some((5, Offset::new(3))));
    partition.reset_to(Offset::new(10)).unwrap();
    append(&partition, 1);
    assert_eq!(partition.end_offset_for_epoch(5), Some((5, Offset::new(11))));
}

#[test]
fn the_bound_and_the_age_of_producers_count_while_the_log_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = common::clocked();
    let log = Log::open(dir.path(), config).unwrap();
    let topic = log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let write = |id: i64| {
        let mut builder = RecordBatch::builder().producer(id, 0, 0);
        builder.push(&Record::new("k", "v"), stratalog::Clock::now(&*clock)).unwrap();
        partition.append(&builder.build().unwrap()).unwrap();
    };
    (0..10).for_each(write);
    assert_eq!(partition.stats().producers, 10);
    topic.set_config(small().max_producers(4)).unwrap();
    assert_eq!(partition.stats().producers, 4);
    partition.truncate(Offset::new(9)).unwrap();
    (10..20).for_each(write);
    assert_eq!(partition.stats().producers, 4);
    clock.advance(std::time::Duration::from_secs(25 * 3600));
    log.maintain(stratalog::Clock::now(&*clock), stratalog::Budget::default()).unwrap();
    assert_eq!(partition.stats().producers, 0);
}
#[test]
fn keys_are_routed_by_the_declared_number_of_partitions_never_by_those_that_are_here() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    for id in [1, 3] {
        log.create_partition("t", id, small()).unwrap();
    }
    let topic = log.topic("t").unwrap();
    assert_eq!(topic.partition_count(), None);
    let undeclared = topic.append(Record::new("key", "v")).unwrap_err();
    assert!(matches!(undeclared.kind(), ErrorKind::InvalidConfig(_)), "{undeclared}");
    assert!(matches!(topic.declare_partitions(3).unwrap_err().kind(), ErrorKind::InvalidConfig(_)), "3 is here");
    topic.declare_partitions(8).unwrap();
    for n in 0..100 {
        let key = format!("key-{n}");
        let belongs = stratalog::partition_for_key(key.as_bytes(), 8);
        match topic.append(Record::new(&key, "v")) {
            Ok((partition, _)) => assert_eq!(partition, belongs),
            Err(error) => {
                assert_eq!(*error.kind(), ErrorKind::NotFound);
                assert!(belongs != 1 && belongs != 3);
            }
        }
    }
    assert!(matches!(topic.declare_partitions(7).unwrap_err().kind(), ErrorKind::InvalidConfig(_)), "never fewer");
    let beyond = log.create_partition("t", 8, small()).map(drop).unwrap_err();
    assert!(matches!(beyond.kind(), ErrorKind::InvalidConfig(_)), "{beyond}");
    topic.add_partitions(9).unwrap();
    assert_eq!((topic.partition_count(), topic.partitions().len()), (Some(9), 9));
    drop((topic, log));
    let log = Log::open(dir.path(), quiet()).unwrap();
    assert_eq!(log.topic("t").unwrap().partition_count(), Some(9), "it is kept");
    assert!(log.topic("t").unwrap().add_partitions(3).is_err(), "partitions do not go away");
}
