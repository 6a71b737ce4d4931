//! Properties of batches, on random records and on random bytes.

use proptest::prelude::*;
use stratalog::format::{
    BATCH_HEADER_LEN, BatchBuilder, BatchHeader, BatchView, Batches, Codec, FilterScratch, Filtered, FormatError,
    Header, Record, RecordBatch, RecordView, Scratch, TimestampType, checkpoint, empty_batch, file_name, filter_batch,
    partition_metadata, snapshot, state,
};
use stratalog::{Offset, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

type OwnedHeader = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug, PartialEq)]
struct OwnedRecord {
    offset: Offset,
    timestamp: Timestamp,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<OwnedHeader>,
}

impl From<RecordView<'_>> for OwnedRecord {
    fn from(record: RecordView<'_>) -> OwnedRecord {
        OwnedRecord {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec))).collect(),
        }
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..max),
        (any::<u8>(), 0..max).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    let near = (-1_000_000i64..1_000_000).prop_map(|delta| NOW.plus_millis(delta));
    prop_oneof![8 => near, 1 => any::<i64>().prop_map(Timestamp::from_millis), 1 => Just(Timestamp::NONE)]
}

/// Records in the order of their offsets, some with gaps before them.
fn records(base: u64) -> impl Strategy<Value = Vec<OwnedRecord>> {
    let headers = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((bytes(9), prop::option::of(bytes(200))), 1..4),
    ];
    let gap = prop_oneof![5 => Just(0u64), 1 => 1..200u64];
    let record = (gap, timestamp(), prop::option::of(bytes(40)), prop::option::of(bytes(600)), headers);
    prop::collection::vec(record, 1..40).prop_map(move |records| {
        let mut next = base;
        let place = |(gap, timestamp, key, value, headers)| {
            let offset = Offset::new(next + gap);
            next = offset.get() + 1;
            OwnedRecord { offset, timestamp, key, value, headers }
        };
        records.into_iter().map(place).collect()
    })
}

fn codec() -> impl Strategy<Value = Codec> {
    let all = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    prop::sample::select(all.into_iter().filter(|codec| codec.is_supported()).collect::<Vec<_>>())
}

fn build(base: Offset, codec: Codec, records: &[OwnedRecord], slack: u32) -> RecordBatch {
    let last = records.last().map_or(0, |record| record.offset.since(base) as u32);
    let mut builder = BatchBuilder::new()
        .codec(codec)
        .base_offset(base)
        .leader_epoch(4)
        .producer(12, 3, 1000)
        .transactional(true)
        .last_offset_delta(last + slack);
    for record in records {
        let headers: Vec<Header<'_>> =
            record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
        let delta = record.offset.since(base) as u32;
        let record = Record {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
            timestamp: Some(record.timestamp),
        };
        builder.push_at(delta, &record, NOW).unwrap();
    }
    builder.build().unwrap()
}

fn decode(batch: &BatchView<'_>) -> Result<Vec<OwnedRecord>, FormatError> {
    batch.records(&mut Scratch::default())?.map(|record| record.map(OwnedRecord::from)).collect()
}

/// Reads everything there is to read, for its panics.
fn exercise(bytes: &[u8]) {
    let mut scratch = Scratch::with_bounds(1 << 20, 100);
    let mut filter = FilterScratch::default();
    for batch in Batches::new(bytes).flatten() {
        let _ = (batch.check_crc(), batch.header().next_offset(), batch.control(&mut scratch));
        if let Ok(records) = batch.records(&mut scratch) {
            for record in records.flatten() {
                let headers = record.headers().count();
                assert_eq!(headers, record.header_count());
                assert!(record.offset <= batch.header().last_offset());
            }
        }
        let mut out = Vec::new();
        let mut odd = |record: &RecordView<'_>| record.offset.get() % 2 == 1;
        match filter_batch(&batch, &mut odd, Some(NOW), &mut filter, &mut out) {
            Ok(Filtered::Rewritten { records }) => {
                let filtered = BatchView::parse(&out).unwrap();
                filtered.check_crc().unwrap();
                assert_eq!(decode(&filtered).unwrap().len(), records as usize);
            }
            _ => assert!(out.is_empty()),
        }
        out.clear();
        empty_batch(batch.header(), true, &mut out);
        RecordBatch::parse(out).unwrap();
    }
}

