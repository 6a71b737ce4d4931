//! Many threads at one log.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use common::{quiet, small};
use stratalog::format::{Marker, end_marker};
use stratalog::{
    Backpressure, Budget, Durability, ErrorKind, FetchOptions, Isolation, Log, LogConfig, Offset, Partition, Record,
    RecordBatch, Result, Timestamp, TopicConfig, WaitOutcome,
};

/// Long enough never to pass.
const LONG: Duration = Duration::from_secs(120);

fn one(config: LogConfig, topic: TopicConfig) -> (tempfile::TempDir, Log, Partition) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config).unwrap();
    log.create_topic("t", 1, topic).unwrap();
    let partition = log.partition("t", 0).unwrap();
    (dir, log, partition)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A runtime in a few lines.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn threads_that_append_at_once_each_see_their_own_offsets_and_readers_see_all_in_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 2000;
    let (_dir, log, partition) = one(quiet(), small().segment_bytes(64 << 10));
    let begin = Barrier::new(THREADS as usize);
    let all: Vec<(u64, String)> = thread::scope(|scope| {
        let follower = scope.spawn(|| follow(&partition, THREADS * EACH));
        let (partition, begin) = (&partition, &begin);
        let writers: Vec<_> = (0..THREADS)
            .map(|writer| {
                scope.spawn(move || {
                    begin.wait();
                    let write = |n| {
                        let value = format!("{writer}-{n}");
                        let appended = partition.append_records([Record::new("key", &value)]).unwrap();
                        assert_eq!(appended.next_offset, appended.base_offset + 1);
                        (appended.base_offset.get(), value)
                    };
                    (0..EACH).map(write).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut all: Vec<(u64, String)> = Vec::new();
        for writer in writers {
            let own = writer.join().unwrap();
            assert!(own.windows(2).all(|pair| pair[0].0 < pair[1].0), "a thread's appends keep their order");
            all.extend(own);
        }
        all.sort();
        assert_eq!(follower.join().unwrap(), all);
        all
    });
    assert!(all.iter().map(|(offset, _)| *offset).eq(0..THREADS * EACH));
    assert_eq!(common::read(&partition, 0), all);
    log.close().unwrap();
}

/// Reads `count` records as they come.
fn follow(partition: &Partition, count: u64) -> Vec<(u64, String)> {
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    let mut found = Vec::new();
    while (found.len() as u64) < count {
        match reader.next_record().unwrap() {
            Some(record) => {
                found.push((record.offset.get(), String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            }
            None => assert!(matches!(reader.wait(LONG).unwrap(), WaitOutcome::Reached(_))),
        }
    }
    found
}

#[test]
fn appends_that_are_synced_share_their_syncs() {
    const THREADS: u64 = 8;
    const EACH: u64 = 100;
    let (_dir, log, partition) = one(quiet(), TopicConfig::new().durability(Durability::Sync));
    let begin = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                begin.wait();
                for n in 0..EACH {
                    let appended = partition.append_records([Record::new("key", &n.to_string())]).unwrap();
                    assert!(partition.offsets().durable >= appended.next_offset, "acknowledged before it was durable");
                }
            });
        }
    });
    let (appends, syncs) = (THREADS * EACH, partition.stats().syncs);
    println!("{appends} appends by {THREADS} threads shared {syncs} syncs");
    assert!(syncs * 4 < appends * 3, "{syncs} syncs for {appends} appends");
    log.close().unwrap();
}

fn tight(policy: Backpressure) -> (LogConfig, TopicConfig) {
    let never = Durability::Buffered { interval: Duration::from_secs(3600), bytes: u64::MAX };
    (quiet().max_unsynced_bytes(4096).backpressure(policy), TopicConfig::new().durability(never))
}

#[test]
fn too_many_unsynced_bytes_fail_an_append_where_that_is_wanted() {
    let (config, topic) = tight(Backpressure::Fail);
    // Nobody syncs behind the test's back.
    let (_dir, log, partition) = one(config.sync_threads(0), topic);
    let value = vec![b'v'; 1000];
    let mut accepted = 0;
    let error = loop {
        match partition.append_records([Record::new("key", &value)]) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind(), ErrorKind::Backpressure { limit: 4096, .. }), "{error:?}");
    assert!((1..=4).contains(&accepted));
    assert_eq!(partition.offsets().end, Offset::new(accepted));
    assert!(log.stats().backpressure_waits > 0);
    partition.flush().unwrap();
    assert_eq!(partition.append_records([Record::new("key", &value)]).unwrap().base_offset, Offset::new(accepted));
    log.close().unwrap();
}

