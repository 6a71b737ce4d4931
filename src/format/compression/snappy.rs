//! Snappy, raw or in the framing of the Java library ("xerial"): a magic, two versions, then blocks, each after its
//! length. The frame format of the snap crate is a third one, which no Kafka client reads.

use byteorder::{BigEndian, ByteOrder};
use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::output::Output;
use crate::format::FormatError;

const NAME: &str = "snappy";
const BAD: FormatError = FormatError::Decompress(NAME);

const MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Magic, version 1, and the oldest version that can read it: 1.
const HEADER: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const BLOCK_LEN: usize = 32 << 10;
/// Three bytes can expand to at most 64, so a block cannot expand by more than this.
const MAX_RATIO: usize = 22;

pub(super) fn decompress(input: &[u8], out: &mut Output) -> Result<(), FormatError> {
    if !input.starts_with(MAGIC) {
        return decompress_block(input, out);
    }
    let mut rest = input.get(HEADER.len()..).ok_or(BAD)?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(BAD)?;
        let (block, after) = after.split_at_checked(BigEndian::read_u32(length) as usize).ok_or(BAD)?;
        decompress_block(block, out)?;
        rest = after;
    }
    Ok(())
}

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    const FAILED: FormatError = FormatError::Compress(NAME);
    out.extend_from_slice(HEADER);
    let mut encoder = Encoder::new();
    for block in input.chunks(BLOCK_LEN) {
        let start = out.len();
        out.resize(start + 4 + max_compress_len(block.len()), 0);
        let (length, data) = out.get_mut(start..).and_then(<[u8]>::split_first_chunk_mut::<4>).ok_or(FAILED)?;
        let written = encoder.compress(block, data).map_err(|_| FAILED)?;
        BigEndian::write_u32(length, written as u32);
        out.truncate(start + 4 + written);
    }
    Ok(())
}

/// Adds a decompressed block. Its claimed length is trusted only as far as its bytes make it possible.
fn decompress_block(block: &[u8], out: &mut Output) -> Result<(), FormatError> {
    let length = decompress_len(block).map_err(|_| BAD)?;
    if length > block.len().saturating_mul(MAX_RATIO) {
        return Err(BAD);
    }
    if length > out.left() {
        return Err(out.too_large());
    }
    let written = Decoder::new().decompress(block, out.split(length).1).map_err(|_| BAD)?;
    out.advance(written);
    if written == length { Ok(()) } else { Err(BAD) }
}
