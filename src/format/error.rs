//! Errors in the format of bytes.

use std::fmt;

/// Why bytes are invalid. New reasons may be added.
///
/// It names no file. The caller that read the bytes adds their origin, in an [`Error`](crate::Error).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before the structure does.
    Truncated {
        /// The number of bytes needed, as far as known.
        needed: usize,
        /// The number of bytes available.
        available: usize,
    },
    /// Bytes follow after the end of a structure.
    TrailingBytes {
        /// The number of extra bytes.
        extra: usize,
    },
    /// A message format other than 2, the supported one.
    UnsupportedMagic(i8),
    /// A file of ours that does not start with its magic.
    BadMagic,
    /// An unsupported version.
    BadVersion {
        /// The version found.
        found: u32,
        /// The newest supported version.
        supported: u32,
    },
    /// A length field that is impossible for a batch.
    BadLength,
    /// The checksum does not match the bytes.
    BadCrc {
        /// The stored checksum.
        stored: u32,
        /// The computed checksum.
        computed: u32,
    },
    /// An impossible count, such as more records than the batch has bytes or offsets for.
    BadCount,
    /// An offset that is negative, too large, or not above the one before it.
    BadOffset,
    /// A record that cannot be decoded.
    BadRecord(&'static str),
    /// A field or line with an impossible value.
    Malformed(&'static str),
    /// A codec that this build lacks. Enable the feature of that name.
    UnsupportedCodec(&'static str),
    /// A codec that Kafka does not define either.
    UnknownCodec(u8),
    /// More bytes than allowed, or than the format can hold. Decompression stops at its bound.
    TooLarge {
        /// The bound in bytes.
        limit: usize,
    },
    /// The codec of that name cannot decompress the bytes.
    Decompress(&'static str),
    /// The codec of that name failed to compress.
    Compress(&'static str),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use FormatError::*;
        match self {
            Truncated { needed, available } => write!(f, "{needed} bytes are needed, {available} are there"),
            TrailingBytes { extra } => write!(f, "{extra} bytes too many"),
            UnsupportedMagic(magic) => write!(f, "message format {magic}, only 2 is known"),
            BadMagic => f.write_str("the magic at the start is wrong"),
            BadVersion { found, supported } => write!(f, "version {found}, only versions up to {supported} are known"),
            BadLength => f.write_str("a length that no batch can have"),
            BadCrc { stored, computed } => write!(f, "checksum {stored:#010x} stored, {computed:#010x} computed"),
            BadCount => f.write_str("a count that does not fit its batch or file"),
            BadOffset => f.write_str("an offset out of range or out of order"),
            BadRecord(what) => write!(f, "a record with a bad {what}"),
            Malformed(what) => write!(f, "malformed {what}"),
            UnsupportedCodec(name) => write!(f, "compressed with {name}, which this build leaves out"),
            UnknownCodec(id) => write!(f, "compressed with the unknown codec {id}"),
            TooLarge { limit } => write!(f, "more than {limit} bytes"),
            Decompress(name) => write!(f, "{name} cannot decompress it"),
            Compress(name) => write!(f, "{name} failed to compress it"),
        }
    }
}

impl std::error::Error for FormatError {}
