//! The writer of the active segment. Sealing consumes it: a sealed segment cannot be written.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::BatchHeader;
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::{Offset, Timestamp};
use crate::storage::ahead::Asked;
use crate::storage::{OpenMode, Reserve, Reserved, Window};
use crate::sync::atomic::Ordering;

use super::index::{Indexer, SegmentIndex};
use super::{Facts, OpenData, Place, Segment};

/// The first reservation, and the largest: they double as the segment grows. What was zeroed is still in the
/// processor's cache when it is written over.
const WINDOW_MIN: u64 = 64 << 10;
const WINDOW_MAX: u64 = 512 << 10;
/// A write larger than this goes past the windows: one call costs less than a mapping and a copy.
const MAPPED_WRITE_MAX: u64 = 2 << 10;
/// A write larger than this goes past the zeros as well: they would cost more than they save.
const ZEROED_WRITE_MAX: u64 = 256 << 10;
/// Zeros that nothing is mapped of are written in pieces of this size: larger ones make single appends wait.
const ZEROED_PIECE: u64 = 128 << 10;
/// A write larger than this has no space reserved ahead of its time: it is more work in all than one call.
const AHEAD_WRITE_MAX: u64 = 32 << 10;
/// So many windows are reserved ahead of their time.
const AHEAD_WINDOWS: usize = 2;
/// So many small writes since the file was opened make a window worth its price.
const WRITES_BEFORE_WINDOW: u32 = 4;

/// Appends to the active segment. One thread at a time; its owner's appender lock sees to it.
pub(crate) struct SegmentWriter {
    segment: Arc<Segment>,
    data: Option<Arc<OpenData>>,
    indexer: Indexer,
    len: u64,
    /// At least as many as either index has.
    index_entries: u32,
    /// Space is reserved up to here; zeros lie between the data and it.
    reserved: u64,
    /// The part of it that is mapped. It goes before the file is cut.
    window: Option<Window>,
    /// The one before it, until somebody unmaps it. It goes before the file is cut as well.
    spent: Option<Window>,
    /// The spaces behind it, which a thread of the log reserves meanwhile. They go before the file is cut.
    ahead: VecDeque<Asked>,
    /// How much is reserved next.
    next_reserve: u64,
    small_writes: u32,
    reserve: Option<Reserve>,
}

impl SegmentWriter {
    /// Makes a new segment's file, empty. The caller makes its name durable.
    pub(crate) fn create(
        place: &Arc<Place>,
        base: Offset,
        index_interval: u64,
        reserve: Option<Reserve>,
    ) -> Result<SegmentWriter> {
        let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
        let io = |e| Error::io(e, &path);
        let file = place.storage.open(&path, OpenMode::CreateNew).map_err(io)?;
        let facts = Facts::new(file.info().map_err(io)?.id);
        let segment = Segment::new(place, base, (0, base), false, facts, SegmentIndex::empty());
        segment.adopt_file(file);
        Ok(SegmentWriter::resume(segment, index_interval, reserve))
    }

    /// Goes on at the end of an unsealed segment.
    pub(crate) fn resume(segment: Arc<Segment>, index_interval: u64, reserve: Option<Reserve>) -> SegmentWriter {
        assert!(!segment.is_sealed(), "only the active segment is written");
        segment.unsynced.store(true, Ordering::Release);
        let len = segment.len();
        let indexer = if len == 0 {
            Indexer::new(segment.base(), index_interval)
        } else {
            Indexer::resume(segment.base(), index_interval, segment.facts().max_timestamp, segment.end())
        };
        let entries = segment.index_entries();
        let index_entries = entries.offsets.max(entries.times);
        SegmentWriter {
            segment,
            data: None,
            indexer,
            len,
            index_entries,
            reserved: len,
            window: None,
            spent: None,
            ahead: VecDeque::new(),
            next_reserve: WINDOW_MIN,
            small_writes: 0,
            reserve,
        }
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Bytes written.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// At least as many entries as either of its indexes has.
    pub(crate) fn index_entries(&self) -> u32 {
        self.index_entries
    }

    /// How space ahead is to be reserved from now on.
    pub(crate) fn set_reserve(&mut self, reserve: Option<Reserve>) {
        self.reserve = reserve;
    }

    /// Writes bytes at the end; they cannot be read before [`publish`](Self::publish). After an error the file is as
    /// before; when even that fails the error is `Poisoned`.
    #[inline]
    pub(crate) fn write(&mut self, parts: [&[u8]; 2]) -> Result<()> {
        let size = (parts[0].len() + parts[1].len()) as u64;
        if let Some(window) = &mut self.window
            && window.write(parts, self.len)
        {
            self.len += size;
            return Ok(());
        }
        self.write_to_file(parts, size)
    }

    #[inline(never)]
    fn write_to_file(&mut self, parts: [&[u8]; 2], size: u64) -> Result<()> {
        let data = self.take_data()?;
        let next = self.reserve_for(&data, size);
        let copied = self.copy(parts, next);
        let written = if copied { Ok(()) } else { data.file.write_vectored_at(&parts, self.len) };
        let written = match written {
            Ok(()) => {
                self.len += size;
                self.reserved = self.reserved.max(self.len);
                self.ask_ahead(&data, size);
                Ok(())
            }
            Err(e) => Err(self.roll_back(&data, e)),
        };
        self.data = Some(data);
        written
    }

    /// Takes note of a batch in the bytes written last, for the indexes.
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

    /// Lets readers see what was written: the bytes first, then the offsets.
    #[inline]
    pub(crate) fn publish(&mut self, end: Offset) {
        // The end first: no reader finds a batch beyond it.
        self.segment.end.store(end.get(), Ordering::Release);
        self.segment.readable.store(self.len, Ordering::Release);
    }

    /// The largest timestamp written.
    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.indexer.max_timestamp()
    }

