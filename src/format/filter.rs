//! Keeps some records of a batch and drops the others, as a compaction does: what stays keeps its offset, timestamp
//! and place in its producer's sequence, and the batch covers the same offsets as before.

use super::batch::{BATCH_HEADER_LEN, BatchHeader, BatchView, TimestampType};
use super::compression::{Codec, Compressor, Scratch};
use super::record::RecordView;
use super::varint::{self, Writer};
use super::{Attributes, FormatError};
use crate::offset::Timestamp;

/// What [`filter_batch`] made of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filtered {
    /// All records stay: the batch is to be copied as it is.
    Unchanged,
    /// Some records stay, in the batch that was written.
    Rewritten {
        /// How many.
        records: u32,
    },
    /// No record stays, or there was none.
    Empty,
}

/// Buffers that [`filter_batch`] uses again and again.
#[derive(Debug, Default)]
pub struct FilterScratch {
    /// Where compressed batches are decompressed to, within its bounds.
    pub scratch: Scratch,
    compressor: Compressor,
    /// Runs of kept records, as byte ranges of the uncompressed records.
    runs: Vec<(usize, usize)>,
    records: Vec<u8>,
}

/// Drops the records that `keep` says no to. It is asked once for each record, in order.
///
/// Nothing is written to `out` but a whole new batch, at its end, in the case of [`Filtered::Rewritten`]: with the
/// offsets, sequence, leader epoch, codec (at its default level) and kind of timestamps of the old one, and the largest
/// timestamp of what is left. It may be larger than the old one when it is compressed.
///
/// `horizon` is stamped into a batch that is rewritten, keeps a tombstone, and has no delete horizon yet: from then on
/// the tombstone may go. A batch that is not rewritten anyway is not stamped.
///
/// The checksum of `batch` is the caller's to check; what is written gets a right one, whatever came in. After an error
/// `out` is as before.
pub fn filter_batch(
    batch: &BatchView<'_>,
    keep: &mut dyn FnMut(&RecordView<'_>) -> bool,
    horizon: Option<Timestamp>,
    scratch: &mut FilterScratch,
    out: &mut Vec<u8>,
) -> Result<Filtered, FormatError> {
    let FilterScratch { scratch, compressor, runs, records: encoded } = scratch;
    let codec = batch.header().attributes.codec()?;
    let kept = choose(batch, keep, scratch, runs)?;
    if kept.count == 0 {
        return Ok(Filtered::Empty);
    }
    if kept.count == batch.header().count {
        return Ok(Filtered::Unchanged);
    }
    let header = rewritten_header(batch.header(), &kept, horizon);
    let start = out.len();
    let written = (|| {
        let plain = if codec == Codec::None { batch.payload() } else { scratch.decompressed() };
        out.resize(start + BATCH_HEADER_LEN, 0);
        if codec == Codec::None {
            copy_runs(plain, runs, batch.header(), &header, out)?;
        } else {
            encoded.clear();
            copy_runs(plain, runs, batch.header(), &header, encoded)?;
            compressor.compress(codec, None, encoded, out)?;
        }
        header.seal(out.get_mut(start..).unwrap_or_default())
    })();
    if let Err(error) = written {
        out.truncate(start);
        return Err(error);
    }
    Ok(Filtered::Rewritten { records: kept.count })
}

/// Appends what is left of a batch that lost all its records: a header without records, which covers the same offsets.
///
/// With `keep_producer` it goes on telling the last sequence number of its producer. Without, it only keeps its place
/// in the log.
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

/// What stays of a batch.
struct Kept {
    count: u32,
    max_timestamp: Timestamp,
    has_tombstone: bool,
}

/// Asks for each record, and notes the bytes of those that stay.
fn choose(
    batch: &BatchView<'_>,
    keep: &mut dyn FnMut(&RecordView<'_>) -> bool,
    scratch: &mut Scratch,
    runs: &mut Vec<(usize, usize)>,
) -> Result<Kept, FormatError> {
    runs.clear();
    let mut kept = Kept { count: 0, max_timestamp: Timestamp::from_millis(i64::MIN), has_tombstone: false };
    let mut records = batch.records(scratch)?;
    let mut start = 0;
    while let Some(record) = records.next() {
        let record = record?;
        let end = records.position();
        if keep(&record) {
            kept.count += 1;
            kept.max_timestamp = kept.max_timestamp.max(record.timestamp);
            kept.has_tombstone |= record.is_tombstone();
            match runs.last_mut() {
                Some(run) if run.1 == start => run.1 = end,
                _ => runs.push((start, end)),
            }
        }
        start = end;
    }
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

/// Appends the records of the runs. Their timestamps count from the base timestamp: as long as that stays, so do all
/// their bytes.
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

/// Takes a record off the front and appends it with another timestamp delta.
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
