//! Group commit: the durable end of a partition, and which thread syncs next.
//!
//! Callers that arrive while a sync runs wait for it. One of the callers it does not cover then syncs for all of them.
//! The sync itself is in [`sync`](super::sync).

use std::time::Duration;

use crate::offset::Offset;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

use super::account::Account;
use super::checkpoint::{Capture, Roll};

/// The durable end of a partition and the syncs that move it.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    /// Stored (Release) after the sync that it reports.
    pub(super) durable_end: AtomicU64,
    pub(crate) account: Account,
    /// Syncs of the active segment. The count shows how many syncs group commit saves.
    pub(super) syncs: AtomicU64,
    work: Mutex<Work>,
    done: Condvar,
}

/// The work to be done, and whether a thread is doing it.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) syncing: bool,
    /// How many threads have begun to wait since the last wake-up. At zero the wake-up is skipped: it would cost a
    /// system call even without a waiter.
    pub(super) waiting: usize,
    /// How many threads took part in the last sync or arrived while it ran. They are expected to come again.
    pub(super) company: usize,
    /// The roll whose second half is still to be done. There is at most one (protocol: "a second roll waits").
    pub(super) roll: Option<Roll>,
    /// What the appender handed over for the next checkpoint.
    pub(super) capture: Option<Capture>,
    /// Until when the syncing threads skip this partition, because its last sync found the disk full.
    pub(super) rests_until: Option<Instant>,
}

impl GroupCommit {
    /// Creates the group commit of a partition in which everything below `end` is durable.
    pub(crate) fn new(end: Offset) -> GroupCommit {
        GroupCommit {
            durable_end: AtomicU64::new(end.get()),
            account: Account::new(),
            syncs: AtomicU64::new(0),
            work: Mutex::new(Work::default()),
            done: Condvar::new(),
        }
    }

    /// One past the last durable offset.
    #[inline]
    pub(crate) fn end(&self) -> Offset {
        Offset::new(self.durable_end.load(Ordering::Acquire))
    }

    /// Returns how many syncs of the active segment have completed.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Returns how long the syncing threads still skip this partition.
    pub(crate) fn rests(&self) -> Duration {
        let until = self.lock().rests_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Makes the syncing threads skip this partition for this time.
    pub(crate) fn rest(&self, time: Duration) {
        self.lock().rests_until = Instant::now().checked_add(time);
    }

    /// Hands over a roll before its new segment is published: nothing in that segment is durable before the roll is
    /// finished. The previous roll is finished already.
    pub(crate) fn begin_roll(&self, roll: Roll) {
        let mut work = self.lock();
        assert!(work.roll.is_none(), "a second roll waits for the first");
        // A capture in the segment that is now sealed would make recovery begin before the roll. The roll has its own
        // checkpoint.
        work.capture = None;
        work.roll = Some(roll);
    }

    /// Hands over what the next checkpoint needs.
    pub(crate) fn capture(&self, capture: Capture) {
        self.lock().capture = Some(capture);
    }

    /// Blocks syncs until the guard is dropped, for a truncation: a sync under way would record in `state` that the
    /// truncated part is durable. The caller holds the appender's lock, and no roll is open.
    pub(crate) fn hold(&self) -> Held<'_> {
        let mut work = self.quiet();
        assert!(work.roll.is_none(), "a roll is finished before its segment is cut");
        work.capture = None;
        work.syncing = true;
        Held(self)
    }

    /// Waits until no thread syncs. No new sync begins: the topic is gone, and its health says so.
    pub(crate) fn stop(&self) {
        drop(self.quiet());
    }

    /// Waits until no thread syncs.
    pub(super) fn quiet(&self) -> MutexGuard<'_, Work> {
        let mut work = self.lock();
        while work.syncing {
            work = self.wait(work);
        }
        work
    }

    pub(super) fn wait<'a>(&self, mut work: MutexGuard<'a, Work>) -> MutexGuard<'a, Work> {
        work.waiting += 1;
        self.done.wait(work)
    }

    /// Wakes all waiters, after releasing the lock: otherwise each of them would block on the lock again.
    pub(super) fn stop_syncing(&self, mut work: MutexGuard<'_, Work>) {
        work.syncing = false;
        work.company = work.waiting + 1;
        let waited_for = std::mem::take(&mut work.waiting) > 0;
        drop(work);
        if waited_for {
            self.done.notify_all();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock()
    }
}

/// Blocks syncs while it lives.
pub(crate) struct Held<'d>(&'d GroupCommit);

impl Held<'_> {
    /// Sets the durable end to the log end after the truncation.
    pub(crate) fn set_end(&self, end: Offset) {
        self.0.durable_end.store(end.get(), Ordering::Release);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.stop_syncing(self.0.lock());
    }
}
