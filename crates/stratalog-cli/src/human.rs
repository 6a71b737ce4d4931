//! Sizes, times, keys and values as people read them.

use std::fmt::{self, Write as _};

use stratalog::Timestamp;

/// What stands for nothing, or for what is not known.
pub const NOTHING: &str = "-";

/// Bytes shown of a key or value, unless all of it is asked for.
const SHOWN_MAX: usize = 160;

/// A size in bytes, in units of 1024.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time in UTC, as RFC 3339 says; the milliseconds only where there are any.
pub fn time(at: Timestamp) -> String {
    if at == Timestamp::NONE {
        return NOTHING.to_owned();
    }
    match jiff::Timestamp::from_millisecond(at.as_millis()) {
        Ok(time) if at.as_millis() % 1000 == 0 => format!("{time:.0}"),
        Ok(time) => format!("{time:.3}"),
        // No calendar goes that far.
        Err(_) => format!("{} ms", at.as_millis()),
    }
}

/// The same to the second, for tables.
pub fn second(at: Timestamp) -> String {
    if at == Timestamp::NONE {
        return NOTHING.to_owned();
    }
    let seconds = at.as_millis().div_euclid(1000);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("{} ms", at.as_millis()), |time| format!("{time:.0}"))
}

/// What may be missing.
pub fn optional<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), show)
}

/// A share in percent; what is not nothing is never shown as 0 %.
pub fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (0, _) => "0 %".to_owned(),
        (_, 0) => NOTHING.to_owned(),
        (part, whole) => {
            let percent = part as f64 * 100.0 / whole as f64;
            if percent < 1.0 { "<1 %".to_owned() } else { format!("{percent:.0} %") }
        }
    }
}

/// A count and what is counted.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Bytes so that they can be read: text in quotes, other bytes in hexadecimal digits, `null` for none. What is long is
/// cut, and says so, unless `whole`.
pub struct Readable<'a> {
    pub bytes: Option<&'a [u8]>,
    pub whole: bool,
}

impl fmt::Display for Readable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.bytes else { return f.write_str("null") };
        let max = if self.whole { usize::MAX } else { SHOWN_MAX };
        match std::str::from_utf8(bytes) {
            Ok(text) if is_readable(text) => {
                let mut end = text.len().min(max);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                let shown = &text[..end];
                f.write_char('"')?;
                for c in shown.chars() {
                    match c {
                        '"' | '\\' => write!(f, "\\{c}")?,
                        c if c.is_control() => write!(f, "{}", c.escape_default())?,
                        c => f.write_char(c)?,
                    }
                }
                f.write_char('"')?;
                more(f, text.len() - shown.len())
            }
            _ => {
                let shown = &bytes[..bytes.len().min(max / 2)];
                f.write_str("0x")?;
                shown.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                more(f, bytes.len() - shown.len())
            }
        }
    }
}

fn more(f: &mut fmt::Formatter<'_>, left_off: usize) -> fmt::Result {
    if left_off == 0 { Ok(()) } else { write!(f, "… {left_off} bytes more") }
}

/// Text with white space is text; with other control characters it is something else that happens to be UTF-8.
fn is_readable(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(bytes: &[u8]) -> String {
        Readable { bytes: Some(bytes), whole: false }.to_string()
    }

    #[test]
    fn sizes_have_one_digit_behind_the_point() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times_are_utc_and_those_of_no_calendar_are_numbers() {
        assert_eq!(time(Timestamp::from_millis(1_700_000_000_000)), "2023-11-14T22:13:20Z");
        assert_eq!(time(Timestamp::from_millis(1_700_000_000_007)), "2023-11-14T22:13:20.007Z");
        assert_eq!(second(Timestamp::from_millis(1_700_000_000_007)), "2023-11-14T22:13:20Z");
        assert_eq!(time(Timestamp::NONE), "-");
        assert_eq!(time(Timestamp::from_millis(i64::MAX)), "9223372036854775807 ms");
        assert_eq!(second(Timestamp::from_millis(i64::MIN)), "-9223372036854775808 ms");
    }

    #[test]
    fn bytes_are_text_where_they_can_be_and_digits_where_not() {
        assert_eq!(readable(b"key \"7\"\n"), r#""key \"7\"\n""#);
        assert_eq!(readable("Grüße".as_bytes()), "\"Grüße\"");
        assert_eq!(readable(&[0, 0, 0, 1]), "0x00000001");
        assert_eq!(readable(&[0xff]), "0xff");
        assert_eq!(readable(b""), "\"\"");
        assert_eq!(Readable { bytes: None, whole: false }.to_string(), "null");
        assert!(readable(&[b'x'; 200]).ends_with("x\"… 40 bytes more"));
        assert!(readable("ü".repeat(200).as_bytes()).contains("bytes more"));
    }
}
