//! The order in which partitions are compacted.
//!
//! Partitions whose deadline has passed go first, starting with the one that is overdue longest; the rest take turns. A
//! turn ends when its compaction does, or, if other partitions wait, at the first stop after its time is over. The
//! partition then goes to the end of the line, overdue or not. So a large partition cannot starve the others.

use std::time::Duration;

use crate::error::Error;
use crate::offset::Timestamp;
use crate::partition::core::PartitionCore;
use crate::partition::stats::CompactionReport;
use crate::sync::{Arc, Instant, Mutex};

use super::{Outcome, PassReport, due, turn};

/// The length of a turn while other partitions wait. After a long preparation the turn is longer, so that half of its
/// time goes into the rewrite.
pub(super) const TURN: Duration = Duration::from_secs(1);
/// How long until a partition that another thread has is tried again.
const BUSY: Duration = Duration::from_millis(100);

/// The line of a log's partitions. All maintenance threads and the owner's calls take their turns from the same line.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// How many turns were given out.
    turns: Mutex<u64>,
}

/// A turn that is to be [taken](Turn::take). It reserves its partition until dropped.
pub(crate) struct Turn {
    schedule: Arc<Schedule>,
    core: Arc<PartitionCore>,
    all: Arc<[Arc<PartitionCore>]>,
}

impl Schedule {
    /// Whether a partition is due for a turn.
    pub(crate) fn waits(
        &self,
        all: &[Arc<PartitionCore>],
        now: Timestamp,
        passes_over: &dyn Fn(&PartitionCore) -> bool,
    ) -> bool {
        let _turns = self.turns.lock();
        all.iter().any(|core| !passes_over(core) && due(core, now).is_some())
    }

    /// Returns the next turn, or `None` if there is nothing to do. Partitions for which `passes_over` returns true get
    /// no turn.
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
        let mut state = core.lock_maintenance_state();
        (state.busy, state.last_turn, state.not_before) = (true, *turns, None);
        drop(state);
        Some(Turn { schedule: Arc::clone(self), core: Arc::clone(core), all: Arc::clone(all) })
    }
}

/// A position in the line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    Overdue(Timestamp),
    /// Behind all partitions whose last turn was earlier.
    After(u64),
}

impl Place {
    fn of(core: &PartitionCore, since: Option<Timestamp>) -> Place {
        let state = core.lock_maintenance_state();
        match since {
            Some(since) if !state.unfinished => Place::Overdue(since),
            _ => Place::After(state.last_turn),
        }
    }
}

impl Turn {
    /// The partition whose turn it is.
    pub(crate) fn core(&self) -> &Arc<PartitionCore> {
        &self.core
    }

    /// Takes the turn. It ends at `must_end` even if no other partition waits.
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
