//! What compaction remembers of a partition between passes, and what it tells by that whether there is work. Losing it
//! costs a look at the digests, or a count.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Cleanup, TopicConfig};
use crate::error::Error;
use crate::format::digest::{DigestCounts, Horizon, MarkerHorizon};
use crate::format::{Planned, State};
use crate::isolation;
use crate::offset::{Offset, Timestamp};
use crate::segment::Segment;
use crate::shared::Shared;
use crate::stats::{CompactionReport, PinnedBy};
use crate::view::View;

/// What a plan knows of a sealed segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SegmentFacts {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    /// Bytes of its `.log`.
    pub(crate) bytes: u64,
    /// Bytes of its larger index.
    pub(crate) index_bytes: u64,
    /// The wall time of its first append; [`Timestamp::NONE`] where nobody knows, which counts as long ago.
    pub(crate) first_append_at: Timestamp,
    /// What its digest counts; `None` while it has no valid one.
    pub(crate) counts: Option<DigestCounts>,
    /// The horizons of its tombstones.
    pub(crate) horizons: Vec<Horizon>,
    /// What may become of its markers; nothing where that cannot be told.
    pub(crate) markers: MarkerFacts,
}

/// The markers of a segment of whose transactions nothing is left.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct MarkerFacts {
    /// The horizons that some of them have, the earliest first.
    pub(crate) horizons: Vec<MarkerHorizon>,
    /// Since when there are some without a horizon.
    pub(crate) without_since: Option<Timestamp>,
}

/// The garbage of a segment that no one sees who looks at it alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Garbage {
    /// Records whose keys have a newer one in a later segment; of each key the last one in this segment counts.
    pub(crate) dead_records: u64,
    /// Their bytes, uncompressed.
    pub(crate) dead_bytes: u64,
    /// The earliest time at which one of the newer records may have come.
    pub(crate) since: Option<Timestamp>,
    /// Tombstones that may go now.
    pub(crate) expired: u64,
    /// Whether it has older records of keys whose tombstones may go now.
    pub(crate) joins: bool,
    /// The earliest time at which other tombstones may go.
    pub(crate) next_horizon: Option<Timestamp>,
    /// Tombstones that could go, but for a reader that has not passed them.
    pub(crate) held: u64,
    /// Tombstones that could go, but for a segment without a digest.
    pub(crate) pinned: u64,
}

/// Why a segment is rewritten: the first that applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Reason {
    /// Too much of it is garbage.
    Garbage,
    /// Some of its garbage is too old.
    Lag,
    /// It has tombstones that may go.
    Tombstones,
    /// It has older records of keys whose tombstones may go.
    Joins,
    /// It has markers that may go, or that are to get a horizon.
    Markers,
    /// It is small beside its neighbours.
    Small,
}

/// Segments that follow each other and become one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    /// Their numbers.
    pub(crate) segments: Range<usize>,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    /// Bytes of the result, about.
    pub(crate) expected_bytes: u64,
    /// Why, for each of them.
    pub(crate) reasons: Vec<Reason>,
}

/// What is remembered of a partition.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// By base and end of the segment.
    garbage: BTreeMap<(Offset, Offset), Garbage>,
    planned: Option<Planned>,
    /// What the last plan chose and was not carried out yet.
    rest: Vec<Group>,
    /// The end of the first segment with a tombstone that only a reader keeps from going.
    held_below: Option<Offset>,
    /// Segments with markers that are to get a horizon, by their bases, and since when.
    markers: BTreeMap<Offset, Timestamp>,
    /// Segments whose log is damaged, by their bases.
    pub(crate) damaged: BTreeMap<Offset, Error>,
    /// Tombstones in all digests, as of the last look.
    pub(crate) tombstones: Option<u64>,
}

/// Whether there is something to compact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Nothing, until this time comes or records do.
    Idle(Option<Timestamp>),
    /// There is, and had to be by the time that is given.
    Due(Option<Timestamp>),
}

impl Counted {
    /// What `state` has of it, where that is of the segments that are there.
    pub(crate) fn restored(state: &State, view: &View) -> Counted {
        let same = |planned: &Planned| {
            let found = view.sealed().iter().filter(|segment| segment.end() <= planned.to);
            let found = found.map(|segment| {
                let facts = segment.facts();
                (segment.base(), segment.end(), facts.id, facts.modified)
            });
            let known = state.segments.iter().filter(|segment| segment.end <= planned.to);
            // The active segment may end there too, empty.
            let known = known.filter(|segment| segment.base < state.active_base);
            found.eq(known.map(|segment| (segment.base, segment.end, segment.id, segment.modified)))
        };
        Counted { planned: state.planned.filter(same), ..Counted::default() }
    }

