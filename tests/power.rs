//! Kills and power cuts that once went wrong, each by itself. `crash.rs` explores all of them.
#![cfg(feature = "sim")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stratalog::sim::{Call, Calls, Crash, Failure, Injection, Order, SimStorage};
use stratalog::{
    Cleanup, CompactMode, Durability, ErrorKind, Log, LogConfig, ManualClock, Offset, Record, Timestamp, TopicConfig,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const NOTHING: Crash = Crash { order: Order::Strict, seed: 0 };

fn config(storage: &SimStorage) -> LogConfig {
    LogConfig::new()
        .storage(Arc::new(storage.clone()))
        .clock(Arc::new(ManualClock::new(NOW)))
        .min_free_bytes(0)
        .maintenance_interval(None)
        .sync_threads(0)
        .open_threads(Some(1))
}

fn topic() -> TopicConfig {
    let buffered = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
    TopicConfig::new().segment_bytes(1024).durability(buffered)
}

#[test]
fn a_topic_that_a_killed_process_half_made_is_swept_away() {
    for stop in 0.. {
        let storage = SimStorage::new();
        Log::open("/log", config(&storage)).unwrap().close().unwrap();
        let log = Log::open("/log", config(&storage)).unwrap();
        storage.stop_after(stop);
        let made = log.create_topic("t", 1, topic()).is_ok();
        let left = storage.kill();
        // The next two processes are killed while they sweep, and the power goes.
        for (second, third) in (0..12).flat_map(|second| (0..12).map(move |third| (second, third))) {
            let again = left.kill();
            again.stop_after(second);
            drop(Log::open("/log", config(&again)));
            let again = again.kill();
            again.stop_after(third);
            drop(Log::open("/log", config(&again)));
            for seed in 0..8 {
                let log = Log::open("/log", config(&again.crash(&Crash { order: Order::Strict, seed }))).unwrap();
                if let Some(found) = log.topic("t") {
                    let what = format!("stopped after {stop}, {second} and {third}, seed {seed}");
                    assert_eq!(found.config().unwrap(), topic(), "{what}");
                }
            }
        }
        if made {
            return;
        }
    }
}

#[test]
fn a_new_log_is_durable_though_the_process_that_made_its_directory_was_killed() {
    for stop in 0..30 {
        let storage = SimStorage::new();
        storage.stop_after(stop);
        drop(Log::open("/above/log", config(&storage)));
        let storage = storage.kill();
        let log = Log::open("/above/log", config(&storage)).unwrap();
        let topic = log.create_topic("t", 1, topic()).unwrap();
        topic.append(Record::new("key", "value")).unwrap();
        topic.partition(0).unwrap().flush().unwrap();
        let log = Log::open("/above/log", config(&storage.crash(&NOTHING))).unwrap();
        assert_eq!(log.partition("t", 0).expect("it is there").offsets().end, Offset::new(1), "stopped after {stop}");
    }
}

#[test]
fn what_was_shown_after_a_kill_is_there_after_a_power_cut() {
    for stop in 0.. {
        let storage = SimStorage::new();
        let log = Log::open("/log", config(&storage)).unwrap();
        log.create_topic("t", 1, topic()).unwrap();
        let partition = log.partition("t", 0).unwrap();
        storage.stop_after(stop);
        let done = (|| {
            for n in 0..9 {
                partition.append_records([Record::new("key", &"x".repeat(300))])?;
                if n == 4 {
                    partition.delete_before(Offset::new(3))?;
                }
            }
            Ok::<(), stratalog::Error>(())
        })();
        for seed in 0..4 {
            let first = storage.crash(&Crash { order: Order::Strict, seed });
            for second in 0..10 {
                let killed = first.kill();
                killed.stop_after(second);
                drop(Log::open("/log", config(&killed)));
                let seen = killed.kill();
                let shown = Log::open("/log", config(&seen)).unwrap().partition("t", 0).unwrap().offsets();
                let left = Log::open("/log", config(&seen.crash(&NOTHING))).unwrap();
                let offsets = left.partition("t", 0).unwrap().offsets();
                assert_eq!((offsets.start, offsets.end), (shown.start, shown.end), "{stop}, {seed}, {second}");
            }
        }
        if done.is_ok() {
            return;
        }
    }
}

#[test]
fn a_long_tail_whose_sync_failed_is_on_the_disk_once_it_is_shown() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    log.create_topic("t", 1, topic().segment_bytes(64 << 20)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    for _ in 0..35 {
        partition.append_records([Record::new("key", &"x".repeat(100 << 10))]).unwrap();
    }
    // The first one is of `state`.
    let calls = Calls::Only(Call::Sync);
    storage.inject(Injection { calls, after: 1, failure: Failure::Io, forever: true, seed: 0 });
    partition.flush().unwrap_err();
    storage.set_fault(None);
    let killed = storage.kill();
    let shown = Log::open("/log", config(&killed)).unwrap().partition("t", 0).unwrap().offsets();
    let log = Log::open("/log", config(&killed.crash(&NOTHING))).unwrap();
    let left = log.partition("t", 0).unwrap();
    assert_eq!((shown.end, left.offsets().end), (Offset::new(35), Offset::new(35)));
    assert!(left.verify().unwrap().findings.is_empty());
}

#[test]
fn a_truncation_inside_a_batch_does_not_take_what_compaction_relied_on() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let compacted = topic().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    log.create_topic("t", 1, compacted).unwrap();
    let partition = log.partition("t", 0).unwrap();
    partition.append_records([Record::new("a", "old")]).unwrap();
    partition.append_records([Record::new("a", "new"), Record::new("b", "1"), Record::new("c", "2")]).unwrap();
    partition.compact(NOW, CompactMode::Full).unwrap();
    // Offset 1 justified the removal of offset 0; its batch goes up to 3.
    for to in 1..4 {
        let error = partition.truncate(Offset::new(to)).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::TruncateBelowCompacted { lowest: Offset::new(4) }, "to {to}");
    }
    assert_eq!(partition.truncate(Offset::new(4)).unwrap(), Offset::new(4));
}

