//! LZ4 frames: a magic, a descriptor, blocks each after its length, and an end mark. All fields are little-endian, by
//! the LZ4 specification.
//!
//! The frames' own checksums are ignored. The checksum of the batch covers the same bytes, and old clients compute the
//! checksum of the descriptor wrongly.

use byteorder::{ByteOrder, LittleEndian};
use lz4_flex::block::{
    DecompressError, compress_into, decompress_into_with_dict, get_maximum_output_size as max_compressed_len,
};

use super::output::Output;
use crate::format::FormatError;

const NAME: &str = "lz4";
const BAD: FormatError = FormatError::Decompress(NAME);

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// The header that librdkafka writes and every client reads: independent blocks of 64 KiB and no checksums but the
/// descriptor's own, in the last byte.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const BLOCK_LEN: usize = 64 << 10;
/// The flag of a block that is stored uncompressed.
const STORED: u32 = 1 << 31;
/// The greatest distance of a match.
const WINDOW_LEN: usize = 64 << 10;
/// No byte of a block can expand to more bytes than this.
const MAX_RATIO: usize = 255;

/// The settings in the descriptor.
struct Frame {
    block_len_max: usize,
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_len: Option<u64>,
}

impl Frame {
    /// Parses magic and descriptor off the front.
    fn parse(input: &mut &[u8]) -> Result<Frame, FormatError> {
        if take::<4>(input)? != MAGIC {
            return Err(BAD);
        }
        let [flags, block] = take(input)?;
        // Only version 1, and no dictionary, because Kafka has no way to name one.
        if flags >> 6 != 1 || flags & 1 != 0 {
            return Err(BAD);
        }
        let block_len_max = match block >> 4 & 7 {
            size @ 4..=7 => 1 << (8 + 2 * size),
            _ => return Err(BAD),
        };
        let content_len = if flags & 8 != 0 { Some(LittleEndian::read_u64(&take::<8>(input)?)) } else { None };
        let [_checksum] = take(input)?;
        Ok(Frame {
            block_len_max,
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            content_checksum: flags & 4 != 0,
            content_len,
        })
    }
}

pub(super) fn decompress(input: &[u8], out: &mut Output) -> Result<(), FormatError> {
    let mut rest = input;
    let frame = Frame::parse(&mut rest)?;
    loop {
        let length = LittleEndian::read_u32(&take::<4>(&mut rest)?);
        if length == 0 {
            break;
        }
        let (block, after) = rest.split_at_checked((length & !STORED) as usize).ok_or(BAD)?;
        if length & STORED != 0 {
            store(block, &frame, out)?;
        } else {
            decompress_block(block, &frame, out)?;
        }
        rest = after;
        if frame.block_checksums {
            take::<4>(&mut rest)?;
        }
    }
    if frame.content_checksum {
        take::<4>(&mut rest)?;
    }
    let complete = frame.content_len.is_none_or(|len| len == out.as_slice().len() as u64);
    if complete && rest.is_empty() { Ok(()) } else { Err(BAD) }
}

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    const FAILED: FormatError = FormatError::Compress(NAME);
    out.extend_from_slice(&HEADER);
    for block in input.chunks(BLOCK_LEN) {
        let start = out.len();
        out.resize(start + 4 + max_compressed_len(block.len()), 0);
        let (length, data) = out.get_mut(start..).and_then(<[u8]>::split_first_chunk_mut::<4>).ok_or(FAILED)?;
        let mut written = compress_into(block, data).map_err(|_| FAILED)?;
        if written < block.len() {
            LittleEndian::write_u32(length, written as u32);
        } else {
            written = block.len();
            data.get_mut(..written).ok_or(FAILED)?.copy_from_slice(block);
            LittleEndian::write_u32(length, written as u32 | STORED);
        }
        out.truncate(start + 4 + written);
    }
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

fn store(block: &[u8], frame: &Frame, out: &mut Output) -> Result<(), FormatError> {
    if block.len() > frame.block_len_max {
        return Err(BAD);
    }
    if block.len() > out.left() {
        return Err(out.too_large());
    }
    out.split(block.len()).1.copy_from_slice(block);
    out.advance(block.len());
    Ok(())
}

