//! What is done for a partition without being asked: rolls by age, retention, compaction, removal of what nobody reads
//! any more. The threads of the log do it, or its owner does by `Log::maintain`.
//!
//! All but compaction is done for every partition at every tick, and is short. Compactions have turns: see
//! [`schedule`].

pub(crate) mod schedule;

use std::sync::Arc;
use std::time::Duration;

use crate::compaction::Memory;
use crate::compaction::{CompactMode, Order, pass};
use crate::config::Cleanup;
use crate::counted::{self, Standing};
use crate::error::{Error, ErrorKind, Result};
use crate::offset::Timestamp;
use crate::retention::{self, Retained};
use crate::shared::Shared;
use crate::stats::{CompactionReport, CompactionStats, FailedPass, LastPass};
use crate::sync::Instant;

/// After a compaction that failed the next one waits for so long; each further failure doubles it.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest that it waits.
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

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

impl PassReport {
    fn note<T: Default>(&mut self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            self.errors.push(error);
            T::default()
        })
    }
}

/// Keeps maintenance away from a partition until it is dropped: see `Partition::pause_maintenance`.
#[derive(Debug)]
#[must_use = "maintenance goes on when it is dropped"]
pub struct PauseGuard {
    shared: Arc<Shared>,
}

impl PauseGuard {
    pub(crate) fn new(shared: &Arc<Shared>) -> PauseGuard {
        shared.pause();
        PauseGuard { shared: Arc::clone(shared) }
    }
}

impl Drop for PauseGuard {
    fn drop(&mut self) {
        self.shared.resume();
    }
}

/// What a turn came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The compaction ended, or stopped to go on at another turn.
    Done(CompactionReport),
    /// It failed, and is tried again later.
    Failed(Error),
    /// Somebody else has the partition.
    Busy,
}

/// Everything but compaction. No part of it depends on another one's success. Where a compaction has the partition,
/// what needs it alone is done at the compaction's next stop. Called without a lock, as [`turn`] is.
pub(crate) fn upkeep(shared: &Shared, now: Timestamp) -> PassReport {
    let mut report = PassReport::default();
    if shared.check_writable().is_err() || shared.is_paused() {
        return report;
    }
    report.rolled = report.note_roll(shared, now);
    report.note(shared.release_idle(now));
    report.note(shared.durability.finish_roll(shared));
    let mut retained = Retained::default();
    match shared.try_lock_pass() {
        Some(_pass) => retained = tidy(shared, now, &mut report),
        None => shared.lock_upkeep().waits = true,
    }
    report.segments_removed = retained.removed;
    shared.tell();
    report.next_deadline = shared.lock_active().roll_due().into_iter().chain(retained.next).min();
    report
}

/// Retention, and removal of what nobody reads any more. The caller holds the maintenance lock.
fn tidy(shared: &Shared, now: Timestamp, report: &mut PassReport) -> Retained {
    shared.lock_upkeep().waits = false;
    // It may have been paused since.
    if shared.is_paused() || shared.check_writable().is_err() {
        return Retained::default();
    }
    let retained = report.note(retention::run(shared, now));
    report.note(shared.reap());
    shared.counters.segments_removed.add(retained.removed as u64);
    retained
}

/// Applies retention to a partition; the caller holds its maintenance lock.
pub(crate) fn retain(shared: &Shared, now: Timestamp) -> Result<usize> {
    let removed = retention::run(shared, now)?.removed;
    shared.counters.segments_removed.add(removed as u64);
    shared.reap()?;
    Ok(removed)
}

impl PassReport {
    fn note_roll(&mut self, shared: &Shared, now: Timestamp) -> bool {
        let mut active = shared.lock_active();
        if shared.is_paused() || active.roll_due().is_none_or(|due| due > now) {
            return false;
        }
        let rolled = active.roll(shared, now).map(|()| true);
        drop(active);
        self.note(rolled)
    }
}

/// Whether a compaction is due, and since when at the latest. Looks at no file.
pub(crate) fn due(shared: &Shared, now: Timestamp) -> Option<Option<Timestamp>> {
    if shared.check_writable().is_err() || shared.is_paused() || shared.is_wanted() {
        return None;
    }
    let retry_at = {
        let upkeep = shared.lock_upkeep();
        if upkeep.busy || upkeep.not_before.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        upkeep.failed.as_ref().map(|failed| failed.retry_at)
    };
    match counted::standing(shared, now) {
        Standing::Due(since) if retry_at.is_none_or(|at| at <= now) => Some(since),
        _ => None,
    }
}

