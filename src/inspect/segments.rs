//! What can be told of the segments of a partition without opening it.

use std::path::{Path, PathBuf};

use super::{Entry, FileEntry, batches, digest, files, state};
use crate::config::{Cleanup, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{DigestFooter, HeadersSum, Horizon};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{BatchHeader, FormatError, RecordBatch, Scratch, SegmentState, State};
use crate::offset::{Offset, Timestamp};
use crate::segment::scan::{Check, OFFSETS_MAX, Scan, ScanError};
use crate::storage::{OpenMode, Storage};

/// More damage than this is only counted.
const DAMAGE_MAX: usize = 100;

/// How closely segments are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Depth {
    /// What `state` and digests know of sealed segments is taken from there; only the rest is read.
    #[default]
    Known,
    /// Every batch and every record is read.
    Records,
}

/// A segment as it lies there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Its `.log` file.
    pub path: PathBuf,
    /// Its base offset.
    pub base: Offset,
    /// One past its last offset.
    pub end: Offset,
    /// Whether it is the last one, which is written to.
    pub is_last: bool,
    /// Bytes of the `.log` file, without the zeros at its end.
    pub log_bytes: u64,
    /// Zeros at the end of the `.log` file: space reserved ahead.
    pub reserved_bytes: u64,
    /// Bytes of its other files.
    pub other_bytes: u64,
    /// Batches of any kind; `None` when nothing tells without reading them.
    pub batches: Option<u64>,
    /// Records but control records; `None` when nothing tells without reading them.
    pub records: Option<u64>,
    /// Records with a key and no value. Taken from a digest, those that are the last of their key in the segment.
    pub tombstones: Option<u64>,
    /// The timestamp of its first record.
    pub first_timestamp: Option<Timestamp>,
    /// The largest timestamp of its records.
    pub max_timestamp: Option<Timestamp>,
    /// What `state` has of it, where that is still true.
    pub known: Option<SegmentState>,
    /// What its digest says, where that is of this segment: a compaction has looked at it.
    pub digest: Option<DigestFooter>,
    /// From when on its tombstones may go, oldest first; empty when no compaction has seen any.
    pub horizons: Vec<Horizon>,
    /// What is wrong with it, at most 100.
    pub damage: Vec<Damage>,
    /// How much more is wrong.
    pub damage_left_off: u64,
}

/// Bytes that are not as they should be.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Damage {
    /// The first of them.
    pub position: u64,
    /// What is wrong.
    pub why: FormatError,
}

/// Something that time will bring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Deadline {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: Due,
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Due {
    /// The active segment is sealed for its age.
    Roll,
    /// The segment goes for its age.
    Retention,
    /// Tombstones in it may go.
    Tombstones,
}

/// The segments of a partition in order, each looked at when it is asked for. One that goes meanwhile is left out.
pub fn segments<'s>(
    storage: &'s dyn Storage,
    partition: &Path,
    depth: Depth,
) -> Result<impl Iterator<Item = Result<SegmentInfo>> + use<'s>> {
    let files = files(storage, partition)?;
    // A `state` that cannot be read knows nothing; who shows it says so.
    let state = state(storage, partition).ok().flatten().and_then(|file| file.newest().cloned());
    let logs: Vec<FileEntry> = files.iter().filter(|file| file.is_log()).cloned().collect();
    let count = logs.len();
    let look = move |(at, log): (usize, FileEntry)| look(storage, &files, state.as_ref(), &log, at + 1 == count, depth);
    Ok(logs.into_iter().enumerate().map(look).filter(|found| !found.as_ref().is_err_and(is_gone)))
}

impl SegmentInfo {
    /// Bytes of all its files, without reserved space.
    pub fn bytes(&self) -> u64 {
        self.log_bytes + self.other_bytes
    }

    /// Records that newer ones made superfluous, and their bytes, as of the last plan of a compaction. `None` when no
    /// compaction has looked at it.
    pub fn garbage(&self) -> Option<(u64, u64)> {
        self.digest?;
        self.known.map(|known| (known.dead_records, known.dead_bytes))
    }

