//! The rules of compaction, one by one: what is refused, what goes when, what is copied, what is left alone.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{clocked, small};
use stratalog::{
    Budget, Cleanup, Clock, Codec, CompactMode, CompactionReport, ErrorKind, FetchOptions, Log, ManualClock, Offset,
    Partition, Record, RecordBatch, Timestamp, TimestampType, TopicConfig,
};

fn compacted() -> TopicConfig {
    small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0).delete_retention(Duration::ZERO)
}

fn open(topic: TopicConfig) -> (tempfile::TempDir, Log, Partition, Arc<ManualClock>) {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let log = Log::open(dir.path(), config).unwrap();
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    (dir, log, partition, clock)
}

fn put(partition: &Partition, key: &str, value: &str) -> Offset {
    partition.append_records([Record::new(key, value)]).unwrap().base_offset
}

fn delete(partition: &Partition, key: &str) -> Offset {
    partition.append_records([Record::tombstone(key)]).unwrap().base_offset
}

fn advance(clock: &ManualClock, by: Duration) -> Timestamp {
    clock.set(Timestamp::from_millis(clock.now().as_millis() + by.as_millis() as i64));
    clock.now()
}

fn settle(partition: &Partition, now: Timestamp) -> CompactionReport {
    let mut rewritten = 0;
    for _ in 0..20 {
        let report = partition.compact(now, CompactMode::Due).unwrap();
        rewritten += report.segments_rewritten;
        if report.is_idle() {
            let mut last = report;
            last.segments_rewritten = rewritten;
            return last;
        }
    }
    panic!("compaction finds no end");
}

/// The batches, as they lie on disk, by base offset.
fn batches(partition: &Partition) -> BTreeMap<u64, Vec<u8>> {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    let mut found = BTreeMap::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        found.insert(batch.header().base_offset.get(), batch.as_bytes().to_vec());
    }
    found
}

/// Offsets of the records that are there.
fn offsets(partition: &Partition) -> Vec<u64> {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        found.push(record.offset.get());
    }
    found
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

/// Names of the files that hold these bytes.
fn holders(dir: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes);
    paths(dir).into_iter().filter(holds).collect()
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut logs = paths(dir);
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    logs
}

#[test]
fn records_without_a_key_are_refused() {
    for cleanup in [Cleanup::Compact, Cleanup::CompactDelete] {
        let (_dir, _log, partition, clock) = open(compacted().cleanup(cleanup));
        let refused = partition.append_records([Record::new("k", "v"), Record::keyless("v")]).unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::MissingKey);
        for codec in [Codec::None, Codec::Lz4].into_iter().filter(|codec| codec.is_supported()) {
            let mut batch = RecordBatch::builder().codec(codec);
            batch.push(&Record::keyless("v"), clock.now()).unwrap();
            let refused = partition.append(&batch.build().unwrap()).unwrap_err();
            assert_eq!(*refused.kind(), ErrorKind::MissingKey);
        }
        assert_eq!(partition.offsets().end, Offset::ZERO, "and nothing is written");
        put(&partition, "", "the empty key is a key");
    }
}

#[test]
fn a_key_that_is_obsolete_for_longer_than_the_lag_is_gone_from_disk() {
    const LAG: Duration = Duration::from_secs(600);
    const ROLL: Duration = Duration::from_secs(300);
    const TICK: Duration = Duration::from_secs(10);
    // No ratio would ever choose the segment, and its other records are live.
    let topic = compacted().min_cleanable_dirty_ratio(1.0).max_compaction_lag(Some(LAG)).segment_age(ROLL);
    let (dir, log, partition, clock) = open(topic.segment_bytes(1 << 20));
    let files = dir.path().join("t-0");
    for n in 0..50 {
        put(&partition, &format!("live-{n}"), "live");
    }
    put(&partition, "k", "a secret to forget");
    partition.roll().unwrap();
    log.maintain(clock.now(), Budget::default()).unwrap();
    advance(&clock, Duration::from_secs(7777));
    log.maintain(clock.now(), Budget::default()).unwrap();
    put(&partition, "k", "newer");
    let obsolete = clock.now();
    let mut gone = None;
    while gone.is_none() {
        let now = advance(&clock, TICK);
        let report = log.maintain(now, Budget::default()).unwrap();
        assert!(report.passes[0].2.errors.is_empty(), "{report:?}");
        let passed = Duration::from_millis((now.as_millis() - obsolete.as_millis()) as u64);
        assert!(passed <= LAG + ROLL + TICK, "it is still in {:?}", holders(&files, b"a secret to forget"));
        gone = holders(&files, b"a secret to forget").is_empty().then_some(passed);
    }
    println!("gone after {gone:?}, of {:?} allowed", LAG + ROLL + TICK);
    assert!(gone >= Some(LAG), "nothing but its age speaks for it");
    assert_eq!(offsets(&partition)[..50], (0..50).collect::<Vec<u64>>(), "and nothing else is");
}

