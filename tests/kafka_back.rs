//! A directory goes back to Kafka: what we leave at close is what Kafka would have left, and what Kafka wrote since is
//! there when we open it again.

mod kafka_samples;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kafka_samples::check::{base_of, batches, check_files, check_offset_index, check_time_index};
use kafka_samples::{assert_same, copy, copy_into, dump, files, files_ending, listing, name, samples};
use stratalog::format::{AbortedTxn, Batches, Marker, ProducerSnapshotEntry, checkpoint, end_marker, snapshot};
use stratalog::{
    AbortedRange, BatchBuilder, Codec, FetchOptions, Header, Isolation, Log, LogConfig, ManualClock, Offset, Partition,
    Record, Timestamp, TopicConfig,
};

const MARKER: &str = ".kafka_cleanshutdown";
/// What Kafka writes into the marker.
const KAFKAS_MARKER: &str = "{\"version\":0,\"brokerEpoch\":-1}";
const BEGIN: i64 = 1_700_000_000_000;

/// A log in the days of its records: producers that are idle for long are forgotten.
fn config() -> LogConfig {
    kafka_samples::config().clock(Arc::new(ManualClock::new(Timestamp::from_millis(BEGIN))))
}

fn codecs() -> Vec<Codec> {
    let all = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    for codec in all.iter().filter(|codec| !codec.is_supported()) {
        eprintln!("SKIPPED: {}, because this build leaves it out; use --all-features", codec.name());
    }
    all.into_iter().filter(|codec| codec.is_supported()).collect()
}

fn open(dir: &Path) -> (Log, Partition) {
    let log = Log::open(dir, config()).unwrap();
    let partition = log.partition("mixed", 0).unwrap();
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
    (log, partition)
}

fn at(n: u64) -> Timestamp {
    // Not in order: only the largest so far make entries of the time index.
    Timestamp::from_millis(BEGIN + n as i64 * 10 - (n % 7) as i64 * 25)
}

/// Writes a bit of everything: several segments, every codec, headers, tombstones, an idempotent producer, transactions
/// that are committed, aborted and left open.
fn write_mixed(log: &Log) -> Partition {
    let topic = TopicConfig::new().segment_bytes(20_000).index_interval_bytes(1000);
    let topic = log.create_topic("mixed", 1, topic).unwrap();
    let partition = topic.partition(0).unwrap();
    partition.set_leader_epoch(3).unwrap();
    let codecs = codecs();
    for n in 0..160u64 {
        if n == 80 {
            partition.set_leader_epoch(5).unwrap();
        }
        let mut batch = BatchBuilder::new().codec(codecs[n as usize % codecs.len()]);
        match n % 4 {
            // Four records in each batch: the sequence goes on.
            1 => batch = batch.producer(7, 0, (n / 4 * 4) as i32),
            2 => batch = batch.producer(8, 1, (n / 4 * 4) as i32).transactional(true),
            _ => {}
        }
        for i in 0..4u64 {
            let (key, value) = (format!("key-{}", (n + i) % 50), format!("value-{n}-{i} ").repeat(40));
            let headers = [Header { key: b"h", value: Some(b"x") }, Header { key: b"none", value: None }];
            let record = Record {
                key: (n % 5 != 0).then_some(key.as_bytes()),
                value: (i != 2).then_some(value.as_bytes()),
                headers: if n % 3 == 0 { &headers } else { &[] },
                timestamp: Some(at(n)),
            };
            batch.push(&record, at(n)).unwrap();
        }
        partition.append(&batch.build().unwrap()).unwrap();
        if n % 8 == 6 && n < 158 {
            let marker = if n % 16 == 6 { Marker::Abort } else { Marker::Commit };
            partition.append(&end_marker(marker, 8, 1, 2, at(n)).unwrap()).unwrap();
        }
    }
    partition
}

