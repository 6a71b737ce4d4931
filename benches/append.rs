//! Appending: what a record costs until it is acknowledged. `cargo bench --bench append`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "support/mod.rs"]
mod support;

use std::hint::black_box;
use std::thread;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use stratalog::{Partition, RecordBatch};
use support::{Entry, batches, brief, buffered, entries, on_fresh_partition, scaled, synced};

/// A name, the size of a value, and how many records a measurement appends.
const SIZES: [(&str, usize, usize); 2] = [("100B", 100, 200_000), ("1KiB", 1024, 50_000)];
const PER_BATCH: [usize; 3] = [1, 100, 1000];
const THREADS: usize = 8;

fn append_all(partition: &Partition, batches: &[RecordBatch]) {
    for batch in batches {
        black_box(partition.append(batch).expect("there is room"));
    }
}

fn append_records(partition: &Partition, entries: &[Entry], per_batch: usize) {
    for chunk in entries.chunks(per_batch) {
        black_box(partition.append_records(chunk.iter().map(Entry::record)).expect("there is room"));
    }
}

/// Batches that a client has built: checked, given their offsets, written.
fn ready_batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("append/ready");
    for (name, size, count) in SIZES {
        let count = scaled(count);
        let entries = entries(count, support::KEYS, size);
        for per_batch in PER_BATCH {
            let batches = batches(&entries, per_batch);
            brief(&mut group, count);
            group.bench_function(BenchmarkId::new(name, per_batch), |b| {
                on_fresh_partition(b, &buffered(), |partition| append_all(partition, &batches));
            });
        }
    }
    group.finish();
}

/// Records, of which the log makes the batches.
fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("append/records");
    for (name, size, count) in SIZES {
        let count = scaled(count);
        let entries = entries(count, support::KEYS, size);
        for per_batch in PER_BATCH {
            brief(&mut group, count);
            group.bench_function(BenchmarkId::new(name, per_batch), |b| {
                on_fresh_partition(b, &buffered(), |partition| append_records(partition, &entries, per_batch));
            });
        }
    }
    group.finish();
}

/// Many threads, one record a call, into one partition.
fn threads(c: &mut Criterion) {
    let (_, size, count) = SIZES[0];
    let count = scaled(count);
    let entries = entries(count, support::KEYS, size);
    let batches = batches(&entries, 1);
    let mut group = c.benchmark_group("append/threads");
    brief(&mut group, count);
    for threads in [1, THREADS] {
        group.bench_function(BenchmarkId::new("100B", threads), |b| {
            on_fresh_partition(b, &buffered(), |partition| append_from(partition, &batches, threads));
        });
    }
    group.finish();
}

/// Each append acknowledged after its sync, which threads share.
fn durable(c: &mut Criterion) {
    let count = scaled(400);
    let entries = entries(count, support::KEYS, SIZES[0].1);
    let batches = batches(&entries, 1);
    let mut group = c.benchmark_group("append/synced");
    brief(&mut group, count);
    for threads in [1, THREADS] {
        group.bench_function(BenchmarkId::new("100B", threads), |b| {
            on_fresh_partition(b, &synced(), |partition| append_from(partition, &batches, threads));
        });
    }
    group.finish();
}

fn append_from(partition: &Partition, batches: &[RecordBatch], threads: usize) {
    thread::scope(|scope| {
        for share in batches.chunks(batches.len().div_ceil(threads)) {
            scope.spawn(move || append_all(partition, share));
        }
    });
}

criterion_group!(benches, ready_batches, records, threads, durable);
criterion_main!(benches);
