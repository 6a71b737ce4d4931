//! What an open tells of a partition.

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
    /// The partition's `state` file was missing or damaged, and all of the log was scanned. What
    /// [`delete_before`](crate::Partition::delete_before) had removed from view may be back.
    pub state_lost: bool,
    /// Bytes that were scanned because they were not known to be durable.
    pub scanned_bytes: u64,
    /// What was cut from the tail, if anything; of a log that is open for reading only, what is left out.
    pub cut: Option<Cut>,
    /// Files put aside whole, under their new names.
    pub put_aside: Vec<String>,
    /// Compactions that a crash interrupted after their commit, and that were completed.
    pub swaps_finished: usize,
    /// Whether a truncation or reset that a crash interrupted was completed.
    pub redone: bool,
    /// Gaps between segments that were there when the directory was taken over.
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
    /// Where the bytes began.
    pub position: u64,
    /// How many.
    pub bytes: u64,
    /// The log end offset from there on.
    pub offset: Offset,
    /// Whether whole, valid batches were among them: more was lost than one torn write.
    pub valid_batches_followed: bool,
    /// The file that they are kept in; empty where nothing was cut because the log is open for reading only.
    pub kept_in: String,
}

/// What opening a log found and did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// One for each partition, in order.
    pub partitions: Vec<PartitionReport>,
    /// Partitions whose directory could not be opened at all.
    pub failed: Vec<(String, u32, Error)>,
    /// The directory was Kafka's, or Kafka had it since it was closed here, and has been taken over.
    pub taken_over: bool,
    /// Partitions that Kafka has removed while it had the directory: they are not on record any more.
    pub removed: Vec<(String, u32)>,
    /// How long it took.
    pub took: Duration,
}
