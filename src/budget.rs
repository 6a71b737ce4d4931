//! What all partitions of a log share: the bound on unsynced bytes, the watch on free space, the queue of partitions
//! that wait to be synced.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::Backpressure;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Storage;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// Free space is looked at again after this many appended bytes.
const SPACE_CHECK_BYTES: u64 = 1 << 20;

/// The bound on bytes accepted but not yet durable, over all partitions of a log.
#[derive(Debug)]
pub(crate) struct Unsynced {
    /// Bytes accepted, ever.
    accepted: AtomicU64,
    /// Those of them that are durable, or given up.
    settled: AtomicU64,
    limit: u64,
    policy: Backpressure,
    waits: AtomicU64,
    /// How many appends wait: a wake-up that nobody waits for is a system call all the same.
    waiting: Mutex<usize>,
    freed: Condvar,
}

impl Unsynced {
    pub(crate) fn new(limit: u64, policy: Backpressure) -> Unsynced {
        Unsynced {
            accepted: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            limit,
            policy,
            waits: AtomicU64::new(0),
            waiting: Mutex::new(0),
            freed: Condvar::new(),
        }
    }

    /// Bytes accepted and not yet durable.
    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        let settled = self.settled.load(Ordering::Relaxed);
        self.accepted.load(Ordering::Relaxed).saturating_sub(settled)
    }

    /// How often an append had to wait.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether `size` more bytes are over the bound. One append is always let in when nothing waits to be synced.
    #[inline]
    pub(crate) fn is_full(&self, size: u64) -> bool {
        let bytes = self.bytes();
        bytes > 0 && bytes.saturating_add(size) > self.limit
    }

    /// Waits until `size` more bytes are within the bound, or fails, as configured. Called before any lock is taken.
    #[inline]
    pub(crate) fn admit(&self, size: u64, nudge: impl FnOnce()) -> Result<()> {
        if self.is_full(size) { self.wait(size, nudge) } else { Ok(()) }
    }

    #[cold]
    fn wait(&self, size: u64, nudge: impl FnOnce()) -> Result<()> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        nudge();
        let full = || Error::new(ErrorKind::Backpressure { unsynced: self.bytes(), limit: self.limit });
        let Backpressure::Wait(timeout) = self.policy else { return Err(full()) };
        // A time that the clock cannot tell never comes.
        let deadline = Instant::now().checked_add(timeout);
        let mut waiting = self.lock();
        *waiting += 1;
        let mut left = Duration::MAX;
        while self.is_full(size) && !left.is_zero() {
            left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            waiting = self.freed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *waiting -= 1;
        if self.is_full(size) { Err(full()) } else { Ok(()) }
    }

    /// Counts accepted bytes; returns how many there were before, ever.
    #[inline]
    pub(crate) fn add(&self, size: u64) -> u64 {
        self.accepted.fetch_add(size, Ordering::Relaxed)
    }

    /// So many bytes are durable now, or given up.
    pub(crate) fn free(&self, size: u64) {
        self.settled.fetch_add(size, Ordering::Relaxed);
        if *self.lock() > 0 {
            self.freed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses appends before the disk is full.
#[derive(Debug)]
pub(crate) struct SpaceWatch {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    min_free: u64,
    /// The next append looks: space is low, or much was appended since the last look.
    look: AtomicBool,
}

impl SpaceWatch {
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: PathBuf, min_free: u64) -> SpaceWatch {
        SpaceWatch { storage, dir, min_free, look: AtomicBool::new(min_free > 0) }
    }

    /// Fails when less than the watermark is free. Looks only every so many bytes, but always while space is low.
    #[inline]
    pub(crate) fn admit(&self) -> Result<()> {
        if self.look.load(Ordering::Relaxed) { self.look() } else { Ok(()) }
    }

    /// Bytes were appended, behind `before` that were appended ever.
    #[inline]
    pub(crate) fn appended(&self, before: u64, size: u64) {
        if before / SPACE_CHECK_BYTES != (before + size) / SPACE_CHECK_BYTES && self.min_free > 0 {
            self.look.store(true, Ordering::Relaxed);
        }
    }

    #[cold]
    fn look(&self) -> Result<()> {
        self.look.store(false, Ordering::Relaxed);
        let free = self.storage.free_space(&self.dir).map_err(|e| Error::io(e, &self.dir))?;
        if free >= self.min_free {
            return Ok(());
        }
        self.look.store(true, Ordering::Relaxed);
        Err(Error::new(ErrorKind::DiskFull).at_path(&self.dir))
    }
}

/// What a syncing thread does for a partition.
pub(crate) trait SyncTarget: Send + Sync {
    /// Makes what was accepted durable; an error is kept by the partition and met by its next append.
    fn sync_now(&self);
}

/// Partitions that have unsynced bytes, each with the time by which they are to be durable.
#[derive(Default)]
pub(crate) struct SyncQueue {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    later: VecDeque<(Instant, Weak<dyn SyncTarget>)>,
    urgent: VecDeque<Weak<dyn SyncTarget>>,
    closed: bool,
}

impl SyncQueue {
    /// Syncs `target` after `delay` at the latest.
    pub(crate) fn push(&self, target: Weak<dyn SyncTarget>, delay: Duration) {
        let mut due = self.lock();
        let at = Instant::now() + delay;
        let place = due.later.partition_point(|(other, _)| *other <= at);
        due.later.insert(place, (at, target));
        if place == 0 {
            self.changed.notify_one();
        }
    }

    /// Syncs `target` as soon as a thread is free.
    pub(crate) fn push_urgent(&self, target: Weak<dyn SyncTarget>) {
        self.lock().urgent.push_back(target);
        self.changed.notify_one();
    }

    /// All partitions in the queue are to be synced as soon as a thread is free.
    pub(crate) fn hurry(&self) {
        let mut due = self.lock();
        let waiting = std::mem::take(&mut due.later);
        due.urgent.extend(waiting.into_iter().map(|(_, target)| target));
        self.changed.notify_all();
    }

    /// The next partition whose time has come; does not wait.
    pub(crate) fn take_due(&self) -> Option<Arc<dyn SyncTarget>> {
        self.lock().take_due(Instant::now())
    }

    /// The next partition to sync; waits for one. `None` once the queue is closed.
    pub(crate) fn next(&self) -> Option<Arc<dyn SyncTarget>> {
        let mut due = self.lock();
        loop {
            if due.closed {
                return None;
            }
            let now = Instant::now();
            if let Some(target) = due.take_due(now) {
                // Another thread waits for the next one while this one syncs.
                self.changed.notify_one();
                return Some(target);
            }
            due = match due.later.front().map(|(at, _)| at.saturating_duration_since(now)) {
                None => self.changed.wait(due).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.changed.wait_timeout(due, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// Ends all threads that wait in [`next`](Self::next).
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Due {
    fn take_due(&mut self, now: Instant) -> Option<Arc<dyn SyncTarget>> {
        while let Some(target) = self.urgent.pop_front() {
            if let Some(target) = target.upgrade() {
                return Some(target);
            }
        }
        while self.later.front().is_some_and(|(at, _)| *at <= now) {
            if let Some(target) = self.later.pop_front().and_then(|(_, target)| target.upgrade()) {
                return Some(target);
            }
        }
        None
    }
}

impl std::fmt::Debug for SyncQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncQueue").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    struct Target;

    impl SyncTarget for Target {
        fn sync_now(&self) {}
    }

    #[test]
    fn a_thread_that_syncs_for_long_keeps_no_other_from_the_next_partition() {
        let queue = Arc::new(SyncQueue::default());
        let (taken, others) = mpsc::channel();
        for _ in 0..2 {
            let (queue, taken) = (Arc::clone(&queue), taken.clone());
            // Each takes one and never comes back for another.
            thread::spawn(move || taken.send(queue.next().is_some()));
        }
        let target: Arc<dyn SyncTarget> = Arc::new(Target);
        for delay in [20, 40] {
            queue.push(Arc::downgrade(&target), Duration::from_millis(delay));
        }
        for _ in 0..2 {
            assert!(others.recv_timeout(Duration::from_secs(60)).expect("both are taken"));
        }
    }
}
