//! What an appender hands over to the threads that sync: a roll whose second half is open, and a checkpoint.

use crate::offset::{Offset, Timestamp};
use crate::segment::Segment;
use crate::segment::index::Entries;
use crate::sync::Arc;

/// A roll: the new active segment takes appends, the ones before it are not durable yet.
#[derive(Debug)]
pub(crate) struct Roll {
    /// The segments that were sealed, in order: the one that was active, and those behind it that an append has filled
    /// at once.
    pub(crate) sealed: Vec<Sealed>,
    /// The base of the new active segment, whose file is there.
    pub(crate) active_base: Offset,
}

/// A segment that was sealed, and the producers at its end.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) producers: Producers,
}

/// A point of the active segment up to which everything derived from it is known: once durable, recovery begins there.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) segment: Arc<Segment>,
    pub(crate) end: Offset,
    pub(crate) position: u64,
    pub(crate) index_entries: Entries,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) producers: Producers,
}

/// The producer state at an offset: the bytes of its snapshot file, or none when there are no producers.
#[derive(Debug)]
pub(crate) struct Producers {
    pub(crate) at: Offset,
    pub(crate) snapshot: Option<Vec<u8>>,
}
