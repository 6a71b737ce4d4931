//! Records: as they are handed in, and as they are read from a batch.

use std::ops::Range;

use super::batch::{BatchHeader, TimestampType};
use super::{FormatError, varint};
use crate::offset::{Offset, Timestamp};

/// What a record takes beside its key, value and headers, about.
const RECORD_OVERHEAD: usize = 8;

/// A record to append. It borrows everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record<'a> {
    /// What compaction and routing go by.
    pub key: Option<&'a [u8]>,
    /// The value; `None` makes it a tombstone, which deletes its key.
    pub value: Option<&'a [u8]>,
    /// Headers, in this order; a key may occur more than once.
    pub headers: &'a [Header<'a>],
    /// When it happened; `None` for the time of the append.
    pub timestamp: Option<Timestamp>,
}

impl<'a> Record<'a> {
    /// A record with key and value.
    pub fn new(key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Record<'a> {
        Record { key: Some(key.as_ref()), value: Some(value.as_ref()), ..Record::default() }
    }

    /// A record without key. A compacted topic refuses it.
    pub fn keyless(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Record<'a> {
        Record { value: Some(value.as_ref()), ..Record::default() }
    }

    /// A record that deletes its key.
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Record<'a> {
        Record { key: Some(key.as_ref()), ..Record::default() }
    }

    /// The same, with this timestamp.
    pub fn at(mut self, timestamp: Timestamp) -> Record<'a> {
        self.timestamp = Some(timestamp);
        self
    }

    /// The same, with these headers.
    pub fn with_headers(mut self, headers: &'a [Header<'a>]) -> Record<'a> {
        self.headers = headers;
        self
    }
}

impl<'a> From<(&'a [u8], &'a [u8])> for Record<'a> {
    fn from((key, value): (&'a [u8], &'a [u8])) -> Record<'a> {
        Record::new(key, value)
    }
}

impl<'a> From<(&'a str, &'a str)> for Record<'a> {
    fn from((key, value): (&'a str, &'a str)) -> Record<'a> {
        Record::new(key, value)
    }
}

/// A header of a record. Kafka's clients write keys in UTF-8; nothing here relies on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Its value, which may be null.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// A header with a value.
    pub fn new(key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Header<'a> {
        Header { key: key.as_ref(), value: Some(value.as_ref()) }
    }
}

/// A record in a batch. It borrows from the batch, or from the scratch buffer that this was decompressed into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp; the batch's append time under [`TimestampType::LogAppendTime`].
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its sequence number; -1 when the batch has no producer.
    pub sequence: i32,
    header_count: u32,
    headers: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Its headers.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers, remaining: self.header_count }
    }

    /// How many headers it has.
    pub fn header_count(&self) -> usize {
        self.header_count as usize
    }

    /// About as many bytes as it takes in a batch, uncompressed.
    pub fn size(&self) -> u32 {
        let fields = self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.len();
        u32::try_from(fields.saturating_add(RECORD_OVERHEAD)).unwrap_or(u32::MAX)
    }

    /// Whether it deletes its key.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
}

/// The headers of a record, which were checked when it was decoded.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    remaining: u32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        take_header(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl ExactSizeIterator for Headers<'_> {}
impl std::iter::FusedIterator for Headers<'_> {}

/// The records of a batch, decoded one by one. Ends after the first error.
///
/// Checked are the lengths and counts of every record, that offsets grow and stay within the batch, that there are as
/// many records as the header says, and that no bytes are left over.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    walk: Walk,
}

