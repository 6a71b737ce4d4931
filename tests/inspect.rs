//! Looking into directories that nobody opened: ours, Kafka's, damaged ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stratalog::config::{Clock, SystemClock};
use stratalog::format::file_name::SegmentFileKind;
use stratalog::inspect::{self, Content, Depth, Due, Entry, Kind, Located};
use stratalog::storage::FileSystem;
use stratalog::{Cleanup, CompactMode, ErrorKind, Log, LogConfig, Offset, Record, TopicConfig};

const RECORDS: u64 = 200;

fn write_log(dir: &Path) -> Log {
    let log = Log::open(dir, LogConfig::new().min_free_bytes(0).maintenance_interval(None)).unwrap();
    let config = TopicConfig::new().segment_bytes(4096).index_interval_bytes(256);
    log.create_topic("orders", 1, config).unwrap();
    let partition = log.partition("orders", 0).unwrap();
    for n in 0..RECORDS {
        partition.append_records([Record::new(&format!("key-{n}"), &format!("value-{n}"))]).unwrap();
    }
    log
}

fn log_files(partition: &Path) -> Vec<PathBuf> {
    let files = inspect::files(&FileSystem::new(), partition).unwrap();
    files.into_iter().filter(|file| file.is_log()).map(|file| file.path).collect()
}

fn entries(path: &Path) -> Vec<Entry> {
    inspect::batches(&FileSystem::new(), path).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_directory_is_shown_while_its_owner_runs_and_after_it_closed() {
    let dir = tempfile::tempdir().unwrap();
    let log = write_log(dir.path());
    let running = inspect::open(dir.path()).unwrap();
    assert_eq!((running.kind, running.closed_cleanly), (Kind::Ours, false));
    log.close().unwrap();

    let directory = inspect::open(dir.path()).unwrap();
    assert_eq!((directory.kind, directory.closed_cleanly), (Kind::Ours, true));
    assert!(directory.meta.as_ref().unwrap().is_ok());
    assert!(directory.unknown.is_empty(), "{:?}", directory.unknown);
    let topic = directory.topic("orders").unwrap();
    assert_eq!(topic.partitions, [0]);
    assert!(topic.config.contains(&("segment.bytes", "4096".to_owned())));
    assert_eq!(directory.checkpoints.len(), 4);
    let ends: Vec<_> = directory.checkpoints.iter().flat_map(|file| file.entries.as_ref().unwrap()).collect();
    assert!(ends.iter().any(|entry| entry.topic == "orders" && entry.offset == Offset::new(RECORDS)));

    let partition = &directory.partitions[0].path;
    let storage = FileSystem::new();
    let state = inspect::state(&storage, partition).unwrap().unwrap();
    assert!(state.slots.iter().all(Result::is_ok));
    assert_eq!(state.newest().unwrap().durable_end, Offset::new(RECORDS));
    let mut records = 0;
    for path in log_files(partition) {
        for entry in entries(&path) {
            let Entry::Batch { batch, .. } = entry else { panic!("{entry:?}") };
            records += u64::from(batch.header().count);
        }
    }
    assert_eq!(records, RECORDS);
    for file in inspect::files(&storage, partition).unwrap() {
        match file.segment().map(|(_, kind, _)| kind) {
            Some(SegmentFileKind::OffsetIndex) => {
                let entries = inspect::offset_index(&storage, &file.path).unwrap().map(Result::unwrap);
                assert_eq!(entries.count() as u64 * 8, file.len);
            }
            Some(SegmentFileKind::TimeIndex) => {
                let entries = inspect::time_index(&storage, &file.path).unwrap().map(Result::unwrap);
                assert_eq!(entries.count() as u64 * 12, file.len);
            }
            _ => assert!(file.parsed.is_some(), "{}", file.name),
        }
    }
}

#[test]
fn batches_behind_damage_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path()).close().unwrap();
    let path = log_files(&dir.path().join("orders-0")).remove(0);
    let whole = entries(&path);
    let starts: Vec<u64> = whole
        .iter()
        .map(|entry| match entry {
            Entry::Batch { position, .. } => *position,
            other => panic!("{other:?}"),
        })
        .collect();
    let mut bytes = fs::read(&path).unwrap();
    bytes[starts[3] as usize + 70] ^= 1;
    bytes[starts[5] as usize + 8] = 0x7f;
    let cut = bytes.len() - 5;
    bytes.truncate(cut);
    fs::write(&path, &bytes).unwrap();

    let found = entries(&path);
    assert_eq!(found.len(), whole.len());
    for (at, entry) in found.iter().enumerate() {
        let next = (at + 1 < whole.len()).then(|| starts[at + 1]);
        match entry {
            Entry::Damage { position, resumes_at, .. } if [3, 5, whole.len() - 1].contains(&at) => {
                assert_eq!((*position, *resumes_at), (starts[at], next));
            }
            entry => assert_eq!(*entry, whole[at]),
        }
    }
}

