//! Resources that all partitions of a log share: the bound on unsynced bytes, the watch on free space, the queue of
//! partitions that wait to be synced.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Backpressure;
use crate::error::{Error, ErrorKind, Result};
use crate::format::KeyHasher;
use crate::segment::PartitionDir;
use crate::storage::Storage;
use crate::storage::file_cache::FileCache;
use crate::storage::preallocator::Preallocator;
use crate::storage::throttle::Throttle;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::explored::{AtomicU64, Condvar, Mutex, MutexGuard};
use crate::sync::{Arc, Instant, OnceLock, Weak};

/// Free space is checked again after this many appended bytes.
const SPACE_CHECK_BYTES: u64 = 1 << 20;

/// Resources that all partitions of a log share.
#[derive(Debug)]
pub(crate) struct Resources {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) file_cache: Arc<FileCache>,
    pub(crate) preallocator: Arc<Preallocator>,
    pub(crate) unsynced: Unsynced,
    pub(crate) space: SpaceWatch,
    pub(crate) sync_queue: SyncQueue,
    pub(crate) checkpoint_bytes: u64,
    /// The memory of one compaction, in bytes.
    pub(crate) compaction_memory: usize,
    /// The maximum number of files that one compaction has open.
    pub(crate) compaction_files: usize,
    /// The shared rate limit of all compactions.
    pub(crate) throttle: Arc<Throttle>,
    /// Set once the log's secret is known.
    pub(crate) hasher: OnceLock<KeyHasher>,
}

impl Resources {
    /// Creates the directory of a partition that uses these resources.
    pub(crate) fn partition_dir(&self, path: PathBuf) -> Arc<PartitionDir> {
        let (storage, file_cache, preallocator) = (&self.storage, &self.file_cache, &self.preallocator);
        Arc::new(PartitionDir::new(path, Arc::clone(storage), Arc::clone(file_cache), Arc::clone(preallocator)))
    }
}

/// The bound on bytes accepted but not yet durable, over all partitions of a log.
///
/// An append that has no room registers itself as waiting under the lock, and loads the counts after that. A thread
/// that settles bytes counts them first, and then checks under the lock for waiting appends. So either the append sees
/// the new count, or the settling thread wakes it.
#[derive(Debug)]
pub(crate) struct Unsynced {
    /// Total bytes accepted.
    accepted: AtomicU64,
    /// The bytes of `accepted` that are durable or given up.
    settled: AtomicU64,
    limit: u64,
    policy: Backpressure,
    /// How many appends had to wait: a statistic.
    waits: AtomicU64,
    /// How many appends wait now. At zero the wake-up is skipped: it would cost a system call even without a waiter.
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

    /// Returns how many times an append had to wait.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether `size` more bytes exceed the bound. While no bytes are unsynced, one append of any size is admitted.
    #[inline]
    pub(crate) fn is_full(&self, size: u64) -> bool {
        self.exceeds(self.bytes(), size)
    }

    #[inline]
    fn exceeds(&self, bytes: u64, size: u64) -> bool {
        bytes > 0 && bytes.saturating_add(size) > self.limit
    }

    /// Waits until `size` more bytes are within the bound, or fails, as configured. Called before any lock is taken.
    /// Meanwhile the syncing threads sync every partition in `queue` without delay.
    #[inline]
    pub(crate) fn admit(&self, size: u64, queue: &SyncQueue) -> Result<()> {
        if self.is_full(size) { self.wait(size, queue) } else { Ok(()) }
    }

    #[cold]
    fn wait(&self, size: u64, queue: &SyncQueue) -> Result<()> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        let _hurried = queue.hurry();
        let full = |unsynced| Error::new(ErrorKind::Backpressure { unsynced, limit: self.limit });
        let Backpressure::Wait(timeout) = self.policy else { return Err(full(self.bytes())) };
        // A deadline that the clock cannot represent never comes.
        let deadline = Instant::now().checked_add(timeout);
        let mut waiting = self.lock();
        *waiting += 1;
        let admitted = loop {
            let bytes = self.bytes();
            if !self.exceeds(bytes, size) {
                break Ok(());
            }
            let left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break Err(full(bytes));
            }
            waiting = self.freed.wait_timeout(waiting, left).0;
        };
        *waiting -= 1;
        admitted
    }

    /// Counts accepted bytes. Returns the total before them.
    #[inline]
    pub(crate) fn add(&self, size: u64) -> u64 {
        self.accepted.fetch_add(size, Ordering::Relaxed)
    }

    /// Counts `size` bytes as durable or given up.
    pub(crate) fn free(&self, size: u64) {
        self.settled.fetch_add(size, Ordering::Relaxed);
        if *self.lock() > 0 {
            self.freed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock()
    }
}

