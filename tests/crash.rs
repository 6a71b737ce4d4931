//! Power cuts at every operation of workloads of every kind, on the simulated storage: what was acknowledged as durable
//! is there afterwards, nothing else is, and the log goes on.
#![cfg(feature = "sim")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stratalog::format::{Marker, Scratch, end_marker};
use stratalog::sim::{Crash, Order, SimStorage};
use stratalog::{
    Budget, Cleanup, Clock, Codec, CompactMode, Durability, ErrorKind, Isolation, Log, LogConfig, ManualClock, Offset,
    Partition, Record, RecordBatch, Timestamp, TopicConfig,
};

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

/// The kinds of workloads.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Buffered,
    Synced,
    Transactions,
    Retained,
    Compacted,
}

impl Kind {
    fn of(workload: u64) -> Kind {
        [Kind::Buffered, Kind::Synced, Kind::Transactions, Kind::Retained, Kind::Compacted][workload as usize % 5]
    }

    fn topic(self) -> TopicConfig {
        let config = TopicConfig::new().segment_bytes(1024).index_interval_bytes(128);
        let buffered = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
        match self {
            Kind::Buffered | Kind::Transactions => config.durability(buffered),
            Kind::Synced => config.durability(Durability::Sync),
            Kind::Retained => config.durability(buffered).retention_bytes(Some(2048)),
            Kind::Compacted => config
                .durability(buffered)
                .cleanup(Cleanup::Compact)
                .min_cleanable_dirty_ratio(0.0)
                .delete_retention(Duration::ZERO),
        }
    }
}

/// What the log may hold and must hold.
#[derive(Default, Clone)]
struct Model {
    /// What was appended at each offset and not taken back since; appends that failed half way may be there.
    values: BTreeMap<u64, Vec<String>>,
    end: u64,
    /// Acknowledged as durable.
    durable: u64,
    /// Nothing below was given up, that anybody was told of.
    start: u64,
    sequence: i32,
}

impl Model {
    fn append(&mut self, partition: &Partition, values: &[String]) -> stratalog::Result<()> {
        let keys: Vec<String> = values.iter().map(|value| format!("k{}", key_of(value))).collect();
        let records: Vec<Record<'_>> = keys.iter().zip(values).map(|(key, value)| Record::new(key, value)).collect();
        self.expect(values);
        let appended = partition.append_records(records)?;
        self.appended(partition, appended);
        Ok(())
    }

    fn expect(&mut self, values: &[String]) {
        for (offset, value) in (self.end..).zip(values) {
            self.values.entry(offset).or_default().push(value.clone());
        }
    }

    fn appended(&mut self, partition: &Partition, appended: stratalog::Appended) {
        assert_eq!(appended.base_offset.get(), self.end);
        self.end = appended.next_offset.get();
        if partition.config().durability == Durability::Sync {
            self.durable = self.end;
        }
    }

    fn transaction(&mut self, partition: &Partition, producer: i64, value: &str) -> stratalog::Result<()> {
        let mut builder =
            RecordBatch::builder().producer(producer, 0, self.sequence).transactional(true).codec(Codec::Lz4);
        builder.push(&Record::new("key", value), NOW).unwrap();
        self.sequence += 1;
        self.expect(&[value.to_owned()]);
        let appended = partition.append(&builder.build().unwrap())?;
        self.appended(partition, appended);
        Ok(())
    }

    fn end_transaction(&mut self, partition: &Partition, producer: i64, marker: Marker) -> stratalog::Result<()> {
        let appended = partition.append(&end_marker(marker, producer, 0, 0, NOW).unwrap())?;
        self.appended(partition, appended);
        Ok(())
    }

    fn cut(&mut self, partition: &Partition, to: u64) -> stratalog::Result<()> {
        // A batch that holds `to` goes whole; none has more than three records.
        self.durable = self.durable.min(to.saturating_sub(2));
        let end = match partition.truncate(Offset::new(to)) {
            Err(error) if matches!(error.kind(), ErrorKind::TruncateBelowCompacted { .. }) => return Ok(()),
            done => done?.get(),
        };
        self.values.retain(|offset, _| *offset < end);
        (self.end, self.durable) = (end, end);
        Ok(())
    }

    fn reset(&mut self, partition: &Partition, to: u64) -> stratalog::Result<()> {
        (self.start, self.durable) = (0, 0);
        partition.reset_to(Offset::new(to))?;
        self.values.clear();
        (self.start, self.end, self.durable) = (to, to, to);
        Ok(())
    }
}