#[test]
fn reserved_space_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path()).close().unwrap();
    let path = log_files(&dir.path().join("orders-0")).remove(0);
    let len = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len + 3_000_000).unwrap();
    assert_eq!(entries(&path).last(), Some(&Entry::Zeros { position: len, len: 3_000_000 }));
}

#[test]
fn a_directory_of_kafka_is_shown_with_all_that_it_keeps() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-golden/transactions");
    let storage = FileSystem::new();
    let directory = inspect::open(&root).unwrap();
    assert_eq!(directory.kind, Kind::Kafka);
    assert!(directory.meta.is_none() && directory.topics.is_none());
    let partition = &directory.partitions[0].path;
    let mut seen = Vec::new();
    for file in inspect::files(&storage, partition).unwrap() {
        let Some((_, kind, _)) = file.segment() else { continue };
        let count = match kind {
            SegmentFileKind::Log => entries(&file.path).len(),
            SegmentFileKind::TxnIndex => inspect::aborted_transactions(&storage, &file.path).unwrap().flatten().count(),
            SegmentFileKind::Snapshot => inspect::snapshot(&storage, &file.path).unwrap().len(),
            _ => continue,
        };
        assert!(count > 0, "{}", file.name);
        seen.push(kind);
    }
    assert!(seen.contains(&SegmentFileKind::TxnIndex) && seen.contains(&SegmentFileKind::Snapshot));
    assert!(inspect::state(&storage, partition).unwrap().is_none());
}

#[test]
fn what_is_neither_ours_nor_kafkas_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "hello").unwrap();
    let directory = inspect::open(dir.path()).unwrap();
    assert_eq!((directory.kind, directory.unknown), (Kind::Neither, vec!["notes.txt".to_owned()]));
    let error = inspect::open(dir.path().join("nothing")).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Io(std::io::ErrorKind::NotFound));
}

#[test]
fn damaged_files_have_their_error_in_their_place() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path()).close().unwrap();
    fs::write(dir.path().join("stratalog.meta"), "nonsense").unwrap();
    fs::write(dir.path().join("stratalog.topics"), "nonsense").unwrap();
    fs::write(dir.path().join("log-start-offset-checkpoint"), "nonsense").unwrap();
    fs::write(dir.path().join("orders-0/state"), "nonsense").unwrap();
    let directory = inspect::open(dir.path()).unwrap();
    assert!(directory.meta.unwrap().unwrap_err().is_corruption());
    assert!(directory.topics.unwrap().unwrap_err().is_corruption());
    assert!(directory.checkpoints.iter().any(|file| file.entries.is_err()));
    let state = inspect::state(&FileSystem::new(), &dir.path().join("orders-0")).unwrap().unwrap();
    assert!(state.newest().is_none());
}

/// The same as [`write_log`], of a compacted topic with tombstones, and compacted.
fn write_compacted(dir: &Path) {
    let log = Log::open(dir, LogConfig::new().min_free_bytes(0).maintenance_interval(None)).unwrap();
    let config = TopicConfig::new().segment_bytes(2048).cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.1);
    log.create_topic("prices", 1, config).unwrap();
    let partition = log.partition("prices", 0).unwrap();
    for n in 0..200 {
        let (key, value) = (format!("key-{}", n % 7), format!("value-{n}"));
        let record = if n % 10 == 0 { Record::tombstone(&key) } else { Record::new(&key, &value) };
        partition.append_records([record]).unwrap();
    }
    partition.compact(SystemClock.now(), CompactMode::Full).unwrap();
    partition.append_records([Record::new("key", "value")]).unwrap();
    log.close().unwrap();
}

