//! Truncations and new starts beside everything else.

use stratalog::sim::{Crash, Order, SimStorage};
use stratalog::{ErrorKind, FetchOptions, Offset, WaitOutcome};

use crate::harness::*;

#[test]
fn appends_deletions_truncations_and_syncs_meet_and_nothing_is_lost() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small());
        append_all(&partition, &["k"], 6, "first");
        let (deletes, flushes, cuts) = (partition.clone(), partition.clone(), partition.clone());
        let others = [
            spawn(move || {
                deletes.delete_before(Offset::new(3)).unwrap();
                deletes.retain(NOW).unwrap();
            }),
            spawn(move || flushes.flush().unwrap()),
            spawn(move || cuts.truncate(Offset::new(5)).unwrap()),
        ];
        let own = append(&partition, "k", "own");
        let seen = read(&partition);
        join(others);
        let offsets = partition.offsets();
        assert_eq!(offsets.start.get(), 3);
        assert!(seen.keys().all(|offset| *offset < 7));
        // It was appended behind the cut, or cut off with the rest.
        let expected = if own == 5 { 6 } else { 5 };
        assert_eq!(offsets.end.get(), expected);
        assert!(read(&partition).keys().copied().eq(3..expected));
        partition.flush().unwrap();
        let (left, partitions) = open_with(quiet(&storage.crash(&Crash { order: Order::Strict, seed: 0 })), small(), 1);
        assert!(read(&partitions[0]).keys().copied().eq(3..expected));
        drop(left);
        log.close().unwrap();
    });
}

#[test]
fn bytes_that_were_fetched_stay_as_they_are_through_truncation_new_start_close_and_reopening() {
    schedules(|| {
        let storage = SimStorage::new();
        let (mut log, mut partition) = open(&storage, small());
        append_all(&partition, &["k"], 4, "old");
        let fetched = partition.fetch(Offset::ZERO, FetchOptions::default()).unwrap();
        let copies: Vec<Vec<u8>> = fetched.chunks().map(|chunk| chunk.to_vec()).collect();
        let (cuts, writes) = (partition.clone(), partition.clone());
        let others = [
            spawn(move || cuts.truncate(Offset::new(2)).unwrap()),
            spawn(move || append_all(&writes, &["k"], 2, "new")),
        ];
        join(others);
        if draw(2) == 0 {
            log.close().unwrap();
            (log, partition) = open(&storage, small());
        }
        if draw(2) == 0 {
            partition.reset_to(Offset::new(1)).unwrap();
        }
        append(&partition, "k", "last");
        assert!(fetched.chunks().zip(&copies).all(|(chunk, copy)| chunk[..] == copy[..]), "they have changed");
        assert!(read(&partition).values().any(|name| name == "last"));
        log.close().unwrap();
    });
}

#[test]
fn who_waits_or_reads_above_a_cut_is_told_and_goes_on_below_it() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small());
        append_all(&partition, &["k"], 4, "old");
        let (waits, cuts) = (partition.clone(), partition.clone());
        let others = [
            spawn(move || match waits.wait_for(Offset::new(6), LONG) {
                Err(error) => assert_eq!(*error.kind(), ErrorKind::Truncated),
                Ok(WaitOutcome::Reached(end)) => assert!(end.get() >= 7),
                Ok(outcome) => panic!("{outcome:?}"),
            }),
            spawn(move || {
                if draw(2) == 0 {
                    cuts.truncate(Offset::new(2)).unwrap();
                } else {
                    cuts.reset_to(Offset::new(2)).unwrap();
                }
                append_all(&cuts, &["k"], 6, "new");
            }),
        ];
        let mut reader = match partition.reader(Offset::ZERO) {
            Ok(reader) => reader,
            Err(_) => partition.reader(Offset::new(2)).unwrap(),
        };
        let mut last = None;
        while last.as_deref() != Some("new-5") {
            match reader.next_record() {
                Ok(Some(record)) => {
                    let value = std::str::from_utf8(record.value.unwrap()).unwrap();
                    let name = value.split(' ').next().unwrap().to_owned();
                    let expected = match name.split_once('-').unwrap() {
                        ("old", number) => number.parse::<u64>().unwrap(),
                        (_, number) => number.parse::<u64>().unwrap() + 2,
                    };
                    assert_eq!(record.offset.get(), expected, "{name}");
                    last = Some(name);
                }
                Ok(None) => match reader.wait(LONG) {
                    Ok(outcome) => assert!(matches!(outcome, WaitOutcome::Reached(_)), "{outcome:?}"),
                    Err(error) => {
                        assert_eq!(*error.kind(), ErrorKind::Truncated);
                        reader.seek(Offset::new(2));
                    }
                },
                Err(error) => {
                    assert!(
                        matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. } | ErrorKind::Truncated),
                        "{error}"
                    );
                    reader.seek(Offset::new(2));
                }
            }
        }
        drop(reader);
        join(others);
        log.close().unwrap();
    });
}

