//! The ways to read: where a reader begins, records that are kept, and waiting as a future.

mod common;

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use common::{append, quiet, small};
use stratalog::{
    Codec, ErrorKind, FetchOptions, Header, Isolation, Log, Offset, OwnedRecord, Partition, Record, Result, Start,
    Timestamp, TopicConfig, WatermarkMode,
};
use tempfile::TempDir;

fn open(topic: TopicConfig) -> (TempDir, Log, Partition) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let partition = log.topic_or_create("t", 1, topic).unwrap().partition(0).unwrap();
    (dir, log, partition)
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_reader_begins_at_either_end_at_an_offset_or_at_a_time() {
    let (_dir, _log, partition) = open(small().watermark(WatermarkMode::Managed));
    for n in 0..6 {
        partition.append_records([Record::keyless("v").at(Timestamp::from_millis(n * 10))]).unwrap();
    }
    partition.set_high_watermark(Offset::new(4)).unwrap();
    partition.delete_before(Offset::new(1)).unwrap();
    let begins = |start: Start| partition.reader(start).unwrap().offset().get();
    assert_eq!((begins(Start::Earliest), begins(Start::Latest)), (1, 6));
    assert_eq!((begins(Offset::new(3).into()), begins(Timestamp::from_millis(25).into())), (3, 3));
    assert_eq!(begins(Start::Time(Timestamp::from_millis(51))), 6, "none is as late");
    let replicated = FetchOptions { isolation: Isolation::HighWatermark, ..FetchOptions::default() };
    assert_eq!(partition.reader_with(Start::Latest, replicated).unwrap().offset(), Offset::new(4));
    for outside in [0, 7] {
        let told = partition.reader(Offset::new(outside)).unwrap_err();
        assert!(matches!(told.kind(), ErrorKind::OffsetOutOfRange { .. }), "{told}");
    }
}

