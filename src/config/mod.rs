//! Configuration of a log and of its topics. Each value states its unit, its default, Kafka's name for it, and what
//! goes wrong at the extremes.

mod clock;
mod properties;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ErrorKind, Result};
use crate::format::{Codec, TimestampType};
use crate::storage::Storage;

pub use self::clock::{Clock, ManualClock, SystemClock};

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

/// What an append does when too many bytes wait for a sync.
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

/// Who sets the high watermark: how far a partition is replicated.
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

/// Configuration of a log, checked once when the log is opened.
///
/// ```
/// # use std::time::Duration;
/// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let config = LogConfig::new().max_unsynced_bytes(16 << 20).maintenance_interval(Some(Duration::from_secs(60)));
/// let log = Log::open(dir.path(), config)?;
/// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one"])?;
///
/// let refused = LogConfig::new().open_threads(Some(0)).validate().unwrap_err();
/// assert!(matches!(refused.kind(), ErrorKind::InvalidConfig(_)));
/// # log.close()
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// Where the files are stored. Default `None`: the file system.
    pub storage: Option<Arc<dyn Storage>>,
    /// The wall clock. Default: [`SystemClock`].
    pub clock: Arc<dyn Clock>,
    /// What recovery may do. Default: [`RecoveryMode::CutTornTail`].
    pub recovery: RecoveryMode,
    /// When a directory is taken over: treat gaps between segments as left by compaction. Default `false`: a missing
    /// segment is an error.
    pub allow_gaps: bool,
    /// The most data files open at a time. Default `None`: half of the process's limit, at most 1024. If it is too
    /// small, appends that alternate between many partitions open, sync and close files all the time.
    pub max_open_files: Option<usize>,
    /// The most bytes of mapped sealed segments and cached indexes at a time. Default 64 GiB of address space. Segments
    /// beyond it are read without a mapping.
    pub max_mapped_bytes: u64,
    /// The most bytes accepted but not yet durable, in all partitions together. Each appending thread may exceed it by
    /// one batch. Default 256 MiB. A small bound makes appends wait for syncs. A large bound makes a power cut costly
    /// under [`Durability::Buffered`].
    pub max_unsynced_bytes: u64,
    /// What an append does at the bound `max_unsynced_bytes`. Default: waits up to 30 s.
    pub backpressure: Backpressure,
    /// Appends are refused while less than this many bytes are free on the disk. Default 64 MiB, which leaves room for
    /// indexes, snapshots and a compaction. 0 switches the check off.
    pub min_free_bytes: u64,
    /// The most bytes by which the durable watermark on disk lags behind the true one. An open after a crash scans that
    /// part of each partition. Default 64 MiB. Kafka writes its recovery point at each roll and every minute.
    pub checkpoint_bytes: u64,
    /// Threads that sync. Default 2. One more thread reserves space ahead of appends. With 0 neither runs, and
    /// `Log::maintain` syncs what is due.
    pub sync_threads: usize,
    /// Threads that open partitions. Default `None`: four for each processor. Kafka's
    /// `num.recovery.threads.per.data.dir`.
    pub open_threads: Option<usize>,
    /// How often maintenance visits each partition: for rolls by age, for retention, and to see whether a compaction is
    /// due. Default 10 s; Kafka's `log.retention.check.interval.ms` is 5 minutes. `None`: no maintenance threads run,
    /// and the owner calls `Log::maintain`.
    pub maintenance_interval: Option<Duration>,
    /// Threads that compact, for all partitions together; each takes `compaction_memory`. Default 1. None run without a
    /// [`maintenance_interval`](Self::maintenance_interval). Kafka's `log.cleaner.threads`.
    pub compaction_threads: usize,
    /// Memory for one compaction, in bytes. Default 64 MiB. Any size works: a compaction that needs more spills to
    /// disk. Kafka's `log.cleaner.dedupe.buffer.size`.
    pub compaction_memory: usize,
    /// The most bytes that all compactions together may read and write per second: log data, digests and spilled data.
    /// Default `None`: no limit. Kafka's `log.cleaner.io.max.bytes.per.second`.
    pub compaction_bytes_per_second: Option<u64>,
    /// Configuration for the topics of a directory that is taken over.
    pub topic_defaults: TopicConfig,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            storage: None,
            clock: Arc::new(SystemClock),
            recovery: RecoveryMode::default(),
            allow_gaps: false,
            max_open_files: None,
            max_mapped_bytes: 64 << 30,
            max_unsynced_bytes: 256 << 20,
            backpressure: Backpressure::Wait(Duration::from_secs(30)),
            min_free_bytes: 64 << 20,
            checkpoint_bytes: 64 << 20,
            sync_threads: 2,
            open_threads: None,
            maintenance_interval: Some(Duration::from_secs(10)),
            compaction_threads: 1,
            compaction_memory: 64 << 20,
            compaction_bytes_per_second: None,
            topic_defaults: TopicConfig::default(),
        }
    }
}

