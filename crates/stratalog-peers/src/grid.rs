//! Tables, for terminals and for documents.

use comfy_table::{Table, presets};

/// A table with a head.
pub struct Grid {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Grid {
        Grid { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub fn push<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// In Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: String = self.head.iter().map(|_| "|---").collect();
        self.rows.iter().fold(format!("{}{rule}|\n", line(&self.head)), |text, row| text + line(row).as_str())
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(&self.head);
        self.rows.iter().for_each(|row| {
            table.add_row(row);
        });
        table.to_string()
    }
}
