//! Reading: whole batches without copying, records one by one with their CRC checked, single records at random, and how
//! soon a waiting reader knows of an append. `cargo bench --bench fetch`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stratalog::{FetchOptions, Offset, Partition};
use support::{Random, Scratch, batches, brief, buffered, entries, scaled};

const SIZES: [(&str, usize, usize); 2] = [("100B", 100, 500_000), ("1KiB", 1024, 100_000)];
const PER_BATCH: [usize; 2] = [1, 100];

/// A partition with sealed segments only, warm.
fn filled(value_size: usize, count: usize, per_batch: usize) -> (Scratch, Partition) {
    let scratch = Scratch::new();
    let partition = scratch.partition(buffered());
    for batch in batches(&entries(count, support::KEYS, value_size), per_batch) {
        partition.append(&batch).expect("there is room");
    }
    partition.roll().expect("it can be sealed");
    (scratch, partition)
}

fn read_raw(partition: &Partition) -> usize {
    let (mut from, mut headers) = (Offset::ZERO, 0);
    loop {
        let fetch = partition.fetch(from, FetchOptions::default()).expect("it is sound");
        if fetch.is_empty() {
            return headers;
        }
        headers += fetch.batches().count();
        from = fetch.next_offset;
    }
}

fn read_records(partition: &Partition) -> usize {
    let mut reader = partition.reader(Offset::ZERO).expect("it is open");
    let mut bytes = 0;
    while let Some(record) = reader.next_record().expect("it is sound") {
        bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
    }
    bytes
}

fn read_batches(partition: &Partition) -> usize {
    let mut reader = partition.reader(Offset::ZERO).expect("it is open");
    let mut bytes = 0;
    let mut scratch = stratalog::format::Scratch::default();
    while let Some(batch) = reader.next_batch().expect("it is sound") {
        for record in batch.records(&mut scratch).expect("it is sound") {
            let record = record.expect("it is sound");
            bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        }
    }
    bytes
}

fn scans(c: &mut Criterion) {
    for (name, size, count) in SIZES {
        let count = scaled(count);
        for per_batch in PER_BATCH {
            let (_scratch, partition) = filled(size, count, per_batch);
            let mut group = c.benchmark_group("fetch/decoded");
            brief(&mut group, count);
            group.bench_function(BenchmarkId::new(name, per_batch), |b| b.iter(|| black_box(read_records(&partition))));
            group.finish();
            let mut group = c.benchmark_group("fetch/decoded by batch");
            brief(&mut group, count);
            group.bench_function(BenchmarkId::new(name, per_batch), |b| b.iter(|| black_box(read_batches(&partition))));
            group.finish();
            let mut group = c.benchmark_group("fetch/raw");
            brief(&mut group, count);
            group.throughput(Throughput::Bytes(partition.stats().bytes));
            group.bench_function(BenchmarkId::new(name, per_batch), |b| b.iter(|| black_box(read_raw(&partition))));
            group.finish();
        }
    }
}

fn points(c: &mut Criterion) {
    let mut group = c.benchmark_group("fetch/point");
    for per_batch in PER_BATCH {
        let count = scaled(1_000_000);
        let (_scratch, partition) = filled(100, count, per_batch);
        let mut random = Random::new(7);
        brief(&mut group, 1);
        let options = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
        group.bench_function(BenchmarkId::new("100B", per_batch), |b| {
            b.iter(|| {
                let offset = Offset::new(random.next() % count as u64);
                black_box(partition.fetch(offset, options).expect("it is there").len())
            });
        });
        let mut reader = partition.reader(Offset::ZERO).expect("it is open");
        group.bench_function(BenchmarkId::new("100B decoded", per_batch), |b| {
            b.iter(|| {
                let offset = Offset::new(random.next() % count as u64);
                reader.seek(offset);
                black_box(reader.next_record().expect("it is sound").expect("it is there").offset)
            });
        });
    }
    group.finish();
}

/// From the append to the moment at which a reader that waited for it runs.
fn tail_latency(c: &mut Criterion) {
    let scratch = Scratch::new();
    let partition = scratch.partition(buffered());
    let batch = batches(&entries(1, 1, 100), 1).remove(0);
    let (woken, wakes) = mpsc::channel();
    let reader = partition.clone();
    let waiting = thread::spawn(move || {
        for offset in 0.. {
            match reader.wait_for(Offset::new(offset), Duration::from_secs(60)) {
                Ok(_) if woken.send(Instant::now()).is_ok() => {}
                _ => return,
            }
        }
    });
    let mut group = c.benchmark_group("fetch/tail");
    brief(&mut group, 1);
    group.bench_function("append to a woken reader", |b| {
        b.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            for _ in 0..iterations {
                let began = Instant::now();
                partition.append(&batch).expect("there is room");
                took += wakes.recv().expect("the reader lives").saturating_duration_since(began);
            }
            took
        });
    });
    group.finish();
    drop(wakes);
    scratch.log.close().expect("it is sound");
    waiting.join().expect("the reader ends");
}

criterion_group!(benches, scans, points, tail_latency);
criterion_main!(benches);
