//! The last stable offset never lies inside a transaction that is not decided below the high watermark, wherever that is
//! set, forward and back.
#![cfg(feature = "sim")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{quiet, small};
use stratalog::format::{BatchHeader, Marker, end_marker};
use stratalog::sim::SimStorage;
use stratalog::storage::Storage;
use stratalog::{
    Budget, Clock, Durability, FetchOptions, Isolation, Log, ManualClock, Offset, Partition, Record, RecordBatch,
    Timestamp, TopicConfig, WatermarkMode,
};

const NEVER: Durability = Durability::Buffered { interval: Duration::from_secs(24 * 3600), bytes: 1 << 40 };
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A transaction: its first offset, and that of its marker.
type Transaction = (u64, Option<u64>);

struct World {
    storage: SimStorage,
    clock: Arc<ManualClock>,
    log: Option<Log>,
    partition: Partition,
    /// Each producer's transactions, in order.
    transactions: [Vec<Transaction>; 3],
}

fn topic() -> TopicConfig {
    small().durability(NEVER).watermark(WatermarkMode::Managed)
}

fn open(storage: &SimStorage, clock: &Arc<ManualClock>) -> (Log, Partition) {
    let config = quiet().sync_threads(0).storage(Arc::new(storage.clone())).clock(clock.clone());
    let log = Log::open("/log", config).unwrap();
    if log.topic("t").is_none() {
        log.create_topic("t", 1, topic()).unwrap();
    }
    let partition = log.partition("t", 0).unwrap();
    (log, partition)
}

impl World {
    fn new() -> World {
        let (storage, clock) = (SimStorage::new(), Arc::new(ManualClock::new(NOW)));
        let (log, partition) = open(&storage, &clock);
        World { storage, clock, log: Some(log), partition, transactions: Default::default() }
    }

    fn plain(&mut self) {
        self.partition.append_records([Record::new("k", "v")]).unwrap();
    }

    fn data(&mut self, producer: usize) {
        let mut builder = RecordBatch::builder().producer(producer as i64, 0, 0).transactional(true);
        builder.push(&Record::new("k", "v"), NOW).unwrap();
        let offset = self.partition.append(&builder.build().unwrap()).unwrap().base_offset.get();
        let open = self.transactions[producer].last().is_some_and(|(_, marker)| marker.is_none());
        if !open {
            self.transactions[producer].push((offset, None));
        }
    }

    fn end(&mut self, producer: usize, marker: Marker) {
        let batch = end_marker(marker, producer as i64, 0, 0, NOW).unwrap();
        let offset = self.partition.append(&batch).unwrap().base_offset.get();
        if let Some((_, marker)) = self.transactions[producer].last_mut() {
            marker.get_or_insert(offset);
        }
    }

    fn truncate(&mut self, to: u64) {
        self.partition.truncate(Offset::new(to)).unwrap();
        for transactions in &mut self.transactions {
            transactions.retain(|(first, _)| *first < to);
            for (_, marker) in transactions {
                *marker = marker.filter(|marker| *marker < to);
            }
        }
    }

    fn configure(&mut self, watermark: WatermarkMode) {
        self.log.as_ref().unwrap().topic("t").unwrap().set_config(topic().watermark(watermark)).unwrap();
    }

    fn set_high_watermark(&mut self, to: u64) {
        if self.partition.config().watermark == WatermarkMode::Managed {
            self.partition.set_high_watermark(Offset::new(to)).unwrap();
        }
    }

    /// Closes the log, or drops it as a kill would, and opens it again.
    fn reopen(&mut self, close: bool) {
        match self.log.take() {
            Some(log) if close => log.close().unwrap(),
            log => drop(log),
        }
        let (log, partition) = open(&self.storage, &self.clock);
        (self.log, self.partition) = (Some(log), partition);
    }

    /// What the last stable offset is where the high watermark lies now.
    fn expected(&self) -> u64 {
        let high_watermark = self.partition.offsets().high_watermark.get();
        let undecided = |(_, marker): &&Transaction| marker.is_none_or(|marker| marker >= high_watermark);
        let first = self.transactions.iter().flatten().filter(undecided).map(|(first, _)| *first).min();
        first.map_or(high_watermark, |first| first.min(high_watermark))
    }

    fn check(&self, history: &[String]) {
        let offsets = self.partition.offsets();
        assert_eq!(offsets.last_stable.get(), self.expected(), "{offsets:?} after {history:?}");
    }
}

#[test]
fn a_high_watermark_that_is_set_back_puts_the_stable_end_before_what_it_leaves_undecided() {
    let mut world = World::new();
    world.plain();
    world.data(0);
    world.plain();
    world.end(0, Marker::Commit);
    world.plain();
    for high_watermark in [5, 2, 3, 4, 5, 1, 0, 4, 3] {
        world.set_high_watermark(high_watermark);
        world.check(&[format!("{high_watermark}")]);
    }
}

