//! Records: to be appended, as read from a batch, and owned.

use bytes::Bytes;

use super::{FormatError, varint};
use crate::offset::{Offset, Timestamp};

/// The approximate size of a record besides its key, value and headers.
const RECORD_OVERHEAD: usize = 8;

/// A record to append. It borrows all its data.
///
/// ```
/// # use stratalog::{Header, Log, LogConfig, Offset, Record, Timestamp, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// let headers = [Header::new("trace", "42")];
/// let record = Record::new("ada", "London").at(Timestamp::from_millis(1_000)).with_headers(&headers);
/// events.append_records([record, Record::keyless("no key"), Record::tombstone("ada")])?;
/// let mut reader = events.reader(Offset::ZERO)?;
/// let read = reader.next_record()?.unwrap();
/// assert_eq!(read.key, Some(&b"ada"[..]));
/// assert_eq!(read.timestamp, Timestamp::from_millis(1_000));
/// assert_eq!(read.headers().next(), Some(headers[0]));
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record<'a> {
    /// The key, used by compaction and routing.
    pub key: Option<&'a [u8]>,
    /// The value. `None` makes it a tombstone, which deletes its key.
    pub value: Option<&'a [u8]>,
    /// The headers, in order. A key may occur more than once.
    pub headers: &'a [Header<'a>],
    /// The time of the event; `None` for the time of the append.
    pub timestamp: Option<Timestamp>,
}

impl<'a> Record<'a> {
    /// A record with a key and a value.
    pub fn new(key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Record<'a> {
        Record { key: Some(key.as_ref()), value: Some(value.as_ref()), ..Record::default() }
    }

    /// A record without a key. Compacted topics refuse it.
    pub fn keyless(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Record<'a> {
        Record { value: Some(value.as_ref()), ..Record::default() }
    }

    /// A record that deletes its key.
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Record<'a> {
        Record { key: Some(key.as_ref()), ..Record::default() }
    }

    /// Sets the timestamp.
    pub fn at(mut self, timestamp: Timestamp) -> Record<'a> {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the headers.
    pub fn with_headers(mut self, headers: &'a [Header<'a>]) -> Record<'a> {
        self.headers = headers;
        self
    }
}

/// A record without key.
impl<'a> From<&'a str> for Record<'a> {
    fn from(value: &'a str) -> Record<'a> {
        Record::keyless(value)
    }
}

/// A record without key.
impl<'a> From<&'a [u8]> for Record<'a> {
    fn from(value: &'a [u8]) -> Record<'a> {
        Record::keyless(value)
    }
}

/// A record without key.
impl<'a> From<&'a Vec<u8>> for Record<'a> {
    fn from(value: &'a Vec<u8>) -> Record<'a> {
        Record::keyless(value)
    }
}

/// A record without key.
impl<'a> From<&'a Bytes> for Record<'a> {
    fn from(value: &'a Bytes) -> Record<'a> {
        Record::keyless(value)
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

/// A header of a record. Kafka's clients write keys in UTF-8, but nothing here relies on it.
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

/// A record in a batch. It borrows from the batch, or from the scratch buffer into which the batch was decompressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp; the batch's append time under [`LogAppendTime`](super::TimestampType::LogAppendTime).
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its sequence number; -1 if the batch has no producer.
    pub sequence: i32,
    pub(super) header_count: u32,
    pub(super) headers: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Its headers.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers, remaining: self.header_count }
    }

    /// The number of headers.
    pub fn header_count(&self) -> usize {
        self.header_count as usize
    }

    /// Its approximate uncompressed size in a batch, in bytes.
    pub fn size(&self) -> u32 {
        let fields = self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.len();
        u32::try_from(fields.saturating_add(RECORD_OVERHEAD)).unwrap_or(u32::MAX)
    }

    /// Whether it deletes its key.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
}

/// An owned record. If its batch is not compressed, the record shares the bytes that were read and copies nothing. The
/// bytes of everything fetched with it then live as long as the record.
///
/// ```
/// # use stratalog::{Log, LogConfig, OwnedRecord, Record, Start, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records([Record::new("ada", "London"), Record::tombstone("ada")])?;
/// let records: Vec<OwnedRecord> = events.reader(Start::Earliest)?.records().collect::<Result<_, _>>()?;
/// log.close()?; // the records stay
/// assert_eq!(records[0].value.as_deref(), Some(&b"London"[..]));
/// assert!(records[1].is_tombstone());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OwnedRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp; the batch's append time under [`LogAppendTime`](super::TimestampType::LogAppendTime).
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` for a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<OwnedHeader>,
}

/// A header of an [`OwnedRecord`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OwnedHeader {
    /// Its key.
    pub key: Bytes,
    /// Its value, which may be null.
    pub value: Option<Bytes>,
}

impl OwnedRecord {
    /// Makes an owned record. `own` turns borrowed bytes into owned ones.
    pub(crate) fn of(view: &RecordView<'_>, own: impl Fn(&[u8]) -> Bytes) -> OwnedRecord {
        let header = |header: Header<'_>| OwnedHeader { key: own(header.key), value: header.value.map(&own) };
        OwnedRecord {
            offset: view.offset,
            timestamp: view.timestamp,
            key: view.key.map(&own),
            value: view.value.map(&own),
            headers: view.headers().map(header).collect(),
        }
    }

    /// Whether it deletes its key.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
}

/// Copies the bytes.
impl From<RecordView<'_>> for OwnedRecord {
    fn from(view: RecordView<'_>) -> OwnedRecord {
        OwnedRecord::of(&view, Bytes::copy_from_slice)
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

#[inline(always)]
pub(super) fn take_nullable<'a>(bytes: &mut &'a [u8], what: &'static str) -> Result<Option<&'a [u8]>, FormatError> {
    let length = varint::take_i32(bytes)?;
    if length == -1 {
        return Ok(None);
    }
    take(bytes, length).map(Some).ok_or(FormatError::BadRecord(what))
}

#[inline(always)]
pub(super) fn take<'a>(bytes: &mut &'a [u8], length: i32) -> Option<&'a [u8]> {
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
pub(super) fn check_headers(count: i32, mut bytes: &[u8]) -> Result<(), FormatError> {
    if count < 0 {
        return Err(FormatError::BadRecord("header count"));
    }
    // Each header takes at least two bytes, so a loop with too large a count ends with the bytes.
    for _ in 0..count {
        take_header(&mut bytes)?;
    }
    if bytes.is_empty() { Ok(()) } else { Err(FormatError::BadRecord("length")) }
}
