//! The engine on a real file system: append, read, roll, retain, truncate, reopen.

use std::time::Duration;

use stratalog::{
    FetchOptions, Isolation, Log, LogConfig, Offset, Partition, Record, RecordBatch, Timestamp, TopicConfig,
    WaitOutcome,
};

fn config() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(4096).index_interval_bytes(256)
}

fn append(partition: &Partition, range: std::ops::Range<u64>) {
    for n in range {
        let (key, value) = (format!("key-{}", n % 7), format!("value-{n}"));
        let appended = partition.append_records([Record::new(&key, &value)]).unwrap();
        assert_eq!(appended.base_offset, Offset::new(n));
    }
}

fn read(partition: &Partition, from: u64) -> Vec<(u64, String)> {
    let mut reader = partition.reader(Offset::new(from)).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        found.push((record.offset.get(), String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
    }
    found
}

fn expected(range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|n| (n, format!("value-{n}"))).collect()
}

#[test]
fn records_are_read_back_in_order_across_segments_and_opens() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 0..500);
    assert!(partition.stats().segments > 5);
    assert_eq!(read(&partition, 0), expected(0..500));
    assert_eq!(read(&partition, 123), expected(123..500));
    log.close().unwrap();

    let log = Log::open(dir.path(), config()).unwrap();
    assert_eq!(log.recovery_report().partitions[0].scanned_bytes, 0, "a clean close leaves nothing to scan");
    let partition = log.partition("t", 0).unwrap();
    assert_eq!(read(&partition, 250), expected(250..500));
    append(&partition, 500..600);
    drop((partition, log));

    let log = Log::open(dir.path(), config()).unwrap();
    assert!(log.recovery_report().partitions[0].scanned_bytes > 0, "after a kill the tail is scanned");
    let partition = log.partition("t", 0).unwrap();
    assert_eq!(read(&partition, 0), expected(0..600));
    append(&partition, 600..610);
    assert_eq!(read(&partition, 590), expected(590..610));
}

#[test]
fn a_fetch_crosses_segments_and_always_tells_where_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 0..300);
    let all = partition.fetch(Offset::ZERO, FetchOptions::default()).unwrap();
    assert_eq!(all.next_offset, Offset::new(300));
    assert!(all.chunks().count() > 3);
    let options = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
    let one = partition.fetch(Offset::new(17), options).unwrap();
    assert_eq!((one.batches().count(), one.next_offset), (1, Offset::new(18)));
    let end = partition.fetch(Offset::new(300), FetchOptions::default()).unwrap();
    assert!(end.is_empty() && end.next_offset == Offset::new(300));
    assert!(partition.fetch(Offset::new(301), FetchOptions::default()).is_err());
}

#[test]
fn a_batch_longer_than_a_lookup_reads_may_be_the_last_before_an_end_or_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, TopicConfig::new()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let nothing_later = || assert_eq!(partition.offset_for(Timestamp::from_millis(i64::MAX)).unwrap(), None);
    let one = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
    let long = "x".repeat(200_000);
    append(&partition, 0..3);
    let end = partition.append_records([Record::new("long", &long)]).unwrap().next_offset;
    let fetch = partition.fetch(end, one).unwrap();
    assert!(fetch.is_empty() && fetch.next_offset == end);
    nothing_later();

    let mut batch = RecordBatch::builder().base_offset(Offset::new(100));
    batch.push(&Record::new("key", "value"), Timestamp::from_millis(1)).unwrap();
    partition.append_at(batch.build().unwrap().as_bytes()).unwrap();
    assert_eq!(partition.fetch(end, one).unwrap().next_offset, Offset::new(101));

    partition.append_records([Record::new("long", &long)]).unwrap();
    partition.roll().unwrap();
    nothing_later();
}

