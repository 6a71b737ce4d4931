//! Looking at a partition directory, and walking its segments.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::format::{
    BATCH_HEADER_LEN, BatchHeader, BatchView, FormatError, OffsetIndexEntry, Pending, Scratch, SegmentState, State,
};
use crate::offset::Offset;
use crate::segment::digest;
use crate::segment::scan::{Check, Found, OFFSETS_MAX, Scan, ScanError, zeros_follow};
use crate::segment::{Place, Segment};
use crate::storage::{File, FileKind, OpenMode, files};
use crate::transactions;

/// Space that was reserved, or a batch that the medium has lost.
const ZEROS: &str = "zeros where batches should be";

/// A `.log` file in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SeenLog {
    pub(crate) base: Offset,
    /// One past its last offset. Of the active segment and what comes after it only a lower bound counts.
    pub(crate) end: Offset,
}

/// A `.log.swap` file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SeenSwap {
    pub(crate) base: Offset,
    /// One past its last offset; `None` when it cannot be read to its end.
    pub(crate) end: Option<Offset>,
}

/// The files of a partition directory, as far as they are known names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// `.log` files in their place, in order.
    pub(crate) logs: Vec<LogFile>,
    pub(crate) swaps: Vec<SeenSwap>,
    pub(crate) lowest_cleaned: Option<Offset>,
    pub(crate) deleted: Vec<Offset>,
    /// Names of temporary files.
    pub(crate) leftovers: Vec<String>,
    /// Names of indexes and digests without a `.log`: the crash that took that left them.
    pub(crate) orphans: Vec<String>,
    /// Offsets of producer snapshots, in order.
    pub(crate) snapshots: Vec<Offset>,
}

/// A `.log` file and what is known of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct LogFile {
    pub(crate) base: Offset,
    pub(crate) len: u64,
    pub(crate) id: u64,
    /// One past its last offset, or a lower bound (see [`SeenLog::end`]).
    pub(crate) end: Offset,
    /// The bytes that hold batches up to `end`.
    pub(crate) valid: u64,
    /// It is the file that `state` describes, in length and identity.
    pub(crate) known: bool,
    pub(crate) suffix: Suffix,
}

impl LogFile {
    /// One with nothing in it.
    pub(crate) fn empty(base: Offset) -> LogFile {
        LogFile { base, len: 0, id: 0, end: base, valid: 0, known: false, suffix: Suffix::None }
    }

    /// A segment of the view.
    pub(crate) fn of(segment: &Segment) -> LogFile {
        LogFile {
            base: segment.base(),
            len: segment.len(),
            id: segment.facts().id,
            end: segment.end(),
            valid: segment.len(),
            known: true,
            suffix: segment.suffix(),
        }
    }

    pub(crate) fn seen(&self) -> SeenLog {
        SeenLog { base: self.base, end: self.end }
    }
}

/// How a walk over a segment ended.
#[derive(Debug)]
pub(crate) struct Walk {
    /// One past the last offset of the last good batch.
    pub(crate) end: Offset,
    /// Where the last good batch ends.
    pub(crate) position: u64,
    /// Where it begins, when there is one.
    pub(crate) last: Option<u64>,
    pub(crate) stop: Stop,
}

impl Walk {
    /// What is wrong with what follows the last good batch, at `position`; `None` where nothing follows, or batches do.
    pub(crate) fn fault(&self) -> Option<Cow<'static, str>> {
        match &self.stop {
            Stop::Bad(why) => Some(why.to_string().into()),
            Stop::Zeros => Some(ZEROS.into()),
            Stop::End | Stop::Reached => None,
        }
    }
}

/// What follows the last good batch.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nothing.
    End,
    /// Batches from the offset on that the walk goes up to.
    Reached,
    /// Zeros, to the end of the file: reserved space.
    Zeros,
    /// Something else.
    Bad(FormatError),
}

