//! What people and machines get to see: text or JSON on stdout, notes and progress on stderr.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use comfy_table::{CellAlignment, Table, presets};
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
            serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", text(value).trim_end())?;
        }
        out.flush()
    }

    /// Something that a person should know, beside the result.
    pub fn note(&self, text: &str) {
        self.say("note", text, "stratalog: ");
    }

    /// Damage that was met, beside the result.
    pub fn damage(&self, what: &str) {
        self.say("damage", what, "stratalog: damage: ");
    }

    /// What could not be done, while the command goes on.
    pub fn error(&self, what: &str) {
        self.say("error", what, "stratalog: ");
    }

    /// Why the command could not go on.
    pub fn failure(&self, failure: &Failure) {
        if !failure.is_silent() {
            self.error(&failure.to_string());
        }
    }

    /// A line on stderr. Nobody may be there to listen: that is no reason to stop, let alone to panic.
    fn say(&self, what: &'static str, text: &str, prefix: &str) {
        let line = if self.json { serde_json::json!({ what: text }).to_string() } else { format!("{prefix}{text}") };
        let _ = writeln!(io::stderr(), "{line}");
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
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The same, with these columns flush right: numbers.
pub fn table_of_numbers<const N: usize>(headings: [&str; N], right: &[usize]) -> Table {
    let mut table = table(headings);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table as text, without the blanks at the ends of its lines.
pub fn text_of(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
