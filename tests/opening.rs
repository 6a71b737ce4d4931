//! What an open makes of directories in states that few crashes leave, each by itself.
#![cfg(feature = "sim")]

mod common;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{append, expected, quiet, read};
use stratalog::format::state::pick;
use stratalog::format::{Batches, Pending, State};
use stratalog::sim::{Call, Calls, Crash, Fault, Order, SimStorage};
use stratalog::storage::{OpenMode, Storage};
use stratalog::{
    ErrorKind, Log, LogConfig, ManualClock, Offset, Partition, PartitionReport, Record, RecordBatch, RecoveryMode,
    Timestamp, TopicConfig, WatermarkMode,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const NOTHING: Crash = Crash { order: Order::Strict, seed: 0 };

fn config(storage: &SimStorage) -> LogConfig {
    let config = quiet().storage(Arc::new(storage.clone())).clock(Arc::new(ManualClock::new(NOW)));
    config.sync_threads(0).open_threads(Some(1))
}

fn open(storage: &SimStorage) -> (Log, Partition, PartitionReport) {
    opened(Log::open("/log", config(storage)).unwrap())
}

fn opened(log: Log) -> (Log, Partition, PartitionReport) {
    let report = log.recovery_report().partitions[0].clone();
    let partition = log.partition("t", 0).unwrap();
    (log, partition, report)
}

/// A log of as many segments of three records each, closed in good order.
fn closed(segments: u64) -> SimStorage {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    for segment in 0..segments {
        append(&partition, 3);
        if segment + 1 < segments {
            partition.roll().unwrap();
        }
    }
    log.close().unwrap();
    storage
}

fn path(name: &str) -> PathBuf {
    Path::new("/log/t-0").join(name)
}

fn log_path(base: u64) -> PathBuf {
    path(&format!("{base:020}.log"))
}

/// The names of the partition's files.
fn names(storage: &SimStorage) -> BTreeSet<String> {
    storage.list(Path::new("/log/t-0")).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn change_state(storage: &SimStorage, change: impl FnOnce(&mut State)) {
    let bytes = storage.contents(&path("state")).unwrap();
    let (left, right) = bytes.split_at(bytes.len() / 2);
    let (sequence, mut state) = pick(left, right).unwrap();
    change(&mut state);
    let slot = state.encode(sequence + 1, left.len()).unwrap();
    storage.overwrite(&path("state"), &[&slot[..], &slot[..]].concat()).unwrap();
}

/// Has `state` be that of the time when the first segment was the active one, and nothing beyond it durable.
fn set_back(storage: &SimStorage, pending: Pending) {
    let len = storage.contents(&log_path(0)).unwrap().len() as u64;
    change_state(storage, |state| {
        (state.pending, state.active_base, state.durable_end) = (pending, Offset::ZERO, Offset::new(3));
        state.durable_position = len;
        state.segments.truncate(1);
    });
}

#[test]
fn a_truncation_is_redone_in_a_segment_that_state_does_not_know_yet() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    let batch = |sequence| {
        let mut builder = RecordBatch::builder().producer(7, 0, sequence);
        builder.push(&Record::new("key", &format!("value-{sequence}")), NOW).unwrap();
        builder.build().unwrap()
    };
    for sequence in 0..9 {
        partition.append(&batch(sequence)).unwrap();
        if sequence == 2 || sequence == 5 {
            partition.roll().unwrap();
        }
    }
    drop(partition);
    log.close().unwrap();
    assert!(names(&storage).contains("00000000000000000009.snapshot"));
    set_back(&storage, Pending::Truncate(Offset::new(5)));
    let (log, partition, report) = open(&storage);
    assert!(report.redone && report.error.is_none(), "{report:?}");
    assert_eq!(read(&partition, 0), expected(0..5));
    assert_eq!(partition.stats().segments, 2);
    // One above the end would be taken for what was before the batches that come to lie there.
    let above = |name: &String| name.as_str() > "00000000000000000005";
    let left: Vec<String> = names(&storage).into_iter().filter(|name| name.starts_with('0') && above(name)).collect();
    assert!(left.is_empty(), "{left:?}");
    // The producer goes on with what was cut, which is not taken for what it had sent before.
    assert_eq!(partition.append(&batch(5)).unwrap().base_offset, Offset::new(5));
    drop((partition, log));
    assert_eq!(read(&open(&storage.kill()).1, 0), expected(0..6));
}

#[test]
fn damage_below_a_truncation_that_is_redone_is_told_and_nothing_is_cut() {
    for segment in [0, 3] {
        let storage = closed(3);
        let bytes = storage.contents(&log_path(segment)).unwrap();
        let first = Batches::new(&bytes).next().unwrap().unwrap().header().size;
        storage.flip(&log_path(segment), first + 70, 0).unwrap();
        change_state(&storage, |state| state.pending = Pending::Truncate(Offset::new(segment + 2)));
        let before = names(&storage);
        let (_log, partition, report) = open(&storage);
        let error = report.error.unwrap();
        assert!(matches!(error.kind(), ErrorKind::Corrupt(_)), "{error}");
        assert_eq!((error.path(), error.position()), (Some(&*log_path(segment)), Some(first as u64)));
        assert_eq!(read(&partition, 0), expected(0..segment + 1));
        assert_eq!(names(&storage), before);
        assert_eq!(storage.contents(&log_path(segment)).unwrap().len(), bytes.len());
    }
}

#[test]
fn a_reset_that_finds_no_room_for_its_file_is_told_and_done_at_the_next_open() {
    let storage = closed(2);
    let (log, partition, _) = open(&storage);
    let error = io::ErrorKind::StorageFull;
    storage.set_fault(Some(Fault { call: Some(Call::Create), after: 0, error, forever: true }));
    let told = partition.reset_to(Offset::new(100)).unwrap_err();
    assert_eq!(*told.kind(), ErrorKind::DiskFull, "{told}");
    assert!(partition.append_records([Record::new("key", "value")]).is_err());
    drop((partition, log));
    let (_log, partition, report) = open(&storage.kill());
    assert!(report.redone && report.error.is_none(), "{report:?}");
    assert_eq!((partition.offsets().start, partition.offsets().end), (Offset::new(100), Offset::new(100)));
    partition.append_records([Record::new("key", "value")]).unwrap();
}

/// What a power cut leaves of a log whose second leader epoch is on record, and its records are not.
fn lost_epoch() -> SimStorage {
    (0..)
        .find_map(|stop| {
            let storage = SimStorage::new();
            let log = Log::open("/log", config(&storage)).unwrap();
            let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
            for epoch in [1, 2] {
                partition.set_leader_epoch(epoch).unwrap();
                append(&partition, 1);
                if epoch == 1 {
                    partition.roll().unwrap();
                }
            }
            storage.stop_after(stop);
            assert!(partition.flush().is_err(), "a crash in between loses the records alone");
            let left = storage.crash(&NOTHING);
            let epochs = left.contents(&path("leader-epoch-checkpoint")).unwrap_or_default();
            let tells = String::from_utf8(epochs).unwrap().lines().any(|line| line == "2 1");
            (tells && open(&left.snapshot()).1.offsets().end < Offset::new(2)).then_some(left)
        })
        .unwrap()
}

#[test]
fn epochs_that_find_no_room_keep_a_partition_from_writing_but_not_from_opening() {
    let left = lost_epoch();
    let (storage, error) = (left.snapshot(), io::ErrorKind::StorageFull);
    storage.set_fault(Some(Fault { call: Some(Call::Create), after: 0, error, forever: true }));
    let (log, partition, report) = open(&storage);
    assert_eq!(report.error.map(|error| error.kind().clone()), Some(ErrorKind::DiskFull));
    assert!(partition.append_records([Record::new("key", "value")]).is_err());
    let end = partition.offsets().end.get();
    assert_eq!(read(&partition, 0), expected(0..end));
    drop((partition, log));
    storage.set_fault(None);
    let (_log, partition, report) = open(&storage);
    assert!(report.error.is_none());
    append(&partition, 1);

    // Any other error is that of the open.
    let storage = left.snapshot();
    storage.set_fault(Some(Fault { call: Some(Call::Create), after: 0, error: io::ErrorKind::Other, forever: true }));
    let opened = Log::open("/log", config(&storage));
    assert!(opened.map_or(true, |log| !log.recovery_report().failed.is_empty()));
}

#[test]
fn an_unreadable_swap_beside_what_it_replaces_is_put_aside_and_passed_over_by_who_only_reads() {
    let storage = closed(3);
    let swap = path("00000000000000000003.log.swap");
    storage.open(&swap, OpenMode::CreateNew).unwrap().write_at(&[9; 100], 0).unwrap();
    let before = storage.files();
    let (_log, partition, report) = opened(Log::open_read_only_with("/log", config(&storage)).unwrap());
    assert!(report.error.is_none(), "{report:?}");
    assert_eq!(read(&partition, 0), expected(0..9));
    assert_eq!(storage.files(), before);
    let (_log, partition, report) = open(&storage);
    assert_eq!(report.put_aside.len(), 1, "{report:?}");
    assert_eq!(read(&partition, 0), expected(0..9));
}

#[test]
fn a_high_watermark_on_record_is_kept_over_a_kill() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let managed = TopicConfig::new().watermark(WatermarkMode::Managed);
    let partition = log.create_topic("t", 1, managed).unwrap().partition(0).unwrap();
    append(&partition, 5);
    partition.flush().unwrap();
    partition.set_high_watermark(Offset::new(3)).unwrap();
    // This writes `state`.
    partition.delete_before(Offset::new(1)).unwrap();
    let (_log, partition, _) = open(&storage.kill());
    assert_eq!(partition.offsets().high_watermark, Offset::new(3));
}

