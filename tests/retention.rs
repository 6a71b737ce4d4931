//! What retention gives up, and what it keeps.

mod common;

use std::time::Duration;

use common::{append, clocked, expected, read, small};
use stratalog::{Budget, Cleanup, Clock, Log, Offset, Record, Timestamp, TopicConfig};

const HOUR: Duration = Duration::from_secs(3600);

/// A log with one partition; the closure is run with it, the clock, and a way to make a pass.
fn with(config: TopicConfig, test: impl FnOnce(&Log, &stratalog::Partition, &stratalog::ManualClock, &dyn Fn())) {
    let dir = tempfile::tempdir().unwrap();
    let (log_config, clock) = clocked();
    let log = Log::open(dir.path(), log_config).unwrap();
    log.create_topic("t", 1, config).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let pass = || {
        let report = log.maintain(clock.now(), Budget::default()).unwrap();
        assert!(report.passes.iter().all(|(.., pass)| pass.errors.is_empty()), "{report:?}");
    };
    test(&log, &partition, &clock, &pass);
}

#[test]
fn nothing_goes_that_nobody_asked_to() {
    with(small(), |_, partition, clock, pass| {
        append(partition, 200);
        clock.advance(HOUR * 24 * 3650);
        pass();
        assert_eq!(read(partition, 0), expected(0..200));
    });
}

#[test]
fn segments_go_when_their_newest_record_is_too_old() {
    with(small().retention_age(Some(HOUR)), |_, partition, clock, pass| {
        append(partition, 100);
        partition.roll().unwrap();
        clock.advance(HOUR / 2);
        append(partition, 100);
        clock.advance(HOUR * 2 / 3);
        pass();
        assert_eq!(partition.offsets().start, Offset::new(100));
        assert_eq!(read(partition, 100), expected(100..200));
        clock.advance(HOUR);
        pass();
        pass();
        assert_eq!(partition.offsets().start, Offset::new(200), "an expired active segment is sealed and goes too");
        assert_eq!(partition.offsets().end, Offset::new(200));
        append(partition, 1);
        assert_eq!(read(partition, 200), expected(200..201));
    });
}

#[test]
fn a_timestamp_in_the_future_pins_nothing() {
    with(small().retention_age(Some(HOUR)), |_, partition, clock, pass| {
        let far = clock.now().plus_millis(1 << 50);
        partition.append_records([Record::new("key", "value").at(far)]).unwrap();
        append(partition, 50);
        partition.roll().unwrap();
        clock.advance(HOUR * 2);
        pass();
        assert_eq!(partition.offsets().start, Offset::new(51));
    });
}

#[test]
fn a_clock_that_was_ahead_pins_nothing_for_longer_than_the_age() {
    with(small().retention_age(Some(HOUR)), |_, partition, clock, pass| {
        let right = clock.now();
        clock.set(right.plus_millis(1 << 50));
        append(partition, 50);
        partition.roll().unwrap();
        clock.set(right);
        pass();
        assert_eq!(partition.offsets().start, Offset::ZERO);
        clock.advance(HOUR * 2);
        pass();
        assert_eq!(partition.offsets().start, Offset::new(50));
    });
}

#[test]
fn the_head_goes_while_enough_is_left_without_it() {
    with(small().retention_bytes(Some(4096)), |_, partition, _, pass| {
        append(partition, 500);
        pass();
        let bytes = partition.stats().bytes;
        assert!((4096..4096 + 2048).contains(&bytes), "{bytes} bytes are left");
        let start = partition.offsets().start.get();
        assert_eq!(read(partition, start), expected(start..500));
    });
}

#[test]
fn a_segment_goes_where_exactly_the_limit_is_left_without_it() {
    let config = small().segment_bytes(1 << 20);
    with(config.clone(), |log, partition, _, pass| {
        (0..3).for_each(|_| {
            append(partition, 5);
            partition.roll().unwrap();
        });
        partition.flush().unwrap();
        let bytes = partition.stats().bytes;
        let first = std::fs::metadata(log.dir().join("t-0/00000000000000000000.log")).unwrap().len();
        let limit = |bytes| log.topic("t").unwrap().set_config(config.clone().retention_bytes(Some(bytes))).unwrap();
        limit(bytes - first + 1);
        pass();
        assert_eq!(partition.offsets().start, Offset::ZERO);
        limit(bytes - first);
        pass();
        assert_eq!(partition.offsets().start, Offset::new(5));
    });
}

