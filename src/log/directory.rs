//! The directories of a log and of its partitions: recognizing, creating and removing them.

use std::io;
use std::path::Path;

use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, LOCK, META, ParsedDir, ParsedName, SegmentFileKind, Suffix};
use crate::format::{Meta, TopicId, partition_metadata};
use crate::offset::Offset;
use crate::partition::resources::Resources;
use crate::partition::state_file::StateFile;
use crate::storage::{FileKind, OpenMode, Storage, small_file};
use crate::sync::Arc;

/// A partition's directory, and the topic it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) topic: String,
    pub(super) id: u32,
}

/// The content of a directory that is named like a partition but is not in the catalog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// A partition.
    Partition,
    /// The remains of a creation that did not commit: our files, without a record. They may be removed.
    Unfinished,
    /// Something else. It is left alone.
    Foreign,
}

/// Creates the directory if it is absent. Refuses a directory with other content, and leaves it untouched.
pub(crate) fn check_directory(storage: &dyn Storage, dir: &Path) -> Result<()> {
    match storage.info(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_dirs(storage, dir)?;
            return settle_dirs(storage, dir);
        }
        Err(e) => return Err(Error::io(e, dir)),
        Ok(info) if info.kind != FileKind::Directory => return Err(Error::from(ErrorKind::NotALog).at_path(dir)),
        Ok(_) => {}
    }
    if !is_log(storage, dir)? {
        return Err(Error::from(ErrorKind::NotALog).at_path(dir));
    }
    let begun = storage.info(&dir.join(META)).is_ok();
    if begun { Ok(()) } else { settle_dirs(storage, dir) }
}

/// Creates the directory of a partition with its first segment and its `state`. The partition exists only once the
/// catalog lists it.
pub(crate) fn make_partition(
    resources: &Arc<Resources>,
    dir: &Path,
    topic: &str,
    id: u32,
    topic_id: TopicId,
) -> Result<()> {
    let storage = &resources.storage;
    let path = dir.join(file_name::partition_dir(topic, id));
    match storage.create_dir(&path) {
        // Left over from a failed creation: nothing in it was ever acknowledged.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if content(&**storage, &path)? != Content::Unfinished {
                return Err(Error::from(ErrorKind::AlreadyExists).at_path(&path));
            }
            remove_dir(&**storage, &path)?;
            storage.create_dir(&path).map_err(|e| Error::io(e, &path))?;
        }
        made => made.map_err(|e| Error::io(e, &path))?,
    }
    let dir = resources.partition_dir(path);
    let metadata = partition_metadata::write(topic_id);
    small_file::write_new(&**storage, &dir.file_path(file_name::PARTITION_METADATA), metadata.as_bytes())?;
    // `state` first: a directory with a log and no `state` would look like one that another program put there.
    StateFile::load(&dir)?.1.update(|_| ())?;
    let log = dir.segment_path(Offset::ZERO, SegmentFileKind::Log, Suffix::None);
    storage.open(&log, OpenMode::CreateNew).map_err(|e| Error::io(e, &log))?;
    dir.sync_dir()
}

/// Removes the directories of deleted topics and partitions, then removes these topics and partitions from the catalog.
/// The caller stores the catalog.
pub(crate) fn remove_deleted(storage: &dyn Storage, dir: &Path, catalog: &mut Catalog) -> Result<()> {
    if !catalog.topics.values().any(|entry| entry.deleted || !entry.leaving.is_empty()) {
        return Ok(());
    }
    for (name, entry) in &catalog.topics {
        for id in entry.partitions.union(&entry.leaving).filter(|id| entry.has_deleted(**id)) {
            let path = dir.join(file_name::partition_dir(name, *id));
            let gone = dir.join(file_name::deleted_partition_dir(name, *id, entry.id.bits()));
            match storage.rename(&path, &gone) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(e, &path)),
                _ => {}
            }
            remove_dir(storage, &gone)?;
        }
    }
    storage.sync_dir(dir).map_err(|e| Error::io(e, dir))?;
    catalog.topics.retain(|_, entry| !entry.deleted);
    catalog.topics.values_mut().for_each(|entry| entry.leaving.clear());
    Ok(())
}

/// Returns a random id for a topic.
pub(crate) fn new_topic_id(storage: &dyn Storage) -> Result<TopicId> {
    Ok(TopicId::new(u128::from_be_bytes(random(storage)?)))
}

pub(super) fn random<const N: usize>(storage: &dyn Storage) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    storage.fill_random(&mut bytes).map_err(|e| Error::from(ErrorKind::Io(e.kind())))?;
    Ok(bytes)
}

pub(super) fn create_dirs(storage: &dyn Storage, dir: &Path) -> Result<()> {
    let parent = parent(dir);
    if let Some(parent) = parent
        && storage.info(parent).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    {
        create_dirs(storage, parent)?;
    }
    storage.create_dir(dir).map_err(|e| Error::io(e, dir))?;
    parent.map_or(Ok(()), |parent| storage.sync_dir(parent).map_err(|e| Error::io(e, parent)))
}

