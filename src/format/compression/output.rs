//! The output buffer for decompression.

use crate::format::FormatError;

/// Decompressed bytes, never more than a limit. Its memory is kept for reuse and was filled with zeros once.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    len: usize,
    limit: usize,
}

impl Output {
    /// Empties the buffer and sets another limit.
    pub(super) fn start(&mut self, limit: usize) {
        self.len = 0;
        self.limit = limit;
    }

    /// The decompressed bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Returns the bytes decompressed so far, and room for up to `wanted` more within the limit.
    pub(super) fn split(&mut self, wanted: usize) -> (&[u8], &mut [u8]) {
        let end = self.len.saturating_add(wanted).min(self.limit);
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        let (done, room) = self.bytes.split_at_mut_checked(self.len).unwrap_or_default();
        (done, room.get_mut(..end - self.len).unwrap_or_default())
    }

    /// Records that `written` bytes of the room were filled.
    pub(super) fn advance(&mut self, written: usize) {
        self.len += written;
        assert!(self.len <= self.bytes.len(), "what was written had room");
    }

    /// The number of bytes that may still come.
    #[cfg(any(feature = "gzip", feature = "snappy", feature = "lz4"))]
    pub(super) fn left(&self) -> usize {
        self.limit - self.len
    }

    /// The error if more bytes come.
    pub(super) fn too_large(&self) -> FormatError {
        FormatError::TooLarge { limit: self.limit }
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Empties the buffer and frees its memory beyond `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.len = 0;
        self.bytes.truncate(bytes);
        self.bytes.shrink_to(bytes);
    }
}
