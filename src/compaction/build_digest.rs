//! Builds the digest of a sealed segment in one sequential read of its log, and checks every CRC.

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::digest::{DigestAnnex, DigestEntry, DigestFooter, DigestSubject, HeadersSum, KeyHasher};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{BatchView, Scratch};
use crate::replay::transactions::{self, AbortedRange, SegmentTransactions};
use crate::segment::Segment;
use crate::segment::digest_file::{DigestReader, DigestWriter, Expected, Tally};
use crate::segment::scan::{Check, Scan, ScanError};
use crate::storage::throttle::Throttled;
use crate::storage::{OpenMode, Storage, small_file};

use super::Order;
use super::merge::Source;
use super::rewrite::Temporaries;
use super::sort::Sorter;
use super::spill::TempFiles;

/// The stored digest of a segment, if it matches the segment.
pub(crate) fn stored(segment: &Segment, hasher: &KeyHasher) -> Result<Option<Source>> {
    let path = segment.sidecar_path(SegmentFileKind::Digest);
    let expected = Expected { key_id: hasher.id(), base: segment.base(), end: segment.end(), log_len: segment.len() };
    let reader = DigestReader::open(&*segment.dir().storage, &path, &expected)?;
    Ok(reader.map(|reader| Source { path, footer: *reader.footer() }))
}

/// Reads a segment and stores its digest. `aborted` are the transactions whose records in it count for nothing.
pub(crate) fn build(
    segment: &Segment,
    aborted: &[AbortedRange],
    order: &Order<'_>,
    storage: &Throttled,
    temporaries: &Temporaries<'_>,
) -> Result<Source> {
    let dir = segment.dir();
    let name = || temporaries.path(segment.base(), SegmentFileKind::Digest);
    let mut builder = Builder {
        segment,
        aborted,
        storage,
        hasher: order.hasher,
        sorter: Sorter::new(order.memory.sort(), TempFiles::new(storage, &name)),
        transactions: SegmentTransactions::default(),
        sum: HeadersSum::default(),
        tally: Tally::default(),
        scratch: Scratch::default(),
    };
    builder.read()?;
    let subject = DigestSubject {
        key_id: order.hasher.id(),
        base: segment.base(),
        end: segment.end(),
        log_len: segment.len(),
        headers_sum: builder.sum.value(),
    };
    let temporary = name();
    let written = builder.write(&temporary, subject, order.memory.digest_writer()).and_then(|footer| {
        let path = dir.segment_path(segment.base(), SegmentFileKind::Digest, Suffix::None);
        dir.storage.rename(&temporary, &path).map_err(|e| Error::io(e, &temporary))?;
        Ok(Source { path, footer })
    });
    if written.is_err() {
        // If this fails, the next open removes the file.
        let _ = small_file::remove(&*dir.storage, &temporary);
    }
    written
}

struct Builder<'a> {
    segment: &'a Segment,
    storage: &'a Throttled,
    aborted: &'a [AbortedRange],
    hasher: &'a KeyHasher,
    sorter: Sorter<'a>,
    transactions: SegmentTransactions,
    sum: HeadersSum,
    tally: Tally,
    scratch: Scratch,
}

impl Builder<'_> {
    fn read(&mut self) -> Result<()> {
        let file = self.storage.file(&self.segment.open()?.file);
        let mut scan = Scan::new(&*file, 0, self.segment.len(), Check::Crc);
        loop {
            match scan.next() {
                Ok(Some(found)) => {
                    let position = found.position;
                    self.batch(&found.batch).map_err(|why| match why {
                        Trouble::Bytes(why) => Error::corrupt(&self.segment.path(), position, why.to_string()),
                        Trouble::Other(error) => error,
                    })?;
                }
                Ok(None) => return Ok(()),
                Err(ScanError::Bad { position, why }) => {
                    return Err(Error::corrupt(&self.segment.path(), position, why.to_string()));
                }
                Err(ScanError::Io(e)) => return Err(Error::io(e, &self.segment.path())),
            }
        }
    }

    /// Writes the digest of what was read.
    fn write(&mut self, path: &Path, subject: DigestSubject, memory: usize) -> Result<DigestFooter> {
        let file = self.storage.open(path, OpenMode::CreateNew).map_err(|e| Error::io(e, path))?;
        let mut writer = DigestWriter::new(file, path, subject, memory);
        self.sorter.drain(|entries| writer.push(entries))?;
        let (markers, producers) = (self.transactions.horizons(), self.transactions.producers().collect());
        let tally = Tally { loose_markers: self.transactions.loose(), ..self.tally };
        writer.finish(&tally, &DigestAnnex { horizons: Vec::new(), markers, producers })
    }

    fn batch(&mut self, batch: &BatchView<'_>) -> std::result::Result<(), Trouble> {
        let header = batch.header();
        self.sum.update(batch.as_bytes());
        self.tally.add_batch(header);
        if header.attributes.is_control() {
            let control = batch.control(&mut self.scratch)?;
            self.transactions.observe(header, control);
            return Ok(());
        }
        self.transactions.observe(header, None);
        if transactions::is_aborted(self.aborted, header) {
            self.tally.record_bytes += batch.payload().len() as u64;
            return Ok(());
        }
        let Builder { segment, hasher, sorter, tally, scratch, .. } = self;
        batch.records(scratch)?.visit(|record| {
            let bytes = record.size();
            tally.record_bytes += u64::from(bytes);
            // A record without a key is garbage: nothing can supersede it, so nothing would ever remove it.
            let Some(key) = record.key else { return Ok(()) };
            let delta = record.offset.since(segment.base()) as u32;
            let entry = DigestEntry::new(hasher.hash(key), delta, record.is_tombstone(), bytes);
            sorter.push(&entry).map_err(Trouble::Other)
        })
    }
}

/// The cause of a failure in a batch: its bytes, or something else.
enum Trouble {
    Bytes(crate::format::FormatError),
    Other(Error),
}

impl From<crate::format::FormatError> for Trouble {
    fn from(why: crate::format::FormatError) -> Trouble {
        Trouble::Bytes(why)
    }
}
