//! What a digest says beside its entries.

use super::super::FormatError;
use super::super::fields::Fields;
use super::DigestFooter;
use crate::offset::{Offset, Timestamp};

pub(super) const HORIZON_LEN: usize = 16;
pub(super) const PRODUCER_LEN: usize = 9;
/// Flags of a producer.
const OPEN: u8 = 1;
const LEADS: u8 = 2;

/// From when on the tombstones may go that lie below an offset, and not below that of the horizon before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Horizon {
    /// One past the last offset that it is for.
    pub end: Offset,
    /// From then on they may go.
    pub at: Timestamp,
}

/// From when on markers of transactions of which nothing is left may go: it is stamped into each of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MarkerHorizon {
    /// From then on they may go.
    pub at: Timestamp,
    /// The offset of the first one.
    pub first: Offset,
}

/// A producer that has batches of transactions in a segment, or ended one there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentProducer {
    /// Its id.
    pub id: i64,
    /// Whether its last batch in the segment is one of a transaction, and not the marker that ends it.
    pub open: bool,
    /// Whether what comes first of it is a marker without a horizon: that of a transaction with batches in segments
    /// below, or with none.
    pub leads: bool,
}

/// What a digest says beside its entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DigestAnnex {
    /// For a segment that compaction has put together: until when the tombstones in its parts were promised to stay.
    /// In offset order, none twice.
    pub horizons: Vec<Horizon>,
    /// The horizons of its markers, in ascending order. Of more than are worth it the latest are one.
    pub markers: Vec<MarkerHorizon>,
    /// The producers of its transactions.
    pub producers: Vec<SegmentProducer>,
}

impl DigestAnnex {
    /// The bytes as on disk.
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

    /// Reads the annex that `footer` tells of.
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
