//! Configuration of a log and of its topics. Each value states its unit, its default, Kafka's name for it, and what
//! goes wrong at the extremes.

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self, value: $type) -> Self {
                self.$name = value;
                self
            }
        )*
    };
}

mod clock;
mod log;
mod properties;
mod topic;

use std::time::Duration;

use crate::error::{ErrorKind, Result};

pub use self::clock::{Clock, ManualClock, SystemClock};
pub use self::log::LogConfig;
pub use self::topic::TopicConfig;

/// What recovery may do to bytes that are not whole, valid batches.
///
/// ```
/// # use std::io::Write;
/// # use stratalog::{Log, LogConfig, RecoveryMode, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one"])?;
/// log.close()?;
/// let path = dir.path().join("events-0/00000000000000000000.log");
/// let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
/// file.write_all(b"half a batch").unwrap();
/// let log = Log::open(dir.path(), LogConfig::new().recovery(RecoveryMode::CutTornTail))?;
/// let report = &log.recovery_report().partitions[0];
/// assert_eq!(report.cut.as_ref().unwrap().bytes, 12);
/// assert_eq!(report.end.get(), 1);
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RecoveryMode {
    /// Nothing is cut: even a torn tail is an error, and the partition then takes no writes.
    Strict,
    /// Cuts a torn tail above the durable watermark, and keeps the cut bytes in a separate file. Damage elsewhere is an
    /// error.
    #[default]
    CutTornTail,
    /// Cuts at any damage, and keeps everything behind it in separate files. This loses acknowledged records: use it
    /// only on purpose. If no record is left, the log continues at its last known end.
    Salvage,
}

/// The behaviour of an append when too many bytes wait for a sync.
///
/// ```
/// # use stratalog::{Backpressure, ErrorKind, Log, LogConfig, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// // No thread syncs here, and one byte may wait for a sync.
/// let config = LogConfig::new().sync_threads(0).max_unsynced_bytes(1).backpressure(Backpressure::Fail);
/// let log = Log::open(dir.path(), config)?;
/// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one"])?;
/// let error = events.append_records(["two"]).unwrap_err();
/// assert!(matches!(error.kind(), ErrorKind::Backpressure { limit: 1, .. }));
/// events.flush()?;
/// events.append_records(["two"])?;
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backpressure {
    /// Waits at most this long, then fails with [`ErrorKind::Backpressure`].
    Wait(Duration),
    /// Fails at once with [`ErrorKind::Backpressure`].
    Fail,
}

/// When an append is acknowledged.
///
/// ```
/// # use stratalog::{Durability, Log, LogConfig, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// let config = TopicConfig::new().durability(Durability::Sync);
/// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
/// let appended = events.append_records(["one"])?;
/// assert_eq!(events.offsets().durable, appended.next_offset);
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// As soon as it is in the page cache. A killed process loses nothing. A power cut loses everything appended since
    /// the last sync. A sync runs after `interval` or after `bytes`, whichever comes first.
    Buffered {
        /// The longest time that appended bytes wait for a sync. Kafka's `flush.ms`.
        interval: Duration,
        /// The most bytes of a partition that wait for a sync. Kafka counts records instead, `flush.messages`.
        bytes: u64,
    },
    /// After a sync. Appends of several threads share one sync.
    Sync,
}

/// How old records are removed. Kafka's `cleanup.policy`.
///
/// ```
/// # use stratalog::{Cleanup, CompactMode, Log, LogConfig, Start, Timestamp, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// let config = TopicConfig::new().cleanup(Cleanup::Compact);
/// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
/// events.append_records([("ada", "London"), ("ada", "Paris")])?;
/// events.roll()?; // the active segment is never compacted
/// events.flush()?;
/// events.compact(Timestamp::now(), CompactMode::Full)?;
/// let records = events.reader(Start::Earliest)?.records().collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(records.len(), 1);
/// assert_eq!(records[0].value.as_deref(), Some(&b"Paris"[..]));
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cleanup {
    /// Whole segments are deleted, by age and by size.
    #[default]
    Delete,
    /// Only the latest record of each key is kept. Records without a key are refused.
    Compact,
    /// Both: compaction, and deletion by age and by size.
    CompactDelete,
}

/// The owner of the high watermark, which says how far a partition is replicated.
///
/// ```
/// # use stratalog::{Isolation, Log, LogConfig, Offset, TopicConfig, WatermarkMode};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// let config = TopicConfig::new().watermark(WatermarkMode::Managed);
/// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
/// events.append_records(["one", "two"])?;
/// assert_eq!(events.offsets().visible(Isolation::HighWatermark).get(), 0);
/// events.set_high_watermark(Offset::new(1))?; // the first record is replicated
/// assert_eq!(events.offsets().visible(Isolation::HighWatermark).get(), 1);
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WatermarkMode {
    /// Nobody: the high watermark is always the log end.
    #[default]
    LogEnd,
    /// The owner, with `set_high_watermark`. After an open it starts at the value stored on disk, never at the log end.
    Managed,
}

fn check(holds: bool, what: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(ErrorKind::InvalidConfig(what.into()).into()) }
}
