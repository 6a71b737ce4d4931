//! The resources that all partitions of a log share, with the limits from its configuration.

use std::path::Path;

use crate::config::LogConfig;
use crate::partition::resources::Resources;
use crate::partition::resources::{SpaceWatch, SyncQueue, Unsynced};
use crate::storage::file_cache::FileCache;
use crate::storage::throttle::Throttle;
use crate::storage::{Storage, open_files_limit};
use crate::sync::{Arc, OnceLock};

/// Makes the shared resources of a log in this directory.
pub(super) fn resources(config: &LogConfig, storage: &Arc<dyn Storage>, dir: &Path) -> Resources {
    let open_max = config.max_open_files.unwrap_or_else(|| (open_files_limit() / 2).clamp(8, 1024) as usize);
    Resources {
        storage: Arc::clone(storage),
        file_cache: FileCache::new(open_max, config.max_mapped_bytes),
        preallocator: Arc::default(),
        unsynced: Unsynced::new(config.max_unsynced_bytes, config.backpressure),
        space: SpaceWatch::new(Arc::clone(storage), dir.to_path_buf(), config.min_free_bytes),
        sync_queue: SyncQueue::default(),
        checkpoint_bytes: config.checkpoint_bytes,
        compaction_memory: config.compaction_memory,
        compaction_files: open_max / 4 + 1,
        throttle: Arc::new(Throttle::new(config.compaction_bytes_per_second)),
        hasher: OnceLock::new(),
    }
}