fn decompress_block(block: &[u8], frame: &Frame, out: &mut Output) -> Result<(), FormatError> {
    let len_max = block.len().saturating_mul(MAX_RATIO).min(frame.block_len_max);
    let (done, room) = out.split(len_max);
    let is_cut = room.len() < len_max;
    let history =
        if frame.linked { done.get(done.len().saturating_sub(WINDOW_LEN)..).unwrap_or_default() } else { &[] };
    match decompress_into_with_dict(block, room, history) {
        Ok(written) => {
            out.advance(written);
            Ok(())
        }
        Err(DecompressError::OutputTooSmall { .. }) if is_cut => Err(out.too_large()),
        Err(_) => Err(BAD),
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], FormatError> {
    let (taken, rest) = input.split_first_chunk().ok_or(BAD)?;
    *input = rest;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use lz4_flex::block::compress_with_dict;

    use super::*;

    fn decompressed(frame: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut out = Output::default();
        out.start(1 << 20);
        decompress(frame, &mut out)?;
        Ok(out.as_slice().to_vec())
    }

    fn block(data: &[u8], flag: u32) -> Vec<u8> {
        let mut out = vec![0; 4];
        LittleEndian::write_u32(&mut out, data.len() as u32 | flag);
        out.extend_from_slice(data);
        out
    }

    /// Text whose second half repeats the first at a distance.
    fn content() -> Vec<u8> {
        let half: Vec<u8> =
            (0..30_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(50_000).collect();
        [&half[..], &half].concat()
    }

    #[test]
    fn our_frames_end_in_their_mark_and_store_what_does_not_shrink() {
        for content in [content(), vec![b'x'; 200_000], b"short".to_vec(), Vec::new()] {
            let mut frame = b"before".to_vec();
            compress(&content, &mut frame).unwrap();
            let frame = &frame[6..];
            assert!(frame.len() <= content.len() + HEADER.len() + 4 * (content.len() / BLOCK_LEN + 2));
            assert_eq!(decompressed(frame), Ok(content));
            assert_eq!(decompressed(&frame[..frame.len() - 4]), Err(BAD));
            assert_eq!(decompressed(&[frame, &[0]].concat()), Err(BAD));
        }
    }

    #[test]
    fn linked_blocks_reach_back_into_those_before() {
        let content = content();
        let (first, second) = content.split_at(content.len() / 2);
        let linked = compress_with_dict(second, first);
        assert!(linked.len() < 2_000, "nothing but matches into the first block");
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0xc0];
        frame.extend(block(first, STORED));
        frame.extend(block(&linked, 0));
        frame.extend([0; 4]);
        assert_eq!(decompressed(&frame), Ok(content));
        // Read as independent blocks, the same bytes refer to data before their block.
        frame[4] = 0x60;
        assert_eq!(decompressed(&frame), Err(BAD));
    }

    #[test]
    fn checksums_are_passed_over_and_the_content_length_must_hold() {
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x7c, 0x40, 5, 0, 0, 0, 0, 0, 0, 0, 0];
        frame.extend(block(b"hello", STORED));
        frame.extend([1, 2, 3, 4]);
        frame.extend([0; 4]);
        frame.extend([5, 6, 7, 8]);
        assert_eq!(decompressed(&frame), Ok(b"hello".to_vec()));
        frame[6] = 6;
        assert_eq!(decompressed(&frame), Err(BAD));
    }

    #[test]
    fn a_block_larger_than_its_frame_allows_is_an_error() {
        let mut frame = HEADER.to_vec();
        frame.extend(block(&vec![0; BLOCK_LEN + 1], STORED));
        frame.extend([0; 4]);
        assert_eq!(decompressed(&frame), Err(BAD));
        // Other versions, a dictionary, unknown block sizes, another magic.
        for (at, byte) in [(4, 0xa0), (4, 0x61), (5, 0x30), (0, 0x05)] {
            let mut frame = [&HEADER[..], &[0; 4]].concat();
            assert_eq!(decompressed(&frame), Ok(vec![]));
            frame[at] = byte;
            assert_eq!(decompressed(&frame), Err(BAD));
        }
    }
}
