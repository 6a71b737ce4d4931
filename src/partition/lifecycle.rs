//! The lifecycle of a partition: constructed, configured, closed, abandoned.

use crate::compaction::state::CompactionState;
use crate::config::{TopicConfig, WatermarkMode};
use crate::error::{Error, ErrorKind, Result};
use crate::offset::{Offset, Timestamp};
use crate::replay::leader_epochs::LeaderEpochs;
use crate::segment::list::SegmentListCell;
use crate::segment::{Owner, PartitionDir};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, RwLock, Weak};

use super::active::Active;
use super::append_queue::AppendQueue;
use super::config_cache::ConfigCache;
use super::core::PartitionCore;
use super::cuts::Cuts;
use super::group_commit::GroupCommit;
use super::health::Health;
use super::maintenance_state::MaintenanceState;
use super::offsets::{Ends, WaitersByEnd};
use super::pins::Pins;
use super::resources::Resources;
use super::state_file::StateFile;
use super::stats::Counters;
use super::waiters::Wakes;

/// The arguments of [`PartitionCore::new`].
pub(crate) struct Parts {
    pub(crate) topic: Arc<str>,
    pub(crate) id: u32,
    pub(crate) dir: Arc<PartitionDir>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) config: Arc<TopicConfig>,
    pub(crate) view: SegmentListCell,
    pub(crate) log_start: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) active: Active,
    pub(crate) epochs: LeaderEpochs,
    pub(crate) state: StateFile,
    pub(crate) read_only: bool,
    pub(crate) is_kafkas: bool,
}

impl PartitionCore {
    /// Constructs a partition.
    pub(crate) fn new(parts: Parts) -> Arc<PartitionCore> {
        // If the segments in `state` cannot be read, the only cost is that compaction reads the digests again.
        let known = parts.state.read().unwrap_or_else(|_| parts.state.get());
        let counted = CompactionState::restored(&known, &parts.view.load());
        // A read-only partition keeps them, to check later whether the file has changed.
        if !parts.read_only {
            parts.state.forget_segments();
        }
        let core = Arc::new_cyclic(|me| PartitionCore {
            topic: parts.topic,
            id: parts.id,
            dir: parts.dir,
            resources: parts.resources,
            ends: Ends::new(parts.log_start, parts.high_watermark, parts.view.load().end()),
            view: parts.view,
            waiters: WaitersByEnd::default(),
            group_commit: GroupCommit::new(parts.durable_end),
            health: Health::default(),
            pins: Pins::default(),
            counters: Counters::default(),
            append_queue: AppendQueue::default(),
            read_only: parts.read_only,
            is_kafkas: parts.is_kafkas,
            maintenance: Mutex::new(()),
            cancel: Arc::default(),
            pauses: AtomicUsize::new(0),
            maintenance_state: Mutex::new(MaintenanceState::default()),
            cuts: Cuts::new(),
            config_cache: ConfigCache::new(&parts.config),
            config: RwLock::new(parts.config),
            active: Mutex::new(parts.active),
            epochs: Mutex::new(parts.epochs),
            retired: Mutex::new(Vec::new()),
            temporaries: AtomicU64::new(0),
            counted: Mutex::new(counted),
            state: parts.state,
            me: Weak::clone(me),
        });
        let owner: Weak<dyn Owner> = core.me.clone();
        core.dir.set_owner(owner);
        core.lock_active().refresh_unstable(&core);
        core
    }

    /// Refuses writes for this reason from the start. Waiting ends with the same error: records that are missing now
    /// never arrive.
    pub(crate) fn refuse(&self, reason: Error) {
        self.health.fail(reason.clone());
        // The partition is not published yet, so no thread waits.
        self.waiters.shut(&reason);
    }

    /// Applies a new configuration. The caller calls [`tell`](Self::tell) once it holds no lock, because an end may
    /// have moved.
    pub(crate) fn set_config(&self, config: Arc<TopicConfig>) {
        let mut active = self.lock_active();
        let managed = config.watermark == WatermarkMode::Managed;
        active.move_high_watermark(self, self.high_watermark_if(managed), || self.config_cache.set(&config));
        self.dir.mapped_reads.store(config.mapped_reads, Ordering::Relaxed);
        *self.config.write() = Arc::clone(&config);
        active.set_config(config);
        drop(active);
        if self.group_commit.account.unsynced() > 0 {
            // The unsynced bytes may not be queued yet, or may be queued for later than the new configuration allows.
            self.sync_soon();
        }
    }

    /// Gives back space that is reserved ahead if nothing was appended since the last call.
    pub(crate) fn release_idle(&self, now: Timestamp) -> Result<()> {
        let mut active = self.lock_active();
        // The topic was deleted meanwhile: its file name, and even its inode, may belong to another topic's file by
        // now.
        if self.check_writable().is_err() {
            return Ok(());
        }
        active.release_idle(self, now)
    }

    /// Abandons the partition because the topic is deleted or the log dropped. Nothing is written any more, and every
    /// handle reports that it is closed.
    pub(crate) fn abandon(&self) -> Wakes {
        let _pass = self.lock_maintenance();
        let mut active = self.lock_active();
        let closed = Error::new(ErrorKind::Closed);
        self.health.replace(closed.clone());
        self.group_commit.stop();
        self.give_up_unsynced();
        active.let_go();
        drop(active);
        self.view.load().segments().iter().for_each(|segment| segment.retire());
        self.waiters.close(&closed)
    }

    /// Makes everything durable, so that the next open has nothing to scan, and ends all waiting.
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
            // Damage from before was reported at open, and is not reported here.
            Some(error) if *error.kind() == ErrorKind::Poisoned => Err(error),
            _ => closed,
        };
        (closed, self.waiters.close(&Error::new(ErrorKind::Closed)))
    }

    fn settle(&self, active: &mut Active) -> Result<()> {
        self.finish_roll()?;
        active.trim()?;
        let segment = Arc::clone(active.segment());
        let end = segment.end();
        self.sync_quietly(end)?;
        segment.note_modified();
        let producers = active.snapshot(end);
        let old = self.whole_state()?;
        let unchanged = old.active_base == segment.base()
            && old.durable_position == segment.len()
            && old.durable_end == end
            && old.log_start == self.ends.log_start()
            && old.high_watermark == self.high_watermark()
            && old.planned == self.lock_compaction_state().planned()
            // Without this entry the next open reads the whole segment.
            && old.segments.iter().any(|known| {
                let facts = segment.meta();
                known.base == segment.base() && (known.id, known.modified) == (facts.id, facts.modified)
            });
        if !unchanged {
            active.complete_times();
            segment.update_meta(|facts| facts.max_timestamp = facts.max_timestamp.max(active.max_timestamp()));
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
        self.remove_retired().map(|_| ())
    }
}
