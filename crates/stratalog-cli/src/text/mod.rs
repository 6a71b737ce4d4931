//! Records as text: lines, JSON lines and tab-separated values, in both directions.

pub mod parse;
pub mod sink;
pub mod source;
pub mod write;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::outcome::Failure;

/// The help of whoever takes [`FormatArgs`]: examples, and what the formats are.
pub fn with_formats(examples: &str) -> String {
    format!("{examples}\n\n{FORMATS}")
}

const FORMATS: &str = "\
Formats:
  lines  a value a line; with --key-separator, a key before it
  json   an object a line, as dump --json writes it: timestamp (ms), key and
         value (base64 or null; with --text plain strings), headers (pairs of
         a name and base64 or null); other fields are left alone
  tsv    timestamp (ms) TAB key TAB value; an empty value is a tombstone

The name of the file tells: .tsv, .json, .jsonl, .ndjson, else lines. With .gz behind it, it is compressed. What comes \
from standard input is lines, what goes to standard output is json, unless --format says otherwise.";

/// How records are written as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// A value a line.
    Lines,
    /// An object a line.
    Json,
    /// Timestamp, key and value with tabs between.
    Tsv,
}

#[derive(clap::Args, Debug, Clone, Default)]
pub struct FormatArgs {
    /// How records are written. Default: what the file's name tells.
    #[arg(long, value_name = "FORMAT")]
    format: Option<Kind>,
    /// lines: what stands between key and value. \t is a tab.
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// lines: what a value is that is none: the record is a tombstone.
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// json: keys and values are text, not base64.
    #[arg(long)]
    text: bool,
}

/// A format with its settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Format {
    Lines { separator: Option<Vec<u8>>, null: Option<Vec<u8>> },
    Json { text: bool },
    Tsv,
}

impl FormatArgs {
    /// Nothing was said.
    pub fn is_default(&self) -> bool {
        self.format.is_none() && self.key_separator.is_none() && self.null.is_none() && !self.text
    }

    /// The format that is meant for this file; `None` stands for standard input and output.
    pub fn format(&self, file: Option<&Path>, otherwise: Kind) -> Result<Format, Failure> {
        let kind = self.format.or_else(|| kind_of(file?)).unwrap_or(otherwise);
        let for_lines = self.key_separator.is_some() || self.null.is_some();
        if for_lines && kind != Kind::Lines {
            return Err(Failure::misuse("--key-separator and --null are for --format lines"));
        }
        if self.text && kind != Kind::Json {
            return Err(Failure::misuse("--text is for --format json"));
        }
        Ok(match kind {
            Kind::Json => Format::Json { text: self.text },
            Kind::Tsv => Format::Tsv,
            Kind::Lines => {
                let separator = self.key_separator.as_ref().map(|text| text.replace("\\t", "\t").into_bytes());
                if separator.as_ref().is_some_and(|text| text.is_empty() || text.contains(&b'\n')) {
                    return Err(Failure::misuse("--key-separator: neither nothing nor a line break can separate"));
                }
                if self.null.as_ref().is_some_and(|text| text.contains('\n')) {
                    return Err(Failure::misuse("--null: a line break cannot stand for a value"));
                }
                Format::Lines { separator, null: self.null.clone().map(String::into_bytes) }
            }
        })
    }
}

/// A file to read or write; none, or `-`, is standard input or output.
pub fn file(path: Option<&PathBuf>) -> Option<&Path> {
    path.map(PathBuf::as_path).filter(|path| *path != Path::new("-"))
}

/// Whether a file is compressed, by its name.
pub fn is_gz(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "gz")
}

fn kind_of(file: &Path) -> Option<Kind> {
    let name = if is_gz(file) { file.with_extension("") } else { file.to_path_buf() };
    match name.extension()?.to_str()? {
        "tsv" => Some(Kind::Tsv),
        "json" | "jsonl" | "ndjson" => Some(Kind::Json),
        _ => Some(Kind::Lines),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_tells_its_format() {
        let kind = |name: &str| FormatArgs::default().format(Some(Path::new(name)), Kind::Lines).unwrap();
        assert_eq!(kind("a/b.tsv.gz"), Format::Tsv);
        assert_eq!(kind("b.jsonl"), Format::Json { text: false });
        assert_eq!(kind("b.txt.gz"), Format::Lines { separator: None, null: None });
        assert_eq!(FormatArgs::default().format(None, Kind::Tsv).unwrap(), Format::Tsv);
        assert_eq!(file(Some(&PathBuf::from("-"))), None);
    }

    #[test]
    fn settings_of_another_format_are_refused() {
        let separator = Some("\\t".to_owned());
        let tsv = FormatArgs { format: Some(Kind::Tsv), key_separator: separator.clone(), ..FormatArgs::default() };
        assert!(tsv.format(None, Kind::Lines).is_err());
        let lines = FormatArgs { key_separator: separator, ..FormatArgs::default() };
        assert_eq!(
            lines.format(None, Kind::Lines).unwrap(),
            Format::Lines { separator: Some(vec![b'\t']), null: None }
        );
        assert!(FormatArgs { text: true, ..FormatArgs::default() }.format(None, Kind::Lines).is_err());
    }
}
