//! Decides what to do with a partition directory from what was seen in it. A pure function: the first matching row
//! applies.
//!
//! Every step is idempotent. Each one, once carried out, makes another row match when the directory is looked at again.
//! The last row opens the chain. `tests` walk every combination of small directories.

use std::ops::Range;

use crate::format::{Pending, State};
use crate::offset::Offset;
use crate::segment::listing::{SeenLog, SeenSwap};

/// The relevant contents of a partition directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) origin: Origin,
    /// In order of their bases.
    pub(crate) logs: Vec<SeenLog>,
    /// In order of their bases.
    pub(crate) swaps: Vec<SeenSwap>,
    /// The lowest base of an unfinished `.log.cleaned`.
    pub(crate) lowest_cleaned: Option<Offset>,
    /// The bases of `.log.deleted` files.
    pub(crate) deleted: Vec<Offset>,
    /// Temporary files of any kind, `.cleaned` and `.deleted` ones among them.
    pub(crate) leftovers: bool,
    /// Treat gaps between segments as left by compaction.
    pub(crate) allow_gaps: bool,
}

/// The facts about a directory that are known before its files are looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Our `state`, as last written.
    State(Known),
    /// The directory is ours, but the `state` is gone or damaged.
    Lost {
        /// The log start in Kafka's checkpoint, which we write at close.
        log_start: Option<Offset>,
    },
    /// The directory is Kafka's and never was ours, or has become Kafka's again since.
    Kafka { log_start: Option<Offset>, gaps: Gaps },
}

/// The explanations for gaps in a directory of Kafka's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gaps {
    /// Gaps below this were left by Kafka's cleaner.
    pub(crate) cleaned_to: Option<Offset>,
    /// Gaps that `state` records.
    pub(crate) recorded: Vec<Range<Offset>>,
    /// For a directory that was ours before: the bases of segments that Kafka has written since. Kafka's cleaner may
    /// have left a gap behind one of them. A gap behind any other segment means that a segment is missing.
    pub(crate) written: Vec<Offset>,
}

impl Gaps {
    /// Collects the explanations for gaps. `earlier` is the `state` from before Kafka had the directory, and `logs` are
    /// the bases and lengths of the existing segments.
    pub(crate) fn of(cleaned_to: Option<Offset>, earlier: Option<&State>, logs: &[(Offset, u64)]) -> Gaps {
        let Some(state) = earlier else { return Gaps { cleaned_to, ..Gaps::default() } };
        let is_written = |(base, len): &&(Offset, u64)| match state.segments.iter().find(|known| known.base == *base) {
            Some(known) => known.len != *len,
            None => *base > state.active_base,
        };
        let written = logs.iter().filter(is_written).map(|(base, _)| *base).collect();
        Gaps { cleaned_to, recorded: state.adopted_gaps.clone(), written }
    }

    /// Whether a gap behind the segment with this base is explained, so that no segment is missing. `deleted` are the
    /// bases of segments that are about to be removed.
    pub(crate) fn explain(&self, base: Offset, gap: &Range<Offset>, deleted: &[Offset]) -> bool {
        self.cleaned_to.is_some_and(|to| gap.end <= to)
            || deleted.iter().any(|deleted| (base..gap.end).contains(deleted))
            || self.recorded.iter().any(|known| known.start <= gap.start && gap.end <= known.end)
            || self.written.contains(&base)
    }
}

/// The part of the `state` on which the decision depends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known {
    pub(crate) log_start: Offset,
    pub(crate) active_base: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) pending: Pending,
    pub(crate) adopted_gaps: Vec<Range<Offset>>,
}

/// The next step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Redo a truncation or reset from its first step.
    Redo(Pending),
    /// Kafka's rule: a swap at or behind an unfinished `.cleaned` was not finished either. Put it aside.
    DropSwap(Offset),
    /// Finish a committed swap: remove the segments that it replaces, and put it in their place.
    FinishSwap { swap: Offset, replaced: Vec<Offset> },
    /// Remove temporary files, and make that durable before a name is used again.
    RemoveLeftovers,
    /// Remove segments that end at or below the log start.
    RemoveHead(Vec<Offset>),
    /// Create the first segment: there is none yet.
    Create(Offset),
    /// Open the chain. It is complete up to its last segment, whose tail is scanned next.
    Open { log_start: Offset, adopted_gaps: Vec<Range<Offset>> },
}

