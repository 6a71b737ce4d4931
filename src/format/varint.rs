//! Zigzag varints as in records: seven bits per byte, the lowest first.

use super::FormatError;

/// The longest varint of an `i32`.
pub(super) const MAX_LEN_32: usize = 5;
/// The longest varint of an `i64`.
pub(super) const MAX_LEN_64: usize = 10;

const BAD: FormatError = FormatError::BadRecord("varint");

/// Takes an `i32` off the front.
#[inline(always)]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Result<i32, FormatError> {
    match **bytes {
        [a, ref rest @ ..] if a < 0x80 => {
            *bytes = rest;
            Ok(unzigzag(u64::from(a)) as i32)
        }
        [a, b, ref rest @ ..] if b < 0x80 => {
            *bytes = rest;
            Ok(unzigzag(u64::from(a & 0x7f) | u64::from(b) << 7) as i32)
        }
        _ => {
            let (value, rest) = take_long(bytes, MAX_LEN_32)?;
            *bytes = rest;
            i32::try_from(value).map_err(|_| BAD)
        }
    }
}

/// Takes an `i64` off the front.
#[inline(always)]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Result<i64, FormatError> {
    match **bytes {
        [a, ref rest @ ..] if a < 0x80 => {
            *bytes = rest;
            Ok(unzigzag(u64::from(a)))
        }
        [a, b, ref rest @ ..] if b < 0x80 => {
            *bytes = rest;
            Ok(unzigzag(u64::from(a & 0x7f) | u64::from(b) << 7))
        }
        _ => {
            let (value, rest) = take_long(bytes, MAX_LEN_64)?;
            *bytes = rest;
            Ok(value)
        }
    }
}

/// Reads any varint of up to `max` bytes, and returns the bytes after it. Bits beyond the 64th are an error and not
/// lost. The bytes are not a mutable borrow, so that short varints keep their address and length in registers.
#[cold]
#[inline(never)]
fn take_long(bytes: &[u8], max: usize) -> Result<(i64, &[u8]), FormatError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(max) {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * i as u32;
        if shift == 63 && bits > 1 {
            return Err(BAD);
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok((unzigzag(value), bytes.get(i + 1..).unwrap_or_default()));
        }
    }
    Err(BAD)
}

/// The first bytes of a record, in a register. If its first varints are short, they need one load and one bounds check
/// in all, or two if one number is longer. The methods return `None` for longer varints.
pub(super) struct Head {
    word: u64,
    len: usize,
}

impl Head {
    #[inline(always)]
    pub(super) fn of(bytes: &[u8]) -> Option<Head> {
        // The first byte becomes the lowest, as in a varint.
        let word = u64::from_be_bytes(*bytes.first_chunk()?).swap_bytes();
        Some(Head { word, len: 0 })
    }

    /// The number of bytes taken.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(super) fn skip_byte(&mut self) {
        self.word >>= 8;
        self.len += 1;
    }

    /// Takes a non-negative number of up to two bytes.
    #[inline(always)]
    pub(super) fn take_length(&mut self) -> Option<usize> {
        let raw = self.take_raw(2)?;
        (raw & 1 == 0).then_some((raw >> 1) as usize)
    }

    /// Takes a number of up to five bytes that follows a length and a byte. A length may follow it. `bytes` are the
    /// bytes that this head was made from.
    #[inline(always)]
    pub(super) fn take_number(&mut self, bytes: &[u8]) -> Option<i64> {
        match self.take_raw(3) {
            Some(raw) => Some(unzigzag(raw)),
            None => self.take_four_or_five(bytes),
        }
    }

    /// Takes a number of four or five bytes, and reloads the word after it.
    #[inline(always)]
    fn take_four_or_five(&mut self, bytes: &[u8]) -> Option<i64> {
        let word = self.word;
        let (fifth, len) = match word >> 24 & 0x8080 {
            0 | 0x8000 => (0, 4),
            0x80 => (word >> 4 & 0x7_f000_0000, 5),
            _ => return None,
        };
        let raw = word & 0x7f | word >> 1 & 0x3f80 | word >> 2 & 0x1f_c000 | word >> 3 & 0xfe0_0000 | fifth;
        let rest = Head::of(bytes.get(self.len + len..)?)?;
        (self.word, self.len) = (rest.word, self.len + len);
        Some(unzigzag(raw))
    }

    #[inline(always)]
    fn take_raw(&mut self, max: usize) -> Option<u64> {
        let word = self.word;
        let (raw, len) = if word & 0x80 == 0 {
            (word & 0x7f, 1)
        } else if word & 0x8000 == 0 {
            (word & 0x7f | word >> 1 & 0x3f80, 2)
        } else if max > 2 && word & 0x80_0000 == 0 {
            (word & 0x7f | word >> 1 & 0x3f80 | word >> 2 & 0x1f_c000, 3)
        } else {
            return None;
        };
        self.word >>= 8 * len;
        self.len += len;
        Some(raw)
    }
}

/// Reads a stored varint of up to two bytes, and returns the bytes after it.
#[inline(always)]
pub(super) fn short(bytes: &[u8]) -> Option<(u32, &[u8])> {
    match *bytes {
        [a @ ..0x80, ref rest @ ..] => Some((u32::from(a), rest)),
        [a, b @ ..0x80, ref rest @ ..] => Some((u32::from(a & 0x7f) | u32::from(b) << 7, rest)),
        _ => None,
    }
}