#[test]
fn too_many_unsynced_bytes_make_an_append_wait_for_a_sync() {
    let (config, topic) = tight(Backpressure::Wait(LONG));
    let (_dir, log, partition) = one(config, topic);
    let value = vec![b'v'; 1000];
    for _ in 0..50 {
        partition.append_records([Record::new("key", &value)]).unwrap();
        assert!(log.stats().unsynced_bytes <= 4096);
    }
    assert!(log.stats().backpressure_waits > 0);
    log.close().unwrap();
}

#[test]
fn waiting_for_room_ends_with_an_error_after_its_time() {
    let (config, topic) = tight(Backpressure::Wait(Duration::from_millis(20)));
    let (_dir, _log, partition) = one(config.sync_threads(0), topic);
    let value = vec![b'v'; 3000];
    partition.append_records([Record::new("key", &value)]).unwrap();
    let error = partition.append_records([Record::new("key", &value)]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Backpressure { .. }), "{error:?}");
    assert_eq!(partition.offsets().end, Offset::new(1));
}

#[test]
fn futures_resolve_when_a_record_is_there_and_when_it_is_durable() {
    let (_dir, log, partition) = one(quiet(), small());
    let (reached, durable) = (partition.reached(Offset::new(99)), partition.durable(Offset::new(100)));
    let waiting = thread::spawn(move || (block_on(reached), block_on(durable)));
    common::append(&partition, 100);
    let (reached, durable) = waiting.join().unwrap();
    assert!(reached.unwrap() >= Offset::new(100));
    assert!(durable.unwrap() >= Offset::new(100));
    assert!(block_on(partition.reached(Offset::new(3))).unwrap() >= Offset::new(4), "what is there is there at once");
    log.close().unwrap();
}

/// Starts everything that can wait for what never comes, ends it, and returns the answers.
fn ended_by(end: impl FnOnce(Log)) -> Vec<ErrorKind> {
    let (_dir, log, partition) = one(quiet(), small());
    common::append(&partition, 3);
    let far = Offset::new(1000);
    let begun = Arc::new(Barrier::new(7));
    let mut waiting: Vec<thread::JoinHandle<Result<()>>> = Vec::new();
    let mut wait = |wait: Box<dyn FnOnce() -> Result<()> + Send>| {
        let begun = Arc::clone(&begun);
        waiting.push(thread::spawn(move || {
            begun.wait();
            wait()
        }));
    };
    let each = || partition.clone();
    let (p, q, r) = (each(), each(), each());
    wait(Box::new(move || p.wait_for(far, LONG).map(drop)));
    wait(Box::new(move || q.wait_durable(far, LONG).map(drop)));
    let reader = partition.reader(Offset::new(3)).unwrap();
    wait(Box::new(move || reader.wait(LONG).map(drop)));
    let (reached, durable) = (partition.reached(far), partition.durable(far));
    wait(Box::new(move || block_on(reached).map(drop)));
    wait(Box::new(move || block_on(durable).map(drop)));
    let any = log.clone();
    wait(Box::new(move || any.wait_any(&[(r, far)], LONG).map(drop)));
    begun.wait();
    // Whether they wait already or not, none may be left behind.
    end(log);
    waiting.into_iter().map(|thread| thread.join().unwrap().unwrap_err().kind().clone()).collect()
}

#[test]
fn closing_the_log_ends_everything_that_waits() {
    assert_eq!(ended_by(|log| log.close().unwrap()), vec![ErrorKind::Closed; 6]);
}

#[test]
fn deleting_the_topic_ends_everything_that_waits() {
    assert_eq!(ended_by(|log| log.delete_topic("t").unwrap()), vec![ErrorKind::Closed; 6]);
}

#[test]
fn a_wait_for_many_partitions_names_those_that_have_something() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let partitions = log.create_topic("t", 5, small()).unwrap().partitions();
    let all: Vec<(Partition, Offset)> = partitions.iter().map(|p| (p.clone(), p.offsets().end)).collect();
    assert_eq!(log.wait_any(&all, Duration::ZERO).unwrap(), Vec::<usize>::new());
    let waiting = {
        let (log, all) = (log.clone(), all.clone());
        thread::spawn(move || log.wait_any(&all, LONG).unwrap())
    };
    common::append(&partitions[3], 1);
    assert_eq!(waiting.join().unwrap(), [3]);
    common::append(&partitions[1], 1);
    assert_eq!(log.wait_any(&all, LONG).unwrap(), [1, 3]);
    log.close().unwrap();
}

