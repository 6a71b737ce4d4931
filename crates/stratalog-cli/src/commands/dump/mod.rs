//! `stratalog dump`: what is in the files, as they are.

mod files;
mod records;

use std::io::{BufWriter, StdoutLock, Write};
use std::path::{Path, PathBuf};

use stratalog::format::file_name::{SegmentFileKind, Suffix};
use stratalog::inspect::{self, Content, FileEntry, Kind, Located};
use stratalog::storage::FileSystem;
use stratalog::{Error, Offset};

use crate::outcome::{Failure, Outcome, Status};
use crate::target;
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog dump /var/lib/orders
  stratalog dump --json /var/lib/orders | jq -r '.key | @base64d'
  stratalog dump /var/lib/orders/orders-0/00000000000000000000.index
  stratalog dump --from 1200 --to 1210 --whole /var/lib/orders/orders-0
  stratalog dump --batches /var/lib/kafka/events-3

PATH is a log directory, the directory of a partition, or one file: a .log, .index, .timeindex, .txnindex, .snapshot, \
.digest, `state`, a checkpoint, or a file with topics or the identity of a log. Files of any suffix can be named; in \
directories those in use are shown.

Nothing is recovered, locked or written: what a running owner is writing may look torn. Damage goes to stderr, what \
can be read behind it is shown all the same, and the exit status is 1.

With --json there is one line for each record, keys and values in base64, with the fields of its batch beside it: \
topic partition offset timestamp key value headers sequence segment position batchBaseOffset batchLastOffset \
batchCount magic producerId producerEpoch baseSequence leaderEpoch transactional control compression timestampType maxTimestamp \
deleteHorizonMs crc, and controlType and coordinatorEpoch of transaction markers. Batches without records have \
\"emptyBatch\":true instead of the record's fields. Lines of other files have `file` and `kind`.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Log directories, directories of partitions, or files.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Of directories show every file that can be read, not only the records.
    #[arg(long)]
    all: bool,
    /// Show batches without their records.
    #[arg(long)]
    batches: bool,
    /// Skip records below this offset.
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Skip records at and above this offset.
    #[arg(long, value_name = "OFFSET")]
    to: Option<u64>,
    /// Do not cut long keys and values.
    #[arg(long)]
    whole: bool,
}

/// The way through files, and what was met on it.
struct Dump<'a> {
    args: &'a Args,
    ui: &'a Ui,
    out: BufWriter<StdoutLock<'static>>,
    storage: FileSystem,
    status: Status,
    is_first: bool,
}

/// Where a file belongs.
struct Place<'a> {
    partition: Option<(&'a str, u32)>,
    file: &'a FileEntry,
    /// Whether more is written to it.
    is_last: bool,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let storage = FileSystem::new();
    let mut dump = Dump { args, ui, out: ui.stdout(), storage, status: Status::Well, is_first: true };
    for path in &args.paths {
        match dump.path(path) {
            Err(failure) if failure.is_silent() => return Err(failure),
            Err(failure) => {
                ui.failure(&failure);
                dump.status = dump.status.max(failure.status());
            }
            Ok(()) => {}
        }
    }
    dump.out.flush()?;
    Ok(dump.status)
}

