//! What was measured, as tables and as a picture.

mod markdown;
mod svg;
mod workloads;

use std::fs;
use std::io;
use std::path::Path;

use comfy_table::{Table, presets};

use crate::budget::{self, Row};
use crate::machine::Machine;
use crate::session::Outcome;

pub use workloads::{WORKLOADS, Workload};

const BEGIN: &str = "<!-- peers: begin -->";
const END: &str = "<!-- peers: end -->";

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

pub fn print(outcome: &Outcome, machine: &Machine) {
    for section in markdown::sections(outcome, machine) {
        println!("\n{}\n", section.title);
        if !section.text.is_empty() {
            println!("{}\n", section.text);
        }
        if let Some(grid) = &section.grid {
            println!("{}", grid.text());
        }
    }
}

/// Writes the picture, and the tables into the part of `benchmarks.md` that is theirs.
pub fn write(outcome: &Outcome, machine: &Machine, out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    fs::write(out.join("benchmarks.svg"), svg::draw(outcome))?;
    put(&out.join("benchmarks.md"), BEGIN, END, &markdown::text(outcome, machine))
}

/// Writes the rows of the budget into the part of `benchmarks.md` that is theirs.
pub fn write_budget(rows: &[Row], machine: &Machine, out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    let Machine { processor, cores, kernel, file_system, load, date, command, .. } = machine;
    let met = rows.iter().filter(|row| row.is_met == Some(true)).count();
    let bound = rows.iter().filter(|row| row.is_met.is_some()).count();
    let text = format!(
        "## The budget\n\n`{command}`\n\n{date}, {cores} cores of {processor}, {kernel}, {file_system}; load at the end \
         {load}. {met} of {bound} rows are met. Kafka's figures are those of its own log layer on the same data, one thread, \
         warmed up, on another machine: raw figure, factor between the machines by what bounds the row, scaled figure. \
         The last column measures one row anew.\n\n{}",
        budget::grid(rows).markdown().trim_end()
    );
    put(&out.join("benchmarks.md"), "<!-- budget: begin -->", "<!-- budget: end -->", &text)
}

/// Replaces what is between two markers, which are added where there are none.
pub fn put(path: &Path, begin: &str, end: &str, text: &str) -> io::Result<()> {
    let old = match fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => "# Benchmarks\n".to_owned(),
        Err(error) => return Err(error),
    };
    let (before, after) = match old.split_once(begin) {
        Some((before, rest)) => (before.to_owned(), rest.split_once(end).map_or("", |(_, after)| after)),
        None => (format!("{}\n\n", old.trim_end()), "\n"),
    };
    fs::write(path, format!("{before}{begin}\n{text}\n{end}{after}"))
}
