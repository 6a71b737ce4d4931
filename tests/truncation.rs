//! A truncation that is redone, over what was appended after it was done the first time.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use stratalog::format::state::{decode_slot, pick};
use stratalog::format::{Batches, Pending, State};
use stratalog::{
    ErrorKind, FetchOptions, Log, LogConfig, Offset, Record, RecordBatch, Timestamp, TopicConfig, WatermarkMode,
};

fn config() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

fn change_state(path: &Path, change: impl FnOnce(&mut State)) {
    let bytes = fs::read(path).unwrap();
    let (left, right) = bytes.split_at(bytes.len() / 2);
    let (sequence, mut state) = pick(left, right).unwrap();
    change(&mut state);
    let slot = state.encode(sequence + 1, left.len()).unwrap();
    assert!(decode_slot(&slot).is_ok());
    fs::write(path, [slot.as_slice(), slot.as_slice()].concat()).unwrap();
}

#[test]
fn a_torn_batch_above_the_cut_does_not_stop_a_truncation_that_is_redone() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let topic = log.create_topic("t", 1, TopicConfig::new().segment_bytes(1024)).unwrap();
    let partition = topic.partition(0).unwrap();
    for n in 0..30 {
        partition.append_records([Record::new(&format!("key-{n}"), "value")]).unwrap();
    }
    assert!(partition.stats().segments > 2);
    drop((partition, topic));
    log.close().unwrap();

    // The truncation was done, and part of a batch appended; then the `state` that says so was lost with the power.
    let first = dir.path().join("t-0").join(format!("{:020}.log", 0));
    let bytes = fs::read(&first).unwrap();
    let position: usize = Batches::new(&bytes).take(5).map(|batch| batch.unwrap().header().size).sum();
    fs::write(&first, &bytes[..position + 16]).unwrap();
    change_state(&dir.path().join("t-0/state"), |state| {
        (state.pending, state.durable_end) = (Pending::Truncate(Offset::new(5)), Offset::new(5));
        state.high_watermark = Offset::new(5);
    });
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
    assert_eq!(partition.offsets().end, Offset::new(5));

    // Below the cut it is damage all the same.
    drop((partition, log));
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 9]).unwrap();
    change_state(&dir.path().join("t-0/state"), |state| state.pending = Pending::Truncate(Offset::new(5)));
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(log.partition("t", 0).unwrap().stats().error.unwrap().is_corruption());
}

fn managed() -> TopicConfig {
    TopicConfig::new().segment_bytes(1024).watermark(WatermarkMode::Managed)
}

#[test]
fn what_is_appended_after_a_truncation_is_not_below_the_high_watermark() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.create_topic("t", 1, managed()).unwrap().partition(0).unwrap();
    let batch = || [Record::new("a", "1"), Record::new("b", "2"), Record::new("c", "3")];
    partition.append_records(batch()).unwrap();
    partition.append_records(batch()).unwrap();
    partition.set_high_watermark(Offset::new(6)).unwrap();
    // The start lies inside the batch that goes: the log starts over there.
    partition.delete_before(Offset::new(4)).unwrap();
    assert_eq!(partition.truncate(Offset::new(5)).unwrap(), Offset::new(4));
    partition.append_records(batch()).unwrap();
    assert_eq!(partition.offsets().high_watermark, Offset::new(4));
    partition.reset_to(Offset::new(1)).unwrap();
    partition.append_records(batch()).unwrap();
    assert_eq!(partition.offsets().high_watermark, Offset::new(1));
}

