//! Waiting: threads, futures, many partitions at once.

use shuttle::future::block_on;
use stratalog::sim::SimStorage;
use stratalog::{Durability, ErrorKind, FetchOptions, Isolation, Offset, WaitOutcome, WatermarkMode};

use crate::harness::*;

#[test]
fn who_waits_for_a_record_is_woken_and_finds_it() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small());
        let writers = [0, 1].map(|_| {
            let partition = partition.clone();
            spawn(move || append_all(&partition, &["k"], 2, "v"))
        });
        for end in [1, 4] {
            let outcome = partition.wait_for(Offset::new(end - 1), LONG).unwrap();
            assert!(matches!(outcome, WaitOutcome::Reached(reached) if reached.get() >= end), "{outcome:?}");
            assert!(read(&partition).len() as u64 >= end);
        }
        join(writers);
        log.close().unwrap();
    });
}

#[test]
fn who_tails_with_a_reader_sleeps_through_no_record_though_segments_are_rolled() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small());
        let (appends, rolls) = (partition.clone(), partition.clone());
        let others = [spawn(move || append_all(&appends, &["k"], 3, "v")), spawn(move || rolls.roll().unwrap())];
        let mut reader = partition.reader(Offset::ZERO).unwrap();
        for next in 0..3 {
            while reader.next_record().unwrap().is_none() {
                assert!(matches!(reader.wait(LONG).unwrap(), WaitOutcome::Reached(_)));
            }
            assert_eq!(reader.offset().get(), next + 1);
        }
        join(others);
        log.close().unwrap();
    });
}

#[test]
fn futures_resolve_for_what_is_appended_replicated_and_durable() {
    schedules(|| {
        let soon = Durability::Buffered { interval: std::time::Duration::from_secs(1), bytes: 1 << 30 };
        let topic = small().watermark(WatermarkMode::Managed).durability(soon);
        let (log, partition) = open(&SimStorage::new(), topic);
        let last = Offset::new(2);
        let (reached, durable) = (partition.reached(last), partition.durable(last + 1));
        let visible = partition.visible(last, Isolation::HighWatermark);
        let follower = partition.clone();
        let waits = [
            spawn(move || assert!(block_on(reached).unwrap() > last)),
            spawn(move || assert!(block_on(durable).unwrap() > last)),
            spawn(move || assert!(block_on(visible).unwrap() > last)),
            spawn(move || {
                for end in 1..=3 {
                    block_on(follower.reached(Offset::new(end - 1))).unwrap();
                    follower.set_high_watermark(Offset::new(end)).unwrap();
                }
            }),
        ];
        append_all(&partition, &["k"], 3, "v");
        join(waits);
        log.close().unwrap();
    });
}

#[test]
fn a_wait_for_many_partitions_ends_with_the_first_and_with_the_end_of_one() {
    schedules(|| {
        let (log, partitions) = open_with(config(&SimStorage::new()), small(), 3);
        let what: Vec<_> = partitions.iter().map(|partition| (partition.clone(), Offset::ZERO)).collect();
        let writers = [0, 2].map(|id| {
            let partition = partitions[id].clone();
            spawn(move || append(&partition, "k", "v"))
        });
        let ready = log.wait_any(&what, LONG).unwrap();
        assert!(!ready.is_empty() && ready.iter().all(|at| [0, 2].contains(at)), "{ready:?}");
        join(writers);
        let deletes = log.clone();
        let deletion = spawn(move || deletes.delete_partition("t", 1).unwrap());
        let ended = log.wait_any(&what[1..2], LONG).unwrap_err();
        assert_eq!(*ended.kind(), ErrorKind::Closed);
        join([deletion]);
        log.close().unwrap();
    });
}