    /// What is worth being stored: nothing while a plan waits to be carried out, or for somebody who is not there after
    /// the next open.
    pub(crate) fn planned(&self) -> Option<Planned> {
        self.planned.filter(|_| self.rest.is_empty() && self.damaged.is_empty() && self.held_below.is_none())
    }

    /// The end of what was counted.
    pub(crate) fn counted_to(&self) -> Offset {
        self.planned.map_or(Offset::ZERO, |planned| planned.counted_to)
    }

    /// When the last plan has more to do.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.planned.and_then(|planned| planned.due)
    }

    /// Whether whoever kept tombstones from going has passed some of them: all below `floor` was read.
    pub(crate) fn is_passed(&self, floor: Offset) -> bool {
        self.held_below.is_some_and(|below| floor >= below)
    }

    /// Forgets the plan: the next pass makes another.
    pub(crate) fn forget_plan(&mut self) {
        self.planned = None;
        self.rest.clear();
    }

    /// What the last count said of a segment; `None` when it was not counted.
    pub(crate) fn garbage_of(&self, facts: &SegmentFacts, segment: &Segment) -> Option<Garbage> {
        if let Some(garbage) = self.garbage.get(&(facts.base, facts.end)) {
            return Some(*garbage);
        }
        let kept = segment.facts();
        (facts.end <= self.counted_to()).then(|| {
            let (records, bytes) = facts.counts.map_or((0, 0), |c| (c.records - c.keys, c.record_bytes - c.key_bytes));
            let dead_records = u64::from(kept.dead_records).saturating_sub(records);
            let dead_bytes = u64::from(kept.dead_bytes).saturating_sub(bytes);
            Garbage { dead_records, dead_bytes, ..Garbage::default() }
        })
    }

    /// Takes note of a count.
    pub(crate) fn set_garbage(&mut self, garbage: BTreeMap<(Offset, Offset), Garbage>, held_below: Option<Offset>) {
        (self.garbage, self.held_below) = (garbage, held_below);
    }

    /// Since when a segment has markers that are to get a horizon. Where that is not remembered it counts from the seal:
    /// the next rewrite is not put off for it.
    pub(crate) fn markers_since(&mut self, segment: &Segment, now: Timestamp) -> Timestamp {
        *self.markers.entry(segment.base()).or_insert_with(|| segment.facts().sealed_at.min(now))
    }

    /// Something was rewritten, and a segment that was not has markers now that are to get a horizon by this time.
    pub(crate) fn note_markers(&mut self, base: Offset, now: Timestamp, delete_retention: Duration) {
        let since = *self.markers.entry(base).or_insert(now);
        self.lower_due(since.plus_millis(millis(delete_retention)));
    }

    /// There is more to do from this time on, whatever was planned.
    pub(crate) fn lower_due(&mut self, at: Timestamp) {
        if let Some(planned) = &mut self.planned {
            planned.due = planned.due.into_iter().chain([at]).min();
        }
    }

    /// A segment took the place of others, and has no garbage that is known.
    pub(crate) fn replaced(&mut self, olds: &[Arc<Segment>], base: Offset, end: Offset) {
        for old in olds {
            self.garbage.remove(&(old.base(), old.end()));
            self.markers.remove(&old.base());
        }
        self.garbage.insert((base, end), Garbage::default());
        self.rest.retain(|group| group.end > end || group.base < base);
    }

    /// Takes note of a plan; `counted` says that it went by a count.
    pub(crate) fn set_plan(&mut self, config: &TopicConfig, to: Offset, counted: bool, due: Option<Timestamp>) {
        let counted_to = if counted { to } else { self.counted_to() };
        self.planned = Some(Planned { to, counted_to, due, rules: rules_sum(config) });
    }

    pub(crate) fn set_rest(&mut self, rest: &[Group]) {
        self.rest = rest.to_vec();
    }

    /// What is left to be carried out, where its segments are still there.
    pub(crate) fn rest(&self, facts: &[SegmentFacts]) -> Vec<Group> {
        let place = |group: &Group| {
            let first = facts.binary_search_by_key(&group.base, |facts| facts.base).ok()?;
            let segments = first..first + group.segments.len();
            let there = facts.get(segments.clone())?;
            let same = there.last()?.end == group.end && there.iter().all(|facts| facts.counts.is_some());
            same.then(|| Group { segments, ..group.clone() })
        };
        self.rest.iter().filter_map(place).collect()
    }
}

/// The sealed segments that may be compacted: those that end below everything that must not be relied on yet.
pub(crate) fn eligible<'v>(
    shared: &Shared,
    view: &'v View,
    config: &TopicConfig,
    now: Timestamp,
) -> &'v [Arc<Segment>] {
    let bound = bounds(shared).into_iter().map(|(offset, _)| offset).min().unwrap_or(Offset::MAX);
    let lag = lag_of(config);
    let may = |segment: &&Arc<Segment>| segment.end() <= bound && segment.facts().sealed_at.plus_millis(lag) <= now;
    let count = view.sealed().iter().take_while(may).count();
    &view.sealed()[..count]
}

