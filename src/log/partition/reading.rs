//! Reading a partition.

use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::offset::{Offset, Timestamp};
use crate::read::{self, Fetch, FetchOptions, Reader, Start};

use super::Partition;

impl Partition {
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
    pub fn tail(&self, start: impl Into<Start>, isolation: crate::Isolation) -> Result<read::Tail> {
        let options = FetchOptions { isolation, ..FetchOptions::default() };
        self.reader_with(start, options).map(read::Tail::new)
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
}
