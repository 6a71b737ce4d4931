//! Waiting for what is appended, visible or durable.

use std::future::Future;
use std::time::Duration;

use crate::error::Result;
use crate::offset::Offset;
use crate::partition::Isolation;
use crate::partition::waiters::WaitOutcome;

use super::Partition;

impl Partition {
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
}
