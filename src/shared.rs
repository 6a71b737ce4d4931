//! What the workers of a partition share: its place, its view, its ends, and the services around them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, TryLockError, Weak};
use std::time::{Duration, Instant};

use crate::active::Active;
use crate::budget::{SpaceWatch, SyncQueue, SyncTarget, Unsynced};
use crate::combiner::Combiner;
use crate::compaction::Memory;
use crate::compaction::counted::Counted;
use crate::config::{Cleanup, Durability as DurabilityConfig, TopicConfig, WatermarkMode};
use crate::durability::{Capture, Durability, Health, Producers};
use crate::epochs::Epochs;
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::format::{Codec, KeyHasher, Pending, SegmentState, State};
use crate::isolation::Isolation;
use crate::offset::{Offset, Timestamp};
use crate::pending::{self, Holders};
use crate::pins::Pins;
use crate::replay::Replay;
use crate::segment::{Owner, Place, Segment};
use crate::state::StateStore;
use crate::stats::{Counters, Upkeep};
use crate::storage::Storage;
use crate::storage::files;
use crate::storage::handles::Handles;
use crate::storage::paced::{Paced, Throttle};
use crate::survey::{self, LogFile};
use crate::tail::{Reached, Tail, WaitOutcome};
use crate::view::{View, ViewCell};

/// What found no room on a full disk is tried again after this time.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

/// What all partitions of a log share.
#[derive(Debug)]
pub(crate) struct Budgets {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) handles: Arc<Handles>,
    pub(crate) unsynced: Unsynced,
    pub(crate) space: SpaceWatch,
    pub(crate) sync_queue: SyncQueue,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) compaction_memory: Memory,
    /// The rate of all compactions together.
    pub(crate) throttle: Arc<Throttle>,
    /// Set once the log's secret is known.
    pub(crate) hasher: OnceLock<KeyHasher>,
}

/// The offsets between which a partition is read, beside the log end (the view's) and the durable end.
#[derive(Debug)]
pub(crate) struct Ends {
    log_start: AtomicU64,
    log_end: AtomicU64,
    high_watermark: AtomicU64,
    /// The first offset of a transaction that is open, or ended above the high watermark; `u64::MAX` for none.
    first_unstable: AtomicU64,
}

/// What the hot paths ask of the configuration.
#[derive(Debug, Default)]
struct Hot {
    managed: AtomicBool,
    checks_records: AtomicBool,
    syncs_appends: AtomicBool,
    codec: AtomicU8,
}

impl Hot {
    fn new(config: &TopicConfig) -> Hot {
        let hot = Hot::default();
        hot.set(config);
        hot
    }

    fn set(&self, config: &TopicConfig) {
        let bounded = config.timestamp_before_max.is_some() || config.timestamp_after_max.is_some();
        self.managed.store(config.watermark == WatermarkMode::Managed, Ordering::Release);
        self.checks_records.store(bounded || config.cleanup != Cleanup::Delete, Ordering::Release);
        self.syncs_appends.store(config.durability == DurabilityConfig::Sync, Ordering::Release);
        self.codec.store(config.compression.id(), Ordering::Release);
    }
}

/// Who waits for which end.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    pub(crate) end: Arc<Tail>,
    pub(crate) durable: Arc<Tail>,
    pub(crate) high_watermark: Arc<Tail>,
    pub(crate) stable: Arc<Tail>,
}

/// One partition, as its workers see it.
///
/// Locks, in rank order: `maintenance`, `active` (the appender's), the view's, the waiters'. Readers take none of the
/// first two.
pub(crate) struct Shared {
    pub(crate) topic: Arc<str>,
    pub(crate) id: u32,
    pub(crate) place: Arc<Place>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) view: ViewCell,
    pub(crate) ends: Ends,
    pub(crate) tails: Tails,
    pub(crate) durability: Durability,
    pub(crate) health: Health,
    pub(crate) pins: Pins,
    pub(crate) counters: Counters,
    pub(crate) combiner: Combiner,
    pub(crate) read_only: bool,
    /// A whole pass, truncation, deletion. Waiting for it is told by `cancel`, which passes look at now and then.
    pub(crate) maintenance: Mutex<()>,
    cancel: Arc<AtomicU64>,
    pauses: AtomicUsize,
    upkeep: Mutex<Upkeep>,
    /// Counts truncations: before a file is cut and after. A read that saw it change is done again.
    pub(crate) cuts: AtomicU64,
    config: RwLock<Arc<TopicConfig>>,
    hot: Hot,
    active: Mutex<Active>,
    epochs: Mutex<Epochs>,
    graveyard: Mutex<Vec<Arc<Segment>>>,
    /// Numbers of temporary files that were used.
    pub(crate) temporaries: AtomicU64,
    counted: Mutex<Counted>,
    state: StateStore,
    me: Weak<Shared>,
}