#[cfg(feature = "sim")]
#[test]
fn a_high_watermark_does_not_outlive_what_a_power_cut_takes() {
    use std::sync::Arc;
    use std::time::Duration;
    use stratalog::Durability;
    use stratalog::sim::{Crash, Order, SimStorage};

    let config = |storage: &SimStorage| config().sync_threads(0).storage(Arc::new(storage.clone()));
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let late = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
    let partition = log.create_topic("t", 1, managed().durability(late)).unwrap().partition(0).unwrap();
    for _ in 0..5 {
        partition.append_records([Record::new("k", "v")]).unwrap();
    }
    partition.set_high_watermark(Offset::new(5)).unwrap();
    // This writes `state`.
    partition.delete_before(Offset::ZERO).unwrap();
    drop((partition, log));
    let storage = storage.crash(&Crash { order: Order::Strict, seed: 0 });
    let log = Log::open("/log", config(&storage)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert_eq!(partition.offsets().end, Offset::ZERO);
    for _ in 0..5 {
        partition.append_records([Record::new("k", "another")]).unwrap();
    }
    assert_eq!(partition.offsets().high_watermark, Offset::ZERO);
    drop((partition, log));
    let log = Log::open("/log", config(&storage.kill())).unwrap();
    assert_eq!(log.partition("t", 0).unwrap().offsets().high_watermark, Offset::ZERO);
}

#[cfg(feature = "sim")]
#[test]
fn a_segment_that_recovery_seals_keeps_its_length_over_a_power_cut() {
    use std::sync::Arc;
    use stratalog::Durability;
    use stratalog::sim::{Crash, Order, SimStorage};

    for seed in 0..8 {
        let config = |storage: &SimStorage| config().sync_threads(0).storage(Arc::new(storage.clone()));
        let storage = SimStorage::new();
        let log = Log::open("/log", config(&storage)).unwrap();
        let topic = TopicConfig::new().segment_bytes(2048).durability(Durability::Sync);
        let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
        for _ in 0..4 {
            partition.append_records([Record::new("k", "v")]).unwrap();
        }
        drop(partition);
        log.close().unwrap();
        let log = Log::open("/log", config(&storage)).unwrap();
        log.partition("t", 0).unwrap().roll().unwrap();
        drop(log);
        // Killed before the roll was synced; what is left is opened, and then the power goes.
        let storage = storage.kill();
        drop(Log::open("/log", config(&storage)).unwrap());
        let storage = storage.crash(&Crash { order: Order::Journaled, seed });
        let log = Log::open("/log", config(&storage)).unwrap();
        let partition = log.partition("t", 0).unwrap();
        assert!(partition.stats().error.is_none(), "seed {seed}: {:?}", partition.stats().error);
        assert_eq!(partition.offsets().end, Offset::new(4));
    }
}

#[test]
fn the_high_watermark_starts_over_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, TopicConfig::new().watermark(WatermarkMode::Managed)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let append = |count| {
        (0..count).for_each(|_| {
            partition.append_records([Record::new("k", "v")]).unwrap();
        })
    };
    append(50);
    partition.set_high_watermark(Offset::new(40)).unwrap();
    partition.reset_to(Offset::new(10)).unwrap();
    append(20);
    assert_eq!(partition.offsets().high_watermark, Offset::new(10), "nothing of this was replicated");
    partition.reset_to(Offset::new(1000)).unwrap();
    assert_eq!(partition.offsets().high_watermark, Offset::new(1000));
}

#[test]
fn offsets_end_where_the_format_ends_and_no_batch_goes_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, TopicConfig::new()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let last = Offset::new(Offset::MAX.get() - 1);
    partition.reset_to(last).unwrap();
    let two = partition.append_records([Record::new("k", "1"), Record::new("k", "2")]).unwrap_err();
    assert_eq!(*two.kind(), ErrorKind::UnexpectedOffset { given: last, end: last }, "two offsets are one too many");
    assert_eq!(partition.append_records([Record::new("k", "1")]).unwrap().next_offset, Offset::MAX);
    assert!(partition.append_records([Record::new("k", "2")]).is_err());
    assert!(partition.roll().is_ok());
    assert!(partition.append_records([Record::new("k", "2")]).is_err());
    drop((partition, log));
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
    let mut reader = partition.reader(last).unwrap();
    assert_eq!(reader.next_record().unwrap().unwrap().offset, last);
    assert!(reader.next_record().unwrap().is_none());
}

