//! Kafka's checkpoint files: text with a version, a count, and one line for each entry.

use std::fmt::{Display, Write as _};

use super::FormatError;
use super::file_name::check_topic;
use crate::offset::Offset;

const VERSION: u32 = 0;

/// A line of one of a log directory's checkpoint files.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OffsetCheckpoint {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset that the file records: a recovery point, a log start or a high watermark.
    pub offset: Offset,
}

/// A line of a partition's `leader-epoch-checkpoint`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochCheckpoint {
    /// A leader epoch.
    pub epoch: i32,
    /// The first offset of that epoch.
    pub start: Offset,
}

/// Parses a file with one line for each partition. An empty file has no entries.
pub fn parse_offsets(bytes: &[u8]) -> Result<Vec<OffsetCheckpoint>, FormatError> {
    parse(bytes, |line| {
        let [topic, partition, offset] = fields(line)?;
        check_topic(topic).ok()?;
        let partition = u32::try_from(partition.parse::<i32>().ok()?).ok()?;
        Some(OffsetCheckpoint { topic: topic.to_owned(), partition, offset: parse_offset(offset)? })
    })
}

/// Formats a file with one line for each partition.
pub fn write_offsets(entries: &[OffsetCheckpoint]) -> String {
    write(entries, |entry| format_args_line(&[&entry.topic, &entry.partition, &entry.offset]))
}

/// Parses a partition's leader epochs. They must grow, and none may start before the previous one.
pub fn parse_epochs(bytes: &[u8]) -> Result<Vec<EpochCheckpoint>, FormatError> {
    let epochs = parse(bytes, |line| {
        let [epoch, start] = fields(line)?;
        let epoch = epoch.parse().ok().filter(|epoch| *epoch >= 0)?;
        Some(EpochCheckpoint { epoch, start: parse_offset(start)? })
    })?;
    if epochs.is_sorted_by(|a, b| a.epoch < b.epoch && a.start <= b.start) {
        Ok(epochs)
    } else {
        Err(FormatError::Malformed("order of epochs"))
    }
}

/// Formats a partition's leader epochs.
pub fn write_epochs(entries: &[EpochCheckpoint]) -> String {
    write(entries, |entry| format_args_line(&[&entry.epoch, &entry.start]))
}

fn parse<T>(bytes: &[u8], parse_line: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, FormatError> {
    let text = std::str::from_utf8(bytes).map_err(|_| FormatError::Malformed("text"))?;
    let mut lines = text.lines();
    let Some(version) = lines.next() else { return Ok(Vec::new()) };
    match version.parse() {
        Ok(VERSION) => {}
        Ok(found) => return Err(FormatError::BadVersion { found, supported: VERSION }),
        Err(_) => return Err(FormatError::Malformed("version line")),
    }
    let count: usize = lines.next().and_then(|line| line.parse().ok()).ok_or(FormatError::Malformed("count line"))?;
    let entries = lines.map(|line| parse_line(line).ok_or(FormatError::Malformed("entry line")));
    let entries = entries.collect::<Result<Vec<T>, _>>()?;
    if entries.len() == count { Ok(entries) } else { Err(FormatError::BadCount) }
}

fn write<T>(entries: &[T], line: impl Fn(&T) -> String) -> String {
    let mut out = format!("{VERSION}\n{}\n", entries.len());
    entries.iter().for_each(|entry| out.push_str(&line(entry)));
    out
}

fn format_args_line(fields: &[&dyn Display]) -> String {
    let mut line = String::new();
    for (i, field) in fields.iter().enumerate() {
        let separator = if i == 0 { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(line, "{separator}{field}");
    }
    line.push('\n');
    line
}

fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    let mut fields = line.split_whitespace();
    let mut out = [""; N];
    for slot in &mut out {
        *slot = fields.next()?;
    }
    fields.next().is_none().then_some(out)
}

fn parse_offset(field: &str) -> Option<Offset> {
    Offset::from_i64(field.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let entry = |topic: &str, partition, offset| OffsetCheckpoint {
            topic: topic.to_owned(),
            partition,
            offset: Offset::new(offset),
        };
        let entries = vec![entry("orders", 0, 137), entry("a-b.c", 12, i64::MAX as u64)];
        let text = write_offsets(&entries);
        assert_eq!(text, "0\n2\norders 0 137\na-b.c 12 9223372036854775807\n");
        assert_eq!(parse_offsets(text.as_bytes()), Ok(entries));
        assert_eq!(write_offsets(&[]), "0\n0\n");
        assert_eq!(parse_offsets(b"0\n0\n"), Ok(vec![]));
        assert_eq!(parse_offsets(b""), Ok(vec![]));

        let epochs = vec![
            EpochCheckpoint { epoch: 0, start: Offset::ZERO },
            EpochCheckpoint { epoch: 5, start: Offset::new(137) },
        ];
        assert_eq!(write_epochs(&epochs), "0\n2\n0 0\n5 137\n");
        assert_eq!(parse_epochs(write_epochs(&epochs).as_bytes()), Ok(epochs));
    }

    #[test]
    fn damaged_files_are_errors() {
        for text in [
            "\n",
            "0",
            "0\n",
            "0\nx\n",
            "0\n-1\n",
            "0\n1\n",
            "0\n1\na 0\n",
            "0\n1\na 0 1 2\n",
            "0\n1\na 0 -1\n",
            "0\n1\na -1 1\n",
            "0\n1\na 0 9223372036854775808\n",
            "0\n1\na/b 0 1\n",
            "0\n1\na 0 1\n\n",
            "0\n2\na 0 1\n",
            "0\n0\na 0 1\n",
            "0\n99999999999999999999\na 0 1\n",
        ] {
            assert!(parse_offsets(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(parse_offsets(b"1\n0\n"), Err(FormatError::BadVersion { found: 1, supported: 0 }));
        assert_eq!(parse_offsets(b"0\n1\n\xff 0 1\n"), Err(FormatError::Malformed("text")));
        for text in ["0\n2\n1 5\n1 6\n", "0\n2\n1 5\n2 4\n", "0\n1\n-1 5\n"] {
            assert!(parse_epochs(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
