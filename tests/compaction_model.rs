//! Random histories of a compacted partition against a model: after each step no record has changed its place or
//! content (I3), every reader ends with the latest values (I5), and nothing has gone because of a record that is not
//! durable, not committed, or aborted (I6).
//!
//! `STRATALOG_MODEL_CASES` sets the number of sequences (10,000), `STRATALOG_MODEL_SEED` repeats a run. Without the
//! feature `sim` they run on a file system in memory; with it they run on the simulated storage, power cuts among them.

#[path = "compaction_model/model.rs"]
mod model;
#[path = "compaction_model/run.rs"]
mod run;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use run::{Append, Op, Run, Setup};

/// Sequences of at most this many operations.
const OPS_MAX: usize = 40;

type Counts = BTreeMap<&'static str, u64>;

#[cfg(not(feature = "sim"))]
#[test]
fn every_history_compacts_as_in_the_model() {
    let shm = std::path::PathBuf::from("/dev/shm");
    let parent = if shm.is_dir() { shm } else { std::env::temp_dir() };
    explore(|setup, ops| {
        let dir = tempfile::tempdir_in(&parent).unwrap();
        Run::new(run::Medium::Disk, dir.path().join("log"), setup)?.all(ops)
    });
}

#[cfg(feature = "sim")]
#[test]
fn every_history_compacts_as_in_the_model() {
    explore(|setup, ops| {
        let medium = run::Medium::Simulated(stratalog::sim::SimStorage::new());
        Run::new(medium, "/log".into(), setup)?.all(ops)
    });
}

/// Runs the sequences on all processors and prints what was done.
fn explore(run: impl Fn(&Setup, &[Op]) -> Result<Counts, TestCaseError> + Sync) {
    let cases = env("STRATALOG_MODEL_CASES").unwrap_or(10_000) as usize;
    let seed = env("STRATALOG_MODEL_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    let threads = thread::available_parallelism().map_or(2, usize::from).min(8);
    let began = Instant::now();
    let counts = Mutex::new(Counts::new());
    let failures: Vec<String> = thread::scope(|scope| {
        let alone = |worker: usize| explore_alone(cases.div_ceil(threads), seed + worker as u64, &counts, &run);
        let workers: Vec<_> = (0..threads).map(|worker| scope.spawn(move || alone(worker))).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).collect()
    });
    println!("seed {seed}, {:?}: {:?}", began.elapsed(), counts.lock().unwrap());
    assert!(failures.is_empty(), "seed {seed}: {}", failures.join("\n"));
    let counts = counts.into_inner().unwrap();
    assert!(counts["sequences"] >= cases as u64);
    if cases >= 1000 {
        let all = ["rewritten segments", "removed records", "removed tombstones", "removed markers"];
        for what in all.into_iter().chain(["finished readers", "lost readers"]) {
            assert!(counts.get(what).is_some_and(|count| *count > 0), "no {what} among {counts:?}");
        }
    }
}

fn explore_alone(
    cases: usize,
    seed: u64,
    counts: &Mutex<Counts>,
    run: impl Fn(&Setup, &[Op]) -> Result<Counts, TestCaseError>,
) -> Option<String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let config =
        Config { cases: cases as u32, failure_persistence: None, max_shrink_time: 60_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let cases = (setup(), vec(op(), 1..=OPS_MAX)).prop_map(|(setup, ops)| Case(setup, ops));
    let result = runner.run(&cases, |Case(setup, ops)| {
        let done = run(&setup, &ops)?;
        let mut counts = counts.lock().unwrap();
        *counts.entry("sequences").or_default() += 1;
        done.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        Ok(())
    });
    result.err().map(|error| error.to_string())
}

/// A sequence that prints one operation a line.
struct Case(Setup, Vec<Op>);

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ops: Vec<String> = self.1.iter().map(|op| format!("{op:?}")).collect();
        let setup = format!("{:?}", self.0);
        write!(f, "{setup}\n  {}", ops.join("\n  "))
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn setup() -> impl Strategy<Value = Setup> {
    let sizes = (1024..3000_u64, select(vec![1 << 10, 4 << 10, 1 << 20]), select(vec![2_u16, 5, 5, 40]));
    let ratio = select(vec![0.0, 0.0, 0.3, 0.9]);
    let times = (
        select(vec![0_u32, 0, 60_000]),
        proptest::option::of(Just(120_000_u32)),
        select(vec![0_u32, 0, 1, 300_000]),
        select(vec![0_u32, 100_000, 100_000]),
    );
    (sizes, ratio, times, any::<[bool; 5]>()).prop_map(|(sizes, ratio, times, flags)| Setup {
        segment_bytes: sizes.0,
        compaction_memory: sizes.1,
        keys: sizes.2,
        ratio,
        min_lag: times.0,
        max_lag: times.1,
        delete_retention: times.2,
        reader_hold_max: times.3,
        sync: flags[0] && flags[1],
        managed: flags[2] && flags[3],
        also_delete: flags[4] && flags[1],
        log_time: flags[3] && flags[4] && flags[0],
        mapped: flags[3],
    })
}

fn append() -> impl Strategy<Value = Append> {
    let records = vec((any::<u16>(), 0..300_u16), 1..9);
    let producer = prop_oneof![3 => Just(-1_i8), 1 => 10..12_i8, 4 => 0..3_i8];
    (producer, select(model::codecs()), records, any::<[u8; 3]>()).prop_map(|(producer, codec, records, shape)| {
        Append {
            producer,
            codec,
            records,
            gap: (shape[0] % 8 == 0).then_some(shape[1] % 40),
            keyless: shape[2] % 16 == 0,
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let place = any::<u16>;
    prop_oneof![
        40 => append().prop_map(Op::Append),
        6 => (0..3_i8, any::<bool>()).prop_map(|(producer, commit)| Op::End { producer, commit }),
        3 => Just(Op::Roll),
        2 => Just(Op::Flush),
        12 => any::<bool>().prop_map(|full| Op::Compact { full }),
        2 => Just(Op::Maintain),
        4 => (0..200_u16).prop_map(|seconds| Op::Advance { seconds }),
        4 => place().prop_map(|at| Op::OpenReader { at }),
        4 => (place(), 0..9_u8).prop_map(|(which, records)| Op::Read { which, records }),
        1 => place().prop_map(|which| Op::DropReader { which }),
        2 => place().prop_map(|at| Op::Register { at }),
        2 => (0..9_u8).prop_map(|records| Op::MovePosition { records }),
        1 => Just(Op::Unregister),
        1 => place().prop_map(|at| Op::Pin { at }),
        1 => Just(Op::Unpin),
        4 => place().prop_map(|at| Op::SetHighWatermark { at }),
        2 => place().prop_map(|at| Op::Truncate { at }),
        1 => place().prop_map(|at| Op::DeleteBefore { at }),
        1 => Just(Op::Reopen),
        1 => Just(Op::Kill),
        2 => (0..9_u8).prop_map(|seed| Op::PowerCut { seed }),
    ]
}
