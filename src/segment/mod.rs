//! A segment: one `.log` file with its indexes, shared by the active and the sealed ones.

pub(crate) mod boundary;
pub(crate) mod cut_point;
pub(crate) mod digest_file;
mod file;
pub(crate) mod index;
pub(crate) mod index_files;
pub(crate) mod list;
pub(crate) mod listing;
mod mapping;
mod meta;
mod open_file;
mod partition_dir;
mod read;
pub(crate) mod replace;
mod reserve;
pub(crate) mod scan;
pub(crate) mod walk;
pub(crate) mod writer;

use std::fmt;
use std::path::PathBuf;

use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::Offset;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, RwLock, Weak, explored};

use self::index::SegmentIndex;
pub(crate) use self::meta::SegmentMeta;
pub(crate) use self::open_file::OpenData;
use self::open_file::{Slot, Use};
pub(crate) use self::partition_dir::{Owner, PartitionDir};
pub(crate) use self::read::Slice;

/// One segment. Its extent only grows, and only while it is the active one.
pub(crate) struct Segment {
    base: Offset,
    dir: Arc<PartitionDir>,
    /// Bytes that may be read: whole batches. Stored (Release) after them, their index entries and `end`.
    readable: explored::AtomicU64,
    /// One past the last offset.
    end: explored::AtomicU64,
    /// Stored (Release) when neither of these changes any more.
    sealed: explored::AtomicBool,
    /// It had a writer, and was not synced since it was sealed. Stored (Release) after the sync that it tells of.
    unsynced: AtomicBool,
    /// [`FileCache::now`](crate::storage::file_cache::FileCache::now) of the last use, as a hint.
    used: AtomicU64,
    facts: Mutex<SegmentMeta>,
    index: RwLock<SegmentIndex>,
    /// Held while index files are written or entries found again, never while a reader looks an entry up.
    index_files: Mutex<()>,
    slot: explored::Mutex<Slot>,
    me: Weak<Segment>,
}

impl Segment {
    /// A segment whose file is there. `extent` is its readable length and its end offset.
    pub(crate) fn new(
        dir: &Arc<PartitionDir>,
        base: Offset,
        extent: (u64, Offset),
        sealed: bool,
        facts: SegmentMeta,
        index: SegmentIndex,
    ) -> Arc<Segment> {
        assert!(extent.1 >= base, "a segment ends at or after its base");
        Arc::new_cyclic(|me| Segment {
            base,
            dir: Arc::clone(dir),
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

    pub(crate) fn dir(&self) -> &Arc<PartitionDir> {
        &self.dir
    }

    pub(crate) fn meta(&self) -> SegmentMeta {
        *self.lock_meta()
    }

    pub(crate) fn update_meta(&self, change: impl FnOnce(&mut SegmentMeta)) {
        change(&mut self.lock_meta());
    }

    /// Its suffix at this moment.
    pub(crate) fn suffix(&self) -> Suffix {
        self.lock_slot().suffix
    }

    /// The file's path at this moment.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.segment_path(self.base, SegmentFileKind::Log, self.lock_slot().suffix)
    }

    /// The path of one of its other files.
    pub(crate) fn sidecar_path(&self, kind: SegmentFileKind) -> PathBuf {
        self.dir.segment_path(self.base, kind, self.lock_slot().suffix)
    }

    /// Takes note of when the file was changed last: nobody writes it any more. What is not known costs a walk.
    pub(crate) fn note_modified(&self) {
        let data = self.lock_slot().data.clone();
        let info = data.map_or_else(|| self.dir.storage.info(&self.path()), |data| data.file.info());
        if let Ok(info) = info {
            self.update_meta(|facts| facts.modified = info.modified);
        }
    }

    /// It was synced as a sealed segment.
    pub(crate) fn set_synced(&self) {
        self.unsynced.store(false, Ordering::Release);
    }

    fn lock_meta(&self) -> MutexGuard<'_, SegmentMeta> {
        self.facts.lock()
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment[{}, {}) {} bytes", self.base, self.end(), self.len())
    }
}

#[cfg(test)]
mod tests;
