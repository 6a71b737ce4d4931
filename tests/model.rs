//! Random operations against a plain model in memory: after each of them offsets and contents are the model's.
//!
//! `STRATALOG_MODEL_CASES` sets the number of sequences (10,000), `STRATALOG_MODEL_SEED` repeats a run.

#[path = "model/model.rs"]
mod model;
#[path = "model/run.rs"]
mod run;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use stratalog::storage::FileSystem;
use stratalog::{Codec, Durability, TimestampType, TopicConfig};

use run::{Op, Run, Setup};

/// Sequences of at most this many operations.
const OPS_MAX: usize = 12;

#[test]
fn every_sequence_of_operations_ends_as_in_the_model_on_a_real_file_system() {
    let shm = PathBuf::from("/dev/shm");
    let parent = if shm.is_dir() { shm } else { std::env::temp_dir() };
    let ran = explore(env("STRATALOG_MODEL_CASES").unwrap_or(10_000) as usize, |setup, ops| {
        let dir = tempfile::tempdir_in(&parent).unwrap();
        Run::new(Arc::new(FileSystem::new()), dir.path().join("log"), setup)?.all(ops)
    });
    assert!(ran > 0);
}

#[cfg(feature = "sim")]
#[test]
fn every_sequence_of_operations_ends_as_in_the_model_on_the_simulated_storage() {
    let ran = explore(env("STRATALOG_MODEL_CASES").unwrap_or(10_000) as usize / 4, |setup, ops| {
        Run::new(Arc::new(stratalog::sim::SimStorage::new()), PathBuf::from("/log"), setup)?.all(ops)
    });
    assert!(ran > 0);
}

/// Runs `cases` sequences on all processors; returns how many ran.
fn explore(cases: usize, run: impl Fn(&Setup, &[Op]) -> Result<(), TestCaseError> + Sync) -> usize {
    let seed = env("STRATALOG_MODEL_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    let threads = thread::available_parallelism().map_or(2, usize::from).min(8);
    let (began, ran) = (Instant::now(), AtomicUsize::new(0));
    let failures: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let (run, ran) = (&run, &ran);
                scope.spawn(move || explore_alone(cases.div_ceil(threads), seed + worker as u64, ran, run))
            })
            .collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{} sequences with seed {seed} in {:?}", ran.load(Ordering::Relaxed), began.elapsed());
    assert!(failures.is_empty(), "seed {seed}: {}", failures.join("\n"));
    ran.into_inner()
}

fn explore_alone(
    cases: usize,
    seed: u64,
    ran: &AtomicUsize,
    run: impl Fn(&Setup, &[Op]) -> Result<(), TestCaseError>,
) -> Option<String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let config =
        Config { cases: cases as u32, failure_persistence: None, max_shrink_time: 60_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let cases = (setup(), vec(op(), 1..=OPS_MAX)).prop_map(|(setup, ops)| Case(setup, ops));
    let result = runner.run(&cases, |Case(setup, ops)| {
        ran.fetch_add(1, Ordering::Relaxed);
        run(&setup, &ops)
    });
    result.err().map(|error| error.to_string())
}

/// A sequence that prints one operation a line.
struct Case(Setup, Vec<Op>);

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the formatter's alternate form, which gives each field a line.
        let ops: Vec<String> = self.1.iter().map(|op| format!("{op:?}")).collect();
        let setup = format!("{:?}", self.0);
        write!(f, "{setup}\n  {}", ops.join("\n  "))
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn setup() -> impl Strategy<Value = Setup> {
    (topic(), 0..4_usize).prop_map(|(topic, n)| Setup { topic, sync_threads: usize::from(n == 3) })
}

fn codec() -> impl Strategy<Value = Codec> {
    let all = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let built: Vec<Codec> = all.into_iter().filter(|codec| codec.is_supported()).collect();
    prop_oneof![Just(Codec::None), proptest::sample::select(built)]
}

fn topic() -> impl Strategy<Value = run::TopicSetup> {
    let sizes = (1024..4096_u64, prop_oneof![Just(1_u32), 64..1024_u32]);
    let retention = (proptest::option::of(0..3000_u64), proptest::option::of(0..6000_u64));
    (sizes, codec(), retention, any::<[bool; 4]>()).prop_map(|(sizes, codec, retention, flags)| run::TopicSetup {
        segment_bytes: sizes.0,
        index_interval: sizes.1,
        codec,
        retention_ms: retention.0,
        retention_bytes: retention.1,
        sync: flags[0],
        mapped: flags[1],
        windows: flags[2],
        log_time: flags[3] && sizes.0 % 4 == 0,
    })
}

/// A topic configuration in few words.
pub fn topic_config(setup: &run::TopicSetup) -> TopicConfig {
    let buffered = Durability::Buffered { interval: Duration::from_millis(20), bytes: 3000 };
    let times = if setup.log_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
    TopicConfig::new()
        .segment_bytes(setup.segment_bytes)
        .index_interval_bytes(setup.index_interval)
        .compression(setup.codec)
        .retention_age(setup.retention_ms.map(Duration::from_millis))
        .retention_bytes(setup.retention_bytes)
        .durability(if setup.sync { Durability::Sync } else { buffered })
        .mapped_reads(setup.mapped)
        .append_windows(setup.windows)
        .timestamp_type(times)
}

/// Bytes of a value: now and then a batch is longer than a segment, and than a lookup reads at first.
fn size() -> impl Strategy<Value = u16> {
    prop_oneof![9 => 0..700_u16, 1 => 700..6000_u16]
}

fn op() -> impl Strategy<Value = Op> {
    let place = any::<u16>;
    let on = 0..2_u8;
    prop_oneof![
        6 => (on.clone(), 1..6_u8, size()).prop_map(|(on, count, size)| Op::Records { on, count, size }),
        6 => (on.clone(), codec(), 1..6_u8, size()).prop_map(|(on, codec, count, size)| Op::Batch { on, codec, count, size }),
        5 => (on.clone(), vec((0..40_u8, 1..4_u8, 0..4_u8), 1..4)).prop_map(|(on, batches)| Op::At { on, batches }),
        2 => (on.clone(), -2..=2_i8).prop_map(|(on, off)| Op::If { on, off }),
        2 => on.clone().prop_map(|on| Op::Roll { on }),
        1 => on.clone().prop_map(|on| Op::Flush { on }),
        4 => (on.clone(), place()).prop_map(|(on, to)| Op::Truncate { on, to }),
        1 => (on.clone(), place()).prop_map(|(on, to)| Op::Reset { on, to }),
        3 => (on.clone(), place()).prop_map(|(on, to)| Op::DeleteBefore { on, to }),
        3 => Just(Op::Maintain),
        2 => (0..4000_u16).prop_map(|ms| Op::Advance { ms }),
        1 => topic().prop_map(Op::Configure),
        4 => (on.clone(), place(), size(), any::<bool>())
            .prop_map(|(on, from, max, durable)| Op::Fetch { on, from, max, durable }),
        2 => (on, place()).prop_map(|(on, at)| Op::OffsetFor { on, at }),
        2 => Just(Op::Reopen),
        3 => Just(Op::Kill),
    ]
}