/// Refuses appends before the disk is full.
#[derive(Debug)]
pub(crate) struct SpaceWatch {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    min_free: u64,
    /// Whether the next append checks the free space: space is low, or much was appended since the last check. This is
    /// a hint: one append later is soon enough.
    look: AtomicBool,
}

impl SpaceWatch {
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: PathBuf, min_free: u64) -> SpaceWatch {
        SpaceWatch { storage, dir, min_free, look: AtomicBool::new(min_free > 0) }
    }

    /// Fails if less than the minimum of free space is left. Checks the space after every [`SPACE_CHECK_BYTES`]
    /// appended, and at every append while it is low.
    #[inline]
    pub(crate) fn admit(&self) -> Result<()> {
        if self.look.load(Ordering::Relaxed) { self.look() } else { Ok(()) }
    }

    /// Counts `size` appended bytes. `before` is the total before them.
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

/// The work of a syncing thread for one partition.
pub(crate) trait SyncTarget: Send + Sync {
    /// Makes the accepted bytes durable. The partition keeps an error, and its next append returns it.
    fn sync_now(&self);
}

/// Partitions with unsynced bytes, each once, with the time by which they must be durable.
#[derive(Default)]
pub(crate) struct SyncQueue {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    later: BTreeMap<Turn, Weak<dyn SyncTarget>>,
    urgent: VecDeque<Weak<dyn SyncTarget>>,
    /// The place of each partition in the queue, by its address: the address is unique while the partition is in the
    /// queue.
    places: BTreeMap<usize, Queued>,
    last_number: u64,
    /// How many callers currently want every partition synced as soon as a thread is free, later arrivals included.
    hurrying: usize,
    closed: bool,
}

/// While this lives, all partitions in the queue are synced as soon as a thread is free, and so are partitions that
/// join it.
#[must_use = "who comes later waits again once it is dropped"]
pub(crate) struct Hurried<'q>(&'q SyncQueue);

impl Drop for Hurried<'_> {
    fn drop(&mut self) {
        self.0.lock().hurrying -= 1;
    }
}

/// A time, and a number that distinguishes partitions with the same time.
type Turn = (Instant, u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Queued {
    Urgent,
    Later(Turn),
}

impl SyncQueue {
    /// Queues `target` to be synced after `delay` at the latest.
    pub(crate) fn push(&self, target: Weak<dyn SyncTarget>, delay: Duration) {
        let mut due = self.lock();
        let is_next = if due.hurrying > 0 {
            due.push_urgent(target);
            true
        } else {
            due.push(target, Instant::now() + delay)
        };
        drop(due);
        if is_next {
            self.changed.notify_one();
        }
    }

    /// Queues `target` again after `delay`, even while a caller hurries the queue: an earlier sync would fail again.
    pub(crate) fn push_rested(&self, target: Weak<dyn SyncTarget>, delay: Duration) {
        if self.lock().push(target, Instant::now() + delay) {
            self.changed.notify_one();
        }
    }

    /// Queues `target` to be synced as soon as a thread is free.
    pub(crate) fn push_urgent(&self, target: Weak<dyn SyncTarget>) {
        self.lock().push_urgent(target);
        self.changed.notify_one();
    }

    /// Makes all partitions in the queue urgent, and also those that join it while the returned guard lives: bytes may
    /// be counted before their partition is in the queue.
    pub(crate) fn hurry(&self) -> Hurried<'_> {
        let mut due = self.lock();
        due.hurrying += 1;
        for (_, target) in std::mem::take(&mut due.later) {
            due.places.remove(&address(&target));
            due.push_urgent(target);
        }
        drop(due);
        self.changed.notify_all();
        Hurried(self)
    }

    /// Takes the next partition whose time has come. Does not wait.
    pub(crate) fn take_due(&self) -> Option<Arc<dyn SyncTarget>> {
        self.lock().take_due(Instant::now())
    }

    /// Waits for the next partition to sync. Returns `None` once the queue is closed.
    pub(crate) fn next(&self) -> Option<Arc<dyn SyncTarget>> {
        let mut due = self.lock();
        loop {
            if due.closed {
                return None;
            }
            let now = Instant::now();
            if let Some(target) = due.take_due(now) {
                // Another thread must wait for the next partition while this one syncs.
                self.changed.notify_one();
                return Some(target);
            }
            due = match due.later.keys().next().map(|(at, _)| at.saturating_duration_since(now)) {
                None => self.changed.wait(due),
                Some(left) => self.changed.wait_timeout(due, left).0,
            };
        }
    }

    /// Releases all threads that wait in [`next`](Self::next).
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock()
    }
}

