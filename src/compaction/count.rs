//! Counts the garbage of each segment with one merge of the digests. No log data is read.

use super::merge::{Found, Merge, Source, offset};
use super::tombstones::{TombstoneRule, Verdict};
use crate::compaction::plan::{Garbage, SegmentSummary};
use crate::error::Result;
use crate::offset::Timestamp;

/// Counts the garbage in each of the merged segments, given in the same order. Garbage that a segment's own digest
/// shows does not count here: see [`SegmentSummary`].
pub(crate) fn count_garbage(
    merge: Merge<'_>,
    segments: &[&SegmentSummary],
    rule: &TombstoneRule,
) -> Result<Vec<Garbage>> {
    let sources = merge.sources();
    assert_eq!(sources.len(), segments.len(), "each digest is one of a segment");
    let mut dead: Vec<Dead> = segments.iter().map(|segment| Dead::new(segment.first_append_at)).collect();
    let mut tombstones = Tombstones { sources, segments, rule, garbage: vec![Garbage::default(); sources.len()] };
    merge.run(|records| {
        for (at, pair) in records.windows(2).enumerate() {
            let [older, newer] = [&pair[0], &pair[1]];
            let is_dead = older.is_same_key(newer);
            let first_append_at = dead[newer.source as usize].first_append_at;
            dead[older.source as usize].add(older, is_dead, first_append_at);
            if older.tombstone && !is_dead {
                tombstones.count(records, at);
            }
        }
        if records.last().is_some_and(|last| last.tombstone) {
            tombstones.count(records, records.len() - 1);
        }
        Ok(())
    })?;
    let mut garbage = tombstones.garbage;
    for (garbage, dead) in garbage.iter_mut().zip(&dead) {
        garbage.dead_records = dead.records;
        garbage.dead_bytes = dead.bytes;
        garbage.since = (dead.records > 0).then_some(Timestamp::from_millis(dead.since));
    }
    Ok(garbage)
}

/// The dead records of a segment.
#[derive(Clone, Copy, Debug)]
struct Dead {
    records: u64,
    bytes: u64,
    /// The earliest time at which a newer record may have come.
    since: i64,
    first_append_at: i64,
}

impl Dead {
    fn new(first_append_at: Timestamp) -> Dead {
        Dead { records: 0, bytes: 0, since: i64::MAX, first_append_at: first_append_at.as_millis() }
    }

    /// Counts a record if it is dead. The branch would be unpredictable, so there is none. A record is garbage since
    /// the newer one was appended, which was no earlier than the first append to the newer one's segment.
    #[inline]
    fn add(&mut self, record: &Found, is_dead: bool, since: i64) {
        self.records += u64::from(is_dead);
        self.bytes += u64::from(record.record_bytes) * u64::from(is_dead);
        self.since = self.since.min(if is_dead { since } else { i64::MAX });
    }
}

/// The counts of tombstones by what they wait for.
struct Tombstones<'a> {
    sources: &'a [Source],
    segments: &'a [&'a SegmentSummary],
    rule: &'a TombstoneRule,
    garbage: Vec<Garbage>,
}

impl Tombstones<'_> {
    /// Counts record number `at`, a tombstone that is the latest record of its key.
    #[cold]
    fn count(&mut self, records: &[Found], at: usize) {
        let latest = &records[at];
        let horizons = &self.segments[latest.source as usize].horizons;
        let verdict = self.rule.verdict(offset(self.sources, latest), horizons);
        let counted = &mut self.garbage[latest.source as usize];
        match verdict {
            Verdict::MayGo => {
                counted.expired += 1;
                for older in records[..at].iter().rev().take_while(|older| older.is_same_key(latest)) {
                    self.garbage[older.source as usize].joins = true;
                }
            }
            Verdict::From(at) => counted.next_horizon = counted.next_horizon.into_iter().chain([at]).min(),
            Verdict::Held => counted.held += 1,
            Verdict::Pinned => counted.pinned += 1,
            Verdict::Unseen => {}
        }
    }
}

#[cfg(test)]
mod tests;
