//! An append that needs more than one segment: all of it is there, or nothing.
//!
//! Everything that can fail comes first, where nobody sees it: the batches are written behind the end of the active
//! segment, which no reader passes, and into new segments, which neither a view nor `state` names. When one of these
//! steps fails, the new files are removed, durably, and the active one is cut where it ended. Nobody has seen anything
//! of it, and neither producers, epochs nor indexes have taken note of it.
//!
//! What follows cannot fail: the segments are sealed one after the other, with the producers as they were there; all of
//! it is one roll, whose second half makes files, names and `state` durable, and without which nothing in a new segment
//! counts as durable; the view gets the new segments; and then the log end moves, once, over the whole append.
//!
//! A crash in the first part leaves what a crash in a single write leaves: bytes behind the durable watermark, here in
//! several files, each named by the end of the one before. Recovery keeps the files that follow each other without a
//! hole, up to the first batch that is torn, which is a beginning of the append; and puts aside a file behind a hole.

use std::sync::Arc;

use crate::config::TopicConfig;
use crate::durability::Roll;
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{BatchHeader, TimeIndexEntry};
use crate::offset::{Offset, Timestamp};
use crate::segment::writer::SegmentWriter;
use crate::shared::Shared;
use crate::storage::files;

use super::{Active, SPAN_MAX};

/// How full a segment is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) base: Offset,
    pub(super) len: u64,
    /// At least as many as either of its indexes has.
    pub(super) entries: u32,
}

/// What goes into one segment.
struct Part<'a> {
    bytes: &'a [u8],
    headers: &'a [BatchHeader],
}

impl Fill {
    /// Whether a batch fits behind `pending` bytes that are about to be written.
    pub(super) fn takes(&self, pending: usize, header: &BatchHeader, at: Offset, config: &TopicConfig) -> bool {
        let len = self.len + pending as u64;
        // An entry for what is pending, one for this batch, one at the seal.
        let entries = u64::from(self.entries) + pending as u64 / u64::from(config.index_interval_bytes) + 3;
        len + header.size as u64 <= config.segment_bytes
            && at.since(self.base) + u64::from(header.last_offset_delta) <= SPAN_MAX
            && entries * TimeIndexEntry::LEN as u64 <= u64::from(config.segment_index_bytes)
    }
}

impl Active {
    /// Writes batches that have their offsets, each within the reach of the end before it, into as many segments as
    /// they need, and makes them readable at once. Nothing has changed after an error, except that a roll back that
    /// fails poisons the partition.
    pub(crate) fn write_in_parts(
        &mut self,
        shared: &Shared,
        bytes: &[u8],
        headers: &[BatchHeader],
        now: Timestamp,
    ) -> Result<()> {
        let parts = self.parts(bytes, headers, now);
        let [first, more @ ..] = &parts[..] else { return Ok(()) };
        if more.is_empty() {
            return self.write(shared, [first.bytes, &[]], first.headers, now);
        }
        shared.durability.finish_roll(shared)?;
        let len = self.writer.len();
        let mut made = Vec::with_capacity(more.len());
        if let Err(error) = self.stage(shared, first, more, &mut made) {
            return Err(self.take_back(shared, len, made, error));
        }
        self.note_part(shared, first, now);
        let mut sealed = Vec::with_capacity(more.len());
        let mut new = Vec::with_capacity(more.len());
        for (writer, part) in made.into_iter().zip(more) {
            sealed.push(self.seal_before(writer, now));
            self.note_part(shared, part, now);
            new.push(Arc::clone(self.segment()));
        }
        shared.durability.begin_roll(Roll { sealed, active_base: self.segment().base() });
        self.show(shared, new);
        self.tell_end(shared);
        Ok(())
    }

    /// What goes into the active segment, perhaps nothing, and into each new one behind it.
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

    /// Writes all parts where nobody sees them. Segments that others follow are whole then: the active one ends where
    /// its batches do, and a new one is synced, so that its file need not stay open.
    fn stage(
        &mut self,
        shared: &Shared,
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
            made.push(self.create(shared, end)?);
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

    /// Removes what was written of an append that failed; returns what to tell of it.
    fn take_back(&mut self, shared: &Shared, len: u64, made: Vec<SegmentWriter>, cause: Error) -> Error {
        let bases: Vec<Offset> = made.iter().map(|writer| writer.segment().base()).collect();
        drop(made);
        let remove = |base: &Offset| {
            let path = shared.place.segment_path(*base, SegmentFileKind::Log, Suffix::None);
            files::remove(&*shared.place.storage, &path)
        };
        let removed = bases.iter().rev().try_for_each(remove);
        // Else a power cut could bring a file back, to follow what is appended meanwhile.
        let removed = removed.and_then(|()| if bases.is_empty() { Ok(()) } else { shared.place.sync_dir() });
        match removed.and_then(|()| self.writer.take_back(len)) {
            Ok(()) if *cause.kind() != ErrorKind::Poisoned => cause,
            failed => {
                let failed = failed.err().unwrap_or(cause);
                shared.poison(&failed);
                let poisoned = Error::new(ErrorKind::Poisoned);
                failed.path().map_or(poisoned.clone(), |path| poisoned.at_path(path))
            }
        }
    }

    fn note_part(&mut self, shared: &Shared, part: &Part<'_>, now: Timestamp) {
        if !part.headers.is_empty() {
            self.note(shared, [part.bytes, &[]], part.headers, now);
        }
    }
}
