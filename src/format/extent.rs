//! The extent of a batch.

use byteorder::{BigEndian, ByteOrder};

use super::header::{BATCH_HEADER_LEN, LENGTH_PREFIX, MAGIC};
use crate::offset::Offset;

/// The part of a header that a walk from batch to batch needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) base_offset: Offset,
    /// The offset that follows the batch.
    pub(crate) next_offset: Offset,
    /// The size of the whole batch, in bytes.
    pub(crate) size: usize,
}

impl Extent {
    /// The extent of the batch at the front of `bytes`, or `None` if there is no batch. Ignores the header fields about
    /// records.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Extent> {
        let h: &[u8; BATCH_HEADER_LEN] = bytes.first_chunk()?;
        let (base, delta) = (BigEndian::read_i64(&h[..8]), i64::from(BigEndian::read_i32(&h[23..27])));
        let length = usize::try_from(BigEndian::read_i32(&h[8..12])).ok()?;
        // A sum that overflows is negative as well.
        let last = base.wrapping_add(delta);
        let has_place = (base | delta | last) >= 0 && last < Offset::MAX.as_i64();
        let is_batch = has_place && length >= BATCH_HEADER_LEN - LENGTH_PREFIX && h[16] as i8 == MAGIC;
        is_batch.then(|| Extent {
            base_offset: Offset::new(base as u64),
            next_offset: Offset::new(last as u64 + 1),
            size: length + LENGTH_PREFIX,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::format::{BatchHeader, FormatError, Record, RecordBatch, patch_offset};
    use crate::offset::Timestamp;

    fn batch(last_offset_delta: u32) -> Vec<u8> {
        let mut builder = RecordBatch::builder().last_offset_delta(last_offset_delta);
        builder.push(&Record::keyless("value"), Timestamp::NONE).unwrap();
        builder.finish().unwrap().to_vec()
    }

    proptest! {
        #[test]
        fn it_is_what_the_header_says(
            delta in prop_oneof![0..9u32, Just(i32::MAX as u32)],
            below_max in option::of(0..12u64),
            changed in option::of((0..BATCH_HEADER_LEN, any::<u8>())),
        ) {
            let mut bytes = batch(delta);
            patch_offset(&mut bytes, below_max.map_or(Offset::new(7), |less| Offset::new(Offset::MAX.get() - less)));
            if let Some((at, byte)) = changed {
                bytes[at] = byte;
            }
            let expected = match BatchHeader::parse(&bytes) {
                Ok(header) => {
                    let (base_offset, next_offset, size) = (header.base_offset, header.next_offset(), header.size);
                    Some(Extent { base_offset, next_offset, size })
                }
                // Its extent may be sound all the same.
                Err(FormatError::BadCount) => return Ok(()),
                Err(_) => None,
            };
            prop_assert_eq!(Extent::parse(&bytes), expected);
        }
    }
}
