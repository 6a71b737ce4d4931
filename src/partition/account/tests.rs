//! An account beside the log's queue, its account and the waiters, in every interleaving.

use loom::sync::Mutex;
use loom::thread;

use super::*;
use crate::config::Backpressure;
use crate::error::ErrorKind;
use crate::partition::health::Health;
use crate::partition::resources::{SyncQueue, SyncTarget};
use crate::partition::waiters::Tail;
use crate::sync::tests::explore;
use crate::sync::{Arc, Weak};
use std::time::Duration;

/// Such a time never passes in a model.
const HOUR: Duration = Duration::from_secs(3600);

/// A partition of records of one byte.
struct Partition {
    account: Account,
    health: Health,
    end: AtomicU64,
    durable: Mutex<u64>,
    log: Arc<Budget>,
    me: Weak<Partition>,
}

struct Budget {
    unsynced: Unsynced,
    queue: SyncQueue,
}

impl Partition {
    fn new(limit: u64) -> Arc<Partition> {
        let unsynced = Unsynced::new(limit, Backpressure::Wait(HOUR));
        Partition::of(Arc::new(Budget { unsynced, queue: SyncQueue::default() }))
    }

    fn of(log: Arc<Budget>) -> Arc<Partition> {
        Arc::new_cyclic(|me| Partition {
            account: Account::new(),
            health: Health::default(),
            end: AtomicU64::new(0),
            durable: Mutex::new(0),
            log,
            me: Weak::clone(me),
        })
    }

    /// An append of one byte, by the thread that has the appender; urgent where `bound` bytes wait.
    fn append(&self, end: u64, bound: u64, delay: Duration) {
        self.end.store(end, Ordering::Release);
        self.log.unsynced.add(1);
        let unsynced = self.account.accept(1);
        let me: Weak<dyn SyncTarget> = self.me.clone();
        if unsynced >= bound && unsynced - 1 < bound {
            if self.account.enqueue_urgent() {
                self.log.queue.push_urgent(me);
            }
        } else if self.account.enqueue() {
            self.log.queue.push(me, delay);
        }
        if self.health.is_unwell() {
            self.account.give_up(&self.log.unsynced);
        }
    }

    fn fail(&self) {
        self.health.fail(ErrorKind::Poisoned.into());
        self.account.give_up(&self.log.unsynced);
    }

    fn assert_all_is_counted_down(&self) {
        assert_eq!((self.account.unsynced(), self.log.unsynced.bytes()), (0, 0));
    }
}

impl SyncTarget for Partition {
    fn sync_now(&self) {
        self.account.unqueue();
        let target = self.end.load(Ordering::Acquire);
        let mut durable = self.durable.lock().unwrap();
        let is_durable = |durable: u64| durable >= self.end.load(Ordering::Acquire);
        if *durable >= target {
            self.account.settle_if(&self.log.unsynced, || is_durable(*durable));
            return;
        }
        let covered = self.account.covered();
        let end = self.end.load(Ordering::Acquire);
        assert!(covered <= end, "what is counted can be read");
        *durable = end;
        self.account.settle(&self.log.unsynced, covered);
    }
}

/// Appends while a syncing thread takes partitions from the queue; what is left in the queue is synced afterwards.
fn model(name: &str, bound: u64) {
    explore(name, None, move |seen| {
        let partition = Partition::new(u64::MAX);
        let syncing = {
            let log = Arc::clone(&partition.log);
            thread::spawn(move || {
                let mut synced = 0;
                for _ in 0..2 {
                    if let Some(partition) = log.queue.take_due() {
                        partition.sync_now();
                        synced += 1;
                    }
                }
                synced
            })
        };
        (1..=2).for_each(|end| partition.append(end, bound, Duration::ZERO));
        if syncing.join().unwrap() > 0 {
            seen.note();
        }
        while let Some(partition) = partition.log.queue.take_due() {
            partition.sync_now();
        }
        assert_eq!(*partition.durable.lock().unwrap(), 2, "what was appended is in the queue, or was synced");
        partition.assert_all_is_counted_down();
    });
}

#[test]
fn models_an_append_is_queued_or_synced() {
    model("an append beside a sync", u64::MAX);
}

#[test]
fn models_an_append_that_reaches_the_bound_is_queued_or_synced() {
    model("an append that reaches the bound beside a sync", 2);
}

#[test]
fn models_an_append_beside_a_failure_is_given_up() {
    explore("an append beside a failed sync", None, |seen| {
        let partition = Partition::new(u64::MAX);
        let failing = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || partition.fail())
        };
        (1..=2).for_each(|end| partition.append(end, u64::MAX, HOUR));
        if partition.health.is_unwell() {
            // The reason comes before the flag.
            assert!(partition.health.check().is_err());
            seen.note();
        }
        failing.join().unwrap();
        partition.assert_all_is_counted_down();
    });
}

/// A second append has no room before the first one is durable, which has an hour's time: it has to hurry the thread that
/// syncs. Loom ends the model where somebody waits for ever.
#[test]
fn models_an_append_that_waits_for_room_is_woken() {
    explore("an append that waits for room", Some(5), |seen| {
        let partition = Partition::new(1);
        let syncing = {
            let log = Arc::clone(&partition.log);
            thread::spawn(move || {
                while let Some(partition) = log.queue.next() {
                    partition.sync_now();
                }
            })
        };
        for end in 1..=2 {
            partition.log.unsynced.admit(1, &partition.log.queue).unwrap();
            partition.append(end, u64::MAX, HOUR);
        }
        if partition.log.unsynced.waits() > 0 {
            seen.note();
        }
        partition.log.unsynced.admit(1, &partition.log.queue).unwrap();
        partition.log.queue.close();
        syncing.join().unwrap();
        assert_eq!(*partition.durable.lock().unwrap(), 2);
        partition.assert_all_is_counted_down();
    });
}

/// The room is taken by a partition that is perhaps not in the queue yet, and then has an hour's time.
#[test]
fn models_an_append_that_waits_for_another_partition_is_woken() {
    explore("an append that waits for another partition", Some(3), |seen| {
        let partition = Partition::new(1);
        let log = Arc::clone(&partition.log);
        let syncing = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                while let Some(partition) = log.queue.next() {
                    partition.sync_now();
                }
            })
        };
        let other = Partition::of(Arc::clone(&log));
        let appending = {
            let other = Arc::clone(&other);
            thread::spawn(move || other.append(1, u64::MAX, HOUR))
        };
        log.unsynced.admit(1, &log.queue).unwrap();
        if log.unsynced.waits() > 0 {
            seen.note();
        }
        appending.join().unwrap();
        log.unsynced.admit(1, &log.queue).unwrap();
        log.queue.close();
        syncing.join().unwrap();
        other.assert_all_is_counted_down();
    });
}

/// The count's fence is the one between the end and the look at the waiters.
#[test]
fn models_a_waiter_is_seen_behind_the_count() {
    explore("a waiter beside an append", None, |seen| {
        let partition = Partition::new(u64::MAX);
        let tail = Arc::new(Tail::default());
        let appending = {
            let (partition, tail) = (Arc::clone(&partition), Arc::clone(&tail));
            thread::spawn(move || {
                partition.end.store(1, Ordering::Release);
                partition.account.accept(1);
                tail.notify_fenced(1);
            })
        };
        tail.wait(1, || Ok(partition.end.load(Ordering::Acquire)), None).unwrap();
        seen.note();
        appending.join().unwrap();
    });
}
