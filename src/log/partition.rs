//! The public handle of one partition. Each method is one call to a lower layer.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::append::{self, Input};
use crate::compaction::CompactMode;
use crate::config::{Clock, TopicConfig, WatermarkMode};
use crate::error::{ErrorKind, Result};
use crate::format::{BatchBuilder, Record, RecordBatch};
use crate::maintenance::retention;
use crate::maintenance::{self, PauseGuard};
use crate::offset::{Offset, Timestamp};
use crate::partition::append_queue::Appended;
use crate::partition::core::PartitionCore;
use crate::partition::pins::Pin;
use crate::partition::stats::{CompactionReport, PartitionStats};
use crate::partition::visibility;
use crate::partition::waiters::WaitOutcome;
use crate::partition::{Isolation, Offsets};
use crate::read::{self, Fetch, FetchOptions, Reader, Start};
use crate::truncate;
use crate::verify::{self, VerifyReport};

/// How many bytes of its batch-building memory a thread keeps.
const BUILDER_KEEPS: usize = 1 << 20;

thread_local! {
    /// Each thread keeps one builder. Batches are built outside of every lock.
    static BUILDER: Cell<Option<Box<BatchBuilder>>> = const { Cell::new(None) };
}

/// An append-only sequence of records with a total order. Cloning is cheap, and all clones are the same partition. Any
/// number of threads may use it.
#[derive(Clone)]
pub struct Partition {
    pub(crate) core: Arc<PartitionCore>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("topic", &self.topic()).field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Partition {
    /// Returns the name of the partition's topic.
    pub fn topic(&self) -> &str {
        &self.core.topic
    }

    /// Returns the number of the partition within its topic.
    pub fn id(&self) -> u32 {
        self.core.id
    }

    /// Appends one batch at the end. Its records get the next offsets. Nothing is encoded again, unless the log sets
    /// the topic's timestamps.
    ///
    /// When this returns, the batch can be read and survives a kill of the process; under
    /// [`Durability::Sync`](crate::Durability::Sync) it survives a power cut as well. Otherwise it does so after the
    /// configured interval at most, or after [`flush`](Self::flush).
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, Record, RecordBatch, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let mut batch = RecordBatch::builder();
    /// batch.push(&Record::new("ada", "London"), Timestamp::now())?;
    /// batch.push(&Record::new("bob", "Paris"), Timestamp::now())?;
    /// let appended = events.append(&batch.build()?)?;
    /// assert_eq!(appended.base_offset, Offset::ZERO);
    /// assert_eq!(appended.next_offset, Offset::new(2));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// After an error nothing was appended, with one exception: under [`Durability::Sync`](crate::Durability::Sync) a
    /// sync error ([`ErrorKind::Poisoned`], [`ErrorKind::DiskFull`]) comes after the write. The batch is then in the
    /// log but not acknowledged, and a crash may keep it or lose it.
    pub fn append(&self, batch: &RecordBatch) -> Result<Appended> {
        self.append_input(Input { bytes: batch.as_bytes(), header: batch.header() }, None)
    }

    /// Appends records as one batch, compressed as the topic configures it. A record without a timestamp gets the time
    /// of the append.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, Record};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// // A record may be a text, a key with a value, or a `Record`.
    /// events.append_records(["text"])?;
    /// events.append_records([("ada", "London"), ("bob", "Paris")])?;
    /// let appended = events.append_records([Record::tombstone("ada")])?;
    /// assert_eq!(appended.base_offset, Offset::new(3));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::BatchTooLarge`] if the records do not fit into one batch; nothing is written then.
    /// [`ErrorKind::InvalidBatch`] if there are no records.
    pub fn append_records<'a>(&self, records: impl IntoIterator<Item = impl Into<Record<'a>>>) -> Result<Appended> {
        // The builder is taken out of the thread-local cell: the iterator is the caller's code, and may itself append.
        let mut builder = BUILDER.take().unwrap_or_default();
        let appended = self.append_built(&mut builder, records);
        builder.shrink_to(BUILDER_KEEPS);
        BUILDER.set(Some(builder));
        appended
    }

