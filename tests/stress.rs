//! A stress on the real file system with the default configuration and all threads: no acknowledged record is lost, and
//! every byte that is read is the byte that was appended.
//!
//! Child processes work on a log, one after the other, each for some phases: threads append, read and wait, others
//! truncate, roll, configure, compact, close and open again. Some children are killed at any time. Each child first
//! compares the log with all that was acknowledged to the child before it. The seed decides everything that is drawn;
//! the order of threads is left to the machine.
//!
//! `STRATALOG_STRESS_SECONDS` says how long, 3 s if it does not; `STRATALOG_STRESS_IN` in which directories in
//! turn, separated by colons, else in memory and on the disk of temporary files; `STRATALOG_STRESS_SEED` repeats the
//! drawing of a run.
//! `STRATALOG_STRESS_ROUNDS` says how often the smaller program runs in each place, 10 times if it does not.
#![cfg(target_os = "linux")]

#[path = "stress/admin.rs"]
mod admin;
#[path = "stress/check.rs"]
mod check;
#[path = "stress/child.rs"]
mod child;
#[path = "stress/draw.rs"]
mod draw;
#[path = "stress/held.rs"]
mod held;
#[path = "stress/journal.rs"]
mod journal;
#[path = "stress/model.rs"]
mod model;
#[path = "stress/reader.rs"]
mod reader;
#[path = "stress/small.rs"]
mod small;
#[path = "stress/world.rs"]
mod world;
#[path = "stress/writer.rs"]
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use draw::Rng;

const TEST: &str = "acknowledged_records_are_read_as_they_were_appended";
const SECONDS: &str = "STRATALOG_STRESS_SECONDS";
const SEED: &str = "STRATALOG_STRESS_SEED";
const ABOVE: &str = "STRATALOG_STRESS_IN";
const ROUNDS: &str = "STRATALOG_STRESS_ROUNDS";
/// Set for a child: the directory, the round, and how long a phase may take.
const DIR: &str = "STRATALOG_STRESS_DIR";
const ROUND: &str = "STRATALOG_STRESS_ROUND";
const PHASE: &str = "STRATALOG_STRESS_PHASE_MS";

/// A child that is silent for this time hangs.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// The number of rounds in a row that have the same log.
const ROUNDS_OF_A_LOG: u64 = 12;

/// Of the program with one thread.
const ROUNDS_OF_THE_SMALL_ONE: u64 = 10;

/// The number of last lines of children that are printed with a failure.
const TOLD_MAX: usize = 400;

