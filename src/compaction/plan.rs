//! Decides what to compact: a pure function of the segments' metadata and counts.
//!
//! A segment is rewritten when
//!
//! - more than `min_cleanable_dirty_ratio` of its record bytes are garbage: superseded by a record in the same segment
//!   or in a later one, aborted, or without a key;
//! - some of its garbage is older than `max_compaction_lag`, by the wall time at which the newer records of the keys
//!   came;
//! - it has tombstones that may be removed, or older records of the keys that these delete;
//! - it has transaction markers without any remaining batches, and these may be removed or are to get a horizon. The
//!   horizon waits for `delete_retention`, during which the segment may be rewritten for another reason;
//! - it is small compared with its neighbours. Segments are merged only while no segment that is read for its size
//!   alone makes up more than half of the result. So a record is moved at most a logarithmic number of times.
//!
//! All other segments are left alone and not read. Only segments that end at or below the bound and have a digest are
//! considered. Once the plan is carried out, a new plan without new data finds nothing to do.

use std::ops::Range;
use std::time::Duration;

use crate::format::BATCH_HEADER_LEN;
use crate::format::digest::{DigestCounts, DigestEntry, Horizon, MarkerHorizon};
use crate::offset::{Offset, Timestamp};

/// The most bytes by which a marker grows when it gets a horizon, because its timestamp then counts from that horizon.
const HORIZON_MAX: u64 = 9;

/// The input of a plan for one sealed segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SegmentSummary {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    /// The size of its `.log`, in bytes.
    pub(crate) bytes: u64,
    /// The size of its larger index, in bytes.
    pub(crate) index_bytes: u64,
    /// The wall time of its first append. [`Timestamp::NONE`] means unknown and counts as long ago.
    pub(crate) first_append_at: Timestamp,
    /// The counts of its digest; `None` while it has no valid one.
    pub(crate) counts: Option<DigestCounts>,
    /// The horizons of its tombstones.
    pub(crate) horizons: Vec<Horizon>,
    /// The state of its markers; empty where that cannot be determined.
    pub(crate) markers: MarkerSummary,
}

/// The markers in a segment whose transactions have no batches left.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct MarkerSummary {
    /// The existing horizons, the earliest first.
    pub(crate) horizons: Vec<MarkerHorizon>,
    /// Since when some of them have had no horizon.
    pub(crate) without_since: Option<Timestamp>,
}

/// The garbage of a segment that only a comparison with other segments shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Garbage {
    /// Records whose keys have a newer record in a later segment. Only the last record of each key in this segment
    /// counts.
    pub(crate) dead_records: u64,
    /// Their bytes, uncompressed.
    pub(crate) dead_bytes: u64,
    /// The earliest time at which one of the newer records may have come.
    pub(crate) since: Option<Timestamp>,
    /// The number of tombstones that may be removed now.
    pub(crate) expired: u64,
    /// Whether it has older records of keys whose tombstones may be removed now.
    pub(crate) joins: bool,
    /// The earliest time at which other tombstones may be removed.
    pub(crate) next_horizon: Option<Timestamp>,
    /// Tombstones that could be removed, but a reader has not passed them.
    pub(crate) held: u64,
    /// Tombstones that could be removed, but a segment has no digest.
    pub(crate) pinned: u64,
}

/// Why a segment is rewritten: the first that applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Reason {
    /// Too large a share of it is garbage.
    Garbage,
    /// Some of its garbage is too old.
    Lag,
    /// It has tombstones that may be removed.
    Tombstones,
    /// It has older records of keys whose tombstones may be removed.
    Joins,
    /// It has markers that may be removed, or that are to get a horizon.
    Markers,
    /// It is small compared with its neighbours.
    Small,
}

/// Consecutive segments that become one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    /// The indexes of these segments.
    pub(crate) segments: Range<usize>,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    /// The approximate size of the result, in bytes.
    pub(crate) expected_bytes: u64,
    /// The reason for each of them.
    pub(crate) reasons: Vec<Reason>,
}

/// The rules that a plan follows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct PlanRules {
    pub(crate) now: Timestamp,
    /// Only segments that end here or below are compacted, or count as newer.
    pub(crate) bound: Offset,
    pub(crate) min_cleanable_dirty_ratio: f64,
    pub(crate) max_compaction_lag: Option<Duration>,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_index_bytes: u64,
    /// Tombstones and markers from here on stay, because a reader stands here, or because it is the bound.
    pub(crate) floor: Offset,
    pub(crate) delete_retention: Duration,
    /// When readers stop holding back tombstones.
    pub(crate) held_until: Option<Timestamp>,
}

/// How the transaction markers of a segment stand: removable now, held by a reader, or due later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct MarkersDue {
    /// Some may be removed now, or are to get a horizon.
    pub(crate) now: bool,
    /// Some could be removed, but a reader has not passed them.
    pub(crate) held: bool,
    /// When others become due.
    next: Option<Timestamp>,
}

