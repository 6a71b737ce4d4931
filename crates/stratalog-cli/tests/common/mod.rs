//! What several tests use: directories of every kind, and the tool.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use stratalog::config::{Clock, SystemClock};
use stratalog::{Cleanup, CompactMode, Log, LogConfig, Record, Timestamp, TopicConfig};

/// When the records of [`write_log`] begin.
pub const START_MS: i64 = 1_700_000_000_000;

/// A process that is being started has the files of this one open until it runs, locks among them: nothing is started
/// while a log is open here that is opened again elsewhere.
static STARTING: Mutex<()> = Mutex::new(());

/// Opens a log, and closes it.
pub fn with_log<T>(dir: &Path, act: impl FnOnce(&Log) -> T) -> T {
    let _none_starts = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let log = Log::open(dir, LogConfig::new().min_free_bytes(0).maintenance_interval(None)).unwrap();
    let done = act(&log);
    log.close().unwrap();
    done
}

/// Runs the tool; it must not panic, whatever it is used on.
pub fn run(args: &[&str]) -> Output {
    run_by(&[env!("CARGO_BIN_EXE_stratalog")], args)
}

/// The same, with what stands before it on the command line.
pub fn run_by(tool: &[&str], args: &[&str]) -> Output {
    let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let child = Command::new(tool[0])
        .args(&tool[1..])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool can be started");
    drop(starting);
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    assert!(output.status.code().is_some_and(|code| code <= 2), "{args:?}: {:?}\n{stderr}", output.status);
    output
}

/// Runs it, and expects this status.
pub fn expect(status: i32, args: &[&str]) -> String {
    let output = run(args);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{args:?}\n{stdout}\n{stderr}");
    if status == 2 {
        assert!(stdout.is_empty() && !stderr.is_empty(), "{args:?}\n{stdout}\n{stderr}");
    }
    stdout.into_owned()
}

/// Its answer in JSON.
pub fn json(status: i32, args: &[&str]) -> serde_json::Value {
    let mut with_json = vec!["--json"];
    with_json.extend(args);
    serde_json::from_str(&expect(status, &with_json)).expect("it is one value")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are text")
}

/// A log with two topics: `prices` is compacted, has tombstones and two partitions; `events` has records without keys,
/// headers, and bytes that are no text. Closed in good order.
pub fn write_log(dir: &Path) {
    with_log(dir, fill);
}

fn fill(log: &Log) {
    let compacted = TopicConfig::new().segment_bytes(2048).index_interval_bytes(256).cleanup(Cleanup::Compact);
    log.create_topic("prices", 2, compacted).unwrap();
    for id in 0..2 {
        let partition = log.partition("prices", id).unwrap();
        for n in 0..200_i64 {
            let key = format!("key-{}", n % 17);
            let value = format!("value-{n}");
            let record = if n % 10 == 7 { Record::tombstone(&key) } else { Record::new(&key, &value) };
            partition.append_records([record.at(Timestamp::from_millis(START_MS + n))]).unwrap();
        }
        partition.compact(SystemClock.now(), CompactMode::Full).unwrap();
        for n in 200..260_i64 {
            let value = format!("value-{n}");
            partition.append_records([Record::new("key-1", &value).at(Timestamp::from_millis(START_MS + n))]).unwrap();
        }
    }
    log.create_topic("events", 1, TopicConfig::new().segment_bytes(4096)).unwrap();
    let partition = log.partition("events", 0).unwrap();
    let headers = [stratalog::Header::new("trace", "7"), stratalog::Header { key: b"none", value: None }];
    for n in 0..100_i64 {
        let value = [n as u8, 0xff, 0];
        let records = [
            Record::keyless(&value).at(Timestamp::from_millis(START_MS + n)),
            Record::new("text", "line one\nline two").with_headers(&headers).at(Timestamp::from_millis(START_MS + n)),
        ];
        partition.append_records(records).unwrap();
    }
}

/// Copies a directory.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below a directory with its length and the time it was changed.
pub fn listing(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let info = entry.metadata().unwrap();
        found.insert(entry.path(), (info.len(), info.modified().unwrap()));
        if info.is_dir() {
            found.extend(listing(&entry.path()));
        }
    }
    found
}

/// The files below a directory, in order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    listing(dir).into_keys().filter(|path| path.is_file()).collect()
}

/// The directories in one that holds samples, in order; the samples in the repository, and those beside it when they
/// are there.
pub fn samples(kind: &str, below: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    let beside = [root.join("../shared"), root.join("../../shared")].into_iter().find(|dir| dir.is_dir());
    let places = [Some(root.join("tests/data")), beside];
    for place in places.into_iter().flatten() {
        for entry in fs::read_dir(place.join(kind)).into_iter().flatten() {
            found.push(entry.unwrap().path().join(below));
        }
    }
    if found.iter().all(|path| path.starts_with(root.join("tests/data"))) {
        eprintln!("SKIPPED: there is no ../shared/{kind}, only the samples of the repository are tried");
    }
    found.sort();
    found
}

/// Random enough for damage (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}
