//! Building the digest of a sealed segment: one sequential read of its log, every CRC checked.

use crate::error::{Error, Result};
use crate::format::digest::{DigestAnnex, DigestEntry, DigestSubject, HeadersSum, KeyHasher};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{BatchView, Scratch};
use crate::segment::Segment;
use crate::segment::digest::{DigestReader, DigestWriter, Expected, Opened, Tally};
use crate::segment::scan::{Check, Scan, ScanError};
use crate::storage::OpenMode;
use crate::transactions::{self, AbortedRange, TransactionTails};

use super::Memory;
use super::merge::Source;
use super::rewrite::Temporaries;
use super::sort::Sorter;
use super::spill::TempFiles;

/// The digest of a segment as it is stored, when it fits the segment.
pub(crate) fn stored(segment: &Segment, hasher: &KeyHasher) -> Result<Option<Source>> {
    let path = segment.sidecar_path(SegmentFileKind::Digest);
    let expected = Expected { key_id: hasher.id(), base: segment.base(), end: segment.end(), log_len: segment.len() };
    match DigestReader::open(&*segment.place().storage, &path, &expected)? {
        Opened::Valid(reader) => Ok(Some(Source { path, footer: *reader.footer() })),
        Opened::Rebuild(_) => Ok(None),
    }
}

/// Reads a segment and stores its digest. `aborted` are the transactions whose records in it count for nothing.
pub(crate) fn build(
    segment: &Segment,
    aborted: &[AbortedRange],
    hasher: &KeyHasher,
    memory: &Memory,
    temporaries: &Temporaries<'_>,
) -> Result<Source> {
    let place = segment.place();
    let name = || temporaries.path(segment.base(), SegmentFileKind::Digest);
    let mut builder = Builder {
        segment,
        aborted,
        hasher,
        sorter: Sorter::new(memory.sort(), TempFiles::new(&*place.storage, &name)),
        tails: TransactionTails::default(),
        sum: HeadersSum::default(),
        tally: Tally::default(),
        scratch: Scratch::default(),
    };
    builder.read()?;
    let subject = DigestSubject {
        key_id: hasher.id(),
        base: segment.base(),
        end: segment.end(),
        log_len: segment.len(),
        headers_sum: builder.sum.value(),
    };
    let temporary = name();
    let at = |e| Error::io(e, &temporary);
    let file = place.storage.open(&temporary, OpenMode::CreateNew).map_err(at)?;
    let mut writer = DigestWriter::new(file, &temporary, subject, memory.digest_writer());
    builder.sorter.drain(|entry| writer.push(entry))?;
    let annex = DigestAnnex { horizons: Vec::new(), producers: builder.tails.iter().collect() };
    let footer = writer.finish(&builder.tally, &annex)?;
    let path = place.segment_path(segment.base(), SegmentFileKind::Digest, Suffix::None);
    place.storage.rename(&temporary, &path).map_err(at)?;
    Ok(Source { path, footer })
}

struct Builder<'a> {
    segment: &'a Segment,
    aborted: &'a [AbortedRange],
    hasher: &'a KeyHasher,
    sorter: Sorter<'a>,
    tails: TransactionTails,
    sum: HeadersSum,
    tally: Tally,
    scratch: Scratch,
}

impl Builder<'_> {
    fn read(&mut self) -> Result<()> {
        let data = self.segment.open()?;
        let mut scan = Scan::new(&*data.file, 0, self.segment.len(), Check::Crc);
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

    fn batch(&mut self, batch: &BatchView<'_>) -> std::result::Result<(), Trouble> {
        let header = batch.header();
        self.sum.update(batch.as_bytes());
        self.tally.batches += 1;
        if header.attributes.is_control() {
            let control = batch.control(&mut self.scratch)?;
            self.tails.observe(header, control);
            return Ok(());
        }
        self.tails.observe(header, None);
        self.tally.records += u64::from(header.count);
        if transactions::is_aborted(self.aborted, header) {
            self.tally.record_bytes += batch.payload().len() as u64;
            return Ok(());
        }
        for record in batch.records(&mut self.scratch)? {
            let record = record?;
            let bytes = record.size();
            self.tally.record_bytes += u64::from(bytes);
            // A record without a key is garbage: nothing can supersede it, so nothing would ever remove it.
            if let Some(key) = record.key {
                let delta = record.offset.since(self.segment.base()) as u32;
                let entry = DigestEntry::new(self.hasher.hash(key), delta, record.is_tombstone(), bytes);
                self.sorter.push(&entry).map_err(Trouble::Other)?;
            }
        }
        Ok(())
    }
}

/// What goes wrong with a batch: its bytes, or something else.
enum Trouble {
    Bytes(crate::format::FormatError),
    Other(Error),
}

impl From<crate::format::FormatError> for Trouble {
    fn from(why: crate::format::FormatError) -> Trouble {
        Trouble::Bytes(why)
    }
}
