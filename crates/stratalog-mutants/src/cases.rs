//! The tests: each runs alone in a process of its own, so that what it reaches, how long it takes, and that it fails are
//! its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::tree::{Binary, Result};

/// The least time after which a test counts as one that does not end.
const TIMEOUT_MIN: Duration = Duration::from_secs(20);
const TIMEOUT_FACTOR: u32 = 6;

/// A test, with its duration and coverage without a mutant.
#[derive(Clone, Debug)]
pub struct Case {
    pub binary: Binary,
    pub name: String,
    pub took: Duration,
    /// The mutants that it reaches.
    pub reaches: BTreeSet<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Passed,
    Failed,
    TooLate,
}

/// The names of a binary's tests.
pub fn names(binary: &Binary, root: &Path) -> Result<Vec<String>> {
    let output = Command::new(&binary.path).args(["--list", "--format", "terse"]).current_dir(root).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Runs a test without a mutant and records the switches that it reaches; `None` where the test fails.
pub fn observe(binary: &Binary, name: &str, root: &Path, seen: &Path, limit: Duration) -> Result<Option<Case>> {
    let _ = fs::remove_file(seen);
    let began = Instant::now();
    let ended = run(binary, name, root, limit, |command| {
        command.env("STRATALOG_MUTANT_SEEN", seen);
    })?;
    let took = began.elapsed();
    let reached = fs::read(seen).unwrap_or_default();
    let reaches = (0..).zip(&reached).filter(|(_, byte)| **byte == 1).map(|(id, _)| id).collect();
    let case = Case { binary: binary.clone(), name: name.to_owned(), took, reaches };
    Ok((ended == Ended::Passed).then_some(case))
}

/// Reads the observations of an earlier run; `None` where the binaries have been built again since.
pub fn kept(file: &Path, binaries: &[Binary]) -> Option<Vec<Case>> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines();
    if lines.next()? != mark(binaries)? {
        return None;
    }
    lines.map(|line| case(line, binaries)).collect()
}

fn case(line: &str, binaries: &[Binary]) -> Option<Case> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [path, name, micros, reaches] = fields[..] else { return None };
    let binary = binaries.iter().find(|binary| binary.path == Path::new(path))?.clone();
    let reaches = reaches.split(' ').filter(|id| !id.is_empty()).map(|id| id.parse().ok()).collect::<Option<_>>()?;
    Some(Case { binary, name: name.to_owned(), took: Duration::from_micros(micros.parse().ok()?), reaches })
}

/// Writes the observations, so that an interrupted run can resume.
pub fn keep(file: &Path, binaries: &[Binary], cases: &[Case]) -> Result<()> {
    let mut text = mark(binaries).ok_or("a test binary is gone")?;
    for case in cases {
        let reaches: Vec<String> = case.reaches.iter().map(u32::to_string).collect();
        let (path, micros) = (case.binary.path.display(), case.took.as_micros());
        text += &format!("\n{path}\t{}\t{micros}\t{}", case.name, reaches.join(" "));
    }
    fs::write(file, text)?;
    Ok(())
}

/// The modification times of the binaries.
fn mark(binaries: &[Binary]) -> Option<String> {
    let mut all = Vec::new();
    for binary in binaries {
        let modified = fs::metadata(&binary.path).ok()?.modified().ok()?;
        all.push(modified.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos().to_string());
    }
    Some(all.join(" "))
}

impl Case {
    /// Runs the test over a mutant.
    pub fn with(&self, mutant: u32, root: &Path) -> Result<Ended> {
        let limit = TIMEOUT_MIN.max(self.took * TIMEOUT_FACTOR);
        run(&self.binary, &self.name, root, limit, |command| {
            command.env("STRATALOG_MUTANT", mutant.to_string());
        })
    }
}

fn run(binary: &Binary, name: &str, root: &Path, limit: Duration, with: impl FnOnce(&mut Command)) -> Result<Ended> {
    let mut command = Command::new(&binary.path);
    command.args(["--exact", name, "--test-threads", "1"]).current_dir(root).process_group(0);
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    with(&mut command);
    let mut child = command.spawn()?;
    // The child blocks when nobody reads its output.
    let mut output = child.stdout.take().ok_or("no output")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = output.read_to_end(&mut text);
    });
    let began = Instant::now();
    let mut pause = Duration::from_micros(500);
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break if status.success() { Ended::Passed } else { Ended::Failed };
        }
        if began.elapsed() > limit {
            break Ended::TooLate;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    if ended != Ended::Passed {
        // Kill the processes that the test has started as well.
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
    }
    let _ = child.wait();
    let _ = reader.join();
    Ok(ended)
}
