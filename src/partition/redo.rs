//! Redoes on disk the operation that `state` records as pending: a truncation, or a reset to another offset.
//!
//! Every step can be repeated: after a crash at any point, recovery starts with the first step.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::format::{Pending, State};
use crate::offset::Offset;
use crate::partition::state_file::StateFile;
use crate::segment::cut_point::{CutPoint, cut_point};
use crate::segment::replace;
use crate::segment::{PartitionDir, digest_file};
use crate::storage::{File, OpenMode, small_file};

/// Carries out the pending operation from its first step, and then records in `state` that it is done.
pub(crate) fn redo(dir: &Arc<PartitionDir>, store: &StateFile, pending: Pending, holders: Holders) -> Result<()> {
    match pending {
        Pending::None => Ok(()),
        Pending::Truncate(to) => {
            let LogEnd { base, end, position } = redo_truncate(dir, &store.get(), to, holders)?;
            store.update(|state| {
                state.pending = Pending::None;
                state.active_base = base;
                state.durable_end = end;
                state.durable_position = position;
                state.high_watermark = state.high_watermark.min(end);
                state.segments.retain(|segment| segment.base < base);
                // This value makes recovery search for the snapshot: the newest one below the end.
                state.producers_at = state.producers_at.map(|_| Offset::MAX);
            })
        }
        Pending::Reset(to) => {
            remove_all(dir)?;
            create(dir, to)?;
            dir.sync_dir()?;
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

/// The log end after a truncation.
#[derive(Clone, Copy)]
struct LogEnd {
    /// The base of the active segment.
    base: Offset,
    end: Offset,
    /// The active segment's length.
    position: u64,
}

/// The users of a partition's files while these are truncated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holders {
    /// No one: the partition is being opened. Bytes above the durable watermark may be torn, or only in the page cache.
    Nobody,
    /// The partition itself, which wrote everything it reads.
    Partition,
    /// The partition itself, and readers hold bytes beyond the cut: the rest of the segment was copied to a new file.
    Readers,
}

/// Deletes the segments above `to` and truncates the one that contains it. That segment must reach the durable part
/// below `to`: a missing segment is found before anything is deleted.
fn redo_truncate(dir: &Arc<PartitionDir>, state: &State, to: Offset, holders: Holders) -> Result<LogEnd> {
    let (mut bases, mut snapshots) = (Vec::new(), Vec::new());
    for entry in dir.storage.list(&dir.path).map_err(|e| Error::io(e, &dir.path))? {
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
        return Err(Error::from(ErrorKind::MissingSegment(to..to + 1)).at_path(&dir.path));
    };
    let mut cut = measure(dir, state, *base, to)?;
    // A segment that was created after the last write of `state` counts only if the one before it is complete.
    while let Some(next) = bases.get(keep).copied().filter(|next| *next <= to && cut.whole && *next == cut.end.end) {
        settle(dir, state, &cut, holders)?;
        cut = measure(dir, state, next, to)?;
        keep += 1;
    }
    let durable = state.durable_end.min(to);
    if cut.end.end < durable {
        return Err(Error::from(ErrorKind::MissingSegment(cut.end.end..durable)).at_path(&cut.path));
    }
    for base in bases.iter().skip(keep).rev() {
        replace::remove_segment_files(dir, *base)?;
    }
    for name in snapshots {
        small_file::remove(&*dir.storage, &dir.file_path(&name))?;
    }
    let LogEnd { base, position, .. } = cut.end;
    let whole: Vec<Offset> = bases.iter().copied().filter(|whole| *whole < base).collect();
    digest_file::remove_undecided(dir, &whole, std::mem::take(&mut cut.ended))?;
    dir.sync_dir()?;
    if holders == Holders::Readers {
        replace::put_prefix(dir, base)?;
    } else if replace::cut(dir, &*cut.file, base, position)? {
        settle(dir, state, &cut, holders)?;
    }
    for kind in
        [SegmentFileKind::OffsetIndex, SegmentFileKind::TimeIndex, SegmentFileKind::TxnIndex, SegmentFileKind::Digest]
    {
        small_file::remove(&*dir.storage, &dir.segment_path(base, kind, Suffix::None))?;
    }
    dir.sync_dir()?;
    Ok(cut.end)
}

/// A segment, and its end after the truncation.
struct Measured {
    path: PathBuf,
    file: Arc<dyn File>,
    end: LogEnd,
    /// Whether the segment ends there already.
    whole: bool,
    /// Producers with a marker in the part that stays.
    ended: BTreeSet<i64>,
}

/// Finds the last batch of a segment that lies completely below `to`. Damage below the durable watermark is an error:
/// nothing durable is cut because of it. Bytes above `to` are not read: they may have been truncated and appended again
/// before the `state` that recorded this was durable.
fn measure(dir: &PartitionDir, state: &State, base: Offset, to: Offset) -> Result<Measured> {
    let path = dir.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let at = |e| Error::io(e, &path);
    let file = dir.storage.open(&path, OpenMode::Write).map_err(at)?;
    let len = file.info().map_err(at)?.len;
    let cut = sound_cut_point(&*file, &path, (base, len), to, state.durable_end)?;
    let end = LogEnd { base, end: cut.end, position: cut.position };
    Ok(Measured { whole: cut.whole, ended: cut.ended, path, file, end })
}

/// Finds where a truncation to `to` must cut a segment, given by base and length. `to` is the end of a batch.
/// Everything below `durable` was there when the truncation began.
pub(crate) fn sound_cut_point(
    file: &dyn File,
    path: &Path,
    (base, len): (Offset, u64),
    to: Offset,
    durable: Offset,
) -> Result<CutPoint> {
    let cut = cut_point(file, base, len, None, to).map_err(|e| e.at_path(path))?;
    match &cut.damage {
        Some(what) if cut.end < durable.min(to) => Err(Error::corrupt(path, cut.position, what.clone())),
        _ => Ok(cut),
    }
}

/// Returns how many bytes of a segment are known to be durable.
fn durable_part(state: &State, base: Offset, len: u64) -> u64 {
    match base.cmp(&state.active_base) {
        std::cmp::Ordering::Less => len,
        std::cmp::Ordering::Equal => state.durable_position,
        std::cmp::Ordering::Greater => 0,
    }
}

/// Makes the rest of a segment durable. At open, bytes that were read may be only in the page cache, even after a sync
/// that succeeds (I8). They are therefore written again.
fn settle(dir: &PartitionDir, state: &State, cut: &Measured, holders: Holders) -> Result<()> {
    let at = |e| Error::io(e, &cut.path);
    let LogEnd { base, position, .. } = cut.end;
    let durable = durable_part(state, base, position);
    if holders == Holders::Nobody && durable < position {
        small_file::copy(&*cut.file, durable..position, |bytes, at| cut.file.write_at(bytes, at)).map_err(at)?;
    }
    cut.file.sync().map_err(at)?;
    // The name of the file may be newer than the last sync of the directory.
    dir.sync_dir()
}

fn remove_all(dir: &Arc<PartitionDir>) -> Result<()> {
    for entry in dir.storage.list(&dir.path).map_err(|e| Error::io(e, &dir.path))? {
        let ours = match file_name::parse(&entry.name) {
            Some(ParsedName::Segment { suffix, .. }) => suffix != Suffix::Broken,
            Some(ParsedName::LeaderEpochs | ParsedName::Temp | ParsedName::StateTemp) => true,
            Some(ParsedName::PartitionMetadata | ParsedName::State) | None => false,
        };
        if ours {
            small_file::remove(&*dir.storage, &dir.file_path(&entry.name))?;
        }
    }
    dir.sync_dir()
}

fn create(dir: &PartitionDir, base: Offset) -> Result<()> {
    let path = dir.segment_path(base, SegmentFileKind::Log, Suffix::None);
    match dir.storage.open(&path, OpenMode::CreateNew) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(e, &path)),
        _ => Ok(()),
    }
}
