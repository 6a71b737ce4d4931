//! Compaction: each key's latest value stays, deleted keys go, and nothing else changes.

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use common::{clocked, small};
use stratalog::{Cleanup, Clock, CompactMode, Log, Offset, Partition, Record, Timestamp, TopicConfig};

fn compacted() -> TopicConfig {
    small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0).delete_retention(Duration::ZERO)
}

/// What a reader that goes from the start to the end ends with, and how many records it saw.
fn latest(partition: &Partition) -> (BTreeMap<Vec<u8>, Vec<u8>>, usize) {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    let mut state = BTreeMap::new();
    let mut count = 0;
    while let Some(record) = reader.next_record().unwrap() {
        count += 1;
        match record.value {
            Some(value) => state.insert(record.key.unwrap().to_vec(), value.to_vec()),
            None => state.remove(record.key.unwrap()),
        };
    }
    (state, count)
}

/// Compacts until nothing is left to do.
fn compact_all(partition: &Partition, now: Timestamp) -> u32 {
    for pass in 0..20 {
        let report = partition.compact(now, CompactMode::Full).unwrap();
        assert!(report.damaged.is_empty(), "{report:?}");
        if report.is_idle() {
            return pass;
        }
    }
    panic!("compaction finds no end");
}

#[test]
fn the_latest_value_of_each_key_stays_and_deleted_keys_go() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let log = Log::open(dir.path(), config.clone()).unwrap();
    log.create_topic("t", 1, compacted()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let mut model = BTreeMap::new();
    let mut offsets = BTreeMap::new();
    for n in 0..2000u64 {
        let key = format!("key-{}", n * 7919 % 101);
        let value = format!("value-{n}");
        let appended = if n % 9 == 0 {
            model.remove(key.as_bytes());
            offsets.remove(key.as_bytes());
            partition.append_records([Record::tombstone(&key)]).unwrap()
        } else {
            model.insert(key.clone().into_bytes(), value.clone().into_bytes());
            partition.append_records([Record::new(&key, &value)]).unwrap()
        };
        if n % 9 != 0 {
            offsets.insert(key.into_bytes(), appended.base_offset);
        }
    }
    let end = partition.offsets().end;
    compact_all(&partition, clock.now());
    let (state, count) = latest(&partition);
    assert_eq!(state, model);
    assert_eq!(count, model.len(), "each key is there once, and no tombstone");
    assert_eq!(partition.offsets().end, end, "the end stays where it was");
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        assert_eq!(offsets[record.key.unwrap()], record.offset, "offsets never change");
    }
    drop((reader, partition, log));
    let log = Log::open(dir.path(), config).unwrap();
    assert!(log.recovery_report().partitions[0].error.is_none());
    let partition = log.partition("t", 0).unwrap();
    assert_eq!(latest(&partition), (model, count));
    assert_eq!(partition.append_records([Record::new("k", "v")]).unwrap().base_offset, end);
}

#[test]
fn tombstones_stay_for_their_retention_and_go_on_an_idle_partition() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let log = Log::open(dir.path(), config).unwrap();
    log.create_topic("t", 1, compacted().delete_retention(Duration::from_secs(3600))).unwrap();
    let partition = log.partition("t", 0).unwrap();
    for _ in 0..50 {
        partition.append_records([Record::new("key", "value")]).unwrap();
    }
    partition.append_records([Record::tombstone("key")]).unwrap();
    compact_all(&partition, clock.now());
    assert_eq!(latest(&partition), (BTreeMap::new(), 1), "the tombstone is still there");
    let report = partition.compact(clock.now(), CompactMode::Due).unwrap();
    let due = report.next_deadline.expect("a pass is scheduled for it");
    clock.set(due);
    compact_all(&partition, clock.now());
    assert_eq!(latest(&partition), (BTreeMap::new(), 0));
}

