//! Maintenance of a partition: rolls by age, retention, compaction, and removal of retired segments that nobody reads
//! any more. The threads of the log run it, or the owner calls `Log::maintain`.
//!
//! All but compaction is short and runs for every partition at every tick. Compactions take turns: see [`schedule`].

pub(crate) mod compact;
mod damage;
mod eligibility;
pub(crate) mod retention;
pub(crate) mod schedule;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::compaction::Memory;
use crate::compaction::state::Standing;
use crate::compaction::{CompactMode, Order};
use crate::config::{Cleanup, Clock};
use crate::error::{Error, ErrorKind, Result};
use crate::offset::Timestamp;
use crate::partition::core::PartitionCore;
use crate::partition::stats::{CompactionReport, CompactionStats, FailedPass, LastPass};
use crate::sync::Instant;

use retention::Retained;
use schedule::TURN;

/// How long a partition waits after a failed compaction. Each further failure doubles the wait.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// What a maintenance pass over one partition did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PassReport {
    /// Whether the active segment was sealed for its age.
    pub rolled: bool,
    /// Segments that retention removed.
    pub segments_removed: usize,
    /// What compaction did; `None` if the topic is not compacted, or the compaction failed.
    pub compaction: Option<CompactionReport>,
    /// When the next pass has something to do; `None` if only new records make work.
    pub next_deadline: Option<Timestamp>,
    /// What went wrong. The other parts of the pass still ran.
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

/// Pauses maintenance of a partition until the guard is dropped: see `Partition::pause_maintenance`.
#[derive(Debug)]
#[must_use = "maintenance goes on when it is dropped"]
pub struct PauseGuard {
    core: Arc<PartitionCore>,
}

impl PauseGuard {
    pub(crate) fn new(core: &Arc<PartitionCore>) -> PauseGuard {
        core.pause();
        PauseGuard { core: Arc::clone(core) }
    }
}

