//! Files at their bounds: mappings within their budget, indexes that are full, windows that are switched off, locks of
//! other programs.
#![cfg(feature = "sim")]

mod common;
#[path = "common/watched.rs"]
mod watched;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{append, expected, quiet, read};
use stratalog::sim::{Call, Calls, SimStorage};
use stratalog::storage::{FileSystem, OpenMode, Reserve, Reserved, Sizes, Storage};
use stratalog::{
    Budget, Cleanup, ErrorKind, FetchOptions, Log, LogConfig, Offset, Partition, Record, RecordBatch, Timestamp,
    TopicConfig,
};
use watched::Watched;

fn config(storage: &SimStorage) -> LogConfig {
    quiet().storage(Arc::new(storage.clone())).sync_threads(0).open_threads(Some(1))
}

fn open(config: LogConfig, topic: TopicConfig) -> (Log, Partition) {
    let log = Log::open("/log", config).unwrap();
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    (log, partition)
}

fn append_bytes(partition: &Partition, len: usize) {
    let value = "x".repeat(len);
    partition.append_records([Record::new("k", &value)]).unwrap();
}

/// Small enough for a few records to come to windows.
const SIZES: Sizes = Sizes {
    window_min: 8192,
    window_max: 8192,
    mapped_write_max: 600,
    zeroed_write_max: 4000,
    zeroed_piece: 1024,
    ahead_write_max: 0,
    windows_ahead: 1,
    writes_before_window: 1,
    map_growth_min: 1 << 20,
};

#[test]
fn a_segment_that_is_read_is_mapped_in_the_place_of_one_that_is_not() {
    let storage = SimStorage::new();
    let (log, partition) = open(config(&storage).max_mapped_bytes(1500), TopicConfig::new());
    for _ in 0..2 {
        append_bytes(&partition, 1000);
        partition.roll().unwrap();
    }
    partition.flush().unwrap();
    let reads = |from: u64| {
        storage.set_fault(None);
        partition.fetch(Offset::new(from), FetchOptions { max_bytes: 1, ..FetchOptions::default() }).unwrap();
        storage.calls(Calls::Only(Call::Read))
    };
    for from in [0, 1, 0] {
        assert!(reads(from) > 0, "it takes the place of the other");
        assert_eq!(reads(from), 0, "it is mapped");
        let mapped = log.stats().mapped_bytes;
        assert!((1000..=1500).contains(&mapped), "{mapped} bytes are mapped");
    }
}

#[test]
fn a_segment_is_sealed_when_its_index_is_full() {
    let storage = SimStorage::new();
    // 256 bytes are 21 entries of the time index; one is kept for the seal, and one for what is about to be written.
    let topic = TopicConfig::new().index_interval_bytes(64).segment_index_bytes(256);
    let (_log, partition) = open(config(&storage), topic);
    append(&partition, 100);
    let segments = partition.stats().segments;
    assert!((5..=6).contains(&segments), "{segments} segments of about 19 records");
    assert_eq!(read(&partition, 0), expected(0..100));
    drop(partition);
    for (path, len) in storage.files() {
        let is_index = path.extension().is_some_and(|extension| extension == "timeindex");
        assert!(!is_index || len <= 256, "{path:?} has {len} bytes");
    }
}

#[test]
fn windows_that_are_switched_off_are_made_no_more_in_the_segment_that_is_written() {
    let storage = SimStorage::new();
    storage.set_sizes(SIZES);
    let (log, partition) = open(config(&storage), TopicConfig::new());
    (0..4).for_each(|_| append_bytes(&partition, 200));
    let windows = |partition: &Partition| {
        storage.set_fault(None);
        (0..100).for_each(|_| append_bytes(partition, 200));
        storage.calls(Calls::Only(Call::Map))
    };
    assert!(windows(&partition) > 0);
    log.topic("t").unwrap().set_config(TopicConfig::new().append_windows(false)).unwrap();
    assert_eq!(windows(&partition), 0);
    assert_eq!(partition.stats().segments, 1);
    log.topic("t").unwrap().set_config(TopicConfig::new()).unwrap();
    assert!(windows(&partition) > 0);
    assert_eq!(storage.take_violations(), Vec::<String>::new());
}

#[test]
fn what_was_written_by_a_call_within_a_window_can_be_held() {
    let storage = SimStorage::new();
    storage.set_sizes(SIZES);
    let (_log, partition) = open(config(&storage), TopicConfig::new());
    for _ in 0..6 {
        // Small ones fill a window; the large one crosses its end.
        (0..20).for_each(|_| append_bytes(&partition, 200));
        append_bytes(&partition, 5000);
        let fetch = partition.fetch(Offset::ZERO, FetchOptions::default()).unwrap();
        let region = fetch.region().expect("its file can be held");
        assert_eq!(region.len() as usize, fetch.len());
    }
    assert_eq!(storage.take_violations(), Vec::<String>::new());
}

#[test]
fn after_a_truncation_that_was_refused_the_file_is_held_as_before() {
    let storage = SimStorage::new();
    let (_log, partition) = open(config(&storage), TopicConfig::new());
    append(&partition, 40);
    partition.flush().unwrap();
    let held = partition.fetch(Offset::ZERO, FetchOptions::default()).unwrap();
    assert!(held.region().is_some());
    storage.set_free_space(Some(0));
    assert_eq!(*partition.truncate(Offset::new(30)).unwrap_err().kind(), ErrorKind::DiskFull);
    let again = partition.fetch(Offset::ZERO, FetchOptions::default()).unwrap();
    assert!(again.region().is_some(), "nothing is about to be cut");
    assert_eq!(again.len(), held.len());
    storage.set_free_space(None);
    partition.truncate(Offset::new(30)).unwrap();
    assert_eq!(storage.take_violations(), Vec::<String>::new());
}

