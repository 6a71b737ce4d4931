//! Bytes of a partition that were accepted and are not durable, and whether the syncing threads were told of them.
//!
//! # Invariant
//!
//! Bytes that were counted are counted down again, once: by the sync that covers them, by one that finds everything
//! durable, or because the partition gives them up. A partition with counted bytes is in the queue, or a thread that took
//! it from there has not looked at its end yet. An append and the other side each do one thing, a full fence, and look for
//! what the other one did, and full fences have one order:
//!
//! - An append moves the end and counts its bytes; then it looks whether the partition is queued. A syncing thread says
//!   that it is not, and then looks at the end. So the append queues it, or the thread sees its end and its bytes.
//! - A thread whose sync has failed says that the partition is unwell, and then gives up what was counted. An append
//!   looks at that after it has counted. So the one or the other gives up its bytes, and if both do, the larger count
//!   holds.

use crate::partition::resources::Unsynced;
use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicBool, AtomicU64, fence};

/// The account of one partition. The log's account of all partitions is told of what changes in it.
#[derive(Debug)]
pub(crate) struct Account {
    /// Bytes accepted, ever. Only the thread that has the appender's lock adds to it.
    accepted: AtomicU64,
    /// Those of them that a sync has covered, or that were given up.
    settled: AtomicU64,
    /// Whether this partition is in the queue of the log's syncing threads, to be synced in time.
    queued: AtomicBool,
    /// Whether it is among those to be synced next.
    urgent: AtomicBool,
}

impl Account {
    pub(super) fn new() -> Account {
        Account {
            accepted: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            queued: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
        }
    }

    /// Bytes accepted that no sync has covered.
    pub(crate) fn unsynced(&self) -> u64 {
        let settled = self.settled.load(Ordering::Relaxed);
        self.accepted.load(Ordering::Relaxed).saturating_sub(settled)
    }

    /// Counts bytes that can be read by now; the caller has the appender's lock. Returns how many wait, these included.
    /// Afterwards the caller looks at the queue, at the partition's health and at who waits.
    #[inline]
    pub(crate) fn accept(&self, bytes: u64) -> u64 {
        let accepted = self.accepted.load(Ordering::Relaxed) + bytes;
        self.accepted.store(accepted, Ordering::Release);
        let unsynced = accepted.saturating_sub(self.settled.load(Ordering::Relaxed));
        // Behind the bytes and the new end, before the looks.
        fence(Ordering::SeqCst);
        unsynced
    }

    /// Whether the caller is to put this partition into the queue: each time one thread is.
    #[inline]
    pub(crate) fn enqueue(&self) -> bool {
        !self.queued.load(Ordering::Relaxed) && !self.queued.swap(true, Ordering::Relaxed)
    }

    /// The same, to be synced next.
    pub(crate) fn enqueue_urgent(&self) -> bool {
        !self.urgent.swap(true, Ordering::Relaxed)
    }

    /// A syncing thread has taken this partition from the queue, and looks at its end after this.
    pub(crate) fn unqueue(&self) {
        self.queued.store(false, Ordering::Relaxed);
        self.urgent.store(false, Ordering::Relaxed);
        // Before the look: an append that has seen neither cleared has moved the end before its own fence.
        fence(Ordering::SeqCst);
    }

    /// How many bytes a sync covers that looks at the end after this: they were counted after they could be read.
    pub(super) fn covered(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    /// The first `accepted` bytes need not be waited for any more, here and in the log's account.
    pub(super) fn settle(&self, log: &Unsynced, accepted: u64) {
        let before = self.settled.fetch_max(accepted, Ordering::Relaxed);
        log.free(accepted.saturating_sub(before));
    }

    /// The same for all that was counted, where `is_durable` says after the count that everything is. A sync may cover
    /// bytes that are counted after it.
    pub(super) fn settle_if(&self, log: &Unsynced, is_durable: impl FnOnce() -> bool) {
        let accepted = self.covered();
        if self.settled.load(Ordering::Relaxed) < accepted && is_durable() {
            self.settle(log, accepted);
        }
    }

    /// Counts down all bytes, which will never be durable. The caller has said before that the partition is unwell, or
    /// keeps appends away.
    pub(crate) fn give_up(&self, log: &Unsynced) {
        // Before the look at the count: an append that does not see that has counted its bytes before its own fence.
        fence(Ordering::SeqCst);
        self.settle(log, self.accepted.load(Ordering::Relaxed));
    }
}

#[cfg(all(test, loom))]
mod tests;
