//! The markers of transactions go once nothing is left of these and their horizon has passed, on an idle partition too.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::clocked;
use stratalog::format::{Marker, Scratch, end_marker};
use stratalog::{
    Budget, Cleanup, Clock, CompactMode, FetchOptions, Isolation, Log, ManualClock, Offset, Partition, Record,
    RecordBatch, Timestamp, TopicConfig,
};

const RETENTION: Duration = Duration::from_secs(3600);

struct Fixture {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    log: Log,
    partition: Partition,
    sequence: i32,
}

fn topic() -> TopicConfig {
    TopicConfig::new().cleanup(Cleanup::Compact).delete_retention(RETENTION).index_interval_bytes(128)
}

impl Fixture {
    fn new(topic: TopicConfig) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (config, clock) = clocked();
        let log = Log::open(dir.path(), config).unwrap();
        let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
        Fixture { dir, clock, log, partition, sequence: 0 }
    }

    /// The log is closed and opened again; `between` looks at its directory meanwhile.
    fn reopen(mut self, between: impl FnOnce(&Path)) -> Fixture {
        drop(self.partition);
        self.log.close().unwrap();
        between(self.dir.path());
        let (config, _) = clocked();
        self.log = Log::open(self.dir.path(), config.clock(self.clock.clone())).unwrap();
        self.partition = self.log.partition("t", 0).unwrap();
        self
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn put(&mut self, producer: i64, key: &str) -> Offset {
        self.sequence += 1;
        let mut builder = RecordBatch::builder().producer(producer, 0, self.sequence).transactional(true);
        builder.push(&Record::new(key, &self.sequence.to_string()), self.now()).unwrap();
        self.partition.append(&builder.build().unwrap()).unwrap().base_offset
    }

    fn end(&self, producer: i64, marker: Marker) -> Offset {
        self.partition.append(&end_marker(marker, producer, 0, 0, self.now()).unwrap()).unwrap().base_offset
    }

    /// The last batch of a producer stays, empty if need be, and its marker with it: this is another one.
    fn go_on(&mut self, producer: i64) {
        self.put(producer, &format!("of-{producer}"));
        self.end(producer, Marker::Commit);
    }

    fn transactions(&mut self, count: u64, key: &str) {
        for n in 0..count {
            self.put(7, key);
            self.end(7, if n % 3 == 1 { Marker::Abort } else { Marker::Commit });
        }
    }

    fn full(&self) -> Option<Timestamp> {
        let report = self.partition.compact(self.now(), CompactMode::Full).unwrap();
        assert!(!report.unfinished, "{report:?}");
        report.next_deadline
    }

    /// Lets maintenance do what it says is due, when it is due, until nothing is; returns how often that was.
    fn wait(&self) -> u32 {
        for rounds in 0..50 {
            let report = self.log.maintain(self.now(), Budget::default()).unwrap();
            let pass = &report.passes[0];
            assert!(pass.2.errors.is_empty(), "{:?}", pass.2.errors);
            let Some(compaction) = pass.2.compaction.as_ref() else { panic!("it is compacted") };
            match compaction.next_deadline {
                Some(at) if at > self.now() => self.clock.set(at),
                Some(_) => {}
                None if compaction.is_idle() => return rounds,
                None => {}
            }
        }
        panic!("there is always more to do");
    }
}

/// Offsets of the markers from an offset on, and their horizons.
fn markers_from(partition: &Partition, mut from: Offset) -> Vec<(u64, Option<Timestamp>)> {
    let mut found = Vec::new();
    let mut scratch = Scratch::default();
    let offsets = partition.offsets();
    while from < offsets.end {
        let fetch = partition.fetch(from, FetchOptions::default()).unwrap();
        for batch in fetch.batches() {
            let batch = batch.unwrap();
            batch.check_crc().unwrap();
            if batch.control(&mut scratch).unwrap().is_some() {
                found.push((batch.header().base_offset.get(), batch.header().delete_horizon()));
            }
        }
        from = fetch.next_offset;
    }
    found
}

fn markers(partition: &Partition) -> Vec<(u64, Option<Timestamp>)> {
    markers_from(partition, partition.offsets().start)
}

