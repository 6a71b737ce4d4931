//! The header of a record batch, format 2, and changes to it in place.

use byteorder::{BigEndian, ByteOrder};

use super::FormatError;
use super::compression::Codec;
use crate::offset::{Offset, Timestamp};

/// The size of a batch header, in bytes.
pub const BATCH_HEADER_LEN: usize = 61;

/// The only supported message format.
pub(super) const MAGIC: i8 = 2;
/// Base offset and length, which the length field does not count.
pub(super) const LENGTH_PREFIX: usize = 12;
/// The checksum covers everything from here on.
pub(super) const CRC_START: usize = 21;
/// The size of a record without key, value and headers: one byte of length and six more.
pub(super) const MIN_RECORD_LEN: usize = 7;

/// The attributes of a batch: codec, timestamp type, and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes(i16);

impl Attributes {
    const CODEC: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 0x08;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    const DELETE_HORIZON: i16 = 0x40;

    /// Attributes as stored.
    pub const fn from_bits(bits: i16) -> Attributes {
        Attributes(bits)
    }

    /// The attributes as stored. Unknown bits are kept.
    pub const fn bits(self) -> i16 {
        self.0
    }

    /// The compression codec. An error if Kafka defines no such codec.
    pub fn codec(self) -> Result<Codec, FormatError> {
        Codec::from_id((self.0 & Attributes::CODEC) as u8)
    }

    /// Who set the timestamps.
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Attributes::LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch belongs to a transaction.
    pub const fn is_transactional(self) -> bool {
        self.0 & Attributes::TRANSACTIONAL != 0
    }

    /// Whether it holds control records, such as transaction markers, which applications never see.
    pub const fn is_control(self) -> bool {
        self.0 & Attributes::CONTROL != 0
    }

    /// Whether the base timestamp is the time from which its tombstones may be removed.
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & Attributes::DELETE_HORIZON != 0
    }

    /// The same, with this codec.
    pub const fn with_codec(self, codec: Codec) -> Attributes {
        Attributes(self.0 & !Attributes::CODEC | codec.id() as i16)
    }

    /// The same, with this timestamp type.
    pub const fn with_timestamp_type(self, timestamp_type: TimestampType) -> Attributes {
        self.with(Attributes::LOG_APPEND_TIME, matches!(timestamp_type, TimestampType::LogAppendTime))
    }

    /// The same, transactional or not.
    pub const fn with_transactional(self, on: bool) -> Attributes {
        self.with(Attributes::TRANSACTIONAL, on)
    }

    /// The same, with or without the control flag.
    pub const fn with_control(self, on: bool) -> Attributes {
        self.with(Attributes::CONTROL, on)
    }

    /// The same, with or without the flag that makes the base timestamp a delete horizon.
    pub const fn with_delete_horizon(self, on: bool) -> Attributes {
        self.with(Attributes::DELETE_HORIZON, on)
    }

    const fn is_compressed(self) -> bool {
        self.0 & Attributes::CODEC != 0
    }

    const fn with(self, flag: i16, on: bool) -> Attributes {
        Attributes(if on { self.0 | flag } else { self.0 & !flag })
    }
}

/// Who set the timestamps of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimestampType {
    /// The producer, one for each record.
    #[default]
    CreateTime,
    /// The log, one for the whole batch: its max timestamp.
    LogAppendTime,
}

