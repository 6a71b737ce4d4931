//! Keeps some records of a batch and drops the others, as compaction does. A kept record keeps its offset, timestamp
//! and place in its producer's sequence. The batch covers the same offsets as before.

use std::ops::Range;

use super::batch::BatchView;
use super::compression::{Codec, Compressor, Scratch};
use super::header::{BATCH_HEADER_LEN, BatchHeader, TimestampType};
use super::record::RecordView;
use super::varint::{self, Writer};
use super::{Attributes, FormatError};
use crate::offset::Timestamp;

/// The result of [`filter_batch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filtered {
    /// All records stay. Copy the batch as it is.
    Unchanged,
    /// Some records stay, in the batch that was written.
    Rewritten {
        /// The number of these records.
        records: u32,
    },
    /// No record stays, or there was none.
    Empty,
}

/// Reusable buffers for [`filter_batch`].
#[derive(Debug, Default)]
pub struct FilterScratch {
    /// The buffer for decompressed batches, with its bounds.
    pub scratch: Scratch,
    compressor: Compressor,
    /// Runs of kept records, as byte ranges of the uncompressed records.
    runs: Vec<(usize, usize)>,
    records: Vec<u8>,
}

/// Drops the records for which `keep` returns false. `keep` is called once for each record, in order.
///
/// Only [`Filtered::Rewritten`] writes to `out`: it appends one whole new batch. That batch has the offsets, sequence,
/// leader epoch, codec (at its default level) and timestamp type of the old one, and the largest timestamp of the kept
/// records. If it is compressed it may be larger than the old one.
///
/// `horizon` is stamped into a rewritten batch that keeps a tombstone and has no delete horizon yet. The tombstone may
/// be removed from then on. A batch that is not rewritten anyway is not stamped.
///
/// The caller checks the checksum of `batch`. The output gets a correct checksum whatever the input was. An error
/// leaves `out` unchanged.
pub fn filter_batch(
    batch: &BatchView<'_>,
    keep: &mut dyn FnMut(&RecordView<'_>) -> bool,
    horizon: Option<Timestamp>,
    scratch: &mut FilterScratch,
    out: &mut Vec<u8>,
) -> Result<Filtered, FormatError> {
    let kept = choose(batch, keep, scratch)?;
    rewrite(batch, &kept, horizon, scratch, out)
}

/// The same, for a caller that knows which records stay: their offsets relative to the batch's first, in ascending
/// order. If the batch has a record for each of its offsets, dropped records are not decoded.
pub(crate) fn filter_batch_to(
    batch: &BatchView<'_>,
    deltas: &[u32],
    horizon: Option<Timestamp>,
    scratch: &mut FilterScratch,
    out: &mut Vec<u8>,
) -> Result<Filtered, FormatError> {
    let header = batch.header();
    let kept = if u64::from(header.count) == header.next_offset().since(header.base_offset) {
        pick(batch, deltas, scratch)?
    } else {
        let mut deltas = deltas.iter().map(|delta| header.base_offset + u64::from(*delta)).peekable();
        let mut keep = |record: &RecordView<'_>| {
            while deltas.next_if(|kept| *kept < record.offset).is_some() {}
            deltas.next_if_eq(&record.offset).is_some()
        };
        choose(batch, &mut keep, scratch)?
    };
    rewrite(batch, &kept, horizon, scratch, out)
}

/// Writes the kept part of a batch, as noted before.
fn rewrite(
    batch: &BatchView<'_>,
    kept: &Kept,
    horizon: Option<Timestamp>,
    scratch: &mut FilterScratch,
    out: &mut Vec<u8>,
) -> Result<Filtered, FormatError> {
    if kept.count == 0 {
        return Ok(Filtered::Empty);
    }
    if kept.count == batch.header().count {
        return Ok(Filtered::Unchanged);
    }
    let header = rewritten_header(batch.header(), kept, horizon);
    write(batch, &header, scratch, out)?;
    Ok(Filtered::Rewritten { records: kept.count })
}

/// Appends a batch with another delete horizon, or without one, and otherwise unchanged. An error leaves `out`
/// unchanged.
pub(crate) fn stamp_batch(
    batch: &BatchView<'_>,
    horizon: Option<Timestamp>,
    scratch: &mut FilterScratch,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    choose(batch, &mut |_| true, scratch)?;
    let old = batch.header();
    let attributes = old.attributes.with_delete_horizon(horizon.is_some());
    let header = BatchHeader { attributes, base_timestamp: horizon.unwrap_or(old.max_timestamp), ..*old };
    write(batch, &header, scratch, out)
}

