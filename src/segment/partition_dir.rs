//! Where the files of a partition are.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::format::file_name::{SegmentFileKind, Suffix, segment_file};
use crate::offset::Offset;
use crate::storage::file_cache::FileCache;
use crate::storage::preallocator::Preallocator;
use crate::storage::{Sizes, Storage, small_file};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, OnceLock, Weak};

/// Where the files of a partition are, and the budgets that they share.
pub(crate) struct PartitionDir {
    pub(crate) path: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) file_cache: Arc<FileCache>,
    pub(crate) preallocator: Arc<Preallocator>,
    pub(crate) sizes: Sizes,
    /// A read beside a change maps or does not.
    pub(crate) mapped_reads: AtomicBool,
    owner: OnceLock<Weak<dyn Owner>>,
}

/// Who writes the segments of a partition. Asked for help when a file is to be closed that has unsynced bytes: a file
/// is never closed before they are synced, because an error would get lost with it.
pub(crate) trait Owner: Send + Sync {
    /// Syncs the active segment and closes its file; `false` when its writer is busy or the sync failed.
    fn close_active(&self) -> bool;
    /// Syncs the segment that was sealed last; `false` when that failed.
    fn sync_sealed(&self) -> bool;
}

impl PartitionDir {
    pub(crate) fn new(
        path: PathBuf,
        storage: Arc<dyn Storage>,
        file_cache: Arc<FileCache>,
        preallocator: Arc<Preallocator>,
    ) -> PartitionDir {
        let (sizes, mapped_reads) = (storage.sizes(), AtomicBool::new(true));
        PartitionDir { path, storage, file_cache, preallocator, sizes, mapped_reads, owner: OnceLock::new() }
    }

    /// The same directory, for somebody who reads beside its owner. Nothing is mapped that another process may cut.
    pub(crate) fn reading_only(other: &PartitionDir) -> PartitionDir {
        let (storage, file_cache, preallocator) = (&other.storage, &other.file_cache, &other.preallocator);
        let dir = PartitionDir::new(
            other.path.clone(),
            Arc::clone(storage),
            Arc::clone(file_cache),
            Arc::clone(preallocator),
        );
        PartitionDir { mapped_reads: AtomicBool::new(false), ..dir }
    }

    /// Names the owner, once.
    pub(crate) fn set_owner(&self, owner: Weak<dyn Owner>) {
        assert!(self.owner.set(owner).is_ok(), "a partition directory has one owner");
    }

    /// Who writes here, while there is somebody.
    pub(super) fn owner(&self) -> Option<Arc<dyn Owner>> {
        self.owner.get().and_then(Weak::upgrade)
    }

    /// The path of a file in the directory.
    pub(crate) fn file_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The path of a segment's file.
    pub(crate) fn segment_path(&self, base: Offset, kind: SegmentFileKind, suffix: Suffix) -> PathBuf {
        self.path.join(segment_file(base, kind, suffix))
    }

    /// Writes a producer snapshot. It has its name once it is whole, so that a kill leaves no half of one; what it leaves
    /// goes at the next open, ours or Kafka's. The caller makes the name durable.
    pub(crate) fn put_snapshot(&self, at: Offset, bytes: &[u8]) -> Result<()> {
        let path = |suffix| self.segment_path(at, SegmentFileKind::Snapshot, suffix);
        small_file::put(&*self.storage, &path(Suffix::None), &path(Suffix::Cleaned), bytes)
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync_dir(&self) -> Result<()> {
        self.storage.sync_dir(&self.path).map_err(|e| Error::io(e, &self.path))
    }
}

impl fmt::Debug for PartitionDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionDir").field("path", &self.path).finish_non_exhaustive()
    }
}
