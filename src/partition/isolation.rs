//! Isolation: how far a reader may see, and the offsets that bound it.

use crate::offset::Offset;

/// How far a reader may see.
///
/// ```
/// # use stratalog::{FetchOptions, Isolation, Log, LogConfig, Offset, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new().sync_threads(0).maintenance_interval(None))?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one"])?;
/// let options = FetchOptions { isolation: Isolation::Durable, ..FetchOptions::default() };
/// assert!(events.fetch(Offset::ZERO, options)?.is_empty());
/// events.flush()?;
/// assert!(!events.fetch(Offset::ZERO, options)?.is_empty());
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Everything appended: up to the log end. A power cut may take back what is not durable yet.
    #[default]
    End,
    /// Up to the high watermark.
    HighWatermark,
    /// Up to the last stable offset. [`Fetch::aborted`](crate::Fetch::aborted) lists aborted transactions, and a
    /// [`Reader`](crate::Reader) leaves their records out.
    Committed,
    /// Only what no power cut can take back.
    Durable,
}

/// Offsets of a partition at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offsets {
    /// The first offset that can be read.
    pub start: Offset,
    /// One past the last offset.
    pub end: Offset,
    /// One past the last offset that no power cut can take back.
    pub durable: Offset,
    /// The high watermark as the owner set it; the log end if nobody manages it.
    pub high_watermark: Offset,
    /// The last stable offset: no transaction is open below it.
    pub last_stable: Offset,
}

impl Offsets {
    /// Returns one past the last offset that a reader of this isolation sees.
    pub fn visible(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::End => self.end,
            Isolation::HighWatermark => self.high_watermark,
            Isolation::Committed => self.last_stable,
            Isolation::Durable => self.durable,
        }
    }
}
