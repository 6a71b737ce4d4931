//! Syncs, run by callers that wait for one and by the log's syncing threads.
//!
//! Every sync keeps the order of docs/design.md, "Durable chain": data files, then the directory that names them, then
//! `state`, then the acknowledgement. A sync runs outside every lock that an append or a read needs. It never takes the
//! appender's lock: the appender hands over what a checkpoint needs.

use std::time::Duration;

use crate::config::{Durability as DurabilityConfig, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::State;
use crate::offset::Offset;
use crate::segment::{Owner, Segment};
use crate::sync::atomic::Ordering;
use crate::sync::thread::yield_now;
use crate::sync::{Arc, MutexGuard, Weak};

use super::checkpoint::Roll;
use super::core::PartitionCore;
use super::group_commit::Work;
use super::resources::SyncTarget;

/// How many consecutive yields without a new arrival end the leader's wait for its group.
const PATIENCE: usize = 32;

/// How long the syncing threads wait before they retry a sync that found the disk full. An urgent request does not
/// shorten this.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

impl PartitionCore {
    /// Accounts for appended bytes. The caller holds the appender's lock, and calls [`announce`](Self::announce) after
    /// it has released that lock.
    #[inline]
    pub(crate) fn accepted(&self, bytes: u64, config: &TopicConfig) {
        let before = self.resources.unsynced.add(bytes);
        self.resources.space.appended(before, bytes);
        // Ends with a full fence, for the checks below and for the check for waiters.
        let unsynced = self.group_commit.account.accept(bytes);
        if let DurabilityConfig::Buffered { interval, bytes: bound } = config.durability {
            if unsynced >= bound && unsynced - bytes < bound {
                self.sync_soon();
            } else if self.group_commit.account.enqueue() {
                let me: Weak<dyn SyncTarget> = self.me.clone();
                self.resources.sync_queue.push(me, interval);
            }
        }
        if self.health.is_unwell() {
            // A sync has failed meanwhile: no later sync covers these bytes.
            self.give_up_unsynced();
        }
    }

    /// Asks a syncing thread to sync this partition next.
    pub(crate) fn sync_soon(&self) {
        if self.group_commit.account.enqueue_urgent() {
            let me: Weak<dyn SyncTarget> = self.me.clone();
            self.resources.sync_queue.push_urgent(me);
        }
    }

    /// Records that a sync failed. The partition takes no more writes, and only its durable part is read.
    pub(crate) fn poison(&self, cause: &Error) {
        let error = Error::poisoned_by(cause);
        self.health.fail(error.clone());
        // After the failure is published: the bytes of an append that does not see it yet are given up here.
        self.give_up_unsynced();
        // Wakers are foreign code, so they are never called under the locks held here. If no other thread calls them, a
        // syncing thread does.
        self.waiters.shut(&error);
        self.sync_soon();
    }

    /// Handles a failed write of `state`. On a full disk the old `state` is intact; after any other error the state of
    /// the disk is unknown.
    pub(crate) fn fail_state(&self, cause: &Error) {
        if *cause.kind() != ErrorKind::DiskFull {
            self.poison(cause);
        }
    }

    /// Stops counting bytes that will never be durable, so that other appends do not wait for them.
    pub(crate) fn give_up_unsynced(&self) {
        self.group_commit.account.give_up(&self.resources.unsynced);
    }

    /// Waits briefly for the threads that the last sync released to append again. Without this each sync would serve
    /// only half of them. A lone writer never waits.
    fn gather<'a>(&'a self, mut work: MutexGuard<'a, Work>) -> Result<MutexGuard<'a, Work>> {
        let mut patience = PATIENCE;
        while work.waiting + 1 < work.company && patience > 0 {
            let before = work.waiting;
            drop(work);
            yield_now();
            work = self.group_commit.lock();
            patience = if work.waiting > before { PATIENCE } else { patience - 1 };
        }
        match self.health.check_syncable() {
            Ok(()) => Ok(work),
            Err(error) => {
                self.group_commit.stop_syncing(work);
                Err(error)
            }
        }
    }

    /// Makes everything below `target` durable. Concurrent callers share one sync: a caller that arrives during a sync
    /// waits for it, and one of the callers it does not cover then syncs for all of them.
    pub(crate) fn sync_to(&self, target: Offset) -> Result<Offset> {
        let synced = self.turn(target).and_then(|turn| match turn {
            Some(work) => self.sync_now(self.gather(work)?),
            None => Ok(self.group_commit.end()),
        });
        // A sync that fails may still have moved the durable end.
        self.waiters.durable.notify(self.group_commit.end().get());
        synced
    }

    /// Like [`sync_to`](Self::sync_to), for a caller that holds a lock under which no waker may be called. The wakers
    /// are called [later](PartitionCore::tell), if need be by a syncing thread. Does not wait for others to join the
    /// sync.
    pub(crate) fn sync_quietly(&self, target: Offset) -> Result<()> {
        self.turn(target)?.map_or(Ok(()), |work| self.sync_now(work).map(drop))
    }

    /// Waits until everything below `target` is durable, or until no thread syncs. In the second case the caller must
    /// sync.
    fn turn(&self, target: Offset) -> Result<Option<MutexGuard<'_, Work>>> {
        let mut work = self.group_commit.lock();
        loop {
            if self.group_commit.end() >= target && work.roll.is_none() {
                drop(work);
                self.group_commit.account.settle_if(&self.resources.unsynced, || self.group_commit.end() >= self.end());
                return Ok(None);
            }
            self.health.check_syncable()?;
            if !work.syncing {
                work.syncing = true;
                return Ok(Some(work));
            }
            work = self.group_commit.wait(work);
        }
    }

    /// Makes everything below `target` durable and finishes an open roll, but never waits for a thread that syncs.
    /// Otherwise two threads that each sync a partition, and each need a file of the other's closed, would deadlock.
    /// Returns whether it is done.
    pub(crate) fn try_sync(&self, target: Offset) -> bool {
        let mut work = self.group_commit.lock();
        if self.group_commit.end() >= target && work.roll.is_none() {
            return !work.syncing;
        }
        if work.syncing || self.health.check_syncable().is_err() {
            return false;
        }
        work.syncing = true;
        let synced = self.sync_now(work).is_ok();
        self.sync_soon();
        synced
    }

    /// Syncs. The caller has set `work.syncing`, so no other thread does.
    fn sync_now(&self, mut work: MutexGuard<'_, Work>) -> Result<Offset> {
        let roll = work.roll.take();
        // Loaded together. This sync does not finish a roll that begins after this point. It must therefore not cover
        // the new segment of that roll, whose bytes follow unsynced ones.
        let covered = self.group_commit.account.covered();
        let active = Arc::clone(self.view.load().active());
        drop(work);

        let result = self.sync_once(roll.as_ref(), &active, covered);
        let mut work = self.group_commit.lock();
        let result = match result {
            // The data is safe; only a file beside it did not fit. The roll is finished when there is room (I9).
            Err(error) if *error.kind() == ErrorKind::DiskFull && !self.health.is_poisoned() => {
                work.roll = roll;
                Err(error)
            }
            // What the failed sync covered stays unknown; a second try would prove nothing (I8). The thread that synced
            // and the threads that waited for it get the same error.
            Err(error) => {
                self.poison(&error);
                Err(self.health.reason().unwrap_or(error))
            }
            Ok(end) => {
                work.rests_until = None;
                Ok(end)
            }
        };
        self.group_commit.stop_syncing(work);
        result
    }

    /// Finishes the open roll, if any, for a caller that must roll again.
    pub(crate) fn finish_roll(&self) -> Result<()> {
        // A sync that found no room reopens its roll.
        while self.group_commit.quiet().roll.is_some() {
            let synced = self.sync_quietly(self.group_commit.end() + 1);
            self.sync_soon();
            synced?;
        }
        self.health.check_syncable()
    }

    fn sync_once(&self, roll: Option<&Roll>, active: &Segment, covered: u64) -> Result<Offset> {
        // After a crash, a `state` that was read but is not durable may revert to the one before it, with an operation
        // to redo.
        self.settle_state()?;
        if let Some(roll) = roll {
            self.complete_roll(roll)?;
        }
        let end = active.end();
        self.sync_segment(active)?;
        self.group_commit.syncs.fetch_add(1, Ordering::Relaxed);
        self.group_commit.durable_end.fetch_max(end.get(), Ordering::AcqRel);
        self.group_commit.account.settle(&self.resources.unsynced, covered);
        self.checkpoint(end)?;
        Ok(end)
    }

    fn sync_segment(&self, segment: &Segment) -> Result<()> {
        let data = segment.open_for_writing()?;
        // After any error, even a full disk, the page cache cannot be trusted any more.
        data.file.sync().map_err(|e| Error::io(e, &segment.path())).inspect_err(|error| self.poison(error))
    }

    /// The second half of a roll: old data, names, `state`. Only after these may anything in the new segments be
    /// durable.
    fn complete_roll(&self, roll: &Roll) -> Result<()> {
        let (Some(first), Some(last)) = (roll.sealed.first(), roll.sealed.last()) else { return Ok(()) };
        for sealed in &roll.sealed {
            self.sync_segment(&sealed.segment)?;
            sealed.segment.set_synced();
            sealed.segment.note_modified();
        }
        // The name of the first segment is durable already.
        self.group_commit.durable_end.fetch_max(first.segment.end().get(), Ordering::AcqRel);
        for sealed in &roll.sealed {
            self.store_sidecars(&sealed.segment, &sealed.producers)?;
        }
        self.dir.sync_dir()?;
        let producers_at = last.producers.snapshot.as_ref().map(|_| last.producers.at);
        self.update_state(|state| {
            state.active_base = roll.active_base;
            state.durable_end = last.segment.end();
            state.durable_position = 0;
            state.producers_at = producers_at;
        })?;
        self.group_commit.durable_end.fetch_max(last.segment.end().get(), Ordering::AcqRel);
        self.remove_old_snapshots();
        Ok(())
    }

    /// Records in `state` how far the active segment is durable, if the appender has handed over a checkpoint for it.
    fn checkpoint(&self, durable_end: Offset) -> Result<()> {
        let capture = {
            let mut work = self.group_commit.lock();
            match &work.capture {
                Some(capture) if capture.end <= durable_end => work.capture.take(),
                _ => None,
            }
        };
        let Some(capture) = capture else { return Ok(()) };
        match self.store_checkpoint(&capture) {
            // Recovery then begins at the previous checkpoint.
            Err(error) if *error.kind() == ErrorKind::DiskFull => return Ok(()),
            stored => stored?,
        }
        let producers_at = capture.producers.snapshot.as_ref().map(|_| capture.producers.at);
        self.update_state(|state: &mut State| {
            state.active_base = capture.segment.base();
            state.durable_end = capture.end;
            state.durable_position = capture.position;
            state.producers_at = producers_at;
        })?;
        self.remove_old_snapshots();
        Ok(())
    }
}

impl SyncTarget for PartitionCore {
    fn sync_now(&self) {
        self.group_commit.account.unqueue();
        let mut rests = self.group_commit.rests();
        if rests.is_zero() {
            let synced = self.sync_to(self.end());
            // Any other failure poisons the partition: the next append returns it.
            if synced.is_err_and(|error| *error.kind() == ErrorKind::DiskFull) {
                self.group_commit.rest(NO_ROOM_RETRY);
                rests = NO_ROOM_RETRY;
            }
        }
        // An earlier caller that synced, or failed, may not have been allowed to call wakers.
        self.tell();
        if !rests.is_zero() {
            self.resources.sync_queue.push_rested(self.me.clone(), rests);
        }
    }
}

impl Owner for PartitionCore {
    fn close_active(&self) -> bool {
        if !self.try_sync(self.end()) {
            return false;
        }
        let Some(mut active) = self.try_lock_active() else { return false };
        if self.group_commit.end() < active.segment().end() {
            return false;
        }
        active.let_go();
        active.segment().try_close_file()
    }

    fn sync_sealed(&self) -> bool {
        self.try_sync(self.group_commit.end())
    }
}
