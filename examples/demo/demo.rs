//! What the demo does. The operator's tool shares this file (`stratalog demo`).

mod stream;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use stratalog::{
    Cleanup, CompactMode, Durability, Log, LogConfig, Offset, Partition, Record, Timestamp, Topic, TopicConfig,
    partition_for_key,
};
use stream::{Change, Stream};

const PARTITIONS: u32 = 4;
const TOPIC: &str = "tree";
/// The rate of fewer changes than this says nothing.
const RATE_FROM: usize = 10_000;

pub type Error = Box<dyn std::error::Error>;

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
pub fn writer(count: u64, dir: &Path, source: &[String]) -> Result<(), Error> {
    let stream = Stream::open(source)?;
    let log = Log::open(dir, log_config())?;
    let topic = log.create_topic(TOPIC, PARTITIONS, topic_config())?;
    let mut ends = [0; PARTITIONS as usize];
    let mut out = std::io::stdout().lock();
    for change in stream.changes.iter().take(usize::try_from(count)?) {
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

/// What came of it.
pub struct Report {
    /// How many changes were replayed.
    pub records: usize,
    /// For each partition how many records were acknowledged before the kill, and how many were found after it.
    pub kept: Vec<(u64, u64)>,
    pub segments: usize,
    pub bytes: u64,
    pub bytes_compacted: u64,
    /// How long the writing took, the kill and the recovery included.
    pub wrote: Duration,
    pub recovery_scanned: u64,
    pub recovery: Duration,
    pub compaction: Duration,
    pub records_left: usize,
    pub live: usize,
    pub live_expected: usize,
    /// What the log was compared with.
    pub truth: &'static str,
    /// Whether the log held the truth before it was compacted, and nothing but the truth after.
    pub equal: bool,
    pub exact: bool,
}

impl Report {
    /// Whether all came out as it should.
    pub fn is_well(&self) -> bool {
        !self.is_lost() && self.equal && self.exact
    }

    /// Whether something is gone that was acknowledged.
    pub fn is_lost(&self) -> bool {
        self.kept.iter().any(|(acknowledged, found)| found < acknowledged)
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        writeln!(out, "\n partition | acknowledged before SIGKILL | found after")?;
        for (partition, (acknowledged, found)) in self.kept.iter().enumerate() {
            writeln!(out, " {partition:>9} | {acknowledged:>27} | {found:>11}")?;
        }
        writeln!(out, "\n records         {}", self.records)?;
        writeln!(out, " bytes           {} in {} segments", self.bytes, self.segments)?;
        if self.records >= RATE_FROM {
            let rate = self.records as f64 / self.wrote.as_secs_f64();
            writeln!(out, " rate            {rate:.0} records/s, the kill and the recovery included")?;
        }
        let millis = |took: Duration| took.as_secs_f64() * 1e3;
        let scanned = self.recovery_scanned;
        writeln!(out, " recovery        {scanned} bytes scanned, {:.1} ms", millis(self.recovery))?;
        writeln!(
            out,
            " compaction      {} -> {} bytes in {:.0} ms, {} records left",
            self.bytes,
            self.bytes_compacted,
            millis(self.compaction),
            self.records_left
        )?;
        writeln!(out, " live paths      {} in the log, {} in {}", self.live, self.live_expected, self.truth)?;
        let verdict = |good: bool| if good { "equal" } else { "NOT EQUAL" };
        let verdicts = (verdict(self.equal), verdict(self.exact));
        writeln!(out, " verdict         before compaction {}, after it {}", verdicts.0, verdicts.1)?;
        if self.is_lost() {
            writeln!(out, " LOST            something that was acknowledged")?;
        }
        Ok(())
    }
}

/// Runs it, and tells of it. `writer` is the command that calls [`writer`] when it is given a count, a directory and
/// the source.
pub fn run(
    source: &[String],
    out: &mut dyn Write,
    writer: impl FnOnce() -> Result<Command, Error>,
) -> Result<Report, Error> {
    let stream = Stream::open(source)?;
    writeln!(out, "{} changes of {} paths from {}", stream.changes.len(), stream.paths(), stream.origin)?;
    out.flush()?;
    let dir = tempfile::tempdir()?;
    let began = Instant::now();
    let acknowledged = killed_writer(&stream, dir.path(), source, writer()?)?;

    let opened = Instant::now();
    let log = Log::open(dir.path(), log_config())?;
    let recovery = opened.elapsed();
    let topic = log.topic(TOPIC).ok_or("the topic is gone")?;
    let found = topic.partitions().into_iter().map(|partition| partition.offsets().end.get());
    let kept = acknowledged.into_iter().zip(found).collect();
    go_on(&stream, &topic)?;
    let wrote = began.elapsed();

    let before = read_back(&topic)?;
    let sum = |of: fn(&Partition) -> u64| topic.partitions().iter().map(of).sum::<u64>();
    let bytes = sum(|partition| partition.stats().bytes);
    let segments = sum(|partition| partition.stats().segments as u64) as usize;
    let compacting = Instant::now();
    for partition in topic.partitions() {
        compact(&partition)?;
    }
    let compaction = compacting.elapsed();
    let after = read_back(&topic)?;
    let report = Report {
        records: stream.changes.len(),
        kept,
        segments,
        bytes,
        bytes_compacted: sum(|partition| partition.stats().bytes),
        wrote,
        recovery_scanned: log.recovery_report().partitions.iter().map(|report| report.scanned_bytes).sum(),
        recovery,
        compaction,
        records_left: after.records,
        live: after.latest.len(),
        live_expected: stream.expected.len(),
        truth: stream.truth,
        equal: before.latest == stream.expected,
        exact: after.latest == stream.expected && after.records == stream.expected.len(),
    };
    log.close()?;
    report.write(out)?;
    Ok(report)
}

/// Has a child process append half of the stream, kills it, and returns what it said was acknowledged.
fn killed_writer(stream: &Stream, dir: &Path, source: &[String], mut writer: Command) -> Result<Vec<u64>, Error> {
    let half = stream.changes.len() / 2;
    let mut child = writer.arg(half.to_string()).arg(dir).args(source).stdout(Stdio::piped()).spawn()?;
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
