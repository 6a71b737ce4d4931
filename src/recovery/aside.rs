//! Puts files aside that block an open: the output of a compaction that holds nothing, and what a salvage skips.

use std::io;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Pending;
use crate::format::file_name::{self, SegmentFileKind, Suffix, segment_file};
use crate::offset::Offset;
use crate::partition::redo::{self, Holders};
use crate::partition::state_file::Found as FoundState;
use crate::segment::PartitionDir;
use crate::segment::listing::Files;
use crate::storage::small_file;

use super::opening::Opening;
use super::plan::Refusal;

impl Opening {
    /// Renames a `.log` so that it no longer counts. Removes its other files, which are caches.
    pub(super) fn put_aside(&mut self, base: Offset, suffix: Suffix) -> Result<()> {
        let dir = &self.request.dir;
        let from = dir.segment_path(base, SegmentFileKind::Log, suffix);
        let (name, to) = unused_broken_name(dir, base)?;
        dir.storage.rename(&from, &to).map_err(|e| Error::io(e, &from))?;
        for kind in SegmentFileKind::ALL.into_iter().filter(|kind| *kind != SegmentFileKind::Log) {
            small_file::remove(&*dir.storage, &dir.segment_path(base, kind, suffix))?;
        }
        self.report.put_aside.push(name);
        dir.sync_dir()
    }

    /// Skips damage, because the caller asked for it: puts aside the files that block the open.
    pub(super) fn salvage(&mut self, files: &Files, refusal: Refusal) -> Result<()> {
        let error = self.refused(refusal.clone());
        let from = match refusal {
            Refusal::BrokenSwap(base) => return self.put_aside(base, Suffix::Swap),
            Refusal::Missing(range) | Refusal::Overlap(range) => range.start,
        };
        self.salvaged = true;
        let known = self.store().get();
        let last_below = files.logs.iter().rev().find(|log| log.base < from && log.end > log.base);
        match (last_below, files.logs.first()) {
            (Some(last), Some(first)) => {
                let in_the_way = files.logs.iter().rev().filter(|log| log.base > last.base);
                in_the_way.map(|log| log.base).try_for_each(|base| self.put_aside(base, Suffix::None))?;
                self.rewrite_ends(known.log_start.max(first.base), last.base, last.end)
            }
            // The first segment holds nothing. The segments behind it stay.
            (None, Some(first)) if first.base <= from => self.put_aside(first.base, Suffix::None),
            (None, Some(first)) => {
                let last = files.logs.last().unwrap_or(first);
                self.rewrite_ends(known.log_start.max(first.base), last.base, last.end)
            }
            (_, None) if self.request.adopt => Err(error),
            (_, None) => self.begin_anew(known.log_start.max(known.durable_end)),
        }
    }

    /// Restarts the log, of which nothing is left, at its last known end.
    fn begin_anew(&mut self, at: Offset) -> Result<()> {
        let reset = Pending::Reset(at);
        self.store().update(|state| state.pending = reset)?;
        redo::redo(&self.request.dir, self.store(), reset, Holders::Nobody)?;
        self.state = FoundState::Good(self.store().get());
        Ok(())
    }

    /// Updates `state` to what is left after a salvage.
    pub(super) fn rewrite_ends(&mut self, log_start: Offset, active_base: Offset, end: Offset) -> Result<()> {
        if self.request.adopt {
            return Ok(());
        }
        self.store().update(|state| {
            state.log_start = log_start;
            state.active_base = active_base;
            state.durable_end = state.durable_end.min(end);
            state.durable_position = 0;
            state.pending = Pending::None;
        })?;
        self.state = FoundState::Good(self.store().get());
        Ok(())
    }

    pub(super) fn refused(&self, refusal: Refusal) -> Error {
        let dir = &self.request.dir.path;
        match refusal {
            Refusal::Missing(range) => Error::from(ErrorKind::MissingSegment(range)).at_path(dir),
            Refusal::Overlap(range) => Error::from(ErrorKind::Overlap(range)).at_path(dir),
            Refusal::BrokenSwap(base) => {
                let path = self.request.dir.segment_path(base, SegmentFileKind::Log, Suffix::Swap);
                Error::corrupt(
                    &path,
                    0,
                    "a committed compaction whose output cannot be read, or does not hold what it replaces",
                )
            }
        }
    }
}

/// Returns a name for bytes that are put aside. No file has that name yet.
pub(super) fn unused_broken_name(dir: &PartitionDir, base: Offset) -> Result<(String, PathBuf)> {
    let plain = segment_file(base, SegmentFileKind::Log, Suffix::Broken);
    let numbered = (1..).map(|n| file_name::numbered_segment_file(base, SegmentFileKind::Log, Suffix::Broken, n));
    for name in std::iter::once(plain).chain(numbered) {
        let path = dir.file_path(&name);
        match dir.storage.info(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((name, path)),
            Err(e) => return Err(Error::io(e, &path)),
            Ok(_) => {}
        }
    }
    unreachable!("there are more numbers than files")
}