    /// Adds an entry of the largest timestamp to the time index, where it has none: who goes on from here only knows
    /// the timestamp, and Kafka takes the last entry for it.
    pub(crate) fn complete_times(&mut self) {
        if let Some(entry) = self.indexer.finish() {
            self.index_entries += 1;
            self.segment.update_index(|index| index.recent_mut().times.push(entry));
        }
    }

    /// Gives reserved space back: the file ends where the data does.
    pub(crate) fn trim(&mut self) -> Result<()> {
        self.small_writes = 0;
        self.window = None;
        self.settle_ahead();
        if self.reserved > self.len {
            let data = self.take_data()?;
            let released = data.file.release(self.len);
            self.data = Some(data);
            released.map_err(|e| Error::io(e, &self.segment.path()))?;
            self.reserved = self.len;
        }
        Ok(())
    }

    /// Takes back what was written behind `len`, and was not published.
    pub(crate) fn take_back(&mut self, len: u64) -> Result<()> {
        assert!(len >= self.segment.len(), "what was published stays");
        self.len = len;
        self.trim()
    }

    /// Drops the file, so that it can be closed. What is reserved of it stays.
    pub(crate) fn let_go(&mut self) {
        self.data = None;
        self.window = None;
        self.settle_ahead();
        self.small_writes = 0;
    }

    /// Makes a trimmed segment a sealed one, with the last entry of its time index. The caller syncs it.
    pub(crate) fn seal(mut self, now: Timestamp) -> Arc<Segment> {
        assert_eq!(self.reserved, self.len, "a segment is trimmed before it is sealed");
        let last_time = self.indexer.finish();
        self.segment.update_index(|index| index.recent_mut().times.extend(last_time));
        self.segment.update_facts(|facts| {
            facts.max_timestamp = facts.max_timestamp.max(self.indexer.max_timestamp());
            facts.sealed_at = now;
        });
        self.segment.sealed.store(true, Ordering::Release);
        self.segment
    }

    /// The open file, to be put back after its use.
    #[inline]
    fn take_data(&mut self) -> Result<Arc<OpenData>> {
        match self.data.take() {
            Some(data) => Ok(data),
            None => self.segment.open_for_writing(),
        }
    }

    /// Copies bytes into the window, or into what is left of it and the one behind it, which takes its place. `false`
    /// where they do not lie in both whole.
    fn copy(&mut self, parts: [&[u8]; 2], next: Option<Window>) -> bool {
        let position = self.len;
        let Some(mut next) = next else {
            return self.window.as_mut().is_some_and(|window| window.write(parts, position));
        };
        let copied = match self.window.as_mut().filter(|window| window.end() > position) {
            Some(window) => {
                let (head, tail) = split(parts, (window.end() - position) as usize);
                window.write(head, position) && next.write(tail, window.end())
            }
            None => next.write(parts, position),
        };
        self.spent = self.window.replace(next);
        copied
    }

