//! Compaction as a whole: what it reads, writes and takes of memory and time, and what appends and reads feel of it.
//!
//! `cargo bench --bench compaction` is quick; `STRATALOG_BENCH=full` measures what `docs/benchmarks.md` records. Words
//! behind `--` choose parts: `keys`, `garbage`, `skew`, `load`, `rows`. Files are made in the directory for temporary
//! files.

#[path = "../counting/mod.rs"]
mod counting;
mod data;
mod load;
mod memory;
mod skew;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use counting::{Amount, Counting, Kind};
use data::Data;
use stratalog::{
    Budget, Cleanup, Clock, CompactMode, CompactionReport, Log, LogConfig, Offset, Partition, Record, SystemClock,
    TopicConfig,
};

const MIB: f64 = (1 << 20) as f64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [word, dir, memory] = &args[..]
        && word == "child"
    {
        return compact_alone(Path::new(dir), memory.parse().expect("bytes"));
    }
    let full = std::env::var("STRATALOG_BENCH").is_ok_and(|mode| mode == "full");
    let wants = |part: &str| args.is_empty() || args.iter().any(|arg| arg == part);
    println!("compaction, {} mode\n", if full { "full" } else { "quick" });
    if wants("keys") {
        many_keys(full);
    }
    if wants("garbage") {
        little_garbage(full);
    }
    if wants("skew") {
        skew::over_a_life(full);
    }
    if wants("load") {
        load::under_load(full);
    }
    if wants("rows") {
        rows(full);
    }
}

fn config() -> LogConfig {
    LogConfig::new().maintenance_interval(None).min_free_bytes(0)
}

fn compacted() -> TopicConfig {
    TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0)
}

fn open(dir: &Path, config: LogConfig, topic: TopicConfig) -> (Log, Partition) {
    let log = Log::open(dir, config).expect("opened");
    if log.topic("t").is_none() {
        log.create_topic("t", 1, topic).expect("made");
    }
    let partition = log.partition("t", 0).expect("it is there");
    (log, partition)
}

/// Appends records in batches of 100.
fn fill(partition: &Partition, data: &mut Data, records: u64) {
    for _ in 0..records / 100 {
        let batch = data.batch(100);
        let records = batch.iter().map(|(key, value)| Record { value: value.as_deref(), ..Record::new(key, "") });
        partition.append_records(records).expect("appended");
    }
}

fn seal(partition: &Partition) {
    partition.roll().expect("sealed");
    partition.flush().expect("synced");
}

/// Time, and what the process has used of the processors.
struct Clocked {
    began: Instant,
    cpu: Duration,
}

impl Clocked {
    fn start() -> Clocked {
        Clocked { began: Instant::now(), cpu: memory::cpu_time() }
    }

    /// Seconds, and seconds of a processor.
    fn stop(&self) -> (f64, f64) {
        (self.began.elapsed().as_secs_f64(), (memory::cpu_time() - self.cpu).as_secs_f64())
    }
}

/// Many more keys than the memory holds: 8 MiB for half as many keys as records.
fn many_keys(full: bool) {
    println!("keys beyond the memory: 100 B values, as many keys as half the records, compaction_memory 8 MiB");
    println!("segments of 64 MiB; one pass in a process of its own, files in the page cache\n");
    println!(
        "| records | log MiB | groups | s | CPU s | CPU ns/record | log read | log written | digest r/w MiB | spill r/w MiB | VmHWM less at open MiB | heap peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let sizes: &[u64] =
        if full { &[1_000_000, 2_500_000, 5_000_000, 10_000_000] } else { &[500_000, 1_000_000, 2_000_000] };
    for records in sizes {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, partition) = open(dir.path(), config(), compacted().segment_bytes(64 << 20));
        fill(&partition, &mut Data::new(records / 2, 100), *records);
        seal(&partition);
        drop(partition);
        log.close().expect("closed");
        let program = std::env::current_exe().expect("it has a path");
        let child =
            Command::new(program).arg("child").arg(dir.path()).arg((8 << 20).to_string()).output().expect("ran");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        println!("| {records} {}", String::from_utf8_lossy(&child.stdout).trim_end());
    }
    println!();
}

