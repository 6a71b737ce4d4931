//! What was measured, as tables and as a picture.

mod markdown;
mod svg;
mod workloads;

use std::fs;
use std::io;
use std::path::Path;

use crate::budget::{self, Row};
use crate::machine::Machine;
use crate::session::Outcome;

pub use workloads::{WORKLOADS, Workload};

const BEGIN: &str = "<!-- peers: begin -->";
const END: &str = "<!-- peers: end -->";

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
