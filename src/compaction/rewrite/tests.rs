use super::*;
use crate::storage::file_cache::FileCache;
use crate::storage::sim::SimStorage;

#[test]
fn no_name_of_a_temporary_file_is_given_twice() {
    let storage: Arc<dyn Storage> = Arc::new(SimStorage::new());
    let dir = PartitionDir::new(PathBuf::from("/t-0"), storage, FileCache::new(9, 0), Arc::default());
    let counter = AtomicU64::new(0);
    let mut given = std::collections::BTreeSet::new();
    // Each pass has its own; the counter is the partition's.
    for _ in 0..2 {
        let temporaries = Temporaries::new(&dir, &counter);
        for kind in [SegmentFileKind::Log, SegmentFileKind::Digest, SegmentFileKind::Digest] {
            assert!(given.insert(temporaries.path(Offset::ZERO, kind)), "{given:?}");
        }
    }
}