#[test]
fn a_compacted_topic_gives_up_nothing_for_its_age_or_size() {
    let config = small().cleanup(Cleanup::Compact).retention_age(Some(HOUR)).retention_bytes(Some(1));
    with(config, |_, partition, clock, pass| {
        append(partition, 100);
        clock.advance(HOUR * 1000);
        pass();
        assert_eq!(partition.offsets().start, Offset::ZERO);
    });
}

#[test]
fn nothing_above_the_high_watermark_goes() {
    let config = small().retention_bytes(Some(1)).watermark(stratalog::WatermarkMode::Managed);
    with(config, |_, partition, _, pass| {
        append(partition, 300);
        pass();
        assert_eq!(partition.offsets().start, Offset::ZERO);
        partition.set_high_watermark(Offset::new(150)).unwrap();
        pass();
        let start = partition.offsets().start;
        assert!(start > Offset::ZERO && start <= Offset::new(150), "{start}");
    });
}

#[test]
fn an_active_segment_is_sealed_by_a_timer_too() {
    with(small().segment_age(HOUR), |_, partition, clock, pass| {
        append(partition, 3);
        pass();
        assert_eq!(partition.stats().segments, 1);
        clock.advance(HOUR);
        pass();
        assert_eq!(partition.stats().segments, 2);
        clock.advance(HOUR);
        pass();
        assert_eq!(partition.stats().segments, 2, "an empty one stays");
    });
}

#[test]
fn files_go_when_the_last_reader_lets_go_of_them() {
    with(small(), |log, partition, _, pass| {
        append(partition, 200);
        let fetched = partition.fetch(Offset::ZERO, stratalog::FetchOptions::default()).unwrap();
        let held: Vec<_> = fetched.region().cloned().into_iter().collect();
        partition.delete_before(Offset::new(150)).unwrap();
        pass();
        assert!(partition.stats().segments_held > 0);
        drop((fetched, held));
        pass();
        assert_eq!(partition.stats().segments_held, 0);
        let deleted = std::fs::read_dir(log.dir().join("t-0")).unwrap().filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.ends_with(".deleted").then_some(name)
        });
        assert_eq!(deleted.count(), 0);
    });
}

#[test]
fn a_segment_does_not_go_before_state_names_the_one_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log_config, clock) = clocked();
    let log = Log::open(dir.path(), log_config.clone()).unwrap();
    let topic = log.create_topic("t", 1, small().retention_age(Some(HOUR))).unwrap();
    let partition = topic.partition(0).unwrap();
    append(&partition, 10);
    partition.delete_before(Offset::new(10)).unwrap();
    clock.advance(HOUR * 2);
    // The active segment has expired: it is sealed, and lies below the log start at once.
    log.maintain(clock.now(), Budget::default()).unwrap();
    // The process goes.
    drop((log, topic, partition));

    let log = Log::open(dir.path(), log_config).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert_eq!((partition.offsets().start, partition.offsets().end), (Offset::new(10), Offset::new(10)));
    append(&partition, 1);
    assert_eq!(read(&partition, 10), expected(10..11));
}

#[test]
fn records_without_a_timestamp_count_from_their_seal() {
    with(small().retention_age(Some(HOUR)), |_, partition, clock, pass| {
        partition.append_records([Record::new("key", "value").at(Timestamp::NONE)]).unwrap();
        partition.roll().unwrap();
        pass();
        assert_eq!(partition.offsets().start, Offset::ZERO);
        clock.advance(HOUR * 2);
        pass();
        assert_eq!(partition.offsets().start, Offset::new(1));
    });
}

#[test]
fn a_pass_tells_when_the_next_segment_expires() {
    with(small().retention_age(Some(HOUR)), |log, partition, clock, pass| {
        let began = clock.now();
        append(partition, 3);
        partition.roll().unwrap();
        partition.flush().unwrap();
        let deadline = |now| log.maintain(now, Budget::default()).unwrap().next_deadline.expect("there is one");
        assert_eq!(deadline(began), began.plus_millis(3_600_001));
        clock.set(deadline(began));
        append(partition, 1);
        pass();
        assert_eq!(partition.offsets().start, Offset::new(3));
        assert_eq!(deadline(clock.now()), clock.now().plus_millis(3_600_001), "the active one is next");
    });
}
