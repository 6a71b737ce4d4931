//! A segment: one `.log` file with its indexes. This is the read face, shared by the active and the sealed ones.

pub(crate) mod boundary;
pub(crate) mod digest;
mod facts;
pub(crate) mod index;
mod lookup;
mod mapping;
mod place;
mod reserve;
pub(crate) mod scan;
pub(crate) mod sidecar;
pub(crate) mod writer;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use bytes::{Buf, Bytes};

use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{BATCH_HEADER_LEN, BatchView, FormatError};
use crate::offset::Offset;
use crate::storage::handles::{Evict, MappedTicket, OpenTicket};
use crate::storage::{File, Hold, OpenMode};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError, Weak, explored};

pub(crate) use self::facts::Facts;
use self::index::SegmentIndex;
use self::lookup::{Walk, Walker};
use self::mapping::Mapping;
pub(crate) use self::place::{Owner, Place};

/// About how far apart index entries lie: a lookup walks through so much.
const INTERVAL: u64 = 4096;
/// What it reads beyond that, and beyond what it was asked for: no batch is cut off for a few bytes.
const SLACK: u64 = 512;
/// So much of a large batch is fetched before it is looked at.
const FETCH_MAX: u64 = 16 << 10;
/// Entries that lie farther apart than this are most likely those of two batches one behind the other.
const LARGE: u64 = INTERVAL * 3 / 2;

/// One segment. Its extent only grows, and only while it is the active one.
pub(crate) struct Segment {
    base: Offset,
    place: Arc<Place>,
    /// Bytes that may be read: whole batches. Stored (Release) after them, their index entries and `end`.
    readable: explored::AtomicU64,
    /// One past the last offset.
    end: explored::AtomicU64,
    /// Stored (Release) when neither of these changes any more.
    sealed: explored::AtomicBool,
    /// It had a writer, and was not synced since it was sealed. Stored (Release) after the sync that it tells of.
    unsynced: AtomicBool,
    /// [`Handles::now`] of the last use, as a hint.
    used: AtomicU64,
    facts: Mutex<Facts>,
    index: RwLock<SegmentIndex>,
    /// Held while index files are written or entries found again, never while a reader looks an entry up.
    index_files: Mutex<()>,
    slot: explored::Mutex<Slot>,
    me: Weak<Segment>,
}

/// The open file, and the name under which it is opened again. A swap changes the name under this lock.
struct Slot {
    suffix: Suffix,
    data: Option<Arc<OpenData>>,
    usage: Use,
}

impl Slot {
    /// The file where it is open in this mode; an error where it is not opened any more.
    fn open(&self, mode: OpenMode) -> Result<Option<Arc<OpenData>>> {
        let data = self.data.as_ref().filter(|data| data.writable || mode == OpenMode::Read);
        match data {
            None if self.usage == Use::Gone => Err(Error::new(ErrorKind::Closed)),
            data => Ok(data.cloned()),
        }
    }
}

/// What may still be done with the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// It is opened, mapped and held as needed.
    Open,
    /// It is cut: nobody comes to hold more of it.
    Cut,
    /// The partition is closed or deleted: the file is not opened again, as another may have its name, and its inode.
    Gone,
}

/// An open segment file and what is cached of it.
pub(crate) struct OpenData {
    pub(crate) file: Arc<dyn File>,
    writable: bool,
    map: RwLock<Mapping>,
    offsets: Mutex<Option<Cached>>,
    times: Mutex<Option<Cached>>,
    _ticket: OpenTicket,
}

struct Cached {
    bytes: Bytes,
    _ticket: MappedTicket,
}

/// Whole batches of one segment.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) bytes: Bytes,
    /// Where they lie in the file.
    pub(crate) position: u64,
    /// One past the last offset of the last batch.
    pub(crate) next: Offset,
}

