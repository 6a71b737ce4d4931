//! Background maintenance: what is done when, for whom first, and what it costs where there is nothing to do.

mod common;
#[path = "../benches/counting/mod.rs"]
mod counting;
#[path = "common/watched.rs"]
mod watched;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{clocked, quiet, small};
use counting::{Counting, Kind};
use stratalog::{
    Budget, Cleanup, Clock, CompactMode, ErrorKind, Log, LogConfig, MaintenanceReport, ManualClock, Offset, Partition,
    PinnedBy, Record, TopicConfig,
};
use watched::{Call, Watched, name};

const HOUR: Duration = Duration::from_secs(3600);

fn compacted() -> TopicConfig {
    small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0).delete_retention(Duration::ZERO)
}

/// Appends `rounds` updates of each of `keys` keys, one record a batch.
fn fill(partition: &Partition, rounds: u32, keys: u32) {
    let value = "v".repeat(100);
    for round in 0..rounds {
        for key in 0..keys {
            let (key, value) = (format!("key-{key}"), format!("{round}-{value}"));
            partition.append_records([Record::new(&key, &value)]).unwrap();
        }
    }
}

/// A log with topics of one partition each.
fn log_of(config: LogConfig, dir: &tempfile::TempDir, topics: &[(&str, TopicConfig)]) -> (Log, Vec<Partition>) {
    let log = Log::open(dir.path(), config).unwrap();
    for (name, config) in topics {
        log.create_topic(name, 1, config.clone()).unwrap();
    }
    let partitions = topics.iter().map(|(name, _)| log.partition(name, 0).unwrap()).collect();
    (log, partitions)
}

fn maintain(log: &Log, clock: &ManualClock, budget: Option<Duration>) -> MaintenanceReport {
    log.maintain(clock.now(), Budget { time: budget }).unwrap()
}

/// Topics in which something was rewritten.
fn rewritten(report: &MaintenanceReport) -> Vec<&str> {
    let did = report.passes.iter().filter(|(.., pass)| pass.compaction.as_ref().is_some_and(|c| !c.is_idle()));
    did.map(|(topic, ..)| topic.as_str()).collect()
}

#[test]
fn a_large_partition_does_not_starve_a_small_one_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let large = compacted().segment_bytes(4096);
    let (log, partitions) = log_of(config, &dir, &[("a-large", large), ("b-small", compacted())]);
    // Each key once, so that little is merged: many groups.
    for n in 0..20 {
        for key in 0..30 {
            let key = format!("key-{n}-{}", key % 20);
            partitions[0].append_records([Record::new(&key, &"v".repeat(100))]).unwrap();
        }
    }
    fill(&partitions[1], 10, 2);
    for partition in &partitions {
        partition.roll().unwrap();
        partition.flush().unwrap();
    }
    let mut calls = Vec::new();
    for _ in 0..200 {
        let report = maintain(&log, &clock, Some(Duration::ZERO));
        calls.push(rewritten(&report).join(" "));
        if !report.unfinished {
            break;
        }
    }
    let large: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].contains("a-large")).collect();
    let small = calls.iter().position(|call| call.contains("b-small")).expect("the small one had its turn");
    assert!(large.len() >= 3, "one call does one group: {calls:?}");
    assert!(small < *large.last().unwrap(), "{calls:?}");
    for partition in &partitions {
        assert!(partition.compact(clock.now(), CompactMode::Due).unwrap().is_idle(), "nothing is left");
        let report = partition.stats().compaction.last_pass.unwrap().report;
        assert!(!report.unfinished, "{report:?}");
    }
}

#[test]
fn a_plan_is_carried_out_over_many_turns_without_being_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let storage = Counting::new();
    let topic = compacted().segment_bytes(4096);
    let (log, partitions) = log_of(config.storage(storage.clone()), &dir, &[("t", topic)]);
    for n in 0..20 {
        for key in 0..30 {
            let key = format!("key-{n}-{}", key % 20);
            partitions[0].append_records([Record::new(&key, &"v".repeat(100))]).unwrap();
        }
    }
    partitions[0].roll().unwrap();
    partitions[0].flush().unwrap();
    storage.reset();
    let mut turns = 0;
    while maintain(&log, &clock, Some(Duration::ZERO)).unfinished {
        turns += 1;
        assert!(turns < 200, "it ends");
    }
    let totals = storage.totals();
    let log_bytes = 600 * (68 + 110 + 12);
    // Each segment is read once for its digest and once to be rewritten, in however many turns.
    assert!(turns > 5, "{turns} turns");
    assert!(totals[&Kind::Log].read <= 2 * log_bytes, "{totals:?}");
    assert!(totals[&Kind::Log].written <= log_bytes, "{totals:?}");
}

