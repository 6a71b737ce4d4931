//! Where the wall time comes from.

use std::fmt::Debug;
use std::time::Duration;

use crate::offset::Timestamp;
use crate::sync::atomic::{AtomicI64, Ordering};

/// Where a log gets the wall time from.
pub trait Clock: Send + Sync + Debug {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The clock of the operating system, to the few milliseconds of its coarse reading: an append asks for the time, and
/// the exact one costs as much as copying the record.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[cfg(target_os = "linux")]
    fn now(&self) -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Timestamp::from_millis(now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000))
    }

    #[cfg(not(target_os = "linux"))]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that is set by hand, for tests.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use stratalog::{Log, LogConfig, ManualClock, Offset, Timestamp, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
/// let log = Log::open(dir.path(), LogConfig::new().clock(clock.clone()))?;
/// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// clock.advance(Duration::from_secs(1));
/// events.append_records(["one"])?;
/// let mut reader = events.reader(Offset::ZERO)?;
/// let record = reader.next_record()?.unwrap();
/// assert_eq!(record.timestamp, Timestamp::from_millis(2_000));
/// # log.close()
/// # }
/// ```
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Timestamp) -> ManualClock {
        ManualClock(AtomicI64::new(now.as_millis()))
    }

    /// Sets the time.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }

    /// Moves the time on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as i64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}
