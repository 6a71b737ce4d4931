//! Configuration of a log.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::storage::Storage;

use super::clock::{Clock, SystemClock};
use super::topic::TopicConfig;
use super::{Backpressure, RecoveryMode, check};

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
    /// under [`Durability::Buffered`](super::Durability::Buffered).
    pub max_unsynced_bytes: u64,
    /// The behaviour of an append at the bound `max_unsynced_bytes`. Default: the append waits up to 30 s.
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
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) names the value and its bounds.
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
