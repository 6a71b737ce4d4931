//! A partition, as its workers share it.
//!
//! Locks, in rank order: `maintenance` (1), `active` (2, the appender's), the view's (3), the waiters' (4). Readers take
//! neither of the first two. The files below this one do not know it; those above add to it what needs all of it.

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

/// One partition, as its workers see it. Its fields stand with the lock that guards them.
pub(crate) struct PartitionCore {
    // Never changes.
    pub(crate) topic: Arc<str>,
    pub(crate) id: u32,
    pub(crate) dir: Arc<PartitionDir>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) read_only: bool,
    /// It was Kafka's when it was opened. Until it is recovered what `state` says is of another time.
    pub(crate) is_kafkas: bool,
    pub(super) me: Weak<PartitionCore>,

    // Rank 1, a whole pass, truncation, deletion.
    pub(super) maintenance: Mutex<()>,
    /// How many wait for `maintenance`. A pass looks at it now and then, and ends soon.
    pub(super) cancel: Arc<AtomicU64>,
    /// How many keep maintenance away. What must not begin asks under a lock that [`pause`](Self::pause) takes as well.
    pub(super) pauses: AtomicUsize,
    /// Numbers of temporary files that were used.
    pub(crate) temporaries: AtomicU64,

    // Rank 2, one write.
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

    // Leaves: no other lock is taken under these.
    pub(crate) health: Health,
    pub(crate) pins: Pins,
    pub(super) config: RwLock<Arc<TopicConfig>>,
    pub(super) epochs: Mutex<LeaderEpochs>,
    pub(super) counted: Mutex<CompactionState>,
    pub(super) upkeep: Mutex<MaintenanceState>,
    pub(super) retired: Mutex<Vec<Arc<Segment>>>,

    pub(crate) counters: Counters,
}

impl PartitionCore {
    /// The appender's lock: one write, never a sync.
    pub(crate) fn lock_active(&self) -> MutexGuard<'_, Active> {
        self.active.lock()
    }

    /// The appender's lock, when nobody has it.
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

    /// What compaction remembers between passes.
    pub(crate) fn lock_compaction_state(&self) -> MutexGuard<'_, CompactionState> {
        self.counted.lock()
    }

    /// What maintenance remembers.
    pub(crate) fn lock_maintenance_state(&self) -> MutexGuard<'_, MaintenanceState> {
        self.upkeep.lock()
    }

    /// Waits for the thread that cuts files, which has the appender all the while.
    pub(crate) fn wait_for_cut(&self) {
        drop(self.lock_active());
    }

    /// Who stands for this partition without keeping it.
    pub(crate) fn weak(&self) -> Weak<PartitionCore> {
        Weak::clone(&self.me)
    }

    /// Whether a batch's records have to be looked at before it is appended.
    #[inline]
    pub(crate) fn checks_records(&self) -> bool {
        self.config_cache.checks_records.load(Ordering::Relaxed)
    }

    /// Whether an append is acknowledged after a sync.
    #[inline]
    pub(crate) fn syncs_appends(&self) -> bool {
        self.config_cache.syncs_appends.load(Ordering::Relaxed)
    }

    /// How batches that are built here are compressed.
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
