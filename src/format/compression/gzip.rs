//! gzip.

use std::io::Write as _;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::format::FormatError;

const NAME: &str = "gzip";

pub(super) fn decompress(input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), FormatError> {
    super::read_bounded(MultiGzDecoder::new(input), out, limit, NAME)
}

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let level = level.map_or(Compression::default(), |level| Compression::new(level.clamp(0, 9) as u32));
    let mut encoder = GzEncoder::new(out, level);
    encoder.write_all(input).map_err(|_| FormatError::Compress(NAME))?;
    encoder.finish().map_err(|_| FormatError::Compress(NAME))?;
    Ok(())
}
