//! Space that is reserved ahead of appends by a thread of the log.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::quiet;
use stratalog::format::Batches;
use stratalog::{Durability, ErrorKind, Log, LogConfig, Offset, Partition, Record, TopicConfig};

/// Synced only when asked to, by threads that are there.
fn config() -> LogConfig {
    quiet().sync_threads(1)
}

fn topic() -> TopicConfig {
    let never = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 40 };
    TopicConfig::new().durability(never).segment_bytes(5 << 20)
}

/// A size that is different each time, now and then too large for a window.
fn size(number: u64) -> usize {
    let drawn = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    match drawn % 16 {
        0 => 20_000 + drawn as usize % 80_000,
        1..=4 => 3_000 + drawn as usize % 20_000,
        _ => drawn as usize % 3_000,
    }
}

fn value(number: u64) -> Vec<u8> {
    vec![number as u8 | 1; size(number)]
}

fn append(partition: &Partition, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let appended = partition.append_records([Record::keyless(&value(number))]).unwrap();
        assert_eq!(appended.base_offset, Offset::new(number));
    }
}

fn check(partition: &Partition, end: u64) {
    assert_eq!(partition.offsets().end, Offset::new(end));
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    for number in 0..end {
        let record = reader.next_record().unwrap().expect("it was appended");
        assert_eq!(record.value, Some(&value(number)[..]), "{number}");
    }
    assert!(reader.next_record().unwrap().is_none());
}

/// The bytes of each segment file that are no batches.
fn behind_the_batches(dir: &Path) -> Vec<u64> {
    let logs = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.map(|path| {
        let bytes = fs::read(path).unwrap();
        let batches = Batches::new(&bytes).map_while(Result::ok).map(|batch| batch.header().size as u64);
        bytes.len() as u64 - batches.sum::<u64>()
    })
    .collect()
}

#[test]
fn appends_rolls_truncations_and_opens_find_no_trace_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut end = 0;
    for round in 0..6u64 {
        let log = Log::open(dir.path(), config()).unwrap();
        let partition = log.partition("t", 0).unwrap_or_else(|| log.create_partition("t", 0, topic()).unwrap());
        check(&partition, end);
        append(&partition, end..end + 3000);
        end += 3000;
        // In the middle of what is being reserved.
        end -= 1 + 7 * round;
        partition.truncate(Offset::new(end)).unwrap();
        append(&partition, end..end + 500);
        end += 500;
        check(&partition, end);
        drop(partition);
        if round % 2 == 0 {
            log.close().unwrap();
            let behind = behind_the_batches(&dir.path().join("t-0"));
            assert!(behind.len() > 2 && behind.iter().all(|bytes| *bytes == 0), "{behind:?}");
        }
    }
}

#[test]
fn a_partition_at_rest_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.create_partition("t", 0, topic().segment_bytes(1 << 30)).unwrap();
    append(&partition, 0..1000);
    let reserved = || behind_the_batches(&dir.path().join("t-0"))[0];
    assert!(reserved() > 0, "there was no use for it");
    for _ in 0..2 {
        log.maintain(stratalog::Timestamp::from_millis(0), stratalog::Budget::default()).unwrap();
    }
    assert_eq!(reserved(), 0);
    append(&partition, 1000..2000);
    check(&partition, 2000);
}

#[cfg(feature = "sim")]
#[test]
fn a_disk_that_is_full_of_it_takes_what_there_is_room_for() {
    use stratalog::sim::SimStorage;

    let storage = SimStorage::new();
    let log = Log::open("/log", config().storage(std::sync::Arc::new(storage.clone()))).unwrap();
    let partition = log.create_partition("t", 0, topic().segment_bytes(1 << 30)).unwrap();
    append(&partition, 0..1000);
    storage.set_free_space(Some(1 << 20));
    let mut end = 1000;
    let full = loop {
        match partition.append_records([Record::keyless(&value(end))]) {
            Ok(_) => end += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(*full.kind(), ErrorKind::DiskFull);
    let taken: usize = (1000..end).map(size).sum();
    assert!(taken > (1 << 20) - (100 << 10), "{taken} bytes were all that was taken");
    check(&partition, end);
    storage.set_free_space(None);
    append(&partition, end..end + 1000);
    check(&partition, end + 1000);
    drop(partition);
    log.close().unwrap();
}
