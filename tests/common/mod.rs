//! What several tests use.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;

use stratalog::{LogConfig, ManualClock, Offset, Partition, Record, Timestamp, TopicConfig};

/// A log without threads that look at it, on a disk of any size.
pub fn quiet() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

/// The same, with a clock that stands at a time of its own.
pub fn clocked() -> (LogConfig, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    (quiet().clock(clock.clone()), clock)
}

/// Segments of a few records.
pub fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(1024).index_interval_bytes(128)
}

/// Appends one record a batch, its value its offset.
pub fn append(partition: &Partition, count: u64) {
    for _ in 0..count {
        let next = partition.offsets().end.get();
        let (key, value) = (format!("key-{}", next % 7), format!("value-{next}"));
        let appended = partition.append_records([Record::new(&key, &value)]).unwrap();
        assert_eq!(appended.base_offset, Offset::new(next));
    }
}

/// Offsets and values from `from` on.
pub fn read(partition: &Partition, from: u64) -> Vec<(u64, String)> {
    let mut reader = partition.reader(Offset::new(from)).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        found.push((record.offset.get(), String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
    }
    found
}

/// What [`append`] wrote at these offsets.
pub fn expected(range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|n| (n, format!("value-{n}"))).collect()
}