#[test]
fn a_partition_whose_log_was_dropped_is_closed() {
    let (dir, log, partition) = one(quiet(), small());
    partition.append_records([Record::new("k", "v")]).unwrap();
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    drop(log);
    let next = Log::open(dir.path(), quiet()).unwrap();
    let kinds = [
        partition.append_records([Record::new("k", "two owners")]).unwrap_err(),
        partition.flush().unwrap_err(),
        partition.roll().unwrap_err(),
        partition.truncate(Offset::ZERO).unwrap_err(),
        partition.delete_before(Offset::new(1)).unwrap_err(),
        partition.fetch(Offset::ZERO, FetchOptions::default()).map(drop).unwrap_err(),
        reader.next_record().map(drop).unwrap_err(),
    ];
    assert!(kinds.iter().all(|error| *error.kind() == ErrorKind::Closed), "{kinds:?}");
    let partition = next.partition("t", 0).unwrap();
    assert_eq!(partition.offsets().end, Offset::new(1));
    partition.append_records([Record::new("k", "v")]).unwrap();
    next.close().unwrap();
}

#[test]
fn readers_and_topics_of_a_closed_log_or_a_deleted_topic_answer_closed() {
    for delete in [false, true] {
        let (_dir, log, partition) = one(quiet(), small());
        for n in 0..100 {
            partition.append_records([Record::new("k", format!("{n}").as_str())]).unwrap();
        }
        let options = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
        let mut reader = partition.reader_with(Offset::ZERO, options).unwrap();
        assert!(reader.next_record().unwrap().is_some());
        let topic = log.topic("t").unwrap();
        if delete {
            log.delete_topic("t").unwrap();
            log.create_topic("t", 1, small()).unwrap();
        } else {
            log.clone().close().unwrap();
        }
        let kinds = [
            reader.next_record().map(drop).unwrap_err(),
            topic.append(Record::new("k", "v")).map(drop).unwrap_err(),
            topic.config().map(drop).unwrap_err(),
            topic.set_config(TopicConfig::new()).unwrap_err(),
            topic.add_partitions(2).unwrap_err(),
            partition.offset_for(Timestamp::from_millis(0)).map(drop).unwrap_err(),
        ];
        assert!(kinds.iter().all(|error| *error.kind() == ErrorKind::Closed), "{delete}: {kinds:?}");
        if delete {
            assert_eq!(log.topic("t").unwrap().partitions().len(), 1, "another topic of that name is not touched");
            log.close().unwrap();
        }
    }
}

/// Appends when it is woken, as a runtime may that runs a task where it is woken.
struct Appends(Partition);

impl Wake for Appends {
    fn wake(self: Arc<Self>) {
        self.0.append_records([Record::new("k", "woken")]).unwrap();
    }
}

