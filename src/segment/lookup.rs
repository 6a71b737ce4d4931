//! Finds what a fetch returns in bytes that begin at a batch.

use std::ops::Range;

use crate::format::{BATCH_HEADER_LEN, BatchHeader, BatchView, FormatError};
use crate::offset::Offset;

/// What a walk over buffered bytes found.
pub(super) enum Walk {
    Found {
        start: usize,
        end: usize,
        next: Offset,
    },
    /// The batch at or after the offset reaches past the limit.
    PastLimit,
    /// All batches lie before the offset, and the bytes end with the last one.
    End,
    /// So many bytes are needed to go on.
    More(usize),
}

/// Has the processor load bytes, all at once: a walk that meets them one header after the other waits for each.
pub(super) fn load(bytes: &[u8]) {
    let lines = bytes.iter().step_by(64);
    std::hint::black_box(lines.fold(0, |sum, byte| sum ^ byte));
}

/// Finds the batches to return in bytes that begin at a batch. Their offsets must grow and lie in `bounds`: the
/// checksum does not cover them, and a batch that is somewhere else would be skipped without a word.
pub(super) fn walk(
    bytes: &[u8],
    bounds: Range<Offset>,
    from: Offset,
    limit: Offset,
    max_bytes: usize,
) -> std::result::Result<Walk, (usize, FormatError)> {
    let mut at = 0;
    let mut found: Option<(usize, Offset)> = None;
    let (mut floor, mut passed) = (bounds.start, None);
    let whole = |found: Option<(usize, Offset)>, end, otherwise| {
        Ok(found.map_or(otherwise, |(start, next)| Walk::Found { start, end, next }))
    };
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.len() < BATCH_HEADER_LEN {
            return whole(found, at, Walk::More(at + BATCH_HEADER_LEN));
        }
        let header = BatchHeader::parse(rest).map_err(|why| (at, why))?;
        if header.base_offset < floor || header.next_offset() > bounds.end {
            return Err((at, FormatError::BadOffset));
        }
        floor = header.next_offset();
        if found.is_none() && header.last_offset() < from {
            passed = Some((at, header));
            at += header.size;
            continue;
        }
        let is_missed = |passed: &BatchHeader| passed.next_offset() < from && from < header.base_offset;
        if let Some((at, passed)) = passed.take().filter(|(_, passed)| is_missed(passed)) {
            // What is asked for is in neither. Perhaps the one before says too little of itself, and has it.
            let batch = bytes.get(at..at + passed.size).unwrap_or_default();
            BatchView::parse(batch).and_then(|batch| batch.check_crc()).map_err(|why| (at, why))?;
        }
        if header.next_offset() > limit {
            return whole(found, at, Walk::PastLimit);
        }
        if rest.len() < header.size {
            return whole(found, at, Walk::More(at + header.size));
        }
        let start = found.map_or(at, |(start, _)| start);
        if found.is_some() && at + header.size - start > max_bytes {
            break;
        }
        found = Some((start, header.next_offset()));
        at += header.size;
        if at - start >= max_bytes {
            break;
        }
    }
    // The last one passed may reach beyond the bytes, and be the last of all.
    let otherwise = if at == bytes.len() { Walk::End } else { Walk::More(at) };
    whole(found, at, otherwise)
}