/// Whether there is something to compact, told without looking at any file.
pub(crate) fn standing(shared: &Shared, now: Timestamp) -> Standing {
    let config = shared.config();
    if config.cleanup == Cleanup::Delete {
        return Standing::Idle(None);
    }
    let view = shared.view.load();
    let eligible = eligible(shared, &view, &config, now);
    let next = view.sealed().get(eligible.len());
    let lagging = next.map(|segment| segment.facts().sealed_at.plus_millis(lag_of(&config)));
    let lagging = lagging.filter(|until| *until > now);
    let Some(last) = eligible.last() else { return Standing::Idle(lagging) };
    let counted = shared.lock_counted();
    let Some(planned) = counted.planned else { return Standing::Due(None) };
    let due = planned.due.filter(|due| *due <= now);
    let floor = || shared.pins.lowest(last.end()).map_or(last.end(), |(offset, _)| offset);
    if due.is_some()
        || planned.rules != rules_sum(&config)
        || last.end() > planned.to
        || !counted.rest.is_empty()
        || counted.held_below.is_some() && counted.is_passed(floor())
    {
        return Standing::Due(due);
    }
    Standing::Idle(planned.due.into_iter().chain(lagging).min())
}

/// What a compaction reports that finds nothing to do.
pub(crate) fn idle(shared: &Shared, now: Timestamp, next_deadline: Option<Timestamp>) -> CompactionReport {
    let (view, config) = (shared.view.load(), shared.config());
    let segments = eligible(shared, &view, &config, now);
    let counted = shared.lock_counted();
    let damaged = counted.damaged.values().cloned().collect();
    let end = segments.last().map_or(Offset::ZERO, |last| last.end());
    let held_by = counted.held_below.and_then(|_| shared.pins.lowest(end));
    let held_by = held_by.map(|(offset, name)| (name.unwrap_or_else(|| "a reader".to_owned()), offset));
    CompactionReport { segments: segments.len(), damaged, held_by, next_deadline, ..CompactionReport::default() }
}

/// What keeps sealed segments, or tombstones in them, from being compacted.
pub(crate) fn pinned_by(shared: &Shared, now: Timestamp) -> Vec<PinnedBy> {
    let (view, config) = (shared.view.load(), shared.config());
    let eligible = eligible(shared, &view, &config, now);
    let mut pinned = Vec::new();
    if let Some(segment) = view.sealed().get(eligible.len()) {
        let below = bounds(shared).into_iter().filter(|(offset, _)| *offset < segment.end());
        pinned.extend(below.map(|(offset, by)| by(offset)));
        let until = segment.facts().sealed_at.plus_millis(lag_of(&config));
        pinned.extend((until > now).then_some(PinnedBy::MinCompactionLag(until)));
    }
    let counted = shared.lock_counted();
    let end = eligible.last().map_or(Offset::ZERO, |last| last.end());
    if counted.tombstones.is_none_or(|tombstones| tombstones > 0)
        && let Some((offset, name)) = shared.pins.lowest(end)
    {
        pinned.push(match name {
            Some(name) => PinnedBy::Position { name, offset },
            None => PinnedBy::Reader(offset),
        });
    }
    pinned.extend(counted.damaged.values().cloned().map(PinnedBy::Damage));
    pinned
}

/// An offset below which everything has to be, and what to call it.
type Bound = (Offset, fn(Offset) -> PinnedBy);

fn bounds(shared: &Shared) -> Vec<Bound> {
    let offsets = isolation::offsets(shared);
    let mut bounds: Vec<Bound> = vec![
        (offsets.durable.min(shared.recorded_active()), PinnedBy::Unsynced),
        (offsets.high_watermark, PinnedBy::HighWatermark),
        (offsets.last_stable, PinnedBy::Transaction),
    ];
    let undecided = shared.lock_active().first_undecided(shared);
    bounds.extend(undecided.map(|offset| -> Bound { (offset, PinnedBy::Transaction) }));
    bounds.extend(shared.pins.owner_bound().map(|offset| -> Bound { (offset, PinnedBy::Owner) }));
    bounds
}

fn lag_of(config: &TopicConfig) -> i64 {
    millis(config.min_compaction_lag)
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The checksum of all that a plan depends on.
fn rules_sum(config: &TopicConfig) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&config.min_cleanable_dirty_ratio.to_bits().to_be_bytes());
    for time in [Some(config.min_compaction_lag), config.max_compaction_lag, Some(config.delete_retention)] {
        sum.update(&time.map_or(u128::MAX, |time| time.as_millis()).to_be_bytes());
    }
    sum.update(&config.segment_bytes.to_be_bytes());
    sum.update(&config.segment_index_bytes.to_be_bytes());
    sum.finalize()
}
