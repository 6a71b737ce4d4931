//! rskafka and kafka-protocol agree with stratalog on random batches, in all codecs.
//!
//! Some inputs are left out on purpose, because an oracle is known to fail on them:
//!
//! - rskafka refuses a null header value and a header key that is not UTF-8; it loses the delete horizon flag; it reads
//!   a control batch as if its record had no length, key or value.
//! - kafka-protocol keeps headers in a map, so repeated keys are lost; it refuses header keys that are not UTF-8; it
//!   encodes no LogAppendTime flag and does not apply the append time when it decodes; it adds timestamps without
//!   checking for overflow; it allocates whatever counts a batch claims, so it is shown only batches that stratalog has
//!   decoded. Encoding, it bases a batch on its lowest offset and timestamp, and starts a new batch wherever offset
//!   less sequence number changes: a record without producer needs the sequence -1 + i.

use std::collections::HashSet;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as kp;
use proptest::prelude::*;
use rskafka::protocol::record as rs;
use rskafka::protocol::traits::{ReadType, WriteType};
use stratalog::format::{
    BATCH_HEADER_LEN, BatchBuilder, BatchHeader, BatchView, Codec, FilterScratch, Filtered, FormatError, Header,
    Record, RecordBatch, RecordView, Scratch, TimestampType, empty_batch, filter_batch, patch_append_time,
    patch_max_timestamp,
};
use stratalog::{Offset, Timestamp};

const NOW: i64 = 1_700_000_000_000;
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// A record as all three can express it.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    delta: u32,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<PlainHeader>,
}

type PlainHeader = (String, Option<Vec<u8>>);

/// A batch to be built: its base offset, its producer if any, its records, and offsets behind the last of them.
#[derive(Clone, Debug)]
struct Sample {
    base: u64,
    producer: Option<(i64, i16, i32)>,
    codec: Codec,
    slack: u32,
    records: Vec<Plain>,
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..max),
        (any::<u8>(), 0..max).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

/// Records with gaps between some; header keys are UTF-8, and each occurs once in a record.
fn sample() -> impl Strategy<Value = Sample> {
    let header = ("[a-zä]{0,6}", prop::option::of(bytes(40)));
    let headers = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(header, 1..4)];
    let gap = prop_oneof![5 => Just(0u32), 1 => 1..200u32];
    let record = (gap, -5000..5000i64, prop::option::of(bytes(40)), prop::option::of(bytes(3000)), headers);
    let records = prop::collection::vec(record, 1..30).prop_map(|records| {
        let mut next = 0;
        let place = |(gap, delta_ms, key, value, mut headers): (u32, i64, _, _, Vec<PlainHeader>)| {
            let mut seen = HashSet::new();
            headers.retain(|(key, _)| seen.insert(key.clone()));
            let delta = next + gap;
            next = delta + 1;
            Plain { delta, timestamp: NOW + delta_ms, key, value, headers }
        };
        records.into_iter().map(place).collect()
    });
    let producer = prop::option::of((0..i64::MAX, 0..i16::MAX, 0..1 << 30));
    (0..1u64 << 40, producer, prop::sample::select(&CODECS[..]), 0..3u32, records)
        .prop_map(|(base, producer, codec, slack, records)| Sample { base, producer, codec, slack, records })
}

/// The same without null header values.
fn sample_for_rskafka() -> impl Strategy<Value = Sample> {
    sample().prop_map(|mut sample| {
        let headers = sample.records.iter_mut().flat_map(|record| &mut record.headers);
        headers.for_each(|(_, value)| *value = Some(value.take().unwrap_or_default()));
        sample
    })
}

