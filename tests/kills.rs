//! Real SIGKILLs at every step: what is left verifies, and reads the same latest values.
//!
//! A child process opens the log, appends, flushes, rolls and compacts; its storage raises the signal on itself at a
//! chosen operation of a chosen phase. Some children, with the storage as it is, are killed by their parent, at any
//! time. What was acknowledged comes through a pipe. `STRATALOG_KILLS` says how often, 240 times if it does not, and
//! `STRATALOG_KILLS_IN` in which directory.
#![cfg(target_os = "linux")]

mod common;
#[path = "common/watched.rs"]
mod watched;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::quiet;
use rustix::process::{Signal, getpid, kill_process};
use stratalog::{
    Budget, Cleanup, Durability, Log, LogConfig, ManualClock, Offset, Partition, Record, Timestamp, TopicConfig,
};
use watched::{Call, Watched, name};

const TEST: &str = "a_killed_process_leaves_a_log_that_verifies_and_reads_the_same";
/// Set for a child: the directory, the number to go on from, and where it is to be killed.
const DIR: &str = "STRATALOG_KILLS_DIR";
const FROM: &str = "STRATALOG_KILLS_FROM";
const WHERE: &str = "STRATALOG_KILLS_WHERE";

const COUNT: &str = "STRATALOG_KILLS";
/// Above the log.
const ABOVE: &str = "STRATALOG_KILLS_IN";
const KILLS: usize = 240;
/// One kill of so many is the parent's.
const BY_PARENT: usize = 8;
const KEYS: u64 = 13;
/// Appends, then compactions, so often: a child that is not killed by then ends.
const ROUNDS: u64 = 12;
const PHASES: [&str; 16] = [
    "recovery",
    "append",
    "flush",
    "roll",
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

/// What a child does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Doing {
    #[default]
    Recovery,
    Append,
    Flush,
    Roll,
    Compaction,
    /// Nothing that it is killed in.
    Else,
}

/// Tells the phase of each operation.
#[derive(Default)]
struct Phases {
    doing: Doing,
    /// What the last rename of a swap was: nothing, to `.swap`, to `.deleted`, to the final name.
    step: usize,
}

impl Phases {
    fn of(&mut self, call: Call, path: &Path) -> Option<&'static str> {
        match self.doing {
            Doing::Recovery => (call != Call::Read).then_some("recovery"),
            Doing::Append => (call == Call::Write && name(path).ends_with(".log")).then_some("append"),
            Doing::Flush => (call != Call::Read).then_some("flush"),
            Doing::Roll => (call != Call::Read).then_some("roll"),
            Doing::Compaction => self.of_compaction(call, path),
            Doing::Else => None,
        }
    }

    fn of_compaction(&mut self, call: Call, path: &Path) -> Option<&'static str> {
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
    let phases: Arc<Mutex<Phases>> = Arc::default();
    let clock = clock(from);
    let mut config = config().clock(clock.clone()).compaction_memory(1 << 10);
    // Who is killed from outside writes into its windows, as any process does.
    if let Some((phase, nth)) = place.rsplit_once('/') {
        config = config.storage(Watched::new(killer(Arc::clone(&phases), phase.to_owned(), nth.parse().unwrap())));
    }
    let doing = |doing| phases.lock().unwrap().doing = doing;
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
            doing(Doing::Append);
            partition.append_records([record]).unwrap();
            tell(&format!("\ndone {n}\n"));
            if n.is_multiple_of(6) {
                doing(Doing::Flush);
                partition.flush().unwrap();
            }
        }
        clock.set(Timestamp::from_millis(1_700_000_000_000 + (from + (round + 1) * 10) as i64 * 1000));
        doing(Doing::Roll);
        partition.roll().unwrap();
        partition.flush().unwrap();
        doing(Doing::Compaction);
        let report = log.maintain(stratalog::Clock::now(&*clock), Budget::default()).unwrap();
        doing(Doing::Else);
        assert!(report.passes[0].2.errors.is_empty(), "{report:?}");
    }
}

/// Kills this process at the nth operation of a phase.
fn killer(phases: Arc<Mutex<Phases>>, phase: String, nth: u64) -> impl Fn(Call, &Path) -> std::io::Result<()> {
    let left = Mutex::new(nth);
    move |call, path| {
        if phases.lock().unwrap().of(call, path) == Some(phase.as_str()) {
            let mut left = left.lock().unwrap();
            if *left == 0 {
                kill_process(getpid(), Signal::KILL).unwrap();
                std::thread::sleep(Duration::MAX);
            }
            *left -= 1;
        }
        Ok(())
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
fn a_killed_process_leaves_a_log_that_verifies_and_reads_the_same() {
    if let Some(dir) = std::env::var_os(DIR) {
        return child(Path::new(&dir));
    }
    let began = Instant::now();
    let shm = Some(PathBuf::from("/dev/shm")).filter(|shm| shm.is_dir());
    let above = std::env::var_os(ABOVE).map(PathBuf::from).or(shm).unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(above).unwrap();
    let log = Log::open(dir.path(), config().clock(clock(0))).unwrap();
    log.create_topic("t", 1, topic()).unwrap();
    log.close().unwrap();
    let mut model = Model::default();
    let mut kills: BTreeMap<&str, usize> = BTreeMap::new();
    let wanted = std::env::var(COUNT).ok().and_then(|count| count.parse().ok()).unwrap_or(KILLS);
    let (mut total, mut tries) = (0, 0);
    while total < wanted {
        tries += 1;
        assert!(tries < 2 * wanted + 20, "children that end unkilled: {kills:?}");
        let by_parent = tries % BY_PARENT == 0;
        let phase = PHASES[(tries - tries / BY_PARENT) % PHASES.len()];
        // Of a phase with many operations not always the first ones.
        let nth = tries * 31 % if phase == "recovery" { 4 } else { 11 };
        let place = if by_parent { "any time".to_owned() } else { format!("{phase}/{nth}") };
        let lines = if by_parent { 100 + tries * 37 % 900 } else { usize::MAX };
        let killed = run(dir.path(), &mut model, &place, lines);
        model.check(dir.path(), &format!("kill {total}, {place}"));
        if killed {
            total += 1;
            *kills.entry(if by_parent { "any time" } else { phase }).or_default() += 1;
        }
    }
    println!("{total} kills in {:?}, up to record {}, 0 bad: {kills:#?}", began.elapsed(), model.next);
    for phase in PHASES.iter().chain(&["any time"]) {
        assert!(kills.contains_key(phase), "no kill in {phase}: {kills:?}");
    }
}
