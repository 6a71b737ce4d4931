//! Truncating a partition, and resetting it to another offset.
//!
//! The `state` file first records what is to be done. After a crash at any point recovery does it again from its first
//! step.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Pending;
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::{Offset, Timestamp};
use crate::partition::active::Active;
use crate::partition::core::PartitionCore;
use crate::partition::group_commit::Held;
use crate::partition::redo::Holders;
use crate::partition::waiters::Wakes;
use crate::replay::producers::Producers;
use crate::replay::{Nobody, Replay};
use crate::segment::cut_point::{CutPoint, cut_point};
use crate::segment::index::{SegmentIndex, Sums};
use crate::segment::list::SegmentList;
use crate::segment::listing::{LogFile, snapshots};
use crate::segment::replace;
use crate::segment::{PartitionDir, Segment, SegmentMeta};

/// Removes every batch that holds an offset at or above `to`. The part below the cut is checked first: damage there is
/// an error, and nothing has changed. Damage above is removed with the cut. `lossy`: also cuts below what compaction
/// relied on, and at damage below `to` cuts at the last good batch before it.
pub(crate) fn truncate(core: &PartitionCore, to: Offset, lossy: bool) -> Result<Offset> {
    let pass = core.lock_maintenance();
    let truncated = truncate_locked(core, &mut core.lock_active(), to, lossy);
    drop(pass);
    tell(core, truncated)
}

/// Wakes the waiters for what is gone, with no lock held, whether the truncation succeeded or not.
fn tell<T>(core: &PartitionCore, done: Result<(T, Wakes)>) -> Result<T> {
    let done = done.map(|(done, wakes)| {
        wakes.call();
        done
    });
    core.tell();
    done
}

/// Waiters for what is gone fail before anything is appended in its place.
fn truncate_locked(core: &PartitionCore, active: &mut Active, to: Offset, lossy: bool) -> Result<(Offset, Wakes)> {
    core.check_writable()?;
    core.finish_roll()?;
    let end = active.segment().end();
    if to >= end {
        return Ok((end, Wakes::default()));
    }
    let start = core.ends.log_start();
    if to < start {
        return Err(ErrorKind::OffsetOutOfRange { requested: to, start, end }.into());
    }
    let view = core.view.load();
    let (to, producers) = what_stays(core, active, &view, to, lossy)?;
    if !lossy {
        check_relied_on(core, &view, to)?;
    }
    if to < start {
        // The batch that holds `start` is removed, and nothing is left. The log does not end below its start.
        return start_over(core, active, start).map(|wakes| (start, wakes));
    }
    // From here on everything below the cut is durable, and `state` records that. So bytes missing there after a crash
    // are damage, not a torn tail.
    core.sync_quietly(to)?;
    let held = core.group_commit.hold();
    core.cuts.begin();
    let done = prepare_cut(core, active, &view, to).map(|holders| {
        let done = cut_back(core, active, &held, to, producers, holders);
        // The cut is half done. The next open completes it.
        done.inspect_err(|error| core.poison(error))
    });
    core.cuts.end();
    done.flatten().map(|()| (to, core.waiters.truncated(to)))
}

/// Closes the files that are removed or cut. If readers hold bytes beyond the cut, the rest of that file is copied
/// first: a full disk is then found while nothing has changed.
fn prepare_cut(core: &PartitionCore, active: &mut Active, view: &SegmentList, to: Offset) -> Result<Holders> {
    active.let_go();
    let behind = &view.segments()[view.segments().partition_point(|segment| segment.end() <= to)..];
    let prepared = close_behind(behind, || match behind.first().filter(|segment| segment.base() <= to) {
        Some(segment) => copy_if_held(core, segment, to),
        None => Ok(Holders::Partition),
    });
    prepared.inspect_err(|_| behind.iter().for_each(|segment| segment.end_cut()))
}

/// Closes the files of segments that are removed or cut. No new holds can be taken on them, nor on later files that get
/// the same name and inode. `prepare` may open the first file again.
fn close_behind<T>(behind: &[Arc<Segment>], prepare: impl FnOnce() -> T) -> T {
    for segment in behind {
        segment.begin_cut();
        segment.close_file();
    }
    let prepared = prepare();
    behind.iter().for_each(|segment| segment.close_file());
    prepared
}

