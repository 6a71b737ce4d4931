//! A truncation that is redone, over what was appended after it was done the first time.

use std::fs;
use std::path::Path;

use stratalog::format::state::{decode_slot, pick};
use stratalog::format::{Batches, Pending, State};
use stratalog::{Log, LogConfig, Offset, Record, TopicConfig};

fn config() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

fn change_state(path: &Path, change: impl FnOnce(&mut State)) {
    let bytes = fs::read(path).unwrap();
    let (left, right) = bytes.split_at(bytes.len() / 2);
    let (sequence, mut state) = pick(left, right).unwrap();
    change(&mut state);
    let slot = state.encode(sequence + 1, left.len()).unwrap();
    assert!(decode_slot(&slot).is_ok());
    fs::write(path, [slot.as_slice(), slot.as_slice()].concat()).unwrap();
}

#[test]
fn a_torn_batch_above_the_cut_does_not_stop_a_truncation_that_is_redone() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    let topic = log.create_topic("t", 1, TopicConfig::new().segment_bytes(1024)).unwrap();
    let partition = topic.partition(0).unwrap();
    for n in 0..30 {
        partition.append_records([Record::new(&format!("key-{n}"), "value")]).unwrap();
    }
    assert!(partition.stats().segments > 2);
    drop((partition, topic));
    log.close().unwrap();

    // The truncation was done, and part of a batch appended; then the `state` that says so was lost with the power.
    let first = dir.path().join("t-0").join(format!("{:020}.log", 0));
    let bytes = fs::read(&first).unwrap();
    let position: usize = Batches::new(&bytes).take(5).map(|batch| batch.unwrap().header().size).sum();
    fs::write(&first, &bytes[..position + 16]).unwrap();
    change_state(&dir.path().join("t-0/state"), |state| {
        (state.pending, state.durable_end) = (Pending::Truncate(Offset::new(5)), Offset::new(5));
        state.high_watermark = Offset::new(5);
    });
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
    assert_eq!(partition.offsets().end, Offset::new(5));

    // Below the cut it is damage all the same.
    drop((partition, log));
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 9]).unwrap();
    change_state(&dir.path().join("t-0/state"), |state| state.pending = Pending::Truncate(Offset::new(5)));
    let log = Log::open(dir.path(), config()).unwrap();
    assert!(log.partition("t", 0).unwrap().stats().error.unwrap().is_corruption());
}
