//! What compaction writes over the life of a log, while keys are updated again and again.

use std::time::Duration;

use stratalog::{Budget, Clock, Record, RecordBatch, SystemClock};

use crate::counting::{Counting, Kind};
use crate::data::Data;
use crate::{Clocked, MIB, compacted, config, open};

const VALUE: usize = 100;
const SEGMENT: u64 = 16 << 20;

/// How keys are drawn.
#[derive(Clone, Copy)]
enum Draw {
    Uniform,
    /// Nine updates in ten go to a tenth of the keys.
    Skewed,
}

/// After each segment a call of `maintain`, as the background threads would make it.
pub fn over_a_life(full: bool) {
    let keys: u64 = if full { 1_000_000 } else { 100_000 };
    let updates = keys * 10;
    let segment = if full { SEGMENT } else { SEGMENT / 8 };
    println!("amplification: {updates} updates of {keys} keys, 100 B values, segments of {} MiB\n", segment >> 20);
    println!("| keys | ratio | appended MiB | log written | log read | digests written | left of live | CPU s |");
    println!("|---|---|---|---|---|---|---|---|");
    for draw in [Draw::Uniform, Draw::Skewed] {
        for ratio in [0.2, 0.5, 0.8] {
            one_life(draw, ratio, keys, updates, segment);
        }
    }
    println!();
}

fn one_life(draw: Draw, ratio: f64, keys: u64, updates: u64, segment: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = Counting::new();
    let topic = compacted().min_cleanable_dirty_ratio(ratio).segment_bytes(segment).delete_retention(Duration::ZERO);
    let (log, partition) = open(dir.path(), config().storage(storage.clone()), topic);
    let mut data = Data::new(keys, VALUE);
    let mut seen = vec![false; keys as usize];
    let (mut appended, mut written, mut passed, mut rolls) = (0, 0, 0.0, 0);
    for _ in 0..updates / 100 {
        let mut batch = RecordBatch::builder();
        for _ in 0..100 {
            let number = draw.key(&mut data, keys);
            seen[number as usize] = true;
            let (key, value) = data.record_of(number);
            batch.push(&Record::new(&key, &value), SystemClock.now()).expect("it fits");
        }
        let batch = batch.build().expect("it is sound");
        appended += batch.as_bytes().len() as u64;
        partition.append(&batch).expect("appended");
        let sealed = partition.stats().rolls;
        if sealed > rolls {
            rolls = sealed;
            let clocked = Clocked::start();
            let report = log.maintain(SystemClock.now(), Budget::default()).expect("maintained");
            passed += clocked.stop().1;
            let done = report.passes[0].2.compaction.as_ref().expect("it is compacted");
            written += done.bytes_written;
        }
    }
    let live = seen.iter().filter(|seen| **seen).count() as u64;
    let stats = partition.stats();
    let per_record = appended as f64 / updates as f64;
    let totals = storage.totals();
    let of = |bytes: u64| bytes as f64 / appended as f64;
    let what = match draw {
        Draw::Uniform => "drawn alike",
        Draw::Skewed => "nine in ten from a tenth",
    };
    println!(
        "| {what} | {ratio} | {:.0} | {:.2}x | {:.2}x | {:.2}x | {:.2}x | {passed:.2} |",
        appended as f64 / MIB,
        of(written),
        of(totals[&Kind::Log].read),
        of(totals[&Kind::Digest].written),
        stats.bytes as f64 / (live as f64 * per_record),
    );
    drop(partition);
    log.close().expect("closed");
}

impl Draw {
    fn key(self, data: &mut Data, keys: u64) -> u64 {
        match self {
            Draw::Skewed if !data.next().is_multiple_of(10) => data.next() % (keys / 10),
            Draw::Uniform | Draw::Skewed => data.next() % keys,
        }
    }
}
