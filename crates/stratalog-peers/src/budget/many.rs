//! Many partitions: what opening them takes, and what an idle one does.

use std::path::Path;

use stratalog::{Log, Offset, Topic};

use super::{Budget, batches, config, seconds, share, topic};
use crate::clocked::anonymous_rss;
use crate::data::{KEYS, Records};
use crate::session::Scale;

/// What each partition holds above its watermark when its owner is killed.
const ABOVE: u64 = 64 << 10;
const SEGMENTS: usize = 16;
const IDLE: u32 = 800;

fn made(dir: &Path, partitions: u32) -> (Log, Topic) {
    // A partition whose file is closed for others is synced: all stay open.
    let log = Log::open(dir, config().max_open_files(Some(4 * partitions as usize))).expect("it opens");
    let topic = log.create_topic("budget", partitions, topic()).expect("it is the first one");
    (log, topic)
}

pub fn open(budget: &mut Budget<'_>) {
    let partitions: u32 = match budget.scale {
        Scale::Quick => 200,
        Scale::Default => 1000,
        Scale::Full => 10_000,
    };
    let scaled = f64::from(partitions) / 10_000.0;
    let ready = batches(&Records::generate(700, KEYS, 100), 100);
    for (how, limit) in [("clean", 1.0), ("killed", 3.0)] {
        let dir = budget.fresh();
        let (log, topic) = made(&dir, partitions);
        for partition in topic.partitions() {
            for batch in ready.iter().cycle() {
                partition.append(batch).expect("there is room");
                if how == "clean" || partition.stats().bytes >= ABOVE {
                    break;
                }
            }
        }
        drop(topic);
        if how == "clean" {
            log.close().expect("it is sound");
        } else {
            // It leaves what the end of the process would.
            drop(log);
        }
        let mut opened = None;
        let took = seconds(|| opened = Some(Log::open(&dir, config()).expect("it opens")));
        let log = opened.expect("it was opened");
        let topic = log.topic("budget").expect("it was made");
        let whole = topic.partitions().iter().all(|partition| partition.offsets().end > Offset::ZERO);
        assert!(whole && topic.partitions().len() == partitions as usize, "all that was appended is there");
        drop(topic);
        drop(log);
        let (limit, above) = (limit * scaled, if how == "clean" { 0 } else { ABOVE });
        let work = format!("open {partitions} partitions, {how}, {} KiB each above the watermark", above >> 10);
        let goal = match partitions {
            10_000 => format!("<= {limit:.1} s"),
            _ => format!("<= {limit:.1} s, as `--full` with 10,000: {:.0} s", limit / scaled),
        };
        let read = f64::from(partitions) * above as f64 / budget.limits.read_and_checked();
        let of = if how == "clean" { String::new() } else { share(read, took, "the time is reading and CRC") };
        let measured = format!("{took:.3} s, {:.0} us each", took / f64::from(partitions) * 1e6);
        budget.push("open", work, goal, measured, Some(took <= limit), of);
    }
}

/// In a process of its own: what was freed before would be used again.
pub fn idle(budget: &mut Budget<'_>) {
    let dir = budget.fresh();
    let (log, topic) = made(&dir, IDLE);
    let ready = batches(&Records::generate(100, KEYS, 100), 100);
    for partition in topic.partitions() {
        for _ in 1..SEGMENTS {
            partition.append(&ready[0]).expect("there is room");
            partition.roll().expect("it can be sealed");
        }
        partition.append(&ready[0]).expect("there is room");
    }
    drop(topic);
    log.close().expect("it is sound");
    let told = super::compaction::in_child("idle", &dir, 0);
    let (kib, files) = (told("memory") / f64::from(IDLE) / 1024.0, told("files"));
    let work = format!("an idle partition of {SEGMENTS} segments, without producers ({IDLE} of them opened)");
    let measured = format!("{kib:.1} KiB of memory, {files} data files open at all");
    let goal = "<= 8 KiB of memory, no data file open";
    budget.push("idle", work, goal, measured, Some(kib <= 8.0 && files == 0.0), String::new());
}

/// What the child does.
pub fn open_idle(dir: &Path) {
    // What is allocated once is there.
    let scratch = tempfile::tempdir_in(dir).expect("there is room");
    Log::open(scratch.path(), config()).expect("it opens").close().expect("it is sound");
    let before = anonymous_rss();
    let log = Log::open(dir, config()).expect("it opens");
    println!("@ memory {}", anonymous_rss() - before);
    let is_data = |entry: &std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        target.extension().is_some_and(|extension| extension == "log")
    };
    let files = std::fs::read_dir("/proc/self/fd").expect("it can be listed").flatten().filter(is_data).count();
    println!("@ files {files}");
    drop(log);
}