#[test]
fn what_is_overdue_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    // High ratios: only the lag makes them compact.
    let lagging = |hours| compacted().min_cleanable_dirty_ratio(1.0).max_compaction_lag(Some(HOUR * hours));
    let topics = [("a", compacted()), ("b", lagging(3)), ("c", lagging(2))];
    let (log, partitions) = log_of(config, &dir, &topics);
    for partition in &partitions[1..] {
        fill(partition, 1, 50);
        // Some of each segment is dead, and none of them all.
        for key in (0..50).step_by(3) {
            partition.append_records([Record::new(&format!("key-{key}"), "new")]).unwrap();
        }
        partition.roll().unwrap();
        partition.flush().unwrap();
    }
    assert_eq!(rewritten(&maintain(&log, &clock, None)), Vec::<&str>::new(), "nothing is due");
    for (partition, hours) in [(&partitions[1], 3), (&partitions[2], 2)] {
        let due = partition.stats().compaction.next_deadline.unwrap();
        assert_eq!(due, clock.now().plus_millis((HOUR * hours).as_millis() as i64));
    }
    clock.advance(HOUR * 3);
    fill(&partitions[0], 2, 50);
    partitions[0].roll().unwrap();
    partitions[0].flush().unwrap();
    // "a" has to read its segments first, one a call.
    let calls = (0..50).map(|_| rewritten(&maintain(&log, &clock, Some(Duration::ZERO))).join(" "));
    let calls: Vec<String> = calls.collect();
    let first = |topic: &str| calls.iter().position(|call| call == topic).expect("it had its turn");
    assert!(first("c") < first("b") && first("b") < first("a"), "{calls:?}");
    assert_eq!(first("c"), 0);
}

#[test]
fn an_idle_partition_reads_and_writes_nothing_even_after_it_was_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let storage = Counting::new();
    let config = config.storage(storage.clone());
    let topic = compacted().delete_retention(HOUR);
    let (log, partitions) = log_of(config.clone(), &dir, &[("t", topic)]);
    fill(&partitions[0], 3, 20);
    partitions[0].append_records([Record::tombstone("key-1")]).unwrap();
    partitions[0].roll().unwrap();
    partitions[0].flush().unwrap();
    let report = maintain(&log, &clock, None);
    assert_eq!(rewritten(&report), ["t"]);
    let due = report.next_deadline.expect("the tombstone goes then");
    let nothing = |what: &str| {
        storage.reset();
        let (log, clock) = (&log, &clock);
        let report = maintain(log, clock, None);
        assert_eq!(report.next_deadline, Some(due), "{what}");
        let totals = storage.totals();
        assert!(totals.values().all(|amount| amount.read + amount.written == 0), "{what}: {totals:?}");
    };
    nothing("when it was just compacted");
    drop(partitions);
    log.close().unwrap();

    let log = Log::open(dir.path(), config).unwrap();
    storage.reset();
    let report = maintain(&log, &clock, None);
    let totals = storage.totals();
    assert_eq!(report.next_deadline, Some(due), "it is known still");
    assert_eq!((totals[&Kind::Digest].read, totals[&Kind::Log].read), (0, 0), "{totals:?}");
    clock.set(due);
    assert_eq!(rewritten(&maintain(&log, &clock, None)), ["t"], "the tombstone goes");
    assert_eq!(log.partition("t", 0).unwrap().stats().compaction.tombstones, Some(1), "as of the look before");
}

