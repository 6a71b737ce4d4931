//! Replays a change stream into a log, kills its own writer half way, goes on, compacts, and compares the result with
//! the truth.
//!
//! `cargo run --release --example demo [-- --git DIR | --tsv FILE]`

mod stream;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use stratalog::{
    Cleanup, CompactMode, Durability, Log, LogConfig, Offset, Partition, Record, Timestamp, Topic, TopicConfig,
    partition_for_key,
};
use stream::{Change, Stream};

const PARTITIONS: u32 = 4;
const TOPIC: &str = "tree";
/// The hidden first argument of the writer that is killed.
const WRITER: &str = "--writer-until";
/// The rate of fewer changes than this says nothing.
const RATE_FROM: usize = 10_000;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [flag, count, dir, source @ ..] if flag == WRITER => writer(count, dir, source).map(|()| true),
        source => demo(source),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log_config() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

fn topic_config() -> TopicConfig {
    TopicConfig::new()
        .cleanup(Cleanup::Compact)
        .segment_bytes(1 << 20)
        .min_cleanable_dirty_ratio(0.0)
        .delete_retention(Duration::ZERO)
        .durability(Durability::Buffered { interval: Duration::from_millis(50), bytes: 1 << 20 })
}

fn append(topic: &Topic, change: &Change) -> Result<(u32, Offset), Error> {
    let record = match &change.value {
        Some(value) => Record::new(&change.path, value),
        None => Record::tombstone(&change.path),
    };
    let (partition, appended) = topic.append(record.at(Timestamp::from_millis(change.millis)))?;
    Ok((partition, appended.next_offset))
}

/// Appends the first changes, tells what was acknowledged, and waits to be killed.
fn writer(count: &str, dir: &str, source: &[String]) -> Result<(), Error> {
    let stream = Stream::open(source)?;
    let log = Log::open(dir, log_config())?;
    let topic = log.create_topic(TOPIC, PARTITIONS, topic_config())?;
    let mut ends = [0; PARTITIONS as usize];
    let mut out = std::io::stdout().lock();
    for change in stream.changes.iter().take(count.parse()?) {
        let (partition, end) = append(&topic, change)?;
        ends[partition as usize] = end.get();
        writeln!(out, "{partition} {end}")?;
    }
    writeln!(out, "done")?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}

fn bar(len: usize, what: &'static str) -> ProgressBar {
    let style = "{msg:<10} {bar:40} {pos}/{len} {per_sec} {eta}";
    let bar = ProgressBar::new(len as u64).with_message(what);
    bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
    bar
}

fn demo(source: &[String]) -> Result<bool, Error> {
    let stream = Stream::open(source)?;
    println!("{} changes of {} paths from {}", stream.changes.len(), stream.paths(), stream.origin);
    let dir = tempfile::tempdir()?;
    let began = Instant::now();
    let acknowledged = killed_writer(&stream, dir.path(), source)?;

    let opened = Instant::now();
    let log = Log::open(dir.path(), log_config())?;
    let recovery = opened.elapsed();
    let topic = log.topic(TOPIC).ok_or("the topic is gone")?;
    let mut sound = true;
    println!("\n partition | acknowledged before SIGKILL | found after");
    for partition in topic.partitions() {
        let found = partition.offsets().end.get();
        let before = acknowledged[partition.id() as usize];
        sound &= found >= before;
        println!(" {:>9} | {before:>27} | {found:>11}", partition.id());
    }
    let scanned: u64 = log.recovery_report().partitions.iter().map(|report| report.scanned_bytes).sum();
    go_on(&stream, &topic)?;
    let wrote = began.elapsed();

    let before = read_back(&topic)?;
    let segments: usize = topic.partitions().iter().map(|p| p.stats().segments).sum();
    let bytes: u64 = topic.partitions().iter().map(|p| p.stats().bytes).sum();
    let equal = before.latest == stream.expected;
    let compacting = Instant::now();
    for partition in topic.partitions() {
        compact(&partition)?;
    }
    let compacted = compacting.elapsed();
    let after = read_back(&topic)?;
    let left: u64 = topic.partitions().iter().map(|p| p.stats().bytes).sum();
    let exact = after.latest == stream.expected && after.records == stream.expected.len();
    log.close()?;

    let records = stream.changes.len();
    println!("\n records         {records}");
    println!(" bytes           {bytes} in {segments} segments");
    if records >= RATE_FROM {
        println!(
            " rate            {:.0} records/s, the kill and the recovery included",
            records as f64 / wrote.as_secs_f64()
        );
    }
    println!(" recovery        {scanned} bytes scanned, {:.1} ms", recovery.as_secs_f64() * 1e3);
    println!(
        " compaction      {bytes} -> {left} bytes in {:.0} ms, {} records left",
        compacted.as_secs_f64() * 1e3,
        after.records
    );
    println!(" live paths      {} in the log, {} in {}", after.latest.len(), stream.expected.len(), stream.truth);
    let verdict = |good: bool| if good { "equal" } else { "NOT EQUAL" };
    println!(" verdict         before compaction {}, after it {}", verdict(equal), verdict(exact));
    if !sound {
        println!(" LOST            something that was acknowledged");
    }
    Ok(sound && equal && exact)
}

