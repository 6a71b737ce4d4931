//! A waker is foreign code. Whatever ends or fulfils a wait calls it without any lock of the log's, so a waker may do all
//! that a log can do: a runtime may run a task where it is woken.

mod common;

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use common::{quiet, small};
use stratalog::{
    Budget, Cleanup, CompactMode, Durability, ErrorKind, Isolation, Log, LogConfig, Offset, Partition, Record, Result,
    Timestamp, TopicConfig, WatermarkMode,
};

/// Far more than any of it takes.
const LONG: Duration = Duration::from_secs(20);
const NEVER: Durability = Durability::Buffered { interval: Duration::from_secs(24 * 3600), bytes: 1 << 40 };
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// What a waker does.
type Action = fn(&Handles);
/// What ends a wait or fulfils it.
type Event = fn(&Log, &Partition) -> Result<()>;
type Wait = Pin<Box<dyn Future<Output = Result<Offset>> + Send>>;

/// What a waker holds.
struct Handles {
    partition: Partition,
    /// Dropped at the latest with the waker.
    log: Mutex<Option<Log>>,
}

impl Handles {
    fn with_log(&self, act: impl FnOnce(Log)) {
        let log = self.log.lock().unwrap().take();
        if let Some(log) = log {
            act(log);
        }
    }
}

struct Acts {
    handles: Handles,
    action: Action,
    called: Sender<()>,
}

impl Wake for Acts {
    fn wake(self: Arc<Self>) {
        (self.action)(&self.handles);
        self.called.send(()).unwrap();
    }
}

/// What may be done with a partition, whatever has become of it: it is done, or refused.
const ACTIONS: &[(&str, Action)] = &[
    ("append", |all| drop(all.partition.append_records([Record::new("k", "woken")]))),
    ("flush", |all| drop(all.partition.flush())),
    ("roll", |all| drop(all.partition.roll())),
    ("truncate", |all| drop(all.partition.truncate(Offset::ZERO))),
    ("reset", |all| drop(all.partition.reset_to(Offset::new(7)))),
    ("retain", |all| drop(all.partition.retain(NOW))),
    ("delete records", |all| drop(all.partition.delete_before(Offset::new(1)))),
    ("compact", |all| drop(all.partition.compact(NOW, CompactMode::Full))),
    ("set the high watermark", |all| drop(all.partition.set_high_watermark(Offset::new(1)))),
    ("configure", |all| all.with_log(|log| log.topic("t").into_iter().for_each(|t| drop(t.set_config(topic()))))),
    ("create a topic", |all| all.with_log(|log| drop(log.create_topic("other", 1, topic())))),
    ("delete the topic", |all| all.with_log(|log| drop(log.delete_topic("t")))),
    ("delete the partition", |all| all.with_log(|log| drop(log.delete_partition("t", 0)))),
    ("maintain", |all| all.with_log(|log| drop(log.maintain(NOW, Budget::default())))),
    ("close", |all| all.with_log(|log| drop(log.close()))),
    ("drop the log", |all| all.with_log(drop)),
];

fn topic() -> TopicConfig {
    let topic = small().durability(NEVER).cleanup(Cleanup::CompactDelete).watermark(WatermarkMode::Managed);
    topic.retention_bytes(Some(1)).retention_age(None)
}

/// Three records that are not durable, and replicated.
fn open(config: LogConfig) -> (tempfile::TempDir, Log, Partition) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config).unwrap();
    let partition = log.create_topic("t", 1, topic()).unwrap().partition(0).unwrap();
    common::append(&partition, 3);
    partition.set_high_watermark(Offset::new(3)).unwrap();
    (dir, log, partition)
}

/// Does the event with a waker in place, once for each action, and fails where one waits for itself.
fn each_action(wait: fn(&Partition) -> Wait, event: Event) {
    each_action_of(true, quiet, wait, event);
}

/// The same of a log without threads: who calls the waker is the one who brings the event about.
fn each_action_without_threads(wait: fn(&Partition) -> Wait, event: Event) {
    each_action_of(true, || quiet().sync_threads(0), wait, event);
}