#[test]
fn looking_at_a_thousand_idle_partitions_costs_next_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let storage = Counting::new();
    let log = Log::open(dir.path(), config.storage(storage.clone()).sync_threads(0)).unwrap();
    let topic = log.create_topic("t", 1000, compacted()).unwrap();
    for partition in topic.partitions() {
        partition.append_records([Record::new("k", "v")]).unwrap();
        partition.roll().unwrap();
        partition.flush().unwrap();
    }
    maintain(&log, &clock, None);
    storage.reset();
    let mut took = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let report = maintain(&log, &clock, None);
        took = took.min(began.elapsed());
        assert_eq!(report.passes.len(), 1000);
    }
    assert!(storage.totals().values().all(|amount| amount.read + amount.written == 0));
    // Some microseconds each, the best of some ticks on a machine that has other things to do.
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn a_plan_waits_until_what_is_new_could_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let storage = Counting::new();
    let topic = compacted().segment_bytes(64 << 10).min_cleanable_dirty_ratio(0.5);
    let (log, partitions) = log_of(config.storage(storage.clone()), &dir, &[("t", topic)]);
    fill(&partitions[0], 1, 1000);
    partitions[0].roll().unwrap();
    partitions[0].flush().unwrap();
    maintain(&log, &clock, None);
    // One update in a hundred.
    for key in (0..1000).step_by(100) {
        partitions[0].append_records([Record::new(&format!("key-{key}"), "new")]).unwrap();
    }
    partitions[0].roll().unwrap();
    partitions[0].flush().unwrap();
    storage.reset();
    let report = maintain(&log, &clock, None);
    assert_eq!(rewritten(&report), Vec::<&str>::new());
    let new = partitions[0].stats().compaction.dirty_bytes;
    let totals = storage.totals();
    assert!(new > 0 && totals[&Kind::Log].read <= new, "only what is new is read: {totals:?}, {new} new");
    assert_eq!(storage.logs_read().len(), 1);
    // Footers and annexes, no entries.
    assert!(totals[&Kind::Digest].read < 4096, "{totals:?}");
}

#[test]
fn a_changed_configuration_is_planned_with() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let topic = compacted().min_cleanable_dirty_ratio(1.0);
    let (log, partitions) = log_of(config.clone(), &dir, &[("t", topic.clone())]);
    fill(&partitions[0], 3, 10);
    partitions[0].append_records([Record::new("alive", "v")]).unwrap();
    partitions[0].roll().unwrap();
    partitions[0].flush().unwrap();
    maintain(&log, &clock, None);
    let garbage = partitions[0].stats().compaction;
    assert!(rewritten(&maintain(&log, &clock, None)).is_empty());
    log.topic("t").unwrap().set_config(topic.min_cleanable_dirty_ratio(0.0)).unwrap();
    assert!(garbage.dead_records == 0 || rewritten(&maintain(&log, &clock, None)) == ["t"], "{garbage:?}");
}

#[test]
fn what_fails_is_tried_again_later_and_later_and_retention_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let broken = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&broken);
    let storage = Watched::new(move |call, path| {
        let output = name(path).contains(".cleaned") && call == Call::Create;
        if output && fails.load(Ordering::SeqCst) { Err(std::io::Error::other("no luck")) } else { Ok(()) }
    });
    let topic = compacted().cleanup(Cleanup::CompactDelete).retention_bytes(Some(4096));
    let (log, partitions) = log_of(config.storage(storage), &dir, &[("t", topic)]);
    let partition = &partitions[0];
    let attempt = || {
        fill(partition, 2, 20);
        partition.roll().unwrap();
        partition.flush().unwrap();
        let report = maintain(&log, &clock, None);
        let pass = &report.passes[0].2;
        assert!(pass.segments_removed > 0, "retention does its work: {pass:?}");
        pass.errors.len()
    };
    let mut wait = Duration::from_secs(1);
    for failures in 1..=12 {
        assert_eq!(attempt(), 1, "it is tried");
        let failed = partition.stats().compaction.failed.unwrap();
        assert_eq!(failed.failures, failures);
        assert_eq!(failed.retry_at.millis_since(clock.now()), wait.as_millis() as i64);
        assert_eq!(partition.stats().compaction.next_deadline, Some(failed.retry_at));
        clock.advance(wait - Duration::from_millis(1));
        assert_eq!(attempt(), 0, "it is not tried before its time");
        clock.advance(Duration::from_millis(1));
        wait = (wait * 2).min(Duration::from_secs(300));
    }
    assert!(partition.append_records([Record::new("k", "v")]).is_ok(), "nothing else is disturbed");
    broken.store(false, Ordering::SeqCst);
    assert_eq!(attempt(), 0);
    assert!(partition.stats().compaction.failed.is_none());
}

