//! Batches captured from real clients (librdkafka, kafka-python, rskafka), in all codecs.

use std::path::Path;

use stratalog::format::{BATCH_HEADER_LEN, BatchBuilder, BatchView, Codec, Header, Record, RecordBatch, Scratch};

fn samples() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/client-batches");
    let mut samples: Vec<(String, Vec<u8>)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    samples.sort();
    assert_eq!(samples.len(), 15);
    samples
}

/// The same records, in a batch built by us.
fn rebuild(batch: &BatchView<'_>, codec: Codec) -> RecordBatch {
    let header = batch.header();
    let mut builder = BatchBuilder::new()
        .codec(codec)
        .timestamp_type(header.attributes.timestamp_type())
        .producer(header.producer_id, header.producer_epoch, header.base_sequence)
        .transactional(header.attributes.is_transactional())
        .leader_epoch(header.leader_epoch)
        .base_offset(header.base_offset);
    for record in batch.records(&mut Scratch::default()).unwrap() {
        let record = record.unwrap();
        let headers: Vec<Header<'_>> = record.headers().collect();
        let delta = record.offset.since(header.base_offset) as u32;
        let record =
            Record { key: record.key, value: record.value, headers: &headers, timestamp: Some(record.timestamp) };
        builder.push_at(delta, &record, header.max_timestamp).unwrap();
    }
    builder.build().unwrap()
}

#[test]
fn every_client_batch_parses_and_decodes() {
    let mut scratch = Scratch::default();
    for (name, bytes) in samples() {
        let batch = RecordBatch::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let codec = batch.header().attributes.codec().unwrap();
        assert!(name.ends_with(&format!("-{codec}.batch")), "{name}");
        if !codec.is_supported() {
            assert!(batch.view().records(&mut scratch).is_err());
            continue;
        }
        let records: Vec<_> = batch.view().records(&mut scratch).unwrap().collect();
        assert_eq!(records.len(), batch.header().count as usize);
        for (i, record) in records.into_iter().enumerate() {
            let record = record.unwrap_or_else(|error| panic!("{name}, record {i}: {error}"));
            assert_eq!(record.offset.get(), i as u64);
            assert!(record.timestamp <= batch.header().max_timestamp);
            assert!(record.value.is_some());
        }
    }
}

#[test]
fn an_uncompressed_client_batch_is_rebuilt_byte_for_byte() {
    let mut rebuilt = 0;
    for (name, bytes) in samples() {
        let batch = BatchView::parse(&bytes).unwrap();
        if batch.header().attributes.codec() == Ok(Codec::None) {
            assert_eq!(&rebuild(&batch, Codec::None).as_bytes()[..], &bytes[..], "{name}");
            rebuilt += 1;
        }
    }
    assert_eq!(rebuilt, 4);
}

#[test]
fn a_client_batch_keeps_its_records_in_every_codec() {
    for (name, bytes) in samples() {
        let batch = BatchView::parse(&bytes).unwrap();
        let supported = |codec: &Codec| codec.is_supported();
        if !supported(&batch.header().attributes.codec().unwrap()) {
            continue;
        }
        let plain = rebuild(&batch, Codec::None);
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].into_iter().filter(supported) {
            let packed = rebuild(&plain.view(), codec);
            assert_eq!(packed.header().attributes.codec(), Ok(codec));
            assert!(packed.view().payload().len() < plain.view().payload().len() + 100, "{name} in {codec}");
            assert_eq!(rebuild(&packed.view(), Codec::None), plain, "{name} in {codec}");
        }
    }
}

#[test]
fn a_flipped_bit_behind_the_epoch_is_found_by_the_checksum() {
    for (name, bytes) in samples() {
        for at in (17..bytes.len()).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(RecordBatch::parse(damaged).is_err(), "{name}, byte {at}");
        }
    }
}

#[test]
fn a_batch_cut_anywhere_is_truncated() {
    for (name, bytes) in samples() {
        for len in 0..bytes.len() {
            let error = BatchView::parse(&bytes[..len]).unwrap_err();
            let needed = if len < BATCH_HEADER_LEN { BATCH_HEADER_LEN } else { bytes.len() };
            assert_eq!(error, stratalog::format::FormatError::Truncated { needed, available: len }, "{name}");
        }
    }
}
