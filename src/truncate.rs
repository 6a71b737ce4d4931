//! Cutting a partition back, and starting it over at another offset.
//!
//! `state` says first what is to be done; a crash at any point has recovery do it again from its first step.

use std::sync::Arc;

use crate::active::Active;
use crate::durability::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Pending;
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::{Offset, Timestamp};
use crate::pending::Holders;
use crate::replay::Replay;
use crate::segment::index::{SegmentIndex, Sums};
use crate::segment::scan::Check;
use crate::segment::{Facts, Place, Segment};
use crate::shared::Shared;
use crate::survey::{Ends, look, walk};
use crate::view::View;

/// Removes every batch that holds an offset at or above `to`. `lossy`: even below what compaction relied on.
pub(crate) fn truncate(shared: &Shared, to: Offset, lossy: bool) -> Result<Offset> {
    let _pass = shared.lock_maintenance();
    let end = truncate_locked(shared, &mut shared.lock_active(), to, lossy)?;
    shared.tails.truncated(shared.end());
    Ok(end)
}

fn truncate_locked(shared: &Shared, active: &mut Active, to: Offset, lossy: bool) -> Result<Offset> {
    shared.check_writable()?;
    shared.durability.finish_roll(shared)?;
    let end = active.segment().end();
    if to >= end {
        return Ok(end);
    }
    let start = shared.ends.log_start();
    if to < start {
        return Err(ErrorKind::OffsetOutOfRange { requested: to, start, end }.into());
    }
    let view = shared.view.load();
    let to = batch_boundary(&view, to)?.0;
    let relied_on = shared.state().max_winner_offset.map_or(Offset::ZERO, |winner| winner + 1);
    if to < relied_on && !lossy {
        // The batch that holds it goes whole, or stays whole.
        let lowest = batch_boundary(&view, relied_on)?.1;
        return Err(ErrorKind::TruncateBelowCompacted { lowest }.into());
    }
    if to < start {
        // The batch that holds `start` goes, and nothing is left. The log does not end below its start.
        return start_over(shared, active, start).map(|()| start);
    }
    let held = shared.durability.hold();
    shared.begin_cut();
    let done = cut_back(shared, active, &held, to);
    shared.end_cut();
    if let Err(error) = &done {
        // Half done; opening anew completes it.
        shared.poison(error);
    }
    done.map(|()| to)
}

/// Starts over, empty, at `to`: below, within or beyond the log.
pub(crate) fn reset(shared: &Shared, to: Offset) -> Result<()> {
    let _pass = shared.lock_maintenance();
    let mut active = shared.lock_active();
    shared.check_writable()?;
    shared.durability.finish_roll(shared)?;
    start_over(shared, &mut active, to)?;
    drop(active);
    shared.tails.truncated(shared.end());
    Ok(())
}

fn start_over(shared: &Shared, active: &mut Active, to: Offset) -> Result<()> {
    let held = shared.durability.hold();
    shared.begin_cut();
    let done = (|| {
        shared.update_state(|state| state.pending = Pending::Reset(to))?;
        for segment in shared.view.load().segments() {
            segment.close_file();
        }
        active.let_go();
        shared.redo(Pending::Reset(to), Holders::Partition)?;
        let segment = reopen(&shared.place, to, to, 0)?;
        shared.ends.set_log_start(to);
        // Else what is appended next would be above it one moment, and below it the next.
        shared.ends.set_high_watermark(to);
        shared.lock_epochs().truncate_from_end(Offset::ZERO);
        // What was replicated is gone, and nothing of what comes is.
        shared.ends.set_high_watermark(shared.high_watermark().min(to));
        adopt(shared, active, &held, vec![segment], Replay::new(Default::default()), to)?;
        shared.ends.set_high_watermark(to);
        Ok(())
    })();
    shared.end_cut();
    if let Err(error) = &done {
        shared.poison(error);
    }
    done
}

/// The end of the last batch that lies below `to` whole, and the lowest place at or above `to` that no batch holds.
fn batch_boundary(view: &View, to: Offset) -> Result<(Offset, Offset)> {
    let Some(segment) = view.from(to).first() else { return Ok((to, to)) };
    if to <= segment.base() {
        return Ok((to, to));
    }
    let data = segment.open()?;
    let (mut below, mut above) = (segment.base(), to);
    let len = segment.len();
    walk(&*data.file, segment.base(), (0, len), segment.base(), Check::Header, |found| {
        let header = found.batch.header();
        if header.next_offset() <= to {
            below = header.next_offset();
        } else if header.base_offset < to {
            above = header.next_offset();
        }
        Ok(())
    })?;
    Ok((below, above))
}

fn cut_back(shared: &Shared, active: &mut Active, held: &Held<'_>, to: Offset) -> Result<()> {
    let durable = shared.durability.end().min(to);
    shared.update_state(|state| {
        state.pending = Pending::Truncate(to);
        state.durable_end = state.durable_end.min(durable);
        state.high_watermark = state.high_watermark.min(to);
    })?;
    let view = shared.view.load();
    for segment in view.segments() {
        if segment.end() > to {
            segment.close_file();
        }
    }
    active.let_go();
    let in_use = view.from(to).first().is_some_and(|segment| segment.base() <= to && !segment.begin_cut());
    let holders = if in_use { Holders::Readers } else { Holders::Partition };
    shared.redo(Pending::Truncate(to), holders)?;
    let state = shared.state();
    let mut segments: Vec<Arc<Segment>> =
        view.segments().iter().filter(|segment| segment.base() < state.active_base).cloned().collect();
    let active_segment = reopen(&shared.place, state.active_base, state.durable_end, state.durable_position)?;
    if !active_segment.is_empty() {
        // The writer goes on from the largest timestamp of what is left; its age counts on.
        active_segment.max_timestamp()?;
        let before = view.segments().iter().find(|segment| segment.base() == state.active_base);
        let first_append_at = before.map_or(Timestamp::NONE, |segment| segment.facts().first_append_at);
        active_segment.update_facts(|facts| facts.first_append_at = first_append_at);
    }
    segments.push(active_segment);

    let found = look(&shared.place, Some(&shared.whole_state()?), Ends::Walked)?;
    let mut replay = Replay::new(Default::default());
    replay.producers_before(&shared.place, &found.logs, &found.snapshots, to, shared.high_watermark(), None)?;
    shared.lock_epochs().truncate_from_end(to);
    shared.store_epochs()?;
    shared.ends.set_high_watermark(shared.high_watermark().min(to));
    adopt(shared, active, held, segments, replay, to)
}

/// Puts what is left in the place of what was there.
fn adopt(
    shared: &Shared,
    active: &mut Active,
    held: &Held<'_>,
    segments: Vec<Arc<Segment>>,
    replay: Replay,
    end: Offset,
) -> Result<()> {
    let last = Arc::clone(segments.last().expect("a partition always has an active segment"));
    shared.view.update(|_| Some(View::new(segments)));
    // It counted records as dead because of ones that are gone.
    *shared.lock_counted() = Default::default();
    held.reset(shared, end);
    active.restart(shared, last, replay.producers);
    shared.pins.truncated();
    Ok(())
}

/// The segment that is the active one now.
fn reopen(place: &Arc<Place>, base: Offset, end: Offset, len: u64) -> Result<Arc<Segment>> {
    let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let info = place.storage.info(&path).map_err(|e| Error::io(e, &path))?;
    let index = if len == 0 { SegmentIndex::empty() } else { SegmentIndex::of(Sums::default()) };
    Ok(Segment::new(place, base, (len, end), false, Facts::new(info.id), index))
}
