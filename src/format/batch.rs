//! The record batch, format 2: a view of one in a slice, and an owned one.

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
    /// The batch at the front of `bytes`; what follows it is not looked at. [`FormatError::Truncated`] when they end
    /// before it does. The checksum is not checked.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, FormatError> {
        let header = BatchHeader::parse(bytes)?;
        match bytes.get(..header.size) {
            Some(bytes) => Ok(BatchView { header, bytes }),
            None => Err(FormatError::Truncated { needed: header.size, available: bytes.len() }),
        }
    }

    /// The batch that is `bytes`, whose header was parsed before.
    #[inline]
    pub(crate) fn new(header: BatchHeader, bytes: &'a [u8]) -> BatchView<'a> {
        BatchView { header, bytes }
    }

    /// Checks the checksum.
    #[inline]
    pub fn check_crc(&self) -> Result<(), FormatError> {
        let computed = checksum(self.bytes);
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(FormatError::BadCrc { stored: self.header.crc, computed })
        }
    }

    /// What its first 61 bytes say.
    #[inline]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the header: the records, compressed or not.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(BATCH_HEADER_LEN..).unwrap_or_default()
    }

    /// Its records. Uncompressed they borrow from the batch; else they are decompressed into `scratch`, at most up to
    /// its bounds.
    #[inline]
    pub fn records<'s>(&self, scratch: &'s mut Scratch) -> Result<Records<'s>, FormatError>
    where
        'a: 's,
    {
        let payload = self.payload();
        let bytes = match self.header.attributes.codec()? {
            Codec::None => payload,
            // A compaction that emptied a compressed batch leaves nothing at all, not a compressed nothing.
            _ if self.header.count == 0 && payload.is_empty() => payload,
            codec => scratch.decompress(codec, payload)?,
        };
        Ok(Records::new(&self.header, bytes))
    }
}

/// A walk over the batches that lie one behind the other in a slice. Ends after the first error.
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

    /// The byte where the next batch starts: the end of the last one that was returned.
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

/// A whole batch of its own, its structure and checksum checked. Cloning shares the bytes.
///
/// The records inside are not decoded: a batch from a client that lies about them is found out when it is read.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Takes exactly one batch and checks its header and checksum.
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

    /// A batch that was just sealed.
    pub(super) fn sealed(bytes: Vec<u8>) -> Result<RecordBatch, FormatError> {
        let header = BatchHeader::parse(&bytes)?;
        assert_eq!(header.size, bytes.len(), "a sealed batch is exactly one");
        Ok(RecordBatch { header, bytes: bytes.into() })
    }

    /// The batch as a view.
    #[inline]
    pub fn view(&self) -> BatchView<'_> {
        BatchView { header: self.header, bytes: &self.bytes }
    }

    /// What its first 61 bytes say.
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
