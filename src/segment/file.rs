//! The open file of a segment: opened within the budget of handles, mapped within the budget of mapped bytes, closed to
//! make room, protected from new holds while it is truncated.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::storage::file_cache::Evict;
use crate::storage::{File, Hold, OpenMode};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Weak, explored};

use super::Segment;
use super::mapping::Mapping;
use super::open_file::{OpenData, Slot, Use};

impl Segment {
    /// Holds the first `len` bytes of its file, which are readable. Returns `None` while the file is being truncated.
    pub(crate) fn hold(&self, data: &OpenData, len: u64) -> io::Result<Option<Hold>> {
        let slot = self.lock_slot();
        if slot.usage == Use::Open { data.file.hold(len).map(Some) } else { Ok(None) }
    }

    /// Forbids new holds on the file, because it is about to be truncated.
    pub(crate) fn begin_cut(&self) {
        self.lock_slot().usage = Use::Cut;
    }

    /// Allows holds again: the file is not truncated after all.
    pub(crate) fn end_cut(&self) {
        self.lock_slot().usage = Use::Open;
    }

    /// Closes the file for good, when the partition is closed or deleted.
    pub(crate) fn retire(&self) {
        let mut slot = self.lock_slot();
        slot.usage = Use::Gone;
        slot.data = None;
    }

    /// Renames the files for a swap or a removal. The name changes under the lock under which files are opened.
    pub(crate) fn rename(&self, suffix: Suffix, rename: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut slot = self.lock_slot();
        rename()?;
        slot.suffix = suffix;
        Ok(())
    }

    /// Returns the open file. Opens it if needed, within the budget of handles.
    pub(crate) fn open(&self) -> Result<Arc<OpenData>> {
        self.open_as(OpenMode::Read)
    }

    /// Returns the open file for its writer.
    pub(crate) fn open_for_writing(&self) -> Result<Arc<OpenData>> {
        self.open_as(OpenMode::Write)
    }

    pub(super) fn open_as(&self, mode: OpenMode) -> Result<Arc<OpenData>> {
        self.used.store(self.dir.file_cache.now(), Ordering::Relaxed);
        if let Some(data) = self.lock_slot().open(mode)? {
            return Ok(data);
        }
        // Taken without the slot's lock: a sync that makes room may open this segment.
        let ticket = self.dir.file_cache.open(self.me.clone());
        let mut slot = self.lock_slot();
        if let Some(data) = slot.open(mode)? {
            return Ok(data);
        }
        let path = self.dir.segment_path(self.base, SegmentFileKind::Log, slot.suffix);
        let file = self.dir.storage.open(&path, mode).map_err(|e| Error::io(e, &path))?;
        if file.info().map_err(|e| Error::io(e, &path))?.id != self.lock_meta().id {
            return Err(Error::corrupt(&path, 0, "another file has taken the dir of this segment"));
        }
        let data = Arc::new(OpenData::new(file, mode == OpenMode::Write, ticket));
        slot.data = Some(Arc::clone(&data));
        Ok(data)
    }

    /// Takes over the file that its writer has just created.
    pub(super) fn adopt_file(&self, file: Arc<dyn File>) {
        let ticket = self.dir.file_cache.open(self.me.clone());
        self.used.store(self.dir.file_cache.now(), Ordering::Relaxed);
        self.lock_slot().data = Some(Arc::new(OpenData::new(file, true, ticket)));
    }

    /// Drops the open file. It closes once no other user holds it.
    pub(crate) fn close_file(&self) {
        self.lock_slot().data = None;
    }

    /// The same, unless another thread holds the slot's lock. Returns whether the file was open.
    pub(crate) fn try_close_file(&self) -> bool {
        self.slot.try_lock().is_some_and(|mut slot| slot.data.take().is_some())
    }

    /// Returns a part of the file from its mapping. Maps the file if that is due and within the budget.
    pub(super) fn mapped(&self, data: &OpenData, part: Range<u64>) -> io::Result<Option<Bytes>> {
        if !self.dir.mapped_reads.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let growth_min = self.dir.sizes.map_growth_min;
        let is_due = |map: &Mapping| map.is_outgrown(self.len(), self.is_sealed(), growth_min);
        let map = data.map.read();
        if let Some(bytes) = map.part(&*data.file, part.clone())? {
            return Ok(Some(bytes));
        }
        if !is_due(&map) {
            return Ok(None);
        }
        drop(map);
        let mut map = data.map.write();
        if is_due(&map) {
            self.map_anew(data, &mut map);
        }
        map.part(&*data.file, part)
    }

    fn map_anew(&self, data: &OpenData, map: &mut Mapping) {
        let len = self.len();
        // Release its share of the budget before taking a new one.
        map.clear(len);
        let me: Weak<dyn Evict> = self.me.clone();
        if let Some(ticket) = self.dir.file_cache.map(len, &me) {
            let slot = self.lock_slot();
            if slot.usage == Use::Open {
                map.fill(&*data.file, ticket);
            }
        }
    }

    pub(super) fn lock_slot(&self) -> explored::MutexGuard<'_, Slot> {
        self.slot.lock()
    }
}

impl Evict for Segment {
    fn last_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn evict(&self) -> bool {
        let owner = || self.dir.owner();
        if !self.is_sealed() {
            return owner().is_some_and(|owner| owner.close_active());
        }
        // Checked again after the sync: a roll that sealed this segment may not have published it yet.
        let unsynced = || self.unsynced.load(Ordering::Acquire);
        let sync = || owner().is_some_and(|owner| owner.sync_sealed());
        if unsynced() && (!sync() || unsynced()) {
            return false;
        }
        self.try_close_file()
    }
}