/// Batches of any kind.
fn batches(partition: &Partition) -> usize {
    let offsets = partition.offsets();
    let mut from = offsets.start;
    let mut count = 0;
    while from < offsets.end {
        let fetch = partition.fetch(from, FetchOptions::default()).unwrap();
        count += fetch.batches().count();
        from = fetch.next_offset;
    }
    count
}

/// What a reader of committed records sees.
fn committed(partition: &Partition) -> Vec<(u64, String)> {
    let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    let mut reader = partition.reader_with(partition.offsets().start, options).unwrap();
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        records.push((record.offset.get(), String::from_utf8_lossy(record.key.unwrap()).into_owned()));
    }
    assert_eq!(partition.offsets().last_stable, partition.offsets().end);
    records
}

#[test]
fn three_thousand_transactions_on_one_key_leave_the_marker_of_the_last() {
    let mut fixture = Fixture::new(topic());
    fixture.transactions(3000, "key");
    let last = fixture.put(7, "key");
    let marker = fixture.end(7, Marker::Commit);
    let deadline = fixture.full().expect("markers wait for their horizon");
    let left = deadline.millis_since(fixture.now());
    let retention = RETENTION.as_millis() as i64;
    assert!((retention..=retention + retention / 16).contains(&left), "{left}");
    assert_eq!(markers(&fixture.partition).len(), 3001, "readers have until then to see them");
    assert_eq!(committed(&fixture.partition), [(last.get(), "key".to_owned())]);
    fixture.clock.set(deadline.plus_millis(-1));
    fixture.log.maintain(fixture.now(), Budget::default()).unwrap();
    assert_eq!(markers(&fixture.partition).len(), 3001);
    fixture.clock.set(deadline);
    fixture.log.maintain(fixture.now(), Budget::default()).unwrap();
    assert_eq!(markers(&fixture.partition), [(marker.get(), None)]);
    assert_eq!(committed(&fixture.partition), [(last.get(), "key".to_owned())]);
    assert_eq!(batches(&fixture.partition), 2);
    assert_eq!(fixture.wait(), 0, "nothing is left to do");
    assert!(fixture.partition.verify().unwrap().findings.is_empty());
}

#[test]
fn in_many_segments_they_go_too_though_nothing_is_appended_any_more() {
    for segment_bytes in [1024, 4096, 64 << 10] {
        let mut fixture = Fixture::new(topic().segment_bytes(segment_bytes));
        fixture.transactions(600, "key");
        let last = fixture.put(7, "key");
        let marker = fixture.end(7, Marker::Commit);
        fixture.full();
        assert!(markers(&fixture.partition).len() > 100);
        for entry in fs::read_dir(fixture.dir.path().join("t-0")).unwrap() {
            let entry = entry.unwrap();
            let is_log = entry.path().extension().is_some_and(|extension| extension == "log");
            let len = entry.metadata().unwrap().len();
            assert!(!is_log || len <= segment_bytes, "{:?} has {len} bytes, {segment_bytes} at most", entry.path());
        }
        let rounds = fixture.wait();
        assert_eq!(markers(&fixture.partition), [(marker.get(), None)], "{segment_bytes}, {rounds} rounds");
        assert_eq!(committed(&fixture.partition), [(last.get(), "key".to_owned())]);
        assert!(fixture.partition.verify().unwrap().findings.is_empty());
    }
}

#[test]
fn markers_of_transactions_without_a_record_go_and_one_tells_the_epoch_of_their_producer() {
    let fixture = Fixture::new(topic().segment_bytes(16 << 10));
    for n in 0..500 {
        fixture.end(n % 2, Marker::Commit);
    }
    fixture.full();
    fixture.wait();
    assert_eq!(markers(&fixture.partition), []);
    // An empty batch for each producer, and one at the end of each segment.
    let segments = fixture.partition.stats().segments;
    assert!(batches(&fixture.partition) <= 2 + segments, "{}", batches(&fixture.partition));
    assert_eq!(fixture.partition.stats().producers, 2);
    let fixture = fixture.reopen(|_| ());
    assert_eq!(fixture.partition.stats().producers, 2);
}