#[test]
fn segments_are_told_of_the_same_from_what_is_known_and_from_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    write_compacted(dir.path());
    let storage = FileSystem::new();
    let path = dir.path().join("prices-0");
    let look = |depth| inspect::segments(&storage, &path, depth).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let (known, read) = (look(Depth::Known), look(Depth::Records));
    assert!(known.len() >= 2 && known.iter().any(|segment| segment.digest.is_some()), "{known:?}");
    for (known, read) in known.iter().zip(&read) {
        assert_eq!((known.base, known.end, known.log_bytes), (read.base, read.end, read.log_bytes));
        assert_eq!(known.max_timestamp, read.max_timestamp);
        assert_eq!(known.first_timestamp, read.first_timestamp);
        if let Some(digest) = &known.digest {
            assert_eq!((known.records, known.batches), (read.records, read.batches));
            assert!(digest.counts.tombstones <= read.tombstones.unwrap());
        }
        assert!(read.damage.is_empty());
    }
    let ends: Vec<_> = read.iter().map(|segment| (segment.base, segment.end, segment.is_last)).collect();
    assert_eq!(ends.last().map(|last| (last.1, last.2)), Some((Offset::new(201), true)));
    assert!(ends.iter().rev().skip(1).all(|(.., is_last)| !is_last));
}

#[test]
fn a_digest_is_read_to_its_last_entry_and_damage_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    write_compacted(dir.path());
    let storage = FileSystem::new();
    let files = inspect::files(&storage, &dir.path().join("prices-0")).unwrap();
    let file = files
        .iter()
        .find(|file| matches!(file.segment(), Some((_, SegmentFileKind::Digest, _))))
        .expect("a compaction leaves digests");
    let digest = inspect::digest(&storage, &file.path).unwrap();
    let entries: Vec<_> = digest.entries().collect::<Result<_, _>>().unwrap();
    assert_eq!(entries.len() as u64, digest.footer.counts.keys);
    assert!(!entries.is_empty() && entries.is_sorted_by_key(|entry| entry.hash()));
    let mut bytes = fs::read(&file.path).unwrap();
    bytes[5] ^= 1;
    fs::write(&file.path, &bytes).unwrap();
    let damaged = inspect::digest(&storage, &file.path).unwrap();
    let found: Vec<_> = damaged.entries().collect();
    assert!(found.len() == 1 && found[0].as_ref().unwrap_err().is_corruption());
    bytes.truncate(bytes.len() - 1);
    fs::write(&file.path, &bytes).unwrap();
    assert!(inspect::digest(&storage, &file.path).unwrap_err().is_corruption());
}

#[test]
fn a_path_is_known_for_what_it_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path()).close().unwrap();
    let storage = FileSystem::new();
    let locate = |path: &str| inspect::locate(&storage, &dir.path().join(path));
    assert!(matches!(locate(".").unwrap(), Located::Log(found) if found.kind == Kind::Ours));
    let named = Some(("orders".to_owned(), 0));
    assert!(matches!(locate("orders-0").unwrap(), Located::Partition { name, .. } if name == named));
    for (path, expected) in [
        ("orders-0/state", Some(Content::State)),
        ("orders-0/partition.metadata", Some(Content::PartitionMetadata)),
        ("stratalog.meta", Some(Content::Meta)),
        ("stratalog.topics", Some(Content::Topics)),
        ("stratalog.use", Some(Content::Usage)),
        ("log-start-offset-checkpoint", Some(Content::OffsetCheckpoint)),
        (".lock", None),
    ] {
        let Located::File { content, partition, .. } = locate(path).unwrap() else { panic!("{path}") };
        assert_eq!((content, partition.is_some()), (expected, path.starts_with("orders-0/")), "{path}");
    }
    assert!(locate("nothing").is_err());
    let directory = inspect::open(dir.path()).unwrap();
    assert_eq!((directory.select("orders").len(), directory.select("orders-0").len()), (1, 1));
    assert!(directory.select("orders-1").is_empty() && !directory.is_empty() && directory.errors().is_empty());
}

#[test]
fn what_time_will_bring_is_told_from_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path()).close().unwrap();
    let storage = FileSystem::new();
    let segments = inspect::segments(&storage, &dir.path().join("orders-0"), Depth::Known).unwrap();
    let segments: Vec<_> = segments.map(Result::unwrap).collect();
    let config = TopicConfig::new().retention_age(Some(Duration::from_secs(60)));
    let newest = segments[0].max_timestamp.unwrap();
    let due: Vec<_> = segments[0].deadlines(&config);
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].what, due[0].at), (Due::Retention, newest.plus_millis(60_001)));
    let active = segments.last().unwrap();
    assert!(active.deadlines(&config).iter().any(|deadline| deadline.what == Due::Roll));
    assert!(segments[0].deadlines(&TopicConfig::new()).is_empty());
}
