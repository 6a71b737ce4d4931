//! The exclusive use of a partition, the pauses of maintenance, and the retired segments still to be removed.

use crate::error::Result;
use crate::segment::Segment;
use crate::segment::replace;
use crate::storage::throttle::Throttled;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, MutexGuard};

use super::core::PartitionCore;

impl PartitionCore {
    /// Takes the lock under which one maintenance pass, truncation or deletion runs at a time.
    pub(crate) fn lock_maintenance(&self) -> MutexGuard<'_, ()> {
        self.cancel.fetch_add(1, Ordering::AcqRel);
        let guard = self.maintenance.lock();
        self.cancel.fetch_sub(1, Ordering::AcqRel);
        guard
    }

    /// Takes the same lock for a pass, if it is free.
    pub(crate) fn try_lock_pass(&self) -> Option<MutexGuard<'_, ()>> {
        self.maintenance.try_lock()
    }

    /// Asks a pass under way to end early, without waiting for it.
    pub(crate) fn cancel_pass(&self) {
        self.cancel.fetch_add(1, Ordering::AcqRel);
    }

    /// The storage as maintenance uses it: throttled to the log's rate, and stopped once another thread waits for the
    /// partition.
    pub(crate) fn throttled(&self) -> Throttled {
        let (storage, throttle) = (Arc::clone(&self.dir.storage), Arc::clone(&self.resources.throttle));
        Throttled::new(storage, throttle, Arc::clone(&self.cancel))
    }

    /// Pauses maintenance. Returns once none is under way.
    pub(crate) fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::AcqRel);
        drop(self.lock_maintenance());
        // A roll by age checks for pauses under this lock.
        drop(self.lock_active());
    }

    /// Ends one pause.
    pub(crate) fn resume(&self) {
        self.pauses.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether maintenance is paused. Work that begins with the maintenance lock held checks again.
    pub(crate) fn is_paused(&self) -> bool {
        self.pauses.load(Ordering::Acquire) > 0
    }

    /// Whether a thread waits for the maintenance lock.
    pub(crate) fn is_wanted(&self) -> bool {
        self.cancel.load(Ordering::Acquire) > 0
    }

    fn lock_retired(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.retired.lock()
    }

    /// Keeps retired segments, which have left the segment list, until no reader uses them.
    pub(crate) fn retire_segments(&self, segments: Vec<Arc<Segment>>) {
        self.lock_retired().extend(segments);
    }

    /// Removes the files of retired segments that no reader uses any more. Returns how many are left.
    pub(crate) fn remove_retired(&self) -> Result<usize> {
        let mut retired = self.lock_retired();
        let mut failed = None;
        retired.retain(|segment| {
            // Only a holder of a reference can make another one, and this is the last.
            let held = Arc::strong_count(segment) > 1;
            let removed = if held { Ok(()) } else { replace::remove_deleted_files(segment) };
            let stays = held || removed.is_err();
            failed = failed.take().or(removed.err());
            stays
        });
        failed.map_or(Ok(retired.len()), Err)
    }

    /// Returns how many retired segments still wait, for a reader or for their removal.
    pub(crate) fn segments_held(&self) -> usize {
        self.lock_retired().len()
    }
}
