//! Decoding: whatever is decoded is encoded again to the same.

use stratalog::format::digest::{DigestAnnex, DigestFooter};
use stratalog::format::state::decode_slot;
use stratalog::format::{
    AbortedTxn, BatchHeader, BatchView, Batches, FilterScratch, Filtered, Meta, OffsetIndexEntry, RecordBatch,
    RecordView, Scratch, TimeIndexEntry, Usage, checkpoint, file_name, filter_batch, partition_metadata, snapshot,
};

/// Decompressed bytes of a batch are held below this here.
const DECOMPRESSED_MAX: usize = 1 << 22;
const RATIO_MAX: usize = 4096;

/// Batch headers, whole batches, runs of batches.
pub fn batch(data: &[u8]) {
    if let Ok(header) = BatchHeader::parse(data) {
        assert!(header.last_offset() >= header.base_offset, "offsets do not wrap");
        assert!(header.size <= data.len() || BatchView::parse(data).is_err(), "a batch lies within its bytes");
    }
    let mut batches = Batches::new(data);
    for batch in batches.by_ref() {
        let Ok(batch) = batch else { break };
        assert!(batch.as_bytes().len() <= data.len());
    }
    assert!(batches.position() <= data.len());
    if let Ok(batch) = RecordBatch::parse(data.to_vec()) {
        assert_eq!(batch.as_bytes().as_ref(), data, "a batch is what was given");
    }
}

/// The records of a batch whose checksum is taken for right.
pub fn records(data: &[u8]) {
    let Ok(batch) = BatchView::parse(data) else { return };
    let mut scratch = Scratch::with_bounds(DECOMPRESSED_MAX, RATIO_MAX);
    if let Ok(records) = batch.records(&mut scratch) {
        let mut count = 0_u32;
        for record in records {
            let Ok(record) = record else { break };
            assert!(record.offset >= batch.header().base_offset && record.offset <= batch.header().last_offset());
            assert_eq!(record.headers().count(), record.header_count());
            count += 1;
        }
        assert!(u64::from(count) <= u64::from(batch.header().count), "no more records than the header says");
    }
    let _ = batch.control(&mut scratch);
}

/// What compaction writes of a batch: it can be read, and holds no more than before.
pub fn filter(data: &[u8]) {
    let Ok(batch) = BatchView::parse(data) else { return };
    if batch.header().count > 10_000 {
        return;
    }
    let mut scratch = FilterScratch::default();
    let mut out = Vec::new();
    let mut keep = |record: &RecordView<'_>| record.offset.get().is_multiple_of(2);
    let filtered = filter_batch(&batch, &mut keep, None, &mut scratch, &mut out);
    if matches!(filtered, Ok(Filtered::Rewritten { .. })) {
        let rewritten = BatchView::parse(&out).expect("what is written can be read");
        rewritten.check_crc().expect("with its checksum");
    }
}

/// Bytes in every codec: a batch around them is decoded or refused, within bounds.
pub fn compression(data: &[u8]) {
    for codec in 0..8_u8 {
        let mut bytes = vec![0_u8; 61];
        bytes.extend_from_slice(data);
        let length = (bytes.len() - 12) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        bytes[22] = codec;
        bytes[57..61].copy_from_slice(&1_i32.to_be_bytes());
        let Ok(batch) = BatchView::parse(&bytes) else { continue };
        let mut scratch = Scratch::with_bounds(DECOMPRESSED_MAX, RATIO_MAX);
        if let Ok(records) = batch.records(&mut scratch) {
            records.take_while(Result::is_ok).for_each(drop);
        }
    }
}

/// Entries of all indexes.
pub fn indexes(data: &[u8]) {
    for bytes in data.chunks(8) {
        if let Some(entry) = OffsetIndexEntry::decode(bytes) {
            assert_eq!(entry.encode().as_slice(), &bytes[..entry.encode().len()]);
        }
    }
    for bytes in data.chunks(12) {
        if let Some(entry) = TimeIndexEntry::decode(bytes) {
            assert_eq!(entry.encode().as_slice(), &bytes[..entry.encode().len()]);
        }
    }
    for bytes in data.chunks(AbortedTxn::LEN) {
        if let Ok(entry) = AbortedTxn::decode(bytes) {
            assert_eq!(AbortedTxn::decode(&entry.encode()).expect("it was just encoded"), entry);
        }
    }
}

