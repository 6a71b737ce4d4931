//! What was deleted or superseded does not come back, and what was not stays, whatever lies between a newer record and
//! an older one: unchosen, failed and damaged segments, markers elsewhere, truncations, other hands, closed handles.

mod common;
#[path = "common/watched.rs"]
mod watched;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use common::{clocked, small};
use stratalog::format::{Marker, end_marker};
use stratalog::{
    Cleanup, Clock, CompactMode, CompactionReport, ErrorKind, FetchOptions, Isolation, Log, LogConfig, ManualClock,
    Offset, Partition, Record, RecordBatch, Timestamp, TopicConfig,
};
use watched::{Call, Watched, name};

/// Tombstones go at once; a segment is chosen for its garbage only when it is nearly nothing else.
fn compacted() -> TopicConfig {
    small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.9).delete_retention(Duration::ZERO)
}

struct Fixture {
    dir: tempfile::TempDir,
    config: LogConfig,
    clock: Arc<ManualClock>,
    log: Option<Log>,
}

impl Fixture {
    fn new(topic: TopicConfig) -> Fixture {
        Fixture::with(topic, |config| config)
    }

    fn with(topic: TopicConfig, change: impl FnOnce(LogConfig) -> LogConfig) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (config, clock) = clocked();
        let config = change(config);
        let log = Log::open(dir.path(), config.clone()).unwrap();
        log.create_topic("t", 1, topic).unwrap();
        Fixture { dir, config, clock, log: Some(log) }
    }

    fn partition(&self) -> Partition {
        self.log.as_ref().unwrap().partition("t", 0).unwrap()
    }

    fn due(&self) -> CompactionReport {
        self.partition().compact(self.clock.now(), CompactMode::Due).unwrap()
    }

    /// Compacts until there is nothing left to do.
    fn settle(&self) {
        for _ in 0..20 {
            if self.due().is_idle() {
                return;
            }
        }
        panic!("compaction finds no end");
    }

    fn kill(&mut self) {
        self.log = None;
        self.open();
    }

    fn close(&mut self) {
        self.log.take().unwrap().close().unwrap();
    }

    fn open(&mut self) {
        let log = Log::open(self.dir.path(), self.config.clone()).unwrap();
        let report = log.recovery_report();
        assert!(report.partitions.iter().all(|partition| partition.error.is_none()), "{report:?}");
        self.log = Some(log);
    }

    fn put(&self, key: &str, value: &str) {
        self.partition().append_records([Record::new(key, value)]).unwrap();
    }

    fn delete(&self, key: &str) {
        self.partition().append_records([Record::tombstone(key)]).unwrap();
    }

    fn roll(&self) {
        self.partition().roll().unwrap();
    }

    /// A sealed segment with live records of its own, and `put` in it.
    fn segment(&self, live: &str, put: impl FnOnce(&Fixture)) {
        put(self);
        for n in 0..8 {
            self.put(&format!("{live}-{n}"), &"live".repeat(6));
        }
        self.roll();
    }

    fn file(&self, base: u64, end: &str) -> PathBuf {
        self.dir.path().join("t-0").join(format!("{base:020}{end}"))
    }
}

/// A batch of a transaction.
fn transactional(producer: i64, sequence: i32, key: &str, value: &str) -> RecordBatch {
    let mut builder = RecordBatch::builder().producer(producer, 0, sequence).transactional(true);
    builder.push(&Record::new(key, value), Timestamp::from_millis(1_700_000_000_000)).unwrap();
    builder.build().unwrap()
}

fn end(fixture: &Fixture, producer: i64, marker: Marker) -> Offset {
    let batch = end_marker(marker, producer, 0, 0, fixture.clock.now()).unwrap();
    fixture.partition().append(&batch).unwrap().base_offset
}

/// What a reader of committed records ends with.
fn latest(partition: &Partition) -> BTreeMap<String, String> {
    let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    let mut reader = partition.reader_with(partition.offsets().start, options).unwrap();
    let mut state = BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        match record.value {
            Some(value) => state.insert(text(record.key.unwrap()), text(value)),
            None => state.remove(&text(record.key.unwrap())),
        };
    }
    state
}

/// Whether a record is there, tombstones included.
fn holds(partition: &Partition, offset: Offset) -> bool {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        if record.offset == offset {
            return true;
        }
    }
    false
}

