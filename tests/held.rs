//! Bytes that were handed out stay as they were: through truncations, through a close and an open in the same process,
//! and on a full disk.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use common::{append, expected, quiet, read};
use stratalog::storage::{FileSystem, OpenMode, Reserve, Reserved, Storage};
use stratalog::{ErrorKind, Fetch, FetchOptions, Log, LogConfig, Offset, Partition, Record, TopicConfig};

/// Everything in one segment, which is mapped as soon as it is read.
fn open(dir: &Path) -> (Log, Partition) {
    open_with(dir, quiet().sync_threads(0))
}

fn open_with(dir: &Path, config: LogConfig) -> (Log, Partition) {
    let log = Log::open(dir, config).unwrap();
    let partition = log.partition("t", 0);
    let partition = partition.unwrap_or_else(|| log.create_partition("t", 0, TopicConfig::new()).unwrap());
    (log, partition)
}

/// More than is mapped of an active segment at the least.
fn fill(partition: &Partition) {
    let value = vec![b'v'; 50_000];
    for _ in 0..40 {
        partition.append_records([Record::new("k", &value)]).unwrap();
    }
}

fn fetch(partition: &Partition) -> (Fetch, Vec<u8>) {
    let options = FetchOptions { max_bytes: 8 << 20, ..FetchOptions::default() };
    let fetch = partition.fetch(Offset::ZERO, options).unwrap();
    let bytes = bytes(&fetch);
    assert!(bytes.len() > 1_900_000);
    (fetch, bytes)
}

fn bytes(fetch: &Fetch) -> Vec<u8> {
    fetch.chunks().flatten().copied().collect()
}

/// What lies in the file of a fetch, where its region says.
fn in_file(fetch: &Fetch) -> Vec<u8> {
    let region = fetch.region().expect("something was fetched");
    let file = File::from(region.descriptor().unwrap().try_clone_to_owned().unwrap());
    let mut bytes = vec![0; region.len() as usize];
    file.read_exact_at(&mut bytes, region.position()).unwrap();
    bytes
}

#[test]
fn bytes_fetched_before_a_close_survive_a_truncation_by_the_next_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = open(dir.path());
    fill(&partition);
    let (fetched, before) = fetch(&partition);
    drop(partition);
    log.close().unwrap();
    let (_log, partition) = open(dir.path());
    partition.truncate(Offset::new(3)).unwrap();
    assert_eq!(bytes(&fetched), before);
    assert_eq!(in_file(&fetched), before, "the region's file is as it was");
    // What is appended now lies where the fetched bytes lay.
    fill(&partition);
    assert_eq!(bytes(&fetched), before);
    assert_eq!(in_file(&fetched), before);
    assert_eq!(partition.offsets().end, Offset::new(43));
    assert_eq!(partition.verify().unwrap().findings, vec![]);
}

#[test]
fn bytes_fetched_from_a_log_that_was_dropped_survive_a_truncation_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = open(dir.path());
    fill(&partition);
    let (fetched, before) = fetch(&partition);
    drop((partition, log));
    let (log, partition) = open(dir.path());
    partition.truncate(Offset::new(20)).unwrap();
    partition.reset_to(Offset::new(5)).unwrap();
    fill(&partition);
    assert_eq!((bytes(&fetched), in_file(&fetched)), (before.clone(), before));
    log.close().unwrap();
}

#[test]
fn a_region_alone_keeps_its_file_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = open(dir.path());
    append(&partition, 50);
    let fetched = partition.fetch(Offset::ZERO, FetchOptions::default()).unwrap();
    let before = in_file(&fetched);
    partition.truncate(Offset::new(10)).unwrap();
    append(&partition, 30);
    assert_eq!(in_file(&fetched), before);
    drop(partition);
    log.close().unwrap();
    let (_log, partition) = open(dir.path());
    partition.truncate(Offset::new(1)).unwrap();
    append(&partition, 60);
    assert_eq!(in_file(&fetched), before);
    assert_eq!(read(&partition, 0), expected(0..61));
}

