//! This engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stratalog::format::Scratch;
use stratalog::{Cleanup, Clock, CompactMode, Durability, Log, LogConfig, Offset, Partition, SystemClock, TopicConfig};

use super::{Mode, Points, Seen, Store, in_calls};
use crate::counting::Counting;
use crate::data::{Run, Stop};

pub struct Opened {
    log: Log,
    partition: Partition,
    mode: Mode,
}

impl Opened {
    pub fn open(dir: &Path, mode: Mode) -> Opened {
        let mut config = LogConfig::new().maintenance_interval(None).max_unsynced_bytes(8 << 30);
        if mode == Mode::Latest {
            config = config.storage(Counting::without_syncs() as Arc<_>);
        }
        let log = Log::open(dir, config).expect("it opens");
        let partition = log.partition("peers", 0);
        let partition =
            partition.unwrap_or_else(|| log.create_partition("peers", 0, topic(mode)).expect("it is the first one"));
        Opened { log, partition, mode }
    }
}

fn topic(mode: Mode) -> TopicConfig {
    let never = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 8 << 30 };
    let durability = if mode == Mode::Synced { Durability::Sync } else { never };
    let cleanup = if mode.is_latest() { Cleanup::Compact } else { Cleanup::Delete };
    TopicConfig::new().durability(durability).cleanup(cleanup).min_cleanable_dirty_ratio(0.0)
}

impl Store for Opened {
    fn append(&self, _lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        in_calls(records, per_call, stop, |run| {
            self.partition.append_records(run.iter().map(|entry| entry.record())).expect("there is room");
        })
    }

    fn scan(&self) -> Option<Seen> {
        let mut seen = Seen::default();
        let mut reader = self.partition.reader(Offset::ZERO).expect("it is open");
        let mut scratch = Scratch::default();
        while let Some(batch) = reader.next_batch().expect("it is sound") {
            for record in batch.records(&mut scratch).expect("it is sound") {
                let record = record.expect("it is sound");
                seen.add(record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len));
            }
        }
        Some(seen)
    }

    fn points(&self) -> Option<Points<'_>> {
        let mut reader = self.partition.reader(Offset::ZERO).expect("it is open");
        Some(Box::new(move |number| {
            reader.seek(Offset::new(number));
            let record = reader.next_record().expect("it is sound").expect("it is there");
            record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)
        }))
    }

    fn settle(&self) {
        self.partition.roll().expect("it can be sealed");
    }

    fn put_and_compact(&mut self, records: Run<'_>, per_call: usize) {
        self.append(0, records, per_call, Stop::never());
        self.partition.roll().expect("it can be sealed");
        if self.mode == Mode::LatestSynced {
            self.partition.flush().expect("it can be synced");
        }
        let report = self.partition.compact(SystemClock.now(), CompactMode::Due).expect("it is sound");
        assert!(!report.unfinished && report.damaged.is_empty(), "{report:?}");
    }

    fn live_keys(&self) -> usize {
        let mut reader = self.partition.reader(Offset::ZERO).expect("it is open");
        let mut live = 0;
        while let Some(record) = reader.next_record().expect("it is sound") {
            live += usize::from(record.value.is_some());
        }
        live
    }

    fn close(self: Box<Self>) {
        let Opened { log, partition, .. } = *self;
        drop(partition);
        log.close().expect("it is sound");
    }
}