#[test]
fn nothing_is_scanned_after_a_truncation_and_a_close() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    log.create_topic("t", 1, topic()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    for _ in 0..5 {
        partition.append_records([Record::new("key", "value")]).unwrap();
    }
    partition.truncate(Offset::new(3)).unwrap();
    log.close().unwrap();
    let log = Log::open("/log", config(&storage)).unwrap();
    assert_eq!(log.recovery_report().partitions[0].scanned_bytes, 0);
}

#[test]
fn the_leader_epoch_of_a_lost_tail_does_not_come_back() {
    for stop in 0.. {
        let storage = SimStorage::new();
        let log = Log::open("/log", config(&storage)).unwrap();
        log.create_topic("t", 1, topic()).unwrap();
        let partition = log.partition("t", 0).unwrap();
        let lead = |epoch| {
            partition.set_leader_epoch(epoch)?;
            partition.append_records([Record::new("key", "value")])
        };
        lead(1).unwrap();
        partition.roll().unwrap();
        lead(2).unwrap();
        storage.stop_after(stop);
        let done = partition.flush().is_ok();
        // The next process serves what is left, appends without an epoch, and is killed.
        let left = storage.crash(&NOTHING);
        let log = Log::open("/log", config(&left)).unwrap();
        let partition = log.partition("t", 0).unwrap();
        let end = partition.offsets().end;
        partition.append_records([Record::new("key", "later")]).unwrap();
        let log = Log::open("/log", config(&left.kill())).unwrap();
        let partition = log.partition("t", 0).unwrap();
        let expected = match end.get() {
            0 => None,
            1 => Some((1, Offset::new(2))),
            _ => Some((1, Offset::new(1))),
        };
        assert_eq!(partition.end_offset_for_epoch(1), expected, "stopped after {stop}, at {end}");
        if done {
            return;
        }
    }
}

#[test]
fn batches_that_are_scanned_again_do_not_move_the_start_of_their_leader_epoch() {
    for stop in 0.. {
        let storage = SimStorage::new();
        let log = Log::open("/log", config(&storage)).unwrap();
        log.create_topic("t", 1, topic()).unwrap();
        let partition = log.partition("t", 0).unwrap();
        let lead = |epoch| {
            partition.set_leader_epoch(epoch).unwrap();
            partition.append_records([Record::new("key", "value")])
        };
        lead(1).unwrap();
        lead(2).unwrap();
        partition.roll().unwrap();
        lead(2).unwrap();
        lead(3).unwrap();
        storage.stop_after(stop);
        let done = partition.flush().is_ok();
        // What is in the page cache is scanned once, then again with the checkpoint that the first scan has led to.
        for again in [storage.kill(), storage.crash(&Crash { order: Order::Strict, seed: 1 })] {
            for _ in 0..2 {
                let log = Log::open("/log", config(&again)).unwrap();
                let partition = log.partition("t", 0).unwrap();
                let ends = [1, 2, 3].map(|epoch| partition.end_offset_for_epoch(epoch).unwrap().1.get());
                assert_eq!(ends, [1, 3, 4], "stopped after {stop}");
            }
        }
        if done {
            return;
        }
    }
}

#[test]
fn what_is_stored_after_a_write_of_the_state_found_no_room_lasts() {
    for after in 0..8 {
        let storage = SimStorage::new();
        let log = Log::open("/log", config(&storage)).unwrap();
        log.create_topic("t", 1, topic()).unwrap();
        let partition = log.partition("t", 0).unwrap();
        let append = || partition.append_records([Record::new("key", "value")]).unwrap();
        append();
        append();
        partition.flush().unwrap();
        let calls = Calls::Only(Call::Write);
        storage.inject(Injection { calls, after, failure: Failure::NoSpace, forever: false, seed: 0 });
        let start = |seed| {
            let left = storage.crash(&Crash { order: Order::Strict, seed });
            Log::open("/log", config(&left)).unwrap().partition("t", 0).unwrap().offsets().start.get()
        };
        let mut stored = 0;
        for to in [1, 2, 2] {
            let deleted = partition.delete_before(Offset::new(to));
            stored = if deleted.is_ok() { to } else { stored };
            assert!((0..40).all(|seed| start(seed) == stored), "write {after}, up to {to}: {deleted:?}");
        }
        assert_eq!(stored, 2);
    }
}