#[test]
fn a_gap_that_is_too_wide_is_found_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, TopicConfig::new()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let batch = |at: u64| {
        let mut builder = RecordBatch::builder().base_offset(Offset::new(at));
        builder.push(&Record::new("k", "v"), Timestamp::from_millis(1)).unwrap();
        builder.build().unwrap().as_bytes().to_vec()
    };
    let given = 5 + (1_u64 << 31);
    let error = partition.append_at(&[batch(0), batch(4), batch(given)].concat()).unwrap_err();
    let end = Offset::new(5);
    assert_eq!(*error.kind(), ErrorKind::UnexpectedOffset { given: Offset::new(given), end });
    assert_eq!(partition.offsets().end, Offset::ZERO, "nothing was written");
    partition.append_at(&[batch(0), batch(4), batch(given - 1)].concat()).unwrap();
    partition.append_at(&batch(given - 1 + (1 << 31))).unwrap();
    let found: Vec<u64> = {
        let mut reader = partition.reader(Offset::ZERO).unwrap();
        std::iter::from_fn(|| reader.next_record().unwrap().map(|record| record.offset.get())).collect()
    };
    assert_eq!(found, [0, 4, given - 1, given - 1 + (1 << 31)]);
}

/// Holds bytes of an active segment that is large enough to be mapped, cuts inside of them and appends there; tells
/// whether the segment became a new file.
#[cfg(target_os = "linux")]
fn cut_under_a_reader(mapped: bool) -> bool {
    use std::os::unix::fs::MetadataExt;

    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.create_partition("t", 0, TopicConfig::new().mapped_reads(mapped)).unwrap();
    let file = dir.path().join("t-0").join(format!("{:020}.log", 0));
    let value_of = |byte: u8| vec![byte; 20_000];
    let append = |byte: u8| partition.append_records([Record::keyless(&value_of(byte))]).unwrap();
    // As it grows it is mapped anew, and each time what lies behind the mapping is read.
    for n in 0..200u8 {
        append(n);
        for n in [n / 2, n] {
            let mut reader = partition.reader(Offset::new(n.into())).unwrap();
            assert_eq!(reader.next_record().unwrap().unwrap().value, Some(&value_of(n)[..]));
        }
    }
    // The bytes only: who holds the fetch itself holds the file as it is.
    let fetch = partition.fetch(Offset::ZERO, FetchOptions::default()).unwrap();
    let held: Vec<Bytes> = fetch.chunks().cloned().collect();
    drop(fetch);
    let before: Vec<Vec<u8>> = held.iter().map(|chunk| chunk.to_vec()).collect();
    assert!(before.concat().len() > 500_000);

    let inode = fs::metadata(&file).unwrap().ino();
    partition.truncate(Offset::new(3)).unwrap();
    assert_eq!(held, before, "what was fetched stays as it was");
    for _ in 3..100 {
        append(255);
    }
    assert_eq!(held, before, "what was fetched stays as it was");
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    for n in 0..100 {
        let byte = if n < 3 { n } else { 255 };
        assert_eq!(reader.next_record().unwrap().unwrap().value, Some(&value_of(byte)[..]));
    }
    assert!(reader.next_record().unwrap().is_none());
    fs::metadata(&file).unwrap().ino() != inode
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_mapped_is_not_cut_where_it_is() {
    assert!(cut_under_a_reader(true), "the file that is mapped stays whole");
    assert!(!cut_under_a_reader(false), "nobody holds the file");
}

#[cfg(target_os = "linux")]
#[test]
fn a_mapped_segment_that_is_cut_to_nothing_stays_whole_for_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.create_partition("t", 0, TopicConfig::new().segment_bytes(1 << 16)).unwrap();
    let value_of = |byte: u8| vec![byte; 5_000];
    for n in 0..100u8 {
        partition.append_records([Record::keyless(&value_of(n))]).unwrap();
    }
    let names = fs::read_dir(dir.path().join("t-0")).unwrap().map(|entry| entry.unwrap().file_name());
    let bases = names.filter_map(|name| name.to_str().unwrap().strip_suffix(".log")?.parse::<u64>().ok());
    let to = Offset::new(bases.filter(|base| *base > 40).min().unwrap());
    // The bytes only: who holds the fetch itself holds the file as it is.
    let fetch = partition.fetch(to, FetchOptions::default()).unwrap();
    let held: Vec<Bytes> = fetch.chunks().cloned().collect();
    drop(fetch);
    let before: Vec<Vec<u8>> = held.iter().map(|chunk| chunk.to_vec()).collect();
    assert!(before.concat().len() > 50_000);
    partition.truncate(to).unwrap();
    assert_eq!(held, before, "what was fetched stays as it was");
}
