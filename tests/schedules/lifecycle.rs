//! Topics and configurations that come and go while they are used, and wakers that do anything.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use stratalog::sim::{Crash, Order, SimStorage};
use stratalog::{Durability, ErrorKind, Log, Offset, Partition, Record};

use crate::harness::*;

#[test]
fn a_topic_that_is_deleted_and_made_again_is_another_one_for_whoever_has_it() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small());
        append_all(&partition, &["k"], 2, "old");
        let (writes, reads, deletes) = (partition.clone(), partition.clone(), log.clone());
        let others = [
            spawn(move || {
                for _ in 0..2 {
                    match writes.append_records([Record::new("k", &value("old-9"))]) {
                        Ok(_) => {}
                        Err(error) => assert_eq!(*error.kind(), ErrorKind::Closed),
                    }
                }
            }),
            spawn(move || {
                let mut reader = match reads.reader(Offset::ZERO) {
                    Ok(reader) => reader,
                    Err(error) => return assert_eq!(*error.kind(), ErrorKind::Closed),
                };
                loop {
                    match reader.next_record() {
                        Ok(Some(record)) => assert!(record.value.unwrap().starts_with(b"old"), "of the other topic"),
                        Ok(None) => return,
                        Err(error) => return assert_eq!(*error.kind(), ErrorKind::Closed),
                    }
                }
            }),
            spawn(move || {
                deletes.delete_topic("t").unwrap();
                deletes.create_topic("t", 1, small()).unwrap();
                let again = deletes.partition("t", 0).unwrap();
                append_all(&again, &["k"], 2, "new");
                again.flush().unwrap();
            }),
        ];
        join(others);
        assert_eq!(*partition.flush().unwrap_err().kind(), ErrorKind::Closed);
        let crash = Crash { order: Order::Strict, seed: draw(1 << 20) as u64 };
        let (left, partitions) = open_with(quiet(&storage.crash(&crash)), small(), 1);
        assert_eq!(read(&partitions[0]).into_values().collect::<Vec<_>>(), ["new-0", "new-1"]);
        drop(left);
        log.close().unwrap();
    });
}

#[test]
fn a_topic_is_configured_anew_while_it_is_written_read_and_synced() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small());
        let told = Told::default();
        let configures = log.clone();
        let soon = Durability::Buffered { interval: Duration::from_millis(1), bytes: 1 };
        let others = [
            spawn(move || {
                let topic = configures.topic("t").unwrap();
                let topics = [
                    small().durability(Durability::Sync),
                    small().durability(soon).append_windows(false),
                    small().mapped_reads(false).segment_bytes(2048),
                    small().durability(soon),
                ];
                topics.into_iter().for_each(|config| topic.set_config(config).unwrap());
            }),
            spawn({
                let (partition, told) = (partition.clone(), told.clone());
                move || told.append_all(&partition, "a", 3)
            }),
            told.watch(&storage, 1),
        ];
        told.append_all(&partition, "b", 3);
        join(others);
        assert_eq!(read(&partition).len(), 6);
        partition.wait_durable(Offset::new(6), LONG).unwrap();
        told.durable(partition.offsets().durable);
        assert_eq!(partition.offsets().durable.get(), 6, "by the last configuration at the latest");
        told.check(&storage.crash(&Crash { order: Order::Strict, seed: 0 }), &told.now(), false);
        log.close().unwrap();
    });
}

/// Does something when it is woken.
struct Acts<F>(F);

impl<F: Fn() + Send + Sync> Wake for Acts<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// What a waker does to a log and a partition, which may be anything.
fn act(log: &Log, partition: &Partition) {
    match draw(6) {
        0 => drop(partition.append_records([Record::new("k", &value("woken"))])),
        1 => drop(partition.truncate(Offset::ZERO)),
        2 => drop(partition.flush()),
        3 => drop(log.delete_topic("t")),
        4 => drop(log.clone().close()),
        _ => drop(log.topic("t").map(|topic| topic.set_config(small().durability(Durability::Sync)))),
    }
}

#[test]
fn wakers_that_do_anything_meet_threads_that_do_anything() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small());
        append(&partition, "k", "v");
        let mut waits = Vec::new();
        for end in [1, 2] {
            let (log, handle) = (log.clone(), partition.clone());
            let waker = Waker::from(Arc::new(Acts(move || act(&log, &handle))));
            let mut reached = Box::pin(partition.reached(Offset::new(end)));
            let mut durable = Box::pin(partition.durable(Offset::new(end)));
            let mut context = Context::from_waker(&waker);
            let _ = (reached.as_mut().poll(&mut context), durable.as_mut().poll(&mut context));
            waits.push((reached, durable));
        }
        let others = [0, 1].map(|_| {
            let (log, partition) = (log.clone(), partition.clone());
            spawn(move || act(&log, &partition))
        });
        let _ = partition.append_records([Record::new("k", &value("v"))]);
        join(others);
        drop(waits);
        // Another may be closing it.
        let _ = log.close();
        until(|| partition.flush().is_err_and(|error| *error.kind() == ErrorKind::Closed));
        let mut late = pin!(partition.reached(Offset::new(0)));
        assert!(late.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    });
}