    fn append_built<'a>(
        &self,
        builder: &mut BatchBuilder,
        records: impl IntoIterator<Item = impl Into<Record<'a>>>,
    ) -> Result<Appended> {
        let now = self.clock.now();
        let codec = self.core.codec();
        builder.reset();
        builder.set_codec(codec);
        for record in records {
            builder.push(&record.into(), now)?;
        }
        let bytes = builder.finish()?;
        let header = crate::format::BatchHeader::parse(bytes)?;
        self.append_at_time(Input { bytes, header: &header }, None, now)
    }

    /// Appends one batch only if the log ends at `expected_end`: optimistic concurrency for a writer that decides by
    /// what it has read.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{ErrorKind, Record, RecordBatch, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let mut batch = RecordBatch::builder();
    /// batch.push(&Record::keyless("the only first record"), Timestamp::now())?;
    /// let batch = batch.build()?;
    /// let seen = events.offsets().end;
    /// let end = events.append_if(seen, &batch)?.next_offset;
    /// // The log has grown since `seen`, so the second append changes nothing.
    /// let refused = events.append_if(seen, &batch).unwrap_err();
    /// assert_eq!(*refused.kind(), ErrorKind::UnexpectedOffset { given: seen, end });
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedOffset`] with the actual end, if the log ends elsewhere.
    pub fn append_if(&self, expected_end: Offset, batch: &RecordBatch) -> Result<Appended> {
        self.append_input(Input { bytes: batch.as_bytes(), header: batch.header() }, Some(expected_end))
    }

    /// Appends batches that already have their offsets, as a replica does. The offsets must not go backwards, but may
    /// leave gaps. Everything is checked before anything is written.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{FetchOptions, Offset};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let topic = log.topic_or_create("events", 2, TopicConfig::new())?;
    /// # let (leader, follower) = (topic.partition(0).unwrap(), topic.partition(1).unwrap());
    /// leader.reset_to(Offset::new(100))?;
    /// leader.append_records(["event"])?;
    /// let fetch = leader.fetch(Offset::new(100), FetchOptions::default())?;
    /// for batches in fetch.chunks() {
    ///     follower.append_at(batches)?;
    /// }
    /// assert_eq!(follower.offsets().end, Offset::new(101));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedOffset`] for offsets below the log end or out of order, [`ErrorKind::InvalidBatch`] for
    /// damage. A gap of 2^31 offsets or more is refused too: for larger jumps use [`reset_to`](Self::reset_to).
    pub fn append_at(&self, batches: &[u8]) -> Result<Appended> {
        let appended = append::append_at(&self.core, batches, self.clock.now())?;
        self.acknowledge(appended)
    }

    /// Makes everything appended so far durable. Returns the durable end.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let appended = events.append_records(["event"])?;
    /// let durable = events.flush()?;
    /// assert_eq!(durable, appended.next_offset);
    /// assert_eq!(events.offsets().durable, durable);
    /// # log.close()
    /// # }
    /// ```
    pub fn flush(&self) -> Result<Offset> {
        self.core.check_open()?;
        self.core.sync_to(self.core.end())
    }

    /// Returns whole batches as they are on disk, starting with the one that holds `from`.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{FetchOptions, Offset};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two"])?;
    /// let fetch = events.fetch(Offset::new(1), FetchOptions::default())?;
    /// // Both records are in one batch, and a fetch returns the whole batch.
    /// let batch = fetch.batches().next().expect("there is one")?;
    /// assert_eq!(batch.header().base_offset, Offset::ZERO);
    /// assert_eq!(fetch.next_offset, Offset::new(2));
    /// # drop(fetch);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] if `from` is below the log start or beyond the end.
    pub fn fetch(&self, from: Offset, options: FetchOptions) -> Result<Fetch> {
        self.core.check_open()?;
        read::fetch(&self.core, from, options)
    }

    /// Returns a reader that begins at `start` (usually an [`Offset`]) and sees everything appended.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two", "three"])?;
    /// let mut reader = events.reader(Offset::new(1))?;
    /// let mut values = Vec::new();
    /// while let Some(record) = reader.next_record()? {
    ///     values.push(record.value.unwrap_or_default().to_vec());
    /// }
    /// assert_eq!(values, [&b"two"[..], b"three"]);
    /// # drop(reader);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] for an offset below the log start or beyond the end.
    pub fn reader(&self, start: impl Into<Start>) -> Result<Reader> {
        self.reader_with(start, FetchOptions::default())
    }

    /// Returns a [`reader`](Self::reader) with other options.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig, WatermarkMode};
    /// use stratalog::{FetchOptions, Isolation, Offset, Start};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let config = TopicConfig::new().watermark(WatermarkMode::Managed);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records(["replicated"])?;
    /// events.set_high_watermark(Offset::new(1))?;
    /// events.append_records(["not replicated yet"])?;
    /// let options = FetchOptions { isolation: Isolation::HighWatermark, ..FetchOptions::default() };
    /// assert_eq!(events.reader_with(Start::Earliest, options)?.records().count(), 1);
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 2);
    /// # log.close()
    /// # }
    /// ```
    pub fn reader_with(&self, start: impl Into<Start>, options: FetchOptions) -> Result<Reader> {
        self.core.check_open()?;
        let start = start.into();
        loop {
            let from = start.resolve(&self.core, options.isolation)?;
            // The reader registers before its offset is checked: from here on what it may still read stays.
            let reader = Reader::new(Arc::clone(&self.core), from, options);
            let offsets = self.offsets();
            if (offsets.start..=offsets.end).contains(&from) {
                return Ok(reader);
            }
            // Any other start was within the log when it was resolved, and is resolved again.
            if matches!(start, Start::Offset(_)) {
                let (start, end) = (offsets.start, offsets.end);
                return Err(ErrorKind::OffsetOutOfRange { requested: from, start, end }.into());
            }
        }
    }

    /// Returns the records from `start` on as a stream, which continues with new records as they are appended. If the
    /// bytes are not in memory, the read is a call to the operating system within the poll.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// use std::{pin::Pin, task::{Context, Poll, Waker}};
    /// use futures_core::Stream;
    /// use stratalog::{Isolation, Log, LogConfig, Start, TopicConfig};
    ///
    /// let dir = tempfile::tempdir().unwrap();
    /// let log = Log::open(dir.path(), LogConfig::new())?;
    /// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let mut tail = events.tail(Start::Latest, Isolation::End)?;
    /// let mut poll = || Pin::new(&mut tail).poll_next(&mut Context::from_waker(Waker::noop()));
    /// assert!(poll().is_pending());
    /// events.append_records(["event"])?;
    /// let Poll::Ready(Some(Ok(record))) = poll() else { panic!("it is there") };
    /// assert_eq!(record.value.as_deref(), Some(&b"event"[..]));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of [`reader`](Self::reader).
    #[cfg(feature = "async")]
    pub fn tail(&self, start: impl Into<Start>, isolation: Isolation) -> Result<read::Tail> {
        let options = FetchOptions { isolation, ..FetchOptions::default() };
        self.reader_with(start, options).map(read::Tail::new)
    }

    /// Returns where the partition begins and ends at this moment.
    pub fn offsets(&self) -> Offsets {
        visibility::offsets(&self.core)
    }

    /// Returns the offset of the first record with a timestamp at or after `at`; `None` if there is none.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, Record, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// for second in 0..3 {
    ///     events.append_records([Record::keyless("event").at(Timestamp::from_millis(second * 1000))])?;
    /// }
    /// assert_eq!(events.offset_for(Timestamp::from_millis(1500))?, Some(Offset::new(2)));
    /// assert_eq!(events.offset_for(Timestamp::from_millis(2001))?, None);
    /// # log.close()
    /// # }
    /// ```
    pub fn offset_for(&self, at: Timestamp) -> Result<Option<Offset>> {
        self.core.check_open()?;
        read::offset_for(&self.core, at)
    }

    /// Waits until the record at `offset` is appended, at most for `timeout`.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use std::{thread, time::Duration};
    /// use stratalog::{Offset, WaitOutcome};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let writer = events.clone();
    /// let writer = thread::spawn(move || writer.append_records(["event"]));
    /// let outcome = events.wait_for(Offset::ZERO, Duration::from_secs(60))?;
    /// assert_eq!(outcome, WaitOutcome::Reached(Offset::new(1)));
    /// writer.join().unwrap()?;
    /// # log.close()
    /// # }
    /// ```
    pub fn wait_for(&self, offset: Offset, timeout: Duration) -> Result<WaitOutcome> {
        self.core.wait(Isolation::End, offset + 1, Some(timeout))
    }

    /// Resolves once the record at `offset` is appended. Works with any async runtime.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use std::{pin::pin, task::{Context, Poll, Waker}};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let mut future = pin!(events.reached(Offset::ZERO));
    /// // An async runtime would do these polls.
    /// let mut poll = || future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    /// assert!(poll().is_pending());
    /// events.append_records(["event"])?;
    /// assert!(matches!(poll(), Poll::Ready(Ok(end)) if end == Offset::new(1)));
    /// # log.close()
    /// # }
    /// ```
    pub fn reached(&self, offset: Offset) -> impl Future<Output = Result<Offset>> + Send + 'static {
        self.core.future(Isolation::End, offset + 1)
    }

    /// Waits until the record at `offset` is visible to readers of this isolation, at most for `timeout`.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig, WatermarkMode};
    /// use std::time::Duration;
    /// use stratalog::{Isolation, Offset, WaitOutcome};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let config = TopicConfig::new().watermark(WatermarkMode::Managed);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records(["event"])?;
    /// let wait = || events.wait_visible(Offset::ZERO, Isolation::HighWatermark, Duration::from_millis(1));
    /// assert_eq!(wait()?, WaitOutcome::TimedOut(Offset::ZERO));
    /// events.set_high_watermark(Offset::new(1))?;
    /// assert_eq!(wait()?, WaitOutcome::Reached(Offset::new(1)));
    /// # log.close()
    /// # }
    /// ```
    pub fn wait_visible(&self, offset: Offset, isolation: Isolation, timeout: Duration) -> Result<WaitOutcome> {
        self.core.wait(isolation, offset + 1, Some(timeout))
    }

    /// Resolves once the record at `offset` is visible to readers of this isolation.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig, WatermarkMode};
    /// use std::{pin::pin, task::{Context, Poll, Waker}};
    /// use stratalog::{Isolation, Offset};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let config = TopicConfig::new().watermark(WatermarkMode::Managed);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records(["event"])?;
    /// let mut future = pin!(events.visible(Offset::ZERO, Isolation::HighWatermark));
    /// // An async runtime would do these polls.
    /// let mut poll = || future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    /// assert!(poll().is_pending());
    /// events.set_high_watermark(Offset::new(1))?;
    /// assert!(matches!(poll(), Poll::Ready(Ok(end)) if end == Offset::new(1)));
    /// # log.close()
    /// # }
    /// ```
    pub fn visible(
        &self,
        offset: Offset,
        isolation: Isolation,
    ) -> impl Future<Output = Result<Offset>> + Send + 'static {
        self.core.future(isolation, offset + 1)
    }

    /// Waits until everything below `offset` is durable, at most for `timeout`.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use std::time::Duration;
    /// use stratalog::WaitOutcome;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let end = events.append_records(["event"])?.next_offset;
    /// // A thread of the log syncs within a second, by default.
    /// let outcome = events.wait_durable(end, Duration::from_secs(60))?;
    /// assert_eq!(outcome, WaitOutcome::Reached(end));
    /// # log.close()
    /// # }
    /// ```
    pub fn wait_durable(&self, offset: Offset, timeout: Duration) -> Result<WaitOutcome> {
        self.core.wait(Isolation::Durable, offset, Some(timeout))
    }

    /// Resolves once everything below `offset` is durable.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use std::{pin::pin, task::{Context, Poll, Waker}};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().sync_threads(0).maintenance_interval(None))?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["event"])?;
    /// let mut future = pin!(events.durable(Offset::new(1)));
    /// // An async runtime would do these polls.
    /// let mut poll = || future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    /// assert!(poll().is_pending());
    /// events.flush()?;
    /// assert!(matches!(poll(), Poll::Ready(Ok(end)) if end == Offset::new(1)));
    /// # log.close()
    /// # }
    /// ```
    pub fn durable(&self, offset: Offset) -> impl Future<Output = Result<Offset>> + Send + 'static {
        self.core.future(Isolation::Durable, offset)
    }

    /// Rolls: seals the active segment and begins a new one. An empty active segment stays.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["in the first segment"])?;
    /// events.roll()?;
    /// events.append_records(["in the second segment"])?;
    /// assert_eq!(events.stats().segments, 2);
    /// # log.close()
    /// # }
    /// ```
    pub fn roll(&self) -> Result<()> {
        let now = self.clock.now();
        let mut active = self.core.lock_active();
        self.core.check_writable()?;
        let rolled = active.roll(&self.core, now);
        drop(active);
        self.core.tell();
        rolled
    }

    /// Removes every batch that holds an offset at or above `to`, durably. Returns the new end, which is lower than
    /// `to` if `to` is inside a batch. Damaged batches above `to` are removed like any others.
    ///
    /// A crash leaves the log as it was, or truncated: the next open completes a truncation that had begun.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, Start};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one"])?;
    /// events.append_records(["two"])?;
    /// events.append_records(["three"])?;
    /// assert_eq!(events.truncate(Offset::new(1))?, Offset::new(1));
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 1);
    /// // The next append continues at the new end.
    /// assert_eq!(events.append_records(["four"])?.base_offset, Offset::new(1));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], with path and position, if a batch below `to` is damaged in the segment that is cut, or
    /// in one that must be read to restore the producers. Nothing has changed then. Other segments are not checked for
    /// damage and stay as they are. If `to` is in a gap and the batch behind the gap is damaged, the batch counts as
    /// below `to` where its header does not tell.
    ///
    /// [`ErrorKind::TruncateBelowCompacted`] if compaction has removed older records in favor of records that this
    /// truncation would remove.
    pub fn truncate(&self, to: Offset) -> Result<Offset> {
        truncate::truncate(&self.core, to, false)
    }

    /// Like [`truncate`](Self::truncate), but also truncates below records that compaction relied on, and does not fail
    /// on damage. At damage the log is cut at the last good batch before it, and the returned end is there. For
    /// replicas that fetch the records again: nothing that is cut off is kept.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Cleanup, Log, LogConfig, TopicConfig};
    /// use stratalog::{CompactMode, Offset, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().maintenance_interval(None))?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// for record in [("ada", "London"), ("bob", "Paris"), ("ada", "Rome")] {
    ///     events.append_records([record])?;
    /// }
    /// events.flush()?;
    /// // The compaction removes London, because Rome is newer. So `truncate` refuses to remove Rome.
    /// events.compact(Timestamp::now(), CompactMode::Full)?;
    /// assert!(events.truncate(Offset::new(2)).is_err());
    /// assert_eq!(events.truncate_lossy(Offset::new(2))?, Offset::new(2));
    /// # log.close()
    /// # }
    /// ```
    pub fn truncate_lossy(&self, to: Offset) -> Result<Offset> {
        truncate::truncate(&self.core, to, true)
    }

    /// Deletes everything and continues at `offset`, durably. The offset may be below, within or beyond the log.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// // A replica is so far behind that its leader has already deleted the next records.
    /// events.append_records(["old event"])?;
    /// events.reset_to(Offset::new(1000))?;
    /// assert_eq!(events.offsets().start, Offset::new(1000));
    /// assert_eq!(events.append_records(["event"])?.base_offset, Offset::new(1000));
    /// # log.close()
    /// # }
    /// ```
    pub fn reset_to(&self, offset: Offset) -> Result<()> {
        truncate::reset(&self.core, offset)
    }

    /// Moves the log start to `offset`, durably: all records below it are gone. The next maintenance pass removes their
    /// bytes, segment by segment.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, Start};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two", "three"])?;
    /// events.delete_before(Offset::new(2))?;
    /// assert_eq!(events.offsets().start, Offset::new(2));
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 1);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] if `offset` is above the high watermark.
    pub fn delete_before(&self, offset: Offset) -> Result<()> {
        retention::delete_before(&self.core, offset)
    }

    /// Applies retention now, in this thread, as a maintenance pass does: by age, by size, and below the log start.
    /// Returns how many segments it removed. It rolls no segment for its age and compacts nothing.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use std::time::Duration;
    /// use stratalog::{Offset, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().sync_threads(0).maintenance_interval(None))?;
    /// let hour = Duration::from_secs(3600);
    /// let config = TopicConfig::new().retention_age(Some(hour));
    /// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records(["event"])?;
    /// events.roll()?;
    /// assert_eq!(events.retain(Timestamp::now())?, 0);
    /// assert_eq!(events.retain(Timestamp::now().plus(2 * hour))?, 1);
    /// assert_eq!(events.offsets().start, Offset::new(1));
    /// # log.close()
    /// # }
    /// ```
    pub fn retain(&self, now: Timestamp) -> Result<usize> {
        self.core.check_writable()?;
        let pass = self.core.lock_maintenance();
        let retained = maintenance::retain(&self.core, now);
        drop(pass);
        self.core.tell();
        retained
    }

    /// Sets the high watermark of a topic with [`WatermarkMode::Managed`], forward or back. Checkpoints store it: after
    /// a crash it may be lower, never higher. If it is set back below markers that decided transactions, the log is
    /// read again from the segment before the new watermark on. Appends wait meanwhile.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Offset, WatermarkMode};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let config = TopicConfig::new().watermark(WatermarkMode::Managed);
    /// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records(["one", "two"])?;
    /// assert_eq!(events.offsets().high_watermark, Offset::ZERO);
    /// events.set_high_watermark(Offset::new(2))?;
    /// assert_eq!(events.offsets().high_watermark, Offset::new(2));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] if `offset` is beyond the log end.
    pub fn set_high_watermark(&self, offset: Offset) -> Result<()> {
        self.core.check_writable()?;
        if self.core.config().watermark != WatermarkMode::Managed {
            return Err(
                ErrorKind::InvalidConfig("the topic's high watermark is the log end, not managed".into()).into()
            );
        }
        // The lock keeps a truncation from running between the check of the end and the change.
        let mut active = self.core.lock_active();
        let offsets = self.offsets();
        if offset > offsets.end || offset < offsets.start {
            let (start, end) = (offsets.start, offsets.end);
            return Err(ErrorKind::OffsetOutOfRange { requested: offset, start, end }.into());
        }
        active.move_high_watermark(&self.core, offset, || self.core.ends.set_high_watermark(offset));
        drop(active);
        self.core.waiters.high_watermark.notify(offset.get());
        self.core.waiters.stable.notify(self.core.last_stable().get());
        Ok(())
    }

    /// Sets the leader epoch of all appends from now on. It never goes back.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.set_leader_epoch(5)?;
    /// events.append_records(["event"])?;
    /// assert_eq!(events.end_offset_for_epoch(5), Some((5, Offset::new(1))));
    /// assert!(events.set_leader_epoch(4).is_err());
    /// # log.close()
    /// # }
    /// ```
    pub fn set_leader_epoch(&self, epoch: i32) -> Result<()> {
        self.core.check_writable()?;
        let mut active = self.core.lock_active();
        let latest = self.core.lock_leader_epochs().latest().unwrap_or(-1).max(active.leader_epoch());
        if epoch < latest {
            return Err(ErrorKind::InvalidConfig(format!("leader epoch {epoch} is below {latest}").into()).into());
        }
        active.set_leader_epoch(epoch);
        Ok(())
    }

    /// Returns the largest leader epoch that is not above `epoch`, and the offset at which it ends; `None` if there is
    /// none.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::Offset;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.set_leader_epoch(1)?;
    /// events.append_records(["one", "two"])?;
    /// events.set_leader_epoch(3)?;
    /// events.append_records(["three"])?;
    /// // No record has epoch 2. The largest epoch below it is 1, and epoch 1 ends at offset 2.
    /// assert_eq!(events.end_offset_for_epoch(2), Some((1, Offset::new(2))));
    /// assert_eq!(events.end_offset_for_epoch(3), Some((3, Offset::new(3))));
    /// assert_eq!(events.end_offset_for_epoch(4), None);
    /// # log.close()
    /// # }
    /// ```
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, Offset)> {
        self.core.lock_leader_epochs().end_offset_for(epoch, self.core.end())
    }

    /// Keeps everything at and above `offset` from being compacted until the pin is dropped. For snapshots and
    /// replicas.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Cleanup, Log, LogConfig, TopicConfig};
    /// use stratalog::{CompactMode, Offset, Start, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().maintenance_interval(None))?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records([("ada", "London"), ("ada", "Paris")])?;
    /// events.flush()?;
    /// let pin = events.pin(Offset::ZERO);
    /// events.compact(Timestamp::now(), CompactMode::Full)?;
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 2);
    /// drop(pin);
    /// events.compact(Timestamp::now(), CompactMode::Full)?;
    /// assert_eq!(events.reader(Start::Earliest)?.records().count(), 1);
    /// # log.close()
    /// # }
    /// ```
    pub fn pin(&self, offset: Offset) -> Pin {
        self.core.pins.pin(offset)
    }

    /// Registers or moves the named position of a consumer. Tombstones above it are kept for the consumer, for at most
    /// `reader_hold_max`.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Cleanup, Log, LogConfig, TopicConfig};
    /// use stratalog::{CompactMode, Offset, Record, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new().maintenance_interval(None))?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    /// # let config = config.delete_retention(std::time::Duration::ZERO);
    /// # let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// // The consumer has read London, but not the tombstone. The topic's `delete_retention` is zero.
    /// events.append_records([Record::new("ada", "London"), Record::tombstone("ada")])?;
    /// events.flush()?;
    /// events.register_position("consumer", Offset::new(1))?;
    /// assert_eq!(events.compact(Timestamp::now(), CompactMode::Full)?.tombstones_removed, 0);
    /// events.register_position("consumer", Offset::new(2))?;
    /// assert_eq!(events.compact(Timestamp::now(), CompactMode::Full)?.tombstones_removed, 1);
    /// # log.close()
    /// # }
    /// ```
    pub fn register_position(&self, name: &str, offset: Offset) -> Result<()> {
        self.core.check_open()?;
        self.core.pins.register_position(name, offset)
    }

    /// Forgets the position of a consumer. Returns whether there was one.
    pub fn unregister_position(&self, name: &str) -> bool {
        self.core.pins.unregister_position(name)
    }

    /// Compacts now, in this thread. Keeps only the latest record of each key, below the cleaning bound (durable,
    /// replicated, committed). For compacted topics.
    ///
    /// The call returns when the compaction is complete. It stops earlier only if another call needs the partition
    /// ([`truncate`], a new log start, deletion, a pause, close), and then sets [`CompactionReport::unfinished`]. A
    /// crash at any point leaves the old segments or the new one. Readers continue on the segments they started with.
    ///
    /// [`truncate`]: Self::truncate
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// use stratalog::{Cleanup, CompactMode, Start, Timestamp};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let config = TopicConfig::new().cleanup(Cleanup::Compact);
    /// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records([("ada", "London"), ("ada", "Paris"), ("ada", "Rome")])?;
    /// events.flush()?; // only durable records are compacted
    /// events.compact(Timestamp::now(), CompactMode::Full)?;
    /// let record = events.reader(Start::Earliest)?.records().next().expect("the latest is left")?;
    /// assert_eq!(record.value.as_deref(), Some(&b"Rome"[..]));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if the topic is not compacted; [`ErrorKind::DiskFull`] if there is no room for the
    /// output, and then nothing has changed. Damaged segments are left as they are and listed in the report.
    pub fn compact(&self, now: Timestamp, mode: CompactMode) -> Result<CompactionReport> {
        let pass = self.core.lock_maintenance();
        self.core.check_writable()?;
        let compacted = maintenance::compact_all(&self.core, now, mode, &*self.clock);
        drop(pass);
        self.core.tell();
        compacted
    }

    /// Pauses maintenance of this partition until the guard is dropped: no sealed segment is removed, replaced or
    /// renamed, and none is sealed for its age alone. For example for backups.
    ///
    /// A running compaction is interrupted, and later continues with what it has not swapped in. None runs when this
    /// returns. Guards nest: maintenance resumes when the last one is dropped. Explicit calls such as
    /// [`compact`](Self::compact) and [`truncate`](Self::truncate) still run, and so do appends with the rolls they
    /// cause.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let guard = events.pause_maintenance();
    /// // A backup copies the files here: no maintenance replaces or removes a sealed segment.
    /// assert!(events.stats().compaction.paused);
    /// drop(guard);
    /// assert!(!events.stats().compaction.paused);
    /// # log.close()
    /// # }
    /// ```
    pub fn pause_maintenance(&self) -> PauseGuard {
        PauseGuard::new(&self.core)
    }

    /// Reads and checks the whole partition without changing a byte: every batch and record, the offsets, the chain of
    /// segments, the indexes, snapshots and `state`. Appends, reads and maintenance continue meanwhile.
    ///
    /// If the partition is degraded, or its log was opened read-only, the files in its directory are checked. Damage is
    /// no error of this call: the report lists it. Memory is bounded by the largest batch.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one", "two"])?;
    /// let report = events.verify()?;
    /// assert_eq!(report.records, 2);
    /// assert!(report.findings.is_empty(), "there is no damage");
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] if the partition was truncated meanwhile; [`ErrorKind::Closed`]; an error of the
    /// operating system if the directory cannot be read.
    pub fn verify(&self) -> Result<VerifyReport> {
        verify::verify(&self.core)
    }

    /// Returns the configuration in use: that of the topic.
    pub fn config(&self) -> Arc<TopicConfig> {
        self.core.config()
    }

    /// Returns counters and offsets.
    pub fn stats(&self) -> PartitionStats {
        let core = &self.core;
        let view = core.view.load();
        let (producers, roll_due) = {
            let active = core.lock_active();
            (active.producers().len(), active.roll_due())
        };
        PartitionStats {
            offsets: self.offsets(),
            segments: view.segments().len(),
            bytes: view.bytes(),
            unsynced_bytes: core.group_commit.account.unsynced(),
            syncs: core.group_commit.syncs(),
            rolls: core.counters.rolls.get(),
            segments_removed: core.counters.segments_removed.get(),
            segments_held: core.segments_held(),
            producers,
            roll_due,
            pinned_at: core.pins.owner_bound(),
            compaction: maintenance::compaction_stats(core, self.clock.now()),
            error: core.health.reason(),
        }
    }

    fn append_input(&self, input: Input<'_>, expected: Option<Offset>) -> Result<Appended> {
        self.append_at_time(input, expected, self.clock.now())
    }

    fn append_at_time(&self, input: Input<'_>, expected: Option<Offset>, now: Timestamp) -> Result<Appended> {
        let appended = append::append(&self.core, input, expected, now)?;
        self.acknowledge(appended)
    }

    /// Waits for the sync if the topic's durability requires one before the acknowledgement.
    #[inline]
    fn acknowledge(&self, appended: Appended) -> Result<Appended> {
        if self.core.syncs_appends() {
            self.core.sync_to(appended.next_offset)?;
        }
        Ok(appended)
    }
}