impl Drop for PauseGuard {
    fn drop(&mut self) {
        self.core.resume();
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
pub(crate) fn run(core: &PartitionCore, now: Timestamp) -> PassReport {
    let mut report = PassReport::default();
    if core.check_writable().is_err() || core.is_paused() {
        return report;
    }
    report.rolled = report.note_roll(core, now);
    report.note(core.release_idle(now));
    report.note(core.finish_roll());
    let mut retained = Retained::default();
    match core.try_lock_pass() {
        Some(_pass) => retained = tidy(core, now, &mut report),
        None => core.lock_maintenance_state().waits = true,
    }
    report.segments_removed = retained.removed;
    core.tell();
    report.next_deadline = core.lock_active().roll_due().into_iter().chain(retained.next).min();
    report
}

/// Retention, and removal of what nobody reads any more. The caller holds the maintenance lock.
fn tidy(core: &PartitionCore, now: Timestamp, report: &mut PassReport) -> Retained {
    core.lock_maintenance_state().waits = false;
    // It may have been paused since.
    if core.is_paused() || core.check_writable().is_err() {
        return Retained::default();
    }
    let retained = report.note(retention::run(core, now));
    report.note(core.remove_retired());
    core.counters.segments_removed.add(retained.removed as u64);
    retained
}

/// Applies retention to a partition; the caller holds its maintenance lock.
pub(crate) fn retain(core: &PartitionCore, now: Timestamp) -> Result<usize> {
    // It may have been deleted while the lock was waited for.
    core.check_writable()?;
    let removed = retention::run(core, now)?.removed;
    core.counters.segments_removed.add(removed as u64);
    core.remove_retired()?;
    Ok(removed)
}

impl PassReport {
    fn note_roll(&mut self, core: &PartitionCore, now: Timestamp) -> bool {
        let mut active = core.lock_active();
        if core.check_writable().is_err() || core.is_paused() || active.roll_due().is_none_or(|due| due > now) {
            return false;
        }
        let rolled = active.roll(core, now).map(|()| true);
        drop(active);
        self.note(rolled)
    }
}

/// Whether a compaction is due, and since when at the latest. Looks at no file.
pub(crate) fn due(core: &PartitionCore, now: Timestamp) -> Option<Option<Timestamp>> {
    if core.check_writable().is_err() || core.is_paused() || core.is_wanted() {
        return None;
    }
    let retry_at = {
        let state = core.lock_maintenance_state();
        if state.busy || state.not_before.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        state.failed.as_ref().map(|failed| failed.retry_at)
    };
    match eligibility::standing(core, now) {
        Standing::Due(since) if retry_at.is_none_or(|at| at <= now) => Some(since),
        _ => None,
    }
}

/// When there is something to do for a partition that has nothing to do now, and what its compaction reports then.
pub(crate) fn idle(core: &PartitionCore, now: Timestamp) -> Option<CompactionReport> {
    let mut report = match eligibility::standing(core, now) {
        _ if core.config().cleanup == Cleanup::Delete || core.check_writable().is_err() => return None,
        Standing::Idle(next) => eligibility::idle(core, now, next),
        Standing::Due(_) => CompactionReport { unfinished: true, ..eligibility::idle(core, now, None) },
    };
    if let Some(failed) = &core.lock_maintenance_state().failed {
        report.next_deadline = Some(failed.retry_at);
    }
    Some(report)
}

/// A partition's turn: compacts until `is_over` says so, and then does what waited for it.
pub(crate) fn turn(core: &PartitionCore, now: Timestamp, is_over: &dyn Fn(Duration) -> bool) -> (Outcome, PassReport) {
    let mut report = PassReport::default();
    let Some(pass) = core.try_lock_pass() else { return (Outcome::Busy, report) };
    if core.is_paused() {
        return (Outcome::Busy, report);
    }
    let is_over = |prepared: Duration| is_over(prepared) || core.lock_maintenance_state().waits;
    let outcome = match compact(core, now, CompactMode::Due, &is_over, None) {
        Ok(done) => Outcome::Done(done),
        Err(error) => Outcome::Failed(error),
    };
    report.segments_removed = tidy(core, now, &mut report).removed;
    drop(pass);
    core.tell();
    (outcome, report)
}

/// Compacts a partition until nothing is left to do, or somebody else asks for it. Where maintenance waits it has its turn
/// now and then, at most half of the time; the caller holds the maintenance lock.
pub(crate) fn compact_all(
    core: &PartitionCore,
    now: Timestamp,
    mode: CompactMode,
    clock: &dyn Clock,
) -> Result<CompactionReport> {
    let began = Cell::new(Instant::now());
    let is_over = |prepared: Duration| {
        core.lock_maintenance_state().waits && began.get().elapsed() >= TURN.max(prepared.saturating_mul(2))
    };
    let between = || {
        // By the time that it is: the caller may compact as if it were later. What fails is tried again at the next look.
        tidy(core, clock.now(), &mut PassReport::default());
        began.set(Instant::now());
    };
    compact(core, now, mode, &is_over, Some(&between))
}

/// Compacts a partition, and remembers how it went; the caller holds its maintenance lock.
fn compact(
    core: &PartitionCore,
    now: Timestamp,
    mode: CompactMode,
    is_over: &dyn Fn(Duration) -> bool,
    between: Option<&dyn Fn()>,
) -> Result<CompactionReport> {
    let hasher = core.resources.hasher.get().ok_or(ErrorKind::ReadOnly)?;
    let began = Instant::now();
    let memory = Memory::new(core.resources.compaction_memory, core.resources.compaction_files);
    let order = Order { hasher, memory: &memory, now, mode, is_over, between };
    let done = compact::compact(core, &order);
    let mut state = core.lock_maintenance_state();
    match &done {
        Ok(report) => {
            state.failed = None;
            state.last = Some(Box::new(LastPass { at: now, took: began.elapsed(), report: report.clone() }));
        }
        // A mistake of the caller's, or an end: nothing to try again.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidConfig(_) | ErrorKind::Closed) => {}
        Err(error) => {
            let failures = state.failed.as_ref().map_or(0, |failed| failed.failures) + 1;
            let retry_at = now.plus_millis(retry_after(failures).as_millis() as i64);
            state.failed = Some(FailedPass { error: error.clone(), failures, retry_at });
        }
    }
    done
}

fn retry_after(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(RETRY_MAX)
}

/// What is told of a partition's compaction.
pub(crate) fn compaction_stats(core: &PartitionCore, now: Timestamp) -> CompactionStats {
    if core.config().cleanup == Cleanup::Delete {
        return CompactionStats { paused: core.is_paused(), ..CompactionStats::default() };
    }
    let view = core.view.load();
    let (counted_to, tombstones) = {
        let counted = core.lock_compaction_state();
        (counted.counted_to(), counted.tombstones)
    };
    let (counted, new) = view.sealed().split_at(view.sealed().partition_point(|segment| segment.end() <= counted_to));
    let (last_pass, failed) = {
        let state = core.lock_maintenance_state();
        (state.last.as_deref().cloned(), state.failed.clone())
    };
    let next_deadline = match (&failed, eligibility::standing(core, now)) {
        (Some(failed), _) => Some(failed.retry_at),
        (None, Standing::Idle(next)) => next,
        (None, Standing::Due(since)) => Some(since.unwrap_or(now)),
    };
    CompactionStats {
        dirty_bytes: new.iter().map(|segment| segment.len()).sum(),
        dead_records: counted.iter().map(|segment| u64::from(segment.meta().dead_records)).sum(),
        dead_bytes: counted.iter().map(|segment| u64::from(segment.meta().dead_bytes)).sum(),
        tombstones,
        last_pass,
        failed,
        next_deadline,
        pinned_by: eligibility::pinned_by(core, now),
        paused: core.is_paused(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Arc;

    /// A topic is deleted and made again while a pass over the old one is under way; the new file has the old one's name
    /// and, as the file system gives numbers out again, its identity.
    #[test]
    fn a_pass_over_a_deleted_topic_leaves_the_one_that_has_its_name_alone() {
        let storage = crate::sim::SimStorage::new();
        let config = crate::LogConfig::new().storage(Arc::new(storage.clone())).min_free_bytes(0);
        let log = crate::Log::open("/log", config.maintenance_interval(None).sync_threads(0)).unwrap();
        let append = |count: u64| {
            let partition = log.partition("t", 0).unwrap();
            for _ in 0..count {
                partition.append_records([crate::Record::new("k", "v")]).unwrap();
            }
            partition
        };
        let topic = crate::TopicConfig::new().segment_age(Duration::from_millis(1));
        log.create_topic("t", 1, topic.clone()).unwrap();
        let old = Arc::clone(&append(10).core);
        let identity = |core: &PartitionCore| core.dir.storage.info(&core.view.load().active().path()).unwrap().id;
        let before = identity(&old);
        let made_again = (0..20).find(|_| {
            log.delete_topic("t").unwrap();
            log.create_topic("t", 1, topic.clone()).unwrap();
            identity(&log.partition("t", 0).unwrap().core) == before
        });
        assert!(made_again.is_some(), "the identity is used again");
        let new = append(1000);
        let later = old.config().segment_age;
        let now = Timestamp::from_millis(i64::MAX / 2 + later.as_millis() as i64);
        let mut report = PassReport::default();
        for _ in 0..3 {
            assert!(!report.note_roll(&old, now));
            old.release_idle(now).unwrap();
            report.note(old.remove_retired().map(|_| ()));
            assert!(retain(&old, now).is_err());
        }
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        let mut reader = new.reader(crate::Offset::ZERO).unwrap();
        (0..1000).for_each(|_| assert!(reader.next_record().unwrap().is_some()));
        assert_eq!(storage.take_violations(), Vec::<String>::new());
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<u64> = (1..=11).map(|failures| retry_after(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(retry_after(u32::MAX), RETRY_MAX);
    }
}