    /// Reserves space for writes that are not large, and returns the window behind the one there is. A full disk, or a
    /// file system that cannot, is no error here: the write itself will tell.
    fn reserve_for(&mut self, data: &OpenData, size: u64) -> Option<Window> {
        let how = self.reserve?;
        if self.len + size <= self.reserved {
            return None;
        }
        // Whatever is written next lies where it may be at work.
        let next = self.take_ahead(data);
        if size > ZEROED_WRITE_MAX || self.len + size <= self.reserved {
            return next;
        }
        let how = if size > MAPPED_WRITE_MAX { Reserve::Zeroed } else { how };
        self.small_writes += 1;
        if self.small_writes < WRITES_BEFORE_WINDOW {
            return None;
        }
        // What is zeroed already is not zeroed again, unless it is to be mapped.
        let from = if how == Reserve::Mapped { self.len } else { self.reserved };
        // Whole pieces: the kernel then keeps them in large pages.
        let piece = if how == Reserve::Mapped { self.next_reserve } else { ZEROED_PIECE };
        let end = (self.len + size).next_multiple_of(piece);
        self.window = None;
        let reserved = data.file.reserve(from, end - from, how);
        self.window = self.take_reserved(data, end, reserved);
        self.next_reserve = (self.next_reserve * 2).min(WINDOW_MAX);
        None
    }

    /// Has the next spaces reserved while this one is used, once there was use for the largest.
    fn ask_ahead(&mut self, data: &OpenData, size: u64) {
        if self.reserve != Some(Reserve::Mapped) || self.next_reserve < WINDOW_MAX || size > AHEAD_WRITE_MAX {
            return;
        }
        while self.ahead.len() < AHEAD_WINDOWS && self.reserved > self.len {
            let from = self.ahead.back().map_or(self.reserved, Asked::end);
            let part = from..(from + 1).next_multiple_of(WINDOW_MAX);
            let Some(asked) = self.segment.place.ahead.ask(&data.file, part, Reserve::Mapped, self.spent.take()) else {
                return;
            };
            self.ahead.push_back(asked);
        }
    }

    /// Takes over what was reserved meanwhile, if it was begun.
    fn take_ahead(&mut self, data: &OpenData) -> Option<Window> {
        let asked = self.ahead.pop_front()?;
        let end = asked.end();
        let reserved = asked.take();
        if !matches!(reserved, Some(Ok(_))) {
            // Nothing is written behind it that is not reserved.
            self.settle_ahead();
        }
        self.take_reserved(data, end, reserved?)
    }

    /// Lets nobody reserve anything any more; what was begun is still there.
    fn settle_ahead(&mut self) {
        self.spent = None;
        while let Some(asked) = self.ahead.pop_front() {
            let end = asked.end();
            if asked.take().is_some() {
                self.reserved = self.reserved.max(end);
            }
        }
    }

    /// Takes note of space that was reserved up to `end`, or was not.
    fn take_reserved(&mut self, data: &OpenData, end: u64, reserved: io::Result<Reserved>) -> Option<Window> {
        match reserved {
            Ok(Reserved::Nothing) => {
                self.reserve = None;
                None
            }
            Ok(Reserved::Space) => {
                self.reserved = end;
                None
            }
            Ok(Reserved::Window(window)) => {
                self.reserved = end;
                Some(window)
            }
            Err(_) => {
                // Whatever part was reserved goes back, so that it is not taken for data.
                self.window = None;
                let released = data.file.release(self.len).is_ok();
                self.reserved = if released { self.len } else { end };
                self.next_reserve = WINDOW_MIN;
                self.small_writes = 0;
                None
            }
        }
    }

    /// Takes a failed write back: what it left would be taken for a torn tail (I9).
    fn roll_back(&mut self, data: &OpenData, cause: io::Error) -> Error {
        let path = self.segment.path();
        self.window = None;
        self.settle_ahead();
        match data.file.release(self.len) {
            Ok(()) => {
                self.reserved = self.len;
                Error::io(cause, &path)
            }
            Err(_) => Error::new(ErrorKind::Poisoned).at_path(&path),
        }
    }
}

/// The first `at` bytes of two buffers, one behind the other, and the rest.
fn split(parts: [&[u8]; 2], at: usize) -> ([&[u8]; 2], [&[u8]; 2]) {
    let [first, second] = parts;
    match at.checked_sub(first.len()) {
        None => ([&first[..at], &[]], [&first[at..], second]),
        Some(at) => ([first, &second[..at]], [&second[at..], &[]]),
    }
}
