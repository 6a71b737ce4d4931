use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::compaction::merge::MergeBudget;
use crate::compaction::testing::{Segments, drafts};
use crate::offset::Timestamp;

/// What stays of the chosen segments, each a group of its own, and how many tombstones go.
fn kept(segments: &Segments, chosen: &[usize], memory: usize) -> (BTreeSet<Offset>, u64) {
    let groups: Vec<Range<Offset>> = chosen.iter().map(|number| segments.offsets(*number..number + 1)).collect();
    let rule = TombstoneRule { now: Timestamp::from_millis(0), floor: Offset::MAX, pinned_from: None };
    let merge = Merge::new(&segments.storage, &segments.sources, MergeBudget { memory, files: 2 });
    let name = || segments.path();
    let temp = TempFiles::new(&segments.storage, &name);
    let memory = SurvivorMemory::new(memory);
    let mut survivors = Survivors::find(merge, &segments.meta(), &groups, &rule, &memory, temp).unwrap();
    let mut found = BTreeSet::new();
    for (group, number) in chosen.iter().enumerate() {
        for record in &segments.records[*number] {
            if survivors.of_batch(group, record.offset..=record.offset).unwrap() == [0] {
                found.insert(record.offset);
            }
        }
    }
    assert_eq!(survivors.groups().iter().map(|group| group.records).sum::<u64>(), found.len() as u64);
    (found, survivors.groups().iter().map(|group| group.dropped_tombstones).sum())
}

fn chosen(segments: &Segments, mask: u32) -> Vec<usize> {
    (0..segments.records.len()).filter(|at| mask >> at & 1 == 1 && !segments.records[*at].is_empty()).collect()
}

proptest! {
    #[test]
    fn the_latest_record_of_each_key_stays(drafts in drafts(40, 7, 60), mask in any::<u32>()) {
        let segments = Segments::new(&drafts);
        let chosen = chosen(&segments, mask);
        let latest = segments.latest();
        let stays = segments.all().filter(|(at, rec)| chosen.contains(at) && latest[&rec.key] == rec.offset);
        let expected: BTreeSet<Offset> = stays.map(|(_, rec)| rec.offset).collect();
        prop_assert_eq!(kept(&segments, &chosen, 0), (expected, 0), "no horizon, so no tombstone goes");
    }

    #[test]
    fn a_tombstone_goes_only_with_all_older_records_of_its_key(drafts in drafts(40, 7, 60), mask in any::<u32>()) {
        let mut segments = Segments::new(&drafts);
        segments.set_horizons(|_| Some(0));
        let chosen = chosen(&segments, mask);
        let latest = segments.latest();
        let goes = |key: u32| segments.all().filter(|(_, rec)| rec.key == key).all(|(at, _)| chosen.contains(&at));
        let last = segments.all().filter(|(at, rec)| chosen.contains(at) && latest[&rec.key] == rec.offset);
        let (dropped, stays): (Vec<_>, Vec<_>) = last.partition(|(_, rec)| rec.tombstone && goes(rec.key));
        let expected: BTreeSet<Offset> = stays.iter().map(|(_, rec)| rec.offset).collect();
        prop_assert_eq!(kept(&segments, &chosen, 1 << 16), (expected, dropped.len() as u64));
    }
}

#[test]
fn no_record_relies_on_one_above_the_highest_winner() {
    let drafts = [vec![(1, false, 0), (2, false, 0)], vec![(3, false, 0)], vec![(1, false, 0)]];
    let segments = Segments::new(&drafts.map(|draft| draft.to_vec()));
    let rule = TombstoneRule { now: Timestamp::from_millis(0), floor: Offset::MAX, pinned_from: None };
    let merge = Merge::new(&segments.storage, &segments.sources, MergeBudget { memory: 0, files: 2 });
    let name = || segments.path();
    let groups = [segments.offsets(0..1), segments.offsets(1..2)];
    let temp = TempFiles::new(&segments.storage, &name);
    let survivors = Survivors::find(merge, &segments.meta(), &groups, &rule, &SurvivorMemory::new(0), temp).unwrap();
    let winner = segments.records[2][0].offset;
    let highest: Vec<_> = survivors.groups().iter().map(|group| group.highest_winner).collect();
    assert_eq!(highest, [Some(winner), None]);
}
