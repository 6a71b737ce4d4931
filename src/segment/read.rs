//! Reading whole batches of a segment: a lookup in the index, a walk from there, and the bytes.

use std::io;
use std::ops::Range;

use bytes::{Buf, Bytes};

use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_LEN, BatchHeader, BatchView, Extent, FormatError};
use crate::offset::Offset;

use super::Segment;
use super::open_file::OpenData;

/// About how far apart index entries lie: a lookup walks through so much.
const INTERVAL: u64 = 4096;
/// What it reads beyond that, and beyond what it was asked for: no batch is cut off for a few bytes.
const SLACK: u64 = 512;
/// So much of a large batch is fetched before it is looked at.
const FETCH_MAX: u64 = 16 << 10;
/// Entries that lie farther apart than this are most likely those of two batches one behind the other.
const LARGE: u64 = INTERVAL * 3 / 2;

/// Whole batches of one segment.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) bytes: Bytes,
    /// Where they lie in the file.
    pub(crate) position: u64,
    /// One past the last offset of the last batch.
    pub(crate) next: Offset,
}

impl Segment {
    /// Whole batches from the one that holds `from`, or the first after it, on: as many as fit `max_bytes`, but one in
    /// any case where `at_least_one`; none that reaches past `limit`.
    pub(crate) fn slice(
        &self,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Option<Slice>> {
        let data = self.open()?;
        // The active one may have grown beyond an end that is read before its length.
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
                // Whoever goes on from there comes to the same contradiction, and not to what lies behind it.
                Ok(Step::Contradicted { start, end, next, at })
                    if self.start_near(&data, next, readable)? < position + at as u64 =>
                {
                    return Ok(Some(slice(window, start..end, position, next)));
                }
                Ok(Step::Found { start, end, next }) => {
                    return Ok(Some(slice(window, start..end, position, next)));
                }
                Ok(Step::PastLimit) => return Ok(None),
                // In growing steps: the index may have few entries. Batches are alike.
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
                // An index that leads astray is rebuilt; what is then still no batch is damage.
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

    /// Where a walk to the batch that holds `from`, or the first after it, begins.
    fn start_near(&self, data: &OpenData, from: Offset, readable: u64) -> Result<u64> {
        let around = self.around(data, from)?;
        let floor = u64::from(around.floor.position);
        // A position beyond the end cannot be one of a batch; from the first one on all are found.
        if floor > readable {
            return Ok(0);
        }
        let map = data.map.read();
        match around.next.map(|next| u64::from(next.position)) {
            // Large batches have an entry each: the walk goes from the header of this one to the next, which is as long.
            Some(next) if next > floor + LARGE => {
                map.fetch(floor, BATCH_HEADER_LEN as u64);
                map.fetch(next, (next - floor).min(FETCH_MAX));
            }
            _ => map.fetch(floor, around.distance().map_or(INTERVAL, |distance| (distance + SLACK).min(INTERVAL))),
        }
        Ok(floor)
    }

    /// Bytes of the file: a slice of its mapping, or read.
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

/// Batches in a window that lies at a position of the file.
fn slice(mut window: Bytes, part: Range<usize>, position: u64, next: Offset) -> Slice {
    window.truncate(part.end);
    window.advance(part.start);
    Slice { bytes: window, position: position + part.start as u64, next }
}

/// What a walk over bytes of a segment found.
enum Step {
    Found {
        start: usize,
        end: usize,
        next: Offset,
    },
    /// The batch at or after the offset reaches past the limit.
    PastLimit,
    /// All batches lie before the offset: the walk goes on where the last one ends, which has this size.
    Passed(usize),
    /// The header at `at` claims offsets of the batches before it. Up to `end` they are sure all the same.
    Contradicted {
        start: usize,
        end: usize,
        next: Offset,
        at: usize,
    },
    /// So many bytes are needed to go on.
    More(usize),
    /// What is asked for is in no batch, unless the one of this position and size says too little of itself.
    Doubt(u64, usize),
}

/// A walk from batch to batch. Their offsets must grow and lie in `bounds`: the checksum does not cover them, and a batch
/// that is somewhere else would be skipped without a word.
struct BatchCursor {
    /// Where the next bytes are to come from.
    position: u64,
    /// The batch that ends there, and its position.
    passed: Option<(u64, Extent)>,
    bounds: Range<Offset>,
    from: Offset,
    limit: Offset,
    /// Whether the batch before a gap that has `from` is known to be sound.
    is_certain: bool,
}

impl BatchCursor {
    /// A walk from a batch on to the one that holds `from`, or the first after it; none that reaches past `limit`.
    fn new(position: u64, bounds: Range<Offset>, from: Offset, limit: Offset) -> BatchCursor {
        BatchCursor { position, passed: None, bounds, from, limit, is_certain: false }
    }

    /// The batch in doubt is sound.
    fn dispel(&mut self) {
        self.is_certain = true;
    }

    /// Finds the batches to return, one or more of `max_bytes`, in bytes from its position on; `left` is how many there
    /// are up to the end.
    ///
    /// The header behind them is looked at as well: where it claims an offset of theirs, either may be the damaged one,
    /// and a batch that does not go on where the one before it ended is not believed.
    fn walk(&mut self, bytes: &[u8], max_bytes: usize, left: usize) -> std::result::Result<Step, (usize, FormatError)> {
        let (mut at, mut floor, mut passed) = self.pass(bytes);
        let mut follows = passed.is_some() || self.position == 0;
        let mut found: Option<(usize, Offset)> = None;
        // What of it is sure, whatever follows.
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

    /// Goes past the batches that lie before the offset. Returns where that ends: at the one that is looked for, at what
    /// is none, or behind the bytes; the lowest offset that may lie there, and the last batch that was passed.
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
