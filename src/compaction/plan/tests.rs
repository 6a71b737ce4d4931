use super::*;
use crate::compaction::plan::MarkerSummary;
use crate::compaction::testing::clean;
use crate::format::digest::MarkerHorizon;

const MIB: u64 = 1 << 20;

/// Segments of 100 records each; the first append of each a second after that of the one before.
fn segments(bytes: &[u64]) -> Vec<SegmentSummary> {
    let segment = |(number, bytes): (usize, &u64)| SegmentSummary {
        base: Offset::new(number as u64 * 100),
        end: Offset::new(number as u64 * 100 + 100),
        bytes: *bytes,
        index_bytes: 8,
        first_append_at: at(number as i64 * 1000),
        counts: Some(clean(100, *bytes / 2)),
        horizons: Vec::new(),
        markers: Default::default(),
    };
    bytes.iter().enumerate().map(segment).collect()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn rules() -> PlanRules {
    PlanRules {
        now: at(100_000),
        bound: Offset::MAX,
        min_cleanable_dirty_ratio: 0.5,
        max_compaction_lag: None,
        segment_bytes: MIB,
        segment_index_bytes: MIB,
        floor: Offset::MAX,
        delete_retention: Duration::from_secs(60),
        held_until: None,
    }
}

fn dead(records: u64, bytes: u64, since: i64) -> Garbage {
    Garbage { dead_records: records, dead_bytes: bytes, since: Some(at(since)), ..Garbage::default() }
}

/// The segments that are chosen, with the reasons.
fn chosen(plan: &Plan) -> Vec<(Range<usize>, Vec<Reason>)> {
    plan.groups.iter().map(|group| (group.segments.clone(), group.reasons.clone())).collect()
}

#[test]
fn clean_segments_of_full_size_are_left_alone() {
    let plan = plan(&segments(&[MIB; 5]), &[Garbage::default(); 5], &rules());
    assert_eq!(plan, Plan::default());
}

#[test]
fn a_segment_is_chosen_when_more_than_the_ratio_is_garbage() {
    let all = segments(&[MIB; 3]);
    let half = MIB / 4;
    let garbage = [dead(50, half, 0), dead(51, half + 1, 0), Garbage::default()];
    assert_eq!(chosen(&plan(&all, &garbage, &rules())), [(1..2, vec![Reason::Garbage])]);
}

#[test]
fn old_garbage_is_chosen_at_its_deadline_and_not_before() {
    let all = segments(&[MIB; 3]);
    let garbage = [dead(1, 10, 40_000), dead(1, 10, 60_000), Garbage::default()];
    let mut rules = PlanRules { max_compaction_lag: Some(Duration::from_secs(60)), ..rules() };
    let first = plan(&all, &garbage, &rules);
    assert_eq!(chosen(&first), [(0..1, vec![Reason::Lag])]);
    assert_eq!(first.next_deadline, Some(at(120_000)));
    rules.now = at(99_999);
    let before = plan(&all, &garbage, &rules);
    assert_eq!((before.groups.len(), before.next_deadline), (0, Some(at(100_000))));
}

#[test]
fn tombstones_that_may_go_and_older_records_of_their_keys_are_chosen() {
    let garbage = [
        Garbage { joins: true, ..Garbage::default() },
        Garbage { next_horizon: Some(at(500_000)), ..Garbage::default() },
        Garbage { expired: 1, ..Garbage::default() },
    ];
    let plan = plan(&segments(&[MIB; 3]), &garbage, &rules());
    assert_eq!(chosen(&plan), [(0..1, vec![Reason::Joins]), (2..3, vec![Reason::Tombstones])]);
    assert_eq!(plan.next_deadline, Some(at(500_000)));
}

#[test]
fn small_neighbours_become_one_and_large_ones_are_not_moved_for_them() {
    let sizes = [MIB / 8, MIB / 8, MIB, MIB / 8];
    let plan = plan(&segments(&sizes), &[Garbage::default(); 4], &rules());
    assert_eq!(chosen(&plan), [(0..2, vec![Reason::Small; 2])]);
}

#[test]
fn a_segment_above_the_bound_or_without_a_digest_is_not_touched() {
    let mut all = segments(&[MIB; 3]);
    all[0].counts = None;
    let garbage = [dead(100, MIB / 2, 0); 3];
    let rules = PlanRules { bound: Offset::new(200), ..rules() };
    assert_eq!(chosen(&plan(&all, &garbage, &rules)), [(1..2, vec![Reason::Garbage])]);
}

#[test]
fn what_is_new_needs_a_count_only_when_it_could_reach_the_ratio() {
    let all = segments(&[MIB, MIB]);
    let counted = |dead_records| [Some(dead(dead_records, dead_records * MIB / 200, 0)), None];
    let mut few = all.clone();
    few[1].counts = Some(clean(10, 100));
    for (dead_records, expected) in [(30, 0), (45, 1)] {
        let most = could_be(&few, &counted(dead_records), at(0));
        assert_eq!(most[0].dead_records, dead_records + 10);
        assert_eq!(plan(&few, &most, &rules()).groups.len(), expected);
    }
}

#[test]
fn a_segment_is_expected_to_keep_its_live_bytes_and_the_headers_of_their_batches() {
    let counts = DigestCounts { batches: 10, key_bytes: 1000, ..clean(100, 1000) };
    let headers = |batches: u64| batches * BATCH_HEADER_LEN as u64;
    let left = |bytes, garbage| bytes_without_garbage(bytes, &counts, &garbage);
    let whole = 1000 + headers(10);
    assert_eq!(left(whole, Garbage::default()), whole);
    assert_eq!(left(whole, dead(50, 500, 0)), 500 + headers(10));
    assert_eq!(left(whole, dead(98, 980, 0)), 20 + headers(3), "two records, and the last batch");
    assert_eq!(left(500 + headers(10), dead(50, 500, 0)), 250 + headers(10), "compressed to a half");
    let counts_with = DigestCounts { batches: 110, control_batches: 100, control_bytes: 7800, ..counts };
    let left_with = |garbage| bytes_without_garbage(whole + 8700, &counts_with, &garbage);
    assert_eq!(left_with(dead(98, 980, 0)), 20 + headers(3) + 8700, "markers may all stay, with a horizon");
    let segment = SegmentSummary { index_bytes: 800, ..segments(&[whole]).remove(0) };
    let item = Item::of(0, &segment, &counts, &dead(50, 500, 0), None);
    assert_eq!(item.index_bytes, 800 * (500 + headers(10)) / whole);
}

#[test]
fn markers_that_may_go_or_are_to_get_a_horizon_are_chosen_and_the_others_wait() {
    let horizon = |millis, first| MarkerHorizon { at: at(millis), first: Offset::new(first) };
    let markers = [
        MarkerSummary { horizons: vec![horizon(100_000, 5), horizon(900_000, 6)], without_since: None },
        MarkerSummary { horizons: vec![horizon(100_001, 101)], without_since: None },
        MarkerSummary { horizons: Vec::new(), without_since: Some(at(40_000)) },
        MarkerSummary { horizons: Vec::new(), without_since: Some(at(70_000)) },
        MarkerSummary { horizons: vec![horizon(90_000, 450)], without_since: None },
    ];
    let mut all = segments(&[MIB; 5]);
    all.iter_mut().zip(markers).for_each(|(segment, markers)| segment.markers = markers);
    let mut rules = PlanRules { floor: Offset::new(450), held_until: Some(at(110_000)), ..rules() };
    let first = plan(&all, &[Garbage::default(); 5], &rules);
    assert_eq!(chosen(&first), [(0..1, vec![Reason::Markers]), (2..3, vec![Reason::Markers])]);
    assert_eq!(first.next_deadline, Some(at(100_001)));
    rules.floor = Offset::new(451);
    let passed = plan(&all, &[Garbage::default(); 5], &rules);
    assert_eq!(chosen(&passed)[2], (4..5, vec![Reason::Markers]));
}