fn copy_if_held(core: &PartitionCore, segment: &Segment, to: Offset) -> Result<Holders> {
    let file = Arc::clone(&segment.open()?.file);
    if file.held() == 0 {
        return Ok(Holders::Partition);
    }
    let position = cut_point_of(segment, to)?.position;
    if file.held() <= position {
        return Ok(Holders::Partition);
    }
    replace::copy_prefix(&core.dir, &*file, segment.base(), position)?;
    Ok(Holders::Readers)
}

/// Returns where the log ends once no batch reaches beyond `to`, and the producers at that end. Reads everything that
/// the truncation must read below `to`, so that damage is found before anything has changed.
fn what_stays(
    core: &PartitionCore,
    active: &Active,
    view: &SegmentList,
    to: Offset,
    lossy: bool,
) -> Result<(Offset, Producers)> {
    let mut end = cut_below(view, to, lossy)?;
    loop {
        match producers_before(core, active, view, end) {
            Ok(producers) => return Ok((end, producers)),
            Err(error) if lossy && error.is_corruption() => {
                let damaged = |segment: &&Arc<Segment>| error.path() == Some(&*segment.path()) && segment.base() < end;
                let Some(segment) = view.segments().iter().find(damaged) else { return Err(error) };
                match cut_point_of(segment, end)?.end {
                    before if before < end => end = before,
                    // The medium returned different bytes this time.
                    _ => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns the end of the last batch that is completely below `to`.
fn cut_below(view: &SegmentList, to: Offset, lossy: bool) -> Result<Offset> {
    let Some(segment) = view.from(to).first().filter(|segment| segment.base() < to) else { return Ok(to) };
    let cut = cut_point_of(segment, to)?;
    match cut.damage {
        Some(what) if !lossy => Err(Error::corrupt(&segment.path(), cut.position, what)),
        _ => Ok(cut.end),
    }
}

fn cut_point_of(segment: &Segment, to: Offset) -> Result<CutPoint> {
    let data = segment.open()?;
    cut_point(&*data.file, segment.base(), segment.len(), Some(segment.end()), to)
        .map_err(|e| e.at_path(&segment.path()))
}

/// Returns the producers as they were at `end`.
fn producers_before(core: &PartitionCore, active: &Active, view: &SegmentList, end: Offset) -> Result<Producers> {
    let logs: Vec<LogFile> = view.segments().iter().map(|segment| LogFile::of(segment)).collect();
    let snapshots = snapshots(&core.dir)?;
    let nobody = if active.producers().is_empty() { Nobody::Later } else { Nobody::Never };
    let mut replay = Replay::new(Default::default());
    replay.producers_before(&core.dir, &logs, &snapshots, end, core.high_watermark(), nobody)?;
    Ok(replay.producers)
}

/// Compaction removed records because of newer ones below a remembered offset. Those newer records must stay.
fn check_relied_on(core: &PartitionCore, view: &SegmentList, to: Offset) -> Result<()> {
    let relied_on = core.state().max_winner_offset.map_or(Offset::ZERO, |winner| winner + 1);
    if to >= relied_on {
        return Ok(());
    }
    // The batch that holds the offset is removed or kept as a whole. If damage hides which batch that is, the segment's
    // end is used: no batch reaches across it.
    let holder = view.from(relied_on).first().filter(|segment| segment.base() < relied_on);
    let lowest = match holder {
        Some(segment) => {
            let cut = cut_point_of(segment, relied_on)?;
            if cut.damage.is_some() { segment.end() } else { cut.above }
        }
        None => relied_on,
    };
    Err(ErrorKind::TruncateBelowCompacted { lowest }.into())
}

/// Resets the partition, empty, to `to`: below, within or beyond the log.
pub(crate) fn reset(core: &PartitionCore, to: Offset) -> Result<()> {
    let pass = core.lock_maintenance();
    let reset = reset_locked(core, &mut core.lock_active(), to);
    drop(pass);
    tell(core, reset.map(|wakes| ((), wakes)))
}

fn reset_locked(core: &PartitionCore, active: &mut Active, to: Offset) -> Result<Wakes> {
    core.check_writable()?;
    core.finish_roll()?;
    start_over(core, active, to)
}

fn start_over(core: &PartitionCore, active: &mut Active, to: Offset) -> Result<Wakes> {
    let held = core.group_commit.hold();
    core.cuts.begin();
    let done = (|| {
        core.update_state(|state| state.pending = Pending::Reset(to))?;
        active.let_go();
        close_behind(core.view.load().segments(), || ());
        core.redo(Pending::Reset(to), Holders::Partition)?;
        let segment = reopen(&core.dir, to, to, 0)?;
        core.ends.set_log_start(to);
        // Otherwise the next append would be above the high watermark at one moment, and below it at the next.
        core.ends.set_high_watermark(to);
        core.lock_leader_epochs().truncate_from_end(Offset::ZERO);
        // The replicated records are gone, and no later record is replicated yet.
        core.ends.set_high_watermark(core.high_watermark().min(to));
        adopt(core, active, &held, vec![segment], Producers::default(), to)?;
        core.ends.set_high_watermark(to);
        Ok(())
    })();
    core.cuts.end();
    if let Err(error) = &done {
        core.poison(error);
    }
    done.map(|()| core.waiters.truncated(to))
}

fn cut_back(
    core: &PartitionCore,
    active: &mut Active,
    held: &Held<'_>,
    to: Offset,
    producers: Producers,
    holders: Holders,
) -> Result<()> {
    core.update_state(|state| {
        state.pending = Pending::Truncate(to);
        state.durable_end = to;
        // `MAX`: the newest snapshot below the end is searched for.
        state.producers_at = (!producers.is_empty()).then_some(Offset::MAX);
        state.high_watermark = state.high_watermark.min(to);
    })?;
    let view = core.view.load();
    core.redo(Pending::Truncate(to), holders)?;
    let state = core.state();
    let mut segments: Vec<Arc<Segment>> =
        view.segments().iter().filter(|segment| segment.base() < state.active_base).cloned().collect();
    let active_segment = reopen(&core.dir, state.active_base, state.durable_end, state.durable_position)?;
    if !active_segment.is_empty() {
        // The writer continues from the largest timestamp of the remaining batches. The segment's age keeps counting
        // from its first append.
        active_segment.max_timestamp()?;
        let before = view.segments().iter().find(|segment| segment.base() == state.active_base);
        let first_append_at = before.map_or(Timestamp::NONE, |segment| segment.meta().first_append_at);
        active_segment.update_meta(|facts| facts.first_append_at = first_append_at);
    }
    segments.push(active_segment);

    core.lock_leader_epochs().truncate_from_end(to);
    core.store_epochs()?;
    core.ends.set_high_watermark(core.high_watermark().min(to));
    adopt(core, active, held, segments, producers, to)
}

/// Publishes the remaining segments in place of the old ones.
fn adopt(
    core: &PartitionCore,
    active: &mut Active,
    held: &Held<'_>,
    segments: Vec<Arc<Segment>>,
    producers: Producers,
    end: Offset,
) -> Result<()> {
    let last = Arc::clone(segments.last().expect("a partition always has an active segment"));
    core.view.update(|_| Some(SegmentList::new(segments)));
    // The compaction state counted records as dead because of records that are now gone.
    *core.lock_compaction_state() = Default::default();
    held.set_end(end);
    core.give_up_unsynced();
    active.restart(core, last, producers);
    core.pins.truncated(end);
    Ok(())
}

/// Opens the segment that is now the active one.
fn reopen(dir: &Arc<PartitionDir>, base: Offset, end: Offset, len: u64) -> Result<Arc<Segment>> {
    let path = dir.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let info = dir.storage.info(&path).map_err(|e| Error::io(e, &path))?;
    let index = if len == 0 { SegmentIndex::empty() } else { SegmentIndex::of(Sums::default()) };
    Ok(Segment::new(dir, base, (len, end), false, SegmentMeta::new(info.id), index))
}
