//! Power cuts at every operation of workloads of every kind, on the simulated storage: what was acknowledged as durable
//! is there afterwards, nothing else is, and the log goes on.
#![cfg(feature = "sim")]

mod exploration;

use std::sync::{Arc, Mutex};

use exploration::explore::{self, Counts, Seen, case, explore, shrink};
use exploration::workload::KINDS;
use exploration::world::Rig;
use stratalog::sim::{Breadth, Crash, Order, SimStorage};
use stratalog::{Durability, Log, LogConfig, Record, TopicConfig};

/// A size of this run, as the environment has it.
fn size(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn what_was_durable_survives_a_power_cut_at_every_operation() {
    let from = size("STRATALOG_CRASH_FROM", 0);
    let cases = size("STRATALOG_CRASH_CASES", 16);
    let ops = size("STRATALOG_CRASH_OPS", 20) as usize;
    let breadth = Breadth {
        order: Order::Strict,
        tears: size("STRATALOG_CRASH_TEARS", 1),
        drawn: size("STRATALOG_CRASH_DRAWN", 4),
        seed: 0,
        last: size("STRATALOG_CRASH_LAST", 6) as usize,
    };
    let depth = size("STRATALOG_CRASH_DEPTH", 3) as u32;
    let mut total = Counts::default();
    for seed in from..from + cases {
        let mut seen = Seen::default();
        for order in [Order::Strict, Order::Journaled] {
            let case = case(seed, order, ops, breadth, depth);
            match explore(&case, Rig::PLAIN, &mut seen) {
                Ok(counts) => {
                    println!("seed {seed} {:?} {order:?}: {counts:?}", case.kind);
                    total += counts;
                }
                Err(failure) => panic!("seed {seed}, {order:?}: {}", shrink(&case, Rig::PLAIN, failure, 200)),
            }
        }
    }
    let Counts { points, images, distinct, recovered } = total;
    let least = size("STRATALOG_CRASH_LEAST", 0);
    assert!(distinct >= least, "{distinct} different images, fewer than {least}");
    println!(
        "crash states: {recovered} recovered, {distinct} distinct of {images} images at {points} points, \
         seeds {from}..{}, both orders, 0 violations",
        from + cases
    );
}

#[test]
fn what_was_durable_survives_a_power_cut_in_every_short_sequence() {
    let length = size("STRATALOG_CRASH_SEQUENCES", 1) as u32;
    let breadth = Breadth { order: Order::Strict, tears: 1, drawn: 2, seed: 0, last: 4 };
    let mut total = Counts::default();
    let mut sequences = 0;
    let mut seen = Seen::default();
    for kind in KINDS {
        for case in (1..=length).flat_map(|length| explore::sequences(kind, length, Order::Strict, breadth)) {
            seen.begin_workload();
            sequences += 1;
            match explore(&case, Rig::PLAIN, &mut seen) {
                Ok(counts) => total += counts,
                Err(failure) => panic!("{kind:?}: {failure}"),
            }
        }
    }
    let Counts { points, images, distinct, recovered } = total;
    println!(
        "crash states: {recovered} recovered, {distinct} distinct of {images} images at {points} points, \
         all {sequences} sequences of up to {length} operations, 0 violations"
    );
}

/// Threads share syncs: what one of them was told is on disk, whoever synced it.
#[test]
fn what_several_threads_were_told_is_durable_survives() {
    let storage = SimStorage::new();
    let told: Arc<Mutex<Vec<(u64, String)>>> = Arc::default();
    let points: Arc<Mutex<Vec<(SimStorage, usize)>>> = Arc::default();
    let config = |storage: &SimStorage| {
        let config = LogConfig::new().storage(Arc::new(storage.clone())).min_free_bytes(0);
        config.maintenance_interval(None).sync_threads(0).open_threads(Some(1))
    };
    let (count, into) = (Arc::clone(&told), Arc::clone(&points));
    let observed = storage.observed(move |before| {
        let told = count.lock().unwrap().len();
        into.lock().unwrap().push((before, told));
    });
    let log = Log::open("/log", config(&observed)).unwrap();
    log.create_topic("t", 1, TopicConfig::new().segment_bytes(1024).durability(Durability::Sync)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (partition, told) = (partition.clone(), Arc::clone(&told));
            scope.spawn(move || {
                for n in 0..25 {
                    let value = format!("{thread}-{n}");
                    let appended = partition.append_records([Record::new("key", &value)]).unwrap();
                    told.lock().unwrap().push((appended.base_offset.get(), value));
                }
            });
        }
    });
    drop((partition, log));
    let told = told.lock().unwrap();
    let mut states = 0;
    for (before, count) in points.lock().unwrap().iter() {
        for seed in [0, 1, 5, 9] {
            let log = Log::open("/log", config(&before.crash(&Crash { order: Order::Strict, seed }))).unwrap();
            let mut there = std::collections::BTreeMap::new();
            if let Some(partition) = log.partition("t", 0) {
                let mut reader = partition.reader(partition.offsets().start).unwrap();
                while let Some(record) = reader.next_record().unwrap() {
                    there.insert(record.offset.get(), String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                }
            }
            for (offset, value) in &told[..*count] {
                assert_eq!(there.get(offset), Some(value), "seed {seed}");
            }
            states += 1;
        }
    }
    println!("{states} crash states of appends by several threads recovered");
}