/// Makes the names of a directory and of its parents durable: the process that created them may have been killed before
/// the sync. A parent that we have no permission to read was not created by us.
pub(super) fn settle_dirs(storage: &dyn Storage, dir: &Path) -> Result<()> {
    let mut dir = dir;
    while let Some(parent) = parent(dir) {
        match storage.sync_dir(parent) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            synced => synced.map_err(|e| Error::io(e, parent))?,
        }
        dir = parent;
    }
    Ok(())
}

/// Returns the parent directory. For a bare name this is the current directory.
pub(super) fn parent(dir: &Path) -> Option<&Path> {
    let parent = dir.parent()?;
    let bare = parent.as_os_str().is_empty();
    if bare { (dir != Path::new(".")).then(|| Path::new(".")) } else { Some(parent) }
}

/// Returns whether a directory is a log, ours or Kafka's, or empty.
pub(super) fn is_log(storage: &dyn Storage, dir: &Path) -> Result<bool> {
    let entries = storage.list(dir).map_err(|e| Error::io(e, dir))?;
    let known = |name: &str| {
        [META, file_name::TOPICS].contains(&name)
            || [
                file_name::LOG_START_CHECKPOINT,
                file_name::RECOVERY_POINT_CHECKPOINT,
                file_name::REPLICATION_CHECKPOINT,
                file_name::CLEANER_CHECKPOINT,
            ]
            .contains(&name)
    };
    // The files that an interrupted first open leaves.
    let begun = [LOCK.to_owned(), file_name::temporary(META), file_name::temporary(file_name::TOPICS)];
    if entries.iter().all(|entry| begun.contains(&entry.name)) || entries.iter().any(|entry| known(&entry.name)) {
        return Ok(true);
    }
    for found in partition_dirs(storage, dir)? {
        let path = dir.join(file_name::partition_dir(&found.topic, found.id));
        let names = storage.list(&path).map_err(|e| Error::io(e, &path))?;
        let is_segment = |name: &str| {
            matches!(
                file_name::parse(name),
                Some(ParsedName::Segment { kind: SegmentFileKind::Log, suffix: Suffix::None, .. })
            )
        };
        if names.iter().any(|entry| is_segment(&entry.name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn load_meta(storage: &dyn Storage, dir: &Path) -> Result<Option<Meta>> {
    let path = dir.join(META);
    let Some(bytes) = small_file::read(storage, &path, 1 << 16)? else { return Ok(None) };
    Meta::decode(&bytes).map(Some).map_err(|why| Error::bad_file(&path, &why))
}

pub(super) fn content(storage: &dyn Storage, path: &Path) -> Result<Content> {
    let mut ours = false;
    let mut bytes = 0;
    let mut logs = 0;
    let mut foreign = false;
    for entry in storage.list(path).map_err(|e| Error::io(e, path))? {
        match file_name::parse(&entry.name).filter(|_| entry.kind == FileKind::File) {
            None => foreign = true,
            Some(ParsedName::State | ParsedName::StateTemp) => ours = true,
            Some(ParsedName::Segment { kind: SegmentFileKind::Log, .. }) => {
                let file = path.join(&entry.name);
                bytes += storage.info(&file).map_err(|e| Error::io(e, &file))?.len;
                logs += 1;
            }
            _ => {}
        }
    }
    Ok(match (logs, foreign) {
        (0, true) => Content::Foreign,
        _ if bytes == 0 && (ours || logs == 0) && !foreign => Content::Unfinished,
        _ => Content::Partition,
    })
}

/// Returns the id of a partition's topic, if its directory holds one.
pub(crate) fn topic_id(storage: &dyn Storage, path: &Path) -> Option<TopicId> {
    let bytes = small_file::read(storage, &path.join(file_name::PARTITION_METADATA), 1 << 16).ok()??;
    partition_metadata::parse(&bytes).ok()
}

pub(super) fn partition_dirs(storage: &dyn Storage, dir: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in storage.list(dir).map_err(|e| Error::io(e, dir))? {
        if entry.kind == FileKind::Directory
            && let Some(ParsedDir::Partition { topic, partition }) = file_name::parse_dir(&entry.name)
        {
            found.push(Found { topic: topic.to_owned(), id: partition });
        }
    }
    found.sort_by(|a, b| (&a.topic, a.id).cmp(&(&b.topic, b.id)));
    Ok(found)
}

pub(super) fn remove_dir(storage: &dyn Storage, path: &Path) -> Result<()> {
    let entries = match storage.list(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|e| Error::io(e, path))?,
    };
    // The log files first, durably: a crash must not leave a log file without its `state`, because it would look like
    // another program's. The sync runs even if no log file is left: a killed process may have removed them without a
    // sync.
    let (logs, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| is_log_file(&entry.name));
    for entry in &logs {
        small_file::remove(storage, &path.join(&entry.name))?;
    }
    storage.sync_dir(path).map_err(|e| Error::io(e, path))?;
    for entry in &others {
        small_file::remove(storage, &path.join(&entry.name))?;
    }
    storage.remove_dir(path).map_err(|e| Error::io(e, path))
}

pub(super) fn is_log_file(name: &str) -> bool {
    matches!(file_name::parse(name), Some(ParsedName::Segment { kind: SegmentFileKind::Log, .. }))
}