/// The offsets in the checkpoint files, by name.
fn checkpoints(dir: &Path, topic: &str) -> Vec<(String, Option<u64>)> {
    let names = ["log-start-offset", "recovery-point-offset", "replication-offset", "cleaner-offset"];
    let read = |name: &str| {
        let entries = checkpoint::parse_offsets(&fs::read(dir.join(format!("{name}-checkpoint"))).unwrap()).unwrap();
        let entry = entries.iter().find(|entry| entry.topic == topic && entry.partition == 0);
        entry.map(|entry| entry.offset.get())
    };
    names.iter().map(|name| ((*name).to_owned(), read(name))).collect()
}

#[test]
fn a_directory_that_we_closed_has_what_kafka_would_have_left() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = write_mixed(&log);
    let offsets = partition.offsets();
    let segments = partition.stats().segments;
    assert!(segments > 3);
    assert!(!dir.path().join(MARKER).exists());
    drop(partition);
    log.close().unwrap();

    assert!(dir.path().join(MARKER).exists());
    let partition = dir.path().join("mixed-0");
    assert_eq!(files_ending(&partition, ".log").len(), segments);
    check_files(&partition, 1000, "closed");
    let marks = checkpoints(dir.path(), "mixed");
    let marks: Vec<Option<u64>> = marks.into_iter().map(|(_, offset)| offset).collect();
    assert_eq!(marks, [Some(0), Some(offsets.end.get()), Some(offsets.end.get()), None]);
    check_transactions(&partition);
    check_producers(&partition, offsets.end);
    let epochs = checkpoint::parse_epochs(&fs::read(partition.join("leader-epoch-checkpoint")).unwrap()).unwrap();
    let epochs: Vec<(i32, u64)> = epochs.iter().map(|entry| (entry.epoch, entry.start.get())).collect();
    assert_eq!(epochs.len(), 2);
    assert_eq!((epochs[0], epochs[1].0), ((3, 0), 5));

    let (log, _partition) = open(dir.path());
    assert!(!dir.path().join(MARKER).exists(), "gone after open");
    drop(log);
}

/// That the `.txnindex` files have each aborted transaction, in the segment of its marker.
fn check_transactions(dir: &Path) {
    let mut expected: Vec<(String, AbortedTxn)> = Vec::new();
    let mut open: Option<u64> = None;
    for (name, bytes) in files_ending(dir, ".log") {
        for batch in Batches::new(&bytes) {
            let batch = batch.unwrap();
            let header = batch.header();
            let control = batch.control(&mut stratalog::format::Scratch::default()).unwrap();
            match control {
                None if header.producer_id == 8 => {
                    open.get_or_insert(header.base_offset.get());
                }
                Some(control) => {
                    let first = open.take().unwrap();
                    let entry = AbortedTxn {
                        producer_id: 8,
                        first_offset: Offset::new(first),
                        last_offset: header.base_offset,
                        last_stable_offset: header.base_offset + 1,
                    };
                    if control.marker == Marker::Abort {
                        expected.push((name.replace(".log", ".txnindex"), entry));
                    }
                }
                None => {}
            }
        }
    }
    assert!(expected.len() > 5);
    let mut found = Vec::new();
    for (name, bytes) in files_ending(dir, ".txnindex") {
        assert!(!bytes.is_empty(), "there is one only where a transaction was aborted");
        for entry in bytes.chunks(AbortedTxn::LEN) {
            found.push((name.clone(), AbortedTxn::decode(entry).unwrap()));
        }
    }
    assert_eq!(found, expected);
}

