//! Runs the tests that reach a mutant over it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::cases::{Case, Ended, names, observe};
use crate::find::Mutant;
use crate::tree::{Binary, Result};

/// Tests that take longer without a mutant are left out and listed.
const CASE_MAX: Duration = Duration::from_secs(120);

/// The outcome of one mutant.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub id: u32,
    /// `caught`, `too late` (a test does not end), `missed`, `not reached`, or `unviable`.
    pub what: String,
    /// The test that caught it.
    pub by: String,
    pub seconds: f64,
}

impl Outcome {
    pub fn is_caught(&self) -> bool {
        self.what == "caught" || self.what == "too late"
    }
}

pub struct Hunt<'h> {
    pub root: &'h Path,
    pub workers: usize,
    /// The longest time for one mutant.
    pub limit: Duration,
    pub bar: &'h ProgressBar,
}

impl Hunt<'_> {
    /// Runs every test without a mutant. Returns the tests that pass, and the names of the others.
    pub fn observe(&self, binaries: &[Binary]) -> Result<(Vec<Case>, Vec<String>)> {
        let mut all = Vec::new();
        for binary in binaries {
            all.extend(names(binary, self.root)?.into_iter().map(|name| (binary, name)));
        }
        self.bar.set_length(all.len() as u64);
        let (cases, others) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        self.in_turn(all.len(), |at, worker| {
            let (binary, name) = &all[at];
            let seen = self.root.join(format!("target/seen-{worker}"));
            match observe(binary, name, self.root, &seen, CASE_MAX)? {
                Some(case) => lock(&cases).push(case),
                None => lock(&others).push(format!("{} {name}", binary.name)),
            }
            self.bar.inc(1);
            Ok(())
        })?;
        let mut cases = lock(&cases).split_off(0);
        cases.sort_by_key(|case| case.took);
        let others = lock(&others).split_off(0);
        Ok((cases, others))
    }

    /// Tests every mutant that no earlier run has caught, and appends each outcome to the file at once. A mutant that was
    /// missed is tested again: tests may have been added.
    pub fn hunt(&self, sample: &[(u32, Mutant)], cases: &[Case], notes: &Path) -> Result<Vec<Outcome>> {
        let done = caught(notes)?;
        let left: Vec<_> = sample.iter().filter(|(id, _)| !done.iter().any(|outcome| outcome.id == *id)).collect();
        let file = Mutex::new(OpenOptions::new().create(true).append(true).open(notes)?);
        let done = Mutex::new(done);
        let catchers: Mutex<BTreeMap<String, BTreeSet<String>>> = Mutex::default();
        self.bar.set_length(left.len() as u64);
        self.in_turn(left.len(), |at, _| {
            let (id, mutant) = left[at];
            let favourites = lock(&catchers).get(&mutant.file).cloned().unwrap_or_default();
            let outcome = self.look_for(*id, cases, &favourites)?;
            if !outcome.by.is_empty() {
                lock(&catchers).entry(mutant.file.clone()).or_default().insert(outcome.by.clone());
            }
            note(&mut lock(&file), mutant, &outcome)?;
            lock(&done).push(outcome);
            self.bar.inc(1);
            Ok(())
        })?;
        let mut done = lock(&done).split_off(0);
        done.sort_by_key(|outcome| outcome.id);
        Ok(done)
    }

    /// Tests one mutant: the fastest tests first, earlier those that have caught other mutants of the same file.
    fn look_for(&self, id: u32, cases: &[Case], favourites: &BTreeSet<String>) -> Result<Outcome> {
        let began = Instant::now();
        let mut reaching: Vec<&Case> = cases.iter().filter(|case| case.reaches.contains(&id)).collect();
        reaching.sort_by_key(|case| {
            let favourite = favourites.contains(&told(case));
            (if favourite { case.took / 8 } else { case.took }, told(case))
        });
        let of = |what: &str, by: String| {
            let seconds = began.elapsed().as_secs_f64();
            Outcome { id, what: what.to_owned(), by, seconds }
        };
        if reaching.is_empty() {
            return Ok(of("not reached", String::new()));
        }
        for case in reaching {
            let ended = case.with(id, self.root)?;
            // A flaky test fails without the mutant as well, and proves nothing.
            if ended != Ended::Passed && case.with(0, self.root)? == Ended::Passed {
                let what = if ended == Ended::Failed { "caught" } else { "too late" };
                return Ok(of(what, told(case)));
            }
            if began.elapsed() > self.limit {
                return Ok(of("missed in time", String::new()));
            }
        }
        Ok(of("missed", String::new()))
    }

    /// Runs `each` for the numbers below `count`, on all workers.
    fn in_turn(&self, count: usize, each: impl Fn(usize, usize) -> Result<()> + Sync) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        thread::scope(|scope| {
            for worker in 0..self.workers.max(1) {
                let (next, failed, each) = (&next, &failed, &each);
                scope.spawn(move || {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= count || lock(failed).is_some() {
                            return;
                        }
                        if let Err(error) = each(at, worker) {
                            *lock(failed) = Some(error);
                        }
                    }
                });
            }
        });
        let failed = lock(&failed).take();
        failed.map_or(Ok(()), Err)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn told(case: &Case) -> String {
    format!("{} {}", case.binary.name, case.name)
}

/// One line for each mutant: number, outcome, seconds, the test, the place, what was changed.
fn note(file: &mut File, mutant: &Mutant, outcome: &Outcome) -> Result<()> {
    let Mutant { file: path, line, function, operator, told, .. } = mutant;
    let Outcome { id, what, by, seconds } = outcome;
    writeln!(file, "{id}\t{what}\t{seconds:.1}\t{by}\t{path}:{line}\t{function}\t{operator}\t{told}")?;
    Ok(())
}

/// The mutants that an earlier run has caught.
fn caught(notes: &Path) -> Result<Vec<Outcome>> {
    let text = match fs::read_to_string(notes) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let outcome = |line: &str| {
        let mut fields = line.split('\t');
        let id = fields.next()?.parse().ok()?;
        let what = fields.next()?.to_owned();
        let seconds = fields.next()?.parse().ok()?;
        Some(Outcome { id, what, by: fields.next()?.to_owned(), seconds })
    };
    text.lines()
        .enumerate()
        .map(|(at, line)| {
            outcome(line).ok_or_else(|| format!("{}: line {} is no outcome", notes.display(), at + 1).into())
        })
        .filter(|outcome: &Result<Outcome>| outcome.as_ref().map_or(true, Outcome::is_caught))
        .collect()
}
