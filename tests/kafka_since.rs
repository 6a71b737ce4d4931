//! A directory of ours that Kafka had since, which it closed, or in which it was killed: all that Kafka has made durable
//! is there, and a copy of a directory is never taken for such a one.
//!
//! The samples below `tests/data/kafka-since` were used by Kafka 4.4; `expected` has what its own consumer shows.

mod kafka_samples;
#[path = "common/watched.rs"]
mod watched;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kafka_samples::{assert_same, config, copy, copy_into, dump, listing, name, subdirs};
use stratalog::format::checkpoint;
use stratalog::inspect::{self, Kind};
use stratalog::repair::{self, Options};
use stratalog::storage::FileSystem;
use stratalog::{BatchBuilder, ErrorKind, Log, Offset, Partition, Record, RecordBatch, Timestamp, TopicConfig};
use tempfile::TempDir;
use watched::{Call, Watched};

const MARKER: &str = ".kafka_cleanshutdown";
const USE: &str = "stratalog.use";

fn samples() -> Vec<PathBuf> {
    let mut found = subdirs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-since"));
    found.retain(|dir| dir.join("expected").is_dir());
    assert_eq!(found.len(), 4);
    found
}

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-since").join(name)
}

/// Every record that a partition shows, as Kafka's consumer prints it.
fn shown(partition: &Partition) -> Vec<String> {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    let mut lines = Vec::new();
    let text = |bytes: Option<&[u8]>| bytes.map_or("null".into(), |bytes| String::from_utf8_lossy(bytes).into_owned());
    while let Some(record) = reader.next_record().unwrap() {
        lines.push(format!("Offset:{}\t{}\t{}", record.offset, text(record.key), text(record.value)));
    }
    lines
}

/// Holds a log against what Kafka shows of it: all of that is there, and of topics that are not compacted nothing else.
fn check(log: &Log, sample: &Path) {
    for file in fs::read_dir(sample.join("expected")).unwrap() {
        let file = file.unwrap();
        let topic = file.file_name().into_string().unwrap().replace(".txt", "");
        let expected = fs::read_to_string(file.path()).unwrap();
        let expected: Vec<&str> = expected.lines().collect();
        let partition = log.partition(&topic, 0).unwrap_or_else(|| panic!("{}: {topic}", name(sample)));
        assert!(partition.stats().error.is_none(), "{}: {topic}: {:?}", name(sample), partition.stats().error);
        let shown = shown(&partition);
        let missing: Vec<&&str> = expected.iter().filter(|line| !shown.iter().any(|shown| shown == **line)).collect();
        assert!(missing.is_empty(), "{}: {topic}: {missing:?}", name(sample));
        // Its cleaner went on while the consumer started.
        assert!(topic == "comp" || shown == expected, "{}: {topic}: {shown:?}", name(sample));
    }
    assert!(log.recovery_report().failed.is_empty(), "{:?}", log.recovery_report().failed);
}

fn append(log: &Log, topic: &str) -> Offset {
    log.partition(topic, 0).unwrap().append_records([Record::new("ours", "again")]).unwrap().base_offset
}

#[test]
fn all_that_kafka_made_durable_is_there_and_appends_go_on() {
    for sample in samples() {
        let dir = copy(&sample);
        let directory = inspect::open(dir.path()).unwrap();
        assert!(directory.kafka_since && directory.kind == Kind::Ours, "{}", name(&sample));
        assert!(repair::plan(dir.path(), &Options::default()).unwrap().is_empty(), "{}", name(&sample));

        let seen = Log::open_read_only_with(dir.path(), config()).unwrap();
        check(&seen, &sample);
        for partition in seen.topics().iter().flat_map(|topic| topic.partitions()) {
            let findings = partition.verify().unwrap().findings;
            assert!(findings.is_empty(), "{}: {findings:?}", name(&sample));
        }
        drop(seen);

        let log = Log::open(dir.path(), config()).unwrap();
        assert!(log.recovery_report().taken_over);
        check(&log, &sample);
        let end = log.partition("plain", 0).unwrap().offsets().end;
        assert_eq!(append(&log, "plain"), end);
        // Killed after it was taken over, and closed after that: it is ours.
        drop(log);
        for _ in 0..2 {
            let log = Log::open(dir.path(), config()).unwrap();
            assert!(!log.recovery_report().taken_over, "{}", name(&sample));
            let partition = log.partition("plain", 0).unwrap();
            assert_eq!(partition.offsets().end, end + 1);
            let report = partition.verify().unwrap();
            assert!(report.findings.is_empty(), "{:?}", report.findings);
            log.close().unwrap();
        }
        assert!(!inspect::open(dir.path()).unwrap().kafka_since);
    }
}

