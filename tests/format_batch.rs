//! Batches: what is refused, what patches change, how far decompression goes.

use stratalog::format::{
    Attributes, BATCH_HEADER_LEN, BatchBuilder, BatchHeader, BatchView, Batches, Codec, FormatError, Header, Marker,
    Record, RecordBatch, Scratch, TimestampType, end_marker, patch_append_time, patch_leader_epoch,
    patch_max_timestamp, patch_offset,
};
use stratalog::{Offset, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn batch_of(values: &[&str]) -> RecordBatch {
    let mut builder = RecordBatch::builder();
    for value in values {
        builder.push(&Record::new("key", value), NOW).unwrap();
    }
    builder.build().unwrap()
}

/// A batch of one record whose encoded bytes are given, under a header that claims `count` records and fits otherwise.
fn raw_batch(records: &[u8], count: u32, last_offset_delta: u32) -> Vec<u8> {
    let mut bytes = batch_of(&["x"]).as_bytes()[..BATCH_HEADER_LEN].to_vec();
    bytes.extend_from_slice(records);
    let length = bytes.len() as u32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    bytes
}

/// The error that decoding ends with.
fn decode_error(records: &[u8], count: u32, last_offset_delta: u32) -> Option<FormatError> {
    let bytes = raw_batch(records, count, last_offset_delta);
    let batch = BatchView::parse(&bytes).unwrap();
    let mut scratch = Scratch::default();
    let mut records = batch.records(&mut scratch).unwrap();
    let error = records.find_map(Result::err);
    assert_eq!(records.next(), None, "nothing follows an error");
    error
}

#[test]
fn a_header_that_no_batch_can_have_is_refused() {
    use FormatError::*;
    let good = batch_of(&["one", "two"]).as_bytes().to_vec();
    let cases: [(usize, &[u8], FormatError); 14] = [
        (16, &[0], UnsupportedMagic(0)),
        (16, &[1], UnsupportedMagic(1)),
        (16, &[3], UnsupportedMagic(3)),
        (8, &[0xff; 4], BadLength),
        (8, &[0; 4], BadLength),
        (8, &[0, 0, 0, 48], BadLength),
        (0, &[0xff; 8], BadOffset),
        (23, &[0xff; 4], BadOffset),
        // A last offset of i64::MAX, and one beyond.
        (0, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], BadOffset),
        (0, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], BadOffset),
        (57, &[0xff; 4], BadCount),
        // More records than offsets.
        (57, &[0, 0, 0, 3], BadCount),
        (57, &[0x7f, 0xff, 0xff, 0xff], BadCount),
        (23, &[0, 0, 0, 0], BadCount),
    ];
    for (at, bytes, error) in cases {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(BatchHeader::parse(&bad), Err(error), "{bytes:?} at {at}");
    }
    // As many offsets as one likes, but no bytes for the records.
    let mut bad = good.clone();
    bad[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
    bad[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_eq!(BatchHeader::parse(&bad), Err(BadCount));
    assert!(BatchHeader::parse(&good).is_ok());
}

#[test]
fn the_largest_offsets_that_leave_a_log_end_are_taken() {
    let mut bytes = batch_of(&["one", "two"]).as_bytes().to_vec();
    patch_offset(&mut bytes, Offset::new(Offset::MAX.get() - 2));
    let header = BatchHeader::parse(&bytes).unwrap();
    assert_eq!(header.last_offset().get(), Offset::MAX.get() - 1);
    assert_eq!(header.next_offset(), Offset::MAX);

    let mut builder = BatchBuilder::new().base_offset(Offset::new(Offset::MAX.get() - 1));
    builder.push(&Record::keyless("one"), NOW).unwrap();
    assert!(builder.finish().is_ok());
    builder.push(&Record::keyless("two"), NOW).unwrap();
    assert_eq!(builder.finish().err(), Some(FormatError::BadOffset));
}

#[test]
fn a_header_alone_is_read_without_the_rest() {
    let batch = batch_of(&["one", "two"]);
    let header = BatchHeader::parse(&batch.as_bytes()[..BATCH_HEADER_LEN]).unwrap();
    assert_eq!(header, *batch.header());
    assert_eq!(header.size, batch.as_bytes().len());
    assert_eq!((header.count, header.last_offset_delta), (2, 1));
    assert!(!header.has_producer());
    assert_eq!(header.delete_horizon(), None);
}

#[test]
fn a_batch_of_its_own_is_exactly_one() {
    let batch = batch_of(&["one"]);
    let mut bytes = batch.as_bytes().to_vec();
    assert_eq!(RecordBatch::parse(bytes.clone()).unwrap(), batch);
    bytes.push(0);
    assert_eq!(RecordBatch::parse(bytes.clone()).unwrap_err(), FormatError::TrailingBytes { extra: 1 });
    bytes.truncate(bytes.len() - 2);
    assert!(matches!(RecordBatch::parse(bytes), Err(FormatError::Truncated { .. })));
}

#[test]
fn a_walk_over_batches_ends_after_the_first_error() {
    let (one, two) = (batch_of(&["one"]), batch_of(&["two", "three"]));
    let all = [&one.as_bytes()[..], two.as_bytes(), &two.as_bytes()[..20]].concat();
    let mut batches = Batches::new(&all);
    assert_eq!(batches.next().unwrap().unwrap().as_bytes(), one.as_bytes());
    assert_eq!(batches.next().unwrap().unwrap().as_bytes(), two.as_bytes());
    let end = one.as_bytes().len() + two.as_bytes().len();
    assert_eq!(batches.position(), end);
    assert_eq!(batches.next().unwrap().unwrap_err(), FormatError::Truncated { needed: 61, available: 20 });
    assert!(batches.next().is_none());
    assert_eq!(batches.position(), end);
    assert!(Batches::new(&[]).next().is_none());
}

#[test]
fn a_record_that_contradicts_itself_or_its_batch_is_an_error() {
    use FormatError::*;
    let ok: &[u8] = &[12, 0, 0, 0, 1, 1, 0];
    assert_eq!(decode_error(ok, 1, 0), None);
    // Records too few, too many, out of order, beyond the batch.
    assert_eq!(decode_error(ok, 0, 0), Some(TrailingBytes { extra: 7 }));
    assert_eq!(decode_error(&[ok, ok].concat(), 2, 1), Some(BadOffset));
    assert_eq!(decode_error(&[ok, &[12, 0, 0, 2, 1, 1, 0], ok].concat(), 2, 1), Some(TrailingBytes { extra: 7 }));
    assert_eq!(decode_error(&[12, 0, 0, 4, 1, 1, 0], 1, 1), Some(BadOffset));
    assert_eq!(decode_error(&[12, 0, 0, 1, 1, 1, 0], 1, 0), Some(BadOffset));
    // Lengths that are negative, too small, too large.
    assert_eq!(decode_error(&[11, 0, 0, 0, 1, 1, 0], 1, 0), Some(BadRecord("length")));
    assert_eq!(decode_error(&[0, 0, 0, 0, 1, 1, 0], 1, 0), Some(BadRecord("length")));
    assert_eq!(decode_error(&[14, 0, 0, 0, 1, 1, 0], 1, 0), Some(BadRecord("length")));
    assert_eq!(decode_error(&[10, 0, 0, 0, 1, 1, 0], 1, 0), Some(BadRecord("varint")));
    assert_eq!(decode_error(&[14, 0, 0, 0, 1, 1, 0, 0], 1, 0), Some(BadRecord("length")));
    assert_eq!(decode_error(&[12, 0, 0, 0, 3, 1, 0], 1, 0), Some(BadRecord("key length")));
    assert_eq!(decode_error(&[12, 0, 0, 0, 8, 1, 0], 1, 0), Some(BadRecord("key length")));
    assert_eq!(decode_error(&[12, 0, 0, 0, 1, 4, 0], 1, 0), Some(BadRecord("value length")));
    // Headers that are not there, or have no key.
    assert_eq!(decode_error(&[12, 0, 0, 0, 1, 1, 1], 1, 0), Some(BadRecord("header count")));
    assert_eq!(decode_error(&[12, 0, 0, 0, 1, 1, 2], 1, 0), Some(BadRecord("varint")));
    assert_eq!(decode_error(&[16, 0, 0, 0, 1, 1, 2, 1, 1], 1, 0), Some(BadRecord("header key length")));
    assert_eq!(decode_error(&[16, 0, 0, 0, 1, 1, 2, 0, 2], 1, 0), Some(BadRecord("header value length")));
    assert_eq!(decode_error(&[16, 0, 0, 0, 1, 1, 2, 0, 1], 1, 0), None);
}

#[test]
fn null_empty_and_repeated_fields_are_told_apart() {
    let headers = [
        Header::new("trace", "a"),
        Header::new("trace", ""),
        Header { key: b"", value: None },
        Header { key: &[0xff, 0], value: Some(&[0; 300]) },
    ];
    let records = [
        Record { key: None, value: None, headers: &headers, timestamp: None },
        Record::new("", ""),
        Record::tombstone("k").at(Timestamp::from_millis(-5)),
        Record::keyless(&[7; 70_000]).at(Timestamp::from_millis(i64::MAX)),
        Record::from(("a", "b")).at(Timestamp::from_millis(i64::MIN)),
    ];
    let mut builder = BatchBuilder::new();
    for record in &records {
        builder.push(record, NOW).unwrap();
    }
    let batch = builder.build().unwrap();
    assert_eq!(batch.header().max_timestamp.as_millis(), i64::MAX);
    let mut scratch = Scratch::default();
    for (i, (read, record)) in batch.view().records(&mut scratch).unwrap().zip(&records).enumerate() {
        let read = read.unwrap();
        assert_eq!((read.offset.get(), read.key, read.value), (i as u64, record.key, record.value));
        assert_eq!(read.timestamp, record.timestamp.unwrap_or(NOW));
        assert_eq!(read.headers().collect::<Vec<_>>(), record.headers);
        assert_eq!(read.header_count(), record.headers.len());
        assert_eq!(read.is_tombstone(), record.value.is_none());
        assert_eq!(read.sequence, -1);
    }
}

#[test]
fn a_builder_starts_over_with_its_settings() {
    let mut builder = BatchBuilder::new().producer(7, 1, i32::MAX).codec(Codec::None).leader_epoch(3);
    assert!(builder.is_empty());
    assert_eq!(builder.finish().err(), Some(FormatError::BadCount));
    builder.push(&Record::new("a", "1").at(Timestamp::from_millis(9)), NOW).unwrap();
    builder.push(&Record::new("b", "2").at(Timestamp::from_millis(5)), NOW).unwrap();
    let first = RecordBatch::parse(builder.finish().unwrap().to_vec()).unwrap();
    assert_eq!((builder.len(), builder.size()), (2, first.as_bytes().len()));
    assert_eq!(first.header().base_timestamp.as_millis(), 9);
    assert_eq!(first.header().max_timestamp.as_millis(), 9);
    let mut scratch = Scratch::default();
    let sequences: Vec<i32> = first.view().records(&mut scratch).unwrap().map(|r| r.unwrap().sequence).collect();
    assert_eq!(sequences, [i32::MAX, 0], "sequences wrap to zero");

    builder.reset();
    builder.set_producer(7, 1, 1);
    builder.set_base_offset(Offset::new(50));
    builder.push(&Record::new("c", "3"), NOW).unwrap();
    let second = RecordBatch::parse(builder.finish().unwrap().to_vec()).unwrap();
    let header = second.header();
    assert_eq!((header.base_offset.get(), header.count, header.last_offset_delta), (50, 1, 0));
    assert_eq!((header.base_timestamp, header.max_timestamp), (NOW, NOW));
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 1, 1));
    assert_eq!(header.leader_epoch, 3);
}