impl LogConfig {
    /// The defaults.
    pub fn new() -> LogConfig {
        LogConfig::default()
    }

    /// Keeps the log in this storage.
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> LogConfig {
        self.storage = Some(storage);
        self
    }

    setters! {
        /// Sets [`clock`](Self#structfield.clock).
        clock: Arc<dyn Clock>,
        /// Sets [`recovery`](Self#structfield.recovery).
        recovery: RecoveryMode,
        /// Sets [`allow_gaps`](Self#structfield.allow_gaps).
        allow_gaps: bool,
        /// Sets [`max_open_files`](Self#structfield.max_open_files).
        max_open_files: Option<usize>,
        /// Sets [`max_mapped_bytes`](Self#structfield.max_mapped_bytes).
        max_mapped_bytes: u64,
        /// Sets [`max_unsynced_bytes`](Self#structfield.max_unsynced_bytes).
        max_unsynced_bytes: u64,
        /// Sets [`backpressure`](Self#structfield.backpressure).
        backpressure: Backpressure,
        /// Sets [`min_free_bytes`](Self#structfield.min_free_bytes).
        min_free_bytes: u64,
        /// Sets [`checkpoint_bytes`](Self#structfield.checkpoint_bytes).
        checkpoint_bytes: u64,
        /// Sets [`sync_threads`](Self#structfield.sync_threads).
        sync_threads: usize,
        /// Sets [`open_threads`](Self#structfield.open_threads).
        open_threads: Option<usize>,
        /// Sets [`maintenance_interval`](Self#structfield.maintenance_interval).
        maintenance_interval: Option<Duration>,
        /// Sets [`compaction_threads`](Self#structfield.compaction_threads).
        compaction_threads: usize,
        /// Sets [`compaction_memory`](Self#structfield.compaction_memory).
        compaction_memory: usize,
        /// Sets [`compaction_bytes_per_second`](Self#structfield.compaction_bytes_per_second).
        compaction_bytes_per_second: Option<u64>,
        /// Sets [`topic_defaults`](Self#structfield.topic_defaults).
        topic_defaults: TopicConfig,
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] names the value and its bounds.
    pub fn validate(&self) -> Result<()> {
        check(self.max_open_files != Some(0), "max_open_files must be at least 1")?;
        check(self.max_unsynced_bytes > 0, "max_unsynced_bytes must be at least 1")?;
        check(self.checkpoint_bytes >= 4096, "checkpoint_bytes must be at least 4096")?;
        check(self.sync_threads <= 1024, "sync_threads must be at most 1024")?;
        check(self.open_threads.is_none_or(|n| (1..=1024).contains(&n)), "open_threads must be 1 to 1024")?;
        check(self.maintenance_interval.is_none_or(|i| !i.is_zero()), "maintenance_interval must not be zero")?;
        check((1..=1024).contains(&self.compaction_threads), "compaction_threads must be 1 to 1024")?;
        check(self.compaction_memory >= 1 << 10, "compaction_memory must be at least 1 KiB")?;
        check(self.compaction_bytes_per_second != Some(0), "compaction_bytes_per_second must be at least 1")?;
        self.topic_defaults.validate()
    }
}