fn step(kind: Kind, log: &Log, partition: &Partition, model: &mut Model, n: u64) -> stratalog::Result<()> {
    let value = |n: u64| format!("value-{n}-{}", "x".repeat((n * 7 % 90) as usize));
    match (n * 5 + n / 7) % 16 {
        3 => model.durable = partition.flush()?.get(),
        5 if n.is_multiple_of(2) => partition.roll()?,
        6 if n.is_multiple_of(3) && model.end > model.start + 3 => return model.cut(partition, model.end - 2),
        7 if n.is_multiple_of(2) => {
            let to = model.start + (model.end - model.start) / 3;
            model.start = to;
            partition.delete_before(Offset::new(to))?;
        }
        8 if n.is_multiple_of(5) => return model.reset(partition, model.end + 100),
        9 => model.append(partition, &[value(n), value(n + 1), value(n + 2)])?,
        10 | 11 if kind == Kind::Transactions => model.transaction(partition, (n % 3) as i64, &value(n))?,
        12 if kind == Kind::Transactions => {
            let marker = if n.is_multiple_of(2) { Marker::Abort } else { Marker::Commit };
            model.end_transaction(partition, (n % 3) as i64, marker)?;
        }
        13 if kind == Kind::Transactions => partition.set_leader_epoch(n as i32)?,
        14 if kind == Kind::Retained => {
            model.start = model.start.max(partition.offsets().start.get());
            let report = log.maintain(ManualClock::new(NOW).now(), Budget::default())?;
            if let Some(error) = report.passes.iter().find_map(|(.., pass)| pass.errors.first()) {
                return Err(error.clone());
            }
            model.start = model.start.max(partition.offsets().start.get());
        }
        11 | 12 | 15 if kind == Kind::Compacted => {
            let report = partition.compact(NOW, CompactMode::Full)?;
            assert!(report.damaged.is_empty(), "{report:?}");
        }
        _ => model.append(partition, &[value(n)])?,
    }
    Ok(())
}

fn run(storage: &SimStorage, model: &mut Model, workload: u64, steps: std::ops::Range<u64>) -> stratalog::Result<()> {
    let kind = Kind::of(workload);
    let log = Log::open("/log", config(storage))?;
    if log.topic("t").is_none() {
        log.create_topic("t", 1, kind.topic())?;
    }
    let partition = log.partition("t", 0).ok_or(ErrorKind::NotFound)?;
    if let Some(error) = partition.stats().error {
        return Err(error);
    }
    let offsets = partition.offsets();
    (model.start, model.end) = (offsets.start.get(), offsets.end.get());
    let end = model.end;
    model.values.retain(|offset, _| *offset < end);
    // Of the appends that failed half way the one that was found is the one that counts.
    for (offset, value) in read(&partition).map_err(|_| ErrorKind::NotFound)? {
        model.values.insert(offset, vec![value]);
    }
    for n in steps {
        step(kind, &log, &partition, model, n + workload * 31)?;
    }
    log.close()
}

/// Offsets and values of all data records.
fn read(partition: &Partition) -> stratalog::Result<Vec<(u64, String)>> {
    let mut reader = partition.reader(partition.offsets().start)?;
    let mut found = Vec::new();
    while let Some(record) = reader.next_record()? {
        let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).unwrap();
        found.push((record.offset.get(), value));
    }
    Ok(found)
}

fn check(storage: &SimStorage, model: &Model, what: &dyn Fn() -> String) {
    let log = Log::open("/log", config(storage)).unwrap_or_else(|e| panic!("{}: {e}\n{:?}", what(), storage.files()));
    let Some(partition) = log.partition("t", 0) else {
        assert_eq!(model.durable, 0, "{}: the partition is gone: {:?}", what(), log.recovery_report());
        return;
    };
    if let Some(error) = partition.stats().error {
        panic!("{}: {error}\n{:?}", what(), storage.files());
    }
    let offsets = partition.offsets();
    assert!(offsets.end.get() >= model.durable, "{}: {offsets:?}, {} were durable", what(), model.durable);
    assert_eq!(offsets.durable, offsets.end, "{}: what recovery shows is durable", what());
    let found = read(&partition).unwrap_or_else(|e| panic!("{}: {e}", what()));
    let mut last = None;
    for (offset, value) in &found {
        assert!(last.is_none_or(|last| last < *offset), "{}: offsets grow", what());
        last = Some(*offset);
        let known = model.values.get(offset).is_some_and(|values| values.contains(value));
        assert!(
            known,
            "{}: {offset} holds {value}, which was never appended there: {:?}",
            what(),
            model.values.get(offset)
        );
    }
    if partition.config().cleanup == Cleanup::Compact {
        return check_latest(&partition, model, &found, what);
    }
    let missing = model
        .values
        .range(offsets.start.get()..model.durable.max(offsets.start.get()))
        .find(|(at, _)| found.iter().all(|(o, _)| o != *at));
    assert!(missing.is_none(), "{}: {missing:?} is missing", what());
    check_transactions(&partition, what);
}