#[test]
fn gaps_are_built_as_compaction_leaves_them() {
    let mut builder = BatchBuilder::new().base_offset(Offset::new(100)).last_offset_delta(9);
    builder.push_at(2, &Record::keyless("a"), NOW).unwrap();
    assert_eq!(builder.push_at(2, &Record::keyless("b"), NOW), Err(FormatError::BadOffset));
    assert_eq!(builder.push_at(1 << 31, &Record::keyless("b"), NOW), Err(FormatError::BadOffset));
    builder.push_at(5, &Record::keyless("b"), NOW).unwrap();
    let batch = builder.build().unwrap();
    let mut scratch = Scratch::default();
    let offsets: Vec<u64> = batch.view().records(&mut scratch).unwrap().map(|r| r.unwrap().offset.get()).collect();
    assert_eq!(offsets, [102, 105]);
    assert_eq!(batch.header().next_offset().get(), 110);
}

#[test]
fn a_record_too_large_for_any_batch_leaves_the_batch_as_it_was() {
    let mut builder = BatchBuilder::new();
    builder.push(&Record::keyless("small"), NOW).unwrap();
    let before = builder.finish().unwrap().to_vec();
    // Never touched, so never really allocated.
    let huge = vec![0; i32::MAX as usize - 50];
    let headers = [Header::new("h", &huge), Header::new("h", &huge)];
    let limit = i32::MAX as usize;
    for record in [Record::keyless(&huge), Record::new(&huge, &huge), Record::keyless("x").with_headers(&headers)] {
        assert_eq!(builder.push(&record, NOW), Err(FormatError::TooLarge { limit }));
        assert_eq!(builder.finish().unwrap(), before);
    }
}