#[test]
fn a_marker_stays_for_the_retention_since_the_last_record_of_its_transaction_went() {
    let mut fixture = Fixture::new(topic().min_cleanable_dirty_ratio(0.0));
    fixture.put(1, "a");
    fixture.put(1, "b");
    let marker = fixture.end(1, Marker::Commit).get();
    fixture.go_on(1);
    fixture.put(2, "a");
    fixture.end(2, Marker::Commit);
    fixture.full();
    // One of its two records is left, for as long as nothing supersedes it.
    fixture.clock.advance(RETENTION * 10);
    fixture.full();
    assert_eq!(markers(&fixture.partition)[0], (marker, None));
    fixture.put(2, "b");
    fixture.end(2, Marker::Commit);
    let gone = fixture.now();
    fixture.full();
    let (first, horizon) = markers(&fixture.partition)[0];
    assert_eq!(first, marker);
    let horizon = horizon.expect("the last record is gone");
    assert!(horizon.millis_since(gone) >= RETENTION.as_millis() as i64);
    fixture.clock.set(horizon.plus_millis(-1));
    fixture.full();
    assert_eq!(markers(&fixture.partition)[0].0, marker);
    fixture.clock.set(horizon);
    fixture.full();
    assert_ne!(markers(&fixture.partition)[0].0, marker);
}

#[test]
fn markers_and_tombstones_of_a_segment_go_each_at_its_own_time() {
    let mut fixture = Fixture::new(topic().min_cleanable_dirty_ratio(0.0));
    fixture.put(1, "x");
    let marker = fixture.end(1, Marker::Commit).get();
    fixture.go_on(1);
    fixture.partition.append_records([Record::tombstone("gone")]).unwrap();
    fixture.partition.append_records([Record::new("stays", "1")]).unwrap();
    let tombstone = fixture.full().expect("the tombstone has a horizon");
    fixture.clock.advance(RETENTION / 2);
    // Its transaction loses its record half a retention later.
    fixture.partition.append_records([Record::new("x", "2")]).unwrap();
    fixture.full();
    let horizon = markers(&fixture.partition)[0].1.expect("it has a horizon now");
    assert!(horizon > tombstone);
    let has_tombstone = |fixture: &Fixture| committed(&fixture.partition).iter().any(|(_, key)| key == "gone");
    assert!(has_tombstone(&fixture));
    fixture.clock.set(tombstone);
    fixture.log.maintain(fixture.now(), Budget::default()).unwrap();
    assert!(!has_tombstone(&fixture), "it does not wait for the marker");
    assert_eq!(markers(&fixture.partition)[0], (marker, Some(horizon)));
    fixture.clock.set(horizon);
    fixture.log.maintain(fixture.now(), Budget::default()).unwrap();
    assert_eq!(markers(&fixture.partition), [(3, None)], "the one whose record is left");
}

#[test]
fn of_aborted_transactions_nothing_comes_back_when_their_markers_go() {
    let mut fixture = Fixture::new(topic().segment_bytes(2048));
    fixture.partition.append_records([Record::new("kept", "1")]).unwrap();
    for n in 0..200 {
        fixture.put(n % 3, "kept");
        fixture.put(n % 3, &format!("key-{n}"));
        fixture.end(n % 3, Marker::Abort);
    }
    fixture.partition.append_records([Record::new("last", "1")]).unwrap();
    let seen = committed(&fixture.partition);
    assert_eq!(seen.len(), 2);
    fixture.full();
    assert_eq!(committed(&fixture.partition), seen);
    fixture.wait();
    assert_eq!(committed(&fixture.partition), seen);
    assert!(markers(&fixture.partition).len() <= 3, "{:?}", markers(&fixture.partition));
    for _ in 0..2 {
        // The producers go on: what they aborted does not join what they commit.
        for producer in 0..3 {
            fixture.put(producer, &format!("later-{producer}"));
            fixture.end(producer, Marker::Commit);
        }
        let seen = committed(&fixture.partition);
        fixture = fixture.reopen(|_| ());
        assert_eq!(committed(&fixture.partition), seen);
    }
}

