//! `stratalog delete-records`: the records below an offset are given up.

use std::path::PathBuf;

use stratalog::Offset;
use stratalog::config::{Clock, SystemClock};

use super::retain::{self, Retained};
use crate::change::{self, Change};
use crate::outcome::Outcome;
use crate::target::{self, WriteArgs};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog delete-records --before 120000 /var/lib/orders orders-0

The log then starts at that offset, durably. The bytes go with the segments that lie below it as a whole. No other \
process may have the log open.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// The partition, as orders-0; a topic's name where it has only one.
    #[arg(value_name = "TOPIC-P")]
    partition: String,
    /// The first offset that stays.
    #[arg(long, value_name = "OFFSET")]
    before: u64,
    #[command(flatten)]
    write: WriteArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    target::partitions(&directory, Some(&args.partition))?;
    let Some(writable) = args.write.open(&directory, ui)? else { return change::show_none(ui) };
    let partition = target::open_partition(&writable.log, &directory, &args.partition)?;
    let change = Change::make(&partition, || {
        partition.delete_before(Offset::new(args.before))?;
        partition.retain(SystemClock.now()).map(|segments_removed| Retained { segments_removed })
    });
    drop(partition);
    change::finish(writable, vec![change], ui, retain::text)
}