#[test]
fn no_log_that_was_closed_in_good_order_is_written_or_synced_by_an_open() {
    let storage = closed(2);
    storage.record();
    let (_log, _partition, report) = open(&storage);
    assert_eq!(report.scanned_bytes, 0);
    let of_logs: Vec<String> = storage.trace().into_iter().filter(|line| line.contains(".log")).collect();
    assert!(of_logs.is_empty(), "{of_logs:?}");
}

/// Producers before the scanned part are looked for where there are some, not where `state` says that there are none.
#[test]
fn as_much_is_read_of_a_killed_log_however_long_it_is() {
    for rolled_on_record in [false, true] {
        let reads = |records: u64| {
            let storage = SimStorage::new();
            let log = Log::open("/log", config(&storage)).unwrap();
            let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
            let value = "x".repeat(1 << 16);
            for _ in 0..records {
                partition.append_records([Record::new("key", &value)]).unwrap();
            }
            drop(partition);
            log.close().unwrap();
            let (log, partition, _) = open(&storage);
            partition.roll().unwrap();
            if rolled_on_record {
                partition.flush().unwrap();
            }
            partition.append_records([Record::new("key", "value")]).unwrap();
            drop((partition, log));
            let storage = storage.kill();
            let (_log, partition, _) = open(&storage);
            assert_eq!(partition.offsets().end, Offset::new(records + 1));
            storage.calls(Calls::Only(Call::Read))
        };
        assert_eq!(reads(2), reads(200), "rolled, on record: {rolled_on_record}");
    }
}

