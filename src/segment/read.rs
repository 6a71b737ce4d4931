//! Reads whole batches of a segment: a lookup in the index, a walk from there, and the bytes.

use std::io;
use std::ops::Range;

use bytes::{Buf, Bytes};

use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_LEN, BatchHeader, BatchView, Extent, FormatError};
use crate::offset::Offset;

use super::Segment;
use super::open_file::OpenData;

/// The usual distance between index entries. A lookup walks through about this many bytes.
const INTERVAL: u64 = 4096;
/// Bytes read beyond that and beyond the requested size, so that no batch is cut off for a few bytes.
const SLACK: u64 = 512;
/// The most bytes of a large batch that are prefetched.
const FETCH_MAX: u64 = 16 << 10;
/// Index entries farther apart than this most likely belong to two adjacent batches.
const LARGE: u64 = INTERVAL * 3 / 2;

/// Whole batches of one segment.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) bytes: Bytes,
    /// The position of the batches in the file.
    pub(crate) position: u64,
    /// One past the last offset of the last batch.
    pub(crate) next: Offset,
}

impl Segment {
    /// Returns whole batches, starting with the one that holds `from`, or the first after it. Returns as many as fit
    /// `max_bytes`, but at least one if `at_least_one`, and none that reaches past `limit`.
    pub(crate) fn slice(
        &self,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Option<Slice>> {
        let data = self.open()?;
        // The active segment may grow between reading its end and its length, so an end read first would be too low.
        let end = if self.is_sealed() { self.end() } else { Offset::MAX };
        let readable = self.len();
        let begin = || -> Result<BatchCursor> {
            let position = self.start_near(&data, from, readable)?;
            Ok(BatchCursor::new(position, self.base..end, from, limit))
        };
        let mut cursor = begin()?;
        let mut trusted = cursor.position == 0;
        let mut want = max_bytes.max(INTERVAL as usize).saturating_add(SLACK as usize);
        loop {
            let position = cursor.position;
            let left = readable - position;
            if left == 0 {
                return Ok(None);
            }
            let window = self.window(&data, position, (want as u64).min(left))?;
            match cursor.walk(&window, max_bytes, left as usize) {
                Ok(Step::Found { start, end, .. }) if !at_least_one && end - start > max_bytes => return Ok(None),
                // A reader that continues from `next` meets the same contradiction, and not the batches behind it.
                Ok(Step::Contradicted { start, end, next, at })
                    if self.start_near(&data, next, readable)? < position + at as u64 =>
                {
                    return Ok(Some(slice(window, start..end, position, next)));
                }
                Ok(Step::Found { start, end, next }) => {
                    return Ok(Some(slice(window, start..end, position, next)));
                }
                Ok(Step::PastLimit) => return Ok(None),
                // Grow the window, because the index may have few entries. The next batch is expected to be as large as
                // this one.
                Ok(Step::Passed(size)) if cursor.position <= readable => {
                    want = size.max(2 * window.len()) + SLACK as usize
                }
                Ok(Step::More(needed)) if needed as u64 <= left => want = needed.max(want),
                Ok(Step::Doubt(position, size)) => {
                    let bytes = self.window(&data, position, size as u64)?;
                    let checked = BatchView::parse(&bytes).and_then(|batch| batch.check_crc());
                    checked.map_err(|why| Error::corrupt(&self.path(), position, why.to_string()))?;
                    cursor.dispel();
                }
                // An index that leads astray is rebuilt. If there is still no batch, the segment is damaged.
                _ if !trusted => {
                    self.rebuild_index(&data)?;
                    cursor = begin()?;
                    trusted = true;
                }
                Err((at, why)) => return Err(Error::corrupt(&self.path(), position + at as u64, why.to_string())),
                Ok(Step::Contradicted { at, .. }) => {
                    let why = FormatError::BadOffset.to_string();
                    return Err(Error::corrupt(&self.path(), position + at as u64, why));
                }
                Ok(Step::Passed(_) | Step::More(_)) => {
                    return Err(Error::corrupt(&self.path(), readable, "the segment ends inside a batch"));
                }
            }
        }
    }

    /// Returns where a walk to the batch that holds `from`, or the first after it, begins.
    fn start_near(&self, data: &OpenData, from: Offset, readable: u64) -> Result<u64> {
        let around = self.around(data, from)?;
        let floor = u64::from(around.floor.position);
        // No batch begins beyond the end. A walk from the first batch finds all of them.
        if floor > readable {
            return Ok(0);
        }
        let map = data.map.read();
        match around.next.map(|next| u64::from(next.position)) {
            // Large batches have one entry each. The walk reads this header and then the next batch, which is as long.
            Some(next) if next > floor + LARGE => {
                map.fetch(floor, BATCH_HEADER_LEN as u64);
                map.fetch(next, (next - floor).min(FETCH_MAX));
            }
            _ => map.fetch(floor, around.distance().map_or(INTERVAL, |distance| (distance + SLACK).min(INTERVAL))),
        }
        Ok(floor)
    }

    /// Returns bytes of the file: a slice of its mapping, or a copy that is read.
    pub(crate) fn window(&self, data: &OpenData, position: u64, len: u64) -> Result<Bytes> {
        let io = |e: io::Error| Error::io(e, &self.path()).at_position(position);
        if let Some(bytes) = self.mapped(data, position..position + len).map_err(io)? {
            return Ok(bytes);
        }
        let bytes = self.dir.file_cache.buffers().read(len as usize, |into| data.file.read_at(into, position));
        let bytes = bytes.map_err(io)?;
        if (bytes.len() as u64) < len {
            return Err(Error::corrupt(&self.path(), position + bytes.len() as u64, "the file is shorter than it was"));
        }
        Ok(bytes)
    }
}

/// Cuts batches out of a window that lies at `position` of the file.
fn slice(mut window: Bytes, part: Range<usize>, position: u64, next: Offset) -> Slice {
    window.truncate(part.end);
    window.advance(part.start);
    Slice { bytes: window, position: position + part.start as u64, next }
}

/// The result of a walk over bytes of a segment.
enum Step {
    Found {
        start: usize,
        end: usize,
        next: Offset,
    },
    /// The batch at or after the offset reaches past the limit.
    PastLimit,
    /// All batches lie before the offset. The walk continues at the end of the last one, which has this size.
    Passed(usize),
    /// The header at `at` claims offsets of the batches before it. The batches up to `end` are certain all the same.
    Contradicted {
        start: usize,
        end: usize,
        next: Offset,
        at: usize,
    },
    /// The walk needs this many bytes to continue.
    More(usize),
    /// No batch holds the requested offset, unless the batch of this position and size understates its offsets.
    Doubt(u64, usize),
}

/// A walk from batch to batch. Their offsets must grow and lie in `bounds`. The checksum does not cover them, so
/// without this check a batch with wrong offsets would be skipped silently.
struct BatchCursor {
    /// The position of the next bytes.
    position: u64,
    /// The batch that ends there, and its position.
    passed: Option<(u64, Extent)>,
    bounds: Range<Offset>,
    from: Offset,
    limit: Offset,
    /// Whether the batch before the gap that contains `from` is known to be sound.
    is_certain: bool,
}

impl BatchCursor {
    /// Starts a walk at a batch, to the one that holds `from`, or the first after it. No batch may reach past `limit`.
    fn new(position: u64, bounds: Range<Offset>, from: Offset, limit: Offset) -> BatchCursor {
        BatchCursor { position, passed: None, bounds, from, limit, is_certain: false }
    }

