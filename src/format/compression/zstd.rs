//! zstd frames. Contexts are kept, since making one costs more than most batches.

use zstd::zstd_safe::{CCtx, CompressionLevel, DCtx, compress_bound, get_error_name};

use crate::format::FormatError;

const NAME: &str = "zstd";
/// What zstd says when the output buffer is too small. Its codes have no names in the bindings.
const TOO_SMALL: &str = "Destination buffer is too small";
const FIRST_CAPACITY: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Decompressor(Option<DCtx<'static>>);

impl Decompressor {
    /// Decompresses in one go, so that the frame's window, a claim of up to 128 MiB, is never allocated. The content
    /// size may be missing, and would be a claim as well: the buffer grows until the content fits.
    pub(super) fn decompress(&mut self, input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), FormatError> {
        let context = self.0.get_or_insert_with(DCtx::create);
        let mut capacity = out.capacity().max(input.len().saturating_mul(4)).max(FIRST_CAPACITY).min(limit);
        loop {
            out.clear();
            out.reserve(capacity);
            match context.decompress(out, input) {
                Ok(_) => return Ok(()),
                Err(code) if get_error_name(code) != TOO_SMALL => return Err(FormatError::Decompress(NAME)),
                Err(_) if out.capacity() >= limit => return Err(FormatError::TooLarge { limit }),
                Err(_) => capacity = out.capacity().saturating_mul(2).min(limit),
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Compressor(Option<CCtx<'static>>);

impl Compressor {
    pub(super) fn compress(&mut self, level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
        const FAILED: FormatError = FormatError::Compress(NAME);
        let context = self.0.get_or_insert_with(CCtx::create);
        let level: CompressionLevel = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
        let start = out.len();
        out.resize(start + compress_bound(input.len()), 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let written = context.compress(room, input, level).map_err(|_| FAILED)?;
        out.truncate(start + written);
        Ok(())
    }
}
