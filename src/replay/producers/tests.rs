use proptest::prelude::*;

use super::*;
use crate::format::{Attributes, Batches, Scratch};
use crate::replay::transactions::aborted_entry;

const DATA: Attributes = Attributes::from_bits(0);
const TXN: Attributes = Attributes::from_bits(0x10);
const CONTROL: Attributes = Attributes::from_bits(0x30);

/// A batch of `len` offsets, with its timestamp equal to its last offset and sequences equal to offsets.
fn batch(attributes: Attributes, producer_id: i64, producer_epoch: i16, base: u64, len: u32) -> BatchHeader {
    let timestamp = Timestamp::from_millis(base as i64 + i64::from(len) - 1);
    BatchHeader {
        base_offset: Offset::new(base),
        size: 61,
        leader_epoch: 0,
        crc: 0,
        attributes,
        last_offset_delta: len - 1,
        base_timestamp: timestamp,
        max_timestamp: timestamp,
        producer_id,
        producer_epoch,
        base_sequence: if attributes.is_control() { -1 } else { base as i32 },
        count: len,
    }
}

fn control(marker: Marker, at: &BatchHeader) -> Option<ControlRecord> {
    Some(ControlRecord { marker, coordinator_epoch: 7, offset: at.base_offset, timestamp: at.max_timestamp })
}

/// Shorthand for the tests that write a log by hand.
struct Log {
    producers: Producers,
    end: u64,
}

impl Log {
    fn new() -> Log {
        Log { producers: Producers::default(), end: 0 }
    }

    fn data(&mut self, attributes: Attributes, producer_id: i64, epoch: i16, len: u32) {
        let header = batch(attributes, producer_id, epoch, self.end, len);
        self.end += u64::from(len);
        assert_eq!(self.producers.update(&header, None), None);
    }

    fn marker(&mut self, marker: Marker, producer_id: i64, epoch: i16) -> Option<CompletedTxn> {
        let header = batch(CONTROL, producer_id, epoch, self.end, 1);
        self.end += 1;
        self.producers.update(&header, control(marker, &header))
    }

    fn open(&self) -> Option<u64> {
        self.producers.first_open_transaction().map(Offset::get)
    }

    fn unstable(&mut self, high_watermark: u64) -> Option<u64> {
        self.producers.first_unstable(Offset::new(high_watermark)).map(Offset::get)
    }

    fn known(&self) -> Vec<i64> {
        self.producers.entries.keys().copied().collect()
    }
}

/// Replays whole segments: the state behind them, and the entries of their transaction index.
fn replay(segments: &[&[u8]]) -> (Producers, Vec<u8>) {
    let (mut producers, mut index, mut scratch) = (Producers::default(), Vec::new(), Scratch::default());
    for batch in segments.iter().flat_map(|bytes| Batches::new(bytes)) {
        let batch = batch.expect("Kafka wrote it");
        let control = batch.control(&mut scratch).expect("Kafka wrote it");
        if let Some(ended) = producers.update(batch.header(), control) {
            let entry = aborted_entry(&ended, producers.first_open_transaction());
            index.extend(entry.iter().flat_map(|entry| entry.encode()));
        }
    }
    (producers, index)
}

/// A file of one of the directories that Kafka wrote.
macro_rules! golden {
    ($topic:literal, $file:literal) => {
        &include_bytes!(concat!("../../../tests/data/kafka-golden/", $topic, "/", $topic, "-0/", $file))[..]
    };
}

#[test]
fn replaying_transactions_gives_the_snapshot_and_the_transaction_index_that_kafka_wrote() {
    let (producers, index) = replay(&[golden!("transactions", "00000000000000000000.log")]);
    assert_eq!(producers.to_snapshot(), golden!("transactions", "00000000000000000013.snapshot"));
    assert_eq!(index, golden!("transactions", "00000000000000000000.txnindex"));
}

#[test]
fn replaying_a_compacted_log_gives_the_snapshot_that_kafka_wrote() {
    let (producers, _) = replay(&[
        golden!("cleaned-idempotent", "00000000000000000018.log"),
        golden!("cleaned-idempotent", "00000000000000000051.log"),
    ]);
    assert_eq!(producers.to_snapshot(), golden!("cleaned-idempotent", "00000000000000000054.snapshot"));
}

