//! Who has a partition to itself, what keeps maintenance away, and what it has left to remove.

use crate::error::Result;
use crate::segment::Segment;
use crate::segment::replace;
use crate::storage::throttle::Throttled;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, MutexGuard};

use super::core::PartitionCore;

impl PartitionCore {
    /// The lock under which one maintenance pass, truncation or deletion runs at a time.
    pub(crate) fn lock_maintenance(&self) -> MutexGuard<'_, ()> {
        self.cancel.fetch_add(1, Ordering::AcqRel);
        let guard = self.maintenance.lock();
        self.cancel.fetch_sub(1, Ordering::AcqRel);
        guard
    }

    /// The same lock, for a pass: when nobody has it.
    pub(crate) fn try_lock_pass(&self) -> Option<MutexGuard<'_, ()>> {
        self.maintenance.try_lock()
    }

    /// Has a pass that is under way end soon: nobody waits for all of it.
    pub(crate) fn cancel_pass(&self) {
        self.cancel.fetch_add(1, Ordering::AcqRel);
    }

    /// The storage as maintenance uses it: at the log's rate, and no further once somebody waits for the partition.
    pub(crate) fn throttled(&self) -> Throttled {
        let (storage, throttle) = (Arc::clone(&self.dir.storage), Arc::clone(&self.resources.throttle));
        Throttled::new(storage, throttle, Arc::clone(&self.cancel))
    }

    /// Keeps maintenance away; returns when none is under way.
    pub(crate) fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::AcqRel);
        drop(self.lock_maintenance());
        // A roll by age asks under this lock whether it may.
        drop(self.lock_active());
    }

    /// Ends one pause.
    pub(crate) fn resume(&self) {
        self.pauses.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether maintenance is to keep away. What begins while the maintenance lock is held asks again.
    pub(crate) fn is_paused(&self) -> bool {
        self.pauses.load(Ordering::Acquire) > 0
    }

    /// Whether somebody waits for the maintenance lock.
    pub(crate) fn is_wanted(&self) -> bool {
        self.cancel.load(Ordering::Acquire) > 0
    }

    fn lock_retired(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.retired.lock()
    }

    /// Keeps segments that have left the view until nobody reads them.
    pub(crate) fn bury(&self, segments: Vec<Arc<Segment>>) {
        self.lock_retired().extend(segments);
    }

    /// Removes the files of buried segments that nobody reads any more; returns how many are left.
    pub(crate) fn reap(&self) -> Result<usize> {
        let mut retired = self.lock_retired();
        let mut failed = None;
        retired.retain(|segment| {
            // Only a holder can make another one, and this is the last.
            let held = Arc::strong_count(segment) > 1;
            let removed = if held { Ok(()) } else { replace::remove_buried(segment) };
            let stays = held || removed.is_err();
            failed = failed.take().or(removed.err());
            stays
        });
        failed.map_or(Ok(retired.len()), Err)
    }

    /// How many buried segments wait for a reader to let go.
    pub(crate) fn segments_held(&self) -> usize {
        self.lock_retired().len()
    }
}
