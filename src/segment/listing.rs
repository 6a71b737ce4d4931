//! Lists a partition directory: which files exist, and where each segment ends.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::digest::{DigestSubject, HeadersSum};
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::format::{Pending, SegmentState, State};
use crate::offset::Offset;
use crate::segment::boundary::{Boundary, Looked};
use crate::segment::scan::Check;
use crate::segment::walk::{Stop, walk};
use crate::segment::{PartitionDir, Segment, digest_file};
use crate::storage::{File, FileKind, OpenMode, small_file};

/// A `.log` file under its final name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SeenLog {
    pub(crate) base: Offset,
    /// One past its last offset. For the active segment and the segments after it this is only a lower bound.
    pub(crate) end: Offset,
}

/// A `.log.swap` file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SeenSwap {
    pub(crate) base: Offset,
    /// One past its last offset; `None` if the file cannot be read to its end.
    pub(crate) end: Option<Offset>,
}

/// The files of a partition directory that have known names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// `.log` files under their final names, in order.
    pub(crate) logs: Vec<LogFile>,
    pub(crate) swaps: Vec<SeenSwap>,
    pub(crate) lowest_cleaned: Option<Offset>,
    pub(crate) deleted: Vec<Offset>,
    /// Names of temporary files.
    pub(crate) leftovers: Vec<String>,
    /// Names of indexes and digests without a `.log`. The crash that lost the `.log` left them.
    pub(crate) orphans: Vec<String>,
    /// The bases of segments that have a digest.
    pub(crate) digests: Vec<Offset>,
    /// Offsets of producer snapshots, in order.
    pub(crate) snapshots: Vec<Offset>,
}

/// A `.log` file and its known properties.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct LogFile {
    pub(crate) base: Offset,
    pub(crate) len: u64,
    pub(crate) id: u64,
    /// The time of its last modification.
    pub(crate) modified: i64,
    /// One past its last offset, or a lower bound (see [`SeenLog::end`]).
    pub(crate) end: Offset,
    /// The number of bytes that hold batches up to `end`.
    pub(crate) valid: u64,
    /// Whether it is the sealed file that `state` describes: same length, identity and modification time.
    pub(crate) known: bool,
    /// The sum over its batch headers, if all of them were walked.
    pub(crate) headers_sum: Option<u32>,
    /// Why the durable position that `state` records for the active segment cannot be trusted.
    pub(crate) doubt: Option<Doubt>,
    pub(crate) suffix: Suffix,
}

/// Why it is uncertain that a batch ends at the durable position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    /// No batch ends there: `state` describes another file. Only the offsets show which part of this file was durable.
    Elsewhere,
    /// The bytes at this position, below the durable position, are no batch.
    Damage(u64),
}

impl LogFile {
    /// An empty file.
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

    /// The file of a segment in the list.
    pub(crate) fn of(segment: &Segment) -> LogFile {
        let facts = segment.meta();
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

    /// Whether it is the recorded file, unchanged since.
    pub(crate) fn is_as_in(&self, recorded: &SegmentState) -> bool {
        (self.len, self.id, self.modified) == (recorded.len, recorded.id, recorded.modified)
    }

    fn looked<'a>(&self, dir: &'a PartitionDir, file: &'a dyn File) -> Looked<'a> {
        Looked { storage: &*dir.storage, dir: &dir.path, file, base: self.base, len: self.len }
    }

    pub(crate) fn seen(&self) -> SeenLog {
        SeenLog { base: self.base, end: self.end }
    }
}

/// How to find the end of segments that `state` does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    /// By walking them. Damage is an error in all but the last one.
    Walked,
    /// The same, but starting at the last batch in the index, because the segment was closed cleanly.
    Indexed,
    /// By walking them. A segment ends where damage begins.
    Salvaged,
}

