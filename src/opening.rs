//! Opening a log directory: what it is, its catalog, its partitions in parallel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use crate::catalog::{Catalog, TopicEntry};
use crate::config::{LogConfig, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, LOCK, META, ParsedDir, ParsedName, SegmentFileKind, Suffix};
use crate::format::{KeyHasher, Meta, TopicId, partition_metadata};
use crate::kafka_dir;
use crate::log::RecoveryReport;
use crate::offset::Offset;
use crate::recovery::{self, KafkaCheckpoints, PartitionReport, Request};
use crate::shared::{Budgets, Shared};
use crate::state::StateStore;
use crate::storage::{FileKind, OpenMode, Storage, files};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, PoisonError, thread};
use crate::whose::{Last, Shutdown, Signs};

/// Threads for each processor: after a kill they wait for the disk most of the time.
const OPENERS: usize = 4;

/// What opening a directory gives.
pub(crate) struct Opened {
    pub(crate) catalog: Catalog,
    pub(crate) partitions: Vec<Arc<Shared>>,
    pub(crate) report: RecoveryReport,
}

/// A partition's directory, and the topic it belongs to.
#[derive(Clone, Debug)]
struct Found {
    topic: String,
    id: u32,
}

/// Makes the directory when it is absent, and refuses one that has something else in it, untouched.
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

/// Opens everything in a directory. Only here is decided whose it was.
pub(crate) fn open_all(dir: &Path, config: &LogConfig, budgets: &Arc<Budgets>, read_only: bool) -> Result<Opened> {
    let storage = &*budgets.storage;
    if read_only && !is_log(storage, dir)? {
        return Err(Error::from(ErrorKind::NotALog).at_path(dir));
    }
    let meta = load_meta(storage, dir)?;
    let signs = Signs::load(storage, dir)?;
    let mut catalog = Catalog::load(storage, dir)?.unwrap_or_default();
    let mut found = partition_dirs(storage, dir)?;
    let foreign = meta.is_none() && !found.is_empty();
    // These go before anything is opened, and their topics leave the catalog.
    found.retain(|found| !catalog.topics.get(&found.topic).is_some_and(|entry| entry.has_deleted(found.id)));
    let names: Vec<(&str, u32)> = found.iter().map(|found| (found.topic.as_str(), found.id)).collect();
    let last = if foreign { Last::Ours } else { kafka_dir::last(storage, dir, &signs, &catalog, &names)? };
    let adopt = foreign || last != Last::Ours || catalog.taking_over;
    // A taking over that was begun counts as before, unless Kafka came in between.
    let begun_clean = catalog.taking_over_clean && last == Last::Ours;
    let clean = signs.shutdown != Shutdown::Unclean || begun_clean;
    if !read_only {
        let meta = prepare(dir, storage, &mut catalog, meta, (adopt, clean), &signs)?;
        let hasher = budgets.hasher.set(KeyHasher::new(&meta.hash_secret));
        assert!(hasher.is_ok(), "a log is opened once");
    }
    let removed = match adopt && !foreign {
        true => kafka_dir::follow(storage, dir, &signs, &mut catalog, &names)?,
        false => Vec::new(),
    };
    let found = settle_catalog(storage, dir, config, &mut catalog, found, read_only)?;
    let configs = catalog.topics.iter().map(|(topic, entry)| (topic.as_str(), Arc::new(entry.config.clone())));
    let configs: BTreeMap<&str, Arc<TopicConfig>> = configs.collect();
    let requests = found.iter().map(|found| {
        let entry = &catalog.topics[&found.topic];
        let topic_config = &configs[found.topic.as_str()];
        // Where the taking over stopped at damage it is begun anew, for this partition alone.
        let unfinished = entry.taking_over.get(&found.id).copied().filter(|_| !adopt);
        let clean = unfinished.unwrap_or(clean);
        let adopt = adopt || unfinished.is_some();
        let kafka = KafkaCheckpoints { clean, ..kafka_dir::checkpoints_of(&signs, &found.topic, found.id) };
        Request { adopt, kafka, read_only, ..request(config, budgets, dir, &found.topic, found.id, topic_config) }
    });
    let requests: Vec<Request> = requests.collect();
    let adopted: Vec<(String, u32, bool)> =
        requests.iter().filter(|r| r.adopt).map(|r| (r.topic.to_string(), r.id, r.kafka.clean)).collect();
    let (partitions, mut report) = open_partitions(requests, config)?;
    note_unfinished(&mut catalog, adopted, &report);
    note_missing(&catalog, &found, &mut report);
    (report.taken_over, report.removed) = (adopt, removed);
    if !read_only {
        (catalog.taking_over, catalog.taking_over_clean) = (false, false);
        if Catalog::load(storage, dir)?.as_ref() != Some(&catalog) {
            catalog.store(storage, dir)?;
        }
    }
    Ok(Opened { catalog, partitions, report })
}