proptest! {
    #[test]
    fn what_is_built_is_read_back(
        (base, records) in (0..1u64 << 40).prop_flat_map(|base| (Just(base), records(base))),
        codec in codec(),
        slack in 0..5u32,
    ) {
        let base = Offset::new(base);
        let batch = build(base, codec, &records, slack);
        prop_assert_eq!(decode(&batch.view()).unwrap(), records.clone());
        let header = batch.header();
        prop_assert_eq!(header.base_offset, base);
        prop_assert_eq!(header.count as usize, records.len());
        prop_assert_eq!(header.last_offset(), records.last().unwrap().offset + u64::from(slack));
        prop_assert_eq!(header.max_timestamp, records.iter().map(|record| record.timestamp).max().unwrap());
        prop_assert_eq!(RecordBatch::parse(batch.as_bytes().clone()).unwrap(), batch);
    }

    #[test]
    fn a_filter_keeps_exactly_what_it_is_asked_to(
        records in records(77),
        codec in codec(),
        slack in 0..5u32,
        keep in any::<u64>(),
        append_time in any::<bool>(),
        horizon in prop::option::of(timestamp()),
    ) {
        let mut bytes = build(Offset::new(77), codec, &records, slack).as_bytes().to_vec();
        if append_time {
            stratalog::format::patch_append_time(&mut bytes, NOW);
        }
        let batch = BatchView::parse(&bytes).unwrap();
        let all = decode(&batch).unwrap();
        let mut asked = Vec::new();
        let mut nth = |record: &RecordView<'_>| {
            asked.push(record.offset);
            keep >> (asked.len() % 64) & 1 == 1
        };
        let mut out = b"before".to_vec();
        let filtered = filter_batch(&batch, &mut nth, horizon, &mut FilterScratch::default(), &mut out).unwrap();
        prop_assert_eq!(asked, all.iter().map(|record| record.offset).collect::<Vec<_>>());
        prop_assert_eq!(&out[..6], b"before");

        let kept: Vec<OwnedRecord> =
            (1..).zip(&all).filter(|(i, _)| keep >> (i % 64) & 1 == 1).map(|(_, record)| record.clone()).collect();
        if kept.is_empty() || kept.len() == all.len() {
            prop_assert_eq!(filtered, if kept.is_empty() { Filtered::Empty } else { Filtered::Unchanged });
            prop_assert_eq!(out.len(), 6);
            return Ok(());
        }
        prop_assert_eq!(filtered, Filtered::Rewritten { records: kept.len() as u32 });
        let rewritten = RecordBatch::parse(out.split_off(6)).unwrap();
        prop_assert_eq!(decode(&rewritten.view()).unwrap(), kept.clone());

        let (old, new) = (batch.header(), rewritten.header());
        let stamped = horizon.filter(|_| kept.iter().any(|record| record.value.is_none()));
        prop_assert_eq!(new.delete_horizon(), stamped);
        let expected = BatchHeader {
            size: new.size,
            crc: new.crc,
            count: kept.len() as u32,
            attributes: old.attributes.with_delete_horizon(stamped.is_some()),
            base_timestamp: stamped.unwrap_or(old.base_timestamp),
            max_timestamp: kept.iter().map(|record| record.timestamp).max().unwrap(),
            ..*old
        };
        prop_assert_eq!(*new, expected);
    }

    #[test]
    fn a_batch_that_was_stamped_keeps_its_horizon_when_it_is_filtered_again(
        records in records(0),
        codec in codec(),
        horizon in timestamp(),
        later in timestamp(),
    ) {
        if records.len() < 3 {
            return Ok(());
        }
        let mut records = records;
        records.iter_mut().for_each(|record| record.value = None);
        let last = records.last().unwrap().offset;
        let batch = build(Offset::ZERO, codec, &records, 3);
        let mut scratch = FilterScratch::default();
        let mut out = Vec::new();
        let mut not_last = |record: &RecordView<'_>| record.offset != last;
        let first = filter_batch(&batch.view(), &mut not_last, Some(horizon), &mut scratch, &mut out).unwrap();
        records.pop();
        prop_assert_eq!(first, Filtered::Rewritten { records: records.len() as u32 });
        let once = RecordBatch::parse(out).unwrap();
        let gone = records.remove(0).offset;
        let mut out = Vec::new();
        let mut not_first = |record: &RecordView<'_>| record.offset != gone;
        filter_batch(&once.view(), &mut not_first, Some(later), &mut scratch, &mut out).unwrap();
        let twice = RecordBatch::parse(out).unwrap();
        prop_assert_eq!(twice.header().delete_horizon(), Some(horizon));
        prop_assert_eq!(decode(&twice.view()).unwrap(), records);
    }

    #[test]
    fn an_emptied_batch_covers_the_same_offsets(records in records(5), slack in 0..5u32, keep_producer: bool) {
        let batch = build(Offset::new(5), Codec::None, &records, slack);
        let mut out = Vec::new();
        empty_batch(batch.header(), keep_producer, &mut out);
        prop_assert_eq!(out.len(), BATCH_HEADER_LEN);
        let empty = RecordBatch::parse(out).unwrap();
        let (old, new) = (batch.header(), empty.header());
        prop_assert_eq!((new.base_offset, new.next_offset()), (old.base_offset, old.next_offset()));
        prop_assert_eq!((new.count, new.leader_epoch, new.max_timestamp), (0, 4, old.max_timestamp));
        prop_assert_eq!(new.base_timestamp, Timestamp::NONE);
        let producer = if keep_producer { (12, 3, 1000, true) } else { (-1, -1, -1, false) };
        let transactional = new.attributes.is_transactional();
        prop_assert_eq!((new.producer_id, new.producer_epoch, new.base_sequence, transactional), producer);
        prop_assert_eq!(new.attributes.timestamp_type(), TimestampType::CreateTime);
        prop_assert_eq!(decode(&empty.view()), Ok(vec![]));
    }

    #[test]
    fn random_bytes_never_panic(bytes in bytes(400)) {
        exercise(&bytes);
        let _ = (snapshot::decode(&bytes), state::decode_slot(&bytes), partition_metadata::parse(&bytes));
        let _ = (checkpoint::parse_offsets(&bytes), checkpoint::parse_epochs(&bytes));
        let name = String::from_utf8_lossy(&bytes);
        let _ = (file_name::parse(&name), file_name::parse_dir(&name), file_name::check_topic(&name));
    }

    #[test]
    fn damaged_batches_never_panic(
        records in records(0),
        codec in codec(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        behind_the_header in any::<bool>(),
    ) {
        let mut bytes = build(Offset::ZERO, codec, &records, 0).as_bytes().to_vec();
        for (at, byte) in damage {
            let start = if behind_the_header { BATCH_HEADER_LEN } else { 0 };
            let at = start + at.index(bytes.len() - start);
            bytes[at] = byte;
        }
        exercise(&bytes);
    }
}
