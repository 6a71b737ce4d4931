//! Logs that Kafka's cleaner has been through are taken over and cleaned on: what stays is as it was, byte for byte or
//! record for record, and the files are such as Kafka opens.

mod kafka_samples;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kafka_samples::check::check_segment;
use kafka_samples::{copy, files_ending, listing, name, samples};
use stratalog::format::{BatchHeader, BatchView, ControlRecord, Scratch};
use stratalog::{
    Cleanup, Codec, CompactMode, FetchOptions, Isolation, Log, ManualClock, Partition, Timestamp, TopicConfig,
};

/// Bytes between index entries.
const INTERVAL: usize = 4096;

type Record = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// A batch, by value.
struct Batch {
    header: BatchHeader,
    bytes: Vec<u8>,
    records: Vec<Record>,
    control: Option<ControlRecord>,
}

fn batch(view: &BatchView<'_>) -> Batch {
    let mut scratch = Scratch::default();
    let owned = |bytes: &[u8]| bytes.to_vec();
    let records = match view.header().attributes.is_control() {
        true => Vec::new(),
        false => view
            .records(&mut scratch)
            .unwrap()
            .map(|record| {
                let record = record.unwrap();
                let headers = record.headers().map(|header| (owned(header.key), header.value.map(owned))).collect();
                let (key, value) = (record.key.map(owned), record.value.map(owned));
                (record.offset.get(), record.timestamp.as_millis(), key, value, headers)
            })
            .collect(),
    };
    let control = view.control(&mut scratch).unwrap();
    Batch { header: *view.header(), bytes: owned(view.as_bytes()), records, control }
}

/// All batches, by base offset.
fn batches(partition: &Partition) -> BTreeMap<u64, Batch> {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    let mut found = BTreeMap::new();
    while let Some(view) = reader.next_batch().unwrap() {
        found.insert(view.header().base_offset.get(), batch(&view));
    }
    found
}

/// What a reader of committed records ends with.
fn latest(partition: &Partition) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    let mut reader = partition.reader_with(partition.offsets().start, options).unwrap();
    let mut latest = BTreeMap::new();
    while let Some(record) = reader.next_record().unwrap() {
        match (record.key, record.value) {
            (Some(key), Some(value)) => drop(latest.insert(key.to_vec(), value.to_vec())),
            (Some(key), None) => drop(latest.remove(key)),
            (None, _) => {}
        }
    }
    latest
}

/// Samples whose codecs this build has, and that have keys.
fn keyed() -> Vec<std::path::PathBuf> {
    let known =
        |codec: &str| (0..5).filter_map(|id| Codec::from_id(id).ok()).any(|c| c.name() == codec && c.is_supported());
    let mut found = samples("kafka-golden");
    found.retain(|dir| {
        let lines = listing(&dir.join("expected.jsonl"));
        lines.iter().all(|line| {
            known(line["compression"].as_str().unwrap())
                && (line["control"] == true || line["emptyBatch"] == true || !line["key"].is_null())
        })
    });
    assert!(found.iter().any(|dir| name(dir).starts_with("cleaned")));
    found
}

/// That what is left of a batch is as it was.
fn check_batch(old: &Batch, new: &Batch, what: &str) -> usize {
    if old.bytes == new.bytes {
        return new.records.len();
    }
    assert_eq!(old.header.last_offset(), new.header.last_offset(), "{what}");
    if new.header.count == 0 {
        return 0;
    }
    if old.control.is_some() {
        assert!(old.header.delete_horizon().is_none() && new.header.delete_horizon().is_some(), "{what}: no horizon");
        assert_eq!(old.control, new.control, "{what}: a marker says the same with a horizon");
        return 0;
    }
    assert!(new.header.count < old.header.count, "{what}: a batch that keeps all its records is copied");
    assert_eq!(old.header.attributes.codec(), new.header.attributes.codec(), "{what}");
    assert_eq!(old.header.attributes.timestamp_type(), new.header.attributes.timestamp_type(), "{what}");
    let producer = |header: &BatchHeader| {
        let attributes = header.attributes;
        (
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            header.leader_epoch,
            attributes.is_transactional(),
        )
    };
    assert_eq!(producer(&old.header), producer(&new.header), "{what}");
    for record in &new.records {
        assert!(old.records.contains(record), "{what}: {record:?}");
    }
    if old.header.delete_horizon().is_some() {
        assert_eq!(old.header.delete_horizon(), new.header.delete_horizon(), "{what}: the horizon that Kafka set");
    }
    new.records.len()
}