/// The two producers stand in the order of a Java hash map there.
#[test]
fn replaying_idempotent_producers_gives_the_snapshot_that_kafka_wrote_but_for_its_order() {
    let (producers, _) = replay(&[golden!("idempotent", "00000000000000000000.log")]);
    let mut entries = snapshot::decode(golden!("idempotent", "00000000000000000060.snapshot")).expect("Kafka wrote it");
    entries.sort_by_key(|entry| entry.producer_id);
    assert_eq!(producers.to_snapshot(), snapshot::encode(&entries));
    assert_eq!(producers.len(), 2);
}

#[test]
fn every_snapshot_of_kafka_comes_back_byte_for_byte() {
    for bytes in [
        golden!("transactions", "00000000000000000013.snapshot"),
        golden!("cleaned-idempotent", "00000000000000000018.snapshot"),
    ] {
        let entries = snapshot::decode(bytes).expect("Kafka wrote it");
        assert_eq!(Producers::from_snapshot(&entries).to_snapshot(), bytes);
    }
}

#[test]
fn a_snapshot_of_too_many_producers_keeps_those_that_wrote_last() {
    let entry = ProducerEntry::NEW.to_snapshot(0);
    let entries: Vec<_> = (0..MAX_PRODUCERS as i64 + 2)
        .map(|id| ProducerSnapshotEntry { producer_id: id, last_offset: Offset::from_i64(id), ..entry })
        .collect();
    let producers = Producers::from_snapshot(&entries);
    assert_eq!((producers.len(), producers.entries.keys().next()), (MAX_PRODUCERS, Some(&2)));
}

#[test]
fn batches_without_a_producer_and_foreign_control_records_are_passed_over() {
    let mut log = Log::new();
    log.data(DATA, -1, -1, 3);
    assert_eq!(log.marker(Marker::Other(3), 5, 0), None);
    assert!(log.producers.is_empty());
}

#[test]
fn a_transaction_is_open_from_its_first_batch_to_its_marker() {
    let mut log = Log::new();
    log.data(DATA, 1, 0, 2);
    assert_eq!(log.open(), None);
    log.data(TXN, 1, 0, 2);
    log.data(TXN, 2, 0, 1);
    log.data(TXN, 1, 0, 1);
    assert_eq!(log.open(), Some(2));
    let ended = log.marker(Marker::Abort, 1, 0).expect("it was open");
    let expected =
        CompletedTxn { producer_id: 1, first_offset: Offset::new(2), last_offset: Offset::new(6), aborted: true };
    assert_eq!(ended, expected);
    assert_eq!(log.open(), Some(4));
    assert_eq!(log.marker(Marker::Commit, 2, 0).map(|ended| ended.aborted), Some(false));
    assert_eq!(log.open(), None);
    assert_eq!(log.marker(Marker::Commit, 2, 0), None, "a marker of a transaction without batches");
}

#[test]
fn a_transaction_is_unstable_until_its_marker_is_below_the_high_watermark() {
    let mut log = Log::new();
    log.data(TXN, 1, 0, 3);
    log.data(TXN, 2, 0, 2);
    log.marker(Marker::Commit, 2, 0);
    log.marker(Marker::Abort, 1, 0);
    assert_eq!(log.open(), None);
    assert_eq!(log.unstable(0), Some(0));
    assert_eq!(log.unstable(6), Some(0), "the marker at 6 may be taken back");
    log.data(TXN, 3, 0, 1);
    assert_eq!(log.unstable(7), Some(7));
    log.marker(Marker::Commit, 3, 0);
    assert_eq!(log.unstable(8), Some(7));
    assert_eq!(log.unstable(9), None);
}

#[test]
fn a_batch_outside_transactions_does_not_end_one() {
    let mut log = Log::new();
    log.data(TXN, 1, 0, 1);
    log.data(DATA, 1, 0, 1);
    log.data(TXN, 1, 1, 1);
    assert_eq!(log.open(), Some(0));
}