/// The 61 bytes before a batch's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The offset of the first record that the batch was built with. Compaction may have removed that record.
    pub base_offset: Offset,
    /// The size of the whole batch in bytes, header included.
    pub size: usize,
    /// The epoch of the leader that appended it; -1 if there was none.
    pub leader_epoch: i32,
    /// CRC-32C of everything after it.
    pub crc: u32,
    /// Codec, timestamp type, flags.
    pub attributes: Attributes,
    /// The last offset of the batch, relative to its base offset.
    pub last_offset_delta: u32,
    /// The base of the records' timestamp deltas.
    pub base_timestamp: Timestamp,
    /// The largest timestamp of its records; the time of the append under [`TimestampType::LogAppendTime`].
    pub max_timestamp: Timestamp,
    /// The producer's id; -1 for none.
    pub producer_id: i64,
    /// The producer's epoch; -1 for none.
    pub producer_epoch: i16,
    /// The sequence number of the record at the base offset; -1 for none.
    pub base_sequence: i32,
    /// The number of records. 0 is valid: such a batch keeps a place in the log, or a producer's last sequence number.
    pub count: u32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`, which need not hold the rest of the batch.
    ///
    /// Checks everything that needs no records: message format 2, a length of at least the header's, a last offset
    /// below [`Offset::MAX`], and no more records than there are offsets and, if uncompressed, bytes for. Does not
    /// check the checksum.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, FormatError> {
        let Some(h) = bytes.first_chunk::<BATCH_HEADER_LEN>() else {
            return Err(FormatError::Truncated { needed: BATCH_HEADER_LEN, available: bytes.len() });
        };
        let magic = h[16] as i8;
        if magic != MAGIC {
            return Err(FormatError::UnsupportedMagic(magic));
        }
        let size = match usize::try_from(BigEndian::read_i32(&h[8..12])) {
            Ok(length) if length >= BATCH_HEADER_LEN - LENGTH_PREFIX => length + LENGTH_PREFIX,
            _ => return Err(FormatError::BadLength),
        };
        let base_offset = Offset::from_i64(BigEndian::read_i64(&h[..8])).ok_or(FormatError::BadOffset)?;
        let last_offset_delta = u32::try_from(BigEndian::read_i32(&h[23..27])).map_err(|_| FormatError::BadOffset)?;
        // A batch that ends at the very last offset would leave no offset for the log end.
        if Offset::MAX.get() - base_offset.get() <= u64::from(last_offset_delta) {
            return Err(FormatError::BadOffset);
        }
        let count = u32::try_from(BigEndian::read_i32(&h[57..61])).map_err(|_| FormatError::BadCount)?;
        let attributes = Attributes(BigEndian::read_i16(&h[21..23]));
        if u64::from(count) > u64::from(last_offset_delta) + 1
            || !attributes.is_compressed() && count as usize > (size - BATCH_HEADER_LEN) / MIN_RECORD_LEN
        {
            return Err(FormatError::BadCount);
        }
        Ok(BatchHeader {
            base_offset,
            size,
            leader_epoch: BigEndian::read_i32(&h[12..16]),
            crc: BigEndian::read_u32(&h[17..21]),
            attributes,
            last_offset_delta,
            base_timestamp: Timestamp::from_millis(BigEndian::read_i64(&h[27..35])),
            max_timestamp: Timestamp::from_millis(BigEndian::read_i64(&h[35..43])),
            producer_id: BigEndian::read_i64(&h[43..51]),
            producer_epoch: BigEndian::read_i16(&h[51..53]),
            base_sequence: BigEndian::read_i32(&h[53..57]),
            count,
        })
    }

    /// The last offset that the batch covers, even if no record is left there.
    #[inline]
    pub fn last_offset(&self) -> Offset {
        self.base_offset + u64::from(self.last_offset_delta)
    }

    /// The offset that follows the batch.
    #[inline]
    pub fn next_offset(&self) -> Offset {
        self.last_offset() + 1
    }

    /// When the batch's tombstones may be removed, if a compaction has stamped that time.
    #[inline]
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }

    /// Whether a producer with an id wrote it.
    #[inline]
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }

    /// Writes the header of the batch in `bytes`. Takes length and checksum from the bytes, and ignores `size` and
    /// `crc`.
    pub(super) fn seal(&self, bytes: &mut [u8]) -> Result<(), FormatError> {
        let length = bytes.len().checked_sub(LENGTH_PREFIX).and_then(|length| i32::try_from(length).ok());
        let (Some(length), Some(h)) = (length, bytes.first_chunk_mut::<BATCH_HEADER_LEN>()) else {
            return Err(FormatError::TooLarge { limit: i32::MAX as usize });
        };
        BigEndian::write_i64(&mut h[..8], self.base_offset.as_i64());
        BigEndian::write_i32(&mut h[8..12], length);
        BigEndian::write_i32(&mut h[12..16], self.leader_epoch);
        h[16] = MAGIC as u8;
        BigEndian::write_i16(&mut h[21..23], self.attributes.0);
        BigEndian::write_u32(&mut h[23..27], self.last_offset_delta);
        BigEndian::write_i64(&mut h[27..35], self.base_timestamp.as_millis());
        BigEndian::write_i64(&mut h[35..43], self.max_timestamp.as_millis());
        BigEndian::write_i64(&mut h[43..51], self.producer_id);
        BigEndian::write_i16(&mut h[51..53], self.producer_epoch);
        BigEndian::write_i32(&mut h[53..57], self.base_sequence);
        BigEndian::write_u32(&mut h[57..61], self.count);
        write_crc(bytes);
        Ok(())
    }
}

/// Sets the base offset of the batch at the front of `batch`. The checksum does not cover it.
///
/// # Panics
/// If `batch` is shorter than a header.
#[inline]
pub fn patch_offset(batch: &mut [u8], offset: Offset) {
    BigEndian::write_i64(&mut header_of(batch)[..8], offset.as_i64());
}

/// Sets the leader epoch of the batch at the front of `batch`. The checksum does not cover it.
///
/// # Panics
/// If `batch` is shorter than a header.
#[inline]
pub fn patch_leader_epoch(batch: &mut [u8], epoch: i32) {
    BigEndian::write_i32(&mut header_of(batch)[12..16], epoch);
}

/// Sets the timestamp of every record of the batch to `now`, as [`TimestampType::LogAppendTime`] requires, and
/// recomputes the checksum.
///
/// # Panics
/// If `batch` is not exactly one batch.
pub fn patch_append_time(batch: &mut [u8], now: Timestamp) {
    let header = whole_batch(batch);
    let attributes = Attributes(BigEndian::read_i16(&header[21..23]));
    BigEndian::write_i16(&mut header[21..23], attributes.with_timestamp_type(TimestampType::LogAppendTime).0);
    BigEndian::write_i64(&mut header[35..43], now.as_millis());
    write_crc(batch);
}

/// Corrects the max timestamp of a batch, and recomputes the checksum.
///
/// # Panics
/// If `batch` is not exactly one batch.
pub fn patch_max_timestamp(batch: &mut [u8], max: Timestamp) {
    BigEndian::write_i64(&mut whole_batch(batch)[35..43], max.as_millis());
    write_crc(batch);
}

/// The header of a batch that the caller has parsed before.
#[inline]
fn header_of(batch: &mut [u8]) -> &mut [u8; BATCH_HEADER_LEN] {
    let Some(header) = batch.first_chunk_mut() else { panic!("only a parsed batch is patched") };
    header
}

/// The same, if the checksum must be recomputed. It covers `batch` to its end, which must be the batch's end.
#[inline]
fn whole_batch(batch: &mut [u8]) -> &mut [u8; BATCH_HEADER_LEN] {
    let len = batch.len();
    let header = header_of(batch);
    let length = BigEndian::read_u32(&header[8..12]) as usize;
    assert_eq!(length + LENGTH_PREFIX, len, "only exactly one batch is patched");
    header
}

/// The CRC-32C of the part of a batch that its checksum covers.
#[inline]
pub(super) fn checksum(batch: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(batch.get(CRC_START..).unwrap_or_default())
}

#[inline]
fn write_crc(batch: &mut [u8]) {
    let crc = checksum(batch);
    BigEndian::write_u32(&mut header_of(batch)[17..21], crc);
}
