//! `stratalog verify`: everything that can be checked without changing a byte.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stratalog::inspect::{self, Directory, Kind};
use stratalog::storage::FileSystem;
use stratalog::{Error, Finding, Log, Severity};

use super::flip::{self, Flipped};
use super::info;
use crate::human;
use crate::outcome::{Failure, Outcome, Status};
use crate::target;
use crate::ui::{self, Ui};

pub const EXAMPLES: &str = "\
Examples:
  stratalog verify /var/lib/orders
  stratalog verify --json /var/lib/orders | jq '.partitions[].findings[]'
  stratalog verify --flip 1000 --seed 7 /var/lib/orders

Every batch and record is read, and checked against the indexes, snapshots, digests and `state`. Nothing is locked or \
written; beside a running owner, what it is writing at that moment may look torn.

--flip puts the engine to the test, not the directory: in a copy it changes single bytes, one at a time, opens and \
reads everything, for reading and for writing, and compares with what was read before. A read may answer the same as \
before, or an error, or end early with the cut told of. Panics and silently wrong reads must both be 0. Of Kafka's \
checkpoint files, which have no checksum, a changed number that is still one cannot be told; those are counted apart. \
The copies need twice the room of the directory, below $TMPDIR.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// Change N single bytes of a copy, one at a time, and see that no read is silently wrong.
    #[arg(long, value_name = "N")]
    flip: Option<u64>,
    /// Where the random numbers of --flip start: the same seed changes the same bytes.
    #[arg(long, value_name = "SEED", default_value_t = 1, requires = "flip")]
    seed: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    path: PathBuf,
    kind: &'static str,
    partitions: Vec<Partition>,
    /// What is wrong with the log itself.
    findings: Vec<Found>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flip: Option<Flipped>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    topic: String,
    partition: u32,
    segments: usize,
    bytes: u64,
    batches: u64,
    records: u64,
    /// Batches of a codec that this build leaves out.
    undecoded: u64,
    index_entries: u64,
    snapshots: usize,
    unknown_files: usize,
    findings: Vec<Found>,
    findings_left_off: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    /// `data` where records are concerned, `cache` for a file that is rebuilt when it is needed.
    severity: &'static str,
    path: Option<PathBuf>,
    position: Option<u64>,
    what: String,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    let mut verified = check(&directory, ui)?;
    if let Some(count) = args.flip.filter(|_| directory.kind != Kind::Neither) {
        verified.flip = Some(flip::run(&directory, count, args.seed, ui)?);
    }
    ui.show(&verified, text)?;
    Ok(if verified.is_well() { Status::Well } else { Status::Damage })
}

fn check(directory: &Directory, ui: &Ui) -> Result<Verified, Failure> {
    refuse_denied(&directory.path)?;
    directory.partitions.iter().try_for_each(|dir| refuse_denied(&dir.path))?;
    let mut verified = Verified {
        path: directory.path.clone(),
        kind: target::kind_name(directory),
        partitions: Vec::new(),
        findings: directory.errors().into_iter().map(Found::error).collect(),
        flip: None,
    };
    verified.findings.extend(info::missing(directory).into_iter().map(|what| Found::data(None, what)));
    if directory.kind == Kind::Neither {
        return Ok(verified);
    }
    let log = match Log::open_read_only(&directory.path) {
        Ok(log) => log,
        // What makes it so was found above, or else this says it.
        Err(error) if verified.findings.is_empty() => return Err(error.into()),
        Err(_) => return Ok(verified),
    };
    for (topic, id, error) in &log.recovery_report().failed {
        let known = verified.findings.iter().any(|found| found.what.starts_with(&format!("{topic}-{id}: ")));
        if !known {
            verified.findings.push(Found::data(None, format!("{topic}-{id}: {error}")));
        }
    }
    let storage = FileSystem::new();
    let bytes_of = |dir: &inspect::PartitionDir| -> u64 {
        let files = inspect::files(&storage, &dir.path).unwrap_or_default();
        files.iter().filter(|file| file.is_log()).map(|file| file.len).sum()
    };
    let bar = ui.bytes(directory.partitions.iter().map(bytes_of).sum(), "verifying");
    for dir in &directory.partitions {
        if let Some(partition) = log.partition(&dir.topic, dir.id) {
            verified.partitions.push(partition_report(&partition)?);
        }
        bar.inc(bytes_of(dir));
    }
    bar.finish_and_clear();
    Ok(verified)
}

