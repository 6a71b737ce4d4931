//! Entries of the sparse offset index and of the time index of a segment.

use byteorder::{BigEndian, ByteOrder};

use crate::offset::Timestamp;

/// An entry of an offset index, 8 bytes: every batch before `position` ends before `offset`.
///
/// Kafka writes the last offset of the batch at `position`. In a segment that Kafka compacted, it is the last offset of
/// a run of batches that starts there. So an entry is only a hint where to start walking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetIndexEntry {
    /// The offset, relative to the segment's base.
    pub offset: u32,
    /// The position in the log file where a batch starts.
    pub position: u32,
}

impl OffsetIndexEntry {
    /// The size of an entry, in bytes.
    pub const LEN: usize = 8;

    /// Encodes the entry as on disk.
    #[inline]
    pub fn encode(&self) -> [u8; OffsetIndexEntry::LEN] {
        let mut bytes = [0; OffsetIndexEntry::LEN];
        BigEndian::write_u32(&mut bytes[..4], self.offset);
        BigEndian::write_u32(&mut bytes[4..], self.position);
        bytes
    }

    /// Decodes the entry at the front of `bytes`. Returns `None` if they are fewer than [`LEN`](Self::LEN).
    #[inline]
    pub fn decode(bytes: &[u8]) -> Option<OffsetIndexEntry> {
        let bytes: &[u8; OffsetIndexEntry::LEN] = bytes.first_chunk()?;
        Some(OffsetIndexEntry { offset: BigEndian::read_u32(&bytes[..4]), position: BigEndian::read_u32(&bytes[4..]) })
    }
}

/// An entry of a time index, 12 bytes: no record before `offset` has a larger timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeIndexEntry {
    /// The largest timestamp up to here.
    pub timestamp: Timestamp,
    /// The last offset of the batch that has it, relative to the segment's base.
    pub offset: u32,
}

impl TimeIndexEntry {
    /// The size of an entry, in bytes.
    pub const LEN: usize = 12;

    /// Encodes the entry as on disk.
    #[inline]
    pub fn encode(&self) -> [u8; TimeIndexEntry::LEN] {
        let mut bytes = [0; TimeIndexEntry::LEN];
        BigEndian::write_i64(&mut bytes[..8], self.timestamp.as_millis());
        BigEndian::write_u32(&mut bytes[8..], self.offset);
        bytes
    }

    /// Decodes the entry at the front of `bytes`. Returns `None` if they are fewer than [`LEN`](Self::LEN).
    #[inline]
    pub fn decode(bytes: &[u8]) -> Option<TimeIndexEntry> {
        let bytes: &[u8; TimeIndexEntry::LEN] = bytes.first_chunk()?;
        let timestamp = Timestamp::from_millis(BigEndian::read_i64(&bytes[..8]));
        Some(TimeIndexEntry { timestamp, offset: BigEndian::read_u32(&bytes[8..]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_big_endian_and_survive_a_round_trip() {
        let entry = OffsetIndexEntry { offset: 0x0102_0304, position: 0x0506_0708 };
        assert_eq!(entry.encode(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(OffsetIndexEntry::decode(&entry.encode()), Some(entry));
        assert_eq!(OffsetIndexEntry::decode(&[0; 7]), None);

        let entry = TimeIndexEntry { timestamp: Timestamp::from_millis(-2), offset: 9 };
        assert_eq!(entry.encode(), [255, 255, 255, 255, 255, 255, 255, 254, 0, 0, 0, 9]);
        assert_eq!(TimeIndexEntry::decode(&entry.encode()), Some(entry));
        assert_eq!(TimeIndexEntry::decode(&[0; 11]), None);
    }
}