    /// What time will bring to it under this configuration, unless records come.
    pub fn deadlines(&self, config: &TopicConfig) -> Vec<Deadline> {
        let known = |at: Timestamp| Some(at).filter(|at| *at != Timestamp::NONE);
        let mut found = Vec::new();
        let first_append_at = self.known.and_then(|known_of| known(known_of.first_append_at));
        if let Some(at) = first_append_at.filter(|_| self.is_last && self.end > self.base) {
            found.push(Deadline { at: at.plus(config.segment_age), what: Due::Roll });
        }
        let sealed_at = self.known.and_then(|known_of| known(known_of.sealed_at));
        let newest = self.max_timestamp.and_then(known).into_iter().chain(sealed_at).min();
        if let (Some(newest), Some(age)) = (newest, config.retention_age)
            && config.cleanup != Cleanup::Compact
        {
            found.push(Deadline { at: newest.plus(age).plus_millis(1), what: Due::Retention });
        }
        if config.cleanup != Cleanup::Delete && self.tombstones != Some(0) {
            found.extend(self.horizons.iter().map(|h| Deadline { at: h.at, what: Due::Tombstones }));
        }
        found.sort();
        found
    }

    fn damaged(&mut self, position: u64, why: FormatError) {
        if self.damage.len() == DAMAGE_MAX {
            self.damage_left_off += 1;
        } else {
            self.damage.push(Damage { position, why });
        }
    }

    fn count(&mut self, batches: u64, records: u64, tombstones: u64) {
        for (total, more) in
            [(&mut self.batches, batches), (&mut self.records, records), (&mut self.tombstones, tombstones)]
        {
            *total = Some(total.unwrap_or(0) + more);
        }
    }
}

fn look(
    storage: &dyn Storage,
    files: &[FileEntry],
    state: Option<&State>,
    log: &FileEntry,
    is_last: bool,
    depth: Depth,
) -> Result<SegmentInfo> {
    let base = log.segment().map_or(Offset::ZERO, |(base, ..)| base);
    let of_segment = |file: &&FileEntry| {
        file.segment()
            .is_some_and(|(at, kind, suffix)| at == base && kind != SegmentFileKind::Log && suffix == Suffix::None)
    };
    let mut info = SegmentInfo {
        path: log.path.clone(),
        base,
        end: base,
        is_last,
        log_bytes: log.len,
        reserved_bytes: 0,
        other_bytes: files.iter().filter(of_segment).map(|file| file.len).sum(),
        batches: None,
        records: None,
        tombstones: None,
        first_timestamp: None,
        max_timestamp: None,
        known: state.and_then(|state| state.segments.iter().find(|known| known.base == base)).copied(),
        digest: None,
        horizons: Vec::new(),
        damage: Vec::new(),
        damage_left_off: 0,
    };
    let recorded = info.known.filter(|known| known.len == log.len && !is_last);
    let headers_sum = match recorded.filter(|_| depth == Depth::Known) {
        Some(known) => {
            info.end = known.end;
            info.max_timestamp = Some(known.max_timestamp).filter(|at| *at != Timestamp::NONE);
            first_timestamp(storage, &mut info)?;
            None
        }
        None => Some(scan(storage, &mut info)?),
    };
    info.known = info.known.filter(|known| known.end <= info.end && known.len <= info.log_bytes);
    let digests =
        files.iter().find(|file| of_segment(file) && matches!(file.segment(), Some((_, SegmentFileKind::Digest, _))));
    if let Some(file) = digests {
        take_digest(storage, file, &mut info, headers_sum)?;
    }
    Ok(info)
}

/// Reads the batches up to the first record.
fn first_timestamp(storage: &dyn Storage, info: &mut SegmentInfo) -> Result<()> {
    let mut scratch = Scratch::default();
    for entry in batches(storage, &info.path)? {
        let Entry::Batch { batch, .. } = entry? else { return Ok(()) };
        if batch.header().count == 0 {
            continue;
        }
        let record = batch.view().records(&mut scratch).ok().and_then(|mut records| records.next()?.ok());
        info.first_timestamp = record.map(|record| record.timestamp);
        return Ok(());
    }
    Ok(())
}