fn each_action_of(keeps_log: bool, config: fn() -> LogConfig, wait: fn(&Partition) -> Wait, event: Event) {
    for (name, action) in ACTIONS {
        let (dir, log, partition) = open(config());
        let mut future = wait(&partition);
        let (called, is_called) = channel();
        let (done, is_done) = channel();
        let kept = Mutex::new(keeps_log.then(|| log.clone()));
        let handles = Handles { partition: partition.clone(), log: kept };
        let waker = Waker::from(Arc::new(Acts { handles, action: *action, called }));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "{name}");
        drop(waker);
        thread::spawn(move || {
            let _ = event(&log, &partition);
            drop((log, partition));
            done.send(()).unwrap();
        });
        let waits = || -> ! { panic!("{name}: the waker waits for who calls it, or nobody calls it") };
        is_called.recv_timeout(LONG).unwrap_or_else(|_| waits());
        is_done.recv_timeout(LONG).unwrap_or_else(|_| waits());
        drop((future, dir));
    }
}

fn far(partition: &Partition) -> Wait {
    Box::pin(partition.reached(Offset::new(1000)))
}

fn next(partition: &Partition) -> Wait {
    Box::pin(partition.reached(Offset::new(3)))
}

fn durable(partition: &Partition) -> Wait {
    Box::pin(partition.durable(Offset::new(3)))
}

/// The same, of records in a segment that was sealed.
fn durable_before(partition: &Partition) -> Wait {
    partition.roll().unwrap();
    common::append(partition, 1);
    durable(partition)
}

fn replicated(partition: &Partition) -> Wait {
    common::append(partition, 1);
    Box::pin(partition.visible(Offset::new(3), Isolation::HighWatermark))
}

#[test]
fn a_waker_that_an_append_calls_may_do_anything() {
    each_action(next, |_, partition| partition.append_records([Record::new("k", "v")]).map(drop));
}

#[test]
fn a_waker_that_a_sync_calls_may_do_anything() {
    each_action(durable, |_, partition| partition.flush().map(drop));
}

#[test]
fn a_waker_that_a_roll_calls_may_do_anything() {
    each_action(durable, |_, partition| partition.roll());
}

#[test]
fn a_waker_that_a_high_watermark_calls_may_do_anything() {
    each_action(replicated, |_, partition| partition.set_high_watermark(Offset::new(4)));
}

#[test]
fn a_waker_that_a_truncation_calls_may_do_anything() {
    each_action(far, |_, partition| partition.truncate(Offset::new(1)).map(drop));
}

#[test]
fn a_waker_that_a_reset_calls_may_do_anything() {
    each_action(far, |_, partition| partition.reset_to(Offset::new(50)));
}

#[test]
fn a_waker_that_a_deletion_of_records_calls_may_do_anything() {
    each_action_without_threads(durable, |_, partition| partition.delete_before(Offset::new(3)));
}

#[test]
fn a_waker_that_retention_calls_may_do_anything() {
    each_action_without_threads(durable_before, |_, partition| partition.retain(NOW).map(drop));
}

#[test]
fn a_waker_that_maintenance_calls_may_do_anything() {
    each_action_without_threads(durable_before, |log, _| log.maintain(NOW, Budget::default()).map(drop));
}

#[test]
fn a_waker_that_a_compaction_calls_may_do_anything() {
    each_action_without_threads(durable_before, |_, partition| partition.compact(NOW, CompactMode::Full).map(drop));
}

#[test]
fn a_waker_that_a_change_of_configuration_calls_may_do_anything() {
    each_action(replicated, |log, _| log.topic("t").unwrap().set_config(topic().watermark(WatermarkMode::LogEnd)));
}

#[test]
fn a_waker_that_a_deleted_topic_calls_may_do_anything() {
    each_action(far, |log, _| log.delete_topic("t"));
}

#[test]
fn a_waker_that_a_deleted_partition_calls_may_do_anything() {
    each_action(far, |log, _| log.delete_partition("t", 0));
}

