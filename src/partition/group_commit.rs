//! Group commit: the durable end of a partition, and whose turn it is to sync.
//!
//! Callers that come while a sync runs wait for it, and one of them syncs for all that are left. The sync itself is in
//! [`sync`](super::sync).

use std::time::Duration;

use crate::offset::Offset;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

use super::account::Account;
use super::checkpoint::{Capture, Roll};

/// The durable end of a partition and the syncs that move it.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    /// Stored (Release) after the sync that it tells of.
    pub(super) durable_end: AtomicU64,
    pub(crate) account: Account,
    /// Syncs of the active segment: what group commit saves is counted by it.
    pub(super) syncs: AtomicU64,
    work: Mutex<Work>,
    done: Condvar,
}

/// What is to be done, and whether somebody does it.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) syncing: bool,
    /// How many have begun to wait since the last wake-up: one that nobody waits for is a system call all the same.
    pub(super) waiting: usize,
    /// How many took part in the last sync or came while it ran: those that it let go will come again.
    pub(super) company: usize,
    /// The roll whose second half is open. There is never a second one (protocol: "a second roll waits").
    pub(super) roll: Option<Roll>,
    /// What the appender handed over for the next checkpoint.
    pub(super) capture: Option<Capture>,
    /// Until when the syncing threads leave it alone: it found no room.
    pub(super) rests_until: Option<Instant>,
}

impl GroupCommit {
    /// All below `end` is durable.
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

    /// How many syncs of the active segment there were.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// For how long the syncing threads leave it alone.
    pub(crate) fn rests(&self) -> Duration {
        let until = self.lock().rests_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Has the syncing threads leave it alone for this time.
    pub(crate) fn rest(&self, time: Duration) {
        self.lock().rests_until = Instant::now().checked_add(time);
    }

    /// Hands over a roll, before the new segment is published: nothing in it is durable before the roll is done. The
    /// roll before this one is done.
    pub(crate) fn begin_roll(&self, roll: Roll) {
        let mut work = self.lock();
        assert!(work.roll.is_none(), "a second roll waits for the first");
        // A capture in the segment that is now sealed would make recovery begin before the roll: the roll has its own.
        work.capture = None;
        work.roll = Some(roll);
    }

    /// Hands over what the next checkpoint needs.
    pub(crate) fn capture(&self, capture: Capture) {
        self.lock().capture = Some(capture);
    }

    /// Keeps everyone from syncing until the guard is dropped, for a truncation: a sync that is under way would note in
    /// `state` that what is cut is durable. Who holds the appender gets it, with no roll open.
    pub(crate) fn hold(&self) -> Held<'_> {
        let mut work = self.quiet();
        assert!(work.roll.is_none(), "a roll is finished before its segment is cut");
        work.capture = None;
        work.syncing = true;
        Held(self)
    }

    /// Waits until nobody syncs. Nobody begins any more: the topic is gone, and its health says so.
    pub(crate) fn stop(&self) {
        drop(self.quiet());
    }

    /// Waits until nobody syncs any more.
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

    /// Lets all go on that wait, once they can have the lock: else each of them would wait for it once more.
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

/// Nobody syncs while this lives.
pub(crate) struct Held<'d>(&'d GroupCommit);

impl Held<'_> {
    /// Moves the durable end to where the log ends after the truncation.
    pub(crate) fn set_end(&self, end: Offset) {
        self.0.durable_end.store(end.get(), Ordering::Release);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.stop_syncing(self.0.lock());
    }
}
