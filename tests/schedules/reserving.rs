//! Space that is reserved ahead: the appender and the preallocating thread in one file, with everything that cuts it,
//! closes it, or has bytes of it. The storage reports by itself where zeros meet a write, or a held byte changes.

use stratalog::sim::SimStorage;
use stratalog::{Durability, FetchOptions, Offset, Partition, Record, TopicConfig};

use crate::harness::*;

/// One segment, or a few.
fn topic(segment_bytes: u64) -> TopicConfig {
    TopicConfig::new().segment_bytes(segment_bytes).index_interval_bytes(64).durability(NEVER)
}

/// A record of this size, which says at which place it is.
fn put(partition: &Partition, number: usize, size: usize) {
    let value = format!("{number}-{}", "x".repeat(size));
    partition.append_records([Record::new("k", &value)]).unwrap();
}

/// The records that were put, in order.
fn check(partition: &Partition, sizes: &[usize]) {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    for (number, size) in sizes.iter().enumerate() {
        let record = reader.next_record().unwrap().expect("it was appended");
        let value = std::str::from_utf8(record.value.unwrap()).unwrap();
        assert!(value.starts_with(&format!("{number}-")) && value.len() >= *size, "record {number}");
    }
    assert!(reader.next_record().unwrap().is_none());
}

fn none(storage: &SimStorage) {
    assert_eq!(storage.take_violations(), Vec::<String>::new());
}

#[test]
fn writes_of_every_size_meet_the_thread_that_reserves_space_for_them() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, topic(1 << 20));
        // Within a window, into the next one, over both that are ordered, and beyond all zeros.
        let choices = [1, 90, 200, 420, 700, 1300, 2000, 2800];
        let sizes: Vec<usize> = (0..9).map(|_| choices[draw(choices.len())]).collect();
        sizes.iter().enumerate().for_each(|(number, size)| put(&partition, number, *size));
        check(&partition, &sizes);
        none(&storage);
        let (left, partitions) = open_with(quiet(&storage.kill()), topic(1 << 20), 1);
        check(&partitions[0], &sizes);
        drop(left);
        log.close().unwrap();
        none(&storage);
    });
}

#[test]
fn rolls_cuts_and_a_change_of_configuration_meet_the_space_that_is_ordered() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, topic(4096));
        (0..4).for_each(|number| put(&partition, number, 300));
        let topic = log.topic("t").unwrap();
        let other = match draw(4) {
            0 => spawn({
                let partition = partition.clone();
                move || partition.roll().unwrap()
            }),
            1 => spawn(move || {
                let windows = draw(2) == 0;
                topic.set_config(topic.config().unwrap().append_windows(windows)).unwrap();
            }),
            2 => spawn({
                let partition = partition.clone();
                move || partition.flush().unwrap()
            }),
            _ => spawn(move || {
                topic.set_config(topic.config().unwrap().durability(Durability::Sync)).unwrap();
            }),
        };
        (4..8).for_each(|number| put(&partition, number, [100, 900][draw(2)]));
        join([other]);
        partition.truncate(Offset::new(6)).unwrap();
        (6..9).for_each(|number| put(&partition, number, 250));
        check(&partition, &[1; 9]);
        none(&storage);
        log.close().unwrap();
        none(&storage);
    });
}

#[test]
fn bytes_in_hand_stay_while_space_is_reserved_and_the_log_is_cut_closed_and_opened() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, topic(1 << 20));
        (0..6).for_each(|number| put(&partition, number, 250));
        let (reads, cuts) = (partition.clone(), partition.clone());
        let held = shuttle::thread::spawn(move || {
            // The log may be shorter meanwhile.
            let fetched = reads.fetch(Offset::ZERO, FetchOptions::default()).unwrap();
            let bytes: Vec<u8> = fetched.chunks().flatten().copied().collect();
            (fetched, bytes)
        });
        let cut = spawn(move || cuts.truncate(Offset::new(2)).unwrap());
        let (fetched, bytes) = held.join().unwrap();
        join([cut]);
        (0..3).for_each(|number| put(&partition, number, 420));
        drop(partition);
        if draw(2) == 0 {
            log.close().unwrap()
        } else {
            drop(log)
        }
        let (log, partition) = open(&storage, topic(1 << 20));
        partition.truncate(Offset::new(1)).unwrap();
        (1..4).for_each(|number| put(&partition, number, 700));
        assert!(fetched.chunks().flatten().eq(&bytes), "bytes that somebody has have changed");
        check(&partition, &[1; 4]);
        none(&storage);
        drop(fetched);
        log.close().unwrap();
    });
}
