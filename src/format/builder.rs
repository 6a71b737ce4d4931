//! Makes batches from records.

use super::batch::{Attributes, BATCH_HEADER_LEN, BatchHeader, RecordBatch, TimestampType};
use super::compression::{Codec, Compressor};
use super::record::Record;
use super::varint::{self, Prefix};
use super::{FormatError, Header};
use crate::offset::{Offset, Timestamp};

/// The largest batch that the format can hold.
const MAX_BATCH_LEN: usize = i32::MAX as usize;

/// Makes batches from records, reusing its buffers: [`push`](BatchBuilder::push) records, [`finish`](
/// BatchBuilder::finish) the batch, [`reset`](BatchBuilder::reset) for the next one. For a single batch,
/// [`build`](BatchBuilder::build).
///
/// Unless told otherwise a batch is uncompressed, of [`TimestampType::CreateTime`], without producer, at base offset 0
/// and leader epoch -1; the log assigns offsets and epoch when it is appended.
#[derive(Debug)]
pub struct BatchBuilder {
    /// Room for the header, then the records as they are encoded.
    records: Vec<u8>,
    /// The whole batch, when compressed.
    compressed: Vec<u8>,
    compressor: Compressor,
    codec: Codec,
    level: Option<i32>,
    /// What the settings say of the header; counts and timestamps as of the records pushed.
    header: BatchHeader,
    /// The lowest offset delta that the next record may have.
    next_delta: u32,
    /// The least last offset delta of the batch.
    last_delta_min: u32,
}

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    /// A builder of uncompressed batches.
    pub fn new() -> BatchBuilder {
        BatchBuilder {
            records: vec![0; BATCH_HEADER_LEN],
            compressed: Vec::new(),
            compressor: Compressor::default(),
            codec: Codec::None,
            level: None,
            header: BatchHeader {
                base_offset: Offset::ZERO,
                size: 0,
                leader_epoch: -1,
                crc: 0,
                attributes: Attributes::default(),
                last_offset_delta: 0,
                base_timestamp: Timestamp::NONE,
                max_timestamp: Timestamp::NONE,
                producer_id: -1,
                producer_epoch: -1,
                base_sequence: -1,
                count: 0,
            },
            next_delta: 0,
            last_delta_min: 0,
        }
    }

    /// Compresses with this codec. A codec that the build leaves out is an error in [`finish`](Self::finish).
    pub fn codec(mut self, codec: Codec) -> BatchBuilder {
        self.codec = codec;
        self.header.attributes = self.header.attributes.with_codec(codec);
        self
    }

    /// The codec's compression level: 1 to 9 for gzip (default 6), -7 to 22 for zstd (default 3). Others have none.
    pub fn level(mut self, level: i32) -> BatchBuilder {
        self.level = Some(level);
        self
    }

    /// Who sets the timestamps. Under [`TimestampType::LogAppendTime`] those of the records are not looked at.
    pub fn timestamp_type(mut self, timestamp_type: TimestampType) -> BatchBuilder {
        self.header.attributes = self.header.attributes.with_timestamp_type(timestamp_type);
        self
    }

    /// The producer, and the sequence number of the record at the base offset.
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> BatchBuilder {
        self.set_producer(id, epoch, base_sequence);
        self
    }

    /// Whether the batch belongs to a transaction of its producer.
    pub fn transactional(mut self, on: bool) -> BatchBuilder {
        self.header.attributes = self.header.attributes.with_transactional(on);
        self
    }

    /// Whether the batch holds control records.
    pub fn control(mut self, on: bool) -> BatchBuilder {
        self.header.attributes = self.header.attributes.with_control(on);
        self
    }

    /// The epoch of the leader.
    pub fn leader_epoch(mut self, epoch: i32) -> BatchBuilder {
        self.header.leader_epoch = epoch;
        self
    }

    /// The offset that the records' deltas count from.
    pub fn base_offset(mut self, offset: Offset) -> BatchBuilder {
        self.set_base_offset(offset);
        self
    }

    /// Lets the batch cover offsets up to this delta, even though its last records are gone. Forgotten by
    /// [`reset`](Self::reset).
    pub fn last_offset_delta(mut self, delta: u32) -> BatchBuilder {
        self.last_delta_min = delta;
        self
    }

    /// Changes the producer and sequence number between batches.
    pub fn set_producer(&mut self, id: i64, epoch: i16, base_sequence: i32) {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
    }

    /// Changes the base offset between batches.
    pub fn set_base_offset(&mut self, offset: Offset) {
        self.header.base_offset = offset;
    }

    /// Adds a record at the next offset; one without timestamp gets `now`. After an error the batch is as before.
    #[inline]
    pub fn push(&mut self, record: &Record<'_>, now: Timestamp) -> Result<(), FormatError> {
        self.push_at(self.next_delta, record, now)
    }

    /// Adds a record at the base offset plus `offset_delta`, which must lie above that of the record before:
    /// the offsets between are a gap, as compaction leaves them. After an error the batch is as before.
    #[inline]
    pub fn push_at(&mut self, offset_delta: u32, record: &Record<'_>, now: Timestamp) -> Result<(), FormatError> {
        if offset_delta < self.next_delta || offset_delta > i32::MAX as u32 {
            return Err(FormatError::BadOffset);
        }
        let timestamp = match self.header.attributes.timestamp_type() {
            TimestampType::CreateTime => record.timestamp.unwrap_or(now),
            TimestampType::LogAppendTime => now,
        };
        if self.header.count == 0 {
            self.header.base_timestamp = timestamp;
            self.header.max_timestamp = timestamp;
        }
        let timestamp_delta = timestamp.as_millis().wrapping_sub(self.header.base_timestamp.as_millis());
        encode(&mut self.records, i64::from(offset_delta), timestamp_delta, record)?;
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        self.header.count += 1;
        self.header.last_offset_delta = offset_delta;
        self.next_delta = offset_delta + 1;
        Ok(())
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// Bytes of the batch so far: exactly, when uncompressed; before compression, else.
    pub fn size(&self) -> usize {
        self.records.len()
    }

    /// The whole batch, header and checksum written. Records may be added afterwards, and the batch finished again.
    ///
    /// Without compression nothing is allocated or copied. A batch without records is an error.
    pub fn finish(&mut self) -> Result<&[u8], FormatError> {
        if self.header.count == 0 {
            return Err(FormatError::BadCount);
        }
        let header = BatchHeader { last_offset_delta: self.last_delta(), ..self.header };
        // What the header's parser refuses is never written.
        if Offset::MAX.since(header.base_offset) <= u64::from(header.last_offset_delta) {
            return Err(FormatError::BadOffset);
        }
        let batch = if self.codec == Codec::None {
            &mut self.records
        } else {
            let (_, records) = self.records.split_at_checked(BATCH_HEADER_LEN).unwrap_or_default();
            self.compressed.clear();
            self.compressed.resize(BATCH_HEADER_LEN, 0);
            self.compressor.compress(self.codec, self.level, records, &mut self.compressed)?;
            &mut self.compressed
        };
        header.seal(batch)?;
        Ok(batch)
    }

    /// The batch, on its own.
    pub fn build(mut self) -> Result<RecordBatch, FormatError> {
        self.finish()?;
        let bytes = if self.codec == Codec::None { self.records } else { self.compressed };
        RecordBatch::sealed(bytes)
    }

    /// Forgets the records; other settings and buffers stay.
    pub fn reset(&mut self) {
        self.records.truncate(BATCH_HEADER_LEN);
        self.header.count = 0;
        self.header.last_offset_delta = 0;
        self.next_delta = 0;
        self.last_delta_min = 0;
    }

    fn last_delta(&self) -> u32 {
        self.header.last_offset_delta.max(self.last_delta_min)
    }
}