#[test]
fn a_directory_whose_records_kafkas_cleaner_took_is_whole_with_and_without_the_marker() {
    let sample = sample("cleaned");
    let expected = listing(&sample.join("expected.jsonl"));
    for marker in [true, false] {
        let dir = copy(&sample);
        if !marker {
            fs::remove_file(dir.path().join(MARKER)).unwrap();
        }
        assert!(repair::plan(dir.path(), &Options::default()).unwrap().is_empty());
        let seen = Log::open_read_only_with(dir.path(), config()).unwrap();
        let partition = seen.partition("w-cleantx", 0).unwrap();
        assert_same(&dump(&partition, Offset::ZERO, 1 << 20).0, &expected, "read-only");
        assert!(partition.verify().unwrap().findings.is_empty());
        drop((partition, seen));

        let log = Log::open(dir.path(), config()).unwrap();
        let partition = log.partition("w-cleantx", 0).unwrap();
        assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
        assert_same(&dump(&partition, Offset::ZERO, 1 << 20).0, &expected, "opened");
        let gaps = &log.recovery_report().partitions[0].adopted_gaps;
        assert_eq!(gaps[..], [Offset::new(510)..Offset::new(653), Offset::new(718)..Offset::new(727)]);
        assert_eq!(append(&log, "w-cleantx"), Offset::new(762));
        log.close().unwrap();
        assert!(repair::plan(dir.path(), &Options::default()).unwrap().is_empty());
    }
}

#[test]
fn what_kafka_did_to_topics_is_followed_and_configurations_stay() {
    let sample = sample("killed");
    let dir = copy(&sample);
    let ids = |dir: &Path| -> Vec<(String, _)> {
        let topics = inspect::open(dir).unwrap().topics.unwrap().unwrap();
        topics.into_iter().map(|topic| (topic.name, topic.id.bits())).collect()
    };
    let before = ids(dir.path());
    let fresh = inspect::topic_id(&FileSystem::new(), &dir.path().join("fresh-0")).unwrap().unwrap().bits();
    let log = Log::open(dir.path(), config()).unwrap();
    assert_eq!(log.recovery_report().removed, [("gone".to_owned(), 0)]);
    assert!(log.topic("gone").is_none() && log.topic("fresh").is_some());
    // Deleted there, and not brought back by what we knew.
    assert_eq!(log.partition("grow", 0).unwrap().offsets().start, Offset::new(60));
    let grow = log.topic("grow").unwrap();
    grow.set_config(grow.config().unwrap().segment_bytes(4321)).unwrap();
    log.close().unwrap();
    let mut expected = before.clone();
    expected.retain(|(name, _)| name != "gone");
    expected.push(("fresh".to_owned(), fresh));
    expected.sort();
    assert_eq!(ids(dir.path()), expected);

    // Once more, with a configuration of ours.
    append_as_kafka(dir.path(), "grow", Offset::new(108));
    fs::remove_file(dir.path().join(MARKER)).unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(log.recovery_report().taken_over);
    assert_eq!(log.topic("grow").unwrap().config().unwrap().segment_bytes, 4321);
    assert_eq!(log.partition("grow", 0).unwrap().offsets().end, Offset::new(109));
}

