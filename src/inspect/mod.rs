//! Looking into a directory without opening it: for tools that show what is there, damaged or not.
//!
//! Nothing is locked, recovered, repaired or written, so it works beside a running owner, and on what no owner can
//! open. What a running owner is writing at that moment may look torn. Everything is read piece by piece, and nothing
//! is allocated on the word of bytes that were not checked.
//!
//! ```
//! use stratalog::inspect::{self, Entry};
//! use stratalog::storage::FileSystem;
//! use stratalog::{Log, LogConfig, Record, TopicConfig};
//!
//! # fn main() -> stratalog::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let log = Log::open(dir.path(), LogConfig::new().min_free_bytes(0))?;
//! # log.create_topic("orders", 1, TopicConfig::new())?.append(Record::new("key", "value"))?;
//! # log.close()?;
//! let storage = FileSystem::new();
//! let directory = inspect::open_in(&storage, dir.path())?;
//! for partition in &directory.partitions {
//!     for file in inspect::files(&storage, &partition.path)?.iter().filter(|file| file.is_log()) {
//!         for entry in inspect::batches(&storage, &file.path)? {
//!             match entry? {
//!                 Entry::Batch { position, batch } => println!("{position}: {} records", batch.header().count),
//!                 Entry::Zeros { position, .. } => println!("{position}: reserved space"),
//!                 Entry::Damage { position, why, .. } => println!("{position}: {why}"),
//!             }
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod batches;
mod digest;
mod entries;
mod locate;
mod segments;
mod shares;

use std::path::{Path, PathBuf};

use crate::catalog::Catalog;
use crate::catalog::ownership::{Last, Signs};
use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::format::file_name::{self, ParsedDir, ParsedName, SegmentFileKind, Suffix};
use crate::format::state::decode_slot;
use crate::format::{
    EpochCheckpoint, FormatError, Meta, OffsetCheckpoint, ProducerSnapshotEntry, State, TopicId, Usage, checkpoint,
    partition_metadata, snapshot as snapshot_format,
};
use crate::offset::Offset;
use crate::storage::{FileKind, FileSystem, Storage, small_file};

pub use self::batches::{Batches, Entry, batches, batches_from};
pub use self::digest::{DigestFile, digest};
pub use self::entries::{IndexEntries, aborted_transactions, offset_index, time_index};
pub use self::locate::{Content, Located, locate};
pub use self::segments::{Damage, Deadline, Depth, Due, SegmentInfo, segments};
pub use self::shares::{Count, ScanBudget, Shares, shares};

/// A larger file that is read whole is none of ours, nor Kafka's.
const WHOLE_MAX: u64 = 1 << 30;

/// Whose a directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// This engine wrote into it.
    Ours,
    /// Kafka's, and never ours.
    Kafka,
    /// Neither: no name in it is known.
    Neither,
}

/// A log directory as it lies there. What cannot be read has its error in its place.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub kind: Kind,
    /// Identity and version; `None` when the file is not there.
    pub meta: Option<Result<Meta>>,
    /// The topics on record, in order of their names; `None` when the file is not there.
    pub topics: Option<Result<Vec<TopicInfo>>>,
    /// Kafka's checkpoint files that are there.
    pub checkpoints: Vec<CheckpointFile>,
    /// Whether it was closed in good order, by us or by Kafka.
    pub closed_cleanly: bool,
    /// Whether Kafka has had it since this engine left it, so that opening it takes it over again: what the `state`
    /// files say of segments is what was, not what is.
    pub kafka_since: bool,
    /// The partitions' directories, by topic and number.
    pub partitions: Vec<PartitionDir>,
    /// Directories of partitions that are to be removed, or that are on their way in Kafka.
    pub other_dirs: Vec<PathBuf>,
    /// Names that are neither ours nor Kafka's.
    pub unknown: Vec<String>,
}

/// A topic on record.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: TopicId,
    /// The numbers of the partitions that are here.
    pub partitions: Vec<u32>,
    /// Its configuration, under Kafka's keys where there are such.
    pub config: Vec<(&'static str, String)>,
    /// It is deleted; its directories go when the log is opened next.
    pub deleted: bool,
    /// It was taken over and has no configuration yet.
    pub adopted: bool,
}

