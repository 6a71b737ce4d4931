//! Orders in which threads may come, tried by a scheduler that every lock and atomic of the engine asks. A failure
//! prints the schedule that leads to it. `CONTRIBUTING.md` has the command; `STRATALOG_SCHEDULES` says how many of each
//! kind.
#![cfg(all(shuttle, feature = "sim"))]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shuttle::thread;
use stratalog::sim::{Crash, Order, SimStorage};
use stratalog::{
    Cleanup, CompactMode, Durability, ErrorKind, Log, LogConfig, ManualClock, Offset, Partition, Record, Timestamp,
    TopicConfig, WaitOutcome,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Long enough never to pass.
const LONG: Duration = Duration::from_secs(3600);

/// Half of the schedules are drawn evenly, half with few changes of threads, which finds what needs a long run of one.
fn schedules(case: impl Fn() + Send + Sync + Copy + 'static) {
    let count = std::env::var("STRATALOG_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    shuttle::check_random(case, count / 2);
    shuttle::check_pct(case, count - count / 2, 3);
    println!("{count} schedules, 0 bad");
}

fn open(storage: &SimStorage, topic: TopicConfig) -> (Log, Partition) {
    let config = LogConfig::new().storage(Arc::new(storage.clone())).clock(Arc::new(ManualClock::new(NOW)));
    let config = config.min_free_bytes(0).maintenance_interval(None).sync_threads(0).open_threads(Some(1));
    let log = Log::open("/log", config).unwrap();
    if log.topic("t").is_none() {
        log.create_topic("t", 1, topic).unwrap();
    }
    let partition = log.partition("t", 0).unwrap();
    (log, partition)
}

fn small() -> TopicConfig {
    let never = Durability::Buffered { interval: LONG, bytes: 1 << 30 };
    TopicConfig::new().segment_bytes(1024).index_interval_bytes(64).durability(never)
}

fn append(partition: &Partition, key: &str, value: &str) -> u64 {
    let value = format!("{value}{}", "-".repeat(300));
    partition.append_records([Record::new(key, &value)]).unwrap().base_offset.get()
}

/// One after the other, each with the next of the keys.
fn append_all(partition: &Partition, keys: &[&str], count: usize, value: &str) {
    for (number, key) in (0..count).zip(keys.iter().cycle()) {
        append(partition, key, &format!("{value} {number}"));
    }
}

/// All records from the start on: offsets grow, and nothing stops the read.
fn read(partition: &Partition) -> BTreeMap<u64, String> {
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
        let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).unwrap();
        assert!(found.last_key_value().is_none_or(|(last, _)| *last < record.offset.get()), "offsets grow");
        found.insert(record.offset.get(), value);
    }
    found
}

#[test]
fn who_waits_for_a_record_is_woken_and_finds_it() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small());
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let partition = partition.clone();
                thread::spawn(move || append_all(&partition, &["k"], 2, "v"))
            })
            .collect();
        for end in [1, 4] {
            let outcome = partition.wait_for(Offset::new(end - 1), LONG).unwrap();
            assert!(matches!(outcome, WaitOutcome::Reached(reached) if reached.get() >= end), "{outcome:?}");
            assert!(read(&partition).len() as u64 >= end);
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        log.close().unwrap();
    });
}

#[test]
fn who_tails_with_a_reader_sleeps_through_no_record_though_segments_are_rolled() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small());
        let (appends, rolls) = (partition.clone(), partition.clone());
        let others =
            [thread::spawn(move || append_all(&appends, &["k"], 3, "v")), thread::spawn(move || rolls.roll().unwrap())];
        let mut reader = partition.reader(Offset::ZERO).unwrap();
        for next in 0..3 {
            while reader.next_record().unwrap().is_none() {
                assert!(matches!(reader.wait(LONG).unwrap(), WaitOutcome::Reached(_)));
            }
            assert_eq!(reader.offset().get(), next + 1);
        }
        others.into_iter().for_each(|other| other.join().unwrap());
        log.close().unwrap();
    });
}

#[test]
fn what_threads_that_share_syncs_were_told_survives_a_power_cut() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small().durability(Durability::Sync));
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (partition, storage) = (partition.clone(), storage.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        let offset = append(&partition, "k", &writer.to_string());
                        assert!(partition.offsets().durable.get() > offset);
                        let left = storage.crash(&Crash { order: Order::Strict, seed: 0 });
                        let (_left, left) = open(&left, small());
                        let found = read(&left);
                        assert!(found.get(&offset).is_some_and(|value| value.starts_with(&writer.to_string())));
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(read(&partition).len(), 6);
        log.close().unwrap();
    });
}

#[test]
fn readers_of_a_log_that_is_compacted_end_with_the_latest_values() {
    schedules(|| {
        let topic = small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
        let (log, partition) = open(&SimStorage::new(), topic);
        let keys = ["a", "b"];
        append_all(&partition, &keys, 6, "old");
        let (compacts, appends) = (partition.clone(), partition.clone());
        let compacting = thread::spawn(move || {
            compacts.compact(NOW, CompactMode::Full).unwrap();
        });
        let appending = thread::spawn(move || append_all(&appends, &keys, 4, "new"));
        // Whatever is removed meanwhile, the last of the old values is there, or a newer one.
        let seen = read(&partition);
        assert!(seen.keys().any(|offset| *offset >= 4) && seen.keys().any(|offset| *offset >= 5), "{seen:?}");
        compacting.join().unwrap();
        appending.join().unwrap();
        partition.compact(NOW, CompactMode::Full).unwrap();
        let left = read(&partition);
        assert!(left[&8].starts_with("new 2") && left[&9].starts_with("new 3"), "{left:?}");
        assert!(partition.verify().unwrap().findings.is_empty());
        log.close().unwrap();
    });
}

#[test]
fn appends_deletions_truncations_and_syncs_meet_and_nothing_is_lost() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small());
        append_all(&partition, &["k"], 6, "first");
        let (deletes, flushes, cuts) = (partition.clone(), partition.clone(), partition.clone());
        let others = [
            thread::spawn(move || {
                deletes.delete_before(Offset::new(3)).unwrap();
                deletes.retain(NOW).unwrap();
            }),
            thread::spawn(move || {
                flushes.flush().unwrap();
            }),
            thread::spawn(move || {
                cuts.truncate(Offset::new(5)).unwrap();
            }),
        ];
        let own = append(&partition, "k", "own");
        let seen = read(&partition);
        others.into_iter().for_each(|other| other.join().unwrap());
        let offsets = partition.offsets();
        assert_eq!(offsets.start.get(), 3);
        assert!(seen.keys().all(|offset| *offset < 7));
        // It was appended behind the cut, or cut off with the rest.
        let expected = if own == 5 { 6 } else { 5 };
        assert_eq!(offsets.end.get(), expected);
        assert!(read(&partition).keys().copied().eq(3..expected));
        partition.flush().unwrap();
        let (_left, left) = open(&storage.crash(&Crash { order: Order::Strict, seed: 0 }), small());
        assert!(read(&left).keys().copied().eq(3..expected));
        log.close().unwrap();
    });
}