/// The offsets of the producer snapshots in a partition directory, in order.
pub(crate) fn snapshots(dir: &PartitionDir) -> Result<Vec<Offset>> {
    let entries = dir.storage.list(&dir.path).map_err(|e| Error::io(e, &dir.path))?;
    let offset = |name: &str| match file_name::parse(name) {
        Some(ParsedName::Segment { base, kind: SegmentFileKind::Snapshot, suffix: Suffix::None }) => Some(base),
        _ => None,
    };
    let mut snapshots: Vec<Offset> = entries.iter().filter_map(|entry| offset(&entry.name)).collect();
    snapshots.sort();
    Ok(snapshots)
}

/// Lists a partition directory and finds where each segment ends. Takes the end from `state` if it describes this very
/// file, and from the batch headers otherwise.
pub(crate) fn list_partition(dir: &Arc<PartitionDir>, state: Option<&State>, ends: Ends) -> Result<Files> {
    let mut files = Files::default();
    let entries = dir.storage.list(&dir.path).map_err(|e| Error::io(e, &dir.path))?;
    let mut swaps = Vec::new();
    let (mut swap_sidecars, mut sidecars) = (Vec::new(), Vec::new());
    for entry in entries.iter().filter(|entry| entry.kind == FileKind::File) {
        let Some(parsed) = file_name::parse(&entry.name) else { continue };
        match parsed {
            ParsedName::Segment { base, kind, suffix } => match (kind, suffix) {
                (SegmentFileKind::Log, Suffix::None) => files.logs.push(log_file(dir, base)?),
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
    // Our sidecars are not committed without a `.log`, and Kafka renames the `.log` first. Either way they are only
    // caches.
    files.leftovers.extend(swap_sidecars.into_iter().filter(|(base, _)| !swaps.contains(base)).map(|(_, name)| name));
    files.logs.sort_by_key(|log| log.base);
    let has_log = |base: &Offset| files.logs.binary_search_by_key(base, |log| log.base).is_ok();
    files.orphans = sidecars.into_iter().filter(|(base, _)| !has_log(base)).map(|(_, name)| name).collect();
    files.snapshots.sort();
    swaps.sort();
    for base in swaps {
        files.swaps.push(SeenSwap { base, end: swap_end(dir, base) });
    }
    // A pending operation may leave the files in any state. Redo it before the chain is checked.
    if state.is_none_or(|state| state.pending == Pending::None) {
        find_ends(dir, &mut files.logs, state, ends)?;
    }
    Ok(files)
}

/// Removes digests that cannot be trusted, and indexes without a log. A digest tells which records of a segment count,
/// but not whether another program has changed the segment since. If `state` does not know the file, the sum over the
/// batch headers shows whether the digest was made from this segment.
pub(crate) fn remove_stale_caches(dir: &PartitionDir, files: &Files, state: Option<&State>) -> Result<()> {
    for orphan in &files.orphans {
        small_file::remove(&*dir.storage, &dir.file_path(orphan))?;
    }
    let (mut changed, mut kept) = (false, Vec::new());
    for log in &files.logs {
        let has_digest = files.digests.contains(&log.base);
        if log.known || has_digest && state.is_some() && is_digest_of(dir, log)? {
            kept.push(log.base);
            continue;
        }
        if has_digest {
            small_file::remove(&*dir.storage, &dir.segment_path(log.base, SegmentFileKind::Digest, Suffix::None))?;
        }
        // An unknown segment was created after `state` was written, and the active one grows. Neither means a change.
        let differs = |state: &State| {
            let recorded = recorded(state, log.base);
            recorded.is_some_and(|recorded| log.base < state.active_base || recorded.id != log.id)
        };
        changed |= has_digest || state.is_none_or(differs);
    }
    if !changed {
        return Ok(());
    }
    // The changed segments may have held the transaction markers of unchanged ones.
    digest_file::remove_undecided(dir, &kept, Default::default())?;
    // Must be durable before `state` records the segments as they are now.
    dir.sync_dir()
}

/// Whether the digest next to a segment was made from it.
fn is_digest_of(dir: &PartitionDir, log: &LogFile) -> Result<bool> {
    let path = dir.segment_path(log.base, SegmentFileKind::Digest, Suffix::None);
    let Some(footer) = digest_file::stored_footer(&*dir.storage, &path)? else { return Ok(false) };
    let DigestSubject { base, end, log_len, headers_sum, .. } = footer.subject;
    Ok((base, end, log_len, Some(headers_sum)) == (log.base, log.end, log.len, log.headers_sum))
}

fn recorded(state: &State, base: Offset) -> Option<&SegmentState> {
    state.segments.binary_search_by_key(&base, |segment| segment.base).ok().and_then(|at| state.segments.get(at))
}

fn log_file(dir: &PartitionDir, base: Offset) -> Result<LogFile> {
    let path = dir.segment_path(base, SegmentFileKind::Log, Suffix::None);
    let info = dir.storage.info(&path).map_err(|e| Error::io(e, &path))?;
    Ok(LogFile { len: info.len, id: info.id, modified: info.modified, ..LogFile::empty(base) })
}

/// Returns where a swap ends, or `None` if it cannot be read to its end.
fn swap_end(dir: &PartitionDir, base: Offset) -> Option<Offset> {
    let file = dir.storage.open(&dir.segment_path(base, SegmentFileKind::Log, Suffix::Swap), OpenMode::Read).ok()?;
    let len = file.info().ok()?.len;
    let walk = walk(&*file, base, (0, len), base, Check::Crc, |_| Ok(())).ok()?;
    matches!(walk.stop, Stop::End).then_some(walk.end)
}

/// Finds where the files end: from `state` if it knows them, otherwise by walking their batches.
pub(crate) fn find_ends(dir: &PartitionDir, logs: &mut [LogFile], state: Option<&State>, ends: Ends) -> Result<()> {
    let last = logs.len().saturating_sub(1);
    for (at, log) in logs.iter_mut().enumerate() {
        if let Some(state) = state
            && take_known(dir, log, state)?
        {
            continue;
        }
        let path = dir.segment_path(log.base, SegmentFileKind::Log, Suffix::None);
        let fault = walk_log(dir, log, ends).map_err(|e| e.at_path(&path))?;
        // Only the last file, or the one that `state` names as active, can have a torn tail. The later scan finds how
        // much of it is good.
        let may_be_torn = at == last || log.doubt.is_some() || ends == Ends::Salvaged;
        if !may_be_torn && let Some(what) = fault {
            return Err(Error::corrupt(&path, log.valid, what));
        }
    }
    Ok(())
}

/// Takes over what `state` records about a file. Returns whether nothing else needs to be found.
fn take_known(dir: &PartitionDir, log: &mut LogFile, state: &State) -> Result<bool> {
    if log.base > state.active_base {
        return Ok(true);
    }
    let recorded = recorded(state, log.base).filter(|recorded| log.is_as_in(recorded));
    if log.base == state.active_base && log.len >= state.durable_position {
        (log.end, log.valid) = (state.durable_end.max(log.base), state.durable_position);
        if log.valid == 0 || recorded.is_some() {
            return Ok(true);
        }
        let path = dir.segment_path(log.base, SegmentFileKind::Log, Suffix::None);
        let file = dir.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
        let boundary = log.looked(dir, &*file).boundary(log.valid, log.end).map_err(|e| e.at_path(&path))?;
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

/// Finds where a file ends by its batches. Returns what is wrong there, if anything.
fn walk_log(dir: &PartitionDir, log: &mut LogFile, ends: Ends) -> Result<Option<Cow<'static, str>>> {
    let path = dir.segment_path(log.base, SegmentFileKind::Log, Suffix::None);
    let file = dir.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
    let hint = if ends == Ends::Indexed { log.looked(dir, &*file).index_hint(log.len) } else { None };
    let mut sum = HeadersSum::default();
    let walk = walk(&*file, log.base, (hint.unwrap_or(0), log.len), log.base, Check::Header, |found| {
        sum.update(found.batch.as_bytes());
        Ok(())
    })?;
    (log.end, log.valid) = (walk.end, walk.position);
    log.headers_sum = hint.is_none().then(|| sum.value());
    Ok(walk.fault())
}
