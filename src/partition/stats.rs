//! Counters and statistics.

use std::time::Duration;

use crate::error::Error;
use crate::offset::{Offset, Timestamp};
use crate::partition::isolation::Offsets;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows. It is a statistic: no other memory access depends on its value.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a partition counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rolls: Counter,
    pub(crate) segments_removed: Counter,
}

/// What a compaction did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Segments below the bound of the compaction.
    pub segments: usize,
    /// Digests built, each by one read of its segment.
    pub digests_built: usize,
    /// Segments rewritten.
    pub segments_rewritten: usize,
    /// Segments written in the place of the rewritten ones.
    pub segments_written: usize,
    /// Bytes of log data read for digests and rewrites.
    pub bytes_read: u64,
    /// Bytes of log data written.
    pub bytes_written: u64,
    /// Bytes by which the log became smaller.
    pub bytes_freed: u64,
    /// Tombstones removed because their retention time was over.
    pub tombstones_removed: u64,
    /// Damaged segments, left as they are, each with its error.
    pub damaged: Vec<Error>,
    /// The position or reader that keeps tombstones from removal: the position's name, or "a reader", and its offset.
    pub held_by: Option<(String, Offset)>,
    /// Readers and positions that lost tombstones because they did not move for too long.
    pub lost: usize,
    /// When there is more to do, even if no record is appended.
    pub next_deadline: Option<Timestamp>,
    /// Whether it stopped before its end because another call needed the partition. A compaction thread also ends its
    /// turn when other partitions wait or there were too many groups.
    pub unfinished: bool,
}

impl CompactionReport {
    /// Returns whether nothing was rewritten: nothing is left to do for now.
    pub fn is_idle(&self) -> bool {
        self.segments_rewritten == 0
    }

    /// Adds what a later compaction did.
    pub(crate) fn absorb(&mut self, later: CompactionReport) {
        let earlier = std::mem::replace(self, later);
        self.digests_built += earlier.digests_built;
        self.segments_rewritten += earlier.segments_rewritten;
        self.segments_written += earlier.segments_written;
        self.bytes_read += earlier.bytes_read;
        self.bytes_written += earlier.bytes_written;
        self.bytes_freed += earlier.bytes_freed;
        self.tombstones_removed += earlier.tombstones_removed;
        self.lost += earlier.lost;
    }
}

/// Something that keeps segments, or tombstones in them, from being compacted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PinnedBy {
    /// The owner's pin at this offset.
    Owner(Offset),
    /// The high watermark at this offset.
    HighWatermark(Offset),
    /// A transaction that began at this offset and is open, or whose end is not durable yet.
    Transaction(Offset),
    /// Records from this offset on are not durable yet.
    Unsynced(Offset),
    /// The next segment is younger than `min_compaction_lag`, until this time.
    MinCompactionLag(Timestamp),
    /// A reader at this offset: tombstones from there on stay.
    Reader(Offset),
    /// A registered position: tombstones from there on stay.
    Position {
        /// Its name.
        name: String,
        /// Its offset.
        offset: Offset,
    },
    /// A damaged segment: it stays as it is, and so do tombstones above it.
    Damage(Error),
}

/// A compaction that has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LastPass {
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What it did.
    pub report: CompactionReport,
}

/// Consecutive failed compactions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailedPass {
    /// Why the last one failed.
    pub error: Error,
    /// How many have failed in a row.
    pub failures: u32,
    /// When the next attempt is made.
    pub retry_at: Timestamp,
}

/// The compaction state of a partition.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CompactionStats {
    /// Bytes in sealed segments whose dead records are not yet counted.
    pub dirty_bytes: u64,
    /// Records that the next compaction could remove, as of the last count, without those of segments rewritten since.
    pub dead_records: u64,
    /// Their bytes, uncompressed.
    pub dead_bytes: u64,
    /// Tombstones, as of the last read of the digests; `None` before the first read since the log was opened.
    pub tombstones: Option<u64>,
    /// The last compaction of the partition that did not fail, in the background or called explicitly.
    pub last_pass: Option<LastPass>,
    /// Set if the last compaction failed.
    pub failed: Option<FailedPass>,
    /// When there is more to do, even if no record is appended.
    pub next_deadline: Option<Timestamp>,
    /// Everything that keeps sealed segments, or tombstones, from being compacted now.
    pub pinned_by: Vec<PinnedBy>,
    /// Whether maintenance is paused.
    pub paused: bool,
}

/// The statistics of a partition at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionStats {
    /// Its offsets.
    pub offsets: Offsets,
    /// Segments, including the active one.
    pub segments: usize,
    /// Bytes in all `.log` files, without reserved space.
    pub bytes: u64,
    /// Bytes accepted and not yet durable.
    pub unsynced_bytes: u64,
    /// Syncs of the active segment since the log was opened. Several appends may share one sync.
    pub syncs: u64,
    /// Segments sealed since the log was opened.
    pub rolls: u64,
    /// Segments removed by retention since the log was opened.
    pub segments_removed: u64,
    /// Retired segments: removed, but their files stay until a reader releases them.
    pub segments_held: usize,
    /// Known producers.
    pub producers: usize,
    /// Wall time at which the active segment will be sealed for its age; `None` while it is empty.
    pub roll_due: Option<Timestamp>,
    /// The lowest offset that an owner's pin keeps from being compacted.
    pub pinned_at: Option<Offset>,
    /// The compaction state.
    pub compaction: CompactionStats,
    /// Why writes are refused; `None` if they are not.
    pub error: Option<Error>,
}

/// The statistics of a log at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogStats {
    /// Partitions of all topics.
    pub partitions: usize,
    /// Open data files.
    pub open_files: usize,
    /// Bytes mapped or cached.
    pub mapped_bytes: u64,
    /// Bytes accepted and not yet durable, of all partitions.
    pub unsynced_bytes: u64,
    /// How often an append had to wait for the bound on unsynced bytes.
    pub backpressure_waits: u64,
    /// Partitions that refuse writes.
    pub failed_partitions: usize,
}
