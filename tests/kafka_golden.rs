//! Directories that Kafka wrote open here and show what Kafka shows of them, whatever became of their caches.

mod kafka_samples;

use std::fs;
use std::path::{Path, PathBuf};

use kafka_samples::{assert_same, config, copy, dump, listing, name, samples};
use serde_json::Value;
use stratalog::{AbortedRange, Codec, FetchOptions, Isolation, Log, Offset, Partition, Timestamp};

/// Something that happens to a directory, and its name.
type Fate = (&'static str, fn(&Path));

/// What may have happened to a directory since Kafka closed it.
const FATES: [Fate; 7] = [
    ("as Kafka closed it", |_| ()),
    ("killed", |dir| drop(fs::remove_file(dir.join(".kafka_cleanshutdown")))),
    ("no index files", |dir| for_caches(dir, |path, _| fs::remove_file(path).unwrap())),
    ("zeros behind the entries", |dir| {
        for_caches(dir, |path, mut bytes| {
            bytes.resize(bytes.len() + 12 * 1024, 0);
            fs::write(path, bytes).unwrap();
        })
    }),
    ("flipped bytes", |dir| {
        for_caches(dir, |path, mut bytes| {
            bytes.iter_mut().skip(3).step_by(5).for_each(|byte| *byte ^= 0x55);
            fs::write(path, bytes).unwrap();
        })
    }),
    ("cut entries", |dir| {
        for_caches(dir, |path, bytes| fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap());
    }),
    ("no checkpoints", |dir| {
        for name in ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }),
];

/// Calls `f` with the index files and snapshots of the partition.
fn for_caches(dir: &Path, f: impl Fn(&Path, Vec<u8>)) {
    let partition = kafka_samples::subdirs(dir).pop().unwrap();
    for (name, bytes) in kafka_samples::files(&partition) {
        if [".index", ".timeindex", ".txnindex", ".snapshot"].iter().any(|end| name.ends_with(end)) {
            f(&partition.join(name), bytes);
        }
    }
}

/// Samples in a codec of this build, with their listings.
fn decodable() -> Vec<(PathBuf, Vec<Value>)> {
    let mut found = Vec::new();
    for dir in samples("kafka-golden") {
        let expected = listing(&dir.join("expected.jsonl"));
        let left_out = |line: &Value| {
            let codec = line["compression"].as_str().unwrap();
            (0..5).filter_map(|id| Codec::from_id(id).ok()).any(|known| known.name() == codec && !known.is_supported())
        };
        if expected.iter().any(left_out) {
            eprintln!("SKIPPED: {}, because this build leaves out its codec; use --all-features", name(&dir));
        } else {
            found.push((dir, expected));
        }
    }
    found
}

fn open(dir: &Path, topic: &str) -> (Log, Partition) {
    let log = Log::open(dir, config()).unwrap();
    let partition = log.partition(topic, 0).unwrap();
    assert!(partition.stats().error.is_none(), "{topic}: {:?}", partition.stats().error);
    (log, partition)
}

/// Where reading begins: only one sample does not begin at its first batch.
fn log_start(topic: &str) -> Offset {
    Offset::new(if topic == "log-start-offset" { 137 } else { 0 })
}

/// The lines of the batches that hold `from`, or come after it.
fn lines_from(lines: &[Value], from: Offset) -> &[Value] {
    let at = lines.iter().position(|line| line["batchLastOffset"].as_u64().unwrap() >= from.get());
    &lines[at.unwrap_or(lines.len())..]
}

#[test]
fn every_log_decodes_to_what_kafka_says_whatever_became_of_its_caches() {
    for (sample, expected) in decodable() {
        let topic = name(&sample);
        for (fate, happen) in FATES {
            let what = format!("{topic}, {fate}");
            let dir = copy(&sample);
            happen(dir.path());
            let (log, partition) = open(dir.path(), topic);
            assert!(log.recovery_report().taken_over, "{what}");
            let start = log_start(topic);
            assert_eq!(partition.offsets().start, start, "{what}");
            check_dump(&partition, &expected, &what);
            drop((partition, log));

            let (log, partition) = open(dir.path(), topic);
            assert!(!log.recovery_report().taken_over, "{what}");
            assert_eq!(log.recovery_report().partitions[0].scanned_bytes, 0, "{what}");
            check_dump(&partition, &expected, &what);
            log.close().unwrap();
            let (_log, partition) = open(dir.path(), topic);
            check_dump(&partition, &expected, &what);
        }
    }
}

/// That fetches show the whole listing, of any size and from any offset.
fn check_dump(partition: &Partition, expected: &[Value], what: &str) {
    let offsets = partition.offsets();
    assert_eq!(offsets.end, Offset::new(expected.last().unwrap()["batchLastOffset"].as_u64().unwrap() + 1), "{what}");
    let expected = lines_from(expected, offsets.start);
    for max_bytes in [1, 3000, 1 << 20] {
        let (shown, end) = dump(partition, offsets.start, max_bytes);
        assert_same(&shown, expected, what);
        assert_eq!(end, offsets.end, "{what}");
    }
    for from in (offsets.start.get()..offsets.end.get()).step_by(13) {
        let from = Offset::new(from);
        let fetch = partition.fetch(from, FetchOptions { max_bytes: 1, ..FetchOptions::default() }).unwrap();
        let first = fetch.batches().next().unwrap().unwrap();
        let line = &lines_from(expected, from)[0];
        assert_eq!(first.header().base_offset.get(), line["batchBaseOffset"].as_u64().unwrap(), "{what} from {from}");
    }
    if offsets.start > Offset::ZERO {
        let before = Offset::new(offsets.start.get() - 1);
        assert!(partition.fetch(before, FetchOptions::default()).is_err(), "{what}");
    }
}

#[test]
fn a_log_start_inside_a_batch_hides_the_records_before_it() {
    let Some((sample, _)) = decodable().into_iter().find(|(dir, _)| name(dir) == "log-start-offset") else {
        eprintln!("SKIPPED: the sample with a log start inside a batch is not beside the tests");
        return;
    };
    let dir = copy(&sample);
    let (_log, partition) = open(dir.path(), "log-start-offset");
    let fetch = partition.fetch(Offset::new(137), FetchOptions::default()).unwrap();
    assert!(fetch.batches().next().unwrap().unwrap().header().base_offset < Offset::new(137));
    let mut reader = partition.reader(Offset::new(137)).unwrap();
    assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(137));
    assert_eq!(partition.offset_for(Timestamp::from_millis(0)).unwrap(), Some(Offset::new(137)));
}