/// When there is something to do for a partition that has nothing to do now, and what its compaction reports then.
pub(crate) fn idle(shared: &Shared, now: Timestamp) -> Option<CompactionReport> {
    let mut report = match counted::standing(shared, now) {
        _ if shared.config().cleanup == Cleanup::Delete || shared.check_writable().is_err() => return None,
        Standing::Idle(next) => counted::idle(shared, now, next),
        Standing::Due(_) => CompactionReport { unfinished: true, ..counted::idle(shared, now, None) },
    };
    if let Some(failed) = &shared.lock_upkeep().failed {
        report.next_deadline = Some(failed.retry_at);
    }
    Some(report)
}

/// A partition's turn: compacts until `is_over` says so, and then does what waited for it.
pub(crate) fn turn(shared: &Shared, now: Timestamp, is_over: &dyn Fn(Duration) -> bool) -> (Outcome, PassReport) {
    let mut report = PassReport::default();
    let Some(pass) = shared.try_lock_pass() else { return (Outcome::Busy, report) };
    if shared.is_paused() {
        return (Outcome::Busy, report);
    }
    let outcome = match compact(shared, now, CompactMode::Due, is_over) {
        Ok(done) => Outcome::Done(done),
        Err(error) => Outcome::Failed(error),
    };
    report.segments_removed = tidy(shared, now, &mut report).removed;
    drop(pass);
    shared.tell();
    (outcome, report)
}

/// Compacts a partition, and remembers how it went; the caller holds its maintenance lock.
pub(crate) fn compact(
    shared: &Shared,
    now: Timestamp,
    mode: CompactMode,
    is_over: &dyn Fn(Duration) -> bool,
) -> Result<CompactionReport> {
    let hasher = shared.budgets.hasher.get().ok_or(ErrorKind::ReadOnly)?;
    let began = Instant::now();
    let is_over = |prepared: Duration| is_over(prepared) || shared.lock_upkeep().waits;
    let memory = Memory::new(shared.budgets.compaction_memory, shared.budgets.compaction_files);
    let order = Order { hasher, memory: &memory, now, mode, is_over: &is_over };
    let done = pass::compact(shared, &order);
    let mut upkeep = shared.lock_upkeep();
    match &done {
        Ok(report) => {
            upkeep.failed = None;
            upkeep.last = Some(Box::new(LastPass { at: now, took: began.elapsed(), report: report.clone() }));
        }
        // A mistake of the caller's, or an end: nothing to try again.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidConfig(_) | ErrorKind::Closed) => {}
        Err(error) => {
            let failures = upkeep.failed.as_ref().map_or(0, |failed| failed.failures) + 1;
            let retry_at = now.plus_millis(retry_after(failures).as_millis() as i64);
            upkeep.failed = Some(FailedPass { error: error.clone(), failures, retry_at });
        }
    }
    done
}

fn retry_after(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(RETRY_MAX)
}

/// What is told of a partition's compaction.
pub(crate) fn compaction_stats(shared: &Shared, now: Timestamp) -> CompactionStats {
    if shared.config().cleanup == Cleanup::Delete {
        return CompactionStats { paused: shared.is_paused(), ..CompactionStats::default() };
    }
    let view = shared.view.load();
    let (counted_to, tombstones) = {
        let counted = shared.lock_counted();
        (counted.counted_to(), counted.tombstones)
    };
    let (counted, new) = view.sealed().split_at(view.sealed().partition_point(|segment| segment.end() <= counted_to));
    let (last_pass, failed) = {
        let upkeep = shared.lock_upkeep();
        (upkeep.last.as_deref().cloned(), upkeep.failed.clone())
    };
    let next_deadline = match (&failed, counted::standing(shared, now)) {
        (Some(failed), _) => Some(failed.retry_at),
        (None, Standing::Idle(next)) => next,
        (None, Standing::Due(since)) => Some(since.unwrap_or(now)),
    };
    CompactionStats {
        dirty_bytes: new.iter().map(|segment| segment.len()).sum(),
        dead_records: counted.iter().map(|segment| u64::from(segment.facts().dead_records)).sum(),
        dead_bytes: counted.iter().map(|segment| u64::from(segment.facts().dead_bytes)).sum(),
        tombstones,
        last_pass,
        failed,
        next_deadline,
        pinned_by: counted::pinned_by(shared, now),
        paused: shared.is_paused(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<u64> = (1..=11).map(|failures| retry_after(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(retry_after(u32::MAX), RETRY_MAX);
    }
}
