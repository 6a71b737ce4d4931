//! Moving the ends of a partition, and its leader epochs.

use crate::config::WatermarkMode;
use crate::error::{ErrorKind, Result};
use crate::maintenance;
use crate::maintenance::retention;
use crate::offset::{Offset, Timestamp};
use crate::truncate;

use super::Partition;

impl Partition {
    /// Removes every batch that holds an offset at or above `to`, durably. Returns the new end, which is lower than
    /// `to` if `to` is inside a batch. Damaged batches above `to` are removed like any others.
    ///
    /// A crash leaves the log as it was, or truncated: the next open completes a truncation that had begun.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, Start};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one"])?;
    /// events.append_records(["two"])?;
    /// events.append_records(["three"])?;
    /// assert_eq!(events.truncate(Offset::new(1))?, Offset::new(1));
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 1);
    /// // The next append continues at the new end.
    /// assert_eq!(events.append_records(["four"])?.base_offset, Offset::new(1));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], with path and position, if a batch below `to` is damaged in the segment that is cut, or
    /// in one that must be read to restore the producers. Nothing has changed then. Other segments are not checked for
    /// damage and stay as they are. If `to` is in a gap and the batch behind the gap is damaged, the batch counts as
    /// below `to` where its header does not tell.
    ///
    /// [`ErrorKind::TruncateBelowCompacted`] if compaction has removed older records in favor of records that this
    /// truncation would remove.
    pub fn truncate(&self, to: Offset) -> Result<Offset> {
        truncate::truncate(&self.core, to, false)
    }

    /// Like [`truncate`](Self::truncate), but also truncates below records that compaction relied on, and does not fail
    /// on damage. At damage the log is cut at the last good batch before it, and the returned end is there. For
    /// replicas that fetch the records again: nothing that is cut off is kept.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Cleanup, Log, LogConfig, TopicConfig};
    /// use stratalog::{CompactMode, Offset, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().maintenance_interval(None))?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// for record in [("ada", "London"), ("bob", "Paris"), ("ada", "Rome")] {
    ///     events.append_records([record])?;
    /// }
    /// events.flush()?;
    /// // The compaction removes London, because Rome is newer. So `truncate` refuses to remove Rome.
    /// events.compact(Timestamp::now(), CompactMode::Full)?;
    /// assert!(events.truncate(Offset::new(2)).is_err());
    /// assert_eq!(events.truncate_lossy(Offset::new(2))?, Offset::new(2));
    /// # log.close()
    /// # }
    /// ```
    pub fn truncate_lossy(&self, to: Offset) -> Result<Offset> {
        truncate::truncate(&self.core, to, true)
    }

    /// Deletes everything and continues at `offset`, durably. The offset may be below, within or beyond the log.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// // A replica is so far behind that its leader has already deleted the next records.
    /// events.append_records(["old event"])?;
    /// events.reset_to(Offset::new(1000))?;
    /// assert_eq!(events.offsets().start, Offset::new(1000));
    /// assert_eq!(events.append_records(["event"])?.base_offset, Offset::new(1000));
    /// # log.close()
    /// # }
    /// ```
    pub fn reset_to(&self, offset: Offset) -> Result<()> {
        truncate::reset(&self.core, offset)
    }

    /// Moves the log start to `offset`, durably: all records below it are gone. The next maintenance pass removes their
    /// bytes, segment by segment.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, Start};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two", "three"])?;
    /// events.delete_before(Offset::new(2))?;
    /// assert_eq!(events.offsets().start, Offset::new(2));
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 1);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] if `offset` is above the high watermark.
    pub fn delete_before(&self, offset: Offset) -> Result<()> {
        retention::delete_before(&self.core, offset)
    }

    /// Applies retention now, in this thread, as a maintenance pass does: by age, by size, and below the log start.
    /// Returns how many segments it removed. It rolls no segment for its age and compacts nothing.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use std::time::Duration;
    /// use stratalog::{Offset, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().sync_threads(0).maintenance_interval(None))?;
    /// let hour = Duration::from_secs(3600);
    /// let config = TopicConfig::new().retention_age(Some(hour));
    /// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records(["event"])?;
    /// events.roll()?;
    /// assert_eq!(events.retain(Timestamp::now())?, 0);
    /// assert_eq!(events.retain(Timestamp::now().plus(2 * hour))?, 1);
    /// assert_eq!(events.offsets().start, Offset::new(1));
    /// # log.close()
    /// # }
    /// ```
    pub fn retain(&self, now: Timestamp) -> Result<usize> {
        self.core.check_writable()?;
        let pass = self.core.lock_maintenance();
        let retained = maintenance::retain(&self.core, now);
        drop(pass);
        self.core.tell();
        retained
    }

    /// Sets the high watermark of a topic with [`WatermarkMode::Managed`], forward or back. Checkpoints store it: after
    /// a crash it may be lower, never higher. If it is set back below markers that decided transactions, the log is
    /// read again from the segment before the new watermark on. Appends wait meanwhile.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, WatermarkMode};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let config = TopicConfig::new().watermark(WatermarkMode::Managed);
    /// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records(["one", "two"])?;
    /// assert_eq!(events.offsets().high_watermark, Offset::ZERO);
    /// events.set_high_watermark(Offset::new(2))?;
    /// assert_eq!(events.offsets().high_watermark, Offset::new(2));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] if `offset` is beyond the log end.
    pub fn set_high_watermark(&self, offset: Offset) -> Result<()> {
        self.core.check_writable()?;
        if self.core.config().watermark != WatermarkMode::Managed {
            return Err(
                ErrorKind::InvalidConfig("the topic's high watermark is the log end, not managed".into()).into()
            );
        }
        // The lock keeps a truncation from running between the check of the end and the change.
        let mut active = self.core.lock_active();
        let offsets = self.offsets();
        if offset > offsets.end || offset < offsets.start {
            let (start, end) = (offsets.start, offsets.end);
            return Err(ErrorKind::OffsetOutOfRange { requested: offset, start, end }.into());
        }
        active.move_high_watermark(&self.core, offset, || self.core.ends.set_high_watermark(offset));
        drop(active);
        self.core.waiters.high_watermark.notify(offset.get());
        self.core.waiters.stable.notify(self.core.last_stable().get());
        Ok(())
    }

    /// Sets the leader epoch of all appends from now on. It never goes back.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.set_leader_epoch(5)?;
    /// events.append_records(["event"])?;
    /// assert_eq!(events.end_offset_for_epoch(5), Some((5, Offset::new(1))));
    /// assert!(events.set_leader_epoch(4).is_err());
    /// # log.close()
    /// # }
    /// ```
    pub fn set_leader_epoch(&self, epoch: i32) -> Result<()> {
        self.core.check_writable()?;
        let mut active = self.core.lock_active();
        let latest = self.core.lock_leader_epochs().latest().unwrap_or(-1).max(active.leader_epoch());
        if epoch < latest {
            return Err(ErrorKind::InvalidConfig(format!("leader epoch {epoch} is below {latest}").into()).into());
        }
        active.set_leader_epoch(epoch);
        Ok(())
    }

    /// Returns the largest leader epoch that is not above `epoch`, and the offset at which it ends; `None` if there is
    /// none.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.set_leader_epoch(1)?;
    /// events.append_records(["one", "two"])?;
    /// events.set_leader_epoch(3)?;
    /// events.append_records(["three"])?;
    /// // No record has epoch 2. The largest epoch below it is 1, and epoch 1 ends at offset 2.
    /// assert_eq!(events.end_offset_for_epoch(2), Some((1, Offset::new(2))));
    /// assert_eq!(events.end_offset_for_epoch(3), Some((3, Offset::new(3))));
    /// assert_eq!(events.end_offset_for_epoch(4), None);
    /// # log.close()
    /// # }
    /// ```
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, Offset)> {
        self.core.lock_leader_epochs().end_offset_for(epoch, self.core.end())
    }
}