#[test]
fn tombstones_expire_on_an_idle_partition() {
    let (dir, log, partition, clock) = open(compacted().delete_retention(Duration::from_secs(3600)));
    put(&partition, "k", "value");
    delete(&partition, "deleted-key");
    delete(&partition, "k");
    partition.roll().unwrap();
    let report = log.maintain(clock.now(), Budget::default()).unwrap();
    assert_eq!(offsets(&partition), [1, 2]);
    let due = report.next_deadline.expect("a pass is scheduled for it");
    let before = Timestamp::from_millis(due.as_millis() - 1);
    assert!(before.as_millis() - clock.now().as_millis() >= 3_599_999);
    clock.set(before);
    log.maintain(before, Budget::default()).unwrap();
    assert_eq!(offsets(&partition), [1, 2], "not before its time");
    clock.set(due);
    // Nobody appends. Opened anew it is the same.
    drop((partition, log));
    let log = Log::open(dir.path(), clocked().0.clock(clock.clone())).unwrap();
    let report = log.maintain(due, Budget::default()).unwrap();
    assert_eq!(report.passes[0].2.compaction.as_ref().unwrap().tombstones_removed, 2, "{report:?}");
    assert_eq!(offsets(&log.partition("t", 0).unwrap()), [0; 0]);
    assert!(holders(&dir.path().join("t-0"), b"deleted-key").is_empty());
}

#[test]
fn the_maintenance_thread_expires_tombstones_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let log = Log::open(dir.path(), config.maintenance_interval(Some(Duration::from_millis(2)))).unwrap();
    let topic = compacted().delete_retention(Duration::from_secs(3600));
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    put(&partition, "k", "value");
    delete(&partition, "k");
    partition.roll().unwrap();
    let until = |what: &dyn Fn() -> bool| {
        let began = std::time::Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(30), "the thread does nothing");
            std::thread::yield_now();
        }
    };
    until(&|| offsets(&partition) == [1]);
    advance(&clock, Duration::from_secs(4000));
    until(&|| offsets(&partition).is_empty());
}

#[test]
fn a_registered_position_holds_tombstones_for_a_while_and_is_reported() {
    let (_dir, _log, partition, clock) = open(compacted().reader_hold_max(Duration::from_secs(60)));
    put(&partition, "k", "value");
    let tombstone = delete(&partition, "k");
    put(&partition, "other", "value");
    partition.roll().unwrap();
    partition.register_position("consumer", tombstone).unwrap();
    for _ in 0..2 {
        let report = settle(&partition, clock.now());
        assert_eq!(report.held_by, Some(("consumer".to_owned(), tombstone)));
        assert_eq!(offsets(&partition), [1, 2]);
        advance(&clock, Duration::from_secs(29));
    }
    let last = advance(&clock, Duration::from_secs(1));
    let due = partition.compact(last, CompactMode::Due).unwrap().next_deadline.expect("the hold ends");
    clock.set(due);
    let report = partition.compact(due, CompactMode::Due).unwrap();
    assert_eq!((report.tombstones_removed, report.lost), (1, 1), "{report:?}");
    assert_eq!(offsets(&partition), [2]);
    let lost = partition.register_position("consumer", tombstone + 1).unwrap_err();
    assert_eq!(*lost.kind(), ErrorKind::LostTombstones { from: tombstone });
    assert!(partition.unregister_position("consumer"));
    partition.register_position("consumer", Offset::ZERO).unwrap();
}

#[test]
fn a_position_that_moves_on_in_time_misses_nothing() {
    let (_dir, _log, partition, clock) = open(compacted().reader_hold_max(Duration::from_secs(60)));
    for round in 0..10 {
        put(&partition, "k", &format!("{round}"));
        let tombstone = delete(&partition, "k");
        partition.roll().unwrap();
        partition.register_position("consumer", tombstone).unwrap();
        settle(&partition, clock.now());
        assert_eq!(offsets(&partition), [tombstone.get()]);
        advance(&clock, Duration::from_secs(50));
        partition.register_position("consumer", tombstone + 1).unwrap();
        settle(&partition, clock.now());
        assert_eq!(offsets(&partition), [0; 0]);
    }
}

