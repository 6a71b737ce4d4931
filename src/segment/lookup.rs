//! Finds what a fetch returns in bytes that begin at a batch.

use std::ops::Range;

use crate::format::{BATCH_HEADER_LEN, BatchHeader, FormatError};
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
    passed: Option<(u64, BatchHeader)>,
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

    /// Finds the batches to return, one or more of `max_bytes`, in bytes from its position on.
    pub(super) fn walk(&mut self, bytes: &[u8], max_bytes: usize) -> Result<Walk, (usize, FormatError)> {
        let mut at = 0;
        let mut found: Option<(usize, Offset)> = None;
        let (mut floor, mut passed) = (self.bounds.start, self.passed);
        while at < bytes.len() {
            let rest = &bytes[at..];
            let whole = |otherwise| Ok(found.map_or(otherwise, |(start, next)| Walk::Found { start, end: at, next }));
            if rest.len() < BATCH_HEADER_LEN {
                return whole(Walk::More(at + BATCH_HEADER_LEN));
            }
            let header = BatchHeader::parse(rest).map_err(|why| (at, why))?;
            if header.base_offset < floor || header.next_offset() > self.bounds.end {
                return Err((at, FormatError::BadOffset));
            }
            floor = header.next_offset();
            if found.is_none() && header.last_offset() < self.from {
                passed = Some((self.position + at as u64, header));
                at += header.size;
                continue;
            }
            if let Some((position, before)) = passed.take()
                && !self.is_certain
                && before.next_offset() < self.from
                && self.from < header.base_offset
            {
                return Ok(Walk::Doubt(position, before.size));
            }
            if header.next_offset() > self.limit {
                return whole(Walk::PastLimit);
            }
            if rest.len() < header.size {
                return whole(Walk::More(at + header.size));
            }
            let start = found.map_or(at, |(start, _)| start);
            if found.is_some() && at + header.size - start > max_bytes {
                return whole(Walk::PastLimit);
            }
            found = Some((start, header.next_offset()));
            at += header.size;
            if at - start >= max_bytes {
                break;
            }
        }
        if let Some((start, next)) = found {
            return Ok(Walk::Found { start, end: at, next });
        }
        (self.position, self.bounds.start, self.passed) = (self.position + at as u64, floor, passed);
        Ok(Walk::Passed(passed.map_or(0, |(_, header)| header.size)))
    }
}

/// Has the processor load bytes, all at once: a walk that meets them one header after the other waits for each.
pub(super) fn load(bytes: &[u8]) {
    let lines = bytes.iter().step_by(64);
    std::hint::black_box(lines.fold(0, |sum, byte| sum ^ byte));
}
