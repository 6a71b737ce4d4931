//! Walking the batches of a segment file, whatever is in it.

use std::io;

use crate::format::{BATCH_HEADER_LEN, BatchHeader, BatchView, FormatError};
use crate::storage::File;

/// How much of a file is read at a time: what stays in the cache of a processor until it is looked at.
const CHUNK: usize = 256 << 10;

/// How far the offsets of a segment may lie above its base: its indexes hold 31 bits. The checksum does not cover the
/// base offset of a batch, so this finds most damage to it.
pub(crate) const OFFSETS_MAX: u64 = i32::MAX as u64;

/// What a walk checks of each batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// The header's structure.
    Header,
    /// The CRC as well.
    Crc,
}

/// A batch found, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    /// Its first byte's place in the file.
    pub(crate) position: u64,
    /// The batch.
    pub(crate) batch: BatchView<'a>,
}

/// Why a walk ended before the end of the file. An end that is reached is `Ok(None)`: the two are never mixed up.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// The bytes at this position are not a whole, valid batch.
    Bad {
        /// Where.
        position: u64,
        /// What is wrong with them.
        why: FormatError,
    },
    /// The file could not be read.
    Io(io::Error),
}

/// Reads the batches in a range of a file, in order, with one buffer.
pub(crate) struct Scan<'f> {
    file: &'f dyn File,
    check: Check,
    /// Where the next batch begins.
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    /// How much of the buffer is from the file.
    filled: usize,
    /// The place in the file of the buffer's first byte.
    buffer_at: u64,
}

impl<'f> Scan<'f> {
    /// A walk over `[from, end)`, which begins at a batch.
    pub(crate) fn new(file: &'f dyn File, from: u64, end: u64, check: Check) -> Scan<'f> {
        Scan { file, check, position: from, end, buffer: Vec::new(), filled: 0, buffer_at: from }
    }

    /// The next batch, or `None` at the end of the range.
    pub(crate) fn next(&mut self) -> Result<Option<Found<'_>>, ScanError> {
        if self.position == self.end {
            return Ok(None);
        }
        let position = self.position;
        let bad = |why| ScanError::Bad { position, why };
        self.fill(BATCH_HEADER_LEN)?;
        let header = BatchHeader::parse(self.rest()).map_err(bad)?;
        let (size, left) = (header.size, self.end - position);
        // The size is believed only as far as the file goes, so a hostile length allocates nothing.
        if size as u64 > left {
            return Err(bad(FormatError::Truncated { needed: size, available: left as usize }));
        }
        self.fill(size)?;
        let buffered = self.buffer.get((position - self.buffer_at) as usize..self.filled).unwrap_or_default();
        let Some(bytes) = buffered.get(..size) else {
            return Err(bad(FormatError::Truncated { needed: size, available: buffered.len() }));
        };
        let batch = BatchView::new(header, bytes);
        if self.check == Check::Crc {
            batch.check_crc().map_err(bad)?;
        }
        self.position += size as u64;
        Ok(Some(Found { position, batch }))
    }

    /// The buffered bytes from the current position on.
    fn rest(&self) -> &[u8] {
        self.buffer.get((self.position - self.buffer_at) as usize..self.filled).unwrap_or_default()
    }

    /// BufferPool at least `len` bytes from the current position on, or as many as the range has.
    fn fill(&mut self, len: usize) -> Result<(), ScanError> {
        let have = self.rest().len();
        if have >= len {
            return Ok(());
        }
        let left = self.end - self.position;
        let want = (len.max(CHUNK) as u64).min(left) as usize;
        if have >= want {
            return Ok(());
        }
        let start = (self.position - self.buffer_at) as usize;
        self.buffer.copy_within(start..self.filled, 0);
        self.buffer_at = self.position;
        if self.buffer.len() < want {
            self.buffer.resize(want, 0);
        }
        let target = self.buffer.get_mut(have..want).unwrap_or_default();
        let read = self.file.read_at(target, self.position + have as u64).map_err(ScanError::Io)?;
        self.filled = have + read;
        Ok(())
    }
}

/// Whether only zeros follow from `position` to `end`: space reserved ahead, not damage.
pub(crate) fn zeros_follow(file: &dyn File, position: u64, end: u64) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK.min(end.saturating_sub(position) as usize)];
    let mut at = position;
    while at < end {
        let want = (buffer.len() as u64).min(end - at) as usize;
        let chunk = buffer.get_mut(..want).unwrap_or_default();
        let read = file.read_at(chunk, at)?;
        if read == 0 {
            return Ok(true);
        }
        if chunk.iter().take(read).any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}
