//! Finds what a fetch returns in bytes that begin at a batch.

use std::ops::Range;

use crate::format::{BATCH_HEADER_LEN, BatchHeader, Extent, FormatError};
use crate::offset::Offset;

/// What a walk over bytes of a segment found.
pub(super) enum Walk {
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
pub(super) struct Walker {
    /// Where the next bytes are to come from.
    pub(super) position: u64,
    /// The batch that ends there, and its position.
    passed: Option<(u64, Extent)>,
    bounds: Range<Offset>,
    from: Offset,
    limit: Offset,
    /// Whether the batch before a gap that has `from` is known to be sound.
    is_certain: bool,
}

impl Walker {
    /// A walk from a batch on to the one that holds `from`, or the first after it; none that reaches past `limit`.
    pub(super) fn new(position: u64, bounds: Range<Offset>, from: Offset, limit: Offset) -> Walker {
        Walker { position, passed: None, bounds, from, limit, is_certain: false }
    }

    /// The batch in doubt is sound.
    pub(super) fn dispel(&mut self) {
        self.is_certain = true;
    }

    /// Finds the batches to return, one or more of `max_bytes`, in bytes from its position on; `left` is how many there
    /// are up to the end.
    ///
    /// The header behind them is looked at as well: where it claims an offset of theirs, either may be the damaged one,
    /// and a batch that does not go on where the one before it ended is not believed.
    pub(super) fn walk(&mut self, bytes: &[u8], max_bytes: usize, left: usize) -> Result<Walk, (usize, FormatError)> {
        let (mut at, mut floor, mut passed) = self.pass(bytes);
        let mut follows = passed.is_some() || self.position == 0;
        let mut found: Option<(usize, Offset)> = None;
        // What of it is sure, whatever follows.
        let mut sure: Option<(usize, Offset)> = None;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let whole = |otherwise| found.map_or(otherwise, |(start, next)| Ok(Walk::Found { start, end: at, next }));
            if rest.len() < BATCH_HEADER_LEN {
                if found.is_some() {
                    break;
                }
                return Ok(Walk::More(at + BATCH_HEADER_LEN));
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
                return Ok(Walk::Contradicted { start, end, next, at });
            }
            let goes_on = follows && header.base_offset == floor;
            (floor, follows) = (header.next_offset(), true);
            if let Some((position, before)) = passed.take()
                && !self.is_certain
                && before.next_offset < self.from
                && self.from < header.base_offset
            {
                return Ok(Walk::Doubt(position, before.size));
            }
            if header.next_offset() > self.limit {
                return whole(Ok(Walk::PastLimit));
            }
            let end = at + header.size;
            if rest.len() < header.size {
                let with_next = end + BATCH_HEADER_LEN;
                return whole(Ok(Walk::More(if with_next <= left { with_next } else { end })));
            }
            let start = found.map_or(at, |(start, _)| start);
            if found.is_some() && end - start > max_bytes {
                return whole(Ok(Walk::PastLimit));
            }
            sure = if goes_on { Some((end, floor)) } else { found.map(|(_, next)| (at, next)) };
            found = Some((start, floor));
            at = end;
        }
        if let Some((start, next)) = found {
            let more = at + BATCH_HEADER_LEN;
            return Ok(if more <= left { Walk::More(more) } else { Walk::Found { start, end: at, next } });
        }
        (self.position, self.bounds.start, self.passed) = (self.position + at as u64, floor, passed);
        Ok(Walk::Passed(passed.map_or(0, |(_, before)| before.size)))
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