#[test]
fn a_topic_that_kafka_made_anew_under_an_old_name_is_another_one() {
    let dir = copy(&sample("killed"));
    let log = Log::open(dir.path(), config()).unwrap();
    let plain = log.topic("plain").unwrap();
    plain.set_config(plain.config().unwrap().segment_bytes(4321)).unwrap();
    log.close().unwrap();
    // What Kafka leaves of a topic of the same name: another id, and nothing of ours.
    let partition = dir.path().join("plain-0");
    fs::remove_dir_all(&partition).unwrap();
    fs::create_dir(&partition).unwrap();
    fs::write(partition.join("partition.metadata"), "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAKg").unwrap();
    fs::write(partition.join(format!("{:020}.log", 0)), batch(Offset::ZERO).as_bytes()).unwrap();
    fs::write(dir.path().join(MARKER), "{\"version\":0,\"brokerEpoch\":9}").unwrap();
    write_checkpoint(dir.path(), "recovery-point-offset-checkpoint", "plain", 1);
    let log = Log::open(dir.path(), config()).unwrap();
    let plain = log.topic("plain").unwrap();
    assert_eq!(plain.partition(0).unwrap().offsets().end, Offset::new(1));
    assert_ne!(plain.config().unwrap().segment_bytes, 4321);
    log.close().unwrap();
    let topics = inspect::open(dir.path()).unwrap().topics.unwrap().unwrap();
    let plain = topics.iter().find(|topic| topic.name == "plain").unwrap();
    assert!(plain.id.bits() == 42 && plain.adopted);
}

#[test]
fn a_truncation_below_what_kafka_had_is_refused_unless_it_may_lose_something() {
    let dir = copy(&sample("closed"));
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition("comp", 0).unwrap();
    let end = partition.offsets().end;
    append(&log, "comp");
    partition.truncate(end).unwrap();
    // Its cleaner has removed records because of those at the end.
    let below = Offset::new(end.get() - 1);
    let error = partition.truncate(below).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::TruncateBelowCompacted { lowest: end });
    partition.truncate_lossy(below).unwrap();
}

fn batch(offset: Offset) -> RecordBatch {
    let mut batch = BatchBuilder::new().base_offset(offset).leader_epoch(9);
    batch.push(&Record::new("kafka", "was here"), Timestamp::from_millis(1_700_000_000_000)).unwrap();
    batch.build().unwrap()
}

/// Appends a batch to the last segment, as Kafka does; returns the file.
fn append_as_kafka(dir: &Path, topic: &str, offset: Offset) -> PathBuf {
    let path = logs(dir, topic).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(batch(offset).as_bytes());
    fs::write(&path, bytes).unwrap();
    path
}

/// The `.log` files of a partition, in order.
fn logs(dir: &Path, topic: &str) -> Vec<PathBuf> {
    let files = inspect::files(&FileSystem::new(), &dir.join(format!("{topic}-0"))).unwrap();
    files.into_iter().filter(|file| file.is_log()).map(|file| file.path).collect()
}

/// Sets the offset of a partition in one of Kafka's checkpoint files.
fn write_checkpoint(dir: &Path, file: &str, topic: &str, offset: u64) {
    let path = dir.join(file);
    let mut entries = checkpoint::parse_offsets(&fs::read(&path).unwrap()).unwrap();
    entries.retain(|entry| entry.topic != topic);
    let offset = Offset::new(offset);
    entries.push(checkpoint::OffsetCheckpoint { topic: topic.to_owned(), partition: 0, offset });
    fs::write(path, checkpoint::write_offsets(&entries)).unwrap();
}

/// A log of two topics with segments of a few records, closed; `t` ends at 40.
fn ours() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    for topic in ["t", "other"] {
        log.create_topic(topic, 1, TopicConfig::new().segment_bytes(1024).index_interval_bytes(100)).unwrap();
        for n in 0..40 {
            let partition = log.partition(topic, 0).unwrap();
            partition.append_records([Record::new("key", &format!("value-{n}"))]).unwrap();
        }
    }
    assert!(log.partition("t", 0).unwrap().stats().segments > 3);
    log.close().unwrap();
    dir
}

