//! A child that was forked has the handles of a log, but not its threads, and the log is not its own.
#![cfg(unix)]
#![allow(unsafe_code, reason = "a fork; each block has its proof")]

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::{append, expected, read};
use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};

/// What a child answers that has panicked; one that did nothing wrong answers 0.
const PANICKED: i32 = 101;

/// Runs `act` in a forked child, and returns its answer; `None` when it has not ended after a while.
fn in_a_child(act: impl FnOnce() -> i32) -> Option<i32> {
    // SAFETY: the child runs `act` and ends without returning from here; what it needs of the process, memory among it,
    // works after a fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "the process can fork");
    if child == 0 {
        let answer = catch_unwind(AssertUnwindSafe(act)).unwrap_or(PANICKED);
        // SAFETY: it ends the child at once.
        unsafe { libc::_exit(answer) };
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        let mut status = 0;
        // SAFETY: `status` outlives the call, and the child is ours.
        if unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == child {
            return Some(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -status });
        }
        thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: the child is ours, and has not been waited for.
    unsafe { libc::kill(child, libc::SIGKILL) };
    None
}

/// Name, length and content of every file of a log directory.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_child_that_drops_or_closes_a_log_neither_panics_nor_blocks_nor_writes() {
    let dir = tempfile::tempdir().unwrap();
    // All its threads run: they sync, reserve space and compact.
    let config = LogConfig::new().min_free_bytes(0).maintenance_interval(Some(Duration::from_secs(3600)));
    let log = Log::open(dir.path(), config).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&partition, 10);
    partition.flush().unwrap();
    let before = files(dir.path());
    let mut handles = Some((log, partition));
    assert_eq!(in_a_child(|| if handles.take().is_some() { 0 } else { 1 }), Some(0), "dropped");
    let close = || match handles.take().map(|(log, _)| log.close()) {
        Some(Err(error)) if *error.kind() == ErrorKind::Closed => 0,
        _ => 1,
    };
    assert_eq!(in_a_child(close), Some(0), "closed");
    assert!(files(dir.path()) == before, "nothing was written");

    // The log is that of the parent all the while.
    let (log, partition) = handles.expect("the parent keeps its own");
    append(&partition, 10);
    assert_eq!(read(&partition, 0), expected(0..20));
    assert_eq!(*Log::open(dir.path(), LogConfig::new()).unwrap_err().kind(), ErrorKind::Locked);
    drop(partition);
    log.close().unwrap();
    let log = Log::open(dir.path(), LogConfig::new().min_free_bytes(0)).unwrap();
    assert_eq!(read(&log.partition("t", 0).unwrap(), 0), expected(0..20));
}