/// How a partition is opened that is known to be ours.
pub(crate) fn request(
    config: &LogConfig,
    budgets: &Arc<Budgets>,
    dir: &Path,
    topic: &str,
    id: u32,
    topic_config: &Arc<TopicConfig>,
) -> Request {
    let path = dir.join(file_name::partition_dir(topic, id));
    Request {
        topic: topic.into(),
        id,
        place: budgets.place(path),
        budgets: Arc::clone(budgets),
        config: Arc::clone(topic_config),
        mode: config.recovery,
        allow_gaps: config.allow_gaps,
        adopt: false,
        kafka: KafkaCheckpoints::default(),
        read_only: false,
        now: config.clock.now(),
    }
}

/// Makes the directory of a partition with its first segment and its `state`. The catalog decides whether it counts.
pub(crate) fn make_partition(
    budgets: &Arc<Budgets>,
    dir: &Path,
    topic: &str,
    id: u32,
    topic_id: TopicId,
) -> Result<()> {
    let storage = &budgets.storage;
    let path = dir.join(file_name::partition_dir(topic, id));
    match storage.create_dir(&path) {
        // Left over from a creation that failed: nothing was ever acknowledged in it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if content(&**storage, &path)? != Content::Unfinished {
                return Err(Error::from(ErrorKind::AlreadyExists).at_path(&path));
            }
            remove_dir(&**storage, &path)?;
            storage.create_dir(&path).map_err(|e| Error::io(e, &path))?;
        }
        made => made.map_err(|e| Error::io(e, &path))?,
    }
    let place = budgets.place(path);
    let metadata = partition_metadata::write(topic_id);
    files::write_new(&**storage, &place.path(file_name::PARTITION_METADATA), metadata.as_bytes())?;
    // `state` first: a directory with a log and no `state` would be taken for one that was put there by somebody else.
    StateStore::load(&place)?.1.update(|_| ())?;
    let log = place.segment_path(Offset::ZERO, SegmentFileKind::Log, Suffix::None);
    storage.open(&log, OpenMode::CreateNew).map_err(|e| Error::io(e, &log))?;
    place.sync_dir()
}

/// Removes the directories of deleted topics and partitions, and then these from the catalog. The caller stores that.
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

/// A random id for a topic.
pub(crate) fn new_topic_id(storage: &dyn Storage) -> Result<TopicId> {
    Ok(TopicId::new(u128::from_be_bytes(random(storage)?)))
}

fn random<const N: usize>(storage: &dyn Storage) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    storage.fill_random(&mut bytes).map_err(|e| Error::from(ErrorKind::Io(e.kind())))?;
    Ok(bytes)
}

fn create_dirs(storage: &dyn Storage, dir: &Path) -> Result<()> {
    let parent = parent(dir);
    if let Some(parent) = parent
        && storage.info(parent).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    {
        create_dirs(storage, parent)?;
    }
    storage.create_dir(dir).map_err(|e| Error::io(e, dir))?;
    parent.map_or(Ok(()), |parent| storage.sync_dir(parent).map_err(|e| Error::io(e, parent)))
}

