//! Real SIGKILLs at every step of compactions: what is left verifies, and reads the same latest values.
//!
//! A child process appends and compacts; its storage raises the signal on itself at a chosen operation of a chosen
//! phase. Some children are killed by their parent, at any time. What was acknowledged comes through a pipe.
#![cfg(target_os = "linux")]

mod common;
#[path = "common/watched.rs"]
mod watched;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::quiet;
use rustix::process::{Signal, getpid, kill_process};
use stratalog::{
    Budget, Cleanup, Durability, Log, LogConfig, ManualClock, Offset, Partition, Record, Timestamp, TopicConfig,
};
use watched::{Call, Watched, name};

const TEST: &str = "a_killed_compaction_leaves_a_log_that_verifies_and_reads_the_same";
/// Set for a child: the directory, the number to go on from, and where it is to be killed.
const DIR: &str = "STRATALOG_KILLS_DIR";
const FROM: &str = "STRATALOG_KILLS_FROM";
const WHERE: &str = "STRATALOG_KILLS_WHERE";

const KILLS: usize = 200;
/// One kill of so many is the parent's.
const BY_PARENT: usize = 8;
const KEYS: u64 = 13;
/// Appends, then compactions, so often: a child that is not killed by then ends.
const ROUNDS: u64 = 12;
const PHASES: [&str; 12] = [
    "digest",
    "plan",
    "rewrite",
    "indexes of the output",
    "state",
    "swap: names",
    "swap: commit",
    "swap: olds renamed",
    "swap: olds synced",
    "swap: final names",
    "swap: final sync",
    "unlink",
];

/// Tells the phase of each operation within a compaction.
#[derive(Default)]
struct Phases {
    /// What the last rename of a swap was: nothing, to `.swap`, to `.deleted`, to the final name.
    step: usize,
}

impl Phases {
    fn of(&mut self, call: Call, path: &Path) -> Option<&'static str> {
        let name = name(path);
        let ends = |end: &str| name.ends_with(end);
        match call {
            Call::Rename if ends(".swap") => self.step = 1,
            Call::Rename if ends(".deleted") => self.step = 2,
            Call::Rename if self.step >= 2 => self.step = 3,
            _ => {}
        }
        match call {
            Call::Read if ends(".digest") => Some("plan"),
            Call::Read => None,
            Call::Rename if self.step == 0 => ends(".digest").then_some("digest"),
            Call::Rename => Some(["", "swap: names", "swap: olds renamed", "swap: final names"][self.step]),
            Call::SyncDir if self.step == 0 => None,
            Call::SyncDir => {
                let step = if self.step == 3 { std::mem::take(&mut self.step) } else { self.step };
                Some(["", "swap: commit", "swap: olds synced", "swap: final sync"][step])
            }
            Call::Remove if ends(".deleted") => Some("unlink"),
            Call::Write | Call::Sync if name == "state" => Some("state"),
            _ if ends(".cleaned") && name.contains(".log.") => Some("rewrite"),
            _ if ends(".cleaned") && name.contains(".digest.") && self.step == 0 => Some("digest"),
            _ if ends(".cleaned") => Some("indexes of the output"),
            _ => None,
        }
    }
}

fn topic() -> TopicConfig {
    TopicConfig::new()
        .segment_bytes(2048)
        .index_interval_bytes(256)
        .cleanup(Cleanup::Compact)
        .min_cleanable_dirty_ratio(0.2)
        .delete_retention(Duration::from_secs(20))
        .durability(Durability::Buffered { interval: Duration::from_millis(5), bytes: 4096 })
}

fn clock(seconds: u64) -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000 + seconds as i64 * 1000)))
}

/// A line to the parent, whole in the pipe before anything else is done.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// The child: appends, tells, compacts, until it is killed.
fn child(dir: &Path) {
    let from: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    let place = std::env::var(WHERE).unwrap();
    let (phase, nth) = place.rsplit_once('/').unwrap();
    let (phase, left) = (phase.to_owned(), Mutex::new(nth.parse::<u64>().unwrap()));
    let compacts = Arc::new(AtomicBool::new(false));
    let (watched, phases) = (Arc::clone(&compacts), Mutex::new(Phases::default()));
    let storage = Watched::new(move |call, path| {
        if watched.load(Ordering::SeqCst) && phases.lock().unwrap().of(call, path) == Some(phase.as_str()) {
            let mut left = left.lock().unwrap();
            if *left == 0 {
                kill_process(getpid(), Signal::KILL).unwrap();
                std::thread::sleep(Duration::MAX);
            }
            *left -= 1;
        }
        Ok(())
    });
    let clock = clock(from);
    let config = config().storage(storage).clock(clock.clone()).compaction_memory(1 << 10);
    let log = Log::open(dir, config).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let mut n = from;
    for round in 0..ROUNDS {
        for _ in 0..25 {
            n += 1;
            let (key, deletes) = (n * 7 % KEYS, n.is_multiple_of(5));
            tell(&format!("\ntry {n} {key} {deletes}\n"));
            let (name, value) = (format!("key-{key}"), format!("{n}-").repeat(1 + n as usize % 40));
            let record = if deletes { Record::tombstone(&name) } else { Record::new(&name, &value) };
            partition.append_records([record]).unwrap();
            tell(&format!("\ndone {n}\n"));
        }
        clock.set(Timestamp::from_millis(1_700_000_000_000 + (from + (round + 1) * 10) as i64 * 1000));
        partition.roll().unwrap();
        compacts.store(true, Ordering::SeqCst);
        let report = log.maintain(stratalog::Clock::now(&*clock), Budget::default()).unwrap();
        compacts.store(false, Ordering::SeqCst);
        assert!(report.passes[0].2.errors.is_empty(), "{report:?}");
    }
}

