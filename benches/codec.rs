//! What compression costs, and saves: batches are built, and read back. `cargo bench --all-features --bench codec`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stratalog::format::Scratch;
use stratalog::{Codec, RecordBatch};
use support::{Entry, brief, entries, payload};

const PER_BATCH: usize = 100;
const SIZES: [(&str, usize); 2] = [("100B", 100), ("1KiB", 1024)];

/// What is compiled in.
fn codecs() -> Vec<(&'static str, Codec)> {
    let all = [
        ("none", Codec::None),
        ("gzip", Codec::Gzip),
        ("snappy", Codec::Snappy),
        ("lz4", Codec::Lz4),
        ("zstd", Codec::Zstd),
    ];
    let entries = entries(1, 1, 100);
    all.into_iter().filter(|(_, codec)| build(&entries, *codec).is_some()).collect()
}

fn build(entries: &[Entry], codec: Codec) -> Option<RecordBatch> {
    let mut builder = RecordBatch::builder().codec(codec);
    for entry in entries {
        builder.push(&entry.record(), entry.timestamp).expect("it fits");
    }
    builder.build().ok()
}

fn codec(c: &mut Criterion) {
    for (size_name, size) in SIZES {
        let entries = entries(PER_BATCH, support::KEYS, size);
        for (name, codec) in codecs() {
            let batch = build(&entries, codec).expect("it is compiled in");
            let ratio = batch.as_bytes().len() as f64 / payload(&entries) as f64;
            println!("codec/{name}/{size_name}: {ratio:.2} bytes on disk for each of keys and values");
            let mut group = c.benchmark_group("codec/build");
            brief(&mut group, PER_BATCH);
            group.throughput(Throughput::Bytes(payload(&entries)));
            group.bench_function(BenchmarkId::new(name, size_name), |b| b.iter(|| black_box(build(&entries, codec))));
            group.finish();
            let mut group = c.benchmark_group("codec/read");
            brief(&mut group, PER_BATCH);
            group.throughput(Throughput::Bytes(payload(&entries)));
            let mut scratch = Scratch::default();
            group.bench_function(BenchmarkId::new(name, size_name), |b| {
                b.iter(|| {
                    let view = batch.view();
                    view.check_crc().expect("it is sound");
                    black_box(view.records(&mut scratch).expect("it is sound").flatten().count())
                });
            });
            group.finish();
        }
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
