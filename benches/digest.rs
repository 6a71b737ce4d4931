//! Digests: what a compaction costs for each record before it touches the log. Divide by the element count for
//! nanoseconds a record: `cargo bench --features internals --bench digest`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_main};
use stratalog::internals::Digests;

const RECORDS: usize = 2_000_000;
const KEYS: u64 = 1_000_000;
const SEGMENTS: usize = 8;

/// The keys of the records, drawn with splitmix64.
fn keys() -> Vec<[u8; 12]> {
    let mut state = 42u64;
    let mut draw = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let key = |number: u64| format!("key-{number:08}").into_bytes().try_into().expect("12 bytes");
    (0..RECORDS).map(|_| key(draw() % KEYS)).collect()
}

fn digests(c: &mut Criterion) {
    let keys = keys();
    let mut group = c.benchmark_group("digest");
    group.throughput(Throughput::Elements(RECORDS as u64)).sample_size(10);
    for (name, memory) in [("8MiB", 8 << 20), ("64MiB", 64 << 20)] {
        let dir = tempfile::tempdir().expect("a directory");
        let built = |dir: &tempfile::TempDir| {
            let mut digests = Digests::new(dir.path().to_path_buf(), memory);
            digests.build(keys.chunks(RECORDS / SEGMENTS)).expect("built");
            digests
        };
        let digests = built(&dir);
        group.bench_function(format!("hash/{name}"), |b| b.iter(|| black_box(digests.hash(&keys))));
        group.bench_function(format!("build/{name}"), |b| {
            let dir = || tempfile::tempdir().expect("a directory");
            b.iter_batched(dir, |dir| (built(&dir), dir), BatchSize::PerIteration);
        });
        group.bench_function(format!("count/{name}"), |b| b.iter(|| black_box(digests.count().expect("counted"))));
        group.bench_function(format!("survivors/{name}"), |b| {
            b.iter(|| black_box(digests.survivors(SEGMENTS).expect("found")));
        });
    }
    group.finish();
}

mod group {
    #![allow(missing_docs, reason = "the macro makes a public function")]
    use super::digests;
    criterion::criterion_group!(benches, digests);
}

use group::benches;

criterion_main!(benches);
