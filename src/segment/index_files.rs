//! The index files of a segment: loaded, rebuilt from the `.log`, stored.

use std::io;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::file_name::SegmentFileKind;
use crate::format::{AbortedTxn, IndexSum, OffsetIndexEntry, TimeIndexEntry};
use crate::offset::{Offset, Timestamp};
use crate::storage::OpenMode;
use crate::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

use super::index::{Around, Entries, Indexer, SegmentIndex, Sums, around, before_time};
use super::open_file::Cached;
use super::scan::{Check, Scan, ScanError};
use super::{OpenData, Segment};

/// The approximate distance in bytes between entries of a rebuilt index.
const REBUILT_INTERVAL: u64 = 4096;

/// One of the three index files.
#[derive(Clone, Copy)]
struct Sidecar {
    kind: SegmentFileKind,
    entry: usize,
}

const OFFSETS: Sidecar = Sidecar { kind: SegmentFileKind::OffsetIndex, entry: OffsetIndexEntry::LEN };
const TIMES: Sidecar = Sidecar { kind: SegmentFileKind::TimeIndex, entry: TimeIndexEntry::LEN };
const ABORTED: Sidecar = Sidecar { kind: SegmentFileKind::TxnIndex, entry: AbortedTxn::LEN };

impl Segment {
    /// Returns the index entries around the batch that holds `offset`, or the first after it.
    pub(super) fn around(&self, data: &OpenData, offset: Offset) -> Result<Around> {
        let target = u32::try_from(offset.since(self.base())).unwrap_or(u32::MAX);
        let in_memory = |index: &SegmentIndex| {
            let after = index.recent().offsets.partition_point(|entry| entry.offset <= target);
            let floor = index.recent().offsets.get(after.checked_sub(1)?)?;
            Some(Around { target, floor: *floor, next: index.recent().offsets.get(after).copied() })
        };
        let sum = {
            let index = self.read_index();
            if let Some(around) = in_memory(&index) {
                return Ok(around);
            }
            index.stored().offsets
        };
        match self.stored(data, OFFSETS, sum)? {
            Some(bytes) => Ok(around(&bytes, target)),
            None => {
                self.rebuild_index(data)?;
                Ok(in_memory(&self.read_index()).unwrap_or(Around::start(target)))
            }
        }
    }

    /// Returns an offset before which every record is older than `timestamp`.
    pub(crate) fn floor_time(&self, timestamp: Timestamp) -> Result<Offset> {
        let in_memory = |index: &SegmentIndex| {
            let at = index.recent().times.partition_point(|entry| entry.timestamp < timestamp).checked_sub(1)?;
            index.recent().times.get(at).map(|entry| entry.offset)
        };
        let data = self.open()?;
        let mut found = in_memory(&self.read_index());
        if found.is_none() {
            match self.stored(&data, TIMES, self.sums().times)? {
                Some(bytes) => found = before_time(&bytes, timestamp).map(|entry| entry.offset),
                None => {
                    self.rebuild_index(&data)?;
                    found = in_memory(&self.read_index());
                }
            }
        }
        Ok(self.base() + u64::from(found.unwrap_or(0)))
    }

    /// Returns the aborted transactions whose markers are in this segment, or `None` if their file does not match its
    /// sum.
    pub(crate) fn aborted(&self) -> Result<Option<Vec<AbortedTxn>>> {
        let (sum, recent) = {
            let index = self.read_index();
            (index.stored().aborted, index.recent().aborted.clone())
        };
        let Some(sum) = sum else { return Ok(None) };
        if sum.entries == 0 {
            return Ok(Some(recent));
        }
        let Some(bytes) = self.load(ABORTED, sum) else { return Ok(None) };
        let stored: std::result::Result<Vec<_>, _> =
            bytes.chunks_exact(AbortedTxn::LEN).map(AbortedTxn::decode).collect();
        Ok(stored.ok().map(|stored| [stored, recent].concat()))
    }

