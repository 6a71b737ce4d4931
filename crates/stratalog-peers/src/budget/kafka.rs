//! Rows beside Kafka's own log layer, on the same data.

use std::hint::black_box;

use stratalog::format::Scratch;
use stratalog::{FetchOptions, Log, Offset, Partition, RecordBatch};

use super::{Bound, Budget, MIB, batches, config, open, open_as, seconds, share, topic, with_threads};
use crate::clocked::Clocked;
use crate::data::{KEYS, Records};
use crate::engines::Engine;

const SIZES: [(&str, usize); 2] = [("100 B", 100), ("1 KiB", 1024)];

/// What Kafka reaches: see the figures that the goals came with.
struct Kafkas {
    /// Records a second, ready batches of 100.
    append: f64,
    /// Seconds to build the batches of all records.
    build: f64,
    records: f64,
    /// MiB a second.
    raw: f64,
    /// Records a second.
    decoded: f64,
    /// MiB a second.
    recovery: f64,
}

const SMALL: Kafkas =
    Kafkas { append: 4.81e6, build: 0.30, records: 1e6, raw: 4478.0, decoded: 10.2e6, recovery: 1664.0 };
const LARGE: Kafkas =
    Kafkas { append: 1.47e6, build: 0.26, records: 2e5, raw: 6733.0, decoded: 2.83e6, recovery: 3121.0 };
/// Records a second, ready batches of one; MiB a second of recovery.
const APPEND_ONE: f64 = 363e3;
const RECOVERY_ONE: f64 = 96.0;

fn append_all(partition: &Partition, batches: &[RecordBatch]) {
    for batch in batches {
        black_box(partition.append(batch).expect("there is room"));
    }
}

/// Seconds to append to a fresh log, and its bytes.
fn timed(budget: &Budget<'_>, append: impl Fn(&Partition)) -> (f64, f64) {
    let mut bytes = 0.0;
    let took = budget.median(|| {
        let (log, partition) = open_as(&budget.fresh(), topic(), with_threads());
        let took = seconds(|| append(&partition));
        bytes = partition.stats().bytes as f64;
        drop((partition, log));
        took
    });
    (took, bytes)
}

pub fn appends(budget: &mut Budget<'_>) {
    for ((name, size), kafkas, bound, goal, of_records) in
        [(SIZES[0], SMALL, Bound::Processor, 3.0, 3.0), (SIZES[1], LARGE, Bound::Writes, 2.0, 3.0)]
    {
        let records = Records::generate(budget.count(size), KEYS, size);
        let count = records.len() as f64;
        let ready = batches(&records, 100);
        let (took, bytes) = timed(budget, |partition| append_all(partition, &ready));
        let (times, words) = budget.against_kafka(count / took, kafkas.append, bound, "rec/s");
        let limit = share(bytes / took, budget.limits.write, "64 KiB writes");
        let work = format!("append, ready batches of 100 x {name}");
        budget.push("append-ready", work, format!(">= {goal}x"), words, Some(times >= goal), limit);

        let (took, bytes) = timed(budget, |partition| {
            for run in records.all().chunks(100) {
                partition.append_records(run.iter().map(|entry| entry.record())).expect("there is room");
            }
        });
        let kafka_took = kafkas.records / kafkas.append + kafkas.build;
        let (times, words) = budget.against_kafka(count / took, kafkas.records / kafka_took, bound, "rec/s");
        let limit = share(bytes / took, budget.limits.write, "64 KiB writes");
        let work = format!("append from records, batches of 100 x {name} built by us");
        let goal = format!(">= {of_records}x of Kafka's build and append");
        budget.push("append-records", work, goal, words, Some(times >= of_records), limit);
    }
    one_a_call(budget);
}

fn one_a_call(budget: &mut Budget<'_>) {
    let records = Records::generate(budget.count(100), KEYS, 100);
    let count = records.len() as f64;
    let mut cpu = Vec::new();
    let took = budget.median(|| {
        let (log, partition) = open_as(&budget.fresh(), topic(), with_threads());
        let clocked = Clocked::start();
        for entry in records.all().iter() {
            black_box(partition.append_records([entry.record()]).expect("there is room"));
        }
        let (took, used) = clocked.stop();
        cpu.push(used);
        drop((partition, log));
        took
    });
    cpu.sort_by(f64::total_cmp);
    let nanos = cpu[cpu.len() / 2] / count * 1e9;
    let (times, words) = budget.against_kafka(count / took, APPEND_ONE, Bound::Processor, "rec/s");
    let measured = format!("{words}; {nanos:.0} CPU ns a record");
    let of_memcpy = share(records.payload() as f64 / took, budget.limits.memcpy, "memcpy");
    let goal = ">= 20x of Kafka, <= 140 CPU ns a record";
    let is_met = times >= 20.0 && nanos <= 140.0;
    budget.push("append-one", "append, one record of 100 B a call", goal, measured, Some(is_met), of_memcpy);
    let beside = budget.against(count / took, "append-1-100B/rate", Engine::CommitLog);
    if let Some((times, words)) = beside {
        let measured = format!("{} rec/s = {words}", super::number(count / took));
        budget.push("append-one", "the same beside commitlog", ">= 8x", measured, Some(times >= 8.0), String::new());
    }
}

