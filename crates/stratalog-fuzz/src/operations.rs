//! Sequences of operations in which calls fail and the power goes: what was acknowledged as durable is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use stratalog::sim::{Calls, Crash, Failure, Injection, Order, SimStorage};
use stratalog::{Log, LogConfig, ManualClock, Offset, Partition, Record, Timestamp, TopicConfig};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn config(storage: &SimStorage) -> LogConfig {
    LogConfig::new()
        .storage(Arc::new(storage.clone()))
        .clock(Arc::new(ManualClock::new(NOW)))
        .min_free_bytes(0)
        .maintenance_interval(None)
        .checkpoint_bytes(4096)
        .sync_threads(0)
        .open_threads(Some(1))
}

/// What must be there, and what may be.
#[derive(Default)]
struct Known {
    durable: u64,
    start: u64,
    /// By offset, everything that was ever handed in for it since the log last ended below.
    values: BTreeMap<u64, Vec<String>>,
}

/// Two bytes are an operation and its argument.
pub fn operations(data: &[u8]) {
    let mut storage = SimStorage::new();
    let mut known = Known::default();
    let Some(mut open) = start(&storage, &mut known) else { return };
    for (number, step) in data.chunks_exact(2).take(64).enumerate() {
        let (op, argument) = (step[0], step[1]);
        match op % 10 {
            0..=3 => append(&open.1, &mut known, number, argument),
            4 => {
                if let Ok(durable) = open.1.flush() {
                    settle(&mut known, durable.get());
                }
            }
            5 => drop(open.1.roll()),
            6 => {
                let to = open.1.offsets().start.get() + u64::from(argument % 4);
                if open.1.delete_before(Offset::new(to)).is_ok() {
                    known.start = known.start.max(to);
                }
            }
            7 => {
                let failure = Failure::ALL[usize::from(argument) % Failure::ALL.len()];
                let after = u64::from(argument / 8);
                storage.inject(Injection { calls: Calls::Changing, after, failure, forever: false, seed: 0 });
            }
            _ => {
                drop(open);
                let order = if argument % 2 == 0 { Order::Strict } else { Order::Journaled };
                storage = match op % 10 {
                    8 => storage.kill(),
                    _ => storage.crash(&Crash { order, seed: u64::from(argument) }),
                };
                open = start(&storage, &mut known).expect("without a fault it opens");
            }
        }
    }
}

fn start(storage: &SimStorage, known: &mut Known) -> Option<(Log, Partition)> {
    let log = Log::open("/log", config(storage)).expect("it opens");
    if log.topic("t").is_none() {
        assert_eq!(known.durable, 0, "the topic is gone");
        log.create_topic("t", 1, TopicConfig::new().segment_bytes(1024)).ok()?;
    }
    let partition = log.partition("t", 0).expect("it was just made");
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
    let offsets = partition.offsets();
    assert!(offsets.end.get() >= known.durable, "{offsets:?}, but {} was durable", known.durable);
    assert!(offsets.start.get() >= known.start, "{offsets:?}, but all below {} was deleted", known.start);
    let mut found = BTreeMap::new();
    let mut reader = partition.reader(offsets.start).expect("the start can be read");
    while let Some(record) = reader.next_record().expect("all of it can be read") {
        let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        let any = known.values.get(&record.offset.get());
        assert!(any.is_some_and(|any| any.contains(&value)), "{} holds {value}", record.offset);
        found.insert(record.offset.get(), vec![value]);
    }
    let expected = offsets.start.get()..offsets.end.get();
    assert!(found.keys().copied().eq(expected), "no hole");
    known.values = found;
    (known.durable, known.start) = (offsets.end.get(), offsets.start.get());
    drop(reader);
    Some((log, partition))
}

fn append(partition: &Partition, known: &mut Known, number: usize, argument: u8) {
    let value = format!("{number:04}-{}", "x".repeat(usize::from(argument) / 2));
    let end = partition.offsets().end.get();
    known.values.entry(end).or_default().push(value.clone());
    if let Ok(appended) = partition.append_records([Record::new("key", &value)]) {
        assert_eq!(appended.base_offset.get(), end, "offsets are given in order");
    }
}

fn settle(known: &mut Known, durable: u64) {
    for (_, any) in known.values.range_mut(known.durable..durable.max(known.durable)) {
        let last = any.len().saturating_sub(1);
        any.drain(..last);
    }
    known.durable = known.durable.max(durable);
}

/// Inputs to begin with: appends that are flushed, rolled and deleted, then each failure at some of the calls that
/// follow, then a kill or a power cut.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for after in [0, 3, 9] {
        // Whatever failure a number stands for, it is among eight.
        for fault in after * 8..after * 8 + 8 {
            for end in [8, 9] {
                seeds.push(vec![
                    0, 40, 1, 90, 4, 0, 5, 0, 7, fault, 0, 200, 4, 0, 6, 2, 2, 40, end, 3, 0, 40, 4, 0, 9, 0,
                ]);
            }
        }
    }
    seeds
}