fn config() -> LogConfig {
    quiet().sync_threads(1).checkpoint_bytes(4096)
}

/// What the parent knows of the log.
#[derive(Default)]
struct Model {
    latest: BTreeMap<String, String>,
    /// What was begun last and not acknowledged.
    tried: Option<(u64, u64, bool)>,
    next: u64,
}

impl Model {
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["try", n, key, deletes] => {
                self.tried = Some((n.parse().unwrap(), key.parse().unwrap(), deletes == "true"));
                self.next = n.parse().unwrap();
            }
            ["done", n] => {
                let tried = self.tried.take().expect("it was begun");
                assert_eq!(tried.0, n.parse::<u64>().unwrap());
                Model::apply(&mut self.latest, tried);
            }
            _ => {}
        }
    }

    fn apply(latest: &mut BTreeMap<String, String>, (n, key, deletes): (u64, u64, bool)) {
        let value = format!("{n}-").repeat(1 + n as usize % 40);
        match deletes {
            true => latest.remove(&format!("key-{key}")),
            false => latest.insert(format!("key-{key}"), value),
        };
    }

    /// What the log shows has to be what was acknowledged, with or without what was being appended.
    fn check(&mut self, dir: &Path, what: &str) {
        let log = Log::open(dir, config().clock(clock(self.next))).unwrap();
        let partition = log.partition("t", 0).unwrap();
        assert!(partition.stats().error.is_none(), "{what}: {:?}", partition.stats().error);
        let findings = partition.verify().unwrap().findings;
        assert!(findings.is_empty(), "{what}: {findings:?}");
        let found = latest(&partition);
        let mut with = self.latest.clone();
        self.tried.take().into_iter().for_each(|tried| Model::apply(&mut with, tried));
        assert!(found == self.latest || found == with, "{what}: {found:?} instead of {:?}", self.latest);
        self.latest = found;
        if self.next.is_multiple_of(2) {
            log.close().unwrap();
        }
    }
}

fn latest(partition: &Partition) -> BTreeMap<String, String> {
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    let mut latest = BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        match record.value {
            Some(value) => latest.insert(text(record.key.unwrap()), text(value)),
            None => latest.remove(&text(record.key.unwrap())),
        };
    }
    latest
}

/// Runs a child until it is killed, or ends; whether it was killed. After `lines` of its lines its parent kills it.
fn run(dir: &Path, model: &mut Model, place: &str, lines: usize) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads", "1"])
        .env(DIR, dir)
        .env(FROM, model.next.to_string())
        .env(WHERE, place)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in out.by_ref().take(lines) {
        model.note(&line.unwrap());
    }
    let reached = lines < usize::MAX;
    if reached {
        let _ = child.kill();
    }
    out.for_each(|line| model.note(&line.unwrap()));
    let output = child.wait_with_output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    killed
}

#[test]
fn a_killed_compaction_leaves_a_log_that_verifies_and_reads_the_same() {
    if let Some(dir) = std::env::var_os(DIR) {
        return child(Path::new(&dir));
    }
    let began = Instant::now();
    let shm = PathBuf::from("/dev/shm");
    let dir = tempfile::tempdir_in(if shm.is_dir() { shm } else { std::env::temp_dir() }).unwrap();
    let log = Log::open(dir.path(), config().clock(clock(0))).unwrap();
    log.create_topic("t", 1, topic()).unwrap();
    log.close().unwrap();
    let mut model = Model::default();
    let mut kills: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut total, mut tries) = (0, 0);
    while total < KILLS {
        tries += 1;
        assert!(tries < 2 * KILLS, "children that end unkilled: {kills:?}");
        let by_parent = tries % BY_PARENT == 0;
        let phase = PHASES[tries % PHASES.len()];
        // Of a phase with many operations not always the first ones.
        let place = if by_parent { "never/0".to_owned() } else { format!("{phase}/{}", tries * 31 % 11) };
        let lines = if by_parent { 100 + tries * 37 % 900 } else { usize::MAX };
        let killed = run(dir.path(), &mut model, &place, lines);
        model.check(dir.path(), &format!("kill {total}, {place}"));
        if killed {
            total += 1;
            *kills.entry(if by_parent { "at any time" } else { phase }).or_default() += 1;
        }
    }
    println!("{total} kills in {:?}, up to record {}: {kills:#?}", began.elapsed(), model.next);
    for phase in PHASES.iter().chain(&["at any time"]) {
        assert!(kills.contains_key(phase), "no kill in {phase}: {kills:?}");
    }
}
