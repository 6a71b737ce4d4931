use super::*;
use crate::format::digest::{Horizon, KeyHasher, MarkerHorizon, SegmentProducer};
use crate::offset::Timestamp;
use crate::storage::sim::SimStorage;

const PATH: &str = "/0.digest";

fn hasher() -> KeyHasher {
    KeyHasher::new(&[3; 16])
}

fn subject(span: u64) -> DigestSubject {
    let base = Offset::new(1000);
    DigestSubject { key_id: hasher().id(), base, end: base + span, log_len: 5000, headers_sum: 11 }
}

fn expected(span: u64) -> Expected {
    let DigestSubject { key_id, base, end, log_len, .. } = subject(span);
    Expected { key_id, base, end, log_len }
}

fn annex() -> DigestAnnex {
    let horizons = vec![Horizon { end: Offset::new(1001), at: Timestamp::from_millis(9) }];
    let markers = vec![MarkerHorizon { at: Timestamp::from_millis(4), first: Offset::new(1000) }];
    let producer = |id, open, leads| SegmentProducer { id, open, leads };
    DigestAnnex { horizons, markers, producers: vec![producer(4, true, true), producer(5, false, false)] }
}

/// The entries of keys 0 to `keys`, sorted.
fn entries(keys: u32) -> Vec<DigestEntry> {
    let entry = |key: u32| DigestEntry::new(hasher().hash(&key.to_be_bytes()), key, key.is_multiple_of(7), key + 10);
    let mut entries: Vec<_> = (0..keys).map(entry).collect();
    entries.sort_unstable();
    entries
}

fn write(storage: &SimStorage, entries: &[DigestEntry], memory: usize) -> DigestFooter {
    let path = Path::new(PATH);
    let _ = storage.remove_file(path);
    let file = storage.open(path, OpenMode::CreateNew).unwrap();
    let span = entries.len() as u64 + 1;
    let mut writer = DigestWriter::new(file, path, subject(span), memory);
    entries.chunks(100).for_each(|entries| writer.push(entries).unwrap());
    let tally = Tally { batches: 1, records: span, record_bytes: span * 1_000_000, ..Tally::default() };
    writer.finish(&tally, &annex()).unwrap()
}

fn open(storage: &SimStorage, keys: u32) -> DigestReader {
    let expected = expected(u64::from(keys) + 1);
    DigestReader::open(storage, Path::new(PATH), &expected).unwrap().expect("it fits")
}

/// Reads the entries, so many blocks at a time.
fn read_all(reader: &DigestReader, piece: u64) -> Result<Vec<DigestEntry>> {
    let (mut all, mut buffer) = (Vec::new(), Vec::new());
    let mut next = 0;
    while next < reader.block_count() {
        let end = reader.block_count().min(next + piece);
        reader.read_blocks(next..end, &mut buffer)?;
        for (number, block) in (next..end).zip(buffer.chunks(DigestBlocks::LEN)) {
            all.extend(reader.check_block(number, block)?.as_chunks().0.iter().map(DigestEntry::decode));
        }
        next = end;
    }
    Ok(all)
}

#[test]
fn a_digest_survives_a_round_trip_at_any_size_and_with_any_buffer() {
    let storage = SimStorage::new();
    for keys in [0, 1, 169, 170, 171, 340, 1000] {
        for memory in [0, DigestBlocks::LEN, 3 * DigestBlocks::LEN, 1 << 20] {
            let entries = entries(keys);
            let footer = write(&storage, &entries, memory);
            let reader = open(&storage, keys);
            assert_eq!(*reader.footer(), footer);
            assert_eq!(footer.counts.keys, u64::from(keys));
            assert_eq!(footer.counts.tombstones, u64::from(keys.div_ceil(7)));
            assert_eq!(footer.counts.key_bytes, entries.iter().map(|e| u64::from(e.record_bytes())).sum::<u64>());
            assert_eq!(reader.annex().unwrap(), annex());
            assert_eq!(read_all(&reader, (memory / DigestBlocks::LEN).max(1) as u64).unwrap(), entries);
        }
    }
}