#[test]
fn a_paused_partition_is_left_alone_until_the_last_guard_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let topic = compacted().segment_age(HOUR);
    let (log, partitions) = log_of(config, &dir, &[("t", topic)]);
    let partition = &partitions[0];
    fill(partition, 5, 20);
    partition.flush().unwrap();
    let guards = (partition.pause_maintenance(), partition.pause_maintenance());
    assert!(partition.stats().compaction.paused);
    clock.advance(HOUR * 2);
    let before = files(&dir);
    for _ in 0..2 {
        let report = maintain(&log, &clock, None);
        assert!(!report.passes[0].2.rolled && rewritten(&report).is_empty(), "{report:?}");
    }
    assert_eq!(files(&dir), before);
    drop(guards.0);
    assert!(rewritten(&maintain(&log, &clock, None)).is_empty(), "one guard is left");
    drop(guards.1);
    assert!(!partition.stats().compaction.paused);
    let report = maintain(&log, &clock, None);
    assert!(report.passes[0].2.rolled);
    assert_eq!(rewritten(&report), ["t"]);
}

fn files(dir: &tempfile::TempDir) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(dir.path().join("t-0")).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .filter(|(name, _)| name.ends_with(".log"))
        .collect();
    files.sort();
    files
}

#[test]
fn a_throttled_compaction_keeps_to_its_rate() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let storage = Counting::new();
    let config = config.storage(storage.clone()).compaction_bytes_per_second(Some(1 << 20));
    let (_log, partitions) = log_of(config, &dir, &[("t", compacted().segment_bytes(1 << 20))]);
    fill(&partitions[0], 3, 1000);
    partitions[0].roll().unwrap();
    partitions[0].flush().unwrap();
    storage.reset();
    let began = Instant::now();
    let report = partitions[0].compact(clock.now(), CompactMode::Due).unwrap();
    let took = began.elapsed();
    assert!(!report.is_idle());
    let moved: u64 =
        storage.totals().iter().filter(|(kind, _)| **kind != Kind::Other).map(|(_, a)| a.read + a.written).sum();
    assert!(moved > 600 << 10, "{moved}");
    // A tenth of a second passes at once; footers are looked at without.
    let least = Duration::from_secs_f64((moved - (16 << 10)) as f64 / f64::from(1 << 20)) - Duration::from_millis(100);
    assert!(took >= least, "{moved} bytes in {took:?}");
}

#[test]
fn a_throttled_compaction_delays_neither_truncation_nor_pause_nor_deletion_nor_close() {
    let dir = tempfile::tempdir().unwrap();
    let config = quiet().compaction_bytes_per_second(Some(1024)).maintenance_interval(Some(Duration::from_millis(1)));
    let topics = ["a", "b", "c"].map(|name| (name, compacted()));
    let (log, partitions) = log_of(config.compaction_threads(3), &dir, &topics);
    for partition in &partitions {
        // At this rate it takes minutes.
        fill(partition, 100, 20);
        partition.roll().unwrap();
        partition.flush().unwrap();
    }
    let began = Instant::now();
    let guard = partitions[0].pause_maintenance();
    partitions[0].truncate_lossy(Offset::new(1000)).unwrap();
    drop(guard);
    log.delete_topic("b").unwrap();
    assert_eq!(partitions[1].append_records([Record::new("k", "v")]).unwrap_err().kind(), &ErrorKind::Closed);
    log.close().unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn threads_compact_by_themselves_and_end_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = quiet().maintenance_interval(Some(Duration::from_millis(5))).compaction_threads(2);
    let topics = ["a", "b", "c"].map(|name| (name, compacted()));
    let (log, partitions) = log_of(config.clone(), &dir, &topics);
    for partition in &partitions {
        fill(partition, 20, 10);
        partition.roll().unwrap();
        partition.flush().unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let compacted = |partition: &Partition| {
        let stats = partition.stats().compaction;
        // A pass that has counted everything may still have to rewrite it.
        stats.dirty_bytes == 0 && stats.next_deadline.is_none()
    };
    while !partitions.iter().all(compacted) {
        assert!(Instant::now() < deadline, "{:?}", partitions[0].stats());
        std::thread::yield_now();
    }
    drop((partitions, log));
    let log =
        Log::open(dir.path(), config).expect("dropping the last clone has ended the threads and let go of the lock");
    for (name, _) in topics {
        let mut reader = log.partition(name, 0).unwrap().reader(Offset::ZERO).unwrap();
        let mut count = 0;
        while reader.next_record().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 10, "each key once");
    }
}