/// Maps small absolute values to small unsigned ones.
#[inline(always)]
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline(always)]
const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The number of bytes that `value` takes.
#[inline(always)]
pub(super) const fn len(value: i64) -> usize {
    let value = zigzag(value);
    if value < 1 << 7 {
        1
    } else if value < 1 << 14 {
        2
    } else {
        (64 - value.leading_zeros() as usize).div_ceil(7)
    }
}

/// Consecutive small fields in the eight bytes of a word, stored at once.
#[derive(Clone, Copy)]
pub(super) struct Word {
    bits: u64,
    len: usize,
}

impl Word {
    /// The size of the word when stored, in bytes.
    pub(super) const SIZE: usize = 8;

    /// A word of `len` bytes, the first one lowest.
    #[inline(always)]
    pub(super) fn new(bits: u64, len: usize) -> Word {
        Word { bits, len }
    }

    /// A word of these eight bytes.
    #[inline(always)]
    pub(super) fn of(bytes: &[u8; Word::SIZE]) -> Word {
        Word { bits: u64::from_be_bytes(*bytes).swap_bytes(), len: Word::SIZE }
    }

    /// The stored varint of a zigzag-encoded value, if it has at most two bytes.
    #[inline(always)]
    pub(super) fn varint(raw: u64) -> Option<Word> {
        match raw {
            0..0x80 => Some(Word { bits: raw, len: 1 }),
            0x80..0x4000 => Some(Word { bits: raw & 0x7f | 0x80 | raw << 1 & 0x7f00, len: 2 }),
            _ => None,
        }
    }

    /// This word followed by another. Together they have at most eight bytes.
    #[inline(always)]
    pub(super) fn then(self, next: Word) -> Word {
        Word { bits: self.bits | next.bits << (8 * self.len), len: self.len + next.len }
    }

    /// The number of bytes in use.
    #[inline(always)]
    pub(super) fn len(self) -> usize {
        self.len
    }

    /// All eight bytes. Those not in use are zero.
    #[inline(always)]
    pub(super) fn to_bytes(self) -> [u8; Word::SIZE] {
        self.bits.swap_bytes().to_be_bytes()
    }
}

/// Writes consecutive small fields into 32 bytes, which is more than a record has before its key.
///
/// [`Writer::len`] detects writes past the end. Masking the index proves to the compiler that it is in range, which
/// costs less than a bounds check.
pub(super) struct Writer<'a> {
    bytes: &'a mut [u8; Writer::CAPACITY],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(super) const CAPACITY: usize = 32;

    #[inline(always)]
    pub(super) fn new(bytes: &'a mut [u8; Writer::CAPACITY]) -> Writer<'a> {
        Writer { bytes, len: 0 }
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len % Writer::CAPACITY) {
            *slot = byte;
        }
        self.len += 1;
    }

    #[inline(always)]
    pub(super) fn varint(&mut self, value: i64) {
        let mut rest = zigzag(value);
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    /// The number of bytes written.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        assert!(self.len <= Writer::CAPACITY, "the fields fit");
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut bytes = [0; Writer::CAPACITY];
        let mut writer = Writer::new(&mut bytes);
        writer.varint(value);
        let len = writer.len();
        bytes[..len].to_vec()
    }

    #[test]
    fn every_length_survives_a_round_trip() {
        for shift in 0..64 {
            for value in [1i64 << shift, (1i64 << shift).wrapping_neg(), (1i64 << shift).wrapping_sub(1), i64::MIN] {
                let bytes = encoded(value);
                assert_eq!(bytes.len(), len(value), "{value}");
                let mut rest = &bytes[..];
                assert_eq!(take_i64(&mut rest), Ok(value));
                assert!(rest.is_empty());
                let mut rest = &bytes[..];
                assert_eq!(take_i32(&mut rest).ok(), i32::try_from(value).ok(), "{value}");
            }
        }
    }

    #[test]
    fn words_hold_what_the_writer_writes() {
        let edges = [0, 1, 0x7f, 0x80, 0x3fff];
        for (first, second) in edges.iter().flat_map(|first| edges.map(|second| (*first, second))) {
            let word = Word::varint(first).unwrap().then(Word::new(7, 1)).then(Word::varint(second).unwrap());
            let expected = [encoded(unzigzag(first)), vec![7], encoded(unzigzag(second))].concat();
            assert_eq!(word.to_bytes()[..word.len()], expected, "{first} {second}");
        }
        assert!(Word::varint(0x4000).is_none());
    }

    #[test]
    fn the_known_encodings_are_kafkas() {
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(-1), [1]);
        assert_eq!(encoded(1), [2]);
        assert_eq!(encoded(63), [0x7e]);
        assert_eq!(encoded(-64), [0x7f]);
        assert_eq!(encoded(64), [0x80, 1]);
        assert_eq!(encoded(i64::from(i32::MAX)), [0xfe, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(encoded(i64::MIN), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }

    #[test]
    fn overlong_overflowing_and_cut_varints_are_errors() {
        for bytes in
            [&[][..], &[0x80], &[0xff, 0xff], &[0x80; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(take_i64(&mut &bytes[..]), Err(BAD), "{bytes:?}");
        }
        for bytes in [&[0x80, 0x80, 0x80, 0x80, 0x80, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x1f]] {
            assert_eq!(take_i32(&mut &bytes[..]), Err(BAD), "{bytes:?}");
        }
    }
}