#[test]
fn a_tombstone_stays_while_its_older_value_lies_in_an_unchosen_segment() {
    // The value's segment has too little garbage, and a position that stands before the tombstone keeps it from
    // joining.
    let mut fixture = Fixture::new(compacted());
    fixture.segment("a", |f| f.put("k", "old"));
    let tombstone = fixture.partition().offsets().end;
    fixture.segment("b", |f| f.delete("k"));
    for round in 0..3 {
        fixture.segment("b", |f| f.put("other", &format!("{round}")));
    }
    fixture.partition().register_position("slow", tombstone).unwrap();
    let report = fixture.due();
    assert!(report.segments_rewritten > 0 && report.held_by.is_some(), "{report:?}");
    assert!(fixture.file(0, ".log").exists() && holds(&fixture.partition(), tombstone), "{report:?}");
    assert!(!latest(&fixture.partition()).contains_key("k"));
    fixture.kill();
    assert!(!latest(&fixture.partition()).contains_key("k"));
    // Nobody holds it any more: both go, in one pass.
    let report = fixture.due();
    assert_eq!(report.tombstones_removed, 1, "{report:?}");
    assert!(!holds(&fixture.partition(), Offset::ZERO) && !holds(&fixture.partition(), tombstone));
    fixture.kill();
    assert!(!latest(&fixture.partition()).contains_key("k"));
}

#[test]
fn a_tombstone_stays_while_its_older_value_lies_in_a_segment_whose_rewrite_failed() {
    let fails = Arc::new(AtomicBool::new(false));
    let watch = Arc::clone(&fails);
    // The group of the value is the first one.
    let storage = Watched::new(move |call, path| {
        let cleaned = name(path).starts_with("00000000000000000000.log") && name(path).contains("cleaned");
        let fail = call == Call::Write && cleaned && watch.load(Ordering::SeqCst);
        if fail { Err(io::Error::other("the rewrite fails")) } else { Ok(()) }
    });
    let mut fixture = Fixture::with(compacted(), |config| config.storage(storage));
    fixture.segment("a", |f| f.put("k", "old"));
    for live in ["b", "c", "d"] {
        fixture.segment(live, |_| ());
    }
    let tombstone = fixture.partition().offsets().end;
    fixture.segment("e", |f| f.delete("k"));
    fails.store(true, Ordering::SeqCst);
    let failed = fixture.partition().compact(fixture.clock.now(), CompactMode::Due).unwrap_err();
    assert!(matches!(failed.kind(), ErrorKind::Io(_)), "{failed:?}");
    assert!(holds(&fixture.partition(), Offset::ZERO) && holds(&fixture.partition(), tombstone));
    fixture.kill();
    assert!(holds(&fixture.partition(), tombstone) && !latest(&fixture.partition()).contains_key("k"));
    fails.store(false, Ordering::SeqCst);
    fixture.settle();
    assert!(!holds(&fixture.partition(), Offset::ZERO) && !holds(&fixture.partition(), tombstone));
    assert_eq!(latest(&fixture.partition()).len(), 40);
}

#[test]
fn a_tombstone_stays_while_its_older_value_lies_in_a_damaged_segment() {
    for digest_first in [false, true] {
        let mut fixture = Fixture::new(compacted());
        fixture.segment("a", |f| f.put("k", "old"));
        fixture.segment("b", |_| ());
        if digest_first {
            assert_eq!(fixture.due().digests_built, 2);
        }
        let tombstone = fixture.partition().offsets().end;
        fixture.segment("c", |f| f.delete("k"));
        // Garbage that can go without the damaged one.
        for n in 0..3 {
            fixture.segment("d", |f| f.put("d", &format!("{n}")));
        }
        fixture.close();
        let path = fixture.file(0, ".log");
        let sound = fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        damaged[200] ^= 1;
        fs::write(&path, &damaged).unwrap();
        fixture.open();
        let report = fixture.due();
        assert_eq!(report.damaged.len(), 1, "{report:?}");
        assert_eq!(report.damaged[0].path(), Some(&*path));
        assert!(report.segments_rewritten >= 2, "the others are compacted: {report:?}");
        assert!(holds_from(&fixture.partition(), tombstone), "the tombstone is kept: {report:?}");
        assert_eq!(fs::read(&path).unwrap(), damaged, "what is damaged is left alone");
        fixture.settle();
        assert!(holds_from(&fixture.partition(), tombstone));
        fixture.close();
        fs::write(&path, &sound).unwrap();
        fixture.open();
        assert!(!latest(&fixture.partition()).contains_key("k"));
        fixture.settle();
        assert!(!holds(&fixture.partition(), tombstone) && !latest(&fixture.partition()).contains_key("k"));
    }
}