impl MarkersDue {
    pub(crate) fn of(segment: &SegmentSummary, rules: &PlanRules) -> MarkersDue {
        let mut due = MarkersDue::default();
        let mut note = |at: Timestamp, held: bool| match at {
            at if at > rules.now => due.next = due.next.into_iter().chain([at]).min(),
            _ if held => due.held = true,
            _ => due.now = true,
        };
        for markers in &segment.markers.horizons {
            note(markers.at, markers.first >= rules.floor);
        }
        segment.markers.without_since.into_iter().for_each(|since| note(since.plus(rules.delete_retention), false));
        due
    }
}

/// The work to be done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Plan {
    /// In the order of their offsets. They must be carried out in this order.
    pub(crate) groups: Vec<Group>,
    /// When there is more to do, even if no record comes.
    pub(crate) next_deadline: Option<Timestamp>,
}

/// Decides what to compact. `garbage` holds one entry for each segment. Entries of segments that are not considered are
/// ignored.
pub(crate) fn plan(segments: &[SegmentSummary], garbage: &[Garbage], rules: &PlanRules) -> Plan {
    assert_eq!(segments.len(), garbage.len(), "the garbage of each segment");
    let mut items = Vec::new();
    let mut next_deadline = None;
    for (number, (segment, garbage)) in segments.iter().zip(garbage).enumerate() {
        let Some(counts) = segment.counts.filter(|_| segment.end <= rules.bound) else { continue };
        let markers = MarkersDue::of(segment, rules);
        let reason = reason(segment, &counts, garbage, rules).or(markers.now.then_some(Reason::Markers));
        items.push(Item::of(number, segment, &counts, garbage, reason));
        let lag = reason.is_none().then(|| lag_deadline(segment, &counts, garbage, rules)).flatten();
        let held = rules.held_until.filter(|_| garbage.held > 0 || markers.held);
        for deadline in [lag, held, garbage.next_horizon, markers.next].into_iter().flatten() {
            next_deadline = Some(next_deadline.map_or(deadline, |earliest: Timestamp| earliest.min(deadline)));
        }
    }
    while let Some(joined) = join(&items, rules) {
        items = joined;
    }
    let groups = items.into_iter().filter_map(Item::into_group).collect();
    Plan { groups, next_deadline }
}

/// The most garbage possible by now, if segments came after the last count. `None` stands for such a segment. If a plan
/// with this upper bound finds nothing to do, no count is needed.
pub(crate) fn could_be(segments: &[SegmentSummary], counted: &[Option<Garbage>], now: Timestamp) -> Vec<Garbage> {
    assert_eq!(segments.len(), counted.len(), "each segment, counted or not");
    // Each key of a new segment supersedes at most one record below it, of average size.
    let mut new_keys = 0;
    let mut new_since: Option<Timestamp> = None;
    let mut garbage: Vec<Garbage> = Vec::with_capacity(segments.len());
    for (segment, counted) in segments.iter().zip(counted).rev() {
        let Some(counts) = segment.counts else {
            garbage.push(Garbage::default());
            continue;
        };
        let mut most = counted.unwrap_or_default();
        let newly_dead = new_keys.min(counts.keys.saturating_sub(most.dead_records));
        if newly_dead > 0 {
            let bytes = u128::from(counts.key_bytes) * u128::from(newly_dead) / u128::from(counts.keys.max(1));
            most.dead_records += newly_dead;
            most.dead_bytes = (most.dead_bytes + bytes as u64 + 1).min(counts.key_bytes);
            most.since = most.since.into_iter().chain(new_since).min();
        }
        if counted.is_none() {
            new_keys += counts.keys;
            new_since = Some(new_since.map_or(segment.first_append_at, |since| since.min(segment.first_append_at)));
            most.next_horizon = segment.horizons.iter().map(|horizon| horizon.at).min();
        }
        if most.next_horizon.is_some_and(|at| at <= now) {
            (most.expired, most.next_horizon) = (1, None);
        }
        garbage.push(most);
    }
    garbage.reverse();
    garbage
}

fn reason(segment: &SegmentSummary, counts: &DigestCounts, garbage: &Garbage, rules: &PlanRules) -> Option<Reason> {
    let dead = dead_bytes(counts, garbage);
    let all = counts.record_bytes;
    if dead > 0 && (dead as f64 > rules.min_cleanable_dirty_ratio * all as f64 || dead == all) {
        Some(Reason::Garbage)
    } else if lag_deadline(segment, counts, garbage, rules).is_some_and(|deadline| deadline <= rules.now) {
        Some(Reason::Lag)
    } else if garbage.expired > 0 {
        Some(Reason::Tombstones)
    } else if garbage.joins {
        Some(Reason::Joins)
    } else {
        None
    }
}

/// The bytes of records that may be removed.
fn dead_bytes(counts: &DigestCounts, garbage: &Garbage) -> u64 {
    counts.record_bytes - counts.key_bytes + garbage.dead_bytes.min(counts.key_bytes)
}

