//! `stratalog segments`: the segments of partitions, each with what is in it.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use stratalog::inspect::{self, Depth, Directory, PartitionDir, SegmentInfo};
use stratalog::storage::FileSystem;

use super::info;
use crate::human;
use crate::outcome::{Outcome, Status};
use crate::summary::{self, DeadlineSummary, Totals};
use crate::target;
use crate::ui::{self, Ui};

pub const EXAMPLES: &str = "\
Examples:
  stratalog segments /var/lib/orders
  stratalog segments /var/lib/orders orders-0
  stratalog segments --quick --json /var/lib/orders orders | jq '.segments[] | .garbageBytes'

GARBAGE is what newer records made superfluous, as of the last compaction. A segment that no compaction has looked at \
is dirty. Every record is read, unless --quick is said. Nothing is locked or written.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// A topic, or one partition of it, as orders-0.
    #[arg(value_name = "TOPIC[-P]")]
    what: Option<String>,
    /// Take the word of `state` and of digests instead of reading the records.
    #[arg(long)]
    quick: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Segments {
    segments: Vec<Segment>,
    damage: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Segment {
    topic: String,
    partition: u32,
    file: String,
    base: u64,
    /// One past the last offset.
    end: u64,
    active: bool,
    /// No compaction has looked at it.
    dirty: bool,
    #[serde(flatten)]
    totals: Totals,
    /// When it was sealed, as far as known.
    sealed_ms: Option<i64>,
    deadlines: Vec<DeadlineSummary>,
    damage: Vec<String>,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    let selected = target::partitions(&directory, args.what.as_deref())?;
    let depth = if args.quick { Depth::Known } else { Depth::Records };
    let storage = FileSystem::new();
    let mut total = 0;
    for dir in &selected {
        total += inspect::files(&storage, &dir.path)?.iter().filter(|file| file.is_log()).map(|f| f.len).sum::<u64>();
    }
    let bar = ui.bytes(total, "reading");
    let mut found = Segments { segments: Vec::new(), damage: Vec::new() };
    for dir in selected {
        let read = summary::partition(&directory, dir, depth, |segment| {
            found.segments.push(look(&directory, dir, segment));
            bar.inc(segment.log_bytes + segment.reserved_bytes);
        })?;
        let of_segments: usize = found.segments.iter().filter(|s| is_of(s, dir)).map(|s| s.damage.len()).sum();
        if read.damage.len() > of_segments {
            found.damage.extend(only_of_partition(&read.damage, &found.segments, dir));
        }
    }
    bar.finish_and_clear();
    ui.show(&found, text)?;
    let is_well = found.damage.is_empty() && found.segments.iter().all(|segment| segment.damage.is_empty());
    Ok(if is_well { Status::Well } else { Status::Damage })
}

fn is_of(segment: &Segment, dir: &PartitionDir) -> bool {
    segment.topic == dir.topic && segment.partition == dir.id
}

fn only_of_partition(damage: &[String], segments: &[Segment], dir: &PartitionDir) -> Vec<String> {
    let told = |what: &&String| !segments.iter().any(|segment| is_of(segment, dir) && segment.damage.contains(*what));
    damage.iter().filter(told).map(|what| format!("{}-{}: {what}", dir.topic, dir.id)).collect()
}

fn look(directory: &Directory, dir: &PartitionDir, segment: &SegmentInfo) -> Segment {
    let dirty = summary::is_dirty(directory, dir, segment);
    let mut totals = Totals::default();
    totals.add_segment(segment, dirty);
    let config = summary::topic_config(directory, &dir.topic);
    let deadlines = config.iter().flat_map(|config| segment.deadlines(config)).map(DeadlineSummary::new);
    Segment {
        topic: dir.topic.clone(),
        partition: dir.id,
        file: summary::file_name_of(segment),
        base: segment.base.get(),
        end: segment.end.get(),
        active: segment.is_last,
        dirty,
        totals,
        sealed_ms: segment.known.and_then(|known| summary::millis(known.sealed_at)),
        deadlines: deadlines.collect(),
        damage: summary::damage_of(segment),
    }
}

fn text(found: &Segments) -> String {
    let mut out = String::new();
    let mut rest = &found.segments[..];
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|s| (&s.topic, s.partition) == (&first.topic, first.partition)).count();
        let (of_partition, others) = rest.split_at(count);
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = writeln!(out, "{}-{}", first.topic, first.partition);
        out.push_str(&table(of_partition));
        rest = others;
    }
    if found.segments.is_empty() {
        out.push_str("no segments\n");
    }
    let damage = found.damage.iter().chain(found.segments.iter().flat_map(|segment| &segment.damage));
    out.push_str(&info::damage_text(damage, &[]));
    out
}

fn table(segments: &[Segment]) -> String {
    let headings = ["BASE", "END", "SIZE", "RECORDS", "TOMBS", "GARBAGE", "NEWEST", ""];
    let mut table = ui::table_of_numbers(headings, &[0, 1, 2, 3, 4, 5]);
    for s in segments {
        let mark = match (s.damage.is_empty(), s.active, s.dirty) {
            (false, ..) => "damaged",
            (_, true, _) => "active",
            (_, _, true) => "dirty",
            _ => "",
        };
        table.add_row([
            s.base.to_string(),
            s.end.to_string(),
            human::size(s.totals.bytes),
            info::cell(s.totals.records),
            info::cell(s.totals.tombstones),
            human::optional(s.totals.garbage_bytes, |bytes| human::percent(bytes, s.totals.log_bytes)),
            summary::second(s.totals.newest_ms),
            mark.to_owned(),
        ]);
    }
    let mut out = ui::text_of(&table);
    let mut due: Vec<(DeadlineSummary, u64)> =
        segments.iter().flat_map(|s| s.deadlines.iter().map(|deadline| (*deadline, s.base))).collect();
    due.sort();
    for (deadline, base) in due.iter().take(3) {
        let _ = writeln!(out, "due {}, segment {base}", deadline.text());
    }
    out
}
