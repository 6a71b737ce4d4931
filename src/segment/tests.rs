use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
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
    partition.shared.lock_active().let_go();
    partition.shared.view.load().active().close_file();
    let (done, is_done) = mpsc::channel();
    let reads = partition.clone();
    thread::spawn(move || done.send(reads.fetch(Offset::new(1), FetchOptions::default()).map(|fetch| fetch.len())));
    let read = is_done.recv_timeout(Duration::from_secs(60)).expect("it does not wait for itself");
    assert!(read.unwrap() > 0);
    log.close().unwrap();
}
