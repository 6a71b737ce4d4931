use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::offset::Timestamp;
use crate::storage::OpenMode;
use crate::storage::Storage;
use crate::{FetchOptions, Log, LogConfig, Record, TopicConfig};

/// To make room for the file of the active segment the one before it is closed, which is not synced yet: that takes the
/// second half of the roll, and a sync of the active segment with it.
#[test]
fn a_file_that_is_opened_for_a_reader_may_be_needed_to_make_room_for_it() {
    let storage = crate::sim::SimStorage::new();
    let config = LogConfig::new().storage(Arc::new(storage)).min_free_bytes(0).max_open_files(Some(1));
    let log = Log::open("/log", config.maintenance_interval(None).sync_threads(0)).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    let append = || partition.append_records([Record::new("k", "v")]).unwrap();
    append();
    partition.roll().unwrap();
    append();
    partition.core.lock_active().let_go();
    partition.core.view.load().active().close_file();
    let (done, is_done) = mpsc::channel();
    let reads = partition.clone();
    thread::spawn(move || done.send(reads.fetch(Offset::new(1), FetchOptions::default()).map(|fetch| fetch.len())));
    let read = is_done.recv_timeout(Duration::from_secs(60)).expect("it does not wait for itself");
    assert!(read.unwrap() > 0);
    log.close().unwrap();
}

#[test]
fn only_zeros_follow_up_to_the_end_of_a_file_that_is_shorter() {
    let storage = crate::sim::SimStorage::new();
    let file = storage.open(Path::new("/file"), OpenMode::CreateNew).unwrap();
    file.write_at(&[1, 0, 0], 0).unwrap();
    assert!(super::scan::zeros_follow(&*file, 1, 100).unwrap());
    assert!(super::scan::zeros_follow(&*file, 3, 100).unwrap());
    assert!(!super::scan::zeros_follow(&*file, 0, 100).unwrap());
    file.write_at(&[7], 9).unwrap();
    assert!(!super::scan::zeros_follow(&*file, 1, 100).unwrap());
    assert!(super::scan::zeros_follow(&*file, 1, 9).unwrap());
}

#[test]
fn of_batches_with_the_same_largest_timestamp_the_time_index_has_the_first() {
    use crate::format::BatchHeader;
    let batch = |offset: u64, millis: i64| {
        let mut builder = crate::RecordBatch::builder();
        builder.push(&Record::new("k", "v"), Timestamp::from_millis(millis)).unwrap();
        let mut bytes = builder.build().unwrap().as_bytes().to_vec();
        crate::format::patch_offset(&mut bytes, Offset::new(offset));
        BatchHeader::parse(&bytes).unwrap()
    };
    let mut indexer = super::index::Indexer::new(Offset::ZERO, 1 << 20);
    for (offset, millis) in [(0, 5), (1, 9), (2, 9), (3, 7)] {
        indexer.note(&batch(offset, millis), offset * 100);
    }
    let last = indexer.finish().unwrap();
    assert_eq!((last.timestamp, last.offset), (Timestamp::from_millis(9), 1));
    assert!(indexer.finish().is_none(), "it is there");
}