/// The key that [`Model::append`] gave a value.
fn key_of(value: &str) -> usize {
    value.len() % 5
}

/// Of a compacted log each key's latest record is there.
fn check_latest(partition: &Partition, model: &Model, found: &[(u64, String)], what: &dyn Fn() -> String) {
    let offsets = partition.offsets();
    let mut latest = BTreeMap::new();
    for (offset, values) in model.values.range(offsets.start.get()..offsets.end.get()) {
        let there = found.iter().find(|(at, _)| at == offset).map(|(_, value)| value);
        let value = there.or(values.last()).expect("each offset has a value");
        latest.insert(key_of(value), *offset);
    }
    for (key, offset) in latest {
        assert!(found.iter().any(|(at, _)| *at == offset), "{}: the latest record of key {key}, at {offset}", what());
    }
}

/// The last stable offset is what the batches say.
fn check_transactions(partition: &Partition, what: &dyn Fn() -> String) {
    let offsets = partition.offsets();
    if offsets.start > Offset::ZERO {
        return;
    }
    let mut open = BTreeMap::new();
    let mut scratch = Scratch::default();
    let mut reader = partition.reader(offsets.start).unwrap();
    while let Some(batch) = reader.next_batch().unwrap() {
        let header = batch.header();
        match batch.control(&mut scratch).unwrap() {
            Some(_) => {
                open.remove(&header.producer_id);
            }
            None if header.attributes.is_transactional() => {
                open.entry(header.producer_id).or_insert(header.base_offset);
            }
            None => {}
        }
    }
    let stable = open.values().min().copied().unwrap_or(offsets.end);
    assert_eq!(offsets.last_stable, stable, "{}", what());
    let options = stratalog::FetchOptions { isolation: Isolation::Committed, ..stratalog::FetchOptions::default() };
    partition.fetch(offsets.start, options).unwrap_or_else(|e| panic!("{}: {e}", what()));
}

/// Runs a workload, stops it after each operation, and looks at what is left: after a power cut, after a second one
/// during or after recovery, after a kill and then a power cut.
fn explore(order: Order, workload: u64, images: &mut u64) {
    for stop in 0.. {
        let storage = SimStorage::new();
        storage.stop_after(stop);
        let mut model = Model::default();
        let done = run(&storage, &mut model, workload, 0..40);
        for seed in 0..6 {
            let what = || format!("{order:?}, workload {workload}, operation {stop}, seed {seed}");
            let crash = Crash { order, seed };
            check(&storage.crash(&crash), &model, &what);

            let image = storage.crash(&crash);
            let mut again = model.clone();
            let second = (stop + seed * 7) % 29;
            image.stop_after(second);
            let _ = run(&image, &mut again, workload, 500..512);
            for nested in [0, 1, 7 * seed + stop] {
                let what = || format!("{}, then seed {nested} after {second}", what());
                check(&image.crash(&Crash { order, seed: nested }), &again, &what);
            }

            let killed = storage.kill();
            let mut again = model.clone();
            killed.stop_after(stop % 17 + seed);
            let _ = run(&killed, &mut again, workload, 700..712);
            let what = || format!("{}, killed first, then stopped after {}", what(), stop % 17 + seed);
            check(&killed.crash(&Crash { order, seed: seed + 3 }), &again, &what);
            *images += 5;
        }
        if done.is_ok() {
            return;
        }
        let stopped = storage.is_stopped();
        assert!(stopped, "{order:?}, workload {workload}, operation {stop}: {done:?}");
    }
}

#[test]
fn what_was_durable_survives_a_power_cut_at_every_operation() {
    let workloads = std::env::var("STRATALOG_CRASH_WORKLOADS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let mut images = 0;
    for order in [Order::Strict, Order::Journaled] {
        for workload in 0..workloads {
            explore(order, workload, &mut images);
        }
    }
    println!("{images} crash states of {workloads} workloads recovered");
}
