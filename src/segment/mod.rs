//! A segment: one `.log` file with its indexes. Active and sealed segments share this type.

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
    /// Readable bytes: whole batches. Stored (Release) after these bytes, their index entries and `end`.
    readable: explored::AtomicU64,
    /// One past the last offset.
    end: explored::AtomicU64,
    /// Stored (Release) once neither `readable` nor `end` changes any more.
    sealed: explored::AtomicBool,
    /// The segment had a writer and has not been synced since it was sealed. Cleared (Release) after that sync.
    unsynced: AtomicBool,
    /// [`FileCache::now`](crate::storage::file_cache::FileCache::now) at the last use, as a hint.
    used: AtomicU64,
    facts: Mutex<SegmentMeta>,
    index: RwLock<SegmentIndex>,
    /// Held while index files are written or entries are recovered, never while a reader looks up an entry.
    index_files: Mutex<()>,
    slot: explored::Mutex<Slot>,
    me: Weak<Segment>,
}

impl Segment {
    /// Creates a segment whose file exists. `extent` is its readable length and its end offset.
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

    /// The number of readable bytes.
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

    /// The current suffix of its files.
    pub(crate) fn suffix(&self) -> Suffix {
        self.lock_slot().suffix
    }

    /// The current path of its `.log` file.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.segment_path(self.base, SegmentFileKind::Log, self.lock_slot().suffix)
    }

    /// The current path of one of its other files.
    pub(crate) fn sidecar_path(&self, kind: SegmentFileKind) -> PathBuf {
        self.dir.segment_path(self.base, kind, self.lock_slot().suffix)
    }

    /// Records the file's modification time, once the file is no longer written. If it stays unknown, the next open
    /// must walk the file.
    pub(crate) fn note_modified(&self) {
        let data = self.lock_slot().data.clone();
        let info = data.map_or_else(|| self.dir.storage.info(&self.path()), |data| data.file.info());
        if let Ok(info) = info {
            self.update_meta(|facts| facts.modified = info.modified);
        }
    }

    /// Records that it was synced as a sealed segment.
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