impl Dump<'_> {
    fn path(&mut self, path: &Path) -> Result<(), Failure> {
        let resolved = target::resolve(path)?;
        match inspect::locate(&self.storage, &resolved)? {
            Located::Log(directory) if directory.kind == Kind::Neither && !directory.is_empty() => {
                Err(Failure::misuse(format!("{}: not a log directory", path.display())))
            }
            Located::Log(directory) => {
                if directory.is_empty() {
                    self.ui.note(&format!("{}: an empty directory", path.display()));
                }
                if self.args.all {
                    self.log_files(&resolved)?;
                }
                for dir in &directory.partitions {
                    self.partition(&dir.path, Some((&dir.topic, dir.id)))?;
                }
                Ok(())
            }
            Located::Partition { path, name } => {
                self.partition(&path, name.as_ref().map(|(topic, id)| (topic.as_str(), *id)))
            }
            Located::File { content: None, .. } => {
                Err(Failure::misuse(format!("{}: no file of a log has such a name", path.display())))
            }
            Located::File { entry, content: Some(content), partition } => {
                let partition = partition.as_ref().map(|(topic, id)| (topic.as_str(), *id));
                self.file(&Place { partition, file: &entry, is_last: true }, content)
            }
        }
    }

    /// The files of a log that are no partition's.
    fn log_files(&mut self, dir: &Path) -> Result<(), Failure> {
        for file in inspect::files(&self.storage, dir)? {
            if let Some(content) = file.content() {
                self.file(&Place { partition: None, file: &file, is_last: false }, content)?;
            }
        }
        Ok(())
    }

    fn partition(&mut self, dir: &Path, partition: Option<(&str, u32)>) -> Result<(), Failure> {
        let files = match inspect::files(&self.storage, dir) {
            Ok(files) => files,
            Err(error) => return self.unreadable(error),
        };
        if !self.ui.json() {
            let name = partition.map(|(topic, id)| format!("{topic}-{id}"));
            self.heading(&name.unwrap_or_else(|| dir.display().to_string()))?;
        }
        let last = files.iter().rposition(FileEntry::is_log);
        let mut not_in_use = 0;
        for (at, file) in files.iter().enumerate() {
            let Some(content) = file.content() else { continue };
            let in_use = file.segment().is_none_or(|(.., suffix)| suffix == Suffix::None);
            let wanted = self.args.all || file.is_log();
            not_in_use += usize::from(!in_use);
            if in_use && wanted {
                self.file(&Place { partition, file, is_last: Some(at) == last }, content)?;
            }
        }
        if not_in_use > 0 && !self.ui.json() {
            let text = format!("{}: {not_in_use} files not in use are left out; name them to see them", dir.display());
            self.ui.note(&text);
        }
        Ok(())
    }

    fn file(&mut self, place: &Place<'_>, content: Content) -> Result<(), Failure> {
        if !self.ui.json() {
            writeln!(self.out, "{}", place.file.name)?;
        }
        let shown = match content {
            Content::Segment { kind: SegmentFileKind::Log, base, .. } => self.log(place, base),
            content => self.entries(place, content),
        };
        match shown {
            Err(Shown::Unreadable(error)) => self.unreadable(error),
            Err(Shown::NoOutput(failure)) => Err(failure),
            Ok(()) => Ok(()),
        }
    }

    fn heading(&mut self, name: &str) -> Result<(), Failure> {
        let blank = if self.is_first { "" } else { "\n" };
        self.is_first = false;
        Ok(writeln!(self.out, "{blank}{name}")?)
    }

    /// A file that cannot be read is told of, and the next one is shown.
    fn unreadable(&mut self, error: Error) -> Result<(), Failure> {
        // What was shown before comes first.
        self.out.flush()?;
        let failure = Failure::from(error);
        self.ui.damage(&failure.to_string());
        self.status = self.status.max(failure.status());
        Ok(())
    }

    /// Damage is told of, and what follows it is shown.
    fn damage(&mut self, place: &Place<'_>, position: u64, what: &str) -> Result<(), Failure> {
        self.out.flush()?;
        self.ui.damage(&format!("{}, at byte {position}: {what}", place.file.path.display()));
        self.status = self.status.max(Status::Damage);
        Ok(())
    }

    fn is_wanted(&self, offset: Offset) -> bool {
        self.args.from.is_none_or(|from| offset.get() >= from) && self.args.to.is_none_or(|to| offset.get() < to)
    }
}

/// Why a file is shown no further.
enum Shown {
    Unreadable(Error),
    NoOutput(Failure),
}

impl From<Error> for Shown {
    fn from(error: Error) -> Shown {
        Shown::Unreadable(error)
    }
}

impl From<Failure> for Shown {
    fn from(failure: Failure) -> Shown {
        Shown::NoOutput(failure)
    }
}

impl From<std::io::Error> for Shown {
    fn from(error: std::io::Error) -> Shown {
        Shown::NoOutput(error.into())
    }
}

impl From<serde_json::Error> for Shown {
    fn from(error: serde_json::Error) -> Shown {
        Shown::NoOutput(error.into())
    }
}
