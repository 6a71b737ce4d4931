//! Writes and reads the `.digest` of a segment.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::digest::{
    DigestAnnex, DigestBlocks, DigestCounts, DigestEntry, DigestFooter, DigestSubject, KeyHash,
};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{BatchHeader, FormatError};
use crate::offset::Offset;
use crate::storage::{File, OpenMode, Storage, small_file};

use super::PartitionDir;

/// The counts of a segment that its digest stores besides the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    /// The number of batches of any kind.
    pub(crate) batches: u64,
    /// The number of records, without control records.
    pub(crate) records: u64,
    /// Their uncompressed bytes; for aborted ones, their bytes as stored.
    pub(crate) record_bytes: u64,
    /// The number of control batches that have a record, and their bytes.
    pub(crate) control: (u64, u64),
    /// See [`DigestCounts::loose_markers`].
    pub(crate) loose_markers: u64,
}

impl Tally {
    /// Counts a batch and the number of its records, but not the records' bytes.
    pub(crate) fn add_batch(&mut self, header: &BatchHeader) {
        self.batches += 1;
        if !header.attributes.is_control() {
            self.records += u64::from(header.count);
        } else if header.count > 0 {
            self.control.0 += 1;
            self.control.1 += header.size as u64;
        }
    }
}

/// Writes a digest, entry by entry in the order of their hashes.
#[derive(Debug)]
pub(crate) struct DigestWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    subject: DigestSubject,
    blocks: DigestBlocks,
    /// Whole blocks, and the block that is being filled.
    buffer: Vec<u8>,
    /// The buffer is written when it holds this many blocks.
    buffer_blocks: usize,
    block_start: usize,
    block_number: u64,
    position: u64,
    last: Option<KeyHash>,
    counts: DigestCounts,
}

impl DigestWriter {
    /// Creates a writer to a new, empty file. It uses about `memory` bytes, but at least one block.
    pub(crate) fn new(file: Arc<dyn File>, path: &Path, subject: DigestSubject, memory: usize) -> DigestWriter {
        let buffer_blocks = (memory / DigestBlocks::LEN).max(1);
        DigestWriter {
            file,
            path: path.to_path_buf(),
            subject,
            blocks: subject.blocks(),
            buffer: Vec::with_capacity(buffer_blocks * DigestBlocks::LEN),
            buffer_blocks,
            block_start: 0,
            block_number: 0,
            position: 0,
            last: None,
            counts: DigestCounts::default(),
        }
    }

    /// Adds the entries with the next higher hashes.
    pub(crate) fn push(&mut self, entries: &[DigestEntry]) -> Result<()> {
        let Some((first, last)) = entries.first().zip(entries.last()) else { return Ok(()) };
        let in_order =
            self.last.is_none_or(|last| last < first.hash()) && entries.is_sorted_by(|a, b| a.hash() < b.hash());
        assert!(in_order, "each hash comes once, in order");
        let highest = entries.iter().map(DigestEntry::delta).max().unwrap_or_default();
        assert!(u64::from(highest) < self.subject.end.since(self.subject.base), "the records are in the segment");
        self.last = Some(last.hash());
        self.counts.keys += entries.len() as u64;
        self.counts.key_bytes += entries.iter().map(|entry| u64::from(entry.record_bytes())).sum::<u64>();
        self.counts.tombstones += entries.iter().map(|entry| u64::from(entry.is_tombstone())).sum::<u64>();
        let mut left = entries;
        while !left.is_empty() {
            let at = self.buffer.len();
            let room = DigestBlocks::ENTRIES - (at - self.block_start) / DigestEntry::LEN;
            let (now, later) = left.split_at(room.min(left.len()));
            self.buffer.resize(at + now.len() * DigestEntry::LEN, 0);
            let slots = self.buffer.get_mut(at..).unwrap_or_default().as_chunks_mut().0;
            slots.iter_mut().zip(now).for_each(|(slot, entry)| entry.encode_to(slot));
            if now.len() == room {
                self.end_block()?;
            }
            left = later;
        }
        Ok(())
    }

