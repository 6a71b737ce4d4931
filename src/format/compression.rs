//! Codecs, and bounded decompression.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
mod output;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use std::fmt;

use self::output::Output;
use super::FormatError;

/// The compression codec of a batch. All but [`Codec::None`] need the feature of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Codec {
    /// No compression.
    #[default]
    None,
    /// A gzip stream.
    Gzip,
    /// Snappy. Reads raw Snappy and the framing of the Java library; writes the latter, as Kafka's own clients do.
    Snappy,
    /// An LZ4 frame. Written in independent blocks of 64 KiB without checksums.
    Lz4,
    /// A zstd frame.
    Zstd,
}

impl Codec {
    /// Its number in a batch's attributes.
    pub const fn id(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    /// The codec with that number.
    pub const fn from_id(id: u8) -> Result<Codec, FormatError> {
        match id {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            _ => Err(FormatError::UnknownCodec(id)),
        }
    }

    /// Its name, which is also the name of its feature.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// Whether this build supports it.
    pub const fn is_supported(self) -> bool {
        match self {
            Codec::None => true,
            Codec::Gzip => cfg!(feature = "gzip"),
            Codec::Snappy => cfg!(feature = "snappy"),
            Codec::Lz4 => cfg!(feature = "lz4"),
            Codec::Zstd => cfg!(feature = "zstd"),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A reusable decompression buffer, with bounds against batches that decompress to excessive sizes.
///
/// A batch may grow to [`DEFAULT_MAX_BYTES`](Scratch::DEFAULT_MAX_BYTES), but to no more than 1 MiB and
/// [`DEFAULT_MAX_RATIO`](Scratch::DEFAULT_MAX_RATIO) times its compressed size. Beyond that the result is
/// [`FormatError::TooLarge`]. Memory grows with the bytes actually decompressed, never by a size that a batch merely
/// claims.
pub struct Scratch {
    output: Output,
    decompressor: Decompressor,
    max_bytes: usize,
    max_ratio: usize,
}

impl Scratch {
    /// The bound on the decompressed size of one batch: 64 MiB.
    pub const DEFAULT_MAX_BYTES: usize = 64 << 20;
    /// The bound on the decompressed size of one batch in relation to its compressed size, beyond the first 1 MiB.
    pub const DEFAULT_MAX_RATIO: usize = 1024;
    /// Any batch may grow to this size, because a megabyte of one repeated byte is small under every codec.
    const FREE_BYTES: usize = 1 << 20;

    /// A scratch buffer with custom bounds. Nothing is allocated yet.
    pub fn with_bounds(max_bytes: usize, max_ratio: usize) -> Scratch {
        Scratch { output: Output::default(), decompressor: Decompressor::default(), max_bytes, max_ratio }
    }

    /// Frees the buffer if it holds more than `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.output.shrink_to(bytes);
    }

    /// Decompresses into the buffer.
    pub(super) fn decompress(&mut self, codec: Codec, input: &[u8]) -> Result<&[u8], FormatError> {
        let limit = Scratch::FREE_BYTES.saturating_add(input.len().saturating_mul(self.max_ratio)).min(self.max_bytes);
        self.output.start(limit);
        self.decompressor.decompress(codec, input, &mut self.output)?;
        Ok(self.output.as_slice())
    }

    /// The bytes decompressed last.
    pub(crate) fn decompressed(&self) -> &[u8] {
        self.output.as_slice()
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::with_bounds(Scratch::DEFAULT_MAX_BYTES, Scratch::DEFAULT_MAX_RATIO)
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch")
            .field("capacity", &self.output.capacity())
            .field("max_bytes", &self.max_bytes)
            .field("max_ratio", &self.max_ratio)
            .finish_non_exhaustive()
    }
}

/// Decompression state that codecs keep between batches.
#[derive(Default)]
struct Decompressor {
    #[cfg(feature = "zstd")]
    zstd: zstd::Decompressor,
}

impl Decompressor {
    /// Fills `out`, which is empty, up to its limit.
    fn decompress(&mut self, codec: Codec, input: &[u8], out: &mut Output) -> Result<(), FormatError> {
        match codec {
            #[cfg(feature = "gzip")]
            Codec::Gzip => gzip::decompress(input, out),
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::decompress(input, out),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::decompress(input, out),
            #[cfg(feature = "zstd")]
            Codec::Zstd => self.zstd.decompress(input, out),
            Codec::None => {
                let room = out.split(input.len()).1;
                let fits = room.len() == input.len();
                if !fits {
                    return Err(out.too_large());
                }
                room.copy_from_slice(input);
                out.advance(input.len());
                Ok(())
            }
            #[allow(unreachable_patterns, reason = "reached by the codecs that the build leaves out")]
            _ => Err(FormatError::UnsupportedCodec(codec.name())),
        }
    }
}

/// Compression state that codecs keep between batches.
#[derive(Default)]
pub(super) struct Compressor {
    #[cfg(feature = "zstd")]
    zstd: zstd::Compressor,
}

impl Compressor {
    /// Appends the compressed `input` to `out`.
    pub(super) fn compress(
        &mut self,
        codec: Codec,
        level: Option<i32>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        match codec {
            #[cfg(feature = "gzip")]
            Codec::Gzip => gzip::compress(level, input, out),
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::compress(input, out),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::compress(input, out),
            #[cfg(feature = "zstd")]
            Codec::Zstd => self.zstd.compress(level, input, out),
            Codec::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            #[allow(unreachable_patterns, reason = "reached by the codecs that the build leaves out")]
            _ => {
                let _ = level;
                Err(FormatError::UnsupportedCodec(codec.name()))
            }
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}
