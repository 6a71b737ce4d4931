//! Text becomes records. What is parsed are places in a block of bytes: nothing is allocated for a record.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use stratalog::{Header, Record, Timestamp};

use super::Format;

/// A place in the bytes of a block.
type Place = (u32, u32);

/// The records of a piece of text.
#[derive(Default)]
pub struct Block {
    /// Whole lines, as they were read.
    pub text: Vec<u8>,
    /// The number of the first one, counting from 1.
    pub first_line: u64,
    /// Bytes of the source up to the end of it.
    pub source_bytes: u64,
    /// What of the text could not be used as it is: decoded keys and values.
    decoded: Vec<u8>,
    in_decoded: bool,
    records: Vec<Parsed>,
    headers: Vec<(Place, Option<Place>)>,
    /// The first line that is no record; the records are those before it.
    pub error: Option<BadLine>,
}

#[derive(Clone, Copy, Default)]
struct Parsed {
    /// How many lines behind the first one.
    line: u32,
    timestamp: Option<i64>,
    key: Option<Place>,
    value: Option<Place>,
    headers: Place,
}

/// A line that is no record, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    pub line: u64,
    pub why: String,
}

impl Block {
    /// Parses the text. What an earlier text left is forgotten, its memory kept.
    pub fn parse(&mut self, format: &Format) {
        self.decoded.clear();
        self.records.clear();
        self.headers.clear();
        self.error = None;
        self.in_decoded = matches!(format, Format::Json { .. });
        let text = std::mem::take(&mut self.text);
        let mut start = 0;
        let mut line = 0;
        while start < text.len() {
            let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at);
            let parsed = match format {
                Format::Tsv => tsv(&text, start, end).map(Some),
                Format::Lines { separator, null } => {
                    lines(&text, start, end, separator.as_deref(), null.as_deref()).map(Some)
                }
                Format::Json { text: plain } => self.json(&text[start..end], *plain),
            };
            match parsed {
                Ok(Some(parsed)) => self.records.push(Parsed { line, ..parsed }),
                Ok(None) => {}
                Err(why) => {
                    self.error = Some(BadLine { line: self.first_line + u64::from(line), why });
                    break;
                }
            }
            line += 1;
            start = end + 1;
        }
        self.text = text;
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// The line that a record comes from.
    pub fn line(&self, at: usize) -> u64 {
        self.first_line + self.records.get(at).map_or(0, |parsed| u64::from(parsed.line))
    }

    /// The headers of all records, for [`record`](Block::record).
    pub fn headers(&self) -> Vec<Header<'_>> {
        let header = |(key, value): &(Place, Option<Place>)| Header {
            key: self.bytes(*key),
            value: value.map(|value| self.bytes(value)),
        };
        self.headers.iter().map(header).collect()
    }

    /// A record. `headers` are those of the block.
    #[inline]
    pub fn record<'a>(&'a self, at: usize, headers: &'a [Header<'a>]) -> Record<'a> {
        let parsed = self.records[at];
        Record {
            key: parsed.key.map(|key| self.bytes(key)),
            value: parsed.value.map(|value| self.bytes(value)),
            headers: slice(headers, parsed.headers),
            timestamp: parsed.timestamp.map(Timestamp::from_millis),
        }
    }

    #[inline]
    fn bytes(&self, place: Place) -> &[u8] {
        slice(if self.in_decoded { &self.decoded } else { &self.text }, place)
    }

    fn json(&mut self, line: &[u8], plain: bool) -> Result<Option<Parsed>, String> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let record: JsonRecord<'_> = match serde_json::from_slice(line) {
            Ok(record) => record,
            Err(error) => {
                let of_a_dump = serde_json::from_slice(line).is_ok_and(|line: DumpLine| line.empty_batch || line.batch);
                return if of_a_dump { Ok(None) } else { Err(json_error(error)) };
            }
        };
        if record.control {
            return Ok(None);
        }
        let key = self.decode(record.key, plain, "key")?;
        let value = self.decode(record.value, plain, "value")?;
        let first = self.headers.len() as u32;
        for (name, value) in record.headers {
            let start = self.decoded.len();
            match name {
                HeaderName::Text(name) => self.decoded.extend_from_slice(name.0.as_bytes()),
                HeaderName::Bytes { base64 } => {
                    self.decode(Some(base64), false, "the name of a header")?;
                }
            }
            let name = place(start, self.decoded.len());
            let value = self.decode(value, false, "the value of a header")?;
            self.headers.push((name, value));
        }
        let headers = (first, self.headers.len() as u32 - first);
        Ok(Some(Parsed { line: 0, timestamp: record.timestamp, key, value, headers }))
    }

    fn decode(&mut self, text: Option<Text<'_>>, plain: bool, what: &str) -> Result<Option<Place>, String> {
        let Some(Text(text)) = text else { return Ok(None) };
        let start = self.decoded.len();
        if plain {
            self.decoded.extend_from_slice(text.as_bytes());
        } else if STANDARD.decode_vec(text.as_bytes(), &mut self.decoded).is_err() {
            return Err(format!("{what} is not base64; where keys and values are plain text say --text"));
        }
        Ok(Some(place(start, self.decoded.len())))
    }
}