/// Has a child process append half of the stream, kills it, and returns what it said was acknowledged.
fn killed_writer(stream: &Stream, dir: &std::path::Path, source: &[String]) -> Result<Vec<u64>, Error> {
    let half = stream.changes.len() / 2;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(WRITER)
        .arg(half.to_string())
        .arg(dir)
        .args(source)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut acknowledged = vec![0; PARTITIONS as usize];
    let mut half_done = false;
    let bar = bar(half, "writing");
    for line in BufReader::new(child.stdout.take().ok_or("no pipe")?).lines() {
        let line = line?;
        let Some((partition, end)) = line.split_once(' ') else {
            half_done = true;
            break;
        };
        acknowledged[partition.parse::<usize>()?] = end.parse()?;
        bar.inc(1);
    }
    // SIGKILL: the writer has no chance to close anything.
    child.kill()?;
    child.wait()?;
    bar.finish();
    if half_done { Ok(acknowledged) } else { Err("the writer ended before it was killed".into()) }
}

/// Appends the rest: each partition skips as many of its changes as it already has.
fn go_on(stream: &Stream, topic: &Topic) -> Result<(), Error> {
    let mut skip: Vec<u64> = topic.partitions().iter().map(|partition| partition.offsets().end.get()).collect();
    let bar = bar(stream.changes.len(), "going on");
    for change in &stream.changes {
        let left = &mut skip[partition_for_key(&change.path, PARTITIONS) as usize];
        if *left > 0 {
            *left -= 1;
        } else {
            append(topic, change)?;
        }
        bar.inc(1);
    }
    bar.finish();
    Ok(())
}

struct ReadBack {
    latest: BTreeMap<Vec<u8>, Vec<u8>>,
    records: usize,
}

fn read_back(topic: &Topic) -> Result<ReadBack, Error> {
    let mut back = ReadBack { latest: BTreeMap::new(), records: 0 };
    for partition in topic.partitions() {
        let mut reader = partition.reader(partition.offsets().start)?;
        while let Some(record) = reader.next_record()? {
            back.records += 1;
            let key = record.key.ok_or("a record without key")?.to_vec();
            match record.value {
                Some(value) => back.latest.insert(key, value.to_vec()),
                None => back.latest.remove(&key),
            };
        }
    }
    Ok(back)
}

/// Compacts until nothing is left to do.
fn compact(partition: &Partition) -> Result<(), Error> {
    let now = Timestamp::from_millis(i64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis(),
    )?);
    while !partition.compact(now, CompactMode::Full)?.is_idle() {}
    Ok(())
}
