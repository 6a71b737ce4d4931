//! What is known of a segment beside its extent.

use crate::format::SegmentState;
use crate::offset::Timestamp;

/// What is known of a segment beside its extent. All but the id may be lost: it is found again, or counted anew.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct SegmentMeta {
    /// The inode: an opened file must have it.
    pub(crate) id: u64,
    /// When the file was changed last, of one that is not written any more.
    pub(crate) modified: i64,
    pub(crate) max_timestamp: Timestamp,
    /// Wall time of the first append.
    pub(crate) first_append_at: Timestamp,
    /// Wall time of the seal.
    pub(crate) sealed_at: Timestamp,
    /// When the tombstones in it may go; `NONE` before a plan saw them.
    pub(crate) tombstone_horizon: Timestamp,
    /// 32 bits are enough: a segment is shorter than 2^31 bytes.
    pub(crate) dead_records: u32,
    pub(crate) dead_bytes: u32,
}

impl SegmentMeta {
    pub(crate) fn new(id: u64) -> SegmentMeta {
        SegmentMeta {
            id,
            modified: SegmentState::MODIFIED_UNKNOWN,
            max_timestamp: Timestamp::NONE,
            first_append_at: Timestamp::NONE,
            sealed_at: Timestamp::NONE,
            tombstone_horizon: Timestamp::NONE,
            dead_records: 0,
            dead_bytes: 0,
        }
    }

    /// When the tombstones in it may go, if a plan saw them.
    pub(crate) fn horizon(&self) -> Option<Timestamp> {
        Some(self.tombstone_horizon).filter(|horizon| *horizon != Timestamp::NONE)
    }

    /// Takes note of a count of what is dead in it.
    pub(crate) fn set_dead(&mut self, records: u64, bytes: u64) {
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        (self.dead_records, self.dead_bytes) = (small(records), small(bytes));
    }
}
