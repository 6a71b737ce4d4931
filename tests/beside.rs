//! A log that is open for reading only, beside an owner that writes, rolls, compacts, truncates and removes.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{clocked, small};
use stratalog::{
    Budget, Cleanup, CompactMode, ErrorKind, Log, Offset, Partition, Record, Result, Timestamp, TopicConfig,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// The value tells key, round and offset.
fn append(partition: &Partition, round: u64) {
    for key in 0..20 {
        let (key, value) = (format!("k{key}"), format!("k{key}-{round}-{}", "x".repeat(50)));
        partition.append_records([Record::new(&key, &value)]).unwrap();
    }
}

/// Everything that the log shows: whole records in ascending order, each with its own value.
fn look(log: &Log, topic: &str) -> Result<usize> {
    let partition = log.partition(topic, 0).expect("the topic is there");
    let stats = partition.stats();
    assert!(stats.error.is_none(), "{:?}", stats.error);
    let offsets = partition.offsets();
    let mut reader = partition.reader(offsets.start)?;
    let (mut count, mut next) = (0, offsets.start);
    while let Some(record) = reader.next_record()? {
        assert!(record.offset >= next, "{} after {next}", record.offset);
        next = record.offset + 1;
        let (key, value) = (record.key.unwrap(), record.value.unwrap());
        assert!(value.starts_with(key) && value[key.len()] == b'-', "a value of another key");
        count += 1;
    }
    assert!(next <= offsets.end);
    Ok(count)
}

#[test]
fn a_read_only_open_succeeds_whatever_the_owner_does() {
    let dir = tempfile::tempdir().unwrap();
    // With the system's clock all would be sealed after `NOW`, and stay.
    let (config, _clock) = clocked();
    let log = Log::open(dir.path(), config).unwrap();
    let compacted = small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    log.create_topic("compacted", 1, compacted).unwrap();
    log.create_topic("plain", 1, TopicConfig::new().segment_bytes(4096)).unwrap();
    let [compacted, plain] = ["compacted", "plain"].map(|topic| log.partition(topic, 0).unwrap());
    append(&compacted, 0);
    append(&plain, 0);
    let (done, opened) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                append(&compacted, round);
                append(&plain, round);
                compacted.compact(NOW, CompactMode::Full).unwrap();
                let end = plain.offsets().end;
                match round % 4 {
                    // Or else each open would have more to look at than the one before.
                    0 => {
                        plain.delete_before(Offset::new(end.get().saturating_sub(200))).unwrap();
                        log.maintain(NOW, Budget::default()).unwrap();
                    }
                    1 => drop(plain.truncate_lossy(Offset::new(end.get() - 30)).unwrap()),
                    2 => log.create_topic("passing", 1, small()).map(|_| ()).unwrap(),
                    _ => log.delete_topic("passing").unwrap(),
                }
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let watched = scope.spawn(|| {
            for _ in 0..1000 {
                let seen = Log::open_read_only(dir.path()).unwrap();
                for topic in ["compacted", "plain"] {
                    match look(&seen, topic) {
                        Ok(count) => assert!(topic == "plain" || count >= 20),
                        Err(error) => assert_eq!(*error.kind(), ErrorKind::Outdated, "{error:?}"),
                    }
                }
            }
            opened.store(true, Ordering::Relaxed);
        });
        let watched = watched.join();
        done.store(true, Ordering::Relaxed);
        watched.unwrap();
    });
    assert!(opened.load(Ordering::Relaxed));
    assert!(compacted.stats().segments < 100, "{:?}", compacted.stats());
}

/// A read-only open shows what a recovery makes of the directory, wherever the owner was killed or lost power.
#[cfg(feature = "sim")]
#[test]
fn a_read_only_open_shows_what_recovery_would_leave() {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use common::quiet;
    use stratalog::sim::{Crash, Order, SimStorage};
    use stratalog::{LogConfig, ManualClock};

    fn config(storage: &SimStorage) -> LogConfig {
        quiet().storage(Arc::new(storage.clone())).clock(Arc::new(ManualClock::new(NOW))).sync_threads(0)
    }

    type Shown = (Offset, Offset, Vec<(u64, Vec<u8>)>);

    fn show(log: &Log) -> BTreeMap<String, Shown> {
        let show = |topic: String| {
            let partition = log.partition(&topic, 0)?;
            let offsets = partition.offsets();
            let mut reader = partition.reader(offsets.start).unwrap();
            let mut records = Vec::new();
            while let Some(record) = reader.next_record().unwrap() {
                records.push((record.offset.get(), record.value.unwrap().to_vec()));
            }
            Some((topic, (offsets.start, offsets.end, records)))
        };
        log.topics().into_iter().filter_map(|topic| show(topic.name().to_owned())).collect()
    }

    let states: Arc<Mutex<Vec<SimStorage>>> = Arc::default();
    let storage = SimStorage::new();
    let kept = Arc::clone(&states);
    let log = Log::open("/log", config(&storage.observed(move |state| kept.lock().unwrap().push(state)))).unwrap();
    let compacted = small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    log.create_topic("compacted", 1, compacted).unwrap();
    log.create_topic("plain", 1, small().segment_bytes(1024)).unwrap();
    let [compacted, plain] = ["compacted", "plain"].map(|topic| log.partition(topic, 0).unwrap());
    for round in 0..2 {
        append(&compacted, round);
        append(&plain, round);
        compacted.compact(NOW, CompactMode::Full).unwrap();
        plain.delete_before(Offset::new(round * 7)).unwrap();
        plain.truncate_lossy(Offset::new(round * 15 + 11)).unwrap();
    }
    plain.reset_to(Offset::new(100)).unwrap();
    append(&plain, 9);
    log.delete_topic("compacted").unwrap();
    log.close().unwrap();
    let states = std::mem::take(&mut *states.lock().unwrap());
    assert!(states.len() > 100, "{}", states.len());
    for (at, state) in states.iter().enumerate() {
        let crash = |order| state.crash(&Crash { order, seed: at as u64 });
        for image in [state.kill(), crash(Order::Strict), crash(Order::Journaled)] {
            let seen = Log::open_read_only_with("/log", config(&image)).map(|log| show(&log));
            let recovered = Log::open("/log", config(&image)).map(|log| show(&log));
            match (seen, recovered) {
                (Ok(seen), Ok(recovered)) => {
                    let ends = |shown: &BTreeMap<String, Shown>| -> Vec<_> {
                        shown
                            .iter()
                            .map(|(topic, (start, end, records))| (topic.clone(), *start, *end, records.len()))
                            .collect()
                    };
                    assert_eq!(ends(&seen), ends(&recovered), "state {at}");
                    assert!(seen == recovered, "state {at}");
                }
                // Before there is a log there is nothing to see.
                (Err(seen), Ok(recovered)) => assert!(recovered.is_empty(), "state {at}: {seen}"),
                (seen, recovered) => panic!("state {at}: {seen:?} {recovered:?}"),
            }
        }
    }
}