#[test]
fn a_damaged_segment_is_left_alone_and_reported_and_the_others_are_compacted() {
    let (dir, _log, partition, clock) = open(compacted());
    let filler = "x".repeat(300);
    for _ in 0..20 {
        for key in ["a", "b", "c"] {
            put(&partition, key, &filler);
        }
    }
    partition.roll().unwrap();
    let logs = logs(&dir.path().join("t-0"));
    let damaged = &logs[logs.len() / 2];
    let mut bytes = fs::read(damaged).unwrap();
    bytes[100] ^= 1;
    fs::write(damaged, &bytes).unwrap();
    for _ in 0..3 {
        let report = partition.compact(clock.now(), CompactMode::Due).unwrap();
        assert_eq!(report.damaged.len(), 1, "{report:?}");
        assert_eq!(report.damaged[0].path(), Some(&**damaged));
        assert_eq!(report.damaged[0].position(), Some(0));
    }
    assert_eq!(fs::read(damaged).unwrap(), bytes, "its checksum still tells");
    let left: u64 = self::logs(&dir.path().join("t-0")).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(left < bytes.len() as u64 + 2500, "{left} bytes are left, of which {} are damaged", bytes.len());
}

#[test]
fn whole_batches_are_copied_and_rewritten_ones_keep_all_but_what_went() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Gzip, Codec::Snappy] {
        if !codec.is_supported() {
            println!("SKIPPED: {}, because this build leaves it out", codec.name());
            continue;
        }
        let (_dir, _log, partition, clock) = open(compacted().segment_bytes(1 << 16));
        let mut sequence = 0;
        for n in 0..6 {
            let mut batch = RecordBatch::builder().codec(codec).producer(77, 3, sequence).leader_epoch(2);
            // Of each second batch one record stays, of the others all do.
            for at in 0..4 {
                let key = if n % 2 == 0 || at == 2 { format!("kept-{n}-{at}") } else { format!("goes-{at}") };
                let time = Timestamp::from_millis(1_600_000_000_000 + n * 1000 - at * 70);
                batch.push(&Record::new(&key, "value").at(time), clock.now()).unwrap();
                sequence += 1;
            }
            partition.append(&batch.build().unwrap()).unwrap();
        }
        for at in 0..4 {
            put(&partition, &format!("goes-{at}"), "newer");
        }
        partition.roll().unwrap();
        let before = batches(&partition);
        settle(&partition, clock.now());
        let after = batches(&partition);
        for (base, old) in &before {
            let (old, new) = (stratalog::format::BatchView::parse(old).unwrap(), &after[base]);
            if base % 8 == 0 || *base >= 24 {
                assert_eq!(old.as_bytes(), new, "{}: copied", codec.name());
                continue;
            }
            let new = stratalog::format::BatchView::parse(new).unwrap();
            new.check_crc().unwrap();
            let (old, new) = (*old.header(), *new.header());
            assert_eq!((new.count, new.last_offset()), (1, old.last_offset()));
            assert_eq!(new.attributes.codec().unwrap(), codec);
            assert_eq!(
                (new.producer_id, new.producer_epoch, new.base_sequence, new.leader_epoch),
                (77, 3, old.base_sequence, old.leader_epoch)
            );
            assert_eq!(new.attributes.timestamp_type(), TimestampType::CreateTime);
            assert_eq!(new.max_timestamp.as_millis(), 1_600_000_000_000 + (*base as i64 / 4) * 1000 - 140);
            let mut reader = partition.reader(Offset::new(*base)).unwrap();
            let record = reader.next_record().unwrap().unwrap();
            assert_eq!((record.offset.get(), record.timestamp), (base + 2, new.max_timestamp));
            assert_eq!(record.sequence, old.base_sequence + 2);
        }
    }
}

#[test]
fn small_neighbours_become_one_and_the_result_is_left_alone() {
    let (dir, _log, partition, clock) = open(compacted().segment_bytes(8 << 10));
    for n in 0..200 {
        put(&partition, &format!("key-{n}"), "value");
        if n % 4 == 3 {
            partition.roll().unwrap();
        }
    }
    let before = batches(&partition);
    let report = settle(&partition, clock.now());
    assert_eq!(report.tombstones_removed, 0);
    let logs = logs(&dir.path().join("t-0"));
    let bytes: u64 = logs.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(logs.len() as u64 <= 2 * bytes.div_ceil(8 << 10) + 1, "{} segments of {bytes} bytes", logs.len());
    assert_eq!(batches(&partition), before, "batches whose records all stay are copied as they are");
    assert!(partition.compact(clock.now(), CompactMode::Due).unwrap().is_idle());
}