#[test]
fn closing_or_dropping_the_log_ends_all_that_waits_and_all_that_comes_later() {
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small());
        append(&partition, "k", "v");
        let far = Offset::new(9);
        let reader = partition.reader(Offset::new(1)).unwrap();
        let (waits, future) = (partition.clone(), partition.durable(far));
        let kind = |ended: stratalog::Error| assert_eq!(*ended.kind(), ErrorKind::Closed);
        let waiting = [
            spawn(move || kind(waits.wait_for(far, LONG).unwrap_err())),
            spawn(move || kind(reader.wait(LONG).unwrap_err())),
            spawn(move || kind(block_on(future).unwrap_err())),
        ];
        let durable = partition.clone();
        let told = spawn(move || match durable.wait_durable(Offset::new(1), LONG) {
            Ok(WaitOutcome::Reached(end)) => assert_eq!(end.get(), 1),
            ended => kind(ended.unwrap_err()),
        });
        if draw(2) == 0 {
            log.close().unwrap();
        } else {
            drop(log);
        }
        join(waiting);
        join([told]);
        kind(partition.wait_for(far, LONG).unwrap_err());
    });
}

#[test]
fn who_reads_what_is_committed_sees_it_all_and_nothing_that_is_undecided() {
    use stratalog::format::{Marker, end_marker};
    use stratalog::{Record, RecordBatch};
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small().watermark(WatermarkMode::Managed));
        let (writes, replicates) = (partition.clone(), partition.clone());
        let others = [
            spawn(move || {
                for (number, marker) in [Marker::Commit, Marker::Abort, Marker::Commit].into_iter().enumerate() {
                    let mut builder = RecordBatch::builder().producer(7, 0, number as i32).transactional(true);
                    builder.push(&Record::new("k", &value(&format!("v{number}"))), NOW).unwrap();
                    writes.append(&builder.build().unwrap()).unwrap();
                    writes.append(&end_marker(marker, 7, 0, 0, NOW).unwrap()).unwrap();
                }
            }),
            spawn(move || {
                for end in 1..=6 {
                    replicates.wait_for(Offset::new(end - 1), LONG).unwrap();
                    replicates.set_high_watermark(Offset::new(end)).unwrap();
                    // Set back, it may leave undecided what was decided; it has been seen by then, or is not seen yet.
                    if draw(3) == 0 {
                        replicates.set_high_watermark(Offset::new(end - 1)).unwrap();
                        replicates.set_high_watermark(Offset::new(end)).unwrap();
                    }
                }
            }),
        ];
        let committed = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
        let mut reader = partition.reader_with(Offset::ZERO, committed).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match reader.next_record().unwrap() {
                Some(record) => seen.push(record.offset.get()),
                None => drop(reader.wait(LONG).unwrap()),
            }
        }
        assert_eq!(seen, [0, 4], "the first and the third transaction");
        join(others);
        log.close().unwrap();
    });
}

#[test]
fn a_high_watermark_that_is_set_back_shows_nothing_that_it_leaves_undecided() {
    use stratalog::format::{Marker, end_marker};
    use stratalog::{Record, RecordBatch};
    schedules(|| {
        let (log, partition) = open(&SimStorage::new(), small().watermark(WatermarkMode::Managed));
        let mut builder = RecordBatch::builder().producer(7, 0, 0).transactional(true);
        builder.push(&Record::new("k", "v"), NOW).unwrap();
        partition.append(&builder.build().unwrap()).unwrap();
        append(&partition, "k", "w");
        partition.append(&end_marker(Marker::Commit, 7, 0, 0, NOW).unwrap()).unwrap();
        partition.set_high_watermark(Offset::new(3)).unwrap();
        let sets = partition.clone();
        let setter = spawn(move || {
            for end in [2, 1] {
                sets.set_high_watermark(Offset::new(end)).unwrap();
            }
        });
        for _ in 0..4 {
            let offsets = partition.offsets();
            let (mark, stable) = (offsets.high_watermark.get(), offsets.last_stable.get());
            assert!(stable == 0 || stable == 3, "{stable} lies within the transaction, under {mark}");
            shuttle::thread::yield_now();
        }
        join([setter]);
        assert_eq!(partition.offsets().last_stable.get(), 0);
        partition.set_high_watermark(Offset::new(3)).unwrap();
        assert_eq!(partition.offsets().last_stable.get(), 3);
        log.close().unwrap();
    });
}