#[test]
fn a_partition_that_starts_over_has_no_leader_epoch() {
    let storage = SimStorage::new();
    let (_log, partition) = open(config(&storage), TopicConfig::new());
    for epoch in [2, 5] {
        partition.set_leader_epoch(epoch).unwrap();
        append(&partition, 3);
    }
    assert_eq!(partition.end_offset_for_epoch(2), Some((2, Offset::new(3))));
    partition.reset_to(Offset::new(100)).unwrap();
    assert_eq!(partition.end_offset_for_epoch(5), None);
    let again = Log::open("/log", config(&storage.kill())).unwrap();
    assert_eq!(again.partition("t", 0).unwrap().end_offset_for_epoch(5), None);
}

#[test]
fn space_is_reserved_to_the_byte_and_mapped_only_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (map, how) in [(true, Reserve::Zeroed), (false, Reserve::Zeroed), (false, Reserve::Mapped)] {
        let path = dir.path().join(format!("{map}-{how:?}"));
        let file = FileSystem::new().map(map).open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(&[7; 100], 0).unwrap();
        let len = 3_000_000;
        match file.reserve(100, len, how).unwrap() {
            Reserved::Space => assert_eq!((how, fs::metadata(&path).unwrap().len()), (Reserve::Zeroed, 100 + len)),
            Reserved::Nothing => assert_eq!((how, fs::metadata(&path).unwrap().len()), (Reserve::Mapped, 100)),
            Reserved::Window(_) => panic!("{map} {how:?}: nobody asked for a window"),
        }
        let bytes = fs::read(&path).unwrap();
        assert!(bytes[..100].iter().all(|byte| *byte == 7) && bytes[100..].iter().all(|byte| *byte == 0));
    }
}

const LOCKED_BY_CHILD: &str = "STRATALOG_TEST_LOCKED";

/// A JVM locks a file by a record lock, which one process cannot see of itself: a child has it.
#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_another_program_has_locked_is_not_opened() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    if let Some(path) = std::env::var_os(LOCKED_BY_CHILD) {
        let file = fs::File::options().write(true).open(path).unwrap();
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        println!("\nlocked");
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = || Log::open(dir.path(), quiet());
    open().unwrap().close().unwrap();
    let this = "a_directory_that_another_program_has_locked_is_not_opened";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(LOCKED_BY_CHILD, dir.path().join(".lock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "locked"), "the child has the lock");
    assert_eq!(*open().unwrap_err().kind(), ErrorKind::Locked);
    drop(child.stdin.take());
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    open().unwrap().close().unwrap();
}

#[test]
fn a_close_leaves_the_largest_timestamp_at_the_end_of_the_time_index() {
    let storage = SimStorage::new();
    let (log, partition) = open(config(&storage), TopicConfig::new());
    for millis in [5, 9, 7] {
        let timestamp = Some(stratalog::Timestamp::from_millis(millis));
        partition.append_records([Record { timestamp, ..Record::new("k", "v") }]).unwrap();
    }
    log.close().unwrap();
    let index = storage.contents(std::path::Path::new("/log/t-0/00000000000000000000.timeindex")).unwrap();
    let entries: Vec<i64> = index.chunks(12).map(|e| i64::from_be_bytes(e[..8].try_into().unwrap())).collect();
    assert_eq!(entries.last(), Some(&9), "whoever goes on from here knows no other: {entries:?}");
}

/// A kill leaves no file half written that `verify` would tell of.
#[test]
fn a_kill_before_any_call_leaves_nothing_that_verify_tells_of() {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let images = tempfile::tempdir().unwrap();
    let (dir, copies) = (images.path().join("log"), images.path().to_path_buf());
    let calls = Arc::new(AtomicUsize::new(0));
    let storage = Watched::new({
        let (dir, calls) = (dir.clone(), Arc::clone(&calls));
        move |_, _| {
            let number = calls.fetch_add(1, Ordering::SeqCst);
            copy_log(&dir, &copies.join(number.to_string()));
            Ok(())
        }
    });
    let config =
        |storage: Arc<dyn Storage>| LogConfig::new().storage(storage).sync_threads(0).maintenance_interval(None);
    let log = Log::open(&dir, config(storage).checkpoint_bytes(4096)).unwrap();
    let topic = TopicConfig::new().segment_bytes(8192).cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    let topic = topic.append_windows(false);
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    for sequence in 0..14 {
        let mut batch = RecordBatch::builder().producer(7, 0, sequence);
        batch.push(&Record::new(&format!("k{}", sequence % 5), &"v".repeat(900)), now).unwrap();
        partition.append(&batch.build().unwrap()).unwrap();
        if sequence % 3 == 2 {
            partition.flush().unwrap();
        }
    }
    partition.roll().unwrap();
    log.maintain(now, Budget::default()).unwrap();
    partition.truncate(Offset::new(12)).unwrap();
    partition.delete_before(Offset::new(5)).unwrap();
    log.maintain(now, Budget::default()).unwrap();
    log.close().unwrap();
    let images_taken = calls.load(Ordering::SeqCst);
    assert!(images_taken > 100, "{images_taken} calls");
    for number in 0..images_taken {
        let image = images.path().join(number.to_string());
        let Ok(log) = Log::open(&image, config(Arc::new(FileSystem::new()))) else { continue };
        let Some(partition) = log.partition("t", 0) else { continue };
        let findings = partition.verify().unwrap().findings;
        assert!(findings.is_empty(), "before call {number}: {findings:?}");
    }
}

fn copy_log(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).into_iter().flatten() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_log(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}
