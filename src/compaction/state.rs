//! The compaction state that a partition keeps between passes, and whether it shows work to do. Losing it costs reading
//! the digests again, or a new count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::TopicConfig;
use crate::error::Error;
use crate::format::{Planned, State};
use crate::offset::{Offset, Timestamp};
use crate::segment::Segment;
use crate::segment::list::SegmentList;

use super::plan::{Garbage, Group, SegmentSummary};

/// The compaction state of a partition.
#[derive(Debug, Default)]
pub(crate) struct CompactionState {
    /// The garbage by base and end of the segment.
    garbage: BTreeMap<(Offset, Offset), Garbage>,
    planned: Option<Planned>,
    /// The groups of the last plan that were not carried out yet.
    rest: Vec<Group>,
    /// The end of the first segment with a tombstone that only a reader holds back.
    held_below: Option<Offset>,
    /// Segments with markers that are to get a horizon, by their bases, and since when.
    markers: BTreeMap<Offset, Timestamp>,
    /// Segments whose log is damaged, by their bases.
    pub(crate) damaged: BTreeMap<Offset, Error>,
    /// The number of tombstones in all digests, when they were last read.
    pub(crate) tombstones: Option<u64>,
}

/// Whether there is something to compact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// There is nothing to do until this time, or until new records come.
    Idle(Option<Timestamp>),
    /// There is work to do, and it was due by this time.
    Due(Option<Timestamp>),
}

impl CompactionState {
    /// Restores the plan from `state` if it describes the present segments.
    pub(crate) fn restored(state: &State, view: &SegmentList) -> CompactionState {
        let same = |planned: &Planned| {
            let found = view.sealed().iter().filter(|segment| segment.end() <= planned.to);
            let found = found.map(|segment| {
                let facts = segment.meta();
                (segment.base(), segment.end(), facts.id, facts.modified)
            });
            let known = state.segments.iter().filter(|segment| segment.end <= planned.to);
            // The active segment may also end there, if it is empty.
            let known = known.filter(|segment| segment.base < state.active_base);
            found.eq(known.map(|segment| (segment.base, segment.end, segment.id, segment.modified)))
        };
        CompactionState { planned: state.planned.filter(same), ..CompactionState::default() }
    }

    /// Whether there is something to compact in segments that end at `end`. `floor` is the offset that all readers have
    /// passed.
    pub(crate) fn standing(
        &self,
        config: &TopicConfig,
        end: Offset,
        now: Timestamp,
        floor: impl FnOnce() -> Offset,
    ) -> Standing {
        let Some(planned) = self.planned else { return Standing::Due(None) };
        let due = planned.due.filter(|due| *due <= now);
        if due.is_some()
            || planned.rules != rules_sum(config)
            || end > planned.to
            || !self.rest.is_empty()
            || self.held_below.is_some() && self.is_passed(floor())
        {
            return Standing::Due(due);
        }
        Standing::Idle(planned.due)
    }

    /// Whether only a reader holds tombstones back.
    pub(crate) fn is_held(&self) -> bool {
        self.held_below.is_some()
    }

    /// The part worth storing. There is none while a plan waits to be carried out, a segment is damaged, or tombstones
    /// wait for a reader, which will be gone after the next open.
    pub(crate) fn planned(&self) -> Option<Planned> {
        self.planned.filter(|_| self.rest.is_empty() && self.damaged.is_empty() && self.held_below.is_none())
    }

    /// The end of the counted segments.
    pub(crate) fn counted_to(&self) -> Offset {
        self.planned.map_or(Offset::ZERO, |planned| planned.counted_to)
    }

    /// When the last plan has more to do.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.planned.and_then(|planned| planned.due)
    }

    /// Whether the reader that held tombstones back has passed some of them: everything below `floor` was read.
    pub(crate) fn is_passed(&self, floor: Offset) -> bool {
        self.held_below.is_some_and(|below| floor >= below)
    }

    /// Discards the plan, so that the next pass makes another.
    pub(crate) fn forget_plan(&mut self) {
        self.planned = None;
        self.rest.clear();
    }

    /// The last count of a segment, or `None` if it was not counted.
    pub(crate) fn garbage_of(&self, facts: &SegmentSummary, segment: &Segment) -> Option<Garbage> {
        if let Some(garbage) = self.garbage.get(&(facts.base, facts.end)) {
            return Some(*garbage);
        }
        let kept = segment.meta();
        (facts.end <= self.counted_to()).then(|| {
            let (records, bytes) = facts.counts.map_or((0, 0), |c| (c.records - c.keys, c.record_bytes - c.key_bytes));
            let dead_records = u64::from(kept.dead_records).saturating_sub(records);
            let dead_bytes = u64::from(kept.dead_bytes).saturating_sub(bytes);
            Garbage { dead_records, dead_bytes, ..Garbage::default() }
        })
    }

    /// Records a count.
    pub(crate) fn set_garbage(&mut self, garbage: BTreeMap<(Offset, Offset), Garbage>, held_below: Option<Offset>) {
        (self.garbage, self.held_below) = (garbage, held_below);
    }

    /// Since when a segment has had markers that are to get a horizon. If that is unknown it counts from the seal, so
    /// that the next rewrite is not delayed.
    pub(crate) fn markers_since(&mut self, segment: &Segment, now: Timestamp) -> Timestamp {
        *self.markers.entry(segment.base()).or_insert_with(|| segment.meta().sealed_at.min(now))
    }

    /// Records that a rewrite has left an unrewritten segment with markers that are to get a horizon after
    /// `delete_retention`.
    pub(crate) fn note_markers(&mut self, base: Offset, now: Timestamp, delete_retention: Duration) {
        let since = *self.markers.entry(base).or_insert(now);
        self.lower_due(since.plus(delete_retention));
    }

    /// Makes more work due from this time on, whatever was planned.
    pub(crate) fn lower_due(&mut self, at: Timestamp) {
        if let Some(planned) = &mut self.planned {
            planned.due = planned.due.into_iter().chain([at]).min();
        }
    }

    /// Records that a segment took the place of others. It has no known garbage.
    pub(crate) fn replaced(&mut self, olds: &[Arc<Segment>], base: Offset, end: Offset) {
        for old in olds {
            self.garbage.remove(&(old.base(), old.end()));
            self.markers.remove(&old.base());
        }
        self.garbage.insert((base, end), Garbage::default());
        self.rest.retain(|group| group.end > end || group.base < base);
    }

    /// Records a plan. `counted` says that it is based on a count.
    pub(crate) fn set_plan(&mut self, config: &TopicConfig, to: Offset, counted: bool, due: Option<Timestamp>) {
        let counted_to = if counted { to } else { self.counted_to() };
        self.planned = Some(Planned { to, counted_to, due, rules: rules_sum(config) });
    }

    pub(crate) fn set_rest(&mut self, rest: &[Group]) {
        self.rest = rest.to_vec();
    }

    /// The groups still to be carried out whose segments still exist.
    pub(crate) fn rest(&self, facts: &[SegmentSummary]) -> Vec<Group> {
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

/// The checksum of all configuration that a plan depends on.
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