/// Walks the batches of `[from, len)` of a segment's file, whose offsets must grow and not lie below its base.
pub(crate) fn walk(
    file: &dyn File,
    base: Offset,
    range: (u64, u64),
    start_end: Offset,
    check: Check,
    each: impl FnMut(Found<'_>) -> Result<()>,
) -> Result<Walk> {
    walk_up_to(file, base..Offset::MAX, range, start_end, Offset::MAX, check, each)
}

/// The same up to the first batch at or above `to`, of a segment whose batches hold none but these offsets. Of that
/// batch only the header is looked at, and none behind it is read: they may be damaged.
pub(crate) fn walk_up_to(
    file: &dyn File,
    offsets: Range<Offset>,
    range: (u64, u64),
    start_end: Offset,
    to: Offset,
    check: Check,
    mut each: impl FnMut(Found<'_>) -> Result<()>,
) -> Result<Walk> {
    let mut walk = Walk { end: start_end.max(offsets.start), position: range.0, last: None, stop: Stop::End };
    // The checksum is checked here: that of a batch that is not taken does not matter.
    let mut scan = Scan::new(file, range.0, range.1, Check::Header);
    let bad = loop {
        if walk.end >= to {
            walk.stop = Stop::Reached;
            return Ok(walk);
        }
        let found = match scan.next() {
            Ok(None) => return Ok(walk),
            Ok(Some(found)) => found,
            Err(ScanError::Bad { why, .. }) => break why,
            Err(ScanError::Io(e)) => return Err(Error::io(e, std::path::Path::new(""))),
        };
        let header = found.batch.header();
        let is_reached = header.base_offset >= to;
        if check == Check::Crc
            && !is_reached
            && let Err(why) = found.batch.check_crc()
        {
            break why;
        }
        if !is_in_order(&walk, &offsets, header) || is_astray(file, &walk, &found, range.1)? {
            break FormatError::BadOffset;
        }
        if is_reached {
            walk.stop = Stop::Reached;
            return Ok(walk);
        }
        walk.end = header.next_offset();
        walk.last = Some(found.position);
        walk.position = found.position + header.size as u64;
        each(found)?;
    };
    let zeros = zeros_follow(file, walk.position, range.1).map_err(|e| Error::io(e, std::path::Path::new("")))?;
    walk.stop = if zeros { Stop::Zeros } else { Stop::Bad(bad) };
    Ok(walk)
}

fn is_in_order(walk: &Walk, offsets: &Range<Offset>, header: &BatchHeader) -> bool {
    header.base_offset >= walk.end
        && header.next_offset() <= offsets.end
        && header.last_offset().since(offsets.start) <= OFFSETS_MAX
}

/// Whether a batch has left its place: there are offsets missing before it, and it reaches into the batch behind it.
/// The checksum does not cover the base offset, and of the two this one is wrong, since the other fits what was before.
fn is_astray(file: &dyn File, walk: &Walk, found: &Found<'_>, end: u64) -> Result<bool> {
    let header = found.batch.header();
    let behind = found.position + header.size as u64;
    if header.base_offset == walk.end || end - behind < BATCH_HEADER_LEN as u64 {
        return Ok(false);
    }
    let mut bytes = [0; BATCH_HEADER_LEN];
    file.read_at(&mut bytes, behind).map_err(|e| Error::io(e, std::path::Path::new("")))?;
    let next = BatchHeader::parse(&bytes);
    Ok(next.is_ok_and(|next| (walk.end..header.next_offset()).contains(&next.base_offset)))
}

/// Where a segment is to be cut.
#[derive(Debug)]
pub(crate) struct CutPoint {
    /// One past the last offset of the last batch that stays.
    pub(crate) end: Offset,
    /// Where that batch ends in the file.
    pub(crate) position: u64,
    /// The lowest offset from the one on that was asked for that no batch holds.
    pub(crate) above: Offset,
    /// Producers with a marker in what stays.
    pub(crate) ended: BTreeSet<i64>,
    /// The file ends there already.
    pub(crate) whole: bool,
    /// What is wrong below the offset that was asked for. It lies at `position`.
    pub(crate) damage: Option<Cow<'static, str>>,
}

/// Finds the last batch of a segment that lies below `to` whole. Each batch that begins below `to` is checked, so that
/// none behind damage is taken for one that is not there; those above may be damaged. `end` is where the segment ends;
/// `None` where that is not known, but `to` is the end of a batch.
pub(crate) fn cut_point(file: &dyn File, base: Offset, len: u64, end: Option<Offset>, to: Offset) -> Result<CutPoint> {
    let mut cut = CutPoint { end: base, position: 0, above: to, ended: BTreeSet::new(), whole: false, damage: None };
    let mut scratch = Scratch::default();
    let offsets = base..end.unwrap_or(Offset::MAX);
    let walk = walk_up_to(file, offsets, (0, len), base, to, Check::Crc, |found| {
        let header = found.batch.header();
        if header.next_offset() > to {
            cut.above = header.next_offset();
            return Ok(());
        }
        (cut.end, cut.position) = (header.next_offset(), found.position + header.size as u64);
        if found.batch.control(&mut scratch).ok().flatten().is_some_and(transactions::ends_transaction) {
            cut.ended.insert(header.producer_id);
        }
        Ok(())
    })?;
    cut.whole = cut.position == len;
    if walk.end < end.unwrap_or(to).min(to) {
        cut.damage = match (&walk.stop, end) {
            (Stop::End, Some(end)) => Some(format!("the batches end at {}, the segment at {end}", walk.end).into()),
            (Stop::Reached, None) => Some(FormatError::BadOffset.to_string().into()),
            _ => walk.fault(),
        };
    }
    Ok(cut)
}

/// Whether a whole, valid batch lies anywhere in `[from, len)`: data behind damage, not just garbage. Bytes that were
/// made to look like batches, each reaching over the next, are taken for data before long.
pub(crate) fn valid_batch_follows(file: &dyn File, from: u64, len: u64) -> Result<bool> {
    let mut bytes = vec![0; (len - from).min(64 << 20) as usize];
    let read = file.read_at(&mut bytes, from).map_err(|e| Error::io(e, std::path::Path::new("")))?;
    bytes.truncate(read);
    let mut left = 16 * bytes.len();
    for at in 1..bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        // The magic is looked at first: nearly every position fails there.
        let Some(batch) = (rest.get(16) == Some(&2)).then(|| BatchView::parse(rest).ok()).flatten() else { continue };
        left = left.saturating_sub(batch.header().size);
        if left == 0 || batch.check_crc().is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How the ends of segments are found that `state` does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    /// By walking them. Of all but the last one damage is an error.
    Walked,
    /// The same, from the last batch on that the index knows: it was closed in good order.
    Indexed,
    /// By walking them: they end where damage begins.
    Salvaged,
}

/// The offsets of the producer snapshots in a partition directory, in order.
pub(crate) fn snapshots(place: &Place) -> Result<Vec<Offset>> {
    let entries = place.storage.list(&place.dir).map_err(|e| Error::io(e, &place.dir))?;
    let offset = |name: &str| match file_name::parse(name) {
        Some(ParsedName::Segment { base, kind: SegmentFileKind::Snapshot, suffix: Suffix::None }) => Some(base),
        _ => None,
    };
    let mut snapshots: Vec<Offset> = entries.iter().filter_map(|entry| offset(&entry.name)).collect();
    snapshots.sort();
    Ok(snapshots)
}

/// Lists a partition directory and finds out where each segment ends: from `state` where the file is the one that it
/// describes, else from the headers.
pub(crate) fn look(place: &Arc<Place>, state: Option<&State>, ends: Ends) -> Result<Files> {
    let mut files = Files::default();
    let entries = place.storage.list(&place.dir).map_err(|e| Error::io(e, &place.dir))?;
    let mut swaps = Vec::new();
    let (mut swap_sidecars, mut sidecars) = (Vec::new(), Vec::new());
    for entry in entries.iter().filter(|entry| entry.kind == FileKind::File) {
        let Some(parsed) = file_name::parse(&entry.name) else { continue };
        match parsed {
            ParsedName::Segment { base, kind, suffix } => match (kind, suffix) {
                (SegmentFileKind::Log, Suffix::None) => files.logs.push(log_file(place, base)?),
                (SegmentFileKind::Log, Suffix::Swap) => swaps.push(base),
                (_, Suffix::Swap) => swap_sidecars.push((base, entry.name.clone())),
                (SegmentFileKind::Snapshot, Suffix::None) => files.snapshots.push(base),
                (_, Suffix::Cleaned | Suffix::Deleted) => {
                    if (kind, suffix) == (SegmentFileKind::Log, Suffix::Cleaned) {
                        files.lowest_cleaned = Some(files.lowest_cleaned.map_or(base, |lowest| lowest.min(base)));
                    }
                    if (kind, suffix) == (SegmentFileKind::Log, Suffix::Deleted) {
                        files.deleted.push(base);
                    }
                    files.leftovers.push(entry.name.clone());
                }
                (_, Suffix::None) => sidecars.push((base, entry.name.clone())),
                _ => {}
            },
            ParsedName::StateTemp | ParsedName::Temp => files.leftovers.push(entry.name.clone()),
            _ => {}
        }
    }
    // Ours are not committed without a `.log`; Kafka gives the `.log` its name first. Either way they are only caches.
    files.leftovers.extend(swap_sidecars.into_iter().filter(|(base, _)| !swaps.contains(base)).map(|(_, name)| name));
    files.logs.sort_by_key(|log| log.base);
    let has_log = |base: &Offset| files.logs.binary_search_by_key(base, |log| log.base).is_ok();
    files.orphans = sidecars.into_iter().filter(|(base, _)| !has_log(base)).map(|(_, name)| name).collect();
    files.snapshots.sort();
    swaps.sort();
    for base in swaps {
        files.swaps.push(SeenSwap { base, end: swap_end(place, base) });
    }
    // What a pending operation leaves is anything: it is redone before the chain is looked at.
    if state.is_none_or(|state| state.pending == Pending::None) {
        find_ends(place, &mut files.logs, state, ends)?;
    }
    Ok(files)
}

/// Removes digests that are not to be believed: one tells which records of a segment count, and not what else the
/// segment may have become in other hands. Removes indexes without a log, too. `state` is what is known of the
/// segments.
pub(crate) fn remove_stale_caches(place: &Place, files: &Files, state: Option<&State>) -> Result<()> {
    for orphan in &files.orphans {
        files::remove(&*place.storage, &place.path(orphan))?;
    }
    let (mut stale, mut kept) = (Vec::new(), Vec::new());
    for log in &files.logs {
        if state.is_none_or(|state| has_changed(state, log)) { stale.push(log.base) } else { kept.push(log.base) }
    }
    if stale.is_empty() {
        return Ok(());
    }
    for base in stale {
        files::remove(&*place.storage, &place.segment_path(base, SegmentFileKind::Digest, Suffix::None))?;
    }
    // What has changed may have been the markers of what has not.
    digest::remove_undecided(place, &kept, Default::default())?;
    // Before `state` knows the segments as they are now.
    place.sync_dir()
}

/// Whether a file is not the one that `state` describes. One that it does not know was made after it was written.
fn has_changed(state: &State, log: &LogFile) -> bool {
    let recorded = recorded(state, log.base);
    let grows = log.base == state.active_base;
    recorded.is_some_and(|recorded| recorded.id != log.id || !grows && recorded.len != log.len)
}

fn recorded(state: &State, base: Offset) -> Option<&SegmentState> {
    state.segments.binary_search_by_key(&base, |segment| segment.base).ok().and_then(|at| state.segments.get(at))
}

fn log_file(place: &Place, base: Offset) -> Result<LogFile> {
    let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let info = place.storage.info(&path).map_err(|e| Error::io(e, &path))?;
    Ok(LogFile { base, len: info.len, id: info.id, end: base, valid: 0, known: false, suffix: Suffix::None })
}

/// Where a swap ends; `None` when it cannot be read to its end.
fn swap_end(place: &Place, base: Offset) -> Option<Offset> {
    let file =
        place.storage.open(&place.segment_path(base, SegmentFileKind::Log, Suffix::Swap), OpenMode::Read).ok()?;
    let len = file.info().ok()?.len;
    let walk = walk(&*file, base, (0, len), base, Check::Crc, |_| Ok(())).ok()?;
    matches!(walk.stop, Stop::End).then_some(walk.end)
}

/// Finds where the files end: from `state` where it knows them, else by walking their batches.
pub(crate) fn find_ends(place: &Place, logs: &mut [LogFile], state: Option<&State>, ends: Ends) -> Result<()> {
    let last = logs.len().saturating_sub(1);
    for (at, log) in logs.iter_mut().enumerate() {
        if let Some(state) = state {
            if log.base == state.active_base && log.len >= state.durable_position {
                log.end = state.durable_end.max(log.base);
                log.valid = state.durable_position;
                continue;
            }
            if log.base > state.active_base {
                continue;
            }
            if let Some(known) = recorded(state, log.base)
                .filter(|known| known.len == log.len && known.id == log.id && log.base < state.active_base)
            {
                (log.end, log.valid, log.known) = (known.end, known.len, true);
                continue;
            }
        }
        let path = place.segment_path(log.base, SegmentFileKind::Log, Suffix::None);
        let file = place.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
        let hint = if ends == Ends::Indexed { index_hint(place, &*file, log) } else { None };
        let walk = walk(&*file, log.base, (hint.unwrap_or(0), log.len), log.base, Check::Header, |_| Ok(()))
            .map_err(|e| e.at_path(&path))?;
        (log.end, log.valid) = (walk.end, walk.position);
        // Only the last file can have a torn tail; how much of it is good is found when it is scanned.
        if at != last
            && ends != Ends::Salvaged
            && let Some(what) = walk.fault()
        {
            return Err(Error::corrupt(&path, walk.position, what));
        }
    }
    Ok(())
}

/// The position of the last batch that the stored index knows, if there is such a batch.
fn index_hint(place: &Place, file: &dyn File, log: &LogFile) -> Option<u64> {
    let path = place.segment_path(log.base, SegmentFileKind::OffsetIndex, Suffix::None);
    let index = place.storage.open(&path, OpenMode::Read).ok()?;
    let len = index.info().ok()?.len;
    let mut bytes = [0; OffsetIndexEntry::LEN];
    let at = (len / bytes.len() as u64).checked_sub(1)? * bytes.len() as u64;
    let read = index.read_at(&mut bytes, at).ok()?;
    let entry = OffsetIndexEntry::decode(bytes.get(..read)?)?;
    let position = u64::from(entry.position);
    if position == 0 || position >= log.len {
        return None;
    }
    let mut scan = Scan::new(file, position, log.len, Check::Crc);
    let offset = log.base + u64::from(entry.offset);
    let found = scan.next().ok()??;
    (log.base..=offset).contains(&found.batch.header().base_offset).then_some(position)
}
