//! The comparison: all engines in turn, round after round, each part in a child process. So memory is each one's own,
//! and a kill is one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::engines::Engine;
use crate::limits::Limits;
use crate::worker::{Amount, Part};

/// How much is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scale {
    /// Within two minutes.
    Quick,
    /// Within a quarter of an hour.
    Default,
    Full,
}

impl Scale {
    fn pick<T>(self, quick: T, default: T, full: T) -> T {
        match self {
            Scale::Quick => quick,
            Scale::Default => default,
            Scale::Full => full,
        }
    }

    pub fn rounds(self) -> usize {
        self.pick(2, 5, 5)
    }

    /// Records of a value of 100 B in the workloads that append one a call.
    fn single(self) -> usize {
        self.pick(20_000, 200_000, 500_000)
    }

    /// Records of a value of 100 B in the workloads of batches; also what is opened.
    pub fn batch(self) -> usize {
        self.pick(100_000, 500_000, 2_000_000)
    }

    /// Updates of a tenth as many keys.
    pub fn latest(self) -> usize {
        self.pick(50_000, 500_000, 5_000_000)
    }

    fn millis(self) -> u64 {
        self.pick(150, 500, 2000)
    }
}

/// What was measured: figures by their name and engine, one for each round.
pub struct Outcome {
    pub scale: Scale,
    pub figures: BTreeMap<(String, Engine), Vec<f64>>,
    pub limits: Vec<Limits>,
    /// What did not work, in words.
    pub failures: BTreeSet<String>,
    pub took: Duration,
}

impl Outcome {
    /// Of no comparison.
    pub fn empty(scale: Scale) -> Outcome {
        Outcome { scale, figures: BTreeMap::new(), limits: Vec::new(), failures: BTreeSet::new(), took: Duration::ZERO }
    }

    pub fn median(&self, figure: &str, engine: Engine) -> Option<f64> {
        let mut values = self.figures.get(&(figure.to_owned(), engine))?.clone();
        values.sort_by(f64::total_cmp);
        // Of two, the smaller: no round is made up.
        values.get((values.len() - 1) / 2).copied()
    }

    /// Half of what lies between the least and the most, as a share of the median.
    pub fn spread(&self, figure: &str, engine: Engine) -> f64 {
        let Some(median) = self.median(figure, engine) else { return 0.0 };
        let values = &self.figures[&(figure.to_owned(), engine)];
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        (high - low) / 2.0 / median.max(f64::MIN_POSITIVE)
    }

    pub fn limits(&self) -> Limits {
        Limits::medians(&self.limits)
    }
}

/// Runs all rounds below a directory.
pub fn run(scale: Scale, engines: &[Engine], dir: &Path) -> Outcome {
    let began = Instant::now();
    let mut session = Session { dir: dir.to_path_buf(), outcome: Outcome::empty(scale) };
    for round in 0..scale.rounds() {
        session.outcome.limits.push(Limits::measure(dir));
        for engine in engines {
            eprint!("\rround {} of {}: {:<16}", round + 1, scale.rounds(), engine.name());
            session.round_of(*engine);
        }
    }
    session.outcome.limits.push(Limits::measure(dir));
    session.outcome.took = began.elapsed();
    eprintln!("\rcompared in {:.0} s{:<24}", session.outcome.took.as_secs_f64(), "");
    session.outcome
}

struct Session {
    dir: PathBuf,
    outcome: Outcome,
}

impl Session {
    fn round_of(&mut self, engine: Engine) {
        let scale = self.outcome.scale;
        let amount = |records, value_size| Amount { records, value_size, threads: 1, millis: scale.millis() };
        self.part("append-1-100B", engine, Part::Single, amount(scale.single(), 100));
        self.part("append-1-1KiB", engine, Part::Single, amount(scale.single() / 4, 1024));
        let all = amount(scale.batch(), 100);
        self.part("append-100-1KiB", engine, Part::Batch, amount(scale.batch() / 5, 1024));
        if self.work("append-100-100B", engine, Part::Batch, all, "opened") {
            self.work("open-clean", engine, Part::Reopen, all, "opened");
        }
        if self.killed(engine, all) {
            self.work("open-killed", engine, Part::Reopen, all, "killed");
        }
        if engine.can_sync() {
            for (name, threads) in [("synced-1", 1), ("synced-8", 8)] {
                let amount = Amount { records: 200_000, value_size: 100, threads, millis: scale.millis() };
                self.part(name, engine, Part::Synced, amount);
            }
        }
        if engine.keeps_latest() {
            self.part("latest", engine, Part::Latest, amount(scale.latest(), 100));
            self.part("latest-synced", engine, Part::LatestSynced, amount(scale.latest(), 100));
        }
        self.clear();
    }

    fn part(&mut self, name: &str, engine: Engine, part: Part, amount: Amount) {
        self.work(name, engine, part, amount, "part");
        self.clear();
    }

    /// Runs a part in a child; what it tells is kept. Whether it ended well.
    fn work(&mut self, name: &str, engine: Engine, part: Part, amount: Amount, dir: &str) -> bool {
        let mut child = self.spawn(engine, part, amount, dir);
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        for line in output.lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            if let (Some("@"), Some(metric), Some(Ok(value))) =
                (words.next(), words.next(), words.next().map(str::parse))
            {
                self.outcome.figures.entry((format!("{name}/{metric}"), engine)).or_default().push(value);
            }
        }
        let mut said = String::new();
        let _ = child.stderr.take().expect("it is piped").read_to_string(&mut said);
        let well = child.wait().is_ok_and(|status| status.success());
        if !well {
            let why = said.lines().take(3).collect::<Vec<_>>().join(" ");
            self.outcome.failures.insert(format!("{}: {name}: {why}", engine.name()));
        }
        well
    }

    /// Fills a log, and kills who did.
    fn killed(&mut self, engine: Engine, amount: Amount) -> bool {
        let mut child = self.spawn(engine, Part::Fill, amount, "killed");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let ready = output.lines().map_while(Result::ok).any(|line| line.starts_with("@ ready"));
        let _ = child.kill();
        let _ = child.wait();
        if !ready {
            self.outcome.failures.insert(format!("{}: open-killed: it could not be filled", engine.name()));
        }
        ready
    }

    fn spawn(&self, engine: Engine, part: Part, amount: Amount, dir: &str) -> Child {
        let of_engine = self.dir.join(engine.name().replace(' ', "-"));
        std::fs::create_dir_all(of_engine.join(dir)).expect("there is room");
        let part = part.to_possible_value().expect("none is hidden");
        Command::new(std::env::current_exe().expect("it has a path"))
            .args(["worker", engine.name(), part.get_name()])
            .arg(of_engine.join(dir))
            .args(["--records", &amount.records.to_string()])
            .args(["--value-size", &amount.value_size.to_string()])
            .args(["--threads", &amount.threads.to_string()])
            .args(["--millis", &amount.millis.to_string()])
            .env("WALRUS_DATA_DIR", &of_engine)
            .env("WALRUS_QUIET", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this program can be run")
    }

    /// Removes all data: what waits to be written back is the next one's burden otherwise.
    fn clear(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
