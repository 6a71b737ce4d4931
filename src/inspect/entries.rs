//! The entries of index files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{AbortedTxn, FormatError, OffsetIndexEntry, TimeIndexEntry};
use crate::storage::{File, OpenMode, Storage};

/// How much is read at a time; rounded down to whole entries.
const CHUNK: usize = 64 << 10;

type Decode<T> = fn(&[u8]) -> std::result::Result<T, FormatError>;

/// A walk over an index file, each entry with its position. It ends at zeros: Kafka's active indexes are preallocated.
/// An error ends it; bytes at the end that are no whole entry are one.
#[derive(Debug)]
pub struct IndexEntries<T> {
    file: Arc<dyn File>,
    path: PathBuf,
    size: usize,
    decode: Decode<T>,
    position: u64,
    end: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

/// Walks an `.index` file.
pub fn offset_index(storage: &dyn Storage, path: &Path) -> Result<IndexEntries<OffsetIndexEntry>> {
    IndexEntries::open(storage, path, OffsetIndexEntry::LEN, |bytes| {
        OffsetIndexEntry::decode(bytes).ok_or(FormatError::BadLength)
    })
}

/// Walks a `.timeindex` file.
pub fn time_index(storage: &dyn Storage, path: &Path) -> Result<IndexEntries<TimeIndexEntry>> {
    IndexEntries::open(storage, path, TimeIndexEntry::LEN, |bytes| {
        TimeIndexEntry::decode(bytes).ok_or(FormatError::BadLength)
    })
}

/// Walks a `.txnindex` file: the aborted transactions that end in its segment.
pub fn aborted_transactions(storage: &dyn Storage, path: &Path) -> Result<IndexEntries<AbortedTxn>> {
    IndexEntries::open(storage, path, AbortedTxn::LEN, AbortedTxn::decode)
}

impl<T> IndexEntries<T> {
    fn open(storage: &dyn Storage, path: &Path, size: usize, decode: Decode<T>) -> Result<IndexEntries<T>> {
        let file = storage.open(path, OpenMode::Read).map_err(|e| Error::io(e, path))?;
        let end = file.info().map_err(|e| Error::io(e, path))?.len;
        let path = path.to_path_buf();
        Ok(IndexEntries { file, path, size, decode, position: 0, end, chunk: Vec::new(), chunk_at: 0 })
    }

    /// Ends the walk after so many entries.
    pub(crate) fn limit(mut self, entries: u32) -> IndexEntries<T> {
        self.end = self.end.min(u64::from(entries) * self.size as u64);
        self
    }

    fn entry(&mut self) -> Result<Option<(u64, T)>> {
        let position = self.position;
        let start = (position - self.chunk_at) as usize;
        if self.chunk.get(start..start + self.size).is_none() {
            let want = ((CHUNK / self.size * self.size) as u64).min(self.end - position) as usize;
            self.chunk.resize(want, 0);
            let read = self.file.read_at(&mut self.chunk, position).map_err(|e| Error::io(e, &self.path))?;
            self.chunk.truncate(read);
            self.chunk_at = position;
        }
        let start = (position - self.chunk_at) as usize;
        let Some(bytes) = self.chunk.get(start..start + self.size) else {
            return Err(Error::corrupt(&self.path, position, "bytes that are no whole entry"));
        };
        if bytes.iter().all(|byte| *byte == 0) {
            self.position = self.end;
            return Ok(None);
        }
        let entry = (self.decode)(bytes).map_err(|why| Error::corrupt(&self.path, position, why.to_string()))?;
        self.position += self.size as u64;
        Ok(Some((position, entry)))
    }
}

impl<T> Iterator for IndexEntries<T> {
    type Item = Result<(u64, T)>;

    fn next(&mut self) -> Option<Result<(u64, T)>> {
        if self.position >= self.end {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.position = self.end;
        }
        entry.transpose()
    }
}

impl<T> std::iter::FusedIterator for IndexEntries<T> {}
