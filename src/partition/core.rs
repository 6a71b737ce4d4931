//! The state of a partition that its threads share.
//!
//! Locks, in rank order: `maintenance` (1), `active` (2, the appender's), the one of the segment list `view` (3), the
//! waiters' (4). Readers take neither of the first two. The modules that this one imports do not know it; the modules
//! that import it add the methods that need the whole partition.

use crate::compaction::state::CompactionState;
use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Codec;
use crate::replay::leader_epochs::LeaderEpochs;
use crate::segment::list::SegmentListCell;
use crate::segment::{PartitionDir, Segment};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use super::active::Active;
use super::append_queue::AppendQueue;
use super::config_cache::ConfigCache;
use super::cuts::Cuts;
use super::group_commit::GroupCommit;
use super::health::Health;
use super::maintenance_state::MaintenanceState;
use super::offsets::{Ends, WaitersByEnd};
use super::pins::Pins;
use super::resources::Resources;
use super::state_file::StateFile;
use super::stats::Counters;

/// One partition, as its threads share it. The fields are grouped by the lock that guards them.
pub(crate) struct PartitionCore {
    // Never changes.
    pub(crate) topic: Arc<str>,
    pub(crate) id: u32,
    pub(crate) dir: Arc<PartitionDir>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) read_only: bool,
    /// The directory was Kafka's when it was opened. Until it is recovered, `state` is out of date.
    pub(crate) is_kafkas: bool,
    pub(super) me: Weak<PartitionCore>,

    // Rank 1: held for a whole pass, a truncation or a deletion.
    pub(super) maintenance: Mutex<()>,
    /// How many threads wait for `maintenance`. A pass checks this now and then, and ends early.
    pub(super) cancel: Arc<AtomicU64>,
    /// How many callers have paused maintenance. Work that must not begin checks this under a lock that
    /// [`pause`](Self::pause) takes as well.
    pub(super) pauses: AtomicUsize,
    /// The number of temporary file names handed out.
    pub(crate) temporaries: AtomicU64,

    // Rank 2: held for one write.
    pub(super) active: Mutex<Active>,

    // Changed under rank 1 or 2, and read without a lock.
    pub(crate) view: SegmentListCell,
    pub(crate) ends: Ends,
    pub(crate) cuts: Cuts,
    pub(super) config_cache: ConfigCache,

    // Parts with locks of their own.
    pub(crate) group_commit: GroupCommit,
    pub(super) state: StateFile,
    pub(crate) waiters: WaitersByEnd,
    pub(crate) append_queue: AppendQueue,

    // Leaves: no other lock is taken while one of these is held.
    pub(crate) health: Health,
    pub(crate) pins: Pins,
    pub(super) config: RwLock<Arc<TopicConfig>>,
    pub(super) epochs: Mutex<LeaderEpochs>,
    pub(super) counted: Mutex<CompactionState>,
    pub(super) maintenance_state: Mutex<MaintenanceState>,
    pub(super) retired: Mutex<Vec<Arc<Segment>>>,

    pub(crate) counters: Counters,
}

impl PartitionCore {
    /// Takes the appender's lock. It is held for one write, never for a sync.
    pub(crate) fn lock_active(&self) -> MutexGuard<'_, Active> {
        self.active.lock()
    }

    /// Takes the appender's lock if it is free.
    pub(crate) fn try_lock_active(&self) -> Option<MutexGuard<'_, Active>> {
        self.active.try_lock()
    }

    pub(crate) fn lock_leader_epochs(&self) -> MutexGuard<'_, LeaderEpochs> {
        self.epochs.lock()
    }

    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.config.read())
    }

    /// Fails when the partition takes no writes.
    #[inline]
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly));
        }
        self.health.check()
    }

    /// Locks the state that compaction keeps between passes.
    pub(crate) fn lock_compaction_state(&self) -> MutexGuard<'_, CompactionState> {
        self.counted.lock()
    }

    /// Locks the state that maintenance keeps between passes.
    pub(crate) fn lock_maintenance_state(&self) -> MutexGuard<'_, MaintenanceState> {
        self.maintenance_state.lock()
    }

    /// Waits for a truncation under way: it holds the appender's lock until it ends.
    pub(crate) fn wait_for_cut(&self) {
        drop(self.lock_active());
    }

    /// Returns a weak reference to this partition, which does not keep it alive.
    pub(crate) fn weak(&self) -> Weak<PartitionCore> {
        Weak::clone(&self.me)
    }

    /// Whether the records of a batch must be checked before it is appended.
    #[inline]
    pub(crate) fn checks_records(&self) -> bool {
        self.config_cache.checks_records.load(Ordering::Relaxed)
    }

    /// Whether an append is acknowledged after a sync.
    #[inline]
    pub(crate) fn syncs_appends(&self) -> bool {
        self.config_cache.syncs_appends.load(Ordering::Relaxed)
    }

    /// The codec for batches that are built here.
    #[inline]
    pub(crate) fn codec(&self) -> Codec {
        Codec::from_id(self.config_cache.codec.load(Ordering::Relaxed)).unwrap_or_default()
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
}

impl std::fmt::Debug for PartitionCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.id)
    }
}
