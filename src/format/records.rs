//! The records of a batch, decoded one by one.

use std::ops::Range;

use super::FormatError;
use super::header::{BatchHeader, TimestampType};
use super::record::{RecordView, check_headers, take, take_nullable};
use super::varint::{self, Head};
use crate::offset::{Offset, Timestamp};

/// The records of a batch, decoded one by one. Ends after the first error.
///
/// Checks the lengths and counts of every record, that offsets grow and stay within the batch, that the number of
/// records matches the header, and that no bytes are left over.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
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
            at: 0,
            len: bytes.len(),
            remaining: header.count,
            next_delta: 0,
            last_offset_delta: header.last_offset_delta,
            base_sequence: header.base_sequence,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp.as_millis(),
            append_time,
        };
        Records { bytes, walk }
    }

    /// Calls `visit` with each record. Fields that `visit` does not use are checked, but not assembled.
    #[inline(always)]
    pub(crate) fn visit<E: From<FormatError>>(
        self,
        mut visit: impl FnMut(RecordView<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Records { bytes, mut walk } = self;
        loop {
            while let Some(record) = walk.next_short(bytes) {
                visit(record)?;
            }
            match walk.next_any(bytes) {
                Some(record) => visit(record?)?,
                None => return Ok(()),
            }
        }
    }

    /// Calls `visit` with the records of these offset deltas, in ascending order, and the range of their bytes.
    ///
    /// Only for a batch with a record for each of its offsets. Of the other records only the length is read.
    #[inline]
    pub(super) fn pick(
        self,
        deltas: &[u32],
        mut visit: impl FnMut(RecordView<'a>, Range<usize>),
    ) -> Result<(), FormatError> {
        let Records { bytes, mut walk } = self;
        let mut next = 0;
        for &wanted in deltas {
            let start = pass(bytes, walk.at, next..wanted)?;
            (walk.at, walk.next_delta) = (start, wanted);
            let decoded = walk.decode_short(bytes).map_or_else(|| decode(walk, bytes), Ok);
            let Decoded { record, delta, end } = decoded?;
            if delta != wanted {
                return Err(FormatError::BadOffset);
            }
            visit(record, start..end);
            walk.at = end;
            next = wanted + 1;
        }
        let end = pass(bytes, walk.at, next..walk.remaining)?;
        if end == walk.len { Ok(()) } else { Err(FormatError::TrailingBytes { extra: walk.len - end }) }
    }

    /// The number of bytes decoded.
    pub(super) fn position(&self) -> usize {
        self.walk.at
    }

    /// Skips the records before an offset. Reads only what is needed to identify them, and stops at bytes that are no
    /// record.
    pub(crate) fn skip_to(mut self, offset: Offset) -> Records<'a> {
        let wanted = offset.get().saturating_sub(self.walk.base_offset.get());
        while self.walk.remaining > 0 && u64::from(self.walk.next_delta) < wanted {
            match self.walk.look(self.bytes) {
                Some((delta, end)) if u64::from(delta) < wanted && self.walk.admits(delta) => {
                    self.walk.advance(delta, end);
                }
                _ => break,
            }
        }
        self
    }

    /// Suspends the walk, without its bytes.
    pub(crate) fn suspend(self) -> SuspendedRecords {
        SuspendedRecords(self.walk)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.walk.next_short(self.bytes) {
            Some(record) => Some(Ok(record)),
            None => self.walk.next_any(self.bytes),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // The count is the batch's claim, so nothing may be allocated for it.
        (0, Some(self.walk.remaining as usize + 1))
    }
}

impl std::iter::FusedIterator for Records<'_> {}

/// A walk over records without their bytes, so that the owner of the bytes can store it beside them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SuspendedRecords(Walk);

impl SuspendedRecords {
    /// Whether no record and no byte is left.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.0.remaining == 0 && self.0.at == self.0.len
    }

    /// Returns the next record of the same bytes as before, if it is a short one, as nearly all are. Otherwise
    /// [`next_any`](Self::next_any) returns it. There are two calls because converting one kind of result into the
    /// other would cost more than decoding.
    #[inline(always)]
    pub(crate) fn next_short<'a>(&mut self, bytes: &'a [u8]) -> Option<RecordView<'a>> {
        self.0.next_short(bytes)
    }

    /// Returns the next record of the same bytes as before.
    pub(crate) fn next_any<'a>(&mut self, bytes: &'a [u8]) -> Option<Result<RecordView<'a>, FormatError>> {
        self.0.next_any(bytes)
    }
}