/// Snapshots, checkpoints, metadata, and names of files.
pub fn small_files(data: &[u8]) {
    snapshot_file(data);
    if let Some((head, rest)) = data.split_first_chunk::<6>() {
        // What is behind the checksum is reached by mutation only where the checksum is right.
        let checksum = crc_fast::crc32_iscsi(rest);
        snapshot_file(&[&head[..2], &checksum.to_be_bytes(), rest].concat());
    }
    if let Ok(entries) = checkpoint::parse_offsets(data) {
        let text = checkpoint::write_offsets(&entries);
        assert_eq!(checkpoint::parse_offsets(text.as_bytes()).expect("it was just written"), entries);
    }
    if let Ok(entries) = checkpoint::parse_epochs(data) {
        let text = checkpoint::write_epochs(&entries);
        assert_eq!(checkpoint::parse_epochs(text.as_bytes()).expect("it was just written"), entries);
    }
    if let Ok(id) = partition_metadata::parse(data) {
        let text = partition_metadata::write(id);
        assert_eq!(partition_metadata::parse(text.as_bytes()).expect("it was just written"), id);
    }
    if let Ok(meta) = Meta::decode(data) {
        assert_eq!(meta.encode().as_slice(), data);
    }
    if let Ok(usage) = Usage::decode(data) {
        assert_eq!(usage.encode().as_bytes(), data);
    }
    if let Ok(name) = std::str::from_utf8(data) {
        let _ = (file_name::parse(name), file_name::parse_dir(name), file_name::check_topic(name));
    }
}

fn snapshot_file(data: &[u8]) {
    if let Ok(entries) = snapshot::decode(data) {
        assert_eq!(snapshot::decode(&snapshot::encode(&entries)).expect("it was just encoded"), entries);
    }
}

/// The `state` of a partition, also with its length and checksum put right.
pub fn state(data: &[u8]) {
    state_slot(data);
    if let Some((content, _)) = data.split_last_chunk::<4>().filter(|(content, _)| content.len() >= 18) {
        let mut sealed = content.to_vec();
        sealed[..6].copy_from_slice(b"STLS\0\x01");
        sealed[6..10].copy_from_slice(&(data.len() as u32).to_be_bytes());
        sealed.extend_from_slice(&crc32fast::hash(&sealed).to_be_bytes());
        assert_eq!(sealed.len(), data.len());
        state_slot(&sealed);
    }
}

fn state_slot(data: &[u8]) {
    if let Ok((sequence, state)) = decode_slot(data) {
        let slot = state.encode(sequence, state.needed_size()).expect("a slot of the needed size holds it");
        assert_eq!(decode_slot(&slot).expect("it was just encoded"), (sequence, state));
    }
}

/// The foot of a digest, and what it says of the rest; also with their checksums put right.
pub fn digest(data: &[u8]) {
    let Some((footer, annex)) = data.split_first_chunk::<{ DigestFooter::LEN }>() else { return };
    digest_of(footer, annex);
    let mut footer = *footer;
    let at = DigestFooter::LEN - 10;
    footer[at - 4..at].copy_from_slice(&crc32fast::hash(annex).to_be_bytes());
    footer[at + 4..].copy_from_slice(b"\0\x02STLD");
    let mut checked = crc32fast::Hasher::new();
    checked.update(&footer[..at]);
    checked.update(&footer[at + 4..at + 6]);
    footer[at..at + 4].copy_from_slice(&checked.finalize().to_be_bytes());
    digest_of(&footer, annex);
}

fn digest_of(footer: &[u8; DigestFooter::LEN], annex: &[u8]) {
    if let Ok(decoded) = DigestFooter::decode(footer) {
        assert_eq!(decoded.encode(), *footer);
        let _ = decoded.subject.blocks();
        if let Ok(read) = DigestAnnex::decode(&decoded, annex) {
            assert_eq!(read.encode(), annex);
        }
    }
}
