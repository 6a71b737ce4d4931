use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::compaction::testing::{Segments, drafts};
use crate::format::digest::{DigestAnnex, DigestCounts, DigestSubject};
use crate::storage::OpenMode;
use crate::storage::sim::{Call, Calls};

/// All that a merge shows, in its order.
fn merged(segments: &Segments, budget: MergeBudget) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    Merge::new(&segments.storage, &segments.sources, budget).run(|records| {
        assert!(!records.is_empty());
        all.extend_from_slice(records);
        Ok(())
    })?;
    Ok(all)
}

/// The same from the records: the last one of each key in each segment, in the order of hash and segment.
fn expected(segments: &Segments) -> Vec<Found> {
    let mut last = BTreeMap::new();
    for (number, record) in segments.all() {
        let hash = segments.hasher.hash(&record.key.to_be_bytes());
        let delta = record.offset.since(segments.facts[number].base) as u32;
        let (source, tombstone, record_bytes) = (number as u32, record.tombstone, record.bytes);
        last.insert((hash, source), Found { hash, source, delta, tombstone, record_bytes });
    }
    last.into_values().collect()
}

fn resources() -> impl Strategy<Value = MergeBudget> {
    let memory = prop_oneof![0..2000_usize, Just(DigestBlocks::LEN * 9), Just(1 << 20)];
    (memory, 0..5_usize).prop_map(|(memory, files)| MergeBudget { memory, files })
}

proptest! {
    #[test]
    fn every_key_is_shown_once_with_all_its_records(drafts in drafts(300, 9, 400), budget in resources()) {
        let segments = Segments::new(&drafts);
        prop_assert_eq!(merged(&segments, budget).unwrap(), expected(&segments));
    }
}

#[test]
fn a_key_is_never_cut_in_two() {
    let drafts: Vec<_> = (0..20).map(|_| (0..500).map(|key| (key, false, 0)).collect()).collect();
    let segments = Segments::new(&drafts);
    let merge = Merge::new(&segments.storage, &segments.sources, MergeBudget { memory: 0, files: 1 });
    let mut slices = 0;
    merge
        .run(|records| {
            slices += 1;
            assert!(records.chunk_by(Found::is_same_key).all(|key| key.len() == 20));
            Ok(())
        })
        .unwrap();
    assert!(slices > 100, "{slices}");
}

#[test]
fn large_digests_are_merged_with_little_memory() {
    let drafts: Vec<_> = (0..3).map(|i| (0..20_000).map(|key| (key * (i + 1), key % 3 == 0, 0)).collect()).collect();
    let segments = Segments::new(&drafts);
    let expected = expected(&segments);
    for memory in [1000, 100_000, 1 << 24] {
        assert_eq!(merged(&segments, MergeBudget { memory, files: 2 }).unwrap(), expected);
    }
}

/// Four digests whose hashes have but five different upper halves.
fn crowded() -> Segments {
    let mut segments = Segments::new(&[]);
    for number in 0..4_u64 {
        let hash = |i: u64| KeyHash { high: i / 600, low: i * (number + 1) };
        let entries: Vec<_> = (0..3000).map(|i| DigestEntry::new(hash(i), i as u32, false, 1)).collect();
        add_digest(&mut segments, number * 10_000, &entries);
    }
    segments
}

/// A digest with these entries, whatever their order. Its checksums are right.
fn add_digest(segments: &mut Segments, base: u64, entries: &[DigestEntry]) {
    let base = Offset::new(base);
    let subject = DigestSubject { key_id: 0, base, end: base + 10_000, log_len: 0, headers_sum: 0 };
    let (blocks, mut bytes) = (subject.blocks(), Vec::new());
    for (number, entries) in entries.chunks(DigestBlocks::ENTRIES).enumerate() {
        let start = bytes.len();
        for entry in entries {
            let mut slot = [0; DigestEntry::LEN];
            entry.encode_to(&mut slot);
            bytes.extend_from_slice(&slot);
        }
        blocks.seal(number as u64, &mut bytes, start);
    }
    let (keys, key_bytes) = (entries.len() as u64, entries.iter().map(|entry| u64::from(entry.record_bytes())).sum());
    let counts = DigestCounts { records: keys, record_bytes: key_bytes, keys, key_bytes, ..DigestCounts::default() };
    let footer = DigestFooter::new(subject, counts, &DigestAnnex::default(), &[]);
    bytes.extend_from_slice(&footer.encode());
    let path = segments.path();
    segments.storage.open(&path, OpenMode::CreateNew).unwrap().write_at(&bytes, 0).unwrap();
    segments.sources.push(Source { path, footer });
}

