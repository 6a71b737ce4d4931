//! What is shown of a partition that nothing is written to: one that is damaged, and one in a log that is open for
//! reading only.

use std::ops::Range;
use std::sync::Arc;

use crate::epochs::Epochs;
use crate::error::{Error, Result};
use crate::format::Pending;
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::offset::Offset;
use crate::replay::Replay;
use crate::segment::Segment;
use crate::segment::scan::Check;
use crate::shared::Shared;
use crate::storage::OpenMode;
use crate::survey::{self, Files, LogFile};

use super::plan::{Origin, Refusal, Step, plan};
use super::report::PartitionReport;
use super::tail::Tail;
use super::{Opening, segment};

impl Opening {
    /// Opens what lies below the damage, for reading only.
    pub(super) fn degrade(mut self, error: Error) -> Result<(Arc<Shared>, PartitionReport)> {
        let log_start = match self.known_state() {
            Some(state) => state.log_start,
            None => self.request.kafka.log_start.unwrap_or_default(),
        };
        let segments = self.readable_prefix(log_start, &error)?;
        let replay = Replay::new(Epochs::default());
        let tail = Tail { segments, replay, lost_epochs: false, no_room: None };
        let start = tail.segments.first().map_or(log_start, |first| first.base()).max(log_start).min(tail.end());
        let shared = self.assemble(tail, start);
        shared.refuse(error);
        Ok((shared, self.report))
    }

    /// The segments below the damage; the one that holds it ends there.
    pub(super) fn readable_prefix(&self, log_start: Offset, error: &Error) -> Result<Vec<Arc<Segment>>> {
        let place = &self.request.place;
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let logs = self.bare_logs()?;
        for (at, log) in logs.iter().enumerate() {
            let path = place.segment_path(log.base, SegmentFileKind::Log, log.suffix);
            if segments.last().is_some_and(|last| last.end() != log.base) {
                break;
            }
            let file = place.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
            let damaged = error.path() == Some(path.as_path());
            let len = if damaged { error.position().unwrap_or(0).min(log.len) } else { log.len };
            // A batch that reaches into the next file has left its place.
            let next = logs.get(at + 1).map_or(Offset::MAX, |next| next.base);
            let mut sound = (log.base, 0);
            let walk = survey::walk(&*file, log.base, (0, len), log.base, Check::Header, |found| {
                let header = found.batch.header();
                if header.next_offset() <= next {
                    sound = (header.next_offset(), found.position + header.size as u64);
                }
                Ok(())
            })?;
            let whole = matches!(walk.stop, survey::Stop::End) && sound.1 == walk.position && !damaged;
            let log = LogFile { end: sound.0, valid: sound.1, ..*log };
            segments.push(segment(place, &log, None, whole));
            if !whole {
                break;
            }
        }
        match segments.pop() {
            // Nothing can be read: an empty end stands for the log, so that it can be asked about.
            None => {
                let log = LogFile {
                    base: log_start,
                    len: 0,
                    id: 0,
                    end: log_start,
                    valid: 0,
                    known: false,
                    suffix: Suffix::None,
                };
                segments.push(segment(place, &log, None, false));
            }
            // The last one is the end of what can be read; it is never written.
            Some(last) => {
                let log = LogFile {
                    base: last.base(),
                    len: last.len(),
                    id: last.facts().id,
                    end: last.end(),
                    valid: last.len(),
                    known: false,
                    suffix: Suffix::None,
                };
                segments.push(segment(place, &log, None, false));
            }
        }
        Ok(segments)
    }

    /// The `.log` files, whatever is in them.
    pub(super) fn bare_logs(&self) -> Result<Vec<LogFile>> {
        let place = &self.request.place;
        let mut logs = Vec::new();
        for entry in place.storage.list(&place.dir).map_err(|e| Error::io(e, &place.dir))? {
            if let Some(ParsedName::Segment { base, kind: SegmentFileKind::Log, suffix: Suffix::None }) =
                file_name::parse(&entry.name)
            {
                let path = place.path(&entry.name);
                let info = place.storage.info(&path).map_err(|e| Error::io(e, &path))?;
                logs.push(LogFile {
                    base,
                    len: info.len,
                    id: info.id,
                    end: base,
                    valid: 0,
                    known: false,
                    suffix: Suffix::None,
                });
            }
        }
        logs.sort_by_key(|log| log.base);
        Ok(logs)
    }

    /// What a read-only open makes of the directory, without a change to it.
    pub(super) fn settle_in_memory(&mut self, mut files: Files) -> Result<(Files, Offset, Vec<Range<Offset>>)> {
        loop {
            let mut seen = self.seen(&files);
            if let Origin::State(known) = &mut seen.origin {
                if let Pending::Truncate(to) | Pending::Reset(to) = known.pending {
                    files.logs.retain(|log| log.base < to || log.base == to && log.len == 0);
                    known.durable_end = known.durable_end.min(files.logs.last().map_or(to, |last| last.end));
                }
                known.pending = Pending::None;
                known.active_base =
                    known.active_base.min(files.logs.last().map_or(known.active_base, |last| last.base));
            }
            seen.leftovers = false;
            seen.logs = files.logs.iter().map(LogFile::seen).collect();
            match plan(&seen) {
                Ok(Step::FinishSwap { swap, replaced }) => {
                    files.swaps.retain(|seen| seen.base != swap);
                    files.logs.retain(|log| !replaced.contains(&log.base));
                    let path = self.request.place.segment_path(swap, SegmentFileKind::Log, Suffix::Swap);
                    let info = self.request.place.storage.info(&path).map_err(|e| Error::io(e, &path))?;
                    let end =
                        seen.swaps.iter().find(|seen| seen.base == swap).and_then(|seen| seen.end).unwrap_or(swap);
                    files.logs.push(LogFile {
                        base: swap,
                        len: info.len,
                        id: info.id,
                        end,
                        valid: info.len,
                        known: false,
                        suffix: Suffix::Swap,
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
}
