//! Whose turn it is to be compacted.
//!
//! Partitions whose deadline has passed go first, the one that is overdue for longest before all others; the rest take
//! turns. A turn ends when its compaction does; or, where others wait, at the first stop after its time is over. Then
//! it is at the end of the line, overdue or not: so a large partition cannot starve the others.

use std::time::Duration;

use crate::error::Error;
use crate::offset::Timestamp;
use crate::partition::core::PartitionCore;
use crate::partition::stats::CompactionReport;
use crate::sync::{Arc, Instant, Mutex};

use super::{Outcome, PassReport, due, turn};

/// How long a turn is while others wait. It is longer where it took longer to prepare: a turn spends half of its time
/// on what it is for.
pub(super) const TURN: Duration = Duration::from_secs(1);
/// When a partition that somebody else has is tried again.
const BUSY: Duration = Duration::from_millis(100);

/// The line of a log's partitions. All threads, and its owner's calls, take their turns from the same.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// How many turns there were.
    turns: Mutex<u64>,
}

/// A turn that is to be [taken](Turn::take). It keeps its partition to itself until dropped.
pub(crate) struct Turn {
    schedule: Arc<Schedule>,
    core: Arc<PartitionCore>,
    all: Arc<[Arc<PartitionCore>]>,
}

impl Schedule {
    /// Whether there is a turn to be had.
    pub(crate) fn waits(
        &self,
        all: &[Arc<PartitionCore>],
        now: Timestamp,
        passes_over: &dyn Fn(&PartitionCore) -> bool,
    ) -> bool {
        let _turns = self.turns.lock();
        all.iter().any(|core| !passes_over(core) && due(core, now).is_some())
    }

    /// The next turn; `None` when nothing is to be done. Partitions that `passes_over` names have none.
    pub(crate) fn next(
        self: &Arc<Self>,
        all: &Arc<[Arc<PartitionCore>]>,
        now: Timestamp,
        passes_over: &dyn Fn(&PartitionCore) -> bool,
    ) -> Option<Turn> {
        let mut turns = self.turns.lock();
        let waiting = all.iter().filter(|core| !passes_over(core));
        let place = |core: &Arc<PartitionCore>| due(core, now).map(|since| Place::of(core, since));
        let (_, core) =
            waiting.filter_map(|core| place(core).map(|place| (place, core))).min_by_key(|(place, _)| *place)?;
        *turns += 1;
        let mut upkeep = core.lock_maintenance_state();
        (upkeep.busy, upkeep.last_turn, upkeep.not_before) = (true, *turns, None);
        drop(upkeep);
        Some(Turn { schedule: Arc::clone(self), core: Arc::clone(core), all: Arc::clone(all) })
    }
}

/// A place in the line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    Overdue(Timestamp),
    /// Behind all that had their last turn before.
    After(u64),
}

impl Place {
    fn of(core: &PartitionCore, since: Option<Timestamp>) -> Place {
        let upkeep = core.lock_maintenance_state();
        match since {
            Some(since) if !upkeep.unfinished => Place::Overdue(since),
            _ => Place::After(upkeep.last_turn),
        }
    }
}

impl Turn {
    /// Whose it is.
    pub(crate) fn core(&self) -> &Arc<PartitionCore> {
        &self.core
    }

    /// Takes it: `must_end` is the time by which it is over though nobody waits.
    pub(crate) fn take(
        self,
        now: Timestamp,
        must_end: Option<Instant>,
    ) -> (Result<Option<CompactionReport>, Error>, PassReport) {
        let began = Instant::now();
        let is_over = |prepared: Duration| {
            let time = Instant::now();
            must_end.is_some_and(|end| time >= end)
                || time.duration_since(began) >= TURN.max(prepared * 2) && self.others_wait(now)
        };
        let (outcome, report) = turn(&self.core, now, &is_over);
        let done = match outcome {
            Outcome::Done(done) => {
                self.core.lock_maintenance_state().unfinished = done.unfinished;
                Ok(Some(done))
            }
            Outcome::Failed(error) => Err(error),
            Outcome::Busy => {
                self.core.lock_maintenance_state().not_before = Some(Instant::now() + BUSY);
                Ok(None)
            }
        };
        (done, report)
    }

    fn others_wait(&self, now: Timestamp) -> bool {
        let myself = |other: &PartitionCore| std::ptr::eq(other, &*self.core);
        self.schedule.waits(&self.all, now, &myself)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.core.lock_maintenance_state().busy = false;
    }
}