#[test]
fn owned_records_share_what_was_read_unless_it_was_compressed() {
    for codec in [Codec::None, Codec::Lz4] {
        let (_dir, _log, partition) = open(small().compression(codec));
        let headers = [Header::new("h", "1"), Header { key: b"null", value: None }];
        let value = "v".repeat(500);
        let records = [Record::new("k", &value).with_headers(&headers), Record::tombstone("k"), Record::keyless("")];
        partition.append_records(records).unwrap();
        let mut reader = partition.reader(Start::Earliest).unwrap();
        let owned: Vec<OwnedRecord> = reader.records().collect::<Result<_>>().unwrap();
        assert_eq!(owned.iter().map(|record| record.offset.get()).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(owned[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(owned[0].value.as_deref(), Some(value.as_bytes()));
        assert_eq!(owned[0].headers.len(), 2);
        assert_eq!((&owned[0].headers[1].key[..], owned[0].headers[1].value.is_none()), (&b"null"[..], true));
        assert!(owned[1].is_tombstone() && owned[1].key.is_some());
        assert_eq!((owned[2].key.is_none(), owned[2].value.as_deref()), (true, Some(&b""[..])));
        // The value lies in what was fetched, beside its key, or in memory of its own.
        let distance =
            owned[0].value.as_ref().unwrap().as_ptr() as i64 - owned[0].key.as_ref().unwrap().as_ptr() as i64;
        assert_eq!(distance.abs() < 16, codec == Codec::None, "{codec:?}: {distance}");
        drop((reader, partition));
        assert_eq!(owned[0].value.as_deref(), Some(value.as_bytes()));
    }
}

#[test]
fn an_iterator_of_records_ends_at_the_end_for_now_and_goes_on() {
    let (_dir, _log, partition) = open(small());
    append(&partition, 5);
    let mut reader = partition.reader(Offset::new(2)).unwrap();
    let offsets = |reader: &mut stratalog::Reader| -> Vec<u64> {
        reader.records().map(|record| record.unwrap().offset.get()).collect()
    };
    assert_eq!(offsets(&mut reader), [2, 3, 4]);
    append(&partition, 2);
    let mut records = reader.records();
    assert_eq!(records.next().unwrap().unwrap().offset, Offset::new(5));
    assert_eq!(records.next().unwrap().unwrap().offset, Offset::new(6));
    assert!(records.next().is_none());
    append(&partition, 1);
    assert_eq!(records.next().unwrap().unwrap().offset, Offset::new(7));
}

#[test]
fn a_readers_future_waits_for_the_rest_of_a_batch_that_is_visible_in_part() {
    let (_dir, _log, partition) = open(small().watermark(WatermarkMode::Managed));
    partition.append_records(["v"; 8]).unwrap();
    partition.set_high_watermark(Offset::new(5)).unwrap();
    let replicated = FetchOptions { isolation: Isolation::HighWatermark, ..FetchOptions::default() };
    let mut reader = partition.reader_with(Start::Earliest, replicated).unwrap();
    assert!(reader.next_record().unwrap().is_none(), "the batch is not replicated to its end");
    // What goes by the offset alone is there at once, and a task that does would spin.
    assert!(poll(pin!(partition.visible(reader.offset(), Isolation::HighWatermark))).is_ready());
    let mut ready = reader.ready();
    assert!(poll(pin!(&mut ready)).is_pending());
    partition.set_high_watermark(Offset::new(8)).unwrap();
    assert!(matches!(poll(pin!(&mut ready)), Poll::Ready(Ok(end)) if end == Offset::new(8)));
    assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(0));
}

#[test]
fn a_readers_future_is_told_of_a_truncation_and_of_the_end() {
    let (_dir, log, partition) = open(small());
    append(&partition, 5);
    let reader = partition.reader(Start::Latest).unwrap();
    let mut ready = reader.ready();
    assert!(poll(pin!(&mut ready)).is_pending());
    partition.truncate(Offset::new(2)).unwrap();
    let told = poll(pin!(&mut ready));
    assert!(matches!(&told, Poll::Ready(Err(error)) if *error.kind() == ErrorKind::Truncated), "{told:?}");
    let reader = partition.reader(Start::Latest).unwrap();
    let mut ready = reader.ready();
    assert!(poll(pin!(&mut ready)).is_pending());
    log.close().unwrap();
    let told = poll(pin!(&mut ready));
    assert!(matches!(&told, Poll::Ready(Err(error)) if *error.kind() == ErrorKind::Closed), "{told:?}");
}

#[cfg(feature = "async")]
mod stream {
    use futures_core::Stream;

    use super::*;

    fn next(tail: &mut stratalog::Tail) -> Poll<Option<Result<u64>>> {
        let polled = Pin::new(tail).poll_next(&mut Context::from_waker(Waker::noop()));
        polled.map(|next| next.map(|record| record.map(|record| record.offset.get())))
    }

    fn offset(tail: &mut stratalog::Tail) -> u64 {
        match next(tail) {
            Poll::Ready(Some(Ok(offset))) => offset,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_tail_gives_what_is_there_and_what_comes_and_loses_nothing_where_it_is_left() {
        let (_dir, _log, partition) = open(small());
        append(&partition, 3);
        let mut tail = partition.tail(Start::Earliest, Isolation::End).unwrap();
        assert_eq!((offset(&mut tail), offset(&mut tail)), (0, 1));
        // A task that is cancelled here goes on with the stream later, or with the reader.
        assert_eq!((offset(&mut tail), tail.offset().get()), (2, 3));
        assert!(next(&mut tail).is_pending() && next(&mut tail).is_pending());
        append(&partition, 1);
        assert_eq!(offset(&mut tail), 3);
        append(&partition, 1);
        let mut reader = tail.into_reader();
        assert_eq!(reader.next_record().unwrap().unwrap().offset, Offset::new(4));
    }

    #[test]
    fn a_tail_wakes_its_task_for_a_record_and_not_before() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};

        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }

        let (_dir, _log, partition) = open(small().watermark(WatermarkMode::Managed));
        let mut tail = partition.tail(Start::Earliest, Isolation::HighWatermark).unwrap();
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut poll = || Pin::new(&mut tail).poll_next(&mut Context::from_waker(&waker)).is_ready();
        assert!(!poll());
        partition.append_records(["v"; 4]).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 0, "it is not replicated");
        partition.set_high_watermark(Offset::new(2)).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(!poll(), "the batch is visible in part");
        partition.set_high_watermark(Offset::new(4)).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 2);
        assert!(poll() && poll() && poll() && poll() && !poll());
    }

    #[test]
    fn a_tail_ends_after_an_error() {
        let (_dir, log, partition) = open(small());
        append(&partition, 3);
        let mut tail = partition.tail(Start::Latest, Isolation::End).unwrap();
        assert!(next(&mut tail).is_pending());
        partition.truncate(Offset::new(1)).unwrap();
        assert!(matches!(next(&mut tail), Poll::Ready(Some(Err(error))) if *error.kind() == ErrorKind::Truncated));
        assert!(matches!(next(&mut tail), Poll::Ready(None)));
        let mut tail = partition.tail(Start::Latest, Isolation::End).unwrap();
        log.close().unwrap();
        assert!(matches!(next(&mut tail), Poll::Ready(Some(Err(error))) if *error.kind() == ErrorKind::Closed));
    }
}