#[test]
fn a_reader_that_stands_before_a_tombstone_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let log = Log::open(dir.path(), config).unwrap();
    log.create_topic("t", 1, compacted()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    for n in 0..100 {
        partition.append_records([Record::new(&format!("key-{n}"), "value")]).unwrap();
    }
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    assert!(reader.next_record().unwrap().is_some());
    partition.append_records([Record::tombstone("key-0")]).unwrap();
    compact_all(&partition, clock.now());
    let mut deleted = false;
    while let Some(record) = reader.next_record().unwrap() {
        deleted |= record.is_tombstone();
    }
    assert!(deleted, "the reader was told");
    drop(reader);
    compact_all(&partition, clock.now());
    assert_eq!(latest(&partition).1, 99);
}

#[test]
fn truncation_below_a_winner_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let log = Log::open(dir.path(), config).unwrap();
    log.create_topic("t", 1, compacted()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    for _ in 0..100 {
        partition.append_records([Record::new("key", "value")]).unwrap();
    }
    compact_all(&partition, clock.now());
    let error = partition.truncate(Offset::new(50)).unwrap_err();
    assert_eq!(*error.kind(), stratalog::ErrorKind::TruncateBelowCompacted { lowest: Offset::new(100) });
    partition.truncate_lossy(Offset::new(50)).unwrap();
    assert_eq!(
        partition.append_records([Record::new("key", "again")]).unwrap().base_offset,
        partition.offsets().end_before()
    );
}

trait EndBefore {
    fn end_before(&self) -> Offset;
}

impl EndBefore for stratalog::Offsets {
    fn end_before(&self) -> Offset {
        Offset::new(self.end.get() - 1)
    }
}