/// The reason why nothing is done and nothing is deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Offsets that should be there are in no file.
    Missing(Range<Offset>),
    /// Two files claim these offsets.
    Overlap(Range<Offset>),
    /// A committed swap that cannot be read and whose inputs are gone, or one that does not hold everything that it
    /// replaces.
    BrokenSwap(Offset),
}

impl Default for Origin {
    fn default() -> Origin {
        Origin::State(Known::default())
    }
}

impl Origin {
    fn is_kafka(&self) -> bool {
        matches!(self, Origin::Kafka { .. })
    }
}

/// Returns the step of the first row that matches.
pub(crate) fn plan(seen: &Seen) -> Result<Step, Refusal> {
    // Row A: an operation that `state` records as pending.
    if let Origin::State(known) = &seen.origin
        && known.pending != Pending::None
    {
        return plan_redo(seen, known);
    }
    // Row B: swaps, to be finished or put aside.
    if let Some(swap) = seen.swaps.first() {
        return plan_swap(seen, swap);
    }
    // Row C: leftovers. Kafka's `.deleted` files explain gaps, so they stay until the gaps are on record.
    if seen.leftovers && !seen.origin.is_kafka() {
        return Ok(Step::RemoveLeftovers);
    }
    // Row D: no segment yet. If there is a `state`, there was a segment once.
    let Some(first) = seen.logs.first() else {
        return match &seen.origin {
            Origin::State(known) => Err(Refusal::Missing(known.all())),
            Origin::Lost { log_start } | Origin::Kafka { log_start, .. } => {
                Ok(Step::Create(log_start.unwrap_or_default()))
            }
        };
    };
    let log_start = match &seen.origin {
        Origin::State(known) => known.log_start,
        // Checkpoints lag behind: retention may have removed the segments at which they start.
        Origin::Lost { log_start } | Origin::Kafka { log_start, .. } => log_start.unwrap_or_default().max(first.base),
    };
    // Row E: the head that retention has released.
    let gone = removable_head(seen, log_start);
    if !gone.is_empty() {
        return Ok(Step::RemoveHead(gone));
    }
    // Row F: the two ends of the chain.
    if first.base > log_start {
        return Err(Refusal::Missing(log_start..first.base));
    }
    check_active(seen)?;
    // Row G: the chain between them.
    let adopted_gaps = check_chain(seen, log_start)?;
    Ok(Step::Open { log_start, adopted_gaps })
}

impl Known {
    /// All offsets that should be in the log.
    fn all(&self) -> Range<Offset> {
        self.log_start..self.durable_end.max(self.active_base + 1).max(self.log_start + 1)
    }
}

/// Plans the redo of a pending operation. A truncation removes what lies above its target, never the segment that holds
/// the offsets below it.
fn plan_redo(seen: &Seen, known: &Known) -> Result<Step, Refusal> {
    match known.pending {
        Pending::Truncate(to) if seen.logs.first().is_none_or(|first| first.base > to) => {
            Err(Refusal::Missing(known.log_start.min(to)..to + 1))
        }
        pending => Ok(Step::Redo(pending)),
    }
}

fn plan_swap(seen: &Seen, swap: &SeenSwap) -> Result<Step, Refusal> {
    let covered = is_covered(seen, swap.base);
    let unfinished = seen.origin.is_kafka() && seen.lowest_cleaned.is_some_and(|cleaned| swap.base >= cleaned);
    let Some(end) = swap.end else {
        return if covered { Ok(Step::DropSwap(swap.base)) } else { Err(Refusal::BrokenSwap(swap.base)) };
    };
    if unfinished && covered {
        return Ok(Step::DropSwap(swap.base));
    }
    if !fits(seen, swap.base, end) {
        return Err(Refusal::BrokenSwap(swap.base));
    }
    // An empty output replaces only the segment of its own name.
    let replaced = seen.logs.iter().map(|log| log.base).filter(|b| *b == swap.base || (*b > swap.base && *b < end));
    Ok(Step::FinishSwap { swap: swap.base, replaced: replaced.collect() })
}