impl Due {
    /// Queues `target` for this time. Returns whether it is the first in the queue now.
    fn push(&mut self, target: Weak<dyn SyncTarget>, at: Instant) -> bool {
        match self.places.get(&address(&target)) {
            Some(Queued::Urgent) => return false,
            Some(Queued::Later(turn)) if turn.0 <= at => return false,
            Some(Queued::Later(turn)) => drop(self.later.remove(turn)),
            None => {}
        }
        self.last_number += 1;
        let turn = (at, self.last_number);
        self.places.insert(address(&target), Queued::Later(turn));
        self.later.insert(turn, target);
        self.later.keys().next() == Some(&turn)
    }

    fn push_urgent(&mut self, target: Weak<dyn SyncTarget>) {
        match self.places.insert(address(&target), Queued::Urgent) {
            Some(Queued::Urgent) => return,
            Some(Queued::Later(turn)) => drop(self.later.remove(&turn)),
            None => {}
        }
        self.urgent.push_back(target);
    }

    fn take_due(&mut self, now: Instant) -> Option<Arc<dyn SyncTarget>> {
        loop {
            let is_due = |due: &Due| due.later.keys().next().is_some_and(|(at, _)| *at <= now);
            let target = match self.urgent.pop_front() {
                Some(target) => target,
                None if is_due(self) => self.later.pop_first()?.1,
                None => return None,
            };
            self.places.remove(&address(&target));
            if let Some(target) = target.upgrade() {
                return Some(target);
            }
        }
    }
}

fn address(target: &Weak<dyn SyncTarget>) -> usize {
    target.as_ptr() as *const () as usize
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

    /// Not zero-sized, so that each target has its own address.
    struct Target(u8);

    impl SyncTarget for Target {
        fn sync_now(&self) {
            assert_eq!(self.0, 0);
        }
    }

    fn targets<const N: usize>() -> [Arc<dyn SyncTarget>; N] {
        std::array::from_fn(|_| Arc::new(Target(0)) as Arc<dyn SyncTarget>)
    }

    #[test]
    fn a_partition_is_in_the_queue_once_at_its_earliest_time() {
        const HOUR: Duration = Duration::from_secs(3600);
        let (queue, [one, other, gone]) = (SyncQueue::default(), targets());
        for delay in [3, 2, 4].map(|hours| HOUR * hours) {
            queue.push(Arc::downgrade(&one), delay);
            queue.push(Arc::downgrade(&other), delay + HOUR);
            queue.push(Arc::downgrade(&gone), delay);
        }
        drop(gone);
        assert!(queue.take_due().is_none());
        let at = |hours| Instant::now() + HOUR * hours + HOUR / 2;
        let take = |hours| queue.lock().take_due(at(hours));
        assert!(take(1).is_none());
        assert!(take(2).is_some_and(|taken| Arc::ptr_eq(&taken, &one)));
        assert!(take(2).is_none());
        for _ in 0..3 {
            queue.push_urgent(Arc::downgrade(&other));
            queue.push(Arc::downgrade(&other), Duration::ZERO);
            queue.push(Arc::downgrade(&one), HOUR);
        }
        assert!(queue.take_due().is_some_and(|taken| Arc::ptr_eq(&taken, &other)), "it was due in an hour at best");
        assert!(queue.take_due().is_none());
        for _ in 0..3 {
            queue.push(Arc::downgrade(&other), HOUR);
            drop(queue.hurry());
        }
        assert!(queue.take_due().is_some_and(|taken| Arc::ptr_eq(&taken, &one)));
        assert!(queue.take_due().is_some_and(|taken| Arc::ptr_eq(&taken, &other)));
        assert!(take(9).is_none() && queue.lock().places.is_empty());
    }

    #[test]
    fn while_somebody_hurries_whoever_comes_is_synced_at_once_but_who_rests() {
        const HOUR: Duration = Duration::from_secs(3600);
        let (queue, [one, other]) = (SyncQueue::default(), targets());
        let hurried = queue.hurry();
        queue.push(Arc::downgrade(&one), HOUR);
        queue.push_rested(Arc::downgrade(&other), HOUR);
        assert!(queue.take_due().is_some_and(|taken| Arc::ptr_eq(&taken, &one)));
        assert!(queue.take_due().is_none());
        drop(hurried);
        queue.push(Arc::downgrade(&one), HOUR);
        assert!(queue.take_due().is_none());
    }

    #[test]
    fn a_thread_that_syncs_for_long_keeps_no_other_from_the_next_partition() {
        let queue = Arc::new(SyncQueue::default());
        let (taken, others) = mpsc::channel();
        for _ in 0..2 {
            let (queue, taken) = (Arc::clone(&queue), taken.clone());
            // Each thread takes one partition and never comes back for another.
            thread::spawn(move || taken.send(queue.next().is_some()));
        }
        let both: [_; 2] = targets();
        for (target, delay) in both.iter().zip([20, 40]) {
            queue.push(Arc::downgrade(target), Duration::from_millis(delay));
        }
        for _ in 0..2 {
            assert!(others.recv_timeout(Duration::from_secs(60)).expect("both are taken"));
        }
    }
}
