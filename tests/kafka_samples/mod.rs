//! Directories that Kafka wrote, and what a partition shows of one, in the words of Kafka's own listing.

#![allow(dead_code)]

pub mod check;
pub mod describe;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stratalog::{FetchOptions, Isolation, LogConfig, Offset, Partition};
use tempfile::TempDir;

/// A log of which the tests decide when maintenance runs.
pub fn config() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

/// Samples of a kind: those beside the tests, replaced by the larger collection where it is at hand.
pub fn samples(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = subdirs(&root.join("tests/data").join(kind));
    assert!(!ours.is_empty());
    match larger_collection(kind) {
        Some(dir) => subdirs(&dir),
        None => ours,
    }
}

/// The larger collection of samples, which is no part of the project.
pub fn larger_collection(kind: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var_os("STRATALOG_SAMPLES").map_or_else(|| root.join("../shared"), PathBuf::from).join(kind);
    if !shared.is_dir() {
        eprintln!("SKIPPED: the larger collection of {kind} is not at {}", shared.display());
        return None;
    }
    Some(shared)
}

pub fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.retain(|path| path.is_dir());
    dirs.sort();
    dirs
}

pub fn name(dir: &Path) -> &str {
    dir.file_name().unwrap().to_str().unwrap()
}

/// A copy of a directory that can be written.
pub fn copy(from: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_into(from, dir.path());
    dir
}

pub fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_into(&entry.path(), &target);
        } else {
            fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// The files of a directory, sorted, as name and content.
pub fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            files.push((entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
        }
    }
    files.sort();
    files
}

/// The files whose name ends so.
pub fn files_ending(dir: &Path, end: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = files(dir);
    files.retain(|(name, _)| name.ends_with(end));
    files
}

/// A listing of Kafka's, without the places in files, which a fetch does not know.
pub fn listing(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| without_place(serde_json::from_str(line).unwrap())).collect()
}

fn without_place(mut record: Value) -> Value {
    let fields = record.as_object_mut().unwrap();
    fields.remove("segment");
    fields.remove("position");
    record
}

/// Everything that fetches from `from` on show, each of about `max_bytes`, and where they end.
pub fn dump(partition: &Partition, from: Offset, max_bytes: usize) -> (Vec<Value>, Offset) {
    let options = FetchOptions { max_bytes, isolation: Isolation::End, check_crc: true };
    let mut shown = Vec::new();
    let mut next = from;
    loop {
        let fetch = partition.fetch(next, options).unwrap();
        for batch in fetch.batches() {
            describe::describe(&batch.unwrap(), &mut shown);
        }
        assert!(fetch.next_offset >= next);
        if fetch.next_offset == next {
            assert!(fetch.is_empty());
            return (shown, next);
        }
        next = fetch.next_offset;
    }
}

/// A checksum of a listing, and how many lines it has: enough to compare with.
pub fn digest(listing: &[Value]) -> String {
    // By name: in which order an object has its fields depends on how the whole workspace builds `serde_json`.
    let sorted = |line: &Value| -> BTreeMap<String, Value> { line.as_object().unwrap().clone().into_iter().collect() };
    let text: String = listing.iter().map(|line| serde_json::to_string(&sorted(line)).unwrap() + "\n").collect();
    format!("{} {:08x}", listing.len(), crc32fast::hash(text.as_bytes()))
}

/// That two listings are the same, naming the first line that differs.
pub fn assert_same(shown: &[Value], expected: &[Value], what: &str) {
    for (at, (shown, expected)) in shown.iter().zip(expected).enumerate() {
        assert_eq!(shown, expected, "{what}: line {at}");
    }
    assert_eq!(shown.len(), expected.len(), "{what}: lines");
}
