//! Follows a partition by its files, beside the owner that appends to it.

use std::path::{Path, PathBuf};

use stratalog::format::Scratch;
use stratalog::inspect::{self, Entry, FileEntry};
use stratalog::storage::{FileSystem, Storage};
use stratalog::{Error, ErrorKind, Offset, Partition, RecordBatch, RecordView};

use crate::outcome::Failure;
use crate::target;

/// A position in a partition that moves on as records come.
pub struct Follower {
    storage: FileSystem,
    dir: PathBuf,
    topic: String,
    partition: u32,
    /// Everything below has been seen.
    next: Offset,
    /// Where the next batch is looked for; `None` before the first look.
    at: Option<Place>,
    scratch: Scratch,
}

/// A byte of a file, which is known by its number: another one may get its name.
#[derive(Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    id: u64,
    position: u64,
}

impl Follower {
    /// Begins at the end of a partition of the log in this directory.
    pub fn new(log: &Path, partition: &Partition) -> Result<Follower, Failure> {
        let name = format!("{}-{}", partition.topic(), partition.id());
        Ok(Follower {
            storage: FileSystem::new(),
            dir: target::resolve(log)?.join(name),
            topic: partition.topic().to_owned(),
            partition: partition.id(),
            next: partition.offsets().end,
            at: None,
            scratch: Scratch::default(),
        })
    }

    /// Shows what has come; whether anything has.
    pub fn poll(
        &mut self,
        mut each: impl FnMut((&str, u32), &RecordView<'_>) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let files = inspect::files(&self.storage, &self.dir)?;
        let logs: Vec<(Offset, &FileEntry)> =
            files.iter().filter(|file| file.is_log()).filter_map(|file| Some((file.segment()?.0, file))).collect();
        let after = logs.partition_point(|(base, _)| *base <= self.next);
        let (Some((base, file)), following) = (logs.get(after.saturating_sub(1)), logs.get(after)) else {
            return Ok(false);
        };
        // Records were given up before they were seen.
        self.next = self.next.max(*base);
        let before = (self.next, self.at.clone());
        match self.read(&file.path, following.is_some(), &mut each) {
            Ok(()) => {}
            // A compaction has replaced it: the next look finds what it has become.
            Err(Trouble::Log(error)) if *error.kind() == ErrorKind::Io(std::io::ErrorKind::NotFound) => {
                return Ok(false);
            }
            Err(Trouble::Log(error)) => return Err(error.into()),
            Err(Trouble::Other(failure)) => return Err(failure),
        }
        if let Some((base, _)) = following {
            // The segment was sealed before it was read: there is no more in it.
            self.next = self.next.max(*base);
        }
        Ok(before != (self.next, self.at.clone()))
    }

    fn read(
        &mut self,
        path: &Path,
        is_sealed: bool,
        each: &mut impl FnMut((&str, u32), &RecordView<'_>) -> Result<(), Failure>,
    ) -> Result<(), Trouble> {
        let info = self.storage.info(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Trouble::Log(ErrorKind::Io(error.kind()).into()),
            _ => Trouble::Other(error.into()),
        })?;
        let position = match &self.at {
            Some(at) if at.path == path && at.id == info.id && at.position <= info.len => at.position,
            _ => 0,
        };
        self.at = Some(Place { path: path.to_path_buf(), id: info.id, position });
        for entry in inspect::batches_from(&self.storage, path, position)? {
            match entry? {
                Entry::Batch { position, batch } => {
                    if batch.header().next_offset() > self.next {
                        self.batch(&batch, each)?;
                        self.next = batch.header().next_offset();
                    }
                    if let Some(at) = &mut self.at {
                        at.position = position + batch.header().size as u64;
                    }
                }
                Entry::Zeros { .. } => break,
                Entry::Damage { position, why, .. } if is_sealed => {
                    let message = format!("{}, at byte {position}: {why}", path.display());
                    return Err(Trouble::Other(Failure::damage(message)));
                }
                // It may be in the middle of being written.
                Entry::Damage { .. } => break,
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        batch: &RecordBatch,
        each: &mut impl FnMut((&str, u32), &RecordView<'_>) -> Result<(), Failure>,
    ) -> Result<(), Trouble> {
        if batch.header().attributes.is_control() {
            return Ok(());
        }
        for record in batch.view().records(&mut self.scratch).map_err(Error::from)? {
            let record = record.map_err(Error::from)?;
            if record.offset >= self.next {
                each((&self.topic, self.partition), &record).map_err(Trouble::Other)?;
            }
        }
        Ok(())
    }
}

enum Trouble {
    Log(Error),
    Other(Failure),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Log(error)
    }
}
