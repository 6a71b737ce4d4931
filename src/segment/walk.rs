//! Walks the batches of a segment that may not be whole.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_LEN, BatchHeader, BatchView, FormatError};
use crate::offset::Offset;
use crate::storage::File;

use super::scan::{Check, Found, OFFSETS_MAX, Scan, ScanError, zeros_follow};

/// Reserved space, or a batch that the medium has lost.
const ZEROS: &str = "zeros where batches should be";

/// How a walk over a segment ended.
#[derive(Debug)]
pub(crate) struct Walk {
    /// One past the last offset of the last good batch.
    pub(crate) end: Offset,
    /// Where the last good batch ends.
    pub(crate) position: u64,
    /// Where that batch begins, if there is one.
    pub(crate) last: Option<u64>,
    pub(crate) stop: Stop,
}

impl Walk {
    /// Describes the fault after the last good batch, at `position`. Returns `None` if nothing follows, or only batches
    /// do.
    pub(crate) fn fault(&self) -> Option<Cow<'static, str>> {
        match &self.stop {
            Stop::Bad(why) => Some(why.to_string().into()),
            Stop::Zeros => Some(ZEROS.into()),
            Stop::End | Stop::Reached => None,
        }
    }
}

/// What follows the last good batch.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nothing.
    End,
    /// Batches at or above the offset where the walk was to stop.
    Reached,
    /// Zeros, to the end of the file: reserved space.
    Zeros,
    /// Something else.
    Bad(FormatError),
}

/// Walks the batches of `[from, len)` of a segment's file. Their offsets must grow and must not lie below its base.
pub(crate) fn walk(
    file: &dyn File,
    base: Offset,
    range: (u64, u64),
    start_end: Offset,
    check: Check,
    each: impl FnMut(Found<'_>) -> Result<()>,
) -> Result<Walk> {
    walk_up_to(file, base..Offset::MAX, range, start_end, Offset::MAX, check, each)
}

/// The same, up to the first batch at or above `to`. The batches must lie within `offsets`. Only the header of that
/// first batch is checked, and the batches behind it are not read, because they may be damaged.
pub(crate) fn walk_up_to(
    file: &dyn File,
    offsets: Range<Offset>,
    range: (u64, u64),
    start_end: Offset,
    to: Offset,
    check: Check,
    mut each: impl FnMut(Found<'_>) -> Result<()>,
) -> Result<Walk> {
    let mut walk = Walk { end: start_end.max(offsets.start), position: range.0, last: None, stop: Stop::End };
    // The checksum is checked below, because the checksum of the batch that ends the walk does not matter.
    let mut scan = Scan::new(file, range.0, range.1, Check::Header);
    let bad = loop {
        if walk.end >= to {
            walk.stop = Stop::Reached;
            return Ok(walk);
        }
        let found = match scan.next() {
            Ok(None) => return Ok(walk),
            Ok(Some(found)) => found,
            Err(ScanError::Bad { why, .. }) => break why,
            Err(ScanError::Io(e)) => return Err(Error::io(e, std::path::Path::new(""))),
        };
        let header = found.batch.header();
        let is_reached = header.base_offset >= to;
        if check == Check::Crc
            && !is_reached
            && let Err(why) = found.batch.check_crc()
        {
            break why;
        }
        if !is_in_order(&walk, &offsets, header) || is_astray(file, &walk, &found, range.1)? {
            break FormatError::BadOffset;
        }
        if is_reached {
            walk.stop = Stop::Reached;
            return Ok(walk);
        }
        walk.end = header.next_offset();
        walk.last = Some(found.position);
        walk.position = found.position + header.size as u64;
        each(found)?;
    };
    let zeros = zeros_follow(file, walk.position, range.1).map_err(|e| Error::io(e, std::path::Path::new("")))?;
    walk.stop = if zeros { Stop::Zeros } else { Stop::Bad(bad) };
    Ok(walk)
}

fn is_in_order(walk: &Walk, offsets: &Range<Offset>, header: &BatchHeader) -> bool {
    header.base_offset >= walk.end
        && header.next_offset() <= offsets.end
        && header.last_offset().since(offsets.start) <= OFFSETS_MAX
}

/// Whether a batch has a wrong base offset: offsets are missing before it, and its offsets overlap the batch behind it.
/// The checksum does not cover the base offset. Of the two, this batch is the wrong one, since the other continues what
/// came before.
fn is_astray(file: &dyn File, walk: &Walk, found: &Found<'_>, end: u64) -> Result<bool> {
    let header = found.batch.header();
    let behind = found.position + header.size as u64;
    if header.base_offset == walk.end || end - behind < BATCH_HEADER_LEN as u64 {
        return Ok(false);
    }
    let mut bytes = [0; BATCH_HEADER_LEN];
    file.read_at(&mut bytes, behind).map_err(|e| Error::io(e, std::path::Path::new("")))?;
    let next = BatchHeader::parse(&bytes);
    Ok(next.is_ok_and(|next| (walk.end..header.next_offset()).contains(&next.base_offset)))
}

/// Whether a whole, valid batch lies anywhere in `[from, len)`, that is, data behind damage and not just garbage. The
/// work is bounded: bytes crafted as overlapping batches soon count as data.
pub(crate) fn valid_batch_follows(file: &dyn File, from: u64, len: u64) -> Result<bool> {
    let mut bytes = vec![0; (len - from).min(64 << 20) as usize];
    let read = file.read_at(&mut bytes, from).map_err(|e| Error::io(e, std::path::Path::new("")))?;
    bytes.truncate(read);
    let mut left = 16 * bytes.len();
    for at in 1..bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        // The magic is checked first, because nearly every position fails there.
        let Some(batch) = (rest.get(16) == Some(&2)).then(|| BatchView::parse(rest).ok()).flatten() else { continue };
        left = left.saturating_sub(batch.header().size);
        if left == 0 || batch.check_crc().is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}
