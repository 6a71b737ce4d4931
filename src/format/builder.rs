//! Builds batches from records.

use super::batch::RecordBatch;
use super::compression::{Codec, Compressor};
use super::header::{Attributes, BATCH_HEADER_LEN, BatchHeader, TimestampType};
use super::record::Record;
use super::varint::{self, Word, Writer};
use super::{FormatError, Header};
use crate::offset::{Offset, Timestamp};

/// The largest batch that the format can hold.
const MAX_BATCH_LEN: usize = i32::MAX as usize;
const FIRST_CAPACITY: usize = 512;

/// Builds batches from records and reuses its buffers: [`push`](Self::push) records, [`finish`](Self::finish) the
/// batch, and [`reset`](Self::reset) for the next one. For a single batch use [`build`](Self::build).
///
/// By default a batch is uncompressed, has [`TimestampType::CreateTime`] and no producer, base offset 0 and leader
/// epoch -1. The log assigns offsets and epoch on append.
///
/// ```
/// # use stratalog::{BatchBuilder, Log, LogConfig, Record, Timestamp, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// let mut builder = BatchBuilder::new();
/// builder.push(&Record::new("ada", "London"), Timestamp::now())?;
/// builder.push(&Record::new("bob", "Paris"), Timestamp::now())?;
/// let batch = builder.build()?;
/// let appended = events.append(&batch)?;
/// assert_eq!(appended.next_offset.get(), 2);
/// # log.close()
/// # }
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    /// Room for the header, then the encoded records, then room for more.
    records: Vec<u8>,
    /// The end of the last record.
    end: usize,
    /// The whole batch, if compressed.
    compressed: Vec<u8>,
    compressor: Compressor,
    codec: Codec,
    level: Option<i32>,
    /// The header from the settings, with the counts and timestamps of the records pushed so far.
    header: BatchHeader,
    /// The lowest offset delta that the next record may have.
    next_delta: u32,
    /// The lower bound of the batch's last offset delta.
    last_delta_min: u32,
}

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder::new()
    }
}

