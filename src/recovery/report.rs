//! Recovery reports: what an open found and did.

use std::ops::Range;
use std::time::Duration;

use crate::error::Error;
use crate::offset::Offset;

/// What opening one partition found and did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The log end after recovery.
    pub end: Offset,
    /// The partition's `state` file was missing or damaged, and the whole log was scanned. Records that
    /// [`delete_before`](crate::Partition::delete_before) had hidden may be visible again.
    pub state_lost: bool,
    /// Bytes that were scanned because they were not known to be durable.
    pub scanned_bytes: u64,
    /// What was cut from the tail, if anything. If the log is open for reading only: the bytes that are left out.
    pub cut: Option<Cut>,
    /// Files renamed and set aside whole, under their new names.
    pub put_aside: Vec<String>,
    /// Compactions that a crash interrupted after their commit and that recovery completed.
    pub swaps_finished: usize,
    /// Whether recovery completed a truncation or reset that a crash had interrupted.
    pub redone: bool,
    /// Gaps between segments that existed when the directory was taken over.
    pub adopted_gaps: Vec<Range<Offset>>,
    /// Why the partition takes no writes: damage that recovery did not touch.
    pub error: Option<Error>,
    /// How long it took.
    pub took: Duration,
}

/// Bytes that recovery cut off the end of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Cut {
    /// The segment's file name.
    pub file: String,
    /// The position in the file at which the bytes began.
    pub position: u64,
    /// How many bytes were cut.
    pub bytes: u64,
    /// The offset of the cut: the log end there.
    pub offset: Offset,
    /// Whether whole, valid batches were among the cut bytes: more than one torn write was lost.
    pub valid_batches_followed: bool,
    /// The file that keeps the cut bytes; empty if nothing was cut because the log is open for reading only.
    pub kept_in: String,
}

/// What the open of a log found and did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// One report for each partition, in order.
    pub partitions: Vec<PartitionReport>,
    /// Partitions whose directory could not be opened at all.
    pub failed: Vec<(String, u32, Error)>,
    /// Whether the directory was taken over: Kafka wrote it, or has used it since it was closed here.
    pub taken_over: bool,
    /// Partitions that Kafka removed while it used the directory. The catalog does not list them any more.
    pub removed: Vec<(String, u32)>,
    /// How long it took.
    pub took: Duration,
}