#[test]
fn an_active_segment_that_state_has_no_room_for_is_read_whole() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let topic = TopicConfig::new().index_interval_bytes(128);
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    let at = |n: i64| Timestamp::from_millis(NOW.as_millis() - 1000 + n);
    for n in 0..50 {
        // The largest timestamp is not the last one.
        let record = Record { timestamp: Some(at(if n == 20 { 900 } else { n })), ..Record::new("key", "value") };
        partition.append_records([record]).unwrap();
    }
    drop(partition);
    log.close().unwrap();
    let len = storage.contents(&log_path(0)).unwrap().len() as u64;
    change_state(&storage, |state| state.segments.clear());
    let (_log, partition, report) = open(&storage);
    assert_eq!(report.scanned_bytes, len);
    assert_eq!(partition.offset_for(at(899)).unwrap(), Some(Offset::new(20)));
    append(&partition, 1);
    assert_eq!(partition.offset_for(at(7)).unwrap(), Some(Offset::new(7)));
}

#[test]
fn who_only_reads_leaves_a_directory_without_a_state_as_it_is() {
    let storage = closed(3);
    storage.remove_file(&path("state")).unwrap();
    let before = storage.digest();
    let (log, partition, report) = opened(Log::open_read_only_with("/log", config(&storage)).unwrap());
    assert!(report.state_lost && report.error.is_none(), "{report:?}");
    assert_eq!(read(&partition, 0), expected(0..9));
    drop((partition, log));
    assert_eq!(storage.digest(), before);
}

