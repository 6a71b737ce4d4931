//! What a path leads to, for tools that are handed one.

use std::path::{Path, PathBuf};

use super::{Directory, FileEntry, files, open_in};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, ParsedDir, ParsedName, SegmentFileKind, Suffix};
use crate::offset::Offset;
use crate::storage::{FileKind, Storage};

/// What a path leads to.
#[derive(Clone, Debug)]
pub enum Located {
    /// A directory that is no partition's: of a log, an empty one, or neither, as its [`kind`](Directory::kind) says.
    Log(Box<Directory>),
    /// The directory of a partition.
    Partition {
        /// Where it is.
        path: PathBuf,
        /// Topic and number; `None` when it has another name.
        name: Option<(String, u32)>,
    },
    /// A file.
    File {
        /// The file.
        entry: FileEntry,
        /// What it holds, as far as its name tells; `None` for a name that is not ours, nor Kafka's.
        content: Option<Content>,
        /// Topic and number of the partition whose directory it is in.
        partition: Option<(String, u32)>,
    },
}

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Content {
    /// Batches, entries of an index, producers or keys of a segment.
    Segment {
        /// The segment's base offset.
        base: Offset,
        /// What of it.
        kind: SegmentFileKind,
        /// How far it is on its way in or out.
        suffix: Suffix,
    },
    /// The two ends of a partition.
    State,
    /// The leader epochs of a partition.
    LeaderEpochs,
    /// The id of a partition's topic.
    PartitionMetadata,
    /// An offset for each partition of a log.
    OffsetCheckpoint,
    /// The identity of a log.
    Meta,
    /// The topics of a log.
    Topics,
    /// Whether a log is open.
    Usage,
}

/// Finds out what a path leads to. Of a file only the name and the length are looked at.
///
/// # Errors
/// When there is nothing, or it cannot be looked at; [`ErrorKind::NotALog`] for what is neither a directory nor a
/// regular file. A symbolic link is such: resolve it first.
pub fn locate(storage: &dyn Storage, path: &Path) -> Result<Located> {
    let info = storage.info(path).map_err(|e| Error::io(e, path))?;
    match info.kind {
        FileKind::File => Ok(locate_file(path, info.len)),
        FileKind::Directory if is_partition(storage, path)? => {
            Ok(Located::Partition { path: path.to_path_buf(), name: partition_name(path) })
        }
        FileKind::Directory => open_in(storage, path).map(|directory| Located::Log(Box::new(directory))),
        _ => Err(Error::from(ErrorKind::NotALog).at_path(path)),
    }
}

/// What a file of this name holds; the one that is about to replace it holds the same.
pub(super) fn content(name: &str) -> Option<Content> {
    match file_name::parse(name) {
        Some(ParsedName::Segment { base, kind, suffix }) => return Some(Content::Segment { base, kind, suffix }),
        Some(ParsedName::State | ParsedName::StateTemp) => return Some(Content::State),
        _ => {}
    }
    match file_name::replaces(name) {
        file_name::LEADER_EPOCHS => Some(Content::LeaderEpochs),
        file_name::PARTITION_METADATA => Some(Content::PartitionMetadata),
        file_name::META => Some(Content::Meta),
        file_name::TOPICS => Some(Content::Topics),
        file_name::USE => Some(Content::Usage),
        name if file_name::OFFSET_CHECKPOINTS.contains(&name) => Some(Content::OffsetCheckpoint),
        _ => None,
    }
}

fn locate_file(path: &Path, len: u64) -> Located {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let entry = FileEntry { parsed: file_name::parse(&name), path: path.to_path_buf(), len, name };
    let partition = path.parent().and_then(partition_name);
    Located::File { content: entry.content(), partition, entry }
}

fn is_partition(storage: &dyn Storage, path: &Path) -> Result<bool> {
    Ok(files(storage, path)?.iter().any(|file| file.parsed.is_some()))
}

fn partition_name(dir: &Path) -> Option<(String, u32)> {
    match file_name::parse_dir(dir.file_name()?.to_str()?)? {
        ParsedDir::Partition { topic, partition } => Some((topic.to_owned(), partition)),
        ParsedDir::Deleted | ParsedDir::Foreign => None,
    }
}
