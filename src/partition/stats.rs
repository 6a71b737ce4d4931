//! Counters and what is told of them.

use std::time::Duration;

use crate::error::Error;
use crate::offset::{Offset, Timestamp};
use crate::partition::isolation::Offsets;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows. It is a statistic: nothing else is read because of its value.
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
    /// Digests that were built, each by one read of its segment.
    pub digests_built: usize,
    /// Segments that were rewritten.
    pub segments_rewritten: usize,
    /// Segments that took their place.
    pub segments_written: usize,
    /// Bytes of log data that were read for digests and rewrites.
    pub bytes_read: u64,
    /// Bytes of log data that were written.
    pub bytes_written: u64,
    /// Bytes that the log is smaller for it.
    pub bytes_freed: u64,
    /// Tombstones that were removed because their time was over.
    pub tombstones_removed: u64,
    /// Segments that are damaged and were left alone, and why.
    pub damaged: Vec<Error>,
    /// Who keeps tombstones from going: the name of a position, or "a reader", and where it stands.
    pub held_by: Option<(String, Offset)>,
    /// Readers and positions that lost tombstones because they stood still for too long.
    pub lost: usize,
    /// When there is more to do, if no record comes.
    pub next_deadline: Option<Timestamp>,
    /// Whether it stopped before its end, because somebody else needed the partition; the turn of a thread that
    /// compacts also where others wait or the groups were too many.
    pub unfinished: bool,
}

impl CompactionReport {
    /// Whether nothing was rewritten: nothing is left to do for now.
    pub fn is_idle(&self) -> bool {
        self.segments_rewritten == 0
    }

    /// Adds what another one did later.
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

/// What keeps segments, or tombstones in them, from being compacted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PinnedBy {
    /// The owner's pin at this offset.
    Owner(Offset),
    /// The high watermark at this offset.
    HighWatermark(Offset),
    /// A transaction that began at this offset and is open, or whose end a power cut could take back.
    Transaction(Offset),
    /// What lies from this offset on is not durable yet.
    Unsynced(Offset),
    /// The next segment is younger than `min_compaction_lag`, until this time.
    MinCompactionLag(Timestamp),
    /// A reader that stands at this offset: tombstones from there on stay.
    Reader(Offset),
    /// A registered position: tombstones from there on stay.
    Position {
        /// Its name.
        name: String,
        /// Where it stands.
        offset: Offset,
    },
    /// A segment is damaged: it stays as it is, and so do tombstones above it.
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

/// Compactions that have failed, with none in between that has not.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailedPass {
    /// Why the last one did.
    pub error: Error,
    /// How many.
    pub failures: u32,
    /// When it is tried again.
    pub retry_at: Timestamp,
}

/// What is to be compacted in a partition, and how that goes.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CompactionStats {
    /// Bytes in sealed segments that no count has seen yet.
    pub dirty_bytes: u64,
    /// Records that the next compaction could remove, as of the last count; those of the segments that it has
    /// rewritten since are gone from it.
    pub dead_records: u64,
    /// Their bytes, uncompressed.
    pub dead_bytes: u64,
    /// Tombstones, as of the last look at the digests; `None` before the first one since the log was opened.
    pub tombstones: Option<u64>,
    /// The last compaction that looked at the partition and did not fail, in the background or not.
    pub last_pass: Option<LastPass>,
    /// Set while the last one has failed.
    pub failed: Option<FailedPass>,
    /// When there is more to do, if no record comes.
    pub next_deadline: Option<Timestamp>,
    /// What keeps sealed segments, or tombstones, from being compacted now.
    pub pinned_by: Vec<PinnedBy>,
    /// Whether maintenance is paused.
    pub paused: bool,
}

/// A partition at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionStats {
    /// Its offsets.
    pub offsets: Offsets,
    /// Segments, the active one among them.
    pub segments: usize,
    /// Bytes in all `.log` files, without reserved space.
    pub bytes: u64,
    /// Bytes accepted and not yet durable.
    pub unsynced_bytes: u64,
    /// Syncs of the active segment since the log was opened: appends that are synced share them.
    pub syncs: u64,
    /// Segments sealed since the log was opened.
    pub rolls: u64,
    /// Segments removed by retention since the log was opened.
    pub segments_removed: u64,
    /// Removed segments whose files wait for a reader to let go.
    pub segments_held: usize,
    /// Known producers.
    pub producers: usize,
    /// Wall time at which the active segment will be sealed for its age; `None` while it is empty.
    pub roll_due: Option<Timestamp>,
    /// The lowest offset that an owner's pin keeps from being compacted.
    pub pinned_at: Option<Offset>,
    /// What is to be compacted, and how that goes.
    pub compaction: CompactionStats,
    /// Why writes are refused; `None` when all is well.
    pub error: Option<Error>,
}

/// A log at one moment.
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
