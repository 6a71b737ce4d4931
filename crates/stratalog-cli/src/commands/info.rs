//! `stratalog info`: what a log directory holds.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use stratalog::format::file_name::RECOVERY_POINT_CHECKPOINT;
use stratalog::inspect::{Depth, Directory, Kind};

use crate::human::{self, NOTHING};
use crate::outcome::{Outcome, Status};
use crate::summary::{self, PartitionSummary, Totals};
use crate::target::{self, kind_name};
use crate::ui::{self, Ui};

pub const EXAMPLES: &str = "\
Examples:
  stratalog info /var/lib/orders
  stratalog info --json /var/lib/orders | jq '.partitions[] | {topic, end, bytes}'

Nothing is locked or written: it works beside a running owner. Of sealed segments it takes the word of `state`, so it \
is quick on logs of any size; `stratalog verify` reads everything. On a directory of Kafka's everything is read.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// Read every segment, whatever is known of it.
    #[arg(long)]
    deep: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    path: PathBuf,
    /// `stratalog`, `kafka` or `empty`.
    kind: &'static str,
    /// The identity of the log, in hexadecimal digits.
    log_id: Option<String>,
    closed_cleanly: bool,
    /// Whether Kafka has had it since stratalog left it.
    kafka_since: bool,
    topics: usize,
    totals: Totals,
    partitions: Vec<PartitionSummary>,
    /// Directories of partitions that are to be removed, or on their way.
    other_dirs: Vec<PathBuf>,
    /// Names that are neither ours nor Kafka's.
    unknown: Vec<String>,
    damage: Vec<String>,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    let info = look(directory, args.deep, ui)?;
    ui.show(&info, text)?;
    let is_well = info.damage.is_empty() && info.partitions.iter().all(|partition| partition.damage.is_empty());
    Ok(if is_well { Status::Well } else { Status::Damage })
}

fn look(directory: Directory, deep: bool, ui: &Ui) -> Result<Info, crate::outcome::Failure> {
    let depth = if deep { Depth::Records } else { Depth::Known };
    let bar = ui.count(directory.partitions.len() as u64, "partitions");
    let mut partitions = Vec::new();
    let mut totals = Totals::default();
    for dir in &directory.partitions {
        let found = summary::partition(&directory, dir, depth, |_| {})?;
        totals.add(&found.totals);
        partitions.push(found);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut names: Vec<&str> = directory.partitions.iter().map(|dir| dir.topic.as_str()).collect();
    let on_record = directory.topics.iter().flatten().flatten().filter(|topic| !topic.deleted);
    names.extend(on_record.map(|topic| topic.name.as_str()));
    names.sort_unstable();
    names.dedup();
    let topics = names.len();
    let mut damage: Vec<String> = directory.errors().iter().map(|error| error.to_string()).collect();
    damage.extend(missing(&directory));
    Ok(Info {
        kind: kind_name(&directory),
        log_id: directory.meta.as_ref().and_then(|meta| meta.as_ref().ok()).map(|meta| hex(&meta.log_id)),
        closed_cleanly: directory.closed_cleanly,
        kafka_since: directory.kafka_since,
        topics,
        totals,
        partitions,
        damage,
        path: directory.path,
        other_dirs: directory.other_dirs,
        unknown: directory.unknown,
    })
}

/// Partitions on record that have no directory; but for those that Kafka has removed since.
pub fn missing(directory: &Directory) -> Vec<String> {
    let mut found = Vec::new();
    let kafkas = directory.checkpoints.iter().find(|file| file.name == RECOVERY_POINT_CHECKPOINT);
    let kafkas = kafkas.filter(|file| directory.kafka_since && file.entries.is_ok());
    let is_removed = |name: &str, id| kafkas.is_some_and(|file| directory.checkpoint(file.name, name, id).is_none());
    if directory.kind == Kind::Ours && directory.meta.is_none() {
        found.push("the file with the identity of the log is missing".to_owned());
    }
    for topic in directory.topics.iter().flatten().flatten().filter(|topic| !topic.deleted) {
        for id in &topic.partitions {
            let is_there = directory.partitions.iter().any(|dir| dir.topic == topic.name && dir.id == *id);
            if !is_there && !is_removed(&topic.name, *id) {
                found.push(format!("{}-{id}: its directory is missing", topic.name));
            }
        }
    }
    found
}

fn text(info: &Info) -> String {
    let mut out = format!("{}\n\n", info.path.display());
    let kind = match info.kind {
        "stratalog" if info.kafka_since => "stratalog's, and Kafka had it since",
        "stratalog" => "stratalog's",
        "kafka" => "Kafka's, not taken over",
        _ => "an empty directory",
    };
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("kind", kind.to_owned());
    if info.kind != "empty" {
        if let Some(id) = &info.log_id {
            line("id", id.clone());
        }
        line("closed", if info.closed_cleanly { "in good order" } else { "no, or in use" }.to_owned());
        line(
            "topics",
            format!("{}, {}", info.topics, human::count(info.partitions.len() as u64, "partition", "partitions")),
        );
        line(
            "size",
            format!("{}, {} of it records", human::size(info.totals.bytes), human::size(info.totals.log_bytes)),
        );
        line("records", human::optional(info.totals.records, |n| n.to_string()));
        line("dirty", format!("{}, seen by no compaction yet", human::size(info.totals.dirty_bytes)));
        line("garbage", garbage(&info.totals));
    }
    if !info.other_dirs.is_empty() {
        line("on the move", human::count(info.other_dirs.len() as u64, "directory", "directories"));
    }
    if !info.unknown.is_empty() {
        line("unknown", info.unknown.join(", "));
    }
    if !info.partitions.is_empty() {
        out.push('\n');
        out.push_str(&table(&info.partitions));
    }
    out.push_str(&damage_text(info.damage.iter(), &info.partitions));
    out
}

pub fn garbage(totals: &Totals) -> String {
    let of = |bytes| format!("{} ({})", human::size(bytes), human::percent(bytes, totals.log_bytes));
    human::optional(totals.garbage_bytes, of)
}

fn table(partitions: &[PartitionSummary]) -> String {
    let headings = ["PARTITION", "START", "END", "SEGMENTS", "SIZE", "NEWEST"];
    let mut table = ui::table_of_numbers(headings, &[1, 2, 3, 4]);
    for p in partitions {
        table.add_row([
            format!("{}-{}", p.topic, p.partition),
            p.log_start.to_string(),
            p.end.to_string(),
            p.totals.segments.to_string(),
            human::size(p.totals.bytes),
            summary::second(p.totals.newest_ms),
        ]);
    }
    let mut out = ui::text_of(&table);
    let due: Vec<(&PartitionSummary, String)> =
        partitions.iter().filter_map(|p| Some((p, p.next_deadline?.text()))).collect();
    if !due.is_empty() {
        out.push_str("\nDue next\n");
        for (p, text) in due {
            let _ = writeln!(out, "  {}-{}: {text}", p.topic, p.partition);
        }
    }
    out
}

/// What is wrong, as a paragraph of its own.
pub fn damage_text<'a>(damage: impl Iterator<Item = &'a String>, partitions: &[PartitionSummary]) -> String {
    let mut out = String::new();
    for what in damage {
        let _ = writeln!(out, "  {what}");
    }
    for p in partitions {
        for what in &p.damage {
            let _ = writeln!(out, "  {}-{}: {what}", p.topic, p.partition);
        }
    }
    if out.is_empty() { out } else { format!("\nDamage\n{out}") }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// What stands where nothing is known.
pub fn cell(value: Option<u64>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}
