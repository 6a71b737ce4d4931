//! Cutting a partition back, and starting it over at another offset.
//!
//! `state` says first what is to be done; a crash at any point has recovery do it again from its first step.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::durability::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::format::{Pending, Scratch, State};
use crate::offset::{Offset, Timestamp};
use crate::recovery::replay::Replay;
use crate::recovery::survey::{LogFile, Stop, look, walk};
use crate::segment::digest;
use crate::segment::index::SegmentIndex;
use crate::segment::scan::Check;
use crate::segment::{Facts, Place, Segment};
use crate::shared::Shared;
use crate::state::StateStore;
use crate::storage::{File, OpenMode, files};
use crate::swap;
use crate::transactions;
use crate::view::View;

/// Removes every batch that holds an offset at or above `to`. `lossy`: even below what compaction relied on.
pub(crate) fn truncate(shared: &Shared, to: Offset, lossy: bool) -> Result<Offset> {
    let _pass = shared.lock_maintenance();
    let mut active = shared.lock_active();
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
        return start_over(shared, &mut active, start).map(|()| start);
    }
    let held = shared.durability.hold();
    shared.begin_cut();
    let done = cut_back(shared, &mut active, &held, to);
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
    start_over(shared, &mut active, to)
}

fn start_over(shared: &Shared, active: &mut crate::active::Active, to: Offset) -> Result<()> {
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
        adopt(shared, active, &held, vec![segment], Replay::new(Default::default()), to)
    })();
    shared.end_cut();
    if let Err(error) = &done {
        shared.poison(error);
    }
    done
}

/// Carries out on disk what `state` says is pending, from its first step, and says that it is done.
pub(crate) fn redo(place: &Arc<Place>, store: &StateStore, pending: Pending, holders: Holders) -> Result<()> {
    match pending {
        Pending::None => Ok(()),
        Pending::Truncate(to) => {
            let LogEnd { base, end, position } = redo_truncate(place, &store.get(), to, holders)?;
            store.update(|state| {
                state.pending = Pending::None;
                state.active_base = base;
                state.durable_end = end;
                state.durable_position = position;
                state.high_watermark = state.high_watermark.min(end);
                state.segments.retain(|segment| segment.base < base);
                // The snapshot is looked for: the newest one below the end.
                state.producers_at = Some(Offset::MAX);
            })
        }
        Pending::Reset(to) => {
            remove_all(place)?;
            create(place, to)?;
            place.sync_dir()?;
            store.update(|state| {
                state.pending = Pending::None;
                state.log_start = to;
                state.active_base = to;
                state.durable_end = to;
                state.durable_position = 0;
                state.high_watermark = to;
                state.max_winner_offset = None;
                state.producers_at = None;
                state.adopted_gaps.clear();
                state.segments.clear();
            })
        }
    }
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

fn cut_back(shared: &Shared, active: &mut crate::active::Active, held: &Held<'_>, to: Offset) -> Result<()> {
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
    let in_use = view.from(to).first().is_some_and(|segment| segment.base() < to && !segment.may_be_cut());
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

    let found = look(&shared.place, Some(&state), false)?;
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
    active: &mut crate::active::Active,
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
    shared.tails.truncated(end);
    Ok(())
}

/// Where a log ends after a truncation.
#[derive(Clone, Copy)]
struct LogEnd {
    /// The base of the active segment.
    base: Offset,
    end: Offset,
    /// The active segment's length.
    position: u64,
}

/// Who has the files of a partition that is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holders {
    /// Nobody: it is being opened. What lies above the durable watermark may be torn, or in the page cache only.
    Nobody,
    /// The partition itself, which wrote all that it reads.
    Partition,
    /// Readers, too: the segment that is cut becomes a new file.
    Readers,
}

/// Deletes the segments above `to` and cuts the one that holds it, which must reach what is durable below `to`: a segment
/// that is missing there is found before anything is deleted.
fn redo_truncate(place: &Arc<Place>, state: &State, to: Offset, holders: Holders) -> Result<LogEnd> {
    let (mut bases, mut snapshots) = (Vec::new(), Vec::new());
    for entry in place.storage.list(&place.dir).map_err(|e| Error::io(e, &place.dir))? {
        match file_name::parse(&entry.name) {
            Some(ParsedName::Segment { base, kind: SegmentFileKind::Log, suffix: Suffix::None }) => bases.push(base),
            Some(ParsedName::Segment { base, kind: SegmentFileKind::Snapshot, suffix: Suffix::None }) if base > to => {
                snapshots.push(entry.name);
            }
            _ => {}
        }
    }
    bases.sort();
    let mut keep = bases.partition_point(|base| *base <= to.min(state.active_base));
    let Some(base) = keep.checked_sub(1).and_then(|keep| bases.get(keep)) else {
        return Err(Error::from(ErrorKind::MissingSegment(to..to + 1)).at_path(&place.dir));
    };
    let mut cut = measure(place, state, *base, to)?;
    // A segment that was begun after the last `state` counts only where the one before it is whole.
    while let Some(next) = bases.get(keep).copied().filter(|next| *next <= to && cut.whole && *next == cut.end.end) {
        settle(place, state, &cut, holders)?;
        cut = measure(place, state, next, to)?;
        keep += 1;
    }
    let durable = state.durable_end.min(to);
    if cut.end.end < durable {
        return Err(Error::from(ErrorKind::MissingSegment(cut.end.end..durable)).at_path(&cut.path));
    }
    for base in bases.iter().skip(keep).rev() {
        swap::remove_segment_files(place, *base)?;
    }
    for name in snapshots {
        files::remove(&*place.storage, &place.path(&name))?;
    }
    let LogEnd { base, position, .. } = cut.end;
    let whole: Vec<Offset> = bases.iter().copied().filter(|whole| *whole < base).collect();
    digest::remove_undecided(place, &whole, std::mem::take(&mut cut.ended))?;
    place.sync_dir()?;
    if holders == Holders::Readers {
        replace_by_prefix(place, &*cut.file, base, position)?;
    } else {
        cut.file.set_len(position).map_err(|e| Error::io(e, &cut.path))?;
        settle(place, state, &cut, holders)?;
    }
    for kind in
        [SegmentFileKind::OffsetIndex, SegmentFileKind::TimeIndex, SegmentFileKind::TxnIndex, SegmentFileKind::Digest]
    {
        files::remove(&*place.storage, &place.segment_path(base, kind, Suffix::None))?;
    }
    place.sync_dir()?;
    Ok(cut.end)
}