/// The lines and counts of the children.
#[derive(Default)]
struct Told {
    counts: BTreeMap<String, u64>,
    last: VecDeque<String>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Where logs are to be, in turn.
fn places() -> Vec<PathBuf> {
    if let Some(above) = std::env::var_os(ABOVE) {
        return std::env::split_paths(&above).collect();
    }
    let shm = Some(PathBuf::from("/dev/shm")).filter(|shm| shm.is_dir());
    shm.into_iter().chain([std::env::temp_dir()]).collect()
}

#[test]
fn acknowledged_records_are_read_as_they_were_appended() {
    if let Some(dir) = std::env::var_os(DIR) {
        let of = |name| number(name).expect("a child is told");
        let phase = Duration::from_millis(of(PHASE));
        return child::run(&child::Orders { dir: dir.into(), seed: of(SEED), round: of(ROUND), phase });
    }
    let seconds = number(SECONDS).unwrap_or(3);
    let seed = number(SEED).unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut told = Told::default();
    let (mut round, mut kills) = (0, 0);
    println!("{SEED}={seed} {SECONDS}={seconds}");
    while began.elapsed() < limit {
        let places = places();
        let above = &places[(round / ROUNDS_OF_A_LOG) as usize % places.len()];
        let dir = tempfile::tempdir_in(above).unwrap();
        for _ in 0..ROUNDS_OF_A_LOG {
            let last = began.elapsed() >= limit;
            match run(dir.path(), seed, round, (!last).then(|| limit - began.elapsed()), &mut told) {
                Ok(killed) => kills += u64::from(killed),
                Err(why) => {
                    let left = dir.keep();
                    let took = began.elapsed();
                    told.last.iter().for_each(|line| println!("{line}"));
                    panic!("{SEED}={seed}, round {round}, after {took:?}, the log is in {}: {why}", left.display());
                }
            }
            round += 1;
            if last {
                break;
            }
        }
    }
    let of = |name: &str| told.counts.get(name).copied().unwrap_or(0);
    println!(
        "{round} rounds in {:?}: {} records appended, {} bytes compared, {kills} kills, {} logs opened again in their \
         process, {} truncations and resets, {} held fetches and {} regions compared, {} waits of a writer for its \
         readers, 0 lost",
        began.elapsed(),
        of("records"),
        of("bytes"),
        of("reopened"),
        of("truncations"),
        of("held"),
        of("regions"),
        of("waits"),
    );
    assert!(of("records") > 0 && of("bytes") > 0, "nothing was done: {:?}", told.counts);
}

#[test]
fn small_appends_with_a_large_one_now_and_then_are_all_there() {
    let rounds = number(ROUNDS).unwrap_or(ROUNDS_OF_THE_SMALL_ONE);
    for above in places() {
        let began = Instant::now();
        let (mut bad, mut lost) = (0, 0);
        for round in 0..rounds {
            let (open, opened_again) = small::lost(&above, round);
            bad += u64::from(open + opened_again > 0);
            lost += open.max(opened_again);
        }
        let (above, took, records) = (above.display(), began.elapsed(), small::records(rounds));
        println!("{above}: {lost} of {records} records lost in {bad} of {rounds} rounds, in {took:?}");
        assert_eq!(lost, 0, "LOST: in {bad} of {rounds} rounds in {above}");
    }
}

/// Runs a child for a while, or, when there is no time left, to the end; whether it was killed.
fn run(dir: &Path, seed: u64, round: u64, left: Option<Duration>, told: &mut Told) -> Result<bool, String> {
    let mut rng = Rng::of(&[seed, 4, round]);
    let phase = left.map_or(50, |left| (left.as_millis() as u64).clamp(50, 900));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads", "1"])
        .env(DIR, dir)
        .env(SEED, seed.to_string())
        .env(ROUND, round.to_string())
        .env(PHASE, phase.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (out, mut errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (tell, lines) = channel();
    let reader = thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).all(|line| tell.send(line).is_ok());
    });
    let errors = thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    // Some are killed while they work, some while they check, or close, or open again.
    let kill_after = (left.is_some() && rng.one_in(2)).then(|| Duration::from_millis(rng.below(2 * phase)));
    told.note(format!("round {round}, killed after {kill_after:?}"));
    let ended = listen(&lines, kill_after, told);
    if ended != Ended::Itself {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    let _ = listen(&lines, None, told);
    reader.join().unwrap();
    let errors = errors.join().unwrap().unwrap_or_default();
    match (ended, status.signal()) {
        (Ended::Silent, _) => Err(format!("a child hangs: {errors}")),
        (Ended::Killed, Some(9)) => Ok(true),
        _ if status.success() => Ok(false),
        _ => Err(format!("a child ended with {status}: {errors}")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Itself,
    Killed,
    Silent,
}

impl Told {
    fn note(&mut self, line: String) {
        if let Some((name, count)) = line.split_once(' ')
            && let Ok(count) = count.parse::<u64>()
        {
            *self.counts.entry(name.to_owned()).or_default() += count;
        } else if !line.is_empty() {
            self.last.push_back(line);
            self.last.drain(..self.last.len().saturating_sub(TOLD_MAX));
        }
    }
}

/// Takes the lines of a child until it ends, or until its time to be killed has come, counted from its first work.
fn listen(lines: &Receiver<String>, kill_after: Option<Duration>, told: &mut Told) -> Ended {
    let mut kill_at = None;
    loop {
        let limit = kill_at.map_or(SILENCE_MAX, |at: Instant| at.saturating_duration_since(Instant::now()));
        match lines.recv_timeout(limit) {
            Ok(line) => {
                if line == "working" {
                    kill_at = kill_at.or(kill_after.map(|after| Instant::now() + after));
                }
                told.note(line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ended::Itself,
            Err(RecvTimeoutError::Timeout) if kill_at.is_some() => return Ended::Killed,
            Err(RecvTimeoutError::Timeout) => return Ended::Silent,
        }
        // A child that goes on telling is killed all the same.
        if kill_at.is_some_and(|at| at <= Instant::now()) {
            return Ended::Killed;
        }
    }
}
