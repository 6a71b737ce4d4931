//! Faults of the storage while threads are at work.

use std::io;
use std::time::Duration;

use stratalog::sim::{Call, Crash, Fault, Order, SimStorage};
use stratalog::{Durability, Error, ErrorKind, Offset, Record, WaitOutcome};

use crate::harness::*;

#[test]
fn a_sync_that_fails_is_told_to_all_and_what_was_durable_before_stays() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small().durability(Durability::Sync));
        let told = Told::default();
        let offset = told.append(&partition, "first");
        told.durable(Offset::new(offset + 1));
        storage.set_fault(Some(Fault {
            call: Some(Call::Sync),
            after: draw(3) as u64,
            error: io::ErrorKind::Other,
            forever: false,
        }));
        let waits = partition.clone();
        let waiting = spawn(move || match waits.wait_for(Offset::new(99), LONG) {
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Closed), "{error}"),
            Ok(outcome) => panic!("{outcome:?}"),
        });
        let writers = ["a", "b"].map(|writer| {
            let (partition, told) = (partition.clone(), told.clone());
            spawn(move || {
                for number in 0..3 {
                    let name = format!("{writer}-{number}");
                    told.begin(&name);
                    match partition.append_records([Record::new("k", &value(&name))]) {
                        Ok(appended) => {
                            told.appended(appended.base_offset.get(), &name);
                            told.durable(appended.next_offset);
                        }
                        // Who has synced is told by the error of the sync itself.
                        Err(error) => assert!(is_failed_sync(&error), "{error}"),
                    }
                }
            })
        });
        let watch = told.watch(&storage, 1);
        join(writers);
        join([watch]);
        drop(log);
        join([waiting]);
        told.check(&storage.crash(&Crash { order: Order::Strict, seed: 0 }), &told.now(), false);
    });
}

fn is_failed_sync(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Io(io::ErrorKind::Other))
}

#[test]
fn a_disk_that_was_full_is_synced_once_it_has_room_again() {
    schedules(|| {
        let storage = SimStorage::new();
        let soon = Durability::Buffered { interval: Duration::from_millis(10), bytes: 1 << 30 };
        let (log, partition) = open(&storage, small().durability(soon));
        // The file of leader epochs is stored with the next roll, and finds no room.
        partition.set_leader_epoch(1).unwrap();
        append(&partition, "k", "v");
        storage.set_fault(Some(Fault {
            call: Some(Call::Create),
            after: 1,
            error: io::ErrorKind::StorageFull,
            forever: true,
        }));
        partition.roll().unwrap();
        let (writes, frees) = (partition.clone(), storage.clone());
        let others = [
            spawn(move || append(&writes, "k", "w")),
            spawn(move || {
                stratalog::schedules::sleep(Duration::from_secs(3));
                frees.set_fault(None);
            }),
        ];
        let end = Offset::new(2);
        assert!(matches!(partition.wait_durable(end, LONG).unwrap(), WaitOutcome::Reached(_)));
        join(others);
        log.close().unwrap();
    });
}
