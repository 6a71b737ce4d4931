//! Repair on purpose: what recovery refuses to do by itself, because it gives up records that were acknowledged.
//!
//! [`plan`] says what would happen, and touches nothing; [`run`] does it, through the same recovery that opens a log,
//! in [`RecoveryMode::Salvage`]. No byte is deleted that held records: what is in the way is put aside under names that
//! end in `.broken`, in the same directory.
//!
//! ```
//! # use stratalog::{Log, LogConfig, TopicConfig, repair};
//! # fn main() -> stratalog::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let log = Log::open(dir.path(), LogConfig::new())?;
//! # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
//! # events.append_records(["one"])?;
//! # events.append_records(["two"])?;
//! # log.close()?;
//! # let path = dir.path().join("events-0/00000000000000000000.log");
//! # let mut bytes = std::fs::read(&path).unwrap();
//! # *bytes.last_mut().unwrap() ^= 1;
//! # std::fs::write(&path, bytes).unwrap();
//! // The second of two batches is damaged.
//! let plan = repair::plan(dir.path(), &repair::Options::default())?;
//! plan.steps.iter().for_each(|step| println!("{step}"));
//! assert!(!plan.is_empty());
//! let report = repair::run(&plan, LogConfig::new())?;
//! assert_eq!(report.partitions[0].end.get(), 1);
//! assert!(repair::plan(dir.path(), &repair::Options::default())?.is_empty());
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{LogConfig, RecoveryMode};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{
    CLEANER_CHECKPOINT, LOG_START_CHECKPOINT, RECOVERY_POINT_CHECKPOINT, STATE, SegmentFileKind, Suffix,
};
use crate::inspect::{self, Entry, Kind};
use crate::log::Log;
use crate::offset::Offset;
use crate::recovery::Gaps;
use crate::recovery::RecoveryReport;
use crate::segment::scan::OFFSETS_MAX;
use crate::storage::{FileSystem, Storage};

/// How to plan a repair.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// The storage. Default: the file system.
    pub storage: Option<Arc<dyn Storage>>,
    /// Takes gaps between segments for ones that a compaction left: what follows them is kept in place. Default
    /// `false`.
    pub allow_gaps: bool,
}

/// What a repair would do to a log directory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RepairPlan {
    /// The log directory.
    pub dir: PathBuf,
    /// Whether gaps are allowed.
    pub allow_gaps: bool,
    /// What is to be done, partition by partition; empty where nothing is wrong.
    pub steps: Vec<Step>,
}

/// One thing that a repair does.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Step {
    /// Bytes at the end of a segment are copied aside and cut off.
    Cut {
        /// The `.log` file.
        path: PathBuf,
        /// Where they begin.
        position: u64,
        /// How many.
        bytes: u64,
        /// The log end from there on.
        end: Offset,
        /// Whole, valid batches among them, whose records go with them.
        batches: u64,
    },
    /// A segment lies behind damage, or behind a hole, and is put aside whole.
    PutAside {
        /// The `.log` file.
        path: PathBuf,
        /// The offsets in it.
        offsets: Range<Offset>,
        /// Whole, valid batches in it.
        batches: u64,
    },
    /// The first segments are missing: the log starts later.
    RaiseStart {
        /// The partition's directory.
        path: PathBuf,
        /// From the first to the second offset.
        offsets: Range<Offset>,
    },
    /// Offsets at the end that were durable are in no file: the log ends earlier, and they will be given out again.
    LowerEnd {
        /// The partition's directory.
        path: PathBuf,
        /// What is lost.
        offsets: Range<Offset>,
    },
    /// The `state` cannot be read: it is made anew from the segments.
    RewriteState {
        /// The file.
        path: PathBuf,
    },
}

impl RepairPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl fmt::Display for RepairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "{}: nothing to repair", self.dir.display());
        }
        write!(f, "{}: {} steps", self.dir.display(), self.steps.len())?;
        self.steps.iter().try_for_each(|step| write!(f, "\n  {step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Cut { path, position, bytes, end, batches } => write!(
                f,
                "{}: put {bytes} bytes from {position} on aside, {batches} valid batches among them; the log ends at {end}",
                path.display()
            ),
            Step::PutAside { path, offsets, batches } => write!(
                f,
                "{}: put the file aside, offsets [{}, {}), {batches} valid batches",
                path.display(),
                offsets.start,
                offsets.end
            ),
            Step::RaiseStart { path, offsets } => {
                write!(f, "{}: start at {} instead of {}", path.display(), offsets.end, offsets.start)
            }
            Step::LowerEnd { path, offsets } => {
                write!(f, "{}: give up offsets [{}, {})", path.display(), offsets.start, offsets.end)
            }
            Step::RewriteState { path } => write!(f, "{}: make it anew", path.display()),
        }
    }
}