/// Whether all the segments that a swap replaces are still there.
fn is_covered(seen: &Seen, base: Offset) -> bool {
    // Kafka splits a segment into several swaps, which begin within it.
    let holds = |log: &SeenLog| log.base == base || (log.base < base && log.end > base);
    let Some(at) = seen.logs.iter().position(holds) else { return false };
    // Deleted segments explain no gap here: they are what the swap should have replaced.
    let mut rest = Seen { logs: seen.logs[at..].to_vec(), deleted: Vec::new(), allow_gaps: false, ..seen.clone() };
    if let Origin::Kafka { gaps, .. } = &mut rest.origin {
        gaps.written.clear();
    }
    check_active(&rest).is_ok() && check_chain(&rest, base).is_ok()
}

/// Whether a swap can be one of ours: it then holds all offsets of the sealed segments that it replaces, because a
/// compaction keeps their end. Kafka's may end earlier.
fn fits(seen: &Seen, base: Offset, end: Offset) -> bool {
    if seen.origin.is_kafka() {
        return true;
    }
    if let Origin::State(known) = &seen.origin
        && (base >= known.active_base || end > known.active_base)
    {
        return false;
    }
    seen.logs.iter().all(|log| match log.base {
        b if b < base => log.end <= base,
        b if b == base || b < end => log.end <= end,
        _ => true,
    })
}

/// Returns the segments that lie completely below the log start. The last file stays, and so does the active segment.
fn removable_head(seen: &Seen, log_start: Offset) -> Vec<Offset> {
    let active = if let Origin::State(known) = &seen.origin { known.active_base } else { Offset::MAX };
    let mut gone = Vec::new();
    for pair in seen.logs.windows(2) {
        let (log, next) = (pair[0], pair[1]);
        if log.end > log_start || next.base > log_start || log.base >= active {
            break;
        }
        gone.push(log.base);
    }
    gone
}

fn check_active(seen: &Seen) -> Result<(), Refusal> {
    let Origin::State(known) = &seen.origin else { return Ok(()) };
    match seen.logs.iter().find(|log| log.base == known.active_base) {
        None => Err(Refusal::Missing(known.active_base..known.durable_end.max(known.active_base + 1))),
        Some(active) if active.end < known.durable_end => Err(Refusal::Missing(active.end..known.durable_end)),
        Some(_) => Ok(()),
    }
}

/// Checks that neighbours meet, and returns the gaps that are explained. Segments behind the active segment of `state`
/// belong to the tail, and the scan judges them.
fn check_chain(seen: &Seen, log_start: Offset) -> Result<Vec<Range<Offset>>, Refusal> {
    let (active, known_gaps) = match &seen.origin {
        Origin::State(known) => (known.active_base, known.adopted_gaps.as_slice()),
        Origin::Lost { .. } | Origin::Kafka { .. } => (Offset::MAX, [].as_slice()),
    };
    let mut gaps: Vec<Range<Offset>> = Vec::new();
    for pair in seen.logs.windows(2) {
        let (log, next) = (pair[0], pair[1]);
        if next.base > active {
            break;
        }
        if log.end > next.base {
            return Err(Refusal::Overlap(next.base..log.end));
        }
        let gap = log.end..next.base;
        if gap.is_empty() {
            continue;
        }
        let known = known_gaps.iter().any(|known| known.start <= gap.start && gap.end <= known.end);
        // No records are missing below the log start.
        let explained = gap.end <= log_start
            || match &seen.origin {
                Origin::State(_) => known,
                Origin::Lost { .. } => false,
                Origin::Kafka { gaps, .. } => gaps.explain(log.base, &gap, &seen.deleted),
            };
        if !explained && !seen.allow_gaps {
            return Err(Refusal::Missing(gap));
        }
        gaps.push(gap);
    }
    Ok(gaps)
}

#[cfg(test)]
mod tests;