#[test]
fn a_topic_whose_high_watermark_becomes_managed_shows_nothing_that_it_leaves_undecided() {
    let mut world = World::new();
    world.plain();
    world.data(0);
    world.plain();
    world.set_high_watermark(2);
    world.configure(WatermarkMode::LogEnd);
    world.end(0, Marker::Commit);
    assert_eq!(world.partition.offsets().last_stable.get(), 4);
    world.configure(WatermarkMode::Managed);
    assert_eq!(world.partition.offsets().high_watermark.get(), 2);
    world.check(&[]);
}

#[test]
fn a_producer_is_not_forgotten_while_its_transaction_may_still_be_taken_back() {
    for close in [true, false] {
        let mut world = World::new();
        world.data(0);
        world.plain();
        world.end(0, Marker::Commit);
        world.set_high_watermark(2);
        world.partition.roll().unwrap();
        world.clock.advance(DAY * 2);
        world.log.as_ref().unwrap().maintain(world.clock.now(), Budget::default()).unwrap();
        world.plain();
        for _ in 0..2 {
            world.reopen(close);
            assert_eq!(world.partition.offsets().high_watermark.get(), 2);
            world.check(&[]);
        }
        world.set_high_watermark(3);
        assert_eq!(world.partition.stats().producers, 1);
        world.log.as_ref().unwrap().maintain(world.clock.now(), Budget::default()).unwrap();
        assert_eq!(world.partition.stats().producers, 0, "it is forgotten now");
    }
}

#[test]
fn where_damage_hides_what_was_decided_nothing_from_the_log_start_on_is_stable_until_it_is_replicated_again() {
    let mut world = World::new();
    world.data(0);
    world.end(0, Marker::Commit);
    world.plain();
    world.partition.roll().unwrap();
    world.plain();
    world.set_high_watermark(4);
    let (path, _) = world.storage.files().into_iter().find(|(path, len)| is_log(path) && *len > 0).unwrap();
    world.storage.flip(&path, 16, 0).unwrap();
    for (high_watermark, stable) in [(3, 3), (1, 0), (2, 2), (4, 4)] {
        world.set_high_watermark(high_watermark);
        assert_eq!(world.partition.offsets().last_stable.get(), stable, "{high_watermark}");
    }
}

#[test]
fn where_damage_hides_who_aborted_and_the_index_of_that_is_lost_no_record_before_it_is_shown_as_committed() {
    let mut world = World::new();
    world.data(0);
    world.plain();
    world.end(0, Marker::Abort);
    world.partition.roll().unwrap();
    world.plain();
    world.set_high_watermark(4);
    world.log.take().unwrap().close().unwrap();
    let files = world.storage.files();
    let lost = files.iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "txnindex"));
    lost.for_each(|(path, _)| world.storage.remove_file(path).unwrap());
    let (log, _) = files.iter().find(|(path, len)| is_log(path) && *len > 0).unwrap();
    let first = BatchHeader::parse(&world.storage.contents(log).unwrap()).unwrap().size;
    world.storage.flip(log, first + 16, 0).unwrap();
    world.reopen(true);
    let committed = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    let mut reader = world.partition.reader_with(Offset::ZERO, committed).unwrap();
    assert!(reader.next_record().is_err_and(|error| error.is_corruption()), "record 0 was aborted");
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

#[test]
fn a_reader_of_what_is_committed_sees_no_transaction_that_a_high_watermark_set_back_leaves_undecided() {
    let mut world = World::new();
    world.data(0);
    world.end(0, Marker::Commit);
    world.set_high_watermark(2);
    let committed = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    let mut reader = world.partition.reader_with(Offset::ZERO, committed).unwrap();
    assert!(reader.next_record().unwrap().is_some());
    world.set_high_watermark(1);
    let mut reader = world.partition.reader_with(Offset::ZERO, committed).unwrap();
    assert!(reader.next_record().unwrap().is_none());
}

#[test]
fn in_any_history_the_stable_end_is_where_the_transactions_and_the_high_watermark_put_it() {
    let cases = std::env::var("STRATALOG_WATERMARK_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300);
    for case in 0..cases {
        let mut drawn: u64 = case * 2 + 1;
        let mut draw = |below: u64| {
            drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (drawn >> 33) % below
        };
        let (mut world, mut history) = (World::new(), vec![format!("case {case}")]);
        for _ in 0..40 {
            let (end, producer) = (world.partition.offsets().end.get(), draw(3) as usize);
            let (what, somewhere) = (draw(20), draw(end + 1));
            history.push(format!("{what} {producer} {somewhere}"));
            match what {
                0..6 => world.data(producer),
                6..8 => world.end(producer, Marker::Commit),
                8..10 => world.end(producer, Marker::Abort),
                10 => world.plain(),
                11..15 => world.set_high_watermark(somewhere),
                15 => world.partition.roll().unwrap(),
                16 => world.truncate(somewhere),
                17 => world.reopen(draw(2) == 0),
                18 => world.configure(WatermarkMode::LogEnd),
                _ => world.configure(WatermarkMode::Managed),
            }
            world.check(&history);
        }
    }
}
