//! Counters and what is told of them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::isolation::Offsets;
use crate::offset::{Offset, Timestamp};

/// A counter that only grows.
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