#[test]
fn a_new_epoch_starts_the_sequence_anew() {
    let mut log = Log::new();
    log.data(DATA, 1, 0, 4);
    assert_eq!(log.producers.entries[&1].last_sequence, 3);
    log.marker(Marker::Abort, 1, 1);
    let entry = log.producers.entries[&1];
    assert_eq!((entry.epoch, entry.last_sequence, entry.last_offset, entry.offset_delta), (1, -1, None, 0));
    assert_eq!(entry.coordinator_epoch, 7);
    log.data(DATA, 1, 1, 2);
    let entry = log.producers.entries[&1];
    assert_eq!((entry.last_sequence, entry.last_offset, entry.coordinator_epoch), (6, Some(Offset::new(6)), 7));
}

#[test]
fn an_emptied_marker_still_tells_the_epoch() {
    let mut producers = Producers::default();
    assert_eq!(producers.update(&batch(CONTROL, 1, 4, 10, 1), None), None);
    let entry = producers.entries[&1];
    assert_eq!((entry.epoch, entry.coordinator_epoch, entry.timestamp), (4, -1, Timestamp::from_millis(10)));
}

#[test]
fn sequences_wrap_from_the_largest_to_0() {
    for (base, len, last) in [(i32::MAX, 1, i32::MAX), (i32::MAX, 2, 0), (i32::MAX - 1, 5, 2), (-1, 3, -1), (0, 1, 0)] {
        let header = BatchHeader { base_sequence: base, ..batch(DATA, 1, 0, 0, len) };
        assert_eq!(last_sequence(&header), last, "{base} + {len}");
    }
}

#[test]
fn the_longest_idle_producer_without_a_transaction_makes_room() {
    let mut log = Log::new();
    log.producers.set_max(3);
    log.data(TXN, 1, 0, 1);
    log.data(DATA, 2, 0, 1);
    log.data(DATA, 3, 0, 1);
    log.data(DATA, 2, 0, 1);
    log.data(DATA, 4, 0, 1);
    assert_eq!(log.known(), [1, 2, 4]);
    log.marker(Marker::Commit, 2, 0);
    log.data(DATA, 5, 0, 1);
    assert_eq!(log.known(), [1, 2, 5], "a marker counts as a sign of life");
    log.producers.set_max(2);
    assert_eq!(log.known(), [1, 5]);
}

#[test]
fn open_transactions_pass_the_bound() {
    let mut log = Log::new();
    log.producers.set_max(2);
    (0..5).for_each(|id| log.data(TXN, id, 0, 1));
    assert_eq!(log.known(), [0, 1, 2, 3, 4]);
    log.marker(Marker::Commit, 3, 0);
    log.marker(Marker::Commit, 1, 0);
    log.data(DATA, 9, 0, 1);
    assert_eq!(log.known(), [0, 2, 4, 9]);
}

#[test]
fn only_idle_producers_expire_and_none_leave_nothing_behind() {
    let mut log = Log::new();
    log.data(DATA, 1, 0, 10);
    log.data(TXN, 2, 0, 1);
    log.data(DATA, 3, 0, 10);
    log.producers.remove_expired(Timestamp::from_millis(18), Duration::from_millis(10), Offset::MAX);
    assert_eq!(log.known(), [1, 2, 3]);
    log.producers.remove_expired(Timestamp::from_millis(19), Duration::from_millis(10), Offset::MAX);
    assert_eq!(log.known(), [2, 3]);
    log.producers.remove_expired(Timestamp::from_millis(i64::MAX), Duration::MAX, Offset::MAX);
    assert_eq!(log.known(), [2, 3], "nobody has been idle for ever");
    log.producers.remove_expired(Timestamp::from_millis(i64::MAX), Duration::ZERO, Offset::MAX);
    assert_eq!(log.known(), [2], "the open transaction stays");
    assert_eq!(log.open(), Some(10));
    log.marker(Marker::Commit, 2, 0);
    log.producers.remove_expired(Timestamp::from_millis(i64::MAX), Duration::ZERO, Offset::MAX);
    assert!(log.producers.is_empty() && log.producers.idle.is_empty() && log.producers.open.is_empty());
}