    /// The number of bytes in the records of all keys added.
    pub(crate) fn key_bytes(&self) -> u64 {
        self.counts.key_bytes
    }

    /// Writes the rest. The file is not synced: if a crash tears it, the checksums show that, and it is rebuilt.
    pub(crate) fn finish(mut self, tally: &Tally, annex: &DigestAnnex) -> Result<DigestFooter> {
        if self.buffer.len() > self.block_start {
            self.end_block()?;
        }
        let Tally { batches, records, record_bytes, control: (control_batches, control_bytes), loose_markers } = *tally;
        let controls = DigestCounts { control_batches, control_bytes, loose_markers, ..self.counts };
        let counts = DigestCounts { batches, records, record_bytes, ..controls };
        let annex_bytes = annex.encode();
        let footer = DigestFooter::new(self.subject, counts, annex, &annex_bytes);
        self.buffer.extend_from_slice(&annex_bytes);
        self.buffer.extend_from_slice(&footer.encode());
        self.write()?;
        assert_eq!(self.position, footer.file_len(), "the file is as long as its footer says");
        Ok(footer)
    }

    fn end_block(&mut self) -> Result<()> {
        self.blocks.seal(self.block_number, &mut self.buffer, self.block_start);
        self.block_number += 1;
        self.block_start = self.buffer.len();
        if self.buffer.len() >= self.buffer_blocks * DigestBlocks::LEN { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.position).map_err(|e| Error::io(e, &self.path))?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        self.block_start = 0;
        Ok(())
    }
}

/// The segment that a digest must match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Expected {
    pub(crate) key_id: u64,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) log_len: u64,
}

/// An open digest that matches its segment. Its blocks are checked as they are read.
#[derive(Debug)]
pub(crate) struct DigestReader {
    file: Arc<dyn File>,
    path: PathBuf,
    footer: DigestFooter,
    blocks: DigestBlocks,
}

impl DigestReader {
    /// Opens the digest of a segment. Returns `None` if it is missing, damaged or of another segment, and must be
    /// built. Only a storage error is an error, not a bad digest.
    pub(crate) fn open(storage: &dyn Storage, path: &Path, expected: &Expected) -> Result<Option<DigestReader>> {
        let Some((file, footer)) = stored(storage, path)? else { return Ok(None) };
        let DigestSubject { key_id, base, end, log_len, .. } = footer.subject;
        let fits = *expected == Expected { key_id, base, end, log_len };
        Ok(fits.then(|| DigestReader::new(file, path, footer)))
    }

    /// Reopens a digest, which must still be the same.
    pub(crate) fn reopen(storage: &dyn Storage, path: &Path, footer: &DigestFooter) -> Result<DigestReader> {
        let file = storage.open(path, OpenMode::Read).map_err(|e| Error::io(e, path))?;
        match read_footer(&*file).map_err(|e| Error::io(e, path))? {
            Ok(found) if found == *footer => Ok(DigestReader::new(file, path, found)),
            Ok(_) => Err(Error::corrupt(path, 0, "another digest has taken the dir of this one")),
            Err(why) => Err(Error::corrupt(path, 0, why.to_string())),
        }
    }

    fn new(file: Arc<dyn File>, path: &Path, footer: DigestFooter) -> DigestReader {
        DigestReader { file, path: path.to_path_buf(), footer, blocks: footer.subject.blocks() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn footer(&self) -> &DigestFooter {
        &self.footer
    }

    /// Reads the annex.
    pub(crate) fn annex(&self) -> Result<DigestAnnex> {
        // The file is as long as the footer says, so the allocation is bounded by the file.
        let position = self.footer.annex_position();
        let mut bytes = vec![0; self.footer.annex_len() as usize];
        self.read_exact(&mut bytes, position)?;
        DigestAnnex::decode(&self.footer, &bytes).map_err(|why| self.corrupt(position, &why))
    }

    /// The number of blocks of entries.
    pub(crate) fn block_count(&self) -> u64 {
        self.footer.counts.keys.div_ceil(DigestBlocks::ENTRIES as u64)
    }

    /// Reads consecutive blocks. Each must be [checked](Self::check_block) before it is used.
    pub(crate) fn read_blocks(&self, blocks: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        let start = blocks.start * DigestBlocks::LEN as u64;
        let end = (blocks.end * DigestBlocks::LEN as u64).min(self.footer.annex_position());
        buffer.resize(end.saturating_sub(start) as usize, 0);
        self.read_exact(buffer, start)
    }

    /// Checks block `number` and returns its entries as bytes.
    #[inline]
    pub(crate) fn check_block<'a>(&self, number: u64, block: &'a [u8]) -> Result<&'a [u8]> {
        self.blocks.check(number, block).map_err(|why| self.corrupt(number * DigestBlocks::LEN as u64, &why))
    }