/// A log whose records are in sealed segments, all in the page cache.
fn filled(budget: &Budget<'_>, records: &Records) -> (Log, Partition) {
    let (log, partition) = open(&budget.fresh(), topic(), None);
    append_all(&partition, &batches(records, 100));
    partition.roll().expect("it can be sealed");
    (log, partition)
}

pub fn reads(budget: &mut Budget<'_>) {
    for ((name, size), kafkas, decoded_goal) in [(SIZES[0], SMALL, 4.0), (SIZES[1], LARGE, 3.0)] {
        let records = Records::generate(budget.count(size), KEYS, size);
        let (log, partition) = filled(budget, &records);
        let bytes = partition.stats().bytes as f64;
        read_raw(&partition);
        let took = budget.median(|| seconds(|| assert_eq!(read_raw(&partition), records.len().div_ceil(100))));
        let of_mapping = bytes / took / budget.limits.mapped;
        let (times, words) = budget.against_kafka(bytes / took / MIB, kafkas.raw, Bound::Reads, "MiB/s");
        let limit = format!("{:.0}% of reading each byte of a mapping", of_mapping * 100.0);
        let work = format!("read raw, zero copy, headers walked, {name}");
        let (goal, is_met) =
            if size == 100 { (">= 3x", times >= 3.0) } else { (">= 0.8 of the mapping's limit", of_mapping >= 0.8) };
        budget.push("read-raw", work, goal, words, Some(is_met), limit);

        let count = records.len() as f64;
        let took = budget.median(|| seconds(|| assert_eq!(read_records(&partition), records.len())));
        let (times, words) = budget.against_kafka(count / took, kafkas.decoded, Bound::Processor, "rec/s");
        let limit = share(bytes / took, budget.limits.mapped_and_checked(), "mapping and CRC");
        let fast = size > 100 || count / took >= 40e6;
        let goal = if size == 100 { ">= 4x, >= 40 M rec/s" } else { ">= 3x" };
        let work = format!("read decoded with CRC, {name}");
        budget.push("read-decoded", work, goal, words, Some(times >= decoded_goal && fast), limit);
        drop(partition);
        log.close().expect("it is sound");
    }
}

fn read_raw(partition: &Partition) -> usize {
    let (mut from, mut headers) = (Offset::ZERO, 0);
    loop {
        let fetch = partition.fetch(from, FetchOptions::default()).expect("it is sound");
        if fetch.is_empty() {
            return headers;
        }
        headers += fetch.batches().filter(|batch| batch.as_ref().expect("it is sound").header().count > 0).count();
        from = fetch.next_offset;
    }
}

pub fn read_records(partition: &Partition) -> usize {
    let mut reader = partition.reader(Offset::ZERO).expect("it is open");
    let (mut records, mut bytes) = (0, 0);
    let mut scratch = Scratch::default();
    while let Some(batch) = reader.next_batch().expect("it is sound") {
        for record in batch.records(&mut scratch).expect("it is sound") {
            let record = record.expect("it is sound");
            records += 1;
            bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        }
    }
    black_box(bytes);
    records
}

/// A kill after all was appended and nothing synced: all of it is scanned.
pub fn recovery(budget: &mut Budget<'_>) {
    for ((name, size), per_batch, kafkas, goal) in
        [(SIZES[0], 1, RECOVERY_ONE, 30.0), (SIZES[0], 100, SMALL.recovery, 2.5), (SIZES[1], 100, LARGE.recovery, 1.5)]
    {
        let records = Records::generate(budget.count(size), KEYS, size);
        let ready = batches(&records, per_batch);
        let mut bytes = 0.0;
        let took = budget.median(|| {
            let dir = budget.fresh();
            let (log, partition) = open(&dir, topic(), None);
            append_all(&partition, &ready);
            bytes = partition.stats().bytes as f64;
            // Dropping it leaves what the end of the process would.
            drop((partition, log));
            seconds(|| drop(Log::open(&dir, config()).expect("it recovers")))
        });
        let (times, words) = budget.against_kafka(bytes / took / MIB, kafkas, Bound::Processor, "MiB/s");
        let reads = share(bytes / took, budget.limits.read_and_checked(), "read and CRC");
        let writes = share(bytes / took, budget.limits.write_and_sync, "writing and syncing");
        let limit = format!("{reads}, {writes}");
        let work = format!("recovery, batches of {per_batch} x {name}");
        budget.push("recovery", work, format!(">= {goal}x"), words, Some(times >= goal), limit);
    }
}