/// When the oldest garbage of a segment must be removed.
fn lag_deadline(
    segment: &SegmentSummary,
    counts: &DigestCounts,
    garbage: &Garbage,
    rules: &PlanRules,
) -> Option<Timestamp> {
    let lag = rules.max_compaction_lag?;
    let inside = (counts.records > counts.keys).then_some(segment.first_append_at);
    // A clock that was ahead does not delay this by more than the lag.
    inside.into_iter().chain(garbage.since).min().map(|since| since.min(rules.now).plus(lag))
}

/// Segments that are to become one, or a single one that may be left alone.
#[derive(Clone, Debug)]
struct Item {
    segments: Range<usize>,
    base: Offset,
    end: Offset,
    /// The bytes that remain without its garbage.
    bytes: u64,
    index_bytes: u64,
    /// The size of the largest segment that is included only for its size, in bytes.
    largest_left_alone: u64,
    reasons: Vec<Option<Reason>>,
}

impl Item {
    fn of(
        number: usize,
        segment: &SegmentSummary,
        counts: &DigestCounts,
        garbage: &Garbage,
        reason: Option<Reason>,
    ) -> Item {
        let bytes = bytes_without_garbage(segment.bytes, counts, garbage);
        let index_bytes = u128::from(segment.index_bytes) * u128::from(bytes) / u128::from(segment.bytes.max(1));
        Item {
            segments: number..number + 1,
            base: segment.base,
            end: segment.end,
            bytes,
            index_bytes: index_bytes as u64,
            largest_left_alone: if reason.is_none() { segment.bytes } else { 0 },
            reasons: vec![reason],
        }
    }

    fn into_group(self) -> Option<Group> {
        if self.reasons == [None] {
            return None;
        }
        let reasons = self.reasons.into_iter().map(|reason| reason.unwrap_or(Reason::Small)).collect();
        let Item { segments, base, end, bytes, .. } = self;
        Some(Group { segments, base, end, expected_bytes: bytes, reasons })
    }
}

/// Estimates what remains of a segment without its garbage, and rather too much than too little. A batch keeps its
/// header as long as it keeps a record.
fn bytes_without_garbage(bytes: u64, counts: &DigestCounts, garbage: &Garbage) -> u64 {
    let dead = dead_bytes(counts, garbage);
    if dead == 0 {
        return bytes;
    }
    // All control batches may stay, and each may get a horizon.
    let controls = counts.control_bytes.saturating_add(counts.control_batches.saturating_mul(HORIZON_MAX)).min(bytes);
    let data = counts.batches - counts.control_batches;
    let header = BATCH_HEADER_LEN as u64;
    let headers = controls.saturating_add(data.saturating_mul(header));
    let live = u128::from(counts.record_bytes - dead) * u128::from(bytes.saturating_sub(headers))
        / u128::from(counts.record_bytes);
    let live_records = counts.keys - garbage.dead_records.min(counts.keys);
    // The last batch stays in any case.
    let left_headers = data.min(live_records + 1).saturating_mul(header);
    (live as u64).saturating_add(left_headers).saturating_add(controls).min(bytes)
}

/// Merges neighbours wherever the rules allow it. Returns `None` if they allow it nowhere.
fn join(items: &[Item], rules: &PlanRules) -> Option<Vec<Item>> {
    let mut joined: Vec<Item> = Vec::with_capacity(items.len());
    let mut start = 0;
    while start < items.len() {
        let end = longest_join(&items[start..], rules).map_or(start + 1, |len| start + len);
        let mut item = items[start].clone();
        for next in &items[start + 1..end] {
            item.segments.end = next.segments.end;
            item.end = next.end;
            item.bytes += next.bytes;
            item.index_bytes += next.index_bytes;
            item.reasons.extend_from_slice(&next.reasons);
            // A segment that is rewritten anyway does not count against a further neighbour.
            item.largest_left_alone = 0;
        }
        joined.push(item);
        start = end;
    }
    (joined.len() < items.len()).then_some(joined)
}

/// How many of the first items become one: as many as allowed, and at least two.
fn longest_join(items: &[Item], rules: &PlanRules) -> Option<usize> {
    let first = items.first()?;
    let (mut bytes, mut index_bytes, mut largest, mut next) = (0u64, 0u64, 0, first.segments.start);
    let mut longest = None;
    for (number, item) in items.iter().enumerate() {
        bytes = bytes.saturating_add(item.bytes);
        index_bytes = index_bytes.saturating_add(item.index_bytes);
        let fits = bytes <= rules.segment_bytes
            && index_bytes <= rules.segment_index_bytes
            && item.end.since(first.base) <= u64::from(DigestEntry::DELTA_MAX) + 1;
        if item.segments.start != next || number > 0 && !fits {
            break;
        }
        next = item.segments.end;
        largest = largest.max(item.largest_left_alone);
        if number > 0 && largest <= bytes / 2 {
            longest = Some(number + 1);
        }
    }
    longest
}

#[cfg(test)]
mod tests;