/// Configuration of a topic, checked when it is set. It is stored on disk with the topic, with times in whole
/// milliseconds.
///
/// ```
/// # use std::time::Duration;
/// # use stratalog::{Log, LogConfig, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// let config = TopicConfig::new().segment_bytes(64 << 20).retention_age(Some(Duration::from_secs(24 * 3600)));
/// let topic = log.topic_or_create("events", 1, config)?;
/// assert_eq!(topic.config()?.segment_bytes, 64 << 20);
/// assert_eq!(topic.config()?.retention_bytes, None); // the default
/// # log.close()
/// # }
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct TopicConfig {
    /// A segment is sealed before it grows beyond this. Default 1 GiB, at most 2^31 - 1; Kafka's `segment.bytes`. Small
    /// segments make many files. The active segment is never compacted.
    pub segment_bytes: u64,
    /// A segment is sealed this long after its first append, even if nothing more is appended. Default 7 days; Kafka's
    /// `segment.ms`.
    pub segment_age: Duration,
    /// A segment is sealed when an index would grow beyond this. Default 10 MiB; Kafka's `segment.index.bytes`.
    pub segment_index_bytes: u32,
    /// Bytes between entries of the offset index. Default 4096; Kafka's `index.interval.bytes`. A smaller value makes
    /// lookups read less, but makes indexes larger.
    pub index_interval_bytes: u32,
    /// How old records are removed. Default [`Cleanup::Delete`]; Kafka's `cleanup.policy`.
    pub cleanup: Cleanup,
    /// Segments whose newest record is older than this are deleted. Default `None`: nothing is deleted by age. Kafka's
    /// `retention.ms` is 7 days.
    pub retention_age: Option<Duration>,
    /// The oldest segments are deleted as long as at least this many bytes remain. Default `None`; Kafka's
    /// `retention.bytes`.
    pub retention_bytes: Option<u64>,
    /// The largest batch in bytes, as compressed. Default 1 MiB + 12; Kafka's `max.message.bytes`.
    pub max_batch_bytes: usize,
    /// When appends are acknowledged. Default: buffered, synced after 1 s or 16 MiB.
    pub durability: Durability,
    /// Who sets record timestamps: the producer (default) or the log. Kafka's `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// Records with a timestamp older than this at their append are refused. Default `None`; Kafka's
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max: Option<Duration>,
    /// Records with a timestamp further than this in the future are refused. Default `None`; Kafka's
    /// `message.timestamp.after.max.ms` is 1 h.
    pub timestamp_after_max: Option<Duration>,
    /// How batches built by this crate are compressed. Default: not compressed. Kafka's `compression.type`, except that
    /// ready-made batches are never compressed again.
    pub compression: Codec,
    /// Who sets the high watermark. Default: nobody, it is the log end.
    pub watermark: WatermarkMode,
    /// A segment is compacted when more than this share of its bytes is garbage. Default 0.5. Kafka's
    /// `min.cleanable.dirty.ratio` is similar, but measures how much of a log was never cleaned.
    pub min_cleanable_dirty_ratio: f64,
    /// Segments with records younger than this are not compacted. Default 0; Kafka's `min.compaction.lag.ms`.
    pub min_compaction_lag: Duration,
    /// A superseded record is removed from the disk at most this long after its replacement, plus one roll and one tick
    /// of maintenance. Default `None`; Kafka's `max.compaction.lag.ms`.
    pub max_compaction_lag: Option<Duration>,
    /// How long a tombstone stays after it was first compacted, and a transaction marker after the last record of its
    /// transaction was removed. Default 24 h; Kafka's `delete.retention.ms`. A reader slower than this may miss a
    /// deletion, and a replica may miss the end of a transaction, unless it holds them back (see `reader_hold_max`).
    pub delete_retention: Duration,
    /// How long a reader or registered position that does not move keeps the tombstones above it. Default 1 h. After
    /// that the reader's next read fails with [`ErrorKind::LostTombstones`].
    pub reader_hold_max: Duration,
    /// Producers that wrote nothing for this long are forgotten. Default 24 h; Kafka's `producer.id.expiration.ms`.
    pub producer_expiration: Duration,
    /// How many producers are remembered. Default 100,000; the one that was idle longest is forgotten first.
    pub max_producers: usize,
    /// Whether segments are read through mappings. Default `true`. With mappings a signal ends the process in two
    /// cases: the medium fails on a page that it could read before, or another process truncates a file of the log.
    /// Nothing is mapped if both this and [`append_windows`](Self::append_windows) are off.
    pub mapped_reads: bool,
    /// Whether space is reserved ahead of small appends: zeros behind the last batch, up to 1.5 MiB while a partition
    /// is busy, cut off when it is idle. Default `true`. On ext4 and tmpfs small appends are then copied into a
    /// mapping.
    pub append_windows: bool,
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig {
            segment_bytes: 1 << 30,
            segment_age: Duration::from_secs(7 * 24 * 3600),
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            cleanup: Cleanup::Delete,
            retention_age: None,
            retention_bytes: None,
            max_batch_bytes: (1 << 20) + 12,
            durability: Durability::Buffered { interval: Duration::from_secs(1), bytes: 16 << 20 },
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max: None,
            timestamp_after_max: None,
            compression: Codec::None,
            watermark: WatermarkMode::LogEnd,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag: Duration::ZERO,
            max_compaction_lag: None,
            delete_retention: Duration::from_secs(24 * 3600),
            reader_hold_max: Duration::from_secs(3600),
            producer_expiration: Duration::from_secs(24 * 3600),
            max_producers: 100_000,
            mapped_reads: true,
            append_windows: true,
        }
    }
}