/// The progress of a walk.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    /// The start of the next record, and the required end of the last one.
    at: usize,
    len: usize,
    remaining: u32,
    /// The lowest offset delta that the next record may have.
    next_delta: u32,
    last_offset_delta: u32,
    base_sequence: i32,
    base_offset: Offset,
    base_timestamp: i64,
    append_time: Option<Timestamp>,
}

/// A record and its end.
struct Decoded<'a> {
    record: RecordView<'a>,
    delta: u32,
    end: usize,
}

impl Walk {
    #[inline(always)]
    fn next_short<'a>(&mut self, bytes: &'a [u8]) -> Option<RecordView<'a>> {
        if self.remaining == 0 {
            return None;
        }
        let Decoded { record, delta, end } = self.decode_short(bytes)?;
        self.advance(delta, end);
        Some(record)
    }

    #[inline(always)]
    fn next_any<'a>(&mut self, bytes: &'a [u8]) -> Option<Result<RecordView<'a>, FormatError>> {
        if self.remaining == 0 {
            let extra = self.len - self.at;
            self.at = self.len;
            return (extra > 0).then_some(Err(FormatError::TrailingBytes { extra }));
        }
        // Passed by value: a mutable borrow would keep the whole walk in memory instead of registers.
        match decode(*self, bytes) {
            Ok(Decoded { record, delta, end }) => {
                self.advance(delta, end);
                Some(Ok(record))
            }
            Err(why) => {
                (self.remaining, self.at) = (0, self.len);
                Some(Err(why))
            }
        }
    }

    /// Continues after a record.
    #[inline(always)]
    fn advance(&mut self, delta: u32, end: usize) {
        self.remaining -= 1;
        self.next_delta = delta + 1;
        self.at = end;
    }

    /// Whether the next record may have this offset delta.
    #[inline(always)]
    fn admits(&self, delta: u32) -> bool {
        (self.next_delta..=self.last_offset_delta).contains(&delta)
    }

    /// Decodes a record whose varints are short, as in nearly all records. Returns `None` for any other record and for
    /// invalid bytes; [`decode`] handles these.
    #[inline(always)]
    fn decode_short<'a>(&self, bytes: &'a [u8]) -> Option<Decoded<'a>> {
        let rest = bytes.get(self.at..)?;
        let mut head = Head::of(rest)?;
        let length = head.take_length()?;
        let size = head.len() + length;
        head.skip_byte();
        let timestamp_delta = head.take_number(rest)?;
        let delta = head.take_length()? as u32;
        if !self.admits(delta) {
            return None;
        }
        let fields = rest.get(..size)?.get(head.len()..)?;
        let (key, fields) = short_field(fields)?;
        let (value, fields) = short_field(fields)?;
        let (&raw_count, headers) = fields.split_first()?;
        if raw_count != 0 || !headers.is_empty() {
            let is_short = raw_count < 0x80 && raw_count & 1 == 0;
            check_headers(is_short.then_some(i32::from(raw_count >> 1))?, headers).ok()?;
        }
        let headers = (u32::from(raw_count >> 1), headers);
        let record = self.record(timestamp_delta, delta, (key, value), headers);
        Some(Decoded { record, delta, end: self.at + size })
    }

    #[inline(always)]
    fn record<'a>(
        &self,
        timestamp_delta: i64,
        delta: u32,
        (key, value): (Option<&'a [u8]>, Option<&'a [u8]>),
        (header_count, headers): (u32, &'a [u8]),
    ) -> RecordView<'a> {
        let timestamp = Timestamp::from_millis(self.base_timestamp.wrapping_add(timestamp_delta));
        RecordView {
            offset: self.base_offset + u64::from(delta),
            timestamp: self.append_time.unwrap_or(timestamp),
            key,
            value,
            sequence: sequence_at(self.base_sequence, delta),
            header_count,
            headers,
        }
    }

    /// The offset delta of the next record and its end, if it begins like a record.
    #[inline(always)]
    fn look(&self, bytes: &[u8]) -> Option<(u32, usize)> {
        let short = || {
            let rest = bytes.get(self.at..)?;
            let mut head = Head::of(rest)?;
            let length = head.take_length()?;
            let end = self.at + head.len() + length;
            head.skip_byte();
            head.take_number(rest)?;
            Some((head.take_length()? as u32, end))
        };
        let (delta, end) = short().or_else(|| look(bytes, self.at))?;
        (end <= bytes.len()).then_some((delta, end))
    }
}