/// One of Kafka's checkpoint files in a log directory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckpointFile {
    /// Its name.
    pub name: &'static str,
    /// An offset for each partition.
    pub entries: Result<Vec<OffsetCheckpoint>>,
}

/// The directory of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PartitionDir {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub id: u32,
    /// Where it is.
    pub path: PathBuf,
}

/// A file in a partition's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What the name stands for; `None` for a name that is not ours, nor Kafka's.
    pub parsed: Option<ParsedName>,
    /// Its length in bytes.
    pub len: u64,
}

/// A `state` file, slot by slot.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct StateFile {
    /// Of each slot its sequence number and content.
    pub slots: [std::result::Result<(u64, State), FormatError>; 2],
}

impl Directory {
    /// What the topic of that name has on record.
    pub fn topic(&self, name: &str) -> Option<&TopicInfo> {
        self.topics.as_ref()?.as_ref().ok()?.iter().find(|topic| topic.name == name)
    }

    /// The configuration on record of the topic of that name.
    pub fn topic_config(&self, name: &str) -> Option<Result<TopicConfig>> {
        let topic = self.topic(name).filter(|topic| !topic.adopted)?;
        Some(TopicConfig::from_pairs(topic.config.iter().map(|(key, value)| (*key, value.as_str()))))
    }

    /// What Kafka's checkpoint file of that name, such as [`file_name::LOG_START_CHECKPOINT`], has of a partition.
    pub fn checkpoint(&self, name: &str, topic: &str, partition: u32) -> Option<Offset> {
        let file = self.checkpoints.iter().find(|file| file.name == name)?;
        let mut entries = file.entries.as_ref().ok()?.iter();
        entries.find(|entry| entry.topic == topic && entry.partition == partition).map(|entry| entry.offset)
    }

    /// The partitions of the topic of that name, or, where there is no such topic, the one whose directory has it.
    pub fn select(&self, name: &str) -> Vec<&PartitionDir> {
        let of_topic: Vec<&PartitionDir> = self.partitions.iter().filter(|dir| dir.topic == name).collect();
        if !of_topic.is_empty() {
            return of_topic;
        }
        let named = |dir: &&PartitionDir| file_name::partition_dir(&dir.topic, dir.id) == name;
        self.partitions.iter().filter(named).collect()
    }

    /// Whether there is nothing at all in it.
    pub fn is_empty(&self) -> bool {
        self.kind == Kind::Neither
            && self.partitions.is_empty()
            && self.other_dirs.is_empty()
            && self.unknown.is_empty()
    }

    /// The errors of files of the log itself that cannot be read.
    pub fn errors(&self) -> Vec<&Error> {
        let meta = self.meta.iter().filter_map(|meta| meta.as_ref().err());
        let topics = self.topics.iter().filter_map(|topics| topics.as_ref().err());
        meta.chain(topics).chain(self.checkpoints.iter().filter_map(|file| file.entries.as_ref().err())).collect()
    }
}

impl FileEntry {
    /// The base offset, kind and suffix of a segment's file.
    pub fn segment(&self) -> Option<(Offset, SegmentFileKind, Suffix)> {
        match self.parsed {
            Some(ParsedName::Segment { base, kind, suffix }) => Some((base, kind, suffix)),
            _ => None,
        }
    }

    /// What it holds, as far as its name tells; also of files in the directory of a log.
    pub fn content(&self) -> Option<Content> {
        locate::content(&self.name)
    }

    /// Whether it holds record batches and is in use.
    pub fn is_log(&self) -> bool {
        matches!(self.segment(), Some((_, SegmentFileKind::Log, Suffix::None)))
    }
}

impl StateFile {
    /// The slot that counts: the sound one with the higher sequence number.
    pub fn newest(&self) -> Option<&State> {
        let sound = self.slots.iter().filter_map(|slot| slot.as_ref().ok());
        sound.max_by_key(|(sequence, _)| *sequence).map(|(_, state)| state)
    }
}

/// Looks at a log directory on the file system.
///
/// # Errors
/// Only when the directory cannot be listed. Files that cannot be read have their error in their place.
pub fn open(dir: impl AsRef<Path>) -> Result<Directory> {
    open_in(&FileSystem::new(), dir)
}