fn values(partition: &Partition) -> Vec<String> {
    shown(partition).into_iter().map(|line| line.rsplit('\t').next().unwrap().to_owned()).collect()
}

fn expected(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("value-{n}")).collect()
}

/// Copies a directory as `cp -r DIR/* TO` does: what begins with a dot stays behind.
fn copy_without_dots(from: &Path) -> TempDir {
    let to = copy(from);
    for name in [MARKER, ".lock"] {
        fs::remove_file(to.path().join(name)).unwrap();
    }
    to
}

#[test]
fn a_copy_without_the_marker_is_ours_also_after_it_was_killed() {
    let dir = ours();
    let copied = copy_without_dots(dir.path());
    assert!(!inspect::open(copied.path()).unwrap().kafka_since);
    for round in 0..3 {
        let log = Log::open(copied.path(), config()).unwrap();
        let report = log.recovery_report();
        assert!(!report.taken_over, "round {round}");
        assert!(report.partitions.iter().all(|partition| partition.error.is_none() && !partition.state_lost));
        let partition = log.partition("t", 0).unwrap();
        assert_eq!(values(&partition), expected(0..40 + round));
        partition.append_records([Record::new("key", &format!("value-{}", 40 + round))]).unwrap();
        partition.flush().unwrap();
        partition.truncate(Offset::new(30)).unwrap();
        for n in 30..41 + round {
            partition.append_records([Record::new("key", &format!("value-{n}"))]).unwrap();
        }
        drop((partition, log));
        let again = copy(copied.path());
        assert!(!inspect::open(again.path()).unwrap().kafka_since, "a copy of a log that is open");
    }
}

#[test]
fn a_copy_that_lost_a_segment_is_no_directory_that_kafka_cleaned() {
    let dir = ours();
    for lost in [0, 1] {
        for without_marker in [true, false] {
            let copied = if without_marker { copy_without_dots(dir.path()) } else { copy(dir.path()) };
            fs::remove_file(&logs(copied.path(), "t")[lost]).unwrap();
            let log = Log::open(copied.path(), config()).unwrap();
            assert!(!log.recovery_report().taken_over);
            let error = log.partition("t", 0).unwrap().stats().error.unwrap();
            assert!(matches!(error.kind(), ErrorKind::MissingSegment(_)), "{error}");
            assert!(log.partition("other", 0).unwrap().stats().error.is_none());
        }
    }
}

#[test]
fn a_segment_that_is_missing_behind_one_that_kafka_left_alone_is_no_gap_of_its_cleaner() {
    let dir = ours();
    fs::remove_file(dir.path().join(MARKER)).unwrap();
    append_as_kafka(dir.path(), "t", Offset::new(40));
    fs::remove_file(&logs(dir.path(), "t")[1]).unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(log.recovery_report().taken_over);
    let error = log.partition("t", 0).unwrap().stats().error.unwrap();
    assert!(matches!(error.kind(), ErrorKind::MissingSegment(_)), "{error}");
    // The other one is taken over all the same, and the next open tries again.
    assert!(log.partition("other", 0).unwrap().stats().error.is_none());
    log.close().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(log.partition("t", 0).unwrap().stats().error.is_some());
    append(&log, "other");
}

