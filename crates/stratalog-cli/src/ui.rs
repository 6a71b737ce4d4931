//! What people and machines get to see: text or JSON on stdout, notes and progress on stderr.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::outcome::Failure;

/// How a command speaks.
pub struct Ui {
    json: bool,
}

impl Ui {
    pub fn new(json: bool) -> Ui {
        Ui { json }
    }

    /// Whether machines listen.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Standard output, buffered. Flush it at the end: a reader that went away is an error there.
    pub fn stdout(&self) -> BufWriter<StdoutLock<'static>> {
        BufWriter::with_capacity(1 << 16, io::stdout().lock())
    }

    /// Prints a value: as one line of JSON, or as text.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        let mut out = self.stdout();
        if self.json {
            serde_json::to_writer(&mut out, value)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", text(value).trim_end())?;
        }
        out.flush()
    }

    /// Something that a person should know, beside the result.
    pub fn note(&self, text: &str) {
        eprintln!("stratalog: {text}");
    }

    /// Why the command could not go on.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            eprintln!("{}", serde_json::json!({ "error": failure.to_string() }));
        } else {
            eprintln!("stratalog: {failure}");
        }
    }

    /// A bar with rate and time left, in bytes; hidden when stderr is no terminal.
    pub fn bytes(&self, total: u64, what: &'static str) -> ProgressBar {
        self.bar(total, what, "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left")
    }

    /// A bar that counts.
    pub fn count(&self, total: u64, what: &'static str) -> ProgressBar {
        self.bar(total, what, "{msg} [{wide_bar}] {human_pos}/{human_len} {per_sec}, {eta} left")
    }

    fn bar(&self, total: u64, what: &'static str, template: &str) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(template).expect("the templates above are sound");
        ProgressBar::new(total).with_style(style).with_message(what)
    }
}

/// A table with these headings.
pub fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    table
}
