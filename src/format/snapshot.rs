//! The snapshot of the producers' state that a partition keeps at the base of each segment: Kafka's, version 1.

use super::FormatError;
use super::fields::{Fields, optional_offset_bytes};
use crate::offset::{Offset, Timestamp};

const VERSION: i16 = 1;
/// The size of version and checksum. The checksum covers everything after them.
const CHECKED_START: usize = 6;
const ENTRY_LEN: usize = 46;

/// The state of one producer in a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerSnapshotEntry {
    /// The producer's id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The last sequence number that it wrote; -1 if all its records were compacted or deleted.
    pub last_sequence: i32,
    /// The offset of that record.
    pub last_offset: Option<Offset>,
    /// The distance from the first offset of its batch to that record.
    pub offset_delta: i32,
    /// When the producer last wrote.
    pub timestamp: Timestamp,
    /// The epoch of the coordinator that last ended one of its transactions; -1 for none.
    pub coordinator_epoch: i32,
    /// The start of its open transaction.
    pub current_txn_first_offset: Option<Offset>,
}

/// Encodes a snapshot as on disk.
pub fn encode(entries: &[ProducerSnapshotEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHECKED_START + 4 + entries.len() * ENTRY_LEN);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.producer_id.to_be_bytes());
        out.extend_from_slice(&entry.epoch.to_be_bytes());
        out.extend_from_slice(&entry.last_sequence.to_be_bytes());
        out.extend_from_slice(&optional_offset_bytes(entry.last_offset));
        out.extend_from_slice(&entry.offset_delta.to_be_bytes());
        out.extend_from_slice(&entry.timestamp.as_millis().to_be_bytes());
        out.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&optional_offset_bytes(entry.current_txn_first_offset));
    }
    if let Some((head, checked)) = out.split_first_chunk_mut::<CHECKED_START>() {
        let crc = crc_fast::crc32_iscsi(checked);
        head[2..].copy_from_slice(&crc.to_be_bytes());
    }
    out
}

/// Decodes a whole snapshot.
pub fn decode(bytes: &[u8]) -> Result<Vec<ProducerSnapshotEntry>, FormatError> {
    let mut fields = Fields(bytes);
    let version = fields.i16()?;
    if version != VERSION {
        return Err(FormatError::BadVersion { found: version as u16 as u32, supported: VERSION as u32 });
    }
    let stored = fields.u32()?;
    let computed = crc_fast::crc32_iscsi(fields.0);
    if stored != computed {
        return Err(FormatError::BadCrc { stored, computed });
    }
    let count = fields.count(ENTRY_LEN)?;
    let entries = (0..count).map(|_| decode_entry(&mut fields)).collect::<Result<Vec<_>, _>>()?;
    fields.end()?;
    Ok(entries)
}

fn decode_entry(fields: &mut Fields<'_>) -> Result<ProducerSnapshotEntry, FormatError> {
    Ok(ProducerSnapshotEntry {
        producer_id: fields.i64()?,
        epoch: fields.i16()?,
        last_sequence: fields.i32()?,
        last_offset: fields.optional_offset()?,
        offset_delta: fields.i32()?,
        timestamp: fields.timestamp()?,
        coordinator_epoch: fields.i32()?,
        current_txn_first_offset: fields.optional_offset()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(producer_id: i64) -> ProducerSnapshotEntry {
        ProducerSnapshotEntry {
            producer_id,
            epoch: 3,
            last_sequence: 99,
            last_offset: Some(Offset::new(500)),
            offset_delta: 9,
            timestamp: Timestamp::from_millis(1_700_000_000_000),
            coordinator_epoch: -1,
            current_txn_first_offset: None,
        }
    }

    #[test]
    fn a_snapshot_survives_a_round_trip() {
        let gone = ProducerSnapshotEntry { last_sequence: -1, last_offset: None, ..entry(8) };
        let open = ProducerSnapshotEntry { current_txn_first_offset: Some(Offset::ZERO), ..entry(9) };
        for entries in [vec![], vec![entry(7)], vec![entry(7), gone, open]] {
            let bytes = encode(&entries);
            assert_eq!(bytes.len(), 10 + entries.len() * ENTRY_LEN);
            assert_eq!(decode(&bytes), Ok(entries));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let bytes = encode(&[entry(7), entry(8)]);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_count_larger_than_the_file_allocates_nothing() {
        let mut bytes = encode(&[]);
        bytes[6..10].copy_from_slice(&u32::MAX.to_be_bytes());
        let crc = crc_fast::crc32_iscsi(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(decode(&bytes), Err(FormatError::BadCount));
    }
}
