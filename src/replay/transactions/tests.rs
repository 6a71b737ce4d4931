use proptest::prelude::*;

use super::*;
use crate::format::Marker;
use crate::format::{Attributes, Batches, Scratch};
use crate::offset::Timestamp;
use crate::replay::producers::Producers;

const PLAIN: Attributes = Attributes::from_bits(0);
const TXN: Attributes = Attributes::from_bits(0x10);
const CONTROL: Attributes = Attributes::from_bits(0x30);

#[derive(Clone, Copy, PartialEq, Debug)]
struct Batch {
    header: BatchHeader,
    control: Option<ControlRecord>,
}

fn batch(attributes: Attributes, producer_id: i64, base: u64, marker: Option<Marker>) -> Batch {
    let base_offset = Offset::new(base);
    let header = BatchHeader {
        base_offset,
        size: 61,
        leader_epoch: 0,
        crc: 0,
        attributes,
        last_offset_delta: if attributes.is_control() { 0 } else { 1 },
        base_timestamp: Timestamp::NONE,
        max_timestamp: Timestamp::NONE,
        producer_id,
        producer_epoch: 0,
        base_sequence: 0,
        count: 1,
    };
    let control = marker.map(|marker| ControlRecord {
        marker,
        coordinator_epoch: 0,
        offset: base_offset,
        timestamp: Timestamp::NONE,
    });
    Batch { header, control }
}

fn data(producer_id: i64, base: u64) -> Batch {
    batch(TXN, producer_id, base, None)
}

fn marker(marker: Marker, producer_id: i64, base: u64) -> Batch {
    batch(CONTROL, producer_id, base, Some(marker))
}

fn aborted(producer_id: i64, first: u64, last: u64, last_stable: u64) -> AbortedTxn {
    let [first_offset, last_offset, last_stable_offset] = [first, last, last_stable].map(Offset::new);
    AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset }
}

fn range(producer_id: i64, first: u64, last: u64) -> AbortedRange {
    aborted(producer_id, first, last, last).into()
}

fn fate(filter: &mut TransactionFilter, batch: &Batch) -> MarkerFate {
    filter.marker(&batch.header, batch.control)
}

fn observed(batches: &[Batch]) -> SegmentTransactions {
    let mut observed = SegmentTransactions::default();
    batches.iter().for_each(|batch| observed.observe(&batch.header, batch.control));
    observed
}

/// A data batch that is read; whether it stays.
fn take(filter: &mut TransactionFilter, batch: &Batch, stays: bool) {
    filter.is_aborted(&batch.header);
    if stays {
        filter.stays(&batch.header);
    }
}

/// The same marker with a horizon.
fn stamped(marker: Batch, at: i64) -> Batch {
    let attributes = marker.header.attributes.with_delete_horizon(true);
    let header = BatchHeader { attributes, base_timestamp: Timestamp::from_millis(at), ..marker.header };
    Batch { header, ..marker }
}

#[test]
fn the_stable_offset_of_an_aborted_transaction_is_the_next_open_one_or_behind_its_marker() {
    let [first_offset, last_offset] = [3, 9].map(Offset::new);
    let mut ended = CompletedTxn { producer_id: 4, first_offset, last_offset, aborted: true };
    assert_eq!(aborted_entry(&ended, None), Some(aborted(4, 3, 9, 10)));
    assert_eq!(aborted_entry(&ended, Some(Offset::new(5))), Some(aborted(4, 3, 9, 5)));
    ended.aborted = false;
    assert_eq!(aborted_entry(&ended, None), None);
}

#[test]
fn a_range_covers_its_producers_transactional_batches_before_the_marker() {
    let range = range(1, 10, 20);
    assert!(range.covers(&data(1, 10).header));
    assert!(range.covers(&data(1, 18).header));
    assert!(!range.covers(&data(1, 8).header));
    assert!(!range.covers(&data(1, 19).header));
    assert!(!range.covers(&data(1, 21).header));
    assert!(!range.covers(&data(2, 12).header));
    assert!(!range.covers(&batch(PLAIN, 1, 12, None).header));
    assert!(!range.covers(&marker(Marker::Abort, 1, 20).header));
}