    fn read_exact(&self, buffer: &mut [u8], position: u64) -> Result<()> {
        let read = self.file.read_at(buffer, position).map_err(|e| Error::io(e, &self.path).at_position(position))?;
        if read == buffer.len() {
            return Ok(());
        }
        Err(Error::corrupt(&self.path, position + read as u64, "the file is shorter than it was"))
    }

    fn corrupt(&self, position: u64, why: &FormatError) -> Error {
        Error::corrupt(&self.path, position, why.to_string())
    }
}

/// Removes the digests of segments whose transactions have lost their marker in a truncation. Such a transaction may
/// now end the other way, and a digest tells which records count. `bases` are the segments that stay whole, in
/// ascending order. `ended` are the producers that have a marker behind them.
///
/// The removal is durable after the next sync of the directory.
pub(crate) fn remove_undecided(dir: &PartitionDir, bases: &[Offset], mut ended: BTreeSet<i64>) -> Result<()> {
    for base in bases.iter().rev() {
        let path = dir.segment_path(*base, SegmentFileKind::Digest, Suffix::None);
        let Some(annex) = stored_annex(&*dir.storage, &path)? else { continue };
        if annex.producers.iter().any(|producer| producer.open && !ended.contains(&producer.id)) {
            small_file::remove(&*dir.storage, &path)?;
        }
        ended.extend(annex.producers.iter().filter(|producer| !producer.open).map(|producer| producer.id));
    }
    Ok(())
}

/// The footer of a digest, of whichever segment; `None` if it is missing or damaged.
pub(crate) fn stored_footer(storage: &dyn Storage, path: &Path) -> Result<Option<DigestFooter>> {
    Ok(stored(storage, path)?.map(|(_, footer)| footer))
}

fn stored(storage: &dyn Storage, path: &Path) -> Result<Option<(Arc<dyn File>, DigestFooter)>> {
    let file = match storage.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(e, path)),
    };
    Ok(read_footer(&*file).map_err(|e| Error::io(e, path))?.ok().map(|footer| (file, footer)))
}

/// The annex of a digest, of whichever segment; `None` if it is missing or damaged.
fn stored_annex(storage: &dyn Storage, path: &Path) -> Result<Option<DigestAnnex>> {
    let Some((file, footer)) = stored(storage, path)? else { return Ok(None) };
    match DigestReader::new(file, path, footer).annex() {
        Err(error) if !error.is_corruption() => Err(error),
        annex => Ok(annex.ok()),
    }
}

/// Reads the footer of a file, whose length must match it.
pub(crate) fn read_footer(file: &dyn File) -> io::Result<std::result::Result<DigestFooter, FormatError>> {
    let len = file.info()?.len;
    let mut bytes = [0; DigestFooter::LEN];
    let short = FormatError::Truncated { needed: bytes.len(), available: usize::try_from(len).unwrap_or(usize::MAX) };
    let Some(position) = len.checked_sub(bytes.len() as u64) else { return Ok(Err(short)) };
    if file.read_at(&mut bytes, position)? < bytes.len() {
        return Ok(Err(short));
    }
    let decoded = DigestFooter::decode(&bytes);
    Ok(decoded.and_then(|footer| if footer.file_len() == len { Ok(footer) } else { Err(FormatError::BadLength) }))
}

#[cfg(test)]
mod tests;