/// [`open`] on any storage.
pub fn open_in(storage: &dyn Storage, dir: impl AsRef<Path>) -> Result<Directory> {
    let path = dir.as_ref();
    let meta = read_whole(storage, &path.join(file_name::META), Meta::decode);
    let catalog = Catalog::load(storage, path);
    let is_taken_over = catalog.as_ref().is_ok_and(|catalog| catalog.as_ref().is_some_and(|c| c.taking_over));
    let topics = catalog.map(|catalog| catalog.map(topic_infos)).transpose();
    let mut directory = Directory {
        path: path.to_path_buf(),
        kind: Kind::Neither,
        meta,
        topics,
        checkpoints: Vec::new(),
        closed_cleanly: false,
        kafka_since: is_taken_over,
        partitions: Vec::new(),
        other_dirs: Vec::new(),
        unknown: Vec::new(),
    };
    let mut entries = storage.list(path).map_err(|e| Error::io(e, path))?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let at = path.join(&entry.name);
        let name = entry.name.as_str();
        if let Some(name) = file_name::OFFSET_CHECKPOINTS.into_iter().find(|known| *known == name) {
            let entries = read_whole(storage, &at, checkpoint::parse_offsets).unwrap_or_else(|| Ok(Vec::new()));
            directory.checkpoints.push(CheckpointFile { name, entries });
            continue;
        }
        let parsed = if entry.kind == FileKind::Directory { file_name::parse_dir(name) } else { None };
        match parsed {
            Some(ParsedDir::Partition { topic, partition }) => {
                directory.partitions.push(PartitionDir { topic: topic.to_owned(), id: partition, path: at });
            }
            Some(ParsedDir::Deleted | ParsedDir::Foreign) => directory.other_dirs.push(at),
            None if name == file_name::CLEAN_SHUTDOWN => directory.closed_cleanly = true,
            None if file_name::is_in_log_dir(name) => {}
            None => directory.unknown.push(entry.name),
        }
    }
    directory.partitions.sort_by(|a, b| (&a.topic, a.id).cmp(&(&b.topic, b.id)));
    directory.kind = if directory.meta.is_some() || directory.topics.is_some() {
        Kind::Ours
    } else if !directory.checkpoints.is_empty() || has_segments(storage, &directory.partitions)? {
        Kind::Kafka
    } else {
        Kind::Neither
    };
    // What cannot be read has its error in its place.
    directory.kafka_since |= directory.kind == Kind::Ours && had_by_kafka(storage, &directory).unwrap_or(false);
    Ok(directory)
}

fn had_by_kafka(storage: &dyn Storage, directory: &Directory) -> Result<bool> {
    let is_known =
        |dir: &PartitionDir| directory.topic(&dir.topic).is_some_and(|topic| topic.partitions.contains(&dir.id));
    let partitions: Vec<_> =
        directory.partitions.iter().map(|dir| (dir.topic.as_str(), dir.id, is_known(dir))).collect();
    let signs = Signs::load(storage, &directory.path)?;
    Ok(signs.last(storage, &directory.path, &partitions)? != Last::Ours)
}