#[test]
fn a_repair_of_what_kafka_had_since_does_what_its_plan_says() {
    for damage in ["a segment is missing", "a batch is damaged", "the end is missing"] {
        let dir = ours();
        fs::remove_file(dir.path().join(MARKER)).unwrap();
        append_as_kafka(dir.path(), "t", Offset::new(40));
        write_checkpoint(dir.path(), "recovery-point-offset-checkpoint", "t", 41);
        let files = logs(dir.path(), "t");
        let last = fs::read(files.last().unwrap()).unwrap();
        match damage {
            "a segment is missing" => fs::remove_file(&files[1]).unwrap(),
            "a batch is damaged" => {
                let mut bytes = fs::read(&files[1]).unwrap();
                bytes[16] = 7;
                fs::write(&files[1], bytes).unwrap();
            }
            _ => fs::write(files.last().unwrap(), &last[..last.len() - batch(Offset::ZERO).as_bytes().len()]).unwrap(),
        }
        let records = |dir: &Path| -> u64 {
            let files = inspect::files(&FileSystem::new(), &dir.join("t-0")).unwrap();
            files.iter().filter(|file| file.name.contains(".log")).map(|file| file.len).sum()
        };
        let before = records(dir.path());
        let plan = repair::plan(dir.path(), &Options::default()).unwrap();
        assert!(!plan.is_empty(), "{damage}");
        assert!(
            Log::open_read_only_with(dir.path(), config()).unwrap().partition("t", 0).unwrap().stats().error.is_some()
        );
        let end = plan.steps.iter().find_map(|step| match step {
            repair::Step::LowerEnd { offsets, .. } => Some(offsets.start),
            _ => None,
        });
        let report = repair::run(&plan, config()).unwrap();
        let found = report.partitions.iter().find(|found| found.topic == "t").unwrap();
        assert_eq!((found.error.is_none(), Some(found.end)), (true, end), "{damage}: {plan}");
        assert!(records(dir.path()) >= before, "no byte is deleted");
        let left = repair::plan(dir.path(), &Options::default()).unwrap();
        assert!(left.is_empty(), "{damage}: {left}");
        let log = Log::open(dir.path(), config()).unwrap();
        assert_eq!(append(&log, "t"), end.unwrap());
    }
}

#[test]
fn nothing_durable_is_cut_of_a_log_that_kafka_had() {
    for (durable, by_us) in [(40, true), (43, false)] {
        let dir = ours();
        fs::remove_file(dir.path().join(MARKER)).unwrap();
        let mut starts = Vec::new();
        for n in 40..44 {
            starts.push(fs::metadata(logs(dir.path(), "t").pop().unwrap()).unwrap().len());
            append_as_kafka(dir.path(), "t", Offset::new(n));
        }
        if !by_us {
            write_checkpoint(dir.path(), "recovery-point-offset-checkpoint", "t", durable);
        }
        let path = logs(dir.path(), "t").pop().unwrap();
        let sound = fs::read(&path).unwrap();
        let is_torn_at = |at: u64| {
            let mut bytes = sound.clone();
            bytes[at as usize + 70] ^= 1;
            fs::write(&path, bytes).unwrap();
            let copied = copy(dir.path());
            let log = Log::open(copied.path(), config()).unwrap();
            let report = log.recovery_report().partitions.iter().find(|found| found.topic == "t").unwrap().clone();
            (report.cut.is_some(), report.error.map(|error| error.is_corruption()))
        };
        // Its tail is cut, and only that: the last batch, above what is known to be durable.
        assert_eq!(is_torn_at(starts[3]), (true, None), "{durable}");
        let below = if by_us { starts[0] - 80 } else { starts[2] };
        assert_eq!(is_torn_at(below), (false, Some(true)), "{durable}");
        // A whole batch less than was durable is missing.
        fs::write(&path, &sound[..below as usize]).unwrap();
        if !by_us {
            let log = Log::open(dir.path(), config()).unwrap();
            let error = log.partition("t", 0).unwrap().stats().error.unwrap();
            assert_eq!(*error.kind(), ErrorKind::MissingSegment(Offset::new(42)..Offset::new(43)));
        }
    }
}

