//! Decides when a tombstone may be removed.
//!
//! A tombstone tells readers that saw an older record of its key that the key is deleted. It is removed when
//!
//! - its horizon has passed: at least `delete_retention` has passed since a plan first saw it;
//! - no reader or registered position that compaction waits for is at or below it;
//! - no older record of its key remains on durable media when it goes. All of them lie in segments that the same
//!   compaction rewrites, and it swaps its groups in from the lowest offset on. Also, no segment below lacks its
//!   digest, because such a segment could hold an older record.
//!
//! A horizon belongs to a range of offsets. A segment as appended has one. When compaction merges segments, their
//! horizons are kept separately in the annex of the digest. With one common horizon, each new segment that joins would
//! delay the removal of all tombstones before it. In a log that is always written to, that would be for ever.

use std::ops::Range;
use std::time::Duration;

use crate::format::digest::Horizon;
use crate::offset::{Offset, Timestamp};

/// Horizons are rounded to multiples of this share of `delete_retention`. So the tombstones of many segments are
/// removed in one compaction, and a segment made of many has few horizons.
const STEPS: i64 = 16;
/// The most horizons that a segment keeps. Only changes of `delete_retention` cause more.
const HORIZONS_MAX: usize = 64;

/// Returns the horizon of tombstones that a plan sees for the first time.
pub(crate) fn horizon(now: Timestamp, delete_retention: Duration) -> Timestamp {
    let at = now.plus(delete_retention);
    let step = (at.millis_since(now) / STEPS).max(1);
    let at = at.as_millis();
    let over = at.rem_euclid(step);
    Timestamp::from_millis(if over == 0 { at } else { at.saturating_add(step - over) })
}

/// The horizons of a segment: those in its digest's annex, or the one kept for the whole segment.
pub(crate) fn horizons_of(end: Offset, annex: &[Horizon], whole: Option<Timestamp>) -> Vec<Horizon> {
    match whole {
        _ if !annex.is_empty() => annex.to_vec(),
        Some(at) => vec![Horizon { end, at }],
        None => Vec::new(),
    }
}

/// The horizon of a tombstone at this offset; `None` if no plan has seen it.
#[inline]
pub(crate) fn horizon_at(horizons: &[Horizon], offset: Offset) -> Option<Timestamp> {
    horizons.iter().find(|horizon| offset < horizon.end).map(|horizon| horizon.at)
}

/// Returns the horizons of the segment that results from merging these segments, in the order of their offsets. Each
/// segment comes with its offsets and its horizons; it has none if it has no tombstones. Horizons that have passed by
/// `now` become one.
///
/// A segment may be given in part; then only the horizons of these offsets are taken.
pub(crate) fn join_horizons<'h>(
    segments: impl IntoIterator<Item = (Range<Offset>, &'h [Horizon])>,
    now: Timestamp,
) -> Vec<Horizon> {
    let mut joined: Vec<Horizon> = Vec::new();
    for (offsets, horizons) in segments {
        let first = horizons.partition_point(|horizon| horizon.end <= offsets.start);
        for horizon in &horizons[first..] {
            let (end, at) = (horizon.end.min(offsets.end), horizon.at);
            match joined.last_mut() {
                Some(last) if last.at == at || last.at.max(at) <= now => *last = Horizon { end, at: last.at.max(at) },
                _ => joined.push(Horizon { end, at }),
            }
            if end == offsets.end {
                break;
            }
        }
    }
    // Merge the first horizons: they are the oldest, and waiting longer costs them least.
    if let Some(excess) = joined.len().checked_sub(HORIZONS_MAX) {
        let latest = joined.drain(..excess).map(|horizon| horizon.at).max();
        joined[0].at = latest.map_or(joined[0].at, |latest| latest.max(joined[0].at));
    }
    joined
}

/// Decides on the tombstones of one compaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TombstoneRule {
    /// The current time.
    pub(crate) now: Timestamp,
    /// Tombstones from here on stay, because a reader stands here, or because it is the bound of the compaction.
    pub(crate) floor: Offset,
    /// The base of the lowest segment without a digest.
    pub(crate) pinned_from: Option<Offset>,
}

/// The decision on a tombstone that is the last record of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It may be removed, if all older records of its key are removed with it or were removed before.
    MayGo,
    /// It may be removed from this time on.
    From(Timestamp),
    /// A reader has not passed it.
    Held,
    /// A segment below could hold older records of its key.
    Pinned,
    /// No plan has seen it.
    Unseen,
}

impl TombstoneRule {
    /// Whether a superfluous marker at `offset` with this horizon is removed: every reader that compaction waits for
    /// has passed it.
    pub(crate) fn lets_go(&self, at: Timestamp, offset: Offset) -> bool {
        at <= self.now && offset < self.floor
    }

