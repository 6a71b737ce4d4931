//! The index of a segment's aborted transactions.

use byteorder::{BigEndian, ByteOrder};

use super::FormatError;
use super::fields::Fields;
use crate::offset::Offset;

const VERSION: i16 = 0;

/// A transaction whose abort marker lies in the segment. An entry of the segment's transaction index, 34 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortedTxn {
    /// The producer.
    pub producer_id: i64,
    /// The first offset of the transaction.
    pub first_offset: Offset,
    /// The offset of its abort marker.
    pub last_offset: Offset,
    /// The last stable offset after the abort. No transaction aborted later starts below it.
    pub last_stable_offset: Offset,
}

impl AbortedTxn {
    /// The size of an entry, in bytes.
    pub const LEN: usize = 34;

    /// Encodes the entry as on disk.
    pub fn encode(&self) -> [u8; AbortedTxn::LEN] {
        let mut bytes = [0; AbortedTxn::LEN];
        BigEndian::write_i16(&mut bytes[..2], VERSION);
        BigEndian::write_i64(&mut bytes[2..10], self.producer_id);
        BigEndian::write_i64(&mut bytes[10..18], self.first_offset.as_i64());
        BigEndian::write_i64(&mut bytes[18..26], self.last_offset.as_i64());
        BigEndian::write_i64(&mut bytes[26..], self.last_stable_offset.as_i64());
        bytes
    }

    /// Decodes the entry at the front of `bytes`. It must be of version 0 and must not end before it starts.
    pub fn decode(bytes: &[u8]) -> Result<AbortedTxn, FormatError> {
        let mut fields = Fields(bytes);
        let version = fields.i16()?;
        if version != VERSION {
            return Err(FormatError::BadVersion { found: version as u16 as u32, supported: VERSION as u32 });
        }
        let txn = AbortedTxn {
            producer_id: fields.i64()?,
            first_offset: fields.offset()?,
            last_offset: fields.offset()?,
            last_stable_offset: fields.offset()?,
        };
        if txn.first_offset <= txn.last_offset { Ok(txn) } else { Err(FormatError::BadOffset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_a_round_trip_and_bad_ones_are_errors() {
        let txn = AbortedTxn {
            producer_id: 2,
            first_offset: Offset::new(3),
            last_offset: Offset::new(8),
            last_stable_offset: Offset::new(9),
        };
        let bytes = txn.encode();
        assert_eq!(AbortedTxn::decode(&bytes), Ok(txn));
        assert_eq!(AbortedTxn::decode(&bytes[..33]), Err(FormatError::Truncated { needed: 8, available: 7 }));
        for (at, error) in [
            (1, FormatError::BadVersion { found: 1, supported: 0 }),
            (10, FormatError::BadOffset),
            (16, FormatError::BadOffset),
        ] {
            let mut bad = bytes;
            bad[at] = if at == 10 { 0x80 } else { 1 };
            assert_eq!(AbortedTxn::decode(&bad), Err(error));
        }
    }
}