/// What the child does: opens the log and compacts it.
fn compact_alone(dir: &Path, memory: usize) {
    let storage = Counting::new();
    let config = config().storage(storage.clone()).compaction_memory(memory);
    let (log, partition) = open(dir, config, compacted());
    let bytes = partition.stats().bytes;
    storage.reset();
    memory::reset_peak();
    let at_open = memory::high_water_mark();
    let clocked = Clocked::start();
    let report = partition.compact(SystemClock.now(), CompactMode::Due).expect("compacted");
    let (seconds, cpu) = clocked.stop();
    let (high, heap) = (memory::high_water_mark(), memory::peak());
    assert!(report.damaged.is_empty() && !report.unfinished, "{report:?}");
    let totals = storage.totals();
    let of = |kind| totals[&kind];
    let ratio = |amount: u64| amount as f64 / bytes as f64;
    let (digest, spill) = (of(Kind::Digest), of(Kind::Spill));
    let records = partition.offsets().end.get();
    println!(
        "| {:.0} | {} | {seconds:.2} | {cpu:.2} | {:.0} | {:.2}x | {:.2}x | {:.0} / {:.0} | {:.0} / {:.0} | {:.1} | {:.1} |",
        bytes as f64 / MIB,
        report.segments_written,
        cpu / records as f64 * 1e9,
        ratio(of(Kind::Log).read),
        ratio(of(Kind::Log).written),
        digest.read as f64 / MIB,
        digest.written as f64 / MIB,
        spill.read as f64 / MIB,
        spill.written as f64 / MIB,
        (high - at_open) as f64 / MIB,
        heap as f64 / MIB,
    );
    assert!(of(Kind::Log).read <= 2 * bytes && of(Kind::Log).written <= bytes, "{totals:?}");
    assert!(high - at_open <= memory as u64 + (16 << 20), "{high} less {at_open}");
    assert!(heap <= memory as u64 + (16 << 20), "{heap}");
    assert!(partition.compact(SystemClock.now(), CompactMode::Due).expect("compacted").is_idle(), "one pass is enough");
    drop(partition);
    log.close().expect("closed");
}

/// A clean log of which a hundredth is updated.
fn little_garbage(full: bool) {
    let (keys, segment): (u64, u64) = if full { (9_000_000, 64 << 20) } else { (1_000_000, 8 << 20) };
    println!(
        "little garbage: a clean log of {keys} keys, one in a hundred updated, segments of {} MiB\n",
        segment >> 20
    );
    println!("| | plans | log read MiB | log written MiB | digest read MiB | segments rewritten of | CPU s |");
    println!("|---|---|---|---|---|---|---|");
    let dir = tempfile::tempdir().expect("a directory");
    let storage = Counting::new();
    let clock = Arc::new(stratalog::ManualClock::new(SystemClock.now()));
    let lag = Duration::from_secs(24 * 3600);
    let topic = compacted().min_cleanable_dirty_ratio(0.5).max_compaction_lag(Some(lag)).segment_bytes(segment);
    let config = config().storage(storage.clone()).clock(clock.clone());
    let (log, partition) = open(dir.path(), config, topic);
    let mut data = Data::new(keys, 100);
    fill_in_order(&partition, &mut data, 0..keys);
    seal(&partition);
    row(&log, &storage, clock.now(), "first pass over the clean log", |_| {});
    let size = partition.stats().bytes;
    println!("| (its log is {:.0} MiB) | | | | | | |", size as f64 / MIB);
    // A hundredth of the keys, all of them in the first eighth of the log.
    for portion in 0..10u64 {
        let first = portion * keys / 80;
        fill_in_order(&partition, &mut data, first..first + keys / 1000);
    }
    seal(&partition);
    let new = partition.stats().compaction.dirty_bytes;
    row(&log, &storage, clock.now(), "a hundredth is new, ratio 0.5", |read| {
        assert!(read.read <= new && read.written == 0, "only what is new is read: {read:?}, {new} new");
    });
    row(&log, &storage, clock.now(), "nothing new", |read| assert_eq!(*read, Amount::default()));
    clock.advance(lag);
    row(&log, &storage, clock.now(), "at max_compaction_lag", |read| {
        assert!(read.read <= size / 4, "an eighth of the segments holds garbage: {read:?}");
    });
    drop(partition);
    log.close().expect("closed");
    println!();
}

