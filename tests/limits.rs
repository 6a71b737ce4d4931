//! What many partitions cost, measured in a process of its own each time. The figures are printed.
#![cfg(target_os = "linux")]

use std::process::Command;

use stratalog::{Log, LogConfig, Offset, Record, TopicConfig};

const PARTITIONS: u64 = 1000;
/// What an idle partition may take of memory.
const IDLE_BYTES_MAX: u64 = 8 << 10;
/// Says which part a child process plays.
const PART: &str = "STRATALOG_LIMITS_PART";

fn config() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

/// Runs a test of this file in a child process, with `ulimits` set, and returns what it printed.
fn child(test: &str, part: &str, dir: &std::path::Path, ulimits: &str) -> String {
    let exe = std::env::current_exe().unwrap();
    let script = format!("{ulimits} exec \"$0\" --exact {test} --nocapture --test-threads 1");
    let mut shell = Command::new("sh");
    let output =
        shell.arg("-c").arg(script).arg(exe).env(PART, part).env("STRATALOG_LIMITS_DIR", dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The part of this process, when it is a child.
fn part() -> Option<(String, std::path::PathBuf)> {
    let part = std::env::var(PART).ok()?;
    Some((part, std::env::var_os("STRATALOG_LIMITS_DIR").expect("a child has a directory").into()))
}

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Open files of the log's data.
fn open_data_files(dir: &std::path::Path) -> usize {
    let dir = dir.canonicalize().unwrap();
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(&dir) && target.file_name().is_none_or(|name| name != ".lock")).count()
}

fn create(dir: &std::path::Path, config: LogConfig) -> Log {
    let log = Log::open(dir, config).unwrap();
    log.create_topic("many", PARTITIONS as u32, TopicConfig::new()).unwrap();
    log
}

fn append_to_all(log: &Log, round: u64) {
    for partition in log.topic("many").unwrap().partitions() {
        let value = format!("{}-{round}", partition.id());
        let appended = partition.append_records([Record::new("key", &value)]).unwrap();
        assert_eq!(appended.base_offset, Offset::new(round));
    }
}

fn check_all(log: &Log, rounds: u64) {
    for partition in log.topic("many").unwrap().partitions() {
        let mut reader = partition.reader(Offset::ZERO).unwrap();
        for round in 0..rounds {
            let record = reader.next_record().unwrap().unwrap();
            assert_eq!(record.value, Some(format!("{}-{round}", partition.id()).as_bytes()));
        }
        assert!(reader.next_record().unwrap().is_none());
    }
}

#[test]
fn a_thousand_idle_partitions_take_little_memory_and_no_open_file() {
    if let Some((part, dir)) = part() {
        return idle(&part, &dir);
    }
    let dir = tempfile::tempdir().unwrap();
    println!("{}", child("a_thousand_idle_partitions_take_little_memory_and_no_open_file", "fill", dir.path(), ""));
    println!("{}", child("a_thousand_idle_partitions_take_little_memory_and_no_open_file", "idle", dir.path(), ""));
}

fn idle(part: &str, dir: &std::path::Path) {
    if part == "fill" {
        let log = create(dir, config());
        (0..3).for_each(|round| append_to_all(&log, round));
        log.close().unwrap();
        return;
    }
    // One log opened and closed before: what the process itself takes is not counted.
    let small = tempfile::tempdir().unwrap();
    let log = Log::open(small.path(), config()).unwrap();
    log.create_topic("one", 1, TopicConfig::new()).unwrap();
    log.close().unwrap();
    let before = resident();
    let log = Log::open(dir, config()).unwrap();
    let each = resident().saturating_sub(before) / PARTITIONS;
    let files = open_data_files(dir);
    println!("{PARTITIONS} partitions opened in {:?}", log.recovery_report().took);
    println!("an idle partition takes {each} bytes; {files} data files are open");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes each");
    assert_eq!(files, 0);
    check_all(&log, 3);
}

#[test]
fn a_thousand_partitions_take_turns_with_sixty_four_open_files() {
    const NAME: &str = "a_thousand_partitions_take_turns_with_sixty_four_open_files";
    if let Some((_, dir)) = part() {
        let log = create(&dir, config());
        (0..2).for_each(|round| append_to_all(&log, round));
        check_all(&log, 2);
        println!("{} data files are open after appending to {PARTITIONS} partitions", log.stats().open_files);
        assert!(open_data_files(&dir) < 64);
        drop(log);
        let log = Log::open(&dir, config()).unwrap();
        check_all(&log, 2);
        append_to_all(&log, 2);
        log.close().unwrap();
        check_all(&Log::open(&dir, config()).unwrap(), 3);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    println!("{}", child(NAME, "turns", dir.path(), "ulimit -n 64;"));
}
