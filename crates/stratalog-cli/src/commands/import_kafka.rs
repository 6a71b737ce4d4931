//! `stratalog import-kafka`: a log directory of Kafka's becomes one of ours.

use std::path::PathBuf;

use serde::Serialize;
use stratalog::Log;
use stratalog::format::file_name::{CLEAN_SHUTDOWN, META_PROPERTIES, OFFSET_CHECKPOINTS, Suffix};
use stratalog::inspect::{FileEntry, Kind};

use crate::copying::{self, Copy};
use crate::human;
use crate::outcome::{Failure, Outcome, Status};
use crate::target;
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog import-kafka /var/lib/kafka /var/lib/orders
  stratalog import-kafka --in-place /var/lib/kafka

The first copies, and changes nothing in Kafka's directory; the second takes it over as it is: Kafka's files stay as \
they are, and ours come to lie beside them. Stop the broker first; that it is stopped is checked.
The topics have no configuration then, since Kafka keeps that elsewhere: nothing is compacted or given up until they \
are given one. Of a torn tail the whole batches are kept, and its bytes are put aside; the status is 1 then.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Kafka's log directory.
    from: PathBuf,
    /// The directory to make; it is absent, or empty.
    #[arg(required_unless_present = "in_place", conflicts_with = "in_place")]
    into: Option<PathBuf>,
    /// Take the directory over instead of copying it.
    #[arg(long)]
    in_place: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    path: PathBuf,
    copied_bytes: u64,
    partitions: Vec<Partition>,
    /// Directories of Kafka's that were left behind: to be removed, or on their way.
    left_behind: Vec<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    topic: String,
    partition: u32,
    log_start: u64,
    end: u64,
    /// Bytes of a torn tail, which were put aside.
    cut_bytes: u64,
    error: Option<String>,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.from)?;
    if directory.kind == Kind::Ours {
        let message = format!("{}: a log of ours already; export-kafka hands it to Kafka", args.from.display());
        return Err(Failure::misuse(message));
    }
    if directory.is_empty() {
        let path = args.into.as_ref().unwrap_or(&args.from).clone();
        let nothing = Imported { path, copied_bytes: 0, partitions: Vec::new(), left_behind: Vec::new() };
        ui.show(&nothing, |_| format!("{}: empty, nothing was made", args.from.display()))?;
        return Ok(Status::Well);
    }
    let (path, copy) = match &args.into {
        None => (directory.path.clone(), None),
        Some(into) => {
            let _guard = copying::lock(&directory)?;
            let mut copy = Copy::into(into)?;
            for name in OFFSET_CHECKPOINTS.into_iter().chain([META_PROPERTIES, CLEAN_SHUTDOWN]) {
                copy.add(&directory, name);
            }
            let deleted = |file: &FileEntry| file.segment().is_some_and(|(.., suffix)| suffix == Suffix::Deleted);
            copy.add_partitions(&directory, |file| file.parsed.is_some() && !deleted(file))?;
            copy.run(ui)?;
            (copy.path().to_path_buf(), Some(copy))
        }
    };
    let log = Log::open(&path, target::config())?;
    let is_whole = target::note_recovery(log.recovery_report(), ui);
    let is_well = is_whole && log.recovery_report().partitions.iter().all(|partition| partition.cut.is_none());
    let partitions = partitions(&log);
    log.close()?;
    let copied_bytes = copy.as_ref().map_or(0, Copy::bytes);
    let left_behind = if copy.is_some() { directory.other_dirs } else { Vec::new() };
    if let Some(copy) = copy {
        copy.finish();
    }
    ui.show(&Imported { path, copied_bytes, partitions, left_behind }, text)?;
    Ok(if is_well { Status::Well } else { Status::Damage })
}

fn partitions(log: &Log) -> Vec<Partition> {
    let report = log.recovery_report();
    let opened = report.partitions.iter().map(|found| {
        let offsets = log.partition(&found.topic, found.partition).map(|partition| partition.offsets());
        Partition {
            topic: found.topic.clone(),
            partition: found.partition,
            log_start: offsets.map_or(0, |offsets| offsets.start.get()),
            end: offsets.map_or(0, |offsets| offsets.end.get()),
            cut_bytes: found.cut.as_ref().map_or(0, |cut| cut.bytes),
            error: found.error.as_ref().map(ToString::to_string),
        }
    });
    let failed = report.failed.iter().map(|(topic, partition, error)| Partition {
        topic: topic.clone(),
        partition: *partition,
        log_start: 0,
        end: 0,
        cut_bytes: 0,
        error: Some(error.to_string()),
    });
    opened.chain(failed).collect()
}

fn text(imported: &Imported) -> String {
    let mut text = format!(
        "{}: {}",
        imported.path.display(),
        match imported.copied_bytes {
            0 => "taken over in place\n".to_owned(),
            bytes => format!("a copy of {}\n", human::size(bytes)),
        }
    );
    for Partition { topic, partition, log_start, end, error, .. } in &imported.partitions {
        text += &match error {
            None => format!("{topic}-{partition}: offsets {log_start} to {end}\n"),
            Some(_) => format!("{topic}-{partition}: damaged, offsets {log_start} to {end} can be read\n"),
        };
    }
    for dir in &imported.left_behind {
        text += &format!("left behind: {}\n", dir.display());
    }
    text
}