impl Segment {
    /// A segment whose file is there. `extent` is its readable length and its end offset.
    pub(crate) fn new(
        place: &Arc<Place>,
        base: Offset,
        extent: (u64, Offset),
        sealed: bool,
        facts: Facts,
        index: SegmentIndex,
    ) -> Arc<Segment> {
        assert!(extent.1 >= base, "a segment ends at or after its base");
        Arc::new_cyclic(|me| Segment {
            base,
            place: Arc::clone(place),
            readable: explored::AtomicU64::new(extent.0),
            end: explored::AtomicU64::new(extent.1.get()),
            sealed: explored::AtomicBool::new(sealed),
            unsynced: AtomicBool::new(false),
            used: AtomicU64::new(0),
            facts: Mutex::new(facts),
            index: RwLock::new(index),
            index_files: Mutex::new(()),
            slot: explored::Mutex::new(Slot { suffix: Suffix::None, data: None, usage: Use::Open }),
            me: Weak::clone(me),
        })
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// One past the last offset.
    pub(crate) fn end(&self) -> Offset {
        Offset::new(self.end.load(Ordering::Acquire))
    }

    /// Bytes that may be read.
    pub(crate) fn len(&self) -> u64 {
        self.readable.load(Ordering::Acquire)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    pub(crate) fn facts(&self) -> Facts {
        *self.lock_facts()
    }

    pub(crate) fn update_facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.lock_facts());
    }

    /// Its suffix at this moment.
    pub(crate) fn suffix(&self) -> Suffix {
        self.lock_slot().suffix
    }

    /// The file's path at this moment.
    pub(crate) fn path(&self) -> PathBuf {
        self.place.segment_path(self.base, SegmentFileKind::Log, self.lock_slot().suffix)
    }

    /// The path of one of its other files.
    pub(crate) fn sidecar_path(&self, kind: SegmentFileKind) -> PathBuf {
        self.place.segment_path(self.base, kind, self.lock_slot().suffix)
    }

    /// Takes note of when the file was changed last: nobody writes it any more. What is not known costs a walk.
    pub(crate) fn note_modified(&self) {
        let data = self.lock_slot().data.clone();
        let info = data.map_or_else(|| self.place.storage.info(&self.path()), |data| data.file.info());
        if let Ok(info) = info {
            self.update_facts(|facts| facts.modified = info.modified);
        }
    }

    /// It was synced as a sealed segment.
    pub(crate) fn set_synced(&self) {
        self.unsynced.store(false, Ordering::Release);
    }

    /// Holds the first `len` bytes of its file, which are readable; `None` while it is being cut.
    pub(crate) fn hold(&self, data: &OpenData, len: u64) -> io::Result<Option<Hold>> {
        let slot = self.lock_slot();
        if slot.usage == Use::Open { data.file.hold(len).map(Some) } else { Ok(None) }
    }

    /// Nobody comes to hold more of the file from here on: it is about to be cut.
    pub(crate) fn begin_cut(&self) {
        self.lock_slot().usage = Use::Cut;
    }

    /// It is not cut after all.
    pub(crate) fn end_cut(&self) {
        self.lock_slot().usage = Use::Open;
    }

    /// Closes the file for good: the partition is closed or deleted.
    pub(crate) fn retire(&self) {
        let mut slot = self.lock_slot();
        slot.usage = Use::Gone;
        slot.data = None;
    }

    /// Renames its files for a swap or a removal: the name changes under the lock under which files are opened.
    pub(crate) fn rename(&self, suffix: Suffix, rename: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut slot = self.lock_slot();
        rename()?;
        slot.suffix = suffix;
        Ok(())
    }

    /// The open file: opened when it is not, within the budget of handles.
    pub(crate) fn open(&self) -> Result<Arc<OpenData>> {
        self.open_as(OpenMode::Read)
    }

    /// The open file, for its writer.
    pub(crate) fn open_for_writing(&self) -> Result<Arc<OpenData>> {
        self.open_as(OpenMode::Write)
    }

    fn open_as(&self, mode: OpenMode) -> Result<Arc<OpenData>> {
        self.used.store(self.place.handles.now(), Ordering::Relaxed);
        if let Some(data) = self.lock_slot().open(mode)? {
            return Ok(data);
        }
        // Without the slot's lock: room may be made by a sync that opens this segment.
        let ticket = self.place.handles.open(self.me.clone());
        let mut slot = self.lock_slot();
        if let Some(data) = slot.open(mode)? {
            return Ok(data);
        }
        let path = self.place.segment_path(self.base, SegmentFileKind::Log, slot.suffix);
        let file = self.place.storage.open(&path, mode).map_err(|e| Error::io(e, &path))?;
        if file.info().map_err(|e| Error::io(e, &path))?.id != self.lock_facts().id {
            return Err(Error::corrupt(&path, 0, "another file has taken the place of this segment"));
        }
        let data = Arc::new(OpenData::new(file, mode == OpenMode::Write, ticket));
        slot.data = Some(Arc::clone(&data));
        Ok(data)
    }

