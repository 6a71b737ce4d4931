//! The directory that a command is used on, and what of it.

use std::path::{Path, PathBuf};

use stratalog::inspect::{self, Directory, Kind, Located, PartitionDir};
use stratalog::storage::FileSystem;
use stratalog::{Log, LogConfig, Partition, RecoveryReport};

use crate::outcome::Failure;
use crate::ui::Ui;

/// What a directory is called.
pub fn kind_name(directory: &Directory) -> &'static str {
    match directory.kind {
        Kind::Ours => "stratalog",
        Kind::Kafka => "kafka",
        Kind::Neither => "empty",
    }
}

/// The path without symbolic links in it: the engine follows none by itself.
pub fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| Failure::misuse(format!("{}: {error}", path.display())))
}

/// Looks at a log directory: ours, Kafka's, or an empty one. Everything else is wrong use.
pub fn directory(path: &Path) -> Result<Directory, Failure> {
    let resolved = resolve(path)?;
    let directory = match inspect::locate(&FileSystem::new(), &resolved)? {
        Located::Log(directory) => *directory,
        Located::Partition { .. } => {
            let parent = resolved.parent().unwrap_or(&resolved).display();
            let message = format!("{}: the directory of one partition; its log is {parent}", path.display());
            return Err(Failure::misuse(message));
        }
        Located::File { .. } => return Err(Failure::misuse(format!("{}: not a directory", path.display()))),
    };
    if directory.kind == Kind::Neither && !directory.is_empty() {
        return Err(Failure::misuse(format!("{}: not a log directory", path.display())));
    }
    Ok(directory)
}

/// The partitions that are meant: of a topic, a single one, or all. In an empty directory every name stands for none.
pub fn partitions<'d>(directory: &'d Directory, what: Option<&str>) -> Result<Vec<&'d PartitionDir>, Failure> {
    let Some(what) = what else { return Ok(directory.partitions.iter().collect()) };
    let selected = directory.select(what);
    if selected.is_empty() && !directory.is_empty() {
        let message = format!("{}: no topic and no partition is named {what:?}", directory.path.display());
        return Err(Failure::misuse(message));
    }
    Ok(selected)
}

/// How a log is opened for writing by whoever does one thing and leaves.
#[derive(clap::Args, Debug, Default)]
pub struct WriteArgs {
    /// Take a directory over that Kafka wrote. It can be handed back: what is closed in good order, Kafka can open.
    #[arg(long)]
    take_over: bool,
}

/// A log that is open for writing, and what was found when it was opened.
pub struct Writable {
    pub log: Log,
    /// Whether the log was well when it was opened.
    pub is_well: bool,
}

impl WriteArgs {
    /// Opens a log for writing; `None` for an empty directory, in which nothing is made. What recovery did is noted.
    pub fn open(&self, directory: &Directory, ui: &Ui) -> Result<Option<Writable>, Failure> {
        match directory.kind {
            Kind::Neither => return Ok(None),
            Kind::Kafka => self.check_kafka(directory)?,
            Kind::Ours => {}
        }
        let log = Log::open(&directory.path, config())?;
        let is_well = note_recovery(log.recovery_report(), ui);
        Ok(Some(Writable { log, is_well }))
    }

    /// Whether a directory of Kafka's may be written to.
    pub fn check_kafka(&self, directory: &Directory) -> Result<(), Failure> {
        if directory.kind != Kind::Kafka || self.take_over {
            return Ok(());
        }
        let message = format!(
            "{}: Kafka's directory; stop its broker, and say --take-over to have it written to",
            directory.path.display()
        );
        Err(Failure::misuse(message))
    }
}

/// Nothing happens by itself meanwhile.
pub fn config() -> LogConfig {
    LogConfig::new().maintenance_interval(None)
}

/// Says what recovery did, and what it could not; whether nothing was wrong.
pub fn note_recovery(report: &RecoveryReport, ui: &Ui) -> bool {
    let mut is_well = true;
    for partition in &report.partitions {
        let name = format!("{}-{}", partition.topic, partition.partition);
        if let Some(cut) = &partition.cut {
            ui.note(&format!(
                "{name}: recovery cut {} bytes off the end of {}, kept in {}; the log ends at {}",
                cut.bytes, cut.file, cut.kept_in, cut.offset
            ));
        }
        if let Some(error) = &partition.error {
            is_well = false;
            ui.note(&format!("{name}: takes no writes: {error}"));
        }
    }
    for (topic, partition) in &report.removed {
        ui.note(&format!("{topic}-{partition}: Kafka has removed it"));
    }
    for (topic, partition, error) in &report.failed {
        is_well = false;
        ui.note(&format!("{topic}-{partition}: cannot be opened: {error}"));
    }
    is_well
}

/// The open partitions of those that are meant.
pub fn open_partitions(log: &Log, selected: &[&PartitionDir]) -> Vec<Partition> {
    selected.iter().filter_map(|dir| log.partition(&dir.topic, dir.id)).collect()
}

/// The one partition of that name, open.
pub fn open_partition(log: &Log, directory: &Directory, what: &str) -> Result<Partition, Failure> {
    let selected = partitions(directory, Some(what))?;
    let [one] = selected[..] else {
        let message = format!("{what}: a topic of {} partitions; say which, as {what}-0", selected.len());
        return Err(Failure::misuse(message));
    };
    let partition = log.partition(&one.topic, one.id);
    partition.ok_or_else(|| Failure::damage(format!("{}-{}: cannot be opened", one.topic, one.id)))
}
