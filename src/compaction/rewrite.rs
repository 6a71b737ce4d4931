//! Rewrites a group of segments without their dead records.
//!
//! Batches whose records all stay are copied as they are, in long runs. A batch that loses records keeps its offsets,
//! timestamps, codec and producer. The last batch of the group stays in any case, empty if need be, so that the chain
//! of segments has no hole. So does the last batch of each known producer. The CRC of everything that is read is
//! checked, so damage never gets a new CRC.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{DigestAnnex, DigestSubject, HeadersSum, KeyHasher};
use crate::format::file_name::{SegmentFileKind, Suffix, numbered_segment_file};
use crate::format::{
    AbortedTxn, BatchHeader, BatchView, FilterScratch, Filtered, IndexSum, OffsetIndexEntry, TimeIndexEntry,
    empty_batch, filter_batch_to, stamp_batch,
};
use crate::offset::{Offset, Timestamp};
use crate::replay::producers::LastBatches;
use crate::replay::transactions::{AbortedRange, MarkerFate, SegmentTransactions, TransactionFilter};
use crate::segment::digest_file::{DigestWriter, Tally};
use crate::segment::index::{Indexer, Sums};
use crate::segment::replace::Replacement;
use crate::segment::scan::{Check, Found, Scan, ScanError};
use crate::segment::{PartitionDir, Segment, SegmentMeta};
use crate::storage::throttle::Throttled;
use crate::storage::{File, OpenMode, Storage, small_file};
use crate::sync::atomic::{AtomicU64, Ordering};

use super::Memory;
use super::survivors::Survivors;
use super::tombstones::{TombstoneRule, horizon_at};
use crate::format::digest::Horizon;

/// Output is written in pieces of this size.
const PIECE: usize = 1 << 20;
/// Output is sent to the medium in pieces of this size while the next one is made. So the sync at the end is short: at
/// most two pieces wait for it.
const WRITE_OUT: u64 = 4 << 20;
/// The largest output: positions in indexes are 32-bit, and signed in Kafka.
const LEN_MAX: u64 = i32::MAX as u64;

/// Hands out names of temporary files that this process has not used before.
pub(crate) struct Temporaries<'a> {
    dir: &'a PartitionDir,
    /// Each number is handed out once. The counter synchronizes nothing else.
    counter: &'a AtomicU64,
}

impl<'a> Temporaries<'a> {
    pub(crate) fn new(dir: &'a PartitionDir, counter: &'a AtomicU64) -> Temporaries<'a> {
        Temporaries { dir, counter }
    }

    /// Returns a path that no file has. A leftover there is removed when the log is opened.
    pub(crate) fn path(&self, base: Offset, kind: SegmentFileKind) -> PathBuf {
        self.path_of(base, kind, self.next())
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    fn path_of(&self, base: Offset, kind: SegmentFileKind, number: u64) -> PathBuf {
        self.dir.file_path(&numbered_segment_file(base, kind, Suffix::Cleaned, number))
    }
}

/// The rules of a rewrite, the same for all groups of a pass.
pub(crate) struct Rules<'a> {
    /// The number of log bytes between two index entries of an output.
    pub(crate) index_interval: u64,
    /// All reads and writes go through it.
    pub(crate) storage: &'a Throttled,
    pub(crate) hasher: &'a KeyHasher,
    pub(crate) memory: &'a Memory,
    pub(crate) tombstones: &'a TombstoneRule,
    /// The horizon of markers whose transactions lose their last batches in this pass.
    pub(crate) marker_horizon: Timestamp,
    pub(crate) last_batches: &'a LastBatches,
    pub(crate) temporaries: &'a Temporaries<'a>,
}

/// A segment of the group and what the rewrite needs to know about it.
pub(crate) struct Input<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    pub(crate) horizons: &'a [Horizon],
    pub(crate) aborted: Vec<AbortedRange>,
    /// Its own entries of the transaction index.
    pub(crate) entries: Vec<AbortedTxn>,
}

/// The result of rewriting a group.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) segment: Replacement,
    /// The highest abort marker that caused records to be removed.
    pub(crate) highest_abort: Option<Offset>,
    /// When the first of its markers may be removed.
    pub(crate) markers_go: Option<Timestamp>,
    pub(crate) bytes_read: u64,
}