impl<'a> Records<'a> {
    #[inline]
    pub(super) fn new(header: &BatchHeader, bytes: &'a [u8]) -> Records<'a> {
        let append_time = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        let walk = Walk {
            remaining: header.count,
            next_delta: 0,
            last_offset_delta: header.last_offset_delta,
            base_sequence: header.base_sequence,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp.as_millis(),
            append_time,
        };
        Records { rest: bytes, walk }
    }

    /// Calls `visit` with each record. What it does not look at is checked, but not put together.
    #[inline(always)]
    pub(crate) fn visit<E: From<FormatError>>(
        self,
        mut visit: impl FnMut(RecordView<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Records { mut rest, mut walk } = self;
        while let Some(record) = walk.next(&mut rest) {
            visit(record?)?;
        }
        Ok(())
    }

    /// Calls `visit` with the records that have these offset deltas, in ascending order, and where their bytes lie.
    ///
    /// For a batch with a record for each of its offsets: of the others only the length is looked at.
    #[inline]
    pub(super) fn pick(
        self,
        deltas: &[u32],
        mut visit: impl FnMut(RecordView<'a>, Range<usize>),
    ) -> Result<(), FormatError> {
        let Records { mut rest, mut walk } = self;
        let total = rest.len();
        let mut next = 0;
        for &delta in deltas {
            pass(&mut rest, next..delta)?;
            let start = total - rest.len();
            walk.next_delta = delta;
            let record = walk.decode(&mut rest)?;
            if record.offset != walk.base_offset + u64::from(delta) {
                return Err(FormatError::BadOffset);
            }
            visit(record, start..total - rest.len());
            next = delta + 1;
        }
        pass(&mut rest, next..walk.remaining)?;
        if rest.is_empty() { Ok(()) } else { Err(FormatError::TrailingBytes { extra: rest.len() }) }
    }

    /// The bytes that are not decoded yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Leaves out the records before an offset.
    pub(crate) fn skip_to(mut self, offset: Offset) -> Result<Records<'a>, FormatError> {
        loop {
            let mut ahead = self.clone();
            match ahead.next() {
                Some(Ok(record)) if record.offset < offset => self = ahead,
                Some(Err(why)) => return Err(why),
                _ => return Ok(self),
            }
        }
    }

    /// Sets the walk aside, without its bytes.
    pub(crate) fn suspend(self) -> SuspendedRecords {
        SuspendedRecords { rest: self.rest.len(), walk: self.walk }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.walk.next(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // The count is the batch's claim: nothing is allocated on it.
        (0, Some(self.walk.remaining as usize + 1))
    }
}

impl std::iter::FusedIterator for Records<'_> {}

/// A walk over records without their bytes, so that who owns those can keep it beside them.
#[derive(Clone, Debug)]
pub(crate) struct SuspendedRecords {
    /// How many bytes are not decoded yet.
    rest: usize,
    walk: Walk,
}

impl SuspendedRecords {
    /// Whether no record is left, and no byte.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.rest == 0 && self.walk.remaining == 0
    }

    /// The next record of the same bytes as before. Nothing but what changes is touched: moving all of it for each
    /// record would cost as much as decoding.
    #[inline]
    pub(crate) fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<Result<RecordView<'a>, FormatError>> {
        let decoded = bytes.len().saturating_sub(self.rest);
        let mut rest = bytes.get(decoded..).unwrap_or_default();
        let next = self.walk.next(&mut rest);
        self.rest = rest.len();
        next
    }
}

/// How far a walk has come.
#[derive(Clone, Debug)]
struct Walk {
    remaining: u32,
    /// The lowest offset delta that the next record may have.
    next_delta: u32,
    last_offset_delta: u32,
    base_sequence: i32,
    base_offset: Offset,
    base_timestamp: i64,
    append_time: Option<Timestamp>,
}

impl Walk {
    #[inline(always)]
    fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Result<RecordView<'a>, FormatError>> {
        if self.remaining == 0 {
            let extra = std::mem::take(rest).len();
            return (extra > 0).then_some(Err(FormatError::TrailingBytes { extra }));
        }
        self.remaining -= 1;
        let record = self.decode(rest);
        if record.is_err() {
            self.remaining = 0;
            *rest = &[];
        }
        Some(record)
    }

    #[inline(always)]
    fn decode<'a>(&mut self, rest: &mut &'a [u8]) -> Result<RecordView<'a>, FormatError> {
        let length = varint::take_i32(rest)?;
        let Some(mut body) = take(rest, length) else { return Err(FormatError::BadRecord("length")) };

        let Some((_attributes, after)) = body.split_first() else { return Err(FormatError::BadRecord("length")) };
        body = after;
        let timestamp_delta = varint::take_i64(&mut body)?;
        // A negative delta becomes one that is too large.
        let offset_delta = varint::take_i32(&mut body)? as u32;
        if offset_delta < self.next_delta || offset_delta > self.last_offset_delta {
            return Err(FormatError::BadOffset);
        }
        let key = take_nullable(&mut body, "key length")?;
        let value = take_nullable(&mut body, "value length")?;
        let header_count = varint::take_i32(&mut body)?;
        if header_count != 0 || !body.is_empty() {
            check_headers(header_count, body)?;
        }

        self.next_delta = offset_delta + 1;
        let timestamp = Timestamp::from_millis(self.base_timestamp.wrapping_add(timestamp_delta));
        Ok(RecordView {
            offset: self.base_offset + u64::from(offset_delta),
            timestamp: self.append_time.unwrap_or(timestamp),
            key,
            value,
            sequence: sequence_at(self.base_sequence, offset_delta),
            header_count: header_count as u32,
            headers: body,
        })
    }
}

/// Leaves out records.
#[inline(always)]
fn pass(bytes: &mut &[u8], records: Range<u32>) -> Result<(), FormatError> {
    for _ in records {
        let length = varint::take_i32(bytes)?;
        take(bytes, length).ok_or(FormatError::BadRecord("length"))?;
    }
    Ok(())
}

/// Sequence numbers wrap from the largest `i32` to 0.
#[inline(always)]
fn sequence_at(base: i32, offset_delta: u32) -> i32 {
    if base < 0 {
        return -1;
    }
    (base as u32).wrapping_add(offset_delta) as i32 & i32::MAX
}

#[inline(always)]
fn take_nullable<'a>(bytes: &mut &'a [u8], what: &'static str) -> Result<Option<&'a [u8]>, FormatError> {
    let length = varint::take_i32(bytes)?;
    if length == -1 {
        return Ok(None);
    }
    take(bytes, length).map(Some).ok_or(FormatError::BadRecord(what))
}

#[inline(always)]
fn take<'a>(bytes: &mut &'a [u8], length: i32) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Result<Header<'a>, FormatError> {
    let length = varint::take_i32(bytes)?;
    let key = take(bytes, length).ok_or(FormatError::BadRecord("header key length"))?;
    let value = take_nullable(bytes, "header value length")?;
    Ok(Header { key, value })
}

#[inline(never)]
fn check_headers(count: i32, mut bytes: &[u8]) -> Result<(), FormatError> {
    if count < 0 {
        return Err(FormatError::BadRecord("header count"));
    }
    // Each header takes at least two bytes, so a count too large ends with the bytes.
    for _ in 0..count {
        take_header(&mut bytes)?;
    }
    if bytes.is_empty() { Ok(()) } else { Err(FormatError::BadRecord("length")) }
}