impl Sample {
    fn build(&self) -> RecordBatch {
        let (id, epoch, sequence) = self.producer.unwrap_or((-1, -1, -1));
        let mut builder = BatchBuilder::new()
            .codec(self.codec)
            .base_offset(Offset::new(self.base))
            .leader_epoch(9)
            .producer(id, epoch, sequence)
            .transactional(self.producer.is_some())
            .last_offset_delta(self.last_delta());
        for record in &self.records {
            let headers =
                record.headers.iter().map(|(key, value)| Header { key: key.as_bytes(), value: value.as_deref() });
            let headers: Vec<Header<'_>> = headers.collect();
            let ours = Record {
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &headers,
                timestamp: Some(Timestamp::from_millis(record.timestamp)),
            };
            builder.push_at(record.delta, &ours, Timestamp::from_millis(NOW)).unwrap();
        }
        builder.build().unwrap()
    }

    fn last_delta(&self) -> u32 {
        self.records.last().map_or(0, |record| record.delta) + self.slack
    }
}

/// A batch as stratalog decodes it; header keys that are not UTF-8 come out as they may.
fn ours(batch: &BatchView<'_>) -> Result<Vec<Plain>, FormatError> {
    let base = batch.header().base_offset;
    let plain = |record: RecordView<'_>| Plain {
        delta: record.offset.since(base) as u32,
        timestamp: record.timestamp.as_millis(),
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record
            .headers()
            .map(|header| (String::from_utf8_lossy(header.key).into_owned(), header.value.map(<[u8]>::to_vec)))
            .collect(),
    };
    batch.records(&mut Scratch::default())?.map(|record| record.map(plain)).collect()
}

mod with_rskafka {
    use super::*;

    pub fn decode(bytes: &[u8]) -> rs::RecordBatch {
        let mut reader = Cursor::new(bytes);
        let batch = rs::RecordBatch::read(&mut reader).unwrap();
        assert_eq!(reader.position(), bytes.len() as u64);
        batch
    }

    pub fn encode(batch: &rs::RecordBatch) -> Vec<u8> {
        let mut out = Vec::new();
        batch.write(&mut out).unwrap();
        out
    }

    pub fn records(batch: &rs::RecordBatch) -> Vec<Plain> {
        let rs::ControlBatchOrRecords::Records(records) = &batch.records else { panic!("not a control batch") };
        let plain = |record: &rs::Record| Plain {
            delta: record.offset_delta as u32,
            timestamp: match batch.timestamp_type {
                rs::RecordBatchTimestampType::CreateTime => batch.first_timestamp.wrapping_add(record.timestamp_delta),
                rs::RecordBatchTimestampType::LogAppendTime => batch.max_timestamp,
            },
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.iter().map(|header| (header.key.clone(), Some(header.value.clone()))).collect(),
        };
        records.iter().map(plain).collect()
    }

    pub fn batch(sample: &Sample) -> rs::RecordBatch {
        let (producer_id, producer_epoch, base_sequence) = sample.producer.unwrap_or((-1, -1, -1));
        let first_timestamp = sample.records[0].timestamp;
        let header = |(key, value): &PlainHeader| rs::RecordHeader {
            key: key.clone(),
            value: value.clone().unwrap_or_default(),
        };
        let record = |record: &Plain| rs::Record {
            timestamp_delta: record.timestamp - first_timestamp,
            offset_delta: record.delta as i32,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.iter().map(header).collect(),
        };
        rs::RecordBatch {
            base_offset: sample.base as i64,
            partition_leader_epoch: 9,
            last_offset_delta: sample.last_delta() as i32,
            first_timestamp,
            max_timestamp: sample.records.iter().map(|record| record.timestamp).max().unwrap(),
            producer_id,
            producer_epoch,
            base_sequence,
            records: rs::ControlBatchOrRecords::Records(sample.records.iter().map(record).collect()),
            compression: match sample.codec {
                Codec::None => rs::RecordBatchCompression::NoCompression,
                Codec::Gzip => rs::RecordBatchCompression::Gzip,
                Codec::Snappy => rs::RecordBatchCompression::Snappy,
                Codec::Lz4 => rs::RecordBatchCompression::Lz4,
                Codec::Zstd => rs::RecordBatchCompression::Zstd,
            },
            is_transactional: sample.producer.is_some(),
            timestamp_type: rs::RecordBatchTimestampType::CreateTime,
        }
    }

