//! The annex of a digest: its contents besides the entries.

use super::super::FormatError;
use super::super::fields::Fields;
use super::DigestFooter;
use crate::offset::{Offset, Timestamp};

pub(super) const HORIZON_LEN: usize = 16;
pub(super) const PRODUCER_LEN: usize = 9;
/// Flags of a producer.
const OPEN: u8 = 1;
const LEADS: u8 = 2;

/// When the tombstones in a range of offsets may be removed. The range starts where the previous horizon ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Horizon {
    /// One past the last offset of its range.
    pub end: Offset,
    /// The tombstones may be removed from this time on.
    pub at: Timestamp,
}

/// When markers without any remaining batches may be removed. The time is stamped into each of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MarkerHorizon {
    /// The markers may be removed from this time on.
    pub at: Timestamp,
    /// The offset of the first of them.
    pub first: Offset,
}

/// A producer that has transactional batches in a segment, or ended a transaction there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentProducer {
    /// Its id.
    pub id: i64,
    /// Whether its last batch in the segment belongs to a transaction, and is not the marker that ends it.
    pub open: bool,
    /// Whether its first batch here is a marker without a horizon. The marker's transaction then has its batches in
    /// segments below, or has none.
    pub leads: bool,
}

/// The contents of a digest besides its entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DigestAnnex {
    /// For a segment that compaction merged from others: until when the tombstones in its parts must stay. In offset
    /// order, without duplicates.
    pub horizons: Vec<Horizon>,
    /// The horizons of its markers, in ascending order. Beyond a limit the latest ones are combined into one.
    pub markers: Vec<MarkerHorizon>,
    /// The producers of its transactions.
    pub producers: Vec<SegmentProducer>,
}

impl DigestAnnex {
    /// Encodes the annex as on disk.
    pub fn encode(&self) -> Vec<u8> {
        let horizons = self.horizons.len() + self.markers.len();
        let mut out = Vec::with_capacity(horizons * HORIZON_LEN + self.producers.len() * PRODUCER_LEN);
        for horizon in &self.horizons {
            out.extend_from_slice(&horizon.end.as_i64().to_be_bytes());
            out.extend_from_slice(&horizon.at.as_millis().to_be_bytes());
        }
        for markers in &self.markers {
            out.extend_from_slice(&markers.first.as_i64().to_be_bytes());
            out.extend_from_slice(&markers.at.as_millis().to_be_bytes());
        }
        for producer in &self.producers {
            out.extend_from_slice(&producer.id.to_be_bytes());
            let (open, leads) = (u8::from(producer.open) * OPEN, u8::from(producer.leads) * LEADS);
            out.push(open | leads);
        }
        out
    }

    /// Decodes the annex that `footer` describes.
    pub fn decode(footer: &DigestFooter, bytes: &[u8]) -> Result<DigestAnnex, FormatError> {
        let computed = crc32fast::hash(bytes);
        if computed != footer.annex_crc {
            return Err(FormatError::BadCrc { stored: footer.annex_crc, computed });
        }
        if bytes.len() as u64 != footer.annex_len() {
            return Err(FormatError::BadLength);
        }
        let mut fields = Fields(bytes);
        let mut annex = DigestAnnex::default();
        for _ in 0..footer.horizons {
            let horizon = Horizon { end: fields.offset()?, at: fields.timestamp()? };
            if annex.horizons.last().is_some_and(|last| last.end >= horizon.end) {
                return Err(FormatError::BadOffset);
            }
            annex.horizons.push(horizon);
        }
        for _ in 0..footer.markers {
            let (first, at) = (fields.offset()?, fields.timestamp()?);
            if annex.markers.last().is_some_and(|last| last.at >= at) {
                return Err(FormatError::Malformed("horizons of markers in a digest"));
            }
            annex.markers.push(MarkerHorizon { at, first });
        }
        for _ in 0..footer.producers {
            let (id, flags) = (fields.u64()? as i64, fields.u8()?);
            if flags > OPEN | LEADS {
                return Err(FormatError::Malformed("producer of a digest"));
            }
            annex.producers.push(SegmentProducer { id, open: flags & OPEN != 0, leads: flags & LEADS != 0 });
        }
        fields.end()?;
        Ok(annex)
    }
}