/// Says what a repair would do. Reads every batch, and touches nothing; the log may be open, but what its owner is
/// writing may then look torn.
///
/// # Errors
/// [`ErrorKind::NotALog`], or an error of the operating system.
pub fn plan(dir: impl AsRef<Path>, options: &Options) -> Result<RepairPlan> {
    let dir = dir.as_ref();
    let storage: Arc<dyn Storage> = options.storage.clone().unwrap_or_else(|| Arc::new(FileSystem::new()));
    let directory = inspect::open_in(&*storage, dir)?;
    if directory.kind == Kind::Neither {
        return Err(Error::from(ErrorKind::NotALog).at_path(dir));
    }
    let mut plan = RepairPlan { dir: dir.to_path_buf(), allow_gaps: options.allow_gaps, steps: Vec::new() };
    for partition in &directory.partitions {
        let checkpoint = |name| directory.checkpoint(name, &partition.topic, partition.id);
        let kafkas = (directory.kind == Kind::Kafka || directory.kafka_since).then(|| Kafkas {
            log_start: checkpoint(LOG_START_CHECKPOINT),
            recovery_point: checkpoint(RECOVERY_POINT_CHECKPOINT),
            cleaned_to: checkpoint(CLEANER_CHECKPOINT),
        });
        plan.steps.extend(plan_partition(&*storage, &partition.path, kafkas, options.allow_gaps)?);
    }
    Ok(plan)
}

/// What Kafka's checkpoint files say of a partition of Kafka's, or that Kafka had since.
struct Kafkas {
    log_start: Option<Offset>,
    recovery_point: Option<Offset>,
    /// How far its cleaner is known to have come.
    cleaned_to: Option<Offset>,
}

/// Where the two ends of a partition should be.
#[derive(Default)]
struct Ends {
    log_start: Offset,
    durable_end: Offset,
    /// They are those of a `state` that counts: a segment holds the first.
    by_state: bool,
}

/// Carries out a plan: opens the log in [`RecoveryMode::Salvage`] and closes it. `config` is as for [`Log::open`]; its
/// recovery mode and `allow_gaps` are set here. Returns what recovery did.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] when the directory is no longer what it was planned for; else as [`Log::open`].
pub fn run(plan_made: &RepairPlan, config: LogConfig) -> Result<RecoveryReport> {
    let options = Options { storage: config.storage.clone(), allow_gaps: plan_made.allow_gaps };
    if plan(&plan_made.dir, &options)? != *plan_made {
        return Err(ErrorKind::InvalidConfig("the directory has changed since the repair was planned".into()).into());
    }
    let config = LogConfig { recovery: RecoveryMode::Salvage, allow_gaps: plan_made.allow_gaps, ..config };
    let log = Log::open(&plan_made.dir, config)?;
    let report = log.recovery_report().clone();
    log.close()?;
    Ok(report)
}

/// What is found of a segment.
struct Found {
    path: PathBuf,
    base: Offset,
    /// One past the last offset below the first damage.
    end: Offset,
    /// One past the last offset of all.
    last: Offset,
    batches: u64,
    damage: Option<Damage>,
}

struct Damage {
    position: u64,
    bytes: u64,
    batches: u64,
}

/// Gaps between segments that are no damage.
enum KnownGaps {
    /// All are.
    All,
    /// Those on record.
    Recorded(Vec<Range<Offset>>),
    /// What Kafka's cleaner left, and the segments that are about to be removed.
    Kafka(Gaps, Vec<Offset>),
}

impl KnownGaps {
    /// Whether a gap behind the segment of this base is one of them.
    fn contains(&self, base: Offset, gap: &Range<Offset>) -> bool {
        match self {
            KnownGaps::All => true,
            KnownGaps::Recorded(gaps) => gaps.iter().any(|known| known.start <= gap.start && gap.end <= known.end),
            KnownGaps::Kafka(gaps, deleted) => gaps.explain(base, gap, deleted),
        }
    }
}

