//! What the machine can do, for the figures of the other benchmarks to stand beside: copies in memory, checksums,
//! writes into the page cache, syncs. `cargo bench --bench limits`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "support/mod.rs"]
mod support;

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{brief, directory};

fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("limits/memcpy");
    for size in [64 << 10, 64 << 20] {
        let from = vec![7u8; size];
        let mut to = vec![0u8; size];
        brief(&mut group, 1);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| black_box(&mut to).copy_from_slice(black_box(&from)));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("limits/crc32c");
    for size in [64, 1 << 10, 64 << 10] {
        let bytes = vec![7u8; size];
        brief(&mut group, 1);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| black_box(crc_fast::crc32_iscsi(black_box(&bytes))));
        });
    }
    group.finish();
}

fn page_cache(c: &mut Criterion) {
    const TOTAL: u64 = 64 << 20;
    let dir = directory();
    let mut group = c.benchmark_group("limits/write");
    for size in [136, 4 << 10, 64 << 10] {
        let bytes = vec![7u8; size as usize];
        brief(&mut group, 1);
        group.throughput(Throughput::Bytes(TOTAL / size * size));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let file = File::create(dir.path().join("write")).expect("there is room");
                for at in 0..TOTAL / size {
                    file.write_all_at(&bytes, at * size).expect("there is room");
                }
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("limits/read");
    let file = File::options().read(true).open(dir.path().join("write")).expect("it was just written");
    let mut buffer = vec![0u8; 1 << 20];
    brief(&mut group, 1);
    group.throughput(Throughput::Bytes(TOTAL));
    group.bench_function("1048576", |b| {
        b.iter(|| {
            for at in 0..TOTAL >> 20 {
                file.read_exact_at(&mut buffer, at << 20).expect("it is there");
            }
        });
    });
    group.finish();
}

/// A sync of 4 KiB in a file that was filled with zeros before: neither its size nor its blocks change.
fn syncs(c: &mut Criterion) {
    let dir = directory();
    let file = File::create(dir.path().join("sync")).expect("there is room");
    file.write_all_at(&vec![0; 16 << 20], 0).expect("there is room");
    file.sync_all().expect("the disk works");
    let block = [7u8; 4096];
    let mut at = 0;
    let mut group = c.benchmark_group("limits/fdatasync");
    brief(&mut group, 1);
    group.bench_function("4096", |b| {
        b.iter(|| {
            file.write_all_at(&block, at).expect("there is room");
            file.sync_data().expect("the disk works");
            at = (at + 4096) % (16 << 20);
        });
    });
    group.finish();
}

criterion_group!(benches, memory, page_cache, syncs);
criterion_main!(benches);