impl TopicConfig {
    /// The defaults.
    pub fn new() -> TopicConfig {
        TopicConfig::default()
    }

    setters! {
        /// Sets [`segment_bytes`](Self#structfield.segment_bytes).
        segment_bytes: u64,
        /// Sets [`segment_age`](Self#structfield.segment_age).
        segment_age: Duration,
        /// Sets [`segment_index_bytes`](Self#structfield.segment_index_bytes).
        segment_index_bytes: u32,
        /// Sets [`index_interval_bytes`](Self#structfield.index_interval_bytes).
        index_interval_bytes: u32,
        /// Sets [`cleanup`](Self#structfield.cleanup).
        cleanup: Cleanup,
        /// Sets [`retention_age`](Self#structfield.retention_age).
        retention_age: Option<Duration>,
        /// Sets [`retention_bytes`](Self#structfield.retention_bytes).
        retention_bytes: Option<u64>,
        /// Sets [`max_batch_bytes`](Self#structfield.max_batch_bytes).
        max_batch_bytes: usize,
        /// Sets [`durability`](Self#structfield.durability).
        durability: Durability,
        /// Sets [`timestamp_type`](Self#structfield.timestamp_type).
        timestamp_type: TimestampType,
        /// Sets [`timestamp_before_max`](Self#structfield.timestamp_before_max).
        timestamp_before_max: Option<Duration>,
        /// Sets [`timestamp_after_max`](Self#structfield.timestamp_after_max).
        timestamp_after_max: Option<Duration>,
        /// Sets [`compression`](Self#structfield.compression).
        compression: Codec,
        /// Sets [`watermark`](Self#structfield.watermark).
        watermark: WatermarkMode,
        /// Sets [`min_cleanable_dirty_ratio`](Self#structfield.min_cleanable_dirty_ratio).
        min_cleanable_dirty_ratio: f64,
        /// Sets [`min_compaction_lag`](Self#structfield.min_compaction_lag).
        min_compaction_lag: Duration,
        /// Sets [`max_compaction_lag`](Self#structfield.max_compaction_lag).
        max_compaction_lag: Option<Duration>,
        /// Sets [`delete_retention`](Self#structfield.delete_retention).
        delete_retention: Duration,
        /// Sets [`reader_hold_max`](Self#structfield.reader_hold_max).
        reader_hold_max: Duration,
        /// Sets [`producer_expiration`](Self#structfield.producer_expiration).
        producer_expiration: Duration,
        /// Sets [`max_producers`](Self#structfield.max_producers).
        max_producers: usize,
        /// Sets [`mapped_reads`](Self#structfield.mapped_reads).
        mapped_reads: bool,
        /// Sets [`append_windows`](Self#structfield.append_windows).
        append_windows: bool,
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] names the value and its bounds.
    pub fn validate(&self) -> Result<()> {
        let max = i32::MAX as u64;
        check((1024..=max).contains(&self.segment_bytes), "segment_bytes must be 1 KiB to 2^31 - 1")?;
        check(!self.segment_age.is_zero(), "segment_age must not be zero")?;
        check((256..=1 << 30).contains(&self.segment_index_bytes), "segment_index_bytes must be 256 to 1 GiB")?;
        check((1..=1 << 30).contains(&self.index_interval_bytes), "index_interval_bytes must be 1 to 1 GiB")?;
        check((256..=max as usize).contains(&self.max_batch_bytes), "max_batch_bytes must be 256 to 2^31 - 1")?;
        if let Durability::Buffered { interval, bytes } = self.durability {
            check(
                !interval.is_zero() && interval <= Duration::from_secs(24 * 3600),
                "the sync interval must be up to a day",
            )?;
            check(bytes > 0, "the bytes between syncs must not be zero")?;
        }
        check(self.compression.is_supported(), "compression needs the feature of its name")?;
        check((0.0..=1.0).contains(&self.min_cleanable_dirty_ratio), "min_cleanable_dirty_ratio must be 0 to 1")?;
        check(
            self.max_compaction_lag.is_none_or(|max| max >= self.min_compaction_lag && !max.is_zero()),
            "max_compaction_lag must not be zero, nor below min_compaction_lag",
        )?;
        check(self.max_producers > 0, "max_producers must be at least 1")
    }
}

fn check(holds: bool, what: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(ErrorKind::InvalidConfig(what.into()).into()) }
}
