//! What maintenance remembers of a partition between passes.

use crate::sync::Instant;

use super::stats::{FailedPass, LastPass};

/// What maintenance remembers of a partition.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceState {
    /// In its own place: most partitions have none.
    pub(crate) last: Option<Box<LastPass>>,
    pub(crate) failed: Option<FailedPass>,
    /// A thread has its turn with it.
    pub(crate) busy: bool,
    /// The number of its last turn.
    pub(crate) last_turn: u64,
    /// It stopped then before it was done.
    pub(crate) unfinished: bool,
    /// Somebody else had it: not tried again before.
    pub(crate) not_before: Option<Instant>,
    /// Retention was passed over while a compaction had the partition.
    pub(crate) waits: bool,
}
