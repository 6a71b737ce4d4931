//! The public handle of one partition. Each method is one call to a lower layer.

mod append;
mod ending;
mod maintaining;
mod reading;
mod waiting;

use std::sync::Arc;

use crate::config::{Clock, TopicConfig};
use crate::error::Result;
use crate::maintenance;
use crate::partition::Offsets;
use crate::partition::core::PartitionCore;
use crate::partition::stats::PartitionStats;
use crate::partition::visibility;

/// An append-only sequence of records with a total order. Cloning is cheap, and all clones are the same partition. Any
/// number of threads may use it.
#[derive(Clone)]
pub struct Partition {
    pub(crate) core: Arc<PartitionCore>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("topic", &self.topic()).field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Partition {
    /// Returns the name of the partition's topic.
    pub fn topic(&self) -> &str {
        &self.core.topic
    }

    /// Returns the number of the partition within its topic.
    pub fn id(&self) -> u32 {
        self.core.id
    }

    /// Returns where the partition begins and ends at this moment.
    pub fn offsets(&self) -> Offsets {
        visibility::offsets(&self.core)
    }

    /// Rolls: seals the active segment and begins a new one. An empty active segment stays.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["in the first segment"])?;
    /// events.roll()?;
    /// events.append_records(["in the second segment"])?;
    /// assert_eq!(events.stats().segments, 2);
    /// # log.close()
    /// # }
    /// ```
    pub fn roll(&self) -> Result<()> {
        let now = self.clock.now();
        let mut active = self.core.lock_active();
        self.core.check_writable()?;
        let rolled = active.roll(&self.core, now);
        drop(active);
        self.core.tell();
        rolled
    }

    /// Returns the configuration in use: that of the topic.
    pub fn config(&self) -> Arc<TopicConfig> {
        self.core.config()
    }

    /// Returns counters and offsets.
    pub fn stats(&self) -> PartitionStats {
        let core = &self.core;
        let view = core.view.load();
        let (producers, roll_due) = {
            let active = core.lock_active();
            (active.producers().len(), active.roll_due())
        };
        PartitionStats {
            offsets: self.offsets(),
            segments: view.segments().len(),
            bytes: view.bytes(),
            unsynced_bytes: core.group_commit.account.unsynced(),
            syncs: core.group_commit.syncs(),
            rolls: core.counters.rolls.get(),
            segments_removed: core.counters.segments_removed.get(),
            segments_held: core.segments_held(),
            producers,
            roll_due,
            pinned_at: core.pins.owner_bound(),
            compaction: maintenance::compaction_stats(core, self.clock.now()),
            error: core.health.reason(),
        }
    }
}