#[test]
fn a_torn_tail_that_somebody_still_has_is_cut_off_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = open(dir.path());
    fill(&partition);
    let (fetched, before) = fetch(&partition);
    drop((partition, log));
    // The last batch is damaged, as a failing medium may leave it: the mapping shows that, but is not cut.
    let path = dir.path().join("t-0/00000000000000000000.log");
    let file = File::options().write(true).open(&path).unwrap();
    let at = before.len() as u64 - 10;
    file.write_all_at(&[!before[at as usize]], at).unwrap();
    let (_log, partition) = open(dir.path());
    assert_eq!(partition.offsets().end, Offset::new(39));
    let now = bytes(&fetched);
    assert_eq!(now.len(), before.len());
    append(&partition, 1);
    assert_eq!(bytes(&fetched), now);
}

/// The seam itself: none of this can change bytes that a safe program refers to.
#[test]
fn a_file_refuses_to_change_what_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileSystem::new();
    let path = dir.path().join("file");
    let file = storage.open(&path, OpenMode::CreateNew).unwrap();
    let other = storage.open(&path, OpenMode::Write).unwrap();
    file.write_at(b"0123456789", 0).unwrap();
    let map = file.map(8).unwrap().expect("it is mapped");
    let busy = |done: std::io::Result<()>| done.is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy);
    for handle in [&file, &other] {
        assert!(busy(handle.write_at(b"x", 7)));
        assert!(busy(handle.write_vectored_at(&[b"67", b"89"], 7)));
        assert!(busy(handle.set_len(7)));
        assert!(busy(handle.reserve(6, 10, Reserve::Zeroed).map(drop)));
        assert_eq!(handle.held(), 8);
        // The same bytes, and all that lies behind.
        handle.write_at(b"67yz", 6).unwrap();
        handle.write_vectored_at(&[b"6", b"7yz"], 6).unwrap();
        handle.set_len(8).unwrap();
        handle.set_len(10).unwrap();
    }
    assert_eq!(&map[..], b"01234567");
    drop(map);
    file.write_at(b"x", 7).unwrap();
    file.set_len(0).unwrap();
}

/// The file system gives the inode of a file that is gone to the next one.
#[test]
fn what_was_held_of_a_file_that_is_gone_is_not_held_of_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileSystem::new();
    let path = dir.path().join("file");
    for round in 0..200u64 {
        let file = storage.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(&round.to_be_bytes(), 0).unwrap();
        let hold = file.hold(8).unwrap();
        let map = file.map(8).unwrap();
        drop(file);
        storage.remove_file(&path).unwrap();
        if round % 2 == 0 {
            drop(map);
        }
        // Whatever its inode is, nobody has anything of it.
        let next = storage.open(&path, OpenMode::CreateNew).unwrap();
        assert_eq!(next.held(), 0, "round {round}");
        next.write_at(b"other", 0).unwrap();
        next.set_len(0).unwrap();
        storage.remove_file(&path).unwrap();
        drop(hold);
    }
}

#[test]
fn a_file_is_not_cut_below_a_window_and_a_window_does_not_change_what_is_mapped() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let storage = FileSystem::new();
    let file = storage.open(&dir.path().join("file"), OpenMode::CreateNew).unwrap();
    file.write_at(b"0123456789", 0).unwrap();
    let Reserved::Window(mut window) = file.reserve(10, 5000, Reserve::Mapped).unwrap() else {
        println!("SKIPPED: no window can be had on this file system");
        return;
    };
    let is_busy = |kind| kind == std::io::ErrorKind::ResourceBusy;
    assert!(is_busy(file.set_len(10).unwrap_err().kind()));
    assert!(is_busy(file.map(11).unwrap_err().kind()), "the window may still write it");
    assert!(!window.write([b"x", b""], 9), "below its start");
    assert!(window.write([b"ab", b"cd"], 10));
    let map = file.map(14).unwrap().unwrap();
    assert_eq!(&map[..], b"0123456789abcd");
    assert!(!window.write([b"x", b""], 13), "it is mapped");
    assert!(window.write([b"x", b""], 14));
    assert_eq!(&map[..], b"0123456789abcd");
    assert!(is_busy(file.set_len(5009).unwrap_err().kind()));
    drop(window);
    assert!(is_busy(file.set_len(13).unwrap_err().kind()));
    file.set_len(14).unwrap();
    drop(map);
    file.set_len(0).unwrap();
}

