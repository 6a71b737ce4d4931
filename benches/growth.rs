//! How the cost of things grows: with records, with segments, with partitions. `--bench compaction` shows growth in
//! keys.
//!
//! `STRATALOG_BENCH=full cargo bench --bench growth` goes to ten times the sizes, which `docs/benchmarks.md` records;
//! `quick` stops at a tenth. Each figure is the median of three.

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Instant;

use stratalog::{Log, LogConfig, Offset, Partition, RecordBatch};
use support::{Random, Scratch, batches, buffered, config, entries, is_quick};

const PER_BATCH: usize = 100;

fn main() {
    let full = std::env::var("STRATALOG_BENCH").is_ok_and(|mode| mode == "full");
    // How many of the sizes of each table are measured.
    let sizes = if full {
        4
    } else if is_quick() {
        2
    } else {
        3
    };
    records(&[10_000, 100_000, 1_000_000, 10_000_000][..sizes]);
    segments(&[1, 10, 100, 1000][..sizes]);
    partitions(&[10, 100, 1000, 10_000][..sizes]);
}

/// Seconds, the median of three.
fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut seconds = [run(), run(), run()];
    seconds.sort_by(f64::total_cmp);
    seconds[1]
}

fn clock<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let began = Instant::now();
    let done = work();
    (began.elapsed().as_secs_f64(), done)
}

/// Nothing is durable but what a roll makes so.
fn lazy() -> LogConfig {
    config().checkpoint_bytes(8 << 30).sync_threads(0)
}

fn append(partition: &Partition, batches: &[RecordBatch], count: usize) {
    for batch in batches.iter().cycle().take(count) {
        partition.append(batch).expect("there is room");
    }
}

fn read_all(partition: &Partition) -> usize {
    let mut reader = partition.reader(Offset::ZERO).expect("it is open");
    let mut records = 0;
    while reader.next_record().expect("it is sound").is_some() {
        records += 1;
    }
    records
}

/// Microseconds of a read at a random offset.
fn point_read(partition: &Partition, records: usize) -> f64 {
    const CALLS: usize = 20_000;
    let (mut random, mut reader) = (Random::new(7), partition.reader(Offset::ZERO).expect("it is open"));
    let mut some = || {
        for _ in 0..CALLS {
            reader.seek(Offset::new(random.next() % records as u64));
            reader.next_record().expect("it is sound").expect("it is there");
        }
    };
    some();
    median(|| clock(&mut some).0) / CALLS as f64 * 1e6
}

/// One partition with ever more records; all of them are scanned when it is opened after a kill.
fn records(counts: &[usize]) {
    let ready = batches(&entries(100_000, support::KEYS, 100), PER_BATCH);
    println!("records of 100 B in batches of {PER_BATCH}, one partition, segments of 1 GiB\n");
    println!("| records | append ns/record | read ns/record | read at random us | open after a kill ns/record |");
    println!("|---|---|---|---|---|");
    for &count in counts {
        let (mut appended, mut opened, mut read, mut point) = ([0.0; 3], [0.0; 3], 0.0, 0.0);
        for round in 0..3 {
            let dir = support::directory();
            let log = Log::open(dir.path(), lazy()).expect("a fresh directory opens");
            let partition = log.create_partition("bench", 0, buffered()).expect("it is the first one");
            appended[round] = clock(|| append(&partition, &ready, count / PER_BATCH)).0;
            if round == 0 {
                read = median(|| {
                    let (seconds, records) = clock(|| read_all(&partition));
                    assert_eq!(records, count);
                    seconds
                });
                point = point_read(&partition, count);
            }
            // Dropping it leaves what a killed process would.
            drop((partition, log));
            let (seconds, log) = clock(|| Log::open(dir.path(), lazy()).expect("it recovers"));
            opened[round] = seconds;
            assert_eq!(log.partition("bench", 0).expect("it was made").offsets().end, Offset::new(count as u64));
        }
        [&mut appended, &mut opened].into_iter().for_each(|seconds| seconds.sort_by(f64::total_cmp));
        let each = |seconds: f64| seconds / count as f64 * 1e9;
        println!("| {count} | {:.0} | {:.0} | {point:.2} | {:.0} |", each(appended[1]), each(read), each(opened[1]));
    }
    println!();
}

/// One partition in ever more segments of the same size.
fn segments(counts: &[usize]) {
    const PER_SEGMENT: usize = 20;
    let ready = batches(&entries(100_000, support::KEYS, 100), PER_BATCH);
    println!("segments of {PER_SEGMENT} batches of {PER_BATCH} x 100 B, one partition\n");
    println!("| segments | open ms | read at random us | read all ns/record |");
    println!("|---|---|---|---|");
    for &count in counts {
        let scratch = Scratch::new();
        let partition = scratch.partition(buffered());
        for _ in 0..count {
            append(&partition, &ready, PER_SEGMENT);
            partition.roll().expect("it can be sealed");
        }
        drop(partition);
        scratch.log.close().expect("it is sound");
        let open = median(|| open_and_close(scratch.dir.path()));
        let log = Log::open(scratch.dir.path(), config()).expect("it is sound");
        let partition = log.partition("bench", 0).expect("it was made");
        let records = count * PER_SEGMENT * PER_BATCH;
        let point = point_read(&partition, records);
        let read = median(|| clock(|| read_all(&partition)).0);
        println!("| {count} | {:.2} | {point:.2} | {:.0} |", open * 1e3, read / records as f64 * 1e9);
    }
    println!();
}

fn open_and_close(dir: &Path) -> f64 {
    let (seconds, log) = clock(|| Log::open(dir, config()).expect("it is sound"));
    log.close().expect("it is sound");
    seconds
}

/// Ever more partitions of a batch each.
fn partitions(counts: &[usize]) {
    let ready = batches(&entries(100, support::KEYS, 100), PER_BATCH);
    println!("partitions of one batch of {PER_BATCH} x 100 B each\n");
    println!("| partitions | append to each us | open ms | open us/partition | an idle `maintain` us/partition |");
    println!("|---|---|---|---|---|");
    for &count in counts {
        let scratch = Scratch::new();
        let topic = scratch.log.create_topic("bench", count as u32, buffered()).expect("it is the first one");
        let all = topic.partitions();
        let (appended, ()) = clock(|| all.iter().for_each(|partition| append(partition, &ready, 1)));
        drop((topic, all));
        scratch.log.close().expect("it is sound");
        let open = median(|| open_and_close(scratch.dir.path()));
        let log = Log::open(scratch.dir.path(), config()).expect("it is sound");
        let idle =
            median(|| clock(|| log.maintain(stratalog::Clock::now(&stratalog::SystemClock), Default::default())).0);
        let each = |seconds: f64| seconds / count as f64 * 1e6;
        println!("| {count} | {:.0} | {:.1} | {:.0} | {:.1} |", each(appended), open * 1e3, each(open), each(idle));
    }
    println!();
}