/// That there is a snapshot of the producers at the end and at the bases, each of the state before it.
fn check_producers(dir: &Path, end: Offset) {
    let mut at: Vec<u64> = files_ending(dir, ".log").iter().map(|(name, _)| base_of(name)).collect();
    at.retain(|base| *base > 0);
    at.push(end.get());
    let names: Vec<u64> = files_ending(dir, ".snapshot").iter().map(|(name, _)| base_of(name)).collect();
    assert_eq!(names, at);
    for (name, bytes) in files_ending(dir, ".snapshot") {
        let at = base_of(&name);
        let mut found: Vec<ProducerSnapshotEntry> = snapshot::decode(&bytes).unwrap();
        found.sort_by_key(|producer| producer.producer_id);
        let summary: Vec<_> = found.iter().map(|p| (p.producer_id, p.epoch, p.last_sequence, p.last_offset)).collect();
        let mut expected = Vec::new();
        let mut transaction = None;
        for id in [7, 8] {
            let mut last: Option<(i64, i16, i32, Option<Offset>)> = None;
            for (_, bytes) in files_ending(dir, ".log") {
                for (header, _) in batches(&bytes) {
                    if header.producer_id != id || header.base_offset.get() >= at {
                        continue;
                    }
                    if header.attributes.is_control() {
                        transaction = None;
                    } else {
                        if header.attributes.is_transactional() {
                            transaction.get_or_insert(header.base_offset);
                        }
                        let sequence = header.base_sequence + header.last_offset_delta as i32;
                        last = Some((id, header.producer_epoch, sequence, Some(header.last_offset())));
                    }
                }
            }
            expected.extend(last);
        }
        assert_eq!(summary, expected, "{name}");
        let open: Vec<Option<Offset>> = found.iter().map(|producer| producer.current_txn_first_offset).collect();
        assert!(open.iter().flatten().copied().eq(transaction), "{name}: {open:?}");
    }
}

#[test]
fn a_kill_loses_nothing_and_the_next_close_leaves_the_same_files() {
    let [closed, killed] = [false, true].map(|kill| {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), config()).unwrap();
        let partition = write_mixed(&log);
        let shown = dump(&partition, Offset::ZERO, 1 << 20).0;
        if kill {
            drop((partition, log));
            assert!(!dir.path().join(MARKER).exists());
            let (log, partition) = open(dir.path());
            assert_same(&dump(&partition, Offset::ZERO, 1 << 20).0, &shown, "after the kill");
            log.close().unwrap();
        } else {
            log.close().unwrap();
        }
        check_files(&dir.path().join("mixed-0"), 1000, if kill { "killed" } else { "closed" });
        check_producers(
            &dir.path().join("mixed-0"),
            Offset::new(shown.last().unwrap()["offset"].as_u64().unwrap() + 1),
        );
        check_transactions(&dir.path().join("mixed-0"));
        dir
    });
    let files = |dir: &tempfile::TempDir| {
        let mut files = files(&dir.path().join("mixed-0"));
        files.retain(|(name, _)| !["state", "partition.metadata"].contains(&name.as_str()));
        files.into_iter().filter(|(name, _)| !name.ends_with(".timeindex")).collect::<Vec<_>>()
    };
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (closed, killed) = (files(&closed), files(&killed));
    assert_eq!(names(&closed), names(&killed));
    for (closed, killed) in closed.iter().zip(&killed) {
        assert_eq!(closed, killed, "{}", closed.0);
    }
}

#[test]
fn a_directory_that_was_taken_over_goes_back_with_everything() {
    for sample in samples("kafka-golden") {
        let topic = name(&sample);
        let dir = copy(&sample);
        let partition_dir = dir.path().join(format!("{topic}-0"));
        let before = files_ending(&partition_dir, ".log");
        let marks: Vec<(String, Option<u64>)> = ["log-start-offset", "recovery-point-offset", "replication-offset"]
            .iter()
            .map(|name| {
                let text = fs::read(sample.join(format!("{name}-checkpoint"))).unwrap();
                ((*name).to_owned(), Some(checkpoint::parse_offsets(&text).unwrap()[0].offset.get()))
            })
            .collect();
        for round in 0..3 {
            let log = Log::open(dir.path(), config()).unwrap();
            assert_eq!(log.recovery_report().taken_over, round == 0);
            assert!(!dir.path().join(MARKER).exists());
            log.close().unwrap();
            assert!(dir.path().join(MARKER).exists());
            assert_eq!(files_ending(&partition_dir, ".log"), before, "{topic}");
            assert_eq!(checkpoints(dir.path(), topic)[..3], marks, "{topic}");
            let (last, bytes) = before.last().unwrap();
            let read = |kind: &str| fs::read(partition_dir.join(last.replace(".log", kind))).unwrap();
            check_offset_index(&read(".index"), &batches(bytes), base_of(last), 4096, topic);
            check_time_index(&read(".timeindex"), &batches(bytes), base_of(last), topic);
            for kind in ["leader-epoch-checkpoint", "partition.metadata"] {
                let read = |dir: &Path| fs::read(dir.join(kind)).ok();
                assert_eq!(read(&partition_dir), read(&sample.join(format!("{topic}-0"))), "{topic}: {kind}");
            }
            for kind in [".index", ".timeindex", ".txnindex"] {
                // Those of the last segment are made anew, with distances of our own.
                let last = &before.last().unwrap().0[..20];
                let read = |dir: &Path| {
                    let mut files = files_ending(dir, kind);
                    files.retain(|(name, _)| kind == ".txnindex" || !name.starts_with(last));
                    files
                };
                assert_eq!(read(&partition_dir), read(&sample.join(format!("{topic}-0"))), "{topic}: {kind}");
            }
        }
    }
}