/// A segment, and where it is to end.
struct Measured {
    path: PathBuf,
    file: Arc<dyn File>,
    end: LogEnd,
    /// It ends there already.
    whole: bool,
    /// Producers with a marker in what is left.
    ended: BTreeSet<i64>,
}

/// Finds the last batch of a segment that lies below `to` whole. Damage below the durable watermark is an error: nothing
/// durable is cut for it.
fn measure(place: &Place, state: &State, base: Offset, to: Offset) -> Result<Measured> {
    let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let at = |e| Error::io(e, &path);
    let file = place.storage.open(&path, OpenMode::Write).map_err(at)?;
    let len = file.info().map_err(at)?.len;
    let mut end = LogEnd { base, end: base, position: 0 };
    let (mut ended, mut scratch) = (BTreeSet::new(), Scratch::default());
    let walk = walk(&*file, base, (0, len), base, Check::Crc, |found| {
        let header = found.batch.header();
        if header.next_offset() <= to {
            end.end = header.next_offset();
            end.position = found.position + header.size as u64;
            if found.batch.control(&mut scratch).ok().flatten().is_some_and(transactions::ends_transaction) {
                ended.insert(header.producer_id);
            }
        }
        Ok(())
    })
    .map_err(|e| e.at_path(&path))?;
    // What lies at `to` and above may have been cut and appended anew before the `state` that told of it was durable.
    if let Stop::Bad(why) = &walk.stop
        && walk.position < durable_part(state, base, len)
        && walk.end < state.durable_end.min(to)
    {
        return Err(Error::corrupt(&path, walk.position, why.to_string()));
    }
    let whole = matches!(walk.stop, Stop::End) && end.position == len;
    Ok(Measured { path, file, end, whole, ended })
}

/// How much of a segment is known to be durable.
fn durable_part(state: &State, base: Offset, len: u64) -> u64 {
    match base.cmp(&state.active_base) {
        std::cmp::Ordering::Less => len,
        std::cmp::Ordering::Equal => state.durable_position,
        std::cmp::Ordering::Greater => 0,
    }
}

/// Makes what is left of a segment durable. At open what is read may be in the page cache only, even after a sync that
/// succeeds (I8): it is written again.
fn settle(place: &Place, state: &State, cut: &Measured, holders: Holders) -> Result<()> {
    let at = |e| Error::io(e, &cut.path);
    let LogEnd { base, position, .. } = cut.end;
    let durable = durable_part(state, base, position);
    if holders == Holders::Nobody && durable < position {
        files::copy(&*cut.file, durable..position, |bytes, at| cut.file.write_at(bytes, at)).map_err(at)?;
    }
    cut.file.sync().map_err(at)?;
    // The name may be newer than the last sync of the directory.
    place.sync_dir()
}

/// Puts a copy of a segment's first bytes in its place; who holds the old file goes on seeing all of it.
fn replace_by_prefix(place: &Place, file: &dyn File, base: Offset, len: u64) -> Result<()> {
    let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let temporary = place.segment_path(base, SegmentFileKind::Log, Suffix::Cleaned);
    let at = |e| Error::io(e, &temporary);
    files::remove(&*place.storage, &temporary)?;
    let prefix = place.storage.open(&temporary, OpenMode::CreateNew).map_err(at)?;
    files::copy(file, 0..len, |bytes, position| prefix.write_at(bytes, position)).map_err(at)?;
    prefix.sync().map_err(at)?;
    place.storage.rename(&temporary, &path).map_err(at)
}

fn remove_all(place: &Arc<Place>) -> Result<()> {
    for entry in place.storage.list(&place.dir).map_err(|e| Error::io(e, &place.dir))? {
        let ours = match file_name::parse(&entry.name) {
            Some(ParsedName::Segment { suffix, .. }) => suffix != Suffix::Broken,
            Some(ParsedName::LeaderEpochs | ParsedName::Temp | ParsedName::StateTemp) => true,
            Some(ParsedName::PartitionMetadata | ParsedName::State) | None => false,
        };
        if ours {
            files::remove(&*place.storage, &place.path(&entry.name))?;
        }
    }
    place.sync_dir()
}

fn create(place: &Place, base: Offset) -> Result<()> {
    let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
    match place.storage.open(&path, OpenMode::CreateNew) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(e, &path)),
        _ => Ok(()),
    }
}

/// The segment that is the active one now.
fn reopen(place: &Arc<Place>, base: Offset, end: Offset, len: u64) -> Result<Arc<Segment>> {
    let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let info = place.storage.info(&path).map_err(|e| Error::io(e, &path))?;
    let index = if len == 0 { SegmentIndex::empty() } else { SegmentIndex::default() };
    let log = LogFile { base, len, id: info.id, end, valid: len, known: false, suffix: Suffix::None };
    Ok(Segment::new(place, log.base, (log.valid, log.end), false, Facts::new(log.id), index))
}