#[test]
fn truncation_and_reset_are_kept_over_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 0..300);
    assert_eq!(partition.truncate(Offset::new(123)).unwrap(), Offset::new(123));
    assert_eq!(read(&partition, 0), expected(0..123));
    append(&partition, 123..200);
    drop((partition, log));
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert_eq!(read(&partition, 0), expected(0..200));
    partition.reset_to(Offset::new(5000)).unwrap();
    assert_eq!(partition.offsets().start, Offset::new(5000));
    append(&partition, 5000..5100);
    drop((partition, log));
    let log = Log::open(dir.path(), config()).unwrap();
    assert_eq!(read(&log.partition("t", 0).unwrap(), 5000), expected(5000..5100));
}

#[test]
fn a_reset_removes_every_segment_and_keeps_what_was_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 0..300);
    let aside = dir.path().join("t-0/00000000000000000007.log.broken");
    std::fs::write(&aside, "evidence").unwrap();
    partition.reset_to(Offset::new(5000)).unwrap();
    assert_eq!(std::fs::read(&aside).unwrap(), b"evidence");
    let names = std::fs::read_dir(dir.path().join("t-0")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut logs: Vec<_> = names.filter_map(|name| name.into_string().ok()).filter(|n| n.ends_with(".log")).collect();
    logs.sort();
    assert_eq!(logs, ["00000000000000005000.log"]);
}

#[test]
fn a_reader_goes_on_where_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 0..300);
    let mut reader = partition.reader(Offset::new(10)).unwrap();
    for to in [250, 3, 299, 0] {
        reader.seek(Offset::new(to));
        assert_eq!(reader.offset(), Offset::new(to));
        let record = reader.next_record().unwrap().unwrap();
        assert_eq!((record.offset, record.value), (Offset::new(to), Some(format!("value-{to}").as_bytes())));
        assert_eq!(reader.offset(), Offset::new(to + 1));
    }
    // An error stays until the reader is sent elsewhere.
    reader.seek(Offset::new(400));
    assert!(reader.next_record().is_err() && reader.next_record().is_err());
    reader.seek(Offset::new(42));
    assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(42));
}

#[test]
fn waiting_ends_when_the_record_is_there_and_when_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let waiting = {
        let partition = partition.clone();
        std::thread::spawn(move || partition.wait_for(Offset::new(9), Duration::from_secs(60)).unwrap())
    };
    append(&partition, 0..10);
    assert!(matches!(waiting.join().unwrap(), WaitOutcome::Reached(_)));
    assert!(matches!(
        partition.wait_durable(Offset::new(10), Duration::from_secs(60)).unwrap(),
        WaitOutcome::Reached(_)
    ));
    let durable = FetchOptions { isolation: Isolation::Durable, ..FetchOptions::default() };
    assert_eq!(partition.fetch(Offset::ZERO, durable).unwrap().next_offset, Offset::new(10));
}

#[test]
fn what_is_deleted_before_an_offset_stays_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), config()).unwrap();
    log.create_topic("t", 1, small()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 0..300);
    partition.delete_before(Offset::new(200)).unwrap();
    assert_eq!(read(&partition, 200), expected(200..300));
    assert!(partition.reader(Offset::new(199)).is_err());
    drop((partition, log));
    let log = Log::open(dir.path(), config()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert_eq!(partition.offsets().start, Offset::new(200));
    assert_eq!(read(&partition, 200), expected(200..300));
}

#[test]
fn a_state_file_that_is_damaged_while_the_log_is_open_is_whole_after_the_next_change() {
    for slots in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), config()).unwrap();
        let partition = log.create_topic("t", 1, small()).unwrap().partition(0).unwrap();
        append(&partition, 0..300);
        partition.flush().unwrap();
        let path = dir.path().join("t-0/state");
        let mut bytes = std::fs::read(&path).unwrap();
        let damaged = bytes.len() / 2 * slots;
        bytes[..damaged].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        partition.delete_before(Offset::new(20)).unwrap();
        append(&partition, 300..400);
        drop((partition, log));

        let log = Log::open(dir.path(), config()).unwrap();
        assert!(!log.recovery_report().partitions[0].state_lost);
        let partition = log.partition("t", 0).unwrap();
        assert_eq!(partition.offsets().start, Offset::new(20));
        assert_eq!(read(&partition, 20), expected(20..400));
    }
}
