//! `stratalog retain`: one pass of retention.

use std::path::PathBuf;

use serde::Serialize;
use stratalog::config::{Clock, SystemClock};

use crate::change::{self, Change, Done, State};
use crate::human;
use crate::outcome::Outcome;
use crate::target::{self, WriteArgs};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog retain /var/lib/orders
  stratalog retain /var/lib/orders orders-0

Whole segments go that are older than retention.ms or beyond retention.bytes, and those below the log start. Topics \
without either setting lose nothing. No other process may have the log open.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// A topic, or one partition of it, as orders-0. Without it all.
    #[arg(value_name = "TOPIC[-P]")]
    what: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// What retention did.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retained {
    pub segments_removed: usize,
}

impl Done for Retained {}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    let selected = target::partitions(&directory, args.what.as_deref())?;
    let Some(writable) = args.write.open(&directory, ui)? else { return change::show_none(ui) };
    let mut changes = Vec::new();
    for partition in target::open_partitions(&writable.log, &selected) {
        changes.push(Change::make(&partition, || {
            partition.retain(SystemClock.now()).map(|segments_removed| Retained { segments_removed })
        }));
    }
    change::finish(writable, changes, ui, text)
}

/// What went, in words.
pub fn text(done: &Retained, before: &State, after: &State) -> String {
    match done.segments_removed {
        0 => "no segment went".to_owned(),
        count => format!(
            "{} went, {} freed",
            human::count(count as u64, "segment", "segments"),
            human::size(before.log_bytes.saturating_sub(after.log_bytes))
        ),
    }
}