/// Whether the record at `offset` is there, read from there: what lies before is damaged.
fn holds_from(partition: &Partition, offset: Offset) -> bool {
    let record = partition.reader(offset).unwrap().next_record().unwrap().map(|record| record.offset);
    record == Some(offset)
}

#[test]
fn an_abort_marker_stays_while_its_data_lies_in_an_unrewritten_segment() {
    let mut fixture = Fixture::new(compacted());
    fixture.segment("a", |f| {
        f.partition().append(&transactional(1, 0, "k", "aborted")).unwrap();
    });
    let marker = end(&fixture, 1, Marker::Abort);
    for round in 0..3 {
        for _ in 0..10 {
            fixture.put("garbage", &format!("{round}").repeat(40));
        }
        fixture.roll();
    }
    let first = fs::metadata(fixture.file(0, ".log")).unwrap().len();
    let report = fixture.due();
    assert!(report.segments_rewritten > 0, "{report:?}");
    assert_eq!(fs::metadata(fixture.file(0, ".log")).unwrap().len(), first, "the data is still there");
    for _ in 0..3 {
        assert!(is_marker(&fixture.partition(), marker), "so its marker is");
        assert!(!latest(&fixture.partition()).contains_key("k"));
        assert_eq!(fixture.partition().offsets().last_stable, fixture.partition().offsets().end);
        fixture.kill();
        fs::remove_file(fixture.file(0, ".txnindex")).ok();
        fixture.due();
    }
}

fn is_marker(partition: &Partition, offset: Offset) -> bool {
    let fetch = partition.fetch(offset, FetchOptions { max_bytes: 1, ..FetchOptions::default() }).unwrap();
    let batch = fetch.batches().next().unwrap().unwrap();
    batch.header().base_offset == offset && batch.header().attributes.is_control() && batch.header().count == 1
}

#[test]
fn an_older_value_stays_while_a_newer_one_is_aborted_or_uncommitted() {
    let eager = compacted().min_cleanable_dirty_ratio(0.0);
    let mut fixture = Fixture::new(eager);
    fixture.put("k", "committed");
    fixture.partition().append(&transactional(1, 0, "k", "aborted")).unwrap();
    end(&fixture, 1, Marker::Abort);
    fixture.roll();
    fixture.partition().append(&transactional(2, 0, "k", "open")).unwrap();
    fixture.roll();
    for _ in 0..2 {
        fixture.settle();
        assert_eq!(latest(&fixture.partition())["k"], "committed");
        fixture.kill();
    }
    end(&fixture, 2, Marker::Abort);
    fixture.roll();
    fixture.settle();
    assert_eq!(latest(&fixture.partition())["k"], "committed");
    fixture.kill();
    assert_eq!(latest(&fixture.partition())["k"], "committed");
}

#[test]
fn a_truncation_below_a_winner_is_refused() {
    let fixture = Fixture::new(compacted().min_cleanable_dirty_ratio(0.0));
    fixture.put("k", "old");
    fixture.roll();
    let batch = ["a", "k", "b"].map(|key| Record::new(key, "new"));
    assert_eq!(fixture.partition().append_records(batch).unwrap().base_offset, Offset::new(1));
    fixture.roll();
    fixture.settle();
    assert!(!holds(&fixture.partition(), Offset::ZERO), "its winner lies at 2, in the batch of 1 to 3");
    for to in 0..4 {
        let refused = fixture.partition().truncate(Offset::new(to)).unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::TruncateBelowCompacted { lowest: Offset::new(4) }, "to {to}");
    }
    assert_eq!(fixture.partition().truncate(Offset::new(4)).unwrap(), Offset::new(4));
    assert_eq!(latest(&fixture.partition())["k"], "new");
}