    /// Takes over the file that its writer has just made.
    fn adopt_file(&self, file: Arc<dyn File>) {
        let ticket = self.place.handles.open(self.me.clone());
        self.used.store(self.place.handles.now(), Ordering::Relaxed);
        self.lock_slot().data = Some(Arc::new(OpenData::new(file, true, ticket)));
    }

    /// Closes the file when nobody else uses it.
    pub(crate) fn close_file(&self) {
        self.lock_slot().data = None;
    }

    /// The same, where nobody is about to open it. Whether it was open.
    pub(crate) fn try_close_file(&self) -> bool {
        match self.slot.try_lock() {
            Ok(mut slot) => slot.data.take().is_some(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().data.take().is_some(),
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// Whole batches from the one that holds `from`, or the first after it, on: as many as fit `max_bytes`, but one in
    /// any case where `at_least_one`; none that reaches past `limit`.
    pub(crate) fn slice(
        &self,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Option<Slice>> {
        let data = self.open()?;
        // The active one may have grown beyond an end that is read before its length.
        let end = if self.is_sealed() { self.end() } else { Offset::MAX };
        let readable = self.len();
        let begin = || -> Result<Walker> {
            let position = self.start_near(&data, from, readable)?;
            Ok(Walker::new(position, self.base..end, from, limit))
        };
        let mut walker = begin()?;
        let mut trusted = walker.position == 0;
        let mut want = max_bytes.max(INTERVAL as usize).saturating_add(SLACK as usize);
        loop {
            let position = walker.position;
            let left = readable - position;
            if left == 0 {
                return Ok(None);
            }
            let window = self.window(&data, position, (want as u64).min(left))?;
            match walker.walk(&window, max_bytes, left as usize) {
                Ok(Walk::Found { start, end, .. }) if !at_least_one && end - start > max_bytes => return Ok(None),
                // Whoever goes on from there comes to the same contradiction, and not to what lies behind it.
                Ok(Walk::Contradicted { start, end, next, at })
                    if self.start_near(&data, next, readable)? < position + at as u64 =>
                {
                    return Ok(Some(slice(window, start..end, position, next)));
                }
                Ok(Walk::Found { start, end, next }) => {
                    return Ok(Some(slice(window, start..end, position, next)));
                }
                Ok(Walk::PastLimit) => return Ok(None),
                // In growing steps: the index may have few entries. Batches are alike.
                Ok(Walk::Passed(size)) if walker.position <= readable => {
                    want = size.max(2 * window.len()) + SLACK as usize
                }
                Ok(Walk::More(needed)) if needed as u64 <= left => want = needed.max(want),
                Ok(Walk::Doubt(position, size)) => {
                    let bytes = self.window(&data, position, size as u64)?;
                    let checked = BatchView::parse(&bytes).and_then(|batch| batch.check_crc());
                    checked.map_err(|why| Error::corrupt(&self.path(), position, why.to_string()))?;
                    walker.dispel();
                }
                // An index that leads astray is rebuilt; what is then still no batch is damage.
                _ if !trusted => {
                    self.rebuild_index(&data)?;
                    walker = begin()?;
                    trusted = true;
                }
                Err((at, why)) => return Err(Error::corrupt(&self.path(), position + at as u64, why.to_string())),
                Ok(Walk::Contradicted { at, .. }) => {
                    let why = FormatError::BadOffset.to_string();
                    return Err(Error::corrupt(&self.path(), position + at as u64, why));
                }
                Ok(Walk::Passed(_) | Walk::More(_)) => {
                    return Err(Error::corrupt(&self.path(), readable, "the segment ends inside a batch"));
                }
            }
        }
    }

    /// Where a walk to the batch that holds `from`, or the first after it, begins.
    fn start_near(&self, data: &OpenData, from: Offset, readable: u64) -> Result<u64> {
        let around = self.around(data, from)?;
        let floor = u64::from(around.floor.position);
        // A position beyond the end cannot be one of a batch; from the first one on all are found.
        if floor > readable {
            return Ok(0);
        }
        let map = data.map.read().unwrap_or_else(PoisonError::into_inner);
        match around.next.map(|next| u64::from(next.position)) {
            // Large batches have an entry each: the walk goes from the header of this one to the next, which is as long.
            Some(next) if next > floor + LARGE => {
                map.fetch(floor, BATCH_HEADER_LEN as u64);
                map.fetch(next, (next - floor).min(FETCH_MAX));
            }
            _ => map.fetch(floor, around.distance().map_or(INTERVAL, |distance| (distance + SLACK).min(INTERVAL))),
        }
        Ok(floor)
    }

    /// Bytes of the file: a slice of its mapping, or read.
    pub(crate) fn window(&self, data: &OpenData, position: u64, len: u64) -> Result<Bytes> {
        let io = |e: io::Error| Error::io(e, &self.path()).at_position(position);
        if let Some(bytes) = self.mapped(data, position..position + len).map_err(io)? {
            return Ok(bytes);
        }
        let bytes = self.place.handles.buffers().read(len as usize, |into| data.file.read_at(into, position));
        let bytes = bytes.map_err(io)?;
        if (bytes.len() as u64) < len {
            return Err(Error::corrupt(&self.path(), position + bytes.len() as u64, "the file is shorter than it was"));
        }
        Ok(bytes)
    }

    /// A part of the file in a mapping of it, which is made when it is due and within the budget.
    fn mapped(&self, data: &OpenData, part: Range<u64>) -> io::Result<Option<Bytes>> {
        if !self.place.mapped_reads.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let growth_min = self.place.sizes.map_growth_min;
        let is_due = |map: &Mapping| map.is_outgrown(self.len(), self.is_sealed(), growth_min);
        let map = data.map.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = map.part(&*data.file, part.clone())? {
            return Ok(Some(bytes));
        }
        if !is_due(&map) {
            return Ok(None);
        }
        drop(map);
        let mut map = data.map.write().unwrap_or_else(PoisonError::into_inner);
        if is_due(&map) {
            self.map_anew(data, &mut map);
        }
        map.part(&*data.file, part)
    }

    fn map_anew(&self, data: &OpenData, map: &mut Mapping) {
        let len = self.len();
        // Its share of the budget comes back before it takes a new one.
        map.clear(len);
        let me: Weak<dyn Evict> = self.me.clone();
        if let Some(ticket) = self.place.handles.map(len, &me) {
            let slot = self.lock_slot();
            if slot.usage == Use::Open {
                map.fill(&*data.file, ticket);
            }
        }
    }

    fn lock_facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_slot(&self) -> explored::MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment[{}, {}) {} bytes", self.base, self.end(), self.len())
    }
}

impl Evict for Segment {
    fn last_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn evict(&self) -> bool {
        let owner = || self.place.owner();
        if !self.is_sealed() {
            return owner().is_some_and(|owner| owner.close_active());
        }
        // Looked at again after the sync: a roll that has sealed it may not have told of it yet.
        let unsynced = || self.unsynced.load(Ordering::Acquire);
        let sync = || owner().is_some_and(|owner| owner.sync_sealed());
        if unsynced() && (!sync() || unsynced()) {
            return false;
        }
        self.try_close_file()
    }
}

impl OpenData {
    fn new(file: Arc<dyn File>, writable: bool, ticket: OpenTicket) -> OpenData {
        OpenData {
            file,
            writable,
            map: RwLock::new(Mapping::default()),
            offsets: Mutex::new(None),
            times: Mutex::new(None),
            _ticket: ticket,
        }
    }
}

/// Batches in a window that lies at a position of the file.
fn slice(mut window: Bytes, part: Range<usize>, position: u64, next: Offset) -> Slice {
    window.truncate(part.end);
    window.advance(part.start);
    Slice { bytes: window, position: position + part.start as u64, next }
}

#[cfg(test)]
mod tests;
