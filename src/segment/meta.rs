//! The metadata of a segment, besides its extent.

use crate::format::SegmentState;
use crate::offset::Timestamp;

/// The metadata of a segment, besides its extent. All of it but the id may be lost; it is then recovered or recounted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct SegmentMeta {
    /// The inode. An opened file must have this one.
    pub(crate) id: u64,
    /// The modification time of the file, once it is no longer written.
    pub(crate) modified: i64,
    pub(crate) max_timestamp: Timestamp,
    /// Wall time of the first append.
    pub(crate) first_append_at: Timestamp,
    /// Wall time of the seal.
    pub(crate) sealed_at: Timestamp,
    /// When its tombstones may be removed; `NONE` until a plan has examined them.
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

    /// When its tombstones may be removed, if a plan has examined them.
    pub(crate) fn horizon(&self) -> Option<Timestamp> {
        Some(self.tombstone_horizon).filter(|horizon| *horizon != Timestamp::NONE)
    }

    /// Records how much of it is dead.
    pub(crate) fn set_dead(&mut self, records: u64, bytes: u64) {
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        (self.dead_records, self.dead_bytes) = (small(records), small(bytes));
    }
}
