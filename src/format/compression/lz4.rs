//! LZ4 frames.

use std::io::Write as _;

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use crate::format::FormatError;

const NAME: &str = "lz4";

pub(super) fn decompress(input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), FormatError> {
    super::read_bounded(FrameDecoder::new(input), out, limit, NAME)
}

/// Writes what librdkafka writes: a reader of any Kafka client takes it.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let frame = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(frame, out);
    encoder.write_all(input).map_err(|_| FormatError::Compress(NAME))?;
    encoder.finish().map_err(|_| FormatError::Compress(NAME))?;
    Ok(())
}