#[test]
fn a_timestamp_is_found_with_and_without_index_files() {
    for (sample, expected) in decodable() {
        let topic = name(&sample);
        let records: Vec<(i64, u64)> = expected
            .iter()
            .filter_map(|line| Some((line["timestamp"].as_i64()?, line["offset"].as_u64()?)))
            .filter(|(_, offset)| *offset >= log_start(topic).get())
            .collect();
        for (fate, happen) in FATES {
            let dir = copy(&sample);
            happen(dir.path());
            let (_log, partition) = open(dir.path(), topic);
            let step = (records.len() / 60).max(1);
            for (timestamp, _) in records.iter().step_by(step).chain(records.last()) {
                for at in [timestamp - 1, *timestamp, timestamp + 1] {
                    let first = records.iter().find(|(timestamp, _)| *timestamp >= at);
                    let found = partition.offset_for(Timestamp::from_millis(at)).unwrap();
                    assert_eq!(found.map(Offset::get), first.map(|(_, offset)| *offset), "{topic}, {fate}: {at}");
                }
            }
        }
    }
}

#[test]
fn aborted_transactions_are_told_to_fetches_and_left_out_by_readers() {
    let (sample, expected) = decodable().into_iter().find(|(dir, _)| name(dir) == "transactions").unwrap();
    let aborted = |producer_id, first, last| AbortedRange {
        producer_id,
        first_offset: Offset::new(first),
        last_offset: Offset::new(last),
    };
    let ranges = [aborted(1, 11, 12), aborted(2, 3, 8)];
    let is_aborted = |line: &Value| {
        let (offset, producer) = (line["offset"].as_u64().unwrap(), line["producerId"].as_i64().unwrap());
        let within = |range: &AbortedRange| (range.first_offset.get()..range.last_offset.get()).contains(&offset);
        line["transactional"] == true && ranges.iter().any(|range| range.producer_id == producer && within(range))
    };
    let committed: Vec<u64> = expected
        .iter()
        .filter(|line| line["control"] == false && !is_aborted(line))
        .map(|line| line["offset"].as_u64().unwrap())
        .collect();
    assert!(!committed.is_empty() && expected.iter().any(is_aborted));
    let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    for (fate, happen) in FATES {
        let dir = copy(&sample);
        happen(dir.path());
        for reopened in 0..3 {
            let (log, partition) = open(dir.path(), "transactions");
            assert_eq!(partition.offsets().last_stable, partition.offsets().end, "{fate}");
            let mut told = partition.fetch(Offset::ZERO, options).unwrap().aborted;
            told.sort();
            assert_eq!(told, ranges, "{fate}, opened {reopened} times before");
            let mut reader = partition.reader_with(Offset::ZERO, options).unwrap();
            let mut read = Vec::new();
            while let Some(record) = reader.next_record().unwrap() {
                read.push(record.offset.get());
            }
            assert_eq!(read, committed, "{fate}");
            if reopened == 1 {
                log.close().unwrap();
            }
        }
    }
}