#[test]
fn collecting_stops_where_no_later_transaction_can_reach_into_the_range() {
    let entries = [aborted(1, 0, 5, 2), aborted(2, 2, 9, 10), aborted(3, 11, 13, 14), aborted(4, 20, 21, 22)];
    let mut taken = 0;
    let mut collect = |from, up_to| {
        taken = 0;
        let counted = entries.into_iter().inspect(|_| taken += 1);
        (collect(counted, Offset::new(from), Offset::new(up_to)), taken)
    };
    assert_eq!(collect(0, 3), (vec![range(1, 0, 5), range(2, 2, 9)], 2));
    assert_eq!(collect(0, 2), (vec![range(1, 0, 5)], 1));
    assert_eq!(collect(6, 12), (vec![range(2, 2, 9), range(3, 11, 13)], 3));
    assert_eq!(collect(6, 11), (vec![range(2, 2, 9)], 3));
    assert_eq!(collect(5, 6), (vec![range(1, 0, 5), range(2, 2, 9)], 2), "the marker's own offset counts");
    assert_eq!(collect(30, 40), (vec![], 4));
}

/// Kafka's listing says which of its records were aborted: those at 3, 4, 7 and 11.
#[test]
fn the_aborted_batches_of_a_log_that_kafka_wrote_are_found() {
    let log = include_bytes!("../../../tests/data/kafka-golden/transactions/transactions-0/00000000000000000000.log");
    let index =
        include_bytes!("../../../tests/data/kafka-golden/transactions/transactions-0/00000000000000000000.txnindex");
    let entries = index.chunks(AbortedTxn::LEN).map(|entry| AbortedTxn::decode(entry).expect("Kafka wrote it"));
    let mut filter = TransactionFilter::default();
    filter.enter_segment(collect(entries, Offset::ZERO, Offset::new(13)));
    let (mut aborted, mut needed, mut scratch) = (Vec::new(), Vec::new(), Scratch::default());
    for batch in Batches::new(log) {
        let batch = batch.expect("Kafka wrote it");
        let header = batch.header();
        if header.attributes.is_control() {
            let control = batch.control(&mut scratch).expect("Kafka wrote it");
            needed.push((header.base_offset.get(), filter.marker(header, control)));
        } else if filter.is_aborted(header) {
            aborted.push((header.base_offset.get(), header.last_offset().get()));
        }
    }
    assert_eq!(aborted, [(3, 4), (7, 7), (11, 11)]);
    assert_eq!(needed, [6, 8, 10, 12].map(|marker| (marker, MarkerFate::Parting)), "none of the batches stays");
}

#[test]
fn a_marker_is_needed_while_a_batch_of_its_transaction_is_there() {
    use MarkerFate::*;
    let mut filter = TransactionFilter::default();
    assert_eq!(fate(&mut filter, &marker(Marker::Commit, 1, 0)), Superfluous);
    take(&mut filter, &data(1, 1), true);
    assert_eq!(fate(&mut filter, &marker(Marker::Abort, 2, 3)), Superfluous, "another producer's");
    assert_eq!(fate(&mut filter, &marker(Marker::Commit, 1, 4)), Needed);
    assert_eq!(fate(&mut filter, &marker(Marker::Commit, 1, 5)), Superfluous);
    take(&mut filter, &batch(PLAIN, 1, 6, None), true);
    assert_eq!(fate(&mut filter, &marker(Marker::Commit, 1, 8)), Superfluous, "no transaction's batch");
    assert_eq!(fate(&mut filter, &marker(Marker::Other(5), 1, 9)), Needed);
    assert_eq!(fate(&mut filter, &batch(CONTROL, 1, 10, None)), Superfluous, "it has lost its record");
    take(&mut filter, &data(1, 11), true);
    take(&mut filter, &data(1, 13), false);
    take(&mut filter, &data(2, 15), false);
    assert_eq!(fate(&mut filter, &marker(Marker::Commit, 1, 17)), Needed, "one of two batches stays");
    assert_eq!(fate(&mut filter, &marker(Marker::Commit, 2, 18)), Parting, "its only batch goes with this walk");
    assert_eq!(fate(&mut filter, &marker(Marker::Commit, 2, 19)), Superfluous);
}

#[test]
fn segments_that_are_not_read_count_by_what_is_known_of_them() {
    use MarkerFate::*;
    let known = [data(1, 0), data(2, 2), marker(Marker::Commit, 2, 4), marker(Marker::Abort, 3, 5)];
    let mut filter = TransactionFilter::default();
    assert!(filter.pass_segment(observed(&known).producers()), "nothing is left of the transaction of 3");
    assert!(!filter.pass_segment(observed(&[data(4, 6)]).producers()));
    for (producer, expected) in [(1, Needed), (2, Superfluous), (3, Superfluous), (4, Needed), (5, Superfluous)] {
        assert_eq!(fate(&mut filter, &marker(Marker::Commit, producer, 10)), expected, "{producer}");
    }
}