/// What [`Shared::new`] puts together.
pub(crate) struct Parts {
    pub(crate) topic: Arc<str>,
    pub(crate) id: u32,
    pub(crate) place: Arc<Place>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) config: Arc<TopicConfig>,
    pub(crate) view: ViewCell,
    pub(crate) log_start: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) active: Active,
    pub(crate) epochs: Epochs,
    pub(crate) state: StateStore,
    pub(crate) read_only: bool,
}

impl Ends {
    fn new(log_start: Offset, high_watermark: Offset, log_end: Offset) -> Ends {
        Ends {
            log_start: AtomicU64::new(log_start.get()),
            log_end: AtomicU64::new(log_end.get()),
            high_watermark: AtomicU64::new(high_watermark.get()),
            first_unstable: AtomicU64::new(u64::MAX),
        }
    }

    /// The first offset that may be read.
    #[inline]
    pub(crate) fn log_start(&self) -> Offset {
        Offset::new(self.log_start.load(Ordering::Acquire))
    }

    pub(crate) fn set_log_start(&self, offset: Offset) {
        self.log_start.store(offset.get(), Ordering::Release);
    }

    /// The log end offset: stored after the bytes and the end of the active segment.
    #[inline]
    pub(crate) fn log_end(&self) -> Offset {
        Offset::new(self.log_end.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn set_log_end(&self, offset: Offset) {
        self.log_end.store(offset.get(), Ordering::Release);
    }

    pub(crate) fn raise_log_start(&self, offset: Offset) {
        self.log_start.fetch_max(offset.get(), Ordering::AcqRel);
    }

    pub(crate) fn set_high_watermark(&self, offset: Offset) {
        self.high_watermark.store(offset.get(), Ordering::Release);
    }

    pub(crate) fn lower_first_unstable(&self, offset: Option<Offset>) {
        self.first_unstable.fetch_min(offset.map_or(u64::MAX, Offset::get), Ordering::AcqRel);
    }

    pub(crate) fn set_first_unstable(&self, offset: Option<Offset>) {
        self.first_unstable.store(offset.map_or(u64::MAX, Offset::get), Ordering::Release);
    }
}

impl Shared {
    /// Puts a partition together.
    pub(crate) fn new(parts: Parts) -> Arc<Shared> {
        let counted = Counted::restored(&parts.state.get(), &parts.view.load());
        let shared = Arc::new_cyclic(|me| Shared {
            topic: parts.topic,
            id: parts.id,
            place: parts.place,
            budgets: parts.budgets,
            ends: Ends::new(parts.log_start, parts.high_watermark, parts.view.load().end()),
            view: parts.view,
            tails: Tails::default(),
            durability: Durability::new(parts.durable_end),
            health: Health::default(),
            pins: Pins::default(),
            counters: Counters::default(),
            combiner: Combiner::default(),
            read_only: parts.read_only,
            maintenance: Mutex::new(()),
            cancel: Arc::default(),
            pauses: AtomicUsize::new(0),
            upkeep: Mutex::new(Upkeep::default()),
            cuts: AtomicU64::new(0),
            hot: Hot::new(&parts.config),
            config: RwLock::new(parts.config),
            active: Mutex::new(parts.active),
            epochs: Mutex::new(parts.epochs),
            graveyard: Mutex::new(Vec::new()),
            temporaries: AtomicU64::new(0),
            counted: Mutex::new(counted),
            state: parts.state,
            me: Weak::clone(me),
        });
        let owner: Weak<dyn Owner> = shared.me.clone();
        shared.place.set_owner(owner);
        shared.lock_active().refresh_unstable(&shared);
        shared
    }

    /// Has a pass that is under way end soon: nobody waits for all of it.
    pub(crate) fn cancel_pass(&self) {
        self.cancel.fetch_add(1, Ordering::AcqRel);
    }

    /// The appender's lock: one write, never a sync.
    pub(crate) fn lock_active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The appender's lock, when nobody has it.
    pub(crate) fn try_lock_active(&self) -> Option<MutexGuard<'_, Active>> {
        match self.active.try_lock() {
            Ok(active) => Some(active),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The lock under which one maintenance pass, truncation or deletion runs at a time.
    pub(crate) fn lock_maintenance(&self) -> MutexGuard<'_, ()> {
        self.cancel.fetch_add(1, Ordering::AcqRel);
        let guard = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        self.cancel.fetch_sub(1, Ordering::AcqRel);
        guard
    }

    pub(crate) fn lock_epochs(&self) -> MutexGuard<'_, Epochs> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes another configuration into use.
    pub(crate) fn set_config(&self, config: Arc<TopicConfig>) {
        let mut active = self.lock_active();
        self.hot.set(&config);
        self.place.mapped_reads.store(config.mapped_reads, Ordering::Relaxed);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        active.set_config(config);
        active.refresh_unstable(self);
        drop(active);
        fence(Ordering::SeqCst);
        self.announce();
        if self.durability.unsynced() > 0 {
            // What waits may be in no queue yet, or wait for too long by the new configuration.
            self.sync_soon();
        }
    }

    /// The log end offset.
    #[inline]
    pub(crate) fn end(&self) -> Offset {
        self.ends.log_end()
    }

    /// The high watermark: the owner's, or the log end where nobody manages one.
    #[inline]
    pub(crate) fn high_watermark(&self) -> Offset {
        let end = self.end();
        if self.hot.managed.load(Ordering::Acquire) {
            Offset::new(self.ends.high_watermark.load(Ordering::Acquire)).min(end)
        } else {
            end
        }
    }

    /// The last stable offset: no open transaction below it, and at most the high watermark.
    #[inline]
    pub(crate) fn last_stable(&self) -> Offset {
        // The end first: it is stored after the transaction that it ends in.
        let high_watermark = self.high_watermark();
        high_watermark.min(Offset::new(self.ends.first_unstable.load(Ordering::Acquire)).max(self.ends.log_start()))
    }

    /// What the high watermark is once the log ends at `end`.
    pub(crate) fn high_watermark_at(&self, end: Offset) -> Offset {
        if self.hot.managed.load(Ordering::Acquire) { self.high_watermark() } else { end }
    }

    /// Fails when the partition takes no writes.
    #[inline]
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly));
        }
        self.health.check()
    }

    /// Takes no writes for this reason from the start: what is not there never comes.
    pub(crate) fn refuse(&self, reason: Error) {
        self.health.fail(reason.clone());
        self.tails.close(&reason);
    }

    /// A sync failed: no more writes, and only what was durable is read.
    pub(crate) fn poison(&self, cause: &Error) {
        let mut error = Error::new(ErrorKind::Poisoned);
        if let Some(path) = cause.path() {
            error = error.at_path(path);
        }
        self.health.fail(error.clone());
        // An append that does not see this yet has added its bytes before: see `accepted`.
        fence(Ordering::SeqCst);
        self.durability.give_up(self);
        self.tails.close(&error);
    }

    /// A write of `state` failed: on a full disk the old one holds; after anything else nothing is known of the disk.
    pub(crate) fn fail_state(&self, cause: &Error) {
        if *cause.kind() != ErrorKind::DiskFull {
            self.poison(cause);
        }
    }

    /// Keeps segments that have left the view until nobody reads them.
    pub(crate) fn bury(&self, segments: Vec<Arc<Segment>>) {
        self.lock_graveyard().extend(segments);
    }

    /// Removes the files of buried segments that nobody reads any more; returns how many are left.
    pub(crate) fn reap(&self) -> Result<usize> {
        let mut graveyard = self.lock_graveyard();
        let mut failed = None;
        graveyard.retain(|segment| {
            // Only a holder can make another one, and this is the last.
            let held = Arc::strong_count(segment) > 1 || !segment.is_unleased();
            let removed = if held { Ok(()) } else { crate::swap::remove_buried(segment) };
            let stays = held || removed.is_err();
            failed = failed.take().or(removed.err());
            stays
        });
        failed.map_or(Ok(graveyard.len()), Err)
    }

    /// What compaction remembers between passes.
    pub(crate) fn lock_counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What maintenance remembers.
    pub(crate) fn lock_upkeep(&self) -> MutexGuard<'_, Upkeep> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The storage as maintenance uses it: at the log's rate, and no further once somebody waits for the partition.
    pub(crate) fn paced(&self) -> Paced {
        let (storage, throttle) = (Arc::clone(&self.place.storage), Arc::clone(&self.budgets.throttle));
        Paced::new(storage, throttle, Arc::clone(&self.cancel))
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

    fn lock_graveyard(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.graveyard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accounts for bytes that were appended; the caller has the appender's lock. It calls [`announce`](Self::announce)
    /// when it has let go of that.
    #[inline]
    pub(crate) fn accepted(&self, bytes: u64, config: &TopicConfig) {
        let before = self.budgets.unsynced.add(bytes);
        self.budgets.space.appended(before, bytes);
        let unsynced = self.durability.accept(bytes);
        // Orders the bytes and the new end before the looks at the queue, at the partition's health, at the waiters.
        fence(Ordering::SeqCst);
        if let DurabilityConfig::Buffered { interval, bytes: bound } = config.durability {
            if unsynced >= bound && unsynced - bytes < bound {
                self.sync_soon();
            } else if self.durability.enqueue() {
                let me: Weak<dyn SyncTarget> = self.me.clone();
                self.budgets.sync_queue.push(me, interval);
            }
        }
        if self.health.is_unwell() {
            // A sync has failed meanwhile: nobody syncs these any more.
            self.durability.give_up(self);
        }
    }

    /// Wakes who waits for what was appended. Called without the appender: a waker is foreign code, and may append.
    #[inline]
    pub(crate) fn announce(&self) {
        let end = self.end().get();
        self.tails.end.notify_fenced(end);
        if !self.hot.managed.load(Ordering::Relaxed) {
            self.tails.high_watermark.notify_fenced(end);
        }
        if self.tails.stable.has_waiters() {
            self.tails.stable.notify_fenced(self.last_stable().get());
        }
    }

    /// Has a syncing thread sync this partition next.
    pub(crate) fn sync_soon(&self) {
        if self.durability.enqueue_urgent() {
            let me: Weak<dyn SyncTarget> = self.me.clone();
            self.budgets.sync_queue.push_urgent(me);
        }
    }

    /// What the `state` file says.
    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    /// Changes the `state` file, durably, and refreshes what it caches of the segments.
    pub(crate) fn update_state(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let (view, planned) = (self.view.load(), self.lock_counted().planned());
        self.state.update(|state| {
            state.log_start = self.ends.log_start();
            // Not beyond what a power cut leaves: else what is appended there afterwards would count as replicated.
            state.high_watermark = self.high_watermark().min(self.durability.end()).max(state.log_start);
            state.planned = planned;
            change(state);
            state.segments = view.segments().iter().map(|segment| self.segment_state(segment, state)).collect();
        })
    }

    /// Makes the `state` that was read at open durable.
    pub(crate) fn settle_state(&self) -> Result<()> {
        self.state.settle()
    }

    /// Makes both copies of the `state` file durable.
    pub(crate) fn sync_state(&self) -> Result<()> {
        self.state.sync()
    }

    /// Carries out what `state` says is pending.
    pub(crate) fn redo(&self, pending: Pending, holders: Holders) -> Result<()> {
        pending::redo(&self.place, &self.state, pending, holders)
    }

    /// A file is cut, or replaced, from now on: a read that is under way is done again.
    pub(crate) fn begin_cut(&self) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
        // Whoever takes a lease after this sees the count changed (fetch).
        fence(Ordering::SeqCst);
    }

    /// What was cut is cut.
    pub(crate) fn end_cut(&self) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    /// Stores everything derived from a sealed segment beside it, durably but for the directory.
    pub(crate) fn store_sidecars(&self, segment: &Segment, producers: &Producers) -> Result<()> {
        self.store_snapshot(producers)?;
        self.store_epochs()?;
        store_whole_index(segment)
    }

    /// Stores what recovery derived from the active segment.
    pub(crate) fn store_recovered(&self, active: &Segment, producers: &Producers) -> Result<()> {
        self.store_snapshot(producers)?;
        self.store_epochs()?;
        store_whole_index(active)?;
        self.place.sync_dir()
    }

    /// Stores what was derived from the active segment up to a checkpoint.
    pub(crate) fn store_checkpoint(&self, capture: &Capture) -> Result<()> {
        self.store_snapshot(&capture.producers)?;
        self.store_epochs()?;
        capture.segment.store_index(Some(capture.index_entries))?;
        capture.segment.update_facts(|facts| facts.max_timestamp = capture.max_timestamp);
        self.place.sync_dir()
    }

    /// The path of the producer snapshot at an offset.
    pub(crate) fn snapshot_path(&self, at: Offset) -> PathBuf {
        self.place.segment_path(at, SegmentFileKind::Snapshot, Suffix::None)
    }

    /// Who stands for this partition without keeping it.
    pub(crate) fn weak(&self) -> Weak<Shared> {
        Weak::clone(&self.me)
    }

    /// Whether a batch's records have to be looked at before it is appended.
    #[inline]
    pub(crate) fn checks_records(&self) -> bool {
        self.hot.checks_records.load(Ordering::Relaxed)
    }

    /// Whether an append is acknowledged after a sync.
    #[inline]
    pub(crate) fn syncs_appends(&self) -> bool {
        self.hot.syncs_appends.load(Ordering::Relaxed)
    }

    /// How batches that are built here are compressed.
    #[inline]
    pub(crate) fn codec(&self) -> Codec {
        Codec::from_id(self.hot.codec.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// Fails once the log is closed, or the topic deleted.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        if !self.health.is_unwell() {
            return Ok(());
        }
        match self.health.reason() {
            Some(reason) if *reason.kind() == ErrorKind::Closed => Err(reason),
            _ => Ok(()),
        }
    }

    /// The same lock, for a maintenance pass: when nobody has it.
    pub(crate) fn try_lock_pass(&self) -> Option<MutexGuard<'_, ()>> {
        match self.maintenance.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits until readers of this isolation see up to `target`.
    pub(crate) fn wait(&self, isolation: Isolation, target: Offset, timeout: Option<Duration>) -> Result<WaitOutcome> {
        // A time that the clock cannot tell never comes.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.tails.of(isolation).wait(target.get(), || self.waited_for(isolation), deadline)
    }

    /// The same as a future. It does not keep the partition.
    pub(crate) fn future(
        &self,
        isolation: Isolation,
        target: Offset,
    ) -> Reached<impl Fn() -> Result<u64> + Send + Unpin + 'static> {
        let me = self.weak();
        let current = move || me.upgrade().ok_or(ErrorKind::Closed)?.waited_for(isolation);
        Reached::new(Arc::clone(self.tails.of(isolation)), target.get(), current)
    }

    fn waited_for(&self, isolation: Isolation) -> Result<u64> {
        self.check_open()?;
        Ok(match isolation {
            Isolation::End => self.end(),
            Isolation::Durable => self.durability.end(),
            Isolation::HighWatermark => self.high_watermark(),
            Isolation::Committed => self.last_stable(),
        }
        .get())
    }

    /// How many buried segments wait for a reader to let go.
    pub(crate) fn segments_held(&self) -> usize {
        self.lock_graveyard().len()
    }

    /// Finds the aborted transactions of a segment again: its index file is not what it should be.
    pub(crate) fn rebuild_aborted(&self, view: &View, segment: &Segment) -> Result<()> {
        let logs: Vec<LogFile> = view.segments().iter().map(|segment| LogFile::of(segment)).collect();
        let found = survey::look(&self.place, Some(&self.state.get()), false)?;
        let mut replay = Replay::new(Epochs::default());
        replay.producers_before(&self.place, &logs, &found.snapshots, segment.base(), segment.base(), None)?;
        let mut aborted = Vec::new();
        replay
            .replay(&self.place, &LogFile::of(segment), segment.base(), segment.end(), |entry| aborted.push(entry))?;
        segment.set_aborted(aborted);
        Ok(())
    }

    /// Gives back what is reserved ahead by a partition that nothing is appended to.
    pub(crate) fn release_idle(&self, now: Timestamp) -> Result<()> {
        self.lock_active().release_idle(now)
    }

    /// The topic is deleted, or the log dropped: whoever holds a handle is told, and nothing is written any more.
    pub(crate) fn abandon(&self) {
        let _pass = self.lock_maintenance();
        let mut active = self.lock_active();
        let closed = Error::new(ErrorKind::Closed);
        self.health.replace(closed.clone());
        self.durability.stop();
        self.durability.give_up(self);
        active.let_go();
        drop(active);
        self.tails.close(&closed);
        self.view.load().segments().iter().for_each(|segment| segment.close_file());
    }

    /// Makes everything durable, so that the next open has nothing to scan.
    pub(crate) fn close(&self) -> Result<()> {
        let _pass = self.lock_maintenance();
        let failed = self.health.reason();
        let mut active = self.lock_active();
        let closed = if failed.is_some() || self.read_only { Ok(()) } else { self.settle(&mut active) };
        active.let_go();
        self.health.replace(Error::new(ErrorKind::Closed));
        drop(active);
        self.tails.close(&Error::new(ErrorKind::Closed));
        self.view.load().segments().iter().for_each(|segment| segment.close_file());
        match failed {
            // Damage that was there before is told at open, not here.
            Some(error) if *error.kind() == ErrorKind::Poisoned => Err(error),
            _ => closed,
        }
    }

    fn settle(&self, active: &mut Active) -> Result<()> {
        self.durability.finish_roll(self)?;
        active.trim()?;
        let segment = Arc::clone(active.segment());
        let end = segment.end();
        self.durability.sync_to(self, end)?;
        let producers = active.snapshot(end);
        let old = self.state.get();
        let unchanged = old.active_base == segment.base()
            && old.durable_position == segment.len()
            && old.durable_end == end
            && old.log_start == self.ends.log_start()
            && old.high_watermark == self.high_watermark()
            && old.planned == self.lock_counted().planned()
            // Without it the next open reads all of the segment.
            && old.segments.iter().any(|known| known.base == segment.base() && known.id == segment.facts().id);
        if !unchanged {
            active.complete_times();
            segment.update_facts(|facts| facts.max_timestamp = facts.max_timestamp.max(active.max_timestamp()));
            self.store_recovered(&segment, &producers)?;
            self.update_state(|state| {
                state.active_base = segment.base();
                state.durable_end = end;
                state.durable_position = segment.len();
                state.producers_at = producers.snapshot.as_ref().map(|_| producers.at);
            })?;
            self.remove_old_snapshots();
        }
        self.store_epochs()?;
        self.sync_state()?;
        self.reap().map(|_| ())
    }

    fn store_snapshot(&self, producers: &Producers) -> Result<()> {
        let Some(bytes) = &producers.snapshot else { return Ok(()) };
        let path = self.snapshot_path(producers.at);
        files::write_new(&*self.place.storage, &path, bytes)
    }

    /// Stores the leader epochs when they have changed. They cover everything up to the log end, so also what is durable.
    pub(crate) fn store_epochs(&self) -> Result<()> {
        let Some(text) = self.lock_epochs().take_changed() else { return Ok(()) };
        let path = self.place.path(file_name::LEADER_EPOCHS);
        let temporary = self.place.path(&file_name::temporary(file_name::LEADER_EPOCHS));
        files::replace(&*self.place.storage, &self.place.dir, &path, &temporary, text.as_bytes())
            .inspect_err(|_| self.lock_epochs().mark_changed())
    }

    /// Removes producer snapshots that no recovery needs: all but those at a segment's base and the one that `state` names.
    pub(crate) fn remove_old_snapshots(&self) {
        let keep = self.state.get().producers_at;
        let bases: Vec<Offset> = self.view.load().segments().iter().map(|segment| segment.base()).collect();
        // A leftover costs a little space: the next one tries again.
        let Ok(entries) = self.place.storage.list(&self.place.dir) else { return };
        for entry in entries {
            if let Some(ParsedName::Segment { base, kind: SegmentFileKind::Snapshot, suffix: Suffix::None }) =
                file_name::parse(&entry.name)
                && Some(base) != keep
                && bases.binary_search(&base).is_err()
            {
                let _ = files::remove(&*self.place.storage, &self.place.path(&entry.name));
            }
        }
    }

    fn segment_state(&self, segment: &Segment, state: &State) -> SegmentState {
        let facts = segment.facts();
        let active = segment.base() == state.active_base;
        // Entries that were found again and not stored are only in memory: the files are still not to be trusted.
        let all = !active || state.durable_position == segment.len();
        let sums = if all { segment.whole_sums() } else { segment.sums_below(state.durable_end) };
        // Of the active segment only what is durable is told.
        let (end, len) = if active {
            (state.durable_end.max(segment.base()), state.durable_position)
        } else {
            (segment.end(), segment.len())
        };
        SegmentState {
            base: segment.base(),
            end,
            len,
            id: facts.id,
            max_timestamp: facts.max_timestamp,
            first_append_at: facts.first_append_at,
            sealed_at: facts.sealed_at,
            tombstone_horizon: facts.tombstone_horizon,
            dead_records: facts.dead_records,
            dead_bytes: facts.dead_bytes,
            offsets: sums.offsets,
            times: sums.times,
            aborted: sums.aborted,
        }
    }
}

