//! What to do with a partition directory, decided from what is seen in it: pure, first matching row.
//!
//! Every step is idempotent and each one, carried out, makes another row match when the directory is looked at again;
//! the last row opens the chain. `tests` walk every combination of small directories.

use std::ops::Range;

use crate::format::{Pending, State};
use crate::offset::Offset;
use crate::segment::listing::{SeenLog, SeenSwap};

/// What is seen of a partition directory.
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
    /// A gap between segments is taken for one that a compaction left.
    pub(crate) allow_gaps: bool,
}

/// What is known of a directory before its files are looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Our `state`, as it was written last.
    State(Known),
    /// Ours, but the `state` is gone or damaged.
    Lost {
        /// What Kafka's checkpoint, which we write at close, says.
        log_start: Option<Offset>,
    },
    /// Kafka's, and never ours, or Kafka's since.
    Kafka { log_start: Option<Offset>, gaps: Gaps },
}

/// What explains gaps in a directory of Kafka's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gaps {
    /// Those below are what its cleaner left.
    pub(crate) cleaned_to: Option<Offset>,
    /// Those on record.
    pub(crate) recorded: Vec<Range<Offset>>,
    /// Of a directory that was ours before: the bases of segments that Kafka has written since. A gap behind one of them
    /// its cleaner may have left; behind any other a segment is missing.
    pub(crate) written: Vec<Offset>,
}

impl Gaps {
    /// What is known of a directory of Kafka's: `earlier` is the `state` from before Kafka had it, and `logs` are the
    /// bases and lengths of the segments that are there.
    pub(crate) fn of(cleaned_to: Option<Offset>, earlier: Option<&State>, logs: &[(Offset, u64)]) -> Gaps {
        let Some(state) = earlier else { return Gaps { cleaned_to, ..Gaps::default() } };
        let is_written = |(base, len): &&(Offset, u64)| match state.segments.iter().find(|known| known.base == *base) {
            Some(known) => known.len != *len,
            None => *base > state.active_base,
        };
        let written = logs.iter().filter(is_written).map(|(base, _)| *base).collect();
        Gaps { cleaned_to, recorded: state.adopted_gaps.clone(), written }
    }

    /// Whether a gap behind the segment of this base is no missing segment. `deleted` are the bases of segments that
    /// are about to be removed.
    pub(crate) fn explain(&self, base: Offset, gap: &Range<Offset>, deleted: &[Offset]) -> bool {
        self.cleaned_to.is_some_and(|to| gap.end <= to)
            || deleted.iter().any(|deleted| (base..gap.end).contains(deleted))
            || self.recorded.iter().any(|known| known.start <= gap.start && gap.end <= known.end)
            || self.written.contains(&base)
    }
}

/// The part of the `state` that decides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known {
    pub(crate) log_start: Offset,
    pub(crate) active_base: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) pending: Pending,
    pub(crate) adopted_gaps: Vec<Range<Offset>>,
}

/// The next thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Do a truncation or reset again, from its first step.
    Redo(Pending),
    /// Kafka's rule: a swap at or behind an unfinished `.cleaned` was not finished either. Put it aside.
    DropSwap(Offset),
    /// A committed swap: the segments that it replaces go, it takes their place.
    FinishSwap { swap: Offset, replaced: Vec<Offset> },
    /// Remove temporary files, and make that durable before a name is used again.
    RemoveLeftovers,
    /// Remove segments that end at or below the log start.
    RemoveHead(Vec<Offset>),
    /// There is nothing yet: make the first segment.
    Create(Offset),
    /// The chain is whole up to its last segment, whose tail is scanned next.
    Open { log_start: Offset, adopted_gaps: Vec<Range<Offset>> },
}

/// Why nothing is done and nothing is deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Offsets that should be there are in no file.
    Missing(Range<Offset>),
    /// Two files claim these offsets.
    Overlap(Range<Offset>),
    /// A committed swap that cannot be read, and what it replaced is gone; or one that does not hold what it replaces.
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

/// The first row that matches.
pub(crate) fn plan(seen: &Seen) -> Result<Step, Refusal> {
    // Row A: an operation that `state` says was begun.
    if let Origin::State(known) = &seen.origin
        && known.pending != Pending::None
    {
        return plan_redo(seen, known);
    }
    // Row B: swaps, finished or put aside.
    if let Some(swap) = seen.swaps.first() {
        return plan_swap(seen, swap);
    }
    // Row C: leftovers. Kafka's `.deleted` files explain gaps, so they stay until the gaps are on record.
    if seen.leftovers && !seen.origin.is_kafka() {
        return Ok(Step::RemoveLeftovers);
    }
    // Row D: nothing yet. A `state` says that there was a segment once.
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
        // Checkpoints lag behind: retention may have removed the segments that they begin with.
        Origin::Lost { log_start } | Origin::Kafka { log_start, .. } => log_start.unwrap_or_default().max(first.base),
    };
    // Row E: the head that retention gave up.
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
    /// All offsets that there should be.
    fn all(&self) -> Range<Offset> {
        self.log_start..self.durable_end.max(self.active_base + 1).max(self.log_start + 1)
    }
}

/// A truncation removes what lies above it, never the segment that holds what lies below it.
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
    // An empty output replaces the segment of its own name only.
    let replaced = seen.logs.iter().map(|log| log.base).filter(|b| *b == swap.base || (*b > swap.base && *b < end));
    Ok(Step::FinishSwap { swap: swap.base, replaced: replaced.collect() })
}

/// Whether the segments that a swap replaces are all still there.
fn is_covered(seen: &Seen, base: Offset) -> bool {
    // Kafka splits a segment into several swaps: they begin within it.
    let holds = |log: &SeenLog| log.base == base || (log.base < base && log.end > base);
    let Some(at) = seen.logs.iter().position(holds) else { return false };
    // What was deleted explains no gap here: it is what the swap should have replaced.
    let mut rest = Seen { logs: seen.logs[at..].to_vec(), deleted: Vec::new(), allow_gaps: false, ..seen.clone() };
    if let Origin::Kafka { gaps, .. } = &mut rest.origin {
        gaps.written.clear();
    }
    check_active(&rest).is_ok() && check_chain(&rest, base).is_ok()
}

/// Whether a swap can be one of ours: it holds all offsets of the sealed segments that it replaces, since a compaction
/// keeps their end. Kafka's may end before them.
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

/// Segments that lie below the log start whole. The last file stays, and so does the active one.
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

/// Neighbours must meet. What lies behind the active segment of `state` is tail, and judged when it is scanned.
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
        // Below the log start nothing is missed.
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
