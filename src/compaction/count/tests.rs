use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::compaction::merge::MergeBudget;
use crate::compaction::testing::{Segments, drafts};
use crate::offset::Offset;

fn counted(segments: &Segments, floor: Offset) -> Vec<Garbage> {
    let merge = Merge::new(&segments.storage, &segments.sources, MergeBudget { memory: 0, files: 2 });
    let rule = TombstoneRule { now: Timestamp::from_millis(0), floor, pinned_from: None };
    count_garbage(merge, &segments.meta(), &rule).unwrap()
}

proptest! {
    #[test]
    fn the_dead_are_those_that_a_later_segment_supersedes(drafts in drafts(40, 7, 60)) {
        let segments = Segments::new(&drafts);
        for (number, garbage) in counted(&segments, Offset::MAX).iter().enumerate() {
            let last: BTreeMap<u32, u32> = segments.records[number].iter().map(|rec| (rec.key, rec.bytes)).collect();
            let next = |key| (number + 1..drafts.len()).find(|at| segments.records[*at].iter().any(|rec| rec.key == key));
            let dead: Vec<_> = last.iter().filter_map(|(key, bytes)| next(*key).map(|next| (bytes, next))).collect();
            prop_assert_eq!(garbage.dead_records, dead.len() as u64);
            prop_assert_eq!(garbage.dead_bytes, dead.iter().map(|(bytes, _)| u64::from(**bytes)).sum::<u64>());
            prop_assert_eq!(garbage.since, dead.iter().map(|(_, next)| segments.facts[*next].first_append_at).min());
        }
    }

    #[test]
    fn tombstones_that_may_go_call_for_the_older_records_of_their_keys(drafts in drafts(40, 7, 60), floor in 1000..1400_u64) {
        let mut segments = Segments::new(&drafts);
        segments.set_horizons(|number| Some(if number % 3 == 2 { 1 } else { 0 }));
        let floor = Offset::new(floor);
        let (mut expired, mut held) = (vec![0; drafts.len()], vec![0; drafts.len()]);
        let mut joins = vec![false; drafts.len()];
        let latest = segments.latest();
        for (number, record) in segments.all().filter(|(_, rec)| rec.tombstone && latest[&rec.key] == rec.offset) {
            match (number % 3, record.offset < floor) {
                (2, _) => {}
                (_, false) => held[number] += 1,
                (_, true) => {
                    expired[number] += 1;
                    for (older, _) in segments.all().filter(|(at, rec)| rec.key == record.key && *at < number) {
                        joins[older] = true;
                    }
                }
            }
        }
        let garbage = counted(&segments, floor);
        prop_assert_eq!(garbage.iter().map(|g| g.expired).collect::<Vec<_>>(), expired);
        prop_assert_eq!(garbage.iter().map(|g| g.held).collect::<Vec<_>>(), held);
        prop_assert_eq!(garbage.iter().map(|g| g.joins).collect::<Vec<_>>(), joins);
    }
}