#[test]
fn a_truncation_below_the_marker_that_committed_a_winner_is_refused() {
    let fixture = Fixture::new(compacted().min_cleanable_dirty_ratio(0.0));
    fixture.put("k", "old");
    fixture.roll();
    fixture.partition().append(&transactional(1, 0, "k", "new")).unwrap();
    fixture.roll();
    for n in 0..3 {
        fixture.put("other", &format!("{n}"));
    }
    let marker = end(&fixture, 1, Marker::Commit);
    fixture.roll();
    fixture.settle();
    assert!(!holds(&fixture.partition(), Offset::ZERO));
    let refused = fixture.partition().truncate(marker).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::TruncateBelowCompacted { .. }), "{refused:?}");
    assert_eq!(latest(&fixture.partition())["k"], "new");
}

#[test]
fn a_digest_says_nothing_of_a_transaction_whose_marker_was_truncated() {
    for (first, second, expected) in [(Marker::Abort, Marker::Commit, "txn"), (Marker::Commit, Marker::Abort, "old")] {
        let mut fixture = Fixture::new(compacted());
        fixture.segment("a", |f| f.put("k", "old"));
        fixture.segment("b", |f| {
            f.partition().append(&transactional(1, 0, "k", "txn")).unwrap();
        });
        let marker = end(&fixture, 1, first);
        fixture.roll();
        assert_eq!(fixture.due().segments_rewritten, 0, "the digests are there, and nothing else has happened");
        assert!(fixture.file(9, ".digest").exists());
        fixture.partition().truncate(marker).unwrap();
        assert_eq!(end(&fixture, 1, second), marker);
        fixture.roll();
        // Now everything is compacted that has any garbage.
        let topic = fixture.log.as_ref().unwrap().topic("t").unwrap();
        topic.set_config(compacted().min_cleanable_dirty_ratio(0.0)).unwrap();
        fixture.settle();
        assert_eq!(latest(&fixture.partition())["k"], expected);
        fixture.kill();
        assert_eq!(latest(&fixture.partition())["k"], expected);
    }
}

/// What Kafka leaves of a segment that it rewrites: a new file under the old name.
fn replace(path: &Path, bytes: &[u8]) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes).unwrap();
    fs::rename(&temporary, path).unwrap();
}

#[test]
fn a_digest_that_kafkas_own_changes_made_stale_is_built_again() {
    let mut fixture = Fixture::new(compacted());
    fixture.segment("a", |f| {
        f.put("k1", "one");
        f.put("k2", "two");
    });
    fixture.segment("b", |_| ());
    assert_eq!(fixture.due().digests_built, 2);
    fixture.close();
    // Kafka compacts on: the record of `k1` makes room for one of `k3`, of the same size, so the file has its old
    // length.
    let path = fixture.file(0, ".log");
    let mut bytes = fs::read(&path).unwrap();
    let mut other = RecordBatch::builder();
    other.push(&Record::new("k3", "one"), fixture.clock.now()).unwrap();
    let other = other.build().unwrap();
    let len = other.as_bytes().len();
    let mut batch = other.as_bytes().to_vec();
    batch[12..16].copy_from_slice(&bytes[12..16]);
    bytes[..len].copy_from_slice(&batch);
    replace(&path, &bytes);
    for index in [".index", ".timeindex"] {
        fs::remove_file(fixture.file(0, index)).unwrap();
    }
    fixture.open();
    fixture.put("k1", "newer");
    fixture.roll();
    let topic = fixture.log.as_ref().unwrap().topic("t").unwrap();
    topic.set_config(compacted().min_cleanable_dirty_ratio(0.0)).unwrap();
    fixture.settle();
    let found = latest(&fixture.partition());
    assert_eq!((found["k1"].as_str(), found["k2"].as_str(), found["k3"].as_str()), ("newer", "two", "one"));
    assert_eq!(found.len(), 3 + 16);
}

