//! What the threads that look after partitions do, beside appends, reads and each other.

use std::collections::BTreeMap;

use stratalog::sim::SimStorage;
use stratalog::{CompactMode, Offset};

use crate::harness::*;

/// The latest value of each key.
fn latest(partition: &stratalog::Partition) -> BTreeMap<Vec<u8>, (u64, String)> {
    let mut latest = BTreeMap::new();
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        let value = String::from_utf8_lossy(record.value.unwrap()).into_owned();
        let name = value.split(' ').next().unwrap().to_owned();
        latest.insert(record.key.unwrap().to_vec(), (record.offset.get(), name));
    }
    latest
}

#[test]
fn readers_of_a_log_that_is_compacted_end_with_the_latest_values() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), compacted());
        let keys = ["a", "b"];
        append_all(&partition, &keys, 6, "old");
        let (compacts, appends) = (partition.clone(), partition.clone());
        let others = [
            spawn(move || compacts.compact(NOW, CompactMode::Full).unwrap()),
            spawn(move || append_all(&appends, &keys, 4, "new")),
        ];
        // Whatever is removed meanwhile, the last of the old values is there, or a newer one.
        let seen = latest(&partition);
        assert!(seen.len() == 2 && seen.values().all(|(offset, _)| *offset >= 4), "{seen:?}");
        join(others);
        partition.compact(NOW, CompactMode::Full).unwrap();
        let left = read(&partition);
        assert!(left[&8] == "new-2" && left[&9] == "new-3", "{left:?}");
        assert_eq!(partition.verify().unwrap().findings, []);
        log.close().unwrap();
    });
}

#[test]
fn the_threads_of_a_log_compact_what_is_due_while_it_is_read_and_written() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, compacted());
        append_all(&partition, &["a", "b"], 6, "old");
        partition.roll().unwrap();
        let writes = partition.clone();
        let writer = spawn(move || append_all(&writes, &["a", "b"], 2, "new"));
        let images = storage.clone();
        let watch = spawn(move || {
            for _ in 0..2 {
                let (left, partitions) = open_with(quiet(&images.kill()), compacted(), 1);
                let seen = latest(&partitions[0]);
                assert!(seen.len() == 2 && seen.values().all(|(offset, _)| *offset >= 4), "{seen:?}");
                assert_eq!(partitions[0].verify().unwrap().findings, []);
                drop(left);
            }
        });
        for _ in 0..2 {
            tick();
            let seen = latest(&partition);
            assert!(seen.len() == 2 && seen.values().all(|(offset, _)| *offset >= 4), "{seen:?}");
        }
        join([writer, watch]);
        until(|| read(&partition).len() < 8);
        // Readers see what a pass has done before its report is there.
        until(|| partition.stats().compaction.last_pass.is_some());
        assert!(partition.stats().compaction.failed.is_none());
        assert_eq!(partition.verify().unwrap().findings, []);
        log.close().unwrap();
    });
}

#[test]
fn while_maintenance_is_paused_no_segment_is_replaced() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, compacted());
        append_all(&partition, &["a"], 6, "v");
        partition.roll().unwrap();
        let pauses = partition.clone();
        let files = storage.clone();
        let paused = spawn(move || {
            let guard = pauses.pause_maintenance();
            let before: Vec<_> = files.files();
            tick();
            let gone = before.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
            let now = files.files();
            for (path, _) in gone {
                assert!(now.iter().any(|(other, _)| other == path), "{path:?} is gone");
            }
            drop(guard);
        });
        tick();
        join([paused]);
        until(|| read(&partition).into_values().eq(["v-5"]));
        log.close().unwrap();
    });
}

#[test]
fn retention_and_deletions_of_records_meet_readers_that_are_told_where_the_log_begins() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small().retention_bytes(Some(900)));
        append_all(&partition, &["k"], 8, "v");
        let (deletes, writes) = (partition.clone(), partition.clone());
        let others = [
            spawn(move || deletes.delete_before(Offset::new(3)).unwrap()),
            spawn(move || append_all(&writes, &["k"], 2, "w")),
        ];
        for _ in 0..2 {
            tick();
            let start = partition.offsets().start.get();
            let seen = read(&partition);
            // Where it begins moves on; what is there has no gap.
            if let (Some((first, _)), Some((last, _))) = (seen.first_key_value(), seen.last_key_value()) {
                assert!(*first >= start && seen.len() as u64 == last - first + 1, "{seen:?} from {start}");
            }
        }
        join(others);
        assert_eq!(partition.offsets().end.get(), 10);
        assert!(partition.offsets().start.get() >= 3);
        assert_eq!(partition.verify().unwrap().findings, []);
        log.close().unwrap();
    });
}

#[test]
fn files_that_are_closed_for_others_are_opened_again_and_nothing_is_missing() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partitions) = open_with(config(&storage).max_open_files(Some(1)), small(), 2);
        let writers = [0, 1].map(|id| {
            let partition = partitions[id].clone();
            spawn(move || {
                append_all(&partition, &["k"], 3, "v");
                assert_eq!(read(&partition).len(), 3);
            })
        });
        let reads = partitions[1].clone();
        let reader = spawn(move || {
            let seen = read(&reads);
            assert!(seen.keys().copied().eq(0..seen.len() as u64), "{seen:?}");
            reads.flush().unwrap();
        });
        join(writers);
        join([reader]);
        log.close().unwrap();
        let (log, partitions) = open_with(quiet(&storage), small(), 2);
        assert!(partitions.iter().all(|partition| read(partition).len() == 3));
        drop(log);
    });
}
