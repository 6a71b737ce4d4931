//! `stratalog truncate`: the records at and above an offset are removed.

use std::path::PathBuf;

use serde::Serialize;
use stratalog::{Error, ErrorKind, Offset};

use crate::change::{self, Change, Done, State};
use crate::human;
use crate::outcome::{Failure, Outcome};
use crate::target::{self, WriteArgs};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog truncate --to 120000 /var/lib/orders orders-0

Every batch that holds an offset at or above it is removed, durably; where the offset is inside a batch the log ends \
lower. Where a compaction removed records because of ones that would go, it refuses: --lossy does it all the same, and \
some keys then have neither their old value nor their new one. No other process may have the log open.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// The partition, as orders-0; a topic's name where it has only one.
    #[arg(value_name = "TOPIC-P")]
    partition: String,
    /// The new end: the first offset that goes.
    #[arg(long, value_name = "OFFSET")]
    to: u64,
    /// Go even below what a compaction relied on.
    #[arg(long)]
    lossy: bool,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Truncated {
    end: u64,
}

impl Done for Truncated {}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    target::partitions(&directory, Some(&args.partition))?;
    let Some(writable) = args.write.open(&directory, ui)? else { return change::show_none(ui) };
    let partition = target::open_partition(&writable.log, &directory, &args.partition)?;
    let to = Offset::new(args.to);
    let change = Change::make(&partition, || {
        let end = if args.lossy { partition.truncate_lossy(to) } else { partition.truncate(to) };
        end.map(|end| Truncated { end: end.get() }).map_err(refusal)
    });
    drop(partition);
    change::finish(writable, vec![change], ui, text)
}

/// What the engine says, in the words of the command line.
fn refusal(error: Error) -> Failure {
    let ErrorKind::TruncateBelowCompacted { lowest } = error.kind() else { return error.into() };
    Failure::misuse(format!("a compaction relied on records up to {lowest}: truncate there or above, or say --lossy"))
}

fn text(done: &Truncated, before: &State, after: &State) -> String {
    if before.end == after.end {
        return format!("nothing to remove: it ends at {}", done.end);
    }
    let freed = human::size(before.log_bytes.saturating_sub(after.log_bytes));
    format!("ends at {} instead of {}, {freed} freed", done.end, before.end)
}