/// Lines of a gzipped TSV of the shared samples; `None`, said loudly, where they are not there.
fn sample(name: &str) -> Option<Vec<Vec<String>>> {
    let beside = || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let root = std::env::var_os("STRATALOG_SAMPLES").map_or_else(beside, Into::into).join("real").join(name);
    let Ok(file) = std::fs::File::open(&root) else {
        println!("SKIPPED: {} is not there", root.display());
        return None;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    Some(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

type Lines = Vec<Vec<String>>;

/// The change stream in a topic of four partitions, and the tree that it ends with; a line without a blob deletes.
fn change_stream(dir: &std::path::Path, config: TopicConfig) -> Option<(Log, Timestamp, Lines, Lines)> {
    let (history, tree) = (sample("kafka-history.tsv.gz")?, sample("kafka-tree.tsv.gz")?);
    let (log_config, clock) = clocked();
    let log = Log::open(dir, log_config).unwrap();
    let topic = log.create_topic("tree", 4, config.segment_bytes(1 << 20)).unwrap();
    for line in &history {
        let at = Timestamp::from_millis(line[0].parse().unwrap());
        let record = match line.get(2).filter(|blob| !blob.is_empty()) {
            Some(blob) => Record::new(&line[1], blob),
            None => Record::tombstone(&line[1]),
        };
        topic.append(record.at(at)).unwrap();
    }
    for partition in topic.partitions() {
        compact_all(&partition, clock.now());
    }
    Some((log, clock.now(), history, tree))
}

fn contents(tree: &Lines) -> BTreeMap<Vec<u8>, Vec<u8>> {
    tree.iter().map(|line| (line[0].clone().into_bytes(), line[1].clone().into_bytes())).collect()
}

#[test]
fn a_real_change_stream_compacts_to_exactly_its_tree() {
    let dir = tempfile::tempdir().unwrap();
    let Some((log, _, _, tree)) = change_stream(dir.path(), compacted()) else { return };
    let mut found = BTreeMap::new();
    let mut count = 0;
    for partition in log.topic("tree").unwrap().partitions() {
        let (state, records) = latest(&partition);
        found.extend(state);
        count += records;
        assert!(partition.verify().unwrap().findings.is_empty());
    }
    assert_eq!(found.len(), 6519);
    assert_eq!(found, contents(&tree));
    assert_eq!(count, 6519, "each path once, no tombstone left");
}

#[test]
fn the_deletions_of_a_real_change_stream_can_be_read_until_their_retention_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let config = compacted().delete_retention(TopicConfig::new().delete_retention);
    let Some((log, now, history, tree)) = change_stream(dir.path(), config) else { return };
    let tree = contents(&tree);
    let paths: std::collections::BTreeSet<Vec<u8>> = history.iter().map(|line| line[1].clone().into_bytes()).collect();
    let (mut seen, mut deleted) = (0, std::collections::BTreeSet::new());
    let read = |log: &Log, seen: &mut usize, deleted: &mut std::collections::BTreeSet<Vec<u8>>| {
        for partition in log.topic("tree").unwrap().partitions() {
            let mut reader = partition.reader(Offset::ZERO).unwrap();
            while let Some(record) = reader.next_record().unwrap() {
                *seen += 1;
                if record.is_tombstone() {
                    deleted.insert(record.key.unwrap().to_vec());
                }
            }
        }
    };
    read(&log, &mut seen, &mut deleted);
    assert_eq!(seen, paths.len(), "each path once");
    assert!(paths.iter().all(|path| tree.contains_key(path) != deleted.contains(path)));
    println!("{} paths, {} deleted", paths.len(), deleted.len());
    // And then they go.
    let later = Timestamp::from_millis(now.as_millis() + 26 * 3_600_000);
    for partition in log.topic("tree").unwrap().partitions() {
        compact_all(&partition, later);
    }
    (seen, deleted) = Default::default();
    read(&log, &mut seen, &mut deleted);
    assert_eq!((seen, deleted.len()), (6519, 0));
}

#[test]
fn a_compaction_that_is_asked_for_ends_when_it_is_done_though_upkeep_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    // It looks at the partition at every stop of the compaction, and more often.
    let log = Log::open(dir.path(), config.maintenance_interval(Some(Duration::from_micros(50)))).unwrap();
    log.create_topic("t", 1, compacted().min_cleanable_dirty_ratio(0.9)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let guard = partition.pause_maintenance();
    for n in 0..6000u64 {
        // Every other key comes again, so that no segment has much garbage: all are full, and none joins another.
        let key = format!("key-{}", if n % 2 == 0 { n } else { n % 999 });
        partition.append_records([Record::new(&key, &n.to_string())]).unwrap();
    }
    partition.flush().unwrap();
    drop(guard);
    let report = partition.compact(clock.now(), CompactMode::Full).unwrap();
    assert!(!report.unfinished, "{report:?}");
    assert_eq!(report.digests_built, report.segments, "{report:?}");
    assert!(report.segments > 300, "{report:?}");
    let again = partition.compact(clock.now(), CompactMode::Full).unwrap();
    assert!(!again.unfinished && again.digests_built == 0, "{again:?}");
}

#[test]
fn upkeep_has_its_turn_within_a_compaction_that_is_asked_for() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let config = config.maintenance_interval(Some(Duration::from_millis(5))).compaction_threads(1);
    let log = Log::open(dir.path(), config.compaction_bytes_per_second(Some(200 << 10))).unwrap();
    let topic = compacted().cleanup(Cleanup::CompactDelete).min_cleanable_dirty_ratio(0.9);
    log.create_topic("t", 1, topic.retention_age(Some(hours(30)))).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let guard = partition.pause_maintenance();
    for n in 0..3000u64 {
        if n == 1500 {
            clock.advance(hours(20));
        }
        let key = format!("key-{}", if n % 2 == 0 { n } else { n % 999 });
        partition.append_records([Record::new(&key, &n.to_string())]).unwrap();
    }
    partition.flush().unwrap();
    drop(guard);
    let now = clock.now();
    std::thread::scope(|scope| {
        let compaction = scope.spawn(|| partition.compact(now, CompactMode::Full).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        // The first half is too old now.
        clock.advance(hours(20));
        while partition.offsets().start < Offset::new(1400) {
            assert!(!compaction.is_finished(), "retention waited for all of the compaction");
            std::thread::yield_now();
        }
        let report = compaction.join().unwrap();
        assert!(!report.unfinished && report.damaged.is_empty(), "{report:?}");
    });
    let (state, _) = latest(&partition);
    assert!((3000..3000u64).step_by(2).all(|n| state.contains_key(format!("key-{n}").as_bytes())));
}
