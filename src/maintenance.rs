//! One pass over a partition: roll what is old enough, retain, reap. The log's thread loops over it, or its owner does.

use crate::compaction::pass::{self, CompactMode, CompactionReport};
use crate::config::Cleanup;
use crate::error::{Error, ErrorKind, Result};
use crate::offset::Timestamp;
use crate::retention::{self, Retained};
use crate::shared::Shared;

/// What a pass over one partition did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PassReport {
    /// The active segment was sealed for its age.
    pub rolled: bool,
    /// Segments that retention removed.
    pub segments_removed: usize,
    /// What compaction did; `None` when the topic is not compacted, or it failed.
    pub compaction: Option<CompactionReport>,
    /// When the next pass has something to do; `None` when only new records make work.
    pub next_deadline: Option<Timestamp>,
    /// What went wrong; the other parts of the pass went on.
    pub errors: Vec<Error>,
}

/// Runs a pass. No part of it depends on another one's success.
pub(crate) fn pass(shared: &Shared, now: Timestamp) -> PassReport {
    let mut report = PassReport::default();
    let _pass = shared.lock_pass();
    if shared.check_writable().is_err() {
        return report;
    }
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            report.errors.push(error);
        }
    };
    let mut rolled = false;
    note(roll_if_due(shared, now).map(|done| rolled = done));
    note(shared.release_idle(now));
    let mut retained = Retained::default();
    note(retention::run(shared, now).map(|done| retained = done));
    let mut compaction = None;
    if shared.config().cleanup != Cleanup::Delete {
        note(compact(shared, now, CompactMode::Due).map(|done| compaction = Some(done)));
    }
    note(shared.reap().map(|_| ()));
    report.rolled = rolled;
    report.segments_removed = retained.removed;
    let compaction_due = compaction.as_ref().and_then(|done| done.next_deadline);
    report.next_deadline = shared.lock_active().roll_due().into_iter().chain(compaction_due).chain(retained.next).min();
    report.compaction = compaction;
    shared.counters.segments_removed.add(retained.removed as u64);
    report
}

/// Applies retention to a partition; the caller holds its maintenance lock.
pub(crate) fn retain(shared: &Shared, now: Timestamp) -> Result<usize> {
    let removed = retention::run(shared, now)?.removed;
    shared.counters.segments_removed.add(removed as u64);
    shared.reap()?;
    Ok(removed)
}

/// Compacts a partition; the caller holds its maintenance lock.
pub(crate) fn compact(shared: &Shared, now: Timestamp, mode: CompactMode) -> Result<CompactionReport> {
    let hasher = shared.budgets.hasher.get().ok_or(ErrorKind::ReadOnly)?;
    pass::compact(shared, hasher, &shared.budgets.compaction_memory, now, mode)
}

fn roll_if_due(shared: &Shared, now: Timestamp) -> Result<bool> {
    let mut active = shared.lock_active();
    if active.roll_due().is_none_or(|due| due > now) {
        return Ok(false);
    }
    active.roll(shared, now).map(|()| true)
}