    /// Decides on the tombstone at `offset`, in a segment with these horizons.
    pub(crate) fn verdict(&self, offset: Offset, horizons: &[Horizon]) -> Verdict {
        match horizon_at(horizons, offset) {
            None => Verdict::Unseen,
            Some(at) if at > self.now => Verdict::From(at),
            Some(_) if self.pinned_from.is_some_and(|base| base <= offset) => Verdict::Pinned,
            Some(_) if offset >= self.floor => Verdict::Held,
            Some(_) => Verdict::MayGo,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn horizons(of: &[(u64, i64)]) -> Vec<Horizon> {
        of.iter().map(|&(end, millis)| Horizon { end: Offset::new(end), at: at(millis) }).collect()
    }

    #[test]
    fn a_horizon_is_never_early_and_at_most_one_step_late() {
        for now in [-1_000_001, -1, 0, 1, 999, 1_700_000_000_123] {
            for retention in [0, 1, 15, 16, 17, 1000, 86_400_000] {
                let late = horizon(at(now), Duration::from_millis(retention)).as_millis() - now - retention as i64;
                assert!((0..=retention as i64 / STEPS).contains(&late), "{now} {retention}: {late}");
            }
        }
        assert_eq!(horizon(at(5), Duration::MAX), at(i64::MAX));
    }

    #[test]
    fn segments_sealed_in_one_step_expire_together() {
        let day = Duration::from_secs(86_400);
        assert_eq!(horizon(at(10_000_000), day), horizon(at(10_000_500), day));
    }

    fn range(offsets: Range<u64>) -> Range<Offset> {
        Offset::new(offsets.start)..Offset::new(offsets.end)
    }

    #[test]
    fn each_stretch_keeps_its_own_horizon_and_those_that_have_passed_are_one() {
        let (a, b, c) = (horizons(&[(10, 50), (20, 60)]), horizons(&[(30, 200)]), horizons(&[(40, 150), (50, 150)]));
        let segments = [(0..20, &a), (20..25, &Vec::new()), (25..30, &b), (30..50, &c)];
        let joined = join_horizons(segments.map(|(offsets, h)| (range(offsets), &h[..])), at(100));
        assert_eq!(joined, horizons(&[(20, 60), (30, 200), (50, 150)]));
        for (offset, expected) in [(0, 60), (19, 60), (20, 200), (29, 200), (30, 150), (49, 150)] {
            assert_eq!(horizon_at(&joined, Offset::new(offset)), Some(at(expected)));
        }
        assert_eq!(horizon_at(&joined, Offset::new(50)), None);
    }

    #[test]
    fn a_part_of_a_segment_takes_the_horizons_of_its_offsets() {
        let all = horizons(&[(10, 50), (20, 60), (30, 70)]);
        assert_eq!(join_horizons([(range(0..15), &all[..])], at(0)), horizons(&[(10, 50), (15, 60)]));
        assert_eq!(join_horizons([(range(15..30), &all[..])], at(0)), horizons(&[(20, 60), (30, 70)]));
        assert_eq!(join_horizons([(range(10..20), &all[..])], at(0)), horizons(&[(20, 60)]));
    }

    #[test]
    fn the_number_of_horizons_is_bounded_and_none_gets_earlier() {
        let many: Vec<_> = (0..1000).map(|i| (i + 1, 10_000 - (i as i64 * 7919) % 1000)).collect();
        let all = horizons(&many);
        let joined = join_horizons([(range(0..1000), &all[..])], at(0));
        assert_eq!(joined.len(), HORIZONS_MAX);
        for offset in (0..1000).map(Offset::new) {
            assert!(horizon_at(&joined, offset) >= horizon_at(&all, offset));
        }
    }

    #[test]
    fn a_tombstone_stays_for_each_of_the_reasons() {
        let rule = TombstoneRule { now: at(100), floor: Offset::new(50), pinned_from: None };
        let passed = horizons(&[(60, 100)]);
        let verdict = |rule: &TombstoneRule, offset, horizons: &[Horizon]| rule.verdict(Offset::new(offset), horizons);
        assert_eq!(verdict(&rule, 49, &passed), Verdict::MayGo);
        assert_eq!(verdict(&rule, 50, &passed), Verdict::Held);
        assert_eq!(verdict(&rule, 49, &horizons(&[(60, 101)])), Verdict::From(at(101)));
        assert_eq!(verdict(&rule, 49, &[]), Verdict::Unseen);
        let pinned = TombstoneRule { pinned_from: Some(Offset::new(20)), ..rule };
        assert_eq!(verdict(&pinned, 20, &passed), Verdict::Pinned);
        assert_eq!(verdict(&pinned, 19, &passed), Verdict::MayGo);
    }
}
