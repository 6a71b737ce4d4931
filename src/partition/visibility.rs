//! The visible part of a partition: up to which offset, and which of its transactions were aborted.

use crate::error::Result;
use crate::offset::Offset;
use crate::replay::transactions::{self, AbortedRange};
use crate::segment::list::SegmentList;
use crate::sync::atomic::Ordering;

use super::core::PartitionCore;
use super::isolation::Offsets;

impl PartitionCore {
    /// The log end offset.
    #[inline]
    pub(crate) fn end(&self) -> Offset {
        self.ends.log_end()
    }

    /// The high watermark: the one that the owner set, or the log end if the high watermark is not managed.
    #[inline]
    pub(crate) fn high_watermark(&self) -> Offset {
        self.high_watermark_if(self.config_cache.managed.load(Ordering::Acquire))
    }

    /// The high watermark for this value of `managed`.
    #[inline]
    pub(crate) fn high_watermark_if(&self, managed: bool) -> Offset {
        self.ends.high_watermark(managed)
    }

    /// The last stable offset: at most the high watermark, with no open transaction below it.
    #[inline]
    pub(crate) fn last_stable(&self) -> Offset {
        self.ends.last_stable(self.config_cache.managed.load(Ordering::Acquire))
    }

    /// The high watermark once the log ends at `end`.
    pub(crate) fn high_watermark_at(&self, end: Offset) -> Offset {
        if self.config_cache.managed.load(Ordering::Acquire) { self.high_watermark() } else { end }
    }
}

/// Loads the partition's offsets in an order that keeps `start <= last_stable <= high_watermark <= end`.
pub(crate) fn offsets(core: &PartitionCore) -> Offsets {
    let start = core.ends.log_start();
    let last_stable = core.last_stable();
    let high_watermark = core.high_watermark();
    let durable = core.group_commit.end();
    let end = core.end();
    Offsets { start, end, durable: durable.min(end), high_watermark, last_stable }
}

/// Returns the aborted transactions that have records in `[from, to)`. Their markers may lie in any later segment.
pub(crate) fn aborted_in(
    core: &PartitionCore,
    view: &SegmentList,
    from: Offset,
    to: Offset,
) -> Result<Vec<AbortedRange>> {
    let mut entries = Vec::new();
    // A marker below the last stable offset may be in a segment that is newer than the caller's segment list.
    let now = core.view.load();
    let newer = now.segments().iter().filter(|segment| segment.base() > view.active().base());
    for segment in view.from(from).iter().chain(newer) {
        let aborted = segment.aborted()?;
        let aborted = match aborted {
            Some(aborted) => aborted,
            None => {
                let holder = if segment.base() > view.active().base() { &now } else { view };
                core.rebuild_aborted(holder, segment)?;
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
    use super::super::isolation::Isolation;
    use super::*;
    use crate::format::{Marker, RecordBatch, end_marker};
    use crate::{FetchOptions, Log, LogConfig, Partition, Record, Timestamp, TopicConfig};

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// Appends two offsets: a record, and the marker that aborts it.
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
        // The index file of the remaining segment is not what it should be.
        partition.truncate(Offset::new(4)).unwrap();
        abort(&partition);
        let segment = crate::sync::Arc::clone(partition.core.view.load().active());
        assert!(segment.aborted().unwrap().is_none());
        let view = partition.core.view.load();
        partition.core.rebuild_aborted(&view, &segment).unwrap();
        let found = segment.aborted().unwrap().unwrap();
        partition.truncate(Offset::new(4)).unwrap();
        abort(&partition);
        let segment = crate::sync::Arc::clone(partition.core.view.load().active());
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
