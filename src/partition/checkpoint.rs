//! Work that an appender hands over to the syncing threads: a roll whose second half is open, and a checkpoint.

use crate::offset::{Offset, Timestamp};
use crate::segment::Segment;
use crate::segment::index::Entries;
use crate::sync::Arc;

/// A roll: the new active segment takes appends, and the segments before it are not durable yet.
#[derive(Debug)]
pub(crate) struct Roll {
    /// The sealed segments, in order: the one that was active, and the ones behind it that the same append has filled.
    pub(crate) sealed: Vec<Sealed>,
    /// The base of the new active segment. Its file exists.
    pub(crate) active_base: Offset,
}

/// A segment that was sealed, and the producers at its end.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) producers: Producers,
}

/// A point in the active segment up to which all derived data is known. Once the point is durable, recovery begins
/// there.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) segment: Arc<Segment>,
    pub(crate) end: Offset,
    pub(crate) position: u64,
    pub(crate) index_entries: Entries,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) producers: Producers,
}

/// The producer state at an offset: the bytes of its snapshot file. `None` if there are no producers.
#[derive(Debug)]
pub(crate) struct Producers {
    pub(crate) at: Offset,
    pub(crate) snapshot: Option<Vec<u8>>,
}