#[cfg(feature = "sim")]
mod simulated {
    use stratalog::Timestamp;
    use stratalog::sim::SimStorage;

    use super::*;

    fn config(storage: &SimStorage) -> LogConfig {
        quiet().sync_threads(0).storage(Arc::new(storage.clone()))
    }

    #[test]
    fn a_truncation_that_finds_no_room_for_a_new_file_changes_nothing() {
        let storage = SimStorage::new();
        let (_log, partition) = open_with(Path::new("/log"), config(&storage));
        fill(&partition);
        partition.flush().unwrap();
        let (fetched, before) = fetch(&partition);
        let files = || {
            let files = storage.files();
            files.into_iter().map(|(path, _)| (path.clone(), storage.contents(&path).unwrap())).collect::<Vec<_>>()
        };
        storage.set_free_space(Some(1000));
        let unchanged = files();
        let error = partition.truncate(Offset::new(3)).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::DiskFull);
        let logs = |files: &[(std::path::PathBuf, Vec<u8>)]| {
            files.iter().filter(|(path, _)| path.to_str().unwrap().contains(".log")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(logs(&files()).len(), 1, "nothing is left of the new file");
        assert!(logs(&files())[0].1.starts_with(&before) && logs(&unchanged)[0].1.starts_with(&before));
        assert_eq!(partition.offsets().end, Offset::new(40));
        assert!(partition.stats().error.is_none());
        assert_eq!(
            bytes(&partition.fetch(Offset::ZERO, FetchOptions { max_bytes: 8 << 20, ..Default::default() }).unwrap()),
            before
        );
        storage.set_free_space(None);
        append(&partition, 1);
        partition.truncate(Offset::new(3)).unwrap();
        assert_eq!(bytes(&fetched), before);
        assert_eq!(partition.offsets().end, Offset::new(3));
        assert_eq!(storage.take_violations(), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_written_over_appends_of_every_size_whatever_was_ordered_ahead() {
        let storage = SimStorage::new();
        let (log, partition) = open_with(Path::new("/log"), config(&storage));
        let topic = log.topic("t").unwrap();
        let mut sizes = Vec::new();
        let put = |sizes: &mut Vec<usize>, size: usize| {
            let value = vec![sizes.len() as u8 | 1; size];
            partition.append_records([Record::new("k", &value)]).unwrap();
            sizes.push(size);
        };
        // Small ones until windows are ordered; then one beyond one window, beyond both, and, as a follower does, beyond
        // several; and windows switched off and on.
        for large in [400_000, 700_000, 1_000_000] {
            (0..4000).for_each(|_| put(&mut sizes, 300));
            put(&mut sizes, large);
            while log.preallocate() {}
            (0..50).for_each(|_| put(&mut sizes, 300));
        }
        let given: Vec<u8> = (0..6u64)
            .flat_map(|at| {
                let at = sizes.len() as u64 + at;
                let now = Timestamp::from_millis(0);
                let mut builder = stratalog::RecordBatch::builder().base_offset(Offset::new(at));
                let value = vec![at as u8 | 1; 500_000];
                builder.push(&Record::new("k", &value).at(now), now).unwrap();
                builder.build().unwrap().as_bytes().to_vec()
            })
            .collect();
        partition.append_at(&given).unwrap();
        sizes.extend([500_000; 6]);
        while log.preallocate() {}
        (0..4000).for_each(|_| put(&mut sizes, 300));
        topic.set_config(topic.config().unwrap().append_windows(false)).unwrap();
        (0..4000).for_each(|_| put(&mut sizes, 300));
        while log.preallocate() {}
        topic.set_config(topic.config().unwrap().append_windows(true)).unwrap();
        (0..4000).for_each(|_| put(&mut sizes, 300));
        assert_eq!(storage.take_violations(), Vec::<String>::new());
        let mut reader = partition.reader(Offset::ZERO).unwrap();
        for (offset, size) in sizes.iter().enumerate() {
            let record = reader.next_record().unwrap().expect("it was appended");
            let byte = offset as u8 | 1;
            let value = record.value.unwrap();
            assert!(value.len() == *size && value.iter().all(|b| *b == byte), "record {offset}");
        }
    }
}