#[test]
fn the_last_batches_are_the_last_data_or_the_last_marker_of_the_epoch() {
    let mut log = Log::new();
    log.data(DATA, 1, 0, 4);
    log.data(DATA, 1, 0, 2);
    log.marker(Marker::Abort, 2, 3);
    log.marker(Marker::Abort, 2, 3);
    let last = log.producers.last_batches(Offset::MAX);
    assert!(last.contains(&batch(DATA, 1, 0, 4, 2)));
    assert!(!last.contains(&batch(DATA, 1, 0, 0, 4)));
    assert!(last.contains(&batch(CONTROL, 2, 3, 7, 1)));
    assert!(!last.contains(&batch(CONTROL, 2, 3, 6, 1)), "one before");
    assert!(!last.contains(&batch(DATA, 2, 3, 7, 1)));
    assert!(!last.contains(&batch(DATA, 9, 0, 5, 1)), "an unknown producer");
}

#[test]
fn where_the_last_marker_is_not_known_or_not_durable_any_of_the_epoch_stays() {
    let mut log = Log::new();
    log.data(DATA, 1, 0, 4);
    log.marker(Marker::Abort, 2, 3);
    log.marker(Marker::Abort, 2, 3);
    let snapshot = crate::format::snapshot::decode(&log.producers.to_snapshot()).unwrap();
    let restored = Producers::from_snapshot(&snapshot);
    for last in [log.producers.last_batches(Offset::new(5)), restored.last_batches(Offset::MAX)] {
        assert!(last.contains(&batch(CONTROL, 2, 3, 5, 1)));
        assert!(last.contains(&batch(CONTROL, 2, 3, 4, 1)));
        assert!(!last.contains(&batch(CONTROL, 2, 2, 4, 1)), "an older epoch");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Data { attributes: Attributes, id: i64, epoch: i16, len: u32 },
    Marker { marker: Option<Marker>, id: i64, epoch: i16 },
    HighWatermark { behind: u64 },
    Expire { age: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let attributes = prop_oneof![Just(DATA), Just(TXN)];
    let marker = prop_oneof![
        3 => Just(Some(Marker::Commit)),
        3 => Just(Some(Marker::Abort)),
        1 => Just(Some(Marker::Other(2))),
        1 => Just(None),
    ];
    prop_oneof![
        8 => (attributes, -1..6i64, 0..3i16, 1..4u32)
            .prop_map(|(attributes, id, epoch, len)| Step::Data { attributes, id, epoch, len }),
        4 => (marker, 0..6i64, 0..3i16).prop_map(|(marker, id, epoch)| Step::Marker { marker, id, epoch }),
        2 => (0..12u64).prop_map(|behind| Step::HighWatermark { behind }),
        1 => (4..30u64).prop_map(|age| Step::Expire { age }),
    ]
}

/// Remembers every batch, and answers each question by going through all of them.
#[derive(Default)]
struct Model {
    seen: Vec<(BatchHeader, Option<ControlRecord>)>,
    ended: Vec<CompletedTxn>,
}

impl Model {
    fn of(&self, id: i64) -> Vec<&(BatchHeader, Option<ControlRecord>)> {
        self.seen.iter().filter(|(header, _)| header.producer_id == id).collect()
    }

    fn ids(&self) -> BTreeSet<i64> {
        self.seen.iter().map(|(header, _)| header.producer_id).collect()
    }

    fn open_since(&self, id: i64) -> Option<Offset> {
        let all = self.of(id);
        let after_marker = all.iter().rposition(|(_, control)| control.is_some()).map_or(0, |marker| marker + 1);
        let mut rest = all[after_marker..].iter().filter(|(header, _)| header.attributes == TXN);
        rest.next().map(|(header, _)| header.base_offset)
    }

    fn entry(&self, id: i64) -> ProducerSnapshotEntry {
        let all = self.of(id);
        let (last, _) = all[all.len() - 1];
        let same_epoch = all.iter().rev().take_while(|(header, _)| header.producer_epoch == last.producer_epoch);
        let data = same_epoch.map(|(header, _)| header).find(|header| !header.attributes.is_control());
        let coordinator_epoch = all.iter().rev().find_map(|(_, control)| *control).map_or(-1, |c| c.coordinator_epoch);
        ProducerSnapshotEntry {
            producer_id: id,
            epoch: last.producer_epoch,
            last_sequence: data.map_or(-1, |header| header.base_sequence + header.last_offset_delta as i32),
            last_offset: data.map(|header| header.last_offset()),
            offset_delta: data.map_or(0, |header| header.last_offset_delta as i32),
            timestamp: last.max_timestamp,
            coordinator_epoch,
            current_txn_first_offset: self.open_since(id),
        }
    }

    fn entries(&self) -> Vec<ProducerSnapshotEntry> {
        self.ids().into_iter().map(|id| self.entry(id)).collect()
    }

    fn first_open(&self) -> Option<Offset> {
        self.ids().into_iter().filter_map(|id| self.open_since(id)).min()
    }

    fn first_unstable(&self, high_watermark: Offset) -> Option<Offset> {
        let unsettled = self.ended.iter().filter(|ended| ended.last_offset >= high_watermark);
        unsettled.map(|ended| ended.first_offset).chain(self.first_open()).min()
    }

    fn forget(&mut self, forget: impl Fn(&ProducerSnapshotEntry) -> bool) {
        let gone: Vec<i64> = self.entries().iter().filter(|entry| forget(entry)).map(|e| e.producer_id).collect();
        self.seen.retain(|(header, _)| !gone.contains(&header.producer_id));
    }

    fn update(&mut self, header: BatchHeader, control: Option<ControlRecord>, max: usize) -> Option<CompletedTxn> {
        let foreign = control.is_some_and(|control| matches!(control.marker, Marker::Other(_)));
        if header.producer_id < 0 || foreign {
            return None;
        }
        let known = self.ids();
        if !known.contains(&header.producer_id) {
            let excess = (known.len() + 1).saturating_sub(max);
            let mut idle: Vec<i64> = known.into_iter().filter(|id| self.open_since(*id).is_none()).collect();
            idle.sort_by_key(|id| self.of(*id).last().map(|(header, _)| header.base_offset));
            idle.truncate(excess);
            self.seen.retain(|(header, _)| !idle.contains(&header.producer_id));
        }
        let first_offset = self.open_since(header.producer_id);
        self.seen.push((header, control));
        let ended = CompletedTxn {
            producer_id: header.producer_id,
            first_offset: first_offset?,
            last_offset: header.base_offset,
            aborted: control?.marker == Marker::Abort,
        };
        self.ended.push(ended);
        Some(ended)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn producers_agree_with_a_model_that_remembers_every_batch(
        steps in prop::collection::vec(step(), 0..80),
        max in 1..6usize,
    ) {
        let (mut producers, mut model) = (Producers::default(), Model::default());
        producers.set_max(max);
        let (mut end, mut high_watermark) = (0u64, Offset::ZERO);
        for step in steps {
            match step {
                Step::Data { attributes, id, epoch, len } => {
                    let header = batch(attributes, id, epoch, end, len);
                    end += u64::from(len);
                    prop_assert_eq!(producers.update(&header, None), model.update(header, None, max));
                }
                Step::Marker { marker, id, epoch } => {
                    let header = batch(CONTROL, id, epoch, end, 1);
                    end += 1;
                    let control = marker.and_then(|marker| control(marker, &header));
                    prop_assert_eq!(producers.update(&header, control), model.update(header, control, max));
                }
                Step::HighWatermark { behind } => {
                    high_watermark = high_watermark.max(Offset::new(end.saturating_sub(behind)));
                }
                Step::Expire { age } => {
                    let now = Timestamp::from_millis(end as i64);
                    producers.remove_expired(now, Duration::from_millis(age), Offset::MAX);
                    model.forget(|entry| {
                        entry.current_txn_first_offset.is_none() && now.millis_since(entry.timestamp) >= age as i64
                    });
                }
            }
            let snapshot = producers.to_snapshot();
            let entries = snapshot::decode(&snapshot).expect("it was just encoded");
            prop_assert_eq!(&entries, &model.entries());
            prop_assert_eq!(producers.first_open_transaction(), model.first_open());
            prop_assert_eq!(producers.first_unstable(high_watermark), model.first_unstable(high_watermark));
            prop_assert_eq!(producers.idle.len() + producers.open.len(), producers.len());

            let read_back = Producers::from_snapshot(&entries);
            prop_assert_eq!(read_back.to_snapshot(), snapshot);
            prop_assert_eq!(read_back.first_open_transaction(), producers.first_open_transaction());
        }
    }
}
