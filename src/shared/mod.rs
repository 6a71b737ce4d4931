//! What the workers of a partition share: its place, its view, its ends, and the services around them.

use std::path::PathBuf;
use std::time::Duration;

use crate::active::Active;
use crate::budget::{SpaceWatch, SyncQueue, SyncTarget, Unsynced};
use crate::combiner::Combiner;
use crate::config::{Durability as DurabilityConfig, TopicConfig, WatermarkMode};
use crate::counted::Counted;
use crate::durability::{Durability, Health};
use crate::epochs::Epochs;
use crate::error::{Error, ErrorKind, Result};
use crate::format::KeyHasher;
use crate::offset::{Offset, Timestamp};
use crate::pins::Pins;
use crate::segment::{Owner, Place, Segment};
use crate::state::StateStore;
use crate::stats::{Counters, Upkeep};
use crate::storage::Storage;
use crate::storage::handles::Handles;
use crate::storage::paced::Throttle;
use crate::storage::preallocator::Preallocator;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, TryLockError, Weak};
use crate::tail::Wakes;
use crate::view::ViewCell;

mod cuts;
mod ends;
mod hot;
mod stored;
mod upkeep;

pub(crate) use ends::{Ends, Tails};
pub(crate) use stored::store_whole_index;

use cuts::Cuts;
use hot::Hot;

/// What found no room on a full disk is tried again by the syncing threads after this time, and not before, whoever has
/// them hurry.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

/// What all partitions of a log share.
#[derive(Debug)]
pub(crate) struct Budgets {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) handles: Arc<Handles>,
    pub(crate) preallocator: Arc<Preallocator>,
    pub(crate) unsynced: Unsynced,
    pub(crate) space: SpaceWatch,
    pub(crate) sync_queue: SyncQueue,
    pub(crate) checkpoint_bytes: u64,
    /// Of one compaction, in bytes.
    pub(crate) compaction_memory: usize,
    /// Files that one compaction has open, at most.
    pub(crate) compaction_files: usize,
    /// The rate of all compactions together.
    pub(crate) throttle: Arc<Throttle>,
    /// Set once the log's secret is known.
    pub(crate) hasher: OnceLock<KeyHasher>,
}

impl Budgets {
    /// The place of a partition that shares them.
    pub(crate) fn place(&self, dir: PathBuf) -> Arc<Place> {
        let (storage, handles, preallocator) = (&self.storage, &self.handles, &self.preallocator);
        Arc::new(Place::new(dir, Arc::clone(storage), Arc::clone(handles), Arc::clone(preallocator)))
    }
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
    /// It was Kafka's when it was opened. Until it is recovered what `state` says is of another time.
    pub(crate) is_kafkas: bool,
    /// A whole pass, truncation, deletion. Waiting for it is told by `cancel`, which passes look at now and then.
    pub(crate) maintenance: Mutex<()>,
    /// How many wait for `maintenance`, as a hint to a pass that it is to end soon.
    cancel: Arc<AtomicU64>,
    /// How many keep maintenance away. What must not begin asks under a lock that [`pause`](Self::pause) takes as well.
    pauses: AtomicUsize,
    upkeep: Mutex<Upkeep>,
    pub(crate) cuts: Cuts,
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
    pub(crate) is_kafkas: bool,
}