    /// Every field of the header but the length and checksum, which it has checked, and the delete horizon flag.
    pub fn assert_same_header(theirs: &rs::RecordBatch, ours: &BatchHeader) {
        assert_eq!(theirs.base_offset, ours.base_offset.as_i64());
        assert_eq!(theirs.partition_leader_epoch, ours.leader_epoch);
        assert_eq!(theirs.last_offset_delta as u32, ours.last_offset_delta);
        assert_eq!(theirs.first_timestamp, ours.base_timestamp.as_millis());
        assert_eq!(theirs.max_timestamp, ours.max_timestamp.as_millis());
        let producer = (theirs.producer_id, theirs.producer_epoch, theirs.base_sequence);
        assert_eq!(producer, (ours.producer_id, ours.producer_epoch, ours.base_sequence));
        assert_eq!(theirs.is_transactional, ours.attributes.is_transactional());
        let append_time = theirs.timestamp_type == rs::RecordBatchTimestampType::LogAppendTime;
        assert_eq!(append_time, ours.attributes.timestamp_type() == TimestampType::LogAppendTime);
    }
}

mod with_kafka_protocol {
    use super::*;

    /// Only for batches that stratalog has decoded.
    pub fn decode(bytes: &[u8]) -> (kp::BatchDecodeInfo, Vec<kp::Record>) {
        let mut buf = Bytes::copy_from_slice(bytes);
        let info = kp::RecordBatchDecoder::decode_batch_info(&mut buf.clone()).unwrap().remove(0);
        (info, kp::RecordBatchDecoder::decode(&mut buf).unwrap().records)
    }

    pub fn plain(record: &kp::Record, base: Offset) -> Plain {
        Plain {
            delta: (record.offset - base.as_i64()) as u32,
            timestamp: record.timestamp,
            key: record.key.as_ref().map(|key| key.to_vec()),
            value: record.value.as_ref().map(|value| value.to_vec()),
            headers: record
                .headers
                .iter()
                .map(|(key, value)| (key.to_string(), value.as_ref().map(|value| value.to_vec())))
                .collect(),
        }
    }

    pub fn encode(sample: &Sample) -> Vec<u8> {
        let (producer_id, producer_epoch, base_sequence) = sample.producer.unwrap_or((-1, -1, -1));
        let record = |record: &Plain| kp::Record {
            transactional: sample.producer.is_some(),
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 9,
            producer_id,
            producer_epoch,
            timestamp_type: kp::TimestampType::Creation,
            offset: (sample.base + u64::from(record.delta)) as i64,
            sequence: base_sequence.wrapping_add(record.delta as i32),
            timestamp: record.timestamp,
            key: record.key.clone().map(Bytes::from),
            value: record.value.clone().map(Bytes::from),
            headers: record
                .headers
                .iter()
                .map(|(key, value)| (StrBytes::from_string(key.clone()), value.clone().map(Bytes::from)))
                .collect::<IndexMap<_, _>>(),
        };
        let records: Vec<kp::Record> = sample.records.iter().map(record).collect();
        let compression = match sample.codec {
            Codec::None => kp::Compression::None,
            Codec::Gzip => kp::Compression::Gzip,
            Codec::Snappy => kp::Compression::Snappy,
            Codec::Lz4 => kp::Compression::Lz4,
            Codec::Zstd => kp::Compression::Zstd,
        };
        let mut out = BytesMut::new();
        kp::RecordBatchEncoder::encode(&mut out, &records, &kp::RecordEncodeOptions { version: 2, compression })
            .unwrap();
        out.to_vec()
    }

    /// Of headers with one key, the place of the first and the value of the last.
    pub fn repeated_headers_lost(mut record: Plain) -> Plain {
        record.headers = record.headers.into_iter().collect::<IndexMap<_, _>>().into_iter().collect();
        record
    }

