//! `stratalog bench`: what the engine does on this disk, beside what the disk and the memory can do.

mod engine;
mod limits;
mod page;

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde::Serialize;
use stratalog::storage::{FileSystem, Storage};

use crate::human;
use crate::outcome::{Failure, Outcome, Status};
use crate::ui::{self, Ui};

pub const EXAMPLES: &str = "\
Examples:
  stratalog bench /var/lib/orders
  stratalog bench --size 1024 /mnt/fast --html bench.html
  stratalog bench --json /mnt/fast | jq '.rows[] | {name, value, unit}'

Works in a directory of its own below DIR, which it removes at the end; a log in DIR is left alone. Each figure is the \
median of some rounds. Beside it stands what the machine can do at most, measured in the same run: memory copied, \
CRC-32C, files written and read through the page cache, fdatasync of a file of zeros. The machine should have nothing \
else to do.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// A directory on the disk that is to be measured.
    dir: PathBuf,
    /// How much is written and read for each figure, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(8..=65536))]
    size: u64,
    /// Write a page with the figures as a plot into this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What was measured.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bench {
    pub path: String,
    pub size_bytes: u64,
    pub limits: Vec<Limit>,
    pub rows: Vec<Row>,
}

/// What the machine can do.
#[derive(Serialize, Clone, Copy)]
pub struct Limit {
    pub name: &'static str,
    pub value: f64,
    pub unit: Unit,
}

/// What the engine does.
#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub name: &'static str,
    pub value: f64,
    pub unit: Unit,
    /// Records a second, where records are counted.
    pub records_per_second: Option<f64>,
    pub limit: &'static str,
    /// How much of the limit it reaches.
    pub of_limit: f64,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    #[serde(rename = "bytesPerSecond")]
    Rate,
    #[serde(rename = "seconds")]
    Time,
}

impl Unit {
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::Rate => format!("{}/s", human::size(value as u64)),
            Unit::Time => format!("{:.1} µs", value * 1e6),
        }
    }
}

/// Where and how much.
pub struct Bounds<'a> {
    dir: &'a Path,
    bytes: u64,
    bar: &'a ProgressBar,
}

/// Files of this many times the size are there at once, at most.
const FILES: u64 = 6;

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let bytes = args.size << 20;
    let problem = |error: std::io::Error| Failure::misuse(format!("{}: {error}", args.dir.display()));
    if !fs::metadata(&args.dir).map_err(problem)?.is_dir() {
        return Err(Failure::misuse(format!("{}: not a directory", args.dir.display())));
    }
    let free = FileSystem::new().free_space(&args.dir).map_err(problem)?;
    let needed = FILES * bytes + (256 << 20);
    if free < needed {
        let (free, needed) = (human::size(free), human::size(needed));
        return Err(Failure::misuse(format!(
            "{}: {free} are free, {needed} are needed; --size takes less",
            args.dir.display()
        )));
    }
    let scratch = tempfile::Builder::new().prefix(".stratalog-bench-").tempdir_in(&args.dir).map_err(problem)?;
    let bar = ui.count(limits::STEPS + engine::STEPS, "measuring");
    let bounds = Bounds { dir: scratch.path(), bytes, bar: &bar };
    let limits = limits::measure(&bounds)?;
    let rows = engine::measure(&bounds, &limits)?;
    bar.finish_and_clear();
    scratch.close().map_err(problem)?;
    let bench = Bench { path: args.dir.display().to_string(), size_bytes: bytes, limits, rows };
    if let Some(html) = &args.html {
        fs::write(html, page::page(&bench)).map_err(|error| Failure::misuse(format!("{}: {error}", html.display())))?;
    }
    ui.show(&bench, text)?;
    Ok(Status::Well)
}

fn text(bench: &Bench) -> String {
    let mut table = ui::table_of_numbers(["", "MEASURED", "RECORDS/S", "OF LIMIT", ""], &[1, 2, 3]);
    for row in &bench.rows {
        table.add_row([
            row.name.to_owned(),
            row.unit.show(row.value),
            human::optional(row.records_per_second, |rate| format!("{rate:.0}")),
            format!("{:.0} %", row.of_limit * 100.0),
            format!("of {}", row.limit),
        ]);
    }
    let mut limits = ui::table_of_numbers(["LIMIT", ""], &[1]);
    for limit in &bench.limits {
        limits.add_row([limit.name.to_owned(), limit.unit.show(limit.value)]);
    }
    format!("{}\n{}", ui::text_of(&table), ui::text_of(&limits))
}

/// The median of what some rounds took.
fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds.get(rounds.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![9.0]), 9.0);
    }
}
