//! Rows about compaction.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stratalog::{Cleanup, Clock, CompactMode, Log, Partition, SystemClock, TopicConfig};

use super::{Bound, Budget, MIB, batches, config, open, seconds, share, topic};
use crate::clocked::{Clocked, peak_rss, reset_peak, rss};
use crate::counting::{Counting, Kind};
use crate::data::{KEYS, Records};
use crate::session::Scale;

fn compacted() -> TopicConfig {
    topic().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0).segment_bytes(64 << 20)
}

fn fill(partition: &Partition, records: &Records) {
    for run in records.all().chunks(100) {
        partition.append_records(run.iter().map(|entry| entry.record())).expect("there is room");
    }
}

fn compact(partition: &Partition) {
    let report = partition.compact(SystemClock.now(), CompactMode::Due).expect("it is sound");
    assert!(!report.unfinished && report.damaged.is_empty() && !report.is_idle(), "{report:?}");
}

pub fn throughput(budget: &mut Budget<'_>) {
    for (name, size, kafkas, goal) in [("100 B", 100, 94.0, 10.0), ("1 KiB", 1024, 501.0, 3.0)] {
        let records = Records::generate(budget.count(size), KEYS, size);
        let mut bytes = 0.0;
        let took = budget.median(|| {
            let (log, partition) = open(&budget.fresh(), compacted().segment_bytes(1 << 30), None);
            fill(&partition, &records);
            partition.roll().expect("it can be sealed");
            partition.flush().expect("it can be synced");
            bytes = partition.stats().bytes as f64;
            let took = seconds(|| compact(&partition));
            drop(partition);
            log.close().expect("it is sound");
            took
        });
        let (times, words) = budget.against_kafka(bytes / took / MIB, kafkas, Bound::Processor, "MiB/s");
        let limit = share(bytes / took, budget.limits.write, "64 KiB writes");
        let goals = format!(">= {goal}x, >= 1 GB/s");
        let is_met = times >= goal && bytes / took >= 1e9;
        budget.push("compaction", format!("compaction, {name}"), goals, words, Some(is_met), limit);
    }
}

/// Ten times as many keys as the memory holds, at two sizes of the log.
pub fn beyond_memory(budget: &mut Budget<'_>) {
    let base: usize = if budget.scale == Scale::Quick { 250_000 } else { 1_000_000 };
    let mut nanos = Vec::new();
    for records in [base, 4 * base] {
        let keys = records as u64 / 2;
        // An entry in memory takes 16 bytes.
        let memory = keys * 16 / 10;
        let dir = budget.fresh();
        let (log, partition) = open(&dir, compacted(), None);
        fill(&partition, &Records::generate(records, keys, 100));
        partition.roll().expect("it can be sealed");
        drop(partition);
        log.close().expect("it is sound");
        let told = in_child("beyond", &dir, memory);
        let (read, written) = (told("read"), told("written"));
        let grown = told("memory") / MIB;
        let allowed = memory as f64 / MIB + 16.0;
        nanos.push(told("cpu") / records as f64 * 1e9);
        let growth = nanos.last().unwrap_or(&0.0) / nanos[0];
        let measured = format!(
            "read {read:.2}x, written {written:.2}x; grew by {grown:.1} MiB; {:.0} CPU ns a record ({growth:.2}x of the \
             smaller log)",
            nanos.last().unwrap_or(&0.0)
        );
        let work = format!(
            "compaction of {records} records, {keys} keys, ten times beyond a memory of {:.1} MiB",
            memory as f64 / MIB
        );
        let goal = "log read at most twice, written at most once, linear (<= 1.5x for 4x the log), memory + 16 MiB";
        let is_met = read <= 2.0 && written <= 1.0 && grown <= allowed && growth <= 1.5;
        budget.push("beyond-memory", work, goal, measured, Some(is_met), String::new());
    }
}

/// Runs this program for one thing; what it tells can be asked for by name.
pub fn in_child(what: &str, dir: &Path, memory: u64) -> impl Fn(&str) -> f64 + use<> {
    let output = Command::new(std::env::current_exe().expect("it has a path"))
        .args(["budget-worker", what])
        .arg(dir)
        .arg(memory.to_string())
        .output()
        .expect("this program can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    move |name| {
        let of = |line: &str| line.strip_prefix("@ ")?.strip_prefix(name)?.trim().parse().ok();
        told.lines().find_map(of).expect("the child tells it")
    }
}

/// What the child does.
pub fn compact_beyond(dir: &Path, memory: usize) {
    let storage = Counting::new();
    let config = config().storage(Arc::clone(&storage) as Arc<_>).compaction_memory(memory);
    let log = Log::open(dir, config).expect("it opens");
    let partition = log.partition("budget", 0).expect("it was made");
    let bytes = partition.stats().bytes as f64;
    storage.reset();
    reset_peak();
    let before = rss();
    let clocked = Clocked::start();
    compact(&partition);
    let (_, cpu) = clocked.stop();
    let log_bytes = storage.totals()[&Kind::Log];
    println!("@ memory {}", peak_rss() - before);
    println!("@ cpu {cpu}");
    println!("@ read {}", log_bytes.read as f64 / bytes);
    println!("@ written {}", log_bytes.written as f64 / bytes);
}

/// What an append feels of a compaction that runs all the time.
pub fn interference(budget: &mut Budget<'_>) {
    let records = Records::generate(budget.count(100), budget.count(100) as u64 / 2, 100);
    let time = Duration::from_secs(if budget.scale == Scale::Quick { 1 } else { 3 });
    let (log, partition) = open(&budget.fresh(), compacted(), None);
    fill(&partition, &records);
    partition.roll().expect("it can be sealed");
    let ready = batches(&records, 100);
    let one = batches(&Records::generate(1000, KEYS, 100), 1);
    for (what, batches) in [("one record", &one), ("100 records", &ready)] {
        let quiet = p99(&partition, batches, time);
        let stop = AtomicBool::new(false);
        let busy = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    fill(&partition, &Records::generate(20_000, 1000, 100));
                    partition.compact(SystemClock.now(), CompactMode::Full).expect("it is sound");
                }
            });
            let busy = p99(&partition, batches, time);
            stop.store(true, Ordering::Release);
            busy
        });
        let measured = format!("{quiet:.1} us without, {busy:.1} us with: {:.2}x", busy / quiet);
        let work = format!("p99 of a buffered append of {what} while compaction runs");
        let is_met = Some(busy <= 2.0 * quiet);
        budget.push("interference", work, "<= 2x of p99 without", measured, is_met, String::new());
    }
    drop(partition);
    log.close().expect("it is sound");
}

/// Microseconds.
fn p99(partition: &Partition, batches: &[stratalog::RecordBatch], time: Duration) -> f64 {
    let mut took: Vec<u32> = Vec::with_capacity(1 << 22);
    let end = Instant::now() + time;
    let mut before = Instant::now();
    for batch in batches.iter().cycle() {
        partition.append(batch).expect("there is room");
        let after = Instant::now();
        took.push(u32::try_from(after.duration_since(before).as_nanos()).unwrap_or(u32::MAX));
        before = after;
        if before >= end || took.len() == took.capacity() {
            break;
        }
    }
    took.sort_unstable();
    f64::from(took[(took.len() - 1) * 99 / 100]) / 1e3
}
