//! What a child process does: one part of the comparison, with one engine, in memory of its own. It prints a line
//! `@ metric value` for each figure, since engines print too.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::clocked::{Clocked, blocks_in, peak_rss, reset_peak, rss};
use crate::data::{KEYS, Random, Records, Stop};
use crate::engines::{Engine, Mode, Seen, Store};

/// One part of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Part {
    /// One record a call; then records by number.
    Single,
    /// 100 records a call; then all of them in order, and records by number; then a clean close.
    Batch,
    /// 100 records a call; then it waits for its end.
    Fill,
    /// Opens what is there.
    Reopen,
    /// One record a call, each synced.
    Synced,
    /// The latest value of each key.
    Latest,
    LatestSynced,
}

/// How much of it.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Amount {
    /// Records at all.
    #[arg(long, default_value_t = 100_000)]
    pub records: usize,
    #[arg(long, default_value_t = 100)]
    pub value_size: usize,
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// A part that is bound by time takes so long.
    #[arg(long, default_value_t = 500)]
    pub millis: u64,
}

pub const PER_BATCH: usize = 100;
/// Records in a call of the workload of latest values: these stores want large transactions.
const PER_PUT: usize = 1000;
/// Short parts are repeated, for so long, and the median counts.
const REPEAT: Duration = Duration::from_millis(300);
const MIB: f64 = (1 << 20) as f64;

pub fn run(engine: Engine, part: Part, dir: &Path, amount: Amount) {
    match part {
        Part::Single => single(engine, dir, amount),
        Part::Batch => batch(engine, dir, amount),
        Part::Fill => fill(engine, dir, amount),
        Part::Reopen => reopen(engine, dir),
        Part::Synced => synced(engine, dir, amount),
        Part::Latest => latest(engine, dir, amount, Mode::Latest),
        Part::LatestSynced => latest(engine, dir, amount, Mode::LatestSynced),
    }
}

fn tell(metric: &str, value: f64) {
    println!("@ {metric} {value}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn fresh(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).expect("there is room");
}

fn single(engine: Engine, dir: &Path, amount: Amount) {
    let records = Records::generate(amount.records, KEYS, amount.value_size);
    let store = filled(engine, dir, &records, 1);
    points(&*store, amount.records, "point");
    store.settle();
    points(&*store, amount.records, "point_settled");
    store.close();
}

fn batch(engine: Engine, dir: &Path, amount: Amount) {
    let records = Records::generate(amount.records, KEYS, amount.value_size);
    let store = filled(engine, dir, &records, PER_BATCH);
    for (scan, point) in [("scan", "point"), ("scan_settled", "point_settled")] {
        scan_all(engine, &*store, &records, scan);
        points(&*store, amount.records, point);
        store.settle();
    }
    store.close();
}

/// A store of all records. They are appended to fresh ones meanwhile, as often as there is time for.
fn filled(engine: Engine, dir: &Path, records: &Records, per_call: usize) -> Box<dyn Store> {
    let began = Instant::now();
    let (mut rates, mut cpu) = (Vec::new(), Vec::new());
    loop {
        fresh(dir);
        let before = start_of_memory();
        let store = engine.open(dir, Mode::Buffered);
        let clocked = Clocked::start();
        let done = store.append(0, records.all(), per_call, Stop::never()) as f64;
        let (seconds, used) = clocked.stop();
        if rates.is_empty() {
            tell("memory", (peak_rss() - before) / MIB);
            tell("disk", blocks_in(dir) / done);
        }
        rates.push(done / seconds);
        cpu.push(used / done * 1e9);
        if began.elapsed() >= REPEAT || rates.len() == 5 {
            tell("rate", median(rates));
            tell("cpu", median(cpu));
            return store;
        }
        store.close();
    }
}

fn scan_all(engine: Engine, store: &dyn Store, records: &Records, name: &str) {
    let before = start_of_memory();
    let clocked = Clocked::start();
    let Some(seen) = store.scan() else { return };
    let (seconds, _) = clocked.stop();
    let all = Seen { records: records.len() as u64, bytes: records.payload() };
    assert!(engine != Engine::Stratalog || seen == all, "{seen:?} of {all:?}");
    // An engine that shows less than was appended has no figure for it.
    if seen == all {
        tell(name, all.records as f64 / seconds);
    }
    tell(&format!("{name}_missing"), (all.records - seen.records) as f64);
    tell(&format!("{name}_memory"), (peak_rss() - before) / MIB);
}

/// Records by number, in random order.
fn points(store: &dyn Store, records: usize, name: &str) {
    let mut random = Random::new(7);
    let mut draw = || random.next() % records as u64;
    let Some(mut read) = store.points() else { return };
    let mut bytes: usize = (0..1000).map(|_| read(draw())).sum();
    let clocked = Clocked::start();
    let stop = Stop::after(REPEAT);
    let mut done = 0;
    while !stop.is_due() {
        for _ in 0..256 {
            bytes += read(draw());
        }
        done += 256;
    }
    tell(name, f64::from(done) / clocked.stop().0);
    black_box(bytes);
}

fn fill(engine: Engine, dir: &Path, amount: Amount) {
    let records = Records::generate(amount.records, KEYS, amount.value_size);
    fresh(dir);
    let store = engine.open(dir, Mode::Buffered);
    store.append(0, records.all(), PER_BATCH, Stop::never());
    println!("@ ready 1");
    // The parent kills it here; if the parent is gone, this ends.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn reopen(engine: Engine, dir: &Path) {
    let before = start_of_memory();
    let clocked = Clocked::start();
    let store = engine.open(dir, Mode::Buffered);
    let (seconds, used) = clocked.stop();
    tell("open", seconds * 1e3);
    tell("cpu", used * 1e3);
    tell("memory", (peak_rss() - before) / MIB);
    if let Some(seen) = store.scan() {
        tell("kept", seen.records as f64);
    }
}

fn synced(engine: Engine, dir: &Path, amount: Amount) {
    let records = Records::generate(amount.records, KEYS, amount.value_size);
    fresh(dir);
    let store = engine.open(dir, Mode::Synced);
    let store = &*store;
    // Files are made, and caches filled.
    store.append(0, records.all().chunks(20).next().expect("there are some"), 1, Stop::never());
    let share = records.len().div_ceil(amount.threads);
    let clocked = Clocked::start();
    let stop = Stop::after(Duration::from_millis(amount.millis));
    let done: usize = thread::scope(|scope| {
        let work = |(lane, run)| scope.spawn(move || store.append(lane as u64, run, 1, stop));
        let threads: Vec<_> = records.all().chunks(share).enumerate().map(work).collect();
        threads.into_iter().map(|thread| thread.join().expect("it ran")).sum()
    });
    tell("rate", done as f64 / clocked.stop().0);
}

fn latest(engine: Engine, dir: &Path, amount: Amount, mode: Mode) {
    let records = Records::generate(amount.records, amount.records as u64 / 10, amount.value_size);
    let expected = records.live_keys();
    fresh(dir);
    let before = start_of_memory();
    let mut store = engine.open(dir, mode);
    let clocked = Clocked::start();
    store.put_and_compact(records.all(), PER_PUT);
    let (seconds, used) = clocked.stop();
    tell("rate", records.len() as f64 / seconds);
    tell("cpu", used / records.len() as f64 * 1e9);
    tell("memory", (peak_rss() - before) / MIB);
    tell("disk", blocks_in(dir) / records.len() as f64);
    assert_eq!(store.live_keys(), expected, "each key has its latest value");
}

fn start_of_memory() -> f64 {
    reset_peak();
    rss()
}