/// Appends an encoded record, or nothing when it would not fit a batch.
#[inline]
fn encode(out: &mut Vec<u8>, offset_delta: i64, timestamp_delta: i64, record: &Record<'_>) -> Result<(), FormatError> {
    let key_len = record.key.map_or(-1, |key| key.len() as i64);
    let value_len = record.value.map_or(-1, |value| value.len() as i64);
    let headers_len = if record.headers.is_empty() { 1 } else { headers_len(record.headers) };
    // None of these sums can overflow: slices are at most isize::MAX long, and headers_len() saturates.
    let body_len = 1
        + varint::len(timestamp_delta)
        + varint::len(offset_delta)
        + varint::len(key_len)
        + record.key.map_or(0, <[u8]>::len)
        + varint::len(value_len);
    let body_len = body_len.saturating_add(record.value.map_or(0, <[u8]>::len)).saturating_add(headers_len);
    let size = body_len.saturating_add(varint::MAX_LEN_32).saturating_add(out.len());
    if size > MAX_BATCH_LEN {
        return Err(FormatError::TooLarge { limit: MAX_BATCH_LEN });
    }

    out.reserve(body_len + varint::MAX_LEN_32);
    let mut prefix = Prefix::new();
    prefix.varint(body_len as i64);
    prefix.byte(0);
    prefix.varint(timestamp_delta);
    prefix.varint(offset_delta);
    prefix.varint(key_len);
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(record.key.unwrap_or_default());
    put_varint(out, value_len);
    out.extend_from_slice(record.value.unwrap_or_default());
    put_varint(out, record.headers.len() as i64);
    for header in record.headers {
        put_varint(out, header.key.len() as i64);
        out.extend_from_slice(header.key);
        put_varint(out, header.value.map_or(-1, |value| value.len() as i64));
        out.extend_from_slice(header.value.unwrap_or_default());
    }
    Ok(())
}

#[inline(always)]
fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut prefix = Prefix::new();
    prefix.varint(value);
    out.extend_from_slice(prefix.as_bytes());
}

#[inline(never)]
fn headers_len(headers: &[Header<'_>]) -> usize {
    headers.iter().fold(varint::len(headers.len() as i64), |sum, header| {
        let value = header.value.map_or(0, <[u8]>::len);
        let value_len = header.value.map_or(-1, |value| value.len() as i64);
        sum.saturating_add(varint::len(header.key.len() as i64))
            .saturating_add(header.key.len())
            .saturating_add(varint::len(value_len))
            .saturating_add(value)
    })
}
