//! The directory of a partition.

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

/// The directory of a partition's files, and the budgets that they share.
pub(crate) struct PartitionDir {
    pub(crate) path: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) file_cache: Arc<FileCache>,
    pub(crate) preallocator: Arc<Preallocator>,
    pub(crate) sizes: Sizes,
    /// Whether reads may use mappings. A read concurrent with a change may see either value.
    pub(crate) mapped_reads: AtomicBool,
    owner: OnceLock<Weak<dyn Owner>>,
}

/// Writes the segments of a partition. It is asked for help when a file with unsynced bytes is to be closed. A file is
/// never closed before they are synced, because the error would get lost with it.
pub(crate) trait Owner: Send + Sync {
    /// Syncs the active segment and closes its file. Returns `false` if its writer is busy or the sync failed.
    fn close_active(&self) -> bool;
    /// Syncs the segment that was sealed last. Returns `false` if that failed.
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

    /// The same directory, for a reader beside its owner. It maps nothing, because another process may truncate the
    /// files.
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

    /// Sets the owner, once.
    pub(crate) fn set_owner(&self, owner: Weak<dyn Owner>) {
        assert!(self.owner.set(owner).is_ok(), "a partition directory has one owner");
    }

    /// The partition that writes here, while it exists.
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

    /// Writes a producer snapshot. It gets its name only once it is whole, so that a kill leaves no partial snapshot.
    /// The next open, ours or Kafka's, removes the leftover. The caller makes the name durable.
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
