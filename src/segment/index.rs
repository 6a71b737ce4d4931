//! The sparse indexes of a segment: offset to position, timestamp to offset.
//!
//! Both are caches of the `.log` (I10). A stored index is trusted only while its CRC-32 matches the one in the
//! partition's `state`. Otherwise it is rebuilt from the batch headers.

use crate::format::{AbortedTxn, BatchHeader, IndexSum, OffsetIndexEntry, SegmentState, TimeIndexEntry};
use crate::offset::{Offset, Timestamp};

/// The sums of a segment's stored index files. `None` means unknown: that index must be recovered.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(crate) struct Sums {
    pub(crate) offsets: Option<IndexSum>,
    pub(crate) times: Option<IndexSum>,
    pub(crate) aborted: Option<IndexSum>,
}

impl From<&SegmentState> for Sums {
    fn from(known: &SegmentState) -> Sums {
        Sums { offsets: known.offsets, times: known.times, aborted: known.aborted }
    }
}

impl Sums {
    /// Keeps the sums of files that have only grown since. A file with fewer entries in `now` was rewritten.
    pub(crate) fn still_in(self, now: &Sums) -> Sums {
        let kept = |old: Option<IndexSum>, now: Option<IndexSum>| {
            old.filter(|old| now.is_some_and(|now| now.entries >= old.entries))
        };
        Sums {
            offsets: kept(self.offsets, now.offsets),
            times: kept(self.times, now.times),
            aborted: kept(self.aborted, now.aborted),
        }
    }
}

/// Numbers of entries in the three indexes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entries {
    pub(crate) offsets: u32,
    pub(crate) times: u32,
    pub(crate) aborted: u32,
}

/// Stands for an unknown number of entries. No file is large enough to hold this many.
const UNKNOWN: u32 = u32::MAX;

/// The indexes of one segment: the sums of its stored files, and the newer entries in memory.
#[derive(Clone, Debug)]
pub(crate) struct SegmentIndex {
    /// For offsets, times and aborted transactions. There are many segments, and options would take half as much memory
    /// again.
    stored: [IndexSum; 3],
    /// Most segments have none.
    recent: Option<Box<Recent>>,
}

/// Entries that are not stored.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) offsets: Vec<OffsetIndexEntry>,
    pub(crate) times: Vec<TimeIndexEntry>,
    pub(crate) aborted: Vec<AbortedTxn>,
}

static NO_ENTRIES: Recent = Recent { offsets: Vec::new(), times: Vec::new(), aborted: Vec::new() };

impl SegmentIndex {
    /// The indexes of a segment without entries.
    pub(crate) fn empty() -> SegmentIndex {
        let none = Some(IndexSum::default());
        SegmentIndex::of(Sums { offsets: none, times: none, aborted: none })
    }

    /// The indexes as stored in the files of a segment.
    pub(crate) fn of(stored: Sums) -> SegmentIndex {
        let stored = [stored.offsets, stored.times, stored.aborted];
        let unknown = IndexSum { entries: UNKNOWN, crc: 0 };
        SegmentIndex { stored: stored.map(|sum| sum.unwrap_or(unknown)), recent: None }
    }

    /// The sums of the stored entries.
    pub(crate) fn stored(&self) -> Sums {
        let [offsets, times, aborted] = self.stored.map(|sum| Some(sum).filter(|sum| sum.entries != UNKNOWN));
        Sums { offsets, times, aborted }
    }

    /// Changes the sums of the stored entries.
    pub(crate) fn set_stored(&mut self, change: impl FnOnce(&mut Sums)) {
        let mut stored = self.stored();
        change(&mut stored);
        self.stored = SegmentIndex::of(stored).stored;
    }

    /// The entries that are not stored.
    pub(crate) fn recent(&self) -> &Recent {
        self.recent.as_deref().unwrap_or(&NO_ENTRIES)
    }

    /// The same, mutable.
    #[inline]
    pub(crate) fn recent_mut(&mut self) -> &mut Recent {
        self.recent.get_or_insert_with(|| Box::new(NO_ENTRIES.clone()))
    }

