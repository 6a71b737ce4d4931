//! `Partition::verify` finds what is wrong, and only that.

use std::fs;
use std::path::{Path, PathBuf};

use stratalog::config::{Clock, SystemClock};
use stratalog::storage::FileSystem;
use stratalog::{
    Cleanup, CompactMode, Log, LogConfig, Offset, Partition, Record, Severity, TopicConfig, VerifyReport, inspect,
};

const RECORDS: u64 = 300;

fn config() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

fn write_log(dir: &Path) -> (Log, Partition) {
    let log = Log::open(dir, config()).unwrap();
    let topic = TopicConfig::new().segment_bytes(4096).index_interval_bytes(256).cleanup(Cleanup::Delete);
    log.create_topic("t", 1, topic).unwrap();
    let partition = log.partition("t", 0).unwrap();
    for n in 0..RECORDS {
        partition.append_records([Record::new(&format!("key-{n}"), &format!("value-{n}"))]).unwrap();
    }
    (log, partition)
}

fn verify_read_only(dir: &Path) -> VerifyReport {
    let log = Log::open_read_only_with(dir, config()).unwrap();
    let partition = log.topics()[0].partitions().remove(0);
    partition.verify().unwrap()
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let files = inspect::files(&FileSystem::new(), &dir.join("t-0")).unwrap();
    files.into_iter().filter(|file| file.is_log()).map(|file| file.path).collect()
}

fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_sound_partition_has_no_findings_open_or_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = write_log(dir.path());
    let open = partition.verify().unwrap();
    assert_eq!(open.findings, []);
    assert_eq!((open.batches, open.records), (RECORDS, RECORDS));
    partition.flush().unwrap();
    partition.truncate(Offset::new(200)).unwrap();
    partition.delete_before(Offset::new(50)).unwrap();
    assert_eq!(partition.verify().unwrap().findings, []);
    log.close().unwrap();
    let closed = verify_read_only(dir.path());
    assert_eq!(closed.findings, []);
    assert!(closed.index_entries > 10 && closed.segments > 2);
}

#[test]
fn a_flipped_bit_is_found_in_an_open_partition_and_in_a_degraded_one() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = write_log(dir.path());
    partition.flush().unwrap();
    let path = logs(dir.path()).remove(2);
    flip(&path, 75);
    let report = partition.verify().unwrap();
    let [finding] = &report.findings[..] else { panic!("{report:?}") };
    assert_eq!((finding.severity, finding.path.as_path(), finding.position), (Severity::Data, path.as_path(), Some(0)));
    drop((partition, log));
    // Structural damage below the watermark, which opening notices.
    flip(&path, 16);
    fs::remove_file(dir.path().join("t-0/state")).unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert!(partition.stats().error.is_some(), "degraded");
    let report = partition.verify().unwrap();
    assert!(report.findings.iter().any(|f| f.severity == Severity::Data && f.path == path && f.position == Some(0)));
    assert!(report.batches > RECORDS - 5, "what lies behind the damage is checked too");
}

#[test]
fn damaged_indexes_are_found_and_told_apart_from_lost_data() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = write_log(dir.path());
    drop(partition);
    log.close().unwrap();
    for (extension, position) in [("index", 7), ("timeindex", 5)] {
        let path = logs(dir.path())[1].with_extension(extension);
        flip(&path, position);
        let report = verify_read_only(dir.path());
        assert!(!report.findings.is_empty(), "{extension}");
        assert!(report.findings.iter().all(|f| f.severity == Severity::Cache && f.path == path), "{report:?}");
        flip(&path, position);
    }
    assert_eq!(verify_read_only(dir.path()).findings, []);
}

#[test]
fn a_missing_segment_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = write_log(dir.path());
    partition.flush().unwrap();
    drop((partition, log));
    fs::remove_file(&logs(dir.path())[2]).unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let report = log.partition("t", 0).unwrap().verify().unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(report.findings[0].what.contains("missing"), "{report:?}");
}

#[test]
fn what_kafka_wrote_has_no_findings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-golden");
    let mut checked = 0;
    for entry in fs::read_dir(root).unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let name = entry.as_ref().unwrap().file_name();
        copy_dir(&entry.unwrap().path(), dir.path());
        let report = verify_read_only(dir.path());
        assert_eq!(report.findings, [], "{name:?}");
        assert!(report.batches > 0, "{name:?}");
        checked += 1;
    }
    assert!(checked >= 8);
}

#[test]
fn a_log_that_was_compacted_and_closed_is_well_when_it_is_opened_for_reading() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let topic = TopicConfig::new().segment_bytes(1024).cleanup(Cleanup::Compact);
    log.create_topic("prices", 1, topic).unwrap();
    let partition = log.partition("prices", 0).unwrap();
    for n in 0..200 {
        partition.append_records([Record::new("key", &format!("value-{n}"))]).unwrap();
        if n % 60 == 59 {
            partition.compact(SystemClock.now(), CompactMode::Full).unwrap();
        }
    }
    partition.compact(SystemClock.now(), CompactMode::Full).unwrap();
    drop(partition);
    log.close().unwrap();
    // Compacted again after `state` was written.
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition("prices", 0).unwrap();
    partition.append_records([Record::new("key", "newest")]).unwrap();
    partition.compact(SystemClock.now(), CompactMode::Full).unwrap();
    drop(partition);
    log.close().unwrap();
    let report = Log::open_read_only(dir.path()).unwrap().partition("prices", 0).unwrap().verify().unwrap();
    assert_eq!(report.findings, []);
}