    /// Returns its largest timestamp. Rebuilds the index if the timestamp is unknown.
    pub(crate) fn max_timestamp(&self) -> Result<Timestamp> {
        if self.sums().times.is_none() {
            self.rebuild_index(&*self.open()?)?;
        }
        let newest = self.read_index().recent().times.last().map_or(Timestamp::NONE, |entry| entry.timestamp);
        Ok(self.meta().max_timestamp.max(newest))
    }

    /// Discards the stored offset and time index, and rebuilds the entries from the batch headers.
    pub(crate) fn rebuild_index(&self, data: &OpenData) -> Result<()> {
        let _files = self.lock_index_files();
        let mut offsets = Vec::new();
        let mut times = Vec::new();
        let mut indexer = Indexer::new(self.base(), REBUILT_INTERVAL);
        // The length is read first, so an entry added later belongs to a batch behind it.
        let len = self.len();
        // Entries in memory stay. Only the entries before them are rebuilt.
        let first = self.read_index().recent().offsets.first().map(|entry| u64::from(entry.position));
        let mut scan = Scan::new(&*data.file, 0, first.unwrap_or(len), Check::Header);
        let mut end = self.base();
        loop {
            match scan.next() {
                Ok(Some(found)) => {
                    let header = found.batch.header();
                    // Never index a batch that claims offsets of earlier batches: a walk that began there would trust
                    // it.
                    let is_above = header.base_offset >= end;
                    end = end.max(header.next_offset());
                    if let Some((offset, time)) = indexer.note(header, found.position) {
                        offsets.extend(is_above.then_some(offset));
                        times.extend(time);
                    }
                }
                Ok(None) => break,
                Err(ScanError::Bad { position, why }) => {
                    return Err(Error::corrupt(&self.path(), position, why.to_string()));
                }
                Err(ScanError::Io(e)) => return Err(Error::io(e, &self.path())),
            }
        }
        if self.is_sealed() {
            times.extend(indexer.finish());
        }
        self.update_meta(|facts| facts.max_timestamp = facts.max_timestamp.max(indexer.max_timestamp()));
        let mut index = self.write_index();
        index.recent_mut().offsets.splice(..0, offsets);
        index.recent_mut().times.splice(..0, times);
        index.set_stored(|sums| (sums.offsets, sums.times) = (Some(IndexSum::default()), Some(IndexSum::default())));
        Ok(())
    }

    /// Recovers the aborted transactions whose markers lie below the end that is passed to `find`, unless their file is
    /// valid by now. Transactions that abort meanwhile are kept.
    pub(crate) fn find_aborted(&self, find: impl FnOnce(Offset) -> Result<Vec<AbortedTxn>>) -> Result<()> {
        let _files = self.lock_index_files();
        if self.aborted()?.is_some() {
            return Ok(());
        }
        // The appender adds an entry before it moves the end past the marker.
        let end = self.end();
        let mut found = find(end)?;
        let mut index = self.write_index();
        let recent = index.recent_mut();
        found.extend(recent.aborted.iter().filter(|entry| entry.last_offset >= end).cloned());
        recent.aborted = found;
        index.set_stored(|sums| sums.aborted = Some(IndexSum::default()));
        Ok(())
    }

