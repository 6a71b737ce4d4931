//! Counts the bytes of a partition that were accepted and are not durable, and whether the syncing threads know of
//! them.
//!
//! # Invariant
//!
//! Every counted byte is counted down exactly once: by the sync that covers it, by a sync that finds everything
//! durable, or because the partition gives it up. A partition with counted bytes is in the queue, or else a thread that
//! took it from there has not loaded its end yet. An append and a syncing thread each do one step, then a full fence,
//! and then check for the step of the other. Full fences have one total order:
//!
//! - An append moves the end and counts its bytes; then it checks whether the partition is queued. A syncing thread
//!   marks the partition as not queued; then it loads the end. So either the append queues the partition, or the thread
//!   sees the append's end and bytes.
//! - A thread whose sync has failed marks the partition as unwell; then it gives up what was counted. An append counts
//!   its bytes; then it checks whether the partition is unwell. So one of the two gives up the bytes. If both do, the
//!   larger count holds.

use crate::partition::resources::Unsynced;
use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicBool, AtomicU64, fence};

/// The account of one partition. Every change is passed on to the log's account of all partitions.
#[derive(Debug)]
pub(crate) struct Account {
    /// Total bytes accepted. Only a thread that holds the appender's lock adds to it.
    accepted: AtomicU64,
    /// The bytes of `accepted` that a sync has covered or that were given up.
    settled: AtomicU64,
    /// Whether this partition is in the queue of the log's syncing threads, to be synced when its interval ends.
    queued: AtomicBool,
    /// Whether this partition is queued to be synced next.
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

    /// Counts bytes that are already readable, and returns the unsynced count, these included. The caller holds the
    /// appender's lock. Afterwards it checks the queue, the partition's health and the waiters.
    #[inline]
    pub(crate) fn accept(&self, bytes: u64) -> u64 {
        let accepted = self.accepted.load(Ordering::Relaxed) + bytes;
        self.accepted.store(accepted, Ordering::Release);
        let unsynced = accepted.saturating_sub(self.settled.load(Ordering::Relaxed));
        // Behind the bytes and the new end, before the looks.
        fence(Ordering::SeqCst);
        unsynced
    }

    /// Whether the caller must queue this partition. True for one thread each time.
    #[inline]
    pub(crate) fn enqueue(&self) -> bool {
        !self.queued.load(Ordering::Relaxed) && !self.queued.swap(true, Ordering::Relaxed)
    }

    /// Like [`enqueue`](Self::enqueue), for the urgent queue.
    pub(crate) fn enqueue_urgent(&self) -> bool {
        !self.urgent.swap(true, Ordering::Relaxed)
    }

    /// Records that a syncing thread has taken this partition from the queue. The thread loads the end after this.
    pub(crate) fn unqueue(&self) {
        self.queued.store(false, Ordering::Relaxed);
        self.urgent.store(false, Ordering::Relaxed);
        // Before the look: an append that has seen neither cleared has moved the end before its own fence.
        fence(Ordering::SeqCst);
    }

    /// Returns how many bytes a sync covers that loads the end after this: bytes are counted only once they are
    /// readable.
    pub(super) fn covered(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    /// Settles the first `accepted` bytes, here and in the log's account: no caller needs to wait for them any more.
    pub(super) fn settle(&self, log: &Unsynced, accepted: u64) {
        let before = self.settled.fetch_max(accepted, Ordering::Relaxed);
        log.free(accepted.saturating_sub(before));
    }

    /// Settles all counted bytes if `is_durable`, which is called after the count, says that everything is durable. A
    /// sync may cover bytes that are counted after it.
    pub(super) fn settle_if(&self, log: &Unsynced, is_durable: impl FnOnce() -> bool) {
        let accepted = self.covered();
        if self.settled.load(Ordering::Relaxed) < accepted && is_durable() {
            self.settle(log, accepted);
        }
    }

    /// Settles all bytes because they will never be durable. The caller has already marked the partition as unwell, or
    /// keeps appends away.
    pub(crate) fn give_up(&self, log: &Unsynced) {
        // Before the look at the count: an append that does not see that has counted its bytes before its own fence.
        fence(Ordering::SeqCst);
        self.settle(log, self.accepted.load(Ordering::Relaxed));
    }
}

#[cfg(all(test, loom))]
mod tests;
