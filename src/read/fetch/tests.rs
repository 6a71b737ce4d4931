//! What a fetch tells while the partition changes under it.

use std::time::Duration;

use super::*;
use crate::compaction::CompactMode;
use crate::config::{Cleanup, Durability, LogConfig, TopicConfig};
use crate::format::Record;
use crate::log::Log;
use crate::log::Partition;
use crate::partition::waiters::WaitOutcome;
use crate::storage::sim::SimStorage;

const NEVER: Durability = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
/// What is there is found at once; what is not must not be waited for that long.
const SHORT: Duration = Duration::from_millis(20);

/// A partition with three records.
fn open() -> (Log, Partition) {
    let config = LogConfig::new().storage(Arc::new(SimStorage::new())).min_free_bytes(0);
    let log = Log::open("/log", config.maintenance_interval(None).sync_threads(0)).unwrap();
    log.create_topic("t", 1, TopicConfig::new().durability(NEVER)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 3);
    (log, partition)
}

fn append(partition: &Partition, count: usize) {
    for _ in 0..count {
        partition.append_records([Record::new("key", "value")]).unwrap();
    }
}

/// Fetches from a view behind which a roll and an append come before anything else is looked at.
fn fetch_while_it_rolls(partition: &Partition, from: u64) -> Result<Fetch> {
    let mut rolled = false;
    let load = || {
        let view = partition.core.view.load();
        if !std::mem::replace(&mut rolled, true) {
            partition.roll().unwrap();
            append(partition, 2);
        }
        Ok(view)
    };
    fetch_from(&partition.core, load, Offset::new(from), FetchOptions::default())
}

#[test]
fn a_fetch_that_finds_nothing_tells_no_end_beyond_the_segments_that_it_looked_at() {
    let (_log, partition) = open();
    let fetched = fetch_while_it_rolls(&partition, 3).unwrap();
    assert!(fetched.is_empty());
    assert_eq!(fetched.offsets.end.get(), 3, "the records behind that are there, and were not looked for");
    let fetched = fetch(&partition.core, Offset::new(3), FetchOptions::default()).unwrap();
    assert_eq!((fetched.batches().count(), fetched.offsets.end.get()), (2, 5));
}

#[test]
fn a_fetch_sees_what_a_compaction_has_left_of_the_records_that_were_there_when_it_began() {
    let (log, _) = open();
    let topic = TopicConfig::new().durability(NEVER).cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    log.create_topic("compacted", 1, topic).unwrap();
    let partition = log.partition("compacted", 0).unwrap();
    append(&partition, 2);
    let load = || {
        append(&partition, 2);
        partition.compact(Timestamp::from_millis(0), CompactMode::Full).unwrap();
        Ok(partition.core.view.load())
    };
    let fetched = fetch_from(&partition.core, load, Offset::ZERO, FetchOptions::default()).unwrap();
    let offsets: Vec<u64> = fetched.batches().map(|batch| batch.unwrap().header().base_offset.get()).collect();
    assert_eq!(offsets, [3], "the latest value of the key");
    assert!(fetched.next_offset <= fetched.offsets.end);
}

#[test]
fn a_fetch_never_begins_below_a_log_start_that_its_segments_lie_above() {
    let (_log, partition) = open();
    partition.roll().unwrap();
    append(&partition, 2);
    let load = || {
        partition.flush().unwrap();
        partition.delete_before(Offset::new(3)).unwrap();
        partition.retain(Timestamp::from_millis(0)).unwrap();
        Ok(partition.core.view.load())
    };
    let fetched = fetch_from(&partition.core, load, Offset::new(1), FetchOptions::default());
    let (start, end) = (Offset::new(3), Offset::new(5));
    assert_eq!(
        *fetched.unwrap_err().kind(),
        ErrorKind::OffsetOutOfRange { requested: Offset::new(1), start, end },
        "records 1 and 2 are not passed over without a word"
    );
}

#[test]
fn an_end_inside_a_batch_that_was_cut_off_does_not_end_the_wait_for_what_came_in_its_place() {
    let (log, _) = open();
    let topic = TopicConfig::new().durability(NEVER).watermark(crate::config::WatermarkMode::Managed);
    log.create_topic("managed", 1, topic).unwrap();
    let partition = log.partition("managed", 0).unwrap();
    partition.append_records([Record::new("key", "value"); 8]).unwrap();
    partition.set_high_watermark(Offset::new(5)).unwrap();
    let options = FetchOptions { isolation: Isolation::HighWatermark, ..FetchOptions::default() };
    let mut reader = partition.reader_with(Offset::ZERO, options).unwrap();
    assert!(reader.next_record().unwrap().is_none(), "the batch is visible in part");
    partition.truncate(Offset::ZERO).unwrap();
    append(&partition, 2);
    partition.set_high_watermark(Offset::new(2)).unwrap();
    assert_eq!(reader.wait(SHORT).unwrap(), WaitOutcome::Reached(Offset::new(2)));
    assert_eq!(reader.next_record().unwrap().unwrap().offset.get(), 0);
}

#[test]
fn a_reader_whose_place_was_cut_off_does_not_wait_for_the_log_to_grow_there_again() {
    let (_log, partition) = open();
    let reader = partition.reader(Offset::new(3)).unwrap();
    partition.truncate(Offset::new(1)).unwrap();
    append(&partition, 1);
    assert_eq!(*reader.wait(SHORT).unwrap_err().kind(), ErrorKind::Truncated);
}

/// A file that is made where one was removed may have its name and its inode.
#[test]
fn a_segment_that_was_cut_off_holds_nothing_of_the_file_that_has_its_place() {
    for reset in [false, true] {
        let (_log, partition) = open();
        partition.roll().unwrap();
        append(&partition, 3);
        let old = Arc::clone(partition.core.view.load().active());
        assert_eq!(old.base(), Offset::new(3));
        if reset {
            partition.reset_to(Offset::new(3)).unwrap();
        } else {
            partition.truncate(Offset::new(1)).unwrap();
            append(&partition, 2);
            partition.roll().unwrap();
        }
        append(&partition, 1);
        let now = Arc::clone(partition.core.view.load().active());
        assert_eq!((now.base(), now.meta().id), (old.base(), old.meta().id), "the same name and inode");
        let data = old.open().unwrap();
        assert!(old.hold(&data, old.len()).unwrap().is_none(), "nothing of it is held");
    }
}
