//! Crashes at random operations, on the simulated storage: what was acknowledged as durable is there afterwards.
#![cfg(feature = "sim")]

use std::sync::Arc;
use std::time::Duration;

use stratalog::sim::{Crash, Order, SimStorage};
use stratalog::{Durability, Log, LogConfig, Offset, Partition, Record, TopicConfig};

fn config(storage: &SimStorage) -> LogConfig {
    LogConfig::new()
        .storage(Arc::new(storage.clone()))
        .min_free_bytes(0)
        .maintenance_interval(None)
        .checkpoint_bytes(4096)
        .sync_threads(0)
        .open_threads(Some(1))
}

fn topic() -> TopicConfig {
    TopicConfig::new()
        .segment_bytes(1024)
        .index_interval_bytes(128)
        .durability(Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 })
}

/// What the log must hold, whatever happens: values by offset, and how far they were acknowledged as durable.
#[derive(Default, Clone)]
struct Acknowledged {
    values: Vec<(u64, String)>,
    start: u64,
    end: u64,
    durable: u64,
    floor: u64,
}

fn step(partition: &Partition, model: &mut Acknowledged, n: u64) -> stratalog::Result<()> {
    match n % 11 {
        5 => {
            model.durable = partition.flush()?.get();
        }
        7 if n % 3 == 0 => partition.roll()?,
        8 if n % 4 == 0 && model.end > model.start + 3 => {
            let to = model.end - 2;
            model.floor = model.floor.min(to);
            model.durable = model.durable.min(to);
            let end = partition.truncate(Offset::new(to))?.get();
            model.values.retain(|(offset, _)| *offset < end);
            (model.end, model.durable) = (end, end);
        }
        9 if n % 2 == 0 => {
            let to = model.start + (model.end - model.start) / 3;
            model.start = to;
            partition.delete_before(Offset::new(to))?;
        }
        _ => {
            let (key, value) = (format!("k{}", n % 5), format!("value-{n}-{}", "x".repeat((n % 90) as usize)));
            model.values.push((model.end, value.clone()));
            let appended = partition.append_records([Record::new(&key, &value)])?;
            assert_eq!(appended.base_offset.get(), model.end);
            model.end = appended.next_offset.get();
        }
    }
    Ok(())
}

fn run(storage: &SimStorage, model: &mut Acknowledged, from: u64, steps: u64) -> stratalog::Result<()> {
    let log = Log::open("/log", config(storage))?;
    if log.topic("t").is_none() {
        log.create_topic("t", 1, topic())?;
    }
    let partition = log.partition("t", 0).ok_or(stratalog::ErrorKind::NotFound)?;
    if let Some(error) = partition.stats().error {
        return Err(error);
    }
    model.end = partition.offsets().end.get();
    let end = model.end;
    model.values.retain(|(offset, _)| *offset < end);
    for n in from..from + steps {
        step(&partition, model, n)?;
    }
    log.close()
}

fn check(storage: &SimStorage, model: &Acknowledged, what: &str) {
    let log = Log::open("/log", config(storage)).unwrap_or_else(|e| panic!("{what}: {e}\n{:#?}", storage.files()));
    let Some(partition) = log.partition("t", 0) else {
        assert_eq!(model.durable, 0, "{what}: the partition is gone: {:?}", log.recovery_report());
        return;
    };
    if let Some(error) = partition.stats().error {
        panic!("{what}: {error}\n{:#?}", storage.files());
    }
    let offsets = partition.offsets();
    assert!(offsets.end.get() >= model.durable, "{what}: {offsets:?}, {} were durable", model.durable);
    let mut reader = partition.reader(offsets.start).unwrap();
    let mut next = offsets.start.get();
    while let Some(record) = reader.next_record().unwrap_or_else(|e| panic!("{what}: {e}")) {
        assert_eq!(record.offset.get(), next, "{what}");
        let value = std::str::from_utf8(record.value.unwrap()).unwrap();
        let known = model.values.iter().any(|(offset, known)| *offset == next && known == value);
        assert!(known, "{what}: {next} holds {value}, which was never appended there");
        next += 1;
    }
    assert_eq!(next, offsets.end.get(), "{what}");
}

#[test]
fn what_was_durable_survives_a_power_cut_at_every_operation() {
    let mut images = 0;
    for order in [Order::Strict, Order::Journaled] {
        for first in 0..workloads() {
            let mut stop = 0;
            loop {
                let storage = SimStorage::new();
                storage.stop_after(stop);
                let mut model = Acknowledged::default();
                let done = run(&storage, &mut model, first * 1000, 40);
                for seed in 0..6 {
                    let what = format!("{order:?}, workload {first}, operation {stop}, seed {seed}");
                    let image = storage.crash(&Crash { order, seed });
                    check(&image.crash(&Crash { order, seed }), &model, &what);
                    images += 1;
                    // Recovery crashes too, and what was recovered is appended to, and crashes again.
                    let image = storage.crash(&Crash { order, seed });
                    let mut again = model.clone();
                    image.stop_after((stop + seed) % 23);
                    let _ = run(&image, &mut again, first * 1000 + 500, 12);
                    for seed in [0, 1, 7 * seed + stop] {
                        let nested = image.crash(&Crash { order, seed });
                        check(&nested, &again, &format!("{what}, then seed {seed} after {}", (stop + seed) % 23));
                        images += 1;
                    }
                    // A killed process, then a power cut.
                    let killed = storage.kill();
                    killed.stop_after(stop % 17);
                    let mut again = model.clone();
                    let _ = run(&killed, &mut again, first * 1000 + 700, 12);
                    check(&killed.crash(&Crash { order, seed: seed + 3 }), &again, &format!("{what}, killed first"));
                    images += 1;
                }
                if done.is_ok() {
                    break;
                }
                stop += 1;
            }
        }
    }
    println!("{images} images");
}

/// How many workloads are run; more on request.
fn workloads() -> u64 {
    std::env::var("STRATALOG_CRASH_WORKLOADS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}