#[test]
fn who_is_woken_may_append_at_once() {
    let (_dir, _log, partition) = one(quiet(), small());
    let mut future = pin!(partition.reached(Offset::ZERO));
    let waker = Waker::from(Arc::new(Appends(partition.clone())));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let (done, finished) = std::sync::mpsc::channel();
    let appender = partition.clone();
    thread::spawn(move || {
        appender.append_records([Record::new("k", "v")]).unwrap();
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(60)).expect("the append does not wait for itself");
    assert_eq!(partition.offsets().end, Offset::new(2));
}

/// Syncs when it is woken, and tells how that went.
#[cfg(feature = "sim")]
struct Flushes(Partition, std::sync::mpsc::Sender<stratalog::Result<Offset>>);

#[cfg(feature = "sim")]
impl Wake for Flushes {
    fn wake(self: Arc<Self>) {
        self.1.send(self.0.flush()).unwrap();
    }
}

#[cfg(feature = "sim")]
#[test]
fn who_is_woken_by_a_failed_sync_may_sync_at_once() {
    use stratalog::sim::{Call, Fault, SimStorage};
    let storage = SimStorage::new();
    let log = Log::open("/log", quiet().storage(Arc::new(storage.clone()))).unwrap();
    let topic = small().durability(Durability::Buffered { interval: LONG, bytes: 1 << 30 });
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    partition.append_records([Record::new("k", "v")]).unwrap();
    let mut future = pin!(partition.reached(Offset::new(9)));
    let (woken, how) = std::sync::mpsc::channel();
    let waker = Waker::from(Arc::new(Flushes(partition.clone(), woken)));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    storage.set_fault(Some(Fault {
        call: Some(Call::Sync),
        after: 0,
        error: std::io::ErrorKind::Other,
        forever: false,
    }));
    let syncing = partition.clone();
    thread::spawn(move || drop(syncing.flush().unwrap_err()));
    let told = how.recv_timeout(Duration::from_secs(20)).expect("the waker waits for nobody who waits for it");
    assert_eq!(*told.unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
}

#[cfg(feature = "sim")]
#[test]
fn a_sync_that_finds_no_room_is_tried_once_a_second_whatever_is_appended_meanwhile() {
    use stratalog::sim::{Call, Calls, Fault, SimStorage};
    let storage = SimStorage::new();
    let config = quiet().max_unsynced_bytes(4096).backpressure(Backpressure::Fail);
    let log = Log::open("/log", config.storage(Arc::new(storage.clone()))).unwrap();
    let often = Durability::Buffered { interval: Duration::from_millis(1), bytes: 512 };
    let topic = small().segment_bytes(1 << 20).durability(often);
    let partition = log.create_topic("t", 1, topic).unwrap().partition(0).unwrap();
    partition.set_leader_epoch(1).unwrap();
    common::append(&partition, 1);
    // Of each try the file of leader epochs finds no room, once the new segment is there.
    let error = std::io::ErrorKind::StorageFull;
    storage.set_fault(Some(Fault { call: Some(Call::Create), after: 1, error, forever: true }));
    partition.roll().unwrap();
    let began = std::time::Instant::now();
    let mut refused = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        refused += u32::from(partition.append_records([Record::new("k", "v")]).is_err());
    }
    let tries = storage.calls(Calls::Only(Call::Create));
    assert!(refused > 0, "appends ask for room, too");
    assert!((2..=5).contains(&tries), "{tries} tries in 1.5 s");
    storage.set_fault(None);
    let end = partition.offsets().end;
    assert_eq!(
        partition.wait_durable(end, LONG).unwrap(),
        WaitOutcome::Reached(end),
        "once there is room it is synced"
    );
}

/// Whoever syncs, and whoever waits for that sync, is told the same: the partition is poisoned, and by what.
#[test]
#[cfg(feature = "sim")]
fn a_sync_that_fails_is_one_error_for_all_who_wait_for_it() {
    use std::error::Error;
    use stratalog::sim::{Call, Fault, SimStorage};

    for error in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
        let storage = SimStorage::new();
        let log = Log::open("/log", quiet().storage(Arc::new(storage.clone()))).unwrap();
        let partition = log.create_topic("t", 1, small()).unwrap().partition(0).unwrap();
        common::append(&partition, 1);
        storage.set_fault(Some(Fault { call: Some(Call::Sync), after: 0, error, forever: true }));
        let synced = |told: stratalog::Error| {
            assert_eq!(*told.kind(), ErrorKind::Poisoned, "{error:?}: {told}");
            assert!(told.source().is_some(), "{error:?}: it says by what");
        };
        synced(partition.flush().unwrap_err());
        synced(partition.flush().unwrap_err());
        synced(partition.append_records([Record::new("k", "v")]).unwrap_err());
        synced(partition.wait_durable(Offset::new(1), LONG).unwrap_err());
    }
}

#[test]
fn an_iterator_of_records_may_append_itself() {
    let (_dir, log, partition) = one(quiet(), small());
    let other = log.create_topic("other", 1, small()).unwrap();
    let records = ["a", "b"].iter().map(|key| {
        other.append(Record::new(*key, "seen")).unwrap();
        Record::new(*key, "v")
    });
    assert_eq!(partition.append_records(records).unwrap().next_offset, Offset::new(2));
    assert_eq!(log.partition("other", 0).unwrap().offsets().end, Offset::new(2));
}

#[test]
fn room_is_made_by_syncing_the_partitions_that_take_it() {
    let never = Durability::Buffered { interval: Duration::from_secs(24 * 3600), bytes: 1 << 40 };
    let config = quiet().max_unsynced_bytes(64 << 10).backpressure(Backpressure::Wait(LONG));
    let (_dir, log, first) = one(config, small().segment_bytes(1 << 20).durability(never));
    log.create_topic("other", 1, small().segment_bytes(1 << 20).durability(never)).unwrap();
    let value = vec![7; 60 << 10];
    first.append_records([Record::new("k", &value)]).unwrap();
    let second = log.partition("other", 0).unwrap();
    let began = std::time::Instant::now();
    second.append_records([Record::new("k", &value)]).unwrap();
    assert!(began.elapsed() < LONG / 2, "nobody else would sync the first partition for a day");
    assert_eq!(first.offsets().durable, Offset::new(1));
}

