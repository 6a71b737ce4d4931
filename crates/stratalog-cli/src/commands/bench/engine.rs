//! What the engine does.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use stratalog::{
    Cleanup, CompactMode, Durability, FetchOptions, Log, LogConfig, Offset, Partition, Record, RecordBatch, Timestamp,
    TopicConfig,
};

use super::limits::{self, READ, SYNC, WRITE};
use super::{Bounds, Limit, Row, Unit, median};
use crate::outcome::Failure;

/// Each figure is a step of the bar.
pub const STEPS: u64 = 7;

const ROUNDS: usize = 3;
const SYNCS: usize = 200;
const SYNC_SECONDS: f64 = 3.0;
const BATCH: u64 = 100;
const VALUE: usize = 100;
/// Updates of each key, in what is compacted.
const UPDATES: u64 = 10;

struct Found<'a> {
    limits: &'a [Limit],
    rows: Vec<Row>,
    bounds: &'a Bounds<'a>,
}

impl Found<'_> {
    /// A rate, of bytes and of records, of what took so long.
    fn rate(&mut self, name: &'static str, bytes: u64, records: Option<u64>, seconds: f64, limit: &'static str) {
        let value = bytes as f64 / seconds;
        self.rows.push(Row {
            name,
            value,
            unit: Unit::Rate,
            records_per_second: records.map(|records| records as f64 / seconds),
            limit,
            of_limit: value / limits::of(self.limits, limit),
        });
        self.bounds.bar.inc(1);
    }
}

/// Everything. Nothing is synced but where that is what is measured: that is the disk's limit, not the engine's.
pub fn measure(bounds: &Bounds<'_>, limits: &[Limit]) -> Result<Vec<Row>, Failure> {
    let mut found = Found { limits, rows: Vec::new(), bounds };
    let never = Durability::Buffered { interval: Duration::from_secs(3600), bytes: u64::MAX };
    let config = LogConfig::new().max_unsynced_bytes(u64::MAX >> 1).maintenance_interval(None);
    let dir = bounds.dir.join("log");
    let log = Log::open(&dir, config.clone())?;
    let plain = TopicConfig::new().durability(never);
    let written = append_batches(&mut found, &log, &plain)?;
    append_records(&mut found, &log, &plain)?;
    append_synced(&mut found, &log)?;
    read(&mut found, &written)?;
    recover(&mut found, &dir, &config)?;
    compact(&mut found, &log, &plain.cleanup(Cleanup::Compact))?;
    log.close()?;
    Ok(found.rows)
}

fn batch(first: u64, keys: u64) -> stratalog::Result<RecordBatch> {
    let value = [b'v'; VALUE];
    let mut builder = RecordBatch::builder();
    for n in first..first + BATCH {
        // Any order of keys that is no order.
        let key = format!("key-{:08}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys);
        builder.push(&Record::new(&key, &value), Timestamp::from_millis(1_700_000_000_000))?;
    }
    Ok(builder.build()?)
}

fn topic(log: &Log, name: &str, config: &TopicConfig) -> Result<Partition, Failure> {
    let made = log.create_topic(name, 1, config.clone())?;
    made.partition(0).ok_or_else(|| Failure::damage("a new topic has no partition"))
}

fn append_batches(found: &mut Found<'_>, log: &Log, config: &TopicConfig) -> Result<Partition, Failure> {
    let batch = batch(0, u64::MAX)?;
    let size = batch.as_bytes().len() as u64;
    let count = found.bounds.bytes / size;
    let (mut rounds, mut last) = (Vec::new(), None);
    for round in 0..ROUNDS {
        if round > 0 {
            log.delete_topic("batches")?;
        }
        let partition = topic(log, "batches", config)?;
        let began = Instant::now();
        for _ in 0..count {
            partition.append(&batch)?;
        }
        rounds.push(began.elapsed().as_secs_f64());
        last = Some(partition);
    }
    found.rate("append, batches of 100", count * size, Some(count * BATCH), median(rounds), WRITE);
    last.ok_or_else(|| Failure::damage("no round was made"))
}

fn append_records(found: &mut Found<'_>, log: &Log, config: &TopicConfig) -> Result<(), Failure> {
    let value = [b'v'; VALUE];
    let count = (found.bounds.bytes / 8 / (VALUE as u64 + 80)).max(1);
    let mut rounds = Vec::new();
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let partition = topic(log, "records", config)?;
        let began = Instant::now();
        for _ in 0..count {
            partition.append_records([Record::new("key-00000001", &value)])?;
        }
        rounds.push(began.elapsed().as_secs_f64());
        bytes = partition.stats().bytes;
        log.delete_topic("records")?;
    }
    found.rate("append, one record at a time", bytes, Some(count), median(rounds), WRITE);
    Ok(())
}