/// Decodes a record of any kind.
#[cold]
#[inline(never)]
fn decode(walk: Walk, bytes: &[u8]) -> Result<Decoded<'_>, FormatError> {
    let mut rest = bytes.get(walk.at..).unwrap_or_default();
    let length = varint::take_i32(&mut rest)?;
    let Some(mut body) = take(&mut rest, length) else { return Err(FormatError::BadRecord("length")) };

    let Some((_attributes, after)) = body.split_first() else { return Err(FormatError::BadRecord("length")) };
    body = after;
    let timestamp_delta = varint::take_i64(&mut body)?;
    // A negative delta becomes one that is too large.
    let delta = varint::take_i32(&mut body)? as u32;
    if !walk.admits(delta) {
        return Err(FormatError::BadOffset);
    }
    let key = take_nullable(&mut body, "key length")?;
    let value = take_nullable(&mut body, "value length")?;
    let header_count = varint::take_i32(&mut body)?;
    check_headers(header_count, body)?;
    let record = walk.record(timestamp_delta, delta, (key, value), (header_count as u32, body));
    Ok(Decoded { record, delta, end: bytes.len() - rest.len() })
}

/// The offset delta of any record, and its end.
#[cold]
#[inline(never)]
fn look(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    let mut rest = bytes.get(at..)?;
    let length = varint::take_i32(&mut rest).ok()?;
    let mut body = take(&mut rest, length)?;
    body = body.get(1..)?;
    varint::take_i64(&mut body).ok()?;
    let delta = varint::take_i32(&mut body).ok()?;
    Some((u32::try_from(delta).ok()?, bytes.len() - rest.len()))
}

/// Returns the end of the skipped records.
#[inline(always)]
fn pass(bytes: &[u8], at: usize, records: Range<u32>) -> Result<usize, FormatError> {
    let mut rest = bytes.get(at..).unwrap_or_default();
    for _ in records {
        let length = varint::take_i32(&mut rest)?;
        take(&mut rest, length).ok_or(FormatError::BadRecord("length"))?;
    }
    Ok(bytes.len() - rest.len())
}

/// A key or value with a short length, and the bytes after it.
#[inline(always)]
fn short_field(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (raw, rest) = varint::short(bytes)?;
    if raw & 1 == 0 {
        let (field, rest) = rest.split_at_checked((raw >> 1) as usize)?;
        return Some((Some(field), rest));
    }
    // -1.
    (raw == 1).then_some((None, rest))
}