#[test]
fn append_time_counts_for_every_record() {
    let mut builder = BatchBuilder::new().timestamp_type(TimestampType::LogAppendTime);
    builder.push(&Record::keyless("a").at(Timestamp::from_millis(1)), NOW).unwrap();
    let built = builder.build().unwrap();
    assert_eq!(built.header().max_timestamp, NOW);

    let mut bytes = batch_of(&["one", "two"]).as_bytes().to_vec();
    patch_append_time(&mut bytes, Timestamp::from_millis(42));
    let batch = RecordBatch::parse(bytes).unwrap();
    assert_eq!(batch.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(batch.header().base_timestamp, NOW);
    let mut scratch = Scratch::default();
    for record in batch.view().records(&mut scratch).unwrap() {
        assert_eq!(record.unwrap().timestamp.as_millis(), 42);
    }
}

#[test]
fn patches_change_what_they_say_and_the_checksum_holds() {
    let batch = batch_of(&["one", "two"]);
    let mut bytes = batch.as_bytes().to_vec();
    patch_offset(&mut bytes, Offset::new(77));
    patch_leader_epoch(&mut bytes, 5);
    let patched = RecordBatch::parse(bytes.clone()).unwrap();
    let expected = BatchHeader { base_offset: Offset::new(77), leader_epoch: 5, ..*batch.header() };
    assert_eq!(*patched.header(), expected);
    patch_max_timestamp(&mut bytes, Timestamp::from_millis(3));
    let patched = RecordBatch::parse(bytes).unwrap();
    let crc = patched.header().crc;
    assert_ne!(crc, expected.crc);
    assert_eq!(*patched.header(), BatchHeader { max_timestamp: Timestamp::from_millis(3), crc, ..expected });
}

#[test]
#[should_panic(expected = "exactly one batch")]
fn a_checksum_is_never_made_over_half_a_batch() {
    let bytes = batch_of(&["one"]).as_bytes().to_vec();
    patch_max_timestamp(&mut bytes[..70].to_vec(), NOW);
}

#[test]
fn attributes_keep_the_bits_that_nobody_knows() {
    let attributes = Attributes::from_bits(0x7f00)
        .with_codec(Codec::Zstd)
        .with_control(true)
        .with_delete_horizon(true)
        .with_transactional(true)
        .with_timestamp_type(TimestampType::LogAppendTime);
    assert_eq!(attributes.bits(), 0x7f7c);
    assert_eq!(attributes.codec(), Ok(Codec::Zstd));
    assert!(attributes.is_control() && attributes.is_transactional() && attributes.has_delete_horizon());
    let cleared = attributes
        .with_codec(Codec::None)
        .with_control(false)
        .with_delete_horizon(false)
        .with_transactional(false)
        .with_timestamp_type(TimestampType::CreateTime);
    assert_eq!(cleared.bits(), 0x7f00);
    assert_eq!(Attributes::from_bits(5).codec(), Err(FormatError::UnknownCodec(5)));
}

#[test]
fn markers_say_who_ended_what() {
    for marker in [Marker::Abort, Marker::Commit] {
        let batch = end_marker(marker, 9, 2, 4, NOW).unwrap();
        let control = batch.view().control(&mut Scratch::default()).unwrap().unwrap();
        assert_eq!((control.marker, control.coordinator_epoch, control.timestamp), (marker, 4, NOW));
        let header = batch.header();
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (9, 2, -1));
    }
    assert!(end_marker(Marker::Other(3), 9, 2, 4, NOW).is_err());
    assert_eq!(batch_of(&["x"]).view().control(&mut Scratch::default()), Ok(None));
    // A control record of Raft has another value; one without a key has no type.
    let control_batch = |record: &Record<'_>| {
        let mut builder = BatchBuilder::new().control(true);
        builder.push(record, NOW).unwrap();
        builder.build().unwrap().view().control(&mut Scratch::default())
    };
    let other = control_batch(&Record::new(&[0, 0, 0, 2], &[])).unwrap().unwrap();
    assert_eq!((other.marker, other.coordinator_epoch), (Marker::Other(2), -1));
    assert_eq!(control_batch(&Record::keyless(&[])), Err(FormatError::BadRecord("control key")));
    assert_eq!(control_batch(&Record::new(&[0, 0, 0, 1], &[0; 5])), Err(FormatError::BadRecord("control value")));
}

