//! Appending to a partition.

use std::cell::Cell;

use crate::append::{self, Input};
use crate::error::Result;
use crate::format::{BatchBuilder, Record, RecordBatch};
use crate::offset::{Offset, Timestamp};
use crate::partition::append_queue::Appended;

use super::Partition;

/// How many bytes of its batch-building memory a thread keeps.
const BUILDER_KEEPS: usize = 1 << 20;

thread_local! {
    /// Each thread keeps one builder. Batches are built outside of every lock.
    static BUILDER: Cell<Option<Box<BatchBuilder>>> = const { Cell::new(None) };
}

impl Partition {
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
    /// sync error ([`ErrorKind::Poisoned`](crate::ErrorKind::Poisoned), [`ErrorKind::DiskFull`](crate::ErrorKind::DiskFull)) comes after the write. The batch is then in the
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
    /// [`ErrorKind::BatchTooLarge`](crate::ErrorKind::BatchTooLarge) if the records do not fit into one batch; nothing is written then.
    /// [`ErrorKind::InvalidBatch`](crate::ErrorKind::InvalidBatch) if there are no records.
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
    /// [`ErrorKind::UnexpectedOffset`](crate::ErrorKind::UnexpectedOffset) with the actual end, if the log ends elsewhere.
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
    /// [`ErrorKind::UnexpectedOffset`](crate::ErrorKind::UnexpectedOffset) for offsets below the log end or out of order, [`ErrorKind::InvalidBatch`](crate::ErrorKind::InvalidBatch) for
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
