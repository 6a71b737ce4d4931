//! A digest is believed only of the segment that it was made of, and finding that out costs no more than it must.

mod common;
#[path = "common/watched.rs"]
mod watched;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::clocked;
use stratalog::{
    Cleanup, CompactMode, CompactionReport, Log, LogConfig, Partition, Record, Severity, Timestamp, TopicConfig,
};
use tempfile::TempDir;
use watched::{Call, Watched, name};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const KEYS: u64 = 25;

fn config() -> LogConfig {
    clocked().0
}

/// Segments are compacted only where nearly all of them is garbage, and are too large to be joined.
fn compacted() -> TopicConfig {
    TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.9).segment_bytes(3000)
}

/// Appends a record for each key that begins with `letter`, and seals the segment.
fn append_keys(partition: &Partition, letter: char) {
    for key in 0..KEYS {
        let (key, value) = (format!("{letter}{key:02}"), format!("value of {letter}{key:02}"));
        partition.append_records([Record::new(&key, &value)]).unwrap();
    }
    partition.roll().unwrap();
}

fn compact(partition: &Partition) -> CompactionReport {
    partition.compact(NOW, CompactMode::Full).unwrap()
}

/// A log whose segments hold the keys of these letters, one each, all with digests; closed.
fn write(dir: &Path, letters: &str) {
    let log = Log::open(dir, config()).unwrap();
    let partition = log.create_topic("t", 1, compacted()).unwrap().partition(0).unwrap();
    letters.chars().for_each(|letter| append_keys(&partition, letter));
    let report = compact(&partition);
    assert_eq!((report.digests_built, report.segments_rewritten), (letters.len(), 0));
    log.close().unwrap();
}

fn segment(dir: &Path, at: u64, extension: &str) -> PathBuf {
    dir.join(format!("t-0/{:020}.{extension}", at * KEYS))
}

/// The keys that are there, in order.
fn keys(partition: &Partition) -> Vec<String> {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    let mut keys = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        keys.push(String::from_utf8(record.key.unwrap().to_vec()).unwrap());
    }
    keys
}

fn open(dir: &Path, config: LogConfig) -> (Log, Partition) {
    let log = Log::open(dir, config).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
    (log, partition)
}

/// A log of the keys a and b, in which the segment of a was restored in place by one of keys x: as long, of the same
/// offsets, in the same file.
fn with_a_restored_segment() -> TempDir {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(dir.path(), "ab");
    write(other.path(), "xb");
    for extension in ["log", "index", "timeindex"] {
        let (from, to) = (segment(other.path(), 0, extension), segment(dir.path(), 0, extension));
        let bytes = fs::read(from).unwrap();
        assert_eq!(bytes.len() as u64, fs::metadata(&to).unwrap().len());
        fs::write(to, bytes).unwrap();
    }
    dir
}

#[test]
fn the_records_of_a_segment_that_was_restored_in_place_outlive_a_compaction() {
    let dir = with_a_restored_segment();
    let (log, partition) = open(dir.path(), config());
    // By the digest of the segment that was there these keys leave nothing in it alive.
    append_keys(&partition, 'a');
    compact(&partition);
    let left = keys(&partition);
    let of = |letter: char| left.iter().filter(|key| key.starts_with(letter)).count() as u64;
    assert_eq!((of('x'), of('a'), of('b')), (KEYS, KEYS, KEYS), "{left:?}");
    log.close().unwrap();
}

#[test]
fn verify_tells_of_a_digest_that_is_not_of_its_segment() {
    let dir = with_a_restored_segment();
    let seen = Log::open_read_only_with(dir.path(), config()).unwrap();
    let report = seen.partition("t", 0).unwrap().verify().unwrap();
    let found: Vec<_> = report.findings.iter().map(|f| (f.severity, name(&f.path).to_owned())).collect();
    assert_eq!(found, [(Severity::Cache, name(&segment(dir.path(), 0, "digest")).to_owned())], "{:?}", report.findings);
    drop(seen);

    // It goes when the log is opened, and that one only.
    let (log, partition) = open(dir.path(), config());
    assert!(partition.verify().unwrap().findings.is_empty());
    assert!(!segment(dir.path(), 0, "digest").exists() && segment(dir.path(), 1, "digest").exists());
    log.close().unwrap();
}

/// Opens a log and drops it; tells which `.log` files were read meanwhile, by their bases.
fn read_by_an_open(dir: &Path) -> Vec<u64> {
    let read: Arc<Mutex<Vec<u64>>> = Arc::default();
    let seen = Arc::clone(&read);
    let storage = Watched::new(move |call, path| {
        if call == Call::Read
            && let Some(base) = name(path).strip_suffix(".log")
        {
            seen.lock().unwrap().push(base.parse().unwrap());
        }
        Ok(())
    });
    let (log, _) = open(dir, config().storage(storage));
    drop(log);
    let mut read = std::mem::take(&mut *read.lock().unwrap());
    read.dedup();
    read
}

fn digests(dir: &Path, segments: u64) -> Vec<bool> {
    (0..segments).map(|at| segment(dir, at, "digest").exists()).collect()
}

#[test]
fn segments_are_walked_once_where_they_are_not_the_known_files_and_their_digests_stay() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "abcd");
    let all = [0, KEYS, 2 * KEYS, 3 * KEYS];
    let sealed = |read: Vec<u64>| read.into_iter().filter(|base| all.contains(base)).collect::<Vec<_>>();
    for _ in 0..2 {
        assert_eq!(sealed(read_by_an_open(dir.path())), []);
    }
    // A link changes neither the file nor its time.
    fs::hard_link(segment(dir.path(), 1, "log"), dir.path().join("a link")).unwrap();
    assert_eq!(sealed(read_by_an_open(dir.path())), []);

    // The files of a copy are others, with the same content.
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    assert_eq!(sealed(read_by_an_open(copied.path())), all);
    assert_eq!(sealed(read_by_an_open(copied.path())), [], "it is known now, though nobody closed it");
    assert_eq!(digests(copied.path(), 4), [true; 4]);
    let (log, partition) = open(copied.path(), config());
    assert_eq!(compact(&partition).digests_built, 0);
    log.close().unwrap();

    // One that was written again, as it is, is walked alone.
    let path = segment(copied.path(), 2, "log");
    fs::write(&path, fs::read(&path).unwrap()).unwrap();
    assert_eq!(sealed(read_by_an_open(copied.path())), [2 * KEYS]);
    assert_eq!(sealed(read_by_an_open(copied.path())), []);
    assert_eq!(digests(copied.path(), 4), [true; 4]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
