//! Checks whether a batch ends at a given position of a segment's file. The position was recorded earlier, and the file
//! may have been changed since.

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::OffsetIndexEntry;
use crate::format::file_name::{SegmentFileKind, Suffix, segment_file};
use crate::offset::Offset;
use crate::storage::{File, OpenMode, Storage};

use super::scan::{Check, Scan, ScanError, zeros_follow};

/// The number of last index entries that are read at once. The wanted positions lie close to the end.
const ENTRIES_READ: u64 = 512;

/// The finding at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Boundary {
    /// A batch ends there, at the expected offset.
    Confirmed,
    /// No batch ends there, and the batches are sound: the position was recorded for another file.
    Elsewhere,
    /// The bytes at this position are no batch, or a batch at an unexpected offset, and the batches before it do not
    /// reach the expected offset.
    Damage(u64),
}

/// A segment's file to be checked.
#[derive(Clone, Copy)]
pub(crate) struct Looked<'a> {
    pub(crate) storage: &'a dyn Storage,
    /// The partition's directory.
    pub(crate) dir: &'a Path,
    pub(crate) file: &'a dyn File,
    pub(crate) base: Offset,
    pub(crate) len: u64,
}

impl Looked<'_> {
    /// Checks whether a batch ends at `position` whose last offset lies right before `end`. The walk begins at the last
    /// index entry before the position, or at the start of the file if that entry leads astray.
    pub(crate) fn boundary(&self, position: u64, end: Offset) -> Result<Boundary> {
        if let Some(hint) = self.index_hint(position)
            && self.walk(hint, position, end)? == Boundary::Confirmed
        {
            return Ok(Boundary::Confirmed);
        }
        self.walk(0, position, end)
    }

    fn walk(&self, from: u64, position: u64, end: Offset) -> Result<Boundary> {
        let io = |e| Error::io(e, Path::new(""));
        let mut scan = Scan::new(self.file, from, self.len, Check::Header);
        let mut next = self.base;
        let bad = loop {
            match scan.next() {
                // A walk from a hint only needs the batches before the position.
                Ok(Some(found)) if from > 0 && found.position >= position => return Ok(Boundary::Elsewhere),
                // Either the start of this batch or the end of the one before it is damaged: the checksum covers
                // neither.
                Ok(Some(found)) if found.batch.header().base_offset < next => {
                    return Ok(Boundary::Damage(found.position));
                }
                Ok(Some(found)) => {
                    let header = found.batch.header();
                    next = header.next_offset();
                    if found.position + header.size as u64 == position {
                        return Ok(if next == end { Boundary::Confirmed } else { Boundary::Damage(found.position) });
                    }
                }
                Ok(None) => return Ok(Boundary::Elsewhere),
                Err(ScanError::Bad { position, .. }) => break position,
                Err(ScanError::Io(e)) => return Err(io(e)),
            }
        };
        let sound = next >= end || zeros_follow(self.file, bad, self.len).map_err(io)?;
        Ok(if sound { Boundary::Elsewhere } else { Boundary::Damage(bad) })
    }

    /// The position of the last batch below `limit` that the stored index contains, if any.
    pub(crate) fn index_hint(&self, limit: u64) -> Option<u64> {
        let path = self.dir.join(segment_file(self.base, SegmentFileKind::OffsetIndex, Suffix::None));
        let index = self.storage.open(&path, OpenMode::Read).ok()?;
        let entry_len = OffsetIndexEntry::LEN as u64;
        let entries = index.info().ok()?.len / entry_len;
        let first = entries.saturating_sub(ENTRIES_READ);
        let mut bytes = vec![0; ((entries - first) * entry_len) as usize];
        let read = index.read_at(&mut bytes, first * entry_len).ok()?;
        let entries = bytes.get(..read)?.chunks_exact(OffsetIndexEntry::LEN).filter_map(OffsetIndexEntry::decode);
        let below = |entry: &OffsetIndexEntry| (1..limit).contains(&u64::from(entry.position));
        let entry = entries.rev().find(below)?;
        let position = u64::from(entry.position);
        let mut scan = Scan::new(self.file, position, self.len, Check::Crc);
        let offset = self.base + u64::from(entry.offset);
        let found = scan.next().ok()??;
        (self.base..=offset).contains(&found.batch.header().base_offset).then_some(position)
    }
}

#[cfg(test)]
mod tests;