#[test]
fn decompression_stops_at_its_bounds() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].into_iter().filter(|codec| codec.is_supported())
    {
        let mut builder = BatchBuilder::new().codec(codec);
        builder.push(&Record::keyless(&vec![b'x'; 8 << 20]), NOW).unwrap();
        let bomb = builder.build().unwrap();
        let mut scratch = Scratch::with_bounds(1 << 20, usize::MAX);
        let error = bomb.view().records(&mut scratch).unwrap_err();
        assert_eq!(error, FormatError::TooLarge { limit: 1 << 20 }, "{codec}");
        let mut scratch = Scratch::with_bounds(usize::MAX, 2);
        let limit = (1 << 20) + 2 * bomb.view().payload().len();
        assert_eq!(bomb.view().records(&mut scratch).unwrap_err(), FormatError::TooLarge { limit }, "{codec}");
        // The same scratch goes on with what is within its bounds.
        let mut builder = BatchBuilder::new().codec(codec);
        builder.push(&Record::keyless("small"), NOW).unwrap();
        let small = builder.build().unwrap();
        assert_eq!(small.view().records(&mut scratch).unwrap().next().unwrap().unwrap().value, Some(&b"small"[..]));
        let mut scratch = Scratch::with_bounds(16 << 20, usize::MAX);
        assert_eq!(bomb.view().records(&mut scratch).unwrap().count(), 1, "{codec}");
    }
}