/// Stores all of a segment's index. It is a cache: on a full disk `state` does not vouch for files that are not whole.
pub(crate) fn store_whole_index(segment: &Segment) -> Result<()> {
    match segment.store_index(None) {
        Err(error) if *error.kind() == ErrorKind::DiskFull => Ok(()),
        stored => stored,
    }
}

impl Tails {
    fn of(&self, isolation: Isolation) -> &Arc<Tail> {
        match isolation {
            Isolation::End => &self.end,
            Isolation::Durable => &self.durable,
            Isolation::HighWatermark => &self.high_watermark,
            Isolation::Committed => &self.stable,
        }
    }

    /// Ends all waiting with this error.
    pub(crate) fn close(&self, error: &Error) {
        for tail in [&self.end, &self.durable, &self.high_watermark, &self.stable] {
            tail.close(error.clone());
        }
    }

    /// Ends waiting for offsets that a truncation has taken away.
    pub(crate) fn truncated(&self, to: Offset) {
        for tail in [&self.end, &self.durable, &self.high_watermark, &self.stable] {
            tail.fail_above(to.get(), Error::new(ErrorKind::Truncated));
        }
    }
}

impl SyncTarget for Shared {
    fn sync_now(&self) {
        self.durability.unqueue();
        let synced = self.durability.sync_to(self, self.end());
        // Who synced before may have been in no place to call wakers.
        self.tails.durable.notify(self.durability.end().get());
        // Any other failure poisons the partition: the next append tells it.
        if synced.is_err_and(|error| *error.kind() == ErrorKind::DiskFull) {
            self.budgets.sync_queue.push(self.me.clone(), NO_ROOM_RETRY);
        }
    }
}

impl Owner for Shared {
    fn close_active(&self) -> bool {
        if !self.durability.try_sync(self, self.end()) {
            return false;
        }
        let Some(mut active) = self.try_lock_active() else { return false };
        if self.durability.end() < active.segment().end() {
            return false;
        }
        active.let_go();
        active.segment().try_close_file()
    }

    fn sync_sealed(&self) -> bool {
        self.durability.try_sync(self, self.durability.end())
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.id)
    }
}
