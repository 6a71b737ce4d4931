//! The writer of the active segment. Sealing consumes it: a sealed segment cannot be written.

use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::BatchHeader;
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::{Offset, Timestamp};
use crate::storage::{OpenMode, Reserve};
use crate::sync::atomic::Ordering;

use super::index::{Indexer, SegmentIndex};
use super::reserve::Reservation;
use super::{OpenData, PartitionDir, Segment, SegmentMeta};

/// Appends to the active segment. Its owner's appender lock ensures that only one thread does so at a time.
pub(crate) struct SegmentWriter {
    segment: Arc<Segment>,
    data: Option<Arc<OpenData>>,
    indexer: Indexer,
    len: u64,
    /// An upper bound on the number of entries in either index.
    index_entries: u32,
    /// The reserved space behind the data.
    space: Reservation,
}

impl SegmentWriter {
    /// Creates an empty file for a new segment. The caller makes its name durable.
    pub(crate) fn create(
        dir: &Arc<PartitionDir>,
        base: Offset,
        index_interval: u64,
        reserve: Option<Reserve>,
    ) -> Result<SegmentWriter> {
        let path = dir.segment_path(base, SegmentFileKind::Log, Suffix::None);
        let io = |e| Error::io(e, &path);
        let file = dir.storage.open(&path, OpenMode::CreateNew).map_err(io)?;
        let facts = SegmentMeta::new(file.info().map_err(io)?.id);
        let segment = Segment::new(dir, base, (0, base), false, facts, SegmentIndex::empty());
        segment.adopt_file(file);
        Ok(SegmentWriter::resume(segment, index_interval, reserve))
    }

    /// Resumes writing at the end of an unsealed segment.
    pub(crate) fn resume(segment: Arc<Segment>, index_interval: u64, reserve: Option<Reserve>) -> SegmentWriter {
        assert!(!segment.is_sealed(), "only the active segment is written");
        segment.unsynced.store(true, Ordering::Release);
        let len = segment.len();
        let indexer = if len == 0 {
            Indexer::new(segment.base(), index_interval)
        } else {
            Indexer::resume(segment.base(), index_interval, segment.meta().max_timestamp, segment.end())
        };
        let entries = segment.index_entries();
        let index_entries = entries.offsets.max(entries.times);
        let dir = segment.dir();
        let space = Reservation::new(len, reserve, dir.sizes, &dir.preallocator);
        SegmentWriter { segment, data: None, indexer, len, index_entries, space }
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The number of bytes written.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// An upper bound on the number of entries in either of its indexes.
    pub(crate) fn index_entries(&self) -> u32 {
        self.index_entries
    }

    /// Sets how space ahead is reserved from now on.
    pub(crate) fn set_reserve(&mut self, reserve: Option<Reserve>) {
        self.space.set_how(reserve);
    }

    /// Writes bytes at the end. Readers do not see them before [`publish`](Self::publish). After an error the file is
    /// unchanged; if restoring it fails too, the error is `Poisoned`.
    #[inline]
    pub(crate) fn write(&mut self, parts: [&[u8]; 2]) -> Result<()> {
        let size = (parts[0].len() + parts[1].len()) as u64;
        if self.space.copy(parts, self.len) {
            self.len += size;
            return Ok(());
        }
        self.write_to_file(parts, size)
    }

    #[inline(never)]
    fn write_to_file(&mut self, parts: [&[u8]; 2], size: u64) -> Result<()> {
        let data = self.take_data()?;
        let next = self.space.make_room(&data.file, self.len, size);
        let copied = self.space.copy_across(parts, self.len, next);
        let written = if copied { Ok(()) } else { data.file.write_vectored_at(&parts, self.len) };
        let written = match written {
            Ok(()) => {
                self.len += size;
                self.space.written(&data.file, self.len, size);
                Ok(())
            }
            Err(e) => Err(self.roll_back(&data, e)),
        };
        self.data = Some(data);
        written
    }

    /// Adds a batch, from the bytes written last, to the indexes.
    #[inline]
    pub(crate) fn note(&mut self, header: &BatchHeader, position: u64) {
        if let Some((offset, time)) = self.indexer.note(header, position) {
            self.index_entries += 1;
            self.segment.update_index(|index| {
                let recent = index.recent_mut();
                recent.offsets.push(offset);
                recent.times.extend(time);
            });
        }
    }

    /// Publishes the written bytes to readers. Their index entries are already in place.
    #[inline]
    pub(crate) fn publish(&mut self, end: Offset) {
        // The end is stored first, so that no reader finds a batch beyond it.
        self.segment.end.store(end.get(), Ordering::Release);
        self.segment.readable.store(self.len, Ordering::Release);
    }

    /// The largest timestamp written.
    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.indexer.max_timestamp()
    }

    /// Adds an entry for the largest timestamp to the time index if it has none. A later writer knows only the
    /// timestamp, and Kafka takes it from the last entry.
    pub(crate) fn complete_times(&mut self) {
        if let Some(entry) = self.indexer.finish() {
            self.index_entries += 1;
            self.segment.update_index(|index| index.recent_mut().times.push(entry));
        }
    }

    /// Gives reserved space back, so that the file ends where the data does.
    pub(crate) fn trim(&mut self) -> Result<()> {
        self.space.halt();
        if self.space.end() > self.len {
            let data = self.take_data()?;
            let cut = data.file.set_len(self.len);
            self.data = Some(data);
            cut.map_err(|e| Error::io(e, &self.segment.path()))?;
            self.space.cut_at(self.len);
        }
        Ok(())
    }

    /// Removes the unpublished bytes behind `len`.
    pub(crate) fn take_back(&mut self, len: u64) -> Result<()> {
        assert!(len >= self.segment.len(), "what was published stays");
        self.len = len;
        self.trim()
    }

    /// Drops the file, so that it can be closed. Its reserved space stays.
    pub(crate) fn let_go(&mut self) {
        self.space.halt();
        self.data = None;
    }

    /// Turns a trimmed segment into a sealed one and adds the last entry of its time index. The caller syncs it.
    pub(crate) fn seal(mut self, now: Timestamp) -> Arc<Segment> {
        assert_eq!(self.space.end(), self.len, "a segment is trimmed before it is sealed");
        let last_time = self.indexer.finish();
        self.segment.update_index(|index| index.recent_mut().times.extend(last_time));
        self.segment.update_meta(|facts| {
            facts.max_timestamp = facts.max_timestamp.max(self.indexer.max_timestamp());
            facts.sealed_at = now;
        });
        self.segment.sealed.store(true, Ordering::Release);
        self.segment
    }

    /// Takes out the open file. The caller puts it back after use.
    #[inline]
    fn take_data(&mut self) -> Result<Arc<OpenData>> {
        match self.data.take() {
            Some(data) => Ok(data),
            None => self.segment.open_for_writing(),
        }
    }

    /// Undoes a failed write. Recovery would take the bytes it left for a torn tail (I9).
    fn roll_back(&mut self, data: &OpenData, cause: io::Error) -> Error {
        let path = self.segment.path();
        self.space.halt();
        match data.file.set_len(self.len) {
            Ok(()) => {
                self.space.cut_at(self.len);
                Error::io(cause, &path)
            }
            Err(_) => Error::new(ErrorKind::Poisoned).at_path(&path),
        }
    }
}