impl RecordBatch {
    /// A builder for a batch.
    pub fn builder() -> BatchBuilder {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    /// A builder of uncompressed batches.
    pub fn new() -> BatchBuilder {
        BatchBuilder {
            records: vec![0; FIRST_CAPACITY],
            end: BATCH_HEADER_LEN,
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

    /// Compresses with this codec. For a codec that this build lacks, [`finish`](Self::finish) fails.
    pub fn codec(mut self, codec: Codec) -> BatchBuilder {
        self.set_codec(codec);
        self
    }

    /// The codec's compression level: 1 to 9 for gzip (default 6), -7 to 22 for zstd (default 3). Other codecs have
    /// none.
    pub fn level(mut self, level: i32) -> BatchBuilder {
        self.level = Some(level);
        self
    }

    /// Who sets the timestamps. With [`TimestampType::LogAppendTime`] the timestamps of the records are ignored.
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

    /// The offset from which the records' deltas count.
    pub fn base_offset(mut self, offset: Offset) -> BatchBuilder {
        self.set_base_offset(offset);
        self
    }

    /// Makes the batch cover offsets up to this delta, even though its last records are gone. [`reset`](Self::reset)
    /// clears this.
    pub fn last_offset_delta(mut self, delta: u32) -> BatchBuilder {
        self.last_delta_min = delta;
        self.header.last_offset_delta = self.header.last_offset_delta.max(delta);
        self
    }

    /// Changes the codec between batches.
    pub fn set_codec(&mut self, codec: Codec) {
        self.codec = codec;
        self.header.attributes = self.header.attributes.with_codec(codec);
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

    /// Adds a record at the next offset. A record without timestamp gets `now`. An error leaves the batch unchanged.
    #[inline]
    pub fn push(&mut self, record: &Record<'_>, now: Timestamp) -> Result<(), FormatError> {
        self.push_at(self.next_delta, record, now)
    }

    /// Adds a record at the base offset plus `offset_delta`, which must be above that of the record before. The offsets
    /// between form a gap, such as compaction leaves. An error leaves the batch unchanged.
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
        match Short::of(offset_delta, timestamp_delta, record) {
            Some(short) => {
                self.make_room(short.body_len)?;
                self.end = short.encode(&mut self.records, self.end, record);
            }
            None => self.push_any(i64::from(offset_delta), timestamp_delta, record)?,
        }
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        self.header.count += 1;
        self.header.last_offset_delta = offset_delta.max(self.last_delta_min);
        self.next_delta = offset_delta + 1;
        Ok(())
    }

    #[inline(never)]
    fn push_any(&mut self, offset_delta: i64, timestamp_delta: i64, record: &Record<'_>) -> Result<(), FormatError> {
        let body_len = body_len(offset_delta, timestamp_delta, record);
        self.make_room(body_len)?;
        self.end = encode(&mut self.records, self.end, body_len, offset_delta, timestamp_delta, record);
        Ok(())
    }

    /// The number of records in the batch.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    /// Whether the batch has no records.
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// The size of the batch so far in bytes: exact if uncompressed, otherwise the size before compression.
    pub fn size(&self) -> usize {
        self.end
    }

    /// Finishes the whole batch and writes its header and checksum. More records may be added and the batch finished
    /// again.
    ///
    /// Without compression, nothing is allocated or copied. A batch without records is an error.
    pub fn finish(&mut self) -> Result<&[u8], FormatError> {
        if self.header.count == 0 {
            return Err(FormatError::BadCount);
        }
        // Never write a header that the parser would refuse.
        if Offset::MAX.since(self.header.base_offset) <= u64::from(self.header.last_offset_delta) {
            return Err(FormatError::BadOffset);
        }
        let batch = if self.codec == Codec::None {
            self.records.get_mut(..self.end).unwrap_or_default()
        } else {
            let records = self.records.get(BATCH_HEADER_LEN..self.end).unwrap_or_default();
            self.compressed.clear();
            self.compressed.resize(BATCH_HEADER_LEN, 0);
            self.compressor.compress(self.codec, self.level, records, &mut self.compressed)?;
            &mut self.compressed
        };
        self.header.seal(batch)?;
        Ok(batch)
    }

    /// Finishes the batch and returns it as an owned one.
    pub fn build(mut self) -> Result<RecordBatch, FormatError> {
        self.finish()?;
        self.records.truncate(self.end);
        let bytes = if self.codec == Codec::None { self.records } else { self.compressed };
        RecordBatch::sealed(bytes)
    }

    /// Clears the records. Other settings and the buffers stay.
    pub fn reset(&mut self) {
        self.end = BATCH_HEADER_LEN;
        self.header.count = 0;
        self.header.last_offset_delta = 0;
        self.next_delta = 0;
        self.last_delta_min = 0;
    }

    /// Frees buffers that hold more than `bytes`. Call it between batches.
    pub fn shrink_to(&mut self, bytes: usize) {
        if self.records.len() > bytes.max(BATCH_HEADER_LEN) {
            self.reset();
            self.records.truncate(bytes.max(BATCH_HEADER_LEN));
            self.records.shrink_to_fit();
        }
        if self.compressed.capacity() > bytes {
            self.compressed = Vec::new();
        }
    }

    /// Makes room for a record, and for the fields that are written in chunks of constant size.
    #[inline]
    fn make_room(&mut self, body_len: usize) -> Result<(), FormatError> {
        let end = body_len.saturating_add(self.end + varint::MAX_LEN_32);
        if end > MAX_BATCH_LEN {
            return Err(FormatError::TooLarge { limit: MAX_BATCH_LEN });
        }
        let needed = end + Writer::CAPACITY;
        if needed > self.records.len() {
            self.grow(needed);
        }
        Ok(())
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        self.records.resize(needed.max(self.records.len() * 2), 0);
    }
}

/// The part of a record before its key and value, in the common case: no headers, and short lengths and numbers.
struct Short {
    before_key: Word,
    before_value: Word,
    body_len: usize,
}

impl Short {
    #[inline(always)]
    fn of(offset_delta: u32, timestamp_delta: i64, record: &Record<'_>) -> Option<Short> {
        let key = raw_len(record.key);
        if key >= 0x80 || !record.headers.is_empty() {
            return None;
        }
        let timestamp = Word::varint(varint::zigzag(timestamp_delta))?;
        let offset = Word::varint(u64::from(offset_delta) << 1)?;
        let before_value = Word::varint(raw_len(record.value))?;
        // The attributes come first; none are set.
        let fields = Word::new(0, 1).then(timestamp).then(offset).then(Word::new(key, 1));
        let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        let body_len = fields.len() + before_value.len() + bytes + 1;
        let before_key = Word::varint((body_len as u64) << 1)?.then(fields);
        Some(Short { before_key, before_value, body_len })
    }

    /// Encodes the record at `at`, where there must be room, and returns its end.
    #[inline(always)]
    fn encode(&self, out: &mut [u8], at: usize, record: &Record<'_>) -> usize {
        let mut end = put_word(out, at, self.before_key);
        end = put_short(out, end, record.key.unwrap_or_default());
        end = put_word(out, end, self.before_value);
        end = put_bytes(out, end, record.value.unwrap_or_default());
        put_word(out, end, Word::new(0, 1))
    }
}

/// The number of bytes of a record after its length. Saturates far above what a batch can hold.
#[inline]
fn body_len(offset_delta: i64, timestamp_delta: i64, record: &Record<'_>) -> usize {
    let headers_len = if record.headers.is_empty() { 1 } else { headers_len(record.headers) };
    let small = 1
        + varint::len(timestamp_delta)
        + varint::len(offset_delta)
        + varint::len(nullable_len(record.key))
        + varint::len(nullable_len(record.value));
    // A slice is no longer than isize::MAX, so two of them do not overflow.
    let large = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
    large.saturating_add(small + headers_len)
}

#[inline(never)]
fn headers_len(headers: &[Header<'_>]) -> usize {
    headers.iter().fold(varint::len(headers.len() as i64), |sum, header| {
        sum.saturating_add(varint::len(header.key.len() as i64))
            .saturating_add(header.key.len())
            .saturating_add(varint::len(nullable_len(header.value)))
            .saturating_add(header.value.map_or(0, <[u8]>::len))
    })
}

/// The length field before a key or value; -1 for null.
#[inline(always)]
fn nullable_len(field: Option<&[u8]>) -> i64 {
    field.map_or(-1, |field| field.len() as i64)
}

/// The same, zigzag-encoded.
#[inline(always)]
fn raw_len(field: Option<&[u8]>) -> u64 {
    field.map_or(1, |field| (field.len() as u64) << 1)
}

/// Encodes a record at `at`, where there must be room, and returns its end.
#[inline]
fn encode(
    out: &mut [u8],
    at: usize,
    body_len: usize,
    offset_delta: i64,
    timestamp_delta: i64,
    record: &Record<'_>,
) -> usize {
    let mut end = put_fields(out, at, |writer| {
        writer.varint(body_len as i64);
        writer.byte(0);
        writer.varint(timestamp_delta);
        writer.varint(offset_delta);
        writer.varint(nullable_len(record.key));
    });
    end = put_bytes(out, end, record.key.unwrap_or_default());
    end = put_fields(out, end, |writer| writer.varint(nullable_len(record.value)));
    end = put_bytes(out, end, record.value.unwrap_or_default());
    end = put_fields(out, end, |writer| writer.varint(record.headers.len() as i64));
    for header in record.headers {
        end = put_fields(out, end, |writer| writer.varint(header.key.len() as i64));
        end = put_bytes(out, end, header.key);
        end = put_fields(out, end, |writer| writer.varint(nullable_len(header.value)));
        end = put_bytes(out, end, header.value.unwrap_or_default());
    }
    end
}

#[inline(always)]
fn put_fields(out: &mut [u8], at: usize, fields: impl FnOnce(&mut Writer<'_>)) -> usize {
    let Some(chunk) = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else {
        panic!("room was made for the record");
    };
    let mut writer = Writer::new(chunk);
    fields(&mut writer);
    at + writer.len()
}

#[inline(always)]
fn put_word(out: &mut [u8], at: usize, word: Word) -> usize {
    let Some(chunk) = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else {
        panic!("room was made for the record");
    };
    *chunk = word.to_bytes();
    at + word.len()
}

/// Keys are short: most are copied as two overlapping words, without a call.
#[inline(always)]
fn put_short(out: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    if let (8..=16, Some(first), Some(last)) = (bytes.len(), bytes.first_chunk(), bytes.last_chunk()) {
        let end = put_word(out, at + bytes.len() - Word::SIZE, Word::of(last));
        put_word(out, at, Word::of(first));
        return end;
    }
    put_bytes(out, at, bytes)
}

#[inline(always)]
fn put_bytes(out: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let end = at + bytes.len();
    let Some(room) = out.get_mut(at..end) else { panic!("room was made for the record") };
    room.copy_from_slice(bytes);
    end
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// Fields with lengths on both sides of the short-encoding limits.
    fn field() -> impl Strategy<Value = Option<Vec<u8>>> {
        let len = prop_oneof![6 => 0..80usize, 1 => 8150..8200usize];
        option::weighted(0.8, len.prop_map(|len| (0..len).map(|i| i as u8).collect()))
    }

    proptest! {
        #[test]
        fn what_is_encoded_in_short_is_encoded_as_any(
            offset in prop_oneof![4 => 0..100u32, 1 => 8190..8200u32],
            timestamp in prop_oneof![4 => -70..70i64, 1 => 8180..8200i64, 1 => -8200..-8180i64, 1 => any::<i64>()],
            (key, value) in (field(), field()),
        ) {
            let record = Record { key: key.as_deref(), value: value.as_deref(), ..Record::default() };
            let short = Short::of(offset, timestamp, &record);
            let is_short = (-8192..8192).contains(&timestamp)
                && offset < 8192
                && key.as_ref().is_none_or(|key| key.len() < 64)
                && body_len(offset.into(), timestamp, &record) < 8192;
            prop_assert_eq!(short.is_some(), is_short);
            if let Some(short) = short {
                let length = body_len(offset.into(), timestamp, &record);
                prop_assert_eq!(short.body_len, length);
                let (mut any, mut out) = (vec![0; length + 64], vec![0; length + 64]);
                let end = encode(&mut any, 3, length, offset.into(), timestamp, &record);
                prop_assert_eq!(short.encode(&mut out, 3, &record), end);
                prop_assert_eq!(&out[..end], &any[..end]);
            }
        }
    }
}