    /// Records that the batch in doubt is sound.
    fn dispel(&mut self) {
        self.is_certain = true;
    }

    /// Finds the batches to return, one or more within `max_bytes`, in bytes from its position on. `left` is the number
    /// of bytes up to the end of the segment.
    ///
    /// The walk also checks the header behind these batches. If that header claims an offset of theirs, either side may
    /// be damaged. So a batch counts only if it continues exactly where the one before it ended.
    fn walk(&mut self, bytes: &[u8], max_bytes: usize, left: usize) -> std::result::Result<Step, (usize, FormatError)> {
        let (mut at, mut floor, mut passed) = self.pass(bytes);
        let mut follows = passed.is_some() || self.position == 0;
        let mut found: Option<(usize, Offset)> = None;
        // The part of it that is certain, whatever follows.
        let mut sure: Option<(usize, Offset)> = None;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let whole = |otherwise| found.map_or(otherwise, |(start, next)| Ok(Step::Found { start, end: at, next }));
            if rest.len() < BATCH_HEADER_LEN {
                if found.is_some() {
                    break;
                }
                return Ok(Step::More(at + BATCH_HEADER_LEN));
            }
            let header = match BatchHeader::parse(rest) {
                Ok(header) if header.next_offset() <= self.bounds.end => header,
                Ok(_) => return whole(Err((at, FormatError::BadOffset))),
                Err(why) => return whole(Err((at, why))),
            };
            if header.base_offset < floor {
                let (Some((start, _)), Some((end, next))) = (found, sure) else {
                    return Err((at, FormatError::BadOffset));
                };
                return Ok(Step::Contradicted { start, end, next, at });
            }
            let goes_on = follows && header.base_offset == floor;
            (floor, follows) = (header.next_offset(), true);
            if let Some((position, before)) = passed.take()
                && !self.is_certain
                && before.next_offset < self.from
                && self.from < header.base_offset
            {
                return Ok(Step::Doubt(position, before.size));
            }
            if header.next_offset() > self.limit {
                return whole(Ok(Step::PastLimit));
            }
            let end = at + header.size;
            if rest.len() < header.size {
                let with_next = end + BATCH_HEADER_LEN;
                return whole(Ok(Step::More(if with_next <= left { with_next } else { end })));
            }
            let start = found.map_or(at, |(start, _)| start);
            if found.is_some() && end - start > max_bytes {
                return whole(Ok(Step::PastLimit));
            }
            sure = if goes_on { Some((end, floor)) } else { found.map(|(_, next)| (at, next)) };
            found = Some((start, floor));
            at = end;
        }
        if let Some((start, next)) = found {
            let more = at + BATCH_HEADER_LEN;
            return Ok(if more <= left { Step::More(more) } else { Step::Found { start, end: at, next } });
        }
        (self.position, self.bounds.start, self.passed) = (self.position + at as u64, floor, passed);
        Ok(Step::Passed(passed.map_or(0, |(_, before)| before.size)))
    }

    /// Passes the batches that lie before the offset. Returns the position where this stops, the lowest offset that may
    /// lie there, and the last batch passed. It stops at the wanted batch, at bytes that are no batch, or at the end.
    #[inline]
    fn pass(&self, bytes: &[u8]) -> (usize, Offset, Option<(u64, Extent)>) {
        let (mut at, mut floor, mut passed) = (0, self.bounds.start, self.passed);
        let to = self.from.min(self.bounds.end);
        while let Some(extent) = bytes.get(at..).and_then(Extent::parse)
            && extent.base_offset >= floor
            && extent.next_offset <= to
        {
            floor = extent.next_offset;
            passed = Some((self.position + at as u64, extent));
            at += extent.size;
        }
        (at, floor, passed)
    }
}