    /// What it exposes of the header.
    pub fn assert_same_header(theirs: &kp::BatchDecodeInfo, ours: &BatchHeader) {
        assert_eq!(theirs.record_count as u32, ours.count);
        assert_eq!(theirs.min_offset, ours.base_offset.as_i64());
        assert_eq!(theirs.min_timestamp, ours.base_timestamp.as_millis());
        assert_eq!(theirs.partition_leader_epoch, ours.leader_epoch);
        let producer = (theirs.producer_id, theirs.producer_epoch, theirs.base_sequence);
        assert_eq!(producer, (ours.producer_id, ours.producer_epoch, ours.base_sequence));
        assert_eq!(theirs.transactional, ours.attributes.is_transactional());
        assert_eq!(theirs.control, ours.attributes.is_control());
        assert_eq!(theirs.delete_horizon, ours.attributes.has_delete_horizon());
        assert_eq!(theirs.compression as u8, ours.attributes.codec().unwrap().id());
    }
}

proptest! {
    #[test]
    fn rskafka_reads_what_we_build(sample in sample_for_rskafka(), append_time: bool) {
        let mut bytes = sample.build().as_bytes().to_vec();
        if append_time {
            patch_append_time(&mut bytes, Timestamp::from_millis(NOW + 77));
        }
        let batch = RecordBatch::parse(bytes.clone()).unwrap();
        let theirs = with_rskafka::decode(&bytes);
        with_rskafka::assert_same_header(&theirs, batch.header());
        prop_assert_eq!(with_rskafka::records(&theirs), ours(&batch.view()).unwrap());
        if sample.codec == Codec::None {
            prop_assert_eq!(with_rskafka::encode(&theirs), bytes, "byte for byte");
        }
    }

    #[test]
    fn we_read_what_rskafka_builds(sample in sample_for_rskafka()) {
        let bytes = with_rskafka::encode(&with_rskafka::batch(&sample));
        let batch = RecordBatch::parse(bytes.clone()).unwrap();
        prop_assert_eq!(ours(&batch.view()).unwrap(), sample.records.clone());
        with_rskafka::assert_same_header(&with_rskafka::decode(&bytes), batch.header());
        if sample.codec == Codec::None {
            let built = sample.build();
            prop_assert_eq!(built.as_bytes(), batch.as_bytes(), "byte for byte");
        }
    }

    #[test]
    fn kafka_protocol_reads_what_we_build(sample in sample()) {
        let batch = sample.build();
        let (info, records) = with_kafka_protocol::decode(batch.as_bytes());
        with_kafka_protocol::assert_same_header(&info, batch.header());
        let base = batch.header().base_offset;
        let theirs: Vec<Plain> = records.iter().map(|record| with_kafka_protocol::plain(record, base)).collect();
        prop_assert_eq!(theirs, ours(&batch.view()).unwrap());
        if sample.producer.is_some() {
            let mut scratch = Scratch::default();
            let sequences = batch.view().records(&mut scratch).unwrap().map(|record| record.unwrap().sequence);
            prop_assert!(sequences.eq(records.iter().map(|record| record.sequence)));
        }
    }

    #[test]
    fn we_read_what_kafka_protocol_builds(mut sample in sample()) {
        // It bases a batch on the lowest offset and ends it with the highest.
        let first = sample.records[0].delta;
        sample.records.iter_mut().for_each(|record| record.delta -= first);
        sample.slack = 0;
        let batch = RecordBatch::parse(with_kafka_protocol::encode(&sample)).unwrap();
        prop_assert_eq!(ours(&batch.view()).unwrap(), sample.records.clone());
        let built = sample.build();
        let (theirs, ours) = (batch.header(), built.header());
        // Its base timestamp is the lowest one, not the first.
        let lowest = sample.records.iter().map(|record| record.timestamp).min().unwrap();
        prop_assert_eq!(theirs.base_timestamp.as_millis(), lowest);
        let BatchHeader { size, crc, base_timestamp, .. } = *theirs;
        let expected = BatchHeader { size, crc, base_timestamp, ..*ours };
        prop_assert_eq!(*theirs, expected);
        if sample.codec == Codec::None && ours.base_timestamp == theirs.base_timestamp {
            prop_assert_eq!(built.as_bytes(), batch.as_bytes(), "byte for byte");
        }
    }

    #[test]
    fn both_read_what_a_filter_leaves(
        sample in sample_for_rskafka(),
        keep: u64,
        horizon in prop::option::of(-5000..5000i64),
    ) {
        let batch = sample.build();
        let mut keep_some = |record: &RecordView<'_>| keep >> (record.offset.get() % 64) & 1 == 1;
        let horizon = horizon.map(|delta| Timestamp::from_millis(NOW + delta));
        let mut bytes = Vec::new();
        match filter_batch(&batch.view(), &mut keep_some, horizon, &mut FilterScratch::default(), &mut bytes).unwrap() {
            Filtered::Unchanged => bytes.extend_from_slice(batch.as_bytes()),
            Filtered::Rewritten { .. } => {}
            Filtered::Empty => empty_batch(batch.header(), keep & 1 == 0, &mut bytes),
        }
        let left = RecordBatch::parse(bytes).unwrap();
        let records = ours(&left.view()).unwrap();

        let theirs = with_rskafka::decode(left.as_bytes());
        with_rskafka::assert_same_header(&theirs, left.header());
        prop_assert_eq!(with_rskafka::records(&theirs), records.clone());
        if left.header().delete_horizon().is_none() && left.header().attributes.codec() == Ok(Codec::None) {
            prop_assert_eq!(&with_rskafka::encode(&theirs)[..], &left.as_bytes()[..]);
        }

        let (info, theirs) = with_kafka_protocol::decode(left.as_bytes());
        with_kafka_protocol::assert_same_header(&info, left.header());
        let base = left.header().base_offset;
        let theirs: Vec<Plain> = theirs.iter().map(|record| with_kafka_protocol::plain(record, base)).collect();
        prop_assert_eq!(theirs, records);
    }

    /// Not the other way round: rskafka does not compare offsets and counts with each other.
    #[test]
    fn rskafka_takes_every_damaged_batch_that_we_take(
        sample in sample_for_rskafka(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = Sample { codec: Codec::None, ..sample }.build().as_bytes().to_vec();
        for (at, byte) in damage {
            let at = BATCH_HEADER_LEN + at.index(bytes.len() - BATCH_HEADER_LEN);
            bytes[at] = byte;
        }
        let batch = BatchView::parse(&bytes).unwrap();
        let max_timestamp = batch.header().max_timestamp;
        let Ok(records) = ours(&batch) else { return Ok(()) };
        let headers = || records.iter().flat_map(|record| &record.headers);
        prop_assume!(headers().all(|(key, value)| value.is_some() && !key.contains(char::REPLACEMENT_CHARACTER)));
        patch_max_timestamp(&mut bytes, max_timestamp);
        prop_assert_eq!(with_rskafka::records(&with_rskafka::decode(&bytes)), records);
    }
}

#[test]
fn all_three_agree_on_batches_of_real_clients() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/client-batches");
    let mut seen = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let batch = RecordBatch::parse(bytes.clone()).unwrap();
        let records = ours(&batch.view()).unwrap();
        let theirs = with_rskafka::decode(&bytes);
        with_rskafka::assert_same_header(&theirs, batch.header());
        assert_eq!(with_rskafka::records(&theirs), records);
        let (info, theirs) = with_kafka_protocol::decode(&bytes);
        with_kafka_protocol::assert_same_header(&info, batch.header());
        let base = batch.header().base_offset;
        let theirs: Vec<Plain> = theirs.iter().map(|record| with_kafka_protocol::plain(record, base)).collect();
        let records: Vec<Plain> = records.into_iter().map(with_kafka_protocol::repeated_headers_lost).collect();
        assert_eq!(theirs, records);
        seen += 1;
    }
    assert_eq!(seen, 15);
}
