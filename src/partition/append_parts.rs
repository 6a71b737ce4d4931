//! An append that needs more than one segment: either all of it is in the log, or nothing.
//!
//! All steps that can fail come first, where no reader sees them. The batches are written behind the end of the active
//! segment, beyond which no reader looks, and into new segments, which neither the segment list nor `state` names. When
//! one of these steps fails, the new files are removed durably, and the active one is truncated to its old end. No
//! reader has seen any of it, and neither producers, epochs nor indexes have recorded it.
//!
//! The steps after that cannot fail. The segments are sealed one after the other, each with the producers at its end.
//! All of them form one roll. Its second half makes files, names and `state` durable, and before it is done nothing in
//! a new segment counts as durable. The new segments enter the segment list. Then the log end moves once, over the
//! whole append.
//!
//! A crash in the first part leaves the same as a crash in a single write: bytes behind the durable watermark, here in
//! several files, each named by the end of the one before. Recovery keeps the files that follow each other without a
//! hole, up to the first torn batch. That is a beginning of the append. Recovery puts aside a file behind a hole.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::BatchHeader;
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::{Offset, Timestamp};
use crate::segment::writer::SegmentWriter;
use crate::storage::small_file;

use super::active::{Active, Fill, SPAN_MAX};
use super::checkpoint::Roll;
use super::core::PartitionCore;

/// The part of an append that goes into one segment.
struct Part<'a> {
    bytes: &'a [u8],
    headers: &'a [BatchHeader],
}

impl Active {
    /// Writes batches that already have their offsets into as many segments as they need, and makes them all readable
    /// at once. Each batch lies within the reach of the end before it. After an error nothing has changed, except that
    /// a failed roll back poisons the partition.
    pub(crate) fn write_in_parts(
        &mut self,
        core: &PartitionCore,
        bytes: &[u8],
        headers: &[BatchHeader],
        now: Timestamp,
    ) -> Result<()> {
        let parts = self.parts(bytes, headers, now);
        let [first, more @ ..] = &parts[..] else { return Ok(()) };
        if more.is_empty() {
            return self.write(core, [first.bytes, &[]], first.headers, now);
        }
        core.finish_roll()?;
        let len = self.writer.len();
        let mut made = Vec::with_capacity(more.len());
        if let Err(error) = self.stage(core, first, more, &mut made) {
            return Err(self.take_back(core, len, made, error));
        }
        self.note_part(core, first, now);
        let mut sealed = Vec::with_capacity(more.len());
        let mut new = Vec::with_capacity(more.len());
        for (writer, part) in made.into_iter().zip(more) {
            sealed.push(self.seal_before(writer, now));
            self.note_part(core, part, now);
            new.push(Arc::clone(self.segment()));
        }
        core.group_commit.begin_roll(Roll { sealed, active_base: self.segment().base() });
        self.show(core, new);
        self.tell_end(core);
        Ok(())
    }

    /// Splits the batches into a part for the active segment, which may be empty, and one for each new segment behind
    /// it.
    fn parts<'a>(&self, bytes: &'a [u8], headers: &'a [BatchHeader], now: Timestamp) -> Vec<Part<'a>> {
        let (mut fill, mut pending, mut is_young) = (self.fill(), 0, self.is_young(now));
        let mut end = self.segment().end();
        // How many of the batches each segment takes.
        let mut counts = vec![0];
        for header in headers {
            // An empty segment takes any batch.
            let is_empty = fill.len == 0 && pending == 0;
            let fits = is_young && fill.takes(pending, header, header.base_offset, &self.config);
            if !is_empty && !fits {
                (fill, pending, is_young) = (Fill { base: end, len: 0, entries: 0 }, 0, true);
                counts.push(0);
            }
            let reach = header.base_offset.since(fill.base) + u64::from(header.last_offset_delta);
            assert!(reach <= SPAN_MAX, "a batch lies within the reach of the end before it");
            pending += header.size;
            end = header.next_offset();
            *counts.last_mut().expect("there is one from the start") += 1;
        }
        let mut rest = Part { bytes, headers };
        let part = |count: usize| {
            let (headers, more_headers) = rest.headers.split_at(count);
            let (bytes, more_bytes) = rest.bytes.split_at(headers.iter().map(|header| header.size).sum());
            rest = Part { bytes: more_bytes, headers: more_headers };
            Part { bytes, headers }
        };
        counts.into_iter().map(part).collect()
    }

    /// Writes all parts where no reader sees them. Every segment but the last is then complete: the active one is
    /// trimmed to its batches, and a new one is synced, so that its file need not stay open.
    fn stage(
        &mut self,
        core: &PartitionCore,
        first: &Part<'_>,
        more: &[Part<'_>],
        made: &mut Vec<SegmentWriter>,
    ) -> Result<()> {
        let mut end = self.segment().end();
        if let Some(last) = first.headers.last() {
            self.writer.write([first.bytes, &[]])?;
            end = last.next_offset();
        }
        self.writer.trim()?;
        for (number, part) in more.iter().enumerate() {
            made.push(self.create(core, end)?);
            let writer = made.last_mut().expect("it was just made");
            writer.write([part.bytes, &[]])?;
            end = part.headers.last().map_or(end, BatchHeader::next_offset);
            if number + 1 < more.len() {
                writer.trim()?;
                writer.let_go();
                let segment = writer.segment();
                segment.open_for_writing()?.file.sync().map_err(|e| Error::io(e, &segment.path()))?;
                segment.close_file();
            }
        }
        Ok(())
    }

    /// Removes what a failed append has written, and returns the error for the caller.
    fn take_back(&mut self, core: &PartitionCore, len: u64, made: Vec<SegmentWriter>, cause: Error) -> Error {
        let bases: Vec<Offset> = made.iter().map(|writer| writer.segment().base()).collect();
        drop(made);
        let remove = |base: &Offset| {
            let path = core.dir.segment_path(*base, SegmentFileKind::Log, Suffix::None);
            small_file::remove(&*core.dir.storage, &path)
        };
        let removed = bases.iter().rev().try_for_each(remove);
        // Otherwise a power cut could bring a file back, and it would seem to follow what is appended meanwhile.
        let removed = removed.and_then(|()| if bases.is_empty() { Ok(()) } else { core.dir.sync_dir() });
        match removed.and_then(|()| self.writer.take_back(len)) {
            Ok(()) if *cause.kind() != ErrorKind::Poisoned => cause,
            failed => {
                let failed = failed.err().unwrap_or(cause);
                core.poison(&failed);
                let poisoned = Error::new(ErrorKind::Poisoned);
                failed.path().map_or(poisoned.clone(), |path| poisoned.at_path(path))
            }
        }
    }

    fn note_part(&mut self, core: &PartitionCore, part: &Part<'_>, now: Timestamp) {
        if !part.headers.is_empty() {
            self.note(core, [part.bytes, &[]], part.headers, now);
        }
    }
}
