use std::collections::HashSet;

use super::*;

/// `segments` segments of as many records, with keys that come again within them and across.
fn keys(segments: usize, records: usize, distinct: usize) -> Vec<Vec<[u8; 12]>> {
    let key = |n: usize| format!("key-{:08}", n * n % distinct).into_bytes().try_into().expect("12 bytes");
    let segment = |number: usize| (0..records).map(|n| key(number * 31 + n)).collect();
    (0..segments).map(segment).collect()
}

#[test]
fn what_is_measured_is_right_in_any_memory() {
    let keys = keys(5, 30_000, 99_991);
    let distinct = keys.iter().flatten().collect::<HashSet<_>>().len() as u64;
    let last_in_segment: u64 = keys.iter().map(|keys| keys.iter().collect::<HashSet<_>>().len() as u64).sum();
    for memory in [0, 1 << 20, 64 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let mut digests = Digests::new(dir.path().to_path_buf(), memory);
        digests.build(keys.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(digests.count().unwrap(), last_in_segment - distinct, "{memory}");
        for groups in [1, 2, 5] {
            assert_eq!(digests.survivors(groups).unwrap(), distinct, "{memory}, {groups}");
        }
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, keys.len(), "the digests and nothing else are left");
    }
}

#[test]
fn a_hash_of_keys_depends_on_each_of_them() {
    let digests = Digests::new(PathBuf::new(), 1 << 20);
    let keys = keys(1, 100, 99_991).remove(0);
    assert_ne!(digests.hash(&keys), digests.hash(&keys[1..]));
    assert_eq!(digests.hash(&[keys[0], keys[1]]), digests.hash(&[keys[1], keys[0]]), "in any order");
}
