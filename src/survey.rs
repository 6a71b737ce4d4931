//! Looking at a partition directory, and walking its segments.

mod cut;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::digest::{DigestSubject, HeadersSum};
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::format::{BATCH_HEADER_LEN, BatchHeader, BatchView, FormatError, Pending, Scratch, SegmentState, State};
use crate::offset::Offset;
use crate::segment::boundary::{Boundary, Looked};
use crate::segment::scan::{Check, Found, OFFSETS_MAX, Scan, ScanError, zeros_follow};
use crate::segment::{Place, Segment, digest};
use crate::storage::{File, FileKind, OpenMode, files};
use crate::transactions;

pub(crate) use self::cut::{CutPoint, cut_point};

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
    /// The bases of segments that have a digest.
    pub(crate) digests: Vec<Offset>,
    /// Offsets of producer snapshots, in order.
    pub(crate) snapshots: Vec<Offset>,
}

/// A `.log` file and what is known of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct LogFile {
    pub(crate) base: Offset,
    pub(crate) len: u64,
    pub(crate) id: u64,
    /// When it was changed last.
    pub(crate) modified: i64,
    /// One past its last offset, or a lower bound (see [`SeenLog::end`]).
    pub(crate) end: Offset,
    /// The bytes that hold batches up to `end`.
    pub(crate) valid: u64,
    /// It is the sealed file that `state` describes, in length, identity and time.
    pub(crate) known: bool,
    /// The sum over its batch headers, where all of them were walked.
    pub(crate) headers_sum: Option<u32>,
    /// Why the place is not to be believed up to which `state` says that the active one is durable.
    pub(crate) doubt: Option<Doubt>,
    pub(crate) suffix: Suffix,
}

/// Why it is not known that a batch ends at the durable position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    /// None does: `state` is of another file. By its offsets alone can be told what of this one was durable.
    Elsewhere,
    /// The bytes at this position, below it, are no batch.
    Damage(u64),
}

impl LogFile {
    /// One with nothing in it.
    pub(crate) fn empty(base: Offset) -> LogFile {
        LogFile {
            base,
            len: 0,
            id: 0,
            modified: SegmentState::MODIFIED_UNKNOWN,
            end: base,
            valid: 0,
            known: false,
            headers_sum: None,
            doubt: None,
            suffix: Suffix::None,
        }
    }

    /// A segment of the view.
    pub(crate) fn of(segment: &Segment) -> LogFile {
        let facts = segment.facts();
        LogFile {
            len: segment.len(),
            id: facts.id,
            modified: facts.modified,
            end: segment.end(),
            valid: segment.len(),
            known: true,
            suffix: segment.suffix(),
            ..LogFile::empty(segment.base())
        }
    }

    /// Whether it is the file that is described, unchanged since.
    pub(crate) fn is_as_in(&self, recorded: &SegmentState) -> bool {
        (self.len, self.id, self.modified) == (recorded.len, recorded.id, recorded.modified)
    }