#[test]
fn a_segment_that_is_not_read_tells_of_a_marker_whose_transaction_the_walk_has_emptied() {
    let upper = [marker(Marker::Commit, 1, 10), data(2, 11), marker(Marker::Commit, 2, 13)];
    for (stays, expected) in [(true, false), (false, true)] {
        let mut filter = TransactionFilter::default();
        take(&mut filter, &data(1, 0), stays);
        assert_eq!(filter.pass_segment(observed(&upper).producers()), expected);
    }
    let mut filter = TransactionFilter::default();
    take(&mut filter, &data(1, 0), false);
    let has_horizon = [stamped(upper[0], 5), upper[1], upper[2]];
    assert!(!filter.pass_segment(observed(&has_horizon).producers()), "it has a horizon already");
    let mut filter = TransactionFilter::default();
    filter.pass_unknown_segment();
    assert!(!filter.pass_segment(observed(&upper).producers()), "what is not known may hold its batches");
}

#[test]
fn a_segment_tells_which_markers_have_lost_their_transactions_and_from_when_on_they_may_go() {
    let observed = observed(&[
        marker(Marker::Commit, 1, 0),
        marker(Marker::Commit, 1, 1),
        data(1, 2),
        marker(Marker::Abort, 1, 4),
        stamped(marker(Marker::Abort, 1, 5), 70),
        stamped(marker(Marker::Commit, 2, 6), 50),
        marker(Marker::Commit, 2, 7),
        stamped(marker(Marker::Commit, 1, 8), 50),
        data(3, 9),
        stamped(marker(Marker::Commit, 3, 11), 10),
        data(3, 12),
    ]);
    let horizon = |at, first| MarkerHorizon { at: Timestamp::from_millis(at), first: Offset::new(first) };
    assert_eq!(observed.horizons(), [horizon(50, 6), horizon(70, 5)], "not of one with batches");
    assert_eq!(observed.loose(), 2, "those at 1 and 7");
    let producers: Vec<_> = observed.producers().map(|producer| (producer.id, producer.open, producer.leads)).collect();
    assert_eq!(producers, [(1, false, true), (2, false, false), (3, true, false)]);
}

#[test]
fn of_many_horizons_the_latest_are_one_that_is_none_too_early() {
    let mut observed = SegmentTransactions::default();
    for n in 0..200 {
        let marker = stamped(marker(Marker::Commit, 1, 1000 - n), n as i64);
        observed.observe(&marker.header, marker.control);
    }
    let horizons = observed.horizons();
    assert_eq!(horizons.len(), HORIZONS_MAX);
    assert!(horizons.is_sorted());
    let last = horizons[HORIZONS_MAX - 1];
    assert_eq!((last.at.as_millis(), last.first.get()), (199, 801));
}

#[test]
fn behind_an_unknown_segment_each_producers_next_marker_is_needed() {
    use MarkerFate::*;
    let mut filter = TransactionFilter::default();
    let producer = |id, open| SegmentProducer { id, open, leads: false };
    filter.pass_segment([producer(1, false), producer(2, true)]);
    assert!(filter.knows_all());
    filter.pass_unknown_segment();
    assert!(!filter.knows_all());
    for (producer, expected) in [(1, Unknown), (2, Needed), (3, Unknown)] {
        assert_eq!(fate(&mut filter, &marker(Marker::Commit, producer, 10)), expected, "{producer}");
        assert_eq!(fate(&mut filter, &marker(Marker::Commit, producer, 11)), Superfluous, "{producer}");
    }
}

/// Batches of a few producers, cut into segments at the given places.
fn log() -> impl Strategy<Value = (Vec<Batch>, Vec<usize>)> {
    let kind = prop_oneof![5 => Just(0), 1 => Just(1), 2 => Just(2), 2 => Just(3)];
    let batches = prop::collection::vec((kind, 0..3i64), 0..40).prop_map(|batches| {
        let mut end = 0;
        let mut made = Vec::new();
        for (kind, id) in batches {
            made.push(match kind {
                0 => data(id, end),
                1 => batch(PLAIN, id, end, None),
                2 => marker(Marker::Commit, id, end),
                _ => marker(Marker::Abort, id, end),
            });
            end = made[made.len() - 1].header.next_offset().get();
        }
        made
    });
    (batches, prop::collection::vec(1..12usize, 40))
}

