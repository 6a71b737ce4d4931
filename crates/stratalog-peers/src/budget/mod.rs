//! The budget: what the engine set out to reach, row by row, measured on this machine. Kafka's figures are those of
//! another machine; each is scaled by what bounds it, and the raw figure, the factor and the scaled one are told.

mod compaction;
mod kafka;
mod many;
mod others;
mod own;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stratalog::storage::Storage;
use stratalog::{Durability, Log, LogConfig, Partition, RecordBatch, TopicConfig};

use crate::data::Records;
use crate::engines::Engine;
use crate::grid::Grid;
use crate::limits::{KAFKAS, Limits};
use crate::session::{Outcome, Scale};

/// A row.
pub struct Row {
    /// What `--only` calls it.
    pub name: &'static str,
    pub work: String,
    pub goal: String,
    pub measured: String,
    /// `None`: it is told, not bound.
    pub is_met: Option<bool>,
    /// Of a limit of the machine.
    pub share: String,
}

/// What rows are measured with.
pub struct Budget<'a> {
    pub scale: Scale,
    pub dir: &'a Path,
    pub limits: Limits,
    /// What the others reached in this run.
    pub outcome: &'a Outcome,
    pub rows: Vec<Row>,
}

/// By which limit a figure of Kafka's is scaled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// CRC-32C at 1 KiB and memcpy: the geometric mean of both.
    Processor,
    /// Writes of 64 KiB.
    Writes,
    /// Reads of 1 MiB.
    Reads,
}

/// A family of rows, and how they are measured.
type Family = (&'static [&'static str], fn(&mut Budget<'_>));

const FAMILIES: &[Family] = &[
    (&["append-ready", "append-one", "append-records"], kafka::appends),
    (&["append-batch"], others::append_batches),
    (&["latest"], others::latest),
    (&["durable"], own::durable),
    (&["read-raw", "read-decoded"], kafka::reads),
    (&["recovery"], kafka::recovery),
    (&["compaction"], compaction::throughput),
    (&["beyond-memory"], compaction::beyond_memory),
    (&["open"], many::open),
    (&["idle"], many::idle),
    (&["point"], others::points),
    (&["read-all"], others::read_all),
    (&["interference"], compaction::interference),
];

/// The names of all rows.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|(names, _)| names.iter().copied())
}

/// Measures the rows of these names, or all where there are none.
pub fn run(scale: Scale, dir: &Path, outcome: &Outcome, only: &[String]) -> Vec<Row> {
    let mut budget = Budget { scale, dir, limits: Limits::measure(dir), outcome, rows: Vec::new() };
    for (names, measure) in FAMILIES {
        if only.is_empty() || names.iter().any(|name| only.iter().any(|wanted| wanted == name)) {
            eprint!("\rbudget: {:<40}", names.join(", "));
            // Beside each family: the machine may be busier at one time than at another.
            budget.limits = Limits::measure(dir);
            measure(&mut budget);
        }
    }
    eprintln!("\rbudget: done{:<40}", "");
    let mut rows = budget.rows;
    rows.retain(|row| only.is_empty() || only.iter().any(|name| name == row.name));
    rows
}

/// What a child process does.
pub fn run_child(what: &str, dir: &Path, memory: usize) {
    match what {
        "idle" => many::open_idle(dir),
        _ => compaction::compact_beyond(dir, memory),
    }
}

/// The rows as a table.
pub fn grid(rows: &[Row]) -> Grid {
    let mut grid = Grid::new(["work", "goal", "measured", "met", "of the machine's limit", "`-- --budget --only`"]);
    for row in rows {
        let met = match row.is_met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "told only",
        };
        grid.push([&row.work, &row.goal, &row.measured, met, &row.share, row.name]);
    }
    grid
}