    /// Frees the memory for unstored entries when there are none.
    pub(crate) fn shrink(&mut self) {
        if self.is_stored() {
            self.recent = None;
        }
    }

    /// Whether all entries are stored.
    pub(crate) fn is_stored(&self) -> bool {
        let Recent { offsets, times, aborted } = self.recent();
        offsets.is_empty() && times.is_empty() && aborted.is_empty()
    }

    /// The number of entries, stored or not.
    pub(crate) fn entries(&self) -> Entries {
        let count = |sum: Option<IndexSum>, recent: usize| sum.unwrap_or_default().entries + recent as u32;
        let (stored, Recent { offsets, times, aborted }) = (self.stored(), self.recent());
        Entries {
            offsets: count(stored.offsets, offsets.len()),
            times: count(stored.times, times.len()),
            aborted: count(stored.aborted, aborted.len()),
        }
    }
}

/// Decides which batches get index entries, as Kafka does (docs/format.md, "Indexes").
#[derive(Clone, Debug)]
pub(crate) struct Indexer {
    base: Offset,
    interval: u64,
    since_entry: u64,
    /// The largest timestamp so far, and the last offset of the batch that has it.
    largest: (Timestamp, Offset),
    /// The timestamp of the last time entry.
    last_time: Timestamp,
}

impl Indexer {
    /// Starts at the first batch of a segment.
    pub(crate) fn new(base: Offset, interval: u64) -> Indexer {
        Indexer { base, interval, since_entry: 0, largest: (Timestamp::NONE, base), last_time: Timestamp::NONE }
    }

    /// Resumes in a segment whose largest timestamp alone is known. The next time entry waits for a larger one.
    pub(crate) fn resume(base: Offset, interval: u64, largest: Timestamp, end: Offset) -> Indexer {
        Indexer { base, interval, since_entry: interval + 1, largest: (largest, end), last_time: largest }
    }

    /// The largest timestamp seen.
    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.largest.0
    }

    /// Records a batch written at `position`. The entry becomes due before this batch is counted, so the first entry
    /// never describes position 0.
    #[inline]
    pub(crate) fn note(
        &mut self,
        header: &BatchHeader,
        position: u64,
    ) -> Option<(OffsetIndexEntry, Option<TimeIndexEntry>)> {
        if header.max_timestamp > self.largest.0 {
            self.largest = (header.max_timestamp, header.last_offset());
        }
        let due = self.since_entry > self.interval;
        if due {
            self.since_entry = 0;
        }
        self.since_entry += header.size as u64;
        due.then(|| {
            let offset = header.last_offset().since(self.base) as u32;
            (OffsetIndexEntry { offset, position: position as u32 }, self.time_entry())
        })
    }

    /// Returns the last time entry of a segment that is being sealed, for its largest timestamp.
    pub(crate) fn finish(&mut self) -> Option<TimeIndexEntry> {
        self.time_entry()
    }

    fn time_entry(&mut self) -> Option<TimeIndexEntry> {
        let (timestamp, offset) = self.largest;
        (timestamp > self.last_time).then(|| {
            self.last_time = timestamp;
            TimeIndexEntry { timestamp, offset: offset.since(self.base) as u32 }
        })
    }
}

/// The index entries around a target offset. The walk to the target begins at the floor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    /// The wanted offset. Offsets are relative to the base.
    pub(super) target: u32,
    /// The last entry at or below the target, or the start of the segment.
    pub(super) floor: OffsetIndexEntry,
    /// The entry after the floor, if it is known.
    pub(super) next: Option<OffsetIndexEntry>,
}

impl Around {
    /// The start of the segment.
    pub(super) fn start(target: u32) -> Around {
        Around { target, floor: OffsetIndexEntry { offset: 0, position: 0 }, next: None }
    }

    /// The approximate number of bytes between the floor and the target, if known.
    pub(super) fn distance(&self) -> Option<u64> {
        let (floor, next) = (self.floor, self.next?);
        let bytes = u64::from(next.position.checked_sub(floor.position)?);
        let offsets = next.offset.checked_sub(floor.offset)?;
        (bytes * u64::from(self.target.saturating_sub(floor.offset))).checked_div(u64::from(offsets))
    }
}