impl Shared {
    /// Puts a partition together.
    pub(crate) fn new(parts: Parts) -> Arc<Shared> {
        // What cannot be read costs a look at the digests.
        let known = parts.state.read().unwrap_or_else(|_| parts.state.get());
        let counted = Counted::restored(&known, &parts.view.load());
        // Who only reads looks whether the file has changed.
        if !parts.read_only {
            parts.state.forget_segments();
        }
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
            is_kafkas: parts.is_kafkas,
            maintenance: Mutex::new(()),
            cancel: Arc::default(),
            pauses: AtomicUsize::new(0),
            upkeep: Mutex::new(Upkeep::default()),
            cuts: Cuts::new(),
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

    pub(crate) fn lock_epochs(&self) -> MutexGuard<'_, Epochs> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes another configuration into use. Who holds no lock [tells](Self::tell) of it: an end may lie elsewhere.
    pub(crate) fn set_config(&self, config: Arc<TopicConfig>) {
        let mut active = self.lock_active();
        let managed = config.watermark == WatermarkMode::Managed;
        active.move_high_watermark(self, self.high_watermark_if(managed), || self.hot.set(&config));
        self.place.mapped_reads.store(config.mapped_reads, Ordering::Relaxed);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        active.set_config(config);
        drop(active);
        if self.durability.account.unsynced() > 0 {
            // What waits may be in no queue yet, or wait for too long by the new configuration.
            self.sync_soon();
        }
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
        // Nobody knows the partition yet.
        self.tails.shut(&reason);
    }

    /// A sync failed: no more writes, and only what was durable is read.
    pub(crate) fn poison(&self, cause: &Error) {
        let error = Error::poisoned_by(cause);
        self.health.fail(error.clone());
        // After the failure is told: an append that does not see that yet has its bytes given up here.
        self.durability.give_up(self);
        // Wakers are foreign code: they are called without the locks held here, by a syncing thread if by nobody else.
        self.tails.shut(&error);
        self.sync_soon();
    }

    /// A write of `state` failed: on a full disk the old one holds; after anything else nothing is known of the disk.
    pub(crate) fn fail_state(&self, cause: &Error) {
        if *cause.kind() != ErrorKind::DiskFull {
            self.poison(cause);
        }
    }

    /// What compaction remembers between passes.
    pub(crate) fn lock_counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What maintenance remembers.
    pub(crate) fn lock_upkeep(&self) -> MutexGuard<'_, Upkeep> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accounts for bytes that were appended; the caller has the appender's lock. It calls [`announce`](Self::announce)
    /// when it has let go of that.
    #[inline]
    pub(crate) fn accepted(&self, bytes: u64, config: &TopicConfig) {
        let before = self.budgets.unsynced.add(bytes);
        self.budgets.space.appended(before, bytes);
        // Ends with a full fence, for the looks below and for the one at the waiters.
        let unsynced = self.durability.account.accept(bytes);
        if let DurabilityConfig::Buffered { interval, bytes: bound } = config.durability {
            if unsynced >= bound && unsynced - bytes < bound {
                self.sync_soon();
            } else if self.durability.account.enqueue() {
                let me: Weak<dyn SyncTarget> = self.me.clone();
                self.budgets.sync_queue.push(me, interval);
            }
        }
        if self.health.is_unwell() {
            // A sync has failed meanwhile: nobody syncs these any more.
            self.durability.give_up(self);
        }
    }

    /// Has a syncing thread sync this partition next.
    pub(crate) fn sync_soon(&self) {
        if self.durability.account.enqueue_urgent() {
            let me: Weak<dyn SyncTarget> = self.me.clone();
            self.budgets.sync_queue.push_urgent(me);
        }
    }

    /// Waits for the thread that cuts files, which has the appender all the while.
    pub(crate) fn wait_for_cut(&self) {
        drop(self.lock_active());
    }

    /// Who stands for this partition without keeping it.
    pub(crate) fn weak(&self) -> Weak<Shared> {
        Weak::clone(&self.me)
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

    /// Gives back what is reserved ahead by a partition that nothing is appended to.
    pub(crate) fn release_idle(&self, now: Timestamp) -> Result<()> {
        let mut active = self.lock_active();
        // Deleted meanwhile: its name, and even its inode, may be those of another topic's file by now.
        if self.check_writable().is_err() {
            return Ok(());
        }
        active.release_idle(self, now)
    }

    /// The topic is deleted, or the log dropped: nothing is written any more, and whoever holds a handle is told.
    pub(crate) fn abandon(&self) -> Wakes {
        let _pass = self.lock_maintenance();
        let mut active = self.lock_active();
        let closed = Error::new(ErrorKind::Closed);
        self.health.replace(closed.clone());
        self.durability.stop();
        self.durability.give_up(self);
        active.let_go();
        drop(active);
        self.view.load().segments().iter().for_each(|segment| segment.retire());
        self.tails.close(&closed)
    }

    /// Makes everything durable, so that the next open has nothing to scan; whoever waits is told.
    pub(crate) fn close(&self) -> (Result<()>, Wakes) {
        let _pass = self.lock_maintenance();
        let failed = self.health.reason();
        let mut active = self.lock_active();
        let closed = if failed.is_some() || self.read_only { Ok(()) } else { self.settle(&mut active) };
        active.let_go();
        self.health.replace(Error::new(ErrorKind::Closed));
        drop(active);
        self.view.load().segments().iter().for_each(|segment| segment.retire());
        let closed = match failed {
            // Damage that was there before is told at open, not here.
            Some(error) if *error.kind() == ErrorKind::Poisoned => Err(error),
            _ => closed,
        };
        (closed, self.tails.close(&Error::new(ErrorKind::Closed)))
    }

    fn settle(&self, active: &mut Active) -> Result<()> {
        self.durability.finish_roll(self)?;
        active.trim()?;
        let segment = Arc::clone(active.segment());
        let end = segment.end();
        self.durability.sync_quietly(self, end)?;
        segment.note_modified();
        let producers = active.snapshot(end);
        let old = self.whole_state()?;
        let unchanged = old.active_base == segment.base()
            && old.durable_position == segment.len()
            && old.durable_end == end
            && old.log_start == self.ends.log_start()
            && old.high_watermark == self.high_watermark()
            && old.planned == self.lock_counted().planned()
            // Without it the next open reads all of the segment.
            && old.segments.iter().any(|known| {
                let facts = segment.facts();
                known.base == segment.base() && (known.id, known.modified) == (facts.id, facts.modified)
            });
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
}

impl SyncTarget for Shared {
    fn sync_now(&self) {
        self.durability.account.unqueue();
        let mut rests = self.durability.rests();
        if rests.is_zero() {
            let synced = self.durability.sync_to(self, self.end());
            // Any other failure poisons the partition: the next append tells it.
            if synced.is_err_and(|error| *error.kind() == ErrorKind::DiskFull) {
                self.durability.rest(NO_ROOM_RETRY);
                rests = NO_ROOM_RETRY;
            }
        }
        // Who synced before, or failed, may have been in no place to call wakers.
        self.tell();
        if !rests.is_zero() {
            self.budgets.sync_queue.push_rested(self.me.clone(), rests);
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
