//! Configuration of a topic.

use std::time::Duration;

use crate::error::Result;
use crate::format::{Codec, TimestampType};

use super::{Cleanup, Durability, WatermarkMode, check};

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
    /// The setter of record timestamps: the producer (default) or the log. Kafka's `message.timestamp.type`.
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
    /// that the reader's next read fails with [`ErrorKind::LostTombstones`](crate::ErrorKind::LostTombstones).
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
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) names the value and its bounds.
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