/// Takes a sample over, cleans it on, and compares with what it was.
fn clean_on(sample: &Path, delete_retention: Duration) -> Found {
    let topic = name(sample);
    let dir = copy(sample);
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let config = || kafka_samples::config().clock(clock.clone());
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition(topic, 0).unwrap();
    // Half of the keys get a newer value, so that what Kafka has cleaned is not clean any more.
    for key in latest(&partition).keys().step_by(2) {
        let record = stratalog::Record { key: Some(key), ..stratalog::Record::keyless("newer") };
        partition.append_records([record]).unwrap();
    }
    let (before, known, offsets) = (batches(&partition), latest(&partition), partition.offsets());
    let original = files_ending(&dir.path().join(format!("{topic}-0")), ".log");
    let compact = TopicConfig::new()
        .cleanup(Cleanup::Compact)
        .segment_bytes(40_000)
        .min_cleanable_dirty_ratio(0.0)
        .delete_retention(delete_retention)
        .producer_expiration(Duration::from_secs(u32::MAX.into()));
    log.topic(topic).unwrap().set_config(compact).unwrap();
    let now = stratalog::Clock::now(&*clock);
    let mut rewritten = 0;
    for pass in 0.. {
        assert!(pass < 20, "{topic}: compaction finds no end");
        let report = partition.compact(now, CompactMode::Full).unwrap();
        assert!(report.damaged.is_empty(), "{topic}: {report:?}");
        rewritten += report.segments_rewritten;
        if report.is_idle() {
            break;
        }
    }
    let check = |partition: &Partition| {
        let after = batches(partition);
        assert_eq!((partition.offsets().start, partition.offsets().end), (offsets.start, offsets.end), "{topic}");
        assert_eq!(latest(partition), known, "{topic}");
        let findings = partition.verify().unwrap().findings;
        assert!(findings.is_empty(), "{topic}: {findings:?}");
        after.iter().map(|(base, new)| check_batch(&before[base], new, &format!("{topic}, the batch at {base}"))).sum()
    };
    let records: usize = check(&partition);
    drop(partition);
    log.close().unwrap();
    let ours = dir.path().join(format!("{topic}-0"));
    for (file, bytes) in files_ending(&ours, ".log") {
        if !original.contains(&(file.clone(), bytes.clone())) {
            check_segment(&ours, &file, &bytes, INTERVAL, topic);
        }
    }
    assert!(files_ending(&ours, ".swap").is_empty() && files_ending(&ours, ".cleaned").is_empty());
    let log = Log::open(dir.path(), config()).unwrap();
    assert_eq!(check(&log.partition(topic, 0).unwrap()), records);
    Found { records, rewritten, tombstones: tombstones(&log.partition(topic, 0).unwrap()), keys: known.len() }
}

/// What is left of a sample.
struct Found {
    records: usize,
    rewritten: usize,
    tombstones: usize,
    keys: usize,
}

fn tombstones(partition: &Partition) -> usize {
    batches(partition).values().flat_map(|batch| &batch.records).filter(|record| record.3.is_none()).count()
}

#[test]
fn logs_that_kafka_has_cleaned_are_cleaned_on_and_keep_what_stays() {
    let mut rewritten = 0;
    for sample in keyed() {
        let topic = name(&sample);
        let found = clean_on(&sample, Duration::ZERO);
        assert_eq!((found.records, found.tombstones), (found.keys, 0), "{topic}: each key is left once");
        println!("{topic}: {} records of {} segments are left", found.records, found.rewritten);
        rewritten += found.rewritten;
    }
    assert!(rewritten > 0);
}

#[test]
fn the_tombstones_of_logs_that_kafka_has_cleaned_stay_for_their_retention() {
    for sample in keyed() {
        let deleted = {
            let lines = listing(&sample.join("expected.jsonl"));
            let mut last = BTreeMap::new();
            for line in lines.iter().filter(|line| line["control"] == false && line["emptyBatch"] != true) {
                last.insert(line["key"].to_string(), line["value"].is_null());
            }
            last.values().filter(|deleted| **deleted).count()
        };
        let found = clean_on(&sample, Duration::from_secs(86_400));
        assert_eq!(found.records, found.keys + found.tombstones, "{}: each key is left once", name(&sample));
        if name(&sample) != "transactions" {
            assert_eq!(found.tombstones, deleted, "{}: the last ones of their keys", name(&sample));
        }
    }
}