impl Budget<'_> {
    pub fn push(
        &mut self,
        name: &'static str,
        work: impl Into<String>,
        goal: impl Into<String>,
        measured: String,
        is_met: Option<bool>,
        share: String,
    ) {
        let (work, goal) = (work.into(), goal.into());
        self.rows.push(Row { name, work, goal, measured, is_met, share });
    }

    /// How many times ours is of Kafka's figure, scaled to this machine; and that in words.
    pub fn against_kafka(&self, ours: f64, kafkas: f64, bound: Bound, unit: &str) -> (f64, String) {
        let (here, there) = (self.limits, KAFKAS);
        let (factor, by) = match bound {
            Bound::Processor => (((here.crc / there.crc) * (here.memcpy / there.memcpy)).sqrt(), "CRC and memcpy"),
            Bound::Writes => (here.write / there.write, "64 KiB writes"),
            Bound::Reads => (here.read / there.read, "1 MiB reads"),
        };
        let scaled = kafkas * factor;
        let times = ours / scaled;
        let shown = |value| number(value);
        let words = format!(
            "{} {unit} = {times:.1}x of Kafka's {} x {factor:.2} ({by}) = {}",
            shown(ours),
            shown(kafkas),
            shown(scaled)
        );
        (times, words)
    }

    /// How many times ours is of what another engine reached; and that in words.
    pub fn against(&self, ours: f64, figure: &str, engine: Engine) -> Option<(f64, String)> {
        let other = self.outcome.median(figure, engine)?;
        Some((ours / other, format!("{:.1}x of {} {}", ours / other, engine.name(), number(other))))
    }

    pub fn fresh(&self) -> PathBuf {
        let dir = self.dir.join("budget");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("there is room");
        dir
    }

    /// Records of the two sizes: 1,000,000 of 100 B and 200,000 of 1 KiB, a fifth of it in quick mode.
    pub fn count(&self, value_size: usize) -> usize {
        let all = if value_size > 100 { 200_000 } else { 1_000_000 };
        if self.scale == Scale::Quick { all / 5 } else { all }
    }

    /// The median of what several measurements say.
    pub fn median(&self, mut measure: impl FnMut() -> f64) -> f64 {
        let times = if self.scale == Scale::Quick { 1 } else { 5 };
        let mut values: Vec<f64> = (0..times).map(|_| measure()).collect();
        values.sort_by(f64::total_cmp);
        values[times / 2]
    }
}

/// Nothing is synced but what a roll or a close makes so.
pub fn config() -> LogConfig {
    with_threads().sync_threads(0)
}

/// The same, with the threads that a log has: one of them reserves space ahead of appends.
pub fn with_threads() -> LogConfig {
    LogConfig::new().maintenance_interval(None).max_unsynced_bytes(8 << 30).checkpoint_bytes(8 << 30)
}

pub fn topic() -> TopicConfig {
    TopicConfig::new().durability(Durability::Buffered { interval: Duration::from_secs(3600), bytes: 8 << 30 })
}

pub fn open(dir: &Path, topic: TopicConfig, storage: Option<Arc<dyn Storage>>) -> (Log, Partition) {
    open_as(dir, topic, storage.into_iter().fold(config(), |config, storage| config.storage(storage)))
}

pub fn open_as(dir: &Path, topic: TopicConfig, config: LogConfig) -> (Log, Partition) {
    let log = Log::open(dir, config).expect("it opens");
    let partition = log.partition("budget", 0);
    let partition = partition.unwrap_or_else(|| log.create_partition("budget", 0, topic).expect("it is the first one"));
    (log, partition)
}

/// What a client sends.
pub fn batches(records: &Records, per_batch: usize) -> Vec<RecordBatch> {
    let batch = |run: crate::data::Run<'_>| {
        let mut builder = RecordBatch::builder();
        for entry in run.iter() {
            builder.push(&entry.record(), entry.timestamp()).expect("it fits");
        }
        builder.build().expect("it is sound")
    };
    records.all().chunks(per_batch).map(batch).collect()
}

pub fn seconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// With a unit of thousands or millions.
pub fn number(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.0} k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

pub fn share(part: f64, of: f64, name: &str) -> String {
    format!("{:.0}% of {name}", part / of * 100.0)
}

pub const MIB: f64 = (1 << 20) as f64;