/// What may not be read is neither well nor damaged. Other errors come up where the file is read.
fn refuse_denied(dir: &Path) -> Result<(), Failure> {
    for file in inspect::files(&FileSystem::new(), dir)? {
        match File::open(&file.path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Failure::misuse(format!("{}: {error}", file.path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn partition_report(partition: &stratalog::Partition) -> Result<Partition, Failure> {
    let report = partition.verify()?;
    let mut findings: Vec<Found> = report.findings.iter().map(Found::new).collect();
    // Why it could not be opened in good order, where that is not the same again.
    if let Some(error) = partition.stats().error
        && !findings.iter().any(|found| found.severity == "data")
    {
        findings.push(Found::error(&error));
    }
    Ok(Partition {
        topic: partition.topic().to_owned(),
        partition: partition.id(),
        segments: report.segments,
        bytes: report.bytes,
        batches: report.batches,
        records: report.records,
        undecoded: report.undecoded,
        index_entries: report.index_entries,
        snapshots: report.snapshots,
        unknown_files: report.unknown_files,
        findings,
        findings_left_off: report.findings_left_off,
    })
}

impl Verified {
    fn is_well(&self) -> bool {
        self.findings.is_empty()
            && self.partitions.iter().all(|partition| partition.findings.is_empty())
            && self.flip.as_ref().is_none_or(Flipped::is_well)
    }
}

impl Found {
    fn new(finding: &Finding) -> Found {
        let severity = match finding.severity {
            Severity::Cache => "cache",
            Severity::Data => "data",
        };
        Found { severity, path: Some(finding.path.clone()), position: finding.position, what: finding.what.clone() }
    }

    fn error(error: &Error) -> Found {
        Found {
            severity: "data",
            path: error.path().map(PathBuf::from),
            position: error.position(),
            what: error.kind().to_string(),
        }
    }

    fn data(path: Option<PathBuf>, what: String) -> Found {
        Found { severity: "data", path, position: None, what }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        if let Some(path) = &self.path {
            let _ = write!(out, "{}", path.display());
            if let Some(position) = self.position {
                let _ = write!(out, ", at byte {position}");
            }
            out.push_str(": ");
        }
        out.push_str(&self.what);
        if self.severity == "cache" {
            out.push_str(" (rebuilt when it is needed)");
        }
        out
    }
}

fn text(verified: &Verified) -> String {
    let mut out = format!("{}\n\n", verified.path.display());
    if !verified.partitions.is_empty() {
        let headings = ["PARTITION", "SEGMENTS", "BATCHES", "RECORDS", "SIZE", "FINDINGS"];
        let mut table = ui::table_of_numbers(headings, &[1, 2, 3, 4, 5]);
        for p in &verified.partitions {
            table.add_row([
                format!("{}-{}", p.topic, p.partition),
                p.segments.to_string(),
                p.batches.to_string(),
                p.records.to_string(),
                human::size(p.bytes),
                (p.findings.len() as u64 + p.findings_left_off).to_string(),
            ]);
        }
        let _ = writeln!(out, "{}", ui::text_of(&table));
    }
    for found in verified.findings.iter().chain(verified.partitions.iter().flat_map(|p| &p.findings)) {
        let _ = writeln!(out, "{}: {}", found.severity, found.text());
    }
    for p in verified.partitions.iter().filter(|p| p.findings_left_off > 0) {
        let _ = writeln!(out, "{}-{}: {} findings more", p.topic, p.partition, p.findings_left_off);
    }
    let undecoded: u64 = verified.partitions.iter().map(|p| p.undecoded).sum();
    if undecoded > 0 {
        let _ = writeln!(out, "{undecoded} batches are of a codec that this build leaves out");
    }
    if let Some(flipped) = &verified.flip {
        out.push_str(&flipped.text());
    }
    let what = if verified.is_well() { "all is well" } else { "damage was found" };
    let _ = writeln!(out, "{what}");
    out
}
