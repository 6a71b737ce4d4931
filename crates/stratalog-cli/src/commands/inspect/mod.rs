//! `stratalog inspect`: a page to look at.

mod look;
pub mod page;
mod parts;

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use stratalog::inspect::ScanBudget;

use crate::outcome::{Failure, Outcome, Status};
use crate::target;
use crate::text;
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog inspect /var/lib/orders --html orders.html
  stratalog inspect /var/lib/orders orders-0 --html - | ssh desk 'cat > orders.html'
  stratalog inspect --json /var/lib/orders | jq '.partitions[] | {topic, dirtyBytes}'

The page is one file that needs no network: of each partition its segments to scale along offsets and time; what of \
each is live, garbage, tombstones or dirty; how dense its indexes are; what compaction has done, as far as that is \
kept on disk; how it grew. What is not known is said.
Shares are taken from the digests that compactions leave; segments without one are read, as far as --scan allows. \
Nothing is locked or written but the page: it works beside a running owner, and on Kafka's directories.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// A topic, or one partition of it, as orders-0.
    #[arg(value_name = "TOPIC[-P]")]
    what: Option<String>,
    /// Write the page into this file; - is standard output.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Read at most so many MiB of segments that no compaction has looked at.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    scan: u64,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    if args.html.is_none() && !ui.json() {
        return Err(Failure::misuse(
            "where is the page to go? Say --html FILE, --html - for standard output, or --json",
        ));
    }
    let directory = target::directory(&args.dir)?;
    let selected = target::partitions(&directory, args.what.as_deref())?;
    let budget = ScanBudget { bytes: args.scan.saturating_mul(1 << 20), ..ScanBudget::default() };
    let log = look::log(&directory, &selected, budget, ui)?;
    for partition in &log.partitions {
        for damage in &partition.damage {
            ui.damage(&format!("{}-{}: {damage}", partition.topic, partition.partition));
        }
    }
    if let Some(html) = &args.html {
        let page = page::page(&log);
        match text::file(Some(html)) {
            Some(file) => {
                fs::write(file, page).map_err(|error| Failure::misuse(format!("{}: {error}", file.display())))?;
            }
            None => {
                let mut out = ui.stdout();
                out.write_all(page.as_bytes())?;
                out.flush()?;
            }
        }
    }
    if ui.json() {
        ui.show(&log, |_| String::new())?;
    }
    let is_well = log.partitions.iter().all(|partition| partition.damage.is_empty());
    Ok(if is_well { Status::Well } else { Status::Damage })
}
