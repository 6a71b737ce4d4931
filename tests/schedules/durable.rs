//! What is told to be durable, or appended, is in every image that a crash leaves from then on: a thread takes images at
//! any point and opens them.

use std::time::Duration;

use stratalog::sim::SimStorage;
use stratalog::{Backpressure, Durability, ErrorKind, Offset, WaitOutcome, schedules};

use crate::harness::*;

#[test]
fn what_threads_that_share_syncs_were_told_survives_a_power_cut() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small().durability(Durability::Sync));
        let told = Told::default();
        let writers = ["a", "b", "c"].map(|writer| {
            let (partition, told) = (partition.clone(), told.clone());
            spawn(move || {
                for number in 0..2 {
                    let offset = told.append(&partition, &format!("{writer}-{number}"));
                    told.durable(Offset::new(offset + 1));
                    assert!(partition.offsets().durable.get() > offset);
                }
            })
        });
        let watch = told.watch(&storage, 3);
        join(writers);
        join([watch]);
        assert_eq!(read(&partition).len(), 6);
        log.close().unwrap();
        told.check(
            &storage.crash(&stratalog::sim::Crash { order: stratalog::sim::Order::Strict, seed: 0 }),
            &told.now(),
            true,
        );
    });
}

#[test]
fn appended_records_are_durable_in_time_though_segments_are_rolled_meanwhile() {
    schedules(|| {
        let storage = SimStorage::new();
        let interval = Duration::from_secs(2);
        let (log, partition) = open(&storage, small().durability(Durability::Buffered { interval, bytes: 1 << 30 }));
        let told = Told::default();
        let watch = told.watch(&storage, 2);
        let (writes, notes) = (partition.clone(), told.clone());
        let writer = spawn(move || {
            for number in 0..5 {
                notes.append(&writes, &format!("v{number}"));
            }
        });
        for last in [0, 2, 4].map(Offset::new) {
            partition.wait_for(last, LONG).unwrap();
            let outcome = partition.wait_durable(last + 1, LONG).unwrap();
            let WaitOutcome::Reached(durable) = outcome else { panic!("{outcome:?}") };
            told.durable(durable);
        }
        // Time passes at will while threads run; it is not waited for to look at the partitions.
        assert!(schedules::passed() < LONG);
        join([watch, writer]);
        drop(log);
        told.check(&storage.kill(), &told.now(), true);
    });
}

#[test]
fn every_way_to_append_meets_every_other_and_all_get_their_own_offsets() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small());
        let told = Told::default();
        let writers: Vec<_> = (0..4)
            .map(|way| {
                let (partition, told) = (partition.clone(), told.clone());
                spawn(move || {
                    for number in 0..2 {
                        let name = format!("{way}-{number}");
                        append_by(&partition, &told, way, &name);
                    }
                })
            })
            .collect();
        let watch = told.watch(&storage, 1);
        join(writers);
        join([watch]);
        let found = read(&partition);
        assert_eq!(found.len(), 8, "{found:?}");
        told.durable(partition.flush().unwrap());
        told.check(
            &storage.crash(&stratalog::sim::Crash { order: stratalog::sim::Order::Strict, seed: 0 }),
            &told.now(),
            false,
        );
        log.close().unwrap();
    });
}

/// Appends one record in one of four ways, of one of some sizes.
fn append_by(partition: &stratalog::Partition, told: &Told, way: usize, name: &str) {
    told.begin(name);
    let size = [1, 100, 400, 900][draw(4)];
    let value = format!("{name} {}", "-".repeat(size));
    let offset = match way {
        0 => partition.append_records([stratalog::Record::new("k", &value)]).unwrap().base_offset,
        1 => partition.append(&batch("k", &value)).unwrap().base_offset,
        2 => loop {
            match partition.append_if(partition.offsets().end, &batch("k", &value)) {
                Ok(appended) => break appended.base_offset,
                Err(error) => assert!(matches!(error.kind(), ErrorKind::UnexpectedOffset { .. }), "{error}"),
            }
        },
        _ => loop {
            let mut given = batch("k", &value).as_bytes().to_vec();
            stratalog::format::patch_offset(&mut given, partition.offsets().end);
            match partition.append_at(&given) {
                Ok(appended) => break appended.base_offset,
                Err(error) => assert!(matches!(error.kind(), ErrorKind::UnexpectedOffset { .. }), "{error}"),
            }
        },
    };
    told.appended(offset.get(), name);
}

#[test]
fn appends_that_wait_for_room_get_it_from_the_syncing_threads() {
    schedules(|| {
        let storage = SimStorage::new();
        // Room for one record at a time, or for two.
        let room = [400, 900][draw(2)];
        let bound = config(&storage).max_unsynced_bytes(room).backpressure(Backpressure::Wait(LONG));
        let (log, partitions) = open_with(bound, small(), 2);
        let writers = [0, 0, 1].map(|id| {
            let partition = partitions[id].clone();
            spawn(move || append_all(&partition, &["k"], 2, "v"))
        });
        join(writers);
        assert_eq!([0, 1].map(|id| read(&partitions[id]).len()), [4, 2]);
        log.close().unwrap();
    });
}

#[test]
fn a_log_that_is_closed_and_one_that_is_dropped_leave_what_was_told_to_the_next_owner() {
    schedules(|| {
        let storage = SimStorage::new();
        let told = Told::default();
        let watch = told.watch(&storage, 1);
        for round in 0..2 {
            let (log, partition) = open(&storage, small());
            let writers = ["a", "b"].map(|writer| {
                let (partition, told) = (partition.clone(), told.clone());
                spawn(move || {
                    let name = format!("{writer}-{round}");
                    told.begin(&name);
                    match partition.append_records([stratalog::Record::new("k", &value(&name))]) {
                        Ok(appended) => told.appended(appended.base_offset.get(), &name),
                        Err(error) => assert_eq!(*error.kind(), ErrorKind::Closed),
                    }
                })
            });
            if draw(2) == 0 {
                log.close().unwrap();
            } else {
                drop(log);
            }
            join(writers);
        }
        join([watch]);
        told.check(&storage.snapshot(), &told.now(), true);
    });
}