/// Text in JSON, borrowed where nothing in it is escaped.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct JsonRecord<'a> {
    #[serde(default)]
    timestamp: Option<i64>,
    #[serde(borrow, default)]
    key: Option<Text<'a>>,
    /// A value that is forgotten would make a tombstone: it has to be there.
    #[serde(borrow, deserialize_with = "present")]
    value: Option<Text<'a>>,
    #[serde(borrow, default)]
    headers: Vec<(HeaderName<'a>, Option<Text<'a>>)>,
    /// A record of a transaction's end, in a dump.
    #[serde(default)]
    control: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderName<'a> {
    Text(#[serde(borrow)] Text<'a>),
    /// What is no text.
    Bytes {
        #[serde(borrow)]
        base64: Text<'a>,
    },
}

/// A line of a dump that tells of a batch.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpLine {
    #[serde(default)]
    empty_batch: bool,
    #[serde(default)]
    batch: bool,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Text<'a>>, D::Error> {
    Option::deserialize(deserializer)
}

/// Each line is a text of its own: where in it is all that there is to say.
fn json_error(error: serde_json::Error) -> String {
    let text = error.to_string();
    text.replace(" at line 1 column ", ", at column ").replace(" at line 0 column 0", "")
}

fn tsv(text: &[u8], start: usize, end: usize) -> Result<Parsed, String> {
    let line = &text[start..end];
    let mut tabs = memchr::memchr_iter(b'\t', line);
    let (Some(first), Some(second)) = (tabs.next(), tabs.next()) else {
        return Err("fewer than three fields; a line is timestamp TAB key TAB value".to_owned());
    };
    if tabs.next().is_some() {
        return Err("more than three fields; a key or value with a tab in it needs --format json".to_owned());
    }
    let timestamp = millis(&line[..first]).ok_or("it does not begin with a timestamp in milliseconds")?;
    let value = (second + 1 < line.len()).then(|| place(start + second + 1, end));
    let key = Some(place(start + first + 1, start + second));
    Ok(Parsed { timestamp: Some(timestamp), key, value, ..Parsed::default() })
}

fn lines(
    text: &[u8],
    start: usize,
    end: usize,
    separator: Option<&[u8]>,
    null: Option<&[u8]>,
) -> Result<Parsed, String> {
    let mut value_start = start;
    let mut key = None;
    if let Some(separator) = separator {
        let at = memchr::memmem::find(&text[start..end], separator).ok_or("nothing in it separates key and value")?;
        key = Some(place(start, start + at));
        value_start = start + at + separator.len();
    }
    let value = &text[value_start..end];
    let value = (null != Some(value)).then(|| place(value_start, end));
    Ok(Parsed { key, value, ..Parsed::default() })
}

/// A number as it is written back: no sign but a minus, no zeros ahead.
fn millis(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let canonical = match digits {
        [b'0'] => !negative,
        [b'1'..=b'9', ..] => digits.len() <= 19,
        _ => false,
    };
    if !canonical || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |number: i64, digit: &u8| {
        let digit = i64::from(digit - b'0');
        let number = number.checked_mul(10)?;
        if negative { number.checked_sub(digit) } else { number.checked_add(digit) }
    };
    digits.iter().try_fold(0i64, add)
}

/// Blocks are shorter than 4 GiB: see `source`.
#[inline]
fn place(start: usize, end: usize) -> Place {
    (start as u32, (end - start) as u32)
}

#[inline]
fn slice<T>(all: &[T], (start, len): Place) -> &[T] {
    all.get(start as usize..start as usize + len as usize).unwrap_or_default()
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