#[test]
fn compressed_records_cut_short_are_errors() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new().codec(codec);
        builder.push(&Record::keyless(&[b'x'; 1000]), NOW).unwrap();
        let Ok(batch) = builder.build() else {
            assert!(!codec.is_supported());
            continue;
        };
        let whole = batch.as_bytes();
        for len in BATCH_HEADER_LEN..whole.len() {
            let mut cut = whole[..len].to_vec();
            cut[8..12].copy_from_slice(&(len as u32 - 12).to_be_bytes());
            let mut scratch = Scratch::default();
            let failed = match BatchView::parse(&cut).unwrap().records(&mut scratch) {
                Ok(mut records) => records.any(|record| record.is_err()),
                Err(_) => true,
            };
            assert!(failed, "{codec} cut to {len} of {}", whole.len());
        }
    }
}

#[test]
fn a_codec_that_is_left_out_is_named() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].into_iter().filter(|codec| !codec.is_supported())
    {
        let mut builder = BatchBuilder::new().codec(codec);
        builder.push(&Record::keyless("x"), NOW).unwrap();
        assert_eq!(builder.finish().err(), Some(FormatError::UnsupportedCodec(codec.name())));
    }
    let mut bytes = batch_of(&["x"]).as_bytes().to_vec();
    bytes[22] |= 7;
    let error = BatchView::parse(&bytes).unwrap().records(&mut Scratch::default()).unwrap_err();
    assert_eq!(error, FormatError::UnknownCodec(7));
}
