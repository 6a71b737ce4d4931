//! Which segments may be compacted, whether there is work, and what keeps other segments from compaction. No file is
//! read.

use std::sync::Arc;

use crate::compaction::state::Standing;
use crate::config::{Cleanup, TopicConfig};
use crate::offset::{Offset, Timestamp};
use crate::partition::core::PartitionCore;
use crate::partition::visibility;
use crate::partition::{CompactionReport, PinnedBy};
use crate::segment::Segment;
use crate::segment::list::SegmentList;

/// Returns the sealed segments that may be compacted. They end below everything that must not be relied on yet (see
/// `bounds`), and they were sealed at least `min_compaction_lag` ago.
pub(crate) fn eligible<'v>(
    core: &PartitionCore,
    view: &'v SegmentList,
    config: &TopicConfig,
    now: Timestamp,
) -> &'v [Arc<Segment>] {
    let bound = bounds(core).into_iter().map(|(offset, _)| offset).min().unwrap_or(Offset::MAX);
    let lag = config.min_compaction_lag;
    let may = |segment: &&Arc<Segment>| segment.end() <= bound && segment.meta().sealed_at.plus(lag) <= now;
    let count = view.sealed().iter().take_while(may).count();
    &view.sealed()[..count]
}

/// Returns whether there is something to compact, without reading any file.
pub(crate) fn standing(core: &PartitionCore, now: Timestamp) -> Standing {
    let config = core.config();
    if config.cleanup == Cleanup::Delete {
        return Standing::Idle(None);
    }
    let view = core.view.load();
    let eligible = eligible(core, &view, &config, now);
    let next = view.sealed().get(eligible.len());
    let lagging = next.map(|segment| segment.meta().sealed_at.plus(config.min_compaction_lag));
    let lagging = lagging.filter(|until| *until > now);
    let Some(last) = eligible.last() else { return Standing::Idle(lagging) };
    let floor = || core.pins.lowest(last.end()).map_or(last.end(), |(offset, _)| offset);
    let standing = core.lock_compaction_state().standing(&config, last.end(), now, floor);
    match standing {
        Standing::Idle(due) => Standing::Idle(due.into_iter().chain(lagging).min()),
        due => due,
    }
}

/// The report of a compaction that finds nothing to do.
pub(crate) fn idle(core: &PartitionCore, now: Timestamp, next_deadline: Option<Timestamp>) -> CompactionReport {
    let (view, config) = (core.view.load(), core.config());
    let segments = eligible(core, &view, &config, now);
    let counted = core.lock_compaction_state();
    let damaged = counted.damaged.values().cloned().collect();
    let end = segments.last().map_or(Offset::ZERO, |last| last.end());
    let held_by = if counted.is_held() { core.pins.lowest(end) } else { None };
    let held_by = held_by.map(|(offset, name)| (name.unwrap_or_else(|| "a reader".to_owned()), offset));
    CompactionReport { segments: segments.len(), damaged, held_by, next_deadline, ..CompactionReport::default() }
}

/// Returns what keeps sealed segments, or tombstones in them, from being compacted.
pub(crate) fn pinned_by(core: &PartitionCore, now: Timestamp) -> Vec<PinnedBy> {
    let (view, config) = (core.view.load(), core.config());
    let eligible = eligible(core, &view, &config, now);
    let mut pinned = Vec::new();
    if let Some(segment) = view.sealed().get(eligible.len()) {
        let below = bounds(core).into_iter().filter(|(offset, _)| *offset < segment.end());
        pinned.extend(below.map(|(offset, by)| by(offset)));
        let until = segment.meta().sealed_at.plus(config.min_compaction_lag);
        pinned.extend((until > now).then_some(PinnedBy::MinCompactionLag(until)));
    }
    let counted = core.lock_compaction_state();
    let end = eligible.last().map_or(Offset::ZERO, |last| last.end());
    if counted.tombstones.is_none_or(|tombstones| tombstones > 0)
        && let Some((offset, name)) = core.pins.lowest(end)
    {
        pinned.push(match name {
            Some(name) => PinnedBy::Position { name, offset },
            None => PinnedBy::Reader(offset),
        });
    }
    pinned.extend(counted.damaged.values().cloned().map(PinnedBy::Damage));
    pinned
}

/// An offset below which a segment must end, and the reason that is reported.
type Bound = (Offset, fn(Offset) -> PinnedBy);

fn bounds(core: &PartitionCore) -> Vec<Bound> {
    let offsets = visibility::offsets(core);
    let mut bounds: Vec<Bound> = vec![
        (offsets.durable.min(core.recorded_active()), PinnedBy::Unsynced),
        (offsets.high_watermark, PinnedBy::HighWatermark),
        (offsets.last_stable, PinnedBy::Transaction),
    ];
    let undecided = core.lock_active().first_undecided(core);
    bounds.extend(undecided.map(|offset| -> Bound { (offset, PinnedBy::Transaction) }));
    bounds.extend(core.pins.owner_bound().map(|offset| -> Bound { (offset, PinnedBy::Owner) }));
    bounds
}