/// Rewrites one group. `group` is its index among the survivors' groups.
pub(crate) fn rewrite(
    rules: &Rules<'_>,
    inputs: &[Input<'_>],
    group: usize,
    survivors: &mut Survivors<'_>,
    filter: &mut TransactionFilter,
    horizons: Vec<Horizon>,
) -> Result<Output> {
    let (first, last) = (inputs.first().expect("a group has segments"), inputs.last().expect("a group has segments"));
    let (base, end) = (first.segment.base(), last.segment.end());
    let number = rules.temporaries.next();
    let mut writer = Writer::create(rules, base, end, number)?;
    let written = (|| {
        for input in inputs {
            filter.enter_segment(input.aborted.clone());
            writer.take(rules, input, group, survivors, filter)?;
        }
        writer.finish(rules, inputs, group, survivors, horizons)
    })();
    if written.is_err() {
        discard(rules, base, number);
    }
    written
}

/// Removes the files of a failed rewrite. Files that cannot be removed now are removed at the next open.
fn discard(rules: &Rules<'_>, base: Offset, number: u64) {
    for kind in SegmentFileKind::ALL {
        let _ = small_file::remove(&*rules.temporaries.dir.storage, &rules.temporaries.path_of(base, kind, number));
    }
}

struct Writer {
    base: Offset,
    end: Offset,
    number: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    /// The number of bytes written, without the buffer.
    written: u64,
    /// The last piece that was sent to the medium.
    sent: Range<u64>,
    indexer: Indexer,
    offsets: Vec<u8>,
    times: Vec<u8>,
    aborted: Vec<u8>,
    sum: HeadersSum,
    transactions: SegmentTransactions,
    tally: Tally,
    highest_abort: Option<Offset>,
    bytes_read: u64,
    scratch: FilterScratch,
}

impl Writer {
    fn create(rules: &Rules<'_>, base: Offset, end: Offset, number: u64) -> Result<Writer> {
        let path = rules.temporaries.path_of(base, SegmentFileKind::Log, number);
        let file = rules.storage.open(&path, OpenMode::CreateNew).map_err(|e| Error::io(e, &path))?;
        Ok(Writer {
            base,
            end,
            number,
            path,
            file,
            buffer: Vec::with_capacity(PIECE),
            written: 0,
            sent: 0..0,
            indexer: Indexer::new(base, rules.index_interval),
            offsets: Vec::new(),
            times: Vec::new(),
            aborted: Vec::new(),
            sum: HeadersSum::default(),
            transactions: SegmentTransactions::default(),
            tally: Tally::default(),
            highest_abort: None,
            bytes_read: 0,
            scratch: FilterScratch::default(),
        })
    }

    /// Reads one segment of the group and writes the part that stays.
    fn take(
        &mut self,
        rules: &Rules<'_>,
        input: &Input<'_>,
        group: usize,
        survivors: &mut Survivors<'_>,
        filter: &mut TransactionFilter,
    ) -> Result<()> {
        let file = rules.storage.file(&input.segment.open()?.file);
        let mut scan = Scan::new(&*file, 0, input.segment.len(), Check::Crc);
        loop {
            match scan.next() {
                Ok(Some(found)) => self.batch(rules, input, group, survivors, filter, found)?,
                Ok(None) => break,
                Err(ScanError::Bad { position, why }) => {
                    return Err(Error::corrupt(&input.segment.path(), position, why.to_string()));
                }
                Err(ScanError::Io(e)) => return Err(Error::io(e, &input.segment.path())),
            }
        }
        self.bytes_read += input.segment.len();
        Ok(())
    }

    fn batch(
        &mut self,
        rules: &Rules<'_>,
        input: &Input<'_>,
        group: usize,
        survivors: &mut Survivors<'_>,
        filter: &mut TransactionFilter,
        found: Found<'_>,
    ) -> Result<()> {
        let (batch, header) = (found.batch, found.batch.header());
        let damaged =
            |why: crate::format::FormatError| Error::corrupt(&input.segment.path(), found.position, why.to_string());
        if header.attributes.is_control() {
            return self.marker(rules, input, filter, &batch).map_err(|e| e.at_path(&input.segment.path()));
        }
        if filter.is_aborted(header) {
            let marker = input.aborted.iter().filter(|range| range.covers(header)).map(|range| range.last_offset).max();
            self.highest_abort = self.highest_abort.max(marker);
            return self.emptied(rules, filter, header);
        }
        let kept = survivors.of_batch(group, header.base_offset..=header.last_offset())?;
        if kept.is_empty() {
            return self.emptied(rules, filter, header);
        }
        if kept.len() as u32 == header.count {
            return self.put(filter, batch.as_bytes());
        }
        let horizon = horizon_at(input.horizons, header.base_offset);
        let start = self.buffer.len();
        match filter_batch_to(&batch, kept, horizon, &mut self.scratch, &mut self.buffer).map_err(damaged)? {
            Filtered::Rewritten { .. } => self.note(filter, start),
            Filtered::Unchanged => self.put(filter, batch.as_bytes()),
            Filtered::Empty => self.emptied(rules, filter, header),
        }
    }

    /// Writes or drops a control batch. It stays while batches of its transaction stay, and then until its horizon. It
    /// gets that horizon when the last of these batches are removed.
    fn marker(
        &mut self,
        rules: &Rules<'_>,
        input: &Input<'_>,
        filter: &mut TransactionFilter,
        batch: &BatchView<'_>,
    ) -> Result<()> {
        let header = batch.header();
        let control = batch.control(&mut self.scratch.scratch)?;
        let fate = filter.marker(header, control);
        if fate.keeps_entry() {
            for entry in input.entries.iter().filter(|entry| entry.last_offset == header.base_offset) {
                self.aborted.extend_from_slice(&entry.encode());
            }
        }
        let horizon = match (fate, header.delete_horizon()) {
            _ if header.count == 0 => return self.emptied(rules, filter, header),
            (MarkerFate::Superfluous, Some(at)) if rules.tombstones.lets_go(at, header.base_offset) => {
                return self.emptied(rules, filter, header);
            }
            // A horizon that another program gave it does not count.
            (MarkerFate::Needed, _) => None,
            (MarkerFate::Parting | MarkerFate::Superfluous, None) => Some(rules.marker_horizon),
            (_, at) => at,
        };
        if horizon == header.delete_horizon() {
            return self.put(filter, batch.as_bytes());
        }
        let start = self.buffer.len();
        stamp_batch(batch, horizon, &mut self.scratch, &mut self.buffer)?;
        self.note(filter, start)
    }

    /// Handles a batch of which nothing is left. It stays, empty, if it is the last batch of its producer or of the
    /// group.
    fn emptied(&mut self, rules: &Rules<'_>, filter: &mut TransactionFilter, header: &BatchHeader) -> Result<()> {
        let of_producer = rules.last_batches.contains(header);
        if !of_producer && header.next_offset() != self.end {
            return Ok(());
        }
        let start = self.buffer.len();
        empty_batch(header, of_producer, &mut self.buffer);
        self.note(filter, start)
    }

    /// Copies a whole batch.
    fn put(&mut self, filter: &mut TransactionFilter, bytes: &[u8]) -> Result<()> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        self.note(filter, start)
    }

    /// Records the batch at the end of the buffer, and writes the buffer when it is full.
    fn note(&mut self, filter: &mut TransactionFilter, start: usize) -> Result<()> {
        let bytes = self.buffer.get(start..).unwrap_or_default();
        let batch = BatchView::parse(bytes).expect("what was written is a batch");
        let header = *batch.header();
        let control = batch.control(&mut self.scratch.scratch).ok().flatten();
        self.sum.update(bytes);
        self.transactions.observe(&header, control);
        self.tally.add_batch(&header);
        filter.stays(&header);
        let position = self.written + start as u64;
        if position + header.size as u64 > LEN_MAX {
            return Err(ErrorKind::BatchTooLarge { size: header.size, max: LEN_MAX as usize }.into());
        }
        if let Some((offset, time)) = self.indexer.note(&header, position) {
            self.offsets.extend_from_slice(&offset.encode());
            self.times.extend(time.iter().flat_map(TimeIndexEntry::encode));
        }
        if self.buffer.len() < PIECE { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let at = |e| Error::io(e, &self.path);
        self.file.write_at(&self.buffer, self.written).map_err(at)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.sent.end >= WRITE_OUT {
            let piece = self.sent.end..self.written;
            let before = std::mem::replace(&mut self.sent, piece.clone());
            self.file.write_out(piece, before).map_err(at)?;
        }
        Ok(())
    }

    /// Writes and syncs the rest, the indexes and the digest.
    fn finish(
        mut self,
        rules: &Rules<'_>,
        inputs: &[Input<'_>],
        group: usize,
        survivors: &mut Survivors<'_>,
        horizons: Vec<Horizon>,
    ) -> Result<Output> {
        self.flush()?;
        self.file.sync().map_err(|e| Error::io(e, &self.path))?;
        self.times.extend(self.indexer.finish().iter().flat_map(TimeIndexEntry::encode));
        let kept = &survivors.groups()[group];
        assert_eq!(self.tally.records, kept.records, "all that stays was written, and nothing else");

        let storage = rules.storage;
        let mut files = Vec::new();
        let sums = Sums {
            offsets: Some(IndexSum::of(&self.offsets, (self.offsets.len() / OffsetIndexEntry::LEN) as u32)),
            times: Some(IndexSum::of(&self.times, (self.times.len() / TimeIndexEntry::LEN) as u32)),
            aborted: Some(IndexSum::of(&self.aborted, (self.aborted.len() / AbortedTxn::LEN) as u32)),
        };
        for (kind, bytes) in [
            (SegmentFileKind::OffsetIndex, &self.offsets),
            (SegmentFileKind::TimeIndex, &self.times),
            (SegmentFileKind::TxnIndex, &self.aborted),
        ] {
            // Kafka creates a transaction index only where a transaction aborts.
            if kind != SegmentFileKind::TxnIndex || !bytes.is_empty() {
                let path = rules.temporaries.path_of(self.base, kind, self.number);
                small_file::write_new(storage, &path, bytes)?;
                files.push((kind, path));
            }
        }
        let path = rules.temporaries.path_of(self.base, SegmentFileKind::Digest, self.number);
        self.write_digest(rules, group, survivors, horizons, &path)?;
        files.push((SegmentFileKind::Digest, path));
        files.push((SegmentFileKind::Log, self.path.clone()));

        let known = |time: Timestamp| Some(time).filter(|time| *time != Timestamp::NONE);
        let facts = |input: &Input<'_>| input.segment.meta();
        let info = self.file.info().map_err(|e| Error::io(e, &self.path))?;
        assert_eq!(info.len, self.written, "the file is what was written");
        let facts = SegmentMeta {
            max_timestamp: self.indexer.max_timestamp(),
            first_append_at: inputs
                .iter()
                .filter_map(|i| known(facts(i).first_append_at))
                .min()
                .unwrap_or(Timestamp::NONE),
            sealed_at: inputs.iter().map(|i| facts(i).sealed_at).max().unwrap_or(Timestamp::NONE),
            modified: info.modified,
            ..SegmentMeta::new(info.id)
        };
        let segment = Replacement { base: self.base, end: self.end, len: self.written, facts, sums, files };
        let markers_go = self.transactions.horizons().first().map(|markers| markers.at);
        Ok(Output { segment, highest_abort: self.highest_abort, markers_go, bytes_read: self.bytes_read })
    }

    fn write_digest(
        &self,
        rules: &Rules<'_>,
        group: usize,
        survivors: &mut Survivors<'_>,
        horizons: Vec<Horizon>,
        path: &Path,
    ) -> Result<()> {
        let subject = DigestSubject {
            key_id: rules.hasher.id(),
            base: self.base,
            end: self.end,
            log_len: self.written,
            headers_sum: self.sum.value(),
        };
        let file = rules.storage.open(path, OpenMode::CreateNew).map_err(|e| Error::io(e, path))?;
        let mut digest = DigestWriter::new(file, path, subject, rules.memory.digest_writer());
        survivors.write_entries(group, &(self.base..self.end), &mut digest)?;
        let loose_markers = self.transactions.loose();
        let tally = Tally { record_bytes: digest.key_bytes(), loose_markers, ..self.tally };
        let (markers, producers) = (self.transactions.horizons(), self.transactions.producers().collect());
        digest.finish(&tally, &DigestAnnex { horizons, markers, producers })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
