//! Kafka's `partition.metadata`, which holds the id of the topic that a partition's directory belongs to.

use std::fmt;

use super::FormatError;

const VERSION: u32 = 0;
/// The alphabet of URL-safe base64.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The length of an id: 128 bits in characters of six bits, the last one padded with four zero bits.
const ID_LEN: usize = 22;

/// The id of a topic: a UUID. Displayed as in Kafka, in 22 characters of URL-safe base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicId(u128);

impl TopicId {
    /// Creates an id from its 128 bits.
    pub const fn new(bits: u128) -> TopicId {
        TopicId(bits)
    }

    /// The 128 bits of the id.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// Parses an id as displayed.
    pub fn parse(text: &str) -> Result<TopicId, FormatError> {
        const BAD: FormatError = FormatError::Malformed("topic id");
        let (last, all_but_last) = text.as_bytes().split_last().filter(|_| text.len() == ID_LEN).ok_or(BAD)?;
        let digit = |byte: &u8| DIGITS.iter().position(|digit| digit == byte).map(|digit| digit as u128).ok_or(BAD);
        let bits = all_but_last.iter().try_fold(0u128, |bits, byte| Ok(bits << 6 | digit(byte)?))?;
        let last = digit(last)?;
        if last & 0xf != 0 { Err(BAD) } else { Ok(TopicId(bits << 2 | last >> 4)) }
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for i in 0..ID_LEN as u32 {
            // The last digit has only two bits left, followed by four zeros.
            let digit = if i == 21 { self.0 << 4 } else { self.0 >> (122 - 6 * i) } & 0x3f;
            let digit = DIGITS.get(digit as usize).copied().unwrap_or_default();
            fmt::Write::write_char(f, char::from(digit))?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses the file.
pub fn parse(bytes: &[u8]) -> Result<TopicId, FormatError> {
    let text = std::str::from_utf8(bytes).map_err(|_| FormatError::Malformed("text"))?;
    let mut lines = text.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(':').map(str::trim);
    let version = field("version").and_then(|version| version.parse().ok());
    match version.ok_or(FormatError::Malformed("version line"))? {
        VERSION => {}
        found => return Err(FormatError::BadVersion { found, supported: VERSION }),
    }
    let id = TopicId::parse(field("topic_id").ok_or(FormatError::Malformed("topic id line"))?)?;
    if lines.next().is_none() { Ok(id) } else { Err(FormatError::Malformed("end of file")) }
}

/// Formats the file, which has no final newline.
pub fn write(id: TopicId) -> String {
    format!("version: {VERSION}\ntopic_id: {id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_a_round_trip() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677, 1 << 127, 3] {
            let id = TopicId::new(bits);
            assert_eq!(id.to_string().len(), ID_LEN);
            assert_eq!(TopicId::parse(&id.to_string()), Ok(id));
            assert_eq!(parse(write(id).as_bytes()), Ok(id));
        }
        assert_eq!(TopicId::new(u128::MAX).to_string(), "_____________________w");
    }

    #[test]
    fn damaged_files_are_errors() {
        for text in [
            "",
            "version: 0",
            "version: 0\ntopic_id: ",
            "version: 0\ntopic_id: _____________________x",
            "version: 0\ntopic_id: ______________________w",
            "version: 0\ntopic_id: +____________________w",
            "version: 0\ntopic_id: _____________________w\nmore",
            "topic_id: _____________________w\nversion: 0",
            "version 0\ntopic_id: _____________________w",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        let newer = b"version: 1\ntopic_id: _____________________w";
        assert_eq!(parse(newer), Err(FormatError::BadVersion { found: 1, supported: 0 }));
    }
}
