//! Compression: levels, bounds to the byte, what is not compressed data, and the memory that is kept.

use stratalog::Timestamp;
use stratalog::format::{
    BATCH_HEADER_LEN, BatchBuilder, BatchView, Codec, FormatError, Header, Record, RecordBatch, Scratch,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn codecs() -> impl Iterator<Item = Codec> {
    [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].into_iter().filter(|codec| codec.is_supported())
}

fn batch_of(builder: BatchBuilder, value: &[u8]) -> RecordBatch {
    let mut builder = builder;
    builder.push(&Record::keyless(value), NOW).unwrap();
    builder.build().unwrap()
}

/// Bytes that no codec makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| draw()).collect()
}

/// A batch under the header of another one, with these bytes for its records.
fn with_payload(batch: &RecordBatch, payload: &[u8], count: u32) -> Vec<u8> {
    let mut bytes = batch.as_bytes()[..BATCH_HEADER_LEN].to_vec();
    bytes.extend_from_slice(payload);
    let length = bytes.len() as u32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    bytes
}

#[test]
fn a_level_changes_what_is_written_and_not_what_is_read() {
    let words: Vec<u8> = noise(20_000).iter().flat_map(|byte| format!("word-{} ", byte % 64).into_bytes()).collect();
    for (codec, low, high) in [(Codec::Gzip, 1, 9), (Codec::Zstd, 1, 19)] {
        if !codec.is_supported() {
            continue;
        }
        let of_level = |level| batch_of(RecordBatch::builder().codec(codec).level(level), &words);
        let (low, high) = (of_level(low), of_level(high));
        assert!(high.as_bytes().len() < low.as_bytes().len(), "{codec}");
        for batch in [low, high] {
            let mut scratch = Scratch::default();
            let read = batch.view().records(&mut scratch).unwrap().next().unwrap().unwrap();
            assert_eq!(read.value, Some(&words[..]), "{codec}");
        }
    }
}

#[test]
fn a_batch_may_grow_to_its_bound_and_not_by_a_byte_more() {
    for value in [noise(100), noise(300_000), vec![b'x'; 300_000]] {
        let plain = batch_of(RecordBatch::builder(), &value).view().payload().len();
        for codec in codecs() {
            let batch = batch_of(RecordBatch::builder().codec(codec), &value);
            let mut exact = Scratch::with_bounds(plain, usize::MAX);
            assert_eq!(batch.view().records(&mut exact).unwrap().count(), 1, "{codec}, {plain}");
            let mut less = Scratch::with_bounds(plain - 1, usize::MAX);
            let error = batch.view().records(&mut less).unwrap_err();
            assert_eq!(error, FormatError::TooLarge { limit: plain - 1 }, "{codec}");
        }
    }
}

#[test]
fn bytes_that_no_codec_wrote_are_said_to_be_so() {
    for codec in codecs() {
        let batch = batch_of(RecordBatch::builder().codec(codec), b"value");
        let bytes = with_payload(&batch, &[0xaa; 64], 1);
        let error = BatchView::parse(&bytes).unwrap().records(&mut Scratch::default()).unwrap_err();
        assert_eq!(error, FormatError::Decompress(codec.name()));
    }
}

#[test]
fn a_compressed_batch_that_was_emptied_holds_nothing_and_is_no_error() {
    for codec in codecs() {
        let batch = batch_of(RecordBatch::builder().codec(codec), b"value");
        let emptied = with_payload(&batch, &[], 0);
        let mut scratch = Scratch::default();
        assert_eq!(BatchView::parse(&emptied).unwrap().records(&mut scratch).unwrap().count(), 0, "{codec}");
        // One whose records are gone is damaged, whichever way it is told.
        let gone = with_payload(&batch, &[], 1);
        let read =
            BatchView::parse(&gone).unwrap().records(&mut scratch).map(|mut records| records.any(|r| r.is_err()));
        assert_ne!(read, Ok(false), "{codec}");
    }
}

#[test]
fn a_scratch_lets_go_of_what_a_large_batch_needed() {
    for codec in codecs() {
        let batch = batch_of(RecordBatch::builder().codec(codec), &vec![b'x'; 1 << 20]);
        let mut scratch = Scratch::default();
        assert_eq!(batch.view().records(&mut scratch).unwrap().count(), 1);
        let capacity = |scratch: &Scratch| -> usize {
            let told = format!("{scratch:?}");
            let number = told.split_once("capacity: ").unwrap().1.split(',').next().unwrap();
            number.parse().unwrap()
        };
        assert!(capacity(&scratch) > 1 << 20, "{codec}");
        scratch.shrink_to(1 << 16);
        assert!(capacity(&scratch) <= 1 << 16, "{codec}");
        assert_eq!(batch.view().records(&mut scratch).unwrap().count(), 1, "it grows again");
    }
}

#[test]
fn headers_are_counted_and_their_bytes_are_part_of_the_size() {
    let headers = [Header::new("a", b"first"), Header::new("b", b"second"), Header::new("c", b"")];
    let size = |value: &[u8], headers: &[Header<'_>]| {
        let mut builder = RecordBatch::builder();
        builder.push(&Record::new("key", value).with_headers(headers), NOW).unwrap();
        let batch = builder.build().unwrap();
        let mut scratch = Scratch::default();
        let record = batch.view().records(&mut scratch).unwrap().next().unwrap().unwrap();
        let mut left = record.headers();
        for passed in 0..=headers.len() {
            assert_eq!(left.size_hint(), (headers.len() - passed, Some(headers.len() - passed)));
            assert_eq!(left.next().is_some(), passed < headers.len());
        }
        record.size()
    };
    let plain = size(&[0; 100], &[]);
    assert_eq!(size(&[0; 150], &[]), plain + 50);
    let headed = size(&[0; 100], &headers);
    assert!((plain + 14..plain + 30).contains(&headed), "14 bytes, and the lengths of each: {plain}, {headed}");
    assert_eq!(size(&[0; 150], &headers), headed + 50);
}
