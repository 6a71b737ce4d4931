//! Directories that Kafka wrote, and what a partition shows of one, in the words of Kafka's own listing.

#![allow(dead_code)]

pub mod check;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stratalog::format::{BatchView, Marker, Scratch};
use stratalog::{FetchOptions, Isolation, LogConfig, Offset, Partition, RecordView, TimestampType};
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
            describe(&batch.unwrap(), &mut shown);
        }
        assert!(fetch.next_offset >= next);
        if fetch.next_offset == next {
            assert!(fetch.is_empty());
            return (shown, next);
        }
        next = fetch.next_offset;
    }
}

/// What Kafka's listing says of a batch: a line for each record, or one for a batch without any.
pub fn describe(batch: &BatchView<'_>, out: &mut Vec<Value>) {
    let mut scratch = Scratch::default();
    batch.check_crc().unwrap();
    let described = describe_header(batch);
    if batch.header().count == 0 {
        let mut described = described;
        described["emptyBatch"] = true.into();
        out.push(described);
        return;
    }
    for record in batch.records(&mut scratch).unwrap() {
        out.push(describe_record(&record.unwrap(), &described));
    }
}

fn describe_header(batch: &BatchView<'_>) -> Value {
    let header = batch.header();
    let mut out = json!({
        "batchBaseOffset": header.base_offset.get(),
        "batchLastOffset": header.last_offset().get(),
        "batchCount": header.count,
        "magic": 2,
        "producerId": header.producer_id,
        "producerEpoch": header.producer_epoch,
        "baseSequence": header.base_sequence,
        "leaderEpoch": header.leader_epoch,
        "transactional": header.attributes.is_transactional(),
        "control": header.attributes.is_control(),
        "compression": header.attributes.codec().unwrap().name(),
        "timestampType": match header.attributes.timestamp_type() {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        },
        "maxTimestamp": header.max_timestamp.as_millis(),
        "deleteHorizonMs": header.delete_horizon().map(|horizon| horizon.as_millis()),
        "crc": header.crc,
    });
    if let Some(control) = batch.control(&mut Scratch::default()).unwrap() {
        out["coordinatorEpoch"] = control.coordinator_epoch.into();
        out["controlType"] = match control.marker {
            Marker::Abort => "ABORT".into(),
            Marker::Commit => "COMMIT".into(),
            Marker::Other(_) => Value::Null,
        };
    }
    out
}

fn describe_record(record: &RecordView<'_>, batch: &Value) -> Value {
    let mut out = batch.clone();
    out["offset"] = record.offset.get().into();
    out["timestamp"] = record.timestamp.as_millis().into();
    out["key"] = record.key.map(base64).into();
    out["value"] = record.value.map(base64).into();
    out["sequence"] = record.sequence.into();
    out["headers"] =
        record.headers().map(|header| json!([String::from_utf8_lossy(header.key), header.value.map(base64)])).collect();
    out
}

pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * i) & 63]);
            out.push(if i > chunk.len() { '=' } else { digit });
        }
    }
    out
}

/// A checksum of a listing, and how many lines it has: enough to compare with.
pub fn digest(listing: &[Value]) -> String {
    let text: String = listing.iter().map(|line| format!("{line}\n")).collect();
    format!("{} {:08x}", listing.len(), crc32fast::hash(text.as_bytes()))
}

/// That two listings are the same, naming the first line that differs.
pub fn assert_same(shown: &[Value], expected: &[Value], what: &str) {
    for (at, (shown, expected)) in shown.iter().zip(expected).enumerate() {
        assert_eq!(shown, expected, "{what}: line {at}");
    }
    assert_eq!(shown.len(), expected.len(), "{what}: lines");
}
