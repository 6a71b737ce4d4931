//! What is in the way is put aside: the output of a compaction that holds nothing, and what a salvage goes past.

use std::io;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Pending;
use crate::format::file_name::{self, SegmentFileKind, Suffix, segment_file};
use crate::offset::Offset;
use crate::segment::Place;
use crate::state::Found as FoundState;
use crate::storage::files;
use crate::survey::Files;

use super::Opening;
use super::plan::Refusal;

impl Opening {
    /// Renames a `.log` out of the way; its indexes go, they are caches.
    pub(super) fn put_aside(&mut self, base: Offset, suffix: Suffix) -> Result<()> {
        let place = &self.request.place;
        let from = place.segment_path(base, SegmentFileKind::Log, suffix);
        let (name, to) = unused_broken_name(place, base)?;
        place.storage.rename(&from, &to).map_err(|e| Error::io(e, &from))?;
        for kind in SegmentFileKind::ALL.into_iter().filter(|kind| *kind != SegmentFileKind::Log) {
            files::remove(&*place.storage, &place.segment_path(base, kind, suffix))?;
        }
        self.report.put_aside.push(name);
        place.sync_dir()
    }

    /// Goes on past damage, because the caller asked for it: what is in the way is put aside.
    pub(super) fn salvage(&mut self, files: &Files, refusal: Refusal) -> Result<()> {
        let error = self.refused(refusal.clone());
        let from = match refusal {
            Refusal::BrokenSwap(base) => return self.put_aside(base, Suffix::Swap),
            Refusal::Missing(range) | Refusal::Overlap(range) => range.start,
        };
        self.salvaged = true;
        let in_the_way: Vec<Offset> = files.logs.iter().map(|log| log.base).filter(|base| *base >= from).collect();
        let head_is_missing = files.logs.first().is_none_or(|first| first.base > from);
        if head_is_missing || in_the_way.is_empty() {
            let start = files.logs.first().map_or(from, |first| first.base);
            let end = files.logs.last().map_or(start, |last| last.end);
            let base = files.logs.last().map_or(start, |last| last.base);
            self.rewrite_ends(start.max(self.store().get().log_start), base, end)?;
            if files.logs.is_empty() {
                return Err(error);
            }
            return Ok(());
        }
        in_the_way.iter().rev().try_for_each(|base| self.put_aside(*base, Suffix::None))?;
        let Some(last) = files.logs.iter().rev().find(|log| log.base < from) else { return Err(error) };
        self.rewrite_ends(self.store().get().log_start, last.base, last.end)
    }

    /// Has `state` tell of what is left after a salvage.
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
        let dir = &self.request.place.dir;
        match refusal {
            Refusal::Missing(range) => Error::from(ErrorKind::MissingSegment(range)).at_path(dir),
            Refusal::Overlap(range) => Error::from(ErrorKind::Overlap(range)).at_path(dir),
            Refusal::BrokenSwap(base) => {
                let path = self.request.place.segment_path(base, SegmentFileKind::Log, Suffix::Swap);
                Error::corrupt(
                    &path,
                    0,
                    "a committed compaction whose output cannot be read, or does not hold what it replaces",
                )
            }
        }
    }
}

/// A name for bytes that are put aside, which no file has.
pub(super) fn unused_broken_name(place: &Place, base: Offset) -> Result<(String, PathBuf)> {
    let plain = segment_file(base, SegmentFileKind::Log, Suffix::Broken);
    let numbered = (1..).map(|n| file_name::numbered_segment_file(base, SegmentFileKind::Log, Suffix::Broken, n));
    for name in std::iter::once(plain).chain(numbered) {
        let path = place.path(&name);
        match place.storage.info(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((name, path)),
            Err(e) => return Err(Error::io(e, &path)),
            Ok(_) => {}
        }
    }
    unreachable!("there are more numbers than files")
}