/// `kafkas` is what is known beside the `state`, which tells of another time then.
fn plan_partition(storage: &dyn Storage, dir: &Path, kafkas: Option<Kafkas>, allow_gaps: bool) -> Result<Vec<Step>> {
    let state_file = inspect::state(storage, dir)?;
    let state = state_file.as_ref().and_then(|file| file.newest().cloned());
    let mut steps = Vec::new();
    if kafkas.is_none() && state.is_none() {
        steps.push(Step::RewriteState { path: dir.join(STATE) });
    }
    let (mut segments, mut lens, mut deleted): (Vec<Found>, Vec<_>, Vec<_>) = Default::default();
    for file in inspect::files(storage, dir)? {
        match file.segment() {
            Some((base, SegmentFileKind::Log, Suffix::None)) => {
                segments.push(find(storage, &file.path, base, file.len)?);
                lens.push((base, file.len));
            }
            Some((base, SegmentFileKind::Log, Suffix::Deleted)) => deleted.push(base),
            _ => {}
        }
    }
    let recorded = state.as_ref().map(|state| state.adopted_gaps.clone()).unwrap_or_default();
    let known_gaps = match &kafkas {
        _ if allow_gaps => KnownGaps::All,
        Some(kafkas) => KnownGaps::Kafka(Gaps::of(kafkas.cleaned_to, state.as_ref(), &lens), deleted),
        None => KnownGaps::Recorded(recorded),
    };
    let durable_end = state.as_ref().map(|state| state.durable_end);
    let ends = match (&kafkas, &state) {
        (None, None) => Ends::default(),
        (None, Some(state)) => Ends { log_start: state.log_start, durable_end: state.durable_end, by_state: true },
        (Some(kafkas), _) => Ends {
            log_start: kafkas.log_start.unwrap_or_default(),
            durable_end: kafkas.recovery_point.or(durable_end).unwrap_or_default(),
            by_state: false,
        },
    };
    steps.extend(decide(dir, &segments, &ends, &known_gaps));
    Ok(steps)
}

fn find(storage: &dyn Storage, path: &Path, base: Offset, len: u64) -> Result<Found> {
    let mut found = Found { path: path.to_path_buf(), base, end: base, last: base, batches: 0, damage: None };
    for entry in inspect::batches(storage, path)? {
        let at = |position| Damage { position, bytes: len - position, batches: 0 };
        match entry? {
            Entry::Batch { position, batch } => {
                let header = batch.header();
                let in_order = header.base_offset >= found.end && header.last_offset().since(base) <= OFFSETS_MAX;
                if !in_order && found.damage.is_none() {
                    found.damage = Some(at(position));
                }
                found.batches += 1;
                if in_order {
                    found.last = header.next_offset().max(found.last);
                }
                match &mut found.damage {
                    Some(damage) => damage.batches += 1,
                    None => found.end = header.next_offset(),
                }
            }
            Entry::Zeros { .. } => {}
            Entry::Damage { position, .. } => {
                found.damage.get_or_insert_with(|| at(position));
            }
        }
    }
    Ok(found)
}

/// Pure: what is done to segments that were found like this.
fn decide(dir: &Path, segments: &[Found], ends: &Ends, known_gaps: &KnownGaps) -> Vec<Step> {
    let mut steps = Vec::new();
    let Ends { log_start, durable_end, by_state } = *ends;
    let put_aside = |segment: &Found| Step::PutAside {
        path: segment.path.clone(),
        offsets: segment.base..segment.last,
        batches: segment.batches,
    };
    // Segments at the head that hold nothing, though offsets are missing behind: what follows them stays.
    let hollow = (0..segments.len()).take_while(|&at| {
        let base = segments[at].base;
        let next = segments.get(at + 1).map(|next| next.base);
        let gap = base..next.unwrap_or(if by_state { durable_end } else { log_start });
        let is_known = next.is_some() && known_gaps.contains(base, &gap);
        segments[at].end == base && !gap.is_empty() && gap.end > log_start && !is_known
    });
    let (hollow, segments) = segments.split_at(hollow.count());
    steps.extend(hollow.iter().map(put_aside));
    let starts_at = segments.first().map_or(durable_end, |first| first.base);
    if by_state && starts_at > log_start {
        steps.push(Step::RaiseStart { path: dir.to_path_buf(), offsets: log_start..starts_at });
    }
    if segments.is_empty() {
        return steps;
    }
    let (mut end, mut before): (Option<Offset>, Option<Offset>) = (None, None);
    let mut broken = false;
    for segment in segments {
        let is_hole = end.zip(before).is_some_and(|(end, before)| {
            let gap = end..segment.base;
            !gap.is_empty() && !known_gaps.contains(before, &gap) && gap.end > log_start
        });
        let overlaps = end.is_some_and(|end| end > segment.base);
        before = Some(segment.base);
        broken |= is_hole || overlaps;
        if broken {
            steps.push(put_aside(segment));
            continue;
        }
        if let Some(damage) = &segment.damage {
            steps.push(Step::Cut {
                path: segment.path.clone(),
                position: damage.position,
                bytes: damage.bytes,
                end: segment.end,
                batches: damage.batches,
            });
            broken = true;
        }
        end = Some(segment.end);
    }
    let end = end.unwrap_or(log_start);
    if end < durable_end {
        steps.push(Step::LowerEnd { path: dir.to_path_buf(), offsets: end..durable_end });
    }
    steps
}