/// The files of a partition's directory, in order of their names.
pub fn files(storage: &dyn Storage, partition: &Path) -> Result<Vec<FileEntry>> {
    let mut found = Vec::new();
    for entry in storage.list(partition).map_err(|e| Error::io(e, partition))? {
        if entry.kind != FileKind::File {
            continue;
        }
        let path = partition.join(&entry.name);
        // An owner may have removed it meanwhile.
        let Ok(info) = storage.info(&path) else { continue };
        found.push(FileEntry { parsed: file_name::parse(&entry.name), name: entry.name, path, len: info.len });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The `state` of a partition; `None` when there is none.
pub fn state(storage: &dyn Storage, partition: &Path) -> Result<Option<StateFile>> {
    let bytes = small_file::read(storage, &partition.join(file_name::STATE), WHOLE_MAX)?;
    Ok(bytes.map(|bytes| state_slots(&bytes)))
}

/// The leader epochs of a partition; `None` when there is no such file.
pub fn epochs(storage: &dyn Storage, partition: &Path) -> Result<Option<Vec<EpochCheckpoint>>> {
    read_whole(storage, &partition.join(file_name::LEADER_EPOCHS), checkpoint::parse_epochs).transpose()
}

/// The id of a partition's topic; `None` when there is no such file.
pub fn topic_id(storage: &dyn Storage, partition: &Path) -> Result<Option<TopicId>> {
    read_whole(storage, &partition.join(file_name::PARTITION_METADATA), partition_metadata::parse).transpose()
}

/// The offsets in one of Kafka's checkpoint files of a log.
pub fn offset_checkpoint(storage: &dyn Storage, path: &Path) -> Result<Vec<OffsetCheckpoint>> {
    read_named(storage, path, checkpoint::parse_offsets)
}

/// The leader epochs in a file of any name.
pub fn epoch_checkpoint(storage: &dyn Storage, path: &Path) -> Result<Vec<EpochCheckpoint>> {
    read_named(storage, path, checkpoint::parse_epochs)
}

/// The id in a `partition.metadata` of any name.
pub fn metadata(storage: &dyn Storage, path: &Path) -> Result<TopicId> {
    read_named(storage, path, partition_metadata::parse)
}

/// The identity in a meta file of any name.
pub fn meta(storage: &dyn Storage, path: &Path) -> Result<Meta> {
    read_named(storage, path, Meta::decode)
}

/// Whether a log is open, by a file of any name.
pub fn usage(storage: &dyn Storage, path: &Path) -> Result<Usage> {
    read_named(storage, path, Usage::decode)
}

/// The slots of a `state` file of any name.
pub fn state_file(storage: &dyn Storage, path: &Path) -> Result<StateFile> {
    read_named(storage, path, |bytes| Ok(state_slots(bytes)))
}

/// The topics in a catalog of any name.
pub fn topics(storage: &dyn Storage, path: &Path) -> Result<Vec<TopicInfo>> {
    let catalog = Catalog::read(storage, path)?;
    catalog.map(topic_infos).ok_or_else(|| Error::io(std::io::ErrorKind::NotFound.into(), path))
}

/// The producers in a snapshot.
pub fn snapshot(storage: &dyn Storage, path: &Path) -> Result<Vec<ProducerSnapshotEntry>> {
    read_named(storage, path, snapshot_format::decode)
}

/// [`read_whole`] of a file that must be there.
fn read_named<T>(
    storage: &dyn Storage,
    path: &Path,
    decode: impl FnOnce(&[u8]) -> std::result::Result<T, FormatError>,
) -> Result<T> {
    read_whole(storage, path, decode).unwrap_or_else(|| Err(Error::io(std::io::ErrorKind::NotFound.into(), path)))
}

fn state_slots(bytes: &[u8]) -> StateFile {
    let (left, right) = bytes.split_at(bytes.len() / 2);
    StateFile { slots: [decode_slot(left), decode_slot(right)] }
}

/// Reads and decodes a small file; `None` when there is none.
fn read_whole<T>(
    storage: &dyn Storage,
    path: &Path,
    decode: impl FnOnce(&[u8]) -> std::result::Result<T, FormatError>,
) -> Option<Result<T>> {
    let bytes = match small_file::read(storage, path, WHOLE_MAX) {
        Ok(bytes) => bytes?,
        Err(error) => return Some(Err(error)),
    };
    Some(decode(&bytes).map_err(|why| Error::bad_file(path, &why)))
}

fn topic_infos(catalog: Catalog) -> Vec<TopicInfo> {
    let info = |(name, entry): (String, crate::catalog::TopicEntry)| TopicInfo {
        name,
        id: entry.id,
        config: entry.config.to_pairs(),
        partitions: entry.partitions.into_iter().collect(),
        deleted: entry.deleted,
        adopted: entry.adopted,
    };
    catalog.topics.into_iter().map(info).collect()
}

fn has_segments(storage: &dyn Storage, partitions: &[PartitionDir]) -> Result<bool> {
    for partition in partitions {
        if files(storage, &partition.path)?.iter().any(FileEntry::is_log) {
            return Ok(true);
        }
    }
    Ok(false)
}
