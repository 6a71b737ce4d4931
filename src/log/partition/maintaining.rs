//! What holds compaction back, and maintenance that the owner asks for.

use crate::compaction::CompactMode;
use crate::error::Result;
use crate::maintenance::{self, PauseGuard};
use crate::offset::{Offset, Timestamp};
use crate::partition::pins::Pin;
use crate::partition::stats::CompactionReport;
use crate::verify::{self, VerifyReport};

use super::Partition;

impl Partition {
    /// Keeps everything at and above `offset` from being compacted until the pin is dropped. For snapshots and
    /// replicas.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Cleanup, Log, LogConfig, TopicConfig};
    /// use stratalog::{CompactMode, Offset, Start, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().maintenance_interval(None))?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records([("ada", "London"), ("ada", "Paris")])?;
    /// events.flush()?;
    /// let pin = events.pin(Offset::ZERO);
    /// events.compact(Timestamp::now(), CompactMode::Full)?;
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 2);
    /// drop(pin);
    /// events.compact(Timestamp::now(), CompactMode::Full)?;
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 1);
    /// # log.close()
    /// # }
    /// ```
    pub fn pin(&self, offset: Offset) -> Pin {
        self.core.pins.pin(offset)
    }

    /// Registers or moves the named position of a consumer. Tombstones above it are kept for the consumer, for at most
    /// `reader_hold_max`.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Cleanup, Log, LogConfig, TopicConfig};
    /// use stratalog::{CompactMode, Offset, Record, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().maintenance_interval(None))?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    /// # let config = config.delete_retention(std::time::Duration::ZERO);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// // The consumer has read London, but not the tombstone. The topic's `delete_retention` is zero.
    /// events.append_records([Record::new("ada", "London"), Record::tombstone("ada")])?;
    /// events.flush()?;
    /// events.register_position("consumer", Offset::new(1))?;
    /// assert_eq!(events.compact(Timestamp::now(), CompactMode::Full)?.tombstones_removed, 0);
    /// events.register_position("consumer", Offset::new(2))?;
    /// assert_eq!(events.compact(Timestamp::now(), CompactMode::Full)?.tombstones_removed, 1);
    /// # log.close()
    /// # }
    /// ```
    pub fn register_position(&self, name: &str, offset: Offset) -> Result<()> {
        self.core.check_open()?;
        self.core.pins.register_position(name, offset)
    }

    /// Forgets the position of a consumer. Returns whether there was one.
    pub fn unregister_position(&self, name: &str) -> bool {
        self.core.pins.unregister_position(name)
    }

    /// Compacts now, in this thread. Keeps only the latest record of each key, below the cleaning bound (durable,
    /// replicated, committed). For compacted topics.
    ///
    /// The call returns when the compaction is complete. It stops earlier only if another call needs the partition
    /// ([`truncate`], a new log start, deletion, a pause, close), and then sets [`CompactionReport::unfinished`]. A
    /// crash at any point leaves the old segments or the new one. Readers continue on the segments they started with.
    ///
    /// [`truncate`]: Self::truncate
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Cleanup, CompactMode, Start, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let config = TopicConfig::new().cleanup(Cleanup::Compact);
    /// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records([("ada", "London"), ("ada", "Paris"), ("ada", "Rome")])?;
    /// events.flush()?; // only durable records are compacted
    /// events.compact(Timestamp::now(), CompactMode::Full)?;
    /// let record = events.reader(Start::Earliest)?.records().next().expect("the latest is left")?;
    /// assert_eq!(record.value.as_deref(), Some(&b"Rome"[..]));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if the topic is not compacted; [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull) if there is no room for the
    /// output, and then nothing has changed. Damaged segments are left as they are and listed in the report.
    pub fn compact(&self, now: Timestamp, mode: CompactMode) -> Result<CompactionReport> {
        let pass = self.core.lock_maintenance();
        self.core.check_writable()?;
        let compacted = maintenance::compact_all(&self.core, now, mode, &*self.clock);
        drop(pass);
        self.core.tell();
        compacted
    }

    /// Pauses maintenance of this partition until the guard is dropped: no sealed segment is removed, replaced or
    /// renamed, and none is sealed for its age alone. For example for backups.
    ///
    /// A running compaction is interrupted, and later continues with what it has not swapped in. None runs when this
    /// returns. Guards nest: maintenance resumes when the last one is dropped. Explicit calls such as
    /// [`compact`](Self::compact) and [`truncate`](Self::truncate) still run, and so do appends with the rolls they
    /// cause.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let guard = events.pause_maintenance();
    /// // A backup copies the files here: no maintenance replaces or removes a sealed segment.
    /// assert!(events.stats().compaction.paused);
    /// drop(guard);
    /// assert!(!events.stats().compaction.paused);
    /// # log.close()
    /// # }
    /// ```
    pub fn pause_maintenance(&self) -> PauseGuard {
        PauseGuard::new(&self.core)
    }

    /// Reads and checks the whole partition without changing a byte: every batch and record, the offsets, the chain of
    /// segments, the indexes, snapshots and `state`. Appends, reads and maintenance continue meanwhile.
    ///
    /// If the partition is degraded, or its log was opened read-only, the files in its directory are checked. Damage is
    /// no error of this call: the report lists it. Memory is bounded by the largest batch.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two"])?;
    /// let report = events.verify()?;
    /// assert_eq!(report.records, 2);
    /// assert!(report.findings.is_empty(), "there is no damage");
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) if the partition was truncated meanwhile; [`ErrorKind::Closed`](crate::ErrorKind::Closed); an error of the
    /// operating system if the directory cannot be read.
    pub fn verify(&self) -> Result<VerifyReport> {
        verify::verify(&self.core)
    }
}