#[test]
fn a_waker_that_a_close_calls_may_do_anything() {
    each_action(far, |log, _| log.clone().close());
}

#[test]
fn a_waker_that_the_end_of_a_log_calls_may_do_anything() {
    each_action_of(false, quiet, far, |_, _| Ok(()));
}

#[test]
fn a_truncation_that_cuts_nothing_ends_no_wait() {
    let (_dir, _log, partition) = open(quiet());
    let mut future = far(&partition);
    let (woken, is_woken) = channel();
    let handles = Handles { partition: partition.clone(), log: Mutex::new(None) };
    let waker = Waker::from(Arc::new(Acts { handles, action: |_| (), called: woken }));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(partition.truncate(Offset::new(3)).unwrap(), Offset::new(3));
    assert!(is_woken.try_recv().is_err(), "nothing was taken away");
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
}

#[test]
fn who_waits_for_what_a_close_makes_durable_is_told_so() {
    let (_dir, log, partition) = open(quiet().sync_threads(0));
    let mut future = durable(&partition);
    let mut never = far(&partition);
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending() && never.as_mut().poll(&mut context).is_pending());
    log.close().unwrap();
    assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(end)) if end == Offset::new(3)));
    assert!(matches!(never.as_mut().poll(&mut context), Poll::Ready(Err(error)) if *error.kind() == ErrorKind::Closed));
    let mut late = durable(&partition);
    assert!(matches!(late.as_mut().poll(&mut context), Poll::Ready(Err(error)) if *error.kind() == ErrorKind::Closed));
}

#[cfg(feature = "sim")]
mod faults {
    use super::*;
    use stratalog::sim::{Call, Fault, SimStorage};

    /// Three records in a sealed segment, and one; none is durable. The leader epoch is stored beside them.
    fn open(storage: &SimStorage) -> (Log, Partition) {
        let log = Log::open("/log", quiet().sync_threads(0).storage(Arc::new(storage.clone()))).unwrap();
        let partition = log.create_topic("t", 1, topic()).unwrap().partition(0).unwrap();
        partition.set_leader_epoch(1).unwrap();
        common::append(&partition, 3);
        partition.roll().unwrap();
        common::append(&partition, 1);
        (log, partition)
    }

    /// Polls with a waker that flushes; whether it is called while `event` runs.
    fn is_woken(partition: &Partition, mut wait: Wait, event: impl FnOnce()) -> (bool, Poll<Result<Offset>>) {
        let (called, is_called) = channel();
        let handles = Handles { partition: partition.clone(), log: Mutex::new(None) };
        let waker = Waker::from(Arc::new(Acts { handles, action: |all| drop(all.partition.flush()), called }));
        let mut context = Context::from_waker(&waker);
        assert!(wait.as_mut().poll(&mut context).is_pending());
        event();
        (is_called.try_recv().is_ok(), wait.as_mut().poll(&mut context))
    }

    #[test]
    fn who_waits_for_what_is_durable_is_told_though_the_sync_found_no_room_for_the_rest() {
        let storage = SimStorage::new();
        let (_log, partition) = open(&storage);
        let told = is_woken(&partition, durable(&partition), || {
            storage.set_free_space(Some(0));
            assert_eq!(*partition.flush().unwrap_err().kind(), ErrorKind::DiskFull);
        });
        assert!(matches!(told, (true, Poll::Ready(Ok(end))) if end == Offset::new(3)), "{told:?}");
    }

    #[test]
    fn a_truncation_that_fails_half_way_ends_every_wait() {
        let storage = SimStorage::new();
        let (_log, partition) = open(&storage);
        partition.flush().unwrap();
        let told = is_woken(&partition, far(&partition), || {
            let (call, error) = (Some(Call::Remove), std::io::ErrorKind::Other);
            storage.set_fault(Some(Fault { call, after: 0, error, forever: false }));
            partition.truncate(Offset::new(1)).unwrap_err();
        });
        assert!(matches!(&told, (true, Poll::Ready(Err(error))) if *error.kind() == ErrorKind::Poisoned), "{told:?}");
    }
}