/// Sequence numbers wrap from the largest `i32` to 0.
#[inline(always)]
fn sequence_at(base: i32, offset_delta: u32) -> i32 {
    if base < 0 {
        return -1;
    }
    (base as u32).wrapping_add(offset_delta) as i32 & i32::MAX
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::format::{Header, Record, RecordBatch};

    /// Fields of any allowed length. The format's short lengths end at 63 and 8191.
    fn field() -> impl Strategy<Value = Option<Vec<u8>>> {
        let len = prop_oneof![8 => 0..200usize, 1 => 60..70usize, 1 => 8180..8200usize];
        option::weighted(0.9, len.prop_map(|len| vec![7; len]))
    }

    fn timestamp() -> impl Strategy<Value = i64> {
        let long = -(1i64 << 36)..1i64 << 36;
        prop_oneof![
            4 => -70..70i64,
            2 => -9000..9000i64,
            1 => -1_100_000..1_100_000i64,
            2 => long,
            1 => any::<i64>(),
        ]
    }

    /// The records of a batch: each with the gap before it.
    fn batch() -> impl Strategy<Value = RecordBatch> {
        let headers = vec((vec(any::<u8>(), 0..4), option::of(vec(any::<u8>(), 0..4))), 0..3);
        let gap = prop_oneof![6 => Just(0u32), 1 => 1..5u32, 1 => 0..20_000u32];
        let record = (gap, timestamp(), field(), field(), prop_oneof![4 => Just(Vec::new()), 1 => headers]);
        vec(record, 1..40).prop_map(|records| {
            let mut builder = RecordBatch::builder().base_offset(Offset::new(1000)).producer(1, 0, 5);
            let mut delta = 0;
            for (gap, timestamp, key, value, headers) in &records {
                delta += gap;
                let headers: Vec<Header<'_>> =
                    headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
                let record = Record { key: key.as_deref(), value: value.as_deref(), ..Record::default() };
                let at = Timestamp::from_millis(*timestamp);
                builder.push_at(delta, &record.with_headers(&headers).at(at), at).unwrap();
                delta += 1;
            }
            builder.last_offset_delta(delta + 2).build().unwrap()
        })
    }

    fn walk_by_any<'a>(mut records: Records<'a>) -> Vec<Result<RecordView<'a>, FormatError>> {
        std::iter::from_fn(move || records.walk.next_any(records.bytes)).collect()
    }

    proptest! {
        #[test]
        fn short_records_are_decoded_as_any_and_errors_are_the_same(
            batch in batch(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let mut bytes = batch.view().payload().to_vec();
            for (at, byte) in damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len() + 1)));
            let records = Records::new(batch.header(), &bytes);
            let all = walk_by_any(records.clone());
            prop_assert_eq!(records.clone().collect::<Vec<_>>(), all.clone());
            let mut suspended = records.suspend();
            let resumed: Vec<_> = std::iter::from_fn(|| {
                suspended.next_short(&bytes).map(Ok).or_else(|| suspended.next_any(&bytes))
            }).collect();
            prop_assert_eq!(resumed, all);
            prop_assert!(suspended.is_done());
        }

        #[test]
        fn what_is_skipped_is_what_lies_before(batch in batch(), to in 900..30_000u64) {
            let records = Records::new(batch.header(), batch.view().payload());
            let behind: Vec<_> = records.clone().filter(|record| record.as_ref().unwrap().offset >= Offset::new(to)).collect();
            prop_assert_eq!(records.skip_to(Offset::new(to)).collect::<Vec<_>>(), behind);
        }

        #[test]
        fn what_is_no_record_is_not_skipped(batch in batch(), at in any::<prop::sample::Index>(), byte: u8, to in 1000..1100u64) {
            let mut bytes = batch.view().payload().to_vec();
            if bytes.is_empty() {
                return Ok(());
            }
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let records = Records::new(batch.header(), &bytes);
            let mut last = Offset::ZERO;
            for record in records.skip_to(Offset::new(to)).map_while(Result::ok) {
                prop_assert!(record.offset > last && record.offset <= batch.header().last_offset());
                last = record.offset;
            }
        }
    }
}