/// The entries around `target` (relative to the base) in the bytes of an `.index`.
pub(super) fn around(bytes: &[u8], target: u32) -> Around {
    let (entries, _) = bytes.as_chunks::<{ OffsetIndexEntry::LEN }>();
    let entry = |index: usize| entries.get(index).and_then(|entry| OffsetIndexEntry::decode(entry));
    let after = behind(entries, target);
    let start = Around::start(target);
    Around { floor: after.checked_sub(1).and_then(entry).unwrap_or(start.floor), next: entry(after), ..start }
}

/// Counts the entries with an offset of at most `target`. Offsets grow about evenly, so the search begins where the
/// entry would then be and continues in doubling steps. This touches only a few cache lines.
fn behind(entries: &[[u8; OffsetIndexEntry::LEN]], target: u32) -> usize {
    let offset = |at: usize| OffsetIndexEntry::decode(&entries[at]).map_or(u32::MAX, |entry| entry.offset);
    let Some(top) = entries.len().checked_sub(1) else { return 0 };
    let (first, last) = (offset(0), offset(top));
    if target < first {
        return 0;
    }
    if target >= last {
        return entries.len();
    }
    let share = u64::from(target - first) * top as u64 / u64::from(last - first);
    // The last entry known to be at most the target, and the first one known to lie above it.
    let (mut low, mut high, mut step) = (0, top, 1);
    let mut probe = (share as usize).min(top - 1);
    if offset(probe) <= target {
        while probe < high && offset(probe) <= target {
            low = probe;
            probe += step;
            step *= 2;
        }
        high = high.min(probe);
    } else {
        while probe > low && offset(probe) > target {
            high = probe;
            probe = probe.saturating_sub(step);
            step *= 2;
        }
        low = low.max(probe);
    }
    low + 1
        + entries[low + 1..high]
            .partition_point(|entry| OffsetIndexEntry::decode(entry).is_some_and(|e| e.offset <= target))
}

/// The last entry with a timestamp below `timestamp` in the bytes of a `.timeindex`. Every record before its offset is
/// older than `timestamp`.
pub(crate) fn before_time(bytes: &[u8], timestamp: Timestamp) -> Option<TimeIndexEntry> {
    let (entries, _) = bytes.as_chunks::<{ TimeIndexEntry::LEN }>();
    let is_before = |entry: &[u8; _]| TimeIndexEntry::decode(entry).is_some_and(|entry| entry.timestamp < timestamp);
    let count = entries.partition_point(is_before);
    entries.get(count.checked_sub(1)?).and_then(|entry| TimeIndexEntry::decode(entry))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Steps between offsets: equal, with outliers, or arbitrary as in a damaged index.
    fn steps() -> impl Strategy<Value = Vec<u32>> {
        let step = prop_oneof![8 => 20..24u32, 2 => 0..3u32, 1 => 0..3_000_000u32];
        vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn a_lookup_finds_what_a_search_from_the_front_finds(steps in steps(), targets in vec(any::<u32>(), 20)) {
            let offsets = steps.iter().scan(0u32, |offset, step| {
                *offset = offset.saturating_add(*step);
                Some(*offset)
            });
            let offsets: Vec<u32> = offsets.collect();
            let entries: Vec<_> =
                offsets.iter().map(|&offset| OffsetIndexEntry { offset, position: offset }.encode()).collect();
            let top = offsets.last().copied().unwrap_or(0);
            let near = targets.iter().map(|target| target % top.saturating_add(30).max(1));
            for target in near.chain(offsets.iter().copied()) {
                let expected = offsets.iter().take_while(|offset| **offset <= target).count();
                prop_assert_eq!(behind(&entries, target), expected, "{} in {:?}", target, offsets);
            }
        }

        #[test]
        fn entries_in_any_order_end_a_lookup(offsets in vec(0..50u32, 0..40), target in 0..60u32) {
            let entries: Vec<_> =
                offsets.iter().map(|&offset| OffsetIndexEntry { offset, position: 0 }.encode()).collect();
            prop_assert!(behind(&entries, target) <= entries.len());
        }
    }
}