#[test]
fn a_swap_does_not_mislead_who_opens_an_evicted_handle_by_name() {
    // Before each of its directory syncs somebody reads all of the log, with one open file for all segments.
    static READ: OnceLock<Mutex<Option<Partition>>> = OnceLock::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let storage = Watched::new(move |call, path| {
        let partition = READ.get_or_init(Mutex::default).lock().unwrap().clone();
        if let Some(partition) = partition.filter(|_| call == Call::SyncDir && path.ends_with("t-0")) {
            let values = std::thread::spawn(move || latest(&partition)).join().unwrap();
            note.lock().unwrap().push(values);
        }
        Ok(())
    });
    let eager = compacted().min_cleanable_dirty_ratio(0.0).mapped_reads(false);
    let fixture = Fixture::with(eager, |config| config.storage(storage).max_open_files(Some(1)));
    for round in 0..12 {
        fixture.put("k", &format!("{round}"));
        fixture.put(&format!("other-{round}"), &"x".repeat(300));
        fixture.roll();
    }
    let before = latest(&fixture.partition());
    let mut held = fixture.partition().reader(Offset::ZERO).unwrap();
    assert_eq!(held.next_record().unwrap().unwrap().offset, Offset::ZERO);
    *READ.get_or_init(Mutex::default).lock().unwrap() = Some(fixture.partition());
    let report = fixture.due();
    *READ.get_or_init(Mutex::default).lock().unwrap() = None;
    assert!(report.segments_rewritten > 2, "{report:?}");
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 3 * report.segments_written, "at each step of each swap");
    assert!(seen.iter().all(|values| *values == before), "the same values at each of {} steps", seen.len());
    assert_eq!(latest(&fixture.partition()), before);
    while held.next_record().unwrap().is_some() {}
}

/// What a power cut takes back. A digest and a rewrite may count only on what it does not.
#[cfg(feature = "sim")]
#[test]
fn a_marker_that_a_power_cut_takes_back_decides_nothing() {
    use stratalog::Durability;
    use stratalog::sim::{Crash, Order, SimStorage};
    for (marker, expected) in [(Marker::Abort, "txn"), (Marker::Commit, "old")] {
        let storage = SimStorage::new();
        let (config, clock) = clocked();
        let config = |storage: &SimStorage| config.clone().sync_threads(0).storage(Arc::new(storage.clone()));
        let late = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
        let log = Log::open("/log", config(&storage)).unwrap();
        let topic = compacted().min_cleanable_dirty_ratio(0.0).durability(late);
        let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
        partition.append_records([Record::new("k", "old")]).unwrap();
        partition.append(&transactional(1, 0, "k", "txn")).unwrap();
        partition.roll().unwrap();
        partition.flush().unwrap();
        partition.append(&end_marker(marker, 1, 0, 0, clock.now()).unwrap()).unwrap();
        for _ in 0..3 {
            partition.compact(clock.now(), CompactMode::Due).unwrap();
        }
        drop((partition, log));
        let storage = storage.crash(&Crash { order: Order::Strict, seed: 0 });
        let log = Log::open("/log", config(&storage)).unwrap();
        let partition = log.partition("t", 0).unwrap();
        assert_eq!(partition.offsets().end, Offset::new(2), "the marker is gone");
        let other = if marker == Marker::Abort { Marker::Commit } else { Marker::Abort };
        partition.append(&end_marker(other, 1, 0, 0, clock.now()).unwrap()).unwrap();
        assert_eq!(latest(&partition)["k"], expected);
        for _ in 0..3 {
            partition.compact(clock.now(), CompactMode::Full).unwrap();
        }
        assert_eq!(latest(&partition)["k"], expected);
    }
}

#[test]
fn an_aborted_record_stays_aborted_after_a_truncation_a_compaction_and_a_kill() {
    for rolled in [false, true] {
        for filler in [0, 10, 20] {
            let mut fixture = Fixture::new(compacted().segment_bytes(2048));
            for _ in 0..15 {
                fixture.put("first", "x");
            }
            fixture.roll();
            fixture.put("k", "value");
            fixture.partition().append(&transactional(1, 0, "k", "aborted")).unwrap();
            end(&fixture, 1, Marker::Abort);
            fixture.put("other", "x");
            fixture.partition().append(&transactional(1, 1, "k", "open")).unwrap();
            let cut = fixture.partition().offsets().end;
            fixture.put("other", "x");
            fixture.partition().truncate(cut).unwrap();
            for n in 0..filler {
                fixture.put(&format!("filler-{n}"), &"x".repeat(60));
            }
            if rolled {
                fixture.roll();
            }
            let what = format!("{filler}, rolled: {rolled}");
            assert_eq!(latest(&fixture.partition())["k"], "value", "{what}, truncated");
            assert!(fixture.due().segments_rewritten > 0);
            assert_eq!(latest(&fixture.partition())["k"], "value", "{what}, compacted");
            fixture.kill();
            assert_eq!(latest(&fixture.partition())["k"], "value", "{what}, killed");
            fixture.kill();
            assert_eq!(latest(&fixture.partition())["k"], "value", "{what}, killed again");
        }
    }
}