/// Appends a batch with this header and the records of the noted runs.
fn write(
    batch: &BatchView<'_>,
    header: &BatchHeader,
    scratch: &mut FilterScratch,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let FilterScratch { scratch, compressor, runs, records: encoded } = scratch;
    let codec = batch.header().attributes.codec()?;
    let start = out.len();
    let written = (|| {
        let plain = if codec == Codec::None { batch.payload() } else { scratch.decompressed() };
        out.resize(start + BATCH_HEADER_LEN, 0);
        if codec == Codec::None {
            copy_runs(plain, runs, batch.header(), header, out)?;
        } else {
            encoded.clear();
            copy_runs(plain, runs, batch.header(), header, encoded)?;
            compressor.compress(codec, None, encoded, out)?;
        }
        header.seal(out.get_mut(start..).unwrap_or_default())
    })();
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends the rest of a batch that lost all its records: a header without records, which covers the same offsets.
///
/// With `keep_producer` it still carries the last sequence number of its producer. Without, it only keeps its place in
/// the log.
pub fn empty_batch(header: &BatchHeader, keep_producer: bool, out: &mut Vec<u8>) {
    let attributes = Attributes::default().with_timestamp_type(header.attributes.timestamp_type());
    let mut empty = BatchHeader { attributes, base_timestamp: Timestamp::NONE, count: 0, ..*header };
    if keep_producer {
        empty.attributes = attributes
            .with_transactional(header.attributes.is_transactional())
            .with_control(header.attributes.is_control());
    } else {
        (empty.producer_id, empty.producer_epoch, empty.base_sequence) = (-1, -1, -1);
    }
    let start = out.len();
    out.resize(start + BATCH_HEADER_LEN, 0);
    let sealed = empty.seal(out.get_mut(start..).unwrap_or_default());
    assert!(sealed.is_ok(), "a header is not too large for a batch");
}

/// A summary of the records that stay.
struct Kept {
    count: u32,
    max_timestamp: Timestamp,
    has_tombstone: bool,
}

impl Kept {
    const NOTHING: Kept = Kept { count: 0, max_timestamp: Timestamp::from_millis(i64::MIN), has_tombstone: false };

    /// Notes that a record stays, and where its bytes lie.
    #[inline]
    fn add(&mut self, record: &RecordView<'_>, bytes: Range<usize>, runs: &mut Vec<(usize, usize)>) {
        self.count += 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        self.has_tombstone |= record.is_tombstone();
        match runs.last_mut() {
            Some(run) if run.1 == bytes.start => run.1 = bytes.end,
            _ => runs.push((bytes.start, bytes.end)),
        }
    }
}

/// Calls `keep` for each record, and notes the bytes of those that stay.
fn choose(
    batch: &BatchView<'_>,
    keep: &mut dyn FnMut(&RecordView<'_>) -> bool,
    scratch: &mut FilterScratch,
) -> Result<Kept, FormatError> {
    let FilterScratch { scratch, runs, .. } = scratch;
    runs.clear();
    let mut kept = Kept::NOTHING;
    let mut records = batch.records(scratch)?;
    let mut start = 0;
    while let Some(record) = records.next() {
        let record = record?;
        let end = records.position();
        if keep(&record) {
            kept.add(&record, start..end, runs);
        }
        start = end;
    }
    Ok(kept)
}

/// Notes the bytes of the records that stay.
fn pick(batch: &BatchView<'_>, deltas: &[u32], scratch: &mut FilterScratch) -> Result<Kept, FormatError> {
    let FilterScratch { scratch, runs, .. } = scratch;
    runs.clear();
    let mut kept = Kept::NOTHING;
    batch.records(scratch)?.pick(deltas, |record, bytes| kept.add(&record, bytes, runs))?;
    Ok(kept)
}

fn rewritten_header(old: &BatchHeader, kept: &Kept, horizon: Option<Timestamp>) -> BatchHeader {
    let mut header = BatchHeader { count: kept.count, ..*old };
    if old.attributes.timestamp_type() == TimestampType::CreateTime {
        header.max_timestamp = kept.max_timestamp;
    }
    if let (Some(horizon), None, true) = (horizon, old.delete_horizon(), kept.has_tombstone) {
        header.attributes = old.attributes.with_delete_horizon(true);
        header.base_timestamp = horizon;
    }
    header
}

/// Appends the records of the runs. Their timestamps are relative to the base timestamp. If that is unchanged, so are
/// all their bytes.
fn copy_runs(
    plain: &[u8],
    runs: &[(usize, usize)],
    old: &BatchHeader,
    new: &BatchHeader,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let shift = old.base_timestamp.as_millis().wrapping_sub(new.base_timestamp.as_millis());
    for &(start, end) in runs {
        let mut run = plain.get(start..end).unwrap_or_default();
        if shift == 0 {
            out.extend_from_slice(run);
        }
        while shift != 0 && !run.is_empty() {
            shift_record(&mut run, shift, out)?;
        }
    }
    Ok(())
}

/// Takes a record off the front and appends it with a shifted timestamp delta.
fn shift_record(bytes: &mut &[u8], shift: i64, out: &mut Vec<u8>) -> Result<(), FormatError> {
    const BAD: FormatError = FormatError::BadRecord("length");
    let length = usize::try_from(varint::take_i32(bytes)?).map_err(|_| BAD)?;
    let (body, rest) = bytes.split_at_checked(length).ok_or(BAD)?;
    *bytes = rest;
    let (&attributes, mut body) = body.split_first().ok_or(BAD)?;
    let timestamp_delta = varint::take_i64(&mut body)?.wrapping_add(shift);
    let length = 1 + varint::len(timestamp_delta) + body.len();
    let mut prefix = [0; Writer::CAPACITY];
    let mut writer = Writer::new(&mut prefix);
    writer.varint(i32::try_from(length).map_err(|_| BAD)?.into());
    writer.byte(attributes);
    writer.varint(timestamp_delta);
    let len = writer.len();
    out.extend_from_slice(prefix.get(..len).unwrap_or_default());
    out.extend_from_slice(body);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{Record, RecordBatch};
    use super::*;
    use crate::format::{Marker, end_marker};

    fn batch_of(sizes: &[u8], codec: Codec) -> RecordBatch {
        let values: Vec<_> = sizes.iter().map(|size| vec![*size; usize::from(*size)]).collect();
        let mut builder = RecordBatch::builder().codec(codec);
        for (at, value) in (0..).zip(&values) {
            let record = if value.len() % 7 == 0 { Record::tombstone("key") } else { Record::new("key", value) };
            builder.push(&record.at(Timestamp::from_millis(1000 + at % 50)), Timestamp::NONE).unwrap();
        }
        builder.build().unwrap()
    }

    /// Filters in both ways and returns the output.
    fn filtered_alike(batch: &BatchView<'_>, keeps: impl Fn(u32) -> bool) -> (Filtered, Vec<u8>) {
        let (mut asked, mut told) = (Vec::new(), Vec::new());
        let (mut scratch, horizon) = (FilterScratch::default(), Some(Timestamp::from_millis(7)));
        let base = batch.header().base_offset;
        let mut deltas = Vec::new();
        let mut keep = |record: &RecordView<'_>| {
            let delta = record.offset.since(base) as u32;
            deltas.extend(keeps(delta).then_some(delta));
            keeps(delta)
        };
        let one = filter_batch(batch, &mut keep, horizon, &mut scratch, &mut asked).unwrap();
        let other = filter_batch_to(batch, &deltas, horizon, &mut scratch, &mut told).unwrap();
        assert_eq!((one, &asked), (other, &told));
        (other, told)
    }

    proptest! {
        #[test]
        fn who_is_asked_and_who_is_told_keep_the_same(
            sizes in vec(any::<u8>(), 1..150),
            masks in [any::<u128>(), any::<u128>()],
            compressed: bool,
        ) {
            let codec = if compressed && cfg!(feature = "lz4") { Codec::Lz4 } else { Codec::None };
            let batch = batch_of(&sizes, codec);
            let keeps = |mask: u128| move |delta: u32| mask >> (delta % 128) & 1 == 1;
            let (filtered, bytes) = filtered_alike(&batch.view(), keeps(masks[0]));
            if let Filtered::Rewritten { .. } = filtered {
                // It has gaps now.
                filtered_alike(&BatchView::parse(&bytes).unwrap(), keeps(masks[1]));
            }
        }
    }

    #[test]
    fn a_marker_says_the_same_with_a_horizon_and_without() {
        let marker = end_marker(Marker::Abort, 7, 2, 5, Timestamp::from_millis(90_000)).unwrap();
        let mut scratch = FilterScratch::default();
        let control = |bytes: &[u8]| {
            let batch = BatchView::parse(bytes).unwrap();
            batch.check_crc().unwrap();
            (batch.control(&mut Scratch::default()).unwrap(), batch.header().delete_horizon())
        };
        let mut bytes = marker.as_bytes().to_vec();
        for horizon in [Some(5), Some(i64::MAX), None] {
            let horizon = horizon.map(Timestamp::from_millis);
            let mut stamped = vec![1];
            stamp_batch(&BatchView::parse(&bytes).unwrap(), horizon, &mut scratch, &mut stamped).unwrap();
            bytes = stamped.split_off(1);
            assert_eq!(control(&bytes), (control(marker.as_bytes()).0, horizon));
        }
        assert_eq!(&bytes[..], &marker.as_bytes()[..]);
    }

    #[test]
    fn records_that_are_not_where_the_batch_has_them_are_an_error() {
        let mut bytes = batch_of(&[10; 3], Codec::None).as_bytes().to_vec();
        let filter = |bytes: &[u8], deltas: &[u32]| {
            let batch = BatchView::parse(bytes).unwrap();
            filter_batch_to(&batch, deltas, None, &mut FilterScratch::default(), &mut Vec::new())
        };
        assert_eq!(filter(&bytes, &[1]), Ok(Filtered::Rewritten { records: 1 }));
        // Length, attributes, timestamp delta, offset delta.
        let offset_delta = BATCH_HEADER_LEN + (bytes.len() - BATCH_HEADER_LEN) / 3 + 3;
        assert_eq!(bytes[offset_delta], 2, "one, as zigzag");
        bytes[offset_delta] = 4;
        assert_eq!(filter(&bytes, &[1]), Err(FormatError::BadOffset));
        bytes.pop();
        let len = (bytes.len() - 12) as u32;
        bytes[8..12].copy_from_slice(&len.to_be_bytes());
        assert_eq!(filter(&bytes, &[0]), Err(FormatError::BadRecord("length")));
    }
}