#[test]
fn what_kafka_used_after_a_crash_of_ours_is_its_own_by_its_checkpoint_files() {
    let dir = ours();
    let log = Log::open(dir.path(), config()).unwrap();
    append(&log, "t");
    // A truncation of ours leaves the checkpoint files ahead: that is no sign of Kafka's.
    log.partition("other", 0).unwrap().truncate(Offset::new(20)).unwrap();
    drop(log);
    assert!(!inspect::open(dir.path()).unwrap().kafka_since);
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(!log.recovery_report().taken_over);
    drop(log);

    write_checkpoint(dir.path(), "recovery-point-offset-checkpoint", "t", 41);
    append_as_kafka(dir.path(), "t", Offset::new(41));
    assert!(inspect::open(dir.path()).unwrap().kafka_since);
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(log.recovery_report().taken_over);
    assert_eq!(log.partition("t", 0).unwrap().offsets().end, Offset::new(42));
}

#[test]
fn a_marker_of_ours_says_that_nobody_came_since() {
    let dir = ours();
    fs::remove_file(dir.path().join(USE)).unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(!log.recovery_report().taken_over);
    assert_eq!(log.recovery_report().partitions.iter().map(|p| p.scanned_bytes).sum::<u64>(), 0);
    drop(log);
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(!log.recovery_report().taken_over);
}

#[test]
fn open_is_durable_before_the_marker_goes_and_closed_comes_after_it() {
    let dir = ours();
    let calls: Arc<Mutex<Vec<(Call, String)>>> = Arc::default();
    let seen = Arc::clone(&calls);
    let storage = Watched::new(move |call, path| {
        let name = watched::name(path).to_owned();
        if [USE, MARKER].contains(&name.trim_end_matches(".tmp")) || call == Call::SyncDir && !name.contains('-') {
            seen.lock().unwrap().push((call, name));
        }
        Ok(())
    });
    let log = Log::open(dir.path(), config().storage(storage)).unwrap();
    let opened = std::mem::take(&mut *calls.lock().unwrap());
    let at = |calls: &[(Call, String)], call: Call, of: &str| calls.iter().position(|c| c.0 == call && c.1 == of);
    let (written, synced) = (at(&opened, Call::Write, USE), at(&opened, Call::Sync, USE));
    let removed = at(&opened, Call::Remove, MARKER);
    assert!(written.is_some() && written < synced && synced < removed, "{opened:?}");
    let says = |word: &str| fs::read_to_string(dir.path().join(USE)).unwrap().contains(word);
    assert!(says("\nlog o\n"));
    log.close().unwrap();
    let closed = std::mem::take(&mut *calls.lock().unwrap());
    let renamed = closed.iter().rposition(|(call, name)| *call == Call::Rename && name == MARKER).unwrap();
    assert_eq!(closed[renamed + 1].0, Call::SyncDir);
    let last: Vec<Call> = closed[renamed + 2..].iter().map(|(call, _)| *call).collect();
    assert_eq!(last, [Call::Write, Call::Sync], "{closed:?}");
    assert!(says("\nlog c\n"));
}

#[test]
fn an_owner_that_closes_the_log_meanwhile_is_not_taken_for_kafka() {
    let dir = ours();
    let owner = Log::open(dir.path(), config()).unwrap();
    append(&owner, "t");
    let owner = Mutex::new(Some(owner));
    let storage = Watched::new(move |call, path| {
        // Some of the files are read before it, and some after it.
        if call == Call::Read && watched::name(path) == "recovery-point-offset-checkpoint" {
            owner.lock().unwrap().take().into_iter().for_each(|log| log.close().unwrap());
        }
        Ok(())
    });
    let seen = Log::open_read_only_with(dir.path(), config().storage(storage)).unwrap();
    assert!(!seen.recovery_report().taken_over);
    assert_eq!(seen.partition("t", 0).unwrap().offsets().end, Offset::new(41));
}