#[test]
fn hashes_that_are_not_spread_are_merged_too() {
    let segments = crowded();
    for memory in [0, 1 << 15, 1 << 22] {
        let found = merged(&segments, MergeBudget { memory, files: 9 }).unwrap();
        assert_eq!(found.len(), 12_000);
        assert!(found.is_sorted());
    }
}

#[test]
fn a_slice_that_turns_out_too_wide_is_left_before_it_fills_the_memory() {
    let mut segments = Segments::new(&[]);
    for number in 0..4_u64 {
        // They lie in a tiny part of all hashes, and look as if no slice held more than a few of them.
        let hash = |i: u64| KeyHash { high: i * 4 + number, low: 0 };
        let entries: Vec<_> = (0..3000).map(|i| DigestEntry::new(hash(i), i as u32, false, 1)).collect();
        add_digest(&mut segments, number * 10_000, &entries);
    }
    let mut merge = Merge::new(&segments.storage, &segments.sources, MergeBudget { memory: 1 << 15, files: 9 });
    let left = merge.left().sum();
    merge.fill_slice(0, left).unwrap();
    assert!(!merge.slice.is_empty() && merge.slice.len() <= merge.capacity);
    // A vector that grows may be twice as large as what was put into it.
    assert!(merge.slice.capacity() <= 2 * (merge.capacity + DigestBlocks::ENTRIES), "{}", merge.slice.capacity());
}

#[test]
fn entries_out_of_their_order_and_of_records_outside_the_segment_are_damage() {
    let entry = |high, delta| DigestEntry::new(KeyHash { high, low: 0 }, delta, false, 1);
    let far = u64::MAX / 2;
    for entries in [
        vec![entry(5, 1), entry(4, 2)],
        vec![entry(5, 1), entry(5, 2)],
        vec![entry(5, 1), entry(far, 2), entry(6, 3)],
        vec![entry(5, 1), entry(6, 10_000)],
    ] {
        for memory in [0, 1 << 20] {
            let mut segments = Segments::new(&[]);
            add_digest(&mut segments, 0, &[entry(5, 0), entry(far, 1)]);
            add_digest(&mut segments, 10_000, &entries);
            let error = merged(&segments, MergeBudget { memory, files: 9 }).unwrap_err();
            assert!(error.is_corruption(), "{entries:?}: {error}");
            assert_eq!(error.path(), Some(segments.sources[1].path.as_path()));
        }
    }
}

#[test]
fn a_digest_is_opened_once_where_as_many_files_may_be_open() {
    let drafts: Vec<_> = (0..3).map(|_| (0..500).map(|key| (key, false, 0)).collect()).collect();
    let segments = Segments::new(&drafts);
    let opened = |files| {
        segments.storage.set_fault(None);
        merged(&segments, MergeBudget { memory: 0, files }).unwrap();
        segments.storage.calls(Calls::Only(Call::Open))
    };
    assert_eq!(opened(3), 3);
    assert!(opened(2) > 100, "the others anew for each slice");
}

#[test]
fn damage_anywhere_in_a_digest_is_an_error_that_names_it() {
    let drafts: Vec<_> = (0..3).map(|i| (0..200).map(|key| (key + i, false, 0)).collect()).collect();
    let segments = Segments::new(&drafts);
    let Source { path, footer } = &segments.sources[1];
    for position in 0..footer.file_len() as usize {
        segments.storage.flip(path, position, 3).unwrap();
        match merged(&segments, MergeBudget { memory: 1 << 20, files: 1 }) {
            Ok(_) => panic!("the flipped bit in byte {position} was not found out"),
            Err(error) => {
                assert!(error.is_corruption(), "{error}");
                assert_eq!(error.path(), Some(path.as_path()));
            }
        }
        segments.storage.flip(path, position, 3).unwrap();
    }
}

#[test]
fn a_digest_that_went_away_is_an_error() {
    let segments = Segments::new(&[vec![(1, false, 0)], vec![(1, false, 0)]]);
    segments.storage.remove_file(&segments.sources[0].path).unwrap();
    assert!(merged(&segments, MergeBudget { memory: 0, files: 0 }).is_err());
}

#[test]
fn as_many_entries_are_expected_as_the_range_has_of_all_hashes() {
    assert_eq!(super::expected(0, u64::MAX, 1000), 1000);
    let quarter = super::expected(0, u64::MAX / 4, 1000);
    assert!((250..300).contains(&quarter), "{quarter}");
    let half_of_the_rest = super::expected(u64::MAX / 2, u64::MAX / 4 * 3, 1000);
    assert!((500..550).contains(&half_of_the_rest), "{half_of_the_rest}");
    assert_eq!(super::expected(7, 7, 1000), 0);
}
