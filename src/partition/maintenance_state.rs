//! The state that maintenance keeps for a partition between passes.

use crate::sync::Instant;

use super::stats::{FailedPass, LastPass};

/// The state that maintenance keeps for a partition.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceState {
    /// Boxed, because most partitions have none.
    pub(crate) last: Option<Box<LastPass>>,
    pub(crate) failed: Option<FailedPass>,
    /// Whether a thread is maintaining the partition.
    pub(crate) busy: bool,
    /// The number of its last turn.
    pub(crate) last_turn: u64,
    /// Whether the last turn stopped before it was done.
    pub(crate) unfinished: bool,
    /// Another thread had the partition: it is not tried again before this time.
    pub(crate) not_before: Option<Instant>,
    /// Whether retention was skipped because a compaction had the partition.
    pub(crate) waits: bool,
}