/// Makes the names of a directory and of those above it durable: whoever made them may have been killed before the
/// sync. Those that may not be read were not made by us.
fn settle_dirs(storage: &dyn Storage, dir: &Path) -> Result<()> {
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

/// The directory above; of a bare name it is the current one.
fn parent(dir: &Path) -> Option<&Path> {
    let parent = dir.parent()?;
    let bare = parent.as_os_str().is_empty();
    if bare { (dir != Path::new(".")).then(|| Path::new(".")) } else { Some(parent) }
}

/// Whether a directory is a log, ours or Kafka's, or empty.
fn is_log(storage: &dyn Storage, dir: &Path) -> Result<bool> {
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
    // What the first open leaves when it is interrupted.
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

fn load_meta(storage: &dyn Storage, dir: &Path) -> Result<Option<Meta>> {
    let path = dir.join(META);
    let Some(bytes) = files::read(storage, &path, 1 << 16)? else { return Ok(None) };
    Meta::decode(&bytes).map(Some).map_err(|why| Error::bad_file(&path, &why))
}

/// The first writes: from here on the directory is ours, and a crash is one.
fn prepare(
    dir: &Path,
    storage: &dyn Storage,
    catalog: &mut Catalog,
    meta: Option<Meta>,
    adopt: (bool, bool),
    signs: &Signs,
) -> Result<Meta> {
    // Should a crash interrupt the taking over, the next open does it again.
    (catalog.taking_over, catalog.taking_over_clean) = adopt;
    if catalog.taking_over {
        catalog.store(storage, dir)?;
    }
    let known = meta.is_some();
    let meta = match meta {
        Some(meta) => meta,
        None => Meta { log_id: random(storage)?, hash_secret: random(storage)? },
    };
    if !known {
        files::replace(storage, dir, &dir.join(META), &dir.join(file_name::temporary(META)), &meta.encode())?;
    }
    kafka_dir::begin(storage, dir, signs)?;
    // The marker is gone for good; and what the catalog says is durable before anything is removed on its word.
    storage.sync_dir(dir).map_err(|e| Error::io(e, dir))?;
    remove_deleted(storage, dir, catalog)?;
    Ok(meta)
}

/// Sweeps leftovers away, and takes directories that the catalog does not know into it.
fn settle_catalog(
    storage: &dyn Storage,
    dir: &Path,
    config: &LogConfig,
    catalog: &mut Catalog,
    found: Vec<Found>,
    read_only: bool,
) -> Result<Vec<Found>> {
    let mut settled = Vec::new();
    for found in found {
        let known = catalog.topics.get(&found.topic).is_some_and(|entry| entry.partitions.contains(&found.id));
        if !known {
            let path = dir.join(file_name::partition_dir(&found.topic, found.id));
            match content(storage, &path)? {
                Content::Foreign => continue,
                Content::Unfinished => {
                    if !read_only {
                        remove_dir(storage, &path)?;
                    }
                    continue;
                }
                Content::Partition => {}
            }
            let id = match topic_id(storage, &path) {
                Some(id) => id,
                None => new_topic_id(storage)?,
            };
            let adopted = || TopicEntry { adopted: true, ..TopicEntry::new(id, config.topic_defaults.clone()) };
            let entry = catalog.topics.entry(found.topic.clone()).or_insert_with(adopted);
            entry.partitions.insert(found.id);
        }
        settled.push(found);
    }
    Ok(settled)
}

/// What a directory holds that is named like a partition, but that the catalog does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    /// A partition.
    Partition,
    /// What a creation leaves that was not committed: ours, and without a record. It may go.
    Unfinished,
    /// Something else, which is none of our business.
    Foreign,
}

fn content(storage: &dyn Storage, path: &Path) -> Result<Content> {
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

/// The id of a partition's topic, where its directory tells.
pub(crate) fn topic_id(storage: &dyn Storage, path: &Path) -> Option<TopicId> {
    let bytes = files::read(storage, &path.join(file_name::PARTITION_METADATA), 1 << 16).ok()??;
    partition_metadata::parse(&bytes).ok()
}

fn partition_dirs(storage: &dyn Storage, dir: &Path) -> Result<Vec<Found>> {
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

fn remove_dir(storage: &dyn Storage, path: &Path) -> Result<()> {
    let entries = match storage.list(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|e| Error::io(e, path))?,
    };
    // The logs first, durably: a crash must not leave one whose `state` is gone, or it would be taken for somebody
    // else's. Where none is left, a process may have been killed before it had made that durable.
    let (logs, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| is_log_file(&entry.name));
    for entry in &logs {
        files::remove(storage, &path.join(&entry.name))?;
    }
    storage.sync_dir(path).map_err(|e| Error::io(e, path))?;
    for entry in &others {
        files::remove(storage, &path.join(&entry.name))?;
    }
    storage.remove_dir(path).map_err(|e| Error::io(e, path))
}

fn is_log_file(name: &str) -> bool {
    matches!(file_name::parse(name), Some(ParsedName::Segment { kind: SegmentFileKind::Log, .. }))
}

type OpenResult = Result<(Arc<Shared>, PartitionReport)>;

/// Opens partitions on several threads.
fn open_partitions(requests: Vec<Request>, config: &LogConfig) -> Result<(Vec<Arc<Shared>>, RecoveryReport)> {
    let several = || match requests.len() {
        0 | 1 => 1,
        _ => std::thread::available_parallelism().map_or(1, |processors| OPENERS * usize::from(processors)),
    };
    let threads = config.open_threads.unwrap_or_else(several);
    let names: Vec<(String, u32)> = requests.iter().map(|request| (request.topic.to_string(), request.id)).collect();
    let requests: Vec<Mutex<Option<Request>>> = requests.into_iter().map(|request| Mutex::new(Some(request))).collect();
    let results: Vec<Mutex<Option<OpenResult>>> = requests.iter().map(|_| Mutex::new(None)).collect();
    // Each number goes to one thread; requests and results have locks.
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(request), Some(result)) = (requests.get(at), results.get(at)) else { return };
            let request = request.lock().unwrap_or_else(PoisonError::into_inner).take();
            *result.lock().unwrap_or_else(PoisonError::into_inner) = request.map(recovery::open);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(requests.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut partitions = Vec::new();
    let mut report = RecoveryReport { partitions: Vec::with_capacity(results.len()), ..RecoveryReport::default() };
    for (result, (topic, id)) in results.into_iter().zip(names) {
        match result.into_inner().unwrap_or_else(PoisonError::into_inner).expect("each partition was opened") {
            Ok((shared, opened)) => {
                partitions.push(shared);
                report.partitions.push(opened);
            }
            Err(error) => report.failed.push((topic, id, error)),
        }
    }
    Ok((partitions, report))
}

/// Takes down which partitions are taken over now, and which are not because of damage.
fn note_unfinished(catalog: &mut Catalog, adopted: Vec<(String, u32, bool)>, report: &RecoveryReport) {
    let sound = |p: &&PartitionReport| p.error.is_none();
    let opened: BTreeSet<(&str, u32)> =
        report.partitions.iter().filter(sound).map(|p| (p.topic.as_str(), p.partition)).collect();
    for (topic, id, clean) in adopted {
        let Some(entry) = catalog.topics.get_mut(&topic) else { continue };
        if opened.contains(&(topic.as_str(), id)) {
            entry.taking_over.remove(&id);
        } else {
            entry.taking_over.insert(id, clean);
        }
    }
}

/// Partitions that the catalog knows, but that have no directory.
fn note_missing(catalog: &Catalog, found: &[Found], report: &mut RecoveryReport) {
    let found: BTreeSet<(&str, u32)> = found.iter().map(|found| (found.topic.as_str(), found.id)).collect();
    for (name, entry) in catalog.topics.iter().filter(|(_, entry)| !entry.deleted) {
        for id in entry.partitions.iter().filter(|id| !found.contains(&(name.as_str(), **id))) {
            report.failed.push((name.clone(), *id, ErrorKind::NotFound.into()));
        }
    }
}