fn fill_in_order(partition: &Partition, data: &mut Data, keys: std::ops::Range<u64>) {
    let mut next = keys.start;
    while next < keys.end {
        let end = keys.end.min(next + 100);
        let batch: Vec<_> = (next..end).map(|key| data.record_of(key)).collect();
        partition.append_records(batch.iter().map(|(key, value)| Record::new(key, value))).expect("appended");
        next = end;
    }
}

/// One call of `maintain`, told in a row.
fn row(log: &Log, storage: &Counting, now: stratalog::Timestamp, what: &str, check: impl Fn(&Amount)) {
    storage.reset();
    let clocked = Clocked::start();
    let report = log.maintain(now, Budget::default()).expect("maintained");
    let (_, cpu) = clocked.stop();
    let done: CompactionReport = report.passes[0].2.compaction.clone().expect("it is compacted");
    let totals: BTreeMap<Kind, Amount> = storage.totals();
    let (log, digest) = (totals[&Kind::Log], totals[&Kind::Digest]);
    let mib = |bytes: u64| bytes as f64 / MIB;
    // Entries are read only where something is counted.
    let counted = if digest.read > 1 << 20 { "yes" } else { "no" };
    println!(
        "| {what} | {counted} | {:.1} | {:.1} | {:.2} | {} of {} | {cpu:.2} |",
        mib(log.read),
        mib(log.written),
        mib(digest.read),
        done.segments_rewritten,
        done.segments
    );
    check(&log);
}

/// Kafka's cleaner and the stores' figures are in `docs/benchmarks.md`.
fn rows(full: bool) {
    println!("throughput: one pass over a log whose keys fit the memory, batches of 100\n");
    println!("| | log MiB | write s | compact s | CPU s | MiB/s | MiB per CPU s | records/s |");
    println!("|---|---|---|---|---|---|---|---|");
    let scale = if full { 5 } else { 1 };
    for (what, records, keys, size) in [
        ("100 B values, 100,000 keys", 1_000_000 * scale, 100_000, 100),
        ("1 KiB values, 100,000 keys", 200_000 * scale, 100_000, 1024),
        ("latest value per key: 100 B, ten updates a key", 1_000_000 * scale, 100_000 * scale, 100),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, partition) = open(dir.path(), config(), compacted().segment_bytes(256 << 20));
        let mut data = Data::new(keys, size);
        // The data is made outside of what is timed.
        let batches: Vec<_> = (0..records / 100).map(|_| data.batch(100)).collect();
        let clocked = Clocked::start();
        for batch in &batches {
            let records = batch.iter().map(|(key, value)| Record { value: value.as_deref(), ..Record::new(key, "") });
            partition.append_records(records).expect("appended");
        }
        let (write, _) = clocked.stop();
        drop(batches);
        seal(&partition);
        let bytes = partition.stats().bytes;
        let clocked = Clocked::start();
        let report = partition.compact(SystemClock.now(), CompactMode::Due).expect("compacted");
        let (seconds, cpu) = clocked.stop();
        assert!(!report.is_idle() && !report.unfinished);
        let mib = bytes as f64 / MIB;
        println!(
            "| {what} | {mib:.0} | {write:.2} | {seconds:.2} | {cpu:.2} | {:.0} | {:.0} | {:.1} M |",
            mib / seconds,
            mib / cpu,
            records as f64 / seconds / 1e6
        );
        let mut reader = partition.reader(Offset::ZERO).expect("readable");
        let mut left = 0;
        while reader.next_record().expect("sound").is_some() {
            left += 1;
        }
        assert!(left <= keys, "each key once: {left}");
        drop((reader, partition));
        log.close().expect("closed");
    }
    println!();
}