#[test]
fn a_durable_position_that_is_no_end_of_a_batch_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    for n in 0..10 {
        partition.append_records([Record::new("key", &format!("value-{n}"))]).unwrap();
    }
    drop(partition);
    log.close().unwrap();
    // Killed at once: the log is open by what our file says, and `state` is that of the close.
    drop(Log::open(dir.path(), config()).unwrap());
    let mut whole = BatchBuilder::new().base_offset(Offset::ZERO);
    for n in 0..14 {
        let value = format!("value-{n}");
        whole.push(&Record::new("key", &value).at(Timestamp::from_millis(7)), Timestamp::from_millis(7)).unwrap();
    }
    // The same records in one batch and more of them, as a longer file.
    let mut bytes = whole.build().unwrap().as_bytes().to_vec();
    bytes.resize(bytes.len() + 2000, 0);
    fs::write(&logs(dir.path(), "t")[0], bytes).unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let report = &log.recovery_report().partitions[0];
    assert!(report.error.is_none() && report.cut.is_none(), "{report:?}");
    assert_eq!(values(&log.partition("t", 0).unwrap()), expected(0..14));
}

#[test]
fn a_larger_collection_is_read_as_kafka_reads_it() {
    let Some(collection) = kafka_samples::larger_collection("kafka44/golden/cleaned-by-kafka-since") else { return };
    let dir = tempfile::tempdir().unwrap();
    copy_into(&collection, dir.path());
    let log = Log::open(dir.path(), config()).unwrap();
    let expected = listing(&collection.join("expected.jsonl"));
    assert_same(&dump(&log.partition("w-cleantx", 0).unwrap(), Offset::ZERO, 1 << 20).0, &expected, "collection");
}

/// A power cut, or the end of the process, at any operation of taking over again and of the appends and the close after
/// it: the next open has all that Kafka had.
#[cfg(feature = "sim")]
#[test]
fn taking_over_again_can_be_interrupted_at_any_operation() {
    use std::collections::BTreeMap;

    use stratalog::sim::{Crash, Order, SimStorage};
    use stratalog::storage::{OpenMode, Storage};

    fn load(storage: &SimStorage, from: &Path, to: &Path) {
        storage.create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                load(storage, &entry.path(), &target);
            } else {
                let file = storage.open(&target, OpenMode::CreateNew).unwrap();
                file.write_at(&fs::read(entry.path()).unwrap(), 0).unwrap();
                file.sync().unwrap();
            }
        }
        storage.sync_dir(to).unwrap();
    }

    let on = |storage: &SimStorage| config().storage(Arc::new(storage.clone())).sync_threads(0).open_threads(Some(1));
    let show = |log: &Log| -> BTreeMap<String, Vec<String>> {
        assert!(log.recovery_report().failed.is_empty(), "{:?}", log.recovery_report().failed);
        let show = |topic: stratalog::Topic| {
            let partition = topic.partition(0).unwrap();
            assert!(partition.stats().error.is_none(), "{}: {:?}", topic.name(), partition.stats().error);
            (topic.name().to_owned(), if topic.name().starts_with('_') { Vec::new() } else { shown(&partition) })
        };
        log.topics().into_iter().map(show).collect()
    };
    for name in ["killed", "crashed-then-killed", "cleaned"] {
        let storage = SimStorage::new();
        storage.sync_dir(Path::new("/")).unwrap();
        load(&storage, &sample(name), Path::new("/log"));
        storage.sync_dir(Path::new("/")).unwrap();
        let states: Arc<Mutex<Vec<SimStorage>>> = Arc::default();
        let kept = Arc::clone(&states);
        let log = Log::open("/log", on(&storage.observed(move |state| kept.lock().unwrap().push(state)))).unwrap();
        let whole = show(&log);
        let topic = if name == "cleaned" { "w-cleantx" } else { "plain" };
        append(&log, topic);
        log.close().unwrap();
        let states = std::mem::take(&mut *states.lock().unwrap());
        assert!(states.len() > 40, "{}", states.len());
        for (at, state) in states.iter().enumerate() {
            let crash = |order| state.crash(&Crash { order, seed: at as u64 });
            for image in [state.kill(), crash(Order::Strict), crash(Order::Journaled)] {
                let mut found = show(&Log::open("/log", on(&image)).unwrap());
                let appended = found.get_mut(topic).unwrap();
                appended.truncate(whole[topic].len());
                assert!(found == whole, "{name}, before operation {at}: {found:?}");
            }
        }
    }
}
