//! The record batch, format 2: a borrowed view in a slice, and an owned batch.

use bytes::Bytes;

use super::FormatError;
use super::compression::{Codec, Scratch};
use super::header::{BATCH_HEADER_LEN, BatchHeader, checksum};
use super::records::Records;

/// One whole batch in a slice.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Parses the batch at the front of `bytes` and ignores the bytes after it. Returns [`FormatError::Truncated`] if
    /// `bytes` end inside the batch. Does not check the checksum.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, FormatError> {
        let header = BatchHeader::parse(bytes)?;
        match bytes.get(..header.size) {
            Some(bytes) => Ok(BatchView { header, bytes }),
            None => Err(FormatError::Truncated { needed: header.size, available: bytes.len() }),
        }
    }

    /// The batch in `bytes`, whose header was parsed before.
    #[inline]
    pub(crate) fn new(header: BatchHeader, bytes: &'a [u8]) -> BatchView<'a> {
        BatchView { header, bytes }
    }

    /// Verifies the checksum.
    #[inline]
    pub fn check_crc(&self) -> Result<(), FormatError> {
        let computed = checksum(self.bytes);
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(FormatError::BadCrc { stored: self.header.crc, computed })
        }
    }

    /// The batch header, its first 61 bytes.
    #[inline]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes after the header: the records, compressed or not.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(BATCH_HEADER_LEN..).unwrap_or_default()
    }

    /// The records of the batch. Uncompressed records borrow from the batch. Compressed ones are decompressed into
    /// `scratch`, within its bounds.
    #[inline]
    pub fn records<'s>(&self, scratch: &'s mut Scratch) -> Result<Records<'s>, FormatError>
    where
        'a: 's,
    {
        let payload = self.payload();
        let bytes = match self.header.attributes.codec()? {
            Codec::None => payload,
            // A compaction that emptied a compressed batch leaves no payload at all, and not a compressed empty one.
            _ if self.header.count == 0 && payload.is_empty() => payload,
            codec => scratch.decompress(codec, payload)?,
        };
        Ok(Records::new(&self.header, bytes))
    }
}

/// A walk over consecutive batches in a slice. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
    failed: bool,
}

impl<'a> Batches<'a> {
    /// Starts at the front of `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Batches<'a> {
        Batches { bytes, position: 0, failed: false }
    }

    /// The position where the next batch starts, which is the end of the last one returned.
    #[inline]
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        if rest.is_empty() || self.failed {
            return None;
        }
        let batch = BatchView::parse(rest);
        match &batch {
            Ok(batch) => self.position += batch.bytes.len(),
            Err(_) => self.failed = true,
        }
        Some(batch)
    }
}

impl std::iter::FusedIterator for Batches<'_> {}

/// An owned whole batch, with verified structure and checksum. Cloning shares the bytes.
///
/// The records inside are not decoded. If a client's batch misstates them, the error shows up when it is read.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Parses exactly one batch and checks its header and checksum.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<RecordBatch, FormatError> {
        let bytes = bytes.into();
        let view = BatchView::parse(&bytes)?;
        view.check_crc()?;
        let header = view.header;
        if bytes.len() > header.size {
            return Err(FormatError::TrailingBytes { extra: bytes.len() - header.size });
        }
        Ok(RecordBatch { header, bytes })
    }

    /// Wraps a batch that was just sealed.
    pub(super) fn sealed(bytes: Vec<u8>) -> Result<RecordBatch, FormatError> {
        let header = BatchHeader::parse(&bytes)?;
        assert_eq!(header.size, bytes.len(), "a sealed batch is exactly one");
        Ok(RecordBatch { header, bytes: bytes.into() })
    }

    /// A borrowed view of the batch.
    #[inline]
    pub fn view(&self) -> BatchView<'_> {
        BatchView { header: self.header, bytes: &self.bytes }
    }

    /// The batch header, its first 61 bytes.
    #[inline]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    #[inline]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl PartialEq for RecordBatch {
    fn eq(&self, other: &RecordBatch) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for RecordBatch {}
