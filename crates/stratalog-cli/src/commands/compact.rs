//! `stratalog compact`: one compaction of each partition that is meant.

use std::path::PathBuf;

use serde::Serialize;
use stratalog::config::{Clock, SystemClock};
use stratalog::{Cleanup, CompactMode, CompactionReport, Partition};

use crate::change::{self, Change, State};
use crate::human;
use crate::outcome::{Failure, Outcome};
use crate::summary::millis;
use crate::target::{self, WriteArgs};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog compact /var/lib/orders
  stratalog compact --full /var/lib/orders prices-3

Without --full it does what is due by the topic's configuration; with it the active segment is sealed first, so that \
everything appended so far counts. Topics whose cleanup.policy is `delete` are left out. No other process may have the \
log open.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// A topic, or one partition of it, as orders-0. Without it all.
    #[arg(value_name = "TOPIC[-P]")]
    what: Option<String>,
    /// Seal the active segment first.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Compacted {
    segments_rewritten: usize,
    segments_written: usize,
    digests_built: usize,
    bytes_read: u64,
    bytes_written: u64,
    bytes_freed: u64,
    tombstones_removed: u64,
    /// Segments that are damaged, and were left alone.
    damaged: Vec<String>,
    /// Who keeps tombstones from going.
    held_by: Option<String>,
    next_deadline_ms: Option<i64>,
    /// There is more to do.
    unfinished: bool,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    let selected = target::partitions(&directory, args.what.as_deref())?;
    let Some(writable) = args.write.open(&directory, ui)? else { return change::show_none(ui) };
    let partitions = target::open_partitions(&writable.log, &selected);
    let (compacted, left_out): (Vec<Partition>, Vec<Partition>) =
        partitions.into_iter().partition(|partition| partition.config().cleanup != Cleanup::Delete);
    if compacted.is_empty() && args.what.is_some() {
        writable.log.close()?;
        let message = format!("{}: not compacted: its cleanup.policy is `delete`", args.what.as_deref().unwrap_or(""));
        return Err(Failure::misuse(message));
    }
    if !left_out.is_empty() {
        let count = human::count(left_out.len() as u64, "partition is", "partitions are");
        ui.note(&format!("{count} not of a compacted topic"));
    }
    let mode = if args.full { CompactMode::Full } else { CompactMode::Due };
    let bar = ui.bytes(compacted.iter().map(|partition| partition.stats().bytes).sum(), "compacting");
    let changes: Vec<Change<Compacted>> = compacted
        .iter()
        .map(|partition| {
            let bytes = partition.stats().bytes;
            let change = Change::make(partition, || compact(partition, mode));
            bar.inc(bytes);
            change
        })
        .collect();
    bar.finish_and_clear();
    drop((compacted, left_out));
    change::finish(writable, changes, ui, text)
}

/// As often as there is more to do.
fn compact(partition: &Partition, mode: CompactMode) -> stratalog::Result<Compacted> {
    const ROUNDS_MAX: usize = 100;
    let mut total = Compacted::default();
    for round in 0..ROUNDS_MAX {
        // Sealing once is enough.
        let mode = if round == 0 { mode } else { CompactMode::Due };
        let report = partition.compact(SystemClock.now(), mode)?;
        let goes_on = report.unfinished && !report.is_idle();
        total.add(report);
        if !goes_on {
            break;
        }
    }
    Ok(total)
}

impl Compacted {
    fn add(&mut self, report: CompactionReport) {
        self.segments_rewritten += report.segments_rewritten;
        self.segments_written += report.segments_written;
        self.digests_built += report.digests_built;
        self.bytes_read += report.bytes_read;
        self.bytes_written += report.bytes_written;
        self.bytes_freed += report.bytes_freed;
        self.tombstones_removed += report.tombstones_removed;
        self.damaged = report.damaged.iter().map(ToString::to_string).collect();
        self.held_by = report.held_by.map(|(name, offset)| format!("{name} at {offset}"));
        self.next_deadline_ms = report.next_deadline.and_then(millis);
        self.unfinished = report.unfinished;
    }
}

fn text(done: &Compacted, before: &State, after: &State) -> String {
    let mut out = if done.segments_rewritten == 0 {
        "nothing to compact".to_owned()
    } else {
        format!(
            "{} rewritten as {}, {} freed, {} read, {} written",
            human::count(done.segments_rewritten as u64, "segment", "segments"),
            done.segments_written,
            human::size(before.log_bytes.saturating_sub(after.log_bytes)),
            human::size(done.bytes_read),
            human::size(done.bytes_written)
        )
    };
    if done.tombstones_removed > 0 {
        out.push_str(&format!(", {} removed", human::count(done.tombstones_removed, "tombstone", "tombstones")));
    }
    if let Some(who) = &done.held_by {
        out.push_str(&format!("; tombstones are held by {who}"));
    }
    if let Some(at) = done.next_deadline_ms {
        out.push_str(&format!("; more is due at {}", human::second(stratalog::Timestamp::from_millis(at))));
    }
    if done.unfinished {
        out.push_str("; not finished, run it again");
    }
    for what in &done.damaged {
        out.push_str(&format!("\n  left alone: {what}"));
    }
    out
}

impl change::Done for Compacted {
    fn found_damage(&self) -> bool {
        !self.damaged.is_empty()
    }
}
