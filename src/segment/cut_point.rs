//! Finds where a segment is to be truncated.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::error::Result;
use crate::format::{FormatError, Scratch, ends_transaction};
use crate::offset::Offset;
use crate::storage::File;

use super::scan::Check;
use super::walk::{Stop, walk_up_to};

/// Where a segment is to be truncated.
#[derive(Debug)]
pub(crate) struct CutPoint {
    /// One past the last offset of the last batch that stays.
    pub(crate) end: Offset,
    /// Where that batch ends in the file.
    pub(crate) position: u64,
    /// The lowest offset, at or above the requested one, that no batch holds.
    pub(crate) above: Offset,
    /// Producers with a transaction marker in the part that stays.
    pub(crate) ended: BTreeSet<i64>,
    /// Whether the file already ends there.
    pub(crate) whole: bool,
    /// The damage below the requested offset, if any. It lies at `position`.
    pub(crate) damage: Option<Cow<'static, str>>,
}

/// Finds the last batch of a segment that lies wholly below `to`. Checks each batch that begins below `to`, so that a
/// batch behind damage is not mistaken for a missing one. Batches above may be damaged. `end` is the end of the
/// segment. It is `None` if that is unknown; `to` must then be the end of a batch.
pub(crate) fn cut_point(file: &dyn File, base: Offset, len: u64, end: Option<Offset>, to: Offset) -> Result<CutPoint> {
    let mut cut = CutPoint { end: base, position: 0, above: to, ended: BTreeSet::new(), whole: false, damage: None };
    let mut scratch = Scratch::default();
    let offsets = base..end.unwrap_or(Offset::MAX);
    let walk = walk_up_to(file, offsets, (0, len), base, to, Check::Crc, |found| {
        let header = found.batch.header();
        if header.next_offset() > to {
            cut.above = header.next_offset();
            return Ok(());
        }
        (cut.end, cut.position) = (header.next_offset(), found.position + header.size as u64);
        if found.batch.control(&mut scratch).ok().flatten().is_some_and(ends_transaction) {
            cut.ended.insert(header.producer_id);
        }
        Ok(())
    })?;
    cut.whole = cut.position == len;
    if walk.end < end.unwrap_or(to).min(to) {
        cut.damage = match (&walk.stop, end) {
            (Stop::End, Some(end)) => Some(format!("the batches end at {}, the segment at {end}", walk.end).into()),
            (Stop::Reached, None) => Some(FormatError::BadOffset.to_string().into()),
            _ => walk.fault(),
        };
    }
    Ok(cut)
}
