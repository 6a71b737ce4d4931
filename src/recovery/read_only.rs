//! Opening a partition without writing to it: a damaged partition, or one in a log that is open for reading only.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Pending;
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::offset::Offset;
use crate::partition::core::PartitionCore;
use crate::partition::redo::sound_cut_point;
use crate::partition::state_file::{Found as FoundState, StateFile};
use crate::replay::Replay;
use crate::replay::leader_epochs::LeaderEpochs;
use crate::segment::listing::{self, Ends, Files, LogFile};
use crate::segment::scan::Check;
use crate::segment::walk;
use crate::segment::{PartitionDir, Segment};
use crate::storage::OpenMode;

use super::opening::{Opening, Request, segment};
use super::plan::{Refusal, Seen, Step, plan};
use super::report::PartitionReport;
use super::tail::Tail;

/// A partition, and the report of its opening.
type Opened = Result<(Arc<PartitionCore>, PartitionReport)>;

/// How many times a directory is looked at while its owner keeps changing it.
const LOOKS: u32 = 1000;

/// Opens a partition that its owner may be changing. If the owner has changed something meanwhile, this looks again and
/// does not report damage.
pub(super) fn open(request: &Request, open_as_found: impl Fn(Request) -> Opened) -> Opened {
    // The owner may truncate any of the files, also during the last try below. So every try opens the directory as
    // reading only.
    let beside = || Request { dir: Arc::new(PartitionDir::reading_only(&request.dir)), ..request.clone() };
    for _ in 1..LOOKS {
        let opened = open_as_found(beside());
        let in_doubt = match &opened {
            Ok((core, report)) => report.error.is_some() && core.is_outdated(),
            Err(error) => matches!(error.kind(), ErrorKind::Outdated | ErrorKind::Io(io::ErrorKind::NotFound)),
        };
        let is_there = request.dir.storage.info(&request.dir.path).is_ok();
        if !in_doubt || !is_there {
            return opened;
        }
    }
    open_as_found(beside())
}

impl Opening {
    /// Returns the contents of the directory, together with the `state` that matches them.
    pub(super) fn look_beside(&mut self) -> Result<Files> {
        for _ in 0..LOOKS {
            let names = self.names()?;
            let files = listing::list_partition(&self.request.dir, self.known_state(), self.ends());
            let (state, store) = StateFile::load(&self.request.dir)?;
            if state == self.state && names == self.names()? {
                return files;
            }
            (self.state, self.store) = (state, Some(store));
            self.report.state_lost = !self.request.adopt && !matches!(self.state, FoundState::Good(_));
        }
        Err(Error::from(ErrorKind::Outdated).at_path(&self.request.dir.path))
    }