#[test]
fn stats_tell_what_is_dirty_what_is_dead_and_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    // Two of three records are dead, and that is not enough.
    let topic = compacted().segment_bytes(64 << 10).min_cleanable_dirty_ratio(0.9).delete_retention(HOUR);
    let (log, partitions) = log_of(config.clone(), &dir, &[("t", topic)]);
    let partition = &partitions[0];
    fill(partition, 2, 20);
    partition.append_records([Record::tombstone("key-0")]).unwrap();
    partition.roll().unwrap();
    fill(partition, 1, 20);
    partition.roll().unwrap();
    partition.flush().unwrap();
    let stats = partition.stats().compaction;
    assert_eq!(stats.dirty_bytes, partition.stats().bytes);
    assert_eq!((stats.dead_records, stats.dead_bytes, stats.tombstones), (0, 0, None));
    assert!(stats.last_pass.is_none());
    maintain(&log, &clock, None);
    let stats = partition.stats().compaction;
    // All of the first segment is dead, so it goes; its tombstone too, as a newer record follows.
    let report = stats.last_pass.expect("there was one").report;
    assert_eq!((report.segments_rewritten > 0, stats.dirty_bytes, stats.dead_records), (true, 0, 0), "{report:?}");
    fill(partition, 1, 10);
    partition.roll().unwrap();
    partition.flush().unwrap();
    maintain(&log, &clock, None);
    log.topic("t").unwrap().set_config(partition.config().as_ref().clone().min_cleanable_dirty_ratio(0.95)).unwrap();
    let before = partition.stats().compaction;
    drop(partitions);
    log.close().unwrap();
    let log = Log::open(dir.path(), config).unwrap();
    let after = log.partition("t", 0).unwrap().stats().compaction;
    assert_eq!((after.dead_records, after.dead_bytes), (before.dead_records, before.dead_bytes), "they are kept");
}

#[test]
fn stats_name_what_pins_a_partition() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let topic = compacted().min_compaction_lag(HOUR);
    let (log, partitions) = log_of(config, &dir, &[("t", topic.clone())]);
    let partition = &partitions[0];
    fill(partition, 3, 20);
    partition.append_records([Record::tombstone("key-0")]).unwrap();
    partition.roll().unwrap();
    partition.flush().unwrap();
    let pinned = || partition.stats().compaction.pinned_by;
    let lag = clock.now().plus_millis(HOUR.as_millis() as i64);
    assert!(matches!(pinned()[..], [PinnedBy::MinCompactionLag(until)] if until == lag), "{:?}", pinned());
    assert_eq!(partition.stats().compaction.next_deadline, Some(lag), "it is looked at then");
    clock.set(lag);
    let pin = partition.pin(Offset::ZERO);
    assert!(matches!(pinned()[..], [PinnedBy::Owner(Offset::ZERO)]), "{:?}", pinned());
    drop(pin);
    partition.register_position("slow", Offset::new(1)).unwrap();
    maintain(&log, &clock, None);
    let held = pinned();
    assert!(
        matches!(&held[..], [PinnedBy::Position { name, offset }] if name == "slow" && offset.get() == 1),
        "{held:?}"
    );
    // Once it has read everything the tombstone goes at the next tick.
    partition.register_position("slow", partition.offsets().end).unwrap();
    let report = maintain(&log, &clock, None);
    let removed: u64 =
        report.passes.iter().filter_map(|(.., pass)| pass.compaction.as_ref()).map(|c| c.tombstones_removed).sum();
    assert_eq!(removed, 1, "{report:?}");
    assert!(pinned().is_empty());
}

#[test]
fn a_damaged_segment_is_told_and_not_read_again_at_each_tick() {
    let dir = tempfile::tempdir().unwrap();
    let (config, clock) = clocked();
    let storage = Counting::new();
    let (log, partitions) = log_of(config.storage(storage.clone()), &dir, &[("t", compacted().mapped_reads(false))]);
    fill(&partitions[0], 4, 20);
    partitions[0].roll().unwrap();
    partitions[0].flush().unwrap();
    let first = dir.path().join("t-0").join(format!("{:020}.log", 0));
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let report = maintain(&log, &clock, None);
    let damaged = |report: &MaintenanceReport| report.passes[0].2.compaction.as_ref().unwrap().damaged.len();
    assert_eq!((damaged(&report), rewritten(&report)), (1, vec!["t"]), "the others are compacted");
    assert!(partitions[0].stats().compaction.pinned_by.iter().any(|by| matches!(by, PinnedBy::Damage(_))));
    storage.reset();
    let report = maintain(&log, &clock, None);
    assert_eq!(damaged(&report), 1, "it is still told");
    assert_eq!(storage.totals()[&Kind::Log].read, 0);
}