#[test]
fn a_log_start_that_could_not_be_stored_does_not_come_later() {
    for (after, failure) in (0..8).flat_map(|after| Failure::ALL.map(|failure| (after, failure))) {
        for (forever, seed) in (0..16).map(|seed| (seed % 2 == 0, seed)) {
            let storage = SimStorage::new();
            let log = Log::open("/log", config(&storage)).unwrap();
            log.create_topic("t", 1, topic()).unwrap();
            let partition = log.partition("t", 0).unwrap();
            partition.append_records([Record::new("key", "value")]).unwrap();
            partition.append_records([Record::new("key", "value")]).unwrap();
            partition.delete_before(Offset::new(1)).unwrap();
            let calls = Calls::Only(Call::Write);
            storage.inject(Injection { calls, after, failure, forever, seed });
            let _ = partition.delete_before(Offset::new(2));
            // The next process shows what it finds, and the power goes.
            let left = storage.kill();
            let open = |storage: &SimStorage| {
                let log = Log::open("/log", config(storage)).unwrap();
                let start = log.partition("t", 0).unwrap().offsets().start;
                (log, start)
            };
            let (_log, seen) = open(&left);
            for crash in (0..20).map(|seed| Crash { order: Order::Strict, seed }) {
                let what = format!("{failure:?} after {after}, for ever: {forever}, seed {seed}, {crash:?}");
                assert_eq!(open(&left.crash(&crash)).1, seen, "{what}");
            }
        }
    }
}

#[test]
fn a_deleted_partition_is_whole_or_gone_and_gone_for_good_once_that_was_acknowledged() {
    for stop in 0.. {
        let storage = SimStorage::new();
        let log = Log::open("/log", config(&storage)).unwrap();
        let all = log.create_topic("t", 2, topic()).unwrap();
        for partition in all.partitions() {
            partition.append_records([Record::new("key", "value")]).unwrap();
            partition.flush().unwrap();
        }
        storage.stop_after(stop);
        let deleted = log.delete_partition("t", 1).is_ok();
        let mut images = vec![storage.kill()];
        for order in [Order::Strict, Order::Journaled] {
            images.extend((0..32).map(|seed| storage.crash(&Crash { order, seed })));
        }
        for image in images {
            for image in [image.kill(), image.crash(&NOTHING)] {
                let log = Log::open("/log", config(&image)).unwrap();
                let what = format!("stopped after {stop}");
                assert!(log.recovery_report().failed.is_empty(), "{what}: {:?}", log.recovery_report().failed);
                assert_eq!(log.partition("t", 0).expect("it stays").offsets().end, Offset::new(1), "{what}");
                match log.partition("t", 1) {
                    Some(whole) => assert!(!deleted && whole.offsets().end == Offset::new(1), "{what}"),
                    // What is made in its place is new.
                    None => {
                        let made = log.create_partition("t", 1, topic()).unwrap();
                        assert_eq!(made.offsets().end, Offset::ZERO, "{what}");
                    }
                }
            }
        }
        if deleted {
            return;
        }
    }
}

/// What the killed process had renamed is in the page cache, and a power cut takes it back: the checkpoint files of the
/// close before are ours as well.
#[test]
fn a_close_that_was_killed_and_an_open_that_lost_power_are_no_sign_of_kafkas() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    for _ in 0..3 {
        partition.append_records([Record::new("key", "value")]).unwrap();
    }
    drop(partition);
    log.close().unwrap();

    let observe = |storage: &SimStorage, act: &dyn Fn(SimStorage)| -> Vec<SimStorage> {
        let states: Arc<Mutex<Vec<SimStorage>>> = Arc::default();
        let kept = Arc::clone(&states);
        act(storage.observed(move |state| kept.lock().unwrap().push(state)));
        std::mem::take(&mut *states.lock().unwrap())
    };
    let closing = observe(&storage, &|storage| {
        let log = Log::open("/log", config(&storage)).unwrap();
        log.topic("t").unwrap().append(Record::new("key", "value")).unwrap();
        log.close().unwrap();
    });
    assert!(closing.len() > 40, "{}", closing.len());
    for (at, killed) in closing.iter().enumerate() {
        let killed = killed.kill();
        let opening = observe(&killed, &|storage| drop(Log::open("/log", config(&storage)).unwrap()));
        for (then, state) in opening.iter().enumerate() {
            let log = Log::open("/log", config(&state.crash(&NOTHING))).unwrap();
            assert!(!log.recovery_report().taken_over, "killed before operation {at}, no power before {then}");
            let partition = log.partition("t", 0).unwrap();
            assert!(partition.stats().error.is_none() && partition.offsets().end >= Offset::new(3));
        }
    }
}
