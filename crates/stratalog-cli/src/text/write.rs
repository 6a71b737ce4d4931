//! Records become text.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stratalog::RecordView;

use super::Format;

/// Why a record cannot be written in a format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unfit {
    what: &'static str,
    format: &'static str,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = if self.format == "json --text" { "json without --text" } else { "json" };
        write!(f, "{}, which --format {} cannot hold; --format {other} can", self.what, self.format)
    }
}

impl std::error::Error for Unfit {}

impl Format {
    /// Appends a record as a line. After an error nothing was added.
    #[inline]
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        (topic, partition): (&str, u32),
        record: &RecordView<'_>,
    ) -> Result<(), Unfit> {
        match self {
            Format::Tsv => tsv(out, record),
            Format::Lines { separator, null } => lines(out, record, separator.as_deref(), null.as_deref()),
            Format::Json { text } => json(out, topic, partition, record, *text),
        }
    }
}

fn tsv(out: &mut Vec<u8>, record: &RecordView<'_>) -> Result<(), Unfit> {
    let unfit = |what| Err(Unfit { what, format: "tsv" });
    let Some(key) = record.key else { return unfit("it has no key") };
    let value = record.value.unwrap_or_default();
    if record.value.is_some_and(<[u8]>::is_empty) {
        return unfit("its value is empty, and no tombstone");
    }
    if memchr::memchr2(b'\t', b'\n', key).is_some() {
        return unfit("its key has a tab or a line break");
    }
    if memchr::memchr2(b'\t', b'\n', value).is_some() {
        return unfit("its value has a tab or a line break");
    }
    if record.header_count() > 0 {
        return unfit("it has headers");
    }
    number(out, record.timestamp.as_millis());
    out.push(b'\t');
    out.extend_from_slice(key);
    out.push(b'\t');
    out.extend_from_slice(value);
    out.push(b'\n');
    Ok(())
}

fn lines(
    out: &mut Vec<u8>,
    record: &RecordView<'_>,
    separator: Option<&[u8]>,
    null: Option<&[u8]>,
) -> Result<(), Unfit> {
    let unfit = |what| Err(Unfit { what, format: "lines" });
    if record.value.is_some_and(|value| memchr::memchr(b'\n', value).is_some()) {
        return unfit("its value has a line break");
    }
    if record.value.is_some() && record.value == null {
        return unfit("its value is what --null has stand for none");
    }
    let value = match (record.value, null) {
        (Some(value), _) => value,
        (None, Some(null)) => null,
        (None, None) => return unfit("it has no value (see --null)"),
    };
    if let Some(separator) = separator {
        let Some(key) = record.key else { return unfit("it has no key") };
        if memchr::memchr(b'\n', key).is_some() {
            return unfit("its key has a line break");
        }
        let start = out.len();
        out.extend_from_slice(key);
        out.extend_from_slice(separator);
        // The first separator is the one that is found again.
        if memchr::memmem::find(&out[start..], separator) != Some(key.len()) {
            out.truncate(start);
            return unfit("its key has the separator in it");
        }
    }
    out.extend_from_slice(value);
    out.push(b'\n');
    Ok(())
}

fn json(out: &mut Vec<u8>, topic: &str, partition: u32, record: &RecordView<'_>, plain: bool) -> Result<(), Unfit> {
    let start = out.len();
    out.extend_from_slice(b"{\"topic\":");
    string(out, topic);
    out.extend_from_slice(b",\"partition\":");
    number(out, i64::from(partition));
    out.extend_from_slice(b",\"offset\":");
    number(out, record.offset.as_i64());
    out.extend_from_slice(b",\"timestamp\":");
    number(out, record.timestamp.as_millis());
    for (name, bytes) in [(&b",\"key\":"[..], record.key), (b",\"value\":", record.value)] {
        out.extend_from_slice(name);
        match bytes {
            None => out.extend_from_slice(b"null"),
            Some(bytes) if plain => match std::str::from_utf8(bytes) {
                Ok(text) => string(out, text),
                Err(_) => {
                    out.truncate(start);
                    return Err(Unfit { what: "its key or value is no text", format: "json --text" });
                }
            },
            Some(bytes) => base64(out, bytes),
        }
    }
    out.extend_from_slice(b",\"headers\":[");
    for (at, header) in record.headers().enumerate() {
        out.extend_from_slice(if at == 0 { b"[" } else { b",[" });
        match std::str::from_utf8(header.key) {
            Ok(name) => string(out, name),
            Err(_) => {
                out.extend_from_slice(b"{\"base64\":");
                base64(out, header.key);
                out.push(b'}');
            }
        }
        out.push(b',');
        match header.value {
            None => out.extend_from_slice(b"null"),
            Some(value) => base64(out, value),
        }
        out.push(b']');
    }
    out.extend_from_slice(b"]}\n");
    Ok(())
}

fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text can be written into memory");
}

/// Bytes in base64, in quotes.
fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("there is room for it");
    out.truncate(start + written);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are() {
        for n in [0, 7, -1, 10, 1_700_000_000_000, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            number(&mut out, n);
            assert_eq!(String::from_utf8(out).unwrap(), n.to_string());
        }
    }

    #[test]
    fn bytes_of_every_length_are_padded() {
        for len in 0..7 {
            let mut out = Vec::new();
            base64(&mut out, &[0xfe; 7][..len]);
            assert_eq!(STANDARD.decode(&out[1..out.len() - 1]).unwrap(), [0xfe; 7][..len]);
        }
    }
}