#[test]
fn a_topic_that_is_not_synced_any_more_is_synced_in_its_interval() {
    let (_dir, log, partition) = one(quiet(), small().durability(Durability::Sync));
    partition.append_records([Record::new("k", "v")]).unwrap();
    let buffered = Durability::Buffered { interval: Duration::from_millis(5), bytes: 1 << 30 };
    log.topic("t").unwrap().set_config(small().durability(buffered)).unwrap();
    partition.append_records([Record::new("k", "v")]).unwrap();
    let waited = partition.wait_durable(Offset::new(2), Duration::from_secs(60)).unwrap();
    assert_eq!(waited, WaitOutcome::Reached(Offset::new(2)));
}

#[test]
fn a_shorter_interval_counts_for_what_waits_already() {
    let slow = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
    let fast = Durability::Buffered { interval: Duration::from_millis(5), bytes: 1 << 30 };
    let (_dir, log, partition) = one(quiet(), small().durability(slow));
    partition.append_records([Record::new("k", "v")]).unwrap();
    log.topic("t").unwrap().set_config(small().durability(fast)).unwrap();
    let waited = partition.wait_durable(Offset::new(1), Duration::from_secs(60)).unwrap();
    assert_eq!(waited, WaitOutcome::Reached(Offset::new(1)));
}

#[test]
fn the_stable_end_never_shows_a_transaction_that_is_open() {
    const TRANSACTIONS: u64 = 20_000;
    let (_dir, _log, partition) = one(quiet(), TopicConfig::new());
    let build = |n: u64| {
        let mut builder = RecordBatch::builder().producer(7, 0, n as i32).transactional(true);
        builder.push(&Record::new("k", "v"), Timestamp::from_millis(1)).unwrap();
        builder.build().unwrap()
    };
    let abort = end_marker(Marker::Abort, 7, 0, 0, Timestamp::from_millis(1)).unwrap();
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            loop {
                let offsets = partition.offsets();
                // Each transaction has one record and its marker: the record is stable once the marker is there.
                let decided = offsets.last_stable.get() % 2 == 0 || offsets.end > offsets.last_stable;
                assert!(decided, "{offsets:?}");
                if offsets.end.get() == 2 * TRANSACTIONS {
                    return;
                }
            }
        });
        for n in 0..TRANSACTIONS {
            partition.append(&build(n)).unwrap();
            partition.append(&abort).unwrap();
        }
        watcher.join().unwrap();
    });
    let committed = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    assert!(partition.reader_with(Offset::ZERO, committed).unwrap().next_record().unwrap().is_none());
}

#[test]
fn a_log_without_threads_keeps_no_list_of_those_who_were_refused() {
    let config = quiet().sync_threads(0).max_unsynced_bytes(1024).backpressure(Backpressure::Fail);
    let (_dir, log, partition) = one(config, small());
    while partition.append_records([Record::new("k", "v")]).is_ok() {}
    log.maintain(Timestamp::from_millis(0), Budget::default()).unwrap();
    partition.append_records([Record::new("k", "v")]).unwrap();
}

#[test]
fn a_high_watermark_inside_a_batch_does_not_end_a_wait_for_that_batch() {
    let managed = small().watermark(stratalog::WatermarkMode::Managed);
    let (_dir, _log, partition) = one(quiet(), managed);
    partition.append_records(["a", "b", "c"].map(|value| Record::new("k", value))).unwrap();
    let options = FetchOptions { isolation: Isolation::HighWatermark, ..FetchOptions::default() };
    let mut reader = partition.reader_with(Offset::ZERO, options).unwrap();
    partition.set_high_watermark(Offset::new(1)).unwrap();
    assert!(reader.next_record().unwrap().is_none(), "a batch is seen whole or not at all");
    assert_eq!(reader.wait(Duration::from_millis(5)).unwrap(), WaitOutcome::TimedOut(Offset::new(1)));
    partition.set_high_watermark(Offset::new(3)).unwrap();
    assert_eq!(reader.wait(LONG).unwrap(), WaitOutcome::Reached(Offset::new(3)));
    assert_eq!(reader.next_record().unwrap().unwrap().value, Some(&b"a"[..]));
}