#[test]
fn what_kafka_wrote_after_us_is_there_when_we_open_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = write_mixed(&log);
    let before = dump(&partition, Offset::ZERO, 1 << 20).0;
    let end = partition.offsets().end;
    log.close().unwrap();

    append_as_kafka(dir.path(), end, true);
    let (log, partition) = open(dir.path());
    assert!(log.recovery_report().taken_over);
    let shown = dump(&partition, Offset::ZERO, 1 << 20).0;
    assert_same(&shown[..before.len()], &before, "what was there");
    assert_eq!(shown.len(), before.len() + 1);
    assert_eq!(shown.last().unwrap()["offset"], end.get());
    assert_eq!(partition.append_records([Record::new("a", "b")]).unwrap().base_offset, end + 1);
    assert_eq!(partition.config().segment_bytes, 20_000, "the topic keeps its configuration");
    log.close().unwrap();
    check_files(&dir.path().join("mixed-0"), 1000, "after Kafka");

    // And once more, this time killed: there is no marker, but the file has grown.
    append_as_kafka(dir.path(), end + 2, false);
    let (log, partition) = open(dir.path());
    let shown = dump(&partition, Offset::ZERO, 1 << 20).0;
    assert_eq!(shown.last().unwrap()["offset"], end.get() + 2);
    log.close().unwrap();
    check_files(&dir.path().join("mixed-0"), 1000, "after Kafka was killed");
}

/// Appends a batch to the last segment, as Kafka does, which closes the directory afterwards or is killed.
fn append_as_kafka(dir: &Path, offset: Offset, close: bool) {
    let batch = BatchBuilder::new().base_offset(offset).leader_epoch(9);
    let mut batch = batch;
    batch.push(&Record::new("kafka", "was here"), Timestamp::from_millis(BEGIN + 100_000)).unwrap();
    let batch = batch.build().unwrap();
    let (name, mut bytes) = files_ending(&dir.join("mixed-0"), ".log").pop().unwrap();
    bytes.extend_from_slice(batch.as_bytes());
    fs::write(dir.join("mixed-0").join(name), bytes).unwrap();
    end_as_kafka(dir, offset + 1, close);
}

/// What Kafka leaves beside the logs when it is closed, with the log's end as its recovery point, or killed.
fn end_as_kafka(dir: &Path, end: Offset, close: bool) {
    if close {
        fs::write(dir.join("recovery-point-offset-checkpoint"), format!("0\n1\nmixed 0 {end}\n")).unwrap();
        fs::write(dir.join(MARKER), KAFKAS_MARKER).unwrap();
    } else {
        fs::remove_file(dir.join(MARKER)).unwrap();
    }
}

