//! Walks the batches of a segment file with arbitrary contents.

use std::io;

use crate::format::{BATCH_HEADER_LEN, BatchHeader, BatchView, FormatError};
use crate::storage::File;

/// How much of a file is read at a time. A chunk stays in the processor's cache until it is checked.
const CHUNK: usize = 256 << 10;

/// The greatest distance of a segment's offsets from its base, because its indexes hold 31 bits. The checksum does not
/// cover the base offset of a batch, so this limit finds most damage to it.
pub(crate) const OFFSETS_MAX: u64 = i32::MAX as u64;

/// What a walk checks of each batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// The header's structure.
    Header,
    /// The CRC as well.
    Crc,
}

/// A batch and its position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    /// The position of its first byte in the file.
    pub(crate) position: u64,
    /// The batch.
    pub(crate) batch: BatchView<'a>,
}

/// Why a walk ended before the end of the file. Reaching the end is `Ok(None)`, so the two cannot be confused.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// The bytes at this position are not a whole, valid batch.
    Bad {
        /// The position.
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
    /// The position of the next batch.
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    /// How much of the buffer is filled from the file.
    filled: usize,
    /// The position in the file of the buffer's first byte.
    buffer_at: u64,
}

impl<'f> Scan<'f> {
    /// Starts a walk over `[from, end)`. A batch must begin at `from`.
    pub(crate) fn new(file: &'f dyn File, from: u64, end: u64, check: Check) -> Scan<'f> {
        Scan { file, check, position: from, end, buffer: Vec::new(), filled: 0, buffer_at: from }
    }

    /// Returns the next batch, or `None` at the end of the range.
    pub(crate) fn next(&mut self) -> Result<Option<Found<'_>>, ScanError> {
        if self.position == self.end {
            return Ok(None);
        }
        let position = self.position;
        let bad = |why| ScanError::Bad { position, why };
        self.fill(BATCH_HEADER_LEN)?;
        let header = BatchHeader::parse(self.rest()).map_err(bad)?;
        let (size, left) = (header.size, self.end - position);
        // The size is trusted only up to the end of the file, so a hostile length allocates nothing.
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

    /// Buffers at least `len` bytes from the current position on, or as many as the range has.
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
