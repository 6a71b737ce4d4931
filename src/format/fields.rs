//! Reads fixed-width big-endian fields off the front of bytes that may be too short.

use byteorder::{BigEndian, ByteOrder};

use super::FormatError;
use crate::offset::{Offset, Timestamp};

/// The bytes left to read.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let split = self.0.split_at_checked(len);
        let (taken, rest) = split.ok_or(FormatError::Truncated { needed: len, available: self.0.len() })?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let split = self.0.split_first_chunk();
        let (taken, rest) = split.ok_or(FormatError::Truncated { needed: N, available: self.0.len() })?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(BigEndian::read_u16(&self.array::<2>()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, FormatError> {
        Ok(BigEndian::read_i16(&self.array::<2>()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(BigEndian::read_u32(&self.array::<4>()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, FormatError> {
        Ok(BigEndian::read_i32(&self.array::<4>()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(BigEndian::read_u64(&self.array::<8>()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, FormatError> {
        Ok(BigEndian::read_i64(&self.array::<8>()?))
    }

    pub(super) fn timestamp(&mut self) -> Result<Timestamp, FormatError> {
        Ok(Timestamp::from_millis(self.i64()?))
    }

    /// Reads an offset. A negative one is an error.
    pub(super) fn offset(&mut self) -> Result<Offset, FormatError> {
        Offset::from_i64(self.i64()?).ok_or(FormatError::BadOffset)
    }

    /// Reads an offset, or `None` if it is -1.
    pub(super) fn optional_offset(&mut self) -> Result<Option<Offset>, FormatError> {
        match self.i64()? {
            -1 => Ok(None),
            offset => Offset::from_i64(offset).map(Some).ok_or(FormatError::BadOffset),
        }
    }

    /// Reads the count of entries of `entry_len` bytes each. The remaining bytes have room for that many, so it may be
    /// allocated.
    pub(super) fn count(&mut self, entry_len: usize) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / entry_len { Err(FormatError::BadCount) } else { Ok(count) }
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::TrailingBytes { extra: self.0.len() }) }
    }
}

/// Encodes an offset as [`Fields::optional_offset`] reads it.
pub(super) fn optional_offset_bytes(offset: Option<Offset>) -> [u8; 8] {
    offset.map_or(-1, Offset::as_i64).to_be_bytes()
}