    fn looked<'a>(&self, place: &'a Place, file: &'a dyn File) -> Looked<'a> {
        Looked { storage: &*place.storage, dir: &place.dir, file, base: self.base, len: self.len }
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
                (_, Suffix::None) => {
                    if kind == SegmentFileKind::Digest {
                        files.digests.push(base);
                    }
                    sidecars.push((base, entry.name.clone()));
                }
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
/// segment may have become in other hands. Where `state` does not know the file, the sum over the batch headers tells
/// whether it is the segment that the digest was made of. Removes indexes without a log, too.
pub(crate) fn remove_stale_caches(place: &Place, files: &Files, state: Option<&State>) -> Result<()> {
    for orphan in &files.orphans {
        files::remove(&*place.storage, &place.path(orphan))?;
    }
    let (mut changed, mut kept) = (false, Vec::new());
    for log in &files.logs {
        let has_digest = files.digests.contains(&log.base);
        if log.known || has_digest && state.is_some() && is_digest_of(place, log)? {
            kept.push(log.base);
            continue;
        }
        if has_digest {
            files::remove(&*place.storage, &place.segment_path(log.base, SegmentFileKind::Digest, Suffix::None))?;
        }
        // One that `state` does not know was made after it was written, and the active one grows.
        let differs = |state: &State| {
            let recorded = recorded(state, log.base);
            recorded.is_some_and(|recorded| log.base < state.active_base || recorded.id != log.id)
        };
        changed |= has_digest || state.is_none_or(differs);
    }
    if !changed {
        return Ok(());
    }
    // What has changed may have been the markers of what has not.
    digest::remove_undecided(place, &kept, Default::default())?;
    // Before `state` knows the segments as they are now.
    place.sync_dir()
}

/// Whether the digest beside a segment was made of it.
fn is_digest_of(place: &Place, log: &LogFile) -> Result<bool> {
    let path = place.segment_path(log.base, SegmentFileKind::Digest, Suffix::None);
    let Some(footer) = digest::stored_footer(&*place.storage, &path)? else { return Ok(false) };
    let DigestSubject { base, end, log_len, headers_sum, .. } = footer.subject;
    Ok((base, end, log_len, Some(headers_sum)) == (log.base, log.end, log.len, log.headers_sum))
}

fn recorded(state: &State, base: Offset) -> Option<&SegmentState> {
    state.segments.binary_search_by_key(&base, |segment| segment.base).ok().and_then(|at| state.segments.get(at))
}

fn log_file(place: &Place, base: Offset) -> Result<LogFile> {
    let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let info = place.storage.info(&path).map_err(|e| Error::io(e, &path))?;
    Ok(LogFile { len: info.len, id: info.id, modified: info.modified, ..LogFile::empty(base) })
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
        if let Some(state) = state
            && take_known(place, log, state)?
        {
            continue;
        }
        let path = place.segment_path(log.base, SegmentFileKind::Log, Suffix::None);
        let fault = walk_log(place, log, ends).map_err(|e| e.at_path(&path))?;
        // Only the last file can have a torn tail, or that which `state` names; how much of it is good is found when it
        // is scanned.
        let may_be_torn = at == last || log.doubt.is_some() || ends == Ends::Salvaged;
        if !may_be_torn && let Some(what) = fault {
            return Err(Error::corrupt(&path, log.valid, what));
        }
    }
    Ok(())
}

/// Takes what `state` knows of a file; whether that is all there is to know.
fn take_known(place: &Place, log: &mut LogFile, state: &State) -> Result<bool> {
    if log.base > state.active_base {
        return Ok(true);
    }
    let recorded = recorded(state, log.base).filter(|recorded| log.is_as_in(recorded));
    if log.base == state.active_base && log.len >= state.durable_position {
        (log.end, log.valid) = (state.durable_end.max(log.base), state.durable_position);
        if log.valid == 0 || recorded.is_some() {
            return Ok(true);
        }
        let path = place.segment_path(log.base, SegmentFileKind::Log, Suffix::None);
        let file = place.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
        let boundary = log.looked(place, &*file).boundary(log.valid, log.end).map_err(|e| e.at_path(&path))?;
        log.doubt = match boundary {
            Boundary::Confirmed => None,
            Boundary::Elsewhere => Some(Doubt::Elsewhere),
            Boundary::Damage(at) => Some(Doubt::Damage(at)),
        };
        return Ok(log.doubt != Some(Doubt::Elsewhere));
    }
    let Some(known) = recorded.filter(|_| log.base < state.active_base) else { return Ok(false) };
    (log.end, log.valid, log.known) = (known.end, known.len, true);
    Ok(true)
}

/// Finds where a file ends by its batches, and what is wrong there, if anything is.
fn walk_log(place: &Place, log: &mut LogFile, ends: Ends) -> Result<Option<Cow<'static, str>>> {
    let path = place.segment_path(log.base, SegmentFileKind::Log, Suffix::None);
    let file = place.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
    let hint = if ends == Ends::Indexed { log.looked(place, &*file).index_hint(log.len) } else { None };
    let mut sum = HeadersSum::default();
    let walk = walk(&*file, log.base, (hint.unwrap_or(0), log.len), log.base, Check::Header, |found| {
        sum.update(found.batch.as_bytes());
        Ok(())
    })?;
    (log.end, log.valid) = (walk.end, walk.position);
    log.headers_sum = hint.is_none().then(|| sum.value());
    Ok(walk.fault())
}
