//! Appends of given offsets that need more than one segment: all of one is there, or nothing.
#![cfg(feature = "sim")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use stratalog::format::{Marker, end_marker};
use stratalog::sim::{Call, Calls, Crash, Failure, Injection, Order, SimStorage};
use stratalog::{
    Durability, ErrorKind, FetchOptions, Isolation, Log, LogConfig, ManualClock, Offset, Partition, Record,
    RecordBatch, Timestamp, TopicConfig,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn config(storage: &SimStorage) -> LogConfig {
    // Producers are forgotten by its time.
    let config = LogConfig::new().storage(Arc::new(storage.clone())).clock(Arc::new(ManualClock::new(NOW)));
    config.min_free_bytes(0).maintenance_interval(None).sync_threads(0).open_threads(Some(1))
}

fn topic(durability: Durability) -> TopicConfig {
    TopicConfig::new().segment_bytes(1024).index_interval_bytes(128).durability(durability)
}

fn late() -> Durability {
    Durability::Buffered { interval: std::time::Duration::from_secs(3600), bytes: 1 << 30 }
}

/// A log with a few records in its active segment.
fn begin(durability: Durability) -> (SimStorage, Log, Partition) {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let partition = log.create_topic("t", 1, topic(durability)).unwrap().partition(0).unwrap();
    partition.append_at(&batches(0, 3, 1)).unwrap();
    (storage, log, partition)
}

/// Batches as a leader sends them: transactions of two producers, one aborted now and then, under growing epochs.
fn batches(from: u64, count: u64, epoch: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in from..from + count {
        let producer = (n / 3 % 2) as i64;
        let mut batch = if n % 3 == 2 {
            let marker = if n % 4 == 2 { Marker::Abort } else { Marker::Commit };
            end_marker(marker, producer, 0, 0, NOW).unwrap().as_bytes().to_vec()
        } else {
            let builder = RecordBatch::builder().producer(producer, 0, n as i32).transactional(true);
            let mut builder = builder.base_offset(Offset::new(n));
            let value = format!("value-{n}-{}", "x".repeat(90));
            builder.push(&Record::new(&format!("key-{n}"), &value), NOW).unwrap();
            builder.build().unwrap().as_bytes().to_vec()
        };
        stratalog::format::patch_offset(&mut batch, Offset::new(n));
        stratalog::format::patch_leader_epoch(&mut batch, epoch + (n / 5) as i32);
        bytes.extend(batch);
    }
    bytes
}

/// All that can be seen of a partition.
#[derive(Clone, PartialEq, Debug)]
struct Shown {
    end: Offset,
    last_stable: Offset,
    /// Bytes, and a hash of them.
    all: (usize, u64),
    committed: Vec<u64>,
    epochs: Vec<Option<(i32, Offset)>>,
    producers: usize,
}

fn show(partition: &Partition) -> Shown {
    let offsets = partition.offsets();
    let mut all = Vec::new();
    let mut from = offsets.start;
    while from < offsets.end {
        let fetch = partition.fetch(from, FetchOptions::default()).unwrap();
        fetch.chunks().for_each(|chunk| all.extend_from_slice(chunk));
        from = fetch.next_offset;
    }
    let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    let mut reader = partition.reader_with(offsets.start, options).unwrap();
    let committed = std::iter::from_fn(|| reader.next_record().unwrap().map(|record| record.offset.get())).collect();
    let epochs = (0..20).map(|epoch| partition.end_offset_for_epoch(epoch)).collect();
    let producers = partition.stats().producers;
    let mut hasher = DefaultHasher::new();
    all.hash(&mut hasher);
    let all = (all.len(), hasher.finish());
    Shown { end: offsets.end, last_stable: offsets.last_stable, all, committed, epochs, producers }
}

/// What a log shows that got all of it without a hitch.
fn expected(count: u64) -> Shown {
    let (_, _log, partition) = begin(late());
    partition.append_at(&batches(3, count, 1)).unwrap();
    show(&partition)
}

#[test]
fn on_a_full_disk_nothing_of_it_is_left_and_the_retry_is_taken() {
    for durability in [late(), Durability::Sync] {
        let (mut refused, mut taken) = (0, 0);
        let all = expected(27);
        assert!(all.all.0 > 3500, "it needs more than three segments");
        for room in (0..6000).step_by(97) {
            let (storage, log, partition) = begin(durability);
            let (before, files) = (show(&partition), storage.files().len());
            storage.set_free_space(Some(room));
            let appended = partition.append_at(&batches(3, 27, 1));
            storage.set_free_space(None);
            match appended {
                Err(error) if partition.offsets().end == all.end => {
                    assert!(matches!(durability, Durability::Sync), "room {room}: {error}: it is in the log");
                    continue;
                }
                Err(error) => {
                    assert_eq!(*error.kind(), ErrorKind::DiskFull, "room {room}");
                    assert_eq!(show(&partition), before, "room {room}");
                    assert_eq!(storage.files().len(), files, "room {room}: no file is left");
                    partition.append_at(&batches(3, 27, 1)).unwrap_or_else(|e| panic!("room {room}: the retry: {e}"));
                    refused += 1;
                }
                Ok(appended) => {
                    assert_eq!(appended.next_offset, all.end);
                    taken += 1;
                }
            }
            assert_eq!(show(&partition), all, "room {room}");
            drop(partition);
            log.close().unwrap_or_else(|e| panic!("room {room}: {e}"));
            let log = Log::open("/log", config(&storage)).unwrap();
            let partition = log.partition("t", 0).unwrap();
            assert_eq!(show(&partition), all, "room {room}");
            assert!(partition.verify().unwrap().findings.is_empty(), "room {room}");
        }
        assert!(refused > 10 && taken > 10, "{durability:?}: {refused} refused, {taken} taken");
    }
}

/// Every call that the append makes fails once, in each way.
#[test]
fn whichever_call_fails_nothing_of_it_is_left_or_the_partition_takes_no_writes() {
    let all = expected(27);
    let (mut refused, mut poisoned) = (0, 0);
    for call in [Call::Write, Call::SetLen, Call::Create, Call::Open, Call::Sync, Call::SyncDir, Call::Rename] {
        for failure in [Failure::NoSpace, Failure::Io, Failure::Interrupted] {
            for after in 0.. {
                let (storage, log, partition) = begin(late());
                let before = show(&partition);
                storage.inject(Injection { calls: Calls::Only(call), after, failure, forever: false, seed: after % 3 });
                let appended = partition.append_at(&batches(3, 27, 1));
                let failed = storage.failed();
                storage.set_fault(None);
                let case = format!("{call:?} number {after} fails with {failure:?}");
                if failed == 0 {
                    appended.unwrap_or_else(|e| panic!("{case}: {e}"));
                    break;
                }
                let is_poisoned = partition.stats().error.is_some();
                if appended.is_err() {
                    assert_eq!(show(&partition), before, "{case}");
                    refused += 1;
                    if is_poisoned {
                        poisoned += 1;
                        drop((partition, log));
                        let log = Log::open("/log", config(&storage.kill())).unwrap();
                        let partition = log.partition("t", 0).unwrap();
                        let end = partition.offsets().end;
                        assert!(end >= before.end && end <= all.end, "{case}: {end}");
                        continue;
                    }
                    partition.append_at(&batches(3, 27, 1)).unwrap_or_else(|e| panic!("{case}: the retry: {e}"));
                }
                assert_eq!(show(&partition), all, "{case}");
            }
        }
    }
    assert!(refused > 20 && poisoned < refused, "{refused} refused, {poisoned} of them for good");
}

/// At every operation of the append: what may be seen of it.
fn watched(room: Option<u64>) -> (Vec<u64>, bool) {
    let storage = SimStorage::new();
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let watched: Arc<Mutex<Option<Partition>>> = Arc::default();
    let (into, of) = (Arc::clone(&seen), Arc::clone(&watched));
    let observed = storage.observed(move |_| {
        let watched = of.lock().unwrap();
        if let Some(partition) = watched.as_ref() {
            into.lock().unwrap().push(partition.offsets().end.get());
        }
    });
    let log = Log::open("/log", config(&observed)).unwrap();
    let partition = log.create_topic("t", 1, topic(late())).unwrap().partition(0).unwrap();
    partition.append_at(&batches(0, 3, 1)).unwrap();
    *watched.lock().unwrap() = Some(partition.clone());
    observed.set_free_space(room);
    let appended = partition.append_at(&batches(3, 27, 1)).is_ok();
    *watched.lock().unwrap() = None;
    (std::mem::take(&mut *seen.lock().unwrap()), appended)
}

#[test]
fn nobody_sees_a_part_of_it() {
    let (whole, appended) = watched(None);
    assert!(appended && whole.len() > 5, "{whole:?}");
    assert!(whole.iter().all(|end| [3, 30].contains(end)), "{whole:?}");
    for room in [0, 500, 1500, 2500] {
        let (refused, appended) = watched(Some(room));
        assert!(!appended && refused.len() > 1, "room {room}: {refused:?}");
        assert!(refused.iter().all(|end| *end == 3), "room {room}: {refused:?}");
    }
}

/// A kill or a power cut at each operation of an append, and after one that failed.
#[test]
fn a_crash_leaves_a_beginning_of_it_that_goes_on() {
    let all = expected(27);
    let points: Arc<Mutex<Vec<SimStorage>>> = Arc::default();
    for room in [None, Some(1500), Some(2500)] {
        let (storage, log, partition) = begin(late());
        partition.flush().unwrap();
        drop(partition);
        log.close().unwrap();
        let into = Arc::clone(&points);
        let observed = storage.observed(move |before| into.lock().unwrap().push(before));
        let log = Log::open("/log", config(&observed)).unwrap();
        let partition = log.partition("t", 0).unwrap();
        points.lock().unwrap().clear();
        observed.set_free_space(room);
        let refused = partition.append_at(&batches(3, 27, 1)).is_err();
        assert_eq!(refused, room.is_some());
        if refused {
            // After the failure a kill leaves nothing of it.
            let log = Log::open("/log", config(&observed.kill())).unwrap();
            assert_eq!(log.partition("t", 0).unwrap().offsets().end.get(), 3);
            let put_aside = &log.recovery_report().partitions[0].put_aside;
            assert!(put_aside.is_empty(), "{put_aside:?}");
        }
        let points = std::mem::take(&mut *points.lock().unwrap());
        let mut looked = 0;
        for (at, point) in points.iter().enumerate() {
            let cuts = (0..12).flat_map(|seed| [Order::Strict, Order::Journaled].map(|order| Crash { order, seed }));
            let left = cuts.map(|crash| point.crash(&crash)).chain([point.kill()]);
            for left in left {
                left.set_free_space(None);
                let log = Log::open("/log", config(&left)).unwrap();
                let partition = log.partition("t", 0).unwrap();
                assert!(partition.stats().error.is_none(), "at {at}: {:?}", partition.stats().error);
                let end = partition.offsets().end.get();
                assert!((3..=30).contains(&end), "at {at}: {end}");
                let rest = batches(end, 30 - end, 1);
                if !rest.is_empty() {
                    partition.append_at(&rest).unwrap_or_else(|e| panic!("at {at}, from {end}: {e}"));
                }
                assert_eq!(show(&partition), all, "at {at}");
                looked += 1;
            }
        }
        println!("room {room:?}: {} states after a crash", looked);
    }
}
