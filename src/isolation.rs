//! What may be seen of a partition: up to which offset, and what of it was aborted.

use crate::error::Result;
use crate::offset::Offset;
use crate::shared::Shared;
use crate::transactions::{self, AbortedRange};
use crate::view::View;

/// How far a reader may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Everything appended: up to the log end. A power cut may take back what is not durable yet.
    #[default]
    End,
    /// Up to the high watermark.
    HighWatermark,
    /// Up to the last stable offset; records of aborted transactions are told by
    /// [`Fetch::aborted`](crate::Fetch::aborted), and left out by a [`Reader`](crate::Reader).
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
    /// As its owner set it; the log end where nobody manages it.
    pub high_watermark: Offset,
    /// No transaction is open below it.
    pub last_stable: Offset,
}

impl Offsets {
    /// One past the last offset that a reader of this isolation sees.
    pub fn visible(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::End => self.end,
            Isolation::HighWatermark => self.high_watermark,
            Isolation::Committed => self.last_stable,
            Isolation::Durable => self.durable,
        }
    }
}

/// The partition's offsets at this moment, in an order that keeps `start <= last_stable <= high_watermark <= end`.
pub(crate) fn offsets(shared: &Shared) -> Offsets {
    let start = shared.ends.log_start();
    let last_stable = shared.last_stable();
    let high_watermark = shared.high_watermark();
    let durable = shared.durability.end();
    let end = shared.end();
    Offsets { start, end, durable: durable.min(end), high_watermark, last_stable }
}

/// The aborted transactions that have records in `[from, to)`. Their markers may lie in any later segment.
pub(crate) fn aborted_in(shared: &Shared, view: &View, from: Offset, to: Offset) -> Result<Vec<AbortedRange>> {
    let mut entries = Vec::new();
    // Segments that the view does not have yet may have a marker that the stable end has passed.
    let now = shared.view.load();
    let newer = now.segments().iter().filter(|segment| segment.base() > view.active().base());
    for segment in view.from(from).iter().chain(newer) {
        let aborted = segment.aborted()?;
        let aborted = match aborted {
            Some(aborted) => aborted,
            None => {
                let holder = if segment.base() > view.active().base() { &now } else { view };
                shared.rebuild_aborted(holder, segment)?;
                segment.aborted()?.unwrap_or_default()
            }
        };
        let done = aborted.iter().any(|entry| entry.last_stable_offset >= to);
        entries.extend(aborted);
        if done {
            break;
        }
    }
    Ok(transactions::collect(entries, from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Marker, RecordBatch, end_marker};
    use crate::{FetchOptions, Log, LogConfig, Partition, Record, Timestamp, TopicConfig};

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// Two offsets: a record, and the marker that aborts it.
    fn abort(partition: &Partition) {
        let mut builder = RecordBatch::builder().producer(7, 0, 0).transactional(true);
        builder.push(&Record::new("k", "aborted"), NOW).unwrap();
        partition.append(&builder.build().unwrap()).unwrap();
        partition.append(&end_marker(Marker::Abort, 7, 0, 0, NOW).unwrap()).unwrap();
    }

    #[test]
    fn a_transaction_that_is_aborted_while_the_others_are_found_again_is_not_forgotten() {
        let storage = crate::sim::SimStorage::new();
        let config = LogConfig::new().storage(crate::sync::Arc::new(storage)).min_free_bytes(0);
        let log = Log::open("/log", config.maintenance_interval(None).sync_threads(0)).unwrap();
        let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
        (0..3).for_each(|_| abort(&partition));
        // The index file of what is left is not what it should be.
        partition.truncate(Offset::new(4)).unwrap();
        abort(&partition);
        let segment = crate::sync::Arc::clone(partition.shared.view.load().active());
        assert!(segment.aborted().unwrap().is_none());
        let view = partition.shared.view.load();
        partition.shared.rebuild_aborted(&view, &segment).unwrap();
        let found = segment.aborted().unwrap().unwrap();
        partition.truncate(Offset::new(4)).unwrap();
        abort(&partition);
        let segment = crate::sync::Arc::clone(partition.shared.view.load().active());
        segment
            .find_aborted(|end| {
                assert_eq!(end, Offset::new(6));
                abort(&partition);
                Ok(found)
            })
            .unwrap();
        let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
        let firsts: Vec<u64> = partition
            .fetch(Offset::ZERO, options)
            .unwrap()
            .aborted
            .iter()
            .map(|aborted| aborted.first_offset.get())
            .collect();
        assert_eq!(firsts, [0, 2, 4, 6]);
        let mut reader = partition.reader_with(Offset::ZERO, options).unwrap();
        assert!(reader.next_record().unwrap().is_none(), "nothing is committed");
    }
}