#[test]
fn a_truncation_that_was_told_is_in_every_image_of_a_crash() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small());
        append_all(&partition, &["k"], 5, "old");
        let told = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (cuts, is_told) = (partition.clone(), told.clone());
        let others = [
            spawn(move || {
                cuts.truncate(Offset::new(2)).unwrap();
                is_told.store(true, std::sync::atomic::Ordering::SeqCst);
                append_all(&cuts, &["k"], 2, "new");
                cuts.flush().unwrap();
            }),
            spawn({
                let (storage, told) = (storage.clone(), told.clone());
                move || {
                    for _ in 0..2 {
                        let is_told = told.load(std::sync::atomic::Ordering::SeqCst);
                        let (left, partitions) = open_with(quiet(&image(&storage)), small(), 1);
                        let found = read(&partitions[0]);
                        let old = found.iter().filter(|(offset, name)| **offset >= 2 && name.starts_with("old"));
                        assert!(!is_told || old.count() == 0, "{found:?}");
                        for (offset, name) in &found {
                            let new = format!("new-{}", offset.saturating_sub(2));
                            assert!(*name == format!("old-{offset}") || *offset >= 2 && *name == new, "{found:?}");
                        }
                        drop(left);
                    }
                }
            }),
        ];
        join(others);
        let left: Vec<String> = read(&partition).into_values().collect();
        assert_eq!(left, ["old-0", "old-1", "new-0", "new-1"]);
        log.close().unwrap();
    });
}

#[test]
fn a_start_that_was_told_is_in_every_image_of_a_crash() {
    schedules(|| {
        let storage = SimStorage::new();
        let (log, partition) = open(&storage, small());
        append_all(&partition, &["k"], 6, "old");
        let told = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (deletes, is_told, writes) = (partition.clone(), told.clone(), partition.clone());
        let others = [
            spawn(move || {
                for start in [2, 5] {
                    deletes.delete_before(Offset::new(start)).unwrap();
                    is_told.store(start, std::sync::atomic::Ordering::SeqCst);
                    deletes.retain(NOW).unwrap();
                }
            }),
            // Rolls and syncs write `state` as well.
            spawn(move || {
                append_all(&writes, &["k"], 3, "new");
                writes.flush().unwrap();
            }),
            spawn({
                let (storage, told) = (storage.clone(), told.clone());
                move || {
                    for _ in 0..3 {
                        let told = told.load(std::sync::atomic::Ordering::SeqCst);
                        let (left, partitions) = open_with(quiet(&image(&storage)), small(), 1);
                        assert!(partitions[0].stats().error.is_none(), "{:?}", partitions[0].stats().error);
                        let start = partitions[0].offsets().start.get();
                        assert!(start >= told, "{start} instead of {told}");
                        let found = read(&partitions[0]);
                        assert!(found.keys().copied().eq(start..start + found.len() as u64), "{found:?}");
                        drop(left);
                    }
                }
            }),
        ];
        join(others);
        assert!(read(&partition).keys().copied().eq(5..9));
        log.close().unwrap();
    });
}
