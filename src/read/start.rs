//! Where a reader begins.

use crate::error::Result;
use crate::offset::{Offset, Timestamp};
use crate::partition::Isolation;
use crate::partition::core::PartitionCore;
use crate::partition::visibility::offsets;

use super::fetch::offset_for;

/// Where a reader begins. An [`Offset`] or a [`Timestamp`] is one as well.
///
/// ```
/// # fn main() -> stratalog::Result<()> {
/// use stratalog::{Log, LogConfig, Offset, Record, Start, Timestamp, TopicConfig};
///
/// let dir = tempfile::tempdir().unwrap();
/// let log = Log::open(dir.path(), LogConfig::new())?;
/// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// for second in 0..3 {
///     events.append_records([Record::keyless("event").at(Timestamp::from_millis(second * 1000))])?;
/// }
/// assert_eq!(events.reader(Start::Earliest)?.offset(), Offset::new(0));
/// assert_eq!(events.reader(Offset::new(1))?.offset(), Offset::new(1));
/// assert_eq!(events.reader(Timestamp::from_millis(1500))?.offset(), Offset::new(2));
/// assert_eq!(events.reader(Start::Latest)?.offset(), Offset::new(3));
/// # log.close()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At the first record that is there.
    Earliest,
    /// Behind the last record that the reader's isolation shows: only what comes is read.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// At the first record that is at least as late; where there is none, as [`Latest`](Start::Latest).
    Time(Timestamp),
}

impl From<Offset> for Start {
    fn from(offset: Offset) -> Start {
        Start::Offset(offset)
    }
}

impl From<Timestamp> for Start {
    fn from(at: Timestamp) -> Start {
        Start::Time(at)
    }
}

impl Start {
    /// Which offset that is now.
    pub(crate) fn resolve(self, core: &PartitionCore, isolation: Isolation) -> Result<Offset> {
        match self {
            Start::Earliest => Ok(core.ends.log_start()),
            Start::Latest => Ok(offsets(core).visible(isolation)),
            Start::Offset(offset) => Ok(offset),
            Start::Time(at) => {
                let found = offset_for(core, at)?;
                Ok(found.unwrap_or_else(|| offsets(core).visible(isolation)))
            }
        }
    }
}