fn append_synced(found: &mut Found<'_>, log: &Log) -> Result<(), Failure> {
    let partition = topic(log, "synced", &TopicConfig::new().durability(Durability::Sync))?;
    let value = [b'v'; VALUE];
    let mut rounds = Vec::new();
    let began = Instant::now();
    for _ in 0..SYNCS {
        let round = Instant::now();
        partition.append_records([Record::new("key", &value)])?;
        rounds.push(round.elapsed().as_secs_f64());
        if began.elapsed().as_secs_f64() > SYNC_SECONDS {
            break;
        }
    }
    let value = median(rounds);
    found.rows.push(Row {
        name: "append and sync one record",
        value,
        unit: Unit::Time,
        records_per_second: Some(1.0 / value),
        limit: SYNC,
        of_limit: limits::of(found.limits, SYNC) / value,
    });
    found.bounds.bar.inc(1);
    Ok(())
}

fn read(found: &mut Found<'_>, partition: &Partition) -> Result<(), Failure> {
    let bytes = partition.stats().bytes;
    let records = partition.offsets().end.get();
    let options = FetchOptions { max_bytes: 1 << 20, ..FetchOptions::default() };
    let (mut raw, mut decoded) = (Vec::new(), Vec::new());
    let mut buffer = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut next = Offset::ZERO;
        loop {
            let fetch = partition.fetch(next, options)?;
            if fetch.is_empty() {
                break;
            }
            // To be like with like: what is read is copied out, as a read of a file is.
            for batch in fetch.batches() {
                buffer.clear();
                buffer.extend_from_slice(batch?.as_bytes());
            }
            next = fetch.next_offset;
        }
        raw.push(began.elapsed().as_secs_f64());
        let began = Instant::now();
        let mut reader = partition.reader(Offset::ZERO)?;
        let mut count = 0;
        while reader.next_record()?.is_some() {
            count += 1;
        }
        decoded.push(began.elapsed().as_secs_f64());
        if count != records {
            return Err(Failure::damage(format!("{count} records were read of {records} that were appended")));
        }
    }
    found.rate("read, whole batches", bytes, Some(records), median(raw), READ);
    found.rate("read, checked, record by record", bytes, Some(records), median(decoded), READ);
    Ok(())
}

/// Opens a copy of the files as they are: what a kill would leave. Nothing of it is known to be durable, so all of it
/// is checked, written again and synced.
fn recover(found: &mut Found<'_>, dir: &Path, config: &LogConfig) -> Result<(), Failure> {
    let mut rounds = Vec::new();
    let mut scanned = 0;
    for _ in 0..ROUNDS {
        let copy = found.bounds.dir.join("killed");
        copy_dir(dir, &copy)?;
        let began = Instant::now();
        let log = Log::open(&copy, config.clone())?;
        rounds.push(began.elapsed().as_secs_f64());
        scanned = log.recovery_report().partitions.iter().map(|partition| partition.scanned_bytes).sum();
        drop(log);
        fs::remove_dir_all(&copy)?;
    }
    found.rate("open after a kill, all of it scanned", scanned, None, median(rounds), READ);
    Ok(())
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn compact(found: &mut Found<'_>, log: &Log, config: &TopicConfig) -> Result<(), Failure> {
    let size = batch(0, 1)?.as_bytes().len() as u64;
    let count = (found.bounds.bytes / size).max(1);
    let mut rounds = Vec::new();
    let (mut bytes, records) = (0, count * BATCH);
    for _ in 0..ROUNDS {
        let partition = topic(log, "compacted", config)?;
        for n in 0..count {
            partition.append(&batch(n * BATCH, (records / UPDATES).max(1))?)?;
        }
        partition.flush()?;
        bytes = partition.stats().bytes;
        let began = Instant::now();
        partition.compact(Timestamp::from_millis(1_700_000_000_000), CompactMode::Full)?;
        rounds.push(began.elapsed().as_secs_f64());
        log.delete_topic("compacted")?;
    }
    found.rate("compact, ten updates of each key", bytes, Some(records), median(rounds), WRITE);
    Ok(())
}
