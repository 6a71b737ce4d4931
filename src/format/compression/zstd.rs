//! zstd frames. Contexts are kept, because creating one costs more than most batches.

use zstd::zstd_safe::{CCtx, CompressionLevel, DCtx, compress_bound, get_error_name};

use super::output::Output;
use crate::format::FormatError;

const NAME: &str = "zstd";
/// The error text of zstd when the output buffer is too small. The bindings have no names for its codes.
const TOO_SMALL: &str = "Destination buffer is too small";
const FIRST_ROOM: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Decompressor(Option<DCtx<'static>>);

impl Decompressor {
    /// Decompresses in one call, so that the frame's window, a claim of up to 128 MiB, is never allocated. The content
    /// size may be missing, and would be only a claim as well, so the room grows until the content fits.
    pub(super) fn decompress(&mut self, input: &[u8], out: &mut Output) -> Result<(), FormatError> {
        let context = self.0.get_or_insert_with(DCtx::create);
        let mut wanted = out.capacity().max(input.len().saturating_mul(4)).max(FIRST_ROOM);
        loop {
            let room = out.split(wanted).1;
            let is_all = room.len() < wanted;
            match context.decompress(room, input) {
                Ok(written) => {
                    out.advance(written);
                    return Ok(());
                }
                Err(code) if get_error_name(code) != TOO_SMALL => return Err(FormatError::Decompress(NAME)),
                Err(_) if is_all => return Err(out.too_large()),
                Err(_) => wanted = wanted.saturating_mul(2),
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
