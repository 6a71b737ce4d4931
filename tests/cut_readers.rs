//! What readers are told of a truncation that takes away what they have fetched, or the place where they stand.

mod common;

use common::{append, quiet};
use stratalog::{ErrorKind, Log, Offset, Partition, Reader, RecordView, TopicConfig};
use tempfile::TempDir;

/// A log of 60 batches of a record each, and a reader that has read 45 and fetched the rest.
fn read_to_45() -> (TempDir, Log, Partition, Reader) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&partition, 60);
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    for offset in 0..45 {
        assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(offset));
    }
    (dir, log, partition, reader)
}

fn kind_of(read: stratalog::Result<Option<RecordView<'_>>>) -> Option<ErrorKind> {
    read.err().map(|error| error.kind().clone())
}

#[test]
fn a_reader_that_has_fetched_beyond_a_truncation_is_told_before_it_shows_what_is_gone() {
    for batches in [false, true] {
        let (_dir, _log, partition, mut reader) = read_to_45();
        partition.truncate(Offset::new(50)).unwrap();
        append(&partition, 20);
        for offset in 45..50 {
            let found = match batches {
                true => reader.next_batch().unwrap().unwrap().header().base_offset,
                false => reader.next_record().unwrap().unwrap().offset,
            };
            assert_eq!(found, Offset::new(offset));
        }
        assert_eq!(kind_of(reader.next_record()), Some(ErrorKind::Truncated));
        assert_eq!(reader.offset(), Offset::new(50));
        assert_eq!(kind_of(reader.next_record()), Some(ErrorKind::Truncated), "errors stay");
        assert_eq!(reader.next_batch().unwrap_err().kind(), &ErrorKind::Truncated);
        reader.seek(Offset::new(50));
        for offset in 50..70 {
            assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(offset));
        }
        assert!(reader.next_record().unwrap().is_none());
    }
}

#[test]
fn a_reader_that_stands_above_a_truncation_is_told() {
    for reset in [false, true] {
        let (_dir, _log, partition, mut reader) = read_to_45();
        if reset {
            partition.reset_to(Offset::new(30)).unwrap();
        } else {
            partition.truncate(Offset::new(30)).unwrap();
        }
        append(&partition, 40);
        assert_eq!(kind_of(reader.next_record()), Some(ErrorKind::Truncated));
        assert_eq!(reader.offset(), Offset::new(45));
        // Where it has nothing fetched as well.
        let mut reader = partition.reader(Offset::new(60)).unwrap();
        partition.truncate(Offset::new(55)).unwrap();
        append(&partition, 10);
        assert_eq!(kind_of(reader.next_record()), Some(ErrorKind::Truncated));
    }
}

#[test]
fn a_reader_below_a_truncation_goes_on() {
    let (_dir, _log, partition, mut reader) = read_to_45();
    partition.truncate(Offset::new(45)).unwrap();
    append(&partition, 5);
    // What it had fetched is gone, and nothing of that was shown.
    assert_eq!(kind_of(reader.next_record()), Some(ErrorKind::Truncated));
    reader.seek(reader.offset());
    assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(45));
    // At the end nothing is fetched ahead.
    for offset in 46..50 {
        assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(offset));
    }
    assert!(reader.next_record().unwrap().is_none());
    append(&partition, 3);
    partition.truncate(Offset::new(50)).unwrap();
    append(&partition, 1);
    assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(50));
}
