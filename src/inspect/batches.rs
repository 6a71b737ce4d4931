//! The batches of a `.log` file, and what lies between them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::{BATCH_HEADER_LEN, BatchHeader, FormatError, RecordBatch};
use crate::segment::scan::zeros_follow;
use crate::storage::{File, OpenMode, Storage};

/// How much is read at a time.
const CHUNK: usize = 1 << 20;
/// Where a batch has its magic, and what it is.
const MAGIC: (usize, u8) = (16, 2);

/// What lies at a position of a `.log` file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A whole batch, its checksum right.
    Batch {
        /// Its first byte.
        position: u64,
        /// The batch; its records are decoded with [`BatchView::records`](crate::format::BatchView::records).
        batch: RecordBatch,
    },
    /// Zeros to the end of the file: space reserved ahead.
    Zeros {
        /// The first of them.
        position: u64,
        /// How many.
        len: u64,
    },
    /// Bytes that are no batch.
    Damage {
        /// The first of them.
        position: u64,
        /// What is wrong.
        why: FormatError,
        /// The next whole, valid batch behind them; `None` when there is none to be found.
        resumes_at: Option<u64>,
    },
}

/// A walk over a `.log` file. It goes on behind damage; an error of the storage ends it.
#[derive(Debug)]
pub struct Batches {
    file: Arc<dyn File>,
    path: PathBuf,
    position: u64,
    end: u64,
    chunk: Bytes,
    chunk_at: u64,
}

/// Walks the batches of a `.log` file of any suffix.
pub fn batches(storage: &dyn Storage, path: &Path) -> Result<Batches> {
    let file = storage.open(path, OpenMode::Read).map_err(|e| Error::io(e, path))?;
    let end = file.info().map_err(|e| Error::io(e, path))?.len;
    Ok(Batches::new(file, path.to_path_buf(), 0, end))
}

/// The same from a byte on where a batch begins: for who has seen what is before it.
pub fn batches_from(storage: &dyn Storage, path: &Path, position: u64) -> Result<Batches> {
    let mut batches = batches(storage, path)?;
    (batches.position, batches.chunk_at) = (position, position);
    Ok(batches)
}

impl Batches {
    /// A walk over `[position, end)` of a file.
    pub(crate) fn new(file: Arc<dyn File>, path: PathBuf, position: u64, end: u64) -> Batches {
        Batches { file, path, position, end, chunk: Bytes::new(), chunk_at: position }
    }

    /// Where the next entry begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn entry(&mut self) -> Result<Entry> {
        let position = self.position;
        match self.batch_at(position)? {
            Ok(batch) => {
                self.position += batch.header().size as u64;
                Ok(Entry::Batch { position, batch })
            }
            Err(why) => {
                if zeros_follow(&*self.file, position, self.end).map_err(|e| self.io(e))? {
                    self.position = self.end;
                    return Ok(Entry::Zeros { position, len: self.end - position });
                }
                let resumes_at = self.find_batch(position + 1)?;
                self.position = resumes_at.unwrap_or(self.end);
                Ok(Entry::Damage { position, why, resumes_at })
            }
        }
    }

    /// The batch at a position, if there is a whole and valid one.
    fn batch_at(&mut self, position: u64) -> Result<std::result::Result<RecordBatch, FormatError>> {
        let header = self.read(position, BATCH_HEADER_LEN)?;
        let size = match BatchHeader::parse(&header) {
            Ok(header) => header.size,
            Err(why) => return Ok(Err(why)),
        };
        let available = self.end - position;
        if size as u64 > available {
            return Ok(Err(FormatError::Truncated { needed: size, available: available as usize }));
        }
        Ok(RecordBatch::parse(self.read(position, size)?))
    }

    /// The first whole, valid batch at or behind a position. Checksums are computed over a bounded number of bytes, so
    /// that a file full of false headers is given up.
    fn find_batch(&mut self, from: u64) -> Result<Option<u64>> {
        let mut budget = (self.end - from).saturating_mul(4).saturating_add(64 << 20);
        let mut at = from;
        while at + BATCH_HEADER_LEN as u64 <= self.end {
            let window = self.read(at, CHUNK.min((self.end - at) as usize))?;
            let last = window.len().saturating_sub(BATCH_HEADER_LEN);
            for skip in 0..=last {
                let rest = window.get(skip..).unwrap_or_default();
                if rest.get(MAGIC.0) != Some(&MAGIC.1) {
                    continue;
                }
                let Ok(header) = BatchHeader::parse(rest) else { continue };
                let candidate = at + skip as u64;
                if header.size as u64 > self.end - candidate {
                    continue;
                }
                let Some(left) = budget.checked_sub(header.size as u64) else { return Ok(None) };
                budget = left;
                if self.batch_at(candidate)?.is_ok() {
                    return Ok(Some(candidate));
                }
            }
            at += last as u64 + 1;
        }
        Ok(None)
    }

    /// At most `len` bytes from a position on; fewer only at the end.
    fn read(&mut self, position: u64, len: usize) -> Result<Bytes> {
        let len = (len as u64).min(self.end - position) as usize;
        let start = position.checked_sub(self.chunk_at).filter(|start| start + len as u64 <= self.chunk.len() as u64);
        if let Some(start) = start {
            return Ok(self.chunk.slice(start as usize..start as usize + len));
        }
        let want = (len.max(CHUNK) as u64).min(self.end - position) as usize;
        let mut bytes = vec![0; want];
        let read = self.file.read_at(&mut bytes, position).map_err(|e| self.io(e))?;
        bytes.truncate(read);
        (self.chunk, self.chunk_at) = (bytes.into(), position);
        Ok(self.chunk.slice(..len.min(read)))
    }

    fn io(&self, error: std::io::Error) -> Error {
        Error::io(error, &self.path).at_position(self.position)
    }
}

impl Iterator for Batches {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.position >= self.end {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.position = self.end;
        }
        Some(entry)
    }
}

impl std::iter::FusedIterator for Batches {}
