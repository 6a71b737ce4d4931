//! What appends and reads feel of a compaction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stratalog::{Clock, CompactMode, FetchOptions, Offset, Partition, Record, SystemClock};

use super::data::Data;
use super::{compacted, config, fill, open, seal};

/// Prints p50 and p99 of appends and reads beside each other, with and without a compaction that runs all the time.
pub fn under_load(full: bool) {
    let records = if full { 5_000_000 } else { 1_000_000 };
    let time = Duration::from_secs(if full { 10 } else { 3 });
    println!("under load: appends of one record and of 100, and reads of 64 KiB at random, while a log of {records}");
    println!("records of 100 B is compacted again and again, by another thread\n");
    println!("| | calls | p50 us | p99 us | p99.9 us |");
    println!("|---|---|---|---|---|");
    let dir = tempfile::tempdir().expect("a directory");
    let (log, partition) = open(dir.path(), config(), compacted().segment_bytes(64 << 20));
    fill(&partition, &mut Data::new(records / 2, 100), records);
    seal(&partition);
    for compacts in [false, true] {
        let stop = AtomicBool::new(false);
        let passes = thread::scope(|scope| {
            let compactor = scope.spawn(|| if compacts { compact_until(&partition, &stop) } else { 0 });
            let name = |what: &str| format!("{what}{}", if compacts { ", a pass running" } else { "" });
            measure(&name("append of 1"), time, || append(&partition, 1));
            measure(&name("append of 100"), time, || append(&partition, 100));
            let mut data = Data::new(1, 8);
            measure(&name("read of 64 KiB"), time, || read(&partition, &mut data));
            stop.store(true, Ordering::Release);
            compactor.join().expect("it ran")
        });
        if compacts {
            println!("| ({passes} groups were rewritten meanwhile) | | | | |");
        }
    }
    drop(partition);
    log.close().expect("closed");
    println!();
}

/// Compacts without end: what was appended meanwhile is enough to begin anew.
fn compact_until(partition: &Partition, stop: &AtomicBool) -> usize {
    let mut written = 0;
    let mut data = Data::new(1000, 100);
    while !stop.load(Ordering::Acquire) {
        fill(partition, &mut data, 100_000);
        written += partition.compact(SystemClock.now(), CompactMode::Full).expect("compacted").segments_written;
    }
    written
}

fn append(partition: &Partition, records: usize) {
    let value = [b'v'; 100];
    let records = std::iter::repeat_n("key-00000000", records).map(|key| Record::new(key, &value));
    partition.append_records(records).expect("appended");
}

fn read(partition: &Partition, data: &mut Data) {
    let end = partition.offsets().end.get();
    let options = FetchOptions { max_bytes: 64 << 10, ..FetchOptions::default() };
    let fetched = partition.fetch(Offset::new(data.next() % end), options).expect("read");
    assert!(fetched.chunks().next().is_some());
}

fn measure(what: &str, time: Duration, mut call: impl FnMut()) {
    let mut took: Vec<u32> = Vec::with_capacity(1 << 22);
    let end = Instant::now() + time;
    let mut before = Instant::now();
    while before < end && took.len() < took.capacity() {
        call();
        let after = Instant::now();
        took.push(u32::try_from(after.duration_since(before).as_nanos()).unwrap_or(u32::MAX));
        before = after;
    }
    took.sort_unstable();
    let at = |share: f64| f64::from(took[((took.len() - 1) as f64 * share) as usize]) / 1e3;
    println!("| {what} | {} | {:.1} | {:.1} | {:.1} |", took.len(), at(0.5), at(0.99), at(0.999));
}