fn segments(batches: &[Batch], lengths: &[usize]) -> Vec<Vec<Batch>> {
    let mut rest = batches;
    let mut segments = Vec::new();
    for len in lengths {
        if rest.is_empty() {
            break;
        }
        let (segment, after) = rest.split_at((*len).min(rest.len()));
        segments.push(segment.to_vec());
        rest = after;
    }
    segments
}

/// Replays: the transaction index of each segment, and what is open at the end.
fn replay(segments: &[Vec<Batch>]) -> (Vec<Vec<AbortedTxn>>, Option<Offset>) {
    let mut producers = Producers::default();
    let mut index = |segment: &Vec<Batch>| {
        let ended = segment.iter().filter_map(|batch| {
            let ended = producers.update(&batch.header, batch.control)?;
            aborted_entry(&ended, producers.first_open_transaction())
        });
        ended.collect()
    };
    let indexes = segments.iter().map(&mut index).collect();
    (indexes, producers.first_open_transaction())
}

/// By looking ahead for the marker that decides.
fn is_aborted_by_its_next_marker(batch: &Batch, later: &[Batch]) -> bool {
    let same = later.iter().filter(|later| later.header.producer_id == batch.header.producer_id);
    let decided = same.filter_map(|later| later.control).next();
    is_data(&batch.header) && decided.is_some_and(|control| control.marker == Marker::Abort)
}

/// What [`collect`] finds for a segment.
fn aborted_in(segments: &[Vec<Batch>], indexes: &[Vec<AbortedTxn>], at: usize) -> Vec<AbortedRange> {
    let [first, last] = [&segments[at][0], &segments[at][segments[at].len() - 1]];
    let entries = indexes[at..].iter().flatten().copied();
    collect(entries, first.header.base_offset, last.header.next_offset())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_batch_is_aborted_exactly_when_its_producers_next_marker_says_so((batches, lengths) in log()) {
        let segments = segments(&batches, &lengths);
        let (indexes, _) = replay(&segments);
        let mut at = 0;
        for (i, segment) in segments.iter().enumerate() {
            let ranges = aborted_in(&segments, &indexes, i);
            for batch in segment {
                at += 1;
                let expected = is_aborted_by_its_next_marker(batch, &batches[at..]);
                prop_assert_eq!(is_aborted(&ranges, &batch.header), expected);
                prop_assert_eq!(ranges.iter().any(|range| range.covers(&batch.header)), expected);
            }
        }
    }

    /// Compactions of any segments that drop all that may be dropped, and any committed batches besides.
    #[test]
    fn no_compaction_leaves_a_transaction_open_or_shows_an_aborted_batch(
        (batches, lengths) in log(),
        rounds in prop::collection::vec((any::<u64>(), any::<u64>()), 1..5),
    ) {
        let mut segments = segments(&batches, &lengths);
        let first_open = replay(&segments).1;
        for (read, drop) in rounds {
            let (indexes, _) = replay(&segments);
            let mut filter = TransactionFilter::default();
            let mut output = Vec::new();
            for (i, segment) in segments.iter().enumerate() {
                if read >> (i % 64) & 1 == 0 || segment.is_empty() {
                    match drop >> (i % 64) & 1 {
                        0 => {
                            filter.pass_segment(observed(segment).producers());
                        }
                        _ => filter.pass_unknown_segment(),
                    }
                    output.push(segment.clone());
                    continue;
                }
                filter.enter_segment(aborted_in(&segments, &indexes, i));
                let kept = segment.iter().filter(|batch| {
                    let open = first_open.is_some_and(|open| batch.header.base_offset >= open);
                    let chosen = drop >> (batch.header.base_offset.get() % 64) & 1 == 1;
                    if batch.header.attributes.is_control() {
                        return filter.marker(&batch.header, batch.control) != MarkerFate::Superfluous;
                    }
                    let stays = !filter.is_aborted(&batch.header) && (open || !chosen);
                    if stays {
                        filter.stays(&batch.header);
                    }
                    stays
                });
                output.push(kept.copied().collect());
            }
            segments = output;
            prop_assert_eq!(replay(&segments).1, first_open);
            let left = segments.concat();
            for (i, batch) in left.iter().enumerate() {
                let original = batches.iter().position(|b| b == batch).expect("nothing is made up");
                let was = is_aborted_by_its_next_marker(batch, &batches[original + 1..]);
                prop_assert_eq!(is_aborted_by_its_next_marker(batch, &left[i + 1..]), was);
            }
        }
    }
}