#[test]
fn a_log_is_shown_up_to_the_damage_even_where_no_offset_is_missing_behind_it() {
    let storage = closed(3);
    storage.remove_file(&path("state")).unwrap();
    let mut bytes = storage.contents(&log_path(0)).unwrap();
    let position = bytes.len() as u64;
    bytes.extend([7; 50]);
    storage.overwrite(&log_path(0), &bytes).unwrap();
    let (_log, partition, report) = open(&storage);
    let error = report.error.unwrap();
    assert_eq!((error.path(), error.position()), (Some(&*log_path(0)), Some(position)), "{error}");
    assert_eq!(read(&partition, 0), expected(0..3));
    assert_eq!(partition.offsets().end, Offset::new(3));
}

#[test]
fn a_salvage_that_leaves_nothing_goes_on_where_the_log_ended_and_keeps_aside_what_there_was() {
    let aside = "00000000000000000000.log.broken".to_owned();
    for (bytes, put_aside) in [(Some(&[][..]), vec![aside.clone()]), (Some(&[7; 99]), vec![aside]), (None, vec![])] {
        let storage = closed(1);
        match bytes {
            Some(bytes) => storage.overwrite(&log_path(0), bytes).unwrap(),
            None => storage.remove_file(&log_path(0)).unwrap(),
        }
        let salvage = config(&storage).recovery(RecoveryMode::Salvage);
        let (log, partition, report) = opened(Log::open("/log", salvage).unwrap());
        assert_eq!((&report.put_aside, report.error.is_none()), (&put_aside, true));
        let offsets = partition.offsets();
        assert_eq!((offsets.start, offsets.end, report.end), (Offset::new(3), Offset::new(3), Offset::new(3)));
        let appended = partition.append_records([Record::new("key", "value")]).unwrap();
        assert_eq!(appended.base_offset, Offset::new(3));
        partition.flush().unwrap();
        drop((partition, log));
        let (_log, partition, report) = open(&storage);
        assert!(report.error.is_none());
        let offsets = partition.offsets();
        assert_eq!((offsets.start, offsets.end), (Offset::new(3), Offset::new(4)));
    }
}

#[test]
fn a_salvage_keeps_the_segments_behind_one_that_holds_nothing() {
    let storage = closed(3);
    storage.overwrite(&log_path(0), &[]).unwrap();
    let salvage = config(&storage).recovery(RecoveryMode::Salvage);
    let (_log, partition, report) = opened(Log::open("/log", salvage).unwrap());
    assert_eq!(report.put_aside, ["00000000000000000000.log.broken"]);
    assert!(report.error.is_none());
    assert_eq!((partition.offsets().start, report.end), (Offset::new(3), Offset::new(9)));
    assert_eq!(read(&partition, 3), expected(3..9));
}

/// A kill between a roll and the files that belong to it: the open that seals the segment leaves the producers' snapshot,
/// as the roll would have. Without it a damaged segment could be passed over in the search for producers.
#[test]
fn a_segment_that_an_open_seals_has_the_snapshot_of_its_producers() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    let mut batch = RecordBatch::builder().producer(7, 0, 0);
    batch.push(&Record::new("k", "v"), NOW).unwrap();
    partition.append(&batch.build().unwrap()).unwrap();
    partition.roll().unwrap();
    append(&partition, 1);
    let names = |storage: &SimStorage| {
        let names = storage.files().into_iter().map(|(path, _)| path.file_name().unwrap().to_owned());
        names.filter(|name| name.to_string_lossy().ends_with(".snapshot")).collect::<Vec<_>>()
    };
    let killed = storage.kill();
    assert_eq!(names(&killed), Vec::<std::ffi::OsString>::new(), "the kill came before the snapshot");
    let (log, ..) = open(&killed);
    let sealed = "00000000000000000001.snapshot";
    assert!(names(&killed).iter().any(|name| name == sealed), "{:?}", names(&killed));
    drop(log);
    // Nor does a power cut take it.
    let cut = killed.crash(&NOTHING);
    assert!(names(&cut).iter().any(|name| name == sealed), "{:?}", names(&cut));
}
