//! gzip.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::output::Output;
use crate::format::FormatError;

const NAME: &str = "gzip";
const BAD: FormatError = FormatError::Decompress(NAME);
const FIRST_ROOM: usize = 16 << 10;

pub(super) fn decompress(input: &[u8], out: &mut Output) -> Result<(), FormatError> {
    let mut decoder = MultiGzDecoder::new(input);
    while out.left() > 0 {
        let wanted = out.as_slice().len().max(FIRST_ROOM);
        let read = decoder.read(out.split(wanted).1).map_err(|_| BAD)?;
        if read == 0 {
            return Ok(());
        }
        out.advance(read);
    }
    match decoder.read(&mut [0]).map_err(|_| BAD)? {
        0 => Ok(()),
        _ => Err(out.too_large()),
    }
}

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let level = level.map_or(Compression::default(), |level| Compression::new(level.clamp(0, 9) as u32));
    let mut encoder = GzEncoder::new(out, level);
    encoder.write_all(input).map_err(|_| FormatError::Compress(NAME))?;
    encoder.finish().map_err(|_| FormatError::Compress(NAME))?;
    Ok(())
}
