//! Counting the garbage of each segment by one merge of the digests; no log data is read for it.

use super::merge::{Found, Merge, offset};
use super::plan::{Garbage, SegmentFacts};
use super::tombstones::{TombstoneRule, Verdict};
use crate::error::Result;
use crate::offset::Timestamp;

/// Counts what is garbage in each of the merged segments, given in the same order. What a segment's own digest tells
/// does not count here: see [`SegmentFacts`].
pub(crate) fn count_garbage(
    merge: Merge<'_>,
    segments: &[&SegmentFacts],
    rule: &TombstoneRule,
) -> Result<Vec<Garbage>> {
    let sources = merge.sources();
    assert_eq!(sources.len(), segments.len(), "each digest is one of a segment");
    let first_appends: Vec<Timestamp> = segments.iter().map(|segment| segment.first_append_at).collect();
    let mut garbage = vec![Garbage::default(); sources.len()];
    merge.run(|records| {
        for pair in records.windows(2) {
            let [older, newer] = [&pair[0], &pair[1]];
            let counted = &mut garbage[older.source as usize];
            counted.dead_records += 1;
            counted.dead_bytes += u64::from(older.record_bytes);
            // It is garbage since the newer one was appended, which was no earlier than this.
            let since = first_appends[newer.source as usize];
            counted.since = Some(counted.since.map_or(since, |earliest| earliest.min(since)));
        }
        match records.split_last() {
            Some((latest, older)) if latest.tombstone => {
                let horizons = &segments[latest.source as usize].horizons;
                let verdict = rule.verdict(offset(sources, latest), horizons);
                count_tombstone(&mut garbage, verdict, latest, older);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(garbage)
}

fn count_tombstone(garbage: &mut [Garbage], verdict: Verdict, latest: &Found, older: &[Found]) {
    let counted = &mut garbage[latest.source as usize];
    match verdict {
        Verdict::MayGo => {
            counted.expired += 1;
            for record in older {
                garbage[record.source as usize].joins = true;
            }
        }
        Verdict::From(at) => counted.next_horizon = Some(counted.next_horizon.map_or(at, |earliest| earliest.min(at))),
        Verdict::Held => counted.held += 1,
        Verdict::Pinned => counted.pinned += 1,
        Verdict::Unseen => {}
    }
}