#[test]
fn a_segment_that_kafka_added_after_us_is_taken_into_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = write_mixed(&log);
    let (end, bytes) = (partition.offsets().end, dump(&partition, Offset::ZERO, 1 << 20).0);
    log.close().unwrap();
    for close in [true, false] {
        let copy = copy(dir.path());
        let mut batch = BatchBuilder::new().base_offset(end).leader_epoch(9);
        batch.push(&Record::new("kafka", "rolled"), Timestamp::from_millis(BEGIN)).unwrap();
        fs::write(copy.path().join(format!("mixed-0/{:020}.log", end.get())), batch.build().unwrap().as_bytes())
            .unwrap();
        end_as_kafka(copy.path(), end + 1, close);
        let (_log, partition) = open(copy.path());
        let shown = dump(&partition, Offset::ZERO, 1 << 20).0;
        assert_eq!(shown.len(), bytes.len() + 1);
        assert_eq!(partition.end_offset_for_epoch(9), Some((9, end + 1)));
    }
}

#[test]
fn a_taking_over_that_a_crash_interrupted_is_begun_anew() {
    for sample in samples("kafka-golden") {
        let topic = name(&sample);
        let expected = listing(&sample.join("expected.jsonl"));
        let whole = copy(&sample);
        Log::open(whole.path(), config()).unwrap().close().unwrap();
        // Our files are there, the first of them says that the directory is being taken over; the partition is as Kafka
        // left it, or the crash came just before the end.
        for (clean, partition_done) in [(true, false), (false, false), (true, true), (false, true)] {
            let dir = copy(&sample);
            fs::remove_file(dir.path().join(MARKER)).ok();
            fs::copy(whole.path().join("stratalog.meta"), dir.path().join("stratalog.meta")).unwrap();
            fs::write(dir.path().join("stratalog.topics"), taking_over(clean)).unwrap();
            if partition_done {
                let partition = format!("{topic}-0");
                fs::remove_dir_all(dir.path().join(&partition)).unwrap();
                copy_into(&whole.path().join(&partition), &dir.path().join(&partition));
            }
            let log = Log::open(dir.path(), config()).unwrap();
            assert!(log.recovery_report().taken_over, "{topic}");
            let partition = log.partition(topic, 0).unwrap();
            assert!(partition.stats().error.is_none(), "{topic}: {:?}", partition.stats().error);
            let last = expected.last().unwrap()["batchLastOffset"].as_u64().unwrap();
            assert_eq!(partition.offsets().end, Offset::new(last + 1), "{topic}");
            let start = if topic == "log-start-offset" { 137 } else { 0 };
            assert_eq!(partition.offsets().start, Offset::new(start), "{topic}");
            drop((partition, log));
            let log = Log::open(dir.path(), config()).unwrap();
            assert!(!log.recovery_report().taken_over, "{topic}");
            assert_eq!(log.partition(topic, 0).unwrap().offsets().end, Offset::new(last + 1), "{topic}");
        }
    }
}

/// The topics file as the first step of taking over leaves it.
fn taking_over(clean: bool) -> String {
    let text = format!("stratalog.topics 1\ntaking-over {}\n", if clean { "clean" } else { "unclean" });
    format!("{text}crc {:08x}\n", crc32fast::hash(text.as_bytes()))
}

#[test]
fn transactions_and_producers_go_on_after_a_directory_came_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = write_mixed(&log);
    let committed = FetchOptions { isolation: Isolation::Committed, max_bytes: 1 << 30, ..FetchOptions::default() };
    let aborted: Vec<AbortedRange> = partition.fetch(Offset::ZERO, committed).unwrap().aborted;
    let stable = partition.offsets().last_stable;
    assert!(stable < partition.offsets().end && aborted.len() > 5);
    log.close().unwrap();
    for kafka in [true, false] {
        if kafka {
            fs::write(dir.path().join(MARKER), KAFKAS_MARKER).unwrap();
        }
        let (log, partition) = open(dir.path());
        assert_eq!(log.recovery_report().taken_over, kafka);
        assert_eq!(partition.fetch(Offset::ZERO, committed).unwrap().aborted, aborted);
        assert_eq!(partition.offsets().last_stable, stable, "a transaction is still open");
        let producers = partition.stats().producers;
        assert_eq!(producers, 2);
        log.close().unwrap();
    }
}