#[test]
fn a_digest_of_something_else_is_to_be_rebuilt() {
    let storage = SimStorage::new();
    let rebuild = |expected: Expected| DigestReader::open(&storage, Path::new(PATH), &expected).unwrap().is_none();
    assert!(rebuild(expected(11)), "missing");
    write(&storage, &entries(10), 1 << 16);
    assert!(!rebuild(expected(11)));
    assert!(rebuild(Expected { key_id: 1, ..expected(11) }));
    assert!(rebuild(Expected { base: Offset::new(999), ..expected(11) }));
    assert!(rebuild(Expected { end: Offset::new(1012), ..expected(11) }));
    assert!(rebuild(Expected { log_len: 4999, ..expected(11) }));
}

#[test]
fn a_digest_that_was_replaced_is_not_opened_again() {
    let storage = SimStorage::new();
    let footer = write(&storage, &entries(10), 1 << 16);
    assert!(DigestReader::reopen(&storage, Path::new(PATH), &footer).is_ok());
    write(&storage, &entries(11), 1 << 16);
    assert!(DigestReader::reopen(&storage, Path::new(PATH), &footer).unwrap_err().is_corruption());
}

#[test]
fn every_flipped_bit_of_the_file_is_found_out() {
    let storage = SimStorage::new();
    let entries = entries(180);
    let footer = write(&storage, &entries, 1 << 16);
    for position in 0..footer.file_len() as usize {
        storage.flip(Path::new(PATH), position, (position % 8) as u8).unwrap();
        if let Some(reader) = DigestReader::open(&storage, Path::new(PATH), &expected(181)).unwrap() {
            let read = (read_all(&reader, 16), reader.annex());
            assert!(read.0.is_err() || read.1.is_err(), "byte {position}");
        }
        storage.flip(Path::new(PATH), position, (position % 8) as u8).unwrap();
    }
}

#[test]
fn a_file_that_was_cut_anywhere_is_to_be_rebuilt() {
    let storage = SimStorage::new();
    let len = write(&storage, &entries(180), 1 << 16).file_len();
    let file = storage.open(Path::new(PATH), OpenMode::Write).unwrap();
    for cut in (0..len).rev() {
        file.set_len(cut).unwrap();
        assert!(DigestReader::open(&storage, Path::new(PATH), &expected(181)).unwrap().is_none());
    }
}

#[test]
fn a_damaged_block_is_told_with_its_place_in_the_file() {
    let storage = SimStorage::new();
    let keys = 3 * DigestBlocks::ENTRIES as u32;
    write(&storage, &entries(keys), 1 << 20);
    let reader = open(&storage, keys);
    let mut buffer = Vec::new();
    reader.read_blocks(0..3, &mut buffer).unwrap();
    for (number, block) in (0..3).zip(buffer.chunks_mut(DigestBlocks::LEN)) {
        reader.check_block(number, block).unwrap();
        block[5] ^= 1;
        let error = reader.check_block(number, block).unwrap_err();
        assert_eq!(error.position(), Some(number * DigestBlocks::LEN as u64), "{error}");
    }
}

#[test]
fn a_digest_that_cannot_be_opened_is_not_taken_for_a_missing_one() {
    use crate::sim::{Call, Fault};
    let storage = SimStorage::new();
    assert!(stored_footer(&storage, Path::new(PATH)).unwrap().is_none());
    write(&storage, &entries(10), 1 << 20);
    assert!(stored_footer(&storage, Path::new(PATH)).unwrap().is_some());
    storage.set_fault(Some(Fault { call: Some(Call::Open), after: 0, error: io::ErrorKind::Other, forever: true }));
    assert!(stored_footer(&storage, Path::new(PATH)).is_err());
}