#[test]
fn with_compact_and_delete_old_segments_go_even_with_live_records() {
    let topic = compacted().cleanup(Cleanup::CompactDelete).retention_bytes(Some(4000)).segment_bytes(2048);
    let (dir, log, partition, clock) = open(topic);
    for n in 0..300 {
        put(&partition, &format!("key-{}", if n % 2 == 0 { n } else { 1 }), &"v".repeat(50));
    }
    for _ in 0..5 {
        log.maintain(clock.now(), Budget::default()).unwrap();
    }
    let start = partition.offsets().start;
    assert!(start > Offset::ZERO, "retention removed live records");
    assert!(partition.stats().bytes <= 4000 + 2 * 2048);
    let left = offsets(&partition);
    assert!(left.iter().all(|offset| *offset >= start.get()));
    assert!(left.contains(&299) && left.iter().filter(|offset| *offset % 2 == 1).count() < 20, "and it is compacted");
    drop((partition, log));
    let log = Log::open(dir.path(), clocked().0).unwrap();
    assert_eq!(offsets(&log.partition("t", 0).unwrap()), left);
}

#[test]
fn without_delete_no_live_record_goes_whatever_the_retention() {
    let topic = compacted().retention_bytes(Some(1024)).retention_age(Some(Duration::from_secs(1)));
    let (_dir, log, partition, clock) = open(topic);
    for n in 0..100 {
        put(&partition, &format!("key-{n}"), &"v".repeat(50));
    }
    advance(&clock, Duration::from_secs(100_000));
    for _ in 0..3 {
        log.maintain(clock.now(), Budget::default()).unwrap();
    }
    assert_eq!(offsets(&partition), (0..100).collect::<Vec<u64>>());
}

#[test]
fn who_began_before_a_swap_goes_on_and_the_files_go_with_the_last_lease() {
    let (dir, log, partition, clock) = open(compacted());
    for n in 0..60 {
        put(&partition, &format!("key-{}", n % 5), &format!("value-{n}"));
    }
    partition.roll().unwrap();
    let small_pieces = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
    let mut reader = partition.reader_with(Offset::ZERO, small_pieces).unwrap();
    assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::ZERO);
    let fetched =
        partition.fetch(Offset::ZERO, FetchOptions { max_bytes: 1 << 20, ..FetchOptions::default() }).unwrap();
    let bytes: Vec<Vec<u8>> = fetched.chunks().map(|chunk| chunk.to_vec()).collect();
    let report = settle(&partition, clock.now());
    assert!(report.segments_rewritten > 0);
    log.maintain(clock.now(), Budget::default()).unwrap();
    let deleted = || {
        paths(&dir.path().join("t-0")).iter().filter(|path| path.to_string_lossy().ends_with(".log.deleted")).count()
    };
    assert!(deleted() > 0, "what was fetched is still held");
    assert!(partition.stats().segments_held > 0);
    assert!(fetched.chunks().map(|chunk| chunk.to_vec()).eq(bytes), "and has not changed");
    let mut rest = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        rest.push(record.offset.get());
    }
    assert_eq!(rest, (55..60).collect::<Vec<u64>>(), "the reader goes on, over the gap");
    drop((fetched, reader));
    log.maintain(clock.now(), Budget::default()).unwrap();
    assert_eq!((deleted(), partition.stats().segments_held), (0, 0));
}

#[test]
fn the_smallest_memory_ends_with_the_same_log() {
    let compact = |memory: usize| {
        let dir = tempfile::tempdir().unwrap();
        let (config, clock) = clocked();
        let log = Log::open(dir.path(), config.compaction_memory(memory)).unwrap();
        let topic = compacted().segment_bytes(1 << 20).index_interval_bytes(4096);
        let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
        for batch in 0..600u64 {
            let keys: Vec<String> = (0..100).map(|n| format!("key-{}", (batch * 100 + n) * 7919 % 30_011)).collect();
            let record = |(n, key)| if n % 17 == 0 { Record::tombstone(key) } else { Record::new(key, "value") };
            partition.append_records(keys.iter().enumerate().map(record)).unwrap();
        }
        partition.roll().unwrap();
        settle(&partition, clock.now());
        batches(&partition)
    };
    let (least, enough) = (compact(1 << 10), compact(64 << 20));
    assert!(least.len() > 100);
    assert_eq!(least, enough);
}