#[test]
fn without_a_retention_they_go_with_the_pass_after_the_one_that_took_the_records() {
    let mut fixture = Fixture::new(topic().delete_retention(Duration::ZERO));
    fixture.transactions(100, "key");
    fixture.put(7, "key");
    fixture.end(7, Marker::Commit);
    fixture.full();
    assert_eq!(markers(&fixture.partition).len(), 101, "until the records are gone for certain");
    fixture.full();
    assert_eq!(markers(&fixture.partition).len(), 1);
}

#[test]
fn a_consumer_that_has_not_come_to_them_holds_them() {
    let mut fixture = Fixture::new(topic().reader_hold_max(RETENTION * 5));
    fixture.transactions(100, "key");
    fixture.put(7, "key");
    fixture.end(7, Marker::Commit);
    let deadline = fixture.full().unwrap();
    fixture.partition.register_position("follower", Offset::new(101)).unwrap();
    fixture.clock.set(deadline);
    fixture.log.maintain(fixture.now(), Budget::default()).unwrap();
    let left = markers(&fixture.partition);
    assert_eq!(left[0].0, 101, "those below its position are gone");
    assert_eq!(left.len(), 51);
    fixture.partition.register_position("follower", Offset::new(202)).unwrap();
    fixture.log.maintain(fixture.now(), Budget::default()).unwrap();
    assert_eq!(markers(&fixture.partition).len(), 1);
}

#[test]
fn their_time_is_kept_over_a_restart_and_over_the_loss_of_what_is_only_derived() {
    for lose in [false, true] {
        let mut fixture = Fixture::new(topic().segment_bytes(4096));
        fixture.transactions(200, "key");
        fixture.put(7, "key");
        let last = fixture.end(7, Marker::Commit);
        let deadline = fixture.full().unwrap();
        let count = markers(&fixture.partition).len();
        fixture.clock.advance(RETENTION / 2);
        let fixture = fixture.reopen(|dir| {
            for entry in fs::read_dir(dir.join("t-0")).unwrap() {
                let path = entry.unwrap().path();
                if lose && path.extension().is_some_and(|extension| extension == "digest") {
                    fs::remove_file(path).unwrap();
                }
            }
        });
        fixture.full();
        assert_eq!(markers(&fixture.partition).len(), count, "lose: {lose}");
        fixture.clock.set(deadline.plus_millis(1));
        fixture.full();
        // In a segment that was not rewritten the first marker may have got its horizon later.
        assert!(markers(&fixture.partition).len() < count / 20, "lose: {lose}: {:?}", markers(&fixture.partition));
        fixture.wait();
        assert_eq!(markers(&fixture.partition), [(last.get(), None)], "lose: {lose}");
    }
}

#[test]
fn behind_a_damaged_segment_the_first_marker_of_each_producer_stays() {
    let mut fixture = Fixture::new(topic().segment_bytes(2048).min_cleanable_dirty_ratio(0.0));
    fixture.transactions(40, "key");
    fixture.put(7, "key");
    let last = fixture.end(7, Marker::Commit).get();
    fixture.partition.flush().unwrap();
    let dir = fixture.dir.path().join("t-0");
    let first = dir.join("00000000000000000000.log");
    let mut bytes = fs::read(&first).unwrap();
    bytes[100] ^= 1;
    fs::write(&first, bytes).unwrap();
    let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let bases = names.filter_map(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
    let second = Offset::new(bases.filter(|base| *base > 0).min().unwrap());
    let report = fixture.partition.compact(fixture.now(), CompactMode::Full).unwrap();
    assert_eq!(report.damaged.len(), 1);
    fixture.wait();
    let first_behind = markers_from(&fixture.partition, second);
    // The damaged segment may hold records of its transaction.
    assert!(first_behind[0].0 <= second.get() + 1, "{first_behind:?}");
    assert_eq!(first_behind[0].1, None, "{first_behind:?}");
    // Of the others it is certain that nothing is left, but their time is not looked at while there is damage.
    let (others, end) = (&first_behind[1..first_behind.len() - 1], &first_behind[first_behind.len() - 1]);
    assert!(others.iter().all(|(_, horizon)| horizon.is_some()), "{first_behind:?}");
    assert_eq!(*end, (last, None));
}
