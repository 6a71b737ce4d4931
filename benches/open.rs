//! Opening: after a clean close, and after a kill, when what lies above the durable watermark is scanned, written again
//! and synced. `cargo bench --bench open`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stratalog::{Log, LogConfig};
use support::{Scratch, batches, brief, buffered, config, directory, entries, is_quick, scaled};

/// Nothing is durable but what a roll or a close makes so.
fn lazy() -> LogConfig {
    config().checkpoint_bytes(8 << 30).sync_threads(0)
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            std::fs::create_dir(&target).expect("it is new");
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("there is room");
        }
    }
}

/// One partition with nothing durable: all of it is scanned.
fn killed(c: &mut Criterion) {
    let mut group = c.benchmark_group("open/killed");
    for (name, size, count, per_batch) in
        [("100B", 100, 1_000_000, 1), ("100B", 100, 2_000_000, 100), ("1KiB", 1024, 200_000, 100)]
    {
        let count = scaled(count);
        let dir = directory();
        let log = Log::open(dir.path(), lazy()).expect("a fresh directory opens");
        let partition = log.create_partition("bench", 0, buffered()).expect("it is the first one");
        for batch in batches(&entries(count, support::KEYS, size), per_batch) {
            partition.append(&batch).expect("there is room");
        }
        brief(&mut group, count);
        group.throughput(Throughput::Bytes(partition.stats().bytes));
        drop((partition, log));
        group.bench_function(BenchmarkId::new(name, per_batch), |b| {
            let as_killed = || {
                let to = directory();
                copy(dir.path(), to.path());
                to
            };
            b.iter_batched(
                as_killed,
                |dir| (Log::open(dir.path(), lazy()).expect("it recovers"), dir),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Many partitions, closed in good order.
fn clean(c: &mut Criterion) {
    let mut group = c.benchmark_group("open/clean");
    let batch = batches(&entries(1, 1, 100), 1).remove(0);
    let many: &[u32] = if is_quick() { &[1, 100] } else { &[1, 100, 1000] };
    for &partitions in many {
        let scratch = Scratch::new();
        let topic = scratch.log.create_topic("bench", partitions, buffered()).expect("it is the first one");
        topic.partitions().iter().for_each(|partition| {
            partition.append(&batch).expect("there is room");
        });
        drop(topic);
        scratch.log.close().expect("it is sound");
        brief(&mut group, partitions as usize);
        group.bench_function(BenchmarkId::from_parameter(partitions), |b| {
            b.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                for _ in 0..iterations {
                    let began = Instant::now();
                    let log = Log::open(scratch.dir.path(), config()).expect("it is sound");
                    took += began.elapsed();
                    log.close().expect("it is sound");
                }
                took
            });
        });
    }
    group.finish();
}

criterion_group!(benches, killed, clean);
criterion_main!(benches);