    fn names(&self) -> Result<Vec<String>> {
        let dir = &self.request.dir;
        let listed = dir.storage.list(&dir.path).map_err(|e| Error::io(e, &dir.path))?;
        let mut names: Vec<String> = listed.into_iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Opens the part below the damage for reading only.
    pub(super) fn degrade(mut self, error: Error) -> Result<(Arc<PartitionCore>, PartitionReport)> {
        let log_start = match self.known_state() {
            Some(state) => state.log_start,
            None => {
                let ours = self.earlier_state().map(|state| state.log_start);
                self.request.kafka.log_start.max(ours).unwrap_or_default()
            }
        };
        let segments = self.readable_prefix(log_start, &error)?;
        let replay = Replay::new(LeaderEpochs::default());
        let tail = Tail { segments, replay, lost_epochs: false, no_room: None };
        let start = tail.segments.first().map_or(log_start, |first| first.base()).max(log_start).min(tail.end());
        let core = self.assemble(tail, start);
        core.refuse(error);
        Ok((core, self.report))
    }

    /// Returns the segments below the damage. The damaged segment ends there.
    pub(super) fn readable_prefix(&self, log_start: Offset, error: &Error) -> Result<Vec<Arc<Segment>>> {
        let dir = &self.request.dir;
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let logs = self.bare_logs()?;
        for (at, log) in logs.iter().enumerate() {
            let path = dir.segment_path(log.base, SegmentFileKind::Log, log.suffix);
            if segments.last().is_some_and(|last| last.end() != log.base) {
                break;
            }
            let file = dir.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
            let damaged = error.path() == Some(path.as_path());
            let len = if damaged { error.position().unwrap_or(0).min(log.len) } else { log.len };
            // A batch that reaches into the next file is misplaced.
            let next = logs.get(at + 1).map_or(Offset::MAX, |next| next.base);
            let mut sound = (log.base, 0);
            let walk = walk::walk(&*file, log.base, (0, len), log.base, Check::Header, |found| {
                let header = found.batch.header();
                if header.next_offset() <= next {
                    sound = (header.next_offset(), found.position + header.size as u64);
                }
                Ok(())
            })?;
            let whole = matches!(walk.stop, walk::Stop::End) && sound.1 == walk.position && !damaged;
            let log = LogFile { end: sound.0, valid: sound.1, ..*log };
            segments.push(segment(dir, &log, None, whole));
            if !whole {
                break;
            }
        }
        match segments.pop() {
            // Nothing can be read. An empty segment stands for the log, so that its offsets can be queried.
            None => segments.push(segment(dir, &LogFile::empty(log_start), None, false)),
            // The last segment is the end of the readable part. It is never written.
            Some(last) => {
                let log = LogFile { known: false, suffix: Suffix::None, ..LogFile::of(&last) };
                segments.push(segment(dir, &log, None, false));
            }
        }
        Ok(segments)
    }

    /// Returns the `.log` files, regardless of their contents.
    pub(super) fn bare_logs(&self) -> Result<Vec<LogFile>> {
        let dir = &self.request.dir;
        let mut logs = Vec::new();
        for entry in dir.storage.list(&dir.path).map_err(|e| Error::io(e, &dir.path))? {
            if let Some(ParsedName::Segment { base, kind: SegmentFileKind::Log, suffix: Suffix::None }) =
                file_name::parse(&entry.name)
            {
                let path = dir.file_path(&entry.name);
                let info = dir.storage.info(&path).map_err(|e| Error::io(e, &path))?;
                logs.push(LogFile { len: info.len, id: info.id, modified: info.modified, ..LogFile::empty(base) });
            }
        }
        logs.sort_by_key(|log| log.base);
        Ok(logs)
    }

    /// Carries out in memory the steps that an open for writing would take on disk.
    pub(super) fn settle_in_memory(&mut self, mut files: Files) -> Result<(Files, Offset, Vec<Range<Offset>>)> {
        self.redo_in_memory(&mut files)?;
        loop {
            let seen = Seen { leftovers: false, ..self.seen(&files) };
            match plan(&seen) {
                Ok(Step::FinishSwap { swap, replaced }) => {
                    files.swaps.retain(|seen| seen.base != swap);
                    files.logs.retain(|log| !replaced.contains(&log.base));
                    // As if they were renamed to `.deleted`: they explain what Kafka's output leaves out at its end.
                    files.deleted.extend(replaced);
                    let path = self.request.dir.segment_path(swap, SegmentFileKind::Log, Suffix::Swap);
                    let info = self.request.dir.storage.info(&path).map_err(|e| Error::io(e, &path))?;
                    let end =
                        seen.swaps.iter().find(|seen| seen.base == swap).and_then(|seen| seen.end).unwrap_or(swap);
                    files.logs.push(LogFile {
                        len: info.len,
                        id: info.id,
                        end,
                        valid: info.len,
                        suffix: Suffix::Swap,
                        ..LogFile::empty(swap)
                    });
                    files.logs.sort_by_key(|log| log.base);
                }
                Ok(Step::DropSwap(base)) => files.swaps.retain(|seen| seen.base != base),
                Ok(Step::RemoveHead(bases)) => files.logs.retain(|log| !bases.contains(&log.base)),
                Ok(Step::Open { log_start, adopted_gaps }) => return Ok((files, log_start, adopted_gaps)),
                Ok(Step::Create(base)) => return Err(self.refused(Refusal::Missing(base..base + 1))),
                Ok(Step::Redo(_) | Step::RemoveLeftovers) => unreachable!("nothing pending, no leftovers"),
                Err(refusal) => return Err(self.refused(refusal)),
            }
        }
    }

    /// Shows the log as it will be once the pending operation of `state` has been done.
    fn redo_in_memory(&mut self, files: &mut Files) -> Result<()> {
        let FoundState::Good(state) = &mut self.state else { return Ok(()) };
        match std::mem::replace(&mut state.pending, Pending::None) {
            _ if self.request.adopt => return Ok(()),
            Pending::None => return Ok(()),
            Pending::Truncate(to) => {
                files.logs.retain(|log| log.base <= to);
                if let Some(last) = files.logs.last_mut() {
                    cut_in_memory(&self.request.dir, last, to, state.durable_end)?;
                    // The whole segment is scanned again: the end of its durable part is no longer known.
                    (state.active_base, state.durable_end) = (last.base, last.base);
                }
            }
            Pending::Reset(to) => {
                files.logs = vec![LogFile::empty(to)];
                (state.log_start, state.active_base, state.durable_end) = (to, to, to);
                state.high_watermark = to;
                state.adopted_gaps.clear();
            }
        }
        state.durable_position = 0;
        listing::find_ends(&self.request.dir, &mut files.logs, Some(state), Ends::Walked)
    }
}

/// Ends a file in memory where a truncation to `to` would end it.
fn cut_in_memory(dir: &PartitionDir, log: &mut LogFile, to: Offset, durable: Offset) -> Result<()> {
    let path = dir.segment_path(log.base, SegmentFileKind::Log, log.suffix);
    let file = dir.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
    let cut = sound_cut_point(&*file, &path, (log.base, log.len), to, durable)?;
    (log.end, log.len, log.valid, log.known) = (cut.end, cut.position, cut.position, false);
    Ok(())
}

#[cfg(test)]
mod tests;