/// Reads every batch and record; returns the sum over the batch headers.
fn scan(storage: &dyn Storage, info: &mut SegmentInfo) -> Result<u32> {
    let (mut scratch, mut sum) = (Scratch::default(), HeadersSum::default());
    info.count(0, 0, 0);
    for entry in batches(storage, &info.path)? {
        match entry? {
            Entry::Batch { position, batch } => {
                let header = batch.header();
                if header.base_offset < info.end || header.last_offset().since(info.base) > OFFSETS_MAX {
                    info.damaged(position, FormatError::BadOffset);
                }
                info.end = info.end.max(header.next_offset());
                sum.update(batch.as_bytes());
                scan_batch(&batch, position, &mut scratch, info);
            }
            Entry::Zeros { position, len } => (info.log_bytes, info.reserved_bytes) = (position, len),
            Entry::Damage { position, why, .. } => info.damaged(position, why),
        }
    }
    Ok(sum.value())
}

/// The sum over the batch headers of a segment that was not read; `None` where that is not needed to believe its
/// digest: the file is the one that `state` describes.
fn sum_where_changed(storage: &dyn Storage, info: &SegmentInfo) -> Result<Option<u32>> {
    let at = |e| Error::io(e, &info.path);
    let file = storage.open(&info.path, OpenMode::Read).map_err(at)?;
    let found = file.info().map_err(at)?;
    if info.known.is_some_and(|known| (known.id, known.modified) == (found.id, found.modified)) {
        return Ok(None);
    }
    let (mut scan, mut sum) = (Scan::new(&*file, 0, found.len, Check::Header), HeadersSum::default());
    loop {
        match scan.next() {
            Ok(Some(found)) => sum.update(found.batch.as_bytes()),
            Ok(None) | Err(ScanError::Bad { .. }) => return Ok(Some(sum.value())),
            Err(ScanError::Io(e)) => return Err(at(e)),
        }
    }
}

fn scan_batch(batch: &RecordBatch, position: u64, scratch: &mut Scratch, info: &mut SegmentInfo) {
    let header: &BatchHeader = batch.header();
    if header.count > 0 {
        info.max_timestamp = info.max_timestamp.max(Some(header.max_timestamp));
    }
    let (mut records, mut tombstones) = (0, 0);
    let read = batch.view().records(scratch).and_then(|all| {
        for record in all {
            let record = record?;
            info.first_timestamp.get_or_insert(record.timestamp);
            records += 1;
            tombstones += u64::from(record.key.is_some() && record.is_tombstone());
        }
        Ok(())
    });
    match read {
        Ok(()) => {}
        // It can be counted all the same.
        Err(FormatError::UnsupportedCodec(_)) => records = u64::from(header.count),
        Err(why) => info.damaged(position, why),
    }
    if header.attributes.is_control() {
        (records, tombstones) = (0, 0);
    }
    info.count(1, records, tombstones);
}

/// A digest that cannot be read, or is of other bytes, is as good as none: it is built again.
fn take_digest(
    storage: &dyn Storage,
    file: &FileEntry,
    info: &mut SegmentInfo,
    headers_sum: Option<u32>,
) -> Result<()> {
    let Ok(digest) = digest(storage, &file.path) else { return Ok(()) };
    let subject = digest.footer.subject;
    if (subject.base, subject.end, subject.log_len) != (info.base, info.end, info.log_bytes) {
        return Ok(());
    }
    let headers_sum = if headers_sum.is_some() { headers_sum } else { sum_where_changed(storage, info)? };
    if headers_sum.is_some_and(|sum| sum != subject.headers_sum) {
        return Ok(());
    }
    info.digest = Some(digest.footer);
    let counts = digest.footer.counts;
    info.batches = info.batches.or(Some(counts.batches));
    info.records = info.records.or(Some(counts.records));
    info.tombstones = info.tombstones.or(Some(counts.tombstones));
    info.horizons = digest.annex.horizons;
    let state_horizon = info.known.and_then(|known| known.tombstone_horizon);
    if let Some(at) = state_horizon.filter(|_| info.horizons.is_empty()) {
        info.horizons.push(Horizon { end: info.end, at });
    }
    Ok(())
}

/// Whether a file went away between listing and looking.
fn is_gone(error: &Error) -> bool {
    *error.kind() == ErrorKind::Io(std::io::ErrorKind::NotFound)
}