    /// Stores durably the entries that are only in memory: all of them, or those up to a checkpoint. Afterwards the
    /// files hold exactly what the sums describe.
    pub(crate) fn store_index(&self, up_to: Option<Entries>) -> Result<()> {
        let sums = self.sums();
        if sums.offsets.is_none() || sums.times.is_none() {
            self.rebuild_index(&*self.open()?)?;
        }
        let _files = self.lock_index_files();
        let (offsets, times, aborted, sums) = {
            let index = self.read_index();
            let up_to = up_to.unwrap_or_else(|| index.entries());
            let (stored, recent) = (index.stored(), index.recent());
            let new =
                |up_to: u32, sum: Option<IndexSum>| up_to.saturating_sub(sum.unwrap_or_default().entries) as usize;
            let offsets = encoded(&recent.offsets, new(up_to.offsets, stored.offsets), OffsetIndexEntry::encode);
            let times = encoded(&recent.times, new(up_to.times, stored.times), TimeIndexEntry::encode);
            let aborted = encoded(&recent.aborted, new(up_to.aborted, stored.aborted), AbortedTxn::encode);
            (offsets, times, aborted, stored)
        };
        let stored = Sums {
            offsets: Some(self.append_entries(OFFSETS, sums.offsets.unwrap_or_default(), &offsets)?),
            times: Some(self.append_entries(TIMES, sums.times.unwrap_or_default(), &times)?),
            aborted: match sums.aborted {
                Some(sum) if sum.entries > 0 || !aborted.is_empty() => {
                    Some(self.append_entries(ABORTED, sum, &aborted)?)
                }
                unchanged => unchanged,
            },
        };
        let mut index = self.write_index();
        index.recent_mut().offsets.drain(..offsets.len() / OFFSETS.entry);
        index.recent_mut().times.drain(..times.len() / TIMES.entry);
        index.recent_mut().aborted.drain(..aborted.len() / ABORTED.entry);
        index.shrink();
        index.set_stored(|sums| *sums = stored);
        Ok(())
    }

    /// The sums that the partition's `state` records for the index files.
    pub(crate) fn sums(&self) -> Sums {
        self.read_index().stored()
    }

    /// The same, for a segment that `state` describes only up to `end`. A transaction index that was recovered, for
    /// example after a truncation, is not stored yet. So its file does not count while an entry from below `end` is
    /// only in memory.
    pub(crate) fn sums_below(&self, end: Offset) -> Sums {
        let index = self.read_index();
        let is_stored = index.recent().aborted.iter().all(|entry| entry.last_offset >= end);
        let stored = index.stored();
        Sums { aborted: stored.aborted.filter(|_| is_stored), ..stored }
    }

    /// The sums of those index files that hold all known entries.
    pub(crate) fn whole_sums(&self) -> Sums {
        let index = self.read_index();
        let (stored, recent) = (index.stored(), index.recent());
        Sums {
            offsets: stored.offsets.filter(|_| recent.offsets.is_empty()),
            times: stored.times.filter(|_| recent.times.is_empty()),
            aborted: stored.aborted.filter(|_| recent.aborted.is_empty()),
        }
    }

    /// Whether the index files hold all known entries.
    pub(crate) fn index_is_stored(&self) -> bool {
        self.read_index().is_stored()
    }

    /// Whether the index files of a sealed segment, without recorded sums, end in a valid entry. Kafka trusts index
    /// files after a clean shutdown. So files that Kafka would not have written are rebuilt before Kafka takes over the
    /// log.
    pub(crate) fn index_files_end_well(&self) -> bool {
        let last = |sidecar: Sidecar| {
            let file = self.dir().storage.open(&self.sidecar_path(sidecar.kind), OpenMode::Read).ok()?;
            let len = file.info().ok()?.len;
            let mut bytes = vec![0; sidecar.entry];
            let Some(at) = len.checked_sub(sidecar.entry as u64) else { return (len == 0).then(Vec::new) };
            let read = file.read_at(&mut bytes, at).ok()?;
            (len.is_multiple_of(sidecar.entry as u64) && read == bytes.len()).then_some(bytes)
        };
        let span = self.end().since(self.base());
        let offsets = last(OFFSETS).is_some_and(|bytes| {
            let sound = |e: OffsetIndexEntry| {
                e.position > 0 && u64::from(e.position) < self.len() && u64::from(e.offset) < span
            };
            bytes.is_empty() || OffsetIndexEntry::decode(&bytes).is_some_and(sound)
        });
        let times = last(TIMES).is_some_and(|bytes| {
            let sound = |e: TimeIndexEntry| e.timestamp > Timestamp::NONE && u64::from(e.offset) < span;
            (bytes.is_empty() && self.is_empty()) || TimeIndexEntry::decode(&bytes).is_some_and(sound)
        });
        offsets && times
    }

    /// The number of entries, stored or not.
    pub(crate) fn index_entries(&self) -> Entries {
        self.read_index().entries()
    }

    /// The size in bytes of the larger of the offset and the time index.
    pub(crate) fn index_bytes(&self) -> u64 {
        let entries = self.index_entries();
        (u64::from(entries.offsets) * OFFSETS.entry as u64).max(u64::from(entries.times) * TIMES.entry as u64)
    }

    /// Changes the entries in memory.
    pub(crate) fn update_index(&self, change: impl FnOnce(&mut SegmentIndex)) {
        change(&mut self.write_index());
    }

    /// Returns the stored entries of one index, or `None` if they do not match their sum.
    fn stored(&self, data: &OpenData, sidecar: Sidecar, sum: Option<IndexSum>) -> Result<Option<Bytes>> {
        let Some(sum) = sum else { return Ok(None) };
        if sum.entries == 0 {
            return Ok(Some(Bytes::new()));
        }
        let cache = if sidecar.kind == OFFSETS.kind { &data.offsets } else { &data.times };
        let mut cache = cache.lock();
        if let Some(cached) = cache.as_ref().filter(|cached| cached.bytes.len() == sum.entries as usize * sidecar.entry)
        {
            return Ok(Some(cached.bytes.clone()));
        }
        *cache = None;
        let Some(bytes) = self.load(sidecar, sum) else { return Ok(None) };
        let me = self.me.clone() as _;
        if let Some(ticket) = self.dir().file_cache.map(bytes.len() as u64, &me) {
            *cache = Some(Cached { bytes: bytes.clone(), _ticket: ticket });
        }
        Ok(Some(bytes))
    }

    /// Reads a file of entries. Returns `None` if it does not match the recorded sum.
    fn load(&self, sidecar: Sidecar, sum: IndexSum) -> Option<Bytes> {
        let file = self.dir().storage.open(&self.sidecar_path(sidecar.kind), OpenMode::Read).ok()?;
        let len = u64::from(sum.entries) * sidecar.entry as u64;
        if file.info().ok()?.len < len {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0).ok()?;
        (read == bytes.len() && IndexSum::of(&bytes, sum.entries) == sum).then(|| Bytes::from(bytes))
    }

    /// Appends entries to an index file behind the stored ones, and truncates the file after them.
    fn append_entries(&self, sidecar: Sidecar, stored: IndexSum, bytes: &[u8]) -> Result<IndexSum> {
        let path = self.sidecar_path(sidecar.kind);
        let at = |e| Error::io(e, &path);
        let storage = &self.dir().storage;
        let file = match storage.open(&path, OpenMode::Write) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => storage.open(&path, OpenMode::CreateNew).map_err(at)?,
            Err(e) => return Err(at(e)),
        };
        let position = u64::from(stored.entries) * sidecar.entry as u64;
        let len = position + bytes.len() as u64;
        if !bytes.is_empty() {
            file.write_at(bytes, position).map_err(at)?;
        }
        if file.info().map_err(at)?.len != len {
            file.set_len(len).map_err(at)?;
        }
        file.sync().map_err(at)?;
        Ok(stored.and(bytes, (bytes.len() / sidecar.entry) as u32))
    }

    fn read_index(&self) -> RwLockReadGuard<'_, SegmentIndex> {
        self.index.read()
    }

    fn write_index(&self) -> RwLockWriteGuard<'_, SegmentIndex> {
        self.index.write()
    }

    fn lock_index_files(&self) -> MutexGuard<'_, ()> {
        self.index_files.lock()
    }
}

/// Encodes the first `count` entries as in their file.
fn encoded<T, const N: usize>(entries: &[T], count: usize, encode: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    entries.iter().take(count).flat_map(encode).collect()
}
